"""Orders that eliminate edges by themselves: the same Jacobian, at the cost of their products."""

import dataclasses
import functools
import json
import random

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import jax_cce
from benchmarks.tasks import TASKS
from cases.agreement import assert_agree
from cases.edge_orders import possible, with_edges
from cases.scalar_graphs import scalars
from jax_cce import EdgeElimination
from jax_cce.eliminations import items_of, vertices_of
from jax_cce.graph.elimination import GraphState
from jax_cce.orders.skeleton import Skeleton, skeleton
from jax_cce.registry import Registry, StoredOrder, stored_order

_PRIME = (1 << 61) - 1


class Numbers(GraphState[int]):
    """A graph whose edges hold numbers modulo a prime, and how many products were made."""

    products = 0

    def joined(self, old, later, earlier, ends):
        self.products += 1
        return ((old or 0) + later * earlier) % _PRIME


@given(graph=scalars(most=7), seed=st.integers(0, 2**32))
@pytest.mark.one_version
def test_the_sum_over_paths_stays_and_products_are_counted(graph, seed):
    edges, inputs, outputs = graph
    rng = random.Random(seed)
    nodes = {*range(inputs), *outputs, *(node for edge in edges for node in edge)}
    held = {node: {} for node in sorted(nodes)}
    for source, target in sorted(edges):
        held[source][target] = rng.randrange(1, _PRIME)

    @functools.cache
    def paths(source, target):
        if source == target:
            return 1
        return sum(held_by * paths(n, target) for n, held_by in held[source].items()) % _PRIME

    state = Numbers(held, outputs)
    skeleton_ = Skeleton.from_edges(edges, range(inputs), outputs)
    vertices, order = list(skeleton_.vertices), []
    rng.shuffle(vertices)
    while vertices:
        items = possible(state) if rng.random() < 0.5 else []
        if items:
            order.append(rng.choice(items))
            state.update_edge(order[-1])
        else:
            order.append(vertices.pop())
            state.update(order[-1])
    assert skeleton_.evaluate(order) == state.products
    for source in range(inputs):
        for target in outputs:
            assert state.successors[source].get(target, 0) == paths(source, target)


@given(graph=scalars(most=7), seed=st.integers(0, 2**32))
@pytest.mark.one_version
def test_a_vertex_is_its_edges_one_after_the_other(graph, seed):
    """All edges into a vertex at the front, or all out of it at the back, cost what it does."""
    edges, inputs, outputs = graph
    state = Skeleton.from_edges(edges, range(inputs), outputs)
    vertices = [v for v in state.vertices if v not in outputs and state.predecessors[v]]
    if not vertices:
        return
    vertex = random.Random(seed).choice(vertices)
    front = [EdgeElimination("front", u, vertex) for u in state.predecessors[vertex]]
    back = [EdgeElimination("back", vertex, w) for w in state.successors[vertex]]
    rest = [v for v in state.vertices if v != vertex]
    cost = state.evaluate([vertex, *rest])
    assert state.evaluate([*front, vertex, *rest]) == cost
    assert state.evaluate([*back, vertex, *rest]) == cost


@pytest.mark.parametrize("name", ["Greeks", "PropaneCombustion", "RoeFlux_1d"])
def test_reference_tasks_cost_what_the_skeleton_says_and_agree(name):
    task = TASKS[name]
    graph = jax_cce.plan(task.fun, task.argnums, order="reverse")(*task.args).graph
    expected = jax.jacrev(task.fun, task.argnums)(*task.args)
    first = graph.program.first_computed
    for seed in range(2):
        order = with_edges(graph, seed)
        assert len(order) > len(graph.vertices)
        plan = jax_cce.plan(task.fun, task.argnums, order=order)(*task.args)
        assert plan.order == order
        priced = skeleton(graph, "multiplications")
        named = [
            item._replace(source=_name(item.source, first), target=_name(item.target, first))
            if isinstance(item, EdgeElimination)
            else item + first
            for item in order
        ]
        assert plan.cost("multiplications") == priced.evaluate(named)
        ours = jax_cce.jacobian(task.fun, task.argnums, order=order)(*task.args)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9), ours, expected)


def _name(number, first):
    return number + first if number >= 0 else -1 - number


def _stencil(x):
    y = jnp.sin(x[1:] * x[:-1])
    return jnp.cumsum(y) * x[0], jnp.sum(y**2)


def _matrices(x):
    a = jnp.outer(x, jnp.cos(x))
    return a @ a @ x, a.T.reshape(-1)[::2]


def _gathers(x):
    y = x[jnp.array([2, 0, 2])] * x
    return jnp.sort(y), y.at[1].set(0.0) + jnp.flip(x)


@settings(max_examples=6)
@given(st.integers(0, 2**32))
@pytest.mark.parametrize("format", ["dense", "bcoo"])
@pytest.mark.parametrize("fun", [_stencil, _matrices, _gathers])
def test_arrays_with_structured_blocks(fun, format, seed):
    x = jnp.linspace(0.1, 1.0, 3)
    graph = jax_cce.plan(fun, order="reverse", format=format)(x).graph
    order = with_edges(graph, seed, most=12)
    ours = jax_cce.jacobian(fun, order=order, format=format)(x)
    if format == "bcoo":
        ours = jax.tree.map(
            lambda block: block.todense(), ours, is_leaf=lambda b: hasattr(b, "nse")
        )
    assert_agree(ours, jax.jacrev(fun)(x))


def _two_paths(x, y):
    product = x * y
    root = jnp.sqrt(product)
    return jnp.sin(root) * product, root


# Vertices 0 (x * y), 1 (the root, an output too) and 2 (its sine).
_VERTICES = (0, 1, 2)


def test_the_vertices_of_the_example():
    assert jax_cce.plan(_two_paths, (0, 1))(2.0, 3.0).vertices == _VERTICES


@pytest.mark.parametrize(
    "order, words",
    [
        ((("front", 0, 7), 0, 1, 2), "front\\(0,7\\) at position 0, but there is no such edge"),
        ((0, ("front", 0, 1), 1, 2), "front\\(0,1\\) at position 1, but there is no such edge"),
        ((("back", -1, 0), 0, 1, 2), "its source is no vertex"),
        ((("front", 0, 3), 0, 1, 2), "its target is no vertex"),
        ((("front", 0, 1), 0, 1, 2), "its target is an output too"),
        ((("front", 1, 2), 0, 1), "missing 2"),
        ((("left", 1, 2), 0, 1, 2), 'must be "front" or "back", but got \'left\''),
    ],
)
def test_edges_that_cannot_be_eliminated(order, words):
    with pytest.raises(ValueError, match=words):
        jax_cce.jacobian(_two_paths, (0, 1), order=order)(2.0, 3.0)


@pytest.mark.parametrize("item", [(1, 2), ("front", 1), ("front", 1.0, 2), (1, 2, 3), "front"])
def test_what_is_no_item_of_an_order(item):
    with pytest.raises(TypeError, match=r"sequence of integers .* and jax_cce\.EdgeElimination"):
        jax_cce.jacobian(_two_paths, (0, 1), order=[item, 0, 1, 2])


def test_native_code_takes_none_and_the_default_is_xla():
    order = [EdgeElimination("back", 1, 2), 0, 1, 2]
    with pytest.raises(ValueError, match="no edges by themselves; these are left to XLA"):
        jax_cce.jacobian(_two_paths, (0, 1), order=order, backend="native")
    ours = jax.jit(jax_cce.jacobian(_two_paths, (0, 1), order=order))(2.0, 3.0)
    assert_agree(ours, jax.jacrev(_two_paths, (0, 1))(2.0, 3.0))


def test_sampled_eliminations_take_vertices_only():
    order = [EdgeElimination("back", 1, 2), 0, 1, 2]
    with pytest.raises(ValueError, match="no edges by themselves"):
        jax_cce.randomized.jacobian(jnp.sin, order=order, sites="vertices")(1.0)


def test_transformations_compose():
    order = [EdgeElimination("front", 1, 2), EdgeElimination("back", 0, 1), 0, 1, 2]

    def ours(x, y):
        return jax_cce.jacobian(_two_paths, order=order)(x, y)[0]

    def theirs(x, y):
        return jax.jacrev(_two_paths)(x, y)[0]

    xs = jnp.linspace(1.0, 2.0, 3)
    assert_agree(jax.vmap(ours)(xs, xs), jax.vmap(theirs)(xs, xs))
    assert_agree(jax.grad(ours)(xs[0], xs[1]), jax.grad(theirs)(xs[0], xs[1]))


_ORDER = (EdgeElimination("back", 1, 2), 0, EdgeElimination("front", -1, 2), 2, 1)


def test_the_registry_stores_edges_as_lists():
    entry = StoredOrder("0" * 64, "flops", _ORDER, 3.0, created="2026-01-01T00:00:00+00:00")
    content = json.loads(stored_order.serialised(stored_order.content_of(entry)))
    assert content["schema"] == stored_order.SCHEMA
    assert stored_order.content_of(dataclasses.replace(entry, order=(0, 1)))["schema"] == 1
    assert content["order"] == [["back", 1, 2], 0, ["front", -1, 2], 2, 1]
    assert stored_order.stored_order_of(content) == entry
    assert "3 vertices" in repr(entry)
    with pytest.raises(ValueError, match="front"):
        StoredOrder("0" * 64, "flops", [["middle", 1, 2], 0], 3.0)
    with pytest.raises(TypeError, match="An edge is a side"):
        StoredOrder("0" * 64, "flops", [[1, 2], 0], 3.0)


def test_a_stored_order_is_replayed(tmp_path, monkeypatch):
    monkeypatch.setenv("JAX_CCE_REGISTRY", str(tmp_path))
    graph = jax_cce.plan(_two_paths, (0, 1), order="reverse")(2.0, 3.0).graph
    order = with_edges(graph, 3)
    assert order != vertices_of(order)
    key = jax_cce.explain(_two_paths, (0, 1))(2.0, 3.0).key
    Registry(tmp_path).put(StoredOrder(key, "flops", order, 1.0))
    plan = jax_cce.plan(_two_paths, (0, 1))(2.0, 3.0)
    assert (plan.source, plan.order) == ("user", order)
    ours = jax_cce.jacobian(_two_paths, (0, 1))(2.0, 3.0)
    assert_agree(ours, jax.jacrev(_two_paths, (0, 1))(2.0, 3.0))
    explained = jax_cce.explain(_two_paths, (0, 1))(2.0, 3.0)
    assert explained.entry is not None
    assert any(str(item) in str(plan) for item in order if isinstance(item, EdgeElimination))
    assert {each.vertex for each in explained.dearest} == set(_VERTICES)
    assert explained.draw() is not None


def test_a_stored_order_whose_edges_are_not_there_is_left_alone(tmp_path, monkeypatch):
    monkeypatch.setenv("JAX_CCE_REGISTRY", str(tmp_path))
    key = jax_cce.explain(_two_paths, (0, 1))(2.0, 3.0).key
    order = (EdgeElimination("back", 2, 9), *_VERTICES)
    Registry(tmp_path).put(StoredOrder(key, "flops", order, 1.0))
    plan = jax_cce.plan(_two_paths, (0, 1))(2.0, 3.0)
    assert plan.source == "searched"


def test_items_from_json():
    assert items_of([3, ["front", -1, 2], ("back", np.int32(1), 2)]) == (
        3,
        EdgeElimination("front", -1, 2),
        EdgeElimination("back", 1, 2),
    )
    assert str(EdgeElimination("front", -1, 2)) == "front(-1,2)"
