"""Operations of several instructions, in terms of the ones that a processor or its library has."""

import functools
import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Any

import jax
import numpy as np
from jax import lax

from jax_cce.native.loops import pruned
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


# The approximation by Lanczos with g = 7 and 9 terms; coefficients as tabulated by P. Godfrey.
_SHIFT = 7
_FIRST = 0.99999999999980993227684700473478
_COEFFICIENTS = (
    676.520368121885098567009190444019,
    -1259.13921672240287047156078755283,
    771.3234287776530788486528258894,
    -176.61502916214059906584551354,
    12.507343278686904814458936853,
    -0.13857109526572011689554707,
    9.984369578019570859563e-6,
    1.50563273514931155834e-7,
)


class _Terms:
    """What log-gamma and digamma share: the series at x - 1, or at -x where x is below a half.

    Args:
        graph: the graph.
        x: the node of the argument.

    Attributes:
        reflected: whether x is below a half.
        argument: x - 1, or -x.
        series: the sum of the series.
        log: the logarithm of the argument + 7.5.
    """

    def __init__(self, graph: Scalars, x: int) -> None:
        make, number = graph.make, graph.number
        self.reflected = make("lt", x, number(0.5))
        self.argument = make("select_n", self.reflected, make("sub", x, graph.one), make("neg", x))
        self.places = [make("add", self.argument, number(k + 1)) for k in range(len(_COEFFICIENTS))]
        terms = (
            make("div", number(c), place)
            for c, place in zip(_COEFFICIENTS, self.places, strict=True)
        )
        self.series = functools.reduce(functools.partial(make, "add"), terms, number(_FIRST))
        self.shifted = make("add", self.argument, number(_SHIFT + 0.5))
        scaled = make("div", self.argument, number(_SHIFT + 0.5))
        self.log = make("add", number(math.log(_SHIFT + 0.5)), make("log1p", scaled))


def _lgamma(graph: Scalars, x: int) -> int:
    make, number = graph.make, graph.number
    terms = _Terms(graph, x)
    power = make(
        "sub", make("add", terms.argument, number(0.5)), make("div", terms.shifted, terms.log)
    )
    result = make("add", number(0.5 * math.log(2 * math.pi)), make("mul", power, terms.log))
    result = make("add", result, make("log", terms.series))
    # log(pi / |sin(pi x)|) - result, where the sine is of the distance to the next whole number.
    size = make("abs", x)
    fraction = make("sub", size, make("floor", size))
    beyond = make("gt", fraction, number(0.5))
    distance = make("select_n", beyond, fraction, make("sub", graph.one, fraction))
    sine = make("log", make("sin", make("mul", number(math.pi), distance)))
    mirrored = make("sub", make("sub", number(math.log(math.pi)), sine), result)
    mirrored = make("select_n", make("is_finite", sine), make("neg", sine), mirrored)
    result = make("select_n", terms.reflected, result, mirrored)
    infinite = make("eq", size, number(math.inf))
    return make("select_n", infinite, result, number(math.inf))


def _digamma(graph: Scalars, x: int) -> int:
    make, number = graph.make, graph.number
    terms = _Terms(graph, x)
    slope = graph.sum(
        make("div", number(-c), make("mul", place, place))
        for c, place in zip(_COEFFICIENTS, terms.places, strict=True)
    )
    result = make("add", terms.log, make("div", slope, terms.series))
    result = make("sub", result, make("div", number(_SHIFT), terms.shifted))
    nearest = make("abs", make("floor", make("add", x, number(0.5))))
    angle = make("mul", number(math.pi), make("add", x, nearest))
    cotangent = make("div", make("cos", angle), make("sin", angle))
    mirrored = make("sub", result, make("mul", number(math.pi), cotangent))
    result = make("select_n", terms.reflected, result, mirrored)
    is_pole = make("and", make("lt", x, graph.zero), make("eq", x, make("floor", x)))
    result = make("select_n", is_pole, result, number(math.nan))
    return make("select_n", make("eq", x, graph.zero), result, number(_digamma_of_zero()))


@functools.cache
def _digamma_of_zero() -> float:
    """NaN or negative infinity, by the version of JAX."""
    with jax.core.eval_context():
        return float(lax.digamma(np.float32(0)))


def _reduced(op: str) -> Callable[..., int]:
    return lambda graph, *args: functools.reduce(functools.partial(graph.make, op), args)


_EXPANSIONS: dict[str, Callable[..., int]] = {
    "clamp": lambda graph, low, x, high: graph.make("min", graph.make("max", x, low), high),
    "digamma": _digamma,
    "integer_pow": lambda graph, x, *, param: _power(graph, x, param),
    "lgamma": _lgamma,
    "logistic": _logistic,
    "reduce_max": _reduced("max"),
    "reduce_min": _reduced("min"),
    "ruled": lambda graph, value, **_: value,
    "rsqrt": lambda graph, x: graph.make("div", graph.one, graph.make("sqrt", x)),
    "stop_gradient": lambda graph, x: x,
}


def expanded(
    graph: Scalars, nodes: Sequence[int], renamed: Mapping[Any, Any] = MappingProxyType({})
) -> tuple[Scalars, list[int]]:
    """A graph of what some nodes need, in simple operations, and the nodes in it.

    Args:
        graph: the graph.
        nodes: the nodes.
        renamed: what is to stand for the places of inputs.
    """
    result = Scalars(graph.dtype)
    new: dict[int, int] = {}
    needed = graph.needed(nodes)
    loops = _Loops(graph, needed)
    # A loop that carries tangents is younger than the nodes that need what it replaces.
    for node in graph.depth_first(needed) if graph.instead else needed:
        op, args, param = graph.ops[node], graph.args[node], graph.params[node]
        if op == "input":
            new[node] = result.input(renamed.get(args[0], args[0]))
        elif op == "table":
            new[node] = result.table(args[0])
        elif op == "number":
            new[node] = result.number(args[0])
        elif op == "truth":
            new[node] = result.truth(args[0])
        elif node in graph.kept:
            new[node] = result.raw(op, *(new[arg] for arg in args))
        elif op == "loop":
            new[node] = loops.added(result, node, new)
        elif op == "result":
            (loop,) = graph.operands(node)
            new[node] = result.result(new[loop], loops.places[loop][param])
        else:
            operands = [new[arg] for arg in args]
            facts: dict[str, Any] = {} if param is None else {"param": param}
            if (expand := _EXPANSIONS.get(op)) is not None:
                new[node] = expand(result, *operands, **facts)
            else:
                new[node] = result.make(op, *operands, **facts)
    return result, [new[node] for node in nodes]


class _Loops:
    """The loops of a graph, without what nobody wants.

    Args:
        graph: the graph.
        needed: its nodes that are needed.

    Attributes:
        places: for each loop that was added the new places of its results.
    """

    def __init__(self, graph: Scalars, needed: Sequence[int]) -> None:
        self._graph = graph
        self._wanted: dict[int, set[Any]] = defaultdict(set)
        self.places: dict[int, Mapping[Any, Any]] = {}
        for node in needed:
            if graph.ops[node] == "result":
                self._wanted[graph.operands(node)[0]].add(graph.params[node])

    def added(self, result: Scalars, node: int, new: Mapping[int, int]) -> int:
        """Adds a loop in simple operations to a graph."""
        loop, kept, self.places[node] = pruned(self._graph.params[node], self._wanted[node])
        body, nodes = expanded(loop.body, loop.outputs, self.places[node])
        first, last = len(loop.carries), len(loop.carries) + len(loop.results)
        simple = replace(loop, body=body, carries=nodes[:first], results=nodes[first:last])
        if loop.active is not None:
            simple = replace(simple, active=nodes[-1])
        args = self._graph.args[node]
        return result.loop(simple, [new[args[k]] for k in kept])
