"""Products, traces and derivatives of complex functions that one structured Jacobian serves."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jax_cce
from cases.agreement import assert_agree

X = jnp.linspace(0.2, 1.4, 6)
RNG = np.random.default_rng(0)


def flux(x):
    return jnp.sin(jnp.roll(x, 1)) * x**2


def test_many_products_by_one_plan(caplog):
    vectors = jnp.asarray(RNG.normal(size=(4, 6)))
    with caplog.at_level("INFO", "jax_cce"):
        jac = jax_cce.jacobian(flux, format="structured")(X)
        products = [jac @ v for v in vectors]
        pulled = [u @ jac for u in vectors]
    assert sum("planning" in k for k in caplog.messages) == 1
    _, push = jax.linearize(flux, X)
    _, pull = jax.vjp(flux, X)
    for v, product, row in zip(vectors, products, pulled, strict=True):
        assert_agree(product, push(v))
        assert_agree(row, pull(v)[0])


@pytest.mark.parametrize(
    "fun, shape",
    [
        (flux, (6,)),
        (lambda x: jnp.sin(x @ x.T) @ x, (3, 2)),
        (lambda x: x[:, None] * jnp.flip(x), (5,)),
        (lambda x: jnp.cumsum(x**2), (5,)),
        (lambda x: jnp.sort(x) * x, (5,)),
        (lambda x: jnp.sin(x) * x, ()),
        (lambda x: x * 2, (0,)),
    ],
    ids=["stencil", "matrix", "outer", "triangle", "sort", "number", "empty"],
)
def test_traces(fun, shape):
    x = jnp.asarray(RNG.normal(size=shape))
    rank = x.ndim
    dense = jax.jacrev(fun)(x)
    square = dense.reshape(*dense.shape[: dense.ndim - 2 * rank], x.size, x.size)
    jac = jax_cce.jacobian(fun, format="structured")(x)
    assert_agree(jac.trace(), jnp.einsum("...kk->...", square))


def test_a_trace_needs_rows_and_columns_alike():
    jac = jax_cce.jacobian(lambda x: x[1:], format="structured")(X)
    with pytest.raises(ValueError, match=r"output of shape \(5,\) .* input of shape \(6,\)"):
        jac.trace()


def test_the_two_derivatives_of_a_complex_function():
    z = X + 1j * X[::-1]

    def fun(z):
        return jnp.conj(z) * z[0] + z**2

    def by_parts(x, y):
        return fun(x + 1j * y)

    by_x, by_y = jax_cce.jacobian(by_parts, (0, 1))(z.real, z.imag)
    assert_agree((by_x, by_y), jax.jacfwd(by_parts, (0, 1))(z.real, z.imag))
    first = jnp.zeros((6, 6)).at[:, 0].set(1)
    assert_agree((by_x - 1j * by_y) / 2, jnp.diag(2 * z) + jnp.conj(z)[:, None] * first)
    assert_agree((by_x + 1j * by_y) / 2, z[0] * jnp.eye(6, dtype=z.dtype))
    for transform in (jax_cce.jacobian, jax.jacrev):
        with pytest.raises(TypeError, match="holomorphic=True"):
            transform(fun)(z)


def test_a_hessian_of_a_real_function_of_complex_numbers_is_refused():
    def fun(z):
        return jnp.sum(jnp.abs(z) ** 2)

    for transform in (jax_cce.hessian, jax_cce.value_grad_and_hessian, jax.hessian):
        with pytest.raises(TypeError, match="holomorphic=True"):
            transform(fun)(X + 0j)
