"""Exact dynamic programming over windows of an order.

What happens before and after a window does not depend on the order of the vertices in it, so the
best order of k neighbours in an order is found over their 2^k subsets (Held & Karp 1962).
"""

from collections.abc import Iterable, Sequence

import numpy as np

from jax_cce_search.game import branching
from jax_cce_search.searching import Search
from jax_cce_search.strategies import annealing

__all__ = [
    "improve",
    "search",
]

# The costs of the last take 2**14 * 14 numbers.
_SIZES = (4, 6, 8, 10, 12, 14)


def search(state: Search) -> None:
    """Improves the best order by windows of growing size, until none of them helps."""
    count = len(state.problem.vertices)
    if state.best is None:
        annealing.start_with(state)
    for size in _SIZES:
        size = min(size, count)
        while not state.over():
            assert state.best is not None
            if not improve(state, state.best, size):
                break
        if state.over():
            return
        if size == count:
            # The window was the whole order.
            if state.problem.uniform:
                state.prove(state.cost)
            return


def improve(
    state: Search, order: Sequence[int], size: int, starts: Iterable[int] | None = None
) -> bool:
    """Puts windows of an order into their best order; whether that made it cheaper.

    Args:
        state: the search.
        order: an order of the problem's vertices.
        size: number of vertices in a window.
        starts: where windows begin, in turn; without it windows are everywhere and overlap by half.
    """
    compiled = state.problem.compiled
    current = compiled.numbered(order)
    cost = before = int(compiled.evaluate_numbered(current[None])[0])
    costs = np.zeros((1 << size, size), np.int64)
    if starts is None:
        starts = range(0, max(1, len(current) - size + 1), max(1, size // 2))
    for start in starts:
        if state.over():
            break
        compiled.advance(current[:start])
        window = current[start : start + size]
        walk = np.zeros((len(window) + 2, 3), np.int64)
        compiled.run(branching.subsets, window, costs, walk)
        # As many eliminations as in so many whole orders.
        state.evaluations += 1 + (size << (size - 1)) // len(current)
        trial = current.copy()
        trial[start : start + size] = window[_cheapest(costs, len(window))]
        if (trial == current).all():
            continue
        # Where structure depends on the order, the window may have been misjudged.
        new = int(compiled.evaluate_numbered(trial[None])[0])
        if new < cost:
            current, cost = trial, new
            state.offer(compiled.named(current), cost)
    return cost < before


def _cheapest(costs: np.ndarray, size: int) -> list[int]:
    """The order of least cost, from the cost of each element after each subset."""
    sets = np.arange(1 << size)
    best = np.full(1 << size, np.iinfo(np.int64).max // 2)
    last = np.zeros(1 << size, np.int64)
    best[0] = 0
    # Sets by their number of members: each depends on those with one less.
    members = np.bitwise_count(sets)
    for number in range(size):
        of_number = sets[members == number]
        for k in range(size):
            free = of_number[of_number >> k & 1 == 0]
            grown = free | 1 << k
            total = best[free] + costs[free, k]
            better = total < best[grown]
            best[grown[better]] = total[better]
            last[grown[better]] = k
    order: list[int] = []
    at = (1 << size) - 1
    while at:
        order.append(int(last[at]))
        at ^= 1 << order[-1]
    return order[::-1]
