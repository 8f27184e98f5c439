"""Forward kinematics of a six-jointed robot arm: joint angles to position and orientation."""

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.tasks.task import Published, Task

# Link lengths and offsets of the arm, in millimetres.
_A1, _A2, _A3 = 175.0, 890.0, 50.0
_D1, _D4, _D6 = 575.0, 1035.0, 185.0


def robot_arm_6dof(
    t1: jax.Array, t2: jax.Array, t3: jax.Array, t4: jax.Array, t5: jax.Array, t6: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array, jax.Array, jax.Array]:
    """Computes where the tool of the arm is and how it is turned.

    Args:
      t1, t2, t3, t4, t5, t6: Angles of the joints, in radians, from the base to the tool.

    Returns:
      The position (x, y, z) in millimetres and the three Euler angles in radians.
    """
    c1, s1 = jnp.cos(t1), jnp.sin(t1)
    c2, s2 = jnp.cos(t2), jnp.sin(t2)
    c4, s4 = jnp.cos(t4), jnp.sin(t4)
    c5, s5 = jnp.cos(t5), jnp.sin(t5)
    c6, s6 = jnp.cos(t6), jnp.sin(t6)
    c23 = jnp.cos(t2) * jnp.cos(t3) - jnp.sin(t2) * jnp.sin(t3)
    s23 = jnp.cos(t2) * jnp.sin(t3) + jnp.sin(t2) * jnp.cos(t3)

    ax = s5 * (c1 * c23 * c4 + s1 * s4) + c1 * s23 * c5
    ay = s5 * (s1 * c23 * c4 - c1 * s4) + s1 * s23 * c5
    az = s23 * c4 * s5 - c23 * c5
    nz = c6 * (c23 * s5 + s23 * c4 * c5) - s23 * s4 * s6
    oz = -s6 * (c23 * s5 + s23 * c4 * c5) - s23 * s4 * c6

    z = jnp.arctan2(ay, ax)
    y = jnp.arctan2(jnp.sqrt(1 - az**2), az)
    zz = jnp.arctan2(oz, -nz)

    px = (
        _D6 * (s5 * (c1 * c23 * c4 + s1 * s4) + c1 * s23 * c5)
        + c1 * (_A1 + _A2 * c2 + _A3 * c23 + _D4 * s23)
    )  # fmt: skip
    py = (
        _D6 * (s5 * (s1 * c23 * c4 + c1 * s4) + s1 * s23 * c5)
        + s1 * (_A1 + _A2 * c2 + _A3 * c23 + _D4 * s23)
    )  # fmt: skip
    pz = _A2 * s2 + _D1 + _A3 * s23 - _D4 * c23 + _D6 * (s23 * c4 * s5 - c23 * c5)
    return px, py, pz, z, y, zz


TASK = Task(
    name="RobotArm_6DOF",
    fun=robot_arm_6dof,
    # No two angles alike, and no singular pose: |az| < 1, and neither pair (ay, ax) nor (oz, nz)
    # is zero.
    args=tuple(np.float64(x) for x in (0.3, -0.4, 0.5, 0.7, -0.6, 0.2)),
    argnums=(0, 1, 2, 3, 4, 5),
    published=Published(
        forward=397,
        reverse=301,
        markowitz=288,
        best=231,
        vertices=108,
        lower_bound=221,
        exact=True,
    ),
)
