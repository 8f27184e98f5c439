"""The code for a tile: as many points as a vector register holds, or a single one.

Within a tile every node is one instruction on vectors, with a lane for each point. Points lie in
memory one after the other, so that entries are transposed on the way in and on the way out, by
functions that move a block of as many entries as there are lanes. Between these and the tile lie
buffers that stay in the first level of the cache. Results leave in the order in which they are
computed, several blocks together, because a call keeps nothing in registers.
"""

import itertools
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from jax_cce.native.instructions import Block
from jax_cce.native.scalars import LOGIC, Scalars

__all__ = ["Operand", "tile"]

_MANY_ZEROS = 16
# Entries of results that leave together.
_MOST_WAITING = 128


@dataclass(frozen=True)
class Operand:
    """An array that a kernel reads.

    Attributes:
        size: its entries for one point.
        levels: the number of its leading axes of points; 0 where it is the same for all points.
    """

    size: int
    levels: int


@dataclass(frozen=True)
class _Columns:
    """Entries of an array that are moved together.

    Attributes:
        array: the number of the array.
        start: the first of them.
        count: how many there are.
    """

    array: int
    start: int
    count: int


def tile(
    block: Block, graph: Scalars, operands: Sequence[Operand], results: Sequence[Sequence[int]]
) -> tuple[list[str], list[str]]:
    """The body of a function of the arrays `%s0`, ... and `%r0`, ..., and functions that it calls.

    Args:
        block: collects the declarations of functions of the library.
        graph: the graph, in simple operations; its inputs are (operand, entry).
        operands: the arrays to read.
        results: the nodes of each array to write.
    """
    nodes = graph.needed([node for row in results for node in row])
    names: dict[int, str] = {}
    entries = [graph.args[node][0] for node in nodes if graph.ops[node] == "input"]
    turned: set[tuple[int, bool]] = set()
    read = _reader(block, operands, entries, turned)

    def name(node: int) -> str:
        if node not in names:
            names[node] = read(*graph.args[node][0])
        return names[node]

    computed = _writer(block, results, graph.zero, name, turned)
    for node in nodes:
        op, args = graph.ops[node], graph.args[node]
        if op in ("number", "truth"):
            names[node] = block.constant(args[0])
        elif op != "input":
            of_truths = any(graph.ops[arg] in LOGIC for arg in args[-1:])
            names[node] = block.node(op, [name(arg) for arg in args], of_truths)
        computed(node, is_last=node == nodes[-1])
    called = [line for each in sorted(turned) for line in _turning(block, *each)]
    return block.lines, called


def _reader(
    block: Block,
    operands: Sequence[Operand],
    entries: Sequence[tuple[int, int]],
    turned: set[tuple[int, bool]],
) -> Callable[[int, int], str]:
    """Brings what is read to where each entry is a vector, and says how one is loaded."""
    lanes = block.lanes
    places: dict[tuple[int, int], int] = {}
    moved: list[tuple[_Columns, int]] = []
    if lanes > 1:
        wanted, total = set(entries), 0
        for array, operand in enumerate(operands):
            kept = [operand.levels > 0 and (array, k) in wanted for k in range(operand.size)]
            for columns in _columns(array, kept, lanes):
                moved.append((columns, total))
                for entry in range(columns.start, columns.start + columns.count):
                    places[array, entry] = total
                    total += 1
    if moved:
        block.do(f"%entries = alloca [{total} x {block.vector}], align 64")
    for each, place in moved:
        source = block.pointer(f"%s{each.array}", each.start)
        size, count = operands[each.array].size, each.count
        buffer = block.pointer("%entries", place * lanes)
        turned.add((count, True))
        block.do(f"call void @read{count}(ptr {buffer}, ptr {source}, i64 {size})")

    def read(array: int, entry: int) -> str:
        place = places.get((array, entry))
        if place is None:
            return block.splat(block.load(f"%s{array}", entry, block.type))
        return block.load("%entries", place * lanes, block.vector)

    return read


def _writer(
    block: Block,
    results: Sequence[Sequence[int]],
    zero: int,
    name: Callable[[int], str],
    turned: set[tuple[int, bool]],
) -> Callable[..., None]:
    """Clears what is mostly zero, and says what to do when a node has been computed."""
    lanes = block.lanes
    # For each node the blocks that it is in, and for each of these how many nodes are missing.
    waiting: dict[int, list[_Columns]] = defaultdict(list)
    missing: dict[_Columns, int] = {}
    for array, row in enumerate(results):
        zeros = row.count(zero)
        clears = zeros > max(_MANY_ZEROS, len(row) // 2)
        if clears:
            total = len(row) * lanes * block.bytes
            block.clear(f"%r{array}", total)
        kept = [not clears or node != zero for node in row]
        for columns in _columns(array, kept, lanes):
            own = set(_nodes(results, columns))
            missing[columns] = len(own)
            for node in own:
                waiting[node].append(columns)
    most = min(_MOST_WAITING, sum(columns.count for columns in missing))
    slots: list[str] = []
    if lanes > 1 and most:
        block.do(f"%results = alloca [{most} x {block.vector}], align 64")
        slots += [block.pointer("%results", k * lanes) for k in range(most)]
    pending: list[tuple[_Columns, int]] = []
    filled = 0

    def leave() -> None:
        nonlocal filled
        for each, first in pending:
            target, size = block.pointer(f"%r{each.array}", each.start), len(results[each.array])
            turned.add((each.count, False))
            block.do(f"call void @write{each.count}(ptr {slots[first]}, ptr {target}, i64 {size})")
        pending.clear()
        filled = 0

    def computed(node: int, *, is_last: bool) -> None:
        nonlocal filled
        for columns in waiting.get(node, ()):
            missing[columns] -= 1
            if missing[columns]:
                continue
            nodes = _nodes(results, columns)
            if lanes == 1:
                block.store(name(nodes[0]), f"%r{columns.array}", columns.start, block.type)
                continue
            if filled + columns.count > most:
                leave()
            for slot, each in zip(slots[filled:], nodes, strict=False):
                block.do(f"store {block.vector} {name(each)}, ptr {slot}")
            pending.append((columns, filled))
            filled += columns.count
        if is_last:
            leave()

    return computed


def _nodes(results: Sequence[Sequence[int]], columns: _Columns) -> Sequence[int]:
    return results[columns.array][columns.start : columns.start + columns.count]


def _columns(array: int, kept: Sequence[bool], lanes: int) -> list[_Columns]:
    """Covers entries of an array: by the lanes, and what is left by a power of two."""
    size, found, start = len(kept), [], 0
    while start < size:
        if not kept[start]:
            start += 1
            continue
        run = len(list(itertools.takewhile(bool, kept[start : start + lanes])))
        count = min(1 << (run - 1).bit_length(), size)
        # What would go beyond the end overlaps what is before.
        found.append(_Columns(array, min(start, size - count), count))
        start += count
    return found


def _turning(like: Block, count: int, reads: bool) -> list[str]:
    """The function that moves some entries of as many points as there are lanes.

    Between a buffer, in which the points of each entry lie together, and an array, in which the
    entries of each point do, so many numbers from one point to the next.
    """
    block, lanes = like.another(), like.lanes
    kind = f"<{count} x {block.type}>"

    def resized(vector: str, of: int, to: int) -> str:
        if of == to:
            return vector
        places = ", ".join(f"i32 {k}" if k < of else "i32 poison" for k in range(to))
        one = f"<{of} x {block.type}>"
        return block.add(f"shufflevector {one} {vector}, {one} poison, <{to} x i32> <{places}>")

    offsets = [block.add(f"mul i64 %step, {point}") for point in range(lanes)]
    if reads:
        rows = [resized(block.load("%array", at, kind), count, lanes) for at in offsets]
        for k, column in enumerate(block.transposed(rows)[:count]):
            block.store(column, "%buffer", k * lanes, block.vector)
    else:
        rows = [block.load("%buffer", k * lanes, block.vector) for k in range(count)]
        rows += ["poison"] * (lanes - count)
        for at, column in zip(offsets, block.transposed(rows), strict=True):
            block.store(resized(column, lanes, count), "%array", at, kind)
    name = f"{'read' if reads else 'write'}{count}"
    arguments = "ptr noalias %buffer, ptr noalias %array, i64 %step"
    return [
        f"define internal void @{name}({arguments}) noinline {{",
        *block.lines,
        "  ret void",
        "}",
    ]
