"""Greedy orders: permutations at their price, each step of the least score."""

import random

import jax
import pytest
from hypothesis import given, settings

import jax_cce
from benchmarks.tasks import TASKS
from cases.scalar_graphs import both, scalars, task_graph
from jax_cce.orders.greedy import SCORES, TIES, greedy
from jax_cce.orders.skeleton import skeleton


@pytest.mark.one_version
@pytest.mark.parametrize("score", SCORES)
@pytest.mark.parametrize("tie", TIES)
@settings(max_examples=20)
@given(graph=scalars(most=12))
def test_greedy_orders_are_permutations(score, tie, graph):
    sk, truth = both(graph)
    order, cost = greedy(sk.copy(), score, tie, uniform=random.Random(0).random)
    assert sorted(order) == list(sk.vertices)
    assert cost == truth.cost(order)


def test_minimum_fill_adds_the_fewest_edges():
    """Every step of a greedy order has the least score of all the vertices left."""
    sk, _ = both(({(0, k) for k in (1, 2, 3)} | {(1, 2), (1, 3), (2, 4), (3, 4), (1, 4)}, 1, {4}))
    state = sk.copy()
    for vertex in greedy(sk.copy(), "minimum_fill")[0]:
        fills = {v: state.fill(v) for v in state.vertices if state.successors[v]}
        assert fills[vertex] == min(fills.values())
        state.eliminate(vertex)


def test_markowitz_is_the_same_by_blocks_and_by_kinds():
    """On the tensor tasks the greedy choice depends on structure."""
    for name in ("RoeFlux_3d", "Encoder"):
        graph = task_graph(name)
        order, _ = greedy(skeleton(graph, "multiplications"))
        assert jax.tree.leaves(order)
        plan = jax_cce.plan(TASKS[name].fun, TASKS[name].argnums, order="markowitz")
        if plan(*TASKS[name].args).graph.num_edges == graph.num_edges:
            first = graph.program.first_computed
            assert plan(*TASKS[name].args).order == tuple(v - first for v in order)
