"""Structured Jacobians in words and pictures, from their terms alone: no array is read."""

import math

from jax_cce.algebra.terms import Affine, Term
from jax_cce.sparse import spy
from jax_cce.sparse.bands_and_blocks import cut_into_blocks, diagonals_of
from jax_cce.sparse.coordinates import assembly
from jax_cce.sparse.spy import Diagonal

__all__ = ["picture", "words"]

Terms = tuple[Term, ...]
Shape = tuple[int, ...]

# Where there are more, entries are not enumerated one by one.
_MOST_ENUMERATED = 1 << 22


def words(terms: Terms, out_shape: Shape, in_shape: Shape, dtype: str) -> str:
    """The matrix in words."""
    return spy.in_words(out_shape, in_shape, dtype, _facts(terms, out_shape, in_shape))


def _facts(terms: Terms, out_shape: Shape, in_shape: Shape) -> list[str]:
    count = f"{len(terms):,} term{'s' if len(terms) != 1 else ''}"
    if not _is_sized(terms, out_shape, in_shape):
        return [count, "of symbolic shape"]
    full = math.prod((*out_shape, *in_shape))
    stored = sum(math.prod(term.sizes) for term in terms)
    entries = assembly(terms, out_shape, in_shape)
    if not entries.has_pattern:
        where = "at positions that depend on data"
        return [count, where, spy.counted(stored, full, at_most=True)]
    is_exact = entries.is_regular or stored <= _MOST_ENUMERATED
    counted = spy.counted(entries.nse if is_exact else stored, full, at_most=not is_exact)
    if not terms or (is_exact and entries.nse == full):
        return [counted]
    diagonals = _diagonals(terms, out_shape, in_shape)
    offsets = None if diagonals is None else sorted({each.offset for each in diagonals})
    shape = math.prod(out_shape), math.prod(in_shape)
    structure = spy.structured(offsets, _blocks(terms, out_shape, in_shape), shape)
    return [*(structure or [count]), counted]


def picture(terms: Terms, out_shape: Shape, in_shape: Shape) -> str:
    """Where the entries lie, as SVG; empty where that depends on data, or takes too long."""
    if not _is_sized(terms, out_shape, in_shape):
        return ""
    shape = math.prod(out_shape), math.prod(in_shape)
    entries = assembly(terms, out_shape, in_shape)
    if 0 in shape or not entries.has_pattern:
        return ""
    if max(shape) > spy.MOST_BINS:
        diagonals = _diagonals(terms, out_shape, in_shape)
        if diagonals and len(diagonals) <= spy.MOST_LINES:
            return spy.of_diagonals(diagonals, shape)
    if entries.is_regular and entries.nse == math.prod(shape):
        return spy.of_blocks(1, shape)
    if sum(math.prod(term.sizes) for term in terms) <= _MOST_ENUMERATED:
        return spy.of_entries(entries.matrix.rows, entries.matrix.columns, shape)
    blocks = _blocks(terms, out_shape, in_shape)
    return "" if blocks is None else spy.of_blocks(blocks[0], shape)


def _is_sized(terms: Terms, out_shape: Shape, in_shape: Shape) -> bool:
    """Whether all sizes are numbers."""
    sizes = [*out_shape, *in_shape, *(size for term in terms for size in term.sizes)]
    return all(isinstance(size, int) for size in sizes)


def _diagonals(terms: Terms, out_shape: Shape, in_shape: Shape) -> list[Diagonal] | None:
    """The stretch of a diagonal that each term fills, or part of it."""
    places = diagonals_of(terms, out_shape, in_shape)
    if places is None:
        return None
    return [
        Diagonal(offset, *_reach(columns, term))
        for (offset, columns), term in zip(places, terms, strict=True)
    ]


def _reach(position: Affine, term: Term) -> tuple[int, int]:
    """The least and the greatest position."""
    steps = [stride * (term.sizes[loop] - 1) for loop, stride in position.strides]
    return (
        position.offset + sum(step for step in steps if step < 0),
        position.offset + sum(step for step in steps if step > 0),
    )


def _blocks(terms: Terms, out_shape: Shape, in_shape: Shape) -> tuple[int, int, int] | None:
    cut = cut_into_blocks(terms, out_shape, in_shape)
    return None if cut is None else cut[0]
