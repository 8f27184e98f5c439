"""Nonlinear programs of any size: what the collections of test problems are made of."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import numpy as np


@dataclasses.dataclass(frozen=True)
class Problem:
    """Minimise the objective where variables and constraints lie within their bounds.

    Attributes:
        objective: of the variables, shape (n,).
        constraints: of the variables, shape (m,).
        start: where the search begins, shape (n,).
        bounds: the least and the greatest values of the variables, shapes () or (n,).
        limits: the same of the constraints, shapes () or (m,).
    """

    objective: Callable[[jax.Array], jax.Array]
    constraints: Callable[[jax.Array], jax.Array]
    start: np.ndarray
    bounds: tuple[Any, Any] = (-np.inf, np.inf)
    limits: tuple[Any, Any] = (0.0, 0.0)

    def lagrangian(self, x: jax.Array, multipliers: jax.Array) -> jax.Array:
        """The objective and the constraints times their multipliers, shape (m,)."""
        return self.objective(x) + multipliers @ self.constraints(x)


@dataclasses.dataclass(frozen=True)
class Family:
    """Problems that differ in their size.

    Attributes:
        name: what the collection calls it.
        of: the problem of a size, which is an integer: steps, points, or cells along a side.
        size: that of about so many variables.
        most: the most variables that are of use, where the work is quadratic in them.
    """

    name: str
    of: Callable[[int], Problem]
    size: Callable[[int], int] = lambda n: n
    most: float = np.inf

    def about(self, n: int) -> Problem:
        """The problem of about n variables, or of the most."""
        return self.of(self.size(int(min(n, self.most))))
