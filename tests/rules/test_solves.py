"""Linear solves in the sparse formats: the axes along which nothing mixes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import jax_cce

_DRAW = np.random.default_rng(0)
MATRICES = jnp.array(_DRAW.normal(size=(4, 3, 3)) + 3 * np.eye(3))
WEIGHTS = jnp.linspace(1.0, 3.0, 12).reshape(3, 4)


def batch(vectors):
    return jax.vmap(jnp.linalg.solve)(MATRICES, vectors)


def positive(vectors):
    def each(matrix, vector):
        return jax.scipy.linalg.solve(matrix, vector, assume_a="pos")

    return jax.vmap(each)(MATRICES @ MATRICES.mT, vectors)


def elementwise(vector):
    def divided(matvec, vector):
        return vector / matvec(jnp.ones_like(vector))

    return lax.custom_linear_solve(lambda x: WEIGHTS * x, vector, divided, symmetric=True)


def by_conjugate_gradients(vector):
    """An iteration takes a sum of right-hand sides to another solution within its tolerance."""
    found, _ = jax.scipy.sparse.linalg.cg(lambda x: WEIGHTS * x, vector)
    return found


@pytest.mark.parametrize(
    "solve, at, nse",
    [
        (batch, jnp.ones((4, 3)), 4 * 9),
        (lambda b: jnp.linalg.solve(MATRICES[0], b), jnp.ones((3, 5)), 5 * 9),
        (lambda a: jnp.linalg.solve(a, jnp.ones((4, 3, 2))), MATRICES, 4 * 2 * 3 * 9),
        (lambda b: jnp.linalg.solve(MATRICES[0], b), jnp.ones(3), 9),
        (positive, jnp.ones((4, 3)), 4 * 9),
        (elementwise, WEIGHTS**2, 12),
        (by_conjugate_gradients, WEIGHTS**2, 12 * 12),
    ],
    ids=["batch", "columns", "matrices", "one", "positive", "elementwise", "iteration"],
)
def test_entries_of_solves(solve, at, nse):
    expected = jax.jit(jax.jacrev(solve))(at)
    sparse = jax_cce.jacobian(solve, format="bcoo")(at)
    assert sparse.nse == nse
    np.testing.assert_allclose(sparse.todense(), expected, rtol=1e-11, atol=1e-13)
    structured = jax.jit(jax_cce.jacobian(solve, format="structured"))(at)
    np.testing.assert_allclose(structured.todense(), expected, rtol=1e-11, atol=1e-13)


def test_points_of_a_batch_whose_steps_mix():
    """Each fixed point has a dense factorisation of its own."""
    mixing = MATRICES[0] / 10

    def solutions(forces):
        def step(x, force):
            return jnp.tanh(mixing @ x) + force

        return jax.vmap(lambda force: jax_cce.fixed_point(step, jnp.zeros(3), force))(forces)

    forces = jnp.linspace(0.1, 1.0, 12).reshape(4, 3)
    sparse = jax_cce.jacobian(solutions, format="bcoo")(forces)
    assert sparse.nse == 4 * 9
    np.testing.assert_allclose(sparse.todense(), jax.jit(jax.jacrev(solutions))(forces), atol=1e-12)
