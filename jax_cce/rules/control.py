"""The branches of a linear cond by terms.

JAX's linearisation of `cond` is again a cond, with linear branches; the rule goes into them. It
serves the sparse formats, where an operator would lose all structural zeros.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax

from jax_cce import jax_internals
from jax_cce.algebra.dtypes import promoted
from jax_cce.algebra.terms import Unrepresentable
from jax_cce.program.flat import Equation
from jax_cce.rules.accumulation import Accumulation
from jax_cce.rules.bodies import Body, inner_primals, row_of
from jax_cce.rules.definers import sparse
from jax_cce.rules.local import LocalJacobian, LocalTerm, Primals, automatic


def _cond(equation: Equation, active: tuple[bool, ...]) -> LocalJacobian:
    """Every branch's terms, masked by which branch is taken."""
    if active[0]:
        raise Unrepresentable("a differentiated predicate")
    seeds = {
        operand: tuple(aval.shape)
        for operand, (aval, wanted) in enumerate(zip(equation.in_avals, active, strict=True))
        if wanted
    }
    dtype = promoted(*(equation.in_avals[k].dtype for k in seeds))
    edges: dict[tuple[int, int], tuple[LocalTerm, ...]] = {}
    known = {k - 1: value for k, value in equation.known.items() if k}
    taken = equation.known.get(0)
    for branch, closed in enumerate(equation.params["branches"]):
        if taken is not None and branch != _taken(taken, equation):
            continue
        body = Body(closed, known)
        sums = Accumulation(seeds, sparse=True)
        rows = body.rows(
            [sums.seed(k + 1) if active[k + 1] else None for k in range(len(active) - 1)]
        )
        sums.program(lambda index: index, body.program.equations, rows)
        blocks = {
            (output, seed): block
            for output, atom in enumerate(body.program.outputs)
            for seed, block in row_of(body.program, atom, rows).items()
            if block
        }
        dependent, _ = body.dependent(active[1:])

        def sites(
            primals: Primals, body: Body = body, dependent: list[bool] = dependent
        ) -> Callable[[int], Primals]:
            values = body.known(primals.ins[1:], dependent)
            equations = body.program.equations
            return functools.cache(lambda index: inner_primals(equations[index], values))

        for key, terms in sums.terms(blocks, sites, dtype).items():
            masked = tuple(_masked(term, branch, equation.in_avals[0], dtype) for term in terms)
            edges[key] = edges.get(key, ()) + masked
    return LocalJacobian(edges)


def _taken(index: np.ndarray, equation: Equation) -> int:
    """The branch that a known index takes; JAX clamps it."""
    return int(np.clip(int(index), 0, len(equation.params["branches"]) - 1))


def _masked(local: LocalTerm, branch: int, index: Any, dtype: Any) -> LocalTerm:
    """A branch's term, zero where the branch is not taken."""
    term, inner = local.term, local.value

    def taken(primals: Primals) -> Any:
        which = jax_internals.untyped(jnp.asarray(primals.ins[0]))
        return lax.eq(lax.convert_element_type(which, np.int32), lax.full((), branch, np.int32))

    def value(primals: Primals) -> Any:
        array = None if inner is None else inner(primals)
        with automatic():
            here = taken(primals)
            if array is None:
                return here
            return lax.select(lax.broadcast(here, array.shape), array, lax.full_like(array, 0))

    axes = () if term.axes is None else term.axes
    term = term._replace(axes=axes)
    if inner is None or local.is_mask:
        return local._replace(term=term, value=value, is_mask=True)

    def mask(primals: Primals) -> Any:
        inside = None if local.mask is None else local.mask(primals)
        with automatic():
            here = lax.broadcast(taken(primals), term.coefficient_shape)
            return here if inside is None else lax.bitwise_and(here, inside)

    return local._replace(term=term, value=value, mask=mask)


sparse("cond", _cond, of_linear=True)
