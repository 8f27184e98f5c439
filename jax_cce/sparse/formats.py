"""Formats: what each block of a Jacobian is when a caller gets it.

A new format is a new class here, and one line in `FORMATS`.
"""

import abc
import math
from typing import Any, ClassVar, Literal, get_args

import numpy as np

from jax_cce import jax_internals
from jax_cce.sparse.coordinates import Coordinates
from jax_cce.sparse.structured import StructuredJacobian

__all__ = ["DENSE", "FORMATS", "STRUCTURED", "Format", "FormatName", "named"]

FormatName = Literal["dense", "bcoo", "structured", "values", "csr", "csc", "auto"]

# With format="auto" blocks of at most so many entries are dense, and those of which at least this
# share is stored: then indices take as many bytes as zeros would, and products are slower.
_SMALL, _MOSTLY = 1 << 10, 0.25


class Format(abc.ABC):
    """A form of the blocks of a Jacobian.

    Attributes:
        name: what a caller asks for.
        sparse: whether the Jacobian is wanted as terms, without structural zeros.
        shared: whether entries keep the explicit sharding of the axes that they lie along. JAX's
            sparse matrices have no types for that.
    """

    name: ClassVar[FormatName]
    sparse: ClassVar[bool] = True
    shared: ClassVar[bool] = False

    @abc.abstractmethod
    def inside(self, block: StructuredJacobian) -> Any:
        """The block as a pytree that a compiled program can return."""

    def made(self, block: StructuredJacobian, leaf: Any, aval: Any, mesh: Any) -> Any:
        """What `inside` returns, with its type.

        Args:
            block: the block, in the dtype that it shall have.
            leaf: the abstract value of the output.
            aval: that of the input.
            mesh: the mesh of devices, where it has explicit axes.
        """
        with jax_internals.in_automatic_axes(mesh):
            made = self.inside(block)
        if isinstance(made, StructuredJacobian | Coordinates):
            if mesh is None:
                return made
            ends = (leaf, aval) if self.shared else ()
            names = [name for end in ends for name in jax_internals.partitions(end, mesh)]
            return made.partitioned(names, mesh)
        array = jax_internals.sharded_like(made, jax_internals.cotangent(aval))
        return jax_internals.convert(array, block.dtype, block.weak_type)

    def outside(self, block: Any) -> Any:
        """What the caller gets of what `inside` returned."""
        return block

    def places(self, block: Any) -> np.ndarray | None:
        """Where the numbers of what `inside` returned lie in the flattened dense block.

        None where that depends on data.
        """
        return block.places

    def __repr__(self) -> str:
        """The name."""
        return self.name


class _Dense(Format):
    """An array."""

    name = "dense"
    sparse = False

    def inside(self, block: StructuredJacobian) -> Any:
        """An array, which gets the input's sharding."""
        return block.todense()


class _Coordinates(Format):
    """A `jax.experimental.sparse.BCOO` matrix."""

    name: ClassVar[FormatName] = "bcoo"

    def inside(self, block: StructuredJacobian) -> Any:
        """Sorted entries; a static pattern is neither a constant nor a result of the program."""
        return block.coordinates()

    def outside(self, block: Any) -> Any:
        """The matrix."""
        return block.to_bcoo()


class _Values(_Coordinates):
    """The numbers of the entries alone."""

    name: ClassVar[FormatName] = "values"
    shared: ClassVar[bool] = True

    def inside(self, block: StructuredJacobian) -> Any:
        """Sorted entries, of a pattern that is known."""
        block.check_pattern()
        return block.coordinates()

    def outside(self, block: Any) -> Any:
        """An array with a number for each entry."""
        return block.data


class _Rows(_Values):
    """A `jax.experimental.sparse.BCSR` matrix."""

    name = "csr"
    shared = False

    def outside(self, block: Any) -> Any:
        """The matrix."""
        return block.to_bcsr()


class _Columns(_Values):
    """A `jax.experimental.sparse.CSC` matrix."""

    name = "csc"
    shared = False

    def inside(self, block: StructuredJacobian) -> Any:
        """Entries sorted by columns."""
        return super().inside(block.T)

    def outside(self, block: Any) -> Any:
        """The matrix."""
        from jax.experimental.sparse import CSC  # takes a while to import

        matrix = block.matrix
        static = {"shape": matrix.shape[::-1]}
        return CSC.tree_unflatten(static, (block.data, matrix.columns, matrix.indptr))

    def places(self, block: Any) -> np.ndarray | None:
        """Those of the transposed block's, seen in the block."""
        matrix = block.matrix
        rows, columns = matrix.columns.astype(np.int64), matrix.rows
        return rows * matrix.shape[0] + columns


class _Auto(_Coordinates):
    """An array where the block is small or mostly full, else a BCOO matrix."""

    name = "auto"

    def inside(self, block: StructuredJacobian) -> Any:
        """An array, or sorted entries."""
        size: Any = math.prod(block.shape)
        is_known = isinstance(size, int) and isinstance(block.nnz, int)
        if is_known and (size <= _SMALL or block.nnz >= _MOSTLY * size):
            return DENSE.inside(block)
        return super().inside(block)

    def outside(self, block: Any) -> Any:
        """The array, or the matrix."""
        return super().outside(block) if isinstance(block, Coordinates) else block

    def places(self, block: Any) -> np.ndarray | None:
        """All places of an array."""
        return block.places if isinstance(block, Coordinates) else np.arange(math.prod(block.shape))


class _Structured(Format):
    """A `StructuredJacobian`."""

    name = "structured"
    shared: ClassVar[bool] = True

    def inside(self, block: StructuredJacobian) -> Any:
        """The block as it is."""
        return block


DENSE, BCOO, STRUCTURED = _Dense(), _Coordinates(), _Structured()
FORMATS: dict[str, Format] = {
    each.name: each for each in (DENSE, BCOO, STRUCTURED, _Values(), _Rows(), _Columns(), _Auto())
}
assert tuple(FORMATS) == get_args(FormatName)


def named(name: Any) -> Format:
    """The format of a name.

    Raises:
        ValueError: for an unknown name.
    """
    if not isinstance(name, str) or name not in FORMATS:
        names = ", ".join(map(repr, FORMATS))
        raise ValueError(f"format must be one of {names}, but got {name!r}.")
    return FORMATS[name]
