"""What a reference task is: a function, a point to evaluate it at, and its published counts."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

ALPHAGRAD = (
    "Lohoff & Neftci, Optimizing Automatic Differentiation with Deep Reinforcement Learning, "
    "NeurIPS 2024, arXiv 2406.05027"
)


@dataclasses.dataclass(frozen=True)
class Published:
    """Multiplications per Jacobian, as the literature counts them.

    Attributes:
      forward: Count of the order that eliminates vertices as the program computes them.
      reverse: Count of the opposite order.
      markowitz: Count of minimal Markowitz degree, where the first minimum in program order wins.
      best: Fewest multiplications that the source reports for any order.
      source: Where the counts come from.
      vertices: Number of eliminable vertices, where the source's graph is reproduced.
      lower_bound: No vertex order needs fewer, as groups of vertices prove (`benchmarks.proofs`).
      exact: Whether the source's graph is reproduced, so that our counts have to equal these.
        Otherwise they only give the scale.
    """

    forward: int
    reverse: int
    markowitz: int
    best: int
    source: str = ALPHAGRAD
    vertices: int | None = None
    lower_bound: int | None = None
    exact: bool = False


# Compared and hashed by identity: the arguments hold arrays, which are neither comparable nor
# hashable.
@dataclasses.dataclass(frozen=True, eq=False)
class Task:
    """A function whose Jacobian is wanted, with a test point.

    Attributes:
      name: The name in the literature.
      fun: The function, of positional arguments.
      args: A point where the function is smooth, as NumPy values in double precision.
      argnums: The arguments to differentiate with respect to.
      published: Published operation counts, or None if there are none.
    """

    name: str
    fun: Callable[..., Any]
    args: tuple[Any, ...]
    argnums: tuple[int, ...]
    published: Published | None = None
