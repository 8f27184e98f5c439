"""Rules for new primitives: what the package describes its own primitives with.

A primitive that JAX can differentiate needs no rule. Describe one where its local Jacobian is known
more exactly or more cheaply than JAX's linearisation shows it. `define_elementwise`,
`define_layout` and `define_linear` take one line; `register_rule` takes a whole rule. What is said
serves all passes alike: small arrays are taken apart, structural zeros kept, pullbacks known as
linear. A description takes effect at once, also for functions that have been differentiated.
"""

import inspect
from collections.abc import Callable, Sequence
from typing import Any, Literal

from jax.extend import core as jex_core

from jax_cce.algebra.terms import Affine, Lookup, Term, Unrepresentable
from jax_cce.program.flat import Equation
from jax_cce.rules.book import Entrywise, Linear, describe
from jax_cce.rules.checking import CheckedRule, RuleError
from jax_cce.rules.definers import ElementwiseRule, Partial, Terms, elementwise_rule, terms_rule
from jax_cce.rules.layout_rule import layout_rule
from jax_cce.rules.local import LocalJacobian, LocalTerm, Primals, Rule, along, local_term

__all__ = [
    "Affine",
    "Equation",
    "LocalJacobian",
    "LocalTerm",
    "Lookup",
    "Primals",
    "Rule",
    "RuleError",
    "Site",
    "Term",
    "Unrepresentable",
    "along",
    "define_elementwise",
    "define_layout",
    "define_linear",
    "elementwise_rule",
    "local_term",
    "register_rule",
]

# `Primals` by its former name.
Site = Primals

_ENTRIES = {"selects": Entrywise.SELECTS, "sums": Entrywise.SUMS}


def define_elementwise(primitive: Any, *partials: Any, fold: bool = False) -> None:
    """Describes an elementwise primitive by its partial derivatives, one for each operand.

    Where all partials are numbers it is known to be linear.

    Args:
        primitive: a JAX primitive with one result. On scalars it must give the entries of what it
            gives on arrays, with the same parameters.
        *partials: a number; a function whose parameters are named after what it reads (x, y, z
            for the operands, `out` for the result, `params`); or None for a zero derivative.
        fold: whether a partial that reads one operand may be called with a Python number where
            that operand is a literal.

    Raises:
        TypeError: if `primitive` is no JAX primitive, or a partial has a parameter of another name.

    Examples:
        >>> import jax
        >>> from jax_cce import extend
        >>> cube_p = jax.extend.core.Primitive("cube")
        >>> extend.define_elementwise(cube_p, lambda x: 3 * x * x)
    """
    _check(primitive, "define_elementwise")
    _describe_elementwise(primitive, elementwise_rule(*partials, fold=fold))


def _describe_elementwise(primitive: Any, rule: ElementwiseRule) -> None:
    functions = [partial.function for partial in rule.partials if isinstance(partial, Partial)]
    facts: dict[str, Any] = {"entrywise": Entrywise.ELEMENTWISE}
    if rule.linear is not None:
        facts["linear"] = rule.linear
    checked = CheckedRule(rule, functions[0] if functions else _caller())
    describe(primitive, True, rule=checked, **facts)


def _caller() -> str:
    """The line outside this module from which it was called."""
    frame = inspect.currentframe()
    while frame is not None and frame.f_code.co_filename == __file__:
        frame = frame.f_back
    return "" if frame is None else f"{frame.f_code.co_filename}:{frame.f_lineno}"


def define_layout(
    primitive: Any, operation: Callable[..., Any], *, takes_parts: bool = False
) -> None:
    """Describes a primitive that only moves or repeats entries, by the operation on NumPy arrays.

    Args:
        primitive: a JAX primitive.
        operation: called with NumPy arrays in place of the operands, of any dtype, and with the
            equation's parameters; returns the result, or a list of results, whose entries are
            entries of the operands. The terms of the local Jacobian follow.
        takes_parts: whether it leaves out entries.

    Raises:
        TypeError: if `primitive` is no JAX primitive or `operation` is not callable.

    Examples:
        >>> import jax, numpy as np
        >>> from jax_cce import extend
        >>> swap_p = jax.extend.core.Primitive("swap")
        >>> extend.define_layout(swap_p, lambda x: np.swapaxes(x, 0, 1))
    """
    _check(primitive, "define_layout", operation)
    describe(
        primitive,
        True,
        rule=CheckedRule(layout_rule(operation), operation),
        linear=Linear(),
        entrywise=Entrywise.LAYOUT,
        operation=operation,
        takes_parts=takes_parts,
    )


def define_linear(
    primitive: Any,
    terms: Terms | None = None,
    *,
    operands: Sequence[int] | None = None,
    entries: Literal["selects", "sums"] | None = None,
) -> None:
    """Describes a linear primitive.

    Args:
        primitive: a JAX primitive with one result.
        terms: called with the `Equation` and the position of an operand; returns the `Term`, or
            terms, of its block, with coefficient one, or None for a zero block. Without it JAX
            linearises the primitive, which must have a derivative there, and it is applied as an
            operator.
        operands: the operands in which it is jointly linear; all by default. A fixed one of them
            must be zero for the primitive to be linear in the others.
        entries: what small arrays taken apart make of it: "sums" where each entry of the result is
            a sum of entries of the operands, "selects" where it is one of them.

    Raises:
        TypeError: if `primitive` is no JAX primitive or `terms` is not callable.

    Examples:
        >>> import jax
        >>> from jax_cce import extend
        >>> total_p = jax.extend.core.Primitive("total")
        >>> def terms(equation, operand):
        ...     (size,) = equation.in_avals[operand].shape
        ...     return extend.Term((size,), (), (extend.along(0),), None)
        >>> extend.define_linear(total_p, terms, entries="sums")
    """
    _check(primitive, "define_linear", *([] if terms is None else [terms]))
    describe(
        primitive,
        True,
        rule=None if terms is None else CheckedRule(terms_rule(terms), terms),
        linear=Linear(None if operands is None else tuple(operands)),
        **_entrywise(entries),
    )


def register_rule(
    primitive: Any,
    rule: Rule,
    *,
    sparse: Rule | None = None,
    entries: Literal["selects", "sums"] | None = None,
) -> None:
    """Registers the rule that gives a primitive's local Jacobian.

    A primitive without a rule is linearised by JAX, so a rule is only needed where it is more
    exact, cheaper, or faster to trace. A later registration replaces an earlier one, and the
    package's own rules for one of JAX's primitives; what else is known of that stays.

    Args:
        primitive: a JAX primitive.
        rule: called with the `Equation` and, for each operand, whether it is differentiated;
            returns a `LocalJacobian`. It sees static facts only. It may raise `Unrepresentable` to
            leave an equation to JAX.
        sparse: a rule that is tried first where the Jacobian is wanted without structural zeros.
        entries: see `define_linear`.

    Raises:
        TypeError: if `primitive` is no JAX primitive or `rule` is not callable.

    Examples:
        >>> import jax
        >>> from jax_cce import extend
        >>> twice_p = jax.extend.core.Primitive("twice")
        >>> extend.register_rule(twice_p, extend.elementwise_rule(2.0))
    """
    _check(primitive, "register_rule", rule)
    if isinstance(rule, ElementwiseRule):
        _describe_elementwise(primitive, rule)
        return
    describe(
        primitive,
        True,
        rule=CheckedRule(rule, rule),
        sparse_rule=None if sparse is None else CheckedRule(sparse, sparse),
        **_entrywise(entries),
    )


def _entrywise(entries: str | None) -> dict[str, Any]:
    return {} if entries is None else {"entrywise": _ENTRIES[entries]}


def _check(primitive: Any, caller: str, *functions: Any) -> None:
    if not isinstance(primitive, jex_core.Primitive):
        raise TypeError(
            f"{caller} requires a jax.extend.core.Primitive, but got {primitive!r}. "
            "Pass the primitive object, such as jax.lax.sin_p, not its name."
        )
    for function in functions:
        if not callable(function):
            raise TypeError(f"{caller} requires a callable rule, but got {function!r}.")
