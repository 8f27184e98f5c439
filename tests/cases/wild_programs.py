"""A hypothesis strategy for programs without any care for their domains, and points to match.

Their values may be infinite, NaN or denormal. A program is source, as in `cases.programs`: a
function of a vector of three and a number.
"""

import dataclasses
from typing import Any

import jax
import numpy as np
from hypothesis import strategies as st
from jax import lax
from jax import numpy as jnp

from cases.program_source import Source

__all__ = ["WildProgram", "points", "wild_programs"]

_UNARY = (
    "jnp.sin({a})",
    "jnp.exp({a})",
    "jnp.log({a})",
    "jnp.sqrt({a})",
    "1 / {a}",
    "{a} ** 2",
    "-{a}",
    "0.5 * {a}",
    "1 + {a}",
    "jnp.sum({a})",
    "jnp.abs({a})",
    "jnp.where({a} > 0, {a}, 0)",
    "jnp.where({a} == 0, 1, {a})",
    "jnp.where(jnp.isfinite({a}), {a}, 2)",
    "jnp.cos({a})",
    "lax.rsqrt({a})",
    "{a} ** 3",
    "{a} ** -2",
    "jnp.tanh({a})",
    "jnp.arctan({a})",
    "jnp.cbrt({a})",
    "jnp.log1p({a})",
    "jnp.expm1({a})",
    "lax.logistic({a})",
    "lax.erf({a})",
    "jnp.sign({a})",
    "jnp.floor({a})",
    "jnp.max({a})",
    "jnp.prod({a})",
    "jnp.clip({a}, -1, 2)",
    "jax.nn.relu({a})",
    "jax.nn.softplus({a})",
    "jax.nn.logsumexp({a})",
    "jnp.flip(jnp.atleast_1d({a}))",
    "jnp.cumsum(jnp.atleast_1d({a}))",
    "lax.stop_gradient({a})",
    "lax.fori_loop(0, 3, lambda _, c: jnp.sin(c) + {a}, {a})",
)
_BINARY = (
    "{a} + {b}",
    "{a} - {b}",
    "{a} * {b}",
    "{a} / {b}",
    "jnp.maximum({a}, {b})",
    "jnp.minimum({a}, {b})",
    "jnp.where({a} > {b}, {a}, {b})",
    "jnp.where({a} >= {b}, {a} * {b}, jnp.sin({b}))",
    "jnp.where({a} != {b}, {a} / {b}, 0)",
    "jnp.arctan2({a}, {b})",
    "jnp.power({a}, {b})",
    "jnp.hypot({a}, {b})",
    "jnp.logaddexp({a}, {b})",
    "lax.rem(*jnp.broadcast_arrays({a}, {b}))",
    "matrix @ ({a} * {b} * jnp.ones(3))",
    "lax.cond(jnp.sum({a}) > 0, jnp.multiply, jnp.subtract, *jnp.broadcast_arrays({a}, {b}))",
)
_NAMESPACE = {
    "jax": jax,
    "jnp": jnp,
    "lax": lax,
    "matrix": np.array([[1.0, 0.5, -2.0], [0.25, -1.0, 3.0], [0.5, 1.0, 0.75]]),
}
_NUMBERS = (1.0, -1.0, 0.5, 2.0, -3.7, 0.0, -0.0, np.inf, -np.inf, np.nan)
# Denormal, small, large and huge ones; what is large has a square, and what is huge has none.
_NUMBERS += (5e-324, -2e-310, 1e-100, 20.0, -1e100, 1e300)


@dataclasses.dataclass(frozen=True, repr=False)
class WildProgram(Source):
    """A function of a vector of three and a number."""

    namespace = _NAMESPACE


@st.composite
def wild_programs(draw: Any) -> WildProgram:
    """Draws a program of one to six statements, each on two of the values before it."""
    values, lines = ["s", "x", "x[0]", "x[2]"], []
    for number in range(draw(st.integers(1, 6))):
        # Those that were made last are drawn most often.
        a, b = (draw(st.sampled_from(values[:-4:-1] + values)) for _ in range(2))
        statement = draw(st.sampled_from(_UNARY) | st.sampled_from(_BINARY))
        lines.append(f"    v{number} = {statement.format(a=a, b=b)}")
        values.append(f"v{number}")
    other = draw(st.sampled_from(values))
    return WildProgram("\n".join(["def f(x, s):", *lines, f"    return {values[-1]}, {other}", ""]))


def points(count: int) -> st.SearchStrategy[np.ndarray]:
    """Draws so many points, of four numbers each."""
    number = st.sampled_from(_NUMBERS) | st.floats(-2.0, 2.0).map(lambda x: round(x, 3))
    rows = st.lists(number, min_size=4 * count, max_size=4 * count)
    return rows.map(lambda numbers: np.array(numbers).reshape(count, 4))
