"""What identifies a program: all but the names of variables and the values of constants."""

from collections.abc import Callable, Hashable
from typing import Any

import numpy as np

from jax_cce.jax_internals import JAXPRS, Literal, opened, scan_counts
from jax_cce.program.flat import Equation, Program
from jax_cce.program.tracing import flatten

__all__ = [
    "ById",
    "constant_key",
    "jaxpr_key",
    "mathematical_params",
    "program_key",
]


def program_key(program: Program, custom: Callable[[Equation], Hashable]) -> Hashable:
    """Identifies a program by everything but the values of its constants.

    Args:
        program: the program.
        custom: the key of an equation whose derivative is user code (custom_jvp, custom_vjp),
            which no parameter identifies; None for any other equation.
    """
    return (
        program.num_inputs,
        tuple(program.avals[: program.first_computed]),
        tuple(_equation_key(equation, custom) for equation in program.equations),
        tuple(map(_atom_key, program.outputs)),
    )


def _equation_key(equation: Equation, custom: Callable[[Equation], Hashable]) -> Hashable:
    derivative = custom(equation)
    params = (
        tuple(_param_key(value, custom) for value in equation.params.values())
        if derivative is None
        else derivative
    )
    return (
        equation.primitive,
        tuple(map(_atom_key, equation.inputs)),
        params,
        equation.out_avals,
        equation.regions,
    )


def _atom_key(atom: Any) -> Hashable:
    if isinstance(atom, Literal):
        return np.asarray(atom.val).tobytes(), atom.aval
    return atom


def jaxpr_key(value: Any, custom: Callable[[Equation], Hashable]) -> Hashable:
    """`program_key` of a jaxpr, together with the values of its constants.

    An open one has constvars without values, and whoever evaluates it tells them from its inputs.
    """
    jaxpr, consts = opened(value)
    program, constants = flatten(jaxpr, consts)
    num_free = len(jaxpr.constvars) - len(consts)
    return num_free, program_key(program, custom), tuple(map(constant_key, constants))


def constant_key(value: Any) -> Hashable:
    """Identifies an array by its entries where they are at hand, else by the object."""
    if isinstance(value, (np.ndarray, np.generic, bool, int, float, complex)):
        array = np.asarray(value)
        return array.shape, array.dtype, array.tobytes()
    return ById(value)


def _param_key(value: Any, custom: Callable[[Equation], Hashable]) -> Hashable:
    if isinstance(value, JAXPRS):
        return jaxpr_key(value, custom)
    if type(value) in (tuple, list):
        return tuple(_param_key(item, custom) for item in value)
    if isinstance(value, np.ndarray):
        return constant_key(value)
    try:
        hash(value)
    except TypeError:
        # An unhashable parameter is identified by the object, which the key keeps alive.
        return ById(value)
    return value


class ById:
    """A key equal to itself only, by the identity of what it holds."""

    def __init__(self, value: Any) -> None:
        self.value = value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ById) and self.value is other.value

    def __hash__(self) -> int:
        return id(self.value)


# How a result is named, computed, rounded or placed, rather than what it is. Element types are
# those of the results; what breaks ties between equal entries has no derivative.
_NOT_MATHEMATICS = {
    "accuracy",
    "algorithm",
    "context_mesh",
    "copy_semantics",
    "devices",
    "implementation",
    "is_stable",
    "layout",
    "mesh",
    "name",
    "out_dtype",
    "out_sharding",
    "precision",
    "preferred_element_type",
    "sharding",
    "srcs",
    "unconstrained_dims",
    "unroll",
    "use_magma",
    "weak_type",
    # The structure of a scan's operands, which JAX 0.12 has in place of counts.
    "ft_in",
    "ft_out",
}

# Parameters that JAX 0.12 calls otherwise than 0.10.
_RENAMED = {"call_jaxpr": "jaxpr"}


def mathematical_params(equation: Equation) -> list[tuple[str, Any]]:
    """The parameters that a derivative may depend on, sorted by name, alike in all JAX versions."""
    params = equation.params
    if not params or not equation.outputs:  # what has no results is there for its effect
        return []
    kept = {
        _RENAMED.get(name, name): value
        for name, value in params.items()
        if name not in _NOT_MATHEMATICS
    }
    if equation.name == "scan":
        kept["num_consts"], kept["num_carry"] = scan_counts(equation)
    return [(name, kept[name]) for name in sorted(kept)]
