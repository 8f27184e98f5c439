"""From the arguments of a call to the value and the Jacobian of a function."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax import lax
from jax.tree_util import tree_unflatten

from jax_cce import jax_internals
from jax_cce.execution import compiled
from jax_cce.execution.results import Wanted, as_tree, check_memory, outputs_and_blocks, zero_block
from jax_cce.planning import choosing
from jax_cce.planning.options import Options, OrderRequest
from jax_cce.planning.task import Task
from jax_cce.program import calls, tracing
from jax_cce.program.calls import Call, Traced
from jax_cce.rules.linearity import is_linear
from jax_cce.sparse.formats import STRUCTURED
from jax_cce.sparse.structured import StructuredJacobian

__all__ = ["transformed"]


def transformed(
    fun: Callable[..., Any], options: Options, *, value: bool = False, symmetric: bool = False
) -> Callable[[tuple[Any, ...], dict[str, Any]], tuple[Any, Any, Any]]:
    """The common part of the transformations: (args, kwargs) -> (value, Jacobian, aux).

    Args:
        fun: the function.
        options: what the caller asks.
        value: whether the value is wanted; else it is None.
        symmetric: whether the Jacobian is known to be symmetric.
    """
    calls.check_callable(fun)
    wanted = Wanted(options.format, value, symmetric)

    def compute(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any, Any]:
        call = Call(fun, options.contract, args, kwargs)
        staged = any(map(jax_internals.is_staged, call.leaves))
        try:
            traced = calls.trace_call(call, hoist=not staged)
        except (
            jax.errors.ConcretizationTypeError,
            jax.errors.NonConcreteBooleanIndexError,
        ):
            if staged:
                raise
            return _at_value(call, options)
        task = Task(traced, options, call.name, jax_internals.batch_size(call.leaves))
        outputs, blocks = _execute(task, options.request, call.avals, call.leaves, wanted)
        leaves = outputs[: traced.num_values] if value else []
        return (
            tree_unflatten(traced.value_tree, leaves) if value else None,
            as_tree(blocks, call, traced.value_tree),
            traced.aux(outputs[len(leaves) :]),
        )

    return compute


def _execute(
    task: Task, request: OrderRequest, avals: Sequence[Any], leaves: Sequence[Any], wanted: Wanted
) -> tuple[list[Any], list[list[Any]]]:
    """The program's outputs (without the value, the auxiliary ones only) and its blocks.

    Under jit the operations go into the surrounding trace. Elsewhere the compiled program for this
    canonical jaxpr runs; the first call compiles it.
    """
    traced = task.traced
    if not wanted.format.sparse:
        check_memory(traced, avals)
    staged = any(map(jax_internals.is_staged, (*leaves, *traced.constants)))
    name = None if staged else compiled.key_of(task)
    stored = None
    if request.asks_registry:
        stored = choosing.look_up(task, name)

    def build(num_values: int) -> Callable[..., Any]:
        plan = choosing.plan(task, request, stored)
        if plan.graph.reverse_only:
            check_memory(traced, avals, by_rows=True)

        def jacobian_program(constants: Any, leaves: Any) -> Any:
            outputs, blocks = outputs_and_blocks(plan, num_values, avals, wanted, constants, leaves)
            return outputs if wanted.value else outputs[num_values:], blocks

        return jacobian_program

    if staged:
        program = build(traced.num_values)
    else:
        chosen = stored and (stored.entry.order, stored.entry.entries, stored.entry.method)
        # What is kept holds the plan, and neither the constants of this call nor its other data.
        program = compiled.PROGRAMS.get(
            (name, request, wanted, chosen), lambda: jax.jit(build(traced.num_values))
        )
    outputs, blocks = program(traced.constants, leaves)
    return outputs, [[wanted.format.outside(block) for block in row] for row in blocks]


def _at_value(call: Call, options: Options) -> tuple[Any, Any, Any]:
    """The Jacobian of a function whose Python control flow depends on values.

    `jax.vjp` runs the function on the concrete values, as `jax.jacrev` does; what is eliminated
    is then the graph of its pullback, and the result is transposed.
    """
    chosen = [k for k, aval in enumerate(call.avals) if jax_internals.is_differentiable(aval)]
    trees: list[Any] = []

    def function(*varied: Any) -> tuple[list[Any], list[Any]]:
        leaves = list(call.leaves)
        for position, leaf in zip(chosen, varied, strict=True):
            leaves[position] = leaf
        values, value_tree, aux, aux_tree = call.run(leaves)
        dynamic = [leaf if jax_internals.is_tracer(leaf) else None for leaf in aux]
        trees[:] = [value_tree, aux_tree, aux]
        return values, dynamic

    values, pullback, moving = jax.vjp(function, *(call.leaves[k] for k in chosen), has_aux=True)
    value_tree, aux_tree, aux = trees
    aux = [leaf if fresh is None else fresh for leaf, fresh in zip(aux, moving, strict=True)]

    def flat(*cotangents: Any) -> list[Any]:
        return list(pullback(list(cotangents)))

    out_avals = [jax.typeof(value) for value in values]
    seeds = [jax.ShapeDtypeStruct(aval.shape, aval.dtype) for aval in out_avals]
    program, constants = tracing.trace(flat, seeds, hoist=True)
    blocks: dict[tuple[int, int], StructuredJacobian]
    if is_linear(program, constants):
        traced = Traced(program, constants, len(chosen), None, calls.no_aux)
        zeros = [lax.full(aval.shape, 0, aval.dtype) for aval in out_avals]
        structured = Options(options.contract, options.request, STRUCTURED)
        task = Task(traced, structured, f"the pullback of {call.name}")
        _, transposed = _execute(
            task, options.request, out_avals, zeros, Wanted(STRUCTURED, value=False)
        )
        blocks = {
            (at, k): block.T
            for k, row in zip(chosen, transposed, strict=True)
            for at, block in enumerate(row)
        }
    else:
        # A pullback that may be nonlinear (gradient clipping, say) has a meaning on rows only.
        dense = jax.jacrev(lambda *at: function(*at)[0], argnums=tuple(range(len(chosen))))(
            *(call.leaves[k] for k in chosen)
        )
        blocks = {
            (at, k): StructuredJacobian.fromdense(array, out_avals[at].shape)
            for at, row in enumerate(dense)
            for k, array in zip(chosen, row, strict=True)
        }
    form = options.format
    rows = []
    for at, out in enumerate(out_avals):
        row = []
        for k, aval in enumerate(call.avals):
            block = blocks[at, k] if (at, k) in blocks else zero_block(out.shape, aval)
            row.append(form.outside(form.inside(block.astype(aval.dtype), aval)))
        rows.append(row)
    return (
        tree_unflatten(value_tree, values),
        as_tree(rows, call, value_tree),
        tree_unflatten(aux_tree, aux),
    )
