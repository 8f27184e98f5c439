"""Elimination orders: the two classical modes, minimal Markowitz, and orders given by the user."""

import heapq
import operator
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from jax_cce.elimination import Elimination
from jax_cce.graph import Graph

__all__ = ["ORDERS", "check", "eliminate"]


def forward(graph: Graph) -> Elimination:
    """Vertices in the order of the program: forward mode."""
    return given(graph, graph.vertices)


def reverse(graph: Graph) -> Elimination:
    """Vertices against the order of the program: reverse mode."""
    return given(graph, graph.vertices[::-1])


def markowitz(graph: Graph) -> Elimination:
    """Greedy: next comes the vertex of least Markowitz degree, the first one at a tie.

    The Markowitz degree of a scalar vertex is (predecessors x successors), what eliminating it
    multiplies. An array vertex stands for as many scalar vertices as it has entries, so its
    degree is the cost of eliminating it divided by its size.

    Source: Griewank & Reese (1991); Lohoff & Neftci (2024), section 2, for the tie-break.
    """
    state = Elimination(graph)

    def degree(vertex: int) -> float:
        size = 1
        for extent in graph.shapes[vertex]:
            size *= extent
        return state.multiplications(vertex) / size

    degrees = {vertex: degree(vertex) for vertex in graph.vertices}
    queue = [(value, vertex) for vertex, value in degrees.items()]
    heapq.heapify(queue)
    while queue:
        value, vertex = heapq.heappop(queue)
        if degrees.get(vertex) != value:
            continue  # superseded by a later entry, or already eliminated
        del degrees[vertex]
        touched = state.neighbours(vertex)
        state.eliminate(vertex)
        for neighbour in touched:
            if neighbour in degrees and (new := degree(neighbour)) != degrees[neighbour]:
                degrees[neighbour] = new
                heapq.heappush(queue, (new, neighbour))
    return state


def given(graph: Graph, order: Iterable[int]) -> Elimination:
    """Eliminates in the given order, which must be a permutation of the graph's vertices."""
    state = Elimination(graph)
    for vertex in order:
        state.eliminate(vertex)
    return state


def auto(graph: Graph) -> Elimination:
    """The cheapest of forward, reverse and Markowitz, by operations executed."""
    if len(graph.vertices) < 2:
        return forward(graph)
    candidates = [forward(graph), reverse(graph), markowitz(graph)]
    return min(candidates, key=lambda state: _flops(state))


def _flops(state: Elimination) -> int:
    state.jacobian()
    return state.tape.cost.flops


ORDERS: dict[str, Callable[[Graph], Elimination]] = {
    "auto": auto,
    "forward": forward,
    "markowitz": markowitz,
    "reverse": reverse,
}


def check(order: Any) -> str | tuple[int, ...]:
    """The order as a name or a tuple of integers.

    Raises:
        ValueError: for an unknown name.
        TypeError: for anything else that is no sequence of integers.
    """
    if isinstance(order, str):
        if order not in ORDERS:
            names = ", ".join(map(repr, ORDERS))
            raise ValueError(
                f"order must be one of {names}, or a sequence of vertices, but got {order!r}."
            )
        return order
    try:
        return tuple(operator.index(vertex) for vertex in order)
    except TypeError as error:
        raise TypeError(
            "order must be a string or a sequence of integers (vertex numbers, as in "
            f"jax_cce.plan(fun)(*args).order), but got {order!r}."
        ) from error


def eliminate(graph: Graph, order: str | Sequence[int]) -> Elimination:
    """Eliminates all vertices in a checked order.

    Args:
        graph: the graph.
        order: a name, or vertices numbered from the first variable that an equation computes.

    Raises:
        ValueError: where the sequence is no permutation of the graph's vertices.
    """
    first = graph.program.first_computed
    if graph.only_rows:
        backwards = tuple(vertex - first for vertex in reversed(graph.vertices))
        if order not in ("auto", "reverse", backwards):
            raise ValueError(
                "The function has a custom_vjp whose pullback is not known to be linear in the "
                "cotangent (such as gradient clipping), or a collective inside shard_map, so its "
                "Jacobian is defined by reverse mode only: order must be 'auto' or 'reverse', but "
                f"got {order!r}."
            )
        return reverse(graph)
    if isinstance(order, str):
        return ORDERS[order](graph)
    expected, received = {vertex - first for vertex in graph.vertices}, set(order)
    if len(order) != len(received) or expected != received:
        repeated = sorted({vertex for vertex in received if list(order).count(vertex) > 1})
        raise ValueError(
            "order must be a permutation of the vertices of this function's graph, of which "
            f"there are {len(expected)}: missing {_listed(expected - received)}, foreign "
            f"{_listed(received - expected)}, repeated {_listed(repeated)}. "
            "jax_cce.plan(fun)(*args).vertices lists the vertices for these argument shapes."
        )
    return given(graph, (vertex + first for vertex in order))


def _listed(vertices: Iterable[int], most: int = 20) -> str:
    ordered = sorted(vertices)
    if not ordered:
        return "none"
    shown = ", ".join(map(str, ordered[:most]))
    return shown if len(ordered) <= most else f"{shown}, ... ({len(ordered)} in all)"
