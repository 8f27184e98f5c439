"""Simulated annealing on graphs in which every product costs one and every sum nothing.

Of such a graph only its rows are kept, the predecessors and the successors of each node as bit
sets. To eliminate a vertex is to join bit sets, and a row that changes is put down in full, so that
taking it back is to copy it.
"""

from typing import Any, NamedTuple

import numpy as np

from jax_cce_search.game.jit import inlined, jit
from jax_cce_search.game.moves import drawn, heat
from jax_cce_search.game.state import GROW, NOTHING, State, counted, listed

__all__ = [
    "Rows",
    "anneal",
    "pay",
    "rows_of",
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
def _join(rows, vertex, num_sources, num_targets):  # type: ignore[no-untyped-def]
    """Eliminates a vertex whose neighbours are listed."""
    sets, log, sources, targets = rows.sets, rows.log, rows.first, rows.second
    nodes, words = sets.shape[0] // 2, sets.shape[1]
    word, bit = vertex >> 6, np.uint64(1) << np.uint64(vertex & 63)
    top = rows.top[0]
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


@inlined
def _take_back(rows, top):  # type: ignore[no-untyped-def]
    """Takes back all changes but the first `top`."""
    sets, log = rows.sets, rows.log
    for at in range(rows.top[0] - 1, top - 1, -1):
        row = np.int64(log[at, 0])
        for w in range(sets.shape[1]):
            sets[row, w] = log[at, 1 + w]
    rows.top[0] = top


@inlined
def _eliminate(rows, vertex):  # type: ignore[no-untyped-def]
    """Eliminates a vertex and returns the cost; -1 where the log has no room for it."""
    nodes = rows.sets.shape[0] // 2
    num_sources = listed(rows.sets[vertex], rows.first)
    num_targets = listed(rows.sets[nodes + vertex], rows.second)
    if rows.top[0] + num_sources + num_targets > rows.log.shape[0]:
        return -1
    _join(rows, vertex, num_sources, num_targets)
    return num_sources * num_targets


@jit
def pay(rows, order, paid, missing):  # type: ignore[no-untyped-def]
    """Fills in what each vertex of an order costs: int64 [vertices]; the graph is left as it was.

    Where the log is too short, `missing` says so, and the call has to be repeated.
    """
    missing[0] = NOTHING
    for at in range(order.shape[0]):
        paid[at] = _eliminate(rows, order[at])
        if paid[at] < 0:
            missing[0] = GROW
            break
    _take_back(rows, 0)


@jit
def anneal(  # type: ignore[no-untyped-def]
    rows, order, best, paid, least, marks, tally, draws, done, schedule, missing
):
    """Simulated annealing by insertion moves, from `done` on; returns how many moves are done.

    The first position that a move changes sweeps from the end of the order to its start, so that
    the graph is always eliminated up to there. A move takes that vertex to a later place, or a
    later one there, and what lies between is evaluated anew. The Metropolis threshold is drawn
    first. A move is given up as soon as it is over the threshold even if the vertices yet to be
    eliminated cost the least that they can.

    Args:
        rows: the graph, eliminated up to the cursor.
        order: int32 [vertices], the current order.
        best: int32 [vertices], the best one so far.
        paid: int64 [vertices], what each vertex of the current order costs.
        least: int64 [nodes], what each vertex costs at least in any order.
        marks: int64 [vertices + 1], the length of the log before each position.
        tally: int64 [5]: cursor, sweep, current cost, best cost, moves so far.
        draws: float64 [moves, 2] (see `random_numbers`).
        done: how many of these moves are done already.
        schedule: float64 [3]: number of moves in all, and first and last temperature as a
            fraction of the current cost.
        missing: what is missing, which is room in the log at most.
    """
    missing[0] = NOTHING
    last = order.shape[0] - 1
    trial = np.empty(order.shape[0], np.int32)
    new_paid = np.empty(order.shape[0], np.int64)
    nodes = rows.sets.shape[0] // 2
    temperature = 0.0
    while done < draws.shape[0]:
        low = tally[1]
        high, forwards = drawn(low, last, draws[done, 0])
        if tally[0] > low:
            _take_back(rows, marks[low])
            tally[0] = low
        while tally[0] < low:
            if _eliminate(rows, order[tally[0]]) < 0:
                missing[0] = GROW
                return done
            tally[0] += 1
            marks[tally[0]] = rows.top[0]
        temperature = heat(temperature, tally, schedule)
        slack = temperature * draws[done, 1]
        gain = 0
        for k in range(low, high + 1):
            gain += least[order[k]] - paid[k]
            trial[k] = order[k + 1] if forwards and k < high else order[k - 1]
        trial[high if forwards else low] = order[low if forwards else high]
        for at in range(low, high + 1):
            vertex = trial[at]
            num_sources = counted(rows.sets[vertex])
            num_targets = counted(rows.sets[nodes + vertex])
            cost = num_sources * num_targets
            new_paid[at] = cost
            gain += cost - least[vertex]
            if gain > slack or at == high:
                break
            if rows.top[0] + num_sources + num_targets > rows.log.shape[0]:
                missing[0] = GROW
                _take_back(rows, marks[low])
                return done
            listed(rows.sets[vertex], rows.first)
            listed(rows.sets[nodes + vertex], rows.second)
            _join(rows, vertex, num_sources, num_targets)
        _take_back(rows, marks[low])
        if gain <= slack:
            order[low : high + 1] = trial[low : high + 1]
            paid[low : high + 1] = new_paid[low : high + 1]
            tally[2] += gain
            if tally[2] < tally[3]:
                tally[3] = tally[2]
                best[:] = order
        tally[1] = low - 1 if low > 0 else last - 1
        tally[4] += 1
        done += 1
    return done
