"""The recorder: composes and adds blocks symbolically, and notes the steps that do it on arrays."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from jax_cce.algebra import steps, terms
from jax_cce.algebra.blocks import Block, OperatorPiece, Piece, is_unit, split
from jax_cce.algebra.composition import Product, compose, pushed, resolved
from jax_cce.algebra.fewer import fewer
from jax_cce.algebra.index_arrays import Table
from jax_cce.algebra.lines import Union
from jax_cce.algebra.merging import merged
from jax_cce.algebra.notes import Notes
from jax_cce.algebra.stacking import points_of, stacked
from jax_cce.algebra.steps import Push
from jax_cce.algebra.symbols import Read
from jax_cce.algebra.terms import (
    Lookup,
    Term,
    Unrepresentable,
    along,
    loops_of,
    points,
)
from jax_cce.jax_internals import InconclusiveDimensionOperation, exceeds

__all__ = [
    "Recorder",
]

# Beyond this many terms a small block is cheaper to trace and to run as one dense array; a block of
# the result, with which nothing is multiplied any more, beyond so many, and for many points more.
_MOST_TERMS, _MOST_IN_RESULTS, _MOST_APART_IN_RESULTS = 8, 16, 32
_SMALL_BLOCK = 4096
# Beyond so many terms they are stacked.
_MOST_SPARSE, _MOST_DENSE = 8, 64
# Blocks of at most so many entries are kept as single entries, which `jax.vmap` makes vectors of.
_MOST_APART = 256
# Beyond so many products of terms both factors are stacked to a few.
_MOST_PRODUCTS, _FEW = 32, 4


class Recorder(Notes):
    """Composes and adds blocks symbolically, recording steps and their cost."""

    def local(self, term: Term, scale: complex, site: Any, key: Any) -> Piece:
        """The piece of a local Jacobian whose coefficient the site computes at run time."""
        (slot,) = self._record(steps.Local, site=site, key=key, term=term)
        return Piece(term, scale, slot)

    def lookup(self, lookup: Lookup, site: Any, key: Any) -> Lookup:
        """The lookup in an index array that the site computes at run time."""
        name = site, key, lookup.table
        slot = self._once(name, steps.IndexArray, site=site, key=key, number=lookup.table)
        return lookup._replace(table=slot)

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
        later_terms, later_operators = split(later)
        earlier_terms, earlier_operators = split(earlier)
        if later_operators and len(earlier_terms) > 1:
            earlier_terms = self.densify(earlier_terms, v, u)
        if earlier_operators and len(later_terms) > 1:
            later_terms = self.densify(later_terms, w, v)
        few = min(len(later_terms), len(earlier_terms)) <= _FEW
        if self.sparse and not few and len(later_terms) * len(earlier_terms) > _MOST_PRODUCTS:
            later_terms = self._in_few(later_terms, (*w, *v))
            earlier_terms = self._in_few(earlier_terms, (*v, *u))
        result: Block = ()
        if self.sparse or len(later_terms) * len(earlier_terms) > _MOST_DENSE:
            products: Block = tuple(
                piece
                for one in later_terms
                for other in earlier_terms
                for piece in self._compose_terms(one, other, shapes)
            )
            result = self._total(products, w, u) if len(products) > 1 else products
        else:
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
        is_dense = later.term == terms.dense(w, v) or earlier.term == terms.dense(v, u)
        try:
            product = compose(later.term, earlier.term, self.sparse)
            if (
                product is not None
                and product.guards
                and not is_dense
                # Two run-time lookups meet at every pair of their points.
                and any(exceeds(math.prod(product.sizes), math.prod((*v, *end))) for end in (w, u))
            ):
                raise Unrepresentable("two index arrays would be matched at run time")
        except (Unrepresentable, InconclusiveDimensionOperation):
            if is_dense:
                raise
            # Either dense side makes every composition representable; take the smaller one.
            if not exceeds(math.prod(v) * math.prod(u), math.prod(w) * math.prod(v)):
                return self._compose_terms(later, *self.densify((earlier,), v, u), shapes)
            return self._compose_terms(*self.densify((later,), w, v), earlier, shapes)
        if product is None:
            return ()
        self.cost.multiplications += product.multiplications
        if not (is_unit(later) or is_unit(earlier)):
            self.cost.nonunit += product.multiplications
        symbols = self._symbols(product)
        term = resolved(product.term, symbols)
        scale = later.scale * earlier.scale * product.multiplicity
        if scale == 0:
            return ()
        piece = self._product(product, term, scale, later, earlier, symbols)
        if self.sparse and term.lookups:
            most = 2 * max(points_of(later.term), points_of(earlier.term))
            if points_of(term) > most:
                return (self._without_repetitions(piece, (*w, *u)),)
        return (piece,)

    def _without_repetitions(self, piece: Piece, shape: tuple[int, ...]) -> Piece:
        """The piece with one point for each position, where points were enumerated."""
        how = stacked((piece,), shape)
        if how is None or how.places is None or how.points == how.places.values.size:
            return piece
        return self._stack((piece,), shape, keep=True) or piece

    def _product(
        self,
        product: Product,
        term: Term,
        scale: complex,
        later: Piece,
        earlier: Piece,
        symbols: tuple[Table | int, ...],
    ) -> Piece:
        slots = [p.slot for p in (later, earlier) if p.slot is not None]
        if not slots and not product.guards:
            return Piece(term, scale, None)
        if len(slots) == 1 and product.is_alias((later if earlier.slot is None else earlier).term):
            return Piece(term, scale, slots[0])
        slot = self._once(
            (product, later.slot, earlier.slot, symbols),
            steps.Multiply,
            product=product,
            later=later,
            earlier=earlier,
            symbols=symbols,
        )
        return Piece(term, scale, slot)

    def _symbols(self, product: Product) -> tuple[Table | int, ...]:
        """For each symbol of a product a static table, or the slot that will hold its values."""
        tables: list[Table | int] = []
        for symbol in product.symbols:
            source, maps = symbol.source, symbol.source.maps
            straight = tuple(map(along, symbol.axes))
            whole = tuple(product.sizes[axis] for axis in symbol.axes)
            if isinstance(source, Read) and maps == straight and source.shape == whole:
                tables.append(source.table)  # type: ignore[arg-type]
                continue
            variables = sorted({k for m in maps for k, _ in m.strides if k < 0})
            inner = tuple((variable, tables[-1 - variable]) for variable in variables)
            key = symbol, product.sizes, inner
            facts: dict[str, Any] = {
                "symbol": symbol,
                "sizes": product.sizes,
                "symbols": product.symbols,
                "tables": inner,
            }
            values = steps.SymbolValues(slots=(), vertex=None, **facts)
            if values.reads:
                tables.append(self._once(key, steps.SymbolValues, **facts))
            else:
                name = steps.SymbolValues, key
                if name not in self._tables:
                    self._tables[name] = Table(values.values({}, np))
                tables.append(self._tables[name])
        return tuple(tables)

    def add(self, one: Block, other: Block, out_shape: Any, in_shape: Any) -> Block:
        """The sum of two blocks; terms with the same support are added entry by entry."""
        if not one or not other:
            return one or other
        return self._total((*one, *other), out_shape, in_shape)

    def _total(self, block: Block, out_shape: Any, in_shape: Any) -> Block:
        alike: dict[Any, list[Piece]] = {}
        operators: list[OperatorPiece] = []
        for piece in block:
            if isinstance(piece, Piece):
                alike.setdefault(piece.term.support, []).append(piece)
            else:
                operators.append(piece)
        summed = [p for group in alike.values() for p in self._add_alike(group)]
        most = _MOST_SPARSE if self.sparse else _MOST_DENSE
        if len(summed) > 1 and self.sparse:
            summed = merged(summed, self._joined)
        elif len(summed) > 1:
            entries = sum(math.prod(p.term.coefficient_shape) for p in summed)
            full = math.prod(out_shape) * math.prod(in_shape)
            bound = _MOST_TERMS
            if self.of_result:
                bound = _MOST_APART_IN_RESULTS if self.apart else _MOST_IN_RESULTS
            many = len(summed) > bound and not exceeds(full, _SMALL_BLOCK, unknown=True)
            if self._is_apart(summed, full):
                most = _MOST_APART
            elif many or not exceeds(full, entries, unknown=True):
                summed = list(self.densify(tuple(summed), out_shape, in_shape))
        if len(summed) > most:
            summed = self._few(summed, (*out_shape, *in_shape), most)
        return (*summed, *operators)

    def _is_apart(self, pieces: Sequence[Piece], full: Any) -> bool:
        """Whether pieces stay single entries of a small block."""
        return (
            self.apart
            and not exceeds(full, _MOST_APART, unknown=True)
            and all(set(piece.term.sizes) <= {1} for piece in pieces)
        )

    def _in_few(self, pieces: tuple[Piece, ...], shape: tuple[int, ...]) -> tuple[Piece, ...]:
        """A factor that meets many pieces, itself in few; the same each time."""
        if len(pieces) <= _FEW:
            return pieces
        key = "in few", pieces
        if key not in self._memo:
            self._memo[key] = tuple(self._few(pieces, shape, _FEW))
        return self._memo[key]

    def _few(self, pieces: Sequence[Piece], shape: tuple[int, ...], most: int) -> list[Piece]:
        """The same sum in few pieces."""

        def stack(chosen: Sequence[Piece], keep: bool) -> Piece | None:
            return self._stack(chosen, shape, keep=keep)

        found = fewer(pieces, most, stack)
        return merged(found, self._joined) if self.sparse else found

    def _stack(
        self, pieces: Sequence[Piece], shape: tuple[int, ...], *, keep: bool
    ) -> Piece | None:
        """One piece that holds several, entries at one position added up."""
        how = stacked(pieces, shape, keep=keep)
        if how is None:
            return None
        scale = pieces[0].scale
        if all(piece.slot is None and piece.scale == scale for piece in pieces) and (
            how.places is None or how.points == how.places.values.size
        ):
            return Piece(how.term._replace(axes=None), scale, None)
        slot = self._once((how, tuple(pieces)), steps.Stack, pieces=tuple(pieces), stacked=how)
        return Piece(how.term, 1, slot)

    def _joined(self, union: Union, pieces: tuple[Piece, Piece]) -> Piece:
        slot = self._once((union, pieces), steps.Merge, union=union, pieces=pieces)
        return Piece(union.term, 1, slot)

    def _add_alike(self, pieces: list[Piece]) -> list[Piece]:
        if len(pieces) == 1:
            return pieces
        first = pieces[0].term
        layout = all(p.term.layout for p in pieces)
        if all(p.slot is None for p in pieces):
            scale = sum(p.scale for p in pieces)
            return [Piece(first._replace(layout=layout), scale, None)] if scale else []
        # One array along other loops is another coefficient, as in v[:, None] - v.
        if all((p.slot, p.term.axes) == (pieces[0].slot, first.axes) for p in pieces):
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
        (slot,) = self._record(steps.Add, pieces=inside, term=term)
        return [Piece(term, common, slot)]

    def densify(self, pieces: Sequence[Piece], out_shape: Any, in_shape: Any) -> tuple[Piece]:
        """One dense piece equal to the sum of the given ones."""
        term = terms.dense(tuple(out_shape), tuple(in_shape))
        assert term is not None
        if len(pieces) == 1 and pieces[0].term == term:
            return (pieces[0],)
        shape = (*out_shape, *in_shape)
        (slot,) = self._record(
            steps.Densify, pieces=tuple(pieces), shape=shape, term=term, apart=self.apart
        )
        return (Piece(term, 1, slot),)

    @staticmethod
    def one(shape: tuple[int, ...]) -> tuple[Piece, ...]:
        """The identity block."""
        term = terms.identity(tuple(shape))
        return () if term is None else (Piece(term, 1, None),)

    def explicit(self, block: Block, out_shape: Any, in_shape: Any) -> tuple[Piece, ...]:
        """The block as terms only: its operators are applied to an identity."""
        pieces, operators = split(block)
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
        operator = piece.operator
        forward = operator.jvp is not None and (not exceeds(columns, rows) or operator.vjp is None)
        # What another operand or output already asked for costs nothing more.
        if operator.vjp and self._is_pushed(steps.PullBack, piece.site, piece.output, out_shape):
            forward = False
        elif operator.jvp and self._is_pushed(
            steps.PushForward, piece.site, piece.operand, in_shape
        ):
            forward = True
        (one,) = self.one(in_shape if forward else out_shape)
        return self._push(steps.PushForward if forward else steps.PullBack, piece, one)

    def _is_pushed(self, kind: type[Push], site: int, position: int, shape: Any) -> bool:
        """Whether an operator has been applied to the identity from this side."""
        (one,) = self.one(shape)
        seed = self._memo.get((steps.Columns, (kind, one, tuple(shape))))
        return seed is not None and (kind, (site, position, seed)) in self._memo

    def _apply_to_columns(
        self, piece: OperatorPiece, term: Piece, shapes: Any
    ) -> tuple[Piece, ...]:
        w, v, _ = shapes
        columns = points(term.term, term.term.in_map)
        if not piece.operator.jvp or (piece.operator.vjp and exceeds(columns, math.prod(w))):
            return self._compose_blocks(self._explicit(piece, w, v), (term,), shapes)
        return self._push(steps.PushForward, piece, term)

    def _apply_to_rows(self, term: Piece, piece: OperatorPiece, shapes: Any) -> tuple[Piece, ...]:
        _, v, u = shapes
        rows = points(term.term, term.term.out_map)
        if not piece.operator.vjp or (piece.operator.jvp and exceeds(rows, math.prod(u))):
            return self._compose_blocks((term,), self._explicit(piece, v, u), shapes)
        return self._push(steps.PullBack, piece, term)

    def _compose_blocks(self, later: Any, earlier: Any, shapes: Any) -> tuple[Piece, ...]:
        return self.compose(later, earlier, shapes)  # type: ignore[return-value]

    def _push(self, kind: type[Push], piece: OperatorPiece, term: Piece) -> tuple[Piece, ...]:
        """Applies an operator to a term, once for each point of the loops of the term's far side.

        A pushforward composes it with a term of the operand, a pullback with one of the output.
        """
        operator, site = piece.operator, piece.site
        seeded, kept = term.term.out_map, term.term.in_map
        position, result = piece.operand, piece.output
        shapes = operator.in_shapes, operator.out_shapes
        if kind is steps.PullBack:
            seeded, kept = kept, seeded
            position, result = result, position
            shapes = shapes[::-1]
        near, far = shapes[0][position], shapes[1][result]
        if not math.prod(far):
            return ()
        loops = sorted(set(loops_of(kept, term.term.lookups)))
        batch = tuple(term.term.sizes[loop] for loop in loops)
        seeding = term._replace(scale=1)
        seed = self._once(
            (kind, seeding, near),
            steps.Columns,
            pieces=(seeding,),
            shape=(*batch, *near),
            maps=(*map(along, loops), *seeded),
        )
        # The memo would else hold a slot for each far side.
        key = kind, (site, position, seed)
        if key not in self._memo:
            columns = math.prod(batch)
            slots = self._record(
                kind,
                slots=len(shapes[1]),
                site=site,
                operator=operator,
                position=position,
                seed=seed,
                columns=columns,
            )
            products = columns * operator.flops // 2
            self.cost.multiplications += products
            self.cost.nonunit += products
            self._memo[key] = dict(zip(shapes[1], slots, strict=True))
        slot = self._memo[key][result]
        raw = pushed(term.term, loops, kept, far, transposed=kind is steps.PullBack)
        placed = terms.canonical(raw)
        assert placed is not None
        new, order = placed
        if order != tuple(range(len(order))) or 1 in raw.sizes:
            slot = self._once(
                (slot, order),
                steps.Reorder,
                slot=slot,
                order=order,
                shape=new.coefficient_shape,
            )
        return (Piece(new, term.scale, slot),)
