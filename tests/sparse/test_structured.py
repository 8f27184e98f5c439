"""StructuredJacobian behaves as the flattened dense matrix does, under jit and vmap, too."""

import math
from collections.abc import Callable
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import lax

import jax_cce
from cases.bands_and_blocks import (
    CASES,
    Case,
    constant,
    dense_jacobian,
    flattened,
    jacobian_of,
    operands,
    tridiagonal,
)
from cases.sparsity import assert_bcoo, assert_structured, assert_values
from jax_cce.sparse import linear_solve

pytestmark = pytest.mark.one_version

_cases = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)


def _from_bands(offsets: tuple[int, ...], data: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """The matrix of some diagonals, entry by entry, by the definition."""
    matrix = np.zeros(shape, data.dtype)
    for offset, diagonal in zip(offsets, data, strict=True):
        for column in range(shape[1]):
            if 0 <= column - offset < shape[0]:
                matrix[column - offset, column] = diagonal[column]
    return matrix


def _from_blocks(blocks: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    count, rows, columns = blocks.shape
    matrix = np.zeros((count, rows, count, columns), blocks.dtype)
    matrix[np.arange(count), :, np.arange(count)] = blocks
    return matrix.reshape(shape)


def methods(jacobian: Any) -> dict[str, Any]:
    """What the array-valued methods return."""
    given = operands(jacobian)
    result = {
        "dense": jacobian.todense(),
        "T": jacobian.T.todense(),
        "TT": jacobian.T.T.todense(),
        "v": jacobian @ given["v"],
        "vs": jacobian @ given["vs"],
        "u": given["u"] @ jacobian,
        "us": given["us"] @ jacobian,
        "T @ u": jacobian.T @ given["u"],
        "blocks": jacobian.blocks,
        "bands": None if jacobian.bands is None else jacobian.bands.data,
    }
    if math.prod(jacobian.out_shape) == math.prod(jacobian.in_shape):
        result["diagonal"] = jacobian.diagonal()
    return result


def check_methods(jacobian: Any, found: dict[str, Any], dense: np.ndarray) -> None:
    """Compares what `methods` returned with the same on a dense matrix.

    Args:
        jacobian: the Jacobian, for its static attributes.
        found: the results of `methods` on it, or on one that differs in values only.
        dense: the dense array of the latter.
    """
    split = len(jacobian.out_shape)
    matrix = flattened(dense, split)
    given = operands(jacobian)
    out_shape, in_shape = jacobian.out_shape, jacobian.in_shape
    transposed = matrix.T.reshape(in_shape + out_shape)
    expected = {
        "dense": dense,
        "T": transposed,
        "TT": dense,
        "v": (matrix @ given["v"].reshape(-1)).reshape(out_shape),
        "vs": (matrix @ given["vs"].reshape(-1, 3)).reshape(*out_shape, 3),
        "u": (given["u"].reshape(-1) @ matrix).reshape(in_shape),
        "us": (given["us"].reshape(3, -1) @ matrix).reshape(3, *in_shape),
        "T @ u": (given["u"].reshape(-1) @ matrix).reshape(in_shape),
    }
    if matrix.shape[0] == matrix.shape[1]:
        expected["diagonal"] = np.diagonal(matrix)
    for name, array in expected.items():
        assert_values(found[name], array)
    if found["bands"] is not None:
        offsets = jacobian.bands.offsets
        assert list(offsets) == sorted(set(offsets))
        chex.assert_shape(found["bands"], (len(offsets), matrix.shape[1]))
        rebuilt = _from_bands(offsets, np.asarray(found["bands"]), matrix.shape)
        assert_values(rebuilt, matrix)
    if found["blocks"] is not None:
        assert_values(_from_blocks(np.asarray(found["blocks"]), matrix.shape), matrix)


@_cases
def test_conversions(case: Case):
    jacobian, dense, x = jacobian_of(case)
    assert jacobian.in_shape == case.shape
    assert jacobian.out_shape == jax.eval_shape(case.fun, x).shape
    assert_structured(jacobian, dense)
    entries = jax_cce.jacobian(case.fun, format="bcoo")(x)
    assert_bcoo(entries, dense)
    assert entries.nse == jacobian.nnz == jacobian.T.nnz
    np.testing.assert_array_equal(jacobian.to_bcoo().indices, entries.indices)
    assert_structured(jacobian.T, flattened(dense, dense.ndim - x.ndim).T.reshape(jacobian.T.shape))
    assert jacobian.T.shape == jacobian.in_shape + jacobian.out_shape
    assert str(list(jacobian.in_shape)) in repr(jacobian)


@_cases
def test_pattern(case: Case):
    jacobian, dense, _ = jacobian_of(case)
    if case.name in ("sort", "all times the largest"):
        with pytest.raises(ValueError):
            _ = jacobian.pattern
        return
    pattern = jacobian.pattern
    assert isinstance(pattern, np.ndarray)
    chex.assert_shape(pattern, (jacobian.nnz, dense.ndim))
    np.testing.assert_array_equal(pattern, np.argwhere(dense))


@_cases
@pytest.mark.parametrize("wrap", [lambda f: f, jax.jit], ids=["call", "jit"])
def test_methods(case: Case, wrap: Any):
    jacobian, dense, _ = jacobian_of(case)
    check_methods(jacobian, wrap(methods)(jacobian), dense)


@_cases
def test_methods_inside_jit(case: Case):
    jacobian, dense, x = jacobian_of(case)
    inside = jax.jit(lambda x: methods(jax_cce.jacobian(case.fun, format="structured")(x)))
    check_methods(jacobian, inside(x), dense)


@_cases
def test_methods_under_vmap(case: Case):
    jacobian, _, x = jacobian_of(case)
    batch = np.stack([x, 2 * x, x - 1])
    transformed = jax_cce.jacobian(case.fun, format="structured")
    inside = jax.jit(jax.vmap(lambda x: methods(transformed(x))))(batch)
    outside = jax.jit(jax.vmap(methods, axis_size=3))(jax.vmap(transformed)(batch))
    dense = [dense_jacobian(case.fun, point) for point in batch]
    for found in (inside, outside):
        for k, expected in enumerate(dense):
            at_point = {name: a if a is None else a[k] for name, a in found.items()}
            check_methods(jacobian, at_point, expected)


_ENUMERATED = pytest.mark.xfail(
    strict=True, raises=AttributeError, reason="bands and blocks of enumerated terms are not seen"
)


@_cases
def test_bands(case: Case, request: pytest.FixtureRequest):
    if case.name == "reshape":
        request.applymarker(_ENUMERATED)
    jacobian, dense, _ = jacobian_of(case)
    if case.bands is None:
        assert jacobian.bands is None
    elif case.bands is not ...:
        assert jacobian.bands.offsets == case.bands
        scipy = pytest.importorskip("scipy.sparse")
        offsets, data = jacobian.bands
        shape = flattened(dense, len(jacobian.out_shape)).shape
        theirs = scipy.dia_array((np.asarray(data), offsets), shape=shape).toarray()
        assert_values(theirs, dense.reshape(shape))


@_cases
def test_blocks(case: Case, request: pytest.FixtureRequest):
    if case.name in ("reshape", "blocks of blocks"):
        request.applymarker(_ENUMERATED)
    jacobian, _, _ = jacobian_of(case)
    if case.blocks is None:
        assert jacobian.blocks is None
    elif case.blocks is not ...:
        assert jacobian.blocks.shape == case.blocks


@_cases
def test_to_scipy(case: Case):
    scipy = pytest.importorskip("scipy.sparse")
    jacobian, dense, _ = jacobian_of(case)
    found = jacobian.to_scipy()
    assert isinstance(found, scipy.csr_array)
    assert found.has_sorted_indices
    assert found.has_canonical_format
    assert_values(found.toarray(), flattened(dense, len(jacobian.out_shape)))
    np.testing.assert_array_equal(found.nnz, np.count_nonzero(dense))


@_cases
def test_diagonal_of_a_rectangular_matrix_is_refused(case: Case):
    jacobian, _, _ = jacobian_of(case)
    if math.prod(jacobian.out_shape) != math.prod(jacobian.in_shape):
        with pytest.raises(ValueError, match="diagonal") as raised:
            jacobian.diagonal()
        assert str(jacobian.out_shape) in str(raised.value)
        assert str(jacobian.in_shape) in str(raised.value)


@pytest.mark.parametrize("shape", [(), (4,), (6, 1, 1), (5, 4, 2, 2), (4, 5), (3, 5, 4)], ids=str)
@pytest.mark.parametrize("side", ["left", "right"])
def test_operands_of_wrong_shape(shape: tuple[int, ...], side: str):
    jacobian = jax_cce.jacobian(jnp.sin, format="structured")(constant(5, 4))
    if (side, shape) == ("left", (3, 5, 4)):
        return
    with pytest.raises(ValueError) as raised:
        _ = np.ones(shape) @ jacobian if side == "left" else jacobian @ np.ones(shape)
    assert str(shape) in str(raised.value)
    assert "(5, 4)" in str(raised.value)


@pytest.mark.parametrize("dtype", ["float32", "float64", "complex128", "int64"])
@pytest.mark.parametrize("own", ["float32", "float64"])
def test_products_promote(own: str, dtype: str):
    x = constant(5).astype(own)
    jacobian = jax_cce.jacobian(tridiagonal, format="structured")(x)
    vector = jnp.arange(5).astype(dtype) * (1j if dtype.startswith("complex") else 1)
    dense = jax.jacrev(tridiagonal)(x)
    assert_values(jacobian @ vector, dense @ vector)
    assert_values(vector @ jacobian, vector @ dense)


def test_products_keep_low_precision():
    x = jnp.asarray(constant(5), jnp.float16)
    jacobian = jax_cce.jacobian(tridiagonal, format="structured")(x)
    assert (jacobian @ x).dtype == (x @ jacobian).dtype == jacobian.diagonal().dtype == jnp.float16


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_astype(dtype: str):
    x = constant(5)
    jacobian = jax_cce.jacobian(lambda x: jnp.sort(x) ** 2 * x, format="structured")(x)
    expected = jax.jacrev(lambda x: jnp.sort(x) ** 2 * x)(x).astype(dtype)
    assert_structured(jacobian.astype(dtype), expected)


def test_products_are_differentiable():
    x, v = constant(6), constant(6)

    def f(jacobian: Any) -> Any:
        return lambda x: jnp.sum(jnp.sin(jacobian(x) @ v)) + jnp.sum((v @ jacobian(x)) ** 2)

    ours = jax_cce.jacobian(tridiagonal, format="structured")
    assert_values(jax.grad(f(ours))(x), jax.grad(f(jax.jacrev(tridiagonal)))(x))


@pytest.mark.xfail(strict=True, reason="an outer product is multiplied out when it is composed")
def test_low_rank_stays_factored():
    n = 2000

    def f(x: jax.Array) -> jax.Array:
        return jnp.sin(x) * jnp.sum(x**2)

    x = jnp.linspace(0, 1, n)
    jacobian = jax.jit(jax_cce.jacobian(f, format="structured"))(x)
    assert sum(leaf.size for leaf in jax.tree.leaves(jacobian)) <= 4 * n
    v = jnp.cos(x)
    assert_values(jacobian @ v, jax.jvp(f, (x,), (v,))[1])
    assert_values(v @ jacobian, jax.vjp(f, x)[1](v)[0])
    assert_values(jacobian.diagonal(), jnp.cos(x) * jnp.sum(x**2) + 2 * jnp.sin(x) * x)


@pytest.mark.parametrize("fun", [tridiagonal, lambda x: x * x[0] + x[::-1] ** 2], ids=["3", "3n"])
def test_a_large_jacobian(fun: Any):
    n = 100_000
    x = jnp.linspace(0, 1, n)
    jacobian = jax_cce.jacobian(fun, format="structured")(x)
    assert 2 * n < jacobian.nnz <= 3 * n
    v = jnp.cos(x)
    assert_values(jacobian @ v, jax.jvp(fun, (x,), (v,))[1])
    assert_values(v @ jacobian, jax.vjp(fun, x)[1](v)[0])
    assert_values(v @ jacobian.T, jacobian @ v)


# Building blocks of random functions, each from a vector of at least two entries to such a vector.


def _reshaped(x: jax.Array) -> jax.Array:
    half = x[: x.size // 2 * 2].reshape(2, -1)
    return (half * half[:1]).T.reshape(-1)


BUILDING_BLOCKS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "sin": jnp.sin,
    "square": lambda x: x**2,
    "scale": lambda x: -2.0 * x,
    "slice": lambda x: x[1:] if x.size > 2 else x,
    "stride": lambda x: x[::2] if x.size > 3 else x,
    "pad": lambda x: jnp.pad(x, (1, 0)),
    "reverse": lambda x: x[::-1],
    "roll": lambda x: x * jnp.roll(x, 1),
    "concatenate": lambda x: jnp.concatenate([x[:2] ** 2, x[1:]]),
    "reshape": _reshaped,
    "first": lambda x: x[0] * x,
    "sum": lambda x: x * jnp.sum(x),
    "matrix": lambda x: jnp.cos(jnp.arange(4.0)[:, None] + jnp.arange(x.size)) @ x,
    "gather": lambda x: x[np.array([1, 0, 1])],
    "scatter": lambda x: x.at[np.array([0, 0])].add(x[:2] ** 2),
    "mask": lambda x: jnp.where(np.arange(x.size) % 3 == 1, x, 1.0),
    "relu": jax.nn.relu,
    "cumsum": jnp.cumsum,
    "sort": jnp.sort,
    "largest": lambda x: lax.dynamic_slice(x, (jnp.argmax(x),), (2,)),
    "rows": lambda x: jax.vmap(lambda row: row * jnp.sum(row**2))(jnp.stack([x, x[::-1]])).ravel(),
}


@st.composite
def functions(draw: Any) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Draws two chains of building blocks, whose results are joined."""
    chain = st.lists(st.sampled_from(sorted(BUILDING_BLOCKS)), min_size=1, max_size=4)
    return tuple(draw(chain)), tuple(draw(chain))


@settings(max_examples=20)
@given(functions(), st.integers(2, 7))
def test_random_compositions(chains: tuple[tuple[str, ...], tuple[str, ...]], size: int):
    def f(x: jax.Array) -> jax.Array:
        ends = []
        for chain in chains:
            y = x
            for name in chain:
                y = BUILDING_BLOCKS[name](y)[:12]
            ends.append(y)
        shared = min(end.size for end in ends)
        return jnp.append(ends[0][:shared] * ends[1][:shared], ends[1])

    x = np.random.default_rng(size).normal(size=size)
    dense = dense_jacobian(jax.jit(f), x)
    jacobian = jax.jit(jax_cce.jacobian(f, format="structured"))(x)
    check_methods(jacobian, jax.jit(methods)(jacobian), dense)
    assert_structured(jacobian, dense)
    assert_bcoo(jax.jit(jax_cce.jacobian(f, format="bcoo"))(x), dense)


READERS = {
    "todense": lambda J: J.todense(),
    "to_bcoo": lambda J: J.to_bcoo(),
    "to_scipy": lambda J: J.to_scipy(),
    "coordinates": lambda J: J.coordinates(),
    "J @ v": lambda J: J @ jnp.ones(J.in_shape),
    "J @ vs": lambda J: J @ jnp.ones((*J.in_shape, 2)),
    "u @ J": lambda J: jnp.ones(J.out_shape) @ J,
    "T": lambda J: J.T,
    "symmetric_part": lambda J: J.symmetric_part(),
    "diagonal": lambda J: J.diagonal(),
    "bands": lambda J: J.bands,
    "blocks": lambda J: J.blocks,
    "solve": lambda J: linear_solve.solve(J, jnp.ones(J.out_shape)),
}


def _picked(x: Any) -> Any:
    """The coefficients are constants, and only the places are data."""
    return x[jnp.argsort(x)]


def _batched(fun: Any, **axes: Any) -> Any:
    return jax.vmap(jax_cce.jacobian(fun, format="structured"), **axes)


@pytest.mark.parametrize("read", READERS)
@pytest.mark.parametrize("fun", [jnp.sin, lambda x: x * jnp.roll(x, 1), _picked])
def test_stacked_jacobians_are_read_under_vmap_only(fun: Any, read: str):
    points = np.random.default_rng(0).normal(size=(2, 4, 4))
    single = jax_cce.jacobian(fun, format="structured")
    stacks = {
        "vmap": _batched(fun)(points[0]),
        "jit": jax.jit(_batched(fun, out_axes=-1))(points[0]),
        "scan": lax.scan(lambda c, x: (c, single(x)), 0, points[0])[1],
        "leaves": jax.tree.map(lambda *a: jnp.stack(a), *map(single, points[0])),
        "nested": jax.vmap(_batched(fun))(points),
    }
    for name, stacked in stacks.items():
        assert stacked.is_stacked
        assert repr(stacked).endswith("stacked)")
        many = 8 if name == "nested" else 4
        message = rf"These are {many} Jacobians of shape \(4,\) \+ \(4,\), stacked by jax.vmap"
        with pytest.raises(ValueError, match=message):
            READERS[read](stacked)
    with pytest.raises(ValueError, match="These are 4 Jacobians"):
        jax.vmap(READERS[read])(stacks["nested"])


@pytest.mark.parametrize("fun", [jnp.sin, lambda x: x * jnp.roll(x, 1), _picked])
def test_stacked_jacobians_pass_through_transformations(fun: Any):
    points = np.random.default_rng(0).normal(size=(2, 3, 4))
    dense = jax.vmap(jax.vmap(jax.jacrev(fun)))(points)

    def todense(jacobian: Any) -> Any:
        return jacobian.todense()

    stacked = _batched(fun)(points[0])
    assert_values(jax.vmap(todense)(stacked), dense[0])
    _, scanned = lax.scan(lambda c, jacobian: (c, jacobian.todense()), 0, stacked)
    assert_values(scanned, dense[0])
    last = jax.tree.map(lambda leaf: leaf[-1], stacked)
    assert not last.is_stacked
    assert_values(last.todense(), dense[0, -1])
    across = _batched(fun, out_axes=-1)(points[0])
    assert_values(jax.jit(jax.vmap(todense, in_axes=-1))(across), dense[0])
    nested = jax.jit(jax.vmap(_batched(fun), in_axes=1))(points)
    assert_values(jax.vmap(jax.vmap(todense))(nested), np.swapaxes(dense, 0, 1))


def test_bands_keep_their_offsets_under_transformations():
    def bands(x: Any) -> Any:
        return jax_cce.jacobian(lambda x: x[1:] * x[:-1], format="structured")(x).bands

    points = np.random.default_rng(0).normal(size=(3, 4))
    for found in (jax.jit(bands)(points[0]), jax.vmap(bands)(points)):
        assert isinstance(found, jax_cce.Bands)
        assert found.offsets == (0, 1)
        assert all(type(offset) is int for offset in found.offsets)
    assert_values(jax.vmap(bands)(points).data, np.stack([bands(x).data for x in points]))
    assert [str(path) for path, _ in jax.tree_util.tree_leaves_with_path(bands(points[0]))] == [
        "(GetAttrKey(name='data'),)"
    ]
