"""Derivatives of expectations of programs that make discrete draws.

A sample jumps where its probability moves, so that the derivative of a program with its samples
held misses what they contribute; JAX's own is that. `jacobian` and `derivative` estimate all of it
without bias: one draw jumps, and what follows is replayed with the same random numbers. The draws
have the samples of their namesakes in `jax.random`.
"""

from jax_cce.stochastic.draws import bernoulli, binomial, categorical, geometric, poisson
from jax_cce.stochastic.transformations import (
    derivative,
    jacobian,
    value_and_derivative,
    value_and_jacobian,
)

__all__ = [
    "bernoulli",
    "binomial",
    "categorical",
    "derivative",
    "geometric",
    "jacobian",
    "poisson",
    "value_and_derivative",
    "value_and_jacobian",
]
