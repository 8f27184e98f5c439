"""Lower bounds on the cost of every elimination order.

When v is eliminated, its predecessors separate it from the inputs in the first graph, so that they
are at least as many as there are paths from inputs to v that share no node but v (Menger). The same
holds for successors, and paths to outputs. In a graph of scalars, v costs at least the product of
the two numbers. In a graph of arrays, those paths count whose products are certain to be paid for
(see `coverage`); a product of two blocks one of which is full takes as many multiplications as v
has entries. All of it holds after any eliminations, too: in a graph that was reduced first, for
every order of what is left.

Source: Naumann, "Optimal accumulation of Jacobian matrices by elimination methods on the dual
computational graph" (2004); Menger's theorem; the paths are found by augmenting flows (Ford &
Fulkerson 1956).
"""

from collections.abc import Mapping, Sequence, Set
from typing import NamedTuple

from jax_cce.orders.block_table import PricedBlocks, UnitBlocks
from jax_cce.orders.skeleton import Skeleton
from jax_cce_search.game.cancelling import cancelling, reached
from jax_cce_search.game.coverage import Coverage, coverage

__all__ = [
    "Paths",
    "Way",
    "disjoint_paths",
    "paths_of",
    "single_bounds",
    "sink",
    "vertex_bounds",
]

_Neighbours = Mapping[int, Set[int]]
# The measures whose costs are sums over the vertices.
_BOUNDED = ("multiplications", "nonunit_multiplications")
_MOST_VERTICES = 500
_CERTAIN = Coverage(True, True, True, True, True, True)


class Way(NamedTuple):
    """One way to bound what a vertex costs: a number, times paths behind it, times paths ahead.

    Attributes:
        factor: the multiplications of each product, at least.
        behind: the predecessors by which paths may come in.
        ahead: the successors by which paths may go out.
    """

    factor: int
    behind: frozenset[int]
    ahead: frozenset[int]


class Paths(NamedTuple):
    """The paths of a graph that bounds may count.

    Attributes:
        behind: for each node the nodes that a path back to the inputs may go on to.
        ahead: the same for the outputs. An output that is a vertex has its `sink` there.
        inputs: where paths behind a vertex end.
        outputs: where paths ahead end, which are sinks and outputs that are no vertices.
        ways: for each vertex what its own edges allow.
    """

    behind: _Neighbours
    ahead: _Neighbours
    inputs: Set[int]
    outputs: Set[int]
    ways: Mapping[int, Sequence[Way]]

    def single(self, vertex: int) -> tuple[int, Way]:
        """The bound of a vertex by itself, and the way that gives it."""
        best, chosen = 0, self.ways[vertex][-1]
        for way in self.ways[vertex]:
            behind = {**self.behind, vertex: way.behind}
            ahead = {**self.ahead, vertex: way.ahead}
            bound = (
                way.factor
                * disjoint_paths(vertex, behind, self.inputs)
                * disjoint_paths(vertex, ahead, self.outputs)
            )
            if bound > best:
                best, chosen = bound, way
        return best, chosen


def sink(output: int) -> int:
    """The node that stands for the Jacobian's rows of an output which is eliminated, too."""
    return -1 - output


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


def paths_of(graph: Skeleton, vertices: Sequence[int]) -> Paths | None:
    """The paths that bounds may count; None in a measure that counts shared steps once.

    Args:
        graph: the graph, perhaps after some eliminations.
        vertices: those that are not eliminated yet.
    """
    algebra = graph.algebra
    if isinstance(algebra, PricedBlocks) and algebra.cost not in _BOUNDED:
        return None
    if any(not isinstance(size, int) for size in graph.sizes.values()):
        return None
    if any(size != 1 for size in graph.sizes.values()) and _is_sparse(graph):
        # Terms that overlap are joined there, and have fewer coefficients than before.
        return None
    certain = _certain_edges(graph)
    ahead: dict[int, set[int]] = {node: set() for node in graph.successors}
    behind: dict[int, set[int]] = {node: set() for node in graph.successors}
    for (source, target), edge in certain.items():
        if edge.columns:
            ahead[source].add(target)
        if edge.rows:
            behind[target].add(source)
    left = set(vertices)
    for output in left & graph.outputs:
        ahead[output].add(sink(output))
    outputs = {sink(o) if o in left else o for o in graph.outputs}
    ways = {vertex: _ways(graph, vertex, certain) for vertex in vertices}
    return Paths(behind, ahead, set(graph.inputs), outputs, ways)


def _certain_edges(graph: Skeleton) -> dict[tuple[int, int], Coverage]:
    """What is certain of the blocks on edges, without those on which they may cancel."""
    algebra = graph.algebra
    if not isinstance(algebra, PricedBlocks):
        return {(s, t): _CERTAIN for s, to in graph.successors.items() for t in to}
    structures = algebra.structures
    unit_free = algebra.cost == "nonunit_multiplications"
    by_kind: dict[int, Coverage] = {}
    vanishing = cancelling(graph)
    certain = {}
    for source, to in graph.successors.items():
        for target, kind in to.items():
            if kind not in by_kind:
                shapes = structures.shapes(kind)
                by_kind[kind] = coverage(structures.block(kind), *shapes, unit_free=unit_free)
            if (source, target) not in vanishing:
                certain[source, target] = by_kind[kind]
    return certain


def _is_sparse(graph: Skeleton) -> bool:
    algebra = graph.algebra
    return isinstance(algebra, PricedBlocks) and algebra.structures.sparse


def _ways(
    graph: Skeleton, vertex: int, certain: Mapping[tuple[int, int], Coverage]
) -> tuple[Way, ...]:
    none = Coverage()
    before = {s: certain.get((s, vertex), none) for s in graph.predecessors[vertex]}
    after = {t: certain.get((vertex, t), none) for t in graph.successors[vertex]}
    counted_in = frozenset(s for s, edge in before.items() if edge.counted_rows)
    full_in = frozenset(s for s, edge in before.items() if edge.full_rows)
    counted_out = frozenset(t for t, edge in after.items() if edge.counted_columns)
    full_out = frozenset(t for t, edge in after.items() if edge.full_columns)
    size = graph.sizes[vertex]
    if size < 2 or isinstance(graph.algebra, UnitBlocks):
        return (Way(min(size, 1), counted_in, counted_out),)
    return (
        Way(size, full_in, counted_out),
        Way(size, counted_in, full_out),
        Way(1, counted_in, counted_out),
    )


def single_bounds(paths: Paths) -> dict[int, tuple[int, Way]]:
    """For each vertex its bound by itself, and the way that gives it.

    In a graph of more than 500 vertices, where paths take too long to count, one behind a vertex
    and one ahead are all that is looked for.
    """
    if len(paths.ways) <= _MOST_VERTICES:
        return {vertex: paths.single(vertex) for vertex in paths.ways}
    from_inputs = reached(paths.inputs, _reversed(paths.behind))
    to_outputs = reached(paths.outputs, _reversed(paths.ahead))

    def joined(way: Way) -> int:
        behind, ahead = way.behind & from_inputs, way.ahead & to_outputs
        return way.factor if behind and ahead else 0

    best = {vertex: max(ways, key=joined) for vertex, ways in paths.ways.items()}
    return {vertex: (joined(way), way) for vertex, way in best.items()}


def vertex_bounds(graph: Skeleton) -> dict[int, int]:
    """For each vertex what eliminating it costs at least, in any order.

    Counts paths only whose products are certain to be paid for and never cancel. No vertex gets a
    bound in a measure that counts shared steps once.
    """
    paths = paths_of(graph, graph.vertices)
    if paths is None:
        return {}
    return {vertex: bound for vertex, (bound, _) in single_bounds(paths).items()}


def _reversed(neighbours: _Neighbours) -> dict[int, set[int]]:
    back: dict[int, set[int]] = {}
    for node, others in neighbours.items():
        for other in others:
            back.setdefault(other, set()).add(node)
    return back
