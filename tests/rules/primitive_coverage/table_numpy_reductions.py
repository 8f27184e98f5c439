"""Rows for jax.numpy: reductions, statistics, products, polynomials; and jax.numpy.fft."""

import jax
import jax.numpy as jnp
import numpy as np
from rows import (
    NO_EMPTY,
    NO_SINGLE,
    NO_UNEQUAL,
    PAIRS,
    Table,
    each,
    kinks,
    parts,
    within,
)

numpy = Table("jax.numpy")
fft = Table("jax.numpy.fft")

REDUCED = each((3, 4), (1,), (3, 0))

# --- reductions ----------------------------------------------------------------------------------

numpy("sum prod mean max min amax amin", REDUCED, lambda f, x: f(x, axis=0))
numpy("nansum nanprod nanmean nanmax nanmin", REDUCED, lambda f, x: f(x, axis=0))
numpy("max min amax amin", each((3, 4)), lambda f, x: f(x, axis=1), domain=kinks, variant="kinks")
numpy("minmax", REDUCED, lambda f, x: f(x, axis=0))
numpy("std var", each((3, 4), (2, 1), (2, 0)), lambda f, x: f(x, axis=0))
numpy("nanstd nanvar", each((3, 4), (2, 1), (2, 0)), lambda f, x: f(x, axis=0))
numpy("median nanmedian ptp", each((3, 4), (1,), (2, 0)), lambda f, x: f(x, axis=0))
numpy("percentile nanpercentile", REDUCED, lambda f, x: f(x, 30.0, axis=0))
numpy("quantile nanquantile", REDUCED, lambda f, x: f(x, jnp.array([0.3, 0.8]), axis=0))
numpy(
    "average",
    [((3, 4), (3,)), ((1,), (1,)), ((3, 0), (3,))],
    lambda f, x, w: f(x, axis=0, weights=w),
    domain=within(0.5, 1.5),
)
numpy(
    "cumsum cumprod cumulative_sum cumulative_prod nancumsum nancumprod",
    each((3, 4), (1,), (0, 2)),
    lambda f, x: f(x, axis=0),
)
numpy(
    "sum mean prod",
    each((3, 4)),
    lambda f, x: f(x, where=np.arange(12).reshape(3, 4) % 3 > 0),
    variant="where",
)
numpy("max", each((3, 4), (0,)), lambda f, x: f(x, initial=0.2), variant="initial")
numpy("diff ediff1d", each((3, 4), (1,), (0, 2)))
numpy(
    "gradient",
    each((3, 4), (2,), (4, 2, 2)),
    lacks={"empty": "needs two entries along each axis"} | NO_SINGLE,
)
numpy("trapezoid", [*PAIRS[:1], ((1,), (1,)), ((0, 2), (0, 2))], lambda f, y, x: f(y, x, axis=-1))
numpy(
    "corrcoef",
    [
        ((3, 4),),
        (
            (
                2,
                3,
            ),
        ),
    ],
    lacks=NO_EMPTY | NO_SINGLE,
)
numpy("cov", each((3, 4), (1, 3)), lacks=NO_EMPTY)
numpy(
    "bincount",
    [((5,), (5,)), ((1,), (1,)), ((0,), (0,))],
    lambda f, i, w: f(i, w, length=3),
    domain=(lambda rng, shape: rng.integers(0, 3, shape), within(-1.5, 1.5)),
    lacks=NO_UNEQUAL,
)
numpy(
    "histogram",
    [((5,), (5,)), ((1,), (1,)), ((0,), (0,))],
    lambda f, x, w: f(jax.lax.stop_gradient(x), 3, (-2.0, 2.0), w)[0],
    lacks=NO_UNEQUAL,
)
numpy(
    "histogram2d",
    [((5,), (5,)), ((1,), (1,)), ((0,), (0,))],
    lambda f, x, w: f(x, x, 2, [(-2.0, 2.0)] * 2, w)[0],
    lacks=NO_UNEQUAL,
)
numpy(
    "histogramdd",
    [((5, 2), (5,)), ((1, 2), (1,)), ((0, 2), (0,))],
    lambda f, x, w: f(x, 2, [(-2.0, 2.0)] * 2, w)[0],
)
numpy("histogram_bin_edges", each((5,), (1,)), lambda f, x: f(x, 3), lacks=NO_EMPTY | NO_UNEQUAL)

# --- products ------------------------------------------------------------------------------------

MATMUL = [((3, 4), (4, 2)), ((1, 2), (2, 1)), ((2, 0), (0, 3))]

numpy("matmul dot", [*MATMUL, ((4,), (4,)), ((2, 3, 4), (4,))])
numpy("matmul", [((2, 1, 3, 4), (3, 4, 2)), ((1, 1, 2), (1, 2, 1))], variant="batched")
numpy("matmul", each((3, 3)), lambda f, x: f(x, x), variant="A @ A")
numpy("inner", [((3, 4), (2, 4)), ((1,), (1,)), ((2, 0), (3, 0))])
numpy("outer", [((3,), (4,)), ((), (1,)), ((0,), (2,))])
numpy("outer", each((3,)), lambda f, x: f(x, jnp.sin(x)), variant="repeated operand")
numpy("vdot", [((3, 4), (3, 4)), ((1,), (1,)), ((0,), (0,))])
numpy("vecdot", [((3, 4), (4,)), ((1,), (1,)), ((2, 0), (0,))])
numpy("matvec", [((2, 3, 4), (4,)), ((1, 2), (2,)), ((0, 2), (2,))])
numpy("vecmat", [((3,), (2, 3, 4)), ((1,), (1, 2)), ((0,), (0, 2))])
numpy(
    "tensordot",
    [((2, 3, 4), (4, 3)), ((1, 1, 2), (2, 1)), ((2, 0, 3), (3, 0))],
    lambda f, x, y: f(x, y, ((1, 2), (1, 0))),
)
numpy(
    "einsum",
    [((2, 3, 4), (2, 4, 2)), ((1, 1, 2), (1, 2, 1)), ((0, 1, 2), (0, 2, 1))],
    lambda f, x, y: f("bij,bjk->ikb", x, y),
)
numpy("einsum", each((3, 3)), lambda f, x: f("ii,ij->j", x, x), variant="diagonal")
numpy("kron", [((3, 4), (2, 1)), ((1,), (2,)), ((0,), (2,))])
numpy("cross", [((3, 4, 3), (4, 3)), ((1, 3), (3,)), ((0, 3), (3,))])
numpy("convolve correlate", [((5,), (3,)), ((1,), (1,)), ((4,), (2,))], lacks=NO_EMPTY)
numpy("convolve correlate", [((5,), (3,))], lambda f, x, y: f(x, y, mode="same"), variant="same")

# --- polynomials ---------------------------------------------------------------------------------

numpy("polyval", [((3,), (4,)), ((1,), ()), ((2,), (0, 3))])
numpy("polyadd polysub polymul", [((3,), (2,)), ((1,), (1,)), ((4,), (1,))], lacks=NO_EMPTY)
numpy("polyder", each((4,), (2,), (1,)), lacks=NO_EMPTY | NO_UNEQUAL)
numpy("polyint", each((4,), (1,), (0,)), lacks=NO_UNEQUAL)
numpy("polydiv", [((4,), (2,)), ((1,), (1,))], domain=within(0.5, 1.5), lacks=NO_EMPTY)
numpy(
    "polyfit",
    [((5,), (5,))],
    lambda f, x, y: f(jnp.arange(len(x)) + x, y, 2),
    domain=(within(0.0, 0.4), within(-1.5, 1.5)),
    lacks=NO_EMPTY | NO_UNEQUAL | NO_SINGLE,
)
numpy("poly", each((3,), (1,), (0,)), lacks=NO_UNEQUAL)
numpy(
    "roots",
    each((4,)),
    lambda f, x: parts(f(x, strip_zeros=False)),
    domain=within(0.5, 1.5),
    lacks=NO_EMPTY | NO_UNEQUAL | NO_SINGLE,
)

# --- jax.numpy.fft -------------------------------------------------------------------------------

LINES = each((3, 4), (1,), (0, 2))
IMAGES = each((3, 4), (1, 1), (0, 2, 2))
fft("fft ifft rfft ihfft", LINES, lambda f, x: parts(f(x)))
fft("irfft hfft", each((3, 4), (1, 2), (0, 3)), lambda f, x: f(jax.lax.complex(x, x * x)))
fft("fft2 ifft2 rfft2", IMAGES, lambda f, x: parts(f(x)))
fft("fftn ifftn rfftn", IMAGES, lambda f, x: parts(f(x, axes=(-2, -1))))
fft("irfft2", each((3, 4), (1, 2), (0, 2, 3)), lambda f, x: f(jax.lax.complex(x, x * x)))
fft(
    "irfftn",
    each((3, 4), (1, 2), (0, 2, 3)),
    lambda f, x: f(jax.lax.complex(x, x * x), axes=(-2, -1)),
)
fft("fftshift ifftshift", LINES)
fft(
    "fft ifft",
    LINES,
    domain=lambda rng, shape: rng.normal(size=shape) + 1j * rng.normal(size=shape),
    holomorphic=True,
    variant="complex",
)

rows, absent = numpy.rows + fft.rows, numpy.absent + fft.absent
