"""Products, selections and reductions whose coefficients are other operands or masks."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from jax import lax

from jax_cce import jax_internals
from jax_cce.algebra.fence import fence
from jax_cce.algebra.terms import Term
from jax_cce.program.flat import Equation
from jax_cce.rules.book import EACH, Entrywise, Linear
from jax_cce.rules.definers import full
from jax_cce.rules.local import LocalJacobian, LocalTerm, Primals, along, local_term

__all__ = [
    "dot_general",
]


def dot_general(equation: Equation, active: tuple[bool, ...]) -> LocalJacobian:
    """Bilinear: the coefficient of each operand is the other one.

    With out[b, i, j] = sum_k x[b, i, k] y[b, k, j]:
    d out[b, i, j] / d x[b, i, k] = y[b, k, j], zero for other b and i; the same for y.
    """
    (contract, batch) = equation.params["dimension_numbers"]
    shapes = [aval.shape for aval in equation.in_avals[:2]]
    # Loop numbers: batch, free axes of x, free axes of y (the result's axes), then contracted.
    loops: list[dict[int, int]] = [{}, {}]
    sizes: list[int] = []
    for axes in zip(*batch, strict=True):
        for side, axis in enumerate(axes):
            loops[side][axis] = len(sizes)
        sizes.append(shapes[0][axes[0]])
    for side, shape in enumerate(shapes):
        for axis, size in enumerate(shape):
            if axis not in batch[side] and axis not in contract[side]:
                loops[side][axis] = len(sizes)
                sizes.append(size)
    out = tuple(map(along, range(len(sizes))))
    for axes in zip(*contract, strict=True):
        for side, axis in enumerate(axes):
            loops[side][axis] = len(sizes)
        sizes.append(shapes[0][axes[0]])
    orders = [tuple(loops[side][axis] for axis in range(len(shapes[side]))) for side in (0, 1)]

    edges: dict[tuple[int, int], tuple[LocalTerm, ...]] = {}
    for side in (0, 1):
        if active[side]:
            term = Term(tuple(sizes), out, tuple(map(along, orders[side])), orders[1 - side])
            if block := local_term(term, 1, _operand(1 - side)):
                edges[side, 0] = block
    return LocalJacobian(edges)


def _operand(index: int) -> Any:
    return lambda primals: primals.ins[index]


def _select_n(equation: Equation, active: tuple[bool, ...]) -> LocalJacobian:
    """Each case passes where it is the one selected: a diagonal mask."""
    which = equation.in_avals[0]
    shape = equation.out_avals[0].shape
    loops = tuple(map(along, range(len(shape))))
    axes = tuple(range(len(which.shape)))

    def mask(case: int) -> Any:
        def value(primals: Primals) -> Any:
            selector = primals.ins[0]
            if which.dtype == np.bool_:
                return selector if case else lax.bitwise_not(selector)
            return lax.eq(selector, lax.full_like(selector, case))

        return value

    edges = {}
    for operand, wanted in enumerate(active):
        term, value = Term(shape, loops, loops, axes), mask(operand - 1)
        if wanted and (block := local_term(term, 1, value, is_mask=True)):
            edges[operand, 0] = block
    return LocalJacobian(edges)


def _clamp(equation: Equation, active: tuple[bool, ...]) -> LocalJacobian:
    """Passes the bound or the operand, whichever is the result; a bound may have rank 0."""
    shape = equation.out_avals[0].shape
    loops = tuple(map(along, range(len(shape))))
    axes = tuple(range(len(shape)))

    def lower(primals: Primals) -> Any:
        low, x, high = (_to_shape(operand, shape) for operand in primals.ins)
        return lax.bitwise_and(lax.gt(low, x), lax.lt(low, high))

    def upper(primals: Primals) -> Any:
        _, x, high = (_to_shape(operand, shape) for operand in primals.ins)
        return lax.lt(high, x)

    def inside(primals: Primals) -> Any:
        low, x, high = (_to_shape(operand, shape) for operand in primals.ins)
        return lax.bitwise_and(lax.gt(x, low), lax.lt(x, high))

    edges = {}
    for operand, (wanted, value) in enumerate(zip(active, (lower, inside, upper), strict=True)):
        inn = loops if equation.in_avals[operand].shape == shape else ()
        term = Term(shape, loops, inn, axes)
        if wanted and (block := local_term(term, 1, value, is_mask=True)):
            edges[operand, 0] = block
    return LocalJacobian(edges)


def _to_shape(operand: Any, shape: tuple[int, ...]) -> Any:
    return operand if np.shape(operand) == shape else lax.broadcast(operand, shape)


def _reduce_choice(equation: Equation, active: tuple[bool, ...]) -> LocalJacobian:
    """reduce_max, reduce_min: entries equal to the result share the derivative equally.

    The operand stands behind a fence. XLA would compute it once for the result and again for the
    comparison, perhaps rounded otherwise, and no entry would be equal to the result.
    """
    shape, reduced = equation.in_avals[0].shape, equation.params["axes"]
    loops = tuple(map(along, range(len(shape))))
    kept = tuple(axis for axis in range(len(shape)) if axis not in reduced)

    def evaluate(operands: Sequence[Any]) -> tuple[Sequence[Any], Sequence[Any]]:
        (x,) = fence(operands[0])
        return jax_internals.bind(equation, [x]), [x]

    def value(primals: Primals) -> Any:
        (x,), out = primals.residuals, primals.outs[0]
        chosen = lax.eq(x, lax.broadcast_in_dim(out, shape, kept))
        chosen = jax_internals.convert(chosen, x.dtype)
        count = lax.reduce_sum(chosen, tuple(reduced))
        return lax.div(chosen, lax.broadcast_in_dim(count, shape, kept))

    term = Term(shape, tuple(loops[axis] for axis in kept), loops, tuple(range(len(shape))))
    block = local_term(term, 1, value) if active[0] else ()
    return LocalJacobian({(0, 0): block}, evaluate) if block else LocalJacobian({})


def _pairs(x: np.ndarray, y: np.ndarray, *, dimension_numbers: Any, **_: Any) -> list[Any]:
    """For each entry of a dot_general the pairs of entries whose products it sums up."""
    parts = []
    for entries, *axes in zip((x, y), *dimension_numbers, strict=True):
        summed, batch = map(list, axes)
        free = [axis for axis in range(entries.ndim) if axis not in summed + batch]
        sizes = [math.prod(entries.shape[k] for k in group) for group in (batch, free, summed)]
        parts.append(entries.transpose(batch + free + summed).reshape(sizes))
    return [
        list(zip(row, column, strict=True))
        for rows, columns in zip(*parts, strict=True)
        for row in rows
        for column in columns
    ]


def _dot_flops(equation: Equation) -> int:
    ((contracted, _), _) = equation.params["dimension_numbers"]
    size = math.prod(equation.out_avals[0].shape)
    for axis in contracted:
        size *= 2 * equation.in_avals[0].shape[axis]
    return size


full(
    "dot_general",
    dot_general,
    linear=EACH,
    entrywise=Entrywise.CONTRACTS,
    operation=_pairs,
    flops=_dot_flops,
)
full(
    "select_n",
    _select_n,
    linear=Linear(tuple(range(1, 64))),
    entrywise=Entrywise.ELEMENTWISE,
)
full("clamp", _clamp, entrywise=Entrywise.ELEMENTWISE)
full("reduce_max", _reduce_choice)
full("reduce_min", _reduce_choice)
