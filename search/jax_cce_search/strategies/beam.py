"""Beam search over sets of eliminated vertices.

After a set of vertices has been eliminated, the graph does not depend on their order, so of two
orders of one set only the cheaper is kept. The beam keeps the sets for which what is spent and the
least that the rest can cost come to least.
"""

import numpy as np

from jax_cce_search.game import kernels
from jax_cce_search.searching import Search

__all__ = [
    "beam",
    "search",
]

_FIRST_WIDTH = 4
# Entries of all graphs in a beam.
_MOST_ENTRIES = 1 << 26
_MOST_EXACT = 64


def search(state: Search) -> None:
    """Runs beams, each four times as wide as the last, until one reaches an optimum."""
    if not state.problem.vertices:
        state.offer(())
        return
    width = _FIRST_WIDTH
    widest = max(1, _MOST_ENTRIES // max(1, state.problem.compiled.state.kind.size))
    while not state.over() and width <= widest:
        if beam(state, width):
            return
        width *= 4


def beam(state: Search, width: int) -> bool:
    """One beam; whether it held every set, so that its order is an optimum.

    Args:
        state: the search.
        width: how many sets are kept.
    """
    problem, compiled = state.problem, state.problem.compiled
    compiled.reset()
    vertices = compiled.numbered(problem.vertices)
    count = len(vertices)
    least = np.array(problem.least, np.int64)
    if not least.any():
        # Without bounds, what the vertices would cost at once tells small from large.
        least = np.zeros(count, np.int64)
        compiled.run(kernels.prices, vertices, least)
        least = least // 2
    if count <= _MOST_EXACT:
        # One bit for each vertex names a set for certain.
        names = np.uint64(1) << np.arange(count, dtype=np.uint64)
    else:
        names = np.random.default_rng(0).integers(1, 1 << 63, count, dtype=np.uint64)
    orders = np.zeros((1, 0), np.int32)  # [sets, vertices so far], positions in `vertices`
    spent = np.zeros(1, np.int64)
    left = np.array([least.sum()])
    digests = np.zeros(1, np.uint64)
    # Beams of larger graphs hold nowhere near all sets.
    complete = problem.uniform and count <= _MOST_EXACT
    costs = np.zeros(count, np.int64)
    for depth in range(count):
        rows, picks, prices = [], [], []
        for row in range(len(orders)):
            if state.over() and state.best is not None:
                return False
            compiled.advance(vertices[orders[row]])
            free = np.ones(count, np.bool_)
            free[orders[row]] = False
            rest = np.flatnonzero(free)
            compiled.run(kernels.prices, vertices[rest], costs[: len(rest)])
            rows.append(np.full(len(rest), row))
            picks.append(rest)
            prices.append(costs[: len(rest)].copy())
        state.evaluations += len(orders)
        row_of, pick, price = map(np.concatenate, (rows, picks, prices))
        total = spent[row_of] + price
        promise = total + left[row_of] - least[pick]
        name = digests[row_of] ^ names[pick]
        # The cheapest way to each set, and of those the most promising.
        by_set = np.lexsort((total, name))
        by_set = by_set[np.r_[True, name[by_set][1:] != name[by_set][:-1]]]
        kept = by_set[np.argsort(promise[by_set], kind="stable")]
        if depth + 1 < count and len(kept) > width:
            complete = False
        kept = kept[:width]
        orders = np.column_stack([orders[row_of[kept]], pick[kept]]).astype(np.int32)
        spent, digests = total[kept], name[kept]
        left = left[row_of[kept]] - least[pick[kept]]
    best = int(np.argmin(spent))
    state.offer(compiled.named(vertices[orders[best]]))
    if complete:
        state.prove(state.cost)
    return complete
