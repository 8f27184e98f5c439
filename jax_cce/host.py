"""Functions and their derivatives for solvers outside JAX: SciPy's and Ipopt.

Such a solver calls back with NumPy arrays and wants NumPy arrays and sparse matrices of SciPy. Each
callback here is one compiled call. The positions of the entries are found once, from the function's
own graph, and all matrices share them; what a call returns is values. A function takes a vector of
shape (n,) first, and further arguments after it. The solvers compute in double precision: set
`jax_enable_x64`.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jax_cce.api import jacobian
from jax_cce.hessian import hessian
from jax_cce.patterns import pattern
from jax_cce.sparse.coordinates import csr_array
from jax_cce.sparse.pattern import Pattern

__all__ = ["IpoptProblem", "constraints", "objective", "residuals"]

_FORMATS = ("csr", "dense")


def residuals(
    fun: Callable[..., Any], x: Any, *args: Any, format: str = "csr"
) -> tuple[Callable[..., np.ndarray], Callable[..., Any]]:
    """`fun` and its Jacobian for `scipy.optimize.least_squares` and `scipy.optimize.root`.

    Args:
        fun: a function of JAX that takes a vector of shape (n,) and returns one of shape (m,).
        x: a vector of that shape, for its shape and dtype alone.
        *args: further arguments, likewise; those of a call may be others.
        format: what the Jacobian is. "csr": a `scipy.sparse.csr_array`; "dense": a NumPy array,
            which `root` and method "lm" ask for.

    Returns:
        The pair (fun, jac) of functions of (x, *args).

    Raises:
        ValueError: for an unknown format, and where x or the result is no vector.

    Examples:
        >>> import jax.numpy as jnp, numpy as np, jax_cce.host, scipy.optimize
        >>> x = np.ones(100)
        >>> fun, jac = jax_cce.host.residuals(lambda x: x[1:] ** 2 - x[:-1] - 1, x)
        >>> scipy.optimize.least_squares(fun, x, jac).success
        True
        >>> jac(x).nnz
        198
    """
    _check(fun, x, args)
    return _values(fun), _matrix(jacobian, fun, x, args, format)


def objective(
    fun: Callable[..., Any], x: Any, *args: Any, format: str = "dense"
) -> tuple[Callable[..., tuple[float, np.ndarray]], Callable[..., Any]]:
    """`fun` and its derivatives for `scipy.optimize.minimize(..., jac=True, hess=...)`.

    Args:
        fun: a function of JAX that takes a vector of shape (n,) and returns a number.
        x: as for `residuals`.
        *args: as for `residuals`.
        format: what the Hessian is; only some methods, "trust-constr" for one, take "csr".

    Returns:
        A function that returns the pair of value and gradient, and one that returns the Hessian.

    Raises:
        ValueError: for an unknown format, and where x is no vector or the result no number.

    Examples:
        >>> import jax.numpy as jnp, numpy as np, jax_cce.host, scipy.optimize
        >>> x = np.ones(3)
        >>> fun, hess = jax_cce.host.objective(lambda x: jnp.sum(jnp.cosh(x - 2)), x)
        >>> found = scipy.optimize.minimize(fun, x, jac=True, hess=hess, method="trust-exact")
        >>> found.x.round(2).tolist()
        [2.0, 2.0, 2.0]
    """
    _check(fun, x, args, rank=0)
    both = jax.jit(jax.value_and_grad(fun))

    def value_and_gradient(x: Any, *args: Any) -> tuple[float, np.ndarray]:
        value, gradient = both(x, *args)
        return float(value), np.array(gradient, float)

    return value_and_gradient, _matrix(hessian, fun, x, args, format)


class Constraints(NamedTuple):
    """What `scipy.optimize.NonlinearConstraint` asks for.

    Attributes:
        fun: x -> the constraints, shape (m,).
        jac: x -> their Jacobian.
        hess: x, v -> the Hessian of their sum, weighted by v.
    """

    fun: Callable[..., np.ndarray]
    jac: Callable[..., Any]
    hess: Callable[..., Any]


def constraints(fun: Callable[..., Any], x: Any, *, format: str = "csr") -> Constraints:
    """`fun` and its derivatives for `scipy.optimize.NonlinearConstraint`.

    Args:
        fun: as for `residuals`.
        x: as for `residuals`.
        format: as for `residuals`, for the Jacobian and the Hessian.

    Raises:
        ValueError: as `residuals`.

    Examples:
        >>> import jax.numpy as jnp, numpy as np, jax_cce.host, scipy.optimize
        >>> x = np.ones(4)
        >>> given = jax_cce.host.constraints(lambda x: x[1:] * x[:-1], x)
        >>> box = scipy.optimize.NonlinearConstraint(given.fun, 1, 2, given.jac, given.hess)
        >>> box.hess(x, np.ones(3)).nnz
        6
    """
    value = _check(fun, x, ())

    def weighted(x: Any, v: Any) -> Any:
        return jnp.vdot(v, fun(x))

    return Constraints(
        _values(fun),
        _matrix(jacobian, fun, x, (), format),
        _matrix(hessian, weighted, x, (value,), format),
    )


class IpoptProblem:
    """The callbacks that `cyipopt.Problem(n, m, problem_obj=...)` asks for.

    The Jacobian of the constraints and the lower triangle of the Lagrangian's Hessian are passed
    as their entries.

    Attributes:
        n: how many unknowns there are.
        m: how many constraints there are.

    Examples:
        >>> import jax.numpy as jnp, numpy as np, jax_cce.host
        >>> problem = jax_cce.host.IpoptProblem(
        ...     lambda x: jnp.sum((x - 1) ** 2), np.zeros(5), lambda x: x[1:] * x[:-1] - 2)
        >>> problem.n, problem.m, len(problem.jacobian(np.zeros(5)))
        (5, 4, 8)
        >>> [index.tolist() for index in problem.hessianstructure()]
        [[0, 1, 1, 2, 2, 3, 3, 4, 4], [0, 0, 1, 1, 2, 2, 3, 3, 4]]
    """

    def __init__(
        self,
        objective: Callable[[Any], Any],
        x: Any,
        constraints: Callable[[Any], Any] | None = None,
    ) -> None:
        """Finds the positions of all entries.

        Args:
            objective: a function of JAX that takes a vector of shape (n,) and returns a number.
            x: a vector of that shape, for its shape and dtype alone.
            constraints: one that returns a vector of shape (m,); None for no constraints.

        Raises:
            ValueError: where x or the constraints are no vector or the objective is no number, and
                where positions of entries depend on data, which Ipopt does not know.
        """
        none: Callable[[Any], Any] = lambda x: x[:0]  # noqa: E731
        constraint = none if constraints is None else constraints
        _check(objective, x, (), rank=0)
        value = _check(constraint, x, ())
        factor = jax.ShapeDtypeStruct((), value.dtype)

        def lagrangian(x: Any, multipliers: Any, factor: Any) -> Any:
            return factor * objective(x) + jnp.vdot(multipliers, constraint(x))

        self.n, self.m = len(x), len(value)
        self._objective, self._gradient = jax.jit(objective), jax.jit(jax.grad(objective))
        self._constraints = jax.jit(constraint)
        positions = _pattern(jacobian, constraint, x, ())
        curved = _pattern(hessian, lagrangian, x, (value, factor))
        if positions is None or curved is None:
            raise ValueError(
                "Ipopt requires positions of entries that do not change, but those of this problem "
                "depend on data: a function sorts, or reads or writes at traced indices."
            )
        lower = np.flatnonzero(curved.rows >= curved.columns)
        self._jacobian_at = positions.rows, positions.columns
        self._hessian_at = curved.rows[lower], curved.columns[lower]
        self._jacobian = jax.jit(jacobian(constraint, format="values"))
        entries = hessian(lagrangian, format="values")
        self._hessian = jax.jit(lambda *operands: entries(*operands)[lower])

    def objective(self, x: Any) -> float:
        """The objective."""
        return float(self._objective(x))

    def gradient(self, x: Any) -> np.ndarray:
        """Its gradient, shape (n,)."""
        return np.asarray(self._gradient(x), float)

    def constraints(self, x: Any) -> np.ndarray:
        """The constraints, shape (m,)."""
        return np.asarray(self._constraints(x), float)

    def jacobianstructure(self) -> tuple[np.ndarray, np.ndarray]:
        """Rows and columns of the entries of the constraints' Jacobian."""
        return self._jacobian_at

    def jacobian(self, x: Any) -> np.ndarray:
        """Those entries."""
        return np.asarray(self._jacobian(x), float)

    def hessianstructure(self) -> tuple[np.ndarray, np.ndarray]:
        """Rows and columns of the entries in the lower triangle of the Lagrangian's Hessian."""
        return self._hessian_at

    def hessian(self, x: Any, lagrange: Any, obj_factor: float) -> np.ndarray:
        """Those entries: of obj_factor times the objective plus lagrange times the constraints."""
        return np.asarray(self._hessian(x, lagrange, obj_factor), float)


def _check(fun: Callable[..., Any], x: Any, args: tuple[Any, ...], rank: int = 1) -> Any:
    """Shape and dtype of the result, if `fun` maps a vector to an array of that rank."""
    shape = np.shape(x)
    if len(shape) != 1:
        raise ValueError(f"x must be a vector of shape (n,), but got shape {shape}.")
    result = jax.eval_shape(fun, x, *args)
    found = getattr(result, "shape", None)
    if found is None or len(found) != rank:
        wanted = "a vector of shape (m,)" if rank else "a number of shape ()"
        what = "a tree of arrays" if found is None else f"shape {found}"
        raise ValueError(f"The function must return {wanted}, but returned {what}.")
    return result


def _values(fun: Callable[..., Any]) -> Callable[..., np.ndarray]:
    compiled = jax.jit(fun)
    # SciPy scales residuals where they are.
    return lambda x, *args: np.array(compiled(x, *args), float)


def _pattern(
    derivative: Any, fun: Callable[..., Any], x: Any, args: tuple[Any, ...]
) -> Pattern | None:
    """Where the entries of a derivative lie; None where that depends on data."""
    try:
        return pattern(fun, of=derivative.__name__)(x, *args)
    except ValueError:
        return None


def _matrix(
    derivative: Any, fun: Callable[..., Any], x: Any, args: tuple[Any, ...], format: str
) -> Callable[..., Any]:
    if format not in _FORMATS:
        names = ", ".join(map(repr, _FORMATS))
        raise ValueError(f"format must be one of {names}, but got {format!r}.")
    if format == "dense":
        return _values(derivative(fun))
    found = _pattern(derivative, fun, x, args)
    if found is None:
        of_entries = jax.jit(derivative(fun, format="bcoo"))

        def sorted_anew(*operands: Any) -> Any:
            matrix = of_entries(*operands)
            return csr_array(matrix, matrix.shape[:1], matrix.shape[1:])

        return sorted_anew
    values = jax.jit(derivative(fun, format="values"))
    # SciPy writes into matrices as well.
    return lambda *operands: found.to_scipy(np.array(values(*operands), float))
