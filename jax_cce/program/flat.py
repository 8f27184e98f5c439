"""A program: what is left of a jaxpr when calls are inlined and variables are numbered.

`trace` runs a function abstractly, inlines every call whose derivative is that of its body (jit,
checkpoint, closed_call ...), drops dead equations, and numbers variables: inputs first, then
constants, then the outputs of the equations in order. custom_jvp, custom_vjp and control flow stay
single equations, because their derivative is not that of a body run once.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
import numpy as np

from jax_cce.jax_internals import (
    INLINED,
    JAXPRS,
    Literal,
    bind,
    is_differentiable,
    opened,
    without_references,
)

__all__ = [
    "Equation",
    "Program",
    "evaluate",
    "flatten",
    "flatten_closed",
    "inner_equations",
    "is_hoistable",
    "primitive_names",
    "read",
    "trace",
]


@dataclass(frozen=True, slots=True)
class Equation:
    """One equation of a flat program.

    Attributes:
        primitive: the JAX primitive.
        params: its parameters.
        inputs: a variable number or a `Literal` for each operand.
        outputs: the variable number of each result.
        in_avals: the abstract value of each operand.
        out_avals: the abstract value of each result.
        origin: the jaxpr equation, for its source line and its tracing context.
        known: what is known before the program runs of some operands, by position; NaN where an
            entry is not.
    """

    primitive: Any
    params: dict[str, Any]
    inputs: tuple[Any, ...]
    outputs: tuple[int, ...]
    in_avals: tuple[Any, ...]
    out_avals: tuple[Any, ...]
    origin: Any = field(repr=False)
    known: Mapping[int, np.ndarray] = field(default_factory=dict, repr=False)

    @property
    def name(self) -> str:
        """The primitive's name."""
        return self.primitive.name


@dataclass(frozen=True, slots=True)
class Program:
    """A flat, dead-code-free program.

    Variables 0 .. num_inputs-1 are the inputs, the next num_constants the constants, and then
    come the outputs of the equations, in order.
    """

    avals: list[Any]
    num_inputs: int
    num_constants: int
    equations: list[Equation]
    outputs: tuple[Any, ...]

    @property
    def first_computed(self) -> int:
        """The number of the first variable that an equation computes."""
        return self.num_inputs + self.num_constants

    def aval(self, atom: Any) -> Any:
        """The abstract value of a variable number or a literal."""
        return atom.aval if isinstance(atom, Literal) else self.avals[atom]


def trace(
    fun: Callable[..., Iterable[Any]], leaves: Sequence[Any], *, hoist: bool = False
) -> tuple[Program, list[Any]]:
    """Traces `fun(*leaves)`, which returns a list of arrays.

    The function is traced anew each time, so a changed closure is seen.

    Args:
        fun: a function of arrays; it must be a fresh object, since JAX caches by identity.
        leaves: arrays, tracers, numbers or `jax.ShapeDtypeStruct`.
        hoist: whether floating-point literals other than 0, 1 and -1 become constants, so that
            one compiled program serves all their values.

    Returns:
        The program and the values of its constants.
    """
    closed = without_references(jax.make_jaxpr(fun)(*leaves))
    return flatten(closed.jaxpr, closed.consts, hoist=hoist)


def flatten_closed(closed: Any) -> tuple[Program, list[Any]]:
    """`flatten` for the closed jaxpr that is a parameter of an equation."""
    return flatten(*opened(closed))


def flatten(jaxpr: Any, consts: Sequence[Any], *, hoist: bool = False) -> tuple[Program, list[Any]]:
    """Inlines calls, drops dead equations and numbers the variables of a jaxpr."""
    flat: list[tuple[Any, tuple[Any, ...], list[object]]] = []
    # Before numbering, a variable is a unique object: the jaxpr's own, or one of these.
    constants: dict[object, Any] = {}
    avals: dict[object, Any] = {}

    def constant(value: Any, aval: Any) -> object:
        name = object()
        constants[name], avals[name] = value, aval
        return name

    def walk(jaxpr: Any, consts: Sequence[Any], args: Sequence[Any]) -> list[Any]:
        names: dict[Any, Any] = dict(zip(jaxpr.invars, args, strict=True))
        for var, value in zip(jaxpr.constvars, consts, strict=True):
            names[var] = constant(value, var.aval)

        def read(atom: Any) -> Any:
            if not isinstance(atom, Literal):
                return names[atom]
            if hoist and _is_hoistable(atom):
                return constant(atom.val, atom.aval)
            return atom

        for eqn in jaxpr.eqns:
            operands = tuple(map(read, eqn.invars))
            body = eqn.params.get(INLINED.get(eqn.primitive.name, ""))
            if body is None:
                results: list[Any] = []
                for var in eqn.outvars:
                    name = object()
                    avals[name] = var.aval
                    results.append(name)
                flat.append((eqn, operands, results))
            else:
                results = walk(*opened(body), operands)
            names.update(zip(eqn.outvars, results, strict=True))
        return [read(atom) for atom in jaxpr.outvars]

    inputs = []
    for var in jaxpr.invars:
        name = object()
        avals[name] = var.aval
        inputs.append(name)
    outputs = walk(jaxpr, consts, inputs)

    live = {id(name) for name in outputs}
    kept = []
    for eqn, operands, results in reversed(flat):
        if eqn.effects or any(id(name) in live for name in results):
            live.update(map(id, operands))
            kept.append((eqn, operands, results))
    kept.reverse()
    used = [name for name in constants if id(name) in live]

    order = [*inputs, *used, *(name for _, _, results in kept for name in results)]
    number = {id(name): index for index, name in enumerate(order)}

    def resolve(name: Any) -> Any:
        return name if isinstance(name, Literal) else number[id(name)]

    def aval_of(name: Any) -> Any:
        return name.aval if isinstance(name, Literal) else avals[name]

    program = Program(
        [avals[name] for name in order],
        len(inputs),
        len(used),
        [
            Equation(
                eqn.primitive,
                eqn.params,
                tuple(map(resolve, operands)),
                tuple(map(resolve, results)),
                tuple(map(aval_of, operands)),
                tuple(var.aval for var in eqn.outvars),
                eqn,
            )
            for eqn, operands, results in kept
        ],
        tuple(map(resolve, outputs)),
    )
    return program, [constants[name] for name in used]


def _is_hoistable(literal: Any) -> bool:
    return (
        is_differentiable(literal.aval)
        and not np.shape(literal.val)
        and literal.val not in (0, 1, -1)
    )


def evaluate(program: Program, constants: Sequence[Any], inputs: Sequence[Any]) -> list[Any]:
    """Runs a program on arrays or tracers and returns its outputs."""
    values: list[Any] = [*inputs, *constants, *[None] * len(program.avals)]
    for equation in program.equations:
        results = bind(equation, [read(values, atom) for atom in equation.inputs])
        for name, result in zip(equation.outputs, results, strict=True):
            values[name] = result
    return [read(values, atom) for atom in program.outputs]


def read(values: Sequence[Any], atom: Any) -> Any:
    """The value of a variable number or a literal."""
    return atom.val if isinstance(atom, Literal) else values[atom]


def primitive_names(equations: Iterable[Equation]) -> set[str]:
    """The names of all primitives in some equations, those inside control flow included."""
    equations = list(equations)
    names = {equation.name for equation in equations}
    pending: list[Any] = [equation.params for equation in equations]
    seen: set[int] = set()
    while pending:
        value = pending.pop()
        if type(value) is dict:
            pending.extend(value.values())
        elif type(value) in (tuple, list):
            pending.extend(value)
        elif isinstance(value, JAXPRS) and id(value) not in seen:
            seen.add(id(value))
            names.update(eqn.primitive.name for eqn in value.eqns)
            pending.extend(eqn.params for eqn in value.eqns)
    return names


def inner_equations(equation: Equation) -> list[Equation]:
    """The equations of the jaxprs among an equation's parameters, such as a scan's body."""
    found = []
    for value in equation.params.values():
        for item in value if type(value) is tuple else (value,):
            if isinstance(item, JAXPRS):
                found += flatten(*opened(item))[0].equations
    return found


def is_hoistable(literal: Any) -> bool:
    """Whether `trace(hoist=True)` makes a constant of a literal."""
    return _is_hoistable(literal)
