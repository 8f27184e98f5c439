"""Which equation of a function is at fault where its Jacobian disagrees with JAX."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
from jax import lax

from jax_cce import jax_internals
from jax_cce.agreement.comparison import Comparison, evaluated
from jax_cce.planning.options import Order
from jax_cce.program import calls, passes
from jax_cce.program.calls import Call, Contract
from jax_cce.program.flat import Equation, Program, read
from jax_cce.sparse.formats import FormatName

__all__ = ["localised"]


def localised(check: Comparison, form: FormatName, order: Order) -> str:
    """The first equation that is at fault, for people."""
    try:
        traced = calls.trace_call(check.call, hoist=False)
    except (jax.errors.ConcretizationTypeError, jax.errors.NonConcreteBooleanIndexError):
        return (
            "Its Python control flow depends on values, so that its equations were not checked "
            "one by one: check the branch that is taken as a function of its own."
        )
    program = traced.program
    smooth = [k for k, a in enumerate(check.call.avals) if jax_internals.is_differentiable(a)]
    flags, reached = passes.dependent(program.equations, smooth)
    values = passes.values(program, traced.constants, check.call.leaves)
    for index, equation in enumerate(program.equations):
        operands = [read(values, atom) for atom in equation.inputs]
        if flags[index]:
            fault = _fault_of(equation, operands, reached, check, form)
            if fault:
                return (
                    f"The first equation whose local Jacobian disagrees is number {index}, "
                    f"{_described(equation)}: {fault}\nThe rule of this primitive is wrong at "
                    "these values."
                )
        passes.fill(values, [equation], _applied)
    name = order if isinstance(order, str) else "auto"
    count = _shortest_prefix(program, traced.constants, check, reached, form, name)
    if count is None:
        return "Each of its equations agrees alone, and so do all that come before its results."
    return (
        "Each of its equations agrees alone; together they disagree from equation number "
        f"{count - 1} on, {_described(program.equations[count - 1])}. That is a fault of the "
        "elimination, not of a rule: please report it."
    )


def _applied(_: int, equation: Equation, operands: list[Any]) -> list[Any]:
    return evaluated(lambda *ins: list(jax_internals.bind(equation, ins)), *operands)


def _described(equation: Equation) -> str:
    where = jax_internals.source_line(equation) or "an unknown line"
    return f"'{equation.name}' at {where}"


def _fault_of(
    equation: Equation, operands: list[Any], reached: set[int], check: Comparison, form: FormatName
) -> str:
    """Where the local Jacobian of one equation disagrees."""
    active = [
        k
        for k, atom in enumerate(equation.inputs)
        if isinstance(atom, int) and atom in reached and _is_smooth(operands[k])
    ]

    def function(*varied: Any) -> list[Any]:
        full = list(operands)
        parts = iter(varied)
        for k in active:
            full[k] = _joined(parts, operands[k])
        return _real_parts(jax_internals.bind(equation, full))

    return _alone(function, _real_parts([operands[k] for k in active]), check, form, "forward")


def _shortest_prefix(
    program: Program,
    constants: Sequence[Any],
    check: Comparison,
    reached: set[int],
    form: FormatName,
    order: str,
) -> int | None:
    """How many equations it takes until the Jacobian of all their results disagrees."""
    leaves = check.call.leaves
    smooth = [k for k, leaf in enumerate(leaves) if _is_smooth(leaf)]

    def disagrees(count: int) -> bool:
        def function(*varied: Any) -> list[Any]:
            values = passes.values(program, constants, leaves)
            parts = iter(varied)
            for k in smooth:
                values[k] = _joined(parts, leaves[k])
            equations = program.equations[:count]
            passes.fill(values, equations)
            names = [name for e in equations for name in e.outputs if name in reached]
            return _real_parts([values[name] for name in names])

        parts = _real_parts([leaves[k] for k in smooth])
        return bool(_alone(function, parts, check, form, order))

    low, high = 0, len(program.equations)
    if not disagrees(high):
        return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if disagrees(middle) else (middle, high)
    return high


def _alone(
    function: Callable[..., list[Any]],
    varied: Sequence[Any],
    check: Comparison,
    form: FormatName,
    order: Any,
) -> str:
    """Where the Jacobian of a function of real arrays disagrees."""
    contract = Contract(tuple(range(len(varied))))
    own = Comparison(Call(function, contract, tuple(varied), {}), check.rtol, 1, check.seed)
    if not varied or not own.outputs:
        return ""
    return own.fault(form, order)


def _is_smooth(x: Any) -> bool:
    return jax_internals.is_differentiable(jax.typeof(x))


def _real_parts(arrays: Sequence[Any]) -> list[Any]:
    """The floating-point ones among some arrays, complex ones as real and imaginary parts."""
    return [part for x in filter(_is_smooth, arrays) for part in jax_internals.real_parts(x)]


def _joined(parts: Iterator[Any], like: Any) -> Any:
    """One array from its parts."""
    if jax_internals.is_complex(jax.typeof(like)):
        return lax.complex(next(parts), next(parts))
    return next(parts)
