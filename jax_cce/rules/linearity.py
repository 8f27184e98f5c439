"""Which values of a program are linear in its seeds, decided from the program.

Derivatives that a user writes need not be linear: a pullback may ignore its cotangent, add to it,
square, clip or branch on it. So each variable is followed from the seeds on, through control flow,
and what is not known to be linear counts as not linear.
"""

import enum
import functools
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from jax_cce import jax_internals
from jax_cce.jax_internals import Literal
from jax_cce.program import tracing
from jax_cce.program.flat import Equation, Program
from jax_cce.rules.book import record_of

__all__ = [
    "Dependence",
    "dependence",
    "is_linear",
]

# A constant of more entries is not looked through for zeros.
_MOST_ENTRIES = 1 << 20


class Dependence(enum.Enum):
    """How a value depends on the seeds."""

    ZERO = "it is zero whatever they are"
    FIXED = "it does not depend on them"
    LINEAR = "it is linear in them, so zero where they are"
    OTHER = "it is not known to be linear in them"

    def __or__(self, other: "Dependence") -> "Dependence":
        """That of a value which is either one or the other, or the sum of both."""
        if self is other or other is Dependence.ZERO:
            return self
        return other if self is Dependence.ZERO else Dependence.OTHER


ZERO, FIXED, LINEAR, OTHER = Dependence


def dependence(
    program: Program,
    constants: Sequence[Any],
    seeds: Iterable[int],
    atoms: Iterable[Any],
    *,
    by_jax: bool = False,
) -> list[Dependence]:
    """How some atoms of a program depend on its seeds.

    Args:
        program: the program.
        constants: values of its constants.
        seeds: the inputs that vary.
        atoms: variables or literals.
        by_jax: whether JAX made the program by linearising. Then it is not linear only where a
            user's rule for tangents is not, and a primitive that JAX can transpose is linear.
    """
    inputs = [FIXED] * program.num_inputs
    for name in seeds:
        inputs[name] = LINEAR
    followed = _Followed(program, constants, inputs, by_jax)
    found = followed.read(atoms)
    # Whoever is told of a cotangent is to be told of those that there are.
    return [OTHER] * len(found) if followed.tells and not by_jax else found


def is_linear(program: Program, constants: Sequence[Any]) -> bool:
    """Whether all outputs of a program are known to be linear in all its inputs."""
    found = dependence(program, constants, range(program.num_inputs), program.outputs)
    return {ZERO, LINEAR}.issuperset(found)


class _Followed:
    """A program whose variables are followed from the inputs to the outputs.

    Attributes:
        tells: whether what depends on the seeds has effects.
    """

    def __init__(
        self,
        program: Program,
        constants: Sequence[Any],
        inputs: Sequence[Dependence],
        by_jax: bool,
    ) -> None:
        self._by_jax = by_jax
        self._program, self._constants = program, constants
        self._states: dict[int, Dependence] = dict(enumerate(inputs))
        self.tells = False
        for equation in program.equations:
            operands = self.read(equation.inputs)
            if jax_internals.other_effects(equation.origin):
                self.tells |= not {LINEAR, OTHER}.isdisjoint(operands)
            results = self._results(equation, operands)
            self._states.update(zip(equation.outputs, results, strict=True))

    def read(self, atoms: Iterable[Any]) -> list[Dependence]:
        return [
            _of_value(k.val, k.aval) if isinstance(k, Literal) else self._state(k) for k in atoms
        ]

    def _state(self, name: int) -> Dependence:
        if name not in self._states:
            value = self._constants[name - self._program.num_inputs]
            self._states[name] = _of_value(value, self._program.avals[name])
        return self._states[name]

    def _results(self, equation: Equation, operands: list[Dependence]) -> Sequence[Dependence]:
        if equation.name in _PASSED:
            return operands
        if OTHER in operands:
            result = OTHER
        elif LINEAR in operands and (inner := _INNER.get(equation.name)) is not None:
            return inner(functools.partial(_outputs, self._by_jax), equation, operands)
        else:
            result = _of_record(equation, operands, self._by_jax)
        if result is LINEAR:
            # Whatever is counted or compared is a step function of what it is computed from.
            smooth = map(jax_internals.is_differentiable, equation.out_avals)
            return [LINEAR if moves else OTHER for moves in smooth]
        return [result] * len(equation.outputs)


def _of_value(value: Any, aval: Any) -> Dependence:
    """That of a literal or a constant."""
    if (
        jax_internals.is_tracer(value)
        or not jax_internals.is_number(aval)
        or jax_internals.size(aval) > _MOST_ENTRIES
        or np.asarray(value).any()
    ):
        return FIXED
    return ZERO


def _of_record(equation: Equation, operands: Sequence[Dependence], by_jax: bool) -> Dependence:
    """That of the results of an equation, by what is known of its primitive."""
    linear = record_of(equation).linear
    moving = [k for k, state in enumerate(operands) if state is LINEAR]
    if linear is None:
        if not moving:
            return FIXED
        return LINEAR if by_jax and jax_internals.is_transposable(equation.primitive) else OTHER
    zero = [k for k, state in enumerate(operands) if state is ZERO]
    if linear.vanishes(equation, zero):
        return ZERO
    if not moving:
        return FIXED
    return LINEAR if linear.holds(equation, moving, zero, by_jax=by_jax) else OTHER


# Primitives of which each result is the operand at its place.
_PASSED = {"optimization_barrier"}

_Outputs = Callable[[Any, Sequence[Dependence]], list[Dependence]]


def _outputs(by_jax: bool, body: Any, inputs: Sequence[Dependence]) -> list[Dependence]:
    program, constants = tracing.flatten_closed(body)
    return _Followed(program, constants, inputs, by_jax).read(program.outputs)


def _carried(
    outputs: _Outputs, body: Any, fixed: Sequence[Dependence], carry: list[Dependence], rest: Any
) -> tuple[list[Dependence], list[Dependence]]:
    """What a loop carries in the end, and what each of its steps puts out."""
    while True:
        results = outputs(body, [*fixed, *carry, *rest])
        joined = [old | new for old, new in zip(carry, results, strict=False)]
        if joined == carry:
            return carry, results[len(carry) :]
        carry = joined


def _scan(
    outputs: _Outputs, equation: Equation, operands: Sequence[Dependence]
) -> Sequence[Dependence]:
    consts, carry = jax_internals.scan_counts(equation)
    fixed, rest = operands[:consts], operands[consts + carry :]
    start = list(operands[consts : consts + carry])
    state, slices = _carried(outputs, equation.params["jaxpr"], fixed, start, rest)
    return [*state, *slices]


def _while(
    outputs: _Outputs, equation: Equation, operands: Sequence[Dependence]
) -> Sequence[Dependence]:
    params = equation.params
    tested, consts = params["cond_nconsts"], params["body_nconsts"]
    fixed, start = operands[tested : tested + consts], list(operands[tested + consts :])
    state, _ = _carried(outputs, params["body_jaxpr"], fixed, start, ())
    (ends,) = outputs(params["cond_jaxpr"], [*operands[:tested], *state])
    return state if ends in (FIXED, ZERO) else [OTHER] * len(state)


def _cond(
    outputs: _Outputs, equation: Equation, operands: Sequence[Dependence]
) -> Sequence[Dependence]:
    if operands[0] not in (FIXED, ZERO):
        return [OTHER] * len(equation.outputs)
    branches = [outputs(branch, operands[1:]) for branch in equation.params["branches"]]
    return [functools.reduce(Dependence.__or__, states) for states in zip(*branches, strict=True)]


def _call(
    outputs: _Outputs, equation: Equation, operands: Sequence[Dependence]
) -> Sequence[Dependence]:
    """A call whose values are those of its body, though its derivative is not."""
    return outputs(equation.params["call_jaxpr"], operands)


def _solve(
    outputs: _Outputs, equation: Equation, operands: Sequence[Dependence]
) -> Sequence[Dependence]:
    """A solution is linear in the right-hand sides together, which come last."""
    consts = sum(equation.params["const_lengths"])
    if LINEAR in operands[:consts]:
        return [OTHER] * len(equation.outputs)
    return [functools.reduce(Dependence.__or__, operands[consts:])] * len(equation.outputs)


_INNER: dict[str, Callable[[_Outputs, Equation, Sequence[Dependence]], Sequence[Dependence]]] = {
    "cond": _cond,
    "custom_jvp_call": _call,
    "custom_linear_solve": _solve,
    "custom_vjp_call": _call,
    "scan": _scan,
    "while": _while,
}
