"""From the arguments of a call to the value and the Jacobian of a function."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax import lax
from jax.tree_util import tree_unflatten

from jax_cce import jax_internals
from jax_cce.execution import compiled
from jax_cce.execution.results import Options, as_tree, check_memory, formatted, outputs_and_blocks
from jax_cce.planning import choosing
from jax_cce.planning.choosing import OrderRequest
from jax_cce.program import calls, known_values
from jax_cce.program.calls import Call, Format, Traced
from jax_cce.program.tracing import trace
from jax_cce.rules.linearity import is_linear
from jax_cce.sparse.coordinates import Coordinates
from jax_cce.sparse.structured import StructuredJacobian

__all__ = [
    "jacobian_by",
    "transformed",
]


def jacobian_by(
    wish: OrderRequest,
    fun: Callable[..., Any],
    argnums: int | Sequence[int] = 0,
    has_aux: bool = False,
    holomorphic: bool = False,
    allow_int: bool = False,
    *,
    format: Format = "dense",
) -> Callable[..., Any]:
    """`jacobian` by a certain order, form of the graph and method."""
    compute = transformed(fun, argnums, has_aux, holomorphic, allow_int, wish, format, value=False)
    return lambda *args, **kwargs: compute(args, kwargs)[1]


def transformed(
    fun: Callable[..., Any],
    argnums: int | Sequence[int],
    has_aux: bool,
    holomorphic: bool,
    allow_int: bool,
    wish: OrderRequest,
    format: Format,
    *,
    value: bool,
    symmetric: bool = False,
) -> Callable[[tuple[Any, ...], dict[str, Any]], tuple[Any, Any, Any]]:
    """The common part of the transformations: (args, kwargs) -> (value, Jacobian, aux)."""
    calls.check_callable(fun)
    calls.check_format(format)

    def compute(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any, Any]:
        call = Call(fun, argnums, has_aux, holomorphic, allow_int, args, kwargs)
        staged = any(map(jax_internals.is_staged, call.leaves))
        try:
            traced = calls.trace_call(call, hoist=not staged)
        except (
            jax.errors.ConcretizationTypeError,
            jax.errors.NonConcreteBooleanIndexError,
        ):
            if staged:
                raise
            return _at_value(call, wish, format)
        how = Options(wish, holomorphic, format, value, symmetric)
        outputs, blocks = _execute(traced, call.avals, call.leaves, how)
        leaves = outputs[: traced.num_values] if value else []
        return (
            tree_unflatten(traced.value_tree, leaves) if value else None,
            as_tree(blocks, call, traced.value_tree),
            traced.aux(outputs[len(leaves) :]),
        )

    return compute


def _execute(
    traced: Traced, avals: Sequence[Any], leaves: Sequence[Any], how: Options
) -> tuple[list[Any], list[list[Any]]]:
    """The program's outputs (without `value`, the auxiliary ones only) and its blocks.

    Under jit the operations go into the surrounding trace. Elsewhere the compiled program for this
    canonical jaxpr runs; the first call compiles it.
    """
    if how.format == "dense":
        check_memory(traced, avals)

    sparse = how.format != "dense"
    known = known_values.known_constants(traced.program, traced.constants, sparse=sparse)
    kind = {"holomorphic": how.holomorphic, "sparse": sparse}
    staged = any(map(jax_internals.is_staged, (*leaves, *traced.constants)))
    name = None
    if not staged:
        name = compiled.key(traced.program), known_values.key(known), traced.num_values, how
    found = None
    if how.wish.order == "auto" and how.wish.entries is None:
        batch = jax_internals.batch_size(leaves)
        found = choosing.look_up(name, traced, known, **kind, batch=batch)

    def build(traced: Traced) -> Callable[..., Any]:
        made = choosing.plan(traced, known, how.wish, found, **kind)

        def jacobian_program(constants: Any, leaves: Any) -> Any:
            outputs, blocks = outputs_and_blocks(traced, avals, made, how, constants, leaves)
            return outputs if how.value else outputs[traced.num_values :], blocks

        return jacobian_program

    if staged:
        outputs, blocks = build(traced)(traced.constants, leaves)
    else:
        # The cache must keep neither the constants of its first call nor its auxiliary data.
        bare = traced._replace(constants=[], aux=calls.no_aux)
        chosen = found and (found.entry.order, found.entry.entries, found.entry.method)
        program = compiled.compiled((name, chosen), lambda: jax.jit(build(bare)))
        outputs, blocks = program(traced.constants, leaves)
    return outputs, [
        [block.to_bcoo() if isinstance(block, Coordinates) else block for block in row]
        for row in blocks
    ]


def _at_value(call: Call, wish: OrderRequest, format: Format) -> tuple[Any, Any, Any]:
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
    program, constants = trace(flat, seeds, hoist=True)
    linear = is_linear(program)
    if linear:
        traced = Traced(program, constants, len(chosen), None, calls.no_aux)
        zeros = [lax.full(aval.shape, 0, aval.dtype) for aval in out_avals]
        how = Options(wish, call.holomorphic, "structured", False)
        _, found = _execute(traced, out_avals, zeros, how)
    else:
        # A pullback that may be nonlinear (gradient clipping, say) has a meaning on rows only.
        found = jax.jacrev(lambda *at: function(*at)[0], argnums=tuple(range(len(chosen))))(
            *(call.leaves[k] for k in chosen)
        )
    rows = []
    for at, out in enumerate(out_avals):
        row = []
        for k, aval in enumerate(call.avals):
            if k in chosen:
                if linear:
                    block = found[chosen.index(k)][at].T
                else:
                    block = StructuredJacobian.fromdense(found[at][chosen.index(k)], out.shape)
            else:
                block = StructuredJacobian(out.shape, aval.shape, aval.dtype, (), ())
            block = formatted(block.astype(aval.dtype), aval, format)
            row.append(block.to_bcoo() if isinstance(block, Coordinates) else block)
        rows.append(row)
    return (
        tree_unflatten(value_tree, values),
        as_tree(rows, call, value_tree),
        tree_unflatten(aux_tree, aux),
    )
