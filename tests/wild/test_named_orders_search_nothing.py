"""A named or given order is planned as it is, and planning says what it does before it does it."""

import functools
import logging

import jax
import jax.numpy as jnp
import pytest

import jax_cce
from cases.agreement import assert_agree
from jax_cce.orders import named

FORMATS = ["dense", "bcoo", "structured"]
TRANSFORMS = {
    "jacobian": jax_cce.jacobian,
    "value_and_jacobian": jax_cce.value_and_jacobian,
    "plan": jax_cce.plan,
    "hessian": jax_cce.hessian,
}


def arm(q):
    """The tip of a planar arm, written with small matrices: it has two graphs."""
    p, R = jnp.zeros(2), jnp.eye(2)
    for k in range(q.size):
        R = R @ jnp.array([[jnp.cos(q[k]), -jnp.sin(q[k])], [jnp.sin(q[k]), jnp.cos(q[k])]])
        p = p + R @ jnp.ones(2)
    return p


def reach(q):
    return jnp.sum(arm(q) ** 2)


@pytest.fixture
def searches(monkeypatch):
    """The graphs that were searched for an order."""
    seen = []
    auto = named.ORDERS["auto"]

    def recorded(graph, *args):
        seen.append(graph)
        return auto(graph, *args)

    monkeypatch.setattr(named, "auto", recorded)
    monkeypatch.setitem(named.ORDERS, "auto", recorded)
    return seen


@pytest.mark.parametrize("order", ["forward", "reverse", "markowitz"])
@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("transform", TRANSFORMS)
def test_a_named_order_searches_nothing(transform, format, order, searches):
    fun = reach if transform == "hessian" else arm
    q = jnp.linspace(0.1, 0.4, 4)
    assert TRANSFORMS[transform](fun, format=format, order=order)(q) is not None
    # The inner Jacobian of a Hessian is planned by itself, in the default order, on its two graphs.
    assert len(searches) <= (2 if transform == "hessian" else 0)


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("order", ["forward", "reverse", "markowitz", "auto"])
def test_a_given_order_searches_nothing(order, format, searches):
    q = jnp.linspace(0.1, 0.4, 3)
    plan = jax_cce.plan(arm, order=order, format=format)(q)
    searches.clear()
    again = jax_cce.plan(arm, order=plan.order, format=format)(q)
    assert not searches
    assert (again.order, again.scalarised) == (plan.order, plan.scalarised)
    assert again.cost("flops") == plan.cost("flops")
    if format == "dense":
        assert_agree(jax_cce.jacobian(arm, order=plan.order)(q), jax.jacrev(arm)(q))


@pytest.mark.parametrize("order", ["forward", "reverse"])
def test_a_named_order_takes_the_graph_that_it_is_cheaper_on(order):
    q = jnp.linspace(0.1, 0.4, 4)
    plan = jax_cce.plan(arm, order=order)(q)
    graphs = jax_cce.planning.task.task_of(arm)(q).graphs
    costs = []
    for graph in graphs.values():
        state = named.eliminate(graph, order)
        state.jacobian()
        costs.append(state.recorder.cost.flops)
    assert len(costs) == 2
    assert plan.cost("flops") <= min(costs)


def test_an_order_of_no_graph_is_refused():
    with pytest.raises(ValueError, match="must be a permutation"):
        jax_cce.plan(arm, order=(0, 1, 2))(jnp.ones(3))


CALLS = {
    "plan": lambda fun: jax_cce.plan(fun),
    "jacobian": lambda fun: jax_cce.jacobian(fun),
    "under jit": lambda fun: jax.jit(jax_cce.jacobian(fun)),
    "named": lambda fun: jax_cce.jacobian(fun, order="reverse"),
    "bcoo": lambda fun: jax_cce.jacobian(fun, format="bcoo"),
    "hessian": lambda fun: jax_cce.hessian(fun),
    "value_and_jacobian": lambda fun: jax_cce.value_and_jacobian(fun),
    "partial": lambda fun: jax_cce.jacobian(functools.partial(fun)),
}


@pytest.mark.parametrize("call", CALLS)
def test_a_line_is_logged_before_planning(call, caplog, monkeypatch):
    before = []

    def seen(graph, *args):
        before.append([record.getMessage() for record in caplog.records])
        return eliminate(graph, *args)

    eliminate = named.eliminate
    monkeypatch.setattr(named, "eliminate", seen)
    jax_cce.cache_clear()
    with caplog.at_level(logging.INFO, logger="jax_cce"):
        CALLS[call](reach)(jnp.linspace(0.1, 0.4, 3))
    assert before
    lines = " ".join(before[0])
    assert ("partial" if call == "partial" else "reach") in lines
    assert "equations" in lines
    assert "vertices" in lines
    for remedy in ("search_budget=0", "named order", "jax_cce.optimize"):
        assert remedy in lines


def test_planning_can_be_interrupted_and_done_again(monkeypatch):
    from jax_cce.graph.elimination import Elimination

    count = iter(range(100))
    eliminate = Elimination.eliminate

    def interrupted(self, vertex):
        if next(count) == 5:
            raise KeyboardInterrupt
        eliminate(self, vertex)

    q = jnp.linspace(0.1, 0.4, 3)
    jax_cce.cache_clear()
    with monkeypatch.context() as patched:
        patched.setattr(Elimination, "eliminate", interrupted)
        with pytest.raises(KeyboardInterrupt):
            jax_cce.jacobian(arm)(q)
    assert_agree(jax_cce.jacobian(arm)(q), jax.jacrev(arm)(q))
