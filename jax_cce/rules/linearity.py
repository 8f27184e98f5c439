"""Which programs are linear in the variables that vary, as far as the rule book tells."""

from collections.abc import Iterable, Set

from jax_cce.jax_internals import Literal
from jax_cce.program import passes
from jax_cce.program.flat import Equation, Program
from jax_cce.rules.book import record_of

__all__ = [
    "are_linear",
    "is_linear",
]


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
        linear = record_of(equation).linear
        if linear is None or not linear.holds(equation, moving):
            return False
    return True
