"""A graph made ready for searching: reduced, bounded, and with compiled loops over its orders."""

from collections.abc import Iterator, Sequence
from typing import Any

from jax_cce.algebra.blocks import OperatorPiece, Piece
from jax_cce.eliminations import Item, has_edges, items_of, vertices_of
from jax_cce.graph.building import Graph
from jax_cce.orders.block_table import PricedBlocks, UnitBlocks
from jax_cce.orders.skeleton import Skeleton, skeleton
from jax_cce_search.game import reductions
from jax_cce_search.game.bounds import paths_of, single_bounds
from jax_cce_search.game.cancelling import may_cancel
from jax_cce_search.game.compiled import MOST_COMPILED, Compiled
from jax_cce_search.game.groups import Groups

__all__ = [
    "Problem",
]


class Problem:
    """The search for an elimination order of one graph in one measure of cost.

    Before anything is searched the graph is reduced without loss: what every best order may begin
    with is eliminated (see `reductions`). Orders are sequences of the vertices that are left.

    Attributes:
        graph: the graph as it was given.
        reduced: the graph that is left to search.
        prefix: the vertices eliminated by the reduction, and `prefix_cost` what that cost.
        vertices: the vertices that are left, ascending.
        uniform: whether every product costs one and every sum nothing, as in a graph of scalars
            counted in multiplications; no edge vanishes there.
        is_exact: whether an order costs exactly what its plan counts. A plan may cost less where
            it carries out shared steps once, or where an edge vanishes because the same coefficient
            is subtracted from itself; then nothing that a search proves holds for plans.
        least: for each vertex in `vertices` what eliminating it costs at least, in any order.
        bound: what every order costs at least, the prefix included. Groups may raise it.
        paths: the paths that bounds may count; None where there are no bounds.
    """

    def __init__(self, graph: Skeleton) -> None:
        self.graph = graph
        self.is_exact = _is_exact(graph)
        self.uniform = self.is_exact and _is_uniform(graph)
        if self.uniform:
            graph = graph.copy(UnitBlocks())
        self.reduced, self.prefix, self.prefix_cost = reductions.reduce(graph, self.uniform)
        self.vertices = tuple(v for v in graph.vertices if v not in set(self.prefix))
        self.paths = paths_of(self.reduced, self.vertices)
        bounds = {} if self.paths is None else single_bounds(self.paths)
        self.least = tuple(bounds[v][0] if v in bounds else 0 for v in self.vertices)
        self.bound = self.prefix_cost + sum(self.least)
        self._compiled: Compiled | None = None
        self._groups: Groups | None = None

    @classmethod
    def of(cls, graph: Graph, cost: str) -> "Problem":
        """The problem of a graph of blocks in a named measure (see `jax_cce.Plan.cost`)."""
        return cls(skeleton(graph, cost))

    @property
    def measure(self) -> str:
        """What orders are priced in: a measure of `jax_cce.Plan.cost`, or "native"."""
        algebra = self.graph.algebra
        return algebra.cost if isinstance(algebra, PricedBlocks) else "multiplications"

    @property
    def compiled(self) -> Compiled:
        """The compiled loops over this graph.

        Raises:
            MemoryError: for a graph of more than `MOST_COMPILED` nodes.
        """
        if self._compiled is None:
            self._compiled = Compiled(self.reduced, self.uniform, self.prefix_cost)
        return self._compiled

    @property
    def groups(self) -> Groups | None:
        """The bounds of groups of vertices; None where there are no bounds."""
        if self._groups is None and self.paths is not None:
            self._groups = Groups(self.paths)
        return self._groups

    @property
    def is_compilable(self) -> bool:
        """Whether the graph is small enough for the compiled loops."""
        return len(self.reduced.successors) <= MOST_COMPILED

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_compiled": None, "_groups": None}

    def full(self, order: Sequence[Item]) -> tuple[Item, ...]:
        """An order of all vertices, from one of those that are left."""
        return (*self.prefix, *items_of(order))

    def evaluate(self, order: Sequence[Item]) -> int:
        """What an order of the vertices that are left costs, the prefix included."""
        if self._compiled is not None and not has_edges(order):
            return int(self._compiled.evaluate([vertices_of(order)])[0])
        # For a few orders compiling is not worth its seconds.
        return self.prefix_cost + self.reduced.evaluate(order)


def _is_exact(graph: Skeleton) -> bool:
    algebra = graph.algebra
    if not isinstance(algebra, PricedBlocks):
        return True
    counted = algebra.cost in ("multiplications", "nonunit_multiplications")
    return counted and all(isinstance(p, Piece) for p in _pieces(graph)) and not may_cancel(graph)


def _is_uniform(graph: Skeleton) -> bool:
    """Whether every product costs one and every sum nothing."""
    algebra = graph.algebra
    if not isinstance(algebra, PricedBlocks):
        return True
    if algebra.cost != "multiplications" or any(size != 1 for size in graph.sizes.values()):
        return False
    terms = [piece.term for piece in _pieces(graph) if isinstance(piece, Piece)]
    return not any(term.layout or term.lookups for term in terms)


def _pieces(graph: Skeleton) -> Iterator[Piece | OperatorPiece]:
    """The pieces of all blocks on edges."""
    assert isinstance(graph.algebra, PricedBlocks)
    for kind in {kind for to in graph.successors.values() for kind in to.values()}:
        yield from graph.algebra.structures.block(kind)
