"""From scalar graphs to LLVM's intermediate representation.

A kernel is a tile for as many points as a vector register holds, and a loop over the points.
Around it stands the handler that XLA calls, in terms of the binary interface of its foreign
functions.
"""

import math
from collections.abc import Sequence

from jax_cce.native.instructions import Block
from jax_cce.native.points import loop, together
from jax_cce.native.scalars import Scalars
from jax_cce.native.threads import SHARE, THREADS, packed
from jax_cce.native.tiles import Operand, tile

__all__ = ["kernel_text"]

# Byte offsets in the structures of XLA's foreign function interface, version 0.
_EXTENSION, _ARGUMENTS, _RESULTS = 8, 72, 112
_METADATA, _MAJOR, _MINOR = 24, 24, 28
_DATA, _DIMENSIONS = 24, 40


# Nanoseconds of an addition and of a byte that is written, for a point among many; and of a part of
# a batch that is worth a thread of its own.
_PER_ADDITION, _PER_BYTE, _OF_A_PART = 0.024, 0.1, 100_000
# Of large results XLA gets fresh memory at each call, whose pages the system makes one by one as
# they are written: huge ones, where it is asked to.
_PAGE, _LEAST_BYTES, _HUGE_PAGES = 4096, 4 << 20, 14
_ADVICE = [
    "declare i32 @madvise(ptr, i64, i32)",
    "define internal void @advise(ptr %result, i64 %bytes) noinline {",
    f"  %large = icmp uge i64 %bytes, {_LEAST_BYTES}",
    "  br i1 %large, label %advise, label %done",
    "advise:",
    "  %place = ptrtoint ptr %result to i64",
    f"  %page = and i64 %place, -{_PAGE}",
    "  %before = sub i64 %place, %page",
    "  %length = add i64 %bytes, %before",
    "  %start = inttoptr i64 %page to ptr",
    f"  %ignored = call i32 @madvise(ptr %start, i64 %length, i32 {_HUGE_PAGES})",
    "  br label %done",
    "done:",
    "  ret void",
    "}",
]


def kernel_text(
    graph: Scalars,
    operands: Sequence[Operand],
    results: Sequence[Sequence[int]],
    lanes: int,
    library: str,
    minor_version: int,
    price: int,
) -> str:
    """The text of a module with the handler `handler`.

    Args:
        graph: the graph, in simple operations; its inputs are (operand, entry).
        operands: the arrays to read.
        results: the nodes of each array to write, for one point.
        lanes: the points of a tile; 1 for a single point.
        library: the letter of the vector instructions in the names of the vector library.
        minor_version: of the interface.
        price: what a point takes, in additions.
    """
    block = Block(graph.dtype, lanes, library)
    counts = list(map(len, results))
    sources = [f"%s{k}" for k in range(len(operands))]
    targets = [f"%r{k}" for k in range(len(results))]
    pointers = ", ".join(f"ptr noalias {name}" for name in (*sources, *targets))
    body, called = tile(block, graph, operands, results)
    body = [f"define internal void @tile({pointers}) noinline {{", *body, "  ret void", "}"]
    levels = max((each.levels for each in operands), default=0)
    if lanes > 1:
        driver = loop(block, operands, counts)
    else:
        driver = [
            f"define internal void @run({pointers}, i64 %first, i64 %end) {{",
            f"  call void @tile({', '.join(f'ptr {name}' for name in (*sources, *targets))})",
            "  ret void",
            "}",
        ]
    sizes = [count * block.bytes for count in counts]
    # So many points, whole tiles, as take a part's time.
    nanoseconds = price * _PER_ADDITION + max(sum(sizes), 1) * _PER_BYTE
    whole = together(counts, block)
    part = whole * math.ceil(_OF_A_PART / nanoseconds / whole)
    handler = _handler(operands, sizes, levels, minor_version, part, whole)
    attributes = "attributes #0 = { nounwind willreturn memory(none) }"
    return "\n".join([*body, *called, *driver, *handler, *block.declared.values(), attributes, ""])


def _handler(
    operands: Sequence[Operand],
    sizes: Sequence[int],
    levels: int,
    minor_version: int,
    part: int,
    whole: int,
) -> list[str]:
    """What XLA calls: with a request for the version, or with the buffers of a call.

    Args:
        operands: the arrays to read.
        sizes: the bytes that each result has for one point.
        levels: the number of axes of points.
        minor_version: of the interface.
        part: the least points that a thread is given.
        whole: what the points of each thread but the last are a multiple of, a power of two.
    """
    num_results = len(sizes)
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
    if levels:
        for k, size in enumerate(sizes):
            lines += [
                f"  %bytes{k} = mul i64 {points}, {size}",
                f"  call void @advise(ptr %r{k}, i64 %bytes{k})",
            ]
    alone = [f"  call void @run({args}, i64 0, i64 {points})", "  ret ptr null", "}"]
    if not levels:
        return [*lines, *alone]
    stored = []
    for k, name in enumerate(names):
        stored += [
            f"  %array{k} = getelementptr ptr, ptr %arrays, i64 {k}",
            f"  store ptr {name}, ptr %array{k}",
        ]
    return [
        *lines,
        f"  %parts = udiv i64 {points}, {part}",
        "  %is_large = icmp ugt i64 %parts, 1",
        "  br i1 %is_large, label %large, label %alone",
        "large:",
        f"  %threads = call i64 @{THREADS}(ptr %frame)",
        "  %many = call i64 @llvm.umin.i64(i64 %threads, i64 %parts)",
        "  %is_shared = icmp ugt i64 %many, 1",
        "  br i1 %is_shared, label %shared, label %alone",
        "shared:",
        f"  %mean = udiv i64 {points}, %many",
        f"  %above = add i64 %mean, {whole}",
        f"  %each = and i64 %above, -{whole}",
        f"  %arrays = alloca [{len(names)} x ptr]",
        *stored,
        f"  call void @{SHARE}(ptr %frame, i64 {points}, i64 %each, ptr @packed, ptr %arrays, "
        f"i64 {len(names)})",
        "  ret ptr null",
        "alone:",
        *alone,
        *_ADVICE,
        *packed(names),
        "declare i64 @llvm.umin.i64(i64, i64)",
    ]
