"""The layers that the neural tasks share, one equation for each operation."""

import jax
import jax.numpy as jnp

_EPSILON = 1e-6


def layer_norm(x: jax.Array, scale: jax.Array, shift: jax.Array) -> jax.Array:
    """Standardises the last axis of `x`, then scales and shifts it."""
    centred = x - jnp.mean(x, axis=-1, keepdims=True)
    variance = jnp.mean(centred**2, axis=-1, keepdims=True)
    return centred / jnp.sqrt(variance + _EPSILON) * scale + shift


def softmax(x: jax.Array, axis: int) -> jax.Array:
    """Normalises exponentials over one axis.

    The maximum is not subtracted: it has no derivative, and the tasks' arguments are small.
    """
    exponentials = jnp.exp(x)
    return exponentials / jnp.sum(exponentials, axis=axis, keepdims=True)


def softmax_cross_entropy(logits: jax.Array, labels: jax.Array, axis: int) -> jax.Array:
    """Computes the cross-entropy of the classes along `axis`, summed over the other axes."""
    return -jnp.sum(labels * jnp.log(softmax(logits, axis)))
