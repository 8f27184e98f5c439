"""Vertex elimination on a graph of blocks.

Eliminating v composes every incoming block with every outgoing one and adds the product to the
block between their ends; when only inputs and outputs are left, their blocks are the Jacobian.
A vertex that is also an output keeps its incoming edges.

Source: Griewank & Reese, "On the calculation of Jacobian matrices by the Markowitz rule" (1991).
"""

from jax_cce.algebra.blocks import Block, Piece
from jax_cce.algebra.recorder import Recorder
from jax_cce.graph.building import Graph

__all__ = [
    "Elimination",
]


class Elimination:
    """The state of a graph while its vertices are eliminated, and the recorder of how.

    Attributes:
        graph: the graph as it was.
        recorder: the steps so far.
        order: the vertices eliminated so far.
    """

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.recorder: Recorder = graph.recorder.fork()
        self.order: list[int] = []
        self._jacobian: dict[tuple[int, int], tuple[Piece, ...]] | None = None
        self._outputs = {name for name in graph.outputs if isinstance(name, int)}
        self._successors = {name: dict(to) for name, to in graph.successors.items()}
        self._predecessors: dict[int, dict[int, None]] = {name: {} for name in graph.successors}
        for name, to in graph.successors.items():
            for target in to:
                self._predecessors[target][name] = None

    def eliminate(self, vertex: int) -> None:
        """Eliminates a vertex."""
        shapes, middle = self.graph.shapes, self.graph.shapes[vertex]
        self.recorder.vertex = vertex - self.graph.program.first_computed
        self.order.append(vertex)
        outgoing, self._successors[vertex] = self._successors[vertex], {}
        for target in outgoing:
            del self._predecessors[target][vertex]
        for source in list(self._predecessors[vertex]):
            to = self._successors[source]
            for target, later in outgoing.items():
                out_shape, in_shape = shapes[target], shapes[source]
                product = self.recorder.compose(later, to[vertex], (out_shape, middle, in_shape))
                total = self.recorder.add(to.get(target, ()), product, out_shape, in_shape)
                if total:
                    to[target] = total
                    self._predecessors[target][source] = None
                elif target in to:
                    del to[target], self._predecessors[target][source]
            if vertex not in self._outputs:
                del to[vertex]
        if vertex not in self._outputs:
            self._predecessors[vertex] = {}

    def jacobian(self) -> dict[tuple[int, int], tuple[Piece, ...]]:
        """The blocks (output position, input position) that are not zero, as terms.

        On a recorder that is not sparse each is one dense piece.
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
        return self._successors[name].get(output, ())
