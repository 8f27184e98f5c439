"""The rule book: what is known of each primitive, described once and asked by every pass.

Scalarising asks how entries come from entries, linearisation in which operands a primitive is
linear, complex regions whether a complex coefficient describes it, accumulation and graphs for its
local Jacobian. Of a primitive that nobody has described the default record holds: JAX linearises
it.
"""

import dataclasses
import enum
import functools
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

from jax.extend.core import Primitive, primitives
from jax.interpreters import ad

from jax_cce import caches
from jax_cce.program.flat import Equation
from jax_cce.rules.local import Rule

__all__ = [
    "EACH",
    "Entrywise",
    "Linear",
    "Record",
    "Wild",
    "describe",
    "record",
    "record_of",
    "rules_for",
]


class Entrywise(enum.Enum):
    """How the entries of a result come from entries of the operands."""

    ELEMENTWISE = "each is the primitive of the entries at its place"
    LAYOUT = "each is an entry of an operand, as a NumPy operation tells"
    SELECTS = "each is an entry of an operand, as the local Jacobian tells"
    SUMS = "each is a sum of entries, as the local Jacobian tells"
    CONTRACTS = "each is a sum of products, as a NumPy operation tells"

    @property
    def moves(self) -> bool:
        """Whether entries are only moved around."""
        return self in (Entrywise.LAYOUT, Entrywise.SELECTS)


class Wild(enum.IntEnum):
    """Whether a value may be infinite or NaN.

    Attributes:
        TAME: it is a finite number.
        GIVEN: it may be if an array that was given is, or if a product overflows.
        LARGE: it may be where a function overflows, as an exponential does early.
        SINGULAR: it may be at ordinary arguments, such as a division by zero.
    """

    TAME = 0
    GIVEN = 1
    LARGE = 2
    SINGULAR = 3


@dataclass(frozen=True)
class Linear:
    """In which operands a primitive is linear.

    Attributes:
        operands: their positions; None for all.
        jointly: whether it is linear in all of these together, so that one that is fixed is added
            to the result and has to be zero; else in each while the others are fixed.
        unless: the equations for which it is not, though JAX may use them where what they add
            or round off does not count.
    """

    operands: tuple[int, ...] | None = None
    jointly: bool = True
    unless: Callable[[Equation], bool] | None = None

    def holds(
        self,
        equation: Equation,
        varied: Collection[int],
        zero: Collection[int] = (),
        *,
        by_jax: bool = False,
    ) -> bool:
        """Whether an equation is known to be linear in the operands at some positions.

        Args:
            equation: the equation.
            varied: the positions.
            zero: those of operands that are known to be zero.
            by_jax: whether JAX made the equation.
        """
        places = self._places(equation)
        if not places.issuperset(varied):
            return False
        if not by_jax and self.unless is not None and self.unless(equation):
            return False
        if not self.jointly:
            return len(varied) == 1
        return places <= {*varied, *zero}

    def vanishes(self, equation: Equation, zero: Collection[int]) -> bool:
        """Whether an equation's results are known to be zero, as some of its operands are."""
        places = self._places(equation)
        if not zero or (self.unless is not None and self.unless(equation)):
            return False
        return places.issubset(zero) if self.jointly else not places.isdisjoint(zero)

    def _places(self, equation: Equation) -> set[int]:
        places = set(range(len(equation.inputs)))
        return places if self.operands is None else places.intersection(self.operands)


EACH = Linear(jointly=False)


@dataclass(frozen=True)
class Record:
    """What is known of a primitive.

    Attributes:
        rule: its local Jacobian; None where JAX linearises it.
        sparse_rule: the same without structural zeros, tried first where these matter.
        linear_rule: the same for equations that are linear in their active operands.
        steps_rule: the local Jacobian of a loop from those of its steps, tried first where that is
            expected to be the fastest.
        linear: in which operands it is linear; None where that is not known.
        entrywise: how entries of the results come from entries; None where arrays stay whole.
        operation: for layouts and contractions the operation on NumPy arrays of entries, called
            with the operands and the equation's parameters. A contraction returns the pairs of
            entries to be multiplied, for each entry of the result.
        takes_parts: whether a layout leaves out entries.
        wild: what its results and its derivative may be where its operands are tame; a function
            of the equation where that depends on it.
        calls: whether that is said by the equations that its parameters hold.
        holomorphic: whether a complex number describes the derivative on complex values.
        flops: estimates what the equation costs; None for one operation for each entry that is read
            or written.
    """

    rule: Rule | None = None
    sparse_rule: Rule | None = None
    linear_rule: Rule | None = None
    steps_rule: Rule | None = None
    linear: Linear | None = None
    entrywise: Entrywise | None = None
    operation: Callable[..., Any] | None = None
    takes_parts: bool = False
    wild: Wild | Callable[[Equation], Wild] = Wild.SINGULAR
    calls: bool = False
    holomorphic: bool = True
    flops: Callable[[Equation], int] | None = None


_records: dict[Any, Record] = {}
_of_package: dict[Any, Record] = {}
_UNKNOWN = Record()


@functools.cache
def _primitives() -> dict[str, Any]:
    """The primitives of this JAX version and of this package, by name."""
    public = [each for each in vars(primitives).values() if isinstance(each, Primitive)]
    return {primitive.name: primitive for primitive in (*public, *ad.primitive_jvps)}


def record(primitive: Any) -> Record:
    """What is known of a primitive."""
    return _records.get(primitive, _UNKNOWN)


def record_of(equation: Equation) -> Record:
    """What is known of an equation's primitive."""
    return record(equation.primitive)


def is_described_elsewhere(primitive: Any) -> bool:
    """Whether somebody else than this package has said something of a primitive."""
    return _records.get(primitive) is not _of_package.get(primitive)


def describe(primitive: Any, anew: bool = False, /, **facts: Any) -> None:
    """Notes facts of a primitive.

    Args:
        primitive: a primitive, or the name of one of JAX's, which may be absent in its version.
        anew: whether its rules so far are forgotten, and all facts but those that the package
            itself has noted.
        **facts: attributes of its `Record`.
    """
    by_package = isinstance(primitive, str)
    if by_package:
        primitive = _primitives().get(primitive)
        if primitive is None:
            return
    known = record(primitive)
    if anew:
        own = _of_package.get(primitive, _UNKNOWN)
        known = dataclasses.replace(
            own, rule=None, sparse_rule=None, linear_rule=None, steps_rule=None
        )
    _records[primitive] = dataclasses.replace(known, **facts)
    if by_package:
        _of_package[primitive] = _records[primitive]
    caches.next_generation()


def rules_for(
    equation: Equation, *, sparse: bool, linear: bool = False, by_steps: bool = False
) -> list[Rule]:
    """The rules of an equation's primitive, the one to try first coming first.

    Args:
        equation: the equation.
        sparse: whether structural zeros matter.
        linear: whether it is linear in its active operands.
        by_steps: whether loops are differentiated by the Jacobians of their steps.
    """
    known = record_of(equation)
    rules = [known.steps_rule if by_steps else None, known.rule]
    if sparse:
        rules = [known.linear_rule if linear else None, known.sparse_rule, known.rule]
    return [rule for rule in rules if rule is not None]
