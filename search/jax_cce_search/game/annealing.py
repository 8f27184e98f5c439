"""Compiled simulated annealing over orders."""

import numpy as np

from jax_cce_search.game.jit import jit
from jax_cce_search.game.kernels import eliminate, remainder
from jax_cce_search.game.state import NOTHING, undo

__all__ = [
    "anneal",
]


@jit
def anneal(  # type: ignore[no-untyped-def]
    state, tables, order, best, paid, digests, marks, tally, draws, done, schedule, missing
):
    """Simulated annealing by insertion moves, from `done` on; returns how many moves are done.

    The graph stays eliminated up to a cursor that sweeps from the end of the order to its start.
    A move takes the vertex there to another place, and what lies between is evaluated anew; from
    where the graph is as it was in the current order, so are all costs. The Metropolis threshold
    is drawn first, so that a hopeless move is given up early.

    Args:
        state: the graph, eliminated up to the cursor.
        tables: products and sums.
        order: int32 [vertices], the current order.
        best: int32 [vertices], the best one so far.
        paid: int64 [vertices + 1], what each vertex of the current order costs, and the remainder.
        digests: uint64 [vertices + 1], the hash of the graph before each position.
        marks: int64 [vertices + 1], the length of the log before each position.
        tally: int64 [5]: cursor, sweep, current cost, best cost, moves so far.
        draws: float64 [moves, 3], uniform random numbers.
        done: how many of these moves are done already.
        schedule: float64 [3]: number of moves in all, and first and last temperature as a
            fraction of the current cost.
        missing: what is missing.
    """
    missing[0] = NOTHING
    last = order.shape[0] - 1
    trial = np.empty(order.shape[0], np.int32)
    new_paid = np.empty(order.shape[0] + 1, np.int64)
    new_digests = np.empty(order.shape[0] + 1, np.uint64)
    new_marks = np.empty(order.shape[0] + 1, np.int64)
    while done < draws.shape[0]:
        here = tally[1]
        distance = int(np.exp(abs(2 * draws[done, 0] - 1) * np.log(last + 1)))
        there = here + distance if draws[done, 0] > 0.5 else here - distance
        if there < 0 or there > last:
            there = here - distance if draws[done, 0] > 0.5 else here + distance
        if there < 0 or there > last:
            there = int(draws[done, 1] * last)
            there += there >= here
        low, high = min(here, there), max(here, there)

        # Bring the graph to the first changed position.
        if tally[0] > low:
            undo(state, marks[low])
        for at in range(tally[0], low):
            if eliminate(state, tables, order[at], missing) < 0:
                tally[0] = at
                return done
            marks[at + 1] = state.top[0]
        tally[0] = low

        if here < there:
            trial[low:high] = order[low + 1 : high + 1]
            trial[high] = order[low]
        else:
            trial[low] = order[high]
            trial[low + 1 : high + 1] = order[low:high]
        progress = tally[4] / schedule[0]
        temperature = schedule[1] * (schedule[2] / schedule[1]) ** progress * tally[2]
        slack = np.int64(min(-temperature * np.log(draws[done, 2] + 1e-300), 1e17))
        gain, at = 0, low
        for k in range(low, high + 1):
            gain -= paid[k]
        while True:
            if at <= high:
                vertex = trial[at]
            elif not state.hashed or state.digest[0] == digests[at]:
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
            new_marks[at] = state.top[0]
            new_digests[at] = state.digest[0]
            gain += cost
            at += 1
            if at <= high and gain > slack:
                break
        if gain <= slack and at > high:
            upto = min(at, last + 1)
            order[low:upto] = trial[low:upto]
            paid[low:at] = new_paid[low:at]
            for k in range(low, upto):
                marks[k + 1] = new_marks[k]
                digests[k + 1] = new_digests[k]
            tally[0] = upto
            tally[2] += gain
            if tally[2] < tally[3]:
                tally[3] = tally[2]
                best[:] = order
        else:
            undo(state, marks[low])
        tally[1] = here - 1 if here > 0 else last
        tally[4] += 1
        done += 1
    return done
