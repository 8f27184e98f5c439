"""Custom rules whose Python control flow reads values, as JAX allows where these are concrete."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jax_cce
from cases.agreement import assert_agree, assert_same_outcome

X = jnp.array([0.3, 0.2, 1.0])


def _backward(x):
    g = jax.custom_vjp(jnp.sin)
    g.defvjp(lambda x: (jnp.sin(x), x), lambda x, ct: (2 * ct if x[0] > 0 else 3 * ct,))
    return g(x) * x


def _forward(x):
    g = jax.custom_vjp(jnp.sin)
    g.defvjp(lambda x: (jnp.sin(x), x if x[0] > 0 else 2 * x), lambda x, ct: (2 * ct * x,))
    return x * g(x)


def _chosen(x):
    g = jax.custom_jvp(jnp.sin)
    g.defjvp(lambda p, t: (jnp.sin(p[0]), 2 * t[0] if p[0][1] > 0.2 else 3 * t[0]))
    return g(x)


def _jvp(x):
    return _chosen(_chosen(x) * x)


def _primal(x):
    g = jax.custom_jvp(lambda x: jnp.sin(x) if x[0] > 0 else x)
    g.defjvp(lambda p, t: (g(p[0]), 2 * t[0]))
    return g(x) + g(jnp.ones(3))


def _nested(x):
    @jax.custom_vjp
    def g(x):
        return _chosen(x) * x

    g.defvjp(lambda x: jax.vjp(lambda x: _chosen(x) * x, x), lambda pullback, ct: pullback(ct))
    return g(x)


def _count(x):
    """The number of terms depends on the value."""
    g = jax.custom_vjp(lambda x: x)
    g.defvjp(lambda x: (x, x), lambda x, ct: (sum(ct * x**k for k in range(int(10 * abs(x[1])))),))
    return g(x)


def _numpy(x):
    g = jax.custom_jvp(jnp.cos)
    g.defjvp(lambda p, t: (jnp.cos(p[0]), t[0] * jnp.asarray(np.sort(np.asarray(p[0])))))
    return g(x) ** 2


def _index(x):
    g = jax.custom_vjp(jnp.cos)
    g.defvjp(lambda x: (jnp.cos(x), x), lambda x, ct: (ct.at[x > 0.25].mul(3.0),))
    return g(x)[::2]


def _clipped(x):
    g = jax.custom_vjp(jnp.sin)
    g.defvjp(
        lambda x: (jnp.sin(x), x),
        lambda x, ct: (jnp.clip(ct * jnp.cos(x), -0.5, 0.5) if x[0] > 0 else ct,),
    )
    return 3 * g(x) * x


FUNCTIONS = [_backward, _forward, _jvp, _primal, _nested, _count, _numpy, _index, _clipped]


@pytest.mark.parametrize("f", FUNCTIONS)
def test_values_are_concrete(f):
    for x in (X, -X):
        expected = jax.jacrev(f)(x)
        assert_agree(jax_cce.jacobian(f)(x), expected)
        assert_agree(jax_cce.value_and_jacobian(f)(x), (f(x), expected))
        assert_agree(jax_cce.jacobian(f, format="bcoo")(x).todense(), expected)
        assert_agree(jax_cce.jacobian(f, format="structured")(x).todense(), expected)


@pytest.mark.parametrize("order", ["forward", "reverse", "markowitz"])
@pytest.mark.parametrize("f", [_backward, _jvp, _nested])
def test_in_a_named_order(f, order):
    assert_agree(jax_cce.jacobian(f, order=order)(X), jax.jacrev(f)(X))


@pytest.mark.parametrize("f", FUNCTIONS)
def test_values_are_not_concrete(f):
    for at in (
        lambda transform: jax.jit(transform(f)),
        lambda transform: transform(jax.jit(f)),
        lambda transform: lambda x: jax.vmap(transform(f))(x[None]),
        lambda transform: lambda x: transform(jax.vmap(f))(x[None]),
    ):
        assert_same_outcome(at(jax_cce.jacobian), at(jax.jacrev), X)


@pytest.mark.parametrize("f", [_backward, _jvp, _nested, _count])
def test_second_derivatives(f):
    def scalar(x):
        return jnp.sum(jnp.sin(f(x)))

    assert_agree(jax_cce.hessian(scalar)(X), jax.jacrev(jax.jacrev(scalar))(X))
    assert_agree(jax.jacfwd(jax_cce.jacobian(_jvp))(X), jax.jacfwd(jax.jacrev(_jvp))(X))
    sparse = jax_cce.hessian(scalar, format="bcoo")(X)
    assert_agree(sparse.todense(), jax.jacrev(jax.jacrev(scalar))(X))


def test_python_numbers_and_size_one():
    g = jax.custom_vjp(jnp.sin)
    g.defvjp(lambda x: (jnp.sin(x), x), lambda x, ct: (2 * ct if x > 0 else 3 * ct,))
    for x in (2.0, -2.0, jnp.float64(2.0), jnp.array([1.0])):
        for f in (g, lambda x: g(x) * x, lambda x: g(g(x))):
            assert_agree(jax_cce.jacobian(f)(x), jax.jacrev(f)(x))


def test_a_branch_on_the_cotangent_is_refused_as_by_jax():
    g = jax.custom_vjp(jnp.sin)
    g.defvjp(lambda x: (jnp.sin(x), None), lambda _, ct: (ct if ct > 0 else 2 * ct,))
    assert_same_outcome(jax_cce.jacobian(g), jax.jacrev(g), 1.0)


def test_the_plan_says_so():
    assert "TracerBoolConversionError" in jax_cce.plan(_jvp)(X).remark
    assert jax_cce.plan(_backward)(X).method == "jacrev"
    for f in (_jvp, _backward):
        with pytest.raises(jax.errors.TracerBoolConversionError):
            jax.jit(jax.jacrev(f))(X)
        with pytest.raises(jax.errors.TracerBoolConversionError):
            jax_cce.plan(f)(jax.ShapeDtypeStruct(X.shape, X.dtype))
