"""One search under way: its budget, its random numbers, and the best order so far.

A strategy is a function of a `Search`. It offers orders as it finds them, counts what it evaluates,
and returns when `Search.over` says so or when it has nothing left to try. With a seed and a budget
of evaluations it does the same every time; a budget of seconds is as exact as the clock.
"""

import contextlib
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from jax_cce.eliminations import EdgeElimination, Item
from jax_cce_search.game.problem import Problem

__all__ = [
    "Budget",
    "Improvement",
    "Search",
    "Strategy",
]

# Seconds between two calls of `Search.on_tick`.
_TICK = 0.1


class Improvement(NamedTuple):
    """A best-so-far order, as callbacks get it.

    Attributes:
        cost: what the order costs.
        order: the vertices, those included that the reduction eliminated, and edges that are
            eliminated by themselves.
        seconds: since the search began.
        evaluations: orders evaluated until then.
        strategy: the name of the strategy that found it.
    """

    cost: int
    order: tuple[Item, ...]
    seconds: float
    evaluations: int
    strategy: str


@dataclass(frozen=True)
class Budget:
    """How long a search may take; whatever is used up first ends it.

    Attributes:
        seconds: wall time; None for no limit.
        evaluations: number of orders looked at, in full or in part; None for no limit.
    """

    seconds: float | None = None
    evaluations: int | None = None

    def __post_init__(self) -> None:
        for name in ("seconds", "evaluations"):
            value = getattr(self, name)
            if value is not None and not value >= 0:
                raise ValueError(f"{name} must be at least 0, but got {value!r}.")


@dataclass
class Search:
    """The state of a search.

    Attributes:
        problem: what is searched.
        budget: when to stop.
        seed: seeds `random`.
        on_improvement: called with each new best; the search ends where it returns True.
        on_tick: called every now and then.
        clock: what tells the time, in seconds.
        seconds_spent: wall time until the search was last asked whether it is over.
        strategy: the name of the strategy at work.
        best: the best order of the problem's vertices so far; None before the first. Strategies
            that know vertices alone are not run on a search that has found one with edges.
        cost: what it costs.
        evaluations: orders looked at so far.
        improvements: all best-so-far orders.
        bound: what every order of vertices costs at least, as far as it is proven.
        groups: the groups of vertices that prove it (see `jax_cce_search.game.groups`); empty where
            their bounds by themselves do, or where all orders were searched.
    """

    problem: Problem
    budget: Budget = field(default_factory=Budget)
    seed: int = 0
    on_improvement: Callable[[Improvement], Any] | None = None
    strategy: str = ""
    on_tick: Callable[["Search"], Any] | None = None
    clock: Callable[[], float] = time.perf_counter
    seconds_spent: float = 0.0
    best: tuple[Any, ...] | None = None
    cost: int = 1 << 62
    evaluations: int = 0
    improvements: list[Improvement] = field(default_factory=list)
    bound: int = 0
    groups: tuple[tuple[int, ...], ...] = ()

    def __post_init__(self) -> None:
        self.bound = self.problem.bound
        self.random = np.random.default_rng(self.seed)
        self._stopped = False
        self._ticked = 0.0
        self.begin()

    def begin(self) -> None:
        """Starts the clock anew."""
        self._begin = self.clock()

    @property
    def seconds(self) -> float:
        """Wall time since the search began."""
        return self.clock() - self._begin

    @property
    def is_optimal(self) -> bool:
        """Whether no order of vertices alone is cheaper, by proof."""
        return self.best is not None and self.cost <= self.bound

    def over(self) -> bool:
        """Whether the strategy must return: the budget is used up, or nothing can be better."""
        return self.spent() or self.is_optimal

    def spent(self) -> bool:
        """Whether the strategy must return though something may be better: nothing is left."""
        limit, most = self.budget.seconds, self.budget.evaluations
        seconds = self.seconds_spent = self.seconds
        if self.on_tick is not None and seconds > self._ticked + _TICK:
            self._ticked = seconds
            self.on_tick(self)
        return (
            self._stopped
            or (limit is not None and seconds >= limit)
            or (most is not None and self.evaluations >= most)
        )

    def allowed(self, wanted: int) -> int:
        """How many of so many evaluations the budget still allows."""
        most = self.budget.evaluations
        return wanted if most is None else max(0, min(wanted, most - self.evaluations))

    def offer(self, order: Sequence[Item], cost: int | None = None) -> bool:
        """Takes note of an order of the problem's vertices; whether it is the best so far.

        Args:
            order: the vertices, and edges by themselves between them.
            cost: what it costs, the prefix included; evaluated where it is not given.
        """
        if cost is None:
            cost = self.problem.evaluate(order)
            self.evaluations += 1
        if self.best is not None and cost >= self.cost:
            return False
        # Strategies hand over NumPy's numbers.
        self.best = tuple(v if isinstance(v, EdgeElimination) else int(v) for v in order)
        self.cost = int(cost)
        improvement = Improvement(
            self.cost,
            self.problem.full(self.best),
            self.seconds,
            self.evaluations,
            self.strategy,
        )
        self.improvements.append(improvement)
        if self.on_improvement is not None and self.on_improvement(improvement) is True:
            self._stopped = True
        return True

    def prove(self, bound: int, groups: Iterable[tuple[int, ...]] = ()) -> None:
        """Takes note of a proven lower bound.

        Args:
            bound: what every order costs at least, the prefix included.
            groups: the groups of vertices that prove it, if it is they.
        """
        if bound > self.bound:
            self.bound, self.groups = bound, tuple(groups)

    def stop(self) -> None:
        """Ends the search at its next look at `over`."""
        self._stopped = True

    @contextlib.contextmanager
    def part(
        self,
        strategy: str,
        *,
        seconds: float | None = None,
        evaluations: int | None = None,
    ) -> Iterator["Search"]:
        """Narrows the budget, to run another strategy on this search while the context is entered.

        Args:
            strategy: its name.
            seconds: from now on; None for all that is left.
            evaluations: from now on; None for all that are left.
        """
        outer = self.budget, self.strategy
        until = None if seconds is None else self.seconds + seconds
        upto = None if evaluations is None else self.evaluations + evaluations
        self.budget = Budget(
            _least(self.budget.seconds, until), _least(self.budget.evaluations, upto)
        )
        self.strategy = strategy
        try:
            yield self
        finally:
            self.budget, self.strategy = outer


def _least(*limits: Any) -> Any:
    return min((limit for limit in limits if limit is not None), default=None)


Strategy = Callable[[Search], None]
