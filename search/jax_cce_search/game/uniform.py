"""Simulated annealing on graphs in which every product costs one and every sum nothing.

A move changes what a vertex costs only where that is a neighbour of the one that moves, at the time
of its elimination. So only these are priced, from the paths that lead through what is eliminated
before them (Rose & Tarjan 1978, for the fill of directed graphs), and a long move past others is no
dearer than a short one.
"""

import numpy as np

from jax_cce_search.game.jit import inlined, jit, lowest, ones
from jax_cce_search.game.moves import heat, neighbour
from jax_cce_search.game.rows import eliminate, joined, take_back
from jax_cce_search.game.state import GROW, NOTHING, counted

__all__ = [
    "anneal",
]

_ONE = np.uint64(1)
# Sets of nodes of a move that is priced.
_INSIDE, _AHEAD, _BEFORE, _AFTER, _SOURCES, _TARGETS, _GONE, _SETS = range(8)


@inlined
def _first(one, other, ahead, place, none):  # type: ignore[no-untyped-def]
    """The first position of a member of one of two sets that is ahead; `none` without any."""
    first = none
    for word in range(ahead.shape[0]):
        bits = (one[word] | other[word]) & ahead[word]
        while bits:
            first = min(first, np.int64(place[(word << 6) + lowest(bits)]))
            bits &= bits - _ONE
    return first


@inlined
def _united(one, other, left_out):  # type: ignore[no-untyped-def]
    """How many nodes are in one of two sets; one that is left out counts in the second alone."""
    count = 0
    for word in range(one.shape[0]):
        bits = one[word]
        if word == left_out >> 6:
            bits &= ~(_ONE << np.uint64(left_out & 63))
        count += ones(bits | other[word])
    return count


@inlined
def _priced(rows, order, place, paid, least, low, high, forwards, slack, sets, changed):  # type: ignore[no-untyped-def]
    """What a move makes dearer; it is given up as soon as that is more than the slack for certain.

    Args:
        rows: the graph, eliminated up to `low`.
        order: int32 [vertices], the order.
        place: int32 [nodes], the position of each vertex in it.
        paid: int64 [vertices], what each vertex of the order costs.
        least: int64 [nodes], what each vertex costs at least in any order.
        low: the first position that changes.
        high: the last one.
        forwards: whether the first vertex goes to the end; else the last one goes to the start.
        slack: how much dearer a move may be.
        sets: uint64 [_SETS, words], room.
        changed: int64 [vertices, 2], filled with positions, in the order before the move, and what
            their vertices cost after it.

    Returns:
        How much dearer it is, how many other vertices change, and what the one that moves costs.
    """
    nodes, words = rows.sets.shape[0] // 2, rows.sets.shape[1]
    inside, ahead, gone = sets[_INSIDE], sets[_AHEAD], sets[_GONE]
    # The neighbours of the one that moves, and those of another, as the others are eliminated.
    before, after, sources, targets = sets[_BEFORE], sets[_AFTER], sets[_SOURCES], sets[_TARGETS]
    begin, end = (low + 1, high + 1) if forwards else (low, high)
    mover = order[low] if forwards else order[high]
    for word in range(words):
        before[word], after[word] = rows.sets[mover, word], rows.sets[nodes + mover, word]
        inside[word], ahead[word] = 0, 0
    saved = 0  # what the others can become cheaper at most
    for at in range(begin, end):
        vertex = order[at]
        ahead[vertex >> 6] |= _ONE << np.uint64(vertex & 63)
        saved += paid[at] - least[vertex]
    moved = least[mover] if forwards else counted(before) * counted(after)
    gain = moved - (paid[low] if forwards else paid[high])
    count = 0
    while gain - saved <= slack:
        at = _first(before, after, ahead, place, end)
        if at == end:
            break
        for k in range(begin, at + 1):
            vertex = order[k]
            bit = _ONE << np.uint64(vertex & 63)
            ahead[vertex >> 6] &= ~bit
            inside[vertex >> 6] |= bit
            saved -= paid[k] - least[vertex]
        begin = at + 1
        word = vertex >> 6
        joined(rows, vertex, inside, sources, targets, gone)
        if after[word] & bit:
            # It comes after the one that moves, and has its predecessors once that is eliminated.
            first = counted(sources) if forwards else _united(sources, before, mover)
            cost = first * counted(targets)
            if not rows.is_output[vertex]:
                after[word] &= ~bit
            for w in range(words):
                after[w] |= targets[w]
        else:
            second = counted(targets)
            if not forwards:
                # An output remains its successor.
                left_out = -1 if rows.is_output[mover] else mover
                second = _united(targets, after, left_out)
            cost = counted(sources) * second
            before[word] &= ~bit
            for w in range(words):
                before[w] |= sources[w]
        gain += cost - paid[at]
        changed[count, 0], changed[count, 1] = at, cost
        count += 1
    if forwards and gain - saved <= slack:
        gain -= moved
        moved = counted(before) * counted(after)
        gain += moved
    return gain, count, moved


@inlined
def _move(order, place, paid, low, high, forwards):  # type: ignore[no-untyped-def]
    """Moves a vertex and what it costs."""
    step = 1 if forwards else -1
    at, end = (low, high) if forwards else (high, low)
    mover, cost = order[at], paid[at]
    while at != end:
        order[at], paid[at] = order[at + step], paid[at + step]
        place[order[at]] = at
        at += step
    order[end], paid[end] = mover, cost
    place[mover] = end


@jit
def anneal(  # type: ignore[no-untyped-def]
    rows,
    order,
    place,
    best,
    paid,
    least,
    marks,
    tally,
    anywhere,
    weights,
    draws,
    done,
    schedule,
    missing,
):
    """Simulated annealing by insertion moves, from `done` on; returns how many moves are done.

    The first position that a move changes sweeps from the end of the order to its start, so that
    the graph is always eliminated up to there. A move takes that vertex behind one of its
    neighbours, or one of these before it. The Metropolis threshold is drawn first. A move is given
    up as soon as it is over the threshold even if the vertices yet to be priced cost the least that
    they can.

    Args:
        rows: the graph, eliminated up to the cursor.
        order: int32 [vertices], the current order.
        place: int32 [nodes], the position of each vertex in it; -1 of other nodes.
        best: int32 [vertices], the best one so far.
        paid: int64 [vertices], what each vertex of the current order costs.
        least: int64 [nodes], what each vertex costs at least in any order.
        marks: int64 [vertices + 1], the length of the log before each position.
        tally: int64 [5]: cursor, sweep, current cost, best cost, moves so far.
        anywhere: the share of moves whose lengths are drawn whatever is there.
        weights: float64 [4, vertices], for the others (see `moves.Proposals`).
        draws: float64 [moves, 2] (see `moves.random_numbers`).
        done: how many of these moves are done already.
        schedule: float64 [3]: number of moves in all, and first and last temperature as a
            fraction of the current cost.
        missing: what is missing, which is room in the log at most.
    """
    missing[0] = NOTHING
    last = order.shape[0] - 1
    nodes, words = rows.sets.shape[0] // 2, rows.sets.shape[1]
    sets = np.empty((_SETS, words), np.uint64)
    changed = np.empty((last + 1, 2), np.int64)
    sums = np.empty(4 * nodes)
    ends = np.empty(4 * nodes, np.int64)
    temperature = 0.0
    while done < draws.shape[0]:
        low = tally[1]
        if tally[0] > low:
            take_back(rows, marks[low])
            tally[0] = low
        while tally[0] < low:
            if eliminate(rows, order[tally[0]]) < 0:
                missing[0] = GROW
                return done
            tally[0] += 1
            marks[tally[0]] = rows.top[0]
        temperature = heat(temperature, tally, schedule)
        slack = temperature * draws[done, 1]
        vertex = order[low]
        before, after = rows.sets[vertex], rows.sets[nodes + vertex]
        high, forwards = neighbour(
            before, after, low, last, place, anywhere, weights, draws[done, 0], sums, ends
        )
        if high > low:
            gain, count, moved = _priced(
                rows, order, place, paid, least, low, high, forwards, slack, sets, changed
            )
            if gain <= slack:
                for k in range(count):
                    paid[changed[k, 0]] = changed[k, 1]
                paid[low if forwards else high] = moved
                _move(order, place, paid, low, high, forwards)
                tally[2] += gain
                if tally[2] < tally[3]:
                    tally[3] = tally[2]
                    best[:] = order
        tally[1] = low - 1 if low > 0 else last - 1
        tally[4] += 1
        done += 1
    return done
