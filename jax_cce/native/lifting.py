"""From programs to scalar graphs: how the entries of each primitive's results are computed.

What the rule book says of a primitive serves here as well: elementwise ones are an operation on the
entries at each place, layouts move nodes around, contractions are sums of products, and gathers and
sums tell by their local Jacobian which entries they are made of.
"""

import functools
import itertools
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import jax
import numpy as np
from jax import lax

from jax_cce import jax_internals
from jax_cce.graph.scalarising import counts_of
from jax_cce.jax_internals import Literal
from jax_cce.native import factorising, places
from jax_cce.native.integers import applied, possible
from jax_cce.native.loops import repeated, rolled
from jax_cce.native.nodes import LARGEST, Given, Nodes, Steps, Unsupported, each, lifted, most_of
from jax_cce.native.scalars import COMPARISONS, LOGIC, Scalars
from jax_cce.program import in_numpy, passes, tracing
from jax_cce.program.flat import Equation, Program
from jax_cce.rules.book import Entrywise, record_of
from jax_cce.rules.derivatives import OnlyWhileRunning, custom_derivative
from jax_cce.rules.layout_rule import results_of

__all__ = ["MOST_NODES", "check", "lift"]

# Operations of the graph that are primitives of JAX, on numbers.
_NUMERIC = frozenset(
    name
    for names in (
        "abs add ceil div floor max min mul neg pow rem sign sqrt sub",
        "acos acosh asin asinh atan atan2 atanh cbrt cos cosh sin sinh tan tanh",
        "digamma erf erfc exp exp2 expm1 lgamma log log1p logistic rsqrt stop_gradient",
    )
    for name in names.split()
)
_SAME = frozenset(("copy", "copy_p", "fence", "name", "optimization_barrier"))
# The largest number of nodes that a program may need.
MOST_NODES = 12_000
# The equations of a loop that are written out, step by step.
MOST_UNROLLED, _MORE = 500, 4
# So many entries count as an equation.
_ENTRIES = 5
# The steps of a loop that may be written out.
_LONGEST = 64
# How many equations of loops over constants are evaluated, one by one.
_MOST_KNOWN = 500


def check(program: Program, most: int) -> tuple[int, int]:
    """Refuses a program that is seen to have no scalar graph of so many nodes.

    Args:
        program: the program.
        most: how many nodes the graph may have.

    Returns:
        Its operations, and those of its products by matrices that do not vary.

    Raises:
        Unsupported: it names the primitive.
    """
    active, _ = passes.dependent(program.equations, range(program.first_computed))
    _, varied = passes.dependent(program.equations, range(program.num_inputs))
    work = products = 0
    for equation in itertools.compress(program.equations, active):
        facts, inner, often = record_of(equation), [], 1
        if equation.params.get("accuracy") is not None:
            raise Unsupported(f"{equation.name} of an accuracy that is asked for")
        if equation.name == "scan":
            body = tracing.flatten_closed(equation.params["jaxpr"])[0]
            often = 1 if _stays(equation, varies=False) else equation.params["length"]
            inner = [body]
        elif equation.name in _CALLS:
            inner = _bodies(equation)
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
            own = size if count is None else count(equation) // 2
            work += own
            if facts.entrywise is Entrywise.CONTRACTS and not varied.issuperset(equation.variables):
                products += own
        for body in inner:
            pair = check(body, most // max(1, often))
            work, products = work + often * pair[0], products + often * pair[1]
    if work > most:
        raise Unsupported(f"it takes {work} operations")
    return work, products


def _stays(equation: Equation, *, varies: bool) -> bool:
    """Whether a scan stays a loop.

    Args:
        equation: the scan.
        varies: whether it reads what is differentiated. Such steps are different from each other,
            and are written out for longer.
    """
    body, _ = tracing.flatten_closed(equation.params["jaxpr"])
    length, most = equation.params["length"], MOST_UNROLLED * (_MORE if varies else 1)
    entries = sum(jax_internals.size(aval) for each in body.equations for aval in each.out_avals)
    size = length * max(len(body.equations), entries / _ENTRIES)
    return bool(length > 1 and (length > _LONGEST or size > most))


def _bodies(equation: Equation) -> list[Program]:
    """The programs that are entered for the results of a call."""
    match equation.name:
        case "cond":
            bodies = _branches(equation)
        case "custom_linear_solve":
            bodies = [equation.params["jaxprs"].solve, equation.params["jaxprs"].matvec]
        case "while":
            bodies = [equation.params[f"{name}_jaxpr"] for name in ("cond", "body")]
        case "call_hi_primitive":
            bodies = [jax_internals.implementation(equation)]
        case _:
            bodies = [equation.params["call_jaxpr"]]
    return [tracing.flatten_closed(body)[0] for body in bodies]


def _branches(equation: Equation) -> Sequence[Any]:
    """The branches of a cond; of those for several platforms the one for this."""
    platforms = equation.params.get("branches_platforms")
    branches = equation.params["branches"]
    return branches if platforms is None else [branches[_on_this(platforms)]]


def _on_this(platforms: Sequence[Any]) -> int:
    return next(k for k, names in enumerate(platforms) if names is None or "cpu" in names)


def lift(
    graph: Scalars,
    program: Program,
    inputs: Sequence[Any],
    outputs: Sequence[Any],
    varied: Sequence[int] | None = None,
    known: Mapping[int, Any] = MappingProxyType({}),
) -> list[Any]:
    """Adds a program to a graph.

    Args:
        graph: the graph.
        program: the program.
        inputs: for each input and constant its nodes, or its value.
        outputs: the atoms that are asked for.
        varied: the inputs that are differentiated; by default all.
        known: variables whose values are known beforehand.

    Returns:
        For each of these its nodes, or its value where it is known.

    Raises:
        Unsupported: where the program is too large, or has an equation that is not scalar.
    """
    values: list[Any] = list(inputs)
    varied = range(program.first_computed) if varied is None else varied
    differentiated, _ = passes.dependent(program.equations, varied)
    for equation, is_varied in zip(program.equations, differentiated, strict=True):
        if known and all(name in known for name in equation.outputs):
            values += [known[name] for name in equation.outputs]
            continue
        operands = [
            np.asarray(atom.val, aval.dtype) if isinstance(atom, Literal) else values[atom]
            for atom, aval in zip(equation.inputs, equation.in_avals, strict=True)
        ]
        size = sum(map(jax_internals.size, equation.out_avals))
        is_known = not any(isinstance(x, Nodes | Steps) for x in operands)
        if (size > MOST_NODES and not is_known) or len(graph.ops) > 2 * MOST_NODES:
            raise Unsupported("it computes too many numbers")
        if equation.name in _RULED and not is_varied:
            # The rule for a derivative computes values by the function that it is the rule of.
            body, constants = tracing.flatten_closed(equation.params["call_jaxpr"])
            values += lift(graph, body, [*operands, *constants], body.outputs, ())
        else:
            values += _results(graph, equation, operands)
    return [np.asarray(atom.val) if isinstance(atom, Literal) else values[atom] for atom in outputs]


def _results(graph: Scalars, equation: Equation, operands: Sequence[Any]) -> list[Any]:
    name = equation.name
    if any(isinstance(x, Steps) for x in operands):
        if name in _AT_PLACES and (found := places.by_step(graph, equation, operands)) is not None:
            return found
        operands = [graph.steps.known(x) if isinstance(x, Steps) else x for x in operands]
    if not any(isinstance(x, Nodes) for x in operands) and name not in ("cond", "scan"):
        return _known(equation, operands)
    if name in _SAME:
        return list(operands)
    for aval in (*equation.in_avals, *equation.out_avals):
        floats = jax_internals.is_differentiable(aval)
        if jax_internals.is_complex(aval) or (floats and aval.dtype != graph.dtype):
            raise Unsupported(f"{name} has numbers of type {aval.dtype}")
    results = _entries(graph, equation, operands)
    for x, aval in zip(results, equation.out_avals, strict=True):
        if isinstance(x, Nodes) and aval.dtype.kind not in "bf":
            least = 0
            if aval.dtype.kind == "u":
                every = [possible(graph, int(node)) for node in x.nodes.flat]
                least = min((-1 if each is None else min(each) for each in every), default=0)
            most = min(LARGEST, np.iinfo(aval.dtype).max)
            if least < 0 or x.most is None or x.most > most:
                raise Unsupported(f"{name} gives numbers of type {aval.dtype}")
    return results


def _entries(graph: Scalars, equation: Equation, operands: Sequence[Any]) -> list[Any]:
    name = equation.name
    if (special := _SPECIAL.get(name)) is not None:
        return special(graph, equation, operands)
    facts = record_of(equation)
    if isinstance(facts.entrywise, Entrywise) and facts.operation is not None:
        if facts.entrywise is Entrywise.CONTRACTS:
            if equation.out_avals[0].dtype == bool:
                raise Unsupported(f"{name} of truth values")
            pairs = zip(operands, equation.in_avals, strict=True)
            return _contracted(graph, equation, [_numbers(graph, x, aval) for x, aval in pairs])
        nodes = [lifted(graph, x) for x in operands]
        most = max(map(most_of, operands), default=0)
        return [Nodes(x, most) for x in results_of(facts.operation, equation, nodes, np.int64)]
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
    if equation.name == "platform_index":
        return [np.int32(_on_this(equation.params["platforms"]))]
    is_update = equation.name.startswith("scatter")
    inner = () if is_update else tracing.primitive_names(tracing.inner_equations(equation))
    is_loop = not {equation.name, *inner}.isdisjoint(("scan", "while"))
    if is_loop or jax_internals.uses_references(equation.origin):
        raise Unsupported(f"{equation.name} of constants")
    with jax.core.eval_context():
        # Keys of random numbers are no arrays of NumPy.
        return [
            np.asarray(x) if jax_internals.is_number(x) else x
            for x in jax_internals.bind(equation, list(operands))
        ]


# Operations that integers have as well, and how large their results may be.
_OF_INTEGERS: dict[str, Callable[..., int]] = {
    **dict.fromkeys(("abs", "neg", "stop_gradient"), lambda x: x),
    **dict.fromkeys(("add", "sub"), lambda x, y: x + y),
    **dict.fromkeys(("clamp", "max", "min", "select_n"), max),
    "mul": lambda x, y: x * y,
    "rem": lambda x, y: x,
    "sign": lambda x: 1,
}


def _elementwise(
    graph: Scalars, op: str, operands: Sequence[Any], equation: Equation, param: Any = None
) -> Nodes:
    """An operation on the entries at each place."""
    varied = [
        aval for x, aval in zip(operands, equation.in_avals, strict=True) if isinstance(x, Nodes)
    ]
    shape = equation.out_avals[0].shape
    spread = [np.broadcast_to(lifted(graph, x), shape) for x in operands]
    if all(aval.dtype.kind in "bf" for aval in (*varied, *equation.out_avals)):
        return each(functools.partial(graph.make, op, param=param), *spread)
    op = op.removesuffix("_to")
    result = each(functools.partial(applied, graph, op), *spread)
    if op in COMPARISONS:
        return result
    every = [possible(graph, int(node)) for node in result.nodes.flat]
    if None not in every:
        result.most = max((abs(k) for numbers in every for k in numbers or ()), default=0)
    elif op in _OF_INTEGERS:
        result.most = _OF_INTEGERS[op](*map(most_of, operands))
    else:
        raise Unsupported(f"{op} of integers")
    return result


def _numbers(graph: Scalars, x: Any, aval: Any) -> np.ndarray:
    """The nodes of an operand; a product is of numbers, of which truth values are 0 or 1."""
    if not isinstance(x, Nodes):
        return lifted(graph, np.asarray(x, graph.dtype) if aval.dtype == bool else x)
    return _of_truths(graph, x).nodes if aval.dtype == bool else x.nodes


def _of_truths(graph: Scalars, x: Nodes) -> Nodes:
    return each(lambda k: graph.make("select_n", k, graph.zero, graph.one), x.nodes, most=1)


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
    if equation.name == "gather" and active[1]:
        return places.gathered(graph, equation, operands)
    if equation.name == "dynamic_slice" and any(active[1:]):
        return places.sliced(graph, equation, operands)
    if equation.name == "dynamic_update_slice" and any(active[2:]):
        return places.updated(graph, equation, operands)
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
    if aval.dtype == bool and result.dtype.kind in "fiu":
        return [_of_truths(graph, operands[0])]
    if aval.dtype.kind in "iu" and result.dtype.kind in "fiu":
        return [Nodes(operands[0].nodes, operands[0].most)]
    raise Unsupported(f"a conversion from {aval.dtype} to {result.dtype}")


def _select(graph: Scalars, equation: Equation, operands: Sequence[Any]) -> list[Any]:
    if len(operands) != 3 or equation.in_avals[0].dtype != bool:
        raise Unsupported("select_n of several cases")
    return [_elementwise(graph, "select_n", operands, equation)]


def _remainder(graph: Scalars, equation: Equation, operands: Sequence[Any]) -> list[Any]:
    divisor = operands[1]
    is_float = jax_internals.is_differentiable(equation.out_avals[0])
    if not is_float and (isinstance(divisor, Nodes) or not np.all(divisor)):
        raise Unsupported("rem of integers by what may be zero")
    return [_elementwise(graph, "rem", operands, equation)]


def _cond(graph: Scalars, equation: Equation, operands: Sequence[Any]) -> list[Any]:
    """All branches are computed, and one is selected."""
    index, *rest = operands
    branches = _branches(equation)
    if not isinstance(index, Nodes):
        branches = [branches[int(np.clip(index, 0, len(branches) - 1))]]
    results = []
    for branch in branches:
        body, constants = tracing.flatten_closed(branch)
        results.append(lift(graph, body, [*rest, *constants], body.outputs))
    if len(results) == 1:
        return results[0]
    which = int(index.nodes)
    if equation.in_avals[0].dtype == bool:
        which = graph.make("select_n", which, graph.zero, graph.one)
    chosen = results[-1]
    for k in reversed(range(len(results) - 1)):
        select = functools.partial(graph.make, "select_n", graph.make("le", which, graph.number(k)))
        chosen = [
            each(select, lifted(graph, x), lifted(graph, y), most=max(most_of(x), most_of(y)))
            for x, y in zip(chosen, results[k], strict=True)
        ]
    return chosen


def _with_rule(graph: Scalars, equation: Equation, operands: Sequence[Any]) -> list[Any]:
    """A function whose derivative is a rule of its own, which is lifted, too."""
    active = tuple(
        isinstance(x, Nodes) and jax_internals.is_differentiable(aval)
        for x, aval in zip(operands, equation.in_avals, strict=True)
    )
    try:
        rule = custom_derivative(equation, active)
    except (OnlyWhileRunning, RecursionError) as reason:
        raise Unsupported(str(reason)) from reason
    if rule is None:
        body, constants = tracing.flatten_closed(equation.params["call_jaxpr"])
        return lift(graph, body, [*operands, *constants], body.outputs)
    if rule.reverse or any(map(jax_internals.is_tracer, rule.constants)):
        raise Unsupported(f"the rule of a {equation.name}")
    varied = [x for x, wanted in zip(operands, active, strict=True) if wanted]
    entering = [*operands, *(_seeds(graph, x) for x in varied), *rule.constants]
    seeds = range(len(operands), rule.program.num_inputs)
    found = lift(graph, rule.program, entering, rule.program.outputs, seeds)
    results = found[: len(equation.out_avals)]
    for k, tangent in zip(rule.differentiable, found[len(results) :], strict=True):
        results[k] = _ruled(graph, results[k], tangent)
    return results


def _implemented(graph: Scalars, equation: Equation, operands: Sequence[Any]) -> list[Any]:
    """A primitive of JAX's newer kind, by what JAX lowers it to."""
    body, constants = tracing.flatten_closed(jax_internals.implementation(equation))
    return lift(graph, body, [*operands, *constants], body.outputs)


def _seeds(graph: Scalars, x: Nodes) -> Nodes:
    return each(graph.seed, x.nodes)


def _ruled(graph: Scalars, x: Any, tangent: Any) -> Nodes:
    return each(graph.ruled, lifted(graph, x), lifted(graph, tangent))


def _solved(graph: Scalars, equation: Equation, operands: Sequence[Any]) -> list[Any]:
    """custom_linear_solve, whose derivative solves for what the residual changes by."""
    lengths, jaxprs = equation.params["const_lengths"], equation.params["jaxprs"]
    rest = iter(operands)
    of_matvec, _, of_solve, _ = ([next(rest) for _ in range(length)] for length in lengths)
    right = list(rest)

    def applied(jaxpr: Any, *values: Any) -> list[Any]:
        body, constants = tracing.flatten_closed(jaxpr)
        return lift(graph, body, [*values, *constants], body.outputs)

    solution = applied(jaxprs.solve, *of_solve, *right)
    held = [each(lambda k: graph.make("stop_gradient", k), lifted(graph, x)) for x in solution]
    # Auxiliary results follow, which have no derivative.
    image = applied(jaxprs.matvec, *of_matvec, *held[: len(right)])
    residuals = [
        each(functools.partial(graph.make, "sub"), lifted(graph, x), lifted(graph, y))
        for x, y in zip(right, image, strict=True)
    ]
    seeds = [_seeds(graph, x) for x in residuals]
    tangents = applied(jaxprs.solve, *of_solve, *seeds)
    found = [_ruled(graph, *pair) for pair in zip(solution, tangents[: len(right)], strict=False)]
    return [*found, *held[len(right) :]]


def _symmetric(graph: Scalars, equation: Equation, operands: Sequence[Any]) -> list[Any]:
    """The eigenvalues of a small matrix, not the vectors, whose signs would not be LAPACK's."""
    shape, params = equation.in_avals[0].shape, equation.params
    if len(shape) != 2 or not 2 <= shape[0] <= 3 or params["subset_by_index"] is not None:
        raise Unsupported("eigh of others than matrices of 2 x 2 or 3 x 3")
    nodes = operands[0].nodes
    half = np.tril(nodes) if params["lower"] else np.triu(nodes).T
    values, vectors = factorising.eigenvalues(graph, half + np.tril(half, -1).T)
    seeds = _seeds(graph, operands[0]).nodes
    make = graph.make
    tangents = [
        graph.sum(
            make("mul", make("mul", int(v[j]), int(v[k])), int(seeds[j, k]))
            for j, k in np.ndindex(shape)
        )
        for v in vectors.T
    ]
    return [None, _ruled(graph, Nodes(values), Nodes(tangents))]


def _rounded(graph: Scalars, equation: Equation, operands: Sequence[Any]) -> list[Any]:
    if equation.params["rounding_method"] is not lax.RoundingMethod.TO_NEAREST_EVEN:
        raise Unsupported("round away from zero")
    return [_elementwise(graph, "round", operands, equation)]


def _power(graph: Scalars, equation: Equation, operands: Sequence[Any]) -> list[Any]:
    param = equation.params["y"]
    if param in (1, 2):
        return _square(graph, equation, operands) if param == 2 else list(operands)
    return [_elementwise(graph, "integer_pow", operands, equation, param)]


def _square(graph: Scalars, equation: Equation, operands: Sequence[Any]) -> list[Any]:
    return [each(lambda k: graph.make("mul", k, k), operands[0].nodes)]


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
    most = operands[0].most
    if most is not None:
        most = most * len(rows) if equation.name == "reduce_sum" else None
    return [Nodes(np.array(made, np.int64).reshape(shape), most)]


def _padded(graph: Scalars, equation: Equation, operands: Sequence[Any]) -> list[Any]:
    x, value = (lifted(graph, operand) for operand in operands)
    for axis, (low, high, step) in enumerate(equation.params["padding_config"]):
        between = (x.shape[axis] - 1) * (step + 1) + 1 if x.shape[axis] else 0
        shape = list(x.shape)
        shape[axis] = between + max(0, low) + max(0, high)
        rows = np.moveaxis(np.full(shape, value), axis, 0)
        rows[max(0, low) :][: between : step + 1] = np.moveaxis(x, axis, 0)
        # By less than nothing, entries are left out.
        kept = rows[max(0, -low) : len(rows) - max(0, -high)]
        x = np.moveaxis(kept, 0, axis)
    return [Nodes(x)]


def _scanned(graph: Scalars, equation: Equation, operands: Sequence[Any]) -> list[Any]:
    """A loop of known length, as one or step by step."""
    body, constants = tracing.flatten_closed(equation.params["jaxpr"])
    num_consts, num_carry = jax_internals.scan_counts(equation)
    length, reverse = equation.params["length"], equation.params["reverse"]
    is_known = not any(isinstance(x, Nodes) for x in operands)
    rows = operands[num_consts + num_carry :]
    if not is_known and _stays(equation, varies=_vary(graph, rows)):
        try:
            return rolled(graph, equation, operands, lift, _known)
        except Unsupported:
            # Step by step there may be more that is known.
            if length > _LONGEST:
                raise
            check(body, graph.most // length)
    most = _MOST_KNOWN if is_known else MOST_NODES
    if length * len(body.equations) > most or not length:
        raise Unsupported("it has long loops")
    fixed, carry = list(operands[:num_consts]), list(operands[num_consts:][:num_carry])
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


def _vary(graph: Scalars, rows: Sequence[Any]) -> bool:
    """Whether rows depend on what is differentiated, and are not another loop's."""
    taken = [x for x in rows if isinstance(x, Nodes) and not isinstance(x, Given)]
    nodes = [int(node) for x in taken for node in x.nodes.flat]
    if any(graph.ops[node] == "result" for node in nodes):
        return False
    return not graph.varied.isdisjoint(graph.needed(nodes))


def _stacked(graph: Scalars, results: Sequence[Any]) -> Any:
    if not any(isinstance(x, Nodes) for x in results):
        return np.stack(results)
    return Nodes(np.stack([lifted(graph, x) for x in results]))


def _multiplied(graph: Scalars, equation: Equation, operands: Sequence[Any]) -> list[Any]:
    """scatter-mul at places that are known, each of which is multiplied once."""
    array, at, factors = operands
    if isinstance(at, Nodes) or not equation.params["unique_indices"]:
        raise Unsupported("scatter-mul at places that are not known, or not to be unique")
    # Where each factor goes is what a scatter of their numbers says.
    size = jax_internals.size(equation.in_avals[2])
    numbers = np.arange(1, size + 1).reshape(equation.in_avals[2].shape)
    facts = {name: equation.params[name] for name in ("dimension_numbers", "mode")}
    with jax.core.eval_context():
        zeros = np.zeros(equation.in_avals[0].shape, np.int64)
        written = [
            np.asarray(scatter(zeros, np.asarray(at), numbers, **facts))
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


def _largest(graph: Scalars, equation: Equation, operands: Sequence[Any]) -> list[Any]:
    """reduce_max or reduce_min: of several that are equal each gets the same share."""
    axes, shape = equation.params["axes"], equation.out_avals[0].shape
    if equation.params.get("out_sharding") is not None:
        raise Unsupported(f"{equation.name} with a sharding")
    if not operands[0].nodes.size:
        raise Unsupported(f"{equation.name} of nothing")
    nodes = np.moveaxis(operands[0].nodes, axes, range(len(axes)))
    rows = nodes.reshape(-1, int(np.prod(shape, dtype=int)))
    made = [graph.make(equation.name, *map(int, column)) for column in rows.T]
    return [Nodes(np.array(made, np.int64).reshape(shape), operands[0].most)]


_SPECIAL: dict[str, Callable[[Scalars, Equation, Sequence[Any]], list[Any]]] = {
    **dict.fromkeys(("argmax", "argmin"), factorising.extreme),
    "add_any": lambda graph, e, xs: [_elementwise(graph, "add", xs, e)],
    "call_hi_primitive": _implemented,
    "cholesky": factorising.cholesky,
    "clamp": lambda graph, e, xs: [_elementwise(graph, "clamp", xs, e)],
    "cond": _cond,
    "convert_element_type": _convert,
    "custom_jvp_call": _with_rule,
    "custom_linear_solve": _solved,
    "custom_vjp_call": _with_rule,
    "cumprod": _cumulative,
    "cumsum": _cumulative,
    "eigh": _symmetric,
    "integer_pow": _power,
    "lu": factorising.lu,
    "pad": _padded,
    "reduce_and": _reduced,
    "reduce_max": _largest,
    "reduce_min": _largest,
    "reduce_or": _reduced,
    "reduce_prod": _reduced,
    "reduce_sum": _reduced,
    "rem": _remainder,
    "round": _rounded,
    "scan": _scanned,
    "scatter-mul": _multiplied,
    "select_n": _select,
    "sort": factorising.sort,
    "square": _square,
    "top_k": factorising.top_k,
    "triangular_solve": factorising.triangular_solve,
    "while": lambda graph, e, xs: repeated(graph, e, xs, lift),
}
_RULED = frozenset(("custom_jvp_call", "custom_vjp_call"))
# Operations at places.
_AT_PLACES = frozenset(("dynamic_slice", "gather"))
_CALLS = _RULED | {"call_hi_primitive", "cond", "custom_linear_solve", "while"}
