"""`Optimized`: what a search found."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from jax_cce.planning.plans import Plan
from jax_cce.registry import StoredOrder
from jax_cce.registry.ranking import MEASURED
from jax_cce_search.pictures import curves
from jax_cce_search.searching import Improvement

__all__ = [
    "Optimized",
]


@dataclass(frozen=True)
class Optimized:
    """What a search found.

    Attributes:
        name: the function's name.
        entry: what is stored in the registry for this function and cost.
        plan: the plan of the order found.
        value: its cost: a count, measured seconds for cost "runtime", or bytes for "memory".
        bound: what every order costs at least, where that is known.
        reference: the cost of forward, reverse and minimal Markowitz, and of the order that was in
            use before; for "memory" that of each contender; empty for "runtime", see `times`.
        times: measured seconds of each contender, for cost "runtime".
        failures: why a contender could not be measured.
        improvements: the best order so far over the time of the search, whose seconds and
            evaluations count through all its parts.
        seconds: how long the search took.
        evaluations: how many orders it looked at.
        interrupted: whether it was ended from the keyboard.
    """

    name: str
    entry: StoredOrder
    plan: Plan = field(repr=False)
    value: float
    bound: int | None
    reference: Mapping[str, int]
    times: Mapping[str, float]
    failures: Mapping[str, str]
    improvements: tuple[Improvement, ...] = field(repr=False)
    seconds: float
    evaluations: int
    interrupted: bool = False

    @property
    def order(self) -> tuple[int, ...]:
        """The order, for `jax_cce.jacobian(..., order=...)`."""
        return self.entry.order

    @property
    def is_optimal(self) -> bool:
        """Whether no order costs less, by proof."""
        return self.bound is not None and self.value <= self.bound

    @property
    def gap(self) -> float | None:
        """By which fraction the order may exceed the best one; None where no bound is known."""
        if self.bound is None or self.bound <= 0:
            return 0.0 if self.is_optimal else None
        return self.value / self.bound - 1

    @property
    def status(self) -> str:
        """How far from the best the order can be, in words."""
        if self.entry.cost in MEASURED:
            return f"measured on {self.entry.device}"
        if self.is_optimal:
            return "optimal"
        if self.gap is None:
            return "no lower bound known"
        return f"at most {100 * self.gap:.1f} % above the lower bound {self.bound:,}"

    def __str__(self) -> str:
        """A summary in a few lines."""
        if self.entry.cost == "runtime":
            best = min(self.times.values())
            lines = [f"{self.name}: {self.entry.strategy}, {self.value:.3g} s, {self.status}"]
            lines += [
                f"  {name}: {seconds:.3g} s ({seconds / best:.2f})"
                for name, seconds in sorted(self.times.items(), key=lambda item: item[1])
            ]
            lines += [f"  {name}: {why}" for name, why in self.failures.items()]
        else:
            lines = [f"{self.name}: {self.value:,.0f} {self.entry.cost}, {self.status}"]
            lines += [f"  {name}: {cost:,}" for name, cost in self.reference.items()]
        how = f"found by {self.entry.strategy}" if not self.times else "searched"
        lines.append(f"  {how} in {self.seconds:.1f} s, {self.evaluations:,} orders looked at")
        return "\n".join(lines)

    def plot_search(self, path: Any = None) -> Any:
        """Draws the best cost over time, by strategy; see `jax_cce_search.pictures`."""
        return curves.plot_search(self, path)
