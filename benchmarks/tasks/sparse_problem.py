"""What a sparse problem is: a function of any size, how sparse it is, and its Jacobian by hand.

Every function maps a vector to a vector: all of the tools that are compared take that.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np


@dataclasses.dataclass(frozen=True)
class ByHand:
    """The Jacobian of a problem as someone writes it who has differentiated on paper.

    Attributes:
      coefficients: (x, *parameters) -> the distinct coefficients that depend on x or on parameters,
        a jittable function to a tuple of arrays.
      expand: (the same arguments, then the coefficients) -> the matrix, as a scipy.sparse array or
        a dense one. NumPy only.
    """

    coefficients: Callable[..., tuple[jax.Array, ...]]
    expand: Callable[..., Any]


# Compared and hashed by identity, as tasks are.
@dataclasses.dataclass(frozen=True, eq=False)
class Problem:
    """A function whose Jacobian is wanted at any size n.

    Attributes:
      name: The name in the tables.
      fun: (x, *parameters) -> y, to be differentiated with respect to x.
      make: (n, dtype) -> a point x of size n, and parameters.
      size: The size n at which the tables compare.
      nonzeros: n -> the number of entries that are not zero for structural reasons.
      small: A small n at which the formula for the nonzeros holds already.
      fit: The next n, at or below the given one, that the problem can have.
      scales: Whether the number of nonzeros grows in proportion to n.
      few_colours: Whether a bounded number of colours is enough at any n, rows or columns.
      by_hand: The Jacobian by hand, or None where nobody would write it.
    """

    name: str
    fun: Callable[..., jax.Array]
    make: Callable[[int, Any], tuple[np.ndarray, ...]]
    size: int
    nonzeros: Callable[[int], int]
    small: int
    fit: Callable[[int], int] = lambda n: n
    scales: bool = True
    few_colours: bool = True
    by_hand: ByHand | None = None

    def sizes(self, wanted: Sequence[int]) -> list[int]:
        """Returns the tables' size, then the wanted larger ones where the problem scales."""
        larger = [self.fit(n) for n in wanted if n > self.size] if self.scales else []
        return [self.size, *larger]


def normal(n: int, dtype: Any) -> tuple[np.ndarray, ...]:
    """Draws a point without structure of its own; there are no parameters."""
    return (np.random.default_rng(0).standard_normal(n).astype(dtype),)
