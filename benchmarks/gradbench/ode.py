"""The last component of y' = (x_0, x_1 y_0, x_2 y_1, ...) by classical Runge-Kutta (from cmpad)."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jax_cce
from benchmarks.gradbench.evaluation import Evaluation, Function, Json, lists

_UNTIL = 2.0


def solution(x: jax.Array, steps: jax.Array) -> jax.Array:
    """What is reached from zero, shape (n,), by steps of given lengths, shape (s,)."""

    def slope(y: jax.Array) -> jax.Array:
        return x * jnp.concatenate([jnp.ones(1), y[:-1]])

    def step(y: jax.Array, h: jax.Array) -> tuple[jax.Array, None]:
        first = slope(y)
        second = slope(y + h / 2 * first)
        third = slope(y + h / 2 * second)
        fourth = slope(y + h * third)
        return y + h / 6 * (first + 2 * second + 2 * third + fourth), None

    return jax.lax.scan(step, jnp.zeros_like(x), steps)[0]


def _last(x: jax.Array, steps: jax.Array) -> jax.Array:
    return solution(x, steps)[-1]


def _read(data: Json) -> tuple[Any, ...]:
    return np.asarray(data["x"], float), np.full(data["s"], _UNTIL / data["s"])


def _draw(rng: np.random.Generator, n: int, s: int) -> Json:
    return {"x": lists(rng.random(n)), "s": s}


EVALUATION = Evaluation(
    functions={
        "primal": Function(solution, lists),
        "gradient": Function(jax_cce.jacobian(_last), lists, {"grad": jax.grad(_last)}),
    },
    read=_read,
    draw=_draw,
    sizes={"n 6, s 10": (6, 10), "n 100, s 100": (100, 100)},
)
