"""Bundle adjustment: how reprojected points move with cameras, points and weights.

A camera is a rotation vector, a centre, a focal length, a principal point and two coefficients of
radial distortion (Triggs, McLauchlan, Hartley & Fitzgibbon, "Bundle adjustment: a modern
synthesis", 2000, has the geometry). An observation is of one camera and one point: a row of its
errors has 15 entries, 11 of the camera, 3 of the point, 1 of the weight, zeros among them included.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import jax_cce
from benchmarks.gradbench.evaluation import Evaluation, Function, Json, lists

_CAMERA, _POINT = 11, 3
_ROW = _CAMERA + _POINT + 1
# So many of the first entries are sent, and the last one: all observations are alike.
_SENT = 2 * _ROW


class Compressed(NamedTuple):
    """A sparse matrix by rows: those of the observations, two for each, then those of weights.

    Attributes:
        rows: where each row begins in what follows, shape (3 p + 1,).
        columns: of each entry: those of the n cameras, of the m points, of the weights.
        values: of each entry.
    """

    rows: jax.Array
    columns: jax.Array
    values: jax.Array


def rotate(vector: jax.Array, point: jax.Array) -> jax.Array:
    """Rotates a point about an axis by its length in radians; exact to first order at zero."""
    squared = vector @ vector
    turns = squared > 0
    angle = jnp.sqrt(jnp.where(turns, squared, 1.0))
    axis = vector / angle
    c, s = jnp.cos(angle), jnp.sin(angle)
    turned = c * point + s * jnp.cross(axis, point) + (1 - c) * (axis @ point) * axis
    return jnp.where(turns, turned, point + jnp.cross(vector, point))


def reprojection(
    camera: jax.Array, point: jax.Array, weight: jax.Array, seen: jax.Array
) -> jax.Array:
    """The weighted error of one observation, shape (2,)."""
    x, y, depth = rotate(camera[:3], point - camera[3:6])
    image = jnp.stack([x, y]) / depth
    squared = image @ image
    distortion = 1 + camera[9] * squared + camera[10] * squared**2
    return weight * (distortion * image * camera[6] + camera[7:9] - seen)


def _objective(cameras: Any, points: Any, weights: Any, seen: Any, pairs: Any) -> Any:
    of_camera, of_point = pairs
    errors = jax.vmap(reprojection)(cameras[of_camera], points[of_point], weights, seen)
    return errors, 1 - weights**2


def _of_row(row: jax.Array, seen: jax.Array) -> jax.Array:
    """The weighted error by all that it depends on, in the order of a row's entries."""
    camera, point, (weight,) = jnp.split(row, [_CAMERA, _CAMERA + _POINT])
    return reprojection(camera, point, weight, seen)


def _joined(parts: Sequence[jax.Array]) -> jax.Array:
    """Flat parts one after the other, computed before, as XLA would divide for each entry."""
    return jnp.concatenate(jax.lax.optimization_barrier([part.ravel() for part in parts]))


def _jacobian(transform: Any) -> Any:
    of_one = transform(_of_row)
    of_weight = transform(lambda weight: 1 - weight**2)

    def program(cameras: Any, points: Any, weights: Any, seen: Any, pairs: Any) -> Compressed:
        (of_camera, of_point), p = pairs, len(weights)
        at_points = _CAMERA * len(cameras)
        at_weights = at_points + _POINT * len(points)
        read = [cameras[of_camera], points[of_point], weights[:, None]]
        rows = jax.vmap(of_one)(jnp.concatenate(read, axis=1), seen)  # [p, 2, 15]
        observed = np.arange(p) + at_weights
        columns = jnp.concatenate(
            [
                _CAMERA * of_camera[:, None] + np.arange(_CAMERA),
                _POINT * of_point[:, None] + np.arange(at_points, at_points + _POINT),
                observed[:, None],
            ],
            axis=1,
        )
        starts = np.concatenate([_ROW * np.arange(2 * p), 2 * p * _ROW + np.arange(p + 1)])
        return Compressed(
            jnp.asarray(starts),
            _joined([jnp.concatenate([columns, columns], axis=1), jnp.asarray(observed)]),
            _joined([rows, jax.vmap(of_weight)(weights)]),
        )

    return program


def _read(data: Json) -> tuple[Any, ...]:
    n, m, p = data["n"], data["m"], data["p"]
    seen = np.arange(p)
    return (
        np.tile(data["cam"], (n, 1)),
        np.tile(data["x"], (m, 1)),
        np.full(p, float(data["w"])),
        np.tile(data["feat"], (p, 1)),
        (seen % n, seen % m),
    )


def _write_objective(result: Any) -> Json:
    errors, of_weights = map(lists, result)
    return {
        "reproj_error": {"elements": errors[0], "repeated": len(errors)},
        "w_err": {"element": of_weights[0], "repeated": len(of_weights)},
    }


def _write_jacobian(matrix: Compressed) -> Json:
    rows, columns, values = (lists([*each[:_SENT], each[-1]]) for each in matrix)
    return {"rows": rows, "cols": columns, "vals": values}


def _draw(rng: np.random.Generator, n: int, m: int, p: int) -> Json:
    camera = [*rng.normal(size=3), *rng.normal(size=3), 500.0, 20.0, -10.0, 0.05, -0.01]
    return {
        "n": n,
        "m": m,
        "p": p,
        "w": 0.6,
        "cam": lists(camera),
        "x": lists(rng.normal(size=3) + np.array([0.0, 0.0, 9.0])),
        "feat": lists(rng.normal(size=2)),
    }


EVALUATION = Evaluation(
    functions={
        "objective": Function(_objective, _write_objective),
        "jacobian": Function(
            _jacobian(jax_cce.jacobian),
            _write_jacobian,
            {"vmap of jacfwd": _jacobian(jax.jacfwd), "vmap of jacrev": _jacobian(jax.jacrev)},
        ),
    },
    read=_read,
    draw=_draw,
    sizes={"p 100": (5, 30, 100), "p 30,000": (49, 7776, 30_000)},
)
