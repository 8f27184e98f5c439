"""A charged particle between two fixed charges, one of which is moved until it hits the origin.

Siskind & Pearlmutter, "Using programming language theory to make automatic differentiation sound
and efficient" (2008). The force is the gradient of a potential, inside a loop of unknown length.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.gradbench import descent
from benchmarks.gradbench.descent import Method
from benchmarks.gradbench.evaluation import Evaluation, Json

_STEP = 0.1


def miss(inner: Method) -> Callable[[jax.Array], jax.Array]:
    """The function of the control, shape (1,), whose result is the squared distance missed by."""

    def fun(control: jax.Array) -> jax.Array:
        charges = jnp.array([[10.0, 10.0], [10.0, 0.0]]).at[0, 1].add(-control[0])

        def potential(x: jax.Array) -> jax.Array:
            return jnp.sum(1 / jnp.sqrt(jnp.sum((x - charges) ** 2, axis=1)))

        def step(state: Any) -> Any:
            x, velocity, _ = state
            faster = velocity - _STEP * inner(potential)(x)[1]
            return x + _STEP * velocity, faster, velocity

        start = jnp.array([0.75, 0.0])
        state = (jnp.array([0.0, 8.0]), start, start)
        x, _, velocity = jax.lax.while_loop(lambda state: state[0][1] > 0, step, state)
        return (x[0] - x[1] / velocity[1] * velocity[0]) ** 2

    return fun


def _program(outer: Method, inner: Method) -> Any:
    return lambda start: descent.argmin(outer(miss(inner)), start)


def _write(control: jax.Array) -> Json:
    return float(control[0])


def _draw(rng: np.random.Generator) -> Json:
    return {"w": 0.0}


EVALUATION = Evaluation(
    functions=descent.nested(_program, _write),
    read=lambda data: (np.array([float(data["w"])]),),
    draw=_draw,
    sizes={"w 0": ()},
)
