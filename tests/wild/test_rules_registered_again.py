"""A rule that is registered again takes effect in every program that used the old one."""

import itertools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

import jax_cce
from jax_cce import extend

X = jnp.array([0.5, -1.5, 2.0])
_names = itertools.count()


def _square() -> Primitive:
    """3 x^2, with JAX's own derivatives for whatever JAX differentiates."""
    square = Primitive(f"three_squares_{next(_names)}")
    square.def_impl(lambda x: 3 * x * x)
    square.def_abstract_eval(lambda x: x)
    mlir.register_lowering(square, mlir.lower_fun(lambda x: 3 * x * x, multiple_results=False))
    ad.defjvp(square, lambda t, x: 6 * x * t)
    batching.defvectorized(square)
    return square


# How the primitive's derivative comes into a Jacobian; each is 6 x times something that is not 0.
CALLS: dict[str, Callable[[Callable[..., Any]], Callable[..., Any]]] = {
    "alone": lambda bind: jax_cce.jacobian(bind),
    "under jit": lambda bind: lambda x: jax.jit(jax_cce.jacobian(bind))(x),
    "jit inside": lambda bind: jax_cce.jacobian(jax.jit(lambda x: bind(x) + 1)),
    "bcoo": lambda bind: lambda x: jax_cce.jacobian(bind, format="bcoo")(x).todense(),
    "structured": lambda bind: lambda x: jax_cce.jacobian(bind, format="structured")(x).todense(),
    "value too": lambda bind: lambda x: jax_cce.value_and_jacobian(bind)(x)[1],
    "reverse": lambda bind: jax_cce.jacobian(lambda x: jnp.sin(bind(x)), order="reverse"),
    "under vmap": lambda bind: lambda x: jax.vmap(jax_cce.jacobian(bind))(x[None])[0],
    "in a sum": lambda bind: jax_cce.jacobian(lambda x: jnp.sum(bind(x))),
    "small matrices": lambda bind: jax_cce.jacobian(lambda x: jnp.outer(bind(x), bind(x)) @ x),
    "checkpoint": lambda bind: jax_cce.jacobian(jax.checkpoint(lambda x: bind(x) * 2)),
}
WAYS: dict[str, Callable[[Primitive, float], None]] = {
    "register_rule": lambda p, c: extend.register_rule(p, extend.elementwise_rule(lambda x: c * x)),
    "define_elementwise": lambda p, c: extend.define_elementwise(p, lambda x: c * x),
}


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("way", WAYS)
def test_the_new_rule_counts(way, call):
    square = _square()
    jacobian = CALLS[call](square.bind)
    WAYS[way](square, 1.0)
    wrong = jacobian(X)
    WAYS[way](square, 6.0)
    again = jacobian(X)
    jax_cce.cache_clear()
    np.testing.assert_allclose(again, jacobian(X))
    assert not np.allclose(again, wrong)


def test_each_of_many_registrations_counts():
    square = _square()
    jacobian = jax_cce.jacobian(square.bind)
    for c in (1.0, 2.0, 1.0, 6.0):
        extend.register_rule(square, extend.elementwise_rule(lambda x, c=c: c * x))
        np.testing.assert_allclose(jacobian(X), jnp.diag(c * X))


def test_a_rule_for_what_jax_linearised_so_far():
    square = _square()
    f = lambda x: lax.scan(lambda c, _: (square.bind(c), None), x, length=2)[0]  # noqa: E731
    jacobian = jax_cce.jacobian(lambda x: square.bind(f(x)))
    np.testing.assert_allclose(jacobian(X), jax.jacrev(lambda x: square.bind(f(x)))(X))
    extend.define_elementwise(square, lambda x: 0.0 * x)
    assert not np.any(jacobian(X))


def test_the_plan_and_its_structure_follow():
    square = _square()
    extend.define_elementwise(square, lambda x: 6 * x)
    plan = jax_cce.plan(lambda x: jnp.sin(square.bind(x)), format="bcoo")
    before = plan(X)
    # What is found to be zero is no edge any more.
    extend.register_rule(square, lambda equation, active: extend.LocalJacobian({}))
    assert before.num_edges == 2
    assert plan(X).num_edges == 0


def test_a_stored_order_is_looked_up_anew(tmp_path, monkeypatch):
    monkeypatch.setenv("JAX_CCE_REGISTRY", str(tmp_path))
    square = _square()
    extend.define_elementwise(square, lambda x: x)
    f = lambda x: jnp.sin(square.bind(x)) * x[::-1]  # noqa: E731
    jax_cce.optimize(f, cost="flops", strategy="annealing", evaluations=20)(X)
    wrong = jax_cce.jacobian(f)(X)
    extend.define_elementwise(square, lambda x: 6 * x)
    np.testing.assert_allclose(jax_cce.jacobian(f)(X), jax.jacrev(f)(X), rtol=1e-6)
    assert not np.allclose(wrong, jax.jacrev(f)(X))
