"""Linear solves in the sparse formats: independent along the axes along which the matrix is.

A `custom_linear_solve` is what `jnp.linalg.solve` binds. Its matrix is known as a function; where
that leaves axes alone, as those of a batch or of several right-hand sides, so does the inverse.
"""

from typing import Any

import jax
import numpy as np

from jax_cce import jax_internals
from jax_cce.algebra.terms import Term, Unrepresentable
from jax_cce.program import tracing
from jax_cce.program.flat import Equation
from jax_cce.rules.accumulation import Accumulation
from jax_cce.rules.bodies import Body, row_of
from jax_cce.rules.definers import sparse
from jax_cce.rules.linearity import Dependence, dependence
from jax_cce.rules.local import LocalJacobian, Primals, along, local_term


def _solved(equation: Equation, active: tuple[bool, ...]) -> LocalJacobian:
    """The inverse by what the solver makes of one unit vector for each place on the other axes.

    Raises:
        Unrepresentable: where the matrix moves along all axes, and where the solver is not known
            to be linear: an iteration is not, and mixes what it is given together.
    """
    lengths, jaxprs = equation.params["const_lengths"], equation.params["jaxprs"]
    operand = sum(lengths)
    if len(equation.outputs) > 1 or active != tuple(k == operand for k in range(operand + 1)):
        raise Unrepresentable("a solve for several unknowns")
    program, constants = tracing.flatten_closed(jaxprs.solve)
    if Dependence.LINEAR not in dependence(
        program, constants, [lengths.solve], program.outputs, by_jax=True
    ):
        raise Unrepresentable("a solver that is not known to be linear")
    shape = tuple(equation.in_avals[operand].shape)
    shared = _shared(equation, shape)
    moving = [axis for axis in range(len(shape)) if axis not in shared]
    if not shared:
        raise Unrepresentable("a matrix that moves along all axes")
    places = tuple(shape[axis] for axis in moving)
    rank, dtype = len(shape), equation.in_avals[operand].dtype

    def inverse(primals: Primals) -> Any:
        units = np.eye(int(np.prod(places)), dtype=bool)
        spread = [shape[axis] if axis in moving else 1 for axis in range(rank)]
        units = np.broadcast_to(units.reshape(-1, *spread), (len(units), *shape))

        def push(unit: Any) -> Any:
            return jax_internals.bind(equation, [*primals.ins[:operand], unit])[0]

        solved = jax.vmap(push)(jax_internals.convert(units, dtype))
        return solved.reshape((*places, *shape))

    out = tuple(map(along, range(rank)))
    inn = tuple(along(k if k in shared else rank + moving.index(k)) for k in range(rank))
    axes = (*range(rank, rank + len(moving)), *range(rank))
    return LocalJacobian(
        {(operand, 0): local_term(Term((*shape, *places), out, inn, axes), 1, inverse)}
    )


def _shared(equation: Equation, shape: tuple[int, ...]) -> list[int]:
    """The axes along which the matrix takes no entry to another place."""
    length = equation.params["const_lengths"].matvec
    body = Body(equation.params["jaxprs"].matvec, {})
    sums = Accumulation({0: shape}, sparse=True)
    rows = body.rows([*[None] * length, sums.seed(0)])
    flags, _ = body.dependent([False] * length + [True])
    pairs = zip(body.program.equations, flags, strict=True)
    sums.program(lambda index: index, [each for each, depends in pairs if depends], rows)
    block: Any = row_of(body.program, body.program.outputs[0], rows).get(0, ())
    terms = [piece.term for piece in block]
    return [
        axis
        for axis in range(len(shape))
        if all(term.out_map[axis] == term.in_map[axis] and not term.lookups for term in terms)
    ]


sparse("custom_linear_solve", _solved, of_linear=True)
