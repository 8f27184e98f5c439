"""A task: one traced function whose Jacobian is wanted, with its graphs and its key."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from jax_cce import jax_internals
from jax_cce.graph import building, scalarising
from jax_cce.graph.building import Graph
from jax_cce.program import calls, flat, known_values
from jax_cce.program.calls import Call, Format, Traced, from_shapes
from jax_cce.registry import keys

__all__ = [
    "Subject",
    "graphs",
    "key",
    "numbered_vertices",
    "subject",
]


class Subject(NamedTuple):
    """What an order is searched for: the Jacobian of one function at arguments of some shapes.

    Attributes:
        name: the function's name, for people only.
        key: its key in the registry.
        graphs: its graph, and under True that with its small arrays taken apart.
    """

    name: str
    key: str
    graphs: dict[bool, Graph]


def subject(
    fun: Callable[..., Any],
    argnums: int | Sequence[int] = 0,
    has_aux: bool = False,
    holomorphic: bool = False,
    allow_int: bool = False,
    *,
    format: Format = "dense",
) -> Callable[..., Subject]:
    """What order searches work on; takes the arguments of `plan`."""
    calls.check_callable(fun)
    sparse = calls.check_format(format) != "dense"

    def prepared(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Subject:
        call = Call(fun, argnums, has_aux, holomorphic, allow_int, args, kwargs)
        traced = calls.trace_call(call, hoist=False)
        known = known_values.known_constants(traced.program, traced.constants, sparse=sparse)
        kind = {"holomorphic": holomorphic, "sparse": sparse}
        return Subject(
            getattr(fun, "__name__", type(fun).__name__),
            key(traced, known, **kind),
            graphs(traced, known, **kind),
        )

    return from_shapes(prepared)


def graphs(
    traced: Traced, known: Mapping[int, np.ndarray], *, holomorphic: bool, sparse: bool
) -> dict[bool, Graph]:
    """The graph of a traced function, and under True that with its small arrays taken apart."""
    program = known_values.fold(traced.program, known, sparse=sparse)
    names = [
        name
        for name in range(program.num_inputs)
        if jax_internals.is_differentiable(program.avals[name])
    ]

    def build(program: flat.Program) -> Graph:
        outputs = program.outputs[: traced.num_values]
        return building.build(program, names, outputs, holomorphic=holomorphic, sparse=sparse)

    expanded = None if holomorphic else scalarising.expand(program)
    built = {False: build(program)}
    if expanded is not None:
        built[True] = build(expanded)
    return built


def key(traced: Traced, known: Mapping[int, np.ndarray], *, holomorphic: bool, sparse: bool) -> str:
    """The key of a traced function's Jacobian in the registry."""
    return keys.digest(
        traced.program,
        num_values=traced.num_values,
        known=known,
        sparse=sparse,
        holomorphic=holomorphic,
    )


def numbered_vertices(of: Graph) -> tuple[int, ...]:
    """The vertices as plans number them, from the first computed variable on."""
    return tuple(vertex - of.program.first_computed for vertex in of.vertices)
