"""A `StructuredJacobian` as a lineax linear operator; requires lineax.

The solver sees the structure: a diagonal or tridiagonal Jacobian says so, so that
`lineax.AutoLinearSolver` takes the solver for it, and iterative solvers multiply without forming
a matrix.
"""

from typing import Any

import jax
import jax.numpy as jnp

try:
    import lineax
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        "jax_cce.lineax needs the package lineax, which was not found. Install it: pip install "
        "lineax",
        name="lineax",
    ) from error

from jax_cce.sparse.bands_and_blocks import Bands
from jax_cce.sparse.structured import StructuredJacobian

__all__ = [
    "JacobianOperator",
]


class JacobianOperator(lineax.AbstractLinearOperator):
    """The linear map v -> J @ v between arrays of shapes `in_shape` and `out_shape`.

    Attributes:
        jacobian: the Jacobian.

    Examples:
        >>> import jax.numpy as jnp, jax_cce, lineax
        >>> from jax_cce.lineax import JacobianOperator
        >>> x = jnp.array([1.0, 2.0])
        >>> jac = jax_cce.jacobian(lambda x: x**2, format="structured")(x)
        >>> lineax.linear_solve(JacobianOperator(jac), jnp.array([2.0, 8.0])).value
        Array([1., 2.], dtype=float32)
    """

    jacobian: StructuredJacobian

    def mv(self, vector: Any) -> Any:
        """J @ vector."""
        return self.jacobian @ vector

    def as_matrix(self) -> Any:
        """The dense matrix, flattened to two axes."""
        return self.jacobian.todense().reshape(self.out_size(), self.in_size())

    def transpose(self) -> "JacobianOperator":
        """The transposed map."""
        return JacobianOperator(self.jacobian.T)

    def in_structure(self) -> Any:
        """Shape and dtype of what the operator takes."""
        return jax.ShapeDtypeStruct(self.jacobian.in_shape, self.jacobian.dtype)

    def out_structure(self) -> Any:
        """Shape and dtype of what the operator returns."""
        return jax.ShapeDtypeStruct(self.jacobian.out_shape, self.jacobian.dtype)


def _bands(operator: JacobianOperator) -> Bands | None:
    jacobian = operator.jacobian
    return jacobian.bands if operator.in_size() == operator.out_size() else None


def _within(operator: JacobianOperator, low: float, high: float) -> bool:
    """Whether all entries lie on diagonals from offset low to high."""
    bands = _bands(operator)
    return bands is not None and all(low <= offset <= high for offset in bands.offsets)


@lineax.linearise.register(JacobianOperator)
@lineax.materialise.register(JacobianOperator)
def _(operator: JacobianOperator) -> JacobianOperator:
    return operator


@lineax.conj.register(JacobianOperator)
def _(operator: JacobianOperator) -> JacobianOperator:
    return JacobianOperator(jax.tree.map(jnp.conj, operator.jacobian))


@lineax.diagonal.register(JacobianOperator)
def _(operator: JacobianOperator) -> Any:
    return operator.jacobian.diagonal()


@lineax.tridiagonal.register(JacobianOperator)
def _(operator: JacobianOperator) -> tuple[Any, Any, Any]:
    bands = operator.jacobian.bands
    size = operator.in_size()
    diagonals = {} if bands is None else dict(zip(bands.offsets, bands.data, strict=True))
    zero = jnp.zeros(size, operator.jacobian.dtype)
    lower, diagonal, upper = (diagonals.get(offset, zero) for offset in (-1, 0, 1))
    return diagonal, lower[:-1], upper[1:]


@lineax.is_diagonal.register(JacobianOperator)
def _(operator: JacobianOperator) -> bool:
    return _within(operator, 0, 0)


@lineax.is_tridiagonal.register(JacobianOperator)
def _(operator: JacobianOperator) -> bool:
    return _within(operator, -1, 1)


@lineax.is_lower_triangular.register(JacobianOperator)
def _(operator: JacobianOperator) -> bool:
    return _within(operator, -float("inf"), 0)


@lineax.is_upper_triangular.register(JacobianOperator)
def _(operator: JacobianOperator) -> bool:
    return _within(operator, 0, float("inf"))


@lineax.is_symmetric.register(JacobianOperator)
@lineax.has_unit_diagonal.register(JacobianOperator)
@lineax.is_positive_semidefinite.register(JacobianOperator)
@lineax.is_negative_semidefinite.register(JacobianOperator)
def _(operator: JacobianOperator) -> bool:
    return False
