"""Rows for jax.lax: elementwise functions, layout, reductions, products and convolutions."""

import jax
import numpy as np
from jax import lax as jlax
from rows import (
    NO_EMPTY,
    NO_UNEQUAL,
    PAIRS,
    UNARY,
    UNARY_FEW,
    Table,
    complex_plane,
    each,
    index,
    kinks,
    parts,
    within,
)

lax = Table("jax.lax")
rows, absent = lax.rows, lax.absent

# --- elementwise, one operand --------------------------------------------------------------------

lax("asinh atan bessel_i0e bessel_i1e cbrt cos cosh erf erfc exp exp2 expm1 logistic neg", UNARY)
lax("one_minus_square reciprocal sin sinh square tan tanh", UNARY)
lax("acos asin atanh erf_inv", UNARY, domain=within(-0.9, 0.9))
lax("acosh", UNARY, domain=within(1.2, 3.0))
lax("digamma lgamma log log2 rsqrt sqrt", UNARY, domain=within(0.3, 3.0))
lax("log1p", UNARY, domain=within(-0.7, 2.0))
lax("abs", UNARY)
lax("abs", UNARY, domain=kinks, variant="kinks")
lax("ceil floor sign stop_gradient", UNARY, zero=True)
lax("round", UNARY, lambda f, x: f(x, jlax.RoundingMethod.TO_NEAREST_EVEN), zero=True)
lax("integer_pow", UNARY, lambda f, x: f(x, 3))
lax("integer_pow", UNARY, lambda f, x: f(x, -2), variant="negative", domain=within(0.5, 2.0))
lax("polynomial", UNARY, lambda f, x: f(x, (0.5, -1.5, 2.0)))
lax("reduce_precision", UNARY, lambda f, x: f(x, 11, 52))
lax("convert_element_type", UNARY, lambda f, x: f(x, np.float32), rtol=1e-6)
lax("bitcast_convert_type", UNARY, lambda f, x: f(f(x, np.int64), np.float64), zero=True)
lax(
    "cos cosh exp expm1 log log1p logistic neg reciprocal rsqrt sin sinh sqrt square tan tanh",
    UNARY,
    domain=complex_plane,
    holomorphic=True,
    variant="complex",
)
lax("complex", PAIRS, lambda f, x, y: parts(jlax.sin(f(x, y))))
lax(
    "conj real imag abs", UNARY, lambda f, x: parts(f(jlax.complex(x, x * x))), variant="of complex"
)

# --- elementwise, several operands ---------------------------------------------------------------

lax("add atan2 div max min mul sub", PAIRS)
lax("max min", PAIRS, domain=kinks, variant="kinks")
lax("add div mul sub", PAIRS, domain=complex_plane, holomorphic=True, variant="complex")
lax("pow", PAIRS, domain=(within(0.5, 2.0), within(-2.0, 2.0)))
lax("pow", PAIRS, domain=(within(0.5, 2.0), index(4)), variant="integer exponent")
lax("rem", PAIRS, domain=(within(-3.0, 3.0), within(0.7, 1.9)))
lax("nextafter", PAIRS, reference="rev" if jax.__version_info__ >= (0, 12) else "none")
lax("igamma igammac", [((1, 3, 4),) * 2, ((0, 2),) * 2], domain=within(0.5, 3.0))
lax(
    "random_gamma_grad",
    UNARY_FEW,
    lambda f, x: f(jlax.full_like(x, 1.5), x),
    domain=within(0.5, 3.0),
    reference="fwd",
)
lax("igamma_grad_a", PAIRS, domain=within(0.5, 3.0), reference="none")
lax("zeta", PAIRS, domain=(within(1.5, 4.0), within(0.5, 2.0)), reference="none")
lax("polygamma", PAIRS, lambda f, m, x: f(m.astype(float), x), domain=(index(3), within(0.5, 3.0)))
lax(
    "betainc",
    UNARY,
    lambda f, x: f(jlax.full_like(x, 1.5), jlax.full_like(x, 2.5), x),
    domain=within(0.1, 0.9),
)
lax("clamp", UNARY, lambda f, x: f(-0.5, x, 0.5), variant="fixed bounds")
lax(
    "clamp",
    [((3, 4),) * 3, ((), (), ()), ((0, 2),) * 3],
    domain=(within(-1.0, -0.2), within(-1.5, 1.5), within(0.2, 1.0)),
)
lax("clamp", [((3, 4),) * 3], domain=kinks, variant="kinks")
lax("select", PAIRS, lambda f, x, y: f(x > y, x, y))
lax("select_n", PAIRS, lambda f, x, y: f((x > y).astype("int32"), x, y, x * y))

# --- layout --------------------------------------------------------------------------------------

MATRIX = each((3, 4), (1, 2), (0, 2))

lax("broadcast", UNARY, lambda f, x: f(x, (2, 1)))
lax("broadcast_in_dim", each((3, 4), (1, 2), (2, 0)), lambda f, x: f(x, (*x.shape, 2), (0, 1)))
lax(
    "broadcast_in_dim",
    each((1, 3), (1, 0)),
    lambda f, x: f(x, (2, 2, x.shape[1]), (1, 2)),
    variant="expand",
)
lax("broadcast_like", [((3, 1), (3, 4)), ((), (2,)), ((1,), (0,))])
lax("broadcast_to_rank", UNARY, lambda f, x: f(x, 3))
lax("collapse", MATRIX, lambda f, x: f(x, 0, 2))
lax("concatenate", [((3, 4), (2, 4)), ((1, 2), (3, 2)), ((0, 2), (1, 2))], lambda f, *xs: f(xs, 0))
lax("concatenate", [((3, 4),)], lambda f, x: f([x, x, 2.0 * x], 1), variant="repeated operand")
lax("expand_dims", UNARY, lambda f, x: f(x, (0,)))
lax("full_like", [((3, 4), ()), ((0,), ())], lambda f, x, v: f(x, v) * x)
lax("full", each(()), lambda f, v: f((3, 2), v), lacks=NO_EMPTY | NO_UNEQUAL)
lax(
    "pad",
    [((3, 4), ()), ((1, 2), ()), ((0, 1), ())],
    lambda f, x, v: f(x, v, ((1, 2, 0), (0, 1, 1))),
)
lax("pad", [((3, 4), ())], lambda f, x, v: f(x, v, ((-1, 2, 1), (0, -2, 0))), variant="negative")
lax("reshape", MATRIX, lambda f, x: f(x, (x.shape[1], x.shape[0])))
lax("reshape", each((3, 4)), lambda f, x: f(x, (2, 6), dimensions=(1, 0)), variant="dimensions")
lax("rev", each((3, 4), (1,), (0, 2)), lambda f, x: f(x, (0,)))
lax("slice", MATRIX, lambda f, x: f(x, (0, 1), x.shape, (2, 1)))
lax("slice_in_dim", MATRIX, lambda f, x: f(x, -1, None, axis=1))
lax("split", each((3, 4), (1, 2), (0, 2)), lambda f, x: f(x, (1, x.shape[1] - 1), axis=1))
lax(
    "squeeze",
    each((3, 1, 4), (1,), (0, 1)),
    lambda f, x: f(x, (x.ndim // 2,) if x.ndim > 1 else (0,)),
)
lax("stack", PAIRS, lambda f, x, y: f((x, y)))
lax("tile", each((3, 4), (1, 2), (0, 2)), lambda f, x: f(x, (2, 3)))
lax("transpose", each((3, 4, 2), (1, 2, 1), (0, 2, 3)), lambda f, x: f(x, (2, 0, 1)))
lax("unstack", each((3, 4), (1,), (2, 0)), lambda f, x: f(x, 0))
lax("optimization_barrier stage", UNARY)
lax("dce_sink", UNARY, lambda f, x: (f(x * x), x * x)[1])

# --- reductions, scans along an axis, sorting ----------------------------------------------------

ONE_AXIS = each((3, 4), (1,), (2, 0))

lax("cumsum cumprod cumlogsumexp cummax cummin", ONE_AXIS)
lax("cumsum cumprod", each((3, 4)), lambda f, x: f(x, axis=1, reverse=True), variant="reverse")
lax(
    "reduce_sum reduce_prod reduce_max reduce_min",
    each((3, 4), (1,), (3, 0)),
    lambda f, x: f(x, (0,)),
)
lax("reduce_max reduce_min", each((3, 4)), lambda f, x: f(x, (1,)), domain=kinks, variant="kinks")
lax("reduce", ONE_AXIS, lambda f, x: f(x, np.float64(0), jlax.add, (0,)))
lax(
    "reduce",
    each((3, 4)),
    lambda f, x: f(x, np.float64(0), lambda a, b: a + b + a * b, (1,)),
    variant="monoid",
)
lax("sort", ONE_AXIS)
lax("sort", [((3, 4), (3, 4))], lambda f, x, y: f((x, y), num_keys=1), variant="two operands")
lax("sort_key_val", [((3, 4), (3, 4)), ((1,), (1,)), ((0,), (0,))])
lax("top_k approx_max_k approx_min_k", each((3, 4), (1,), (0, 3)), lambda f, x: f(x, 1)[0])
lax("top_k", each((2, 5)), lambda f, x: f(x, 3)[0], variant="several")
lax("associative_scan", ONE_AXIS, lambda f, x: f(jlax.mul, x))


def _pooled(combine, start):
    return lambda f, x: f(x, start, combine, (2, 3), (1, 2), "SAME")


POOLED = each((3, 4), (1, 2), (0, 2))
lax("reduce_window", POOLED, _pooled(jlax.add, 0.0), variant="add")
lax("reduce_window", POOLED, _pooled(jlax.max, -np.inf), variant="max")
lax("reduce_window", POOLED, _pooled(jlax.min, np.inf), variant="min")

# --- products and convolutions -------------------------------------------------------------------

lax(
    "fft",
    each((3, 4), (1,), (2, 3)),
    lambda f, x: parts(f(x, "rfft", x.shape[-1:])),
    lacks=NO_EMPTY,
)

MATMUL = [((3, 4), (4, 2)), ((1, 2), (2, 1)), ((2, 0), (0, 3))]
BATCHED = (((2,), (1,)), ((0,), (0,)))

lax("dot", [*MATMUL, ((4,), (4,))])
lax("dot_general", MATMUL, lambda f, x, y: f(x, y, (((1,), (0,)), ((), ()))))
lax(
    "dot_general",
    [((2, 3, 4), (2, 4, 3)), ((1, 1, 2), (1, 2, 3)), ((0, 1, 2), (0, 2, 1))],
    lambda f, x, y: f(x, y, BATCHED),
    variant="batched",
)
lax("dot_general", each((3, 3)), lambda f, x: f(x, x, (((1,), (0,)), ((), ()))), variant="A @ A")
lax("batch_matmul", [((2, 3, 4), (2, 4, 2)), ((1, 1, 2), (1, 2, 1)), ((0, 1, 2), (0, 2, 1))])
lax(
    "scaled_dot",
    [((1, 2, 4), (1, 3, 4))],
    lambda f, x, y: f(x, y, dimension_numbers=(((2,), (2,)), ((0,), (0,)))),
    reference="none",
)
RAGGED = np.array([1, 0, 3], np.int32)
RAGGED_DIMENSIONS = jlax.RaggedDotDimensionNumbers((((1,), (1,)), ((), ())), (0,), (0,))
lax("ragged_dot", [((4, 2), (3, 2, 3))], lambda f, x, y: f(x, y, RAGGED), reference="none")
lax(
    "ragged_dot_general",
    [((4, 2), (3, 2, 3))],
    lambda f, x, y: f(x, y, RAGGED, RAGGED_DIMENSIONS),
    reference="none",
)

CONV = [((1, 2, 5), (3, 2, 2)), ((2, 1, 4), (1, 1, 1)), ((0, 1, 3), (1, 1, 2))]
IMAGE = [((1, 2, 4, 3), (3, 2, 2, 2)), ((0, 1, 3, 2), (1, 1, 2, 2))]
lax("conv", CONV, lambda f, x, k: f(x, k, (1,), "SAME"))
lax("conv_with_general_padding", CONV, lambda f, x, k: f(x, k, (2,), ((1, 1),), (2,), (1,)))
lax(
    "conv_general_dilated", IMAGE + CONV[1:2], lambda f, x, k: f(x, k, (1,) * (x.ndim - 2), "VALID")
)
lax(
    "conv_general_dilated",
    [((2, 4, 5), (4, 2, 2))],
    lambda f, x, k: f(x, k, (2,), ((1, 0),), (2,), (1,), feature_group_count=2),
    variant="grouped",
)
lax(
    "conv_general_dilated",
    [((2, 2, 5), (4, 2, 2))],
    lambda f, x, k: f(x, k, (1,), "SAME", batch_group_count=2),
    variant="batch groups",
)
lax(
    "conv_general_dilated_local",
    [((1, 2, 4), (3, 4, 3)), ((1, 1, 3), (1, 2, 2))],
    lambda f, x, k: f(x, k, (1,), "VALID", (2,)),
    lacks=NO_EMPTY,
)
lax(
    "conv_general_dilated_patches",
    each((1, 2, 5), (0, 1, 3)),
    lambda f, x: f(x, (2,), (1,), "SAME"),
)
lax(
    "conv_transpose",
    [((1, 4, 2), (3, 2, 3)), ((0, 2, 1), (2, 1, 1))],
    lambda f, x, k: f(x, k, (2,), "SAME"),
)
