"""Graphs of scalars made ready for the searches for orders."""

import math

from jax_cce.algebra import terms
from jax_cce.algebra.blocks import Piece
from jax_cce.native.edges import Edges
from jax_cce.orders.block_table import BlockTable, PricedBlocks
from jax_cce.orders.skeleton import Skeleton

__all__ = ["skeleton"]


def skeleton(edges: Edges, cost: str = "flops") -> Skeleton:
    """The skeleton of a graph of scalars.

    In "flops", an order costs the additions and products that it makes, those that are shared or
    made simpler included. What it takes to compute is less, and known once they are made
    (`Edges.price`).

    Args:
        edges: the graph; its vertices keep their nodes as names.
        cost: a measure (see `jax_cce.Plan.cost`).
    """
    graph, before = edges.graph, edges.before
    priced = PricedBlocks(BlockTable(sparse=False), cost)
    scalar = terms.dense((), ())
    assert scalar is not None
    successors: dict[int, dict[int, int]] = {node: {} for node in before}
    for node, found in before.items():
        for arg, partial in found.items():
            value = graph.values[partial]
            if value is None or not math.isfinite(value):
                piece = Piece(scalar, 1, partial)
            else:
                piece = Piece(scalar, value, None)
            successors[arg][node] = priced.structures.intern((piece,), (), ())
    outputs = dict.fromkeys(node for node in edges.outputs if node in before)
    sizes = dict.fromkeys(before, 1)
    return Skeleton(edges.vertices, edges.inputs, outputs, sizes, successors, priced)
