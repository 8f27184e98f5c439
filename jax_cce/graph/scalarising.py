"""Small arrays entry by entry, so that their structural zeros and ones cost nothing.

A rotation matrix built from a sine and a cosine is mostly constants, yet an array equation on it
multiplies all of its entries. `expand` rewrites a program so that such an array is held as its
entries, each a number that is known before the program runs or a scalar variable. Operations on it
become the scalar equations that are left after folding

    0 + x = x - 0 = x,  0 - x = -x,  0 * x = 0,  1 * x = x / 1 = x,  -1 * x = x / -1 = -x

and everything that is computed from known numbers alone. Signs move outwards, (-x) * y = -(x * y)
and x + (-y) = x - y, and equal scalar equations become one. Moving entries around (slices,
concatenations, one-hot updates ...) needs no equation at all.

Where all values that JAX computes are finite, the expanded program computes the same up to rounding
and the sign of a zero; sums run in the order of the index. A structural zero stays zero also where
JAX would multiply it by an infinity or NaN and get NaN.
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
from jax import lax

from jax_cce import jax_internals
from jax_cce.algebra import index_arrays
from jax_cce.algebra.terms import Affine, Term
from jax_cce.caches import memoised
from jax_cce.graph.scalar_equations import (
    SCALAR_DTYPES,
    ProgramBuilder,
    is_literal,
    literal_of,
    scalar_operation,
)
from jax_cce.program import tracing
from jax_cce.program.flat import Equation, Program
from jax_cce.rules.book import Entrywise, record_of
from jax_cce.rules.checking import CheckedRule
from jax_cce.rules.derivatives import local_jacobian
from jax_cce.rules.layout_rule import results_of

__all__ = [
    "MOST_ENTRIES",
    "counts_of",
    "expand",
]

# Larger arrays stay whole: a 4 x 4 matrix is taken apart, a batch of them is not.
MOST_ENTRIES = 16

# The entries of an array are an object array of atoms: variable numbers and literals.
_Entries = np.ndarray


def expand(program: Program) -> Program | None:
    """The program with small arrays that have known entries treated entry by entry.

    An equation is expanded if its floating-point operands and results have at most `MOST_ENTRIES`
    entries, its primitive is one of the supported ones, and some entries of an operand are known.
    Entries are joined to an array, once, where another equation or an output needs it.

    Args:
        program: a traced program; what is known of constants is noted at its equations.

    Returns:
        An equivalent program with the same inputs, constants and outputs; None if no arithmetic
        was expanded, so that nothing would be gained.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jax_cce.program import known_values, tracing
        >>> f = lambda a, x: [jnp.array([[a, 0.0], [0.0, 1.0]]) @ x]
        >>> program, constants = tracing.trace(f, [1.0, jnp.ones(2)])
        >>> known = known_values.known_constants(program, constants, sparse=False)
        >>> program = known_values.fold(program, known, sparse=False)
        >>> [e.name for e in expand(program).equations if e.name in ("dot_general", "mul", "add")]
        ['mul']
    """
    if not any(_is_arithmetic(e) and _has_array(e) for e in program.equations):
        return None
    expansion = _Expansion(program)
    for equation in program.equations:
        expansion.visit(equation)
    return expansion.result() if expansion.gained else None


class _Expansion:
    """The walk over a program.

    The variables of the program that is being made are numbered anew, apart from inputs and
    constants; "atom" means one of them or a literal.

    Attributes:
        gained: whether arithmetic was expanded.
    """

    def __init__(self, program: Program) -> None:
        self.gained = False
        self._program = program
        self._new = ProgramBuilder(program.avals[: program.first_computed])
        # For variables of the given program the atom that holds the array, or the entries together
        # with the equation that was expanded to them, or all of it.
        self._arrays: dict[int, Any] = {name: name for name in range(program.first_computed)}
        self._entries: dict[int, _Entries] = {}
        self._expanded: dict[int, Equation] = {}

    def visit(self, equation: Equation) -> None:
        """Takes over one equation, expanded or as it is."""
        self._new.origin = equation.origin
        results = self._results(equation) if _is_eligible(equation) else None
        if results is not None:
            for name, entries in zip(equation.outputs, results, strict=True):
                self._entries[name], self._expanded[name] = entries, equation
        if results is None or (
            # The array, too, costs nothing; it is dead code unless it is needed.
            results[0].ndim
            and (
                record_of(equation).entrywise is Entrywise.LAYOUT or all(map(_is_constant, results))
            )
            and all(map(self._is_at_hand, equation.inputs))
        ):
            self._keep(equation)

    def result(self) -> Program:
        """The new program."""
        return self._new.finished(self._program, list(map(self._array, self._program.outputs)))

    def _results(self, equation: Equation) -> list[_Entries] | None:
        """The entries of the results; None where the equation stays as it is."""
        record, avals = record_of(equation), equation.in_avals
        way = record.entrywise
        assert way is not None
        elementwise, layout = way is Entrywise.ELEMENTWISE, way is Entrywise.LAYOUT
        scalar = elementwise and not equation.out_avals[0].shape
        wanted = [k for k, aval in enumerate(avals) if elementwise or aval.dtype in SCALAR_DTYPES]
        held = {k: entries for k in wanted if (entries := self._held(equation, k)) is not None}
        # Layout of what is held already costs nothing. A scalar factor says nothing about entries,
        # but a scalar that pads an array becomes one.
        if not (
            scalar
            or (layout and len(held) == len(wanted))
            or any((way.moves or e.ndim) and any(map(is_literal, e.flat)) for e in held.values())
        ):
            return None
        for k in wanted:
            if k not in held:
                held[k] = self._apart(equation, k)
        operands = [held.get(k) for k in range(len(avals))]
        if layout:
            assert record.operation is not None
            if isinstance(record.rule, CheckedRule):
                return record.rule.moved(record.operation, equation, operands)
            return results_of(record.operation, equation, operands, object)
        atoms: list[Any] | None
        if elementwise:
            atoms = self._elementwise(equation, operands)
        elif way is Entrywise.CONTRACTS:
            atoms = self._products(equation, operands)
        else:
            atoms = self._sums(equation, operands)
        if atoms is None:
            return None
        self.gained |= not (way.moves or scalar or all(map(_is_constant, held.values())))
        return [_table(atoms, equation.out_avals[0].shape)]

    def _held(self, equation: Equation, position: int) -> _Entries | None:
        """The entries of an operand, if they are at hand without taking an array apart."""
        atom, aval = equation.inputs[position], equation.in_avals[position]
        if is_literal(atom):
            return _table([atom], ())
        if atom not in self._entries:
            value = equation.known.get(position)
            if value is not None and not np.isnan(value).all():
                entries = np.empty(aval.shape, object)
                if np.isnan(value).any():
                    entries[...] = self._apart(equation, position)
                for place, number in np.ndenumerate(value):
                    if not np.isnan(number):
                        entries[place] = literal_of(number.item(), aval.dtype)
                self._entries[atom] = entries
            elif not aval.shape:
                self._entries[atom] = _table([self._array(atom)], ())
        return self._entries.get(atom)

    def _apart(self, equation: Equation, position: int) -> _Entries:
        """Takes an operand apart by scalar slices."""
        atom, aval = equation.inputs[position], equation.in_avals[position]
        slices = self._new.splice(_slices(aval), [self._array(atom)], equation.origin)
        self._entries[atom] = _table(slices, aval.shape)
        return self._entries[atom]

    def _array(self, atom: Any) -> Any:
        """The atom that holds a variable or literal of the given program as an array."""
        if is_literal(atom):
            return atom
        if atom not in self._arrays:
            entries, equation = self._entries[atom], self._expanded[atom]
            record = record_of(equation)
            if entries.ndim and record.entrywise is Entrywise.LAYOUT and not record.takes_parts:
                self._keep(equation)  # so that what it rearranges is joined once
                return self._arrays[atom]
            array, weak = entries.flat[0], self._program.avals[atom].weak_type
            if entries.ndim:
                join = _join(entries.shape, tuple(map(self._new.aval, entries.flat)))
                (array,) = self._new.splice(join, entries.flat, equation.origin)
            if self._new.aval(array).weak_type != weak:
                # Folding does not care, but outputs show it.
                conversion = _conversion(self._new.aval(array), weak)
                (array,) = self._new.splice(conversion, [array], equation.origin)
            self._arrays[atom] = array
        return self._arrays[atom]

    def _keep(self, equation: Equation) -> None:
        """Takes over an equation on arrays."""
        outputs = self._new.add(equation, map(self._array, equation.inputs), equation.origin)
        self._arrays.update(zip(equation.outputs, outputs, strict=True))

    def _is_at_hand(self, atom: Any) -> bool:
        """Whether an array is there without joining entries."""
        return is_literal(atom) or atom in self._arrays or not self._program.avals[atom].shape

    def _elementwise(self, equation: Equation, operands: Sequence[Any]) -> list[Any]:
        (aval,) = equation.out_avals
        if not aval.shape:
            return [self._new.scalar(equation, [entries.item() for entries in operands])]
        scalar = dataclasses.replace(equation, out_avals=(aval.update(shape=()),), known={})
        spread = (np.broadcast_to(entries, aval.shape).flat for entries in operands)
        return [self._new.scalar(scalar, atoms) for atoms in zip(*spread, strict=True)]

    def _products(self, equation: Equation, operands: Sequence[Any]) -> list[Any] | None:
        """Sums of products, of the pairs of entries that a contraction names."""
        dtype = equation.out_avals[0].dtype
        if any(aval.dtype != dtype for aval in equation.in_avals):
            return None
        pairs = record_of(equation).operation
        assert pairs is not None
        multiply = functools.partial(self._new.scalar, scalar_operation("mul", dtype))
        return [
            self._new.sum(list(map(multiply, of_entry)), dtype)
            for of_entry in pairs(*operands, **equation.params)
        ]

    def _sums(self, equation: Equation, operands: Sequence[Any]) -> list[Any] | None:
        """What selects or adds up entries, read off the local Jacobian."""
        active = tuple(entries is not None for entries in operands)
        counts = counts_of(equation, active)
        if counts is None:
            return None
        dtype = equation.out_avals[0].dtype
        return [
            self._new.sum([operands[k].flat[at] for (k, at), n in count.items() if n], dtype)
            for count in counts
        ]


def counts_of(
    equation: Equation, active: tuple[bool, ...]
) -> list[dict[tuple[int, int], Any]] | None:
    """How often each entry of a result contains each (operand, entry), by the local Jacobian.

    Args:
        equation: an equation that selects or adds up entries.
        active: the operands whose entries are counted; the others are known.

    Returns:
        None where it does something else, too.
    """
    if not all(
        wanted or is_literal(atom) or position in equation.known
        for position, (atom, wanted) in enumerate(zip(equation.inputs, active, strict=True))
    ):
        return None
    (aval,) = equation.out_avals
    counts: list[dict[tuple[int, int], Any]] = [{} for _ in range(jax_internals.size(aval))]
    for (operand, _), terms in local_jacobian(equation, active).edges.items():
        if not isinstance(terms, tuple):
            return None
        for local in terms:
            if local.value is not None or local.tables:
                return None
            term = local.term
            outs = _positions(term, term.out_map, aval.shape)
            ins = _positions(term, term.in_map, equation.in_avals[operand].shape)
            for out, inn in zip(outs, ins, strict=True):
                entry = operand, inn
                counts[out][entry] = counts[out].get(entry, 0) + local.scale
    if any(set(count.values()) - {0} != {1} for count in counts):
        return None  # as where a gather fills in NaN for an index out of bounds
    return counts


def _is_eligible(equation: Equation) -> bool:
    """Whether an equation's floating-point operands and results may be taken apart."""
    return (
        record_of(equation).entrywise is not None
        and all(map(_is_small, equation.out_avals))
        and all(_is_small(a) or not jax_internals.is_differentiable(a) for a in equation.in_avals)
    )


def _is_arithmetic(equation: Equation) -> bool:
    """Whether an equation may be taken apart and computes more than it moves."""
    way = record_of(equation).entrywise
    return way is not None and not way.moves and _is_eligible(equation)


def _has_array(equation: Equation) -> bool:
    return any(aval.shape for aval in equation.in_avals)


def _is_small(aval: Any) -> bool:
    return (
        aval.dtype in SCALAR_DTYPES
        and 1 <= jax_internals.size(aval) <= MOST_ENTRIES
        # The scalars that take the place of the array would lack its type.
        and aval.sharding.mesh.empty
        and not aval.manual_axis_type.varying
    )


def _is_constant(entries: _Entries) -> bool:
    return all(map(is_literal, entries.flat))


def _table(atoms: Sequence[Any], shape: Sequence[int]) -> _Entries:
    table = np.empty(len(atoms), object)
    table[:] = atoms
    return table.reshape(shape)


def _positions(term: Term, maps: Sequence[Affine], shape: Sequence[int]) -> list[int]:
    """The flat position in an array of `shape` at each point of a static term's loops."""
    sizes = dict(enumerate(term.sizes))
    lookups: Any = term.lookups
    symbols = {-1 - k: (lookup.axes, lookup.table.values) for k, lookup in enumerate(lookups)}
    places = [
        index_arrays.evaluate(at.offset, at.strides, range(len(sizes)), sizes, symbols)
        for at in maps
    ]
    return (
        np.broadcast_to(index_arrays.linear_index(places, shape), term.sizes).reshape(-1).tolist()
    )


@memoised(1024)
def _slices(aval: Any) -> Program:
    """All entries of an array as scalars."""

    def slices(x: Any) -> list[Any]:
        axes = tuple(range(x.ndim))
        starts = np.ndindex(x.shape)
        return [lax.squeeze(lax.slice(x, at, [k + 1 for k in at]), axes) for at in starts]

    return tracing.trace(slices, [jax_internals.abstract(aval)])[0]


@memoised(1024)
def _join(shape: tuple[int, ...], avals: tuple[Any, ...]) -> Program:
    """An array from its entries."""

    def join(*entries: Any) -> list[Any]:
        return [lax.reshape(lax.concatenate([lax.reshape(x, (1,)) for x in entries], 0), shape)]

    return tracing.trace(join, list(map(jax_internals.abstract, avals)))[0]


@memoised(64)
def _conversion(aval: Any, weak_type: bool) -> Program:
    def convert(x: Any) -> list[Any]:
        return [jax_internals.convert(x, aval.dtype, weak_type)]

    return tracing.trace(convert, [jax_internals.abstract(aval)])[0]
