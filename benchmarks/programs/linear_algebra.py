"""Solves, factorisations, spectra and products of small matrices."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.scipy.linalg import cho_factor, cho_solve, expm, solve_triangular

from benchmarks.programs.program import Family, Made, Program, one_of


def _network(n: int) -> Program:
    """Potentials of a resistor network with a grounded node, by its conductances."""

    def make(draw: np.random.Generator) -> Made:
        chain = np.stack([np.arange(n - 1), np.arange(1, n)], axis=1)
        extra = np.array([draw.choice(n, 2, replace=False) for _ in range(n)])
        edges = np.concatenate([chain, extra])
        incidence = np.zeros((len(edges), n))
        incidence[np.arange(len(edges)), edges[:, 0]] = 1.0
        incidence[np.arange(len(edges)), edges[:, 1]] = -1.0

        def fun(conductances: jax.Array, b: jax.Array, currents: jax.Array) -> jax.Array:
            laplacian = b.T @ (conductances[:, None] * b)
            return jnp.linalg.solve(laplacian + jnp.diag(jnp.full(n, 0.1)), currents)

        return fun, draw.uniform(0.5, 2.0, size=len(edges)), incidence, draw.normal(size=n)

    return Program(
        f"resistor network, solve of {n}",
        "Sensitivities of circuits and trusses: assembly by B.T diag(x) B, then jnp.linalg.solve",
        make,
    )


def _solve_matrix(n: int) -> Program:
    return Program(
        f"solution of {n} equations by the matrix",
        "jnp.linalg.solve differentiated by all its entries (error analysis, calibration)",
        lambda draw: (
            jnp.linalg.solve,
            draw.normal(size=(n, n)) / np.sqrt(n) + 2 * np.eye(n),
            draw.normal(size=n),
        ),
    )


def _gaussian_process(n: int) -> Program:
    """The negative log marginal likelihood by logarithms of scale, length and noise."""

    def loss(x: jax.Array, inputs: jax.Array, targets: jax.Array) -> jax.Array:
        scale, length, noise = jnp.exp(x)
        squares = (inputs[:, None] - inputs[None, :]) ** 2
        kernel = scale**2 * jnp.exp(-0.5 * squares / length**2) + noise**2 * jnp.eye(n)
        factor = cho_factor(kernel, lower=True)
        fit = 0.5 * targets @ cho_solve(factor, targets)
        return fit + jnp.sum(jnp.log(jnp.diag(factor[0]))) + 0.5 * n * math.log(2 * math.pi)

    def make(draw: np.random.Generator) -> Made:
        inputs = np.sort(draw.uniform(0, 10, size=n))
        return loss, np.log([1.0, 1.2, 0.3]), inputs, np.sin(inputs) + 0.3 * draw.normal(size=n)

    return Program(
        f"GP marginal likelihood, {n} points",
        "Rasmussen and Williams 2006, algorithm 2.1, by cho_factor and cho_solve",
        make,
    )


def _triangular(n: int, samples: int) -> Program:
    """The normal log-density of samples by mean and packed Cholesky factor."""

    def density(x: dict[str, jax.Array], ys: jax.Array) -> jax.Array:
        root = jnp.zeros((n, n)).at[jnp.tril_indices(n)].set(x["tril"])
        root = jnp.tril(root, -1) + jnp.diag(jnp.exp(jnp.diag(root)))
        white = solve_triangular(root, (ys - x["mean"]).T, lower=True)
        return -0.5 * jnp.sum(white**2) - samples * jnp.sum(jnp.log(jnp.diag(root)))

    return Program(
        f"normal log-density of {samples} samples in {n} dimensions",
        "Fitting a covariance through its Cholesky factor, by jnp.tril_indices and a solve",
        lambda draw: (
            density,
            {"mean": draw.normal(size=n), "tril": 0.3 * draw.normal(size=n * (n + 1) // 2)},
            draw.normal(size=(samples, n)),
        ),
    )


def _tridiagonal(n: int) -> Program:
    """One implicit step of diffusion, by the conductivity of each face."""

    def fun(log_rates: jax.Array, u: jax.Array) -> jax.Array:
        rates = 0.5 * jnp.exp(log_rates)
        lower = jnp.concatenate([jnp.zeros(1), -rates])
        upper = jnp.concatenate([-rates, jnp.zeros(1)])
        return lax.linalg.tridiagonal_solve(lower, 1 - lower - upper, upper, u[:, None])[:, 0]

    return Program(
        f"implicit diffusion, tridiagonal solve of {n}",
        "lax.linalg.tridiagonal_solve in implicit diffusion (soil, ocean and climate columns)",
        lambda draw: (fun, 0.5 * draw.normal(size=n - 1), draw.normal(size=n)),
    )


def _variable_projection(points: int, terms: int) -> Program:
    """Residuals of a sum of exponentials whose amplitudes are eliminated by QR."""

    def residuals(log_rates: jax.Array, times: jax.Array, ys: jax.Array) -> jax.Array:
        basis = jnp.exp(-jnp.outer(times, jnp.exp(log_rates)))
        q, _ = jnp.linalg.qr(basis)
        return ys - q @ (q.T @ ys)

    def make(draw: np.random.Generator) -> Made:
        times = np.linspace(0, 4, points)
        ys = np.exp(-times) + 0.5 * np.exp(-0.2 * times) + 0.05 * draw.normal(size=points)
        return residuals, np.linspace(-1.5, 1.5, terms), times, ys

    return Program(
        f"variable projection, {points} points and {terms} exponentials",
        "Separable least squares by jnp.linalg.qr (Golub and Pereyra 1973)",
        make,
    )


def _least_squares(points: int, degree: int) -> Program:
    """Coefficients of a weighted polynomial fit, by the weights' logarithms."""

    def fun(log_weights: jax.Array, times: jax.Array, ys: jax.Array) -> jax.Array:
        root = jnp.exp(0.5 * log_weights)
        design = root[:, None] * jnp.vander(times, degree + 1)
        q, r = jnp.linalg.qr(design)
        return solve_triangular(r, q.T @ (root * ys))

    return Program(
        f"weighted fit of degree {degree} to {points} points",
        "Influence of each observation on a regression solved by QR",
        lambda draw: (
            fun,
            0.1 * draw.normal(size=points),
            np.linspace(-1, 1, points),
            draw.normal(size=points),
        ),
    )


def _taylor_exponential(n: int, terms: int) -> Program:
    """The exponential of a matrix by scaling, a Taylor polynomial and four squarings."""

    def fun(a: jax.Array) -> jax.Array:
        a = a / 16
        term = total = jnp.eye(n)
        for k in range(1, terms + 1):
            term = term @ a / k
            total = total + term
        for _ in range(4):
            total = total @ total
        return total

    return Program(
        f"matrix exponential of {n} x {n}, Taylor of {terms} terms",
        "A hand-written exponential in discretising linear systems and Lie groups",
        lambda draw: (fun, draw.normal(size=(n, n)) / np.sqrt(n)),
    )


def _substitutions(sites: int) -> Program:
    """The log-likelihood of pairs of nucleotides under a reversible Markov chain."""

    def likelihood(x: dict[str, jax.Array], counts: jax.Array) -> jax.Array:
        share = jax.nn.softmax(x["share"])
        rates = jnp.zeros((4, 4)).at[jnp.triu_indices(4, 1)].set(jnp.exp(x["rates"]))
        q = (rates + rates.T) * share
        q = q - jnp.diag(jnp.sum(q, axis=1))
        return jnp.sum(counts * jnp.log(share[:, None] * expm(jnp.exp(x["time"]) * q)))

    def make(draw: np.random.Generator) -> Made:
        counts = draw.multinomial(sites, np.full(16, 1 / 16)).reshape(4, 4).astype(float)
        x = {
            "rates": 0.3 * draw.normal(size=6),
            "share": 0.1 * draw.normal(size=4),
            "time": np.array(-1.0),
        }
        return likelihood, x, counts

    return Program(
        f"GTR substitution likelihood, {sites} sites",
        "Phylogenetics: jax.scipy.linalg.expm of a general time-reversible rate matrix",
        make,
    )


def _optimal_design(points: int, n: int) -> Program:
    """The logarithm of the information's determinant, by the weights of the points."""

    def criterion(weights: jax.Array, design: jax.Array) -> jax.Array:
        return jnp.linalg.slogdet(design.T @ (weights[:, None] * design))[1]

    return Program(
        f"D-optimal design, {points} points of {n}",
        "Optimal experiments and analytic centres by Newton's method on slogdet",
        lambda draw: (
            criterion,
            draw.uniform(0.5, 1.5, size=points),
            draw.normal(size=(points, n)),
        ),
        derivative="hessian",
    )


def _frequencies(n: int) -> Program:
    """The natural frequencies of a chain of masses, by the stiffness of its springs."""

    def fun(stiffness: jax.Array) -> jax.Array:
        diagonal = jnp.diag(stiffness[:-1] + stiffness[1:])
        beside = jnp.diag(stiffness[1:-1], 1)
        return jnp.sqrt(jnp.linalg.eigh(diagonal - beside - beside.T)[0])

    return Program(
        f"natural frequencies of {n} masses",
        "Modal sensitivities in structural dynamics by jnp.linalg.eigh",
        lambda draw: (fun, draw.uniform(1.0, 2.0, size=n + 1)),
    )


def _factorisation(m: int, n: int, rank: int) -> Program:
    """Residuals of a low-rank factorisation on observed entries."""

    def residual(x: tuple[jax.Array, jax.Array], seen: jax.Array, mask: jax.Array) -> jax.Array:
        u, v = x
        return mask * (u @ v.T - seen)

    return Program(
        f"matrix factorisation {m} x {n} of rank {rank}",
        "Matrix completion by Gauss-Newton on both factors",
        lambda draw: (
            residual,
            (draw.normal(size=(m, rank)), draw.normal(size=(n, rank))),
            draw.normal(size=(m, n)),
            (draw.random((m, n)) < 0.7).astype(float),
        ),
    )


def _riccati(n: int) -> Program:
    """The residual of the continuous algebraic Riccati equation."""

    def residual(x: jax.Array, a: jax.Array, b: jax.Array) -> jax.Array:
        gain = b.T @ x
        return a.T @ x + x @ a - gain.T @ gain + jnp.eye(n)

    return Program(
        f"Riccati residual, {n} x {n}",
        "Optimal control by Newton's method, matrices as unknowns (Kleinman 1968)",
        lambda draw: (
            residual,
            np.eye(n) + 0.1 * draw.normal(size=(n, n)),
            draw.normal(size=(n, n)) / np.sqrt(n),
            draw.normal(size=(n, 2)),
        ),
    )


def _kronecker(m: int, n: int) -> Program:
    """A separable covariance applied to data, by the lengths of its two kernels."""

    def fun(log_lengths: jax.Array, ys: jax.Array) -> jax.Array:
        def kernel(length: jax.Array, size: int) -> jax.Array:
            at = jnp.arange(size) / size
            return jnp.exp(-jnp.abs(at[:, None] - at) / length)

        rows, columns = jnp.exp(log_lengths)
        return jnp.kron(kernel(rows, m), kernel(columns, n)) @ ys

    return Program(
        f"Kronecker covariance, {m} and {n}",
        "Separable space-time models with an explicit jnp.kron",
        lambda draw: (fun, np.array([-0.5, 0.2]), draw.normal(size=m * n)),
    )


def _draw(draw: np.random.Generator) -> Program:
    def size(low: int, high: int) -> int:
        return int(draw.integers(low, high + 1))

    # A program of a size, and the largest batch that is usual for it.
    programs = (
        lambda: (_network(size(4, 64)), 8),
        lambda: (_solve_matrix(size(3, 12)), 64),
        lambda: (_gaussian_process(size(10, 60)), 16),
        lambda: (_triangular(size(3, 16), size(5, 50)), 32),
        lambda: (_tridiagonal(size(8, 64)), 32),
        lambda: (_variable_projection(size(20, 100), size(2, 5)), 32),
        lambda: (_least_squares(size(10, 50), size(1, 5)), 64),
        lambda: (_taylor_exponential(size(3, 8), size(5, 10)), 64),
        lambda: (_substitutions(size(100, 1000)), 32),
        lambda: (_optimal_design(size(10, 50), size(2, 8)), 32),
        lambda: (_frequencies(size(4, 20)), 32),
        lambda: (_factorisation(size(5, 16), size(5, 16), size(1, 4)), 32),
        lambda: (_riccati(size(3, 10)), 32),
        lambda: (_kronecker(size(3, 8), size(3, 8)), 16),
    )
    return one_of(programs, draw)


FAMILY = Family(
    "linear algebra",
    (
        _network(4).settings(batch=512),
        _network(16),
        _network(64),
        _solve_matrix(8),
        _solve_matrix(4).settings(batch=512, dtype="float32"),
        _gaussian_process(40),
        _gaussian_process(20).settings(derivative="hessian"),
        _triangular(8, 20),
        _triangular(3, 10).settings(derivative="hessian", batch=64),
        _tridiagonal(50),
        _variable_projection(50, 3),
        _variable_projection(20, 2).settings(batch=128, dtype="float32"),
        _least_squares(30, 3),
        _taylor_exponential(4, 8),
        _taylor_exponential(3, 6).settings(batch=256, dtype="float32"),
        _substitutions(500),
        _optimal_design(30, 5),
        _optimal_design(12, 3).settings(batch=64),
        _frequencies(10),
        _factorisation(12, 10, 3).settings(dtype="float32"),
        _riccati(6),
        _kronecker(6, 8),
        _kronecker(6, 8).settings(batch=16),
    ),
    _draw,
)
