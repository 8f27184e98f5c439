"""Greedy elimination orders: the next vertex is the one of least score, until none is left.

Source: Griewank & Reese, "On the calculation of Jacobian matrices by the Markowitz rule" (1991);
Naumann, "Optimal accumulation of Jacobian matrices by elimination methods on the dual
computational graph" (2004), for relative Markowitz; minimum fill is that of sparse factorisation
(Tinney & Walker 1967).
"""

import heapq
from collections.abc import Callable
from typing import Any, Literal, get_args

from jax_cce.orders.skeleton import Skeleton

__all__ = [
    "SCORES",
    "TIES",
    "Score",
    "Tie",
    "greedy",
]

Score = Literal["markowitz", "relative_markowitz", "minimum_fill"]
Tie = Literal["first", "last", "random"]

SCORES: tuple[Score, ...] = get_args(Score)
TIES: tuple[Tie, ...] = get_args(Tie)


def greedy(
    graph: Skeleton,
    score: Score = "markowitz",
    tie: Tie = "first",
    *,
    uniform: Callable[[], float] | None = None,
) -> tuple[tuple[int, ...], int]:
    """Eliminates the vertex of least score, again and again.

    Args:
        graph: the graph, in any state; it is eliminated.
        score: "markowitz": what eliminating the vertex costs, divided by its number of entries,
            since an array vertex stands for as many scalar ones. "relative_markowitz": the same
            less the number of inputs that it depends on times the number of outputs that depend on
            it, which is what it costs at least in the end. "minimum_fill": how many new edges it
            adds, then as "markowitz".
        tie: which vertex comes first at a tie, by its place in the program.
        uniform: draws random numbers, for random ties.

    Returns:
        The vertices in the order of elimination, and what eliminating them cost.
    """
    sizes, degree = graph.sizes, graph.degree
    offset = _reach(graph) if score == "relative_markowitz" else {}

    def value(vertex: int) -> Any:
        if score == "minimum_fill":
            return graph.fill(vertex), degree(vertex) / sizes[vertex]
        if score == "relative_markowitz":
            return degree(vertex) / sizes[vertex] - offset[vertex]
        return degree(vertex) / sizes[vertex]

    def rank(vertex: int) -> float:
        if tie == "random":
            assert uniform is not None
            return uniform()
        return vertex if tie == "first" else -vertex

    values = {vertex: value(vertex) for vertex in graph.vertices if vertex in graph.successors}
    queue = [(of_vertex, rank(vertex), vertex) for vertex, of_vertex in values.items()]
    heapq.heapify(queue)
    order, cost = [], 0
    while queue:
        known, _, vertex = heapq.heappop(queue)
        if values.get(vertex) != known:
            continue  # superseded by a later entry, or already eliminated
        del values[vertex]
        changed = {*graph.predecessors[vertex], *graph.successors[vertex]}
        if score == "minimum_fill":
            changed |= _between(graph, vertex)
        cost += graph.eliminate(vertex)
        order.append(vertex)
        for neighbour in sorted(changed & values.keys()):
            new = value(neighbour)
            if new != values[neighbour]:
                values[neighbour] = new
                heapq.heappush(queue, (new, rank(neighbour), neighbour))
    return tuple(order), cost


def _between(graph: Skeleton, vertex: int) -> set[int]:
    """The vertices that lie between a predecessor and a successor: an edge there is their fill."""
    after: set[int] = set()
    for source in graph.predecessors[vertex]:
        after.update(graph.successors[source])
    before: set[int] = set()
    for target in graph.successors[vertex]:
        before.update(graph.predecessors[target])
    return after & before


def _reach(graph: Skeleton) -> dict[int, int]:
    """For each vertex the number of inputs before it times the number of outputs after it."""
    nodes = sorted(graph.successors)
    above = {node: 1 << k for k, node in enumerate(graph.inputs)}
    below = {node: 1 << k for k, node in enumerate(sorted(graph.outputs))}
    for node in nodes:
        for target in graph.successors[node]:
            above[target] = above.get(target, 0) | above.get(node, 0)
    for node in reversed(nodes):
        for target in graph.successors[node]:
            below[node] = below.get(node, 0) | below.get(target, 0)
    return {node: above.get(node, 0).bit_count() * below.get(node, 0).bit_count() for node in nodes}
