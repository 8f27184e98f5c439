"""What a program of the suite is: a function as its users write it, and the point they ask at."""

from __future__ import annotations

import dataclasses
import functools
import importlib.util
from collections.abc import Callable, Sequence
from typing import Any, Literal

import jax
import numpy as np

# The function, the argument to differentiate with respect to, and further arguments.
Made = tuple[Any, ...]

_SPREAD = 0.05


@dataclasses.dataclass(frozen=True)
class Program:
    """A function to differentiate, in one of the settings that its users have.

    Attributes:
      name: What it computes, at which size.
      source: Where people write it this way.
      make: Given a generator, returns `(fun, x)` or `(fun, x, *data)`: `x` is the point as NumPy
        arrays (a pytree), `data` are further arguments that nobody differentiates by.
      derivative: Which derivative of `fun` with respect to `x` is wanted.
      batch: For how many points at once, by `jax.vmap` outside; None for a single one.
      dtype: The type of all its floating-point numbers.
      package: What has to be installed besides jax_cce.
    """

    name: str
    source: str
    make: Callable[[np.random.Generator], Made]
    derivative: Literal["jacobian", "hessian"] = "jacobian"
    batch: int | None = None
    dtype: Literal["float32", "float64"] = "float64"
    package: str | None = None

    @property
    def label(self) -> str:
        """The name with the setting: `Lorenz 96 step, 40 unknowns, batch 32, f32`."""
        batch = "" if self.batch is None else f", batch {self.batch}"
        kind = " (Hessian)" if self.derivative == "hessian" else ""
        return f"{self.name}{kind}{batch}{', f32' if self.dtype == 'float32' else ''}"

    @property
    def is_installed(self) -> bool:
        """Whether everything it needs can be imported."""
        return self.package is None or importlib.util.find_spec(self.package) is not None

    def settings(self, **changes: Any) -> Program:
        """Returns the same program in another setting, for instance `batch=256`."""
        return dataclasses.replace(self, **changes)

    def build(self, seed: int = 0) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        """Makes the function and its arguments, in this program's precision.

        Points of a batch lie within 5 % around the one that `make` names, coordinate by coordinate.
        """
        draw = np.random.default_rng(seed)
        fun, x, *data = self.make(draw)

        def of_dtype(leaf: Any) -> Any:
            array = np.asarray(leaf)
            floating = np.issubdtype(array.dtype, np.floating)
            return jax.numpy.asarray(array, self.dtype if floating else None)

        def around(leaf: Any, points: int) -> Any:
            spread = draw.uniform(-_SPREAD, _SPREAD, size=(points, *np.shape(leaf)))
            return np.asarray(leaf) * (1 + spread)

        if self.batch is not None:
            x = jax.tree.map(functools.partial(around, points=self.batch), x)
        return fun, tuple(jax.tree.map(of_dtype, argument) for argument in (x, *data))


@dataclasses.dataclass(frozen=True)
class Family:
    """Programs of one trade.

    Attributes:
      name: The trade.
      programs: Those that are always measured.
      draw: Makes a further program with sizes and settings that the generator chooses, so that
        nobody can tune for the list.
    """

    name: str
    programs: tuple[Program, ...]
    draw: Callable[[np.random.Generator], Program]


def one_of(
    programs: Sequence[Callable[[], tuple[Program, int]]], draw: np.random.Generator
) -> Program:
    """Returns one of some programs in a setting, both drawn: a third in batches, a quarter in f32.

    Args:
      programs: Makers of programs, each with the largest batch that it is worth to run.
      draw: Draws.
    """
    program, most = programs[int(draw.integers(len(programs)))]()
    batch = int(draw.integers(2, most + 1)) if draw.random() < 1 / 3 else None
    return program.settings(batch=batch, dtype="float32" if draw.random() < 1 / 4 else "float64")
