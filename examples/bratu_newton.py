"""Newton's method on the Bratu problem, with a sparse Jacobian and two kinds of linear solver.

The equation -Δu = λ exp(u) on the unit square, u = 0 on its boundary, is discretised by the
five-point stencil. Run it with

    python examples/bratu_newton.py                   a sparse LU factorisation by SciPy
    python examples/bratu_newton.py --solver krylov   conjugate gradients, in JAX alone
"""

import argparse
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.sparse.linalg import cg
from scipy.sparse import coo_array
from scipy.sparse.linalg import splu

import jax_cce

_MAX_STEPS = 20
# A residual is a sum of five numbers of order one: this is some dozens of roundings.
_TOLERANCE = 1e-14


class Solution(NamedTuple):
    """What Newton's method found.

    Attributes:
        u: values at the inner grid points, row by row, shape (size * size,).
        residuals: the root mean square of the residual before each step and after the last.
    """

    u: jax.Array
    residuals: list[float]


def residual(u: jax.Array, rate: float) -> jax.Array:
    """The discretised equation, times the square of the mesh width.

    Args:
        u: values at the inner points of a square grid, row by row.
        rate: the parameter λ; there are solutions up to about 6.808.
    """
    size = round(u.size**0.5)
    grid = u.reshape(size, size)
    padded = jnp.pad(grid, 1)
    neighbours = padded[2:, 1:-1] + padded[:-2, 1:-1] + padded[1:-1, 2:] + padded[1:-1, :-2]
    return (4 * grid - neighbours - rate / (size + 1) ** 2 * jnp.exp(grid)).reshape(-1)


def solve_directly(jacobian: Any, right: jax.Array) -> jax.Array:
    """Solves with a BCOO matrix by sparse LU factorisation."""
    rows, columns = np.asarray(jacobian.indices).T
    matrix = coo_array((np.asarray(jacobian.data), (rows, columns)), shape=jacobian.shape)
    # The pattern is symmetric, which this ordering exploits.
    return jnp.asarray(splu(matrix.tocsc(), permc_spec="MMD_AT_PLUS_A").solve(np.asarray(right)))


@jax.jit
def solve_iteratively(jacobian: jax_cce.StructuredJacobian, right: jax.Array) -> jax.Array:
    """Solves by conjugate gradients: on this branch of solutions the Jacobian is definite."""
    return cg(lambda v: jacobian @ v, right, tol=1e-10, maxiter=20 * round(right.size**0.5))[0]


_SOLVERS: dict[str, tuple[Any, Callable[..., jax.Array]]] = {
    "direct": ("bcoo", solve_directly),
    "krylov": ("structured", solve_iteratively),
}


def newton(size: int, rate: float, solver: str = "direct") -> Solution:
    """Solves the problem on a grid of size x size inner points, from u = 0.

    Args:
        size: inner grid points along one side.
        rate: the parameter λ.
        solver: "direct" or "krylov".

    Raises:
        RuntimeError: where the iteration does not converge, as for λ beyond the turning point.
    """
    format, solve = _SOLVERS[solver]
    evaluate = jax_cce.value_and_jacobian(residual, format=format)
    u = jnp.zeros(size * size)
    residuals = []
    for step in range(_MAX_STEPS):
        value, jacobian = evaluate(u, rate)
        residuals.append(float(jnp.sqrt(jnp.mean(value**2))))
        print(f"step {step}   residual {residuals[-1]:.3e}")
        if residuals[-1] < _TOLERANCE:
            return Solution(u, residuals)
        u = u - solve(jacobian, value)
    raise RuntimeError(f"no convergence in {_MAX_STEPS} steps for λ = {rate}")


def main(arguments: Sequence[str] | None = None) -> Solution:
    """The command line."""
    parser = argparse.ArgumentParser(description="Newton's method on the Bratu problem")
    parser.add_argument("--size", type=int, default=128, help="inner grid points along one side")
    parser.add_argument("--rate", type=float, default=6.0, help="the parameter λ")
    parser.add_argument("--solver", choices=_SOLVERS, default="direct")
    options = parser.parse_args(arguments)
    jax.config.update("jax_enable_x64", True)
    solution = newton(options.size, options.rate, options.solver)
    print(f"largest value of u: {float(jnp.max(solution.u)):.6f}")
    return solution


if __name__ == "__main__":
    main()
