"""One world with its draws held: an ordinary program, which any mode can differentiate.

It records what its draws were made from, so that the Jacobian of these rows is known for all draws
together. Or, *smoothed*, each sample moves by the expectation of w (Y - X), as if all that follows
were linear in it: integers and truth values are accompanied by a *shadow*, which is zero and has
their derivative, and which what is linear in them hands on.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jax_cce import jax_internals
from jax_cce.program import tracing
from jax_cce.program.flat import Equation
from jax_cce.stochastic import facts as known
from jax_cce.stochastic import jumps
from jax_cce.stochastic.draws import Draw
from jax_cce.stochastic.facts import Facts
from jax_cce.stochastic.interpreting import Interpreter
from jax_cce.stochastic.jumps import Sides

__all__ = ["DrawsInLoop", "Held", "Lane", "Record", "Smoothed"]


class DrawsInLoop(Exception):
    """A while loop makes draws, of whose number nothing is known."""


class Lane(NamedTuple):
    """A value, and for integers and truth values the shadow that has their derivative, if any."""

    value: Any
    shadow: Any = None


class Record(NamedTuple):
    """What a draw was made from.

    Attributes:
        rows: what is differentiated, see `jumps.rows`.
        coefficients: of these in the weights of its jumps.
    """

    rows: Any
    coefficients: Any


class Held(Interpreter[Lane, None]):
    """Runs a world with its draws held, and records these."""

    def __init__(self, sides: Sides) -> None:
        self._sides = sides

    def constant(self, value: Any) -> Lane:
        """A lane with no more than its value."""
        return Lane(value)

    def value(self, lane: Lane) -> Any:
        """The value of a lane."""
        return lane.value

    def plain(
        self, equation: Equation, operands: Sequence[Lane], facts: Sequence[Facts], state: None
    ) -> list[Lane]:
        """Results of an equation without draws."""
        results = jax_internals.bind(equation, [lane.value for lane in operands])
        return list(map(Lane, results))

    def drawn(
        self,
        equation: Equation,
        draw: Draw,
        operands: Sequence[Lane],
        facts: Sequence[Facts],
        state: None,
        given: Any,
    ) -> tuple[Lane, None, Any]:
        """Samples, and what goes with them."""
        values = [lax.stop_gradient(lane.value) for lane in operands]
        (samples,) = jax_internals.bind(equation, values)
        if not known.joined(facts[1:]) & known.MOVES:
            return Lane(samples), None, None
        side = jumps.side_of(draw, self._sides)
        rows = jumps.rows(draw, [lane.value for lane in operands[1:]], side)
        found = jumps.jumps(draw, values[1:], samples, side)
        return Lane(samples), None, Record(rows, found.coefficients)

    def looped(
        self,
        equation: Equation,
        operands: Sequence[Lane],
        facts: Sequence[Facts],
        state: None,
    ) -> tuple[list[Lane], None]:
        """What a while loop with draws carries in the end."""
        params = equation.params
        tests, consts = params["cond_nconsts"], params["body_nconsts"]
        test, test_constants = tracing.flatten_closed(params["cond_jaxpr"])
        body, constants = tracing.flatten_closed(params["body_jaxpr"])
        fixed, start = operands[tests : tests + consts], operands[tests + consts :]
        carried, _ = known.of_carry(equation, facts)
        inside = [*facts[tests : tests + consts], *carried]

        def goes_on(lanes: Any) -> Any:
            inputs = [*operands[:tests], *lanes]
            tested = [*facts[:tests], *carried]
            (result,), _, _ = self.run(test, test_constants, inputs, tested, None)
            return result.value

        def step(lanes: Any) -> Any:
            results, _, records = self.run(body, constants, [*fixed, *lanes], inside, None)
            if jax.tree.leaves(records):
                raise DrawsInLoop
            return [self.settled(x, each, None) for x, each in zip(results, carried, strict=True)]

        first = [self.settled(x, each, None) for x, each in zip(start, carried, strict=True)]
        return lax.while_loop(goes_on, step, first), None

    def settled(self, lane: Lane, facts: Facts, state: None) -> Lane:
        """A lane as arrays."""
        return Lane(jnp.asarray(lane.value))

    def resumed(self, arrays: Lane, state: None) -> Lane:
        """A lane of arrays."""
        return arrays

    def sliced(self, lane: Lane) -> Lane:
        """A lane for a loop to slice."""
        return lane

    def one_of(self, arrays: Lane, lane: Lane) -> Lane:
        """A slice of a lane."""
        return arrays

    def time(self, state: None) -> None:
        """When something was stacked."""
        return None

    def stacked(self, arrays: Lane, times: None, state: None) -> Lane:
        """What a loop has stacked."""
        return arrays


# What is linear in each of its operands, for integers too, with parameters that do not say of
# which dtype these are.
_LINEAR = {
    "add",
    "broadcast_in_dim",
    "concatenate",
    "copy",
    "cumsum",
    "dot_general",
    "dynamic_slice",
    "dynamic_update_slice",
    "expand_dims",
    "gather",
    "mul",
    "neg",
    "pad",
    "reduce_sum",
    "reshape",
    "rev",
    "slice",
    "split",
    "squeeze",
    "stack",
    "sub",
    "transpose",
    "unstack",
}

# Operands of these that are positions or conditions, by their first place.
_POSITIONS = {"dynamic_slice": 1, "dynamic_update_slice": 2, "gather": 1}


class Smoothed(Held):
    """Runs a world whose samples move by the expectation of their jumps."""

    def enters(self, equation: Equation, operands: Sequence[Lane]) -> bool:
        """Where shadows have to be followed inside."""
        is_control = equation.name in ("cond", "scan", "while")
        return is_control and any(lane.shadow is not None for lane in operands)

    def chosen_branch(
        self,
        equation: Equation,
        operands: Sequence[Lane],
        results: Sequence[Lane],
        before: None,
        after: None,
    ) -> Sequence[Lane]:
        """Results of a branch."""
        if operands[0].shadow is not None:
            raise self._refusal(equation)
        return results

    def plain(
        self, equation: Equation, operands: Sequence[Lane], facts: Sequence[Facts], state: None
    ) -> list[Lane]:
        """Results of an equation without draws."""
        results = list(jax_internals.bind(equation, [lane.value for lane in operands]))
        if all(lane.shadow is None for lane in operands):
            if known.is_discretising(equation) and any(each & known.SPLITS for each in facts):
                raise self._refusal(equation)
            return list(map(Lane, results))
        shadows = self._shadows(equation, operands)
        return [
            Lane(value + shadow.astype(value.dtype))
            if jax_internals.is_differentiable(jax.typeof(value))
            else Lane(value, shadow)
            for value, shadow in zip(results, shadows, strict=True)
        ]

    def _shadows(self, equation: Equation, operands: Sequence[Lane]) -> Sequence[Any]:
        """The shadows of results, from those of operands."""
        name = equation.name
        values = [lane.value for lane in operands]
        moving = [k for k, lane in enumerate(operands) if lane.shadow is not None]
        shadows: list[Any] = [lane.shadow for lane in operands]
        dtype = jnp.result_type(*(shadows[k] for k in moving))
        if name == "convert_element_type":
            return shadows
        if name == "not" and equation.in_avals[0].dtype == bool:
            return [-shadows[0]]
        if name in ("and", "or") and equation.in_avals[0].dtype == bool:
            # As x y and 1 - (1 - x) (1 - y).
            others = [x if name == "and" else ~x for x in values]
            total: Any = 0
            for k in moving:
                total = total + shadows[k] * others[1 - k]
            return [total]
        if name in ("integer_pow", "square"):
            power = equation.params.get("y", 2)
            slope = power * lax.integer_pow(values[0].astype(dtype), power - 1)
            return [shadows[0] * slope]
        if name == "select_n":
            which, *cases = values
            total = jnp.zeros(equation.out_avals[0].shape, dtype)
            moved = [
                jnp.zeros(np.shape(x), dtype) if shadow is None else shadow
                for x, shadow in zip(cases, shadows[1:], strict=True)
            ]
            total = lax.select_n(which, *moved)
            if shadows[0] is not None:
                if len(cases) != 2 or not jax_internals.is_number(equation.in_avals[1]):
                    raise self._refusal(equation)
                apart = lax.stop_gradient(cases[1]) * 1.0 - lax.stop_gradient(cases[0])
                total = total + shadows[0] * apart
            return [total]
        positions = _POSITIONS.get(name, len(operands))
        if name not in _LINEAR or any(k >= positions for k in moving):
            raise self._refusal(equation)
        casts = [
            lax.stop_gradient(jnp.asarray(x)).astype(dtype) if k < positions else x
            for k, x in enumerate(values)
        ]

        def function(*varied: Any) -> Any:
            at = list(casts)
            for k, x in zip(moving, varied, strict=True):
                at[k] = x
            params = dict(equation.params)
            if "preferred_element_type" in params:
                params["preferred_element_type"] = None
            results = equation.primitive.bind(*at, **params)
            return results if equation.primitive.multiple_results else [results]

        _, push = jax.linearize(function, *(casts[k] for k in moving))
        return push(*(shadows[k] for k in moving))

    def _refusal(self, equation: Equation, what: str = "") -> Exception:
        line = jax_internals.source_line(equation)
        return NotImplementedError(
            f'mode="smoothed" takes what follows a draw as linear in the sample, but '
            f"{what or equation.name}{line and f' at {line}'} is not: it jumps or branches. Sums, "
            'products and selections by truth values are taken. Use mode="unbiased".'
        )

    def drawn(
        self,
        equation: Equation,
        draw: Draw,
        operands: Sequence[Lane],
        facts: Sequence[Facts],
        state: None,
        given: Any,
    ) -> tuple[Lane, None, None]:
        """Samples, and what goes with them."""
        values = [lax.stop_gradient(lane.value) for lane in operands]
        (samples,) = jax_internals.bind(equation, values)
        # Parameters that come of other samples move here, too.
        if not known.joined(facts[1:]) & (known.MOVES | known.SPLITS):
            return Lane(samples), None, None
        if draw.kind == "binomial" and facts[1] & known.SPLITS:
            raise self._refusal(equation, "the number of trials of a binomial draw")
        side = jumps.side_of(draw, self._sides)
        rows = jumps.rows(draw, [lane.value for lane in operands[1:]], side)
        found = jumps.jumps(draw, values[1:], samples, side)
        outcomes, at = found.outcomes.astype(rows.dtype), samples.astype(rows.dtype)
        if outcomes.ndim > at.ndim:
            at = at[..., None]
        shadow = (rows - lax.stop_gradient(rows)) * found.coefficients * (outcomes - at)
        if shadow.ndim > samples.ndim:
            shadow = jnp.sum(shadow, axis=-1)
        if jax_internals.is_differentiable(jax.typeof(samples)):
            return Lane(samples + shadow.astype(samples.dtype)), None, None
        return Lane(samples, shadow), None, None

    def settled(self, lane: Lane, facts: Facts, state: None) -> Lane:
        """A lane as arrays."""
        value, shadow = jnp.asarray(lane.value), lane.shadow
        aval = jax.typeof(value)
        is_discrete = jax_internals.is_number(aval) and not jax_internals.is_differentiable(aval)
        if facts & known.SPLITS and is_discrete and shadow is None:
            shadow = jnp.zeros(value.shape)
        elif shadow is not None:
            shadow = shadow.astype(jnp.zeros(()).dtype)
        return Lane(value, shadow)
