"""Static index arrays, and the enumeration of loop points that satisfy equations on them."""

import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from jax_cce.caches import digest
from jax_cce.jax_internals import exceeds, magnitude

__all__ = [
    "Table",
    "distinct",
    "evaluate",
    "linear_index",
    "matching",
]


class Table:
    """An integer array that is known while planning; equal to any other with the same content."""

    __slots__ = ("__dict__", "values")

    def __init__(self, values: Any) -> None:
        """Keeps a read-only copy of integer values, in 32 bits where they fit."""
        values = np.asarray(values)
        small = values.size == 0 or (values.min() >= -(2**31) and values.max() < 2**31)
        self.values = values.astype(np.int32 if small else np.int64)
        self.values.flags.writeable = False

    @functools.cached_property
    def _digest(self) -> bytes:
        return digest(self.values)

    def __eq__(self, other: object) -> bool:
        """Equality of content."""
        return self is other or (
            isinstance(other, Table)
            and self.values.shape == other.values.shape
            and self._digest == other._digest
        )

    @functools.cached_property
    def _hash(self) -> int:
        return hash((self.values.shape, self._digest))

    def __hash__(self) -> int:
        """Hash of the content."""
        return self._hash

    def __repr__(self) -> str:
        """Shape and digest."""
        return f"Table(shape={self.values.shape}, {self._digest.hex()[:8]})"


def distinct(values: np.ndarray) -> np.ndarray:
    """The different ones of some integers, sorted.

    `np.unique` does that by hashing, which takes ten times as long for millions of positions.
    """
    if values.size == 0:
        return values
    low = values.min()
    span = int(values.max()) - int(low) + 1
    if span <= 4 * values.size:
        seen = np.zeros(span, bool)
        seen[values - low] = True
        return np.flatnonzero(seen) + low
    ordered = np.sort(values)
    return ordered[np.concatenate([[True], ordered[1:] != ordered[:-1]])]


def matching(
    one: Sequence[np.ndarray], other: Sequence[np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """All pairs (i, j) with one[k][i] == other[k][j] for every key k, sorted by i and then j.

    Args:
        one: keys of the left points, one array for each key.
        other: the same for the right points.
    """
    left, right = _coded(one, other)
    order = np.argsort(right, kind="stable")
    low, span = _range_of(left, right)
    if span <= 4 * (len(left) + len(right)):
        many = np.bincount(right - low, minlength=span)
        first = (np.cumsum(many) - many)[left - low]
        counts = many[left - low]
    else:
        ordered = right[order]
        first = np.searchsorted(ordered, left, "left")
        counts = np.searchsorted(ordered, left, "right") - first
    i = np.repeat(np.arange(len(left)), counts)
    # The matches of a left point are adjacent: their places count up from the first.
    places = np.arange(len(i))
    places += np.repeat(first - (np.cumsum(counts) - counts), counts)
    return i, order[places]


def _range_of(one: np.ndarray, other: np.ndarray) -> tuple[int, int]:
    """The smallest value of two arrays, and how many there are up to the largest."""
    ends = [end for each in (one, other) if each.size for end in (int(each.min()), int(each.max()))]
    return (min(ends), max(ends) - min(ends) + 1) if ends else (0, 0)


def _coded(one: Sequence[np.ndarray], other: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Both sides' keys as one number for each point."""
    left, right = (side[0].astype(np.int64) for side in (one, other))
    for key, theirs in zip(one[1:], other[1:], strict=True):
        low, span = _range_of(key, theirs)
        if _range_of(left, right)[1] * span >= 2**62:
            _, code = np.unique(np.concatenate((left, right)), return_inverse=True)
            left, right = code[: len(left)], code[len(left) :]
        left, right = left * span + (key - low), right * span + (theirs - low)
    return left, right


def evaluate(
    offset: int,
    strides: Sequence[tuple[int, int]],
    axes: Sequence[int],
    sizes: Mapping[int, int],
    symbols: Mapping[int, tuple[tuple[int, ...], Any]],
    xp: Any = np,
) -> Any:
    """Offset + sum(stride * variable) at every point of some loops.

    Args:
        offset: the offset.
        strides: pairs of a variable and its stride; loops from 0, symbols from -1 down.
        axes: the loops of the result's axes.
        sizes: size of each loop, and of symbols where they are known.
        symbols: for each symbol the loops of its axes, ascending, and its values.
        xp: NumPy, or a module like it.
    """
    shape = tuple(sizes[axis] for axis in axes)
    spans = [magnitude(stride) * sizes.get(variable, 1) for variable, stride in strides]
    reach = magnitude(offset) + sum(spans)
    fits = exceeds(2**31, reach) or (not isinstance(reach, int) and _has_no_wide_integers())
    dtype = np.int32 if fits and xp is not np else np.int64
    result = xp.full(shape, offset, dtype)
    for variable, stride in strides:
        own = (variable,) if variable >= 0 else symbols[variable][0]
        values = xp.arange(sizes[variable], dtype=dtype) if variable >= 0 else symbols[variable][1]
        order = sorted(range(len(own)), key=lambda k: axes.index(own[k]))
        values = xp.transpose(
            xp.reshape(values, tuple(sizes[axis] for axis in own)), tuple(order)
        ).astype(dtype)
        spread = tuple(sizes[axis] if axis in own else 1 for axis in axes)
        result = result + stride * xp.reshape(values, spread)
    return result


def _has_no_wide_integers() -> bool:
    return jax.dtypes.canonicalize_dtype(np.int64) != np.int64


def linear_index(positions: Sequence[Any], shape: Sequence[int]) -> Any:
    """The row-major position in `shape` of coordinates given one axis at a time."""
    result: Any = 0
    for axis, position in enumerate(positions):
        result = result + position * math.prod(shape[axis + 1 :])
    return result
