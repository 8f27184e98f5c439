"""Rules that hold only where structural zeros matter: exact, but more than a dense result needs.

They enumerate the entries of a static mask or of a triangle, take a convolution apart into one
term for each tap, and go into the branches and steps of linear control flow.
"""

import math
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from jax_cce.algebra.index_arrays import Table
from jax_cce.algebra.reshaping import reshape
from jax_cce.algebra.terms import Affine, Lookup, Term, Unrepresentable
from jax_cce.program.flat import Equation
from jax_cce.rules.contraction import dot_general
from jax_cce.rules.definers import sparse
from jax_cce.rules.local import LocalJacobian, LocalTerm, Primals, along, local_term
from jax_cce.rules.positions import known, restricted

_MOST_ENTRIES = 1 << 22


def _reshape(equation: Equation, active: tuple[bool, ...]) -> LocalJacobian:
    """A reshape whose axes do not refine each other: one loop over all entries."""
    out_shape, in_shape = equation.out_avals[0].shape, equation.in_avals[0].shape
    order = equation.params.get("dimensions")
    try:
        if order is None:
            reshape(out_shape, in_shape)
            raise Unrepresentable("the general rule is better")
    except Unrepresentable as error:
        if "better" in str(error):
            raise
    size = math.prod(in_shape)
    if size > _MOST_ENTRIES:
        raise Unrepresentable("too many entries to enumerate")
    source = np.arange(size).reshape(in_shape)
    source = source.reshape(-1) if order is None else source.transpose(order).reshape(-1)
    maps, lookups = [], []
    for shape, at in ((out_shape, np.arange(size)), (in_shape, source)):
        ends = []
        for extent, values in zip(shape, np.unravel_index(at, shape), strict=True):
            lookups.append(Lookup((0,), extent, Table(values)))
            ends.append(Affine(0, ((-len(lookups), 1),)))
        maps.append(tuple(ends))
    term = Term((size,), maps[0], maps[1], None, layout=True, lookups=tuple(lookups))
    return LocalJacobian({(0, 0): local_term(term)})


def _select_n(equation: Equation, active: tuple[bool, ...]) -> LocalJacobian:
    """A selection by a known mask: each case passes where it is selected, and nowhere else."""
    which = known(equation, 0)
    if which is None:
        raise Unrepresentable("a selector that is known at run time only")
    shape = equation.out_avals[0].shape
    edges = {}
    for operand, wanted in enumerate(active):
        if wanted:
            mask = np.broadcast_to(which == operand - 1, shape)
            block = tuple(
                piece for term in restricted(mask) for piece in local_term(term, is_mask=True)
            )
            if block:
                edges[operand, 0] = block
    return LocalJacobian(edges)


def _mul(equation: Equation, active: tuple[bool, ...]) -> LocalJacobian:
    """A product with a constant that has zeros."""
    (operand,) = (k for k, wanted in enumerate(active) if wanted) if sum(active) == 1 else (None,)
    constant = None if operand is None else equation.known.get(1 - operand)
    if constant is None or operand is None or not (constant == 0).any():
        raise Unrepresentable("no structural zeros")
    shape = equation.out_avals[0].shape
    if constant.shape != shape or equation.in_avals[operand].shape != shape:
        raise Unrepresentable("a replicated operand")
    block: tuple[LocalTerm, ...] = ()
    for term in restricted(constant != 0):
        block += _read_at(term, 1 - operand)
    return LocalJacobian({(operand, 0): block} if block else {})


def _read_at(term: Term, operand: int) -> tuple[LocalTerm, ...]:
    """A diagonal term whose coefficient is another operand, read at the term's positions."""
    axes = tuple(range(len(term.sizes)))

    def value(primals: Primals) -> Any:
        x = jnp.asarray(primals.ins[operand])
        at = []
        for affine in term.out_map:
            position: Any = affine.offset
            for variable, stride in affine.strides:
                own = (variable,) if variable >= 0 else term.lookups[-1 - variable].axes
                shape = [term.sizes[k] if k in own else 1 for k in axes]
                values = (
                    np.arange(term.sizes[variable])
                    if variable >= 0
                    else term.lookups[-1 - variable].table.values  # type: ignore[attr-defined]
                )
                position = position + stride * values.reshape(shape)
            at.append(position)
        result = x[tuple(at)] if at else x
        return jnp.broadcast_to(result, term.sizes)

    return local_term(term._replace(axes=axes, layout=False), 1, value)


def _dot_general(equation: Equation, active: tuple[bool, ...]) -> LocalJacobian:
    """A product with a constant matrix that is mostly zero: one loop over its other entries."""
    plain = dot_general(equation, active)
    edges = dict(plain.edges)
    has_zeros = False
    for side in (0, 1):
        constant = equation.known.get(1 - side)
        if (side, 0) not in edges or constant is None or 2 * (constant == 0).sum() < constant.size:
            continue
        edges[side, 0] = _where_nonzero(equation, side, constant)
        has_zeros = True
    if not has_zeros:
        raise Unrepresentable("no structural zeros")
    return LocalJacobian({key: block for key, block in edges.items() if block})


def _where_nonzero(equation: Equation, side: int, constant: np.ndarray) -> tuple[LocalTerm, ...]:
    (contract, batch) = equation.params["dimension_numbers"]
    other = 1 - side
    if not constant.any():
        return ()
    at = np.nonzero(constant)
    lookups = tuple(
        Lookup((0,), constant.shape[axis], Table(values)) for axis, values in enumerate(at)
    )
    entry = [Affine(0, ((-1 - axis, 1),)) for axis in range(constant.ndim)]
    shape = equation.in_avals[side].shape
    sizes = [len(at[0])]
    inn: list[Affine] = []
    free: list[Affine] = []
    for axis, size in enumerate(shape):
        if axis in batch[side]:
            inn.append(entry[batch[other][batch[side].index(axis)]])
        elif axis in contract[side]:
            inn.append(entry[contract[other][contract[side].index(axis)]])
        else:
            inn.append(along(len(sizes)))
            free.append(inn[-1])
            sizes.append(size)
    theirs = [
        entry[axis]
        for axis in range(constant.ndim)
        if axis not in batch[other] and axis not in contract[other]
    ]
    ends = (free, theirs) if side == 0 else (theirs, free)
    out = [*(entry[axis] for axis in batch[other]), *ends[0], *ends[1]]
    term = Term(tuple(sizes), tuple(out), tuple(inn), (0,), lookups=lookups)

    def value(primals: Primals) -> Any:
        return jnp.asarray(primals.ins[other])[at]

    return local_term(term, 1, value)


def _triangle(size: int, reverse: bool) -> tuple[np.ndarray, np.ndarray]:
    """Row and column of the entries on and below the diagonal; above it if reversed."""
    if size * (size + 1) // 2 > _MOST_ENTRIES:
        raise Unrepresentable("too many entries to enumerate")
    return np.triu_indices(size) if reverse else np.tril_indices(size)


def triangular(
    shape: Sequence[int], axis: int, reverse: bool
) -> tuple[Term, tuple[np.ndarray, np.ndarray]]:
    """The structure of a cumulative operation along an axis, and its entries along that axis.

    Loop 0 runs over the entries, the others over the remaining axes.
    """
    at = _triangle(shape[axis], reverse)
    others = [k for k in range(len(shape)) if k != axis]
    loops = {k: along(1 + index) for index, k in enumerate(others)}
    maps = [
        tuple(loops.get(k, Affine(0, ((-1 - end, 1),))) for k in range(len(shape)))
        for end in (0, 1)
    ]
    lookups = tuple(Lookup((0,), shape[axis], Table(values)) for values in at)
    sizes = (len(at[0]), *(shape[k] for k in others))
    return Term(sizes, maps[0], maps[1], None, lookups=lookups), at


def _cumsum(equation: Equation, active: tuple[bool, ...]) -> LocalJacobian:
    shape = equation.in_avals[0].shape
    params = equation.params
    term, _ = triangular(shape, params["axis"], params["reverse"])
    return LocalJacobian({(0, 0): local_term(term._replace(layout=True))})


sparse("reshape", _reshape)
sparse("select_n", _select_n)
sparse("mul", _mul)
sparse("dot_general", _dot_general)
sparse("cumsum", _cumsum)
