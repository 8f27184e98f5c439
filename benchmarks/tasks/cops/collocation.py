"""COPS: differential equations by collocation. Sizes are numbers of intervals.

On an interval of length h, a state is u(t) = v + h sum_j w_j r^j / j!, r = (t - start) / h, and the
equation holds where r is a root of a Legendre polynomial. Variables are v and w, and the values and
the slopes of u at these places.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.tasks.nonlinear import Problem

Field = Callable[[jax.Array, jax.Array], jax.Array]


def _places(count: int) -> np.ndarray:
    """The roots of the Legendre polynomial on [0, 1]."""
    return (np.polynomial.legendre.leggauss(count)[0] + 1) / 2


def _powers(at: Any, exponents: Any) -> np.ndarray:
    """at ** k / k!, with a column for each k."""
    factorials = np.array([math.factorial(k) for k in exponents], float)
    return np.asarray(at, float)[..., None] ** np.asarray(exponents) / factorials


def _split(x: jax.Array, *shapes: tuple[int, ...]) -> list[jax.Array]:
    """Arrays of these shapes, which stand one after the other."""
    ends = np.cumsum([math.prod(shape) for shape in shapes])
    parts = jnp.split(x, ends[:-1])
    return [part.reshape(shape) for part, shape in zip(parts, shapes, strict=True)]


def _flat(parts: Sequence[Any]) -> jax.Array:
    return jnp.concatenate([jnp.ravel(part) for part in parts])


def _shapes(intervals: int, places: int, states: int) -> list[tuple[int, ...]]:
    """Those of v, of w, and of the values and slopes."""
    return [(intervals, states), *3 * [(intervals, places, states)]]


def _collocate(h: float, v: Any, w: Any, values: Any, slopes: Any) -> list[Any]:
    """What the variables miss of the polynomials, and these of being continuous."""
    places = w.shape[1]
    to_value = _powers(_places(places), range(1, places + 1))
    to_slope = _powers(_places(places), range(places))
    to_end = _powers(1.0, range(1, places + 1))
    return [
        values - v[:, None] - h * jnp.einsum("jk,iks->ijs", to_value, w),
        slopes - jnp.einsum("jk,iks->ijs", to_slope, w),
        v[1:] - v[:-1] - h * jnp.einsum("k,iks->is", to_end, w[:-1]),
    ]


def catmix(intervals: int) -> Problem:
    """14. The mixture of two catalysts along a reactor."""
    places, states = 3, 2
    shapes = [(intervals, places), *_shapes(intervals, places, states), (states,)]
    h, first = 1 / intervals, np.array([1.0, 0.0])

    def field(mixture: jax.Array, u: jax.Array) -> jax.Array:
        forth = mixture * (10 * u[1] - u[0])
        return jnp.stack([forth, -forth - (1 - mixture) * u[1]])

    def constraints(x: jax.Array) -> jax.Array:
        mixture, v, w, values, slopes, last = _split(x, *shapes)
        end = v[-1] + h * _powers(1.0, range(1, places + 1)) @ w[-1]
        flow = jax.vmap(jax.vmap(field))(mixture, values)
        equations = _collocate(h, v, w, values, slopes)
        return _flat([*equations, slopes - flow, v[0] - first, last - end])

    values = np.tile(first, intervals * places)
    start = [0 * values[::2], np.tile(first, intervals), 0 * values, values, 0 * values, first]
    free = sum(map(len, start[1:]))
    return Problem(
        lambda x: x[-1] + x[-2] - 1,
        constraints,
        np.concatenate(start),
        (
            np.append(np.zeros(intervals * places), np.full(free, -np.inf)),
            np.append(np.ones(intervals * places), np.full(free, np.inf)),
        ),
    )


def channel(intervals: int) -> Problem:
    """7. Flow in a channel with porous walls: one equation of order four, at Reynolds number 10."""
    places, order, reynolds = 4, 4, 10.0
    h = 1 / intervals
    shapes = _shapes(intervals, places, order)
    shapes[1] = (intervals, places)
    at = _places(places)

    def expand(r: Any, v: Any, w: Any) -> jax.Array:
        """u and its first derivatives at r of each interval, (intervals, order)."""
        derivatives = []
        for s in range(order):
            by_v = _powers(r * h, range(order - s))
            by_w = h ** (order - s) * _powers(r, range(order - s, order - s + places))
            derivatives.append(v[:, s:] @ by_v + w @ by_w)
        return jnp.stack(derivatives, -1)

    def constraints(x: jax.Array) -> jax.Array:
        v, w, values, derivatives = _split(x, *shapes)
        to_value = _powers(at, range(1, places + 1))
        equation = w @ _powers(at, range(places)).T
        u, u1, u2, u3 = jnp.moveaxis(derivatives, -1, 0)
        ends = expand(1.0, v, w)
        return _flat(
            [
                values - v[:, None] - h * (w @ to_value.T)[:, :, None],
                derivatives - jnp.stack([expand(r, v, w) for r in at], 1),
                equation - reynolds * (u1 * u2 - u * u3),
                v[1:] - ends[:-1],
                v[0, :2],
                ends[-1, :2] - np.array([1.0, 0.0]),
            ]
        )

    t = h * np.arange(intervals)
    v = np.stack([t**2 * (3 - 2 * t), 6 * t * (1 - t), 6 * (1 - 2 * t), np.full_like(t, -12)], 1)
    none = np.zeros(intervals * places)
    values = np.repeat(v, places, 0).ravel()
    start = np.concatenate([v.ravel(), none, values, np.tile(none, order)])
    return Problem(lambda x: jnp.ones((), x.dtype), constraints, start)


def _estimate(
    field: Field, intervals: int, places: int, seen: np.ndarray, first: Any, guess: Any
) -> Problem:
    """The parameters of an equation, least squares of what was seen, a row (time, *states) each.

    Args:
        field: the slope of the states, shape (states,), of the parameters and the states.
        intervals: how many of them.
        places: how many of an interval.
        seen: what was seen.
        first: the first states, None where they are sought, too.
        guess: where the search for the parameters begins.
    """
    times, states = seen[:, 0], seen[:, 1:]
    shapes = [(len(guess),), *_shapes(intervals, places, states.shape[1])]
    h = times[-1] / intervals
    interval = np.minimum(intervals - 1, np.floor(times / h).astype(int))
    weights = h * _powers(times / h - interval, range(1, places + 1))

    def objective(x: jax.Array) -> jax.Array:
        _, v, w, *_ = _split(x, *shapes)
        found = v[interval] + jnp.einsum("mk,mks->ms", weights, w[interval])
        return jnp.sum((found - states) ** 2)

    def constraints(x: jax.Array) -> jax.Array:
        parameters, v, w, values, slopes = _split(x, *shapes)
        flow = jax.vmap(jax.vmap(functools.partial(field, parameters)))(values)
        given = [] if first is None else [v[0] - np.asarray(first)]
        return _flat([*_collocate(h, v, w, values, slopes), slopes - flow, *given])

    # Until the first observation what is known there, then what is seen next.
    next_seen = np.searchsorted(interval, np.arange(intervals))
    known = states.copy()
    known[0] = states[0] if first is None else first
    v = known[np.minimum(next_seen, len(times) - 1)]
    values = np.repeat(v, places, 0).ravel()
    free = v.size + 3 * values.size
    return Problem(
        objective,
        constraints,
        np.concatenate([guess, v.ravel(), 0 * values, values, 0 * values]),
        (np.append(np.zeros(len(guess)), np.full(free, -np.inf)), np.inf),
    )


def _table(text: str) -> np.ndarray:
    return np.loadtxt(text.splitlines())


def pinene(intervals: int) -> Problem:
    """5. The isomerisation of alpha-pinene."""

    def field(k: jax.Array, u: jax.Array) -> jax.Array:
        across = k[3] * u[2] - k[4] * u[4]
        return jnp.stack(
            [
                -(k[0] + k[1]) * u[0],
                k[0] * u[0],
                k[1] * u[0] - k[2] * u[2] - across,
                k[2] * u[2],
                across,
            ]
        )

    return _estimate(field, intervals, 3, _PINENE, [100.0, 0.0, 0.0, 0.0, 0.0], np.zeros(5))


_PINENE = _table("""\
1230 88.35 7.3 2.3 0.4 1.75
3060 76.4 15.6 4.5 0.7 2.8
4920 65.1 23.1 5.3 1.1 5.8
7800 50.4 32.9 6.0 1.5 9.3
10680 37.5 42.7 6.0 1.9 12.0
15030 25.9 49.1 5.9 2.2 17.0
22620 14.0 57.4 5.1 2.6 21.0
36420 4.5 63.1 3.8 2.9 25.7""")


def marine(intervals: int) -> Problem:
    """6. Growth and mortality of the stages of a marine population."""

    def field(rates: jax.Array, u: jax.Array) -> jax.Array:
        grown = rates[:7] * u[:-1]
        return jnp.pad(grown, (1, 0)) - jnp.pad(grown, (0, 1)) - rates[7:] * u

    return _estimate(field, intervals, 1, _MARINE, None, np.zeros(15))


_MARINE = _table("""\
0 20000 17000 10000 15000 12000 9000 7000 3000
0.5 12445 15411 13040 13338 13484 8426 6615 4022
1 7705 13074 14623 11976 12453 9272 6891 5020
1.5 4664 8579 12434 12603 11738 9710 6821 5722
2 2977 7053 11219 11340 13665 8534 6242 5695
2.5 1769 5054 10065 11232 12112 9600 6647 7034
3 943 3907 9473 10334 11115 8826 6842 7348
3.5 581 2624 7421 10297 12427 8747 7199 7684
4 355 1744 5369 7748 10057 8698 6542 7410
4.5 223 1272 4713 6869 9564 8766 6810 6961
5 137 821 3451 6050 8671 8291 6827 7525
5.5 87 577 2649 5454 8430 7411 6423 8388
6 49 337 2058 4115 7435 7627 6268 7189
6.5 32 228 1440 3790 6474 6658 5859 7467
7 17 168 1178 3087 6524 5880 5562 7144
7.5 11 99 919 2596 5360 5762 4480 7256
8 7 65 647 1873 4556 5058 4944 7538
8.5 4 44 509 1571 4009 4527 4233 6649
9 2 27 345 1227 3677 4229 3805 6378
9.5 1 20 231 934 3197 3695 3159 6454
10 1 12 198 707 2562 3163 3232 5566""")


def gasoil(intervals: int) -> Problem:
    """12. The catalytic cracking of gas oil."""

    def field(k: jax.Array, u: jax.Array) -> jax.Array:
        return jnp.stack([-(k[0] + k[2]) * u[0] ** 2, k[0] * u[0] ** 2 - k[1] * u[1]])

    return _estimate(field, intervals, 4, _GASOIL, [1.0, 0.0], np.zeros(3))


_GASOIL = _table("""\
0 1 0
0.025 0.8105 0.2
0.05 0.6208 0.2886
0.075 0.5258 0.301
0.1 0.4345 0.3215
0.125 0.3903 0.3123
0.15 0.3342 0.2716
0.175 0.3034 0.2551
0.2 0.2735 0.2258
0.225 0.2405 0.1959
0.25 0.2283 0.1789
0.3 0.2071 0.1457
0.35 0.1669 0.1198
0.4 0.153 0.0909
0.45 0.1339 0.0719
0.5 0.1265 0.0561
0.55 0.12 0.046
0.65 0.099 0.028
0.75 0.087 0.019
0.85 0.077 0.014
0.95 0.069 0.01""")


def methanol(intervals: int) -> Problem:
    """13. Hydrocarbons from methanol."""

    def field(k: jax.Array, u: jax.Array) -> jax.Array:
        below = (k[1] + k[4]) * u[0] + u[1]
        return jnp.stack(
            [
                -(2 * k[1] - k[0] * u[1] / below + k[2] + k[3]) * u[0],
                k[0] * u[0] * (k[1] * u[0] - u[1]) / below + k[2] * u[0],
                k[0] * u[0] * (u[1] + k[4] * u[0]) / below + k[3] * u[0],
            ]
        )

    return _estimate(field, intervals, 3, _METHANOL, [1.0, 0.0, 0.0], np.ones(5))


_METHANOL = _table("""\
0 1 0 0
0.05 0.7085 0.1621 0.0811
0.065 0.5971 0.1855 0.0965
0.08 0.5537 0.1989 0.1198
0.123 0.3684 0.2845 0.1535
0.233 0.1712 0.3491 0.2097
0.273 0.1198 0.3098 0.2628
0.354 0.0747 0.3576 0.2467
0.397 0.0529 0.3347 0.2884
0.418 0.0415 0.3388 0.2757
0.502 0.0261 0.3557 0.3167
0.553 0.0208 0.3483 0.2954
0.681 0.0085 0.3836 0.295
0.75 0.0053 0.3611 0.2937
0.916 0.0019 0.3609 0.2831
0.937 0.0018 0.3485 0.2846
1.122 0.0006 0.3698 0.2899""")
