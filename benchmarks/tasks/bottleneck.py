"""A chain of dense layers through a narrow one, where neither mode of differentiation is good.

The Jacobian has rank 16 at most. The order that multiplies into the narrow layer from both sides
needs about an eighth of the multiplications of forward or reverse mode.
"""

import itertools

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.tasks.task import Task

_WIDTHS = (784, 256, 16, 256, 784)


def bottleneck(x: jax.Array, *weights: jax.Array) -> jax.Array:
    """Applies tanh layers without biases, one for each weight matrix."""
    for w in weights:
        x = jnp.tanh(w @ x)
    return x


def _arguments() -> tuple[np.ndarray, ...]:
    rng = np.random.default_rng(0)
    weights = (rng.normal(size=(m, n)) / np.sqrt(n) for n, m in itertools.pairwise(_WIDTHS))
    return rng.normal(size=_WIDTHS[0]), *weights


TASK = Task(
    name="Bottleneck",
    fun=bottleneck,
    # Weights of the variance that keeps activations at one scale: no layer saturates.
    args=_arguments(),
    argnums=(0,),
)
