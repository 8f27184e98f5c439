"""Linear control flow by terms: the branches of a cond, the steps of a short scan.

JAX's linearisation of `cond` and `scan` is again a cond or scan, with a linear body; these rules
go into it. They serve the sparse formats, where an operator would lose all structural zeros.
"""

import functools
import math
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import jax
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
# Stencils whose steps multiply more terms than this are probed, with at most so many seeds.
_FEW_TERMS = 64
_MOST_SEEDS = 256


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
        rows = body.rows(
            [sums.seed(k + 1) if active[k + 1] else None for k in range(len(active) - 1)]
        )
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
        taken = lax.eq(lax.convert_element_type(which, np.int32), lax.full((), branch, np.int32))
        if inner is None:
            return taken
        array = inner(site)
        return lax.select(lax.broadcast(taken, array.shape), array, lax.full_like(array, 0))

    axes = () if term.axes is None else term.axes
    return local._replace(term=term._replace(axes=axes), value=value)


def _scan(equation: Equation, active: tuple[bool, ...]) -> LocalJacobian:
    """The chain rule through every step, where the steps are few."""
    params = equation.params
    length = params["length"]
    consts, carry = tracing.scan_counts(equation)
    body = _Body(params["jaxpr"])
    if length * max(1, len(body.program.equations)) > _MOST_EQUATIONS:
        raise Unrepresentable("a long scan")
    if active == tuple(consts <= k < consts + 1 for k in range(len(active))) and carry == 1:
        probed = _stencil(equation, body, consts, length)
        if probed is not None:
            return probed
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
        sums.program(functools.partial(_pair, step), body.program.equations, rows)
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


def _pair(step: int, index: int) -> tuple[int, int]:
    return step, index


def _stencil(equation: Equation, body: _Body, carried: int, length: int) -> LocalJacobian | None:
    """Many steps of a stencil: the structure by symbols, the values by seeds.

    Where one step is a sum of diagonals, all steps together are diagonals at the sums of their
    offsets. One seed for each residue of the column index then holds every diagonal unmixed.
    Returns None where a step is anything else, or the steps are few.

    Source: Curtis, Powell & Reid (1974), with the groups of columns known beforehand.
    """
    shape = tuple(equation.in_avals[carried].shape)
    if tuple(equation.out_avals[0].shape) != shape or len(equation.outputs) > 1:
        return None
    sums = Accumulation({carried: shape}, sparse=True)
    rows = body.rows([sums.seed(k) if k == carried else None for k in range(len(equation.inputs))])
    sums.program(lambda index: index, body.program.equations, rows)
    row = _row_of(body.program, body.program.outputs[0], rows)
    offsets = set()
    for piece in row.get(carried, ()):
        offset = _offset(piece, shape)
        if offset is None:
            return None
        offsets.add(offset)
    reached = {(0,) * len(shape)}
    work = 0
    for _ in range(length):
        sums_of = {
            tuple(a + b for a, b in zip(one, two, strict=True))
            for one in reached
            for two in offsets
        }
        reached = {
            at for at in sums_of if all(abs(k) < size for k, size in zip(at, shape, strict=True))
        }
        work += len(reached) * len(offsets)
    widths = [max(k) - min(k) + 1 for k in zip(*reached, strict=True)]
    seeds = math.prod(widths)
    if work <= _FEW_TERMS or seeds > _MOST_SEEDS:
        return None

    def responses(site: Site) -> Any:
        if "responses" not in site.memo:
            groups = lax.broadcasted_iota(np.int32, (*widths, *shape), 0) * 0 == 0
            for axis, width in enumerate(widths):
                group = lax.broadcasted_iota(np.int32, groups.shape, axis)
                place = lax.broadcasted_iota(np.int32, groups.shape, len(widths) + axis)
                groups &= lax.rem(place, np.int32(width)) == group
            dtype = equation.in_avals[carried].dtype
            tangents = groups.astype(dtype).reshape((seeds, *shape))

            def push(tangent: Any) -> Any:
                ins = [tangent if k == carried else x for k, x in enumerate(site.ins)]
                return tracing.bind(equation, ins)[0]

            site.memo["responses"] = jax.vmap(push)(tangents).reshape((*widths, *shape))
        return site.memo["responses"]

    block: tuple[LocalTerm, ...] = ()
    for offset in sorted(reached):
        starts = [max(0, -k) for k in offset]
        sizes = [size - abs(k) for k, size in zip(offset, shape, strict=True)]
        out = tuple(along(axis, start) for axis, start in enumerate(starts))
        inn = tuple(
            along(axis, start + k)
            for axis, (start, k) in enumerate(zip(starts, offset, strict=True))
        )

        def value(
            site: Site, offset: Any = offset, starts: Any = starts, sizes: Any = sizes
        ) -> Any:
            rank = len(sizes)
            at: list[Any] = []
            for axis, width in enumerate(widths):
                column = np.arange(sizes[axis]) + starts[axis] + offset[axis]
                spread = [-1 if k == axis else 1 for k in range(rank)]
                at.append((column % width).reshape(spread))
            for axis in range(rank):
                spread = [-1 if k == axis else 1 for k in range(rank)]
                at.append((np.arange(sizes[axis]) + starts[axis]).reshape(spread))
            return responses(site)[tuple(at)]

        term = Term(tuple(sizes), out, inn, tuple(range(len(sizes))))
        block += local_term(term, 1, value)
    return LocalJacobian({(carried, 0): block})


def _offset(piece: Any, shape: tuple[int, ...]) -> tuple[int, ...] | None:
    """Column minus row of a piece that is one diagonal, None for any other."""
    term = piece.term
    if term.lookups or len(term.sizes) != len(shape):
        return None
    offset = []
    for loop, (out, inn) in enumerate(zip(term.out, term.inn, strict=True)):
        if out.strides != ((loop, 1),) or inn.strides != ((loop, 1),):
            return None
        offset.append(inn.offset - out.offset)
    return tuple(offset)


def _at_step(shape: tuple[int, ...], step: int) -> tuple[Piece, ...]:
    """One slice along the first axis: shape[1:] <- shape."""
    loops = tuple(map(along, range(len(shape) - 1)))
    term = Term(shape[1:], loops, (Affine(step, ()), *loops), None, layout=True)
    return tuple(Piece(local.term, 1, None) for local in local_term(term))


def _transposed(block: Sequence[Piece]) -> Block:
    return tuple(piece._replace(term=transpose(piece.term)[0]) for piece in block)


define_sparse("cond", _cond, linear=True)
define_sparse("scan", _scan, linear=True)
