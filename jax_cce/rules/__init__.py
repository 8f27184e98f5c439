"""Local Jacobians: the registered rules first, JAX's own linearisation for everything else.

One module for each family of primitives (elementwise, layout, contraction); `registry` holds what
they are written with, `linearised` is the default.
"""

import functools
from collections.abc import Hashable
from typing import Any

from jax_cce import tracing
from jax_cce.rules import contraction, elementwise, layout  # noqa: F401 - these register rules
from jax_cce.rules.linearised import Linearised, linearise
from jax_cce.rules.registry import RULES, LocalJacobian
from jax_cce.structure import Unrepresentable
from jax_cce.tracing import Equation

__all__ = ["custom_derivative_key", "local_jacobian"]

_CUSTOM = {"custom_jvp_call": "jvp_jaxpr_fun", "custom_vjp_call": "fwd_jaxpr_thunk"}


def local_jacobian(equation: Equation, active: tuple[bool, ...]) -> LocalJacobian:
    """The local Jacobian of an equation with respect to its active operands.

    Raises:
        TypeError, ValueError, NotImplementedError: what JAX raises where the primitive has no
            derivative, with the primitive and the user's source line added.
    """
    if not any(map(tracing.is_differentiable, equation.out_avals)):
        return LocalJacobian({})
    rule = RULES.get(equation.primitive)
    if rule is not None:
        try:
            return rule(equation, active)
        except Unrepresentable:
            pass
    try:
        return linearise(
            equation.name,
            functools.partial(tracing.bind, equation),
            equation.in_avals,
            equation.out_avals,
            active,
        )
    except (TypeError, ValueError, NotImplementedError) as error:
        raise _located(error, equation) from error


def _located(error: Exception, equation: Equation) -> Exception:
    line = tracing.source_line(equation) or "an unknown line"
    where = f"\nThis was raised while differentiating the primitive '{equation.name}' at {line}."
    if type(error) in (TypeError, ValueError, NotImplementedError):
        return type(error)(f"{error}{where}")
    error.add_note(where.strip())
    return error


# Tracing a custom rule takes milliseconds; JAX hands out the same function object again for
# library functions under jit (such as relu), so their keys are kept.
_KEYS: dict[int, tuple[Any, dict[Any, Hashable]]] = {}
_MOST_KEYS = 1024


def custom_derivative_key(equation: Equation) -> Hashable:
    """Identifies an equation whose derivative is user code; None for any other equation.

    The rule is traced, so that a rule that changes (through its closure, say) is seen.
    """
    parameter = _CUSTOM.get(equation.name)
    if parameter is None:
        return None
    function = equation.params[parameter]
    _, known = _KEYS.get(id(function), (None, {}))
    if equation.in_avals not in known:
        if len(_KEYS) >= _MOST_KEYS:
            _KEYS.clear()
        known[equation.in_avals] = _traced_key(equation, function)
        _KEYS[id(function)] = function, known
    return known[equation.in_avals]


def _traced_key(equation: Equation, function: Any) -> Hashable:
    active = tuple(map(tracing.is_differentiable, equation.in_avals))
    apply = functools.partial(tracing.bind, equation)
    try:
        parts = Linearised(apply, equation.in_avals, equation.out_avals, active)
    except Exception:  # an equation that is not differentiated may have no derivative
        return tracing.Same(function)
    constants = tuple(tracing.constant_key(value) for value in parts.constants)
    # The traced program repeats the custom call for the primal: by its body, not its rule.
    key = tracing.program_key(parts.program, _body_key)
    return key, constants, parts.reverse


def _body_key(equation: Equation) -> Hashable:
    if equation.name not in _CUSTOM:
        return None
    return tracing.jaxpr_key(equation.params["call_jaxpr"], custom_derivative_key)
