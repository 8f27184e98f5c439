"""Iterations and cells: recurrent networks, implicit steps, equilibria and Sinkhorn's scaling."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.lax.linalg import tridiagonal_solve
from jax.scipy.special import logsumexp

from benchmarks.programs.program import Made, Program
from benchmarks.programs.through_time.case import Around, Case, as_is


def _outputs(around: Around, weights: dict[str, jax.Array], inputs: jax.Array) -> jax.Array:
    """What a gated recurrent unit makes of a sequence, one number a step."""

    def step(h: jax.Array, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        both = jnp.concatenate([x, h])
        update = jax.nn.sigmoid(weights["update"] @ both + weights["update_bias"])
        reset = jax.nn.sigmoid(weights["reset"] @ both + weights["reset_bias"])
        new = jnp.tanh(weights["new"] @ jnp.concatenate([x, reset * h]) + weights["new_bias"])
        h = (1 - update) * h + update * new
        return h, weights["read"] @ h

    return lax.scan(around(step), jnp.zeros(16), inputs)[1]


def _cell(draw: np.random.Generator, steps: int) -> tuple[dict[str, np.ndarray], np.ndarray]:
    weights = {"read": draw.normal(size=(1, 16)) / 4}
    for gate in ("update", "reset", "new"):
        weights[gate] = draw.normal(size=(16, 20)) / np.sqrt(20)
        weights[f"{gate}_bias"] = 0.1 * draw.normal(size=16)
    return weights, draw.normal(size=(steps, 4))


def _gru_by_inputs(steps: int) -> Program:
    def make(draw: np.random.Generator) -> Made:
        weights, inputs = _cell(draw, steps)
        return lambda inputs, weights: _outputs(as_is, weights, inputs), inputs, weights

    return Program(
        f"GRU by inputs, {steps} steps",
        "Saliency of a sequence model (Cho et al. 2014): all outputs by all inputs",
        make,
    )


def _gru_loss(steps: int, around: Around = as_is) -> Program:
    def loss(weights: Any, inputs: jax.Array) -> jax.Array:
        return jnp.mean((_outputs(around, weights, inputs)[:, 0] - inputs[:, 0]) ** 2)

    return Program(
        f"GRU loss by weights, {steps} steps",
        "Training by backpropagation through time: one output, 1024 weights",
        lambda draw: (loss, *_cell(draw, steps)),
    )


def _implicit_heat(steps: int) -> Program:
    """The last temperatures by the diffusivity between 64 cells."""

    def fun(log_diffusivity: jax.Array, start: jax.Array) -> jax.Array:
        k = 0.5 * jnp.exp(log_diffusivity)
        below = -k.at[0].set(0.0)
        above = jnp.append(-k[1:], 0.0)
        diagonal = 1 - below - above

        def step(u: jax.Array, _: None) -> tuple[jax.Array, None]:
            return tridiagonal_solve(below, diagonal, above, u[:, None])[:, 0], None

        return lax.scan(step, start, None, length=steps)[0]

    return Program(
        f"implicit heat equation, {steps} steps",
        "Parameter estimation with implicit Euler: a tridiagonal solve in each step of lax.scan",
        lambda draw: (fun, 0.3 * draw.normal(size=64), np.sin(np.linspace(0, 6, 64))),
    )


def _stiff_reaction(steps: int) -> Program:
    """Robertson's three species by implicit Euler, three Newton iterations a step."""

    def fun(log_rates: jax.Array) -> jax.Array:
        k1, k2, k3 = jnp.exp(log_rates)

        def field(y: jax.Array) -> jax.Array:
            a, b, c = k1 * y[0], k2 * y[1] ** 2, k3 * y[1] * y[2]
            return jnp.array([c - a, a - b - c, b])

        def step(y: jax.Array, _: None) -> tuple[jax.Array, jax.Array]:
            def residual(z: jax.Array) -> jax.Array:
                return z - y - 0.3 * field(z)

            def newton(_: Any, z: jax.Array) -> jax.Array:
                return z - jnp.linalg.solve(jax.jacfwd(residual)(z), residual(z))

            y = lax.fori_loop(0, 3, newton, y)
            return y, y

        return lax.scan(step, jnp.array([1.0, 0.0, 0.0]), None, length=steps)[1]

    return Program(
        f"stiff reaction by Newton, {steps} steps",
        "Robertson (1966) by implicit Euler: all concentrations by three rate constants",
        lambda _: (fun, np.log([0.04, 3e7, 1e4])),
    )


def _layer(weights: Any, x: dict[str, jax.Array], state: jax.Array) -> jax.Array:
    return jnp.tanh(weights["w"] @ state + weights["u"] @ x["z"] + x["b"])


def _equilibrium_data(draw: np.random.Generator) -> tuple[Any, Any]:
    x = {"z": draw.normal(size=16), "b": 0.1 * draw.normal(size=16)}
    return x, {
        "w": 0.5 * draw.normal(size=(16, 16)) / 4,
        "u": draw.normal(size=(16, 16)) / 4,
    }


def _equilibrium(steps: int) -> Program:
    def fun(x: Any, weights: Any) -> jax.Array:
        layer = functools.partial(_layer, weights, x)
        return lax.fori_loop(0, steps, lambda _, state: layer(state), jnp.zeros(16))

    return Program(
        f"deep equilibrium, {steps} iterations",
        "Bai et al. (2019), differentiated through its iterations, by input and bias",
        lambda draw: (fun, *_equilibrium_data(draw)),
    )


def _equilibrium_by_root(steps: int) -> Program:
    def fun(x: Any, weights: Any) -> jax.Array:
        layer = functools.partial(_layer, weights, x)

        def solve(_: Any, start: jax.Array) -> jax.Array:
            return lax.fori_loop(0, steps, lambda _, state: layer(state), start)

        def tangent_solve(g: Any, y: jax.Array) -> jax.Array:
            return jnp.linalg.solve(jax.jacfwd(g)(y), y)

        return lax.custom_root(lambda s: layer(s) - s, jnp.zeros(16), solve, tangent_solve)

    return Program(
        f"deep equilibrium by custom_root, {steps} iterations",
        "Bai et al. (2019) by the implicit function theorem, by input and bias",
        lambda draw: (fun, *_equilibrium_data(draw)),
    )


def _plan(steps: int, cost: jax.Array) -> jax.Array:
    """Entropic transport between uniform weights, with potentials in logarithms."""
    kernel, weight = -cost / 0.1, -jnp.log(float(len(cost)))

    def step(_: Any, potentials: Any) -> Any:
        _, g = potentials
        f = weight - logsumexp(kernel + g[None, :], axis=1)
        return f, weight - logsumexp(kernel + f[:, None], axis=0)

    f, g = lax.fori_loop(0, steps, step, (jnp.zeros(len(cost)), jnp.zeros(len(cost))))
    return jnp.exp(f[:, None] + kernel + g[None, :])


def _sinkhorn_plan(steps: int) -> Program:
    return Program(
        f"Sinkhorn plan by costs, {steps} iterations",
        "Cuturi (2013) in logarithms: the 16 x 16 plan by all costs",
        lambda draw: (functools.partial(_plan, steps), draw.uniform(size=(16, 16))),
    )


def _sinkhorn_cost(steps: int) -> Program:
    def fun(x: jax.Array, y: jax.Array) -> jax.Array:
        cost = jnp.sum((x[:, None] - y[None]) ** 2, axis=-1)
        return jnp.sum(_plan(steps, cost) * cost)

    return Program(
        f"Sinkhorn cost by positions, {steps} iterations",
        "Moving a point cloud along a transport cost: 16 points in the plane",
        lambda draw: (fun, draw.uniform(size=(16, 2)), draw.uniform(size=(16, 2))),
    )


def _kepler(rows: int) -> Program:
    """Positions of as many orbits, by elements, each by ten Newton iterations."""

    def position(elements: jax.Array) -> jax.Array:
        axis, eccentricity, turn, mean = elements

        def newton(_: Any, e: jax.Array) -> jax.Array:
            error = e - eccentricity * jnp.sin(e) - mean
            return e - error / (1 - eccentricity * jnp.cos(e))

        e = lax.fori_loop(0, 10, newton, mean)
        x = axis * (jnp.cos(e) - eccentricity)
        y = axis * jnp.sqrt(1 - eccentricity**2) * jnp.sin(e)
        cosine, sine = jnp.cos(turn), jnp.sin(turn)
        return jnp.array([cosine * x - sine * y, sine * x + cosine * y])

    def make(draw: np.random.Generator) -> Made:
        low, high = [0.8, 0.05, 0.0, 0.2], [1.5, 0.5, 1.0, 3.0]
        return lambda x: lax.map(position, x), draw.uniform(low, high, size=(rows, 4))

    return Program(
        f"Kepler's equation by lax.map, {rows} rows",
        "A loop over rows to save memory: positions of many orbits by their elements",
        make,
    )


GRU_LOSS = Case(_gru_loss, 60)
CASES = (
    Case(_gru_by_inputs, 60),
    GRU_LOSS,
    Case(_implicit_heat, 100),
    Case(_stiff_reaction, 100),
    Case(_equilibrium, 30),
    Case(_equilibrium_by_root, 30),
    Case(_sinkhorn_plan, 50),
    Case(_sinkhorn_cost, 50),
    Case(_kepler, 64),
)
