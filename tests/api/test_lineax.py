"""The adapter to lineax: its operators agree with dense matrices, and its solvers accept them."""

import importlib
import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jax_cce
from cases.bands_and_blocks import CASES, Case, flattened, jacobian_of, operands, tridiagonal
from cases.sparsity import assert_values

pytestmark = pytest.mark.one_version

lineax = pytest.importorskip("lineax")

# lineax has no operators on empty spaces.
_CASES = [case for case in CASES if 0 not in case.shape and case.name != "empty output"]


def _operator(jacobian: Any) -> Any:
    import jax_cce.lineax

    return jax_cce.lineax.JacobianOperator(jacobian)


@pytest.mark.parametrize("case", _CASES, ids=lambda case: case.name)
def test_operator(case: Case):
    jacobian, dense, _ = jacobian_of(case)
    operator = _operator(jacobian)
    assert isinstance(operator, lineax.AbstractLinearOperator)
    matrix = flattened(dense, len(jacobian.out_shape))
    given = operands(jacobian)
    assert operator.in_structure() == jax.ShapeDtypeStruct(jacobian.in_shape, jacobian.dtype)
    assert operator.out_structure() == jax.ShapeDtypeStruct(jacobian.out_shape, jacobian.dtype)
    assert_values(operator.as_matrix(), matrix)
    assert_values(
        operator.mv(given["v"]), (matrix @ given["v"].ravel()).reshape(jacobian.out_shape)
    )
    assert_values(operator.T.as_matrix(), matrix.T)
    assert_values(
        (operator.T @ operator).mv(given["v"]).ravel(), matrix.T @ matrix @ given["v"].ravel()
    )
    assert_values((operator + 2 * operator).as_matrix(), 3 * matrix)
    if matrix.shape[0] == matrix.shape[1]:
        assert_values(lineax.diagonal(operator), np.diagonal(matrix))


@pytest.mark.parametrize("case", _CASES, ids=lambda case: case.name)
def test_tags_hold(case: Case):
    jacobian, dense, _ = jacobian_of(case)
    operator, matrix = _operator(jacobian), flattened(dense, len(jacobian.out_shape))
    rows, columns = np.indices(matrix.shape)
    holds = {
        "is_symmetric": matrix.shape[0] == matrix.shape[1] and np.array_equal(matrix, matrix.T),
        "is_diagonal": not matrix[rows != columns].any(),
        "is_tridiagonal": not matrix[abs(rows - columns) > 1].any(),
        "is_lower_triangular": not matrix[rows < columns].any(),
        "is_upper_triangular": not matrix[rows > columns].any(),
        "is_positive_semidefinite": False,
        "is_negative_semidefinite": False,
        "has_unit_diagonal": (np.diagonal(matrix) == 1).all(),
    }
    for name, true in holds.items():
        assert true or not getattr(lineax, name)(operator), name
    if case.bands == (0,):
        assert lineax.is_diagonal(operator)
    if case.bands == (-1, 0, 1):
        assert lineax.is_tridiagonal(operator)
        for found, offset in zip(lineax.tridiagonal(operator), (0, -1, 1), strict=True):
            assert_values(found, np.diagonal(matrix, offset))


@pytest.mark.parametrize("wrap", [lambda f: f, jax.jit], ids=["call", "jit"])
@pytest.mark.parametrize("solver", ["auto", "GMRES", "LU"])
def test_solves(solver: str, wrap: Any):
    x, b = np.random.default_rng(0).normal(size=(2, 8))

    def f(x: jax.Array) -> jax.Array:
        return 8 * x + tridiagonal(x) / 4

    methods = {
        "auto": lineax.AutoLinearSolver(well_posed=True),
        "GMRES": lineax.GMRES(rtol=1e-12, atol=1e-12),
        "LU": lineax.LU(),
    }

    def solve(x: jax.Array) -> jax.Array:
        jacobian = jax_cce.jacobian(f, format="structured")(x)
        return lineax.linear_solve(_operator(jacobian), b, methods[solver]).value

    def expected(x: jax.Array) -> jax.Array:
        return jnp.linalg.solve(jax.jacrev(f)(x), b)

    np.testing.assert_allclose(wrap(solve)(x), expected(x), rtol=1e-9)
    found = wrap(jax.jacfwd(solve))(x)
    np.testing.assert_allclose(found, jax.jit(jax.jacfwd(expected))(x), rtol=1e-7, atol=1e-12)
    batch = np.stack([x, 2 * x])
    np.testing.assert_allclose(
        wrap(jax.vmap(solve))(batch), np.stack([expected(x) for x in batch]), rtol=1e-9
    )


def test_what_to_do_where_lineax_is_missing(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "lineax", None)
    monkeypatch.delitem(sys.modules, "jax_cce.lineax", raising=False)
    with pytest.raises(ModuleNotFoundError, match=r"needs the package lineax.*pip install lineax"):
        importlib.import_module("jax_cce.lineax")
