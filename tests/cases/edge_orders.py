"""Random orders that eliminate edges by themselves."""

import random

from jax_cce.eliminations import EdgeElimination, Item, moved
from jax_cce.graph.building import Graph
from jax_cce.graph.elimination import Elimination, GraphState


def possible(state: GraphState) -> list[EdgeElimination]:
    """The edges that can be eliminated by themselves now."""
    items = [
        EdgeElimination(side, source, target)
        for source, to in state.successors.items()
        for target in to
        for side in ("front", "back")
    ]
    return [item for item in items if not state.obstacle_to(item)]


def with_edges(graph: Graph, seed: int, most: int = 8) -> tuple[Item, ...]:
    """A random order of a graph, numbered as in a plan, with some edges by themselves."""
    rng, state = random.Random(seed), Elimination(graph)
    vertices = list(graph.vertices)
    rng.shuffle(vertices)
    left = rng.randint(1, most)
    while vertices:
        items = possible(state) if left and rng.random() < 0.5 else []
        if items:
            state.eliminate(rng.choice(items))
            left -= 1
        else:
            state.eliminate(vertices.pop())
    return tuple(moved(state.order, graph.program.first_computed, inwards=False))
