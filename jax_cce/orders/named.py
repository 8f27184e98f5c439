"""Elimination orders: the two classical modes, minimal Markowitz, and orders given by the user."""

import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from jax_cce.eliminations import EdgeElimination, Item, items_of, moved, vertices_of
from jax_cce.graph.building import Graph
from jax_cce.graph.elimination import Elimination
from jax_cce.orders.greedy import SCORES, greedy
from jax_cce.orders.skeleton import Skeleton, skeleton

__all__ = [
    "DEFAULT_WORK",
    "ORDERS",
    "check",
    "eliminate",
]

# Looking at a product takes about a microsecond.
DEFAULT_WORK = 20_000
_MOST_ORDERS = 6
# Products of terms that greedy searches may carry out, which takes a tenth of a millisecond each:
# in a quarter of the time in which XLA on the CPU compiles a program of so many equations, 8.2 ms
# times their number to the power of 0.74; and how many for each that forward and reverse need.
_FEWEST_PRODUCTS, _MOST_PRODUCTS = 200, 6000
_PRODUCTS, _POWER = 20, 0.74
_PER_CLASSICAL = 0.5


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
    return given(graph, greedy(skeleton(graph, "multiplications"))[0])


def given(graph: Graph, order: Iterable[Item]) -> Elimination:
    """Eliminates in the given order, whose vertices must be a permutation of the graph's.

    Raises:
        ValueError: where an edge is to be eliminated that cannot be.
    """
    state = Elimination(graph)
    for item in order:
        if isinstance(item, EdgeElimination) and (obstacle := state.obstacle_to(item)):
            done = len(state.order)
            (shown,) = moved([item], graph.program.first_computed, inwards=False)
            raise ValueError(
                f"order has the edge elimination {shown} at position {done}, but {obstacle}. "
                "Each edge by itself comes before the vertices at its ends that are eliminated, "
                "and after what makes the edge; inputs are -1, -2, and so on."
            )
        state.eliminate(item)
    return state


def auto(graph: Graph, work: int = DEFAULT_WORK) -> Elimination:
    """The cheapest, by operations executed, of forward, reverse and what greedy searches find.

    The searches stop by the amount of work and not by the clock, so that every process that plans
    the same function comes to the same order.

    Args:
        graph: the graph.
        work: how many products of blocks the searches may look at. Forward, reverse and minimal
            Markowitz are tried in any case, each until it costs more than another, the last as
            far as it takes no more work than the other two allow.
    """
    vertices = graph.vertices
    if len(vertices) < 2:
        return forward(graph)
    counted = skeleton(graph, "flops")
    best = classical = counted.cheapest((vertices, vertices[::-1]))[0]
    size = len(graph.program.equations)
    products = min(_MOST_PRODUCTS, max(_FEWEST_PRODUCTS, int(_PRODUCTS * size**_POWER)))
    with counted.limited(products, _PER_CLASSICAL):
        order, _ = greedy(counted.priced("multiplications"))
        best, cost = counted.cheapest((classical, order))
        classical = best
        for order, price in _searched(counted, work):
            if price < cost:
                best, cost = order, price
    state = given(graph, best)
    if best != classical:
        # A recorder shares steps that the skeleton counts twice.
        state = min((state, given(graph, classical)), key=_flops)
    return state


def _searched(graph: Skeleton, work: int) -> Iterator[tuple[tuple[int, ...], int]]:
    """Greedy orders by every score, ties broken either way and then at random."""
    draw = random.Random(0)
    per_order = 2 * sum(map(len, graph.successors.values()))
    most = min(work // max(per_order, 1), _MOST_ORDERS)
    ways = [(score, tie) for tie in ("first", "last") for score in SCORES]
    ways += [(score, "random") for _ in range(most) for score in SCORES]
    for score, tie in ways[:most]:
        state = graph.copy()
        order, cost = greedy(state, score, tie, uniform=draw.random)  # type: ignore[arg-type]
        yield order, cost + state.remainder()


def _flops(state: Elimination) -> int:
    state.jacobian()
    return state.recorder.cost.flops


ORDERS: dict[str, Callable[[Graph], Elimination]] = {
    "auto": auto,
    "forward": forward,
    "markowitz": markowitz,
    "reverse": reverse,
}


def check(order: Any) -> str | tuple[Item, ...]:
    """The order as a name, or as a tuple of integers and edge eliminations.

    Raises:
        ValueError: for an unknown name.
        TypeError: for anything else that is no sequence of these.
    """
    if isinstance(order, str):
        if order not in ORDERS:
            names = ", ".join(map(repr, ORDERS))
            raise ValueError(
                f"order must be one of {names}, 'tuned', or a sequence of vertices, but got "
                f"{order!r}."
            )
        return order
    try:
        return items_of(order)
    except TypeError as error:
        raise TypeError(
            "order must be a string or a sequence of integers (vertex numbers, as in "
            f"jax_cce.plan(fun)(*args).order) and jax_cce.EdgeElimination, but got {order!r}."
        ) from error


def eliminate(graph: Graph, order: str | Sequence[Item], work: int = DEFAULT_WORK) -> Elimination:
    """Eliminates all vertices in a checked order.

    Args:
        graph: the graph.
        order: a name, or vertices numbered from the first variable that an equation computes, and
            edges between them that are eliminated by themselves.
        work: how many products of blocks "auto" may look at while it searches.

    Raises:
        ValueError: where the vertices of the sequence are no permutation of the graph's, or an edge
            is not there when its turn comes.
    """
    if isinstance(order, str):
        if graph.reverse_only:  # `jax.jacrev` runs, whatever the order
            return reverse(graph)
        return auto(graph, work) if order == "auto" else ORDERS[order](graph)
    first = graph.program.first_computed
    vertices = vertices_of(order)
    expected, received = {vertex - first for vertex in graph.vertices}, set(vertices)
    if len(vertices) != len(received) or expected != received:
        repeated = sorted({vertex for vertex in received if vertices.count(vertex) > 1})
        raise ValueError(
            "order must be a permutation of the vertices of this function's graph, of which "
            f"there are {len(expected)}: missing {_listed(expected - received)}, foreign "
            f"{_listed(received - expected)}, repeated {_listed(repeated)}. "
            "jax_cce.plan(fun)(*args).vertices lists the vertices for these argument shapes."
        )
    return reverse(graph) if graph.reverse_only else given(graph, moved(order, first, inwards=True))


def _listed(vertices: Iterable[int], most: int = 20) -> str:
    ordered = sorted(vertices)
    if not ordered:
        return "none"
    shown = ", ".join(map(str, ordered[:most]))
    return shown if len(ordered) <= most else f"{shown}, ... ({len(ordered)} in all)"
