"""Planning stays in proportion to the program: recurrences, pose graphs, chains, wide joins.

Counted are the products of terms that planning carries out, the steps of the plan and the terms of
the result, at two sizes of each family; values are compared with `jax.jacrev` in every format.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import jax_cce
from benchmarks.planning import FAMILIES
from cases.sparsity import assert_bcoo, assert_structured, assert_values
from jax_cce.algebra.recorder import Recorder

pytestmark = pytest.mark.one_version

CHECKS: dict[str, Any] = {
    "dense": assert_values,
    "bcoo": assert_bcoo,
    "structured": assert_structured,
}
# Beyond the first size a family may need in proportion what it needs there, and a bit.
_SLACK = 1.5
# The search among orders may carry out some products whatever the size.
_SEARCHED = {"auto": 2000, "forward": 50, "reverse": 50}


def _products(
    monkeypatch: pytest.MonkeyPatch, fun: Callable[..., Any], x: Any, **how: Any
) -> tuple[int, int, int]:
    """Products of terms that planning carries out, steps of the plan, and terms of the result."""
    counted = 0
    real = Recorder._compose_terms

    def compose(self: Recorder, *args: Any) -> Any:
        nonlocal counted
        counted += 1
        return real(self, *args)

    with monkeypatch.context() as patched:
        patched.setattr(Recorder, "_compose_terms", compose)
        plan = jax_cce.plan(fun, **how)(x)
    return counted, len(plan.steps), sum(map(len, plan.results.values()))


def _ring(steps: int) -> tuple[Callable[..., Any], jax.Array]:
    def fun(x: jax.Array) -> jax.Array:
        for _ in range(steps):
            x = x + 0.01 * jnp.sin(jnp.roll(x, 1)) * x
        return x

    return fun, jnp.linspace(0.1, 1.0, 20)


def _tree(depth: int) -> tuple[Callable[..., Any], jax.Array]:
    """Neighbours multiplied again and again, until one number is left."""

    def fun(x: jax.Array) -> jax.Array:
        parts = [x[k] for k in range(2**depth)]
        while len(parts) > 1:
            parts = [a * jnp.sin(b) for a, b in zip(parts[::2], parts[1::2], strict=True)]
        return parts[0]

    return fun, jnp.linspace(0.5, 1.0, 2**depth)


def _triangle(steps: int) -> tuple[Callable[..., Any], jax.Array]:
    """Every result reads every one before it."""

    def fun(x: jax.Array) -> jax.Array:
        results = []
        total = 0.0
        for k in range(steps):
            total = total + jnp.sin(x[k])
            results.append(total * x[k])
        return jnp.stack(results)

    return fun, jnp.linspace(0.5, 1.0, steps)


def _backwards(steps: int) -> tuple[Callable[..., Any], jax.Array]:
    """A recurrence from the last entry to the first, written in place."""

    def fun(x: jax.Array) -> jax.Array:
        y = jnp.zeros_like(x)
        carried = jnp.ones(())
        for k in reversed(range(steps)):
            carried = jnp.cos(carried) * x[k]
            y = y.at[k].set(carried)
        return y

    return fun, jnp.linspace(0.5, 1.0, steps)


def _blocks(steps: int) -> tuple[Callable[..., Any], jax.Array]:
    """Small matrices of many bodies, multiplied along a chain, batched."""

    def one(a: jax.Array, b: jax.Array) -> jax.Array:
        turn = jnp.stack([jnp.cos(a[0]), -jnp.sin(a[0]), jnp.sin(a[0]), jnp.cos(a[0])])
        return turn.reshape(2, 2) @ (b[1:] - a[1:])

    def fun(x: jax.Array) -> jax.Array:
        return jax.vmap(one)(x[:-1], x[1:])

    return fun, jnp.linspace(0.0, 1.0, 3 * steps).reshape(steps, 3)


CASES: dict[str, tuple[Callable[[int], Any], int, int]] = {
    **{
        name: (FAMILIES[name], 40, 160)
        for name in ("unrolled recurrence", "long sum", "wide concatenation", "many branches")
    },
    "chain of gathers": (FAMILIES["chain of gathers"], 20, 80),
    "ring": (_ring, 8, 32),
    "triangle": (_triangle, 12, 48),
    "backwards": (_backwards, 12, 48),
    "tree": (_tree, 4, 6),
    "blocks": (_blocks, 6, 24),
}
cases = pytest.mark.parametrize("name", CASES)


@cases
@pytest.mark.parametrize("order", _SEARCHED)
def test_products_steps_and_terms_grow_in_proportion(
    name: str, order: str, monkeypatch: pytest.MonkeyPatch
):
    make, small, large = CASES[name]
    how = {"order": order, "format": "bcoo"}
    first = _products(monkeypatch, *make(small), **how)
    second = _products(monkeypatch, *make(large), **how)
    for few, many in zip(first, second, strict=True):
        assert many <= _SLACK * 4 * max(few, _SEARCHED[order])


@pytest.mark.parametrize(
    "name, format",
    [(name, "bcoo") for name in CASES]
    + [(name, form) for name in ("unrolled recurrence", "ring", "backwards") for form in CHECKS],
)
def test_values_equal_those_of_jacrev(name: str, format: str):
    make, small, _ = CASES[name]
    fun, x = make(small)
    expected = jax.jit(jax.jacrev(fun))(x)
    CHECKS[format](jax.jit(jax_cce.jacobian(fun, format=format))(x), expected)


@pytest.mark.parametrize("order", ["forward", "markowitz", "reverse"])
def test_triangles_are_exact_in_every_order(order: str):
    fun, x = _triangle(40)
    found = jax_cce.jacobian(fun, format="bcoo", order=order)(x)
    assert found.nse == 40 * 41 // 2
    assert_bcoo(found, jax.jacrev(fun)(x))


def test_associative_scan_has_few_products(monkeypatch: pytest.MonkeyPatch):
    small, large = (
        _products(monkeypatch, *FAMILIES["associative_scan"](n), format="bcoo")[0] for n in (8, 64)
    )
    assert large <= 8 * small


def test_associative_scan_has_right_values():
    fun, x = FAMILIES["associative_scan"](8)
    assert_bcoo(jax_cce.jacobian(fun, format="bcoo")(x), jax.jacrev(fun)(x))


def test_many_entries_on_one_loop_stay_on_it():
    # A graph of 40 bodies: entries of small blocks are listed, the bodies stay a loop.
    fun, x = _blocks(40)
    found = jax_cce.jacobian(fun, format="structured")(x)
    assert_structured(found, jax.jacrev(fun)(x))
    assert found.nnz == 39 * 2 * 5


def test_an_operator_in_a_sparse_plan_is_named():
    square = lambda x: jnp.linalg.cholesky(x + 3 * jnp.eye(3)) @ x  # noqa: E731
    plan = jax_cce.plan(square, format="bcoo")(jnp.eye(3))
    assert plan.operators
    assert "operator" in str(jax_cce.explain(square, format="bcoo")(jnp.eye(3))).lower()


def test_blocks_that_were_made_dense_are_named():
    # Where two index arrays that are known at run time only have to be matched.
    def fun(x: jax.Array, i: jax.Array, j: jax.Array) -> jax.Array:
        return jnp.zeros(40).at[i].set(jnp.sin(x[:6]) * x[0])[j]

    args = jnp.arange(1.0, 9.0), jnp.arange(6) * 5, jnp.arange(0, 40, 7)
    plan = jax_cce.plan(fun, format="bcoo")(*args)
    found = jax_cce.jacobian(fun, format="bcoo")(*args)
    assert_values(found.todense(), jax.jacrev(fun)(*args))
    assert ("in place of too many terms" in str(plan)) == bool(plan.coarsened)


def test_scans_beyond_what_is_listed_are_operators():
    scan = lambda x: lax.scan(lambda c, a: (jnp.sin(c) * a,) * 2, 1.0, x)[1]  # noqa: E731
    plan = jax_cce.plan(scan, format="bcoo")(jnp.ones(3000))
    assert plan.operators == ("scan",)
    assert np.isfinite(plan.cost("flops"))
