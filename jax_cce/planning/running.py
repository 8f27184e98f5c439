"""What JAX differentiates while a function runs, where no trace of the function will do.

Python control flow may depend on values, and a custom rule may read what exists only inside the
call of its function. JAX then runs the function where it is called, on its values or on the
surrounding tracers, as `jax.jacrev` does. What is eliminated is the graph of the linear map that
this yields: of the pushforward, or of the pullback where a custom_vjp has no forward mode.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax

from jax_cce import jax_internals
from jax_cce.program import calls, tracing
from jax_cce.program.calls import Call, Traced
from jax_cce.program.flat import Program
from jax_cce.rules.derivatives import OnlyWhileRunning
from jax_cce.rules.linearised import REVERSE_ONLY
from jax_cce.rules.linearity import Dependence, dependence, is_linear

__all__ = ["Ran", "run", "why_left_to_jax"]


# What JAX itself has to say, because a trace lacks the values.
_ONLY_AT_VALUES = (
    jax.errors.ConcretizationTypeError,
    jax.errors.NonConcreteBooleanIndexError,
    jax.errors.UnexpectedTracerError,
)


def why_left_to_jax(error: Exception) -> str:
    """What an error says of why no trace of the function can be differentiated; "" if not that.

    The error itself holds on to the tracers that it has passed.
    """
    if isinstance(error, OnlyWhileRunning):
        return str(error)
    if isinstance(error, _ONLY_AT_VALUES) or jax_internals.is_leak(error):
        return type(error).__name__
    return ""


class Ran(NamedTuple):
    """A function that ran, and its linear map there.

    Attributes:
        function: of the differentiable leaves; its values, and its traced auxiliary data.
        chosen: positions of the differentiable leaves.
        values: leaves of the value; complex ones of real inputs are taken apart.
        types: the abstract values of the leaves as they were.
        value_tree: tree structure of the value.
        aux: the auxiliary data.
        seeds: abstract values of what the linear map takes.
        linear: the linear map.
        transposed: whether it is the pullback.
        rows_only: whether it may be nonlinear, or reads values, so that it has to be left to JAX.
    """

    function: Callable[..., Any]
    chosen: list[int]
    values: list[Any]
    types: tuple[Any, ...]
    value_tree: Any
    aux: Any
    seeds: list[Any]
    linear: Traced
    transposed: bool
    rows_only: bool

    @property
    def kind(self) -> str:
        """What the linear map is called."""
        return "pullback" if self.transposed else "pushforward"


def run(call: Call) -> Ran:
    """Runs the function of a call where it is called, under JAX's differentiation.

    Raises:
        Exception: what `jax.jacrev` raises.
    """
    chosen = [k for k, aval in enumerate(call.avals) if jax_internals.is_differentiable(aval)]
    at = [call.leaves[k] for k in chosen]
    trees: list[Any] = []

    def function(*varied: Any) -> tuple[list[Any], list[Any]]:
        leaves = list(call.leaves)
        for position, leaf in zip(chosen, varied, strict=True):
            leaves[position] = leaf
        values, value_tree, aux, aux_tree = call.run(leaves)
        dynamic = [leaf if jax_internals.is_tracer(leaf) else None for leaf in aux]
        trees[:] = [value_tree, aux_tree, aux, tuple(map(jax.typeof, values))]
        return [part for value in values for part in _parts(value, call)], dynamic

    seeds = [call.avals[k] for k in chosen]
    transposed = False
    try:
        values, pushforward, moving = jax.linearize(function, *at, has_aux=True)
        program, constants = _traced(pushforward, seeds)
        if REVERSE_ONLY in tracing.primitive_names(program.equations):
            transposed = True
            pullback = jax.linear_transpose(pushforward, *map(jax_internals.abstract, seeds))
    except _ONLY_AT_VALUES:
        raise
    except (TypeError, ValueError, NotImplementedError):
        # Some primitives have no linearisation, but a reverse mode.
        transposed = True
        values, pullback, moving = jax.vjp(function, *at, has_aux=True)
    # Of a rule that is not differentiated JAX may keep its own tracers for later.
    tracing.check_constants((), jax_internals.surrounding_constants())
    if not transposed:
        # What a user's rule does to a tangent need not be linear; JAX may refuse to transpose it.
        found = dependence(program, constants, range(len(seeds)), program.outputs, by_jax=True)
        rows_only = Dependence.OTHER in found
    else:
        seeds = [jax.typeof(value) for value in values]
        try:
            program, constants = _traced(lambda *cotangents: pullback([*cotangents]), seeds)
            tracing.check_constants(program.equations, constants)
            # JAX's own maps are linear; gradient clipping under custom_vjp, say, is not.
            rows_only = not is_linear(program, constants)
        except Exception as error:
            # JAX calls the pullback on the residuals' values, where there are any, and has the last
            # word on what it does there.
            concrete = isinstance(error, _ONLY_AT_VALUES) and not isinstance(
                error, jax.errors.UnexpectedTracerError
            )
            if concrete and any(map(jax_internals.is_staged, at)):
                raise
            rows_only = True
            program, constants = Program([], 0, 0, [], ()), []
    value_tree, aux_tree, aux, types = trees
    aux = [leaf if fresh is None else fresh for leaf, fresh in zip(aux, moving, strict=True)]
    return Ran(
        function,
        chosen,
        values,
        types,
        value_tree,
        jax.tree.unflatten(aux_tree, aux),
        seeds,
        Traced(program, constants, len(program.outputs), None, calls.no_aux),
        transposed,
        rows_only,
    )


def _parts(value: Any, call: Call) -> list[Any]:
    """Real and imaginary part of a complex value of real inputs, else the value."""
    return jax_internals.real_parts(value) if call.is_real else [value]


def _traced(
    linear: Callable[..., Sequence[Any]], seeds: Sequence[Any]
) -> tuple[Program, list[Any]]:
    avals = [jax_internals.abstract(aval) for aval in seeds]
    with jax_internals.allowing(*(aval.dtype for aval in avals)):
        return tracing.trace(lambda *vectors: [*linear(*vectors)], avals, hoist=True)
