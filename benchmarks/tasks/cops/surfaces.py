"""COPS: surfaces over rectangles. Sizes are numbers of inner points along a side."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.tasks.nonlinear import Problem


def _slopes(v: jax.Array, dx: float, dy: float) -> tuple[tuple[jax.Array, jax.Array], ...]:
    """Those across and along, of the lower and of the upper triangle of each cell."""
    across, along = (v[1:] - v[:-1]) / dx, (v[:, 1:] - v[:, :-1]) / dy
    return (across[:, :-1], along[:-1]), (across[:, 1:], along[1:])


def _edge(v: Any) -> jax.Array:
    return jnp.concatenate([v[0], v[-1], v[1:-1, 0], v[1:-1, -1]])


def bearing(size: int) -> Problem:
    """16. The pressure in a journal bearing."""
    eccentricity = 0.1
    count = size + 2
    dx, dy = 2 * np.pi / (size + 1), 20.0 / (size + 1)
    at = dx * np.arange(count)[:, None]
    w = (1 + eccentricity * np.cos(at)) ** 3

    def objective(x: jax.Array) -> jax.Array:
        v = x.reshape(count, count)
        lower, upper = (a**2 + b**2 for a, b in _slopes(v, dx, dy))
        # The published value is that of a model whose upper triangles weigh 4; the integral has 3.
        energy = jnp.sum((w[:-1] + 2 * w[1:]) * lower) + 2 * jnp.sum((w[1:] + w[:-1]) * upper)
        return dx * dy * (energy / 12 - eccentricity * jnp.sum(np.sin(at) * v))

    return Problem(
        objective,
        lambda x: _edge(x.reshape(count, count)),
        np.repeat(np.maximum(np.sin(at), 0.0), count),
        (0.0, np.inf),
    )


def minsurf(size: int) -> Problem:
    """17. The smallest surface with given edges above a plate."""
    count = size + 2
    side = 1 / (size + 1)
    arch = 1 - (2 * np.linspace(0, 1, count)[:, None] - 1) ** 2
    start = np.broadcast_to(arch, (count, count))
    least = np.zeros((count, count))
    plate = slice(int(0.25 / side), int(np.ceil(0.75 / side)) + 1)
    least[plate, plate] = 1.0
    edge = np.asarray(_edge(start))

    def objective(x: jax.Array) -> jax.Array:
        slopes = _slopes(x.reshape(count, count), side, side)
        lower, upper = (jnp.sum(jnp.sqrt(1 + a**2 + b**2)) for a, b in slopes)
        return side**2 / 2 * (lower + upper)

    return Problem(
        objective,
        lambda x: _edge(x.reshape(count, count)) - edge,
        start.ravel(),
        (least.ravel(), np.inf),
    )


def torsion(size: int) -> Problem:
    """15. The torsion of an elastic-plastic bar."""
    force = 5.0
    count = size + 2
    side = 1 / (size + 1)
    to_edge = side * np.minimum(np.arange(count), np.arange(count)[::-1])
    most = np.minimum(to_edge[:, None], to_edge).ravel()

    def objective(x: jax.Array) -> jax.Array:
        v = x.reshape(count, count)
        lower, upper = (jnp.sum(a**2 + b**2) for a, b in _slopes(v, side, side))
        corners = jnp.sum(v[1:, :-1] + v[:-1, :-1] + v[:-1, 1:])
        corners += jnp.sum(v[1:, 1:] + v[:-1, 1:] + v[1:, :-1])
        return side**2 / 2 * ((lower + upper) / 2 - force * corners / 3)

    return Problem(objective, lambda x: x, most, limits=(-most, most))
