"""The kernel of a Jacobian: from a traced function to the name of a foreign function of XLA."""

import dataclasses
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from jax_cce import jax_internals
from jax_cce.jax_internals import Literal
from jax_cce.native import compiling, decisions
from jax_cce.native.compiling import Machine, has_function, machine
from jax_cce.native.directions import vectors_of
from jax_cce.native.edges import ORDERS, Edges, Order, cost
from jax_cce.native.emission import kernel_text
from jax_cce.native.expanding import expanded
from jax_cce.native.fusing import fused
from jax_cce.native.instructions import function_name
from jax_cce.native.jacobians import edges_between
from jax_cce.native.lifting import MOST_NODES, check, lift
from jax_cce.native.loops import USUAL
from jax_cce.native.nodes import Given, Nodes, Unsupported, lifted
from jax_cce.native.points import gathered
from jax_cce.native.scalars import INSTRUCTIONS, Scalars, TooLarge
from jax_cce.native.tiles import Operand
from jax_cce.planning import loops
from jax_cce.program import passes, tracing
from jax_cce.program.flat import Equation, Program

__all__ = [
    "Function",
    "Kernel",
    "Signature",
    "Text",
    "edges_of",
    "kernel_of",
    "obstacle_to",
    "written",
]

# The numbers that a point may write, by itself and among others.
_MOST_RESULTS, _MOST_OF_MANY = 1 << 14, 1 << 12
# Seconds that XLA takes to compile a program, times a power of the number of its equations (fitted
# to the programs of `python -m benchmarks run`, half of which take from 0.8 to 1.7 times as long);
# how many times as long a kernel may take to make; what it may take in any case, and at most.
_BY_XLA, _POWER = 0.033, 0.52
_LONGER, _IN_ANY_CASE, _AT_MOST = 1.8, 0.15, 1.0
# The same where native code is asked for.
_ASKED_FOR = 20.0
# Seconds that a node takes to make, and a line of code to write and compile: of a single point,
# where it is over before it matters how well its code is arranged, of vectors quickly, and well.
_NODE, _SINGLE, _QUICKLY, _WELL = 6e-6, 6.5e-6, 12e-6, 50e-6
# Of a single point, code is made quickly of fewer lines, and where to make it well would take more
# than this share of the time.
_SHORT, _OF_WELL = 1500, 0.3
# Code of more lines for a single point comes from memory, and is slower than operations on arrays,
# unless these are in a loop, or a line takes so many additions, most in transcendental functions.
_MOST_LINES, _DEAR = 20_000, 2
# Code made quickly keeps vectors in memory, which takes as long as so many lines more.
_IN_MEMORY = 3
# Additions for each equation that a loop runs, above which it is XLA's for a single point.
_DEAREST = 600
# What an operation of a loop takes for a single point compared to one of JAX's modes, where there
# are more than so many for each equation that is run, so that the code is long. (Measured: 0.8 to
# 2 ns, and 0.25 to 0.6 ns in shorter code, compared to 0.1 ns.) And how many operations take longer
# than all that a mode takes beside them.
_OF_LONG, _LONG_BODY, _WORTH_A_LOOK = 15, 250, 300_000
# The share of these seconds that one order of elimination may take.
_OF_AN_ORDER = 0.3
# Of programs that consist to so large a part of products by matrices that are the same for all
# points, longer code is slower than the library, which makes one product of many; and the least
# lines that the derivative of such an operation takes.
_MOSTLY_PRODUCTS, _LONG, _LINES = 0.5, 5_000, 5
# Bytes that leave the caches, and the additions for each byte of a point below which writing takes
# the time. (Measured for 64 results of 16,384 points: 135 ns a point, 114 where XLA writes them.)
_LARGE, _PER_BYTE = 1 << 20, 0.8
_TYPES = (np.dtype(np.float32), np.dtype(np.float64))


@dataclass(frozen=True)
class Kernel:
    """A foreign function that computes a Jacobian.

    Attributes:
        name: the name that XLA knows it by.
        order: the order of elimination.
        cost: what a point takes, in additions.
        gathered: the bytes that a point writes to many arrays, a few to each.
    """

    name: str
    order: str
    cost: int
    gathered: int

    def mostly_writes(self, points: int) -> bool:
        """Whether to write to many arrays takes the time, which XLA does one by one, for points."""
        return self.gathered * points > _LARGE and self.cost < _PER_BYTE * self.gathered


@dataclass(frozen=True)
class Function:
    """A function whose Jacobian is wanted.

    Attributes:
        program: the function.
        num_values: how many outputs, from the first on, are differentiated.
        inputs: the inputs that are differentiated, by position.
        constants: what is known of the program's constants: arrays, in which NaN is not known.
        value: whether the values are among the results.
        orders: of elimination, of which the cheapest is taken.
        places: of each block the entries that are wanted, by place in the flattened block; by
            default all of all.
    """

    program: Program
    num_values: int
    inputs: Sequence[int]
    constants: Sequence[Any]
    value: bool
    orders: Sequence[Order] = ORDERS
    places: Sequence[np.ndarray] | None = None


@dataclass(frozen=True)
class Signature:
    """How a Jacobian is called.

    Attributes:
        arguments: the values of constants and inputs that are no operands, else None.
        mapped: for each operand whether it has leading axes of points.
        levels: how many these are.
        kept: which results are wanted, of the outputs (without values: the auxiliary ones only)
            and then the blocks by output and input.
    """

    arguments: Sequence[Any]
    mapped: Sequence[bool]
    levels: int
    kept: Sequence[int]


def kernel_of(function: Function, signature: Signature, *, limited: bool = True) -> Kernel | str:
    """The kernel of a function's Jacobian, or why there is none.

    Args:
        function: the function.
        signature: how it is called.
        limited: whether there is none where XLA is expected to do as well, or to compile sooner.
    """
    host = machine()
    if host.obstacle:
        return host.obstacle
    name = decisions.name_of(
        function.program,
        *(function.num_values, function.inputs, function.constants, function.value),
        *(function.orders, function.places, signature.arguments, signature.mapped),
        *(signature.levels, signature.kept, limited, host.bytes),
    )
    try:
        known = None if name is None else decisions.recalled(name)
        if isinstance(known, str):
            return known
        if known is not None and compiling.registered_again(known["name"]):
            return Kernel(**known)
        text = written(function, signature, limited=limited)
        if isinstance(text, str):
            found: Kernel | str = text
        else:
            target = compiling.registered(text.text, quickly=text.quickly)
            found = Kernel(target, text.order, text.cost, text.gathered)
    except Unsupported as error:
        return str(error)
    if name is not None:
        decisions.keep(name, found if isinstance(found, str) else dataclasses.asdict(found))
    return found


class Text(NamedTuple):
    """The code of a kernel.

    Attributes:
        text: the module.
        quickly: whether time to compile counts for more than time to run.
        order: see `Kernel`.
        cost: see `Kernel`.
        gathered: see there.
    """

    text: str
    quickly: bool
    order: str
    cost: int
    gathered: int


def written(function: Function, signature: Signature, *, limited: bool = True) -> Text | str:
    """The code of a kernel, or why there is none (see `kernel_of`)."""
    host = machine()
    whole, levels = function, signature.levels
    function = _fused(whole)
    program = function.program
    try:
        dtype = _check(function)
        lanes = host.lanes(dtype) if levels else 1
        if not lanes:
            return "the machine has no vectors of functions"
        if levels and _size_of_results(function) > _MOST_OF_MANY:
            return "it has too many results for many points"
        seconds = _seconds(whole.program) if limited else _ASKED_FOR
        graph = _graph(function, signature, seconds)
        work, products = check(program, graph.most)
        most = _LONG if limited and products > _MOSTLY_PRODUCTS * work else None
        if most is not None and work * _LINES > most:
            return f"{work} operations are slower than matrix products"
        values, operands, outputs = _lifted(graph, function, signature)
        is_limited = limited and lanes == 1
        # A number takes two lines, with its derivatives.
        if is_limited and (reason := _better_on_arrays(program, graph, outputs, 2, seconds)):
            return reason
        results, order = _results(_edges(graph, values, outputs, function), outputs, function)
        wanted = [results[k] for k in signature.kept]
        if is_limited and (reason := _better_on_arrays(program, graph, wanted, 1, seconds)):
            return reason
        simple, nodes = expanded(graph, [node for row in wanted for node in row])
        if (missing := _missing(simple, nodes, lanes, host)) is not None:
            return f"the library has no {missing}"
        rest = iter(nodes)
        rows = [[next(rest) for _ in row] for row in wanted]
        price, minor = cost(simple, nodes), compiling.minor_version()
        text = kernel_text(simple, operands, rows, lanes, host.library, minor, price)
        lines = text.count("\n")
        seconds -= graph.size * _NODE
        if most is not None and lines > most:
            return f"{lines} lines of code are slower than matrix products"
        if lines * (_SINGLE if lanes == 1 else _QUICKLY) > seconds:
            return f"{lines} lines of code take too long to compile"
        is_straight = lanes == 1 and "loop" not in simple.ops
        quickly = _is_made_quickly(lines, seconds) if is_straight else lines * _WELL > seconds
        is_loop = is_limited and not is_straight
        if is_loop and (reason := _better_by_modes(whole, price)):
            return reason
        return Text(text, quickly, order, price, _gathered(rows, lanes, dtype))
    except (Unsupported, TooLarge) as error:
        return str(error)


def _gathered(rows: Sequence[Sequence[int]], lanes: int, dtype: np.dtype) -> int:
    sizes = list(map(len, rows))
    if lanes == 1:
        return 0
    return dtype.itemsize * sum(sizes[k] for k in gathered(sizes, lanes * dtype.itemsize))


def obstacle_to(function: Function) -> str:
    """Why there is no kernel, as far as can be seen at once; "" where there may be one."""
    if host_obstacle := machine().obstacle:
        return host_obstacle
    try:
        function = _fused(function)
        _check(function)
        check(function.program, int(_OF_AN_ORDER * _seconds(function.program) / _NODE))
    except Unsupported as reason:
        return str(reason)
    return ""


def edges_of(function: Function, signature: Signature) -> Edges | str:
    """The graph of scalars of a function's Jacobian, to be searched, or why there is none."""
    try:
        function = _fused(function)
        _check(function)
        graph = _graph(function, signature, _ASKED_FOR)
        check(function.program, graph.most)
        values, _, outputs = _lifted(graph, function, signature)
        return _edges(graph, values, outputs, function)
    except (Unsupported, TooLarge) as reason:
        return str(reason)


def _fused(function: Function) -> Function:
    """The function whose scans take in what is computed of all steps at once."""
    return dataclasses.replace(function, program=fused(function.program))


def _graph(function: Function, signature: Signature, seconds: float) -> Scalars:
    """A graph of as many nodes as may be made in so many seconds."""
    dtype = function.program.avals[function.inputs[0]].dtype
    graph = Scalars(dtype, int(_OF_AN_ORDER * seconds / _NODE))
    graph.together = 1 if signature.levels else max(1, machine().lanes(dtype))
    outputs = function.program.outputs[: function.num_values]
    graph.num_outputs = sum(jax_internals.size(function.program.aval(x)) for x in outputs)
    return graph


def _lifted(
    graph: Scalars, function: Function, signature: Signature
) -> tuple[list[Any], list[Operand], list[list[int]]]:
    """For each input and constant its nodes or its value; the arrays that are read; the outputs."""
    program = function.program
    values, operands = _operands(graph, function, signature)
    with graph.of_values():
        found = lift(graph, program, values, program.outputs)
    return values, operands, [list(map(int, lifted(graph, x).flat)) for x in found]


def _check(function: Function) -> np.dtype:
    """The type of all numbers.

    Raises:
        Unsupported: where there are several, or the program is seen to be no kernel's.
    """
    program, inputs = function.program, function.inputs
    dtypes = {program.avals[k].dtype for k in inputs}
    dtypes |= {program.aval(atom).dtype for atom in program.outputs}
    if len(dtypes) != 1 or not dtypes.issubset(_TYPES):
        raise Unsupported(f"its numbers are of type {', '.join(sorted(map(str, dtypes)))}")
    if len(inputs) != program.num_inputs:
        raise Unsupported("it has inputs without derivatives")
    if _size_of_results(function) > _MOST_RESULTS:
        raise Unsupported("it has too many results")
    sizes = [jax_internals.size(program.avals[k]) for k in _held(program)]
    if max(sizes, default=0) > MOST_NODES:
        raise Unsupported("it computes too many numbers")
    if any(equation.regions for equation in program.equations):
        raise Unsupported("it has checkpoint regions")
    return dtypes.pop()


def _held(program: Program) -> set[int]:
    """The variables that are not known beforehand, and more than what the steps of loops read."""
    _, active = passes.dependent(program.equations, range(program.first_computed))
    held = active.difference(range(program.first_computed))
    held.update(atom for atom in program.outputs if not isinstance(atom, Literal))
    for equation in program.equations:
        first = sum(jax_internals.scan_counts(equation)) if equation.name == "scan" else None
        held.update(x for x in equation.inputs[:first] if not isinstance(x, Literal))
    return held & active


def _size_of_results(function: Function) -> int:
    program = function.program
    sizes = [jax_internals.size(program.aval(atom)) for atom in program.outputs]
    if function.places is not None:
        return sum(sizes) + sum(map(len, function.places))
    columns = sum(jax_internals.size(program.avals[k]) for k in function.inputs)
    return sum(sizes) + sum(sizes[: function.num_values]) * columns


def _operands(
    graph: Scalars, function: Function, signature: Signature
) -> tuple[list[Any], list[Operand]]:
    """For each input and constant its nodes or its value; and the arrays that are read."""
    program = function.program
    first = program.num_inputs
    # The arguments of a Jacobian's program are its constants, and then its inputs.
    places = [*range(first, program.first_computed), *range(first)]
    values: list[Any] = [None] * program.first_computed
    operands: list[Operand] = []
    for place, argument, known in zip(
        places, signature.arguments, [*function.constants, *[None] * first], strict=True
    ):
        aval = program.avals[place]
        if argument is not None:
            values[place] = np.asarray(argument, aval.dtype)
            continue
        size, number = jax_internals.size(aval), len(operands)
        operands.append(Operand(size, signature.levels if signature.mapped[number] else 0))
        if aval.dtype != graph.dtype:
            raise Unsupported(f"it reads numbers of type {aval.dtype}")
        is_shared = signature.levels == 0 or not signature.mapped[number]
        if known is None and is_shared and place not in function.inputs:
            values[place] = Given(graph, number, aval.shape)
            continue
        nodes = [graph.input((number, k)) for k in range(size)]
        if place in function.inputs:
            graph.varied.update(nodes)
        if known is not None:
            pairs = zip(nodes, np.ravel(known), strict=True)
            nodes = [node if np.isnan(x) else graph.number(x) for node, x in pairs]
        values[place] = Nodes(np.array(nodes, np.int64).reshape(aval.shape))
    return values, operands


def _edges(
    graph: Scalars, values: Sequence[Any], outputs: Sequence[list[int]], function: Function
) -> Edges:
    """The graph between the inputs and the outputs that are differentiated."""
    wanted = [graph.twin(node) for row in outputs[: function.num_values] for node in row]
    inputs: list[int] = []
    for k in function.inputs:
        nodes = values[k]
        if not isinstance(nodes, Nodes):
            raise Unsupported("an input is no operand")
        inputs += map(int, nodes.nodes.flat)
    return edges_between(graph, inputs, wanted)


def _results(
    edges: Edges, outputs: Sequence[list[int]], function: Function
) -> tuple[list[list[int]], str]:
    """The nodes of all outputs that may be wanted, and of all blocks; and the order."""
    rows, order = edges.cheapest(function.orders)
    num_values, avals = function.num_values, function.program.avals
    sizes = [jax_internals.size(avals[k]) for k in function.inputs]
    blocks: list[list[int]] = []
    rest = iter(rows)
    for output in outputs[:num_values]:
        own = [next(rest) for _ in output]
        begin = 0
        for size in sizes:
            block = [node for row in own for node in row[begin : begin + size]]
            if function.places is not None:
                block = [block[place] for place in function.places[len(blocks)]]
            blocks.append(block)
            begin += size
    return [*(outputs if function.value else outputs[num_values:]), *blocks], order


def _seconds(program: Program) -> float:
    """How long a kernel may take to make."""
    count = len(program.equations)
    count += sum(len(tracing.inner_equations(equation)) for equation in program.equations)
    by_xla = _BY_XLA * count**_POWER
    return min(_AT_MOST, max(_IN_ANY_CASE, _LONGER * by_xla))


def _better_on_arrays(
    program: Program, graph: Scalars, rows: Sequence[Sequence[int]], often: int, seconds: float
) -> str:
    """Why XLA's operations on arrays are faster than code for a single point; "" if they are not.

    Args:
        program: the function.
        graph: the graph.
        rows: the nodes of arrays that are computed.
        often: how many lines of code there are for each node.
        seconds: how long the kernel may take to make.
    """
    nodes = [node for row in rows for node in row]
    price = cost(graph, nodes)
    if "loop" in graph.ops:
        is_slower = price > _DEAREST * _steps(program.equations)
        return f"{price} operations are slower than those on arrays" if is_slower else ""
    needed = graph.needed(nodes)
    lines = often * len(needed)
    if _is_made_quickly(lines, seconds):
        lines += _IN_MEMORY * len(vectors_of(graph, needed))
    is_loop = "scan" in tracing.primitive_names(program.equations)
    if lines <= _MOST_LINES or is_loop or price >= _DEAR * lines:
        return ""
    return f"{lines} lines of code, {price} operations are slower than those on arrays"


def _better_by_modes(function: Function, price: int) -> str:
    """Why a mode of JAX is faster than a loop of so many operations at a single point; or ""."""
    program = function.program
    outputs = program.outputs[: function.num_values]
    setting = loops.setting_of(program, outputs, function.inputs)
    is_long = price > max(_WORTH_A_LOOK, _LONG_BODY * _steps(program.equations))
    if setting is None or not is_long:
        return ""
    costs = loops.mode_costs(program, setting, 1, elementwise=loops.ELEMENTWISE)
    if not costs or price * _OF_LONG <= min(costs[0].values()):
        return ""
    return f"{price} operations are slower than JAX's modes"


def _is_made_quickly(lines: int, seconds: float) -> bool:
    """Whether it is not worth the time, of a single point, to make so much code well."""
    return lines < _SHORT or lines * _WELL > _OF_WELL * seconds


def _steps(equations: Iterable[Equation]) -> int:
    """How many equations are run, those of a loop at each step."""
    total = 0
    for equation in equations:
        often = {"scan": equation.params.get("length"), "while": USUAL}.get(equation.name)
        total += often * _steps(tracing.inner_equations(equation)) if often else 1
    return total


def _missing(graph: Scalars, nodes: Sequence[int], lanes: int, host: Machine) -> str | None:
    """A function that some nodes need, and the library does not have."""
    for node in graph.needed(nodes):
        op = graph.ops[node]
        if op == "loop":
            loop = graph.params[node]
            if (missing := _missing(loop.body, loop.outputs, lanes, host)) is not None:
                return missing
        elif op not in INSTRUCTIONS and not graph.is_given(node):
            count = len(graph.args[node])
            name = function_name(op, count, graph.dtype, lanes, host.library)
            if not has_function(name):
                return name
    return None
