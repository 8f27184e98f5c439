"""The square of a number and its derivative: whether messages are understood at all."""

from __future__ import annotations

import jax
import numpy as np

import jax_cce
from benchmarks.gradbench.evaluation import Evaluation, Function, Json


def square(x: jax.Array) -> jax.Array:
    return x * x


def _draw(rng: np.random.Generator) -> Json:
    return rng.uniform(1, 2)


EVALUATION = Evaluation(
    functions={
        "square": Function(square, float),
        "double": Function(jax_cce.jacobian(square), float, {"grad": jax.grad(square)}),
    },
    read=lambda x: (float(x),),
    draw=_draw,
    sizes={"one number": ()},
)
