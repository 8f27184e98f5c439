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

from jax_cce.native.code import Code, Place
from jax_cce.native.instructions import Block
from jax_cce.native.nodes import Unsupported
from jax_cce.native.scalars import Scalars

__all__ = ["Operand", "tile"]

_MANY_ZEROS = 16
# Entries of results that leave together.
_MOST_WAITING = 128
# Bytes of a thread's stack that a tile may take.
_MOST_RESERVED = 1 << 20


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
    nodes = graph.in_order_of_code([node for row in results for node in row])
    entries = [graph.args[node][0] for node in nodes if graph.ops[node] == "input"]
    source, target = _Source(block, operands, entries), _Target(block, results, graph.zero)
    code = Code(block, graph, source.place)
    code.emit(nodes, target.computed)
    target.leave()
    if block.reserved_bytes > _MOST_RESERVED:
        raise Unsupported("its loops store too much")
    called = [line for count in sorted(source.counts) for line in _moving(block, count, reads=True)]
    for count in sorted(target.counts):
        called += _moving(block, count, reads=False)
    return ["entry:", *block.reserved, *block.lines], called


class _Source:
    """The arrays that are read, brought to where each entry is a vector.

    Args:
        block: the code.
        operands: the arrays.
        entries: what is read of them, each with the number of its array.

    Attributes:
        counts: how many entries have been moved together.
    """

    def __init__(
        self, block: Block, operands: Sequence[Operand], entries: Sequence[tuple[int, int]]
    ) -> None:
        self._block, self._places = block, dict[tuple[int, int], int]()
        self.counts: set[int] = set()
        if block.lanes == 1:
            return
        wanted, moved, total = set(entries), [], 0
        for array, operand in enumerate(operands):
            kept = [operand.levels > 0 and (array, k) in wanted for k in range(operand.size)]
            for columns in _columns(array, kept, block.lanes):
                moved.append((columns, total))
                for entry in range(columns.start, columns.start + columns.count):
                    self._places[array, entry] = total
                    total += 1
        if moved:
            block.reserve("%entries", total)
        for columns, first in moved:
            buffer = block.pointer("%entries", first * block.lanes)
            place = block.pointer(f"%s{columns.array}", columns.start)
            step = operands[columns.array].size
            block.do(f"call void @read{columns.count}(ptr {buffer}, ptr {place}, i64 {step})")
            self.counts.add(columns.count)

    def place(self, where: tuple[int, int]) -> Place:
        """Where an entry of an array lies."""
        at = self._places.get(where)
        if at is None:
            return Place(f"%s{where[0]}", where[1], 1)
        return Place("%entries", at * self._block.lanes, self._block.lanes)


class _Target:
    """The arrays that are written; what is mostly zero is cleared before.

    Args:
        block: the code.
        results: the nodes of each array.
        zero: the node that is zero.

    Attributes:
        counts: how many entries have been moved together.
    """

    def __init__(self, block: Block, results: Sequence[Sequence[int]], zero: int) -> None:
        self._block, self._results = block, results
        self.counts: set[int] = set()
        # For each node what it is in, and for each of these how many nodes are missing.
        self._waiting: dict[int, list[_Columns]] = defaultdict(list)
        self._missing: dict[_Columns, int] = {}
        for array, row in enumerate(results):
            clears = row.count(zero) > max(_MANY_ZEROS, len(row) // 2)
            if clears:
                block.clear(f"%r{array}", len(row) * block.lanes * block.bytes)
            kept = [not clears or node != zero for node in row]
            for columns in _columns(array, kept, block.lanes):
                nodes = set(self._nodes(columns))
                self._missing[columns] = len(nodes)
                for node in nodes:
                    self._waiting[node].append(columns)
        self._pending: list[tuple[_Columns, str]] = []
        self._slots: list[str] = []
        self._filled = 0
        most = min(_MOST_WAITING, sum(columns.count for columns in self._missing))
        if block.lanes > 1 and most:
            block.reserve("%results", most)
            self._slots += [block.pointer("%results", k * block.lanes) for k in range(most)]

    def computed(self, node: int, name: Callable[[int], str]) -> None:
        """Writes what a node was the last one of that was missing."""
        block = self._block
        for columns in self._waiting.get(node, ()):
            self._missing[columns] -= 1
            if self._missing[columns]:
                continue
            names = map(name, self._nodes(columns))
            if block.lanes == 1:
                block.store(next(names), f"%r{columns.array}", columns.start, block.type)
                continue
            if self._filled + columns.count > len(self._slots):
                self.leave()
            slots = self._slots[self._filled :][: columns.count]
            for slot, each in zip(slots, names, strict=True):
                block.do(f"store {block.vector} {each}, ptr {slot}")
            self._pending.append((columns, slots[0]))
            self._filled += columns.count

    def leave(self) -> None:
        """Moves to the arrays what has been written to the buffer."""
        for columns, buffer in self._pending:
            place = self._block.pointer(f"%r{columns.array}", columns.start)
            step = len(self._results[columns.array])
            self._block.do(
                f"call void @write{columns.count}(ptr {buffer}, ptr {place}, i64 {step})"
            )
            self.counts.add(columns.count)
        self._pending, self._filled = [], 0

    def _nodes(self, columns: _Columns) -> Sequence[int]:
        return self._results[columns.array][columns.start : columns.start + columns.count]


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


def _moving(like: Block, count: int, *, reads: bool) -> list[str]:
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
