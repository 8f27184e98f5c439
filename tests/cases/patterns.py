"""Functions whose Jacobians have known numbers of nonzeros, by the operations that they use."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

_RNG = np.random.default_rng(0)


class Case(NamedTuple):
    """A function, the shape of its input, its nonzeros, and how many points show all of them."""

    name: str
    fun: Callable[[jax.Array], Any]
    shape: tuple[int, ...]
    nonzeros: int
    points: int = 3


def constant(*shape: int) -> np.ndarray:
    """An array without special values."""
    return _RNG.normal(size=shape)


def laplacian(x: jax.Array) -> jax.Array:
    """The 3-, 5- or 7-point stencil with zero boundaries, and a nonlinear reaction."""
    total = jnp.exp(x)
    for axis in range(x.ndim):
        padded = jnp.pad(x, [(1, 1) if k == axis else (0, 0) for k in range(x.ndim)])
        total += lax.slice_in_dim(padded, 2, None, axis=axis)
        total += lax.slice_in_dim(padded, 0, -2, axis=axis)
    return total


def box(x: jax.Array) -> jax.Array:
    """The 9-point stencil, as nested differences along the two axes."""
    for axis in range(2):
        x = x[:, :] + jnp.pad(lax.slice_in_dim(x, 1, None, axis=axis), _one(axis, 1))
        x = x**2 + jnp.pad(lax.slice_in_dim(x, 0, -1, axis=axis), _one(axis, 0))
    return x


def _one(axis: int, after: int) -> list[tuple[int, int]]:
    width = (0, 1) if after else (1, 0)
    return [width if k == axis else (0, 0) for k in range(2)]


def burgers(u: jax.Array) -> jax.Array:
    right, left = jnp.roll(u, -1), jnp.roll(u, 1)
    return -u * (right - left) / 2 + (right - 2 * u + left)


def broyden_tridiagonal(x: jax.Array) -> jax.Array:
    padded = jnp.pad(x, 1)
    return (3 - 2 * x) * x - padded[:-2] - 2 * padded[2:] + 1


def broyden_banded(x: jax.Array) -> jax.Array:
    """Five sub-diagonals and one super-diagonal."""
    result = x * (2 + 5 * x**2) + 1
    for shift in range(1, 6):
        result = result.at[shift:].add(-x[:-shift] * (1 + x[:-shift]))
    return result.at[:-1].add(-x[1:] * (1 + x[1:]))


def step(x: jax.Array) -> jax.Array:
    """One time step of a three-point stencil with zero boundaries."""
    return x + 0.1 * (x[jnp.array([0])] * 0 + jnp.pad(x[1:] ** 2, (0, 1)) - jnp.pad(x[:-1], (1, 0)))


def convolution(kernel: tuple[int, ...], **options: Any) -> Callable[[jax.Array], jax.Array]:
    """A convolution with a constant kernel of shape (out channels, in channels, *window)."""
    weights = constant(*kernel)
    options = {"window_strides": (1,) * (len(kernel) - 2), "padding": "VALID", **options}
    return lambda x: lax.conv_general_dilated(x, weights, **options)


def of_kernel(shape: tuple[int, ...]) -> Callable[[jax.Array], jax.Array]:
    """A convolution of a constant image as a function of its kernel."""
    image = constant(*shape)
    return lambda k: lax.conv_general_dilated(image, k, (1,) * (len(shape) - 2), "VALID")


def gathered(index: list[int], mode: Any) -> Callable[[jax.Array], jax.Array]:
    return lambda x: x.at[np.array(index)].get(mode=mode) ** 2


def scattered(index: list[int], mode: Any, how: str = "add") -> Callable[[jax.Array], jax.Array]:
    """Writes the first entries of x**2 at some positions of x."""
    at = np.array(index)

    def f(x: jax.Array) -> jax.Array:
        return getattr(x.at[at], how)(x[: len(at)] ** 2, mode=mode)

    return f


def perceptron(p: jax.Array) -> jax.Array:
    return jnp.tanh(_WIDE.T @ jnp.tanh(_WIDE @ p))


def repeated(f: Callable[[jax.Array], jax.Array], times: int) -> Callable[[jax.Array], jax.Array]:
    return lambda x: lax.scan(lambda c, _: (f(c), None), x, length=times)[0]


def outputs_of_scan(x: jax.Array) -> jax.Array:
    """A recurrence: each output depends on the inputs so far."""

    def body(carry: Any, new: Any) -> Any:
        carry = jnp.sin(carry) * new
        return carry, carry

    return lax.scan(body, jnp.ones(()), x)[1]


def max_pool(x: jax.Array, window: tuple[int, ...], strides: tuple[int, ...]) -> jax.Array:
    return lax.reduce_window(x, -jnp.inf, lax.max, window, strides, "VALID")


def interpolated(x: jax.Array) -> jax.Array:
    """Values at fixed places between given nodes."""
    return jnp.interp(np.array([0.3, 0.7, 2.5, 3.1]), np.arange(5.0), x) ** 2


def searched(x: jax.Array) -> jax.Array:
    """Linear interpolation by hand, in a table whose places are fixed."""
    nodes, places = jnp.arange(5.0), jnp.array([0.3, 2.5, 3.1])
    right = jnp.searchsorted(nodes, places)
    weight = places - nodes[right - 1]
    return x[right] * weight + (x[right - 1] * (1 - weight)) ** 2


_WIDE = constant(6, 4)
_MASK = np.array([True, False, True, True, False, False, True, False])
_BIDIAGONAL = np.diag(constant(6)) + np.diag(constant(5), 1)
_LOWER = np.tril(constant(5, 5)) + 5 * np.eye(5)
_SPARSE = np.zeros((20, 30))
_SPARSE[[0, 3, 3, 7, 19], [2, 0, 29, 7, 7]] = constant(5)

LAYOUT = [
    Case("slice", lambda x: x[2:7] ** 2, (10,), 5),
    Case("strided slice", lambda x: jnp.sin(x[1:9:3]), (10,), 3),
    Case("reverse", lambda x: x[::-1] ** 2, (10,), 10),
    Case("reverse and itself", lambda x: x * x[::-1], (5,), 9),
    Case("flip of one axis", lambda x: x * jnp.flip(x, 1), (3, 4), 24),
    Case("roll", lambda x: x * jnp.roll(x, 1), (10,), 20),
    Case("roll of two axes", lambda x: x * jnp.roll(x, (1, 2), (0, 1)), (3, 4), 24),
    Case("roll of the flattened", lambda x: x * jnp.roll(x, 5), (3, 4), 24),
    Case("pad", lambda x: jnp.pad(x, (2, 3)) ** 2, (10,), 10),
    Case("interior padding", lambda x: lax.pad(x, 0.0, [(1, 1, 2)]) ** 2, (10,), 10),
    Case("negative padding", lambda x: lax.pad(x, 0.0, [(-2, -1, 0)]) ** 2, (10,), 7),
    Case("wrapped padding", lambda x: jnp.pad(x, 2, mode="wrap") ** 2, (6,), 10),
    Case("reflected padding", lambda x: jnp.pad(x, (2, 1), mode="reflect") ** 2, (6,), 9),
    Case("edge padding", lambda x: jnp.pad(x, (2, 1), mode="edge") ** 2, (6,), 9),
    Case("padding with a result", lambda x: lax.pad(x, x[0] ** 2, [(1, 2, 0)]), (6,), 9),
    Case("concatenate", lambda x: jnp.concatenate([x[5:], x[:5] ** 2, x]), (10,), 20),
    Case("stack", lambda x: jnp.stack([x, x**2, x[::-1]], axis=1), (4,), 12),
    Case("reshape", lambda x: x.reshape(24) ** 2, (2, 3, 4), 24),
    Case("reshape (6, 4) to (4, 6)", lambda x: x.reshape(4, 6) ** 2, (6, 4), 24),
    Case("reshape (4, 6) to (6, 4)", lambda x: jnp.sin(x).reshape(6, 4) * 2, (4, 6), 24),
    Case("stencil on (6, 4) as (4, 6)", lambda x: laplacian(x.reshape(4, 6)), (6, 4), 100),
    Case("three reshapes", lambda x: (x.reshape(9, 4) ** 2).reshape(2, 18), (6, 6), 36),
    Case("sum over half a reshaped axis", lambda x: x.reshape(3, 8).sum(0), (6, 4), 24),
    Case("transpose and itself", lambda x: x * x.T, (3, 3), 15),
    Case("transpose", lambda x: jnp.transpose(x, (2, 0, 1)) ** 2, (2, 3, 4), 24),
    Case("transpose, then reshape", lambda x: x.T.reshape(4, 6) ** 2, (4, 6), 24),
    Case("moveaxis of blocks", lambda x: x.reshape(2, 3, 2, 2).swapaxes(1, 2), (6, 4), 24),
    Case("expand and squeeze", lambda x: jnp.squeeze(x[None] ** 2, 0), (5,), 5),
    Case("broadcast", lambda x: jnp.broadcast_to(x[:, None], (4, 3)) ** 2, (4,), 12),
    Case("repeat", lambda x: jnp.repeat(x, 3) ** 2, (5,), 15),
    Case("repeat by counts", lambda x: jnp.repeat(x, np.array([0, 2, 1, 3])) ** 2, (4,), 6),
    Case("tile", lambda x: jnp.tile(x, 3) ** 2, (5,), 15),
    Case("tile of two axes", lambda x: jnp.tile(x, (2, 3)) ** 2, (2, 3), 36),
    Case("diag of a vector", lambda x: jnp.diag(x**2), (4,), 4),
    Case("diag off the diagonal", lambda x: jnp.diag(x**2, 1), (4,), 4),
    Case("diagonal", lambda x: jnp.diagonal(x) ** 2, (4, 4), 4),
    Case("diagonal off the diagonal", lambda x: jnp.diagonal(x, -1) ** 2, (4, 4), 3),
    Case("trace", lambda x: jnp.trace(x) ** 2, (4, 4), 4),
    Case("split", lambda x: jnp.multiply(*jnp.split(x, 2)), (8,), 8),
    Case("scalar", lambda x: jnp.sin(x) * x, (), 1),
]

STENCILS = [
    Case("Burgers", burgers, (9,), 27),
    Case("Broyden tridiagonal", broyden_tridiagonal, (10,), 28),
    Case("Broyden banded", broyden_banded, (12,), 12 + 11 + 11 + 10 + 9 + 8 + 7),
    Case("1-D Laplacian", laplacian, (9,), 25),
    Case("2-D Laplacian", laplacian, (4, 5), 5 * 20 - 2 * 4 - 2 * 5),
    Case("3-D Laplacian", laplacian, (3, 4, 2), 7 * 24 - 2 * (12 + 6 + 8)),
    Case("2-D box", box, (4, 5), (3 * 4 - 2) * (3 * 5 - 2)),
    Case("2-D Laplacian of the flattened", lambda x: laplacian(x.reshape(4, 5)), (20,), 82),
    Case("roll stencil in 2-D", lambda x: x * jnp.roll(x, 1, 0) + jnp.roll(x, 1, 1), (4, 5), 60),
    Case("stencil twice", lambda x: laplacian(laplacian(x)), (9,), 9 + 2 * 8 + 2 * 7),
    Case("red and black", lambda x: x.at[::2].add(x[1::2] ** 2), (8,), 12),
    Case("coarsening", lambda x: (x[::2] + x[1::2]) ** 2, (8,), 8),
    Case("every second difference", lambda x: jnp.diff(x[::2]) * x[1:-1:2], (9,), 12),
    Case("scan of a stencil", repeated(laplacian, 3), (9,), 7 * 9 - 2 * (1 + 2 + 3)),
    Case("scan of a periodic stencil", repeated(burgers, 2), (9,), 45),
    Case(
        "for loop of a stencil",
        lambda x: lax.fori_loop(0, 2, lambda _, c: broyden_tridiagonal(c), x),
        (9,),
        5 * 9 - 2 * (1 + 2),
    ),
    Case("scan of a diagonal", repeated(jnp.sin, 4), (7,), 7),
    Case("scan that overwrites an entry", repeated(lambda x: x.at[0].set(1.0), 3), (4,), 3),
    Case("outputs of a scan", outputs_of_scan, (5,), 15),
    Case(
        "map over rows",
        lambda x: lax.map(lambda row: row * jnp.sum(row**2), x),
        (4, 3),
        4 * 9,
    ),
]

CONVOLUTIONS = [
    Case("1-D same", convolution((1, 1, 3), padding="SAME"), (1, 1, 8), 22),
    Case("1-D valid", convolution((1, 1, 3)), (1, 1, 8), 18),
    Case("1-D strided", convolution((1, 1, 3), window_strides=(2,)), (1, 1, 8), 9),
    Case("1-D stride beyond the window", convolution((1, 1, 2), window_strides=(3,)), (1, 1, 8), 6),
    Case("1-D padded", convolution((1, 1, 3), padding=[(2, 3)]), (1, 1, 8), 24),
    Case("1-D channels", convolution((4, 2, 3), padding="SAME"), (1, 2, 8), 176),
    Case("1-D batch", convolution((2, 1, 3), padding="SAME"), (3, 1, 8), 132),
    Case(
        "1-D kernel dilation",
        convolution((1, 1, 3), rhs_dilation=(2,), padding=[(2, 2)]),
        (1, 1, 8),
        20,
    ),
    Case(
        "1-D input dilation",
        convolution((1, 1, 3), lhs_dilation=(2,), padding=[(0, 0)]),
        (1, 1, 8),
        20,
    ),
    Case(
        "1-D strided and dilated",
        convolution((1, 1, 3), window_strides=(2,), rhs_dilation=(2,)),
        (1, 1, 9),
        9,
    ),
    Case("2-D same", convolution((3, 2, 3, 3), padding="SAME"), (1, 2, 5, 4), 13 * 10 * 6),
    Case("2-D strided", convolution((1, 1, 2, 2), window_strides=(2, 2)), (1, 1, 4, 6), 24),
    Case("2-D groups", convolution((4, 1, 2, 2), feature_group_count=2), (1, 2, 3, 3), 64),
    Case("2-D batch groups", convolution((2, 1, 2, 2), batch_group_count=2), (2, 1, 3, 3), 32),
    Case("2-D of images last", convolution((1, 1, 3, 1), padding="SAME"), (2, 1, 5, 4), 2 * 13 * 4),
    Case(
        "2-D channels last",
        convolution(
            (3, 3, 2, 5),
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            padding="SAME",
            window_strides=(1, 2),
        ),
        (1, 4, 4, 2),
        # Two windows of three columns each, the last one cut off at the border.
        10 * 5 * 2 * 5,
    ),
    Case("3-D", convolution((1, 1, 2, 2, 2)), (1, 1, 3, 3, 3), 64),
    Case("3-D same", convolution((1, 1, 3, 1, 3), padding="SAME"), (1, 1, 3, 2, 4), 7 * 2 * 10),
    Case("of a kernel", of_kernel((2, 1, 6)), (1, 1, 3), 2 * 4 * 3),
    Case("of a kernel with channels", of_kernel((1, 2, 4, 4)), (3, 2, 2, 2), 3 * 9 * 8),
    Case("convolve", lambda x: jnp.convolve(x**2, np.array([1.0, 2.0, 3.0]), "same"), (8,), 22),
    Case(
        "average pool",
        lambda x: lax.reduce_window(x**2, 0.0, lax.add, (3,), (2,), "VALID"),
        (9,),
        12,
    ),
    Case(
        "average pool in 2-D",
        lambda x: lax.reduce_window(x**2, 0.0, lax.add, (2, 2), (2, 2), "SAME"),
        (4, 6),
        24,
    ),
]

PRODUCTS = [
    Case("map of vectors", jax.vmap(lambda p: p * jnp.sum(p**2)), (5, 3), 45),
    Case("block-diagonal perceptron", jax.vmap(perceptron), (5, 4), 80),
    Case("map over the last axis", jax.vmap(perceptron, in_axes=1, out_axes=1), (4, 5), 80),
    Case("nested maps", jax.vmap(jax.vmap(lambda p: jnp.outer(p, p))), (2, 2, 3), 4 * 15),
    Case("batched product", lambda x: jnp.einsum("bij,bj->bi", _W, x), (3, 5), 60),
    Case("batched square", lambda x: jnp.einsum("bij,bjk->bik", x, x), (2, 3, 3), 90),
    Case("matrix product", lambda x: _WIDE @ x, (4, 3), 6 * 3 * 4),
    Case("product from the right", lambda x: x @ _WIDE, (3, 6), 3 * 4 * 6),
    Case("gram matrix", lambda x: x.T @ x, (3, 2), 2 * 3 + 2 * 6),
    Case("einsum over two axes", lambda x: jnp.einsum("ijk,jk->i", x, _WIDE), (2, 6, 4), 48),
    Case("einsum of a diagonal", lambda x: jnp.einsum("ii->i", x) ** 2, (4, 4), 4),
    Case("Kronecker product", lambda x: jnp.kron(x, np.array([1.0, 2.0])) ** 2, (3,), 6),
    Case("one entry", lambda x: x[0] ** 2, (5,), 1),
    Case("one entry from the end", lambda x: x[-1] * x[2], (5,), 2),
    Case("one entry times all", lambda x: x[0] * x, (5,), 9),
    Case("one row times all", lambda x: x[1] * x, (3, 4), 4 + 2 * 8),
    Case("arrowhead", lambda x: jnp.append(jnp.sum(x**2), x[1:] * x[0]), (8,), 8 + 14),
    Case("outer product", lambda x: jnp.outer(x, x), (4,), 4 * (2 * 4 - 1)),
    Case("outer product with a constant", lambda x: jnp.outer(x**2, _WIDE[0]), (3,), 12),
    Case("x times the sum of squares", lambda x: x * jnp.sum(x**2), (5,), 25),
    Case("low rank", lambda x: (x @ _WIDE[:, :2]) @ _WIDE[:3, :2].T, (6,), 18),
    Case("sums of rows", lambda x: jnp.sum(x**2, 1), (3, 4), 12),
    Case("normalised rows", lambda x: x / jnp.sum(x**2, 1, keepdims=True), (3, 4), 48),
    Case("softmax of rows", lambda x: jax.nn.softmax(x, axis=1), (2, 4), 32),
    Case("constant bidiagonal matrix", lambda x: _BIDIAGONAL @ jnp.sin(x), (6,), 11),
    Case("constant sparse matrix", lambda x: _SPARSE @ x**2, (30,), 5),
    Case("constant sparse matrix on rows", lambda x: x @ _SPARSE, (2, 20), 10),
    Case("constant sparse mask", lambda x: x**2 * np.where(_MASK, 2.5, 0.0), (8,), 4),
    Case("constant block matrix", lambda x: np.kron(np.eye(3), _WIDE) @ x, (12,), 72),
    Case("constant permutation", lambda x: np.eye(6)[[2, 0, 5, 1, 4, 3]] @ x**2, (6,), 6),
    Case("constant lower triangle", lambda x: _LOWER @ x**2, (5,), 15),
    Case("rotation about an axis", lambda a: _rotation(a[0]) @ a[1:], (4,), 4 + 3),
    Case("tril of a matrix", lambda x: jnp.tril(x**2), (4, 4), 10),
    Case("triu of an outer product", lambda x: jnp.triu(jnp.outer(x, x)), (4,), 4 + 2 * 6),
    Case("product with a tril", lambda x: jnp.tril(x) @ _WIDE[0], (4, 4), 10),
    Case("sums of a tril", lambda x: jnp.tril(jnp.outer(x, x)).sum(1), (5,), 15),
    Case(
        "triangular solve",
        lambda x: jax.scipy.linalg.solve_triangular(_LOWER, x**2, lower=True),
        (5,),
        15,
    ),
]

CUMULATIVE = [
    Case("cumsum", lambda x: jnp.cumsum(x**2), (6,), 21),
    Case("cumsum of rows", lambda x: jnp.cumsum(x, axis=1) ** 2, (3, 4), 30),
    Case("cumsum of columns", lambda x: jnp.cumsum(x, axis=0) ** 2, (3, 4), 24),
    Case("cumsum from the end", lambda x: lax.cumsum(x**2, reverse=True), (6,), 21),
    Case("cumprod", jnp.cumprod, (6,), 21),
    Case("cumprod from the end", lambda x: lax.cumprod(x, reverse=True), (6,), 21),
    Case("cumlogsumexp", lax.cumlogsumexp, (6,), 21),
    Case("cummax", lax.cummax, (4,), 10, points=40),
    Case("cummin of columns", lambda x: lax.cummin(x, axis=0), (3, 2), 12, points=40),
    Case("associative scan", lambda x: lax.associative_scan(jnp.multiply, x), (6,), 21),
    Case("cumsum of a stencil", lambda x: jnp.cumsum(jnp.roll(x, 1) * x), (5,), 2 + 3 + 4 + 5 + 5),
    Case("sum of exponentials", jax.nn.logsumexp, (6,), 6),
]

INDEXING = [
    Case("index array", lambda x: x[np.array([3, 1, 3, 0])] ** 2, (5,), 4),
    Case("negative indices", lambda x: x[np.array([-1, -5, 2])] ** 2, (5,), 3),
    Case("index array on rows", lambda x: x[np.array([2, 0, 2])] ** 2, (3, 4), 12),
    Case("index array on columns", lambda x: x[:, np.array([3, 3, 0])] ** 2, (3, 4), 9),
    Case("two index arrays", lambda x: x[np.array([2, 0]), np.array([1, 3])] ** 2, (3, 4), 2),
    Case("outer indexing", lambda x: x[np.ix_([0, 2], [1, 3])] ** 2, (3, 4), 4),
    Case("boolean mask", lambda x: x[_MASK] ** 2, (8,), 4),
    Case("edges of a graph", lambda x: x[_EDGES[0]] * x[_EDGES[1]], (5,), 12),
    Case("two gathers in a row", lambda x: x[np.array([3, 1, 0])][np.array([2, 2])], (5,), 2),
    Case("front of a gather", lambda x: x[np.array([1, 0, 1])][:2] ** 2, (4,), 2),
    Case("part of a gather", lambda x: x[np.array([1, 0, 3, 1])][::2] * x[:2], (4,), 4),
    Case("take", lambda x: jnp.take(x, np.array([1, 4]), axis=1) ** 2, (2, 5), 4),
    Case(
        "take_along_axis",
        lambda x: jnp.take_along_axis(x, np.array([[1, 0], [2, 2], [0, 1]]), 1) ** 2,
        (3, 4),
        6,
    ),
    Case("gather and clip", gathered([0, 7, 2, 30, -20], "clip"), (6,), 5),
    Case("gather and fill", gathered([0, 7, 2, 30, -20, -1], "fill"), (6,), 3),
    Case("gather in bounds", gathered([0, 5, 2, 2], "promise_in_bounds"), (6,), 4),
    Case("gather and wrap", lambda x: jnp.take(x, np.array([7, -7]), mode="wrap") ** 2, (6,), 2),
    Case("add at indices", lambda x: jnp.zeros(5).at[np.array([1, 1, 4])].add(x**2), (3,), 3),
    Case("add to itself", scattered([1, 1, 4], "drop"), (6,), 6 + 2),
    Case("add at rows", lambda x: x.at[np.array([2, 2])].add(x[:2] ** 2), (3, 4), 20),
    Case("set at indices", scattered([5, 4, 3], "drop", "set"), (6,), 6),
    Case("set of a constant", lambda x: x.at[np.array([0, 2, 2])].set(1.0) ** 2, (6,), 4),
    Case("set of duplicates", scattered([1, 1, 4], "drop", "set"), (6,), 6),
    Case("multiply at duplicates", lambda x: x.at[np.array([1, 1, 4])].multiply(3.0), (6,), 6),
    Case(
        "multiply at unique indices",
        lambda x: x.at[np.array([5, 4])].multiply(x[:2], unique_indices=True),
        (6,),
        8,
    ),
    Case("divide at indices", lambda x: x.at[np.array([0, 3])].divide(2.0) ** 2, (6,), 6),
    Case("maximum at indices", lambda x: x.at[np.array([3])].max(x[:1]), (5,), 6, points=20),
    Case("set of one entry", lambda x: x.at[2].set(x[0] ** 2), (5,), 5),
    Case("set of a slice", lambda x: x.at[1:4].set(x[2:5] ** 2), (6,), 6),
    Case("add to a column", lambda x: x.at[:, 1].add(x[:, 0] ** 2), (3, 4), 15),
    Case("add and drop", scattered([1, 9, 2, -9], "drop"), (6,), 6 + 1),
    Case("add and clip", scattered([1, 9, 9, -9], "clip"), (6,), 6 + 4),
    Case("add in bounds", scattered([5, 5, 4], "promise_in_bounds"), (6,), 6 + 3),
    Case("set and drop", scattered([1, 9, 4], "drop", "set"), (6,), 6),
    Case("set and clip", scattered([1, 9], "clip", "set"), (6,), 6),
    Case("static dynamic_slice", lambda x: lax.dynamic_slice(x, (2,), (3,)) ** 2, (8,), 3),
    Case("dynamic_slice at the end", lambda x: lax.dynamic_slice(x, (7,), (3,)) ** 2, (8,), 3),
    Case(
        "dynamic_update_slice",
        lambda x: lax.dynamic_update_slice(x, x[:2] ** 2, (4,)),
        (8,),
        8,
    ),
    Case(
        "segment sum",
        lambda x: jax.ops.segment_sum(x**2, np.array([0, 2, 0, 1, 2]), 4),
        (5,),
        5,
    ),
    Case("static mask", lambda x: jnp.where(_MASK, x**2, 3 * x[::-1]), (8,), 8),
    Case("static mask and constant", lambda x: jnp.where(_MASK, x**2, 0.0), (8,), 4),
    Case("interpolation", interpolated, (5,), 8),
    Case("interpolation by search", searched, (5,), 6),
    Case("interpolation at data", lambda x: jnp.interp(x, np.arange(-3.0, 4), _GRID), (6,), 6),
    Case("scatter, then gather", lambda x: scattered([1, 1, 4], "drop")(x)[_EDGES[0]], (6,), 8),
]

BRANCHES = [
    Case("relu", jax.nn.relu, (6,), 6, points=20),
    Case("data mask", lambda x: jnp.where(x > 0, x**2, x[::-1]), (6,), 12, points=20),
    Case("data mask and constant", lambda x: jnp.where(x > 0, x[::-1], 0.0), (6,), 6, points=20),
    Case("maximum of two", lambda x: jnp.maximum(x[1:], x[:-1]), (6,), 10, points=20),
    Case("minimum of a row", lambda x: jnp.min(x, axis=1), (3, 4), 12, points=40),
    Case("clip", lambda x: jnp.clip(x, -0.5, 0.5), (6,), 6, points=20),
    Case("abs", lambda x: jnp.abs(x) * x[0], (6,), 11),
    Case(
        "cond",
        lambda x: lax.cond(x[0] > 0, lambda y: y**2, lambda y: y[::-1] * 2, x),
        (6,),
        12,
        points=20,
    ),
    Case(
        "cond of a diagonal",
        lambda x: lax.cond(jnp.sum(x) > 0, jnp.sin, lambda y: y**3, x),
        (6,),
        6,
        points=20,
    ),
    Case(
        "switch",
        lambda x: lax.switch(
            jnp.int32(jnp.abs(x[0]) * 2) % 3,
            [jnp.sin, lambda y: jnp.roll(y, 1), lambda y: jnp.zeros(6).at[0].set(y[3])],
            x,
        ),
        (6,),
        6 + 6 + 1,
        points=40,
    ),
    Case("select on a scalar", lambda x: jnp.where(x[0] > 0, x, x[::-1]), (6,), 12, points=20),
    Case(
        "max pool",
        lambda x: max_pool(x, (3,), (3,)),
        (9,),
        9,
        points=40,
    ),
    Case(
        "overlapping max pool",
        lambda x: max_pool(x, (3,), (2,)),
        (9,),
        12,
        points=60,
    ),
    Case("max pool in 2-D", lambda x: max_pool(x, (2, 2), (2, 2)), (4, 6), 24, points=60),
]

_W = constant(3, 4, 5)
_EDGES = np.array([[0, 1, 2, 3, 4, 0], [1, 2, 3, 4, 0, 2]])
_GRID = constant(7)


def _rotation(angle: jax.Array) -> jax.Array:
    """A rotation about the z axis, written entry by entry."""
    c, s = jnp.cos(angle), jnp.sin(angle)
    return jnp.array([[c, -s, 0.0], [s, c, 0.0], [0.0, 0.0, 1.0]])


# Positions that depend on data: the nonzeros at every single point.
DATA = [
    Case("sort", lambda x: jnp.sort(x) ** 2, (6,), 6),
    Case("descending sort", lambda x: jnp.sort(x, descending=True) ** 2, (6,), 6),
    Case("sort of columns", lambda x: jnp.sort(x, axis=0) ** 2, (3, 4), 12),
    Case("sort of rows", lambda x: jnp.sort(x, axis=1) * x[:, :1], (3, 4), 12 + 9),
    Case("sort of itself with a payload", lambda x: lax.sort((x, x[::-1] ** 2))[1], (6,), 6),
    Case("sort with two keys", lambda x: lax.sort((x, x**2, x**3), num_keys=2)[2], (6,), 6),
    Case("top_k", lambda x: lax.top_k(x, 3)[0] ** 2, (6,), 3),
    Case("top_k of rows", lambda x: lax.top_k(x, 2)[0] ** 2, (3, 4), 6),
    Case("argsort and take", lambda x: x[jnp.argsort(-x)] ** 2, (6,), 6),
    Case("entry at the largest", lambda x: x[jnp.argmax(x)] ** 2, (6,), 1),
    Case("all times the largest", lambda x: x * x[jnp.argmax(x)], (6,), 11),
    Case(
        "take_along_axis",
        lambda x: jnp.take_along_axis(x**2, jnp.argsort(x, 1)[:, :2], 1),
        (3, 4),
        6,
    ),
    Case("median", lambda x: jnp.median(x), (5,), 1),
    Case("gather and clip", lambda x: x.at[_ranks(x) * 2].get(mode="clip") ** 2, (6,), 6),
    Case("gather and fill", lambda x: x.at[_ranks(x) * 2].get(mode="fill") ** 2, (6,), 3),
    Case(
        "gather in bounds",
        lambda x: x.at[_ranks(x)[:3]].get(mode="promise_in_bounds") ** 2,
        (6,),
        3,
    ),
    Case("add at positions", lambda x: jnp.zeros(8).at[_ranks(x) // 2].add(x**2), (6,), 6),
    Case("add and drop", lambda x: jnp.zeros(6).at[_ranks(x) * 2].add(x, mode="drop"), (6,), 3),
    Case("add and clip", lambda x: jnp.zeros(6).at[_ranks(x) * 2].add(x, mode="clip"), (6,), 6),
    Case("set at positions", lambda x: jnp.zeros(6).at[_ranks(x)].set(x**2), (6,), 6),
    Case("dynamic_slice", lambda x: lax.dynamic_slice(x, (jnp.argmax(x) // 2,), (3,)), (6,), 3),
    Case(
        "dynamic_slice of rows",
        lambda x: lax.dynamic_slice_in_dim(x, jnp.argmax(x[:, 0]), 2, axis=0) ** 2,
        (4, 3),
        6,
    ),
    Case(
        "segment sum",
        lambda x: jax.ops.segment_sum(x**2, _ranks(x) % 3, 3),
        (6,),
        6,
    ),
    Case("front of a sort", lambda x: jnp.sort(x)[:3] ** 2, (6,), 3),
    Case("back of a sort", lambda x: jnp.sort(x)[2:] ** 2, (6,), 4),
    Case("stencil after sort", lambda x: jnp.diff(jnp.sort(x)) ** 2, (6,), 10),
    Case("sort after a stencil", lambda x: jnp.sort(x * jnp.roll(x, 1)), (6,), 12),
    Case("sort, twice", lambda x: jnp.sort(jnp.sort(x)[::-1] ** 3), (6,), 6),
]


def _ranks(x: jax.Array) -> jax.Array:
    return jnp.argsort(jnp.argsort(x))


STATIC = [*LAYOUT, *STENCILS, *CONVOLUTIONS, *PRODUCTS, *CUMULATIVE, *INDEXING, *BRANCHES]
