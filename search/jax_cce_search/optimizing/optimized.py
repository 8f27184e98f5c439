"""`Optimized`: what a search found."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from jax_cce.algebra.costs import compared, with_unit
from jax_cce.eliminations import Item, vertices_of
from jax_cce.planning.plans import Plan
from jax_cce.registry import StoredOrder
from jax_cce.registry.ranking import MEASURED
from jax_cce.registry.stored_order import SHORT_KEY
from jax_cce.reports import Section
from jax_cce_search.pictures import curves
from jax_cce_search.searching import Improvement

__all__ = [
    "Optimized",
]


@dataclass(frozen=True, repr=False)
class Optimized:
    """What a search found.

    Attributes:
        name: the function's name.
        entry: what is stored in the registry for this function and cost.
        plan: the plan of the order found.
        value: its cost: a count, measured seconds for cost "runtime", or bytes for "memory".
        bound: what every order of vertices costs at least, where that is known.
        reference: the cost of forward, reverse and minimal Markowitz, and of the order that was in
            use before; for "memory" that of each contender; empty for "runtime", see `times`.
        times: measured seconds of each contender, for cost "runtime".
        failures: why a contender could not be measured.
        improvements: the best order so far over the time of the search, whose seconds and
            evaluations count through all its parts.
        seconds: how long the search took.
        evaluations: how many orders it looked at.
        interrupted: whether it was ended from the keyboard.
        layer: the layer of the registry that holds the entry, "memory" where that is only this
            process.
    """

    name: str
    entry: StoredOrder
    plan: Plan
    value: float
    bound: int | None
    reference: Mapping[str, int]
    times: Mapping[str, float]
    failures: Mapping[str, str]
    improvements: tuple[Improvement, ...]
    seconds: float
    evaluations: int
    interrupted: bool = False
    layer: str = "memory"

    @property
    def order(self) -> tuple[Item, ...]:
        """The order, for `jax_cce.jacobian(..., order=...)`."""
        return self.entry.order

    @property
    def is_optimal(self) -> bool:
        """Whether no order of vertices costs less, by proof; sequences with edges may."""
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
            return "optimal over vertex orders"
        if self.gap is None:
            return "no lower bound known"
        return f"at most {100 * self.gap:.1f} % above the lower bound {self.bound:,}"

    def __repr__(self) -> str:
        """One line; `print` shows more."""
        return f"<Optimized {self._title}>"

    def __str__(self) -> str:
        """A summary in a few lines, and a table of what it was compared with."""
        return self._section().text()

    def _repr_html_(self) -> str:
        return self._section().html()

    @property
    def _title(self) -> str:
        fastest = f"{self.entry.strategy}, " if self.times else ""
        return f"{self.name}: {fastest}{with_unit(self.entry.cost, self.value)}, {self.status}"

    def _section(self) -> Section:
        cost = self.entry.cost
        values: Mapping[str, float] = self.times or self.reference
        how = "searched" if self.times else f"found by {self.entry.strategy}"
        if self.interrupted:
            how = f"interrupted; {how}"
        if self.layer == "memory":
            kept = "kept in this process only: set JAX_CCE_REGISTRY to a writable directory"
        else:
            kept = f"stored in the registry ({self.layer}) as {self.entry.key[:SHORT_KEY]}"
        lines = [
            f"{how} in {self.seconds:.1f} s, {self.evaluations:,} orders looked at",
            kept,
            f"order of {len(vertices_of(self.order)):,} vertices{self._edges}: see .order",
        ]
        if self.bound is not None:
            lines.append(f"lower bound: {with_unit(cost, self.bound)}{_proven_by(self.entry)}")
        lines += [f"{name} failed: {why}" for name, why in self.failures.items()]
        if cost not in MEASURED:
            values = {**values, "this order": self.value}
        what = "time" if self.times else "cost"
        header = ("contender", what, "multiple of the best")
        return Section(self._title, tuple(lines), header, compared(cost, values))

    @property
    def _edges(self) -> str:
        """How many edges the order eliminates by themselves, for people."""
        number = len(self.order) - len(vertices_of(self.order))
        return f" and {number:,} edges" if number else ""

    def plot_search(self, path: Any = None) -> Any:
        """Draws the best cost over time, by strategy; see `jax_cce_search.pictures`."""
        return curves.plot_search(self, path)


def _proven_by(entry: StoredOrder) -> str:
    """What proves the bound of an entry, where it is groups of vertices."""
    if not entry.groups:
        return ""
    largest = max(map(len, entry.groups))
    return f", proven by {len(entry.groups)} groups of at most {largest} vertices"
