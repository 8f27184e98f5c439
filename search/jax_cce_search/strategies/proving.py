"""Proofs instead of orders: a bound that rises until it meets the best cost, by groups of vertices.

See `jax_cce_search.game.groups` for the bound and `partitions` for how groups are found.
"""

from collections.abc import Callable

import numpy as np

from jax_cce_search.game.partitions import improved, near
from jax_cce_search.searching import Search

__all__ = [
    "is_near",
    "prover",
]

# A proof is worth a large share of the time where the best cost exceeds the bound by no more.
_NEAR = 1.05


def prover(state: Search) -> Callable[[int | None], None]:
    """What raises the bound of a search a bit more each time that it is called.

    Args:
        state: the search.

    Returns:
        A function of how many groups to look at; None for as long as the budget lasts.
    """
    problem = state.problem
    groups = problem.groups
    # A seed of its own: the search draws the same numbers whether it proves or not.
    random = np.random.default_rng(state.seed)
    steps = (
        iter(())
        if groups is None or problem.paths is None
        else improved(groups, near(problem.paths, problem.vertices), random)
    )

    def prove(most: int | None) -> None:
        looked_at = 0
        while (most is None or looked_at < most) and not state.over():
            step = next(steps, None)
            if step is None:
                return
            bound, found = step
            state.prove(problem.prefix_cost + bound, found)
            looked_at += 1

    return prove


def is_near(state: Search) -> bool:
    """Whether the best cost and the bound are so near that a proof is likely."""
    return state.cost <= _NEAR * state.bound
