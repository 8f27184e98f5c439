"""Primitives that hold an open jaxpr, the values of whose constvars come as operands."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import pytest
from jax import lax
from jax.extend.core import Primitive
from jax.interpreters import ad, mlir

import jax_cce
from cases.agreement import assert_agree

C = jnp.arange(1.0, 4.0)
X = jnp.array([0.3, -1.2, 2.1])


def _evaluated(jaxpr: Any, constants: Any, *operands: Any) -> Any:
    return jax.core.eval_jaxpr(jaxpr, constants, *operands)[0]


def _calling(name: str, run: Any, count: int) -> Primitive:
    """A primitive of `count` differentiated operands, and constants, that evaluates its body."""
    primitive = Primitive(name)
    primitive.def_impl(run)
    primitive.def_abstract_eval(lambda x, *_, **__: x)
    mlir.register_lowering(primitive, mlir.lower_fun(run, False))

    def jvp(primals: Any, tangents: Any, **params: Any) -> Any:
        fixed = primals[count:]
        varied = [
            ad.instantiate_zeros(t) if isinstance(t, ad.Zero) else t for t in tangents[:count]
        ]
        return jax.jvp(lambda *x: run(*x, *fixed, **params), tuple(primals[:count]), tuple(varied))

    ad.primitive_jvps[primitive] = jvp
    return primitive


def _open(fun: Any, *args: Any) -> Any:
    return jax.make_jaxpr(fun)(*args).jaxpr


_call = _calling("open_call", lambda x, k, *, jaxpr: _evaluated(jaxpr, [k], x), 1)
_both = _calling(
    "open_pair", lambda x, k, *, jaxprs: sum(_evaluated(each, [k], x) for each in jaxprs), 1
)
_scaled = _open(lambda x: jnp.sin(x) * C, X)


def scaled(x: jax.Array) -> jax.Array:
    """The sine times a constant that the jaxpr is open in."""
    return _call.bind(x, C, jaxpr=_scaled)


def in_tuple(x: jax.Array) -> jax.Array:
    """Two open jaxprs in one parameter."""
    return _both.bind(x, C, jaxprs=(_scaled, _open(lambda x: x**2 + C, X)))


def nested(x: jax.Array) -> jax.Array:
    """An open jaxpr in an equation of another."""
    outer = _open(lambda x: _call.bind(x, C, jaxpr=_scaled) * C, X)
    return _call.bind(x, C, jaxpr=outer)


def in_scan(x: jax.Array) -> jax.Array:
    """In the body of a loop."""
    return lax.scan(lambda carry, _: (scaled(carry), carry), x, None, length=3)[0]


def in_cond(x: jax.Array) -> jax.Array:
    """In a branch."""
    return lax.cond(x[0] > 0, scaled, jnp.cos, x)


def in_part(x: jax.Array) -> jax.Array:
    """As a part of a function, under jit and checkpoint."""
    return jnp.sum(jax.checkpoint(jax.jit(scaled))(jnp.exp(x)) * x)


def in_custom_rule(x: jax.Array) -> jax.Array:
    """In the derivative of a custom_jvp."""

    @jax.custom_jvp
    def twice(x: jax.Array) -> jax.Array:
        return 2 * x

    twice.defjvp(lambda primals, tangents: (twice(*primals), scaled(*primals) * tangents[0]))
    return twice(x)


@pytest.mark.parametrize("form", ["dense", "bcoo", "structured"])
@pytest.mark.parametrize(
    "fun",
    [scaled, in_tuple, nested, in_scan, in_cond, in_part, in_custom_rule],
    ids=lambda fun: fun.__name__,
)
def test_agrees_with_jax(fun: Any, form: str):
    expected = jax.jacrev(fun)(X)
    for transformed in (functools.partial, jax.jit):
        found = transformed(jax_cce.jacobian(fun, format=form))(X)
        assert_agree(found if form == "dense" else found.todense(), expected)


def test_hessian_and_plan():
    assert_agree(jax_cce.hessian(in_part)(X), jax.hessian(in_part)(X))
    assert jax_cce.plan(in_part)(X).order


def test_other_constants_and_another_body_give_another_program():
    def of(c: jax.Array, fun: Any) -> Any:
        jaxpr = _open(fun, X)
        return lambda x: _call.bind(x, c, jaxpr=jaxpr)

    for c in (C, 2 * C):
        for fun in (lambda x: jnp.sin(x) * C, lambda x: jnp.cos(x) * C):
            assert_agree(jax_cce.jacobian(of(c, fun))(X), jax.jacrev(of(c, fun))(X))


def test_constvars_are_not_taken_for_inputs():
    # The two jaxprs differ in nothing but which of their variables are constvars.
    def run(x: Any, y: Any, *, jaxpr: Any) -> Any:
        return _evaluated(jaxpr, [y], x) if jaxpr.constvars else _evaluated(jaxpr, [], x, y)

    either = _calling("open_or_not", run, 2)
    power = _open(lambda x: C**x, X), _open(lambda y, x: y**x, X, X)
    for jaxpr in power:
        fun = functools.partial(lambda jaxpr, x: either.bind(x, C, jaxpr=jaxpr), jaxpr)
        assert_agree(jax_cce.jacobian(fun)(jnp.abs(X)), jax.jacrev(fun)(jnp.abs(X)))
