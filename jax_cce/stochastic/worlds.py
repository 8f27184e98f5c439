"""A world and its alternative: the run in which one draw has jumped and what follows is replayed.

All goes through the program at once, loops included: the values, their tangents where a direction
is given, and the values of the alternative. At each draw the alternative may be given up for one
that begins there; by how likely, the *chooser* says:

- `Reservoir` weighs jumps by the tangents as they come. With W the sum of all |w| so far, the next
  jump takes the place of the alternative with probability |w| / W. At the end it is one with
  probability |w| / W, and W sign(w) (f(Y) - f(X)) the estimate: two states and one weight.
- `Chosen` is told which jump it is.

Times are counted in jumps: what an alternative had computed before it was given up is not valid any
more, and its world is then the first one.
"""

import abc
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
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

__all__ = ["Chosen", "Lane", "Reservoir", "State", "Worlds", "beginning"]


class Lane(NamedTuple):
    """A value in both worlds.

    Attributes:
        value: in the first world.
        tangent: its derivative along the direction; None where it has none.
        other: the value in the alternative; None where it is the same.
        time: when that was computed.
    """

    value: Any
    tangent: Any = None
    other: Any = None
    time: Any = None


class State(NamedTuple):
    """What goes from draw to draw.

    Attributes:
        key: for choices and replays.
        time: how often an alternative has begun.
        weight: the sum of all |w| so far.
        sign: that of the weight of the jump with which the alternative began.
        is_running: whether the first world runs, in a loop that it may have left; None outside.
    """

    key: Any
    time: Any
    weight: Any
    sign: Any
    is_running: Any = None


def beginning(key: Any, dtype: Any) -> State:
    """The state before any draw."""
    zero = jnp.zeros((), dtype)
    return State(key, jnp.zeros((), jnp.int32), zero, zero)


class Chooser(abc.ABC):
    """Decides at which jump the alternative begins.

    Attributes:
        sides: on which side draws jump.
    """

    def __init__(self, sides: Sides) -> None:
        self.sides = sides

    @abc.abstractmethod
    def choose(
        self, draw: Draw, operands: Sequence[Lane], samples: Any, state: State, given: Any, key: Any
    ) -> tuple[Any, Any, State]:
        """Whether the alternative begins among some samples, these in it, and the state then."""


class Reservoir(Chooser):
    """Chooses in proportion to the weights along a direction."""

    def choose(
        self, draw: Draw, operands: Sequence[Lane], samples: Any, state: State, given: Any, key: Any
    ) -> tuple[Any, Any, State]:
        """See `Chooser`."""
        side = jumps.side_of(draw, self.sides)
        parameters = [lane.value for lane in operands]
        moving = [k for k, lane in enumerate(operands) if lane.tangent is not None]

        def rows(*varied: Any) -> Any:
            at = list(parameters)
            for k, x in zip(moving, varied, strict=True):
                at[k] = x
            return jumps.rows(draw, at, side)

        tangents = [operands[k].tangent for k in moving]
        at, change = jax.jvp(rows, [parameters[k] for k in moving], tangents)
        found = jumps.jumps(draw, parameters, samples, side)
        weights = jumps.by_direction(draw, found, samples, at, change, side)
        if state.is_running is not None:
            weights = jnp.where(state.is_running, weights, 0)
        weights = jnp.ravel(weights).astype(state.weight.dtype)
        if not weights.size:
            return jnp.array(False), samples, state
        sums = jnp.cumsum(jnp.abs(weights))
        total = state.weight + sums[-1]
        draws = jax.random.uniform(key, (2,), weights.dtype)
        begins = draws[0] * total < sums[-1]
        # The last sum is first reached by a jump that there is.
        position = jnp.searchsorted(sums, draws[1] * sums[-1], side="right")
        position = jnp.minimum(position, jnp.searchsorted(sums, sums[-1]))
        mask = (jnp.arange(weights.size) == position).reshape(found.outcomes.shape)
        sign = jnp.where(begins, jnp.sign(weights[position]), state.sign)
        time = state.time + begins
        state = state._replace(time=time, weight=total, sign=sign)
        return begins, _jumped(samples, found.outcomes, mask), state


class Chosen(Chooser):
    """Begins where a mask is true that is given to each draw, of the shape of its rows."""

    def choose(
        self, draw: Draw, operands: Sequence[Lane], samples: Any, state: State, given: Any, key: Any
    ) -> tuple[Any, Any, State]:
        """See `Chooser`."""
        side = jumps.side_of(draw, self.sides)
        found = jumps.jumps(draw, [lane.value for lane in operands], samples, side)
        begins = jnp.any(given)
        return (
            begins,
            _jumped(samples, found.outcomes, given),
            state._replace(time=state.time + begins),
        )


def _jumped(samples: Any, outcomes: Any, mask: Any) -> Any:
    """Samples one of which has jumped; outcomes may have one axis more."""
    if outcomes.ndim == samples.ndim:
        return jnp.where(mask, outcomes, samples)
    outcome = jnp.sum(jnp.where(mask, outcomes, 0), axis=-1, dtype=samples.dtype)
    return jnp.where(jnp.any(mask, axis=-1), outcome, samples)


class Worlds(Interpreter[Lane, State]):
    """Runs a world and its alternative."""

    def __init__(self, chooser: Chooser) -> None:
        self._chooser = chooser

    def constant(self, value: Any) -> Lane:
        """A lane with no more than its value."""
        return Lane(value)

    def value(self, lane: Lane) -> Any:
        """The value of a lane."""
        return lane.value

    def other(self, lane: Lane, state: State) -> Any:
        """The value of a lane in the alternative."""
        if lane.other is None:
            return lane.value
        if lane.time is state.time:
            return lane.other
        return jnp.where(state.time > lane.time, lane.value, lane.other)

    def plain(
        self, equation: Equation, operands: Sequence[Lane], facts: Sequence[Facts], state: State
    ) -> list[Lane]:
        """Results of an equation without draws."""
        values = [lane.value for lane in operands]
        moving = [k for k, lane in enumerate(operands) if lane.tangent is not None]
        tangents: Sequence[Any] = [None] * len(facts)
        if moving and any(each & known.MOVES for each in facts):

            def function(*varied: Any) -> list[Any]:
                at = list(values)
                for k, x in zip(moving, varied, strict=True):
                    at[k] = x
                return list(jax_internals.bind(equation, at))

            primals = [values[k] for k in moving]
            results, tangents = jax.jvp(function, primals, [operands[k].tangent for k in moving])
        else:
            results = list(jax_internals.bind(equation, values))
        others: Sequence[Any] = [None] * len(facts)
        if any(lane.other is not None for lane in operands):
            others = jax_internals.bind(equation, [self.other(lane, state) for lane in operands])
        return [
            Lane(value, tangent if fact & known.MOVES else None, other, state.time)
            for value, tangent, other, fact in zip(results, tangents, others, facts, strict=True)
        ]

    def drawn(
        self,
        equation: Equation,
        draw: Draw,
        operands: Sequence[Lane],
        facts: Sequence[Facts],
        state: State,
        given: Any,
    ) -> tuple[Lane, State, None]:
        """Samples, and what goes with them."""
        (samples,) = jax_internals.bind(equation, [lane.value for lane in operands])
        moves = known.joined(facts[1:]) & known.MOVES
        splits = any(lane.other is not None for lane in operands)
        if not moves and not splits:
            return Lane(samples), state, None
        key, to_choose, to_replay = jax.random.split(state.key, 3)
        state = state._replace(key=key)
        other = self._replayed(equation, draw, operands, samples, state, to_replay)
        if moves:
            begins, jumped, state = self._chooser.choose(
                draw, operands[1:], samples, state, given, to_choose
            )
            other = jnp.where(begins, jumped, other)
        return Lane(samples, None, other, state.time), state, None

    def _replayed(
        self,
        equation: Equation,
        draw: Draw,
        operands: Sequence[Lane],
        samples: Any,
        state: State,
        key: Any,
    ) -> Any:
        """The samples in the alternative that has run so far."""
        if all(lane.other is None for lane in operands):
            return samples
        others = [self.other(lane, state) for lane in operands]
        (own,) = jax_internals.bind(equation, others)
        if all(lane.other is None for lane in operands[1:]):
            return own
        parameters = [lane.value for lane in operands[1:]]
        coupled = jumps.replayed(draw, key, own, samples, parameters, others[1:])
        # What the first world draws after its end means nothing.
        return coupled if state.is_running is None else jnp.where(state.is_running, coupled, own)

    def settled(self, lane: Lane, facts: Facts, state: State) -> Lane:
        """A lane as arrays."""
        value = jnp.asarray(lane.value)
        tangent = lane.tangent
        if tangent is None and facts & known.MOVES and self._has_tangents:
            tangent = jnp.zeros_like(value)
        other = self.other(lane, state) if facts & known.SPLITS else None
        return Lane(value, tangent, None if other is None else jnp.asarray(other))

    @property
    def _has_tangents(self) -> bool:
        return isinstance(self._chooser, Reservoir)

    def resumed(self, arrays: Lane, state: State) -> Lane:
        """A lane of arrays."""
        return arrays._replace(time=state.time)

    def sliced(self, lane: Lane) -> Lane:
        """A lane for a loop to slice."""
        return lane._replace(time=None)

    def one_of(self, arrays: Lane, lane: Lane) -> Lane:
        """A slice of a lane."""
        return arrays._replace(time=lane.time)

    def time(self, state: State) -> Any:
        """When something was stacked."""
        return state.time

    def stacked(self, arrays: Lane, times: Any, state: State) -> Lane:
        """What a loop has stacked."""
        if arrays.other is None:
            return arrays
        rank = arrays.value.ndim - 1
        is_over = jnp.reshape(state.time > times, (*times.shape, *[1] * rank))
        other = jnp.where(is_over, arrays.value, arrays.other)
        return arrays._replace(other=other, time=state.time)

    def chosen_branch(
        self,
        equation: Equation,
        operands: Sequence[Lane],
        results: Sequence[Lane],
        before: State,
        after: State,
    ) -> Sequence[Lane]:
        """Results of a branch."""
        index, *rest = operands
        if index.other is None:
            return results
        # The alternative takes a branch of its own, by its own keys.
        number, other = index.value, self.other(index, before)
        apart = (number != other) & (after.time == before.time)
        taken = [self.other(lane, before) for lane in rest]
        joint = [self.other(lane, after) for lane in results]

        def alone(_: Any) -> Any:
            return jax_internals.bind(equation, [other, *taken])

        found = lax.cond(apart, lambda joint: list(alone(joint)), lambda joint: joint, joint)
        return [
            lane._replace(other=x, time=after.time) for lane, x in zip(results, found, strict=True)
        ]

    def looped(
        self,
        equation: Equation,
        operands: Sequence[Lane],
        facts: Sequence[Facts],
        state: State,
    ) -> tuple[list[Lane], State]:
        """The results of a while loop, which runs until both worlds have left it."""
        params = equation.params
        tests, consts = params["cond_nconsts"], params["body_nconsts"]
        fixed, start = operands[tests : tests + consts], operands[tests + consts :]
        test, test_constants = tracing.flatten_closed(params["cond_jaxpr"])
        body, constants = tracing.flatten_closed(params["body_jaxpr"])
        if any(map(known.has_draws, test.equations)):
            raise NotImplementedError(
                "A discrete draw in the condition of a while loop is not differentiated. Draw in "
                "the body, and carry the sample."
            )
        carried, _ = known.of_carry(equation, facts)
        inside = [*facts[tests : tests + consts], *carried]
        tested = [*facts[:tests], *carried]
        around = state.is_running

        def goes_on(lanes: Sequence[Lane], state: State) -> tuple[Any, Any]:
            inputs = [*operands[:tests], *lanes]
            (result,), _, _ = self.run(test, test_constants, inputs, tested, state)
            return result.value, self.other(result, state)

        def step(carry: Any) -> Any:
            state, arrays, running = carry
            is_running = running[0] if around is None else running[0] & around
            lanes = [self.resumed(lane, state) for lane in arrays]
            then = state._replace(is_running=is_running)
            results, then, _ = self.run(body, constants, [*fixed, *lanes], inside, then)
            new = [self.settled(x, each, then) for x, each in zip(results, carried, strict=True)]
            follows = running[1] | (then.time > state.time)

            def kept(old: Lane, new: Lane) -> Lane:
                tangent, other = new.tangent, new.other
                if tangent is not None:
                    tangent = jnp.where(running[0], tangent, old.tangent)
                if other is not None:
                    other = jnp.where(follows, other, old.other)
                return Lane(jnp.where(running[0], new.value, old.value), tangent, other)

            arrays = [kept(old, each) for old, each in zip(arrays, new, strict=True)]
            then = then._replace(is_running=None)
            first, second = goes_on([self.resumed(lane, then) for lane in arrays], then)
            return then, arrays, (running[0] & first, follows & second)

        state = state._replace(is_running=None)
        first = [self.settled(lane, each, state) for lane, each in zip(start, carried, strict=True)]
        running = goes_on([self.resumed(lane, state) for lane in first], state)
        carry = state, first, running
        state, last, _ = lax.while_loop(lambda carry: carry[2][0] | carry[2][1], step, carry)
        results = [self.resumed(lane, state) for lane in last]
        return results, state._replace(is_running=around)
