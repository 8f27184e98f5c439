"""Gather, scatter, dynamic slices and sorts: positions that come from index arrays.

An index array that is known while planning becomes an affine map where it is one (`x[::2]`, a
diagonal), else a static table; one that is known at run time becomes a lookup.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax

from jax_cce import tracing
from jax_cce.rules.registry import LocalJacobian, LocalTerm, Site, along, define, local_term
from jax_cce.structure import Affine, Lookup, Term, Unrepresentable
from jax_cce.tables import Table
from jax_cce.tracing import Equation, Literal

__all__ = ["known", "restricted"]

_DROPS = (lax.GatherScatterMode.FILL_OR_DROP,)


def known(equation: Equation, operand: int) -> np.ndarray | None:
    """The value of an operand where it is known while planning, without unknown entries."""
    atom = equation.inputs[operand]
    if isinstance(atom, Literal):
        return np.asarray(atom.val)
    value = equation.known.get(operand)
    if value is None or (jnp.issubdtype(value.dtype, np.inexact) and np.isnan(value).any()):
        return None
    return value


def restricted(mask: np.ndarray) -> list[Term]:
    """The identity on the entries at which a static mask holds."""
    rank = mask.ndim
    loops = [along(axis) for axis in range(rank)]
    if mask.all():
        return [Term(mask.shape, tuple(loops), tuple(loops), None, layout=True)]
    box = [
        np.flatnonzero(mask.any(axis=tuple(k for k in range(rank) if k != a))) for a in range(rank)
    ]
    if not all(map(len, box)):
        return []
    low = [int(at[0]) for at in box]
    sizes = tuple(int(at[-1]) - start + 1 for at, start in zip(box, low, strict=True))
    window = tuple(along(axis, start) for axis, start in enumerate(low))
    inside = mask[tuple(slice(s, s + n) for s, n in zip(low, sizes, strict=True))]
    if inside.all():
        return [Term(sizes, window, window, None, layout=True)]
    # Axes along which the mask does not change keep their own loop.
    coupled = [k for k in range(rank) if not (inside == np.take(inside, [0], k)).all()]
    flat = inside[tuple(slice(None) if k in coupled else 0 for k in range(rank))]
    at = np.nonzero(flat)
    maps: list[Affine] = []
    lookups: list[Lookup] = []
    others = [k for k in range(rank) if k not in coupled]
    for axis in range(rank):
        if axis in coupled:
            values = at[coupled.index(axis)] + low[axis]
            maps.append(Affine(0, ((-1 - len(lookups), 1),)))
            lookups.append(Lookup((0,), mask.shape[axis], Table(values)))
        else:
            maps.append(along(1 + others.index(axis), low[axis]))
    extents = (len(at[0]), *(sizes[axis] for axis in others))
    return [Term(extents, tuple(maps), tuple(maps), None, layout=True, lookups=tuple(lookups))]


class _Positions:
    """Builds maps that may read index arrays, for one term."""

    def __init__(self) -> None:
        self.lookups: list[Lookup] = []
        self.tables: list[Callable[[Site], Any]] = []

    def add(
        self,
        values: np.ndarray | None,
        compute: Callable[[Site], Any],
        axes: Sequence[int],
        size: int,
    ) -> Affine:
        """The position read from an index array over some loops, in [0, size).

        Args:
            values: the array if it is static.
            compute: computes it at run time.
            axes: the loop of each of its axes.
            size: exclusive bound of its values.
        """
        if values is not None and (affine := _as_affine(values, axes)) is not None:
            return affine
        if values is not None:
            table: Any = Table(values)
        else:
            table = len(self.tables)
            self.tables.append(compute)
        self.lookups.append(Lookup(tuple(axes), size, table))
        return Affine(0, ((-len(self.lookups), 1),))


def _as_affine(values: np.ndarray, axes: Sequence[int]) -> Affine | None:
    """Static positions as an affine map, if they are one."""
    if not values.size:
        return Affine(0, ())
    first = int(values.reshape(-1)[0])
    strides = []
    expected = np.full(values.shape, first, np.int64)
    for position, axis in enumerate(axes):
        if values.shape[position] > 1:
            second = int(np.take(values, 1, position).reshape(-1)[0])
            shape = [-1 if k == position else 1 for k in range(values.ndim)]
            expected += (second - first) * np.arange(values.shape[position]).reshape(shape)
            if second != first:
                strides.append((axis, second - first))
    if not np.array_equal(expected, values):
        return None
    return Affine(first, tuple(sorted(strides)))


def _plus(one: Affine, other: Affine) -> Affine:
    return Affine(one.offset + other.offset, tuple(sorted((*one.strides, *other.strides))))


class _Window:
    """The positions in an array that a gather reads or a scatter writes.

    Attributes:
        maps: for each axis of the array the position, by loops over the window's array (the
            gather's result, the scatter's updates).
        mask: whether windows that reach outside are dropped, and what says so at run time.
        inside: the same where the indices are known: for each batch point.
        batch: the loops of the batch axes.
    """

    def __init__(
        self,
        shape: Sequence[int],
        window: Sequence[int],
        loops: Sequence[int | None],
        batching: Sequence[tuple[int, int]],
        mapped: Sequence[int],
        batch: Sequence[int],
        indices: int,
        equation: Equation,
    ) -> None:
        """Positions of windows.

        Args:
            shape: the array's shape.
            window: extent of the window along each axis of the array.
            loops: the loop along each axis of the window, None where it has none.
            batching: pairs (axis of the array, batch axis of the indices).
            mapped: the axis of the array that each component of an index belongs to.
            batch: the loop of each batch axis of the indices.
            indices: operand number of the indices.
            equation: the gather or scatter.
        """
        drops = equation.params["mode"] in _DROPS
        values = known(equation, indices)
        positions = _Positions()
        self.batch = list(batch)
        maps = [Affine(0, ()) if k is None else along(k) for k in loops]
        for axis, at in batching:
            maps[axis] = along(batch[at])
        self.inside: np.ndarray | None = None
        limits = [shape[axis] - window[axis] for axis in mapped]
        if values is not None and drops:
            ok = [(values[..., j] >= 0) & (values[..., j] <= m) for j, m in enumerate(limits)]
            inside = np.logical_and.reduce(ok) if ok else np.ones(values.shape[:-1], bool)
            self.inside = None if inside.all() else inside
        for component, axis in enumerate(mapped):
            limit = limits[component]
            static = None if values is None else np.clip(values[..., component], 0, limit)

            def start(site: Site, component: int = component, limit: int = limit) -> Any:
                array = lax.index_in_dim(site.ins[indices], component, axis=-1, keepdims=False)
                return _clipped(array, limit)

            maps[axis] = _plus(maps[axis], positions.add(static, start, batch, limit + 1))
        self.maps = tuple(maps)
        self.lookups, self.tables = tuple(positions.lookups), tuple(positions.tables)
        self.mask: Callable[[Site], Any] | None = None
        if drops and values is None and mapped:

            def mask(site: Site) -> Any:
                array = site.ins[indices]
                bound = jnp.asarray(limits, array.dtype)
                return jnp.all((array >= 0) & (array <= bound), axis=-1)

            self.mask = mask

    def local(
        self, sizes: Sequence[int], own: Sequence[Affine], *, writes: bool
    ) -> tuple[LocalTerm, ...]:
        """The block between the array and the windows, whose own maps are given."""
        ends = (self.maps, tuple(own)) if writes else (tuple(own), self.maps)
        axes = None if self.mask is None else tuple(self.batch)
        term = Term(tuple(sizes), *ends, axes, layout=True, lookups=self.lookups)
        if self.inside is None:
            return local_term(term, 1, self.mask, self.tables)
        return tuple(
            piece for kept in _kept(term, self.batch, self.inside) for piece in local_term(kept)
        )


def _kept(term: Term, batch: Sequence[int], inside: np.ndarray) -> list[Term]:
    """A static term on those points of its batch loops that a mask keeps."""
    points = np.nonzero(inside)
    count = len(points[0])
    rest = [loop for loop in range(len(term.sizes)) if loop not in batch]
    number = {loop: 1 + index for index, loop in enumerate(rest)}
    lookups: list[Lookup] = []
    moved: dict[int, Affine] = {}
    for axis, loop in enumerate(batch):
        moved[loop] = Affine(0, ((-1 - len(lookups), 1),))
        lookups.append(Lookup((0,), term.sizes[loop], Table(points[axis])))
    for index, lookup in enumerate(term.lookups):
        assert isinstance(lookup.table, Table)
        values = np.broadcast_to(lookup.table.values, inside.shape)[points]
        moved[-1 - index] = Affine(0, ((-1 - len(lookups), 1),))
        lookups.append(Lookup((0,), lookup.size, Table(values)))

    def rename(affine: Affine) -> Affine:
        strides: dict[int, int] = {}
        for variable, stride in affine.strides:
            name = moved[variable].strides[0][0] if variable in moved else number[variable]
            strides[name] = strides.get(name, 0) + stride
        return Affine(affine.offset, tuple(sorted(strides.items())))

    sizes = (count, *(term.sizes[loop] for loop in rest))
    out, inn = tuple(map(rename, term.out)), tuple(map(rename, term.inn))
    return [Term(sizes, out, inn, None, term.layout, tuple(lookups))]


def _clipped(array: Any, limit: int) -> Any:
    # A bound that the dtype cannot hold never binds.
    limit = min(limit, np.iinfo(array.dtype).max)
    low, high = (lax.full_like(array, bound, shape=()) for bound in (0, limit))
    return lax.convert_element_type(lax.clamp(low, array, high), np.int32)


def _gather(equation: Equation, active: tuple[bool, ...]) -> LocalJacobian:
    numbers, result = equation.params["dimension_numbers"], equation.out_avals[0].shape
    shape, sizes = equation.in_avals[0].shape, equation.params["slice_sizes"]
    batch = [axis for axis in range(len(result)) if axis not in numbers.offset_dims]
    without = {*numbers.collapsed_slice_dims, *numbers.operand_batching_dims}
    offsets = iter(numbers.offset_dims)
    loops = [None if axis in without else next(offsets) for axis in range(len(shape))]
    batching = list(
        zip(numbers.operand_batching_dims, numbers.start_indices_batching_dims, strict=True)
    )
    window = _Window(shape, sizes, loops, batching, numbers.start_index_map, batch, 1, equation)
    own = [along(axis) for axis in range(len(result))]
    block = window.local(result, own, writes=False)
    return LocalJacobian({(0, 0): block} if block else {})


def _scatter_window(equation: Equation) -> _Window:
    numbers, shape = equation.params["dimension_numbers"], equation.in_avals[0].shape
    updates = equation.in_avals[2].shape
    batch = [axis for axis in range(len(updates)) if axis not in numbers.update_window_dims]
    without = {*numbers.inserted_window_dims, *numbers.operand_batching_dims}
    offsets = iter(numbers.update_window_dims)
    loops = [None if axis in without else next(offsets) for axis in range(len(shape))]
    extents = [1 if loop is None else updates[loop] for loop in loops]
    batching = list(
        zip(numbers.operand_batching_dims, numbers.scatter_indices_batching_dims, strict=True)
    )
    mapped = numbers.scatter_dims_to_operand_dims
    return _Window(shape, extents, loops, batching, mapped, batch, 1, equation)


def _updates(equation: Equation) -> tuple[LocalTerm, ...]:
    updates = equation.in_avals[2].shape
    own = [along(axis) for axis in range(len(updates))]
    return _scatter_window(equation).local(updates, own, writes=True)


def _scatter_add(equation: Equation, active: tuple[bool, ...]) -> LocalJacobian:
    edges = {}
    if active[0]:
        edges[0, 0] = _identity(equation.in_avals[0].shape)
    if active[2]:
        edges[2, 0] = _updates(equation)
    return LocalJacobian({key: block for key, block in edges.items() if block})


def _identity(shape: Sequence[int]) -> tuple[LocalTerm, ...]:
    loops = tuple(map(along, range(len(shape))))
    return local_term(Term(tuple(shape), loops, loops, None, layout=True))


def _scatter(equation: Equation, active: tuple[bool, ...]) -> LocalJacobian:
    """Writing at known positions: they belong to the updates, the rest stays.

    Where updates that are differentiated meet in one entry, only JAX knows which of them wins.
    """
    indices = known(equation, 1)
    if equation.params["update_jaxpr"] is not None:
        raise Unrepresentable("an update by a function")
    if indices is None:
        raise Unrepresentable("overwriting at traced indices")
    counts = _times_written(equation)
    if active[2] and counts.max(initial=0) > 1:
        raise Unrepresentable("overwriting an entry twice")
    edges = {}
    if active[0]:
        edges[0, 0] = tuple(piece for term in _outside(counts > 0) for piece in local_term(term))
    if active[2]:
        edges[2, 0] = _updates(equation)
    return LocalJacobian({key: block for key, block in edges.items() if block})


def _times_written(equation: Equation) -> np.ndarray:
    """How often each entry of the operand is overwritten."""
    numbers, shape = equation.params["dimension_numbers"], equation.in_avals[0].shape
    if tracing.size(equation.in_avals[0]) > 1 << 22:
        raise Unrepresentable("too many entries for a static mask")
    window = _scatter_window(equation)
    updates = equation.in_avals[2].shape
    if numbers.operand_batching_dims:
        raise Unrepresentable("batched indices")
    counts = np.zeros(shape, np.int32)
    grid = np.indices(updates)
    keep = np.ones(updates, bool)
    if window.inside is not None:
        spread = [updates[axis] if axis in window.batch else 1 for axis in range(len(updates))]
        keep = np.broadcast_to(window.inside.reshape(spread), updates)
    at = []
    for affine in window.maps:
        position = np.full(updates, affine.offset)
        for variable, stride in affine.strides:
            if variable >= 0:
                position = position + stride * grid[variable]
            else:
                lookup = window.lookups[-1 - variable]
                values = lookup.table.values  # type: ignore[attr-defined]
                spread = [updates[k] if k in lookup.axes else 1 for k in range(len(updates))]
                position = position + stride * values.reshape(spread)
        at.append(position[keep])
    np.add.at(counts, tuple(at), 1)
    return counts


def _outside(covered: np.ndarray) -> list[Term]:
    """The identity outside of the covered entries, as boxes where these are a box."""
    rank = covered.ndim
    if not covered.any():
        return restricted(~covered)
    ends = []
    for axis in range(rank):
        at = np.flatnonzero(covered.any(axis=tuple(k for k in range(rank) if k != axis)))
        ends.append((int(at[0]), int(at[-1]) + 1))
    if not covered[tuple(slice(*end) for end in ends)].all():
        return restricted(~covered)
    return boxes_outside(covered.shape, ends)


def boxes_outside(shape: Sequence[int], ends: Sequence[tuple[int, int]]) -> list[Term]:
    """The identity outside of a box, as at most two boxes for each axis."""
    terms, inner = [], [(0, size) for size in shape]
    for axis, (low, high) in enumerate(ends):
        for part in ((0, low), (high, shape[axis])):
            if part[0] < part[1]:
                box = [*inner[:axis], part, *inner[axis + 1 :]]
                maps = tuple(along(k, start) for k, (start, _) in enumerate(box))
                sizes = tuple(stop - start for start, stop in box)
                terms.append(Term(sizes, maps, maps, None, layout=True))
        inner[axis] = (low, high)
    return terms


def _dynamic_slice(equation: Equation, active: tuple[bool, ...]) -> LocalJacobian:
    """A window whose place is known at run time; JAX clamps it to the operand."""
    shape, out = equation.in_avals[0].shape, equation.out_avals[0].shape
    positions, maps = _starts(equation, 1, shape, out)
    loops = tuple(map(along, range(len(out))))
    term = Term(out, loops, maps, None, layout=True, lookups=tuple(positions.lookups))
    block = local_term(term, 1, None, tuple(positions.tables)) if active[0] else ()
    return LocalJacobian({(0, 0): block} if block else {})


def _starts(
    equation: Equation, first: int, shape: Sequence[int], window: Sequence[int]
) -> tuple[_Positions, tuple[Affine, ...]]:
    positions, maps = _Positions(), []
    for axis, (size, extent) in enumerate(zip(shape, window, strict=True)):
        value = known(equation, first + axis)
        limit = size - extent

        def start(site: Site, operand: int = first + axis, limit: int = limit) -> Any:
            return _clipped(jnp.asarray(site.ins[operand]), limit)

        static = None if value is None else np.clip(value, 0, limit)
        maps.append(_plus(along(axis), positions.add(static, start, (), limit + 1)))
    return positions, tuple(maps)


def _dynamic_update_slice(equation: Equation, active: tuple[bool, ...]) -> LocalJacobian:
    """The update goes to a window, the operand everywhere else."""
    shape, update = equation.in_avals[0].shape, equation.in_avals[1].shape
    positions, maps = _starts(equation, 2, shape, update)
    loops = tuple(map(along, range(len(shape))))
    edges: dict[tuple[int, int], tuple[LocalTerm, ...]] = {}
    if active[0] and not positions.lookups:
        ends = [(m.offset, m.offset + n) for m, n in zip(maps, update, strict=True)]
        edges[0, 0] = tuple(
            piece for term in boxes_outside(shape, ends) for piece in local_term(term)
        )
    elif active[0]:

        def stays(site: Site) -> Any:
            inside: Any = True
            for axis, (size, extent) in enumerate(zip(shape, update, strict=True)):
                start = _clipped(jnp.asarray(site.ins[2 + axis]), size - extent)
                place = lax.broadcasted_iota(np.int32, shape, axis)
                here = (place >= start) & (place < start + extent)
                inside = here & inside
            return jnp.logical_not(inside)

        term = Term(shape, loops, loops, tuple(range(len(shape))), layout=True)
        edges[0, 0] = local_term(term, 1, stays)
    if active[1]:
        term = Term(update, maps, loops, None, layout=True, lookups=tuple(positions.lookups))
        edges[1, 0] = local_term(term, 1, None, tuple(positions.tables))
    return LocalJacobian({key: block for key, block in edges.items() if block})


def _sort(equation: Equation, active: tuple[bool, ...]) -> LocalJacobian:
    """Every operand is permuted along one axis, as an index that is sorted beside them tells."""
    shape, axis = (
        equation.in_avals[0].shape,
        equation.params["dimension"] % len(equation.in_avals[0].shape),
    )
    count = len(equation.inputs)

    def evaluate(operands: Sequence[Any]) -> tuple[Sequence[Any], Sequence[Any]]:
        place = lax.broadcasted_iota(np.int32, shape, axis)
        *results, order = equation.primitive.bind(*operands, place, **equation.params)
        return results, (order,)

    loops = tuple(map(along, range(len(shape))))
    inn = tuple(Affine(0, ((-1, 1),)) if k == axis else loop for k, loop in enumerate(loops))
    lookups = (Lookup(tuple(range(len(shape))), shape[axis], 0),)
    term = Term(shape, loops, inn, None, layout=True, lookups=lookups)
    edges = {}
    for operand, wanted in enumerate(active):
        if wanted and operand < count:
            block = local_term(term, 1, None, (lambda site: site.residuals[0],))
            if block:
                edges[operand, operand] = block
    return LocalJacobian(edges, evaluate)


def _top_k(equation: Equation, active: tuple[bool, ...]) -> LocalJacobian:
    """The second result tells where the first one's entries come from."""
    shape, result = equation.in_avals[0].shape, equation.out_avals[0].shape
    axis = equation.params.get("axis", -1) % len(shape)
    loops = tuple(map(along, range(len(result))))
    inn = tuple(Affine(0, ((-1, 1),)) if k == axis else loop for k, loop in enumerate(loops))
    lookups = (Lookup(tuple(range(len(result))), shape[axis], 0),)
    term = Term(result, loops, inn, None, layout=True, lookups=lookups)
    block = local_term(term, 1, None, (lambda site: site.outs[1],)) if active[0] else ()
    return LocalJacobian({(0, 0): block} if block else {})


define("gather", _gather)
define("scatter-add", _scatter_add)
define("scatter", _scatter)
define("dynamic_slice", _dynamic_slice)
define("dynamic_update_slice", _dynamic_update_slice)
define("sort", _sort)
define("top_k", _top_k)
