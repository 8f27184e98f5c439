"""Plans of randomised derivatives: bytes, work, and at given arguments variances."""

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from jax_cce import jax_internals
from jax_cce.algebra.dtypes import promoted
from jax_cce.graph.building import Graph
from jax_cce.program import tracing
from jax_cce.program.calls import Call, Traced
from jax_cce.randomized import elimination
from jax_cce.randomized.draws import count_of
from jax_cce.randomized.elimination import Sampled
from jax_cce.randomized.estimating import (
    counts_of,
    level_at,
    rows_at,
    standard,
    task_at,
    units,
    vertices_of,
)
from jax_cce.randomized.plans import Cut, RandomizedPlan, SiteRow
from jax_cce.randomized.requests import Request
from jax_cce.randomized.reverse import backward, forward
from jax_cce.randomized.sites import Choice
from jax_cce.randomized.tape import Level
from jax_cce.rules.steps import work_of

__all__ = ["plan_of_elimination", "plan_of_reverse"]


def plan_of_reverse(call: Call, traced: Traced, request: Request, concrete: bool) -> RandomizedPlan:
    """The plan of an estimate by reverse mode; with variances where the arguments are arrays."""
    choice, exact = request.choice(), request.choice(1.0)
    level, whole = level_at(call, traced, choice), level_at(call, traced, exact)
    key = jax.random.key(0)

    def work(one: Level) -> float:
        def function(*leaves: Any) -> list[Any]:
            outputs, saved = forward(one, traced.constants, leaves, key)
            rows = rows_at(traced, one, leaves, saved, key)
            return [*outputs[: traced.num_values], *(x for row in rows for x in row)]

        with standard():
            program, _ = tracing.trace(function, call.leaves)
        return work_of(program.equations)

    variances: dict[int, Any] = {}
    relative = total = None
    if concrete:
        with standard():
            variances, square = _measured(call, traced, level, choice)
        total = sum(map(float, variances.values()))
        relative = math.sqrt(total / square) if square else None
    rows = tuple(
        SiteRow(
            site.label,
            site.times,
            site.draw.elements,
            site.draw.features,
            site.draw.kept,
            site.saved_bytes,
            site.whole_bytes,
            float(variances.get(site.number, 0.0)) if concrete else None,
            request.method,
        )
        for site in choice.sites
    )
    bytes_of = level.saved_bytes, whole.saved_bytes
    return RandomizedPlan(rows, *bytes_of, work(level), work(whole), total, relative)


def _measured(
    call: Call, traced: Traced, level: Level, choice: Choice
) -> tuple[dict[int, Any], float]:
    """The variance that each site adds, and the squared norm of the exact derivative."""
    rest: list[Any] = [None] * (len(traced.program.outputs) - len(traced.values))

    @jax.jit
    def measure(leaves: Sequence[Any]) -> Any:
        key, kept = jax.random.key(0), dict[int, Any]()
        _, saved = forward(level, traced.constants, leaves, key, kept)

        def pulled(cotangents: Sequence[Any]) -> Any:
            noted: dict[int, Any] = {}
            found = backward(
                level, traced.constants, leaves, saved, [*cotangents, *rest], key, noted
            )
            return noted, sum(jnp.sum(x * x) for x in found.values())

        return jax.tree.map(jnp.sum, jax.vmap(pulled)(units(traced.values)))

    variances, square = measure(call.leaves)
    return variances, float(square)


def plan_of_elimination(
    call: Call, traced: Traced, request: Request, concrete: bool
) -> RandomizedPlan:
    """The plan of an estimate by elimination; with errors where the arguments are arrays."""
    task = task_at(call, traced, request)
    graph = task.graphs[False]
    first, method = graph.program.first_computed, request.method
    order, chosen = vertices_of(task, call, request)
    itemsize = promoted(*(graph.program.avals[name].dtype for name in graph.inputs)).itemsize

    def errors(order: Sequence[int], vertices: Sequence[int]) -> tuple[dict[int, float], float]:
        """The error of the products at each vertex, and the squared norm of the Jacobian."""
        counts = counts_of(graph, vertices, request)
        measured = Sampled.recorded(graph, order, counts, method, measure=True)

        @jax.jit
        def evaluate(leaves: Sequence[Any]) -> Any:
            _, blocks, slots = elimination.emitted(
                measured, traced.constants, leaves, jax.random.key(0)
            )
            square = sum(jnp.sum(block.todense() ** 2) for block in blocks.values())
            return [slots[slot] for _, slot in measured.state.errors], square

        with standard(), task.context():
            values, square = evaluate(list(call.leaves))
        found: dict[int, float] = {}
        for (vertex, _), value in zip(measured.state.errors, values, strict=True):
            found[vertex] = found.get(vertex, 0.0) + float(value) / counts[vertex]
        return found, float(square)

    counts = counts_of(graph, chosen, request)
    with task.context():
        sampled = Sampled.recorded(graph, order, counts, method)
        exact = Sampled.recorded(graph, order, {}, method)
    found, square = errors(order, chosen) if concrete else ({}, 0.0)
    rows = []
    for vertex in chosen:
        size = math.prod(graph.shapes[vertex])
        kept, whole = sampled.state.numbers.get(vertex, (0, 0))
        rows.append(
            SiteRow(
                _label(graph, vertex),
                1,
                1,
                size,
                counts.get(vertex, size),
                kept * itemsize,
                whole * itemsize,
                found.get(vertex, 0.0) if concrete else None,
            )
        )
    cuts = []
    if request.sites == "cut":
        for vertex in elimination.cuts(graph):
            own = (*(v for v in order if v != vertex), vertex)
            variance = relative = None
            if concrete:
                of_cut, square = errors(own, (vertex,))
                variance = of_cut.get(vertex, 0.0)
                relative = math.sqrt(max(variance, 0.0) / square) if square else None
            with task.context():
                state = Sampled.recorded(graph, own, counts_of(graph, (vertex,), request), method)
            kept = state.state.numbers.get(vertex, (0, 0))[0] * itemsize
            size = math.prod(graph.shapes[vertex])
            count = count_of(request.part, size)
            label = _label(graph, vertex)
            cuts.append(Cut(vertex - first, label, size, count, kept, variance, relative))
    total = sum(found.values()) if concrete else None
    return RandomizedPlan(
        tuple(rows),
        sum(row.saved_bytes for row in rows),
        sum(row.whole_bytes for row in rows),
        float(sampled.flops),
        float(exact.flops),
        total,
        math.sqrt(max(total, 0.0) / square) if total is not None and square else None,
        tuple(sorted(cuts, key=lambda cut: cut.price)),
    )


def _label(graph: Graph, vertex: int) -> str:
    """The primitive and the line that computes a vertex."""
    for equation in graph.program.equations:
        if vertex in equation.outputs:
            return f"{equation.name} {jax_internals.source_line(equation)}".strip()
    return ""
