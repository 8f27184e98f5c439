"""Vertex elimination on scalar graphs, where the operations that are executed are counted.

An edge holds the node of a partial derivative, and eliminating a vertex makes nodes for the
products and sums, folded and shared with all others as they are made. So what an order costs is
known exactly.
"""

import functools
import heapq
import math
import operator
import reprlib
from collections.abc import Callable, Iterable, Mapping, Sequence

from jax_cce.native.directions import swept, vectors_of, width_of
from jax_cce.native.nodes import Unsupported
from jax_cce.native.scalars import SIMPLE, Scalars, TooLarge

__all__ = ["GIVEN", "IN_VECTORS", "ORDERS", "Edges", "Order", "cost", "counts", "price_of"]

# The name of an order, or vertices by their number among all, in the order of the graph.
Order = str | tuple[int, ...]
GIVEN = "given"
ORDERS: tuple[Order, ...] = ("markowitz", "forward", "reverse")
# Of a single point, tangents or adjoints of several directions together.
IN_VECTORS: tuple[Order, ...] = ("forward in vectors", "reverse in vectors")
# Estimated times of operations, in those of an addition (AMD EPYC, 8 lanes: 0.024 ns an
# instruction, 0.09 a division or root, 0.45 a transcendental function).
_DEAR = {"clamp": 2, "div": 4, "sqrt": 4, "rsqrt": 8, "logistic": 24, "integer_pow": 3}
# Vectors of tangents, put together and taken apart, and what loops have left.
_DEAR |= {"keep": 1, "lane": 1, "pack": 4, "result": 0}
_TRANSCENDENTAL = 20
# What an operation on a vector takes more than one on a number: 0.3 to 0.8 in code that is made
# well, 2 to 2.7 in code that is made quickly, which keeps vectors in memory.
_WIDE = 2
# Lines of code that take an entry out of a vector and write it.
_OF_AN_ENTRY = 3
# Minimal Markowitz looks at all pairs of edges at each vertex.
_MOST_BY_DEGREE = 1500
# Forward or reverse elimination is not tried where it has so many times the products of the
# other, or as many as nodes may be made.
_FAR_MORE = 2.5


def cost(graph: Scalars, nodes: Sequence[int]) -> int:
    """What it takes to compute some nodes, in additions."""
    needed = graph.needed(nodes)
    numbers = sum(price_of(graph, k) for k in needed if not graph.is_given(k))
    return numbers + _WIDE * len(vectors_of(graph, needed))


def price_of(graph: Scalars, node: int) -> int:
    """What it takes to compute a node of its operands, in additions."""
    op = graph.ops[node]
    if op == "loop":
        loop = graph.params[node]
        return int(loop.length * cost(loop.body, loop.outputs))
    return 1 if op in SIMPLE else _DEAR.get(op, _TRANSCENDENTAL)


def operations(graph: Scalars, nodes: Sequence[int]) -> int:
    """How many operations it takes to compute some nodes; signs, which cost little, are none."""
    return sum(counts(graph, k) for k in graph.needed(nodes))


def counts(graph: Scalars, node: int) -> int:
    """How many operations a node is of its operands, in the sense of `operations`."""
    return int(not graph.is_given(node) and graph.ops[node] != "neg")


class Edges:
    """The graph whose edges are the partial derivatives of nodes that depend on inputs.

    Args:
        graph: the graph of the nodes.
        inputs: those that are differentiated with respect to.
        outputs: those that are differentiated.
        before: for each node that depends on inputs the nodes that it is made of, with the
            partials; of inputs nothing.

    Attributes:
        graph: see above.
        inputs: see above.
        outputs: see above.
        before: see above; without nodes that no output depends on.
        vertices: the nodes that are to be eliminated, in the order of the graph.
    """

    def __init__(
        self,
        graph: Scalars,
        inputs: Sequence[int],
        outputs: Sequence[int],
        before: Mapping[int, Mapping[int, int]],
    ) -> None:
        self.graph, self.inputs, self.outputs = graph, inputs, outputs
        above = _above(outputs, before).union(inputs)
        self.before = {node: args for node, args in before.items() if node in above}
        inner = set().union(*self.before.values()).difference(inputs)
        self.vertices = [node for node in self.before if node in inner]
        self._cheapest: dict[tuple[Order, ...], tuple[list[list[int]], str]] = {}

    def cheapest(self, orders: Sequence[Order] = ORDERS) -> tuple[list[list[int]], str]:
        """The derivatives in the cheapest of some orders, and its name (see `jacobian`).

        Of a single point, forward and reverse are tried in vectors, too.
        """
        key = tuple(orders)
        if self.graph.together > 1 and set(ORDERS).issubset(orders):
            key += IN_VECTORS
        if key not in self._cheapest:
            self._cheapest[key] = self._cheapest_of(key)
        return self._cheapest[key]

    def _cheapest_of(self, orders: Sequence[Order]) -> tuple[list[list[int]], str]:
        graph, products = self.graph, _products(self, orders)
        limit = most = graph.most
        found = []
        # Each may make as many nodes, or as many as the one before.
        failure = TooLarge(f"it takes more than {limit} operations")
        first_choice = [order for order in orders if order not in (*products, *IN_VECTORS)]
        likely = sorted(products, key=products.__getitem__)
        for order in [*first_choice, *likely]:
            if order == "markowitz" and len(orders) > 1 and len(self.before) > _MOST_BY_DEGREE:
                continue
            if not isinstance(order, str) and len(orders) > 1 and not self._is_order(order):
                continue
            far_more = _FAR_MORE * min(limit, products[likely[0]]) if likely else 0
            if order in products and products[order] > far_more:
                break
            first = len(graph.ops)
            graph.most = first + most
            try:
                rows, _ = self._eliminated(order)
            except TooLarge:
                if order in products:
                    break
                continue
            made = (len(graph.ops) - first) * (1 + _WIDE if order in IN_VECTORS else 1)
            most = min(most, made)
            found.append((self._price(rows), order if isinstance(order, str) else GIVEN, rows))
        graph.most = limit
        if not found:
            raise failure
        _, name, rows = min(found)
        if any(graph.ops[k] == "seed" for k in graph.needed(k for row in rows for k in row)):
            raise Unsupported("a rule for a derivative is not linear")
        return rows, name

    def _swept(self, order: Order) -> list[list[int]]:
        """The derivatives by output and input, of several directions at a time."""
        graph, inputs, before = self.graph, self.inputs, self.before
        if order == "forward in vectors":
            return swept(graph, inputs, self.outputs, before)
        after: dict[int, dict[int, int]] = {node: {} for node in reversed(before)}
        for node, args in before.items():
            for arg, partial in args.items():
                after[arg][node] = partial
        outputs = [node for node in dict.fromkeys(self.outputs) if node in before]
        rows = zip(*swept(graph, outputs, inputs, after), strict=True)
        found = dict(zip(outputs, map(list, rows), strict=True))
        return [found.get(node, [graph.zero] * len(inputs)) for node in self.outputs]

    def derivatives(self, order: Order) -> list[list[int]]:
        """The nodes of the derivatives by output and input, which are made in an order.

        Raises:
            TooLarge: where it makes more nodes than the graph may have.
        """
        return self._eliminated(order)[0]

    def price(self, order: Order) -> int:
        """What it takes to compute the outputs and their derivatives, in additions.

        The graph is left as it was.

        Raises:
            TooLarge: where it makes more nodes than the graph may have.
        """
        with self.graph.for_a_while():
            return self._price(self._eliminated(order)[0])

    def operations(self, order: Order) -> int:
        """How many operations it takes to compute the derivatives, which need not be the outputs.

        The graph is left as it was.

        Raises:
            TooLarge: where it makes more nodes than the graph may have.
        """
        with self.graph.for_a_while():
            rows = self._eliminated(order)[0]
            return operations(self.graph, [node for row in rows for node in row])

    def _price(self, rows: Sequence[Sequence[int]]) -> int:
        return cost(self.graph, [*self.outputs, *(node for row in rows for node in row)])

    def _is_order(self, order: Sequence[int]) -> bool:
        return sorted(order) == list(range(len(self.vertices)))

    def _in_order(self, order: Order) -> list[int]:
        vertices = self.vertices
        if isinstance(order, str):
            return {"forward": vertices, "reverse": vertices[::-1]}[order]
        if not self._is_order(order):
            raise ValueError(
                f"order must name each of the {len(vertices)} vertices of the graph of scalars "
                f"once, from 0 on, but got {reprlib.repr(order)}."
            )
        return [vertices[k] for k in order]

    def numbered(self, order: Order) -> tuple[int, ...]:
        """The vertices in an order, by number.

        Raises:
            TooLarge: where it makes more nodes than the graph may have.
        """
        number = {node: k for k, node in enumerate(self.vertices)}
        with self.graph.for_a_while():
            return tuple(number[node] for node in self._eliminated(order)[1])

    def _eliminated(self, order: Order) -> tuple[list[list[int]], list[int]]:
        """The derivatives by output and input, and the vertices in the order of elimination.

        Raises:
            ValueError: where it is no permutation of the vertices.
        """
        graph, inputs, vertices = self.graph, self.inputs, self.vertices
        before = {node: dict(found) for node, found in self.before.items()}
        after: dict[int, dict[int, int]] = {node: {} for node in before}
        for node, found in before.items():
            for arg, partial in found.items():
                after[arg][node] = partial
        # Outputs that are vertices, or inputs, have vertices of their own, below all nodes.
        place = {node: node for node in self.outputs if node in before}
        for k, node in enumerate({*vertices, *inputs}.intersection(place)):
            place[node] = -1 - k
            before[-1 - k] = {node: graph.one}
            after[node][-1 - k] = graph.one

        def eliminate(node: int) -> list[int]:
            above, below = before.pop(node), after.pop(node)
            for arg in above:
                del after[arg][node]
            for user, outer in below.items():
                into = before[user]
                del into[node]
                for arg, inner in above.items():
                    product = graph.make("mul", outer, inner)
                    known = into.get(arg)
                    if known is not None:
                        product = graph.total(known, product)
                    if product == graph.zero:
                        into.pop(arg, None)
                        after[arg].pop(user, None)
                    else:
                        into[arg] = after[arg][user] = product
            return [*above, *below]

        if order in IN_VECTORS:
            return self._swept(order), []
        if order == "markowitz":
            nodes = _by_degree(vertices, before, after, eliminate)
        else:
            nodes = self._in_order(order)
            for node in nodes:
                eliminate(node)
        rows = (before.get(place.get(node, node), {}) for node in self.outputs)
        return [[row.get(node, graph.zero) for node in inputs] for row in rows], nodes


def _products(graph: Edges, orders: Iterable[Order]) -> dict[Order, int]:
    """How many products each sweep takes that is among some orders, factors of one included.

    Those of vectors, and what takes them apart, count like the numbers that take as long, and are
    left out where they are more.
    """
    edges, inputs = graph.before, graph.inputs
    outputs = [node for node in dict.fromkeys(graph.outputs) if node in edges]
    users = dict.fromkeys(edges, 0) | dict.fromkeys(outputs, 1)
    # The inputs that each node depends on, and the outputs that depend on it, as sets of bits.
    above = {node: 1 << k for k, node in enumerate(inputs)}
    below = dict.fromkeys(edges, 0) | {node: 1 << k for k, node in enumerate(outputs)}
    for node, args in edges.items():
        if args:
            above[node] = functools.reduce(operator.or_, (above[arg] for arg in args))
        for arg in args:
            users[arg] += 1
    for node, args in reversed(list(edges.items())):
        for arg in args:
            below[arg] |= below[node]
    forward = [(above[node], users[node]) for node in edges if edges[node]]
    reverse = [(below[node], len(edges[node])) for node in edges if edges[node]]
    sweeps = {
        "forward": (forward, 1),
        "reverse": (reverse, 1),
        "forward in vectors": (forward, max(1, width_of(graph.graph, inputs))),
        "reverse in vectors": (reverse, max(1, width_of(graph.graph, outputs))),
    }
    # Of an output that depends on nothing there is none.
    entries = sum(above.get(node, 0).bit_count() for node in outputs)
    found = {}
    for order, (pairs, width) in sweeps.items():
        if order in orders:
            found[order] = sum(_groups(bits, width) * count for bits, count in pairs)
        if order in found and width > 1:
            found[order] = (1 + _WIDE) * found[order] + _OF_AN_ENTRY * entries
    least = min((found[order] for order in found if order not in IN_VECTORS), default=math.inf)
    return {order: k for order, k in found.items() if order not in IN_VECTORS or k < least}


def _groups(bits: int, width: int) -> int:
    """How many groups of so many bits have any that is set."""
    if width == 1:
        return bits.bit_count()
    count, mask = 0, (1 << width) - 1
    while bits:
        count += bits & mask != 0
        bits >>= width
    return count


def _above(nodes: Iterable[int], edges: Mapping[int, Iterable[int]]) -> set[int]:
    """The nodes that some nodes depend on, these included."""
    pending, found = list(nodes), set[int]()
    while pending:
        node = pending.pop()
        if node in edges and node not in found:
            found.add(node)
            pending += edges[node]
    return found


def _by_degree(
    vertices: Sequence[int],
    before: Mapping[int, Mapping[int, int]],
    after: Mapping[int, Mapping[int, int]],
    eliminate: Callable[[int], Iterable[int]],
) -> list[int]:
    """Eliminates always next the vertex of the least Markowitz degree, the last one at a tie."""

    def degree(node: int) -> int:
        return len(before[node]) * len(after[node])

    place = {node: k for k, node in enumerate(vertices)}
    current = {node: degree(node) for node in vertices}
    heap = [(value, -place[node], node) for node, value in current.items()]
    heapq.heapify(heap)
    order = []
    while current:
        value, _, node = heapq.heappop(heap)
        if current.get(node) != value:
            continue
        del current[node]
        order.append(node)
        for other in eliminate(node):
            if other in current and (new := degree(other)) != current[other]:
                current[other] = new
                heapq.heappush(heap, (new, -place[other], other))
    return order
