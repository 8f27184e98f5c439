"""Local Jacobians: the registered rules first, JAX's own linearisation for everything else.

The modules of the families of primitives are imported here, so that their rules are registered.
"""

import functools
from collections.abc import Callable, Hashable, Iterable, Iterator
from typing import Any

import jax
import numpy as np

from jax_cce import jax_internals
from jax_cce.algebra.blocks import Operator
from jax_cce.algebra.terms import Unrepresentable
from jax_cce.caches import Cache
from jax_cce.jax_internals import Literal
from jax_cce.program import known_values, tracing
from jax_cce.program.flat import Equation, Program
from jax_cce.program.identity import ById, constant_key, jaxpr_key, program_key
from jax_cce.program.references import check_operands
from jax_cce.rules import (  # noqa: F401
    contraction,
    control,
    convolution,
    elementwise,
    indexing,
    layout,
    operators,
    scans,
    solves,
    structural_zeros,
)
from jax_cce.rules.book import record_of, rules_for
from jax_cce.rules.linearised import Linearised
from jax_cce.rules.local import LocalJacobian
from jax_cce.rules.steps import steps_of

__all__ = [
    "OnlyWhileRunning",
    "activity",
    "custom_derivative",
    "has_custom",
    "is_custom",
    "key",
    "local_jacobian",
]

# The calls whose derivative is user code, and the parameter that holds it.
_CUSTOM = {"custom_jvp_call": "jvp_jaxpr_fun", "custom_vjp_call": "fwd_jaxpr_thunk"}


class OnlyWhileRunning(Exception):
    """A derivative that JAX can be asked for only while the function runs, inside its call."""


def local_jacobian(
    equation: Equation, active: tuple[bool, ...], *, sparse: bool = False, by_steps: bool = False
) -> LocalJacobian:
    """The local Jacobian of an equation with respect to its active operands.

    Args:
        equation: the equation.
        active: for each operand whether it is differentiated.
        sparse: whether structural zeros matter.
        by_steps: whether loops are differentiated by the Jacobians of their steps.

    Raises:
        OnlyWhileRunning: where a custom rule cannot be traced by itself.
        TypeError, ValueError, NotImplementedError: what JAX raises where the primitive has no
            derivative, with the primitive and the user's source line added.
        Exception: what JAX raises for a write to a reference from outside.
    """
    check_operands(equation)
    varied = (aval for aval, wanted in zip(equation.in_avals, active, strict=True) if wanted)
    smooth = filter(jax_internals.is_differentiable, equation.out_avals)
    if not any(map(jax_internals.size, varied)) or not any(map(jax_internals.size, smooth)):
        return LocalJacobian({})
    for rule in rules_for(equation, sparse=sparse, by_steps=by_steps):
        try:
            return rule(equation, active)
        except (Unrepresentable, jax_internals.InconclusiveDimensionOperation):
            pass
    try:
        found = _linearised(equation, active, sparse).local_jacobian
    except (TypeError, ValueError, NotImplementedError) as error:
        raise _located(error, equation) from error
    is_operator = any(isinstance(edge, Operator) for edge in found.edges.values())
    return (_of_steps_apart(equation, active) if sparse and is_operator else None) or found


def _of_steps_apart(equation: Equation, active: tuple[bool, ...]) -> LocalJacobian | None:
    """The blocks of a loop whose steps do not depend on each other; None of any other equation."""
    rule = record_of(equation).steps_rule
    try:
        if rule is None or steps_of(equation, active).states:
            return None
        return rule(equation, active)
    except Unrepresentable:
        return None


def _located(error: Exception, equation: Equation) -> Exception:
    line = jax_internals.source_line(equation) or "an unknown line"
    where = f"\nThis was raised while differentiating the primitive '{equation.name}' at {line}."
    if type(error) in (TypeError, ValueError, NotImplementedError):
        return type(error)(f"{error}{where}")
    error.add_note(where.strip())
    return error


# Linearising takes milliseconds, and programs repeat equations. JAX also hands out the same
# function object again for a custom rule under jit, as in relu.
_linearisations: Cache[Linearised] = Cache(1024)


def _linearised(equation: Equation, active: tuple[bool, ...], sparse: bool = False) -> Linearised:
    known = _indices(equation, sparse)

    def linearise() -> Linearised:
        apply = functools.partial(jax_internals.bind, equation)
        reverse = getattr(equation.primitive, "reverse_only", False) or _has_collective(equation)
        avals = equation.in_avals, equation.out_avals
        with jax_internals.context_of(equation):
            parts = Linearised(
                equation.name,
                apply,
                *avals,
                active,
                reverse=reverse,
                sparse=sparse,
                known=known,
                are_rules_linear=lambda: not reverse and _are_rules_linear(equation),
            )
        tracing.check_constants(parts.program.equations, parts.constants)
        return parts

    if not has_custom([equation]):
        return _kept(equation, active, sparse, linearise)
    if is_custom(equation) and any(active[: equation.params["num_consts"]]):
        # The rule has no term for what it closes over: JAX decides whether that is allowed.
        raise _only_while_running(equation, "it closes over what is differentiated")
    try:
        return _kept(equation, active, sparse, linearise)
    except Exception as error:
        raise _only_while_running(equation, type(error).__name__) from error


def _are_rules_linear(equation: Equation) -> bool:
    """Whether an equation contains others, the derivatives of which are all linear."""
    inner = [] if is_custom(equation) else tracing.inner_equations(equation, of_solvers=True)
    return bool(inner) and all(map(is_derivative_linear, inner))


def is_derivative_linear(equation: Equation) -> bool:
    """Whether the derivative of an equation, and of each one inside it, is known to be linear."""
    active = tuple(map(jax_internals.is_differentiable, equation.in_avals))
    if not any(active) or not any(map(jax_internals.is_differentiable, equation.out_avals)):
        return True
    if not is_custom(equation):
        if inner := tracing.inner_equations(equation, of_solvers=True):
            return all(map(is_derivative_linear, inner))
        if rules_for(equation, sparse=False):
            return True
    try:
        return not _linearised(equation, active).reverse_only
    except Exception:  # of any type, raised by the rule; JAX need not come upon it
        return False


def _indices(equation: Equation, sparse: bool) -> dict[int, np.ndarray]:
    """What is known of indices, masks and counts, which decide what entries there are."""
    if not sparse:
        return {}
    literals = {
        operand: np.asarray(atom.val, aval.dtype)
        for operand, (atom, aval) in enumerate(zip(equation.inputs, equation.in_avals, strict=True))
        if isinstance(atom, Literal) and not jax_internals.is_differentiable(aval)
    }
    known = {k: x for k, x in equation.known.items() if not jax_internals.is_differentiable(x)}
    return literals | known


def _kept(
    equation: Equation,
    active: tuple[bool, ...],
    sparse: bool,
    linearise: Callable[[], Linearised],
) -> Linearised:
    name = _identity(equation)
    if name is None:
        return linearise()
    indices = known_values.key(_indices(equation, sparse))
    key = name, equation.in_avals, active, sparse, indices
    return _linearisations.get(key, linearise, keep=_has_no_tracers)


def _only_while_running(equation: Equation, why: str) -> OnlyWhileRunning:
    line = jax_internals.source_line(equation) or "an unknown line"
    return OnlyWhileRunning(f"a custom rule in '{equation.name}' at {line}: {why}")


def _has_no_tracers(linearised: Linearised) -> bool:
    return not any(map(jax_internals.is_tracer, linearised.constants))


def _has_collective(equation: Equation) -> bool:
    """Whether devices exchange values, outside any shard_map that the equation contains."""
    return equation.name != "shard_map" and not jax_internals.COLLECTIVES.isdisjoint(
        tracing.primitive_names([equation])
    )


def _identity(equation: Equation) -> Hashable:
    """What two equations share if JAX differentiates them alike; None if that is unknown."""
    parameter = _CUSTOM.get(equation.name)
    if parameter is not None:
        return ById(equation.params[parameter])
    try:
        hash(identity := (equation.primitive, tuple(equation.params.items())))
    except TypeError:
        return None
    return identity


def is_custom(equation: Equation) -> bool:
    """Whether the derivative of an equation is user code."""
    return equation.name in _CUSTOM


def has_custom(equations: Iterable[Any]) -> bool:
    """Whether the derivative of any of some equations, or of one inside these, is user code."""
    return not _CUSTOM.keys().isdisjoint(tracing.primitive_names(equations))


def activity(program: Program, varied: set[int] | None = None) -> Iterator[tuple[bool, ...]]:
    """For each equation which operands depend on what is differentiated, as JAX counts it.

    Args:
        program: the program.
        varied: the inputs that are differentiated, by default all that have a tangent space; in the
            end all variables that depend on these.
    """
    avals = program.avals
    if varied is None:
        inputs = range(program.num_inputs)
        varied = {k for k in inputs if jax_internals.is_differentiable(avals[k])}
    for equation in program.equations:
        active = tuple(not isinstance(k, Literal) and k in varied for k in equation.inputs)
        yield active
        if any(active) and jax_internals.has_derivative(equation.primitive):
            smooth = filter(lambda k: jax_internals.is_differentiable(avals[k]), equation.outputs)
            varied.update(smooth)


def custom_derivative(equation: Equation, active: tuple[bool, ...]) -> Linearised | None:
    """The traced derivative of an equation that contains user code; None where it needs none.

    Raises:
        OnlyWhileRunning: where a custom rule cannot be traced by itself.
    """
    if not any(active) or not has_custom([equation]):
        return None
    if not any(map(jax_internals.is_differentiable, equation.out_avals)):
        return None
    return _linearised(equation, active)


def key(program: Program) -> Hashable:
    """Identifies a program and its derivative by all but the values of its constants.

    Custom rules are traced, so that a rule that changes (through its closure, say) is seen.

    Raises:
        OnlyWhileRunning: where a custom rule cannot be traced by itself, or has left something in
            the program that was gone with its call.
    """
    try:
        tracing.check_constants(program.equations)
    except jax.errors.UnexpectedTracerError as error:
        raise OnlyWhileRunning(type(error).__name__) from error
    derivatives: tuple[Hashable, ...] = ()
    if has_custom(program.equations):
        pairs = zip(program.equations, activity(program), strict=True)
        derivatives = tuple(_derivative_key(equation, active) for equation, active in pairs)
    return program_key(program, _body_key), derivatives


def _derivative_key(equation: Equation, active: tuple[bool, ...]) -> Hashable:
    if equation.name == "scan" and any(active) and has_custom([equation]):
        # Its rules one by one: to linearise the whole scan takes several times as long.
        keys = _keys_in_scan(equation, active)
        if keys is not None:
            return keys
    parts = custom_derivative(equation, active)
    if parts is None:
        return None
    constants = tuple(map(constant_key, parts.constants))
    return program_key(parts.program, _body_key), constants, parts.reverse


def _keys_in_scan(equation: Equation, active: tuple[bool, ...]) -> Hashable:
    """The derivatives of a scan's body; None where what varies may depend on its rules."""
    program, _ = tracing.flatten_closed(equation.params["jaxpr"])
    if any(each.params.get("symbolic_zeros") for each in program.equations):
        return None
    consts, carry = jax_internals.scan_counts(equation)
    varied = {k for k, wanted in enumerate(active) if wanted}
    before = -1
    while before < len(varied):
        before, reached = len(varied), set(varied)
        flags = list(activity(program, reached))
        results = enumerate(program.outputs[:carry], consts)
        varied.update(k for k, atom in results if not isinstance(atom, Literal) and atom in reached)
    return tuple(map(_derivative_key, program.equations, flags))


def _body_key(equation: Equation) -> Hashable:
    """A custom call by its body, not its rule."""
    return jaxpr_key(equation.params["call_jaxpr"], _body_key) if is_custom(equation) else None
