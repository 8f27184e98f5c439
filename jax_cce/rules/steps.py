"""The steps of a scan as what is differentiated: one structure, and coefficients for each step.

A step maps the state, what is the same in all steps, and a slice of what is scanned to the next
state and a slice of what is stacked. Where its Jacobian is computed for all steps at once, that of
the scan is a chain of small products (see `jax_cce.loops`).
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from jax_cce import jax_internals
from jax_cce.algebra.terms import Unrepresentable
from jax_cce.jax_internals import Literal
from jax_cce.program import passes, tracing
from jax_cce.program.flat import Equation, Program
from jax_cce.program.known_stacks import CHOICES
from jax_cce.rules.book import Wild, record_of
from jax_cce.rules.wildness import wildness

__all__ = ["Steps", "products_are_written_out", "steps_of", "work_of"]

# What a step of products of matrices takes beside these, in operations, where they are calls of the
# library and where they are written out, and how much less than another operation one takes.
_PRODUCT_STEP, _WRITTEN_OUT_STEP, _OF_A_PRODUCT = 12_000, 3_000, 0.5
_FEW, _NOT_MANY, _NARROW = 4, 16, 128
# What an operation counts that no product of matrices consists of, where a step is differentiated
# at many points at once.
_ELEMENTWISE = 2
# Rows that are pulled back for what a column takes that is pushed.
_ROWS_PER_COLUMN = 1.5


@dataclass(frozen=True)
class Steps:
    """What the steps of a scan have in common.

    Attributes:
        program: a step.
        constants: the values of its constants.
        consts: how many operands are the same in all steps.
        carry: how many numbers of arrays the state has.
        length: how many steps there are.
        reverse: whether the last comes first.
        seeds: the operands that are differentiated.
        states: of the state's arrays those that vary with them, by their positions among operands.
        results: the results that vary.
    """

    program: Program
    constants: Sequence[Any]
    consts: int
    carry: int
    length: int
    reverse: bool
    seeds: tuple[int, ...]
    states: tuple[int, ...]
    results: tuple[int, ...]

    @property
    def varied(self) -> list[int]:
        """The inputs of a step that its Jacobian is taken with respect to, states first."""
        return [*self.states, *(k for k in self.seeds if k not in self.states)]

    @property
    def ends(self) -> list[int]:
        """The results of a step, each once, by the variables that they are; next states first."""
        outputs = self.program.outputs
        return list(dict.fromkeys(outputs[k] for k in self.results))

    def size(self, name: int) -> int:
        """Numbers in a variable of a step."""
        return jax_internals.size(self.program.avals[name])

    @property
    def num_states(self) -> int:
        """Numbers in the state, as far as it varies."""
        return sum(map(self.size, self.states))

    @property
    def num_columns(self) -> int:
        """Numbers that a step is differentiated with respect to."""
        return sum(map(self.size, self.varied))

    @property
    def num_rows(self) -> int:
        """Numbers that a step computes and that vary."""
        return sum(map(self.size, self.ends))

    @property
    def directions(self) -> float:
        """How many times a step is evaluated, pushed forward or pulled back for its Jacobian."""
        return 1 + min(self.num_columns, _ROWS_PER_COLUMN * self.num_rows)

    def work(self, *, stacked: bool) -> float:
        """Operations that the Jacobian of the scan takes, its values apart.

        Args:
            stacked: whether more is wanted of it than the last state.
        """
        work = self.directions * work_of(self.program.equations, elementwise=_ELEMENTWISE)
        rows, columns = self._products(stacked)
        return self.length * (work + _OF_A_PRODUCT * rows * self.num_states * columns)

    def stepping(self, *, stacked: bool) -> int:
        """What the products of the steps take beside their arithmetic."""
        if not self.states:
            return 0
        _, columns = self._products(stacked)
        is_written_out = products_are_written_out(self.num_states, columns)
        return self.length * (_WRITTEN_OUT_STEP if is_written_out else _PRODUCT_STEP)

    def _products(self, stacked: bool) -> tuple[int, int]:
        """Rows and columns of the products of the steps."""
        columns = sum(map(self.columns, self.seeds))
        if not stacked and columns > 2 * self.num_states:
            return self.num_states, self.num_columns
        return self.num_rows, columns

    def is_sliced(self, operand: int) -> bool:
        """Whether each step has a slice of its own of an operand."""
        return operand >= self.consts + self.carry

    def columns(self, operand: int) -> int:
        """Numbers in an operand of the whole scan."""
        return self.size(operand) * (self.length if self.is_sliced(operand) else 1)


def products_are_written_out(inner: int, columns: int) -> bool:
    """Whether a product of matrices is one loop over the result.

    A call of the library takes longer than small ones do.

    Args:
        inner: the products that each number of the result is a sum of.
        columns: how many columns the result has.
    """
    return inner <= _FEW or (inner <= _NOT_MANY and columns <= _NARROW)


def steps_of(equation: Equation, active: Sequence[bool]) -> Steps:
    """The steps of a scan.

    Args:
        equation: an equation.
        active: for each operand whether it is differentiated.

    Raises:
        Unrepresentable: where they have no Jacobians of one structure, or where products of these
            may meet what is not finite and a mask of a later step would hide.
    """
    if equation.name != "scan":
        raise Unrepresentable("no scan")
    length = equation.params["length"]
    if not isinstance(length, int) or not length or equation.origin.effects:
        raise Unrepresentable("no step, or with effects")
    consts, carry = jax_internals.scan_counts(equation)
    program, constants = tracing.flatten_closed(equation.params["jaxpr"])
    if jax_internals.is_symbolic(program.avals):
        raise Unrepresentable("symbolic sizes")
    names = tracing.primitive_names(program.equations)
    remat = any(each.regions for each in (equation, *program.equations))
    if remat or not jax_internals.NEED_AXES.isdisjoint(names):
        raise Unrepresentable("an exchange between devices, or values computed again")
    seeds = tuple(k for k, wanted in enumerate(active) if wanted)
    varied = set(seeds)
    while True:
        _, reached = passes.dependent(program.equations, varied)
        results = {
            k
            for k, atom in enumerate(program.outputs)
            if not isinstance(atom, Literal)
            and atom in reached
            and jax_internals.is_differentiable(program.aval(atom))
        }
        fresh = {consts + k for k in results if k < carry} - varied
        if not fresh:
            break
        varied |= fresh
    states = tuple(k for k in sorted(varied) if consts <= k < consts + carry)
    steps = Steps(
        program,
        constants,
        consts,
        carry,
        length,
        equation.params["reverse"],
        seeds,
        states,
        tuple(sorted(results)),
    )
    dtypes = {program.avals[k].dtype for k in varied}
    dtypes |= {program.avals[name].dtype for name in steps.ends}
    if len(dtypes) != 1 or any(np.issubdtype(dtype, np.complexfloating) for dtype in dtypes):
        raise Unrepresentable("numbers of several kinds")
    if not all(math.prod(program.avals[k].shape) for k in [*varied, *steps.ends]):
        raise Unrepresentable("nothing")
    # In a product with a mask's zero, what is not finite is not hidden.
    is_wild = max(wildness(program), default=Wild.TAME) > Wild.GIVEN
    if states and is_wild and not CHOICES.isdisjoint(names):
        raise Unrepresentable("what a mask may hide")
    return steps


def work_of(equations: Iterable[Equation], *, elementwise: float = 1) -> float:
    """Operations that some equations take, loops included.

    Args:
        equations: the equations.
        elementwise: what each counts that no product of matrices consists of.
    """
    total = 0.0
    for equation in equations:
        inner = tracing.inner_equations(equation)
        if inner:
            length = equation.params.get("length", 1)
            total += length * work_of(inner, elementwise=elementwise)
        elif (count := record_of(equation).flops) is not None:
            total += count(equation)
        else:
            total += elementwise * sum(map(jax_internals.size, equation.out_avals))
    return total
