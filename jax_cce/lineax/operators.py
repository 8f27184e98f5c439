"""A `StructuredJacobian` as a lineax linear operator.

The solver sees the structure: a diagonal or tridiagonal Jacobian says so, so that
`lineax.AutoLinearSolver` takes the solver for it, and iterative solvers multiply without forming
a matrix.
"""

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import equinox
import jax
import jax.numpy as jnp
import lineax
import numpy as np

from jax_cce.algebra.index_arrays import linear_index
from jax_cce.sparse.linear_solve import diagonals, flat_pattern
from jax_cce.sparse.structured import StructuredJacobian

if TYPE_CHECKING:
    from jax.experimental.sparse import BCOO

__all__ = ["TAGS", "JacobianOperator"]

# What may be declared of an operator, and the query for it.
TAGS: dict[object, Callable[[Any], bool]] = {
    lineax.symmetric_tag: lineax.is_symmetric,
    lineax.diagonal_tag: lineax.is_diagonal,
    lineax.tridiagonal_tag: lineax.is_tridiagonal,
    lineax.unit_diagonal_tag: lineax.has_unit_diagonal,
    lineax.lower_triangular_tag: lineax.is_lower_triangular,
    lineax.upper_triangular_tag: lineax.is_upper_triangular,
    lineax.positive_semidefinite_tag: lineax.is_positive_semidefinite,
    lineax.negative_semidefinite_tag: lineax.is_negative_semidefinite,
}


class JacobianOperator(lineax.AbstractLinearOperator):
    """The linear map v -> J @ v between arrays of shapes `in_shape` and `out_shape`.

    That it is diagonal, tridiagonal or triangular lineax's queries find out. What does not follow
    from the positions of its entries has to be declared, and is not checked.

    Attributes:
        jacobian: the Jacobian.
        tags: what is declared of it, such as `lineax.positive_semidefinite_tag`.

    Examples:
        >>> import jax.numpy as jnp, jax_cce, lineax
        >>> from jax_cce.lineax import JacobianOperator
        >>> x = jnp.array([1.0, 2.0])
        >>> jac = jax_cce.jacobian(lambda x: x**2, format="structured")(x)
        >>> lineax.linear_solve(JacobianOperator(jac), jnp.array([2.0, 8.0])).value
        Array([1., 2.], dtype=float32)
    """

    jacobian: StructuredJacobian
    tags: frozenset[object] = equinox.field(static=True)

    def __init__(self, jacobian: StructuredJacobian, tags: object | Iterable[object] = ()) -> None:
        """Wraps a Jacobian; `tags` is one of lineax's tags, or several."""
        self.jacobian = jacobian
        self.tags = frozenset(tags if isinstance(tags, Iterable) else (tags,))

    def mv(self, vector: Any) -> Any:
        """J @ vector."""
        return self.jacobian @ vector

    def as_matrix(self) -> Any:
        """The dense matrix, flattened to two axes."""
        return self.jacobian.todense().reshape(self.out_size(), self.in_size())

    def as_bcoo(self) -> "BCOO":
        """The sorted entries, flattened to two axes: what `splineax.BCOOLinearOperator` takes."""
        bcoo, rank = self.jacobian.to_bcoo(), len(self.jacobian.out_shape)
        shape = self.out_size(), self.in_size()
        if shape == bcoo.shape:
            return bcoo
        columns = tuple(bcoo.indices.T)
        ends = (columns[:rank], self.jacobian.out_shape), (columns[rank:], self.jacobian.in_shape)
        indices: Any = bcoo.indices
        xp: Any = np if isinstance(indices, np.ndarray) else jnp
        zero = xp.zeros(bcoo.nse, bcoo.indices.dtype)
        flat = [linear_index(at, own) if at else zero for at, own in ends]
        static = {"shape": shape, "indices_sorted": True, "unique_indices": True}
        return type(bcoo).tree_unflatten(static, (bcoo.data, xp.stack(flat, axis=1)))

    def transpose(self) -> "JacobianOperator":
        """The transposed map."""
        if lineax.symmetric_tag in self.tags:
            return self
        return JacobianOperator(self.jacobian.T, lineax.transpose_tags(self.tags))

    def in_structure(self) -> Any:
        """Shape and dtype of what the operator takes."""
        return jax.ShapeDtypeStruct(self.jacobian.in_shape, self.jacobian.dtype)

    def out_structure(self) -> Any:
        """Shape and dtype of what the operator returns."""
        return jax.ShapeDtypeStruct(self.jacobian.out_shape, self.jacobian.dtype)


def _is_square(operator: JacobianOperator) -> bool:
    return operator.in_size() == operator.out_size()


def _within_three(operator: JacobianOperator, *offsets: int) -> bool:
    """Whether all entries lie on those of the three diagonals in the middle."""
    found = diagonals(operator.jacobian) if _is_square(operator) else None
    return found is not None and set(found) <= set(offsets)


def _is_triangular(operator: JacobianOperator, *, lower: bool) -> bool:
    if not _is_square(operator):
        return False
    bands = operator.jacobian.bands
    if bands is not None:
        return all(offset <= 0 if lower else offset >= 0 for offset in bands.offsets)
    size = operator.in_size()
    positions = flat_pattern(operator.jacobian, most=size * (size + 1) // 2)
    if positions is None:
        return False
    rows, columns = positions
    return bool((rows >= columns if lower else rows <= columns).all())


@lineax.linearise.register(JacobianOperator)
@lineax.materialise.register(JacobianOperator)
def _(operator: JacobianOperator) -> JacobianOperator:
    return operator


@lineax.conj.register(JacobianOperator)
def _(operator: JacobianOperator) -> JacobianOperator:
    return JacobianOperator(jax.tree.map(jnp.conj, operator.jacobian), operator.tags)


@lineax.diagonal.register(JacobianOperator)
def _(operator: JacobianOperator) -> Any:
    return operator.jacobian.diagonal()


@lineax.tridiagonal.register(JacobianOperator)
def _(operator: JacobianOperator) -> tuple[Any, Any, Any]:
    found, size = diagonals(operator.jacobian), operator.in_size()
    if found is None:
        # Declared by a tag.
        matrix = operator.as_matrix()
        on, below, above = (jnp.diagonal(matrix, k) for k in (0, -1, 1))
    else:
        on, below, above = (
            found.get(k, jnp.zeros(size - abs(k), operator.jacobian.dtype)) for k in (0, -1, 1)
        )
    return on, below, above


@lineax.is_diagonal.register(JacobianOperator)
def _(operator: JacobianOperator) -> bool:
    return lineax.diagonal_tag in operator.tags or _within_three(operator, 0)


@lineax.is_tridiagonal.register(JacobianOperator)
def _(operator: JacobianOperator) -> bool:
    declared = {lineax.tridiagonal_tag, lineax.diagonal_tag} & operator.tags
    return bool(declared) or _within_three(operator, -1, 0, 1)


@lineax.is_lower_triangular.register(JacobianOperator)
def _(operator: JacobianOperator) -> bool:
    return lineax.lower_triangular_tag in operator.tags or _is_triangular(operator, lower=True)


@lineax.is_upper_triangular.register(JacobianOperator)
def _(operator: JacobianOperator) -> bool:
    return lineax.upper_triangular_tag in operator.tags or _is_triangular(operator, lower=False)


@lineax.is_symmetric.register(JacobianOperator)
def _(operator: JacobianOperator) -> bool:
    if {lineax.symmetric_tag, lineax.diagonal_tag} & operator.tags:
        return True
    # A complex matrix that is definite is Hermitian.
    definite = {lineax.positive_semidefinite_tag, lineax.negative_semidefinite_tag} & operator.tags
    is_real = not jnp.issubdtype(operator.jacobian.dtype, jnp.complexfloating)
    return bool(definite) and is_real


def _declared(tag: object) -> Callable[[JacobianOperator], bool]:
    return lambda operator: tag in operator.tags


for _tag in (
    lineax.unit_diagonal_tag,
    lineax.positive_semidefinite_tag,
    lineax.negative_semidefinite_tag,
):
    TAGS[_tag].register(JacobianOperator)(_declared(_tag))  # type: ignore[attr-defined]
