"""What passes a term: sets of entries of one variable, seen from those of another.

A set of entries is a Boolean array of the variable's shape. These are the products of the structure
algebra where sums are "or" and products are "and", and coefficients other than masks count as true.
"""

import functools
from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
from jax import lax

from jax_cce.algebra.coefficients import NO_SYMBOLS, Symbols, align, loops_read, take
from jax_cce.algebra.placement import Placed, materialise
from jax_cce.algebra.terms import Affine, Term, along

__all__ = ["covers", "image", "mixes", "passing"]


def passing(
    term: Term,
    entries: Sequence[tuple[Any, Sequence[Affine]]],
    axes: Collection[int],
    mask: Any = None,
    symbols: Symbols = NO_SYMBOLS,
) -> tuple[Any, list[int]] | None:
    """The loop points of a term whose ends lie in given sets.

    Args:
        term: the term.
        entries: sets with the maps that lead to them, the term's `out_map` or `in_map`.
        axes: the loops to tell apart; of the points along any other loop one is enough.
        mask: the term's coefficient, if that is a mask.
        symbols: the term's lookups.

    Returns:
        A Boolean array and the loop of each of its axes, ascending; None for all points.
    """
    parts = [take(array, maps, term.sizes, symbols) for array, maps in entries]
    if mask is not None:
        parts.append((mask, list(term.axes or ())))
    if not parts:
        return None
    joint = sorted({loop for _, loops in parts for loop in loops})
    aligned = [align(array, loops, joint, term.sizes) for array, loops in parts]
    result = functools.reduce(lax.bitwise_and, aligned)
    summed = tuple(axis for axis, loop in enumerate(joint) if loop not in axes)
    if summed:
        result = lax.reduce_or(result, summed)
    return result, [loop for loop in joint if loop in axes]


def image(
    term: Term,
    source: Any,
    shape: Sequence[int],
    mask: Any = None,
    symbols: Symbols = NO_SYMBOLS,
    *,
    transposed: bool = False,
) -> Any:
    """The entries of the later variable that meet a set of entries of the earlier one.

    Args:
        term: the term between the two.
        source: the set; None for all entries.
        shape: the later variable's shape.
        mask: the term's coefficient, if that is a mask.
        symbols: the term's lookups.
        transposed: whether the set is one of the later variable, seen from the earlier one.
    """
    near, far = term.in_map, term.out_map
    if transposed:
        near, far = far, near
    given = [] if source is None else [(source, near)]
    points = passing(term, given, loops_read(far, symbols), mask, symbols)
    array, loops = points or (lax.full((), True), [])
    rank = len(shape)
    if far == tuple(map(along, range(rank))) and term.sizes[:rank] == tuple(shape):
        return align(array, loops, range(rank), term.sizes)
    # Several points may share a place.
    counts = lax.convert_element_type(array, np.int32)
    placed = materialise(Placed(counts, loops, term.sizes, far, symbols), shape)
    return lax.gt(placed, lax.full_like(placed, 0))


def mixes(term: Term, *, transposed: bool = False) -> bool:
    """Whether an entry of the later variable meets several of the earlier one, by the loops."""
    near, far = term.in_map, term.out_map
    if transposed:
        near, far = far, near
    return not _loops(term, near) <= _loops(term, far)


def covers(term: Term, shape: Sequence[int], *, transposed: bool = False) -> bool:
    """Whether every entry of the later variable, of the given shape, is sure to meet the term."""
    maps = term.in_map if transposed else term.out_map
    if any(variable < 0 for affine in maps for variable, _ in affine.strides):
        return False
    size = 1
    for loop in _loops(term, maps):
        size *= term.sizes[loop]
    full = 1
    for extent in shape:
        full *= extent
    return size >= full


def _loops(term: Term, maps: Sequence[Affine]) -> set[int]:
    return loops_read(maps, {-1 - k: (lookup.axes, None) for k, lookup in enumerate(term.lookups)})
