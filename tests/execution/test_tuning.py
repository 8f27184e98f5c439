"""order="tuned" times the candidates once, stores the fastest, and runs it from then on."""

import logging

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export, lax
from jax.sharding import AxisType

import jax_cce
from cases.agreement import assert_agree
from jax_cce import registry
from jax_cce.execution import calling, measuring, tuning
from jax_cce.jax_internals import device_kind

X = jnp.array([0.3, 0.9, 1.7, 0.4])
POINTS = X + jnp.arange(70.0)[:, None] / 99


def pairs(x):
    return jnp.sin(x[1:] * x[:-1]) * jnp.sum(x), jnp.outer(x, jnp.cos(x))


def small(x):
    a, b, c, d = x
    total = a * b + jnp.tanh(c * d)
    return jnp.array([total * a, total / (1 + b**2), jnp.cos(total) * c])


def stepped(x):
    return lax.scan(lambda c, _: (jnp.sin(c) * x[0] + c[::-1], c[0]), x, None, 5)


@pytest.fixture(autouse=True)
def _empty_registry(monkeypatch, tmp_path):
    monkeypatch.setenv("JAX_CCE_REGISTRY", str(tmp_path / "registry"))
    jax_cce.cache_clear()


class _Races(list):
    """A list with an attribute."""


@pytest.fixture(name="races")
def _races(monkeypatch):
    seen = _Races()
    seen.winner = "reverse"

    def race(calls):
        seen.append(list(calls))
        return {name: 1.0 if name == seen.winner else 2.0 for name in calls}

    monkeypatch.setattr(measuring, "race", race)
    return seen


def _tuned(fun, **how):
    return jax_cce.jacobian(fun, order="tuned", **how)


USES = {
    "call": lambda j: j(X),
    "jit": lambda j: jax.jit(j)(X),
    "vmap": lambda j: jax.vmap(j)(POINTS),
    "vmap of jit": lambda j: jax.vmap(jax.jit(j))(POINTS),
    "scan": lambda j: lax.scan(lambda c, x: (c, j(x)), 0, POINTS[:3])[1],
    "ahead of time": lambda j: jax.jit(j).lower(jax.ShapeDtypeStruct((4,), X.dtype)).compile()(X),
    "grad": lambda j: jax.grad(lambda x: sum(map(jnp.sum, jax.tree.leaves(j(x)))))(X),
}


@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize("fun", [pairs, small, stepped], ids=lambda fun: fun.__name__)
def test_the_answer_is_that_of_jax(races, use, fun):
    assert_agree(USES[use](_tuned(fun)), USES[use](jax.jacrev(fun)))
    assert races
    assert {"forward", "jacfwd", "jacrev"} <= set(races[0])


def test_the_clock_decides():
    assert_agree(_tuned(pairs)(X), jax.jit(jax.jacrev(pairs))(X))
    (entry,) = registry.entries(cost="runtime")
    assert entry.value <= 1.03 * min(entry.times.values())
    assert {"forward", "jacfwd", "jacrev"} <= set(entry.times)


@pytest.mark.parametrize("winner", ["reverse", "forward", "jacfwd", "jacrev"])
def test_the_winner_is_stored_and_runs(races, winner):
    races.winner = winner
    assert_agree(_tuned(small)(X), jax.jit(jax.jacrev(small))(X))
    (names,) = races
    (entry,) = registry.entries(cost="runtime")
    assert (entry.cost, entry.device, entry.batch) == ("runtime", device_kind(), None)
    assert set(entry.times) == set(names)
    plan = jax_cce.plan(small, order="tuned")(X)
    assert plan.source in ("user", "memory")
    is_mode = winner in tuning.JAX_MODES
    assert plan.method == (winner if is_mode else "elimination")
    if not is_mode:
        assert plan.order == jax_cce.plan(small, order=winner)(X).order


def test_it_is_timed_once(races, monkeypatch):
    _tuned(pairs)(X)
    _tuned(pairs)(X + 1)
    jax.jit(_tuned(pairs))(X)
    assert len(races) == 1
    # As another process does that shares the directory.
    monkeypatch.setattr(registry.defaults, "_default", None)
    jax_cce.cache_clear()
    _tuned(pairs)(X)
    assert len(races) == 1
    _tuned(pairs)(X[:3])
    assert len(races) == 2


def test_every_number_of_points_is_timed_for_itself(races):
    jax.vmap(_tuned(small))(POINTS)
    jax.jit(jax.vmap(_tuned(small)))(POINTS)
    assert [entry.batch for entry in registry.entries(cost="runtime")] == [70]
    jax.vmap(_tuned(small))(POINTS[:5])
    assert sorted(entry.batch for entry in registry.entries(cost="runtime")) == [5, 70]


def test_the_default_is_kept_where_another_is_faster_by_chance(monkeypatch):
    monkeypatch.setattr(
        measuring, "race", lambda calls: {**dict.fromkeys(calls, 1.0), "reverse": 0.99}
    )
    _tuned(stepped)(X)
    (entry,) = registry.entries(cost="runtime")
    assert entry.value == 1.0
    assert entry.method == "jacfwd"


@pytest.mark.parametrize("format", ["bcoo", "structured"])
def test_sparse_formats_have_no_modes(races, format):
    jac = _tuned(lambda x: jnp.sin(x[1:]) * x[:-1], format=format)(X)
    assert_agree(jac.todense(), jax.jit(jax.jacrev(lambda x: jnp.sin(x[1:]) * x[:-1]))(X))
    assert not set(tuning.JAX_MODES) & set(races[0])


def test_a_hessian_is_tuned_as_a_whole(races):
    def energy(x):
        return jnp.sum(jnp.sin(x[1:] * x[:-1]) ** 2)

    assert_agree(jax_cce.hessian(energy, order="tuned")(X), jax.jit(jax.hessian(energy))(X))
    assert len(races) == 1


def _converging(x):
    return lax.while_loop(lambda s: jnp.sum(s) > 1e-3, lambda s: s / 2, x) * x


def _with_a_callback(x):
    jax.debug.callback(lambda _: None, x[0])
    return jnp.sin(x)


def _of_keys(x):
    key = jax.random.key(3)
    return jax.jit(lambda key: jax.random.normal(key, (4,)) * x)(key)


def _custom(x):
    @jax.custom_vjp
    def clipped(x):
        return x

    clipped.defvjp(lambda x: (x, None), lambda _, ct: (jnp.clip(ct, -0.5, 0.5),))
    return clipped(jnp.sin(x))


@pytest.mark.parametrize("fun", [_converging, _with_a_callback, _custom])
def test_what_cannot_be_timed_runs_by_default(races, fun):
    assert_agree(jax.jit(_tuned(fun))(X), jax.jit(jax_cce.jacobian(fun))(X))
    assert not races
    assert not registry.entries(cost="runtime")


def test_a_loop_until_convergence_is_timed_on_values(races):
    assert_agree(_tuned(_converging)(X), jax.jit(jax.jacfwd(_converging))(X))
    assert len(races) == 1


def test_random_keys_are_no_obstacle(races):
    assert_agree(_tuned(_of_keys)(X), jax.jit(jax.jacfwd(_of_keys))(X))
    assert_agree(jax.jit(_tuned(_of_keys))(X), jax.jit(jax.jacfwd(_of_keys))(X))


def test_under_a_mesh_and_for_symbolic_sizes_nothing_is_timed(races):
    with jax.set_mesh(jax.make_mesh((2,), ("data",), axis_types=(AxisType.Auto,))):
        jax.jit(_tuned(small))(X)
    (n,) = export.symbolic_shape("n")
    shape = jax.ShapeDtypeStruct((n,), X.dtype)
    exported = export.export(jax.jit(_tuned(lambda x: jnp.sin(x) * x)))(shape)
    assert_agree(exported.call(X), jnp.diag(jnp.cos(X) * X + jnp.sin(X)))
    assert not races


def test_what_deviates_from_the_default_takes_no_part():
    calls = {
        "default": lambda: (jnp.arange(3.0), jnp.array(2)),
        "rounded": lambda: (jnp.arange(3.0) * (1 + 1e-12), jnp.array(2)),
        "nan": lambda: (jnp.array([0.0, jnp.nan, 2.0]), jnp.array(2)),
        "other": lambda: (jnp.array([0.0, 1.0, 2.1]), jnp.array(2)),
    }
    failures = {}
    tuning.leave_out_deviating(calls, failures, "default")
    assert list(calls) == ["default", "rounded"]
    assert list(failures) == ["nan", "other"]


def test_the_environment_makes_it_the_default(races, monkeypatch):
    monkeypatch.setenv("JAX_CCE_ORDER", "tuned")
    assert_agree(jax_cce.jacobian(pairs)(X), jax.jit(jax.jacrev(pairs))(X))
    assert len(races) == 1
    jax_cce.jacobian(small, order="reverse")(X)
    assert len(races) == 1
    monkeypatch.setenv("JAX_CCE_ORDER", "fastest")
    with pytest.raises(ValueError, match="JAX_CCE_ORDER"):
        jax_cce.jacobian(pairs)


def test_what_took_part_is_logged(races, caplog):
    with caplog.at_level(logging.INFO, "jax_cce"):
        _tuned(pairs)(X)
    assert "tuned to reverse of {" in caplog.text


def test_a_closed_over_tracer_is_made_up(races):
    def total(w):
        return jnp.sum(_tuned(lambda x: jnp.sin(x * w))(X))

    assert_agree(
        jax.jit(total)(X + 1), jnp.sum(jax.jit(jax.jacrev(lambda x: jnp.sin(x * (X + 1))))(X))
    )
    assert len(races) == 1
    assert np.isfinite(total(X))


def test_constants_that_are_known_keep_their_values(races):
    turn = jnp.array([[0.0, -1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])

    def turned(x):
        return turn @ (jnp.sin(x[:3]) * (turn @ x[1:])) + turn[0] * x[0]

    # Lowered, the constants are operands without values.
    jax.jit(_tuned(turned)).lower(jax.ShapeDtypeStruct((4,), X.dtype))
    every = {"forward", "reverse", "jacfwd", "jacrev"}
    assert every | {name + ", small arrays taken apart" for name in ["forward"]} <= set(races[0])
    assert_agree(_tuned(turned)(X), jax.jit(jax.jacrev(turned))(X))


def test_made_up_points_are_not_on_a_line(races):
    def angle(x):
        a, b = x[:3] - x[3:6], x[6:] - x[3:6]
        return jnp.arccos(a @ b / jnp.sqrt((a @ a) * (b @ b)))

    jax.jit(_tuned(angle)).lower(jax.ShapeDtypeStruct((9,), X.dtype))
    assert {"forward", "reverse", "jacfwd", "jacrev"} <= set(races[0])


def test_what_is_not_finite_is_not_tuned(races, caplog):
    def undefined(x):
        return jnp.log(x - 3.0) * x[::-1]

    jacobian = _tuned(undefined)
    with caplog.at_level(logging.INFO, "jax_cce"):
        jacobian(X)
    assert "is not tuned: it is not finite" in caplog.text
    assert not races
    assert_agree(jacobian(X + 4), jax.jit(jax.jacrev(undefined))(X + 4))


@pytest.mark.parametrize("transform", [jax_cce.jacobian, jax_cce.hessian])
def test_constants_are_timed_as_they_are_compiled(transform, monkeypatch, races):
    """Native code knows constants under jit, and has to be timed with them."""
    places, weights = np.array([2, 0, 3]), np.array([0.0, 1.0, 2.5])
    fun = lambda x: jnp.sum(jnp.sin(x[jnp.asarray(places)]) * jnp.asarray(weights)) * x[0]  # noqa: E731
    seen = []
    own = calling.kernel_of

    def kernel_of(function, signature, **limits):
        seen.append([x is None for x in signature.arguments])
        return own(function, signature, **limits)

    monkeypatch.setattr(calling, "kernel_of", kernel_of)
    races.winner = "native"
    found = jax.jit(transform(fun, order="tuned"))(X)
    assert_agree(found, (jax.jacrev if transform is jax_cce.jacobian else jax.hessian)(fun)(X))
    if seen:
        assert len(seen) > 1
        assert seen[0] == seen[-1]
        assert not all(seen[0])
