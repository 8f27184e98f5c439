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


@settings(max_examples=25)
@given(chained())
def test_products(pair: tuple[NumericBlock, NumericBlock]):
    one, other = pair
    left, right = map(of_block, pair)
    found = left @ right
    assert_structured(found, product(one.matrix, other.matrix, len(one.in_shape)))
    assert found.nnz == (pattern_of(left) @ pattern_of(right)).nnz
    assert stored(found) <= 2 * found.nnz


@settings(max_examples=25)
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


@settings(max_examples=25)
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


_NAMES = [
    *("periodic", "2-D Laplacian", "block perceptron", "repeated entries", "outer product"),
    *("gather", "scatter of duplicates", "sort", "cumsum", "convolution", "scalar to vector"),
    *("constant", "empty input", "scan that forgets", "scan"),
]


@pytest.mark.parametrize(
    "case", [case for case in ALL if case.name in _NAMES], ids=lambda case: case.name
)
def test_methods_of_every_structure(case: Case):
    jacobian, _, x = jacobian_of(case)
    rank = len(jacobian.out_shape)
    weights = np.random.default_rng(3).normal(size=jacobian.out_shape)
    transformed = jax_cce.jacobian(case.fun, format="structured")
    batch = np.stack([x, x - 1])
    stacked = jax.vmap(transformed)(batch)
    found = jax.jit(jax.vmap(computed, (0, None, 0), axis_size=2))(
        stacked, weights, np.array([0.7, 2.0])
    )
    for k, number in enumerate([0.7, 2.0]):
        at_point = np.asarray(jax.jacrev(case.fun)(batch[k]))
        for name, values in expected_of(at_point, rank, weights, number).items():
            assert_values(found[name][k], values)


SQUARE = [case for case in ALL if case.name in ("periodic", "gather", "scatter", "scan")]


@pytest.mark.parametrize("other", SQUARE, ids=lambda case: case.name)
@pytest.mark.parametrize("one", SQUARE, ids=lambda case: case.name)
def test_pairs_of_functions(one: Case, other: Case):
    """J.T @ K, where outputs agree, else J @ K.T."""
    left, a, _ = jacobian_of(one)
    right, b, _ = jacobian_of(other)
    if left.out_shape == right.out_shape:
        left, a = left.T, np.moveaxis(a, -1, 0)
        rank = len(right.out_shape)
    elif left.in_shape == right.in_shape:
        right, b, rank = right.T, np.moveaxis(b, -1, 0), 1
    else:
        return
    found = left @ right
    assert_structured(found, product(a, b, rank))


def test_products_that_values_decide_are_refused():
    jacobian = jax_cce.jacobian(jnp.sort, format="structured")(constant(6))
    assert_structured(jacobian.T @ jacobian, np.eye(6))
    with pytest.raises(NotImplementedError, match="todense"):
        _ = jacobian @ jacobian.T
    assert_values(jacobian @ jacobian.T.todense(), np.eye(6))


def test_shapes_that_do_not_fit():
    a, b = (StructuredJacobian.eye(shape) for shape in ((2, 3), (6,)))
    for wrong in (lambda: a @ b, lambda: a + b, lambda: a - b, lambda: a.gram(np.ones(6))):
        with pytest.raises(ValueError, match=r"\(2, 3\)"):
            wrong()


def test_what_is_no_number_says_what_to_write():
    jacobian = StructuredJacobian.eye((3,))
    for wrong in (
        lambda: jacobian * jnp.ones(3),
        lambda: np.ones(3) * jacobian,
        lambda: jacobian * jacobian,
        lambda: jacobian / jnp.ones(3),
    ):
        with pytest.raises(TypeError, match=r"fromdiagonal.*todense\(\)"):
            wrong()
    for wrong in (lambda: jacobian + 1, lambda: 1 - jacobian, lambda: 1 / jacobian):
        with pytest.raises(TypeError, match=r"todense\(\)"):
            wrong()
    with pytest.raises(ValueError, match="'nuc'"):
        jacobian.norm("nuc")
    with pytest.raises(ValueError, match="twice"):
        jacobian.sum((0, -2))


@pytest.mark.parametrize(
    "number",
    [2, 0.5, True, 1j, np.float32(3), np.float64(3), np.int8(2), np.complex64(1j)],
    ids=lambda number: type(number).__name__,
)
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "complex64"])
def test_numbers_promote_as_arrays_do(dtype: str, number: Any):
    identity = StructuredJacobian.eye((3,), dtype)
    jacobian = identity + StructuredJacobian.fromdiagonal(jnp.arange(3.0).astype(dtype))
    dense = jacobian.todense()
    assert dense.dtype == dtype
    for found, expected in (
        (jacobian * number, dense * number),
        (number * jacobian, number * dense),
        (jacobian / number, dense / number),
        (jacobian * jnp.asarray(number), dense * jnp.asarray(number)),
        (identity * number, jnp.eye(3, dtype=dtype) * number),
        (-jacobian, -dense),
    ):
        assert_agree(found.todense(), expected)
        assert found.dtype == expected.dtype


def test_two_dtypes_promote():
    f32, f64, c64 = (StructuredJacobian.eye((2,), d) for d in ("float32", "float64", "complex64"))
    weak = StructuredJacobian.eye((2,))
    assert (f32 @ f64).dtype == (f32 - f64).dtype == np.float64
    assert (f64 @ c64).dtype == (c64 + f64).dtype == np.complex128
    assert (f32 + weak).dtype == (weak @ f32).dtype == (weak + f32).dtype == np.float32
    assert (weak + weak).weak_type
    assert not (weak + f32).weak_type


def test_complex_jacobians():
    x = constant(4)
    a, b = (
        jax_cce.jacobian(f, format="structured")(x)
        for f in (lambda x: jnp.exp(1j * x) * x[::-1], tridiagonal)
    )
    da, db = a.todense(), b.todense()
    assert_structured(a @ b, da @ db)
    assert_structured(a - 1j * b, da - 1j * db)
    assert_structured(a.conj().T @ a, da.conj().T @ da)
    assert_structured(a.gram(), da.T @ da)
    assert_values(a.norm(), jnp.linalg.norm(da))
    assert_values(a.norm(1), jnp.linalg.norm(da, 1))
    assert b.conj() is b


def test_structure_hides_what_is_not_finite():
    x = jnp.array([0.0, 2.0, -1.0])
    jacobian = jax_cce.jacobian(lambda x: jnp.where(x > 0, x, 0.0), format="structured")(x)
    for found in (jacobian / 0.0, jacobian * jnp.inf):
        np.testing.assert_array_equal(found.todense(), np.diag([0, np.inf, 0]))
    assert_values((jacobian * 3).todense(), np.diag([0, 3.0, 0]))


def _residuals(x: jax.Array) -> jax.Array:
    return jnp.append(tridiagonal(x), jnp.sum(x**2))


def test_derivatives():
    """Of a step of Levenberg and Marquardt's method, by structure and densely."""
    x = constant(6)

    def step(x: Any, damping: Any) -> Any:
        jacobian = jax_cce.jacobian(_residuals, format="structured")(x)
        normal = jacobian.gram(1 + x[0] ** 2 * jnp.ones(7)) / 2
        normal = normal + damping * StructuredJacobian.eye(x.shape)
        picked = normal[1:].sum(0) @ x + normal.norm() + normal.trace() + normal.norm(1)
        return normal.solve(_residuals(x) @ jacobian), picked

    def densely(x: Any, damping: Any) -> Any:
        jacobian = jax.jacrev(_residuals)(x)
        normal = jacobian.T @ ((1 + x[0] ** 2) * jacobian) / 2 + damping * jnp.eye(6)
        picked = normal[1:].sum(0) @ x + jnp.linalg.norm(normal) + jnp.trace(normal)
        picked = picked + jnp.linalg.norm(normal, 1)
        return jnp.linalg.solve(normal, _residuals(x) @ jacobian), picked

    for transform in (
        lambda f: f,
        lambda f: jax.jacrev(f, (0, 1)),
        lambda f: jax.jacfwd(f, (0, 1)),
    ):
        assert_agree(jax.jit(transform(step))(x, 0.3), jax.jit(transform(densely))(x, 0.3))
    both = jnp.stack([x, 2 * x]), jnp.array([0.3, 0.4])
    assert_agree(jax.jit(jax.vmap(step))(*both), jax.vmap(densely)(*both))


def test_what_vmap_returned_is_refused_outside():
    stacked = jax.vmap(jax_cce.jacobian(tridiagonal, format="structured"))(constant(2, 5))
    for refused in (
        lambda: stacked @ stacked,
        lambda: stacked + stacked,
        lambda: -stacked,
        lambda: 2 * stacked,
        lambda: stacked[0],
        lambda: stacked.sum(0),
        lambda: stacked.gram(),
        lambda: stacked.solve(np.ones(5)),
    ):
        with pytest.raises(ValueError, match="vmap"):
            refused()


def pentadiagonal(x: jax.Array) -> jax.Array:
    padded = jnp.pad(x, 2)
    return x**3 + 4 * x - padded[:-4] * 0.5 + padded[4:] ** 2 + padded[1:-3] * x


def lower(x: jax.Array) -> jax.Array:
    padded = jnp.pad(x, (3, 0))
    return (2 + x) * x + padded[:-3] ** 2 - padded[2:-1]


def without_diagonal(x: jax.Array) -> jax.Array:
    """Neighbours change places, but for small entries farther off."""
    pairs = (x**2 + x).reshape(-1, 2)[:, ::-1].reshape(-1)
    return pairs + 0.1 * jnp.pad(x, (4, 0))[:-4]


def grid(x: jax.Array) -> jax.Array:
    padded = jnp.pad(x, 1)
    sides = padded[2:, 1:-1] + padded[:-2, 1:-1] + padded[1:-1, 2:] + padded[1:-1, :-2] ** 2
    return 5 * x + sides


LARGE: dict[str, tuple[Callable[[jax.Array], jax.Array], tuple[int, ...]]] = {
    "diagonal": (lambda x: x**2, (10, 20)),
    "tridiagonal": (lambda x: tridiagonal(x) + 5 * x, (150,)),
    "pentadiagonal": (pentadiagonal, (150,)),
    "lower": (lower, (150,)),
    "without a diagonal": (without_diagonal, (150,)),
    "upper": (lambda x: lower(x[::-1])[::-1], (133,)),
    "grid": (grid, (14, 11)),
    "blocks": (lambda x: jax.vmap(lambda r: r * jnp.sum(r) + jnp.exp(r))(x), (50, 3)),
    "dense": (lambda x: jnp.sin(x) + jnp.sum(x**2), (150,)),
}


@pytest.mark.parametrize("name", LARGE)
def test_solutions(name: str):
    function, shape = LARGE[name]
    columns = (2,) if name in ("blocks", "pentadiagonal") else ()
    x = jnp.linspace(0.4, 1.3, math.prod(shape)).reshape(shape)
    right = jnp.asarray(np.random.default_rng(0).normal(size=(*shape, *columns)))

    def solution(x: Any, right: Any) -> Any:
        return jax_cce.jacobian(function, format="structured")(x).solve(right)

    def densely(x: Any, right: Any) -> Any:
        matrix = jax.jacfwd(function)(x).reshape(x.size, x.size)
        return jnp.linalg.solve(matrix, right.reshape(x.size, *columns)).reshape(right.shape)

    assert_agree(solution(x, right), densely(x, right))
    tangents = jnp.cos(x), jnp.sin(right)
    ours, theirs = (jax.jit(lambda *a, f=f: jax.jvp(f, *a)[1]) for f in (solution, densely))
    assert_agree(ours((x, right), tangents), theirs((x, right), tangents))
    ours, theirs = (
        jax.jit(jax.grad(lambda *a, f=f: jnp.sum(f(*a) ** 2), (0, 1))) for f in (solution, densely)
    )
    assert_agree(ours(x, right), theirs(x, right), tolerance=1e-8)


def test_bands_of_grids_that_are_enumerated():
    """The normal matrix of a small grid is a table of positions, and banded all the same."""
    jacobian = jax_cce.jacobian(grid, format="structured")(constant(14, 11))
    normal = jacobian.gram() + StructuredJacobian.eye((14, 11))
    right = constant(14, 11)
    expected = jnp.linalg.solve(normal.todense().reshape(154, 154), right.ravel())
    assert_values(normal.solve(right), expected.reshape(14, 11))


def test_complex_bands():
    x = jnp.linspace(0.4, 1.3, 150)
    jacobian = jax_cce.jacobian(lambda x: pentadiagonal(x) * jnp.exp(1j * x), format="structured")(
        x
    )
    right = constant(150) + 1j * constant(150)
    matrix = jacobian.todense()
    assert_values(jacobian.solve(right), jnp.linalg.solve(matrix, right))

    def loss(solve: Any) -> Any:
        return jax.grad(lambda b: jnp.sum(jnp.abs(solve(b)) ** 2))(right)

    assert_values(loss(jacobian.solve), loss(lambda b: jnp.linalg.solve(matrix, b)))


def test_a_singular_matrix_has_no_finite_solution():
    jacobian = jax_cce.jacobian(lambda x: jnp.pad(x, (2, 0))[:-2] ** 2, format="structured")
    assert not jnp.isfinite(jacobian(jnp.ones(150)).solve(jnp.ones(150))).all()


def test_matrices_without_a_solver_are_refused():
    x = jnp.linspace(0.4, 1.3, 150)
    for function in (
        lambda x: 3 * x + jnp.roll(x**2, 40) + jnp.roll(x, -1),
        lambda x: 3 * x + x[jnp.argsort(x)[::-1]],
    ):
        jacobian = jax_cce.jacobian(function, format="structured")(x)
        with pytest.raises(NotImplementedError, match=r"to_scipy\(\).*to_lineax\(\)"):
            jacobian.solve(x)
    with pytest.raises(ValueError, match="as many outputs"):
        StructuredJacobian.fromdense(jnp.ones((2, 3)), (2,)).solve(jnp.ones(2))
    with pytest.raises(ValueError, match="right-hand side"):
        StructuredJacobian.eye((2,)).solve(jnp.ones((3,)))


@pytest.mark.parametrize("case", [CASES[k] for k in (2, 7, 9, 29)], ids=lambda case: case.name)
def test_compressed_rows(case: Case):
    jacobian, dense, _ = jacobian_of(case)
    for found in (jacobian.to_bcsr(), jax.jit(lambda j: j.to_bcsr())(jacobian)):
        assert_values(found.todense(), flattened(dense, len(jacobian.out_shape)))
        assert found.nse == jacobian.nnz


def test_to_lineax():
    lineax = pytest.importorskip("lineax")
    x = constant(5)
    jacobian = jax_cce.jacobian(tridiagonal, format="structured")(x)
    operator = jacobian.to_lineax()
    assert isinstance(operator, lineax.AbstractLinearOperator)
    assert_values(operator.mv(x), jacobian @ x)


def test_a_large_normal_matrix():
    n = 100_000
    x = jnp.linspace(0, 1, n)
    jacobian = jax.jit(jax_cce.jacobian(tridiagonal, format="structured"))(x)
    normal = jax.jit(lambda j: j.gram() + 2 * StructuredJacobian.eye((n,)))(jacobian)
    assert normal.bands.offsets == (-2, -1, 0, 1, 2)
    assert stored(normal) <= 3 * n + 1
    v = jnp.cos(x)
    assert_values(normal @ v, (jacobian @ v) @ jacobian + 2 * v)
    assert_values(normal[10:20, 10:20].todense(), normal[10:20].todense()[:, 10:20])
