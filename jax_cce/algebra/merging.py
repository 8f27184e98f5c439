"""Pieces that overlap on one line, joined into one while a sum is recorded."""

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
    ones of their line and one is a mere number.

    Args:
        pieces: the summands, no two of the same support.
        join: records the sum of two pieces over the box that holds both.
    """
    lines: dict[Any, list[Piece]] = {}
    for piece in pieces:
        lines.setdefault(terms.direction(piece.term), []).append(piece)
    return [piece for line in lines.values() for piece in _merged_line(line, join)]


def _merged_line(line: Sequence[Piece], join: Join) -> list[Piece]:
    done: list[Piece] = []
    pending = list(line)
    while pending:
        piece = pending.pop(0)
        for other in pending:
            box = terms.union(piece.term, other.term)
            if box is not None and (len(line) > 2 or None not in (piece.slot, other.slot)):
                pending.remove(other)
                pending.insert(0, join(box, (piece, other)))
                break
        else:
            done.append(piece)
    return done
