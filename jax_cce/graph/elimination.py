"""Vertex elimination: on any graph whose edges hold values of an algebra, and on blocks.

Eliminating v composes every incoming edge with every outgoing one and adds the product to the
edge between their ends; when only inputs and outputs are left, their edges are the Jacobian. A
vertex that is also an output keeps its incoming edges. Single edges are eliminated by themselves
in the same way, where an order says so (see `jax_cce.eliminations`).

Source: Griewank & Reese, "On the calculation of Jacobian matrices by the Markowitz rule" (1991).
"""

import abc
from collections.abc import Collection, Mapping
from typing import Generic, TypeVar

from jax_cce.algebra.blocks import Block, Piece
from jax_cce.algebra.recorder import Recorder
from jax_cce.eliminations import EdgeElimination, Item
from jax_cce.graph.building import Graph

__all__ = ["Elimination", "GraphState"]

Edge = TypeVar("Edge")


class GraphState(abc.ABC, Generic[Edge]):
    """A graph while its vertices are eliminated; what its edges hold is any algebra's business.

    Attributes:
        successors: for each node u what every edge u -> v holds.
        predecessors: for each node v the nodes with an edge to it.
        outputs: the nodes that are differentiated; one that is a vertex keeps its incoming edges.
    """

    def __init__(
        self, successors: Mapping[int, Mapping[int, Edge]], outputs: Collection[int]
    ) -> None:
        self.outputs = frozenset(outputs)
        self.successors = {node: dict(to) for node, to in successors.items()}
        self.predecessors: dict[int, dict[int, None]] = {node: {} for node in successors}
        for node, to in self.successors.items():
            for target in to:
                self.predecessors[target][node] = None

    @abc.abstractmethod
    def joined(
        self, old: Edge | None, later: Edge, earlier: Edge, ends: tuple[int, int, int]
    ) -> Edge:
        """What an edge holds after an elimination: `old` plus the product of two edges.

        Args:
            old: what it held; None where there was no edge.
            later: what the edge from the eliminated vertex holds.
            earlier: what the edge to it holds.
            ends: the target, the eliminated vertex and the source.

        Returns:
            What it holds now; false where that is a structural zero, and the edge goes.
        """

    def update(self, vertex: int) -> None:
        """Eliminates a vertex."""
        outgoing, self.successors[vertex] = self.successors[vertex], {}
        for target in outgoing:
            del self.predecessors[target][vertex]
        incoming, keeps = self.predecessors[vertex], vertex in self.outputs
        for source in incoming:
            to = self.successors[source]
            earlier = to[vertex]
            for target, later in outgoing.items():
                edge = self.joined(to.get(target), later, earlier, (target, vertex, source))
                if edge:
                    to[target] = edge
                    self.predecessors[target][source] = None
                elif target in to:
                    del to[target], self.predecessors[target][source]
            if not keeps:
                del to[vertex]
        if not keeps:
            self.predecessors[vertex] = {}

    def obstacle_to(self, item: EdgeElimination) -> str:
        """Why an edge cannot be eliminated now; "" where it can."""
        side, source, target = item
        if target not in self.successors.get(source, {}):
            return "there is no such edge then"
        if not self.predecessors[item.vertex] or not self.successors[item.vertex]:
            return "its " + ("target" if side == "front" else "source") + " is no vertex"
        if side == "front" and target in self.outputs:
            return "its target is an output too, so that the edge has to stay"
        return ""

    def update_edge(self, item: EdgeElimination) -> None:
        """Eliminates an edge, to which there is no obstacle."""
        _, source, target = item
        edge = self.successors[source][target]
        if item.side == "front":
            for after, later in tuple(self.successors[target].items()):
                self._lead_past(target, (after, later), (source, edge))
        else:
            for before in tuple(self.predecessors[source]):
                earlier = self.successors[before][source]
                self._lead_past(source, (target, edge), (before, earlier))
        del self.successors[source][target], self.predecessors[target][source]
        # What no path leads through any more would be multiplied for nothing.
        self._prune_from(target)
        self._prune_to(source)

    def _lead_past(
        self, vertex: int, following: tuple[int, Edge], preceding: tuple[int, Edge]
    ) -> None:
        """Adds the product of two edges to the one that leads past the vertex between them."""
        (target, later), (source, earlier) = following, preceding
        to = self.successors[source]
        edge = self.joined(to.get(target), later, earlier, (target, vertex, source))
        if edge:
            to[target] = edge
            self.predecessors[target][source] = None
        elif target in to:
            del to[target], self.predecessors[target][source]

    def _prune_from(self, node: int) -> None:
        """Takes the edges out of a node away where it has none left into it, and so on."""
        if self.predecessors[node]:
            return
        outgoing, self.successors[node] = self.successors[node], {}
        for target in outgoing:
            del self.predecessors[target][node]
            self._prune_from(target)

    def _prune_to(self, node: int) -> None:
        """Takes the edges into a node away where it has none left out of it, and so on."""
        if self.successors[node] or node in self.outputs:
            return
        incoming, self.predecessors[node] = self.predecessors[node], {}
        for source in incoming:
            del self.successors[source][node]
            self._prune_to(source)


class Elimination(GraphState[Block]):
    """The state of a graph of blocks, and the steps by which it came there.

    Attributes:
        graph: the graph as it was.
        recorder: the steps so far.
        order: the vertices, and edges by themselves, eliminated so far.
    """

    def __init__(self, graph: Graph) -> None:
        super().__init__(graph.successors, {k for k in graph.outputs if isinstance(k, int)})
        self.graph = graph
        self.recorder: Recorder = graph.recorder.fork()
        self.order: list[Item] = []
        self._first = frozenset(graph.inputs)
        self._last = self.outputs.difference(graph.vertices)
        self._jacobian: dict[tuple[int, int], tuple[Piece, ...]] | None = None

    def joined(
        self, old: Block | None, later: Block, earlier: Block, ends: tuple[int, int, int]
    ) -> Block:
        """Composes and adds blocks, recording how."""
        self.recorder.of_result = ends[0] in self._last and ends[2] in self._first
        target, middle, source = (self.graph.shapes[name] for name in ends)
        product = self.recorder.compose(later, earlier, (target, middle, source))
        return self.recorder.add(old or (), product, target, source)

    def eliminate(self, item: Item) -> None:
        """Eliminates a vertex, or an edge to which there is no obstacle."""
        self.order.append(item)
        if isinstance(item, EdgeElimination):
            self.recorder.vertex = item.vertex - self.graph.program.first_computed
            self.update_edge(item)
        else:
            self.recorder.vertex = item - self.graph.program.first_computed
            self.update(item)

    def jacobian(self) -> dict[tuple[int, int], tuple[Piece, ...]]:
        """The blocks (output position, input position) that are not zero, as terms.

        Where the recorder is not sparse each is one dense piece.
        """
        if self._jacobian is not None:
            return self._jacobian
        self.recorder.vertex = None
        graph = self.graph
        result = self._jacobian = {}
        for at_output, output in enumerate(graph.outputs):
            if not isinstance(output, int) or output not in graph.shapes:
                continue
            out_shape = graph.shapes[output]
            for at_input, name in enumerate(graph.inputs):
                in_shape = graph.shapes.get(name)
                if in_shape is None:
                    continue
                block = self._block(name, output)
                if block:
                    terms = self.recorder.explicit(block, out_shape, in_shape)
                    if terms and not self.recorder.sparse:
                        terms = self.recorder.densify(terms, out_shape, in_shape)
                    if terms:
                        result[at_output, at_input] = terms
        return result

    def _block(self, name: int, output: int) -> Block:
        if name == output:
            return self.recorder.one(self.graph.shapes[name])
        return self.successors[name].get(output, ())
