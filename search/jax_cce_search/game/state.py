"""The state of a graph under elimination, and tables of products and sums, for compiled loops."""

from typing import Any, NamedTuple

import numpy as np

from jax_cce_search.game.jit import inlined, jit, lowest, ones

__all__ = [
    "FINAL",
    "GROW",
    "NOTHING",
    "PRODUCT",
    "TOTAL",
    "State",
    "Tables",
    "counted",
    "detach",
    "edge_hash",
    "enter",
    "entry_name",
    "listed",
    "mixed",
    "slot",
    "undo",
]

# What `missing[0]` may say; `missing[1:]` are the kinds concerned.
NOTHING, PRODUCT, TOTAL, FINAL, GROW = range(5)


class Tables(NamedTuple):
    """Products and sums of kinds, hashed with linear probing, as far as they are known."""

    names: Any  # int64 [slots], a power of two: see `entry_name`; 0 where a slot is free
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


@inlined
def mixed(x):  # type: ignore[no-untyped-def]
    """SplitMix64 (Steele, Lea & Flood 2014)."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


@inlined
def listed(bits, room):  # type: ignore[no-untyped-def]
    """Writes the members of a bit set into `room` and returns how many there are."""
    count = 0
    for word in range(bits.shape[0]):
        x = bits[word]
        while x:
            room[count] = (word << 6) + lowest(x)
            count += 1
            x &= x - np.uint64(1)
    return count


@inlined
def counted(bits):  # type: ignore[no-untyped-def]
    """How many members a bit set has."""
    count = 0
    for word in range(bits.shape[0]):
        count += ones(bits[word])
    return count


@inlined
def edge_hash(edge, kind):  # type: ignore[no-untyped-def]
    """The share of an edge in the hash of a graph; none of an edge that is not there."""
    if kind == 0:
        return np.uint64(0)
    return mixed((np.uint64(edge) << np.uint64(24)) + np.uint64(kind))


@inlined
def entry_name(what, one, other):  # type: ignore[no-untyped-def]
    """The name of a product (of a later and an earlier kind) or of a total."""
    return (np.int64(what) << 60) | (np.int64(one) << 30) | np.int64(other)


@inlined
def slot(tables, name):  # type: ignore[no-untyped-def]
    """Where a name is, or the free slot where it would be."""
    mask = tables.names.shape[0] - 1
    at = np.int64((np.uint64(name) * np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(32)) & mask
    while tables.names[at] != name and tables.names[at] != 0:
        at = (at + 1) & mask
    return at


@inlined
def detach(state, vertex, sources, num_sources, targets, num_targets, top):  # type: ignore[no-untyped-def]
    """Takes a vertex's edges away, but those to an output, and logs them from `top` on.

    Returns:
        The length of the log, and by what the hash of the graph changes.
    """
    edges, before, after, log = state.kind, state.before, state.after, state.log
    nodes = edges.shape[0]
    one = np.uint64(1)
    digest = np.uint64(0)
    for b in range(num_targets):
        target = targets[b]
        known = edges[vertex, target]
        log[top, 0], log[top, 1], log[top, 2] = vertex, target, known
        top += 1
        edges[vertex, target] = 0
        before[target, vertex >> 6] ^= one << np.uint64(vertex & 63)
        if state.hashed:
            digest ^= edge_hash(vertex * nodes + target, known)
    after[vertex, :] = 0
    if not state.is_output[vertex]:
        for a in range(num_sources):
            source = sources[a]
            known = edges[source, vertex]
            log[top, 0], log[top, 1], log[top, 2] = source, vertex, known
            top += 1
            edges[source, vertex] = 0
            after[source, vertex >> 6] ^= one << np.uint64(vertex & 63)
            if state.hashed:
                digest ^= edge_hash(source * nodes + vertex, known)
        before[vertex, :] = 0
    return top, digest


@jit
def enter(tables, name, kind, cost):  # type: ignore[no-untyped-def]
    """Enters a product or total; the table must have free slots."""
    at = slot(tables, name)
    tables.names[at] = name
    tables.kind[at] = kind
    tables.cost[at] = cost


@jit
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
            state.digest[0] ^= edge_hash(edge, known) ^ edge_hash(edge, kind)
    state.top[0] = top
