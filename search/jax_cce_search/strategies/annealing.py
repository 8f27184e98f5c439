"""Simulated annealing by insertion moves, in runs whose lengths fit the budget.

Runs of little heat come first, from the best order that there is: one that was offered, or a
greedy one. Each is four times as long as the last, so that a good order is there early. Where such
a run is long enough to end in a minimum, every other one begins anew with more heat. Whatever run
is under way when the budget ends, it has cooled down by then.

Source: Kirkpatrick, Gelatt & Vecchi, "Optimization by simulated annealing" (1983). That it finds
shorter eliminations than greedy orders do is from Naumann & Gottschling, "Simulated annealing for
optimal pivot selection in Jacobian accumulation" (2003).
"""

import functools
import math
from collections.abc import Callable, Sequence

from jax_cce_search.game.chains import Chain, chain
from jax_cce_search.game.moves import MIXED, Proposals
from jax_cce_search.searching import Search, Strategy
from jax_cce_search.strategies import greedy

__all__ = [
    "Runs",
    "anneal",
    "search",
    "start_with",
]

# Moves between two looks at the clock: so many, and less where there are many vertices.
_CHUNK, _OF_VERTICES = 2048, 1 << 18
# First and last temperatures of runs from the best order and anew, as fractions of the cost.
_LOW, _COLD = 0.003, 0.0001
_HIGH, _COOL = 0.01, 0.0003
# Moves a vertex of the first run, and of the shortest that may begin anew.
_FIRST_RUN, _SETTLED = 12, 600
_LONGEST_RUN = 1 << 26
# A run takes all that is left of the budget where that is so many times its length.
_LAST = 1.5


def search(state: Search, proposals: Proposals = MIXED) -> None:
    """Anneals again and again, from the best order and anew, in runs of growing length.

    Args:
        state: the search.
        proposals: how probable moves are.
    """
    count = len(state.problem.vertices)
    if count < 2:
        state.offer(state.problem.vertices)
        return
    is_fresh = state.best is None
    if is_fresh:
        _offer_classical(state)
    runs = Runs(state, functools.partial(chain, state.problem, proposals=proposals))
    moves, turn = _FIRST_RUN * count, 0
    if is_fresh and not state.over():
        # A few moves reach more than other greedy orders, which take longer.
        runs.run(state.best or (), moves, _LOW, _COLD)
        _offer_greedy(state, greedy.relative_markowitz, greedy.minimum_fill)
        moves *= 4
    while not state.over():
        assert state.best is not None
        if moves < _SETTLED * count:
            runs.run(state.best, moves, _LOW, _COLD)
            moves = min(4 * moves, _SETTLED * count)
            continue
        if turn % 2 == 0:
            runs.run(_anew(state, turn // 2), moves, _HIGH, _COOL)
        else:
            runs.run(state.best, moves, _LOW, _COLD)
            moves = min(2 * moves, _LONGEST_RUN)
        turn += 1


def start_with(state: Search) -> None:
    """Offers the classical orders and the greedy ones without random ties."""
    _offer_classical(state)
    _offer_greedy(state, greedy.relative_markowitz, greedy.minimum_fill)


def _offer_classical(state: Search) -> None:
    state.offer(state.problem.vertices)
    state.offer(state.problem.vertices[::-1])
    _offer_greedy(state, greedy.markowitz)


def _offer_greedy(state: Search, *strategies: Strategy) -> None:
    for strategy in strategies:
        with state.part(state.strategy, evaluations=2):
            strategy(state)


def anneal(state: Search, start: Sequence[int], moves: int, hot: float, cold: float) -> None:
    """One run of so many moves from an order, or of as many as the budget allows.

    Args:
        state: the search.
        start: the order to start from.
        moves: number of insertion moves tried.
        hot: first temperature, as a fraction of the current cost.
        cold: last temperature.
    """
    Runs(state).run(start, moves, hot, cold)


def _anew(state: Search, turn: int) -> Sequence[int]:
    """A greedy order with random ties."""
    scores = greedy.SCORES
    return greedy.offer(state, scores[turn % len(scores)], "random")


class Runs:
    """Runs of annealing on one budget, and how fast they are.

    Args:
        state: the search.
        begin: begins a run (see `chains.chain`); None for one of the search's problem.
        exact: whether orders cost what the runs say; else each that is offered is evaluated.
    """

    def __init__(
        self,
        state: Search,
        begin: Callable[[Sequence[int], int, float, float], Chain] | None = None,
        *,
        exact: bool = True,
    ) -> None:
        self._state, self._exact = state, exact
        self._begin = begin or functools.partial(chain, state.problem)
        self._moves, self._seconds = 0, 0.0
        self._said = 1 << 62
        count = len(state.problem.vertices)
        self._chunk = max(16, min(_CHUNK, _OF_VERTICES // count))

    def run(self, start: Sequence[int], moves: int, hot: float, cold: float) -> None:
        """See `anneal`."""
        state = self._state
        if self._left() <= _LAST * moves:
            moves = max(1, int(self._left()))
        under_way = self._begin(start, moves, hot, cold)
        # A run that says too much is compared with what others say.
        begun = state.cost if self._exact else min(self._said, under_way.best_cost)
        self._said = self._offer(under_way, begun)
        while under_way.left > 0 and not state.over():
            begin = state.seconds
            wanted = state.allowed(min(self._chunk, under_way.left))
            under_way.advance(wanted, state.random)
            state.evaluations += wanted
            self._said = self._offer(under_way, self._said)
            self._moves += wanted
            self._seconds += state.seconds - begin
            # The measured speed changes; it has to be cold when the time is over.
            if under_way.left > self._left():
                under_way.shorten(int(self._left()))

    def _offer(self, under_way: Chain, offered: int) -> int:
        """Offers the best order if it is cheaper than what was offered; the cheaper cost."""
        cost = under_way.best_cost
        if cost >= offered:
            return offered
        self._state.offer(under_way.best, cost if self._exact else None)
        return cost

    def _left(self) -> float:
        """How many moves the budget allows from now on."""
        state = self._state
        left = float(state.allowed(_LONGEST_RUN))
        if state.budget.seconds is not None and self._seconds > 0:
            rate = self._moves / self._seconds
            left = min(left, rate * max(0.0, state.budget.seconds - state.seconds))
        return left if left < _LONGEST_RUN else math.inf
