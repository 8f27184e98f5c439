"""Randomised differentiation: unbiased derivatives from a part of the local Jacobians.

A derivative is a sum over paths of products of local partials. Replacing one factor of each path
by a random one of the same expectation leaves the expectation of the sum, and what need not be
stored or multiplied is saved. `grad` and `value_and_grad` save the memory of reverse mode,
`jacobian` that, or with sites="cut" or "vertices" the work of elimination; `plan` shows both and
the variance.

Source: Oktay, McGreivy, Aduol, Beatson & Adams, "Randomized Automatic Differentiation", ICLR 2021.
"""

from jax_cce.randomized.plans import Cut, RandomizedPlan, SiteRow
from jax_cce.randomized.transforms import grad, jacobian, plan, value_and_grad

__all__ = ["Cut", "RandomizedPlan", "SiteRow", "grad", "jacobian", "plan", "value_and_grad"]
