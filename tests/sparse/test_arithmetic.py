"""Arithmetic of StructuredJacobians equals that of dense arrays, and stores no more than SciPy."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import lax

import jax_cce
from cases.agreement import assert_agree
from cases.bands_and_blocks import CASES, Case, constant, flattened, jacobian_of, tridiagonal
from cases.sparsity import assert_structured, assert_values
from cases.structures import KINDS, NumericBlock, any_between, block_from, pairs, shapes
from jax_cce import StructuredJacobian
from jax_cce.algebra.blocks import Piece

pytestmark = pytest.mark.one_version

_cases = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
_kinds = st.sampled_from(KINDS)


def of_block(block: NumericBlock) -> StructuredJacobian:
    """The Jacobian of one drawn term."""
    if block.term is None:
        return StructuredJacobian(block.out_shape, block.in_shape, float, (), ())
    slot = None if block.term.axes is None else 0
    arrays = () if slot is None else (jnp.asarray(block.coefficient),)
    pieces = (Piece(block.term, 1, slot),)
    return StructuredJacobian(block.out_shape, block.in_shape, float, pieces, arrays)


def stored(jacobian: StructuredJacobian) -> int:
    """How many numbers a Jacobian holds, positions aside."""
    return sum(leaf.size for leaf in jax.tree.leaves(jacobian))


def pattern_of(jacobian: StructuredJacobian) -> Any:
    """SciPy's matrix of ones where a Jacobian stores entries."""
    scipy = pytest.importorskip("scipy.sparse")
    split, shapes = len(jacobian.out_shape), (jacobian.out_shape, jacobian.in_shape)
    ends = jacobian.pattern[:, :split], jacobian.pattern[:, split:]
    at = [
        np.ravel_multi_index(tuple(end.T), shape) if shape else np.zeros(len(end), int)
        for end, shape in zip(ends, shapes, strict=True)
    ]
    return scipy.csr_array((np.ones(jacobian.nnz), at), shape=tuple(map(math.prod, shapes)))


def product(one: Any, other: Any, rank: int) -> Any:
    return np.tensordot(one, other, axes=rank)


@st.composite
def chained(draw: Any) -> tuple[NumericBlock, NumericBlock]:
    return draw(pairs(draw(_kinds), draw(_kinds)))


@st.composite
def beside(draw: Any) -> tuple[NumericBlock, NumericBlock]:
    """Two blocks between the same shapes."""
    one = block_from(draw, draw(_kinds), draw(shapes(2)))
    return one, any_between(draw, one.out_shape, one.in_shape)


@given(chained())
def test_products(pair: tuple[NumericBlock, NumericBlock]):
    one, other = pair
    left, right = map(of_block, pair)
    found = left @ right
    assert_structured(found, product(one.matrix, other.matrix, len(one.in_shape)))
    assert found.nnz == (pattern_of(left) @ pattern_of(right)).nnz
    assert stored(found) <= 2 * found.nnz


@given(beside())
def test_sums(pair: tuple[NumericBlock, NumericBlock]):
    one, other = pair
    left, right = map(of_block, pair)
    for found, expected in (
        (left + right, one.matrix + other.matrix),
        (left - right, one.matrix - other.matrix),
        (left + 2 * -right / 4, one.matrix - other.matrix / 2),
    ):
        assert_structured(found, expected)
    assert found.nnz == (pattern_of(left) + pattern_of(right)).nnz
    assert stored(found) <= 2 * found.nnz


def _numbers(draw: Any, size: int, shape: tuple[int, ...]) -> np.ndarray:
    return np.random.default_rng(draw(st.integers(0, 99))).integers(-size, size, shape)


@st.composite
def indices(draw: Any, shape: tuple[int, ...]) -> Any:
    """An index of an array: numbers, slices, an ellipsis, and arrays that broadcast."""
    width, items = draw(st.integers(1, 3)), []
    for size in shape:
        kind = draw(st.sampled_from(["slice", "slice", "all", "number", "array", "column", "mask"]))
        if kind == "mask":
            items.append(np.random.default_rng(draw(st.integers(0, 99))).random(size) < 0.5)
        elif kind == "slice" or not size:
            items.append(draw(st.slices(size)))
        elif kind == "all":
            items.append(slice(None))
        elif kind == "number":
            items.append(draw(st.integers(-size, size - 1)))
        else:
            items.append(_numbers(draw, size, (width,) if kind == "array" else (width, 1)))
    cut = draw(st.integers(0, len(items)))
    if draw(st.booleans()):
        items[cut : draw(st.integers(cut, len(items)))] = [...]
    elif draw(st.booleans()):
        items = items[:cut]
    return tuple(items)


@st.composite
def indexed(draw: Any) -> tuple[NumericBlock, Any]:
    block = block_from(draw, draw(_kinds), draw(shapes(2)))
    return block, draw(indices(block.out_shape + block.in_shape))


def _is_paired(index: tuple[Any, ...], block: NumericBlock) -> bool:
    """Whether index arrays, or numbers beside them, read axes of rows and of columns."""
    items, rank = list(index), len(block.out_shape) + len(block.in_shape)
    if ... in [item if item is ... else None for item in items]:
        at = next(k for k, item in enumerate(items) if item is ...)
        items[at : at + 1] = [slice(None)] * (rank - len(items) + 1)
    reads = [k for k, item in enumerate(items) if not isinstance(item, slice)]
    sides = {k < len(block.out_shape) for k in reads}
    return len(sides) == 2 and any(np.ndim(items[k]) for k in reads)


@given(indexed())
def test_rows_and_columns(drawn: tuple[NumericBlock, Any]):
    block, index = drawn
    jacobian = of_block(block)
    try:
        expected = block.matrix[index]
    except IndexError:
        with pytest.raises(IndexError):
            jacobian[index]
        return
    try:
        found = jacobian[index]
    except NotImplementedError:
        assert _is_paired(index, block)
        return
    assert_structured(found, expected)
    # Every entry that is kept is one of a row and a column that were picked.
    mask = np.zeros(block.matrix.shape, bool)
    mask[tuple(jacobian.pattern.T)] = True
    assert found.nnz == mask[index].sum()
    assert stored(found) <= 2 * found.nnz


@pytest.mark.parametrize(
    "index",
    [
        (np.array([2, 0, 0]),),
        (slice(None), slice(None), [1, 3, 0]),
        np.ix_([2, 0], [0, 1], [3, 1, 2]),
        np.ix_([2], [0], [3]),
        np.ix_([2], [0, 1], [3, 0]),
        (np.array([[True, False], [False, True], [True, True]]), slice(1, 3)),
        (1, 1, 2),
        (1, [0, 1]),
        (..., -1),
        (slice(None, None, -2), slice(None), slice(3, 0, -1)),
        (),
        ...,
        ([], slice(None), [1]),
        np.int64(2),
        jnp.array([1, 2]),
    ],
    ids=repr,
)
def test_indices_of_every_kind(index: Any):
    a = constant(3, 2, 4)
    found = StructuredJacobian.fromdense(jnp.asarray(a), (3, 2))[index]
    assert_structured(found, a[index])


@pytest.mark.parametrize(
    "index, error",
    [
        (np.array([0, 3]), IndexError),
        (-4, IndexError),
        ((0, 0, 0, 0), IndexError),
        ((..., 0, ...), IndexError),
        (([0, 1], slice(None), [0, 1, 2]), IndexError),
        (np.ones((2, 2), bool), IndexError),
        (None, TypeError),
        (1.0, TypeError),
        (True, TypeError),
        ("0", TypeError),
        (([0, 1], [0, 1], [0, 1]), NotImplementedError),
        ((slice(None), [0, 1], [0, 1]), NotImplementedError),
        (np.ones((3, 2, 4), bool), NotImplementedError),
    ],
    ids=repr,
)
def test_indices_that_are_refused(index: Any, error: Any):
    with pytest.raises(error):
        StructuredJacobian.fromdense(jnp.asarray(constant(3, 2, 4)), (3, 2))[index]


def test_traced_indices_are_refused():
    jacobian = StructuredJacobian.eye((4,))
    for pick in (lambda i: jacobian[i], lambda i: jacobian[:i], lambda i: jacobian[i[None]]):
        with pytest.raises(TypeError, match="static"):
            jax.jit(lambda i, pick=pick: pick(i).todense())(2)


def moving_average(x: jax.Array) -> jax.Array:
    """A scan that remembers one step."""
    return lax.scan(lambda last, now: (now**2, last * now), x[0], x)[1]


def running(x: jax.Array) -> jax.Array:
    """A scan that remembers all."""
    return lax.scan(lambda c, a: (jnp.sin(c) + a**2,) * 2, 1.0, x)[1]


_FILTER = constant(3)

ALL = [
    *CASES,
    Case("scan that forgets", moving_average, (6,)),
    Case("scan", running, (5,)),
    Case("image", lambda x: jnp.convolve(x.ravel(), _FILTER, "same").reshape(x.shape), (3, 4)),
]
# Where two rows meet depends on data.
_MATCHED = {"sort", "all times the largest"}


def computed(jacobian: StructuredJacobian, weights: Any, number: Any) -> dict[str, Any]:
    """What the methods return that take no other Jacobian."""
    out_rank = len(jacobian.out_shape)
    result = {
        "gram": jacobian.gram(),
        "T @ J": jacobian.T @ jacobian,
        "weighted": jacobian.gram(weights),
        "damped": jacobian.gram() + number * StructuredJacobian.eye(jacobian.in_shape),
        "rows scaled": StructuredJacobian.fromdiagonal(weights) @ jacobian,
        "negative": -jacobian,
        "difference": jacobian - 2 * jacobian / number,
        "over outputs": jacobian.sum(tuple(range(out_rank))),
        "over inputs": jacobian.sum(tuple(range(out_rank, jacobian.ndim))),
        "total": jacobian.sum(),
        "frobenius": jacobian.norm(),
        "one": jacobian.norm(1),
        "inf": jacobian.norm(math.inf),
        "rows": jacobian[..., ::2] if jacobian.in_shape else jacobian[...],
    }
    if math.prod(jacobian.out_shape) == math.prod(jacobian.in_shape):
        result["trace"] = jacobian.trace()
    dense = {n: v.todense() if isinstance(v, StructuredJacobian) else v for n, v in result.items()}
    return {n: v for n, v in dense.items() if v is not None}


def expected_of(dense: np.ndarray, rank: int, weights: Any, number: Any) -> dict[str, Any]:
    in_shape = dense.shape[rank:]
    matrix = flattened(dense, rank)
    square = (*in_shape, *in_shape)
    gram = (matrix.T @ matrix).reshape(square)
    damping = number * np.eye(matrix.shape[1]).reshape(square)
    scaled = (weights.reshape(-1, 1) * matrix).reshape(dense.shape)
    expected = {
        "gram": gram,
        "T @ J": gram,
        "weighted": (matrix.T @ flattened(scaled, rank)).reshape(square),
        "damped": gram + damping,
        "rows scaled": scaled,
        "negative": -dense,
        "difference": dense - 2 * dense / number,
        "over outputs": dense.sum(tuple(range(rank))),
        "over inputs": dense.sum(tuple(range(rank, dense.ndim))),
        "total": dense.sum(),
        "frobenius": np.sqrt(np.sum(matrix**2)),
        "one": np.abs(matrix).sum(0).max(initial=0),
        "inf": np.abs(matrix).sum(1).max(initial=0),
        "rows": dense[..., ::2] if in_shape else dense,
    }
    if matrix.shape[0] == matrix.shape[1]:
        expected["trace"] = np.trace(matrix)
    return expected


@pytest.mark.parametrize("case", ALL, ids=lambda case: case.name)
def test_methods_of_every_structure(case: Case):
    jacobian, dense, x = jacobian_of(case)
    rank = len(jacobian.out_shape)
    weights = np.random.default_rng(3).normal(size=jacobian.out_shape)
    expected = expected_of(dense, rank, weights, 0.7)
    found = jax.jit(computed)(jacobian, weights, 0.7)
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        assert_values(found[name], values)
    # And of what `jax.vmap` returned, under it.
    transformed = jax_cce.jacobian(case.fun, format="structured")
    batch = np.stack([x, x - 1])
    stacked = jax.vmap(transformed)(batch)
    mapped = jax.jit(jax.vmap(computed, (0, None, 0), axis_size=2))
    found = mapped(stacked, weights, np.array([0.7, 2.0]))
    for k, number in enumerate([0.7, 2.0]):
        at_point = np.asarray(jax.jacrev(case.fun)(batch[k]))
        for name, values in expected_of(at_point, rank, weights, number).items():
            assert_values(found[name][k], values)
