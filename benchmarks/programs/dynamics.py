"""Equations of motion and kinematics: vehicles, arms, spacecraft and bodies."""

from __future__ import annotations

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.programs.program import Family, Program, one_of

_G = 9.81


def rk4(field: Any, x: Any, *arguments: Any, dt: float) -> Any:
    """One step of the classical Runge-Kutta method."""
    k1 = field(x, *arguments)
    k2 = field(x + 0.5 * dt * k1, *arguments)
    k3 = field(x + 0.5 * dt * k2, *arguments)
    k4 = field(x + dt * k3, *arguments)
    return x + dt / 6 * (k1 + 2 * k2 + 2 * k3 + k4)


def _lorenz_96(n: int) -> Program:
    def field(x: jax.Array) -> jax.Array:
        return (jnp.roll(x, -1) - jnp.roll(x, 2)) * jnp.roll(x, 1) - x + 8.0

    return Program(
        f"Lorenz 96 step, {n} unknowns",
        "The tangent linear model of data assimilation, by jnp.roll and RK4 with step 0.05",
        lambda draw: (functools.partial(rk4, field, dt=0.05), 2.3 + 3.6 * draw.normal(size=n)),
    )


def _rotated(q: jax.Array, v: jax.Array) -> jax.Array:
    """The vector in world axes, for a quaternion (w, x, y, z)."""
    t = 2 * jnp.cross(q[1:], v)
    return v + q[0] * t + jnp.cross(q[1:], t)


def _multiplied(p: jax.Array, q: jax.Array) -> jax.Array:
    w1, x1, y1, z1 = p
    w2, x2, y2, z2 = q
    return jnp.array(
        [
            w1 * w2 - x1 * x2 - y1 * y2 - z1 * z2,
            w1 * x2 + x1 * w2 + y1 * z2 - z1 * y2,
            w1 * y2 - x1 * z2 + y1 * w2 + z1 * x2,
            w1 * z2 + x1 * y2 - y1 * x2 + z1 * w2,
        ]
    )


def _spin(q: jax.Array, rate: jax.Array) -> jax.Array:
    """The derivative of a quaternion by body rates."""
    return 0.5 * _multiplied(q, jnp.concatenate([jnp.zeros(1), rate]))


def _euler(rate: jax.Array, torque: jax.Array, inertia: jax.Array) -> jax.Array:
    """Euler's equations of a rigid body with principal moments of inertia."""
    return (torque - jnp.cross(rate, inertia * rate)) / inertia


_TURNED = np.array([0.96, 0.12, -0.16, 0.2])


def _quadrotor(x: dict[str, jax.Array]) -> jax.Array:
    """The derivative of position, attitude, velocity and rates by the thrusts of four rotors."""
    state, thrusts = x["state"], x["control"]
    q, v, rate = state[3:7], state[7:10], state[10:13]
    arm, drag, mass = 0.17, 0.016, 0.45
    torque = jnp.array(
        [
            arm * (thrusts[1] - thrusts[3]),
            arm * (thrusts[2] - thrusts[0]),
            drag * (thrusts[0] - thrusts[1] + thrusts[2] - thrusts[3]),
        ]
    )
    lift = _rotated(q, jnp.array([0.0, 0.0, 1.0]) * jnp.sum(thrusts) / mass)
    gravity = jnp.array([0.0, 0.0, -_G])
    turn = _euler(rate, torque, jnp.array([0.0033, 0.0034, 0.0061]))
    return jnp.concatenate([v, _spin(q, rate), lift + gravity - 0.1 * v, turn])


_QUADROTOR = Program(
    "quadrotor, 13 states and 4 rotors",
    "Linearising quaternion dynamics for LQR or MPC, in drone simulators and course notebooks",
    lambda draw: (
        _quadrotor,
        {
            "state": np.concatenate([[0.1, -0.4, 1.2], _TURNED, 0.5 * draw.normal(size=6)]),
            "control": np.array([1.1, 1.15, 1.08, 1.2]),
        },
    ),
)


def _cart_pole_field(x: jax.Array, u: jax.Array) -> jax.Array:
    _, angle, speed, rate = x
    cart, pole, length = 1.0, 0.1, 0.5
    sin, cos = jnp.sin(angle), jnp.cos(angle)
    push = (u[0] + pole * length * rate**2 * sin) / (cart + pole)
    turn = (_G * sin - cos * push) / (length * (4 / 3 - pole * cos**2 / (cart + pole)))
    return jnp.array([speed, rate, push - pole * length * turn * cos / (cart + pole), turn])


_CART_POLE = Program(
    "cart-pole RK4 step",
    "Barto, Sutton and Anderson's cart-pole, discretised for iLQR: A and B of one step",
    lambda _: (
        lambda x: rk4(_cart_pole_field, x[0], x[1], dt=0.02),
        (np.array([0.1, 0.3, -0.2, 0.4]), np.array([1.5])),
    ),
)


def _double_pendulum(x: jax.Array) -> jax.Array:
    """Two point masses of 1 kg on rods of 1 m, in closed form."""
    a, b, va, vb = x
    d = a - b
    scale = 3 - jnp.cos(2 * d)
    turn_a = -3 * _G * jnp.sin(a) - _G * jnp.sin(a - 2 * b)
    turn_a -= 2 * jnp.sin(d) * (vb**2 + va**2 * jnp.cos(d))
    turn_b = 2 * jnp.sin(d) * (2 * va**2 + 2 * _G * jnp.cos(a) + vb**2 * jnp.cos(d))
    return jnp.stack([va, vb, turn_a / scale, turn_b / scale])


_SWINGING = np.array([1.1, 0.6, -0.8, 0.5])
_PENDULUM = Program(
    "double pendulum RK4 step",
    "The closed form of physics courses, in variational equations and Lyapunov exponents",
    lambda _: (functools.partial(rk4, _double_pendulum, dt=0.01), _SWINGING),
)


def _lagrangian(q: jax.Array, v: jax.Array) -> jax.Array:
    """Kinetic minus potential energy of a chain of pendulums of 1 kg and 1 m."""
    vx = jnp.cumsum(jnp.cos(q) * v)
    vy = jnp.cumsum(jnp.sin(q) * v)
    return jnp.sum(vx**2 + vy**2) / 2 + _G * jnp.sum(jnp.cumsum(jnp.cos(q)))


def _euler_lagrange(n: int) -> Program:
    def field(x: jax.Array) -> jax.Array:
        q, v = jnp.split(x, 2)
        mass = jax.hessian(_lagrangian, 1)(q, v)
        coriolis = jax.jacfwd(jax.grad(_lagrangian, 1), 0)(q, v) @ v
        force = jax.grad(_lagrangian, 0)(q, v) - coriolis
        return jnp.concatenate([v, jnp.linalg.solve(mass, force)])

    return Program(
        f"pendulum of {n} links from its Lagrangian",
        "The Euler-Lagrange equation by jax.hessian and a solve, as in Lagrangian neural networks",
        lambda draw: (field, draw.uniform(0.2, 0.9, size=2 * n)),
    )


def _lagrangian_mass(n: int) -> Program:
    return Program(
        f"mass matrix of a pendulum of {n} links",
        "jax.hessian of the Lagrangian by velocities (Lagrangian neural networks)",
        lambda draw: (
            lambda v, q: _lagrangian(q, v),
            draw.uniform(0.2, 0.9, size=n),
            draw.uniform(0.1, 1.2, size=n),
        ),
        derivative="hessian",
    )


def _planar_tip(angles: jax.Array, lengths: Any) -> jax.Array:
    total = jnp.cumsum(angles)
    return jnp.array([jnp.sum(lengths * jnp.cos(total)), jnp.sum(lengths * jnp.sin(total))])


def _planar_arm(n: int) -> Program:
    return Program(
        f"planar arm, {n} joints",
        "Forward kinematics in robotics courses; the Jacobian is that of resolved-rate control",
        lambda draw: (_planar_tip, draw.uniform(0.1, 0.6, size=n), draw.uniform(0.5, 1.0, size=n)),
    )


def _inverse_kinematics(n: int) -> Program:
    def cost(angles: jax.Array, target: jax.Array) -> jax.Array:
        tip = _planar_tip(angles, jnp.ones(n) / n)
        return jnp.sum((tip - target) ** 2) + 1e-2 * jnp.sum(angles**2)

    return Program(
        f"inverse kinematics cost, {n} joints",
        "Reaching by Newton's method on a regularised distance",
        lambda draw: (cost, draw.uniform(0.1, 0.5, size=n), np.array([0.4, 0.5])),
        derivative="hessian",
    )


# Twist, length and offset of each joint (Universal Robots' sheet of the UR5).
_UR5 = (
    (math.pi / 2, 0.0, 0.089159),
    (0.0, -0.425, 0.0),
    (0.0, -0.39225, 0.0),
    (math.pi / 2, 0.0, 0.10915),
    (-math.pi / 2, 0.0, 0.09465),
    (0.0, 0.0, 0.0823),
)


def _link(angle: Any, twist: Any, length: Any, offset: Any) -> jax.Array:
    """The homogeneous matrix of one joint by Denavit and Hartenberg."""
    c, s = jnp.cos(angle), jnp.sin(angle)
    ca, sa = jnp.cos(twist), jnp.sin(twist)
    return jnp.array(
        [
            [c, -s * ca, s * sa, length * c],
            [s, c * ca, -c * sa, length * s],
            [0.0, sa, ca, offset],
            [0.0, 0.0, 0.0, 1.0],
        ]
    )


def _ur5_pose(angles: jax.Array) -> jax.Array:
    pose = jnp.eye(4)
    for angle, row in zip(angles, _UR5, strict=True):
        pose = pose @ _link(angle, *row)
    return pose


_ANGLES = np.array([0.3, -1.1, 1.4, -0.6, 0.8, 0.2])
_UR5_TIP = Program(
    "UR5 tip by Denavit-Hartenberg matrices",
    "Products of 4 x 4 matrices in a Python loop, from robotics textbooks (Craig; Spong)",
    lambda _: (lambda angles: _ur5_pose(angles)[:3, 3], _ANGLES),
)


def _turned(angle: jax.Array) -> jax.Array:
    """The rotation about the third axis."""
    c, s = jnp.cos(angle), jnp.sin(angle)
    return jnp.array([[c, -s, 0.0], [s, c, 0.0], [0.0, 0.0, 1.0]])


def arm(joints: int) -> dict[str, np.ndarray]:
    """An arm of revolute joints: orientation and place of each, and what hangs on it.

    Args:
      joints: How many.
    """
    draw = np.random.default_rng(7)
    frames, _ = np.linalg.qr(draw.normal(size=(joints, 3, 3)))
    frames *= np.linalg.det(frames)[:, None, None]
    shapes = draw.normal(size=(joints, 3, 3)) / 10
    return {
        "frames": frames,
        "places": draw.uniform(-0.3, 0.3, (joints, 3)),
        "masses": draw.uniform(0.5, 3.0, joints),
        "centers": draw.uniform(-0.1, 0.1, (joints, 3)),
        "inertias": shapes @ shapes.transpose(0, 2, 1) + 0.01 * np.eye(3),
    }


def _torques(x: dict[str, jax.Array], body: dict[str, np.ndarray]) -> jax.Array:
    """The torques of a motion: outwards the accelerations, inwards the forces."""
    axis = jnp.array([0.0, 0.0, 1.0])
    rate, change, pull = jnp.zeros(3), jnp.zeros(3), _G * axis
    turns, forces, moments = [], [], []
    for k in range(len(body["masses"])):
        turn = body["frames"][k] @ _turned(x["q"][k])
        place, center = body["places"][k], body["centers"][k]
        pull = turn.T @ (jnp.cross(change, place) + jnp.cross(rate, jnp.cross(rate, place)) + pull)
        before = turn.T @ rate
        change = turn.T @ change + x["v"][k] * jnp.cross(before, axis) + x["a"][k] * axis
        rate = before + x["v"][k] * axis
        own = jnp.cross(change, center) + jnp.cross(rate, jnp.cross(rate, center)) + pull
        inertia = body["inertias"][k]
        turns.append(turn)
        forces.append(body["masses"][k] * own)
        moments.append(inertia @ change + jnp.cross(rate, inertia @ rate))
    force, moment, torques = jnp.zeros(3), jnp.zeros(3), []
    turn, place = jnp.eye(3), jnp.zeros(3)
    for k in reversed(range(len(turns))):
        carried = turn @ force
        moment = moments[k] + turn @ moment + jnp.cross(body["centers"][k], forces[k])
        moment = moment + jnp.cross(place, carried)
        force = forces[k] + carried
        torques.append(moment[2])
        turn, place = turns[k], body["places"][k]
    return jnp.stack(torques[::-1])


def inverse_dynamics(joints: int) -> Program:
    """The torques by positions, velocities and accelerations.

    Args:
      joints: How many.
    """
    return Program(
        f"inverse dynamics, {joints} joints",
        "Recursive Newton-Euler by a Python loop over 3-vectors (Luh, Walker & Paul 1980; Craig)",
        lambda draw: (
            functools.partial(_torques, body=arm(joints)),
            {name: draw.normal(size=joints) for name in ("q", "v", "a")},
        ),
    )


def _quaternion_chain(n: int) -> Program:
    def fun(q: jax.Array) -> jax.Array:
        q = q / jnp.linalg.norm(q, axis=1, keepdims=True)
        total = q[0]
        for k in range(1, n):
            total = _multiplied(total, q[k])
        return _rotated(total, jnp.array([0.0, 0.0, 1.0]))

    return Program(
        f"chain of {n} quaternions",
        "Orientation along a kinematic tree (motion capture, skeletal animation)",
        lambda draw: (fun, draw.normal(size=(n, 4))),
    )


def _satellite_field(x: jax.Array) -> jax.Array:
    """Attitude under detumbling torque, with the inertia of a small satellite."""
    q, rate = x[:4], x[4:]
    inertia = jnp.array([0.05, 0.06, 0.07])
    return jnp.concatenate([_spin(q, rate), _euler(rate, -0.02 * rate - 0.01 * q[1:], inertia)])


def _satellite_step(x: jax.Array) -> jax.Array:
    x = rk4(_satellite_field, x, dt=0.1)
    return x.at[:4].set(x[:4] / jnp.linalg.norm(x[:4]))


_SATELLITE = Program(
    "satellite attitude step, 7 states",
    "Quaternion and Euler's equations with RK4 and a normalisation, for attitude filters",
    lambda _: (_satellite_step, np.concatenate([_TURNED, [0.2, -0.3, 0.25]])),
)


def _bicycle(x: jax.Array, u: jax.Array) -> jax.Array:
    """Position, heading, speed and steering, by acceleration and steering rate."""
    px, py, heading, speed, steering = x
    dt, base = 0.1, 2.7
    return jnp.stack(
        [
            px + dt * speed * jnp.cos(heading),
            py + dt * speed * jnp.sin(heading),
            heading + dt * speed / base * jnp.tan(steering),
            speed + dt * u[0],
            steering + dt * u[1],
        ]
    )


_DRIVING = np.array([1.0, 2.0, 0.2, 8.0, 0.05])
_BICYCLE = Program(
    "kinematic bicycle step",
    "The single-track model of motion planning: A of one Euler step",
    lambda _: (_bicycle, _DRIVING, np.array([0.5, -0.1])),
)


def _gravity(x: jax.Array, masses: jax.Array) -> jax.Array:
    """The derivative of positions and velocities [2, bodies, 3]."""
    position, velocity = x
    apart = position[None, :] - position[:, None]
    cubes = (jnp.sum(apart**2, axis=-1) + 1e-3) ** 1.5
    return jnp.stack([velocity, jnp.sum(masses[:, None] * apart / cubes[..., None], axis=1)])


def _bodies(n: int) -> Program:
    return Program(
        f"gravity of {n} bodies",
        "The broadcast softened form of n-body tutorials, for a state transition matrix",
        lambda draw: (_gravity, draw.normal(size=(2, n, 3)), draw.uniform(0.5, 2, size=n)),
    )


def _contact(n: int) -> Program:
    def step(x: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        position, velocity = x
        depth = jnp.maximum(0.05 - position[:, 2], 0.0)
        normal = 1e3 * depth - 5.0 * velocity[:, 2] * (depth > 0)
        friction = -0.5 * normal[:, None] * jnp.tanh(velocity[:, :2] / 0.1)
        force = jnp.concatenate([friction, normal[:, None]], axis=1)
        velocity = velocity + 1e-3 * (force - jnp.array([0.0, 0.0, _G]))
        return position + 1e-3 * velocity, velocity

    return Program(
        f"contact springs of {n} points",
        "Penalty contact with regularised friction, one step of differentiable physics",
        lambda draw: (step, (draw.uniform(0.02, 0.08, size=(n, 3)), draw.normal(size=(n, 3)))),
    )


def _springs(n: int) -> Program:
    def force(position: jax.Array) -> jax.Array:
        along = jnp.diff(position, axis=0)
        length = jnp.linalg.norm(along, axis=1, keepdims=True)
        pull = 50.0 * (length - 0.1) * along / length
        total = jnp.zeros_like(position).at[:-1].add(pull).at[1:].add(-pull)
        return total.at[:, 1].add(-_G)

    return Program(
        f"mass-spring chain, {n} nodes",
        "Ropes and cloth in differentiable simulation: the stiffness matrix of implicit Euler",
        lambda draw: (force, np.stack([np.arange(n) / 8, 0.05 * draw.normal(size=n)], axis=1)),
    )


def _draw(draw: np.random.Generator) -> Program:
    def size(low: int, high: int) -> int:
        return int(draw.integers(low, high + 1))

    # A program of a size, and the largest batch that is usual for it.
    programs = (
        lambda: (_lorenz_96(size(8, 80)), 64),
        lambda: (_QUADROTOR, 1024),
        lambda: (_CART_POLE, 2048),
        lambda: (_euler_lagrange(size(2, 5)), 128),
        lambda: (_lagrangian_mass(size(2, 8)), 512),
        lambda: (_planar_arm(size(2, 12)), 4096),
        lambda: (_inverse_kinematics(size(3, 12)), 512),
        lambda: (_quaternion_chain(size(3, 12)), 256),
        lambda: (_bodies(size(2, 8)), 128),
        lambda: (_contact(size(2, 16)), 64),
        lambda: (_springs(size(4, 24)), 64),
    )
    return one_of(programs, draw)


FAMILY = Family(
    "dynamics",
    (
        _lorenz_96(40),
        _lorenz_96(40).settings(batch=32, dtype="float32"),
        _QUADROTOR,
        _QUADROTOR.settings(batch=256, dtype="float32"),
        _CART_POLE,
        _CART_POLE.settings(batch=1024),
        _PENDULUM,
        _euler_lagrange(2).settings(batch=128),
        _lagrangian_mass(4),
        _lagrangian_mass(2).settings(batch=1024, dtype="float32"),
        _planar_arm(7),
        _planar_arm(3).settings(batch=4096),
        _inverse_kinematics(6),
        _inverse_kinematics(4).settings(batch=256),
        _UR5_TIP,
        _UR5_TIP.settings(batch=512, dtype="float32"),
        inverse_dynamics(7),
        inverse_dynamics(7).settings(batch=256),
        _quaternion_chain(8),
        _quaternion_chain(5).settings(batch=256),
        _SATELLITE,
        _BICYCLE.settings(batch=2048),
        _bodies(3),
        _contact(8).settings(dtype="float32"),
        _springs(16),
    ),
    _draw,
)
