"""What is asked of `optimize`: one request, checked once, for all functions that it is asked of."""

import concurrent.futures
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from jax_cce.algebra import costs
from jax_cce.algebra.costs import CostName
from jax_cce.registry import Registry
from jax_cce.registry.ranking import MEASURED
from jax_cce.sparse.formats import FormatName
from jax_cce_search import strategies
from jax_cce_search.searching import Budget, Improvement

__all__ = [
    "Cost",
    "Request",
]

Cost = Literal["runtime", "native", "memory"] | CostName

# Measures by which candidates for a measured race are searched, and the share of the budget.
_RACE_MEASURES: tuple[CostName, ...] = ("flops", "runtime_model")
_SEARCH_SHARE = 0.5


@dataclass(frozen=True)
class Request:
    """The arguments of `jax_cce.optimize`, the function aside; see there for what they mean.

    Raises:
        ValueError: for unknown names, a negative budget, and a batch of no points.
    """

    argnums: int | Sequence[int]
    has_aux: bool
    holomorphic: bool
    allow_int: bool
    format: FormatName
    cost: Cost
    strategy: strategies.Name
    budget: float | None
    evaluations: int | None
    seed: int
    batch_size: int | None
    entries: bool | None
    executor: concurrent.futures.Executor | None
    registry: Registry | None
    callback: Callable[[Improvement], Any] | None
    progress: bool | None

    def __post_init__(self) -> None:
        if self.cost not in ("runtime", "native", "memory"):
            costs.check(self.cost)
        strategies.named(self.strategy)
        size = self.batch_size
        if size is not None and not (isinstance(size, int) and size > 0):
            raise ValueError(f"batch_size must be a positive integer, but got {size!r}.")
        if self.executor is not None and not hasattr(self.executor, "submit"):
            raise TypeError(
                "executor must have a method submit, as a concurrent.futures.Executor has, but got "
                f"{type(self.executor).__name__}."
            )
        Budget(self.budget, self.evaluations)  # checks itself

    @property
    def options(self) -> dict[str, Any]:
        """How each function is differentiated: the keyword arguments of `jax_cce.jacobian`."""
        return {
            "argnums": self.argnums,
            "has_aux": self.has_aux,
            "holomorphic": self.holomorphic,
            "allow_int": self.allow_int,
            "format": self.format,
        }

    @property
    def is_timed(self) -> bool:
        """Whether the best orders by count are timed against each other in the end."""
        return self.cost == "runtime"

    @property
    def is_measured(self) -> bool:
        """Whether the best orders by count are compiled in the end."""
        return self.cost in MEASURED

    @property
    def measures(self) -> tuple[CostName, ...]:
        """The measures in which orders of the graphs of arrays are searched."""
        if self.cost == "runtime" or self.cost == "memory":
            return _RACE_MEASURES
        return () if self.cost == "native" else (self.cost,)

    @property
    def is_native(self) -> bool:
        """Whether native code takes part, so that its order is searched."""
        return self.cost == "native" or (self.is_timed and self.format != "structured")

    def share(self, parts: int) -> Budget:
        """The budget of each of so many searches for one function."""
        seconds, evaluations = self.budget, self.evaluations
        if seconds is not None:
            seconds *= (_SEARCH_SHARE if self.is_measured else 1) / parts
        if evaluations is not None:
            evaluations = max(1, int(evaluations / parts))
        return Budget(seconds, evaluations)
