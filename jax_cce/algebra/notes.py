"""What a recorder keeps: the steps so far, their cost, and the slots that are given out."""

import dataclasses
from typing import Any, Self

from jax_cce.algebra import steps
from jax_cce.algebra.costs import Cost
from jax_cce.algebra.steps import Step

__all__ = ["Notes"]


class Notes:
    """The steps so far, each noted once.

    Attributes:
        steps: the steps so far, in the order in which they can be carried out.
        cost: what they cost.
        vertex: the vertex that is being eliminated; None for the assembly of results.
        of_result: whether the block that is being added to is one of the result.
        sparse: whether every structural zero matters, so that sums are never made dense.
        apart: whether single entries of small blocks are kept apart, and results stacked of them.
    """

    def __init__(self, *, sparse: bool = False, apart: bool = False, reserved: int = 0) -> None:
        """An empty recorder.

        Args:
            sparse: whether every structural zero matters, so that sums are never made dense.
            apart: whether single entries of small blocks are kept apart.
            reserved: number of slots that are filled before the steps run.
        """
        self.steps: list[Step] = []
        self.cost = Cost()
        self.vertex: int | None = None
        self.of_result = False
        self.sparse, self.apart = sparse, apart
        self._num_slots = reserved
        self._memo: dict[Any, Any] = {}
        self._tables: dict[Any, Any] = {}

    def noted(self, kind: type[Step], /, *, slots: int = 1, **facts: Any) -> tuple[int, ...]:
        """Notes a step; returns the slots that it fills.

        Args:
            kind: the class of the step.
            slots: how many it fills.
            **facts: its other attributes.
        """
        return self._record(kind, slots=slots, **facts)

    def _record(self, kind: type[Step], /, *, slots: int = 1, **facts: Any) -> tuple[int, ...]:
        names = tuple(range(self._num_slots, self._num_slots + slots))
        self._num_slots += slots
        step = kind(slots=names, vertex=self.vertex, **facts)
        self.steps.append(step)
        self.cost.flops += step.flops
        self.cost.moved += step.moved
        return names

    def _once(self, key: Any, kind: type[Step], /, **facts: Any) -> int:
        """The slot of a step that is noted at its first use."""
        key = kind, key
        memo = self._tables if kind in (steps.SymbolValues, steps.IndexArray) else self._memo
        if key not in memo:
            (memo[key],) = self._record(kind, **facts)
        return memo[key]

    def fork(self) -> Self:
        """A recorder that continues this one, leaving it as it is."""
        other = type(self)(sparse=self.sparse, apart=self.apart)
        other.steps = list(self.steps)
        other.cost = dataclasses.replace(self.cost)
        other._num_slots = self._num_slots
        other._memo = dict(self._memo)
        other._tables = dict(self._tables)
        return other

    def without_blocks(self) -> Self:
        """An empty recorder that shares the names of index arrays, and gives out none again."""
        other = type(self)(sparse=self.sparse, reserved=self._num_slots)
        other._tables = self._tables
        return other
