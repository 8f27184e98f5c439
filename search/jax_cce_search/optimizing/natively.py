"""The search for an order of a graph of scalars, by what native code computes in it.

What is computed is known exactly once the operations are made, folded and shared. That takes a
thousand times as long as to count products and sums, so that the strategies count these, and what
they find is made and counted. Simulated annealing, which makes and counts every order that it looks
at, goes on from the best.
"""

import math
from collections.abc import Sequence

from jax_cce.eliminations import Item, vertices_of
from jax_cce.native.edges import ORDERS, Edges
from jax_cce.native.scalars import TooLarge
from jax_cce.native.skeletons import skeleton
from jax_cce.registry.ranking import NATIVE
from jax_cce_search.game.problem import Problem
from jax_cce_search.searching import Budget, Improvement, Search
from jax_cce_search.strategies import named

__all__ = ["NativeProblem", "search"]

# The strategies' share of the budget.
_BY_COUNT = 0.3
# First and last temperature, as fractions of the cost.
_HOT, _COLD = 0.01, 0.0005
# Without a limit, orders that annealing looks at for each vertex.
_MOST_MOVES = 100
_TOO_LARGE = 1 << 60


class NativeProblem(Problem):
    """Orders of a graph of scalars, priced by what it takes to compute them, in additions.

    Attributes:
        edges: the graph.
        by_count: the same, priced by the products and sums that are made.
    """

    def __init__(self, edges: Edges) -> None:
        self.edges = edges
        self.by_count = Problem(skeleton(edges))
        super().__init__(self.by_count.graph)
        # Operations that are shared are in no bound, and in no reduction.
        self.prefix, self.prefix_cost, self.bound, self.paths = (), 0, 0, None
        self.vertices = tuple(range(len(edges.vertices)))
        self._number = {node: k for k, node in enumerate(edges.vertices)}

    @property
    def measure(self) -> str:
        """Additions in native code."""
        return NATIVE

    def evaluate(self, order: Sequence[Item]) -> int:
        """What it takes to compute the function and its Jacobian in an order of vertices."""
        try:
            return self.edges.price(vertices_of(order))
        except TooLarge:
            return _TOO_LARGE

    def numbered(self, order: Sequence[int]) -> tuple[int, ...]:
        """An order of `by_count` as one of this problem."""
        return tuple(self._number[node] for node in order)


def search(state: Search, strategy: str) -> None:
    """Searches by count with a strategy, and then by what is computed.

    Args:
        state: the search, of a `NativeProblem`.
        strategy: the name of the strategy.
    """
    problem = state.problem
    assert isinstance(problem, NativeProblem)
    for name in ORDERS:
        with state.part(str(name)):
            state.offer(problem.edges.numbered(name))
    if len(problem.vertices) < 2:
        state.prove(state.cost)
        return

    def offered(found: Improvement) -> bool:
        with state.part(found.strategy):
            state.offer(problem.numbered(vertices_of(found.order)))
        return state.over()

    seconds, evaluations = state.budget.seconds, state.budget.evaluations
    budget = Budget(
        None if seconds is None else _BY_COUNT * seconds,
        None if evaluations is None else int(_BY_COUNT * evaluations),
    )
    inner = Search(problem.by_count, budget, state.seed, offered, strategy)
    # So that the outer search is seen to go on.
    inner.on_tick = lambda _: state.over()
    named(strategy)(inner)
    state.evaluations += inner.evaluations
    with state.part("native annealing"):
        _anneal(state)


def _anneal(state: Search) -> None:
    """Simulated annealing by insertion moves from the best order (see `strategies.annealing`)."""
    assert state.best is not None
    seconds, evaluations = state.budget.seconds, state.budget.evaluations
    order, cost, count = list(state.best), state.cost, len(state.best)
    begin, first, moves = state.seconds, state.evaluations, _MOST_MOVES * count
    if evaluations is not None:
        moves = max(1, evaluations - first)
    while not state.over():
        share = (state.evaluations - first) / moves
        if seconds is not None:
            share = max(share if evaluations is not None else 0.0, _share(state, begin, seconds))
        if share >= 1:
            return
        heat = state.cost * _HOT * (_COLD / _HOT) ** share
        old, new = state.random.integers(count, size=2)
        moved = order[:]
        moved.insert(new, moved.pop(old))
        price = state.problem.evaluate(moved)
        state.evaluations += 1
        if price <= cost or state.random.random() < math.exp((cost - price) / heat):
            order, cost = moved, price
            state.offer(order, cost)


def _share(state: Search, begin: float, end: float) -> float:
    return (state.seconds - begin) / max(end - begin, 1e-9)
