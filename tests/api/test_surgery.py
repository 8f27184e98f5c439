"""Gradient surgery: edits of derivatives, under JAX's modes and in every order of ours."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jax_cce
from jax_cce import surgery

assert_trees_close = functools.partial(chex.assert_trees_all_close, rtol=1e-10)

X = jnp.array([0.5, -1.5, 2.0])


def _scaled(x):
    y = surgery.scale(x**2, jnp.array([2.0, 0.0, -1.0]))
    return jnp.sin(y) * y + surgery.scale(x, 0.25)


def _by_hand(x):
    factor = jnp.array([2.0, 0.0, -1.0])
    y = x**2
    return jnp.diag((jnp.cos(y) * y + jnp.sin(y)) * factor * 2 * x + 0.25)


@pytest.mark.parametrize("transform", [jax.jacrev, jax.jacfwd, jax_cce.jacobian])
def test_a_scaled_derivative_is_a_factor(transform):
    assert_trees_close(_scaled(X), jnp.sin(X**2) * X**2 + X)
    assert_trees_close(transform(_scaled)(X), _by_hand(X))
    assert_trees_close(jax.jit(transform(_scaled))(X), _by_hand(X))


@pytest.mark.parametrize("order", ["forward", "reverse", "markowitz", "drawn"])
def test_scaling_leaves_the_order_free(order):
    plan = jax_cce.plan(_scaled)(X)
    if order == "drawn":
        order = tuple(np.random.default_rng(0).permutation(plan.vertices).tolist())
    planned = jax_cce.plan(_scaled, order=order)(X)
    assert planned.method == "elimination"
    assert not planned.operators
    assert_trees_close(jax_cce.jacobian(_scaled, order=order)(X), _by_hand(X))


def test_scaling_composes_with_further_derivatives():
    def f(x):
        return jnp.sum(surgery.scale(x, 3.0) ** 3)

    assert_trees_close(jax.grad(f)(X), 9 * X**2)
    # The derivative of the edited gradient is edited no more.
    assert_trees_close(jax.hessian(f)(X), jnp.diag(18 * X))
    assert_trees_close(jax_cce.hessian(f)(X), jax.hessian(f)(X))
    assert_trees_close(jax.vmap(jax.grad(f))(jnp.stack([X, 2 * X])), 9 * jnp.stack([X, 2 * X]) ** 2)


def test_a_factor_gets_no_derivative():
    assert jax.grad(lambda k: surgery.scale(2.0, k) ** 2)(3.0) == 0


def _clipped(x):
    return jnp.tanh(surgery.clip(x**2, -0.1, 0.3)) * jnp.sum(x)


def test_bounds_clip_each_cotangent():
    jacobian = jax.jacrev(_clipped)(X)
    slopes = jnp.clip(jnp.diag(1 - jnp.tanh(X**2) ** 2) * jnp.sum(X), -0.1, 0.3)
    assert_trees_close(jacobian, slopes * 2 * X + jnp.tanh(X**2)[:, None])
    assert not np.allclose(jacobian, jax.jacrev(lambda x: jnp.tanh(x**2) * jnp.sum(x))(X))
    for order in ("auto", "forward", "markowitz"):
        assert_trees_close(jax_cce.jacobian(_clipped, order=order)(X), jacobian)
    assert jax_cce.plan(_clipped)(X).method == "jacrev"


@pytest.mark.parametrize("low, high", [(None, 0.5), (-0.5, None)])
def test_one_bound_is_enough(low, high):
    gradient = jax.grad(lambda x: jnp.sum(surgery.clip(x, low, high) ** 2))(X)
    assert_trees_close(gradient, np.clip(2 * X, low, high))


def test_a_norm_is_that_of_all_of_a_tree():
    def f(tree):
        tree = surgery.clip(tree, norm=2.0)
        return 3 * tree["a"].sum() + 4 * tree["b"] + tree["n"]

    gradient = jax.grad(f, allow_int=True)({"a": jnp.ones(2), "b": 1.0, "n": 3})
    length = np.sqrt(9 + 9 + 16)
    assert_trees_close(gradient["a"], np.full(2, 6 / length))
    assert_trees_close(gradient["b"], jnp.asarray(8 / length))
    # What is short enough stays, and nothing is divided by zero.
    assert_trees_close(jax.grad(lambda x: jnp.sum(surgery.clip(x, norm=9.0) ** 2))(X), 2 * X)
    assert_trees_close(jax.grad(lambda x: jnp.sum(surgery.clip(x, norm=1.0)) * 0)(X), 0 * X)


@pytest.mark.parametrize("order", ["auto", "forward", "reverse"])
def test_who_watches_is_told_of_the_cotangents_of_jacrev(order):
    def told(transform):
        seen = []

        def f(x):
            y = surgery.watch(x**2, lambda each: seen.append(np.asarray(each)))
            return jnp.cumsum(jnp.tanh(y))

        result = transform(f)(X)
        jax.effects_barrier()
        return result, np.array(sorted(map(list, seen)))

    ours, seen = told(lambda f: jax_cce.jacobian(f, order=order))
    theirs, expected = told(jax.jacrev)
    assert_trees_close(ours, theirs)
    assert_trees_close(seen, expected)
    assert seen.shape == (3, 3)


def test_edits_of_cotangents_have_no_forward_mode():
    for edit in (lambda x: surgery.clip(x, norm=1.0), lambda x: surgery.watch(x, print)):
        with pytest.raises(TypeError, match="forward-mode autodiff"):
            jax.jacfwd(edit)(X)


def test_values_and_integers_stay():
    tree = {"a": X, "n": jnp.arange(2), "x": 1.5}
    for edit in (
        lambda tree: surgery.scale(tree, 2.0),
        lambda tree: surgery.clip(tree, -1, 1),
        lambda tree: surgery.watch(tree, print),
    ):
        assert_trees_close(edit(tree), jax.tree.map(jnp.asarray, tree))


def test_mistakes_are_told():
    with pytest.raises(ValueError, match="must broadcast to the shape"):
        surgery.scale(X, jnp.ones((2, 3)))
    for arguments in ({}, {"low": 0, "norm": 1.0}):
        with pytest.raises(TypeError, match="takes bounds"):
            surgery.clip(X, **arguments)
    with pytest.raises(TypeError, match="need real arrays"):
        surgery.clip(X + 1j, 0, 1)
