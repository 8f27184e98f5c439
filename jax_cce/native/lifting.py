"""From programs to scalar graphs: how the entries of each primitive's results are computed.

What the rule book says of a primitive serves here as well: elementwise ones are an operation on the
entries at each place, layouts move nodes around, contractions are sums of products, and gathers and
sums tell by their local Jacobian which entries they are made of.
"""

import functools
import itertools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax import lax

from jax_cce import jax_internals
from jax_cce.caches import Cache
from jax_cce.graph.scalarising import counts_of
from jax_cce.jax_internals import Literal
from jax_cce.native.scalars import LOGIC, Scalars
from jax_cce.program import in_numpy, passes, tracing
from jax_cce.program.flat import Equation, Program
from jax_cce.rules.book import Entrywise, record, record_of
from jax_cce.rules.definers import ElementwiseRule, Partial
from jax_cce.rules.layout_rule import results_of

__all__ = ["MOST_NODES", "Nodes", "Unsupported", "check", "lift", "lifted", "partials"]


class Unsupported(Exception):
    """Why a program has no scalar graph."""


class Nodes:
    """An array whose entries are nodes.

    Args:
        nodes: the nodes.
    """

    def __init__(self, nodes: Any) -> None:
        self.nodes = np.asarray(nodes, np.int64)


# Operations of the graph that are primitives of JAX, on numbers.
_NUMERIC = frozenset(
    name
    for names in (
        "abs add ceil div floor max min mul neg pow sign sqrt sub",
        "acos acosh asin asinh atan atan2 atanh cbrt cos cosh sin sinh tan tanh",
        "erf erfc exp exp2 expm1 log log1p logistic rsqrt stop_gradient",
    )
    for name in names.split()
)
_SAME = frozenset(("copy", "copy_p", "fence", "name", "optimization_barrier"))
# The largest number of nodes that a program may need.
MOST_NODES = 6000


def check(program: Program, most: int, longest: int) -> None:
    """Refuses a program that is seen to have no scalar graph of so many nodes.

    Args:
        program: the program.
        most: how many nodes the graph may have.
        longest: how many steps a loop may have.

    Raises:
        Unsupported: it names the primitive.
    """
    active, _ = passes.dependent(program.equations, range(program.first_computed))
    work = 0
    for equation in itertools.compress(program.equations, active):
        facts, often = record_of(equation), 1
        if equation.params.get("accuracy") is not None:
            raise Unsupported(f"{equation.name} of an accuracy that is asked for")
        if equation.name == "scan":
            body = tracing.flatten_closed(equation.params["jaxpr"])[0]
            often = equation.params["length"]
            if often > longest:
                raise Unsupported("it has long loops")
            check(body, most // max(1, often), longest)
        elif not (
            equation.name in _SPECIAL
            or equation.name in _SAME
            or equation.name in _NUMERIC
            or equation.name in LOGIC
            or facts.entrywise not in (None, Entrywise.ELEMENTWISE)
        ):
            raise Unsupported(f"{equation.name} is no scalar operation")
        elif facts.entrywise is None or not facts.entrywise.moves:
            count = facts.flops
            size = sum(map(jax_internals.size, equation.out_avals))
            work += size if count is None else count(equation) // 2
    if work > most:
        raise Unsupported(f"it takes {work} operations")


def lift(
    graph: Scalars, program: Program, inputs: Sequence[Any], outputs: Sequence[Any]
) -> list[Any]:
    """Adds a program to a graph.

    Args:
        graph: the graph.
        program: the program.
        inputs: for each input and constant its nodes, or its value.
        outputs: the atoms that are asked for.

    Returns:
        For each of these its nodes, or its value where it is known.

    Raises:
        Unsupported: where the program is too large, or has an equation that is not scalar.
    """
    values: list[Any] = list(inputs)
    for equation in program.equations:
        operands = [
            np.asarray(atom.val, aval.dtype) if isinstance(atom, Literal) else values[atom]
            for atom, aval in zip(equation.inputs, equation.in_avals, strict=True)
        ]
        size = sum(map(jax_internals.size, equation.out_avals))
        if size > MOST_NODES or len(graph.ops) > 2 * MOST_NODES:
            raise Unsupported("it computes too many numbers")
        values += _results(graph, equation, operands)
    return [np.asarray(atom.val) if isinstance(atom, Literal) else values[atom] for atom in outputs]


def _results(graph: Scalars, equation: Equation, operands: Sequence[Any]) -> list[Any]:
    if not any(isinstance(x, Nodes) for x in operands):
        return _known(equation, operands)
    name = equation.name
    if name in _SAME:
        return list(operands)
    for aval in (*equation.in_avals, *equation.out_avals):
        floats = jax_internals.is_differentiable(aval)
        if jax_internals.is_complex(aval) or (floats and aval.dtype != graph.dtype):
            raise Unsupported(f"{name} has numbers of type {aval.dtype}")
    if (special := _SPECIAL.get(name)) is not None:
        return special(graph, equation, operands)
    facts = record_of(equation)
    if isinstance(facts.entrywise, Entrywise) and facts.operation is not None:
        if facts.entrywise is Entrywise.CONTRACTS:
            return _contracted(graph, equation, [lifted(graph, x) for x in operands])
        nodes = [lifted(graph, x) for x in operands]
        return [Nodes(x) for x in results_of(facts.operation, equation, nodes, np.int64)]
    if facts.entrywise in (Entrywise.SELECTS, Entrywise.SUMS):
        return _summed(graph, equation, operands)
    if name in LOGIC or name in _NUMERIC:
        accuracy = equation.params.get("accuracy")
        if accuracy is not None and accuracy is not lax.AccuracyMode.HIGHEST:
            raise Unsupported(f"{name} of less accuracy")
        return [_elementwise(graph, name, operands, equation)]
    raise Unsupported(f"{name} is no scalar operation")


def _known(equation: Equation, operands: Sequence[Any]) -> list[Any]:
    results = in_numpy.evaluated(equation, operands)
    if results is not None:
        return list(results)
    is_update = equation.name.startswith("scatter")
    if jax_internals.uses_references(equation.origin) or (
        tracing.inner_equations(equation) and not is_update
    ):
        raise Unsupported(f"{equation.name} of constants")
    with jax.core.eval_context():
        return [np.asarray(x) for x in jax_internals.bind(equation, list(operands))]


def lifted(graph: Scalars, x: Any) -> np.ndarray:
    """The nodes of an array, of numbers or truth values where they are known."""
    if isinstance(x, Nodes):
        return x.nodes
    x = np.asarray(x)
    node = graph.truth if x.dtype == bool else graph.number
    if x.dtype.kind not in "bfiu":
        raise Unsupported(f"constants of type {x.dtype}")
    return np.array([node(value) for value in x.flat], np.int64).reshape(x.shape)


def _elementwise(
    graph: Scalars, op: str, operands: Sequence[Any], equation: Equation, param: Any = None
) -> Nodes:
    """An operation on the entries at each place."""
    for x, aval in zip(operands, equation.in_avals, strict=True):
        if isinstance(x, Nodes) and not (
            aval.dtype == bool or jax_internals.is_differentiable(aval)
        ):
            raise Unsupported(f"{op} of numbers of type {aval.dtype}")
    shape = equation.out_avals[0].shape
    spread = [np.broadcast_to(lifted(graph, x), shape).flat for x in operands]
    make = functools.partial(graph.make, op, param=param)
    return Nodes(
        np.array([make(*map(int, nodes)) for nodes in zip(*spread, strict=True)]).reshape(shape)
    )


def _contracted(graph: Scalars, equation: Equation, operands: Sequence[np.ndarray]) -> list[Nodes]:
    pairs = record_of(equation).operation
    assert pairs is not None
    sums = [
        graph.sum(graph.make("mul", int(x), int(y)) for x, y in of_entry)
        for of_entry in pairs(*operands, **equation.params)
    ]
    return [Nodes(np.array(sums, np.int64).reshape(equation.out_avals[0].shape))]


def _summed(graph: Scalars, equation: Equation, operands: Sequence[Any]) -> list[Nodes]:
    """Results whose entries are sums of entries, which the local Jacobian tells."""
    active = tuple(isinstance(x, Nodes) for x in operands)
    for aval, moving in zip(equation.in_avals, active, strict=True):
        if moving and not jax_internals.is_differentiable(aval):
            raise Unsupported(f"{equation.name} at places that are not known")
    floats = tuple(map(jax_internals.is_differentiable, equation.in_avals))
    known = {
        k: np.asarray(x)
        for k, x in enumerate(operands)
        if not floats[k] and not isinstance(x, Nodes)
    }
    counts = counts_of(equation.with_known(known), floats)
    if counts is None:
        raise Unsupported(f"{equation.name} does more than to add up entries")
    nodes = [
        lifted(graph, x) if wanted else None for x, wanted in zip(operands, floats, strict=True)
    ]
    sums = []
    for count in counts:
        terms = [nodes[k].flat[at] for (k, at), often in count.items() if often]  # type: ignore[union-attr]
        sums.append(graph.sum(map(int, terms)))
    return [Nodes(np.array(sums, np.int64).reshape(equation.out_avals[0].shape))]


def _convert(graph: Scalars, equation: Equation, operands: Sequence[Any]) -> list[Any]:
    (aval,), (result,) = equation.in_avals, equation.out_avals
    if aval.dtype == result.dtype:
        return list(operands)
    if aval.dtype != bool or result.dtype != graph.dtype:
        raise Unsupported(f"a conversion from {aval.dtype} to {result.dtype}")
    chosen = [graph.make("select_n", int(k), graph.zero, graph.one) for k in operands[0].nodes.flat]
    return [Nodes(np.array(chosen, np.int64).reshape(result.shape))]


def _select(graph: Scalars, equation: Equation, operands: Sequence[Any]) -> list[Any]:
    if len(operands) != 3 or equation.in_avals[0].dtype != bool:
        raise Unsupported("select_n of several cases")
    return [_elementwise(graph, "select_n", operands, equation)]


def _power(graph: Scalars, equation: Equation, operands: Sequence[Any]) -> list[Any]:
    param = equation.params["y"]
    if param in (1, 2):
        op, often = ("mul", 2) if param == 2 else ("add", 1)
        nodes = [
            graph.make(op, *[int(k)] * 2) if often == 2 else int(k) for k in operands[0].nodes.flat
        ]
        return [Nodes(np.array(nodes, np.int64).reshape(equation.out_avals[0].shape))]
    return [_elementwise(graph, "integer_pow", operands, equation, param)]


def _square(graph: Scalars, equation: Equation, operands: Sequence[Any]) -> list[Any]:
    nodes = [graph.make("mul", int(k), int(k)) for k in operands[0].nodes.flat]
    return [Nodes(np.array(nodes, np.int64).reshape(equation.out_avals[0].shape))]


def _cumulative(graph: Scalars, equation: Equation, operands: Sequence[Any]) -> list[Any]:
    axis, reverse = equation.params["axis"], equation.params["reverse"]
    nodes = np.moveaxis(operands[0].nodes, axis, 0)
    nodes = nodes[::-1] if reverse else nodes
    totals = np.array(nodes)
    op = {"cumsum": "add", "cumprod": "mul"}[equation.name]
    for k in range(1, len(totals)):
        pairs = zip(totals[k - 1].flat, nodes[k].flat, strict=True)
        made = [graph.make(op, int(x), int(y)) for x, y in pairs]
        totals[k] = np.array(made, np.int64).reshape(totals[k].shape)
    return [Nodes(np.moveaxis(totals[::-1] if reverse else totals, 0, axis))]


def _reduced(graph: Scalars, equation: Equation, operands: Sequence[Any]) -> list[Any]:
    op = {"reduce_sum": "add", "reduce_prod": "mul", "reduce_and": "and", "reduce_or": "or"}
    axes = equation.params["axes"]
    nodes = np.moveaxis(operands[0].nodes, axes, range(len(axes)))
    shape = equation.out_avals[0].shape
    rows = nodes.reshape(-1, int(np.prod(shape, dtype=int)))
    if not len(rows):
        raise Unsupported(f"{equation.name} of nothing")
    make = functools.partial(graph.make, op[equation.name])
    made = [functools.reduce(make, map(int, column)) for column in rows.T]
    return [Nodes(np.array(made, np.int64).reshape(shape))]


def _padded(graph: Scalars, equation: Equation, operands: Sequence[Any]) -> list[Any]:
    result = equation.out_avals[0].shape
    config = equation.params["padding_config"]
    if any(low < 0 or high < 0 for low, high, _ in config):
        raise Unsupported("pad by less than nothing")
    x, value = (lifted(graph, operand) for operand in operands)
    nodes = np.full(result, value)
    places = tuple(
        slice(low, low + max(0, (size - 1) * (between + 1) + 1), between + 1)
        for size, (low, _, between) in zip(x.shape, config, strict=True)
    )
    nodes[places] = x
    return [Nodes(nodes)]


def _scanned(graph: Scalars, equation: Equation, operands: Sequence[Any]) -> list[Any]:
    """A loop of known length, step by step."""
    body, constants = tracing.flatten_closed(equation.params["jaxpr"])
    num_consts, num_carry = jax_internals.scan_counts(equation)
    length, reverse = equation.params["length"], equation.params["reverse"]
    if length * len(body.equations) > MOST_NODES or not length:
        raise Unsupported("it has long loops")
    fixed, carry = list(operands[:num_consts]), list(operands[num_consts:][:num_carry])
    rows = operands[num_consts + num_carry :]
    stacked: list[list[Any]] = [[] for _ in body.outputs[num_carry:]]
    for step in reversed(range(length)) if reverse else range(length):
        own = [Nodes(x.nodes[step]) if isinstance(x, Nodes) else np.asarray(x)[step] for x in rows]
        found = lift(graph, body, [*fixed, *carry, *own, *constants], body.outputs)
        carry = found[:num_carry]
        for results, result in zip(stacked, found[num_carry:], strict=True):
            results.append(result)
    if reverse:
        for results in stacked:
            results.reverse()
    return [*carry, *(_stacked(graph, results) for results in stacked)]


def _stacked(graph: Scalars, results: Sequence[Any]) -> Any:
    if not any(isinstance(x, Nodes) for x in results):
        return np.stack(results)
    return Nodes(np.stack([lifted(graph, x) for x in results]))


def _multiplied(graph: Scalars, equation: Equation, operands: Sequence[Any]) -> list[Any]:
    """scatter-mul at places that are known, each of which is multiplied once."""
    array, places, factors = operands
    if isinstance(places, Nodes) or not equation.params["unique_indices"]:
        raise Unsupported("scatter-mul at places that are not known, or not to be unique")
    # Where each factor goes is what a scatter of their numbers says.
    size = jax_internals.size(equation.in_avals[2])
    numbers = np.arange(1, size + 1).reshape(equation.in_avals[2].shape)
    facts = {name: equation.params[name] for name in ("dimension_numbers", "mode")}
    with jax.core.eval_context():
        zeros = np.zeros(equation.in_avals[0].shape, np.int64)
        written = [
            np.asarray(scatter(zeros, np.asarray(places), numbers, **facts))
            for scatter in (lax.scatter, lax.scatter_add)
        ]
    if not np.array_equal(written[0], written[1]):
        raise Unsupported("scatter-mul of several factors")
    own, others = lifted(graph, array), lifted(graph, factors).ravel()
    nodes = [
        graph.make("mul", int(node), int(others[number - 1])) if number else int(node)
        for node, number in zip(own.flat, written[0].flat, strict=True)
    ]
    return [Nodes(np.array(nodes, np.int64).reshape(own.shape))]


# Larger factorisations are the library's, which takes less than scalar code of single points.
_MOST_ROWS = 12


def _cholesky(graph: Scalars, equation: Equation, operands: Sequence[Any]) -> list[Any]:
    """The factor of a small matrix that is seen to be symmetric; NaN where there is none."""
    matrix = operands[0].nodes
    size = matrix.shape[-1]
    if matrix.ndim != 2 or size > _MOST_ROWS or not np.array_equal(matrix, matrix.T):
        raise Unsupported("cholesky of a matrix that is large, or not seen to be symmetric")
    factor = np.full(matrix.shape, graph.zero, np.int64)
    fails = graph.truth(False)
    for column in range(size):
        for row in range(column, size):
            rest = int(matrix[row, column])
            for k in range(column):
                product = graph.make("mul", int(factor[row, k]), int(factor[column, k]))
                rest = graph.make("sub", rest, product)
            if row > column:
                factor[row, column] = graph.make("div", rest, int(factor[column, column]))
                continue
            # A pivot that is NaN is not positive either.
            positive = graph.make("gt", rest, graph.zero)
            fails = graph.make("or", fails, graph.make("not", positive))
            factor[row, column] = graph.make("sqrt", rest)
    # As LAPACK has it, all or nothing.
    nothing = graph.make("select_n", fails, graph.one, graph.number(np.nan))
    below = np.tril_indices(size)
    factor[below] = [graph.make("mul", int(node), nothing) for node in factor[below]]
    return [Nodes(factor)]


def _largest(graph: Scalars, equation: Equation, operands: Sequence[Any]) -> list[Any]:
    """reduce_max or reduce_min: of several that are equal each gets the same share."""
    axes, shape = equation.params["axes"], equation.out_avals[0].shape
    if equation.params.get("out_sharding") is not None:
        raise Unsupported(f"{equation.name} with a sharding")
    nodes = np.moveaxis(operands[0].nodes, axes, range(len(axes)))
    rows = nodes.reshape(-1, int(np.prod(shape, dtype=int)))
    made = [graph.make(equation.name, *map(int, column)) for column in rows.T]
    return [Nodes(np.array(made, np.int64).reshape(shape))]


_SPECIAL: dict[str, Callable[[Scalars, Equation, Sequence[Any]], list[Any]]] = {
    "add_any": lambda graph, e, xs: [_elementwise(graph, "add", xs, e)],
    "cholesky": _cholesky,
    "clamp": lambda graph, e, xs: [_elementwise(graph, "clamp", xs, e)],
    "convert_element_type": _convert,
    "cumprod": _cumulative,
    "cumsum": _cumulative,
    "integer_pow": _power,
    "pad": _padded,
    "reduce_and": _reduced,
    "reduce_max": _largest,
    "reduce_min": _largest,
    "reduce_or": _reduced,
    "reduce_prod": _reduced,
    "reduce_sum": _reduced,
    "scan": _scanned,
    "scatter-mul": _multiplied,
    "select_n": _select,
    "square": _square,
}


def partials(graph: Scalars, node: int) -> list[tuple[int, int]]:
    """The operands of a node that are differentiated, each with the node of its partial.

    They are those of the rule book, so that native code follows the same conventions.

    Raises:
        Unsupported: where the book has no formula.
    """
    op, args = graph.ops[node], graph.args[node]
    if op in LOGIC or graph.is_given(node):
        return []
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
_formulas: Cache[tuple[Program, list[Any]]] = Cache(4096)


def _evaluated(graph: Scalars, node: int, partial: Partial) -> int:
    """A partial derivative as a node."""
    args, param = graph.args[node], graph.params[node]
    reads = [name for name in partial.reads if name != "params"]
    key = partial.function, graph.dtype, param
    program, constants = _formulas.get(key, lambda: _formula(partial, graph.dtype, param))
    nodes = [Nodes(node if name == "out" else args[_PLACES[name]]) for name in reads]
    (result,) = lift(graph, program, [*nodes, *constants], program.outputs)
    return int(lifted(graph, result))


def _formula(partial: Partial, dtype: Any, param: Any) -> tuple[Program, list[Any]]:
    """A partial derivative as a program of numbers, and its constants."""
    count = sum(name != "params" for name in partial.reads)
    params = {"y": param, "accuracy": None}

    def formula(*values: Any) -> list[Any]:
        rest = iter(values)
        read = (params if name == "params" else next(rest) for name in partial.reads)
        return [partial.function(*read)]

    scalars = [jax.ShapeDtypeStruct((), dtype)] * count
    with jax_internals.allowing(dtype):
        program, constants = tracing.trace(formula, scalars)
    return program, list(map(np.asarray, constants))
