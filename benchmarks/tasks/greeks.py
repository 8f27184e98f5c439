"""Second-order Greeks: the Hessian of a European call's price under Black's model."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import erf

from benchmarks.tasks.task import ALPHAGRAD, Published, Task

_SQRT2 = float(np.sqrt(2.0))


def _normal_cdf(z: jax.Array) -> jax.Array:
    return (1 + erf(z / _SQRT2)) / 2


def call_price(
    s: jax.Array, k: jax.Array, r: jax.Array, sigma: jax.Array, t: jax.Array
) -> jax.Array:
    """Computes the price of a European call from its forward price.

    Args:
      s: Price of the underlying today.
      k: Strike price.
      r: Riskless rate per year.
      sigma: Volatility per square root of a year.
      t: Years to maturity.

    Returns:
      The discounted expectation of the payoff.
    """
    f = jnp.exp(r * t) * s
    d1 = (jnp.log(f / k) + sigma**2 / 2 * t) / (sigma * jnp.sqrt(t))
    d2 = d1 - sigma * jnp.sqrt(t)
    return jnp.exp(-r * t) * (f * _normal_cdf(d1) - k * _normal_cdf(d2))


# The first-order Greeks; the task is their Jacobian.
greeks = jax.grad(call_price, argnums=(0, 1, 2, 3, 4))


TASK = Task(
    name="Greeks",
    fun=greeks,
    # Slightly out of the money, so that no Greek vanishes.
    args=tuple(np.float64(x) for x in (100.0, 105.0, 0.03, 0.2, 0.75)),
    argnums=(0, 1, 2, 3, 4),
    published=Published(
        forward=545,
        reverse=572,
        markowitz=350,
        best=307,
        source=f"{ALPHAGRAD}; the gradient's graph there is another tool's, not that of jax.grad",
    ),
)
