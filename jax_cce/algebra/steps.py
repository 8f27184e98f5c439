"""Steps: the computations that a recorder notes, each of which can be carried out on arrays.

A step fills *slots* with coefficient arrays or index arrays, and reads slots that earlier steps
have filled. There is one class for each way to compute: what a step reads, what it costs, how it
is described and how it runs is said there and nowhere else.
"""

import abc
import math
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import jax
import jax.numpy as jnp
from jax import lax

from jax_cce import jax_internals
from jax_cce.algebra import coefficients, placement, terms
from jax_cce.algebra.blocks import Operator, Piece, slots_of, stored_numbers
from jax_cce.algebra.composition import Product
from jax_cce.algebra.index_arrays import Table
from jax_cce.algebra.placement import Placed
from jax_cce.algebra.symbols import Read, Symbol
from jax_cce.algebra.terms import Affine, Term

__all__ = [
    "Add",
    "Columns",
    "Densify",
    "IndexArray",
    "Local",
    "Merge",
    "Multiply",
    "PullBack",
    "Push",
    "PushForward",
    "Reorder",
    "Run",
    "Sites",
    "Step",
    "SymbolValues",
    "needed",
    "run",
]

# The place of a term among those of a local Jacobian: operand, output, number.
Key = tuple[int, int, int]


class Sites(Protocol):
    """Where steps find the values of the equations that they belong to."""

    def coefficient(self, site: Any, key: Key, term: Term) -> Any:
        """The coefficient array of a term of a site's local Jacobian."""

    def index_array(self, site: Any, key: Key, number: int) -> Any:
        """An index array that such a term reads."""

    def primals(self, site: Any) -> Any:
        """What an operator at the site is applied with."""


class Run:
    """The arrays while steps are carried out.

    Attributes:
        slots: the array in each slot that has been filled.
        dtype: what static coefficients and masks become where numbers are needed.
    """

    def __init__(self, dtype: Any, sites: Sites | None, slots: Mapping[int, Any]) -> None:
        """Starts with the arrays of reserved slots."""
        self.slots = dict(slots)
        self.dtype = dtype
        self._sites = sites

    @property
    def sites(self) -> Sites:
        """The values of equations."""
        assert self._sites is not None, "these steps belong to no equations"
        return self._sites

    def coefficient(self, piece: Piece) -> Any:
        """The coefficient of a piece, scaled; a number where it is static."""
        if piece.slot is None:
            return lax.full((), piece.scale, self.dtype)
        return coefficients.scaled(self.slots[piece.slot], piece.scale, self.dtype)

    def placed(self, piece: Piece) -> Placed:
        """The coefficient of a piece with the maps of its term."""
        return placement.placed(piece.term, self.coefficient(piece), self.slots)


@dataclass(frozen=True, slots=True, kw_only=True)
class Step(abc.ABC):
    """One recorded computation.

    Attributes:
        name: what the step is called.
        slots: the slots that it fills.
        vertex: the vertex whose elimination it belongs to; None for local coefficients and the
            final assembly.
        site: the equation whose values it reads; None for none.
    """

    name: ClassVar[str]

    slots: tuple[int, ...]
    vertex: int | None
    site: Hashable = None

    @property
    @abc.abstractmethod
    def reads(self) -> tuple[int, ...]:
        """The slots that it reads."""

    @property
    def flops(self) -> int:
        """Operations executed."""
        return 0

    @property
    @abc.abstractmethod
    def moved(self) -> int:
        """Numbers read and written."""

    @abc.abstractmethod
    def described(self) -> str:
        """What it computes, for people."""

    @abc.abstractmethod
    def run(self, arrays: Run) -> Sequence[Any]:
        """The arrays that fill its slots."""

    @property
    def place(self) -> str:
        """Which part of the computation it belongs to, for people."""
        return "assembly" if self.vertex is None else f"v{self.vertex}"

    def __str__(self) -> str:
        """One line: the part of the computation, the slots, and what they are filled with."""
        slots = ", ".join(f"c{slot}" for slot in self.slots)
        return f"[{self.place}] {slots} = {self.described()}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Local(Step):
    """The coefficient of a term of a local Jacobian.

    Attributes:
        key: which of the equation's terms.
        term: the term.
    """

    name = "local"

    key: Key
    term: Term

    reads: ClassVar[tuple[int, ...]] = ()
    place: ClassVar[str] = "local"

    @property
    def moved(self) -> int:
        """One number for each entry."""
        return self.term.coefficient_size

    def described(self) -> str:
        """The two ends of the local Jacobian and the coefficient's shape."""
        operand, output, _ = self.key
        block = f"d out[{output}] / d in[{operand}] of equation {self.site}"
        return f"{block} -> {list(self.term.coefficient_shape)}"

    def run(self, arrays: Run) -> Sequence[Any]:
        """Asks the equation's rule."""
        return (arrays.sites.coefficient(self.site, self.key, self.term),)


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexArray(Step):
    """An index array that the terms of a local Jacobian read.

    Attributes:
        key: which of the equation's terms.
        number: which of the term's index arrays.
    """

    name = "lookup"

    key: Key
    number: int

    reads: ClassVar[tuple[int, ...]] = ()
    moved: ClassVar[int] = 0

    def described(self) -> str:
        """Which array of which equation."""
        return f"index array {self.number} of equation {self.site}"

    def run(self, arrays: Run) -> Sequence[Any]:
        """Asks the equation's rule."""
        return (arrays.sites.index_array(self.site, self.key, self.number),)


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
                array = lax.full((), piece.scale, total.dtype)
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

    union: terms.Union

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
            full = lax.pad(full, lax.full_like(full, 0, shape=()), config)
            total = full if total is None else lax.add(*coefficients.promote(total, full))
        return (total,)


@dataclass(frozen=True, slots=True, kw_only=True)
class Densify(_Sum):
    """The sum of any pieces of a block as one dense array.

    Attributes:
        shape: the block's shape.
        term: its dense term.
    """

    name = "dense"

    shape: tuple[int, ...]
    term: Term

    @property
    def _shape(self) -> tuple[int, ...]:
        return self.shape

    @property
    def flops(self) -> int:
        """One operation for each entry and piece."""
        return math.prod(self.shape) * len(self.pieces)

    def run(self, arrays: Run) -> Sequence[Any]:
        """Places all pieces in one array."""
        total = placement.dense_sum([arrays.placed(piece) for piece in self.pieces], self.shape)
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

    def described(self) -> str:
        """The coefficient and the order."""
        return f"c{self.slot} with its axes in order {list(self.order)}"

    def run(self, arrays: Run) -> Sequence[Any]:
        """A transpose."""
        array = arrays.slots[self.slot]
        array = lax.squeeze(array, [k for k, size in enumerate(array.shape) if size == 1])
        return (lax.reshape(lax.transpose(array, self.order), self.shape),)


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
        """The shapes on the seeds' side and on the far side."""

    @abc.abstractmethod
    def _applied(self, primals: Any, vector: Any) -> dict[int, Any]:
        """The operator applied to one seed."""

    @property
    def far_sides(self) -> Mapping[int, tuple[int, ...]]:
        """The shape of each result, by its position; the slots are in the same order."""
        return self._shapes[1]

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

        results = jax.vmap(one)(lax.reshape(array, (self.columns, *shape)))
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


def needed(steps: Sequence[Step], wanted: Iterable[int]) -> tuple[list[Step], list[Step]]:
    """The steps on which the wanted slots depend, in order, and the others."""
    live = set(wanted)
    kept, others = [], []
    for step in reversed(steps):
        if live.isdisjoint(step.slots):
            others.append(step)
        else:
            kept.append(step)
            live.update(step.reads)
    kept.reverse()
    return kept, others


def run(
    steps: Iterable[Step],
    dtype: Any,
    *,
    sites: Sites | None = None,
    slots: Mapping[int, Any] | None = None,
) -> dict[int, Any]:
    """Carries out recorded steps on arrays.

    Args:
        steps: from a `Recorder`.
        dtype: what static coefficients and masks become where numbers are needed.
        sites: where the values of equations are found.
        slots: arrays of the recorder's reserved slots.

    Returns:
        The array in each slot.
    """
    arrays = Run(dtype, sites, slots or {})
    for step in steps:
        arrays.slots.update(zip(step.slots, step.run(arrays), strict=True))
    return arrays.slots
