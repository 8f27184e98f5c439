"""Many steps of a stencil at once: a structure of diagonals, whose values are found by seeds."""

import math
from typing import Any

import jax
import numpy as np
from jax import lax

from jax_cce import jax_internals
from jax_cce.algebra.terms import Term
from jax_cce.program.flat import Equation
from jax_cce.rules.accumulation import Accumulation
from jax_cce.rules.bodies import Body, row_of
from jax_cce.rules.local import LocalJacobian, LocalTerm, Primals, along, local_term

__all__ = [
    "stencil",
]
# Stencils whose steps multiply more terms than this are probed, with at most so many seeds.
_FEW_TERMS = 64
_MOST_SEEDS = 256


def stencil(equation: Equation, body: Body, carried: int, length: int) -> LocalJacobian | None:
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
    row = row_of(body.program, body.program.outputs[0], rows)
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

    def responses(primals: Primals) -> Any:
        if "responses" not in primals.memo:
            groups = lax.broadcasted_iota(np.int32, (*widths, *shape), 0) * 0 == 0
            for axis, width in enumerate(widths):
                group = lax.broadcasted_iota(np.int32, groups.shape, axis)
                place = lax.broadcasted_iota(np.int32, groups.shape, len(widths) + axis)
                groups &= lax.rem(place, np.int32(width)) == group
            dtype = equation.in_avals[carried].dtype
            tangents = jax_internals.convert(groups, dtype).reshape((seeds, *shape))

            def push(tangent: Any) -> Any:
                ins = [tangent if k == carried else x for k, x in enumerate(primals.ins)]
                return jax_internals.bind(equation, ins)[0]

            primals.memo["responses"] = jax.vmap(push)(tangents).reshape((*widths, *shape))
        return primals.memo["responses"]

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
            primals: Primals, offset: Any = offset, starts: Any = starts, sizes: Any = sizes
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
            return responses(primals)[tuple(at)]

        term = Term(tuple(sizes), out, inn, tuple(range(len(sizes))))
        block += local_term(term, 1, value)
    return LocalJacobian({(carried, 0): block})


def _offset(piece: Any, shape: tuple[int, ...]) -> tuple[int, ...] | None:
    """Column minus row of a piece that is one diagonal, None for any other."""
    term = piece.term
    if term.lookups or len(term.sizes) != len(shape):
        return None
    offset = []
    for loop, (out, inn) in enumerate(zip(term.out_map, term.in_map, strict=True)):
        if out.strides != ((loop, 1),) or inn.strides != ((loop, 1),):
            return None
        offset.append(inn.offset - out.offset)
    return tuple(offset)
