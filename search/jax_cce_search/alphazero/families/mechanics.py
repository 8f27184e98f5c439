"""Kinematics, orbits and rotations."""

import itertools
from typing import Any

import jax.numpy as jnp
import numpy as np

from jax_cce_search.alphazero.families.draws import (
    Drawn,
    Vector,
    between,
    coins,
    floats,
    pick,
    some,
)
from jax_cce_search.alphazero.families.vectors import (
    added,
    applied,
    cross,
    dot,
    product,
    scaled,
    times,
    turned_about,
)

__all__ = [
    "kinematics",
    "orbit",
    "rotation",
]


def kinematics(random: np.random.Generator) -> Drawn:
    """Place, and perhaps direction, of the end of a serial arm, from angles and link lengths."""
    joints = between(random, 2, 5)
    axes = [between(random, 0, 2) for _ in range(joints)]
    lengths = floats(random, joints)
    along = [some(random, 3, between(random, 1, 2)) for _ in range(joints)]
    inwards, with_lengths, directed = coins(random, 3)

    def arm(*args: Any) -> Any:
        sizes = zip(args[joints:] or lengths, along, strict=True)
        end: Vector = (0.0, 0.0, 0.0)
        links = [tuple(size if k in axis else 0.0 for k in range(3)) for size, axis in sizes]
        (frame, place), *rest = zip(map(turned_about, axes, args), links, strict=True)
        if inwards:
            for turn, link in reversed(rest):
                end = applied(turn, added(end, link))
            return applied(frame, added(end, place))
        place = applied(frame, place)
        for turn, link in rest:
            frame = product(frame, turn)
            place = added(place, applied(frame, link))
        return (*place, jnp.arctan2(frame[1][0], frame[0][0])) if directed else place

    return arm, floats(random, joints) + (lengths if with_lengths else ())


def orbit(random: np.random.Generator) -> Drawn:
    """Accelerations of a few bodies that attract or repel each other."""
    bodies, axes = pick(random, ((2, 2), (2, 3), (3, 2), (3, 2), (3, 3), (4, 2)))
    law = pick(random, ("root", "power", "molecule", "screened"))
    masses, (with_masses, shared) = floats(random, bodies), coins(random, 2)

    def strength(square: Any) -> Any:
        if law == "power":
            return (square + 0.01) ** -1.5
        if law == "molecule":
            inverse = 1 / square
            return inverse**7 - inverse**4
        distance = jnp.sqrt(square)
        pull = 1 / (square * distance)
        return pull if law == "root" else jnp.exp(-distance) * (1 + distance) * pull

    def accelerations(*args: Any) -> Any:
        at = [args[k * axes : (k + 1) * axes] for k in range(bodies)]
        weights = args[bodies * axes :] or masses
        out: list[Vector] = [(0.0,) * axes] * bodies
        for i, j in itertools.combinations(range(bodies), 2):
            away = tuple(b - a for a, b in zip(at[i], at[j], strict=True))
            pull = strength(dot(away, away))
            if shared:
                away, pull = scaled(pull, away), 1.0
            out[i] = added(out[i], scaled(times(weights[j], pull), away))
            out[j] = added(out[j], scaled(times(-weights[i], pull), away))
        return tuple(itertools.chain(*out))

    return accelerations, floats(random, bodies * axes) + (masses if with_masses else ())


def _hamilton(p: Vector, q: Vector) -> Vector:
    """The product of two quaternions, real part first."""
    (a, *u), (b, *v) = p, q
    vector = added(added(scaled(a, v), scaled(b, u)), cross(tuple(u), tuple(v)))
    return a * b - dot(u, v), *vector


def rotation(random: np.random.Generator) -> Drawn:
    """A point turned by quaternions, their product, or about axes by angles (Rodrigues)."""
    steps = [pick(random, ("product", "sandwich", "axis")) for _ in range(between(random, 1, 3))]
    fixed, (normalised, with_point) = floats(random, 3), coins(random, 2)

    def turned(q: Vector, point: Vector) -> Vector:
        once = scaled(2.0, cross(q[1:], point))
        return added(added(point, scaled(q[0], once)), cross(q[1:], once))

    def rotated(*args: Any) -> Any:
        point, waiting = args[4 * len(steps) :] or fixed, None
        for k, step in enumerate(steps):
            q = args[4 * k : 4 * k + 4]
            if step == "axis":
                cos, sin, u = jnp.cos(q[0]), jnp.sin(q[0]), q[1:]
                upright = scaled((1 - cos) * dot(u, point), u)
                point = added(added(scaled(cos, point), scaled(sin, cross(u, point))), upright)
                continue
            if normalised:
                q = scaled(1 / jnp.sqrt(dot(q, q)), q)
            if step == "sandwich":
                point = turned(q, point)
            else:
                waiting = q if waiting is None else _hamilton(q, waiting)
        return point if waiting is None else turned(waiting, point)

    return rotated, floats(random, 4 * len(steps)) + (fixed if with_point else ())
