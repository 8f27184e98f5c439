"""From the nodes of a graph to instructions, loops included."""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from jax_cce.native.instructions import Block
from jax_cce.native.loops import Loop
from jax_cce.native.nodes import Column
from jax_cce.native.scalars import LOGIC, Scalars

__all__ = ["Code", "Place"]


@dataclass(frozen=True)
class Place:
    """Where numbers lie in memory.

    Attributes:
        base: the array.
        offset: their place there, in numbers.
        count: how many they are: 1 for all lanes, or one for each lane or direction.
    """

    base: str
    offset: int
    count: int


class Code:
    """The code for a graph, each node an instruction on vectors.

    Args:
        block: where it goes.
        graph: the graph, in simple operations.
        given: where an input lies, by its place, or its name where that is known.
        wide: the inputs that are vectors of directions.
        width: how many directions these have.
    """

    def __init__(
        self,
        block: Block,
        graph: Scalars,
        given: Callable[[Any], Place | str],
        wide: frozenset[Any] = frozenset(),
        width: int = 1,
    ) -> None:
        self._block, self._graph, self._given = block, graph, given
        self._names: dict[int, str] = {}
        self._truths: set[int] = set()
        # How many directions each vector of directions has, and what else has been spread over one.
        self._widths = dict.fromkeys(map(graph.input, wide), width)
        self._spread: dict[tuple[int, int], str] = {}
        # For each loop the array of what its steps stack.
        self._stacks: dict[int, str] = {}

    def emit(
        self,
        nodes: Sequence[int],
        computed: Callable[[int, Callable[[int], str]], None] | None = None,
    ) -> None:
        """Writes the code of nodes, in their order.

        Args:
            nodes: the nodes, each after its operands.
            computed: is told of each of them.
        """
        graph, block = self._graph, self._block
        for node in nodes:
            op, args = graph.ops[node], graph.args[node]
            match op:
                case "number" | "truth":
                    self._names[node] = block.constant(args[0])
                case "loop":
                    self._run(node)
                case "pack":
                    self._widths[node] = len(args)
                case "keep":
                    wide, lanes = block.of_width(self._widths[args[0]]), graph.params[node]
                    self._names[node] = wide.kept(self.name(args[0]), lanes)
                    self._widths[node] = wide.lanes
                case "lane":
                    self._names[node] = self._of_lane(args[0], graph.params[node])
                case "result":
                    (loop,), (kind, k, *_) = args, graph.params[node]
                    if (kind, k) in graph.params[loop].wide:
                        self._widths[node] = graph.params[loop].width
                case "input" | "table":
                    pass
                case _:
                    width = max(self._widths.get(arg, 0) for arg in args)
                    if width:
                        self._names[node] = self._of_directions(op, args, width)
                        self._widths[node] = width
                    else:
                        of_truths = args[-1] in self._truths
                        self._names[node] = block.node(op, list(map(self.name, args)), of_truths)
            if op in LOGIC or (op == "select_n" and args[-1] in self._truths):
                self._truths.add(node)
            if computed is not None:
                computed(node, self.name)

    def name(self, node: int) -> str:
        """The vector of a node; what lies in memory is loaded where it is first used."""
        name = self._names.get(node)
        if name is None and self._graph.ops[node] == "pack":
            numbers = list(map(self.name, self._graph.args[node]))
            name = self._names[node] = self._block.of_width(len(numbers)).packed(numbers)
        elif name is None:
            given = self._where(node)
            name = given if isinstance(given, str) else self._loaded(given, given.offset)
            self._names[node] = name
        return name

    def _over(self, node: int, width: int) -> str:
        """The name of a node as a vector of directions."""
        if node in self._widths:
            return self.name(node)
        if (node, width) not in self._spread:
            wide, value = self._block.of_width(width), self._graph.values[node]
            name = wide.splat(self.name(node)) if value is None else wide.constant(value)
            self._spread[node, width] = name
        return self._spread[node, width]

    def _of_directions(self, op: str, args: Sequence[int], width: int) -> str:
        """The value of an operation on vectors of directions."""
        wide = self._block.of_width(width)
        if op == "select_n":
            one, other = (self._over(arg, width) for arg in args[1:])
            return wide.where(self.name(args[0]), other, one)
        return wide.node(op, [self._over(arg, width) for arg in args], of_truths=False)

    def _of_lane(self, node: int, lane: int) -> str:
        """One direction of a vector."""
        if node not in self._names:
            place = self._where(node)
            assert isinstance(place, Place)
            return self._loaded(replace(place, count=1), place.offset + lane)
        return self._block.of_width(self._widths[node]).lane(self.name(node), lane)

    def _where(self, node: int) -> Place | str:
        graph = self._graph
        if graph.ops[node] == "input":
            return self._given(graph.args[node][0])
        (node_of_loop,), (_, k, step) = graph.args[node], graph.params[node]
        loop = graph.params[node_of_loop]
        offsets = self._offsets(loop)
        count = offsets[k + 1] - offsets[k]
        return Place(self._stacks[node_of_loop], step * offsets[-1] + offsets[k], count)

    def _offsets(self, loop: Loop) -> list[int]:
        """Where in what a step stacks each result begins, and the next step."""
        sizes = (
            loop.width if ("stacked", k) in loop.wide else self._block.lanes
            for k in range(len(loop.results))
        )
        return [0, *itertools.accumulate(sizes)]

    def _loaded(self, place: Place, offset: Any) -> str:
        block = self._block
        numbers = block.load(place.base, offset, block.of_width(place.count).vector)
        return block.splat(numbers) if place.count == 1 else numbers

    def _run(self, node: int) -> None:
        """Writes the code of a loop."""
        graph, block, loop = self._graph, self._block, self._graph.params[node]
        wide = block.of_width(max(1, loop.width))
        starts, entering, rows = loop.split(graph.args[node])
        given: dict[Any, str] = {}

        def entered(place: Any, each: int) -> str:
            return self._over(each, loop.width) if place in loop.wide else self.name(each)

        first = [entered(("carry", k), each) for k, each in enumerate(starts)]
        for k, each in enumerate(entering):
            given["entering", k] = entered(("entering", k), each)
        ways = [
            self._way(nodes, loop.width if ("row", k) in loop.wide else 0)
            for k, nodes in enumerate(rows)
        ]
        stack, offsets = (
            self._stacks.setdefault(node, block.new_name("%stack")),
            self._offsets(loop),
        )
        if loop.results:
            block.reserve(stack, -(-loop.length * offsets[-1] // block.lanes))
        inputs = frozenset(place for place in loop.wide if place[0] != "stacked")
        body = Code(block, loop.body, given.__getitem__, inputs, wide.lanes)
        fixed, moving = _apart(loop)
        body.emit(fixed)
        # A value for each carry, from before or from the step before.
        before, label = block.label, block.new_name("loop")
        block.do(f"br label %{label}")
        block.begin(label)
        step, after = block.new_name("%step"), block.new_name("%after")
        heads = [len(block.lines) + k for k in range(1 + len(first))]
        for k in range(len(first)):
            given["carry", k] = block.new_name("%carry")
        block.lines += [""] * len(heads)
        at = step
        if loop.reverse:
            at = block.add(f"sub i64 {loop.length - 1}, {step}")
        reads = {each for each in moving if loop.body.ops[each] == "input"}
        for k, (place, stride) in enumerate(ways):
            if loop.body.input(("row", k)) in reads:
                offset = block.add(f"mul i64 {at}, {stride}")
                offset = block.add(f"add i64 {offset}, {place.offset}")
                given["row", k] = self._loaded(place, offset)
        body.emit(moving)

        def left(place: Any, each: int) -> tuple[str, str]:
            if place in loop.wide:
                return body._over(each, wide.lanes), wide.vector
            return body.name(each), block.vector

        if loop.results:
            own = block.pointer(stack, block.add(f"mul i64 {at}, {offsets[-1]}"))
            for k, each in enumerate(loop.results):
                value, kind = left(("stacked", k), each)
                block.store(value, own, offsets[k], kind)
        last = [left(("carry", k), each) for k, each in enumerate(loop.carries)]
        block.do(f"{after} = add i64 {step}, 1")
        end = block.new_name("end")
        if loop.active is None:
            more = block.add(f"icmp ult i64 {after}, {loop.length}")
        else:
            more = block.any(body.name(loop.active))
        block.do(f"br i1 {more}, label %{label}, label %{end}")
        latch = block.label
        pairs = [(step, "i64", "0", after)]
        pairs += [
            (given["carry", k], kind, start, value)
            for k, (start, (value, kind)) in enumerate(zip(first, last, strict=True))
        ]
        for line, (name, kind, start, value) in zip(heads, pairs, strict=True):
            block.lines[line] = (
                f"  {name} = phi {kind} [ {start}, %{before} ], [ {value}, %{latch} ]"
            )
        block.begin(end)
        for k, (name, _) in enumerate(last):
            self._names[graph.result(node, ("carry", k))] = name

    def _way(self, nodes: Sequence[int], width: int) -> tuple[Place, int]:
        """Where what steps read lies: of the first step, and how far it is to the next.

        Args:
            nodes: the nodes of all steps.
            width: of how many directions these are; 0 where they are numbers.
        """
        graph, block = self._graph, self._block
        given = graph.args[nodes[0]][0]
        if graph.ops[nodes[0]] == "table":
            return Place(block.table(given), 0, 1), 1
        if isinstance(given, Column):
            return Place(f"%s{given.number}", given.first, 1), given.stride
        flat = list(nodes)
        if width:
            flat = [
                each
                for node in nodes
                for each in (graph.args[node] if graph.ops[node] == "pack" else [node] * width)
            ]
        values = [graph.values[node] for node in flat]
        if None not in values:
            return Place(block.table(values), 0, max(1, width)), max(1, width)
        if all(graph.ops[node] in ("input", "result") for node in nodes):
            places = [None if node in self._names else self._where(node) for node in nodes]
            first = places[0]
            if isinstance(first, Place) and isinstance(places[1], Place):
                stride = places[1].offset - first.offset
                regular = [
                    replace(first, offset=first.offset + k * stride) for k in range(len(nodes))
                ]
                if places == regular:
                    return first, stride
        size = width or block.lanes
        buffer = block.reserve(block.new_name("%rows"), -(-size * len(nodes) // block.lanes))
        kind = block.of_width(size).vector
        for k, node in enumerate(nodes):
            if graph.ops[node] == "pack" and node not in self._names:
                for lane, each in enumerate(graph.args[node]):
                    block.store(self.name(each), buffer, k * size + lane, block.type)
                continue
            value = self._over(node, width) if width else self.name(node)
            block.store(value, buffer, k * size, kind)
        return Place(buffer, 0, size), size


def _apart(loop: Loop) -> tuple[list[int], list[int]]:
    """The nodes of a body that are the same in all steps, and the others."""
    body = loop.body
    fixed, moving, varied = list[int](), list[int](), set[int]()
    for node in body.needed(loop.outputs):
        is_given = body.is_given(node)
        if body.ops[node] == "input":
            varies = body.args[node][0][0] != "entering"
        else:
            varies = not is_given and not varied.isdisjoint(body.args[node])
        if varies:
            varied.add(node)
        (moving if varies else fixed).append(node)
    return fixed, moving
