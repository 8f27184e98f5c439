"""What a step is, and how steps are carried out on arrays."""

import abc
import contextlib
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

from jax_cce.algebra import coefficients, placement
from jax_cce.algebra.blocks import Piece
from jax_cce.algebra.placement import Placed
from jax_cce.algebra.terms import Term

__all__ = ["Key", "Run", "Sites", "Step", "needed", "run"]


# The place of a term among those of a local Jacobian: operand, output, number.
Key = tuple[int, int, int]


class Sites(Protocol):
    """Where steps find the values of the equations that they belong to."""

    def coefficient(self, site: Any, key: Key, term: Term) -> Any:
        """The coefficient array of a term of a site's local Jacobian."""

    def index_array(self, site: Any, key: Key, number: int) -> Any:
        """An index array that such a term reads."""

    def primals(self, site: Any) -> Any:
        """What an operator at the site is applied with."""

    def entries(self, site: Any, position: int, is_result: bool) -> Any:
        """The entries of an operand or result of an operator that count; None for all."""


class Run:
    """The arrays while steps are carried out.

    Attributes:
        slots: the array in each slot that has been filled.
        dtype: what static coefficients and masks become where numbers are needed.
    """

    def __init__(self, dtype: Any, sites: Sites | None, slots: Mapping[int, Any]) -> None:
        """Starts with the arrays of reserved slots."""
        self.slots = dict(slots)
        self.dtype = dtype
        self._sites = sites

    @property
    def sites(self) -> Sites:
        """The values of equations."""
        assert self._sites is not None, "these steps belong to no equations"
        return self._sites

    def coefficient(self, piece: Piece) -> Any:
        """The coefficient of a piece, scaled; a number where it is static."""
        if piece.slot is None:
            return coefficients.number(piece.scale, self.dtype)
        return coefficients.scaled(self.slots[piece.slot], piece.scale, self.dtype)

    def placed(self, piece: Piece) -> Placed:
        """The coefficient of a piece with the maps of its term."""
        return placement.placed(piece.term, self.coefficient(piece), self.slots)


@dataclass(frozen=True, slots=True, kw_only=True)
class Step(abc.ABC):
    """One recorded computation.

    Attributes:
        name: what the step is called.
        slots: the slots that it fills.
        vertex: the vertex whose elimination it belongs to; None for local coefficients and the
            final assembly.
        site: the equation whose values it reads; None for none.
    """

    name: ClassVar[str]

    slots: tuple[int, ...]
    vertex: int | None
    site: Hashable = None

    @property
    @abc.abstractmethod
    def reads(self) -> tuple[int, ...]:
        """The slots that it reads."""

    @property
    def flops(self) -> int:
        """Operations executed."""
        return 0

    @property
    @abc.abstractmethod
    def moved(self) -> int:
        """Numbers read and written."""

    @property
    @abc.abstractmethod
    def largest(self) -> int:
        """Numbers in the largest array that it fills a slot with or starts from."""

    @abc.abstractmethod
    def described(self) -> str:
        """What it computes, for people."""

    @abc.abstractmethod
    def run(self, arrays: Run) -> Sequence[Any]:
        """The arrays that fill its slots."""

    @property
    def place(self) -> str:
        """Which part of the computation it belongs to, for people."""
        return "assembly" if self.vertex is None else f"v{self.vertex}"

    def __str__(self) -> str:
        """One line: the part of the computation, the slots, and what they are filled with."""
        slots = ", ".join(f"c{slot}" for slot in self.slots)
        return f"[{self.place}] {slots} = {self.described()}"


def needed(steps: Sequence[Step], wanted: Iterable[int]) -> tuple[list[Step], list[Step]]:
    """The steps on which the wanted slots depend, in order, and the others."""
    live = set(wanted)
    kept, others = [], []
    for step in reversed(steps):
        if live.isdisjoint(step.slots):
            others.append(step)
        else:
            kept.append(step)
            live.update(step.reads)
    kept.reverse()
    return kept, others


def run(
    steps: Iterable[Step],
    dtype: Any,
    *,
    sites: Sites | None = None,
    slots: Mapping[int, Any] | None = None,
    before: Callable[[Step, dict[int, Any]], None] | None = None,
    around: Callable[[Step], contextlib.AbstractContextManager[Any]] | None = None,
) -> dict[int, Any]:
    """Carries out recorded steps on arrays.

    Args:
        steps: from a `Recorder`.
        dtype: what static coefficients and masks become where numbers are needed.
        sites: where the values of equations are found.
        slots: arrays of the recorder's reserved slots.
        before: is told of each step before it is carried out, and may replace arrays in slots.
        around: gives a context for each step to be carried out in.

    Returns:
        The array in each slot.
    """
    arrays = Run(dtype, sites, slots or {})
    for step in steps:
        if before is not None:
            before(step, arrays.slots)
        with contextlib.nullcontext() if around is None else around(step):
            arrays.slots.update(zip(step.slots, step.run(arrays), strict=True))
    return arrays.slots
