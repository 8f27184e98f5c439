"""A task makes its graphs and its key once, when they are asked for, on a registry hit too."""

import jax
import jax.numpy as jnp
import pytest

import jax_cce
from jax_cce import registry
from jax_cce.graph import building
from jax_cce.planning.options import Options, OrderRequest, options_of, order_request
from jax_cce.planning.task import task_of
from jax_cce.program.calls import Contract
from jax_cce.sparse.formats import DENSE, FORMATS


def f(x, y):
    return jnp.sin(x * y) * x, jnp.exp(x * y) / y


POINT = (0.3, 0.7)


@pytest.fixture
def built(monkeypatch):
    """How often a graph has been built."""
    count = []
    build = building.build
    monkeypatch.setattr(building, "build", lambda *a, **k: count.append(1) or build(*a, **k))
    return count


@pytest.fixture
def store(tmp_path, monkeypatch):
    monkeypatch.setattr("jax_cce.registry.defaults._shipped", lambda: None)
    monkeypatch.setenv("JAX_CCE_REGISTRY", str(tmp_path))


@pytest.mark.parametrize("wrap", [lambda f: f, jax.jit], ids=["call", "jit"])
def test_graphs_are_built_once(built, wrap):
    jax_cce.cache_clear()
    wrap(jax_cce.jacobian(f, (0, 1)))(*POINT)
    assert len(built) == 1


@pytest.mark.parametrize("wrap", [lambda f: f, jax.jit], ids=["call", "jit"])
def test_graphs_are_built_once_where_the_registry_answers(store, built, wrap):
    jax_cce.optimize(f, (0, 1), cost="flops", budget=0.2)(*POINT)
    jax_cce.cache_clear()
    built.clear()
    wrap(jax_cce.jacobian(f, (0, 1)))(*POINT)
    assert len(built) == 1
    built.clear()
    assert jax_cce.plan(f, (0, 1))(*POINT).source == "user"
    assert len(built) == 1
    built.clear()
    assert jax_cce.explain(f, (0, 1))(*POINT).source == "user"
    assert len(built) == 1


def test_a_second_call_builds_nothing(store, built):
    jax_cce.optimize(f, (0, 1), cost="flops", budget=0.2)(*POINT)
    jacobian = jax_cce.jacobian(f, (0, 1))
    jacobian(*POINT)
    built.clear()
    jacobian(0.1, 0.2)
    assert built == []


def test_a_task_knows_its_name_and_key():
    task = task_of(f, (0, 1))(*POINT)
    assert task.name == "f"
    assert len(task.key) == 64
    assert set(task.vertices[False]) == set(jax_cce.plan(f, (0, 1))(*POINT).vertices)
    assert not task.reverse_only


def test_options_are_what_the_caller_asked():
    options = options_of((0, 1), True, order=[2, 0, 1], format="bcoo", search_budget=0.0)
    assert options.contract == Contract((0, 1), True)
    assert options.request == OrderRequest((2, 0, 1), None, 0.0)
    assert options.format is FORMATS["bcoo"]
    assert Options().format is DENSE
    assert Options().request.asks_registry
    assert not options.request.asks_registry


@pytest.mark.parametrize(
    "arguments, error, message",
    [
        ({"order": "fastest"}, ValueError, "order must be one of"),
        ({"search_budget": -1}, ValueError, "search_budget must be at least 0"),
        ({"order": 3.5}, TypeError, "order must be a string or a sequence"),
        ({"search": "luck"}, ValueError, "strategy must be one of"),
    ],
)
def test_what_no_request_can_be_is_refused(arguments, error, message):
    with pytest.raises(error, match=message):
        order_request(**arguments)


def test_a_stored_order_is_found_by_the_key_of_its_task(store):
    optimized = jax_cce.optimize(f, (0, 1), cost="flops", budget=0.2)(*POINT)
    assert registry.get(task_of(f, (0, 1))(*POINT).key, "flops") == optimized.entry
