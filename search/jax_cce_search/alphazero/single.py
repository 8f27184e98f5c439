"""Playing on one graph as a search for its best order, and learning from it."""

import dataclasses

import jax
import numpy as np

from jax_cce_search.alphazero import playing
from jax_cce_search.alphazero.configuration import Configuration, Learning, SelfPlay
from jax_cce_search.alphazero.encoding import Encoding
from jax_cce_search.alphazero.network import PolicyValue
from jax_cce_search.alphazero.self_play import AlphaZero
from jax_cce_search.searching import Search

__all__ = [
    "Player",
]

# Large graphs are played fewer at a time: positions in all trees take so many bytes at most.
_MOST_BYTES = 1 << 30


class Player:
    """Plays on the graph of a search, and offers it the orders.

    Attributes:
        search: the search.
        encoding: its graph.
        network: the policy at the beginning.
        settings: how the policy is trained.
    """

    settings = Configuration(
        iterations=1 << 20,
        self_play=SelfPlay(games=16, simulations=32, considered=16),
        learning=Learning(rate=5e-4, warmup=20, batch=128, updates=16, replay=8_000),
    )

    def __init__(self, search: Search, encoding: Encoding, network: PolicyValue) -> None:
        self.search, self.encoding, self.network = search, encoding, network
        # What was not tabulated by now is guessed, so that shapes stay as they are.
        self._padding = encoding.padding

    def play(self, way: playing.Way) -> None:
        """Plays one game.

        Args:
            way: how moves are chosen.
        """
        game = self.encoding.game(self._padding)
        key = jax.random.key(self.search.seed)
        played = playing.play(self.network, [game], way, key, self.search.over)
        if played is not None:
            self.search.offer(self.encoding.order(played.vertex[:, 0]))

    def train(self) -> None:
        """Plays batches of games and learns from them, until the search is over."""
        nodes = self._padding[0]
        settings = self.settings
        trees = 2 * nodes**2 * (settings.self_play.simulations + 1)
        games = max(1, min(settings.self_play.games, _MOST_BYTES // trees))
        settings = dataclasses.replace(
            settings, self_play=dataclasses.replace(settings.self_play, games=games)
        )
        learner = AlphaZero(self.network, settings, [self.encoding], jax.local_devices())
        random = np.random.default_rng([self.search.seed, 1])
        turn = 0
        while not self.search.over():
            key = jax.random.fold_in(jax.random.key(self.search.seed), turn)
            # As many at a time as ever, which are compiled; those beyond the budget do not count.
            count = self.search.allowed(games)
            played = learner.play([0] * games, self._padding, key, self.search.over)
            for game, cost in played[:count]:
                self.search.evaluations += 1
                if cost < self.search.cost:
                    self.search.offer(self.encoding.order(game.moves), cost)
            if self.search.over():
                return
            learner.study({self._padding: 1}, random)
            turn += 1
