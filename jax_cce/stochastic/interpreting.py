"""Runs a program on lanes, which are values with what goes with them, through scans and branches.

Two interpreters share this: one runs a single world with its draws held, the other a world and its
alternative. What they know of lanes is theirs; here is how lanes pass through control flow.
"""

import abc
import functools
from collections.abc import Sequence
from typing import Any, Generic, TypeVar

import jax
import jax.numpy as jnp
from jax import lax

from jax_cce import jax_internals
from jax_cce.jax_internals import Literal
from jax_cce.program import tracing
from jax_cce.program.flat import Equation, Program
from jax_cce.stochastic import facts as known
from jax_cce.stochastic.draws import Draw, draw_of
from jax_cce.stochastic.facts import Facts

__all__ = ["Interpreter", "array_of"]

Lane = TypeVar("Lane")
State = TypeVar("State")

# What draws leave behind, and what they are given: a list with an entry for each equation that
# draws, in their order. A loop stacks its steps, a branch has a list for each of its programs.
Records = list[Any]


class Interpreter(abc.ABC, Generic[Lane, State]):
    """Runs programs on lanes, with a state that goes from one draw to the next."""

    @abc.abstractmethod
    def constant(self, value: Any) -> Lane:
        """A lane that is the same in all worlds and does not move."""

    @abc.abstractmethod
    def plain(
        self, equation: Equation, operands: Sequence[Lane], facts: Sequence[Facts], state: State
    ) -> Sequence[Lane]:
        """The results of an equation without draws, given what is known of them."""

    @abc.abstractmethod
    def drawn(
        self,
        equation: Equation,
        draw: Draw,
        operands: Sequence[Lane],
        facts: Sequence[Facts],
        state: State,
        given: Any,
    ) -> tuple[Lane, State, Any]:
        """Samples, the state after them, and what is recorded of them, given facts of operands."""

    @abc.abstractmethod
    def looped(
        self,
        equation: Equation,
        operands: Sequence[Lane],
        facts: Sequence[Facts],
        state: State,
    ) -> tuple[Sequence[Lane], State]:
        """The results of a while loop that draws."""

    @abc.abstractmethod
    def settled(self, lane: Lane, facts: Facts, state: State) -> Any:
        """A lane as arrays, of a structure that what is known of it determines."""

    @abc.abstractmethod
    def resumed(self, arrays: Any, state: State) -> Lane:
        """The lane of what `settled` gave in a state."""

    @abc.abstractmethod
    def sliced(self, lane: Lane) -> Any:
        """A lane as arrays along whose first axis a loop goes."""

    @abc.abstractmethod
    def one_of(self, arrays: Any, lane: Lane) -> Lane:
        """The lane of a slice of a lane."""

    @abc.abstractmethod
    def stacked(self, arrays: Any, times: Any, state: State) -> Lane:
        """The lane of what the steps of a loop settled, by the states in which they did."""

    @abc.abstractmethod
    def time(self, state: State) -> Any:
        """What `stacked` wants to know of a state."""

    def chosen_branch(
        self,
        equation: Equation,
        operands: Sequence[Lane],
        results: Sequence[Lane],
        before: State,
        after: State,
    ) -> Sequence[Lane]:
        """The results of a branch, where another world may have taken another one."""
        return results

    def enters(self, equation: Equation, operands: Sequence[Lane]) -> bool:
        """Whether control flow without draws is run step by step."""
        return False

    def run(
        self,
        program: Program,
        constants: Sequence[Any],
        inputs: Sequence[Lane],
        facts: Sequence[Facts],
        state: State,
        given: Records | None = None,
    ) -> tuple[list[Lane], State, Records]:
        """The outputs of a program, the state after it, and what its draws recorded.

        Args:
            program: the program.
            constants: values of its constants.
            inputs: the lanes of its inputs.
            facts: what is known of them.
            state: the state before it.
            given: what its draws are given, in the form of records.
        """
        of = known.of_variables(program, facts)
        at: list[Any] = [*inputs, *map(self.constant, constants)]
        at += [None] * (len(program.avals) - len(at))
        records: Records = []
        for equation in program.equations:
            operands = [self._read(at, atom) for atom in equation.inputs]
            before = [known.NOTHING if isinstance(a, Literal) else of[a] for a in equation.inputs]
            after = [of[name] for name in equation.outputs]
            if not known.has_draws(equation) and not self.enters(equation, operands):
                results = self.plain(equation, operands, after, state)
            else:
                ours = None if given is None else given[len(records)]
                results, state, record = self._drawing(
                    equation, operands, before, after, state, ours
                )
                records.append(record)
            for name, result in zip(equation.outputs, results, strict=True):
                at[name] = result
        return [self._read(at, atom) for atom in program.outputs], state, records

    def _read(self, at: Sequence[Any], atom: Any) -> Lane:
        return self.constant(array_of(atom)) if isinstance(atom, Literal) else at[atom]

    def _drawing(
        self,
        equation: Equation,
        operands: Sequence[Lane],
        before: Sequence[Facts],
        after: Sequence[Facts],
        state: State,
        given: Any,
    ) -> tuple[Sequence[Lane], State, Any]:
        draw = draw_of(equation)
        if draw is not None:
            result, state, record = self.drawn(equation, draw, operands, before, state, given)
            return [result], state, record
        with jax_internals.context_of(equation):
            if equation.name == "scan":
                return self._scanned(equation, operands, before, after, state, given)
            if equation.name == "cond":
                return self._branched(equation, operands, before, after, state, given)
            if equation.name == "while":
                results, state = self.looped(equation, operands, before, state)
                return results, state, None
        line = jax_internals.source_line(equation)
        raise NotImplementedError(
            f"A discrete draw inside of {equation.name}{line and f' at {line}'} is not "
            "differentiated. Draws may stand in jax.jit, vmap, lax.scan, cond, switch, while_loop "
            "and what is made of them; draw outside and pass the sample in."
        )

    def _scanned(
        self,
        equation: Equation,
        operands: Sequence[Lane],
        before: Sequence[Facts],
        after: Sequence[Facts],
        state: State,
        given: Any,
    ) -> tuple[list[Lane], State, Records]:
        consts, carry = jax_internals.scan_counts(equation)
        body, constants = tracing.flatten_closed(equation.params["jaxpr"])
        carried = after[:carry]
        inside = [*before[:consts], *carried, *before[consts + carry :]]
        fixed, start = operands[:consts], operands[consts : consts + carry]
        rest = operands[consts + carry :]

        def step(carried_on: Any, each: Any) -> Any:
            state, lanes = carried_on
            slices, ours = each
            inputs = [
                *fixed,
                *(self.resumed(lane, state) for lane in lanes),
                *(self.one_of(part, lane) for part, lane in zip(slices, rest, strict=True)),
            ]
            results, state, records = self.run(body, constants, inputs, inside, state, ours)
            settled = [
                self.settled(lane, facts, state) for lane, facts in zip(results, after, strict=True)
            ]
            stacks = settled[carry:], self.time(state), records
            return (state, settled[:carry]), stacks

        first = [
            self.settled(lane, facts, state) for lane, facts in zip(start, carried, strict=True)
        ]
        slices = list(map(self.sliced, rest)), given
        facts = {name: equation.params[name] for name in ("length", "reverse", "unroll")}
        (state, last), (stacks, times, records) = lax.scan(step, (state, first), slices, **facts)
        results = [self.resumed(lane, state) for lane in last]
        results += [self.stacked(lane, times, state) for lane in stacks]
        return results, state, records

    def _branched(
        self,
        equation: Equation,
        operands: Sequence[Lane],
        before: Sequence[Facts],
        after: Sequence[Facts],
        state: State,
        given: Any,
    ) -> tuple[Sequence[Lane], State, Records]:
        index, *rest = operands
        programs = [tracing.flatten_closed(branch) for branch in equation.params["branches"]]
        taken = [
            self.settled(lane, facts, state) for lane, facts in zip(rest, before[1:], strict=True)
        ]

        def branch(number: int, state: State, taken: Any) -> Any:
            lanes = [self.resumed(lane, state) for lane in taken]
            ours = None if given is None else given[number]
            program, constants = programs[number]
            results, state, records = self.run(program, constants, lanes, before[1:], state, ours)
            settled = [
                self.settled(x, facts, state) for x, facts in zip(results, after, strict=True)
            ]
            return settled, state, records

        branches = [functools.partial(branch, number) for number in range(len(programs))]
        kinds = [jax.eval_shape(each, state, taken)[2] for each in branches]

        def padded(number: int, state: State, taken: Any) -> Any:
            results, state, records = branches[number](state, taken)
            every = jax.tree.map(lambda kind: jnp.zeros(kind.shape, kind.dtype), kinds)
            every[number] = records
            return results, state, every

        number = self.value(index).astype(jnp.int32)
        cases = [functools.partial(padded, each) for each in range(len(programs))]
        settled, last, records = lax.switch(number, cases, state, taken)
        results = [self.resumed(lane, last) for lane in settled]
        return self.chosen_branch(equation, operands, results, state, last), last, records

    @abc.abstractmethod
    def value(self, lane: Lane) -> Any:
        """The value of a lane."""


def array_of(literal: Any) -> Any:
    """The value of a literal, of its dtype."""
    return jnp.asarray(literal.val, literal.aval.dtype)
