"""From the terms of a Jacobian block to sorted coordinates.

Terms whose rows are boxes are interleaved without any index array: the rows are cut into *cells* in
which the same terms are present, every row of a cell holds the same *runs* of adjacent columns, and
the sorted entries are nested concatenations of cells. What does not fit that form is enumerated:
in NumPy while planning where the positions are static, by a sort at run time where they are not.
"""

import functools
import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jax_cce import jax_internals
from jax_cce.algebra import coefficients, index_arrays, placement
from jax_cce.algebra.dtypes import promoted
from jax_cce.algebra.index_arrays import Table
from jax_cce.algebra.placement import Placed
from jax_cce.algebra.terms import Term, linear
from jax_cce.caches import memoised
from jax_cce.sparse.cells import Cell, Irregular, cells_of, cut_rows, leaves, row_strides
from jax_cce.sparse.interleaving import (
    cell_index,
    cell_values,
    concatenated,
    in_all_rows,
    selected,
)
from jax_cce.sparse.pattern import Pattern

if TYPE_CHECKING:
    from jax.experimental.sparse import BCOO, BCSR

__all__ = [
    "Assembly",
    "Coordinates",
    "assembly",
    "csr_array",
    "is_injective",
]
# Index arrays of more bytes are computed in a traced program, not baked into it. A constant takes
# 20 to 45 ms a megabyte to compile, and is copied twice to five times as fast as it is computed.
_LARGE_CONSTANT = 1 << 23
# A cell is a loop and a part of a concatenation, an entry that is gathered 1 to 2 ns. (Measured on
# the CPU: Bratu 64 x 64, 9 cells of 33 parts for 20,224 entries, 57 us, gathered 46; 128 x 128, 120
# and 127; a Brusselator of 64 x 64 with 18 cells 96 and 61; compiled in a fifth of the time.)
_FEW_CELLS = 3
_ENTRIES_A_PART = 2000
_MOST_ENUMERATED = 1 << 18
# So many kinds of rows are each computed for all rows.
_MOST_KINDS = 8


class Assembly:
    """How the sorted, unique entries of one block come from the coefficients of its terms.

    Attributes:
        shape: out_shape + in_shape.
    """

    def __init__(
        self, terms: tuple[Term, ...], out_shape: tuple[int, ...], in_shape: tuple[int, ...]
    ) -> None:
        self.shape = (*out_shape, *in_shape)
        self._terms, self._out_shape, self._in_shape = terms, out_shape, in_shape
        full: Any = math.prod(self.shape)
        self.is_static = isinstance(full, int) and all(
            isinstance(lookup.table, Table) for term in terms for lookup in term.lookups
        )
        self._distinct = len(terms) == 1 and is_injective(terms[0])
        self._dense = any(math.prod(term.sizes) == full and _is_box(term) for term in terms)
        self._rows: tuple[int, ...] = ()
        self._cells: Any = None
        if self._dense or not terms:
            # JAX wants to see that a dimension is none below 0; an expression may hide it.
            full = full if isinstance(full, int) else jax_internals.greatest(full, 0)
            self.nse = full if terms else 0
            return
        if not self.is_static:
            self.nse = sum(math.prod(term.sizes) for term in terms)
            return
        try:
            self._rows, placed = cut_rows(terms, out_shape, in_shape)
            self._cells = cells_of(self._rows, placed)
            self.nse = sum(c.entries for c in leaves(self._cells))
        except Irregular:
            # `nse` counts what is enumerated, once that is asked for.
            self._cells = None

    @property
    def is_regular(self) -> bool:
        """Whether the entries need not be enumerated to be counted."""
        return "nse" in vars(self)

    @functools.cached_property
    def nse(self) -> Any:
        """The number of entries."""
        return len(self._enumerated[0])

    @functools.cached_property
    def _enumerated(self) -> tuple[np.ndarray, np.ndarray]:
        """Sorted unique linear positions, and the place of every entry of every term in them."""
        positions = [_positions(t, self._out_shape, self._in_shape) for t in self._terms]
        joined = np.concatenate(positions) if len(positions) != 1 else positions[0]
        small = np.int32 if len(joined) < 2**31 else np.int64
        # As those of a matrix whose indices are sorted.
        if (joined[1:] > joined[:-1]).all():
            return joined, np.arange(len(joined), dtype=small)
        unique, inverse = np.unique(joined, return_inverse=True)
        return unique, inverse.astype(small)

    @functools.cached_property
    def _sources(self) -> np.ndarray:
        """For every entry of every term its place in the coefficients, joined end to end."""
        parts, start = [], 0
        for term in self._terms:
            axes = term.axes or ()
            sizes = [term.sizes[loop] if loop in axes else 1 for loop in range(len(term.sizes))]
            slow = np.arange(math.prod(sizes)).reshape([term.sizes[loop] for loop in axes])
            at = slow.transpose(np.argsort(axes)).reshape(sizes) + start
            parts.append(np.broadcast_to(at, term.sizes).reshape(-1))
            start += slow.size
        return np.concatenate(parts).astype(self._enumerated[1].dtype)

    @functools.cached_property
    def _is_enumerated(self) -> bool:
        """Whether cells would be many for so few entries, each of which a gather reads singly."""
        cells = leaves(self._cells)
        parts = [runs for cell in cells for runs in cell.segments]
        few = min(_ENTRIES_A_PART * len(parts), _MOST_ENUMERATED)
        return len(cells) > _FEW_CELLS and self.nse < few and all(len(runs) == 1 for runs in parts)

    @functools.cached_property
    def pattern(self) -> np.ndarray:
        """The positions of the entries, shape (nse, number of axes), sorted.

        Raises:
            ValueError: where positions depend on data.
        """
        self.check_pattern()
        if self._dense or not self._terms:
            linear_positions = np.arange(self.nse)
        elif self._cells is None:
            linear_positions = self._enumerated[0]
        else:
            rows, columns = np.moveaxis(self._gathered(partial(cell_index, xp=np), np), -1, 0)
            dtype = np.int32
            parts = [*np.unravel_index(rows, self._out_shape or (1,))][: len(self._out_shape)]
            parts += [*np.unravel_index(columns, self._in_shape or (1,))][: len(self._in_shape)]
            return np.stack(parts, -1).astype(dtype) if parts else np.zeros((self.nse, 0), dtype)
        if not self.shape or not self._terms:
            return np.zeros((self.nse, len(self.shape)), np.int32)
        return np.stack(np.unravel_index(linear_positions, self.shape), -1).astype(np.int32)

    @property
    def has_pattern(self) -> bool:
        """Whether the positions do not depend on data."""
        return self.is_static or (self._dense and isinstance(self.nse, int)) or not self._terms

    def check_pattern(self) -> None:
        """Raises ValueError where positions depend on data."""
        if not self.has_pattern:
            raise ValueError(
                "The pattern of this Jacobian depends on data: its function sorts, or reads or "
                "writes at traced indices, or has symbolic shapes. Use format='bcoo': "
                "to_bcoo().indices holds the positions at this point."
            )

    @functools.cached_property
    def matrix(self) -> Pattern:
        """The pattern of the flattened matrix."""
        return Pattern(self.pattern, self._out_shape, self._in_shape)

    def indices(self, *, traced: bool) -> Any:
        """The pattern as an array for BCOO.

        Args:
            traced: whether the result enters a traced program; large patterns are then computed
                there.
        """
        rank = len(self.shape)
        is_large = jax_internals.exceeds(self.nse * rank * 4, _LARGE_CONSTANT, unknown=True)
        if not traced or not is_large:
            return self.pattern
        if self._dense and not isinstance(self.nse, int):
            return self._all_indices()
        if self._dense:
            axes = [
                lax.reshape(lax.broadcasted_iota(np.int32, self.shape, axis), (self.nse, 1))
                for axis in range(rank)
            ]
            return lax.concatenate(axes, 1)
        if self._cells is None:
            return self.pattern
        pairs = self._gathered(partial(cell_index, xp=jnp), jnp)
        if len(self._out_shape) == len(self._in_shape) == 1:
            return pairs
        rows = _unravel(lax.slice_in_dim(pairs, 0, 1, axis=1), self._out_shape)
        columns = _unravel(lax.slice_in_dim(pairs, 1, 2, axis=1), self._in_shape)
        return lax.concatenate([*rows, *columns], 1)

    def _all_indices(self) -> Any:
        """The positions of all entries of a block of symbolic size."""
        return jnp.stack(jnp.unravel_index(jnp.arange(self.nse), self.shape), -1).astype(np.int32)

    def entries(self, items: Sequence[Placed]) -> tuple[Any, Any]:
        """The entries in sorted order, and their indices where those depend on data, else None.

        Args:
            items: each term with its coefficient, scaled.
        """
        dtype = promoted(*(item.array.dtype for item in items))
        items = [item._replace(array=jax_internals.convert(item.array, dtype)) for item in items]
        if self._dense:
            array = placement.dense_sum(items, self.shape)
            if not isinstance(self.nse, int):
                # Nor does JAX see that a reshape to an expression keeps the number of entries, or
                # that what is not empty has an entry to gather.
                at = tuple(self._all_indices().T)
                zero = jax_internals.number_like(array, 0)
                array = lax.pad(array, zero, [(0, 1, 0)] * array.ndim)
                return array.at[at].get(mode="promise_in_bounds"), None
            return lax.reshape(array, (self.nse,)), None
        arrays = [item.array for item in items]
        if not self.is_static:
            return self._sorted(items)
        is_shared = jax_internals.is_shared_out()
        if self._cells is not None and (is_shared or not self._is_enumerated):
            if is_shared and self._margins is not None:
                return self._shared(arrays, *self._margins), None
            return self._gathered(lambda cell, _: cell_values(cell, arrays), jnp), None
        return self._enumerated_entries(arrays), None

    def _sorted(self, items: Sequence[Placed]) -> tuple[Any, Any]:
        """Entries at positions that are known at run time: sorted, those at one place added up."""
        rank = len(self.shape)
        keys: list[list[Any]] = [[] for _ in self.shape]
        values = []
        for item, term in zip(items, self._terms, strict=True):
            loops = tuple(range(len(term.sizes)))
            extents = dict(enumerate(term.sizes)) | {
                -1 - k: lookup.size for k, lookup in enumerate(term.lookups)
            }
            for axis, affine in enumerate(item.maps):
                position = index_arrays.evaluate(
                    affine.offset, affine.strides, loops, extents, item.symbols, jnp
                )
                keys[axis].append(jnp.ravel(position).astype(np.int32))
            array = coefficients.align(item.array, item.axes, loops, term.sizes)
            values.append(jnp.ravel(array))
        columns = [jnp.concatenate(parts) for parts in keys]
        *columns, data = lax.sort((*columns, jnp.concatenate(values)), num_keys=rank)
        if self._distinct:
            return data, jnp.stack(columns, -1)
        # Each is compared with the one before it, in a way that has an answer for any size.
        before = [lax.pad(column, np.int32(-1), [(1, -1, 0)]) for column in columns]
        first = functools.reduce(jnp.logical_or, map(lax.ne, columns, before))
        place = _running_sum(first) - 1
        data = jnp.zeros_like(data).at[place].add(data)
        # Places that are left over at the end lie outside the matrix, which BCOO ignores.
        indices = [
            jnp.full(column.shape, size, column.dtype).at[place].set(column)
            for column, size in zip(columns, self.shape, strict=True)
        ]
        return data, jnp.stack(indices, -1)

    def _enumerated_entries(self, arrays: Sequence[Any]) -> Any:
        """The entries, read from the coefficients one by one; those at one place are added up."""
        parts = [lax.reshape(array, (array.size,)) for array in arrays]
        unique, inverse = self._enumerated
        if len(unique) == len(inverse):
            joined = concatenated(parts, 0) if len(parts) > 1 else parts[0]
            return _read(joined, self._sources[np.argsort(inverse)])
        zeros = jax_internals.full((len(unique),), 0, parts[0].dtype)
        entries = _read(lax.concatenate(parts, 0), self._sources)
        return zeros.at[inverse].add(entries, mode="promise_in_bounds")

    def _gathered(self, leaf: Callable[[Cell, tuple[int, ...]], Any], xp: Any) -> Any:
        """Concatenates what `leaf` gives for each cell, in sorted order.

        `leaf` receives a cell and the linear strides of the row axes. It returns an array of shape
        (rows of the cell along each axis, entries of a row, ...).
        """
        cells = self._cells
        assert cells is not None
        return self._built(cells, 0, leaf, xp)

    def _built(self, node: Any, axis: int, leaf: Callable[..., Any], xp: Any) -> Any:
        if isinstance(node, Cell):
            return leaf(node, row_strides(self._rows))
        parts = []
        for child in node:
            part = self._built(child, axis + 1, leaf, xp)
            parts.append(xp.reshape(part, (*part.shape[:axis], -1, *part.shape[axis + 2 :])))
        if len(parts) == 1:
            return parts[0]
        return concatenated(parts, axis) if xp is jnp else np.concatenate(parts, axis)

    @functools.cached_property
    def _margins(self) -> tuple[int, int] | None:
        """How many entries the first and the last row have less than the others.

        These are rows along the first axis; None where others differ, or there are many kinds.
        """
        if isinstance(self._cells, Cell) or not 1 < len(self._cells) <= _MOST_KINDS:
            return None
        kinds = [leaves(node) for node in self._cells]
        rows = [kind[0].high[0] - kind[0].low[0] for kind in kinds]
        if sum(rows) != self._rows[0]:
            return None
        each = [sum(c.entries for c in kind) // n for kind, n in zip(kinds, rows, strict=True)]
        fewer = [max(each) - entries for entries in each]
        inner = fewer[(rows[0] == 1) : len(rows) - (rows[-1] == 1)]
        return None if any(inner) else (fewer[0], fewer[-1])

    def _shared(self, arrays: Sequence[Any], first: int, last: int) -> Any:
        """The entries of rows that devices may share: each kind of row in all, then selected.

        What a concatenation is made of would be gathered.

        Args:
            arrays: the coefficients of each term.
            first: how many entries the first row has less than the others.
            last: those that the last row has less.
        """
        values = iter(in_all_rows(leaves(self._cells), self._rows[0], arrays))
        parts = [self._built(node, 1, lambda *_: next(values), jnp) for node in self._cells]
        zero = np.zeros((), parts[0].dtype)
        parts[0] = lax.pad(parts[0], zero, [(0, 0, 0), (first, 0, 0)])
        parts[-1] = lax.pad(parts[-1], zero, [(0, 0, 0), (0, last, 0)])
        whole = selected(parts, [leaves(node)[0].high[0] for node in self._cells])
        return lax.slice(lax.reshape(whole, (whole.size,)), (first,), (whole.size - last,))


def _read(x: Any, places: np.ndarray) -> Any:
    """The entries of a vector at static places."""
    if len(places) == x.size and (np.diff(places) == 1).all():
        return x
    return x.at[places].get(mode="promise_in_bounds")


def _running_sum(flags: Any) -> Any:
    if isinstance(flags.size, int):
        return jnp.cumsum(flags)
    # JAX wants to see that a symbolic size is at least one.
    longer = jnp.cumsum(lax.pad(flags, np.False_, [(1, 0, 0)]))
    return lax.slice_in_dim(longer, 1, None)


@memoised(1024)
def assembly(
    terms: tuple[Term, ...], out_shape: tuple[int, ...], in_shape: tuple[int, ...]
) -> Assembly:
    """The assembly of a block; memoised."""
    return Assembly(terms, out_shape, in_shape)


def _is_box(term: Term) -> bool:
    """Whether distinct loop points have distinct positions that fill a box."""
    maps = term.out_map + term.in_map
    loops = [loop for affine in maps for loop, _ in affine.strides]
    return (
        not term.lookups
        and len(loops) == len(set(loops))
        and all(coefficients.digits(affine.strides, term.sizes) is not None for affine in maps)
    )


def is_injective(term: Term) -> bool:
    """Whether distinct loop points surely have distinct positions."""
    plain = [
        affine for affine in term.out_map + term.in_map if all(k >= 0 for k, _ in affine.strides)
    ]
    seen = {
        loop
        for affine in plain
        if coefficients.digits(affine.strides, term.sizes) is not None
        for loop, _ in affine.strides
    }
    return len(seen) == len(term.sizes)


def _positions(term: Term, out_shape: Sequence[int], in_shape: Sequence[int]) -> np.ndarray:
    """The linear position of every loop point in the flattened block."""
    offset, strides = linear(term.out_map + term.in_map, (*out_shape, *in_shape))
    symbols = {
        -1 - k: (lookup.axes, lookup.table.values)  # type: ignore[attr-defined]
        for k, lookup in enumerate(term.lookups)
    }
    sizes = dict(enumerate(term.sizes))
    loops = range(len(term.sizes))
    return index_arrays.evaluate(offset, list(strides.items()), loops, sizes, symbols).reshape(-1)


def _unravel(position: Any, shape: Sequence[int]) -> list[Any]:
    parts = []
    for stride, size in zip(row_strides(shape), shape, strict=True):
        part = position if stride == 1 else lax.div(position, lax.full_like(position, stride))
        parts.append(part if stride * size >= math.prod(shape) else _rem(part, size))
    return parts


def _rem(x: Any, size: int) -> Any:
    return lax.rem(x, lax.full_like(x, size))


@jax.tree_util.register_pytree_node_class
class Coordinates:
    """Sorted entries on their way to a sparse matrix.

    Between a compiled program and its caller only the data are passed: the static indices stay
    outside the program, so that they are neither constants nor results of it.
    """

    def __init__(self, entries: Assembly, data: Any, indices: Any) -> None:
        """Entries of an assembly; `indices` where they depend on data, else None."""
        self._entries, self.data, self._indices = entries, data, indices

    def tree_flatten(self) -> tuple[Any, Any]:
        """The data; a static pattern stays static."""
        return (self.data, self._indices), self._entries

    @classmethod
    def tree_unflatten(cls, entries: Assembly, children: Any) -> "Coordinates":
        """The inverse of `tree_flatten`."""
        return cls(entries, *children)

    def partitioned(self, names: Sequence[Any], mesh: Any) -> "Coordinates":
        """The same with explicit shardings: the entries are shared out as the first axis is.

        Args:
            names: for each axis of the shape the names of axes of the mesh, or None; none for
                entries that are replicated.
            mesh: the mesh.
        """
        data, indices = self.data, self._indices
        axes = zip(names, self._entries.shape, strict=bool(names))
        first = next((own for own, size in axes if size != 1), None)
        is_even = first is not None and self._entries.nse % jax_internals.shares(first, mesh) == 0
        data = jax_internals.partitioned(data, (first if is_even else None,), mesh)
        if indices is not None:
            indices = jax_internals.partitioned(indices, (), mesh)
        return Coordinates(self._entries, data, indices)

    @property
    def places(self) -> np.ndarray | None:
        """Where the entries lie in the flattened dense block; None where that depends on data."""
        if self._indices is not None or not self._entries.is_static:
            return None
        pattern, shape = self._entries.pattern, self._entries.shape
        if not shape:
            return np.zeros(len(pattern), np.int64)
        return np.ravel_multi_index(tuple(pattern.T), shape)

    def to_bcoo(self) -> "BCOO":
        """The matrix; its indices are NumPy, or computed in the program if they are large."""
        indices = self._indices
        if indices is None:
            indices = self._entries.indices(traced=jax_internals.is_tracer(self.data))
        from jax.experimental.sparse import BCOO  # takes a while to import

        static = {"shape": self._entries.shape, "indices_sorted": True, "unique_indices": True}
        # The constructor would copy NumPy indices to the device at every call.
        return BCOO.tree_unflatten(static, (self.data, indices))

    @property
    def has_pattern(self) -> bool:
        """Whether the positions do not depend on data."""
        return self._entries.has_pattern

    @property
    def matrix(self) -> Pattern:
        """The static pattern of the flattened matrix.

        Raises:
            ValueError: where positions depend on data.
        """
        return self._entries.matrix

    def to_bcsr(self) -> "BCSR":
        """The flattened matrix by rows; its indices are NumPy.

        Raises:
            ValueError: where positions depend on data.
        """
        from jax.experimental.sparse import BCSR

        matrix = self.matrix
        static = {"shape": matrix.shape, "indices_sorted": True, "unique_indices": True}
        return BCSR.tree_unflatten(static, (self.data, matrix.columns, matrix.indptr))


def csr_array(bcoo: Any, out_shape: tuple[int, ...], in_shape: tuple[int, ...]) -> Any:
    """A BCOO matrix of shape out_shape + in_shape as a `scipy.sparse.csr_array`, flattened.

    Raises:
        ImportError: where SciPy is not installed.
    """
    from scipy.sparse import coo_array  # takes a while to import

    indices = tuple(np.asarray(bcoo.indices).T)
    keep = np.all(np.asarray(bcoo.indices) < np.array((*out_shape, *in_shape)), axis=1)
    split = len(out_shape)

    def flat(parts: tuple[Any, ...], shape: tuple[int, ...]) -> Any:
        parts = tuple(part[keep] for part in parts)
        return np.ravel_multi_index(parts, shape) if shape else np.zeros(keep.sum(), int)

    at = flat(indices[:split], out_shape), flat(indices[split:], in_shape)
    matrix = math.prod(out_shape), math.prod(in_shape)
    return coo_array((np.asarray(bcoo.data)[keep], at), matrix).tocsr()
