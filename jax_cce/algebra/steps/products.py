"""Products of coefficients, and the positions at which they meet."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import jax.numpy as jnp
from jax import lax

from jax_cce.algebra import coefficients
from jax_cce.algebra.blocks import Piece, stored_numbers
from jax_cce.algebra.composition import Product
from jax_cce.algebra.index_arrays import Table
from jax_cce.algebra.steps.step import Run, Step
from jax_cce.algebra.symbols import Read, Symbol

__all__ = ["Multiply", "Reorder", "SymbolValues"]


@dataclass(frozen=True, slots=True, kw_only=True)
class SymbolValues(Step):
    """The values of a symbol of a product, where they are known at run time only.

    Attributes:
        symbol: the symbol.
        sizes: the sizes of the product's joint loops.
        symbols: all symbols of the product.
        tables: for each variable that the symbol reads its values: a static table, or a slot.
    """

    name = "symbol"

    symbol: Symbol
    sizes: tuple[int, ...]
    symbols: tuple[Symbol, ...]
    tables: tuple[tuple[int, Table | int], ...]

    moved: ClassVar[int] = 0

    @property
    def largest(self) -> int:
        """The positions."""
        return math.prod(self.sizes[axis] for axis in self.symbol.axes)

    @property
    def reads(self) -> tuple[int, ...]:
        """The slots of run-time index arrays."""
        source = self.symbol.source
        tables = [table for _, table in self.tables]
        if isinstance(source, Read):
            tables.append(source.table)  # type: ignore[arg-type]
        return tuple(table for table in tables if isinstance(table, int))

    def described(self) -> str:
        """The shape of the array of positions."""
        return f"positions -> {[self.sizes[axis] for axis in self.symbol.axes]}"

    def values(self, slots: Mapping[int, Any], xp: Any) -> Any:
        """The values; with NumPy for `xp` where all that the symbol reads is static."""
        return coefficients.symbol_values(
            self.symbol, self.sizes, self.symbols, self.tables, slots, xp
        )

    def run(self, arrays: Run) -> Sequence[Any]:
        """Reads and combines index arrays."""
        return (self.values(arrays.slots, jnp),)


@dataclass(frozen=True, slots=True, kw_only=True)
class Multiply(Step):
    """The coefficient of a composed term: a product of two coefficients, perhaps summed.

    Attributes:
        product: how the factors' axes meet.
        later: the piece of dw/dv.
        earlier: the piece of dv/du.
        symbols: for each symbol of the product its values: a static table, or a slot.
    """

    name = "multiply"

    product: Product
    later: Piece
    earlier: Piece
    symbols: tuple[Table | int, ...]

    @property
    def _factors(self) -> list[int]:
        slots = self.later.slot, self.earlier.slot
        return [slot for slot in slots if slot is not None]

    @property
    def reads(self) -> tuple[int, ...]:
        """The factors, and run-time positions."""
        return (*self._factors, *[table for table in self.symbols if isinstance(table, int)])

    @property
    def flops(self) -> int:
        """Multiplications, and the additions of what is summed."""
        return self.product.flops

    @property
    def moved(self) -> int:
        """Both factors and the result."""
        result = self.product.term.coefficient_size
        return stored_numbers(self.later) + stored_numbers(self.earlier) + result

    @property
    def largest(self) -> int:
        """The result."""
        return self.product.term.coefficient_size

    def described(self) -> str:
        """The factors, the shape, and the sizes of what is summed."""
        factors = " * ".join(f"c{slot}" for slot in self._factors)
        summed = self.product.sizes[len(self.product.term.sizes) :]
        over = f", summed over {list(summed)}" if summed else ""
        return f"{factors} -> {list(self.product.term.coefficient_shape)}{over}"

    def run(self, arrays: Run) -> Sequence[Any]:
        """An elementwise product or a contraction."""
        slots = arrays.slots
        values = {
            -1 - k: (symbol.axes, coefficients.array_of(table, slots, jnp))
            for k, (symbol, table) in enumerate(
                zip(self.product.symbols, self.symbols, strict=True)
            )
        }
        later, earlier = (
            None if piece.slot is None else slots[piece.slot]
            for piece in (self.later, self.earlier)
        )
        return (coefficients.multiply(self.product, later, earlier, arrays.dtype, values),)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reorder(Step):
    """A coefficient with its axes in another order.

    Attributes:
        slot: the coefficient.
        order: its axes, those of size 1 left out, in the new order.
        shape: the shape of the result.
    """

    name = "reorder"

    slot: int
    order: tuple[int, ...]
    shape: tuple[int, ...]

    @property
    def reads(self) -> tuple[int, ...]:
        """The coefficient."""
        return (self.slot,)

    @property
    def moved(self) -> int:
        """Every number is read and written."""
        return 2 * math.prod(self.shape)

    @property
    def largest(self) -> int:
        """The result."""
        return math.prod(self.shape)

    def described(self) -> str:
        """The coefficient and the order."""
        return f"c{self.slot} with its axes in order {list(self.order)}"

    def run(self, arrays: Run) -> Sequence[Any]:
        """A transpose."""
        array = arrays.slots[self.slot]
        array = lax.squeeze(array, [k for k, size in enumerate(array.shape) if size == 1])
        return (lax.reshape(lax.transpose(array, self.order), self.shape),)
