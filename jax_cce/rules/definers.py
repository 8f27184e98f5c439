"""Definers: the vocabulary in which primitives are described.

Most primitives take one line: `elementwise` by partial derivatives, `layout` by the operation on
entries, `linear` by the operands in which they are linear. Only the rest get a `full` rule. These
describe primitives of JAX by name; `jax_cce.extend` offers the same for primitives of a user's own,
with every rule checked.
"""

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from jax_cce.algebra.terms import Term
from jax_cce.caches import memoised
from jax_cce.jax_internals import Literal
from jax_cce.program.flat import Equation
from jax_cce.rules.book import Entrywise, Linear, Wild, describe
from jax_cce.rules.local import AT_ZERO, LocalJacobian, LocalTerm, Primals, Rule, along, local_term

__all__ = [
    "ElementwiseRule",
    "Terms",
    "elementwise",
    "elementwise_rule",
    "full",
    "layout",
    "linear",
    "sparse",
    "terms_rule",
]

# The terms of an operand's block, with coefficient one; None for a zero block.
Terms = Callable[[Equation, int], Sequence[Term] | Term | None]


class Partial(NamedTuple):
    """A partial derivative given as a function whose parameters say what it reads."""

    function: Callable[..., Any]
    reads: tuple[str, ...]

    def at(self, primals: Primals) -> Any:
        """The value of the partial."""
        return self.function(*(_read(primals, name) for name in self.reads))


_OPERANDS = {"x": 0, "y": 1, "z": 2}
_READABLE = (*_OPERANDS, "out", "params")


def _read(primals: Primals, name: str) -> Any:
    if name == "out":
        return primals.outs[0]
    if name == "params":
        return primals.equation.params
    return primals.ins[_OPERANDS[name]]


@memoised(4096)
def _elementwise_term(
    out_shape: tuple[int, ...],
    in_shape: tuple[int, ...],
    read_shapes: tuple[tuple[int, ...], ...] | None,
) -> Term:
    """The term of an operand, which may have rank 0 or axes of size 1 that are replicated.

    `read_shapes` are those of the values that the coefficient is computed from, None if it is
    static; the coefficient has the axes that any of them has.
    """
    loops = tuple(map(along, range(len(out_shape))))
    inn = tuple(
        loop if size == extent else AT_ZERO
        for loop, size, extent in zip(loops, in_shape, out_shape, strict=False)
    )
    if read_shapes is None:
        return Term(out_shape, loops, inn, None)
    axes = (
        axis
        for axis, extent in enumerate(out_shape)
        if any(shape and shape[axis] == extent for shape in read_shapes)
    )
    return Term(out_shape, loops, inn, tuple(axes))


@dataclass(frozen=True)
class ElementwiseRule:
    """The rule of an elementwise primitive.

    Attributes:
        partials: for each operand its partial derivative: a number, a `Partial`, or None for zero.
        fold: see `elementwise_rule`.
    """

    partials: tuple[Any, ...]
    fold: bool = False

    @property
    def linear(self) -> Linear | None:
        """Linear in all operands together where all partials are numbers."""
        if not all(isinstance(partial, int | float | complex) for partial in self.partials):
            return None
        return Linear()

    def __call__(self, equation: Equation, active: tuple[bool, ...]) -> LocalJacobian:
        """The local Jacobian: a diagonal for each operand."""
        if len(self.partials) != len(active):
            raise ValueError(f"{len(self.partials)} partials for {len(active)} operands")
        (out,) = equation.out_avals
        edges: dict[tuple[int, int], tuple[LocalTerm, ...]] = {}
        for operand, (partial, wanted) in enumerate(zip(self.partials, active, strict=True)):
            if not wanted or partial is None:
                continue
            in_shape = equation.in_avals[operand].shape
            scale: complex = 1
            value: Callable[[Primals], Any] | None = None
            reads: tuple[tuple[int, ...], ...] | None = None
            if not isinstance(partial, Partial):
                scale = partial
            elif self.fold and (number := _literal_operand(equation, partial)) is not None:
                scale = partial.function(number)
            else:
                value = partial.at
                reads = tuple(
                    out.shape if name == "out" else equation.in_avals[_OPERANDS[name]].shape
                    for name in partial.reads
                    if name != "params"
                )
            term = _elementwise_term(out.shape, in_shape, reads)
            block = local_term(term, scale, value)
            if block:
                edges[operand, 0] = block
        return LocalJacobian(edges)


def _literal_operand(equation: Equation, partial: Partial) -> Any:
    """The only operand that a partial reads, if it is a literal: a Python number."""
    if len(partial.reads) != 1:
        return None
    operand = equation.inputs[_OPERANDS[partial.reads[0]]]
    return np.asarray(operand.val).item() if isinstance(operand, Literal) else None


def elementwise_rule(*partials: Any, fold: bool = False) -> ElementwiseRule:
    """The rule of an elementwise primitive, one partial derivative for each operand.

    Args:
        *partials: a number; a function whose parameters are named after what it reads (x, y, z
            for the operands, `out` for the result, `params`); or None for a zero derivative.
        fold: whether a partial that reads one operand may be called with a Python number where
            that operand is a literal, to become part of the static scale.
    """
    described = (Partial(p, _parameters(p)) if callable(p) else p for p in partials)
    return ElementwiseRule(tuple(described), fold)


def _parameters(partial: Callable[..., Any]) -> tuple[str, ...]:
    """What a partial derivative reads; a parameter of another name keeps its default."""
    parameters = inspect.signature(partial).parameters.values()
    for parameter in parameters:
        if parameter.name not in _READABLE and parameter.default is parameter.empty:
            raise TypeError(
                f"the parameters of a partial derivative must be among {', '.join(_READABLE)}, "
                f"which name what it reads, but got {parameter.name!r} in {partial!r}"
            )
    return tuple(parameter.name for parameter in parameters if parameter.name in _READABLE)


def terms_rule(terms: Terms) -> Rule:
    """The rule of a primitive with one result, whose blocks are terms with coefficient one."""

    def rule(equation: Equation, active: tuple[bool, ...]) -> LocalJacobian:
        edges = {}
        for operand, wanted in enumerate(active):
            given = terms(equation, operand) if wanted else None
            each = [given] if isinstance(given, Term) else [] if given is None else given
            if not (isinstance(each, Sequence) and all(isinstance(term, Term) for term in each)):
                raise TypeError(
                    f"neither a Term, nor terms, nor None for operand {operand}: {each!r}"
                )
            block = tuple(piece for term in each for piece in local_term(term))
            if block:
                edges[operand, 0] = block
        return LocalJacobian(edges)

    return rule


def elementwise(
    names: str,
    *partials: Any,
    fold: bool = False,
    linear: Linear | None = None,
    wild: Wild | Callable[[Equation], Wild] = Wild.TAME,
) -> None:
    """Describes elementwise primitives by their partial derivatives (see `elementwise_rule`).

    Args:
        names: the primitives, separated by spaces.
        *partials: their partial derivatives; without any, JAX linearises them.
        fold: see `elementwise_rule`.
        linear: in which operands they are linear, where the partials do not show it.
        wild: what results and partials may be (see `Record`).
    """
    rule = elementwise_rule(*partials, fold=fold) if partials else None
    how = linear or (rule and rule.linear)
    for name in names.split():
        describe(name, rule=rule, linear=how, entrywise=Entrywise.ELEMENTWISE, wild=wild)


def layout(
    name: str,
    operation: Callable[..., Any],
    terms: Terms | None = None,
    *,
    rule: Rule | None = None,
    takes_parts: bool = False,
) -> None:
    """Describes a primitive that only moves or repeats entries.

    Args:
        name: the primitive's name.
        operation: the operation on NumPy arrays of entries, called with the operands and the
            equation's parameters; returns the result, or a list of results.
        terms: the terms of an operand, where there is one result.
        rule: the whole rule, where there are several.
        takes_parts: whether it leaves out entries.
    """
    describe(
        name,
        rule=rule if terms is None else terms_rule(terms),
        linear=Linear(),
        entrywise=Entrywise.LAYOUT,
        operation=operation,
        takes_parts=takes_parts,
        wild=Wild.TAME,
    )


def linear(
    names: str, terms: Terms | None = None, *, how: Linear | None = None, **facts: Any
) -> None:
    """Describes linear primitives.

    Args:
        names: the primitives, separated by spaces.
        terms: the terms of an operand; without any, the primitive is applied as an operator.
        how: in which operands they are linear; in all together if that is not said.
        **facts: other attributes of their `Record`.
    """
    if terms is not None:
        facts["rule"] = terms_rule(terms)
    for name in names.split():
        describe(name, linear=how or Linear(), **{"wild": Wild.TAME, **facts})


def full(name: str, rule: Rule, **facts: Any) -> None:
    """Describes a primitive by a rule of its own.

    Args:
        name: the primitive's name.
        rule: its local Jacobian.
        **facts: other attributes of its `Record`.
    """
    describe(name, rule=rule, **{"wild": Wild.TAME, **facts})


def sparse(name: str, rule: Rule, *, of_linear: bool = False) -> None:
    """Adds a rule for the sparse formats, where structural zeros matter.

    Args:
        name: the primitive's name.
        rule: the rule.
        of_linear: whether it serves equations that are linear in their active operands only.
    """
    if of_linear:
        describe(name, linear_rule=rule)
    else:
        describe(name, sparse_rule=rule)
