"""Likelihoods and predictions of time series: filters, smoothing and hidden states."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.scipy.special import gammaln, logsumexp
from jax.scipy.stats import norm

from benchmarks.programs.program import Family, Made, Program, one_of


def _walk(draw: np.random.Generator, length: int) -> np.ndarray:
    """A noisy random walk."""
    return np.cumsum(0.3 * draw.normal(size=length)) + 0.5 * draw.normal(size=length)


def _local_trend(length: int) -> Program:
    """The log-likelihood of level, slope and noise by their log-variances."""

    def likelihood(x: jax.Array, ys: jax.Array) -> jax.Array:
        noise, level, slope = jnp.exp(x)
        move = jnp.array([[1.0, 1.0], [0.0, 1.0]])
        process = jnp.diag(jnp.array([level, slope]))

        def step(carry: Any, y: jax.Array) -> Any:
            mean, cov = carry
            mean, cov = move @ mean, move @ cov @ move.T + process
            variance = cov[0, 0] + noise
            gain = cov[:, 0] / variance
            error = y - mean[0]
            term = -0.5 * (jnp.log(2 * jnp.pi * variance) + error**2 / variance)
            return (mean + gain * error, cov - jnp.outer(gain, cov[0])), term

        start = (jnp.zeros(2), 10.0 * jnp.eye(2))
        return jnp.sum(lax.scan(step, start, ys)[1])

    return Program(
        f"Kalman likelihood of a local trend, {length} observations",
        "Structural time series (Harvey 1989) by lax.scan over prediction and update",
        lambda draw: (likelihood, np.log([0.25, 0.1, 0.01]), _walk(draw, length)),
    )


def _linear_gaussian(states: int, outputs: int, length: int) -> Program:
    """The log-likelihood of a linear Gaussian model by its matrices."""

    def make(draw: np.random.Generator) -> Made:
        def likelihood(x: dict[str, jax.Array], ys: jax.Array) -> jax.Array:
            move, look = x["move"], x["look"]
            process = jnp.diag(jnp.exp(x["process"]))
            noise = jnp.diag(jnp.exp(x["noise"]))

            def step(carry: Any, y: jax.Array) -> Any:
                mean, cov = carry
                spread = look @ cov @ look.T + noise
                gain = jnp.linalg.solve(spread, look @ cov).T
                error = y - look @ mean
                _, logdet = jnp.linalg.slogdet(spread)
                term = logdet + error @ jnp.linalg.solve(spread, error)
                mean, cov = mean + gain @ error, cov - gain @ look @ cov
                return (move @ mean, move @ cov @ move.T + process), -0.5 * term

            return jnp.sum(lax.scan(step, (jnp.zeros(states), jnp.eye(states)), ys)[1])

        x = {
            "move": 0.9 * np.eye(states) + 0.05 * draw.normal(size=(states, states)),
            "look": draw.normal(size=(outputs, states)),
            "process": np.full(states, -2.0),
            "noise": np.full(outputs, -1.0),
        }
        return likelihood, x, draw.normal(size=(length, outputs))

    return Program(
        f"Kalman likelihood, {states} states, {outputs} outputs and {length} times",
        "System identification by gradients of the filter's likelihood with all matrices free",
        make,
    )


def _turning(x: jax.Array) -> jax.Array:
    """A coordinated turn of position, speed, heading and turn rate."""
    px, py, speed, heading, rate = x
    return jnp.array(
        [
            px + 0.1 * speed * jnp.cos(heading),
            py + 0.1 * speed * jnp.sin(heading),
            speed,
            heading + 0.1 * rate,
            rate,
        ]
    )


def _range_and_bearing(x: jax.Array) -> jax.Array:
    return jnp.stack([jnp.hypot(x[0], x[1]), jnp.arctan2(x[1], x[0])])


def _extended_step(state: tuple[jax.Array, jax.Array], y: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Prediction and update, linearised by JAX."""
    mean, cov = state
    move = jax.jacfwd(_turning)(mean)
    mean, cov = _turning(mean), move @ cov @ move.T + 0.01 * jnp.eye(5)
    look = jax.jacfwd(_range_and_bearing)(mean)
    spread = look @ cov @ look.T + jnp.diag(jnp.array([0.1, 0.01]))
    gain = cov @ look.T @ jnp.linalg.inv(spread)
    return mean + gain @ (y - _range_and_bearing(mean)), (jnp.eye(5) - gain @ look) @ cov


_TRACKED = (
    np.array([3.0, 4.0, 1.2, 0.4, 0.2]),
    0.2 * np.eye(5) + 0.02,
)
_EXTENDED = Program(
    "EKF step, coordinated turn of 5 states",
    "An extended Kalman filter with jax.jacfwd inside, tuned or smoothed by gradients (dynamax)",
    lambda _: (_extended_step, _TRACKED, np.array([5.1, 0.95])),
)


def _unscented(n: int) -> Program:
    """The predicted mean and covariance by 2 n + 1 sigma points."""

    def fun(state: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        mean, cov = state
        root = jnp.linalg.cholesky(3.0 * cov)
        points = jnp.concatenate([mean[None], mean + root.T, mean - root.T])
        weights = jnp.concatenate([jnp.full(1, 1 - n / 3.0), jnp.full(2 * n, 1 / 6.0)])
        moved = jax.vmap(lambda x: x + 0.1 * jnp.sin(jnp.roll(x, 1)) * x)(points)
        mean = weights @ moved
        apart = moved - mean
        return mean, (weights[:, None] * apart).T @ apart + 0.01 * jnp.eye(n)

    return Program(
        f"UKF prediction, {n} states",
        "The unscented transform by a Cholesky factor and vmap (Julier and Uhlmann 1997)",
        lambda draw: (fun, (draw.normal(size=n), 0.5 * np.eye(n) + 0.1)),
    )


def _smoothing(length: int) -> Program:
    def fun(x: jax.Array, ys: jax.Array) -> jax.Array:
        alpha = jax.nn.sigmoid(x[0])
        step = lambda level, y: (alpha * y + (1 - alpha) * level, y - level)  # noqa: E731
        return lax.scan(step, x[1], ys)[1]

    return Program(
        f"exponential smoothing, {length} errors",
        "One-step errors of simple smoothing for Gauss-Newton on rate and first level",
        lambda draw: (fun, np.array([-0.5, 0.2]), _walk(draw, length)),
    )


def _holt_winters(season: int, length: int) -> Program:
    """The squared error of smoothed level, trend and season."""

    def loss(x: dict[str, jax.Array], ys: jax.Array) -> jax.Array:
        alpha, beta, gamma = jax.nn.sigmoid(x["rates"])

        def step(carry: Any, y: jax.Array) -> Any:
            level, trend, seasons = carry
            error = y - (level + trend + seasons[0])
            new = alpha * (y - seasons[0]) + (1 - alpha) * (level + trend)
            trend = beta * (new - level) + (1 - beta) * trend
            latest = gamma * (y - new) + (1 - gamma) * seasons[0]
            return (new, trend, jnp.append(seasons[1:], latest)), error**2

        start = (x["level"], x["trend"], x["seasons"])
        return jnp.mean(lax.scan(step, start, ys)[1])

    def make(draw: np.random.Generator) -> Made:
        x = {
            "rates": np.array([-0.5, -2.0, -1.0]),
            "level": np.array(0.3),
            "trend": np.array(0.02),
            "seasons": np.sin(np.arange(season) * 2 * np.pi / season) + 0.1,
        }
        return loss, x, _walk(draw, length) + np.sin(np.arange(length) * 2 * np.pi / season)

    return Program(
        f"Holt-Winters, season {season} and {length} observations",
        "Forecasting with additive seasons, fitted with all starting values (Hyndman's textbook)",
        make,
    )


def _epidemic(days: int) -> Program:
    """The Poisson likelihood of an SIR model's daily cases."""

    def likelihood(x: jax.Array, cases: jax.Array) -> jax.Array:
        contact, recovery, infected, reported = jnp.exp(x)
        population = 1e5

        def step(carry: Any, observed: jax.Array) -> Any:
            s, i = carry
            new = contact * s * i / population
            expected = reported * new
            term = observed * jnp.log(expected) - expected - gammaln(observed + 1)
            return (s - new, i + new - recovery * i), term

        return jnp.sum(lax.scan(step, (population - infected, infected), cases)[1])

    return Program(
        f"SIR likelihood, {days} days of cases",
        "Compartment models with Poisson counts, in Bayesian workflows",
        lambda draw: (
            likelihood,
            np.log([0.3, 0.12, 50.0, 0.4]),
            draw.poisson(20.0, size=days).astype(float),
        ),
        derivative="hessian",
    )


def _particles(count: int, length: int) -> Program:
    """A particle filter's log-likelihood under common random numbers, weights never resampled."""

    def likelihood(x: jax.Array, ys: jax.Array, noise: jax.Array) -> jax.Array:
        mean, persistence, scale = x[0], jnp.tanh(x[1]), jnp.exp(x[2])

        def step(carry: Any, item: Any) -> Any:
            h, weights = carry
            y, shocks = item
            h = mean + persistence * (h - mean) + scale * shocks
            weights = weights + norm.logpdf(y, 0.0, jnp.exp(h / 2))
            total = logsumexp(weights)
            return (h, weights - total), total

        start = (jnp.full(count, mean), jnp.full(count, -jnp.log(count)))
        return jnp.sum(lax.scan(step, start, (ys, noise))[1])

    return Program(
        f"particle likelihood, {count} particles and {length} returns",
        "Stochastic volatility by simulated likelihood with fixed shocks",
        lambda draw: (
            likelihood,
            np.array([-0.5, 1.5, -1.2]),
            0.8 * draw.normal(size=length),
            draw.normal(size=(length, count)),
        ),
    )


def _garch(length: int) -> Program:
    """The log-likelihood contribution of each return in a GARCH(1, 1) model."""

    def terms(x: jax.Array, returns: jax.Array) -> jax.Array:
        omega, alpha, beta = jnp.exp(x[0]), jax.nn.sigmoid(x[1]), jax.nn.sigmoid(x[2])

        def step(variance: jax.Array, r: jax.Array) -> tuple[jax.Array, jax.Array]:
            term = -0.5 * (jnp.log(2 * jnp.pi * variance) + r**2 / variance)
            return omega + alpha * r**2 + beta * variance, term

        return lax.scan(step, jnp.var(returns), returns)[1]

    return Program(
        f"GARCH scores of {length} returns",
        "Every observation's score, for the sandwich covariance of volatility models",
        lambda draw: (terms, np.array([-2.5, -2.2, 1.7]), draw.standard_t(6, size=length)),
    )


def _garch_likelihood(length: int) -> Program:
    def make(draw: np.random.Generator) -> Made:
        terms, x, returns = _garch(length).make(draw)
        return lambda x, returns: -jnp.sum(terms(x, returns)), x, returns

    return Program(
        f"GARCH likelihood of {length} returns",
        "Bollerslev (1986) by lax.scan; standard errors from the Hessian",
        make,
        derivative="hessian",
    )


def _hidden_markov(states: int, length: int) -> Program:
    """The forward algorithm in logarithms, by unconstrained parameters."""

    def likelihood(x: dict[str, jax.Array], ys: jax.Array) -> jax.Array:
        log_start = jax.nn.log_softmax(x["start"])
        log_move = jax.nn.log_softmax(x["move"], axis=1)
        emissions = norm.logpdf(ys[:, None], x["means"], jnp.exp(x["scales"]))

        def step(alpha: jax.Array, emission: jax.Array) -> tuple[jax.Array, None]:
            return logsumexp(alpha[:, None] + log_move, axis=0) + emission, None

        return logsumexp(lax.scan(step, log_start + emissions[0], emissions[1:])[0])

    def make(draw: np.random.Generator) -> Made:
        x = {
            "start": 0.1 * draw.normal(size=states),
            "move": 2 * np.eye(states) + 0.1 * draw.normal(size=(states, states)),
            "means": np.linspace(-1.0, 1.2, states),
            "scales": np.full(states, -0.5),
        }
        return likelihood, x, draw.normal(size=length)

    return Program(
        f"HMM forward algorithm, {states} states and {length} times",
        "logsumexp under lax.scan, as in numpyro's example of hidden Markov models",
        make,
    )


def _volatility_path(length: int) -> Program:
    """The log-posterior of a path of log-volatilities."""

    def density(h: jax.Array, returns: jax.Array) -> jax.Array:
        path = jnp.sum(norm.logpdf(h[1:], 0.95 * h[:-1], 0.3)) + norm.logpdf(h[0], 0.0, 1.0)
        return path + jnp.sum(norm.logpdf(returns, 0.0, jnp.exp(h / 2)))

    return Program(
        f"stochastic volatility posterior, {length} returns",
        "Laplace's method on a latent path, whose Hessian is tridiagonal",
        lambda draw: (density, 0.3 * draw.normal(size=length), draw.normal(size=length)),
        derivative="hessian",
    )


def _response(states: int, steps: int) -> Program:
    """Outputs of x' = A x + B u over a horizon, by the inputs."""

    def fun(us: jax.Array, a: jax.Array, b: jax.Array, start: jax.Array) -> jax.Array:
        def step(x: jax.Array, u: jax.Array) -> tuple[jax.Array, jax.Array]:
            x = a @ x + b @ u
            return x, x[:2]

        return lax.scan(step, start, us)[1]

    return Program(
        f"state-space outputs, {states} states and {steps} inputs",
        "The prediction matrix of linear model predictive control, by differentiating a rollout",
        lambda draw: (
            fun,
            draw.normal(size=(steps, 2)),
            0.6 * draw.normal(size=(states, states)) / np.sqrt(states),
            draw.normal(size=(states, 2)),
            draw.normal(size=states),
        ),
    )


def _draw(draw: np.random.Generator) -> Program:
    def size(low: int, high: int) -> int:
        return int(draw.integers(low, high + 1))

    # A program of a size, and the largest batch that is usual for it.
    programs = (
        lambda: (_local_trend(size(20, 200)), 32),
        lambda: (_linear_gaussian(size(2, 5), size(1, 3), size(10, 50)), 16),
        lambda: (_unscented(size(2, 8)), 64),
        lambda: (_smoothing(size(20, 300)), 64),
        lambda: (_holt_winters(size(4, 12), size(24, 120)), 16),
        lambda: (_epidemic(size(20, 150)), 64),
        lambda: (_particles(size(10, 100), size(20, 100)), 8),
        lambda: (_garch(size(50, 1000)), 16),
        lambda: (_garch_likelihood(size(50, 500)), 16),
        lambda: (_hidden_markov(size(2, 6), size(20, 150)), 16),
        lambda: (_volatility_path(size(20, 200)), 8),
        lambda: (_response(size(2, 8), size(5, 30)), 32),
    )
    return one_of(programs, draw)


FAMILY = Family(
    "filters",
    (
        _local_trend(100),
        _local_trend(100).settings(derivative="hessian"),
        _local_trend(50).settings(batch=64, dtype="float32"),
        _linear_gaussian(4, 2, 50),
        _EXTENDED,
        _EXTENDED.settings(batch=128),
        _unscented(6),
        _unscented(4).settings(batch=128, dtype="float32"),
        _smoothing(100),
        _holt_winters(12, 120),
        _holt_winters(4, 40).settings(derivative="hessian", batch=16),
        _epidemic(60),
        _epidemic(100).settings(batch=64, dtype="float32"),
        _particles(64, 50),
        _garch(500),
        _garch_likelihood(250),
        _garch(100).settings(batch=64, dtype="float32"),
        _hidden_markov(4, 100),
        _hidden_markov(3, 50).settings(derivative="hessian"),
        _hidden_markov(3, 30).settings(batch=64),
        _volatility_path(100),
        _response(4, 20).settings(dtype="float32"),
    ),
    _draw,
)
