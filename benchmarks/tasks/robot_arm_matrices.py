"""The six-jointed robot arm as products of transforms, the way a robotics library writes it."""

import jax
import jax.numpy as jnp

from benchmarks.tasks.robot_arm import _A1, _A2, _A3, _D1, _D4, _D6
from benchmarks.tasks.robot_arm import TASK as SCALAR_TASK
from benchmarks.tasks.task import Task

# Denavit-Hartenberg parameters of the links: offset along the joint's axis, length, and cosine and
# sine of the twist. The twists are multiples of a quarter turn, whose cosines rounding would spoil.
_BASE = (_D1, _A1, 0.0, 1.0)
_UPPER_ARM = (0.0, _A2, 1.0, 0.0)
_ELBOW = (0.0, _A3, 0.0, 1.0)
_FOREARM = (_D4, 0.0, 0.0, -1.0)
_WRIST = (0.0, 0.0, 0.0, 1.0)
_FLANGE = (_D6, 0.0, 1.0, 0.0)


def _rotation(angle: jax.Array, twist: tuple[float, float]) -> jax.Array:
    """The 3 x 3 rotation from the frame of a link to that of the link before."""
    c, s = jnp.cos(angle), jnp.sin(angle)
    ca, sa = twist
    return jnp.array([[c, -s * ca, s * sa], [s, c * ca, -c * sa], [0.0, sa, ca]])


def _transform(angle: jax.Array, link: tuple[float, float, float, float]) -> jax.Array:
    """The 4 x 4 homogeneous transform from the frame of a link to that of the link before."""
    offset, length, *twist = link
    place = jnp.array([length * jnp.cos(angle), length * jnp.sin(angle), offset])
    upper = jnp.column_stack([_rotation(angle, (twist[0], twist[1])), place])
    return jnp.vstack([upper, jnp.array([0.0, 0.0, 0.0, 1.0])])


def robot_arm_matrices(
    t1: jax.Array, t2: jax.Array, t3: jax.Array, t4: jax.Array, t5: jax.Array, t6: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array, jax.Array, jax.Array]:
    """Computes where the tool of the arm is and how it is turned.

    The axes of the last three joints meet in one point, so the first four transforms give the
    place of the wrist, and rotations alone the rest.

    In the published scalar form of this problem, one term of the second output, 185 s5 c1 s4, has
    the other sign; all other outputs are equal.

    Args:
      t1, t2, t3, t4, t5, t6: Angles of the joints, in radians, from the base to the tool.

    Returns:
      The position (x, y, z) in millimetres and the three Euler angles in radians.
    """
    wrist = (
        _transform(t1, _BASE)
        @ _transform(t2, _UPPER_ARM)
        @ _transform(t3, _ELBOW)
        @ _transform(t4, _FOREARM)
    )
    tool = wrist[:3, :3] @ _rotation(t5, _WRIST[2:]) @ _rotation(t6, _FLANGE[2:])
    approach = tool[:, 2]
    px, py, pz = wrist[:3, 3] + _D6 * approach

    ax, ay, az = approach
    nz, oz = tool[2, 0], tool[2, 1]
    z = jnp.arctan2(ay, ax)
    y = jnp.arctan2(jnp.sqrt(1 - az**2), az)
    zz = jnp.arctan2(oz, -nz)
    return px, py, pz, z, y, zz


TASK = Task(
    name="RobotArm_6DOF_matrices",
    fun=robot_arm_matrices,
    args=SCALAR_TASK.args,
    argnums=SCALAR_TASK.argnums,
)
