"""The solver that eliminates: its answers are those of the plain solver, whatever the operator."""

import logging
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

lineax = pytest.importorskip("lineax")

from jax_cce.lineax import Eliminated, JacobianOperator  # noqa: E402
from jax_cce.lineax.eliminated import _ByBlocks  # noqa: E402

pytestmark = pytest.mark.one_version

_RNG = np.random.default_rng(0)
_FULL = _RNG.normal(size=(12, 12)) / 4
_AUTO = lineax.AutoLinearSolver(well_posed=None)


def _diagonal(x: Any) -> Any:
    return x**3 + 2 * x


def _tridiagonal(x: Any) -> Any:
    padded = jnp.pad(x, 1)
    return 6 * x + x**3 - jnp.sin(padded[2:]) * x - padded[:-2]


def _tridiagonal_by_indices(x: Any) -> Any:
    n = x.size
    return 5 * x + x[np.minimum(np.arange(n) + 1, n - 1)] ** 2 - x[np.maximum(np.arange(n) - 1, 0)]


def _blocks(x: Any) -> Any:
    a, b, c = x.reshape(3, -1)
    return jnp.concatenate([3 * a + b * c, 4 * b - a**2, 5 * c + jnp.sin(a)])


def _lower(x: Any) -> Any:
    return 2 * x + jnp.cumsum(x**2) + jnp.concatenate([x[:1], x[:-2] * x[1:-1], x[-1:]])


def _full(x: Any) -> Any:
    return 3 * x + jnp.tanh(_FULL @ x)


def _laplacian(x: Any) -> Any:
    u = jnp.pad(x.reshape(16, -1), 1)
    around = u[2:, 1:-1] + u[:-2, 1:-1] + u[1:-1, 2:] + u[1:-1, :-2]
    return 4.5 * x - around.ravel() + jnp.exp(x / 9)


_CASES = {
    "diagonal": (_diagonal, 12, lineax.Diagonal),
    "tridiagonal": (_tridiagonal, 12, lineax.Tridiagonal),
    "tridiagonal by indices": (_tridiagonal_by_indices, 12, lineax.Tridiagonal),
    "blocks": (_blocks, 12, _ByBlocks),
    "lower": (_lower, 12, lineax.Triangular),
    "full": (_full, 12, type(None)),
    "laplacian": (_laplacian, 144, None),
}


def _operator(f: Any, x: Any) -> Any:
    return lineax.JacobianLinearOperator(lambda x, _: f(x), x)


def _solve(f: Any, x: Any, b: Any, solver: Any) -> Any:
    return lineax.linear_solve(_operator(f, x), b, solver).value


def _expected(f: Any, x: Any, b: Any) -> Any:
    return jnp.linalg.solve(jax.jacfwd(f)(x), b)


@pytest.mark.parametrize("name", _CASES)
def test_solutions_and_derivatives(name: str):
    f, size, solver = _CASES[name]
    x, b = np.random.default_rng(1).normal(size=(2, size))
    state = Eliminated().init(_operator(f, jnp.asarray(x)), {})
    assert solver is None or type(state.solver) is solver
    found = _solve(f, x, b, Eliminated())
    np.testing.assert_allclose(found, _solve(f, x, b, _AUTO), rtol=1e-9)

    def everything(solve: Any) -> Any:
        scalar = lambda x, b: jnp.sum(jnp.sin(solve(x, b)))  # noqa: E731
        alike = jax.jvp(scalar, (x, b), (jnp.cos(x), jnp.sin(b)))[1]
        batch = jax.vmap(solve, (0, None))(jnp.stack([x, x / 2]), b)
        return batch, jax.grad(scalar, argnums=(0, 1))(x, b), alike

    found = jax.jit(lambda: everything(lambda x, b: _solve(f, x, b, Eliminated())))()
    expected = jax.jit(lambda: everything(lambda x, b: _expected(f, x, b)))()
    jax.tree.map(lambda p, q: np.testing.assert_allclose(p, q, 1e-9, 1e-11), found, expected)


@pytest.mark.parametrize("name", _CASES)
def test_transposed_and_conjugate_states(name: str):
    f, size, _ = _CASES[name]
    x, b = np.random.default_rng(2).normal(size=(2, size))
    matrix = jax.jacrev(f)(x)
    solver = Eliminated()
    state = solver.init(_operator(f, jnp.asarray(x)), {})
    for change, expected in ((solver.transpose, matrix.T), (solver.conj, matrix)):
        found, result, _ = solver.compute(change(state, {})[0], jnp.asarray(b), {})
        np.testing.assert_allclose(found, np.linalg.solve(expected, b), rtol=1e-9)
        assert result == lineax.RESULTS.successful


def test_complex_matrices():
    x, b = np.random.default_rng(3).normal(size=(2, 2, 12)).view(complex).reshape(2, 12)
    solver = Eliminated()
    for f in (_diagonal, _tridiagonal, _blocks, _full):
        matrix = jax.jacrev(f, holomorphic=True)(x)
        state = solver.init(_operator(f, jnp.asarray(x)), {})
        for changed, expected in (
            (state, matrix),
            (solver.conj(state, {})[0], matrix.conj()),
            (solver.transpose(solver.conj(state, {})[0], {})[0], matrix.conj().T),
        ):
            found = solver.compute(changed, jnp.asarray(b), {})[0]
            np.testing.assert_allclose(found, np.linalg.solve(expected, b), rtol=1e-9)


@pytest.mark.parametrize("f", [_tridiagonal, _full], ids=["tridiagonal", "full"])
def test_operators_that_wrap_others(f: Any):
    x, b, scale = np.random.default_rng(4).normal(size=(3, 12))
    jac = _operator(f, jnp.asarray(x))
    identity = lineax.IdentityLinearOperator(jac.in_structure())
    scaling = lineax.DiagonalLinearOperator(jnp.asarray(scale))
    symmetric = lineax.TaggedLinearOperator(jac.T @ jac, lineax.positive_semidefinite_tag)
    for operator in (
        lineax.linearise(jac),
        jac + 0.3 * identity,
        -jac / 2,
        scaling @ jac,
        jac.T,
        symmetric,
        JacobianOperator(jax.jit(lambda: _structured(f, x))()),
        lineax.MatrixLinearOperator(jac.as_matrix()),
    ):
        found = lineax.linear_solve(operator, b, Eliminated()).value
        np.testing.assert_allclose(found, np.linalg.solve(operator.as_matrix(), b), rtol=1e-7)


def _structured(f: Any, x: Any) -> Any:
    import jax_cce

    return jax_cce.jacobian(f, format="structured")(x)


def test_damped_least_squares_of_trees():
    x = {"a": jnp.arange(1.0, 4.0), "b": jnp.array(0.5)}

    def residual(x: Any, _: Any) -> Any:
        return jnp.sin(x["a"])[:, None] * x["b"] + jnp.ones((3, 2)), x["a"].sum()

    jac = lineax.linearise(lineax.JacobianLinearOperator(residual, x))
    operator = lineax.FunctionLinearOperator(
        lambda v: (jac.mv(v), jax.tree.map(lambda leaf: 0.1 * leaf, v)), jac.in_structure()
    )
    vector = jax.tree.map(
        lambda leaf: jnp.cos(jnp.arange(float(leaf.size))).reshape(leaf.shape),
        operator.out_structure(),
    )
    for solver in (_AUTO, lineax.QR(), lineax.SVD(), lineax.AutoLinearSolver(well_posed=False)):
        found = lineax.linear_solve(operator, vector, Eliminated(solver)).value
        expected = lineax.linear_solve(operator, vector, solver).value
        jax.tree.map(lambda p, q: np.testing.assert_allclose(p, q, rtol=1e-9), found, expected)


@pytest.mark.parametrize("f", [_diagonal, _tridiagonal, _blocks, _full])
def test_singular_matrices_are_reported_as_by_the_plain_solver(f: Any):
    x = jnp.ones(12)
    operator = _operator(lambda x: f(x) * jnp.where(jnp.arange(12) == 5, 0.0, 1.0), x)
    for solver in (_AUTO, Eliminated()):
        solution = lineax.linear_solve(operator, x, solver, throw=False)
        assert solution.result == lineax.RESULTS.singular


def test_a_pseudoinverse_stays_one():
    x = jnp.ones(12)
    operator = _operator(lambda x: _diagonal(x) * jnp.where(jnp.arange(12) == 5, 0.0, 1.0), x)
    for solver in (lineax.AutoLinearSolver(well_posed=False), lineax.SVD()):
        found = lineax.linear_solve(operator, x, Eliminated(solver)).value
        np.testing.assert_allclose(found, lineax.linear_solve(operator, x, solver).value, rtol=1e-9)


def test_given_solvers():
    x, b = np.random.default_rng(5).normal(size=(2, 12))
    exact = {"rtol": 1e-12, "atol": 1e-12}
    for f in (_tridiagonal, _full):
        expected = _expected(f, x, b)
        for solver, form in (
            (lineax.LU(), "auto"),
            (lineax.GMRES(**exact), "auto"),
            (lineax.GMRES(**exact), "dense"),
            (lineax.Normal(lineax.CG(**exact)), "structured"),
            (_AUTO, "structured"),
        ):
            np.testing.assert_allclose(_solve(f, x, b, Eliminated(solver, form)), expected, 1e-8)


def test_a_solver_that_only_multiplies_gets_no_full_matrix():
    x = jnp.ones(64)
    seen = []

    class Recorded(lineax.CG):
        def init(self, operator: Any, options: Any) -> Any:
            seen.append(operator)
            return super().init(operator, options)

    solver = Eliminated(Recorded(rtol=1e-9, atol=1e-9))
    tag = lineax.positive_semidefinite_tag
    for f in (lambda x: 2 * x, lambda x: 2 * x + jnp.sum(x)):
        operator = lineax.FunctionLinearOperator(f, jax.eval_shape(lambda: x), tag)
        found = lineax.linear_solve(operator, x, solver).value
        np.testing.assert_allclose(f(found), x, rtol=1e-6)
    assert isinstance(seen[0], JacobianOperator)
    assert isinstance(seen[1], lineax.FunctionLinearOperator)


def test_what_falls_back(caplog: pytest.LogCaptureFixture):
    def called_back(v: Any) -> Any:
        return jax.pure_callback(lambda v: 2 * v, v, v, vmap_method="broadcast_all")

    class Recorded(lineax.LU):
        def init(self, operator: Any, options: Any) -> Any:
            return jax.eval_shape(operator.mv, operator.in_structure())

    x = jnp.ones(3)
    mixed = {"x": x, "y": jnp.ones(3, jnp.float32)}
    twice = lambda v: jax.tree.map(lambda leaf: 2 * leaf, v)  # noqa: E731
    with caplog.at_level(logging.INFO, "jax_cce"):
        operator = lineax.FunctionLinearOperator(called_back, jax.eval_shape(lambda: x))
        found = lineax.linear_solve(operator, x, Eliminated()).value
        np.testing.assert_array_equal(found, x / 2)
        structure = jax.eval_shape(lambda: mixed)
        operator = lineax.FunctionLinearOperator(twice, structure)
        assert Eliminated(Recorded()).init(operator, {}).inner == structure
    assert caplog.text.count("solved with as it is") == 2
    # Options are those of vectors as they are.
    operator = _operator(lambda x: {"x": 2 * x["x"]}, {"x": x})
    solver = Eliminated(lineax.GMRES(rtol=1e-9, atol=1e-9))
    options = {"y0": {"x": x}}
    found = lineax.linear_solve(operator, {"x": x}, solver, options=options).value
    np.testing.assert_allclose(found["x"], x / 2)


def test_unknown_formats():
    with pytest.raises(ValueError, match="format must be one of"):
        Eliminated(format="csr")


def test_positions_that_depend_on_data():
    x, b = np.random.default_rng(6).normal(size=(2, 8))
    found = jax.jit(lambda x, at: _solve(lambda x: 2 * x + x[at] / 3, x, b, Eliminated()))(
        x, jnp.arange(8)[::-1]
    )
    np.testing.assert_allclose(found, _solve(lambda x: 2 * x + x[::-1] / 3, x, b, _AUTO), 1e-9)


def test_tags_that_are_declared():
    jac = JacobianOperator(_structured(_full, jnp.ones(12)), lineax.positive_semidefinite_tag)
    assert lineax.is_positive_semidefinite(jac)
    assert lineax.is_symmetric(jac)
    assert lineax.is_positive_semidefinite(jac.T)
    assert not lineax.is_negative_semidefinite(jac)
    of_two = {lineax.lower_triangular_tag, lineax.unit_diagonal_tag}
    jac = JacobianOperator(_structured(_lower, jnp.ones(12)), of_two)
    assert lineax.has_unit_diagonal(jac)
    assert lineax.is_upper_triangular(jac.T)
    assert not lineax.is_symmetric(jac)
    tagged = JacobianOperator(_structured(_full, jnp.ones(12)), lineax.tridiagonal_tag)
    matrix = tagged.as_matrix()
    for found, offset in zip(lineax.tridiagonal(tagged), (0, -1, 1), strict=True):
        np.testing.assert_array_equal(found, np.diagonal(matrix, offset))


def test_entries_of_two_axes():
    def f(x: Any) -> Any:
        return jnp.stack([x[:, 0] * x[:, 1], x[:, 2] ** 2, x[:, 0]])

    x = jnp.arange(12.0).reshape(4, 3)
    for wrap in (lambda f: f, jax.jit):
        entries = wrap(lambda x: JacobianOperator(_structured(f, x)).as_bcoo())(x)
        np.testing.assert_array_equal(entries.todense(), jax.jacrev(f)(x).reshape(12, 12))
        assert entries.indices_sorted
        assert entries.unique_indices


def test_splineax():
    splineax = pytest.importorskip("splineax")
    x, b = np.random.default_rng(7).normal(size=(2, 144))
    state = Eliminated().init(_operator(_laplacian, jnp.asarray(x)), {})
    assert isinstance(state.solver.klu, splineax.KLU)
    expected = _solve(_laplacian, x, b, _AUTO)
    for solver in (Eliminated(splineax.KLU()), Eliminated(format="bcoo")):
        np.testing.assert_allclose(_solve(_laplacian, x, b, solver), expected, rtol=1e-9)
    operator = _operator(lambda x: jnp.nan * _laplacian(x), x)
    solution = lineax.linear_solve(operator, b, Eliminated(), throw=False)
    assert solution.result == lineax.RESULTS.singular
    entries = JacobianOperator(_structured(_laplacian, x)).as_bcoo()
    operator = splineax.BCOOLinearOperator(entries)
    found = lineax.linear_solve(operator, b, splineax.KLU()).value
    np.testing.assert_allclose(found, expected, rtol=1e-9)
