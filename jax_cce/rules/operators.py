"""Primitives without terms of their own: linear operators, and what is no complex number.

JAX linearises these; what is said here is in which operands they are linear, and of which no
complex coefficient describes the derivative, because they are linear over the reals only.
"""

from jax_cce.rules.book import EACH, Linear, describe
from jax_cce.rules.definers import linear

linear("complex conj cumsum custom_lin fft imag real reduce_window_sum")
linear("conv_general_dilated", how=EACH)
linear("triangular_solve", how=Linear((1,)))

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
