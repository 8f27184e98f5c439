"""Positions that come from index arrays: affine maps, static tables or lookups."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax

from jax_cce import jax_internals
from jax_cce.algebra.index_arrays import Table
from jax_cce.algebra.terms import Affine, Lookup, Term, Unrepresentable
from jax_cce.jax_internals import Literal
from jax_cce.program.flat import Equation
from jax_cce.rules.local import LocalTerm, Primals, along, local_term

__all__ = [
    "Positions",
    "Window",
    "as_affine",
    "boxes_outside",
    "clipped",
    "known",
    "outside_terms",
    "restricted",
    "sum_of",
    "within",
]

# A static mask of more entries is not enumerated.
_MOST_ENTRIES = 1 << 24
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
    """The identity on the entries at which a static mask holds.

    Raises:
        Unrepresentable: where it has too many entries to be enumerated.
    """
    rank = mask.ndim
    loops = [along(axis) for axis in range(rank)]
    if mask.all():
        return [Term(mask.shape, tuple(loops), tuple(loops), None, layout=True)]
    if not mask.any():
        return []
    box = [
        np.flatnonzero(mask.any(axis=tuple(k for k in range(rank) if k != a))) for a in range(rank)
    ]
    low = [int(at[0]) for at in box]
    sizes = tuple(int(at[-1]) - start + 1 for at, start in zip(box, low, strict=True))
    window = tuple(along(axis, start) for axis, start in enumerate(low))
    inside = mask[tuple(slice(s, s + n) for s, n in zip(low, sizes, strict=True))]
    if inside.all():
        return [Term(sizes, window, window, None, layout=True)]
    if inside.size > _MOST_ENTRIES:
        raise Unrepresentable("too many entries to enumerate")
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


class Positions:
    """Builds maps that may read index arrays, for one term."""

    def __init__(self) -> None:
        self.lookups: list[Lookup] = []
        self.tables: list[Callable[[Primals], Any]] = []

    def add(
        self,
        values: np.ndarray | None,
        compute: Callable[[Primals], Any],
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
        if values is not None and (affine := as_affine(values, axes)) is not None:
            return affine
        if values is not None:
            table: Any = Table(values)
        else:
            table = len(self.tables)
            self.tables.append(compute)
        self.lookups.append(Lookup(tuple(axes), size, table))
        return Affine(0, ((-len(self.lookups), 1),))


def as_affine(values: np.ndarray, axes: Sequence[int]) -> Affine | None:
    """Static positions as an affine map, if they are one."""
    if not values.size:
        return Affine(0, ())
    first = int(values.reshape(-1)[0])
    steps = [
        int(values[(*[0] * position, 1, *[0] * (values.ndim - position - 1))]) - first
        if size > 1
        else 0
        for position, size in enumerate(values.shape)
    ]
    corner = first + sum(step * (size - 1) for step, size in zip(steps, values.shape, strict=True))
    # Most index arrays that are none show it there.
    if corner != int(values.reshape(-1)[-1]):
        return None
    expected = np.full(values.shape, first, np.int64)
    for position, step in enumerate(steps):
        shape = [-1 if k == position else 1 for k in range(values.ndim)]
        expected += step * np.arange(values.shape[position]).reshape(shape)
    if not np.array_equal(expected, values):
        return None
    strides = ((axis, step) for axis, step in zip(axes, steps, strict=True) if step)
    return Affine(first, tuple(sorted(strides)))


def sum_of(one: Affine, other: Affine) -> Affine:
    """The sum of two maps."""
    return Affine(one.offset + other.offset, tuple(sorted((*one.strides, *other.strides))))


class Window:
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
        positions = Positions()
        self.batch = list(batch)
        maps = [Affine(0, ()) if k is None else along(k) for k in loops]
        for axis, at in batching:
            maps[axis] = along(batch[at])
        self.inside: np.ndarray | None = None
        limits = [shape[axis] - window[axis] for axis in mapped]
        if values is not None and drops:
            ok = [
                (values[..., j] >= 0) & np.asarray(values[..., j] <= m, bool)
                for j, m in enumerate(limits)
            ]
            inside = np.logical_and.reduce(ok) if ok else np.ones(values.shape[:-1], bool)
            self.inside = None if inside.all() else inside
        for component, axis in enumerate(mapped):
            limit = limits[component]
            static = None if values is None else within(values[..., component], limit)

            def start(primals: Primals, component: int = component, limit: int = limit) -> Any:
                array = lax.index_in_dim(primals.ins[indices], component, axis=-1, keepdims=False)
                return clipped(array, limit)

            maps[axis] = sum_of(maps[axis], positions.add(static, start, batch, limit + 1))
        self.maps = tuple(maps)
        self.lookups, self.tables = tuple(positions.lookups), tuple(positions.tables)
        self.mask: Callable[[Primals], Any] | None = None
        if drops and values is None and mapped:

            def mask(primals: Primals) -> Any:
                array = primals.ins[indices]
                each = [
                    _within(lax.index_in_dim(array, k, axis=-1, keepdims=False), limit)
                    for k, limit in enumerate(limits)
                ]
                return functools.reduce(lax.bitwise_and, each)

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
        if not self.inside.any():
            return ()
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
    out, inn = tuple(map(rename, term.out_map)), tuple(map(rename, term.in_map))
    return [Term(sizes, out, inn, None, term.layout, tuple(lookups))]


def _bounds(array: Any, limit: Any) -> list[Any]:
    """0 and a limit as numbers of an index array's dtype."""
    # A bound that the dtype cannot hold never binds.
    if isinstance(limit, int):
        limit = min(limit, np.iinfo(array.dtype).max)
    return [jax_internals.number_like(array, bound) for bound in (0, limit)]


def within(values: np.ndarray, limit: Any) -> np.ndarray | None:
    """Known indices kept within [0, limit]; None where they depend on a symbolic limit."""
    if isinstance(limit, int):
        return np.clip(values, 0, limit)
    low, high = int(values.min(initial=0)), int(values.max(initial=0))
    return None if low < 0 or jax_internals.exceeds(high, limit, unknown=True) else values


def _within(array: Any, limit: int) -> Any:
    """Which run-time indices are within [0, limit]."""
    low, high = (lax.broadcast(bound, array.shape) for bound in _bounds(array, limit))
    return lax.bitwise_and(lax.ge(array, low), lax.le(array, high))


def clipped(array: Any, limit: int) -> Any:
    """Run-time indices kept within [0, limit]."""
    low, high = _bounds(array, limit)
    return lax.convert_element_type(lax.clamp(low, array, high), np.int32)


def outside_terms(covered: np.ndarray) -> list[Term]:
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
