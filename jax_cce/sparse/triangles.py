"""The lower triangle of a flattened matrix: which loop points of a term lie in it."""

from collections.abc import Sequence

import numpy as np

from jax_cce.algebra import index_arrays
from jax_cce.algebra.index_arrays import Table
from jax_cce.algebra.terms import Affine, Lookup, Term, canonical, linear

__all__ = ["in_lower_triangle", "of_points"]


def in_lower_triangle(
    term: Term, out_shape: Sequence[int], in_shape: Sequence[int]
) -> bool | np.ndarray:
    """Whether all entries of a term lie on or below the diagonal, or none, or which loop points.

    Raises:
        ValueError: where that depends on data.
    """
    row, rows = linear(term.out_map, out_shape)
    column, columns = linear(term.in_map, in_shape)
    if not term.lookups:
        # The bounds of row - column; rows and columns share loops.
        steps = {k: rows.get(k, 0) - columns.get(k, 0) for k in rows.keys() | columns.keys()}
        reach = [step * (term.sizes[k] - 1) for k, step in steps.items()]
        if row - column + sum(min(each, 0) for each in reach) >= 0:
            return True
        if row - column + sum(max(each, 0) for each in reach) < 0:
            return False
    elif not all(isinstance(lookup.table, Table) for lookup in term.lookups):
        raise ValueError(
            "The lower triangle of this Jacobian depends on data: its function sorts, or reads or "
            "writes at traced indices. Take the whole Jacobian."
        )
    is_lower = _positions(term, row, rows) >= _positions(term, column, columns)
    if is_lower.all() or not is_lower.any():
        return bool(is_lower.all())
    return np.flatnonzero(is_lower)


def of_points(
    term: Term, at: np.ndarray, out_shape: Sequence[int], in_shape: Sequence[int]
) -> Term:
    """The term of some loop points of a term, listed in tables.

    Args:
        term: the term, whose lookups are static.
        at: the loop points, as positions among all.
        out_shape: shape of the output.
        in_shape: shape of the input.
    """
    maps: list[Affine] = []
    lookups: list[Lookup] = []
    shape = (*out_shape, *in_shape)
    for affine, size in zip(term.out_map + term.in_map, shape, strict=True):
        table = Table(_positions(term, affine.offset, dict(affine.strides))[at])
        lookups.append(Lookup((0,), size, table))
        maps.append(Affine(0, ((-len(lookups), 1),)))
    split = len(out_shape)
    listed = Term(
        (len(at),),
        tuple(maps[:split]),
        tuple(maps[split:]),
        None if term.axes is None else (0,),
        term.layout,
        tuple(lookups),
    )
    result = canonical(listed)
    assert result is not None
    return result[0]


def _positions(term: Term, offset: int, strides: dict[int, int]) -> np.ndarray:
    """A position at every loop point."""
    symbols = {
        -1 - k: (lookup.axes, lookup.table.values)  # type: ignore[attr-defined]
        for k, lookup in enumerate(term.lookups)
    }
    loops, sizes = range(len(term.sizes)), dict(enumerate(term.sizes))
    values = index_arrays.evaluate(offset, list(strides.items()), loops, sizes, symbols)
    return np.broadcast_to(values, term.sizes).reshape(-1)
