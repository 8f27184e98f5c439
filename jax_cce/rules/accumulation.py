"""The chain rule along linear equations: from a linear program to the terms of its blocks.

What JAX's linearisation leaves of an equation is a program that is linear in its seeds. Its blocks
are accumulated from the registered rules, one equation after the other, and become local terms
whose coefficients share one run of the recorded steps.
"""

import dataclasses
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from jax import lax

from jax_cce.algebra.blocks import Block, Piece, slots_of
from jax_cce.algebra.index_arrays import Table
from jax_cce.algebra.recorder import Recorder
from jax_cce.algebra.steps import (
    Add,
    Densify,
    Key,
    Local,
    Merge,
    Multiply,
    Reorder,
    Step,
    needed,
    run,
)
from jax_cce.algebra.terms import Term, Unrepresentable, transpose
from jax_cce.jax_internals import InconclusiveDimensionOperation, Literal
from jax_cce.program.flat import Equation
from jax_cce.rules.book import rules_for
from jax_cce.rules.local import LocalSites, LocalTerm, Primals, automatic
from jax_cce.rules.open_paths import Edge, OpenPaths, edges_of
from jax_cce.rules.open_sites import sites_of

__all__ = [
    "Accumulation",
    "Row",
    "place",
]

# The blocks of one variable, by seed; a variable that depends on no seed has none.
Row = dict[int, Block]


class Accumulation:
    """Blocks of variables with respect to seeds, on a recorder of their own.

    Attributes:
        recorder: what records the steps.
        seeds: shape of each seed.
    """

    def __init__(self, seeds: Mapping[int, tuple[int, ...]], *, sparse: bool) -> None:
        """Starts with nothing but seeds.

        Args:
            seeds: shape of each seed.
            sparse: whether structural zeros matter.
        """
        self.recorder = Recorder(sparse=sparse)
        self.seeds = dict(seeds)
        self._locals: dict[Hashable, dict[tuple[int, int], tuple[LocalTerm, ...]]] = {}

    def seed(self, name: int) -> Row:
        """The row of a seed itself."""
        block = self.recorder.one(self.seeds[name])
        return {name: block} if block else {}

    def equation(self, site: Hashable, equation: Equation, rows: Sequence[Row | None]) -> list[Row]:
        """The rows of an equation's results.

        Args:
            site: what the equation is called when its coefficients are computed.
            equation: a linear equation.
            rows: for each operand its row, None where it does not depend on the seeds.

        Raises:
            Unrepresentable: where no rule describes the equation by terms.
        """
        active = tuple(row is not None for row in rows)
        for rule in rules_for(equation, sparse=self.recorder.sparse, linear=True):
            try:
                local = rule(equation, active)
                break
            except (Unrepresentable, InconclusiveDimensionOperation):
                pass
        else:
            raise Unrepresentable(f"no rule describes {equation.name}")
        edges = {key: terms for key, terms in local.edges.items() if isinstance(terms, tuple)}
        if local.evaluate is not None or len(edges) < len(local.edges):
            raise Unrepresentable(f"{equation.name} is no linear equation with terms")
        self._locals[site] = edges
        results: list[Row] = [{} for _ in equation.outputs]
        for (operand, output), terms in edges.items():
            edge = place(self.recorder, terms, site, (operand, output))
            out, middle = equation.out_avals[output].shape, equation.in_avals[operand].shape
            self.extend(results[output], edge, rows[operand] or {}, (out, middle))
        return results

    def placed(
        self, site: Hashable, edges: dict[tuple[int, int], tuple[LocalTerm, ...]]
    ) -> dict[tuple[int, int], Block]:
        """The blocks of a site whose terms are given."""
        self._locals[site] = edges
        return {key: place(self.recorder, terms, site, key) for key, terms in edges.items()}

    def include(self, total: Row, row: Row, shape: tuple[int, ...]) -> None:
        """Adds a row to another; `shape` is that of their variable."""
        for seed, block in row.items():
            total[seed] = self.recorder.add(total.get(seed, ()), block, shape, self.seeds[seed])

    def extend(
        self, total: Row, edge: Block, row: Row, shapes: tuple[tuple[int, ...], tuple[int, ...]]
    ) -> None:
        """Adds edge times row to a row; `shapes` are those of the edge's two ends."""
        out, middle = shapes
        for seed, block in row.items():
            shape = self.seeds[seed]
            product = self.recorder.compose(edge, block, (out, middle, shape))
            total[seed] = self.recorder.add(total.get(seed, ()), product, out, shape)

    def program(
        self,
        name: Callable[[int], Hashable],
        equations: Sequence[Equation],
        rows: dict[Any, Row],
    ) -> None:
        """Adds the rows of all variables that some equations compute from variables with rows."""
        for index, equation in enumerate(equations):
            own = [None if isinstance(k, Literal) else rows.get(k) for k in equation.inputs]
            if any(row is not None for row in own):
                results = self.equation(name(index), equation, own)
                rows.update(zip(equation.outputs, results, strict=True))

    def edges(self, site: Hashable, equation: Equation) -> list[Edge]:
        """The edges of an equation of which rows have been made."""
        return edges_of(site, equation, self._locals.get(site, {}))

    def terms(
        self,
        blocks: Mapping[tuple[int, int], Block],
        sites: Callable[[Primals], Callable[[Any], Primals]],
        dtype: Any,
        *,
        paths: OpenPaths | None = None,
        transposed: bool = False,
    ) -> dict[tuple[int, int], tuple[LocalTerm, ...]]:
        """Blocks (image, seed) as local terms of (seed, image), or transposed of (image, seed).

        Args:
            blocks: the blocks.
            sites: from the site of the whole equation to those of the inner ones.
            dtype: that of the seeds.
            paths: the open paths through the inner equations.
            transposed: whether the terms are those of the transposed blocks.
        """
        wanted = {slot for block in blocks.values() for p in block for slot in slots_of(p)}  # type: ignore[arg-type]
        steps, _ = needed(self.recorder.steps, wanted)
        masks, masked = self._masks(steps)
        key, pattern = object(), object()

        def slots(primals: Primals) -> dict[int, Any]:
            if key not in primals.memo:
                inner = sites(primals)
                values = sites_of(paths, self._locals.__getitem__, inner)
                with automatic():
                    primals.memo[key] = run(steps, dtype, sites=values)
            return primals.memo[key]

        def patterns(primals: Primals) -> dict[int, Any]:
            if pattern not in primals.memo:
                values = _Patterns(self._locals.__getitem__, sites(primals))
                with automatic():
                    primals.memo[pattern] = run(map(_counting, steps), np.int32, sites=values)
            return primals.memo[pattern]

        edges: dict[tuple[int, int], tuple[LocalTerm, ...]] = {}
        for (image, seed), block in blocks.items():
            terms: tuple[LocalTerm, ...] = ()
            for piece in block:
                assert isinstance(piece, Piece)
                local = _local(piece, slots, transposed)
                if piece.slot in masks:
                    local = local._replace(is_mask=True)
                elif piece.slot in masked:
                    local = local._replace(mask=_nonzero(_local(piece, patterns, transposed).value))
                terms += (local,)
            if terms:
                edges[(image, seed) if transposed else (seed, image)] = terms
        return edges

    def _masks(self, steps: Iterable[Step]) -> tuple[set[int | None], set[int | None]]:
        """The slots of masks and products of masks, and those of all that masks make zero."""
        masks: set[int | None] = set()
        masked: set[int | None] = set()
        for step in steps:
            is_mask = is_masked = False
            if isinstance(step, Local):
                operand, output, position = step.key
                local = self._locals[step.site][operand, output][position]
                is_mask, is_masked = local.is_mask, local.is_masked
            elif isinstance(step, Multiply):
                factors = {step.later.slot, step.earlier.slot} - {None}
                contracted = len(step.product.sizes) > len(step.product.term.sizes)
                is_mask = factors <= masks and not contracted
                is_masked = is_mask or not factors.isdisjoint(masked)
            elif isinstance(step, Reorder):
                is_mask, is_masked = step.slot in masks, step.slot in masked
            elif isinstance(step, Add | Merge | Densify):
                is_masked = all(piece.slot in masked for piece in step.pieces)
            masks.update(step.slots if is_mask else ())
            masked.update(step.slots if is_masked else ())
        return masks, masked


class _Patterns(LocalSites):
    """Masks, and ones in place of all other coefficients."""

    def coefficient(self, site: Any, key: Key, term: Term) -> Any:
        """Where the coefficient of a term counts."""
        mask = self.mask(site, key)
        return lax.full(term.coefficient_shape, True) if mask is None else mask


def _counting(step: Step) -> Step:
    """A step that counts summands, whatever their scale."""
    if not isinstance(step, Add | Merge | Densify):
        return step
    pieces = tuple(piece._replace(scale=1) for piece in step.pieces)
    return dataclasses.replace(step, pieces=pieces)


def _nonzero(counts: Callable[[Primals], Any] | None) -> Callable[[Primals], Any]:
    assert counts is not None

    def mask(primals: Primals) -> Any:
        array = counts(primals)
        with automatic():
            return array if array.dtype == np.bool_ else lax.ne(array, lax.full_like(array, 0))

    return mask


def _local(piece: Piece, slots: Callable[[Primals], dict[int, Any]], transposed: bool) -> LocalTerm:
    term, scale, slot = piece
    order: tuple[int, ...] = ()
    if transposed:
        term, order = transpose(term)
    tables: list[Any] = []
    lookups = []
    for lookup in term.lookups:
        if not isinstance(lookup.table, Table):
            tables.append(_from_slot(slots, lookup.table, ()))
            lookup = lookup._replace(table=len(tables) - 1)
        lookups.append(lookup)
    value = None if slot is None else _from_slot(slots, slot, order)
    return LocalTerm(term._replace(lookups=tuple(lookups)), scale, value, tuple(tables))


def _from_slot(
    slots: Callable[[Primals], dict[int, Any]], slot: Any, order: tuple[int, ...]
) -> Any:
    def value(primals: Primals) -> Any:
        array = slots(primals)[slot]
        with automatic():
            return array if order == tuple(sorted(order)) else lax.transpose(array, order)

    return value


def place(recorder: Recorder, terms: Sequence[LocalTerm], site: Any, key: tuple[int, int]) -> Block:
    """A local Jacobian's terms as pieces on a recorder."""
    pieces = []
    for position, local in enumerate(terms):
        term, scale, name = local.term, local.scale, (*key, position)
        if local.tables:
            lookups = tuple(
                lookup if isinstance(lookup.table, Table) else recorder.lookup(lookup, site, name)
                for lookup in term.lookups
            )
            term = term._replace(lookups=lookups)
        if local.value is None:
            pieces.append(Piece(term, scale, None))
        else:
            pieces.append(recorder.local(term, scale, site, name))
    return tuple(pieces)
