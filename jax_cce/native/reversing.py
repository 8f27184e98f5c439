"""Loops that are run again, from the last step to the first, with adjoints (reverse accumulation).

Where there are fewer outputs than inputs, what a loop is differentiated by is not carried through
it. The loop stacks the states of its steps; a second one goes back over them. It carries the
adjoint of each carry, adds up those of what enters every step, and stacks those of what a step
reads. For a single point, the outputs take the lanes that are the points otherwise.
"""

import functools
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from jax_cce.native.directions import groups_of, packed, width_of
from jax_cce.native.expanding import expanded
from jax_cce.native.extending import spread
from jax_cce.native.loops import MOST_CARRIED, Loop, Place, most_stacked
from jax_cce.native.nodes import Unsupported
from jax_cce.native.scalars import Scalars

__all__ = ["reversed_through"]

# For each output its derivative by some nodes, where that is not zero.
_Rows = Sequence[Mapping[int, int]]
_Jacobian = Callable[..., tuple[list[list[int]], str]]
_Dependence = Callable[[Scalars, Mapping[int, int], Sequence[int]], list[int]]


def reversed_through(
    graph: Scalars,
    node: int,
    rows: _Rows,
    varied: Collection[int],
    jacobian: _Jacobian,
    dependence: _Dependence,
) -> list[dict[int, int]]:
    """The derivatives of outputs by the operands of a loop, from those by its results.

    Args:
        graph: the graph around it.
        node: the loop, of known length.
        rows: for each output its derivative by each result that is not zero.
        varied: the nodes that depend on what is differentiated by.
        jacobian: gives the derivatives of a step (`jacobians.jacobian`).
        dependence: on which inputs, as a set of bits, outputs of a graph depend.

    Raises:
        Unsupported: where too much would be carried or stacked.
    """
    loop: Loop = graph.params[node]
    body = loop.body
    operands = {
        (kind, k): nodes
        for kind, every in loop.operands(graph.args[node]).items()
        for k, nodes in enumerate(every)
    }
    places = _varying(loop, operands, varied, dependence)
    slots = [body.input(place) for place in places]
    bits = {slot: 1 << k for k, slot in enumerate(slots)}
    outputs: list[Place] = [("carry", k) for k in range(len(loop.carries))]
    outputs += [("stacked", k) for k in range(len(loop.results))]
    nodes = dict(zip(outputs, [*loop.carries, *loop.results], strict=True))
    found = dependence(body, bits, list(nodes.values()))
    depends = {
        output: {place for k, place in enumerate(places) if own >> k & 1}
        for output, own in zip(outputs, found, strict=True)
    }
    groups = groups_of(graph, range(len(rows)))
    width = body.packed = graph.packed or width_of(graph, range(len(rows)))
    back = _Back(graph, loop, node, width)
    seeds = []
    for g, group in enumerate(groups):
        live = _live(graph, node, loop, [rows[j] for j in group], depends)
        terms = []
        for output in live:
            adjoint = back.adjoint(g, output, group, rows)
            terms.append(body.make("mul", adjoint, nodes[output]))
        seeds.append(body.sum(terms))
    derivatives, _ = jacobian(body, slots, seeds)
    for g, row in enumerate(derivatives):
        for place, derivative in zip(places, row, strict=True):
            if derivative != body.zero or (g, place) in back.carries:
                back.add(g, place, derivative)
    return back.closed(operands, groups, len(rows), varied)


@dataclass
class _Back:
    """The loop that goes back, under construction.

    Attributes:
        graph: the graph around it.
        loop: the loop that goes forth.
        node: the node of that.
        width: how many outputs are together in a vector; 0 where they are numbers.
        carries: for each group of outputs and place the adjoint that is carried: the first value,
            the input of the body, and the next value.
        stacked: for each group and row the adjoint that is stacked.
        incoming: for each group and result the input of the body, and its values for all steps.
    """

    graph: Scalars
    loop: Loop
    node: int
    width: int
    carries: dict[tuple[int, Place], list[int]] = field(default_factory=dict)
    stacked: dict[tuple[int, Place], int] = field(default_factory=dict)
    incoming: dict[tuple[int, Place], tuple[int, list[int]]] = field(default_factory=dict)

    def adjoint(self, g: int, output: Place, group: Sequence[int], rows: _Rows) -> int:
        """The node, in the body, of the adjoint of what a step carries out or stacks."""
        graph, body = self.graph, self.loop.body

        def together(place: Place) -> int:
            result = graph.result(self.node, place)
            values = {j: rows[j].get(result, graph.zero) for j in group}
            return packed(graph, self.width, group, values)

        if output[0] == "carry":
            slot = body.input(("adjoint", g, output))
            self.carries[g, output] = [together(output), slot, body.zero]
            return slot
        every = [together((*output, t)) for t in range(self.loop.length)]
        slot = body.input(("incoming", g, output))
        self.incoming[g, output] = slot, every
        return slot

    def add(self, g: int, place: Place, derivative: int) -> None:
        """Takes the adjoint of what a step is given."""
        body = self.loop.body
        match place[0]:
            case "carry":
                if (g, place) not in self.carries:
                    slot = body.input(("adjoint", g, place))
                    self.carries[g, place] = [self.graph.zero, slot, body.zero]
                self.carries[g, place][2] = derivative
            case "entering":
                slot = body.input(("adjoint", g, place))
                total = body.make("add", slot, derivative)
                self.carries[g, place] = [self.graph.zero, slot, total]
            case _:
                self.stacked[g, place] = derivative

    def closed(
        self,
        operands: Mapping[Place, Sequence[int]],
        groups: Sequence[Sequence[int]],
        count: int,
        varied: Collection[int],
    ) -> list[dict[int, int]]:
        """Adds both loops to the graph, and returns the derivatives by operand."""
        graph, loop, body = self.graph, self.loop, self.loop.body
        if not self.carries and not self.stacked:
            return [{} for _ in range(count)]
        wanted = [*(each[2] for each in self.carries.values()), *self.stacked.values()]
        reads = [body.args[x][0] for x in body.needed(wanted) if body.ops[x] == "input"]
        states = [place for place in reads if place[0] == "carry"]
        width = max(1, self.width)
        for numbers in (len(states), len(self.incoming) * width, len(self.stacked) * width):
            if numbers * loop.length > most_stacked(graph):
                raise Unsupported("a loop stacks too many numbers")
        if self.width and len(self.carries) * self.width > MOST_CARRIED:
            raise Unsupported("a loop carries too many adjoints")
        # What goes forth stacks what every step begins with.
        slots = [body.input(place) for place in states]
        forth = replace(loop, results=[*loop.results, *slots])
        instead = graph.instead[self.node] = graph.loop(forth, graph.args[self.node])
        first = len(loop.results)
        rows = [list(nodes) for place, nodes in operands.items() if place[0] == "row"]
        renamed: dict[Place, Place] = {}
        for k, place in enumerate(states):
            renamed[place] = "row", len(rows)
            stacked = (("stacked", first + k, t) for t in range(loop.length))
            rows.append([graph.result(instead, each) for each in stacked])
        wide = []
        for slot, every in self.incoming.values():
            renamed[body.args[slot][0]] = "row", len(rows)
            wide.append(("row", len(rows)))
            rows.append(every)
        for k, (_, slot, _) in enumerate(self.carries.values()):
            renamed[body.args[slot][0]] = "carry", k
            wide.append(("carry", k))
        wide += [("stacked", k) for k in range(len(self.stacked))]
        own, nodes = expanded(body, wanted, renamed)
        graph.adopt(own)
        back = replace(
            loop,
            body=own,
            reverse=not loop.reverse,
            carries=nodes[: len(self.carries)],
            results=nodes[len(self.carries) :],
            rows=list(map(len, rows)),
            width=self.width,
            wide=frozenset(wide if self.width else ()),
        )
        entering = [nodes[0] for place, nodes in operands.items() if place[0] == "entering"]
        starts = [start for start, _, _ in self.carries.values()]
        node = graph.loop(back, [*starts, *entering, *(x for row in rows for x in row)])
        derivatives: list[dict[int, int]] = [{} for _ in range(count)]
        for operand, g, result in self._results(node, operands, varied):
            for lane, j in enumerate(groups[g]):
                is_lane = self.width and not graph.packed
                one = graph.make("lane", result, param=lane) if is_lane else result
                known = derivatives[j].get(operand)
                derivatives[j][operand] = one if known is None else graph.make("add", known, one)
        return derivatives

    def _results(
        self, node: int, operands: Mapping[Place, Sequence[int]], varied: Collection[int]
    ) -> Iterator[tuple[int, int, int]]:
        """Operands, each with a group of outputs, and the adjoint."""
        for k, (g, place) in enumerate(self.carries):
            (operand,) = operands[place]
            if operand in varied:
                yield operand, g, self.graph.result(node, ("carry", k))
        for k, (g, place) in enumerate(self.stacked):
            for t, operand in enumerate(operands[place]):
                if operand in varied:
                    yield operand, g, self.graph.result(node, ("stacked", k, t))


def _varying(
    loop: Loop,
    operands: Mapping[Place, Sequence[int]],
    varied: Collection[int],
    dependence: _Dependence,
) -> list[Place]:
    """The inputs of a body that depend, in any step, on what is differentiated by."""
    body = loop.body
    bits = {
        body.input(place): int(any(node in varied for node in nodes))
        for place, nodes in operands.items()
    }
    spread(loop, bits, dependence)
    return [place for place in operands if bits[body.input(place)]]


def _live(
    graph: Scalars, node: int, loop: Loop, rows: _Rows, depends: Mapping[Place, set[Place]]
) -> list[Place]:
    """What a step carries out and stacks that some outputs depend on."""
    by_result = functools.reduce(set.union, rows, set[int]())

    def is_wanted(place: Place) -> bool:
        steps = range(loop.length) if place[0] == "stacked" else [None]
        each = (place if t is None else (*place, t) for t in steps)
        return any(graph.result(node, one) in by_result for one in each)

    live = {place for place in depends if is_wanted(place)}
    while True:
        more = set().union(*(depends[place] for place in live)).intersection(depends) - live
        if not more:
            return [place for place in depends if place in live]
        live |= more
