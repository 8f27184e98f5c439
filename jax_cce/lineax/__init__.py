"""Jacobians for lineax, and for the solvers that are built on it; requires lineax.

A `JacobianOperator` hands a structured Jacobian to lineax's solvers. `Eliminated` is a solver that
goes the other way: passed as `linear_solver` to optimistix or diffrax, it takes the place of their
own way to a Jacobian, column by column, by elimination.
"""

try:
    import lineax
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        "jax_cce.lineax needs the package lineax, which was not found. Install it: pip install "
        "lineax",
        name="lineax",
    ) from error

from jax_cce.lineax.eliminated import Eliminated
from jax_cce.lineax.operators import JacobianOperator

__all__ = [
    "Eliminated",
    "JacobianOperator",
]
del lineax
