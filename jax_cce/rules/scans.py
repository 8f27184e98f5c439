"""Linear scans by terms: the body once, and time as one more loop of its terms.

The local Jacobians of the steps have one structure and differ in their coefficients, so each term
of the body becomes a term with a loop over time. The states at all steps are one array H with

    H = init + shift (A H + B x + K c)

where A, B and K are such terms. If A forgets, so that A^m is structurally zero, then H is a sum of
m terms whatever the number of steps: a delay line, a moving window, a difference in time. If it
does not, the steps are few, or the positions are found without values (see `reach`, and
`reach_by_steps` for resets at known steps).
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jax_cce import jax_internals
from jax_cce.algebra.blocks import Block, Piece
from jax_cce.algebra.dtypes import promoted
from jax_cce.algebra.terms import Affine, Term, Unrepresentable, identity
from jax_cce.jax_internals import Literal
from jax_cce.program import flat
from jax_cce.program.flat import Equation
from jax_cce.rules.accumulation import Accumulation, Row
from jax_cce.rules.bodies import Body, inner_primals, row_of
from jax_cce.rules.definers import sparse
from jax_cce.rules.local import LocalJacobian, LocalTerm, Primals, along, automatic, local_term
from jax_cce.rules.reach import Positions, Reach, pushed_terms
from jax_cce.rules.reach_by_steps import kinds_of_steps, positions_by_steps
from jax_cce.rules.stencils import stencil

# A state that remembers more steps than this is not written out as terms.
_MOST_REMEMBERED = 32
# So few steps are, whatever they remember.
_FEW_STEPS = 4

Edges = dict[tuple[int, int], tuple[LocalTerm, ...]]


def _scan(equation: Equation, active: tuple[bool, ...]) -> LocalJacobian:
    """The chain rule through the steps, by whichever way suits what they remember."""
    length = equation.params["length"]
    consts, carry = jax_internals.scan_counts(equation)
    if not length:
        return _nothing(equation, active, consts, carry)
    # What is known of a carried or sliced operand is not that of each step.
    known = {k: value for k, value in equation.known.items() if k < consts}
    body = Body(equation.params["jaxpr"], known)
    if active == tuple(consts <= k < consts + 1 for k in range(len(active))) and carry == 1:
        probed = stencil(equation, body, consts, length)
        if probed is not None:
            return probed
    loop = _Loop(equation, active, body, consts, carry)
    reach = Reach(equation, active, consts, carry, loop.step_terms)
    remembered = reach.remembered(min(length, _MOST_REMEMBERED + 1))
    forgets = remembered <= _MOST_REMEMBERED and remembered < length - 1
    blocks = None if forgets else _blocks_by_steps(equation, active, known)
    if forgets or (blocks is None and length <= _FEW_STEPS):
        return loop.local_jacobian()
    try:
        listed = reach.blocks() if blocks is None else blocks
        return LocalJacobian(pushed_terms(equation, active, listed))
    except Unrepresentable:
        if length > _MOST_REMEMBERED + 1:
            raise
    return loop.local_jacobian()


def _blocks_by_steps(
    equation: Equation, active: tuple[bool, ...], known: dict[int, np.ndarray]
) -> Positions | None:
    """The positions of the entries where what is known of the steps tells them apart, else None.

    Args:
        equation: a linear scan.
        active: for each operand whether it is differentiated.
        known: what is known of the operands that are there at every step.
    """
    consts, carry = jax_internals.scan_counts(equation)
    sliced = {
        k: value
        for k, value in equation.known.items()
        if k >= consts + carry and not jnp.issubdtype(value.dtype, np.inexact)
    }
    if not sliced or (sorted_steps := kinds_of_steps(sliced)) is None:
        return None
    kinds, first = sorted_steps
    if len(first) == 1:
        return None
    reaches = []
    for step in first:
        body = Body(equation.params["jaxpr"], known | {k: v[step] for k, v in sliced.items()})
        terms = _Loop(equation, active, body, consts, carry).step_terms
        reaches.append(Reach(equation, active, consts, carry, terms))
    try:
        return positions_by_steps(reaches, kinds, active)
    except Unrepresentable:
        return None


def _nothing(equation: Equation, active: Sequence[bool], consts: int, carry: int) -> LocalJacobian:
    """No step: the state is what it was."""
    edges: Edges = {}
    for k in range(carry):
        term = identity(tuple(equation.out_avals[k].shape))
        if active[consts + k] and term is not None:
            edges[consts + k, k] = local_term(term)
    return LocalJacobian(edges)


class _Loop:
    """The terms of a scan's steps, with time as a loop.

    Attributes:
        step_terms: for (operand, result) of the body the terms of one step.
    """

    def __init__(
        self, equation: Equation, active: Sequence[bool], body: Body, consts: int, carry: int
    ) -> None:
        self._equation, self._active, self._body = equation, active, body
        self._consts, self._carry = consts, carry
        self._length, self._reverse = equation.params["length"], equation.params["reverse"]
        # A carried value varies with a seed after `carry` steps, or never.
        self._varies = list(active)
        for _ in range(carry + 1):
            self._dependent, varied = body.dependent(self._varies)
            for k, atom in enumerate(body.program.outputs[:carry]):
                if not isinstance(atom, Literal) and atom in varied:
                    self._varies[consts + k] = True
        self._dtype = promoted(
            *(equation.in_avals[k].dtype for k, wanted in enumerate(active) if wanted)
        )
        seeds = {
            k: tuple(body.program.avals[k].shape) for k, wanted in enumerate(self._varies) if wanted
        }
        sums = Accumulation(seeds, sparse=True)
        rows = body.rows([sums.seed(k) if k in seeds else None for k in range(len(active))])
        sums.program(lambda index: index, body.program.equations, rows)
        blocks = {
            (result, operand): block
            for result, atom in enumerate(body.program.outputs)
            for operand, block in row_of(body.program, atom, rows).items()
            if block
        }
        self.step_terms: Edges = sums.terms(blocks, self._sites, self._dtype)
        self._values = [
            function
            for terms in self.step_terms.values()
            for local in terms
            for function in (*((local.value,) if local.value else ()), *local.tables)
        ]

    def _sites(self, primals: Primals) -> Callable[[int], Primals]:
        values = self._body.known(primals.ins, self._dependent)
        equations = self._body.program.equations
        return functools.cache(lambda index: inner_primals(equations[index], values))

    def _history(self, primals: Primals) -> list[Any]:
        """What the steps' rules compute, for all steps together."""
        if "history" not in primals.memo:
            first, last = self._consts, self._consts + self._carry
            fixed = list(primals.ins[:first])
            known = [k for k in range(first, last) if not self._varies[k]]
            slices = {
                k: primals.ins[k]
                for k in range(last, len(primals.ins))
                if not self._varies[k] and primals.ins[k] is not None
            }
            if known:
                slices |= self._known_states(primals, known, slices)

            def one(parts: dict[int, Any]) -> list[Any]:
                ins = [*fixed, *(parts.get(k) for k in range(first, len(primals.ins)))]
                step = Primals(self._equation, ins, ())
                return [jnp.asarray(function(step)) for function in self._values]

            with automatic():
                values = jax.vmap(one, axis_size=self._length)(slices) if self._values else []
                if self._length == 1:
                    values = [value[0] for value in values]
            primals.memo["history"] = values
        return primals.memo["history"]

    def _known_states(
        self, primals: Primals, known: Sequence[int], slices: dict[int, Any]
    ) -> dict[int, Any]:
        """Carried values that do not vary with the seeds, at the start of each step."""
        first = self._consts
        fixed = list(primals.ins[:first])

        def step(state: dict[int, Any], parts: dict[int, Any]) -> tuple[Any, Any]:
            both = state | parts
            ins = [*fixed, *(both.get(k) for k in range(first, len(primals.ins)))]
            values = self._body.known(ins, self._dependent)
            outputs = self._body.program.outputs
            return {k: flat.read(values, outputs[k - first]) for k in known}, state

        start = {k: primals.ins[k] for k in known}
        _, states = lax.scan(step, start, slices, length=self._length, reverse=self._reverse)
        return states

    def _over_time(self) -> Edges:
        """The steps' terms with time as a loop."""
        edges: Edges = {}
        number = 0

        def value_of(at: int) -> Callable[[Primals], Any]:
            return lambda primals: self._history(primals)[at]

        for (operand, result), terms in self.step_terms.items():
            block: tuple[LocalTerm, ...] = ()
            for local in terms:
                term, scale, value, tables = local[:4]
                functions = [value_of(number + k) for k in range(bool(value) + len(tables))]
                number += len(functions)
                time = along(0)
                out = (time, *map(_later, term.out_map))
                inn = tuple(map(_later, term.in_map))
                if operand >= self._consts:
                    inn = (time, *inn)
                lookups = tuple(
                    lookup._replace(
                        axes=(
                            *((0,) if isinstance(lookup.table, int) else ()),
                            *(axis + 1 for axis in lookup.axes),
                        )
                    )
                    for lookup in term.lookups
                )
                axes = None if term.axes is None else (0, *(axis + 1 for axis in term.axes))
                longer = Term((self._length, *term.sizes), out, inn, axes, term.layout, lookups)
                coefficient = functions.pop(0) if value else None
                block += local_term(longer, scale, coefficient, tuple(functions))
            edges[operand, result] = block
        return edges

    def local_jacobian(self) -> LocalJacobian:
        """The chain rule over time.

        Raises:
            Unrepresentable: where the state remembers too much.
        """
        equation, consts, carry = self._equation, self._consts, self._carry
        seeds = {
            k: tuple(equation.in_avals[k].shape) for k, wanted in enumerate(self._active) if wanted
        }
        sums = Accumulation(seeds, sparse=True)
        edges = sums.placed("steps", self._over_time())
        states = range(consts, consts + carry)
        shapes = [tuple(equation.in_avals[k].shape) for k in range(len(self._active))]
        for k in states:
            shapes[k] = (self._length, *shapes[k])
        results = [
            (self._length, *shape) if at < carry else shape
            for at, shape in enumerate(tuple(aval.shape) for aval in equation.out_avals)
        ]

        def applied(rows: dict[int, Row]) -> list[Row]:
            """The rows of the steps' results, from rows of their operands."""
            found: list[Row] = [{} for _ in results]
            for (operand, result), block in edges.items():
                if operand in rows:
                    ends = results[result], shapes[operand]
                    sums.extend(found[result], block, rows[operand], ends)
            return found

        def moved(rows: Sequence[Row]) -> dict[int, Row]:
            """From the results of each step to the state of the next."""
            states_rows: dict[int, Row] = {}
            for at, row in enumerate(rows[:carry]):
                shape = results[at]
                state: Row = {}
                sums.extend(state, _next(shape, self._reverse), row, (shape, shape))
                if any(state.values()):
                    states_rows[consts + at] = state
            return states_rows

        inputs = {k: sums.seed(k) for k in seeds if k not in states}
        direct = applied(inputs)
        total: dict[int, Row] = moved(direct)
        for k in states:
            if k in seeds:
                row = total.setdefault(k, {})
                start = _first(shapes[k], self._reverse)
                sums.extend(row, start, sums.seed(k), (shapes[k], seeds[k]))
        rest, rounds = total, 0
        total = {k: dict(row) for k, row in rest.items()}
        while rest := moved(applied(rest)):
            rounds += 1
            if rounds > _MOST_REMEMBERED:
                raise Unrepresentable("a state that remembers many steps")
            for k, row in rest.items():
                sums.include(total.setdefault(k, {}), row, shapes[k])
        final = applied(total)
        for at, row in enumerate(direct):
            sums.include(final[at], row, results[at])
        for at in range(carry):
            shape = results[at]
            last: Row = {}
            sums.extend(last, _last(shape, self._reverse), final[at], (shape[1:], shape))
            final[at] = last
        blocks: dict[tuple[int, int], Block] = {
            (result, seed): block
            for result, row in enumerate(final)
            for seed, block in row.items()
            if block
        }
        return LocalJacobian(sums.terms(blocks, lambda primals: lambda _: primals, self._dtype))


def _later(affine: Affine) -> Affine:
    """The same map with its loops one place later."""
    return affine._replace(strides=tuple((k + (k >= 0), stride) for k, stride in affine.strides))


def _moving(sizes: Sequence[int], out: Sequence[Affine], inn: Sequence[Affine]) -> Block:
    terms = local_term(Term(tuple(sizes), tuple(out), tuple(inn), None, layout=True))
    return tuple(Piece(local.term, local.scale, None) for local in terms)


def _next(shape: tuple[int, ...], reverse: bool) -> Block:
    """From the end of each step to the start of the one after it."""
    rest = tuple(map(along, range(1, len(shape))))
    sizes = (shape[0] - 1, *shape[1:])
    return _moving(sizes, (along(0, 1 - reverse), *rest), (along(0, int(reverse)), *rest))


def _first(shape: tuple[int, ...], reverse: bool) -> Block:
    """To the start of the first step."""
    rest = tuple(map(along, range(len(shape) - 1)))
    return _moving(shape[1:], (Affine((shape[0] - 1) * reverse, ()), *rest), rest)


def _last(shape: tuple[int, ...], reverse: bool) -> Block:
    """From the end of the last step."""
    rest = tuple(map(along, range(len(shape) - 1)))
    return _moving(shape[1:], rest, (Affine((shape[0] - 1) * (not reverse), ()), *rest))


sparse("scan", _scan, of_linear=True)
