"""Linear control flow by terms: the branches of a cond, the steps of a short scan.

JAX's linearisation of `cond` and `scan` is again a cond or scan, with a linear body; these rules
go into it. They serve the sparse formats, where an operator would lose all structural zeros.
"""

import functools
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax

from jax_cce import tracing
from jax_cce.blocks import Block, Piece
from jax_cce.rules.accumulation import Accumulation, Row
from jax_cce.rules.registry import (
    LocalJacobian,
    LocalTerm,
    Site,
    along,
    define_sparse,
    local_term,
)
from jax_cce.structure import Affine, Term, Unrepresentable, transpose
from jax_cce.tracing import Equation, Literal, Program

# Longer scans stay linear operators: every step is traced.
_MOST_EQUATIONS = 2048


class _Body:
    """A body of control flow: a program, and its equations that do not depend on the seeds."""

    def __init__(self, closed: Any) -> None:
        self.program, self.constants = tracing.flatten_closed(closed)

    def rows(self, inputs: Sequence[Row | None]) -> dict[Any, Row]:
        return {name: row for name, row in enumerate(inputs) if row is not None}

    def known(self, inputs: Sequence[Any], dependent: set[int]) -> list[Any]:
        """The values of all variables that depend on no seed."""
        program = self.program
        values = [*inputs, *self.constants]
        values += [None] * (len(program.avals) - len(values))
        for index, equation in enumerate(program.equations):
            if index not in dependent:
                ins = [tracing.read(values, atom) for atom in equation.inputs]
                results = tracing.bind(equation, ins)
                for name, result in zip(equation.outputs, results, strict=True):
                    values[name] = result
        return values

    def dependent(self, active: Sequence[bool]) -> tuple[set[int], list[bool]]:
        """The equations that depend on active inputs, and whether each variable does."""
        program = self.program
        tainted = [*active, *[False] * (len(program.avals) - len(active))]
        found = set()
        for index, equation in enumerate(program.equations):
            if any(not isinstance(k, Literal) and tainted[k] for k in equation.inputs):
                found.add(index)
                for name in equation.outputs:
                    tainted[name] = True
        return found, tainted


def _row_of(program: Program, atom: Any, rows: dict[Any, Row]) -> Row:
    return {} if isinstance(atom, Literal) else rows.get(atom, {})


def _inner_site(equation: Equation, values: Sequence[Any]) -> Site:
    return Site(equation, [tracing.read(values, k) for k in equation.inputs], ())


def _cond(equation: Equation, active: tuple[bool, ...]) -> LocalJacobian:
    """Every branch's terms, masked by which branch is taken."""
    if active[0]:
        raise Unrepresentable("a differentiated predicate")
    seeds = {
        operand: tuple(aval.shape)
        for operand, (aval, wanted) in enumerate(zip(equation.in_avals, active, strict=True))
        if wanted
    }
    dtype = jnp.result_type(*(equation.in_avals[k].dtype for k in seeds))
    edges: dict[tuple[int, int], tuple[LocalTerm, ...]] = {}
    for branch, closed in enumerate(equation.params["branches"]):
        body = _Body(closed)
        sums = Accumulation(seeds, sparse=True)
        rows = body.rows([sums.seed(k + 1) if active[k + 1] else None for k in range(len(active) - 1)])
        sums.program(lambda index: index, body.program.equations, rows)
        blocks = {
            (output, seed): block
            for output, atom in enumerate(body.program.outputs)
            for seed, block in _row_of(body.program, atom, rows).items()
            if block
        }
        dependent, _ = body.dependent(active[1:])

        def sites(
            site: Site, body: _Body = body, dependent: set[int] = dependent
        ) -> Callable[[int], Site]:
            values = body.known(site.ins[1:], dependent)
            equations = body.program.equations
            return functools.cache(lambda index: _inner_site(equations[index], values))

        for key, terms in sums.terms(blocks, sites, dtype).items():
            masked = tuple(_masked(term, branch, equation.in_avals[0], dtype) for term in terms)
            edges[key] = edges.get(key, ()) + masked
    return LocalJacobian(edges)


def _masked(local: LocalTerm, branch: int, index: Any, dtype: Any) -> LocalTerm:
    """A branch's term, zero where the branch is not taken."""
    term, inner = local.term, local.value

    def value(site: Site) -> Any:
        which = jnp.asarray(site.ins[0])
        taken = lax.eq(
            lax.convert_element_type(which, np.int32), lax.full((), branch, np.int32)
        )
        if inner is None:
            return taken
        array = inner(site)
        return lax.select(lax.broadcast(taken, array.shape), array, lax.full_like(array, 0))

    axes = () if term.axes is None else term.axes
    return local._replace(term=term._replace(axes=axes), value=value)


def _scan(equation: Equation, active: tuple[bool, ...]) -> LocalJacobian:
    """The chain rule through every step, where the steps are few."""
    params = equation.params
    length, consts, carry = params["length"], params["num_consts"], params["num_carry"]
    body = _Body(params["jaxpr"])
    if length * max(1, len(body.program.equations)) > _MOST_EQUATIONS:
        raise Unrepresentable("a long scan")
    seeds = {
        operand: tuple(aval.shape)
        for operand, (aval, wanted) in enumerate(zip(equation.in_avals, active, strict=True))
        if wanted
    }
    dtype = jnp.result_type(*(equation.in_avals[k].dtype for k in seeds))
    sums = Accumulation(seeds, sparse=True)
    steps = range(length - 1, -1, -1) if params["reverse"] else range(length)
    fixed = [sums.seed(k) if active[k] else None for k in range(consts)]
    state = [sums.seed(k) if active[k] else None for k in range(consts, consts + carry)]
    outputs: list[Row] = [{} for _ in equation.outputs]
    for step in steps:
        sliced: list[Row | None] = []
        for operand in range(consts + carry, len(active)):
            row: Row | None = None
            if active[operand]:
                shape = seeds[operand]
                row = {}
                sums.extend(row, _at_step(shape, step), sums.seed(operand), (shape[1:], shape))
            sliced.append(row)
        rows = body.rows([*fixed, *state, *sliced])
        sums.program(lambda index, step=step: (step, index), body.program.equations, rows)
        results = [_row_of(body.program, atom, rows) for atom in body.program.outputs]
        state = [
            row if row or old is not None else None
            for row, old in zip(results[:carry], state, strict=True)
        ]
        for at, row in enumerate(results[carry:], carry):
            shape = tuple(equation.out_avals[at].shape)
            edge = _transposed(_at_step(shape, step))
            sums.extend(outputs[at], edge, row, (shape, shape[1:]))
    for at, last in enumerate(state):
        outputs[at] = last or {}
    blocks = {
        (output, seed): block
        for output, row in enumerate(outputs)
        for seed, block in row.items()
        if block
    }
    # Whether a carried value depends on a seed does not change after `length` steps.
    carried = list(active[consts : consts + carry])
    for _ in range(carry + 1):
        dependent, tainted = body.dependent([*active[:consts], *carried, *active[consts + carry :]])
        for k, atom in enumerate(body.program.outputs[:carry]):
            carried[k] = carried[k] or (not isinstance(atom, Literal) and tainted[atom])

    def sites(site: Site) -> Callable[[Hashable], Site]:
        values: dict[int, list[Any]] = {}
        now = list(site.ins[consts : consts + carry])
        for step in steps:
            parts = [
                None if array is None else lax.index_in_dim(array, step, keepdims=False)
                for array in site.ins[consts + carry :]
            ]
            values[step] = body.known([*site.ins[:consts], *now, *parts], dependent)
            now = [tracing.read(values[step], atom) for atom in body.program.outputs[:carry]]
        equations = body.program.equations

        @functools.cache
        def inner(name: tuple[int, int]) -> Site:
            step, index = name
            return _inner_site(equations[index], values[step])

        return inner

    return LocalJacobian(sums.terms(blocks, sites, dtype))


def _at_step(shape: tuple[int, ...], step: int) -> tuple[Piece, ...]:
    """One slice along the first axis: shape[1:] <- shape."""
    loops = tuple(map(along, range(len(shape) - 1)))
    term = Term(shape[1:], loops, (Affine(step, ()), *loops), None, layout=True)
    return tuple(Piece(local.term, 1, None) for local in local_term(term))


def _transposed(block: Sequence[Piece]) -> Block:
    return tuple(piece._replace(term=transpose(piece.term)[0]) for piece in block)


define_sparse("cond", _cond, linear=True)
define_sparse("scan", _scan, linear=True)
