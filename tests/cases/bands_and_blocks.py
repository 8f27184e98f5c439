"""Functions of one array whose flattened Jacobians have bands, blocks, both or neither."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import jax_cce
from cases.references import jitted_jacrev, once

_RNG = np.random.default_rng(0)


def constant(*shape: int) -> np.ndarray:
    return _RNG.normal(size=shape)


class Case(NamedTuple):
    """A function, the shape of its input, and what is known of its flattened Jacobian.

    Attributes:
        bands: the offsets of its diagonals; None if it has none; ... if either will do.
        blocks: the shape of its blocks, in the same way.
    """

    name: str
    fun: Callable[[jax.Array], jax.Array]
    shape: tuple[int, ...]
    bands: Any = ...
    blocks: Any = ...


def tridiagonal(x: jax.Array) -> jax.Array:
    padded = jnp.pad(x, 1)
    return (3 - 2 * x) * x - padded[:-2] - 2 * padded[2:] ** 2


def laplacian(x: jax.Array) -> jax.Array:
    padded = jnp.pad(x, 1)
    sides = padded[2:, 1:-1] + padded[:-2, 1:-1] + padded[1:-1, 2:] + padded[1:-1, :-2]
    return sides - 4 * x + jnp.exp(x)


_W = constant(6, 4)
_EDGES = np.array([[0, 1, 2, 3, 4, 0], [1, 2, 3, 4, 0, 2]])

CASES = [
    Case("diagonal", jnp.sin, (6,), (0,), (6, 1, 1)),
    Case("identity", lambda x: x, (2, 3), (0,), (6, 1, 1)),
    Case("tridiagonal", tridiagonal, (7,), (-1, 0, 1), None),
    Case("periodic", lambda x: jnp.roll(x, 1) * x, (5,), (-1, 0, 4), None),
    Case("two upper diagonals", lambda x: x[1:-1] * x[2:], (6,), (1, 2), None),
    Case("below the diagonal", lambda x: jnp.pad(x**2, (2, 0)), (4,), (-2,), None),
    Case("reversed twice", lambda x: (x[::-1] ** 2)[::-1], (5,), (0,), (5, 1, 1)),
    Case("2-D Laplacian", laplacian, (4, 5), (-5, -1, 0, 1, 5), None),
    Case("reshape", lambda x: jnp.sin(x.reshape(4, 6)), (6, 4), (0,), (24, 1, 1)),
    Case("block perceptron", jax.vmap(lambda p: jnp.tanh(_W @ p)), (5, 4), ..., (5, 6, 4)),
    Case("blocks of rows", lambda x: jnp.sum(x**2, axis=1), (3, 4), ..., (3, 1, 4)),
    Case("repeated entries", lambda x: jnp.repeat(x**2, 3), (4,), ..., (4, 3, 1)),
    Case("blocks of blocks", jax.vmap(jax.vmap(jnp.cumsum)), (2, 3, 4), ..., (6, 4, 4)),
    Case("dense", lambda x: jnp.tanh(_W @ x), (4,), ..., None),
    Case("low rank", lambda x: (x @ _W[:, :2]) @ _W[:, 2:].T, (6,), ..., None),
    Case("x times the sum of squares", lambda x: x * jnp.sum(x**2), (5,), ..., None),
    Case("arrowhead", lambda x: jnp.append(jnp.sum(x**2), x[1:] * x[0]), (6,), None, None),
    Case("outer product", lambda x: jnp.outer(x, x), (4,), None, None),
    Case("transpose", lambda x: x.T**2, (3, 4), None, None),
    Case("one-hot", lambda x: x[0] * x, (5,), None, None),
    Case("one entry", lambda x: x[2] ** 2, (5,), ..., None),
    Case("gather", lambda x: x[_EDGES[0]] * x[_EDGES[1]], (5,), None, None),
    Case("square gather", lambda x: x[np.array([1, 0, 1])], (3,), None, None),
    Case("scatter", lambda x: jnp.zeros(7).at[_EDGES[0, :5] + 2].add(x**2), (5,), ..., None),
    Case("scatter of duplicates", lambda x: x.at[np.array([1, 1])].add(x[:2] ** 2), (4,)),
    Case("sort", lambda x: jnp.sort(x) ** 2, (6,), None, None),
    Case("all times the largest", lambda x: x * x[jnp.argmax(x)], (6,), None, None),
    Case("cumsum", lambda x: jnp.cumsum(x**2), (6,), ..., None),
    Case("cumsum without coefficients", jnp.cumsum, (6,), ..., None),
    Case("rows of a triangle", lambda x: jnp.tril(x)[:, 0], (3, 3), ..., None),
    Case("convolution", lambda x: jnp.convolve(x, _W[0, :3], "same"), (7,), (-1, 0, 1), None),
    Case("scalar to scalar", jnp.sin, (), (0,)),
    Case("scalar to vector", lambda x: x ** np.arange(1.0, 4), (), ..., None),
    Case("vector to scalar", lambda x: jnp.sum(x**2), (4,), ..., None),
    Case("constant", lambda x: jnp.ones(4), (4,), ()),
    Case("empty output", lambda x: x[:0], (4,)),
    Case("empty input", lambda x: jnp.sum(x**2, 1), (3, 0)),
    Case("empty both", jnp.sin, (0, 2)),
    Case("size one", lambda x: jnp.sum(x) * x, (1, 1)),
]


def dense_jacobian(fun: Callable[..., Any], x: Any) -> np.ndarray:
    return np.asarray(jitted_jacrev(fun)(x))


def flattened(dense: np.ndarray, out_rank: int) -> np.ndarray:
    rows, columns = math.prod(dense.shape[:out_rank]), math.prod(dense.shape[out_rank:])
    return dense.reshape(rows, columns)


def operands(jacobian: Any) -> dict[str, Any]:
    """Vectors and matrices for either side of a Jacobian."""
    rng = np.random.default_rng(1)
    out_shape, in_shape = jacobian.out_shape, jacobian.in_shape
    shapes = {"v": in_shape, "vs": (*in_shape, 3), "u": out_shape, "us": (3, *out_shape)}
    return {name: rng.normal(size=shape) for name, shape in shapes.items()}


@once
def jacobian_of(case: Case) -> tuple[Any, np.ndarray, np.ndarray]:
    x = np.random.default_rng(2).normal(size=case.shape)
    return jax_cce.jacobian(case.fun, format="structured")(x), dense_jacobian(case.fun, x), x
