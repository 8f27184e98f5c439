"""Open paths inside linear control flow: the steps of a scan, the branches of a cond.

A linear operator is applied in one direction, and the masks in its body protect from what is not
finite in the other one only where each step has masks on both sides. So the coefficients of a body
are made zero off its open paths, taking all that enters a step for reached and all that leaves it
for live.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
from jax import lax

from jax_cce import jax_internals
from jax_cce.algebra.blocks import Operator
from jax_cce.algebra.coefficients import align
from jax_cce.algebra.terms import Unrepresentable
from jax_cce.jax_internals import Literal
from jax_cce.program import flat, passes, tracing
from jax_cce.program.flat import Equation
from jax_cce.rules.book import Wild, rules_for
from jax_cce.rules.local import LocalJacobian, Primals
from jax_cce.rules.open_paths import OpenPaths, edges_of
from jax_cce.rules.open_sites import sites_of
from jax_cce.rules.wildness import wildness

__all__ = ["with_open_paths"]


# The primitives that multiply an operand with a coefficient, and which operand.
_PRODUCTS = {("mul", 0), ("mul", 1), ("div", 0)}


def with_open_paths(equation: Equation, varied: Sequence[bool]) -> Equation:
    """An equation that is linear in its varied operands, off whose open paths nothing flows."""
    params = equation.params
    if equation.name not in ("scan", "cond") or "select_n" not in tracing.primitive_names(
        [equation]
    ):
        return equation
    if equation.name == "scan":
        consts, carry = jax_internals.scan_counts(equation)
        every = [True] * carry
        inputs = [*varied[:consts], *every, *varied[consts + carry :]]
        bodies = {"jaxpr": _body(params["jaxpr"], inputs)}
    else:
        branches = tuple(_body(branch, varied[1:]) for branch in params["branches"])
        bodies = {"branches": branches}
    return dataclasses.replace(equation, params={**params, **bodies})


def _body(closed: Any, inputs: Sequence[bool]) -> Any:
    """The body of an equation, changed where it has coefficients that have to be zero."""
    program, constants = tracing.flatten_closed(closed)
    seeds = [
        name
        for name, (wanted, aval) in enumerate(zip(inputs, program.avals, strict=False))
        if wanted and jax_internals.is_differentiable(aval)
    ]
    flags, varied = passes.dependent(program.equations, seeds)
    sites = [k for k, depends in enumerate(flags) if depends]
    equations = list(program.equations)
    locals_: dict[int, LocalJacobian] = {}
    for site in sites:
        equation = equations[site]
        active = [not isinstance(k, Literal) and k in varied for k in equation.inputs]
        equations[site] = with_open_paths(equation, active)
        locals_[site] = _local(equation, tuple(active))

    def wild() -> dict[Any, Wild]:
        # What JAX has computed in advance for its linear program may be anything.
        return dict(enumerate(wildness(program, Wild.SINGULAR, seeds)))

    edges = [
        edge for site in sites for edge in edges_of(site, equations[site], locals_[site].edges)
    ]
    shapes = {name: program.avals[name].shape for name in varied}
    ends = [k for k in program.outputs if not isinstance(k, Literal) and k in varied]
    paths = OpenPaths(edges, shapes, seeds, ends, wild)
    # What is linear in one operand is a product with a coefficient.
    keys = {
        site: key
        for site, key in paths.guarded
        if len(locals_[site].edges) == 1 and (equations[site].name, key[0]) in _PRODUCTS
    }
    if not keys and equations == program.equations:
        return closed

    def run(*operands: Any) -> list[Any]:
        values = passes.values(program, constants, operands)

        def primals(site: Any) -> Primals:
            equation = equations[site]
            return Primals(equation, [flat.read(values, k) for k in equation.inputs], ())

        known = [e for e, depends in zip(equations, flags, strict=True) if not depends]
        passes.fill(values, known)
        at = sites_of(paths, lambda site: locals_[site].edges, primals)

        def applied(index: int, equation: Equation, operands: list[Any]) -> Sequence[Any]:
            site = sites[index]
            if site not in keys:
                return jax_internals.bind(equation, operands)
            key = keys[site]
            term = at.local(site, key).term
            coefficient = at.coefficient(site, key, term)
            loops = range(len(term.sizes))
            spread = align(coefficient, term.axes or (), loops, term.sizes)
            shape = equation.out_avals[0].shape
            return [lax.mul(operands[key[0]], lax.reshape(spread, shape))]

        passes.fill(values, [equations[site] for site in sites], applied)
        return [flat.read(values, k) for k in program.outputs]

    return jax.make_jaxpr(run)(*map(jax_internals.abstract, program.avals[: program.num_inputs]))


def _local(equation: Equation, active: tuple[bool, ...]) -> LocalJacobian:
    """The terms of a linear equation; an operator that stands for any where it has none."""
    for rule in rules_for(equation, sparse=False, linear=True):
        try:
            return rule(equation, active)
        except Unrepresentable:
            pass
    operator = Operator(equation.name, {}, {}, None, None, 0)
    operands = [k for k, wanted in enumerate(active) if wanted]
    return LocalJacobian(
        {(k, at): operator for k in operands for at in range(len(equation.outputs))}
    )
