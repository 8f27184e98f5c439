"""What a sequence of steps costs, in each of the named measures.

Every measure is an integer, so that costs of parts add up exactly and orders compare the same on
every machine.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

__all__ = [
    "COSTS",
    "Cost",
    "CostName",
    "check",
    "measure",
]

_BYTES = 8
# The runtime model, in picoseconds: what an operation and a moved byte take. Fitted by
# `python -m benchmarks.runtime_model` on a CPU; only their ratio decides which order is chosen.
_PER_FLOP = 23
_PER_BYTE = 6


@dataclass
class Cost:
    """What some steps cost, to be read in the unit of a named measure.

    Attributes:
        multiplications: products of two coefficients in the convention of the published tables.
        nonunit: those of them in which no factor is known to be 1 or -1.
        flops: additions and multiplications that are executed.
        moved: numbers read and written.
    """

    multiplications: int = 0
    nonunit: int = 0
    flops: int = 0
    moved: int = 0


def _runtime(cost: Cost) -> int:
    return _PER_FLOP * cost.flops + _PER_BYTE * _BYTES * cost.moved


CostName = Literal["multiplications", "nonunit_multiplications", "flops", "bytes", "runtime_model"]

COSTS: dict[str, Callable[[Cost], int]] = {
    "multiplications": lambda cost: cost.multiplications,
    "nonunit_multiplications": lambda cost: cost.nonunit,
    "flops": lambda cost: cost.flops,
    "bytes": lambda cost: _BYTES * cost.moved,
    "runtime_model": _runtime,
}


assert tuple(COSTS) == get_args(CostName)


def check(name: str) -> str:
    """The name of a measure.

    Raises:
        ValueError: for an unknown name.
    """
    if name not in COSTS:
        names = ", ".join(map(repr, COSTS))
        raise ValueError(f"cost must be one of {names}, but got {name!r}.")
    return name


def measure(name: str, cost: Cost) -> int:
    """A cost in a named measure."""
    return COSTS[check(name)](cost)
