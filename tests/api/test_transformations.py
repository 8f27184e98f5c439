"""jax_cce.jacobian composes with JAX's other transformations as jax.jacrev does."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export, lax
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import jax_cce
from cases.agreement import assert_agree
from cases.references import jitted_jacrev

Function = Callable[..., Any]
Jacobian = Callable[..., Function]

X = jnp.array([0.3, -1.2, 2.1])
BATCH = jnp.linspace(-1.5, 1.5, 24).reshape(8, 3)
A = jnp.linspace(-1.0, 2.0, 12).reshape(4, 3)


def layers(x):
    return jnp.tanh(A.T @ jnp.tanh(A @ x)) / (1 + x[0] ** 2)


def tree(x):
    return {"norm": jnp.sqrt(1 + x @ x), "parts": [x[1:] * x[:-1], jnp.outer(x, jnp.cos(x))]}


def scan(x):
    return lax.scan(lambda c, a: (jnp.sin(c * a) + x, c @ a), x, A)


def cond(x):
    return lax.cond(jnp.sum(x) > 0, lambda y: y * x, lambda y: jnp.exp(y) - x, jnp.sin(x))


def custom_vjp(x):
    @jax.custom_vjp
    def square(y):
        return y * y

    square.defvjp(lambda y: (y * y, y), lambda y, cotangent: (2 * cotangent * y,))
    return square(jnp.sin(x)) * x


def operator_edges(x):
    return jnp.cumsum(jnp.linalg.solve(A.T @ A + jnp.diag(x**2) + jnp.eye(3), x))


FUNCTIONS = [layers, tree, scan, cond, custom_vjp, operator_edges]
functions = pytest.mark.parametrize("f", FUNCTIONS, ids=lambda f: f.__name__)


def _total(tree: Any) -> jax.Array:
    """A scalar to which every entry of a result contributes differently."""
    leaves = jax.tree.leaves(tree)
    return sum(
        jnp.sum(jnp.sin(leaf) * (1 + jnp.arange(leaf.size).reshape(leaf.shape))) for leaf in leaves
    )


def _in_scan(jacobian: Jacobian, f: Function, x: jax.Array) -> Any:
    def body(x, _):
        jac = jacobian(f)(x)
        return x + 0.1 * _total(jac), jac

    return lax.scan(body, x, None, 3)


def _in_while(jacobian: Jacobian, f: Function, x: jax.Array) -> Any:
    def body(state):
        i, x = state
        return i + 1, x + 0.1 * jnp.cos(_total(jacobian(f)(x)))

    return lax.while_loop(lambda state: state[0] < 3, body, (0, x))


def _in_custom_jvp(jacobian: Jacobian, f: Function, x: jax.Array) -> Any:
    @jax.custom_jvp
    def total(x):
        return _total(f(x))

    @total.defjvp
    def _(primals, tangents):
        return total(*primals), jnp.vdot(jacobian(lambda x: _total(f(x)))(*primals), *tangents)

    return jax.grad(total)(x)


def _newton_step(jacobian: Jacobian, f: Function, x: jax.Array) -> Any:
    def step(x):
        jac = jacobian(lambda y: jnp.sin(y) * y + _total(f(y)))(x)
        return x - jnp.linalg.solve(jac + 4 * jnp.eye(3), x)

    return jax.jacfwd(step)(x)


# How a Jacobian is used: from a transformation, a function and a point to a result to compare.
# `BATCH + x` is a batch that depends on the point.
USES: dict[str, Callable[[Jacobian, Function, jax.Array], Any]] = {
    "call": lambda j, f, x: j(f)(x),
    "jit": lambda j, f, x: jax.jit(j(f))(x),
    "jit of the function": lambda j, f, x: j(jax.jit(f))(x),
    "vmap outside": lambda j, f, x: jax.vmap(j(f))(BATCH + x),
    "vmap outside, other axes": lambda j, f, x: jax.vmap(j(f), 1, -1)((BATCH + x).T),
    "vmap inside": lambda j, f, x: j(jax.vmap(f))(BATCH[:2] + x),
    "vmap on both sides": lambda j, f, x: jax.vmap(j(jax.vmap(f)))((BATCH + x).reshape(4, 2, 3)),
    "lax.map": lambda j, f, x: lax.map(j(f), BATCH + x),
    "lax.map in batches": lambda j, f, x: lax.map(j(f), BATCH + x, batch_size=3),
    "grad": lambda j, f, x: jax.grad(lambda x: _total(j(f)(x)))(x),
    "vmap of grad": lambda j, f, x: jax.vmap(jax.grad(lambda x: _total(j(f)(x))))(BATCH + x),
    "jacfwd": lambda j, f, x: jax.jacfwd(j(f))(x),
    "jacrev": lambda j, f, x: jax.jacrev(j(f))(x),
    "jvp": lambda j, f, x: jax.jvp(j(f), (x,), (x[::-1],)),
    "linearize": lambda j, f, x: jax.linearize(j(f), x)[1](x[::-1]),
    "Jacobian of a Jacobian": lambda j, f, x: j(j(f))(x),
    "Jacobian of a grad": lambda j, f, x: j(jax.grad(lambda x: _total(f(x))))(x),
    "checkpoint outside": lambda j, f, x: jax.grad(jax.checkpoint(lambda x: _total(j(f)(x))))(x),
    "checkpoint inside": lambda j, f, x: j(jax.checkpoint(f))(x),
    "inside scan": _in_scan,
    "inside while": _in_while,
    "inside cond": lambda j, f, x: lax.cond(x[0] > 0, j(f), jax.jacrev(f), x),
    "inside custom_jvp": _in_custom_jvp,
    "Newton step": _newton_step,
    "closed-over tracer": lambda j, f, x: jax.jit(lambda w: j(lambda y: f(y * w))(X))(x),
    "closed-over tracer, grad": lambda j, f, x: jax.grad(
        lambda w: _total(j(lambda y: f(y * w))(X))
    )(x),
    "closed-over tracer, vmap": lambda j, f, x: jax.vmap(lambda w: j(lambda y: f(y * w))(x))(BATCH),
    "closed-over tracer, Jacobian": lambda j, f, x: j(lambda w: j(lambda y: f(y * w))(X))(x),
}


@functools.cache
def _expected(use: str, f: Function) -> Any:
    return jax.jit(lambda x: USES[use](jax.jacrev, f, x))(X)


@functions
@pytest.mark.parametrize("use", USES)
def test_composes_under_jit(use, f):
    assert_agree(jax.jit(lambda x: USES[use](jax_cce.jacobian, f, x))(X), _expected(use, f))


@pytest.mark.parametrize("use", USES)
def test_composes_unjitted(use):
    assert_agree(USES[use](jax_cce.jacobian, layers, X), _expected(use, layers))


@pytest.mark.parametrize("f", [layers, tree, scan, operator_edges], ids=lambda f: f.__name__)
def test_jacobian_of_jacfwd(f):
    ours, theirs = (jax.jit(j(jax.jacfwd(f)))(X) for j in [jax_cce.jacobian, jax.jacrev])
    assert_agree(ours, theirs)


def test_three_jacobians():
    def use(j):
        return jax.jit(j(j(j(lambda x: jnp.sin(x) * x * x[::-1]))))(X)

    assert_agree(use(jax_cce.jacobian), use(jax.jacrev))


@functions
def test_ahead_of_time(f):
    compiled = jax.jit(jax_cce.jacobian(f)).lower(X).compile()
    assert_agree(compiled(X), _expected("call", f))


@functions
def test_disable_jit(f):
    with jax.disable_jit():
        ours = jax_cce.jacobian(f)(X)
    assert_agree(ours, _expected("call", f))


@functions
def test_eval_shape(f):
    def shapes(jacobian):
        result = jax.eval_shape(jacobian(f), jax.ShapeDtypeStruct(X.shape, X.dtype))
        return jax.tree.map(lambda s: (s.shape, s.dtype, s.weak_type), result)

    assert shapes(jax_cce.jacobian) == shapes(jax.jacrev)


@functions
def test_export(f):
    shape = jax.ShapeDtypeStruct(X.shape, X.dtype)
    exported = export.export(jax.jit(jax_cce.jacobian(f)))(shape)
    assert_agree(exported.call(X), _expected("call", f))


def test_export_of_any_batch_size():
    shape = jax.ShapeDtypeStruct(export.symbolic_shape("batch, 3"), X.dtype)
    exported = export.export(jax.jit(jax.vmap(jax_cce.jacobian(layers))))(shape)
    assert_agree(exported.call(BATCH + X), _expected("vmap outside", layers))


def test_export_to_bytes_and_back():
    pytest.importorskip("flatbuffers", reason="JAX writes exported programs with flatbuffers")
    shape = jax.ShapeDtypeStruct(X.shape, X.dtype)
    exported = export.export(jax.jit(jax_cce.jacobian(layers)))(shape)
    assert_agree(export.deserialize(exported.serialize()).call(X), _expected("call", layers))


@functions
def test_hessian(f):
    def total(x):
        return _total(f(x))

    assert_agree(jax.jit(jax_cce.hessian(total))(X), jax.jit(jax.hessian(total))(X))


def _gradients(jacobian, f):
    return jax.jit(jax.vmap(jax.grad(lambda x: _total(jacobian(f)(x)))))(BATCH[:2])


@functools.cache
def _expected_gradients(f):
    return _gradients(jax.jacrev, f)


@functions
@pytest.mark.parametrize("order", ["forward", "reverse", "markowitz"])
def test_named_orders_under_vmap_and_grad(f, order):
    ordered = functools.partial(jax_cce.jacobian, order=order)
    assert_agree(_gradients(ordered, f), _expected_gradients(f))


# Control flow inside the function, where it takes more forms than the functions above.
CONTROL_FLOW: dict[str, Function] = {
    "scan without xs": lambda x: lax.scan(lambda c, _: (jnp.sin(c) + x, None), x, None, 4)[0],
    "scan without carry": lambda x: lax.scan(lambda c, a: (c, jnp.sin(a * x)), None, A)[1],
    "scan over the input": lambda x: lax.scan(lambda c, a: (c * a, c + a), 1.0, x),
    "scan in reverse": lambda x: lax.scan(lambda c, a: (c * a, c + a), 1.0, x, reverse=True),
    "scan of length 0": lambda x: lax.scan(lambda c, a: (c * a, c), x, jnp.zeros((0, 3))),
    "scan of length 1": lambda x: lax.scan(lambda c, a: (c * a, c), x, A[:1]),
    "scan with an integer carry": lambda x: lax.scan(
        lambda c, a: ((c[0] + 1, c[1] * a + c[0]), None), (0, x), A
    )[0][1],
    "scan in scan": lambda x: lax.scan(
        lambda c, a: (lax.scan(lambda d, b: (jnp.sin(d * b), d), c, x)[0] + a, None), x, A
    )[0],
    "cond in scan": lambda x: lax.scan(
        lambda c, a: (lax.cond(c[0] > a[0], jnp.sin, jnp.cos, c * a), c), x, A
    ),
    "scan in cond": lambda x: lax.cond(x[0] > 0, scan, lambda y: scan(2 * y), x),
    "cond with closed-over values": lambda x: lax.cond(x[0] > 0, lambda: x**2, lambda: x),
    "cond under vmap": jax.vmap(lambda y: lax.cond(y > 0, jnp.sin, jnp.cos, y)),
    "switch": lambda x: lax.switch(jnp.argmax(x), [jnp.sin, jnp.cos, jnp.exp], x),
    "fori with static bounds": lambda x: lax.fori_loop(1, 4, lambda i, y: jnp.sin(y * i) + x, x),
    "associative_scan": lambda x: lax.associative_scan(jnp.multiply, jnp.sin(x)),
    "map": lambda x: lax.map(lambda a: jnp.tanh(a @ x), A),
    "remat in scan": lambda x: lax.scan(jax.checkpoint(lambda c, a: (jnp.sin(c * a), c)), x, A),
    "remat with a policy": jax.checkpoint(layers, policy=jax.checkpoint_policies.dots_saveable),
    "custom_root": lambda x: lax.custom_root(
        lambda y: y**3 + y - x,
        x,
        lambda g, y: lax.fori_loop(0, 30, lambda _, z: z - g(z) / (3 * z**2 + 1), y),
        lambda g, y: y / g(jnp.ones_like(y)),
    ),
}


@pytest.mark.parametrize("jit", [False, True], ids=["unjitted", "jit"])
@pytest.mark.parametrize("name", CONTROL_FLOW)
def test_control_flow(name, jit):
    f = CONTROL_FLOW[name]
    jacobian = jax_cce.jacobian(f)
    ours = jax.jit(jacobian)(X) if jit else jacobian(X)
    assert_agree(ours, jitted_jacrev(f)(X))


@functools.cache
def _forward_mode(f):
    return jax.jit(jax.jacfwd(f))(X), jax.jit(jax.vmap(jax.jacfwd(f)))(BATCH)


@pytest.mark.parametrize(
    "f",
    [
        lambda x: lax.while_loop(lambda y: jnp.sum(y**2) < 50, lambda y: 1.5 * y + x, x),
        lambda x: jnp.sin(lax.fori_loop(0, x.astype(int)[2], lambda i, y: y * x, x)),
        lambda x: lax.while_loop(
            lambda state: state[0] < 5, lambda state: (state[0] + 1, state[1] * x), (0, x)
        )[1],
    ],
    ids=["while", "fori with dynamic bounds", "while with a counter"],
)
@pytest.mark.parametrize("order", ["forward", "reverse", "auto"])
def test_dynamic_loops(f, order):
    # Reverse mode has no rule for these in JAX; here they are differentiated forward.
    jacobian = jax_cce.jacobian(f, order=order)
    at_point, at_batch = _forward_mode(f)
    assert_agree(jax.jit(jacobian)(X), at_point)
    assert_agree(jax.jit(jax.vmap(jacobian))(BATCH), at_batch)


def test_collectives_under_vmap():
    def f(x):
        return jnp.sin(x) * lax.psum(x, "batch") + lax.axis_index("batch")

    def use(jacobian):
        return jax.vmap(jacobian(f), axis_name="batch")(BATCH)

    assert_agree(use(jax_cce.jacobian), use(jax.jacrev))


@functions
def test_donated_input(f):
    jacobian = jax.jit(jax_cce.jacobian(f), donate_argnums=0)
    with_copy = jnp.array(X, copy=True)
    assert_agree(jacobian(with_copy), _expected("call", f))


def test_committed_input_decides_the_device():
    device = jax.devices()[3]
    result = jax_cce.jacobian(layers)(jax.device_put(X, device))
    assert result.devices() == {device}


def test_make_jaxpr_shows_plain_operations():
    # Whatever the Jacobian is emitted as, the rows of a seed matrix are no part of it: nothing
    # of size n x n is a constant of the program.
    closed = jax.make_jaxpr(jax_cce.jacobian(lambda x: jnp.sin(x) * x))(jnp.ones(1000))
    assert all(np.size(const) <= 1000 for const in closed.consts)


@functools.cache
def _of_the_batch(f):
    return jax.jit(jax.vmap(jax.jacrev(f)))(BATCH)


MESH_AXES = {"auto": AxisType.Auto, "explicit": AxisType.Explicit}


def _mesh(kind: str) -> jax.sharding.Mesh:
    return jax.make_mesh((8,), ("data",), axis_types=(MESH_AXES[kind],))


@functions
@pytest.mark.parametrize("kind", MESH_AXES)
def test_batch_sharded_over_devices(f, kind):
    mesh = _mesh(kind)
    sharding = NamedSharding(mesh, P("data"))
    with jax.set_mesh(mesh):
        result = jax.jit(jax.vmap(jax_cce.jacobian(f)))(jax.device_put(BATCH, sharding))
    for leaf in jax.tree.leaves(result):
        assert leaf.sharding.is_equivalent_to(sharding, leaf.ndim), leaf.sharding
    # Without the mesh, the same numbers.
    assert_agree(jax.device_put(result, jax.devices()[0]), _of_the_batch(f))


@pytest.mark.parametrize("jit", [False, True], ids=["unjitted", "jit"])
@pytest.mark.parametrize("kind", MESH_AXES)
def test_input_sharded_over_devices(kind, jit):
    def f(x):
        return jnp.sin(x) * x + 2.0

    x = jnp.linspace(0.0, 1.0, 16)
    mesh = _mesh(kind)
    with jax.set_mesh(mesh):
        sharded = jax.device_put(x, NamedSharding(mesh, P("data")))
        jacobian = jax_cce.jacobian(f)
        result = (jax.jit(jacobian) if jit else jacobian)(sharded)
    assert_agree(jax.device_put(result, jax.devices()[0]), jax.jacrev(f)(x))


@functions
def test_inside_shard_map(f):
    def use(jacobian):
        return jax.jit(
            jax.shard_map(
                jax.vmap(jacobian(f)), mesh=_mesh("auto"), in_specs=P("data"), out_specs=P("data")
            )
        )(BATCH)

    assert_agree(use(jax_cce.jacobian), use(jax.jacrev))


def test_collectives_inside_shard_map():
    def f(x):
        return jnp.sin(x) * lax.psum(jnp.cos(x), "data") + lax.pmean(x * x, "data")

    def use(jacobian):
        return jax.jit(
            jax.shard_map(
                lambda x: jacobian(f)(x[0])[None],
                mesh=_mesh("auto"),
                in_specs=P("data"),
                out_specs=P("data"),
            )
        )(BATCH)

    assert_agree(use(jax_cce.jacobian), use(jax.jacrev))


def test_replicated_parameters_inside_shard_map():
    def f(w, x):
        return jnp.tanh(w @ x)

    def use(jacobian):
        return jax.jit(
            jax.shard_map(
                jax.vmap(jacobian(f, argnums=(0, 1)), in_axes=(None, 0)),
                mesh=_mesh("auto"),
                in_specs=(P(), P("data")),
                out_specs=P("data"),
            )
        )(A, BATCH)

    assert_agree(use(jax_cce.jacobian), use(jax.jacrev))


@pytest.mark.parametrize("jit", [False, True], ids=["unjitted", "jit"])
def test_of_a_shard_map(jit):
    mesh = _mesh("auto")

    @functools.partial(jax.shard_map, mesh=mesh, in_specs=P("data"), out_specs=P("data"))
    def f(x):
        return jnp.sin(x) * lax.psum(jnp.sum(x**2), "data")

    x = jnp.linspace(0.0, 1.0, 16)

    def use(jacobian):
        jacobian_of_f = jacobian(lambda x: f(jnp.cos(x)) * x)
        return (jax.jit(jacobian_of_f) if jit else jacobian_of_f)(x)

    assert_agree(use(jax_cce.jacobian), use(jax.jacrev))
