"""Operators applied to many seeds at once."""

import abc
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

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

    # Whether seeds belong to a result.
    _is_of_results: ClassVar[bool]

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

    @property
    def largest(self) -> int:
        """The seeds, or the results of one of the far sides."""
        near, far = self._shapes
        sizes = [math.prod(near[self.position]), *map(math.prod, far.values())]
        known = [size for size in sizes if isinstance(size, int)]
        return self.columns * max(known, default=0)

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
        counted = arrays.sites.entries(self.site, self.position, self._is_of_results)
        if counted is not None:
            seeds = _kept(seeds, counted)
        with jax_internals.context_of(primals.equation):
            results = jax.vmap(one)(seeds)
        spread = []
        for position in far:
            result = jax_internals.untyped(results[position])
            if counted is not None:
                # What is linear makes zero of zero, even where it is not finite.
                moves = lax.reduce_or(
                    lax.ne(seeds, lax.full_like(seeds, 0)), tuple(range(1, seeds.ndim))
                )
                moves = lax.broadcast_in_dim(moves, result.shape, (0,))
                result = lax.select(moves, result, lax.full_like(result, 0))
            kept = arrays.sites.entries(self.site, position, not self._is_of_results)
            spread.append(result if kept is None else _kept(result, kept))
        return [lax.reshape(x, (*batch, *x.shape[1:])) for x in spread]


def _kept(vectors: Any, entries: Any) -> Any:
    """Vectors, zero but for some of their entries."""
    entries = lax.broadcast_in_dim(entries, vectors.shape, range(1, vectors.ndim))
    return lax.select(entries, vectors, lax.full_like(vectors, 0))


@dataclass(frozen=True, slots=True, kw_only=True)
class PushForward(Push):
    """Tangents of one operand to tangents of all outputs."""

    name = "jvp"
    _is_of_results = False

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
    _is_of_results = True

    @property
    def _shapes(self) -> tuple[Mapping[int, tuple[int, ...]], Mapping[int, tuple[int, ...]]]:
        return self.operator.out_shapes, self.operator.in_shapes

    def _applied(self, primals: Any, vector: Any) -> dict[int, Any]:
        assert self.operator.vjp is not None
        return self.operator.vjp(primals, self.position, vector)
