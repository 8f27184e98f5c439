"""Graphs reduced to what decides the cost of an order: the kind of block on every edge.

What an elimination costs depends on the static structure of the blocks that it composes and adds,
and few different structures occur in one graph. `Structures` numbers them and tabulates their
products and sums, each carried out once by the tape that will carry it out in earnest. On a
`Skeleton`, a graph whose edges hold such numbers, an order is evaluated without touching a block.
"""

import dataclasses
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

from jax_cce import costs
from jax_cce.blocks import Block, Operator, OperatorPiece, Piece, Tape
from jax_cce.costs import Cost
from jax_cce.graph import Graph

__all__ = ["ABSENT", "Algebra", "Kinds", "Skeleton", "Structures", "UnitKinds", "skeleton"]

# The kind of an edge that is not there.
ABSENT = 0
# With more kinds than that, static factors are told apart by their sign and being one only.
_MOST_EXACT = 256
# Names of coefficients of the operands; those of index arrays, which lie above, keep their own.
_FIRST, _SECOND, _KEPT = 1 << 40, 1 << 41, 1 << 42


class Algebra(Protocol):
    """Products and sums of kinds, with their cost."""

    def product(self, later: int, earlier: int) -> tuple[int, int]:
        """The kind of a product, or `ABSENT` for a structural zero, and what it costs."""

    def total(self, one: int, other: int) -> tuple[int, int]:
        """The kind of a sum, or `ABSENT` for a structural zero, and what it costs."""

    def final(self, kind: int) -> int:
        """What it costs to bring a block of the Jacobian into the form that is returned."""


class UnitKinds:
    """The algebra of scalar graphs as the literature counts them: every product costs one."""

    def product(self, later: int, earlier: int) -> tuple[int, int]:
        """One multiplication."""
        return 1, 1

    def total(self, one: int, other: int) -> tuple[int, int]:
        """Additions are free."""
        return 1, 0

    def final(self, kind: int) -> int:
        """Nothing is left to do."""
        return 0


class Structures:
    """The block structures of a graph by number, with tables of their products and sums.

    Blocks of one kind have the same terms, static factors and shapes, and differ in their
    coefficients only. Steps that a tape would share between two products are counted twice.
    """

    def __init__(self, *, sparse: bool) -> None:
        self._sparse = sparse
        self._blocks: list[tuple[Block, tuple[int, ...], tuple[int, ...]]] = [((), (), ())]
        self._number: dict[object, int] = {}
        self._products: dict[tuple[int, int], tuple[int, Cost]] = {}
        self._totals: dict[tuple[int, int], tuple[int, Cost]] = {}
        self._finals: dict[int, Cost] = {ABSENT: Cost()}
        # An index array that is computed again has the same name again.
        self._memory = Tape(sparse=sparse, reserved=_KEPT)

    def __len__(self) -> int:
        return len(self._blocks)

    def intern(self, block: Block, out_shape: tuple[int, ...], in_shape: tuple[int, ...]) -> int:
        """The kind of a block."""
        if not block:
            return ABSENT
        exact = len(self._blocks) < _MOST_EXACT
        name = _described(block, exact), out_shape, in_shape
        kind = self._number.get(name)
        if kind is None:
            kind = self._number[name] = len(self._blocks)
            self._blocks.append((block, out_shape, in_shape))
        return kind

    def block(self, kind: int) -> Block:
        """The first block that was seen of a kind."""
        return self._blocks[kind][0]

    def shapes(self, kind: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """The shapes of the later and the earlier variable of a kind's blocks."""
        return self._blocks[kind][1:]

    def product(self, later: int, earlier: int) -> tuple[int, Cost]:
        """The kind of a product and what it costs."""
        found = self._products.get((later, earlier))
        if found is None:
            one, out_shape, middle = self._blocks[later]
            other, _, in_shape = self._blocks[earlier]
            tape = self._tape()
            shapes = out_shape, middle, in_shape
            block = tape.compose(_named(one, _FIRST), _named(other, _SECOND), shapes)
            found = self.intern(block, out_shape, in_shape), tape.cost
            self._products[later, earlier] = found
        return found

    def total(self, one: int, other: int) -> tuple[int, Cost]:
        """The kind of a sum and what it costs."""
        found = self._totals.get((one, other))
        if found is None:
            first, out_shape, in_shape = self._blocks[one]
            second = _named(self._blocks[other][0], _SECOND)
            tape = self._tape()
            block = tape.add(_named(first, _FIRST), second, out_shape, in_shape)
            found = self.intern(block, out_shape, in_shape), tape.cost
            self._totals[one, other] = found
        return found

    def final(self, kind: int) -> Cost:
        """What it costs to bring a block of the Jacobian into the form that is returned."""
        if kind not in self._finals:
            block, out_shape, in_shape = self._blocks[kind]
            tape = self._tape()
            terms = tape.explicit(_named(block, _FIRST), out_shape, in_shape)
            if terms and not self._sparse:
                tape.densify(terms, out_shape, in_shape)
            self._finals[kind] = tape.cost
        return self._finals[kind]

    def __getstate__(self) -> dict[str, Any]:
        # What an operator computes cannot be sent to another process, nor is it needed there.
        inert: dict[int, Operator] = {}

        def stripped(block: Block) -> Block:
            return tuple(
                piece
                if isinstance(piece, Piece)
                else piece._replace(
                    operator=inert.setdefault(id(piece.operator), _inert(piece.operator))
                )
                for piece in block
            )

        blocks = [(stripped(block), *shapes) for block, *shapes in self._blocks]
        return self.__dict__ | {"_blocks": blocks, "_number": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._number = {
            (_described(block, True), *shapes): kind
            for kind, (block, *shapes) in enumerate(self._blocks)
            if block
        }

    def _tape(self) -> Tape:
        self._memory = self._memory.without_blocks()
        return self._memory


class Kinds:
    """The algebra of block structures, priced in one measure.

    Attributes:
        structures: the structures.
        cost: the name of the measure.
        products: the products asked for so far, each a kind and what it costs, by the two kinds.
        totals: the same for sums.
    """

    def __init__(self, structures: Structures, cost: str) -> None:
        self.structures = structures
        self.cost = costs.check(cost)
        self.products: dict[tuple[int, int], tuple[int, int]] = {}
        self.totals: dict[tuple[int, int], tuple[int, int]] = {}

    def product(self, later: int, earlier: int) -> tuple[int, int]:
        """The kind of a product, or `ABSENT` for a structural zero, and what it costs."""
        found = self.products.get((later, earlier))
        if found is None:
            kind, cost = self.structures.product(later, earlier)
            found = self.products[later, earlier] = kind, costs.measure(self.cost, cost)
        return found

    def total(self, one: int, other: int) -> tuple[int, int]:
        """The kind of a sum, or `ABSENT` for a structural zero, and what it costs."""
        found = self.totals.get((one, other))
        if found is None:
            kind, cost = self.structures.total(one, other)
            found = self.totals[one, other] = kind, costs.measure(self.cost, cost)
        return found

    def final(self, kind: int) -> int:
        """What it costs to bring a block of the Jacobian into the form that is returned."""
        return costs.measure(self.cost, self.structures.final(kind))


def _inert(operator: Operator) -> Operator:
    """An operator of the same shapes and cost that cannot be applied."""
    return dataclasses.replace(
        operator,
        jvp=None if operator.jvp is None else _not_here,
        vjp=None if operator.vjp is None else _not_here,
    )


def _not_here(*_: Any) -> Any:
    raise RuntimeError("This operator was sent to another process to be priced, not applied.")


def _described(block: Block, exact: bool) -> object:
    """What decides the cost of products and sums with a block: its pieces, in any order."""
    pieces = [_description(piece, exact) for piece in block]
    return pieces[0] if len(pieces) == 1 else frozenset(Counter(pieces).items())


def _description(piece: Piece | OperatorPiece, exact: bool) -> tuple[object, ...]:
    if isinstance(piece, OperatorPiece):
        return id(piece.operator), piece.site, piece.operand, piece.output
    scale = piece.scale
    if scale not in (1, -1) and not exact:
        scale = 2
    return piece.term, scale, piece.slot is None


def _named(block: Block, first: int) -> Block:
    """The block with names of its own for its coefficients."""
    return tuple(
        piece._replace(slot=first + index)
        if isinstance(piece, Piece) and piece.slot is not None
        else piece
        for index, piece in enumerate(block)
    )


class Skeleton:
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
        self.vertices = tuple(vertices)
        self.inputs = tuple(inputs)
        self.outputs = frozenset(outputs)
        self.sizes = sizes
        self.algebra = algebra
        self.successors = {node: dict(to) for node, to in successors.items()}
        self.predecessors: dict[int, dict[int, None]] = {node: {} for node in successors}
        for node, to in self.successors.items():
            for target in to:
                self.predecessors[target][node] = None

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
        return cls(vertices, inputs, outputs, sizes, successors, UnitKinds())

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
        if not isinstance(self.algebra, Kinds):
            return self.copy()
        return self.copy(Kinds(self.algebra.structures, cost))

    def degree(self, vertex: int) -> int:
        """What the products of eliminating the vertex now would cost."""
        product, successors = self.algebra.product, self.successors
        if isinstance(self.algebra, UnitKinds):
            return len(self.predecessors[vertex]) * len(successors[vertex])
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

    def eliminate(self, vertex: int) -> int:
        """Eliminates a vertex, and returns what its products and sums cost."""
        product, total = self.algebra.product, self.algebra.total
        outgoing, self.successors[vertex] = self.successors[vertex], {}
        for target in outgoing:
            del self.predecessors[target][vertex]
        if isinstance(self.algebra, UnitKinds):
            return self._join(vertex, outgoing)
        cost = 0
        for source in self.predecessors[vertex]:
            to = self.successors[source]
            earlier = to[vertex]
            for target, later in outgoing.items():
                kind, paid = product(later, earlier)
                cost += paid
                if target in to:
                    kind, paid = total(to[target], kind) if kind != ABSENT else (to[target], 0)
                    cost += paid
                    if kind == ABSENT:
                        del to[target], self.predecessors[target][source]
                        continue
                if kind != ABSENT:
                    to[target] = kind
                    self.predecessors[target][source] = None
            if vertex not in self.outputs:
                del to[vertex]
        if vertex not in self.outputs:
            self.predecessors[vertex] = {}
        return cost

    def _join(self, vertex: int, outgoing: Mapping[int, int]) -> int:
        """`eliminate` where all edges are alike: whole sets of them at a time."""
        sources = self.predecessors[vertex]
        for source in sources:
            self.successors[source].update(outgoing)
            if vertex not in self.outputs:
                del self.successors[source][vertex]
        for target in outgoing:
            self.predecessors[target].update(sources)
        if vertex not in self.outputs:
            self.predecessors[vertex] = {}
        return len(sources) * len(outgoing)

    def remainder(self) -> int:
        """What is left to pay when all vertices have been eliminated."""
        return sum(
            self.algebra.final(kind)
            for source in self.inputs
            for target, kind in self.successors.get(source, {}).items()
            if target in self.outputs
        )

    def evaluate(self, order: Sequence[int]) -> int:
        """The cost of eliminating in an order; the state is left as it is."""
        state = self.copy()
        return sum(map(state.eliminate, order)) + state.remainder()


def skeleton(graph: Graph, cost: str) -> Skeleton:
    """The skeleton of a graph, for evaluating orders in a named measure.

    Raises:
        ValueError: for an unknown measure.
    """
    kinds = Kinds(Structures(sparse=graph.tape.sparse), cost)
    shapes = graph.shapes
    successors = {
        source: {
            target: kinds.structures.intern(block, shapes[target], shapes[source])
            for target, block in to.items()
        }
        for source, to in graph.successors.items()
    }
    sizes = {node: math.prod(shape) for node, shape in shapes.items()}
    outputs = [name for name in graph.outputs if isinstance(name, int) and name in shapes]
    inputs = [name for name in graph.inputs if name in shapes]
    return Skeleton(graph.vertices, inputs, outputs, sizes, successors, kinds)
