"""Sparse problems whose patterns are those of graphs: messages, lines of a grid, scenes.

Sources: the power-flow equations in polar form as in Grainger & Stevenson, "Power System Analysis"
(1994), 9.2; reprojection errors as in Agarwal et al., "Bundle Adjustment in the Large" (2010), with
Snavely's camera.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from scipy import sparse

from benchmarks.tasks.sparse_problem import ByHand, Problem, normal

_DEGREE = 4


@functools.cache
def _edges(nodes: int) -> tuple[np.ndarray, np.ndarray]:
    """Distinct pairs of different nodes, _DEGREE for each node on average, sorted."""
    rng = np.random.default_rng(3)
    pairs = rng.integers(0, nodes, (_DEGREE * nodes, 2))
    pairs = np.unique(pairs[pairs[:, 0] != pairs[:, 1]], axis=0)
    return pairs[:, 0], pairs[:, 1]


def spread(x: jax.Array, weights: jax.Array) -> jax.Array:
    """A matrix of weighted edges times x**2, as graph networks and finite elements add it up."""
    targets, sources = _edges(x.size)
    messages = weights * x[sources] ** 2
    return jax.ops.segment_sum(messages, jnp.asarray(targets), num_segments=x.size)


def _weighted(n: int, dtype: Any) -> tuple[np.ndarray, ...]:
    count = len(_edges(n)[0])
    return *normal(n, dtype), np.random.default_rng(4).uniform(0.5, 1.5, count).astype(dtype)


def _spread_matrix(x: np.ndarray, weights: np.ndarray, values: Any) -> Any:
    return sparse.coo_array((values, _edges(x.size)), shape=(x.size, x.size))


SEGMENT_SUM = Problem(
    name="segment_sum",
    fun=spread,
    make=_weighted,
    size=10_000,
    nonzeros=lambda n: len(_edges(n)[0]),
    small=12,
    few_colours=False,
    by_hand=ByHand(
        lambda x, weights: (2 * weights * x[_edges(x.size)[1]],),
        _spread_matrix,
    ),
)


@functools.cache
def _lines(buses: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """From, to, conductance and susceptance of lines: a chain with shortcuts, as grids have."""
    rng = np.random.default_rng(5)
    chain = np.stack([np.arange(buses - 1), np.arange(1, buses)], axis=1)
    reach = rng.integers(2, 30, buses // 2)
    start = rng.integers(0, buses, buses // 2)
    shortcuts = np.stack([start, np.minimum(start + reach, buses - 1)], axis=1)
    pairs = np.unique(
        np.concatenate([chain, shortcuts[shortcuts[:, 0] != shortcuts[:, 1]]]), axis=0
    )
    resistance, reactance = rng.uniform(0.01, 0.05, (2, len(pairs)))
    squared = resistance**2 + reactance**2
    return pairs[:, 0], pairs[:, 1], resistance / squared, -reactance / squared


def power_flow(x: jax.Array) -> jax.Array:
    """Active and reactive power that leave each bus, from voltage angles and magnitudes."""
    buses = x.size // 2
    angle, magnitude = x[:buses], x[buses:]
    start, end, conductance, susceptance = _lines(buses)
    turn = angle[start] - angle[end]
    product = magnitude[start] * magnitude[end]
    active, reactive = conductance * jnp.cos(turn), susceptance * jnp.sin(turn)
    crossed, along = conductance * jnp.sin(turn), susceptance * jnp.cos(turn)
    square = magnitude**2

    def at_buses(from_start: jax.Array, from_end: jax.Array) -> jax.Array:
        nothing = jnp.zeros(buses, x.dtype)
        return nothing.at[start].add(from_start).at[end].add(from_end)

    p = at_buses(
        conductance * square[start] - product * (active + reactive),
        conductance * square[end] - product * (active - reactive),
    )
    q = at_buses(
        -susceptance * square[start] - product * (crossed - along),
        -susceptance * square[end] + product * (crossed + along),
    )
    return jnp.concatenate([p, q])


def _near_flat(n: int, dtype: Any) -> tuple[np.ndarray, ...]:
    rng = np.random.default_rng(6)
    buses = n // 2
    angles, magnitudes = 0.1 * rng.normal(size=buses), 1 + 0.05 * rng.normal(size=buses)
    return (np.concatenate([angles, magnitudes]).astype(dtype),)


POWER_FLOW = Problem(
    name="Power flow",
    fun=power_flow,
    make=_near_flat,
    size=10_000,
    nonzeros=lambda n: 4 * (n // 2 + 2 * len(_lines(n // 2)[0])),
    small=16,
    fit=lambda n: n - n % 2,
)

_SEEN = 4  # views of a point


@functools.cache
def _views(points: int) -> tuple[np.ndarray, np.ndarray]:
    """Camera and point of each observation: a point is seen by neighbouring cameras."""
    cameras = max(points // 100, _SEEN)
    point = np.repeat(np.arange(points), _SEEN)
    first = np.arange(points) * (cameras - _SEEN + 1) // points
    return (first[:, None] + np.arange(_SEEN)).reshape(-1), point


def _reprojection(camera: jax.Array, point: jax.Array) -> jax.Array:
    """Where Snavely's camera sees a point: rotation, translation, focal length, two distortions."""
    axis, angle = camera[:3], jnp.sqrt(jnp.sum(camera[:3] ** 2))
    unit = axis / angle
    c, s = jnp.cos(angle), jnp.sin(angle)
    turned = c * point + s * jnp.cross(unit, point) + (1 - c) * jnp.dot(unit, point) * unit
    moved = turned + camera[3:6]
    projected = -moved[:2] / moved[2]
    radius2 = jnp.sum(projected**2)
    return camera[6] * (1 + camera[7] * radius2 + camera[8] * radius2**2) * projected


def _points(n: int) -> int:
    """How many points a scene of n unknowns has: 9 for a camera, 3 for a point."""
    found = n // 3
    while 9 * max(found // 100, _SEEN) + 3 * found > n:
        found -= 1
    return found


def bundle(x: jax.Array) -> jax.Array:
    """Reprojections of every observation of a scene."""
    points = _points(x.size)
    cameras = max(points // 100, _SEEN)
    camera, point = _views(points)
    of_cameras = x[: 9 * cameras].reshape(cameras, 9)
    of_points = x[9 * cameras :].reshape(points, 3)
    return jax.vmap(_reprojection)(of_cameras[camera], of_points[point]).reshape(-1)


def _scene_size(n: int) -> int:
    points = _points(n)
    return 9 * max(points // 100, _SEEN) + 3 * points


def _scene(n: int, dtype: Any) -> tuple[np.ndarray, ...]:
    rng = np.random.default_rng(7)
    points = _points(n)
    cameras = max(points // 100, _SEEN)
    camera = np.array([0.02, -0.01, -0.04, -0.03, -0.1, 1.1, 400.0, -3e-2, 5e-2])
    x = [camera * (1 + 0.05 * rng.normal(size=(cameras, 9)))]
    x.append(np.array([-0.6, 0.6, -4.0]) * (1 + 0.05 * rng.normal(size=(points, 3))))
    return (np.concatenate([each.reshape(-1) for each in x]).astype(dtype),)


BUNDLE_ADJUSTMENT = Problem(
    name="Bundle adjustment",
    fun=bundle,
    make=_scene,
    size=_scene_size(10_000),
    nonzeros=lambda n: 2 * 12 * _SEEN * _points(n),
    small=_scene_size(60),
    fit=_scene_size,
)
