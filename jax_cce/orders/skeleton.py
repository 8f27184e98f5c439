"""Graphs reduced to what decides the cost of an order: the kind of block on every edge.

What an elimination costs depends on the static structure of the blocks that it composes and adds,
and few different structures occur in one graph. `BlockTable` numbers them and tabulates their
products and sums, each carried out once by the recorder that will carry it out in earnest. On a
`Skeleton`, a graph whose edges hold such numbers, an order is evaluated without touching a block.
"""

import contextlib
import heapq
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence

from jax_cce.eliminations import EdgeElimination, Item
from jax_cce.graph.building import Graph
from jax_cce.graph.elimination import GraphState
from jax_cce.orders.block_table import (
    ABSENT,
    Algebra,
    BlockTable,
    ExhaustedError,
    PricedBlocks,
    UnitBlocks,
)

__all__ = [
    "Skeleton",
    "skeleton",
]

# Greedy searches ask for a degree in some microseconds.
_MOST_DEGREES = 200_000


class Skeleton(GraphState[int]):
    """A graph of kinds, and the state of its elimination.

    Attributes:
        vertices: the vertices that are to be eliminated, ascending.
        inputs: the nodes that are differentiated with respect to.
        outputs: the nodes that are differentiated; one that is a vertex keeps its incoming edges.
        sizes: for each node the number of its entries.
        successors: for each node u the kind of every edge u -> v.
        predecessors: for each node v the nodes with an edge to it.
        algebra: products and sums of kinds.
    """

    def __init__(
        self,
        vertices: Iterable[int],
        inputs: Iterable[int],
        outputs: Iterable[int],
        sizes: Mapping[int, int],
        successors: Mapping[int, Mapping[int, int]],
        algebra: Algebra,
    ) -> None:
        super().__init__(successors, frozenset(outputs))
        self.vertices = tuple(vertices)
        self.inputs = tuple(inputs)
        self.sizes = sizes
        self.algebra = algebra
        self._paid = 0

    @classmethod
    def from_edges(
        cls,
        edges: Iterable[tuple[int, int]],
        inputs: Iterable[int],
        outputs: Iterable[int],
    ) -> "Skeleton":
        """The skeleton of a graph of scalars, without any further structure.

        Args:
            edges: pairs u -> v of nodes; the graph must have no cycle.
            inputs: nodes without predecessors.
            outputs: any nodes. A node that has successors and is no input is a vertex.
        """
        edges, inputs = list(edges), tuple(inputs)
        nodes = {*inputs, *outputs, *(node for edge in edges for node in edge)}
        successors: dict[int, dict[int, int]] = {node: {} for node in sorted(nodes)}
        for source, target in edges:
            successors[source][target] = 1
        vertices = [n for n in successors if successors[n] and n not in inputs]
        sizes = dict.fromkeys(nodes, 1)
        return cls(vertices, inputs, outputs, sizes, successors, UnitBlocks())

    def copy(self, algebra: Algebra | None = None) -> "Skeleton":
        """The same state, to be changed on its own.

        Args:
            algebra: the same products and sums in another measure (see `priced`).
        """
        algebra = algebra or self.algebra
        return Skeleton(
            self.vertices, self.inputs, self.outputs, self.sizes, self.successors, algebra
        )

    def priced(self, cost: str) -> "Skeleton":
        """The same state in another measure; a graph without structure has but one."""
        if not isinstance(self.algebra, PricedBlocks):
            return self.copy()
        return self.copy(PricedBlocks(self.algebra.structures, cost))

    @contextlib.contextmanager
    def limited(self, least: int, share: float) -> Iterator[None]:
        """A block that is left when it has carried out too many products of terms.

        Args:
            least: how many it may in any case.
            share: how many for each that was carried out before.
        """
        if not isinstance(self.algebra, PricedBlocks):
            yield
            return
        structures = self.algebra.structures
        structures.most_work = structures.work + max(least, share * structures.work)
        # A vertex with very many neighbours has the degrees of all of them changed.
        structures.most_degrees = structures.degrees + _MOST_DEGREES
        with contextlib.suppress(ExhaustedError):
            yield
        structures.most_work = structures.most_degrees = math.inf

    def degree(self, vertex: int) -> int:
        """What the products of eliminating the vertex now would cost."""
        product, successors = self.algebra.product, self.successors
        if isinstance(self.algebra, UnitBlocks):
            return len(self.predecessors[vertex]) * len(successors[vertex])
        if isinstance(self.algebra, PricedBlocks):
            structures = self.algebra.structures
            structures.degrees += 1
            if structures.degrees > structures.most_degrees:
                raise ExhaustedError
        incoming = Counter([successors[node][vertex] for node in self.predecessors[vertex]])
        outgoing = Counter(successors[vertex].values())
        return sum(
            product(later, earlier)[1] * many * often
            for earlier, many in incoming.items()
            for later, often in outgoing.items()
        )

    def fill(self, vertex: int) -> int:
        """How many edges eliminating the vertex now would add."""
        outgoing = self.successors[vertex]
        return sum(
            len(outgoing) - len(outgoing.keys() & self.successors[source].keys())
            for source in self.predecessors[vertex]
        )

    def joined(self, old: int | None, later: int, earlier: int, ends: tuple[int, int, int]) -> int:
        """Looks products and sums up, and pays for them."""
        kind, price = self.algebra.product(later, earlier)
        self._paid += price
        if not old or kind == ABSENT:
            return old or kind
        kind, price = self.algebra.total(old, kind)
        self._paid += price
        return kind

    def eliminate(self, vertex: int) -> int:
        """Eliminates a vertex, and returns what its products and sums cost."""
        if isinstance(self.algebra, UnitBlocks):
            return self._update_alike(vertex)
        self._paid = 0
        self.update(vertex)
        return self._paid

    def _update_alike(self, vertex: int) -> int:
        """`update` where all edges are alike: whole sets of them at a time."""
        outgoing, self.successors[vertex] = self.successors[vertex], {}
        sources, keeps = self.predecessors[vertex], vertex in self.outputs
        for source in sources:
            to = self.successors[source]
            to.update(outgoing)
            if not keeps:
                del to[vertex]
        for target in outgoing:
            before = self.predecessors[target]
            del before[vertex]
            before.update(sources)
        if not keeps:
            self.predecessors[vertex] = {}
        return len(sources) * len(outgoing)

    def eliminate_edge(self, item: EdgeElimination) -> int:
        """Eliminates an edge to which there is no obstacle, and returns what that costs."""
        self._paid = 0
        self.update_edge(item)
        return self._paid

    def remainder(self) -> int:
        """What is left to pay when all vertices have been eliminated."""
        return sum(
            self.algebra.final(kind)
            for source in self.inputs
            for target, kind in self.successors.get(source, {}).items()
            if target in self.outputs
        )

    def evaluate(self, order: Sequence[Item]) -> int:
        """The cost of eliminating in an order; the state is left as it is."""
        *_, cost = self.payments(order)
        return cost

    def payments(self, order: Sequence[Item]) -> Iterator[int]:
        """What eliminating in an order has cost after each item, and in the end."""
        state, paid = self.copy(), 0
        for item in order:
            if isinstance(item, EdgeElimination):
                paid += state.eliminate_edge(item)
            else:
                paid += state.eliminate(item)
            yield paid
        yield paid + state.remainder()

    def cheapest(self, orders: Iterable[tuple[int, ...]]) -> tuple[tuple[int, ...], int]:
        """The cheapest of some orders, the first one at a tie, and its cost.

        The others are followed as far as they are no more expensive, and no further.
        """
        running = [(0, k, order, self.payments(order)) for k, order in enumerate(orders)]
        while True:
            paid, k, order, payments = heapq.heappop(running)
            further = next(payments, None)
            if further is None:
                return order, paid
            heapq.heappush(running, (further, k, order, payments))


def skeleton(graph: Graph, cost: str) -> Skeleton:
    """The skeleton of a graph, for evaluating orders in a named measure.

    Raises:
        ValueError: for an unknown measure.
    """
    priced = PricedBlocks(BlockTable(sparse=graph.recorder.sparse), cost)
    shapes = graph.shapes
    successors = {
        source: {
            target: priced.structures.intern(block, shapes[target], shapes[source])
            for target, block in to.items()
        }
        for source, to in graph.successors.items()
    }
    sizes = {node: math.prod(shape) for node, shape in shapes.items()}
    outputs = [name for name in graph.outputs if isinstance(name, int) and name in shapes]
    inputs = [name for name in graph.inputs if name in shapes]
    return Skeleton(graph.vertices, inputs, outputs, sizes, successors, priced)
