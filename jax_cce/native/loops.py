"""Loops whose body stays a graph of its own, written once and run step by step.

In the graph around it a loop is one node, whose operands are what it starts from, what enters every
step, and what each step reads; its results are what is carried out of it and what the steps stack.
`extending` differentiates loops.
"""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from jax_cce import jax_internals
from jax_cce.native.beforehand import known_steps
from jax_cce.native.nodes import (
    LARGEST,
    Given,
    Nodes,
    Steps,
    Unsupported,
    lifted,
    most_of,
)
from jax_cce.native.scalars import Scalars
from jax_cce.program import tracing
from jax_cce.program.flat import Equation

__all__ = ["MOST_CARRIED", "USUAL", "Loop", "Place", "most_stacked", "pruned", "repeated", "rolled"]

# Entries that a loop may stack, and read at its steps, where each is a vector of points.
_MOST_STACKED = 1 << 13
# The numbers in vectors of tangents that a loop of a single point may carry. More are slower than
# arrays of them.
MOST_CARRIED = 2_000
# How many steps a loop is taken to have where that is not known; and what counters do.
USUAL, _COUNTS = 16, ("add", "sub")
# Which input of a body something is; and which result of a loop: the last value of a carry, or what
# a step stacks.
Place = tuple[Any, ...]
# Adds a program to a graph (`lifting.lift`), and evaluates an equation of numbers.
_Lift = Callable[..., list[Any]]
_Evaluate = Callable[[Equation, Sequence[Any]], list[Any]]


def most_stacked(graph: Scalars) -> int:
    """Entries that a loop may stack, and read at its steps: of a single point each is a number."""
    return _MOST_STACKED * graph.together


@dataclass(frozen=True, eq=False)
class Loop:
    """A loop, without its operands.

    These are, in the graph around it, the first value of each carry, what enters, and then of each
    row the entries for all steps, or the column that they are.

    Attributes:
        body: the graph of a step; its inputs are ("carry", k), ("entering", k) and ("row", k).
        length: the number of steps; where that is not known, how many are taken to be usual.
        reverse: whether the last entry of rows and results belongs to the first step.
        carries: the node of the next value of each carry.
        results: the nodes that each step stacks.
        entering: how many numbers enter.
        rows: for each number that a step reads how many operands that is.
        active: the node of whether a step did anything; after one that did not, for all lanes, the
            loop ends. None where it ends after its steps.
        width: of what is wide.
        wide: the inputs of the body, and ("stacked", k) of its results, that are so many numbers
            each, one for each direction.
    """

    body: Scalars
    length: int
    reverse: bool
    carries: Sequence[int]
    results: Sequence[int]
    entering: int
    rows: Sequence[int]
    active: int | None = None
    width: int = 0
    wide: frozenset[Place] = frozenset()

    @property
    def outputs(self) -> list[int]:
        """All nodes of a step that are wanted."""
        active = () if self.active is None else (self.active,)
        return [*self.carries, *self.results, *active]

    def split(self, args: Sequence[int]) -> tuple[Sequence[int], Sequence[int], list[Any]]:
        """The operands: first values, what enters, and the entries of each row."""
        first = len(self.carries) + self.entering
        ends = itertools.accumulate(self.rows, initial=first)
        rows = [args[start:end] for start, end in itertools.pairwise(ends)]
        return args[: len(self.carries)], args[len(self.carries) : first], rows

    def operands(self, args: Sequence[int]) -> dict[str, list[Sequence[int]]]:
        """The operands by the kind of input that they are, each with its nodes for the steps."""
        initial, entering, rows = self.split(args)
        return {"carry": [[x] for x in initial], "entering": [[x] for x in entering], "row": rows}


class _Body:
    """A body under construction: what enters it, and which of its inputs that is.

    Args:
        graph: the graph around the loop.
        length: the number of steps.
    """

    def __init__(self, graph: Scalars, length: int) -> None:
        self._graph, self._length = graph, length
        self.graph = graph.inner()
        self.graph.steps = self
        self.rows: list[list[int]] = []
        self._slots: dict[int, int] = {}
        self._read: dict[tuple[int, ...], int] = {}

    @property
    def entering(self) -> list[int]:
        """The nodes that enter."""
        return list(self._slots)

    def entered(self, node: int) -> int:
        """What is the same in all steps."""
        graph, body = self._graph, self.graph
        if graph.ops[node] == "number":
            return body.number(graph.values[node])
        if node not in self._slots:
            self._slots[node] = body.input(("entering", len(self._slots)))
        return self._slots[node]

    def entered_array(self, x: Nodes, aval: Any) -> Nodes:
        """An array that is the same in all steps."""
        nodes = _as_numbers(self._graph, x, aval.dtype == bool)
        entries = list(map(self.entered, map(int, nodes.flat)))
        return _as_before(self.graph, entries, aval.dtype == bool, aval.shape, x.most)

    def read(self, nodes: Sequence[int]) -> int:
        """What is another one in each step."""
        if len(set(nodes)) == 1:
            return self.entered(nodes[0])
        key = tuple(nodes)
        if key in self._read:
            return self._read[key]
        self.rows.append(list(nodes))
        if sum(len(row) for row in self.rows if len(row) > 1) > most_stacked(self._graph):
            raise Unsupported("a loop reads too many numbers")
        self._read[key] = self.graph.input(("row", len(self.rows) - 1))
        return self._read[key]

    def read_entry(self, column: int) -> int:
        """What is another one in each step, and lies in memory: a node for all of them."""
        if (column,) not in self._read:
            self.rows.append([column])
            self._read[column,] = self.graph.input(("row", len(self.rows) - 1))
        return self._read[column,]

    def read_numbers(self, values: np.ndarray) -> int:
        """A number for each step."""
        first = values[0]
        if (values == first).all() and (np.signbit(values) == np.signbit(first)).all():
            return self.graph.number(first)
        return self.read_entry(self._graph.table(values))

    def known(self, steps: Steps) -> Nodes:
        """What is known for each step, as what is read."""
        values = steps.values
        if values.dtype.kind not in "bfiu":
            raise Unsupported(f"a loop reads constants of type {values.dtype}")
        is_truth = values.dtype == bool
        columns = values.reshape(self._length, -1).T.astype(self._graph.dtype)
        entries = list(map(self.read_numbers, columns))
        most = most_of(values) if values.dtype.kind in "iu" else None
        if most is not None and most > LARGEST:
            raise Unsupported("a loop has large integers")
        return _as_before(self.graph, entries, is_truth, values.shape[1:], most)

    def at(self, nodes: Sequence[np.ndarray]) -> np.ndarray:
        """For nodes of the body at each step, which are the same in all, those of the step.

        Raises:
            Unsupported: where they are not.
        """
        owners = {slot: node for node, slot in self._slots.items()}
        body, outside = self.graph, list[list[int]]()
        for entries in zip(*(each.flat for each in nodes), strict=True):
            row = []
            for node in map(int, entries):
                value = body.values[node]
                if value is None and node not in owners:
                    raise Unsupported("a loop reads what it computes, at places that vary")
                row.append(owners[node] if value is None else self._graph.number(value))
            outside.append(row)
        made = [self.read(row) for row in outside]
        return np.array(made, np.int64).reshape(nodes[0].shape)


def _as_numbers(graph: Scalars, x: Any, is_truth: bool) -> np.ndarray:
    """The nodes of an array, of truth values as 0 or 1."""
    nodes = lifted(graph, x)
    if not is_truth:
        return nodes
    made = [graph.make("select_n", int(node), graph.zero, graph.one) for node in nodes.flat]
    return np.array(made, np.int64).reshape(nodes.shape)


def _as_before(
    graph: Scalars, nodes: Sequence[int], is_truth: bool, shape: Sequence[int], most: int | None
) -> Nodes:
    """The array whose numbers these nodes are."""
    if is_truth:
        nodes = [graph.make("ne", node, graph.zero) for node in nodes]
    return Nodes(np.array(nodes, np.int64).reshape(shape), most)


def rolled(
    graph: Scalars, equation: Equation, operands: Sequence[Any], lift: _Lift, evaluate: _Evaluate
) -> list[Any]:
    """The results of a scan that stays a loop.

    Args:
        graph: the graph.
        equation: the scan.
        operands: for each its nodes, or its value.
        lift: adds the body to a graph.
        evaluate: evaluates an equation of numbers.

    Raises:
        Unsupported: where it carries integers that are not known beforehand, or too much.
    """
    program, constants = tracing.flatten_closed(equation.params["jaxpr"])
    num_consts, num_carry = jax_internals.scan_counts(equation)
    length, reverse = equation.params["length"], equation.params["reverse"]
    carried = sum(map(jax_internals.size, equation.in_avals[num_consts:][:num_carry]))
    # Tangents, or adjoints; of many states XLA's arrays are faster whatever they are of.
    directions = min(len(graph.varied), max(graph.num_outputs, carried))
    if graph.together > 1 and carried * directions > 2 * MOST_CARRIED:
        raise Unsupported("a loop carries too much")
    steps = _Body(graph, length)
    body = steps.graph
    entering = [*operands, *constants]
    of_carry = range(num_consts, num_consts + num_carry)
    of_row = range(of_carry.stop, len(operands))
    known, last = known_steps(
        program, entering, of_carry, of_row, length, reverse=reverse, evaluate=evaluate
    )
    inputs, initial = [], list[int]()
    for k, (x, aval) in enumerate(zip(entering, program.avals, strict=False)):
        if k in known or not (isinstance(x, Nodes) or k in of_carry):
            # Known for each step, or the same in all.
            is_read = k in of_row and k not in known
            inputs.append(steps.known(Steps(np.asarray(x))) if is_read else known.get(k, x))
            continue
        if k in of_row and isinstance(x, Given):
            entries = [steps.read_entry(graph.input(column)) for column in x.columns]
            inputs.append(_as_before(body, entries, False, aval.shape, None))
            continue
        if k not in of_carry and k not in of_row:
            inputs.append(steps.entered_array(x, aval))
            continue
        nodes = _as_numbers(graph, x, aval.dtype == bool)
        most = x.most if isinstance(x, Nodes) else None
        if k in of_row:
            columns = nodes.reshape(length, -1).T
            entries = [steps.read(list(map(int, column))) for column in columns]
        elif aval.dtype.kind in "iu":
            raise Unsupported("a loop carries integers")
        else:
            first = len(initial)
            initial += map(int, nodes.flat)
            entries = [body.input(("carry", at)) for at in range(first, len(initial))]
        inputs.append(_as_before(body, entries, aval.dtype == bool, aval.shape, most))
    found = lift(body, program, inputs, program.outputs, None, known)
    # For each result whether it is carried, and where its entries begin.
    results, places = list[Any](), dict[int, int]()
    carries, stacked = list[int](), list[int]()
    for k, (x, aval) in enumerate(zip(found, equation.out_avals, strict=True)):
        if num_consts + k in last:
            x = last[num_consts + k]
        elif k >= num_carry and not isinstance(x, Nodes):
            x = x.values if isinstance(x, Steps) else np.stack([x] * length)
        else:
            x = steps.known(x) if isinstance(x, Steps) else x
            every = carries if k < num_carry else stacked
            places[k] = len(every)
            every += map(int, _as_numbers(body, x, aval.dtype == bool).flat)
        results.append(x)
    if len(stacked) * length > most_stacked(graph):
        raise Unsupported("a loop stacks too many numbers")
    rows = [node for row in steps.rows for node in row]
    loop = Loop(
        *(body, length, reverse, carries, stacked),
        entering=len(steps.entering),
        rows=list(map(len, steps.rows)),
    )
    node = graph.loop(loop, [*initial, *steps.entering, *rows])
    for k, first in places.items():
        aval, x = equation.out_avals[k], results[k]
        size = jax_internals.size(aval)
        if k < num_carry:
            each: list[Place] = [("carry", first + e) for e in range(size)]
        else:
            own = range(first, first + size // length)
            each = [("stacked", e, t) for t in range(length) for e in own]
        most = x.most if isinstance(x, Nodes) else None
        made = [graph.result(node, place) for place in each]
        results[k] = _as_before(graph, made, aval.dtype == bool, aval.shape, most)
    return results


def repeated(graph: Scalars, equation: Equation, operands: Sequence[Any], lift: _Lift) -> list[Any]:
    """The results of a while loop: each lane keeps its state from where its condition fails.

    Args:
        graph: the graph.
        equation: the while loop.
        operands: for each its nodes, or its value.
        lift: adds a program to a graph.

    Raises:
        Unsupported: where it carries integers other than counters, or counts in float32, and where
            `jax.vmap` has made one loop of those of several points.
    """
    condition, of_condition = tracing.flatten_closed(equation.params["cond_jaxpr"])
    if condition.aval(condition.outputs[0]).shape:
        raise Unsupported("a loop ends at other steps for other points")
    program, constants = tracing.flatten_closed(equation.params["body_jaxpr"])
    first, second = (equation.params[f"{name}_nconsts"] for name in ("cond", "body"))
    steps = _Body(graph, USUAL)
    body, avals = steps.graph, equation.in_avals
    fixed = [
        steps.entered_array(x, aval) if isinstance(x, Nodes) else x
        for x, aval in zip(operands[: first + second], avals, strict=False)
    ]
    initial, state, counters = list[int](), [], set[int]()
    for x, aval in zip(operands[first + second :], avals[first + second :], strict=True):
        start, most = len(initial), None
        initial += map(int, _as_numbers(graph, x, aval.dtype == bool).flat)
        places = range(start, len(initial))
        if aval.dtype.kind in "iu":
            if isinstance(x, Nodes) or most_of(x) > LARGEST // 2 or graph.dtype.itemsize < 8:
                raise Unsupported("a loop carries integers")
            counters.update(places)
            most = LARGEST - 2
        slots = [body.input(("carry", k)) for k in places]
        state.append(_as_before(body, slots, aval.dtype == bool, aval.shape, most))
    held = lift(body, condition, [*fixed[:first], *state, *of_condition], condition.outputs)
    active = int(lifted(body, held[0]))
    found = lift(body, program, [*fixed[first:], *state, *constants], program.outputs)
    new = [
        int(node)
        for x, aval in zip(found, equation.out_avals, strict=True)
        for node in _as_numbers(body, x, aval.dtype == bool).flat
    ]
    carries = []
    for k, node in enumerate(new):
        slot = body.input(("carry", k))
        if k in counters and node not in (slot, *(body.make(op, slot, body.one) for op in _COUNTS)):
            raise Unsupported("a loop carries integers")
        carries.append(body.make("select_n", active, slot, node))
    entering = steps.entering
    loop = Loop(body, USUAL, False, carries, [], entering=len(entering), rows=(), active=active)
    node = graph.loop(loop, [*initial, *entering])
    results, at = [], 0
    for x, aval in zip(state, equation.out_avals, strict=True):
        made = [graph.result(node, ("carry", k)) for k in range(at, at + x.nodes.size)]
        at += x.nodes.size
        results.append(_as_before(graph, made, aval.dtype == bool, aval.shape, x.most))
    return results


def pruned(loop: Loop, wanted: set[Place]) -> tuple[Loop, list[int], dict[Place, Place]]:
    """A loop without what nobody wants.

    Args:
        loop: the loop; its body stays as it is, but for the numbers of its inputs.
        wanted: the results that are wanted.

    Returns:
        The loop, the places of the operands that it keeps, and what the new places of its results
        and of the inputs of its body are.
    """
    body = loop.body
    live = {k for kind, k, *_ in wanted if kind == "carry"}
    kept = sorted({k for kind, k, *_ in wanted if kind == "stacked"})
    ends = [] if loop.active is None else [loop.active]
    while True:
        roots = [*(loop.carries[k] for k in sorted(live)), *(loop.results[k] for k in kept), *ends]
        reads = {body.args[x][0] for x in body.needed(roots) if body.ops[x] == "input"}
        more = {k for kind, k in reads if kind == "carry"} - live
        if not more:
            break
        live |= more
    carries = sorted(live)
    entering = sorted(k for kind, k in reads if kind == "entering")
    rows = sorted(k for kind, k in reads if kind == "row")
    first = len(loop.carries)
    args = [*carries, *(first + k for k in entering)]
    begins = list(itertools.accumulate(loop.rows, initial=first + loop.entering))
    args += [begins[k] + t for k in rows for t in range(loop.rows[k])]
    new: dict[Place, Place] = {}
    for kind, old in (("carry", carries), ("entering", entering), ("row", rows)):
        new |= {(kind, k): (kind, at) for at, k in enumerate(old)}
    new |= {
        ("stacked", k, t): ("stacked", at, t)
        for at, k in enumerate(kept)
        for t in range(loop.length)
    }
    places = {**new, **{("stacked", k): ("stacked", at) for at, k in enumerate(kept)}}
    smaller = replace(
        loop,
        carries=[loop.carries[k] for k in carries],
        results=[loop.results[k] for k in kept],
        entering=len(entering),
        rows=[loop.rows[k] for k in rows],
        wide=frozenset(places[place] for place in loop.wide if place in places),
    )
    return smaller, args, new
