"""What is known of a program's variables before it runs: which move, which may differ, and so on.

A value *moves* where it has a derivative with all draws held. It *splits* where it may be another
one in a world in which an earlier draw has jumped. It is *noisy* where it comes of random bits
other than those of draws, as normal numbers do.
"""

import enum
import warnings
from collections.abc import Callable, Sequence
from typing import Any

from jax_cce import jax_internals
from jax_cce.jax_internals import Literal
from jax_cce.program import tracing
from jax_cce.program.flat import Equation, Program
from jax_cce.stochastic.draws import PRIMITIVES, draw_of, no_derivative

__all__ = [
    "Facts",
    "Found",
    "has_draws",
    "is_discretising",
    "joined",
    "of_carry",
    "of_outputs",
    "of_variables",
    "warn_of_lost_derivatives",
]


class Facts(enum.Flag):
    """What is known of a variable."""

    NOTHING = 0
    MOVES = enum.auto()
    SPLITS = enum.auto()
    NOISY = enum.auto()


NOTHING, MOVES, SPLITS, NOISY = Facts.NOTHING, Facts.MOVES, Facts.SPLITS, Facts.NOISY

# Whoever compares or rounds noise with what moves draws something, and loses its derivative.
_COMPARISONS = {"lt", "le", "gt", "ge"}
_ROUNDINGS = {"ceil", "floor", "round", "sign"}
_CHOICES = {"argmax", "argmin"}

_NOISE = {"random_bits", "random_gamma", "rng_bit_generator", "rng_uniform", "threefry2x32"}

# Called for each equation that is met, with what is known of its operands.
Found = Callable[[Equation, Sequence[Facts]], None]


def is_discretising(equation: Equation) -> bool:
    """Whether an equation makes values with jumps of floating-point numbers."""
    if not any(map(jax_internals.is_differentiable, equation.in_avals)):
        return False
    to_integers = equation.name == "convert_element_type" and not (
        jax_internals.is_differentiable(equation.out_avals[0])
    )
    return to_integers or equation.name in _COMPARISONS | _ROUNDINGS | _CHOICES


def has_draws(equation: Equation) -> bool:
    """Whether an equation is a draw or has some inside."""
    return not tracing.primitives([equation]).isdisjoint(PRIMITIVES.values())


def of_variables(
    program: Program, inputs: Sequence[Facts], found: Found | None = None
) -> list[Facts]:
    """What is known of each variable of a program.

    Args:
        program: the program.
        inputs: what is known of its inputs.
        found: called for its equations and those inside, some of them repeatedly.
    """
    constants = len(program.avals) - program.num_inputs
    at = [*inputs, *[NOTHING] * constants]
    for equation in program.equations:
        operands = [_read(at, atom) for atom in equation.inputs]
        if found is not None:
            found(equation, operands)
        results = _results(equation, operands, found)
        for name, aval, result in zip(equation.outputs, equation.out_avals, results, strict=True):
            at[name] = result if jax_internals.is_differentiable(aval) else result & ~MOVES
    return at


def of_outputs(
    program: Program, inputs: Sequence[Facts], found: Found | None = None
) -> list[Facts]:
    """What is known of each output of a program; see `of_variables`."""
    at = of_variables(program, inputs, found)
    return [_read(at, atom) for atom in program.outputs]


def _read(at: Sequence[Facts], atom: Any) -> Facts:
    return NOTHING if isinstance(atom, Literal) else at[atom]


def joined(facts: Sequence[Facts]) -> Facts:
    """What is known of a result of them all."""
    result = NOTHING
    for each in facts:
        result |= each
    return result


def _results(equation: Equation, operands: Sequence[Facts], found: Found | None) -> Sequence[Facts]:
    if draw_of(equation) is not None:
        splits = any(each & SPLITS for each in operands) or joined(operands[1:]) & MOVES
        return [SPLITS if splits else NOTHING]
    if equation.name in _INSIDE:
        return _INSIDE[equation.name](equation, operands, found)
    result = joined(operands)
    if not jax_internals.has_derivative(equation.primitive):
        result &= ~MOVES
    if equation.name in _NOISE:
        result |= NOISY
    return [result] * len(equation.outputs)


def of_carry(
    equation: Equation, operands: Sequence[Facts], found: Found | None = None
) -> tuple[list[Facts], list[Facts]]:
    """What is known of what a scan or while loop carries, and of what a scan stacks."""
    if equation.name == "scan":
        consts, carry = jax_internals.scan_counts(equation)
        body, _ = tracing.flatten_closed(equation.params["jaxpr"])
        fixed, rest = operands[:consts], operands[consts + carry :]
        state = list(operands[consts : consts + carry])
        tested: Any = None
    else:
        tests, consts = equation.params["cond_nconsts"], equation.params["body_nconsts"]
        body, _ = tracing.flatten_closed(equation.params["body_jaxpr"])
        tested, _ = tracing.flatten_closed(equation.params["cond_jaxpr"])
        fixed, rest = operands[tests : tests + consts], ()
        state = list(operands[tests + consts :])
    while True:
        outputs = of_outputs(body, [*fixed, *state, *rest], found)
        before, after = state, outputs[: len(state)]
        if tested is not None:
            (ends,) = of_outputs(tested, [*operands[:tests], *state], found)
            # Where one world stops earlier, all that it carries is another.
            after = [each | (ends & (SPLITS | NOISY)) for each in after]
        state = [old | new for old, new in zip(before, after, strict=True)]
        if state == before:
            return state, outputs[len(state) :]


def _loop(equation: Equation, operands: Sequence[Facts], found: Found | None) -> list[Facts]:
    state, stacked = of_carry(equation, operands, found)
    return [*state, *stacked]


def _cond(equation: Equation, operands: Sequence[Facts], found: Found | None) -> list[Facts]:
    index, *rest = operands
    results = [index & (SPLITS | NOISY)] * len(equation.outputs)
    for branch in equation.params["branches"]:
        program, _ = tracing.flatten_closed(branch)
        outputs = of_outputs(program, rest, found)
        results = [old | new for old, new in zip(results, outputs, strict=True)]
    return results


_INSIDE = {"cond": _cond, "scan": _loop, "while": _loop}


def warn_of_lost_derivatives(program: Program, inputs: Sequence[Facts]) -> None:
    """Looks for draws that are made by hand, of which no derivative is known.

    Args:
        program: the program.
        inputs: what is known of its inputs.

    Warns:
        UserWarning: where noise is compared with what moves, or their sum is rounded.

    Raises:
        TypeError: where a number of trials moves.
        NotImplementedError: where the largest of numbers is chosen that are noisy and move, and
            where points of `jax.vmap` draw with one key from what moves.
    """
    told: set[str] = set()

    def look(equation: Equation, operands: Sequence[Facts]) -> None:
        draw = draw_of(equation)
        if draw is not None:
            if draw.kind == "binomial" and operands[1] & MOVES:
                raise TypeError(
                    f"The number of trials of a binomial draw{_at(equation)} is differentiated, "
                    "which has no derivative. Take it of jax.lax.stop_gradient(n)."
                )
            if draw.shares_keys and joined(operands[1:]) & MOVES:
                raise NotImplementedError(
                    f"The points of jax.vmap share the key of a {draw.kind} draw{_at(equation)}, "
                    "so that their samples depend on each other. Give each point a key."
                )
            return
        both = joined(operands)
        if not (both & MOVES and both & NOISY):
            return
        if equation.name in _CHOICES:
            raise NotImplementedError(
                f"{equation.name}{_at(equation)} chooses among numbers that are random and are "
                "differentiated, as jax.random.categorical does: the derivative of the choice "
                "would be lost. Draw with jax_cce.stochastic.categorical; where the choice is to "
                "be held, take it of jax.lax.stop_gradient(numbers)."
            )
        if is_discretising(equation):
            place = _at(equation)
            if place not in told:
                told.add(place)
                warnings.warn(
                    f"{equation.name}{place} makes a discrete value of numbers that are random "
                    "and are differentiated. What that contributes to the derivative is lost, if "
                    "the program jumps there. Draw with jax_cce.stochastic (jax.random.binomial, "
                    "choice and uniform(key) < p are not recognised), or, where nothing jumps, "
                    "take it of jax.lax.stop_gradient(numbers).",
                    stacklevel=2,
                )

    of_variables(program, inputs, look)


def _at(equation: Equation) -> str:
    line = jax_internals.source_line(equation)
    return f" at {line}" if line else ""


def _check(program: Program) -> None:
    """Refuses draws whose parameters move; of integers JAX itself asks for no derivative."""

    def look(equation: Equation, operands: Sequence[Facts]) -> None:
        draw = draw_of(equation)
        if draw is not None and joined(operands[1:]) & MOVES:
            raise no_derivative(draw, _at(equation))

    types = program.avals[: program.num_inputs]
    of_variables(
        program, [MOVES if jax_internals.is_differentiable(x) else NOTHING for x in types], look
    )


for _primitive in PRIMITIVES.values():
    tracing.check_where_differentiated(_primitive, _check)
