"""The bodies of control flow, as far as their linear parts are concerned."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jax_cce.jax_internals import Literal
from jax_cce.program import flat, known_values, passes, tracing
from jax_cce.program.flat import Equation, Program
from jax_cce.rules.accumulation import Row
from jax_cce.rules.local import Primals

__all__ = [
    "Body",
    "inner_primals",
    "row_of",
]


class Body:
    """A body of control flow: a program, and its equations that do not depend on the seeds."""

    def __init__(self, closed: Any, known: Mapping[int, np.ndarray]) -> None:
        """Flattens a body.

        Args:
            closed: its jaxpr.
            known: what is known of its inputs, such as the indices of a sparse matrix.
        """
        self.program, self.constants = tracing.flatten_closed(closed)
        if known:
            own = known_values.known_constants(self.program, self.constants, sparse=True)
            self.program = known_values.fold(self.program, {**own, **known}, sparse=True)

    def rows(self, inputs: Sequence[Row | None]) -> dict[Any, Row]:
        """The rows of the body's inputs, by variable."""
        return {name: row for name, row in enumerate(inputs) if row is not None}

    def known(self, inputs: Sequence[Any], dependent: Sequence[bool]) -> list[Any]:
        """The values of all variables that depend on no seed; None for the others."""
        values = passes.values(self.program, self.constants, inputs)
        flags = zip(self.program.equations, dependent, strict=True)
        passes.fill(values, [equation for equation, depends in flags if not depends])
        return values

    def dependent(self, active: Sequence[bool]) -> tuple[list[bool], set[int]]:
        """For each equation whether it depends on active inputs, and all variables that do."""
        seeds = [name for name, wanted in enumerate(active) if wanted]
        return passes.dependent(self.program.equations, seeds)


def row_of(program: Program, atom: Any, rows: dict[Any, Row]) -> Row:
    """The row of an atom; a literal has none."""
    return {} if isinstance(atom, Literal) else rows.get(atom, {})


def inner_primals(equation: Equation, values: Sequence[Any]) -> Primals:
    """What an inner equation's coefficients are computed from."""
    return Primals(equation, [flat.read(values, k) for k in equation.inputs], ())
