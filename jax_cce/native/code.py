"""From the nodes of a graph to instructions, loops included."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from jax_cce.native.instructions import Block
from jax_cce.native.loops import Loop
from jax_cce.native.scalars import LOGIC, Scalars

__all__ = ["Code", "Place"]


@dataclass(frozen=True)
class Place:
    """Where a number lies in memory.

    Attributes:
        base: the array.
        offset: its place there, in numbers.
        is_same: whether it is one for all lanes.
    """

    base: str
    offset: int
    is_same: bool


class Code:
    """The code for a graph, each node an instruction on vectors.

    Args:
        block: where it goes.
        graph: the graph, in simple operations.
        given: where an input lies, by its place, or its name where that is known.
    """

    def __init__(self, block: Block, graph: Scalars, given: Callable[[Any], Place | str]) -> None:
        self._block, self._graph, self._given = block, graph, given
        self._names: dict[int, str] = {}
        self._truths: set[int] = set()
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
            if op in ("number", "truth"):
                self._names[node] = block.constant(args[0])
            elif op == "loop":
                self._run(node)
            elif op not in ("input", "result"):
                of_truths = args[-1] in self._truths
                names = [self.name(arg) for arg in args]
                self._names[node] = block.node(op, names, of_truths)
            if op in LOGIC or (op == "select_n" and args[-1] in self._truths):
                self._truths.add(node)
            if computed is not None:
                computed(node, self.name)

    def name(self, node: int) -> str:
        """The vector of a node; what lies in memory is loaded where it is first used."""
        name = self._names.get(node)
        if name is None:
            given = self._where(node)
            name = given if isinstance(given, str) else self._loaded(given, given.offset)
            self._names[node] = name
        return name

    def _where(self, node: int) -> Place | str:
        graph = self._graph
        if graph.ops[node] == "input":
            return self._given(graph.args[node][0])
        (loop,), (_, k, step) = graph.args[node], graph.params[node]
        count = len(graph.params[loop].results)
        return Place(self._stacks[loop], (step * count + k) * self._block.lanes, is_same=False)

    def _loaded(self, place: Place, offset: Any) -> str:
        block = self._block
        if place.is_same:
            return block.splat(block.load(place.base, offset, block.type))
        return block.load(place.base, offset, block.vector)

    def _run(self, node: int) -> None:
        """Writes the code of a loop."""
        graph, block, loop = self._graph, self._block, self._graph.params[node]
        starts, entering, rows = loop.split(graph.args[node])
        first = list(map(self.name, starts))
        given: dict[Any, str] = {
            ("entering", k): self.name(each) for k, each in enumerate(entering)
        }
        ways = [self._way(nodes) for nodes in rows]
        stack = self._stacks[node] = block.new_name("%stack")
        if loop.results:
            block.reserve(stack, loop.length * len(loop.results))
        body = Code(block, loop.body, given.__getitem__)
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
        reads = {body_node for body_node in moving if loop.body.ops[body_node] == "input"}
        for k, (place, stride) in enumerate(ways):
            if loop.body.input(("row", k)) in reads:
                offset = block.add(f"mul i64 {at}, {stride}")
                offset = block.add(f"add i64 {offset}, {place.offset}")
                given["row", k] = self._loaded(place, offset)
        body.emit(moving)
        if loop.results:
            count = len(loop.results) * block.lanes
            own = block.pointer(stack, block.add(f"mul i64 {at}, {count}"))
            for k, each in enumerate(loop.results):
                block.store(body.name(each), own, k * block.lanes, block.vector)
        last = list(map(body.name, loop.carries))
        block.do(f"{after} = add i64 {step}, 1")
        more, end = block.add(f"icmp ult i64 {after}, {loop.length}"), block.new_name("end")
        block.do(f"br i1 {more}, label %{label}, label %{end}")
        latch = block.label
        names = [given["carry", k] for k in range(len(first))]
        pairs = [(step, "i64", "0", after)]
        pairs += [(name, block.vector, x, y) for name, x, y in zip(names, first, last, strict=True)]
        for line, (name, kind, x, y) in zip(heads, pairs, strict=True):
            block.lines[line] = f"  {name} = phi {kind} [ {x}, %{before} ], [ {y}, %{latch} ]"
        block.begin(end)
        for k, name in enumerate(last):
            self._names[graph.result(node, ("carry", k))] = name

    def _way(self, nodes: Sequence[int]) -> tuple[Place, int]:
        """Where what steps read lies: of the first step, and how far it is to the next."""
        graph, block = self._graph, self._block
        values = [graph.values[node] for node in nodes]
        if None not in values:
            return Place(block.table(values), 0, is_same=True), 1
        if all(graph.ops[node] in ("input", "result") for node in nodes):
            places = [None if node in self._names else self._where(node) for node in nodes]
            first, stride = places[0], 0
            if isinstance(first, Place) and isinstance(places[1], Place):
                stride = places[1].offset - first.offset
                regular = [
                    Place(first.base, first.offset + k * stride, first.is_same)
                    for k in range(len(nodes))
                ]
                if places == regular:
                    return first, stride
        buffer = block.reserve(block.new_name("%rows"), len(nodes))
        for k, node in enumerate(nodes):
            block.store(self.name(node), buffer, k * block.lanes, block.vector)
        return Place(buffer, 0, is_same=False), block.lanes


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
