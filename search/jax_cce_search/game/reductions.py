"""Reductions that lose nothing: what some best order may as well begin with.

Only in a graph of scalars where every product costs one can this be known beforehand:

- A vertex without predecessors or successors (its edges cancelled) costs nothing.
- A vertex between one predecessor and one successor, which is no output, costs one product now
  and at least one at any later time, and without it every other vertex has no more neighbours.
- A vertex of which every predecessor already has an edge to every successor, and which has no more
  of them than it has vertex-disjoint paths to the inputs and the outputs, never becomes cheaper,
  and its elimination takes edges away and adds none.

In any measure, eliminating a vertex whose neighbours are joined by a constant edge of one may pay
later for what is free now, so that is left to the searches. Of vertices with the same neighbours
(false twins) any two may change places in an order; branch and bound keeps them in ascending order.

Source: Griewank & Walther, "Evaluating Derivatives" (2008), section 10.2; Mosenkis & Naumann, "On
optimality preserving eliminations for the minimum edge count and optimal Jacobian accumulation
problems in linearized DAGs" (2012).
"""

from jax_cce.orders.skeleton import Skeleton
from jax_cce_search.game.bounds import vertex_bounds

__all__ = [
    "reduce",
]

# The third reduction asks for paths again after every elimination.
_MOST_BOUNDED = 400


def reduce(graph: Skeleton, uniform: bool) -> tuple[Skeleton, tuple[int, ...], int]:
    """Eliminates what may be eliminated first in any case.

    Args:
        graph: the graph; it is left as it is.
        uniform: whether every product costs one and every sum nothing.

    Returns:
        The graph that is left, the vertices eliminated in order, and what that cost.
    """
    state = graph.copy()
    order: list[int] = []
    cost = 0
    if not uniform:
        dead = [v for v in state.vertices if _is_dead(state, v)]
        for vertex in dead:
            cost += state.eliminate(vertex)
        return state, tuple(dead), cost
    least = vertex_bounds(graph) if len(graph.vertices) <= _MOST_BOUNDED else {}
    pending = dict.fromkeys(graph.vertices)
    left = dict.fromkeys(graph.vertices)
    while pending:
        vertex = next(iter(pending))
        del pending[vertex]
        if not (
            _is_dead(state, vertex)
            or _is_chain(state, vertex)
            or _is_settled(state, vertex, least.get(vertex, 0))
        ):
            continue
        touched = {*state.predecessors[vertex], *state.successors[vertex]}
        cost += state.eliminate(vertex)
        order.append(vertex)
        del left[vertex]
        # An edge that is gone may have settled those at its ends, and those beside it.
        touched |= {n for t in touched for n in (*state.predecessors[t], *state.successors[t])}
        pending.update((v, None) for v in sorted(touched) if v in left)
    return state, tuple(order), cost


def _is_dead(graph: Skeleton, vertex: int) -> bool:
    return not graph.predecessors[vertex] or not graph.successors[vertex]


def _is_chain(graph: Skeleton, vertex: int) -> bool:
    return (
        vertex not in graph.outputs
        and len(graph.predecessors[vertex]) == len(graph.successors[vertex]) == 1
    )


def _is_settled(graph: Skeleton, vertex: int, least: int) -> bool:
    before, after = graph.predecessors[vertex], graph.successors[vertex]
    return (
        vertex not in graph.outputs
        and len(before) * len(after) == least
        and all(after.keys() <= graph.successors[source].keys() for source in before)
    )
