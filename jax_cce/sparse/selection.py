"""NumPy's indexing of a Jacobian as two linear maps: one picks rows, the other columns."""

import math
import operator
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from jax_cce import jax_internals
from jax_cce.algebra.index_arrays import Table
from jax_cce.algebra.terms import Affine, Lookup, Term, along, canonical

__all__ = ["Selection", "selections", "summation"]


class Selection(NamedTuple):
    """A linear map from an array of one shape to one of another, without coefficients.

    Attributes:
        shape: the shape of the result.
        term: the map; None where the result is empty.
    """

    shape: tuple[int, ...]
    term: Term | None


class _Axis(NamedTuple):
    """How one axis is read: at a number, along a range, or at the numbers of an array."""

    at: int | range | np.ndarray


def summation(shape: Sequence[int], axes: Sequence[int]) -> Selection:
    """The sum of an array of a shape over some of its axes."""
    every = tuple(map(along, range(len(shape))))
    kept = [axis for axis in range(len(shape)) if axis not in axes]
    term = canonical(Term(tuple(shape), tuple(every[axis] for axis in kept), every, None))
    return Selection(tuple(shape[axis] for axis in kept), term and term[0])


def selections(
    index: Any, out_shape: tuple[int, ...], in_shape: tuple[int, ...]
) -> tuple[Selection, Selection]:
    """What an index of the array of shape out_shape + in_shape picks, from rows and from columns.

    Raises:
        IndexError: where NumPy has it: too many indices, or one that is out of bounds.
        TypeError: for what is no static index.
        NotImplementedError: where rows and columns are not picked independently of each other.
    """
    shape, split = out_shape + in_shape, len(out_shape)
    axes, first = _parsed(index, shape)
    arrays = {k: a.at for k, a in enumerate(axes) if isinstance(a.at, np.ndarray)}
    try:
        block = np.broadcast_shapes(*(array.shape for array in arrays.values()))
    except ValueError as error:
        raise IndexError(f"The index arrays have no common shape: {error}") from None
    ranges = [k for k, a in enumerate(axes) if isinstance(a.at, range)]
    # NumPy's order of the result's axes; those of arrays are negative.
    order = [k for k in ranges if k < first]
    order += [*range(-len(block), 0), *(k for k in ranges if k >= first)]
    in_rows = [
        k < split if k >= 0 else _is_of_rows(k, len(block), arrays, split, block) for k in order
    ]
    if in_rows != sorted(in_rows, reverse=True):
        raise _together()
    sizes = {k: len(axes[k].at) if k >= 0 else block[k] for k in order}  # type: ignore[arg-type]
    return (
        _selection(
            [k for k, rows in zip(order, in_rows, strict=True) if rows], sizes, axes[:split]
        ),
        _selection(
            [k for k, rows in zip(order, in_rows, strict=True) if not rows],
            sizes,
            axes[split:],
            split,
        ),
    )


def _together() -> NotImplementedError:
    return NotImplementedError(
        "This index picks entries, and not rows and columns: its result is no Jacobian. Pick rows "
        "and columns one after the other, J[rows][..., columns], or together by "
        "J[np.ix_(rows, columns)]; single entries are in J.to_bcoo() and J.to_scipy()."
    )


def _parsed(index: Any, shape: tuple[int, ...]) -> tuple[list[_Axis], int]:
    """How each axis is read, and before which one the axes of index arrays come."""
    items: list[Any] = []
    for item in index if isinstance(index, tuple) else (index,):
        items += _static(item)
    fill = len(shape) - sum(item is not Ellipsis for item in items)
    dots = [k for k, item in enumerate(items) if item is Ellipsis]
    if fill < 0 or len(dots) > 1:
        raise IndexError(
            f"A Jacobian of shape {shape} takes at most {len(shape)} indices and one ellipsis, but "
            f"got {len(items)}."
        )
    at = dots[0] if dots else len(items)
    items[at : at + 1] = [slice(None)] * fill
    axes = [_Axis(_bounded(item, size)) for item, size in zip(items, shape, strict=True)]
    # Beside an index array a number is one, too.
    if any(isinstance(axis.at, np.ndarray) for axis in axes):
        arrays = [k for k, axis in enumerate(axes) if not isinstance(axis.at, range)]
        # An ellipsis that stands for no axis parts them all the same.
        parted = bool(dots) and not fill and min(arrays) < at <= max(arrays)
        adjacent = arrays == list(range(arrays[0], arrays[-1] + 1)) and not parted
        return axes, arrays[0] if adjacent else 0
    return axes, 0


def _static(item: Any) -> list[Any]:
    """An index as slices, ellipses and integer arrays, one for each axis."""
    if isinstance(item, slice):
        ends = item.start, item.stop, item.step
        if any(jax_internals.is_tracer(end) for end in ends):
            raise _traced()
        return [item]
    if item is Ellipsis:
        return [item]
    if item is None:
        raise TypeError("A Jacobian takes no new axes: None is no index of it.")
    if jax_internals.is_tracer(item):
        raise _traced()
    array = np.asarray(item)
    if array.size == 0 and isinstance(item, (list, tuple)):
        array = array.astype(int)
    if array.dtype == bool and array.ndim:
        return [_Mask(array, axis) for axis in range(array.ndim)]
    if not np.issubdtype(array.dtype, np.integer):
        raise TypeError(
            "An index of a Jacobian is an integer, a slice, an ellipsis, or an array of integers "
            f"or Booleans, but got {item!r}."
        )
    return [array]


class _Mask(NamedTuple):
    """One axis of a Boolean array."""

    values: np.ndarray
    axis: int


def _traced() -> TypeError:
    return TypeError(
        "Rows and columns of a structured Jacobian are picked by static indices, because they "
        "decide its structure, but got a traced one. Pass NumPy arrays or Python numbers; "
        "J.todense() takes traced indices, and `weights @ J` weighs rows."
    )


def _bounded(item: Any, size: int) -> int | range | np.ndarray:
    if isinstance(item, slice):
        return range(size)[item]
    if isinstance(item, _Mask):
        if item.values.shape[item.axis] != size:
            raise IndexError(
                f"A Boolean index has size {item.values.shape[item.axis]} along an axis of {size}."
            )
        return np.nonzero(item.values)[item.axis]
    outside = (item < -size) | (item >= size)
    if outside.any():
        raise IndexError(f"Index {item[outside].flat[0]} is out of bounds for an axis of {size}.")
    positions = np.where(item < 0, item + size, item)
    return positions if positions.ndim else operator.index(positions.item())


def _is_of_rows(
    axis: int, rank: int, arrays: dict[int, np.ndarray], split: int, block: tuple[int, ...]
) -> bool:
    """Whether an axis (from the end) of what index arrays span is one of rows."""
    holds = [k for k, array in arrays.items() if array.ndim >= -axis]
    reads = [k for k in holds if arrays[k].shape[axis] == block[axis] != 1] or holds
    sides = {k < split for k in reads}
    if len(sides) == 1:
        return sides.pop()
    if block[axis] != 1:
        raise _together()
    # Of size one along both, as an axis of `np.ix_`, where the arrays come in the axes' order.
    return len(arrays) != rank or sorted(arrays)[axis] < split


def _selection(
    order: Sequence[int], sizes: dict[int, int], axes: Sequence[_Axis], first: int = 0
) -> Selection:
    """The map of one side.

    Args:
        order: the axes of the result.
        sizes: their sizes.
        axes: how the side's axes are read.
        first: the number of the first of these.
    """
    shape = tuple(sizes[k] for k in order)
    if 0 in shape:
        return Selection(shape, None)
    loop = {k: position for position, k in enumerate(order)}
    read: list[Affine] = []
    lookups: list[Lookup] = []
    for number, (at,) in enumerate(axes, first):
        if isinstance(at, int):
            read.append(Affine(at, ()))
        elif isinstance(at, range):
            read.append(along(loop[number], at.start, at.step))
        else:
            own = [k for k in range(-at.ndim, 0) if at.shape[k] != 1]
            values = at.squeeze()
            steps = np.diff(values.reshape(-1))
            if not own:
                read.append(Affine(int(values), ()))
            elif len(own) == 1 and steps[0] and (steps == steps[0]).all():
                read.append(along(loop[own[0]], int(values[0]), int(steps[0])))
            else:
                extent = int(values.max()) + 1
                lookups.append(Lookup(tuple(loop[k] for k in own), extent, Table(values)))
                read.append(Affine(0, ((-len(lookups), 1),)))
    every = tuple(map(along, range(len(shape))))
    term = canonical(Term(shape, every, tuple(read), None, math.prod(shape) > 0, tuple(lookups)))
    return Selection(shape, term and term[0])
