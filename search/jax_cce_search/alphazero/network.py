"""The policy and the value: a graph network on the game's positions.

A score for each vertex, and what each vertex is going to cost when it will be eliminated. Nothing
in it depends on how vertices are numbered, on the padding, or on which way the edges point: what
holds for a graph holds for the transposed one, whose elimination is the same elimination seen from
the other end. Each node has two states, one for each of its sides, and transposing the graph swaps
them. So one set of weights serves graphs of every size.

An alternative for graphs of one size is a transformer whose tokens are the vertices, each with its
row and its column of the adjacency matrix; only the numbering of vertices matters to it.

Source: message passing after Gilmer et al., "Neural message passing for quantum chemistry" (2017);
the transformer on slices of the adjacency matrix after Lohoff & Neftci, "Optimizing automatic
differentiation with deep reinforcement learning" (2024).
"""

import dataclasses
from typing import NamedTuple

import chex
import equinox as eqx
import jax
import jax.numpy as jnp
from jax import Array

from jax_cce_search.alphazero.vertex_game import Position, VertexGame

__all__ = [
    "FEATURES",
    "Architecture",
    "PolicyValue",
    "Prediction",
]

# Counts changes of what a network is shown, or of what its outputs mean.
FEATURES = 1

# Whatever precision the user's own program has.
_DTYPE = jnp.float32
_SIDE_FEATURES = 6
# Of attention: one may attend from each side of the nodes.
_HEADS = 2
_SHARED_FEATURES = 10
# Logarithms of the ratio between the cost of a vertex in the end and its degree now.
_MOST_RATIO = 5.0


@dataclasses.dataclass(frozen=True)
class Architecture:
    """What decides the shapes of a network's weights.

    Attributes:
        width: channels of each side of a node, an even number. Half of them travel over all edges
            alike, half over edges by what products with them cost.
        layers: rounds of messages, or layers of attention.
        slices: 0 for messages along edges, which serve graphs of every size; else the padded
            number of nodes of the graphs that a transformer on slices of adjacency matrices serves.
    """

    width: int = 32
    layers: int = 3
    slices: int = 0

    def __post_init__(self) -> None:
        for name, value in dataclasses.asdict(self).items():
            if not (isinstance(value, int) and value >= (name != "slices")):
                raise ValueError(f"{name} must be a positive integer, but got {value!r}.")
        if self.width % 2:
            raise ValueError(f"width must be even, but got {self.width}.")


class Prediction(NamedTuple):
    """What a network says of a position.

    Attributes:
        logits: float32 [nodes], unnormalised log-probabilities of the moves, -inf for illegal ones.
        costs: float32 [nodes], what each vertex is going to cost, in the unit of the rewards; 0
            for those that are gone. Their sum is what is left to pay, the value up to its sign.
    """

    logits: Array
    costs: Array

    @property
    def value(self) -> Array:
        """The return expected from the position: float32 []."""
        return -jnp.sum(self.costs)


class _Layer(eqx.Module):
    """A round of messages along and against the edges."""

    mix: eqx.nn.Linear
    context: eqx.nn.Linear
    update: eqx.nn.Linear

    def __init__(self, width: int, key: Array) -> None:
        keys = jax.random.split(key, 3)
        self.mix = eqx.nn.Linear(6 * width, width, dtype=_DTYPE, key=keys[0])
        self.context = eqx.nn.Linear(width, width, use_bias=False, dtype=_DTYPE, key=keys[1])
        self.update = eqx.nn.Linear(width, width, dtype=_DTYPE, key=keys[2])

    def __call__(self, sides: Array, before: Array, after: Array, alive: Array) -> Array:
        """The sides of all nodes after one round.

        Args:
            sides: float32 [2, nodes, width].
            before: float32 [weights, nodes, nodes], of each edge against its direction; rows sum to
                one at most.
            after: the same along its direction.
            alive: bool [nodes], the vertices that are not eliminated.
        """
        nodes, width = len(alive), self.update.in_features
        chex.assert_shape(sides, (2, nodes, width))
        chex.assert_shape([before, after], (None, nodes, nodes))
        from_before, from_after = _carried(before, sides), _carried(after, sides)
        one = [sides[0], sides[1], from_before[0], from_before[1], from_after[0], from_after[1]]
        other = [sides[1], sides[0], from_after[1], from_after[0], from_before[1], from_before[0]]
        seen = jnp.stack([jnp.concatenate(one, -1), jnp.concatenate(other, -1)])
        mean = _mean(sides[0] + sides[1], alive)
        hidden = jax.nn.relu(_along(self.mix, seen) + self.context(mean))
        return _normalised(sides + _along(self.update, hidden))


class _Attention(eqx.Module):
    """A layer of a transformer whose tokens are the nodes, with both of their sides."""

    attend: eqx.nn.Linear
    widen: eqx.nn.Linear
    narrow: eqx.nn.Linear

    def __init__(self, width: int, key: Array) -> None:
        keys = jax.random.split(key, 3)
        self.attend = eqx.nn.Linear(2 * width, 6 * width, dtype=_DTYPE, key=keys[0])
        self.widen = eqx.nn.Linear(2 * width, 4 * width, dtype=_DTYPE, key=keys[1])
        self.narrow = eqx.nn.Linear(4 * width, 2 * width, dtype=_DTYPE, key=keys[2])

    def __call__(self, sides: Array, before: Array, after: Array, alive: Array) -> Array:
        """As of `_Layer`; nodes without edges are attended to by none."""
        nodes = len(alive)
        tokens = jnp.concatenate([sides[0], sides[1]], -1)
        joined = alive | jnp.any(before[0] > 0, axis=1) | jnp.any(after[0] > 0, axis=1)
        # Each also attends to itself, so that no row of the mask is empty.
        mask = joined[None] | jnp.eye(nodes, dtype=bool)
        queries, keys, values = jnp.split(_along(self.attend, tokens), 3, axis=-1)
        split = (nodes, _HEADS, -1)
        seen = jax.nn.dot_product_attention(
            queries.reshape(split), keys.reshape(split), values.reshape(split), mask=mask[None]
        )
        tokens = _normalised(tokens + seen.reshape(tokens.shape))
        hidden = jax.nn.relu(_along(self.widen, tokens))
        tokens = _normalised(tokens + _along(self.narrow, hidden))
        return jnp.stack(jnp.split(tokens, 2, axis=-1))


class PolicyValue(eqx.Module):
    """The network.

    Attributes:
        architecture: its shape.
    """

    embed: eqx.nn.Linear
    slices: eqx.nn.Linear | None
    layers: tuple[_Layer | _Attention, ...]
    score: eqx.nn.Linear
    score_out: eqx.nn.Linear
    cost_out: eqx.nn.Linear
    shortcut: eqx.nn.Linear
    architecture: Architecture = eqx.field(static=True)

    def __init__(self, architecture: Architecture, key: Array) -> None:
        width = architecture.width
        keys = iter(jax.random.split(key, architecture.layers + 5))
        kind = _Attention if architecture.slices else _Layer
        self.architecture = architecture
        self.embed = eqx.nn.Linear(
            2 * _SIDE_FEATURES + _SHARED_FEATURES, width, dtype=_DTYPE, key=next(keys)
        )
        self.layers = tuple(kind(width, next(keys)) for _ in range(architecture.layers))
        self.score = eqx.nn.Linear(width + _SHARED_FEATURES, width, dtype=_DTYPE, key=next(keys))
        # Both heads begin with what the degrees alone say.
        self.score_out = _zeroed(
            eqx.nn.Linear(width, 1, use_bias=False, dtype=_DTYPE, key=next(keys))
        )
        self.cost_out = _zeroed(eqx.nn.Linear(width, 1, dtype=_DTYPE, key=next(keys)))
        self.shortcut = _zeroed(
            eqx.nn.Linear(_SHARED_FEATURES, 1, use_bias=False, dtype=_DTYPE, key=next(keys))
        )
        self.slices = (
            eqx.nn.Linear(
                architecture.slices,
                width,
                use_bias=False,
                dtype=_DTYPE,
                key=jax.random.fold_in(key, architecture.layers),
            )
            if architecture.slices
            else None
        )

    def __call__(self, game: VertexGame, position: Position) -> Prediction:
        """Judges a position.

        Args:
            game: the game, not batched; batches by `jax.vmap`.
            position: the position.

        Raises:
            ValueError: where the network serves games of another padding.
        """
        game.check(position)
        alive = position.alive
        nodes = len(alive)
        if self.architecture.slices not in (0, nodes):
            raise ValueError(
                f"A network on slices of {self.architecture.slices} nodes was given a game padded "
                f"to {nodes} nodes."
            )
        sides, shared, degree = _features(game, position)
        edges = (position.kind > 0).astype(jnp.float32)[None]
        if game.tables is not None:
            edges = jnp.concatenate([edges, jnp.log1p(game.weights(position.kind))[None]])
        after, before = _shares(edges), _shares(edges.mT)
        views = jnp.stack(
            [
                jnp.concatenate([sides[:, 0], sides[:, 1], shared], -1),
                jnp.concatenate([sides[:, 1], sides[:, 0], shared], -1),
            ]
        )
        embedded = _along(self.embed, views)
        if self.slices is not None:
            # The column of each node, from whose sources edges come, and its row.
            weights = jnp.log1p(game.weights(position.kind))
            embedded += _along(self.slices, jnp.stack([weights.T, weights]))
        state = _normalised(embedded)
        for layer in self.layers:
            state = layer(state, before, after, alive)
        chex.assert_shape(state, (2, nodes, self.architecture.width))
        joint = jnp.concatenate([state[0] + state[1], shared], -1)
        hidden = jax.nn.relu(_along(self.score, joint))
        logits = _along(self.score_out, hidden) + _along(self.shortcut, shared)
        ratio = jnp.clip(_along(self.cost_out, hidden)[:, 0], -_MOST_RATIO, _MOST_RATIO)
        # A vertex costs something in the end although it may cost nothing now.
        floor = jnp.maximum(jnp.maximum(degree, game.least), 0.1 * game.size)
        costs = -game.reward(floor * jnp.exp(ratio))
        chex.assert_shape([logits, costs], [(nodes, 1), (nodes,)])
        return Prediction(jnp.where(alive, logits[:, 0], -jnp.inf), jnp.where(alive, costs, 0.0))


def _features(game: VertexGame, position: Position) -> tuple[Array, Array, Array]:
    """What each node looks like from its two sides, and from both: [nodes, 2, ...], [nodes, ...].

    The third is the Markowitz degree, as far as the numbers of entries tell it.
    """
    kind, alive = position
    edges = (kind > 0).astype(jnp.float32)
    weights = game.weights(kind)
    into, onto = edges.sum(axis=0), edges.sum(axis=1)
    heavy_into, heavy_onto = weights.sum(axis=0), weights.sum(axis=1)
    degree = heavy_into * heavy_onto / game.size
    # Pairs of a predecessor and a successor that already have an edge.
    joined = jnp.sum(edges.T * (edges @ edges.T).T, axis=1)
    fill = into * onto - joined
    zero = jnp.zeros_like(into)
    kept = (game.is_output & alive).astype(jnp.float32)
    one = [jnp.log1p(into), jnp.log1p(heavy_into / game.size), game.is_input, zero]
    other = [jnp.log1p(onto), jnp.log1p(heavy_onto / game.size), game.is_output & ~alive, kept]
    sides = jnp.stack([jnp.stack(one, -1), jnp.stack(other, -1)], axis=1)
    sides = jnp.concatenate([sides, game.sides], axis=-1)
    living = alive.astype(jnp.float32)
    unit = jnp.maximum(game.size, 1.0)
    logs = jnp.log1p(degree / unit)
    reach = jnp.expm1(game.sides[:, 0, 0]) * jnp.expm1(game.sides[:, 1, 0])
    least = jnp.where(alive, degree / unit, jnp.inf).min()
    shared = jnp.stack(
        [
            living,
            logs,
            logs - _mean(logs, alive),
            jnp.log1p(jnp.maximum(degree / unit - least, 0.0)),
            logs - jnp.log1p(game.least / unit),
            jnp.log1p(jnp.maximum(fill, 0.0)),
            logs - jnp.log1p(reach),
            jnp.log(unit) / 4,
            jnp.full_like(into, jnp.log1p(living.sum()) / 4),
            _signed_log((degree / unit - reach) / 4),
        ],
        -1,
    )
    return sides, jnp.where(jnp.isfinite(shared), shared, 0.0), degree


def _shares(edges: Array) -> Array:
    """Weights of edges as shares of all those from a node: [weights, nodes, nodes]."""
    return edges / jnp.maximum(edges.sum(axis=-1, keepdims=True), 1e-6)


def _carried(edges: Array, sides: Array) -> Array:
    """Messages to each node: [2, nodes, width]; of two weights each is for half of the channels."""
    nodes, width = sides.shape[1:]
    channels = sides.reshape(2, nodes, len(edges), width // len(edges))
    over = [weights @ jnp.concatenate([*channels[:, :, k]], -1) for k, weights in enumerate(edges)]
    carried = jnp.stack(over, axis=1).reshape(nodes, len(edges), 2, width // len(edges))
    return carried.transpose(2, 0, 1, 3).reshape(2, nodes, width)


def _signed_log(value: Array) -> Array:
    return jnp.sign(value) * jnp.log1p(jnp.abs(value))


def _along(linear: eqx.nn.Linear, values: Array) -> Array:
    """A linear layer on the last axis."""
    result = values @ linear.weight.T
    return result if linear.bias is None else result + linear.bias


def _mean(values: Array, alive: Array) -> Array:
    """The mean over the vertices that are not eliminated."""
    living = alive.astype(values.dtype)
    return jnp.tensordot(living, values, 1) / jnp.maximum(living.sum(), 1.0)


def _normalised(values: Array) -> Array:
    """Values of root mean square one along the last axis (Zhang & Sennrich 2019)."""
    return values * jax.lax.rsqrt(jnp.mean(values**2, axis=-1, keepdims=True) + 1e-6)


def _zeroed(linear: eqx.nn.Linear) -> eqx.nn.Linear:
    return jax.tree.map(jnp.zeros_like, linear)
