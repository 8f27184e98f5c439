"""Searches that eliminate single edges: what they find, and that it is what they say."""

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from jax_cce_search import strategies
from jax_cce_search.game.bounds import vertex_bounds
from jax_cce_search.game.problem import Problem
from jax_cce_search.optimizing.parts import ArraysPart, Outcome
from jax_cce_search.searching import Budget, Search
from jax_cce_search.strategies import edges

import jax_cce
from benchmarks.tasks import TASKS
from cases.edge_orders import possible
from cases.scalar_graphs import both, scalars, task_graph
from jax_cce.eliminations import has_edges, vertices_of

pytestmark = pytest.mark.one_version


def searched(problem, seed=0, **budget):
    search = Search(problem, Budget(**budget), seed, strategy="edges")
    strategies.named("edges")(search)
    return search


@settings(max_examples=30)
@given(scalars(most=10))
def test_sequences_cost_what_the_search_says(graph):
    skeleton, truth = both(graph)
    problem = Problem(skeleton)
    found = searched(problem, evaluations=3000)
    assert sorted(vertices_of(found.best)) == list(problem.vertices)
    for each in found.improvements:
        assert sorted(vertices_of(each.order)) == list(skeleton.vertices)
        assert skeleton.evaluate(each.order) == each.cost
        if not has_edges(each.order):
            assert truth.cost(each.order) == each.cost
    assert sum(vertex_bounds(skeleton).values()) <= found.cost


@settings(max_examples=30)
@given(scalars(most=9))
def test_every_edge_of_a_sequence_is_there(graph):
    skeleton, _ = both(graph)
    found = searched(Problem(skeleton), evaluations=3000)
    for each in found.improvements:
        state = skeleton.copy()
        for item in each.order:
            if isinstance(item, int):
                state.update(item)
            else:
                assert item in possible(state)
                state.update_edge(item)


def test_no_order_of_vertices_is_as_cheap_on_the_greeks():
    """287 is what every search of vertex orders ends at; 283 is what the prototype found."""
    task, graph = TASKS["Greeks"], task_graph("Greeks")
    problem = Problem.of(graph, "multiplications")
    by_vertices = Search(problem, Budget(evaluations=300_000), strategy="annealing")
    strategies.named("annealing")(by_vertices)
    assert by_vertices.cost == 287
    found = searched(problem, evaluations=1_500_000)
    assert found.cost == 283
    assert found.cost == problem.evaluate(found.best)
    part = ArraysPart.of(graph, False, "multiplications")
    part.take(Outcome(found.improvements, 0, (), 0))
    order = part.searched_plan().order
    assert has_edges(order)
    assert part.searched_plan().cost("multiplications") == 283
    ours = jax_cce.jacobian(task.fun, task.argnums, order=order)(*task.args)
    theirs = jax.jacrev(task.fun, task.argnums)(*task.args)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9), ours, theirs)


def test_optimize_stores_a_sequence_and_jacobian_takes_it(tmp_path, monkeypatch):
    monkeypatch.setenv("JAX_CCE_REGISTRY", str(tmp_path))
    task = TASKS["Greeks"]
    found = jax_cce.optimize(
        task.fun,
        task.argnums,
        cost="multiplications",
        strategy="edges",
        budget=None,
        evaluations=1_000_000,
        progress=False,
    )(*task.args)
    assert found.value < 287
    assert has_edges(found.order)
    assert found.entry.topology == ""
    assert "edges: see .order" in str(found)
    stored = jax_cce.registry.get(found.entry.key, "multiplications")
    assert (stored.order, stored.value) == (found.order, found.value)
    plan = jax_cce.plan(task.fun, task.argnums, order=stored.order)(*task.args)
    assert plan.cost("multiplications") == found.value


@pytest.mark.parametrize("cost", ["flops", "nonunit_multiplications"])
def test_other_measures_order_vertices_alone(cost):
    problem = Problem.of(task_graph("PropaneCombustion"), cost)
    assert not edges.is_searchable(problem)
    assert not has_edges(searched(problem, evaluations=2000).best)


def test_a_proof_over_vertices_does_not_end_the_search():
    problem = Problem.of(task_graph("Greeks"), "multiplications")
    search = Search(problem, Budget(evaluations=20_000), strategy="edges")
    search.offer(problem.vertices)
    search.prove(search.cost)
    assert search.over()
    assert not search.spent()
    edges.beyond(search)
    assert search.cost < search.bound


def test_long_portfolios_go_on_with_edges(monkeypatch):
    problem = Problem.of(task_graph("Greeks"), "multiplications")
    monkeypatch.setattr(edges, "beyond", lambda state: state.offer(state.best, 1))
    for seconds, strategy in ((10.0, "edges"), (9.0, "")):
        search = Search(problem, Budget(seconds), strategy="portfolio")
        monkeypatch.setattr(
            "jax_cce_search.strategies.portfolio.by_vertices",
            lambda state: state.offer(problem.vertices),
        )
        strategies.named("portfolio")(search)
        last = search.improvements[-1]
        assert (last.strategy == "edges") == bool(strategy)
