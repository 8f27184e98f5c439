"""Dense arrays of several terms: parts side by side, parts that overlap, and gaps."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jax_cce

_T = np.linspace(0.1, 1.0, 7)
_FULL = np.random.default_rng(0).normal(size=(4, 3))


def _columns(x: Any) -> Any:
    """One column for each of four unknowns, above a diagonal."""
    curve = x[0] * jnp.exp(-x[1] * _T) + x[2] * jnp.cos(x[3] * _T)
    return jnp.concatenate([curve, 3 * x])


def _gaps(x: Any) -> Any:
    """Rows and columns of zeros on all sides, and between blocks."""
    blocks = [_FULL @ x[1:4] ** 2, jnp.zeros(2), jnp.sin(x[5:7]), _FULL.T @ x[8:12] ** 2]
    return jnp.concatenate([jnp.zeros(3), *blocks, jnp.zeros(1)])


def _backwards(x: Any) -> Any:
    return jnp.concatenate([x[:3][::-1] ** 2, jnp.cos(x[3:7:2]), x[8:] * x[7], x[4:6]])


def _pinwheel(x: Any) -> Any:
    """Five blocks that no line separates: all are added up."""
    rows = [
        x[:2].sum() * x[2] ** 2,
        x[0] ** 2,
        x[0] * jnp.sin(x[1]),
        x[1] ** 2 + jnp.sum(x[1:] ** 2),
    ]
    return jnp.stack(rows)  # fmt: skip


def _overlapping(x: Any) -> Any:
    """A full block and a diagonal over it, beside others."""
    return jnp.concatenate([_FULL @ x[:3] + x[:4] ** 3, x[4:] ** 2, x[4:] * x[0], x[:2] * _T[0]])


_CASES = {
    "columns": (_columns, 4),
    "gaps": (_gaps, 13),
    "backwards": (_backwards, 12),
    "pinwheel": (_pinwheel, 3),
    "overlapping": (_overlapping, 9),
}


@pytest.mark.parametrize("order", ["auto", "forward", "reverse"])
@pytest.mark.parametrize("case", _CASES)
def test_dense_results(case, order):
    fun, size = _CASES[case]
    x = jnp.asarray(np.random.default_rng(1).uniform(0.5, 1.5, size=size))
    transformed = jax_cce.jacobian(fun, order=order, backend="xla")
    np.testing.assert_allclose(jax.jit(transformed)(x), jax.jacfwd(fun)(x), rtol=1e-12, atol=1e-14)
    points = jnp.stack([x, 2 * x])
    expected = jax.vmap(jax.jacfwd(fun))(points)
    np.testing.assert_allclose(jax.vmap(transformed)(points), expected, rtol=1e-12, atol=1e-14)
    structured = jax_cce.jacobian(fun, order=order, format="structured")(x)
    np.testing.assert_allclose(structured.todense(), jax.jacfwd(fun)(x), rtol=1e-12, atol=1e-14)


def test_parts_that_a_line_separates_are_put_side_by_side():
    """And not added up: what is added is padded with zeros to the whole first."""
    transformed = jax_cce.jacobian(lambda x: _columns(x)[:7], order="forward", backend="xla")
    text = jax.jit(transformed).lower(jnp.ones(4)).as_text()
    assert "stablehlo.concatenate" in text
    assert "stablehlo.pad" not in text
