"""Small vectors and matrices, written out in scalars.

A product with the number 0 or 1 and a sum with the number 0 are no operations: a program by hand
does not have them.
"""

import functools
from collections.abc import Iterable
from typing import Any

import jax.numpy as jnp

from jax_cce_search.alphazero.families.draws import Vector

__all__ = [
    "added",
    "applied",
    "cross",
    "dot",
    "minus",
    "multiplied",
    "plus",
    "product",
    "scaled",
    "times",
    "total",
    "turned_about",
]


def times(a: Any, b: Any) -> Any:
    for one, other in ((a, b), (b, a)):
        if isinstance(one, float) and one in (0.0, 1.0):
            return other if one else 0.0
    return a * b


def plus(a: Any, b: Any) -> Any:
    if isinstance(a, float) and a == 0.0:
        return b
    return a if isinstance(b, float) and b == 0.0 else a + b


def minus(a: Any, b: Any) -> Any:
    return -b if isinstance(a, float) and a == 0.0 else a - b


def total(terms: Iterable[Any]) -> Any:
    return functools.reduce(plus, terms)


def multiplied(factors: Iterable[Any]) -> Any:
    return functools.reduce(times, factors)


def dot(a: Iterable[Any], b: Iterable[Any]) -> Any:
    return total(map(times, a, b))


def added(a: Iterable[Any], b: Iterable[Any]) -> Vector:
    return tuple(map(plus, a, b))


def scaled(factor: Any, a: Iterable[Any]) -> Vector:
    return tuple(times(factor, x) for x in a)


def cross(a: Vector, b: Vector) -> Vector:
    return tuple(a[i] * b[j] - a[j] * b[i] for i, j in ((1, 2), (2, 0), (0, 1)))


def applied(rows: Iterable[Vector], a: Vector) -> Vector:
    """A matrix, given by its rows, times a vector."""
    return tuple(dot(row, a) for row in rows)


def product(a: Iterable[Vector], b: Iterable[Vector]) -> tuple[Vector, ...]:
    """The product of two matrices, each given by its rows."""
    columns = tuple(zip(*b, strict=True))
    return tuple(applied(columns, row) for row in a)


def turned_about(axis: int, angle: Any) -> tuple[Vector, ...]:
    """The rotation matrix about a coordinate axis."""
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    rows = ((1.0, 0.0, 0.0), (0.0, cos, -sin), (0.0, sin, cos))
    return tuple(tuple(rows[i - axis][j - axis] for j in range(3)) for i in range(3))
