"""The Jacobian of a scan from those of its steps, which are computed for all steps at once.

With A the derivative of the next state by the state, B that by what a step reads of its own, K that
by what is the same in all steps, and C, D, L those of what is stacked, the chain rule over time is

    S' = A S + B dx + K dc,    dy = C S + D dx + L dc

A mode of JAX pushes each direction through every operation of a step. Here the steps' Jacobians are
eliminated by themselves, in an order of their own and natively where they can be, and what is
repeated for all directions is one product of matrices for a step. Where only the last state is
asked for, the products are formed from the end, with a row for each number of the state.
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.extend import core as jex_core

from jax_cce.algebra.terms import Term
from jax_cce.api import jacobian
from jax_cce.jax_internals import Literal
from jax_cce.planning.options import backend_inside
from jax_cce.program import flat, passes
from jax_cce.program.flat import Equation
from jax_cce.rules.book import describe
from jax_cce.rules.local import LocalJacobian, LocalTerm, Primals, along, local_term
from jax_cce.rules.steps import Steps, products_are_written_out, steps_of

__all__: list[str] = []

# Steps' Jacobians of more numbers than this are computed one after the other, not stored.
_MOST_STORED = 1 << 22


def _scan(equation: Equation, active: tuple[bool, ...]) -> LocalJacobian:
    """The blocks of a scan, dense but for those of steps that do not depend on each other."""
    loop = _Loop(equation, steps_of(equation, active))
    steps = loop.steps
    edges: dict[tuple[int, int], tuple[LocalTerm, ...]] = {}
    for result in steps.results:
        for operand in steps.seeds:
            shapes = equation.out_avals[result].shape, equation.in_avals[operand].shape
            value = functools.partial(loop.block, operand, result)
            apart = steps.is_sliced(operand) and not steps.states
            edges[operand, result] = _block(*shapes, value, shared=int(apart))
    return LocalJacobian(edges, loop.evaluate)


def _block(
    out_shape: Sequence[int],
    in_shape: Sequence[int],
    value: Callable[[Primals], Any],
    *,
    shared: int,
) -> tuple[LocalTerm, ...]:
    """A block that is dense but for so many leading axes, along which it is diagonal."""
    rank, sizes = len(out_shape), (*out_shape, *in_shape[shared:])
    loops = tuple(map(along, range(len(sizes))))
    axes = tuple(range(len(sizes)))
    return local_term(Term(sizes, loops[:rank], (*loops[:shared], *loops[rank:]), axes), 1, value)


class _Loop:
    """How the blocks of a scan are computed."""

    def __init__(self, equation: Equation, steps: Steps) -> None:
        self.steps = steps
        self._step = jex_core.jaxpr_as_fun(equation.params["jaxpr"])
        self._spans: dict[int, slice] = {}
        first = 0
        for name in steps.ends:
            self._spans[name] = slice(first, first + steps.size(name))
            first += steps.size(name)
        numbers = steps.length * steps.num_rows * steps.num_columns
        self._stored = numbers <= _MOST_STORED or not steps.states

    def evaluate(self, operands: Sequence[Any]) -> tuple[list[Any], list[Any]]:
        """The results of the scan, and what each step starts from."""
        steps = self.steps
        first, last = steps.consts, steps.consts + steps.carry

        def step(state: list[Any], slices: list[Any]) -> tuple[list[Any], Any]:
            outs = self._step(*operands[:first], *state, *slices)
            return outs[: steps.carry], (outs[steps.carry :], state)

        start = [jnp.asarray(x) for x in operands[first:last]]
        end, (stacked, states) = lax.scan(
            step, start, list(operands[last:]), length=steps.length, reverse=steps.reverse
        )
        return [*end, *stacked], states

    def _step_jacobian(self, inputs: Sequence[Any]) -> dict[int, Any]:
        """Of one step, for each input that is varied a matrix: all ends by its numbers."""
        steps, varied = self.steps, self.steps.varied

        def ends(*seeds: Any) -> list[Any]:
            values = list(inputs)
            for k, seed in zip(varied, seeds, strict=True):
                values[k] = seed
            at = passes.values(steps.program, steps.constants, values)
            passes.fill(at, steps.program.equations)
            return [flat.read(at, name) for name in steps.ends]

        by_all = jacobian(ends, tuple(range(len(varied))), backend=backend_inside())
        blocks = by_all(*(inputs[k] for k in varied))
        return {
            k: jnp.concatenate(
                [
                    lax.reshape(row[at], (steps.size(end), steps.size(k)))
                    for end, row in zip(steps.ends, blocks, strict=True)
                ]
            )
            for at, k in enumerate(varied)
        }

    def _inputs(self, primals: Primals, state: Sequence[Any], slices: Sequence[Any]) -> list[Any]:
        return [*primals.ins[: self.steps.consts], *state, *slices]

    def _over_time(self, primals: Primals) -> Any:
        """For a loop over time: the steps' Jacobians, or what they are computed from."""
        if "steps" not in primals.memo:
            steps = self.steps
            last = steps.consts + steps.carry
            each: Any = list(primals.residuals), list(map(jnp.asarray, primals.ins[last:]))
            if self._stored:

                def at(state: Sequence[Any], slices: Sequence[Any]) -> dict[int, Any]:
                    return self._step_jacobian(self._inputs(primals, state, slices))

                each = jax.vmap(at, axis_size=steps.length)(*each)
            primals.memo["steps"] = each
        return primals.memo["steps"]

    def _at_step(self, primals: Primals, each: Any) -> dict[int, Any]:
        return each if self._stored else self._step_jacobian(self._inputs(primals, *each))

    def block(self, operand: int, result: int, primals: Primals) -> Any:
        """The block of a result by an operand, as many numbers as its term has."""
        steps = self.steps
        if not steps.states:
            matrices = self._over_time(primals)[operand]
            return matrices[:, self._spans[steps.program.outputs[result]]]
        is_last = result < steps.carry
        if is_last and sum(map(steps.columns, steps.seeds)) > 2 * steps.num_states:
            return self._from_the_end(primals)[operand][self._rows_of_state(result)]
        ends, stacks = self._from_the_start(primals)
        if is_last:
            return ends[operand][self._rows_of_state(result)]
        return stacks[operand, result]

    def _rows_of_state(self, result: int) -> slice:
        steps, first = self.steps, 0
        for k in steps.states:
            if k == steps.consts + result:
                break
            first += steps.size(k)
        return slice(first, first + steps.size(steps.consts + result))

    def _next(self, rows: Any) -> Any:
        """Of rows for all ends of a step those of the next state."""
        steps, outputs = self.steps, self.steps.program.outputs
        atoms = [outputs[k - steps.consts] for k in steps.states]
        if atoms == steps.ends[: len(atoms)]:
            return rows[: steps.num_states]
        parts = []
        for k, atom in zip(steps.states, atoms, strict=True):
            known = not isinstance(atom, Literal) and atom in self._spans
            zeros = jnp.zeros((steps.size(k), *rows.shape[1:]), rows.dtype)
            parts.append(rows[self._spans[atom]] if known else zeros)
        return jnp.concatenate(parts)

    def _by_state(self, jacobians: dict[int, Any]) -> Any:
        return jnp.concatenate([jacobians[k] for k in self.steps.states], 1)

    def _from_the_start(self, primals: Primals) -> Any:
        """From the first step on, a column for each number of the operands.

        Returns:
            For each operand the derivative of the last state, and for (operand, result) what is
            stacked.
        """
        if "start" in primals.memo:
            return primals.memo["start"]
        steps = self.steps
        each = self._over_time(primals)
        size, dtype = steps.num_states, steps.program.avals[steps.varied[0]].dtype
        unit = jnp.eye(size, dtype=dtype)
        start = {}
        for k in steps.seeds:
            shape: tuple[int, ...] = (size, steps.size(k))
            if steps.is_sliced(k):
                shape = (size, steps.length, steps.size(k))
            start[k] = jnp.zeros(shape, dtype)
            if k in steps.states:
                start[k] = unit[:, self._rows_of_state(k - steps.consts)]
        stacked = [k for k in steps.results if k >= steps.carry]

        def step(before: dict[int, Any], at: Any) -> tuple[dict[int, Any], Any]:
            jacobians, time = self._at_step(primals, at[0]), at[1]
            onward = self._by_state(jacobians)
            after, out = {}, {}
            for k, columns in before.items():
                rows = _product(onward, columns)
                if steps.is_sliced(k):
                    own, zero = jacobians[k][:, None], np.int32(0)
                    rows = lax.dynamic_update_slice(rows, own, (zero, time, zero))
                elif k not in steps.states:
                    rows = rows + jacobians[k]
                after[k] = self._next(rows)
                for result in stacked:
                    out[k, result] = rows[self._spans[steps.program.outputs[result]]]
            return after, out

        times = jnp.arange(steps.length, dtype=np.int32)
        result = lax.scan(step, start, (each, times), reverse=steps.reverse)
        primals.memo["start"] = result
        return result

    def _from_the_end(self, primals: Primals) -> dict[int, Any]:
        """From the last step back, a row for each number of the last state."""
        if "end" in primals.memo:
            return primals.memo["end"]
        steps = self.steps
        each = self._over_time(primals)
        size, dtype = steps.num_states, steps.program.avals[steps.varied[0]].dtype
        same = [k for k in steps.seeds if k < steps.consts]
        own = [k for k in steps.seeds if steps.is_sliced(k)]

        def step(later: Any, at: Any) -> tuple[Any, Any]:
            rows, sums = later
            jacobians = self._at_step(primals, at)
            sums = {k: sums[k] + _product(rows, self._next(jacobians[k])) for k in same}
            out = {k: _product(rows, self._next(jacobians[k])) for k in own}
            return (_product(rows, self._next(self._by_state(jacobians))), sums), out

        start = (
            jnp.eye(size, dtype=dtype),
            {k: jnp.zeros((size, steps.size(k)), dtype) for k in same},
        )
        (rows, sums), stacks = lax.scan(step, start, each, reverse=not steps.reverse)
        result = {**sums, **{k: jnp.swapaxes(stacks[k], 0, 1) for k in own}}
        for k in steps.states:
            if k in steps.seeds:
                result[k] = rows[:, self._rows_of_state(k - steps.consts)]
        primals.memo["end"] = result
        return result


def _product(one: Any, other: Any) -> Any:
    """The product of a matrix with the first axis of an array."""
    rest = other.shape[1:]
    columns = lax.reshape(other, (other.shape[0], math.prod(rest)))
    inner, width = columns.shape
    if products_are_written_out(inner, width):
        terms = [one[:, k, None] * columns[None, k] for k in range(inner)]
        rows = functools.reduce(lax.add, terms)
    else:
        numbers = (((1,), (0,)), ((), ()))
        rows = lax.dot_general(one, columns, numbers, precision=lax.Precision.HIGHEST)
    return lax.reshape(rows, (one.shape[0], *rest))


describe("scan", steps_rule=_scan)
