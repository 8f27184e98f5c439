"""From coefficient arrays to dense arrays: where the entries of terms go."""

import functools
import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import lax

from jax_cce import jax_internals
from jax_cce.algebra import index_arrays
from jax_cce.algebra.coefficients import (
    NO_SYMBOLS,
    Symbols,
    align,
    array_of,
    flat_index,
    loops_read,
    promote,
)
from jax_cce.algebra.terms import Affine, Term

__all__ = [
    "Placed",
    "dense_sum",
    "lookups",
    "materialise",
    "placed",
]


class Placed(NamedTuple):
    """A coefficient array and where its entries go.

    Attributes:
        array: the coefficient.
        axes: the loop of each of its axes.
        sizes: sizes of all loops.
        maps: for each axis of the result, its position as a function of the loops.
        symbols: values of the lookups in the maps.
    """

    array: Any
    axes: Sequence[int]
    sizes: Sequence[int]
    maps: Sequence[Affine]
    symbols: Symbols = NO_SYMBOLS


def placed(term: Term, array: Any, slots: Mapping[int, Any]) -> Placed:
    """A coefficient with the maps of its term, and the index arrays that they read."""
    return Placed(
        array, term.axes or (), term.sizes, term.out_map + term.in_map, lookups(term, slots)
    )


def lookups(term: Term, slots: Mapping[int, Any]) -> Symbols:
    """The values of a term's lookups."""
    return {
        -1 - index: (lookup.axes, array_of(lookup.table, slots, jnp))
        for index, lookup in enumerate(term.lookups)
    }


# A term is scattered into an array of at least so many entries, of which it fills at most one in so
# many; below, a masked sum is one fused loop, also under vmap.
_LARGE = 1 << 14
_SPARSE = 16


# Fewer entries are placed one term after the other.
_LEAST = 64
# So many terms are put side by side: two are as fast as a sum, and slower for many points of
# `jax.vmap`.
_LEAST_TILES, _MOST_TILES = 3, 16


def dense_sum(
    items: Sequence[Placed], shape: Sequence[int], *, at_once: bool = False, apart: bool = False
) -> Any:
    """The sum of terms as one dense array.

    Terms that fill little of a large array are scattered into it, so that the work is one fill
    plus their entries. (Measured on the CPU: 1000 x 1000, three diagonals, 0.6 ms, as long as
    the fill alone; a masked sum over all entries takes a multiple of it.)

    Args:
        items: the terms.
        shape: the array's shape.
        at_once: whether several terms that fill little of the array are scattered into it together,
            behind an optimization barrier, so that no entry is computed twice. That compiles to
            more kernels, and pays where nothing is computed from the sum.
        apart: whether the array is stacked from its entries, if these are few runs at static
            positions. For many points of `jax.vmap` each entry is then computed by a loop of its
            own, where a sum would compute every term for every entry. (Measured on the CPU: Roe
            flux, 4096 points of 3 x 6 entries, 0.39 ms instead of 2.2.)
    """
    # Over devices a sum is computed where its entries are, and a scatter in one place.
    is_shared_out = jax_internals.is_shared_out()
    if apart and not is_shared_out and (runs := _runs(items, shape)):
        return _stacked(items, runs, shape)
    if at_once and not is_shared_out and (chosen := _scattered_at_once(items, shape)):
        rest = [item for k, item in enumerate(items) if k not in chosen]
        return _scatter_all([items[k] for k in chosen], shape, dense_sum(rest, shape))
    if not is_shared_out and (tiles := _tiles(items, shape)):
        return _joined(tiles, [(0, size) for size in shape])
    return _added(items, shape)


def _added(items: Sequence[Placed], shape: Sequence[int]) -> Any:
    """The sum of terms, one after the other."""
    is_shared_out = jax_internals.is_shared_out()
    full = math.prod(shape)
    is_large = not is_shared_out and jax_internals.exceeds(full, _LARGE - 1)
    sparse = [
        is_large and not jax_internals.exceeds(math.prod(item.sizes) * _SPARSE, full)
        for item in items
    ]
    total = None
    for item, scattered in zip(items, sparse, strict=True):
        if not scattered:
            array = materialise(item, shape)
            total = array if total is None else lax.add(*promote(total, array))
    for item, scattered in zip(items, sparse, strict=True):
        if scattered:
            if total is None:
                total = jax_internals.full(shape, 0, item.array.dtype)
            total = _scatter(item, shape, total)
    return total


class _Tile(NamedTuple):
    """An item, and for each axis of the result the first and the end of its positions."""

    item: Placed
    box: tuple[tuple[int, int], ...]


def _tiles(items: Sequence[Placed], shape: Sequence[int]) -> list[_Tile]:
    """Several items in their boxes; none where these are few, many, or not static.

    (Measured on the CPU: a 46 x 6 matrix of six columns above a diagonal, 0.05 us instead of 0.65.)
    """
    if not _LEAST_TILES <= len(items) <= _MOST_TILES or not all(
        isinstance(size, int) for size in shape
    ):
        return []
    tiles = []
    for item in items:
        box = []
        for offset, strides in item.maps:
            if any(loop < 0 for loop, _ in strides):
                return []
            ends = [stride * (item.sizes[loop] - 1) for loop, stride in strides]
            low, high = (sum(end for end in ends if end * sign > 0) for sign in (-1, 1))
            box.append((offset + low, offset + high + 1))
        tiles.append(_Tile(item, tuple(box)))
    return tiles


def _joined(tiles: Sequence[_Tile], box: Sequence[tuple[int, int]]) -> Any:
    """The part of a sum that lies in a box: parts side by side where no tile is cut."""
    for axis in range(len(box)):
        along = sorted(tiles, key=lambda tile: tile.box[axis])
        parts, reach = [[along[0]]], along[0].box[axis][1]
        for tile in along[1:]:
            first, end = tile.box[axis]
            if first >= reach:
                parts.append([])
            parts[-1].append(tile)
            reach = max(reach, end)
        if len(parts) > 1:
            cuts = [part[0].box[axis][0] for part in parts[1:]]
            spans = itertools.pairwise((box[axis][0], *cuts, box[axis][1]))
            joined = [
                _joined(part, [*box[:axis], span, *box[axis + 1 :]])
                for part, span in zip(parts, spans, strict=True)
            ]
            return lax.concatenate(promote(*joined), axis)
    shifted = [
        item._replace(
            maps=[
                affine._replace(offset=affine.offset - first)
                for affine, (first, _) in zip(item.maps, box, strict=True)
            ]
        )
        for item, _ in tiles
    ]
    return _added(shifted, [end - first for first, end in box])


def _scattered_at_once(items: Sequence[Placed], shape: Sequence[int]) -> list[int]:
    """The terms at static positions that each fill at most a quarter, and together at most a half.

    No term where that holds for one only. (Measured on the CPU: the four diagonals of Lorenz 96
    with 40 unknowns, 5 us instead of 26, 18 to 42 instead of 140 for 32 points of `jax.vmap`.)
    """
    full = math.prod(shape)
    if not isinstance(full, int) or full < _LEAST:
        return []
    counts = [math.prod(item.sizes) for item in items]
    chosen = [
        k
        for k, (item, count) in enumerate(zip(items, counts, strict=True))
        if isinstance(count, int) and 4 * count <= full and _static_places(item, shape) is not None
    ]
    few = len(chosen) > 1 and 2 * sum(counts[k] for k in chosen) <= full
    return chosen if few else []


# A result is stacked from at most so many runs of entries, and from so many for each item.
_MOST_RUNS, _RUNS_PER_ITEM = 256, 2
# So few entries are selected, in one loop.
_MOST_SELECTED = 12


class _Run(NamedTuple):
    """Consecutive entries of a result, each the sum of one entry of some items.

    Attributes:
        size: how many.
        sources: the items, and for each the first of its entries.
    """

    size: int
    sources: tuple[tuple[int, int], ...]


def _runs(items: Sequence[Placed], shape: Sequence[int]) -> list[_Run]:
    """A result as runs of entries of its items; none where they are many, or not static.

    One item that fills all of the result is there already.
    """
    full = math.prod(shape)
    if not isinstance(full, int) or not full or full > _LARGE or len(items) < 2:
        return []
    most = min(_MOST_RUNS, _RUNS_PER_ITEM * len(items))
    entries: list[list[tuple[int, int]]] = [[] for _ in range(full)]
    for k, item in enumerate(items):
        places = _static_places(item, shape)
        if places is None:
            return []
        for at, place in enumerate(places.tolist()):
            entries[place].append((k, at))
    runs: list[_Run] = []
    for entry in entries:
        size, first = runs[-1] if runs else (0, ())
        if runs and entry == [(k, at + size) for k, at in first]:
            runs[-1] = _Run(size + 1, first)
        else:
            runs.append(_Run(1, tuple(entry)))
    return runs if sum(bool(run.sources) for run in runs) <= most else []


def _static_places(item: Placed, shape: Sequence[int]) -> np.ndarray | None:
    """The flat position of every entry of an item, row-major; None where values decide."""
    _, _, sizes, maps, symbols = item
    if (
        not isinstance(math.prod(sizes), int)
        or any(loop < 0 for affine in maps for loop, _ in affine.strides)
        or not jax_internals.is_plain(item.array)
    ):
        return None
    index = flat_index(maps, shape, range(len(sizes)), sizes, symbols, np)
    return np.broadcast_to(index, sizes).reshape(-1)


def _flat(item: Placed) -> Any:
    """The entries of an item in the order of `_static_places`."""
    x, axes, sizes, _, _ = item
    full = align(x, axes, range(len(sizes)), sizes)
    return lax.reshape(full, (full.size,))


def _stacked(items: Sequence[Placed], runs: Sequence[_Run], shape: Sequence[int]) -> Any:
    """A result, run by run."""
    flat = promote(*map(_flat, items))
    size, number = math.prod(shape), jax_internals.full((), 0, flat[0].dtype)
    filled = [run for run in runs if run.sources]
    if len(filled) <= _MOST_SELECTED and all(run.size == 1 for run in filled):
        # One loop, in which few entries are cheap to tell apart.
        place, total, at = lax.iota(np.int32, size), lax.broadcast(number, (size,)), 0
        for run in runs:
            if run.sources:
                here = lax.eq(place, lax.full_like(place, at))
                total = lax.select(
                    here, lax.broadcast_in_dim(_summed(flat, run), (size,), (0,)), total
                )
            at += run.size
        return lax.reshape(total, tuple(shape))
    parts = [
        _summed(flat, run) if run.sources else lax.broadcast(number, (run.size,)) for run in runs
    ]
    return lax.reshape(lax.concatenate(parts, 0), tuple(shape))


def _summed(flat: Sequence[Any], run: _Run) -> Any:
    slices = [lax.slice(flat[k], (at,), (at + run.size,)) for k, at in run.sources]
    return functools.reduce(lax.add, slices)


def _scatter_all(items: Sequence[Placed], shape: Sequence[int], total: Any) -> Any:
    """Adds terms at static positions to the array `total`, or to zeros where it is None."""
    places = [places for item in items if (places := _static_places(item, shape)) is not None]
    joined = lax.optimization_barrier(lax.concatenate(promote(*map(_flat, items)), 0))
    if total is None:
        total = jax_internals.full(shape, 0, joined.dtype)
    total, joined = promote(total, joined)
    at = np.concatenate(places).astype(np.int32)
    is_unique = len(index_arrays.distinct(at)) == len(at)
    flat = lax.reshape(total, (total.size,))
    flat = flat.at[at].add(joined, mode="promise_in_bounds", unique_indices=is_unique)
    return lax.reshape(flat, tuple(shape))


def materialise(item: Placed, shape: Sequence[int]) -> Any:
    """The array of `shape` with entries sum over loops of array * [position = maps(loops)]."""
    x, own, sizes, maps, _ = item
    sizes = list(sizes)
    ties: list[tuple[int, int]] = []  # two loops that must be equal
    groups: list[list[int]] = [[] for _ in maps]
    seen: set[int] = set()
    if any(variable < 0 for affine in maps for variable, _ in affine.strides):
        return _scatter(item, shape, jax_internals.full(shape, 0, x.dtype))
    axes = range(len(maps))
    # Over devices a Jacobian is shared out by its columns, as `jax.jacrev` shares it out.
    for axis in reversed(axes) if jax_internals.is_shared_out() else axes:
        affine = maps[axis]
        strides = []
        for loop, stride in affine.strides:
            if loop in seen:
                sizes.append(sizes[loop])
                ties.append((loop, len(sizes) - 1))
                loop = len(sizes) - 1
            seen.add(loop)
            strides.append((loop, stride))
        ordered = sorted(strides, key=lambda item: -abs(item[1]))
        if not _are_digits(ordered, sizes):
            # Several loop points may share one position, as in a convolution.
            return _scatter(item, shape, jax_internals.full(shape, 0, x.dtype))
        groups[axis] = [loop for loop, _ in ordered]

    loops = [loop for group in groups for loop in group]
    x = align(x, own, loops, sizes)
    if ties:
        equal = [
            lax.eq(*(lax.broadcasted_iota(np.int32, x.shape, loops.index(k)) for k in tie))
            for tie in ties
        ]
        x = lax.select(functools.reduce(lax.bitwise_and, equal), x, lax.full_like(x, 0))
    return _spread(x, groups, sizes, maps, shape)


def _are_digits(ordered: Sequence[tuple[int, int]], sizes: Sequence[int]) -> bool:
    """Whether loops, slow ones first, are digits of a number, with gaps between them allowed."""
    for position, (_, stride) in enumerate(ordered[:-1]):
        # The lower digits must fit between two steps of this one, in the same direction.
        below = sum(abs(s) * (sizes[k] - 1) for k, s in ordered[position + 1 :])
        next_stride = ordered[position + 1][1]
        if below >= abs(stride) or stride * next_stride < 0 or stride % next_stride:
            return False
    return True


def _spread(
    x: Any,
    groups: Sequence[Sequence[int]],
    sizes: Sequence[int],
    maps: Sequence[Affine],
    shape: Sequence[int],
) -> Any:
    """Joins the loops of each result axis into one and pads it to its place."""
    zero = jax_internals.number_like(x, 0)
    # Low digits that leave gaps are padded up to the stride above them.
    padding, extents, interiors = [], [], []
    for group, affine in zip(groups, maps, strict=True):
        magnitude = [abs(s) for _, s in sorted(affine.strides, key=lambda item: -abs(item[1]))]
        full = [
            sizes[loop] if position == 0 else magnitude[position - 1] // magnitude[position]
            for position, loop in enumerate(group)
        ]
        padding += [(0, extent - sizes[loop], 0) for loop, extent in zip(group, full, strict=True)]
        extents.append(math.prod(full))
        interiors.append(magnitude[-1] if magnitude else 1)
    if any(high for _, high, _ in padding):
        x = lax.pad(x, zero, padding)
    if x.shape != tuple(extents):
        x = lax.reshape(x, extents)
    backwards = [
        axis for axis, affine in enumerate(maps) if affine.strides and affine.strides[0][1] < 0
    ]
    if backwards:
        x = lax.rev(x, backwards)
    config = []
    for axis, affine in enumerate(maps):
        step, extent = interiors[axis], extents[axis]
        low = affine.offset - (step * (extent - 1) if axis in backwards else 0)
        config.append((low, shape[axis] - low - (step * (extent - 1) + 1), step - 1))
    if any(any(item) for item in config):
        x = lax.pad(x, zero, config)
    return x


def _scatter(item: Placed, shape: Sequence[int], total: Any) -> Any:
    """Adds a term to the array `total`, entry by entry."""
    x, axes, sizes, maps, symbols = item
    loops = sorted(loops_read(maps, symbols))
    index = flat_index(maps, shape, loops, sizes, symbols)
    total, x = promote(total, align(x, axes, loops, sizes))
    flat = lax.reshape(total, (total.size,))
    flat = flat.at[lax.reshape(index, (index.size,))].add(
        lax.reshape(x, (index.size,)), mode="promise_in_bounds"
    )
    return lax.reshape(flat, tuple(shape))
