"""What learners have in common: a network, its optimiser, the games it plays, and the devices.

Games are played side by side on the devices of this process; a step of optimisation is
data-parallel over the devices of all processes.
"""

import abc
import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Generic, TypeVar

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from jax_cce_search.alphazero import playing
from jax_cce_search.alphazero.configuration import Configuration
from jax_cce_search.alphazero.encoding import Encoding, stacked
from jax_cce_search.alphazero.network import PolicyValue
from jax_cce_search.alphazero.numerics import own_settings
from jax_cce_search.alphazero.replay import PlayedGame, Replay
from jax_cce_search.alphazero.vertex_game import Position, VertexGame

__all__ = [
    "Learner",
    "cost_deviance",
    "local",
    "means",
    "safe_log",
]

# The axis of the mesh of devices, over which the positions of a batch are spread.
_AXIS = "positions"
# Single precision does not hold all integers from here on.
_INEXACT = 1 << 24
_Example = TypeVar("_Example")
_Padding = tuple[int, int]


class Learner(abc.ABC, Generic[_Example]):
    """A network that plays and learns.

    Attributes:
        network: the network, a copy on every device.
        optimiser_state: the optimiser's.
        replay: the games that it learns from.
        graphs: the graphs that the games are played on.
        steps: optimisation steps made so far.
    """

    def __init__(
        self,
        network: PolicyValue,
        configuration: Configuration,
        graphs: Sequence[Encoding],
        devices: Sequence[jax.Device] | None = None,
    ) -> None:
        """Begins with a network.

        Args:
            network: the network.
            configuration: the settings.
            graphs: the graphs that games are played on.
            devices: those that it learns on; None for all, of all processes.
        """
        self.configuration, self.graphs = configuration, graphs
        self.replay = Replay(configuration.learning.replay)
        self.steps = 0
        self._games: dict[tuple[int, _Padding], VertexGame] = {}
        self._mesh = Mesh(np.array(devices or jax.devices()), _AXIS)
        with own_settings():
            self.put(network, _optimiser(configuration).init(network))
        # Nothing that is compiled depends on the seed.
        self._update = _compiled(type(self), dataclasses.replace(configuration, seed=0))

    def put(self, network: PolicyValue, optimiser_state: Any) -> None:
        """Goes on with a network and the state of its optimiser."""
        everywhere = NamedSharding(self._mesh, P())
        self.network, self.optimiser_state = jax.tree.map(
            lambda leaf: jax.make_array_from_process_local_data(everywhere, np.asarray(leaf)),
            (network, optimiser_state),
        )

    def game(self, graph: int, padding: _Padding) -> VertexGame:
        """The game on one of the graphs."""
        game = self._games.get((graph, padding))
        if game is None:
            logarithmic = self.configuration.learning.logarithmic
            game = self.graphs[graph].game(padding, logarithmic=logarithmic)
            self._games[graph, padding] = game
        return game

    def play(
        self,
        chosen: Sequence[int],
        padding: _Padding,
        key: Array,
        over: Callable[[], bool] = lambda: False,
    ) -> list[tuple[PlayedGame, int]]:
        """Plays a game on each of some graphs, and keeps it.

        Args:
            chosen: numbers of graphs.
            padding: that of the games.
            key: the random key.
            over: asked before each move; where it is, there are no games.

        Returns:
            The games, each with what its order costs, the prefix included.
        """
        games = [self.game(graph, padding) for graph in chosen]
        played = playing.play(local(self.network), games, self.way, key, over)
        if played is None:
            return []
        games_and_costs = [
            self._recorded(graph, padding, row, played) for row, graph in enumerate(chosen)
        ]
        for game, _ in games_and_costs:
            self.replay.add(padding, game)
        return games_and_costs

    @property
    @abc.abstractmethod
    def way(self) -> playing.Way:
        """How moves are chosen in the games that it learns from."""

    @abc.abstractmethod
    def study(
        self, paddings: Mapping[_Padding, int], random: np.random.Generator
    ) -> Mapping[str, Any]:
        """Makes the steps of one iteration.

        Args:
            paddings: those of the games that may be learnt from, in the order in which they were
                last played, each with its weight.
            random: draws what is learnt from.

        Returns:
            What the loss is made of, by name, mean over the steps.
        """

    @staticmethod
    @abc.abstractmethod
    def loss(
        network: PolicyValue, example: _Example, configuration: Configuration
    ) -> tuple[Array, Mapping[str, Array]]:
        """What is minimised on a batch of positions, and its parts by name."""

    def positions(
        self, drawn: Sequence[tuple[PlayedGame, int]], padding: _Padding
    ) -> tuple[VertexGame, Position, Any]:
        """Games, positions, and the costs of all vertices in the end, of a batch of moves.

        The games are outlines, the costs in the unit of the rewards, and all are NumPy arrays.
        """
        games = stacked([self.game(game.graph, padding).outline() for game, _ in drawn])
        kind: Any = np.stack([game.kind[at] for game, at in drawn]).astype(np.int16)
        alive: Any = np.stack([game.alive[at] for game, at in drawn])
        costs = np.stack([game.costs for game, _ in drawn])
        return games, Position(kind, alive), costs

    def step(self, example: _Example) -> Mapping[str, Array]:
        """One step of optimisation on this process's share of a batch, as NumPy arrays."""
        sharding = NamedSharding(self._mesh, P(_AXIS))
        with own_settings():
            shared = jax.tree.map(
                lambda leaf: jax.make_array_from_process_local_data(sharding, leaf), example
            )
            self.network, self.optimiser_state, measures = self._update(
                self.network, self.optimiser_state, shared
            )
        self.steps += 1
        return measures

    @property
    def share(self) -> int:
        """This process's number of positions in a batch, as many for each device."""
        each = -(-self.configuration.learning.batch // self._mesh.size)
        return each * len(self._mesh.local_devices)

    def _recorded(
        self, graph: int, padding: _Padding, row: int, played: playing.Played
    ) -> tuple[PlayedGame, int]:
        encoding = self.graphs[graph]
        count = len(encoding.problem.vertices)
        moves, paid = played.vertex[:count, row], played.cost[:count, row]
        cost = encoding.problem.prefix_cost + round(float(paid.sum(dtype=np.float64)))
        reward = self.game(graph, padding).reward
        if played.guessed[:count, row].any() or cost >= _INEXACT:
            paid, cost = encoding.priced(encoding.order(moves))
            # What was missing is tabulated now.
            del self._games[graph, padding]
        costs = np.zeros(padding[0], np.float32)
        costs[moves] = -np.asarray(reward(paid))
        small = np.uint8 if padding[1] <= 256 else np.int16
        game = PlayedGame(
            graph,
            moves,
            played.kind[:count, row].astype(small),
            played.alive[:count, row],
            played.policy[:count, row],
            costs,
        )
        return game, cost


@functools.cache
def _compiled(kind: type[Learner[Any]], configuration: Configuration) -> Callable[..., Any]:
    """A step of optimisation; all learners of a kind with the same settings share it."""
    optimiser = _optimiser(configuration)

    def updated(
        network: PolicyValue, state: Any, example: Any
    ) -> tuple[PolicyValue, Any, Mapping[str, Array]]:
        gradient, measures = jax.grad(kind.loss, has_aux=True)(network, example, configuration)
        change, state = optimiser.update(gradient, state, network)
        return optax.apply_updates(network, change), state, measures

    return jax.jit(updated, donate_argnums=(0, 1))


def _optimiser(configuration: Configuration) -> optax.GradientTransformation:
    learning = configuration.learning
    schedule = optax.warmup_cosine_decay_schedule(
        0.0,
        learning.rate,
        learning.warmup,
        max(configuration.iterations * learning.updates, learning.warmup + 1),
        learning.rate * learning.last_rate,
    )
    return optax.chain(
        optax.clip_by_global_norm(1.0),
        optax.adamw(schedule, weight_decay=learning.weight_decay),
    )


def cost_deviance(predicted: Array, seen: Array, alive: Array) -> Array:
    """How far predicted costs are from those seen, as rates of Poisson variables: a scalar.

    Its minimum over constants is the mean, so the sum over the vertices is an unbiased value.
    """
    chex.assert_equal_shape([predicted, seen, alive])
    rate, seen = jnp.where(alive, predicted, 1.0), jnp.where(alive, seen, 1.0)
    relative = jnp.where(seen > 0, seen * (safe_log(seen) - jnp.log(rate)), 0.0)
    return jnp.sum(rate - seen + relative)


def safe_log(values: Array) -> Array:
    """The logarithm, finite at 0."""
    return jnp.log(jnp.maximum(values, 1e-30))


def local(network: PolicyValue) -> PolicyValue:
    """This process's own copy of a network that all processes share."""
    return jax.tree.map(
        lambda leaf: leaf if leaf.is_fully_addressable else leaf.addressable_data(0), network
    )


def means(steps: Sequence[Mapping[str, Array]]) -> dict[str, float]:
    """The mean of each measure over some steps."""
    return {name: float(np.mean([float(one[name]) for one in steps])) for name in steps[0]}
