"""Masks and counts that a scan stacks, where they follow from known values alone.

A loop that resets its state at every tenth step, by a counter that it carries or reads, has been
split by JAX: one scan computes what does not depend on the seeds and stacks it, and a linear one
reads that. The values of the masks decide which entries the second one has.
"""

import itertools
from collections.abc import Collection
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jax_cce import jax_internals
from jax_cce.jax_internals import Literal
from jax_cce.program import flat, passes, tracing
from jax_cce.program.flat import Equation, Program

__all__ = ["CHOICES", "read_by_choosing_scans", "stacked"]

# Primitives that choose, and so leave out what is not chosen.
CHOICES = frozenset({"cond", "select_n"})


def read_by_choosing_scans(program: Program) -> set[int]:
    """The variables that are read by scans that choose, by a mask or the number of a branch."""
    scans = [equation for equation in program.equations if equation.name == "scan"]
    if len(scans) < 2:
        return set()
    choosing = (scan for scan in scans if not CHOICES.isdisjoint(tracing.primitive_names([scan])))
    return {name for scan in choosing for name in scan.variables}


def stacked(equation: Equation, wanted: Collection[int], *, most: int) -> dict[int, np.ndarray]:
    """Integers and masks that a scan stacks, by variable, as far as its known operands tell them.

    Args:
        equation: a scan with known operands noted.
        wanted: of which of its results the values are wanted.
        most: larger results than this are not computed.
    """
    program, constants = tracing.flatten_closed(equation.params["jaxpr"])
    if any(map(jax_internals.is_tracer, constants)):
        return {}
    consts, carry = jax_internals.scan_counts(equation)
    given = _given(equation)
    counts = [k for k in range(consts, consts + carry) if k in given]
    while True:
        unknown = [k for k in range(program.num_inputs) if k not in given]
        _, varied = passes.dependent(program.equations, unknown)
        lost = [k for k in counts if _is_in(program.outputs[k - consts], varied)]
        if not lost:
            break
        for k in lost:
            del given[k]
        counts = [k for k in counts if k in given]
    results = [
        at
        for at in range(carry, len(program.outputs))
        if equation.outputs[at] in wanted
        and not _is_in(program.outputs[at], varied)
        and _is_count(equation.out_avals[at], most)
    ]
    ends = [program.outputs[at] for at in (*(k - consts for k in counts), *results)]
    live, _ = passes.needed(program.equations, ends)
    equations = list(itertools.compress(program.equations, live))
    if not results or any(map(_is_bound, equations)):
        return {}

    def step(state: dict[int, Any], parts: dict[int, Any]) -> tuple[dict[int, Any], list[Any]]:
        operands = given | state | parts
        values = passes.values(
            program, constants, [operands.get(k) for k in range(program.num_inputs)]
        )
        passes.fill(values, equations)
        found = [jnp.asarray(flat.read(values, atom)) for atom in ends]
        return dict(zip(counts, found, strict=False)), found[len(counts) :]

    # Whatever is being traced around us, this is evaluated now.
    with jax.core.eval_context():
        given = {k: jnp.asarray(value, equation.in_avals[k].dtype) for k, value in given.items()}
        slices = {k: value for k, value in given.items() if k >= consts + carry}
        _, values = lax.scan(
            step,
            {k: given[k] for k in counts},
            slices,
            length=equation.params["length"],
            reverse=equation.params["reverse"],
        )
        return {
            equation.outputs[at]: np.asarray(value)
            for at, value in zip(results, values, strict=True)
        }


def _given(equation: Equation) -> dict[int, Any]:
    """The operands whose values are known in full."""
    given = {}
    for k, atom in enumerate(equation.inputs):
        value = atom.val if isinstance(atom, Literal) else equation.known.get(k)
        if value is None or jnp.issubdtype(equation.in_avals[k].dtype, jax.dtypes.extended):
            continue
        if not (jnp.issubdtype(value.dtype, np.inexact) and np.isnan(value).any()):
            given[k] = value
    return given


def _is_in(atom: Any, variables: Collection[int]) -> bool:
    return not isinstance(atom, Literal) and atom in variables


def _is_count(aval: Any, most: int) -> bool:
    is_whole = jnp.issubdtype(aval.dtype, np.integer) or aval.dtype == bool
    return is_whole and not jax_internals.exceeds(jax_internals.size(aval), most, unknown=True)


def _is_bound(equation: Equation) -> bool:
    """Whether an equation does more than compute, or means something only where it stands."""
    return equation.name in jax_internals.NEED_AXES or bool(equation.origin.effects)
