"""Sums of pieces: entry by entry, over a box, dense, and spread out as seeds."""

import abc
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jax import lax

from jax_cce import jax_internals
from jax_cce.algebra import coefficients, placement
from jax_cce.algebra.blocks import Piece, slots_of, stored_numbers
from jax_cce.algebra.lines import Union
from jax_cce.algebra.stacking import Stacked
from jax_cce.algebra.steps.step import Run, Step
from jax_cce.algebra.terms import Affine, Term

__all__ = ["Add", "Columns", "Densify", "Merge", "Stack"]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Sum(Step):
    """A sum of pieces, in whatever form.

    Attributes:
        pieces: the summands.
    """

    pieces: tuple[Piece, ...]

    @property
    def reads(self) -> tuple[int, ...]:
        """The coefficients, and run-time index arrays of their terms."""
        return tuple([slot for piece in self.pieces for slot in slots_of(piece)])

    @property
    @abc.abstractmethod
    def _shape(self) -> tuple[int, ...]:
        """The shape of the result."""

    @property
    def moved(self) -> int:
        """The summands and the result."""
        return math.prod(self._shape) + sum(map(stored_numbers, self.pieces))

    @property
    def largest(self) -> int:
        """The result."""
        return math.prod(self._shape)

    def described(self) -> str:
        """The summands with their scales, and the shape."""
        summands = (
            f"{p.scale:g}" + (f"*c{p.slot}" if p.slot is not None else "")
            if isinstance(p.scale, (int, float))
            else f"{p.scale}*c{p.slot}"
            for p in self.pieces
        )
        return f"{self.name}({' + '.join(summands)}) -> {list(self._shape)}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Add(_Sum):
    """The sum of pieces with the same support, entry by entry.

    Attributes:
        term: the term of the sum.
    """

    name = "add"

    term: Term

    @property
    def _shape(self) -> tuple[int, ...]:
        return self.term.coefficient_shape

    @property
    def flops(self) -> int:
        """An addition for each piece but the first, and a product with each scale but 1 and -1."""
        scaled = sum(piece.scale not in (1, -1) for piece in self.pieces)
        return math.prod(self._shape) * (len(self.pieces) - 1 + scaled)

    def run(self, arrays: Run) -> Sequence[Any]:
        """Positive terms first, so that the sum starts without a negation."""
        total = None
        for piece in sorted(self.pieces, key=lambda p: p.scale == -1):
            subtract = total is not None and piece.scale == -1 and piece.slot is not None
            if piece.slot is None and total is not None:
                array = coefficients.number(piece.scale, total.dtype)
            else:
                array = arrays.coefficient(piece._replace(scale=1) if subtract else piece)
            array = coefficients.align(
                array, piece.term.axes or (), self.term.axes or (), self.term.sizes
            )
            if total is None:
                total = array
            else:
                total = (lax.sub if subtract else lax.add)(*coefficients.promote(total, array))
        return (total,)


@dataclass(frozen=True, slots=True, kw_only=True)
class Merge(_Sum):
    """The sum of two pieces that overlap on one line, over the box that holds both.

    Attributes:
        union: the box, and where the pieces start in it.
    """

    name = "merge"

    union: Union

    @property
    def _shape(self) -> tuple[int, ...]:
        return self.union.term.sizes

    @property
    def flops(self) -> int:
        """An addition for each entry of the box."""
        return math.prod(self._shape)

    def run(self, arrays: Run) -> Sequence[Any]:
        """Pads both to the box."""
        total = None
        for piece, start in zip(self.pieces, self.union.starts, strict=True):
            sizes = piece.term.sizes
            full = coefficients.align(
                arrays.coefficient(piece), piece.term.axes or (), tuple(range(len(sizes))), sizes
            )
            config = [
                (low, size - low - own, 0)
                for low, own, size in zip(start, sizes, self._shape, strict=True)
            ]
            full = lax.pad(full, jax_internals.number_like(full, 0), config)
            total = full if total is None else lax.add(*coefficients.promote(total, full))
        return (total,)


@dataclass(frozen=True, slots=True, kw_only=True)
class Stack(_Sum):
    """Many pieces as one, whose positions are in tables; entries at one position are added up.

    Attributes:
        stacked: how one term holds them.
    """

    name = "stack"

    stacked: Stacked

    @property
    def _shape(self) -> tuple[int, ...]:
        return self.stacked.term.coefficient_shape

    @property
    def flops(self) -> int:
        """One operation for each entry that is put in its place."""
        return sum(math.prod(p.term.sizes) for p in self.pieces)

    def run(self, arrays: Run) -> Sequence[Any]:
        """Coefficients one after the other, each at its place."""
        stacked, parts = self.stacked, []
        kept = stacked.kept
        for piece, loops in zip(self.pieces, stacked.loops, strict=True):
            sizes = piece.term.sizes
            array = arrays.coefficient(piece)
            full = coefficients.align(array, piece.term.axes or (), loops, sizes)
            points = math.prod(sizes[loop] for loop in loops[: len(loops) - len(kept)])
            parts.append(lax.reshape(full, (points, *kept)))
        joined = parts[0]
        if len(parts) > 1:
            joined = lax.concatenate(coefficients.promote(*parts), 0)
        if stacked.places is not None:
            joined = _placed(joined, stacked.places.values, stacked.points)
        joined = lax.reshape(joined, [size for size in (*stacked.sizes, *kept) if size > 1])
        if stacked.order != tuple(range(len(stacked.order))):
            joined = lax.transpose(joined, stacked.order)
        return (joined,)


def _placed(joined: Any, places: np.ndarray, count: int) -> Any:
    if count == len(places):
        at = np.argsort(places)
        return joined.at[at].get(mode="promise_in_bounds", unique_indices=True)
    zeros = jax_internals.full((count, *joined.shape[1:]), 0, joined.dtype)
    return zeros.at[places].add(joined, mode="promise_in_bounds")


@dataclass(frozen=True, slots=True, kw_only=True)
class Densify(_Sum):
    """The sum of any pieces of a block as one dense array.

    Attributes:
        shape: the block's shape.
        term: its dense term.
        apart: whether a result is stacked from its entries.
    """

    name = "dense"

    shape: tuple[int, ...]
    term: Term
    apart: bool = False

    @property
    def _shape(self) -> tuple[int, ...]:
        return self.shape

    @property
    def flops(self) -> int:
        """One operation for each entry and piece."""
        return math.prod(self.shape) * len(self.pieces)

    def run(self, arrays: Run) -> Sequence[Any]:
        """Places all pieces in one array; those of the result at once."""
        items = [arrays.placed(piece) for piece in self.pieces]
        is_result = self.vertex is None
        total = placement.dense_sum(
            items, self.shape, at_once=is_result, apart=is_result and self.apart
        )
        return (lax.reshape(total, self.term.coefficient_shape),)


@dataclass(frozen=True, slots=True, kw_only=True)
class Columns(_Sum):
    """A term spread out into the seeds of a pushforward or pullback.

    Attributes:
        shape: the seeds' shape: one axis for each loop of the far side, then the variable's.
        maps: for each of these axes the position by the term's loops.
    """

    name = "columns"

    shape: tuple[int, ...]
    maps: tuple[Affine, ...]

    @property
    def _shape(self) -> tuple[int, ...]:
        return self.shape

    @property
    def flops(self) -> int:
        """One operation for each entry."""
        return math.prod(self.shape)

    def run(self, arrays: Run) -> Sequence[Any]:
        """Places the term."""
        (piece,) = self.pieces
        placed = arrays.placed(piece)._replace(maps=self.maps)
        return (placement.materialise(placed, self.shape),)
