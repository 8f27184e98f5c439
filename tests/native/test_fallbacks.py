"""Where native code cannot be had XLA computes the same, and says nothing."""

import logging
import subprocess
import sys

import jax
import jax.numpy as jnp
import pytest
from jax import export, lax
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import jax_cce
from cases.agreement import assert_agree
from cases.natively import is_native
from jax_cce import registry
from jax_cce.execution import calling
from jax_cce.native import compiling
from jax_cce.native.compiling import Machine

X = jnp.array([0.3, 0.9, 0.6, 0.45])
POINTS = X + jnp.arange(16.0)[:, None] / 99


def fun(x):
    return jnp.sin(x) * x[::-1] + jnp.exp(-x[0])


@jax.custom_vjp
def own_rule(x):
    return x * x


own_rule.defvjp(lambda x: (x * x, x), lambda x, cotangent: (3 * x * cotangent,))


UNSUPPORTED = {
    "a large solve": lambda x: jnp.linalg.solve(
        jnp.diag(jnp.tile(x, 3)) + jnp.eye(12), jnp.ones(12)
    ),
    "integers that may be large": lambda x: jnp.sum(x > 0.4) * 2_000_000 * x,
    "a custom rule": lambda x: own_rule(jnp.sin(x)),
    "a loop that counts": lambda x: (
        x * lax.fori_loop(0, 200, lambda _, c: (c[0] + (c[1][0] > 0), c[1] * x), (0, x))[0]
    ),
    "a large sort": lambda x: jnp.sort(jnp.tile(x, 9)),
    "a function without code": lambda x: jax.scipy.special.i0e(x) * x,
    "complex numbers": lambda x: jnp.real(jnp.fft.fft(x)),
    "two types": lambda x: jnp.sin(x.astype(jnp.float32)) * 2,
    "an accuracy": lambda x: lax.logistic(x, accuracy=lax.AccuracyMode.HIGHEST),
    "a checkpoint": jax.checkpoint(lambda x: jnp.sin(jnp.sin(x)), prevent_cse=True),
    "many operations": lambda x: jnp.sum(jnp.sin(jnp.outer(jnp.arange(3000.0), x)), 0),
}


@pytest.mark.parametrize("name", UNSUPPORTED)
def test_what_is_not_scalar(name, caplog):
    f = UNSUPPORTED[name]
    assert not is_native(jax_cce.jacobian(f), X)
    assert_agree(jax.jit(jax_cce.jacobian(f))(X), jax.jit(jax.jacrev(f))(X))
    assert_agree(jax.jit(jax.vmap(jax_cce.jacobian(f)))(POINTS), jax.vmap(jax.jacrev(f))(POINTS))
    assert not caplog.text


def test_the_environment_switches_it_off(monkeypatch):
    assert is_native(jax_cce.jacobian(fun), X)
    for value in ("off", "0", "False"):
        monkeypatch.setenv(compiling.VARIABLE, value)
        assert not is_native(jax_cce.jacobian(fun), X)
        assert_agree(jax_cce.jacobian(fun)(X), jax.jit(jax.jacrev(fun))(X))


@pytest.mark.parametrize("order", ["forward", "reverse", "markowitz"])
def test_an_order_that_is_asked_for_is_planned(order):
    assert not is_native(jax_cce.jacobian(fun, order=order), X)


def test_a_machine_without_the_compiler(monkeypatch):
    monkeypatch.setattr(compiling, "_machine", lambda: Machine(obstacle="none"))
    assert not is_native(jax_cce.jacobian(fun), X)
    assert_agree(jax.vmap(jax_cce.jacobian(fun))(POINTS), jax.vmap(jax.jacrev(fun))(POINTS))


def test_a_machine_without_vectors_of_functions(monkeypatch):
    monkeypatch.setattr(compiling, "_machine", Machine)
    assert is_native(jax_cce.jacobian(fun), X)
    assert not is_native(jax.vmap(jax_cce.jacobian(fun)), POINTS)
    assert_agree(jax.vmap(jax_cce.jacobian(fun))(POINTS), jax.vmap(jax.jacrev(fun))(POINTS))


def test_a_process_that_holds_many_kernels(monkeypatch):
    monkeypatch.setattr(compiling, "_MOST_KERNELS", 0)

    def new(x):
        return jnp.sin(x) * 3.25 + x[0]

    assert not is_native(jax_cce.jacobian(new), X)
    assert "holds 0 kernels" in jax_cce.explain(new)(X).backend_reason
    assert_agree(jax_cce.jacobian(new)(X), jax.jit(jax.jacrev(new))(X))


def test_a_library_without_a_function(monkeypatch):
    monkeypatch.setattr("jax_cce.native.kernels.has_function", lambda name: "exp" not in name)
    assert not is_native(jax_cce.jacobian(fun), X)
    assert is_native(jax_cce.jacobian(jnp.sin), X)


def test_sharded_batches_are_left_to_the_compiler():
    mesh = jax.make_mesh((4,), ("data",), axis_types=(AxisType.Auto,))
    points = jax.device_put(POINTS, NamedSharding(mesh, P("data")))
    mapped = jax.jit(jax.vmap(jax_cce.jacobian(fun)))
    assert not is_native(jax.vmap(jax_cce.jacobian(fun)), points)
    result = mapped(points)
    assert_agree(jax.device_put(result, jax.devices()[0]), jax.vmap(jax.jacrev(fun))(POINTS))


def test_exported_programs_have_plain_operations():
    exported = export.export(jax.jit(jax.vmap(jax_cce.jacobian(fun))))(POINTS)
    assert "jax_cce_" not in exported.mlir_module()
    again = export.deserialize(exported.serialize())
    assert_agree(again.call(POINTS), jax.vmap(jax.jacrev(fun))(POINTS))


def test_other_platforms_have_plain_operations():
    traced = jax.jit(jax_cce.jacobian(fun)).trace(X)
    assert "jax_cce_" in traced.lower(lowering_platforms=("cpu",)).as_text()
    assert "jax_cce_" not in traced.lower(lowering_platforms=("cuda",)).as_text()


def test_a_fault_of_ours_is_reported_and_makes_no_difference(monkeypatch, caplog):
    def broken(*args, **kwargs):
        raise AssertionError("of ours")

    monkeypatch.setattr(calling, "kernel_of", broken)
    assert_agree(jax_cce.jacobian(fun)(X), jax.jit(jax.jacrev(fun))(X))
    assert "no native code" in caplog.text


def test_a_measured_order_decides(monkeypatch, tmp_path):
    monkeypatch.setenv("JAX_CCE_REGISTRY", str(tmp_path))
    found = jax_cce.optimize(fun, cost="runtime", budget=1.0, strategy="reverse")(X)
    assert "native" in found.times
    assert is_native(jax_cce.jacobian(fun), X) == (found.entry.method == "native")
    assert_agree(jax_cce.jacobian(fun)(X), jax.jit(jax.jacrev(fun))(X))


@pytest.mark.parametrize("winner", ["native", "reverse"])
def test_tuning_times_it_too(monkeypatch, tmp_path, winner):
    monkeypatch.setenv("JAX_CCE_REGISTRY", str(tmp_path))

    def race(calls):
        return {name: 1.0 if name == winner else 2.0 for name in calls}

    monkeypatch.setattr("jax_cce.execution.measuring.race", race)
    tuned = jax_cce.jacobian(fun, order="tuned")
    for jacobian, x in ((tuned, X), (jax.vmap(tuned), POINTS)):
        theirs = jax.jacrev(fun) if x is X else jax.vmap(jax.jacrev(fun))
        assert_agree(jacobian(x), theirs(x))
        assert is_native(jacobian, x) == (winner == "native")
    methods = {entry.method for entry in registry.entries(cost="runtime")}
    assert methods == {"native" if winner == "native" else "elimination"}


def test_what_is_chosen_is_logged(caplog):
    with caplog.at_level(logging.INFO, "jax_cce"):
        jax_cce.jacobian(fun)(X)
        jax_cce.jacobian(jax.scipy.special.i0e)(X)
    assert "native: Kernel(name='jax_cce_" in caplog.text
    assert "native: bessel_i0e is no scalar operation" in caplog.text


_NAME = """
import re, jax, jax.numpy as jnp, jax_cce
fun = lambda x: jnp.sin(x) * x[::-1]
text = jax.jit(jax_cce.jacobian(fun)).lower(jnp.ones(3)).as_text()
print(re.search("jax_cce_[0-9a-f]+", text)[0])
"""


def test_names_are_the_same_in_every_process():
    names = {
        subprocess.run(
            [sys.executable, "-c", _NAME], check=True, capture_output=True, text=True
        ).stdout
        for _ in range(2)
    }
    assert len(names) == 1


# What is mostly products by matrices that do not vary is left to XLA, unless it is asked for.
WEIGHTS = jnp.sin(jnp.arange(400.0)).reshape(20, 20)


def network(x):
    return WEIGHTS @ jnp.tanh(WEIGHTS @ jnp.tanh(WEIGHTS @ jnp.tile(x, 5)))


@pytest.mark.parametrize("transform", [jax_cce.jacobian, jax_cce.value_and_jacobian])
def test_a_backend_that_is_asked_for(transform):
    found = {}
    for backend, function, expected in (
        ("auto", fun, True),
        ("xla", fun, False),
        ("native", fun, True),
        ("auto", network, False),
        ("native", network, True),
    ):
        ours = transform(function, backend=backend)
        assert is_native(ours, X) == expected, (backend, function)
        found[function, backend] = jax.jit(ours)(X)
    for function in (fun, network):
        assert_agree(found[function, "auto"], found[function, "native"])
    assert_agree(
        jax_cce.hessian(lambda x: fun(x)[0], backend="xla")(X), jax.jit(jax.hessian(fun))(X)[0]
    )


def test_backends_that_there_are_not():
    with pytest.raises(ValueError, match="backend must be one of"):
        jax_cce.jacobian(fun, backend="gpu")
    with pytest.raises(ValueError, match="searches for no order"):
        jax_cce.jacobian(fun, backend="native", search="annealing")


def test_what_explain_says_of_the_backend():
    native = jax_cce.explain(fun)(X)
    assert native.backend == "native"
    assert "native code, as much as" in str(native)
    for reason, function, how in (
        ("XLA is asked for", fun, {"backend": "xla"}),
        ("its format is structured", fun, {"format": "structured"}),
        ("depends on data", lambda x: jnp.sort(x) * x, {"format": "bcoo"}),
        ("an order is asked for", fun, {"order": "reverse"}),
        ("slower than matrix products", network, {}),
        ("fft is no scalar operation", UNSUPPORTED["complex numbers"], {}),
        ("more than to return values", lambda x: (jax.debug.print("{}", x), fun(x))[1], {}),
    ):
        explained = jax_cce.explain(function, **how)(X)
        assert explained.backend == "xla"
        assert reason in explained.to_dict()["backend_reason"]


def square(x):
    return jnp.sum(x * x)


LOOPS = {
    "scan": lambda f, x: lax.scan(lambda x, _: (x - 0.1 * f(x), None), x, None, 5)[0],
    "while": lambda f, x: lax.while_loop(lambda x: x[0] > 0.1, lambda x: x - 0.1 * f(x), x),
    "nested": lambda f, x: lax.fori_loop(
        0, 2, lambda _, x: lax.cond(x[0] > 0, lambda x: LOOPS["scan"](f, x), lambda x: x, x), x
    ),
    "map": lambda f, x: lax.map(f, jnp.stack([x, -x])),
}


@pytest.mark.parametrize("name", LOOPS)
def test_steps_of_loops_that_take_less_than_a_call(name):
    loop, small = LOOPS[name], jax_cce.jacobian(square)
    assert is_native(small, X)
    assert not is_native(lambda x: loop(small, x), X)
    assert_agree(loop(small, X), loop(jax.grad(square), X))


def test_steps_of_loops_that_take_more_than_a_call():
    def large(x):
        return fun(fun(fun(x)))

    def descent(der):
        return lambda x: LOOPS["scan"](lambda x: der(large)(x).sum(0), x)

    assert is_native(descent(jax_cce.jacobian), X)
    assert_agree(descent(jax_cce.jacobian)(X), descent(jax.jacrev)(X))


def test_a_small_step_is_native_where_that_is_asked_for():
    asked = jax_cce.jacobian(square, backend="native")
    assert is_native(lambda x: LOOPS["scan"](asked, x), X)
    many = jax.vmap(jax_cce.jacobian(square))
    assert is_native(lambda x: LOOPS["scan"](many, x), POINTS)
