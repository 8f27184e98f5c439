"""Hand tracking: a skinned hand model fitted to points, by its pose and where they touch it.

The model is that of Taylor et al., "User-specific hand modeling from monocular depth sequences"
(2014): bones turn about their joints, and vertices follow bones by weights. In the complicated
variant each point touches a triangle at two coordinates of its own; all of them share two columns
of the Jacobian, which come first.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jax_cce
from benchmarks.gradbench.evaluation import Evaluation, Function, Json, lists

_FINGERS = 5
_BONES = 2 + 4 * _FINGERS
# The rotation, the translation, and for each finger a bend and a spread, a bend and a bend.
_POSE = 6 + 4 * _FINGERS
# Rotation vectors shorter than this are taken for none.
_LEAST_ANGLE = 1e-4


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Hand:
    """A hand model and the points that it is fitted to.

    Attributes:
        relatives: each bone in the frame of its parent, shape (bones, 4, 4).
        inverses: of each bone at rest, shape (bones, 4, 4).
        positions: of the vertices at rest, homogeneous, shape (vertices, 4).
        weights: how vertices follow bones, shape (vertices, bones).
        touched: the vertex of each point, or the three of its triangle.
        points: shape (points, 3).
        parents: of each bone an earlier one, or -1.
        mirrored: whether the first axis is reversed.
    """

    relatives: Any
    inverses: Any
    positions: Any
    weights: Any
    touched: Any
    points: Any
    parents: tuple[int, ...] = dataclasses.field(metadata={"static": True})
    mirrored: bool = dataclasses.field(metadata={"static": True})


def _about_axis(vector: jax.Array) -> jax.Array:
    squared = vector @ vector
    turns = squared >= _LEAST_ANGLE**2
    angle = jnp.sqrt(jnp.where(turns, squared, 1.0))
    axis = vector / angle
    outer = jnp.outer(axis, axis)
    crossed = jnp.cross(np.eye(3), axis)  # Times a vector: the axis x it.
    turned = outer + jnp.cos(angle) * (np.eye(3) - outer) + jnp.sin(angle) * crossed
    return jnp.where(turns, turned, np.eye(3))


def _about_axes(x: jax.Array, z: jax.Array) -> jax.Array:
    """The rotation about x, then about z, in homogeneous coordinates. None is about y."""
    (cx, cz), (sx, sz) = (jnp.cos(x), jnp.cos(z)), (jnp.sin(x), jnp.sin(z))
    zero, one = jnp.zeros_like(x), jnp.ones_like(x)
    entries = [cz, -sz * cx, sz * sx, zero, sz, cz * cx, -cz * sx, zero, zero, sx, cx, zero]
    return jnp.stack([*entries, zero, zero, zero, one]).reshape(4, 4)


def _surface(pose: jax.Array, hand: Hand) -> jax.Array:
    """Where the vertices are in a pose, shape (vertices, 3)."""
    fingers = pose[6:].reshape(_FINGERS, 4)
    bends = jnp.zeros((_FINGERS, 4)).at[:, :3].set(fingers[:, np.array([0, 2, 3])])
    spreads = jnp.zeros((_FINGERS, 4)).at[:, 0].set(fingers[:, 1])
    # The first two bones stay, and so does the last of each finger.
    x, z = (jnp.concatenate([jnp.zeros(2), each.ravel()]) for each in (bends, spreads))
    turned = hand.relatives @ jax.vmap(_about_axes)(x, z)
    absolutes: list[jax.Array] = []
    for parent, own in zip(hand.parents, turned, strict=True):
        absolutes.append(own if parent < 0 else absolutes[parent] @ own)
    moved = (jnp.stack(absolutes) @ hand.inverses)[:, :3]  # [bones, 3, 4]
    vertices = jnp.einsum("bij,vj,vb->vi", moved, hand.positions, hand.weights)
    if hand.mirrored:
        vertices = vertices * np.array([-1.0, 1.0, 1.0])
    return vertices @ _about_axis(pose[:3]).T + pose[3:6]


def simple(pose: jax.Array, hand: Hand, coordinates: jax.Array) -> jax.Array:
    """How far the points are from the vertices that they touch, shape (3 points,)."""
    return (hand.points - _surface(pose, hand)[hand.touched]).ravel()


def complicated(variables: jax.Array, hand: Hand, coordinates: jax.Array) -> jax.Array:
    """The same for points inside triangles, at barycentric coordinates of shape (points, 2).

    Args:
        variables: what is added to all coordinates, then the pose, shape (28,).
        hand: the model and the points.
        coordinates: the first two of each point.
    """
    first, second = (coordinates + variables[:2]).T[:, :, None]
    corners = _surface(variables[2:], hand)[hand.touched]  # [points, 3, 3]
    at = first * corners[:, 0] + second * corners[:, 1] + (1 - first - second) * corners[:, 2]
    return (hand.points - at).ravel()


def objective(variables: jax.Array, hand: Hand, coordinates: jax.Array) -> jax.Array:
    return (complicated if len(coordinates) else simple)(variables, hand, coordinates)


def _read(data: Json) -> tuple[Any, ...]:
    model, correspondences = data["data"]["model"], np.asarray(data["data"]["correspondences"])
    if len(model["parents"]) != _BONES:
        raise ValueError(f"the pose is that of {_BONES} bones, got {len(model['parents'])}")
    is_simple = not data["us"]
    hand = Hand(
        np.asarray(model["base_relatives"], float),
        np.asarray(model["inverse_base_absolutes"], float),
        np.asarray(model["base_positions"], float),
        np.asarray(model["weights"], float),
        correspondences if is_simple else np.asarray(model["triangles"])[correspondences],
        np.asarray(data["data"]["points"], float),
        tuple(model["parents"]),
        model["is_mirrored"],
    )
    pose = np.asarray(data["theta"], float)
    variables = pose if is_simple else np.concatenate([np.zeros(2), pose])
    return variables, hand, np.reshape(np.asarray(data["us"], float), (-1, 2))


def _draw(rng: np.random.Generator, vertices: int, points: int, is_simple: int) -> Json:
    relatives = np.tile(np.eye(4), (_BONES, 1, 1))
    relatives[:, :3, 3] = rng.normal(size=(_BONES, 3))
    parents = [-1, 0, *(0 if k % 4 == 0 else k + 1 for k in range(4 * _FINGERS))]
    absolutes: list[np.ndarray] = []
    for parent, own in zip(parents, relatives, strict=True):
        absolutes.append(own if parent < 0 else absolutes[parent] @ own)
    weights = rng.random((vertices, _BONES)) * (rng.random((vertices, _BONES)) < 0.2)
    weights[np.arange(vertices), rng.integers(_BONES, size=vertices)] += 0.5
    triangles = [lists(rng.choice(vertices, 3, replace=False)) for _ in range(2 * vertices)]
    touched = rng.integers(vertices if is_simple else 2 * vertices, size=points)
    model = {
        "bone_count": _BONES,
        "bone_names": [f"bone {k}" for k in range(_BONES)],
        "parents": parents,
        "base_relatives": lists(relatives),
        "inverse_base_absolutes": lists(np.linalg.inv(absolutes)),
        "base_positions": lists(np.insert(rng.normal(size=(vertices, 3)), 3, 1.0, axis=1)),
        "weights": lists(weights / weights.sum(1, keepdims=True)),
        "triangles": triangles,
        "is_mirrored": False,
    }
    return {
        "theta": lists(0.3 * rng.normal(size=_POSE)),
        "data": {
            "model": model,
            "correspondences": lists(touched),
            "points": lists(rng.normal(size=(points, 3))),
        },
        "us": [] if is_simple else lists(rng.random((points, 2)) / 2),
    }


EVALUATION = Evaluation(
    functions={
        "objective": Function(objective, lists),
        "jacobian": Function(
            jax_cce.jacobian(objective),
            lists,
            {"jacfwd": jax.jacfwd(objective), "jacrev": jax.jacrev(objective)},
        ),
    },
    read=_read,
    draw=_draw,
    sizes={
        "simple, 20 points": (60, 20, True),
        "complicated, 20 points": (60, 20, False),
        "complicated, 400 points": (544, 400, False),
    },
)
