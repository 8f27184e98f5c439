"""Linear systems with structured Jacobians, by every solver, against dense ones."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jax_cce
from jax_cce.sparse.linear_solve import solve

ORDER = np.array([4, 2, 0, 5, 1, 3])


def on_a_line(x):
    padded = jnp.pad(x, 1)
    return 4 * x + padded[2:] * jnp.arange(1.0, x.size + 1) - 0.5 * padded[:-2] ** 2


def chains(x):
    """Two lines of ten, apart."""
    return jax.vmap(on_a_line)(x.reshape(2, -1)).ravel()


FUNCTIONS = {
    "diagonal": (lambda x: x**2 + 1, (3, 4)),
    "turned": (lambda x: (x**2).T, (3, 3)),
    "permuted": (lambda x: jnp.sin(x)[ORDER], (6,)),
    "blocks": (lambda x: x @ jnp.array([[1.0, 2.0], [0.3, -1.0]]) + jnp.sin(x), (4, 2)),
    "columns": (lambda x: jnp.array([[1.0, 2.0], [0.3, -1.0]]) @ jnp.exp(x), (2, 4)),
    "unequal": (lambda x: x * 2 + jnp.zeros(9).at[1].set(x[7]).at[7].set(x[1] * x[4]), (9,)),
    "line": (on_a_line, (7,)),
    "line of two": (on_a_line, (2,)),
    "two lines": (chains, (20,)),
    "dense": (lambda x: jnp.sin(x) + jnp.sum(x**2), (5,)),
    "one": (lambda x: x * x[0], (1,)),
    "none": (lambda x: x, (0,)),
}


def by_position(x):
    """Which entries there are depends on data."""
    return 3 * x + x[jnp.argsort(x)[::-1]]


@pytest.mark.parametrize("name", FUNCTIONS)
def test_solutions(name):
    function, shape = FUNCTIONS[name]
    check(function, jnp.linspace(0.3, 1.2, int(np.prod(shape))).reshape(shape))


def test_positions_that_depend_on_data():
    check(by_position, jnp.array([0.3, 0.9, 0.1, 0.5, 0.2]))


def check(function, x):
    def solution(x, vector):
        return solve(jax_cce.jacobian(function, format="structured")(x), vector)

    def densely(x, vector):
        return jnp.linalg.solve(jax.jacfwd(function)(x).reshape(x.size, x.size), vector)

    vector = jnp.cos(jnp.arange(x.size * 1.0))
    np.testing.assert_allclose(solution(x, vector), densely(x, vector), rtol=1e-11, atol=1e-12)
    ours = jax.jit(jax.jacrev(solution, (0, 1)))(x, vector)
    theirs = jax.jit(jax.jacfwd(densely, (0, 1)))(x, vector)
    for one, other in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-10, atol=1e-11)


def test_singular_matrices():
    for function, size in ((lambda x: x**2, 3), (on_a_line, 3), (lambda x: x * jnp.sum(x), 3)):
        jacobian = jax_cce.jacobian(function, format="structured")(jnp.zeros(size))
        found = solve(jax.tree.map(jnp.zeros_like, jacobian), jnp.ones(size))
        assert not jnp.isfinite(found).all()


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_lower_precision(dtype):
    x = jnp.linspace(0.3, 1.2, 7).astype(dtype)
    jacobian = jax_cce.jacobian(on_a_line, format="structured")(x)
    found = solve(jacobian, jnp.ones(7, dtype))
    assert found.dtype == jnp.float32
    exact = np.linalg.solve(np.asarray(jacobian.todense(), float), np.ones(7))
    np.testing.assert_allclose(found, exact, rtol=1e-5)
