"""BCOO Jacobians in native code: it writes the entries of the pattern and no others."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.experimental.sparse import BCOO

import jax_cce
from cases.agreement import assert_agree
from cases.natively import is_native
from jax_cce import registry

X = jnp.linspace(-0.8, 1.1, 12)


def banded(x):
    y = jnp.pad(x, 1)
    return (3 - 2 * x) * x - y[:-2] - 2 * y[2:] + 1


def tree(d):
    return {"a": d["x"] * d["y"][0], "b": jnp.sin(d["y"]), "c": jnp.sum(d["x"]) * 2}


FUNCTIONS = {
    "banded": (banded, X),
    "around": (lambda x: (jnp.roll(x, -1) - jnp.roll(x, 2)) * jnp.roll(x, 1) - x, X),
    "of matrices": (lambda x: jnp.tanh(x @ jnp.tril(jnp.ones((4, 4)))), X.reshape(3, 4)),
    "of trees": (tree, {"x": X[:3], "y": X[3:7]}),
    "of numbers": (lambda x: (jnp.sin(x) * x, x), X[0]),
    "of numbers and more": (lambda d: d["x"] * d["y"], {"x": X[1], "y": X[:3]}),
    "of a loop": (lambda x: jax.lax.fori_loop(0, 90, lambda _, y: y + 0.01 * jnp.sin(y), x), X),
    "with repeated entries": (lambda x: x[jnp.array([1, 1, 0])] * x[jnp.array([1, 2, 0])], X),
}


def data_of(jacobian):
    """The entries alone, which may be mapped over."""
    return jax.tree.map(lambda b: b.data, jacobian, is_leaf=lambda b: isinstance(b, BCOO))


def dense_of(jacobian):
    return jax.tree.map(lambda b: b.todense(), jacobian, is_leaf=lambda b: isinstance(b, BCOO))


@pytest.mark.parametrize("name", FUNCTIONS)
def test_entries(name, quiet):
    f, x = FUNCTIONS[name]
    ours = jax_cce.jacobian(f, format="bcoo")
    assert is_native(ours, x)
    theirs = jax.jit(jax.jacrev(f))(x)
    assert_agree(dense_of(ours(x)), theirs)
    assert_agree(dense_of(jax.jit(ours)(x)), theirs)
    by_xla = jax_cce.jacobian(f, format="bcoo", backend="xla")
    assert not is_native(by_xla, x)
    for one, other in zip(jax.tree.leaves(ours(x)), jax.tree.leaves(by_xla(x)), strict=True):
        assert one.shape == other.shape
    value, jacobian = jax.jit(jax_cce.value_and_jacobian(f, format="bcoo"))(x)
    assert_agree(value, f(x))
    assert_agree(dense_of(jacobian), theirs)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_entries_of_many_points(name, quiet):
    f, x = FUNCTIONS[name]
    points = jax.tree.map(
        lambda leaf: leaf + 0.1 * jnp.arange(11.0)[(...,) + (None,) * leaf.ndim], x
    )
    found = []
    for backend in ("auto", "xla"):
        ours = jax_cce.jacobian(f, format="bcoo", backend=backend)
        mapped = jax.vmap(lambda x, ours=ours: data_of(ours(x)))
        assert is_native(mapped, points) == (backend == "auto")
        found.append(jax.jit(mapped)(points))
    assert_agree(*found)


@settings(max_examples=max(1, settings().max_examples // 5))
@given(
    rows=st.lists(st.integers(0, 11), min_size=1, max_size=9),
    columns=st.lists(st.integers(0, 11), min_size=1, max_size=9),
    numbers=st.integers(0, 1 << 30),
)
def test_random_patterns(rows, columns, numbers):
    count = min(len(rows), len(columns))
    scales = np.random.default_rng(numbers).normal(size=count)

    def f(x):
        terms = jnp.asarray(scales) * jnp.sin(x[np.array(columns[:count])])
        return jnp.zeros(12).at[np.array(rows[:count])].add(terms)

    ours = jax_cce.jacobian(f, format="bcoo")
    assert is_native(ours, X)
    found = jax.jit(ours)(X)
    assert found.nse <= count
    assert_agree(found.todense(), jax.jit(jax.jacfwd(f))(X))


def test_derivatives_of_entries():
    ours = jax_cce.jacobian(banded, format="bcoo")
    found = jax.grad(lambda x: jnp.sum(ours(x).data ** 2))(X)
    assert_agree(found, jax.grad(lambda x: jnp.sum(jax.jit(jax.jacfwd(banded))(x) ** 2))(X))


def test_hessians():
    def energy(x):
        return jnp.sum((x[1:] - x[:-1] ** 2) ** 2) + jnp.sum(jnp.exp(x))

    ours = jax_cce.hessian(energy, format="bcoo")
    assert is_native(ours, X)
    assert_agree(ours(X).todense(), jax.jit(jax.hessian(energy))(X))


def test_what_is_left_to_xla():
    chosen = lambda x, k: x[k] * x  # noqa: E731
    for f, args, options in (
        (chosen, (X, jnp.array([0, 3, 1] * 4)), {"format": "bcoo"}),
        (banded, (X,), {"format": "structured"}),
        (banded, (X,), {"format": "bcoo", "order": "reverse"}),
    ):
        ours = jax_cce.jacobian(f, **options)
        assert not is_native(ours, *args)
        assert_agree(ours(*args).todense(), jax.jit(jax.jacrev(f))(*args))
    assert jax_cce.explain(banded, format="bcoo")(X).backend == "native"
    assert "structured" in jax_cce.explain(banded, format="structured")(X).backend_reason


@pytest.mark.parametrize("how", ["tuned", "optimized"])
def test_what_is_measured_is_what_runs_by_default_too(how, monkeypatch, tmp_path):
    monkeypatch.setenv("JAX_CCE_REGISTRY", str(tmp_path))

    def race(calls, **_):
        return {name: 1.0 if name == "native" else 2.0 for name in calls}

    monkeypatch.setattr("jax_cce.execution.measuring.race", race)
    options = {"format": "bcoo"}
    if how == "optimized":
        found = jax_cce.optimize(banded, budget=0.5, strategy="reverse", **options)(X)
        assert found.entry.method == "native"
    else:
        options["order"] = "tuned"
    ours = jax_cce.jacobian(banded, **options)
    assert_agree(ours(X).todense(), jax.jit(jax.jacrev(banded))(X))
    assert is_native(ours, X)
    (entry,) = registry.entries(cost="runtime")
    assert entry.method == "native"
    assert set(entry.times).isdisjoint(["jacfwd", "jacrev"])
