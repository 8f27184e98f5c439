"""Linear systems with a square `StructuredJacobian`: the solver is chosen by its structure."""

import dataclasses
import math
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax

from jax_cce.sparse.banded_solve import bandwidth, solve_banded
from jax_cce.sparse.bands_and_blocks import Bands

__all__ = ["Blocks", "blocks_of", "diagonals", "flat_pattern", "solve"]

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
    diagonal = diagonals(jacobian)
    if diagonal is not None and set(diagonal) <= {0}:
        return vector / jacobian.diagonal()
    blocks = blocks_of(jacobian)
    if blocks is not None and (blocks.largest <= _LARGEST_BLOCK or diagonal is None):
        return blocks.times(blocks.inverses(jacobian), vector)
    if diagonal is not None:
        size = len(vector)
        below, on, above = (
            diagonal.get(k, jnp.zeros(size - abs(k), vector.dtype)) for k in (-1, 0, 1)
        )
        # Row by row; the first entry of the one and the last of the other lie outside.
        below, above = jnp.pad(below, (1, 0)), jnp.pad(above, (0, 1))
        return lax.linalg.tridiagonal_solve(below, on, above, vector[:, None])[:, 0]
    size = math.prod(jacobian.in_shape)
    bands = _near_bands(jacobian) if size > _FEW else None
    if bands is not None:
        return solve_banded(bands, lambda y: _times(jacobian, y), vector)
    if by_structure and size > _FEW and jacobian.nnz <= _SHARE * size * size:
        raise NotImplementedError(
            "solve knows diagonal, banded and block-diagonal matrices, but the Jacobian of shape "
            f"{jacobian.out_shape} + {jacobian.in_shape} is none. J.to_scipy() is a matrix for "
            "scipy.sparse.linalg.spsolve, J.to_lineax() an operator for lineax's iterative "
            "solvers, J.todense() an array."
        )
    return jnp.linalg.solve(jacobian.todense().reshape(size, size), vector)


def _near_bands(jacobian: Any) -> Bands | None:
    """The diagonals that hold the entries, where these are static and near the main one."""
    size, bands = math.prod(jacobian.in_shape), jacobian.bands
    if bands is None:
        positions = flat_pattern(jacobian, most=_SHARE * size * size)
        if positions is None:
            return None
        rows, columns = positions
        offsets, which = np.unique(columns - rows, return_inverse=True)
        if _WIDE * bandwidth(offsets) > size:
            return None
        entries = jacobian.coordinates().data
        data = jnp.zeros((len(offsets), size), entries.dtype)
        filled = data.at[which, columns].set(entries, unique_indices=True)
        bands = Bands(tuple(map(int, offsets)), filled)
    return None if _WIDE * bandwidth(bands.offsets) > size else bands


def _times(jacobian: Any, vector: Any) -> Any:
    return (jacobian @ vector.reshape(jacobian.in_shape)).reshape(-1)


def diagonals(jacobian: Any) -> dict[int, Any] | None:
    """The diagonals of a square matrix that has no more than three, by column minus row.

    That with offset k has size - |k| entries. None where others than -1, 0 and 1 have entries, or
    it is not known which have.
    """
    size = math.prod(jacobian.in_shape)
    bands = jacobian.bands
    if bands is not None:
        if not set(bands.offsets) <= {-1, 0, 1}:
            return None
        return {
            offset: along[max(offset, 0) : size + min(offset, 0)]
            for offset, along in zip(bands.offsets, bands.data, strict=True)
        }
    positions = flat_pattern(jacobian, most=3 * size)
    if positions is None or (abs(positions[1] - positions[0]) > 1).any():
        return None
    rows, columns = positions
    entries = jacobian.coordinates().data
    found = {}
    for offset in np.unique(columns - rows).tolist():
        at = np.flatnonzero(columns - rows == offset)
        zeros = jnp.zeros(size - abs(offset), entries.dtype)
        found[offset] = zeros.at[np.minimum(rows, columns)[at]].set(
            entries[at], unique_indices=True
        )
    return found


def flat_pattern(jacobian: Any, most: float = math.inf) -> tuple[np.ndarray, np.ndarray] | None:
    """Row and column of each entry; None where they depend on data or are more than `most`."""
    if jacobian.nnz > most:
        return None
    try:
        pattern = jacobian.matrix_pattern
    except ValueError:
        return None
    return pattern.rows, pattern.columns


@dataclasses.dataclass(frozen=True, eq=False)
class Blocks:
    """A square matrix that is block diagonal once rows and columns are sorted alike.

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

    def inverses(self, jacobian: Any) -> Any:
        """The inverse of each block, shape (number, largest, largest)."""
        entries = jacobian.coordinates().data
        # What fills the smaller blocks up is a part of the identity.
        unused = np.ones((self.number, self.largest), bool)
        unused[self.block, self.place] = False
        matrices = jnp.asarray(unused[..., None] * np.eye(self.largest), entries.dtype)
        at = self.block[self.rows], self.place[self.rows], self.place[self.columns]
        return jnp.linalg.inv(matrices.at[at].set(entries, unique_indices=True))

    def times(self, matrices: Any, vector: Any) -> Any:
        """The product of a matrix that has such blocks with a vector."""
        vectors = jnp.zeros((self.number, self.largest), vector.dtype)
        vectors = vectors.at[self.block, self.place].set(vector, unique_indices=True)
        return jnp.einsum("bij,bj->bi", matrices, vectors)[self.block, self.place]

    def __eq__(self, other: object) -> bool:
        """Whether the unknowns are shared out alike."""
        return (
            isinstance(other, Blocks)
            and np.array_equal(self.block, other.block)
            and np.array_equal(self.place, other.place)
        )

    def __hash__(self) -> int:
        """As `__eq__`."""
        return hash((self.number, self.largest))


def blocks_of(jacobian: Any) -> Blocks | None:
    """The smallest blocks; None where they, all as large as the largest, hold too much."""
    size = math.prod(jacobian.in_shape)
    positions = flat_pattern(jacobian, most=_SHARE * size * size)
    if positions is None:
        return None
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    graph = coo_array((np.ones(len(positions[0]), bool), positions), shape=(size, size))
    count, block = connected_components(graph, directed=False)
    sizes = np.bincount(block)
    largest = int(sizes.max())
    if count * largest**2 > _SHARE * size * size:
        return None
    place = np.empty(size, int)
    place[np.argsort(block, kind="stable")] = np.concatenate([np.arange(s) for s in sizes])
    return Blocks(*positions, block, place, int(count), largest)
