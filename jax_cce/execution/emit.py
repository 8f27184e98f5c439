"""From a plan and run-time values to arrays: the program's outputs and its Jacobian."""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax import lax

from jax_cce import jax_internals
from jax_cce.algebra.dtypes import promoted
from jax_cce.algebra.fence import fence
from jax_cce.algebra.steps import run
from jax_cce.execution import chunks, labels, recomputation
from jax_cce.planning.plans import Plan
from jax_cce.program import flat, in_numpy, passes
from jax_cce.program.flat import Equation
from jax_cce.rules.derivatives import has_custom
from jax_cce.rules.local import Primals
from jax_cce.rules.open_sites import sites_of
from jax_cce.sparse.structured import StructuredJacobian

__all__ = [
    "emit",
    "emit_by_mode",
]


# What takes so long that every entry of a result which needs it should read it from memory.
_DEAR = frozenset(
    name
    for names in (
        "acos acosh asin asinh atan atan2 atanh cos cosh sin sinh tan tanh",
        "cbrt exp exp2 expm1 log log1p logistic pow rsqrt sqrt",
        "digamma erf erf_inv erfc lgamma",
    )
    for name in names.split()
)
# Whose derivatives are such again.
_DEAR_SLOPES = _DEAR & {
    *("acosh", "asinh", "cos", "cosh", "pow", "sin", "sinh", "tan"),
    *("digamma", "erf", "erf_inv", "erfc", "lgamma"),
}
# Of a sparse result what is dear stands in memory where it has many entries that several
# coefficients read, more of them where it is not so dear; others compute it again, a sine beside
# its cosine at little cost. (Measured on the CPU: flows in a grid, with a sine and a cosine of
# 1,500 lines in 16 coefficients, 298 us, in memory 124; a collocation of 2,000 nodes 640 and 290.)
_MANY = 1024
_READERS = {True: 3, False: 12}
# What is computed again where its result is read.
_MOVING = {"broadcast_in_dim", "concatenate", "gather", "pad", "reshape", "slice", "squeeze"}


def emit(
    plan: Plan, constants: Sequence[Any], inputs: Sequence[Any]
) -> tuple[list[Any], dict[tuple[int, int], StructuredJacobian]]:
    """Evaluates the program and its Jacobian in ordinary JAX operations.

    Args:
        plan: the plan.
        constants: values of the program's constants.
        inputs: values of the program's inputs.

    Returns:
        The program's outputs, and for each pair (output, input), by their positions among the
        differentiated ones, the block. A pair that is missing is zero.
    """
    graph = plan.graph
    program = graph.program
    used = {step.site for step in plan.steps} | graph.open_paths.sites
    late = {site for site in used if recomputation.is_late(plan, site)}
    in_memory = _in_memory(plan) if graph.recorder.sparse else set()
    asked = labels.current()
    of_equation, of_step = (None, None) if asked is None else asked.of(plan)
    primals: dict[int, Primals] = {}

    def evaluated(site: int, equation: Equation, ins: list[Any]) -> Sequence[Any]:
        outs = applied(site, equation, ins)
        is_shared = graph.recorder.apart and site in used and equation.name in _DEAR
        # A rotation is passed on between neighbours, unless slices of it are made of its parts.
        is_shared |= equation.name == "concatenate" and jax_internals.is_shared_out()
        if is_shared:
            return lax.optimization_barrier(list(outs))
        if site in in_memory and site in primals:
            at = primals[site]
            at.in_memory = equation.name in _DEAR_SLOPES
            at.outs = outs = fence(*outs)
        return outs

    def applied(site: int, equation: Equation, ins: list[Any]) -> Sequence[Any]:
        # Where it is differentiated a custom rule says what the results are, too, and another
        # derivative of these depends on it.
        if (site not in used or site in late) and not has_custom([equation]):
            return jax_internals.bind(equation, ins)
        at = recomputation.primals_of(equation, graph.sites[site], ins)
        if site in used and site not in late:
            primals[site] = at
        return at.outs

    values = passes.values(program, constants, inputs)
    apply = evaluated
    if of_equation is not None:

        def apply(site: int, equation: Equation, ins: list[Any]) -> Sequence[Any]:
            with of_equation(site):
                return evaluated(site, equation, ins)

    passes.fill(values, program.equations, apply)

    def edges(site: int) -> Any:
        local = graph.sites[site]
        assert local is not None
        return local.edges

    dtypes = [program.avals[name].dtype for name in graph.inputs]
    dtype = promoted(*dtypes) if dtypes else np.dtype(np.float32)
    mesh = jax_internals.explicit_mesh(program.avals)
    if late:
        again = recomputation.Recomputation(plan, values, late)
        sites = sites_of(graph.open_paths, edges, lambda k: primals.get(k) or again.primals(k))
        with jax_internals.in_automatic_axes(mesh):
            slots = run(again.steps, dtype, sites=sites, before=again.before, around=of_step)
    else:
        sites = sites_of(graph.open_paths, edges, primals.__getitem__)
        with jax_internals.in_automatic_axes(mesh):
            slots = run(plan.steps, dtype, sites=sites, around=of_step)

    blocks = {}
    for (output, name), pieces in plan.results.items():
        shapes = graph.shapes[graph.outputs[output]], graph.shapes[graph.inputs[name]]
        blocks[output, name] = StructuredJacobian.from_slots(*shapes, dtype, pieces, slots)
    return [flat.read(values, atom) for atom in program.outputs], blocks


def _in_memory(plan: Plan) -> set[int]:
    """The sites of what takes long, for each of many entries, and several coefficients read."""
    equations = plan.graph.program.equations
    dear = {
        site
        for site, equation in enumerate(equations)
        if equation.name in _DEAR and jax_internals.exceeds(equation.out_avals[0].size, _MANY - 1)
    }
    if not dear or jax_internals.is_shared_out():
        return set()
    # Which coefficients of the results are computed from a slot, a site's local ones, a variable.
    of_slots = {piece.slot: {piece.slot} for pieces in plan.results.values() for piece in pieces}
    of_sites: dict[Any, set[Any]] = {}
    for step in reversed(plan.steps):
        ends = set().union(*(of_slots.get(slot, ()) for slot in step.slots))
        of_sites.setdefault(step.site, set()).update(ends)
        for slot in step.reads:
            of_slots.setdefault(slot, set()).update(ends)
    of_variables: dict[Any, set[Any]] = {}
    found = set()
    for site in reversed(range(len(equations))):
        equation = equations[site]
        ends = set(of_sites.get(site, ()))
        onwards = ends.union(*(of_variables.get(name, ()) for name in equation.outputs))
        if site in dear and len(onwards) >= _READERS[equation.name in _DEAR_SLOPES]:
            found.add(site)
        elif equation.name in in_numpy.ELEMENTWISE or equation.name in _MOVING:
            ends = onwards
        for name in equation.variables:
            of_variables.setdefault(name, set()).update(ends)
    return found


def emit_by_mode(
    plan: Plan, constants: Sequence[Any], inputs: Sequence[Any]
) -> tuple[list[Any], dict[tuple[int, int], StructuredJacobian]]:
    """Like `emit`, by `jax.jacfwd` or `jax.jacrev` as the plan's method says, perhaps in chunks."""
    graph = plan.graph
    if (asked := labels.current()) is not None:
        asked.of(plan)
    names = graph.inputs

    def function(*varied: Any) -> tuple[list[Any], list[Any]]:
        values = list(inputs)
        for name, value in zip(names, varied, strict=True):
            values[name] = value
        outputs = chunks.evaluate(graph.program, constants, values, plan.levels)
        chosen = outputs[: len(graph.outputs)]
        return [jax_internals.real_parts(x) for x in chosen] if apart else chosen, outputs

    avals = [graph.program.aval(atom) for atom in graph.outputs]
    to_complex = any(map(jax_internals.is_complex, avals))
    of_complex = any(jax_internals.is_complex(graph.program.avals[name]) for name in names)
    # Of real inputs `jax.jacrev` takes real outputs only.
    apart = to_complex and not of_complex and plan.method == "jacrev"
    varied = [inputs[name] for name in names]
    # The unit vectors of several inputs are one array, which is cut into theirs.
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        if plan.chunk is None:
            transform = {"jacfwd": jax.jacfwd, "jacrev": jax.jacrev}[plan.method]
            jacobian = transform(
                function,
                argnums=tuple(range(len(names))),
                has_aux=True,
                holomorphic=to_complex and of_complex,
            )
            jacobians, outputs = jacobian(*varied)
        else:
            by = {"jacfwd": chunks.by_columns, "jacrev": chunks.by_rows}[plan.method]
            jacobians, outputs = by(function, varied, plan.chunk)
    if apart:
        jacobians = [_joined(row) for row in jacobians]
    with jax_internals.in_automatic_axes(jax_internals.explicit_mesh(graph.program.avals)):
        blocks = {
            (at_output, at_input): StructuredJacobian.fromdense(
                jax_internals.untyped(array), np.shape(outputs[at_output])
            )
            for at_output, row in enumerate(jacobians)
            for at_input, array in enumerate(row)
        }
    return outputs, blocks


def _joined(rows: Sequence[Sequence[Any]]) -> list[Any]:
    return [
        parts[0] if len(parts) == 1 else lax.complex(*parts) for parts in zip(*rows, strict=True)
    ]
