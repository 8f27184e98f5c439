"""Python and NumPy numbers where rules expect arrays: as operands, results and residuals."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import jax_cce
from cases.agreement import assert_agree


@jax.custom_vjp
def product(x: Any, y: Any) -> Any:
    """A product with its own pullback."""
    return x * y


product.defvjp(lambda x, y: (product(x, y), (x, y)), lambda r, g: (g * r[1], g * r[0]))


@jax.custom_vjp
def rematerialised(x: Any, y: Any) -> Any:
    """The same, with residuals that may be computed anew."""
    return x * y


rematerialised.defvjp(
    lambda x, y: (x * y, (x, y)), lambda r, g: (g * r[1], g * r[0]), optimize_remat=True
)


@jax.custom_jvp
def quotient(x: Any, y: Any) -> Any:
    """A quotient with its own pushforward."""
    return x / y


quotient.defjvp(lambda p, t: (quotient(*p), t[0] / p[1] - t[1] * p[0] / p[1] ** 2))


@jax.custom_vjp
def number(x: Any) -> Any:
    """A constant, with a residual that is a number of Python."""
    return 3.0


number.defvjp(lambda x: (3.0, 2.5), lambda r, g: (g * r,))

FUNCTIONS = {
    "second operand": lambda x: product(jnp.sin(x), 2.0),
    "one": lambda x: product(x, 1.0) * x,
    "zero": lambda x: product(x, 0.0) + x,
    "minus one": lambda x: product(-1.0, x) ** 2,
    "NumPy number": lambda x: product(jnp.sin(x), np.float64(2.5)),
    "NumPy number of rank 0": lambda x: product(jnp.sin(x), np.array(2.5)),
    "residuals": lambda x: rematerialised(jnp.sin(x), 2.0),
    "divisor": lambda x: quotient(jnp.sin(x), 2.0),
    "dividend": lambda x: quotient(1.0, jnp.cos(x)),
    "number as result": lambda x: number(x) * x,
    "power of a number": lambda x: lax.pow(2.0, x) * lax.pow(x, 3.0),
    "larger of": lambda x: jnp.maximum(x, 1.0) * jnp.minimum(2.0, x),
    "atan2": lambda x: jnp.arctan2(x, 1.0) + jnp.arctan2(1.0, x),
    "where": lambda x: jnp.where(x > 1, product(x, 2.0), 1.0),
    "scan": lambda x: lax.scan(lambda c, _: (product(c, 2.0), None), x, None, length=2)[0],
    "vmap": lambda x: jnp.sum(jax.vmap(product, (0, None))(x * jnp.ones(2), 2.0)),
    "jit": lambda x: jax.jit(product)(jnp.sin(x), 2.0),
    "by value": lambda x: product(x, 2.0) * x if x > 0 else x,
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_agrees_with_jax(name: str):
    fun = FUNCTIONS[name]
    first, second = jax.jacrev(fun), jax.jacrev(jax.jacrev(fun))
    for x in (1.5, np.float64(1.5)):
        assert_agree(jax_cce.jacobian(fun)(x), first(x))
        if name != "residuals":  # of which JAX has no second derivative
            assert_agree(jax_cce.hessian(fun)(x), second(x))
    found = jax_cce.jacobian(fun, format="bcoo")(1.5).todense()
    np.testing.assert_allclose(found, first(1.5), rtol=1e-12)
