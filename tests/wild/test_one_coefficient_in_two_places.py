"""One coefficient along different loops of a sum, as in ``v[:, None] - v`` of a dense ``v``."""

import jax
import jax.numpy as jnp
import pytest

import jax_cce
from cases.agreement import assert_agree

C = jnp.arange(1.0, 10.0).reshape(3, 3) ** 2
X = jnp.array([0.1, 0.9, 0.25])


def _pairs(x):
    return jnp.sum((x[:, None] - x) ** 2 * C, -1)


CASES = {
    "difference": lambda x: (C @ x)[:, None] - C @ x,
    "of one value": lambda x: (lambda v: v[:, None] - v)(C @ x),
    "sum": lambda x: (lambda v: v[:, None] + v)(C @ x),
    "scaled": lambda x: (lambda v: 2.0 * v[:, None] - 3.0 * v)(C @ x),
    "three axes": lambda x: (lambda v: v[:, None, None] - v[None, :, None] + v)(C @ x),
    "cubes": lambda x: (lambda v: jnp.sum((v[:, None] - v) ** 3, 0))(C @ x),
    "pairs of pairs": lambda x: (lambda v: jnp.sum((v[:, None] - v) ** 3 * C, 0))(_pairs(x)),
    "antisymmetric": lambda x: (lambda a: a - a.T)(jnp.outer(C @ x, C[0]) * jnp.sin(x)),
    "transposed": lambda x: (lambda a: a - a.T)((C @ x)[:, None] * jnp.ones(3)),
    "commutator": lambda x: (lambda a: a @ C - C @ a)(jnp.outer(x, x)),
    "cross differences": lambda x: (lambda v: jnp.abs(v[:, None] - v))(C @ x),
}


@pytest.mark.parametrize("order", ["auto", "forward", "reverse", "markowitz"])
@pytest.mark.parametrize("name", CASES)
def test_each_counts_along_its_own_axes(name, order):
    fun = CASES[name]
    expected = jax.jit(jax.jacfwd(fun))(X)
    for form in ("dense", "bcoo", "structured"):
        found = jax_cce.jacobian(fun, order=order, format=form)(X)
        assert_agree(found if form == "dense" else found.todense(), expected)


def test_under_hessian():
    f = lambda x: jnp.sum(((C @ x)[:, None] - C @ x) ** 4) / 1e6  # noqa: E731
    assert_agree(jax_cce.hessian(f)(X), jax.jit(jax.hessian(f))(X))
