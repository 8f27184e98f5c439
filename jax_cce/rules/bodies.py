"""The bodies of control flow, as far as their linear parts are concerned."""

from collections.abc import Sequence
from typing import Any

from jax_cce import jax_internals
from jax_cce.jax_internals import Literal
from jax_cce.program import flat
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

    def __init__(self, closed: Any) -> None:
        self.program, self.constants = flat.flatten_closed(closed)

    def rows(self, inputs: Sequence[Row | None]) -> dict[Any, Row]:
        """The rows of the body's inputs, by variable."""
        return {name: row for name, row in enumerate(inputs) if row is not None}

    def known(self, inputs: Sequence[Any], dependent: set[int]) -> list[Any]:
        """The values of all variables that depend on no seed."""
        program = self.program
        values = [*inputs, *self.constants]
        values += [None] * (len(program.avals) - len(values))
        for index, equation in enumerate(program.equations):
            if index not in dependent:
                ins = [flat.read(values, atom) for atom in equation.inputs]
                results = jax_internals.bind(equation, ins)
                for name, result in zip(equation.outputs, results, strict=True):
                    values[name] = result
        return values

    def dependent(self, active: Sequence[bool]) -> tuple[set[int], list[bool]]:
        """The equations that depend on active inputs, and whether each variable does."""
        program = self.program
        tainted = [*active, *[False] * (len(program.avals) - len(active))]
        found = set()
        for index, equation in enumerate(program.equations):
            if any(not isinstance(k, Literal) and tainted[k] for k in equation.inputs):
                found.add(index)
                for name in equation.outputs:
                    tainted[name] = True
        return found, tainted


def row_of(program: Program, atom: Any, rows: dict[Any, Row]) -> Row:
    """The row of an atom; a literal has none."""
    return {} if isinstance(atom, Literal) else rows.get(atom, {})


def inner_primals(equation: Equation, values: Sequence[Any]) -> Primals:
    """What an inner equation's coefficients are computed from."""
    return Primals(equation, [flat.read(values, k) for k in equation.inputs], ())
