"""Sorts, selections, eigenvalues, rounding and random numbers of known keys in native code."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import jax_cce
from cases.natively import assert_agrees_natively, is_native

X = jnp.array([0.7, -0.2, 1.9, 0.4, 1.1])
SYMMETRIC = jnp.array([[2.0, 0.3, 0.1], [0.3, 1.0, -0.2], [0.1, -0.2, 3.0]])


def eigenvalues(x):
    return jnp.linalg.eigvalsh(SYMMETRIC + jnp.outer(x[:3], x[1:4]) - jnp.diag(x[:3]))


PROGRAMS = {
    "sort": lambda x: jnp.sort(x) * x,
    "sort downwards": lambda x: jnp.sort(jnp.sin(3 * x), descending=True) * x,
    "sort along an axis": lambda x: jnp.sort(jnp.outer(x, x[:3]) - 0.5, axis=0),
    "sort of tables": lambda x: jnp.sort(jnp.outer(x, x[::-1])),
    "argsort": lambda x: x[jnp.argsort(jnp.cos(x))] * jnp.arange(5.0),
    "sort of pairs": lambda x: lax.sort((jnp.sin(5 * x), x, x * x), num_keys=1)[1],
    "median": lambda x: jnp.median(x) * x + jnp.median(x[:4]),
    "quantile": lambda x: jnp.quantile(x, jnp.array([0.1, 0.65])) * x[0],
    "top_k": lambda x: lax.top_k(jnp.sin(x), 3)[0] * x[:3],
    "places of top_k": lambda x: x[lax.top_k(jnp.cos(2 * x), 2)[1]] * 2,
    "argmax": lambda x: x[jnp.argmax(x)] * x,
    "argmin along an axis": lambda x: (jnp.argmin(jnp.outer(x, x), 1) + 0.5) * x,
    "round": lambda x: jnp.round(3 * x) * x,
    "eigenvalues": eigenvalues,
    "eigenvalues of 2 x 2": lambda x: jnp.linalg.eigvalsh(jnp.array([[x[0], x[1]], [x[1], x[2]]])),
    "largest eigenvalue": lambda x: jnp.max(eigenvalues(x)) * x,
    "random numbers": lambda x: x * jax.random.normal(jax.random.key(1), (5,)),
    "random numbers of a part": lambda x: (
        x + jax.random.uniform(jax.random.fold_in(jax.random.split(jax.random.PRNGKey(3))[1], 7))
    ),
}


@pytest.mark.parametrize("batch", [None, 11])
@pytest.mark.parametrize("program", PROGRAMS)
def test_they_are_native(program, batch, quiet):
    assert_agrees_natively(PROGRAMS[program], X, batch, 0.3)


SPECIAL = jnp.array(
    [
        [1.0, 1.0, 0.0, 0.0, 1.0],
        [0.0, -0.0, 0.0, -0.0, 1.0],
        [np.nan, 1.0, np.nan, 2.0, 0.5],
        [np.inf, 1.0, -np.inf, np.inf, -np.inf],
        [0.5, 1.5, 2.5, -0.5, -1.5],
        [3.0, 2.0, 1.0, 0.0, np.nan],
    ]
)


@pytest.mark.parametrize(
    "program",
    [
        lambda x: jnp.sort(x),
        lambda x: jnp.argsort(x) * jnp.where(x > 1, 1.0, 2.0),
        lambda x: lax.top_k(x, 4)[0],
        lambda x: lax.top_k(x, 4)[1] * jnp.where(x[:4] > 1, 1.0, 2.0),
        lambda x: jnp.argmax(x) * jnp.where(x > 1, 1.0, 2.0),
        lambda x: jnp.argmin(x) * jnp.where(x > 1, 1.0, 2.0),
        lambda x: jnp.round(x),
    ],
)
def test_ties_and_what_is_no_number(program, quiet):
    ours = jax.jit(jax.vmap(jax_cce.value_and_jacobian(program)))
    assert is_native(ours, SPECIAL)
    value, jacobian = ours(SPECIAL)
    expected = jax.vmap(program)(SPECIAL), jax.vmap(jax.jacfwd(program))(SPECIAL)
    is_finite = np.isfinite(expected[0])
    np.testing.assert_array_equal(value, expected[0])
    # What is zero whatever the input is, stays zero beside a NaN.
    np.testing.assert_array_equal(jacobian[is_finite], expected[1][is_finite])


def test_eigenvalues_of_many_matrices(quiet):
    draw = np.random.default_rng(0)
    matrices = draw.normal(size=(300, 3, 3))
    matrices[100:200] *= 10.0 ** draw.uniform(-5, 5, (100, 3, 1))
    matrices[200:] *= np.array([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
    matrices = jnp.array(matrices + matrices.transpose(0, 2, 1))
    ours = jax.jit(jax.vmap(jax_cce.value_and_jacobian(jnp.linalg.eigvalsh)))
    assert is_native(ours, matrices)
    value, jacobian = ours(matrices)
    scale = np.abs(matrices).max((1, 2))[:, None]
    theirs = jax.vmap(jnp.linalg.eigvalsh)(matrices)
    assert np.abs((value - theirs) / scale).max() < 1e-14
    # Near equal eigenvalues, vectors are as good as the distance allows.
    gap = np.diff(theirs).min(1)[:, None, None, None] / scale[:, :, None, None]
    expected = jax.vmap(jax.jacfwd(jnp.linalg.eigvalsh))(matrices)
    assert (np.abs(jacobian - expected) * np.minimum(1, gap)).max() < 1e-13


def test_eigenvectors_are_left_to_the_library():
    ours = jax_cce.jacobian(lambda x: jnp.linalg.eigh(SYMMETRIC * x[0] + jnp.diag(x[:3]))[1])
    assert not is_native(ours, X)
    hessian = jax_cce.hessian(
        lambda x: jnp.sum(jnp.linalg.eigvalsh(SYMMETRIC + jnp.diag(x[:3])) ** 3)
    )
    theirs = jax.hessian(lambda x: jnp.sum(jnp.linalg.eigvalsh(SYMMETRIC + jnp.diag(x[:3])) ** 3))
    np.testing.assert_allclose(hessian(X), theirs(X), atol=1e-11)


def test_keys_in_any_setting(quiet):
    key = jax.random.key(5)

    def fun(x):
        return x * jax.random.normal(key, x.shape) + jax.random.uniform(jax.random.key(2))

    theirs = jax.jit(jax.jacfwd(fun))(X)
    for backend in ("auto", "native", "xla"):
        np.testing.assert_allclose(jax_cce.jacobian(fun, backend=backend)(X), theirs, atol=1e-14)
        assert jax_cce.explain(fun, backend=backend)(X).backend
