"""Which terms of a symmetric Jacobian are symmetric by themselves."""

from collections.abc import Sequence

import numpy as np

from jax_cce.algebra.blocks import Piece
from jax_cce.algebra.index_arrays import Table
from jax_cce.algebra.stacking import positions_of

__all__ = ["clear_of"]

Pieces = tuple[Piece, ...]


def clear_of(
    pairs: Sequence[Pieces],
    rest: Sequence[Pieces],
    out_shape: Sequence[int],
    in_shape: Sequence[int],
) -> list[Pieces]:
    """The pairs that share no entry with the rest, nor with other pairs that do.

    Where positions depend on data, no pair is known to be clear of the rest.

    Args:
        pairs: pieces, each pair with all of its mirror images.
        rest: other pieces, with their mirror images.
        out_shape: shape of the output.
        in_shape: shape of the input.
    """
    if not rest or not pairs:
        return list(pairs)
    terms = [piece.term for pieces in (*pairs, *rest) for piece in pieces]
    static = all(isinstance(size, int) for size in (*out_shape, *in_shape)) and all(
        all(isinstance(size, int) for size in term.sizes)
        and all(isinstance(lookup.table, Table) for lookup in term.lookups)
        for term in terms
    )
    if not static:
        return []

    def positions(piece: Piece) -> np.ndarray:
        row, column = positions_of(piece.term, out_shape, in_shape)
        return np.ravel(row * int(np.prod(in_shape, dtype=int)) + column)

    taken = np.concatenate([positions(piece) for pieces in rest for piece in pieces])
    clear = list(pairs)
    while True:
        hit = [pair for pair in clear if np.isin(positions(pair[0]), taken).any()]
        if not hit:
            return clear
        clear = [pair for pair in clear if pair not in hit]
        taken = np.concatenate([taken, *(positions(piece) for pair in hit for piece in pair)])
