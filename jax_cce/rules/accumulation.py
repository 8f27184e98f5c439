"""The chain rule along linear equations: from a linear program to the terms of its blocks.

What JAX's linearisation leaves of an equation is a program that is linear in its seeds. Its blocks
are accumulated from the registered rules, one equation after the other, and become local terms
whose coefficients share one run of the recorded steps.
"""

from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

from jax import lax

from jax_cce.algebra.blocks import Block, Piece, slots_of
from jax_cce.algebra.index_arrays import Table
from jax_cce.algebra.recorder import Recorder
from jax_cce.algebra.steps import needed, run
from jax_cce.algebra.terms import Unrepresentable, transpose
from jax_cce.jax_internals import Literal
from jax_cce.program.flat import Equation
from jax_cce.rules.book import rules_for
from jax_cce.rules.local import LocalSites, LocalTerm, Primals

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
            except Unrepresentable:
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

    def terms(
        self,
        blocks: Mapping[tuple[int, int], Block],
        sites: Callable[[Primals], Callable[[Any], Primals]],
        dtype: Any,
        *,
        transposed: bool = False,
    ) -> dict[tuple[int, int], tuple[LocalTerm, ...]]:
        """Blocks (image, seed) as local terms of (seed, image), or transposed of (image, seed).

        Args:
            blocks: the blocks.
            sites: from the site of the whole equation to those of the inner ones.
            dtype: that of the seeds.
            transposed: whether the terms are those of the transposed blocks.
        """
        wanted = {slot for block in blocks.values() for p in block for slot in slots_of(p)}  # type: ignore[arg-type]
        steps, _ = needed(self.recorder.steps, wanted)
        key = object()

        def slots(primals: Primals) -> dict[int, Any]:
            if key not in primals.memo:
                inner = sites(primals)
                values = LocalSites(self._locals.__getitem__, inner)
                primals.memo[key] = run(steps, dtype, sites=values)
            return primals.memo[key]

        edges: dict[tuple[int, int], tuple[LocalTerm, ...]] = {}
        for (image, seed), block in blocks.items():
            terms = tuple(_local(piece, slots, transposed) for piece in block)  # type: ignore[arg-type]
            if terms:
                edges[(image, seed) if transposed else (seed, image)] = terms
        return edges


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
        return array if order == tuple(sorted(order)) else lax.transpose(array, order)

    return value


def place(recorder: Recorder, terms: Sequence[LocalTerm], site: Any, key: tuple[int, int]) -> Block:
    """A local Jacobian's terms as pieces on a recorder."""
    pieces = []
    for position, (term, scale, value, tables) in enumerate(terms):
        name = (*key, position)
        if tables:
            lookups = tuple(
                lookup if isinstance(lookup.table, Table) else recorder.lookup(lookup, site, name)
                for lookup in term.lookups
            )
            term = term._replace(lookups=lookups)
        if value is None:
            pieces.append(Piece(term, scale, None))
        else:
            pieces.append(recorder.local(term, scale, site, name))
    return tuple(pieces)
