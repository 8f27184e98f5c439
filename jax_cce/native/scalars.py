"""Scalar graphs: every number that a small program computes is a node, and equal ones are one.

A node is an operation, named like JAX's primitive, on earlier nodes. Making a node folds what is
known (numbers alone, factors 0 and 1, terms 0, signs, which move outwards) and finds it again if it
was made before. A structural zero stays zero where JAX would multiply it by an infinity.
"""

import contextlib
import functools
import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from jax_cce.program import in_numpy

__all__ = ["COMPARISONS", "DERIVED", "INSTRUCTIONS", "LOGIC", "SIMPLE", "Scalars", "TooLarge"]


class TooLarge(Exception):
    """A graph would have more nodes than it may have."""


COMPARISONS = frozenset(("eq", "ge", "gt", "le", "le_to", "lt", "lt_to", "ne"))
LOGIC = frozenset(("and", "is_finite", "not", "or", "truth", "xor")) | COMPARISONS
# Operations of one instruction or a few.
SIMPLE = frozenset(("abs", "add", "ceil", "floor", "max", "min", "mul", "neg", "select_n")) | {
    *LOGIC,
    *("round", "sign", "stop_gradient", "sub"),
}
# What is no call of a function of the library.
INSTRUCTIONS = SIMPLE | {"div", "keep", "lane", "loop", "pack", "rem", "result", "sqrt"}
# What is not computed.
_GIVEN = frozenset(("input", "number", "table", "truth"))
# What is differentiated otherwise than it is computed.
DERIVED = frozenset(("ruled", "seed"))
# Operations whose results are finite, for operands that are, and not large.
_TAME = {
    *("abs", "add", "atan", "atan2", "ceil", "clamp", "cos", "erf", "floor", "logistic", "max"),
    *("min", "mul", "neg", "reduce_max", "reduce_min", "round", "ruled", "select_n", "sign", "sin"),
    *("square", "stop_gradient", "sub", "tanh"),
    *LOGIC,
}
_SYMMETRIC = frozenset(("add", "and", "eq", "max", "min", "mul", "ne", "or", "xor"))

_FOLDED: dict[str, Callable[..., Any]] = {
    **{
        name: in_numpy.ELEMENTWISE[name]
        for names in ("abs add cos exp log max min mul neg sin sqrt sub", "eq ge gt le lt ne")
        for name in names.split()
    },
    "div": np.divide,
    "le_to": lambda x, y: _in_total_order(x) <= _in_total_order(y),
    "lt_to": lambda x, y: _in_total_order(x) < _in_total_order(y),
    "pow": np.power,
    "rem": np.fmod,
}


def _in_total_order(x: Any) -> int:
    """An integer that is greater the later a number comes in the total order of IEEE 754."""
    number = np.asarray(x)
    bits = int(number.view(f"i{number.itemsize}"))
    return bits if bits >= 0 else bits ^ int(np.iinfo(f"i{number.itemsize}").max)


class Scalars:
    """A graph under construction.

    Args:
        dtype: the type of all its numbers, float32 or float64.
        most: how many nodes it may have.

    Attributes:
        dtype: see above.
        most: see above.
        exact: whether values are made, whose zeros and signs are JAX's; not derivatives, where a
            structural zero is zero whatever it is multiplied by.
        ops: the operation of each node: a primitive's name, "input", "number", "table" or "truth".
        args: its operands; of an input its place, of what is known that itself.
        params: its static parameter, such as an exponent; None for most.
        values: the number or truth value that it is; None where it is not known.
        choices: of integers, once asked for, what they may be (see `integers.possible`).
        varied: the inputs that are differentiated.
        num_outputs: how many outputs are.
        together: of how many directions the tangents of loops may be vectors; 1 for none.
        packed: of how many they are, in the body of a loop; 0 where they are numbers.
        steps: of the body of a loop what it reads (see `loops`); None of other graphs.
        kept: the nodes that are not made simpler.
        instead: for loops that have been differentiated those that carry the tangents, too.
    """

    def __init__(self, dtype: Any, most: int = 1 << 20) -> None:
        self.dtype, self.most, self.exact = np.dtype(dtype), most, False
        self.ops: list[str] = []
        self.args: list[tuple[Any, ...]] = []
        self.params: list[Any] = []
        self.values: list[Any] = []
        self.choices: dict[int, list[int] | None] = {}
        self.varied: set[int] = set()
        self.num_outputs = 0
        self.together, self.packed = 1, 0
        self.steps: Any = None
        self.instead: dict[int, int] = {}
        self._inner: list[Scalars] = []
        self._made: dict[Any, int] = {}
        self._tame: list[bool] = []
        self.kept: set[int] = set()
        self._twins: dict[int, int] = {}
        self.zero, self.one = self.number(0.0), self.number(1.0)

    def number(self, value: Any) -> int:
        """The node of a number."""
        number = self.dtype.type(value)
        # NaN equals nothing, and the two zeros are one.
        key = "number", "nan" if math.isnan(number) else float(number)
        return self._node(key, "number", (float(number),))

    def truth(self, value: Any) -> int:
        """The node of a truth value."""
        return self._node(("truth", bool(value)), "truth", (bool(value),))

    def table(self, values: Iterable[Any]) -> int:
        """The node of numbers that are known, one for each step of a loop that reads them."""
        every = tuple(map(float, values))
        # Two zeros are different numbers, and NaN is itself.
        return self._node(("table", np.array(every).tobytes()), "table", (every,))

    def input(self, place: Any) -> int:
        """The node of a number that is given."""
        return self._node(("input", place), "input", (place,))

    def ruled(self, value: int, tangent: int) -> int:
        """A node that equals another one, and is differentiated like a third, its tangent.

        The tangent is linear in seeds, which are differentiated like the nodes they stand for.
        """
        node = self._node(("ruled", value, tangent), "ruled", (value,), tangent)
        if self.exact and not self._twins.keys().isdisjoint((value, tangent)):
            value, tangent = self.twin(value), self.twin(tangent)
            self._twins[node] = self._node(("ruled", value, tangent), "ruled", (value,), tangent)
        return node

    def seed(self, node: int) -> int:
        """The tangent of a node, in a rule for what is made of it: a new one at each call."""
        return self._node(("seed", len(self.ops)), "seed", (self.twin(node),))

    def inner(self) -> "Scalars":
        """The graph of a loop's body, under construction."""
        graph = Scalars(self.dtype, self.most)
        graph.exact = self.exact
        self._inner.append(graph)
        return graph

    @property
    def loops(self) -> list[tuple["Scalars", dict[int, int]]]:
        """What is in place of which loops, here and in loops; may be set to what it was."""
        return [
            (self, dict(self.instead)),
            *(each for inner in self._inner for each in inner.loops),
        ]

    @loops.setter
    def loops(self, before: list[tuple["Scalars", dict[int, int]]]) -> None:
        for graph, instead in before:
            graph.instead = dict(instead)

    def adopt(self, graph: "Scalars") -> None:
        """Counts the nodes of a loop's body that was made elsewhere."""
        self._inner.append(graph)

    @property
    def size(self) -> int:
        """The number of nodes that have been made, here and in loops."""
        return len(self.ops) + sum(graph.size for graph in self._inner)

    def loop(self, loop: Any, args: Sequence[int]) -> int:
        """The node of a loop (see `loops.Loop`)."""
        return self._node(("loop", id(loop)), "loop", tuple(args), loop)

    def result(self, loop: int, place: tuple[Any, ...]) -> int:
        """The node of one result of a loop: ("carry", number) or ("stacked", number, step)."""
        return self._node(("result", loop, place), "result", (loop,), place)

    def differentiated(self, node: int) -> tuple[int, ...]:
        """The operands that a node has when it is differentiated."""
        return (self.params[node],) if self.ops[node] == "ruled" else self.args[node]

    def is_given(self, node: int) -> bool:
        """Whether a node is not computed."""
        return self.ops[node] in _GIVEN

    def make(self, op: str, *args: int, param: Any = None) -> int:
        """The node of an operation on nodes, or one that equals it.

        Of a value that keeps what its derivative does not, the simpler one that is differentiated
        becomes the twin.
        """
        if op in _SYMMETRIC and args[0] > args[1]:
            args = args[1], args[0]
        if not self.exact:
            return self._simplest(op, args, param)
        keeps = op in _KEEP and _KEEP[op](self, *args)
        node = self.raw(op, *args) if keeps else self._simplest(op, args, param)
        if op not in LOGIC and (keeps or not self._twins.keys().isdisjoint(args)):
            self.exact = False
            try:
                twin = self.make(op, *map(self.twin, args), param=param)
            finally:
                self.exact = True
            if twin != node:
                self._twins[node] = twin
        return node

    def _simplest(self, op: str, args: tuple[int, ...], param: Any) -> int:
        key = op, param, args
        node = self._made.get(key)
        if node is None:
            node = self._simpler(op, args, param)
            node = self._made[key] = self._new(op, args, param) if node is None else node
        return node

    # Of derivatives, which may differ from what is written in the last places; a value may not.

    def total(self, x: int, y: int) -> int:
        """A sum in a derivative, in which a common factor of two products is taken out."""
        ops, args, kept = self.ops, self.args, self.kept
        one, other = (args[node][0] if ops[node] == "neg" else node for node in (x, y))
        if ops[one] != "mul" or ops[other] != "mul" or one in kept or other in kept:
            return self.make("add", x, y)
        for common in args[one]:
            if common in args[other]:
                rest = [_without(args[node], common) for node in (one, other)]
                signed = (
                    self.make("neg", left) if ops[node] == "neg" else left
                    for node, left in zip((x, y), rest, strict=True)
                )
                return self.make("mul", common, self.make("add", *signed))
        return self.make("add", x, y)

    def quotient(self, x: int, y: int) -> int:
        """A quotient in a derivative, a product where the reciprocal has been made."""
        reciprocal = self._made.get(("div", None, (self.one, y)))
        if reciprocal is None or ("div", None, (x, y)) in self._made:
            return self.make("div", x, y)
        return self.make("mul", x, reciprocal)

    def twin(self, node: int) -> int:
        """What is differentiated in place of a value."""
        return self._twins.get(node, node)

    def is_tame(self, node: int) -> bool:
        """Whether a node is finite where the inputs are, and of usual size."""
        return self._tame[node]

    def sum(self, nodes: Iterable[int]) -> int:
        """The sum of nodes, in their order."""
        total = self.zero
        for node in nodes:
            total = self.make("add", total, node)
        return total

    @contextlib.contextmanager
    def for_a_while(self) -> Iterator[None]:
        """A block whose nodes are forgotten when it is left."""
        first, made = len(self.ops), len(self._made)
        try:
            yield
        finally:
            for attribute in (self.ops, self.args, self.params, self.values, self._tame):
                del attribute[first:]
            # The latest come first.
            while len(self._made) > made:
                self._made.popitem()

    def needed(self, nodes: Iterable[int], *, differentiated: bool = False) -> list[int]:
        """The nodes that some nodes need, themselves included, in the order of computation.

        Args:
            nodes: the nodes.
            differentiated: whether they are to be differentiated, not computed.
        """
        operands: Callable[[int], Iterable[int]] = self.args.__getitem__
        if differentiated:
            operands = self.differentiated
        elif self.instead:
            operands = self.operands
        pending, seen, ops = list(nodes), bytearray(len(self.ops)), self.ops
        while pending:
            node = pending.pop()
            if not seen[node]:
                seen[node] = True
                if ops[node] not in _GIVEN:
                    pending.extend(operands(node))
        return list(itertools.compress(range(len(seen)), seen))

    def depth_first(self, nodes: Iterable[int]) -> list[int]:
        """The nodes that some nodes need, these included, each just before what needs it first.

        So few of them wait at a time to be used, which a processor has few registers for.
        """
        done, order = bytearray(len(self.ops)), list[int]()
        for last in nodes:
            pending = [last]
            while pending:
                node = pending[-1]
                before = () if done[node] or self.ops[node] in _GIVEN else self.operands(node)
                missing = [arg for arg in before if not done[arg]]
                if missing:
                    pending += reversed(missing)
                    continue
                pending.pop()
                if not done[node]:
                    done[node] = True
                    order.append(node)
        return order

    def in_order_of_code(self, nodes: Sequence[int]) -> list[int]:
        """The same, what calls need first: at a call, no number stays in a register."""
        calls = [
            node
            for node in self.needed(nodes)
            if not self.is_given(node) and self.ops[node] not in INSTRUCTIONS
        ]
        return self.depth_first([*calls, *nodes])

    def operands(self, node: int) -> tuple[int, ...]:
        """The operands that a node has when it is computed."""
        args = self.args[node]
        if self.ops[node] == "result":
            return (self.instead.get(args[0], args[0]),)
        return args

    def raw(self, op: str, *args: int) -> int:
        """The node of an operation that is not made simpler."""
        node = self._node(("raw", op, args), op, args)
        self.kept.add(node)
        return node

    @contextlib.contextmanager
    def of_values(self) -> Iterator[None]:
        """A block that makes values, here and in loops (see `exact`)."""
        self.exact = True
        try:
            yield
        finally:
            self._settle()

    def _settle(self) -> None:
        self.exact = False
        for graph in self._inner:
            graph._settle()

    def _node(self, key: Any, op: str, args: tuple[Any, ...], param: Any = None) -> int:
        node = self._made.get(key)
        return self._made.setdefault(key, self._new(op, args, param)) if node is None else node

    def _new(self, op: str, args: tuple[Any, ...], param: Any) -> int:
        if len(self.ops) >= self.most:
            raise TooLarge(f"it takes more than {self.most} operations")
        self.ops.append(op)
        self.args.append(args)
        self.params.append(param)
        self.values.append(args[0] if op in ("number", "truth") else None)
        if op in _GIVEN:
            is_tame = op not in ("number", "table") or bool(np.isfinite(args[0]).all())
        else:
            is_tame = op in _TAME or (op == "integer_pow" and param > 0)
            is_tame = is_tame and all(self._tame[arg] for arg in args)
        self._tame.append(is_tame)
        return len(self.ops) - 1

    def _simpler(self, op: str, args: Sequence[int], param: Any) -> int | None:
        """A node that equals an operation, by what is known of its operands."""
        if param is not None:
            return _of_vector(self, op, args[0], param) if op in ("keep", "lane") else None
        if self.values[args[-1]] is not None and op in _FOLDED:
            values = [self.values[node] for node in args]
            if None not in values:
                with np.errstate(all="ignore"):
                    result = _FOLDED[op](*map(self.dtype.type, values))
                return self.truth(result) if op in COMPARISONS else self.number(result)
        rule = _SIMPLER.get(op)
        return None if rule is None else rule(self, *args)


def _without(factors: tuple[int, ...], common: int) -> int:
    one, other = factors
    return other if one == common else one


# Signs move outwards, and masks, too: nodes that are zero but under a condition.


def _negative(graph: Scalars, x: int) -> int | None:
    if graph.ops[x] == "neg":
        return graph.args[x][0]
    mask = _mask(graph, x)
    return mask and _where(graph, mask[0], graph.make("neg", mask[1]))


def _total(graph: Scalars, x: int, y: int) -> int | None:
    ops, args = graph.ops, graph.args
    if x == graph.zero or y == graph.zero:
        return y if x == graph.zero else x
    if ops[y] == "neg":
        return graph.make("sub", x, args[y][0])
    if ops[x] == "neg":
        return graph.make("sub", y, args[x][0])
    return _masked_sum(graph, "add", x, y)


def _difference(graph: Scalars, x: int, y: int) -> int | None:
    if y == graph.zero:
        return x
    if x == graph.zero:
        return graph.make("neg", y)
    if graph.ops[y] == "neg":
        return graph.make("add", x, graph.args[y][0])
    return _masked_sum(graph, "sub", x, y)


def _product(graph: Scalars, x: int, y: int) -> int | None:
    value, other = graph.values[x], y
    if value is None:
        value, other = graph.values[y], x
    if value == 0:
        return graph.zero
    if value == 1:
        return other
    if value == -1:
        return graph.make("neg", other)
    ops = graph.ops
    if ops[x] == "neg" or ops[y] == "neg":
        return _of_sizes(graph, "mul", x, y)
    for masked, factor in ((x, y), (y, x)):
        # What a mask leaves out may be infinite.
        if ops[masked] == "select_n" and (mask := _mask(graph, masked)) is not None:
            return _where(graph, mask[0], graph.make("mul", mask[1], factor))
    return None


def _quotient(graph: Scalars, x: int, y: int) -> int | None:
    if graph.values[y] == 1:
        return x
    if graph.values[y] == -1:
        return graph.make("neg", x)
    if x == graph.zero:
        return graph.zero
    is_negative = graph.ops[x] == "neg" or graph.ops[y] == "neg"
    return _of_sizes(graph, "div", x, y) if is_negative else None


def _of_sizes(graph: Scalars, op: str, x: int, y: int) -> int:
    """A product or quotient of which operands are negated."""
    signs = [graph.ops[node] == "neg" for node in (x, y)]
    one, other = (
        graph.args[node][0] if sign else node for node, sign in zip((x, y), signs, strict=True)
    )
    result = graph.make(op, one, other)
    return result if all(signs) else graph.make("neg", result)


def _choice(graph: Scalars, which: int, one: int, other: int) -> int | None:
    value = graph.values[which]
    if value is not None:
        return other if value else one
    if one == other:
        return one
    if graph.ops[one] == "truth":
        negated = graph.make("not", which)
        return graph.make(*(("or", negated) if graph.values[one] else ("and", which)), other)
    if graph.ops[other] == "truth":
        negated = graph.make("not", which)
        return graph.make(*(("or", which) if graph.values[other] else ("and", negated)), one)
    # Of the same condition again.
    for k, case in ((1, one), (2, other)):
        if graph.ops[case] == "select_n" and graph.args[case][0] == which:
            cases = [one, other]
            cases[k - 1] = graph.args[case][k]
            return graph.make("select_n", which, *cases)
    return None


def _connected(graph: Scalars, x: int, y: int, *, all_of: bool) -> int | None:
    for one, other in ((x, y), (y, x)):
        value = graph.values[one]
        if value is not None:
            return other if value == all_of else one
        if graph.ops[one] == "not" and graph.args[one][0] == other:
            return graph.truth(not all_of)
    return x if x == y else None


def _opposite(graph: Scalars, x: int) -> int | None:
    if graph.values[x] is not None:
        return graph.truth(not graph.values[x])
    return graph.args[x][0] if graph.ops[x] == "not" else None


def _mask(graph: Scalars, node: int) -> tuple[int, int] | None:
    """For a node that is zero but under a condition, the condition and what it is then."""
    if graph.ops[node] != "select_n":
        return None
    which, one, other = graph.args[node]
    if one == graph.zero:
        return which, other
    if other == graph.zero:
        return graph.make("not", which), one
    return None


def _where(graph: Scalars, condition: int, node: int) -> int:
    return graph.make("select_n", condition, graph.zero, node)


def _masked_sum(graph: Scalars, op: str, x: int, y: int) -> int | None:
    """A sum of what is masked, which is seen to be zero where both summands are."""
    if graph.ops[x] != "select_n" or graph.ops[y] != "select_n":
        return None
    (one, own), (other, others) = _masks(graph, x), _masks(graph, y)
    if not one or not other:
        return None
    if common := [condition for condition in one if condition in other]:
        summands = (
            _under(graph, [condition for condition in each if condition not in common], node)
            for each, node in ((one, own), (other, others))
        )
        return _under(graph, common, graph.make(op, *summands))
    if len(one) == len(other) == 1 and graph.make("not", one[0]) == other[0]:
        case = others if op == "add" else graph.make("neg", others)
        return graph.make("select_n", one[0], case, own)
    all_of = functools.partial(functools.reduce, functools.partial(graph.make, "and"))
    either = graph.make("or", all_of(one), all_of(other))
    if graph.values[either]:
        return None
    # As it is: it may not be made into what is masked again.
    return _where(graph, either, graph.raw(op, x, y))


def _masks(graph: Scalars, node: int) -> tuple[list[int], int]:
    """The conditions but under all of which a node is zero, and what it is then."""
    conditions = []
    while (mask := _mask(graph, node)) is not None:
        condition, node = mask
        conditions.append(condition)
    return conditions, node


def _under(graph: Scalars, conditions: Sequence[int], node: int) -> int:
    for condition in reversed(conditions):
        node = _where(graph, condition, node)
    return node


# What a value keeps, although its derivative is not that of it: a product of zero by what may be
# infinite or NaN, which is NaN; and the sign of a zero that is negated.


def _keeps_product(graph: Scalars, x: int, y: int) -> bool:
    return any(
        not graph.is_tame(other) and (graph.values[one] == 0 or _mask(graph, one) is not None)
        for one, other in ((x, y), (y, x))
    )


def _keeps_quotient(graph: Scalars, x: int, y: int) -> bool:
    return x == graph.zero and not graph.values[y]  # zero itself, or not known


def _keeps_sign(graph: Scalars, x: int) -> bool:
    return _mask(graph, x) is not None


_KEEP: dict[str, Callable[..., bool]] = {
    "div": _keeps_quotient,
    "mul": _keeps_product,
    "neg": _keeps_sign,
}


def _of_vector(graph: Scalars, op: str, vector: int, lane: int) -> int | None:
    """What is known of lanes of a vector: all of them are zero, or one was put there."""
    if vector == graph.zero:
        return vector
    is_known = op == "lane" and graph.ops[vector] == "pack"
    return graph.args[vector][lane] if is_known else None


def _whole(graph: Scalars, *lanes: int) -> int | None:
    """What all numbers of a vector are lanes of, each of its own, but for those that are zero."""
    owners = set()
    for lane, node in enumerate(lanes):
        if graph.ops[node] == "lane" and graph.params[node] == lane:
            owners.add(graph.args[node][0])
        elif node != graph.zero:
            return None
    return owners.pop() if len(owners) == 1 else None


_SIMPLER: dict[str, Callable[..., int | None]] = {
    "add": _total,
    "and": functools.partial(_connected, all_of=True),
    "div": _quotient,
    "mul": _product,
    "neg": _negative,
    "not": _opposite,
    "or": functools.partial(_connected, all_of=False),
    "pack": _whole,
    "select_n": _choice,
    "sub": _difference,
}
