"""Orders of elimination in native code: any gives the same, and a stored one is taken."""

import pickle
import random

import jax
import jax.numpy as jnp
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import lax
from jax_cce_search.game.problem import Problem
from jax_cce_search.optimizing import natively, racing
from jax_cce_search.optimizing.natively import NativeProblem
from jax_cce_search.searching import Budget, Search

import jax_cce
from benchmarks.tasks import TASKS
from cases.agreement import assert_agree
from cases.natively import is_native
from jax_cce import registry
from jax_cce.execution import measuring
from jax_cce.execution.calling import scalars
from jax_cce.native.edges import ORDERS, Edges
from jax_cce.native.skeletons import skeleton
from jax_cce.planning.task import task_of

X = jnp.array([0.3, 0.9, 0.6, 0.45])
ROE = TASKS["RoeFlux_1d"]


def fun(x):
    a = jnp.sin(x[0] * x[1]) * x[2]
    b = jnp.exp(a) / x[3]
    return jnp.stack([a * b, b - x[0], a, x[1]])


def looped(x):
    """The nodes around a loop have orders; those in it are the loop's own."""
    end = lax.fori_loop(0, 300, lambda _, y: y + 0.01 * jnp.sin(y) * x, x)
    return jnp.exp(end) * end[::-1]


def edges_of(f, *args, argnums=0) -> Edges:
    edges = scalars(task_of(f, argnums)(*args))
    assert isinstance(edges, Edges), edges
    return edges


@pytest.fixture
def store(monkeypatch, tmp_path):
    # The reference tasks have orders that come with the package.
    monkeypatch.setattr("jax_cce.registry.defaults._shipped", lambda: None)
    monkeypatch.setenv("JAX_CCE_REGISTRY", str(tmp_path))
    return registry.default()


@pytest.mark.parametrize("f", [fun, looped])
@settings(max_examples=max(1, settings().max_examples // 10))
@given(seed=st.integers(0, 1 << 30))
def test_any_order_gives_the_same(f, seed):
    order = list(range(len(edges_of(f, X).vertices)))
    random.Random(seed).shuffle(order)
    ours = jax_cce.jacobian(f, order=order, backend="native")
    assert is_native(ours, X)
    assert_agree(ours(X), jax.jit(jax.jacfwd(f))(X))


@pytest.mark.parametrize("order", ORDERS)
def test_named_orders(order):
    ours = jax_cce.jacobian(fun, order=order, backend="native")
    assert is_native(ours, X)
    assert_agree(jax.jit(jax.vmap(ours))(X[None] * 2), jax.jit(jax.jacfwd(fun))(2 * X)[None])
    numbers = edges_of(fun, X).numbered(order)
    assert_agree(jax_cce.jacobian(fun, order=numbers, backend="native")(X), ours(X))
    assert f"in {order} order" in (
        jax_cce.explain(fun, order=order, backend="native")(X).backend_reason
    )


def test_orders_of_other_graphs_are_refused():
    count = len(edges_of(fun, X).vertices)
    for order in (range(count + 1), range(1, count + 1), [0] * count):
        with pytest.raises(ValueError, match="vertices of the graph of scalars"):
            jax_cce.jacobian(fun, order=order, backend="native")(X)


def test_where_there_is_no_native_code_the_order_says_nothing():
    def fun(x):
        return jax.scipy.special.i0e(x) * x

    ours = jax_cce.jacobian(fun, order=[1, 0], backend="native")
    assert_agree(ours(X), jax.jit(jax.jacrev(fun))(X))


def test_pricing_leaves_no_trace():
    edges = edges_of(ROE.fun, *ROE.args, argnums=ROE.argnums)
    size = edges.graph.size
    prices = [edges.price(order) for order in ORDERS]
    assert edges.graph.size == size
    assert [edges.price(edges.numbered(order)) for order in ORDERS] == prices
    # What was made and forgotten is made again.
    assert edges.cheapest()[1] == ORDERS[prices.index(min(prices))]


def test_skeletons_count_what_is_made():
    edges = edges_of(lambda x: jnp.sin(x[0] * x[1]) * (x[0] - x[1]), X)
    # sin and mul have two products each by numbers that vary, and x[0] - x[1] has factors of one.
    counted = {
        cost: Problem(skeleton(edges, cost)).graph.evaluate(edges.vertices)
        for cost in ("multiplications", "nonunit_multiplications", "flops")
    }
    assert counted == {"multiplications": 6, "nonunit_multiplications": 4, "flops": 6}


def test_a_search_finds_what_computes_less():
    problem = NativeProblem(edges_of(ROE.fun, *ROE.args, argnums=ROE.argnums))
    copies = [problem, pickle.loads(pickle.dumps(problem))]
    found = []
    for each in copies:
        search = Search(each, Budget(evaluations=200))
        natively.search(search, "annealing")
        assert sorted(search.best) == list(range(len(problem.vertices)))
        assert search.cost == problem.edges.price(search.best)
        found.append((search.cost, search.best))
    assert found[0] == found[1]
    assert found[0][0] < min(problem.edges.price(order) for order in ORDERS)


@pytest.mark.parametrize("strategy", ["portfolio", "markowitz"])
def test_a_stored_order_is_taken(store, strategy):
    jacobian = jax_cce.jacobian(ROE.fun, ROE.argnums)
    before = jacobian(*ROE.args)
    price = min(edges_of(ROE.fun, *ROE.args, argnums=ROE.argnums).price(each) for each in ORDERS)
    found = jax_cce.optimize(
        ROE.fun, ROE.argnums, cost="native", strategy=strategy, budget=None, evaluations=300
    )(*ROE.args)
    assert found.value < price
    assert found.plan.method == "native"
    assert min(found.reference.values()) == price
    # It is nobody else's: the graph of arrays has no stored order.
    assert store.get(found.entry.key) is None
    assert store.get(found.entry.key, "native") == found.entry
    explanation = jax_cce.explain(ROE.fun, ROE.argnums)(*ROE.args)
    assert "in stored order" in explanation.backend_reason
    assert explanation.source != "registry"
    assert_agree(jacobian(*ROE.args), before)


def test_a_stored_order_of_another_graph_makes_no_difference(store):
    found = jax_cce.optimize(fun, cost="native", budget=None, evaluations=50)(X)
    registry.put(found.entry.__class__(found.entry.key, "native", (0, 1), 1.0, method="native"))
    assert is_native(jax_cce.jacobian(fun), X)
    assert_agree(jax_cce.jacobian(fun)(X), jax.jit(jax.jacfwd(fun))(X))


def test_what_is_optimal():
    found = jax_cce.optimize(lambda x: jnp.sin(x) * 2, cost="native", budget=1.0)(X)
    assert found.value == found.reference["forward"]
    with pytest.raises(ValueError, match="has no native code: bessel"):
        jax_cce.optimize(jax.scipy.special.i0e, cost="native", budget=1.0)(X)


@pytest.mark.one_version
@pytest.mark.parametrize("is_faster", [True, False])
def test_the_order_that_computes_the_least_has_to_be_as_fast(store, monkeypatch, is_faster):
    """It may keep more numbers waiting, so that a race decides whether it is stored."""
    raced = []

    def race(calls, **_):
        raced.append(set(calls))
        order = [racing.SEARCHED_NATIVELY, racing.NATIVE][:: 1 if is_faster else -1]
        return {name: order.index(name) + 1.0 if name in order else 9.0 for name in calls}

    # Nobody is waited for who does not run.
    monkeypatch.setattr(measuring, "compiled", lambda jacobians, *_: (jacobians, {}))
    monkeypatch.setattr(measuring, "race", race)
    found = jax_cce.optimize(ROE.fun, ROE.argnums, budget=None, evaluations=2000)(*ROE.args)
    assert {racing.SEARCHED_NATIVELY, racing.NATIVE} <= raced[0]
    assert found.plan.method == "native"
    stored = store.get(found.entry.key, "native")
    edges = edges_of(ROE.fun, *ROE.args, argnums=ROE.argnums)
    if is_faster:
        assert stored.value == edges.price(stored.order) < min(map(edges.price, ORDERS))
    else:
        assert stored is None
    jacobian = jax_cce.jacobian(ROE.fun, ROE.argnums)
    assert is_native(jacobian, *ROE.args)
    assert_agree(jacobian(*ROE.args), jax.jacrev(ROE.fun, ROE.argnums)(*ROE.args))
