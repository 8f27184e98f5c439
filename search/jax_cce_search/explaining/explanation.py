"""`Explanation`: what `explain` returns, with its report, its pictures, and its dictionary."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from jax_cce.algebra.costs import CostName, with_unit
from jax_cce.planning.plans import Plan
from jax_cce.registry import StoredOrder
from jax_cce.reports import Section, page
from jax_cce_search.game.problem import Problem
from jax_cce_search.pictures import drawing
from jax_cce_search.pictures.curves import plot_search
from jax_cce_search.searching import Budget, Search
from jax_cce_search.strategies import NEED_MATRIX, STRATEGIES

__all__ = [
    "IN_USE",
    "MEASURES",
    "Edge",
    "Eliminated",
    "Explanation",
]

# What `Explanation.costs` calls the plan that is explained.
IN_USE = "in use"
# What it counts in; the runtime model is for choosing, not for reading.
MEASURES: tuple[CostName, ...] = ("multiplications", "nonunit_multiplications", "flops", "bytes")
# A longer list of edges is cut in what is printed; the attributes hold all of them.
_MOST_PRINTED = 20


class Eliminated(NamedTuple):
    """What the elimination of one vertex costs.

    Attributes:
        vertex: its number, as in `Plan.order`.
        flops: additions and multiplications that are executed for it.
        multiplications: products of two coefficients, in the published convention.
        primitive: the primitive that computes the vertex.
        shape: the vertex's shape.
        line: where the user wrote that, "file:line (function)"; "" where that is unknown.
    """

    vertex: int
    flops: int
    multiplications: int
    primitive: str
    shape: tuple[int, ...]
    line: str


class Edge(NamedTuple):
    """An edge of the graph that is worth a look.

    Attributes:
        source: the variable differentiated by: "x0" for the first input, "v3" for vertex 3.
        target: the variable that is differentiated.
        shape: of the local Jacobian, target.shape + source.shape.
        primitive: the primitive that computes the target.
        line: where the user wrote that, "file:line (function)"; "" where that is unknown.
    """

    source: str
    target: str
    shape: tuple[int, ...]
    primitive: str
    line: str


@dataclass(frozen=True, eq=False)
class Explanation:
    """How a Jacobian is computed, what it costs and why.

    `str` makes a plain report of it, `markdown` one in Markdown, and notebooks show it in HTML.

    Attributes:
        plan: the plan that is carried out.
        name: the function's name.
        key: the function's key in the registry.
        num_vertices: the number of vertices.
        num_edges: the number of edges, each a local Jacobian.
        structures: for each structure of local Jacobians the number of edges that have it, the
            most frequent first (see `structure_name`).
        costs: for forward, reverse and minimal Markowitz order, and under "in use" for the plan,
            the cost in each measure of `Plan.cost`. A function that is defined in reverse order
            only has no others.
        bound: how many multiplications every order takes at least; None where that is unknown.
        backend: what computes the Jacobian on the CPU: "native" or "xla".
        backend_reason: why XLA computes it, or what native code takes.
        loops: where the function has loops that XLA runs, the operations that are expected: under
            "steps" by the Jacobians of their steps, where these have such of one structure, and
            under "jacfwd" and "jacrev" by those of JAX's modes that there are. Each counts three
            that is no part of a product of matrices.
        by_steps: whether loops go by the Jacobians of their steps.
        source: where the order comes from (see `Plan.source`).
        entry: what the registry holds, where the order comes from there.
        dearest: the ten eliminations that execute the most operations, the dearest first.
        assembly: operations executed after the last elimination, to form the returned blocks.
        operators: edges whose local Jacobian has no structured form, and is applied to columns
            or rows instead.
        dense: edges whose local Jacobian is held as one dense matrix of several rows and columns.
    """

    plan: Plan = field(repr=False)
    name: str
    key: str
    num_vertices: int
    num_edges: int
    structures: Mapping[str, int]
    costs: Mapping[str, Mapping[str, int]]
    bound: int | None
    backend: str
    backend_reason: str
    loops: Mapping[str, int]
    by_steps: bool
    source: str
    entry: StoredOrder | None = field(repr=False)
    dearest: tuple[Eliminated, ...] = field(repr=False)
    assembly: int = field(repr=False)
    operators: tuple[Edge, ...] = field(repr=False)
    dense: tuple[Edge, ...] = field(repr=False)

    def __str__(self) -> str:
        """The report as plain text."""
        return "\n\n".join(section.text() for section in _sections(self)) + "\n"

    def markdown(self) -> str:
        """The report in Markdown."""
        return "\n\n".join(section.markdown() for section in _sections(self)) + "\n"

    def _repr_html_(self) -> str:
        return page(_sections(self))

    def to_dict(self) -> dict[str, Any]:
        """The report as dictionaries, lists, text and numbers, as JSON has them."""
        plan, entry = self.plan, self.entry
        return {
            "name": self.name,
            "key": self.key,
            "num_vertices": self.num_vertices,
            "num_edges": self.num_edges,
            "order": list(plan.order),
            "source": self.source,
            "method": plan.method,
            "remark": plan.remark,
            "entries": plan.scalarised,
            "structures": dict(self.structures),
            "costs": {name: dict(costs) for name, costs in self.costs.items()},
            "bound": self.bound,
            "peak_bytes": plan.peak_bytes,
            "backend": self.backend,
            "backend_reason": self.backend_reason,
            "loops": dict(self.loops),
            "by_steps": self.by_steps,
            "entry": None if entry is None else dataclasses.asdict(entry),
            "dearest": [each._asdict() | {"shape": list(each.shape)} for each in self.dearest],
            "assembly": self.assembly,
            "operators": [each._asdict() | {"shape": list(each.shape)} for each in self.operators],
            "dense": [each._asdict() | {"shape": list(each.shape)} for each in self.dense],
        }

    def draw(self, path: Any = None) -> Any:
        """Draws the graph; see `jax_cce_search.pictures.drawing.draw`."""
        return drawing.draw(self.name, self.plan, path)

    def plot_search(
        self, path: Any = None, *, cost: CostName = "multiplications", seconds: float = 5.0
    ) -> Any:
        """Lets every strategy search for an order, and draws the best cost over time of each.

        Args:
            path: where to save the picture; see `jax_cce_search.pictures.curves.plot_search`.
            cost: a measure of `jax_cce.Plan.cost`.
            seconds: how long each strategy may search.
        """
        curves = {}
        for name, strategy in STRATEGIES.items():
            problem = Problem.of(self.plan.graph, cost)
            search = Search(problem, Budget(seconds), strategy=name)
            if problem.is_compilable or name not in NEED_MATRIX:
                strategy(search)
            curves[name] = search.improvements
        return plot_search(curves, path)


def _sections(e: Explanation) -> list[Section]:
    sections = [_summary(e), _costs(e)]
    if e.dearest:
        sections.append(_dearest(e))
    if e.operators:
        sections.append(_edges("Operators, applied to columns or rows", e.operators))
    if e.dense:
        sections.append(_edges("Dense local Jacobians", e.dense))
    return sections


def _summary(e: Explanation) -> Section:
    apart = ", small arrays taken apart" if e.plan.scalarised else ""
    structures = ", ".join(f"{many:,} {name}" for name, many in e.structures.items())
    return Section(
        f"Jacobian of {e.name}",
        (
            f"graph: {e.num_vertices:,} vertices, {e.num_edges:,} edges{apart}",
            f"local Jacobians: {structures or 'none'}",
            *([f"checkpoint regions: {e.plan.checkpoints}"] if e.plan.checkpoints else []),
            *_looped(e),
            *_origin(e),
            f"on the CPU: {'native code' if e.backend == 'native' else 'XLA'}, {e.backend_reason}",
            f"arrays of the steps: {e.plan.peak_bytes:,} bytes alive at once, before fusion",
            f"lower bound: {_bounded(e)}",
            f"key: {e.key}",
        ),
    )


def _looped(e: Explanation) -> list[str]:
    """How loops are differentiated, and what the other ways are expected to take."""
    used = "steps" if e.by_steps else e.plan.method
    if used not in e.loops:
        return []
    others = [f"jax.{way} {cost:,}" for way, cost in e.loops.items() if way not in ("steps", used)]
    if not e.by_steps:
        steps = e.loops.get("steps")
        none = "their steps have no Jacobians of one structure"
        others.append(none if steps is None else f"the Jacobians of their steps {steps:,}")
    how = "the Jacobians of their steps" if e.by_steps else f"jax.{used}"
    own = f"loops: by {how}, expected to take {e.loops[used]:,} operations"
    return ["; ".join([own, *others])]


def _origin(e: Explanation) -> list[str]:
    """Where the order in use comes from."""
    plan, entry = e.plan, e.entry
    lines = [plan.remark] if plan.remark else []
    if plan.method != "elimination":
        lines.append(f"runs as {plan.how_mode}, {plan.why_mode}; the costs are those of steps")
    if entry is None:
        lines.append(f"order from: {e.source}")
    else:
        where = f"order from: registry ({e.source})"
        details = [with_unit(entry.cost, entry.value)]
        details += [f"found by {entry.strategy}"] if entry.strategy else []
        details += [f"on {entry.device}"] if entry.device else []
        details += [f"for batches of {entry.batch}"] if entry.batch else []
        details += [entry.created[:19].replace("T", " ")] if entry.created else []
        lines.append(f"{where}: {', '.join(details)}")
    return lines


def _bounded(e: Explanation) -> str:
    """How far from the lower bound the order in use is."""
    if e.bound is None:
        return "not known"
    used = e.costs[IN_USE]["multiplications"]
    if used <= e.bound:
        return f"{e.bound:,} multiplications, so the order in use is optimal over vertex orders"
    return (
        f"{e.bound:,} multiplications, so the order in use takes at most "
        f"{100 * (used / e.bound - 1):.1f} % more than the best"
    )


def _costs(e: Explanation) -> Section:
    return Section(
        "Cost by order",
        header=("order", *(measure.replace("_", " ") for measure in MEASURES)),
        rows=tuple(
            (name, *(f"{cost[measure]:,}" for measure in MEASURES))
            for name, cost in e.costs.items()
        ),
    )


def _dearest(e: Explanation) -> Section:
    return Section(
        "Dearest eliminations",
        (f"{e.assembly:,} flops more assemble the result",) if e.assembly else (),
        ("vertex", "flops", "multiplications", "primitive", "shape", "source"),
        tuple(
            (
                f"v{each.vertex}",
                f"{each.flops:,}",
                f"{each.multiplications:,}",
                each.primitive,
                str(list(each.shape)),
                each.line or "unknown",
            )
            for each in e.dearest
        ),
    )


def _edges(title: str, edges: Sequence[Edge]) -> Section:
    rows = tuple(
        (
            f"{each.source} -> {each.target}",
            str(list(each.shape)),
            each.primitive,
            each.line or "unknown",
        )
        for each in edges[:_MOST_PRINTED]
    )
    left = len(edges) - len(rows)
    lines = (f"the first {len(rows)} of {len(edges):,}",) if left else ()
    return Section(title, lines, ("edge", "shape", "primitive", "source"), rows)
