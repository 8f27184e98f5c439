"""Compiled simulated annealing over orders, where costs depend on what is on the edges."""

import numpy as np

from jax_cce_search.game.jit import jit
from jax_cce_search.game.kernels import eliminate, remainder
from jax_cce_search.game.moves import heat, neighbour
from jax_cce_search.game.state import NOTHING, undo

__all__ = [
    "anneal",
]


@jit
def anneal(  # type: ignore[no-untyped-def]
    state,
    tables,
    order,
    place,
    best,
    paid,
    digests,
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
    the graph is always eliminated up to there. A move takes that vertex to a later place, or a
    later one there, and what lies between is evaluated anew, and what comes after as long as the
    graph is not what it was; from where it is, so are all costs. The Metropolis threshold is drawn
    first, so that a hopeless move is given up early.

    Args:
        state: the graph, eliminated up to the cursor.
        tables: products and sums.
        order: int32 [vertices], the current order.
        place: int32 [nodes], the position of each vertex in it; -1 of other nodes.
        best: int32 [vertices], the best one so far.
        paid: int64 [vertices + 1], what each vertex of the current order costs, and the remainder.
        digests: uint64 [vertices + 1], the hash of the graph before each position.
        marks: int64 [vertices + 1], the length of the log before each position.
        tally: int64 [5]: cursor, sweep, current cost, best cost, moves so far.
        anywhere: the share of moves whose lengths are drawn whatever is there.
        weights: float64 [4, vertices], for the others (see `moves.Proposals`).
        draws: float64 [moves, 2] (see `moves.random_numbers`).
        done: how many of these moves are done already.
        schedule: float64 [3]: number of moves in all, and first and last temperature as a
            fraction of the current cost.
        missing: what is missing.
    """
    missing[0] = NOTHING
    last = order.shape[0] - 1
    trial = np.empty(order.shape[0], np.int32)
    sums = np.empty(4 * place.shape[0])
    ends = np.empty(4 * place.shape[0], np.int64)
    new_paid = np.empty(order.shape[0] + 1, np.int64)
    new_digests = np.empty(order.shape[0] + 1, np.uint64)
    temperature = 0.0
    while done < draws.shape[0]:
        low = tally[1]
        # Bring the graph to the first changed position.
        if tally[0] > low:
            undo(state, marks[low])
            tally[0] = low
        while tally[0] < low:
            if eliminate(state, tables, order[tally[0]], missing) < 0:
                return done
            tally[0] += 1
            marks[tally[0]] = state.top[0]
        vertex = order[low]
        before, after = state.before[vertex], state.after[vertex]
        high, forwards = neighbour(
            before, after, low, last, place, anywhere, weights, draws[done, 0], sums, ends
        )
        temperature = heat(temperature, tally, schedule)
        slack = np.int64(min(temperature * draws[done, 1], 1e17))
        gain, at = 0, low
        for k in range(low, high + 1):
            gain -= paid[k]
            trial[k] = order[k + 1] if forwards and k < high else order[k - 1]
        trial[high if forwards else low] = order[low if forwards else high]
        while True:
            if at <= high:
                vertex = trial[at]
            elif state.digest[0] == digests[at]:
                break  # the graph is as it was here, so all goes on as it did
            elif at <= last:
                vertex = order[at]
                trial[at] = vertex
                gain -= paid[at]
            else:
                new_paid[at] = remainder(state, tables, missing)
                if new_paid[at] < 0:
                    undo(state, marks[low])
                    return done
                gain += new_paid[at] - paid[at]
                at += 1
                break
            cost = eliminate(state, tables, vertex, missing)
            if cost < 0:
                undo(state, marks[low])
                return done
            new_paid[at] = cost
            new_digests[at] = state.digest[0]
            gain += cost
            at += 1
            if at <= high and gain > slack:
                break
        undo(state, marks[low])
        if gain <= slack and at > high:
            upto = min(at, last + 1)
            order[low:upto] = trial[low:upto]
            for k in range(low, upto):
                place[order[k]] = k
            paid[low:at] = new_paid[low:at]
            digests[low + 1 : upto + 1] = new_digests[low:upto]
            tally[2] += gain
            if tally[2] < tally[3]:
                tally[3] = tally[2]
                best[:] = order
        tally[1] = low - 1 if low > 0 else last - 1
        tally[4] += 1
        done += 1
    return done
