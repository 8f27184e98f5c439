"""Derivatives of a single point: several directions together, as the numbers of a vector.

Tangents by several inputs, or adjoints of several outputs, are made by the same operations. Of many
points a vector has a number for each point; of a single one it has a number for each direction.
"""

import functools
import operator
from collections.abc import Mapping, Sequence

from jax_cce.native.scalars import Scalars

__all__ = ["groups_of", "packed", "swept", "vectors_of", "width_of"]

# What is no vector, whatever its operands are.
_OF_NUMBERS = frozenset(("input", "lane", "loop", "number", "table", "truth"))


def width_of(graph: Scalars, nodes: Sequence[int]) -> int:
    """Of how many inputs, or outputs, the directions are together in a vector; 0 for none."""
    if graph.packed or graph.together < 2 or len(nodes) < 2:
        return 0
    return min(graph.together, 1 << (len(nodes) - 1).bit_length())


def groups_of(graph: Scalars, nodes: Sequence[int]) -> list[Sequence[int]]:
    """The inputs, or outputs, whose directions are together."""
    width = max(1, width_of(graph, nodes))
    return [nodes[first : first + width] for first in range(0, len(nodes), width)]


def packed(graph: Scalars, width: int, group: Sequence[int], tangents: Mapping[int, int]) -> int:
    """The derivatives by the inputs of a group, or of its outputs, as one node."""
    nodes = [tangents.get(column, graph.zero) for column in group]
    if not width or graph.packed:
        return nodes[0]
    return graph.make("pack", *nodes, *[graph.zero] * (width - len(nodes)))


def vectors_of(graph: Scalars, nodes: Sequence[int]) -> set[int]:
    """Which of some nodes, in the order of computation, are vectors, outside loops."""
    found = set[int]()
    for node in nodes:
        op = graph.ops[node]
        if op == "result":
            (loop,), (kind, k, *_) = graph.operands(node), graph.params[node]
            is_vector = (kind, k) in graph.params[loop].wide
        else:
            operands = () if op in _OF_NUMBERS else graph.args[node]
            is_vector = op == "pack" or not found.isdisjoint(operands)
        if is_vector:
            found.add(node)
    return found


def swept(
    graph: Scalars,
    sources: Sequence[int],
    targets: Sequence[int],
    edges: Mapping[int, Mapping[int, int]],
) -> list[list[int]]:
    """What all targets have of all sources, from sweeps over the edges: tangents, or adjoints.

    Args:
        graph: the graph.
        sources: the inputs, or the outputs.
        targets: the outputs, or the inputs.
        edges: for each node the nodes whose tangents, or adjoints, its own is a sum of, with the
            factors; in the order of the sweep.

    Returns:
        The nodes by target and source.
    """
    rows: list[list[int]] = [[] for _ in targets]
    width = width_of(graph, sources)
    for group in groups_of(graph, sources):
        vectors: dict[int, int] = {}
        # The directions that each has, as sets of bits.
        bits: dict[int, int] = {}
        for node, args in edges.items():
            own = [arg for arg in args if arg in vectors]
            terms = []
            for arg in own:
                term = graph.make("mul", vectors[arg], args[arg])
                # Where there is nothing to multiply, the other factor may be infinite.
                if not graph.is_tame(args[arg]) and bits[arg] != (1 << len(group)) - 1:
                    term = graph.make("keep", term, param=bits[arg])
                terms.append(term)
            if node in group:
                terms.append(packed(graph, width, group, {node: graph.one}))
            if terms:
                vectors[node] = graph.sum(terms)
                bits[node] = functools.reduce(operator.or_, (bits[arg] for arg in own), 0)
                if node in group:
                    bits[node] |= 1 << group.index(node)
        for row, target in zip(rows, targets, strict=True):
            for lane in range(len(group)):
                if not bits.get(target, 0) >> lane & 1:
                    row.append(graph.zero)
                elif width:
                    row.append(graph.make("lane", vectors[target], param=lane))
                else:
                    # A direction alone is no vector.
                    row.append(vectors[target])
    return rows
