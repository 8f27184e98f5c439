"""Simulated annealing: what its moves cost, where its runs begin, and what they reach."""

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax_cce_search.alphazero.graphs import random_program
from jax_cce_search.game import rows
from jax_cce_search.game.chains import chain
from jax_cce_search.game.jit import jit, lowest, ones
from jax_cce_search.game.problem import Problem
from jax_cce_search.searching import Budget, Search
from jax_cce_search.strategies import annealing

from cases.scalar_graphs import both, graph_of, scalars, task_graph


def agrees(problem, seed, moves=(1, 2, 3, 50, 400)):
    """Goes on by some moves at a time, and evaluates the orders anew after each."""
    random = np.random.default_rng(seed)
    start = random.permutation(problem.vertices).tolist()
    run = chain(problem, start, sum(moves), 0.05, 0.001)
    assert run.order == run.best == tuple(start)
    seen = [run.cost]
    for count in moves:
        run.advance(count, random)
        order = list(run.order)
        assert sorted(order) == list(problem.vertices)
        slow = problem.prefix_cost + problem.reduced.evaluate(order)
        assert run.cost == slow
        assert run.best_cost == problem.prefix_cost + problem.reduced.evaluate(run.best)
        seen.append(run.cost)
        assert run.best_cost <= min(seen)
    assert run.left == 0
    return run


@pytest.mark.one_version
@settings(max_examples=60)
@given(scalars(most=10), st.integers(0, 1000))
def test_costs_of_moves_are_those_of_their_orders(graph, seed):
    sk, truth = both(graph)
    problem = Problem(sk)
    if len(problem.vertices) < 2:
        return
    assert problem.uniform
    run = agrees(problem, seed)
    assert truth.cost(problem.full(run.order)) == run.cost


@pytest.mark.one_version
@pytest.mark.parametrize("vertices", [40, 63, 130, 300])
def test_costs_of_moves_in_graphs_of_more_words(vertices):
    problem = Problem(random_program(vertices, np.random.default_rng(vertices)))
    assert problem.uniform
    agrees(problem, vertices)


@pytest.mark.one_version
@pytest.mark.parametrize("name", ["RoeFlux_3d", "Perceptron", "Encoder"])
@pytest.mark.parametrize("measure", ["multiplications", "flops"])
def test_costs_of_moves_in_graphs_of_arrays(name, measure):
    problem = Problem.of(task_graph(name), measure)
    assert not problem.uniform
    agrees(problem, 1)


@pytest.mark.one_version
def test_outputs_that_are_vertices():
    def f(x, y):
        a = x * y
        b = jnp.sin(a) * x
        c = a * b + y
        return a, b, c * b, jnp.exp(c) * a

    problem = Problem.of(graph_of(f, (0, 1), (0.3, 0.4)), "multiplications")
    assert problem.uniform
    assert set(problem.vertices) & set(problem.reduced.outputs)
    for seed in range(5):
        agrees(problem, seed)


@pytest.mark.one_version
def test_a_log_that_is_too_short_grows(monkeypatch):
    problem = Problem(random_program(80, np.random.default_rng(3)))
    found = []
    for room in (1 << 13, 2):
        monkeypatch.setattr(rows, "_ROOM", room)
        run = agrees(problem, 5, (100, 300))
        found.append((run.order, run.best))
    assert found[0] == found[1]


def test_bits():
    @jit
    def counted(x):
        return lowest(x), ones(x)

    for value in (1, 2, 3, 1 << 63, (1 << 64) - 1, 0b1011000):
        expected = (value & -value).bit_length() - 1, value.bit_count()
        assert counted(np.uint64(value)) == expected


@pytest.mark.one_version
def test_an_order_that_was_offered_is_where_it_begins(monkeypatch):
    problem = Problem(random_program(100, np.random.default_rng(1)))
    starts = []

    def noted(problem, start, *rest, **how):
        starts.append(tuple(start))
        return chain(problem, start, *rest, **how)

    monkeypatch.setattr(annealing, "chain", noted)
    offered = tuple(np.random.default_rng(0).permutation(problem.vertices).tolist())
    search = Search(problem, Budget(evaluations=50), strategy="annealing")
    search.offer(offered)
    annealing.search(search)
    assert starts[0] == offered


@pytest.mark.one_version
def test_a_run_that_is_cut_short_is_cold_at_its_end():
    """What is left after it is a minimum, as far as single moves go."""
    problem = Problem.of(task_graph("RoeFlux_1d"), "multiplications")
    random = np.random.default_rng(0)
    costs = {}
    for shortened in (False, True):
        run = chain(problem, problem.vertices, 1 << 40, 0.02, 0.0001)
        run.advance(1000, random)
        if shortened:
            run.shorten(20_000)
        run.advance(20_000, random)
        costs[shortened] = run.cost
    assert run.left == 0
    # At a fiftieth of the cost it is still 320 or so.
    assert costs[True] <= 305 < costs[False]


@pytest.mark.one_version
@pytest.mark.parametrize(
    "name, most, evaluations",
    [("RoeFlux_1d", 295, 100_000), ("Greeks", 287, 150_000), ("RoeFlux_3d", 589, 400_000)],
)
def test_what_it_reaches(name, most, evaluations):
    problem = Problem.of(task_graph(name), "multiplications")
    search = Search(problem, Budget(evaluations=evaluations), strategy="annealing")
    annealing.search(search)
    assert search.cost <= most
    assert search.evaluations <= evaluations


@pytest.mark.one_version
def test_larger_budgets_are_worth_it():
    problem = Problem(random_program(200, np.random.default_rng(7)))
    costs = []
    for evaluations in (1000, 10_000, 60_000):
        search = Search(problem, Budget(evaluations=evaluations), strategy="annealing")
        annealing.search(search)
        costs.append(search.cost)
    assert costs[2] < costs[1] < 0.99 * costs[0]
