"""Patterns that are known before values, and the formats that leave them out."""

import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from jax.experimental import sparse

import jax_cce
from cases.agreement import assert_agree

X = jnp.asarray(np.linspace(0.2, 1.4, 12))
LARGE = jnp.asarray(np.linspace(0.2, 1.4, 60))


def stencil(x):
    return jnp.concatenate([x[1:] * x[:-1], x[:1] ** 2])


def grid(x):
    u = jnp.pad(x.reshape(-1, 4), 1)
    return u[1:-1, 1:-1] ** 2 - u[2:, 1:-1] * u[:-2, 1:-1] + jnp.sin(u[1:-1, 2:])


FUNCTIONS = {
    "stencil": stencil,
    "grid": grid,
    "dense": lambda x: jnp.outer(x, x).sum(0) * x,
    "zero": lambda x: jnp.zeros(3),
    "scalar": lambda x: jnp.sin(x).sum(),
    "gather": lambda x: x[jnp.array([3, 0, 3, 7])] * x[jnp.array([0, 5, 3, 1])],
    "arrow": lambda x: x.at[0].set(jnp.prod(x)),
    "of number": lambda x: x[0] * 2,
}
functions = pytest.mark.parametrize("name", FUNCTIONS)
sizes = pytest.mark.parametrize("x", [X, LARGE], ids=["small", "large"])


def matrix(fun, x):
    return jax.jit(jax.jacrev(fun))(x).reshape(-1, x.size)


def dense(values, pattern):
    result = np.zeros(pattern.shape, values.dtype)
    result[pattern.rows, pattern.columns] = values
    return jnp.asarray(result)


@functions
@pytest.mark.parametrize("jit", [False, True], ids=["called", "jit"])
def test_values_lie_where_the_pattern_says(name, jit):
    fun, x = FUNCTIONS[name], X
    jacobian = jax_cce.jacobian(fun, format="values")
    values = (jax.jit(jacobian) if jit else jacobian)(x)
    pattern = jax_cce.pattern(fun)(jax.ShapeDtypeStruct(x.shape, x.dtype))
    assert values.shape == (pattern.nnz,)
    assert_agree(dense(values, pattern), matrix(fun, x))
    assert_agree(pattern.to_bcoo(values).todense(), matrix(fun, x))


@functions
@pytest.mark.parametrize("format", ["csr", "csc"])
def test_compressed_formats(name, format):
    fun, x = FUNCTIONS[name], X
    found = jax.jit(jax_cce.jacobian(fun, format=format))(x)
    assert isinstance(found, sparse.BCSR if format == "csr" else sparse.CSC)
    assert found.shape == matrix(fun, x).shape
    assert_agree(found.todense(), matrix(fun, x))
    assert found.indptr.shape == (found.shape[format == "csc"] + 1,)


@sizes
@functions
def test_auto_is_dense_where_that_is_small_or_full(name, x):
    fun = FUNCTIONS[name]
    expected = jax.jit(jax.jacrev(fun))(x)
    found = jax.jit(jax_cce.jacobian(fun, format="auto"))(x)
    pattern = jax_cce.pattern(fun)(x)
    is_sparse = expected.size > 1024 and pattern.nnz < expected.size / 4
    assert isinstance(found, sparse.BCOO if is_sparse else jax.Array)
    assert_agree(found.todense() if is_sparse else found, expected)


@functions
def test_orders_of_entries(name):
    pattern = jax_cce.pattern(FUNCTIONS[name])(X)
    order = np.lexsort((pattern.columns, pattern.rows))
    np.testing.assert_array_equal(order, np.arange(pattern.nnz))
    np.testing.assert_array_equal(
        np.diff(pattern.indptr), np.bincount(pattern.rows, minlength=pattern.shape[0])
    )
    by_columns, rows, begins = pattern.by_columns
    np.testing.assert_array_equal(by_columns, np.lexsort((pattern.rows, pattern.columns)))
    np.testing.assert_array_equal(rows, pattern.rows[by_columns])
    assert begins[-1] == pattern.nnz


@settings(max_examples=50)
@given(
    st.lists(st.tuples(st.integers(0, 6), st.integers(0, 8)), max_size=30, unique=True),
    st.sampled_from(["columns", "rows"]),
)
def test_colors_share_nothing(places, of):
    positions = np.array(sorted(places), np.int32).reshape(-1, 2)
    pattern = jax_cce.Pattern(positions, (7,), (9,))
    colors = pattern.colors(of)
    here, there = (
        (pattern.columns, pattern.rows) if of == "columns" else (pattern.rows, pattern.columns)
    )
    assert colors.shape == (9 if of == "columns" else 7,)
    pairs = list(zip(colors[here], there, strict=True))
    assert len(set(pairs)) == len(pairs)
    assert set(colors) == set(range(colors.max(initial=-1) + 1))


def test_a_band_takes_as_many_colors_as_it_is_wide():
    assert jax_cce.pattern(lambda x: x[2:] * x[1:-1] + x[:-2])(LARGE).colors().max() == 2


def test_trees_and_auxiliary_data():
    def fun(x, y):
        return {"a": x["u"] * y, "b": (x["v"].sum(),)}, "aux"

    x = {"u": X[:3], "v": X[3:5]}
    found = jax_cce.pattern(fun, argnums=(0, 1), has_aux=True)(x, X[:3])
    expected, _ = jax.jacrev(fun, argnums=(0, 1), has_aux=True)(x, X[:3])
    values, _ = jax_cce.jacobian(fun, (0, 1), has_aux=True, format="values")(x, X[:3])

    def is_leaf(node):
        return isinstance(node, jax_cce.Pattern)

    assert jax.tree.structure(found, is_leaf=is_leaf) == jax.tree.structure(expected)
    for pattern, each, theirs in zip(*map(jax.tree.leaves, (found, values, expected)), strict=True):
        assert_agree(dense(each, pattern).reshape(theirs.shape), theirs)


def test_hessians():
    def fun(x):
        return jnp.sum(x[1:] ** 2 * x[:-1])

    pattern = jax_cce.pattern(fun, of="hessian")(LARGE)
    values = jax.jit(jax_cce.hessian(fun, format="values"))(LARGE)
    assert pattern.nnz == 3 * 60 - 2 - 1  # but the first of the diagonal, which is zero
    assert_agree(dense(values, pattern), jax.hessian(fun)(LARGE))


def test_of_many_points():
    points = jnp.stack([LARGE, LARGE + 1, LARGE - 3])
    found = jax.jit(jax.vmap(jax_cce.jacobian(grid, format="values")))(points)
    pattern = jax_cce.pattern(grid)(LARGE)
    expected = jax.vmap(jax.jacrev(grid))(points)
    for values, theirs in zip(found, expected, strict=True):
        assert_agree(dense(values, pattern), theirs.reshape(-1, 60))


def test_values_are_differentiated():
    found = jax.jacrev(jax_cce.jacobian(stencil, format="values"))(X)
    rows = jax_cce.pattern(stencil)(X)
    expected = jax.jacfwd(jax.jacfwd(stencil))(X)[rows.rows, rows.columns]
    assert_agree(found, expected)


@pytest.mark.parametrize("format", ["values", "csr", "csc"])
def test_patterns_that_depend_on_data(format):
    with pytest.raises(ValueError, match=r"depends on data.*format='bcoo'"):
        jax_cce.jacobian(jnp.sort, format=format)(X)
    with pytest.raises(ValueError, match="depends on data"):
        jax_cce.pattern(jnp.sort)(X)


def test_mistakes():
    pattern = jax_cce.pattern(stencil)(X)
    with pytest.raises(ValueError, match=r"takes values of shape \(23,\), but got shape \(3,\)"):
        pattern.to_bcoo(jnp.ones(3))
    with pytest.raises(ValueError, match="'columns' or 'rows', but got 'lines'"):
        pattern.colors("lines")
    with pytest.raises(ValueError, match="'jacobian' or 'hessian', but got 'third'"):
        jax_cce.pattern(stencil, of="third")
    with pytest.raises(ValueError, match="read-only"):
        pattern.rows[0] = 1


@functions
@pytest.mark.parametrize("format", ["csr", "csc", "coo"])
def test_scipy(name, format):
    pytest.importorskip("scipy")
    fun = FUNCTIONS[name]
    found = jax_cce.jacobian(fun, format="structured")(X).to_scipy(format)
    assert found.format == format
    assert_agree(jnp.asarray(found.todense()), matrix(fun, X))


@pytest.mark.parametrize("format", ["csr", "csc"])
def test_scipy_shares_the_pattern(format):
    pytest.importorskip("scipy")
    jacobian = jax.jit(jax_cce.jacobian(stencil, format="structured"))
    one, other = (jacobian(x).to_scipy(format) for x in (X, X + 1))
    assert one.indices is other.indices
    assert one.indptr is other.indptr
    assert one.has_canonical_format
    with pytest.raises(ValueError, match="'csr', 'csc' or 'coo', but got 'dia'"):
        jacobian(X).to_scipy("dia")
