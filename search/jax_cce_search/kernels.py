"""Compiled loops over elimination orders.

A graph is a matrix of kinds with its rows and columns as bit sets, which take n^2 / 16 bytes each
for n nodes. Every change is logged, so that a state can be taken back: a change in an order then
costs what lies between its first and its last changed position. Products and sums of kinds are
looked up in tables that fill up on demand: a kernel that meets a missing entry takes back what it
was at, notes the entry in `missing` and returns, and is called again once the entry is there.
"""

from typing import Any, NamedTuple

import numba
import numpy as np

__all__ = [
    "FINAL",
    "GROW",
    "NOTHING",
    "PRODUCT",
    "TOTAL",
    "State",
    "Tables",
    "anneal",
    "branch",
    "enter",
    "evaluate",
    "named",
    "prices",
    "replay",
    "subsets",
    "undo",
]

# What `missing[0]` may say; `missing[1:]` are the kinds concerned.
NOTHING, PRODUCT, TOTAL, FINAL, GROW = range(5)


class Tables(NamedTuple):
    """Products and sums of kinds, hashed with linear probing, as far as they are known."""

    names: Any  # int64 [slots], a power of two: see `named`; 0 where a slot is free
    kind: Any  # int32 [slots]
    cost: Any  # int64 [slots]
    final_cost: Any  # int64 [kinds]; -1 where it is not known


class State(NamedTuple):
    """A graph while its vertices are eliminated."""

    kind: Any  # int32 [nodes, nodes]: source, target
    before: Any  # uint64 [nodes, words]: the predecessors of each node
    after: Any  # uint64 [nodes, words]: its successors
    log: Any  # int32 [capacity, 3]: source, target and former kind of every change
    top: Any  # int64 [1]: length of the log
    digest: Any  # uint64 [1]: a hash of `kind`, kept where `hashed`
    hashed: Any  # bool: whether kinds matter; else every product costs one and all are alike
    is_output: Any  # bool [nodes]
    results: Any  # int32 [pairs, 2]: input and output of each block of the Jacobian
    first: Any  # int32 [nodes]: room for the neighbours of a vertex
    second: Any  # int32 [nodes]


def _jit(function: Any) -> Any:
    try:
        return numba.njit(cache=True, nogil=True, error_model="numpy")(function)
    except (RuntimeError, OSError):  # there is no place to keep what is compiled
        return numba.njit(nogil=True, error_model="numpy")(function)


def _inner(function: Any) -> Any:
    # Passing a graph by value costs more than what these do with it.
    return numba.njit(forceinline=True, nogil=True, error_model="numpy")(function)


@_inner
def _mixed(x):  # type: ignore[no-untyped-def]
    """SplitMix64 (Steele, Lea & Flood 2014)."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


@_inner
def _lowest(x):  # type: ignore[no-untyped-def]
    """The position of the lowest bit that is set."""
    at = 0
    if x & np.uint64(0xFFFFFFFF) == 0:
        at += 32
        x >>= np.uint64(32)
    if x & np.uint64(0xFFFF) == 0:
        at += 16
        x >>= np.uint64(16)
    if x & np.uint64(0xFF) == 0:
        at += 8
        x >>= np.uint64(8)
    if x & np.uint64(0xF) == 0:
        at += 4
        x >>= np.uint64(4)
    if x & np.uint64(3) == 0:
        at += 2
        x >>= np.uint64(2)
    if x & np.uint64(1) == 0:
        at += 1
    return at


@_inner
def _listed(bits, room):  # type: ignore[no-untyped-def]
    """Writes the members of a bit set into `room` and returns how many there are."""
    count = 0
    for word in range(bits.shape[0]):
        x = bits[word]
        while x:
            room[count] = (word << 6) + _lowest(x)
            count += 1
            x &= x - np.uint64(1)
    return count


@_inner
def _hash(edge, kind):  # type: ignore[no-untyped-def]
    """The share of an edge in the hash of a graph; none of an edge that is not there."""
    if kind == 0:
        return np.uint64(0)
    return _mixed((np.uint64(edge) << np.uint64(24)) + np.uint64(kind))


@_inner
def named(what, one, other):  # type: ignore[no-untyped-def]
    """The name of a product (of a later and an earlier kind) or of a total."""
    return (np.int64(what) << 60) | (np.int64(one) << 30) | np.int64(other)


@_inner
def slot(tables, name):  # type: ignore[no-untyped-def]
    """Where a name is, or the free slot where it would be."""
    mask = tables.names.shape[0] - 1
    at = np.int64((np.uint64(name) * np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(32)) & mask
    while tables.names[at] != name and tables.names[at] != 0:
        at = (at + 1) & mask
    return at


@_jit
def enter(tables, name, kind, cost):  # type: ignore[no-untyped-def]
    """Enters a product or total; the table must have free slots."""
    at = slot(tables, name)
    tables.names[at] = name
    tables.kind[at] = kind
    tables.cost[at] = cost


@_jit
def undo(state, top):  # type: ignore[no-untyped-def]
    """Takes back all changes but the first `top`."""
    edges, before, after, log = state.kind, state.before, state.after, state.log
    nodes = edges.shape[0]
    one = np.uint64(1)
    for at in range(state.top[0] - 1, top - 1, -1):
        source, target, kind = log[at, 0], log[at, 1], log[at, 2]
        known = edges[source, target]
        edges[source, target] = kind
        if (known == 0) != (kind == 0):
            after[source, target >> 6] ^= one << np.uint64(target & 63)
            before[target, source >> 6] ^= one << np.uint64(source & 63)
        if state.hashed:
            edge = source * nodes + target
            state.digest[0] ^= _hash(edge, known) ^ _hash(edge, kind)
    state.top[0] = top


@_inner
def _eliminate(state, tables, vertex, missing):  # type: ignore[no-untyped-def]
    """Eliminates a vertex and returns the cost; takes it back and returns -1 if an entry misses."""
    # An array is taken out of its tuple once: counting the references to it is not free.
    edges, before, after, log = state.kind, state.before, state.after, state.log
    sources, targets, hashed = state.first, state.second, state.hashed
    nodes = edges.shape[0]
    one = np.uint64(1)
    num_sources = _listed(before[vertex], sources)
    num_targets = _listed(after[vertex], targets)
    begin = top = state.top[0]
    if top + num_sources * num_targets + num_sources + num_targets > log.shape[0]:
        missing[0] = GROW
        return -1
    digest = np.uint64(0)
    cost = 0
    if not hashed:
        # Every product costs one, and an edge is there or not.
        cost = num_sources * num_targets
        for a in range(num_sources):
            source = sources[a]
            for b in range(num_targets):
                target = targets[b]
                if edges[source, target] == 0:
                    log[top, 0], log[top, 1], log[top, 2] = source, target, 0
                    top += 1
                    edges[source, target] = 1
                    after[source, target >> 6] |= one << np.uint64(target & 63)
                    before[target, source >> 6] |= one << np.uint64(source & 63)
        num_sources, kept = 0, num_sources
    else:
        kept = num_sources
    for a in range(num_sources):
        source = sources[a]
        earlier = edges[source, vertex]
        for b in range(num_targets):
            target = targets[b]
            later = edges[vertex, target]
            at = slot(tables, named(PRODUCT, later, earlier))
            if tables.names[at] == 0:
                missing[0], missing[1], missing[2] = PRODUCT, later, earlier
                state.top[0] = top
                state.digest[0] ^= digest
                undo(state, begin)
                return -1
            cost += tables.cost[at]
            kind = tables.kind[at]
            if kind == 0:
                continue
            known = edges[source, target]
            if known:
                at = slot(tables, named(TOTAL, known, kind))
                if tables.names[at] == 0:
                    missing[0], missing[1], missing[2] = TOTAL, known, kind
                    state.top[0] = top
                    state.digest[0] ^= digest
                    undo(state, begin)
                    return -1
                cost += tables.cost[at]
                kind = tables.kind[at]
                if kind == known:
                    continue
            log[top, 0], log[top, 1], log[top, 2] = source, target, known
            top += 1
            edges[source, target] = kind
            if known == 0 or kind == 0:
                after[source, target >> 6] ^= one << np.uint64(target & 63)
                before[target, source >> 6] ^= one << np.uint64(source & 63)
            if hashed:
                edge = source * nodes + target
                digest ^= _hash(edge, known) ^ _hash(edge, kind)
    for b in range(num_targets):
        target = targets[b]
        known = edges[vertex, target]
        log[top, 0], log[top, 1], log[top, 2] = vertex, target, known
        top += 1
        edges[vertex, target] = 0
        before[target, vertex >> 6] ^= one << np.uint64(vertex & 63)
        if hashed:
            digest ^= _hash(vertex * nodes + target, known)
    after[vertex, :] = 0
    if not state.is_output[vertex]:
        for a in range(kept):
            source = sources[a]
            known = edges[source, vertex]
            log[top, 0], log[top, 1], log[top, 2] = source, vertex, known
            top += 1
            edges[source, vertex] = 0
            after[source, vertex >> 6] ^= one << np.uint64(vertex & 63)
            if hashed:
                digest ^= _hash(source * nodes + vertex, known)
        before[vertex, :] = 0
    state.top[0] = top
    state.digest[0] ^= digest
    return cost


@_jit
def _price(state, tables, vertex, missing):  # type: ignore[no-untyped-def]
    """What eliminating a vertex would cost; -1 if an entry misses."""
    sources, targets = state.first, state.second
    num_sources = _listed(state.before[vertex], sources)
    num_targets = _listed(state.after[vertex], targets)
    if not state.hashed:
        return num_sources * num_targets
    cost = 0
    for a in range(num_sources):
        source = sources[a]
        earlier = state.kind[source, vertex]
        for b in range(num_targets):
            target = targets[b]
            later = state.kind[vertex, target]
            at = slot(tables, named(PRODUCT, later, earlier))
            if tables.names[at] == 0:
                missing[0], missing[1], missing[2] = PRODUCT, later, earlier
                return -1
            cost += tables.cost[at]
            kind = tables.kind[at]
            known = state.kind[source, target]
            if kind and known:
                at = slot(tables, named(TOTAL, known, kind))
                if tables.names[at] == 0:
                    missing[0], missing[1], missing[2] = TOTAL, known, kind
                    return -1
                cost += tables.cost[at]
    return cost


@_jit
def _remainder(state, tables, missing):  # type: ignore[no-untyped-def]
    """What is left to pay for the blocks of the Jacobian; -1 if an entry misses."""
    cost = 0
    for k in range(state.results.shape[0]):
        kind = state.kind[state.results[k, 0], state.results[k, 1]]
        if kind:
            if kind >= tables.final_cost.shape[0] or tables.final_cost[kind] < 0:
                missing[0], missing[1] = FINAL, kind
                return -1
            cost += tables.final_cost[kind]
    return cost


@_jit
def replay(state, tables, order, missing):  # type: ignore[no-untyped-def]
    """Eliminates in an order and returns the cost; -1 if an entry misses."""
    missing[0] = NOTHING
    cost = 0
    for vertex in order:
        paid = _eliminate(state, tables, vertex, missing)
        if paid < 0:
            return -1
        cost += paid
    return cost


@_jit
def evaluate(state, tables, orders, costs, done, missing):  # type: ignore[no-untyped-def]
    """Evaluates orders from `done` on, and returns how many are done.

    Args:
        state: the graph; it is left as it was.
        tables: products and sums.
        orders: int32 [orders, vertices].
        costs: int64 [orders], filled.
        done: how many are evaluated already.
        missing: what is missing.
    """
    missing[0] = NOTHING
    top = state.top[0]
    while done < orders.shape[0]:
        cost = replay(state, tables, orders[done], missing)
        if cost >= 0:
            left = _remainder(state, tables, missing)
            cost = cost + left if left >= 0 else -1
        undo(state, top)
        if cost < 0:
            return done
        costs[done] = cost
        done += 1
    return done


@_jit
def prices(state, tables, vertices, costs, missing):  # type: ignore[no-untyped-def]
    """Fills in what eliminating each vertex would cost now."""
    missing[0] = NOTHING
    for k in range(vertices.shape[0]):
        costs[k] = _price(state, tables, vertices[k], missing)
        if costs[k] < 0:
            return


@_jit
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
            if _eliminate(state, tables, order[at], missing) < 0:
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
                new_paid[at] = _remainder(state, tables, missing)
                if new_paid[at] < 0:
                    undo(state, marks[low])
                    return done
                gain += new_paid[at] - paid[at]
                at += 1
                break
            cost = _eliminate(state, tables, vertex, missing)
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


@_jit
def subsets(state, tables, window, costs, walk, missing):  # type: ignore[no-untyped-def]
    """What each vertex of a window costs after each subset of the others.

    Args:
        state: the graph before the window, and where the walk has come to; left as it was before.
        tables: products and sums.
        window: int32 [k], the vertices.
        costs: int64 [2**k, k], filled: the cost of vertex v after the set of vertices s.
        walk: int64 [k + 2, 3], zeros at first, to go on from where an entry was missing: the depth
            and the set in the last row; in the others, for each depth, the next vertex, the one
            that led there, and the length of the log.
        missing: what is missing.
    """
    missing[0] = NOTHING
    count = window.shape[0]
    depth, chosen = walk[count + 1, 0], walk[count + 1, 1]
    if depth == 0 and walk[0, 0] == 0:
        walk[0, 1] = -1
        walk[0, 2] = state.top[0]
    # Depth-first through the sets, each reached by adding its members in ascending order.
    while depth >= 0:
        if walk[depth, 0] == count:
            walk[depth, 0] = 0
            depth -= 1
            if depth >= 0:
                chosen ^= 1 << walk[depth + 1, 1]
                undo(state, walk[depth, 2])
            continue
        k = walk[depth, 0]
        if not chosen >> k & 1:
            cost = _eliminate(state, tables, window[k], missing)
            if cost < 0:
                walk[count + 1, 0], walk[count + 1, 1] = depth, chosen
                return
            costs[chosen, k] = cost
        walk[depth, 0] = k + 1
        if chosen >> k & 1:
            continue
        if k > walk[depth, 1]:
            depth += 1
            chosen |= 1 << k
            walk[depth, 1] = k
            walk[depth, 2] = state.top[0]
        else:
            undo(state, walk[depth, 2])


@_jit
def _is_single(bits):  # type: ignore[no-untyped-def]
    """Whether a bit set has exactly one member."""
    count = 0
    for word in range(bits.shape[0]):
        x = bits[word]
        if x:
            if count or x & (x - np.uint64(1)):
                return False
            count = 1
    return count == 1


@_jit
def _have_same_neighbours(state, one, other):  # type: ignore[no-untyped-def]
    for word in range(state.before.shape[1]):
        if (
            state.before[one, word] != state.before[other, word]
            or state.after[one, word] != state.after[other, word]
        ):
            return False
    return state.is_output[one] == state.is_output[other]


@_jit
def branch(  # type: ignore[no-untyped-def]
    state, tables, vertices, least, uniform, names, stack, spent, table, tally, best, limit, missing
):
    """Depth-first branch and bound, at most `limit` nodes of it; `tally[0]` is -1 when it is over.

    A branch is cut where what is spent and the least that the rest can cost reach the best cost,
    and where the same graph has been met at no higher price. Where every product costs one, a
    vertex between one predecessor and one successor goes first at once, and of vertices with the
    same neighbours the one of lower number.

    Args:
        state: the graph, eliminated up to the current depth.
        tables: products and sums.
        vertices: int32 [vertices].
        least: int64 [vertices], what each costs at least.
        uniform: whether every product costs one and every sum nothing.
        names: uint64 [vertices], random, to hash sets of vertices with.
        stack: int64 [vertices + 1, vertices + 4]: at each depth the position among the candidates,
            their number, the length of the log, the vertex chosen, and the candidates.
        spent: int64 [vertices + 1, 2]: at each depth what is spent, and the least for the rest.
        table: int64 [slots, 2]: hashes of graphs that were met and what was spent for them.
        tally: int64 [3]: depth, best cost, nodes so far.
        best: int32 [vertices], the best order.
        limit: number of nodes.
        missing: what is missing.
    """
    missing[0] = NOTHING
    count = vertices.shape[0]
    mask = table.shape[0] - 1
    gone = np.zeros(count, np.bool_)
    digest = np.uint64(0)
    for depth in range(1, tally[0] + 1):
        gone[stack[depth, 3]] = True
        digest ^= names[stack[depth, 3]]
    costs = np.empty(count, np.int64)
    for _ in range(limit):
        depth = tally[0]
        if stack[depth, 0] == -1:
            # A new node: who may come next, the cheapest first.
            number = 0
            for k in range(count):
                if gone[k]:
                    continue
                vertex = vertices[k]
                if uniform:
                    if (
                        not state.is_output[vertex]
                        and _is_single(state.before[vertex])
                        and _is_single(state.after[vertex])
                    ):
                        stack[depth, 4] = k
                        number = 1
                        break
                    twin = False
                    for j in range(k):
                        if not gone[j] and _have_same_neighbours(state, vertices[j], vertex):
                            twin = True
                            break
                    if twin:
                        continue
                cost = _price(state, tables, vertex, missing)
                if cost < 0:
                    return
                place = number
                while place and costs[place - 1] > cost:
                    costs[place] = costs[place - 1]
                    stack[depth, 4 + place] = stack[depth, 3 + place]
                    place -= 1
                costs[place] = cost
                stack[depth, 4 + place] = k
                number += 1
            stack[depth, 1] = number
            stack[depth, 0] = 0
        if stack[depth, 0] == stack[depth, 1]:
            if depth == 0:
                tally[0] = -1
                return
            gone[stack[depth, 3]] = False
            digest ^= names[stack[depth, 3]]
            undo(state, stack[depth, 2])
            tally[0] = depth - 1
            continue
        k = stack[depth, 4 + stack[depth, 0]]
        mark = state.top[0]
        cost = _eliminate(state, tables, vertices[k], missing)
        if cost < 0:
            return
        stack[depth, 0] += 1
        tally[2] += 1
        paid = spent[depth, 0] + cost
        rest = spent[depth, 1] - least[k]
        if depth == count - 1:
            left = _remainder(state, tables, missing)
            if left < 0:
                undo(state, mark)
                stack[depth, 0] -= 1
                return
            undo(state, mark)
            if paid + left < tally[1]:
                tally[1] = paid + left
                for d in range(1, depth + 1):
                    best[d - 1] = vertices[stack[d, 3]]
                best[depth] = vertices[k]
            continue
        name = digest ^ names[k]
        if state.hashed:
            name ^= state.digest[0]
        at = np.int64(name & np.uint64(mask))
        met = table[at, 0] == np.int64(name) and table[at, 1] <= paid
        if paid + rest >= tally[1] or met:
            undo(state, mark)
            continue
        table[at, 0] = np.int64(name)
        table[at, 1] = paid
        depth += 1
        tally[0] = depth
        stack[depth, 0] = -1
        stack[depth, 2] = mark
        stack[depth, 3] = k
        spent[depth, 0] = paid
        spent[depth, 1] = rest
        gone[k] = True
        digest ^= names[k]
