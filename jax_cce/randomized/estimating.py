"""From the arguments of a call to an estimate: by reverse mode, or by an elimination."""

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jax_cce import eliminations, jax_internals
from jax_cce.graph.building import Graph
from jax_cce.orders import named
from jax_cce.planning import running
from jax_cce.planning.options import Options
from jax_cce.planning.task import Task, task_of_trace
from jax_cce.program import calls
from jax_cce.program.calls import Call, Contract, Traced
from jax_cce.randomized import elimination
from jax_cce.randomized.draws import count_of
from jax_cce.randomized.elimination import Sampled
from jax_cce.randomized.requests import Request
from jax_cce.randomized.reverse import backward, forward
from jax_cce.randomized.sites import Choice
from jax_cce.randomized.tape import Level, level_of

__all__ = [
    "call_of",
    "check_scalar",
    "counts_of",
    "eliminated",
    "level_at",
    "pulled_back",
    "rows_at",
    "standard",
    "task_at",
    "traced_of",
    "units",
    "vertices_of",
]


def call_of(name: str, fun: Any, contract: Contract, args: Any, kwargs: Any) -> Call:
    """The checked arguments of a call of a function of real numbers."""
    call = Call(fun, contract, args, kwargs)
    for aval in call.avals:
        if jax_internals.is_complex(aval):
            raise TypeError(
                f"randomized.{name} requires inputs of real dtypes, but got {aval.dtype.name}. "
                "Pass the real and the imaginary part as two inputs."
            )
    return call


def traced_of(call: Call) -> Traced:
    """The traced function of a call; its outputs are real."""
    try:
        traced = calls.trace_call(call, hoist=False)
    except Exception as error:
        if reason := running.why_left_to_jax(error):
            error.add_note(
                f"A randomised derivative is one of the traced function, and this one cannot be "
                f"traced ({reason}): write its control flow with jax.lax."
            )
        raise
    for aval in traced.values:
        if jax_internals.is_complex(aval):
            raise TypeError(
                f"Randomised derivatives are of real outputs, but one is {aval.dtype.name}. Return "
                "the real and the imaginary part."
            )
    return traced


def check_scalar(traced: Traced) -> None:
    """As `jax.grad` does."""
    shapes = [aval.shape for aval in traced.values]
    if shapes != [()] or traced.value_tree != jax.tree.structure(0):
        found = shapes[0] if len(shapes) == 1 else traced.value_tree
        raise TypeError(f"Gradient only defined for scalar-output functions. Output was: {found}.")


def level_at(call: Call, traced: Traced, choice: Choice) -> Level:
    """What reverse mode keeps of a function.

    Raises:
        ValueError: for names that it has not.
    """
    program = traced.program
    outputs = program.outputs[: traced.num_values]
    level = level_of(program, range(len(call.leaves)), outputs, choice)
    missing = (choice.names or frozenset()) - choice.found
    if missing:
        known = ", ".join(map(repr, sorted(choice.found))) or "none"
        raise ValueError(
            f"{call.name} has no checkpoint_name {', '.join(map(repr, sorted(missing)))}; it has "
            f"{known}."
        )
    return level


def standard() -> Any:
    """What the user's configuration says of promotion is for the user's own code."""
    return jax.numpy_rank_promotion("allow")


def pulled_back(
    call: Call, traced: Traced, key: Any, request: Request
) -> tuple[list[Any], list[list[Any]], list[Any]]:
    """The values, for each value the blocks, and the auxiliary leaves."""
    level, count = level_at(call, traced, request.choice()), traced.num_values
    with standard(), jax.numpy_dtype_promotion("standard"):
        outputs, saved = forward(level, traced.constants, call.leaves, key)
        rows = rows_at(traced, level, call.leaves, saved, key)
    return outputs[:count], rows, outputs[count:]


def rows_at(
    traced: Traced, level: Level, leaves: Sequence[Any], saved: Any, key: Any
) -> list[list[Any]]:
    """The blocks of each output, from pulling back the unit vectors of all outputs at once."""
    avals, of_inputs = traced.values, traced.program.avals[: len(leaves)]
    rest: list[Any] = [None] * (len(traced.program.outputs) - len(avals))

    def pulled(cotangents: Sequence[Any]) -> list[Any]:
        found = backward(level, traced.constants, leaves, saved, [*cotangents, *rest], key)
        return [
            found[k] if k in found else jax_internals.zeros(aval)
            for k, aval in enumerate(of_inputs)
        ]

    sizes = [jax_internals.size(aval) for aval in avals]
    if sizes == [1]:
        results = pulled([jnp.ones(avals[0].shape, avals[0].dtype)])
        return [
            [
                jnp.reshape(x, avals[0].shape + aval.shape)
                for x, aval in zip(results, of_inputs, strict=True)
            ]
        ]
    if sum(sizes):
        stacked = jax.vmap(pulled)(units(avals))
    else:
        stacked = [jnp.zeros((0, *aval.shape), aval.dtype) for aval in of_inputs]
    ends = np.cumsum([0, *sizes])
    return [
        [
            jnp.reshape(x[ends[at] : ends[at + 1]], aval.shape + own.shape)
            for x, own in zip(stacked, of_inputs, strict=True)
        ]
        for at, aval in enumerate(avals)
    ]


def units(avals: Sequence[Any]) -> list[Any]:
    """The unit vectors of all outputs."""
    sizes = [jax_internals.size(aval) for aval in avals]
    total, first, units = sum(sizes), 0, []
    for aval, size in zip(avals, sizes, strict=True):
        unit = jnp.eye(total, size, -first, dtype=aval.dtype)
        units.append(jnp.reshape(unit, (total, *aval.shape)))
        first += size
    return units


def task_at(call: Call, traced: Traced, request: Request) -> Task:
    """The function as one whose graph is eliminated."""
    task = task_of_trace(call, Options(request.contract), traced)
    if task.graphs[False].reverse_only:
        raise ValueError(
            f"{call.name} has a pullback that is not known to be linear, so that there is nothing "
            "to eliminate. Leave sites at 'saved'."
        )
    return task


def vertices_of(
    task: Task, call: Call, request: Request
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The order of elimination, and the vertices at which products are sampled."""
    graph = task.graphs[False]
    first = graph.program.first_computed
    state = named.eliminate(graph, "auto" if request.order is None else request.order)
    order = list(eliminations.vertices_of(state.order))
    if request.sites == "vertices":
        return tuple(order), elimination.mixing(graph)
    if not graph.vertices:
        return (), ()
    if request.sites == "cut":
        found = elimination.cuts(graph)
        if not found:
            raise ValueError(
                f"{call.name} has no vertex that all paths from its inputs to its outputs lead "
                "through. Name a vertex, or take sites='saved' or 'vertices'."
            )
        chosen = min(_cut(task, vertex, request) for vertex in found)[1]
    else:
        chosen = int(request.sites) + first  # type: ignore[arg-type]
        if chosen not in graph.vertices:
            known = ", ".join(str(v - first) for v in graph.vertices)
            raise ValueError(
                f"{call.name} has no vertex {request.sites} to sample at; it has {known or 'none'}."
            )
    if request.order is None:
        order = [*(v for v in order if v != chosen), chosen]
    return tuple(order), (chosen,)


def _cut(task: Task, vertex: int, request: Request) -> tuple[int, int]:
    """What the sampled factors at a cut store, and the cut."""
    graph = task.graphs[False]
    outputs = [k for k in graph.outputs if isinstance(k, int) and k in graph.shapes]
    ends = sum(math.prod(graph.shapes[k]) for k in outputs)
    ends += sum(math.prod(graph.shapes[k]) for k in graph.inputs if k in graph.shapes)
    return ends * count_of(request.part, math.prod(graph.shapes[vertex])), vertex


def counts_of(graph: Graph, vertices: Sequence[int], request: Request) -> dict[int, int]:
    """How many entries are drawn at each vertex; none where all are."""
    counts = {}
    for vertex in vertices:
        size = math.prod(graph.shapes[vertex])
        count = count_of(request.part, size)
        if 0 < count < size:
            counts[vertex] = count
    return counts


def eliminated(
    call: Call, traced: Traced, key: Any, request: Request
) -> tuple[list[list[Any]], list[Any]]:
    """For each value the blocks, and the auxiliary leaves."""
    task = task_at(call, traced, request)
    graph = task.graphs[False]
    order, chosen = vertices_of(task, call, request)
    with standard(), task.context():
        sampled = Sampled.recorded(graph, order, counts_of(graph, chosen, request), request.method)
        outputs, blocks, _ = elimination.emitted(sampled, traced.constants, call.leaves, key)
        rows = []
        for at, aval in enumerate(traced.values):
            row = []
            for k, own in enumerate(call.avals):
                block = blocks.get((at, graph.inputs.index(k))) if k in graph.inputs else None
                shape = aval.shape + own.shape
                dense = jnp.zeros(shape, own.dtype) if block is None else block.todense()
                row.append(jnp.reshape(dense, shape).astype(own.dtype))
            rows.append(row)
    return rows, outputs[traced.num_values :]
