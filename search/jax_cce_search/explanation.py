"""`explain`: how the Jacobian of a function is computed, what it costs and why, as a report."""

import collections
import dataclasses
import html
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax

from jax_cce import api, choosing, plans, registry, structure, tracing
from jax_cce.blocks import Block, OperatorPiece, Piece
from jax_cce.contract import Format
from jax_cce.elimination import Elimination
from jax_cce.graph import Graph
from jax_cce.plans import Plan
from jax_cce.registry import Entry
from jax_cce_search.problem import Problem
from jax_cce_search.search import Budget, Search
from jax_cce_search.strategies import NEED_MATRIX, STRATEGIES

__all__ = ["Edge", "Eliminated", "Explanation", "computed_by", "explain", "label", "structure_name"]

IN_USE = "in use"

_MEASURES = ("multiplications", "nonunit_multiplications", "flops", "bytes")
_REFERENCES = ("forward", "reverse", "markowitz")
_LAYERS = ("memory", "user", "shared", "shipped")
_MOST_DEAREST = 10
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
    source: str
    entry: Entry | None = field(repr=False)
    dearest: tuple[Eliminated, ...] = field(repr=False)
    assembly: int = field(repr=False)
    operators: tuple[Edge, ...] = field(repr=False)
    dense: tuple[Edge, ...] = field(repr=False)

    def __str__(self) -> str:
        """The report as plain text."""
        return "\n\n".join(part.text() for part in _parts(self)) + "\n"

    def markdown(self) -> str:
        """The report in Markdown."""
        return "\n\n".join(part.markdown() for part in _parts(self)) + "\n"

    def _repr_html_(self) -> str:
        return "\n".join(part.html() for part in _parts(self))

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
            "entries": plan.entries,
            "structures": dict(self.structures),
            "costs": {name: dict(costs) for name, costs in self.costs.items()},
            "bound": self.bound,
            "entry": None if entry is None else dataclasses.asdict(entry),
            "dearest": [each._asdict() | {"shape": list(each.shape)} for each in self.dearest],
            "assembly": self.assembly,
            "operators": [each._asdict() | {"shape": list(each.shape)} for each in self.operators],
            "dense": [each._asdict() | {"shape": list(each.shape)} for each in self.dense],
        }

    def draw(self, path: Any = None) -> Any:
        """Draws the graph; see `jax_cce_search.pictures.draw`."""
        from jax_cce_search import pictures

        return pictures.draw(self, path)

    def plot_search(
        self, path: Any = None, *, cost: str = "multiplications", seconds: float = 5.0
    ) -> Any:
        """Lets every strategy search for an order, and draws the best cost over time of each.

        Args:
            path: where to save the picture; see `jax_cce_search.pictures.plot_search`.
            cost: a measure of `jax_cce.Plan.cost`.
            seconds: how long each strategy may search.
        """
        from jax_cce_search import pictures

        curves = {}
        for name, strategy in STRATEGIES.items():
            problem = Problem.of(self.plan.graph, cost)
            search = Search(problem, Budget(seconds), strategy=name)
            if problem.is_compilable or name not in NEED_MATRIX:
                strategy(search)
            curves[name] = search.improvements
        return pictures.plot_search(curves, path)


def explain(
    fun: Callable[..., Any],
    argnums: int | Sequence[int] = 0,
    has_aux: bool = False,
    holomorphic: bool = False,
    allow_int: bool = False,
    *,
    order: str | Sequence[int] = "auto",
    format: Format = "dense",
) -> Callable[..., Explanation]:
    """Explains how the Jacobian of `fun` is computed, what it costs and why.

    Args:
        fun: as for `jax_cce.jacobian`, and so is all else.
        argnums: see there.
        has_aux: see there.
        holomorphic: see there.
        allow_int: see there.
        order: see there.
        format: see there.

    Returns:
        A function with the arguments of `fun`, any array of which may be a
        `jax.ShapeDtypeStruct`, that returns an `Explanation`.

    Raises:
        ValueError: where `jax_cce.plan` raises it.
        TypeError: where `jax_cce.plan` raises it.

    Example:
        >>> import jax, jax.numpy as jnp, jax_cce
        >>> e = jax_cce.explain(lambda x, y: jnp.sin(x * y) * x, (0, 1), order="reverse")(1.0, 2.0)
        >>> e.structures
        {'scalar': 5}
        >>> e.costs["forward"]["multiplications"], e.costs["reverse"]["multiplications"], e.bound
        (4, 3, 3)
    """
    options: dict[str, Any] = {
        "argnums": argnums,
        "has_aux": has_aux,
        "holomorphic": holomorphic,
        "allow_int": allow_int,
        "format": format,
    }
    planned = api.plan(fun, order=order, **options)
    identified = api.subject(fun, **options)

    def explain_fun(*args: Any, **kwargs: Any) -> Explanation:
        plan, subject = planned(*args, **kwargs), identified(*args, **kwargs)
        batch = tracing.batch_size(jax.tree.leaves((args, kwargs)))
        return _explained(plan, subject.name, subject.key, batch)

    return explain_fun


def _explained(plan: Plan, name: str, key: str, batch: int | None) -> Explanation:
    graph = plan.graph
    made = {IN_USE: plan}
    for each in ("reverse",) if graph.only_rows else _REFERENCES:
        made[each] = plans.make(graph, each)
    costs = {
        each: {measure: made[each].cost(measure) for measure in _MEASURES}
        for each in (*_REFERENCES, IN_USE)
        if each in made
    }
    equations, shapes = computed_by(graph), graph.shapes
    edges = [
        (
            _edge(graph, source, target, equations[target]),
            structure_name(block, shapes[target], shapes[source]),
        )
        for source, to in graph.successors.items()
        for target, block in to.items()
    ]
    return Explanation(
        plan,
        name,
        key,
        plan.num_vertices,
        plan.num_edges,
        dict(collections.Counter(kind for _, kind in edges).most_common()),
        costs,
        _bound(plan, key, min(cost["multiplications"] for cost in costs.values())),
        plan.source,
        _entry(plan, key, None, batch) if plan.source in _LAYERS else None,
        _dearest(plan),
        sum(step.flops for step in plan.steps if step.vertex is None and step.kind != "local"),
        tuple(edge for edge, kind in edges if kind == "operator"),
        tuple(edge for edge, kind in edges if kind == "dense"),
    )


def _entry(plan: Plan, key: str, cost: str | None, batch: int | None) -> Entry | None:
    """What the registry holds for the graph that the plan is of."""
    device = choosing.device_kind()
    entry = registry.default().get(key, cost, device=device, batch=batch)
    # One for the other form of the graph, or for another function, says nothing here.
    if entry is None or entry.entries != plan.entries or {*entry.order} != {*plan.vertices}:
        return None
    return entry


def _bound(plan: Plan, key: str, known: int) -> int | None:
    """The best bound on multiplications, from the graph and from earlier searches."""
    if plan.graph.only_rows:
        return None
    bound = Problem.of(plan.graph, "multiplications").bound
    entry = _entry(plan, key, "multiplications", None)
    if entry is not None and entry.bound is not None:
        bound = max(bound, int(entry.bound))
    # A plan that shares steps can cost less than the sum of its products; then nothing is proven.
    return bound if 0 < bound <= known else None


def _dearest(plan: Plan) -> tuple[Eliminated, ...]:
    graph = plan.graph
    flops: collections.Counter[int] = collections.Counter()
    for step in plan.steps:
        if step.vertex is not None:
            flops[step.vertex] += step.flops
    state, first = Elimination(graph), graph.program.first_computed
    equations = computed_by(graph)
    found = []
    for vertex in plan.order:
        before = state.tape.cost.multiplications
        state.eliminate(vertex + first)
        products = state.tape.cost.multiplications - before
        equation = equations[vertex + first]
        shape, line = graph.shapes[vertex + first], tracing.source_line(equation)
        found.append(Eliminated(vertex, flops[vertex], products, equation.name, shape, line))
    found.sort(key=lambda each: (-each.flops, -each.multiplications, each.vertex))
    return tuple(found[:_MOST_DEAREST])


def computed_by(graph: Graph) -> dict[int, tracing.Equation]:
    """The equation that computes each variable of a graph's program, inputs aside."""
    return {name: each for each in graph.program.equations for name in each.outputs}


def label(graph: Graph, node: int) -> str:
    """The name of a node in reports: "x0" for the first input, "v3" for vertex 3."""
    first = graph.program.first_computed
    return f"v{node - first}" if node >= first else f"x{node}"


def _edge(graph: Graph, source: int, target: int, equation: tracing.Equation) -> Edge:
    shape = (*graph.shapes[target], *graph.shapes[source])
    line = tracing.source_line(equation)
    return Edge(label(graph, source), label(graph, target), shape, equation.name, line)


def structure_name(block: Block, out_shape: tuple[int, ...], in_shape: tuple[int, ...]) -> str:
    """The structure of a local Jacobian in a word or two.

    Args:
        block: the block.
        out_shape: shape of the variable that is differentiated.
        in_shape: shape of the variable it is differentiated by.

    Returns:
        Of a scalar by a scalar "one" (1 or -1), "constant" or "scalar". Else, where its numbers
        are known while planning, "layout" (reshape, slice, transpose and the like), "identity",
        "reduction", "broadcast" or "constant"; where they are not, "diagonal" (at most one
        coefficient in a row and in a column), "block diagonal", "weighted reduction", "weighted
        broadcast", "vector" (one row or one column) or "dense". "gather" reads positions from an
        index array; "sum of terms" has several of these; "operator" has no such form.
    """
    pieces = [piece for piece in block if isinstance(piece, Piece)]
    if len(pieces) < len(block):
        return "operator"
    if any(piece.term.lookups for piece in pieces):
        return "gather"
    if len(pieces) != 1:
        return "layout" if all(map(_is_layout, pieces)) else "sum of terms"
    (piece,) = pieces
    rows, columns, term = math.prod(out_shape), math.prod(in_shape), piece.term
    is_static = piece.slot is None
    if rows == columns == 1:
        if is_static:
            return "one" if piece.scale in (1, -1) else "constant"
        return "scalar"
    out, inn = set(structure.loops_of(term.out)), set(structure.loops_of(term.inn))
    if is_static:
        if out == inn:
            if term.layout:
                return "layout"
            return "identity" if piece.scale in (1, -1) else "constant"
        if out < inn:
            return "reduction"
        return "broadcast" if inn < out else "constant"
    if out == inn:
        return "diagonal"
    if 1 in (rows, columns):
        return "vector"
    if out < inn:
        return "weighted reduction"
    if inn < out:
        return "weighted broadcast"
    return "block diagonal" if out & inn else "dense"


def _is_layout(piece: Piece | OperatorPiece) -> bool:
    return isinstance(piece, Piece) and piece.slot is None and piece.term.layout


@dataclass(frozen=True)
class _Part:
    """A part of a report: lines of text under a heading, then perhaps a table."""

    title: str
    lines: tuple[str, ...] = ()
    header: tuple[str, ...] = ()
    rows: tuple[tuple[str, ...], ...] = ()

    def text(self) -> str:
        lines = [self.title, *(f"  {line}" for line in self.lines)]
        if self.rows:
            lines += [f"  {line}" for line in aligned(self.header, self.rows)]
        return "\n".join(lines)

    def markdown(self) -> str:
        lines = [f"### {_in_markdown(self.title)}"]
        if self.lines:
            lines += ["", *(f"- {_in_markdown(line)}" for line in self.lines)]
        if self.rows:
            right = _is_numeric(self.rows)
            lines += ["", _row(self.header), _row("--:" if each else "---" for each in right)]
            lines += [_row(map(_in_markdown, row)) for row in self.rows]
        return "\n".join(lines)

    def html(self) -> str:
        parts = [f"<h4>{html.escape(self.title)}</h4>"]
        if self.lines:
            items = "".join(f"<li>{html.escape(line)}</li>" for line in self.lines)
            parts.append(f"<ul>{items}</ul>")
        if self.rows:
            head = "".join(f"<th>{html.escape(each)}</th>" for each in self.header)
            right = [
                ' style="text-align: right"' if each else "" for each in _is_numeric(self.rows)
            ]
            body = "".join(
                "<tr>"
                + "".join(
                    f"<td{style}>{html.escape(each)}</td>"
                    for style, each in zip(right, row, strict=True)
                )
                + "</tr>"
                for row in self.rows
            )
            parts.append(f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>")
        return "".join(parts)


def aligned(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """A table as lines of plain text, its columns of numbers flush right."""
    table = [tuple(header), *rows]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    right = _is_numeric(rows)
    return [
        "  ".join(
            cell.rjust(width) if flush else cell.ljust(width)
            for cell, width, flush in zip(row, widths, right, strict=True)
        ).rstrip()
        for row in table
    ]


def _is_numeric(rows: Sequence[Sequence[str]]) -> list[bool]:
    """For each column whether all its cells are numbers."""
    return [
        all(not cell or (cell[0].isdigit() and cell[-1] in "0123456789%s") for cell in column)
        for column in zip(*rows, strict=True)
    ]


def _row(cells: Any) -> str:
    return f"| {' | '.join(cells)} |"


def _in_markdown(text: str) -> str:
    # What a function or a file is called must not turn into markup.
    for sign in "\\`*_{}[]<>|#":
        text = text.replace(sign, f"\\{sign}")
    return text


def _parts(e: Explanation) -> list[_Part]:
    parts = [
        _Part(
            f"Jacobian of {e.name}",
            (
                f"graph: {e.num_vertices:,} vertices, {e.num_edges:,} edges"
                + (", small arrays taken apart" if e.plan.entries else ""),
                "local Jacobians: "
                + (", ".join(f"{many:,} {kind}" for kind, many in e.structures.items()) or "none"),
                *_origin(e),
                f"lower bound: {_bounded(e)}",
                f"key: {e.key}",
            ),
        ),
        _Part(
            "Cost by order",
            header=("order", *(measure.replace("_", " ") for measure in _MEASURES)),
            rows=tuple(
                (name, *(f"{cost[measure]:,}" for measure in _MEASURES))
                for name, cost in e.costs.items()
            ),
        ),
    ]
    if e.dearest:
        note = f"{e.assembly:,} flops more assemble the result" if e.assembly else ""
        parts.append(
            _Part(
                "Dearest eliminations",
                (note,) if note else (),
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
        )
    if e.operators:
        parts.append(_edges("Operators, applied to columns or rows", e.operators))
    if e.dense:
        parts.append(_edges("Dense local Jacobians", e.dense))
    return parts


def _origin(e: Explanation) -> list[str]:
    plan, entry = e.plan, e.entry
    lines = []
    if plan.method != "elimination":
        lines.append(
            f"runs as jax.{plan.method}, which was measured to be faster on this device; the "
            "costs of the order in use are those of the same mode by elimination"
        )
    elif plan.graph.only_rows:
        lines.append("order: reverse, the only one in which this function's Jacobian is defined")
    if entry is None:
        lines.append(f"order from: {e.source}")
    else:
        where = f"order from: registry ({e.source})"
        value = f"{entry.value:.3g} s" if entry.cost == "runtime" else f"{entry.value:,.0f}"
        details = [f"{entry.cost} {value}"]
        details += [f"found by {entry.strategy}"] if entry.strategy else []
        details += [f"on {entry.device}"] if entry.device else []
        details += [f"for batches of {entry.batch}"] if entry.batch else []
        details += [entry.created[:19].replace("T", " ")] if entry.created else []
        lines.append(f"{where}: {', '.join(details)}")
    return lines


def _bounded(e: Explanation) -> str:
    if e.bound is None:
        return "not known"
    used = e.costs[IN_USE]["multiplications"]
    if used <= e.bound:
        return f"{e.bound:,} multiplications, so the order in use is optimal in this measure"
    return (
        f"{e.bound:,} multiplications, so the order in use takes at most "
        f"{100 * (used / e.bound - 1):.1f} % more than the best"
    )


def _edges(title: str, edges: Sequence[Edge]) -> _Part:
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
    return _Part(title, lines, ("edge", "shape", "primitive", "source"), rows)
