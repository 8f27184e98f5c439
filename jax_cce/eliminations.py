"""What an elimination order consists of: vertices, and single edges before them.

Eliminating a vertex multiplies every edge into it by every edge out of it. The front elimination of
one edge u -> v multiplies that edge by every edge out of v, and the back elimination by every edge
into u; the edge is then gone, and all other paths are as they were. To eliminate a vertex is to
eliminate the edges into it at the front, one after the other, or those out of it at the back. So
orders of vertices are among the sequences of edges, of which the best can be cheaper than they are.

Source: Naumann, "Optimal accumulation of Jacobian matrices by elimination methods on the dual
computational graph" (2004); Griewank & Walther, "Evaluating Derivatives" (2008), section 10.
"""

import operator
from collections.abc import Iterable, Iterator
from typing import Any, Literal, NamedTuple, TypeAlias, get_args

__all__ = [
    "EdgeElimination",
    "Item",
    "has_edges",
    "items_of",
    "moved",
    "vertices_of",
]

Side: TypeAlias = Literal["front", "back"]


class EdgeElimination(NamedTuple):
    """The elimination of one edge, as an item of an order beside its vertices.

    Nodes are numbered as in `jax_cce.Plan`: what the program's equations compute from 0 on. The
    first of the program's inputs is -1, the second -2, and so on.

    Attributes:
        side: "front": the edge is multiplied by each edge out of its target, and its products
            lead from its source past the target. "back": by each edge into its source, and they
            lead past the source to its target.
        source: the node where the edge starts; with "back" a vertex.
        target: the node where it ends; with "front" a vertex, and none that is an output too.

    Examples:
        The edge from the product to its sine is eliminated by itself, at either end.

        >>> import jax.numpy as jnp, jax_cce
        >>> def f(x, y):
        ...     product = x * y
        ...     return jnp.sin(product) * product
        >>> for side in ("front", "back"):
        ...     order = [jax_cce.EdgeElimination(side, 0, 1), 1, 0]
        ...     plan = jax_cce.plan(f, (0, 1), order=order)(2.0, 3.0)
        ...     print(*plan.order, plan.cost("multiplications"))
        front(0,1) 1 0 3
        back(0,1) 1 0 6
    """

    side: Side
    source: int
    target: int

    @property
    def vertex(self) -> int:
        """The vertex that its products lead past."""
        return self.target if self.side == "front" else self.source

    def __str__(self) -> str:
        """As "front(2,4)"."""
        return f"{self.side}({self.source},{self.target})"


Item: TypeAlias = int | EdgeElimination


def items_of(order: Iterable[Any]) -> tuple[Item, ...]:
    """The items of an order, edges also from triples as JSON has them.

    Raises:
        TypeError: for what is neither an integer nor a side and two integers.
        ValueError: for an unknown side.
    """
    return tuple(_item(item) for item in order)


def _item(item: Any) -> Item:
    if not isinstance(item, tuple | list):
        return operator.index(item)
    if len(item) != 3 or not isinstance(item[0], str):
        raise TypeError(f"An edge is a side, its source and its target, but got {item!r}.")
    side, source, target = item
    if side not in get_args(Side):
        raise ValueError(
            f'The side of an edge elimination must be "front" or "back", but got {side!r}.'
        )
    return EdgeElimination(side, operator.index(source), operator.index(target))


def has_edges(order: Iterable[Item]) -> bool:
    """Whether an order eliminates edges by themselves."""
    return any(isinstance(item, EdgeElimination) for item in order)


def vertices_of(order: Iterable[Item]) -> tuple[int, ...]:
    """The vertices among the items of an order."""
    return tuple(item for item in order if not isinstance(item, EdgeElimination))


def moved(order: Iterable[Item], first: int, *, inwards: bool) -> Iterator[Item]:
    """The same items with their nodes numbered otherwise.

    Args:
        order: the items.
        first: the variable number of what the first equation computes.
        inwards: whether numbers as in a plan become variable numbers of the program, or these
            become those.
    """

    def node(number: int) -> int:
        if inwards:
            return number + first if number >= 0 else ~number
        return number - first if number >= first else ~number

    for item in order:
        if isinstance(item, EdgeElimination):
            yield EdgeElimination(item.side, node(item.source), node(item.target))
        else:
            yield item + first if inwards else item - first
