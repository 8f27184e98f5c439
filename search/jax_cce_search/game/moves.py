"""Insertion moves of simulated annealing, and how much dearer a move may be."""

from typing import Any

import numpy as np

from jax_cce_search.game.jit import inlined

__all__ = [
    "drawn",
    "heat",
    "random_numbers",
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
