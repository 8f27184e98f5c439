"""Rows for jax.numpy: functions applied entry by entry, and their broadcasting."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from rows import (
    BROADCAST,
    NO_EMPTY,
    NO_UNEQUAL,
    PAIRS,
    UNARY,
    Table,
    boolean,
    complex_plane,
    each,
    index,
    kinks,
    parts,
    within,
)

numpy = Table("jax.numpy")
rows, absent = numpy.rows, numpy.absent

NEXTAFTER = "rev" if jax.__version_info__ >= (0, 12) else "none"

# --- one operand ---------------------------------------------------------------------------------

numpy("arcsinh asinh arctan atan cbrt cos cosh exp exp2 expm1 i0 negative positive", UNARY)
numpy(
    "reciprocal sin sinc sinh square tan tanh deg2rad degrees rad2deg radians copy nan_to_num",
    UNARY,
)
numpy("arccos acos arcsin asin arctanh atanh", UNARY, domain=within(-0.9, 0.9))
numpy("arccosh acosh", UNARY, domain=within(1.2, 3.0))
numpy("log log10 log2 sqrt", UNARY, domain=within(0.3, 3.0))
numpy("log1p", UNARY, domain=within(-0.7, 2.0))
numpy("abs absolute fabs", UNARY)
numpy("abs absolute fabs", UNARY, domain=kinks, variant="kinks")
numpy("sinc", each((3, 4)), domain=kinks, variant="at zero")
numpy("ceil floor rint sign trunc", UNARY, zero=True)
numpy("around round", UNARY, lambda f, x: f(x, 2), zero=True)
numpy("modf", UNARY)
numpy("frexp", UNARY, lambda f, x: f(x)[0], domain=within(0.3, 3.0))
numpy("spacing", UNARY, zero=True, reference=NEXTAFTER)
numpy(
    "real imag conj conjugate angle abs",
    UNARY,
    lambda f, x: parts(f(lax.complex(x, x * x + 1.0))),
    variant="of complex",
)
numpy("array asarray atleast_1d atleast_2d atleast_3d", UNARY)
numpy("astype", UNARY, lambda f, x: f(x * x, np.float64))
numpy("astype", UNARY, lambda f, x: f(x * x, np.float32), variant="float32", rtol=1e-6)
numpy("full_like", [((3, 4), ()), ((), ()), ((0, 2), ())], lambda f, x, v: f(x, v) * x)
numpy("ones_like zeros_like", UNARY, zero=True)
numpy(
    "kaiser",
    each(
        (),
    ),
    lambda f, beta: f(5, beta),
    domain=within(0.5, 2.0),
    lacks=NO_EMPTY | NO_UNEQUAL,
)
numpy(
    "full",
    [((3, 4),), ((),), ((0, 4),)],
    lambda f, v: f((3, 4), v) if v.ndim < 2 else f((2, *v.shape), v),
)
numpy(
    "sin cos exp log sqrt tanh square reciprocal arctan log1p expm1",
    UNARY,
    domain=complex_plane,
    holomorphic=True,
    variant="complex",
)

# --- several operands ----------------------------------------------------------------------------

numpy("add arctan2 atan2 copysign divide fmax fmin hypot logaddexp logaddexp2", BROADCAST)
numpy("maximum minimum multiply subtract true_divide", BROADCAST)
numpy("maximum minimum fmax fmin", PAIRS[:1], domain=kinks, variant="kinks")
numpy(
    "add subtract multiply divide power",
    BROADCAST,
    domain=complex_plane,
    holomorphic=True,
    variant="complex",
)
numpy("power pow float_power", BROADCAST, domain=(within(0.5, 2.0), within(-2.0, 2.0)))
numpy(
    "power pow",
    [((3, 4), (4,)), ((), ()), ((0,), ())],
    domain=(within(-2.0, 2.0), index(4)),
    variant="integer exponent",
)
numpy("power", UNARY, lambda f, x: f(x, 3), variant="static exponent")
numpy("fmod mod remainder", BROADCAST, domain=(within(-3.0, 3.0), within(0.7, 1.9)))
numpy("floor_divide", BROADCAST, domain=(within(-3.0, 3.0), within(0.7, 1.9)), zero=True)
numpy("divmod", BROADCAST, domain=(within(-3.0, 3.0), within(0.7, 1.9)))
numpy("heaviside", BROADCAST, domain=(kinks, within(-1.5, 1.5)))
numpy("ldexp", [((3, 4), (4,)), ((), ()), ((0,), ())], domain=(within(-1.5, 1.5), index(4)))
numpy("nextafter", BROADCAST, reference=NEXTAFTER)
numpy(
    "clip",
    [((3, 4), (4,), ()), ((), (), ()), ((0, 2), (2,), ())],
    domain=(within(-1.5, 1.5), within(-1.0, -0.2), within(0.2, 1.0)),
)
numpy("clip", each((3, 4)), lambda f, x: f(x, -1.0, 1.0), domain=kinks, variant="kinks")
numpy(
    "where",
    [((3, 4), (3, 4), (4,)), ((), (2, 1), (1, 3)), ((0, 2), (2,), ())],
    domain=(boolean, within(-1.5, 1.5), within(-1.5, 1.5)),
)
numpy(
    "where",
    [((3, 4), (3, 4))],
    lambda f, x, y: f(x > 0, jnp.sqrt(jnp.where(x > 0, x, 1.0)), y),
    variant="masked root",
)
numpy("select", PAIRS, lambda f, x, y: f([x > y, x > 0], [x * y, jnp.sin(x)], 0.5))
numpy("piecewise", UNARY, lambda f, x: f(x, [x < 0, x > 1], [jnp.sin, jnp.cos, lambda a: a * a]))
numpy(
    "choose",
    [((4,), (2, 4)), ((), (1,)), ((0,), (2, 0))],
    lambda f, i, c: f(i, c, mode="clip"),
    domain=(index(2), within(-1.5, 1.5)),
)
numpy(
    "vectorize",
    [((3, 4), (4,)), ((1,), (1,)), ((0, 2), (2,))],
    lambda f, x, y: f(lambda a, b: a * jnp.sum(b), signature="(n),(n)->(n)")(x, y),
)
numpy("frompyfunc", BROADCAST, lambda f, x, y: f(lambda a, b: jnp.sin(a) * b, 2, 1)(x, y))
numpy("unwrap", each((3, 4), (1,), (2, 0)), domain=within(-6.0, 6.0))
numpy(
    "interp",
    [((5,), (3,), (3,)), ((), (2,), (2,)), ((0,), (2,), (2,))],
    lambda f, x, xp, fp: f(x, jnp.arange(len(xp)) + xp, fp),
    domain=(within(-0.5, 2.5), within(0.1, 0.4), within(-1.5, 1.5)),
)
