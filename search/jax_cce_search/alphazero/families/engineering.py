"""Filters, cameras, circuits and small networks."""

import functools
import itertools
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np

from jax_cce_search.alphazero.families.draws import (
    ACTIVATIONS,
    Drawn,
    between,
    coins,
    floats,
    pick,
    some,
)
from jax_cce_search.alphazero.families.vectors import (
    added,
    applied,
    dot,
    minus,
    plus,
    product,
    scaled,
    total,
    turned_about,
)

__all__ = [
    "camera",
    "circuit",
    "kalman_filter",
    "perceptron_scalar",
]


def perceptron_scalar(random: np.random.Generator) -> Drawn:
    """A tiny network of dense layers, whose weights are arguments in some layers."""
    widths = [*(between(random, 2, 3) for _ in range(between(random, 2, 3)))]
    widths.append(between(random, 1, 2))
    weights = [floats(random, m * n + n, -1.0) for m, n in itertools.pairwise(widths)]
    activation, free = pick(random, ACTIVATIONS), coins(random, len(weights))
    loss, biased = coins(random, 2)

    def network(*args: Any) -> Any:
        rest = iter(args)
        x = tuple(itertools.islice(rest, widths[0]))
        for k, fixed in enumerate(weights):
            w = tuple(itertools.islice(rest, len(fixed))) if free[k] else fixed
            n = len(x)
            x = applied([w[n * i : n * i + n] for i in range(widths[k + 1])], x)
            x = added(x, w[-len(x) :]) if biased else x
            x = x if loss and k == len(weights) - 1 else tuple(map(activation, x))
        return total((y - 0.5) ** 2 for y in x) if loss else x

    return network, floats(random, widths[0]) + sum(itertools.compress(weights, free), ())


# Observations and dynamics, each with its derivative.
_SENSORS: tuple[Callable[[Any], tuple[Any, Any]], ...] = (
    lambda x: (x**2, 2 * x),
    lambda x: (jnp.sin(x), jnp.cos(x)),
    lambda x: (jnp.exp(x), jnp.exp(x)),
    lambda x: (jnp.sqrt(1 + x**2), x / jnp.sqrt(1 + x**2)),
    lambda x: (x + 0.1 * jnp.sin(x), 1 + 0.1 * jnp.cos(x)),
    lambda x: (x * (1.5 - x), 1.5 - 2 * x),
)


def kalman_filter(random: np.random.Generator) -> Drawn:
    """Steps of an extended Kalman filter with one state, or one with two written out."""
    sense, move = pick(random, _SENSORS), pick(random, _SENSORS)
    steps, (single, ranging) = between(random, 2, 4), coins(random, 2)

    def scalar(mean: Any, variance: Any, drift: Any, noise: Any, *observed: Any) -> Any:
        for y in observed:
            mean, slope = move(mean)
            variance = slope**2 * variance + drift
            expected, slope = sense(mean)
            gain = slope * variance / (slope**2 * variance + noise)
            mean, variance = mean + gain * (y - expected), (1 - gain * slope) * variance
        return mean, variance

    def planar(a: Any, b: Any, p: Any, q: Any, r: Any, drift: Any, noise: Any, y: Any) -> Any:
        force, slope = move(a)
        a, b = a + 0.1 * b, 0.9 * b - 0.1 * force
        step = ((1.0, 0.1), (-0.1 * slope, 0.9))
        spread = product(product(step, ((p, q), (q, r))), zip(*step, strict=True))
        spread = tuple(map(added, spread, ((drift, 0.0), (0.0, drift))))
        expected, slope = sense(a)
        slopes = slope, 0.0
        if ranging:
            expected = jnp.sqrt(a**2 + b**2)
            slopes = a / expected, b / expected
        column = applied(spread, slopes)
        innovation = dot(slopes, column) + noise
        gains, error = tuple(c / innovation for c in column), y - expected
        pairs = ((0, 0), (0, 1), (1, 1))
        left = (spread[i][j] - gains[i] * column[j] for i, j in pairs)
        return *added((a, b), scaled(error, gains)), *left

    if single:
        return scalar, floats(random, 4 + steps)
    return planar, (*floats(random, 2), 1.0, 0.1, 0.9, *floats(random, 3))


def camera(random: np.random.Generator) -> Drawn:
    """Points seen by a turned and moved camera whose lens distorts."""
    points = floats(random, 3 * between(random, 1, 3))
    axes, (shared, free) = some(random, 3, between(random, 0, 2)), coins(random, 2)
    lens = pick(random, ("radial", "division", "wide", "decentred"))

    def seen(dx: Any, dy: Any, dz: Any, focal: Any, k: Any, m: Any, *args: Any) -> Any:
        turns, at = list(map(turned_about, axes, args)), args[len(axes) :] or points
        if shared and turns:
            turns = [functools.reduce(product, turns)]
        out = list[Any]()
        for first in range(0, len(at), 3):
            place = at[first : first + 3]
            for turn in reversed(turns):
                place = applied(turn, place)
            x, y = (place[0] + dx) / (place[2] + dz), (place[1] + dy) / (place[2] + dz)
            square = x**2 + y**2
            if lens == "division":
                factor = 1 / (1 + square * (k + m * square))
            elif lens == "wide":
                factor = k * jnp.arctan(m * jnp.sqrt(square)) / jnp.sqrt(square)
            else:
                factor = 1 + k * square + m * square**2
            u, v = focal * factor * x, focal * factor * y
            out += [u + 2 * k * x * y, v + 2 * m * x * y] if lens == "decentred" else [u, v]
        return tuple(out)

    args = 0.1, -0.2, 2.0, 1.1, 0.1, 0.2, *floats(random, len(axes))
    return seen, args + (points if free else ())


def circuit(random: np.random.Generator) -> Drawn:
    """Currents into the nodes of a network of resistors, diodes and transistors."""
    nodes = between(random, 3, 6)
    kinds = ("resistor", "diode", "bipolar", "field", "cubic")
    devices = [(pick(random, kinds), some(random, nodes, 3)) for _ in range(nodes)]
    devices += [("resistor", [k, (k + 1) % nodes, 0]) for k in range(nodes)]
    values, (free,) = floats(random, len(devices)), coins(random, 1)

    def currents(*args: Any) -> Any:
        volts, sizes, into = args[:nodes], args[nodes:] or values, [0.0] * nodes

        def flows(source: int, target: int, current: Any) -> None:
            into[source], into[target] = minus(into[source], current), plus(into[target], current)

        for (kind, (a, b, c)), size in zip(devices, sizes, strict=True):
            drop = volts[a] - volts[b]
            if kind == "resistor":
                flows(a, b, size * drop)
            elif kind == "diode":
                flows(a, b, size * (jnp.exp(drop / 0.5) - 1))
            elif kind == "cubic":
                flows(a, b, drop * (size * drop**2 - 1))
            elif kind == "field":
                flows(a, b, size * (volts[c] - volts[b] - drop / 2) * drop)
            else:
                forward, back = (jnp.exp((volts[c] - volts[k]) / 0.5) for k in (b, a))
                flows(a, b, size * (forward - back))
                flows(c, b, size * 0.02 * (forward - 1))
        return tuple(into)

    return currents, floats(random, nodes) + (values if free else ())
