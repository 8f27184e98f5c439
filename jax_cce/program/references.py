"""Mutable references become values, wherever a program makes, reads or writes them.

JAX does that to a jaxpr once all differentiation is over; here it is yet to come. So JAX gets to
see references, and the calls and loops that they are used in; all else is hidden from it and put
back afterwards. Custom derivative rules would be lost otherwise.
"""

from collections.abc import Sequence
from typing import Any

import jax
from jax.extend.core import Primitive

from jax_cce import jax_internals
from jax_cce.jax_internals import is_reference, uses_references
from jax_cce.program.flat import Equation

__all__ = ["check_operands", "without_references"]

# What means its body, perhaps under a condition or in a loop.
_ENTERED = {*jax_internals.INLINED, "cond", "run_state", "scan", "shard_map", "while"}
_READ = {"freeze", "get", "swap"}
_SEEN = {*_READ, "addupdate", "empty_ref", "free_ref", "new_ref"}


def without_references(closed: Any) -> Any:
    """A closed jaxpr in which reads and writes of mutable references have become values.

    References that come from outside are read before all else, and written after it.

    Raises:
        NotImplementedError: for an equation of which it is not known how it uses a reference.
    """
    if not uses_references(closed):
        return closed
    program, consts = _hidden(closed), closed.consts
    outside = [k for k, var in enumerate(closed.jaxpr.constvars) if is_reference(var.aval)]
    if not outside:
        return _restored(jax_internals.discharged(program))
    references = [consts[k] for k in outside]

    def with_references(references: Sequence[Any], *args: Any) -> Any:
        values = list(consts)
        for k, reference in zip(outside, references, strict=True):
            values[k] = reference
        return jax.core.eval_jaxpr(program.jaxpr, values, *args)

    args = [jax_internals.abstract(aval) for aval in closed.in_avals]
    pure = jax_internals.discharged(jax.make_jaxpr(with_references)(references, *args))
    first = len(pure.jaxpr.outvars) - len(references)

    def with_values(*args: Any) -> Any:
        before = [reference[...] for reference in references]
        results = jax.core.eval_jaxpr(pure.jaxpr, pure.consts, *before, *args)
        names = zip(pure.jaxpr.invars, pure.jaxpr.outvars[first:], strict=False)
        for reference, after, (old, new) in zip(references, results[first:], names, strict=True):
            if new is not old:
                reference[...] = after
        return results[:first]

    return _restored(jax.make_jaxpr(with_values)(*args))


def check_operands(equation: Equation) -> None:
    """Refuses an equation on differentiated values and a reference from outside.

    Raises:
        Exception: for a write, as JAX does.
        NotImplementedError: for anything else.
    """
    for aval in equation.in_avals:
        if is_reference(aval) and equation.name in _SEEN:
            raise Exception(
                "performing a set/swap operation with a differentiated value on a "
                f"non-differentiated array reference of type {aval}. Make the reference "
                "inside of the differentiated function, or stop the gradient of the value."
            )
        if is_reference(aval):
            raise _unknown_use(equation, equation.name)


def _unknown_use(equation: Any, name: str) -> Exception:
    line = jax_internals.source_line(equation) or "an unknown line"
    return NotImplementedError(
        f"The primitive '{name}' at {line} is given a mutable reference, and how that is to be "
        "differentiated is not known. Read the reference before, and pass the value."
    )


_hiding = Primitive("hiding")
_hiding.multiple_results = True
_hiding.def_effectful_abstract_eval(
    lambda *avals, equation: (
        [var.aval for var in equation.outvars],
        jax_internals.other_effects(equation),
    )
)


def _hidden(jaxpr: Any) -> Any:
    """A jaxpr of which all is hidden but what has to do with references."""
    equations = [new for equation in jaxpr.eqns for new in _shown(equation)]
    return jax_internals.with_equations(jaxpr, equations)


def _shown(equation: Any) -> list[Any]:
    name = equation.primitive.name
    if name in _READ and jax_internals.is_without_gradient(equation.invars[0].aval):
        return _stopped(equation)
    if name in _SEEN:
        return [equation]
    if name in _ENTERED and uses_references(equation):
        return [_with_bodies(equation, _hidden)]
    if any(is_reference(atom.aval) for atom in equation.invars):
        raise _unknown_use(equation, name)
    if "call_jaxpr" in equation.params and uses_references(equation):
        equation = _with_bodies(equation, without_references)
    effects = jax_internals.other_effects(equation)
    return [equation.replace(primitive=_hiding, params={"equation": equation}, effects=effects)]


def _stopped(equation: Any) -> list[Any]:
    """A read whose result is a constant as far as derivatives are concerned."""
    (result,) = equation.outvars
    stop = jax.make_jaxpr(jax.lax.stop_gradient)(jax_internals.abstract(result.aval)).jaxpr
    (raw,), (constant,) = stop.invars, stop.eqns
    return [equation.replace(outvars=[raw]), *_shown(constant.replace(outvars=[result]))]


def _restored(jaxpr: Any) -> Any:
    """A jaxpr with what was hidden put back."""
    equations = []
    for each in jaxpr.eqns:
        if each.primitive is _hiding:
            hidden = each.params["equation"]
            equations.append(hidden.replace(invars=each.invars, outvars=each.outvars))
        else:
            equations.append(_with_bodies(each, _restored))
    return jax_internals.with_equations(jaxpr, equations)


def _with_bodies(equation: Any, change: Any) -> Any:
    """An equation whose jaxprs are changed."""

    def changed(value: Any) -> Any:
        if type(value) is tuple:
            return tuple(map(changed, value))
        return change(value) if jax_internals.is_jaxpr(value) else value

    params = {name: changed(value) for name, value in equation.params.items()}
    return equation.replace(params=params)
