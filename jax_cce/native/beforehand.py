"""What is known of all steps of a loop before it runs: counters, times, tables, places."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from jax_cce.native.nodes import Nodes, Steps, Unsupported
from jax_cce.program import passes, tracing
from jax_cce.program.flat import Equation, Program, read

__all__ = ["known_steps"]

# How many equations are evaluated, one by one.
_MOST_KNOWN = 10_000


def known_steps(
    program: Program,
    entering: Sequence[Any],
    carries: range,
    rows: range,
    length: int,
    *,
    reverse: bool,
    evaluate: Callable[[Equation, Sequence[Any]], list[Any]],
) -> tuple[dict[int, Steps], dict[int, Any]]:
    """Evaluates what depends on nothing but counters and on what is known.

    Args:
        program: the body.
        entering: for each of its inputs and constants nodes, or the value; of a carry the first
            one, of a row those of all steps.
        carries: which of them are carries.
        rows: which of them are rows.
        length: the number of steps.
        reverse: whether the first step reads the last row.
        evaluate: gives the results of an equation of numbers.

    Returns:
        For each variable that is known, and not the same in all steps, its values; and for each
        carry of these the last one.

    Raises:
        Unsupported: where that is too much.
    """
    unknown = {k for k, x in enumerate(entering) if isinstance(x, Nodes)}
    loops = [bool(tracing.inner_equations(equation)) for equation in program.equations]
    while True:
        _, varied = passes.dependent(program.equations, unknown, selected=loops)
        more = {k for k, atom in zip(carries, program.outputs, strict=False) if atom in varied}
        if more <= unknown:
            break
        unknown |= more
    moving = {*carries, *rows} - unknown
    if not moving:
        return {}, {}
    follows, changing = passes.dependent(program.equations, moving)
    fixed, every = list[Equation](), list[Equation]()
    for equation, follow in zip(program.equations, follows, strict=True):
        if varied.isdisjoint(equation.outputs):
            (every if follow else fixed).append(equation)
    if length * len(every) > _MOST_KNOWN:
        if moving.isdisjoint(rows):
            raise Unsupported("a loop has too much that is known beforehand")
        # What it reads is not evaluated beforehand, but step by step.
        hidden = [Nodes([]) if k in rows else x for k, x in enumerate(entering)]
        return known_steps(
            program, hidden, carries, rows, length, reverse=reverse, evaluate=evaluate
        )
    values = passes.values(program, (), entering)

    def evaluated(_: int, equation: Equation, operands: list[Any]) -> list[Any]:
        typed = map(np.asarray, operands, (aval.dtype for aval in equation.in_avals))
        return evaluate(equation, list(typed))

    passes.fill(values, fixed, evaluated)
    kept = sorted(changing - varied)
    found: dict[int, list[Any]] = {k: [None] * length for k in kept}
    counters = sorted(moving.intersection(carries))
    for place in reversed(range(length)) if reverse else range(length):
        for k in moving.intersection(rows):
            values[k] = np.asarray(entering[k])[place]
        passes.fill(values, every, evaluated)
        for k in kept:
            found[k][place] = values[k]
        atoms = (program.outputs[k - carries.start] for k in counters)
        new = [read(values, atom) for atom in atoms]
        for k, value in zip(counters, new, strict=True):
            values[k] = np.asarray(value, program.avals[k].dtype)
    steps = {k: Steps(np.stack(list(map(np.asarray, each)))) for k, each in found.items()}
    return steps, {k: np.asarray(values[k]) for k in counters}
