"""The graphs of random programs, whole or in parts."""

import numpy as np

from jax_cce.orders.skeleton import Skeleton, skeleton
from jax_cce.planning.task import task_of
from jax_cce_search.alphazero.families.table import FAMILIES, SCALAR

__all__ = [
    "traced",
    "window",
]

# What has fewer or more vertices, or returns an argument as it is, is drawn again.
_SCALAR_VERTICES = range(15, 131)
_ARRAY_VERTICES = range(8, 61)


def traced(name: str, random: np.random.Generator, cost: str) -> Skeleton:
    """The graph of a random program of a family, differentiated with respect to all arguments.

    Args:
        name: the family, a key of `FAMILIES`.
        random: what is drawn with.
        cost: the measure of the graph's algebra (see `jax_cce.Plan.cost`).

    Raises:
        KeyError: for an unknown family.
        ValueError: for an unknown measure.
    """
    size = _SCALAR_VERTICES if name in SCALAR else _ARRAY_VERTICES
    while True:
        fun, args = FAMILIES[name](random)
        task = task_of(fun, tuple(range(len(args))))(*args)
        graph = skeleton(task.graphs[False], cost)
        if len(graph.vertices) in size and graph.outputs.isdisjoint(graph.inputs):
            return graph


def window(graph: Skeleton, count: int, random: np.random.Generator) -> Skeleton:
    """The part of a graph around consecutive vertices, at a random place.

    What lies outside and has an edge into the window is an input of the part, and what an edge
    leads to an output; edges between nodes outside are left out.

    Args:
        graph: the graph, from which nothing has been eliminated.
        count: the number of vertices of the part; a smaller graph is copied whole.
        random: what is drawn with.
    """
    if count >= len(graph.vertices):
        return graph.copy()
    first = int(random.integers(len(graph.vertices) - count + 1))
    vertices = graph.vertices[first : first + count]
    inside = set(vertices)
    inputs = {source for v in vertices for source in graph.predecessors[v]} - inside
    targets = {target for v in vertices for target in graph.successors[v]} - inside
    outputs = targets | (graph.outputs & inside)
    successors = {
        node: {
            target: kind
            for target, kind in graph.successors[node].items()
            if node in inside or target in inside
        }
        for node in sorted(inside | inputs | targets)
    }
    return Skeleton(vertices, sorted(inputs), outputs, graph.sizes, successors, graph.algebra)
