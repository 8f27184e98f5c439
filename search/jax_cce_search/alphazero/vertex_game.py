"""The game of vertex elimination, as a pure function of arrays.

A position is the graph that is left: for each pair of nodes the kind of block on the edge between
them (see `jax_cce.orders.block_table`). A move eliminates a vertex, and costs what the plan pays
for it. All of it runs under jit, vmap and scan; games of equal padding can be batched.

Source: Lohoff & Neftci, "Optimizing automatic differentiation with deep reinforcement learning"
(2024), section 4, who play it on graphs of a fixed size with one token for each slot.
"""

import dataclasses
from typing import Any, NamedTuple

import chex
import equinox as eqx
import jax.numpy as jnp

__all__ = [
    "GUESSED",
    "UNIT",
    "Position",
    "Tables",
    "VertexGame",
]

# JAX arrays, or NumPy arrays on their way to a device.
Array = Any

# The kind of an edge whose structure is not tabulated: it is taken as dense until it is known.
GUESSED = 1
# The kind of every edge in a game without tables.
UNIT = 2


class Tables(eqx.Module):
    """Products and sums of kinds. Kind 0 is no edge, kind `GUESSED` a dense one by assumption.

    A cost below zero marks a pair that is not tabulated.

    Attributes:
        product: int16 [kinds, kinds], the kind of a product of a later and an earlier edge.
        product_cost: float32 [kinds, kinds], what it costs.
        total: int16 [kinds, kinds], the kind of a sum.
        total_cost: float32 [kinds, kinds], what it costs.
        final_cost: float32 [kinds], what it costs to bring a block into its final form.
        entries: float32 [kinds], the number of entries of a block that are not zero.
        priced: float32 [kinds], 0 where products with the kind cost nothing, else 1.
    """

    product: Array
    product_cost: Array
    total: Array
    total_cost: Array
    final_cost: Array
    entries: Array
    priced: Array

    def check(self) -> None:
        """Asserts the shapes and types above; `outline` leaves nothing of products and sums."""
        pairs = (0, 0) if len(self.product) == 0 else 2 * self.entries.shape
        chex.assert_shape([self.product, self.product_cost, self.total, self.total_cost], pairs)
        chex.assert_equal_shape([self.final_cost, self.entries, self.priced])
        chex.assert_rank(self.entries, 1)
        chex.assert_type(self.product, jnp.int16)
        chex.assert_type([self.entries, self.priced, self.final_cost], jnp.float32)


class Position(NamedTuple):
    """A position of the game.

    Attributes:
        kind: int16 [nodes, nodes], the kind of each edge u -> v, 0 where there is none.
        alive: bool [nodes], the vertices that are not yet eliminated: the legal moves.
    """

    kind: Array
    alive: Array


class VertexGame(eqx.Module):
    """The game on one graph, padded to a number of nodes.

    Attributes:
        start: the first position.
        is_input: bool [nodes], the nodes that are differentiated with respect to.
        is_output: bool [nodes], the nodes that are differentiated; one that is a vertex keeps its
            incoming edges when it is eliminated.
        size: float32 [nodes], the number of entries of each node, 1 for padding.
        sides: float32 [nodes, 2, features], how each node lies towards the inputs and towards the
            outputs: the log of the number of them that it is joined with, and its distance.
        least: float32 [nodes], what eliminating each vertex costs at least, in any order; 0 where
            nothing is known.
        scale: float32 [], what a cheap order costs, the unit of the game's rewards.
        tables: products and sums of kinds; None where every product costs one and every sum
            nothing.
        logarithmic: whether rewards are logarithms of costs (see `reward`).
    """

    start: Position
    is_input: Array
    is_output: Array
    size: Array
    sides: Array
    least: Array
    scale: Array
    tables: Tables | None
    logarithmic: bool = eqx.field(static=True, default=False)

    def check(self, position: Position) -> None:
        """Asserts the shapes and types of the game and a position of it, neither of them batched.

        Under a trace that costs nothing when the game is played.
        """
        nodes = len(self.is_input)
        chex.assert_shape(position.kind, (nodes, nodes))
        chex.assert_shape(
            [position.alive, self.is_input, self.is_output, self.size, self.least], (nodes,)
        )
        chex.assert_shape(self.sides, (nodes, 2, None))
        chex.assert_shape(self.scale, ())
        chex.assert_type(position.kind, jnp.int16)
        chex.assert_type([position.alive, self.is_input, self.is_output], bool)
        chex.assert_type([self.size, self.sides, self.least, self.scale], jnp.float32)
        if self.tables is not None:
            self.tables.check()

    def step(self, position: Position, vertex: Array) -> tuple[Position, Array, Array]:
        """Eliminates a vertex; a move that is not legal changes nothing and costs nothing.

        Args:
            position: the position.
            vertex: int32 [], the vertex's number.

        Returns:
            The next position; what the move costs, float32 [], the last move including what
            bringing the Jacobian into its final form costs; and bool [], whether a part of it is a
            guess because the tables lack an entry.
        """
        self.check(position)
        chex.assert_shape(vertex, ())
        chex.assert_type(vertex, int)
        kind, alive = position
        here = jnp.arange(len(alive)) == vertex
        left = alive & ~here
        joined, cost, guessed = self._joined(kind, vertex)
        gone = here[:, None] | (here & ~self.is_output)[None]
        chex.assert_equal_shape([gone, joined, kind])
        joined = jnp.where(gone, 0, joined).astype(kind.dtype)
        if self.tables is not None:
            last, unsure = self._remainder(joined)
            is_last = ~jnp.any(left)
            cost, guessed = cost + jnp.where(is_last, last, 0.0), guessed | (is_last & unsure)
        legal = alive[vertex]
        after = Position(jnp.where(legal, joined, kind), left)
        return after, jnp.where(legal, cost, 0.0), legal & guessed

    def reward(self, cost: Array) -> Array:
        """The rewards of moves of given costs: those of a cheap order add up to about -1.

        They are costs in the unit of `scale`, or the logarithms that Lohoff & Neftci take where
        costs differ by orders of magnitude, in the unit of what moves of equal cost would have.
        """
        if not self.logarithmic:
            return -cost / self.scale
        moves = jnp.maximum(self.start.alive.sum(dtype=jnp.float32), 1.0)
        return -jnp.log1p(cost) / (moves * jnp.log1p(self.scale / moves))

    def outline(self) -> "VertexGame":
        """The game without products and sums, of which a network sees nothing."""
        if self.tables is None:
            return self
        nothing = self.tables.product[:0, :0]
        tables = Tables(
            nothing,
            nothing,
            nothing,
            nothing,
            self.tables.final_cost,
            self.tables.entries,
            self.tables.priced,
        )
        return dataclasses.replace(self, tables=tables)

    def weights(self, kind: Array) -> Array:
        """The number of entries of each edge whose products cost something: [nodes, nodes]."""
        if self.tables is None:
            return (kind > 0).astype(jnp.float32)
        dense = self.size[:, None] * self.size[None]
        return jnp.where(
            kind == GUESSED, dense, self.tables.entries[kind] * self.tables.priced[kind]
        )

    def _joined(self, kind: Array, vertex: Array) -> tuple[Array, Array, Array]:
        """All products over the vertex, added to the edges that they are parallel to."""
        incoming, outgoing = kind[:, vertex], kind[vertex]
        if self.tables is None:
            before, after = incoming > 0, outgoing > 0
            joined = jnp.where(before[:, None] & after[None], UNIT, kind)
            cost = jnp.sum(before, dtype=jnp.float32) * jnp.sum(after, dtype=jnp.float32)
            return joined, cost, jnp.asarray(False)
        tables = self.tables
        later, earlier = jnp.broadcast_arrays(outgoing[None], incoming[:, None])
        product, paid = tables.product[later, earlier], tables.product_cost[later, earlier]
        entries = tables.entries
        into = jnp.where(incoming == GUESSED, self.size * self.size[vertex], entries[incoming])
        onto = jnp.where(outgoing == GUESSED, self.size * self.size[vertex], entries[outgoing])
        # Of a dense and a diagonal block, or of two dense ones, that is what a product costs.
        guess = into[:, None] * onto[None] / self.size[vertex]
        cost = jnp.sum(jnp.where(paid < 0, guess, paid))
        added = tables.total_cost[kind, product]
        guessed = jnp.any(paid < 0) | jnp.any(added < 0)
        return tables.total[kind, product], cost + jnp.sum(jnp.maximum(added, 0.0)), guessed

    def _remainder(self, kind: Array) -> tuple[Array, Array]:
        """What is left to pay when all vertices are eliminated, and whether that is a guess."""
        assert self.tables is not None
        results = self.is_input[:, None] & self.is_output[None] & ~jnp.eye(len(kind), dtype=bool)
        paid = jnp.where(results, self.tables.final_cost[kind], 0.0)
        return jnp.sum(jnp.maximum(paid, 0.0)), jnp.any(paid < 0)
