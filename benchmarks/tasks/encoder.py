"""Two blocks of a transformer encoder with single-head attention, and their loss."""

import jax
import numpy as np

from benchmarks.tasks.layers import layer_norm, softmax, softmax_cross_entropy
from benchmarks.tasks.task import Published, Task


def _attention(x: jax.Array, wq: jax.Array, wk: jax.Array, wv: jax.Array) -> jax.Array:
    q, k, v = wq @ x, wk @ x, wv @ x
    return softmax(q.T @ k, axis=1) @ v


def encoder_loss(
    x: jax.Array,
    y: jax.Array,
    wq1: jax.Array,
    wk1: jax.Array,
    wv1: jax.Array,
    wq2: jax.Array,
    wk2: jax.Array,
    wv2: jax.Array,
    w1: jax.Array,
    w2: jax.Array,
    b1: jax.Array,
    b2: jax.Array,
    scale1: jax.Array,
    shift1: jax.Array,
    scale2: jax.Array,
    shift2: jax.Array,
) -> jax.Array:
    """Computes the softmax cross-entropy of the encoder's predictions for four tokens.

    Args:
      x, y: Embedded tokens [4, 4], one a column, and the probabilities of their classes [2, 4].
      wq1, wk1, wv1: Weights [4, 4] of the first block's queries, keys and values.
      wq2, wk2, wv2: The same of the second block.
      w1, w2: Weights [4, 4] and [2, 4] of the two blocks' dense layers.
      b1, b2: Their biases, [4] and [2, 1].
      scale1, shift1: Scalars of the first block's layer normalisation.
      scale2, shift2: The same of the second block.

    Returns:
      The loss, a scalar.
    """
    z = layer_norm(x + _attention(x, wq1, wk1, wv1), scale1, shift1)
    z = jax.nn.silu(w1 @ z + b1)
    z = layer_norm(z + _attention(z, wq2, wk2, wv2), scale2, shift2)
    z = jax.nn.silu(w2 @ z + b2)
    return softmax_cross_entropy(z, y, axis=0)


def _arguments() -> tuple[np.ndarray | np.float64, ...]:
    rng = np.random.default_rng(0)
    weights = [rng.normal(size=(4, 4)) / np.sqrt(4) for _ in range(7)]
    return (
        rng.normal(size=(4, 4)),
        rng.dirichlet(np.ones(2), size=4).T,
        *weights,
        rng.normal(size=(2, 4)) / np.sqrt(4),
        0.1 * rng.normal(size=4),
        0.1 * rng.normal(size=(2, 1)),
        *(np.float64(s) for s in (1.2, 0.1, 0.9, -0.2)),
    )


TASK = Task(
    name="Encoder",
    fun=encoder_loss,
    # The scale of an initialised network: no attention weight or activation saturates.
    args=_arguments(),
    argnums=tuple(range(16)),
    published=Published(forward=135010, reverse=4688, markowitz=51869, best=4656),
)
