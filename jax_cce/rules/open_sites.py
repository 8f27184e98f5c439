"""The values of equations off whose open paths coefficients are zero."""

import functools
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from jax import lax
from jax import numpy as jnp

from jax_cce.algebra.blocks import Operator
from jax_cce.algebra.coefficients import Symbols, align
from jax_cce.algebra.index_arrays import Table
from jax_cce.algebra.passing import image, passing
from jax_cce.algebra.steps import Key
from jax_cce.algebra.terms import Term
from jax_cce.rules.local import LocalSites, LocalTerm, Primals
from jax_cce.rules.open_paths import Edge, OpenPaths

__all__ = ["sites_of"]


Edges = Callable[[Any], Mapping[tuple[int, int], tuple[LocalTerm, ...] | Operator]]


def sites_of(
    paths: OpenPaths | None, edges: Edges, primals: Callable[[Any], Primals]
) -> LocalSites:
    """Where steps find the values of equations.

    Args:
        paths: the open paths between them; None where nothing is known of them.
        edges: the edges of a site's local Jacobian.
        primals: its operands and results.
    """
    return _OpenSites(paths, edges, primals) if paths else LocalSites(edges, primals)


class _OpenSites(LocalSites):
    """The values of equations, with coefficients that are zero off the open paths."""

    def __init__(self, paths: OpenPaths, edges: Edges, primals: Callable[[Any], Primals]) -> None:
        super().__init__(edges, primals)
        self._paths = paths
        self._masks: dict[Any, Any] = {}

    def coefficient(self, site: Any, key: Key, term: Term) -> Any:
        """The coefficient array of a term of a site's local Jacobian."""
        value = super().coefficient(site, key, term)
        edge = self._paths.guarded.get((site, key))
        if edge is None:
            return value
        ends = (
            (self._reached.get(edge.source), term.in_map),
            (self._live.get(edge.target), term.out_map),
        )
        entries = [(array, maps) for array, maps in ends if array is not None]
        axes = term.axes or ()
        points = passing(term, entries, axes, symbols=self._symbols(site, key))
        if points is None:
            return value
        keep = align(*points, axes, term.sizes)
        return lax.select(keep, value, lax.full_like(value, 0))

    def entries(self, site: Any, position: int, is_result: bool) -> Any:
        """The entries of an operator's operand or result on open paths; None for all."""
        name = self._paths.operators.get((site, position, is_result))
        if name is None:
            return None
        return (self._live if is_result else self._reached).get(name)

    @functools.cached_property
    def _reached(self) -> dict[int, Any]:
        """The entries that are reached, of variables of which not all are."""
        return self._spread(self._paths.ahead, transposed=False)

    @functools.cached_property
    def _live(self) -> dict[int, Any]:
        """The entries that are live, of variables of which not all are."""
        return self._spread(self._paths.behind, transposed=True)

    def _spread(self, edges: Iterable[Edge], *, transposed: bool) -> dict[int, Any]:
        result: dict[int, Any] = {}
        for edge in edges:
            near, far = edge.source, edge.target
            if transposed:
                near, far = far, near
            known, shape = result.get(near), self._paths.shapes[far]
            parts = []
            if isinstance(edge.block, Operator):
                some = lax.full((), True) if known is None else _any(known)
                parts.append(lax.broadcast(some, shape))
            else:
                for position, local in enumerate(edge.block):
                    key = edge.operand, edge.output, position
                    mask = self.mask(edge.site, key)
                    symbols = self._symbols(edge.site, key)
                    parts.append(
                        image(local.term, known, shape, mask, symbols, transposed=transposed)
                    )
            if far in result:
                parts.append(result[far])
            result[far] = functools.reduce(lax.bitwise_or, parts)
        return result

    def mask(self, site: Any, key: Key) -> Any:
        """Where a masked term's coefficient is not masked; None where that says the term."""
        if (site, key) not in self._masks:
            self._masks[site, key] = super().mask(site, key)
        return self._masks[site, key]

    def _symbols(self, site: Any, key: Key) -> Symbols:
        """The values of a local term's lookups."""
        symbols = {}
        for index, lookup in enumerate(self.local(site, key).term.lookups):
            table: Any = lookup.table
            if isinstance(table, Table):
                values = jnp.asarray(table.values)
            else:
                values = self.index_array(site, key, table)
            symbols[-1 - index] = lookup.axes, values
        return symbols


def _any(entries: Any) -> Any:
    return lax.reduce_or(entries, tuple(range(entries.ndim)))
