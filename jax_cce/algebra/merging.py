"""Pieces that overlap on one line, joined into one while a sum is recorded."""

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from jax_cce.algebra.blocks import Piece
from jax_cce.algebra.lines import Union, line, union

__all__ = ["merged"]

Join = Callable[[Union, tuple[Piece, Piece]], Piece]


def merged(pieces: Sequence[Piece], join: Join) -> list[Piece]:
    """The same sum, with pieces that overlap on one line joined into one.

    Where a boundary cuts terms to different lengths, a few diagonals would else become a number of
    terms that grows with every further composition. Two pieces stay apart while they are the only
    ones of their direction and one is a mere number.

    Args:
        pieces: the summands, no two of the same support.
        join: records the sum of two pieces over the box that holds both.
    """
    directions: Counter[Any] = Counter()
    lines: dict[Any, list[Piece]] = {}
    for piece in pieces:
        on = line(piece.term)
        directions[on.direction] += 1
        lines.setdefault(on[:2], []).append(piece)
    result: list[Piece] = []
    for (direction, _), group in lines.items():
        apart = directions[direction] == 2 and None in [piece.slot for piece in group]
        if len(group) == 1 or apart:
            result += group
        elif len(group[0].term.sizes) == 1:
            result += _merged_intervals(group, join)
        else:
            result += _merged_boxes(group, join)
    return result


def _merged_intervals(group: Sequence[Piece], join: Join) -> list[Piece]:
    """Joins pieces of one loop, from the first to the last."""
    done: list[Piece] = []
    for piece in sorted(group, key=lambda p: line(p.term).shifts):
        box = union(done[-1].term, piece.term) if done else None
        if box is None:
            done.append(piece)
        else:
            done[-1] = join(box, (done[-1], piece))
    return done


def _merged_boxes(group: Sequence[Piece], join: Join) -> list[Piece]:
    """Joins pieces of several loops, pair by pair."""
    done: list[Piece] = []
    pending = list(group)
    if len(group) > 2 and not _any_to_join(group):
        return pending
    while pending:
        piece = pending.pop(0)
        for other in pending:
            box = union(piece.term, other.term)
            if box is not None:
                pending.remove(other)
                pending.insert(0, join(box, (piece, other)))
                break
        else:
            done.append(piece)
    return done


def _any_to_join(group: Sequence[Piece]) -> bool:
    """Whether one box holds another, or two that differ along one loop leave no gap there."""
    sizes = [piece.term.sizes for piece in group]
    if not all(isinstance(size, int) for each in sizes for size in each):
        return False
    start = np.array([line(piece.term).shifts for piece in group])
    end = start + np.array(sizes)
    begins = start[:, None] >= start
    ends = end[:, None] <= end
    within = (begins & ends).all(-1)
    same = (begins & ends & begins.swapaxes(0, 1) & ends.swapaxes(0, 1)).sum(-1)
    apart = (start[:, None] > end).any(-1)
    beside = (same == start.shape[1] - 1) & ~(apart | apart.T)
    return bool(within.sum() > len(group) or beside.any())
