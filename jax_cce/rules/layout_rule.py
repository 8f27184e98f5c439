"""The terms of a layout, from the operation on NumPy arrays: run on indices, it tells all."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from jax_cce.algebra.index_arrays import Table
from jax_cce.algebra.reshaping import reshape
from jax_cce.algebra.terms import Affine, Lookup, Term, Unrepresentable
from jax_cce.program.flat import Equation
from jax_cce.rules.local import LocalJacobian, LocalTerm, Rule, local_term
from jax_cce.rules.positions import as_affine, restricted

__all__ = ["layout_rule", "results_of"]


def layout_rule(operation: Callable[..., Any]) -> Rule:
    """The rule of a primitive whose result entries are entries of its operands.

    Args:
        operation: the primitive on NumPy arrays, with the equation's parameters; returns the
            result, or a list of results.
    """

    def rule(equation: Equation, active: tuple[bool, ...]) -> LocalJacobian:
        edges: dict[tuple[int, int], tuple[LocalTerm, ...]] = {}
        for operand, wanted in enumerate(active):
            if not wanted:
                continue
            shape = equation.in_avals[operand].shape
            size = math.prod(shape)
            labels = np.arange(size)
            # A second run, on other labels in another order, tells what moves from what computes.
            others = 2 * size - labels
            runs = [_run(operation, equation, operand, seen) for seen in (labels, others)]
            for output, (indices, again) in enumerate(zip(*runs, strict=True)):
                expected = equation.out_avals[output].shape
                if indices.shape != expected:
                    raise ValueError(
                        f"the operation gives result {output} of shape {indices.shape}, "
                        f"the primitive one of shape {expected}"
                    )
                if not _moves(indices, again, others):
                    raise ValueError(
                        f"the operation gives result {output} entries that are not entries of its "
                        "operands, or chooses them by their values"
                    )
                block = tuple(
                    piece for term in _terms(indices, shape) for piece in local_term(term)
                )
                if block:
                    edges[operand, output] = block
        return LocalJacobian(edges)

    return rule


def _run(
    operation: Callable[..., Any], equation: Equation, operand: int, labels: np.ndarray
) -> list[np.ndarray]:
    """The results where an operand holds labels, and the others hold -1."""
    arrays = [np.full(aval.shape, -1) for aval in equation.in_avals]
    arrays[operand] = labels.reshape(arrays[operand].shape)
    return results_of(operation, equation, arrays)


def results_of(
    operation: Callable[..., Any], equation: Equation, operands: Sequence[Any], dtype: Any = None
) -> list[np.ndarray]:
    """The results of a layout's operation, as arrays, also where it gives one, or a bare entry."""
    results = operation(*operands, **equation.params)
    results = results if isinstance(results, list) else [results]
    return [np.asarray(result, dtype) for result in results]


def _moves(indices: np.ndarray, again: np.ndarray, labels: np.ndarray) -> bool:
    """Whether both runs take the same entries: first seen by their indices, then by `labels`."""
    if indices.dtype.kind not in "iu" or again.shape != indices.shape:
        return False
    if not indices.size:
        return True
    if indices.min() < -1 or indices.max() >= labels.size:
        return False
    return np.array_equal(again, np.append(labels, -1)[indices])


def _terms(indices: np.ndarray, shape: tuple[int, ...]) -> list[Term]:
    """The terms of a result that holds the entries of an operand at some indices, -1 elsewhere."""
    if np.array_equal(indices.reshape(-1), np.arange(math.prod(shape))):
        try:
            term = reshape(indices.shape, shape)
            return [] if term is None else [term]
        except Unrepresentable:
            pass
    return [_reading(term, indices, shape) for term in restricted(indices >= 0)]


def _reading(own: Term, indices: np.ndarray, shape: tuple[int, ...]) -> Term:
    """The term of entries at the places of `own`, read from an operand at some indices."""
    loops = np.indices(own.sizes, sparse=True)
    tables = [
        (lookup.table.values[tuple(loops[axis] for axis in lookup.axes)])  # type: ignore[attr-defined]
        for lookup in own.lookups
    ]
    places = []
    for affine in own.out_map:
        place: Any = affine.offset
        for variable, stride in affine.strides:
            place = place + stride * (loops[variable] if variable >= 0 else tables[-1 - variable])
        places.append(place)
    source = np.broadcast_to(indices[tuple(places)], own.sizes)
    lookups = list(own.lookups)
    maps = []
    axes = tuple(range(len(own.sizes)))
    for values, size in zip(np.unravel_index(source, shape), shape, strict=True):
        affine_map = as_affine(values, axes)
        if affine_map is None:
            lookups.append(Lookup(axes, size, Table(values)))
            affine_map = Affine(0, ((-len(lookups), 1),))
        maps.append(affine_map)
    return Term(own.sizes, own.out_map, tuple(maps), None, layout=True, lookups=tuple(lookups))
