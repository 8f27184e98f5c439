"""Where an edge may vanish while vertices are eliminated: known numbers that add up to zero.

A coefficient that is read at run time vanishes only with a number that it is multiplied by. Numbers
add up to zero only where some of the products between two nodes do, wherever their entries lie.
"""

import math
from collections.abc import Mapping, Sequence, Set

import numpy as np

from jax_cce.algebra.blocks import Piece
from jax_cce.algebra.composition import compose
from jax_cce.algebra.terms import Unrepresentable
from jax_cce.orders.block_table import PricedBlocks
from jax_cce.orders.skeleton import Skeleton
from jax_cce_search.game.coverage import positions

__all__ = [
    "cancelling",
    "may_cancel",
    "reached",
]

# Sums of more products between two nodes are too many to look at, and may be zero for all we know.
_MOST_PATHS = 10
# Known numbers that add up to less than that are taken to cancel.
_ROUNDING = 1e-9

_Edge = tuple[int, int]


def may_cancel(graph: Skeleton) -> bool:
    """Whether an edge, or a part of one, may vanish while vertices are eliminated."""
    return bool(cancelling(graph))


def cancelling(graph: Skeleton) -> set[_Edge]:
    """The edges with known numbers on paths between two nodes whose products may add up to zero."""
    if not isinstance(graph.algebra, PricedBlocks):
        return set()
    known = _known(graph, graph.algebra)
    ahead: dict[int, set[int]] = {}
    for source, target in known:
        ahead.setdefault(source, set()).add(target)
    reach = {node: reached({node}, ahead) for node in ahead}
    found: set[_Edge] = set()
    for start in ahead:
        # The products along the paths from the start, or None where there are too many.
        arrives: dict[int, list[Piece] | None] = {}
        for node in sorted(reach[start]):
            for target in ahead.get(node, ()):
                later = known[node, target]
                products = later if node == start else _products(later, arrives[node])
                before = arrives.get(target, [])
                if products is None or before is None or len(products) + len(before) > _MOST_PATHS:
                    arrives[target] = None
                else:
                    arrives[target] = [*before, *products]
        ends = {end for end, products in arrives.items() if _may_add_to_zero(products)}
        found |= {
            (node, target)
            for node in reach[start]
            for target in ahead.get(node, ())
            if not ends.isdisjoint(reach.get(target, {target}))
        }
    return found


def _known(graph: Skeleton, algebra: PricedBlocks) -> dict[_Edge, list[Piece]]:
    """The pieces with known numbers of each edge that has such."""
    by_kind: dict[int, list[Piece]] = {}
    known: dict[_Edge, list[Piece]] = {}
    for source, to in graph.successors.items():
        for target, kind in to.items():
            if kind not in by_kind:
                block = algebra.structures.block(kind)
                by_kind[kind] = [p for p in block if isinstance(p, Piece) and p.slot is None]
            if by_kind[kind]:
                known[source, target] = by_kind[kind]
    return known


def _products(later: Sequence[Piece], earlier: Sequence[Piece] | None) -> list[Piece] | None:
    """The products of known pieces; None where they are many, or have no such form."""
    if earlier is None or len(later) * len(earlier) > _MOST_PATHS:
        return None
    products = []
    for one in later:
        for other in earlier:
            scale = one.scale * other.scale
            if not one.term.sizes and not other.term.sizes:
                products.append(one._replace(scale=scale))
                continue
            try:
                product = compose(one.term, other.term)
            except Unrepresentable:
                return None
            if product is None:
                continue
            if product.guards or product.symbols:
                return None
            products.append(Piece(product.term, scale * product.multiplicity, None))
    return products


def _may_add_to_zero(products: Sequence[Piece] | None) -> bool:
    """Whether some of the products of known pieces may add up to zero."""
    if products is None:
        return True
    if len({_sign(piece.scale) for piece in products} - {None}) == 1:
        return any(_sign(piece.scale) is None for piece in products)
    # An entry that is a sum itself may be another number where its terms were added before.
    return not all(map(_is_single, products)) or _has_zero_sum([p.scale for p in products])


def _is_single(piece: Piece) -> bool:
    """Whether no two points of the loops have the same entry."""
    points = positions(piece.term.sizes, piece.term.out_map + piece.term.in_map)
    if points is None:
        return False
    return not points.size or np.unique(points, axis=1).shape[1] == math.prod(piece.term.sizes)


def _sign(number: complex) -> int | None:
    """1 or -1 for real numbers that have a sign."""
    if number.imag or not number.real:
        return None
    return 1 if number.real > 0 else -1


def _has_zero_sum(numbers: Sequence[complex]) -> bool:
    """Whether some of the numbers add up to zero."""
    sums: list[complex] = []
    for number in numbers:
        sums += [number, *(number + other for other in sums)]
    return any(abs(total) < _ROUNDING for total in sums)


def reached(starts: Set[int], ahead: Mapping[int, Set[int]]) -> set[int]:
    """All nodes on paths from the given ones, these included."""
    seen = set(starts)
    pending = list(starts)
    while pending:
        for target in ahead.get(pending.pop(), ()):
            if target not in seen:
                seen.add(target)
                pending.append(target)
    return seen
