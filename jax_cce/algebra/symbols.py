"""Symbols: integers that a composition needs and that are no affine function of its loops."""

from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from jax_cce.algebra import index_arrays
from jax_cce.algebra.index_arrays import Table
from jax_cce.algebra.terms import Affine, loops_of

__all__ = [
    "Digit",
    "Guard",
    "NamedSymbols",
    "Read",
    "Symbol",
    "sourced",
]


class Read(NamedTuple):
    """A table read at positions that are affine in the joint loops and earlier symbols."""

    table: Hashable
    shape: tuple[int, ...]
    maps: tuple[Affine, ...]


class Digit(NamedTuple):
    """(position // divisor) % size, kept within [0, size) where the position is not."""

    position: Affine
    divisor: int
    size: int

    @property
    def maps(self) -> tuple[Affine, ...]:
        """The positions that it depends on."""
        return (self.position,)


class Symbol(NamedTuple):
    """An integer that a composition needs and that is no affine function of the joint loops.

    Attributes:
        axes: the joint loops on which it depends, ascending; the axes of its table.
        size: it lies in [0, size).
        source: where it comes from.
    """

    axes: tuple[int, ...]
    size: int
    source: Read | Digit


class Guard(NamedTuple):
    """An entry exists only where low <= position <= high."""

    position: Affine
    low: int
    high: int


class NamedSymbols:
    """The symbols that a product needs, renamed in an order in which each can be evaluated.

    Attributes:
        symbols: the symbols so far; each reads only those before it.
    """

    def __init__(
        self,
        sizes: Mapping[int, int],
        source: Callable[[int], Read | Digit],
        loops: Mapping[int, int],
    ) -> None:
        """Starts with no symbol.

        Args:
            sizes: the size of each variable of the system.
            source: where the symbol of a (negative) variable comes from.
            loops: the new name of each free loop.
        """
        self.symbols: list[Symbol] = []
        self._sizes, self._source, self._loops = sizes, source, loops
        self._names: dict[int, int] = {}
        self._known: dict[Symbol, int] = {}

    def rename(self, affine: Affine) -> Affine:
        """A map of the system's variables, in terms of the new names."""
        strides: dict[int, int] = {}
        for variable, stride in affine.strides:
            name = self._loops[variable] if variable >= 0 else self._named(variable)
            strides[name] = strides.get(name, 0) + stride
        return Affine(affine.offset, tuple(sorted((k, s) for k, s in strides.items() if s)))

    def _named(self, variable: int) -> int:
        if variable not in self._names:
            size, source = self._sizes[variable], self._source(variable)
            if isinstance(source, Read):
                source = source._replace(maps=tuple(map(self.rename, source.maps)))
            else:
                source = source._replace(position=self.rename(source.position))
            axes = tuple(sorted(set(loops_of(source.maps, self.symbols))))
            symbol = Symbol(axes, size, source)
            if symbol not in self._known:
                self._known[symbol] = -1 - len(self.symbols)
                self.symbols.append(symbol)
            self._names[variable] = self._known[symbol]
        return self._names[variable]


def sourced(source: Read | Digit, positions: Sequence[Any], table: Any = None, xp: Any = np) -> Any:
    """The values of a symbol, from the values of what it reads.

    Args:
        source: where the symbol comes from.
        positions: the values of its maps.
        table: the array of its table, where that is not static.
        xp: NumPy, or a module like it.
    """
    if isinstance(source, Digit):
        return positions[0] // source.divisor % source.size
    if isinstance(source.table, Table):
        table = xp.asarray(source.table.values)
    if not positions:
        return xp.reshape(table, ())
    return xp.reshape(table, (-1,))[index_arrays.linear_index(positions, source.shape)]
