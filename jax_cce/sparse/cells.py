"""Cells: boxes of rows of a block in which the same terms are present."""

import itertools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

from jax_cce.algebra.terms import Affine, Term, linear, split_loop

__all__ = [
    "Cell",
    "Irregular",
    "Run",
    "cells_of",
    "cut_rows",
    "leaves",
    "row_strides",
    "width_of",
]

# More cells than this are slower to trace and compile than one scatter is to run.
_MOST_CELLS = 256


class _Placed(NamedTuple):
    """A term in the cut row space.

    Attributes:
        number: its place in the list of terms.
        term: the term, its loops split where rows were cut.
        rows: for each row axis (first, step, loop); a step of 0 and loop -1 for one position.
        base: linear column at loops zero.
        columns: linear column stride of each loop.
    """

    number: int
    term: Term
    rows: tuple[tuple[int, int, int], ...]
    base: int
    columns: dict[int, int]

    def span(self, axis: int) -> tuple[int, int]:
        """First row and the one after the last, along a row axis."""
        first, step, loop = self.rows[axis]
        last = first + step * (self.term.sizes[loop] - 1) if step else first
        return min(first, last), max(first, last) + 1


class Run(NamedTuple):
    """Adjacent columns that one term contributes to every row of a cell.

    Attributes:
        placed: the term.
        start: where the run starts in the term's own columns.
        length: number of columns.
    """

    placed: _Placed
    start: int
    length: int


class Cell(NamedTuple):
    """A box of rows with the same runs; runs over the same columns are added up."""

    low: tuple[int, ...]
    high: tuple[int, ...]
    segments: tuple[tuple[Run, ...], ...]

    @property
    def entries(self) -> int:
        """How many entries the cell has."""
        extents = (high - low for low, high in zip(self.low, self.high, strict=True))
        return math.prod(extents) * width_of(self)


class Irregular(Exception):
    """The terms have no description by cells."""


def row_strides(shape: Sequence[int]) -> tuple[int, ...]:
    """The linear stride of each axis of a row-major shape."""
    return tuple(math.prod(shape[axis + 1 :]) for axis in range(len(shape)))


def cut_rows(
    terms: Sequence[Term], out_shape: Sequence[int], in_shape: Sequence[int]
) -> tuple[tuple[int, ...], list[_Placed]]:
    """Cuts the row axes so that every loop of every term runs along one of them."""
    terms = list(terms)
    if any(term.lookups for term in terms):
        raise Irregular
    chains = []
    for axis, size in enumerate(out_shape):
        cuts = {1}
        for term in terms:
            strides = term.out_map[axis].strides
            cuts.update(abs(stride) for _, stride in strides)
        chain = sorted(cuts)
        if any(upper % lower for lower, upper in itertools.pairwise([*chain, size])):
            raise Irregular
        chains.append(chain)
        terms = [_split_to(term, axis, chain, size) for term in terms]
    rows: list[int] = []
    places: list[list[tuple[int, int, int]]] = [[] for _ in terms]
    for axis, (chain, size) in enumerate(zip(chains, out_shape, strict=True)):
        sizes = [upper // lower for lower, upper in itertools.pairwise([*chain, size])]
        for place, term in zip(places, terms, strict=True):
            place += _digits(term.out_map[axis], term.sizes, chain, sizes)[::-1]
        rows += sizes[::-1]
    placed = []
    for index, term in enumerate(terms):
        base, columns = linear(term.in_map, in_shape)
        loops = [loop for _, step, loop in places[index] if step]
        if len(set(loops)) < len(loops):
            raise Irregular
        placed.append(_Placed(index, term, tuple(places[index]), base, columns))
    return tuple(rows), placed


def _split_to(term: Term, axis: int, chain: Sequence[int], size: int) -> Term:
    """Splits the loops of one row axis at the cuts that they run across."""
    changed = True
    while changed:
        changed = False
        for loop, stride in term.out_map[axis].strides:
            above = next((c for c in [*chain, size] if c > abs(stride)), size)
            digits = above // abs(stride)
            if term.sizes[loop] > digits and above < size:
                if stride < 0 or term.sizes[loop] % digits or term.out_map[axis].offset % above:
                    raise Irregular
                term = split_loop(term, loop, digits)
                changed = True
                break
    return term


def _digits(
    affine: Affine, sizes: Sequence[int], chain: Sequence[int], extents: Sequence[int]
) -> list[tuple[int, int, int]]:
    """Position along each cut of an axis, the lowest first."""
    at = {abs(stride): (loop, 1 if stride > 0 else -1) for loop, stride in affine.strides}
    if len(at) < len(affine.strides):
        raise Irregular
    result = []
    for cut, extent in zip(chain, extents, strict=True):
        first = affine.offset // cut % extent
        loop, step = at.get(cut, (-1, 0))
        last = first + step * (sizes[loop] - 1) if step else first
        if not 0 <= last < extent:
            raise Irregular
        result.append((first, step, loop))
    return result


def cells_of(rows: tuple[int, ...], placed: Sequence[_Placed]) -> Any:
    """Nested lists of cells, one level for each row axis."""
    breaks = []
    count = 1
    for axis, size in enumerate(rows):
        ends = sorted({0, size, *(end for p in placed for end in p.span(axis))})
        breaks.append(list(itertools.pairwise(ends)))
        count *= len(breaks[-1])
    if count > _MOST_CELLS:
        raise Irregular

    def build(axis: int, box: tuple[tuple[int, int], ...], present: Sequence[_Placed]) -> Any:
        if axis == len(rows):
            return _cell(tuple(a for a, _ in box), tuple(b for _, b in box), present)
        nodes = []
        for low, high in breaks[axis]:
            here = [p for p in present if p.span(axis)[0] <= low and high <= p.span(axis)[1]]
            if here and (node := build(axis + 1, (*box, (low, high)), here)):
                nodes.append(node)
        return nodes

    return build(0, (), placed)


def leaves(node: Any) -> list[Cell]:
    """The cells of nested lists of them."""
    return [node] if isinstance(node, Cell) else [c for n in node for c in leaves(n)]


def width_of(cell: Cell) -> int:
    """How many entries a row of a cell has."""
    return sum(runs[0].length for runs in cell.segments)


def _cell(low: tuple[int, ...], high: tuple[int, ...], present: Sequence[_Placed]) -> Cell:
    """The runs of a cell, sorted by column."""
    extents = [b - a for a, b in zip(low, high, strict=True)]
    runs: list[tuple[tuple[int, ...], int, int, _Placed]] = []
    for placed in present:
        base, slopes, inside = placed.base, [], dict(placed.columns)
        for axis, (first, step, loop) in enumerate(placed.rows):
            stride = inside.pop(loop, 0) * step if step else 0
            base += stride * (low[axis] - first)
            slopes.append(stride if extents[axis] > 1 else 0)
        inside = {k: s for k, s in inside.items() if s}
        length = 1
        for loop in sorted(inside, key=lambda k: inside[k]):
            if inside[loop] != length:
                raise Irregular
            length *= placed.term.sizes[loop]
        if set(range(len(placed.term.sizes))) != {r[2] for r in placed.rows if r[1]} | set(inside):
            raise Irregular
        runs.append((tuple(slopes), base, length, placed))

    if len({slopes for slopes, *_ in runs}) == 1:
        ends = sorted({end for _, base, length, _ in runs for end in (base, base + length)})
        segments = []
        for start, stop in itertools.pairwise(ends):
            inside_runs = tuple(
                Run(placed, start - base, stop - start)
                for _, base, length, placed in runs
                if base <= start and stop <= base + length
            )
            if inside_runs:
                segments.append(inside_runs)
        return Cell(low, high, tuple(segments))

    groups: dict[Any, list[Run]] = {}
    for *name, placed in sorted(runs, key=lambda run: run[1:3]):
        groups.setdefault(tuple(name), []).append(Run(placed, 0, name[2]))  # type: ignore[arg-type]
    keys = list(groups)
    for (slopes, base, length), (others, other, _) in itertools.pairwise(keys):
        # The last column of one must stay below the first of the next, at every row.
        worst = base + length - 1 - other
        for one, two, extent in zip(slopes, others, extents, strict=True):
            worst += max(0, (one - two) * (extent - 1))
        if worst >= 0:
            raise Irregular
    return Cell(low, high, tuple(map(tuple, groups.values())))
