"""Where the nodes of a graph lie: in layers, with few crossings (Sugiyama et al. 1981)."""

import collections
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from jax_cce.graph.building import Graph

__all__ = [
    "Bends",
    "Places",
    "layered_layout",
]

# Where each node lies, along the layers and across, and where each edge bends.
Places = dict[int, tuple[float, float]]
Bends = dict[tuple[int, int], list[tuple[float, float]]]

# Beyond so many bends, which take a place in a layer each, long edges are arcs instead.
_MOST_BENDS = 20_000
# Passes over the layers, forwards and backwards in turns; the heights hardly move after these.
_SWEEPS = 12
# Room across a layer, in units of a node's, for an edge that passes through.
_PASSING = 0.25


def layered_layout(graph: Graph) -> tuple[Places, Bends]:
    """Where the nodes lie, and where long edges pass through the layers between their ends.

    Source: Sugiyama, Tagawa & Toda, "Methods for visual understanding of hierarchical system
    structures" (1981): layers by longest path, then neighbours are brought together by barycentres.
    """
    layer = _layers(graph)
    edges = [(source, target) for source, to in graph.successors.items() for target in to]
    spans = sum(layer[target] - layer[source] - 1 for source, target in edges)
    routed = edges if spans <= _MOST_BENDS else []
    # Where an edge passes a layer there is a node of its own, named by the edge and the layer.
    chains: dict[tuple[int, int], list[Any]] = {
        (source, target): [
            (source, target, between) for between in range(layer[source] + 1, layer[target])
        ]
        for source, target in routed
    }
    before: dict[Any, list[Any]] = collections.defaultdict(list)
    after: dict[Any, list[Any]] = collections.defaultdict(list)
    rows: list[list[Any]] = [[] for _ in range(max(layer.values(), default=-1) + 1)]
    for node in layer:
        rows[layer[node]].append(node)
    for source, target in edges:
        chain = chains.get((source, target), [])
        for bend in chain:
            rows[bend[2]].append(bend)
        for one, other in itertools.pairwise([source, *chain, target]):
            after[one].append(other)
            before[other].append(one)
    height: dict[Any, float] = {}
    for row in rows:
        height.update(_spread(row))
    for sweep in range(_SWEEPS):
        neighbours, order = (before, rows) if sweep % 2 == 0 else (after, rows[::-1])
        for row in order:
            middle = {
                node: sum(height[each] for each in neighbours[node]) / len(neighbours[node])
                if neighbours[node]
                else height[node]
                for node in row
            }
            row.sort(key=middle.__getitem__)
            height.update(_spread(row, middle))
    places = {node: (float(layer[node]), height[node]) for node in layer}
    bends = {
        edge: [(float(bend[2]), height[bend]) for bend in chain] for edge, chain in chains.items()
    }
    if not routed:
        for source, target in edges:
            bends[source, target] = list(_arc(places[source], places[target]))
    return places, bends


def _layers(graph: Graph) -> dict[int, int]:
    """For each node the number of edges on the longest path to it."""
    missing = collections.Counter(target for to in graph.successors.values() for target in to)
    layer = {node: 0 for node in graph.successors if not missing[node]}
    pending = list(layer)
    for node in pending:
        for target in graph.successors[node]:
            layer[target] = max(layer.get(target, 0), layer[node] + 1)
            missing[target] -= 1
            if not missing[target]:
                pending.append(target)
    return layer


def _spread(row: Sequence[Any], wanted: Mapping[Any, float] | None = None) -> dict[Any, float]:
    """Heights in the order of a row, at a distance from each other, near those that are wanted."""
    rooms = [_PASSING if isinstance(node, tuple) else 1.0 for node in row]
    heights: list[float] = []
    for k, node in enumerate(row):
        lowest = -math.inf if not k else heights[-1] + (rooms[k - 1] + rooms[k]) / 2
        heights.append(max(lowest, wanted[node]) if wanted else max(lowest, 0.0))
    if heights:
        # Pushing goes one way only; on the whole the row must not drift with it.
        ideal = sum(wanted[node] for node in row) / len(row) if wanted else 0.0
        shift = ideal - sum(heights) / len(heights)
        heights = [height + shift for height in heights]
    return dict(zip(row, heights, strict=True))


def _arc(one: tuple[float, float], other: tuple[float, float]) -> Iterator[tuple[float, float]]:
    """A point beside the line between the ends of a long edge, so that it passes the nodes by."""
    span = other[0] - one[0]
    if span > 1:
        yield (one[0] + other[0]) / 2, (one[1] + other[1]) / 2 + 0.3 * math.sqrt(span)
