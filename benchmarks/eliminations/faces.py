"""Face elimination, as a reference for how cheap a Jacobian can be: it is counted, not emitted.

The graph's edges become the nodes of its line graph, and each pair of edges u -> v, v -> w a face.
Eliminating a face multiplies its two edges. The product is added to the edge u -> w with the same
faces before it as the first and the same ones behind it as the second, where there is one, else it
is an edge of its own beside the others from u to w: other faces of the first and of the second
stay, which neither a vertex nor an edge elimination leaves. Edges with the same faces on both sides
are one.

Source: Naumann, "Optimal accumulation of Jacobian matrices by elimination methods on the dual
computational graph", Mathematical Programming 99 (2004).
"""

import math
import random
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from jax_cce.eliminations import EdgeElimination
from jax_cce.orders.skeleton import Skeleton

__all__ = ["Face", "Faces", "Item", "anneal", "cost_of"]

# First and last temperature, in products.
_HOT, _COLD = 0.5, 0.1


class Face(NamedTuple):
    """The elimination of the faces between the edges u -> v and v -> w."""

    source: int
    vertex: int
    target: int


Item = int | EdgeElimination | Face


class Faces:
    """The line graph of a graph of scalars while its faces are eliminated.

    Attributes:
        products: how many multiplications were made so far.
    """

    def __init__(self, graph: Skeleton, value: Callable[[int, int], Any] | None = None) -> None:
        """The line graph of a whole graph.

        Args:
            graph: the graph; outputs that are vertices get a node below each, whose edge
                multiplies nothing.
            value: the number that an edge holds; without it nothing is computed.
        """
        self.products = 0
        self._ends: list[tuple[int, int]] = []
        self._values: list[Any] = []
        self._before: list[set[int]] = []
        self._behind: list[set[int]] = []
        self._free: set[int] = set()
        self._of_ends: dict[tuple[int, int], list[int]] = {}
        self._into: dict[int, list[int]] = {}
        self._from: dict[int, list[int]] = {}
        self.outputs = {v: -1 - v if v in graph.vertices else v for v in graph.outputs}
        self._below = {v for v in self.outputs if v in graph.vertices}
        self._sources, self._sinks = frozenset(graph.inputs), frozenset(self.outputs.values())
        for source, to in graph.successors.items():
            for target in to:
                self._add(source, target, None if value is None else value(source, target))
        for vertex, node in self.outputs.items():
            if node != vertex:
                self._free.add(self._add(vertex, node, None if value is None else 1))
        for edge, (_, vertex) in enumerate(self._ends):
            for later in self._from.get(vertex, ()):
                self._behind[edge].add(later)
                self._before[later].add(edge)
        for edge, ends in enumerate(self._ends):
            if edge in self._of_ends[ends]:
                self._tidy(edge)

    def _add(self, source: int, target: int, value: Any) -> int:
        edge = len(self._ends)
        self._ends.append((source, target))
        self._values.append(value)
        self._before.append(set())
        self._behind.append(set())
        self._of_ends.setdefault((source, target), []).append(edge)
        self._into.setdefault(target, []).append(edge)
        self._from.setdefault(source, []).append(edge)
        return edge

    def eliminate(self, item: Item) -> int:
        """Eliminates a vertex, an edge or a face; returns the products that this takes.

        A vertex is all faces that have it in the middle, an edge those between it and others at one
        of its ends. What is not there takes nothing.
        """
        before = self.products
        for one, other in self._faces_of(item):
            if other in self._behind[one]:
                self._eliminate(one, other)
        return self.products - before

    def faces(self) -> list[Face]:
        """The faces that are left."""
        return [
            Face(*self._ends[one], self._ends[other][1])
            for one, behind in enumerate(self._behind)
            for other in sorted(behind)
        ]

    def result(self, source: int, output: int) -> Any:
        """The sum over the paths from an input to an output, when no face is left."""
        if source == output:
            return 1
        edges = self._of_ends.get((source, self.outputs[output]), ())
        return sum(self._values[edge] for edge in edges)

    def _faces_of(self, item: Item) -> list[tuple[int, int]]:
        if isinstance(item, Face):
            ones = self._of_ends.get((item.source, item.vertex), ())
            others = self._of_ends.get((item.vertex, item.target), ())
        elif isinstance(item, EdgeElimination):
            edges = self._of_ends.get((item.source, item.target), [])
            if item.target in self._below:
                edges = [*edges, *self._of_ends.get((item.source, -1 - item.target), ())]
            if item.side == "front":
                ones, others = edges, self._from.get(item.target, ())
            else:
                ones, others = self._into.get(item.source, ()), edges
        else:
            ones, others = self._into.get(item, ()), self._from.get(item, ())
        return [(one, other) for one in ones for other in others if other in self._behind[one]]

    def _eliminate(self, one: int, other: int) -> None:
        """Eliminates the face between two edges."""
        is_free = other in self._free
        self.products += not is_free
        value = self._values[one]
        product = None if value is None else value * self._values[other]
        ends = self._ends[one][0], self._ends[other][1]
        before, behind = self._before[one], self._behind[other]
        known = self._like(ends, before, behind)
        if known is None:
            known = self._add(*ends, product)
            self._before[known], self._behind[known] = set(before), set(behind)
            for edge in before:
                self._behind[edge].add(known)
            for edge in behind:
                self._before[edge].add(known)
        elif product is not None:
            self._values[known] = self._values[known] + product
        self._behind[one].discard(other)
        self._before[other].discard(one)
        for edge in (one, other):
            self._tidy(edge)

    def _like(self, ends: tuple[int, int], before: set[int], behind: set[int]) -> int | None:
        """An edge with such ends and faces."""
        for edge in self._of_ends.get(ends, ()):
            if self._before[edge] == before and self._behind[edge] == behind:
                return edge
        return None

    def _tidy(self, edge: int) -> None:
        """Drops an edge that no path leads through any more, or adds it to one that is like it."""
        source, target = self._ends[edge]
        is_dead = not (self._behind[edge] or target in self._sinks)
        is_dead |= not (self._before[edge] or source in self._sources)
        like = None
        if not is_dead:
            others = self._of_ends[source, target]
            like = next(
                (
                    each
                    for each in others
                    if each != edge
                    and self._before[each] == self._before[edge]
                    and self._behind[each] == self._behind[edge]
                ),
                None,
            )
        if not is_dead and like is None:
            return
        if like is not None and self._values[edge] is not None:
            self._values[like] = self._values[like] + self._values[edge]
        neighbours = [*self._before[edge], *self._behind[edge]]
        for each in self._before[edge]:
            self._behind[each].discard(edge)
        for each in self._behind[edge]:
            self._before[each].discard(edge)
        self._before[edge], self._behind[edge] = set(), set()
        for lists in (self._of_ends[source, target], self._into[target], self._from[source]):
            lists.remove(edge)
        for each in neighbours:
            if each in self._of_ends.get(self._ends[each], ()):
                self._tidy(each)


def cost_of(graph: Skeleton, sequence: Sequence[Item]) -> int:
    """The products of a sequence, after which no face is left.

    Raises:
        ValueError: where a face is left.
    """
    faces = Faces(graph)
    for item in sequence:
        faces.eliminate(item)
    if faces.faces():
        raise ValueError(f"The sequence leaves {len(faces.faces())} faces.")
    return faces.products


def anneal(
    graph: Skeleton, start: Sequence[Item], moves: int, seed: int = 0
) -> tuple[list[Item], int]:
    """Simulated annealing that puts faces into a sequence, leaves them out, and moves items.

    Args:
        graph: the graph.
        start: a sequence with all vertices of the graph.
        moves: how many changed sequences are evaluated.
        seed: seeds the random numbers.

    Returns:
        The best sequence and its cost.
    """
    rng = random.Random(seed)
    current = best = list(start)
    cost = least = cost_of(graph, current)
    for move in range(moves):
        allowed = cost - _HOT * (_COLD / _HOT) ** (move / moves) * math.log(rng.random() + 1e-300)
        at, what = rng.randrange(len(current)), rng.random()
        trial = list(current)
        others = [k for k, item in enumerate(current) if not isinstance(item, int)]
        is_new = what < 0.5
        if not is_new and what < 0.6 and others:
            del trial[rng.choice(others)]
        elif not is_new:
            item = trial.pop(at)
            trial.insert(rng.randrange(len(current)), item)
        faces = Faces(graph)
        for k, item in enumerate(trial):
            if is_new and k == at:
                left = faces.faces()
                if not left:
                    break
                trial.insert(at, rng.choice(left))
                faces.eliminate(trial[at])
            faces.eliminate(item)
            if faces.products > allowed:
                break
        else:
            current, cost = trial, faces.products
            if cost < least:
                best, least = current, cost
    return best, least
