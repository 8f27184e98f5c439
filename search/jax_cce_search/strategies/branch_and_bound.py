"""Branch and bound: proves an order optimal, or finds a better one, given time.

Source: Land & Doig (1960). The bound is that of vertex-disjoint paths, in
`jax_cce_search.game.bounds`. Where a graph was met before at no higher price, the search turns
back; graphs are compared by their content, so that what is proven does not rest on a hash.
"""

import numpy as np

from jax_cce_search.game import branching
from jax_cce_search.game.state import NOTHING
from jax_cce_search.searching import Search
from jax_cce_search.strategies import annealing

__all__ = [
    "search",
]

# Nodes between two looks at the clock.
_CHUNK = 4096
# Graphs that were met and are remembered; a later one takes the place of an earlier one.
_SLOTS = 1 << 20
# Edges of them that are written down, where a set of vertices does not decide a graph.
_EDGES = 1 << 24


def _names(count: int) -> np.ndarray:
    """Random numbers whose exclusive or over a set of vertices is its hash."""
    return np.random.default_rng(0).integers(1, 1 << 63, count, dtype=np.uint64)


def search(state: Search) -> None:
    """Searches all orders, except those that cannot be better than the best one known."""
    if state.best is None:
        annealing.start_with(state)
    if state.over():
        return
    problem, compiled = state.problem, state.problem.compiled
    vertices = compiled.numbered(problem.vertices)
    count = len(vertices)
    if count < 2:
        state.prove(state.cost)
        return
    least = np.array(problem.least, np.int64)
    names = _names(count)
    stack = np.zeros((count + 1, count + 4), np.int64)
    spent = np.zeros((count + 1, 2), np.int64)
    words = (count + 63) // 64 if problem.uniform else 0
    table = np.zeros((_SLOTS, 4 + words), np.int64)
    contents = np.zeros(0 if problem.uniform else _EDGES, np.int64)
    used = np.zeros(2, np.int64)
    best = np.array(vertices)
    tally = np.zeros(3, np.int64)

    compiled.reset()
    stack[0, 0] = -1
    spent[0, 1] = least.sum()
    tally[1] = state.cost - problem.prefix_cost
    while tally[0] >= 0:
        if state.over():
            return
        before = int(tally[2])
        branching.branch(
            compiled.state,
            compiled.tables,
            vertices,
            least,
            problem.uniform,
            names,
            stack,
            spent,
            table,
            contents,
            used,
            tally,
            best,
            max(1, state.allowed(_CHUNK)),
            compiled.missing,
        )
        state.evaluations += int(tally[2]) - before
        if tally[1] + problem.prefix_cost < state.cost:
            state.offer(compiled.named(best), int(tally[1]) + problem.prefix_cost)
        if compiled.missing[0] != NOTHING:
            compiled.supply()
    state.prove(state.cost)
