"""Minimum vertex cuts of a vertex from its ends, and the least sum of a group, compiled.

A graph is seen from one vertex here, in one direction: node 0 is the vertex itself, and the others
are what it reaches. Bit sets hold the neighbours of each node.

Source: the paths are found by augmenting flows (Ford & Fulkerson 1956), of which there are as many
as the smallest cut has nodes (Menger 1927). The best order over subsets is from Held & Karp (1962).
"""

import numpy as np

from jax_cce_search.game.jit import jit, lowest

__all__ = [
    "cuts",
    "least_sum",
]

_NOWHERE = -1
# The rows of the bit sets of a search, and of its numbers.
_ENDS, _USED, _ENTERED, _LEFT, _WALLS = range(5)
_ORIGIN, _CAME_IN, _CAME_OUT, _QUEUE = range(4)


@jit
def _cut(near, sets, numbers):  # type: ignore[no-untyped-def]
    """How many paths from node 0 to the ends share no node but the first; ends lead nowhere.

    Args:
        near: uint64 [nodes, words], the neighbours of each node.
        sets: uint64 [5, words]: the ends, and room for the nodes that are on paths, that a search
            has come to, and that it may go on from.
        numbers: int32 [4, 2 * nodes], room: for each node the one before it on its path, what led
            to it and what led out of it, `_NOWHERE` for the node itself, and a queue.
    """
    words = near.shape[1]
    one = np.uint64(1)
    count = 0
    # A path of one edge takes nothing from the others, so it may be taken first.
    for word in range(words):
        x = near[0, word] & sets[_ENDS, word]
        while x:
            count += 1
            x &= x - one
        sets[_USED, word] = 0
    while True:
        head = tail = 0
        for word in range(words):
            sets[_ENTERED, word] = near[0, word] & sets[_ENDS, word]
            sets[_LEFT, word] = 0
        found = _NOWHERE
        node = 0
        # Each node has two sides: it is entered, and it is left. Node 0 is left to begin with.
        leaving = 1
        while True:
            at, bit = node >> 6, one << np.uint64(node & 63)
            used = sets[_USED, at] & bit
            if leaving:
                for word in range(words):
                    x = near[node, word] & ~sets[_ENTERED, word]
                    while x:
                        following = (word << 6) + lowest(x)
                        lowest_bit = x & ~(x - one)
                        x ^= lowest_bit
                        if sets[_USED, word] & lowest_bit and numbers[_ORIGIN, following] == node:
                            continue
                        sets[_ENTERED, word] |= lowest_bit
                        numbers[_CAME_IN, following] = node
                        numbers[_QUEUE, tail] = 2 * following
                        tail += 1
                if used and not sets[_ENTERED, at] & bit:
                    sets[_ENTERED, at] |= bit
                    numbers[_CAME_IN, node] = _NOWHERE
                    numbers[_QUEUE, tail] = 2 * node
                    tail += 1
            else:
                if not used and sets[_ENDS, at] & bit:
                    found = node
                    break
                # The path that uses a node is taken back as far as the node before.
                following = numbers[_ORIGIN, node] if used else node
                bit = one << np.uint64(following & 63)
                if following != 0 and not sets[_LEFT, following >> 6] & bit:
                    sets[_LEFT, following >> 6] |= bit
                    numbers[_CAME_OUT, following] = node if used else _NOWHERE
                    numbers[_QUEUE, tail] = 2 * following + 1
                    tail += 1
            if head == tail:
                break
            node, leaving = numbers[_QUEUE, head] >> 1, numbers[_QUEUE, head] & 1
            head += 1
        if found == _NOWHERE:
            return count
        count += 1
        node, leaving = found, 0
        while node != 0:
            before = numbers[_CAME_OUT, node] if leaving else numbers[_CAME_IN, node]
            if before != _NOWHERE:
                if leaving:
                    # The edge from this node to that one is free again.
                    sets[_USED, before >> 6] ^= one << np.uint64(before & 63)
                else:
                    sets[_USED, node >> 6] ^= one << np.uint64(node & 63)
                    numbers[_ORIGIN, node] = before
                node = before
            leaving = 1 - leaving


@jit
def _is_met(near, member, sets, numbers):  # type: ignore[no-untyped-def]
    """Whether a path from node 0 comes to a member without going through a wall.

    Args:
        near: uint64 [nodes, words], the neighbours of each node.
        member: the node.
        sets: uint64 [5, words], with the walls.
        numbers: int32 [4, 2 * nodes], room.
    """
    words = near.shape[1]
    one = np.uint64(1)
    for word in range(words):
        sets[_ENTERED, word] = 0
    node, head, tail = 0, 0, 0
    while node != member:
        if node == 0 or not sets[_WALLS, node >> 6] & (one << np.uint64(node & 63)):
            for word in range(words):
                x = near[node, word] & ~sets[_ENTERED, word]
                sets[_ENTERED, word] |= x
                while x:
                    numbers[_QUEUE, tail] = (word << 6) + lowest(x)
                    tail += 1
                    x &= x - one
        if head == tail:
            return False
        node = numbers[_QUEUE, head]
        head += 1
    return True


@jit
def cuts(near, ends, members, bits, table):  # type: ignore[no-untyped-def]
    """The smallest cut of node 0 from its ends, for every set of eliminated members.

    A member that is not eliminated is an end. One that is may not be in the cut: its neighbours
    take its place.

    Args:
        near: uint64 [nodes, words], the neighbours of each node.
        ends: uint64 [words], without the members.
        members: int32 [members], nodes, best in the order in which paths come to them.
        bits: int64 [members], which bit of a set each is.
        table: int64 [2**members], filled.
    """
    count = members.shape[0]
    nodes, words = near.shape
    one = np.uint64(1)
    sets = np.zeros((5, words), np.uint64)
    # Numba takes seconds to compile the copying of an array into another.
    for word in range(words):
        sets[_ENDS, word] = ends[word]
        sets[_WALLS, word] = ends[word]
    for k in range(count):
        sets[_ENDS, members[k] >> 6] |= one << np.uint64(members[k] & 63)
    numbers = np.zeros((4, 2 * nodes), np.int32)
    graphs = np.empty((count + 1, nodes, words), np.uint64)
    for node in range(nodes):
        for word in range(words):
            graphs[0, node, word] = near[node, word]
    # For each depth where its graph is, and how many of the two choices are made.
    place = np.zeros(count + 1, np.int64)
    tried = np.zeros(count + 1, np.int64)
    depth = 0
    chosen = hidden = np.int64(0)
    while depth >= 0:
        if depth == count:
            cut = _cut(graphs[place[depth]], sets, numbers)
            # What is behind members that are there makes no difference.
            others = hidden
            while True:
                table[chosen | others] = cut
                if others == 0:
                    break
                others = (others - 1) & hidden
            depth -= 1
            continue
        member, choice = members[depth], np.int64(1) << bits[depth]
        at, bit = member >> 6, one << np.uint64(member & 63)
        place[depth + 1] = place[depth]
        tried[depth] += 1
        if tried[depth] == 1 and not _is_met(graphs[place[depth]], member, sets, numbers):
            hidden |= choice
        elif tried[depth] == 2 and hidden & choice:
            hidden ^= choice
            tried[depth] = 0
            depth -= 1
            continue
        elif tried[depth] == 1:
            # It stays, and paths end there.
            sets[_WALLS, at] |= bit
        else:
            chosen ^= choice
            sets[_ENDS, at] ^= bit
        if tried[depth] == 3:
            tried[depth] = 0
            depth -= 1
            continue
        if tried[depth] == 2:
            sets[_WALLS, at] ^= bit
            old = place[depth]
            place[depth + 1] = depth + 1
            for node in range(nodes):
                leads = graphs[old, node, at] & bit
                for word in range(words):
                    row = graphs[old, node, word]
                    graphs[depth + 1, node, word] = (
                        row | graphs[old, member, word] if leads else row
                    )
                if leads:
                    graphs[depth + 1, node, at] ^= bit
        depth += 1


@jit
def least_sum(group, sees, factors, tables, starts, sums):  # type: ignore[no-untyped-def]
    """The least sum of what the vertices of a group cost at least, over all orders of the group.

    Args:
        group: int32 [members], numbers of vertices.
        sees: bool [2, vertices, vertices], whether the second is among the nodes behind, or ahead
            of, the first.
        factors: int64 [members], what multiplies the cuts of each.
        tables: int64 [entries], the `cuts` of each member behind and ahead of it, one after the
            other.
        starts: int64 [2 * members], where each begins.
        sums: int64 [2**members], filled: the least sum of each set.
    """
    count = group.shape[0]
    full = 1 << count
    costs = np.empty((count, full), np.int64)
    # For each set of members which of a table's sets it is.
    place = np.zeros(full, np.int64)
    for k in range(count):
        for chosen in range(full):
            costs[k, chosen] = factors[k]
        for side in range(2):
            start = starts[2 * k + side]
            costs[k, 0] *= tables[start]
            rank = np.int64(0)
            for bit in range(count):
                seen = np.int64(sees[side, group[k], group[bit]])
                for chosen in range(1 << bit, 2 << bit):
                    place[chosen] = place[chosen ^ 1 << bit] + (seen << rank)
                    costs[k, chosen] *= tables[start + place[chosen]]
                rank += seen
    sums[0] = 0
    for chosen in range(1, full):
        best = np.int64(1) << 62
        for k in range(count):
            if chosen >> k & 1:
                others = chosen ^ 1 << k
                best = min(best, sums[others] + costs[k, others])
        sums[chosen] = best
    return sums[full - 1]
