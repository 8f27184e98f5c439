"""The combustion of propane, full formulation, of the MINPACK-2 test problem collection."""

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.tasks.task import Published, Task

_PRESSURE = 40.0
_AIR_RATIO = 10.0


def propane_combustion(
    x1: jax.Array,
    x2: jax.Array,
    x3: jax.Array,
    x4: jax.Array,
    x5: jax.Array,
    x6: jax.Array,
    x7: jax.Array,
    x8: jax.Array,
    x9: jax.Array,
    x10: jax.Array,
    x11: jax.Array,
) -> tuple[jax.Array, ...]:
    """Computes the residuals of the chemical equilibrium of propane burning in air.

    Args:
      x1, x2, x3, x4, x5, x6, x7, x8, x9, x10: Moles of the ten products.
      x11: Their total.

    Returns:
      Eleven residuals: balances of the elements, equilibria, and the definition of the total.
    """
    w = jnp.sqrt(_PRESSURE / x11)
    f1 = x1 + x4 - 3
    f2 = 2 * x1 + x2 + x4 + x7 + x8 + x9 + 2 * x10 - _AIR_RATIO
    f3 = 2 * x2 + 2 * x5 + x6 + x7 - 8
    f4 = 2 * x3 + x9 - 4 * _AIR_RATIO
    f5 = x2 * x4 - x1 * x5
    f6 = jnp.sqrt(x2 * x4) - jnp.sqrt(x1) * w * x6
    f7 = jnp.sqrt(x1 * x2) - jnp.sqrt(x4) * x7 * w
    f8 = x1 - x4 * x8 * _PRESSURE / x11
    f9 = x1 * jnp.sqrt(x3) - x4 * x9 * w
    f10 = x1**2 - x4**2 * x10 * _PRESSURE / x11
    f11 = x11 - x1 - x2 - x3 - x4 - x5 - x6 - x7 - x8 - x9 - x10
    return f1, f2, f3, f4, f5, f6, f7, f8, f9, f10, f11


TASK = Task(
    name="PropaneCombustion",
    fun=propane_combustion,
    # Amounts are positive, as the roots and the division need.
    args=tuple(np.float64(x) for x in (0.5, 0.8, 1.7, 0.3, 0.2, 0.6, 1.2, 0.4, 0.9, 1.5, 8.1)),
    argnums=tuple(range(11)),
    published=Published(
        forward=151,
        reverse=90,
        markowitz=111,
        best=88,
        vertices=51,
        lower_bound=88,
        exact=True,
    ),
)
