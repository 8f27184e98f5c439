"""The problems with large sparse Jacobians, and the dense ones that belong beside them, by name."""

from benchmarks.tasks import couplings, networks, stencils
from benchmarks.tasks.sparse_problem import ByHand, Problem

__all__ = ["PROBLEMS", "ByHand", "Problem"]

PROBLEMS: dict[str, Problem] = {
    problem.name: problem
    for problem in (
        stencils.BURGERS,
        stencils.BRUSSELATOR,
        stencils.BRATU,
        stencils.BROYDEN_TRIDIAGONAL,
        stencils.BROYDEN_BANDED,
        couplings.BLOCK_MLP,
        couplings.ARROWHEAD,
        couplings.BOTTLENECK,
        couplings.MATRIX_PRODUCT,
        couplings.SCALING,
        stencils.DIFFUSION,
        networks.SEGMENT_SUM,
        networks.POWER_FLOW,
        networks.BUNDLE_ADJUSTMENT,
    )
}
