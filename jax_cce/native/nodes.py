"""Arrays whose entries are nodes of a scalar graph."""

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from jax_cce.native.scalars import Scalars

__all__ = [
    "LARGEST",
    "Column",
    "Given",
    "Nodes",
    "Steps",
    "Unsupported",
    "each",
    "lifted",
    "most_of",
]

# Integers up to here, and what is computed of two of them, are exact in float32.
LARGEST = 1 << 20


class Unsupported(Exception):
    """Why a program has no scalar graph."""


class Nodes:
    """An array whose entries are nodes.

    Integers are whole numbers of the graph's type. They stay exact, and never wrap around, because
    it is known how large they may be.

    Args:
        nodes: the nodes.
        most: of integers, the largest magnitude that they may have.
    """

    def __init__(self, nodes: Any, most: int | None = None) -> None:
        self.nodes = np.asarray(nodes, np.int64)
        self.most = most


@dataclass(frozen=True)
class Column:
    """The place of an input that is another entry of an operand in each step of a loop.

    Attributes:
        number: which operand it is.
        first: the place of the first entry there.
        stride: how far it is to the next.
    """

    number: int
    first: int
    stride: int


class Given(Nodes):
    """An operand whose entries become nodes when they are asked for.

    Args:
        graph: the graph.
        number: which operand it is.
        shape: its shape.
    """

    def __init__(self, graph: Scalars, number: int, shape: Sequence[int]) -> None:
        self._graph, self._shape = graph, tuple(shape)
        self.number, self.most = number, None

    @functools.cached_property
    def nodes(self) -> np.ndarray:  # type: ignore[override]
        """The nodes of all entries."""
        every = [self._graph.input((self.number, k)) for k in range(math.prod(self._shape))]
        return np.array(every, np.int64).reshape(self._shape)

    @property
    def columns(self) -> list[Column]:
        """What the steps of a loop read that goes along the first axis."""
        width = math.prod(self._shape[1:])
        return [Column(self.number, k, width) for k in range(width)]


class Steps:
    """An array that is another one in each step of a loop, and known for all of them.

    Args:
        values: the arrays, one after the other.
    """

    def __init__(self, values: np.ndarray) -> None:
        self.values = values


def lifted(graph: Scalars, x: Any) -> np.ndarray:
    """The nodes of an array, of numbers or truth values where they are known."""
    if isinstance(x, Nodes):
        return x.nodes
    x = np.asarray(x)
    node = graph.truth if x.dtype == bool else graph.number
    if x.dtype.kind not in "bfiu":
        raise Unsupported(f"constants of type {x.dtype}")
    return np.array([node(value) for value in x.flat], np.int64).reshape(x.shape)


def most_of(x: Any) -> int:
    """How large integers may be; anything for other arrays."""
    if isinstance(x, Nodes):
        return x.most or 0
    return int(np.max(np.abs(x), initial=0)) if np.asarray(x).dtype.kind in "iu" else 0


def each(make: Callable[..., int], *operands: np.ndarray, most: int | None = None) -> Nodes:
    """An operation on the nodes at each place, of arrays of one shape."""
    places = zip(*(nodes.flat for nodes in operands), strict=True)
    made = [make(*map(int, nodes)) for nodes in places]
    return Nodes(np.array(made, np.int64).reshape(operands[0].shape), most)
