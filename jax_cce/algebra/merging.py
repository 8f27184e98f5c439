"""Pieces that overlap on one line, joined into one while a sum is recorded."""

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from jax_cce.algebra import terms
from jax_cce.algebra.blocks import Piece
from jax_cce.algebra.terms import Union

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
        line = terms.line(piece.term)
        directions[line.direction] += 1
        lines.setdefault(line[:2], []).append(piece)
    result: list[Piece] = []
    for (direction, _), line in lines.items():
        if len(line) == 1 or (directions[direction] == 2 and None in (line[0].slot, line[1].slot)):
            result += line
        elif len(line[0].term.sizes) == 1:
            result += _merged_intervals(line, join)
        else:
            result += _merged_boxes(line, join)
    return result


def _merged_intervals(line: Sequence[Piece], join: Join) -> list[Piece]:
    """Joins pieces of one loop, from the first to the last."""
    done: list[Piece] = []
    for piece in sorted(line, key=lambda p: terms.line(p.term).shifts):
        box = terms.union(done[-1].term, piece.term) if done else None
        if box is None:
            done.append(piece)
        else:
            done[-1] = join(box, (done[-1], piece))
    return done


def _merged_boxes(line: Sequence[Piece], join: Join) -> list[Piece]:
    """Joins pieces of several loops, pair by pair."""
    done: list[Piece] = []
    pending = list(line)
    while pending:
        piece = pending.pop(0)
        for other in pending:
            box = terms.union(piece.term, other.term)
            if box is not None:
                pending.remove(other)
                pending.insert(0, join(box, (piece, other)))
                break
        else:
            done.append(piece)
    return done
