"""From scalar graphs to LLVM's intermediate representation.

A kernel runs over tiles of as many points as a vector register holds. Within a tile every node is
one instruction on such vectors. Points lie in memory one after the other, so that the entries of a
tile are transposed in registers, on the way in and on the way out. The last tile overlaps the one
before it; of fewer points than a tile has, copies are made. Around it stands the handler that XLA
calls, in terms of the binary interface of its foreign functions.
"""

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from jax_cce.native.scalars import LOGIC, Scalars

__all__ = ["Operand", "kernel_text"]

_COMPARISONS = {"eq": "oeq", "ge": "oge", "gt": "ogt", "le": "ole", "lt": "olt", "ne": "une"}
_INTRINSICS = {"abs": "fabs", "ceil": "ceil", "floor": "floor", "sqrt": "sqrt"}
_MANY_ZEROS = 16
_MEMSET = "declare void @llvm.memset.p0.i64(ptr, i8, i64, i1)"
# Byte offsets in the structures of XLA's foreign function interface, version 0.
_EXTENSION, _ARGUMENTS, _RESULTS = 8, 72, 112
_METADATA, _MAJOR, _MINOR = 24, 24, 28
_DATA, _DIMENSIONS = 24, 40


@dataclass(frozen=True)
class Operand:
    """An array that a kernel reads.

    Attributes:
        size: its entries for one point.
        levels: the number of its leading axes of points; 0 where it is the same for all points.
    """

    size: int
    levels: int


class _Block:
    """Straight-line code on vectors of some lanes."""

    def __init__(self, dtype: np.dtype, lanes: int, library: str) -> None:
        self.lanes, self.library = lanes, library
        self.type = {"f4": "float", "f8": "double"}[dtype.str[1:]]
        self.bytes = dtype.itemsize
        self.vector = f"<{lanes} x {self.type}>" if lanes > 1 else self.type
        self.mask = f"<{lanes} x i1>" if lanes > 1 else "i1"
        self.lines: list[str] = []
        self.declared: dict[str, str] = {}
        self._count = 0

    def add(self, text: str) -> str:
        """The name of a new value."""
        self._count += 1
        name = f"%t{self._count}"
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
        kind = f"f{8 * self.bytes}"
        suffix = kind if self.lanes == 1 else f"v{self.lanes}{kind}"
        return self._called(f"llvm.{name}.{suffix}", args, "")

    def function(self, name: str, *args: str) -> str:
        """A call of the mathematical library."""
        name += "f" * (self.bytes == 4)
        if self.lanes > 1:
            name = f"_ZGV{self.library}N{self.lanes}{'v' * len(args)}_{name}"
        return self._called(name, args, " #0")

    def _called(self, name: str, args: Sequence[str], attributes: str) -> str:
        kinds = ", ".join([self.vector] * len(args))
        self.declared[name] = f"declare {self.vector} @{name}({kinds}){attributes}"
        return self.add(
            f"call {self.vector} @{name}({', '.join(f'{self.vector} {x}' for x in args)})"
        )

    def pointer(self, base: str, offset: Any) -> str:
        return self.add(f"getelementptr {self.type}, ptr {base}, i64 {offset}")

    def load(self, base: str, offset: int, kind: str) -> str:
        return self.add(f"load {kind}, ptr {self.pointer(base, offset)}, align {self.bytes}")

    def store(self, value: str, base: str, offset: int, kind: str) -> None:
        self.do(f"store {kind} {value}, ptr {self.pointer(base, offset)}, align {self.bytes}")

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

    def _compared(self, how: str, x: str, y: str) -> str:
        return self.add(f"fcmp {how} {self.vector} {x}, {y}")

    def _chosen(self, which: str, one: str, other: str, kind: str) -> str:
        return self.add(f"select {self.mask} {which}, {kind} {one}, {kind} {other}")

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


def kernel_text(
    graph: Scalars,
    operands: Sequence[Operand],
    results: Sequence[Sequence[int]],
    lanes: int,
    library: str,
    minor_version: int,
) -> str:
    """The text of a module with the handler `handler`.

    Args:
        graph: the graph, in simple operations; its inputs are (operand, entry).
        operands: the arrays to read.
        results: the nodes of each array to write, for one point.
        lanes: the points of a tile; 1 for a single point.
        library: the letter of the vector instructions in the names of the vector library.
        minor_version: of the interface.
    """
    block = _Block(graph.dtype, lanes, library)
    _fill(block, graph, operands, results)
    sources = [f"%s{k}" for k in range(len(operands))]
    targets = [f"%r{k}" for k in range(len(results))]
    pointers = ", ".join(f"ptr noalias {name}" for name in (*sources, *targets))
    body = [f"define internal void @tile({pointers}) noinline {{", *block.lines, "  ret void", "}"]
    levels = max((each.levels for each in operands), default=0)
    if lanes > 1:
        driver = _driver(block, operands, list(map(len, results)), lanes)
    else:
        driver = [
            f"define internal void @run({pointers}, i64 %points) {{",
            f"  call void @tile({', '.join(f'ptr {name}' for name in (*sources, *targets))})",
            "  ret void",
            "}",
        ]
    handler = _handler(operands, len(results), levels, minor_version)
    attributes = "attributes #0 = { nounwind willreturn memory(none) }"
    return "\n".join([*body, *driver, *handler, *block.declared.values(), attributes, ""])


def _fill(
    block: _Block,
    graph: Scalars,
    operands: Sequence[Operand],
    results: Sequence[Sequence[int]],
) -> None:
    """The code for one tile."""
    nodes = graph.needed([node for row in results for node in row])
    read: list[set[int]] = [set() for _ in operands]
    for node in nodes:
        if graph.ops[node] == "input":
            operand, entry = graph.args[node][0]
            read[operand].add(entry)
    loaded = {
        (k, entry): value
        for k, (operand, entries) in enumerate(zip(operands, read, strict=True))
        for entry, value in _loaded(block, f"%s{k}", operand, entries).items()
    }
    names: dict[int, str] = {}
    for node in nodes:
        op, args = graph.ops[node], graph.args[node]
        if op == "input":
            names[node] = loaded[args[0]]
        elif op in ("number", "truth"):
            names[node] = block.constant(args[0])
        else:
            of_truths = any(graph.ops[arg] in LOGIC for arg in args[-1:])
            names[node] = block.node(op, [names[arg] for arg in args], of_truths)
    for k, row in enumerate(results):
        is_zero = [node == graph.zero for node in row]
        _stored(block, f"%r{k}", [names[node] for node in row], is_zero)


def _loaded(block: _Block, base: str, operand: Operand, entries: set[int]) -> dict[int, str]:
    """The entries of an operand that are read, as vectors over the points of a tile."""
    lanes, size = block.lanes, operand.size
    if lanes == 1 or not operand.levels:
        return {k: block.splat(block.load(base, k, block.type)) for k in sorted(entries)}
    found: dict[int, str] = {}
    starts = _starts(size, lanes)
    for start in starts:
        inside = range(start, start + lanes)
        if entries.isdisjoint(inside):
            continue
        rows = [block.load(base, point * size + start, block.vector) for point in range(lanes)]
        found.update(zip(inside, block.transposed(rows), strict=True))
    for entry in sorted(entries.difference(found)):
        vector = "poison"
        for point in range(lanes):
            value = block.load(base, point * size + entry, block.type)
            vector = block.add(
                f"insertelement {block.vector} {vector}, {block.type} {value}, i32 {point}"
            )
        found[entry] = vector
    return found


def _stored(block: _Block, base: str, values: Sequence[str], is_zero: Sequence[bool]) -> None:
    """Writes the entries of a result; where many are zero, all are cleared before."""
    lanes, size = block.lanes, len(values)
    clears = sum(is_zero) > max(_MANY_ZEROS, size // 2)
    if clears:
        total = size * lanes * block.bytes
        block.declared["memset"] = _MEMSET
        block.do(f"call void @llvm.memset.p0.i64(ptr {base}, i8 0, i64 {total}, i1 false)")
    starts = _starts(size, lanes) if lanes > 1 else []
    for start in starts:
        inside = slice(start, start + lanes)
        if all(is_zero[inside]):
            columns = [] if clears else [block.constant(0.0)] * lanes
        else:
            columns = block.transposed(values[inside])
        for point, column in enumerate(columns):
            block.store(column, base, point * size + start, block.vector)
    if starts:
        return
    for k, value in enumerate(values):
        if is_zero[k] and clears:
            continue
        for point in range(lanes):
            one = value
            if lanes > 1:
                one = block.add(f"extractelement {block.vector} {value}, i32 {point}")
            block.store(one, base, point * size + k, block.type)


def _starts(size: int, lanes: int) -> list[int]:
    """Where vectors of entries begin, the last of which may overlap the one before."""
    starts = list(range(0, size - lanes + 1, lanes))
    return starts + [size - lanes] * bool(starts and size % lanes)


def _driver(
    block: _Block, operands: Sequence[Operand], sizes: Sequence[int], lanes: int
) -> list[str]:
    """The loop over tiles."""
    kind, width = block.type, block.bytes
    strides = [(f"%s{k}", each.size if each.levels else 0) for k, each in enumerate(operands)]
    strides += [(f"%r{k}", size) for k, size in enumerate(sizes)]
    names = [name for name, _ in strides]
    pointers = ", ".join(f"ptr noalias {name}" for name in names)
    lines = [f"define internal void @run({pointers}, i64 %points) {{", "entry:"]
    for name, stride in strides:
        if stride:
            lines.append(f"  %copy{name[1:]} = alloca [{stride * lanes} x {kind}], align 64")
    lines += [
        f"  %few = icmp slt i64 %points, {lanes}",
        "  br i1 %few, label %copies, label %start",
        "start:",
        f"  %last = sub i64 %points, {lanes}",
        "  br label %tiles",
        "tiles:",
        "  %at = phi i64 [0, %start], [%next, %tiles]",
        # The last tile ends with the last point.
        "  %over = icmp sgt i64 %at, %last",
        "  %point = select i1 %over, i64 %last, i64 %at",
    ]
    args = []
    for name, stride in strides:
        if stride:
            lines.append(f"  %offset{name[1:]} = mul i64 %point, {stride}")
            place = f"ptr {name}, i64 %offset{name[1:]}"
            lines.append(f"  %here{name[1:]} = getelementptr {kind}, {place}")
        args.append(f"ptr %here{name[1:]}" if stride else f"ptr {name}")
    lines += [
        f"  call void @tile({', '.join(args)})",
        f"  %next = add i64 %at, {lanes}",
        "  %more = icmp slt i64 %next, %points",
        "  br i1 %more, label %tiles, label %done",
        "copies:",
    ]
    copied = []
    for name, stride in strides:
        copied.append(f"ptr %copy{name[1:]}" if stride else f"ptr {name}")
        if stride and name.startswith("%s"):
            place, total = f"%copy{name[1:]}", stride * lanes * width
            lines += [
                f"  call void @llvm.memset.p0.i64(ptr {place}, i8 0, i64 {total}, i1 false)",
                f"  %bytes{name[1:]} = mul i64 %points, {stride * width}",
                f"  call void @llvm.memcpy.p0.p0.i64(ptr {place}, ptr {name}, "
                f"i64 %bytes{name[1:]}, i1 false)",
            ]
    lines.append(f"  call void @tile({', '.join(copied)})")
    for name, stride in strides:
        if stride and name.startswith("%r"):
            lines += [
                f"  %bytes{name[1:]} = mul i64 %points, {stride * width}",
                f"  call void @llvm.memcpy.p0.p0.i64(ptr {name}, ptr %copy{name[1:]}, "
                f"i64 %bytes{name[1:]}, i1 false)",
            ]
    block.declared["memset"] = _MEMSET
    block.declared["memcpy"] = "declare void @llvm.memcpy.p0.p0.i64(ptr, ptr, i64, i1)"
    return [*lines, "  br label %done", "done:", "  ret void", "}"]


def _handler(
    operands: Sequence[Operand], num_results: int, levels: int, minor_version: int
) -> list[str]:
    """What XLA calls: with a request for the version, or with the buffers of a call."""
    lines = [
        "define ptr @handler(ptr %frame) {",
        "entry:",
        f"  %e = getelementptr i8, ptr %frame, i64 {_EXTENSION}",
        "  %extension = load ptr, ptr %e",
        "  %is_call = icmp eq ptr %extension, null",
        "  br i1 %is_call, label %call, label %describe",
        "describe:",
        f"  %m = getelementptr i8, ptr %extension, i64 {_METADATA}",
        "  %metadata = load ptr, ptr %m",
        f"  %major = getelementptr i8, ptr %metadata, i64 {_MAJOR}",
        "  store i32 0, ptr %major",
        f"  %minor = getelementptr i8, ptr %metadata, i64 {_MINOR}",
        f"  store i32 {minor_version}, ptr %minor",
        "  ret ptr null",
        "call:",
    ]
    for side, offset, count in (
        ("s", _ARGUMENTS, len(operands)),
        ("r", _RESULTS, num_results),
    ):
        lines += [
            f"  %list{side} = getelementptr i8, ptr %frame, i64 {offset}",
            f"  %buffers{side} = load ptr, ptr %list{side}",
        ]
        for k in range(count):
            lines += [
                f"  %place{side}{k} = getelementptr ptr, ptr %buffers{side}, i64 {k}",
                f"  %buffer{side}{k} = load ptr, ptr %place{side}{k}",
                f"  %data{side}{k} = getelementptr i8, ptr %buffer{side}{k}, i64 {_DATA}",
                f"  %{side}{k} = load ptr, ptr %data{side}{k}",
            ]
    points = "1"
    if levels:
        k = next(k for k, each in enumerate(operands) if each.levels)
        lines += [
            f"  %d = getelementptr i8, ptr %buffers{k}, i64 {_DIMENSIONS}",
            "  %dimensions = load ptr, ptr %d",
        ]
        for level in range(levels):
            lines += [
                f"  %axis{level} = getelementptr i64, ptr %dimensions, i64 {level}",
                f"  %size{level} = load i64, ptr %axis{level}",
                f"  %points{level} = mul i64 {points}, %size{level}",
            ]
            points = f"%points{level}"
    names = [f"%s{k}" for k in range(len(operands))] + [f"%r{k}" for k in range(num_results)]
    args = ", ".join(f"ptr {name}" for name in names)
    return [*lines, f"  call void @run({args}, i64 {points})", "  ret ptr null", "}"]
