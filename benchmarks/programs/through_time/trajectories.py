"""Trajectories: how states follow from parameters, initial states and controls."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from benchmarks.programs.dynamics import rk4
from benchmarks.programs.program import Program
from benchmarks.programs.through_time.case import Around, Case, as_is

_G = 9.81


def _lotka_volterra(steps: int, around: Around = as_is) -> Program:
    def fun(p: jax.Array) -> jax.Array:
        def field(y: jax.Array) -> jax.Array:
            both = y[0] * y[1]
            return jnp.stack([p[0] * y[0] - p[1] * both, p[3] * both - p[2] * y[1]])

        return lax.fori_loop(0, steps, around(lambda _, y: rk4(field, y, dt=0.01)), p[4:])

    return Program(
        f"Lotka-Volterra, {steps} steps",
        "Sensitivities of a Runge-Kutta integrator in lax.fori_loop by rates and initial values",
        lambda _: (fun, np.array([1.1, 0.4, 0.4, 0.1, 1.0, 0.5])),
    )


def _hover(steps: int) -> Program:
    def fun(x: jax.Array) -> jax.Array:
        thrust, torque = 9.8, jnp.array([0.01, 0.02, 0.03])
        inertia = jnp.array([1.0, 2.0, 3.0])

        def field(x: jax.Array) -> jax.Array:
            velocity, w, axis, rate = x[3:6], x[6], x[7:10], x[10:]
            up = jnp.array([0.0, 0.0, 1.0])
            across = jnp.cross(axis, up)
            pull = thrust * (up + 2 * (jnp.cross(axis, across) + w * across)) - _G * up
            turn = (
                jnp.concatenate([-jnp.dot(axis, rate)[None], w * rate + jnp.cross(axis, rate)]) / 2
            )
            spin = (torque - jnp.cross(rate, inertia * rate)) / inertia
            return jnp.concatenate([velocity, pull, turn, spin])

        return lax.fori_loop(0, steps, lambda _, x: rk4(field, x, dt=0.01), x)

    return Program(
        f"quadrotor by initial state, {steps} steps",
        "The state transition matrix of a drone simulator",
        lambda _: (fun, np.array([0.0] * 6 + [1.0] + [0.0] * 3 + [0.1] * 3)),
    )


def _quadrotor_field(
    x: jax.Array, thrusts: jax.Array, mass: Any, inertia: jax.Array, drag: jax.Array
) -> jax.Array:
    """The derivative of position, quaternion, velocity and rates by the thrusts of four rotors."""
    q, velocity, rate = x[3:7], x[7:10], x[10:]
    w, axis = q[0], q[1:]
    up = jnp.array([0.0, 0.0, 1.0])
    arm = 0.17
    torque = jnp.stack(
        [
            arm * (thrusts[1] - thrusts[3]),
            arm * (thrusts[2] - thrusts[0]),
            drag[1] * (thrusts[0] - thrusts[1] + thrusts[2] - thrusts[3]),
        ]
    )
    across = jnp.cross(axis, up)
    lift = jnp.sum(thrusts) / mass * (up + 2 * (jnp.cross(axis, across) + w * across))
    turn = jnp.concatenate([-jnp.dot(axis, rate)[None], w * rate + jnp.cross(axis, rate)]) / 2
    spin = (torque - jnp.cross(rate, inertia * rate)) / inertia
    return jnp.concatenate([velocity, turn, lift - _G * up - drag[0] * velocity / mass, spin])


_AT_REST = np.array([0.1, -0.4, 1.2, 0.96, 0.12, -0.16, 0.2, 0.3, -0.2, 0.1, 0.2, -0.1, 0.3])
_INERTIA = np.array([0.0033, 0.0034, 0.0061])


def _thrusts(steps: int) -> np.ndarray:
    return 1.1 + 0.05 * np.sin(np.arange(4 * steps).reshape(steps, 4))


def _quadrotor_by_parameters(steps: int, around: Around = as_is) -> Program:
    """The last state by mass, moments of inertia and two drag coefficients."""

    def fun(p: jax.Array, start: jax.Array, controls: jax.Array) -> jax.Array:
        def step(x: jax.Array, thrusts: jax.Array) -> tuple[jax.Array, None]:
            return rk4(_quadrotor_field, x, thrusts, p[0], p[1:4], p[4:], dt=0.005), None

        return lax.scan(around(step), start, controls)[0]

    parameters = np.concatenate([[0.45], _INERTIA, [0.1, 0.016]])
    return Program(
        f"quadrotor by parameters, {steps} steps",
        "System identification of a drone from a flight, by lax.scan over controls",
        lambda _: (fun, parameters, _AT_REST, _thrusts(steps)),
    )


def _quadrotor_by_controls(steps: int) -> Program:
    """All states by all controls: block lower triangular."""

    def fun(controls: jax.Array, start: jax.Array) -> jax.Array:
        inertia, drag = jnp.asarray(_INERTIA), jnp.array([0.1, 0.016])

        def step(x: jax.Array, thrusts: jax.Array) -> tuple[jax.Array, jax.Array]:
            x = rk4(_quadrotor_field, x, thrusts, 0.45, inertia, drag, dt=0.005)
            return x, x

        return lax.scan(step, start, controls)[1]

    return Program(
        f"quadrotor states by controls, {steps} steps",
        "Single shooting: the constraints on all states by the controls of all steps",
        lambda _: (fun, _thrusts(steps), _AT_REST),
    )


def _cart_pole(steps: int) -> Program:
    def cost(forces: jax.Array) -> jax.Array:
        def step(x: jax.Array, force: jax.Array) -> tuple[jax.Array, jax.Array]:
            _, angle, speed, turn = x
            sine, cosine = jnp.sin(angle), jnp.cos(angle)
            pull = (force + 0.1 * turn**2 * sine - 0.98 * sine * cosine) / (1.1 - 0.1 * cosine**2)
            x = x + 0.02 * jnp.stack([speed, turn, pull, 9.8 * sine - pull * cosine])
            return x, jnp.sum(x**2) + 0.01 * force**2

        end, costs = lax.scan(step, jnp.array([0.0, 0.1, 0.0, 0.0]), forces)
        return jnp.sum(costs) + 10 * jnp.sum(end**2)

    return Program(
        f"cart-pole cost, {steps} forces",
        "Direct shooting: what a trajectory costs, by the force at each step",
        lambda _: (cost, 0.3 * np.sin(np.arange(float(steps)))),
    )


def _epidemic(steps: int) -> Program:
    """Susceptible, infected and recovered at every step."""

    def fun(x: dict[str, jax.Array]) -> jax.Array:
        contact, recovery, waning = x["rates"]

        def step(y: jax.Array, _: None) -> tuple[jax.Array, jax.Array]:
            s, i, r = y
            infected, recovered, lost = contact * s * i, recovery * i, waning * r
            y = y + 0.2 * jnp.array([lost - infected, infected - recovered, recovered - lost])
            return y, y

        return lax.scan(step, x["start"], None, length=steps)[1]

    return Program(
        f"SIR epidemic, {steps} steps",
        "Fitting an epidemic to case counts: the whole curve by rates and initial shares",
        lambda _: (
            fun,
            {"rates": np.array([0.6, 0.2, 0.01]), "start": np.array([0.98, 0.015, 0.005])},
        ),
    )


def _bouncing_ball(steps: int) -> Program:
    def fun(p: dict[str, jax.Array]) -> jax.Array:
        def step(x: Any, _: None) -> tuple[Any, jax.Array]:
            height, speed = x
            height, speed = height + 0.02 * speed, speed - 0.02 * p["gravity"]
            x = lax.cond(
                height < 0,
                lambda height, speed: (-p["bounce"] * height, -p["bounce"] * speed),
                lambda height, speed: (height, speed),
                height,
                speed,
            )
            return x, jnp.stack(x)

        return lax.scan(step, (p["height"], p["speed"]), None, length=steps)[1]

    return Program(
        f"bouncing ball, {steps} steps",
        "Contact in a differentiable simulator: lax.cond in lax.scan",
        lambda _: (
            fun,
            {key: np.array(v) for key, v in zip(_BALL, (1.0, 0.5, 0.8, _G), strict=True)},
        ),
    )


_BALL = ("height", "speed", "bounce", "gravity")


def _adaptive(until: int) -> Program:
    """The van der Pol oscillator by Heun's method, with steps that its error against Euler sets."""

    def fun(p: jax.Array) -> jax.Array:
        def field(y: jax.Array) -> jax.Array:
            return jnp.array([y[1], p[0] * (1 - y[0] ** 2) * y[1] - y[0]])

        def step(state: Any) -> Any:
            t, dt, y = state
            dt = jnp.minimum(dt, until - t)
            k1 = field(y)
            k2 = field(y + dt * k1)
            error = jnp.max(jnp.abs(dt / 2 * (k2 - k1))) / 1e-3
            is_good = error <= 1
            after = jnp.where(is_good, y + dt / 2 * (k1 + k2), y)
            t = jnp.where(is_good, t + dt, t)
            return t, dt * jnp.clip(0.9 / jnp.sqrt(error + 1e-10), 0.2, 5.0), after

        # The last step ends at `until` up to rounding.
        start = (jnp.zeros_like(p[0]), 0.01 + 0 * p[0], p[1:])
        return lax.while_loop(lambda state: state[0] < until - 1e-9, step, start)[2]

    return Program(
        f"van der Pol by adaptive steps, {until} units of time",
        "An adaptive integrator in lax.while_loop, which reverse mode cannot take",
        lambda _: (fun, np.array([1.5, 2.0, 0.1])),
    )


def _network(draw: np.random.Generator) -> dict[str, np.ndarray]:
    return {
        "w1": draw.normal(size=(2, 16)) / np.sqrt(2),
        "b1": 0.1 * draw.normal(size=16),
        "w2": draw.normal(size=(16, 2)) / 4,
        "b2": 0.1 * draw.normal(size=2),
    }


def _flow(steps: int, weights: dict[str, jax.Array], start: jax.Array) -> jax.Array:
    def field(y: jax.Array) -> jax.Array:
        return jnp.tanh(y @ weights["w1"] + weights["b1"]) @ weights["w2"] + weights["b2"]

    def step(y: jax.Array, _: None) -> tuple[jax.Array, None]:
        return rk4(field, y, dt=1 / steps), None

    return lax.scan(step, start, None, length=steps)[0]


def _neural_ode(steps: int) -> Program:
    fun: Callable[..., Any] = functools.partial(_flow, steps)
    return Program(
        f"neural ODE by weights, {steps} steps",
        "The last state of a Runge-Kutta integrator by all 82 weights, for Gauss-Newton",
        lambda draw: (fun, _network(draw), np.array([1.0, -0.5])),
    )


def _neural_ode_loss(steps: int) -> Program:
    def loss(weights: Any, start: jax.Array, target: jax.Array) -> jax.Array:
        return jnp.sum((_flow(steps, weights, start) - target) ** 2)

    return Program(
        f"neural ODE loss by weights, {steps} steps",
        "Training by discretise-then-optimise: one output, all 82 weights",
        lambda draw: (loss, _network(draw), np.array([1.0, -0.5]), np.array([0.2, 0.4])),
    )


LOTKA_VOLTERRA = Case(_lotka_volterra, 1000)
QUADROTOR = Case(_quadrotor_by_parameters, 200)
EPIDEMIC = Case(_epidemic, 300)
CASES = (
    LOTKA_VOLTERRA,
    Case(_hover, 200),
    QUADROTOR,
    Case(_quadrotor_by_controls, 200),
    Case(_quadrotor_by_controls, 200, "bcoo"),
    Case(_cart_pole, 150),
    EPIDEMIC,
    Case(_bouncing_ball, 200),
    Case(_adaptive, 5),
    Case(_neural_ode, 50),
    Case(_neural_ode_loss, 50),
)
