"""Equations on numbers that are known while planning, evaluated by NumPy.

JAX would compile a program for each primitive and shape, which takes as long as planning does.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from jax_cce.program.flat import Equation

__all__ = ["ELEMENTWISE", "evaluated"]

ELEMENTWISE: dict[str, Callable[..., Any]] = {
    "abs": np.abs,
    "add": np.add,
    "add_any": np.add,
    "and": np.bitwise_and,
    "atan2": np.arctan2,
    "ceil": np.ceil,
    "copy": np.array,
    "cos": np.cos,
    "eq": np.equal,
    "exp": np.exp,
    "expm1": np.expm1,
    "floor": np.floor,
    "ge": np.greater_equal,
    "gt": np.greater,
    "le": np.less_equal,
    "log": np.log,
    "log1p": np.log1p,
    "lt": np.less,
    "max": np.maximum,
    "min": np.minimum,
    "mul": np.multiply,
    "ne": np.not_equal,
    "neg": np.negative,
    "not": np.invert,
    "or": np.bitwise_or,
    "sign": np.sign,
    "sin": np.sin,
    "sqrt": np.sqrt,
    "square": np.square,
    "stop_gradient": np.array,
    "sub": np.subtract,
    "tan": np.tan,
    "tanh": np.tanh,
    "xor": np.bitwise_xor,
}


def _broadcast(x: np.ndarray, shape: Sequence[int], broadcast_dimensions: Sequence[int]) -> Any:
    sizes = [1] * len(shape)
    for axis, size in zip(broadcast_dimensions, x.shape, strict=True):
        sizes[axis] = size
    return np.broadcast_to(x.reshape(sizes), shape)


def _sliced(
    x: np.ndarray,
    start_indices: Sequence[int],
    limit_indices: Sequence[int],
    strides: Sequence[int] | None,
) -> Any:
    steps = strides or [1] * x.ndim
    return x[tuple(map(slice, start_indices, limit_indices, steps))]


def _selected(which: np.ndarray, *cases: np.ndarray) -> Any:
    if not which.shape:
        return cases[int(which)]
    # `np.choose` takes no more than 63 cases.
    return np.take_along_axis(np.stack(cases), which[None].astype(np.intp), 0)[0]


def _divided(x: np.ndarray, y: np.ndarray) -> Any:
    if x.dtype.kind == "f":
        return np.divide(x, y)
    # Towards zero; what a division by zero gives, the device decides.
    return (x - np.fmod(x, y)) // y if np.all(y) else NotImplemented


def _remainder(x: np.ndarray, y: np.ndarray) -> Any:
    return np.fmod(x, y) if x.dtype.kind == "f" or np.all(y) else NotImplemented


def _power(x: np.ndarray, y: np.ndarray) -> Any:
    return np.power(x, y) if x.dtype == y.dtype and x.dtype.kind == "f" else NotImplemented


def _cumulative_sum(x: np.ndarray, axis: int, reverse: bool) -> Any:
    if reverse:
        return np.flip(np.cumsum(np.flip(x, axis), axis), axis)
    return np.cumsum(x, axis)


def _padded(
    x: np.ndarray, value: np.ndarray, padding_config: Sequence[tuple[int, int, int]]
) -> Any:
    if any(low < 0 or high < 0 for low, high, _ in padding_config):
        return NotImplemented
    sizes, places = [], []
    for size, (low, high, between) in zip(x.shape, padding_config, strict=True):
        extent = size + max(0, size - 1) * between
        sizes.append(low + extent + high)
        places.append(slice(low, low + extent, between + 1))
    result = np.full(sizes, value)
    result[tuple(places)] = x
    return result


def _reduced(reduce: Callable[..., Any]) -> Callable[..., Any]:
    return lambda x, axes, **_: reduce(x, axis=tuple(axes))


def _extreme(reduce: Callable[..., Any]) -> Callable[..., Any]:
    # Of nothing it is the least or largest number that the type has.
    return lambda x, axes, **_: reduce(x, axis=tuple(axes)) if x.size else NotImplemented


# Operands, then the parameters by name.
_OTHERS: dict[str, Callable[..., Any]] = {
    "broadcast_in_dim": lambda x, shape, broadcast_dimensions, **_: _broadcast(
        x, shape, broadcast_dimensions
    ),
    "concatenate": lambda *xs, dimension: np.concatenate(xs, dimension),
    "convert_element_type": lambda x, new_dtype, **_: x.astype(new_dtype),
    "cumsum": _cumulative_sum,
    "div": _divided,
    "integer_pow": lambda x, y: x**y if y >= 0 else 1 / x**-y,
    "iota": lambda dtype, shape, dimension, **_: _broadcast(
        np.arange(shape[dimension], dtype=dtype), shape, (dimension,)
    ),
    "pad": _padded,
    "pow": _power,
    "reduce_and": _reduced(np.all),
    "reduce_max": _extreme(np.max),
    "reduce_min": _extreme(np.min),
    "reduce_or": _reduced(np.any),
    "reduce_prod": _reduced(np.prod),
    "reduce_sum": _reduced(np.sum),
    "rem": _remainder,
    "reshape": lambda x, new_sizes, dimensions, **_: (
        x.reshape(new_sizes) if dimensions is None else NotImplemented
    ),
    "rev": lambda x, dimensions: np.flip(x, dimensions),
    "select_n": _selected,
    "slice": _sliced,
    "squeeze": lambda x, dimensions: x.reshape(
        [size for axis, size in enumerate(x.shape) if axis not in dimensions]
    ),
    "transpose": lambda x, permutation: x.transpose(permutation),
}


def evaluated(equation: Equation, operands: Sequence[Any]) -> list[np.ndarray] | None:
    """The results of an equation, or None where NumPy has no such operation.

    Args:
        equation: the equation.
        operands: its operands, numbers or NumPy arrays; of an elementwise operation entries of
            them, if the equation has the result's shape.
    """
    avals = [*equation.in_avals, *equation.out_avals]
    # Other types, such as bfloat16 and keys, are left to JAX with all their rules.
    if any(getattr(aval.dtype, "kind", "-") not in "biuf" for aval in avals):
        return None
    arrays = [np.asarray(x, a.dtype) for x, a in zip(operands, equation.in_avals, strict=True)]
    with np.errstate(all="ignore"):
        if (elementwise := ELEMENTWISE.get(equation.name)) is not None:
            result = elementwise(*arrays)
        elif (other := _OTHERS.get(equation.name)) is not None:
            result = other(*arrays, **equation.params)
        else:
            return None
    if result is NotImplemented:
        return None
    (aval,) = equation.out_avals
    found = np.asarray(result, aval.dtype)
    return [found] if found.shape == aval.shape else None
