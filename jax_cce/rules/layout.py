"""Primitives that move, repeat, select or sum entries: static terms with coefficient one."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from jax_cce.algebra import terms
from jax_cce.algebra.dtypes import promoted
from jax_cce.algebra.reshaping import reshape
from jax_cce.algebra.terms import Affine, Term, Unrepresentable
from jax_cce.jax_internals import greatest, is_differentiable, least
from jax_cce.program.flat import Equation
from jax_cce.rules.book import Entrywise, Linear
from jax_cce.rules.definers import full, layout, linear
from jax_cce.rules.local import LocalJacobian, LocalTerm, along, local_term

_AT_ZERO = Affine(0, ())


def _same(equation: Equation, operand: int) -> Term | None:
    return terms.identity(equation.in_avals[operand].shape)


def _each_its_own(equation: Equation, active: tuple[bool, ...]) -> LocalJacobian:
    """Every result is the operand at its place."""
    pairs = [(k, terms.identity(equation.in_avals[k].shape)) for k in np.flatnonzero(active)]
    return LocalJacobian(
        {(int(k), int(k)): (LocalTerm(term),) for k, term in pairs if term is not None}
    )


def _convert(equation: Equation, operand: int) -> Term | None:
    return _same(equation, operand) if is_differentiable(equation.out_avals[0]) else None


def _broadcast_in_dim(equation: Equation, operand: int) -> Term:
    shape = equation.out_avals[0].shape
    loops = tuple(map(along, range(len(shape))))
    inn = tuple(
        _AT_ZERO if size == 1 else loops[axis]
        for size, axis in zip(
            equation.in_avals[operand].shape, equation.params["broadcast_dimensions"], strict=True
        )
    )
    return Term(shape, loops, inn, None, layout=True)


def _transpose(equation: Equation, operand: int) -> Term:
    shape = equation.in_avals[operand].shape
    loops = tuple(map(along, range(len(shape))))
    out = tuple(loops[axis] for axis in equation.params["permutation"])
    return Term(shape, out, loops, None, layout=True)


def _squeeze(equation: Equation, operand: int) -> Term:
    shape = equation.in_avals[operand].shape
    rank = len(shape)
    gone = {axis % rank for axis in equation.params["dimensions"]}
    loops = tuple(map(along, range(rank)))
    out = tuple(loop for axis, loop in enumerate(loops) if axis not in gone)
    return Term(shape, out, loops, None, layout=True)


def _slice(equation: Equation, operand: int) -> Term:
    params, out = equation.params, equation.out_avals[0].shape
    strides = params["strides"] or (1,) * len(out)
    return _window(out, params["start_indices"], strides)


def _window(out: Sequence[int], starts: Sequence[int], strides: Sequence[int]) -> Term:
    loops = tuple(map(along, range(len(out))))
    inn = tuple(
        along(loop, start, stride)
        for loop, (start, stride) in enumerate(zip(starts, strides, strict=True))
    )
    return Term(tuple(out), loops, inn, None, layout=True)


def _rev(equation: Equation, operand: int) -> Term:
    shape = equation.in_avals[operand].shape
    loops = tuple(map(along, range(len(shape))))
    inn = tuple(
        along(axis, size - 1, -1) if axis in equation.params["dimensions"] else loops[axis]
        for axis, size in enumerate(shape)
    )
    return Term(shape, loops, inn, None, layout=True)


def _concatenate(equation: Equation, operand: int) -> Term:
    shape = equation.in_avals[operand].shape
    axis = equation.params["dimension"]
    offset = sum(aval.shape[axis] for aval in equation.in_avals[:operand])
    loops = tuple(map(along, range(len(shape))))
    out = tuple(along(k, offset if k == axis else 0) for k in range(len(shape)))
    return Term(shape, out, loops, None, layout=True)


def _reduce_sum(equation: Equation, operand: int) -> Term:
    shape = equation.in_avals[operand].shape
    loops = tuple(map(along, range(len(shape))))
    out = tuple(loop for axis, loop in enumerate(loops) if axis not in equation.params["axes"])
    return Term(shape, out, loops, None, layout=True)


def _pad(equation: Equation, active: tuple[bool, ...]) -> LocalJacobian:
    """The operand goes to an affine window of the result, the padding value everywhere else."""
    shape, result = equation.in_avals[0].shape, equation.out_avals[0].shape
    sizes, out, inn = [], [], []
    for loop, (low, _, interior) in enumerate(equation.params["padding_config"]):
        low, stride = int(low), int(interior) + 1
        # Negative padding drops entries of the operand on either side.
        first = max(0, -(low // stride)) if low < 0 else 0
        last = least(shape[loop] - 1, (result[loop] - 1 - low) // stride)
        sizes.append(greatest(0, last - first + 1))
        out.append(along(loop, low + stride * first, stride))
        inn.append(along(loop, first))
    edges: dict[tuple[int, int], tuple[LocalTerm, ...]] = {}
    if active[0]:
        window = Term(tuple(sizes), tuple(out), tuple(inn), None, layout=True)
        if block := local_term(window):
            edges[0, 0] = block
    if active[1]:
        everywhere = Term(result, tuple(map(along, range(len(result)))), (), None)
        covered = Term(tuple(sizes), tuple(out), (), None)
        if block := local_term(everywhere) + local_term(covered, -1):
            edges[1, 0] = block
    return LocalJacobian(edges)


def _split(equation: Equation, active: tuple[bool, ...]) -> LocalJacobian:
    axis, edges, start = equation.params["axis"], {}, 0
    for output, aval in enumerate(equation.out_avals):
        starts = [start if k == axis else 0 for k in range(len(aval.shape))]
        if block := local_term(_window(aval.shape, starts, (1,) * len(aval.shape))):
            edges[0, output] = block
        start += aval.shape[axis]
    return LocalJacobian(edges)


def _stack(equation: Equation, operand: int) -> Term:
    """The operand becomes one slice of a new axis: a one-hot position there."""
    shape = equation.in_avals[operand].shape
    out = list(map(along, range(len(shape))))
    out.insert(equation.params["axis"], Affine(operand, ()))
    return Term(shape, tuple(out), tuple(map(along, range(len(shape)))), None, layout=True)


def _unstack(equation: Equation, active: tuple[bool, ...]) -> LocalJacobian:
    edges = {}
    for output, aval in enumerate(equation.out_avals):
        loops = tuple(map(along, range(len(aval.shape))))
        inn = list(loops)
        inn.insert(equation.params["axis"], Affine(output, ()))
        if block := local_term(Term(aval.shape, loops, tuple(inn), None, layout=True)):
            edges[0, output] = block
    return LocalJacobian(edges)


def _tile(equation: Equation, operand: int) -> Term:
    """Each axis of the result has two digits: which copy, and the place in the operand."""
    shape, reps = equation.in_avals[operand].shape, equation.params["reps"]
    rank = len(shape)
    out = tuple(Affine(0, ((axis, size), (rank + axis, 1))) for axis, size in enumerate(shape))
    inn = tuple(along(rank + axis) for axis in range(rank))
    return Term((*reps, *shape), out, inn, None, layout=True)


def _barrier(equation: Equation, active: tuple[bool, ...]) -> LocalJacobian:
    edges = {}
    for operand, wanted in enumerate(active):
        identity = terms.identity(equation.in_avals[operand].shape)
        if wanted and identity is not None:
            edges[operand, operand] = (LocalTerm(identity),)
    return LocalJacobian(edges)


def _reshape(equation: Equation, operand: int) -> Term | None:
    if equation.params.get("dimensions") is not None:
        raise Unrepresentable("reshape with a permutation")
    return reshape(equation.out_avals[0].shape, equation.in_avals[0].shape)


def _spread(x: Any, shape: Any, broadcast_dimensions: Any, **_: Any) -> Any:
    """broadcast_in_dim, as NumPy has it."""
    spread = dict(zip(broadcast_dimensions, x.shape, strict=True))
    return np.broadcast_to(x.reshape([spread.get(axis, 1) for axis in range(len(shape))]), shape)


def _cut_out(x: Any, start_indices: Any, limit_indices: Any, strides: Any) -> Any:
    """slice, as NumPy has it."""
    return x[tuple(map(slice, start_indices, limit_indices, strides or (1,) * x.ndim))]


def _parts(x: Any, axis: int) -> list[Any]:
    """unstack, as NumPy has it."""
    return [part.squeeze(axis) for part in np.split(x, x.shape[axis], axis)]


layout("broadcast_in_dim", _spread, _broadcast_in_dim)
layout("concatenate", lambda *xs, dimension: np.concatenate(xs, dimension), _concatenate)
layout("reshape", lambda x, new_sizes, **_: x.reshape(new_sizes), _reshape)
layout("rev", lambda x, dimensions: np.flip(x, dimensions), _rev)
layout("slice", _cut_out, _slice, takes_parts=True)
layout(
    "split",
    lambda x, sizes, axis: np.split(x, np.cumsum(sizes)[:-1], axis),
    rule=_split,
    takes_parts=True,
)
layout("squeeze", lambda x, dimensions: x.squeeze(dimensions), _squeeze)
layout("stack", lambda *xs, axis: np.stack(xs, axis), _stack)
layout("tile", lambda x, reps: np.tile(x, reps), _tile)
layout("transpose", lambda x, permutation: x.transpose(permutation), _transpose)
layout("unstack", _parts, rule=_unstack, takes_parts=True)


def _rounds(equation: Equation) -> bool:
    """Whether the result is less precise than the operand."""
    (operand,), (result,) = equation.in_avals, equation.out_avals
    if not is_differentiable(operand) or operand.dtype == result.dtype:
        return equation.name == "reduce_precision"
    return promoted(operand.dtype, result.dtype) != result.dtype


_ROUNDING = Linear(unless=_rounds)
linear("convert_element_type", _convert, how=_ROUNDING, entrywise=Entrywise.ELEMENTWISE)
linear("reduce_precision", _same, how=_ROUNDING, entrywise=Entrywise.ELEMENTWISE)
linear("fence", _same)
# These say where an array is, and not what it holds.
linear("layout_constraint reshard sharding_constraint", _same)
linear("reduce_sum", _reduce_sum, entrywise=Entrywise.SUMS)
full("pad", _pad, linear=Linear((0, 1)), entrywise=Entrywise.SELECTS)
full("optimization_barrier", _barrier, linear=Linear())
layout("optimization_barrier", lambda *operands: list(operands), rule=_each_its_own)
