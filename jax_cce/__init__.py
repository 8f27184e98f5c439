"""Exact Jacobians in JAX by cross-country (vertex) elimination.

`jacobian` takes the place of `jax.jacrev`, `hessian` that of `jax.hessian`, and
`value_and_jacobian` returns the function's value too. `plan` shows how a Jacobian would be
computed, `explain` also why, and `pattern` where its nonzeros lie. `optimize` searches for a better
order and keeps it in the `registry`.
`jax_cce.extend` describes your own primitives, `custom_jacobian` takes the Jacobian of a function
from its author, and `check_jacobian` checks any Jacobian without forming another. `fixed_point`,
`root` and `minimum` are differentiated by what defines their solutions. `jax_cce.kalman` has
filters and smoothers, and `jax_cce.linalg` what their square-root forms need. `laplacian` and
`curvature` form no Hessian, `filter_jacobian` takes models with more than arrays in them,
`linearizing` is for solvers that linearise a function themselves, and `jax_cce.safe` has functions
whose derivatives are finite where those of `jax.numpy` are not.
`source` writes a Jacobian as a readable module, and `jax_cce.surgery` edits derivatives on the way.
`compile` makes files of Jacobians that plain JAX runs in another process, and `load` reads them.
`meta_gradient` differentiates the loss after adaptation, and `jax_cce.splines` has hierarchical
B-splines.
`jax_cce.stochastic` estimates derivatives of expectations of programs that make discrete draws.
`jax_cce.randomized` estimates derivatives from a part of what they would store or multiply.
"""

from jax_cce import (
    extend,
    kalman,
    linalg,
    randomized,
    registry,
    safe,
    splines,
    stochastic,
    surgery,
)
from jax_cce.agreement.check import check_jacobian
from jax_cce.api import jacobian, plan, value_and_jacobian
from jax_cce.artefacts.artefact import Artefact, ArtefactError, load
from jax_cce.artefacts.compiling import compile
from jax_cce.custom import custom_jacobian
from jax_cce.eliminations import EdgeElimination
from jax_cce.execution.compiled import CacheInfo, cache_clear, cache_info
from jax_cce.filtering import filter_jacobian
from jax_cce.hessian import hessian, value_and_hessian, value_grad_and_hessian
from jax_cce.implicit import OneStepError, fixed_point, minimum, one_step_error, root
from jax_cce.laplacian import curvature, forward_laplacian, laplacian
from jax_cce.linearizing import linearizing
from jax_cce.loops import accumulation as _accumulation  # noqa: F401
from jax_cce.meta_gradients import MetaGradient, meta_gradient
from jax_cce.patterns import pattern
from jax_cce.planning.plans import Plan
from jax_cce.planning.searches import search_package as _search_package
from jax_cce.source import Source, source
from jax_cce.sparse.bands_and_blocks import Bands
from jax_cce.sparse.pattern import Pattern
from jax_cce.sparse.structured import StructuredJacobian

__all__ = [
    "Artefact",
    "ArtefactError",
    "Bands",
    "CacheInfo",
    "EdgeElimination",
    "MetaGradient",
    "OneStepError",
    "Pattern",
    "Plan",
    "Source",
    "StructuredJacobian",
    "cache_clear",
    "cache_info",
    "check_jacobian",
    "compile",
    "curvature",
    "custom_jacobian",
    "explain",
    "extend",
    "filter_jacobian",
    "fixed_point",
    "forward_laplacian",
    "hessian",
    "jacobian",
    "kalman",
    "laplacian",
    "linalg",
    "linearizing",
    "load",
    "meta_gradient",
    "minimum",
    "one_step_error",
    "optimize",
    "optimize_many",
    "pattern",
    "plan",
    "randomized",
    "registry",
    "root",
    "safe",
    "source",
    "splines",
    "stochastic",
    "surgery",
    "value_and_hessian",
    "value_and_jacobian",
    "value_grad_and_hessian",
]

# What the package of order searches adds; it imports this one, so it is loaded on first use.
_SEARCHES = ("explain", "optimize", "optimize_many")

__version__ = "0.1.0"


def __getattr__(name: str) -> object:
    if name in _SEARCHES:
        return getattr(_search_package(), name)
    raise AttributeError(f"module 'jax_cce' has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
