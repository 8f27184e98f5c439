"""The logarithm of a sum of exponentials, with the largest taken out before."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jax_cce
from benchmarks.gradbench.evaluation import Evaluation, Function, Json, lists


def logsumexp(x: jax.Array) -> jax.Array:
    """Written out, as the evaluation asks for no rule that is made for it."""
    largest = jnp.max(x)
    return largest + jnp.log(jnp.sum(jnp.exp(x - largest)))


def _read(data: Json) -> tuple[Any, ...]:
    return (np.asarray(data["x"], float),)


def _draw(rng: np.random.Generator, n: int) -> Json:
    return {"x": lists(rng.random(n))}


EVALUATION = Evaluation(
    functions={
        "primal": Function(logsumexp, float),
        "gradient": Function(jax_cce.jacobian(logsumexp), lists, {"grad": jax.grad(logsumexp)}),
    },
    read=_read,
    draw=_draw,
    sizes={"n 100": (100,), "n 80,000": (80_000,)},
)
