"""Passes over flat programs: what depends on what, what is needed, numbering, and evaluation."""

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from jax_cce.jax_internals import Literal, bind
from jax_cce.program.flat import Equation, Program, read

__all__ = [
    "dependent",
    "evaluate",
    "fill",
    "needed",
    "renumbered",
    "values",
]


def dependent(
    equations: Sequence[Equation],
    variables: Iterable[int],
    *,
    selected: Sequence[bool] | None = None,
) -> tuple[list[bool], set[int]]:
    """What depends on some variables.

    Args:
        equations: equations in an order in which they can be evaluated.
        variables: the variables.
        selected: for each equation whether it counts as dependent in any case.

    Returns:
        For each equation whether it is dependent, and all variables that are, the given ones
        included.
    """
    reached = set(variables)
    flags = []
    for index, equation in enumerate(equations):
        hit = (selected is not None and selected[index]) or not reached.isdisjoint(
            equation.variables
        )
        if hit:
            reached.update(equation.outputs)
        flags.append(hit)
    return flags, reached


def needed(
    equations: Sequence[Equation],
    atoms: Iterable[Any],
    *,
    selected: Sequence[bool] | None = None,
) -> tuple[list[bool], set[int]]:
    """What some atoms need.

    Args:
        equations: equations in an order in which they can be evaluated.
        atoms: variables; literals need nothing.
        selected: for each equation whether it is needed in any case.

    Returns:
        For each equation whether it is needed, and all variables that are read, the given ones
        included.
    """
    live = {atom for atom in atoms if not isinstance(atom, Literal)}
    flags = [False] * len(equations)
    for index in range(len(equations) - 1, -1, -1):
        equation = equations[index]
        if (selected is not None and selected[index]) or not live.isdisjoint(equation.outputs):
            flags[index] = True
            live.update(equation.variables)
    return flags, live


def renumbered(
    avals: Mapping[int, Any] | Sequence[Any],
    order: Sequence[int],
    num_inputs: int,
    num_constants: int,
    equations: Iterable[Equation],
    outputs: Iterable[Any],
) -> Program:
    """A program of equations whose variables get new numbers.

    Args:
        avals: the abstract value of each variable, by its old number.
        order: the old numbers in the order of the new ones: inputs, constants, results.
        num_inputs: how many of them are inputs.
        num_constants: how many are constants.
        equations: the equations.
        outputs: the program's outputs, variables by their old numbers or literals.
    """
    number = {name: index for index, name in enumerate(order)}

    def renamed(atoms: Iterable[Any]) -> tuple[Any, ...]:
        return tuple(atom if isinstance(atom, Literal) else number[atom] for atom in atoms)

    return Program(
        [avals[name] for name in order],
        num_inputs,
        num_constants,
        [
            dataclasses.replace(e, inputs=renamed(e.inputs), outputs=renamed(e.outputs))
            for e in equations
        ],
        renamed(outputs),
    )


Apply = Callable[[int, Equation, list[Any]], Sequence[Any]]


def fill(values: list[Any], equations: Iterable[Equation], apply: Apply | None = None) -> None:
    """Evaluates equations, and writes their results to the values of their variables.

    Args:
        values: the value of each variable, changed in place.
        equations: the equations.
        apply: computes the results of an equation, from its place among these equations and its
            operands; by default its primitive.
    """
    for index, equation in enumerate(equations):
        operands = [read(values, atom) for atom in equation.inputs]
        results = bind(equation, operands) if apply is None else apply(index, equation, operands)
        for name, result in zip(equation.outputs, results, strict=True):
            values[name] = result


def values(program: Program, constants: Sequence[Any], inputs: Sequence[Any]) -> list[Any]:
    """The values of all variables before any equation is evaluated; None for what is computed."""
    return [*inputs, *constants, *[None] * (len(program.avals) - program.first_computed)]


def evaluate(program: Program, constants: Sequence[Any], inputs: Sequence[Any]) -> list[Any]:
    """Runs a program on arrays or tracers and returns its outputs."""
    at = values(program, constants, inputs)
    fill(at, program.equations)
    return [read(at, atom) for atom in program.outputs]
