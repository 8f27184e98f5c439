"""The search for a partition of a graph's vertices into groups of a high bound.

Groups begin as single vertices. Two that are near each other are merged where that raises the
bound, the best pair for their size first, small groups before large ones. Some that lie together
are taken apart and merged anew, as long as that helps. Then each group takes up to four others that
are near it where that raises the bound, and gives up the vertices that do not matter.
"""

import copy
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set

import numpy as np

from jax_cce_search.game.bounds import Paths
from jax_cce_search.game.groups import MOST_MEMBERS, Groups

__all__ = [
    "improved",
    "near",
]

Group = tuple[int, ...]
# Sizes up to which groups are merged, one after the other.
_CAPS = (6, 8, 10, 12, MOST_MEMBERS)
# Sizes up to which they are added to.
_LIMITS = (12, MOST_MEMBERS)
# So many groups are added to one at a time.
_MOST_ADDED = 4
_MOST_TRIED = 20_000
# Of so many partitions into merged groups the best is added to; of twice as many the next time.
_FIRST_TRIES = 4
_MOST_IN_VAIN = 3
_MOST_REBUILT = 60


def near(paths: Paths, vertices: Iterable[int]) -> dict[int, set[int]]:
    """For each vertex those that it has an edge or a neighbour in common with."""
    left = set(vertices)
    back: dict[bool, dict[int, set[int]]] = {False: {}, True: {}}
    for is_ahead, neighbours in ((False, paths.behind), (True, paths.ahead)):
        for node, others in neighbours.items():
            for other in others:
                back[is_ahead].setdefault(other, set()).add(node)
    found: dict[int, set[int]] = {}
    for vertex in left:
        beside: set[int] = set()
        for is_ahead, neighbours in ((False, paths.behind), (True, paths.ahead)):
            for other in neighbours[vertex]:
                beside |= {other, *back[is_ahead][other]}
        found[vertex] = (beside & left) - {vertex}
    return found


class _Partition:
    """Disjoint groups, and the sum of their bounds."""

    def __init__(self, groups: Groups, beside: Mapping[int, Set[int]]) -> None:
        self.groups, self.beside = groups, beside
        self.parts: dict[int, Group] = {}
        self.part_of: dict[int, int] = {}
        self.total = 0
        self._made = 0
        for vertex in sorted(beside):
            self.add((vertex,))

    def copy(self) -> "_Partition":
        other = copy.copy(self)
        other.parts, other.part_of = dict(self.parts), dict(self.part_of)
        return other

    def add(self, group: Iterable[int]) -> int:
        self._made += 1
        self.parts[self._made] = tuple(sorted(group))
        self.part_of |= dict.fromkeys(self.parts[self._made], self._made)
        self.total += self.groups.bound(self.parts[self._made])
        return self._made

    def remove(self, part: int) -> Group:
        group = self.parts.pop(part)
        self.total -= self.groups.bound(group)
        return group

    def union(self, parts: Iterable[int]) -> Group:
        return tuple(sorted(v for part in parts for v in self.parts[part]))

    def merge(self, parts: Iterable[int]) -> int:
        return self.add([v for part in parts for v in self.remove(part)])

    def gain(self, parts: Sequence[int]) -> int:
        """By how much merging some parts raises the bound."""
        apart = sum(self.groups.bound(self.parts[part]) for part in parts)
        return self.groups.bound(self.union(parts)) - apart

    def around(self, parts: Iterable[int]) -> list[int]:
        """The parts near some parts."""
        parts = set(parts)
        beside = {w for part in parts for v in self.parts[part] for w in self.beside[v]}
        return sorted({self.part_of[v] for v in beside} - parts)

    def prune(self, part: int) -> None:
        """Takes out of a part the vertices that do not raise its bound."""
        group, gain = self.parts[part], self.groups.gain(self.parts[part])
        kept = list(group)
        for vertex in group:
            rest = [v for v in kept if v != vertex]
            if len(rest) > 1 and self.groups.gain(rest) == gain:
                kept = rest
        if len(kept) < len(group):
            self.remove(part)
            self.add(kept)
            for vertex in set(group) - set(kept):
                self.add((vertex,))

    def result(self) -> list[Group]:
        return sorted(group for group in self.parts.values() if len(group) > 1)


def improved(
    groups: Groups, beside: Mapping[int, Set[int]], random: np.random.Generator
) -> Iterator[tuple[int, list[Group]]]:
    """Better and better partitions, until several in a row are no better.

    Yields:
        After each look at a new group the highest bound so far, and the groups of several vertices
        that it comes from; every other vertex is alone.
    """
    best = sum(groups.single.values()), list[Group]()
    tries, in_vain = _FIRST_TRIES, 0
    while in_vain < _MOST_IN_VAIN:
        before, chosen = best[0], None
        for _ in range(tries):
            partition = _Partition(groups, beside)
            for _ in _merged(partition, random):
                if partition.total > best[0]:
                    best = partition.total, partition.result()
                yield best
            if chosen is None or partition.total > chosen.total:
                chosen = partition
            if len(chosen.parts) == len(beside):
                # No two vertices cost more together than apart.
                return
        assert chosen is not None
        # Taking apart and merging is quick where it helps, and growing is thorough.
        unchanged = 0
        while unchanged < _MOST_REBUILT:
            trial = chosen.copy()
            for _ in _rebuilt(trial, random):
                if trial.total > best[0]:
                    best = trial.total, trial.result()
                yield best
            unchanged = 0 if trial.total > chosen.total else unchanged + 1
            if trial.total >= chosen.total:
                chosen = trial
        for most in _LIMITS:
            for _ in _grown(chosen, most):
                if chosen.total > best[0]:
                    best = chosen.total, chosen.result()
                yield best
        in_vain = in_vain + 1 if best[0] == before else 0
        tries *= 2


def _merged(partition: _Partition, random: np.random.Generator) -> Iterator[None]:
    scores: dict[tuple[int, int], float] = {}
    for cap in _CAPS:
        fresh = list(partition.parts)
        while True:
            for one in fresh:
                for other in partition.around([one]):
                    pair = min(one, other), max(one, other)
                    sizes = [len(partition.parts[part]) for part in pair]
                    if pair in scores or sum(sizes) > cap:
                        continue
                    gain = partition.gain(pair)
                    scores[pair] = gain / min(sizes) * (1 + 0.3 * random.random())
                    yield
            promising = [pair for pair, score in scores.items() if score > 0]
            if not promising:
                break
            pair = max(promising, key=scores.__getitem__)
            fresh = [partition.merge(pair)]
            scores = {p: score for p, score in scores.items() if not set(p) & set(pair)}
            yield


def _rebuilt(partition: _Partition, random: np.random.Generator) -> Iterator[None]:
    """Takes apart a group, and some of those near it, and merges anew."""
    grown = [part for part, group in partition.parts.items() if len(group) > 1]
    if not grown:
        return
    part = grown[random.integers(len(grown))]
    others = [p for p in partition.around([part]) if len(partition.parts[p]) > 1]
    count = min(len(others), int(random.integers(3)))
    for chosen in [part, *(others[k] for k in random.permutation(len(others))[:count])]:
        for vertex in partition.remove(chosen):
            partition.add((vertex,))
    yield from _merged(partition, random)
    for each in list(partition.parts):
        if len(partition.parts.get(each, ())) > 1:
            partition.prune(each)
            yield


def _grown(partition: _Partition, most: int) -> Iterator[None]:
    found = True
    while found:
        found = False
        for part in list(partition.parts):
            if len(partition.parts.get(part, ())) > 1:
                partition.prune(part)
                yield
        front: list[tuple[int, ...]] = [
            (part,) for part, group in partition.parts.items() if len(group) > 1
        ]
        seen: set[tuple[int, ...]] = set()
        for _ in range(_MOST_ADDED):
            following: list[tuple[int, ...]] = []
            for parts in front:
                for other in partition.around(parts):
                    more = tuple(sorted((*parts, other)))
                    size = sum(len(partition.parts[part]) for part in more)
                    if more in seen or size > most:
                        continue
                    seen.add(more)
                    following.append(more)
                    found = partition.gain(more) > 0
                    if found:
                        partition.merge(more)
                    yield
                    if found:
                        break
                if found:
                    break
            if found:
                break
            front = following[:_MOST_TRIED]
