# The types of the public names: those of the order searches, which are loaded on first use, too.

from jax_cce_search import explain as explain
from jax_cce_search import optimize as optimize
from jax_cce_search import optimize_many as optimize_many

from jax_cce import extend as extend
from jax_cce import kalman as kalman
from jax_cce import linalg as linalg
from jax_cce import randomized as randomized
from jax_cce import registry as registry
from jax_cce import safe as safe
from jax_cce import splines as splines
from jax_cce import stochastic as stochastic
from jax_cce import surgery as surgery
from jax_cce.agreement.check import check_jacobian as check_jacobian
from jax_cce.api import jacobian as jacobian
from jax_cce.api import plan as plan
from jax_cce.api import value_and_jacobian as value_and_jacobian
from jax_cce.artefacts.artefact import Artefact as Artefact
from jax_cce.artefacts.artefact import ArtefactError as ArtefactError
from jax_cce.artefacts.artefact import load as load
from jax_cce.artefacts.compiling import compile as compile
from jax_cce.custom import custom_jacobian as custom_jacobian
from jax_cce.eliminations import EdgeElimination as EdgeElimination
from jax_cce.execution.compiled import CacheInfo as CacheInfo
from jax_cce.execution.compiled import cache_clear as cache_clear
from jax_cce.execution.compiled import cache_info as cache_info
from jax_cce.filtering import filter_jacobian as filter_jacobian
from jax_cce.hessian import hessian as hessian
from jax_cce.hessian import value_and_hessian as value_and_hessian
from jax_cce.hessian import value_grad_and_hessian as value_grad_and_hessian
from jax_cce.implicit import OneStepError as OneStepError
from jax_cce.implicit import fixed_point as fixed_point
from jax_cce.implicit import minimum as minimum
from jax_cce.implicit import one_step_error as one_step_error
from jax_cce.implicit import root as root
from jax_cce.laplacian import curvature as curvature
from jax_cce.laplacian import forward_laplacian as forward_laplacian
from jax_cce.laplacian import laplacian as laplacian
from jax_cce.linearizing import linearizing as linearizing
from jax_cce.meta_gradients import MetaGradient as MetaGradient
from jax_cce.meta_gradients import meta_gradient as meta_gradient
from jax_cce.patterns import pattern as pattern
from jax_cce.planning.plans import Plan as Plan
from jax_cce.source import Source as Source
from jax_cce.source import source as source
from jax_cce.sparse.bands_and_blocks import Bands as Bands
from jax_cce.sparse.pattern import Pattern as Pattern
from jax_cce.sparse.structured import StructuredJacobian as StructuredJacobian

__all__: list[str]
__version__: str
