"""Compiled branch and bound, and the exact search over subsets of a window."""

import numpy as np

from jax_cce_search.game.jit import jit
from jax_cce_search.game.kernels import eliminate, price, remainder
from jax_cce_search.game.state import NOTHING, listed, undo

__all__ = [
    "branch",
    "subsets",
]


@jit
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
            cost = eliminate(state, tables, window[k], missing)
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


@jit
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


@jit
def _have_same_neighbours(state, one, other):  # type: ignore[no-untyped-def]
    for word in range(state.before.shape[1]):
        if (
            state.before[one, word] != state.before[other, word]
            or state.after[one, word] != state.after[other, word]
        ):
            return False
    return state.is_output[one] == state.is_output[other]


@jit
def _same_graph(state, contents, begin):  # type: ignore[no-untyped-def]
    """Whether the graph has the edges that were written down from `begin` on."""
    nodes = state.kind.shape[0]
    at = begin + 1
    for source in range(nodes):
        number = listed(state.after[source], state.first)
        for k in range(number):
            target = state.first[k]
            edge = source * nodes + target
            if at > begin + contents[begin] or contents[at] != edge << 24 | np.int64(
                state.kind[source, target]
            ):
                return False
            at += 1
    return at == begin + 1 + contents[begin]


@jit
def _write_down(state, contents, used):  # type: ignore[no-untyped-def]
    """Writes the edges of the graph behind their number; returns where, `used[0]` goes on.

    Args:
        state: the graph.
        contents: int64 [room].
        used: int64 [2], where there is room, and how often it began anew.
    """
    nodes = state.kind.shape[0]
    count = 0
    for source in range(nodes):
        count += listed(state.after[source], state.first)
    if used[0] + count + 1 > contents.shape[0]:
        used[0] = 0
        used[1] += 1
    if count + 1 > contents.shape[0]:
        return -1
    begin = at = used[0]
    contents[at] = count
    for source in range(nodes):
        number = listed(state.after[source], state.first)
        for k in range(number):
            target = state.first[k]
            at += 1
            contents[at] = (source * nodes + target) << 24 | np.int64(state.kind[source, target])
    used[0] = at + 1
    return begin


@jit
def branch(  # type: ignore[no-untyped-def]
    state,
    tables,
    vertices,
    least,
    uniform,
    names,
    stack,
    spent,
    table,
    contents,
    used,
    tally,
    best,
    limit,
    missing,
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
        table: int64 [slots, 4 + words]: for each graph that was met a hash that is not zero, what
            was spent for it, and what it was: where all products cost one the set of vertices that
            were gone, which decides it, else where its edges are in `contents`, and the round in
            which they were written there.
        contents: int64 [room]: the edges of such graphs, one after the other; when it is full it is
            written from the beginning.
        used: int64 [2], where there is room in it, and the round.
        tally: int64 [3]: depth, best cost, nodes so far.
        best: int32 [vertices], the best order.
        limit: number of nodes.
        missing: what is missing.
    """
    missing[0] = NOTHING
    count = vertices.shape[0]
    mask = table.shape[0] - 1
    words = table.shape[1] - 4
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
                cost = price(state, tables, vertex, missing)
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
        cost = eliminate(state, tables, vertices[k], missing)
        if cost < 0:
            return
        stack[depth, 0] += 1
        tally[2] += 1
        paid = spent[depth, 0] + cost
        rest = spent[depth, 1] - least[k]
        if depth == count - 1:
            left = remainder(state, tables, missing)
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
        # Graphs are told apart by what they are. A hash only says where to look.
        met = name != 0 and table[at, 0] == np.int64(name) and table[at, 1] <= paid
        if met and state.hashed:
            begin = table[at, 2]
            is_there = table[at, 3] == used[1] or (table[at, 3] == used[1] - 1 and begin >= used[0])
            met = is_there and _same_graph(state, contents, begin)
        elif met:
            for word in range(words):
                there = np.uint64(table[at, 4 + word])
                for j in range(64 * word, min(count, 64 * word + 64)):
                    is_gone = gone[j] or j == k
                    if (there >> np.uint64(j & 63) & np.uint64(1) != 0) != is_gone:
                        met = False
        if paid + rest >= tally[1] or met:
            undo(state, mark)
            continue
        table[at, 0] = np.int64(name)
        table[at, 1] = paid
        if state.hashed:
            table[at, 2] = _write_down(state, contents, used)
            table[at, 3] = used[1]
            if table[at, 2] < 0:
                table[at, 0] = 0
        else:
            for word in range(words):
                there = np.uint64(0)
                for j in range(64 * word, min(count, 64 * word + 64)):
                    if gone[j] or j == k:
                        there |= np.uint64(1) << np.uint64(j & 63)
                table[at, 4 + word] = np.int64(there)
        depth += 1
        tally[0] = depth
        stack[depth, 0] = -1
        stack[depth, 2] = mark
        stack[depth, 3] = k
        spent[depth, 0] = paid
        spent[depth, 1] = rest
        gone[k] = True
        digest ^= names[k]
