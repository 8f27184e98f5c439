"""Scalar graphs: every number that a small program computes is a node, and equal ones are one.

A node is an operation, named like JAX's primitive, on earlier nodes. Making a node folds what is
known (numbers alone, factors 0 and 1, terms 0, signs, which move outwards) and finds it again if it
was made before. A structural zero stays zero where JAX would multiply it by an infinity.
"""

import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from jax_cce.program import in_numpy

__all__ = ["COMPARISONS", "DERIVED", "LOGIC", "SIMPLE", "Scalars", "TooLarge"]


class TooLarge(Exception):
    """A graph would have more nodes than it may have."""


COMPARISONS = frozenset(("eq", "ge", "gt", "le", "lt", "ne"))
LOGIC = frozenset(("and", "is_finite", "not", "or", "truth", "xor")) | COMPARISONS
# Operations of one instruction or a few.
SIMPLE = frozenset(("abs", "add", "ceil", "floor", "max", "min", "mul", "neg", "select_n")) | {
    *LOGIC,
    *("sign", "stop_gradient", "sub"),
}
# What is differentiated otherwise than it is computed.
DERIVED = frozenset(("ruled", "seed"))
_SYMMETRIC = frozenset(("add", "and", "eq", "max", "min", "mul", "ne", "or", "xor"))

_FOLDED: dict[str, Callable[..., Any]] = {
    **{
        name: in_numpy.ELEMENTWISE[name]
        for names in ("abs add cos exp log max min mul neg sin sqrt sub", "eq ge gt le lt ne")
        for name in names.split()
    },
    "div": np.divide,
    "pow": np.power,
    "rem": np.fmod,
}


class Scalars:
    """A graph under construction.

    Args:
        dtype: the type of all its numbers, float32 or float64.
        most: how many nodes it may have.

    Attributes:
        dtype: see above.
        most: see above.
        ops: the operation of each node: a primitive's name, "input", "number" or "truth".
        args: its operands; of an input its place, of a number or a truth value that itself.
        params: its static parameter, such as an exponent; None for most.
    """

    def __init__(self, dtype: Any, most: int = 1 << 20) -> None:
        self.dtype, self.most = np.dtype(dtype), most
        self.ops: list[str] = []
        self.args: list[tuple[Any, ...]] = []
        self.params: list[Any] = []
        self._made: dict[Any, int] = {}
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

    def input(self, place: Any) -> int:
        """The node of a number that is given."""
        return self._node(("input", place), "input", (place,))

    def ruled(self, value: int, tangent: int) -> int:
        """A node that equals another one, and is differentiated like a third, its tangent.

        The tangent is linear in seeds, which are differentiated like the nodes they stand for.
        """
        return self._node(("ruled", value, tangent), "ruled", (value,), tangent)

    def seed(self, node: int) -> int:
        """The tangent of a node, in a rule for what is made of it: a new one at each call."""
        return self._node(("seed", len(self.ops)), "seed", (node,))

    def differentiated(self, node: int) -> tuple[int, ...]:
        """The operands that a node has when it is differentiated."""
        return (self.params[node],) if self.ops[node] == "ruled" else self.args[node]

    def is_given(self, node: int) -> bool:
        """Whether a node is not computed."""
        return self.ops[node] in ("input", "number", "truth")

    def value(self, node: int) -> Any:
        """The number or truth value that a node is; None where it is not known."""
        return self.args[node][0] if self.ops[node] in ("number", "truth") else None

    def make(self, op: str, *args: int, param: Any = None) -> int:
        """The node of an operation on nodes, or one that equals it."""
        simpler = self._simpler(op, args) if param is None else None
        if simpler is not None:
            return simpler
        if op in _SYMMETRIC:
            args = tuple(sorted(args))
        return self._node((op, param, args), op, args, param)

    def sum(self, nodes: Iterable[int]) -> int:
        """The sum of nodes, in their order."""
        total = self.zero
        for node in nodes:
            total = self.make("add", total, node)
        return total

    def needed(self, nodes: Iterable[int], *, differentiated: bool = False) -> list[int]:
        """The nodes that some nodes need, themselves included, in the order of computation.

        Args:
            nodes: the nodes.
            differentiated: whether they are to be differentiated, not computed.
        """
        operands = self.differentiated if differentiated else self.args.__getitem__
        pending, seen = list(nodes), set()
        while pending:
            node = pending.pop()
            if node not in seen:
                seen.add(node)
                if not self.is_given(node):
                    pending.extend(operands(node))
        return sorted(seen)

    def _node(self, key: Any, op: str, args: tuple[Any, ...], param: Any = None) -> int:
        node = self._made.get(key)
        if node is None:
            if len(self.ops) >= self.most:
                raise TooLarge(f"it takes more than {self.most} operations")
            node = self._made[key] = len(self.ops)
            self.ops.append(op)
            self.args.append(args)
            self.params.append(param)
        return node

    def _are_opposite(self, one: int, other: int) -> bool:
        """Whether one of two truths is the negation of the other."""
        pairs = (one, other), (other, one)
        return any(self.ops[x] == "not" and self.args[x][0] == y for x, y in pairs)

    def _negated(self, node: int) -> int | None:
        """What a node is the negative of."""
        if self.ops[node] == "neg":
            return self.args[node][0]
        return None

    def _simpler(self, op: str, args: Sequence[int]) -> int | None:
        values = [self.value(node) for node in args]
        if op in _FOLDED and None not in values:
            with np.errstate(all="ignore"):
                result = _FOLDED[op](*map(self.dtype.type, values))
            return self.truth(result) if op in COMPARISONS else self.number(result)
        match op, values:
            case "mul", [0.0, _] | [_, 0.0]:
                return self.zero
            case ("mul", [1.0, _]) | ("add", [0.0, _]):
                return args[1]
            case ("mul" | "div", [_, 1.0]) | ("add" | "sub", [_, 0.0]):
                return args[0]
            case ("mul", [-1.0, _]) | ("sub", [0.0, _]):
                return self.make("neg", args[1])
            case "mul" | "div", [_, -1.0]:
                return self.make("neg", args[0])
            case "div", [0.0, _]:
                return self.zero
            case "select_n", [bool(which), *_]:
                return args[2] if which else args[1]
            case "select_n", _ if args[1] == args[2]:
                return args[1]
            case ("and", [True, _]) | ("or", [False, _]):
                return args[1]
            case ("and", [_, True]) | ("or", [_, False]):
                return args[0]
            case ("and", [False, _]) | ("or", [True, _]):
                return args[0]
            case ("and", [_, False]) | ("or", [_, True]):
                return args[1]
            case "not", [bool(value)]:
                return self.truth(not value)
            case "not", _ if self.ops[args[0]] == "not":
                return self.args[args[0]][0]
            case "or" | "and", _ if args[0] == args[1]:
                return args[0]
            case "or" | "and", _ if self._are_opposite(*args):
                return self.truth(op == "or")
        return self._signed(op, args)

    def _signed(self, op: str, args: Sequence[int]) -> int | None:
        """The operation with the signs of its operands moved outwards, and masks, too."""
        if op == "neg":
            (node,) = args
            mask = self._mask(node)
            if mask is not None:
                return self._where(mask[0], self.make("neg", mask[1]))
            return self._negated(node)
        if op not in ("add", "sub", "mul", "div"):
            return None
        x, y = (self._negated(node) for node in args)
        if op in ("mul", "div"):
            if x is not None or y is not None:
                both = args[0] if x is None else x, args[1] if y is None else y
                result = self.make(op, *both)
                return result if x is not None and y is not None else self.make("neg", result)
            return self._masked_product(args) if op == "mul" else None
        if y is not None:
            return self.make("sub" if op == "add" else "add", args[0], y)
        if x is not None and op == "add":
            return self.make("sub", args[1], x)
        return self._masked_sum(op, args)

    def _mask(self, node: int) -> tuple[int, int] | None:
        """For a node that is zero but under a condition, the condition and what it is then."""
        if self.ops[node] != "select_n":
            return None
        which, one, other = self.args[node]
        if one == self.zero:
            return which, other
        if other == self.zero:
            return self.make("not", which), one
        return None

    def _where(self, condition: int, node: int) -> int:
        return self.make("select_n", condition, self.zero, node)

    def _masked_product(self, args: Sequence[int]) -> int | None:
        """A product by a mask, which selects: what it leaves out may be infinite."""
        for masked, factor in itertools.permutations(args):
            mask = self._mask(masked)
            if mask is not None:
                return self._where(mask[0], self.make("mul", mask[1], factor))
        return None

    def _masked_sum(self, op: str, args: Sequence[int]) -> int | None:
        """A sum of what is masked, which is seen to be zero where both masks are."""
        masks = [self._mask(node) for node in args]
        if None in masks:
            return None
        (one, x), (other, y) = masks  # type: ignore[misc]
        if one == other:
            return self._where(one, self.make(op, x, y))
        either = self.make("or", one, other)
        ordered = tuple(sorted(args)) if op == "add" else tuple(args)
        total = self._node((op, None, ordered), op, ordered)
        return total if self.value(either) else self._where(either, total)
