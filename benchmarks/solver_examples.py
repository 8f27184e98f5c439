"""Examples as the documentation of solvers has them, with one line changed.

Each makes the programs of a row of `benchmarks.solvers`: what a reader of that documentation runs,
and the same with our Jacobian. The problems are those of the packages' own pages: an implicit Euler
step, Robertson's kinetics (1966), Broyden's tridiagonal function (1965), problem 71 of Hock &
Schittkowski (1981), and a graph of two poses.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

Programs = dict[str, Callable[[], Any]]


def implicit_euler(size: int) -> Programs:
    """optimistix: y1 = y0 + tanh(y1) dt, by Newton's method, for so many equations."""
    import optimistix

    from jax_cce.lineax import Eliminated

    def program(**changed: Any) -> Callable[[], Any]:
        solver = optimistix.Newton(rtol=1e-5, atol=1e-5, **changed)

        def step(y0: Any) -> Any:
            return optimistix.fixed_point(lambda y, _: y0 + 0.1 * jnp.tanh(y), solver, y0).value

        return functools.partial(jax.jit(step), jnp.linspace(0.0, 1.0, size))

    return {"plain": program(), "ours": program(linear_solver=Eliminated())}


def robertson() -> Programs:
    """diffrax: stiff kinetics of three species, by Kvaerno5."""
    import diffrax

    from jax_cce.lineax import Eliminated

    def field(t: Any, y: Any, k: Any) -> Any:
        made, lost = k[2] * y[1] * y[2] - k[0] * y[0], k[1] * y[1] ** 2
        return jnp.stack([made, -made - lost, lost])

    def program(**changed: Any) -> Callable[[], Any]:
        def solve(k: Any) -> Any:
            return diffrax.diffeqsolve(
                diffrax.ODETerm(field),
                diffrax.Kvaerno5(**changed),
                0.0,
                100.0,
                0.0002,
                jnp.array([1.0, 0.0, 0.0]),
                args=k,
                stepsize_controller=diffrax.PIDController(rtol=1e-8, atol=1e-8),
            ).ys[-1]

        return functools.partial(jax.jit(solve), jnp.array([0.04, 3e7, 1e4]))

    root_finder = diffrax.with_stepsize_controller_tols(diffrax.VeryChord)
    return {
        "plain": program(),
        "ours": program(root_finder=root_finder(linear_solver=Eliminated())),
    }


def broyden(n: int) -> Programs:
    """SciPy: least squares of NumPy's function, differences by a given pattern."""
    from scipy import optimize, sparse

    from jax_cce import host

    def fun(x: Any) -> Any:
        result = (3 - x) * x + 1
        result[1:] -= x[:-1]
        result[:-1] -= 2 * x[1:]
        return result

    def fun_of_jax(x: Any) -> Any:
        padded = jnp.pad(x, 1)
        return (3 - x) * x + 1 - padded[:-2] - 2 * padded[2:]

    start = -np.ones(n)
    pattern = sparse.diags_array([1.0, 1.0, 1.0], offsets=[-1, 0, 1], shape=(n, n))
    _, jac = host.residuals(fun_of_jax, start)
    return {
        "differences": lambda: optimize.least_squares(fun, start, jac_sparsity=pattern).x,
        "ours": lambda: optimize.least_squares(fun, start, jac).x,
    }


def dense_problem(cost: Any, bounded: Any, n: int, mode: Any) -> Any:
    """What Ipopt calls of a problem of n unknowns, by JAX: the Jacobian by one of its modes."""

    def lagrangian(x: Any, v: Any, factor: Any) -> Any:
        return factor * cost(x) + v @ bounded(x)

    lower = np.tril_indices(n)

    class Dense:
        objective = staticmethod(jax.jit(cost))
        gradient = staticmethod(jax.jit(jax.grad(cost)))
        constraints = staticmethod(jax.jit(bounded))
        jacobian = staticmethod(jax.jit(mode(bounded)))
        hessian = staticmethod(jax.jit(lambda *args: jax.hessian(lagrangian)(*args)[lower]))

    return Dense()


def hock_schittkowski() -> Programs:
    """Ipopt: four unknowns, derivatives by JAX."""
    import cyipopt

    from jax_cce.host import IpoptProblem

    def cost(x: Any) -> Any:
        return x[0] * x[3] * jnp.sum(x[:3]) + x[2]

    def bounded(x: Any) -> Any:
        return jnp.stack([jnp.prod(x), x @ x])

    start = np.array([1.0, 5.0, 5.0, 1.0])

    def solve(problem: Any) -> Any:
        bounds = {"lb": np.ones(4), "ub": np.full(4, 5.0), "cl": [25.0, 40.0], "cu": [2e19, 40.0]}
        ipopt = cyipopt.Problem(4, 2, problem, **bounds)
        ipopt.add_option("print_level", 0)
        ipopt.add_option("sb", "yes")
        return ipopt.solve(start)[0]

    ours = IpoptProblem(cost, start, bounded)
    dense = dense_problem(cost, bounded, 4, jax.jacrev)
    return {"dense JAX": lambda: solve(dense), "ours": lambda: solve(ours)}


def two_poses() -> Programs:
    """jaxls: two poses in the plane, two priors and what lies between them."""
    import jaxlie
    import jaxls

    from jax_cce.jaxls import jacobian

    def prior(vals: Any, at: Any, a: Any) -> Any:
        return (vals[a] @ at.inverse()).log()

    def between(vals: Any, seen: Any, a: Any, b: Any) -> Any:
        return ((vals[a].inverse() @ vals[b]) @ seen.inverse()).log()

    poses = [jaxls.SE2Var(0), jaxls.SE2Var(1)]
    places = [jaxlie.SE2.from_xy_theta(x, 0.0, 0.0) for x in (0.0, 2.0, 1.0)]

    def program(how: Callable[[Any], dict[str, Any]]) -> Callable[[], Any]:
        costs = [
            jaxls.Cost(prior, (places[0], poses[0]), **how(prior)),
            jaxls.Cost(prior, (places[1], poses[1]), **how(prior)),
            jaxls.Cost(between, (places[2], *poses), **how(between)),
        ]
        problem = jaxls.LeastSquaresProblem(costs, poses).analyze()
        return lambda: problem.solve(verbose=False)[jaxls.SE2Var].unit_complex_xy

    return {
        "jaxls, by its choice": program(lambda residual: {}),
        "ours": program(lambda residual: {"jac_custom_fn": jacobian(residual)}),
    }
