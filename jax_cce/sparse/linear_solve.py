"""Linear systems with a square `StructuredJacobian`: the solver is chosen by its structure."""

import math
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import lax

from jax_cce.sparse.banded_solve import bandwidth, solve_banded
from jax_cce.sparse.bands_and_blocks import Bands

__all__ = ["solve"]

# Of a tridiagonal matrix larger blocks are solved as the three diagonals that they have.
_LARGEST_BLOCK = 8
# Blocks are worth it where they hold at most this share of the matrix.
_SHARE = 0.5
# So few unknowns are one dense matrix, whatever its structure.
_FEW = 128
# Bands whose distance from the main diagonal is so many times less than the size are near it.
_WIDE = 3


def solve(jacobian: Any, vector: Any, *, by_structure: bool = False) -> Any:
    """The solution y of J @ y = vector, for one vector of shape (size of the output,).

    A diagonal matrix divides. Blocks, which are the sets of unknowns that entries connect, are
    inverted, so that the solution is a sum of terms again: to multiply by inverses is as accurate
    as to solve (Druinsky & Toledo 2012). Three diagonals, and more that are near the main one, are
    eliminated in linear time, and all else has one dense LU factorisation. What is factorised does
    not depend on the vector, and is shared by all directions of a derivative in either mode.
    Numbers are those of float32 at least; the solution of a singular system has infinities or NaN.

    Args:
        jacobian: J, a `StructuredJacobian` with as many outputs as inputs.
        vector: the right-hand side.
        by_structure: whether to raise where a large matrix that is mostly zero would be made dense.

    Raises:
        NotImplementedError: where `by_structure` says so.
    """
    dtype = jnp.promote_types(jnp.promote_types(jacobian.dtype, vector.dtype), jnp.float32)
    jacobian, vector = jacobian.astype(dtype), lax.convert_element_type(vector, dtype)
    bands = jacobian.bands
    offsets = None if bands is None else set(bands.offsets)
    if offsets is not None and offsets <= {0}:
        return vector / jacobian.diagonal()
    is_tridiagonal = offsets is not None and offsets <= {-1, 0, 1}
    blocks = _blocks(jacobian)
    if blocks is not None and (blocks.largest <= _LARGEST_BLOCK or not is_tridiagonal):
        return _by_inverses(jacobian, blocks, vector)
    if bands is not None and is_tridiagonal:
        diagonals = dict(zip(bands.offsets, bands.data, strict=True))
        lower, diagonal, upper = (diagonals.get(k, jnp.zeros_like(vector)) for k in (-1, 0, 1))
        # Row by row; the first entry of the one and the last of the other lie outside.
        lower, upper = jnp.pad(lower[:-1], (1, 0)), jnp.pad(upper[1:], (0, 1))
        return lax.linalg.tridiagonal_solve(lower, diagonal, upper, vector[:, None])[:, 0]
    size = math.prod(jacobian.in_shape)
    if size > _FEW:
        bands = _near(bands or _enumerated(jacobian), size)
    if size > _FEW and bands is not None:
        return solve_banded(bands, lambda y: _times(jacobian, y), vector)
    if by_structure and size > _FEW and jacobian.nnz <= _SHARE * size * size:
        raise NotImplementedError(
            "solve knows diagonal, banded and block-diagonal matrices, but the Jacobian of shape "
            f"{jacobian.out_shape} + {jacobian.in_shape} is none. J.to_scipy() is a matrix for "
            "scipy.sparse.linalg.spsolve, J.to_lineax() an operator for lineax's iterative "
            "solvers, J.todense() an array."
        )
    return jnp.linalg.solve(jacobian.todense().reshape(size, size), vector)


def _near(bands: Bands | None, size: int) -> Bands | None:
    """The diagonals where all are near the main one."""
    return None if bands is None or _WIDE * bandwidth(bands.offsets) > size else bands


def _enumerated(jacobian: Any) -> Bands | None:
    """The diagonals that hold the entries, where these are static and near the main one."""
    if jacobian.nnz > _SHARE * math.prod(jacobian.shape) or (at := _positions(jacobian)) is None:
        return None
    rows, columns = at
    size, offsets = math.prod(jacobian.in_shape), columns - rows
    known, which = np.unique(offsets, return_inverse=True)
    if _WIDE * bandwidth(known) > size:
        return None
    data = jnp.zeros((len(known), size), jacobian.dtype)
    entries = jacobian.coordinates().data
    filled = data.at[which, columns].set(entries, unique_indices=True)
    return Bands(tuple(map(int, known)), filled)


def _positions(jacobian: Any) -> tuple[np.ndarray, np.ndarray] | None:
    """Row and column of each entry; None where they depend on data."""
    try:
        pattern = jacobian.pattern
    except ValueError:
        return None
    rank = len(jacobian.out_shape)
    return (
        np.ravel_multi_index(tuple(pattern[:, :rank].T), jacobian.out_shape),
        np.ravel_multi_index(tuple(pattern[:, rank:].T), jacobian.in_shape),
    )


def _times(jacobian: Any, vector: Any) -> Any:
    return (jacobian @ vector.reshape(jacobian.in_shape)).reshape(-1)


class _Blocks(NamedTuple):
    """A matrix that is block diagonal once rows and columns are sorted.

    Attributes:
        rows: row of each entry.
        columns: column of each entry.
        block: for each row, and its column, the block that it is in.
        place: its place in there.
        number: how many blocks there are.
        largest: size of the largest.
    """

    rows: np.ndarray
    columns: np.ndarray
    block: np.ndarray
    place: np.ndarray
    number: int
    largest: int


def _blocks(jacobian: Any) -> _Blocks | None:
    """The smallest blocks; None where they, all as large as the largest, hold too much."""
    size = math.prod(jacobian.in_shape)
    if jacobian.nnz > _SHARE * size * size:
        return None
    if (at := _positions(jacobian)) is None:
        return None
    rows, columns = at
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    graph = coo_array((np.ones(len(rows), bool), (rows, columns)), shape=(size, size))
    count, block = connected_components(graph, directed=False)
    sizes = np.bincount(block)
    largest = int(sizes.max())
    if count * largest**2 > _SHARE * size * size:
        return None
    place = np.empty(size, int)
    place[np.argsort(block, kind="stable")] = np.concatenate([np.arange(s) for s in sizes])
    return _Blocks(rows, columns, block, place, count, largest)


def _by_inverses(jacobian: Any, blocks: _Blocks, vector: Any) -> Any:
    rows, columns, block, place, number, largest = blocks
    # What fills the smaller blocks up is a part of the identity.
    unused = np.ones((number, largest), bool)
    unused[block, place] = False
    matrices = jnp.asarray(unused[..., None] * np.eye(largest), vector.dtype)
    entries = jacobian.coordinates().data
    matrices = matrices.at[block[rows], place[rows], place[columns]].set(
        entries, unique_indices=True
    )
    vectors = jnp.zeros((number, largest), vector.dtype)
    vectors = vectors.at[block, place].set(vector, unique_indices=True)
    return jnp.einsum("bij,bj->bi", jnp.linalg.inv(matrices), vectors)[block, place]
