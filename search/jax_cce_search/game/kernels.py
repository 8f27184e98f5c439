"""Elimination of a vertex, its price before, and the evaluation of orders, compiled.

A graph is a matrix of kinds with its rows and columns as bit sets, which take n^2 / 16 bytes each
for n nodes. Every change is logged, so that a state can be taken back: a change in an order then
costs what lies between its first and its last changed position. Products and sums of kinds are
looked up in tables that fill up on demand: a kernel that meets a missing entry takes back what it
was at, notes the entry in `missing` and returns, and is called again once the entry is there.
"""

import numpy as np

from jax_cce_search.game.jit import inlined, jit
from jax_cce_search.game.state import (
    FINAL,
    GROW,
    NOTHING,
    PRODUCT,
    TOTAL,
    detach,
    edge_hash,
    entry_name,
    listed,
    slot,
    undo,
)

__all__ = [
    "eliminate",
    "evaluate",
    "price",
    "prices",
    "remainder",
    "replay",
]


@inlined
def eliminate(state, tables, vertex, missing):  # type: ignore[no-untyped-def]
    """Eliminates a vertex and returns the cost; takes it back and returns -1 if an entry misses."""
    # An array is taken out of its tuple once: counting the references to it is not free.
    edges, before, after, log = state.kind, state.before, state.after, state.log
    sources, targets, hashed = state.first, state.second, state.hashed
    nodes = edges.shape[0]
    one = np.uint64(1)
    num_sources = listed(before[vertex], sources)
    num_targets = listed(after[vertex], targets)
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
            at = slot(tables, entry_name(PRODUCT, later, earlier))
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
                at = slot(tables, entry_name(TOTAL, known, kind))
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
                digest ^= edge_hash(edge, known) ^ edge_hash(edge, kind)
    top, gone = detach(state, vertex, sources, kept, targets, num_targets, top)
    digest ^= gone
    state.top[0] = top
    state.digest[0] ^= digest
    return cost


@jit
def price(state, tables, vertex, missing):  # type: ignore[no-untyped-def]
    """What eliminating a vertex would cost; -1 if an entry misses."""
    sources, targets = state.first, state.second
    num_sources = listed(state.before[vertex], sources)
    num_targets = listed(state.after[vertex], targets)
    if not state.hashed:
        return num_sources * num_targets
    cost = 0
    for a in range(num_sources):
        source = sources[a]
        earlier = state.kind[source, vertex]
        for b in range(num_targets):
            target = targets[b]
            later = state.kind[vertex, target]
            at = slot(tables, entry_name(PRODUCT, later, earlier))
            if tables.names[at] == 0:
                missing[0], missing[1], missing[2] = PRODUCT, later, earlier
                return -1
            cost += tables.cost[at]
            kind = tables.kind[at]
            known = state.kind[source, target]
            if kind and known:
                at = slot(tables, entry_name(TOTAL, known, kind))
                if tables.names[at] == 0:
                    missing[0], missing[1], missing[2] = TOTAL, known, kind
                    return -1
                cost += tables.cost[at]
    return cost


@jit
def remainder(state, tables, missing):  # type: ignore[no-untyped-def]
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


@jit
def replay(state, tables, order, missing):  # type: ignore[no-untyped-def]
    """Eliminates in an order and returns the cost; -1 if an entry misses."""
    missing[0] = NOTHING
    cost = 0
    for vertex in order:
        paid = eliminate(state, tables, vertex, missing)
        if paid < 0:
            return -1
        cost += paid
    return cost


@jit
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
            left = remainder(state, tables, missing)
            cost = cost + left if left >= 0 else -1
        undo(state, top)
        if cost < 0:
            return done
        costs[done] = cost
        done += 1
    return done


@jit
def prices(state, tables, vertices, costs, missing):  # type: ignore[no-untyped-def]
    """Fills in what eliminating each vertex would cost now."""
    missing[0] = NOTHING
    for k in range(vertices.shape[0]):
        costs[k] = price(state, tables, vertices[k], missing)
        if costs[k] < 0:
            return
