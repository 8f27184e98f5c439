"""One form of a function's graph, searched in one measure, here or on an executor.

The form is a graph of arrays, with small ones whole or taken apart, or the graph of scalars that
native code is made from.
"""

import pickle
from collections.abc import Callable
from concurrent.futures import Executor, Future
from dataclasses import dataclass
from typing import Any, NamedTuple

from jax_cce.algebra.costs import CostName
from jax_cce.eliminations import EdgeElimination, Item, moved
from jax_cce.graph.building import Graph
from jax_cce.native.edges import Edges
from jax_cce.planning import plans
from jax_cce.planning.plans import Plan
from jax_cce.registry import StoredOrder
from jax_cce_search.game.certificates import stored_bound
from jax_cce_search.game.problem import Problem
from jax_cce_search.optimizing import natively
from jax_cce_search.optimizing.natively import NativeProblem
from jax_cce_search.searching import Budget, Improvement, Search
from jax_cce_search.strategies import named

__all__ = [
    "ArraysPart",
    "Outcome",
    "Part",
    "ScalarsPart",
]


@dataclass(eq=False)
class Part:
    """The search of one form of the graph in one measure.

    Attributes:
        problem: the problem that is searched.
        search: the search, begun anew for each run.
    """

    problem: Problem
    search: Search

    def run(self, strategy: str) -> None:
        """Searches."""
        _search(self.search, strategy)

    def submit(
        self, executor: Executor, budget: Budget, seed: int, strategy: str
    ) -> "Future[Outcome]":
        """Starts a search on an executor."""
        return executor.submit(_searched, self.problem, budget, seed, strategy)

    def take(
        self, outcome: "Outcome", callback: Callable[[Improvement], Any] | None = None
    ) -> None:
        """Adds to the search what one on an executor has come to."""
        search, left = self.search, set(self.problem.vertices)
        search.evaluations += outcome.evaluations
        search.prove(outcome.bound, outcome.groups)
        for improvement in outcome.improvements:
            if improvement.cost < search.cost:
                search.best = tuple(
                    item
                    for item in improvement.order
                    if isinstance(item, EdgeElimination) or item in left
                )
                search.cost = improvement.cost
                search.improvements.append(improvement)
                if callback is not None:
                    callback(improvement)


@dataclass(eq=False)
class ArraysPart(Part):
    """The search of a graph of arrays.

    Attributes:
        measure: the measure.
        scalarised: whether small arrays are taken apart in this form.
        graph: the graph.
    """

    measure: CostName
    scalarised: bool
    graph: Graph

    @classmethod
    def of(cls, graph: Graph, scalarised: bool, measure: CostName) -> "ArraysPart":
        """A part that is not searched yet."""
        problem = Problem.of(graph, measure)
        return cls(problem, Search(problem), measure, scalarised, graph)

    @property
    def form(self) -> str:
        """What tells the form of the graph in the names of contenders."""
        return ", small arrays apart" if self.scalarised else ""

    def recall(self, entry: StoredOrder | None) -> None:
        """Takes over the bound of a stored order, if its groups prove it."""
        if entry is None or not entry.groups or entry.entries != self.scalarised:
            return
        first = self.graph.program.first_computed
        bound = stored_bound(self.problem, entry, first)
        if bound is not None:
            groups = (tuple(vertex + first for vertex in group) for group in entry.groups)
            self.search.prove(bound, groups)

    @property
    def proven(self) -> tuple[int | None, list[tuple[int, ...]]]:
        """What every plan costs at least, and the groups that prove it, numbered as in plans."""
        search = self.search
        if not self.problem.is_exact and not search.groups:
            # A plan may cost less than its order: what was searched says nothing of it.
            return self.problem.bound or None, []
        first = self.graph.program.first_computed
        groups = [tuple(vertex - first for vertex in group) for group in search.groups]
        return search.bound or None, groups

    def searched_plan(self) -> Plan:
        """The plan of the best order that was found."""
        first = self.graph.program.first_computed
        order = moved(self.problem.full(self.search.best or ()), first, inwards=False)
        return self.plan(tuple(order)).of(source="searched")

    def plan(self, order: str | tuple[Item, ...]) -> Plan:
        """The plan of an order, by name or as vertices numbered as in `Plan.order`."""
        return plans.make(self.graph, order).of(scalarised=self.scalarised)


@dataclass(eq=False)
class ScalarsPart(Part):
    """The search of the graph of scalars, by what native code computes.

    Attributes:
        edges: the graph.
    """

    edges: Edges

    @classmethod
    def of(cls, edges: Edges) -> "ScalarsPart":
        """A part that is not searched yet."""
        problem = NativeProblem(edges)
        return cls(problem, Search(problem), edges)


class Outcome(NamedTuple):
    """What a search on an executor has come to; see `Search` for its attributes."""

    improvements: list[Improvement]
    bound: int
    groups: tuple[tuple[int, ...], ...]
    evaluations: int


def _searched(problem: Problem, budget: Budget, seed: int, strategy: str) -> Outcome:
    # Where an executor runs threads, each needs tables of its own to fill.
    problem = pickle.loads(pickle.dumps(problem))
    search = Search(problem, budget, seed, strategy=strategy)
    _search(search, strategy)
    return Outcome(search.improvements, search.bound, search.groups, search.evaluations)


def _search(state: Search, strategy: str) -> None:
    if isinstance(state.problem, NativeProblem):
        natively.search(state, strategy)
    else:
        named(strategy)(state)
