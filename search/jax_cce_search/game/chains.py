"""Simulated annealing as a chain of orders that goes on for so many moves at a time."""

import abc
from collections.abc import Sequence
from typing import Any

import numpy as np

from jax_cce_search.game import annealing, kernels, rows, uniform
from jax_cce_search.game import executed as executed_operations
from jax_cce_search.game.compiled import Compiled
from jax_cce_search.game.executed import Executed
from jax_cce_search.game.moves import MIXED, Proposals, random_numbers
from jax_cce_search.game.problem import Problem
from jax_cce_search.game.state import NOTHING, undo

__all__ = [
    "Chain",
    "OfNodes",
    "chain",
]

# The weights of moves are made anew so often in a run, and where its length changes by so much.
_STEPS, _OTHER = 16, 0.2


class Chain(abc.ABC):
    """A run of simulated annealing from an order; see `chain`."""

    def __init__(
        self,
        compiled: Compiled | Executed,
        start: Sequence[int],
        moves: int,
        hot: float,
        cold: float,
        proposals: Proposals = MIXED,
    ) -> None:
        undo(compiled.state, 0)
        self._named = compiled.named
        self._order = compiled.numbered(start)
        self._best = self._order.copy()
        count = len(self._order)
        self._place = np.full(len(compiled.state.before), -1, np.int32)
        self._place[self._order] = np.arange(count)
        self._proposals, self._weighed = proposals, (-1, 0.0)
        self._marks = np.zeros(count + 1, np.int64)
        self._schedule = np.array([moves, hot, cold], np.float64)
        cost = self._begin()
        self._tally = np.array([0, count - 2, cost, cost, 0], np.int64)

    @property
    def cost(self) -> int:
        """What the current order costs, the prefix included."""
        return int(self._tally[2])

    @property
    def order(self) -> tuple[int, ...]:
        """The current order."""
        return self._named(self._order)

    @property
    def best_cost(self) -> int:
        """What the best order so far costs, the prefix included."""
        return int(self._tally[3])

    @property
    def best(self) -> tuple[int, ...]:
        """The best order so far."""
        return self._named(self._best)

    @property
    def left(self) -> int:
        """How many moves of the run are left."""
        return int(self._schedule[0] - self._tally[4])

    def shorten(self, moves: int) -> None:
        """Lets the run end, and be cold, after so many more moves."""
        self._schedule[0] = self._tally[4] + moves

    def advance(self, moves: int, random: np.random.Generator) -> None:
        """Tries so many moves."""
        self._weigh()
        draws = random_numbers(random, moves)
        done = 0
        while done < moves:
            done = self._moved(draws, done)

    def _weigh(self) -> None:
        """Makes the weights of moves anew where the run has come further or changed its length."""
        of_run, done = float(self._schedule[0]), float(self._tally[4])
        step, known = int(_STEPS * done / of_run), self._weighed
        if known[0] != step or abs(of_run - known[1]) > _OTHER * of_run:
            self._weighed = step, of_run
            progress = min(1.0, (step + 0.5) / _STEPS)
            self._weights = self._proposals.weights(len(self._order), of_run, progress)

    @abc.abstractmethod
    def _begin(self) -> int:
        """Evaluates the first order and returns its cost, the prefix included."""

    @abc.abstractmethod
    def _moved(self, draws: np.ndarray, done: int) -> int:
        """Goes on from so many moves, until all are done or something is missing."""


class _OfRows(Chain):
    """Where every product costs one and every sum nothing."""

    def __init__(self, problem: Problem, *args: Any) -> None:
        self._problem, self._compiled = problem, problem.compiled
        super().__init__(self._compiled, *args)

    def _begin(self) -> int:
        compiled, problem = self._compiled, self._problem
        self._rows = rows.rows_of(compiled.state)
        self._missing = np.zeros(1, np.int64)
        self._least = np.zeros(len(compiled.nodes), np.int64)
        self._least[compiled.numbered(problem.vertices)] = problem.least
        self._paid = np.zeros(len(self._order), np.int64)
        while True:
            rows.pay(self._rows, self._order, self._paid, self._missing)
            if self._missing[0] == NOTHING:
                return problem.prefix_cost + int(self._paid.sum())
            self._grow()

    def _moved(self, draws: np.ndarray, done: int) -> int:
        done = uniform.anneal(
            self._rows,
            self._order,
            self._place,
            self._best,
            self._paid,
            self._least,
            self._marks,
            self._tally,
            self._proposals.anywhere,
            self._weights,
            draws,
            done,
            self._schedule,
            self._missing,
        )
        if self._missing[0] != NOTHING:
            self._grow()
        return done

    def _grow(self) -> None:
        log = self._rows.log
        self._rows = self._rows._replace(log=np.concatenate([log, np.zeros_like(log)]))


class _OfKinds(Chain):
    """Where costs depend on what is on the edges."""

    def __init__(self, problem: Problem, *args: Any) -> None:
        self._problem, self._compiled = problem, problem.compiled
        super().__init__(self._compiled, *args)

    def _begin(self) -> int:
        compiled, order = self._compiled, self._order
        cost = int(compiled.evaluate_numbered(order[None])[0])
        self._paid = np.zeros(len(order) + 1, np.int64)
        self._digests = np.zeros(len(order) + 1, np.uint64)
        for at in range(len(order)):
            self._digests[at] = compiled.state.digest[0]
            self._paid[at] = compiled.run(kernels.replay, order[at : at + 1])
        self._digests[-1] = compiled.state.digest[0]
        self._paid[-1] = cost - self._problem.prefix_cost - self._paid[:-1].sum()
        compiled.reset()
        return cost

    def _moved(self, draws: np.ndarray, done: int) -> int:
        compiled = self._compiled
        done = annealing.anneal(
            compiled.state,
            compiled.tables,
            self._order,
            self._place,
            self._best,
            self._paid,
            self._digests,
            self._marks,
            self._tally,
            self._proposals.anywhere,
            self._weights,
            draws,
            done,
            self._schedule,
            compiled.missing,
        )
        if compiled.missing[0] != NOTHING:
            compiled.supply()
        return done


class OfNodes(Chain):
    """A run over orders of a graph of scalars, which cost the operations that are executed.

    Where masks make operations simpler, an order may cost less than it says. Moves are drawn
    whatever is there (see `moves.drawn`).

    Args:
        executed: the graph.
        start: the order to start from, of two vertices at least, by their numbers.
        moves: number of insertion moves in the run.
        hot: first temperature, as a fraction of the current cost.
        cold: last temperature.
    """

    def __init__(
        self, executed: Executed, start: Sequence[int], moves: int, hot: float, cold: float
    ) -> None:
        self._executed = executed
        self._stuck = -1
        super().__init__(executed, start, moves, hot, cold)
        self._tally = np.append(self._tally, executed.always)

    def _begin(self) -> int:
        self._digests = np.zeros(len(self._order) + 1, np.uint64)
        return self._executed.pay(self._order, self._digests)

    def _moved(self, draws: np.ndarray, done: int) -> int:
        executed = self._executed
        done = executed_operations.anneal(
            executed.state,
            executed.nodes,
            self._order,
            self._best,
            self._digests,
            self._marks,
            self._tally,
            draws,
            done,
            self._schedule,
            executed.missing,
        )
        if executed.missing[0] != NOTHING:
            # What other orders have made is forgotten.
            executed.make_room(more=self._stuck == self._tally[4])
            self._stuck = int(self._tally[4])
            self._tally[0] = 0
            self._tally[2] = executed.pay(self._order, self._digests)
        return done


def chain(
    problem: Problem,
    start: Sequence[int],
    moves: int,
    hot: float,
    cold: float,
    proposals: Proposals = MIXED,
) -> Chain:
    """A run of simulated annealing.

    One chain of a problem is under way at a time, and nothing else uses its compiled loops then.

    Args:
        problem: what is searched, of two vertices at least.
        start: the order to start from.
        moves: number of insertion moves in the run.
        hot: first temperature, as a fraction of the current cost.
        cold: last temperature.
        proposals: how probable moves are.
    """
    kind = _OfRows if problem.uniform else _OfKinds
    return kind(problem, start, moves, hot, cold, proposals)
