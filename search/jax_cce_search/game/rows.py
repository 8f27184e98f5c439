"""A graph in which every product costs one and every sum nothing, for compiled loops.

Of such a graph only its rows are kept, the predecessors and the successors of each node as bit
sets. To eliminate a vertex is to join bit sets, and a row that changes is put down in full, so that
taking it back is to copy it.
"""

from typing import Any, NamedTuple

import numpy as np

from jax_cce_search.game.jit import inlined, jit, lowest
from jax_cce_search.game.state import GROW, NOTHING, State, listed

__all__ = [
    "Rows",
    "eliminate",
    "joined",
    "pay",
    "rows_of",
    "take_back",
]

# Rows in the log of a graph, at first.
_ROOM = 1 << 13


class Rows(NamedTuple):
    """A graph while its vertices are eliminated; rows of eliminated vertices are out of date."""

    sets: Any  # uint64 [2 nodes, words]: the predecessors of each node, then its successors
    log: Any  # uint64 [capacity, 1 + words]: a row's number, and what it was
    top: Any  # int64 [1]: length of the log
    is_output: Any  # bool [nodes]
    first: Any  # int32 [nodes]: room for the neighbours of a vertex
    second: Any  # int32 [nodes]


def rows_of(state: State) -> Rows:
    """The rows of a graph of which nothing is eliminated."""
    nodes, words = state.before.shape
    return Rows(
        sets=np.concatenate([state.before, state.after]),
        log=np.zeros((_ROOM, 1 + words), np.uint64),
        top=np.zeros(1, np.int64),
        is_output=state.is_output,
        first=np.zeros(nodes, np.int32),
        second=np.zeros(nodes, np.int32),
    )


@inlined
def eliminate(rows, vertex):  # type: ignore[no-untyped-def]
    """Eliminates a vertex and returns the cost; -1 where the log has no room for it."""
    sets, log, sources, targets = rows.sets, rows.log, rows.first, rows.second
    nodes, words = sets.shape[0] // 2, sets.shape[1]
    num_sources = listed(sets[vertex], sources)
    num_targets = listed(sets[nodes + vertex], targets)
    top = rows.top[0]
    if top + num_sources + num_targets > log.shape[0]:
        return -1
    word, bit = vertex >> 6, np.uint64(1) << np.uint64(vertex & 63)
    keeps = rows.is_output[vertex]  # that its predecessors lead to it
    for k in range(num_sources):
        row = nodes + sources[k]
        log[top, 0] = row
        for w in range(words):
            known = sets[row, w]
            log[top, 1 + w] = known
            sets[row, w] = known | sets[nodes + vertex, w]
        if not keeps:
            sets[row, word] &= ~bit
        top += 1
    for k in range(num_targets):
        row = targets[k]
        log[top, 0] = row
        for w in range(words):
            known = sets[row, w]
            log[top, 1 + w] = known
            sets[row, w] = known | sets[vertex, w]
        sets[row, word] &= ~bit
        top += 1
    rows.top[0] = top
    return num_sources * num_targets


@inlined
def take_back(rows, top):  # type: ignore[no-untyped-def]
    """Takes back all changes but the first `top`."""
    sets, log = rows.sets, rows.log
    for at in range(rows.top[0] - 1, top - 1, -1):
        row = np.int64(log[at, 0])
        for w in range(sets.shape[1]):
            sets[row, w] = log[at, 1 + w]
    rows.top[0] = top


@inlined
def joined(rows, vertex, inside, sources, targets, gone):  # type: ignore[no-untyped-def]
    """The neighbours that a vertex would have if some others were eliminated.

    They are what paths through the others lead to. A node has a larger number than its
    predecessors, as a rule, so that one pass finds nearly all of them.

    Args:
        rows: the graph; it is left as it is.
        vertex: the vertex.
        inside: uint64 [words], the others; the vertex itself makes no difference.
        sources: uint64 [words], filled with the predecessors.
        targets: uint64 [words], filled with the successors.
        gone: uint64 [words], room.
    """
    sets = rows.sets
    nodes, words = sets.shape[0] // 2, sets.shape[1]
    one = np.uint64(1)
    for side in range(2):
        found = targets if side else sources
        base = nodes if side else 0
        for w in range(words):
            found[w] = sets[base + vertex, w]
            gone[w] = 0
        again = True
        while again:
            again = False
            for k in range(words):
                word = k if side else words - 1 - k
                bits = found[word] & inside[word] & ~gone[word]
                while bits:
                    again = True
                    row = base + (word << 6) + lowest(bits)
                    gone[word] |= bits & (~bits + one)
                    for w in range(words):
                        found[w] |= sets[row, w]
                    bits = found[word] & inside[word] & ~gone[word]
        for word in range(words):
            bits = gone[word]
            found[word] &= ~bits
            while side and bits:
                # To an output that is eliminated its predecessors still lead.
                if rows.is_output[(word << 6) + lowest(bits)]:
                    found[word] |= bits & (~bits + one)
                bits &= bits - one


@jit
def pay(rows, order, paid, missing):  # type: ignore[no-untyped-def]
    """Fills in what each vertex of an order costs: int64 [vertices]; the graph is left as it was.

    Where the log is too short, `missing` says so, and the call has to be repeated.
    """
    missing[0] = NOTHING
    for at in range(order.shape[0]):
        paid[at] = eliminate(rows, order[at])
        if paid[at] < 0:
            missing[0] = GROW
            break
    take_back(rows, 0)
