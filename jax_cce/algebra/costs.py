"""What a sequence of steps costs, in each of the named measures.

Every measure is an integer, so that costs of parts add up exactly and orders compare the same on
every machine.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, get_args

from jax_cce import reports

__all__ = [
    "COSTS",
    "UNITS",
    "Cost",
    "CostName",
    "check",
    "compared",
    "measure",
    "with_unit",
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


# What each of them counts.
UNITS: dict[str, str] = {
    "multiplications": "products of two coefficients",
    "nonunit_multiplications": "products without factors 1 and -1",
    "flops": "additions and multiplications",
    "bytes": "bytes read and written",
    "runtime_model": "picoseconds, estimated",
}


assert tuple(COSTS) == tuple(UNITS) == get_args(CostName)


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


def with_unit(name: str, value: float) -> str:
    """A cost for people: such as "1,335 flops" or "27.1 µs".

    Args:
        name: a named measure; or "runtime", whose values are seconds, "memory", or "native"; others
            are shown by their name.
        value: the cost.
    """
    if name == "runtime":
        for unit, scale in (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6)):
            if value >= scale:
                return f"{value / scale:.3g} {unit}"
        return f"{value / 1e-9:.3g} ns"
    words = {
        "runtime_model": "ps by the runtime model",
        "memory": "bytes",
        "native": "additions",
    }
    return f"{reports.grouped(value)} {words.get(name, name.replace('_', ' '))}"


def compared(name: str, values: Mapping[str, float]) -> tuple[tuple[str, str, str], ...]:
    """Contenders, their costs in one measure, and these as multiples of the least; sorted."""
    best = min(values.values(), default=0)
    return tuple(
        (who, with_unit(name, value), f"{value / best:.2f}" if best else "")
        for who, value in sorted(values.items(), key=lambda item: item[1])
    )
