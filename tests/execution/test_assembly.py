"""A dense result is written once: of bands by a scatter, of single entries by a stack."""

import jax
import jax.numpy as jnp
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import jax_cce
from cases.agreement import assert_agree


def lorenz(x):
    return (jnp.roll(x, -1) - jnp.roll(x, 2)) * jnp.roll(x, 1) - x + 8


def rosenbrock(x):
    return jnp.sum(100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2)


def overlapping(x):
    """Terms of other directions at the same positions."""
    return jnp.cumsum(x[:2]).sum() * x[::-1] + jnp.sin(x) * jnp.roll(x, 1) + x[3]


def with_a_dense_part(x):
    return lorenz(x) + jnp.tanh(jnp.outer(jnp.cos(x), x)).sum(1)


FUNCTIONS = [lorenz, jax.grad(rosenbrock), overlapping, with_a_dense_part]
X = jnp.linspace(0.2, 1.7, 12)


def test_bands_are_scattered_once():
    def text(fun, x):
        return str(jax.make_jaxpr(jax_cce.jacobian(fun))(x))

    assert text(lorenz, X).count("scatter-add") == 1
    # A few entries are not worth it.
    assert "scatter-add" not in text(lorenz, X[:4])


@settings(max_examples=15, deadline=None)
@given(st.sampled_from(FUNCTIONS), st.integers(8, 20), st.sampled_from([jnp.float32, jnp.float64]))
def test_any_size_and_dtype(fun, size, dtype):
    x = jnp.linspace(0.1, 2.3, size).astype(dtype)
    tolerance = 1e-5 if dtype == jnp.float32 else 1e-12
    found = jax_cce.jacobian(fun)(x)
    assert found.dtype == dtype
    assert_agree(found, jax.jit(jax.jacrev(fun))(x), tolerance=tolerance)


TRANSFORMATIONS = {
    "vmap": lambda f: jax.vmap(f),
    "vmap of the last axis": lambda f: lambda x: jax.vmap(f, 1, 2)(x.T),
    "nested vmap": lambda f: lambda x: jax.vmap(jax.vmap(f))(x[None]),
    "jvp": lambda f: lambda x: jax.jvp(lambda x: f(x[0]), (x,), (jnp.cos(x),)),
    "grad": lambda f: jax.grad(lambda x: jnp.sum(jnp.sin(f(x[0])))),
    "linearize": lambda f: lambda x: jax.linearize(lambda x: f(x[0]), x)[1](jnp.cos(x)),
    "checkpoint": lambda f: jax.grad(lambda x: jnp.sum(jax.checkpoint(f)(x[0]) ** 2)),
    "scan": lambda f: lambda x: jax.lax.scan(lambda c, y: (c, f(y)), 0.0, x)[1],
    "jacobian": lambda f: lambda x: jax.jacfwd(f)(x[0]),
}


@pytest.mark.parametrize("name", TRANSFORMATIONS)
@pytest.mark.parametrize("fun", FUNCTIONS, ids=["lorenz", "rosenbrock", "overlapping", "dense"])
def test_transformations(name, fun):
    x = jnp.stack([X, X**2, jnp.sin(X)])
    ours = TRANSFORMATIONS[name](jax_cce.jacobian(fun))
    theirs = TRANSFORMATIONS[name](jax.jacrev(fun))
    assert_agree(jax.jit(ours)(x), theirs(x), tolerance=1e-10)


def unpacked(x):
    """Five results of four numbers, many entries of which are zero or a number."""
    a, b, c, d = x
    speed = jnp.sqrt(1 + a**2 + b**2)
    return jnp.stack([a * jnp.sin(b) / speed, speed * c, b + d, jnp.exp(-c) * a, 2 * d])


def full(x):
    """Every result depends on every number."""
    a, b, c, d = x
    total = a * b + jnp.tanh(c * d)
    return jnp.array([total * a, total / (1 + b**2), jnp.cos(total) * c, total**2 * d])


def many_terms(x):
    """Entries that are sums, of numbers too."""
    parts = [x[i] * x[(i + 1) % 4] + 2 * x[i] + jnp.sin(x[i]) for i in range(4)]
    return jnp.stack([sum(parts), parts[0] - parts[3], parts[1] * parts[2]])


def energy(x):
    a, b, c, d = x
    return a * b**2 / (1 + c**2) + jnp.exp(-a) * d + c * d


SMALL = {"unpacked": unpacked, "full": full, "many_terms": many_terms, "gradient": jax.grad(energy)}
POINTS = jnp.asarray(1.0 + jnp.arange(4 * 64).reshape(64, 4) % 7 / 5)


def test_entries_of_many_points_are_written_once():
    def text(x):
        return str(jax.make_jaxpr(jax.vmap(jax_cce.jacobian(full, order="reverse")))(x))

    # Of few points a sum of pads is one loop.
    assert text(POINTS).count("pad[") == 0
    assert text(POINTS[:8]).count("pad[") > 0
    assert text(POINTS).count("optimization_barrier") == 2


@pytest.mark.parametrize("name", TRANSFORMATIONS)
@pytest.mark.parametrize("fun", SMALL)
def test_transformations_of_many_points(name, fun):
    ours = TRANSFORMATIONS[name](jax.vmap(jax_cce.jacobian(SMALL[fun], order="markowitz")))
    theirs = TRANSFORMATIONS[name](jax.vmap(jax.jacrev(SMALL[fun])))
    x = jnp.stack([POINTS, POINTS * 1.1])
    if name == "vmap of the last axis":
        ours = TRANSFORMATIONS[name](jax_cce.jacobian(SMALL[fun], order="markowitz"))
        theirs = TRANSFORMATIONS[name](jax.jacrev(SMALL[fun]))
        x = POINTS
    assert_agree(jax.jit(ours)(x), theirs(x), tolerance=1e-10)


@pytest.mark.parametrize("fun", SMALL)
def test_outside_jit_and_of_other_formats(fun):
    expected = jax.vmap(jax.jacrev(SMALL[fun]))(POINTS)
    assert_agree(jax.vmap(jax_cce.jacobian(SMALL[fun]))(POINTS), expected)
    few = jax.vmap(jax_cce.jacobian(SMALL[fun]))(POINTS[:3])
    assert_agree(few, expected[:3])
    blocks = jax.vmap(jax_cce.jacobian(SMALL[fun], format="structured"))(POINTS)
    assert_agree(jax.vmap(lambda block: block.todense())(blocks), expected)
