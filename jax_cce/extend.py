"""Rules for new primitives: what the package's own rules are written with.

A primitive that JAX can differentiate needs no rule. Register one where the local Jacobian is
known more exactly or more cheaply than JAX's linearisation shows it.
"""

from jax_cce.algebra.terms import Affine, Term
from jax_cce.program.flat import Equation
from jax_cce.rules.definers import elementwise_rule, register_rule
from jax_cce.rules.local import LocalJacobian, LocalTerm, Primals, Rule, along, local_term

# `Primals` by its former name.
Site = Primals

__all__ = [
    "Affine",
    "Equation",
    "LocalJacobian",
    "LocalTerm",
    "Primals",
    "Rule",
    "Site",
    "Term",
    "along",
    "elementwise_rule",
    "local_term",
    "register_rule",
]
