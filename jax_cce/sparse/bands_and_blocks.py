"""Matrices that consist of diagonals, or of equal blocks along the diagonal."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jax_cce import jax_internals
from jax_cce.algebra import placement
from jax_cce.algebra.placement import Placed
from jax_cce.algebra.reshaping import reshape
from jax_cce.algebra.terms import Affine, Term, Unrepresentable, canonical, linear
from jax_cce.caches import memoised
from jax_cce.sparse.spy import divisors

__all__ = [
    "Bands",
    "bands_of",
    "blocks_of",
    "cut_into_blocks",
    "diagonal_term",
    "diagonals_of",
]


class Bands(NamedTuple):
    """The diagonals of a banded matrix, in the convention of `scipy.sparse.dia_array`.

    As a pytree it has one leaf, the data: the offsets are static, under `jax.jit` and `jax.vmap`,
    too.

    Attributes:
        offsets: column minus row of each diagonal, ascending.
        data: shape (len(offsets), columns); data[k, j] is the entry of diagonal k in column j.
    """

    offsets: tuple[int, ...]
    data: Any


jax.tree_util.register_pytree_with_keys(
    Bands,
    lambda bands: (((jax.tree_util.GetAttrKey("data"), bands.data),), tuple(bands.offsets)),
    lambda offsets, leaves: Bands(offsets, *leaves),
)


def diagonals_of(
    terms: Sequence[Term], out_shape: Sequence[int], in_shape: Sequence[int]
) -> list[tuple[int, Affine]] | None:
    """Offset and columns of the diagonal that each term lies on; None where one does not."""
    places = []
    for term in terms:
        row, rows = linear(term.out_map, out_shape)
        column, strides = linear(term.in_map, in_shape)
        if rows != strides or len(rows) < len(term.sizes) or term.lookups:
            return None
        places.append((column - row, Affine(column, tuple(sorted(strides.items())))))
    return places


def bands_of(
    terms: Sequence[Term],
    items: Sequence[Placed],
    out_shape: Sequence[int],
    in_shape: Sequence[int],
    dtype: Any,
) -> Bands | None:
    """The diagonals of a flattened matrix; None where it is not a sum of diagonals.

    Args:
        terms: the terms that it is the sum of.
        items: each term with its coefficient, scaled.
        out_shape: shape of the rows before flattening.
        in_shape: shape of the columns.
        dtype: dtype of the result where there are no terms.
    """
    columns = math.prod(in_shape)
    places = diagonals_of(terms, out_shape, in_shape)
    if places is None:
        return None
    diagonals: dict[int, list[Placed]] = {}
    for (offset, at), item in zip(places, items, strict=True):
        diagonals.setdefault(offset, []).append(item._replace(maps=(at,)))
    offsets = tuple(sorted(diagonals))
    data = [placement.dense_sum(diagonals[offset], (columns,)) for offset in offsets]
    return Bands(offsets, jnp.stack(data) if data else jax_internals.full((0, columns), 0, dtype))


def blocks_of(
    terms: Sequence[Term],
    items: Sequence[Placed],
    out_shape: Sequence[int],
    in_shape: Sequence[int],
    dtype: Any,
) -> Any:
    """The smallest equal blocks of a block diagonal matrix; None where it is none.

    Takes the arguments of `bands_of`; returns an array of shape (blocks, rows, columns).
    """
    cut = cut_into_blocks(terms, out_shape, in_shape)
    if cut is None:
        return None
    shape, maps = cut
    moved = [item._replace(maps=at) for item, at in zip(items, maps, strict=True)]
    return placement.dense_sum(moved, shape) if moved else jax_internals.full(shape, 0, dtype)


def cut_into_blocks(
    terms: Sequence[Term], out_shape: Sequence[int], in_shape: Sequence[int]
) -> tuple[tuple[int, int, int], list[tuple[Affine, ...]]] | None:
    """The shape of the smallest equal blocks, and where each term lies in them; None for none."""
    rows, columns = math.prod(out_shape), math.prod(in_shape)
    for count in divisors(math.gcd(rows, columns)):
        if count == 1:
            break
        shape = count, rows // count, columns // count
        maps = [_in_blocks(term, out_shape, in_shape, shape) for term in terms]
        inside = [at for at in maps if at is not None]
        if len(inside) == len(maps):
            return shape, inside
    return None


def _in_blocks(
    term: Term, out_shape: Sequence[int], in_shape: Sequence[int], shape: tuple[int, int, int]
) -> tuple[Affine, ...] | None:
    """The position (block, row, column) of a term's entries; None where one is outside."""
    if term.lookups:
        return None
    ends = (term.out_map, out_shape, shape[1]), (term.in_map, in_shape, shape[2])
    quotients, rests = [], []
    for maps, extents, size in ends:
        offset, strides = linear(maps, extents)
        high = {k: s // size for k, s in strides.items() if s % size == 0}
        low = {k: s for k, s in strides.items() if s % size}
        quotients.append((offset // size, {k: s for k, s in high.items() if s}))
        rests.append(Affine(offset % size, tuple(sorted(low.items()))))
        reach = [s * (term.sizes[k] - 1) for k, s in low.items()]
        if offset % size + sum(s for s in reach if s < 0) < 0:
            return None
        if offset % size + sum(s for s in reach if s > 0) >= size:
            return None
    if quotients[0] != quotients[1]:
        return None
    first, slopes = quotients[0]
    return Affine(first, tuple(sorted(slopes.items()))), *rests


@memoised(256)
def diagonal_term(out_shape: tuple[int, ...], in_shape: tuple[int, ...]) -> Term:
    """Picks the diagonal of the flattened block: (size,) <- out_shape + in_shape."""
    same = reshape(out_shape, in_shape)
    if same is None:
        raise Unrepresentable("an empty block")
    offset, strides = linear(same.out_map, out_shape)
    flat = Affine(offset, tuple(sorted(strides.items())))
    return canonical(Term(same.sizes, (flat,), same.out_map + same.in_map, None))[0]  # type: ignore[index]
