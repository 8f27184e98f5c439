"""The Jacobian as a sum of terms: a pytree that multiplies, transposes and converts itself."""

import functools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jax_cce import jax_internals
from jax_cce.algebra import placement
from jax_cce.algebra.blocks import Piece, renumbered, slots_of
from jax_cce.algebra.coefficients import align, digits, number, scaled
from jax_cce.algebra.dtypes import promoted
from jax_cce.algebra.placement import Placed, placed
from jax_cce.algebra.recorder import Recorder
from jax_cce.algebra.steps import run
from jax_cce.algebra.terms import (
    Term,
    Unrepresentable,
    along,
    canonical,
    dense,
    placing,
    transpose,
)
from jax_cce.sparse import pictures
from jax_cce.sparse.arithmetic import Arithmetic
from jax_cce.sparse.bands_and_blocks import Bands, bands_of, blocks_of, diagonal_term
from jax_cce.sparse.coordinates import Assembly, Coordinates, assembly, csr_array
from jax_cce.sparse.pattern import Layout, Pattern
from jax_cce.sparse.spy import in_html
from jax_cce.sparse.symmetry import clear_of
from jax_cce.sparse.triangles import in_lower_triangle, of_points

if TYPE_CHECKING:
    from jax.experimental.sparse import BCOO

__all__ = [
    "Bands",
    "StructuredJacobian",
]


def _in_automatic_axes(sharding: Callable[..., Any] | None = None) -> Any:
    """Has methods carried out in automatic axes, where arrays are explicitly shared out.

    Args:
        sharding: how the axes of the result are shared out, from the Jacobian, how those of its
            shape are, and the arguments; None where it is replicated.
    """

    def decorated(method: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(method)
        def run(self: "StructuredJacobian", *args: Any, **kwargs: Any) -> Any:
            arrays = [x for x in jax.tree.leaves((self, args)) if hasattr(x, "dtype")]
            mesh = jax_internals.explicit_mesh(map(jax.typeof, arrays))
            if mesh is None:
                return method(self, *args, **kwargs)
            names = sharding(self, self._names(mesh), *args) if sharding else ()
            with jax_internals.in_automatic_axes(mesh):
                own, args = jax.tree.map(_untyped, (self, args))
                result = method(own, *args, **kwargs)
            if isinstance(result, StructuredJacobian | Coordinates):
                return result.partitioned(names, mesh)
            return jax.tree.map(lambda x: jax_internals.partitioned(x, names, mesh), result)

        return run

    return decorated


def _untyped(x: Any) -> Any:
    return jax_internals.untyped(x) if hasattr(x, "dtype") else x


def _same(jacobian: "StructuredJacobian", names: Sequence[Any], *_: Any) -> Sequence[Any]:
    return names


def _rows(jacobian: "StructuredJacobian", names: Sequence[Any], vector: Any) -> list[Any]:
    rest = [None] * (np.ndim(vector) - len(jacobian.in_shape))
    return [*_once(names[: len(jacobian.out_shape)]), *rest]


def _columns(jacobian: "StructuredJacobian", names: Sequence[Any], *_: Any) -> list[Any]:
    return _once(names[len(jacobian.out_shape) :])


def _turned(names: Sequence[Any], rank: int) -> list[Any]:
    return [*names[rank:], *names[:rank]]


def _once(names: Sequence[Any]) -> list[Any]:
    return [None if name in names[:k] else name for k, name in enumerate(names)]


@jax.tree_util.register_pytree_with_keys_class
class StructuredJacobian(Arithmetic):
    """The Jacobian of one output with respect to one input, as a sum of structured terms.

    Only the distinct coefficients are stored: a tridiagonal Jacobian is three arrays (fewer, where
    a diagonal is constant). It is a pytree, so it passes through `jax.jit`, `jax.vmap` and
    `jax.grad`. What `jax.vmap` returns holds several, stacked: its shapes are those of each, and
    whatever reads entries is called under `jax.vmap` as well, and raises ValueError outside.

    Attributes:
        out_shape: shape of the output.
        in_shape: shape of the input.
        dtype: dtype of the entries, that of the input.
        weak_type: whether JAX's promotion may change it, as for Python numbers.
    """

    def __init__(
        self,
        out_shape: Sequence[int],
        in_shape: Sequence[int],
        dtype: Any,
        pieces: Sequence[Piece],
        arrays: Sequence[Any],
        weak_type: bool = False,
    ) -> None:
        """Wraps pieces whose slots are positions in `arrays`; used by `jax_cce.jacobian`."""
        self.out_shape, self.in_shape = tuple(out_shape), tuple(in_shape)
        self.dtype, self.weak_type = np.dtype(dtype), bool(weak_type)
        self._pieces, self._arrays = tuple(pieces), tuple(arrays)

    @classmethod
    def from_slots(
        cls,
        out_shape: Sequence[int],
        in_shape: Sequence[int],
        dtype: Any,
        pieces: Sequence[Piece],
        slots: Mapping[int, Any],
        weak_type: bool = False,
    ) -> "StructuredJacobian":
        """Keeps the arrays that some pieces of a recorder read."""
        used = sorted({slot for piece in pieces for slot in slots_of(piece)})
        number = {slot: index for index, slot in enumerate(used)}
        renamed = [renumbered(piece, number) for piece in pieces]
        arrays = [slots[slot] for slot in used]
        return cls(out_shape, in_shape, dtype, renamed, arrays, weak_type)

    @classmethod
    def fromdense(cls, array: Any, out_shape: Sequence[int]) -> "StructuredJacobian":
        """A dense array of shape out_shape + in_shape, all of its entries stored."""
        shape = array.shape
        split = len(out_shape)
        term = dense(shape[:split], shape[split:])
        pieces = () if term is None else (Piece(term, 1, 0),)
        arrays = () if term is None else (lax.reshape(array, term.coefficient_shape),)
        return cls(shape[:split], shape[split:], array.dtype, pieces, arrays)

    def tree_flatten_with_keys(self) -> tuple[Any, Any]:
        """The coefficient arrays; everything else is static."""
        keys = map(jax.tree_util.SequenceKey, range(len(self._arrays)))
        static = self.out_shape, self.in_shape, self.dtype, self._pieces, self.weak_type
        return tuple(zip(keys, self._arrays, strict=True)), static

    @classmethod
    def tree_unflatten(cls, static: Any, arrays: Any) -> "StructuredJacobian":
        """The inverse of `tree_flatten_with_keys`."""
        out_shape, in_shape, dtype, pieces, weak_type = static
        return cls(out_shape, in_shape, dtype, pieces, arrays, weak_type)

    def _names(self, mesh: Any) -> list[Any]:
        """For each axis of the shape the names of axes of the mesh that coefficients have there."""
        names: list[Any] = [None] * self.ndim
        for term, _, slot in self._pieces:
            if slot is None:
                continue
            own = jax_internals.partitions(jax.typeof(self._arrays[slot]), mesh)
            shared = dict(zip(term.axes or (), own, strict=False))
            for axis, affine in enumerate(term.out_map + term.in_map):
                loops = digits(affine.strides, term.sizes)
                if loops and math.prod(term.sizes[k] for k in loops) == self.shape[axis]:
                    names[axis] = names[axis] or shared.get(loops[0])
        return names

    def partitioned(self, names: Sequence[Any], mesh: Any) -> "StructuredJacobian":
        """The same with explicit shardings: loops are shared out as the axes that they run along.

        Args:
            names: for each axis of the shape the names of axes of the mesh, or None.
            mesh: the mesh.
        """
        arrays = list(self._arrays)
        names = names or [None] * self.ndim
        for piece in self._pieces:
            if piece.slot is not None:
                own = shared_loops(piece.term, self.shape, names, mesh)
                arrays[piece.slot] = jax_internals.partitioned(arrays[piece.slot], own, mesh)
            for _, _, table in piece.term.lookups:
                if isinstance(table, int):
                    arrays[table] = jax_internals.partitioned(arrays[table], (), mesh)
        shapes = self.out_shape, self.in_shape
        return StructuredJacobian(*shapes, self.dtype, self._pieces, arrays, self.weak_type)

    def __repr__(self) -> str:
        """Shapes, dtype, structure and number of entries."""
        return f"StructuredJacobian({self._words})"

    def _repr_html_(self) -> str:
        picture = pictures.picture(self._terms, self.out_shape, self.in_shape)
        return in_html("StructuredJacobian", self._words, picture)

    @property
    def _words(self) -> str:
        words = pictures.words(self._terms, self.out_shape, self.in_shape, str(self.dtype))
        return f"{words}, stacked" if self.is_stacked else words

    @property
    def shape(self) -> tuple[int, ...]:
        """out_shape + in_shape."""
        return self.out_shape + self.in_shape

    @property
    def ndim(self) -> int:
        """The number of axes."""
        return len(self.shape)

    @property
    def nnz(self) -> int:
        """The number of stored positions: what `to_bcoo` has as `nse`."""
        return self._assembly.nse

    @property
    def matrix_pattern(self) -> Pattern:
        """The static pattern of the flattened matrix.

        Raises:
            ValueError: where positions depend on data.
        """
        return self._assembly.matrix

    def check_pattern(self) -> None:
        """Raises ValueError where positions depend on data."""
        self._assembly.check_pattern()

    @property
    def pattern(self) -> np.ndarray:
        """The positions that may hold a nonzero, shape (nnz, ndim), in row-major order.

        Raises:
            ValueError: where positions depend on data.
        """
        return self._assembly.pattern

    @property
    def is_stacked(self) -> bool:
        """Whether it is what `jax.vmap` returned: its arrays have axes that its shape has not."""
        return any(np.ndim(array) > len(shape) for array, shape in self._shapes())

    def _shapes(self) -> Iterator[tuple[Any, tuple[int, ...]]]:
        """Each array that a piece reads, and what shape it has in one Jacobian."""
        for piece in self._pieces:
            if piece.slot is not None:
                yield self._arrays[piece.slot], piece.term.coefficient_shape
            for axes, _, table in piece.term.lookups:
                if isinstance(table, int):
                    yield self._arrays[table], tuple(piece.term.sizes[k] for k in axes)

    @property
    def _readable(self) -> tuple[Any, ...]:
        """The arrays, if they are those of one Jacobian.

        Raises:
            ValueError: where they are those of several.
        """
        for array, shape in self._shapes():
            if np.ndim(array) != len(shape):
                own, size = f"{self.out_shape} + {self.in_shape}", math.prod(shape)
                many = np.size(array) // size if size else "several"
                raise ValueError(
                    f"These are {many} Jacobians of shape {own}, stacked by jax.vmap or "
                    f"jax.lax.scan: a coefficient of shape {shape} has shape {np.shape(array)}. "
                    "Read them under jax.vmap, as in jax.vmap(lambda J: J.todense())(Js), once "
                    "for each axis they were stacked along; jax.tree.map(lambda leaf: leaf[0], Js) "
                    "is the first of them."
                )
        return self._arrays

    @_in_automatic_axes(_columns)
    def todense(self) -> Any:
        """The dense array of shape `shape`."""
        if not self._pieces:
            return self._typed(jax_internals.full(self.shape, 0, self.dtype))
        return self._typed(placement.dense_sum(self._placed(), self.shape))

    def to_bcoo(self) -> "BCOO":
        """The entries as `jax.experimental.sparse.BCOO`, sorted and unique."""
        return self.coordinates().to_bcoo()

    @_in_automatic_axes()
    def coordinates(self) -> "Coordinates":
        """The sorted entries, with the pattern left implicit where it is static."""
        items = self._placed()
        if not items:
            data = self._typed(jax_internals.full((0,), 0, self.dtype))
            return Coordinates(self._assembly, data, None)
        data, indices = self._assembly.entries(items)
        return Coordinates(self._assembly, self._typed(data), indices)

    def _typed(self, array: Any) -> Any:
        return _cast(array, self.dtype, self.weak_type)

    def astype(self, dtype: Any, weak_type: bool = False) -> "StructuredJacobian":
        """The same Jacobian in another dtype; imaginary parts are dropped for a real one."""
        # Masks and index arrays stay what they are.
        arrays = [
            _cast(a, dtype) if jnp.issubdtype(a.dtype, np.inexact) else a for a in self._arrays
        ]
        shapes = self.out_shape, self.in_shape
        return StructuredJacobian(*shapes, dtype, self._pieces, arrays, weak_type)

    @classmethod
    def of_parts(
        cls, real: "StructuredJacobian", imag: "StructuredJacobian"
    ) -> "StructuredJacobian":
        """The complex Jacobian with a real and an imaginary part."""
        number = {k: len(real._arrays) + k for k in range(len(imag._arrays))}
        moved = [renumbered(piece, number) for piece in imag._pieces]
        pieces = *real._pieces, *(p._replace(scale=1j * p.scale) for p in moved)
        dtype = promoted(real.dtype, imag.dtype, np.complex64)
        arrays = *real._arrays, *imag._arrays
        return cls(real.out_shape, real.in_shape, dtype, pieces, arrays)

    def to_scipy(self, format: Layout = "csr") -> Any:
        """A matrix of SciPy of shape (size of the output, size of the input).

        A static pattern is made once for all Jacobians that have it, and shared.

        Args:
            format: "csr", "csc" or "coo", for a `scipy.sparse.csr_array` and so on.

        Raises:
            ImportError: where SciPy is not installed.
            ValueError: for other formats.
        """
        coordinates = _coordinates(self)
        if coordinates.has_pattern:
            return coordinates.matrix.to_scipy(coordinates.data, format)
        matrix = csr_array(coordinates.to_bcoo(), self.out_shape, self.in_shape)
        return matrix.asformat(format)

    @_in_automatic_axes(_rows)
    def __matmul__(self, vector: Any) -> Any:
        """J @ v for v of shape in_shape, or in_shape + (k,), or a Jacobian: as matrices would."""
        if isinstance(vector, Arithmetic):
            return self._composed(vector)
        vector, tail = self._operand(vector, self.in_shape, after=True)
        return self._product(vector, tail, left=False)

    @_in_automatic_axes(_columns)
    def __rmatmul__(self, vector: Any) -> Any:
        """U @ J for u of shape out_shape, or (k,) + out_shape."""
        vector, tail = self._operand(vector, self.out_shape, after=False)
        return self._product(vector, tail, left=True)

    @property
    @_in_automatic_axes(lambda own, names: _turned(names, len(own.out_shape)))
    def T(self) -> "StructuredJacobian":
        """The transposed Jacobian, of shape in_shape + out_shape."""
        arrays = list(self._readable)
        pieces = self._transposed(arrays)
        shapes, slots = (self.in_shape, self.out_shape), dict(enumerate(arrays))
        return self.from_slots(*shapes, self.dtype, pieces, slots, self.weak_type)

    def _transposed(self, arrays: list[Any]) -> list[Piece]:
        """The transposed pieces; coefficients with their axes in another order are appended."""
        pieces = []
        for piece in self._pieces:
            term, order = transpose(piece.term)
            slot = piece.slot
            if slot is not None and list(order) != sorted(order):
                arrays.append(lax.transpose(arrays[slot], order))
                slot = len(arrays) - 1
            pieces.append(Piece(term, piece.scale, slot))
        return pieces

    __add__ = _in_automatic_axes(_same)(Arithmetic.__add__)
    __mul__ = __rmul__ = _in_automatic_axes(_same)(Arithmetic.__mul__)
    __truediv__ = _in_automatic_axes(_same)(Arithmetic.__truediv__)
    __getitem__ = _in_automatic_axes()(Arithmetic.__getitem__)
    gram = _in_automatic_axes()(Arithmetic.gram)
    norm = _in_automatic_axes()(Arithmetic.norm)
    solve = _in_automatic_axes()(Arithmetic.solve)
    sum = _in_automatic_axes()(Arithmetic.sum)

    @_in_automatic_axes(_same)
    def symmetric_part(self) -> "StructuredJacobian":
        """(J + J.T) / 2, where a term and its transposed one share their coefficient.

        For a Jacobian that is symmetric up to rounding, such as that of a gradient: it is then
        symmetric exactly, and half of its coefficients need not be computed.
        """
        arrays = list(self._readable)
        pool = list(zip(self._pieces, self._transposed(arrays), strict=True))
        pieces: list[Piece] = []
        pairs: list[tuple[Piece, ...]] = []
        rest: list[tuple[Piece, ...]] = []
        while pool:
            piece, mirrored = pool.pop(0)
            if piece == mirrored:
                pieces.append(piece)
                continue
            same = [k for k, (other, _) in enumerate(pool) if other.term == mirrored.term]
            if same:
                pairs.append((piece, mirrored, *pool.pop(same[0])))
            else:
                rest.append((piece, mirrored))
        # Of entries with other terms only the sums are symmetric.
        apart = clear_of(pairs, rest, self.out_shape, self.in_shape)
        for pair in pairs:
            if pair in apart:
                pieces += pair[:2]
            else:
                rest += [pair[:2], pair[2:]]
        for piece, mirrored in rest:
            if piece.term == mirrored.term and arrays[piece.slot or 0].dtype != bool:
                one, other = (arrays[p.slot] for p in (piece, mirrored) if p.slot is not None)
                arrays.append((one + other) / 2)
                pieces.append(piece._replace(slot=len(arrays) - 1))
            else:
                pieces += [p._replace(scale=p.scale / 2) for p in (piece, mirrored)]
        shapes, slots = (self.out_shape, self.in_shape), dict(enumerate(arrays))
        return self.from_slots(*shapes, self.dtype, pieces, slots, self.weak_type)

    def lower_triangle(self) -> "StructuredJacobian":
        """The entries on and below the diagonal of the flattened matrix; no others are stored.

        Raises:
            ValueError: where it depends on data which these are.
        """
        arrays = list(self._arrays)
        pieces: list[Piece] = []
        for piece in self._pieces:
            term, slot = piece.term, piece.slot
            at = in_lower_triangle(term, self.out_shape, self.in_shape)
            if at is True:
                pieces.append(piece)
            elif at is not False:
                listed = of_points(term, at, self.out_shape, self.in_shape)
                if slot is not None:
                    loops = tuple(range(len(term.sizes)))
                    every = align(arrays[slot], term.axes or (), loops, term.sizes)
                    # A single point has no loop.
                    arrays.append(jnp.ravel(every)[at].reshape(listed.coefficient_shape))
                    slot = len(arrays) - 1
                pieces.append(Piece(listed, piece.scale, slot))
        shapes, slots = (self.out_shape, self.in_shape), dict(enumerate(arrays))
        return self.from_slots(*shapes, self.dtype, pieces, slots, self.weak_type)

    def coefficients(self, *, differentiable: bool) -> list[Any]:
        """The coefficient arrays that have a tangent space, or the masks and index arrays."""
        return [
            array
            for array in self._arrays
            if jnp.issubdtype(array.dtype, np.inexact) == differentiable
        ]

    @_in_automatic_axes()
    def placed_over(
        self, jacobians: Sequence["StructuredJacobian"], fixed: Sequence[Any]
    ) -> "StructuredJacobian":
        """The Jacobian of this Jacobian's entries, from those of its coefficients.

        Args:
            jacobians: that of each differentiable coefficient, all with respect to one input.
            fixed: the values of the masks and index arrays.
        """
        moving = iter(jacobians)
        still = iter(fixed)
        in_shape = jacobians[0].in_shape
        slots: dict[int, Any] = {}
        parts: dict[int, StructuredJacobian] = {}
        for slot, array in enumerate(self._arrays):
            if jnp.issubdtype(array.dtype, np.inexact):
                parts[slot] = next(moving)
            else:
                slots[slot] = next(still)
        first = len(self._arrays)
        recorder = Recorder(
            sparse=True, reserved=first + sum(len(p._arrays) for p in parts.values())
        )
        total: Any = ()
        for slot, part in parts.items():
            number = {k: first + k for k in range(len(part._arrays))}
            slots.update((first + k, array) for k, array in enumerate(part._arrays))
            first += len(part._arrays)
            earlier = tuple(renumbered(piece, number) for piece in part._pieces)
            for piece in self._pieces:
                if piece.slot == slot and earlier:
                    later = (Piece(placing(piece.term), piece.scale, None),)
                    shapes = self.shape, part.out_shape, in_shape
                    # Axes of size one are not among a coefficient's.
                    total = recorder.add(
                        total, recorder.compose(later, earlier, shapes), self.shape, in_shape
                    )
        slots = run(recorder.steps, self.dtype, slots=slots)
        return self.from_slots(self.shape, in_shape, self.dtype, total, slots)

    @_in_automatic_axes()
    def diagonal(self) -> Any:
        """The diagonal of the flattened matrix, of shape (size of the input,).

        Raises:
            ValueError: where input and output differ in size.
        """
        size = math.prod(self.in_shape)
        if math.prod(self.out_shape) != size:
            raise ValueError(
                "diagonal requires as many outputs as inputs, but got the Jacobian of an output "
                f"of shape {self.out_shape} with respect to an input of shape {self.in_shape}."
            )
        try:
            pick = diagonal_term(self.out_shape, self.in_shape)
        except Unrepresentable:
            return self._diagonal_from_entries(size)
        return self._picked(pick, (size,))

    def trace(self) -> Any:
        """The sum of the entries J[..., k, k], of shape out_shape without its last axes.

        That is the trace of a square matrix, the divergence of a vector field, and the Laplacian
        from a Hessian. Only these entries are computed.

        Raises:
            ValueError: where out_shape does not end in in_shape.
        """
        rest = len(self.out_shape) - len(self.in_shape)
        if rest < 0 or self.out_shape[rest:] != self.in_shape:
            raise ValueError(
                "trace requires an output whose last axes are those of the input, but got the "
                f"Jacobian of an output of shape {self.out_shape} with respect to an input of "
                f"shape {self.in_shape}."
            )
        own = tuple(map(along, range(len(self.out_shape))))
        pick = canonical(Term(self.out_shape, own[:rest], own + own[rest:], None))
        if pick is None:
            return jax_internals.full(self.out_shape[:rest], 0, self.dtype)
        return self._picked(pick[0], self.out_shape[:rest])

    def _picked(self, pick: Term, result: tuple[int, ...]) -> Any:
        """Some of the entries, or sums of them.

        Args:
            pick: maps the entries to the result.
            result: its shape.
        """

        def build(recorder: Recorder) -> Any:
            total: Any = ()
            for piece in self._pieces:
                shape = piece.term.coefficient_shape
                entries = dense(shape, ())
                assert entries is not None
                placed = Piece(placing(piece.term), piece.scale, None)
                axes = None if piece.slot is None else entries.axes
                ones = Piece(entries._replace(axes=axes), 1, piece.slot)
                moved = recorder.compose((placed,), (ones,), (self.shape, shape, ()))
                picked = recorder.compose((Piece(pick, 1, None),), moved, (result, self.shape, ()))
                total = recorder.add(total, picked, result, ())
            return total

        return self._evaluate(build, self._readable, result, (), self.dtype)

    @property
    @_in_automatic_axes()
    def bands(self) -> Bands | None:
        """The diagonals of the flattened matrix; None where it is not a sum of diagonals."""
        return bands_of(self._terms, self._placed(), self.out_shape, self.in_shape, self.dtype)

    @property
    @_in_automatic_axes()
    def blocks(self) -> Any:
        """The blocks of the flattened matrix, shape (blocks, rows, columns), all of one size.

        None where the matrix is not block diagonal with at least two equal blocks; the smallest
        such blocks are taken.
        """
        return blocks_of(self._terms, self._placed(), self.out_shape, self.in_shape, self.dtype)

    @property
    def _terms(self) -> tuple[Term, ...]:
        return tuple(piece.term for piece in self._pieces)

    @functools.cached_property
    def _assembly(self) -> Assembly:
        return assembly(self._terms, self.out_shape, self.in_shape)

    def _placed(self) -> list[Placed]:
        """The coefficient of each piece, scale included, and where it goes."""
        arrays = self._readable
        slots = dict(enumerate(arrays))
        return [
            placed(
                piece.term,
                number(piece.scale, self.dtype)
                if piece.slot is None
                else scaled(arrays[piece.slot], piece.scale, self.dtype),
                slots,
            )
            for piece in self._pieces
        ]

    def _diagonal_from_entries(self, size: int) -> Any:
        row, column = self.matrix_pattern.rows, self.matrix_pattern.columns
        data, at = self.coordinates().data, np.flatnonzero(row == column)
        return (
            jax_internals.full((size,), 0, self.dtype)
            .at[row[at]]
            .set(data[at], unique_indices=True)
        )

    def _operand(self, vector: Any, shape: tuple[int, ...], *, after: bool) -> tuple[Any, Any]:
        """A checked operand and the shape of what it has beside the contracted axes."""
        vector = jnp.asarray(vector)
        rank = len(shape)
        own = vector.shape[:rank] if after else vector.shape[max(0, vector.ndim - rank) :]
        extra = vector.ndim - rank
        if own != shape or extra not in (0, 1):
            wanted = f"{shape} + (k,)" if after else f"(k,) + {shape}"
            side = "J @ v" if after else "u @ J"
            raise ValueError(
                f"{side} requires an operand of shape {shape} or {wanted} for a Jacobian of shape "
                f"{self.out_shape} + {self.in_shape}, but got shape {vector.shape}."
            )
        tail = vector.shape[rank:] if after else vector.shape[:extra]
        return vector, tail

    def _product(self, vector: Any, tail: tuple[int, ...], *, left: bool) -> Any:
        out_shape, in_shape = self.out_shape, self.in_shape
        shapes = (tail, out_shape) if left else (in_shape, tail)
        term = dense(*shapes)
        result = (tail, in_shape) if left else (out_shape, tail)
        dtype = jnp.promote_types(self.dtype, vector.dtype)
        if term is None:
            return jax_internals.full((*result[0], *result[1]), 0, dtype)
        piece = Piece(term, 1, len(self._arrays))
        arrays = *self._readable, lax.reshape(vector, term.coefficient_shape)

        def build(recorder: Recorder) -> Any:
            if left:
                return recorder.compose((piece,), self._pieces, (tail, out_shape, in_shape))
            return recorder.compose(self._pieces, (piece,), (out_shape, in_shape, tail))

        return self._evaluate(build, arrays, *result, dtype)

    def _evaluate(self, build: Any, arrays: Any, out_shape: Any, in_shape: Any, dtype: Any) -> Any:
        """The dense array of the block that `build` records on a recorder."""
        recorder = Recorder(reserved=len(arrays))
        pieces = build(recorder)
        shape = (*out_shape, *in_shape)
        if not pieces:
            return jax_internals.full(shape, 0, dtype)
        (piece,) = recorder.densify(pieces, out_shape, in_shape)
        slots = run(recorder.steps, dtype, slots=dict(enumerate(arrays)))
        if piece.slot is None:
            return jax_internals.full(shape, piece.scale, dtype)
        result = scaled(slots[piece.slot], piece.scale, dtype)
        return jax_internals.convert(lax.reshape(result, shape), dtype)


def shared_loops(
    term: Term, shape: Sequence[int], names: Sequence[Any], mesh: Any
) -> tuple[Any, ...]:
    """For each axis of a term's coefficient the names of axes of a mesh, or None.

    Args:
        term: the term.
        shape: the shape of the output and of the input.
        names: how each of these axes is shared out.
        mesh: the mesh.
    """
    found: dict[int, Any] = {}
    for affine, size, own in zip(term.out_map + term.in_map, shape, names, strict=True):
        loops = digits(affine.strides, term.sizes)
        if own is None or own in found.values() or not loops:
            continue
        slow = loops[0]
        is_whole = math.prod(term.sizes[k] for k in loops) == size
        if is_whole and term.sizes[slow] % jax_internals.shares(own, mesh) == 0:
            found.setdefault(slow, own)
    return tuple(found.get(loop) for loop in term.axes or ())


@jax.jit
def _coordinates(jacobian: StructuredJacobian) -> Coordinates:
    """Its sorted entries, by one program for all Jacobians of its structure."""
    return jacobian.coordinates()


def _cast(array: Any, dtype: Any, weak_type: bool = False) -> Any:
    if jnp.issubdtype(array.dtype, np.complexfloating) and not jnp.issubdtype(
        dtype, np.complexfloating
    ):
        array = lax.real(array)
    return jax_internals.convert(array, dtype, weak_type)
