"""What is known of all steps of a loop before it runs: counters, times, tables, places."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from jax_cce.jax_internals import Literal
from jax_cce.native.nodes import Nodes, Steps, Unsupported
from jax_cce.program import passes, tracing
from jax_cce.program.flat import Equation, Program

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
    moving = set(carries) | set(rows) - unknown
    moving -= unknown
    follows, changing = passes.dependent(program.equations, moving)
    fixed, every = list[Equation](), list[Equation]()
    for equation, follow in zip(program.equations, follows, strict=True):
        if varied.isdisjoint(equation.outputs):
            (every if follow else fixed).append(equation)
    if not moving:
        return {}, {}
    if length * len(every) > _MOST_KNOWN:
        raise Unsupported("a loop has too much that is known beforehand")
    values: dict[int, Any] = {k: x for k, x in enumerate(entering) if not isinstance(x, Nodes)}

    def run(equations: Sequence[Equation]) -> None:
        for equation in equations:
            operands = [
                np.asarray(atom.val, aval.dtype) if isinstance(atom, Literal) else values[atom]
                for atom, aval in zip(equation.inputs, equation.in_avals, strict=True)
            ]
            values.update(zip(equation.outputs, evaluate(equation, operands), strict=True))

    run(fixed)
    kept = sorted(changing - varied)
    found: dict[int, list[Any]] = {k: [None] * length for k in kept}
    counters = [k for k in carries if k not in unknown]
    for place in reversed(range(length)) if reverse else range(length):
        values.update((k, np.asarray(entering[k])[place]) for k in rows if k not in unknown)
        run(every)
        for k in kept:
            found[k][place] = values[k]
        atoms = [program.outputs[k - carries.start] for k in counters]
        new = [
            np.asarray(atom.val, program.avals[k].dtype)
            if isinstance(atom, Literal)
            else values[atom]
            for k, atom in zip(counters, atoms, strict=True)
        ]
        values.update(zip(counters, new, strict=True))
    steps = {k: Steps(np.stack(list(map(np.asarray, each)))) for k, each in found.items()}
    return steps, {k: np.asarray(values[k]) for k in counters}
