"""What is differentiated through time: a program whose number of steps can be chosen."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from benchmarks.programs.program import Program
from jax_cce.sparse.formats import FormatName

# What goes around the body of a loop, such as jax.checkpoint.
Around = Callable[[Callable[..., Any]], Callable[..., Any]]


def as_is(body: Callable[..., Any]) -> Callable[..., Any]:
    """Leaves the body of a loop as it is."""
    return body


@dataclasses.dataclass(frozen=True)
class Case:
    """A program by its number of steps.

    Attributes:
      make: Given a number of steps, and for some what goes around a step, returns the program.
      steps: How many steps are measured.
      format: The format that our Jacobian is asked in.
    """

    make: Callable[..., Program]
    steps: int
    format: FormatName = "dense"

    @property
    def label(self) -> str:
        """The program's name, and the format if that is not dense."""
        name = self.make(self.steps).name
        return name if self.format == "dense" else f"{name}, {self.format}"
