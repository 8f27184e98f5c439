"""Times programs against each other on a machine that may be shared.

The contenders take turns, so that a slow spell of the machine hits all of them. Figures are medians
with quartiles, and ratios are taken within a turn, where they are far steadier than the times.
"""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import math
import time
from collections.abc import Callable, Iterator, Mapping

import jax
import numpy as np


@dataclasses.dataclass(frozen=True)
class Measured:
    """A quantity measured once in each turn.

    Attributes:
      values: What was measured, by turn.
    """

    values: tuple[float, ...]

    @property
    def median(self) -> float:
        """The middle value."""
        return float(np.median(self.values))

    @property
    def quartiles(self) -> tuple[float, float]:
        """The bounds of the middle half of the values."""
        lower, upper = np.percentile(self.values, (25, 75))
        return float(lower), float(upper)

    def __truediv__(self, other: Measured | float) -> Measured:
        """Divides turn by turn, or every turn by one number."""
        if isinstance(other, Measured):
            return Measured(tuple(a / b for a, b in zip(self.values, other.values, strict=True)))
        return Measured(tuple(a / other for a in self.values))


def seconds(call: Callable[[], object], repeats: int = 1) -> float:
    """Times `repeats` calls until their results are there, and returns the seconds for one."""
    start = time.perf_counter()
    for _ in range(repeats):
        # Waiting inside the loop keeps results from piling up, as they would not in a user's loop.
        jax.block_until_ready(call())
    return (time.perf_counter() - start) / repeats


def cpu_seconds(call: Callable[[], object], repeats: int = 1) -> float:
    """Like `seconds`, in CPU time of the process."""
    start = time.process_time()
    for _ in range(repeats):
        jax.block_until_ready(call())
    return (time.process_time() - start) / repeats


@contextlib.contextmanager
def without_collections() -> Iterator[None]:
    """A context in which Python collects no garbage.

    Contenders that take turns allocate alike in each turn, so that collections, which come after so
    many allocations, hit the same one again and again.
    """
    gc.collect()
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def take_turns(
    calls: Mapping[str, Callable[[], object]],
    *,
    turns: int = 15,
    turn_seconds: float = 0.02,
    clock: Callable[..., float] = seconds,
) -> dict[str, Measured]:
    """Times each call once a turn, after two calls that compile and warm up.

    Args:
      calls: The contenders by name, as functions of no arguments.
      turns: How often each contender is timed.
      turn_seconds: How long a contender runs in a turn, at least: it is called as often as that
        takes, and the mean counts.
      clock: `seconds` or `cpu_seconds`.

    Returns:
      The seconds for one call of each contender.
    """
    repeats = {}
    for name, call in calls.items():
        seconds(call)
        repeats[name] = math.ceil(turn_seconds / seconds(call))
    values: dict[str, list[float]] = {name: [] for name in calls}
    names = list(calls)
    with without_collections():
        for turn in range(turns):
            # Everyone goes first once in a while: the caches are as the predecessor left them.
            first = turn % len(names)
            for name in names[first:] + names[:first]:
                values[name].append(clock(calls[name], repeats[name]))
    return {name: Measured(tuple(of_name)) for name, of_name in values.items()}


def fastest(measured: Mapping[str, Measured]) -> str:
    """Returns the name whose median is smallest."""
    return min(measured, key=lambda name: measured[name].median)
