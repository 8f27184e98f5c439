"""Which of the many pieces of a block are stacked, so that few are left and each moves seldom."""

from collections.abc import Callable, Sequence

from jax_cce.algebra.blocks import Piece
from jax_cce.algebra.stacking import Frame, frame, points_of

__all__ = ["fewer"]

# Terms with long loops along different lines, such as diagonals, may be so many times as many.
_MIXED = 8
# So many points are enumerated for each term that goes, if its loops are long.
_POINTS_PER_TERM = 1 << 10

# Stacks pieces, with long loops left as they are or not; None where their positions are not static.
Stack = Callable[[Sequence[Piece], bool], Piece | None]


def fewer(pieces: Sequence[Piece], most: int, stack: Stack) -> list[Piece]:
    """The same sum in fewer pieces: those of one frame are stacked, then the smaller ones.

    Args:
        pieces: the summands.
        most: so many are few; of pieces of different frames a multiple of it.
        stack: stacks some of them.
    """
    frames: dict[Frame | None, list[Piece]] = {}
    for piece in pieces:
        found = frame(piece.term)
        frames.setdefault(found and found._replace(kept=()), []).append(piece)
    result = list(frames.pop(None, ()))
    for group in frames.values():
        result += _with_smallest_stacked(group, stack, keep=True) if len(group) > 1 else group
    if len(result) > _MIXED * most:
        result = _with_smallest_stacked(result, stack, keep=False)
    return result


def _with_smallest_stacked(pieces: list[Piece], stack: Stack, *, keep: bool) -> list[Piece]:
    """The same sum, with the smaller pieces stacked.

    What was stacked before is taken up again when as much again has come, so that an entry is
    moved a logarithmic number of times.
    """

    def points(piece: Piece) -> int:
        found = frame(piece.term)
        return points_of(piece.term, found.kept if keep and found else ())

    ordered = sorted((points(piece), k) for k, piece in enumerate(pieces))
    chosen: set[int] = set()
    total = 0
    for size, k in ordered:
        too_large = size > 2 * total or total + size > _POINTS_PER_TERM * (len(chosen) + 1)
        if len(chosen) > 1 and too_large:
            break
        total += size
        chosen.add(k)
    if len(chosen) < 2:
        return pieces
    stacked = stack([pieces[k] for k in sorted(chosen)], keep)
    if stacked is None:
        return pieces
    return [*(piece for k, piece in enumerate(pieces) if k not in chosen), stacked]
