"""Loops of 10 to 1000 steps: integrators, recurrent networks, iterations and shooting."""

from __future__ import annotations

import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from benchmarks.programs.program import Family, Made, Program, one_of


def _lotka_volterra(steps: int) -> Program:
    def field(y: jax.Array, p: jax.Array) -> jax.Array:
        prey, predator = y
        return jnp.array(
            [p[0] * prey - p[1] * prey * predator, p[2] * prey * predator - p[3] * predator]
        )

    def fun(p: jax.Array) -> jax.Array:
        dt = 10.0 / steps

        def step(y: jax.Array, _: None) -> tuple[jax.Array, None]:
            k1 = field(y, p)
            k2 = field(y + dt / 2 * k1, p)
            k3 = field(y + dt / 2 * k2, p)
            k4 = field(y + dt * k3, p)
            return y + dt / 6 * (k1 + 2 * k2 + 2 * k3 + k4), None

        return lax.scan(step, jnp.array([1.0, 0.5]), None, length=steps)[0]

    return Program(
        f"Lotka-Volterra, {steps} RK4 steps",
        "Sensitivities by parameters of a scanned integrator, as in ODE tutorials with JAX",
        lambda _: (fun, np.array([1.1, 0.4, 0.2, 0.6])),
    )


def _network(draw: np.random.Generator, *widths: int) -> list[tuple[np.ndarray, np.ndarray]]:
    return [
        (draw.normal(size=(n, m)) / np.sqrt(n), 0.1 * draw.normal(size=m))
        for n, m in itertools.pairwise(widths)
    ]


def _field(y: jax.Array, layers: Any) -> jax.Array:
    for w, b in layers[:-1]:
        y = jnp.tanh(y @ w + b)
    w, b = layers[-1]
    return y @ w + b


def _flow_map(width: int, steps: int) -> Program:
    def fun(y: jax.Array, layers: Any) -> jax.Array:
        return lax.fori_loop(0, steps, lambda _, y: y + _field(y, layers) / steps, y)

    return Program(
        f"neural ODE of {width}, {steps} Euler steps",
        "The flow map's Jacobian, for log-determinants of continuous normalising flows",
        lambda draw: (fun, draw.normal(size=width), _network(draw, width, 32, width)),
    )


def _neural_ode_loss(points: int, steps: int) -> Program:
    def loss(layers: Any, y: jax.Array, target: jax.Array) -> jax.Array:
        def step(y: jax.Array, _: None) -> tuple[jax.Array, None]:
            return y + _field(y, layers) / steps, None

        return jnp.mean((lax.scan(step, y, None, length=steps)[0] - target) ** 2)

    return Program(
        f"neural ODE loss, {points} points and {steps} Euler steps",
        "Training by discretise-then-optimise: the gradient by all weights of a scanned network",
        lambda draw: (
            loss,
            _network(draw, 2, 16, 16, 2),
            draw.normal(size=(points, 2)),
            draw.normal(size=(points, 2)),
        ),
    )


def _logistic_map(steps: int) -> Program:
    def fun(x: jax.Array) -> jax.Array:
        rate, start = x
        return lax.fori_loop(0, steps, lambda _, y: rate * y * (1 - y), start)

    return Program(
        f"logistic map, {steps} steps",
        "Lyapunov exponents by a loop; a first example of lax.fori_loop",
        lambda _: (fun, np.array([2.9, 0.3])),
    )


def _heat(n: int, steps: int) -> Program:
    def fun(u: jax.Array) -> jax.Array:
        def step(_: Any, u: jax.Array) -> jax.Array:
            return u.at[1:-1].add(0.2 * (u[2:] - 2 * u[1:-1] + u[:-2]))

        return lax.fori_loop(0, steps, step, u)

    return Program(
        f"heat equation, {n} unknowns and {steps} steps",
        "Explicit finite differences in lax.fori_loop, for the initial state of an inverse problem",
        lambda draw: (fun, draw.normal(size=n)),
    )


def _rnn(length: int, inputs: int, hidden: int) -> Program:
    """The last state by the inputs, whose norms show vanishing gradients."""

    def make(draw: np.random.Generator) -> Made:
        weights = (
            draw.normal(size=(hidden, inputs)) / np.sqrt(inputs),
            draw.normal(size=(hidden, hidden)) / np.sqrt(hidden),
            0.1 * draw.normal(size=hidden),
        )

        def fun(xs: jax.Array, weights: Any) -> jax.Array:
            wx, wh, b = weights
            step = lambda h, x: (jnp.tanh(wx @ x + wh @ h + b), None)  # noqa: E731
            return lax.scan(step, jnp.zeros(hidden), xs)[0]

        return fun, draw.normal(size=(length, inputs)), weights

    return Program(
        f"RNN of {hidden}, {length} inputs of {inputs}",
        "Saliency and vanishing gradients of an Elman network by lax.scan",
        make,
    )


def _gru(length: int, inputs: int, hidden: int) -> Program:
    def make(draw: np.random.Generator) -> Made:
        def fun(weights: dict[str, jax.Array], xs: jax.Array) -> jax.Array:
            def step(h: jax.Array, x: jax.Array) -> tuple[jax.Array, None]:
                both = jnp.concatenate([x, h])
                update = jax.nn.sigmoid(weights["update"] @ both)
                reset = jax.nn.sigmoid(weights["reset"] @ both)
                new = jnp.tanh(weights["new"] @ jnp.concatenate([x, reset * h]))
                return (1 - update) * h + update * new, None

            h, _ = lax.scan(step, jnp.zeros(hidden), xs)
            return jax.nn.log_softmax(weights["out"] @ h)[0]

        shape = (hidden, inputs + hidden)
        weights = {k: draw.normal(size=shape) / np.sqrt(shape[1]) for k in ("update", "reset")}
        weights["new"] = draw.normal(size=shape) / np.sqrt(shape[1])
        weights["out"] = draw.normal(size=(3, hidden)) / np.sqrt(hidden)
        return fun, weights, draw.normal(size=(length, inputs))

    return Program(
        f"GRU of {hidden}, log-likelihood after {length} inputs",
        "The gradient by a dictionary of weights, through time (Cho et al. 2014, by lax.scan)",
        make,
    )


def _linear_recurrence(length: int, width: int) -> Program:
    """A diagonal state-space layer by a parallel scan."""

    def make(draw: np.random.Generator) -> Made:
        def fun(decays: jax.Array, xs: jax.Array) -> jax.Array:
            rates = jnp.broadcast_to(jax.nn.sigmoid(decays), xs.shape)
            join = lambda p, q: (q[0] * p[0], q[0] * p[1] + q[1])  # noqa: E731
            states = lax.associative_scan(join, (rates, xs))[1]
            return jnp.mean(jnp.tanh(states), axis=1)

        return fun, draw.normal(1.0, 1.0, size=width), draw.normal(size=(length, width))

    return Program(
        f"linear recurrence of {width}, associative_scan over {length}",
        "Deep state-space layers (S5, LRU) in JAX",
        make,
    )


def _kepler(n: int, steps: int) -> Program:
    """Eccentric anomalies by Newton's method, and positions on the orbit."""

    def fun(orbit: jax.Array, times: jax.Array) -> jax.Array:
        axis, eccentricity, phase, period = orbit
        mean = 2 * jnp.pi * times / period + phase

        def step(_: Any, angle: jax.Array) -> jax.Array:
            error = angle - eccentricity * jnp.sin(angle) - mean
            return angle - error / (1 - eccentricity * jnp.cos(angle))

        angle = lax.fori_loop(0, steps, step, mean)
        across = jnp.sqrt(1 - eccentricity**2) * jnp.sin(angle)
        return axis * jnp.stack([jnp.cos(angle) - eccentricity, across], axis=1)

    return Program(
        f"Kepler's equation at {n} times, {steps} Newton steps",
        "Orbit fitting with a fixed number of Newton iterations in lax.fori_loop",
        lambda draw: (fun, np.array([1.5, 0.3, 0.4, 2.2]), np.sort(draw.uniform(0, 9, size=n))),
    )


def _implicit_euler(steps: int, iterations: int) -> Program:
    """Van der Pol's stiff oscillator, with Newton's method in every step."""

    def field(y: jax.Array, mu: jax.Array) -> jax.Array:
        return jnp.array([y[1], mu * (1 - y[0] ** 2) * y[1] - y[0]])

    def fun(x: dict[str, jax.Array]) -> jax.Array:
        dt = 0.05

        def step(old: jax.Array, _: Any) -> tuple[jax.Array, jax.Array]:
            def residual(y: jax.Array) -> jax.Array:
                return y - old - dt * field(y, x["mu"])

            y = old
            for _ in range(iterations):
                y = y - jnp.linalg.solve(jax.jacfwd(residual)(y), residual(y))
            return y, y[0]

        return lax.scan(step, x["start"], None, length=steps)[1]

    return Program(
        f"stiff Van der Pol, {steps} implicit Euler steps of {iterations} Newton",
        "Hand-written implicit integrators with jax.jacfwd and jnp.linalg.solve in the step",
        lambda _: (fun, {"mu": np.array(5.0), "start": np.array([1.5, -0.4])}),
    )


def _unrolled_pendulum(steps: int) -> Program:
    def fun(x: jax.Array) -> jax.Array:
        angle, rate, damping, length = x
        for _ in range(steps):
            rate = rate - 0.05 * (9.81 / length * jnp.sin(angle) + damping * rate)
            angle = angle + 0.05 * rate
        return jnp.stack([angle, rate])

    return Program(
        f"damped pendulum, {steps} unrolled steps",
        "A Python loop of semi-implicit Euler steps, the first version that everybody writes",
        lambda _: (fun, np.array([0.8, -0.3, 0.2, 1.1])),
    )


def _shooting(steps: int) -> Program:
    """Swing-up of a pendulum: the cost of a sequence of torques."""

    def cost(torques: jax.Array, start: jax.Array) -> jax.Array:
        def step(state: jax.Array, u: jax.Array) -> tuple[jax.Array, jax.Array]:
            angle, rate = state
            rate = rate + 0.05 * (9.81 * jnp.sin(angle) + 3 * u - 0.1 * rate)
            state = jnp.array([angle + 0.05 * rate, rate])
            return state, (1 - jnp.cos(angle)) + 0.1 * rate**2 + 1e-3 * u**2

        end, costs = lax.scan(step, start, torques)
        return jnp.sum(costs) + 10 * jnp.sum(end**2)

    return Program(
        f"pendulum swing-up, {steps} torques",
        "Single shooting of model predictive control, for Newton's method on the controls",
        lambda draw: (cost, 0.3 * draw.normal(size=steps), np.array([2.8, 0.1])),
        derivative="hessian",
    )


def _lane_change(steps: int) -> Program:
    """The states of a kinematic bicycle under a sequence of accelerations and steering rates."""

    def fun(controls: jax.Array, start: jax.Array) -> jax.Array:
        def step(state: jax.Array, u: jax.Array) -> tuple[jax.Array, jax.Array]:
            _, _, heading, speed, steering = state
            motion = [jnp.cos(heading), jnp.sin(heading), jnp.tan(steering) / 2.7]
            rates = jnp.concatenate([speed * jnp.stack(motion), u])
            state = state + 0.1 * rates
            return state, state

        return lax.scan(step, start, controls)[1]

    start = np.array([0.0, 0.0, 0.1, 8.0, 0.02])
    return Program(
        f"bicycle states under {steps} controls",
        "The constraint Jacobian of sequential convex programming with states eliminated",
        lambda draw: (fun, 0.1 * draw.normal(size=(steps, 2)), start.copy()),
    )


def _leapfrog(n: int, steps: int) -> Program:
    def energy(q: jax.Array) -> jax.Array:
        return jnp.sum((q[1:] - q[:-1] ** 2) ** 2) + 0.5 * jnp.sum((1 - q) ** 2)

    def fun(state: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        def step(state: Any, _: None) -> Any:
            q, p = state
            p = p - 0.01 * jax.grad(energy)(q)
            q = q + 0.02 * p
            return (q, p - 0.01 * jax.grad(energy)(q)), None

        return lax.scan(step, state, None, length=steps)[0]

    return Program(
        f"leapfrog in {n} dimensions, {steps} steps",
        "Hamiltonian Monte Carlo's proposal with jax.grad inside; tests that it keeps volume",
        lambda draw: (fun, (0.5 * draw.normal(size=n), draw.normal(size=n))),
    )


def _ridge_training(n: int, steps: int) -> Program:
    """The validation loss after gradient descent, by rate, momentum and penalty."""

    def make(draw: np.random.Generator) -> Made:
        def fun(x: jax.Array, data: tuple[jax.Array, ...]) -> jax.Array:
            inputs, targets, new_inputs, new_targets = data
            rate, momentum, penalty = jnp.exp(x)

            def loss(w: jax.Array) -> jax.Array:
                return jnp.mean((inputs @ w - targets) ** 2) + penalty * jnp.sum(w**2)

            def step(_: Any, state: Any) -> Any:
                w, v = state
                v = momentum * v - rate * jax.grad(loss)(w)
                return w + v, v

            w, _ = lax.fori_loop(0, steps, step, (jnp.zeros(n), jnp.zeros(n)))
            return jnp.mean((new_inputs @ w - new_targets) ** 2)

        shapes: tuple[tuple[int, ...], ...] = ((4 * n, n), (4 * n,), (4 * n, n), (4 * n,))
        return fun, np.log([0.05, 0.5, 0.01]), tuple(draw.normal(size=s) for s in shapes)

    return Program(
        f"ridge regression of {n}, {steps} unrolled descents",
        "Hyperparameters by differentiating through training (Maclaurin et al. 2015)",
        make,
        derivative="hessian",
    )


def _draw(draw: np.random.Generator) -> Program:
    def size(low: int, high: int) -> int:
        return int(draw.integers(low, high + 1))

    # A program of a size, and the largest batch that is usual for it.
    programs = (
        lambda: (_lotka_volterra(size(20, 1000)), 64),
        lambda: (_flow_map(size(2, 24), size(10, 40)), 32),
        lambda: (_neural_ode_loss(size(8, 64), size(10, 40)), 8),
        lambda: (_logistic_map(size(10, 1000)), 1024),
        lambda: (_heat(size(16, 96), size(10, 100)), 8),
        lambda: (_rnn(size(10, 40), size(1, 8), size(4, 24)), 32),
        lambda: (_gru(size(10, 40), size(1, 8), size(4, 24)), 16),
        lambda: (_linear_recurrence(size(16, 128), size(2, 16)), 8),
        lambda: (_kepler(size(10, 100), size(5, 12)), 64),
        lambda: (_implicit_euler(size(10, 60), size(2, 4)), 32),
        lambda: (_unrolled_pendulum(size(5, 20)), 512),
        lambda: (_shooting(size(10, 50)), 16),
        lambda: (_lane_change(size(5, 30)), 32),
        lambda: (_leapfrog(size(2, 16), size(10, 50)), 32),
        lambda: (_ridge_training(size(3, 16), size(10, 100)), 8),
    )
    return one_of(programs, draw)


FAMILY = Family(
    "loops",
    (
        _lotka_volterra(1000),
        _lotka_volterra(100).settings(batch=64, dtype="float32"),
        _flow_map(8, 20),
        _flow_map(4, 10).settings(batch=128, dtype="float32"),
        _neural_ode_loss(32, 20).settings(dtype="float32"),
        _logistic_map(100),
        _logistic_map(20).settings(batch=4096),
        _heat(64, 50),
        _rnn(20, 3, 16),
        _gru(20, 4, 16).settings(dtype="float32"),
        _linear_recurrence(64, 8),
        _kepler(50, 8),
        _kepler(30, 10).settings(batch=64),
        _implicit_euler(20, 3),
        _unrolled_pendulum(10),
        _unrolled_pendulum(10).settings(batch=512, dtype="float32"),
        _shooting(30),
        _shooting(15).settings(batch=32, dtype="float32"),
        _shooting(20).settings(batch=16),
        _lane_change(15),
        _leapfrog(8, 20),
        _leapfrog(3, 10).settings(batch=256),
        _ridge_training(8, 50),
        _ridge_training(4, 20).settings(batch=32),
    ),
    _draw,
)
