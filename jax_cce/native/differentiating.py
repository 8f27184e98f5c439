"""The derivative of one node: the partials of the rule book, or what a rule of its own says."""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax import lax

from jax_cce import jax_internals
from jax_cce.caches import Cache
from jax_cce.native.lifting import lift
from jax_cce.native.nodes import Nodes, Unsupported, lifted
from jax_cce.native.scalars import DERIVED, LOGIC, Scalars
from jax_cce.program import tracing
from jax_cce.rules.book import record
from jax_cce.rules.definers import ElementwiseRule, Partial

__all__ = ["partials"]


def partials(graph: Scalars, node: int) -> list[tuple[int, int]]:
    """The operands of a node that are differentiated, each with the node of its partial.

    They are those of the rule book, so that native code follows the same conventions.

    Raises:
        Unsupported: where the book has no formula.
    """
    op, args = graph.ops[node], graph.args[node]
    if op in LOGIC or graph.is_given(node):
        return []
    if op in DERIVED:
        return [(graph.differentiated(node)[0], graph.one)]
    if op == "select_n":
        which, *cases = args
        shares = (graph.one, graph.zero), (graph.zero, graph.one)
        return [
            (case, graph.make("select_n", which, *share))
            for case, share in zip(cases, shares, strict=True)
        ]
    if op == "clamp":
        return _partials_of_clamp(graph, args)
    if op in ("reduce_max", "reduce_min"):
        equal = [graph.make("eq", arg, node) for arg in args]
        chosen = [graph.make("select_n", k, graph.zero, graph.one) for k in equal]
        count = graph.sum(chosen)
        return [(arg, graph.make("div", k, count)) for arg, k in zip(args, chosen, strict=True)]
    rule = record(_primitive(op)).rule
    if not isinstance(rule, ElementwiseRule):
        raise Unsupported(f"the derivative of {op} has no formula")
    found = []
    for k, partial in enumerate(rule.partials):
        if isinstance(partial, Partial):
            found.append((args[k], _evaluated(graph, node, partial)))
        elif partial is not None:
            found.append((args[k], graph.number(partial)))
    return found


def _partials_of_clamp(graph: Scalars, args: Sequence[int]) -> list[tuple[int, int]]:
    low, x, high = args

    def where(one: int, other: int) -> int:
        return graph.make("select_n", graph.make("and", one, other), graph.zero, graph.one)

    above, below = graph.make("gt", x, low), graph.make("lt", x, high)
    is_low = where(graph.make("gt", low, x), graph.make("lt", low, high))
    is_high = graph.make("select_n", graph.make("lt", high, x), graph.zero, graph.one)
    return [(low, is_low), (x, where(above, below)), (high, is_high)]


@functools.cache
def _primitive(name: str) -> Any:
    return getattr(lax, f"{name}_p")


_PLACES = {"x": 0, "y": 1, "z": 2}
# The nodes of a graph that a partial derivative needs, itself the last one: the operation, the
# places of the operands in this list, or what is given, and the parameter.
_Formula = list[tuple[str, tuple[Any, ...], Any]]
_formulas: Cache[_Formula] = Cache(4096)


def _evaluated(graph: Scalars, node: int, partial: Partial) -> int:
    """A partial derivative as a node."""
    args, param = graph.args[node], graph.params[node]
    key = partial.function, graph.dtype, param
    formula = _formulas.get(key, lambda: _formula(partial, graph.dtype, param))
    made: list[int] = []
    for op, operands, own in formula:
        match op:
            case "input":
                made.append(node if operands[0] == "out" else args[_PLACES[operands[0]]])
            case "number":
                made.append(graph.number(operands[0]))
            case "truth":
                made.append(graph.truth(operands[0]))
            case "div":
                made.append(graph.quotient(*(made[k] for k in operands)))
            case _:
                made.append(graph.make(op, *(made[k] for k in operands), param=own))
    return made[-1]


def _formula(partial: Partial, dtype: Any, param: Any) -> _Formula:
    """A partial derivative, whose inputs are named by what it reads."""
    reads = [name for name in partial.reads if name != "params"]
    params = {"y": param, "accuracy": None}

    def formula(*values: Any) -> list[Any]:
        rest = iter(values)
        read = (params if name == "params" else next(rest) for name in partial.reads)
        return [partial.function(*read)]

    with jax_internals.allowing(dtype):
        scalars = [jax.ShapeDtypeStruct((), dtype)] * len(reads)
        program, constants = tracing.trace(formula, scalars)
    graph = Scalars(dtype)
    inputs = [Nodes(graph.input(name)) for name in reads]
    (result,) = lift(graph, program, [*inputs, *map(np.asarray, constants)], program.outputs)
    nodes = graph.needed([int(lifted(graph, result))])
    place = {node: k for k, node in enumerate(nodes)}
    return [
        (
            graph.ops[node],
            graph.args[node] if graph.is_given(node) else tuple(map(place.get, graph.args[node])),
            graph.params[node],
        )
        for node in nodes
    ]
