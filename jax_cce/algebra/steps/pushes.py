"""Operators applied to many seeds at once."""

import abc
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
from jax import lax

from jax_cce import jax_internals
from jax_cce.algebra.blocks import Operator
from jax_cce.algebra.steps.step import Run, Step

__all__ = ["PullBack", "Push", "PushForward"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Push(Step):
    """An operator applied to many seeds at once; fills a slot for each of its far sides.

    Attributes:
        operator: the operator.
        position: the operand or output that the seeds belong to.
        seed: the slot of the seeds.
        columns: how many there are.
    """

    operator: Operator
    position: int
    seed: int
    columns: int

    @property
    @abc.abstractmethod
    def _shapes(self) -> tuple[Mapping[int, tuple[int, ...]], Mapping[int, tuple[int, ...]]]:
        """The shapes on the seeds' side, and on the far side in the order of the slots."""

    @abc.abstractmethod
    def _applied(self, primals: Any, vector: Any) -> dict[int, Any]:
        """The operator applied to one seed."""

    @property
    def reads(self) -> tuple[int, ...]:
        """The seeds."""
        return (self.seed,)

    @property
    def flops(self) -> int:
        """What the operator is estimated to cost, for each seed."""
        return self.columns * self.operator.flops

    @property
    def moved(self) -> int:
        """Seeds and results."""
        near, far = self._shapes
        return self.columns * (math.prod(near[self.position]) + sum(map(math.prod, far.values())))

    def described(self) -> str:
        """Direction, primitive, and number of seeds."""
        where = f"{self.operator.name} (equation {self.site})"
        return f"{self.name} of {where}, {self.columns} x seed c{self.seed}"

    def run(self, arrays: Run) -> Sequence[Any]:
        """Maps the operator over the seeds."""
        near, far = self._shapes
        shape, array = near[self.position], arrays.slots[self.seed]
        batch = array.shape[: array.ndim - len(shape)]
        primals = arrays.sites.primals(self.site)

        def one(vector: Any) -> Any:
            return self._applied(primals, vector)

        seeds = lax.reshape(array, (self.columns, *shape))
        with jax_internals.context_of(primals.equation):
            results = jax.vmap(one)(seeds)
        spread = (jax_internals.replicated(results[position]) for position in far)
        return [lax.reshape(x, (*batch, *x.shape[1:])) for x in spread]


@dataclass(frozen=True, slots=True, kw_only=True)
class PushForward(Push):
    """Tangents of one operand to tangents of all outputs."""

    name = "jvp"

    @property
    def _shapes(self) -> tuple[Mapping[int, tuple[int, ...]], Mapping[int, tuple[int, ...]]]:
        return self.operator.in_shapes, self.operator.out_shapes

    def _applied(self, primals: Any, vector: Any) -> dict[int, Any]:
        assert self.operator.jvp is not None
        return self.operator.jvp(primals, self.position, vector)


@dataclass(frozen=True, slots=True, kw_only=True)
class PullBack(Push):
    """Cotangents of one output to cotangents of all operands."""

    name = "vjp"

    @property
    def _shapes(self) -> tuple[Mapping[int, tuple[int, ...]], Mapping[int, tuple[int, ...]]]:
        return self.operator.out_shapes, self.operator.in_shapes

    def _applied(self, primals: Any, vector: Any) -> dict[int, Any]:
        assert self.operator.vjp is not None
        return self.operator.vjp(primals, self.position, vector)
