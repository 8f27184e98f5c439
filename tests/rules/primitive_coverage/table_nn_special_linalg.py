"""Rows for jax.nn, jax.scipy.special and jax.numpy.linalg."""

import jax
import jax.numpy as jnp
import numpy as np
from rows import (
    BROADCAST_FEW,
    NO_EMPTY,
    NO_UNEQUAL,
    UNARY,
    UNARY_FEW,
    Table,
    diagonally_dominant,
    each,
    kinks,
    parts,
    positive_definite,
    symmetric,
    within,
)

nn = Table("jax.nn")
special = Table("jax.scipy.special")
linalg = Table("jax.numpy.linalg")

# --- jax.nn --------------------------------------------------------------------------------------

LAST_AXIS = each((3, 4), (1,), (0, 2))

nn("celu elu gelu hard_sigmoid hard_silu hard_swish hard_tanh identity leaky_relu", UNARY)
nn(
    "log_sigmoid mish relu relu6 selu sigmoid silu soft_sign softplus sparse_plus sparse_sigmoid",
    UNARY,
)
nn("squareplus swish tanh", UNARY)
nn(
    "celu elu hard_tanh leaky_relu relu relu6 selu sparse_plus",
    each((3, 4)),
    domain=kinks,
    variant="kinks",
)
nn("hard_tanh hard_sigmoid relu6", each((3, 4)), domain=within(-8.0, 8.0), variant="saturated")
nn("gelu", UNARY, lambda f, x: f(x, approximate=False), variant="exact")
nn("log1mexp", UNARY, domain=within(0.2, 2.0))
nn("glu", each((3, 4), (2,), (0, 2), (1, 2)))
nn("softmax log_softmax standardize", LAST_AXIS)
nn(
    "softmax log_softmax",
    each((3, 4)),
    lambda f, x: f(x, axis=0, where=np.arange(12).reshape(3, 4) % 3 > 0),
    variant="where",
)
nn("logsumexp logmeanexp", each((3, 4), (), (0, 2)), lambda f, x: f(x, axis=-1) if x.ndim else f(x))
nn(
    "dot_product_attention",
    [((1, 3, 2, 4), (1, 2, 2, 4), (1, 2, 2, 4)), ((1, 1, 1, 1),) * 3, ((0, 2, 1, 3),) * 3],
    rtol=1e-6,
)
nn(
    "dot_product_attention",
    [((3, 2, 4),) * 3],
    lambda f, q, k, v: f(q, k, v, is_causal=True),
    variant="causal",
    rtol=1e-6,
)

# --- jax.scipy.special ---------------------------------------------------------------------------

special("erf erfc expit i0e i1e ndtr", UNARY)
special("dawsn erfcx i0 i1 log_ndtr", UNARY_FEW)
special("fresnel sici", UNARY_FEW, domain=within(0.3, 2.5))
special("erfinv", UNARY_FEW, domain=within(-0.9, 0.9))
special("logit ndtri", UNARY_FEW, domain=within(0.1, 0.9))
special("erfcinv", UNARY_FEW, domain=within(0.1, 1.9))
special("digamma entr gamma gammaln loggamma factorial", UNARY_FEW, domain=within(0.3, 3.0))
special("exp1 expi", UNARY_FEW, domain=within(0.3, 3.0))
special("spence", UNARY_FEW, domain=within(0.3, 3.0), reference="fwd")
special("gammasgn", UNARY_FEW, zero=True)
special("wofz", UNARY_FEW, lambda f, x: parts(f(jax.lax.complex(x, x * x))))
special("log_softmax softmax", LAST_AXIS, lambda f, x: f(x, axis=-1))
special(
    "logsumexp",
    [((3, 4), (3, 4)), ((1,), (1,)), ((2, 0), (2, 0))],
    lambda f, x, b: f(x, axis=0, b=b),
    domain=(within(-1.5, 1.5), within(0.2, 1.0)),
)
special(
    "beta betaln boxcox boxcox1p kl_div rel_entr xlog1py xlogy",
    BROADCAST_FEW,
    domain=within(0.4, 2.0),
)
special("gammainc gammaincc", BROADCAST_FEW, domain=within(0.5, 3.0))
special("owens_t", BROADCAST_FEW)
special("poch", BROADCAST_FEW, domain=within(0.5, 2.5))
special("comb", BROADCAST_FEW, domain=(within(3.0, 5.0), within(0.5, 2.0)))
special("betainc", UNARY_FEW, lambda f, x: f(1.5, 2.5, x), domain=within(0.1, 0.9))
special("zeta", BROADCAST_FEW, domain=(within(1.5, 4.0), within(0.5, 2.0)))
special("polygamma", UNARY_FEW, lambda f, x: f(2, x), domain=within(0.5, 3.0))
special("multigammaln", UNARY_FEW, lambda f, x: f(x, 2), domain=within(2.0, 4.0))
special("expn", UNARY_FEW, lambda f, x: f(3, x), domain=within(0.3, 3.0))
special("hyp1f1", UNARY_FEW, lambda f, x: f(0.7, 1.9, x), domain=within(0.2, 2.0))
special("hyp2f1", UNARY_FEW, lambda f, x: f(0.7, 0.4, 1.9, x), domain=within(0.1, 0.6))
special(
    "bessel_jn",
    each((3,), (1,)),
    lambda f, z: f(z, v=2),
    domain=within(0.5, 3.0),
    lacks=NO_EMPTY | NO_UNEQUAL,
)
special(
    "sph_harm_y",
    [((3,), (3,)), ((1,), (1,))],
    domain=within(0.3, 1.2),
    lacks=NO_EMPTY | NO_UNEQUAL,
    call=lambda f, t, p: parts(f(jnp.full(t.shape, 2), jnp.full(t.shape, 1), t, p, n_max=2)),
)

# --- jax.numpy.linalg ----------------------------------------------------------------------------

FLOAT = within(-1.5, 1.5)
SQUARE = each((3, 3), (1, 1), (3, 2, 2), (0, 0))
RECTANGLE = each((4, 3), (1, 2), (0, 2))

linalg("cholesky", SQUARE, domain=positive_definite)
linalg("inv slogdet", SQUARE, domain=diagonally_dominant)
linalg("det", SQUARE[:3], domain=diagonally_dominant, lacks=NO_EMPTY)
linalg("eigh", SQUARE[:3], domain=symmetric, lacks=NO_EMPTY)
linalg("eigvalsh", SQUARE, domain=symmetric)
linalg(
    "eig",
    SQUARE[:3],
    lambda f, a: parts(f(a).eigenvectors),
    domain=diagonally_dominant,
    reference="none",
)
linalg("eigvals", SQUARE[:3], lambda f, a: parts(f(a)), domain=diagonally_dominant, lacks=NO_EMPTY)
linalg("matrix_power", SQUARE, lambda f, a: f(a, 3), domain=diagonally_dominant)
linalg(
    "matrix_power",
    SQUARE[:1],
    lambda f, a: f(a, -2),
    domain=diagonally_dominant,
    variant="negative",
)
linalg("pinv", RECTANGLE, domain=diagonally_dominant)
linalg("qr", RECTANGLE[:2], domain=diagonally_dominant, lacks=NO_EMPTY)
linalg(
    "svd",
    RECTANGLE[:2],
    lambda f, a: f(a, full_matrices=False),
    domain=diagonally_dominant,
    lacks=NO_EMPTY,
)
linalg("svdvals", RECTANGLE, domain=diagonally_dominant)
linalg("cond", each((4, 3), (1, 2, 2)), domain=diagonally_dominant, lacks=NO_EMPTY)
linalg("norm vector_norm matrix_norm", each((3, 4), (1, 2), (2, 2, 3)), lacks=NO_EMPTY)
for _order in (1, 2, -2, np.inf, "nuc"):
    linalg(
        "norm",
        each((3, 4)),
        lambda f, a, order=_order: f(a, order),
        variant=str(_order),
        domain=diagonally_dominant,
    )
linalg("norm", each((3, 4)), lambda f, a: f(a, 3, axis=1), variant="vectors")
linalg(
    "solve",
    [((3, 3), (3,)), ((1, 1), (1, 2)), ((3, 2, 2), (3, 2, 4)), ((0, 0), (0, 2))],
    domain=(diagonally_dominant, FLOAT),
)
linalg(
    "lstsq",
    [((4, 3), (4,)), ((2, 1), (2,))],
    lambda f, a, b: f(a, b)[0],
    domain=(diagonally_dominant, FLOAT),
    lacks=NO_EMPTY,
)
linalg(
    "tensorinv",
    each((2, 3, 6), (1, 1)),
    lambda f, a: f(a + jnp.eye(6).reshape(2, 3, 6) if a.ndim > 2 else a + 2.0, ind=a.ndim - 1),
    lacks=NO_EMPTY,
)
linalg(
    "tensorsolve",
    [((2, 3, 6), (2, 3)), ((1, 1), (1,))],
    lambda f, a, b: f(a + jnp.eye(6).reshape(2, 3, 6) if a.ndim > 2 else a + 2.0, b),
    lacks=NO_EMPTY,
)
linalg("matmul", [((3, 4), (4, 2)), ((1, 2), (2, 1)), ((2, 0), (0, 3))])
linalg(
    "multi_dot",
    [((3, 4), (4, 2), (2, 5)), ((1, 2), (2, 1), (1, 1)), ((2, 0), (0, 3), (3, 1))],
    lambda f, *xs: f(xs),
)
linalg("outer", [((3,), (4,)), ((1,), (1,)), ((0,), (2,))])
linalg("cross", [((4, 3), (4, 3)), ((1, 3), (1, 3)), ((0, 3), (0, 3))])
linalg("vecdot", [((3, 4), (4,)), ((1,), (1,)), ((2, 0), (0,))])
linalg(
    "tensordot",
    [((2, 3, 4), (4, 3)), ((1, 1, 2), (2, 1)), ((2, 0, 3), (3, 0))],
    lambda f, x, y: f(x, y, axes=((1, 2), (1, 0))),
)
linalg("diagonal trace matrix_transpose", each((3, 4), (1, 2), (0, 2)))

rows = nn.rows + special.rows + linalg.rows
absent = nn.absent + special.absent + linalg.absent
