"""Jacobian blocks as sums of pieces.

A block dv/du is a tuple of pieces. A `Piece` is a static term with a static scale and, where the
coefficient is only known at run time, the number of a *slot* that will hold it. An `OperatorPiece`
is the linear map of one equation that has no description by terms (a scan, an fft, a triangular
solve): it can be applied to columns (a JVP) or to rows (a VJP), so it always has an answer.

A `recorder.Recorder` composes and adds blocks symbolically. It allocates slots and records steps;
carrying them out on arrays happens later, in `steps.run`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from jax_cce.algebra.index_arrays import Table
from jax_cce.algebra.terms import Term

__all__ = [
    "Block",
    "Operator",
    "OperatorPiece",
    "Piece",
    "is_unit",
    "renumbered",
    "slots_of",
    "split",
    "stored_numbers",
]


class Piece(NamedTuple):
    """scale * coefficient, placed by a term; `slot` is None where the coefficient is 1."""

    term: Term
    scale: complex
    slot: int | None


@dataclass(frozen=True, eq=False)
class Operator:
    """The linear map of one equation between its active operands and its outputs.

    Attributes:
        name: the primitive's name.
        in_shapes: shape of each active operand.
        out_shapes: shape of each output.
        jvp: (site, operand, tangent) -> tangents of all outputs; None where JAX has no
            forward mode for it (custom_vjp).
        vjp: (site, output, cotangent) -> cotangents of all operands; None where JAX has no
            reverse mode for it (while_loop).
        flops: estimated cost of one application.
        reverse_only: whether it is not linear, so that only `jax.jacrev` knows what to do with it:
            a custom_vjp whose pullback is not linear in the cotangent, or a collective.
    """

    name: str
    in_shapes: dict[int, tuple[int, ...]]
    out_shapes: dict[int, tuple[int, ...]]
    jvp: Callable[[Any, int, Any], dict[int, Any]] | None
    vjp: Callable[[Any, int, Any], dict[int, Any]] | None
    flops: int
    reverse_only: bool = False


class OperatorPiece(NamedTuple):
    """The part of an operator from one operand to one output, at one site."""

    operator: Operator
    site: int
    operand: int
    output: int


Block = tuple[Piece | OperatorPiece, ...]


def slots_of(piece: Piece) -> list[int]:
    """The slots that a piece reads: of its coefficient and of its index arrays."""
    slots = [] if piece.slot is None else [piece.slot]
    if piece.term.lookups:
        tables = [lookup.table for lookup in piece.term.lookups]
        slots += [table for table in tables if isinstance(table, int)]
    return slots


def renumbered(piece: Piece, number: Mapping[int, int]) -> Piece:
    """The piece with its slots renamed."""
    lookups = tuple(
        lookup if isinstance(lookup.table, Table) else lookup._replace(table=number[lookup.table])  # type: ignore[index]
        for lookup in piece.term.lookups
    )
    term = piece.term._replace(lookups=lookups)
    return Piece(term, piece.scale, None if piece.slot is None else number[piece.slot])


def stored_numbers(piece: Piece) -> int:
    """How many numbers the coefficient is stored as."""
    return 0 if piece.slot is None else piece.term.coefficient_size


def is_unit(piece: Piece) -> bool:
    """Whether the coefficient is 1 or -1, known while planning."""
    return piece.slot is None and piece.scale in (1, -1)


def split(block: Block) -> tuple[tuple[Piece, ...], tuple[OperatorPiece, ...]]:
    """The pieces of a block that have terms, and those that are operators."""
    return (
        tuple(p for p in block if isinstance(p, Piece)),
        tuple(p for p in block if isinstance(p, OperatorPiece)),
    )
