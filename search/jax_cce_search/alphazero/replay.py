"""Played games, and the positions in them to learn from."""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

import chex
import numpy as np

__all__ = [
    "PlayedGame",
    "Replay",
]


@dataclass(frozen=True)
class PlayedGame:
    """A game from its first move to its last.

    Attributes:
        graph: the number of the graph among those that are learnt from.
        moves: int32 [moves], the vertices in the order of elimination.
        kind: integers [moves, nodes, nodes], the edges before each move.
        alive: bool [moves, nodes], the vertices before each move.
        policy: float32 [moves, nodes], the probabilities that the search gave the moves.
        costs: float32 [nodes], what each vertex cost when it was eliminated.
    """

    graph: int
    moves: np.ndarray
    kind: np.ndarray
    alive: np.ndarray
    policy: np.ndarray
    costs: np.ndarray

    def __post_init__(self) -> None:
        moves, nodes = len(self.moves), len(self.costs)
        chex.assert_shape(self.moves, (moves,))
        chex.assert_shape(self.costs, (nodes,))
        chex.assert_shape(self.kind, (moves, nodes, nodes))
        chex.assert_shape([self.alive, self.policy], (moves, nodes))
        chex.assert_type([self.moves, self.kind, self.alive], [np.int32, int, bool])
        chex.assert_type([self.policy, self.costs], np.float32)

    def __len__(self) -> int:
        return len(self.moves)


class Replay:
    """The last games played, by the padding of their graphs.

    Args:
        capacity: how many positions are kept of each padding; the oldest games go first.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.games: dict[tuple[int, int], deque[PlayedGame]] = {}

    def __iter__(self) -> Iterator[tuple[tuple[int, int], PlayedGame]]:
        for padding, games in self.games.items():
            for game in games:
                yield padding, game

    def positions(self, padding: tuple[int, int]) -> int:
        """How many positions there are of a padding."""
        return sum(map(len, self.games.get(padding, ())))

    def add(self, padding: tuple[int, int], game: PlayedGame) -> None:
        """Keeps a game."""
        games = self.games.setdefault(padding, deque())
        games.append(game)
        kept = self.positions(padding)
        while len(games) > 1 and kept > self.capacity:
            kept -= len(games.popleft())

    def sample(
        self, padding: tuple[int, int], count: int, random: np.random.Generator
    ) -> list[tuple[PlayedGame, int]]:
        """Positions drawn uniformly, each a game and the number of moves before it."""
        games = self.games[padding]
        ends = np.cumsum([len(game) for game in games])
        drawn = random.integers(ends[-1], size=count)
        at = np.searchsorted(ends, drawn, side="right")
        return [
            (games[g], int(d - (ends[g - 1] if g else 0)))
            for g, d in zip(at.tolist(), drawn.tolist(), strict=True)
        ]
