"""What is computed of all steps of a scan at once, moved into its steps.

A likelihood is a sum of terms that a scan stacks; a loss compares all states with readings; what a
scan reads may be noise times a scale. Step by step the terms are added up as they come, and nothing
but what else is wanted is stacked, so that a program of scalars is as long for ten steps as for
ten thousand. Sums are then in the order of the steps.
"""

import functools
import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import jax
from jax import lax

from jax_cce import jax_internals
from jax_cce.jax_internals import Literal, bind
from jax_cce.program import passes, tracing
from jax_cce.program.flat import Equation, Program, read
from jax_cce.rules.book import Entrywise, record_of

__all__ = ["fused"]

# The parameters of operations that say how long the first axis of the result is.
_SIZES = {
    "broadcast_in_dim": ("shape",),
    "reshape": ("new_sizes",),
    "slice": ("limit_indices",),
}


def fused(program: Program) -> Program:
    """The program with what is computed of stacked entries, of each by itself, in the scans.

    Moved are sums over all steps of what is computed of what a scan stacks, and what is computed
    for each step of what the scan reads.

    Args:
        program: a program.

    Returns:
        A program of the same inputs, constants and outputs; the same one where nothing moves.
    """
    if any(equation.regions for equation in program.equations):
        return program
    at = 0
    while at < len(program.equations):
        equation = program.equations[at]
        is_long = equation.name == "scan" and equation.params["length"] > 1
        if is_long and (move := _Move(program, at)).gains:
            program, at = move.result()
        at += 1
    return program


class _Move:
    """What one scan can take in.

    Args:
        program: the program.
        at: the place of the scan among its equations.
    """

    def __init__(self, program: Program, at: int) -> None:
        self._program, self._at = program, at
        self._scan = program.equations[at]
        self._length: int = self._scan.params["length"]
        consts, carry = jax_internals.scan_counts(self._scan)
        self._first_row = consts + carry
        self._stacked = self._scan.outputs[carry:]
        _, self._late = passes.dependent(program.equations[at:], self._scan.outputs)
        self._sums, self._after = self._summed_after()
        self._before = self._read_before()

    @property
    def gains(self) -> bool:
        """Whether there is anything to take in."""
        return bool(self._sums or self._before)

    def _read_before(self) -> list[Equation]:
        """What computes, for each step by itself, what is read there and not known beforehand."""
        program = self._program
        wanted = set(self._scan.inputs[self._first_row :])
        wanted.update(x for each in (*self._after, *self._sums) for x in each.variables)
        _, varied = passes.dependent(program.equations, range(program.first_computed))
        known = self._late.union(x for x in range(len(program.avals)) if x not in varied)
        taken = []
        for equation in reversed(program.equations):
            if wanted.isdisjoint(equation.outputs) or not known.isdisjoint(equation.outputs):
                continue
            rows = [x for x in equation.variables if self._is_row(x)]
            # Integers are not moved, nor are random keys.
            has_others = not all(
                jax_internals.is_number(aval) and aval.dtype.kind not in "iu"
                for aval in equation.out_avals
            )
            if not has_others and self._is_of_each(equation, rows):
                taken.append(equation)
                wanted.update(rows)
        return taken[::-1]

    def _summed_after(self) -> tuple[list[Equation], list[Equation]]:
        """The sums over the steps, and what computes their terms of each step by itself."""
        equations = self._program.equations[self._at + 1 :]
        inside, of_each, sums = set(self._stacked), [], []
        for equation in equations:
            rows = [x for x in equation.variables if x in inside or self._is_row(x)]
            others = (x for x in equation.variables if x not in inside)
            if inside.isdisjoint(rows) or not self._late.isdisjoint(others):
                continue
            if self._is_sum(equation):
                sums.append(equation)
            elif self._is_of_each(equation, rows):
                of_each.append(equation)
                inside.update(equation.outputs)
        needed, _ = passes.needed(of_each, [x for each in sums for x in each.variables])
        return sums, [each for each, is_needed in zip(of_each, needed, strict=True) if is_needed]

    def _is_row(self, atom: Any) -> bool:
        shape = self._program.aval(atom).shape
        return bool(shape) and shape[0] == self._length

    def _is_sum(self, equation: Equation) -> bool:
        """Whether something is added up over all steps, of stacked entries all."""
        if not jax_internals.is_differentiable(equation.out_avals[0]):
            return False
        if equation.name == "reduce_sum":
            return 0 in equation.params["axes"]
        if equation.name != "dot_general":
            return False
        (left, right), _ = equation.params["dimension_numbers"]
        return (0, 0) in zip(left, right, strict=True)

    def _is_of_each(self, equation: Equation, rows: Sequence[Any]) -> bool:
        """Whether each entry of the result along the first axis is of those of the operands.

        Args:
            equation: the equation.
            rows: the operands that have an entry for each step; all others are the same for all.
        """
        if len(equation.outputs) != 1 or not self._is_row(equation.outputs[0]):
            return False
        name, params = equation.name, equation.params
        if record_of(equation).entrywise is Entrywise.ELEMENTWISE:
            # All others are scalars.
            return all(
                not each.shape or x in rows
                for x, each in zip(equation.inputs, equation.in_avals, strict=True)
            )
        is_row = equation.inputs[0] in rows
        match name:
            case "broadcast_in_dim":
                return not is_row or params["broadcast_dimensions"][0] == 0
            case "reshape":
                return is_row and params["dimensions"] is None
            case "squeeze":
                return is_row and 0 not in params["dimensions"]
            case "reduce_sum":
                return is_row and 0 not in params["axes"]
            case "slice":
                return is_row
            case "dot_general":
                (left, _), batch = params["dimension_numbers"]
                is_free = 0 not in left and not any(batch)
                return is_row and is_free and equation.inputs[1] not in rows
        return False

    def result(self) -> tuple[Program, int]:
        """The program, and where the scan is in it."""
        program, scan = self._program, self._scan
        computed = {x for each in (*self._before, *self._after) for x in each.outputs}
        reads = [x for each in (*self._before, *self._after, *self._sums) for x in each.variables]
        reads += scan.inputs[self._first_row :]
        given = dict.fromkeys(x for x in reads if x not in computed.union(self._stacked))
        rows = [x for x in given if self._is_row(x)]
        inputs = [*scan.inputs[: self._first_row], *rows]
        fixed = [x for x in given if not self._is_row(x)]
        inputs += fixed
        # Where the rest is that does not need the scan's results, it comes first.
        summed = set(map(id, self._sums))
        rest = [e for e in program.equations[self._at + 1 :] if id(e) not in summed]
        first, _ = passes.needed(rest, given)
        before = [*program.equations[: self._at], *itertools.compress(rest, first)]
        rest = [e for e, is_first in zip(rest, first, strict=True) if not is_first]
        _, read_later = passes.needed(rest, program.outputs)
        wanted = [x for x in scan.outputs if x in read_later]
        avals = [jax.ShapeDtypeStruct(a.shape, a.dtype) for a in map(program.aval, inputs)]
        loop = functools.partial(self._loop, rows, fixed, wanted)
        with jax_internals.allowing(*(aval.dtype for aval in avals)):
            inner, constants = tracing.trace(lambda *operands: loop(*operands), avals)
        # The loop's own variables, by numbers that are new.
        new = dict(enumerate(inputs))
        for k, value in enumerate(constants, inner.num_inputs):
            new[k] = Literal(value, inner.avals[k])
        every = dict(enumerate(program.avals))
        for k in range(inner.first_computed, len(inner.avals)):
            new[k] = len(every)
            every[new[k]] = inner.avals[k]
        # What it returns may be what it was given, or the same twice.
        found = _renamed(inner.outputs, new)
        results = [*wanted, *(x for each in self._sums for x in each.outputs)]
        instead = dict(zip(results, found, strict=True))
        equations = [
            *before,
            *(
                replace(e, inputs=_renamed(e.inputs, new), outputs=_renamed(e.outputs, new))
                for e in inner.equations
            ),
            *(replace(e, inputs=_renamed(e.inputs, instead)) for e in rest),
        ]
        outputs = _renamed(program.outputs, instead)
        live, _ = passes.needed(equations, outputs)
        equations = list(itertools.compress(equations, live))
        order = [*range(program.first_computed), *(x for e in equations for x in e.outputs)]
        sizes = program.num_inputs, program.num_constants
        made = passes.renumbered(every, order, *sizes, equations, outputs)
        return made, sum(live[: len(before) + len(inner.equations)]) - 1

    def _loop(
        self, rows: Sequence[int], fixed: Sequence[int], wanted: Sequence[int], *operands: Any
    ) -> list[Any]:
        """The scan with what it takes in.

        Args:
            rows: what each step reads an entry of.
            fixed: what is the same in all steps.
            wanted: which of the scan's results are.
            *operands: what the scan begins with, these rows, and what is fixed.

        Returns:
            The results that are wanted, and the sums.
        """
        scan, sums = self._scan, self._sums
        body, constants = tracing.flatten_closed(scan.params["jaxpr"])
        consts, carry = jax_internals.scan_counts(scan)
        entries = operands[self._first_row :][: len(rows)]
        same = dict(zip(fixed, operands[self._first_row + len(rows) :], strict=True))

        def step(state: Any, entries: Sequence[Any]) -> Any:
            carried, totals = state
            values = same | {x: each[None] for x, each in zip(rows, entries, strict=True)}
            _evaluate(self._before, values)
            own = [values[x][0] for x in scan.inputs[self._first_row :]]
            results = passes.evaluate(body, constants, [*operands[:consts], *carried, *own])
            stacked = results[carry:]
            values |= {x: each[None] for x, each in zip(self._stacked, stacked, strict=True)}
            _evaluate((*self._after, *sums), values)
            terms = [values[each.outputs[0]] for each in sums]
            totals = [total + term for total, term in zip(totals, terms, strict=True)]
            return (results[:carry], totals), stacked

        totals = [jax_internals.zeros(each.out_avals[0]) for each in sums]
        start = list(operands[consts : self._first_row]), totals
        facts = {name: scan.params[name] for name in ("length", "reverse")}
        (last, totals), stacked = lax.scan(step, start, list(entries), **facts)
        found = dict(zip(scan.outputs, [*last, *stacked], strict=True))
        return [*(found[x] for x in wanted), *totals]


def _renamed(atoms: Iterable[Any], names: Mapping[int, Any]) -> tuple[Any, ...]:
    """Atoms, with others in place of some variables."""
    return tuple(x if isinstance(x, Literal) else names.get(x, x) for x in atoms)


def _evaluate(equations: Iterable[Equation], values: dict[int, Any]) -> None:
    """Evaluates equations on one entry of each array along its first axis."""
    for equation in equations:
        params = dict(equation.params)
        for name in _SIZES.get(equation.name, ()):
            params[name] = (1, *params[name][1:])
        operands = [read(values, x) for x in equation.inputs]  # type: ignore[arg-type]
        (values[equation.outputs[0]],) = bind(replace(equation, params=params), operands)
