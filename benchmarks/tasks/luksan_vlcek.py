"""The eighteen equality constrained test problems of Luksan & Vlcek, of any size.

"Sparse and partially separable test problems for unconstrained and equality constrained
optimization", report 767 of the Czech Academy of Sciences (1999), section 5, in the variants of
ExaModels' benchmark (github.com/MadNLP/ExaModelsLuksanVlcek.jl) but for three things: as many
constraints are taken as fit, the powers of both Broyden problems are 7/3 as in the report, and the
sums of the banded one stand where they are used, without variables of their own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.tasks.nonlinear import Family, Problem

_POWER = 7 / 3


def _family(
    name: str,
    objective: Callable[[jax.Array], jax.Array],
    constraints: Callable[[jax.Array], jax.Array],
    start: Sequence[float],
) -> Family:
    """Problems of n variables whose start is repeated as often as fits."""
    at = np.asarray(start, float)
    return Family(name, lambda n: Problem(objective, constraints, np.resize(at, n)))


def windows(x: jax.Array, width: int, stride: int = 1) -> list[jax.Array]:
    """The first, second, ... of as many neighbours as fit, every `stride` places."""
    count = (len(x) - width) // stride + 1
    return [x[k : k + stride * (count - 1) + 1 : stride] for k in range(width)]


def _sum_over(width: int, stride: int, term: Callable[..., jax.Array]) -> Callable[..., jax.Array]:
    return lambda x: jnp.sum(term(*windows(x, width, stride)))


def _each(width: int, stride: int, *terms: Callable[..., jax.Array]) -> Callable[..., jax.Array]:
    def constraints(x: jax.Array) -> jax.Array:
        near = windows(x, width, stride)
        return jnp.concatenate([term(*near) for term in terms])

    return constraints


def _rosenbrock_constraint(a: Any, b: Any, c: Any) -> Any:
    waves = jnp.sin(b - c) * jnp.sin(b + c)
    return 3 * b**3 + 2 * c - 5 + waves + 4 * b - a * jnp.exp(a - b) - 3


def _wood(a: Any, b: Any, c: Any, d: Any) -> Any:
    valleys = 100 * (a**2 - b) ** 2 + (a - 1) ** 2 + 90 * (c**2 - d) ** 2 + (c - 1) ** 2
    return valleys + 10 * (b + d - 2) ** 2 + (b - d) ** 2 / 10


def _wood_constraints(x: jax.Array) -> jax.Array:
    a, b, *_, f = windows(x[:-2], 6)
    return (2 + 5 * f**2) * f + 1 + a * (1 + a) + b * (1 + b)


def _powell(a: Any, b: Any, c: Any, d: Any) -> Any:
    return (a + 10 * b) ** 2 + 5 * (c - d) ** 2 + (b - 2 * c) ** 4 + 10 * (a - d) ** 4


def _powell_constraints(x: jax.Array) -> jax.Array:
    a, b, y, z = x[0], x[1], x[-2], x[-1]
    first = 3 * a**3 + 2 * b - 5 + jnp.sin(a - b) * jnp.sin(a + b)
    return jnp.stack([first, 4 * z - y * jnp.exp(y - z) - 3])


def _cragg_levy(a: Any, b: Any, c: Any, d: Any) -> Any:
    powers = (jnp.exp(a) - b) ** 4 + 100 * (b - c) ** 6 + jnp.tan(c - d) ** 4
    return powers + 8 * a**8 + (d - 1) ** 2


def _cubic(a: Any, b: Any, c: Any) -> Any:
    """What several problems have in common: a chain of three."""
    return 8 * b * (b**2 - a) - 2 * (1 - b) + 4 * (b - c**2)


def _tridiagonal(x: jax.Array) -> jax.Array:
    a, b, c = windows(jnp.pad(x, 1), 3)
    return jnp.sum(jnp.abs((3 - 2 * b) * b - a - c + 1) ** _POWER)


def _tridiagonal_constraint(a: Any, b: Any, c: Any, d: Any, e: Any) -> Any:
    return _cubic(b, c, d) + b**2 - a + d - e**2


def _banded(x: jax.Array) -> jax.Array:
    near = sum(windows(jnp.pad(x * (1 + x), (5, 1)), 7))
    return jnp.sum(jnp.abs((2 + 5 * x**2) * x + 1 + near) ** _POWER)


def _trigonometric(x: jax.Array) -> jax.Array:
    a, b, c = windows(x, 3)
    terms = 1 - jnp.cos(b) + jnp.sin(a) - jnp.sin(c)
    return jnp.sum(np.arange(2, len(x)) * terms)


def _trigonometric_constraints(x: jax.Array) -> jax.Array:
    a, b, c, d = x[:4]
    w, q, y, z = x[-4:]
    return jnp.stack(
        [
            4 * (a - b**2) + b - c**2,
            _cubic(a, b, c) + c - d**2,
            _cubic(q, y, z) + q - w**2,
            8 * z * (z**2 - y) - 2 * (1 - z) + y**2 - q,
        ]
    )


def _augmented(a: Any, b: Any, c: Any, d: Any, e: Any) -> Any:
    sphere = a**2 + b**2 + c**2 + d**2 + e**2 - 10 + 0.002008
    products = b * c - 5 * d * e + 0.001900
    cubes = a**3 + b**3 + 1 + 0.000261
    return jnp.exp(a * b * c * d * e) + 10 * sphere**2 + products**2 + cubes**2


def _boundary_value(x: jax.Array) -> jax.Array:
    a, b, c = windows(x, 3)
    h = 1 / (len(x) + 1)
    at = h * np.arange(2, len(x))
    return 2 * b + h**2 * (b + at + 1) ** 3 / 2 - a - c


def _modified_brown(a: Any, b: Any) -> Any:
    return (a - 3) ** 2 / 1000 - (a - b) + jnp.exp(20 * (a - b))


def _modified_brown_constraints(x: jax.Array) -> jax.Array:
    a, b, c, d, e, f = x[:6]
    u, v, w, q, y, z = x[-6:]
    return jnp.stack(
        [
            4 * (a - b**2) + b - c**2 + c - d**2,
            _cubic(a, b, c) + a**2 + c - d**2 + d - e**2,
            _cubic(b, c, d) + b**2 - a + d - e**2 + a**2 + e - f**2,
            _cubic(w, q, y) + w**2 - v + y - z**2 + v**2 + z - u,
            _cubic(q, y, z) + q**2 - w + z + w**2 - v,
            8 * z * (z**2 - y) - 2 * (1 - z) + y**2 - q + q**2 - w,
        ]
    )


def _generalised_brown(a: Any, b: Any) -> Any:
    return (a**2) ** (b**2 + 1) + (b**2) ** (a**2 + 1)


def _steps(a: Any, b: Any, c: Any, d: Any, e: Any) -> Any:
    return (a - b) ** 2 + (b - c) ** 2 + (c - d) ** 2 + (d - e) ** 2


def _powers(a: Any, b: Any, c: Any, d: Any, e: Any) -> Any:
    return (a - b) ** 2 + (c - 1) ** 2 + (d - 1) ** 4 + (e - 1) ** 6


def _quartic(a: Any, b: Any, c: Any, d: Any, e: Any) -> Any:
    return (a - b) ** 4 + (b + c - 2) ** 2 + (d - 1) ** 2 + (e - 1) ** 2


def _linked(constant: float) -> Callable[..., jax.Array]:
    return _each(
        5,
        4,
        lambda a, b, c, d, e: a**2 + 3 * b - constant,
        lambda a, b, c, d, e: c**2 + 2 * d - 2 * e,
        lambda a, b, c, d, e: b**2 - e,
    )


FAMILIES = (
    _family(
        "chained Rosenbrock",
        _sum_over(2, 1, lambda a, b: 100 * (a**2 - b) ** 2 + (a - 1) ** 2),
        _each(3, 1, _rosenbrock_constraint),
        (-1.2, 1.0),
    ),
    _family("chained Wood", _sum_over(4, 2, _wood), _wood_constraints, (-2.0, 0.0)),
    _family("chained Powell", _sum_over(4, 2, _powell), _powell_constraints, (3.0, -1.0, 0.0, 1.0)),
    _family("Cragg-Levy", _sum_over(4, 2, _cragg_levy), _each(3, 1, _cubic), (1.0, 2.0, 2.0, 2.0)),
    _family("Broyden tridiagonal", _tridiagonal, _each(5, 1, _tridiagonal_constraint), (-1.0,)),
    _family(
        "Broyden banded",
        _banded,
        _each(3, 2, lambda a, b, c: 4 * b - (a - c) * jnp.exp(a - b - c) - 3),
        (3.0,),
    ),
    _family("trigonometric", _trigonometric, _trigonometric_constraints, (1.0,)),
    _family("augmented Lagrangian", _sum_over(5, 5, _augmented), _boundary_value, (-1.0, 2.0)),
    _family(
        "modified Brown", _sum_over(2, 2, _modified_brown), _modified_brown_constraints, (-1.0,)
    ),
    _family(
        "generalised Brown",
        _sum_over(2, 2, _generalised_brown),
        _each(3, 1, lambda a, b, c: (3 - 2 * b) * b + 1 - a - 2 * c),
        (-1.0,),
    ),
    _family(
        "chained HS46",
        _sum_over(5, 3, _powers),
        _each(
            5,
            3,
            lambda a, b, c, d, e: b + c**4 * d**2 - 2,
            lambda a, b, c, d, e: a**2 * d + jnp.sin(d - e) - 1,
        ),
        (2.0, 1.5, 0.5),
    ),
    _family(
        "chained HS47",
        _sum_over(5, 4, _steps),
        _each(
            5,
            4,
            lambda a, b, c, d, e: a + b**2 + c**2 - 3,
            lambda a, b, c, d, e: b + c**2 + d - 1,
            lambda a, b, c, d, e: a * e - 1,
        ),
        (2.0, 1.5, -1.0, 0.5),
    ),
    _family(
        "chained HS48",
        _sum_over(5, 3, lambda a, b, c, d, e: (a - 1) ** 2 + (b - c) ** 2 + (d - e) ** 2),
        _each(
            5,
            3,
            lambda a, b, c, d, e: a + b**2 + c + d + e - 5,
            lambda a, b, c, d, e: c**2 - 2 * (d + e) - 3,
        ),
        (3.0, 5.0, -3.0),
    ),
    _family(
        "chained HS49",
        _sum_over(5, 3, _powers),
        _each(
            5,
            3,
            lambda a, b, c, d, e: a**2 + b + c + 4 * d - 7,
            lambda a, b, c, d, e: c**2 - 5 * e - 6,
        ),
        (10.0, 7.0, -3.0),
    ),
    _family(
        "chained HS50",
        _sum_over(5, 4, _steps),
        _each(
            5,
            4,
            lambda a, b, c, d, e: a**2 + 2 * b + 3 * c**2 - 6,
            lambda a, b, c, d, e: b**2 + 2 * c + 3 * d - 6,
            lambda a, b, c, d, e: c**2 + 2 * d + 3 * e - 6,
        ),
        (35.0, 11.0, 5.0, -5.0),
    ),
    _family("chained HS51", _sum_over(5, 4, _quartic), _linked(4.0), (2.5, 0.5, 2.0, -1.0)),
    _family(
        "chained HS52",
        _sum_over(
            5,
            4,
            lambda a, b, c, d, e: (4 * a - b) ** 2 + (b + c - 2) ** 4 + (d - 1) ** 2 + (e - 1) ** 2,
        ),
        _linked(0.0),
        (2.0,),
    ),
    _family("chained HS53", _sum_over(5, 4, _quartic), _linked(0.0), (2.0,)),
)
