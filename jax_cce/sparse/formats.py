"""Formats: what each block of a Jacobian is when a caller gets it.

A new format is a new class here, and one line in `FORMATS`.
"""

import abc
from typing import Any, ClassVar, Literal, get_args

from jax_cce import jax_internals
from jax_cce.sparse.structured import StructuredJacobian

__all__ = ["DENSE", "FORMATS", "STRUCTURED", "Format", "FormatName", "named"]

FormatName = Literal["dense", "bcoo", "structured"]


class Format(abc.ABC):
    """A form of the blocks of a Jacobian.

    Attributes:
        name: what a caller asks for.
        sparse: whether the Jacobian is wanted as terms, without structural zeros.
    """

    name: ClassVar[FormatName]
    sparse: ClassVar[bool] = True

    @abc.abstractmethod
    def inside(self, block: StructuredJacobian, aval: Any) -> Any:
        """The block as a pytree that a compiled program can return.

        Args:
            block: the block, in the dtype that it shall have.
            aval: the abstract value of the input.
        """

    def outside(self, block: Any) -> Any:
        """What the caller gets of what `inside` returned."""
        return block

    def __repr__(self) -> str:
        """The name."""
        return self.name


class _Dense(Format):
    """An array."""

    name = "dense"
    sparse = False

    def inside(self, block: StructuredJacobian, aval: Any) -> Any:
        """An array with the input's sharding."""
        array = jax_internals.sharded_like(block.todense(), jax_internals.cotangent(aval))
        return jax_internals.convert(array, block.dtype, block.weak_type)


class _Coordinates(Format):
    """A `jax.experimental.sparse.BCOO` matrix."""

    name = "bcoo"

    def inside(self, block: StructuredJacobian, aval: Any) -> Any:
        """Sorted entries; a static pattern is neither a constant nor a result of the program."""
        return block.coordinates()

    def outside(self, block: Any) -> Any:
        """The matrix."""
        return block.to_bcoo()


class _Structured(Format):
    """A `StructuredJacobian`."""

    name = "structured"

    def inside(self, block: StructuredJacobian, aval: Any) -> Any:
        """The block as it is."""
        return block


DENSE, BCOO, STRUCTURED = _Dense(), _Coordinates(), _Structured()
FORMATS: dict[str, Format] = {each.name: each for each in (DENSE, BCOO, STRUCTURED)}
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
