"""AlphaZero's learning: from games that a tree search plays, towards what the search found.

An iteration draws positions from the replay buffer and moves the policy towards the probabilities
that the search gave the moves, and the predicted costs towards those that the vertices turned out
to have. That the value is a sum over vertices, each of which learns from its own cost, gives as
many targets as there are vertices where a value for the whole game gives one.

Source: Silver et al., "A general reinforcement learning algorithm that masters chess, shogi, and Go
through self-play" (2018); Danihelka et al., "Policy improvement by planning with Gumbel" (2022).
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jax_cce_search.alphazero.configuration import Configuration
from jax_cce_search.alphazero.learning import Learner, cost_deviance, means, safe_log
from jax_cce_search.alphazero.network import PolicyValue
from jax_cce_search.alphazero.playing import Searched
from jax_cce_search.alphazero.vertex_game import Position, VertexGame

__all__ = [
    "AlphaZero",
    "Example",
]


class Example(NamedTuple):
    """Positions to learn from, a batch.

    Attributes:
        game: the games.
        position: the positions.
        costs: float32 [batch, nodes], what each vertex cost in the end, in the unit of rewards.
        policy: float32 [batch, nodes], the probabilities that the search gave the moves.
    """

    game: VertexGame
    position: Position
    costs: Array
    policy: Array


class AlphaZero(Learner[Example]):
    """Learns from the search; see `Learner`."""

    @property
    def way(self) -> Searched:
        """By the tree search."""
        settings = self.configuration.self_play
        return Searched(settings.simulations, settings.considered, settings.noise)

    def study(
        self, paddings: Mapping[tuple[int, int], int], random: np.random.Generator
    ) -> Mapping[str, Any]:
        """Steps on positions drawn from the replay buffer, each step on those of one padding."""
        shares = np.array([*paddings.values()]) / sum(paddings.values())
        steps = []
        for _ in range(self.configuration.learning.updates):
            padding = list(paddings)[random.choice(len(shares), p=shares)]
            drawn = self.replay.sample(padding, self.share, random)
            policy: Any = np.stack([game.policy[at] for game, at in drawn])
            steps.append(self.step(Example(*self.positions(drawn, padding), policy)))
        return means(steps)

    @staticmethod
    def loss(
        network: PolicyValue, example: Example, configuration: Configuration
    ) -> tuple[Array, Mapping[str, Array]]:
        """The divergence of the policy from the search's, and the deviance of the costs."""

        chex.assert_equal_shape([example.costs, example.policy, example.position.alive])
        chex.assert_rank(example.costs, 2)

        def one(
            game: VertexGame, position: Position, costs: Array, policy: Array
        ) -> dict[str, Array]:
            predicted, alive = network(game, position), position.alive
            logs = jax.nn.log_softmax(jnp.where(alive, predicted.logits, -1e9))
            left = jnp.sum(jnp.where(alive, costs, 0.0))
            return {
                "policy_divergence": jnp.sum(policy * (safe_log(policy) - logs)),
                "cost_deviance": cost_deviance(predicted.costs, costs, alive),
                "value_error": jnp.abs(jnp.sum(predicted.costs) - left),
            }

        measures = jax.tree.map(jnp.mean, jax.vmap(one)(*example))
        weight = configuration.learning.cost_weight
        return measures["policy_divergence"] + weight * measures["cost_deviance"], measures
