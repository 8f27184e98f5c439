"""Proximal policy optimisation on the same game and network, to compare with.

Games are played by moves drawn from the policy, without a tree; then the policy is moved towards
moves that were better than expected, not further than a clipped ratio.

Source: Schulman et al., "Proximal policy optimization algorithms" (2017), with generalised
advantage estimation (Schulman et al. 2016). Lohoff & Neftci (2024) compare it with AlphaZero on
this game.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jax_cce_search.alphazero.configuration import Configuration
from jax_cce_search.alphazero.learning import Learner, cost_deviance, local, means, safe_log
from jax_cce_search.alphazero.network import PolicyValue
from jax_cce_search.alphazero.numerics import own_settings
from jax_cce_search.alphazero.playing import Sampled
from jax_cce_search.alphazero.replay import PlayedGame
from jax_cce_search.alphazero.vertex_game import Position, VertexGame

__all__ = [
    "Example",
    "ProximalPolicy",
    "advantages",
]


class Example(NamedTuple):
    """Moves to learn from, a batch.

    Attributes:
        game: the games.
        position: the positions before the moves.
        costs: float32 [batch, nodes], what each vertex cost in the end, in the unit of rewards.
        vertex: int32 [batch], the moves.
        probability: float32 [batch], that of the move when it was played.
        advantage: float32 [batch], by how much it was better than expected.
    """

    game: VertexGame
    position: Position
    costs: Array
    vertex: Array
    probability: Array
    advantage: Array


class ProximalPolicy(Learner[Example]):
    """Learns from the last batch of games; see `Learner`."""

    @property
    def way(self) -> Sampled:
        """By the policy itself."""
        return Sampled()

    def study(
        self, paddings: Mapping[tuple[int, int], int], random: np.random.Generator
    ) -> Mapping[str, Any]:
        """Steps on the moves of the last games, each move as often as the others."""
        padding = list(paddings)[-1]
        games = list(self.replay.games[padding])[-self.configuration.self_play.games :]
        moves = [(game, at) for game in games for at in range(len(game))]
        advantage = np.concatenate([self._advantages(game, padding) for game in games])
        advantage = (advantage - advantage.mean()) / (advantage.std() + 1e-8)
        steps = []
        pending: list[int] = []
        for _ in range(self.configuration.learning.updates):
            while len(pending) < self.share:
                pending += random.permutation(len(moves)).tolist()
            batch, pending = pending[: self.share], pending[self.share :]
            drawn = [moves[k] for k in batch]
            vertex: Any = np.array([game.moves[at] for game, at in drawn], np.int32)
            policy: Any = np.stack([game.policy[at] for game, at in drawn])
            drawn_advantage: Any = advantage[batch].astype(np.float32)
            example = Example(
                *self.positions(drawn, padding),
                vertex,
                policy[np.arange(len(drawn)), vertex],
                drawn_advantage,
            )
            steps.append(self.step(example))
        return means(steps)

    @staticmethod
    def loss(
        network: PolicyValue, example: Example, configuration: Configuration
    ) -> tuple[Array, Mapping[str, Array]]:
        """The clipped surrogate, the deviance of the costs, and the entropy."""
        settings = configuration.proximal
        chex.assert_equal_shape([example.costs, example.position.alive])
        chex.assert_rank(example.costs, 2)
        of_move = [example.vertex, example.probability, example.advantage]
        chex.assert_shape(of_move, (len(example.costs),))
        chex.assert_type(of_move, [int, float, float])

        def one(
            game: VertexGame,
            position: Position,
            costs: Array,
            vertex: Array,
            probability: Array,
            advantage: Array,
        ) -> dict[str, Array]:
            predicted, alive = network(game, position), position.alive
            logs = jax.nn.log_softmax(jnp.where(alive, predicted.logits, -1e9))
            ratio = jnp.exp(logs[vertex] - safe_log(probability))
            clipped = jnp.clip(ratio, 1 - settings.clip, 1 + settings.clip)
            return {
                "surrogate": -jnp.minimum(ratio * advantage, clipped * advantage),
                "cost_deviance": cost_deviance(predicted.costs, costs, alive),
                "entropy": -jnp.sum(jnp.where(alive, jnp.exp(logs) * logs, 0.0)),
            }

        measures = jax.tree.map(jnp.mean, jax.vmap(one)(*example))
        weight = configuration.learning.cost_weight
        loss = measures["surrogate"] + weight * measures["cost_deviance"]
        return loss - settings.entropy * measures["entropy"], measures

    def _advantages(self, game: PlayedGame, padding: tuple[int, int]) -> np.ndarray:
        games, positions, _ = self.positions([(game, at) for at in range(len(game))], padding)
        # Padded, so that games of different length are one compilation.
        filled = jax.tree.map(
            lambda leaf: np.pad(leaf, [(0, padding[0] - len(leaf))] + [(0, 0)] * (leaf.ndim - 1)),
            (games, positions),
        )
        with own_settings():
            values = np.asarray(_values(local(self.network), *filled))[: len(game)]
        return advantages(-game.costs[game.moves], values, self.configuration.proximal.trace)


@jax.jit
def _values(network: PolicyValue, game: VertexGame, position: Position) -> Array:
    return jax.vmap(lambda *at: network(*at).value)(game, position)


def advantages(rewards: np.ndarray, values: np.ndarray, trace: float) -> np.ndarray:
    """Generalised advantages of the moves of a game, without discount.

    Args:
        rewards: [moves], what each move earned.
        values: [moves], the return expected before each move.
        trace: the decay, lambda: 0 looks one move ahead, 1 to the end.
    """
    surprise = rewards + np.append(values[1:], 0.0) - values
    result = np.zeros(len(rewards))
    later = 0.0
    for at in range(len(rewards) - 1, -1, -1):
        later = result[at] = surprise[at] + trace * later
    return result
