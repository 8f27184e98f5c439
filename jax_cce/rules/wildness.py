"""Which equations may compute what is infinite or NaN, as far as the rule book tells."""

from collections.abc import Iterable
from typing import Any

import numpy as np

from jax_cce import jax_internals
from jax_cce.jax_internals import Literal
from jax_cce.program import tracing
from jax_cce.program.flat import Equation, Program
from jax_cce.rules.book import Wild, record_of

__all__ = ["own_wildness", "wildness"]


def wildness(program: Program, given: Wild | None = None, seeds: Iterable[int] = ()) -> list[Wild]:
    """For each equation whether what its coefficients are computed from may be infinite or NaN.

    Args:
        program: the program.
        given: what the inputs are; None for arrays that somebody brings, and plain numbers.
        seeds: inputs that no coefficient reads.
    """
    at = [Wild.GIVEN if aval.shape else Wild.TAME for aval in program.avals]
    if given is not None:
        at = [given] * len(at)
    for name in seeds:
        at[name] = Wild.TAME
    # Infinite constants, which a selection can have for a result on purpose.
    infinite: set[int] = set()

    def of(atom: Any) -> Wild:
        if isinstance(atom, Literal):
            return Wild.SINGULAR if _is_infinite(atom) else Wild.TAME
        return at[atom]

    result = []
    for equation in program.equations:
        fixed = [
            _is_infinite(k) if isinstance(k, Literal) else k in infinite for k in equation.inputs
        ]
        if any(fixed) and infinite.issuperset(equation.variables):
            infinite.update(equation.outputs)
        if equation.name == "select_n":
            wild = Wild.SINGULAR if any(fixed) else Wild.TAME
        else:
            wild = max([own_wildness(equation), *map(of, equation.inputs)])
        result.append(max([wild, *map(of, equation.inputs)]))
        for name, aval in zip(equation.outputs, equation.out_avals, strict=True):
            at[name] = wild if jax_internals.is_differentiable(aval) else Wild.TAME
    return result


def _is_infinite(literal: Any) -> bool:
    if not jax_internals.is_differentiable(literal.aval):
        return False
    return not np.isfinite(np.asarray(literal.val, np.complex128)).all()


def own_wildness(equation: Equation) -> Wild:
    """Whether results may be infinite or NaN where the operands are tame."""
    own = record_of(equation)
    if own.calls:
        return max(
            (own_wildness(each) for each in tracing.inner_equations(equation)), default=Wild.TAME
        )
    return own.wild(equation) if callable(own.wild) else own.wild
