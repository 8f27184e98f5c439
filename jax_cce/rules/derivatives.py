"""Local Jacobians: the registered rules first, JAX's own linearisation for everything else.

The modules of the families of primitives are imported here, so that their rules are registered.
"""

import functools
from collections.abc import Hashable

from jax_cce import jax_internals
from jax_cce.algebra.terms import Unrepresentable
from jax_cce.caches import Cache
from jax_cce.program import tracing
from jax_cce.program.flat import Equation
from jax_cce.program.identity import ById, constant_key, jaxpr_key, program_key
from jax_cce.rules import (  # noqa: F401
    contraction,
    control,
    convolution,
    elementwise,
    indexing,
    layout,
    operators,
    structural_zeros,
)
from jax_cce.rules.book import rules_for
from jax_cce.rules.linearised import Linearised
from jax_cce.rules.local import LocalJacobian

__all__ = [
    "custom_derivative",
    "custom_derivative_key",
    "is_custom",
    "local_jacobian",
]

# The calls whose derivative is user code, and the parameter that holds it.
_CUSTOM = {"custom_jvp_call": "jvp_jaxpr_fun", "custom_vjp_call": "fwd_jaxpr_thunk"}


def local_jacobian(
    equation: Equation, active: tuple[bool, ...], *, sparse: bool = False
) -> LocalJacobian:
    """The local Jacobian of an equation with respect to its active operands.

    Args:
        equation: the equation.
        active: for each operand whether it is differentiated.
        sparse: whether structural zeros matter.

    Raises:
        TypeError, ValueError, NotImplementedError: what JAX raises where the primitive has no
            derivative, with the primitive and the user's source line added.
    """
    varied = (aval for aval, wanted in zip(equation.in_avals, active, strict=True) if wanted)
    smooth = filter(jax_internals.is_differentiable, equation.out_avals)
    if not any(map(jax_internals.size, varied)) or not any(map(jax_internals.size, smooth)):
        return LocalJacobian({})
    for rule in rules_for(equation, sparse=sparse):
        try:
            return rule(equation, active)
        except Unrepresentable:
            pass
    try:
        return _linearised(equation, active, sparse).local_jacobian
    except (TypeError, ValueError, NotImplementedError) as error:
        raise _located(error, equation) from error


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
    def linearise() -> Linearised:
        apply = functools.partial(jax_internals.bind, equation)
        reverse = getattr(equation.primitive, "reverse_only", False) or _has_collective(equation)
        avals = equation.in_avals, equation.out_avals
        return Linearised(equation.name, apply, *avals, active, reverse=reverse, sparse=sparse)

    name = _identity(equation)
    if name is None:
        return linearise()
    key = name, equation.in_avals, active, sparse
    return _linearisations.get(key, linearise, keep=_has_no_tracers)


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


def custom_derivative(equation: Equation) -> Linearised | None:
    """The traced derivative of an equation whose derivative is user code; None if it has none."""
    active = tuple(map(jax_internals.is_differentiable, equation.in_avals))
    try:
        return _linearised(equation, active)
    except Exception:  # an equation that is not differentiated may have no derivative
        return None


def custom_derivative_key(equation: Equation) -> Hashable:
    """Identifies an equation whose derivative is user code; None for any other equation.

    The rule is traced, so that a rule that changes (through its closure, say) is seen.
    """
    if not is_custom(equation):
        return None
    parts = custom_derivative(equation)
    if parts is None:
        return _identity(equation)
    constants = tuple(map(constant_key, parts.constants))
    # The traced program repeats the custom call for the primal: by its body, not its rule.
    return program_key(parts.program, _body_key), constants, parts.reverse


def _body_key(equation: Equation) -> Hashable:
    if not is_custom(equation):
        return None
    return jaxpr_key(equation.params["call_jaxpr"], custom_derivative_key)
