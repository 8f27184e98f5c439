"""Integers that are one of a few numbers, as the bounds of a binary search are.

Such a node is a number, or a selection between two such nodes. Operations on it are carried out on
each of the numbers, and an entry at such a place is a selection between entries: so a search and
the look-ups at what it finds become the decisions that they are.
"""

import operator
from collections.abc import Callable

import numpy as np

from jax_cce.native.nodes import Unsupported
from jax_cce.native.scalars import Scalars

__all__ = ["applied", "chosen", "possible"]

# The numbers that a node may be one of.
_MOST_NUMBERS = 64


def _quotient(x: int, y: int) -> int:
    """Rounded towards zero, as JAX has it."""
    if not y:
        raise Unsupported("div of integers by zero")
    return abs(x) // abs(y) * (1 if (x < 0) == (y < 0) else -1)


_NUMBERS: dict[str, Callable[..., int | bool]] = {
    **{
        name: getattr(operator, name)
        for name in ["add", "eq", "ge", "gt", "le", "lt", "mul", "ne", "neg", "sub"]
    },
    "abs": abs,
    "clamp": lambda low, x, high: min(max(x, low), high),
    "div": _quotient,
    "max": max,
    "min": min,
    "rem": lambda x, y: x - y * _quotient(x, y),
    "sign": lambda x: (x > 0) - (x < 0),
    "stop_gradient": lambda x: x,
}


def possible(graph: Scalars, node: int) -> list[int] | None:
    """The numbers that a node may be; None where it is computed otherwise, or they are many."""
    if node not in graph.choices:
        value, found = graph.values[node], None
        if value is not None:
            found = [int(value)] if np.isfinite(value) else None
        elif graph.ops[node] == "select_n":
            one, other = (possible(graph, case) for case in graph.args[node][1:])
            # Repetitions count, as each is a decision.
            if one is not None and other is not None and len(one) + len(other) <= _MOST_NUMBERS:
                found = one + other
        graph.choices[node] = found
    return graph.choices[node]


def chosen(graph: Scalars, node: int, of_number: Callable[[int], int]) -> int:
    """The node of what each of the possible numbers stands for."""
    if graph.values[node] is not None:
        return of_number(int(graph.values[node]))
    which, *cases = graph.args[node]
    return graph.make("select_n", which, *(chosen(graph, case, of_number) for case in cases))


def applied(graph: Scalars, op: str, *nodes: int) -> int:
    """An operation on integers, on each of the numbers that they may be by one condition.

    Raises:
        Unsupported: for a quotient of others, which would have to be rounded.
    """
    if op in _NUMBERS and all(possible(graph, node) is not None for node in nodes):
        decided = [node for node in nodes if graph.values[node] is None]
        if not decided:
            result = _NUMBERS[op](*(int(graph.values[node]) for node in nodes))
            return graph.truth(result) if isinstance(result, bool) else graph.number(result)
        which = graph.args[decided[0]][0]
        if all(graph.args[node][0] == which for node in decided):
            cases = (
                [graph.args[node][k] if node in decided else node for node in nodes] for k in (1, 2)
            )
            return graph.make("select_n", which, *(applied(graph, op, *case) for case in cases))
    if op == "div":
        raise Unsupported("div of integers")
    return graph.make(op, *nodes)
