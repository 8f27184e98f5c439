"""Which equations are linear in which operands."""

from collections.abc import Iterable, Set

import numpy as np

from jax_cce.jax_internals import Literal
from jax_cce.program import passes
from jax_cce.program.flat import Equation, Program

__all__ = [
    "are_linear",
    "is_linear",
]


# Linear in all operands together, and linear in one operand while the others are fixed.
_LINEAR = {
    "add",
    "add_any",
    "broadcast_in_dim",
    "complex",
    "concatenate",
    "conj",
    "convert_element_type",
    "copy",
    "cumsum",
    "custom_lin",
    "fence",
    "fft",
    "imag",
    "name",
    "neg",
    "optimization_barrier",
    "real",
    "reduce_precision",
    "reduce_sum",
    "reduce_window_sum",
    "reshape",
    "rev",
    "slice",
    "split",
    "squeeze",
    "stack",
    "sub",
    "tile",
    "transpose",
    "unstack",
}
_LINEAR_IN_ONE = {"conv_general_dilated", "dot_general", "mul"}
_LINEAR_BUT_INDICES = {
    "div": (0,),
    "dynamic_slice": (0,),
    "dynamic_update_slice": (0, 1),
    "gather": (0,),
    "pad": (0, 1),
    "scatter-add": (0, 2),
    "select_n": range(1, 64),
    "triangular_solve": (1,),
}


def is_linear(program: Program) -> bool:
    """Whether a program is known to be linear in all its inputs."""
    flags, varied = passes.dependent(program.equations, range(program.num_inputs))
    pairs = zip(program.equations, flags, strict=True)
    return are_linear([equation for equation, depends in pairs if depends], varied)


def are_linear(equations: Iterable[Equation], varied: Set[int]) -> bool:
    """Whether equations are known to be linear in the variables that vary.

    Gradient clipping under custom_vjp is the usual case that is not.
    """
    for equation in equations:
        moving = [
            k
            for k, atom in enumerate(equation.inputs)
            if not isinstance(atom, Literal) and atom in varied
        ]
        name = equation.name
        fixed = len(moving) < len(equation.inputs)
        if name in ("add", "sub") and fixed:
            return False  # affine: a constant is added
        if name in ("concatenate", "stack", "pad", "dynamic_update_slice") and fixed:
            zero = all(
                isinstance(atom, Literal) and not np.any(atom.val)
                for k, atom in enumerate(equation.inputs)
                if k not in moving and k in _LINEAR_BUT_INDICES.get(name, range(64))
            )
            if not zero:
                return False
        allowed = name in _LINEAR or (name in _LINEAR_IN_ONE and len(moving) == 1)
        if not allowed and not set(moving) <= set(_LINEAR_BUT_INDICES.get(name, ())):
            return False
    return True
