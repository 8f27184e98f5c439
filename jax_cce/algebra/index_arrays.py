"""Static index arrays, and the enumeration of loop points that satisfy equations on them."""

import functools
import hashlib
import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from jax_cce.jax_internals import exceeds, magnitude

__all__ = [
    "Table",
    "evaluate",
    "linear_index",
    "matching",
]


class Table:
    """An integer array that is known while planning; equal to any other with the same content."""

    __slots__ = ("__dict__", "values")

    def __init__(self, values: Any) -> None:
        """Keeps a read-only copy of integer values, in 32 bits where they fit."""
        values = np.array(values)
        small = values.size == 0 or (values.min() >= -(2**31) and values.max() < 2**31)
        self.values = values.astype(np.int32 if small else np.int64)
        self.values.flags.writeable = False

    @functools.cached_property
    def _digest(self) -> bytes:
        return hashlib.blake2b(self.values.tobytes(), digest_size=16).digest()

    def __eq__(self, other: object) -> bool:
        """Equality of content."""
        return self is other or (
            isinstance(other, Table)
            and self.values.shape == other.values.shape
            and self._digest == other._digest
        )

    def __hash__(self) -> int:
        """Hash of the content."""
        return hash((self.values.shape, self._digest))

    def __repr__(self) -> str:
        """Shape and digest."""
        return f"Table(shape={self.values.shape}, {self._digest.hex()[:8]})"


def matching(
    one: Sequence[np.ndarray], other: Sequence[np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """All pairs (i, j) with one[k][i] == other[k][j] for every key k, sorted by i and then j.

    Args:
        one: keys of the left points, one array for each key.
        other: the same for the right points.
    """
    keys = [np.concatenate(pair) for pair in zip(one, other, strict=True)]
    _, code = np.unique(np.stack(keys, -1), axis=0, return_inverse=True)
    code = code.reshape(-1)
    split = len(one[0])
    left, right = code[:split], code[split:]
    order = np.argsort(right, kind="stable")
    ordered = right[order]
    first, last = np.searchsorted(ordered, left, "left"), np.searchsorted(ordered, left, "right")
    counts = last - first
    i = np.repeat(np.arange(split), counts)
    within = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    return i, order[np.repeat(first, counts) + within]


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
