"""A graph as the compiled loops take it, and the calls to them."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from jax_cce.orders.block_table import UnitBlocks
from jax_cce.orders.skeleton import Skeleton
from jax_cce_search.game import kernels
from jax_cce_search.game.state import (
    FINAL,
    GROW,
    NOTHING,
    PRODUCT,
    State,
    Tables,
    enter,
    entry_name,
    undo,
)

__all__ = [
    "MOST_COMPILED",
    "Compiled",
]

# Beyond that many nodes the matrix of a graph is too large, 576 MB; sparse strategies go on.
MOST_COMPILED = 12_000


class Compiled:
    """The arrays of a graph that the compiled loops work on, and the calls to them.

    The loops number the nodes anew, from 0 on. They break off where a product or a sum is not
    tabulated and note it in `missing`; `supply` enters it.

    Args:
        graph: the graph.
        uniform: whether every product costs one and every sum nothing.
        prefix_cost: what is added to the cost of every order.

    Raises:
        MemoryError: for a graph of more than `MOST_COMPILED` nodes.
    """

    def __init__(self, graph: Skeleton, uniform: bool, prefix_cost: int) -> None:
        nodes = sorted(graph.successors)
        if len(nodes) > MOST_COMPILED:
            raise MemoryError(
                f"A graph of {len(nodes)} nodes is too large for this strategy, which holds the "
                f"graph as a matrix and takes at most {MOST_COMPILED}. The strategies 'forward', "
                "'reverse' and 'markowitz' take graphs of any size."
            )
        self.prefix_cost = prefix_cost
        self.number = {node: k for k, node in enumerate(nodes)}
        self.nodes = np.array(nodes, np.int64)
        self.algebra = UnitBlocks() if uniform else graph.algebra
        self.tables = _empty_tables(1 << 10, np.full(1 << 6, -1, np.int64))
        self._entered = 0
        count = len(nodes)
        words = (count + 63) // 64
        is_output = np.array([node in graph.outputs for node in nodes], np.bool_)
        results = [
            (self.number[source], self.number[target])
            for source in graph.inputs
            for target in graph.outputs
            if source in self.number and source != target
        ]
        self.state = State(
            kind=np.zeros((count, count), np.int32),
            before=np.zeros((count, words), np.uint64),
            after=np.zeros((count, words), np.uint64),
            log=np.zeros((1 << 14, 3), np.int32),
            top=np.zeros(1, np.int64),
            digest=np.zeros(1, np.uint64),
            hashed=not uniform,
            is_output=is_output,
            results=np.array(results, np.int32).reshape(-1, 2),
            first=np.zeros(count, np.int32),
            second=np.zeros(count, np.int32),
        )
        for source, to in graph.successors.items():
            i = self.number[source]
            for target, kind in to.items():
                j = self.number[target]
                self.state.kind[i, j] = 1 if uniform else kind
                self.state.after[i, j >> 6] |= np.uint64(1 << (j & 63))
                self.state.before[j, i >> 6] |= np.uint64(1 << (i & 63))
        self.missing = np.zeros(3, np.int64)

    def numbered(self, order: Iterable[int]) -> np.ndarray:
        """Vertices as the compiled loops number them: int32 [vertices]."""
        return np.array([self.number[vertex] for vertex in order], np.int32)

    def named(self, order: np.ndarray) -> tuple[int, ...]:
        """Vertices as the graph numbers them."""
        return tuple(self.nodes[order].tolist())

    def run(self, kernel: Callable[..., Any], *args: Any) -> Any:
        """Calls a kernel with the graph and the tables, again until no entry is missing."""
        while True:
            result = kernel(self.state, self.tables, *args, self.missing)
            if self.missing[0] == NOTHING:
                return result
            self.supply()

    def supply(self) -> None:
        """Enters what a kernel found missing."""
        what, one, other = map(int, self.missing)
        if what == GROW:
            log = self.state.log
            self.state = self.state._replace(log=np.concatenate([log, np.zeros_like(log)]))
            return
        if what == FINAL:
            if one >= len(self.tables.final_cost):
                more = np.full(one, -1, np.int64)
                costs = np.concatenate([self.tables.final_cost, more])
                self.tables = self.tables._replace(final_cost=costs)
            self.tables.final_cost[one] = self.algebra.final(one)
            return
        combine = self.algebra.product if what == PRODUCT else self.algebra.total
        kind, cost = combine(one, other)
        self._entered += 1
        if 2 * self._entered > len(self.tables.names):
            self._make_room()
        enter(self.tables, entry_name(what, one, other), kind, cost)

    def reset(self) -> None:
        """Takes back whatever is eliminated, as a search that was interrupted may have left it."""
        undo(self.state, 0)

    def advance(self, order: np.ndarray) -> None:
        """Eliminates vertices, numbered as here, from the beginning on."""
        self.run(_replayed, order)

    def evaluate(self, orders: Sequence[Sequence[int]]) -> np.ndarray:
        """What each of some orders costs, the prefix included: int64 [orders].

        Args:
            orders: permutations of the vertices that are left.
        """
        rows = np.array([self.numbered(order) for order in orders], np.int32)
        return self.evaluate_numbered(rows.reshape(len(orders), -1))

    def evaluate_numbered(self, orders: np.ndarray) -> np.ndarray:
        """The same for int32 [orders, vertices] in the numbering of the compiled loops."""
        self.reset()
        costs = np.zeros(len(orders), np.int64)
        done = 0
        while done < len(orders):
            done = kernels.evaluate(self.state, self.tables, orders, costs, done, self.missing)
            if self.missing[0] != NOTHING:
                self.supply()
        return costs + self.prefix_cost

    def _make_room(self) -> None:
        old = self.tables
        self.tables = _empty_tables(2 * len(old.names), old.final_cost)
        for at in np.flatnonzero(old.names):
            enter(self.tables, old.names[at], old.kind[at], old.cost[at])


def _empty_tables(slots: int, final_cost: np.ndarray) -> Tables:
    return Tables(
        names=np.zeros(slots, np.int64),
        kind=np.zeros(slots, np.int32),
        cost=np.zeros(slots, np.int64),
        final_cost=final_cost,
    )


def _replayed(state: State, tables: Tables, order: np.ndarray, missing: np.ndarray) -> None:
    # What was begun before an entry was missing is taken back.
    undo(state, 0)
    kernels.replay(state, tables, order, missing)
