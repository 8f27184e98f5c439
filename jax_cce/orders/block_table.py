"""The block structures of a graph by number, with tables of their products, sums and costs."""

import dataclasses
import math
from collections import Counter
from typing import Any, Protocol

from jax_cce.algebra import costs
from jax_cce.algebra.blocks import Block, Operator, OperatorPiece, Piece
from jax_cce.algebra.costs import Cost
from jax_cce.algebra.index_arrays import Table
from jax_cce.algebra.recorder import Recorder

__all__ = [
    "ABSENT",
    "Algebra",
    "BlockTable",
    "ExhaustedError",
    "PricedBlocks",
    "UnitBlocks",
]

# The kind of an edge that is not there.
ABSENT = 0
# With more kinds than that, static factors are told apart by their sign and being one only.
_MOST_EXACT = 256
# Matching so many entries of index arrays takes as long as a product of two terms without any.
_POINTS = 512
# Names of coefficients of the operands; those of index arrays, which lie above, keep their own.
_FIRST, _SECOND, _KEPT = 1 << 40, 1 << 41, 1 << 42


class ExhaustedError(Exception):
    """Products of more terms were asked for than were allowed."""


class Algebra(Protocol):
    """Products and sums of kinds, with their cost."""

    def product(self, later: int, earlier: int) -> tuple[int, int]:
        """The kind of a product, or `ABSENT` for a structural zero, and what it costs."""

    def total(self, one: int, other: int) -> tuple[int, int]:
        """The kind of a sum, or `ABSENT` for a structural zero, and what it costs."""

    def final(self, kind: int) -> int:
        """What it costs to bring a block of the Jacobian into the form that is returned."""


def _listed(block: Block) -> int:
    """How many numbers the static index arrays of a block hold."""
    return sum(
        lookup.table.values.size
        for piece in block
        if isinstance(piece, Piece)
        for lookup in piece.term.lookups
        if isinstance(lookup.table, Table)
    )


class UnitBlocks:
    """The algebra of scalar graphs as the literature counts them: every product costs one."""

    def product(self, later: int, earlier: int) -> tuple[int, int]:
        """One multiplication."""
        return 1, 1

    def total(self, one: int, other: int) -> tuple[int, int]:
        """Additions are free."""
        return 1, 0

    def final(self, kind: int) -> int:
        """Nothing is left to do."""
        return 0


class BlockTable:
    """The block structures of a graph by number, with tables of their products and sums.

    Blocks of one kind have the same terms, static factors and shapes, and differ in their
    coefficients only. Steps that a recorder would share between two products are counted twice.

    Attributes:
        sparse: whether every structural zero matters.
        work: how many products of terms were carried out so far; those with long index arrays count
            for many.
        most_work: how many may be; looking up what is known is free.
        degrees: how many Markowitz degrees were asked for so far.
        most_degrees: how many may be.
    """

    def __init__(self, *, sparse: bool) -> None:
        self.sparse = sparse
        self.work, self.most_work = 0, math.inf
        self.degrees, self.most_degrees = 0, math.inf
        self._blocks: list[tuple[Block, tuple[int, ...], tuple[int, ...]]] = [((), (), ())]
        self._number: dict[object, int] = {}
        self._products: dict[tuple[int, int], tuple[int, Cost]] = {}
        self._totals: dict[tuple[int, int], tuple[int, Cost]] = {}
        self._finals: dict[int, Cost] = {ABSENT: Cost()}
        # An index array that is computed again has the same name again.
        self._memory = Recorder(sparse=sparse, reserved=_KEPT)

    def __len__(self) -> int:
        return len(self._blocks)

    def intern(self, block: Block, out_shape: tuple[int, ...], in_shape: tuple[int, ...]) -> int:
        """The kind of a block."""
        if not block:
            return ABSENT
        exact = len(self._blocks) < _MOST_EXACT
        name = _described(block, exact), out_shape, in_shape
        kind = self._number.get(name)
        if kind is None:
            kind = self._number[name] = len(self._blocks)
            self._blocks.append((block, out_shape, in_shape))
        return kind

    def block(self, kind: int) -> Block:
        """The first block that was seen of a kind."""
        return self._blocks[kind][0]

    def shapes(self, kind: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """The shapes of the later and the earlier variable of a kind's blocks."""
        return self._blocks[kind][1:]

    def product(self, later: int, earlier: int) -> tuple[int, Cost]:
        """The kind of a product and what it costs."""
        priced = self._products.get((later, earlier))
        if priced is None:
            one, out_shape, middle = self._blocks[later]
            other, _, in_shape = self._blocks[earlier]
            self.work += len(one) * len(other) + (_listed(one) + _listed(other)) // _POINTS
            if self.work > self.most_work:
                raise ExhaustedError
            recorder = self._tape()
            shapes = out_shape, middle, in_shape
            block = recorder.compose(_named(one, _FIRST), _named(other, _SECOND), shapes)
            self.work += _listed(block) // _POINTS
            priced = self.intern(block, out_shape, in_shape), recorder.cost
            self._products[later, earlier] = priced
        return priced

    def total(self, one: int, other: int) -> tuple[int, Cost]:
        """The kind of a sum and what it costs."""
        priced = self._totals.get((one, other))
        if priced is None:
            first, out_shape, in_shape = self._blocks[one]
            second = _named(self._blocks[other][0], _SECOND)
            recorder = self._tape()
            block = recorder.add(_named(first, _FIRST), second, out_shape, in_shape)
            priced = self.intern(block, out_shape, in_shape), recorder.cost
            self._totals[one, other] = priced
        return priced

    def final(self, kind: int) -> Cost:
        """What it costs to bring a block of the Jacobian into the form that is returned."""
        if kind not in self._finals:
            block, out_shape, in_shape = self._blocks[kind]
            recorder = self._tape()
            terms = recorder.explicit(_named(block, _FIRST), out_shape, in_shape)
            if terms and not self.sparse:
                recorder.densify(terms, out_shape, in_shape)
            self._finals[kind] = recorder.cost
        return self._finals[kind]

    def __getstate__(self) -> dict[str, Any]:
        # What an operator computes cannot be sent to another process, nor is it needed there.
        inert: dict[int, Operator] = {}

        def stripped(block: Block) -> Block:
            return tuple(
                piece
                if isinstance(piece, Piece)
                else piece._replace(
                    operator=inert.setdefault(id(piece.operator), _inert(piece.operator))
                )
                for piece in block
            )

        blocks = [(stripped(block), *shapes) for block, *shapes in self._blocks]
        return self.__dict__ | {"_blocks": blocks, "_number": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._number = {
            (_described(block, True), *shapes): kind
            for kind, (block, *shapes) in enumerate(self._blocks)
            if block
        }

    def _tape(self) -> Recorder:
        self._memory = self._memory.without_blocks()
        return self._memory


class PricedBlocks:
    """The algebra of block structures, priced in one measure.

    Attributes:
        structures: the structures.
        cost: the name of the measure.
        products: the products asked for so far, each a kind and what it costs, by the two kinds.
        totals: the same for sums.
    """

    def __init__(self, structures: BlockTable, cost: str) -> None:
        self.structures = structures
        self.cost = costs.check(cost)
        self.products: dict[tuple[int, int], tuple[int, int]] = {}
        self.totals: dict[tuple[int, int], tuple[int, int]] = {}

    def product(self, later: int, earlier: int) -> tuple[int, int]:
        """The kind of a product, or `ABSENT` for a structural zero, and what it costs."""
        priced = self.products.get((later, earlier))
        if priced is None:
            kind, cost = self.structures.product(later, earlier)
            priced = self.products[later, earlier] = kind, costs.measure(self.cost, cost)
        return priced

    def total(self, one: int, other: int) -> tuple[int, int]:
        """The kind of a sum, or `ABSENT` for a structural zero, and what it costs."""
        priced = self.totals.get((one, other))
        if priced is None:
            kind, cost = self.structures.total(one, other)
            priced = self.totals[one, other] = kind, costs.measure(self.cost, cost)
        return priced

    def final(self, kind: int) -> int:
        """What it costs to bring a block of the Jacobian into the form that is returned."""
        return costs.measure(self.cost, self.structures.final(kind))


def _inert(operator: Operator) -> Operator:
    """An operator of the same shapes and cost that cannot be applied."""
    return dataclasses.replace(
        operator,
        jvp=None if operator.jvp is None else _not_here,
        vjp=None if operator.vjp is None else _not_here,
    )


def _not_here(*_: Any) -> Any:
    raise RuntimeError("This operator was sent to another process to be priced, not applied.")


def _described(block: Block, exact: bool) -> object:
    """What decides the cost of products and sums with a block: its pieces, in any order."""
    pieces = [_description(piece, exact) for piece in block]
    return pieces[0] if len(pieces) == 1 else frozenset(Counter(pieces).items())


def _description(piece: Piece | OperatorPiece, exact: bool) -> tuple[object, ...]:
    if isinstance(piece, OperatorPiece):
        return id(piece.operator), piece.site, piece.operand, piece.output
    scale = piece.scale
    if scale not in (1, -1) and not exact:
        scale = 2
    return piece.term, scale, piece.slot is None


def _named(block: Block, first: int) -> Block:
    """The block with names of its own for its coefficients."""
    return tuple(
        piece._replace(slot=first + index)
        if isinstance(piece, Piece) and piece.slot is not None
        else piece
        for index, piece in enumerate(block)
    )
