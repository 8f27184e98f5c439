"""Log densities of statistical models: scores by observation, Hessians, and maps with densities."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.scipy import stats
from jax.scipy.linalg import cho_solve, cholesky
from jax.scipy.special import gammaln

from benchmarks.programs.program import Family, Made, Program

_STAN = "Stan's example models, ported to JAX as BlackJAX's users do"


def _mixture(components: int, points: int) -> Program:
    """The log density of each point under a Gaussian mixture in one dimension."""

    def log_density(x: dict[str, jax.Array], data: jax.Array) -> jax.Array:
        weights = jax.nn.log_softmax(x["logits"])
        each = stats.norm.logpdf(data[:, None], x["means"], jnp.exp(x["log_scales"]))
        return jax.nn.logsumexp(weights + each, axis=-1)

    def make(draw: np.random.Generator) -> Made:
        x = {
            "logits": 0.3 * draw.normal(size=components),
            "means": 2 * draw.normal(size=components),
            "log_scales": 0.2 * draw.normal(size=components),
        }
        return log_density, x, 2 * draw.normal(size=points)

    return Program(
        f"Gaussian mixture scores, {components} components, {points} points",
        "fitting of mixtures by maximum likelihood, with standard errors from scores",
        make,
    )


def _mixture_score(components: int) -> Program:
    """The score of a mixture in the plane: its Jacobian is the Hessian of the log density."""

    def make(draw: np.random.Generator) -> Made:
        means, scales = 1.5 * draw.normal(size=(components, 2)), draw.uniform(0.5, 1.5, components)

        def log_density(z: jax.Array) -> jax.Array:
            squares = jnp.sum((z - means) ** 2, axis=-1) / scales**2
            return jax.nn.logsumexp(-0.5 * squares - 2 * jnp.log(scales))

        return jax.grad(log_density), np.array([0.4, -0.7])

    return Program(
        f"score of a planar mixture, {components} components",
        "score matching and Langevin tutorials on toy mixtures (Hyvärinen; Song & Ermon)",
        make,
    )


def _regression(kind: str, rows: int, features: int) -> Program:
    """The negative log posterior of a generalised linear model."""

    def make(draw: np.random.Generator) -> Made:
        design = draw.normal(size=(rows, features)) / np.sqrt(features)
        truth = draw.normal(size=features)
        counts = draw.poisson(np.exp(design @ truth)).astype(float)
        noisy = design @ truth + 0.3 * draw.standard_t(3, size=rows)

        def logistic(w: jax.Array) -> jax.Array:
            logits = jnp.asarray(design) @ w
            y = jnp.asarray(counts > 0, w.dtype)
            return jnp.sum(jax.nn.softplus(logits) - y * logits) + 0.5 * jnp.sum(w**2)

        def poisson(w: jax.Array) -> jax.Array:
            log_rates = jnp.asarray(design) @ w
            return jnp.sum(jnp.exp(log_rates) - counts * log_rates) + 0.5 * w @ w

        def student(x: jax.Array) -> jax.Array:
            w, log_scale, log_df = x[:-2], x[-2], x[-1]
            fitted = jnp.asarray(design) @ w
            terms = stats.t.logpdf(noisy, jnp.exp(log_df), fitted, jnp.exp(log_scale))
            return -terms.sum() - stats.norm.logpdf(w).sum() + 0.5 * log_scale**2 + log_df**2

        models: dict[str, Any] = {"logistic": logistic, "Poisson": poisson, "Student-t": student}
        x = truth + 0.1 * draw.normal(size=features)
        return models[kind], np.append(x, [-1.0, 1.1]) if kind == "Student-t" else x

    return Program(
        f"{kind} regression, {rows} x {features}",
        "Laplace approximations and Newton's method for regressions, as in BlackJAX's examples",
        make,
        derivative="hessian",
    )


def _cox(subjects: int, features: int) -> Program:
    """The log partial likelihood of Cox, by running sums over subjects in order of time."""

    def make(draw: np.random.Generator) -> Made:
        covariates = draw.normal(size=(subjects, features))
        events = (draw.random(subjects) < 0.7).astype(float)

        def log_likelihood(beta: jax.Array) -> jax.Array:
            risks = jnp.asarray(covariates) @ beta
            at_risk = jnp.log(jnp.cumsum(jnp.exp(risks)[::-1])[::-1])
            return jnp.sum(events * (risks - at_risk))

        return log_likelihood, 0.3 * draw.normal(size=features)

    return Program(
        f"Cox partial likelihood, {subjects} subjects, {features} features",
        "survival regressions in the manner of lifelines and pycox",
        make,
        derivative="hessian",
    )


def _cox_terms(subjects: int, features: int) -> Program:
    """The terms of the same likelihood, with stable running sums by an associative scan."""

    def make(draw: np.random.Generator) -> Made:
        covariates = draw.normal(size=(subjects, features))

        def terms(beta: jax.Array) -> jax.Array:
            risks = jnp.asarray(covariates) @ beta
            return risks - lax.associative_scan(jnp.logaddexp, risks, reverse=True)

        return terms, 0.3 * draw.normal(size=features)

    return Program(
        f"Cox score terms, {subjects} subjects, {features} features",
        "log-cumsum-exp by lax.associative_scan, for robust variances of Cox regressions",
        make,
    )


def _gaussian_process(points: int, features: int) -> Program:
    """The negative log marginal likelihood by log length scales, amplitude and noise."""

    def make(draw: np.random.Generator) -> Made:
        inputs = draw.uniform(-2, 2, size=(points, features))
        y = np.sin(inputs.sum(axis=1)) + 0.1 * draw.normal(size=points)

        def negative(x: dict[str, jax.Array]) -> jax.Array:
            scaled = jnp.asarray(inputs) * jnp.exp(-x["log_scales"])
            squares = jnp.sum((scaled[:, None] - scaled[None]) ** 2, axis=-1)
            kernel = jnp.exp(2 * x["log_amplitude"] - 0.5 * squares)
            kernel = kernel + jnp.exp(2 * x["log_noise"]) * jnp.eye(points)
            factor = cholesky(kernel, lower=True)
            alpha = cho_solve((factor, True), jnp.asarray(y))
            return 0.5 * jnp.dot(y, alpha) + jnp.sum(jnp.log(jnp.diag(factor)))

        scales = {"log_amplitude": np.array(0.1), "log_noise": np.array(-1.5)}
        return negative, {"log_scales": 0.2 * draw.normal(size=features), **scales}

    return Program(
        f"Gaussian process, {points} points, {features} features",
        "Rasmussen & Williams, ch. 5; hyperparameters as in GPJax and tinygp",
        make,
        derivative="hessian",
    )


def _dirichlet_multinomial(groups: int, categories: int) -> Program:
    """Log likelihoods of the groups' counts by the log concentrations."""

    def log_likelihoods(log_alpha: jax.Array, counts: jax.Array) -> jax.Array:
        alpha = jnp.exp(log_alpha)
        total, trials = alpha.sum(), counts.sum(axis=1)
        each = gammaln(counts + alpha) - gammaln(alpha) - gammaln(counts + 1)
        return gammaln(total) - gammaln(trials + total) + gammaln(trials + 1) + each.sum(axis=1)

    def make(draw: np.random.Generator) -> Made:
        counts = draw.multinomial(30, draw.dirichlet(np.ones(categories), size=groups))
        return log_likelihoods, 0.4 * draw.normal(size=categories), counts.astype(float)

    return Program(
        f"Dirichlet-multinomial scores, {groups} groups, {categories} categories",
        "Minka, Estimating a Dirichlet distribution (2000)",
        make,
    )


def _coupling(dimension: int, hidden: int, layers: int) -> Program:
    """Real NVP: z and the log determinant by affine couplings of alternating halves."""
    half = dimension // 2

    def make(draw: np.random.Generator) -> Made:
        sizes = ((half, hidden), (hidden, dimension))
        weights = [[draw.normal(size=s) / np.sqrt(2 * s[0]) for s in sizes] for _ in range(layers)]

        def forward(x: jax.Array) -> jax.Array:
            log_det = jnp.zeros((), x.dtype)
            for first, last in weights:
                kept, moved = x[:half], x[half:]
                shift, scale = jnp.split(jnp.tanh(kept @ jnp.asarray(first)) @ last, 2)
                scale = jnp.tanh(scale)
                x = jnp.concatenate([moved * jnp.exp(scale) + shift, kept])
                log_det = log_det + scale.sum()
            return jnp.append(x, log_det)

        return forward, draw.normal(size=dimension)

    return Program(
        f"Real NVP, {dimension} unknowns, {layers} layers of {hidden}",
        "Dinh et al. 2017, as distrax's and nflows' examples build it",
        make,
    )


def _planar(dimension: int, layers: int) -> Program:
    """The log density under planar flows, by their formula for the determinant."""

    def make(draw: np.random.Generator) -> Made:
        us, ws = 0.3 * draw.normal(size=(2, layers, dimension))
        bs = draw.normal(size=layers)

        def log_density(z: jax.Array) -> jax.Array:
            def layer(z: jax.Array, p: tuple[jax.Array, ...]) -> tuple[jax.Array, jax.Array]:
                u, w, b = p
                h = jnp.tanh(jnp.dot(w, z) + b)
                return z + u * h, jnp.log(jnp.abs(1 + jnp.dot(u, w) * (1 - h**2)))

            z, log_dets = lax.scan(layer, z, (jnp.asarray(us), jnp.asarray(ws), jnp.asarray(bs)))
            return stats.norm.logpdf(z).sum() + log_dets.sum()

        return log_density, draw.normal(size=dimension)

    return Program(
        f"planar flow, {dimension} unknowns, {layers} layers",
        "Rezende & Mohamed 2015, layers by scan",
        make,
        derivative="hessian",
    )


_EFFECTS = np.array([28.0, 8.0, -3.0, 7.0, -1.0, 1.0, 18.0, 12.0])
_ERRORS = np.array([15.0, 10.0, 16.0, 11.0, 9.0, 11.0, 10.0, 18.0])


def _eight_schools(x: dict[str, jax.Array]) -> jax.Array:
    """The log posterior of the non-centred hierarchical model."""
    tau = jnp.exp(x["log_tau"])
    theta = x["mu"] + tau * x["eta"]
    prior = stats.norm.logpdf(x["mu"], 0.0, 5.0) + stats.cauchy.logpdf(tau, 0.0, 5.0)
    prior += stats.norm.logpdf(x["eta"]).sum() + x["log_tau"]
    return prior + stats.norm.logpdf(_EFFECTS, theta, _ERRORS).sum()


def _schools(draw: np.random.Generator) -> Made:
    eta = 0.5 * draw.normal(size=8)
    return _eight_schools, {"mu": np.array(4.0), "log_tau": np.array(1.2), "eta": eta}


_SCHOOLS = Program("eight schools", _STAN, _schools, derivative="hessian")


def _lengths(observations: int) -> Program:
    """Log likelihoods of a Gamma and a Beta model by unconstrained parameters."""

    def make(draw: np.random.Generator) -> Made:
        times, shares = draw.gamma(2.0, 1.5, observations), draw.beta(2.0, 3.0, observations)

        def terms(x: jax.Array) -> jax.Array:
            shape, rate, a, b = jnp.exp(x)
            gamma = stats.gamma.logpdf(times, shape, scale=1 / rate)
            return gamma + stats.beta.logpdf(shares, a, b)

        return terms, np.array([0.5, -0.4, 0.8, 1.1])

    return Program(
        f"Gamma and Beta scores, {observations} observations",
        "maximum likelihood by jax.scipy.stats with log parameters",
        make,
    )


def _walk(days: int) -> Program:
    """The log posterior of a stochastic-volatility model by its whole path."""

    def make(draw: np.random.Generator) -> Made:
        returns = 0.02 * draw.standard_t(5, size=days)

        def log_posterior(h: jax.Array) -> jax.Array:
            steps = stats.norm.logpdf(h[1:], -0.4 + 0.95 * h[:-1], 0.2).sum()
            seen = stats.norm.logpdf(returns, 0.0, jnp.exp(h / 2)).sum()
            return stats.norm.logpdf(h[0], -8.0, 0.64) + steps + seen

        return log_posterior, -8 + 0.3 * draw.normal(size=days)

    return Program(
        f"stochastic volatility, {days} days",
        f"{_STAN}; its Hessian is tridiagonal, as in Laplace approximations (INLA)",
        make,
        derivative="hessian",
    )


def _drawn(draw: np.random.Generator) -> Program:
    """One of them, of another size, for one or several points."""
    rows, features = int(draw.integers(20, 300)), int(draw.integers(2, 25))
    programs = (
        _mixture(int(draw.integers(2, 8)), int(draw.integers(10, 200))),
        _mixture_score(int(draw.integers(2, 20))),
        _regression("logistic", rows, features),
        _regression("Poisson", rows, features),
        _regression("Student-t", rows, features),
        _cox(rows, features),
        _cox_terms(rows, features),
        _gaussian_process(int(draw.integers(5, 30)), int(draw.integers(1, 4))),
        _dirichlet_multinomial(int(draw.integers(5, 60)), int(draw.integers(3, 20))),
        _coupling(2 * int(draw.integers(1, 9)), int(draw.integers(8, 40)), 3),
        _planar(int(draw.integers(2, 16)), int(draw.integers(2, 12))),
        _SCHOOLS,
        _lengths(int(draw.integers(10, 200))),
        _walk(int(draw.integers(10, 150))),
    )
    which = int(draw.integers(0, len(programs)))
    dtype = str(draw.choice(["float64", "float32"], p=[0.7, 0.3]))
    batch = int(2 ** draw.uniform(2, 5)) if draw.random() < 0.35 else None
    return programs[which].settings(batch=batch, dtype=dtype)


FAMILY = Family(
    "densities",
    (
        _mixture(4, 100),
        _mixture(3, 20).settings(batch=64, dtype="float32"),
        _mixture_score(8),
        _mixture_score(8).settings(batch=1024, dtype="float32"),
        _regression("logistic", 200, 12),
        _regression("Poisson", 100, 6).settings(batch=32),
        _regression("Student-t", 80, 5),
        _cox(150, 8),
        _cox(60, 4).settings(batch=32, dtype="float32"),
        _cox_terms(128, 6),
        _gaussian_process(20, 2),
        _dirichlet_multinomial(30, 8),
        _coupling(8, 24, 4),
        _coupling(6, 16, 3).settings(batch=256, dtype="float32"),
        _planar(8, 6),
        _SCHOOLS,
        _SCHOOLS.settings(batch=512),
        _lengths(60),
        _lengths(20).settings(batch=64),
        _walk(100),
    ),
    _drawn,
)
