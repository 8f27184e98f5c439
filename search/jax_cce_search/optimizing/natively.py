"""The search for an order of a graph of scalars, by what native code computes in it.

What is computed is known exactly once the operations are made, folded and shared. The strategies
count multiplications, which is faster, and what they find is made and counted. Simulated
annealing goes on from the best, by what is computed: it makes the operations of every order that it
looks at, from the first position that a move changes to where the graph is what it was before.
"""

from collections.abc import Sequence
from typing import Any, Literal

from jax_cce.eliminations import Item, has_edges, vertices_of
from jax_cce.native.edges import ORDERS, Edges, counts, price_of
from jax_cce.native.scalars import TooLarge
from jax_cce.native.skeletons import skeleton
from jax_cce.registry.ranking import NATIVE
from jax_cce_search.game.chains import OfNodes
from jax_cce_search.game.executed import Executed
from jax_cce_search.game.problem import Problem
from jax_cce_search.searching import Budget, Search
from jax_cce_search.strategies import named
from jax_cce_search.strategies.annealing import Runs

__all__ = ["NativeProblem", "search"]

# The strategies' share of the budget.
_BY_COUNT = 0.3
# First and last temperatures of runs from the best order and from others, as fractions of the cost.
_LOW, _COLD = 0.003, 0.0003
_HIGH, _COOL = 0.01, 0.0005
# Moves a vertex of the first run, and, without a limit, of all.
_FIRST_RUN, _MOST_MOVES = 25, 1000
# Orders of fewer multiplications than any before whose operations are counted, the last so many.
_LATEST = 32
_TOO_LARGE = 1 << 60


class NativeProblem(Problem):
    """Orders of a graph of scalars, priced by what it takes to compute them.

    Args:
        edges: the graph.
        objective: "native" for what the function and its Jacobian take, in additions; "operations"
            for how many operations its Jacobian takes.

    Attributes:
        edges: the graph.
        objective: see above.
        by_count: the same, priced by multiplications in the published convention.
    """

    def __init__(self, edges: Edges, objective: Literal["native", "operations"] = "native") -> None:
        self.edges, self.objective = edges, objective
        self._executed: Executed | None = None
        self.by_count = Problem(skeleton(edges, "multiplications"))
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
        """What is computed in an order of vertices."""
        vertices = vertices_of(order)
        try:
            if self.objective == "operations":
                return self.edges.operations(vertices)
            return self.edges.price(vertices)
        except TooLarge:
            return _TOO_LARGE

    @property
    def executed(self) -> Executed:
        """The compiled loops that price orders by what they compute."""
        if self._executed is None:
            edges, graph = self.edges, self.edges.graph
            nodes = range(len(graph.ops))
            if self.objective == "operations":
                self._executed = Executed(edges, [counts(graph, k) for k in nodes], sign=0)
            else:
                weights = [0 if graph.is_given(k) else price_of(graph, k) for k in nodes]
                self._executed = Executed(edges, weights, needed=edges.outputs)
        return self._executed

    def __getstate__(self) -> dict[str, Any]:
        return super().__getstate__() | {"_executed": None}

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

    seconds, evaluations = state.budget.seconds, state.budget.evaluations
    budget = Budget(
        None if seconds is None else _BY_COUNT * seconds,
        None if evaluations is None else int(_BY_COUNT * evaluations),
    )
    inner = Search(problem.by_count, budget, state.seed, strategy=strategy)
    # So that the outer search is seen to go on.
    inner.on_tick = lambda _: inner.stop() if state.over() else None
    try:
        named(strategy)(inner)
    finally:
        # To make the operations of each that was better would take most of the time; of the latest
        # the compiled loops tell the best, and what has as few products may compute 5 % less.
        of_vertices = [found for found in inner.improvements if not has_edges(found.order)]
        latest = [
            (found.strategy, problem.numbered(vertices_of(found.order)))
            for found in of_vertices[-_LATEST:]
        ]
        if len(latest) > 1:
            latest = [min(latest, key=lambda found: problem.executed.price(found[1]))]
        for strategy_of, order in latest:
            with state.part(strategy_of):
                state.offer(order)
    state.evaluations += inner.evaluations
    with state.part("native annealing"):
        _anneal(state)


def _anneal(state: Search) -> None:
    """Simulated annealing by insertion moves from the best order and from the classical ones."""
    problem = state.problem
    assert isinstance(problem, NativeProblem)
    assert state.best is not None
    count = len(state.best)

    def begin(start: Sequence[int], moves: int, hot: float, cold: float) -> OfNodes:
        return OfNodes(problem.executed, start, moves, hot, cold)

    runs = Runs(state, begin, exact=False)
    starts = [state.best, *map(problem.edges.numbered, ORDERS)]
    limit = state.budget
    is_limited = limit.seconds is not None or limit.evaluations is not None
    with state.part(state.strategy, evaluations=None if is_limited else _MOST_MOVES * count):
        moves, turn = _FIRST_RUN * count, 0
        while not state.over():
            runs.run(state.best, moves, _LOW, _COLD)
            if not state.over():
                runs.run(starts[turn % len(starts)], 2 * moves, _HIGH, _COOL)
            moves, turn = 2 * moves, turn + 1
