"""Where a Jacobian may have nonzeros, as solvers on the host want to know it: once."""

import functools
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from jax_cce.algebra.index_arrays import distinct
from jax_cce.sparse import spy

if TYPE_CHECKING:
    from jax.experimental.sparse import BCOO

__all__ = ["Layout", "Pattern"]

# Of more diagonals a text names none.
_MOST_DIAGONALS = 16

Layout = Literal["csr", "csc", "coo"]


class Pattern:
    """Where a block of a Jacobian may have nonzeros, as a matrix of flattened output and input.

    Entries are in the order of format="values": by rows, in each row by columns. All arrays are
    NumPy's, made once and read-only, so that matrices can share them.

    Attributes:
        out_shape: the shape of the output.
        in_shape: the shape of the input.
        shape: size of the output, size of the input.
        rows: the row of each entry, int32, shape (nnz,).
        columns: the column of each entry, int32, shape (nnz,).

    Examples:
        >>> import jax, jax.numpy as jnp, jax_cce
        >>> f = lambda x: x[1:] * x[:-1]
        >>> pattern = jax_cce.pattern(f)(jax.ShapeDtypeStruct((4,), jnp.float32))
        >>> pattern.rows, pattern.columns
        (array([0, 0, 1, 1, 2, 2], dtype=int32), array([0, 1, 1, 2, 2, 3], dtype=int32))
        >>> pattern.indptr
        array([0, 2, 4, 6], dtype=int32)
        >>> pattern.colors("columns")
        array([1, 0, 1, 0], dtype=int32)
    """

    def __init__(
        self, positions: np.ndarray, out_shape: Sequence[int], in_shape: Sequence[int]
    ) -> None:
        """The pattern of sorted positions, shape (nnz, number of axes of both shapes)."""
        self.out_shape, self.in_shape = tuple(out_shape), tuple(in_shape)
        self.shape = math.prod(self.out_shape), math.prod(self.in_shape)
        split = len(self.out_shape)
        self.rows = _flat(positions[:, :split], self.out_shape)
        self.columns = _flat(positions[:, split:], self.in_shape)

    @property
    def nnz(self) -> int:
        """The number of entries."""
        return len(self.rows)

    @functools.cached_property
    def indptr(self) -> np.ndarray:
        """Where each row begins among the entries, and where the last one ends: CSR's."""
        return _begins(self.rows, self.shape[0])

    @functools.cached_property
    def by_columns(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """CSC's arrays: the entries in the order of columns, their rows, where columns begin."""
        order = np.argsort(self.columns, kind="stable").astype(np.int32)
        rows = self.rows[order]
        for array in (order, rows):
            array.flags.writeable = False
        return order, rows, _begins(self.columns, self.shape[1])

    def colors(self, of: Literal["columns", "rows"] = "columns") -> np.ndarray:
        """A colour for each column, so that columns of one colour share no row; or for each row.

        Greedy, the fullest columns first; for banded matrices there are as many colours as the
        fullest row has entries.

        Source: Coleman & More, "Estimation of sparse Jacobian matrices and graph coloring problems"
        (1983).

        Args:
            of: "columns", as for compressed Jacobians in forward mode, or "rows".

        Raises:
            ValueError: where `of` is neither.
        """
        if of not in ("columns", "rows"):
            raise ValueError(f"of must be 'columns' or 'rows', but got {of!r}.")
        crossing, begins, count = *self.by_columns[1:], self.shape[0]
        if of == "rows":
            crossing, begins, count = self.columns, self.indptr, self.shape[1]
        lines = np.split(crossing, begins[1:-1]) if len(begins) > 1 else []
        # For what crosses lines the set of bits of the colours that cross it so far.
        taken = [0] * count
        colors = np.zeros(len(lines), np.int32)
        for line in np.argsort(-np.diff(begins), kind="stable").tolist():
            across, every = lines[line].tolist(), 0
            for k in across:
                every |= taken[k]
            bit = ~every & (every + 1)  # the first that is free
            for k in across:
                taken[k] |= bit
            colors[line] = bit.bit_length() - 1
        return colors

    def to_scipy(self, values: Any, format: Layout = "csr") -> Any:
        """The matrix of some values, whose indices are this pattern's own.

        Args:
            values: what format="values" gives, shape (nnz,).
            format: "csr", "csc" or "coo".

        Returns:
            A `scipy.sparse.csr_array`, `csc_array` or `coo_array` of shape `shape`.

        Raises:
            ImportError: where SciPy is not installed.
            ValueError: for values of another number, and for other formats.
        """
        from scipy import sparse  # takes a while to import

        values = self._checked(np.asarray(values))
        if format == "csr":
            result = sparse.csr_array((values, self.columns, self.indptr), self.shape)
            result.indices, result.indptr = self.columns, self.indptr  # not views of them
        elif format == "csc":
            order, rows, begins = self.by_columns
            result = sparse.csc_array((values[order], rows, begins), self.shape)
            result.indices, result.indptr = rows, begins
        elif format == "coo":
            result = sparse.coo_array((values, (self.rows, self.columns)), self.shape)
        else:
            raise ValueError(f"format must be 'csr', 'csc' or 'coo', but got {format!r}.")
        result.has_canonical_format = True  # sorted and unique, which nobody has to check again
        return result

    def to_bcoo(self, values: Any) -> "BCOO":
        """The matrix of some values, shape (nnz,), as `jax.experimental.sparse.BCOO`."""
        from jax.experimental.sparse import BCOO

        static = {"shape": self.shape, "indices_sorted": True, "unique_indices": True}
        return BCOO.tree_unflatten(static, (self._checked(values), self._indices))

    @functools.cached_property
    def _indices(self) -> np.ndarray:
        return np.stack([self.rows, self.columns], 1)

    def _checked(self, values: Any) -> Any:
        if np.shape(values) != (self.nnz,):
            raise ValueError(
                f"A pattern of {self.nnz} entries takes values of shape ({self.nnz},), but got "
                f"shape {np.shape(values)}."
            )
        return values

    def __repr__(self) -> str:
        """Shapes, structure and number of entries."""
        return f"Pattern({self._words})"

    def _repr_html_(self) -> str:
        diagonals = self._diagonals if max(self.shape) > spy.MOST_BINS else None
        if self.nnz == math.prod(self.shape) > 0:
            picture = spy.of_blocks(1, self.shape)
        elif diagonals:
            picture = spy.of_diagonals(diagonals, self.shape)
        else:
            picture = spy.of_entries(self.rows, self.columns, self.shape)
        return spy.in_html("Pattern", self._words, picture)

    @functools.cached_property
    def _words(self) -> str:
        full = math.prod(self.shape)
        diagonals = self._diagonals
        offsets = None if diagonals is None else [each.offset for each in diagonals]
        facts = [] if self.nnz == full else spy.structured(offsets, self._blocks, self.shape)
        facts.append(spy.counted(self.nnz, full))
        return spy.in_words(self.out_shape, self.in_shape, "", facts)

    @functools.cached_property
    def _diagonals(self) -> list[spy.Diagonal] | None:
        """The diagonals that hold all entries; None where there are many, or they hold few."""
        offsets = distinct(self.columns - self.rows).tolist()
        if not 0 < len(offsets) <= _MOST_DIAGONALS:
            return None
        diagonals = []
        for offset in offsets:
            places = self.columns[self.columns - self.rows == offset]
            diagonals.append(spy.Diagonal(offset, int(places[0]), int(places[-1])))
        room = sum(each.high - each.low + 1 for each in diagonals)
        return diagonals if 2 * self.nnz >= room else None

    @property
    def _blocks(self) -> tuple[int, int, int] | None:
        """The smallest equal blocks along the diagonal that hold all entries."""
        for count in spy.divisors(math.gcd(*self.shape)):
            high, wide = (size // count for size in self.shape)
            # Mostly the first entries tell.
            if count > 1 and all(
                (self.rows[some] // high == self.columns[some] // wide).all()
                for some in (slice(1000), slice(None))
            ):
                return count, high, wide
        return None


def _flat(positions: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Positions in an array as those in the flattened one."""
    size = math.prod(shape)
    if not shape:
        flat = np.zeros(len(positions), np.int32)
    else:
        flat = np.ravel_multi_index(tuple(positions.T), shape)
        flat = flat.astype(np.int32 if size < 2**31 else np.int64)
    flat.flags.writeable = False
    return flat


def _begins(sorted_or_not: np.ndarray, size: int) -> np.ndarray:
    counts = np.bincount(sorted_or_not, minlength=size)
    begins = np.concatenate([[0], np.cumsum(counts)])
    begins = begins.astype(np.int32 if len(sorted_or_not) < 2**31 else np.int64)
    begins.flags.writeable = False
    return begins
