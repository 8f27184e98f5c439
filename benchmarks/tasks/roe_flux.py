"""The one-dimensional Roe flux: an approximate Riemann solver for the Euler equations.

Method: P. L. Roe, "Approximate Riemann solvers, parameter vectors, and difference schemes",
Journal of Computational Physics 43 (1981). Repeated subexpressions are written out each time they
occur, because the published operation counts are those of that graph.
"""

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.tasks.task import Published, Task

_GAMMA = 0.5


def _pressure(u0: jax.Array, u1: jax.Array, u2: jax.Array) -> jax.Array:
    return (_GAMMA - 1) * (u2 - (0.5 * u1**2) / u0)


def _enthalpy(u0: jax.Array, u2: jax.Array, p: jax.Array) -> jax.Array:
    return (u2 + p) / u0


def _flux(u0: jax.Array, u1: jax.Array, u2: jax.Array, p: jax.Array) -> tuple[jax.Array, ...]:
    v = u1 / u0
    return u1, p + u1 * v, v * (p + u2)


def roe_flux_1d(
    l0: jax.Array, l1: jax.Array, l2: jax.Array, r0: jax.Array, r1: jax.Array, r2: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Computes the Roe flux between a left and a right state.

    Args:
      l0, l1, l2: Density, momentum and energy on the left.
      r0, r1, r2: Density, momentum and energy on the right.

    Returns:
      The fluxes of density, momentum and energy. They are real only where the squared speed of
      sound of the averaged state is positive.
    """
    d0 = r0 - l0
    s = jnp.sqrt(l0 * r0)
    w = jnp.sqrt(l0) + jnp.sqrt(r0)
    vl = l1 / l0
    pl = _pressure(l0, l1, l2)
    hl = _enthalpy(l0, l2, pl)
    vr = r1 / r0
    pr = _pressure(r0, r1, r2)
    hr = _enthalpy(r0, r2, pr)
    dp = pr - pl
    dv = vr - vl
    u = (jnp.sqrt(l0) * vl + jnp.sqrt(r0) * vr) / w
    h = (jnp.sqrt(l0) * hl + jnp.sqrt(r0) * hr) / w
    q = u**2
    a2 = (_GAMMA - 1) * (h - 0.5 * q)
    a = jnp.sqrt(a2)

    n = a * s
    c0 = (d0 - dp / a2) * jnp.abs(u)
    c1 = (dv + dp / n) * jnp.abs(u + a)
    c2 = (dv - dp / n) * jnp.abs(u)

    c = (0.5 * s) / a
    dissipation = (
        c0 + c * c1 - c * c2,
        c0 * u + c * c1 * (u + a) - c * c2 * (u - a),
        c0 * 0.5 * q + c * c1 * (h + u * a) - c * c2 * (h - u * a),
    )
    left = _flux(l0, l1, l2, pl)
    right = _flux(r0, r1, r2, pr)
    f0, f1, f2 = (0.5 * (fl + fr - d) for fl, fr, d in zip(left, right, dissipation, strict=True))
    return f0, f1, f2


TASK = Task(
    name="RoeFlux_1d",
    fun=roe_flux_1d,
    # The published point. The squared speed of sound of the averaged state is 1/8 there, well away
    # from zero, below which the flux is not real.
    args=tuple(np.float64(x) for x in (0.01, 0.02, 0.02, 0.01, 0.03, 0.03)),
    argnums=(0, 1, 2, 3, 4, 5),
    published=Published(
        forward=620,
        reverse=364,
        markowitz=407,
        best=320,
        vertices=98,
        lower_bound=295,
        exact=True,
    ),
)
