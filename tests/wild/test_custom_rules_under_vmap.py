"""Custom rules under vmap of which a primal, tangent, residual or cotangent is not batched."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import pytest
from jax import lax

import jax_cce
from cases.agreement import assert_agree, assert_same_outcome

X = jnp.arange(1.0, 4.0)


def _of_jvp(value: Any, rule: Any) -> Any:
    function = jax.custom_jvp(value)
    function.defjvp(lambda primals, tangents: (function(*primals), rule(*primals, *tangents)))
    return function


def _of_vjp(value: Any, fwd: Any, bwd: Any) -> Any:
    function = jax.custom_vjp(value)
    function.defvjp(fwd, bwd)
    return function


def _one(x: Any) -> Any:
    return jnp.ones(())


RULES = {
    "primal of custom_jvp": _of_jvp(_one, lambda x, t: jnp.exp(-(x**2)) * t),
    "tangent": _of_jvp(jnp.sin, lambda x, t: jnp.zeros(())),
    "primal of custom_vjp": _of_vjp(_one, lambda x: (_one(x), x), lambda r, g: (g * jnp.exp(-r),)),
    "residual": _of_vjp(jnp.sin, lambda x: (jnp.sin(x), jnp.ones(())), lambda r, g: (r * g,)),
    "cotangent": _of_vjp(jnp.sin, lambda x: (jnp.sin(x), None), lambda _, g: (jnp.ones(()),)),
    "zero": _of_vjp(jnp.sin, lambda x: (jnp.sin(x), None), lambda _, g: (jnp.zeros(()),)),
}

_pair = _of_jvp(
    lambda x: (jnp.ones(2), jnp.sin(x)),
    lambda x, t: (jnp.array([1.0, 2.0]) * t * x, jnp.cos(x) * t),
)
_second = _of_jvp(lambda x, y: 2 * y, lambda x, y, t, u: t * x + u)
_product = _of_vjp(
    lambda x, y: (x * y, y + 1),
    lambda x, y: ((x * y, y + 1), y),
    lambda y, g: (g[0] * y, g[1] * y),
)

USES = {
    "alone": lambda f, x: jax.vmap(f)(x),
    "a part": lambda f, x: jnp.sin(jax.vmap(f)(x) * x),
    "nested": lambda f, x: jax.vmap(jax.vmap(f))(x[:, None] * x),
    "jit": lambda f, x: jax.jit(jax.vmap(f))(x),
    "scan": lambda f, x: lax.scan(lambda c, _: (jax.vmap(f)(c) * x, None), x, None, length=2)[0],
    "map": lambda f, x: lax.map(f, x),
    "by value": lambda f, x: jax.vmap(f)(x) * x if x[0] > 0 else x,
}

SEVERAL = {
    "one result of two": lambda x: jax.vmap(_pair)(x),
    "primal of the second": lambda x: jax.vmap(_second, (0, None))(x, x[0]),
    "primal of a constant": lambda x: jax.vmap(_second, (0, None))(x, 2.0),
    "second operand": lambda x: jax.vmap(_product, (0, None))(x, x[0]),
    "first operand": lambda x: jax.vmap(_product, (None, 0))(x[0], x),
    "constant operand": lambda x: jax.vmap(_product, (None, 0))(2.0, x),
}


def _dense(tree: Any) -> Any:
    def is_block(node: Any) -> bool:
        return hasattr(node, "todense")

    return jax.tree.map(lambda b: b.todense() if is_block(b) else b, tree, is_leaf=is_block)


@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize("name", RULES)
def test_one_result(name: str, use: str):
    # Under jit and in a scan JAX itself refuses a custom_jvp with an unbatched primal.
    fun = functools.partial(USES[use], RULES[name])
    assert_same_outcome(jax_cce.jacobian(fun), jax.jacrev(fun), X)


@pytest.mark.parametrize("name", SEVERAL)
def test_several_operands_or_results(name: str):
    expected = jax.jacrev(SEVERAL[name])(X)
    for how in ({}, {"format": "bcoo", "order": "forward"}, {"format": "structured"}):
        assert_agree(_dense(jax_cce.jacobian(SEVERAL[name], **how)(X)), expected)
    assert_agree(jax.jit(jax_cce.jacobian(SEVERAL[name]))(X), expected)


def test_hessian_and_value():
    fun = functools.partial(USES["a part"], RULES["primal of custom_jvp"])
    assert_agree(jax_cce.hessian(fun)(X), jax.hessian(fun)(X))
    expected = fun(X), jax.jacrev(fun)(X)
    assert_agree(jax_cce.value_and_jacobian(fun)(X), expected)
