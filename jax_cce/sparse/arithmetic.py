"""Arithmetic of sums of terms: products, sums, rows and columns; nothing is made dense.

A product of two Jacobians is composed as the chain rule composes local ones, term by term, and a
sum adds what lies at the same positions. Rows, columns and their sums are products by maps that
have no coefficients.
"""

import abc
import functools
import importlib
import math
from collections.abc import Callable, Sequence
from typing import Any, Self

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jax_cce import jax_internals
from jax_cce.algebra.blocks import Piece, renumbered, slots_of, stored_numbers
from jax_cce.algebra.coefficients import number
from jax_cce.algebra.recorder import Recorder
from jax_cce.algebra.steps import Densify, Multiply, Step, needed, run
from jax_cce.algebra.terms import dense, identity, transpose
from jax_cce.sparse.coordinates import assembly, is_injective
from jax_cce.sparse.linear_solve import solve
from jax_cce.sparse.no_array import NoArray
from jax_cce.sparse.selection import Selection, selections, summation

__all__ = ["Arithmetic"]

# More numbers than so many for each entry are added up, position by position.
_MOST_STORED = 2
_NUMBERS = (int, float, complex, np.generic, np.ndarray, jax.Array)


class Arithmetic(NoArray, abc.ABC):
    """What is computed from Jacobians, and is one again."""

    out_shape: tuple[int, ...]
    in_shape: tuple[int, ...]
    dtype: np.dtype
    weak_type: bool
    _pieces: tuple[Piece, ...]
    _arrays: tuple[Any, ...]

    @classmethod
    @abc.abstractmethod
    def from_slots(
        cls,
        out_shape: Sequence[int],
        in_shape: Sequence[int],
        dtype: Any,
        pieces: Sequence[Piece],
        slots: Any,
        weak_type: bool = False,
    ) -> Self:
        """Keeps the arrays that some pieces of a recorder read."""

    @abc.abstractmethod
    def astype(self, dtype: Any, weak_type: bool = False) -> Self:
        """The same Jacobian in another dtype."""

    @abc.abstractmethod
    def coordinates(self) -> Any:
        """The sorted entries."""

    @abc.abstractmethod
    def diagonal(self) -> Any:
        """The diagonal of the flattened matrix."""

    @abc.abstractmethod
    def symmetric_part(self) -> Self:
        """(J + J.T) / 2."""

    @property
    @abc.abstractmethod
    def T(self) -> Self:
        """The transposed Jacobian."""

    @property
    @abc.abstractmethod
    def _readable(self) -> tuple[Any, ...]:
        """The arrays; raises ValueError for those of several, which `jax.vmap` returned."""

    @classmethod
    def eye(cls, shape: Sequence[int], dtype: Any = None) -> Self:
        """The identity on arrays of a shape, which stores nothing.

        Args:
            shape: the shape of output and input.
            dtype: dtype of the entries; by default that of Python's floats, which takes on the
                dtype of what it is added to.

        Examples:
            >>> import jax_cce
            >>> jax_cce.StructuredJacobian.eye((2, 3)).shape
            (2, 3, 2, 3)
        """
        shape, term = tuple(shape), identity(tuple(shape))
        pieces = () if term is None else (Piece(term, 1, None),)
        standard = jnp.result_type(float) if dtype is None else jax.dtypes.canonicalize_dtype(dtype)
        return cls.from_slots(shape, shape, standard, pieces, {}, dtype is None)

    @classmethod
    def fromdiagonal(cls, array: Any) -> Self:
        """The diagonal Jacobian of multiplying by an array, entry by entry.

        Args:
            array: the diagonal, of the shape of output and input.
        """
        array = jnp.asarray(array)
        if not jnp.issubdtype(array.dtype, np.inexact):
            array = array.astype(jnp.result_type(float))
        term = identity(array.shape)
        if term is None:
            return cls.from_slots(array.shape, array.shape, array.dtype, (), {}, array.weak_type)
        term = term._replace(axes=tuple(range(len(term.sizes))), layout=False)
        slots = {0: lax.reshape(array, term.coefficient_shape)}
        pieces = (Piece(term, 1, 0),)
        return cls.from_slots(array.shape, array.shape, array.dtype, pieces, slots, array.weak_type)

    def __pos__(self) -> Self:
        """J itself."""
        return self

    def __neg__(self) -> Self:
        """The Jacobian of the opposite sign; its arrays are shared."""
        self._check_not_stacked()
        pieces = [piece._replace(scale=-piece.scale) for piece in self._pieces]
        return self._with(self.out_shape, self.in_shape, pieces)

    def __add__(self, other: Any) -> Any:
        """The sum of two Jacobians of the same shapes."""
        if not isinstance(other, Arithmetic):
            return super().__add__(other)  # type: ignore[misc]
        if (self.out_shape, self.in_shape) != (other.out_shape, other.in_shape):
            raise ValueError(
                f"The sum of two Jacobians requires equal shapes, but got {self.out_shape} + "
                f"{self.in_shape} and {other.out_shape} + {other.in_shape}."
            )
        shapes = self.out_shape, self.in_shape

        def added(recorder: Recorder, one: Any, two: Any) -> Any:
            return recorder.add(one, two, *shapes)

        return self._built(added, (other,), *shapes, jnp.add)

    def __sub__(self, other: Any) -> Any:
        """The difference of two Jacobians of the same shapes."""
        return self + -other if isinstance(other, Arithmetic) else super().__sub__(other)  # type: ignore[misc]

    def __mul__(self, other: Any) -> Any:
        """J times a number, a traced one, too; what is zero for structural reasons stays zero."""
        return self._by_number(jnp.multiply, other) if _is_number(other) else _no_factor(other)

    __rmul__ = __mul__

    def __truediv__(self, other: Any) -> Any:
        """J divided by a number."""
        return self._by_number(jnp.true_divide, other) if _is_number(other) else _no_factor(other)

    def conj(self) -> Self:
        """The complex conjugate."""
        self._check_not_stacked()
        if not jnp.issubdtype(self.dtype, np.complexfloating):
            return self
        pieces = [
            p._replace(scale=p.scale.conjugate()) if isinstance(p.scale, complex) else p
            for p in self._pieces
        ]
        arrays = [jnp.conj(a) if jnp.iscomplexobj(a) else a for a in self._arrays]
        return self._with(self.out_shape, self.in_shape, pieces, arrays)

    def _composed(self, other: "Arithmetic") -> Self:
        """J @ K, as the chain rule has it."""
        if self.in_shape != other.out_shape:
            raise ValueError(
                f"J @ K requires the output of K to have the shape of the input of J, but got "
                f"Jacobians of shapes {self.out_shape} + {self.in_shape} and {other.out_shape} + "
                f"{other.in_shape}."
            )
        shapes = self.out_shape, self.in_shape, other.in_shape

        def composed(recorder: Recorder, later: Any, earlier: Any) -> Any:
            return recorder.compose(later, earlier, shapes)

        return self._built(composed, (other,), shapes[0], shapes[2], jnp.multiply)

    def gram(self, weights: Any = None) -> Self:
        """J.T @ J, or J.T @ W @ J with a diagonal W.

        A term and its mirror image share their coefficient. For a complex Jacobian, too, T only
        transposes.

        Args:
            weights: the diagonal of W, of shape out_shape.

        Raises:
            ValueError: for weights of another shape.
        """
        right = self
        if weights is not None:
            if jnp.shape(weights) != self.out_shape:
                raise ValueError(
                    f"weights must have the shape of the output, {self.out_shape}, but got "
                    f"{jnp.shape(weights)}."
                )
            right = self.fromdiagonal(weights) @ self  # type: ignore[operator]
        product = self.T._composed(right)
        shared = product.symmetric_part()
        both = [sum(array.size for array in each._arrays) for each in (product, shared)]
        return shared if both[1] <= both[0] else product

    def __getitem__(self, index: Any) -> Self:
        """Rows and columns, as NumPy's indexing of the dense array selects them.

        Args:
            index: integers, slices, an ellipsis, and static arrays of integers or Booleans, over
                the axes of out_shape + in_shape.

        Raises:
            IndexError: where NumPy has it.
            TypeError: for a traced index, and for what is no index.
            NotImplementedError: where the result has no rows and columns, as of `J[rows, columns]`
                with two arrays, which NumPy pairs.
        """
        rows, columns = selections(index, self.out_shape, self.in_shape)
        return self._between(rows, columns)

    def sum(self, axis: Any = None) -> Any:
        """The sum over some axes of the dense array.

        Args:
            axis: an axis of out_shape + in_shape, several, or None for all of them.

        Returns:
            The Jacobian with the axes that are left; the number where none is.
        """
        rank = len(self.out_shape) + len(self.in_shape)
        given = range(rank) if axis is None else axis if isinstance(axis, Sequence) else (axis,)
        axes = {np.lib.array_utils.normalize_axis_index(each, rank) for each in given}
        if len(axes) != len(given):
            raise ValueError(f"axis names an axis of {rank} twice: {axis}.")
        split = len(self.out_shape)
        rows = summation(self.out_shape, [k for k in axes if k < split])
        columns = summation(self.in_shape, [k - split for k in axes if k >= split])
        result = self._between(rows, columns)
        if rows.shape or columns.shape:
            return result
        total = result.coordinates().data.sum()
        return jax_internals.convert(total, result.dtype, result.weak_type)

    def norm(self, ord: Any = None) -> Any:
        """A norm of the flattened matrix, as `numpy.linalg.norm` has it.

        Args:
            ord: None or "fro" for the root of the sum of squares, 1 for the largest sum of a
                column's absolute values, inf for the largest of a row's.

        Raises:
            ValueError: for another norm.
        """
        if ord not in (None, "fro", 1, math.inf):
            raise ValueError(
                f"norm knows ord=None, 'fro', 1 and inf, but got {ord!r}. Others take all "
                "entries: jnp.linalg.norm(J.todense().reshape(rows, columns), ord)."
            )
        matrix = self.coordinates().to_bcoo()
        if ord in (None, "fro"):
            return jnp.linalg.norm(matrix.data)
        shape, split = (self.out_shape, self.in_shape)[ord == 1], len(self.out_shape)
        own = slice(None, split) if ord == math.inf else slice(split, None)
        sums = jnp.zeros(math.prod(shape), jnp.abs(matrix.data).dtype)
        at = _flat(jnp.asarray(matrix.indices)[:, own], shape)
        return sums.at[at].add(jnp.abs(matrix.data), mode="drop").max(initial=0)

    def solve(self, vector: Any) -> Any:
        """The solution of J @ y = vector in linear time, by the structure of J.

        Diagonal and banded matrices, and those whose unknowns fall into small sets that no entry
        connects (blocks, permuted ones, too), are solved as what they are. One that stores more
        than half of its entries, or has at most 128 columns, has a dense LU factorisation. It is
        differentiable in both modes, and computes in float32 at least.

        Args:
            vector: shape out_shape, or out_shape + (k,) for several at once.

        Returns:
            y of shape in_shape, or in_shape + (k,); infinities or NaN where J is singular.

        Raises:
            ValueError: for as many outputs as inputs there are not, or another shape of the vector.
            NotImplementedError: for other structures.
        """
        self._check_not_stacked()
        size = math.prod(self.out_shape)
        if math.prod(self.in_shape) != size:
            raise ValueError(
                "solve requires as many outputs as inputs, but got the Jacobian of an output of "
                f"shape {self.out_shape} with respect to an input of shape {self.in_shape}."
            )
        vector = jnp.asarray(vector)
        rank = len(self.out_shape)
        tail = vector.shape[rank:]
        if vector.shape[:rank] != self.out_shape or len(tail) > 1:
            raise ValueError(
                f"solve requires a right-hand side of shape {self.out_shape} or {self.out_shape} + "
                f"(k,), but got shape {vector.shape}."
            )
        found = _solved(self, lax.reshape(vector, (size, *tail)))
        return lax.reshape(found, (*self.in_shape, *tail))

    def to_lineax(self) -> Any:
        """A `jax_cce.lineax.JacobianOperator`.

        Raises:
            ModuleNotFoundError: where lineax is not installed.
        """
        # An optional module, which stands on this one.
        return importlib.import_module("jax_cce.lineax").JacobianOperator(self)

    def to_bcsr(self) -> Any:
        """The flattened matrix as `jax.experimental.sparse.BCSR`, of two axes."""
        from jax.experimental.sparse import BCOO, BCSR  # takes a while to import

        coordinates = self.coordinates()
        if coordinates.has_pattern:
            return coordinates.to_bcsr()
        matrix = coordinates.to_bcoo()
        shapes, split = (self.out_shape, self.in_shape), len(self.out_shape)
        indices = jnp.asarray(matrix.indices)
        ends = indices[:, :split], indices[:, split:]
        flat = [_flat(at, shape) for at, shape in zip(ends, shapes, strict=True)]
        flags = {"indices_sorted": True, "unique_indices": True}
        two = tuple(map(math.prod, shapes))
        return BCSR.from_bcoo(BCOO((matrix.data, jnp.stack(flat, 1)), shape=two, **flags))

    def _check_not_stacked(self) -> None:
        """Raises ValueError for several Jacobians."""
        _ = self._readable

    def _with(self, out_shape: Any, in_shape: Any, pieces: Any, arrays: Any = None) -> Self:
        slots = dict(enumerate(self._arrays if arrays is None else arrays))
        return self.from_slots(out_shape, in_shape, self.dtype, pieces, slots, self.weak_type)

    def _by_number(self, operation: Callable[..., Any], other: Any) -> Self:
        """Each distinct coefficient times, or by, a number. One that is known gets an array."""
        self._check_not_stacked()
        dtype, weak_type = _type_of(operation, self, other)
        like = jax_internals.convert(jnp.asarray(other), dtype)
        arrays = [*self._arrays, operation(number(1, dtype), like)]
        slots = {piece.slot for piece in self._pieces if piece.slot is not None}
        for slot in slots:
            array = jax_internals.convert(self._arrays[slot], dtype)
            if self._arrays[slot].dtype == np.bool_:
                # A mask selects, also between zero and what is not finite.
                array = lax.select(
                    self._arrays[slot], jnp.broadcast_to(arrays[-1], array.shape), array
                )
                arrays[slot] = array
            else:
                arrays[slot] = operation(array, like)
        last = len(self._arrays)
        pieces = [
            p
            if p.slot is not None
            else Piece(p.term._replace(axes=(), layout=False), p.scale, last)
            for p in self._pieces
        ]
        shapes, kept = (self.out_shape, self.in_shape), dict(enumerate(arrays))
        return self.from_slots(*shapes, dtype, pieces, kept, weak_type)

    def _between(self, rows: Selection, columns: Selection) -> Self:
        """The rows and columns that two maps without coefficients make."""
        shapes = rows.shape, columns.shape
        if rows.term is None or columns.term is None:
            return self._with(*shapes, ())
        left = Piece(rows.term, 1, None)
        right = Piece(transpose(columns.term)[0], 1, None)

        def picked(recorder: Recorder, block: Any) -> Any:
            if rows.term != identity(self.out_shape):
                ends = rows.shape, self.out_shape, self.in_shape
                block = recorder.compose((left,), block, ends)
            if columns.term != identity(self.in_shape):
                block = recorder.compose(
                    block, (right,), (rows.shape, self.in_shape, columns.shape)
                )
            return block

        return self._built(picked, (), *shapes, None)

    def _built(
        self,
        build: Callable[..., Any],
        others: Sequence["Arithmetic"],
        out_shape: tuple[int, ...],
        in_shape: tuple[int, ...],
        operation: Callable[..., Any] | None,
    ) -> Self:
        """The block that `build` records of this one and others."""
        dtype, weak_type = self.dtype, self.weak_type
        if operation is not None:
            dtype, weak_type = _type_of(operation, self, *others)
        blocks, slots = [], dict[int, Any]()
        operands: list[Arithmetic] = [self, *others]
        for each in operands:
            each._check_not_stacked()
            if each.dtype != dtype:
                each = each.astype(dtype)
            names = {k: len(slots) + k for k in range(len(each._arrays))}
            blocks.append(tuple(renumbered(piece, names) for piece in each._pieces))
            slots.update(zip(names.values(), each._arrays, strict=True))
        recorder = Recorder(sparse=True, reserved=len(slots))
        pieces = build(recorder, *blocks)
        steps = _needed(recorder, pieces)
        if any(map(_is_without_structure, steps)):
            raise NotImplementedError(
                "The result has no structure that is known beforehand: positions of both factors "
                "depend on data, or their entries meet in too many places. Multiply with an array "
                "instead: J @ K.todense().reshape(*K.out_shape, -1)."
            )
        pieces = _without_overlaps(recorder, pieces, out_shape, in_shape)
        steps = _needed(recorder, pieces)
        slots = run(steps, dtype, slots=slots)
        return self.from_slots(out_shape, in_shape, dtype, pieces, slots, weak_type)


def _needed(recorder: Recorder, pieces: Sequence[Piece]) -> list[Step]:
    return needed(recorder.steps, [slot for piece in pieces for slot in slots_of(piece)])[0]


def _without_overlaps(
    recorder: Recorder,
    pieces: Sequence[Piece],
    out_shape: tuple[int, ...],
    in_shape: tuple[int, ...],
) -> Sequence[Piece]:
    """The same sum, with at most twice as many numbers stored as there are entries."""
    numbers = sum(map(stored_numbers, pieces))
    full = dense(out_shape, in_shape)
    if len(pieces) > 1 and any(piece.term == full for piece in pieces):
        return recorder.densify(pieces, out_shape, in_shape)
    terms = tuple(piece.term for piece in pieces)
    if not numbers or (len(pieces) == 1 and is_injective(terms[0])):
        return pieces
    entries = assembly(terms, out_shape, in_shape)
    if not entries.is_static or numbers <= _MOST_STORED * entries.nse:
        return pieces
    stacked = recorder._stack(pieces, (*out_shape, *in_shape), keep=False)
    return pieces if stacked is None else (stacked,)


@jax.jit
def _solved(jacobian: Any, columns: Any) -> Any:
    one = functools.partial(solve, jacobian, by_structure=True)
    return jax.vmap(one, 1, 1)(columns) if columns.ndim > 1 else one(columns)


def _is_number(value: Any) -> bool:
    return isinstance(value, _NUMBERS) and not jnp.ndim(value)


def _no_factor(value: Any) -> Any:
    raise TypeError(
        f"A Jacobian is multiplied and divided by numbers, but got {type(value).__name__} of shape "
        f"{jnp.shape(value)}. StructuredJacobian.fromdiagonal(array) @ J scales rows and "
        "J @ StructuredJacobian.fromdiagonal(array) columns; J.todense() is an array."
    )


def _type_of(operation: Callable[..., Any], *operands: Any) -> tuple[np.dtype, bool]:
    """The dtype of a result, and whether it is weak, by JAX's promotion."""
    result = jax.eval_shape(
        operation,
        *(
            jax.ShapeDtypeStruct((), each.dtype, weak_type=each.weak_type)
            if isinstance(each, Arithmetic)
            else each
            for each in operands
        ),
    )
    return result.dtype, result.weak_type


def _is_without_structure(step: Step) -> bool:
    """Whether a step stores entries that only values tell to be zero, or all of them."""
    if isinstance(step, Multiply):
        matched = any(guard.low == guard.high for guard in step.product.guards)
        points = math.prod(step.product.sizes)
        own = [math.prod(piece.term.sizes) for piece in (step.later, step.earlier)]
        return matched and jax_internals.exceeds(points, sum(own))
    return isinstance(step, Densify)


def _flat(indices: Any, shape: Sequence[int]) -> Any:
    """Positions in a flattened array; those outside stay outside."""
    size, result = math.prod(shape), jnp.zeros(len(indices), np.int32)
    for axis, extent in enumerate(shape):
        result = result * extent + indices[:, axis]
    return jnp.minimum(result, size)
