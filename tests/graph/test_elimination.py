"""One contract for all eliminations: of blocks, of prices, in the compiled loops, as a game.

The graph update is written once for blocks and prices; the compiled search and the array game have
their own, for speed. After each vertex all of them have the same edges, of the same kinds, and say
that it cost the same.
"""

import abc
from collections import Counter
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax_cce_search.alphazero.encoding import Encoding
from jax_cce_search.game import kernels
from jax_cce_search.game.compiled import Compiled
from jax_cce_search.game.problem import Problem

from benchmarks.tasks import TASKS
from jax_cce.algebra.blocks import Piece
from jax_cce.graph.building import Graph
from jax_cce.graph.elimination import Elimination
from jax_cce.orders.skeleton import Skeleton, skeleton
from jax_cce.planning.task import task_of

pytestmark = pytest.mark.one_version

Edges = dict[tuple[int, int], int]


class Eliminating(abc.ABC):
    """A graph under elimination: what the contract speaks of."""

    @abc.abstractmethod
    def eliminate(self, vertex: int) -> int:
        """Eliminates a vertex; returns what it costs."""

    @abc.abstractmethod
    def edges(self) -> Edges:
        """The kind of each edge u -> v."""


class Prices(Eliminating):
    """On the skeleton."""

    def __init__(self, graph: Skeleton) -> None:
        self.state = graph.copy()

    def eliminate(self, vertex: int) -> int:
        return self.state.eliminate(vertex)

    def edges(self) -> Edges:
        return {(u, v): kind for u, to in self.state.successors.items() for v, kind in to.items()}


class Blocks(Eliminating):
    """On the blocks themselves.

    Their index arrays have other names than in the skeleton's table, and static factors may differ
    where a coefficient is added to itself: a block is of the kind that the skeleton has in its
    place if it has the same terms.
    """

    def __init__(self, graph: Graph, prices: Prices, table: Any) -> None:
        self.state, self.prices, self.table = Elimination(graph), prices, table

    def eliminate(self, vertex: int) -> int:
        before = self.state.recorder.cost.multiplications
        self.state.eliminate(vertex)
        return self.state.recorder.cost.multiplications - before

    def edges(self) -> Edges:
        expected = self.prices.edges()
        return {
            (u, v): self._kind(block, (u, v), expected.get((u, v), 0))
            for u, to in self.state.successors.items()
            for v, block in to.items()
        }

    def _kind(self, block: Any, ends: tuple[int, int], expected: int) -> int:
        if _terms(block) == _terms(self.table.block(expected)):
            return expected
        u, v = (self.state.graph.shapes[name] for name in ends)
        return self.table.intern(block, v, u)


def _terms(block: Any) -> Counter[Any]:
    return Counter(
        piece.term._replace(lookups=()) if isinstance(piece, Piece) else piece[1:]
        for piece in block
    )


class Loops(Eliminating):
    """In the compiled loops."""

    def __init__(self, graph: Skeleton) -> None:
        self.loops = Compiled(graph, uniform=False, prefix_cost=0)

    def eliminate(self, vertex: int) -> int:
        return int(self.loops.run(kernels.replay, self.loops.numbered([vertex])))

    def edges(self) -> Edges:
        kind, nodes = self.loops.state.kind, self.loops.nodes
        return {
            (int(nodes[i]), int(nodes[j])): int(kind[i, j])
            for i, j in zip(*np.nonzero(kind), strict=True)
        }


class Game(Eliminating):
    """As the game that is learnt; its kinds are one above the skeleton's."""

    def __init__(self, encoding: Encoding) -> None:
        self.encoding = encoding
        self.game = encoding.game()
        self.position = self.game.start
        self.step = jax.jit(lambda game, position, vertex: game.step(position, vertex))

    def eliminate(self, vertex: int) -> int:
        move = jnp.asarray(self.encoding.number[vertex], jnp.int32)
        self.position, cost, guessed = self.step(self.game, self.position, move)
        assert not guessed
        return int(cost)

    def edges(self) -> Edges:
        kind, nodes = np.asarray(self.position.kind), self.encoding.nodes
        return {
            (nodes[i], nodes[j]): int(kind[i, j]) - 1
            for i, j in zip(*np.nonzero(kind), strict=True)
        }


def assert_same(states: dict[str, Eliminating], order: list[int], remainder: int) -> None:
    """Asserts the contract along an order of all vertices."""
    reference, *others = states
    for turn, vertex in enumerate(order):
        costs = {name: state.eliminate(vertex) for name, state in states.items()}
        if "game" in costs and turn == len(order) - 1:
            # The last move of a game pays for the final form of the blocks, too.
            costs["game"] -= remainder
        edges = {name: state.edges() for name, state in states.items()}
        for name in others:
            assert costs[name] == costs[reference], f"{name}: cost of {vertex}"
            assert edges[name] == edges[reference], f"{name}: edges after {vertex}"


def compared(graph: Graph, measure: str, seed: int) -> None:
    """Compares all eliminations of a graph in a random order."""
    priced = skeleton(graph, measure)
    order = np.random.default_rng(seed).permutation(priced.vertices).tolist()
    # Enters the kinds that occur in this order, of which the game has a table.
    priced.evaluate(order)
    problem, prices = Problem(priced), Prices(priced)
    states: dict[str, Eliminating] = {"prices": prices, "loops": Loops(priced)}
    if problem.is_exact:
        # Else an edge may vanish because the same coefficient is subtracted from itself.
        states["blocks"] = Blocks(graph, prices, priced.algebra.structures)
    assert_same(states, order, 0)
    if not problem.vertices or problem.uniform:
        return
    encoding = Encoding(problem)
    left = set(problem.vertices)
    rest = [vertex for vertex in order if vertex in left]
    end = problem.reduced.copy()
    for vertex in rest:
        end.eliminate(vertex)
    games: dict[str, Eliminating] = {"prices": Prices(problem.reduced), "game": Game(encoding)}
    assert_same(games, rest, end.remainder())


@pytest.mark.parametrize("measure", ["multiplications", "flops"])
@pytest.mark.parametrize("name", ["Perceptron", "RoeFlux_1d", "PropaneCombustion", "Greeks"])
def test_reference_tasks(name: str, measure: str):
    task = TASKS[name]
    graph = task_of(task.fun, task.argnums)(*task.args).graphs[False]
    compared(graph, measure, seed=0)


def _stencil(x: Any) -> Any:
    y = jnp.sin(x[1:] * x[:-1])
    return jnp.cumsum(y) * x[0], jnp.sum(y**2)


def _matrices(x: Any) -> Any:
    a = jnp.outer(x, jnp.cos(x))
    return a @ a @ x, a.T.reshape(-1)[::2]


def _gathers(x: Any) -> Any:
    y = x[jnp.array([2, 0, 2])] * x
    return jnp.sort(y), y.at[1].set(0.0) + jnp.flip(x)


@settings(max_examples=8)
@given(st.integers(0, 2**32))
@pytest.mark.parametrize("format", ["dense", "bcoo"])
@pytest.mark.parametrize("fun", [_stencil, _matrices, _gathers])
def test_arrays_in_any_order(fun: Any, format: str, seed: int):
    graph = task_of(fun, format=format)(jnp.linspace(0.1, 1.0, 3)).graphs[False]
    priced = skeleton(graph, "multiplications")
    order = np.random.default_rng(seed).permutation(priced.vertices).tolist()
    prices = Prices(priced)
    states: dict[str, Eliminating] = {
        "prices": prices,
        "blocks": Blocks(graph, prices, priced.algebra.structures),
        "loops": Loops(priced),
    }
    assert_same(states, order, 0)
