"""Custom rules that ignore, square, clip, branch on or add to their cotangent or tangent.

JAX calls a pullback with the cotangent of each row of the Jacobian, and adds what it returns. So
its answer is the truth for rules that are no linear maps, too.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import lax

import jax_cce
from cases.agreement import assert_agree, assert_same_outcome

X = jnp.array([0.3, -1.2, 2.1])
A = jnp.linspace(-1.0, 2.0, 12).reshape(3, 4)
ORDERS = ["auto", "forward", "markowitz", "reverse"]


def with_pullback(rule: Callable[[Any, Any], Any]) -> Any:
    """The sine with a pullback (input, cotangent) -> cotangent."""
    sine = jax.custom_vjp(jnp.sin)
    sine.defvjp(lambda x: (jnp.sin(x), x), lambda x, g: (rule(x, g),))
    return sine


def with_pushforward(rule: Callable[[Any, Any], Any]) -> Any:
    """The sine with a pushforward (input, tangent) -> tangent."""
    sine = jax.custom_jvp(jnp.sin)
    sine.defjvp(lambda primals, tangents: (jnp.sin(primals[0]), rule(primals[0], tangents[0])))
    return sine


def _summed(x: Any, g: Any, start: Any) -> Any:
    return lax.scan(lambda carry, t: (carry + t, carry + 2 * t), start, g)[1]


def _repeated(x: Any, g: Any, start: Any) -> Any:
    return lax.fori_loop(0, 3, lambda _, carry: carry * x + g, start)


NONLINEAR = {
    "ignores": lambda x, g: jnp.cos(x),
    "ones": lambda x, g: jnp.ones_like(x),
    "adds a number": lambda x, g: g + 1,
    "adds an array": lambda x, g: g * x + x,
    "square": lambda x, g: g**2,
    "clip": lambda x, g: jnp.clip(g, -0.5, 0.5),
    "branches on it": lambda x, g: jnp.where(g > 0, g, 2 * g),
    "selects a number": lambda x, g: jnp.where(x > 0, g, 1.0),
    "sets a number": lambda x, g: g.at[0].set(5.0),
    "adds to ones": lambda x, g: jnp.ones(3).at[:2].add(g[:2]),
    "pads with threes": lambda x, g: jnp.pad(g[:2], (0, 1), constant_values=3.0),
    "fills with NaN": lambda x, g: jnp.take(g, jnp.array([2, 0, 7])),
    "integers": lambda x, g: g.astype(int).astype(g.dtype),
    "float16": lambda x, g: (g * x).astype(jnp.float16).astype(g.dtype),
    "normalised": lambda x, g: g / (1 + jnp.linalg.norm(g)),
    "stop_gradient": lambda x, g: lax.stop_gradient(g * x),
    "rule in a rule": lambda x, g: with_pullback(lambda x, g: g)(g),
    "scan from one": lambda x, g: _summed(x, g, jnp.ones(())),
    "loop from ones": lambda x, g: _repeated(x, g, jnp.ones(3)),
    "while": lambda x, g: lax.while_loop(lambda c: jnp.sum(abs(c)) < 9, lambda c: c * 2 + 1e-3, g),
    "cond on it": lambda x, g: lax.cond(g[0] > 0, lambda g: g * 2, jnp.negative, g),
    "cond": lambda x, g: lax.cond(x[0] > 0, jnp.ones_like, jnp.negative, g),
}

LINEAR = {
    "zeros": lambda x, g: jnp.zeros_like(x),
    "None": lambda x, g: None,
    "reversal": lambda x, g: -g,
    "scaling": lambda x, g: 0.1 * g * x,
    "selects zero": lambda x, g: jnp.where(x > 0, g, 0.0),
    "sets zero": lambda x, g: g.at[0].set(0.0),
    "adds to zeros": lambda x, g: jnp.zeros(3).at[:2].add(g[:2]),
    "concatenates zeros": lambda x, g: jnp.concatenate([g[:2], jnp.zeros(1)]),
    "barrier": lambda x, g: lax.optimization_barrier((g, x))[0] * x,
    "matrix": lambda x, g: jnp.outer(x, x) @ g,
    "scan from zero": lambda x, g: _summed(x, g, jnp.zeros(())),
    "loop from zeros": lambda x, g: _repeated(x, g, jnp.zeros(3)),
    "cond": lambda x, g: lax.cond(x[0] > 0, lambda g: 2 * g, jnp.zeros_like, g),
    "relu of the input": lambda x, g: g * jax.nn.relu(x),
}

USES = {
    "alone": lambda f, x: f(x),
    "a part": lambda f, x: jnp.sin(jnp.sum(f(x)) * x),
    "before a matrix": lambda f, x: A.T @ f(jnp.cos(x)),
    "one of two results": lambda f, x: (jnp.sum(f(x)), x**2),
    "times zero": lambda f, x: 0.0 * jnp.sum(f(x)) + x,
    "twice": lambda f, x: f(f(x)),
    "jit": lambda f, x: jax.jit(f)(x) * x,
    "checkpoint": lambda f, x: jax.checkpoint(lambda x: jnp.sin(f(x)))(x),
    "vmap": lambda f, x: jax.vmap(lambda s: f(s * x))(x[:2]),
    "scan": lambda f, x: lax.scan(lambda c, _: (f(c) * x, c[0]), x, None, length=2),
    "map": lambda f, x: lax.map(lambda s: f(s * x), x[:2]),
    "cond": lambda f, x: lax.cond(x[1] > 0, jnp.cos, f, x),
    "by value": lambda f, x: f(x) * x if x[0] > 0 else x,
    "complex": lambda f, x: jnp.abs(jnp.fft.fft(f(x)))[:2],
}


def dense(tree: Any) -> Any:
    """A tree of blocks in any format, as arrays."""

    def is_block(node: Any) -> bool:
        return hasattr(node, "todense")

    return jax.tree.map(lambda b: b.todense() if is_block(b) else b, tree, is_leaf=is_block)


def _agrees(fun: Any, x: Any = X, **how: Any) -> None:
    assert_same_outcome(lambda x: dense(jax_cce.jacobian(fun, **how)(x)), jax.jacrev(fun), x)


@pytest.mark.parametrize("name", NONLINEAR)
def test_pullback_that_is_not_linear(name: str):
    rule = with_pullback(NONLINEAR[name])
    _agrees(functools.partial(USES["a part"], rule))
    assert jax_cce.plan(rule)(X).method == "jacrev"


@pytest.mark.parametrize("name", LINEAR)
def test_linear_pullback_keeps_its_structure(name: str):
    rule = with_pullback(LINEAR[name])
    _agrees(functools.partial(USES["a part"], rule), order="forward")
    assert jax_cce.plan(rule)(X).method == "elimination"


# Zeros that JAX computes in advance for its linear program arrive there as any other residual.
BRANCHES: dict[str, Callable[[Any], Any]] = {
    "where": lambda x: jnp.where(x > 0, x, 0.0),
    "where in a product": lambda x: jnp.where(x > 0, jnp.exp(x), 0.0) * x,
    "set": lambda x: jnp.zeros(3).at[:2].set(x[:2]),
    "dynamic_update_slice": lambda x: lax.dynamic_update_slice(jnp.zeros(3), x[:2], (0,)),
    "concatenate": lambda x: jnp.concatenate([x[:2], jnp.zeros(1)]),
    "sort": jnp.sort,
    "solve": lambda x: jnp.linalg.solve(jnp.eye(3) + jnp.outer(x, x), x),
    "leaky_relu": jax.nn.leaky_relu,
    "scan": lambda x: lax.scan(lambda c, a: (jnp.where(c > 0, c, 0.0) * a, c), x[0], x)[1],
    "cond": lambda x: lax.cond(x[1] > 0, jnp.cos, jax.nn.relu, x),
    "custom_jvp": lambda x: with_pushforward(LINEAR["scaling"])(jnp.where(x > 0, x, 0.0)),
    "custom_vjp": lambda x: with_pullback(LINEAR["scaling"])(jnp.where(x > 0, x, 0.0)),
}
AROUND: dict[str, Callable[[Any, Any], Any]] = {
    "cond": lambda f, x: lax.cond(x[0] > 0, f, jnp.sin, x),
    "switch": lambda f, x: lax.switch(jnp.argmax(x), [jnp.sin, f, jax.nn.elu, f], x),
    "cond in scan": lambda f, x: lax.scan(lambda c, a: (lax.cond(a > 0, f, jnp.sin, c), c), x, x)[
        1
    ],
    "cond in checkpoint": lambda f, x: jax.checkpoint(AROUND["cond"], static_argnums=0)(f, x),
}


@pytest.mark.parametrize("around", AROUND)
@pytest.mark.parametrize("name", BRANCHES)
def test_zeros_computed_in_a_branch_keep_it_linear(name: str, around: str):
    fun = functools.partial(AROUND[around], BRANCHES[name])
    for form in ("dense", "bcoo"):
        _agrees(fun, format=form)
        assert jax_cce.plan(fun, format=form, order="reverse")(X).method == "elimination"


@pytest.mark.parametrize("around", AROUND)
@pytest.mark.parametrize("with_rule", [with_pullback, with_pushforward])
@pytest.mark.parametrize("name", ["adds a number", "square", "sets a number"])
def test_a_rule_beside_zeros_in_a_branch_need_not_be_linear(name: str, with_rule: Any, around: str):
    rule = with_rule(NONLINEAR[name])
    fun = functools.partial(AROUND[around], lambda x: rule(jnp.where(x > 0, x, 0.0)))
    _agrees(fun)
    assert jax_cce.plan(fun)(X).method == "jacrev"


@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize("name", ["ignores", "adds a number"])
def test_wherever_the_function_is_used(name: str, use: str):
    _agrees(functools.partial(USES[use], with_pullback(NONLINEAR[name])))


@pytest.mark.parametrize("form", ["dense", "bcoo", "structured"])
@pytest.mark.parametrize("order", ORDERS)
def test_every_order_and_format(order: Any, form: Any):
    rule = with_pullback(NONLINEAR["ignores"])
    _agrees(functools.partial(USES["a part"], rule), order=order, format=form)


@settings(max_examples=8, deadline=None)
@given(
    st.sampled_from(sorted(NONLINEAR | LINEAR)),
    st.sampled_from(sorted(USES)),
    st.sampled_from(ORDERS),
    st.sampled_from(["dense", "bcoo", "structured"]),
)
def test_any_rule_anywhere(name: str, use: str, order: Any, form: Any):
    fun = functools.partial(USES[use], with_pullback((NONLINEAR | LINEAR)[name]))
    found = dense(jax_cce.jacobian(fun, order=order, format=form)(X))
    assert_agree(found, jax.jit(jax.jacrev(fun))(X), tolerance=1e-8)


def test_a_gradient_computed_in_advance():
    @jax.custom_vjp
    def loss(p: Any) -> Any:
        return jnp.sum(p**2)

    loss.defvjp(lambda p: (loss(p), 2 * p), lambda gradient, g: (gradient,))
    for fun in (loss, jax.jit(loss), lambda p: jnp.sin(loss(p) * p)):
        _agrees(fun)
        value, found = jax_cce.value_and_jacobian(fun)(X)
        assert_agree((value, found), (fun(X), jax.jit(jax.jacrev(fun))(X)))
    assert_agree(jax_cce.hessian(loss)(X), jax.jit(jax.jacrev(jax.jacrev(loss)))(X))
    assert_agree(jax.vmap(jax_cce.jacobian(loss))(A), jax.vmap(jax.jacrev(loss))(A))
    assert_agree(jax.jit(jax_cce.jacobian(loss))(X), jax.jit(jax.jacrev(loss))(X))


def test_custom_gradient_with_the_cotangent_in_one_operand_only():
    @jax.custom_gradient
    def product(x: Any, y: Any) -> Any:
        return x * y, lambda g: (y, g * x)

    for argnums in (0, 1, (0, 1)):
        ours, theirs = jax_cce.jacobian(product, argnums), jax.jacrev(product, argnums)
        assert_agree(ours(3.0, 4.0), theirs(3.0, 4.0))
    # Where only the linear part is asked for, it is known as such.
    assert jax_cce.plan(product, 1)(3.0, 4.0).method == "elimination"
    assert jax_cce.plan(product, 0)(3.0, 4.0).method == "jacrev"


def test_cotangents_of_all_results_are_seen_together():
    @jax.custom_vjp
    def pair(tree: Any, scale: Any) -> Any:
        return {"s": scale * jnp.sin(tree["x"]), "c": jnp.cos(tree["x"])}

    def backward(x: Any, g: Any) -> Any:
        return {"x": g["s"] * g["c"] + g["s"]}, None

    pair.defvjp(lambda tree, scale: (pair(tree, scale), tree["x"]), backward)

    def fun(x: Any) -> Any:
        result = pair({"x": x}, 2.0)
        return result["s"] * result["c"], x * 2

    for form in ("dense", "bcoo"):
        _agrees(fun, format=form)


def test_sizes_zero_and_one_and_lower_precision():
    rule = with_pullback(lambda x, g: x + 1)
    for x in (jnp.ones(0), jnp.ones(1), jnp.ones(()), jnp.ones(2, jnp.float32)):
        _agrees(lambda x: rule(x) * 2, x)


def test_complex_input():
    rule = with_pullback(lambda x, g: jnp.conj(x) + g)
    _agrees(lambda z: jnp.abs(rule(z)) ** 2, jnp.array([1 + 2j, 0.5j]))


def test_second_derivative_through_a_pullback_that_clips():
    rule = with_pullback(lambda x, g: jnp.clip(g * x, -0.5, 0.5) * x)

    def fun(x: Any) -> Any:
        return jnp.sum(rule(x) ** 3)

    assert_agree(jax_cce.hessian(fun)(X), jax.jit(jax.hessian(fun))(X))


@pytest.mark.parametrize(
    "rule",
    [
        lambda x, t: t + 1,
        lambda x, t: jnp.ones_like(x),
        lambda x, t: jnp.cumsum(t) + x,
        lambda x, t: t.at[0].set(2.0),
        lambda x, t: jnp.clip(t, -0.5, 0.5),
        lambda x, t: jnp.sign(t),
        lambda x, t: t**2,
        lambda x, t: lax.scan(lambda c, s: (c + s, jnp.abs(c)), 0.0, t)[1],
        lambda x, t: jax.nn.relu(x) * t,
    ],
    ids=["add", "ones", "cumsum", "set", "clip", "sign", "square", "scan", "linear"],
)
def test_pushforward_that_is_not_linear(rule: Any):
    # JAX transposes it or raises: either is the contract.
    for use in ("alone", "a part"):
        fun = functools.partial(USES[use], with_pushforward(rule))
        for form in ("dense", "bcoo"):
            _agrees(fun, format=form)


def test_dense_rows_are_refused_where_they_do_not_fit():
    rule = with_pullback(NONLINEAR["ignores"])
    big = jax.ShapeDtypeStruct((10**7,), np.float64)
    with pytest.raises(MemoryError, match="dense rows in every format"):
        jax.eval_shape(jax_cce.jacobian(rule, format="structured"), big)


def test_second_derivatives_see_the_results_of_the_rule():
    # Under differentiation JAX takes the results from `fwd`, which has a derivative of its own.
    straight = jax.custom_vjp(lambda x: jnp.round(x))
    straight.defvjp(lambda x: (jnp.round(x), None), lambda _, g: (g,))
    for use in ("a part", "scan", "jit"):
        fun = functools.partial(USES[use], straight)
        assert_agree(jax_cce.hessian(fun)(X), jax.jit(jax.hessian(fun))(X))


def test_sparse_hessian_of_what_is_no_gradient():
    # The rules mix entries, so that the Jacobian of the "gradient" is not symmetric.
    backward = with_pullback(lambda x, g: g * x[::-1] * x**2)
    forward = with_pushforward(lambda x, t: t * x[::-1])
    for rule in (backward, forward):
        for inner in (rule, jax.jit(rule)):
            fun = functools.partial(lambda f, x: jnp.sum(f(x) * x), inner)
            for form in ("bcoo", "structured"):
                found = jax_cce.hessian(fun, format=form)(X).todense()
                np.testing.assert_allclose(found, jax.jit(jax.hessian(fun))(X), rtol=1e-12)
