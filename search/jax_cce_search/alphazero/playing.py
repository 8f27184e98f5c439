"""Ways of choosing moves, and games played by them.

The policy may choose alone, or a tree search on the true game that the network guides: no model of
the game is learned, every simulated move is a move of the game.

Source of the search: Danihelka et al., "Policy improvement by planning with Gumbel" (2022), as
implemented in mctx.
"""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import mctx
import numpy as np
from jax import Array
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from jax_cce_search.alphazero.encoding import stacked
from jax_cce_search.alphazero.network import PolicyValue
from jax_cce_search.alphazero.numerics import own_settings
from jax_cce_search.alphazero.vertex_game import Position, VertexGame

__all__ = [
    "Greedy",
    "Move",
    "Played",
    "Sampled",
    "Searched",
    "Way",
    "play",
]

# The axis of the mesh of devices, over which the games are spread.
_AXIS = "games"


class Move(NamedTuple):
    """A move, and what was thought of it.

    Attributes:
        after: the position after the move.
        vertex: int32 [], the vertex eliminated.
        cost: float32 [], what it cost.
        guessed: bool [], whether a part of the cost is a guess.
        policy: float32 [nodes], the probabilities given to the moves.
    """

    after: Position
    vertex: Array
    cost: Array
    guessed: Array
    policy: Array


Way = Callable[[PolicyValue, VertexGame, Position, Array], Move]


@dataclass(frozen=True)
class Greedy:
    """The policy's most probable move."""

    def __call__(
        self, network: PolicyValue, game: VertexGame, position: Position, key: Array
    ) -> Move:
        """Chooses a move in one game."""
        del key
        logits = network(game, position).logits
        vertex = jnp.argmax(logits)
        return _played(game, position, vertex, jax.nn.softmax(logits))


@dataclass(frozen=True)
class Sampled:
    """A move drawn from the policy."""

    def __call__(
        self, network: PolicyValue, game: VertexGame, position: Position, key: Array
    ) -> Move:
        """Chooses a move in one game."""
        logits = _finite(network(game, position).logits)
        vertex = jax.random.categorical(key, logits)
        return _played(game, position, vertex, jax.nn.softmax(logits))


@dataclass(frozen=True)
class Searched:
    """The move that a tree search prefers.

    Attributes:
        simulations: moves tried in the tree for each move played.
        considered: moves considered at the root.
        noise: scale of the Gumbel noise at the root, 0 for the best known move.
    """

    simulations: int
    considered: int
    noise: float = 0.0

    def __call__(
        self, network: PolicyValue, game: VertexGame, position: Position, key: Array
    ) -> Move:
        """Chooses a move in one game."""
        prediction = network(game, position)
        # mctx works on batches; ours is made outside, so that a game does not depend on the others.
        root = mctx.RootFnOutput(
            prior_logits=_finite(prediction.logits)[None],
            value=prediction.value[None],
            embedding=_batched(position),
        )

        def simulate(
            network: PolicyValue, key: Array, vertex: Array, embedding: Position
        ) -> tuple[mctx.RecurrentFnOutput, Position]:
            del key
            at = jax.tree.map(lambda leaf: leaf[0], embedding)
            after, cost, _ = game.step(at, vertex[0])
            judged = network(game, after)
            output = mctx.RecurrentFnOutput(
                reward=game.reward(cost)[None],
                discount=jnp.any(after.alive).astype(jnp.float32)[None],
                prior_logits=_finite(judged.logits)[None],
                value=judged.value[None],
            )
            return output, _batched(after)

        result = mctx.gumbel_muzero_policy(
            network,
            key,
            root,
            simulate,
            num_simulations=self.simulations,
            invalid_actions=~position.alive[None],
            max_num_considered_actions=self.considered,
            gumbel_scale=self.noise,
        )
        return _played(game, position, result.action[0], result.action_weights[0])


class Played(NamedTuple):
    """A batch of games, move by move.

    Attributes:
        vertex: int32 [moves, games], the vertex eliminated.
        cost: float32 [moves, games], what it cost.
        guessed: bool [moves, games], whether a part of the cost is a guess.
        policy: float32 [moves, games, nodes], the probabilities given to the moves.
        kind: int16 [moves, games, nodes, nodes], the edges before the move.
        alive: bool [moves, games, nodes], the vertices before the move.
    """

    vertex: np.ndarray
    cost: np.ndarray
    guessed: np.ndarray
    policy: np.ndarray
    kind: np.ndarray
    alive: np.ndarray


def play(
    network: PolicyValue,
    games: Sequence[VertexGame],
    way: Way,
    key: Array,
    over: Callable[[], bool] = lambda: False,
) -> Played | None:
    """Plays games to the end, side by side, on all devices of this process.

    What is played in a game depends on the key and on its place among the games, not on the others
    or on the number of devices.

    Args:
        network: what the moves are chosen with.
        games: the games, of equal padding, as NumPy arrays.
        way: how they are chosen.
        key: the random key.
        over: asked before each move; where it is, the games are broken off and None comes back.
    """
    with own_settings():
        return _play(network, games, way, key, over)


def _play(
    network: PolicyValue,
    games: Sequence[VertexGame],
    way: Way,
    key: Array,
    over: Callable[[], bool],
) -> Played | None:
    mesh = _mesh(len(games))
    # All devices get the same number of games.
    filled = [*games, *[games[-1]] * (-len(games) % mesh.size)]
    sharding = NamedSharding(mesh, P(_AXIS))
    game = jax.device_put(stacked(filled), sharding)
    keys = jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(len(filled)))
    position, moves = game.start, []
    everywhere = jax.device_put(network, NamedSharding(mesh, P()))
    for turn in range(max(int(one.start.alive.sum()) for one in games)):
        if over():
            return None
        move = _moved(everywhere, game, position, keys, turn, way, mesh)
        seen = move.vertex, move.cost, move.guessed, move.policy, position.kind, position.alive
        moves.append([leaf[: len(games)] for leaf in jax.device_get(seen)])
        position = move.after
    return Played(*(np.stack(leaves) for leaves in zip(*moves, strict=True)))


@functools.cache
def _mesh(games: int) -> Mesh:
    """The devices that so many games are spread over."""
    return Mesh(np.array(jax.local_devices()[:games]), _AXIS)


@functools.partial(jax.jit, static_argnames=("way", "mesh"))
def _moved(
    network: PolicyValue,
    game: VertexGame,
    position: Position,
    keys: Array,
    turn: Any,
    way: Way,
    mesh: Mesh,
) -> Move:
    def here(
        network: PolicyValue, game: VertexGame, position: Position, keys: Array, turn: Array
    ) -> Move:
        now = jax.vmap(jax.random.fold_in, (0, None))(keys, turn)
        return jax.vmap(functools.partial(way, network))(game, position, now)

    batch = P(_AXIS)
    return jax.shard_map(
        here,
        mesh=mesh,
        in_specs=(P(), batch, batch, batch, P()),
        out_specs=batch,
        check_vma=False,
    )(network, game, position, keys, turn)


def _played(game: VertexGame, position: Position, vertex: Array, policy: Array) -> Move:
    chex.assert_equal_shape([policy, position.alive])
    after, cost, guessed = game.step(position, vertex)
    return Move(after, vertex, cost, guessed, policy)


def _batched(tree: Any) -> Any:
    return jax.tree.map(lambda leaf: leaf[None], tree)


def _finite(logits: Array) -> Array:
    return jnp.maximum(logits, jnp.finfo(logits.dtype).min)
