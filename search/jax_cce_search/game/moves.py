"""Insertion moves of simulated annealing, and how much dearer a move may be."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from jax_cce_search.game.jit import inlined, lowest

__all__ = [
    "MIXED",
    "NEIGHBOURS",
    "PLAIN",
    "Proposals",
    "drawn",
    "heat",
    "neighbour",
    "random_numbers",
]

# Moves from one temperature to the next.
_STEP = 64
# A graph and a run of usual size, and the largest exponent of a length.
_VERTICES, _MOVES, _STEEPEST = 400, 100, 4.0


@dataclass(frozen=True)
class Proposals:
    """How probable moves are.

    A move to a neighbour has the weight of its kind, divided by a power of its length. There are
    four kinds: behind a predecessor, behind a successor, of a predecessor to the front, and of a
    successor to the front.

    Attributes:
        anywhere: the share of moves whose lengths are drawn whatever is there (see `drawn`).
        kinds: for each kind the logarithm of its weight.
        forwards: the exponent of moves behind a neighbour, half-way through a run.
        backwards: the exponent of moves to the front.
        cooling: what is added to both exponents at the end of a run, and taken from them at its
            start.
        vertices: what is added for each factor of ten in the number of vertices over 400.
        moves: what is added for each factor of ten in the moves a vertex of the run over 100.
    """

    anywhere: float = 0.5
    kinds: tuple[float, float, float, float] = (0.0, 0.0, 0.0, 0.0)
    forwards: float = 0.75
    backwards: float = 0.75
    cooling: float = 0.0
    vertices: float = 0.0
    moves: float = 0.0

    def weights(self, vertices: int, moves: float, progress: float) -> Any:
        """The weights of moves by kind and length: float64 [4, vertices].

        Args:
            vertices: how many there are.
            moves: number of moves of the run.
            progress: the share of it that is done.
        """
        added = self.cooling * (2 * progress - 1)
        added += self.vertices * np.log10(vertices / _VERTICES)
        added += self.moves * np.log10(max(moves, 1) / vertices / _MOVES)
        exponents = np.clip(np.array([self.forwards, self.backwards]) + added, 0, _STEEPEST)
        weights = np.zeros((4, vertices))
        of_lengths = np.arange(1.0, vertices) ** -exponents[:, None]
        weights[:, 1:] = np.exp(self.kinds)[:, None] * of_lengths.repeat(2, 0)
        return weights


# Whatever is there; half of the moves to neighbours; neighbours alone, which sticks now and then.
PLAIN, MIXED, NEIGHBOURS = Proposals(anywhere=1.0), Proposals(), Proposals(anywhere=0.0)


def random_numbers(random: np.random.Generator, moves: int) -> Any:
    """What some moves draw: float64 [moves, 2], for `drawn` and for Metropolis' rule.

    A move is taken where it costs less than a temperature times a number of exponential
    distribution, which is to take it with the probability of Metropolis' rule.
    """
    numbers = np.empty((moves, 2))
    numbers[:, 0] = random.random(moves)
    numbers[:, 1] = random.standard_exponential(moves)
    return numbers


@inlined
def drawn(low, last, draw):  # type: ignore[no-untyped-def]
    """The last position that a move changes, and whether the first vertex goes there.

    Else that from the last position goes to the first. Distances are spread evenly on a
    logarithmic scale.

    Args:
        low: the first position that changes, less than the last one.
        last: the last position of the order.
        draw: a uniform random number.
    """
    forwards = draw < 0.5
    share = 2 * draw if forwards else 2 * draw - 1
    distance = int(np.exp(share * np.log(last - low + 1)))
    return low + min(distance, last - low), forwards


@inlined
def heat(known, tally, schedule):  # type: ignore[no-untyped-def]
    """The temperature, in the unit of costs; it changes every now and then.

    Args:
        known: that of the move before; 0 before the first.
        tally: int64 [5]: cursor, sweep, current cost, best cost, moves so far.
        schedule: float64 [3]: number of moves in all, and first and last temperature as a
            fraction of the current cost.
    """
    if known > 0 and tally[4] % _STEP:
        return known
    progress = tally[4] / schedule[0]
    return schedule[1] * (schedule[2] / schedule[1]) ** progress * tally[2]


@inlined
def neighbour(before, after, low, last, place, anywhere, weights, draw, sums, ends):  # type: ignore[no-untyped-def]
    """The last position that a move changes, and whether the first vertex goes there.

    As a rule it is that of a neighbour of the first vertex, so that the move changes something:
    vertices that are no neighbours may change places at no cost. Without a neighbour later in the
    order, the last position is the first.

    Args:
        before: uint64 [words], the predecessors of the vertex at the first position.
        after: uint64 [words], its successors.
        low: the first position.
        last: the last position of the order.
        place: int32 [nodes], the position of each vertex; less than the first one of other nodes.
        anywhere: the share of moves whose lengths are drawn whatever is there.
        weights: float64 [4, vertices]: how probable the others are by kind and length (see
            `Proposals`).
        draw: a uniform random number.
        sums: float64 [4 nodes], room.
        ends: int64 [4 nodes], room.
    """
    if draw < anywhere:
        return drawn(low, last, draw / anywhere)
    count, total = 0, 0.0
    for word in range(before.shape[0]):
        bits = before[word] | after[word]
        while bits:
            distance = place[(word << 6) + lowest(bits)] - low
            if distance > 0:
                kind = 0 if before[word] & bits & (~bits + np.uint64(1)) else 1
                for turn in range(2):
                    total += weights[2 * turn + kind, distance]
                    sums[count], ends[count] = total, distance
                    count += 1
            bits &= bits - np.uint64(1)
    draw = total * (draw - anywhere) / (1 - anywhere)
    for at in range(count):
        if sums[at] >= draw:
            return low + ends[at], at % 2 == 0
    return low, True
