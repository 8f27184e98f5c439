"""Vertex elimination in which products are sampled.

Eliminating a vertex with n entries multiplies C = A B, a sum over these entries of a column of A
times a row of B. Drawn with probabilities q, with replacement, k of them estimate it by

    Ĉ = 1/k  sum over the drawn j of  A[:, j] B[j, :] / q[j]

which is A S B for a structured matrix S: one term whose positions are read from an index array. So
the algebra of structured blocks multiplies it as any other, and what is sampled saves work as well,
in this product and in those that follow. The expected squared error

    E‖Ĉ − C‖² = (sum over j of ‖A[:, j]‖² ‖B[j, :]‖² / q[j]  −  ‖C‖²) / k

is least for q[j] in proportion to ‖A[:, j]‖ ‖B[j, :]‖, which is read off the coefficients at hand.
What is drawn at one vertex is independent of all that was drawn before, so that expectations
multiply along a path.

Source: Drineas, Kannan & Mahoney, "Fast Monte Carlo algorithms for matrices I", SIAM J. Comput. 36
(2006), for the probabilities; Oktay et al. (ICLR 2021) for sampled graphs.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jax_cce import jax_internals
from jax_cce.algebra import placement, terms
from jax_cce.algebra.blocks import Block, Piece, slots_of, split, stored_numbers
from jax_cce.algebra.dtypes import promoted
from jax_cce.algebra.passing import mixes
from jax_cce.algebra.steps import Step, needed, run
from jax_cce.algebra.steps.step import Run
from jax_cce.algebra.terms import Affine, Lookup, Term, loops_of
from jax_cce.execution import recomputation
from jax_cce.graph.building import Graph
from jax_cce.graph.elimination import Elimination
from jax_cce.program import flat, passes
from jax_cce.randomized.draws import Method, signs
from jax_cce.rules.local import Primals
from jax_cce.rules.open_sites import sites_of
from jax_cce.sparse.structured import StructuredJacobian

__all__ = [
    "Sampled",
    "SampledElimination",
    "cuts",
    "emitted",
    "mixing",
]

# The slot of the key, which no recorder gives out.
_KEY = -1


@dataclass(frozen=True, slots=True, kw_only=True)
class _OfFactors(Step):
    """What is computed from both factors of a product at a vertex.

    Attributes:
        later: the pieces of A.
        earlier: those of B.
        shape: the shape of the vertex.
        number: the place of the draw among all.
    """

    later: tuple[Piece, ...]
    earlier: tuple[Piece, ...]
    shape: tuple[int, ...]
    number: int

    @property
    def reads(self) -> tuple[int, ...]:
        """The coefficients, and their positions."""
        return tuple(slot for piece in (*self.later, *self.earlier) for slot in slots_of(piece))

    @property
    def flops(self) -> int:
        """A square for each coefficient and its sum, and the probabilities."""
        stored = sum(map(stored_numbers, (*self.later, *self.earlier)))
        return 2 * stored + 3 * math.prod(self.shape)

    @property
    def moved(self) -> int:
        """The coefficients."""
        return sum(map(stored_numbers, (*self.later, *self.earlier)))

    @property
    def largest(self) -> int:
        """The norms."""
        return math.prod(self.shape)

    def norms(self, arrays: Run) -> Any:
        """‖A[:, j]‖ ‖B[j, :]‖ for each entry j of the vertex, in a row.

        Where pieces of a block overlap, the squares of them are added up. That changes the
        probabilities a little, and no expectation.
        """
        columns = self._squares(arrays, self.later, lambda term: term.in_map)
        rows = self._squares(arrays, self.earlier, lambda term: term.out_map)
        return jnp.reshape(jnp.sqrt(columns * rows), (-1,))

    def _squares(self, arrays: Run, pieces: Sequence[Piece], maps_of: Any) -> Any:
        total = jnp.zeros(self.shape, arrays.dtype)
        for piece in pieces:
            term, array = piece.term, arrays.coefficient(piece)
            maps = maps_of(term)
            near, own = set(loops_of(maps, term.lookups)), term.axes or ()
            squares = jnp.abs(array).astype(arrays.dtype) ** 2
            axes = tuple(k for k, loop in enumerate(own) if loop not in near)
            squares = jnp.sum(squares, axes)
            absent = set(range(len(term.sizes))) - near - set(own)
            squares = squares * math.prod(term.sizes[loop] for loop in absent)
            item = placement.placed(term, squares, arrays.slots)
            item = item._replace(axes=tuple(k for k in own if k in near), maps=maps)
            total += jnp.reshape(placement.materialise(item, self.shape), self.shape)
        return total

    def key(self, arrays: Run) -> Any:
        """The key of the draw."""
        return jax.random.fold_in(arrays.slots[_KEY], self.number)


@dataclass(frozen=True, slots=True, kw_only=True)
class Draws(_OfFactors):
    """Entries of a vertex that are drawn, and 1 / (k q) for each; fills a slot for each axis too.

    Attributes:
        count: how many are drawn.
    """

    name = "draw"

    count: int

    def described(self) -> str:
        """How many of how many."""
        return f"{self.count} of {math.prod(self.shape)} entries, by the norms of both factors"

    def run(self, arrays: Run) -> Sequence[Any]:
        """Inverts the cumulative probabilities."""
        norms = self.norms(arrays)
        total = jnp.sum(norms)
        usable = jnp.isfinite(total) & (total > 0)
        weights = jnp.where(usable, norms, jnp.ones_like(norms))
        ends = jnp.cumsum(weights)
        draws = jax.random.uniform(self.key(arrays), (self.count,), ends.dtype) * ends[-1]
        last = jnp.max(jnp.where(weights > 0, np.arange(len(norms)), 0))
        flat = jnp.minimum(jnp.searchsorted(ends, draws, side="right"), last)
        inverse = ends[-1] / (self.count * weights[flat])
        axes = jnp.unravel_index(flat, self.shape)
        return [jnp.asarray(inverse, arrays.dtype), *(x.astype(np.int32) for x in axes)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Projects(_OfFactors):
    """A matrix R of random signs over the root of k: the vertex' shape and k; and its transpose."""

    name = "signs"

    count: int

    def described(self) -> str:
        """How many directions."""
        return f"{self.count} random directions of {math.prod(self.shape)} entries"

    def run(self, arrays: Run) -> Sequence[Any]:
        """Draws the signs."""
        shape = *(k for k in self.shape if k != 1), self.count
        array = signs(self.key(arrays), shape, arrays.dtype)
        if self.count == 1:
            return [array[..., 0]] * 2
        return [array, jnp.moveaxis(array, -1, 0)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Errors(_OfFactors):
    """The squared error of a product that would be sampled, for one entry drawn.

    Attributes:
        method: as for `Draw`.
    """

    name = "error"

    method: Method

    def described(self) -> str:
        """The formula."""
        return "(sum of |A_j| |B_j|)^2 - |C|^2"

    def run(self, arrays: Run) -> Sequence[Any]:
        """Evaluates the formula, on whole factors."""
        size = math.prod(self.shape)
        a = _dense(arrays, self.later, (-1, size), self.shape, before=False)
        b = _dense(arrays, self.earlier, (size, -1), self.shape, before=True)
        columns, rows = jnp.sum(a * a, 0), jnp.sum(b * b, 1)
        square = jnp.sum((a @ b) ** 2)
        if self.method == "sample":
            norms = self.norms(arrays)
            met = jnp.where(norms > 0, columns * rows / jnp.where(norms > 0, norms, 1), 0)
            return [jnp.sum(norms) * jnp.sum(met) - square]
        # E‖A R Rᵀ B − A B‖² for one column of R.
        mixed = jnp.sum((a.T @ a) * (b @ b.T))
        whole = jnp.sum(columns) * jnp.sum(rows)
        return [whole + mixed - 2 * jnp.sum(columns * rows)]


def _dense(arrays: Run, pieces: Sequence[Piece], form: Any, shape: Any, *, before: bool) -> Any:
    """A block as a matrix, of which one side has the given shape."""
    items = [arrays.placed(piece) for piece in pieces]
    rank = len(shape)
    extents = []
    for axis in range(len(items[0].maps)):
        inside = axis < rank if before else axis >= len(items[0].maps) - rank
        extents.append(None if inside else _extent(pieces, axis))
    sizes = iter(shape)
    full = tuple(next(sizes) if extent is None else extent for extent in extents)
    return jnp.reshape(placement.dense_sum(items, full), form)


def _extent(pieces: Sequence[Piece], axis: int) -> int:
    """The last position that pieces have along an axis, and one."""
    most = 0
    for piece in pieces:
        affine = (piece.term.out_map + piece.term.in_map)[axis]
        top = affine.offset
        for variable, stride in affine.strides:
            size = (
                piece.term.sizes[variable]
                if variable >= 0
                else piece.term.lookups[-1 - variable].size
            )
            top += max(0, stride * (size - 1))
        most = max(most, top + 1)
    return most


class SampledElimination(Elimination):
    """An elimination in which the products at some vertices are sampled.

    Attributes:
        numbers: for each sampled vertex the numbers in both factors of its products, after and
            before sampling.
        errors: for each measured product its vertex, and the slot of the error.
    """

    def __init__(
        self, graph: Graph, counts: Mapping[int, int], method: Method, *, measure: bool = False
    ) -> None:
        """Starts with the graph.

        Args:
            graph: the graph.
            counts: for each vertex that is sampled how many entries are drawn.
            method: as for `Draw`.
            measure: whether products stay exact and their errors are computed.
        """
        super().__init__(graph)
        self._counts, self._method, self._measure = counts, method, measure
        self.numbers: dict[int, tuple[int, int]] = {}
        self.errors: list[tuple[int, int]] = []
        self._draws = 0

    def joined(
        self, old: Block | None, later: Block, earlier: Block, ends: tuple[int, int, int]
    ) -> Block:
        """Composes and adds blocks, or a sample of their product."""
        count = self._counts.get(ends[1])
        left, right = split(later), split(earlier)
        if count is None or left[1] or right[1]:
            return super().joined(old, later, earlier, ends)
        factors = left[0], right[0]
        target, middle, source = (self.graph.shapes[name] for name in ends)
        recorder = self.recorder
        facts: dict[str, Any] = {"later": left[0], "earlier": right[0], "shape": middle}
        facts["number"] = self._draws
        self._draws += 1
        if self._measure:
            (slot,) = recorder.noted(Errors, method=self._method, **facts)
            self.errors.append((ends[1], slot))
            return super().joined(old, later, earlier, ends)
        if self._method == "sample":
            slots = recorder.noted(Draws, slots=1 + len(middle), count=count, **facts)
            sampling = _sampling(slots, middle, count)
            rows = recorder.compose(sampling, earlier, (middle, middle, source))
            kept = sum(count * stored_numbers(p) // math.prod(middle) for p in left[0])
            kept += sum(map(stored_numbers, split(rows)[0]))
            product = recorder.compose(later, rows, (target, middle, source))
        else:
            slots = recorder.noted(Projects, slots=2, count=count, **facts)
            wide, narrow = _projecting(slots, middle, count)
            some = recorder.compose(later, (wide,), (target, middle, (count,)))
            rows = recorder.compose((narrow,), earlier, ((count,), middle, source))
            kept = sum(map(stored_numbers, (*split(some)[0], *split(rows)[0])))
            product = recorder.compose(some, rows, (target, (count,), source))
        before = sum(stored_numbers(piece) for block in factors for piece in block)
        known = self.numbers.get(ends[1], (0, 0))
        self.numbers[ends[1]] = known[0] + kept, known[1] + before
        recorder.of_result = ends[0] in self._last and ends[2] in self._first
        return recorder.add(old or (), product, target, source)


def _sampling(slots: Sequence[int], shape: tuple[int, ...], count: int) -> Block:
    """S, the sum over draws of weight [o = drawn] [i = drawn]."""
    weights, *tables = slots
    lookups = tuple(Lookup((0,), size, table) for size, table in zip(shape, tables, strict=True))
    maps = tuple(Affine(0, ((-1 - axis, 1),)) for axis in range(len(shape)))
    placed = terms.canonical(Term((count,), maps, maps, (0,), lookups=lookups))
    assert placed is not None
    return (Piece(placed[0], 1, weights),)


def _projecting(slots: Sequence[int], shape: tuple[int, ...], count: int) -> tuple[Piece, Piece]:
    """R and its transpose."""
    wide, narrow = terms.dense(shape, (count,)), terms.dense((count,), shape)
    assert wide is not None
    assert narrow is not None
    return Piece(wide, 1, slots[0]), Piece(narrow, 1, slots[1])


@dataclass(frozen=True, eq=False)
class Sampled:
    """A recorded elimination with sampled products.

    Attributes:
        graph: the graph.
        steps: the steps.
        results: the blocks.
        state: the elimination.
        flops: operations that the steps execute.
    """

    graph: Graph
    steps: tuple[Step, ...]
    results: Mapping[tuple[int, int], tuple[Piece, ...]]
    state: SampledElimination
    flops: int

    @classmethod
    def recorded(
        cls,
        graph: Graph,
        order: Sequence[int],
        counts: Mapping[int, int],
        method: Method,
        *,
        measure: bool = False,
    ) -> "Sampled":
        """Eliminates the vertices of a graph in an order; for the arguments see the elimination."""
        state = SampledElimination(graph, counts, method, measure=measure)
        for vertex in order:
            state.eliminate(vertex)
        results = state.jacobian()
        wanted = [slot for block in results.values() for piece in block for slot in slots_of(piece)]
        wanted += [slot for _, slot in state.errors]
        steps, _ = needed(state.recorder.steps, wanted)
        return cls(graph, tuple(steps), results, state, sum(step.flops for step in steps))


def emitted(
    sampled: Sampled, constants: Sequence[Any], inputs: Sequence[Any], key: Any
) -> tuple[list[Any], dict[tuple[int, int], StructuredJacobian], Mapping[int, Any]]:
    """Evaluates a program and its sampled Jacobian.

    Returns:
        The outputs, the blocks that are not zero, and the array in each slot.
    """
    graph = sampled.graph
    program = graph.program
    used = {step.site for step in sampled.steps} | graph.open_paths.sites
    primals: dict[int, Primals] = {}

    def applied(site: int, equation: Any, operands: list[Any]) -> Sequence[Any]:
        if site not in used:
            return jax_internals.bind(equation, operands)
        primals[site] = recomputation.primals_of(equation, graph.sites[site], operands)
        return primals[site].outs

    values = passes.values(program, constants, inputs)
    passes.fill(values, program.equations, applied)

    def edges(site: int) -> Any:
        local = graph.sites[site]
        assert local is not None
        return local.edges

    dtype = promoted(*(program.avals[name].dtype for name in graph.inputs))
    sites = sites_of(graph.open_paths, edges, primals.__getitem__)
    slots = run(sampled.steps, dtype, sites=sites, slots={_KEY: key})
    blocks = {}
    for (output, name), pieces in sampled.results.items():
        shapes = graph.shapes[graph.outputs[output]], graph.shapes[graph.inputs[name]]
        blocks[output, name] = StructuredJacobian.from_slots(*shapes, dtype, pieces, slots)
    return [flat.read(values, atom) for atom in program.outputs], blocks, slots


def cuts(graph: Graph) -> tuple[int, ...]:
    """The vertices that every path from an input to an output leads through."""
    inputs = [name for name in graph.inputs if name in graph.successors]
    outputs = {k for k in graph.outputs if isinstance(k, int) and k in graph.successors}
    found = []
    for vertex in graph.vertices:
        reached, pending = set(inputs), list(inputs)
        while pending:
            for target in graph.successors[pending.pop()]:
                if target != vertex and target not in reached:
                    reached.add(target)
                    pending.append(target)
        if reached.isdisjoint(outputs) and vertex not in outputs:
            found.append(vertex)
    return tuple(found)


def mixing(graph: Graph) -> tuple[int, ...]:
    """The vertices of which an entry depends on several of a predecessor: where products sum."""
    found = set()
    for to in graph.successors.values():
        for target, block in to.items():
            if any(mixes(piece.term) for piece in split(block)[0]):
                found.add(target)
    return tuple(vertex for vertex in graph.vertices if vertex in found)
