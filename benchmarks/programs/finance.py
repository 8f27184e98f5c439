"""Option prices, yield curves and portfolios."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.scipy.stats import norm

from benchmarks.programs.program import Family, Made, Program


def _call_price(x: jax.Array) -> jax.Array:
    """The price of a European call by spot, strike, rate, volatility and time."""
    spot, strike, rate, volatility, time = x
    spread = volatility * jnp.sqrt(time)
    d1 = (jnp.log(spot / strike) + (rate + volatility**2 / 2) * time) / spread
    return spot * norm.cdf(d1) - strike * jnp.exp(-rate * time) * norm.cdf(d1 - spread)


_OPTION = np.array([100.0, 95.0, 0.03, 0.25, 0.75])


def _call(_: np.random.Generator) -> Made:
    return _call_price, _OPTION


_CALL = Program(
    "Black-Scholes Greeks",
    "Greeks by differentiating the closed formula, as in many JAX tutorials on option pricing",
    _call,
)


def _book(options: int) -> Program:
    """All calls of a book at once, by the market: spot, rate and one volatility an option."""

    def make(draw: np.random.Generator) -> Made:
        strikes = draw.uniform(80, 120, size=options)
        times = draw.uniform(0.1, 2.0, size=options)

        def prices(market: dict[str, jax.Array]) -> jax.Array:
            spot, rate, volatility = market["spot"], market["rate"], market["volatility"]
            spread = volatility * jnp.sqrt(times)
            d1 = (jnp.log(spot / strikes) + (rate + 0.5 * volatility**2) * times) / spread
            discount = jnp.exp(-rate * times)
            return spot * norm.cdf(d1) - strikes * discount * norm.cdf(d1 - spread)

        volatility = draw.uniform(0.15, 0.4, size=options)
        return prices, {"spot": np.array(100.0), "rate": np.array(0.03), "volatility": volatility}

    return Program(
        f"Black-Scholes book, {options} options",
        "vectorised pricers such as tf-quant-finance's black_scholes.option_price",
        make,
    )


def _heston(steps: int, paths: int) -> Program:
    """Calls at five strikes by Euler's scheme with full truncation, on fixed random numbers."""

    def make(draw: np.random.Generator) -> Made:
        normals = draw.normal(size=(steps, 2, paths))
        strikes = np.array([90.0, 95.0, 100.0, 105.0, 110.0])
        dt = 1.0 / steps

        def prices(parameters: jax.Array) -> jax.Array:
            reversion, mean, vol_of_vol, correlation, start = parameters

            def step(state: tuple[jax.Array, jax.Array], z: jax.Array) -> tuple:
                log_spot, variance = state
                positive = jnp.maximum(variance, 0.0)
                root = jnp.sqrt(positive * dt)
                orthogonal = jnp.sqrt(1 - correlation**2) * z[1]
                log_spot = log_spot + (0.02 - 0.5 * positive) * dt + root * z[0]
                noise = vol_of_vol * root * (correlation * z[0] + orthogonal)
                return (log_spot, variance + reversion * (mean - positive) * dt + noise), None

            initial = jnp.full(paths, jnp.log(100.0)), jnp.full(paths, start)
            (log_spot, _), _ = lax.scan(step, initial, jnp.asarray(normals))
            payoffs = jnp.maximum(jnp.exp(log_spot)[:, None] - strikes, 0.0)
            return jnp.exp(-0.02) * payoffs.mean(axis=0)

        return prices, np.array([2.0, 0.09, 0.2, -0.6, 0.1])

    return Program(
        f"Heston paths, {steps} steps of {paths}",
        "Monte Carlo of the Heston model by scan, full truncation of Lord et al. (2010)",
        make,
    )


def _short_rate(steps: int) -> Program:
    """A path of the Cox-Ingersoll-Ross short rate, by its parameters."""

    def make(draw: np.random.Generator) -> Made:
        shocks = draw.normal(size=steps)
        dt = 5.0 / steps

        def path(p: jax.Array) -> jax.Array:
            def step(rate: jax.Array, z: jax.Array) -> tuple[jax.Array, jax.Array]:
                drift = p[0] * (p[1] - rate) * dt
                rate = jnp.abs(rate + drift + p[2] * jnp.sqrt(rate * dt) * z)
                return rate, rate

            return lax.scan(step, p[3], jnp.asarray(shocks))[1]

        return path, np.array([0.8, 0.04, 0.05, 0.03])

    return Program(
        f"Cox-Ingersoll-Ross path, {steps} steps",
        "pathwise sensitivities of a short-rate simulation (Glasserman, ch. 7)",
        make,
    )


def _svensson(maturities: int) -> Program:
    """Residuals of yields under the curve of Nelson, Siegel and Svensson."""

    def make(draw: np.random.Generator) -> Made:
        times = np.sort(draw.uniform(0.25, 30.0, size=maturities))
        yields = 0.03 + 0.01 * np.log1p(times) / 3 + 0.0005 * draw.normal(size=maturities)

        def residuals(x: jax.Array, yields: jax.Array) -> jax.Array:
            beta0, beta1, beta2, beta3, tau1, tau2 = x
            a, b = times / tau1, times / tau2
            slope = (1 - jnp.exp(-a)) / a
            hump = (1 - jnp.exp(-b)) / b - jnp.exp(-b)
            fitted = beta0 + beta1 * slope + beta2 * (slope - jnp.exp(-a)) + beta3 * hump
            return fitted - yields

        return residuals, np.array([0.04, -0.01, 0.005, 0.01, 1.5, 6.0]), yields

    return Program(
        f"Nelson-Siegel-Svensson fit, {maturities} yields",
        "least squares of a yield curve, as central banks fit it (BIS Papers 25)",
        make,
    )


def _utility(assets: int) -> Program:
    """Mean-variance utility of softmax weights, less the cost of trading."""

    def make(draw: np.random.Generator) -> Made:
        factor = draw.normal(size=(assets, assets)) / np.sqrt(assets)
        covariance = 0.04 * (factor @ factor.T + 0.1 * np.eye(assets))
        returns = 0.05 + 0.02 * draw.normal(size=assets)
        held = np.full(assets, 1 / assets)

        def objective(logits: jax.Array) -> jax.Array:
            weights = jax.nn.softmax(logits)
            risk = weights @ jnp.asarray(covariance) @ weights
            turnover = jnp.sum(jnp.sqrt((weights - held) ** 2 + 1e-4))
            return 2.5 * risk - returns @ weights + 0.001 * turnover

        return objective, 0.3 * draw.normal(size=assets)

    return Program(
        f"portfolio objective, {assets} assets",
        "mean-variance optimisation over softmax weights, as portfolio notebooks minimise it",
        make,
        derivative="hessian",
    )


def _risk_parity(assets: int) -> Program:
    """How far each asset's contribution to the risk is from an equal share."""

    def make(draw: np.random.Generator) -> Made:
        sample = draw.normal(size=(3 * assets, assets)) @ np.diag(draw.uniform(0.1, 0.3, assets))
        covariance = np.cov(sample.T)

        def residuals(weights: jax.Array) -> jax.Array:
            marginal = jnp.asarray(covariance) @ weights
            volatility = jnp.sqrt(weights @ marginal)
            return weights * marginal / volatility - volatility / assets

        return residuals, draw.dirichlet(5 * np.ones(assets))

    return Program(
        f"risk parity, {assets} assets",
        "equal risk contributions (Maillard, Roncalli & Teiletche 2010)",
        make,
    )


def _tree(steps: int) -> Program:
    """An American put on the tree of Cox, Ross and Rubinstein, unrolled by Python."""

    def price(x: jax.Array) -> jax.Array:
        spot, strike, rate, sigma, time = x[0], x[1], x[2], x[3], x[4]
        dt = time / steps
        up = jnp.exp(sigma * jnp.sqrt(dt))
        probability = (jnp.exp(rate * dt) - 1 / up) / (up - 1 / up)
        discount = jnp.exp(-rate * dt)
        nodes = spot * up ** jnp.arange(-steps, steps + 1, 2)
        values = jnp.maximum(strike - nodes, 0.0)
        for _ in range(steps):
            nodes = nodes[1:] / up
            values = discount * (probability * values[1:] + (1 - probability) * values[:-1])
            values = jnp.maximum(values, strike - nodes)
        return values[0]

    return Program(
        f"binomial tree of an American put, {steps} steps",
        "Cox, Ross & Rubinstein 1979, as courses write it with array slices",
        lambda _: (price, np.array([100.0, 103.0, 0.03, 0.25, 0.75])),
    )


def _sabr(strikes: int) -> Program:
    """Implied volatilities of Hagan's formula minus those of the market."""

    def volatility(strike: jax.Array, forward: float, parameters: jax.Array) -> jax.Array:
        alpha, beta, rho, nu = parameters
        mean = (forward * strike) ** ((1 - beta) / 2)
        ratio = jnp.log(forward / strike)
        z = nu / alpha * mean * ratio
        chi = jnp.log((jnp.sqrt(1 - 2 * rho * z + z**2) + z - rho) / (1 - rho))
        powers = (1 - beta) ** 2 * ratio**2
        first = (1 - beta) ** 2 / 24 * alpha**2 / mean**2
        second = rho * beta * nu * alpha / (4 * mean) + (2 - 3 * rho**2) / 24 * nu**2
        return (
            alpha
            / (mean * (1 + powers / 24 + powers**2 / 1920))
            * (z / chi)
            * (1 + 2.0 * (first + second))
        )

    def make(draw: np.random.Generator) -> Made:
        forward = 0.03
        grid = forward * np.exp(np.linspace(-0.61, 0.6, strikes))
        market = 0.3 + 0.05 * draw.uniform(size=strikes)

        def residuals(parameters: jax.Array, market: jax.Array) -> jax.Array:
            smile = jax.vmap(volatility, in_axes=(0, None, None))
            return smile(jnp.asarray(grid), forward, parameters) - market

        return residuals, np.array([0.05, 0.5, -0.3, 0.4]), market

    return Program(
        f"SABR calibration, {strikes} strikes",
        "Hagan et al., Managing Smile Risk (2002), eq. 2.17; fitted by least squares",
        make,
    )


def _bootstrap(years: int) -> Program:
    """Discount factors, one after the other, from par rates of swaps."""

    def factors(rates: jax.Array) -> jax.Array:
        def step(annuity: jax.Array, rate: jax.Array) -> tuple[jax.Array, jax.Array]:
            factor = (1 - rate * annuity) / (1 + rate)
            return annuity + factor, factor

        return lax.scan(step, jnp.zeros((), rates.dtype), rates)[1]

    return Program(
        f"swap curve bootstrap, {years} years",
        "bootstrapping of a discount curve from par rates, as in Hull's textbook",
        lambda _: (factors, 0.02 + 0.005 * np.log1p(np.arange(years))),
    )


def _swaps(nodes: int, swaps: int) -> Program:
    """Values of swaps by the zero rates at a curve's nodes: the bucketed deltas of a desk."""

    def make(draw: np.random.Generator) -> Made:
        places = np.concatenate([[0.0], np.cumsum(draw.uniform(0.5, 3.0, size=nodes - 1))])
        ends = draw.integers(2, int(places[-1]) + 1, size=swaps)
        fixed = 0.03 + 0.01 * draw.uniform(size=swaps)
        payments = np.arange(1, int(places[-1]) + 1)

        def values(zero_rates: jax.Array) -> jax.Array:
            rates = jnp.interp(jnp.asarray(payments, zero_rates.dtype), places, zero_rates)
            discounts = jnp.exp(-rates * payments)
            annuity = jnp.cumsum(discounts)[ends - 1]
            return 1 - discounts[ends - 1] - fixed * annuity

        return values, 0.02 + 0.01 * np.sqrt(places / places[-1])

    return Program(
        f"swap book on a curve, {nodes} nodes, {swaps} swaps",
        "bucketed interest-rate deltas by automatic differentiation of an interpolated curve",
        make,
    )


def _asian(steps: int, paths: int) -> Program:
    """An arithmetic Asian call by Monte Carlo, on fixed random numbers."""

    def make(draw: np.random.Generator) -> Made:
        normals = draw.normal(size=(paths, steps))

        def price(x: dict[str, jax.Array]) -> jax.Array:
            dt = 1.0 / steps
            drift = (x["rate"] - 0.5 * x["volatility"] ** 2) * dt
            increments = drift + x["volatility"] * jnp.sqrt(dt) * jnp.asarray(normals)
            spots = x["spot"] * jnp.exp(jnp.cumsum(increments, axis=1))
            payoff = jnp.maximum(spots.mean(axis=1) - 100.0, 0.0)
            return jnp.exp(-x["rate"]) * payoff.mean()

        market = {"spot": 100.0, "rate": 0.03, "volatility": 0.25}
        return price, {name: np.array(value) for name, value in market.items()}

    return Program(
        f"Asian option, {paths} paths of {steps} steps",
        "pathwise Greeks of Monte Carlo prices (Glasserman, ch. 7) with vectorised paths",
        make,
        derivative="hessian",
    )


def _garch(days: int) -> Program:
    """The log-likelihood of each day under GARCH(1, 1), for outer-product standard errors."""

    def make(draw: np.random.Generator) -> Made:
        def likelihoods(x: jax.Array, returns: jax.Array) -> jax.Array:
            omega, alpha, beta = x

            def step(variance: jax.Array, r: jax.Array) -> tuple[jax.Array, jax.Array]:
                score = -0.5 * (jnp.log(2 * jnp.pi * variance) + r**2 / variance)
                return omega + alpha * r**2 + beta * variance, score

            return lax.scan(step, omega / (1 - alpha - beta), returns)[1]

        return likelihoods, np.array([0.1, 0.1, 0.78]), draw.standard_t(6, size=days)

    return Program(
        f"GARCH(1, 1) scores, {days} days",
        "Bollerslev & Wooldridge standard errors, as in the Python package arch",
        make,
    )


_SVENSSON = _svensson(20)
_SABR = _sabr(15)


def _drawn(draw: np.random.Generator) -> Program:
    """One of them, of another size, for one or several points."""
    programs = (
        _CALL,
        _book(int(draw.integers(5, 60))),
        _heston(int(draw.integers(10, 50)), int(draw.integers(10, 100))),
        _short_rate(int(draw.integers(20, 200))),
        _svensson(int(draw.integers(6, 40))),
        _risk_parity(int(draw.integers(3, 40))),
        _tree(int(draw.integers(3, 9))),
        _sabr(2 * int(draw.integers(3, 12)) + 1),
        _bootstrap(int(draw.integers(5, 60))),
        _swaps(int(draw.integers(6, 20)), int(draw.integers(5, 60))),
        _utility(int(draw.integers(3, 50))),
        _asian(int(draw.integers(10, 60)), int(draw.integers(20, 300))),
    )
    which = int(draw.integers(0, len(programs)))
    dtype = str(draw.choice(["float64", "float32"], p=[0.75, 0.25]))
    batch = int(2 ** draw.uniform(2, 6)) if draw.random() < 0.35 else None
    return programs[which].settings(batch=batch, dtype=dtype)


FAMILY = Family(
    "finance",
    (
        _CALL,
        _CALL.settings(batch=1024, derivative="hessian", dtype="float32"),
        _book(40),
        _heston(40, 64),
        _heston(20, 32).settings(batch=16, dtype="float32"),
        _short_rate(100),
        _SVENSSON,
        _SVENSSON.settings(batch=256),
        _utility(30),
        _utility(12).settings(batch=64, dtype="float32"),
        _risk_parity(20),
        _tree(8),
        _tree(4).settings(derivative="hessian", batch=32),
        _SABR,
        _SABR.settings(batch=512, dtype="float32"),
        _bootstrap(30),
        _swaps(12, 40),
        _swaps(10, 20).settings(batch=128),
        _asian(50, 256),
        _garch(250),
    ),
    _drawn,
)
