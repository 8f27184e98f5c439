"""Jacobians of scalar graphs: edges between inputs and outputs, and which way leads through loops.

Tangents are carried through a loop (`extending`), or adjoints back (`reversing`).
"""

import functools
import math
import operator
from collections.abc import Callable, Collection, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from jax_cce.native.differentiating import partials
from jax_cce.native.directions import groups_of
from jax_cce.native.edges import Edges, cost
from jax_cce.native.extending import extended
from jax_cce.native.nodes import Unsupported
from jax_cce.native.reversing import reversed_through
from jax_cce.native.scalars import DERIVED, Scalars, TooLarge

__all__ = ["edges_between", "jacobian"]

# Adjoints may be carried back through loops where there are so many times fewer of them than
# tangents; where there are so many, tangents are not tried. To stack states takes time, too: which
# of them cost so much more is about the same.
_FEWER, _FAR_FEWER, _ABOUT = 2, 16, 1.1


def jacobian(
    graph: Scalars,
    inputs: Sequence[int],
    outputs: Sequence[int],
    given: Mapping[int, Mapping[int, int]] = MappingProxyType({}),
) -> tuple[list[list[int]], str]:
    """The derivative of each output with respect to each input, in the cheapest of `ORDERS`.

    Args:
        graph: the graph.
        inputs: its inputs that are differentiated.
        outputs: the outputs.
        given: for other inputs the derivatives by those that are not zero.

    Returns:
        The nodes by output and input, and the order by its name.

    Raises:
        Unsupported: where an operation on the way has no formula for its derivative, or a rule
            that is not linear.
        TooLarge: where every order makes more nodes than the graph may have.
    """
    return edges_between(graph, inputs, outputs, given).cheapest()


def edges_between(
    graph: Scalars,
    inputs: Sequence[int],
    outputs: Sequence[int],
    given: Mapping[int, Mapping[int, int]] = MappingProxyType({}),
) -> Edges:
    """The graph of the partial derivatives between some inputs and outputs.

    Args:
        graph: see `jacobian`.
        inputs: see there.
        outputs: see there.
        given: see there.

    Raises:
        Unsupported: see there.
        TooLarge: see there.
    """
    loops, fewer = _to_reverse(graph, inputs, outputs)
    if given or not loops:
        return Edges(graph, inputs, outputs, _edges(graph, inputs, outputs, given))
    ways = [lambda: _reversed(graph, inputs, outputs, loops)]
    if fewer < _FAR_FEWER:
        ways.append(lambda: Edges(graph, inputs, outputs, _edges(graph, inputs, outputs, given)))
    return _cheaper(graph, outputs, ways)


def _edges(
    graph: Scalars,
    inputs: Sequence[int],
    outputs: Sequence[int],
    given: Mapping[int, Mapping[int, int]] = MappingProxyType({}),
    apart: Collection[int] = (),
) -> dict[int, dict[int, int]]:
    """For each node that depends on inputs the nodes that it is made of, with the partials.

    Args:
        graph: see `jacobian`.
        inputs: see there.
        outputs: see there.
        given: see there.
        apart: loops whose results are among the inputs.
    """
    edges: dict[int, dict[int, int]] = {node: {} for node in inputs}
    # For each loop that depends on inputs the derivatives of its results.
    loops: dict[int, Callable[[Any], dict[int, int]]] = {}
    # Nodes that depend on seeds: in a rule, what they are multiplied by is not differentiated.
    seeded: set[int] = set()
    for node in graph.needed(outputs, differentiated=True):
        if node in given:
            edges[node] = dict(given[node])
        if node in edges or node in apart or graph.is_given(node):
            continue
        if graph.ops[node] == "result":
            (loop,) = graph.args[node]
            if loop in loops and (own := loops[loop](graph.params[node])):
                edges[node] = own
            continue
        if graph.ops[node] == "seed" or not seeded.isdisjoint(graph.args[node]):
            seeded.add(node)
        if not any(arg in edges for arg in graph.differentiated(node)):
            continue
        if graph.ops[node] == "loop":
            if node in seeded:
                raise Unsupported("a loop in a rule for a derivative")
            tangents = _tangents(graph, edges, inputs, graph.args[node])
            loops[node] = extended(graph, node, inputs, tangents, jacobian, _dependence)
            continue
        is_linear = node in seeded and graph.ops[node] not in DERIVED
        found: dict[int, int] = {}
        for arg, partial in partials(graph, node):
            if is_linear and arg not in seeded:
                continue
            if arg in edges and partial != graph.zero:
                found[arg] = graph.make("add", found[arg], partial) if arg in found else partial
        if found:
            edges[node] = found
    return edges


def _to_reverse(
    graph: Scalars, inputs: Sequence[int], outputs: Sequence[int]
) -> tuple[list[int], float]:
    """The loops that adjoints may be carried through, and how many times fewer these are."""
    forth, back = (len(groups_of(graph, nodes)) for nodes in (inputs, list(set(outputs))))
    fewer = forth / max(1, back)
    if fewer < _FEWER:
        return [], fewer
    needed = graph.needed(outputs, differentiated=True)
    loops = [node for node in needed if graph.ops[node] == "loop"]
    if any(graph.params[node].active is not None for node in loops):
        return [], fewer
    return loops, fewer


def _cheaper(graph: Scalars, outputs: Sequence[int], ways: Sequence[Callable[[], Edges]]) -> Edges:
    """The cheapest of some ways through the loops, the last one where one is about as cheap."""
    found, best = None, math.inf
    failure: Exception = Unsupported("no way through a loop")
    for way in ways:
        try:
            edges = way()
            rows, _ = edges.cheapest()
        except (Unsupported, TooLarge) as reason:
            failure = reason
            continue
        nodes = [*outputs, *(node for row in rows for node in row)]
        # Long code outside loops takes time, too: to compile.
        price = cost(graph, nodes) + len(graph.needed(nodes))
        if price < _ABOUT * best:
            found, best, loops = edges, price, graph.loops
    if found is None:
        raise failure
    graph.loops = loops
    return found


def _reversed(
    graph: Scalars, inputs: Sequence[int], outputs: Sequence[int], loops: Sequence[int]
) -> Edges:
    """The edges that are left when adjoints have been carried through all loops.

    What is below a loop is eliminated; then its operands take the place of its results. In place of
    the outputs there are nodes that stand for them.
    """
    results: dict[int, list[int]] = {node: [] for node in loops}
    for node in graph.needed(outputs, differentiated=True):
        if graph.ops[node] == "result":
            results[graph.args[node][0]].append(node)
    leaves = [*inputs, *(node for every in results.values() for node in every)]
    operands = [node for loop in loops for node in graph.args[loop]]
    edges = _edges(graph, leaves, [*outputs, *operands], apart=set(loops))
    rows: list[dict[int, int]] = [{node: graph.one} if node in edges else {} for node in outputs]
    for k, loop in reversed(list(enumerate(loops))):
        below: set[int] = set(results[loop])
        for node, args in edges.items():
            if not below.isdisjoint(args):
                below.add(node)
        own = {node: edges[node] for node in edges if node in below.difference(results[loop])}
        stands = _standing(graph, rows, k)
        above = dict.fromkeys(x for args in (*own.values(), *rows) for x in args if x not in own)
        before = {**{node: {} for node in above}, **own, **stands}
        found, _ = Edges(graph, list(above), list(stands), before).cheapest()
        rows = [
            {x: partial for x, partial in zip(above, row, strict=True) if partial != graph.zero}
            for row in found
        ]
        ended = [{x: row.pop(x) for x in results[loop] if x in row} for row in rows]
        if any(ended):
            more = reversed_through(graph, loop, ended, edges, jacobian, _dependence)
            for row, others in zip(rows, more, strict=True):
                for x, partial in others.items():
                    row[x] = graph.make("add", row[x], partial) if x in row else partial
    stands = _standing(graph, rows, -1)
    return Edges(graph, inputs, list(stands), {**edges, **stands})


def _standing(
    graph: Scalars, rows: Sequence[Mapping[int, int]], number: int
) -> dict[int, Mapping[int, int]]:
    """Nodes that stand for outputs, with their derivatives."""
    return {graph.input(("output", number, j)): row for j, row in enumerate(rows)}


def _tangents(
    graph: Scalars, edges: dict[int, dict[int, int]], inputs: Sequence[int], nodes: Sequence[int]
) -> dict[int, dict[int, int]]:
    """For nodes that depend on inputs the derivatives that are not zero."""
    wanted = [node for node in dict.fromkeys(nodes) if node in edges]
    above = [*inputs, *graph.needed(wanted, differentiated=True)]
    own = {node: edges[node] for node in dict.fromkeys(above) if node in edges}
    rows, _ = Edges(graph, inputs, wanted, own).cheapest()
    return {
        node: {column: k for column, k in zip(inputs, row, strict=True) if k != graph.zero}
        for node, row in zip(wanted, rows, strict=True)
    }


def _dependence(graph: Scalars, given: Mapping[int, int], outputs: Sequence[int]) -> list[int]:
    """On what outputs depend, as sets of bits, from the sets of some nodes."""
    found = dict(given)
    for node in graph.needed(outputs, differentiated=True):
        if node in found or graph.is_given(node):
            continue
        if graph.ops[node] in ("loop", "result"):
            args = graph.args[node]
        else:
            args = tuple(arg for arg, partial in partials(graph, node) if partial != graph.zero)
        bits = functools.reduce(operator.or_, (found.get(arg, 0) for arg in args), 0)
        if bits:
            found[node] = bits
    return [found.get(node, 0) for node in outputs]
