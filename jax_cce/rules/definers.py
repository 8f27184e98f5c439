"""What a rule is, where rules are kept, and the definers that describe most primitives.

A rule maps an `Equation` and the operands that are differentiated to a `LocalJacobian`: static
terms now, and functions that compute their coefficients from `Primals` at run time.
"""

import functools
import inspect
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.extend import core as jex_core
from jax.interpreters import ad

from jax_cce.algebra.terms import Term
from jax_cce.jax_internals import Literal
from jax_cce.program.flat import Equation
from jax_cce.rules.local import AT_ZERO, LocalJacobian, LocalTerm, Primals, Rule, along, local_term

__all__ = [
    "RULES",
    "SPARSE_RULES",
    "define",
    "define_sparse",
    "differentiable_primitives",
    "elementwise",
    "elementwise_rule",
    "layout",
    "register_rule",
    "rules_for",
]

RULES: dict[Any, Rule] = {}

# Tried first where the Jacobian is wanted without structural zeros.
SPARSE_RULES: dict[Any, Rule] = {}

# The same for equations of a linear program, which depend linearly on their active operands.
LINEAR_RULES: dict[Any, Rule] = {}


def register_rule(primitive: Any, rule: Rule) -> None:
    """Registers the rule that gives a primitive's local Jacobian.

    A primitive without a rule is linearised by JAX, so a rule is only needed where it is more
    exact, cheaper, or faster to trace. A later registration replaces an earlier one.

    Args:
        primitive: a JAX primitive.
        rule: called with the `Equation` and, for each operand, whether it is differentiated;
            returns a `LocalJacobian`. It sees static facts only.

    Raises:
        TypeError: if `primitive` is no JAX primitive or `rule` is not callable.

    Examples:
        >>> import jax
        >>> from jax_cce import extend
        >>> twice_p = jax.extend.core.Primitive("twice")
        >>> extend.register_rule(twice_p, extend.elementwise_rule(2.0))
    """
    if not isinstance(primitive, jex_core.Primitive):
        raise TypeError(
            f"register_rule requires a jax.extend.core.Primitive, but got {primitive!r}. "
            "Pass the primitive object, such as jax.lax.sin_p, not its name."
        )
    if not callable(rule):
        raise TypeError(f"register_rule requires a callable rule, but got {rule!r}.")
    RULES[primitive] = rule


@functools.cache
def differentiable_primitives() -> dict[str, Any]:
    """The primitives that this JAX version can differentiate, by name."""
    return {primitive.name: primitive for primitive in ad.primitive_jvps}


def rules_for(equation: Equation, *, sparse: bool, linear: bool = False) -> list[Rule]:
    """The registered rules of an equation's primitive, the one to try first coming first.

    Args:
        equation: the equation.
        sparse: whether structural zeros matter.
        linear: whether it is linear in its active operands.
    """
    books = [*([LINEAR_RULES] if linear else []), SPARSE_RULES] if sparse else []
    found = (book.get(equation.primitive) for book in (*books, RULES))
    return [rule for rule in found if rule is not None]


def define(name: str, rule: Rule) -> None:
    """Registers a rule of the package itself, where this JAX version has the primitive."""
    primitive = differentiable_primitives().get(name)
    if primitive is not None:
        register_rule(primitive, rule)


class _Partial(NamedTuple):
    """A partial derivative given as a function whose parameters say what it reads."""

    function: Callable[..., Any]
    reads: tuple[str, ...]

    def at(self, site: Primals) -> Any:
        return self.function(*(_read(site, name) for name in self.reads))


_OPERANDS = {"x": 0, "y": 1, "z": 2}


def _read(site: Primals, name: str) -> Any:
    if name == "out":
        return site.outs[0]
    if name == "params":
        return site.equation.params
    value = site.ins[_OPERANDS[name]]
    return value if hasattr(value, "dtype") else jax.numpy.asarray(value)


@functools.lru_cache(maxsize=4096)
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


def elementwise_rule(*partials: Any, fold: bool = False) -> Rule:
    """The rule of an elementwise primitive, one partial derivative for each operand.

    Args:
        *partials: a number; a function whose parameters are named after what it reads (x, y, z
            for the operands, `out` for the result, `params`); or None for a zero derivative.
        fold: whether a partial that reads one operand may be called with a Python number where
            that operand is a literal, to become part of the static scale.
    """
    described = [
        _Partial(p, tuple(inspect.signature(p).parameters)) if callable(p) else p for p in partials
    ]

    def rule(equation: Equation, active: tuple[bool, ...]) -> LocalJacobian:
        (out,) = equation.out_avals
        edges: dict[tuple[int, int], tuple[LocalTerm, ...]] = {}
        for operand, (partial, wanted) in enumerate(zip(described, active, strict=True)):
            if not wanted or partial is None:
                continue
            in_shape = equation.in_avals[operand].shape
            scale: complex = 1
            value: Callable[[Primals], Any] | None = None
            reads: tuple[tuple[int, ...], ...] | None = None
            if not isinstance(partial, _Partial):
                scale = partial
            elif fold and (number := _literal_operand(equation, partial)) is not None:
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

    return rule


def _literal_operand(equation: Equation, partial: _Partial) -> Any:
    """The only operand that a partial reads, if it is a literal: a Python number."""
    if len(partial.reads) != 1:
        return None
    operand = equation.inputs[_OPERANDS[partial.reads[0]]]
    return np.asarray(operand.val).item() if isinstance(operand, Literal) else None


def define_sparse(name: str, rule: Rule, *, linear: bool = False) -> None:
    """Registers a rule of the package itself for the sparse formats only.

    Args:
        name: the primitive's name.
        rule: the rule.
        linear: whether it serves equations of linear programs only.
    """
    primitive = differentiable_primitives().get(name)
    if primitive is not None:
        (LINEAR_RULES if linear else SPARSE_RULES)[primitive] = rule


def elementwise(name: str, *partials: Any, fold: bool = False) -> None:
    """Describes an elementwise primitive by its partial derivatives (see `elementwise_rule`)."""
    define(name, elementwise_rule(*partials, fold=fold))


def layout(name: str, term: Callable[[Equation, int], Sequence[Term] | Term | None]) -> None:
    """Describes a primitive that only moves, repeats or sums entries.

    Args:
        name: the primitive's name.
        term: gives the term, or terms, of an operand; None for a zero block.
    """

    def rule(equation: Equation, active: tuple[bool, ...]) -> LocalJacobian:
        edges = {}
        for operand, wanted in enumerate(active):
            terms = term(equation, operand) if wanted else None
            if isinstance(terms, Term):
                terms = [terms]
            block = tuple(piece for t in terms or () for piece in local_term(t))
            if block:
                edges[operand, 0] = block
        return LocalJacobian(edges)

    define(name, rule)
