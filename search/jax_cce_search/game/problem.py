"""A graph made ready for searching: reduced, numbered, and with compiled loops over its orders."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from jax_cce.algebra.blocks import OperatorPiece, Piece
from jax_cce.graph.building import Graph
from jax_cce.orders.block_table import PricedBlocks, UnitBlocks
from jax_cce.orders.skeleton import Skeleton, skeleton
from jax_cce_search.game import kernels, reductions
from jax_cce_search.game.bounds import may_cancel, vertex_bounds
from jax_cce_search.game.state import (
    FINAL,
    GROW,
    NOTHING,
    PRODUCT,
    State,
    Tables,
    enter,
    entry_name,
    undo,
)

__all__ = [
    "MOST_COMPILED",
    "Problem",
]

# Beyond that many nodes the matrix of a graph is too large; sparse strategies go on.
MOST_COMPILED = 3000
_HUGE = np.int64(1) << 62


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
        bound: what every order costs at least, the prefix included.
    """

    def __init__(self, graph: Skeleton) -> None:
        self.graph = graph
        self.is_exact = _is_exact(graph)
        self.uniform = self.is_exact and _is_uniform(graph)
        if self.uniform:
            graph = graph.copy(UnitBlocks())
        self.reduced, self.prefix, self.prefix_cost = reductions.reduce(graph, self.uniform)
        self.vertices = tuple(v for v in graph.vertices if v not in set(self.prefix))
        # What holds in the whole graph holds in every state of its elimination.
        bounds = vertex_bounds(self.graph)
        self.least = tuple(bounds.get(vertex, 0) for vertex in self.vertices)
        self.bound = self.prefix_cost + sum(self.least)
        self._compiled: Compiled | None = None

    @classmethod
    def of(cls, graph: Graph, cost: str) -> "Problem":
        """The problem of a graph of blocks in a named measure (see `jax_cce.Plan.cost`)."""
        return cls(skeleton(graph, cost))

    @property
    def compiled(self) -> "Compiled":
        """The compiled loops over this graph.

        Raises:
            MemoryError: for a graph of more than `MOST_COMPILED` nodes.
        """
        if self._compiled is None:
            self._compiled = Compiled(self)
        return self._compiled

    @property
    def is_compilable(self) -> bool:
        """Whether the graph is small enough for the compiled loops."""
        return len(self.reduced.successors) <= MOST_COMPILED

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_compiled": None}

    def full(self, order: Sequence[int]) -> tuple[int, ...]:
        """An order of all vertices, from one of those that are left."""
        return (*self.prefix, *map(int, order))

    def evaluate(self, order: Sequence[int]) -> int:
        """What an order of the vertices that are left costs, the prefix included."""
        if self._compiled is not None:
            return int(self._compiled.evaluate([order])[0])
        # For a few orders compiling is not worth its seconds.
        return self.prefix_cost + self.reduced.evaluate(order)


class Compiled:
    """The arrays that the compiled loops work on, and the calls to them."""

    def __init__(self, problem: Problem) -> None:
        graph = problem.reduced
        nodes = sorted(graph.successors)
        if len(nodes) > MOST_COMPILED:
            raise MemoryError(
                f"A graph of {len(nodes)} nodes is too large for this strategy, which holds the "
                f"graph as a matrix and takes at most {MOST_COMPILED}. The strategies 'forward', "
                "'reverse' and 'markowitz' take graphs of any size."
            )
        self.problem = problem
        self.number = {node: k for k, node in enumerate(nodes)}
        self.nodes = np.array(nodes, np.int64)
        self.algebra = UnitBlocks() if problem.uniform else graph.algebra
        self.tables = Tables(
            np.zeros(1 << 10, np.int64),
            np.zeros(1 << 10, np.int32),
            np.zeros(1 << 10, np.int64),
            np.full(1 << 6, -1, np.int64),
        )
        self._entered = 0
        count = len(nodes)
        words = (count + 63) // 64
        is_output = np.array([node in graph.outputs for node in nodes], np.bool_)
        results = [
            (self.number[source], self.number[target])
            for source in graph.inputs
            for target in graph.outputs
            if source in self.number and source != target
        ]
        self.state = State(
            np.zeros((count, count), np.int32),
            np.zeros((count, words), np.uint64),
            np.zeros((count, words), np.uint64),
            np.zeros((1 << 14, 3), np.int32),
            np.zeros(1, np.int64),
            np.zeros(1, np.uint64),
            not problem.uniform,
            is_output,
            np.array(results, np.int32).reshape(-1, 2),
            np.zeros(count, np.int32),
            np.zeros(count, np.int32),
        )
        for source, to in graph.successors.items():
            i = self.number[source]
            for target, kind in to.items():
                j = self.number[target]
                self.state.kind[i, j] = 1 if problem.uniform else kind
                self.state.after[i, j >> 6] |= np.uint64(1 << (j & 63))
                self.state.before[j, i >> 6] |= np.uint64(1 << (i & 63))
        self.missing = np.zeros(3, np.int64)

    def numbered(self, order: Iterable[int]) -> np.ndarray:
        """Vertices as the compiled loops number them: int32 [vertices]."""
        return np.array([self.number[vertex] for vertex in order], np.int32)

    def named(self, order: np.ndarray) -> tuple[int, ...]:
        """Vertices as the graph numbers them."""
        return tuple(self.nodes[order].tolist())

    def run(self, kernel: Callable[..., Any], *args: Any) -> Any:
        """Calls a kernel with the graph and the tables, again until no entry is missing."""
        while True:
            result = kernel(self.state, self.tables, *args, self.missing)
            if self.missing[0] == NOTHING:
                return result
            self.supply()

    def supply(self) -> None:
        """Enters what a kernel found missing."""
        what, one, other = map(int, self.missing)
        if what == GROW:
            log = self.state.log
            self.state = self.state._replace(log=np.concatenate([log, np.zeros_like(log)]))
            return
        if what == FINAL:
            if one >= len(self.tables.final_cost):
                more = np.full(one, -1, np.int64)
                costs = np.concatenate([self.tables.final_cost, more])
                self.tables = self.tables._replace(final_cost=costs)
            self.tables.final_cost[one] = self.algebra.final(one)
            return
        combine = self.algebra.product if what == PRODUCT else self.algebra.total
        kind, cost = combine(one, other)
        self._entered += 1
        if 2 * self._entered > len(self.tables.names):
            self._make_room()
        enter(self.tables, entry_name(what, one, other), kind, cost)

    def reset(self) -> None:
        """Takes back whatever is eliminated, as a search that was interrupted may have left it."""
        undo(self.state, 0)

    def advance(self, order: np.ndarray) -> None:
        """Eliminates vertices, numbered as here, from the beginning on."""
        self.run(_replayed, order)

    def evaluate(self, orders: Sequence[Sequence[int]]) -> np.ndarray:
        """What each of some orders costs, the prefix included: int64 [orders].

        Args:
            orders: permutations of the vertices that are left.
        """
        rows = np.array([self.numbered(order) for order in orders], np.int32)
        return self.evaluate_numbered(rows.reshape(len(orders), -1))

    def evaluate_numbered(self, orders: np.ndarray) -> np.ndarray:
        """The same for int32 [orders, vertices] in the numbering of the compiled loops."""
        self.reset()
        costs = np.zeros(len(orders), np.int64)
        done = 0
        while done < len(orders):
            done = kernels.evaluate(self.state, self.tables, orders, costs, done, self.missing)
            if self.missing[0] != NOTHING:
                self.supply()
        return costs + self.problem.prefix_cost

    def _make_room(self) -> None:
        old = self.tables
        size = 2 * len(old.names)
        self.tables = Tables(
            np.zeros(size, np.int64), np.zeros(size, np.int32), np.zeros(size, np.int64), old[-1]
        )
        for at in np.flatnonzero(old.names):
            enter(self.tables, old.names[at], old.kind[at], old.cost[at])


def _replayed(state: State, tables: Tables, order: np.ndarray, missing: np.ndarray) -> None:
    # What was begun before an entry was missing is taken back.
    undo(state, 0)
    kernels.replay(state, tables, order, missing)


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
