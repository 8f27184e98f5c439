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

from jax_cce import jax_internals
from jax_cce.algebra.blocks import Block, Piece
from jax_cce.algebra.dtypes import promoted
from jax_cce.algebra.terms import Affine, Term, Unrepresentable, transpose
from jax_cce.jax_internals import Literal
from jax_cce.program import flat
from jax_cce.program.flat import Equation
from jax_cce.rules.accumulation import Accumulation, Row
from jax_cce.rules.bodies import Body, inner_primals, row_of
from jax_cce.rules.definers import sparse
from jax_cce.rules.local import LocalJacobian, LocalTerm, Primals, along, local_term
from jax_cce.rules.stencils import stencil

# Longer scans stay linear operators: every step is traced.
_MOST_EQUATIONS = 2048


def _cond(equation: Equation, active: tuple[bool, ...]) -> LocalJacobian:
    """Every branch's terms, masked by which branch is taken."""
    if active[0]:
        raise Unrepresentable("a differentiated predicate")
    seeds = {
        operand: tuple(aval.shape)
        for operand, (aval, wanted) in enumerate(zip(equation.in_avals, active, strict=True))
        if wanted
    }
    dtype = promoted(*(equation.in_avals[k].dtype for k in seeds))
    edges: dict[tuple[int, int], tuple[LocalTerm, ...]] = {}
    known = {k - 1: value for k, value in equation.known.items() if k}
    for branch, closed in enumerate(equation.params["branches"]):
        body = Body(closed, known)
        sums = Accumulation(seeds, sparse=True)
        rows = body.rows(
            [sums.seed(k + 1) if active[k + 1] else None for k in range(len(active) - 1)]
        )
        sums.program(lambda index: index, body.program.equations, rows)
        blocks = {
            (output, seed): block
            for output, atom in enumerate(body.program.outputs)
            for seed, block in row_of(body.program, atom, rows).items()
            if block
        }
        dependent, _ = body.dependent(active[1:])

        def sites(
            primals: Primals, body: Body = body, dependent: list[bool] = dependent
        ) -> Callable[[int], Primals]:
            values = body.known(primals.ins[1:], dependent)
            equations = body.program.equations
            return functools.cache(lambda index: inner_primals(equations[index], values))

        for key, terms in sums.terms(blocks, sites, dtype).items():
            masked = tuple(_masked(term, branch, equation.in_avals[0], dtype) for term in terms)
            edges[key] = edges.get(key, ()) + masked
    return LocalJacobian(edges)


def _masked(local: LocalTerm, branch: int, index: Any, dtype: Any) -> LocalTerm:
    """A branch's term, zero where the branch is not taken."""
    term, inner = local.term, local.value

    def taken(primals: Primals) -> Any:
        which = jnp.asarray(primals.ins[0])
        return lax.eq(lax.convert_element_type(which, np.int32), lax.full((), branch, np.int32))

    def value(primals: Primals) -> Any:
        here = taken(primals)
        if inner is None:
            return here
        array = inner(primals)
        return lax.select(lax.broadcast(here, array.shape), array, lax.full_like(array, 0))

    axes = () if term.axes is None else term.axes
    term = term._replace(axes=axes)
    if inner is None or local.is_mask:
        return local._replace(term=term, value=value, is_mask=True)

    def mask(primals: Primals) -> Any:
        here = lax.broadcast(taken(primals), term.coefficient_shape)
        return here if local.mask is None else lax.bitwise_and(here, local.mask(primals))

    return local._replace(term=term, value=value, mask=mask)


def _scan(equation: Equation, active: tuple[bool, ...]) -> LocalJacobian:
    """The chain rule through every step, where the steps are few."""
    params = equation.params
    length = params["length"]
    consts, carry = jax_internals.scan_counts(equation)
    # What is known of a carried or sliced operand is not that of each step.
    body = Body(params["jaxpr"], {k: value for k, value in equation.known.items() if k < consts})
    if length * max(1, len(body.program.equations)) > _MOST_EQUATIONS:
        raise Unrepresentable("a long scan")
    if active == tuple(consts <= k < consts + 1 for k in range(len(active))) and carry == 1:
        probed = stencil(equation, body, consts, length)
        if probed is not None:
            return probed
    seeds = {
        operand: tuple(aval.shape)
        for operand, (aval, wanted) in enumerate(zip(equation.in_avals, active, strict=True))
        if wanted
    }
    dtype = promoted(*(equation.in_avals[k].dtype for k in seeds))
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
        sums.program(functools.partial(_pair, step), body.program.equations, rows)
        results = [row_of(body.program, atom, rows) for atom in body.program.outputs]
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
        dependent, varied = body.dependent([*active[:consts], *carried, *active[consts + carry :]])
        for k, atom in enumerate(body.program.outputs[:carry]):
            carried[k] = carried[k] or (not isinstance(atom, Literal) and atom in varied)

    def sites(primals: Primals) -> Callable[[Hashable], Primals]:
        values: dict[int, list[Any]] = {}
        now = list(primals.ins[consts : consts + carry])
        for step in steps:
            parts = [
                None if array is None else lax.index_in_dim(array, step, keepdims=False)
                for array in primals.ins[consts + carry :]
            ]
            values[step] = body.known([*primals.ins[:consts], *now, *parts], dependent)
            now = [flat.read(values[step], atom) for atom in body.program.outputs[:carry]]
        equations = body.program.equations

        @functools.cache
        def inner(name: tuple[int, int]) -> Primals:
            step, index = name
            return inner_primals(equations[index], values[step])

        return inner

    return LocalJacobian(sums.terms(blocks, sites, dtype))


def _pair(step: int, index: int) -> tuple[int, int]:
    return step, index


def _at_step(shape: tuple[int, ...], step: int) -> tuple[Piece, ...]:
    """One slice along the first axis: shape[1:] <- shape."""
    loops = tuple(map(along, range(len(shape) - 1)))
    term = Term(shape[1:], loops, (Affine(step, ()), *loops), None, layout=True)
    return tuple(Piece(local.term, 1, None) for local in local_term(term))


def _transposed(block: Sequence[Piece]) -> Block:
    return tuple(piece._replace(term=transpose(piece.term)[0]) for piece in block)


sparse("cond", _cond, of_linear=True)
sparse("scan", _scan, of_linear=True)
