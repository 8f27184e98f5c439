"""Which results of a linear scan depend on which operands, step by step, without any value.

With the patterns A of a step's state by the last one, B by its input and C of its result by the
state, result t depends on input s through the pattern of C A^(t-s-1) B. The powers soon repeat, so
there are few different patterns however long the scan is. Where all positions are few enough to be
listed, the values at them are read off what the scan makes of unit seeds.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jax_cce import jax_internals
from jax_cce.algebra.index_arrays import Table
from jax_cce.algebra.stacking import listed, positions_of
from jax_cce.algebra.terms import Unrepresentable
from jax_cce.program import tracing
from jax_cce.program.flat import Equation
from jax_cce.program.known_stacks import CHOICES
from jax_cce.rules.book import record_of
from jax_cce.rules.local import LocalJacobian, LocalTerm, Primals, automatic, local_term
from jax_cce.rules.steps import steps_of, work_of

__all__ = ["MOST_ENTRIES", "MOST_PATTERNS", "Positions", "Reach", "pushed_terms"]

# States of more numbers, more different patterns and more entries than this are not listed.
_MOST_STATE = 512
MOST_PATTERNS = 256
MOST_ENTRIES = 1 << 22
# What the Jacobians of steps must be expected to save.
_SAVING = 0.6

# For (operand, result) the linear positions of the entries, rows and columns, row by row.
Positions = dict[tuple[int, int], tuple[np.ndarray, np.ndarray]]


class Reach:
    """The patterns of a scan's step, and what follows from them.

    Attributes:
        consts: how many of the scan's operands are there at each step.
        carry: how many of its operands and results are states.
        reverse: whether the steps run backwards.
        starts: where each state starts among the numbers of all of them, and where they end.
    """

    def __init__(
        self,
        equation: Equation,
        active: Sequence[bool],
        consts: int,
        carry: int,
        step_terms: Mapping[tuple[int, int], Sequence[LocalTerm]],
    ) -> None:
        """Takes the terms of one step, for (operand, result) of the body."""
        self._equation, self._active = equation, active
        self.consts, self.carry = consts, carry
        self._length, self.reverse = equation.params["length"], equation.params["reverse"]
        self._ins = [tuple(aval.shape) for aval in equation.in_avals]
        self._outs = [tuple(aval.shape) for aval in equation.out_avals]
        for k in range(consts + carry, len(self._ins)):
            self._ins[k] = self._ins[k][1:]
        for at in range(carry, len(self._outs)):
            self._outs[at] = self._outs[at][1:]
        self._terms = step_terms
        sizes = [math.prod(shape) for shape in self._outs[:carry]]
        self.starts = np.cumsum([0, *sizes])

    def _pairs(self, operand: int, result: int) -> tuple[np.ndarray, np.ndarray]:
        """Rows and columns of the entries of one step's block."""
        shapes = self._outs[result], self._ins[operand]
        found = [np.zeros((2, 0), np.int64)]
        for local in self._terms.get((operand, result), ()):
            if any(not isinstance(lookup.table, Table) for lookup in local.term.lookups):
                raise Unrepresentable("positions that depend on data")
            found.append(np.stack(positions_of(local.term, *shapes)))
        rows, columns = np.concatenate(found, 1)
        return rows, columns

    def remembered(self, most: int) -> int:
        """After how many steps a state is forgotten, or `most` if it is not by then."""
        rows, columns = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
        try:
            for result in range(self.carry):
                for k in range(self.carry):
                    at, by = self._pairs(self.consts + k, result)
                    rows.append(at + self.starts[result])
                    columns.append(by + self.starts[k])
        except Unrepresentable:
            return most
        at, by = np.concatenate(rows), np.concatenate(columns)
        reached = np.ones(self.starts[-1], bool)
        for steps in range(most):
            if not reached.any():
                return steps
            before, reached = reached, np.zeros_like(reached)
            reached[at[before[by]]] = True
        return most

    def blocks(self) -> Positions:
        """The positions of all entries of the scan's blocks.

        Raises:
            Unrepresentable: where they are too many, or depend on data.
        """
        self.check_size()
        results = range(len(self._outs))
        state = range(self.consts, self.consts + self.carry)
        onward = self.matrix(state, range(self.carry))
        last = np.eye(self.starts[-1], dtype=bool)
        read = {
            at: last[self.starts[at] : self.starts[at + 1]]
            if at < self.carry
            else self.matrix(state, [at])
            for at in results
        }
        found: Positions = {}
        self._left = MOST_ENTRIES
        for operand, wanted in enumerate(self._active):
            if not wanted:
                continue
            if operand in state:
                at = self.starts[operand - self.consts : operand - self.consts + 2]
                patterns = self._powers(onward, last[:, at[0] : at[1]], summed=False)
                direct = None
            else:
                entering = self.matrix([operand], range(self.carry))
                patterns = self._powers(onward, entering, summed=operand < self.consts)
                direct = operand
            for result in results:
                rows_columns = self._placed(operand, result, patterns, read[result], direct)
                if len(rows_columns[0]):
                    found[operand, result] = rows_columns
        return found

    def check_size(self) -> None:
        """Raises Unrepresentable where the state is too large for patterns."""
        if self.num_states > _MOST_STATE:
            raise Unrepresentable("a large state")

    @property
    def num_states(self) -> int:
        """How many numbers the state has."""
        return int(self.starts[-1])

    @property
    def num_results(self) -> int:
        """How many results the scan has."""
        return len(self._outs)

    def width(self, operand: int) -> int:
        """How many numbers of an operand a step reads."""
        return math.prod(self._ins[operand])

    def matrix(self, operands: Sequence[int], results: Sequence[int]) -> np.ndarray:
        """The pattern of a step's results by its operands, one below and beside the other."""
        rows = []
        for result in results:
            row = []
            for operand in operands:
                size = math.prod(self._outs[result]), math.prod(self._ins[operand])
                if size[0] * size[1] > _MOST_STATE**2:
                    raise Unrepresentable("a large step")
                block = np.zeros(size, bool)
                block[self._pairs(operand, result)] = True
                row.append(block)
            rows.append(np.concatenate(row, 1))
        width = sum(math.prod(self._ins[k]) for k in operands)
        return np.concatenate(rows) if rows else np.zeros((0, width), bool)

    def _powers(
        self, onward: np.ndarray, start: np.ndarray, *, summed: bool
    ) -> Callable[[int], np.ndarray]:
        """onward^j start as a function of j; summed over all exponents up to j if wanted."""
        seen: dict[bytes, int] = {}
        patterns: list[np.ndarray] = []
        now = start
        while (name := now.tobytes()) not in seen:
            if len(patterns) >= MOST_PATTERNS:
                raise Unrepresentable("many different patterns")
            if len(patterns) > self._length:
                return patterns.__getitem__
            seen[name] = len(patterns)
            patterns.append(now)
            now = (onward.astype(np.float32) @ now.astype(np.float32)) > 0
            if summed:
                now = now | patterns[-1]
        first = seen[name]
        period = len(patterns) - first
        return lambda j: patterns[j if j < first else first + (j - first) % period]

    def _placed(
        self,
        operand: int,
        result: int,
        patterns: Callable[[int], np.ndarray],
        read: np.ndarray,
        direct: int | None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Rows and columns of the entries of one block of the whole scan."""
        height, width = read.shape[0], math.prod(self._ins[operand])
        at_once = self.matrix([operand], [result]) if direct is not None else None
        final, sliced = result < self.carry, operand >= self.consts + self.carry
        rows, columns = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
        for out, inn, age in self._steps(final, sliced, started=operand >= self.consts):
            if final:
                pattern = patterns(age)[self.starts[result] : self.starts[result + 1]]
            elif age < 0:
                pattern = np.zeros((height, width), bool)
            else:
                pattern = self._read_at(read, patterns(age))
            if at_once is not None and not final and (not sliced or age == -1):
                pattern = pattern | at_once
            r, c = np.nonzero(pattern)
            self._left -= len(r) * len(out)
            if self._left < 0:
                raise Unrepresentable("too many entries")
            rows.append((out[:, None] * height + r).reshape(-1))
            columns.append((inn[:, None] * width + c).reshape(-1))
        at, by = np.concatenate(rows), np.concatenate(columns)
        order = np.lexsort((by, at))
        return at[order], by[order]

    def _read_at(self, read: np.ndarray, state: np.ndarray) -> np.ndarray:
        return (read.astype(np.float32) @ state.astype(np.float32)) > 0

    def _steps(
        self, final: bool, sliced: bool, *, started: bool
    ) -> Iterator[tuple[np.ndarray, np.ndarray, int]]:
        """Times of result and operand that share a pattern, and the exponent of that pattern.

        The exponent is -1 where a result reads the operand of its own step only.
        """
        n = self._length
        times = np.arange(n)[::-1] if self.reverse else np.arange(n)
        zero = np.zeros(1, np.int64)
        if final and sliced:
            for age in range(n):
                yield zero, times[n - 1 - age : n - age], age
        elif final:
            yield zero, zero, n if started else n - 1
        elif sliced:
            for age in range(-1, n - 1):
                yield times[age + 1 :], times[: n - 1 - age], age
        else:
            # Operands that are there from the start.
            for step in range(n):
                yield times[step : step + 1], zero, step if started else step - 1


def pushed_terms(
    equation: Equation, active: Sequence[bool], blocks: Positions
) -> dict[tuple[int, int], tuple[LocalTerm, ...]]:
    """Terms at listed positions, whose values a linear equation makes of unit seeds.

    Args:
        equation: an equation that is linear in its active operands.
        active: for each operand whether it is differentiated.
        blocks: the positions.
    """
    edges = {}
    chain = _chain(equation, active, blocks)
    for (operand, result), (rows, columns) in blocks.items():
        shapes = tuple(equation.out_avals[result].shape), tuple(equation.in_avals[operand].shape)
        rank = len(shapes[0])
        parts = [
            *(np.unravel_index(rows, shapes[0]) if rank else ()),
            *(np.unravel_index(columns, shapes[1]) if shapes[1] else ()),
        ]
        positions = np.stack(parts) if parts else np.zeros((0, len(rows)), np.int64)
        term = listed(positions, rank)
        edges[operand, result] = local_term(
            term, 1, _Pushed(equation, active, operand, result, rows, columns, chain)
        )
    return edges


def _chain(equation: Equation, active: Sequence[bool], blocks: Positions) -> LocalJacobian | None:
    """The same blocks by the Jacobians of the steps, where that takes fewer operations.

    What a mask may hide is not known here, as the values of the residuals are not.
    """
    rule = record_of(equation).steps_rule
    if rule is None or not CHOICES.isdisjoint(tracing.primitive_names([equation])):
        return None
    try:
        steps = steps_of(equation, active)
    except Unrepresentable:
        return None
    if not steps.states:
        return None
    sizes = {
        pair: (jax_internals.size(equation.in_avals[pair[0]]), jax_internals.size(aval))
        for pair in blocks
        for aval in [equation.out_avals[pair[1]]]
    }
    pushed = {pair[0]: width for pair, (width, height) in sizes.items() if width <= height}
    pulled = {pair[1]: height for pair, (width, height) in sizes.items() if width > height}
    directions = sum(pushed.values()) + sum(pulled.values())
    stacked = any(result >= steps.carry for _, result in blocks)
    taken = steps.work(stacked=stacked) + steps.stepping(stacked=stacked)
    if taken > _SAVING * directions * work_of([equation]):
        return None
    return rule(equation, tuple(active))


class _Pushed:
    """The values of one block at listed positions."""

    def __init__(
        self,
        equation: Equation,
        active: Sequence[bool],
        operand: int,
        result: int,
        rows: np.ndarray,
        columns: np.ndarray,
        chain: LocalJacobian | None,
    ) -> None:
        self._equation, self._active, self._chain = equation, active, chain
        self._operand, self._result = operand, result
        self._rows, self._columns = rows, columns

    def __call__(self, primals: Primals) -> Any:
        """Applies the equation to unit seeds of its operand, or pulls back those of its result."""
        equation = self._equation
        height = jax_internals.size(equation.out_avals[self._result])
        width = jax_internals.size(equation.in_avals[self._operand])
        first, second, shape = self._rows, self._columns, (height, width)
        if self._chain is None and (span := self._span()) is not None:
            return self._pushed_together(primals, span)
        if self._chain is not None:
            array = self._chained(primals, self._chain)
        elif height < width:
            array = self._pulled(primals)
        else:
            array = self._pushed(primals)
            first, second, shape = second, first, (width, height)
        with automatic():
            array = lax.reshape(jax_internals.untyped(array), shape)
            if len(first) == height * width:
                array = array if first is self._rows else lax.transpose(array, (1, 0))
                return lax.reshape(array, (height * width,))
            return array.at[first, second].get(mode="promise_in_bounds", unique_indices=True)

    def _chained(self, primals: Primals, chain: LocalJacobian) -> Any:
        """The whole block from the Jacobians of the steps."""
        if "chained" not in primals.memo:
            assert chain.evaluate is not None
            pairs = zip(primals.ins, self._equation.in_avals, strict=True)
            ins = [jax_internals.zeros(aval) if x is None else x for x, aval in pairs]
            primals.memo["chained"] = Primals(self._equation, ins, *chain.evaluate(ins))
        terms = chain.edges[self._operand, self._result]
        assert isinstance(terms, tuple)
        assert terms[0].value is not None
        return terms[0].value(primals.memo["chained"])

    def _pushed(self, primals: Primals) -> Any:
        """What becomes of unit seeds of the operand: all results, one after the other."""
        key = "pushed", self._operand
        if key not in primals.memo:
            apply = self._function(primals)
            primals.memo[key] = _of_units(
                lambda seed: apply({self._operand: seed}), self._equation.in_avals[self._operand]
            )
        return primals.memo[key][self._result]

    def _span(self) -> int | None:
        """How many steps apart seeds have no result in common; None where few or none are."""
        equation = self._equation
        consts, carry = jax_internals.scan_counts(equation)
        if self._operand < consts + carry or not len(self._rows):
            return None
        length = equation.params["length"]
        height, width = (
            jax_internals.size(aval)
            for aval in (equation.out_avals[self._result], equation.in_avals[self._operand])
        )
        entered = self._columns // (width // length)
        if self._result < carry:
            left = np.full_like(self._rows, 0 if equation.params["reverse"] else length - 1)
        else:
            left = self._rows // (height // length)
        span = int(np.abs(left - entered).max()) + 1
        return span if span * (width // length) < _SAVING * min(height, width) else None

    def _pushed_together(self, primals: Primals, span: int) -> Any:
        """The entries where seeds of steps that lie a span apart are applied together."""
        aval = self._equation.in_avals[self._operand]
        length = aval.shape[0]
        width = jax_internals.size(aval) // length
        key = "together", self._operand, span
        if key not in primals.memo:
            apply = self._function(primals)

            def column(index: Any) -> list[Any]:
                step = lax.broadcasted_iota(np.int32, (length, width), 0)
                number = lax.broadcasted_iota(np.int32, (length, width), 1)
                here = (step % span) * width + number == index
                seed = lax.reshape(lax.convert_element_type(here, aval.dtype), aval.shape)
                return apply({self._operand: jax_internals.sharded_like(seed, aval)})

            primals.memo[key] = jax.vmap(column)(jnp.arange(span * width, dtype=np.int32))
        with automatic():
            array = jax_internals.untyped(primals.memo[key][self._result])
            array = lax.reshape(array, (span * width, array.size // (span * width)))
            index = self._columns // width % span * width + self._columns % width
            return array.at[index, self._rows].get(mode="promise_in_bounds", unique_indices=True)

    def _pulled(self, primals: Primals) -> Any:
        key = "pulled", self._result
        if key not in primals.memo:
            apply = self._function(primals)
            avals = {
                k: jax_internals.abstract(self._equation.in_avals[k])
                for k, wanted in enumerate(self._active)
                if wanted
            }
            transpose = jax.linear_transpose(lambda seeds: apply(seeds)[self._result], avals)
            aval = self._equation.out_avals[self._result]
            primals.memo[key] = _of_units(lambda seed: transpose(seed)[0], aval)
        return primals.memo[key][self._operand]

    def _function(self, primals: Primals) -> Callable[[dict[int, Any]], list[Any]]:
        equation = self._equation

        def apply(seeds: dict[int, Any]) -> list[Any]:
            ins = [
                x if not wanted else seeds[k] if k in seeds else jax_internals.zeros(aval)
                for k, (x, wanted, aval) in enumerate(
                    zip(primals.ins, self._active, equation.in_avals, strict=True)
                )
            ]
            return list(jax_internals.bind(equation, ins))

        return apply


def _of_units(function: Callable[[Any], Any], aval: Any) -> Any:
    """What becomes of all unit arrays of an abstract value, stacked."""
    size = jax_internals.size(aval)
    # From iota and not as a constant.
    eye = lax.broadcasted_iota(np.int32, (size, size), 0) == lax.broadcasted_iota(
        np.int32, (size, size), 1
    )
    units = lax.reshape(lax.convert_element_type(eye, aval.dtype), (size, *aval.shape))
    return jax.vmap(lambda seed: function(jax_internals.sharded_like(seed, aval)))(units)
