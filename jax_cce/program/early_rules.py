"""Custom rules that run when a trace reaches them.

While JAX differentiates, a custom rule runs where its function is called, and what it reads by its
closure, such as the variable of a loop, may be another value afterwards. A trace keeps the rule for
later; here it is run at once, and JAX keeps what it gave.
"""

import contextlib
import functools
import weakref
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from jax_cce.jax_internals import (
    Literal,
    StagingTrace,
    current_trace,
    exclude_from_user_frames,
    has_derivative,
    is_differentiable,
    is_staged,
)

__all__ = ["early_rules"]

# The frames of these methods are none of the user's.
exclude_from_user_frames(__file__)


class _EarlyRules(StagingTrace):
    """A trace that runs custom rules when it reaches them, and not when they are asked for."""

    __slots__ = ()

    def process_custom_jvp_call(self, prim, fun, jvp, tracers, /, **params):  # type: ignore
        results = super().process_custom_jvp_call(prim, fun, jvp, tracers, **params)
        _run_rule(self, results, prim, jvp)
        return results

    def process_custom_vjp_call(self, prim, fun, fwd, bwd, tracers, /, **params):  # type: ignore
        results = super().process_custom_vjp_call(prim, fun, fwd, bwd, tracers, **params)
        _run_rule(self, results, prim, fwd)
        return results


class _Reached(NamedTuple):
    """What a trace has reached: which variables vary, and what its rules left in JAX's stores."""

    varied: dict[Any, bool]
    stored: list[tuple[Any, Any]]


_reached: weakref.WeakKeyDictionary[Any, _Reached] = weakref.WeakKeyDictionary()


def early_rules(fun: Callable[..., Any], restore: list[Callable[[], None]]) -> Callable[..., Any]:
    """A function to trace, whose custom rules run when the trace reaches them.

    Args:
        fun: the function; all its floating-point arguments count as differentiated.
        restore: gets what is to be called when the trace is finished.
    """

    def traced(*args: Any) -> Any:
        trace = current_trace()
        if type(trace) is StagingTrace:
            varied = {x.val: is_differentiable(x.aval) for x in args if is_staged(x)}
            reached = _reached[trace] = _Reached(varied, [])
            trace.__class__ = _EarlyRules
            restore.append(functools.partial(_refill, reached.stored))
        return fun(*args)

    return traced


def _run_rule(trace: Any, results: Sequence[Any], primitive: Any, rule: Any) -> None:
    eqn = results[0].parent if results and is_staged(results[0]) else None
    if eqn is None or eqn.primitive is not primitive:
        return
    params, reached = eqn.params, _reached[trace]
    active = [_varies(x, reached.varied) for x in eqn.in_tracers[params["num_consts"] :]]
    if not any(active):
        return
    try:
        if "fwd_jaxpr_thunk" in params:
            params["fwd_jaxpr_thunk"].call_wrapped(*active)
        else:
            zeros = params["symbolic_zeros"]
            params["jvp_jaxpr_fun"].call_wrapped(*(zeros and not wanted for wanted in active))
    except Exception:
        pass  # whoever asks for the derivative will meet it again
    for store in rule.stores:
        if store is not None:
            with contextlib.suppress(Exception):  # an empty one
                reached.stored.append((store, store.val))
            # The call of the function expects that its rule has not been run.
            store.reset()


def _refill(stored: list[tuple[Any, Any]]) -> None:
    for store, value in stored:
        store.reset()
        store.store(value)


def _varies(x: Any, varied: dict[Any, bool]) -> bool:
    """Whether a value under construction depends on what is differentiated."""
    pending = [x]
    while pending:
        at = pending[-1]
        eqn = at.parent
        if isinstance(at.val, Literal) or at.val in varied or eqn is None:
            pending.pop()
            continue
        unknown = [y for y in eqn.in_tracers if y.parent is not None and y.val not in varied]
        if unknown:
            pending += unknown
            continue
        active = has_derivative(eqn.primitive) and any(_known(y, varied) for y in eqn.in_tracers)
        for var in eqn.outvars:
            varied[var] = active and is_differentiable(var.aval)
        pending.pop()
    return _known(x, varied)


def _known(x: Any, varied: dict[Any, bool]) -> bool:
    return not isinstance(x.val, Literal) and varied.get(x.val, False)
