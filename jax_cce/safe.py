"""Functions of jax.numpy whose derivatives stay finite at a singular point, where they are zero.

The norm of x has no derivative at 0, and the square root none that is finite. JAX says NaN or inf
there, and one such entry spoils a whole gradient. The functions here have the values of those they
are named after, the same derivatives wherever these are finite, and the derivative 0, at every
order and in both modes, at the points that their docstrings name. At a kink such as that of the
norm that is a subgradient, the one of least norm; at an infinite slope such as that of the square
root it is a convention, with which gradient descent stays where it is.

A point counts as singular where the arguments are exactly there. Close to it derivatives are as
large as they are.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, Literal, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.custom_derivatives import SymbolicZero

__all__ = [
    "arccos",
    "arcsin",
    "arctan2",
    "cosine_similarity",
    "logsumexp",
    "norm",
    "normalize",
    "power",
    "sqrt",
    "std",
]

Axis: TypeAlias = int | Sequence[int] | None


def sqrt(x: Any) -> jax.Array:
    """The square root, with derivative 0 at 0.

    Args:
        x: an array of any shape; NaN where it is negative, as for `jax.numpy.sqrt`.

    Examples:
        >>> import jax, jax_cce
        >>> print(jax.grad(jax_cce.safe.sqrt)(0.0), jax.grad(jax_cce.safe.sqrt)(4.0))
        0.0 0.25
    """
    x = jnp.asarray(x)
    return _flat(jnp.sqrt, x == 0, (x, 1))


def arcsin(x: Any) -> jax.Array:
    """The inverse sine, with derivative 0 at -1 and 1.

    Args:
        x: an array of any shape; NaN outside of [-1, 1], as for `jax.numpy.arcsin`: clip what
            rounding may have made larger.
    """
    x = jnp.asarray(x)
    return _flat(jnp.arcsin, abs(x) == 1, (x, 0))


def arccos(x: Any) -> jax.Array:
    """The inverse cosine, with derivative 0 at -1 and 1.

    Args:
        x: as for `arcsin`.

    Examples:
        >>> import jax, jax.numpy as jnp, jax_cce
        >>> angle = lambda u, v: jax_cce.safe.arccos(jnp.clip(u @ v, -1.0, 1.0))
        >>> u = jnp.array([0.6, 0.8])
        >>> print(jax.grad(angle)(u, u))
        [0. 0.]
    """
    x = jnp.asarray(x)
    return _flat(jnp.arccos, abs(x) == 1, (x, 0))


def arctan2(y: Any, x: Any) -> jax.Array:
    """The angle of the point (x, y), with derivatives 0 at the origin.

    Args:
        y: an array.
        x: an array; both are broadcast against each other.
    """
    y, x = jnp.broadcast_arrays(y, x)
    return _flat(jnp.arctan2, (y == 0) & (x == 0), (y, 0), (x, 1))


def power(x: Any, y: Any) -> jax.Array:
    """The power x ** y, with derivative 0 at x = 0 wherever that is not finite.

    The derivatives by x at 0 are those of a polynomial where y is 0, 1, 2, ...; else those of an
    order above y are infinite, and 0 here. The derivative by y is 0 where x is 0 or below, where no
    power is defined for the exponents nearby, also beside one by x. Where x is negative and y is no
    integer, the value and the derivative by x are NaN.

    Args:
        x: a real array.
        y: a real array; both are broadcast against each other.

    Raises:
        TypeError: for complex arguments.

    Examples:
        >>> import jax, jax_cce
        >>> print(jax.grad(jax_cce.safe.power)(0.0, 0.5), jax.grad(jax_cce.safe.power)(0.0, 1.0))
        0.0 1.0
    """
    if any(jnp.iscomplexobj(each) for each in (x, y)):
        raise TypeError("power requires real arguments, but got complex ones.")
    if isinstance(y, int) and y >= 0:
        return jnp.power(x, y)
    dtype = jnp.result_type(x, y)
    if not jnp.issubdtype(dtype, np.floating):
        dtype = jnp.result_type(dtype, float)
    x, y = jnp.broadcast_arrays(jnp.asarray(x, dtype), jnp.asarray(y, dtype))
    return _power(x, y)


@jax.custom_jvp
def _power(x: Any, y: Any) -> Any:
    return lax.pow(x, y)


def _power_jvp(primals: Sequence[Any], tangents: Sequence[Any]) -> tuple[Any, Any]:
    x, y = primals
    by_x, by_y = tangents
    result, at_zero, has_log = _power(x, y), x == 0, x > 0
    total = jnp.zeros_like(result)
    if not isinstance(by_x, SymbolicZero):
        steep = at_zero & ~(y >= 1)
        fixed = jnp.where(has_log, y, lax.stop_gradient(y))
        slope = fixed * _power(jnp.where(steep, 1, x), fixed - 1)
        total += jnp.where(steep, 0, slope) * by_x
    if not isinstance(by_y, SymbolicZero):
        slope = result * jnp.log(jnp.where(has_log, x, 1))
        total += jnp.where(has_log, slope, 0) * by_y
    return result, total


_power.defjvp(_power_jvp, symbolic_zeros=True)


def norm(
    x: Any,
    ord: float | Literal["fro"] | None = None,
    axis: Axis = None,
    keepdims: bool = False,
) -> jax.Array:
    """The norm of vectors or matrices, with derivative 0 at 0.

    As for `numpy.linalg.norm`, but for norms of matrices that are made of singular values, which
    have no derivative where two of these meet.

    Args:
        x: an array of real or complex numbers.
        ord: None for the 2-norm of all entries. Of vectors any number: the sum of the powers of
            absolute values, its root; the greatest for inf, the least for -inf, how many are not
            zero for 0. Of matrices "fro", and 1, -1, inf and -inf for the greatest or least sum
            over a column or row. Absolute values have derivative 0 at 0, too.
        axis: one axis for vectors, two for matrices; None for all of an array of one or two axes,
            or any number of them where ord is None.
        keepdims: whether the axes are kept, with size 1.

    Raises:
        ValueError: for another ord, and axes that it has no meaning for.

    Examples:
        >>> import jax, jax.numpy as jnp, jax_cce
        >>> print(jax.grad(jnp.linalg.norm)(jnp.zeros(2)))
        [nan nan]
        >>> print(jax.grad(jax_cce.safe.norm)(jnp.zeros(2)))
        [0. 0.]
    """
    x = jnp.asarray(x)
    if not jnp.issubdtype(x.dtype, np.inexact):
        x = x.astype(jnp.result_type(x, float))
    if axis is None:
        axes = tuple(range(x.ndim))
    else:
        axes = tuple(axis) if isinstance(axis, Sequence) else (axis,)
    if ord is None or (ord == "fro" and len(axes) == 2) or (ord == 2 and len(axes) == 1):
        squares = x * x if not jnp.iscomplexobj(x) else jnp.real(x) ** 2 + jnp.imag(x) ** 2
        return sqrt(jnp.sum(squares, axes, keepdims=keepdims))
    if len(axes) == 1 and not isinstance(ord, str):
        return _vector_norm(_magnitude(x), ord, axes[0], keepdims)
    if len(axes) == 2 and ord in (1, -1, math.inf, -math.inf):
        row, column = (k % x.ndim for k in axes)
        summed, chosen = (row, column) if abs(float(ord)) == 1 else (column, row)
        sums = jnp.sum(_magnitude(x), summed, keepdims=True)
        result = (jnp.max if float(ord) > 0 else jnp.min)(sums, chosen, keepdims=True)
        return result if keepdims else jnp.squeeze(result, axes)
    if len(axes) == 2 and ord in (2, -2, "nuc"):
        raise ValueError(
            f"norm with ord={ord!r} of matrices is made of singular values, which have no "
            "derivative where two of them meet. Use jax.numpy.linalg.norm, or another ord."
        )
    raise ValueError(f"norm has no meaning for ord={ord!r} and {len(axes)} axes.")


def _vector_norm(sizes: Any, ord: float, axis: int, keepdims: bool) -> Any:
    if ord == math.inf:
        return jnp.max(sizes, axis, keepdims=keepdims)
    if ord == -math.inf:
        return jnp.min(sizes, axis, keepdims=keepdims)
    if ord == 0:
        return jnp.sum(sizes != 0, axis, keepdims=keepdims).astype(sizes.dtype)
    if ord == 1:
        return jnp.sum(sizes, axis, keepdims=keepdims)
    return power(jnp.sum(power(sizes, ord), axis, keepdims=keepdims), 1 / ord)


def _magnitude(x: Any) -> Any:
    """Absolute values, with derivative 0 at 0."""
    return _flat(abs, x == 0, (x, 1))


def normalize(x: Any, axis: int = -1) -> jax.Array:
    """Vectors divided by their 2-norm along an axis; 0 with derivative 0 where they are 0.

    Args:
        x: an array of real or complex numbers.
        axis: the axis of the vectors.

    Examples:
        >>> import jax.numpy as jnp, jax_cce
        >>> print(jax_cce.safe.normalize(jnp.array([[3.0, 4.0], [0.0, 0.0]])))
        [[0.6 0.8]
         [0.  0. ]]
    """
    x = jnp.asarray(x)
    length = norm(x, axis=axis, keepdims=True)
    is_zero = length == 0
    return jnp.where(is_zero, 0, x / jnp.where(is_zero, 1, length))


def cosine_similarity(x: Any, y: Any, axis: int = -1) -> jax.Array:
    """The cosine of the angle between real vectors; 0 with derivative 0 where one of them is 0.

    Args:
        x: a real array.
        y: a real array; both are broadcast against each other.
        axis: the axis of the vectors.
    """
    return jnp.sum(normalize(x, axis) * normalize(y, axis), axis)


def std(x: Any, axis: Axis = None, ddof: float = 0, keepdims: bool = False) -> jax.Array:
    """The standard deviation, with derivative 0 where it is 0.

    Args:
        x: an array.
        axis: as for `jax.numpy.std`; so are the next two.
        ddof: subtracted from the number of entries.
        keepdims: whether the axes are kept, with size 1.
    """
    return sqrt(jnp.var(jnp.asarray(x), axis, ddof=ddof, keepdims=keepdims))  # type: ignore[arg-type]


def logsumexp(x: Any, axis: Axis = None, keepdims: bool = False) -> jax.Array:
    """The logarithm of the sum of exponentials, with derivative 0 where all entries are -inf.

    Args:
        x: a real array.
        axis: the axis or axes to sum over; None for all.
        keepdims: whether they are kept, with size 1.
    """
    x = jnp.asarray(x)
    nothing = jnp.all(x == -math.inf, axis, keepdims=True)
    total = jax.nn.logsumexp(jnp.where(nothing, 0, x), axis, keepdims=keepdims)
    return jnp.where(jnp.reshape(nothing, total.shape), -math.inf, total)


def _flat(function: Callable[..., Any], at: Any, *arguments: tuple[Any, Any]) -> jax.Array:
    """A function that counts as constant at some points.

    Args:
        function: of arrays, elementwise.
        at: whether an entry is such a point.
        arguments: each array, and a number at which the function is smooth.
    """
    values = (value for value, _ in arguments)
    moved = (jnp.where(at, smooth, value) for value, smooth in arguments)
    return jnp.where(at, lax.stop_gradient(function(*values)), function(*moved))
