"""A program under construction whose scalar equations are folded and shared."""

import dataclasses
import functools
from collections.abc import Iterable, Sequence
from typing import Any

import jax
import numpy as np
from jax import lax

from jax_cce import jax_internals
from jax_cce.caches import memoised
from jax_cce.jax_internals import Literal
from jax_cce.program import in_numpy, passes, tracing
from jax_cce.program.flat import Equation, Program

__all__ = [
    "SCALAR_DTYPES",
    "ProgramBuilder",
    "is_literal",
    "literal_of",
    "scalar_operation",
]

# Sums of narrower numbers are rounded in ways that the compiler chooses.
SCALAR_DTYPES = frozenset({np.dtype(np.float32), np.dtype(np.float64)})


class ProgramBuilder:
    """A program under construction.

    Attributes:
        avals: the abstract value of each variable.
        equations: the equations so far.
        origin: the jaxpr equation in whose name scalar equations are added.
    """

    def __init__(self, avals: list[Any]) -> None:
        self.avals = avals
        self.equations: list[Equation] = []
        self.origin: Any = None
        # The result of each scalar equation, by what it computes.
        self._computed: dict[Any, Any] = {}
        # For each variable that is the negative of another one, that one.
        self._negated: dict[int, int] = {}

    def aval(self, atom: Any) -> Any:
        """The abstract value of an atom."""
        return atom.aval if is_literal(atom) else self.avals[atom]

    def add(self, equation: Equation, inputs: Iterable[Any], origin: Any) -> list[int]:
        """Adds an equation on the given operands; returns the variables of its results."""
        inputs = tuple(inputs)
        outputs = list(range(len(self.avals), len(self.avals) + len(equation.out_avals)))
        self.avals.extend(equation.out_avals)
        self.equations.append(
            Equation(
                equation.primitive,
                equation.params,
                inputs,
                tuple(outputs),
                tuple(map(self.aval, inputs)),
                equation.out_avals,
                origin,
                equation.known,
                equation.regions,
            )
        )
        return outputs

    def splice(self, program: Program, inputs: Iterable[Any], origin: Any) -> list[Any]:
        """Adds the equations of a program on the given inputs; returns its outputs."""
        atoms = list(inputs)
        for equation in program.equations:
            operands = [atom if is_literal(atom) else atoms[atom] for atom in equation.inputs]
            atoms += self.add(equation, operands, origin)
        return [atoms[name] for name in program.outputs]

    def finished(self, program: Program, outputs: Sequence[Any]) -> Program:
        """What computes the outputs, with the inputs and constants of a given program."""
        effects = [bool(getattr(e.origin, "effects", None)) for e in self.equations]
        live, _ = passes.needed(self.equations, outputs, selected=effects)
        kept = [equation for equation, wanted in zip(self.equations, live, strict=True) if wanted]
        order = list(range(program.first_computed))
        order += [name for equation in kept for name in equation.outputs]
        sizes = program.num_inputs, program.num_constants
        return passes.renumbered(self.avals, order, *sizes, kept, outputs)

    def scalar(self, equation: Equation, atoms: Sequence[Any]) -> Any:
        """The result of an equation's primitive on scalars, folded where it can be."""
        (aval,) = equation.out_avals
        simpler = self._simpler(equation, atoms)
        if simpler is not None and self.aval(simpler).dtype == aval.dtype:
            return simpler
        keys = list(map(_key, atoms))
        if equation.name in ("add", "mul"):
            keys.sort(key=str)
        key = equation.primitive, tuple(equation.params.items()), *keys
        if key not in self._computed:
            result: Any = _value(equation, atoms) if all(map(is_literal, atoms)) else None
            if result is None:
                (result,) = self.add(self._typed(equation, atoms), atoms, self.origin)
                if equation.name == "neg":
                    self._negated[result] = atoms[0]
            self._computed[key] = result
        return self._computed[key]

    def _typed(self, equation: Equation, atoms: Sequence[Any]) -> Equation:
        """The equation with the weak type that it has on these operands."""
        (aval,) = equation.out_avals
        operands = map(self.aval, atoms)
        weak = all(operand.weak_type for operand in operands if operand.dtype in SCALAR_DTYPES)
        if equation.name == "convert_element_type" or weak == aval.weak_type:
            return equation
        return dataclasses.replace(equation, out_avals=(aval.update(weak_type=weak),))

    def sum(self, atoms: Sequence[Any], dtype: Any) -> Any:
        """The sum of scalars, in their order."""
        add = scalar_operation("add", dtype)
        return functools.reduce(lambda x, y: self.scalar(add, (x, y)), atoms)

    def _simpler(self, equation: Equation, atoms: Sequence[Any]) -> Any:
        """An atom that equals the result of a primitive on scalars; None if it needs computing."""
        dtype = equation.out_avals[0].dtype
        match equation.name, [float(atom.val) if is_literal(atom) else None for atom in atoms]:
            case "mul", [0, _] | [_, 0]:
                return literal_of(0.0, dtype)
            case ("mul", [1, _]) | ("add" | "add_any", [0, _]):
                return atoms[1]
            case ("mul" | "div", [_, 1]) | ("add" | "add_any" | "sub", [_, 0]):
                return atoms[0]
            case ("mul", [-1, _]) | ("sub", [0, _]):
                return self.scalar(scalar_operation("neg", dtype), atoms[1:])
            case "mul" | "div", [_, -1]:
                return self.scalar(scalar_operation("neg", dtype), atoms[:1])
            case "select_n", [case, *_] if case is not None:
                return atoms[1 + int(case)]
            case "select_n", _ if len(set(map(_key, atoms[1:]))) == 1:
                return atoms[1]
            case "convert_element_type", _:
                return atoms[0]
        positive = [None if is_literal(atom) else self._negated.get(atom) for atom in atoms]
        match equation.name, positive:
            case "neg", [x]:
                return x
            case "mul" | "div", [x, y] if (x, y) != (None, None):
                x, y = (atoms[0] if x is None else x), (atoms[1] if y is None else y)
                result = self.scalar(equation, (x, y))
                if None not in positive:
                    return result
                return self.scalar(scalar_operation("neg", dtype), (result,))
            case "add", [_, y] if y is not None:
                return self.scalar(scalar_operation("sub", dtype), (atoms[0], y))
            case "add", [x, _] if x is not None:
                return self.scalar(scalar_operation("sub", dtype), (atoms[1], x))
            case "sub", [_, y] if y is not None:
                return self.scalar(scalar_operation("add", dtype), (atoms[0], y))
        return None


def is_literal(atom: Any) -> bool:
    """Whether an atom is a number that is known while planning."""
    return isinstance(atom, Literal)


def _key(atom: Any) -> Any:
    return (atom.aval.dtype.str, np.asarray(atom.val).item()) if is_literal(atom) else atom


@memoised(1024)
def literal_of(value: float, dtype: Any) -> Literal:
    """The literal of a scalar."""
    return Literal(dtype.type(value), jax.core.ShapedArray((), dtype))


def _value(equation: Equation, atoms: Sequence[Literal]) -> Literal | None:
    """The result of a primitive on numbers, if it is finite."""
    operands = [atom.val for atom in atoms]
    results: Sequence[Any] | None = in_numpy.evaluated(equation, operands)
    if results is None:
        # Whatever is being traced around us, this is computed now.
        with jax.core.eval_context():
            results = jax_internals.bind(equation, operands)
    (result,) = results
    # Equations such as a copy hand the number of a literal on as it is.
    number = np.asarray(result, equation.out_avals[0].dtype)
    return literal_of(number.item(), number.dtype) if np.isfinite(number) else None


@memoised(64)
def scalar_operation(name: str, dtype: Any) -> Equation:
    """A scalar equation of a primitive."""
    scalars = [jax.ShapeDtypeStruct((), dtype)] * (1 if name == "neg" else 2)
    return tracing.trace(lambda *xs: [getattr(lax, name)(*xs)], scalars)[0].equations[0]
