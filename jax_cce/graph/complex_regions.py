"""Equations on complex values that no complex coefficient describes, fused into one."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
from jax import lax
from jax import numpy as jnp

from jax_cce import jax_internals
from jax_cce.jax_internals import Literal
from jax_cce.program import passes, tracing
from jax_cce.program.flat import Equation, Program
from jax_cce.rules.book import record

__all__ = [
    "fuse_complex_regions",
    "with_real_outputs",
]


class _Region:
    """A fused part of a program, in the place of a primitive."""

    multiple_results = True
    name = "complex region"

    def __init__(self, program: Program, reverse_only: bool) -> None:
        self._program = program
        self.reverse_only = reverse_only

    def get_bind_params(self, params: Any) -> dict[str, Any]:
        return {}

    def bind(self, *operands: Any) -> Sequence[Any]:
        return passes.evaluate(self._program, (), operands)


def _is_complex(equation: Equation) -> bool:
    return _has_complex((*equation.in_avals, *equation.out_avals))


def _has_complex(avals: Sequence[Any]) -> bool:
    return any(map(jax_internals.is_complex, avals))


def fuse_complex_regions(program: Program, holomorphic: bool, inputs: Sequence[int]) -> Program:
    """Fuses the equations on complex values into one, where they are not complex-linear.

    JAX's linearisation of the fused equation is exact for real inputs and outputs, and for a
    function that is holomorphic as a whole. Where an input is complex and an output real, the
    Jacobian is by definition what the pullback gives.
    """
    pullback = not holomorphic and any(_has_complex([program.avals[k]]) for k in inputs)
    if not holomorphic and not pullback and _is_complex_linear(program):
        return program
    selected = [_is_complex(equation) for equation in program.equations]
    if not any(selected):
        return program
    if pullback:
        selected = [True] * len(selected)
    elif holomorphic:
        if not any(
            chosen and not _is_holomorphic(equation)
            for chosen, equation in zip(selected, program.equations, strict=True)
        ):
            return program
        selected = [True] * len(selected)
    # Everything between two selected equations joins them, so that no path leaves and returns.
    equations = program.equations
    after, _ = passes.dependent(equations, (), selected=selected)
    before, _ = passes.needed(equations, (), selected=selected)
    region = [e for e, a, b in zip(equations, after, before, strict=True) if a and b]
    ahead = [e for e, a in zip(equations, after, strict=True) if not a]
    behind = [e for e, a, b in zip(equations, after, before, strict=True) if a and not b]

    computed = {name for equation in region for name in equation.outputs}
    taken = [name for e in region for name in e.variables if name not in computed]
    operands = list(dict.fromkeys(taken))
    used = {name for e in behind for name in e.variables}
    used.update(k for k in program.outputs if not isinstance(k, Literal))
    results = sorted(computed & used)
    order = [*operands, *sorted(computed)]
    body = passes.renumbered(program.avals, order, len(operands), 0, region, results)
    fused = Equation(
        _Region(body, pullback),
        {},
        tuple(operands),
        tuple(results),
        tuple(program.avals[name] for name in operands),
        tuple(program.avals[name] for name in results),
        region[0].origin,
    )
    return Program(
        program.avals,
        program.num_inputs,
        program.num_constants,
        [*ahead, fused, *behind],
        program.outputs,
    )


def with_real_outputs(program: Program, num_values: int) -> tuple[Program, int]:
    """A program of real inputs whose complex outputs are taken apart into real and imaginary part.

    Where complex coefficients describe the derivatives of all that is complex, nothing is.

    Args:
        program: the program.
        num_values: how many of its outputs, from the first on, are differentiated.

    Returns:
        The program, and how many of its outputs are to be differentiated.
    """
    values = program.outputs[:num_values]
    if not _has_complex(list(map(program.aval, values))) or _is_complex_linear(program):
        return program, num_values
    avals, equations, outputs = list(program.avals), list(program.equations), []
    for atom in values:
        aval = program.aval(atom)
        if not _has_complex([aval]):
            outputs.append(atom)
            continue
        parts, _ = tracing.trace(
            lambda z: [lax.real(z), lax.imag(z)], [jax_internals.abstract(aval)]
        )
        for equation in parts.equations:
            outputs.append(len(avals))
            avals += equation.out_avals
            own = dataclasses.replace(equation, inputs=(atom,), outputs=(outputs[-1],))
            equations.append(own)
    outputs += program.outputs[num_values:]
    sizes = program.num_inputs, program.num_constants
    kept = len(outputs) - (len(program.outputs) - num_values)
    return Program(avals, *sizes, equations, tuple(outputs)), kept


def _is_complex_linear(program: Program) -> bool:
    """Whether complex coefficients are exact where inputs are real, in every order.

    Then complex values come from real ones by a mere conversion, and stay complex.
    """
    return all(
        (equation.name == "convert_element_type" and _has_complex(equation.out_avals))
        or (_is_holomorphic(equation) and not any(map(_is_real, avals)))
        for equation in program.equations
        if _has_complex(avals := (*equation.in_avals, *equation.out_avals))
    )


def _is_real(aval: Any) -> bool:
    return jnp.issubdtype(aval.dtype, np.floating)


def _is_holomorphic(equation: Equation) -> bool:
    """Whether a complex number describes the derivative of all that an equation contains."""
    return all(record(each).holomorphic for each in tracing.primitives([equation]))
