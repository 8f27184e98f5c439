"""Rows for jax.numpy: layout, joining and splitting, indexing, sorting, sets."""

import jax.numpy as jnp
import numpy as np
from rows import (
    NO_EMPTY,
    NO_SINGLE,
    NO_UNEQUAL,
    PAIRS,
    UNARY,
    Table,
    boolean,
    each,
    index,
    kinks,
    within,
)

np_ = Table("jax.numpy")
rows, absent = np_.rows, np_.absent

FLOAT = within(-1.5, 1.5)
MATRIX = each((3, 4), (1, 2), (0, 2))
VOLUME = each((2, 3, 4), (1, 2, 1), (0, 2, 3))

# --- layout --------------------------------------------------------------------------------------

np_("ravel transpose squeeze", each((3, 4), (1,), (0, 2)))
np_("permute_dims", VOLUME, lambda f, x: f(x, (2, 0, 1)))
np_("transpose", VOLUME, lambda f, x: f(x, (1, 2, 0)), variant="axes")
np_("matrix_transpose", VOLUME)
np_("moveaxis", VOLUME, lambda f, x: f(x, 0, -1))
np_("rollaxis", VOLUME, lambda f, x: f(x, 2))
np_("swapaxes", VOLUME, lambda f, x: f(x, 0, 2))
np_("reshape", MATRIX, lambda f, x: f(x, (2, -1)) if x.size else f(x, (2, 0)))
np_("reshape", each((3, 4)), lambda f, x: f(x, (2, 6), order="F"), variant="Fortran order")
np_("resize", each((3, 4), (1,), (2, 0)), lambda f, x: f(x, (2, 7)))
np_("expand_dims", UNARY, lambda f, x: f(x, 0))
np_("broadcast_to", each((3, 1, 4), (), (1, 0)), lambda f, x: f(x, (2, *x.shape[:1], *(2 if n == 1 else n for n in x.shape[1:]))))
np_("broadcast_arrays", [((3, 4), (4,)), ((2, 1), (1, 3)), ((), (0, 2))], lambda f, x, y: f(x, y))
np_("flip fliplr flipud rot90", MATRIX)
np_("roll", MATRIX, lambda f, x: f(x, (1, -1), (0, 1)))
np_("tile", MATRIX, lambda f, x: f(x, (2, 1, 2)))
np_("repeat", MATRIX, lambda f, x: f(x, 2, axis=1))
np_("repeat", each((3, 4)), lambda f, x: f(x, np.array([1, 0, 2]), axis=0, total_repeat_length=3), variant="unequal")
np_("diag diagonal trace tril triu diagflat", MATRIX)
np_("diag", each((3,), (1,), (0,)), lambda f, x: f(x, 1), variant="build")
np_("diagonal tril triu trace", MATRIX, lambda f, x: f(x, 1), variant="offset")
np_("fill_diagonal", [((3, 4), ()), ((2, 1), ()), ((0, 2), ())], lambda f, x, v: f(x, v, inplace=False))
np_("pad", MATRIX, lambda f, x: f(x, ((1, 0), (0, 2))))
for _mode in ("edge", "reflect", "wrap", "mean", "maximum", "linear_ramp"):
    np_("pad", each((3, 4)), lambda f, x, mode=_mode: f(x, 1, mode=mode), variant=_mode)
np_("meshgrid", [((3,), (4,)), ((1,), (2,)), ((0,), (2,))])
np_("vander", each((3,), (1,), (0,)), lambda f, x: f(x, 4), lacks=NO_UNEQUAL)
np_("apply_along_axis", MATRIX, lambda f, x: f(lambda v: v * jnp.sum(v), 1, x))
np_("apply_over_axes", VOLUME, lambda f, x: f(jnp.sum, x, (0, 2)))
np_("fromfunction", each((), (2,), (0,)), lambda f, x: f(lambda i, j: i * jnp.sum(x) + j, (3, 4)), lacks=NO_UNEQUAL)
np_("linspace", [((), ()), ((0,), (0,)), ((3, 4), (4,))], lambda f, a, b: f(a, b, 5))
np_("geomspace", [((), ()), ((0,), (0,)), ((2, 3), (3,))], lambda f, a, b: f(a, b, 5), domain=within(0.5, 2.0))
np_("logspace", [((), ()), ((0,), (0,)), ((3, 4), (4,))], lambda f, a, b: f(a, b, 5))

# --- joining and splitting -----------------------------------------------------------------------

JOINED = [((3, 4), (2, 4)), ((1, 2), (3, 2)), ((0, 2), (1, 2))]
ALIKE = [((3, 4), (3, 4)), ((1, 1), (1, 1)), ((0, 2), (0, 2))]

np_("concatenate concat vstack", JOINED, lambda f, *xs: f(xs))
np_("hstack column_stack dstack", ALIKE, lambda f, *xs: f(xs))
np_("append", JOINED, lambda f, x, y: f(x, y, axis=0))
np_("stack", PAIRS, lambda f, x, y: f([x, y, x], axis=-1))
np_("block", [((3, 4), (3, 2)), ((1, 1), (1, 1)), ((0, 2), (0, 1))], lambda f, x, y: f([[x, y], [y, x]]))
np_("split array_split hsplit", each((3, 4), (1, 2), (0, 2)), lambda f, x: f(x, [1]) if f is jnp.hsplit else f(x, [1], axis=1))
np_("vsplit", each((4, 3), (2, 1), (2, 0)), lambda f, x: f(x, 2))
np_("dsplit", each((2, 3, 4), (1, 1, 2), (0, 1, 2)), lambda f, x: f(x, 2))
np_("unstack", each((3, 4), (1,), (2, 0)))
np_("delete", MATRIX, lambda f, x: f(x, 0, axis=1))
np_("insert", MATRIX, lambda f, x: f(x, 1, x[:, 0] * 2.0, axis=1))

# --- indexing ------------------------------------------------------------------------------------

np_("take", [((3, 4), (2,)), ((2, 1), (1,)), ((2, 3), (0,))], lambda f, x, i: f(x, i, axis=0), domain=(FLOAT, index(2)))
np_("take", [((3, 4), (2,))], domain=(FLOAT, index(2)), variant="flat")
np_("take_along_axis", [((3, 4), (2, 4)), ((2, 1), (1, 1)), ((2, 0), (1, 0))], lambda f, x, i: f(x, i, axis=0), domain=(FLOAT, index(2)))
np_("put", [((3, 4), (2,)), ((2, 1), (1,)), ((2, 3), (0,))], lambda f, x, v: f(x, np.arange(len(v)) * 2, v, inplace=False))
np_("put_along_axis", [((3, 4), (1, 4)), ((2, 1), (1, 1)), ((2, 0), (1, 0))],
    lambda f, x, v: f(x, np.ones(v.shape, int), v, 0, inplace=False))
np_("place", [((3, 4), (2,)), ((1,), (1,)), ((0,), (1,))], lambda f, x, v: f(x, np.arange(x.size).reshape(x.shape) % 2 == 0, v, inplace=False))
np_("compress", MATRIX, lambda f, x: f(jnp.sum(x, 0) >= jnp.sum(x[:, :1]), x, axis=1, size=1))
np_("extract", each((3, 4), (1,)), lambda f, x: f(x > -2, x, size=x.size // 2 + 1), lacks=NO_EMPTY)

# --- sorting and sets ----------------------------------------------------------------------------

np_("sort", each((3, 4), (1,), (2, 0)))
np_("sort", each((3, 4)), lambda f, x: f(x, axis=0, descending=True), variant="descending")
np_("sort_complex", each((3, 4), (1,), (2, 0)), lambda f, x: f(x).real)
np_("partition", each((3, 4), (1,), (0, 2)), lambda f, x: f(x, 0))
np_("top_k", each((3, 4), (1,), (0, 3)), lambda f, x: f(x, 1)[0])
np_("unique unique_values", each((4,), (1,), (0,)), lambda f, x: f(x, size=4, fill_value=0.0), lacks=NO_UNEQUAL)
np_("unique_all unique_counts unique_inverse", each((4,), (1,), (0,)), lambda f, x: f(x, size=4, fill_value=0.0)[0], lacks=NO_UNEQUAL)
np_("union1d setxor1d setdiff1d", [((3,), (2,)), ((1,), (0,))], lambda f, x, y: f(x, y, size=5))
np_("intersect1d", [((3,), (2,)), ((1,), (0,))], lambda f, x, y: f(x, jnp.append(y, x[:1]), size=2))
