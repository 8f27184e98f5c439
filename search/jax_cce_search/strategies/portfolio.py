"""All strategies in a sensible sequence, on one budget.

Greedy orders come first, at next to no cost; then branch and bound where the graph is small enough
for it, and otherwise annealing, a proof, windows and a beam, in rounds that grow as long as time is
left. The proof has most of its time where the best cost is near its bound. In a graph of scalars
the last tenth of a long search goes beyond orders of vertices.
"""

from collections.abc import Callable

from jax_cce_search.searching import Search
from jax_cce_search.strategies import (
    annealing,
    beam,
    branch_and_bound,
    edges,
    greedy,
    proving,
    windows,
)

__all__ = [
    "by_vertices",
    "search",
]

# Vertices of the largest graph that is left to branch and bound.
_SMALL = 16
# Seconds in a share of the first round, at most; those of the next are twice as long.
_FIRST_ROUND = 2.0
# Without any limit it ends when the next round would anneal by more moves than that.
_MOST_MOVES = 1 << 22
# In a shorter search proofs have a small share only.
_LEAST_SHARE = 0.5
# A group takes as long to look at as so many moves of annealing.
_MOVES_FOR_A_GROUP = 100
# Seconds of a search that is long, and the share of it in which single edges are eliminated.
_LONG, _BY_EDGES = 10.0, 0.1


def search(state: Search) -> None:
    """Runs the strategies until the budget is over or the best order is proven optimal."""
    limit = state.budget.seconds
    if limit is None or limit < _LONG or not edges.is_searchable(state.problem):
        by_vertices(state)
        return
    with state.part(state.strategy, seconds=(1 - _BY_EDGES) * limit):
        by_vertices(state)
    if not state.over():
        with state.part("edges"):
            edges.beyond(state)


def by_vertices(state: Search) -> None:
    """The portfolio over orders of vertices alone."""
    problem = state.problem
    for name, order in (("forward", problem.vertices), ("reverse", problem.vertices[::-1])):
        with state.part(name):
            state.offer(order)
    greedy_ways = {
        "markowitz": greedy.markowitz,
        "relative_markowitz": greedy.relative_markowitz,
        "minimum_fill": greedy.minimum_fill,
    }
    for name, way in greedy_ways.items():
        if not state.over():
            with state.part(name, evaluations=2):
                way(state)
    if state.over() or len(problem.vertices) < 2:
        if len(problem.vertices) < 2:
            state.prove(state.cost)
        return
    if not problem.is_compilable:
        while not state.over() and _is_limited(state):
            for name, way in greedy_ways.items():
                with state.part(name, evaluations=8):
                    way(state)
        return
    if len(problem.vertices) <= _SMALL:
        with state.part("branch_and_bound"):
            branch_and_bound.search(state)
        return
    # Without a limit in seconds nothing may depend on the clock.
    limit = state.budget.seconds
    share = None if limit is None else min(_FIRST_ROUND, limit / 8)
    moves = 2000 * len(problem.vertices)
    prove = proving.prover(state)
    rounds = [
        *((name, way, 1 / 8, lambda moves: 16) for name, way in greedy_ways.items()),
        ("annealing", annealing.search, 4, lambda moves: moves),
        ("windows", windows.search, 1, lambda moves: moves),
        ("beam", beam.search, 1, lambda moves: moves // 8),
    ]
    while not state.over():
        for name, way, shares, evaluations in rounds:
            seconds = None if share is None else share * shares
            with state.part(name, seconds=seconds, evaluations=evaluations(moves)):
                way(state)
            if name == "annealing":
                _prove(state, prove, share, moves)
            if state.over():
                return
        share = None if share is None else 2 * share
        moves *= 2
        if not _is_limited(state) and moves > _MOST_MOVES:
            return


def _prove(
    state: Search, prove: Callable[[int | None], None], share: float | None, moves: int
) -> None:
    """Proves for a small share of a round, and for a large one where the bound is near."""
    is_short = share is not None and share < _LEAST_SHARE
    for shares in (1 / 2,) if is_short else (1 / 2, 3):
        if share is None:
            prove(int(shares * moves) // _MOVES_FOR_A_GROUP)
        else:
            with state.part(state.strategy, seconds=share * shares):
                prove(None)
        if state.over() or not proving.is_near(state):
            return


def _is_limited(state: Search) -> bool:
    return state.budget.seconds is not None or state.budget.evaluations is not None
