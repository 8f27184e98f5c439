"""What a block passes on to the products of every path that it lies on.

Whatever was eliminated before, the block on an edge of the graph is a sum of products of blocks
along paths. What of it is certain is read off the blocks of the first graph here:

- Whether every row has an entry. Then a product of such blocks has an entry in every row, and so
  has every sum that contains it, unless numbers that are known cancel. The same holds for columns.
  A slice has an entry in every row, but not in every column, so that a product through it may be a
  structural zero.
- Whether the block counts: a product with a block of a layout operation is free in the published
  convention, and a product with 1 or -1 in the other measure. A product of blocks counts where one
  of them does.
- Whether it is full: its coefficients, read at run time, depend on every axis of the vertex, so
  that they are as many as the entries of the vertex that they meet. The products of such a block
  with others, on its other side, are full again.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from jax_cce.algebra.blocks import Block, Piece
from jax_cce.algebra.terms import Affine, flat_strides, loops_of

__all__ = [
    "Coverage",
    "coverage",
    "positions",
]

# Positions of larger blocks are not enumerated.
_MOST_POINTS = 1 << 20


class Coverage(NamedTuple):
    """What is certain of the products of a block with others.

    Attributes:
        rows: whether every row has an entry, whatever it is multiplied by.
        columns: whether every column has.
        counted_rows: whether every row has an entry whose product is paid for.
        counted_columns: whether every column has.
        full_rows: whether every row has one whose coefficients depend on all axes of the rows.
        full_columns: whether every column has one, of the columns.
    """

    rows: bool = False
    columns: bool = False
    counted_rows: bool = False
    counted_columns: bool = False
    full_rows: bool = False
    full_columns: bool = False


def coverage(
    block: Block, out_shape: tuple[int, ...], in_shape: tuple[int, ...], *, unit_free: bool
) -> Coverage:
    """What is certain of a block.

    Args:
        block: the block of an edge.
        out_shape: the shape of the later variable, whose entries are the rows.
        in_shape: the shape of the earlier one, whose entries are the columns.
        unit_free: whether products by 1 and -1 are free.
    """
    pieces = [piece for piece in block if isinstance(piece, Piece)]
    if len(pieces) < len(block) or any(p.term.lookups or p.scale == 0 for p in pieces):
        return Coverage()
    counted = [p for p in pieces if not p.term.layout and not (unit_free and p.slot is None)]
    # Known numbers may be added to a coefficient that depends on fewer axes, and are then as few.
    read = [p for p in counted if p.slot is not None]

    def full(piece: Piece, maps: Sequence[Affine]) -> bool:
        return set(loops_of(maps)) <= set(piece.term.axes or ())

    return Coverage(
        _cover(pieces, "out_map", out_shape),
        _cover(pieces, "in_map", in_shape),
        _cover(counted, "out_map", out_shape),
        _cover(counted, "in_map", in_shape),
        _cover([p for p in read if full(p, p.term.out_map)], "out_map", out_shape),
        _cover([p for p in read if full(p, p.term.in_map)], "in_map", in_shape),
    )


def _cover(pieces: Sequence[Piece], side: str, shape: tuple[int, ...]) -> bool:
    """Whether the pieces together have an entry at every position of a shape."""
    if not pieces:
        return False
    size = math.prod(shape)
    if size > _MOST_POINTS:
        return any(_is_whole(p.term.sizes, getattr(p.term, side), shape) for p in pieces)
    met = np.zeros(size, np.bool_)
    for piece in pieces:
        found = positions(piece.term.sizes, getattr(piece.term, side))
        if found is not None:
            met[np.array(flat_strides(shape), np.int64) @ found] = True
    return bool(met.all())


def positions(sizes: Sequence[int], maps: Sequence[Affine]) -> np.ndarray | None:
    """Where some maps without lookups point, for all values of their loops: int64 [maps, points].

    Returns:
        None where there are too many.
    """
    loops = sorted(set(loops_of(maps)))
    points = math.prod(sizes[loop] for loop in loops)
    if points > _MOST_POINTS:
        return None
    steps = dict(zip(loops, np.indices([sizes[loop] for loop in loops]), strict=True))
    found = np.zeros((len(maps), points), np.int64)
    for row, affine in zip(found, maps, strict=True):
        row += affine.offset
        for loop, stride in affine.strides:
            row += stride * steps[loop].ravel()
    return found


def _is_whole(sizes: Sequence[int], maps: Sequence[Affine], shape: Sequence[int]) -> bool:
    """Whether every axis is a loop of its own over all of it."""
    loops = [affine.strides[0][0] for affine in maps if affine.strides]
    return len(set(loops)) == len(loops) and all(
        (size == 1 and affine == Affine(0, ()))
        or (affine.offset == 0 and affine.strides == ((loop, 1),) and sizes[loop] == size)
        for affine, size in zip(maps, shape, strict=True)
        for loop in [affine.strides[0][0] if affine.strides else -1]
    )
