"""The log posterior of a mixture of Gaussians with a Wishart prior on the precision matrices.

As in Srajer, Kukelova & Fitzgibbon, "A benchmark of selected algorithmic differentiation tools on
some problems in computer vision and machine learning" (2018), section 4.1, with GradBench's
corrections. The precision of a component is Q^T Q, of a lower triangular Q.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import logsumexp, multigammaln

import jax_cce
from benchmarks.gradbench.evaluation import Evaluation, Function, Json, lists


def objective(parameters: dict[str, jax.Array], x: jax.Array, m: Any, gamma: Any) -> jax.Array:
    """The log posterior.

    Args:
        parameters: alpha (k,), the logarithms of the weights up to a constant; mu (k, d), the
            means; q (k, d), the logarithms of Q's diagonals; l (k, d (d - 1) / 2), the entries
            below them, column by column.
        x: the points, shape (n, d).
        m: further degrees of freedom of the prior.
        gamma: the precision of the prior.
    """
    alpha, mu, q, below = (parameters[name] for name in ("alpha", "mu", "q", "l"))
    (n, d), k = x.shape, len(alpha)
    columns, rows = np.triu_indices(d, 1)
    factors = jnp.zeros((k, d, d)).at[:, rows, columns].set(below) + jnp.exp(q)[:, :, None] * (
        np.eye(d)
    )
    whitened = jnp.einsum("kij,nkj->nki", factors, x[:, None] - mu)
    exponents = alpha + jnp.sum(q, 1) - jnp.sum(whitened**2, 2) / 2
    likelihood = jnp.sum(logsumexp(exponents, axis=1)) - n * logsumexp(alpha)
    freedom = d + m + 1
    prior = m * jnp.sum(q) - gamma**2 / 2 * jnp.sum(factors**2)
    of_prior = freedom * d * jnp.log(gamma / np.sqrt(2)) - multigammaln(freedom / 2, d)
    return likelihood - n * d / 2 * np.log(2 * np.pi) + prior + k * of_prior


def _read(data: Json) -> tuple[Any, ...]:
    k, d = data["k"], data["d"]
    shapes = {"alpha": (k,), "mu": (k, d), "q": (k, d), "l": (k, d * (d - 1) // 2)}
    parameters = {name: np.reshape(data[name], shape) for name, shape in shapes.items()}
    points = np.reshape(data["x"], (data["n"], d))
    return parameters, points, float(data["m"]), float(data["gamma"])


def _draw(rng: np.random.Generator, d: int, k: int, n: int) -> Json:
    return {
        "d": d,
        "k": k,
        "n": n,
        "m": 0,
        "gamma": 1.0,
        "x": lists(rng.normal(size=(n, d))),
        "alpha": lists(rng.normal(size=k)),
        "mu": lists(rng.uniform(size=(k, d))),
        "q": lists(rng.normal(size=(k, d))),
        "l": lists(rng.normal(size=(k, d * (d - 1) // 2))),
    }


def _write(gradient: dict[str, jax.Array]) -> Json:
    return {name: lists(block) for name, block in gradient.items()}


EVALUATION = Evaluation(
    functions={
        "objective": Function(objective, float),
        "jacobian": Function(jax_cce.jacobian(objective), _write, {"grad": jax.grad(objective)}),
    },
    read=_read,
    draw=_draw,
    sizes={"d 2, k 5, n 100": (2, 5, 100), "d 10, k 10, n 1000": (10, 10, 1000)},
)
