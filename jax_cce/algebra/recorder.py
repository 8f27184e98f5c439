"""The recorder: composes and adds blocks symbolically, and notes the steps that do it on arrays."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from jax_cce.algebra import terms
from jax_cce.algebra.blocks import Block, OperatorPiece, Piece, stored_numbers
from jax_cce.algebra.coefficients import symbol_values
from jax_cce.algebra.composition import Product, compose
from jax_cce.algebra.costs import Cost
from jax_cce.algebra.index_arrays import Table
from jax_cce.algebra.steps import Step
from jax_cce.algebra.symbols import Read
from jax_cce.algebra.terms import Affine, Lookup, Term, Unrepresentable, loops_of

__all__ = [
    "Recorder",
]

# Beyond this many terms a small block is cheaper to trace and to run as one dense array.
_MOST_TERMS = 8
_SMALL_BLOCK = 4096


class Recorder:
    """Composes and adds blocks symbolically, recording steps and their cost."""

    def __init__(self, *, sparse: bool = False, reserved: int = 0) -> None:
        """An empty tape.

        Args:
            sparse: whether every structural zero matters, so that sums are never made dense.
            reserved: number of slots that are filled before the tape runs.
        """
        self.steps: list[Step] = []
        self.cost = Cost()
        self.vertex: int | None = None
        self.sparse = sparse
        self._num_slots = reserved
        self._memo: dict[Any, Any] = {}

    def _record(
        self, kind: str, detail: Any, *, slots: int = 1, flops: int = 0, moved: int = 0
    ) -> tuple[int, ...]:
        names = tuple(range(self._num_slots, self._num_slots + slots))
        self._num_slots += slots
        self.steps.append(Step(kind, names, detail, flops, moved, self.vertex))
        self.cost.flops += flops
        self.cost.moved += moved
        return names

    def fork(self) -> "Recorder":
        """A tape that continues this one, leaving it as it is."""
        other = Recorder(sparse=self.sparse)
        other.steps = list(self.steps)
        other.cost = dataclasses.replace(self.cost)
        other._num_slots = self._num_slots
        other._memo = dict(self._memo)
        return other

    def without_blocks(self) -> "Recorder":
        """An empty tape that keeps the names of index arrays, and gives out none of them again."""
        other = Recorder(sparse=self.sparse, reserved=self._num_slots)
        other._memo = {k: v for k, v in self._memo.items() if k[0] in ("symbol", "lookup")}
        return other

    def local(self, term: Term, scale: complex, site: Any, key: Any) -> Piece:
        """The piece of a local Jacobian whose coefficient the site computes at run time."""
        moved = math.prod(term.coefficient_shape)
        return Piece(term, scale, self._record("local", (site, key, term), moved=moved)[0])

    def lookup(self, lookup: Lookup, site: Any, key: Any) -> Lookup:
        """The lookup in an index array that the site computes at run time."""
        name = "lookup", site, key, lookup.table
        if name not in self._memo:
            self._memo[name] = self._record("lookup", (site, key, lookup.table))
        return lookup._replace(table=self._memo[name][0])

    def compose(
        self,
        later: Block,
        earlier: Block,
        shapes: tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]],
    ) -> Block:
        """dw/dv times dv/du.

        Args:
            later: the block dw/dv.
            earlier: the block dv/du.
            shapes: the shapes of w, v and u.
        """
        if len(later) == 1 and len(earlier) == 1:
            (one,), (other,) = later, earlier
            if isinstance(one, Piece) and isinstance(other, Piece):
                return self._compose_terms(one, other, shapes)
        w, v, u = shapes
        later_terms, later_operators = _split(later)
        earlier_terms, earlier_operators = _split(earlier)
        if later_operators and len(earlier_terms) > 1:
            earlier_terms = self.densify(earlier_terms, v, u)
        if earlier_operators and len(later_terms) > 1:
            later_terms = self.densify(later_terms, w, v)
        result: Block = ()
        for one in later_terms:
            for other in earlier_terms:
                result = self.add(result, self._compose_terms(one, other, shapes), w, u)
        for operator in later_operators:
            for other in earlier_terms:
                result = self.add(result, self._apply_to_columns(operator, other, shapes), w, u)
        for operator in earlier_operators:
            for one in later_terms:
                result = self.add(result, self._apply_to_rows(one, operator, shapes), w, u)
        for operator in later_operators:
            for first in earlier_operators:
                columns = self._explicit(first, v, u)
                result = self.add(result, self.compose((operator,), columns, shapes), w, u)
        return result

    def _compose_terms(self, later: Piece, earlier: Piece, shapes: Any) -> tuple[Piece, ...]:
        w, v, u = shapes
        try:
            product = compose(later.term, earlier.term, self.sparse)
            # Two run-time lookups meet at every pair of their points.
            most = math.prod(v) * min(math.prod(w), math.prod(u))
            is_dense = later.term == terms.dense(w, v) or earlier.term == terms.dense(v, u)
            if (
                product is not None
                and product.guards
                and not is_dense
                and math.prod(product.sizes) > most
            ):
                raise Unrepresentable("two index arrays would be matched at run time")
        except Unrepresentable:
            # Either dense side makes every composition representable; take the smaller one.
            if math.prod(v) * math.prod(u) <= math.prod(w) * math.prod(v):
                return self._compose_terms(later, *self.densify((earlier,), v, u), shapes)
            return self._compose_terms(*self.densify((later,), w, v), earlier, shapes)
        if product is None:
            return ()
        self.cost.multiplications += product.multiplications
        if not (_is_unit(later) or _is_unit(earlier)):
            self.cost.nonunit += product.multiplications
        symbols = self._symbols(product)
        term = _resolved(product.term, symbols)
        scale = later.scale * earlier.scale * product.multiplicity
        if scale == 0:
            return ()
        slots = [p.slot for p in (later, earlier) if p.slot is not None]
        if not slots and not product.guards:
            return (Piece(term, scale, None),)
        if len(slots) == 1 and _is_alias(product, later if earlier.slot is None else earlier):
            return (Piece(term, scale, slots[0]),)
        key = "multiply", product, later.slot, earlier.slot, symbols
        if key not in self._memo:
            self._memo[key] = self._record(
                "multiply",
                (product, later.slot, earlier.slot, symbols),
                flops=product.flops,
                moved=stored_numbers(later)
                + stored_numbers(earlier)
                + math.prod(term.coefficient_shape),
            )
        return (Piece(term, scale, self._memo[key][0]),)

    def _symbols(self, product: Product) -> tuple[Table | int, ...]:
        """For each symbol of a product a static table, or the slot that will hold its values."""
        found: list[Table | int] = []
        for symbol in product.symbols:
            source = symbol.source
            maps = source.maps if isinstance(source, Read) else (source.position,)
            reads = tuple(
                (variable, found[-1 - variable])
                for variable in sorted({k for m in maps for k, _ in m.strides if k < 0})
            )
            table = source.table if isinstance(source, Read) else None
            straight = tuple(Affine(0, ((axis, 1),)) for axis in symbol.axes)
            whole = tuple(product.sizes[axis] for axis in symbol.axes)
            if isinstance(source, Read) and maps == straight and source.shape == whole:
                found.append(table)  # type: ignore[arg-type]
                continue
            key = "symbol", symbol, product.sizes, reads
            if key not in self._memo:
                if isinstance(table, int) or any(isinstance(t, int) for _, t in reads):
                    detail = symbol, product.sizes, reads, product.symbols
                    self._memo[key] = self._record("symbol", detail)[0]
                else:
                    values = symbol_values(symbol, product.sizes, product.symbols, reads, {}, np)
                    self._memo[key] = Table(values)
            found.append(self._memo[key])
        return tuple(found)

    def add(self, one: Block, other: Block, out_shape: Any, in_shape: Any) -> Block:
        """The sum of two blocks; terms with the same support are added entry by entry."""
        if not one or not other:
            return one or other
        alike: dict[Any, list[Piece]] = {}
        operators: list[OperatorPiece] = []
        for piece in (*one, *other):
            if isinstance(piece, Piece):
                alike.setdefault(piece.term.support, []).append(piece)
            else:
                operators.append(piece)
        summed = [p for group in alike.values() for p in self._add_alike(group)]
        if len(summed) > 1 and self.sparse:
            summed = self._merged(summed)
        elif len(summed) > 1:
            entries = sum(math.prod(p.term.coefficient_shape) for p in summed)
            full = math.prod(out_shape) * math.prod(in_shape)
            if entries >= full or (len(summed) > _MOST_TERMS and full <= _SMALL_BLOCK):
                summed = list(self.densify(tuple(summed), out_shape, in_shape))
        return (*summed, *operators)

    def _merged(self, pieces: list[Piece]) -> list[Piece]:
        """The same sum, with pieces that overlap on one line joined into one.

        Where a boundary cuts terms to different lengths, a few diagonals would else become a
        number of terms that grows with every further composition. Two pieces stay apart while
        they are the only ones of their line and one is a mere number.
        """
        lines: dict[Any, list[Piece]] = {}
        for piece in pieces:
            lines.setdefault(terms.direction(piece.term), []).append(piece)
        return [piece for group in lines.values() for piece in self._merged_line(group)]

    def _merged_line(self, pieces: list[Piece]) -> list[Piece]:
        done: list[Piece] = []
        pending = list(pieces)
        while pending:
            piece = pending.pop(0)
            for other in pending:
                box = terms.union(piece.term, other.term)
                if box is not None and (len(pieces) > 2 or None not in (piece.slot, other.slot)):
                    pending.remove(other)
                    pending.insert(0, self._joined(box, (piece, other)))
                    break
            else:
                done.append(piece)
        return done

    def _joined(self, union: terms.Union, pieces: tuple[Piece, Piece]) -> Piece:
        key = "merge", union, pieces
        if key not in self._memo:
            flops = math.prod(union.term.sizes)
            moved = flops + sum(map(stored_numbers, pieces))
            (self._memo[key],) = self._record("merge", (pieces, union), flops=flops, moved=moved)
        return Piece(union.term, 1, self._memo[key])

    def _add_alike(self, pieces: list[Piece]) -> list[Piece]:
        if len(pieces) == 1:
            return pieces
        first = pieces[0].term
        layout = all(p.term.layout for p in pieces)
        if all(p.slot is None for p in pieces):
            scale = sum(p.scale for p in pieces)
            return [Piece(first._replace(layout=layout), scale, None)] if scale else []
        if all(p.slot == pieces[0].slot for p in pieces):
            scale = sum(p.scale for p in pieces)
            return [pieces[0]._replace(scale=scale)] if scale else []
        axes = tuple(sorted({axis for p in pieces for axis in p.term.axes or ()}))
        term = first._replace(axes=axes, layout=layout)
        # A common factor is kept outside, so that a difference stays one subtraction.
        common = pieces[0].scale
        if any(p.scale not in (common, -common) for p in pieces):
            common = 1
        inside = tuple(
            p._replace(scale=p.scale / common if common != 1 else p.scale) for p in pieces
        )
        each = math.prod(term.coefficient_shape)
        flops = each * (len(pieces) - 1 + sum(p.scale not in (1, -1) for p in inside))
        moved = each + sum(map(stored_numbers, inside))
        detail = inside, term.coefficient_shape, term
        (slot,) = self._record("add", detail, flops=flops, moved=moved)
        return [Piece(term, common, slot)]

    def densify(self, pieces: Sequence[Piece], out_shape: Any, in_shape: Any) -> tuple[Piece]:
        """One dense piece equal to the sum of the given ones."""
        term = terms.dense(tuple(out_shape), tuple(in_shape))
        assert term is not None
        if len(pieces) == 1 and pieces[0].term == term:
            return (pieces[0],)
        shape = (*out_shape, *in_shape)
        (slot,) = self._record(
            "dense",
            (tuple(pieces), shape, term),
            flops=math.prod(shape) * len(pieces),
            moved=math.prod(shape) + sum(map(stored_numbers, pieces)),
        )
        return (Piece(term, 1, slot),)

    @staticmethod
    def one(shape: tuple[int, ...]) -> tuple[Piece, ...]:
        """The identity block."""
        term = terms.identity(tuple(shape))
        return () if term is None else (Piece(term, 1, None),)

    def explicit(self, block: Block, out_shape: Any, in_shape: Any) -> tuple[Piece, ...]:
        """The block as terms only: its operators are applied to an identity."""
        pieces, operators = _split(block)
        result: Block = pieces
        for operator in operators:
            result = self.add(
                result, self._explicit(operator, out_shape, in_shape), out_shape, in_shape
            )
        return result  # type: ignore[return-value]

    def _explicit(self, piece: OperatorPiece, out_shape: Any, in_shape: Any) -> tuple[Piece, ...]:
        rows, columns = math.prod(out_shape), math.prod(in_shape)
        if not rows or not columns:
            return ()
        forward = piece.operator.jvp and (columns <= rows or not piece.operator.vjp)
        # What another operand or output already asked for costs nothing more.
        if piece.operator.vjp and self._is_pushed("vjp", piece.site, piece.output, out_shape):
            forward = False
        elif piece.operator.jvp and self._is_pushed("jvp", piece.site, piece.operand, in_shape):
            forward = True
        if forward:
            (one,) = self.one(in_shape)
            return self._push("jvp", piece, one, (in_shape, out_shape))
        (one,) = self.one(out_shape)
        return self._push("vjp", piece, one, (out_shape, in_shape))

    def _is_pushed(self, direction: str, site: int, position: int, shape: Any) -> bool:
        """Whether an operator has been applied to the identity from this side."""
        (one,) = self.one(shape)
        seed = self._memo.get(("columns", direction, one, tuple(shape)))
        return seed is not None and (direction, site, position, seed[0]) in self._memo

    def _apply_to_columns(
        self, piece: OperatorPiece, term: Piece, shapes: Any
    ) -> tuple[Piece, ...]:
        w, v, _ = shapes
        columns = math.prod(
            term.term.sizes[k] for k in set(loops_of(term.term.inn, term.term.lookups))
        )
        if not piece.operator.jvp or (piece.operator.vjp and math.prod(w) < columns):
            return self._compose_blocks(self._explicit(piece, w, v), (term,), shapes)
        return self._push("jvp", piece, term, (v, w))

    def _apply_to_rows(self, term: Piece, piece: OperatorPiece, shapes: Any) -> tuple[Piece, ...]:
        _, v, u = shapes
        rows = math.prod(
            term.term.sizes[k] for k in set(loops_of(term.term.out, term.term.lookups))
        )
        if not piece.operator.vjp or (piece.operator.jvp and math.prod(u) < rows):
            return self._compose_blocks((term,), self._explicit(piece, v, u), shapes)
        return self._push("vjp", piece, term, (v, u))

    def _compose_blocks(self, later: Any, earlier: Any, shapes: Any) -> tuple[Piece, ...]:
        return self.compose(later, earlier, shapes)  # type: ignore[return-value]

    def _push(
        self,
        direction: str,
        piece: OperatorPiece,
        term: Piece,
        shapes: tuple[tuple[int, ...], tuple[int, ...]],
    ) -> tuple[Piece, ...]:
        """Applies an operator to a term, once for each point of the loops of its far side.

        `shapes` are those of the variable between the two and of the operator's far side.
        """
        eliminated, target = shapes
        seeded, kept = term.term.out, term.term.inn
        if direction == "vjp":
            seeded, kept = kept, seeded
        if not math.prod(target):
            return ()
        operator, site = piece.operator, piece.site
        loops = sorted(set(loops_of(kept, term.term.lookups)))
        batch = tuple(term.term.sizes[loop] for loop in loops)
        columns = math.prod(batch)
        # A linear operator leaves the scale to the result; another must see it.
        scale, inside = (1, term.scale) if operator.only_rows else (term.scale, 1)
        seeding = term._replace(scale=inside)
        key = "columns", direction, seeding, tuple(eliminated)
        if key not in self._memo:
            maps = (*(Affine(0, ((loop, 1),)) for loop in loops), *seeded)
            self._memo[key] = self._record(
                "columns",
                ((seeding,), (*batch, *eliminated), maps),
                flops=columns * math.prod(eliminated),
                moved=columns * math.prod(eliminated) + stored_numbers(seeding),
            )
        (seed,) = self._memo[key]
        forward = direction == "jvp"
        position = piece.operand if forward else piece.output
        results = operator.out_shapes if forward else operator.in_shapes
        push = direction, site, position, seed
        if push not in self._memo:
            flops = columns * operator.flops
            slots = self._record(
                direction,
                (operator, site, position, seed, columns),
                slots=len(results),
                flops=flops,
                moved=columns * sum(map(math.prod, (eliminated, *results.values()))),
            )
            self.cost.multiplications += flops // 2
            self.cost.nonunit += flops // 2
            self._memo[push] = dict(zip(results, slots, strict=True))
        slot = self._memo[push][piece.output if forward else piece.operand]

        rank = len(batch)
        fresh = tuple(Affine(0, ((rank + axis, 1),)) for axis in range(len(target)))
        names = {loop: index for index, loop in enumerate(loops)}
        stays = tuple(
            Affine(a.offset, tuple((names.get(k, k), stride) for k, stride in a.strides))
            for a in kept
        )
        read = {k for a in kept for k, _ in a.strides if k < 0}
        left = tuple(
            # A lookup on the side of the operator is read no more.
            lookup._replace(
                axes=tuple(names[axis] for axis in lookup.axes) if -1 - k in read else ()
            )
            for k, lookup in enumerate(term.term.lookups)
        )
        out, inn = (fresh, stays) if forward else (stays, fresh)
        axes = tuple(range(rank + len(target)))
        raw = Term((*batch, *target), out, inn, axes, lookups=left)
        placed = terms.canonical(raw)
        assert placed is not None
        result, order = placed
        if order != tuple(range(len(order))) or 1 in raw.sizes:
            relabel = "reorder", slot, order
            if relabel not in self._memo:
                moved = 2 * math.prod(result.coefficient_shape)
                detail = slot, order, result.coefficient_shape
                self._memo[relabel] = self._record("reorder", detail, moved=moved)
            (slot,) = self._memo[relabel]
        return (Piece(result, scale, slot),)


def _resolved(term: Term, symbols: Sequence[Table | int]) -> Term:
    """A product's term with its lookups in resolved tables."""
    if not term.lookups:
        return term
    lookups = tuple(
        lookup._replace(table=symbols[-1 - lookup.table])  # type: ignore[operator]
        for lookup in term.lookups
    )
    return terms.canonical(term._replace(lookups=lookups))[0]  # type: ignore[index]


def _split(block: Block) -> tuple[tuple[Piece, ...], tuple[OperatorPiece, ...]]:
    return (
        tuple(p for p in block if isinstance(p, Piece)),
        tuple(p for p in block if isinstance(p, OperatorPiece)),
    )


def _is_unit(piece: Piece) -> bool:
    """Whether the coefficient is 1 or -1, known while planning."""
    return piece.slot is None and piece.scale in (1, -1)


def _is_alias(product: Product, piece: Piece) -> bool:
    """Whether the only dynamic factor is already the coefficient of the product."""
    axes = product.term.axes
    maps = product.later if product.earlier is None else product.earlier
    return (
        len(product.sizes) == len(product.term.sizes)
        and not product.guards
        and product.term.coefficient_shape == piece.term.coefficient_shape
        and maps == tuple(Affine(0, ((axis, 1),)) for axis in axes or ())
    )
