"""In which directions masks hide what is not finite.

A selection (`jnp.where`) multiplies by one or zero. Forward mode drops what is infinite or NaN
where the selection comes after it, and makes NaN of it where the selection comes before: the
tangent is zero there, and is then multiplied by the derivative of a root or a quotient. In reverse
mode it is the other way round. Of a loop each step is looked at by itself, as elimination does,
and past a factorisation or a solve nothing is hidden. Nor is it by what leaves out the zeros of a
triangular factor (`jnp.tril`).

A selection that puts a known number in the place of a value, as in `jnp.sqrt(jnp.where(x > 0, x,
1))`, hides nothing from forward mode where the function is regular at that number: what is zero is
multiplied by the derivative there.
"""

import enum
import functools
import operator
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from jax_cce import jax_internals
from jax_cce.jax_internals import Literal
from jax_cce.program import in_numpy, known_values, tracing
from jax_cce.program.flat import Equation, Program
from jax_cce.rules.book import Wild
from jax_cce.rules.wildness import own_wildness

__all__ = ["LOOPS", "finite_modes"]


class _Passed(enum.IntFlag):
    """What a value that depends on what is differentiated has passed."""

    NOTHING = 0
    VARIES = 1
    A_MASK = 2
    A_SINGULARITY = 4
    # Not on the way, but there: zeros above the diagonal.
    TRIANGULAR = 8


class _Instead(NamedTuple):
    """What a selection has put in the place of some entries of a value.

    Attributes:
        selection: the selection, a variable.
        value: all of the value, if all of its entries were replaced; finite.
    """

    selection: int
    value: np.ndarray


# Their derivative is zero.
_CONSTANT = {"ceil", "floor", "round", "sign", "stop_gradient"}
LOOPS = ("scan", "while")
# Functions of JAX whose own rules multiply by what is finite, and is no mask.
_SMOOTH = {("logaddexp", "_logaddexp_jvp")}
# What is singular at zero, or below, in its last operand or the base of a power.
_REGULAR_ABOVE_ZERO = {"cbrt", "div", "log", "pow", "rsqrt", "sqrt"}
# Each entry of the result is a function of one entry of each operand.
_BY_ENTRY = {
    *in_numpy.ELEMENTWISE,
    *("broadcast_in_dim", "convert_element_type", "reshape", "squeeze", "transpose"),
}
# Of these every result depends on every entry.
_WHOLE = {
    *("cholesky", "eigh", "eig", "householder_product", "lu", "qr", "svd"),
    *("custom_linear_solve", "triangular_solve", "tridiagonal_solve"),
}


def finite_modes(program: Program, inputs: Sequence[int], *, inside_loops: bool = True) -> set[str]:
    """The modes of JAX ("jacfwd", "jacrev") in which masks hide what elimination hides with them.

    Args:
        program: a traced program.
        inputs: the inputs that are differentiated.
        inside_loops: whether the steps of loops count; elimination, too, differentiates these in
            one direction.
    """
    walk = _Walk(inside_loops)
    passed = [_Passed.NOTHING] * program.first_computed
    for name in inputs:
        passed[name] = _Passed.VARIES
    walk.through(program.equations, passed)
    return walk.modes


class _Walk:
    """A walk along the equations.

    Attributes:
        modes: the modes that have been found to be safe so far.
    """

    def __init__(self, inside_loops: bool) -> None:
        self.modes = {"jacfwd", "jacrev"}
        self._inside_loops = inside_loops

    def through(self, equations: Sequence[Equation], passed: list[_Passed]) -> None:
        """Appends what the results of equations have passed."""
        # The known numbers that selections put in the place of values, by variable.
        instead: dict[Any, _Instead] = {}
        for equation in equations:
            operands = [
                _Passed.NOTHING if isinstance(atom, Literal) else passed[atom]
                for atom in equation.inputs
            ]
            if _keeps_triangle(equations, equation, operands):
                passed.append(operands[-1])
                continue
            replaced = [atom in instead for atom in map(_variable, equation.inputs)]
            result = _instead_of_result(equations, equation, operands, instead)
            is_regular = _is_regular(equation, instead)
            is_tame = is_regular or own_wildness(equation) <= Wild.GIVEN
            is_kept = result is not None and is_tame
            if not (is_kept or is_regular):
                operands = [
                    each | _Passed.A_MASK if here else each
                    for each, here in zip(operands, replaced, strict=True)
                ]
            found = self._results(equations, equation, operands)
            if result is not None and is_tame and found[0]:
                instead[equation.outputs[0]] = result
                found = [found[0] & ~_Passed.A_MASK | _union(operands) & _Passed.A_MASK]
            elif any(replaced):
                found = [each | _Passed.A_MASK if each else each for each in found]
            passed += found

    def _results(
        self, equations: Sequence[Equation], equation: Equation, operands: Sequence[_Passed]
    ) -> list[_Passed]:
        together = _union(operands) & ~_Passed.TRIANGULAR
        if not together or equation.name in _CONSTANT:
            return [_Passed.NOTHING] * len(equation.out_avals)
        is_rule = equation.name == "custom_jvp_call"
        is_smooth = is_rule and jax_internals.rule_names(equation.params) in _SMOOTH
        is_closed = is_rule or (equation.name in LOOPS and not self._inside_loops)
        bodies = () if is_closed else _bodies(equation, operands)
        found = [self._through_body(*body) for body in bodies]
        together = _union([together, *found])
        # Under `jax.vmap` a cond is a selection, too, unless it chooses by the platform, and so may
        # be what a rule multiplies by.
        chooses = equation.name == "cond" and equation.params.get("branches_platforms") is None
        if equation.name == "select_n" or chooses or (is_rule and not is_smooth):
            if _Passed.A_SINGULARITY in together:
                self.modes.discard("jacrev")
            together |= _Passed.A_MASK
            if is_rule and own_wildness(equation) > Wild.GIVEN:
                self.modes.clear()
        elif not (is_closed or found or is_smooth) and _is_singular(equations, equation, operands):
            if _Passed.A_MASK in together:
                self.modes.discard("jacfwd")
            together |= _Passed.A_SINGULARITY
        if equation.name in LOOPS or equation.name in _WHOLE:
            together = _Passed.VARIES
        if equation.name == "cholesky":
            together |= _Passed.TRIANGULAR
        return [
            together if jax_internals.is_differentiable(aval) else _Passed.NOTHING
            for aval in equation.out_avals
        ]

    def _through_body(self, body: Program, entering: Sequence[_Passed]) -> _Passed:
        """What a body's results have passed."""
        passed = [*entering, *[_Passed.NOTHING] * (body.first_computed - len(entering))]
        self.through(body.equations, passed)
        return _union(passed[atom] for atom in body.outputs if not isinstance(atom, Literal))


def _is_singular(
    equations: Sequence[Equation], equation: Equation, operands: Sequence[_Passed]
) -> bool:
    """Whether a derivative may be infinite or NaN for an entry by itself."""
    if equation.name in _WHOLE or own_wildness(equation) <= Wild.GIVEN:
        return False
    if equation.name != "div" or operands[1]:
        return True
    divisor = known_values.value_of(equations, equation.inputs[1])
    return divisor is None or not np.all(divisor)


def _instead_of_result(
    equations: Sequence[Equation],
    equation: Equation,
    operands: Sequence[_Passed],
    instead: Mapping[Any, _Instead],
) -> _Instead | None:
    """What a selection puts in the place of a result, or what follows from that; None if unknown.

    Then an entry of the result mixes what is replaced and what is not.
    """
    (own, *_) = equation.outputs
    if equation.name == "select_n" and len(operands) == 3:
        varied = [k for k in (1, 2) if operands[k]]
        if len(varied) != 1 or equation.inputs[varied[0]] in instead:
            return None
        value = known_values.value_of(equations, equation.inputs[3 - varied[0]])
        return _Instead(own, value) if value is not None and np.isfinite(value).all() else None
    if equation.name not in _BY_ENTRY or any(k not in instead for k in equation.variables):
        return None
    selections = {instead[name].selection for name in equation.variables}
    if len(selections) != 1:
        return None
    values = [
        atom.val if isinstance(atom, Literal) else instead[atom].value for atom in equation.inputs
    ]
    results = in_numpy.evaluated(equation, values)
    if results is None or not np.isfinite(results[0]).all():
        return None
    # Entries that are moved meet others afterwards.
    is_moved = equation.name not in in_numpy.ELEMENTWISE
    return _Instead(own if is_moved else selections.pop(), results[0])


def _is_regular(equation: Equation, instead: Mapping[Any, _Instead]) -> bool:
    """Whether a function that is singular at zero is not where its operands were replaced."""
    if equation.name not in _REGULAR_ABOVE_ZERO:
        return False
    singular = equation.inputs[0 if equation.name == "pow" else -1]
    if isinstance(singular, Literal) or singular not in instead:
        return False
    selections = {instead[name].selection for name in equation.variables if name in instead}
    return len(selections) == 1 and bool(np.all(instead[singular].value > 0))


def _keeps_triangle(
    equations: Sequence[Equation], equation: Equation, operands: Sequence[_Passed]
) -> bool:
    """Whether an equation replaces nothing but zeros above a triangular factor's diagonal."""
    if equation.name != "select_n" or _Passed.TRIANGULAR not in operands[-1]:
        return False
    # Of two cases and a predicate, by which the latter one is taken.
    if len(operands) > 3 or operands[1] or equation.in_avals[0].dtype != bool:
        return False
    kept = known_values.value_of(equations, equation.inputs[0])
    return kept is not None and bool(np.all(kept[..., *np.tril_indices(kept.shape[-2])]))


def _variable(atom: Any) -> int | None:
    return None if isinstance(atom, Literal) else atom


def _union(flags: Iterable[_Passed]) -> _Passed:
    return functools.reduce(operator.or_, flags, _Passed.NOTHING)


def _bodies(
    equation: Equation, operands: Sequence[_Passed]
) -> Iterator[tuple[Program, Sequence[_Passed]]]:
    """The programs inside an equation, with what enters each of them."""
    entering = _Passed.VARIES
    if equation.name not in LOOPS:
        entering |= _union(operands)
    for value in equation.params.values():
        for item in value if isinstance(value, tuple) else (value,):
            if isinstance(item, jax_internals.JAXPRS):
                body, _ = tracing.flatten(*jax_internals.opened(item))
                floats = map(jax_internals.is_differentiable, body.avals[: body.num_inputs])
                yield body, [entering if wanted else _Passed.NOTHING for wanted in floats]
