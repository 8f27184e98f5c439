"""Searches for elimination orders, beside `jax_cce`.

`jax_cce` finds this package by its entry point and never imports it by name. `optimize` and
`explain` are its public functions, there as `jax_cce.optimize` and `jax_cce.explain`.
"""

from jax_cce_search import strategies
from jax_cce_search.explanation import Explanation, explain
from jax_cce_search.optimization import Optimized, find_order, optimize, optimize_many

__all__ = [
    "Explanation",
    "Optimized",
    "explain",
    "find_order",
    "optimize",
    "optimize_many",
    "strategies",
]
