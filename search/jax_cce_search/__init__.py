"""Searches for elimination orders, beside `jax_cce`.

`jax_cce` finds this package by its entry point and never imports it by name. `optimize` and
`explain` are its public functions, there as `jax_cce.optimize` and `jax_cce.explain`.
"""

from jax_cce_search import strategies
from jax_cce_search.explaining.explain import explain
from jax_cce_search.explaining.explanation import Explanation
from jax_cce_search.optimizing.optimize import find_order, optimize, optimize_many
from jax_cce_search.optimizing.optimized import Optimized

__all__ = [
    "Explanation",
    "Optimized",
    "explain",
    "find_order",
    "optimize",
    "optimize_many",
    "strategies",
]
