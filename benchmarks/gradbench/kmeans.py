"""A Newton step of k-means clustering, whose Hessian is diagonal.

Bottou & Bengio, "Convergence properties of the k-means algorithms" (1994).
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jax_cce
from benchmarks.gradbench.evaluation import Evaluation, Function, Json, lists


def cost(centroids: jax.Array, points: jax.Array) -> jax.Array:
    """The sum of squared distances from points (n, d) to the nearest of centroids (k, d)."""
    squared = jnp.sum(points**2, 1)[:, None] + jnp.sum(centroids**2, 1)
    return jnp.sum(jnp.min(squared - 2 * points @ centroids.T, axis=1))


def direction(centroids: jax.Array, points: jax.Array) -> jax.Array:
    """The gradient over the Hessian's diagonal, shape (k, d)."""
    gradient = jax_cce.jacobian(cost)(centroids, points)
    hessian: Any = jax_cce.hessian(cost, format="structured")(centroids, points)
    return gradient / hessian.diagonal().reshape(centroids.shape)


def _by_jax(centroids: jax.Array, points: jax.Array) -> jax.Array:
    """The same: where it is known to be diagonal, the Hessian's row sums are its diagonal."""
    gradient = jax.grad(lambda at: cost(at, points))
    along, sums = jax.jvp(gradient, (centroids,), (jnp.ones_like(centroids),))
    return along / sums


def _read(data: Json) -> tuple[Any, ...]:
    return np.asarray(data["centroids"], float), np.asarray(data["points"], float)


def _draw(rng: np.random.Generator, k: int, n: int, d: int) -> Json:
    points = lists(rng.random((n, d)))
    return {"points": points, "centroids": points[-k:]}


EVALUATION = Evaluation(
    functions={
        "cost": Function(cost, float),
        "dir": Function(direction, lists, {"jvp of grad": _by_jax}),
    },
    read=_read,
    draw=_draw,
    sizes={"k 5, n 100, d 4": (5, 100, 4), "k 100, n 1000, d 8": (100, 1000, 8)},
)
