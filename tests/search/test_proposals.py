"""Proposals of moves: what is drawn, what moves cost whatever is drawn; windows by a score."""

import collections

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax_cce_search.alphazero.graphs import random_program
from jax_cce_search.game.chains import chain
from jax_cce_search.game.jit import jit
from jax_cce_search.game.moves import MIXED, NEIGHBOURS, PLAIN, Proposals, neighbour
from jax_cce_search.game.problem import Problem
from jax_cce_search.game.rows import joined, rows_of
from jax_cce_search.searching import Search
from jax_cce_search.strategies import windows

from benchmarks import proposals
from cases.scalar_graphs import both, scalars
from jax_cce.orders.skeleton import Skeleton

pytestmark = pytest.mark.one_version


@jit
def _chosen(before, after, low, last, place, anywhere, weights, draws, found):
    sums, ends = np.empty(4 * len(place)), np.empty(4 * len(place), np.int64)
    for k in range(len(draws)):
        high, forwards = neighbour(
            before, after, low, last, place, anywhere, weights, draws[k], sums, ends
        )
        found[k, 0], found[k, 1] = high, forwards


def test_neighbours_have_the_probability_of_their_weights():
    """Node 0 is before the vertex, nodes 65 and 66 come after it, and 67 is eliminated."""
    before, after = np.array([1, 0], np.uint64), np.array([0, 0b1110], np.uint64)
    place = np.full(70, -1, np.int32)
    place[[0, 65, 66, 67]] = 5, 9, 7, 1
    weights = np.random.default_rng(0).uniform(1, 3, (4, 10))
    expected = {
        (5, 1): weights[0, 2],
        (5, 0): weights[2, 2],
        (9, 1): weights[1, 6],
        (9, 0): weights[3, 6],
        (7, 1): weights[1, 4],
        (7, 0): weights[3, 4],
    }
    total = sum(expected.values())
    draws = (np.arange(100_000) + 0.5) / 100_000
    found = np.zeros((len(draws), 2), np.int64)
    _chosen(before, after, 3, 9, place, 0.0, weights, draws, found)
    seen = collections.Counter(map(tuple, found.tolist()))
    assert seen.keys() == expected.keys()
    for move, weight in expected.items():
        assert seen[move] / len(draws) == pytest.approx(weight / total, abs=1e-4)
    # A share goes anywhere; without neighbours the others stay.
    none = np.zeros(2, np.uint64)
    _chosen(none, none, 3, 9, place, 0.25, weights, draws, found)
    assert np.mean(found[:, 0] > 3) == pytest.approx(0.25, abs=1e-3)
    assert found[:, 0].max() == 9


def test_weights_of_kinds_and_lengths():
    ways = Proposals(0.0, (0.0, 1.0, 2.0, 3.0), 1.0, 2.0, cooling=0.5, vertices=1.0, moves=-1.0)
    weights = ways.weights(4000, 4000 * 1000, 1.0)
    lengths = np.arange(1.0, 4000)
    for kind, exponent in enumerate((1.5, 1.5, 2.5, 2.5)):
        np.testing.assert_allclose(weights[kind, 1:], np.exp(kind) * lengths**-exponent)
    assert not weights[:, 0].any()
    # Exponents are never negative.
    assert (ways.weights(400, 400 * 10**6, 0.0)[0, 1:] == 1).all()


@settings(max_examples=40)
@given(scalars(most=10), st.integers(0, 1000), st.sampled_from([PLAIN, MIXED, NEIGHBOURS]))
def test_costs_of_moves_are_those_of_their_orders(graph, seed, ways):
    skeleton, truth = both(graph)
    problem = Problem(skeleton)
    if len(problem.vertices) < 2:
        return
    random = np.random.default_rng(seed)
    run = chain(problem, random.permutation(problem.vertices).tolist(), 200, 0.1, 0.001, ways)
    for count in (1, 2, 30, 167):
        run.advance(count, random)
        assert truth.cost(problem.full(run.order)) == run.cost
    assert truth.cost(problem.full(run.best)) == run.best_cost


def test_large_graphs():
    count = 4000
    edges = {(k, k + 1) for k in range(count)} | {(k, k + 3) for k in range(count - 2)}
    problem = Problem(Skeleton.from_edges(edges, [0], [count]))
    run = chain(problem, problem.vertices[::2] + problem.vertices[1::2], 600, 0.01, 0.001)
    run.advance(600, np.random.default_rng(0))
    assert run.cost == problem.prefix_cost + problem.reduced.evaluate(run.order)


@jit
def _joined(rows, vertex, inside, sources, targets, gone):
    joined(rows, vertex, inside, sources, targets, gone)


def _members(bits):
    return {
        64 * word + k for word in range(len(bits)) for k in range(64) if int(bits[word]) >> k & 1
    }


@pytest.mark.parametrize("vertices", [30, 150])
def test_neighbours_by_paths_are_those_of_an_elimination(vertices):
    random = np.random.default_rng(vertices)
    problem = Problem(random_program(vertices, random))
    compiled = problem.compiled
    rows = rows_of(compiled.state)
    words = rows.sets.shape[1]
    for _ in range(20):
        order = compiled.numbered(random.permutation(problem.vertices).tolist())
        vertex, others = order[0], order[1 : 1 + random.integers(len(order))]
        inside = np.zeros(words, np.uint64)
        for other in others.tolist():
            inside[other >> 6] |= np.uint64(1) << np.uint64(other & 63)
        sources, targets, gone = np.zeros((3, words), np.uint64)
        _joined(rows, vertex, inside, sources, targets, gone)
        compiled.advance(others)
        assert _members(sources) == _members(compiled.state.before[vertex])
        assert _members(targets) == _members(compiled.state.after[vertex])
        compiled.reset()


def test_windows_begin_where_they_are_told_to():
    problem = Problem(random_program(80, np.random.default_rng(2)))
    order = np.random.default_rng(0).permutation(problem.vertices).tolist()
    search = Search(problem)
    search.offer(order)
    assert windows.improve(search, order, 6, [20])
    changed = [k for k, (a, b) in enumerate(zip(order, search.best, strict=True)) if a != b]
    assert changed
    assert 20 <= min(changed) <= max(changed) < 26


def test_what_windows_are_described_by():
    problem = Problem(random_program(60, np.random.default_rng(4)))
    order = problem.vertices
    features = proposals.described(problem, order)
    assert features.shape == (len(proposals.starts_of(len(order))), len(proposals._FEATURES))
    costs, graph = [], problem.reduced.copy()
    for vertex in order:
        costs.append(graph.eliminate(vertex))
    first = sum(costs[: proposals._SIZE]) / sum(costs) * len(order) / proposals._SIZE
    assert features[0, 0] == pytest.approx(first)
    assert (features[:, 1] >= -1e-12).all()


def test_what_was_learned_is_kept():
    ways = proposals.learned()
    assert 0 <= ways.anywhere <= 1
    assert len(ways.kinds) == 4
