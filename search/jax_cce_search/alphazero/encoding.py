"""Graphs as games: numbered, padded, their products and sums tabulated."""

import graphlib
import math
from collections.abc import Iterable, Sequence

import jax
import numpy as np

from jax_cce.algebra.blocks import Piece
from jax_cce.orders.block_table import ABSENT, PricedBlocks
from jax_cce.orders.greedy import greedy
from jax_cce_search.alphazero.vertex_game import GUESSED, UNIT, Position, Tables, VertexGame
from jax_cce_search.game.problem import Problem

__all__ = [
    "Encoding",
    "bucket",
    "stacked",
]

# Orders played out beforehand to see which kinds of blocks occur, fewer in large graphs.
_EXPLORED, _MOST_EXPLORED = 12, 2400
# Tables of more kinds would be larger than all else; rarer kinds are guessed.
_MOST_KINDS = 512
# What `Tables` has for a cost that is not tabulated.
_UNKNOWN = -1.0


def bucket(count: int, least: int = 16) -> int:
    """The padded size for a count: a multiple of 16 that wastes at most a third or so.

    Few different sizes are few compilations.
    """
    size = least
    while size < count:
        size += max(16, 1 << (size.bit_length() - 3))
    return size


class Encoding:
    """A problem as the game sees it.

    Attributes:
        problem: the problem; what its reduction eliminated is not part of the game.
        nodes: the nodes in the order of the game's numbers, in which every edge goes upwards.
        number: the game's number of each node.
        markowitz: what minimal Markowitz on the reduced graph costs, the prefix included.
        reference: what the cheapest of the classical orders costs, the prefix included.
    """

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        graph = problem.reduced
        joined = {
            node for node in graph.successors if graph.successors[node] or graph.predecessors[node]
        }
        joined.update(problem.vertices)
        ahead = graphlib.TopologicalSorter(graph.predecessors).static_order()
        self.nodes = tuple(node for node in ahead if node in joined)
        self.number = {node: k for k, node in enumerate(self.nodes)}
        left = set(problem.vertices)
        markowitz = [vertex for vertex in greedy(graph.copy())[0] if vertex in left]
        self.markowitz = problem.evaluate(markowitz)
        classical = problem.evaluate(problem.vertices), problem.evaluate(problem.vertices[::-1])
        self.reference = min(self.markowitz, *classical)
        if not problem.uniform:
            # What occurs in a few orders is tabulated then.
            rng = np.random.default_rng(0)
            count = max(len(problem.vertices), 1)
            for _ in range(min(_EXPLORED, _MOST_EXPLORED // count)):
                problem.evaluate(rng.permutation(problem.vertices).tolist())

    @property
    def kinds(self) -> int:
        """The number of kinds known by now, in the game's numbers; 0 where all edges are alike."""
        algebra = self.problem.reduced.algebra
        if self.problem.uniform or not isinstance(algebra, PricedBlocks):
            return 0
        return len(algebra.structures) + 1

    @property
    def padding(self) -> tuple[int, int]:
        """The padded numbers of nodes and of kinds that fit; rare kinds of very many do not."""
        kinds = bucket(min(self.kinds, _MOST_KINDS)) if self.kinds else 0
        return bucket(len(self.nodes)), kinds

    def moves(self, order: Iterable[int]) -> np.ndarray:
        """The moves of some vertices: int32 [vertices]."""
        return np.array([self.number[vertex] for vertex in order], np.int32)

    def order(self, moves: Iterable[int]) -> tuple[int, ...]:
        """The vertices of some moves; nodes that are none are left out."""
        left = set(self.problem.vertices)
        return tuple(n for n in (self.nodes[int(move)] for move in moves) if n in left)

    def priced(self, order: Sequence[int]) -> tuple[np.ndarray, int]:
        """What eliminating each vertex of an order costs, and what the whole order costs.

        The last vertex's cost includes what is left to pay; the order's includes the prefix.
        """
        state = self.problem.reduced.copy()
        paid = [state.eliminate(vertex) for vertex in order]
        paid[-1] += state.remainder()
        return np.array(paid, np.float32), self.problem.prefix_cost + sum(paid)

    def game(
        self, padding: tuple[int, int] | None = None, *, logarithmic: bool = False
    ) -> VertexGame:
        """The game, with what is tabulated by now, as NumPy arrays.

        Args:
            padding: numbers of nodes and of kinds that it is padded to, as by `padding`.
            logarithmic: whether rewards are logarithms of costs.

        Raises:
            ValueError: where that is too small for the graph.
        """
        size, kinds = padding or self.padding
        if size < len(self.nodes):
            raise ValueError(
                f"A graph of {len(self.nodes)} nodes does not fit a game padded to {size}."
            )
        graph = self.problem.reduced
        kind = np.zeros((size, size), np.int16)
        for source, to in graph.successors.items():
            for target, of in to.items():
                at = self.number[source], self.number[target]
                kind[at] = _numbered(of, kinds) if kinds else UNIT
        marks = np.zeros((3, size), bool)
        for row, nodes in enumerate((self.problem.vertices, graph.inputs, graph.outputs)):
            marks[row, [self.number[node] for node in nodes if node in self.number]] = True
        entries = np.ones(size, np.float32)
        entries[: len(self.nodes)] = [max(graph.sizes[node], 1) for node in self.nodes]
        least = np.zeros(size, np.float32)
        if all(size == 1 for size in graph.sizes.values()):
            # Networks have learnt with none for graphs of arrays.
            least[self.moves(self.problem.vertices)] = self.problem.least
        scale = max(self.reference - self.problem.prefix_cost, 1)
        game = VertexGame(
            start=Position(kind, marks[0]),
            is_input=marks[1],
            is_output=marks[2],
            size=entries,
            sides=_sides(kind > 0, marks[1], marks[2]),
            least=least,
            scale=np.float32(scale),
            tables=self._tables(kinds) if kinds else None,
            logarithmic=logarithmic,
        )
        game.check(game.start)
        return game

    def _tables(self, kinds: int) -> Tables:
        algebra = self.problem.reduced.algebra
        assert isinstance(algebra, PricedBlocks)
        # Products and sums: of each pair of kinds the kind of the result, and what it costs.
        results = np.full((2, kinds, kinds), GUESSED, np.int16)
        paid = np.full((2, kinds, kinds), _UNKNOWN, np.float32)
        results[0, 0] = results[0, :, 0] = 0
        results[1, 0] = results[1, :, 0] = np.arange(kinds)
        paid[:, 0] = paid[:, :, 0] = 0
        for of, known in enumerate((algebra.products, algebra.totals)):
            for pair, (result, cost) in known.items():
                one, other = (_numbered(kind, kinds) for kind in pair)
                if GUESSED not in (one, other):
                    results[of, one, other] = _numbered(result, kinds)
                    paid[of, one, other] = cost
        final = np.full(kinds, _UNKNOWN, np.float32)
        entries, priced = np.zeros(kinds, np.float32), np.ones(kinds, np.float32)
        final[0] = 0
        for kind in range(1, min(len(algebra.structures), kinds - 1)):
            final[kind + 1] = algebra.final(kind)
            entries[kind + 1], priced[kind + 1] = _described(algebra, kind)
        return Tables(
            product=results[0],
            product_cost=paid[0],
            total=results[1],
            total_cost=paid[1],
            final_cost=final,
            entries=entries,
            priced=priced,
        )


def _numbered(kind: int, kinds: int) -> int:
    """The game's number of a kind."""
    if kind == ABSENT:
        return 0
    return kind + 1 if kind + 1 < kinds else GUESSED


def _described(algebra: PricedBlocks, kind: int) -> tuple[float, float]:
    """The number of entries of a block, and whether products with it cost something."""
    block = algebra.structures.block(kind)
    out_shape, in_shape = algebra.structures.shapes(kind)
    entries = sum(
        math.prod(piece.term.sizes)
        if isinstance(piece, Piece)
        else math.prod(out_shape) * math.prod(in_shape)
        for piece in block
    )
    if algebra.cost == "multiplications":
        free = all(isinstance(piece, Piece) and piece.term.layout for piece in block)
    else:
        free = all(isinstance(p, Piece) and p.slot is None and abs(p.scale) == 1 for p in block)
    return entries, float(not free)


def _sides(edges: np.ndarray, is_input: np.ndarray, is_output: np.ndarray) -> np.ndarray:
    """`VertexGame.sides`, for edges that all go upwards: float32 [nodes, 2, 2]."""
    size = len(edges)
    sides = np.zeros((size, 2, 2), np.float32)
    ends = (is_input, edges, range(size)), (is_output, edges.T, range(size - 1, -1, -1))
    for side, (end, before, nodes) in enumerate(ends):
        reached = np.diag(end)
        depth = np.zeros(size, np.float32)
        for node in nodes:
            sources = np.flatnonzero(before[:, node])
            if len(sources):
                reached[node] |= reached[sources].any(axis=0)
                depth[node] = depth[sources].max() + 1
        sides[:, side, 0] = np.log1p(reached.sum(axis=1))
        sides[:, side, 1] = depth / max(depth.max(), 1)
    return sides


def stacked(games: Sequence[VertexGame]) -> VertexGame:
    """Games of equal padding as one batch, of NumPy arrays."""
    return jax.tree.map(lambda *leaves: np.stack(leaves), *games)
