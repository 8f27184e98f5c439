"""Greedy orders: minimal Markowitz degree, relative Markowitz degree, and minimum fill.

Each is tried with the first and the last vertex at a tie, then with random ties until the budget is
over. Sources: see `jax_cce.orders.greedy`.
"""

from collections.abc import Callable

from jax_cce.orders.greedy import Score, Tie, greedy
from jax_cce_search.searching import Search

__all__ = [
    "SCORES",
    "markowitz",
    "minimum_fill",
    "offer",
    "relative_markowitz",
]

SCORES: tuple[Score, ...] = ("markowitz", "relative_markowitz", "minimum_fill")


def _by(score: Score) -> Callable[[Search], None]:
    def search(state: Search) -> None:
        for tie in ("first", "last"):
            offer(state, score, tie)
            if state.over():
                return
        unbounded = state.budget.seconds is None and state.budget.evaluations is None
        while not state.over() and not unbounded:
            offer(state, score, "random")

    search.__doc__ = f"Offers orders of least {score.replace('_', ' ')} score."
    return search


def offer(state: Search, score: Score, tie: Tie) -> tuple[int, ...]:
    """Offers the order of a greedy score, and returns it."""
    graph = state.problem.reduced.copy()
    order, cost = greedy(graph, score, tie, uniform=state.random.random)
    left = set(state.problem.vertices)
    state.evaluations += 1
    order = tuple(vertex for vertex in order if vertex in left)
    state.offer(order, state.problem.prefix_cost + cost + graph.remainder())
    return order


markowitz = _by("markowitz")
relative_markowitz = _by("relative_markowitz")
minimum_fill = _by("minimum_fill")
