"""The loss of a long short-term memory that predicts a text bit by bit; its weights are diagonal.

As in Microsoft's ADBench: two of the gates read the layer's input and two its hidden value, and 2
is added to the sum of exponentials. A layer has as many cells as a character has bits.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jax_cce
from benchmarks.gradbench.evaluation import Evaluation, Function, Json, lists


def objective(parameters: tuple[Any, Any], state: jax.Array, text: jax.Array) -> jax.Array:
    """The mean negative log probability of a bit.

    Args:
        parameters: weights and biases of the layers' four gates, shape (layers, 2, 4, bits), and
            the weights of inputs, and weights and biases of outputs, shape (3, bits).
        state: hidden values and cells of the layers before the text, shape (layers, 2, bits).
        text: shape (characters, bits).
    """
    layers, (in_weight, out_weight, out_bias) = parameters

    def step(state: jax.Array, here: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        character, following = here
        signal, after = character * in_weight, []
        for (weights, biases), (hidden, cell) in zip(layers, state, strict=True):
            read = jnp.stack([signal, hidden, signal, hidden])
            gates = weights * read + biases
            forget, take, give = jax.nn.sigmoid(gates[:3])
            cell = cell * forget + take * jnp.tanh(gates[3])
            signal = give * jnp.tanh(cell)
            after.append(jnp.stack([signal, cell]))
        predicted = signal * out_weight + out_bias
        normalised = predicted - jnp.log(2 + jnp.sum(jnp.exp(predicted)))
        return jnp.stack(after), following @ normalised

    _, logarithms = jax.lax.scan(step, state, (text[:-1], text[1:]))
    return -jnp.sum(logarithms) / text[1:].size


def _read(data: Json) -> tuple[Any, ...]:
    extra = np.asarray(data["extra_params"], float)
    bits = extra.shape[1]
    main = np.reshape(np.asarray(data["main_params"], float), (-1, 2, 4, bits))
    state = np.reshape(np.asarray(data["state"], float), (-1, 2, bits))
    return (main, extra), state, np.asarray(data["sequence"], float)


def _write(gradient: tuple[Any, Any]) -> Json:
    return lists(np.concatenate([np.ravel(block) for block in gradient]))


def _draw(rng: np.random.Generator, layers: int, characters: int, bits: int) -> Json:
    return {
        "main_params": lists(rng.random((2 * layers, 4 * bits))),
        "extra_params": lists(rng.random((3, bits))),
        "state": lists(rng.random((2 * layers, bits))),
        "sequence": lists(rng.integers(2, size=(characters, bits)).astype(float)),
    }


EVALUATION = Evaluation(
    functions={
        "objective": Function(objective, float),
        "jacobian": Function(jax_cce.jacobian(objective), _write, {"grad": jax.grad(objective)}),
    },
    read=_read,
    draw=_draw,
    sizes={"l 1, c 32": (1, 32, 8), "l 2, c 1024": (2, 1024, 14)},
)
