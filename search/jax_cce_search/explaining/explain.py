"""`explain`: how the Jacobian of a function is computed, what it costs and why."""

import collections
from collections.abc import Callable, Sequence
from typing import Any, ParamSpec

from jax_cce import jax_internals, registry
from jax_cce.eliminations import EdgeElimination, moved, vertices_of
from jax_cce.execution.calling import native
from jax_cce.graph.building import Graph
from jax_cce.graph.elimination import Elimination
from jax_cce.native.kernels import Kernel
from jax_cce.planning import choosing, loops, plans
from jax_cce.planning.options import Backend, Order, options_of
from jax_cce.planning.plans import Plan
from jax_cce.planning.task import Task, traced_task
from jax_cce.program import calls, flat
from jax_cce.registry import StoredOrder
from jax_cce.sparse.formats import FormatName
from jax_cce_search.explaining.explanation import IN_USE, MEASURES, Edge, Eliminated, Explanation
from jax_cce_search.game.certificates import stored_bound
from jax_cce_search.game.problem import Problem
from jax_cce_search.naming import computed_by, label, structure_name

__all__ = [
    "explain",
]

P = ParamSpec("P")

_REFERENCES = ("forward", "reverse", "markowitz")
# Of the registry, as `Plan.source` names them.
_LAYERS = ("memory", "user", "shared", "shipped")
_MOST_DEAREST = 10


def explain(
    fun: Callable[P, Any],
    argnums: int | Sequence[int] = 0,
    has_aux: bool = False,
    holomorphic: bool = False,
    allow_int: bool = False,
    *,
    order: Order = "auto",
    format: FormatName = "dense",
    backend: Backend = "auto",
) -> Callable[P, Explanation]:
    """Explains how the Jacobian of `fun` is computed, what it costs and why.

    Args:
        fun: as for `jax_cce.jacobian`, and so is all else.
        argnums: see there.
        has_aux: see there.
        holomorphic: see there.
        allow_int: see there.
        order: see there.
        format: see there.
        backend: see there.

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
    calls.check_callable(fun)
    options = options_of(
        argnums, has_aux, holomorphic, allow_int, order=order, format=format, backend=backend
    )

    def explained(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Explanation:
        task = traced_task(fun, options, args, kwargs)
        plan = choosing.planned(task, options.request.of_arrays)
        inputs = task.traced.program.avals[: task.traced.program.num_inputs]
        kernel = native(task, options.request, inputs, options.format)
        return _explained(plan, task, kernel)

    return calls.from_shapes(explained)


def _explained(plan: Plan, task: Task, kernel: Kernel | str) -> Explanation:
    graph, key = plan.graph, task.key
    references = ("reverse",) if graph.reverse_only else _REFERENCES
    by_order = {order: plans.make(graph, order) for order in references} | {IN_USE: plan}
    costs: dict[str, dict[str, int]] = {
        order: {measure: each.cost(measure) for measure in MEASURES}
        for order, each in by_order.items()
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
        plan=plan,
        name=task.name,
        key=key,
        num_vertices=plan.num_vertices,
        num_edges=plan.num_edges,
        structures=dict(collections.Counter(structure for _, structure in edges).most_common()),
        costs=costs,
        bound=_bound(plan, key, min(cost["multiplications"] for cost in costs.values())),
        backend="xla" if isinstance(kernel, str) else "native",
        backend_reason=kernel if isinstance(kernel, str) else _described(kernel),
        loops=_loops(task) if isinstance(kernel, str) else {},
        by_steps=task.by_steps and isinstance(kernel, str) and plan.method == "elimination",
        source=plan.source,
        entry=_entry(plan, key, None, task.batch) if plan.source in _LAYERS else None,
        dearest=_dearest(plan),
        assembly=sum(step.flops for step in plan.steps if step.vertex is None),
        operators=tuple(edge for edge, structure in edges if structure == "operator"),
        dense=tuple(edge for edge, structure in edges if structure == "dense"),
    )


def _described(kernel: Kernel) -> str:
    return f"as much as {kernel.cost:,} additions for a point, in {kernel.order} order of entries"


def _loops(task: Task) -> dict[str, int]:
    """What a function with loops is expected to take, by its steps and by each mode."""
    program, setting = task.traced.program, task.setting
    if setting is None or not loops.has_loops(program):
        return {}
    costs = loops.expected(program, setting, task.batch or 1)
    if costs is None:
        return {}
    steps = {} if costs.steps is None else {"steps": costs.steps}
    return {name: round(cost) for name, cost in (steps | costs.modes).items()}


def _entry(plan: Plan, key: str, cost: str | None, batch: int | None) -> StoredOrder | None:
    """What the registry holds for the graph that the plan is of."""
    device = jax_internals.device_kind()
    entry = registry.default().get(key, cost, device=device, batch=batch)
    # One for the other form of the graph, or for another function, says nothing here.
    if (
        entry is None
        or entry.entries != plan.scalarised
        or {*vertices_of(entry.order)} != {*plan.vertices}
    ):
        return None
    return entry


def _bound(plan: Plan, key: str, known: int) -> int | None:
    """The best bound on multiplications, from the graph and from earlier searches."""
    if plan.graph.reverse_only:
        return None
    problem = Problem.of(plan.graph, "multiplications")
    bound = problem.bound
    entry = _entry(plan, key, "multiplications", None)
    if entry is not None:
        first = plan.graph.program.first_computed
        bound = max(bound, stored_bound(problem, entry, first) or 0)
    # A plan that shares steps can cost less than the sum of its products; then nothing is proven.
    return bound if 0 < bound <= known else None


def _dearest(plan: Plan) -> tuple[Eliminated, ...]:
    """The eliminations that execute the most operations."""
    graph = plan.graph
    flops: collections.Counter[int] = collections.Counter()
    for step in plan.steps:
        if step.vertex is not None:
            flops[step.vertex] += step.flops
    state, first = Elimination(graph), graph.program.first_computed
    equations = computed_by(graph)
    eliminations = []
    products: collections.Counter[int] = collections.Counter()
    for item in moved(plan.order, first, inwards=True):
        before = state.recorder.cost.multiplications
        state.eliminate(item)
        vertex = item.vertex if isinstance(item, EdgeElimination) else item
        products[vertex] += state.recorder.cost.multiplications - before
    for vertex in vertices_of(plan.order):
        name, equation = vertex + first, equations[vertex + first]
        shape, line = graph.shapes[name], jax_internals.source_line(equation)
        eliminations.append(
            Eliminated(vertex, flops[vertex], products[name], equation.name, shape, line)
        )
    eliminations.sort(key=lambda each: (-each.flops, -each.multiplications, each.vertex))
    return tuple(eliminations[:_MOST_DEAREST])


def _edge(graph: Graph, source: int, target: int, equation: flat.Equation) -> Edge:
    shape = (*graph.shapes[target], *graph.shapes[source])
    line = jax_internals.source_line(equation)
    return Edge(label(graph, source), label(graph, target), shape, equation.name, line)
