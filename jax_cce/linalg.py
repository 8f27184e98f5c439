"""Linear algebra that is differentiable where JAX's own is not."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

__all__ = ["tria"]

# Singular values of so many units in the last place of the largest one, times the larger side,
# count as zero.
_ROUNDING = 4


@jax.custom_jvp
def tria(matrix: jax.Array) -> jax.Array:
    """The triangular square root of a sum of squares: L with L Lᵀ = M Mᵀ.

    It is what square-root filters propagate in place of covariances: the root of A Aᵀ + B Bᵀ is
    `tria(jnp.hstack([A, B]))`. It comes from a QR factorisation of Mᵀ, so that M Mᵀ is never
    formed, but is differentiable at every rank of M, in both modes, where the derivative of
    `jnp.linalg.qr` is NaN: for columns or rows of zeros, for more rows than columns, for M = 0.

    If M has full row rank, L is the Cholesky factor of M Mᵀ and its derivative is that of the
    factor. Otherwise no derivative of L by itself exists; what is given satisfies
    dL Lᵀ + L dLᵀ = dM Mᵀ + M dMᵀ, so that every function of L Lᵀ has its derivative, and is not
    triangular. Second derivatives are right in directions in which the rank stays as it is.

    Args:
        matrix: M, of shape (..., n, m), with any n and m; real, of floating-point numbers.

    Returns:
        L, of shape (..., n, n): lower triangular, with no negative number on its diagonal.

    Raises:
        TypeError: for other than real floating-point numbers.
        ValueError: for less than two axes.

    References:
        The derivative at any rank is that of Corenflos (2026) with the pseudoinverse of L, whose
        own derivative is by Golub & Pereyra (SIAM J. Numer. Anal. 10, 1973).

    Examples:
        >>> import jax, jax.numpy as jnp, jax_cce
        >>> def covariance(s):
        ...     L = jax_cce.linalg.tria(jnp.array([[3.0, 4.0], [0.0, 0.0]]) * s)
        ...     return L @ L.T
        >>> print(jax.jacrev(covariance)(1.0))
        [[50.  0.]
         [ 0.  0.]]
    """
    matrix = _checked(matrix)
    rows, columns = matrix.shape[-2:]
    factor = jnp.linalg.qr(matrix.mT, mode="r").mT
    signs = jnp.where(jnp.diagonal(factor, axis1=-2, axis2=-1) < 0, -1, 1).astype(factor.dtype)
    factor = factor * signs[..., None, :]
    missing = [(0, 0)] * (matrix.ndim - 1) + [(0, max(0, rows - columns))]
    # LAPACK leaves zeros above the diagonal.
    return jnp.pad(jnp.tril(factor), missing)


@tria.defjvp
def _(primals: tuple[jax.Array], tangents: tuple[jax.Array]) -> tuple[jax.Array, jax.Array]:
    (matrix,), (tangent,) = primals, tangents
    root = tria(matrix)
    half = tangent @ matrix.mT
    change = half + half.mT
    size = np.finfo(root.dtype).eps * _ROUNDING * max(matrix.shape[-2:])
    pivots = jnp.diagonal(root, axis1=-2, axis2=-1)
    is_full = jnp.all(pivots > size * jnp.max(pivots, initial=0.0))
    at_any_rank = functools.partial(_at_any_rank, size)
    return root, lax.cond(is_full, _at_full_rank, at_any_rank, is_full, root, change)


def _at_full_rank(is_full: jax.Array, root: jax.Array, change: jax.Array) -> jax.Array:
    # Where this is computed and not chosen, nothing may be infinite.
    factor = jnp.where(is_full, root, jnp.eye(root.shape[-1], dtype=root.dtype))
    inner = lax.linalg.triangular_solve(factor, change, left_side=True, lower=True)
    inner = lax.linalg.triangular_solve(factor, inner, lower=True, transpose_a=True)
    return factor @ _lower_half(inner)


def _at_any_rank(size: float, _: jax.Array, root: jax.Array, change: jax.Array) -> jax.Array:
    inverse = jnp.linalg.pinv(root, rtol=size)
    right = change @ inverse.mT
    inner = inverse @ right
    return root @ (_lower_half(inner) - inner) + right


def _lower_half(symmetric: jax.Array) -> jax.Array:
    """The lower triangular part, with half of the diagonal."""
    # A selection from zeros under `cond` is not seen to be linear in the tangent.
    size = symmetric.shape[-1]
    return symmetric * (np.tri(size, k=-1) + np.eye(size) / 2).astype(symmetric.dtype)


def _checked(matrix: jax.Array) -> jax.Array:
    matrix = jnp.asarray(matrix)
    if not jnp.issubdtype(matrix.dtype, jnp.floating):
        raise TypeError(f"tria takes real floating-point numbers, but got {matrix.dtype}.")
    if matrix.ndim < 2:
        raise ValueError(f"tria takes a matrix, but got an array of shape {matrix.shape}.")
    return matrix
