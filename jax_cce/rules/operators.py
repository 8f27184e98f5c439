"""Primitives without terms of their own: linear operators, and what is no complex number.

JAX linearises these; what is said here is in which operands they are linear, and of which no
complex coefficient describes the derivative, because they are linear over the reals only.
"""

from jax_cce.rules.book import EACH, Linear, Wild, describe
from jax_cce.rules.definers import linear

linear("complex conj cumsum fft imag layout_constraint real reduce_window_sum")
linear("reshard sharding_constraint")
linear("conv_general_dilated", how=EACH)
linear("ragged_dot_general", how=Linear((0, 1), jointly=False))
linear("scatter-sub", how=Linear((0, 2)))
linear("select_and_scatter_add", how=Linear((0,)))
linear("triangular_solve", how=Linear((1,)), wild=Wild.SINGULAR)
linear("tridiagonal_solve", how=Linear((3,)), wild=Wild.SINGULAR)

for name in ["cummax", "cummin", "cumprod", "iota", "reduce_prod"]:
    describe(name, wild=Wild.TAME)
for name in ["cond", "custom_jvp_call", "custom_vjp_call", "scan", "while"]:
    describe(name, wild=Wild.TAME, calls=True)

for name in [
    "real",
    "imag",
    "conj",
    "complex",
    "custom_jvp_call",
    "custom_vjp_call",
    "cholesky",
    "qr",
    "eigh",
    "eig",
    "svd",
    "householder_product",
]:
    describe(name, holomorphic=False)
