"""The planned Jacobian as one primitive of JAX, which sees over how many points it is mapped.

How a Jacobian is best computed depends on the number of points that `jax.vmap` stacks, which
nobody knows yet where a function is traced under `jax.jit`, `jax.lax.scan` and the like and mapped
afterwards. So what is bound there is one equation that holds the Jacobian's program and what it
was made from. Its batching rule plans anew where the number of points makes a difference. In all
else it is the call of its program: it is lowered and exported as that, differentiated as that, and
inlined where it is itself part of a function whose Jacobian is wanted.
"""

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import jax
from jax import numpy as jnp
from jax.extend import core as jex_core
from jax.interpreters import ad, batching, mlir

from jax_cce import jax_internals
from jax_cce.program import tracing
from jax_cce.program.flat import Program

__all__ = ["PLANNED_JACOBIAN", "can_hold", "staged"]

PLANNED_JACOBIAN = jex_core.Primitive(jax_internals.PLANNED_JACOBIAN)
PLANNED_JACOBIAN.multiple_results = True


class ByPoints(Protocol):
    """A Jacobian's program for any number of points."""

    def __call__(self, points: int) -> Callable[[Sequence[Any]], Any]:
        """The program for each of so many points, as a function of its arguments."""


class _Origin:
    """What an equation's program is made from; it holds no tracer.

    Args:
        by_points: the programs.
        arguments: the arguments of these, None for each that is an operand of the equation.
    """

    def __init__(self, by_points: ByPoints, arguments: Sequence[Any]) -> None:
        self._by_points, self._arguments = by_points, list(arguments)
        self._precision = jax.config.jax_default_matmul_precision  # type: ignore[attr-defined]

    def __repr__(self) -> str:
        return "..."

    def program(self, points: int) -> Callable[..., Any]:
        """The program for each of so many points, as a function of the operands."""
        run = self._by_points(points)

        def of_operands(*operands: Any) -> Any:
            rest = iter(operands)
            with jax.default_matmul_precision(self._precision):
                return run([next(rest) if x is None else x for x in self._arguments])

        return of_operands

    def mapped(self, sizes: Sequence[int], mapped: Sequence[Sequence[bool]]) -> Callable[..., Any]:
        """The program under nested maps, the outermost first, over leading axes of operands."""
        run = self.program(math.prod(sizes))
        for level in reversed(range(len(sizes))):
            axes = tuple(0 if levels[level] else None for levels in mapped)
            run = jax.vmap(run, axes, axis_size=sizes[level])
        return run


def can_hold(program: Program, arguments: Sequence[Any]) -> bool:
    """Whether the Jacobian of a program at some arguments may be one equation.

    What reads the axes around it, or does more than to return values, stays a part of the program
    that is under construction; so does everything that is shared out over the devices of a mesh.
    Where a transformation around us is seen in the arguments, there is nothing to wait for.
    """
    if not all(map(jax_internals.is_staged, filter(jax_internals.is_tracer, arguments))):
        return False
    if jax_internals.has_mesh() or jax_internals.is_symbolic(program.avals):
        return False
    if any(equation.origin.effects for equation in program.equations):
        return False
    return jax_internals.NEED_AXES.isdisjoint(tracing.primitive_names(program.equations))


def staged(by_points: ByPoints, arguments: Sequence[Any]) -> Any:
    """What the program for a single point returns, by one equation of the trace around us.

    Args:
        by_points: the programs; they return trees of arrays.
        arguments: the arguments of these, some of them tracers.
    """
    operands = [x for x in arguments if jax_internals.is_tracer(x)]
    kept = [None if jax_internals.is_tracer(x) else x for x in arguments]
    origin = _Origin(by_points, kept)
    avals = [jax_internals.abstract(jax.typeof(x)) for x in operands]
    closed, shapes = jax.make_jaxpr(origin.program(1), return_shape=True)(*avals)
    tree = jax.tree.structure(shapes)
    every = tuple(range(len(jax.tree.leaves(shapes))))
    # A custom rule may close over tracers.
    if closed.effects or any(map(jax_internals.is_tracer, closed.consts)):
        return jax.tree.unflatten(tree, jex_core.jaxpr_as_fun(closed)(*operands))
    unmapped = ((),) * len(operands)
    closed = jax_internals.pruned(closed, [True] * len(every))
    results = PLANNED_JACOBIAN.bind(
        *operands, jaxpr=closed, origin=origin, kept=every, sizes=(), mapped=unmapped
    )
    return jax.tree.unflatten(tree, results)


def _run(*operands: Any, jaxpr: Any, **_: Any) -> list[Any]:
    return jex_core.jaxpr_as_fun(jaxpr)(*operands)


def _types(*_: Any, jaxpr: Any, **__: Any) -> list[Any]:
    return list(jaxpr.out_avals)


def _batched(
    operands: Sequence[Any],
    axes: Sequence[Any],
    *,
    jaxpr: Any,
    origin: _Origin,
    kept: tuple[int, ...],
    sizes: tuple[int, ...],
    mapped: tuple[tuple[bool, ...], ...],
) -> tuple[list[Any], list[int]]:
    # An axis that is not mapped is None in JAX 0.12 and a mark of its own in 0.10.
    over = [isinstance(axis, int) for axis in axes]
    moved = [
        jnp.moveaxis(x, axis, 0) if is_mapped else x
        for x, axis, is_mapped in zip(operands, axes, over, strict=True)
    ]
    size = next(x.shape[0] for x, is_mapped in zip(moved, over, strict=True) if is_mapped)
    sizes = (size, *sizes)
    mapped = tuple((now, *before) for now, before in zip(over, mapped, strict=True))
    avals = [jax_internals.abstract(jax.typeof(x)) for x in moved]
    closed = jax.make_jaxpr(origin.mapped(sizes, mapped))(*avals)
    used = [k in kept for k in range(len(closed.out_avals))]
    closed = jax_internals.pruned(closed, used)
    results = PLANNED_JACOBIAN.bind(
        *moved, jaxpr=closed, origin=origin, kept=kept, sizes=sizes, mapped=mapped
    )
    return results, [0] * len(results)


def _pushed(
    primals: Sequence[Any], tangents: Sequence[Any], *, jaxpr: Any, **_: Any
) -> tuple[list[Any], list[Any]]:
    moving = [k for k, tangent in enumerate(tangents) if not isinstance(tangent, ad.Zero)]

    def of_moving(*varied: Any) -> list[Any]:
        operands = list(primals)
        for k, x in zip(moving, varied, strict=True):
            operands[k] = x
        return jex_core.jaxpr_as_fun(jaxpr)(*operands)

    results, pushed = jax.jvp(
        of_moving, [primals[k] for k in moving], [tangents[k] for k in moving]
    )
    return results, [
        tangent
        if jax_internals.is_differentiable(jax.typeof(x))
        else ad.Zero(jax.typeof(x).to_tangent_aval())
        for x, tangent in zip(results, pushed, strict=True)
    ]


def _without(equation: Any, used: Sequence[bool]) -> Any:
    """The equation of those outputs alone that are used."""
    params = equation.params
    jaxpr = jax_internals.pruned(params["jaxpr"], used)
    kept = tuple(itertools.compress(params["kept"], used))
    outputs = list(itertools.compress(equation.outvars, used))
    return equation.replace(outvars=outputs, params={**params, "jaxpr": jaxpr, "kept": kept})


PLANNED_JACOBIAN.def_impl(_run)
# JAX 0.12 lowers what has a primitive of its new kind inside to plain ones before all else.
PLANNED_JACOBIAN.to_lojax = _run  # type: ignore[method-assign]
PLANNED_JACOBIAN.def_abstract_eval(_types)
batching.primitive_batchers[PLANNED_JACOBIAN] = _batched
ad.primitive_jvps[PLANNED_JACOBIAN] = _pushed
mlir.register_lowering(PLANNED_JACOBIAN, jax_internals.lowered_as_call)
jax_internals.prune_dead_code(PLANNED_JACOBIAN, _without)
jax_internals.check_errors_inside(PLANNED_JACOBIAN)
