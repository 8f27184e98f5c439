"""Instructions of LLVM on vectors of points, one for each lane."""

import copy
import itertools
import struct
from collections.abc import Sequence
from typing import Any

import numpy as np

__all__ = ["Block", "function_name"]

_COMPARISONS = {"eq": "oeq", "ge": "oge", "gt": "ogt", "le": "ole", "lt": "olt", "ne": "une"}
_INTRINSICS = {
    "abs": "fabs",
    "ceil": "ceil",
    "floor": "floor",
    "round": "roundeven",
    "sqrt": "sqrt",
}


def function_name(op: str, count: int, dtype: np.dtype, lanes: int, library: str) -> str:
    """What the mathematical library calls an operation on so many vectors."""
    name = op + "f" * (dtype.itemsize == 4)
    return name if lanes == 1 else f"_ZGV{library}N{lanes}{'v' * count}_{name}"


class Block:
    """Straight-line code on vectors of some lanes."""

    def __init__(self, dtype: np.dtype, lanes: int, library: str) -> None:
        self.dtype, self.library = dtype, library
        self.type = {"f4": "float", "f8": "double"}[dtype.str[1:]]
        self.bytes = dtype.itemsize
        self._of_lanes(lanes)
        self.lines: list[str] = []
        self.reserved, self.reserved_bytes = list[str](), 0
        self.label = "entry"
        self.declared: dict[str, str] = {}
        self._numbers = itertools.count(1)

    def _of_lanes(self, lanes: int) -> None:
        integer = f"i{8 * self.bytes}"
        self.lanes = lanes
        self.vector = f"<{lanes} x {self.type}>" if lanes > 1 else self.type
        self.integers = f"<{lanes} x {integer}>" if lanes > 1 else integer
        self.mask = f"<{lanes} x i1>" if lanes > 1 else "i1"

    def of_width(self, lanes: int) -> "Block":
        """The same code, whose operations are on so many lanes."""
        result = copy.copy(self)
        result._of_lanes(lanes)
        return result

    def another(self) -> "Block":
        """Code of another function on such vectors."""
        result = copy.copy(self)
        result.lines, result.reserved, result._numbers = [], [], itertools.count(1)
        return result

    def reserve(self, name: str, count: int) -> str:
        """A buffer of vectors, for as long as the function runs."""
        self.reserved.append(f"  {name} = alloca [{count} x {self.vector}], align 64")
        self.reserved_bytes += count * self.lanes * self.bytes
        return name

    def new_name(self, stem: str) -> str:
        """A name that nothing has."""
        return f"{stem}{next(self._numbers)}"

    def begin(self, label: str) -> None:
        """Begins the code at a label, which something before has to lead to."""
        self.lines.append(f"{label}:")
        self.label = label

    def table(self, values: Sequence[float]) -> str:
        """The name of an array of numbers that are known."""
        name = f"@table{len(self.declared)}"
        texts = ", ".join(f"{self.type} {self._hexadecimal(value)}" for value in values)
        kind = f"[{len(values)} x {self.type}]"
        self.declared[name] = f"{name} = private unnamed_addr constant {kind} [{texts}], align 64"
        return name

    def clear(self, base: str, size: int) -> None:
        """Writes so many bytes of zeros."""
        self.declared["memset"] = "declare void @llvm.memset.p0.i64(ptr, i8, i64, i1)"
        self.do(f"call void @llvm.memset.p0.i64(ptr {base}, i8 0, i64 {size}, i1 false)")

    def copy(self, target: str, source: str, size: str) -> None:
        """Copies so many bytes."""
        self.declared["memcpy"] = "declare void @llvm.memcpy.p0.p0.i64(ptr, ptr, i64, i1)"
        self.do(
            f"call void @llvm.memcpy.p0.p0.i64(ptr {target}, ptr {source}, i64 {size}, i1 false)"
        )

    def add(self, text: str) -> str:
        """The name of a new value."""
        name = self.new_name("%t")
        self.do(f"{name} = {text}")
        return name

    def do(self, text: str) -> None:
        """One more instruction."""
        self.lines.append(f"  {text}")

    def constant(self, value: Any) -> str:
        """A number or truth value in all lanes."""
        kind = "i1" if isinstance(value, bool) else self.type
        text = str(value).lower() if isinstance(value, bool) else self._hexadecimal(value)
        return text if self.lanes == 1 else f"<{', '.join([f'{kind} {text}'] * self.lanes)}>"

    def _hexadecimal(self, value: float) -> str:
        if self.bytes == 4:
            value = float(np.float32(value))
        return f"0x{struct.unpack('<Q', struct.pack('<d', value))[0]:016X}"

    def intrinsic(self, name: str, *args: str) -> str:
        """An operation that LLVM knows."""
        kind = f"f{8 * self.bytes}"
        suffix = kind if self.lanes == 1 else f"v{self.lanes}{kind}"
        return self._called(f"llvm.{name}.{suffix}", args, "")

    def function(self, op: str, *args: str) -> str:
        """A call of the mathematical library."""
        name = function_name(op, len(args), self.dtype, self.lanes, self.library)
        return self._called(name, args, " #0")

    def _called(self, name: str, args: Sequence[str], attributes: str) -> str:
        kinds = ", ".join([self.vector] * len(args))
        self.declared[name] = f"declare {self.vector} @{name}({kinds}){attributes}"
        return self.add(
            f"call {self.vector} @{name}({', '.join(f'{self.vector} {x}' for x in args)})"
        )

    def pointer(self, base: str, offset: Any) -> str:
        """Where a number of an array lies."""
        return self.add(f"getelementptr {self.type}, ptr {base}, i64 {offset}")

    def load(self, base: str, offset: Any, kind: str) -> str:
        """What lies there, a number or several."""
        return self.add(f"load {kind}, ptr {self.pointer(base, offset)}, align {self.bytes}")

    def store(self, value: str, base: str, offset: Any, kind: str) -> None:
        """Writes a number or several there."""
        self.do(f"store {kind} {value}, ptr {self.pointer(base, offset)}, align {self.bytes}")

    def packed(self, numbers: Sequence[str]) -> str:
        """The vector of numbers."""
        vector = "poison"
        for lane, number in enumerate(numbers):
            vector = self.add(
                f"insertelement {self.vector} {vector}, {self.type} {number}, i32 {lane}"
            )
        return vector

    def lane(self, vector: str, lane: int) -> str:
        """A number of a vector."""
        return self.add(f"extractelement {self.vector} {vector}, i32 {lane}")

    def kept(self, vector: str, lanes: int) -> str:
        """A vector in which all lanes but some, a set of bits, are zero."""
        truths = ", ".join(f"i1 {lanes >> k & 1}" for k in range(self.lanes))
        zeros = f"{self.vector} zeroinitializer"
        return self.add(f"select {self.mask} <{truths}>, {self.vector} {vector}, {zeros}")

    def splat(self, scalar: str) -> str:
        """A number in all lanes."""
        if self.lanes == 1:
            return scalar
        first = self.add(f"insertelement {self.vector} poison, {self.type} {scalar}, i32 0")
        zeros = f"<{self.lanes} x i32> zeroinitializer"
        return self.add(f"shufflevector {self.vector} {first}, {self.vector} poison, {zeros}")

    def node(self, op: str, args: Sequence[str], of_truths: bool) -> str:
        """The value of an operation."""
        vector = self.vector
        if op in ("add", "sub", "mul", "div", "rem"):
            return self.add(f"f{op} {vector} {args[0]}, {args[1]}")
        if op == "neg":
            return self.add(f"fneg {vector} {args[0]}")
        if op in _INTRINSICS:
            return self.intrinsic(_INTRINSICS[op], *args)
        if op in ("le_to", "lt_to"):
            one, other = map(self._in_total_order, args)
            return self.add(f"icmp s{op[:2]} {self.integers} {one}, {other}")
        if op in _COMPARISONS and of_truths:
            return self.add(f"icmp {op} {self.mask} {args[0]}, {args[1]}")
        if op in _COMPARISONS:
            return self._compared(_COMPARISONS[op], *args)
        if op in ("and", "or", "xor"):
            return self.add(f"{op} {self.mask} {args[0]}, {args[1]}")
        if op == "not":
            return self.add(f"xor {self.mask} {args[0]}, {self.constant(True)}")
        if op == "select_n":
            which, one, other = args
            return self._chosen(which, other, one, self.mask if of_truths else vector)
        if op in ("max", "min"):
            # NaN where either is.
            better = self._compared("ogt" if op == "max" else "olt", *args)
            nan = self._compared("uno", args[0], args[0])
            either = self.add(f"or {self.mask} {better}, {nan}")
            return self._chosen(either, args[0], args[1], vector)
        if op == "sign":
            zero = self.constant(0.0)
            negative = self._compared("olt", args[0], zero)
            lower = self._chosen(negative, self.constant(-1.0), args[0], vector)
            positive = self._compared("ogt", args[0], zero)
            return self._chosen(positive, self.constant(1.0), lower, vector)
        if op == "is_finite":
            size = self.intrinsic("fabs", args[0])
            return self._compared("olt", size, self.constant(float("inf")))
        return self.function(op, *args)

    def _in_total_order(self, x: str) -> str:
        """Integers in the total order of numbers: their bits, those after a minus turned."""
        bits, kind = 8 * self.bytes, self.integers
        own = self.add(f"bitcast {self.vector} {x} to {kind}")
        sign = self.add(f"ashr {kind} {own}, {self._integer(bits - 1)}")
        turned = self.add(f"lshr {kind} {sign}, {self._integer(1)}")
        return self.add(f"xor {kind} {own}, {turned}")

    def _integer(self, value: int) -> str:
        text = f"i{8 * self.bytes} {value}"
        return str(value) if self.lanes == 1 else f"<{', '.join([text] * self.lanes)}>"

    def _compared(self, how: str, x: str, y: str) -> str:
        return self.add(f"fcmp {how} {self.vector} {x}, {y}")

    def _chosen(self, which: str, one: str, other: str, kind: str) -> str:
        return self.add(f"select {self.mask} {which}, {kind} {one}, {kind} {other}")

    def any(self, mask: str) -> str:
        """Whether a truth value holds in any lane."""
        if self.lanes == 1:
            return mask
        bits = self.add(f"bitcast {self.mask} {mask} to i{self.lanes}")
        return self.add(f"icmp ne i{self.lanes} {bits}, 0")

    def where(self, condition: str, one: str, other: str) -> str:
        """One of two vectors, by one truth value."""
        return self.add(f"select i1 {condition}, {self.vector} {one}, {self.vector} {other}")

    def transposed(self, rows: Sequence[str]) -> list[str]:
        """As many vectors as there are lanes, each of one lane of all rows."""
        rows, lanes, step = list(rows), self.lanes, 1
        while step < lanes:
            for low in range(lanes):
                if low & step:
                    continue
                high = low | step
                pairs = [
                    [k if not k & step else lanes + k - step for k in range(lanes)],
                    [k + step if not k & step else lanes + k for k in range(lanes)],
                ]
                rows[low], rows[high] = (self._shuffled(rows[low], rows[high], p) for p in pairs)
            step *= 2
        return rows

    def _shuffled(self, one: str, other: str, places: Sequence[int]) -> str:
        mask = ", ".join(f"i32 {k}" for k in places)
        kinds = f"{self.vector} {one}, {self.vector} {other}"
        return self.add(f"shufflevector {kinds}, <{self.lanes} x i32> <{mask}>")
