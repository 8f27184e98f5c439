"""Bounds of groups of vertices, which are higher than the sum of those of their members.

Let S be a group, v one of its vertices, and E those of S that an order eliminates before v. When v
is eliminated, none of its predecessors is in E, and every path from an input, or from a vertex of S
that is still there, to v goes through one of them: through the last node on it that is not yet
eliminated. So they are a cut of v from these ends in the first graph, in which nodes of E do not
take part, and are at least as many as the smallest such cut has nodes. The same holds for
successors; an output that was eliminated is a `sink` there. Hence v costs at least the product of
the two cuts, which depends on S and E only, and S costs at least the least sum over its orders,
which is found over its subsets. Every vertex of a graph is in one group, so that the bounds of
groups add up to one of the graph. In a graph of arrays the paths are those that `bounds` counts.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from jax_cce_search.game import cuts
from jax_cce_search.game.bounds import Paths, single_bounds, sink

__all__ = [
    "MOST_MEMBERS",
    "Groups",
]

# The tables of a larger group take too long.
MOST_MEMBERS = 14
# Numbers in all tables that are remembered.
_MOST_REMEMBERED = 1 << 23

Group = tuple[int, ...]


class _View(NamedTuple):
    """The graph as one vertex sees it in one direction (see `cuts`)."""

    number: dict[int, int]
    near: np.ndarray  # uint64 [nodes, words]
    ends: np.ndarray  # uint64 [words]
    seen: frozenset[int]  # the vertices that it contains


class Groups:
    """The bounds of groups of one graph, computed when they are asked for.

    Args:
        paths: the paths of the graph.

    Attributes:
        single: for each vertex its bound by itself.
    """

    def __init__(self, paths: Paths) -> None:
        single = single_bounds(paths)
        self.single = {vertex: bound for vertex, (bound, _) in single.items()}
        self._paths = paths
        self._ways = {vertex: way for vertex, (_, way) in single.items()}
        self._at = {vertex: k for k, vertex in enumerate(self.single)}
        count = len(self._at)
        self._factors = np.array([way.factor for way in self._ways.values()], np.int64)
        self._sees = np.zeros((2, count, count), np.bool_)
        self._views: dict[tuple[int, int], _View] = {}
        self._tables: dict[tuple[int, int, Group], np.ndarray] = {}
        self._remembered = 0
        self._bounds: dict[Group, int] = {}

    def bound(self, group: Iterable[int]) -> int:
        """What the vertices of a group cost at least, all together."""
        group = tuple(sorted(group))
        if len(group) == 1:
            return self.single[group[0]]
        bound = self._bounds.get(group)
        if bound is None:
            bound = self._bounds[group] = self._least_sum(group)
        return bound

    def gain(self, group: Sequence[int]) -> int:
        """By how much the bound of a group is above those of its members."""
        return self.bound(group) - sum(self.single[v] for v in group)

    def _least_sum(self, group: Group) -> int:
        if len(group) > MOST_MEMBERS:
            raise ValueError(
                f"A group must have at most {MOST_MEMBERS} vertices, but this one has {len(group)}."
            )
        tables = [self._table(vertex, side, group) for vertex in group for side in (0, 1)]
        sizes = [table.size for table in tables]
        at = np.array([self._at[vertex] for vertex in group], np.int32)
        starts = np.cumsum([0, *sizes[:-1]])
        sums = np.zeros(1 << len(group), np.int64)
        joint = np.concatenate(tables)
        return int(cuts.least_sum(at, self._sees, self._factors[at], joint, starts, sums))

    def _table(self, vertex: int, side: int, group: Group) -> np.ndarray:
        """The cut of a vertex behind or ahead, after each set of the members that it sees."""
        view = self._views.get((vertex, side)) or self._view(vertex, side)
        others = tuple([v for v in group if v in view.seen])
        key = vertex, side, others
        table = self._tables.get(key)
        if table is None:
            table = np.zeros(1 << len(others), np.int64)
            # Vertices are numbered in the order of the program.
            outward = others if side else others[::-1]
            bits = np.arange(len(others)) if side else np.arange(len(others))[::-1].copy()
            members = np.array([view.number[v] for v in outward], np.int32)
            cuts.cuts(view.near, view.ends, members, bits, table)
            self._remembered += table.size
            if self._remembered > _MOST_REMEMBERED:
                self._tables.clear()
                self._remembered = table.size
            self._tables[key] = table
        return table

    def _view(self, vertex: int, side: int) -> _View:
        paths, way = self._paths, self._ways[vertex]
        first, neighbours, ends = (
            (way.ahead, paths.ahead, paths.outputs)
            if side
            else (way.behind, paths.behind, paths.inputs)
        )
        number = {vertex: 0}
        pending = sorted(first - {sink(vertex)})
        for node in pending:
            number[node] = len(number)
        for node in pending:
            for other in sorted(neighbours.get(node, ())):
                if other not in number:
                    number[other] = len(number)
                    pending.append(other)
        words = (len(number) + 63) // 64
        near = np.zeros((len(number), words), np.uint64)
        bits = np.zeros(words, np.uint64)
        for node, at in number.items():
            for other in first if node == vertex else neighbours.get(node, ()):
                if other in number:
                    near[at, number[other] >> 6] |= np.uint64(1 << (number[other] & 63))
            if node in ends:
                bits[at >> 6] |= np.uint64(1 << (at & 63))
        seen = frozenset(number) & self._at.keys() - {vertex}
        self._sees[side, self._at[vertex], [self._at[v] for v in seen]] = True
        view = self._views[vertex, side] = _View(number, near, bits, seen)
        return view
