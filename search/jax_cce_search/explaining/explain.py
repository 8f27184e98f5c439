"""`explain`: how the Jacobian of a function is computed, what it costs and why."""

import collections
from collections.abc import Callable, Sequence
from typing import Any

import jax

from jax_cce import api, jax_internals, registry
from jax_cce.graph.building import Graph
from jax_cce.graph.elimination import Elimination
from jax_cce.planning import plans, task
from jax_cce.planning.plans import Plan
from jax_cce.program import flat
from jax_cce.program.calls import Format
from jax_cce.registry import StoredOrder
from jax_cce_search.explaining.explanation import IN_USE, MEASURES, Edge, Eliminated, Explanation
from jax_cce_search.game.problem import Problem
from jax_cce_search.naming import computed_by, label, structure_name

__all__ = [
    "explain",
]
_REFERENCES = ("forward", "reverse", "markowitz")
_LAYERS = ("memory", "user", "shared", "shipped")
_MOST_DEAREST = 10


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

    Examples:
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
    identified = task.subject(fun, **options)

    def explain_fun(*args: Any, **kwargs: Any) -> Explanation:
        plan, subject = planned(*args, **kwargs), identified(*args, **kwargs)
        batch = jax_internals.batch_size(jax.tree.leaves((args, kwargs)))
        return _explained(plan, subject.name, subject.key, batch)

    return explain_fun


def _explained(plan: Plan, name: str, key: str, batch: int | None) -> Explanation:
    graph = plan.graph
    made = {IN_USE: plan}
    for each in ("reverse",) if graph.only_rows else _REFERENCES:
        made[each] = plans.make(graph, each)
    costs = {
        each: {measure: made[each].cost(measure) for measure in MEASURES}
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


def _entry(plan: Plan, key: str, cost: str | None, batch: int | None) -> StoredOrder | None:
    """What the registry holds for the graph that the plan is of."""
    device = jax_internals.device_kind()
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
        shape, line = graph.shapes[vertex + first], jax_internals.source_line(equation)
        found.append(Eliminated(vertex, flops[vertex], products, equation.name, shape, line))
    found.sort(key=lambda each: (-each.flops, -each.multiplications, each.vertex))
    return tuple(found[:_MOST_DEAREST])


def _edge(graph: Graph, source: int, target: int, equation: flat.Equation) -> Edge:
    shape = (*graph.shapes[target], *graph.shapes[source])
    line = jax_internals.source_line(equation)
    return Edge(label(graph, source), label(graph, target), shape, equation.name, line)
