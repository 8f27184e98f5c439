"""Derivatives of discrete random programs: how far they scatter, and whether they are right.

Run it with `python -m benchmarks.stochastic`, or with the names of some experiments: `walk`,
`life`, `particles`, `parameters`, `sides`, `smoothed`. It prints tables. Every estimate stands
beside a truth: dynamic programming, enumeration, a Kalman filter, or central differences; z is the
distance in standard errors.

The random walk, the game of life and the particle filter are those of Arya, Schauer, Schäfer &
Rackauckas, "Automatic differentiation of programs with discrete randomness" (NeurIPS 2022).
"""

from __future__ import annotations

import argparse
import functools
import itertools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from benchmarks import report, timing
from jax_cce import kalman, stochastic


def _keys(seed: int, count: int) -> Any:
    return jax.random.split(jax.random.key(seed), (2, count))


def _moments(samples: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean, standard deviation and standard error over the first axis."""
    samples = np.asarray(samples)
    spread = samples.std(0, ddof=1)
    return samples.mean(0), spread, spread / np.sqrt(len(samples))


def _with_error(samples: Any) -> str:
    mean, _, error = _moments(samples)
    return f"{mean:.2f} ± {error:.2f}"


def _z(samples: Any, truth: Any) -> Any:
    mean, _, error = _moments(samples)
    return (mean - truth) / error


# --- the random walk -----------------------------------------------------------------------------


def walk(key: Any, p: Any, steps: int) -> Any:
    """X² after so many steps, up with probability exp(-X / p), else down."""

    def step(x: Any, key: Any) -> Any:
        up = stochastic.bernoulli(key, jnp.exp(-x / p))
        return x + 2.0 * up - 1, None

    return lax.scan(step, 0.0, jax.random.split(key, steps))[0] ** 2


def exact_walk(p: float, steps: int) -> float:
    """The derivative of E[X²] by p, by dynamic programming over the distribution."""
    # At the origin up is sure, so that no walk gets below it.
    places = np.arange(-steps, steps + 1)
    mass, slope = (places == 0).astype(float), np.zeros(len(places))
    up = np.minimum(np.exp(-places / p), 1)
    change = np.where(places > 0, up * places / p**2, 0)
    for _ in range(steps):
        flows = mass * up, slope * up + mass * change
        stays = mass - flows[0], slope - flows[1]
        mass, slope = (
            np.roll(moved, 1) + np.roll(rest, -1) for moved, rest in zip(flows, stays, strict=True)
        )
    return float(slope @ places**2)


def _score(key: Any, p: Any, steps: int) -> Any:
    """X² and the derivative of the logarithm of the probability of the path."""

    def step(state: Any, key: Any) -> Any:
        x, score = state
        up = jax.random.bernoulli(key, jnp.exp(-x / p))
        chance, change = jax.jvp(lambda p: jnp.exp(-x / p), (p,), (1.0,))
        rest = jnp.where(chance < 1, 1 - chance, 1)  # it is 1 at the origin, and does not move
        return (x + 2.0 * up - 1, score + jnp.where(up, change / chance, -change / rest)), None

    (x, score), _ = lax.scan(step, (0.0, 0.0), jax.random.split(key, steps))
    return x**2, score


def walk_tables(runs: int) -> str:
    """Standard deviations of one run, by the number of steps; and times."""
    keys = _keys(0, runs)
    rows = []
    for steps, p in ((10, 20.0), (20, 40.0), (40, 80.0), (70, 140.0), (100, 200.0), (100, 50.0)):
        run = functools.partial(walk, steps=steps)
        estimate = jax.jit(jax.vmap(stochastic.derivative(run, 1), (0, None, 0, None)))
        ours = estimate(keys[0], 1.0, keys[1], p)
        values, scores = jax.jit(jax.vmap(functools.partial(_score, steps=steps), (0, None)))(
            keys[1], p
        )
        plain, centred = values * scores, (values - values.mean()) * scores
        exact = exact_walk(p, steps)
        spreads = [f"{np.std(each):.1f}" for each in (ours, plain, centred)]
        z = f"{_z(ours, exact):.1f}"
        rows.append((steps, f"{p:.0f}", f"{exact:.3f}", _with_error(ours), z, *spreads))
    header = ("steps", "p", "exact", "estimate", "z", "sd, ours", "score", "score, baseline")
    few = _keys(1, 1000)
    run = functools.partial(walk, steps=100)
    calls: dict[str, Callable[..., Any]] = {
        "the walk": jax.vmap(run, (0, None)),
        "derivative": lambda keys, p: jax.vmap(stochastic.derivative(run, 1), (0, None, 0, None))(
            few[0], 1.0, keys, p
        ),
        "jacobian": lambda keys, p: jax.vmap(stochastic.jacobian(run, 1), (0, 0, None))(
            few[0], keys, p
        ),
        "score": jax.vmap(functools.partial(_score, steps=100), (0, None)),
    }
    timed = {name: functools.partial(jax.jit(call), few[1], 50.0) for name, call in calls.items()}
    seconds = timing.take_turns(timed)
    times = report.markdown_table(
        tuple(seconds), [tuple(report.durations(each) for each in seconds.values())]
    )
    return f"{report.markdown_table(header, rows)}\n\n1,000 walks of 100 steps:\n\n{times}"


# --- the game of life ----------------------------------------------------------------------------


def life(key: Any, p: Any, size: int, steps: int, noise: float = 0.1) -> Any:
    """Living cells in the end, on a torus; alive at first with probability p.

    A cell that Conway's rule lets live does so with probability 1 - noise, any other with noise.
    """
    first, *rest = jax.random.split(key, steps + 1)
    board = stochastic.bernoulli(first, p, (size, size))

    def step(board: Any, key: Any) -> Any:
        around = sum(
            jnp.roll(board.astype(int), shift, (0, 1))
            for shift in itertools.product((-1, 0, 1), repeat=2)
            if any(shift)
        )
        lives = (around == 3) | (board & (around == 2))
        return stochastic.bernoulli(key, jnp.where(lives, 1 - noise, noise)), None

    board, _ = lax.scan(step, board, jnp.stack(rest))
    return jnp.sum(board) * 1.0


def life_table(runs: int) -> str:
    """Against central differences over other runs; a tenth of the runs on the large board."""
    rows: list[tuple[str, ...]] = []
    times: list[str] = []
    cases = ((7, 3, runs, (0.1, 0.2, 0.5)), (25, 10, runs // 10, (0.2,)))
    for size, steps, count, densities in cases:
        run = functools.partial(life, size=size, steps=steps)
        estimate = jax.jit(jax.vmap(stochastic.derivative(run, 1), (0, None, 0, None)))
        play = jax.jit(jax.vmap(run, (0, None)))
        for p in densities:
            keys, others = _keys(2, count), _keys(3, 2 * count)
            ours = estimate(keys[0], 1.0, keys[1], p)
            step = 0.02
            # The same keys on both sides: most of the noise is common to them.
            differences = (play(others[0], p + step) - play(others[0], p - step)) / (2 * step)
            mean, _, error = _moments(differences)
            own, spread, own_error = _moments(ours)
            z = (own - mean) / np.hypot(own_error, error)
            rows.append(
                (
                    f"{size} x {size}, {steps} steps, p = {p}",
                    _with_error(ours),
                    _with_error(differences),
                    f"{z:.1f}",
                    f"{spread:.0f}",
                    f"{np.std(differences):.0f}",
                )
            )
        few = _keys(4, 100)
        calls = {
            "plays": functools.partial(play, few[1], 0.2),
            "derivatives": functools.partial(estimate, few[0], 1.0, few[1], 0.2),
        }
        seconds = timing.take_turns(calls, turns=5)
        text = ", ".join(f"100 {name} {report.durations(each)}" for name, each in seconds.items())
        times.append(f"{size} x {size}: {text}")
    header = ("board", "estimate", "central difference", "z", "sd, ours", "sd, difference")
    return "\n\n".join([report.markdown_table(header, rows), *times])


# --- a particle filter ---------------------------------------------------------------------------


def _model(theta: Any) -> tuple[Any, Any]:
    """The transition's matrix and the observation's variance."""
    turn = jnp.array(
        [[jnp.cos(theta[0]), -jnp.sin(theta[0])], [jnp.sin(theta[0]), jnp.cos(theta[0])]]
    )
    return theta[1] * turn, theta[2]


def _readings(steps: int = 10) -> Any:
    random, state, rows = np.random.default_rng(0), np.array([1.0, 0.0]), []
    matrix = np.asarray(_model(jnp.array([0.5, 0.9, 0.5]))[0])
    for _ in range(steps):
        rows.append(state + np.sqrt(0.5) * random.standard_normal(2))
        state = matrix @ state + 0.5 * random.standard_normal(2)
    return jnp.array(rows)


def _likelihood(key: Any, theta: Any, readings: Any, particles: int, weighed: bool) -> Any:
    """The particle filter's estimate of the likelihood, which is unbiased."""
    matrix, variance = _model(theta)
    first, key = jax.random.split(key)
    cloud = jnp.array([1.0, 0.0]) + jax.random.normal(first, (particles, 2))

    def step(state: Any, each: Any) -> Any:
        cloud, factors = state
        reading, key = each
        to_choose, to_move = jax.random.split(key)
        densities = jnp.exp(-jnp.sum((cloud - reading) ** 2, 1) / (2 * variance))
        weights = factors * densities / (2 * jnp.pi * variance)
        kept = stochastic.categorical(
            to_choose, jnp.log(lax.stop_gradient(weights)), shape=(particles,)
        )
        # Which ones are kept is held; how likely that was is not.
        share = weights / jnp.sum(weights)
        factors = (share / lax.stop_gradient(share))[kept] if weighed else jnp.ones(particles)
        noise = jax.random.normal(to_move, (particles, 2))
        return (cloud[kept] @ matrix.T + 0.5 * noise, factors), jnp.mean(weights)

    keys = jax.random.split(key, len(readings))
    _, means = lax.scan(step, (cloud, jnp.ones(particles)), (readings, keys))
    return jnp.prod(means)


def particles_table(runs: int) -> str:
    """∇Z by reverse mode, over that of the Kalman filter."""
    readings, theta = _readings(), jnp.array([0.5, 0.9, 0.5])

    def exact(theta: Any) -> Any:
        matrix, variance = _model(theta)
        initial = jnp.array([1.0, 0.0]), jnp.eye(2)
        transition = kalman.Linear(matrix, 0.25 * jnp.eye(2))
        observation = kalman.Linear(jnp.eye(2), variance * jnp.eye(2))
        found = kalman.filter(transition, observation, readings, initial, observed=True)
        return jnp.exp(found.log_likelihoods.sum())

    value, slopes = jax.value_and_grad(exact)(theta)
    keys = _keys(5, runs)[0]
    rows = []
    for name, weighed in (("with the factor", True), ("without", False)):
        run = functools.partial(_likelihood, readings=readings, particles=200, weighed=weighed)
        both = jax.jit(jax.vmap(jax.value_and_grad(run, 1), (0, None)))
        values, gradients = both(keys, theta)
        z = [f"{each:.1f}" for each in (_z(values, value), *_z(gradients, slopes))]
        rows.append((name, *z))
    few = keys[:20]
    one = functools.partial(_likelihood, readings=readings, particles=200, weighed=True)
    calls = {
        "20 filters": functools.partial(jax.jit(jax.vmap(one, (0, None))), few, theta),
        "20 gradients": functools.partial(
            jax.jit(jax.vmap(jax.grad(one, 1), (0, None))), few, theta
        ),
    }
    seconds = timing.take_turns(calls, turns=5)
    text = ", ".join(f"{name} {report.durations(each)}" for name, each in seconds.items())
    header = ("reverse mode", "z of Z", "of ∂Z by the angle", "by the damping", "by the variance")
    return f"{report.markdown_table(header, rows)}\n\n{text}"


# --- many parameters -----------------------------------------------------------------------------


def coupled(key: Any, theta: Any) -> Any:
    """Three numbers from six Bernoullis, each of whose probabilities depends on the one before."""
    drawn = []
    before = jnp.array(0.0)
    for k, own in enumerate(jax.random.split(key, 6)):
        before = stochastic.bernoulli(own, jax.nn.sigmoid(theta[k] + before)) * 1.0
        drawn.append(before)
    return _three(jnp.stack(drawn), theta)


def _three(x: Any, theta: Any) -> Any:
    products = jnp.stack([10 * x[0] * x[2] * x[5], x.sum() ** 2, 5 * x[3] * x[5]])
    return products + jnp.sin(theta[:3])


def exact_coupled(theta: Any) -> Any:
    """The Jacobian of the expectation, over all 64 outcomes."""
    outcomes = jnp.array(list(itertools.product((0.0, 1.0), repeat=6)))

    def expectation(theta: Any) -> Any:
        before = jnp.pad(outcomes[:, :-1], ((0, 0), (1, 0)))
        chances = jax.nn.sigmoid(theta + before)
        masses = jnp.prod(jnp.where(outcomes > 0, chances, 1 - chances), axis=1)
        return masses @ jax.vmap(lambda x: _three(x, theta))(outcomes)

    return jax.jacfwd(expectation)(theta)


def parameters_table(runs: int) -> str:
    """The 3 x 6 Jacobian from one alternative, from several, and by directions."""
    theta = jnp.linspace(-1.0, 1.0, 6)
    exact, keys = exact_coupled(theta), _keys(6, runs)

    def by_directions(key: Any, own: Any, theta: Any) -> Any:
        along = jax.vmap(stochastic.derivative(coupled, 1), (None, 0, None, None), -1)
        return along(key, jnp.eye(6), own, theta)

    def score(key: Any, own: Any, theta: Any) -> Any:
        def likelihood(theta: Any) -> Any:
            total, before = jnp.array(0.0), jnp.array(0.0)
            for k, each in enumerate(jax.random.split(own, 6)):
                chance = jax.nn.sigmoid(theta[k] + before)
                x = jax.random.bernoulli(each, lax.stop_gradient(chance))
                total += jnp.log(jnp.where(x, chance, 1 - chance))
                before = x * 1.0
            return total

        path = jax.jacfwd(lambda theta: jnp.sin(theta[:3]))(theta)
        return jnp.outer(coupled(own, theta), jax.grad(likelihood)(theta)) + path

    ways: dict[str, Callable[..., Any]] = {
        "jacobian": stochastic.jacobian(coupled, 1),
        "jacobian, 4 alternatives": stochastic.jacobian(coupled, 1, alternatives=4),
        "derivative, 6 directions": by_directions,
        "score": score,
    }
    rows = []
    few = _keys(7, 1000)
    compiled = {name: jax.jit(jax.vmap(way, (0, 0, None))) for name, way in ways.items()}
    calls = {name: functools.partial(way, few[0], few[1], theta) for name, way in compiled.items()}
    seconds = timing.take_turns(calls, turns=5)
    for name, way in compiled.items():
        samples = way(keys[0], keys[1], theta)
        z = _z(samples, exact)
        spread = float(np.sqrt(np.sum(np.var(samples, axis=0))))
        size = f"{np.sqrt(np.mean(z**2)):.2f}", f"{np.max(np.abs(z)):.1f}", f"{spread:.1f}"
        rows.append((name, *size, report.durations(seconds[name])))
    header = ("3 x 6 Jacobian", "rms z", "largest z", "sd", "1,000 of them")
    return report.markdown_table(header, rows)


# --- sides ---------------------------------------------------------------------------------------

_WORTH = np.array([1.0, 5.0, -2.0, 3.0])


def draws(key: Any, theta: Any) -> Any:
    """A convex function of each kind of draw."""
    keys = jax.random.split(key, 5)
    p, q, r, s, t = theta
    logits = jnp.array([0.0, 0.5, -1.0, 0.2]) * t
    return jnp.stack(
        [
            stochastic.bernoulli(keys[0], p) * 10.0,
            stochastic.binomial(keys[1], 10, q) ** 2,
            stochastic.poisson(keys[2], r) ** 2.0,
            stochastic.geometric(keys[3], s) ** 2.0,
            jnp.asarray(_WORTH)[stochastic.categorical(keys[4], logits)],
        ]
    )


THETA = (0.3, 0.3, 3.0, 0.3, 0.7)


def exact_draws() -> np.ndarray:
    """The derivatives of the expectations of `draws`, in closed form."""
    _, q, r, s, t = THETA
    weights = np.array([0.0, 0.5, -1.0, 0.2])
    chances = np.exp(weights * t) / np.sum(np.exp(weights * t))
    moved = chances * (weights - chances @ weights)
    # E of the squares: n q (1 - q) + n² q², r + r², (2 - s) / s².
    return np.array([10, 10 + 180 * q, 1 + 2 * r, (s - 4) / s**3, _WORTH @ moved])


def sides_table(runs: int) -> str:
    """Standard deviations by the side on which draws jump."""
    keys = _keys(8, runs)
    rows = []
    for side in ("auto", "right", "left", "winners"):
        one = stochastic.derivative(draws, 1, side=side)

        def each(key: Any, own: Any, one: Any = one) -> Any:
            # One direction for each draw, so that it is chosen for sure.
            columns = jax.vmap(one, (None, 0, None, None))(key, jnp.eye(5), own, jnp.array(THETA))
            return jnp.diagonal(columns)

        samples = jax.jit(jax.vmap(each))(*keys)
        z = _z(samples[:, 1:], exact_draws()[1:])
        spreads = [f"{x:.2f}" for x in np.std(samples, axis=0)]
        rows.append((side, *spreads, f"{np.max(np.abs(z)):.1f}"))
    header = ("side", "Bernoulli", "binomial", "Poisson", "geometric", "categorical", "largest z")
    return report.markdown_table(header, rows)


# --- smoothed ------------------------------------------------------------------------------------


def smoothed_table(runs: int) -> str:
    """What taking the rest of a program as linear costs and saves."""

    def linear(key: Any, p: Any) -> Any:
        coins = stochastic.bernoulli(key, p, (10,))
        return jnp.sum(coins * jnp.arange(10.0) * p)

    def squared(key: Any, p: Any) -> Any:
        return jnp.sum(stochastic.bernoulli(key, p, (10,)) * 1.0) ** 2

    def chained(key: Any, p: Any) -> Any:
        first, second = jax.random.split(key)
        x = stochastic.poisson(first, 4 * p)
        return stochastic.poisson(second, jnp.exp(x / 4)) * 1.0

    mean = 4 * 0.4 * (np.exp(0.25) - 1)
    cases: dict[str, tuple[Callable[..., Any], float, float]] = {
        "linear in ten coins": (linear, 0.4, 2 * 45 * 0.4),
        "square of their number": (squared, 0.4, 10 + 180 * 0.4),
        "Poisson of exp(Poisson / 4)": (chained, 0.4, 4 * (np.exp(0.25) - 1) * np.exp(mean)),
        "random walk, 100 steps": (functools.partial(walk, steps=100), 50.0, exact_walk(50, 100)),
    }
    keys, rows = _keys(9, runs), []
    for name, (function, p, exact) in cases.items():
        row = [name, f"{exact:.3f}"]
        for mode in ("unbiased", "smoothed"):
            estimate = stochastic.derivative(function, 1, mode=mode)
            samples = jax.jit(jax.vmap(estimate, (0, None, 0, None)))(keys[0], 1.0, keys[1], p)
            row += [_with_error(samples), f"{np.std(samples):.1f}"]
        rows.append(tuple(row))
    header = ("program", "exact", "unbiased", "sd", "smoothed", "sd")
    return report.markdown_table(header, rows)


# What is printed above the table, the table of so many runs, and how many there are.
EXPERIMENTS: dict[str, tuple[str, Callable[[int], str], int]] = {
    "walk": ("Random walk: d/dp of E[X²], standard deviations of one run", walk_tables, 20_000),
    "life": ("Stochastic game of life: d/dp of living cells", life_table, 20_000),
    "particles": ("Particle filter, 10 steps, 200 particles", particles_table, 4000),
    "parameters": ("Six coupled Bernoullis, all parameters", parameters_table, 20_000),
    "sides": ("Standard deviations of one derivative, by the side of jumps", sides_table, 20_000),
    "smoothed": ("Smoothed derivatives", smoothed_table, 20_000),
}


def main() -> None:
    """Prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="experiment", help=", ".join(EXPERIMENTS))
    parser.add_argument("--share", type=float, default=1.0, help="of the usual number of runs")
    options = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    print(f"float64. {report.provenance()}")
    for name in options.names or EXPERIMENTS:
        title, table, usual = EXPERIMENTS[name]
        runs = round(options.share * usual)
        print(f"\n{title} ({runs:,} runs)\n\n{table(runs)}", flush=True)


if __name__ == "__main__":
    main()
