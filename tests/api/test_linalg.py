"""`tria`: values and derivatives at every rank, where those of QR are NaN."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import jax_cce
from jax_cce.linalg import tria

SHAPES = [(3, 5), (5, 2), (1, 3)]
CASES = [(n, m, rank) for n, m in SHAPES for rank in range(min(n, m) + 1)]
every_rank = pytest.mark.parametrize("n, m, rank", CASES)


def of_rank(n, m, rank, seed=0):
    draw = np.random.default_rng(seed)
    return jnp.array(draw.normal(size=(n, rank)) @ draw.normal(size=(rank, m)))


def weighted(square):
    """A number that depends on all entries of a covariance."""
    weights = np.random.default_rng(1).normal(size=square.shape)
    return jnp.sum(jnp.sin(square) * weights)


def by_root(matrix):
    root = tria(matrix)
    return weighted(root @ root.T)


def directly(matrix):
    return weighted(matrix @ matrix.T)


@every_rank
def test_a_triangular_square_root(n, m, rank):
    matrix = of_rank(n, m, rank)
    for root in (tria(matrix), jax.jit(tria)(matrix)):
        assert root.shape == (n, n)
        np.testing.assert_allclose(root @ root.T, matrix @ matrix.T, atol=1e-13)
        assert not np.triu(root, 1).any()
        assert (np.diagonal(root) >= 0).all()


@every_rank
@pytest.mark.parametrize("mode", [jax.jacfwd, jax.jacrev, jax_cce.jacobian])
def test_derivatives_at_every_rank(n, m, rank, mode):
    matrix = of_rank(n, m, rank)
    expected = jax.grad(directly)(matrix)
    np.testing.assert_allclose(jax.jit(mode(by_root))(matrix), expected, atol=1e-12)


def test_at_full_rank_it_is_the_cholesky_factor():
    matrix = of_rank(4, 7, 4)

    def factor(matrix):
        return jnp.linalg.cholesky(matrix @ matrix.T)

    np.testing.assert_allclose(tria(matrix), factor(matrix), atol=1e-12)
    for order in (jax.jacfwd, jax.jacrev, jax_cce.jacobian):
        np.testing.assert_allclose(
            order(tria)(matrix), jax.jacfwd(factor)(matrix), atol=1e-11, rtol=1e-11
        )
    np.testing.assert_allclose(
        jax.hessian(by_root)(matrix), jax.hessian(directly)(matrix), atol=1e-10
    )


@every_rank
def test_second_derivatives_where_the_rank_stays(n, m, rank):
    matrix, draw = of_rank(n, m, rank), np.random.default_rng(2)
    left, right = draw.normal(size=(n, n)), draw.normal(size=(m, m))

    def along(function, t):
        turned = jax.scipy.linalg.expm(t * left) @ matrix @ jax.scipy.linalg.expm(t * right)
        return function(turned)

    found, expected = (
        jax.jit(jax.jacfwd(jax.jacrev(functools.partial(along, function))))(0.0)
        for function in (by_root, directly)
    )
    np.testing.assert_allclose(found, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("mode", [jax.jacfwd, jax.jacrev, jax_cce.jacobian])
def test_zeros_where_qr_has_no_derivative(mode):
    """No initial variance, one that is known, rows and columns of zeros, tall and padded."""
    for matrix in (
        jnp.zeros((3, 5)),
        jnp.zeros((3, 3)).at[1, 1].set(2.0),
        jnp.diag(jnp.array([0.0, 1.5, 0.0])),
        of_rank(3, 4, 3).at[1].set(0.0),
        of_rank(3, 4, 3).at[:, 0].set(0.0),
        jnp.pad(of_rank(2, 2, 2), ((0, 3), (0, 0))),
    ):
        found = jax.jit(mode(by_root))(matrix)
        np.testing.assert_allclose(found, jax.grad(directly)(matrix), atol=1e-13)


def test_batches_of_several_ranks():
    matrices = jnp.stack([of_rank(4, 6, rank, seed=rank) for rank in range(5)])
    expected = jax.vmap(jax.grad(directly))(matrices)
    for mode in (jax.jacfwd, jax.jacrev, jax_cce.jacobian):
        np.testing.assert_allclose(jax.vmap(mode(by_root))(matrices), expected, atol=1e-12)
    np.testing.assert_allclose(tria(matrices), jax.vmap(tria)(matrices), atol=1e-15)

    def all_at_once(matrices):
        roots = tria(matrices)
        return jax.vmap(weighted)(roots @ roots.mT).sum()

    np.testing.assert_allclose(jax.grad(all_at_once)(matrices), expected, atol=1e-12)


def test_its_derivative_is_seen_to_be_linear():
    """Else nothing but `jax.jacrev` would differentiate what it is in."""
    assert jax_cce.plan(by_root)(jnp.ones((2, 4))).method != "jacrev"


def test_single_precision():
    matrix = of_rank(3, 5, 2).astype("float32")
    assert tria(matrix).dtype == jnp.float32
    np.testing.assert_allclose(
        jax.grad(by_root)(matrix), jax.grad(directly)(matrix), atol=2e-5, rtol=2e-5
    )


by_one, by_other = map(jax.jit, (jax.grad(by_root), jax.jacfwd(by_root)))


@given(st.integers(0, 2**31))
def test_small_integers_of_any_rank(seed):
    matrix = jnp.array(np.random.default_rng(seed).integers(-1, 2, (3, 4)) * 1.0)
    expected = jax.grad(directly)(matrix)
    np.testing.assert_allclose(by_one(matrix), expected, atol=1e-11)
    np.testing.assert_allclose(by_other(matrix), expected, atol=1e-11)


def likelihood(q, start, root):
    """Of the readings of a tracker with constant velocity, by covariances or by their roots."""
    step, noise = jnp.array([[1.0, 0.1], [0.0, 1.0]]), 0.2
    process = q * jnp.array([[0.1**1.5 / 3**0.5, 0.0], [0.1**0.5 * 3**0.5 / 2, 0.1**0.5 / 2]])
    seen = jnp.array([[1.0, 0.0]])

    def by_covariance(carry, reading):
        mean, covariance, total = carry
        mean, covariance = step @ mean, step @ covariance @ step.T + process @ process.T
        spread = (seen @ covariance @ seen.T)[0, 0] + noise**2
        gain = covariance @ seen[0] / spread
        error = reading - (seen @ mean)[0]
        covariance = covariance - jnp.outer(gain, gain) * spread
        total = total - 0.5 * (error**2 / spread + jnp.log(2 * jnp.pi * spread))
        return (mean + gain * error, covariance, total), None

    def by_roots(carry, reading):
        mean, square_root, total = carry
        mean, square_root = step @ mean, tria(jnp.hstack([step @ square_root, process]))
        table = jnp.block(
            [[jnp.array([[noise]]), seen @ square_root], [jnp.zeros((2, 1)), square_root]]
        )
        whole = tria(table)
        spread, gain = whole[0, 0] ** 2, whole[1:, 0] / whole[0, 0]
        error = reading - (seen @ mean)[0]
        total = total - 0.5 * (error**2 / spread + jnp.log(2 * jnp.pi * spread))
        return (mean + gain * error, whole[1:, 1:], total), None

    readings = jnp.sin(0.3 * jnp.arange(40.0))
    first = jnp.zeros(2), jnp.diag(start if root else start**2), 0.0
    return jax.lax.scan(by_roots if root else by_covariance, first, readings)[0][2]


@pytest.mark.parametrize("start", [(0.0, 0.0), (1.3, 0.0), (0.0, 0.4), (1.0, 2.0)])
@pytest.mark.parametrize("mode", [jax.jacfwd, jax.jacrev, jax_cce.jacobian])
def test_a_square_root_filter(mode, start):
    args = jnp.array(0.7), jnp.array(start)
    ours = jax.jit(mode(functools.partial(likelihood, root=True), (0, 1)))(*args)
    theirs = jax.jacfwd(functools.partial(likelihood, root=False), (0, 1))(*args)
    for one, other in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-10, atol=1e-11)


def test_what_is_no_matrix_of_numbers():
    with pytest.raises(TypeError, match="real floating-point numbers, but got complex128"):
        tria(jnp.eye(2) * 1j)
    with pytest.raises(TypeError, match="but got int"):
        tria(jnp.eye(2, dtype=int))
    with pytest.raises(ValueError, match=r"a matrix, but got an array of shape \(3,\)"):
        tria(jnp.ones(3))
