"""Operations of several instructions, in terms of the ones that a processor or its library has."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

from jax_cce.native.scalars import Scalars

__all__ = ["expanded"]


def _power(graph: Scalars, x: int, exponent: int) -> int:
    if exponent < 0:
        return graph.make("div", graph.one, _power(graph, x, -exponent))
    result, square = graph.one, x
    while exponent:
        if exponent & 1:
            result = graph.make("mul", result, square)
        exponent >>= 1
        if exponent:
            square = graph.make("mul", square, square)
    return result


def _logistic(graph: Scalars, x: int) -> int:
    exponential = graph.make("exp", graph.make("neg", x))
    return graph.make("div", graph.one, graph.make("add", graph.one, exponential))


def _reduced(op: str) -> Callable[..., int]:
    return lambda graph, *args: functools.reduce(functools.partial(graph.make, op), args)


_EXPANSIONS: dict[str, Callable[..., int]] = {
    "clamp": lambda graph, low, x, high: graph.make("min", graph.make("max", x, low), high),
    "integer_pow": lambda graph, x, *, param: _power(graph, x, param),
    "logistic": _logistic,
    "reduce_max": _reduced("max"),
    "reduce_min": _reduced("min"),
    "rsqrt": lambda graph, x: graph.make("div", graph.one, graph.make("sqrt", x)),
    "stop_gradient": lambda graph, x: x,
}


def expanded(graph: Scalars, nodes: Sequence[int]) -> tuple[Scalars, list[int]]:
    """A graph of what some nodes need, in simple operations, and the nodes in it."""
    result = Scalars(graph.dtype)
    new: dict[int, int] = {}
    for node in graph.needed(nodes):
        op, args, param = graph.ops[node], graph.args[node], graph.params[node]
        if op == "input":
            new[node] = result.input(args[0])
        elif op == "number":
            new[node] = result.number(args[0])
        elif op == "truth":
            new[node] = result.truth(args[0])
        else:
            operands = [new[arg] for arg in args]
            facts: dict[str, Any] = {} if param is None else {"param": param}
            if (expand := _EXPANSIONS.get(op)) is not None:
                new[node] = expand(result, *operands, **facts)
            else:
                new[node] = result.make(op, *operands, **facts)
    return result, [new[node] for node in nodes]
