"""Primitives of which JAX has a reverse mode but no linearisation, or only one of its modes."""

import functools
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import pytest
from jax import lax

import jax_cce
from cases.agreement import assert_agree

hijax = pytest.importorskip("jax.experimental.hijax")
if not hasattr(hijax, "VJPHiPrimitive"):
    pytest.skip("this JAX defines such primitives otherwise", allow_module_level=True)

X = jnp.array([0.3, -1.2, 2.1])


class _Reverse(hijax.VJPHiPrimitive):
    """The sine; its derivative is twice the cosine."""

    def __init__(self, aval: Any) -> None:
        self.in_avals, self.out_aval, self.params = (aval,), aval, {}
        super().__init__()

    def expand(self, x: Any) -> Any:
        return jnp.sin(x)

    def batch_dim_rule(self, axis: Any, dims: Any) -> Any:
        return dims[0]

    def vjp_fwd(self, active: Any, x: Any) -> Any:
        return self(x), x

    def vjp_bwd_retval(self, x: Any, g: Any) -> Any:
        return (2 * g * jnp.cos(x),)


class _Ignoring(_Reverse):
    """With a pullback that does not use its cotangent."""

    def vjp_bwd_retval(self, x: Any, g: Any) -> Any:
        return (jnp.cos(x),)


class _Tangents(_Reverse):
    """With a pushforward, too."""

    def jvp(self, primals: Any, tangents: Any) -> Any:
        return self(*primals), 2 * jnp.cos(primals[0]) * tangents[0]


def _of(kind: Any) -> Any:
    return lambda x: kind(jax.typeof(x))(x)


def _with_pullback(rule: Any) -> Any:
    sine = jax.custom_vjp(jnp.sin)
    sine.defvjp(lambda x: (jnp.sin(x), x), lambda x, g: (rule(x, g),))
    return sine


USES = {
    "alone": lambda f, x: f(x),
    "a part": lambda f, x: jnp.sin(jnp.sum(f(x)) * x),
    "jit": lambda f, x: jax.jit(f)(x) * x,
    "vmap": lambda f, x: jax.vmap(lambda s: f(s * x))(x[:2]),
    "scan": lambda f, x: lax.scan(lambda c, _: (f(c) * x, c[0]), x, None, length=2),
    "cond": lambda f, x: lax.cond(x[1] > 0, jnp.cos, f, x),
    "by value": lambda f, x: f(x) * x if x[0] > 0 else x,
}


def _agrees(fun: Any) -> None:
    expected = jax.jacrev(fun)(X)
    assert_agree(jax_cce.jacobian(fun)(X), expected)
    assert_agree(jax_cce.jacobian(fun, order="forward")(X), expected)
    found = jax_cce.jacobian(fun, format="bcoo")(X)
    assert_agree(jax.tree.map(lambda b: b.todense(), found, is_leaf=_is_block), expected)


def _is_block(node: Any) -> bool:
    return hasattr(node, "todense")


@pytest.fixture
def custom_vjp_in_hijax() -> Iterator[None]:
    jax.config.update("jax_custom_vjp3", True)
    yield
    jax.config.update("jax_custom_vjp3", False)


@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize("kind", [_Reverse, _Ignoring], ids=lambda kind: kind.__name__)
def test_hijax_primitive(kind: Any, use: str):
    _agrees(functools.partial(USES[use], _of(kind)))


def test_hijax_primitive_with_both_modes():
    _agrees(functools.partial(USES["a part"], _of(_Tangents)))


@pytest.mark.usefixtures("custom_vjp_in_hijax")
@pytest.mark.parametrize("use", USES)
def test_custom_vjp_as_a_hijax_primitive(use: str):
    _agrees(functools.partial(USES[use], _with_pullback(lambda x, g: g * x)))
    if use in ("a part", "scan"):
        _agrees(functools.partial(USES[use], _with_pullback(lambda x, g: jnp.cos(x))))


@pytest.mark.usefixtures("custom_vjp_in_hijax")
def test_two_operands_and_second_derivatives():
    @jax.custom_vjp
    def f(x: Any, y: Any) -> Any:
        return x * jnp.sin(y)

    f.defvjp(
        lambda x, y: (f(x, y), (x, y)),
        lambda r, g: (g * jnp.sin(r[1]), g * r[0] * jnp.cos(r[1])),
    )
    for fun in (f, jax.jit(f)):
        assert_agree(jax_cce.jacobian(fun, (0, 1))(2.0, 3.0), jax.jacrev(fun, (0, 1))(2.0, 3.0))
    expected = jax.jacrev(jax.jacrev(f, (0, 1)), (0, 1))(2.0, 3.0)
    assert_agree(jax_cce.hessian(f, (0, 1))(2.0, 3.0), expected)
