"""Optimal vertex elimination as an integer linear program, for small graphs.

One binary number says for each two vertices which is eliminated first; one for each two nodes
whether there is an edge between them before either of them is eliminated; and one for each way
u -> v -> w whether eliminating v multiplies these two edges. Where v comes before u and w, and both
edges are there, it does, and the product is an edge from u to w. The number of products is minimal.
Of each vertex there are at least as many products as there are pairs of disjoint paths through it,
without which the relaxation would say nothing.

Source: the linear ordering problem (Grötschel, Jünger & Reinelt 1984), with variables for the edges
that fill in; arXiv 2605.24280 has integer programs of this kind. HiGHS solves it.
"""

import itertools
from typing import NamedTuple

import numpy as np
from jax_cce_search.game.bounds import vertex_bounds

from jax_cce.orders.skeleton import Skeleton

__all__ = ["Solved", "solve"]


class Solved(NamedTuple):
    """What the solver found.

    Attributes:
        cost: the products of the best order that it found; None for no order.
        bound: what every order of vertices costs at least.
        order: the vertices in the best order; empty for no order.
    """

    cost: int | None
    bound: int
    order: tuple[int, ...]

    @property
    def is_optimal(self) -> bool:
        """Whether the order is proven to be the best one of vertices."""
        return self.cost is not None and self.cost <= self.bound


class _Program:
    """Variables by name, and constraints as rows of (coefficient, variable), at least so much."""

    def __init__(self) -> None:
        self.number: dict[object, int] = {}
        self.rows: list[tuple[list[tuple[int, object]], int]] = []

    def variable(self, name: object) -> object:
        self.number.setdefault(name, len(self.number))
        return name

    def at_least(self, terms: list[tuple[int, object]], bound: int) -> None:
        self.rows.append((terms, bound))


def solve(graph: Skeleton, seconds: float | None = None) -> Solved:
    """Solves the program of a graph of scalars.

    Args:
        graph: the graph; every product costs one, and every sum nothing.
        seconds: how long the solver may take; None for no limit.
    """
    from scipy.optimize import Bounds, LinearConstraint, milp
    from scipy.sparse import csr_array

    program, products = _Program(), []
    # Of a graph that is reduced some are eliminated already.
    vertices = [
        v
        for v in graph.vertices
        if graph.successors[v] or (graph.predecessors[v] and v not in graph.outputs)
    ]
    edges = {(source, target) for source, to in graph.successors.items() for target in to}
    # Outputs that are vertices keep the edges into them: those of a node below, by an edge that
    # multiplies nothing.
    below = {v: -1 - v for v in vertices if v in graph.outputs}
    edges |= set(below.items())
    possible = _paths(edges)
    least = vertex_bounds(graph)

    def first(one: int, other: int) -> list[tuple[int, object]] | None:
        """Terms that add up to one where a vertex comes first; None where it always does."""
        if other not in in_order:
            return None
        if one < other:
            return [(1, ("first", one, other))]
        return [(-1, ("first", other, one))]

    in_order = set(vertices)
    for pair in itertools.combinations(vertices, 2):
        program.variable(("first", *pair))
    for one, two, three in itertools.permutations(vertices, 3):
        # No circle: whatever comes before what comes before a third, comes before that.
        if one < two and one < three:
            terms = [*_of(first(one, two)), *_of(first(two, three)), *_of(first(three, one))]
            program.at_least([(-c, name) for c, name in terms], sum(c < 0 for c, _ in terms) - 2)
    for source, target in possible:
        program.variable(("edge", source, target))
    for vertex in vertices:
        counted = []
        for source, target in itertools.product(
            [u for u, v in possible if v == vertex], [w for v, w in possible if v == vertex]
        ):
            name = program.variable(("product", source, vertex, target))
            terms = [(1, ("edge", source, vertex)), (1, ("edge", vertex, target))]
            missing = 2
            for other in (source, target):
                before = first(vertex, other)
                if before is not None:
                    terms += before
                    missing += 1 - sum(c < 0 for c, _ in before)
            program.at_least([(1, name), *((-c, term) for c, term in terms)], 1 - missing)
            program.at_least([(1, ("edge", source, target)), (-1, name)], 0)
            if target != below.get(vertex):
                counted.append(name)
        products += counted
        program.at_least([(1, name) for name in counted], least[vertex])

    count = len(program.number)
    if not products:
        return Solved(0, 0, tuple(vertices))
    objective = np.zeros(count)
    objective[[program.number[name] for name in products]] = 1
    lower, upper = np.zeros(count), np.ones(count)
    lower[[program.number["edge", source, target] for source, target in edges]] = 1
    entries = [
        (row, program.number[name], c)
        for row, (terms, _) in enumerate(program.rows)
        for c, name in terms
    ]
    rows, columns, values = (np.array(each) for each in zip(*entries, strict=True))
    matrix = csr_array((values.astype(float), (rows, columns)), shape=(len(program.rows), count))
    bounds = np.array([bound for _, bound in program.rows], float)
    options = {} if seconds is None else {"time_limit": seconds}
    found = milp(
        objective,
        integrality=np.ones(count),
        bounds=Bounds(lower, upper),
        constraints=LinearConstraint(matrix, bounds, np.inf),
        options=options,
    )
    proven = found.mip_dual_bound
    bound = 0 if proven is None or not np.isfinite(proven) else int(np.ceil(proven - 1e-6))
    if found.x is None:
        return Solved(None, bound, ())

    def comes_before(vertex: int) -> int:
        """How many vertices come before one."""
        total = 0
        for other in in_order - {vertex}:
            terms = _of(first(other, vertex))
            ((c, name),) = terms
            taken = round(found.x[program.number[name]])
            total += taken if c > 0 else 1 - taken
        return total

    order = tuple(sorted(vertices, key=comes_before))
    return Solved(graph.evaluate(order), bound, order)


def _of(terms: list[tuple[int, object]] | None) -> list[tuple[int, object]]:
    assert terms is not None
    return terms


def _paths(edges: set[tuple[int, int]]) -> set[tuple[int, int]]:
    """The pairs of nodes between which there is a path."""
    ahead: dict[int, set[int]] = {}
    for source, target in edges:
        ahead.setdefault(source, set()).add(target)
    found = set()
    for start in ahead:
        pending = list(ahead[start])
        while pending:
            node = pending.pop()
            if (start, node) not in found:
                found.add((start, node))
                pending += ahead.get(node, ())
    return found
