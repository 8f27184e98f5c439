"""Sparse problems that are no bands: blocks, a dense row and column, and dense Jacobians."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from scipy import sparse

from benchmarks.tasks.bottleneck import bottleneck
from benchmarks.tasks.sparse_problem import ByHand, Problem, normal

_BLOCK, _HIDDEN = 8, 16


def _with_weights(n: int, dtype: Any, *shapes: tuple[int, int]) -> tuple[np.ndarray, ...]:
    # Weights of the variance that keeps activations at one scale: no layer saturates.
    rng = np.random.default_rng(1)
    weights = (rng.standard_normal(shape) / np.sqrt(shape[1]) for shape in shapes)
    return *normal(n, dtype), *(w.astype(dtype) for w in weights)


def block_mlp(x: jax.Array, *weights: jax.Array) -> jax.Array:
    """Applies one small network of tanh layers to each block of x."""
    blocks = x.reshape(-1, _BLOCK)
    return jax.vmap(lambda block: bottleneck(block, *weights))(blocks).reshape(-1)


def _network_by_hand(x: jax.Array, w1: jax.Array, w2: jax.Array) -> tuple[jax.Array, ...]:
    hidden = jnp.tanh(x @ w1.T)  # [..., hidden]
    outer = 1 - jnp.tanh(hidden @ w2.T) ** 2  # [..., outputs]
    inner = (w2 * (1 - hidden[..., None, :] ** 2)) @ w1  # [..., outputs, inputs]
    return (outer[..., :, None] * inner,)


def _blocks_by_hand(x: jax.Array, w1: jax.Array, w2: jax.Array) -> tuple[jax.Array, ...]:
    return _network_by_hand(x.reshape(-1, _BLOCK), w1, w2)


def _block_diagonal(x: np.ndarray, w1: np.ndarray, w2: np.ndarray, blocks: Any) -> Any:
    count = len(blocks)
    return sparse.bsr_array((np.asarray(blocks), np.arange(count), np.arange(count + 1)))


BLOCK_MLP = Problem(
    name="Block MLP",
    fun=block_mlp,
    make=lambda n, dtype: _with_weights(n, dtype, (_HIDDEN, _BLOCK), (_BLOCK, _HIDDEN)),
    size=1024 * _BLOCK,
    nonzeros=lambda n: _BLOCK * n,
    small=3 * _BLOCK,
    fit=lambda n: n - n % _BLOCK,
    by_hand=ByHand(_blocks_by_hand, _block_diagonal),
)


def arrowhead(x: jax.Array) -> jax.Array:
    """x_i^2 + x_0 x_i, and the sum of all squares in the first place."""
    return (x**2 + x[0] * x).at[0].set(jnp.sum(x**2))


def _arrowhead_by_hand(x: jax.Array) -> tuple[jax.Array, ...]:
    twice = 2 * x
    return twice, x[1:], twice[1:] + x[0]


def _arrowhead_matrix(x: np.ndarray, row: Any, column: Any, diagonal: Any) -> Any:
    rest = sparse.diags_array(diagonal)
    return sparse.block_array([[row[:1, None], row[None, 1:]], [column[:, None], rest]])


ARROWHEAD = Problem(
    name="Arrowhead",
    fun=arrowhead,
    make=normal,
    size=2000,
    nonzeros=lambda n: 3 * n - 2,
    small=9,
    few_colours=False,
    by_hand=ByHand(_arrowhead_by_hand, _arrowhead_matrix),
)

_NARROW = 4


def _dense(*arguments: Any) -> Any:
    return np.asarray(arguments[-1])


# What the problems share whose Jacobians have no zero.
_every_entry = functools.partial(
    Problem,
    size=1000,
    nonzeros=lambda n: n**2,
    small=10,
    scales=False,
    few_colours=False,
)

BOTTLENECK = _every_entry(
    name="Bottleneck",
    fun=bottleneck,
    make=lambda n, dtype: _with_weights(n, dtype, (_NARROW, n), (n, _NARROW)),
    by_hand=ByHand(_network_by_hand, _dense),
)

# A copy, as the other rows are: jit would hand out its own argument.
MATRIX_PRODUCT = _every_entry(
    name="A @ x",
    fun=lambda x, a: a @ x,
    make=lambda n, dtype: _with_weights(n, dtype, (n, n)),
    by_hand=ByHand(lambda x, a: (jnp.copy(a),), _dense),
)


def _scaling_by_hand(x: jax.Array) -> tuple[jax.Array, ...]:
    outer = 2 * x[:, None] * x
    return (outer + jnp.sum(x**2) * jnp.eye(x.size, dtype=x.dtype),)


SCALING = _every_entry(
    name="x * sum(x^2)",
    fun=lambda x: x * jnp.sum(x**2),
    make=normal,
    by_hand=ByHand(_scaling_by_hand, _dense),
)
