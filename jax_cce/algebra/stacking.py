"""Many pieces of a block as one: their positions in a table, their coefficients side by side.

A block that collects one entry at a time, as in an unrolled recurrence or a graph of small
matrices, would else have as many terms as entries, and every product would visit them all.
Loops that all pieces share stay loops; the points of the others are enumerated.
"""

import math
from collections.abc import Hashable, Sequence
from typing import NamedTuple

import numpy as np

from jax_cce.algebra import index_arrays
from jax_cce.algebra.blocks import Piece
from jax_cce.algebra.index_arrays import Table
from jax_cce.algebra.terms import Affine, Lookup, Term, Unrepresentable, canonical
from jax_cce.caches import memoised

__all__ = ["Frame", "Stacked", "frame", "listed", "points_of", "positions_of", "stacked"]

# Shorter loops are enumerated.
_LEAST_KEPT = 33
# Longer lists keep a loop along an axis whose positions are equidistant.
_MOST_LISTED = 1 << 10


class Frame(NamedTuple):
    """What pieces must share to be stacked with their long loops left as they are.

    Attributes:
        kept: the long loops, in order of appearance.
        key: the maps that read them, and their sizes.
    """

    kept: tuple[int, ...]
    key: Hashable


@memoised(1 << 14)
def frame(term: Term) -> Frame | None:
    """The long loops of a term; None where it reads an index array that is not static elsewhere."""
    maps = term.out_map + term.in_map
    read = [
        {
            loop
            for variable, _ in affine.strides
            for loop in ((variable,) if variable >= 0 else term.lookups[-1 - variable].axes)
        }
        for affine in maps
    ]
    # A loop that is read through tables only is one of points that were enumerated before.
    plain = {k for affine in maps for k, _ in affine.strides if k >= 0}
    kept = {k for k in plain if term.sizes[k] >= _LEAST_KEPT}
    while mixed := [loops for loops in read if loops & kept and loops - kept]:
        kept -= set().union(*mixed)
    for affine, loops in zip(maps, read, strict=True):
        if not loops & kept and not _is_static(affine, term):
            return None
    order = [k for loops in read for k in sorted(loops & kept)]
    kept_loops = tuple(dict.fromkeys(order))
    name = {loop: index for index, loop in enumerate(kept_loops)}
    key = tuple(
        _described(affine, term, name) if loops & kept else None
        for affine, loops in zip(maps, read, strict=True)
    )
    return Frame(kept_loops, (key, tuple(term.sizes[k] for k in kept_loops)))


def _is_static(affine: Affine, term: Term) -> bool:
    return all(
        variable >= 0 or isinstance(term.lookups[-1 - variable].table, Table)
        for variable, _ in affine.strides
    )


def _described(affine: Affine, term: Term, name: dict[int, int]) -> Hashable:
    parts: list[Hashable] = []
    for variable, stride in affine.strides:
        if variable >= 0:
            parts.append((name[variable], stride))
        else:
            lookup = term.lookups[-1 - variable]
            axes = tuple(name[axis] for axis in lookup.axes)
            parts.append((lookup._replace(axes=axes), stride))
    return affine.offset, frozenset(parts)


def points_of(term: Term, kept: Sequence[int] = ()) -> int:
    """How many points are enumerated if some loops are kept."""
    return math.prod(size for loop, size in enumerate(term.sizes) if loop not in kept)


class Stacked(NamedTuple):
    """How one term holds several.

    Attributes:
        term: the term.
        loops: for each given term its loops, those that are enumerated first.
        kept: the sizes of the loops that are not enumerated and that a coefficient depends on.
        places: for each enumerated point, one term after the other, its place among the points of
            the result; None where they are the same.
        points: how many points the result has.
        sizes: the sizes of the loops that stand for them.
        order: the order in which the axes of the result's coefficient are taken; size-one axes
            are squeezed out before.
    """

    term: Term
    loops: tuple[tuple[int, ...], ...]
    kept: tuple[int, ...]
    places: Table | None
    points: int
    sizes: tuple[int, ...]
    order: tuple[int, ...]


def stacked(pieces: Sequence[Piece], shape: Sequence[int], *, keep: bool = True) -> Stacked | None:
    """Several terms as one.

    Args:
        pieces: the terms, of one frame where loops are kept.
        shape: out_shape + in_shape of their block.
        keep: whether long loops stay loops.

    Returns:
        How; None where the positions of a term are not static.
    """
    terms = [piece.term for piece in pieces]
    split = len(terms[0].out_map)
    kept: list[tuple[int, ...]] = []
    for term in terms:
        found = frame(term)
        if found is None:
            return None
        kept.append(found.kept if keep else ())
    if not keep and not all(_is_static(a, t) for t in terms for a in t.out_map + t.in_map):
        return None
    reading = _reads(terms[0], kept[0])
    varying = [axis for axis, reads in enumerate(reading) if not reads]
    own, positions = [], []
    for term, loops in zip(terms, kept, strict=True):
        rest = tuple(k for k in range(len(term.sizes)) if k not in loops)
        own.append(rest)
        positions.append(_positions(term, rest, varying))
    joint = np.concatenate(positions, 1)
    extents = [shape[axis] for axis in varying]
    linear = index_arrays.linear_index(list(joint), extents) + np.zeros(joint.shape[1], np.int64)
    places, points = None, len(linear)
    if not (linear[1:] > linear[:-1]).all():
        unique, first, inverse = np.unique(linear, return_index=True, return_inverse=True)
        joint, points, places = joint[:, first], len(unique), Table(inverse.reshape(-1))
    sizes, maps, tables = _fitted(joint)

    shift = len(sizes)
    name = {loop: shift + index for index, loop in enumerate(kept[0])}
    lookups = [Lookup(axes, size, table) for axes, size, table in tables]
    full: list[Affine] = []
    fitted = iter(maps)
    moved: dict[Lookup, int] = {}
    for affine, reads in zip(terms[0].out_map + terms[0].in_map, reading, strict=True):
        if not reads:
            full.append(next(fitted))
            continue
        strides = []
        for variable, stride in affine.strides:
            if variable >= 0:
                strides.append((name[variable], stride))
                continue
            lookup = terms[0].lookups[-1 - variable]
            lookup = lookup._replace(axes=tuple(name[axis] for axis in lookup.axes))
            if lookup not in moved:
                lookups.append(lookup)
                moved[lookup] = -len(lookups)
            strides.append((moved[lookup], stride))
        full.append(Affine(affine.offset, tuple(sorted(strides))))
    # Kept loops on which no coefficient depends are not among the axes.
    carried = [
        index
        for index in range(len(kept[0]))
        if any(loops[index] in (term.axes or ()) for term, loops in zip(terms, kept, strict=True))
    ]
    all_sizes = (*sizes, *(terms[0].sizes[k] for k in kept[0]))
    axes = (*range(shift), *(shift + index for index in carried))
    layout = all(term.layout for term in terms)
    raw = Term(all_sizes, tuple(full[:split]), tuple(full[split:]), axes, layout, tuple(lookups))
    placed = canonical(raw)
    assert placed is not None
    return Stacked(
        placed[0],
        tuple(
            (*rest, *(loops[index] for index in carried))
            for rest, loops in zip(own, kept, strict=True)
        ),
        tuple(all_sizes[shift + index] for index in carried),
        places,
        points,
        sizes,
        placed[1],
    )


def listed(positions: np.ndarray, split: int) -> Term:
    """The term of given positions, sorted and all different; it is not canonical.

    Args:
        positions: for each axis of the block the positions along it, [axes, points].
        split: how many of the axes are those of the later variable.
    """
    sizes, maps, tables = _fitted(positions)
    lookups = tuple(Lookup(*table) for table in tables)
    axes = tuple(range(len(sizes)))
    return Term(sizes, tuple(maps[:split]), tuple(maps[split:]), axes, lookups=lookups)


def positions_of(
    term: Term, out_shape: Sequence[int], in_shape: Sequence[int]
) -> tuple[np.ndarray, np.ndarray]:
    """The linear positions in both variables, at every point of a term whose tables are static.

    Raises:
        Unrepresentable: where sizes are symbols.
    """
    if not all(isinstance(size, int) for size in (*term.sizes, *out_shape, *in_shape)):
        raise Unrepresentable("positions of symbolic sizes")
    loops = tuple(range(len(term.sizes)))
    split = len(out_shape)
    joint = _positions(term, loops, range(split + len(in_shape)))
    nothing = np.zeros(joint.shape[1], np.int64)
    return (
        nothing + index_arrays.linear_index(list(joint[:split]), out_shape),
        nothing + index_arrays.linear_index(list(joint[split:]), in_shape),
    )


def _reads(term: Term, kept: Sequence[int]) -> list[bool]:
    """For each axis of a block whether a term's map reads kept loops."""
    return [
        any(
            not set(kept).isdisjoint(
                (variable,) if variable >= 0 else term.lookups[-1 - variable].axes
            )
            for variable, _ in affine.strides
        )
        for affine in term.out_map + term.in_map
    ]


def _positions(term: Term, loops: tuple[int, ...], axes: Sequence[int]) -> np.ndarray:
    """Positions along some axes of the block, at every point of some loops; [axes, points]."""
    maps = term.out_map + term.in_map
    if not loops:
        # One entry, which is what most terms are that are stacked.
        return np.array([[maps[axis].offset] for axis in axes], np.int64).reshape(len(axes), 1)
    sizes = dict(enumerate(term.sizes))
    symbols = {
        -1 - k: (lookup.axes, lookup.table.values)
        for k, lookup in enumerate(term.lookups)
        if isinstance(lookup.table, Table)
    }
    count = math.prod(term.sizes[loop] for loop in loops)
    found = [
        index_arrays.evaluate(maps[axis].offset, maps[axis].strides, loops, sizes, symbols)
        for axis in axes
    ]
    return (
        np.stack([values.reshape(-1) for values in found])
        if found
        else np.zeros((0, count), np.int64)
    )


def _fitted(
    positions: np.ndarray,
) -> tuple[tuple[int, ...], list[Affine], list[tuple[tuple[int, ...], int, Table]]]:
    """Loops for sorted positions, [axes, points]: a box, a line, or the points of tables.

    Returns:
        The sizes of the loops, for each axis its map, and the lookups: axes, size and table.
    """
    count = positions.shape[1]
    distinct = list(map(index_arrays.distinct, positions))
    moving = [axis for axis, values in enumerate(distinct) if len(values) > 1]
    tables: list[tuple[tuple[int, ...], int, Table]] = []

    def mapped(loop: int, values: np.ndarray, listed: bool = False) -> Affine:
        if not listed and _is_affine(values):
            return Affine(int(values[0]), ((loop, int(values[1] - values[0])),))
        tables.append(((loop,), int(values.max()) + 1, Table(values)))
        return Affine(0, ((-len(tables), 1),))

    maps = [Affine(int(row[0]), ()) for row in positions]
    if math.prod(len(distinct[axis]) for axis in moving) == count:
        # Sorted and all there: every combination of the axes' values.
        for loop, axis in enumerate(moving):
            maps[axis] = mapped(loop, distinct[axis])
        return tuple(len(distinct[axis]) for axis in moving), maps, tables
    # Few points are listed along all axes, so that `frame` finds a list and not a line.
    listed = count <= _MOST_LISTED and not all(_is_affine(positions[axis]) for axis in moving)
    for axis in moving:
        # A table may well repeat its values, but an affine map with stride 0 reads no loop.
        maps[axis] = mapped(0, positions[axis], listed)
    return (count,), maps, tables


def _is_affine(values: np.ndarray) -> bool:
    steps = np.diff(values)
    return bool((steps == steps[0]).all())
