"""The dtype that several numbers have in common, whatever JAX's configuration says of promotion.

Local derivatives have the dtypes of the values that they belong to, and a function may mix these.
What is computed from them must depend neither on whether JAX promotes dtypes by itself nor on which
ones its configuration allows where the Jacobian is wanted.
"""

import functools
from typing import Any

import numpy as np
from jax import numpy as jnp

__all__ = ["promoted"]

_FLOATS = tuple(map(np.dtype, (jnp.bfloat16, np.float16, np.float32, np.float64)))


def promoted(*dtypes: Any) -> np.dtype:
    """The dtype that holds numbers of all these; masks take that of the others.

    Examples:
        >>> promoted(np.float32, np.float16, np.bool_)
        dtype('float32')
    """
    return functools.reduce(_both, map(np.dtype, dtypes))


@functools.cache
def _both(one: np.dtype, other: np.dtype) -> np.dtype:
    if one == other or other == np.bool_:
        return one
    if one == np.bool_:
        return other
    pair = [each for each in (one, other) if jnp.issubdtype(each, np.inexact)]
    if not pair:
        return np.promote_types(one, other)
    parts = [jnp.finfo(each) for each in pair]
    held = next(
        each
        for each in (*(info.dtype for info in parts), *_FLOATS)
        if all(_holds(jnp.finfo(each), info) for info in parts)
    )
    if any(jnp.issubdtype(each, np.complexfloating) for each in pair):
        return np.promote_types(held, np.complex64)
    return held


def _holds(one: Any, other: Any) -> bool:
    """Whether all numbers of a floating-point format are numbers of another one."""
    return one.nmant >= other.nmant and one.maxexp >= other.maxexp and one.minexp <= other.minexp
