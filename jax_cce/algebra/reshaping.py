"""Reshapes as terms, by the common refinement of two shapes."""

import itertools
import math
from collections.abc import Sequence
from typing import Any

from jax_cce.algebra.terms import Affine, Term, Unrepresentable, along, canonical, flat_strides

__all__ = ["reshape"]


def reshape(out_shape: Sequence[Any], in_shape: Sequence[Any]) -> Term | None:
    """The row-major reshape, as loops over the common refinement of both shapes.

    Raises:
        Unrepresentable: where neither shape refines the other, as for (4, 6) from (6, 4).
    """
    size: Any = math.prod(out_shape)
    if size == 0:
        return None
    if not isinstance(size, int):
        return _reshape_between(out_shape, in_shape)
    # The stride of each axis in the flat array; the loops' strides are the union of both sets.
    ends = [flat_strides(shape) for shape in (out_shape, in_shape)]
    cuts = sorted({size, *ends[0], *ends[1]}, reverse=True)
    if any(outer % inner for outer, inner in itertools.pairwise(cuts)):
        raise Unrepresentable(f"reshape from {tuple(in_shape)} to {tuple(out_shape)}")
    sizes = tuple(outer // inner for outer, inner in itertools.pairwise(cuts))
    maps = []
    for shape, strides in zip((out_shape, in_shape), ends, strict=True):
        maps.append(
            tuple(
                Affine(
                    0,
                    tuple(
                        (loop, cut // stride)
                        for loop, cut in enumerate(cuts[1:])
                        if stride <= cut < stride * extent
                    ),
                )
                for extent, stride in zip(shape, strides, strict=True)
            )
        )
    return canonical(Term(sizes, maps[0], maps[1], None, layout=True))[0]  # type: ignore[index]


def _reshape_between(out_shape: Sequence[int], in_shape: Sequence[int]) -> Term | None:
    """A reshape that leaves symbolic dimensions as they are, and joins or splits others."""
    ends = [
        [axis for axis, size in enumerate(shape) if size != 1] for shape in (out_shape, in_shape)
    ]
    same: list[tuple[int, int]] = []
    for last in (0, -1):
        while all(ends) and out_shape[ends[0][last]] == in_shape[ends[1][last]]:
            same.append((ends[0].pop(last), ends[1].pop(last)))
    rests = [
        [shape[axis] for axis in end]
        for shape, end in zip((out_shape, in_shape), ends, strict=True)
    ]
    if not all(isinstance(size, int) for rest in rests for size in rest):
        raise Unrepresentable(f"reshape from {tuple(in_shape)} to {tuple(out_shape)}")
    inner = reshape(*rests)
    if inner is None:
        return None
    maps = []
    for side, (shape, own) in enumerate(((out_shape, inner.out_map), (in_shape, inner.in_map))):
        places = dict(zip(ends[side], own, strict=True))
        for loop, pair in enumerate(same, len(inner.sizes)):
            places[pair[side]] = along(loop)
        maps.append(tuple(places.get(axis, Affine(0, ())) for axis in range(len(shape))))
    sizes = (*inner.sizes, *(out_shape[axis] for axis, _ in same))
    return canonical(Term(sizes, maps[0], maps[1], None, layout=True))[0]  # type: ignore[index]
