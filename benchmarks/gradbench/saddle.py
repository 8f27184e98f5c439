"""A saddle point by gradient descent, in each of whose steps gradient ascent finds a maximum.

Siskind & Pearlmutter, "Using programming language theory to make automatic differentiation sound
and efficient" (2008).
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.gradbench import descent
from benchmarks.gradbench.descent import Method
from benchmarks.gradbench.evaluation import Evaluation, Json, lists


def objective(x: jax.Array, y: jax.Array) -> jax.Array:
    """Has its saddle at the origin; both arguments have shape (2,)."""
    return x @ x - y @ y


def _program(outer: Method, inner: Method) -> Any:
    def highest(method: Method, x: jax.Array, start: jax.Array) -> jax.Array:
        return descent.argmin(method(lambda y: -objective(x, y)), start)

    def program(start: jax.Array) -> jax.Array:
        x = descent.argmin(outer(lambda x: objective(x, highest(inner, x, start))), start)
        return jnp.concatenate([x, highest(outer, x, start)])

    return program


def _draw(rng: np.random.Generator) -> Json:
    return {"start": [1.0, 1.0]}


EVALUATION = Evaluation(
    functions=descent.nested(_program, lists),
    read=lambda data: (np.asarray(data["start"], float),),
    draw=_draw,
    sizes={"start 1, 1": ()},
)
