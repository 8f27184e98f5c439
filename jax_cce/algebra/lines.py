"""Lines: terms that are shifted copies of each other, and the box that holds two of them."""

from collections.abc import Hashable
from typing import NamedTuple

from jax_cce.algebra.terms import Affine, Term
from jax_cce.caches import memoised

__all__ = ["Line", "Union", "line", "union"]


class Union(NamedTuple):
    """The smallest box that holds two terms of the same directions.

    Attributes:
        term: the term over the box.
        starts: for each of the two where its loops start in the box's.
    """

    term: Term
    starts: tuple[tuple[int, ...], tuple[int, ...]]


class Line(NamedTuple):
    """Where a term lies, so that only terms that may be joined are compared.

    Attributes:
        direction: what two terms share if they may be shifted copies of each other.
        residual: what they share if a shift along their loops leads from one to the other.
        shifts: the first position along each loop.
    """

    direction: Hashable
    residual: tuple[int, ...]
    shifts: tuple[int, ...]


@memoised(1 << 14)
def line(term: Term) -> Line:
    """The line, plane ... on which a term lies; with lookups it is alone on it."""
    maps = term.out_map + term.in_map
    if term.lookups or not term.sizes:
        return Line(term, (), ())
    shifts: dict[int, int] = {}
    for affine in maps:
        if len(affine.strides) == 1:
            ((loop, stride),) = affine.strides
            shifts.setdefault(loop, affine.offset // stride)
    residual = tuple(
        affine.offset - sum(shifts.get(loop, 0) * stride for loop, stride in affine.strides)
        for affine in maps
    )
    direction = tuple(affine.strides for affine in maps)
    return Line(direction, residual, tuple(shifts.get(k, 0) for k in range(len(term.sizes))))


@memoised(1 << 14)
def union(one: Term, other: Term) -> Union | None:
    """Two terms of the same direction as one, if together they fill a box of loops.

    Returns:
        None where they lie on different lines, or would leave a part of the box empty.
    """
    if line(one)[:2] != line(other)[:2] or one.lookups or not one.sizes:
        return None
    if not all(isinstance(size, int) for size in (*one.sizes, *other.sizes)):
        return None
    shift: dict[int, int] = {}
    pending = []
    for mine, theirs in zip(one.out_map + one.in_map, other.out_map + other.in_map, strict=True):
        gap = theirs.offset - mine.offset
        if not mine.strides:
            if gap:
                return None
        elif len(mine.strides) == 1:
            ((loop, stride),) = mine.strides
            if gap % stride or shift.setdefault(loop, gap // stride) != gap // stride:
                return None
        else:
            pending.append((mine, gap))
    for mine, gap in pending:
        if any(loop not in shift for loop, _ in mine.strides):
            return None
        if sum(shift[loop] * stride for loop, stride in mine.strides) != gap:
            return None
    low, high = [], []
    partial = []
    for loop, (a, b) in enumerate(zip(one.sizes, other.sizes, strict=True)):
        start = shift.get(loop, 0)
        low.append(min(0, start))
        high.append(max(a, start + b))
        if not (start == low[loop] and start + b == high[loop]):
            partial.append((loop, 1))
        if not (low[loop] == 0 and a == high[loop]):
            partial.append((loop, 0))
    # One holds the other, or they differ along one loop and leave no gap there.
    if {which for _, which in partial} == {0, 1}:
        loops = {loop for loop, _ in partial}
        if len(loops) > 1:
            return None
        (loop,) = loops
        if max(0, shift[loop]) > min(one.sizes[loop], shift[loop] + other.sizes[loop]):
            return None

    def moved(affine: Affine) -> Affine:
        return affine._replace(
            offset=affine.offset + sum(stride * low[loop] for loop, stride in affine.strides)
        )

    axes = tuple(range(len(one.sizes)))
    term = Term(
        tuple(b - a for a, b in zip(low, high, strict=True)),
        tuple(map(moved, one.out_map)),
        tuple(map(moved, one.in_map)),
        axes,
        one.layout and other.layout,
    )
    starts = (
        tuple(-start for start in low),
        tuple(shift.get(loop, 0) - start for loop, start in enumerate(low)),
    )
    return Union(term, starts)
