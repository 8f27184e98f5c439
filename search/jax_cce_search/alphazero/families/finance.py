"""Prices of options."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jax_cce_search.alphazero.families.draws import Drawn, between, floats, pick, some

__all__ = [
    "option",
]


def _cdf(x: Any) -> Any:
    return (1 + jax.scipy.special.erf(x * 0.5**0.5)) / 2


def _put(s: Any, k: Any, r: Any, q: Any, v: Any, t: Any) -> Any:
    spread = v * jnp.sqrt(t)
    d = (jnp.log(s / k) + (r - q + v * v / 2) * t) / spread
    return k * jnp.exp(-r * t) * _cdf(spread - d) - s * jnp.exp(-q * t) * _cdf(-d)


def _digital(s: Any, k: Any, r: Any, v: Any, t: Any) -> Any:
    return jnp.exp(-r * t) * _cdf((jnp.log(s / k) + (r - v**2 / 2) * t) / (v * jnp.sqrt(t)))


def _exchange(s: Any, k: Any, v: Any, w: Any, correlation: Any, t: Any) -> Any:
    spread = jnp.sqrt((v**2 + w**2 - 2 * correlation * v * w) * t)
    d = jnp.log(s / k) / spread + spread / 2
    return s * _cdf(d) - k * _cdf(d - spread)


def _bachelier(s: Any, k: Any, v: Any, t: Any) -> Any:
    spread = v * jnp.sqrt(t)
    d = (s - k) / spread
    return (s - k) * _cdf(d) + spread * jnp.exp(-(d**2) / 2) * 0.4


def _barrier(s: Any, k: Any, r: Any, v: Any, t: Any, h: Any) -> Any:
    mirrored = _put(h**2 / s, k, r, 0.0, v, t)
    return _put(s, k, r, 0.0, v, t) - jnp.exp((1 - 2 * r / v**2) * jnp.log(s / h)) * mirrored


_PRICES: tuple[tuple[Callable[..., Any], int], ...] = (
    (_put, 6),
    (_digital, 5),
    (_exchange, 6),
    (_bachelier, 4),
    (_barrier, 6),
)


def option(random: np.random.Generator) -> Drawn:
    """The price of an option in closed form and its first derivatives, or prices for strikes."""
    price, count = pick(random, _PRICES)
    if price is _barrier or random.random() < 0.25:
        strikes = between(random, 1, 2)

        def prices(s: Any, *args: Any) -> Any:
            return tuple(price(s, k, *args[strikes:]) for k in args[:strikes])

        return prices, floats(random, count + strikes - 1, 0.6)
    wanted = tuple(sorted(some(random, count, between(random, 2, count))))
    derived = pick(random, (jax.grad, jax.value_and_grad))(price, wanted)
    return derived, floats(random, count, 0.6)
