"""Insertion moves of simulated annealing, and how much dearer a move may be."""

from typing import Any

import numpy as np

from jax_cce_search.game.jit import inlined, lowest

__all__ = [
    "drawn",
    "heat",
    "neighbour",
    "random_numbers",
    "weights_of",
]

# Moves from one temperature to the next.
_STEP = 64


def random_numbers(random: np.random.Generator, moves: int) -> Any:
    """What some moves draw: float64 [moves, 2], for `drawn` and for Metropolis' rule.

    A move is taken where it costs less than a temperature times a number of exponential
    distribution, which is to take it with the probability of Metropolis' rule.
    """
    numbers = np.empty((moves, 2))
    numbers[:, 0] = random.random(moves)
    numbers[:, 1] = random.standard_exponential(moves)
    return numbers


def weights_of(vertices: int) -> Any:
    """How probable a move to a neighbour is by its length: float64 [4, vertices] (see `neighbour`).

    Args:
        vertices: how many there are.
    """
    weights = np.zeros((4, vertices))
    weights[:, 1:] = 1 / np.arange(1, vertices)
    return weights


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
def neighbour(before, after, low, place, weights, draw, sums, ends):  # type: ignore[no-untyped-def]
    """The last position that a move changes, and whether the first vertex goes there.

    It is that of a neighbour of the first vertex, so that the move changes something: vertices that
    are no neighbours may change places at no cost. Without a neighbour later in the order, the last
    position is the first.

    Args:
        before: uint64 [words], the predecessors of the vertex at the first position.
        after: uint64 [words], its successors.
        low: the first position.
        place: int32 [nodes], the position of each vertex; less than the first one of other nodes.
        weights: float64 [4, vertices]: how probable a move of each length is, behind a predecessor,
            behind a successor, of a predecessor to the front, and of a successor.
        draw: a uniform random number.
        sums: float64 [4 nodes], room.
        ends: int64 [4 nodes], room.
    """
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
    draw *= total
    for at in range(count):
        if sums[at] >= draw:
            return low + ends[at], at % 2 == 0
    return low, True
