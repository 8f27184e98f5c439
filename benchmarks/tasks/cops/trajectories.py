"""COPS: trajectories by the trapezoidal rule. Sizes are numbers of steps.

A row of the variables for each state and control, at all times, and behind them the final time or
the length of a step where that is sought.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.tasks.nonlinear import Problem


def _integrate(states: Sequence[jax.Array], slopes: Sequence[jax.Array], step: Any) -> jax.Array:
    """What is missing between steps, for each state one after the other."""
    return jnp.concatenate(
        [x[1:] - x[:-1] - step / 2 * (f[1:] + f[:-1]) for x, f in zip(states, slopes, strict=True)]
    )


def _ends(*values: Any) -> jax.Array:
    """Pairs of a state and what it is to be at its two ends, None where it is free."""
    return jnp.stack(
        [
            x[place] - value
            for x, of_both in values
            for place, value in zip((0, -1), of_both, strict=True)
            if value is not None
        ]
    )


def _start(rows: Sequence[Any], steps: int, *last: float) -> np.ndarray:
    return np.append([np.broadcast_to(row, steps + 1) for row in rows], last)


def _bounds(pairs: Sequence[tuple[float, float]], steps: int) -> tuple[np.ndarray, np.ndarray]:
    """Those of rows, then those of a last variable that is not negative."""
    lower, upper = (np.repeat(each, steps + 1) for each in zip(*pairs, strict=True))
    return np.append(lower, 0.0), np.append(upper, np.inf)


_FREE = (-np.inf, np.inf)


def chain(steps: int) -> Problem:
    """4. A chain of given length hangs between two points."""
    length, first, last = 4.0, 1.0, 3.0
    at = np.linspace(0, 1, steps + 1)
    slope = 4 * (last - first) * (at - 0.25)
    height = 4 * (last - first) * at * (at / 2 - 0.25) + first

    def constraints(x: jax.Array) -> jax.Array:
        slope, *states = x.reshape(4, -1)
        height, energy, arc = states
        stretch = jnp.sqrt(1 + slope**2)
        equations = _integrate(states, (slope, height * stretch, stretch), 1 / steps)
        ends = _ends((height, (first, last)), (energy, (0.0, None)), (arc, (0.0, length)))
        return jnp.concatenate([equations, ends])

    return Problem(
        lambda x: x.reshape(4, -1)[2, -1],
        constraints,
        _start([slope, height, height * slope, slope], steps),
    )


def robot(steps: int) -> Problem:
    """8. A robot arm takes the least time from one place to another."""
    length, turn = 5.0, 2 * np.pi / 3
    at = np.linspace(0, 1, steps + 1)

    def constraints(x: jax.Array) -> jax.Array:
        rho, theta, phi, rho_dot, theta_dot, phi_dot, *forces = x[:-1].reshape(9, -1)
        states = rho, theta, phi, rho_dot, theta_dot, phi_dot
        by_rho, by_theta, by_phi = forces
        inertia = ((length - rho) ** 3 + rho**3) / 3
        accelerations = (
            by_rho / length,
            by_theta / (inertia * jnp.sin(phi) ** 2),
            by_phi / inertia,
        )
        equations = _integrate(states, (rho_dot, theta_dot, phi_dot, *accelerations), x[-1] / steps)
        ends = _ends(
            (rho, (4.5, 4.5)),
            (theta, (0.0, turn)),
            (phi, (np.pi / 4, np.pi / 4)),
            *((speed, (0.0, 0.0)) for speed in (rho_dot, theta_dot, phi_dot)),
        )
        return jnp.concatenate([equations, ends])

    start = [4.5, turn * at**2, np.pi / 4, 0.0, 2 * turn * at, 0.0, 0.0, 0.0, 0.0]
    places = [(0.0, length), (-np.pi, np.pi), (0.0, np.pi)]
    return Problem(
        lambda x: x[-1],
        constraints,
        _start(start, steps, 1.0),
        _bounds([*places, *3 * [_FREE], *3 * [(-1.0, 1.0)]], steps),
    )


def steering(steps: int) -> Problem:
    """9. A particle under a force of constant size, turned so that the flight takes least time."""
    force = 100.0
    at = np.linspace(0, 1, steps + 1)

    def constraints(x: jax.Array) -> jax.Array:
        angle, *states = x[:-1].reshape(5, -1)
        _, _, across_dot, up_dot = states
        slopes = across_dot, up_dot, force * jnp.cos(angle), force * jnp.sin(angle)
        ends = (0.0, None), (0.0, 5.0), (0.0, 45.0), (0.0, 0.0)
        equations = _integrate(states, slopes, x[-1] / steps)
        return jnp.concatenate([equations, _ends(*zip(states, ends, strict=True))])

    return Problem(
        lambda x: x[-1],
        constraints,
        _start([0.0, 0.0, 5 * at, 45 * at, 0.0], steps, 1.0),
        _bounds([(-np.pi / 2, np.pi / 2), *4 * [_FREE]], steps),
    )


def rocket(steps: int) -> Problem:
    """10. Goddard's rocket: the thrust that takes it highest."""
    gravity, mass, dry, greatest = 1.0, 1.0, 0.6, 3.5
    at = np.linspace(0, 1, steps + 1)

    def constraints(x: jax.Array) -> jax.Array:
        height, speed, mass_left, thrust = x[:-1].reshape(4, -1)
        drag = 310.0 * speed**2 * jnp.exp(-500.0 * (height - 1))
        acceleration = (thrust - drag) / mass_left - gravity / height**2
        states = height, speed, mass_left
        equations = _integrate(states, (speed, acceleration, -2 * thrust), x[-1])
        ends = _ends((height, (1.0, None)), (speed, (0.0, None)), (mass_left, (mass, dry)))
        return jnp.concatenate([equations, ends])

    return Problem(
        lambda x: -x[:-1].reshape(4, -1)[0, -1],
        constraints,
        _start([1.0, at * (1 - at), mass + (dry - mass) * at, greatest / 2], steps, 1 / steps),
        _bounds([(1.0, np.inf), (0.0, np.inf), (dry, mass), (0.0, greatest)], steps),
    )


def glider(steps: int) -> Problem:
    """11. A hang glider in an updraft: how far it gets."""
    mass, gravity, area, density = 100.0, 9.81, 14.0, 1.13
    forward, down = 13.23, -1.288
    at = np.linspace(0, 1, steps + 1)

    def constraints(x: jax.Array) -> jax.Array:
        *states, lift_by = x[:-1].reshape(5, -1)
        across, _, across_dot, up_dot = states
        place = (across / 100 - 2.5) ** 2
        against = up_dot - 2.5 * (1 - place) * jnp.exp(-place)
        speed = jnp.sqrt(across_dot**2 + against**2)
        pressure = density * area * speed**2 / 2
        drag, lift = (0.034 + 0.069662 * lift_by**2) * pressure, lift_by * pressure
        sine, cosine = against / speed, across_dot / speed
        slopes = (
            across_dot,
            up_dot,
            (-lift * sine - drag * cosine) / mass,
            (lift * cosine - drag * sine) / mass - gravity,
        )
        equations = _integrate(states, slopes, x[-1] / steps)
        ends = (0.0, None), (1000.0, 900.0), (forward, forward), (down, down)
        return jnp.concatenate([equations, _ends(*zip(states, ends, strict=True))])

    return Problem(
        lambda x: -x[:-1].reshape(5, -1)[0, -1],
        constraints,
        _start([forward * at, 1000 - 100 * at, forward, down, 0.7], steps, 1.0),
        _bounds([(0.0, np.inf), _FREE, (0.0, np.inf), _FREE, (0.0, 1.4)], steps),
    )
