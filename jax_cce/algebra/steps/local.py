"""What the rules of equations compute: coefficients and index arrays."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from jax_cce.algebra.steps.step import Key, Run, Step
from jax_cce.algebra.terms import Term

__all__ = ["IndexArray", "Local"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Local(Step):
    """The coefficient of a term of a local Jacobian.

    Attributes:
        key: which of the equation's terms.
        term: the term.
    """

    name = "local"

    key: Key
    term: Term

    reads: ClassVar[tuple[int, ...]] = ()
    place: ClassVar[str] = "local"

    @property
    def moved(self) -> int:
        """One number for each entry."""
        return self.term.coefficient_size

    @property
    def largest(self) -> int:
        """The coefficient."""
        return self.term.coefficient_size

    def described(self) -> str:
        """The two ends of the local Jacobian and the coefficient's shape."""
        operand, output, _ = self.key
        block = f"d out[{output}] / d in[{operand}] of equation {self.site}"
        return f"{block} -> {list(self.term.coefficient_shape)}"

    def run(self, arrays: Run) -> Sequence[Any]:
        """Asks the equation's rule."""
        return (arrays.sites.coefficient(self.site, self.key, self.term),)


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexArray(Step):
    """An index array that the terms of a local Jacobian read.

    Attributes:
        key: which of the equation's terms.
        number: which of the term's index arrays.
    """

    name = "lookup"

    key: Key
    number: int

    reads: ClassVar[tuple[int, ...]] = ()
    moved: ClassVar[int] = 0
    # It is one of the program's own arrays.
    largest: ClassVar[int] = 0

    def described(self) -> str:
        """Which array of which equation."""
        return f"index array {self.number} of equation {self.site}"

    def run(self, arrays: Run) -> Sequence[Any]:
        """Asks the equation's rule."""
        return (arrays.sites.index_array(self.site, self.key, self.number),)
