"""Simulated annealing by insertion moves, with restarts of growing length.

Source: Kirkpatrick, Gelatt & Vecchi, "Optimization by simulated annealing" (1983). That it finds
shorter eliminations than greedy orders do is from Naumann & Gottschling, "Simulated annealing for
optimal pivot selection in Jacobian accumulation" (2003).
"""

from collections.abc import Sequence

import numpy as np

from jax_cce_search.game import annealing, kernels
from jax_cce_search.game.state import NOTHING
from jax_cce_search.searching import Search
from jax_cce_search.strategies import greedy

__all__ = [
    "anneal",
    "search",
    "start_with",
]

# Moves between two looks at the clock.
_CHUNK = 2048
# First and last temperature as fractions of the current cost, and moves a vertex of the first run.
_HOT, _COLD = 0.02, 0.0005
_FIRST_RUN = 500
_LONGEST_RUN = 1 << 24


def search(state: Search) -> None:
    """Anneals again and again, twice as long each time, from greedy orders and from the best."""
    if len(state.problem.vertices) < 2:
        state.offer(state.problem.vertices)
        return
    if state.best is None:
        start_with(state)
    moves = _FIRST_RUN * len(state.problem.vertices)
    turn = 0
    while not state.over():
        assert state.best is not None
        # Every third run goes on from the best order, with less heat; the others begin afresh.
        again = turn % 3 == 2
        start = state.best if again else state.random.permutation(state.problem.vertices).tolist()
        anneal(state, start, moves, _HOT / 4 if again else _HOT, _COLD)
        turn += 1
        if turn % 2 == 0:
            moves = min(2 * moves, _LONGEST_RUN)


def start_with(state: Search) -> None:
    """Offers the classical orders and the greedy ones without random ties."""
    state.offer(state.problem.vertices)
    state.offer(state.problem.vertices[::-1])
    for strategy in (greedy.markowitz, greedy.relative_markowitz, greedy.minimum_fill):
        with state.part(state.strategy, evaluations=2):
            strategy(state)


def anneal(state: Search, start: Sequence[int], moves: int, hot: float, cold: float) -> None:
    """One run of so many moves from an order.

    Args:
        state: the search.
        start: the order to start from.
        moves: number of insertion moves tried.
        hot: first temperature, as a fraction of the current cost.
        cold: last temperature.
    """
    problem, compiled = state.problem, state.problem.compiled
    order = compiled.numbered(start)
    count = len(order)
    first = int(compiled.evaluate_numbered(order[None])[0])
    best = order.copy()
    paid = np.zeros(count + 1, np.int64)
    digests = np.zeros(count + 1, np.uint64)
    marks = np.zeros(count + 1, np.int64)
    for at in range(count):
        digests[at], marks[at] = compiled.state.digest[0], compiled.state.top[0]
        paid[at] = compiled.run(kernels.replay, order[at : at + 1])
    digests[count], marks[count] = compiled.state.digest[0], compiled.state.top[0]
    paid[count] = first - problem.prefix_cost - paid[:count].sum()
    tally = np.array([count, count - 1, first, first, 0], np.int64)
    schedule = np.array([moves, hot, cold], np.float64)
    if first < state.cost:
        state.offer(compiled.named(best), first)
    while tally[4] < moves and not state.over():
        wanted = state.allowed(int(min(_CHUNK, moves - tally[4])))
        draws = state.random.random((wanted, 3))
        done = 0
        while done < wanted:
            done = annealing.anneal(
                compiled.state,
                compiled.tables,
                order,
                best,
                paid,
                digests,
                marks,
                tally,
                draws,
                done,
                schedule,
                compiled.missing,
            )
            if compiled.missing[0] != NOTHING:
                compiled.supply()
        state.evaluations += wanted
        if tally[3] < state.cost:
            state.offer(compiled.named(best), int(tally[3]))
