"""All strategies in a sensible sequence, on one budget.

Greedy orders come first, at next to no cost; then branch and bound where the graph is small enough
for it, and otherwise a beam, annealing and windows, in rounds that grow as long as time is left.
"""

from jax_cce_search.search import Search
from jax_cce_search.strategies import annealing, beam, branch_and_bound, greedy, windows

__all__ = ["search"]

_SMALL = 16
_FIRST_ROUND = 2.0


def search(state: Search) -> None:
    """Runs the strategies until the budget is over or the best order is proven optimal."""
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
    share = _FIRST_ROUND
    if state.budget.seconds is not None:
        share = min(share, state.budget.seconds / 8)
    moves = 2000 * len(problem.vertices)
    while not state.over():
        for name, way in greedy_ways.items():
            with state.part(name, seconds=share / 8, evaluations=16):
                way(state)
        if not state.over():
            with state.part("annealing", seconds=4 * share, evaluations=moves):
                annealing.search(state)
        if not state.over():
            with state.part("windows", seconds=share, evaluations=moves):
                windows.search(state)
        if not state.over():
            with state.part("beam", seconds=share, evaluations=moves // 8):
                beam.search(state)
        share *= 2
        moves *= 2
        if not _is_limited(state) and moves > _MOST_MOVES:
            return


_MOST_MOVES = 1 << 22


def _is_limited(state: Search) -> bool:
    return state.budget.seconds is not None or state.budget.evaluations is not None
