"""Entries at places that are computed: all that may be meant are looked at, and one is selected."""

import functools
import itertools
import math
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax import lax

from jax_cce.native.integers import chosen, possible
from jax_cce.native.nodes import Nodes, Steps, Unsupported, each, lifted, most_of
from jax_cce.native.scalars import Scalars
from jax_cce.program.flat import Equation

__all__ = ["gathered", "sliced", "updated"]

# How many entries a place may choose from that is not known.
_MOST_PLACES = 16
# How many places may be looked up at once. More are faster in the library, entry by entry.
_MOST_LOOK_UPS = 16


def gathered(graph: Scalars, equation: Equation, operands: Sequence[Any]) -> list[Nodes]:
    """A gather from places that are computed: all of them are looked at, and one is selected."""
    array, places = operands
    numbers, params = equation.params["dimension_numbers"], equation.params
    if len(numbers.start_index_map) != 1 or numbers.operand_batching_dims:
        raise Unsupported("gather from places of several axes that are not known")
    if places.nodes.size > _MOST_LOOK_UPS:
        raise Unsupported("gather from many places at once that are not known")
    axis = numbers.start_index_map[0]
    last = equation.in_avals[0].shape[axis] - params["slice_sizes"][axis]
    own, shape = lifted(graph, array), equation.out_avals[0].shape
    entries = np.arange(own.size).reshape(own.shape)

    @functools.cache
    def entries_at(start: int) -> np.ndarray:
        same = np.full(equation.in_avals[1].shape, start, np.int32)
        with jax.core.eval_context():
            read = lax.gather(entries, same, numbers, params["slice_sizes"], mode="clip")
        return own.ravel()[np.asarray(read)].ravel()

    # The axes of the result that are not those of a slice are those of the places.
    of_places = [k for k in range(len(shape)) if k not in numbers.offset_dims]
    spread = [shape[k] if k in of_places else 1 for k in range(len(shape))]
    index = np.broadcast_to(places.nodes[..., 0].reshape(spread), shape)
    fills = lax.GatherScatterMode.from_any(params["mode"]) is lax.GatherScatterMode.FILL_OR_DROP
    value = params["fill_value"]
    fill = graph.number(np.nan if value is None else value)

    def entry(k: int, start: int) -> int:
        if fills and not 0 <= start <= last:
            return fill
        return int(entries_at(min(max(start, 0), last))[k])

    found = []
    for k, at in enumerate(map(int, index.flat)):
        if possible(graph, at) is None:
            at = _one_of(graph, at, last, beyond=fills)
        found.append(chosen(graph, at, functools.partial(entry, k)))
    return [Nodes(np.array(found, np.int64).reshape(shape), most_of(array))]


def by_step(graph: Scalars, equation: Equation, operands: Sequence[Any]) -> list[Nodes] | None:
    """What each step of a loop reads, at places that are known for all of them.

    Returns:
        The entries; None where it is something else that is known for all steps.
    """
    array, *places = operands
    if isinstance(array, Steps) or any(isinstance(x, Nodes) for x in places):
        return None
    own = lifted(graph, array)
    length = next(len(x.values) for x in places if isinstance(x, Steps))
    read = []
    for step in range(length):
        at = [x.values[step] if isinstance(x, Steps) else x for x in places]
        if equation.name == "dynamic_slice":
            sizes = equation.params["slice_sizes"]
            starts = np.clip(at, 0, np.subtract(own.shape, sizes))
            read.append(own[tuple(map(_slice, starts, sizes))])
        else:
            read.append(own.ravel()[_entries_of(equation, own.shape, *at)])
    return [Nodes(graph.steps.at(read), most_of(array))]


def _entries_of(gather: Equation, shape: Sequence[int], places: Any) -> np.ndarray:
    """The numbers of the entries that a gather reads."""
    numbers = np.arange(math.prod(shape), dtype=np.float32).reshape(shape)
    params = {**gather.params, "fill_value": np.nan}
    with jax.core.eval_context():
        found = np.asarray(lax.gather_p.bind(numbers, np.asarray(places), **params))
    if np.isnan(found).any():
        raise Unsupported("gather from places beyond the ends")
    return found.astype(np.int64)


def _one_of(graph: Scalars, at: int, last: int, *, beyond: bool) -> int:
    """An integer that is computed, by comparisons as one of those that are asked for.

    Args:
        graph: the graph.
        at: the integer.
        last: what is asked for goes from 0 to here.
        beyond: whether what is less or more is told from these, as -1.
    """
    if last >= _MOST_PLACES:
        raise Unsupported("gather from many places that are not known")
    node = graph.number(last)
    if beyond:
        above = graph.make("gt", at, node)
        node = graph.make("select_n", above, node, graph.number(-1))
    for k in reversed(range(last)):
        bound = graph.number(k)
        node = graph.make("select_n", graph.make("le", at, bound), node, bound)
    if beyond:
        below = graph.make("lt", at, graph.zero)
        node = graph.make("select_n", below, node, graph.number(-1))
    return node


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
