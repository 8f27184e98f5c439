"""What is known about a program's values before it runs: constants, and what follows from them.

Index arrays and masks decide which entries of a Jacobian exist, and zeros in small matrices which
products are needed. `known_constants` says what may be used of the constants, `fold` propagates
it and notes at each equation which of its operands are known.
"""

import dataclasses
import itertools
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jax_cce import jax_internals
from jax_cce.caches import Companions, digest
from jax_cce.jax_internals import Literal
from jax_cce.program import in_numpy, passes, tracing
from jax_cce.program.flat import Equation, Program
from jax_cce.program.known_stacks import read_by_choosing_scans, stacked

__all__ = [
    "SMALL",
    "fold",
    "key",
    "known_constants",
    "value_of",
]

# Arrays of at most so many entries may be taken apart (see `entries`).
SMALL = 16
# Floating-point constants that are searched for zeros, and integers and masks that are computed
# while planning.
_MOST_ENTRIES = 1 << 22
# The same for integers that are given, such as the indices of a sparse matrix.
_MOST_INTEGERS = 1 << 25
_MOST_INTEGERS_DENSE = 64
# What of these has several results, or a jaxpr among its parameters. JAX 0.12 finds nonzeros by the
# second one.
_SEVERAL = {"sort", "call_hi_primitive", "split", "top_k", "unstack"}
_UPDATES = {"scatter", "scatter-add", "scatter-mul", "scatter-min", "scatter-max"}


def known_constants(
    program: Program, constants: Sequence[Any], *, sparse: bool
) -> dict[int, np.ndarray]:
    """The constants whose values may decide structure, by variable number.

    Small floating-point arrays tell which entries are 0, 1 or -1; any other entry is NaN, so that
    a program does not depend on values that change from call to call. Where the Jacobian is wanted
    in a sparse format, integers and masks are known too, and large matrices that are mostly zero.

    Args:
        program: a traced program.
        constants: the values of its constants.
        sparse: whether structural zeros matter.
    """
    known = {}
    for offset, value in enumerate(constants):
        name = program.num_inputs + offset
        aval = program.avals[name]
        if jax_internals.is_tracer(value) or jax_internals.is_reference(aval):
            continue
        if jnp.issubdtype(aval.dtype, jax.dtypes.extended):
            continue
        size = jax_internals.size(aval)
        if jnp.issubdtype(aval.dtype, np.inexact):
            if 1 < size <= SMALL:
                array = np.asarray(value)
                pattern = np.where(np.isin(array, (0, 1, -1)), array, np.nan)
                if not np.isnan(pattern).all():
                    known[name] = pattern
            elif sparse and SMALL < size <= _MOST_ENTRIES:
                array = np.asarray(value)
                zero = array == 0
                if 2 * np.count_nonzero(zero) >= size:
                    known[name] = np.where(zero, 0.0, np.nan)
        elif sparse and size <= (_MOST_ENTRIES if aval.dtype == bool else _MOST_INTEGERS):
            known[name] = _on_host(value)
    return known


# Index arrays of sparse matrices are large, and a function brings the same ones at every call.
_hosts: Companions[np.ndarray] = Companions()
_digests: Companions[bytes] = Companions()


def _on_host(value: Any) -> np.ndarray:
    """A constant as a NumPy array, the same one at every call where the constant is JAX's."""
    if not isinstance(value, jax.Array):
        return np.asarray(value)
    return _hosts.get(value, lambda: np.asarray(value))


def key(known: Mapping[int, np.ndarray]) -> Hashable:
    """Identifies what is known of a program's constants."""
    return tuple((name, value.dtype.str, _digest(value)) for name, value in sorted(known.items()))


def _digest(value: np.ndarray) -> Hashable:
    if jnp.issubdtype(value.dtype, np.inexact):
        # NaN, 0, 1 and -1 as integers.
        value = np.where(np.isnan(value), 2, np.real(value)).astype(np.int64)
    if value.flags.writeable:
        return value.shape, digest(value)
    return value.shape, _digests.get(value, lambda: digest(value))


def fold(program: Program, known: Mapping[int, np.ndarray], *, sparse: bool) -> Program:
    """The program with `known` operands noted at each equation.

    Args:
        program: a traced program.
        known: values of some of its constants.
        sparse: whether large integer and boolean values are computed, too.
    """
    values = dict(known)
    limit = _MOST_INTEGERS_DENSE
    if sparse:
        # What is computed from the indices of a large matrix is of their size.
        largest = max((value.size for value in known.values()), default=0)
        limit = max(_MOST_ENTRIES, min(4 * largest, _MOST_INTEGERS))
    masks = read_by_choosing_scans(program) if sparse else set()
    equations = []
    for equation in program.equations:
        operands = {
            position: values[atom]
            for position, atom in enumerate(equation.inputs)
            if not isinstance(atom, Literal) and atom in values
        }
        if operands:
            equation = dataclasses.replace(equation, known=operands)
        equations.append(equation)
        if sparse and equation.name == "scan" and not masks.isdisjoint(equation.outputs):
            values.update(stacked(equation, masks, most=_MOST_ENTRIES))
        if _is_foldable(equation, limit):
            results = _evaluate(equation)
            values.update(zip(equation.outputs, results, strict=True))
    return dataclasses.replace(program, equations=equations)


def value_of(equations: Sequence[Equation], atom: Any) -> np.ndarray | None:
    """What an atom is by some equations alone, as far as NumPy knows them; else None."""
    live, _ = passes.needed(equations, [atom])
    values: dict[int, np.ndarray] = {}

    def value(x: Any) -> Any:
        return x.val if isinstance(x, Literal) else values.get(x)

    for equation in itertools.compress(equations, live):
        operands = [value(x) for x in equation.inputs]
        if any(x is None for x in operands):
            return None
        results = in_numpy.evaluated(equation, operands)
        if results is None:
            return None
        values.update(zip(equation.outputs, results, strict=True))
    return value(atom)


def _is_foldable(equation: Any, limit: int) -> bool:
    if equation.name in jax_internals.NEED_AXES or equation.name == jax_internals.SIZE:
        return False
    for position, atom in enumerate(equation.inputs):
        if isinstance(atom, Literal):
            if jnp.issubdtype(equation.in_avals[position].dtype, jax.dtypes.extended):
                return False
            continue
        value = equation.known.get(position)
        if value is None:
            return False
        if jnp.issubdtype(value.dtype, np.inexact) and np.isnan(value).any():
            return False
    for aval in equation.out_avals:
        if jnp.issubdtype(aval.dtype, jax.dtypes.extended):
            return False
        inexact = jnp.issubdtype(aval.dtype, np.inexact)
        if jax_internals.exceeds(
            jax_internals.size(aval), SMALL if inexact else limit, unknown=True
        ):
            return False
    if equation.primitive.multiple_results and equation.name not in _SEVERAL:
        return False
    return equation.name in _UPDATES or not tracing.inner_equations(equation)


def _evaluate(equation: Any) -> list[np.ndarray]:
    operands = [
        atom.val if isinstance(atom, Literal) else equation.known[position]
        for position, atom in enumerate(equation.inputs)
    ]
    if (results := in_numpy.evaluated(equation, operands)) is not None:
        return results
    # Whatever is being traced around us, this is evaluated now.
    with jax.core.eval_context():
        arrays = [
            jnp.asarray(operand, aval.dtype)
            for operand, aval in zip(operands, equation.in_avals, strict=True)
        ]
        return [np.asarray(result) for result in jax_internals.bind(equation, arrays)]
