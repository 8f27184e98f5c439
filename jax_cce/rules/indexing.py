"""Gather, scatter, dynamic slices and sorts: positions that come from index arrays.

An index array that is known while planning becomes an affine map where it is one (`x[::2]`, a
diagonal), else a static table; one that is known at run time becomes a lookup.
"""

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax

from jax_cce import jax_internals
from jax_cce.algebra.terms import Affine, Lookup, Term, Unrepresentable
from jax_cce.program.flat import Equation
from jax_cce.rules.book import Entrywise, Linear
from jax_cce.rules.definers import full
from jax_cce.rules.local import LocalJacobian, LocalTerm, Primals, along, local_term
from jax_cce.rules.positions import (
    Positions,
    Window,
    boxes_outside,
    clipped,
    known,
    outside_terms,
    sum_of,
    within,
)


def _gather(equation: Equation, active: tuple[bool, ...]) -> LocalJacobian:
    numbers, result = equation.params["dimension_numbers"], equation.out_avals[0].shape
    shape, sizes = equation.in_avals[0].shape, equation.params["slice_sizes"]
    batch = [axis for axis in range(len(result)) if axis not in numbers.offset_dims]
    without = {*numbers.collapsed_slice_dims, *numbers.operand_batching_dims}
    offsets = iter(numbers.offset_dims)
    loops = [None if axis in without else next(offsets) for axis in range(len(shape))]
    batching = list(
        zip(numbers.operand_batching_dims, numbers.start_indices_batching_dims, strict=True)
    )
    window = Window(shape, sizes, loops, batching, numbers.start_index_map, batch, 1, equation)
    own = [along(axis) for axis in range(len(result))]
    block = window.local(result, own, writes=False)
    return LocalJacobian({(0, 0): block} if block else {})


def _scatter_window(equation: Equation) -> Window:
    numbers, shape = equation.params["dimension_numbers"], equation.in_avals[0].shape
    updates = equation.in_avals[2].shape
    batch = [axis for axis in range(len(updates)) if axis not in numbers.update_window_dims]
    without = {*numbers.inserted_window_dims, *numbers.operand_batching_dims}
    offsets = iter(numbers.update_window_dims)
    loops = [None if axis in without else next(offsets) for axis in range(len(shape))]
    extents = [1 if loop is None else updates[loop] for loop in loops]
    batching = list(
        zip(numbers.operand_batching_dims, numbers.scatter_indices_batching_dims, strict=True)
    )
    mapped = numbers.scatter_dims_to_operand_dims
    return Window(shape, extents, loops, batching, mapped, batch, 1, equation)


def _updates(equation: Equation) -> tuple[LocalTerm, ...]:
    updates = equation.in_avals[2].shape
    own = [along(axis) for axis in range(len(updates))]
    return _scatter_window(equation).local(updates, own, writes=True)


def _scatter_add(equation: Equation, active: tuple[bool, ...]) -> LocalJacobian:
    edges = {}
    if active[0]:
        edges[0, 0] = _identity(equation.in_avals[0].shape)
    if active[2]:
        edges[2, 0] = _updates(equation)
    return LocalJacobian({key: block for key, block in edges.items() if block})


def _identity(shape: Sequence[int]) -> tuple[LocalTerm, ...]:
    loops = tuple(map(along, range(len(shape))))
    return local_term(Term(tuple(shape), loops, loops, None, layout=True))


def _scatter(equation: Equation, active: tuple[bool, ...]) -> LocalJacobian:
    """Writing at known positions: they belong to the updates, the rest stays.

    Where updates that are differentiated meet in one entry, only JAX knows which of them wins.
    """
    indices = known(equation, 1)
    if equation.params["update_jaxpr"] is not None:
        raise Unrepresentable("an update by a function")
    if indices is None:
        raise Unrepresentable("overwriting at traced indices")
    counts = _times_written(equation)
    if active[2] and counts.max(initial=0) > 1:
        raise Unrepresentable("overwriting an entry twice")
    edges = {}
    if active[0]:
        edges[0, 0] = tuple(
            piece for term in outside_terms(counts > 0) for piece in local_term(term)
        )
    if active[2]:
        edges[2, 0] = _updates(equation)
    return LocalJacobian({key: block for key, block in edges.items() if block})


def _times_written(equation: Equation) -> np.ndarray:
    """How often each entry of the operand is overwritten."""
    shape = equation.in_avals[0].shape
    if jax_internals.size(equation.in_avals[0]) > 1 << 22:
        raise Unrepresentable("too many entries for a static mask")
    window = _scatter_window(equation)
    updates = equation.in_avals[2].shape
    counts = np.zeros(shape, np.int32)
    grid = np.indices(updates)
    keep = np.ones(updates, bool)
    if window.inside is not None:
        spread = [updates[axis] if axis in window.batch else 1 for axis in range(len(updates))]
        keep = np.broadcast_to(window.inside.reshape(spread), updates)
    at = []
    for affine in window.maps:
        position = np.full(updates, affine.offset)
        for variable, stride in affine.strides:
            if variable >= 0:
                position = position + stride * grid[variable]
            else:
                lookup = window.lookups[-1 - variable]
                values = lookup.table.values  # type: ignore[attr-defined]
                spread = [updates[k] if k in lookup.axes else 1 for k in range(len(updates))]
                position = position + stride * values.reshape(spread)
        at.append(position[keep])
    np.add.at(counts, tuple(at), 1)
    return counts


def _dynamic_slice(equation: Equation, active: tuple[bool, ...]) -> LocalJacobian:
    """A window whose place is known at run time; JAX clamps it to the operand."""
    shape, out = equation.in_avals[0].shape, equation.out_avals[0].shape
    positions, maps = _starts(equation, 1, shape, out)
    loops = tuple(map(along, range(len(out))))
    term = Term(out, loops, maps, None, layout=True, lookups=tuple(positions.lookups))
    block = local_term(term, 1, None, tuple(positions.tables)) if active[0] else ()
    return LocalJacobian({(0, 0): block} if block else {})


def _starts(
    equation: Equation, first: int, shape: Sequence[int], window: Sequence[int]
) -> tuple[Positions, tuple[Affine, ...]]:
    positions, maps = Positions(), []
    for axis, (size, extent) in enumerate(zip(shape, window, strict=True)):
        value = known(equation, first + axis)
        limit = size - extent

        def start(primals: Primals, operand: int = first + axis, limit: int = limit) -> Any:
            return clipped(jnp.asarray(primals.ins[operand]), limit)

        static = None if value is None else within(value, limit)
        maps.append(sum_of(along(axis), positions.add(static, start, (), limit + 1)))
    return positions, tuple(maps)


def _dynamic_update_slice(equation: Equation, active: tuple[bool, ...]) -> LocalJacobian:
    """The update goes to a window, the operand everywhere else."""
    shape, update = equation.in_avals[0].shape, equation.in_avals[1].shape
    positions, maps = _starts(equation, 2, shape, update)
    loops = tuple(map(along, range(len(shape))))
    edges: dict[tuple[int, int], tuple[LocalTerm, ...]] = {}
    if active[0] and not positions.lookups:
        ends = [(m.offset, m.offset + n) for m, n in zip(maps, update, strict=True)]
        edges[0, 0] = tuple(
            piece for term in boxes_outside(shape, ends) for piece in local_term(term)
        )
    elif active[0]:

        def stays(primals: Primals) -> Any:
            inside: Any = True
            for axis, (size, extent) in enumerate(zip(shape, update, strict=True)):
                start = clipped(jnp.asarray(primals.ins[2 + axis]), size - extent)
                place = lax.broadcasted_iota(np.int32, shape, axis)
                here = (place >= start) & (place < start + extent)
                inside = here & inside
            return jnp.logical_not(inside)

        term = Term(shape, loops, loops, tuple(range(len(shape))), layout=True)
        edges[0, 0] = local_term(term, 1, stays, is_mask=True)
    if active[1]:
        term = Term(update, maps, loops, None, layout=True, lookups=tuple(positions.lookups))
        edges[1, 0] = local_term(term, 1, None, tuple(positions.tables))
    return LocalJacobian({key: block for key, block in edges.items() if block})


def _sort(equation: Equation, active: tuple[bool, ...]) -> LocalJacobian:
    """Every operand is permuted along one axis, as an index that is sorted beside them tells."""
    shape, axis = (
        equation.in_avals[0].shape,
        equation.params["dimension"] % len(equation.in_avals[0].shape),
    )
    count = len(equation.inputs)

    def evaluate(operands: Sequence[Any]) -> tuple[Sequence[Any], Sequence[Any]]:
        place = lax.broadcasted_iota(np.int32, shape, axis)
        place = jax_internals.sharded_like(place, equation.in_avals[0])
        *results, order = equation.primitive.bind(*operands, place, **equation.params)
        return results, (order,)

    loops = tuple(map(along, range(len(shape))))
    inn = tuple(Affine(0, ((-1, 1),)) if k == axis else loop for k, loop in enumerate(loops))
    lookups = (Lookup(tuple(range(len(shape))), shape[axis], 0),)
    term = Term(shape, loops, inn, None, layout=True, lookups=lookups)
    edges = {}
    for operand, wanted in enumerate(active):
        if wanted and operand < count:
            block = local_term(term, 1, None, (lambda primals: primals.residuals[0],))
            if block:
                edges[operand, operand] = block
    return LocalJacobian(edges, evaluate)


def _top_k(equation: Equation, active: tuple[bool, ...]) -> LocalJacobian:
    """The second result tells where the first one's entries come from."""
    shape, result = equation.in_avals[0].shape, equation.out_avals[0].shape
    axis = equation.params.get("axis", -1) % len(shape)
    loops = tuple(map(along, range(len(result))))
    inn = tuple(Affine(0, ((-1, 1),)) if k == axis else loop for k, loop in enumerate(loops))
    lookups = (Lookup(tuple(range(len(result))), shape[axis], 0),)
    term = Term(result, loops, inn, None, layout=True, lookups=lookups)
    block = local_term(term, 1, None, (lambda primals: primals.outs[1],)) if active[0] else ()
    return LocalJacobian({(0, 0): block} if block else {})


def _fills(equation: Equation) -> bool:
    """Whether what is out of bounds becomes something else than zero."""
    params = equation.params
    return params["mode"] is lax.GatherScatterMode.FILL_OR_DROP and bool(params["fill_value"])


full("gather", _gather, linear=Linear((0,), unless=_fills), entrywise=Entrywise.SELECTS)
full("scatter-add", _scatter_add, linear=Linear((0, 2)), entrywise=Entrywise.SUMS)
full("scatter", _scatter, linear=Linear((0, 2)), entrywise=Entrywise.SELECTS)
full("dynamic_slice", _dynamic_slice, linear=Linear((0,)), entrywise=Entrywise.SELECTS)
full(
    "dynamic_update_slice",
    _dynamic_update_slice,
    linear=Linear((0, 1)),
    entrywise=Entrywise.SELECTS,
)
full("sort", _sort)
full("top_k", _top_k)
