"""Rows for jax.lax: indexing, control flow, implicit functions, collectives; and jax.lax.linalg."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax as jlax
from rows import (
    NO_EMPTY,
    NO_SINGLE,
    PAIRS,
    UNARY,
    Table,
    diagonally_dominant,
    each,
    index,
    parts,
    positive_definite,
    symmetric,
    unit_upper,
    within,
)

lax = Table("jax.lax")
linalg = Table("jax.lax.linalg")

# --- indexing ------------------------------------------------------------------------------------

START = index(2)
FLOAT = within(-1.5, 1.5)

lax(
    "dynamic_slice",
    [((3, 4), ()), ((2, 1), ()), ((2, 0), ())],
    lambda f, x, i: f(x, (i, 0), (2, x.shape[1])),
    domain=(FLOAT, START),
)
lax(
    "dynamic_slice_in_dim",
    [((3, 4), ()), ((2, 1), ()), ((2, 0), ())],
    lambda f, x, i: f(x, i, 2, axis=0),
    domain=(FLOAT, START),
)
lax("dynamic_index_in_dim", [((3, 4), ()), ((2, 1), ()), ((2, 0), ())], domain=(FLOAT, START))
lax(
    "dynamic_update_slice",
    [((3, 4), (2, 3), ()), ((2, 1), (1, 1), ()), ((2, 0), (1, 0), ())],
    lambda f, x, u, i: f(x, u, (i, 0)),
    domain=(FLOAT, FLOAT, START),
)
lax(
    "dynamic_update_slice_in_dim",
    [((3, 4), (2, 4), ()), ((2, 1), (1, 1), ()), ((2, 0), (1, 0), ())],
    lambda f, x, u, i: f(x, u, i, 0),
    domain=(FLOAT, FLOAT, START),
)
lax(
    "dynamic_update_index_in_dim",
    [((3, 4), (4,), ()), ((2, 1), (1,), ()), ((2, 0), (0,), ())],
    lambda f, x, u, i: f(x, u, i, 0),
    domain=(FLOAT, FLOAT, START),
)
lax("index_in_dim", each((3, 4), (2, 1), (2, 0)), lambda f, x: f(x, -1, 0))
lax(
    "index_take",
    [((3, 4), (2,)), ((2, 1), (1,)), ((2, 3), (0,))],
    lambda f, x, i: f(x, (i,), (0,)),
    domain=(FLOAT, START),
)

GATHER = jlax.GatherDimensionNumbers(
    offset_dims=(1,), collapsed_slice_dims=(0,), start_index_map=(0,)
)
lax(
    "gather",
    [((3, 4), (5, 1)), ((2, 1), (1, 1)), ((2, 3), (0, 1))],
    lambda f, x, i: f(x, i, GATHER, (1, x.shape[1])),
    domain=(FLOAT, index(3)),
)

SCATTER = jlax.ScatterDimensionNumbers(
    update_window_dims=(1,), inserted_window_dims=(0,), scatter_dims_to_operand_dims=(0,)
)
SCATTERED = [((3, 4), (2, 4)), ((2, 1), (1, 1)), ((3, 0), (2, 0))]
DISTINCT = np.array([[1], [0]])
lax(
    "scatter scatter_add scatter_sub scatter_mul",
    SCATTERED,
    lambda f, x, u: f(x, DISTINCT[: len(u)], u, SCATTER, unique_indices=True, mode="clip"),
)
lax(
    "scatter_min scatter_max",
    SCATTERED,
    lambda f, x, u: f(x, DISTINCT[: len(u)], u, SCATTER, mode="clip"),
)
lax(
    "scatter_add scatter_sub",
    [((3, 4), (4, 4), (4, 1))],
    lambda f, x, u, i: f(x, i, u, SCATTER),
    domain=(FLOAT, FLOAT, index(2)),
    variant="repeated indices",
)
lax(
    "scatter",
    [((3, 4), (4, 4), (4, 1))],
    lambda f, x, u, i: f(x, i, u, SCATTER),
    domain=(FLOAT, FLOAT, index(2)),
    variant="repeated indices",
)
lax(
    "scatter_apply",
    each((3, 4)),
    lambda f, x: f(x, DISTINCT, jnp.sin, SCATTER, update_shape=(2, 4)),
    reference="none",
)

# --- control flow --------------------------------------------------------------------------------


def _newton(g, x):
    for _ in range(10):
        value, slope = jax.jvp(g, (x,), (jnp.ones_like(x),))
        x = x - value / slope
    return x


lax("cond", PAIRS, lambda f, x, y: f(jnp.sum(x) > 0, lambda a, b: a * b, lambda a, b: a - b, x, y))
lax(
    "switch",
    [((3, 4), ()), ((), ()), ((0,), ())],
    lambda f, x, i: f(i, (jnp.sin, jnp.cos, lambda a: a * a), x),
    domain=(FLOAT, index(3)),
)
lax("fori_loop", UNARY, lambda f, x: f(0, 3, lambda i, a: jnp.sin(a) * x + i, x))
lax(
    "fori_loop",
    [((3, 4), ())],
    lambda f, x, n: f(0, n + 2, lambda _, a: jnp.sin(a) * x, x),
    domain=(FLOAT, START),
    reference="fwd",
    variant="dynamic",
)
lax(
    "while_loop",
    UNARY,
    reference="fwd",
    call=lambda f, x: f(lambda c: c[0] < 3, lambda c: (c[0] + 1, jnp.sin(c[1]) * x), (0, x))[1],
)
lax(
    "scan",
    [((3, 4), (2, 3, 4)), ((), (1,)), ((2,), (0, 2))],
    lambda f, c, xs: f(lambda c, x: (jnp.sin(c) * x, c * x), c, xs),
)
lax(
    "scan",
    [((2,), (3, 2))],
    variant="reverse, unrolled",
    call=lambda f, c, xs: f(lambda c, x: (c * x, c + x), c, xs, reverse=True, unroll=2),
)
lax("map", each((3, 4), (1, 2), (0, 2)), lambda f, x: f(lambda row: row * jnp.sum(row), x))
lax("platform_dependent", UNARY, lambda f, x: f(x, cpu=jnp.sin, default=jnp.cos))
lax(
    "composite",
    UNARY,
    lambda f, x: f(lambda a: jnp.sin(a) * a, "tests.sin_times")(x),
    reference="none",
)
lax(
    "custom_root",
    each((3, 4), (), (0,)),
    lambda f, a: f(
        lambda x: x**3 + x - a, a, lambda g, x: _newton(g, x), lambda g, y: y / g(jnp.ones_like(y))
    ),
)
lax(
    "custom_linear_solve",
    [((3, 3), (3,)), ((1, 1), (1,))],
    domain=(diagonally_dominant, FLOAT),
    call=lambda f, a, b: f(
        lambda x: a @ x,
        b,
        lambda _, y: jnp.linalg.solve(a, y),
        lambda _, y: jnp.linalg.solve(a.T, y),
    ),
    lacks=NO_EMPTY | {"unequal": "takes a square matrix"},
)


def _one_device():
    return jax.sharding.NamedSharding(
        jax.sharding.Mesh(np.array(jax.devices()[:1]), ("d",)), jax.sharding.PartitionSpec()
    )


lax("with_sharding_constraint", UNARY, lambda f, x: f(jnp.sin(x), _one_device()))

# --- collectives, over a mapped axis -------------------------------------------------------------


def _mapped(fun):
    """Runs a collective over the leading axis, named ``i``."""
    return lambda f, x: jax.vmap(lambda row: fun(f, jnp.sin(row)), axis_name="i")(x)


LEADING = each((3, 4), (1, 2), (2, 0))
lax("psum pmean all_gather", LEADING, _mapped(lambda f, row: f(row, "i") * row))
lax("pmax pmin", LEADING, _mapped(lambda f, row: f(jlax.stop_gradient(row), "i") * row))
lax(
    "ppermute",
    each((3, 4), (3, 1), (3, 0)),
    _mapped(lambda f, row: f(row, "i", [(0, 1), (1, 2), (2, 0)])),
)
lax("pshuffle", each((3, 4), (3, 1), (3, 0)), _mapped(lambda f, row: f(row, "i", (1, 2, 0))))
lax("all_to_all", each((3, 3, 2), (1, 1), (2, 2, 0)), _mapped(lambda f, row: f(row, "i", 0, 0)))
lax("pswapaxes", each((3, 3, 2), (1, 1), (2, 2, 0)), _mapped(lambda f, row: f(row, "i", 0)))
lax("psum_scatter", each((3, 3, 2), (1, 1), (2, 2, 0)), _mapped(lambda f, row: f(row, "i")))

# --- jax.lax.linalg ------------------------------------------------------------------------------

SQUARE = each((3, 3), (1, 1), (3, 2, 2), (0, 0))

linalg("cholesky", SQUARE, domain=positive_definite)
linalg("eigh", SQUARE, domain=symmetric)
linalg(
    "eig",
    SQUARE[:3],
    lambda f, a: parts(f(a, compute_left_eigenvectors=False, compute_right_eigenvectors=False)),
    domain=diagonally_dominant,
    lacks=NO_EMPTY,
)
linalg("lu", each((3, 4), (1, 1), (0, 2)), lambda f, a: f(a)[0], domain=diagonally_dominant)
linalg(
    "qr",
    each((4, 3), (1, 1), (0, 2)),
    lambda f, a: f(a, full_matrices=False),
    domain=diagonally_dominant,
)
linalg(
    "svd", each((3, 4), (1, 1)), lambda f, a: f(a, full_matrices=False), domain=diagonally_dominant
)
linalg(
    "svd",
    each((2, 3), (0, 2)),
    lambda f, a: f(a, compute_uv=False),
    domain=diagonally_dominant,
    variant="values",
)
linalg(
    "qdwh",
    each((4, 3)),
    lambda f, a: f(a, is_hermitian=False)[:2],
    domain=diagonally_dominant,
    reference="fwd",
    lacks=NO_EMPTY | NO_SINGLE,
)
linalg("householder_product", [((4, 3), (3,))], reference="none")
linalg("ormqr", [((4, 3), (3,), (4, 2))], reference="none")
linalg("schur hessenberg tridiagonal", each((3, 3)), domain=symmetric, reference="none")
linalg("cholesky_update", [((3, 3), (3,))], reference="none")
linalg("symmetric_product", [((3, 2), (3, 3))], reference="none")
linalg(
    "triangular_solve",
    [((3, 3), (3, 2)), ((1, 1), (1, 1)), ((0, 0), (0, 2))],
    lambda f, a, b: f(a, b, left_side=True),
    domain=(unit_upper, FLOAT),
)
linalg(
    "triangular_solve",
    [((3, 3), (2, 3))],
    domain=(unit_upper, FLOAT),
    variant="transposed",
    call=lambda f, a, b: f(a, b, transpose_a=True, unit_diagonal=True),
)
linalg(
    "tridiagonal_solve",
    [((3,), (3,), (3,), (3, 2)), ((1,), (1,), (1,), (1, 1))],
    domain=(FLOAT, within(4.0, 5.0), FLOAT, FLOAT),
    lacks=NO_EMPTY,
)

rows, absent = lax.rows + linalg.rows, lax.absent + linalg.absent
