"""The planned Jacobian as one primitive of JAX, which sees over how many points it is mapped.

How a Jacobian is best computed depends on the number of points that `jax.vmap` stacks, which
nobody knows yet where a function is traced under `jax.jit`, `jax.lax.scan` and the like and mapped
afterwards. So what is bound is one equation that knows what the Jacobian is made from. Its batching
rule counts points. The program is made when somebody asks for it, for as many points as there are
then: for lowering and export, which call it, for differentiation, and where the equation is itself
part of a function whose Jacobian is wanted, both of which inline it.
"""

import functools
import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import jax
from jax import numpy as jnp
from jax.extend import core as jex_core
from jax.interpreters import ad, batching, mlir

from jax_cce import jax_internals
from jax_cce.jax_internals import LazyJaxpr
from jax_cce.native.kernels import Kernel, Signature
from jax_cce.program import tracing
from jax_cce.program.flat import Program
from jax_cce.rules.book import is_described_elsewhere

__all__ = ["PLANNED_JACOBIAN", "can_hold", "staged"]

PLANNED_JACOBIAN = jex_core.Primitive(jax_internals.PLANNED_JACOBIAN)
PLANNED_JACOBIAN.multiple_results = True

# The operations from which on XLA gives a program to a thread of its own (1,000), and some more;
# and the results, and bytes of them, for which that is worth its while.
_OPERATIONS, _MANY, _LARGE = 2048, 8, 2 << 20


class ByPoints(Protocol):
    """A Jacobian's program for any number of points."""

    def __call__(self, points: int, over: Sequence[bool]) -> Callable[[Sequence[Any]], Any]:
        """The program for each of so many points, as a function of its arguments.

        Args:
            points: how many points there are.
            over: which of the arguments differ between the points.
        """

    def kernel(self, signature: Signature, points: int | None, *, in_loop: bool) -> Kernel | None:
        """Machine code for it; None where XLA compiles it.

        Args:
            signature: how it is called.
            points: how many points there are; None where there are no axes of them.
            in_loop: whether the steps of a loop call it.
        """


class _Origin:
    """What an equation's program is made from; it holds no tracer.

    Args:
        by_points: the programs.
        arguments: the arguments of these, None for each that is an operand of the equation.
    """

    def __init__(self, by_points: ByPoints, arguments: Sequence[Any]) -> None:
        self._by_points, self._arguments = by_points, list(arguments)
        self._in_loop = jax_internals.is_traced_in_loop()
        self._precision = jax.config.jax_default_matmul_precision  # type: ignore[attr-defined]

    def program(self, sizes: Sequence[int], mapped: Sequence[Sequence[bool]]) -> Callable[..., Any]:
        """The program under nested maps, as a function of the operands.

        Args:
            sizes: the number of points of each map, the outermost first.
            mapped: for each operand whether each map runs over it, along a leading axis.
        """
        points = math.prod(sizes)
        # How many a symbol stands for nobody knows.
        moving = iter(mapped)
        over = [x is None and any(next(moving)) for x in self._arguments]
        planned = self._by_points(points if isinstance(points, int) else 1, over)

        def run(*operands: Any) -> Any:
            rest = iter(operands)
            with jax.default_matmul_precision(self._precision):
                return planned([next(rest) if x is None else x for x in self._arguments])

        for level in reversed(range(len(sizes))):
            axes = tuple(0 if levels[level] else None for levels in mapped)
            run = jax.vmap(run, axes, axis_size=sizes[level])
        return run

    def kernel(
        self, sizes: Sequence[int], mapped: Sequence[Sequence[bool]], kept: Sequence[int]
    ) -> Kernel | None:
        """Machine code for some results of the program, where there is any.

        An operand over which one of the maps runs has axes of all of them there.
        """
        if not mapped or not all(isinstance(size, int) for size in sizes):
            return None
        over = [any(levels) for levels in mapped]
        points = math.prod(sizes) if sizes else None
        signature = Signature(self._arguments, over, len(sizes), kept)
        return self._by_points.kernel(signature, points, in_loop=self._in_loop)


class _Body(LazyJaxpr):
    """The program of one equation, made when it is asked for.

    Args:
        origin: what it is made from.
        operands: the types of the operands.
        results: the types of all that the program returns.
        kept: which of these the equation returns.
        sizes: see `_Origin.program`.
        mapped: see there.
        at_once: whether it is made as soon as the number of points is known to this trace.
    """

    def __init__(
        self,
        origin: _Origin,
        operands: Sequence[Any],
        results: Sequence[Any],
        kept: Sequence[int],
        sizes: tuple[int, ...] = (),
        mapped: tuple[tuple[bool, ...], ...] | None = None,
        *,
        at_once: bool = False,
    ) -> None:
        self._at_once = at_once
        self._origin, self._operands, self._results = origin, list(operands), list(results)
        self._kept, self._sizes = tuple(kept), sizes
        self._mapped = ((),) * len(operands) if mapped is None else mapped

    @property
    def out_avals(self) -> list[Any]:
        """The types of the results."""
        return [
            aval.update(shape=(*self._sizes, *aval.shape))
            for aval in (self._results[k] for k in self._kept)
        ]

    @property
    def is_large(self) -> bool:
        """Whether there are many results that take much memory, so that to get it takes time."""
        sizes = [aval.dtype.itemsize * jax_internals.size(aval) for aval in self.out_avals]
        return len(sizes) > _MANY and sum(sizes) >= _LARGE

    @functools.cached_property
    def made(self) -> Any:
        run = self._origin.program(self._sizes, self._mapped)
        closed = jax.make_jaxpr(run)(*map(jax_internals.abstract, self._operands))
        closed = jax_internals.lowered(closed)
        return jax_internals.pruned(closed, [k in self._kept for k in range(len(self._results))])

    def kernel(self) -> Kernel | None:
        """Machine code for it, where there is any."""
        if 0 in self._sizes:
            return None
        return self._origin.kernel(self._sizes, self._mapped, self._kept)

    def spread(self, operands: Sequence[Any]) -> list[Any]:
        """Operands of which those with axes of points have one for each map, for machine code."""
        results = []
        for x, aval, levels in zip(operands, self._operands, self._mapped, strict=True):
            if any(levels) and not all(levels):
                own = list(aval.shape[sum(levels) :])
                axes = [*itertools.compress(range(len(levels)), levels)]
                axes += range(len(levels), len(levels) + len(own))
                x = jax.lax.broadcast_in_dim(x, (*self._sizes, *own), axes)
            results.append(x)
        return results

    @property
    def is_spread(self) -> bool:
        """Whether each map runs over all operands that have axes of points."""
        return all(all(levels) or not any(levels) for levels in self._mapped)

    def without(self, used: Sequence[bool]) -> "_Body":
        """The same of fewer results."""
        kept = itertools.compress(self._kept, used)
        facts = self._sizes, self._mapped
        return _Body(self._origin, self._operands, self._results, tuple(kept), *facts)

    def bound(self, operands: Sequence[Any]) -> list[Any]:
        """The results of the equation on some operands."""
        if self._at_once and not any(map(jax_internals.is_mapped, operands)):
            constants = jax_internals.opened(self.made)[1]
            # A custom rule may close over tracers.
            if any(map(jax_internals.is_tracer, constants)):
                return jex_core.jaxpr_as_fun(self.made)(*operands)
        return PLANNED_JACOBIAN.bind(*operands, body=self)

    def over(self, operands: Sequence[Any], size: int, mapped: Sequence[bool]) -> "_Body":
        """The same for operands some of which have another leading axis, of points."""
        levels = tuple((now, *before) for now, before in zip(mapped, self._mapped, strict=True))
        facts = (size, *self._sizes), levels
        at_once = self._at_once
        return _Body(self._origin, operands, self._results, self._kept, *facts, at_once=at_once)


def can_hold(program: Program) -> bool:
    """Whether the Jacobian of a program may be one equation.

    What reads the axes around it, or does more than to return values, stays a part of the program
    that is under construction; so does everything that is shared out over the devices of a mesh,
    and what rules of the user's own describe, which are told while the program is planned.
    """
    if jax_internals.has_mesh() or jax_internals.is_symbolic(program.avals):
        return False
    for equation in program.equations:
        if equation.origin.effects or jax_internals.has_own_rules(equation):
            return False
    if any(map(is_described_elsewhere, tracing.primitives(program.equations))):
        return False
    return jax_internals.NEED_AXES.isdisjoint(tracing.primitive_names(program.equations))


def staged(by_points: ByPoints, arguments: Sequence[Any], types: Any, *, at_once: bool) -> Any:
    """What the program for a single point returns, by one equation of the trace around us.

    Args:
        by_points: the programs; they return trees of arrays.
        arguments: the arguments of these, some of them tracers.
        types: the tree of the types of what they return.
        at_once: whether the program is made now, so that what there is to object to is heard now.
    """
    operands = [x for x in arguments if jax_internals.is_tracer(x)]
    kept = [None if jax_internals.is_tracer(x) else x for x in arguments]
    results, tree = jax.tree.flatten(types)
    origin = _Origin(by_points, kept)
    avals = list(map(jax.typeof, operands))
    body = _Body(origin, avals, results, range(len(results)), at_once=at_once)
    return jax.tree.unflatten(tree, body.bound(operands))


def _run(*operands: Any, body: _Body) -> list[Any]:
    return jex_core.jaxpr_as_fun(body.made)(*operands)


def _types(*_: Any, body: _Body) -> list[Any]:
    return body.out_avals


def _batched(
    operands: Sequence[Any], axes: Sequence[Any], *, body: _Body
) -> tuple[list[Any], list[int]]:
    # An axis that is not mapped is None in JAX 0.12 and a mark of its own in 0.10.
    over = [isinstance(axis, int) for axis in axes]
    moved = [
        jnp.moveaxis(x, axis, 0) if is_mapped else x
        for x, axis, is_mapped in zip(operands, axes, over, strict=True)
    ]
    size = next(x.shape[0] for x, is_mapped in zip(moved, over, strict=True) if is_mapped)
    results = body.over(list(map(jax.typeof, moved)), size, over).bound(moved)
    return results, [0] * len(results)


def _pushed(
    primals: Sequence[Any], tangents: Sequence[Any], *, body: _Body
) -> tuple[list[Any], list[Any]]:
    moving = [k for k, tangent in enumerate(tangents) if not isinstance(tangent, ad.Zero)]

    def of_moving(*varied: Any) -> list[Any]:
        operands = list(primals)
        for k, x in zip(moving, varied, strict=True):
            operands[k] = x
        return jex_core.jaxpr_as_fun(body.made)(*operands)

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
    outputs = list(itertools.compress(equation.outvars, used))
    return equation.replace(outvars=outputs, params={"body": equation.params["body"].without(used)})


def _lowered_on_cpu(ctx: Any, *operands: Any, body: _Body) -> Any:
    kernel = body.kernel() if jax_internals.is_for_one_device(ctx) else None
    if kernel is None:
        return jax_internals.lowered_as_call(ctx, *operands, body=body)
    if body.is_spread and not body.is_large:
        return jax.ffi.ffi_lowering(kernel.name)(ctx, *operands)
    call = jax.ffi.ffi_call(kernel.name, body.out_avals)

    def spread(*operands: Any) -> Any:
        arguments = body.spread(operands)
        return call(*arguments, *(_weight(arguments) if body.is_large else ()))

    return mlir.lower_fun(spread, multiple_results=True)(ctx, *operands)


def _weight(operands: Sequence[Any]) -> list[Any]:
    """A number that the kernel does not read, and that takes XLA some operations to compute.

    XLA runs a program of few operations in the thread that calls it, which waits for it, and a
    kernel counts as none. Memory of many results that comes from that thread goes back to the
    system after each call, so that its pages are made anew at the next (measured with 64 results of
    128 KiB: 8.5 ms, and 2.4 ms in a thread of its own).
    """
    largest = max(operands, key=jnp.size)
    if largest.size < _OPERATIONS:
        return []
    return [jnp.max(jnp.ravel(largest)[:_OPERATIONS])]


PLANNED_JACOBIAN.def_impl(_run)
# JAX 0.12 lowers what has a primitive of its new kind inside to plain ones before all else.
PLANNED_JACOBIAN.to_lojax = _run  # type: ignore[method-assign]
PLANNED_JACOBIAN.def_abstract_eval(_types)
batching.primitive_batchers[PLANNED_JACOBIAN] = _batched
ad.primitive_jvps[PLANNED_JACOBIAN] = _pushed
mlir.register_lowering(PLANNED_JACOBIAN, jax_internals.lowered_as_call)
mlir.register_lowering(PLANNED_JACOBIAN, _lowered_on_cpu, platform="cpu")
jax_internals.prune_dead_code(PLANNED_JACOBIAN, _without)
jax_internals.check_errors_inside(PLANNED_JACOBIAN)
