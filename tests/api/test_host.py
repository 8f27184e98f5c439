"""Callbacks for solvers outside JAX: values, matrices that share positions, and solutions."""

import copy
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_cce import host

pytestmark = pytest.mark.one_version


def _chain(x: Any, scale: Any = 1.0) -> Any:
    return jnp.concatenate([10 * (x[1:] - x[:-1] ** 2), scale - x[:-1]])


def _energy(x: Any) -> Any:
    return jnp.sum(_chain(x) ** 2) + jnp.sum(jnp.cos(x[2:] * x[:-2]))


_START = np.linspace(-1.2, 1.0, 12)


def test_residuals_of_a_sparse_jacobian():
    fun, jac = host.residuals(_chain, _START, 1.0)
    for scale in (1.0, 2.0):
        np.testing.assert_allclose(fun(_START, scale), _chain(_START, scale), rtol=1e-13)
        np.testing.assert_allclose(
            jac(_START, scale).toarray(), jax.jacrev(_chain)(_START, scale), rtol=1e-13
        )
    one, other = jac(_START, 1.0), jac(_START / 2, 1.0)
    assert one.indices is other.indices
    assert one.indptr is other.indptr
    assert one.nnz == 33
    assert one.has_canonical_format
    # SciPy writes to the values, and they belong to one matrix.
    one.data *= 2
    np.testing.assert_allclose(other.toarray(), jax.jacrev(_chain)(_START / 2), rtol=1e-13)
    assert fun(_START, 1.0).flags.writeable
    copy.deepcopy(one).check_format()


@pytest.mark.parametrize("loss", ["linear", "soft_l1"])
@pytest.mark.parametrize("form", ["csr", "dense"])
def test_least_squares(loss: str, form: str):
    optimize = pytest.importorskip("scipy.optimize")
    fun, jac = host.residuals(_chain, _START, format=form)
    found = optimize.least_squares(fun, _START, jac, loss=loss, xtol=1e-12, ftol=1e-12, gtol=1e-12)
    np.testing.assert_allclose(found.x, 1, atol=1e-6)


def test_root():
    optimize = pytest.importorskip("scipy.optimize")
    f = lambda x, a: x**3 + x - a + jnp.sin(jnp.sum(x)) / 9  # noqa: E731
    a = np.linspace(0.0, 2, 5)
    fun, jac = host.residuals(f, np.zeros(5), a, format="dense")
    for method in ("hybr", "lm"):
        found = optimize.root(fun, np.zeros(5), (a,), method, jac)
        np.testing.assert_allclose(f(found.x, a), 0, atol=1e-10)


def test_minimize():
    optimize = pytest.importorskip("scipy.optimize")
    expected = jax.hessian(_energy)(_START)
    ends = []
    for method, form in (("trust-exact", "dense"), ("trust-constr", "csr"), ("Newton-CG", "csr")):
        fun, hess = host.objective(_energy, _START, format=form)
        value, gradient = fun(_START)
        np.testing.assert_allclose(value, _energy(_START), rtol=1e-13)
        np.testing.assert_allclose(gradient, jax.grad(_energy)(_START), rtol=1e-12)
        found = hess(_START)
        dense = found if form == "dense" else found.toarray()
        np.testing.assert_allclose(dense, expected, rtol=1e-10, atol=1e-10)
        found = optimize.minimize(fun, np.full(12, 0.9), jac=True, hess=hess, method=method)
        np.testing.assert_allclose(jax.grad(_energy)(found.x), 0, atol=1e-3)
        ends.append(found.fun)
    np.testing.assert_allclose(ends, ends[0], rtol=1e-6)


def test_constraints():
    optimize = pytest.importorskip("scipy.optimize")
    x = np.full(6, 1.5)
    fun, hess = host.objective(lambda x: jnp.sum(x**2), x, format="csr")
    given = host.constraints(lambda x: x[1:] * x[:-1], x)
    v = np.arange(1.0, 6)
    expected = jax.hessian(lambda x: v @ (x[1:] * x[:-1]))(x)
    np.testing.assert_allclose(given.hess(x, v).toarray(), expected, rtol=1e-13)
    above = optimize.NonlinearConstraint(given.fun, 1.0, np.inf, given.jac, given.hess)
    found = optimize.minimize(fun, x, jac=True, hess=hess, method="trust-constr", constraints=above)
    np.testing.assert_allclose(found.x, 1, atol=1e-2)


def test_ipopt_callbacks():
    problem = host.IpoptProblem(_energy, _START, _chain)
    assert (problem.n, problem.m) == (12, 22)
    np.testing.assert_allclose(problem.objective(_START), _energy(_START), rtol=1e-13)
    np.testing.assert_allclose(problem.gradient(_START), jax.grad(_energy)(_START), rtol=1e-12)
    np.testing.assert_allclose(problem.constraints(_START), _chain(_START), rtol=1e-13)
    dense = np.zeros((22, 12))
    dense[problem.jacobianstructure()] = problem.jacobian(_START)
    np.testing.assert_allclose(dense, jax.jacrev(_chain)(_START), rtol=1e-13)
    multipliers = np.cos(np.arange(22.0))
    lagrangian = lambda x: 0.7 * _energy(x) + multipliers @ _chain(x)  # noqa: E731
    dense = np.zeros((12, 12))
    dense[problem.hessianstructure()] = problem.hessian(_START, multipliers, 0.7)
    assert (np.triu(dense, 1) == 0).all()
    expected = np.tril(jax.hessian(lagrangian)(_START))
    np.testing.assert_allclose(dense, expected, rtol=1e-10, atol=1e-10)
    assert all(len(at) == 12 + 11 + 10 for at in problem.hessianstructure())
    assert host.IpoptProblem(_energy, _START).m == 0


def test_ipopt():
    cyipopt = pytest.importorskip("cyipopt")

    def solve(problem: Any, low: Any, high: Any) -> Any:
        ipopt = cyipopt.Problem(
            problem.n, problem.m, problem, np.full(12, -9.0), np.full(12, 9.0), low, high
        )
        ipopt.add_option("print_level", 0)
        ipopt.add_option("sb", "yes")
        return ipopt.solve(np.full(problem.n, 0.8))

    bounds = np.zeros(11)
    problem = host.IpoptProblem(_energy, _START, lambda x: x[1:] * x[:-1] - 0.5)
    x, info = solve(problem, bounds, bounds)
    assert info["status"] == 0
    np.testing.assert_allclose(x[1:] * x[:-1], 0.5, atol=1e-8)
    jac = jax.jacrev(lambda x: x[1:] * x[:-1])(x)
    np.testing.assert_allclose(jax.grad(_energy)(x) + info["mult_g"] @ jac, 0, atol=1e-5)
    x, info = solve(host.IpoptProblem(_energy, _START), [], [])
    np.testing.assert_allclose(jax.grad(_energy)(x), 0, atol=1e-6)


def test_positions_that_depend_on_data():
    f = lambda x: jnp.sort(x) ** 2  # noqa: E731
    _, jac = host.residuals(f, _START)
    x = _START[::-1].copy()
    for at in (_START, x):
        np.testing.assert_allclose(jac(at).toarray(), jax.jacrev(f)(at), rtol=1e-13)
    with pytest.raises(ValueError, match="positions of entries that do not change"):
        host.IpoptProblem(lambda x: jnp.sum(x), _START, f)


def test_what_is_refused():
    with pytest.raises(ValueError, match="format must be one of"):
        host.residuals(_chain, _START, format="csc")
    with pytest.raises(ValueError, match="must be a vector of shape"):
        host.residuals(jnp.sin, np.ones((2, 2)))
    with pytest.raises(ValueError, match="must return a vector"):
        host.residuals(_energy, _START)
    with pytest.raises(ValueError, match="must return a number"):
        host.objective(_chain, _START)
    with pytest.raises(ValueError, match="tree of arrays"):
        host.residuals(lambda x: (x, x), _START)


def test_jaxopt_takes_a_jacobian():
    jaxopt = pytest.importorskip("jaxopt")
    import jax_cce

    solver = jaxopt.LevenbergMarquardt(_chain, jac_fun=jax_cce.jacobian(_chain), maxiter=200)
    np.testing.assert_allclose(solver.run(jnp.asarray(_START)).params, 1, atol=1e-4)
