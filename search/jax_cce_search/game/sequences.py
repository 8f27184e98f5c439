"""Compiled annealing over sequences of vertices and single edges, in graphs of scalars.

Every product costs one here and no edge vanishes, so that a graph is two bit sets a node. The graph
before each item of the current sequence is kept: a change is evaluated from where it begins to
where the graph is as it was.
"""

from typing import Any, NamedTuple

import numpy as np

from jax_cce_search.game.jit import inlined, jit, lowest

__all__ = [
    "BACK",
    "FRONT",
    "VERTEX",
    "Walk",
    "anneal",
    "replay",
]

# What an item is; a vertex stands as (VERTEX, vertex, 0), an edge with its source and target.
VERTEX, FRONT, BACK = range(3)


class Walk(NamedTuple):
    """A graph, a sequence, and the graph before each item of the sequence."""

    kept: (
        Any  # uint64 [items + 1, 2 * nodes * words]: the predecessors of all nodes, the successors
    )
    paid: Any  # int64 [items + 1]: what the items so far cost
    is_vertex: Any  # bool [nodes]
    is_output: Any  # bool [nodes]
    items: Any  # int32 [items, 3]
    trial: Any  # int32 [items, 3]: room for a changed sequence
    graph: Any  # uint64 [2 * nodes * words]: room for a graph
    room: Any  # int64 [2 * nodes]: room for the neighbours of a vertex


# Arrays are taken out of the tuple once, and never cut into rows: counting references to them takes
# longer than what is done with them.


@inlined
def _bit(node):  # type: ignore[no-untyped-def]
    return np.uint64(1) << np.uint64(node & 63)


@inlined
def _is_empty(graph, begin, words):  # type: ignore[no-untyped-def]
    """Whether the bit set that begins there is empty."""
    any_of = np.uint64(0)
    for word in range(words):
        any_of |= graph[begin + word]
    return any_of == 0


@inlined
def _listed(graph, begin, words, room, first):  # type: ignore[no-untyped-def]
    """Writes the members of the bit set that begins there into `room`; returns their number."""
    count = 0
    for word in range(words):
        x = graph[begin + word]
        while x:
            room[first + count] = (word << 6) + lowest(x)
            count += 1
            x &= x - np.uint64(1)
    return count


@inlined
def _unite(graph, into, begin, words):  # type: ignore[no-untyped-def]
    for word in range(words):
        graph[into + word] |= graph[begin + word]


@inlined
def _clear(graph, begin, words):  # type: ignore[no-untyped-def]
    for word in range(words):
        graph[begin + word] = 0


@inlined
def _eliminate(graph, is_vertex, is_output, room, kind, source, target):  # type: ignore[no-untyped-def]
    """Eliminates a vertex or an edge of a graph; returns the number of products, or -1 for none.

    An edge that is not there, or that cannot be eliminated so, is left alone (see
    `jax_cce.graph.elimination.GraphState`).
    """
    nodes = is_vertex.shape[0]
    words = (nodes + 63) >> 6
    behind = nodes * words  # where the successors begin
    into, out = source * words, behind + source * words
    if kind == VERTEX:
        at, bit = source >> 6, _bit(source)
        keeps = is_output[source]
        num_sources = _listed(graph, into, words, room, 0)
        num_targets = _listed(graph, out, words, room, nodes)
        for a in range(num_sources):
            of_node = behind + room[a] * words
            _unite(graph, of_node, out, words)
            if not keeps:
                graph[of_node + at] ^= bit
        for b in range(num_targets):
            of_node = room[nodes + b] * words
            _unite(graph, of_node, into, words)
            graph[of_node + at] ^= bit
        _clear(graph, out, words)
        if not keeps:
            _clear(graph, into, words)
        return num_sources * num_targets
    if graph[out + (target >> 6)] & _bit(target) == 0:
        return -1
    of_target = behind + target * words  # its successors
    if kind == FRONT:
        if not is_vertex[target] or is_output[target] or _is_empty(graph, of_target, words):
            return -1
        count = _listed(graph, of_target, words, room, 0)
        _unite(graph, out, of_target, words)
        graph[out + (target >> 6)] ^= _bit(target)
        graph[target * words + (source >> 6)] ^= _bit(source)
        is_dead = _is_empty(graph, target * words, words)
        for b in range(count):
            graph[room[b] * words + (source >> 6)] |= _bit(source)
            if is_dead:
                graph[room[b] * words + (target >> 6)] ^= _bit(target)
        if is_dead:
            _clear(graph, of_target, words)
        return count
    if not is_vertex[source] or _is_empty(graph, into, words):
        return -1
    count = _listed(graph, into, words, room, 0)
    _unite(graph, target * words, into, words)
    graph[out + (target >> 6)] ^= _bit(target)
    graph[target * words + (source >> 6)] ^= _bit(source)
    is_dead = _is_empty(graph, out, words) and not is_output[source]
    for a in range(count):
        graph[behind + room[a] * words + (target >> 6)] |= _bit(target)
        if is_dead:
            graph[behind + room[a] * words + (source >> 6)] ^= _bit(source)
    if is_dead:
        _clear(graph, into, words)
    return count


@jit
def replay(walk, low, high):  # type: ignore[no-untyped-def]
    """Evaluates the items from `low` up to `high` anew, and keeps the graph before each."""
    kept, graph, paid, items = walk.kept, walk.graph, walk.paid, walk.items
    is_vertex, is_output, room = walk.is_vertex, walk.is_output, walk.room
    graph[:] = kept[low]
    for at in range(low, high):
        kind, source, target = items[at, 0], items[at, 1], items[at, 2]
        cost = _eliminate(graph, is_vertex, is_output, room, kind, source, target)
        kept[at + 1] = graph
        paid[at + 1] = paid[at] + max(cost, 0)


@inlined
def _is_as_before(graph, kept, at):  # type: ignore[no-untyped-def]
    """Whether the successors of all nodes are the same; their predecessors follow from these."""
    word, end = graph.shape[0] >> 1, graph.shape[0]
    while word < end and graph[word] == kept[at, word]:
        word += 1
    return word == end


@jit
def anneal(walk, best, tally, draws, schedule):  # type: ignore[no-untyped-def]
    """Simulated annealing by taking items elsewhere, putting edges in, and leaving edges out.

    Args:
        walk: the graph and the current sequence, evaluated.
        best: int32 [items, 3], the best sequence so far.
        tally: int64 [5]: items in the current sequence, vertices among them, items in the best one,
            what that costs, and moves so far.
        draws: float64 [moves, 6], uniform random numbers.
        schedule: float64 [4]: number of moves in all, first and last temperature in products, and
            how many edges a sequence may have at most.
    """
    kept, graph, paid, items, trial = walk.kept, walk.graph, walk.paid, walk.items, walk.trial
    is_vertex, is_output, room = walk.is_vertex, walk.is_output, walk.room
    nodes = is_vertex.shape[0]
    words = (nodes + 63) >> 6
    behind = nodes * words
    for k in range(draws.shape[0]):
        count, edges = tally[0], tally[0] - tally[1]
        progress = tally[4] / schedule[0]
        tally[4] += 1
        temperature = schedule[1] * (schedule[2] / schedule[1]) ** progress
        allowed = paid[count] + np.int64(-temperature * np.log(draws[k, 0] + 1e-300))
        what = draws[k, 1]
        # The items from `low` up to `high` change; behind them stand those from `rest` on.
        low = int(draws[k, 2] * count)
        is_new = what < 0.15 and edges < schedule[3]
        if is_new:
            graph[:] = kept[low]
            starts = 0
            for node in range(nodes):
                if not _is_empty(graph, behind + node * words, words):
                    room[starts] = node
                    starts += 1
            if starts == 0:
                continue
            source = room[int(draws[k, 3] * starts)]
            others = _listed(graph, behind + source * words, words, room, 0)
            trial[low, 0] = FRONT if draws[k, 5] < 0.5 else BACK
            trial[low, 1], trial[low, 2] = source, room[int(draws[k, 4] * others)]
            high, rest = low + 1, low
        elif what < 0.3 and edges > 0:
            while items[low, 0] == VERTEX:
                low = (low + 1) % count
            high, rest = low, low + 1
        else:
            here = low
            distance = int(np.exp(draws[k, 3] * np.log(count)))
            there = here + distance if draws[k, 4] < 0.5 else here - distance
            if there < 0 or there >= count:
                continue
            low, high = min(here, there), max(here, there) + 1
            rest = high
            for j in range(3):
                if here < there:
                    for at in range(low, high - 1):
                        trial[at, j] = items[at + 1, j]
                    trial[there, j] = items[here, j]
                else:
                    trial[there, j] = items[here, j]
                    for at in range(low + 1, high):
                        trial[at, j] = items[at - 1, j]
        shift = rest - high
        graph[:] = kept[low]
        cost, upto = paid[low], count - shift
        for at in range(low, count - shift):
            if at >= high and _is_as_before(graph, kept, at + shift):
                # From here on all goes as it did.
                cost += paid[count] - paid[at + shift]
                upto = at
                break
            if at < high:
                kind, source, target = trial[at, 0], trial[at, 1], trial[at, 2]
            else:
                kind, source, target = (
                    items[at + shift, 0],
                    items[at + shift, 1],
                    items[at + shift, 2],
                )
            price = _eliminate(graph, is_vertex, is_output, room, kind, source, target)
            if price < 0:
                if is_new and at < high:
                    # An edge that was put in where it cannot be eliminated.
                    cost = allowed + 1
                    break
                price = 0
            cost += price
            if cost > allowed:
                break
        if cost > allowed:
            continue
        new_count = count - shift
        if shift > 0:
            for at in range(high, new_count):
                for j in range(3):
                    items[at, j] = items[at + shift, j]
        elif shift < 0:
            for at in range(new_count - 1, high - 1, -1):
                for j in range(3):
                    items[at, j] = items[at + shift, j]
        for at in range(low, high):
            for j in range(3):
                items[at, j] = trial[at, j]
        tally[0] = new_count
        replay(walk, low, upto if shift == 0 else new_count)
        if shift == 0:
            change = cost - paid[count]
            for at in range(upto + 1, count + 1):
                paid[at] += change
        if cost < tally[3]:
            tally[2], tally[3] = new_count, cost
            for at in range(new_count):
                for j in range(3):
                    best[at, j] = items[at, j]
