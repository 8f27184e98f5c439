"""Trials of a policy: what the orders cost that it finds on some graphs."""

from collections.abc import Sequence

import jax

from jax_cce_search.alphazero import graphs, playing
from jax_cce_search.alphazero.configuration import Configuration
from jax_cce_search.alphazero.encoding import Encoding
from jax_cce_search.alphazero.network import PolicyValue

__all__ = [
    "costs_by",
    "grouped",
]

# At most so many games are played side by side.
_TRIED = 128


def costs_by(
    network: PolicyValue,
    encodings: Sequence[Encoding],
    way: playing.Way,
    configuration: Configuration | None = None,
    *,
    seed: int = 0,
) -> list[int]:
    """What the orders cost that a policy finds on some graphs, the prefixes included.

    Args:
        network: the policy.
        encodings: the graphs.
        way: how the moves are chosen.
        configuration: whose paddings are used; None for the least that fit.
        seed: seeds the moves that are random.
    """
    costs = [0] * len(encodings)
    for padding, members in grouped(encodings, configuration).items():
        for first in range(0, len(members), _TRIED):
            some = members[first : first + _TRIED]
            games = [encodings[at].game(padding) for at in some]
            played = playing.play(network, games, way, jax.random.key(seed))
            assert played is not None
            for row, at in enumerate(some):
                order = encodings[at].order(played.vertex[:, row])
                left = len(encodings[at].problem.vertices)
                costs[at] = encodings[at].problem.evaluate(order[:left])
    return costs


def grouped(
    encodings: Sequence[Encoding], configuration: Configuration | None = None
) -> dict[tuple[int, int], list[int]]:
    """The graphs of each padding, by their number of vertices.

    Args:
        encodings: the graphs.
        configuration: whose paddings are used, without the graphs that fit none; None for the
            least that fit.
    """
    groups: dict[tuple[int, int], list[int]] = {}
    for number, encoding in enumerate(encodings):
        padding: tuple[int, int] | None = encoding.padding
        if configuration is not None:
            padding = graphs.fitting(encoding, configuration.graphs)
        if padding is not None:
            groups.setdefault(padding, []).append(number)
    for group in groups.values():
        group.sort(key=lambda number: len(encodings[number].problem.vertices))
    return dict(sorted(groups.items()))
