"""A plan: the order, the recorded steps and their cost, made from shapes alone."""

import collections
import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_args

from jax_cce import reports
from jax_cce.algebra import costs
from jax_cce.algebra.blocks import OperatorPiece, Piece, slots_of
from jax_cce.algebra.costs import Cost, CostName
from jax_cce.algebra.steps import Densify, Step, needed
from jax_cce.eliminations import Item, moved, vertices_of
from jax_cce.graph import building
from jax_cce.graph.building import Graph
from jax_cce.jax_internals import source_line
from jax_cce.orders import named
from jax_cce.program.calls import Traced
from jax_cce.program.flat import Equation

__all__ = [
    "CHUNKS",
    "LIMITED",
    "SYMBOLIC",
    "SYMBOLIC_STORED",
    "Plan",
    "by_mode",
    "make",
]

# The source of the order where dimensions are symbols.
SYMBOLIC = "symbolic shapes"
# The same where the registry holds an order for a size of the function.
SYMBOLIC_STORED = "symbolic shapes, stored for another size"
# And where the temporary arrays have to stay within a limit.
LIMITED = "max_bytes"
# And where the caller says how much is computed at a time.
CHUNKS = "chunk_size"

# How many of the first and of the last vertices and steps a text shows, and HTML unfolds.
_SHOWN_VERTICES, _SHOWN_STEPS, _FOLDED_STEPS = (24, 4), (8, 4), (100, 20)


@dataclass(frozen=True, eq=False, repr=False)
class Plan:
    """How a Jacobian will be computed.

    A vertex is a variable of the traced program (calls inlined, dead code dropped) that lies
    between a differentiated input and an output and is not itself a mere output. Its number is
    its place among all variables that the program's equations compute, from 0. So the numbers
    have gaps: integers, masks, values that depend on no differentiated input, and mere outputs
    are counted, and are no vertices.

    Attributes:
        order: the vertices in the order of their elimination, and each `EdgeElimination` of an
            edge by itself in its place between them.
        vertices: the vertices in ascending order.
        num_edges: number of local Jacobian blocks in the graph.
        steps: the computations in order; `str(step)` is readable.
        operators: names of the primitives whose local Jacobian is a linear operator, which is
            applied to columns or rows because it has no structured form.
        method: "elimination"; or "jacfwd" or "jacrev" where JAX's own mode runs instead of the
            steps: where it was measured to be faster on this device, where loops take most of the
            time or the steps would mostly move entries, where a pullback is not known to be linear
            in the cotangent ("jacrev"), and where shapes are symbolic.
        source: where the order comes from: "given", "searched", "max_bytes",
            "chunk_size", "symbolic shapes", of which none can be searched, "symbolic shapes, stored
            for another size" of the same function, or the layer of the registry that it was found
            in: "memory", "user", "shared", "shipped".
        scalarised: whether small arrays are taken apart entry by entry.
        remark: why the graph is not that of the function itself; "" where it is. Python control
            flow on values, and custom rules that read what exists only inside the call of the
            function, are left to JAX, which differentiates the function while it runs; the
            vertices are then those of the linear map that this yields.
        recomputed: the `jax.checkpoint` regions whose values are computed again where local
            coefficients need them; not those that are eliminated as the program runs.
        chunk: how many columns JAX's forward mode pushes, or how many rows its reverse mode
            pulls, at a time; None for all.
        levels: how deep segments of scans are nested of which reverse mode keeps the first state
            only, to run them again; 0 for scans as they are.
    """

    order: tuple[Item, ...]
    vertices: tuple[int, ...]
    num_edges: int
    steps: tuple[Step, ...]
    operators: tuple[str, ...]
    graph: Graph
    results: Mapping[tuple[int, int], tuple[Piece, ...]]
    _cost: Cost
    method: str = "elimination"
    source: str = "given"
    scalarised: bool = False
    remark: str = ""
    recomputed: frozenset[int] = frozenset()
    chunk: int | None = None
    levels: int = 0

    @property
    def is_symbolic(self) -> bool:
        """Whether sizes are symbols."""
        return self.source in (SYMBOLIC, SYMBOLIC_STORED)

    def of(self, **facts: Any) -> "Plan":
        """The same plan with other facts about where it comes from."""
        return dataclasses.replace(self, **facts)

    @property
    def entries(self) -> bool:
        """`scalarised`, by its former name."""
        return self.scalarised

    @property
    def num_vertices(self) -> int:
        """The number of vertices."""
        return len(self.vertices)

    @property
    def largest(self) -> tuple[int, str]:
        """A bound on the arrays that the steps fill: numbers in the largest, and its origin.

        The origin is the primitive and the user's line of the equation that is eliminated there.
        Arrays of the function itself are not counted, nor are those inside a linear operator.
        """
        # Symbolic sizes cannot be compared, and are left out.
        known = (each for each in self.steps if isinstance(each.largest, int))
        step = max(known, key=lambda each: each.largest, default=None)
        if step is None:
            return 0, ""
        program, slots = self.graph.program, set(step.slots)
        readers = (each for each in self.steps if not slots.isdisjoint(each.reads))
        sites = (each.site for each in (step, *readers) if isinstance(each.site, int))
        if step.vertex is not None:
            name = step.vertex + program.first_computed
            sites = (k for k, each in enumerate(program.equations) if name in each.outputs)
        site = next(sites, None)
        origin = "the assembly of the result"
        return step.largest, origin if site is None else _described(program.equations[site])

    @property
    def peak_bytes(self) -> int:
        """A bound on the arrays of the steps that are alive at once, in bytes.

        Each step fills its arrays, and an array lives until the last step that reads it; those of
        the result live to the end. The largest sum of what lives during one step is the bound, at
        the size of the largest number among the differentiated inputs. As for `largest`, the
        function's own arrays are not counted, nor are those inside a linear operator; a compiler
        that fuses steps needs less. What the compiled program takes says
        `jax.jit(...).lower(...).compile().memory_analysis()`.
        """
        sizes: dict[int, int] = {}
        last = {slot: k for k, step in enumerate(self.steps) for slot in step.reads}
        pieces = (piece for block in self.results.values() for piece in block)
        last |= {slot: len(self.steps) for piece in pieces for slot in slots_of(piece)}
        dying: dict[int, list[int]] = collections.defaultdict(list)
        peak = alive = 0
        for k, step in enumerate(self.steps):
            # Of several slots one step fills arrays of one size, at most.
            own = step.largest if isinstance(step.largest, int) else 0
            for slot in step.slots:
                sizes[slot] = own
                dying[last.get(slot, k)].append(slot)
                alive += own
            peak = max(peak, alive)
            alive -= sum(sizes[slot] for slot in dying.pop(k, ()))
        program = self.graph.program
        widths = [program.avals[name].dtype.itemsize for name in self.graph.inputs]
        return peak * max(widths, default=4)

    @property
    def how_mode(self) -> str:
        """How JAX's own mode runs, for people; empty where none does."""
        if self.method == "elimination":
            return ""
        what = "column" if self.method == "jacfwd" else "row"
        parts = [f"jax.{self.method}"]
        if self.chunk is not None:
            parts.append(f"{self.chunk} {what}{'s' if self.chunk > 1 else ''} at a time")
        if self.levels:
            nested = f", {self.levels} levels of them" if self.levels > 1 else ""
            parts.append(f"segments of scans run again{nested}")
        return ", ".join(parts)

    @property
    def why_mode(self) -> str:
        """Why JAX's own mode runs, for people; empty where none does."""
        if self.method == "elimination":
            return ""
        if self.remark:
            return "which is its only meaning"
        if self.graph.reverse_only:
            return (
                "the only way in which it is defined, as it has a pullback that is not known to be "
                "linear"
            )
        if self.source == SYMBOLIC:
            return "as its shapes are symbolic"
        if self.source == SYMBOLIC_STORED:
            return "which was measured to be faster for another size"
        if self.source == LIMITED:
            return "to stay within max_bytes"
        if self.source == CHUNKS:
            return "as chunk_size asks for"
        if self.source in ("given", "searched"):
            return "as elimination is not likely to be faster"
        return "which was measured to be faster here"

    @property
    def checkpoints(self) -> str:
        """What becomes of `jax.checkpoint` regions, for people; empty where there are none."""
        equations = self.graph.program.equations
        every = {region.number for equation in equations for region in equation.regions}
        if not every:
            return ""
        if self.method != "elimination":
            return f"{len(every)} inlined"
        again = len(self.recomputed)
        return f"{again} computed again, {len(every) - again} eliminated as the program runs"

    @property
    def coarsened(self) -> int:
        """How many blocks of a sparse plan were made dense, because terms do not describe them."""
        if not self.graph.recorder.sparse:
            return 0
        return sum(isinstance(step, Densify) for step in self.steps)

    def cost(self, name: CostName = "multiplications") -> int:
        """The cost of the plan in a named measure.

        Args:
            name: "multiplications", the count of the published tables (Lohoff & Neftci 2024;
                one per product of two coefficients, factors of one included, layout equations
                free); "nonunit_multiplications", the same without products by a factor known to
                be 1 or -1; "flops", the additions and multiplications that are executed, where
                static factors of one cost nothing; "bytes", what the steps read and write, at
                eight bytes a number; or "runtime_model", an estimate in picoseconds from bytes
                and flops. None counts the computation of the local partials.

        Raises:
            ValueError: for an unknown name.
        """
        return costs.measure(name, self._cost)

    def __repr__(self) -> str:
        """One line; `print` shows more, and `listing` everything."""
        order = " ".join(reports.shortened(self.order, 4, 2))
        return (
            f"<Plan: {self._size}, order ({self.source}) {order or 'empty'}, {self._counts}, "
            f"{len(self.steps):,} steps>"
        )

    def __str__(self) -> str:
        """A summary, then the first and the last steps."""
        order = reports.shortened(self.order, *_SHOWN_VERTICES, see="plan.order has all")
        return self._text(order, self._described_steps(*_SHOWN_STEPS))

    def listing(self) -> str:
        """The plan as text with the whole order and every step, which may be very long."""
        every = len(self.steps), 0
        return self._text([str(vertex) for vertex in self.order], self._described_steps(*every))

    def _repr_html_(self) -> str:
        title, *facts = self._facts(
            reports.shortened(self.order, *_SHOWN_VERTICES, see="plan.order has all")
        )
        measured = [(name, self.cost(name)) for name in get_args(CostName)]
        steps = self._described_steps(*_FOLDED_STEPS)
        return reports.page(
            [
                reports.Section(
                    title,
                    tuple(facts),
                    ("measure", "cost", "unit"),
                    tuple(
                        (name.replace("_", " "), reports.grouped(cost), costs.UNITS[name])
                        for name, cost in measured
                    ),
                ),
                reports.Section(f"{len(self.steps):,} steps", tuple(steps), folded=True),
            ]
        )

    def _text(self, order: Sequence[str], steps: Sequence[str]) -> str:
        title, *facts = self._facts(order)
        return "\n".join([title, *(f"  {line}" for line in (*facts, *steps))])

    def _facts(self, order: Sequence[str]) -> list[str]:
        """What there is to say of the whole, a line each; the first is the heading."""
        kinds = collections.Counter(step.name for step in self.steps)
        lines = [
            f"Plan: {self._size}, {self._counts}",
            f"order ({self.source}): {' '.join(order) or '(nothing to eliminate)'}",
            f"steps: {', '.join(f'{count:,} {kind}' for kind, count in kinds.items()) or 'none'}",
        ]
        if self.steps and all(isinstance(step.largest, int) for step in self.steps):
            lines.append(f"arrays of the steps: {self.peak_bytes:,} bytes alive at once, at most")
        if self.remark:
            lines.append(self.remark)
        if self.method != "elimination":
            costs_of = "; the costs are those of the steps" if self.steps else ""
            lines.append(f"runs as {self.how_mode}, {self.why_mode}{costs_of}")
        if self.operators:
            lines.append(f"on operator edges: {', '.join(self.operators)}")
        if self.checkpoints:
            lines.append(f"checkpoint regions: {self.checkpoints}")
        if self.coarsened:
            lines.append(f"whole blocks in place of too many terms: {self.coarsened:,}")
        return lines

    def _described_steps(self, first: int, last: int) -> list[str]:
        """The first and the last steps, a line each."""
        see = "print(plan.listing()) shows all"
        return reports.shortened(self.steps, first, last, see=see, text=self._described)

    def _described(self, step: Step) -> str:
        return f"{step}{self.origin(step)}"

    @property
    def _size(self) -> str:
        return f"{self.num_vertices:,} vertices, {self.num_edges:,} edges"

    @property
    def _counts(self) -> str:
        names: tuple[CostName, ...] = ("multiplications", "flops")
        return ", ".join(costs.with_unit(name, self.cost(name)) for name in names)

    def origin(self, step: Step) -> str:
        """The primitive and the user's line of the equation that a step belongs to."""
        if not isinstance(step.site, int):
            return ""
        equation = self.graph.program.equations[step.site]
        return f" ({_described(equation)})"


def _described(equation: Equation) -> str:
    """The primitive and the user's line."""
    return ", ".join(filter(None, (equation.name, source_line(equation))))


def make(graph: Graph, order: str | tuple[Item, ...], work: int = named.DEFAULT_WORK) -> Plan:
    """Eliminates all vertices of a graph and records how.

    Args:
        graph: the graph.
        order: a checked order.
        work: how many products of blocks "auto" may look at while it searches.

    Raises:
        ValueError: where the order is none of the graph's vertices and edges.
    """
    state = named.eliminate(graph, order, work)
    results = state.jacobian()
    wanted = [slot for block in results.values() for piece in block for slot in slots_of(piece)]
    steps, unused = needed(state.recorder.steps, wanted)
    cost = state.recorder.cost
    first = graph.program.first_computed
    return Plan(
        tuple(moved(state.order, first, inwards=False)),
        tuple(vertex - first for vertex in graph.vertices),
        graph.num_edges,
        tuple(steps),
        _operators(graph),
        graph,
        results,
        Cost(
            cost.multiplications,
            cost.nonunit,
            cost.flops - sum(step.flops for step in unused),
            cost.moved - sum(step.moved for step in unused),
        ),
        method="jacrev" if graph.reverse_only else "elimination",
        recomputed=_recomputed(graph, vertices_of(state.order)),
    )


def by_mode(traced: Traced, inputs: Sequence[int], method: str) -> Plan:
    """The plan of a function that a mode of JAX differentiates as a whole.

    Args:
        traced: the function.
        inputs: the inputs that are differentiated.
        method: "jacfwd" or "jacrev".
    """
    program = traced.program
    graph = building.without_edges(program, inputs, program.outputs[: traced.num_values])
    return make(graph, "reverse").of(method=method)


def _recomputed(graph: Graph, order: Sequence[int]) -> frozenset[int]:
    """The regions whose local coefficients are not used up as the program runs, forwards."""
    place = {vertex: k for k, vertex in enumerate(order)}
    inside: dict[int, list[int]] = {}
    for equation in graph.program.equations:
        for region in equation.regions:
            inside.setdefault(region.number, []).extend(equation.outputs)
    recomputed = set()
    for number, names in inside.items():
        places = [place[name] for name in names if name in place]
        places += sorted(place[name] for name in place if name > names[-1])
        if places != sorted(places):
            recomputed.add(number)
    return frozenset(recomputed)


def _operators(graph: Graph) -> tuple[str, ...]:
    pieces = (piece for to in graph.successors.values() for block in to.values() for piece in block)
    names = (piece.operator.name for piece in pieces if isinstance(piece, OperatorPiece))
    return tuple(sorted(set(names)))
