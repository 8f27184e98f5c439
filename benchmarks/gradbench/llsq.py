"""Least squares of a polynomial that shall follow the sign of its variable (from cmpad)."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jax_cce
from benchmarks.gradbench.evaluation import Evaluation, Function, Json, lists


def objective(x: jax.Array, t: jax.Array) -> jax.Array:
    """Half the sum of squares over places t (n,), for coefficients x (m,) by rising powers."""
    powers = jnp.cumprod(jnp.broadcast_to(t[:, None], (len(t), len(x) - 1)), axis=1)
    values = x[0] + powers @ x[1:]
    return jnp.sum((jnp.sign(t) - values) ** 2) / 2


def _read(data: Json) -> tuple[Any, ...]:
    n = data["n"]
    return np.asarray(data["x"], float), -1 + np.arange(n) * 2 / (n - 1)


def _draw(rng: np.random.Generator, n: int, m: int) -> Json:
    return {"x": lists(rng.random(m)), "n": n}


EVALUATION = Evaluation(
    functions={
        "primal": Function(objective, float),
        "gradient": Function(jax_cce.jacobian(objective), lists, {"grad": jax.grad(objective)}),
    },
    read=_read,
    draw=_draw,
    sizes={"n 16, m 16": (16, 16), "n 1024, m 128": (1024, 128)},
)
