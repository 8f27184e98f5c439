"""The topology of a graph: what is left of it where sizes are left out.

An order that was found for one size of a function is an order for any other size, and for sizes
that are symbols, where no cost can be compared and nothing be searched. Vertices are told by their
rank: the program of symbolic sizes may have further equations that compute sizes.
"""

import hashlib
from collections.abc import Sequence

from jax_cce.eliminations import Item, vertices_of
from jax_cce.graph.building import Graph
from jax_cce.jax_internals import Literal

__all__ = ["order_in", "topology_of"]

# What reads entries at places: which of them JAX takes depends on whether sizes are known.
_MOVING = {
    *("broadcast_in_dim", "concatenate", "copy", "dynamic_slice", "dynamic_update_slice", "gather"),
    *("pad", "reshape", "rev", "slice", "split", "squeeze", "transpose"),
}


def topology_of(graph: Graph) -> str:
    """Identifies a graph up to sizes: 64 hexadecimal digits.

    Args:
        graph: the graph, with small arrays whole.
    """
    outputs = [x for x in graph.outputs if not isinstance(x, Literal)]
    names = [*graph.inputs, *graph.vertices, *(x for x in outputs if x not in graph.shapes)]
    names = list(dict.fromkeys([*names, *sorted(x for x in outputs if x in graph.shapes)]))
    rank = {name: k for k, name in enumerate(names)}
    makers = {x: equation.name for equation in graph.program.equations for x in equation.outputs}
    lines = [f"{len(graph.inputs)} {len(graph.vertices)} {[rank[x] for x in outputs]}"]
    for name in names:
        maker = makers.get(name, "")
        to = sorted(rank[x] for x in graph.successors.get(name, ()))
        axes = len(graph.shapes.get(name, ()))
        lines.append(f"{'' if maker in _MOVING else maker} {axes} {to}")
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def order_in(graph: Graph, order: Sequence[Item]) -> tuple[int, ...] | None:
    """An order of another graph of the same topology as one of this graph.

    Args:
        graph: the graph.
        order: all vertices of the other graph, by their numbers there; edges that are eliminated by
            themselves are left out.

    Returns:
        The vertices of this graph by their numbers; None where there are more or fewer.
    """
    own = [vertex - graph.program.first_computed for vertex in graph.vertices]
    vertices = vertices_of(order)
    if len(own) != len(vertices):
        return None
    rank = {vertex: k for k, vertex in enumerate(sorted(vertices))}
    return tuple(own[rank[vertex]] for vertex in vertices)
