"""COPS: places in the plane and in space. Sizes are numbers of points."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.tasks.nonlinear import Problem


def polygon(points: int) -> Problem:
    """1. The largest polygon whose corners are at most 1 apart."""
    one, other = np.triu_indices(points, 1)
    start = np.append(np.ones(points), np.linspace(0, np.pi, points))

    def objective(x: jax.Array) -> jax.Array:
        radius, angle = jnp.split(x, 2)
        return -jnp.sum(radius[:-1] * radius[1:] * jnp.sin(angle[1:] - angle[:-1])) / 2

    def constraints(x: jax.Array) -> jax.Array:
        radius, angle = jnp.split(x, 2)
        a, b = radius[one], radius[other]
        distance = a**2 + b**2 - 2 * a * b * jnp.cos(angle[one] - angle[other])
        end = jnp.stack([radius[-1], angle[-1] - np.pi])
        return jnp.concatenate([distance - 1, angle[:-1] - angle[1:], end])

    return Problem(
        objective,
        constraints,
        start,
        (0.0, np.repeat((1.0, np.pi), points)),
        (np.append(np.full(len(one) + points - 1, -np.inf), (0.0, 0.0)), 0.0),
    )


def elec(points: int) -> Problem:
    """2. Electrons on a sphere."""
    one, other = np.triu_indices(points, 1)
    theta, phi = np.random.default_rng(0).uniform(size=(2, points)) * [[2 * np.pi], [np.pi]]
    start = [np.cos(theta) * np.sin(phi), np.sin(theta) * np.sin(phi), np.cos(phi)]

    def objective(x: jax.Array) -> jax.Array:
        place = x.reshape(3, -1)
        return jnp.sum(1 / jnp.sqrt(jnp.sum((place[:, one] - place[:, other]) ** 2, 0)))

    return Problem(
        objective, lambda x: jnp.sum(x.reshape(3, -1) ** 2, 0) - 1, np.concatenate(start)
    )


def camshape(points: int) -> Problem:
    """3. The cam that opens a valve furthest."""
    least, greatest = 1.0, 2.0
    angle = 2 * np.pi / (5 * (points + 1))
    steepest = np.full(points + 1, 1.5 * angle)

    def constraints(x: jax.Array) -> jax.Array:
        radius = jnp.concatenate([jnp.full(2, least), x, jnp.full(1, greatest), x[-1:]])
        before, here, after = radius[:-2], radius[1:-1], radius[2:]
        convex = 2 * np.cos(angle) * before * after - here * (before + after)
        return jnp.concatenate([convex, radius[2:-1] - radius[1:-2]])

    convex = np.full(points + 2, -np.inf), np.zeros(points + 2)
    return Problem(
        lambda x: -np.pi * jnp.mean(x),
        constraints,
        np.full(points, (least + greatest) / 2),
        (least, greatest),
        (np.append(convex[0], -steepest), np.append(convex[1], steepest)),
    )
