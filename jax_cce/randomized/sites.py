"""Sites: the edges of a program whose coefficients are kept in part.

By default these are the edges that leave a differentiated input, or a linear image of one, where
their coefficient has to be stored: for W in x @ W that is x. A path leaves its input once, so that
it has one sampled edge at most, and the derivative is linear in what is drawn, so that edges with
one coefficient may share its draw. Sites that are
chosen by name may meet on a path; as each has a key of its own, what is drawn there is independent,
and the expectation of the product that of its factors.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from jax_cce import jax_internals
from jax_cce.jax_internals import Literal
from jax_cce.program.flat import Equation
from jax_cce.randomized.draws import Draw, Method, count_of
from jax_cce.rules.book import EACH, Entrywise, record_of

__all__ = [
    "PRODUCTS",
    "Choice",
    "Site",
    "is_affine",
    "is_elementwise",
    "layout_of",
]

# Linear in each of two operands, with the other one for coefficient.
PRODUCTS = frozenset({"dot_general", "conv_general_dilated", "mul"})


@dataclass(frozen=True)
class Site:
    """An edge whose coefficient is kept in part.

    Attributes:
        number: its place among the sites, which its key is made from.
        label: the primitive and the line that it is from.
        times: how often it is evaluated: more than once in a loop.
        draw: what is kept.
        order: the axes of the coefficient, those of its elements first.
        shape: the shape of the coefficient.
        itemsize: bytes of a number.
    """

    number: int
    label: str
    times: int
    draw: Draw
    order: tuple[int, ...]
    shape: tuple[int, ...]
    itemsize: int

    @property
    def inverse(self) -> tuple[int, ...]:
        """The order that takes its axes back."""
        return tuple(sorted(range(len(self.order)), key=self.order.__getitem__))

    @property
    def saved_bytes(self) -> int:
        """What is stored."""
        return self.times * self.draw.stored * self.itemsize

    @property
    def whole_bytes(self) -> int:
        """What would be stored of all of it."""
        return self.times * math.prod(self.shape) * self.itemsize


@dataclass
class Choice:
    """Which coefficients are kept in part, and how much of them.

    Attributes:
        names: those of `checkpoint_name`; None for the edges that leave an input.
        keep: the part that is kept, of each site or of all.
        method: as for `Draw`.
        share: as for `Draw`.
        sites: the sites so far.
        found: the names that the program has.
    """

    names: frozenset[str] | None
    keep: float | Sequence[float]
    method: Method
    share: bool
    sites: list[Site] = field(default_factory=list)
    found: set[str] = field(default_factory=set)
    _numbers: int = 0

    def number(self) -> int:
        """A number that no site or loop has."""
        self._numbers += 1
        return self._numbers - 1

    def site(
        self, equation: Equation, aval: Any, elements: tuple[int, ...], times: int
    ) -> Site | None:
        """A site for a coefficient; None where all of it is kept.

        Args:
            equation: the equation.
            aval: the abstract value of the coefficient.
            elements: the axes of its elements.
            times: how often it is evaluated.
        """
        features = tuple(k for k in range(len(aval.shape)) if k not in elements)
        count, size = (math.prod(aval.shape[k] for k in axes) for axes in (elements, features))
        keep = self.keep
        if not isinstance(keep, int | float):
            at = len(self.sites)
            keep = keep[at] if at < len(keep) else 1.0
        number = self.number()
        draw = Draw(count, size, count_of(keep, size), self.method, self.share)
        label = f"{equation.name} {jax_internals.source_line(equation)}".strip()
        order, itemsize = (*elements, *features), aval.dtype.itemsize
        found = Site(number, label, times, draw, order, aval.shape, itemsize)
        self.sites.append(found)
        return found if draw.kept < size and count else None


def layout_of(equation: Equation, coefficient: int) -> tuple[int, ...]:
    """The axes along which the coefficient of a product has elements, such as those of a batch.

    The others are its features: what a product of matrices sums over in the primal.

    Args:
        equation: one of `PRODUCTS`.
        coefficient: which operand is the coefficient.
    """
    rank = len(equation.in_avals[coefficient].shape)
    if equation.name == "dot_general":
        contracted = equation.params["dimension_numbers"][0][coefficient]
        return tuple(k for k in range(rank) if k not in contracted) if contracted else ()
    if equation.name == "conv_general_dilated" and coefficient == 0:
        return (equation.params["dimension_numbers"].lhs_spec[0],)
    return ()


def is_affine(equation: Equation, active: Sequence[int]) -> bool:
    """Whether an equation is linear in some operands together, up to what is added."""
    linear = record_of(equation).linear
    if linear is None or not all(map(jax_internals.is_differentiable, equation.out_avals)):
        return False
    others = [k for k in range(len(equation.inputs)) if k not in active]
    return linear.holds(equation, active, others if linear.jointly else ())


def is_elementwise(equation: Equation, active: Sequence[int]) -> bool:
    """Whether an equation is a function of the entries of one operand."""
    if len(active) != 1 or len(equation.outputs) != 1 or record_of(equation).linear is EACH:
        return False
    (at,) = active
    shape = equation.out_avals[0].shape
    return (
        record_of(equation).entrywise is Entrywise.ELEMENTWISE
        and equation.in_avals[at].shape == shape
        and not isinstance(equation.inputs[at], Literal)
    )
