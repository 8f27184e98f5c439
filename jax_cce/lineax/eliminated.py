"""A linear solver that computes the matrix of its operator by elimination.

Newton's method and its relatives hand a linear solver the Jacobian as a function, the linear map
that `jax.linearize` returns, and a direct solver multiplies it with every unit vector. The matrix
of such a map is its Jacobian, whatever is wrapped around it, and the structure of that is found as
for any other function.
"""

import dataclasses
import logging
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import equinox
import jax
import jax.numpy as jnp
import lineax
import numpy as np

from jax_cce.api import jacobian
from jax_cce.lineax.operators import TAGS, JacobianOperator
from jax_cce.sparse.linear_solve import Blocks, blocks_of, diagonals, flat_pattern
from jax_cce.sparse.structured import StructuredJacobian

__all__ = ["Eliminated"]

_log = logging.getLogger("jax_cce")

_FORMATS = ("auto", "dense", "bcoo", "structured")
# These factorise a dense matrix.
_DIRECT = (
    lineax.AutoLinearSolver,
    lineax.Cholesky,
    lineax.Diagonal,
    lineax.LU,
    lineax.QR,
    lineax.SVD,
    lineax.Triangular,
    lineax.Tridiagonal,
)
# Solvers that only multiply get the matrix where it has at most so many entries a row; a product
# with a fuller one may cost more than the function.
_FEW = 32
# A sparse factorisation needs so many unknowns, and at most such a share of entries, to be faster.
_LEAST_SPARSE = 128
_SPARSE_SHARE = 1 / 16


class _Map(NamedTuple):
    """A linear map between flat vectors.

    Attributes:
        function: what is applied.
        start: a vector of its domain.
        structures: shapes and dtypes of what the operator returns and takes, as hashable pairs.
    """

    function: Callable[[Any], Any]
    start: Any
    structures: tuple[Any, Any]


class _State(equinox.Module):
    """What is left to do once the matrix is known.

    Attributes:
        inner: the state of the solver that solves.
        solver: that solver; None if it is the wrapped one.
        structures: of the vectors and the solutions; None where the wrapped solver got the operator
            as it was.
        conjugate: whether the system is that of the conjugate matrix.
    """

    inner: Any
    solver: lineax.AbstractLinearSolver | None = equinox.field(static=True)
    structures: tuple[Any, Any] | None = equinox.field(static=True)
    conjugate: bool = equinox.field(static=True, default=False)


class Eliminated(lineax.AbstractLinearSolver):
    """Solves with the matrix of an operator, computed by elimination and in the form it asks for.

    Pass it where a `lineax.AbstractLinearSolver` is wanted: as `linear_solver` to optimistix'
    `Newton`, `Chord`, `GaussNewton`, `LevenbergMarquardt` and `Dogleg`, to diffrax' `VeryChord`, or
    to `lineax.linear_solve`. Answers are those of the wrapped solver, up to rounding; where they
    are less than exact (`well_posed=False`, rectangular matrices) it gets the dense matrix.

    A square matrix whose positions are known while tracing is looked at. With the default
    `lineax.AutoLinearSolver`, a diagonal one divides, three diagonals are eliminated in linear
    time, a triangular one is solved as such, and small blocks are inverted. A large sparse
    one is factorised by KLU, if splineax is installed, on the CPU and with 64-bit types enabled;
    what is singular is then an error at run time. Everything else is a dense matrix for the
    wrapped solver. Solvers that multiply only, such as `lineax.GMRES`, get a `JacobianOperator`
    where it has few entries a row, and those of splineax the sorted entries.

    Where the matrix cannot be computed so, the wrapped solver gets the operator as it is: with
    `options` (a preconditioner, a first guess), with vectors of several dtypes, and where
    `jax_cce.jacobian` refuses. The log (level INFO) says why.

    Attributes:
        solver: the wrapped solver.
        format: "auto", or the form in which the wrapped solver shall get every matrix: "dense" (a
            `lineax.MatrixLinearOperator`), "structured" (a `JacobianOperator`) or "bcoo" (a
            `splineax.BCOOLinearOperator`).

    Examples:
        >>> import jax.numpy as jnp, lineax
        >>> from jax_cce.lineax import Eliminated
        >>> x = jnp.arange(4.0)
        >>> operator = lineax.JacobianLinearOperator(lambda x, _: 3 * x - jnp.roll(x, 1), x)
        >>> print(lineax.linear_solve(operator, jnp.ones(4), Eliminated()).value.round(3))
        [0.5 0.5 0.5 0.5]
    """

    solver: lineax.AbstractLinearSolver = lineax.AutoLinearSolver(well_posed=None)
    format: str = equinox.field(default="auto", static=True)

    def __check_init__(self) -> None:
        """Raises `ValueError` for an unknown format."""
        if self.format not in _FORMATS:
            names = ", ".join(map(repr, _FORMATS))
            raise ValueError(f"format must be one of {names}, but got {self.format!r}.")

    def init(self, operator: lineax.AbstractLinearOperator, options: dict[str, Any]) -> _State:
        """Computes the matrix, and what a solver computes of it."""
        found = None
        if not options:
            try:
                found = self._matrix(operator)
            except (MemoryError, NotImplementedError, TypeError, ValueError) as error:
                _log.info("the operator is solved with as it is: %s", error)
        if found is None:
            return _State(self.solver.init(operator, options), None, None)
        solver, matrix, structures = found
        inner = (self.solver if solver is None else solver).init(matrix, {})
        return _State(inner, solver, structures)

    def compute(
        self, state: _State, vector: Any, options: dict[str, Any]
    ) -> tuple[Any, lineax.RESULTS, dict[str, Any]]:
        """Solves for one vector."""
        solver = self._of(state)
        if state.conjugate:
            # Conjugates turn the one system into the other.
            plain = dataclasses.replace(state, conjugate=False)
            solution, *rest = self.compute(plain, jax.tree.map(jnp.conj, vector), options)
            return jax.tree.map(jnp.conj, solution), *rest
        if state.structures is None:
            return solver.compute(state.inner, vector, options)
        flat = jnp.concatenate([leaf.reshape(-1) for leaf in jax.tree.leaves(vector)])
        solution, result, stats = solver.compute(state.inner, flat, {})
        # KLU solves in double precision.
        solution = solution.astype(state.structures[1][0][0].dtype)
        return _unflattened(solution, state.structures[1]), result, stats

    def transpose(self, state: _State, options: dict[str, Any]) -> tuple[_State, dict[str, Any]]:
        """The state for the transposed operator."""
        inner, options = self._of(state).transpose(state.inner, options)
        swapped = None if state.structures is None else state.structures[::-1]
        return dataclasses.replace(state, inner=inner, structures=swapped), options

    def conj(self, state: _State, options: dict[str, Any]) -> tuple[_State, dict[str, Any]]:
        """The state for the conjugate operator."""
        return dataclasses.replace(state, conjugate=not state.conjugate), options

    def assume_full_rank(self) -> bool:
        """As the wrapped solver."""
        return self.solver.assume_full_rank()

    def _of(self, state: _State) -> lineax.AbstractLinearSolver:
        return self.solver if state.solver is None else state.solver

    def _matrix(self, operator: lineax.AbstractLinearOperator) -> Any:
        """A solver, or None for the wrapped one, its operator, and structures; None if none."""
        flat = _flattened(operator)
        if flat is None:
            _log.info("the operator is solved with as it is: its vectors have several dtypes")
            return None
        holomorphic = jnp.issubdtype(flat.start.dtype, jnp.complexfloating)
        tags = {tag for tag, holds in TAGS.items() if holds(operator)}
        solver: lineax.AbstractLinearSolver | None = None
        matrix: lineax.AbstractLinearOperator | None = None
        if self.format != "dense" and not self._needs_dense(operator):
            of_terms = jacobian(flat.function, holomorphic=holomorphic, format="structured")
            found = _by_structure(self, of_terms(flat.start), tags)
            if found is not None:
                solver, matrix = found
            elif not isinstance(self.solver, _DIRECT):
                _log.info("the operator is solved with as it is: its matrix has many entries")
                return None
        if matrix is None:
            # Column by column, as from the operator, it fuses best with what is around it. Other
            # orders and native code, called anew at each step, were slower there.
            columns = jacobian(
                flat.function, holomorphic=holomorphic, order="forward", backend="xla"
            )
            dense = columns(flat.start)
            matrix = lineax.MatrixLinearOperator(dense, tags)
        return solver, matrix, flat.structures

    def _needs_dense(self, operator: lineax.AbstractLinearOperator) -> bool:
        """Whether the structure of the matrix would make no difference."""
        if self.format != "auto" or not isinstance(self.solver, _DIRECT):
            return False
        is_square = operator.in_size() == operator.out_size()
        is_exact = isinstance(self.solver, lineax.AutoLinearSolver) and (
            self.solver.well_posed is not False
        )
        return not (is_square and is_exact)


def _flattened(operator: lineax.AbstractLinearOperator) -> _Map | None:
    """The map between flat vectors; None where they are empty or of several dtypes."""
    structures = tuple(
        (tuple(leaves), tree)
        for leaves, tree in map(
            jax.tree.flatten, (operator.out_structure(), operator.in_structure())
        )
    )
    if len({leaf.dtype for leaves, _ in structures for leaf in leaves}) != 1:
        return None
    if 0 in (operator.in_size(), operator.out_size()):
        return None
    linear = lineax.linearise(operator)

    def function(vector: Any) -> Any:
        image = linear.mv(_unflattened(vector, structures[1]))
        return jnp.concatenate([leaf.reshape(-1) for leaf in jax.tree.leaves(image)])

    start = jnp.zeros(operator.in_size(), structures[1][0][0].dtype)
    return _Map(function, start, structures)  # type: ignore[arg-type]


def _unflattened(vector: Any, structure: Any) -> Any:
    """The tree of arrays that a flat vector consists of."""
    leaves, tree = structure
    parts, first = [], 0
    for leaf in leaves:
        last = first + math.prod(leaf.shape)
        parts.append(vector[first:last].reshape(leaf.shape))
        first = last
    return jax.tree.unflatten(tree, parts)


def _by_structure(eliminated: Eliminated, found: StructuredJacobian, tags: set[object]) -> Any:
    """A solver, or None for the wrapped one, and its operator; None if a dense one is as good."""
    wrapped, form = eliminated.solver, eliminated.format
    operator = JacobianOperator(found, tags)
    if form == "structured":
        return None, operator
    if form == "bcoo" or type(wrapped).__module__.startswith("splineax."):
        import splineax

        is_sparse = not isinstance(wrapped, _DIRECT)
        return None if is_sparse else splineax.KLU(), splineax.BCOOLinearOperator(
            operator.as_bcoo(), tags
        )
    size = operator.in_size()
    if not isinstance(wrapped, _DIRECT):
        return (None, operator) if found.nnz <= _FEW * size else None
    if lineax.diagonal_tag in tags:
        # That solver has an answer where the matrix is singular.
        return None, operator
    of_three = diagonals(found)
    if of_three is not None and set(of_three) <= {0}:
        return lineax.Diagonal(well_posed=True), JacobianOperator(found, lineax.diagonal_tag)
    blocks = blocks_of(found)
    if of_three is not None:
        return lineax.Tridiagonal(), JacobianOperator(found, lineax.tridiagonal_tag)
    if blocks is not None:
        return _ByBlocks(blocks), operator
    if size >= _LEAST_SPARSE and found.nnz <= _SPARSE_SHARE * size**2:
        positions = flat_pattern(found)
        splineax = None if positions is None else _splineax()
        if splineax is not None:
            operator = _with_entries(splineax, found, positions)
            return _ByKLU(splineax.KLU(), splineax.sparsity_pattern_tag(operator)), operator
    if lineax.is_lower_triangular(operator) or lineax.is_upper_triangular(operator):
        return lineax.Triangular(), operator
    return None


def _splineax() -> Any:
    """The package, where its KLU can be used; else None."""
    if not jax.config.read("jax_enable_x64") or jax.default_backend() != "cpu":
        return None
    try:
        # Constants of its modules would else belong to the program that is being traced.
        with jax.ensure_compile_time_eval():
            import klujax  # noqa: F401
            import splineax
    except (AttributeError, ImportError):
        # Not installed, or not for this JAX.
        return None
    return splineax


def _with_entries(splineax: Any, found: StructuredJacobian, positions: Any) -> Any:
    """The sorted entries as an operator whose pattern is known while tracing."""
    from jax.experimental.sparse import BCOO

    indices = np.stack(positions, axis=1).astype(np.int32)
    static = {"shape": found.shape, "indices_sorted": True, "unique_indices": True}
    matrix = BCOO.tree_unflatten(static, (found.coordinates().data, indices))
    return splineax.BCOOLinearOperator(matrix, splineax.sparsity_pattern_tag(matrix))


class _ByKLU(lineax.AbstractLinearSolver):
    """KLU (Davis & Palamadai Natarajan 2010), which analyses the pattern while JAX traces.

    Attributes:
        klu: `splineax.KLU()`.
        pattern: its tag for the pattern.
    """

    klu: lineax.AbstractLinearSolver = equinox.field(static=True)
    pattern: object = equinox.field(static=True)

    def init(self, operator: Any, options: dict[str, Any]) -> Any:
        """The factors, and whether the entries are finite."""
        with jax.ensure_compile_time_eval():
            # What a program keeps of it is a name that is made of the pattern, and the pattern.
            analysed = self.klu.init_symbolic(self.pattern)
        # What is not finite would be an error, and not a solution that is not finite.
        data = operator.matrix.data
        is_finite = jnp.all(jnp.isfinite(data))
        others = np.random.default_rng(0).normal(size=data.size).astype(data.dtype)
        operator = equinox.tree_at(
            lambda operator: operator.matrix.data, operator, jnp.where(is_finite, data, others)
        )
        return self.klu.update(analysed, operator), is_finite

    def compute(
        self, state: Any, vector: Any, options: dict[str, Any]
    ) -> tuple[Any, lineax.RESULTS, dict[str, Any]]:
        """Solves with the factors."""
        factors, is_finite = state
        solution, result, stats = self.klu.compute(factors, vector, options)
        return jnp.where(is_finite, solution, jnp.nan), result, stats

    def transpose(self, state: Any, options: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        """The same factors."""
        factors, options = self.klu.transpose(state[0], options)
        return (factors, state[1]), options

    def conj(self, state: Any, options: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        """The conjugate factors."""
        factors, options = self.klu.conj(state[0], options)
        return (factors, state[1]), options

    def assume_full_rank(self) -> bool:
        """It cannot solve with a singular matrix."""
        return True


class _ByBlocks(lineax.AbstractLinearSolver):
    """Multiplies by the inverses of the blocks along a sorted diagonal.

    Attributes:
        blocks: which unknowns are in which block.
    """

    blocks: Blocks = equinox.field(static=True)

    def init(self, operator: JacobianOperator, options: dict[str, Any]) -> Any:
        """The inverses."""
        return self.blocks.inverses(operator.jacobian)

    def compute(
        self, state: Any, vector: Any, options: dict[str, Any]
    ) -> tuple[Any, lineax.RESULTS, dict[str, Any]]:
        """Multiplies by the inverses."""
        return self.blocks.times(state, vector), lineax.RESULTS.successful, {}

    def transpose(self, state: Any, options: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        """The transposed inverses."""
        return jnp.swapaxes(state, 1, 2), options

    def conj(self, state: Any, options: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        """The conjugate inverses."""
        return jnp.conj(state), options

    def assume_full_rank(self) -> bool:
        """A singular block has no inverse."""
        return True
