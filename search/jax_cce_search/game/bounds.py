"""Lower bounds on the cost of every elimination order.

When v is eliminated it has at least as many predecessors as there are vertex-disjoint paths from
the inputs to it: eliminating other vertices shortens such paths but never joins two. The same
holds for successors and paths to the outputs, so in a graph of scalars v costs at least the product
of the two numbers.

Source: Naumann, "Optimal accumulation of Jacobian matrices by elimination methods on the dual
computational graph" (2004); Menger's theorem; the paths are found by augmenting flows (Ford &
Fulkerson 1956).
"""

from collections.abc import Mapping, Set

from jax_cce.algebra.blocks import Block, Piece
from jax_cce.orders.block_table import PricedBlocks
from jax_cce.orders.skeleton import Skeleton

__all__ = [
    "disjoint_paths",
    "may_cancel",
    "vertex_bounds",
]

_Neighbours = Mapping[int, Set[int]]
# The measures whose costs are sums over the vertices.
_BOUNDED = ("multiplications", "nonunit_multiplications")
_MOST_VERTICES = 500
# Sums of more products between two nodes are too many to look at, and may be zero for all we know.
_MOST_PATHS = 10
# Known numbers that add up to less than that are taken to cancel.
_ROUNDING = 1e-9


def disjoint_paths(vertex: int, neighbours: _Neighbours, ends: Set[int]) -> int:
    """The most paths from a vertex into a set of nodes that share no node but the vertex.

    Args:
        vertex: where the paths start.
        neighbours: for each node the nodes that a path may go on to.
        ends: the nodes at which a path ends; `vertex` itself is none.
    """
    # Each node but the start may be entered once: `entered_from` holds the flow.
    entered_from: dict[int, int] = {}
    count = 0
    while True:
        path = _augmenting(vertex, neighbours, ends, entered_from)
        if path is None:
            return count
        for target in path[1]:
            del entered_from[target]
        entered_from.update(path[0])
        count += 1


def _augmenting(
    vertex: int, neighbours: _Neighbours, ends: Set[int], entered_from: Mapping[int, int]
) -> tuple[dict[int, int], set[int]] | None:
    """One more path: the edges it uses anew, by target, and the targets of those it frees."""
    # A node is seen when it is entered and when it is left; a used one is left by its own path
    # only, unless the search takes that path back.
    entry, leaving = 0, 1
    start = vertex, leaving
    came: dict[tuple[int, int], tuple[int, int] | None] = {start: None}
    pending = [start]
    for state in pending:
        node, side = state
        if side == leaving:
            if node in ends and node != vertex:
                break
            following = [
                (n, entry) for n in neighbours.get(node, ()) if entered_from.get(n) != node
            ]
            if node in entered_from:
                following.append((node, entry))
        elif node in entered_from:
            following = [(entered_from[node], leaving)]
        else:
            following = [(node, leaving)]
        for other in following:
            if other not in came and other[0] != vertex:
                came[other] = state
                pending.append(other)
            elif other not in came and side == entry:
                # Taking back the first edge of a path leads to the start, which leads nowhere new.
                continue
    else:
        return None
    used: dict[int, int] = {}
    freed: set[int] = set()
    at: tuple[int, int] | None = state
    while at is not None:
        previous = came[at]
        if previous is not None and previous[0] != at[0]:
            if previous[1] == leaving:
                used[at[0]] = previous[0]
            else:
                freed.add(previous[0])
        at = previous
    return used, freed - used.keys()


def vertex_bounds(graph: Skeleton) -> dict[int, int]:
    """For each vertex of a graph of scalars what eliminating it costs at least, in any order.

    Counts paths of edges only whose products are never free and never cancel. An array vertex
    gets no bound, and neither does any vertex in a measure that counts shared steps once. In a
    graph of more than 500 vertices, where paths take too long to count, the bound is one.
    """
    algebra = graph.algebra
    if isinstance(algebra, PricedBlocks) and algebra.cost not in _BOUNDED:
        return {}
    if any(size != 1 for size in graph.sizes.values()):
        return {}
    kept = _lasting_edges(graph)
    ahead: dict[int, set[int]] = {node: set() for node in graph.successors}
    behind: dict[int, set[int]] = {node: set() for node in graph.successors}
    for source, target in kept:
        ahead[source].add(target)
        behind[target].add(source)
    inputs, outputs = set(graph.inputs), set(graph.outputs)
    if len(graph.vertices) > _MOST_VERTICES:
        joined = _reached(inputs, ahead) & _reached(outputs, behind)
        return {vertex: int(vertex in joined) for vertex in graph.vertices}
    return {
        vertex: disjoint_paths(vertex, behind, inputs) * disjoint_paths(vertex, ahead, outputs)
        for vertex in graph.vertices
    }


def _lasting_edges(graph: Skeleton) -> set[tuple[int, int]]:
    """The edges through which every path contributes a product that is paid for and stays."""
    algebra = graph.algebra
    edges = {(source, target) for source, to in graph.successors.items() for target in to}
    if not isinstance(algebra, PricedBlocks):
        return edges

    def block(edge: tuple[int, int]) -> Block:
        return algebra.structures.block(graph.successors[edge[0]][edge[1]])

    static = _static_edges(graph)
    mixed = {edge for edge in edges if not all(isinstance(p, Piece) for p in block(edge))}
    free = {
        edge
        for edge in edges - mixed
        if any(isinstance(p, Piece) and (p.term.layout or p.term.lookups) for p in block(edge))
    }
    if algebra.cost != "multiplications":
        # Products with known numbers may be free, and sums of them may become one.
        return edges - static - mixed - free
    return edges - mixed - free - _cancelling(graph, static)


def may_cancel(graph: Skeleton) -> bool:
    """Whether an edge may vanish while vertices are eliminated: known numbers that add to zero."""
    if not isinstance(graph.algebra, PricedBlocks):
        return False
    return bool(_cancelling(graph, _static_edges(graph)))


def _static_edges(graph: Skeleton) -> set[tuple[int, int]]:
    """The edges whose coefficients are all known numbers."""
    algebra = graph.algebra
    assert isinstance(algebra, PricedBlocks)
    return {
        (source, target)
        for source, to in graph.successors.items()
        for target, kind in to.items()
        if all(isinstance(p, Piece) and p.slot is None for p in algebra.structures.block(kind))
    }


def _cancelling(graph: Skeleton, static: set[tuple[int, int]]) -> set[tuple[int, int]]:
    """The static edges on paths between two nodes some of whose products may add up to zero."""
    algebra = graph.algebra
    assert isinstance(algebra, PricedBlocks)
    ahead: dict[int, set[int]] = {}
    scale: dict[tuple[int, int], complex] = {}
    for source, target in static:
        ahead.setdefault(source, set()).add(target)
        pieces = algebra.structures.block(graph.successors[source][target])
        scale[source, target] = sum(piece.scale for piece in pieces if isinstance(piece, Piece))
    reach = {node: _reached({node}, ahead) for node in ahead}
    cancelling: set[tuple[int, int]] = set()
    for start in ahead:
        # The products along the paths from the start, or None where there are too many.
        arrives: dict[int, list[complex] | None] = {start: [1]}
        for node in sorted(reach[start]):
            products = arrives[node]
            for target in ahead.get(node, ()):
                known = arrives.get(target, [])
                if products is None or known is None or len(products) + len(known) > _MOST_PATHS:
                    arrives[target] = None
                else:
                    arrives[target] = [*known, *(scale[node, target] * p for p in products)]
        ends = {end for end, products in arrives.items() if _may_cancel(products)}
        cancelling |= {
            (node, target)
            for node in reach[start]
            for target in ahead.get(node, ())
            if not ends.isdisjoint(reach.get(target, {target}))
        }
    return cancelling


def _may_cancel(products: list[complex] | None) -> bool:
    """Whether some of the numbers add up to zero."""
    if products is None:
        return True
    sums: list[complex] = []
    for product in products:
        sums += [product, *(product + other for other in sums)]
    return any(abs(total) < _ROUNDING for total in sums)


def _reached(starts: Set[int], ahead: Mapping[int, Set[int]]) -> set[int]:
    """All nodes on paths from the given ones, these included."""
    seen = set(starts)
    pending = list(starts)
    while pending:
        for target in ahead.get(pending.pop(), ()):
            if target not in seen:
                seen.add(target)
                pending.append(target)
    return seen
