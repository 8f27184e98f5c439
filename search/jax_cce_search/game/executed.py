"""Orders by the operations that are executed, once they are folded and equal ones are one.

On the edges are the nodes of a scalar graph (see `jax_cce.native.scalars`), here a table to which
products, sums and signs are added as vertices are eliminated. A node that was made is found again
in whatever order it is made, so that two orders that come to the same edges go on alike, and cost
the same. What masks make simpler is counted as it stands.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from jax_cce.native.edges import Edges
from jax_cce.native.skeletons import skeleton
from jax_cce_search.game.compiled import Compiled
from jax_cce_search.game.jit import inlined, jit
from jax_cce_search.game.moves import drawn, heat
from jax_cce_search.game.state import GROW, NOTHING, detach, edge_hash, listed, mixed, undo

__all__ = [
    "Executed",
    "Nodes",
    "anneal",
    "pay",
]

# What a node is; 0 is any other operation, or what is given.
_NUMBER, _NEG, _ADD, _SUB, _MUL = range(1, 6)
_MADE = {"neg": _NEG, "add": _ADD, "sub": _SUB, "mul": _MUL}
# Nodes in a table, at first, and how many evaluations' worth of them.
_ROOM, _EVALUATIONS = 1 << 16, 32


class Nodes(NamedTuple):
    """A table of nodes: those of the function and of its local derivatives, then what is made."""

    op: Any  # int8 [capacity]
    one: Any  # int32 [capacity]: the first operand of what is made
    other: Any  # int32 [capacity]: the second, or 0
    value: Any  # float64 [capacity]: of numbers
    weight: Any  # int64 [capacity]: what it counts
    seen: Any  # int64 [capacity]: the walk that has seen it; -1 where it is always needed
    count: Any  # int64 [3]: how many nodes; how many of the function; walks so far
    names: Any  # uint64 [slots], a power of two: hashed with linear probing; 0 where it is free
    node: Any  # int32 [slots]: what has that name
    first: Any  # int32 [nodes of the function + 1]: the first operand in `operands`
    operands: Any  # int32 [operands]: of the nodes of the function
    weights: Any  # int64 [6]: what each kind of node counts
    zero: Any  # int: the node of 0
    single: Any  # bool: whether numbers are rounded to float32
    pending: Any  # int32 [capacity]: room for walks


@inlined
def _found(nodes, name):  # type: ignore[no-untyped-def]
    """Where a name is, or the free slot where it would be."""
    mask = nodes.names.shape[0] - 1
    at = np.int64(mixed(name) >> np.uint64(20)) & mask
    while nodes.names[at] != name and nodes.names[at] != 0:
        at = (at + 1) & mask
    return at


@inlined
def _entered(nodes, at, name, op, one, other, value):  # type: ignore[no-untyped-def]
    new = nodes.count[0]
    nodes.names[at] = name
    nodes.node[at] = new
    nodes.op[new], nodes.one[new], nodes.other[new] = op, one, other
    nodes.value[new] = value
    nodes.weight[new] = nodes.weights[op]
    nodes.seen[new] = 0
    nodes.count[0] = new + 1
    return new


@inlined
def _name(op, one, other):  # type: ignore[no-untyped-def]
    return (np.uint64(op) << np.uint64(60)) | (np.uint64(one) << np.uint64(30)) | np.uint64(other)


@jit
def _made(nodes, op, one, other):  # type: ignore[no-untyped-def]
    """The node of an operation that is not made simpler."""
    name = _name(op, one, other)
    at = _found(nodes, name)
    return nodes.node[at] if nodes.names[at] else _entered(nodes, at, name, op, one, other, 0.0)


@jit
def _number(nodes, value):  # type: ignore[no-untyped-def]
    """The node of a number."""
    if nodes.single:
        value = np.float64(np.float32(value))
    if value == 0:
        return nodes.zero
    # A number is named by its bits; that two of them have one hash is not to be feared.
    digits = mixed(np.array([value]).view(np.uint64)[0])
    name = (np.uint64(_NUMBER) << np.uint64(60)) | (digits >> np.uint64(4))
    at = _found(nodes, name)
    return nodes.node[at] if nodes.names[at] else _entered(nodes, at, name, _NUMBER, 0, 0, value)


@inlined
def _negative(nodes, x):  # type: ignore[no-untyped-def]
    if nodes.op[x] == _NUMBER:
        return _number(nodes, -nodes.value[x])
    if nodes.op[x] == _NEG:
        return np.int64(nodes.one[x])
    return np.int64(_made(nodes, _NEG, x, 0))


@inlined
def _product(nodes, x, y):  # type: ignore[no-untyped-def]
    """The node of a product, as `Scalars.make` has it."""
    if nodes.op[y] == _NUMBER:
        x, y = y, x
    if nodes.op[x] == _NUMBER:
        value = nodes.value[x]
        if nodes.op[y] == _NUMBER:
            return np.int64(_number(nodes, value * nodes.value[y]))
        if value == 0:
            return np.int64(x)
        if value == 1:
            return np.int64(y)
        if value == -1:
            return np.int64(_negative(nodes, y))
    negative = False
    if nodes.op[x] == _NEG:
        x, negative = np.int64(nodes.one[x]), True
    if nodes.op[y] == _NEG:
        y, negative = np.int64(nodes.one[y]), not negative
    made = np.int64(_made(nodes, _MUL, min(x, y), max(x, y)))
    return np.int64(_negative(nodes, made)) if negative else made


@inlined
def _added(nodes, x, y):  # type: ignore[no-untyped-def]
    """The node of a sum, as `Scalars.make` has it."""
    x, y = min(x, y), max(x, y)
    if nodes.op[x] == _NUMBER and nodes.op[y] == _NUMBER:
        return np.int64(_number(nodes, nodes.value[x] + nodes.value[y]))
    if x == nodes.zero or y == nodes.zero:
        return y if x == nodes.zero else x
    if nodes.op[y] == _NEG:
        return np.int64(_subtracted(nodes, x, np.int64(nodes.one[y])))
    if nodes.op[x] == _NEG:
        return np.int64(_subtracted(nodes, y, np.int64(nodes.one[x])))
    return np.int64(_made(nodes, _ADD, x, y))


@jit
def _subtracted(nodes, x, y):  # type: ignore[no-untyped-def]
    if nodes.op[y] == _NEG:
        y = np.int64(nodes.one[y])
        return np.int64(_made(nodes, _ADD, min(x, y), max(x, y)))
    return np.int64(_made(nodes, _SUB, x, y))


@inlined
def _total(nodes, x, y):  # type: ignore[no-untyped-def]
    """The node of a sum, as `Scalars.total` has it."""
    one = np.int64(nodes.one[x]) if nodes.op[x] == _NEG else x
    other = np.int64(nodes.one[y]) if nodes.op[y] == _NEG else y
    if nodes.op[one] != _MUL or nodes.op[other] != _MUL:
        return np.int64(_added(nodes, x, y))
    a, b = np.int64(nodes.one[one]), np.int64(nodes.other[one])
    c, d = np.int64(nodes.one[other]), np.int64(nodes.other[other])
    if a != c and a != d:
        a, b = b, a
    if a == d:
        c, d = d, c
    if a != c:
        return np.int64(_added(nodes, x, y))
    if nodes.op[x] == _NEG:
        b = np.int64(_negative(nodes, b))
    if nodes.op[y] == _NEG:
        d = np.int64(_negative(nodes, d))
    return np.int64(_product(nodes, a, np.int64(_added(nodes, b, d))))


@inlined
def _eliminate(state, nodes, vertex):  # type: ignore[no-untyped-def]
    """Eliminates a vertex; whether there was room for it, else nothing is done."""
    edges, before, after, log = state.kind, state.before, state.after, state.log
    sources, targets = state.first, state.second
    size = edges.shape[0]
    num_sources = listed(before[vertex], sources)
    num_targets = listed(after[vertex], targets)
    products = num_sources * num_targets
    top = state.top[0]
    if top + products + num_sources + num_targets > log.shape[0]:
        return False
    if nodes.count[0] + 6 * products > nodes.op.shape[0]:
        return False
    digest = np.uint64(0)
    one = np.uint64(1)
    for b in range(num_targets):
        target = targets[b]
        outer = np.int64(edges[vertex, target] - 1)
        for a in range(num_sources):
            source = sources[a]
            known = np.int64(edges[source, target])
            made = _product(nodes, outer, np.int64(edges[source, vertex] - 1))
            if known:
                made = _total(nodes, known - 1, made)
            kind = 0 if made == nodes.zero else made + 1
            if kind == known:
                continue
            log[top, 0], log[top, 1], log[top, 2] = source, target, known
            top += 1
            edges[source, target] = kind
            if known == 0 or kind == 0:
                after[source, target >> 6] ^= one << np.uint64(target & 63)
                before[target, source >> 6] ^= one << np.uint64(source & 63)
            edge = source * size + target
            digest ^= edge_hash(edge, known) ^ edge_hash(edge, kind)
    top, gone = detach(state, vertex, sources, num_sources, targets, num_targets, top)
    digest ^= gone
    state.top[0] = top
    state.digest[0] ^= digest
    return True


@jit
def _price(state, nodes):  # type: ignore[no-untyped-def]
    """What the nodes count that the blocks of the Jacobian need, beyond those always needed."""
    nodes.count[2] += 1
    walk = nodes.count[2]
    pending, seen = nodes.pending, nodes.seen
    own = nodes.count[1]
    price = np.int64(0)
    top = 0
    for k in range(state.results.shape[0]):
        kind = state.kind[state.results[k, 0], state.results[k, 1]]
        if kind == 0:
            continue
        root = np.int64(kind - 1)
        if seen[root] != walk and seen[root] >= 0:
            seen[root] = walk
            pending[top] = root
            top += 1
        while top:
            top -= 1
            node = pending[top]
            price += nodes.weight[node]
            if node < own:
                for at in range(nodes.first[node], nodes.first[node + 1]):
                    operand = nodes.operands[at]
                    if seen[operand] != walk and seen[operand] >= 0:
                        seen[operand] = walk
                        pending[top] = operand
                        top += 1
            elif nodes.op[node] != _NUMBER:
                operand = nodes.one[node]
                if seen[operand] != walk and seen[operand] >= 0:
                    seen[operand] = walk
                    pending[top] = operand
                    top += 1
                operand = nodes.other[node]
                if nodes.op[node] != _NEG and seen[operand] != walk and seen[operand] >= 0:
                    seen[operand] = walk
                    pending[top] = operand
                    top += 1
    return price


@jit
def pay(state, nodes, order, digests, missing):  # type: ignore[no-untyped-def]
    """What an order computes beyond what is always needed; fills in the hash at each position."""
    missing[0] = NOTHING
    undo(state, 0)
    digests[0] = state.digest[0]
    for at in range(order.shape[0]):
        if not _eliminate(state, nodes, order[at]):
            missing[0] = GROW
            undo(state, 0)
            return -1
        digests[at + 1] = state.digest[0]
    price = _price(state, nodes)
    undo(state, 0)
    return price


@jit
def anneal(  # type: ignore[no-untyped-def]
    state, nodes, order, best, digests, marks, tally, draws, done, schedule, missing
):
    """Simulated annealing by insertion moves, from `done` on; returns how many moves are done.

    As `annealing.anneal`. What a move costs is known when it has come to a graph that the current
    order comes to at that position, where it costs nothing, or else at the end.

    Args:
        state: the graph, eliminated up to the cursor, whose kinds are nodes, counted from 1.
        nodes: the nodes.
        order: int32 [vertices], the current order.
        best: int32 [vertices], the best one so far.
        digests: uint64 [vertices + 1], the hash of the graph before each position.
        marks: int64 [vertices + 1], the length of the log before each position.
        tally: int64 [5]: cursor, sweep, current cost, best cost, moves so far.
        draws: float64 [moves, 2] (see `moves.random_numbers`).
        done: how many of these moves are done already.
        schedule: float64 [3]: number of moves in all, and first and last temperature as a
            fraction of the current cost.
        missing: what is missing, which is room.
    """
    missing[0] = NOTHING
    last = order.shape[0] - 1
    trial = np.empty(order.shape[0], np.int32)
    new_digests = np.empty(order.shape[0] + 1, np.uint64)
    temperature = 0.0
    while done < draws.shape[0]:
        low = tally[1]
        high, forwards = drawn(low, last, draws[done, 0])
        if tally[0] > low:
            undo(state, marks[low])
            tally[0] = low
        while tally[0] < low:
            if not _eliminate(state, nodes, order[tally[0]]):
                missing[0] = GROW
                return done
            tally[0] += 1
            marks[tally[0]] = state.top[0]
        temperature = heat(temperature, tally, schedule)
        slack = np.int64(min(temperature * draws[done, 1], 1e17))
        for k in range(low, high + 1):
            trial[k] = order[k + 1] if forwards and k < high else order[k - 1]
        trial[high if forwards else low] = order[low if forwards else high]
        at = low
        met = False
        while at <= last:
            if at > high:
                if state.digest[0] == digests[at]:
                    met = True
                    break
                trial[at] = order[at]
            if not _eliminate(state, nodes, trial[at]):
                missing[0] = GROW
                undo(state, marks[low])
                return done
            at += 1
            new_digests[at] = state.digest[0]
        gain = np.int64(0)
        if not met and state.digest[0] != digests[last + 1]:
            gain = tally[5] + _price(state, nodes) - tally[2]
        undo(state, marks[low])
        if gain <= slack:
            order[low:at] = trial[low:at]
            digests[low + 1 : at + 1] = new_digests[low + 1 : at + 1]
            tally[2] += gain
            if tally[2] < tally[3]:
                tally[3] = tally[2]
                best[:] = order
        tally[1] = low - 1 if low > 0 else last - 1
        tally[4] += 1
        done += 1
    return done


class Executed:
    """The arrays of a graph of scalars that the compiled loops work on.

    Args:
        edges: the graph.
        weights: what each node of the function and of its local derivatives counts.
        sign: what a negation counts that is made; products, sums and differences count one.
        needed: nodes that are computed in any case, such as the outputs.

    Attributes:
        always: what the nodes count that are computed in any case.
    """

    def __init__(
        self, edges: Edges, weights: Sequence[int], sign: int = 1, needed: Sequence[int] = ()
    ) -> None:
        self._edges, self._weights, self._sign = edges, weights, sign
        self._needed = edges.graph.needed(needed)
        self.always = sum(weights[node] for node in self._needed)
        self._compiled = Compiled(skeleton(edges), uniform=False, prefix_cost=0)
        self.state = self._compiled.state
        for node, found in edges.before.items():
            for arg, partial in found.items():
                number = self._compiled.number
                self.state.kind[number[arg], number[node]] = partial + 1
        self._room = max(_ROOM, 4 * len(edges.graph.ops))
        self.missing = np.zeros(1, np.int64)
        self.clear()

    def numbered(self, order: Sequence[int]) -> np.ndarray:
        """An order by the numbers of vertices, as the compiled loops number them."""
        vertices = self._edges.vertices
        return self._compiled.numbered(vertices[k] for k in order)

    def named(self, order: np.ndarray) -> tuple[int, ...]:
        """An order as numbers of vertices."""
        place = {node: k for k, node in enumerate(self._edges.vertices)}
        return tuple(place[node] for node in self._compiled.named(order))

    def clear(self) -> None:
        """Forgets what was made."""
        self.nodes = _nodes(self._edges, self._weights, self._sign, self._needed, self._room)

    def make_room(self, *, more: bool) -> None:
        """Takes back what is eliminated, and makes the log longer if that is what was too short.

        Args:
            more: whether both the log and the table have to be larger.
        """
        undo(self.state, 0)
        if more or 10 * self.nodes.count[0] < 9 * self._room:
            log = self.state.log
            self.state = self.state._replace(log=np.concatenate([log, np.zeros_like(log)]))
        if more:
            self._room *= 2

    def pay(self, order: np.ndarray, digests: np.ndarray) -> int:
        """What is computed in an order of the compiled loops' numbers; all else is forgotten."""
        while True:
            self.clear()
            own = int(self.nodes.count[0])
            price = pay(self.state, self.nodes, order, digests, self.missing)
            made = int(self.nodes.count[0]) - own
            if self.missing[0] != NOTHING:
                self.make_room(more=True)
            elif own + _EVALUATIONS * made > self._room:
                self._room *= 2
            else:
                return self.always + int(price)

    def price(self, order: Sequence[int]) -> int:
        """What is computed in an order by the numbers of vertices."""
        return self.pay(self.numbered(order), np.zeros(len(order) + 1, np.uint64))


def _nodes(
    edges: Edges, weights: Sequence[int], sign: int, needed: Sequence[int], room: int
) -> Nodes:
    """The table of the nodes that are there before anything is eliminated."""
    graph = edges.graph
    count = len(graph.ops)
    operands = [() if graph.is_given(node) else graph.operands(node) for node in range(count)]
    slots = 1 << (2 * room - 1).bit_length()
    nodes = Nodes(
        op=np.zeros(room, np.int8),
        one=np.zeros(room, np.int32),
        other=np.zeros(room, np.int32),
        value=np.zeros(room, np.float64),
        weight=np.zeros(room, np.int64),
        seen=np.zeros(room, np.int64),
        count=np.array([count, count, 0], np.int64),
        names=np.zeros(slots, np.uint64),
        node=np.zeros(slots, np.int32),
        first=np.cumsum([0, *map(len, operands)], dtype=np.int32),
        operands=np.array([arg for args in operands for arg in args], np.int32),
        weights=np.array([0, 0, sign, 1, 1, 1], np.int64),
        zero=graph.zero,
        single=graph.dtype == np.float32,
        pending=np.zeros(room, np.int32),
    )
    nodes.weight[:count] = weights
    nodes.seen[list(needed)] = -1
    names: dict[int, int] = {}
    for node, op in enumerate(graph.ops):
        if op == "number":
            value = float(graph.args[node][0])
            nodes.op[node], nodes.value[node] = _NUMBER, value
        elif op in _MADE and node not in graph.kept:
            args = graph.args[node]
            one, other = args[0], args[1] if len(args) > 1 else 0
            nodes.op[node], nodes.one[node], nodes.other[node] = _MADE[op], one, other
            names[_MADE[op] << 60 | one << 30 | other] = node
    _enter(
        nodes,
        np.array(list(names), np.uint64),
        np.array(list(names.values()), np.int32),
    )
    return nodes


@jit
def _enter(nodes, names, of_names):  # type: ignore[no-untyped-def]
    """Enters the names of what there is."""
    for k in range(names.shape[0]):
        at = _found(nodes, names[k])
        nodes.names[at], nodes.node[at] = names[k], of_names[k]
    for node in range(nodes.count[1]):
        value = nodes.value[node]
        if nodes.op[node] == _NUMBER and value != 0:
            digits = mixed(np.array([value]).view(np.uint64)[0])
            name = (np.uint64(_NUMBER) << np.uint64(60)) | (digits >> np.uint64(4))
            at = _found(nodes, name)
            nodes.names[at], nodes.node[at] = name, node
