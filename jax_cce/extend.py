"""Rules for new primitives: what the package's own rules are written with.

A primitive that JAX can differentiate needs no rule. Register one where the local Jacobian is
known more exactly or more cheaply than JAX's linearisation shows it.
"""

from jax_cce.rules.registry import (
    LocalJacobian,
    LocalTerm,
    Rule,
    Site,
    along,
    elementwise_rule,
    local_term,
    register_rule,
)
from jax_cce.structure import Affine, Term
from jax_cce.tracing import Equation

__all__ = [
    "Affine",
    "Equation",
    "LocalJacobian",
    "LocalTerm",
    "Rule",
    "Site",
    "Term",
    "along",
    "elementwise_rule",
    "local_term",
    "register_rule",
]
