"""Sensitivities through long loops, for one point and for many: `python -m benchmarks.loops`.

Lotka-Volterra (1000 Runge-Kutta steps, by rates and initial values), a quadrotor (200 Runge-Kutta
steps of 13 states, by the initial state), the likelihood of a Kalman filter (500 steps, by six
parameters) and what a cart-pole costs (150 steps, by the force at each), in float64 on one core,
against the better of jit(jacfwd) and jit(jacrev).
"""

from __future__ import annotations

import argparse
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

import jax_cce
from benchmarks import report, suite, timing
from benchmarks.programs.dynamics import rk4

_POINTS = (1, 64, 1024)


def _stepped(field: Callable[[jax.Array], jax.Array], x: jax.Array, steps: int) -> jax.Array:
    return lax.fori_loop(0, steps, lambda _, x: rk4(field, x, dt=0.01), x)


def _populations(p: jax.Array) -> jax.Array:
    def field(y: jax.Array) -> jax.Array:
        both = y[0] * y[1]
        return jnp.stack([p[0] * y[0] - p[1] * both, p[3] * both - p[2] * y[1]])

    return _stepped(field, p[4:], 1000)


def _quadrotor(x: jax.Array) -> jax.Array:
    thrust, torque = 9.8, jnp.array([0.01, 0.02, 0.03])
    inertia = jnp.array([1.0, 2.0, 3.0])

    def field(x: jax.Array) -> jax.Array:
        velocity, w, axis, rate = x[3:6], x[6], x[7:10], x[10:]
        up = jnp.array([0.0, 0.0, 1.0])
        across = jnp.cross(axis, up)
        pull = thrust * (up + 2 * (jnp.cross(axis, across) + w * across)) - 9.81 * up
        turn = jnp.concatenate([-jnp.dot(axis, rate)[None], w * rate + jnp.cross(axis, rate)]) / 2
        spin = (torque - jnp.cross(rate, inertia * rate)) / inertia
        return jnp.concatenate([velocity, pull, turn, spin])

    return _stepped(field, x, 200)


_READINGS = np.cumsum(np.random.default_rng(0).normal(size=500))


def _likelihood(p: jax.Array) -> jax.Array:
    move = jnp.array([[1.0, 0.0], [0.0, 1.0]]).at[0, 1].set(p[3])
    noise = jnp.diag(p[:2] ** 2)

    def step(state: Any, reading: jax.Array) -> tuple[Any, jax.Array]:
        mean, cov = state
        mean, cov = move @ mean, move @ cov @ move.T + noise
        spread, error = cov[0, 0] + p[2] ** 2, reading - mean[0] - p[4]
        gain = cov[:, 0] / spread
        state = mean + gain * error, cov - jnp.outer(gain, cov[0])
        return state, jnp.log(spread) + error * error / spread

    start = jnp.zeros(2) + p[5], jnp.eye(2)
    return -0.5 * jnp.sum(lax.scan(step, start, jnp.asarray(_READINGS))[1])


def _cost(forces: jax.Array) -> jax.Array:
    def step(x: jax.Array, force: jax.Array) -> tuple[jax.Array, jax.Array]:
        _, angle, speed, turn = x
        sine, cosine = jnp.sin(angle), jnp.cos(angle)
        pull = (force + 0.1 * turn**2 * sine - 0.98 * sine * cosine) / (1.1 - 0.1 * cosine**2)
        x = x + 0.02 * jnp.stack([speed, turn, pull, 9.8 * sine - pull * cosine])
        return x, jnp.sum(x**2) + 0.01 * force**2

    end, costs = lax.scan(step, jnp.array([0.0, 0.1, 0.0, 0.0]), forces)
    return jnp.sum(costs) + 10 * jnp.sum(end**2)


PROGRAMS: dict[str, tuple[Callable[[jax.Array], jax.Array], np.ndarray]] = {
    "Lotka-Volterra, 1000 steps": (_populations, np.array([1.1, 0.4, 0.4, 0.1, 1.0, 0.5])),
    "quadrotor, 200 steps": (_quadrotor, np.array([0.0] * 6 + [1.0] + [0.0] * 3 + [0.1] * 3)),
    "Kalman likelihood, 500 steps": (_likelihood, np.array([0.3, 0.2, 0.5, 1.0, 0.1, 0.2])),
    "cart-pole cost, 150 forces": (_cost, 0.3 * np.sin(np.arange(150.0))),
}


def measure(name: str, points: int) -> list[object]:
    """Times one program, and returns a row of the table."""
    fun, x = PROGRAMS[name]
    modes: dict[str, Callable[..., Any]] = {
        "jax_cce": jax_cce.jacobian,
        "jacfwd": jax.jacfwd,
        "jacrev": jax.jacrev,
    }
    argument = x
    if points > 1:
        argument = x + 0.01 * np.random.default_rng(1).normal(size=(points, len(x)))
    calls: dict[str, Callable[[], Any]] = {}
    for mode, transform in modes.items():
        run = jax.jit(jax.vmap(transform(fun)) if points > 1 else transform(fun))
        calls[mode] = functools.partial(run, argument)
    ours, theirs = calls["jax_cce"](), calls["jacfwd"]()
    difference = float(jnp.abs(ours - theirs).max() / jnp.abs(theirs).max())
    measured = timing.take_turns(calls, turns=5)
    better = min(("jacfwd", "jacrev"), key=lambda mode: measured[mode].median)
    return [
        name,
        points,
        *(report.duration(measured[mode].median) for mode in modes),
        f"{(measured[better] / measured['jax_cce']).median:.1f}",
        f"{difference:.0e}",
    ]


def main() -> None:
    """Prints the table."""
    argparse.ArgumentParser(description=__doc__).parse_args()
    suite.keep_to(1)
    header = [
        "loop",
        "points",
        "jax_cce",
        "jax.jacfwd",
        "jax.jacrev",
        "times as fast",
        "difference",
    ]
    with jax.enable_x64(True):
        rows = [measure(name, points) for name in PROGRAMS for points in _POINTS]
    print(f"Through long loops, float64. {report.provenance()}\n")
    print(report.markdown_table(header, rows))


if __name__ == "__main__":
    main()
