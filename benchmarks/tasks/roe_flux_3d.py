"""The Roe flux of the three-dimensional Euler equations across a face normal to the first axis.

Method: P. L. Roe, "Approximate Riemann solvers, parameter vectors, and difference schemes",
Journal of Computational Physics 43 (1981). Momentum is a vector, so that the graph has structured
Jacobians: slices, reductions and concatenations.
"""

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.tasks.task import Published, Task

_GAMMA = 0.5


def _pressure(u0: jax.Array, u: jax.Array, u4: jax.Array) -> jax.Array:
    return (_GAMMA - 1) * (u4 - 0.5 * jnp.sum(u**2) / u0)


def _enthalpy(u0: jax.Array, u4: jax.Array, p: jax.Array) -> jax.Array:
    return (u4 + p) / u0


def _flux(
    u: jax.Array, v: jax.Array, u4: jax.Array, p: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    normal = v[0:1]
    return u[0:1], jnp.concatenate((p, jnp.zeros(2, p.dtype))) + u * normal, normal * (p + u4)


def roe_flux_3d(
    l0: jax.Array, lm: jax.Array, l4: jax.Array, r0: jax.Array, rm: jax.Array, r4: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Computes the Roe flux between a left and a right state.

    Args:
      l0, lm, l4: Density [1], momentum [3] and energy [1] on the left.
      r0, rm, r4: Density [1], momentum [3] and energy [1] on the right.

    Returns:
      The fluxes of density [1], momentum [3] and energy [1]. They are finite and real only where
      the squared speed of sound of the averaged state is positive and its two velocities along the
      face are not zero.
    """
    d0 = r0 - l0
    d = rm - lm
    d1, d2, d3 = d[0:1], d[1:2], d[2:3]
    d4 = r4 - l4
    vl = lm / l0
    vr = rm / r0
    weight = jnp.sqrt(l0) + jnp.sqrt(r0)
    velocity = (jnp.sqrt(l0) * vl + jnp.sqrt(r0) * vr) / weight
    u, v, w = velocity[0:1], velocity[1:2], velocity[2:3]
    pl = _pressure(l0, lm, l4)
    hl = _enthalpy(l0, l4, pl)
    pr = _pressure(r0, rm, r4)
    hr = _enthalpy(r0, r4, pr)
    h = (jnp.sqrt(l0) * hl + jnp.sqrt(r0) * hr) / weight
    q = jnp.sum(velocity**2)
    a2 = (_GAMMA - 1) * (h - 0.5 * q)
    a = jnp.sqrt(a2)

    up = u + a
    down = u - a
    c3 = (_GAMMA - 1) / a2 * ((h - q) * d0 + jnp.dot(velocity, d) - d4) * u
    c2 = (d3 / w - d1) * u
    c1 = (d2 / v - d0) * u
    k1 = d0 - c3
    k2 = (d1 - u * d0) / a
    c0 = 0.5 * (k1 - k2) * down
    c4 = 0.5 * (k1 + k2) * up

    dissipation0 = c0 + c3 + c4 * up
    dissipation1 = c0 * down + c3 * u + c4 * up
    dissipation2 = c0 * v + c1 * v + c3 * v + c4 * v
    dissipation3 = c0 * w + c2 * w + c3 * w + c4 * w
    dissipation4 = (
        c0 * (h - u * a) + c1 * v**2 + c2 * w**2 + c3 * 0.5 * q + c4 * (h + u * a)
    )  # fmt: skip
    fl0, fl, fl4 = _flux(lm, vl, l4, pl)
    fr0, fr, fr4 = _flux(rm, vr, r4, pr)
    return (
        0.5 * (fl0 + fr0 - dissipation0),
        0.5 * (fl + fr - jnp.concatenate((dissipation1, dissipation2, dissipation3))),
        0.5 * (fl4 + fr4 - dissipation4),
    )


TASK = Task(
    name="RoeFlux_3d",
    fun=roe_flux_3d,
    # With gamma = 0.5 the squared speed of sound is positive where the energy is less than the
    # kinetic energy; all three velocities differ from zero.
    args=(
        np.array([1.0]),
        np.array([0.7, 0.5, 0.4]),
        np.array([0.1]),
        np.array([1.2]),
        np.array([0.6, 0.7, 0.5]),
        np.array([0.15]),
    ),
    argnums=(0, 1, 2, 3, 4, 5),
    published=Published(forward=1556, reverse=979, markowitz=938, best=784),
)
