"""What vertices, equations and structures are called in reports and pictures."""

import math

from jax_cce.algebra import terms
from jax_cce.algebra.blocks import Block, OperatorPiece, Piece
from jax_cce.graph.building import Graph
from jax_cce.program import flat

__all__ = [
    "computed_by",
    "label",
    "structure_name",
]


def computed_by(graph: Graph) -> dict[int, flat.Equation]:
    """The equation that computes each variable of a graph's program, inputs aside."""
    return {name: each for each in graph.program.equations for name in each.outputs}


def label(graph: Graph, node: int) -> str:
    """The name of a node in reports: "x0" for the first input, "v3" for vertex 3."""
    first = graph.program.first_computed
    return f"v{node - first}" if node >= first else f"x{node}"


def structure_name(block: Block, out_shape: tuple[int, ...], in_shape: tuple[int, ...]) -> str:
    """The structure of a local Jacobian in a word or two.

    Args:
        block: the block.
        out_shape: shape of the variable that is differentiated.
        in_shape: shape of the variable it is differentiated by.

    Returns:
        Of a scalar by a scalar "one" (1 or -1), "constant" or "scalar". Else, where its numbers
        are known while planning, "layout" (reshape, slice, transpose and the like), "identity",
        "reduction", "broadcast" or "constant"; where they are not, "diagonal" (at most one
        coefficient in a row and in a column), "block diagonal", "weighted reduction", "weighted
        broadcast", "vector" (one row or one column) or "dense". "gather" reads positions from an
        index array; "sum of terms" has several of these; "operator" has no such form.
    """
    pieces = [piece for piece in block if isinstance(piece, Piece)]
    if len(pieces) < len(block):
        return "operator"
    if any(piece.term.lookups for piece in pieces):
        return "gather"
    if len(pieces) != 1:
        return "layout" if all(map(_is_layout, pieces)) else "sum of terms"
    (piece,) = pieces
    rows, columns, term = math.prod(out_shape), math.prod(in_shape), piece.term
    is_static = piece.slot is None
    if rows == columns == 1:
        if is_static:
            return "one" if piece.scale in (1, -1) else "constant"
        return "scalar"
    out, inn = set(terms.loops_of(term.out_map)), set(terms.loops_of(term.in_map))
    if is_static:
        if out == inn:
            if term.layout:
                return "layout"
            return "identity" if piece.scale in (1, -1) else "constant"
        if out < inn:
            return "reduction"
        return "broadcast" if inn < out else "constant"
    if out == inn:
        return "diagonal"
    if 1 in (rows, columns):
        return "vector"
    if out < inn:
        return "weighted reduction"
    if inn < out:
        return "weighted broadcast"
    return "block diagonal" if out & inn else "dense"


def _is_layout(piece: Piece | OperatorPiece) -> bool:
    return isinstance(piece, Piece) and piece.slot is None and piece.term.layout
