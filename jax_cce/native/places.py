"""Entries at places that are computed: all that may be meant are looked at, and one is selected."""

import functools
import itertools
import math
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax import lax

from jax_cce.native.nodes import Nodes, Unsupported, each, lifted, most_of
from jax_cce.native.scalars import Scalars
from jax_cce.program.flat import Equation

__all__ = ["gathered", "sliced", "updated"]

# How many entries a place may choose from that is not known.
_MOST_PLACES = 16


def gathered(graph: Scalars, equation: Equation, operands: Sequence[Any]) -> list[Nodes]:
    """A gather from places that are computed: all of them are looked at, and one is selected."""
    array, places = operands
    numbers, params = equation.params["dimension_numbers"], equation.params
    if len(numbers.start_index_map) != 1 or numbers.operand_batching_dims:
        raise Unsupported("gather from places of several axes that are not known")
    axis = numbers.start_index_map[0]
    count = equation.in_avals[0].shape[axis] - params["slice_sizes"][axis] + 1
    if count > _MOST_PLACES:
        raise Unsupported("gather from many places that are not known")
    own, shape = lifted(graph, array), equation.out_avals[0].shape
    mode = lax.GatherScatterMode.from_any(params["mode"])
    entries = np.arange(own.size).reshape(own.shape)
    found = []
    with jax.core.eval_context():
        for start in range(count):
            same = np.full(equation.in_avals[1].shape, start, np.int32)
            read = lax.gather(entries, same, numbers, params["slice_sizes"], mode="clip")
            found.append(own.ravel()[np.asarray(read)])
    # The axes of the result that are not those of a slice are those of the places.
    of_places = [k for k in range(len(shape)) if k not in numbers.offset_dims]
    spread = [shape[k] if k in of_places else 1 for k in range(len(shape))]
    index = np.broadcast_to(places.nodes[..., 0].reshape(spread), shape)
    bounds = map(graph.number, range(count))
    cases = [
        (each(lambda at, bound=bound: graph.make("le", at, bound), index).nodes, nodes)
        for bound, nodes in zip(bounds, found, strict=True)
    ]
    chosen = _chosen(graph, cases)
    if mode is not lax.GatherScatterMode.FILL_OR_DROP:
        return [Nodes(chosen, most_of(array))]
    value = params["fill_value"]
    fill, last = graph.number(np.nan if value is None else value), graph.number(count - 1)

    def filled(at: int, node: int) -> int:
        below, above = graph.make("lt", at, graph.zero), graph.make("gt", at, last)
        return graph.make("select_n", graph.make("or", below, above), node, fill)

    return [each(filled, index, chosen)]


def sliced(graph: Scalars, equation: Equation, operands: Sequence[Any]) -> list[Nodes]:
    """dynamic_slice from a place that is computed."""
    array, *starts = operands
    sizes = equation.params["slice_sizes"]
    own = lifted(graph, array)
    slices = [
        (condition, own[tuple(map(_slice, place, sizes))])
        for condition, place in _places(graph, starts, own.shape, sizes)
    ]
    return [Nodes(_chosen(graph, slices), most_of(array))]


def updated(graph: Scalars, equation: Equation, operands: Sequence[Any]) -> list[Nodes]:
    """dynamic_update_slice at a place that is computed."""
    array, update, *starts = operands
    own, new = lifted(graph, array), lifted(graph, update)
    results = []
    for condition, place in _places(graph, starts, own.shape, new.shape):
        result = np.array(own)
        result[tuple(map(_slice, place, new.shape))] = new
        results.append((condition, result))
    return [Nodes(_chosen(graph, results), max(most_of(array), most_of(update)))]


def _slice(start: int, size: int) -> slice:
    return slice(start, start + size)


def _places(
    graph: Scalars, starts: Sequence[Any], shape: Sequence[int], sizes: Sequence[int]
) -> list[tuple[int, tuple[int, ...]]]:
    """Where a slice may begin, each with the condition that it does."""
    of_axes: list[list[tuple[int, int]]] = []
    for start, length, size in zip(starts, shape, sizes, strict=True):
        last = length - size
        if not isinstance(start, Nodes):
            of_axes.append([(graph.truth(True), int(np.clip(start, 0, last)))])
            continue
        node = int(start.nodes)
        # Beyond the ends it begins there.
        bounds = ["le", *["eq"] * (last - 1), "ge"] if last else []
        conditions = [graph.make(op, node, graph.number(k)) for k, op in enumerate(bounds)]
        of_axes.append(list(zip(conditions or [graph.truth(True)], range(last + 1), strict=True)))
    if math.prod(map(len, of_axes)) > _MOST_PLACES:
        raise Unsupported("a slice at one of many places that are not known")
    found = []
    for pairs in itertools.product(*of_axes):
        conditions = [condition for condition, _ in pairs]
        both = functools.reduce(functools.partial(graph.make, "and"), conditions)
        found.append((both, tuple(place for _, place in pairs)))
    return found


def _chosen(graph: Scalars, cases: Sequence[tuple[Any, np.ndarray]]) -> np.ndarray:
    """The nodes of the first case whose condition holds; the last one's where none does.

    Conditions are nodes, one for all entries or one for each.
    """
    (*rest, (_, chosen)) = cases
    select = functools.partial(graph.make, "select_n")
    for condition, nodes in reversed(rest):
        chosen = each(select, np.broadcast_to(condition, nodes.shape), chosen, nodes).nodes
    return chosen
