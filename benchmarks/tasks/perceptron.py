"""A two-layer perceptron with layer normalisation and its loss, for a single example."""

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.tasks.layers import layer_norm, softmax_cross_entropy
from benchmarks.tasks.task import Published, Task


def perceptron_loss(
    x: jax.Array,
    y: jax.Array,
    w1: jax.Array,
    b1: jax.Array,
    w2: jax.Array,
    b2: jax.Array,
    scale: jax.Array,
    shift: jax.Array,
) -> jax.Array:
    """Computes the softmax cross-entropy of the perceptron's prediction.

    Args:
      x, y: Input [4] and the probabilities of the classes [4].
      w1, b1: Weights [8, 4] and biases [8] of the hidden layer.
      w2, b2: Weights [4, 8] and biases [4] of the last layer.
      scale, shift: Scalars of the layer normalisation between the two.

    Returns:
      The loss, a scalar.
    """
    hidden = layer_norm(jnp.tanh(w1 @ x + b1), scale, shift)
    return softmax_cross_entropy(jnp.tanh(w2 @ hidden + b2), y, axis=-1)


def _arguments() -> tuple[np.ndarray | np.float64, ...]:
    rng = np.random.default_rng(0)
    return (
        rng.normal(size=4),
        rng.dirichlet(np.ones(4)),
        rng.normal(size=(8, 4)) / np.sqrt(4),
        0.1 * rng.normal(size=8),
        rng.normal(size=(4, 8)) / np.sqrt(8),
        0.1 * rng.normal(size=4),
        np.float64(1.2),
        np.float64(0.1),
    )


TASK = Task(
    name="Perceptron",
    fun=perceptron_loss,
    # The scale of an initialised network: no layer saturates.
    args=_arguments(),
    argnums=tuple(range(8)),
    published=Published(forward=10930, reverse=392, markowitz=4796, best=389),
)
