"""What is drawn at random for a function, and the types of families."""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import jax.numpy as jnp
import numpy as np

__all__ = [
    "ACTIVATIONS",
    "Drawn",
    "Family",
    "Vector",
    "between",
    "coins",
    "floats",
    "pick",
    "some",
]

T = TypeVar("T")
# Numbers, as arguments or as traced values.
Vector = tuple[Any, ...]
# A function and the arguments that it is traced at.
Drawn = tuple[Callable[..., Any], tuple[Any, ...]]
Family = Callable[[np.random.Generator], Drawn]

ACTIVATIONS: tuple[Callable[[Any], Any], ...] = (
    jnp.tanh,
    jnp.sin,
    lambda x: 1 / (1 + jnp.exp(-x)),
    lambda x: jnp.log(1 + jnp.exp(x)),
    lambda x: x / (1 + jnp.exp(-x)),
    lambda x: x / jnp.sqrt(1 + x**2),
)


def between(random: np.random.Generator, low: int, high: int) -> int:
    """An integer, both ends included."""
    return int(random.integers(low, high + 1))


def coins(random: np.random.Generator, count: int) -> list[bool]:
    """Yes or no, so many times."""
    return [bool(side) for side in random.integers(2, size=count)]


def pick(random: np.random.Generator, options: Sequence[T]) -> T:
    """One of some options."""
    return options[int(random.integers(len(options)))]


def some(random: np.random.Generator, among: int, count: int) -> list[int]:
    """Different numbers below `among`, in random order."""
    return [int(k) for k in random.permutation(among)[:count]]


def floats(random: np.random.Generator, count: int, low: float = 0.3) -> tuple[float, ...]:
    """Numbers for arguments and constants."""
    return tuple(random.uniform(low, 1.2, count).tolist())
