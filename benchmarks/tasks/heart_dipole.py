"""The human heart dipole problem of the MINPACK-2 test problem collection."""

import jax
import numpy as np

from benchmarks.tasks.task import Published, Task


def heart_dipole(
    x1: jax.Array,
    x2: jax.Array,
    x3: jax.Array,
    x4: jax.Array,
    x5: jax.Array,
    x6: jax.Array,
    x7: jax.Array,
    x8: jax.Array,
) -> tuple[jax.Array, ...]:
    """Computes the eight residuals that a pair of dipoles in the heart has to make zero.

    Args:
      x1, x2, x3, x4: The components of the two dipole moments.
      x5, x6, x7, x8: The coordinates of the two dipoles.

    Returns:
      Eight residuals, for measured sums that are all one.
    """
    f1 = x1 + x2 - 1
    f2 = x3 + x4 - 1
    f3 = x5 * x1 + x6 * x2 - x7 * x3 - x8 * x4 - 1
    f4 = x7 * x1 + x8 * x2 + x5 * x3 + x6 * x4 - 1
    a = x5**2 - x7**2
    b = x6**2 - x8**2
    f5 = x1 * a - 2 * x3 * x5 * x7 + x2 * b - 2 * x4 * x6 * x8 - 1
    f6 = x3 * a - 2 * x1 * x5 * x7 + x4 * b - 2 * x2 * x6 * x8 - 1
    p = x5 * (x5**2 - 3 * x7**2)
    q = x7 * (x7**2 - 3 * x5**2)
    r = x6 * (x6**2 - 3 * x8**2)
    s = x8 * (x8**2 - 3 * x6**2)
    f7 = x1 * p + x3 * q + x2 * r + x4 * s - 1
    f8 = x3 * p - x1 * q + x4 * r - x2 * s - 1
    return f1, f2, f3, f4, f5, f6, f7, f8


TASK = Task(
    name="HumanHeartDipole",
    fun=heart_dipole,
    # Any point does: the residuals are polynomials.
    args=tuple(np.float64(x) for x in (0.3, 0.7, -0.2, 1.1, 0.9, -0.5, 0.4, 1.3)),
    argnums=tuple(range(8)),
    published=Published(
        forward=240,
        reverse=172,
        markowitz=194,
        best=148,
        vertices=78,
        lower_bound=148,
        exact=True,
    ),
)
