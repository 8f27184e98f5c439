"""What a rule returns: the local Jacobian of one equation, in terms."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from jax import lax

from jax_cce import jax_internals
from jax_cce.algebra import terms
from jax_cce.algebra.blocks import Operator
from jax_cce.algebra.fence import fence
from jax_cce.algebra.terms import Affine, Term, along
from jax_cce.program.flat import Equation

__all__ = [
    "AT_ZERO",
    "LocalJacobian",
    "LocalSites",
    "LocalTerm",
    "Primals",
    "Rule",
    "along",
    "automatic",
    "local_term",
]


@dataclass(slots=True)
class Primals:
    """One equation at run time: the values that coefficients are computed from.

    Attributes:
        equation: the equation.
        ins: its operands.
        outs: its results.
        residuals: what the rule's `evaluate` kept beside the results, if the rule has one.
        memo: for rules that compute several coefficients together.
        in_memory: whether a coefficient is to stand in memory before anything reads it.
    """

    equation: Equation
    ins: Sequence[Any]
    outs: Sequence[Any]
    residuals: Sequence[Any] = ()
    memo: dict[Any, Any] = field(default_factory=dict)
    in_memory: bool = False

    def __post_init__(self) -> None:
        """Literals are numbers of Python; as arrays they have a shape and the right dtype."""
        self.ins = [
            x if hasattr(x, "ndim") or x is None else np.asarray(x, aval.dtype)
            for x, aval in zip(self.ins, self.equation.in_avals, strict=True)
        ]


class LocalTerm(NamedTuple):
    """One term of a local Jacobian.

    Attributes:
        term: its static structure, canonical.
        scale: a static factor.
        value: computes the coefficient array, shape `term.coefficient_shape`; None where the
            coefficient is the scale alone.
        tables: computes the index arrays, each with the axes of its lookup; `term.lookups` that
            are known at run time only have positions in this tuple as their tables.
        is_mask: whether it selects: entries that the coefficient, which is then Boolean, or the
            term leaves out belong to a branch that was not taken.
        mask: where the coefficient is no mask, but has masks for factors: computes where they hold.
    """

    term: Term
    scale: complex = 1
    value: Callable[[Primals], Any] | None = None
    tables: tuple[Callable[[Primals], Any], ...] = ()
    is_mask: bool = False
    mask: Callable[[Primals], Any] | None = None

    @property
    def is_masked(self) -> bool:
        """Whether entries may belong to a branch that was not taken."""
        return self.is_mask or self.mask is not None


@dataclass(frozen=True)
class LocalJacobian:
    """The local Jacobian of one equation.

    Attributes:
        edges: for (operand, output) the terms of the block, or the `Operator` that it is part
            of. A pair that is missing is structurally zero.
        evaluate: computes (results, residuals) from the operands, in place of the primitive;
            for rules whose coefficients share work with the results.
    """

    edges: Mapping[tuple[int, int], tuple[LocalTerm, ...] | Operator]
    evaluate: Callable[[Sequence[Any]], tuple[Sequence[Any], Sequence[Any]]] | None = None


AT_ZERO = Affine(0, ())

Rule = Callable[[Equation, tuple[bool, ...]], LocalJacobian]


def local_term(
    term: Term,
    scale: complex = 1,
    value: Callable[[Primals], Any] | None = None,
    tables: tuple[Callable[[Primals], Any], ...] = (),
    *,
    is_mask: bool = False,
) -> tuple[LocalTerm, ...]:
    """A block of one term, given with loops and coefficient axes in any order.

    Args:
        term: the term; `term.axes` name the loop of each axis of what `value` returns.
        scale: a static factor.
        value: the coefficient; may return a scalar, which is broadcast.
        tables: the index arrays, as for `LocalTerm`.
        is_mask: as for `LocalTerm`.

    Returns:
        The block, () where the term is an empty sum or the scale is zero.
    """
    placed = terms.canonical(term)
    if placed is None or scale == 0:
        return ()
    result, order = placed
    if value is None:
        return (LocalTerm(result, scale, None, tables, is_mask),)
    shape = result.coefficient_shape
    given = tuple(term.sizes[loop] for loop in term.axes or () if term.sizes[loop] != 1)

    def coefficient(primals: Primals) -> Any:
        array = value(primals)
        if array.shape == given and order == tuple(sorted(order)):
            return array
        with automatic():
            array = jax_internals.untyped(array)
            if array.ndim == 0:
                return lax.broadcast(array, shape)
            if array.shape != given:
                if math.prod(array.shape) != math.prod(given):
                    raise ValueError(f"an array of shape {array.shape} where {given} is wanted")
                array = lax.reshape(array, given)
            return array if order == tuple(sorted(order)) else lax.transpose(array, order)

    return (LocalTerm(result, scale, coefficient, tables, is_mask),)


def automatic() -> Any:
    """A context for coefficients of inner equations, under the context of the whole one.

    What is computed in it is not explicitly shared out over devices.
    """
    return jax_internals.in_automatic_axes(jax_internals.explicit_mesh(()))


class LocalSites:
    """Where steps find the values of equations: their rules compute them from the primals."""

    def __init__(
        self,
        edges: Callable[[Any], Mapping[tuple[int, int], tuple[LocalTerm, ...] | Operator]],
        primals: Callable[[Any], Primals],
    ) -> None:
        """Equations by any name, that of their site.

        Args:
            edges: the edges of a site's local Jacobian.
            primals: its operands and results.
        """
        self._edges = edges
        self.primals = primals

    def local(self, site: Any, key: tuple[int, int, int]) -> LocalTerm:
        """A term of a site's local Jacobian."""
        operand, output, position = key
        block = self._edges(site)[operand, output]
        assert isinstance(block, tuple)
        return block[position]

    def coefficient(self, site: Any, key: tuple[int, int, int], term: Term) -> Any:
        """The coefficient array of a term.

        Raises:
            ValueError: where the rule gives one of another shape.
        """
        function, primals = self.local(site, key).value, self.primals(site)
        assert function is not None
        with jax_internals.context_of(primals.equation):
            value = function(primals)
        if value.shape != term.coefficient_shape:
            raise ValueError(
                f"The rule of primitive '{primals.equation.name}' returned a coefficient of shape "
                f"{value.shape} for operand {key[0]}, but its term has coefficient shape "
                f"{term.coefficient_shape}."
            )
        value = jax_internals.untyped(value)
        return fence(value)[0] if primals.in_memory else value

    def index_array(self, site: Any, key: tuple[int, int, int], number: int) -> Any:
        """An index array that a term reads."""
        table, primals = self.local(site, key).tables[number], self.primals(site)
        with jax_internals.context_of(primals.equation):
            values = table(primals)
        return jax_internals.untyped(values)

    def mask(self, site: Any, key: tuple[int, int, int]) -> Any:
        """Where a masked term's coefficient is not masked; None where that says the term."""
        local = self.local(site, key)
        function = local.value if local.is_mask else local.mask
        if function is None:
            return None
        primals = self.primals(site)
        with jax_internals.context_of(primals.equation):
            values = function(primals)
        return jax_internals.untyped(values)

    def entries(self, site: Any, position: int, is_result: bool) -> Any:
        """The entries of an operand or result of an operator that count; None for all."""
        return None
