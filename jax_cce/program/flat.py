"""Flat programs: numbered variables, and the equations that compute them in order.

A `Program` is what is left of a jaxpr when calls are inlined and variables are numbered: inputs
first, then constants, then the results of the equations.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from jax_cce.jax_internals import Literal

__all__ = [
    "Equation",
    "Program",
    "Region",
    "read",
]


class Region(NamedTuple):
    """A `jax.checkpoint` region that an equation lies in.

    Attributes:
        number: names the region in its program.
        saves: whether its policy keeps what the equation computes.
    """

    number: int
    saves: bool


@dataclass(frozen=True, slots=True)
class Equation:
    """One equation of a flat program.

    Attributes:
        primitive: the JAX primitive.
        params: its parameters.
        inputs: a variable number or a `Literal` for each operand.
        outputs: the variable number of each result.
        in_avals: the abstract value of each operand.
        out_avals: the abstract value of each result.
        origin: the jaxpr equation, for its source line and its tracing context.
        known: what is known before the program runs of some operands, by position; NaN where an
            entry is not.
        regions: the `jax.checkpoint` regions that it lies in, the outermost first.
    """

    primitive: Any
    params: dict[str, Any]
    inputs: tuple[Any, ...]
    outputs: tuple[int, ...]
    in_avals: tuple[Any, ...]
    out_avals: tuple[Any, ...]
    origin: Any = field(repr=False)
    known: Mapping[int, np.ndarray] = field(default_factory=dict, repr=False)
    regions: tuple[Region, ...] = ()

    @property
    def name(self) -> str:
        """The primitive's name."""
        return self.primitive.name

    def with_known(self, known: Mapping[int, np.ndarray]) -> "Equation":
        """The same, of which other operands are known."""
        return dataclasses.replace(self, known=known)

    @property
    def variables(self) -> list[int]:
        """The operands that are variables."""
        return [atom for atom in self.inputs if not isinstance(atom, Literal)]


@dataclass(frozen=True, slots=True)
class Program:
    """A flat, dead-code-free program.

    Variables 0 .. num_inputs-1 are the inputs, the next num_constants the constants, and then
    come the outputs of the equations, in order.
    """

    avals: list[Any]
    num_inputs: int
    num_constants: int
    equations: list[Equation]
    outputs: tuple[Any, ...]

    @property
    def first_computed(self) -> int:
        """The number of the first variable that an equation computes."""
        return self.num_inputs + self.num_constants

    def aval(self, atom: Any) -> Any:
        """The abstract value of a variable number or a literal."""
        return atom.aval if isinstance(atom, Literal) else self.avals[atom]


def read(values: Sequence[Any], atom: Any) -> Any:
    """The value of a variable number or a literal."""
    return atom.val if isinstance(atom, Literal) else values[atom]
