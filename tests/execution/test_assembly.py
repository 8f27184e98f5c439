"""A dense result of several bands is written once, by one scatter."""

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
    assert_agree(found, jax.jacrev(fun)(x), tolerance=tolerance)


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
