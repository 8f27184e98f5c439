"""Time series: filters, smoothers, hidden states and linear recurrences."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.scipy.special import logsumexp
from jax.scipy.stats import norm

from benchmarks.programs.program import Made, Program
from benchmarks.programs.through_time.case import Around, Case, as_is


def _kalman(steps: int, around: Around = as_is) -> Program:
    readings = np.cumsum(np.random.default_rng(0).normal(size=steps))

    def likelihood(p: jax.Array) -> jax.Array:
        move = jnp.array([[1.0, 0.0], [0.0, 1.0]]).at[0, 1].set(p[3])
        noise = jnp.diag(p[:2] ** 2)

        def step(state: Any, reading: jax.Array) -> tuple[Any, jax.Array]:
            mean, cov = state
            mean, cov = move @ mean, move @ cov @ move.T + noise
            spread, error = cov[0, 0] + p[2] ** 2, reading - mean[0] - p[4]
            gain = cov[:, 0] / spread
            state = mean + gain * error, cov - jnp.outer(gain, cov[0])
            return state, jnp.log(spread) + error * error / spread

        start = jnp.zeros(2) + p[5], jnp.eye(2)
        return -0.5 * jnp.sum(lax.scan(around(step), start, jnp.asarray(readings))[1])

    return Program(
        f"Kalman likelihood, {steps} steps",
        "Structural time series (Harvey 1989): the likelihood by six parameters",
        lambda _: (likelihood, np.array([0.3, 0.2, 0.5, 1.0, 0.1, 0.2])),
    )


def _tracked(x: dict[str, jax.Array], readings: jax.Array) -> Any:
    """The extended Kalman filter of a target at constant velocity, seen in range and bearing.

    Returns means and covariances before and after each reading, and its negative log-likelihoods.
    """
    process, noise = jnp.exp(x["process"]), jnp.diag(jnp.exp(2 * x["noise"]))
    dt = 0.1
    move = jnp.eye(4) + dt * jnp.eye(4, k=2)
    shock = process * jnp.concatenate([jnp.full(2, dt**3 / 3), jnp.full(2, dt)])
    spread = jnp.diag(shock)

    def seen(state: jax.Array) -> jax.Array:
        return jnp.stack([jnp.hypot(state[0], state[1]), jnp.arctan2(state[1], state[0])])

    def step(carry: Any, reading: jax.Array) -> Any:
        mean, cov = carry
        ahead, cov_ahead = move @ mean, move @ cov @ move.T + spread
        look = jax.jacfwd(seen)(ahead)
        error = reading - seen(ahead)
        innovation = look @ cov_ahead @ look.T + noise
        gain = jnp.linalg.solve(innovation, look @ cov_ahead).T
        mean, cov = ahead + gain @ error, cov_ahead - gain @ look @ cov_ahead
        weighted = error @ jnp.linalg.solve(innovation, error)
        term = 0.5 * (weighted + jnp.log(jnp.linalg.det(innovation)))
        return (mean, cov), (ahead, cov_ahead, mean, cov, term)

    return move, lax.scan(step, (x["start"], 0.5 * jnp.eye(4)), readings)[1]


def _target(steps: int) -> tuple[dict[str, np.ndarray], np.ndarray]:
    draw = np.random.default_rng(2)
    path = np.array([3.0, 2.0]) + 0.1 * np.arange(1, steps + 1)[:, None] * np.array([0.6, -0.1])
    exact = np.stack([np.hypot(*path.T), np.arctan2(path[:, 1], path[:, 0])], 1)
    unknown = {
        "process": np.array(np.log(0.1)),
        "noise": np.log([0.1, 0.02]),
        "start": np.array([2.9, 2.1, 0.5, -0.2]),
    }
    return unknown, exact + draw.normal(size=(steps, 2)) * np.array([0.1, 0.02])


def _ekf_likelihood(steps: int) -> Program:
    return Program(
        f"EKF likelihood, {steps} readings",
        "Tracking by range and bearing (Bar-Shalom): the likelihood by noise and initial state",
        lambda _: (lambda x, ys: -jnp.sum(_tracked(x, ys)[1][4]), *_target(steps)),
    )


def _ekf_means(steps: int) -> Program:
    return Program(
        f"EKF means, {steps} readings",
        "Tracking by range and bearing: all filtered means by noise and initial state",
        lambda _: (lambda x, ys: _tracked(x, ys)[1][2], *_target(steps)),
    )


def _smoother(steps: int) -> Program:
    def fun(x: dict[str, jax.Array], readings: jax.Array) -> jax.Array:
        move, (ahead, cov_ahead, means, covs, _) = _tracked(x, readings)

        def step(later: Any, at: Any) -> Any:
            mean, cov, ahead, cov_ahead = at
            gain = jnp.linalg.solve(cov_ahead, move @ cov).T
            smooth = mean + gain @ (later[0] - ahead)
            smooth_cov = cov + gain @ (later[1] - cov_ahead) @ gain.T
            return (smooth, smooth_cov), smooth

        before = (means[:-1], covs[:-1], ahead[1:], cov_ahead[1:])
        smooth = lax.scan(step, (means[-1], covs[-1]), before, reverse=True)[1]
        return jnp.concatenate([smooth, means[-1:]])

    return Program(
        f"RTS smoother, {steps} readings",
        "Rauch, Tung and Striebel after the extended filter: all means by noise and initial state",
        lambda _: (fun, *_target(steps)),
    )


def _hidden_markov(steps: int) -> Program:
    """Posteriors of five hidden states at each reading, by forward and backward messages."""

    def fun(x: dict[str, jax.Array], readings: jax.Array) -> jax.Array:
        move = jax.nn.log_softmax(x["transitions"], axis=1)
        seen = norm.logpdf(readings[:, None], x["means"], jnp.exp(x["scales"]))

        def forward(message: jax.Array, term: jax.Array) -> tuple[jax.Array, jax.Array]:
            message = logsumexp(message[:, None] + move, axis=0) + term
            return message, message

        def backward(message: jax.Array, term: jax.Array) -> tuple[jax.Array, jax.Array]:
            before = logsumexp(move + (term + message)[None, :], axis=1)
            return before, before

        first = seen[0] - jnp.log(5.0)
        after = lax.scan(forward, first, seen[1:])[1]
        ahead = lax.scan(backward, jnp.zeros(5), seen[1:], reverse=True)[1]
        joint = jnp.concatenate([first[None], after]) + jnp.concatenate([ahead, jnp.zeros((1, 5))])
        return jax.nn.softmax(joint, axis=1)

    def make(draw: np.random.Generator) -> Made:
        x = {
            "transitions": 2 * np.eye(5) + 0.3 * draw.normal(size=(5, 5)),
            "means": np.linspace(-2, 2, 5),
            "scales": 0.1 * draw.normal(size=5),
        }
        hidden = (np.arange(steps) // 7) % 5
        return fun, x, np.linspace(-2, 2, 5)[hidden] + draw.normal(size=steps)

    return Program(
        f"HMM smoother, {steps} readings",
        "Rabiner (1989): posteriors by transition logits and emission parameters",
        make,
    )


def _holt_winters(steps: int) -> Program:
    """Fitted values with a trend and twelve additive seasons."""

    def fun(p: jax.Array, readings: jax.Array) -> jax.Array:
        alpha, beta, gamma, level = p

        def step(carry: Any, y: jax.Array) -> Any:
            level, trend, seasons = carry
            fitted = level + trend + seasons[0]
            after = alpha * (y - seasons[0]) + (1 - alpha) * (level + trend)
            slope = beta * (after - level) + (1 - beta) * trend
            season = gamma * (y - level - trend) + (1 - gamma) * seasons[0]
            return (after, slope, jnp.append(seasons[1:], season)), fitted

        seasons = jnp.sin(2 * jnp.pi * jnp.arange(12) / 12)
        return lax.scan(step, (level, jnp.zeros_like(level), seasons), readings)[1]

    def make(draw: np.random.Generator) -> Made:
        t = np.arange(steps)
        readings = 10 + 0.05 * t + np.sin(2 * np.pi * t / 12) + 0.2 * draw.normal(size=steps)
        return fun, np.array([0.3, 0.1, 0.2, 10.0]), readings

    return Program(
        f"Holt-Winters, {steps} readings",
        "Exponential smoothing (Winters 1960): fitted values by three rates and the first level",
        make,
    )


def _linear_recurrence(steps: int) -> Program:
    """h[t] = gate[t] h[t-1] + x[t] for all t at once."""

    def fun(gates: jax.Array, inputs: jax.Array) -> jax.Array:
        def then(first: Any, second: Any) -> Any:
            return second[0] * first[0], second[0] * first[1] + second[1]

        return lax.associative_scan(then, (jax.nn.sigmoid(gates), inputs))[1]

    return Program(
        f"linear recurrence by associative scan, {steps} gates",
        "Linear recurrent units and state-space layers: all states by all gates",
        lambda draw: (fun, 1 + 0.5 * draw.normal(size=steps), draw.normal(size=steps)),
    )


KALMAN = Case(_kalman, 500)
HOLT_WINTERS = Case(_holt_winters, 240)
CASES = (
    KALMAN,
    Case(_ekf_likelihood, 200),
    Case(_ekf_means, 200),
    Case(_smoother, 200),
    Case(_hidden_markov, 200),
    HOLT_WINTERS,
    Case(_linear_recurrence, 256),
)
