"""Exact Jacobians in JAX by cross-country (vertex) elimination.

`jacobian` takes the place of `jax.jacrev`, `hessian` that of `jax.hessian`, and
`value_and_jacobian` returns the function's value too. `plan` shows how a Jacobian would be
computed. `jax_cce.extend` registers rules for your own primitives.
"""

from jax_cce import extend
from jax_cce.api import hessian, jacobian, plan, value_and_jacobian
from jax_cce.plans import Plan
from jax_cce.programs import CacheInfo, cache_clear, cache_info
from jax_cce.structured import Bands, StructuredJacobian

__all__ = [
    "Bands",
    "CacheInfo",
    "Plan",
    "StructuredJacobian",
    "cache_clear",
    "cache_info",
    "extend",
    "hessian",
    "jacobian",
    "plan",
    "value_and_jacobian",
]

__version__ = "0.1.0"
