"""Rows for jax.numpy: layout, joining and splitting, indexing, sorting, sets."""

import jax.numpy as jnp
import numpy as np
from rows import (
    NO_EMPTY,
    NO_UNEQUAL,
    PAIRS,
    UNARY,
    Table,
    each,
    index,
    within,
)

numpy = Table("jax.numpy")
rows, absent = numpy.rows, numpy.absent

FLOAT = within(-1.5, 1.5)
MATRIX = each((3, 4), (1, 2), (0, 2))
VOLUME = each((2, 3, 4), (1, 2, 1), (0, 2, 3))

# --- layout --------------------------------------------------------------------------------------

numpy("ravel transpose squeeze", each((3, 4), (1,), (0, 2)))
numpy("permute_dims", VOLUME, lambda f, x: f(x, (2, 0, 1)))
numpy("transpose", VOLUME, lambda f, x: f(x, (1, 2, 0)), variant="axes")
numpy("matrix_transpose", VOLUME)
numpy("moveaxis", VOLUME, lambda f, x: f(x, 0, -1))
numpy("rollaxis", VOLUME, lambda f, x: f(x, 2))
numpy("swapaxes", VOLUME, lambda f, x: f(x, 0, 2))
numpy("reshape", MATRIX, lambda f, x: f(x, (2, -1)) if x.size else f(x, (2, 0)))
numpy("reshape", each((3, 4)), lambda f, x: f(x, (2, 6), order="F"), variant="Fortran order")
numpy("resize", each((3, 4), (1,), (2, 0)), lambda f, x: f(x, (2, 7)))
numpy("expand_dims", UNARY, lambda f, x: f(x, 0))
numpy(
    "broadcast_to",
    each((3, 1, 4), (), (1, 0)),
    lambda f, x: f(x, (2, *x.shape[:1], *(2 if n == 1 else n for n in x.shape[1:]))),
)
numpy("broadcast_arrays", [((3, 4), (4,)), ((2, 1), (1, 3)), ((), (0, 2))], lambda f, x, y: f(x, y))
numpy("flip fliplr flipud rot90", MATRIX)
numpy("roll", MATRIX, lambda f, x: f(x, (1, -1), (0, 1)))
numpy("tile", MATRIX, lambda f, x: f(x, (2, 1, 2)))
numpy("repeat", MATRIX, lambda f, x: f(x, 2, axis=1))
numpy(
    "repeat",
    each((3, 4)),
    lambda f, x: f(x, np.array([1, 0, 2]), axis=0, total_repeat_length=3),
    variant="unequal",
)
numpy("diag diagonal trace tril triu diagflat", MATRIX)
numpy("diag", each((3,), (1,), (0,)), lambda f, x: f(x, 1), variant="build")
numpy("diagonal tril triu trace", MATRIX, lambda f, x: f(x, 1), variant="offset")
numpy(
    "fill_diagonal",
    [((3, 4), ()), ((2, 1), ()), ((0, 2), ())],
    lambda f, x, v: f(x, v, inplace=False),
)
numpy("pad", MATRIX, lambda f, x: f(x, ((1, 0), (0, 2))))
for _mode in ("edge", "reflect", "wrap", "mean", "maximum", "linear_ramp"):
    numpy("pad", each((3, 4)), lambda f, x, mode=_mode: f(x, 1, mode=mode), variant=_mode)
numpy("meshgrid", [((3,), (4,)), ((1,), (2,)), ((0,), (2,))])
numpy("vander", each((3,), (1,), (0,)), lambda f, x: f(x, 4), lacks=NO_UNEQUAL)
numpy("apply_along_axis", MATRIX, lambda f, x: f(lambda v: v * jnp.sum(v), 1, x))
numpy("apply_over_axes", VOLUME, lambda f, x: f(jnp.sum, x, (0, 2)))
numpy(
    "fromfunction",
    each((), (2,), (0,)),
    lambda f, x: f(lambda i, j: i * jnp.sum(x) + j, (3, 4)),
    lacks=NO_UNEQUAL,
)
numpy("linspace", [((), ()), ((0,), (0,)), ((3, 4), (4,))], lambda f, a, b: f(a, b, 5))
numpy(
    "geomspace",
    [((), ()), ((0,), (0,)), ((2, 3), (3,))],
    lambda f, a, b: f(a, b, 5),
    domain=within(0.5, 2.0),
)
numpy("logspace", [((), ()), ((0,), (0,)), ((3, 4), (4,))], lambda f, a, b: f(a, b, 5))

# --- joining and splitting -----------------------------------------------------------------------

JOINED = [((3, 4), (2, 4)), ((1, 2), (3, 2)), ((0, 2), (1, 2))]
ALIKE = [((3, 4), (3, 4)), ((1, 1), (1, 1)), ((0, 2), (0, 2))]

numpy("concatenate concat vstack", JOINED, lambda f, *xs: f(xs))
numpy("hstack column_stack dstack", ALIKE, lambda f, *xs: f(xs))
numpy("append", JOINED, lambda f, x, y: f(x, y, axis=0))
numpy("stack", PAIRS, lambda f, x, y: f([x, y, x], axis=-1))
numpy(
    "block",
    [((3, 4), (3, 2)), ((1, 1), (1, 1)), ((0, 2), (0, 1))],
    lambda f, x, y: f([[x, y], [y, x]]),
)
numpy("split array_split", MATRIX, lambda f, x: f(x, [1], axis=1))
numpy("hsplit", MATRIX, lambda f, x: f(x, [1]))
numpy("vsplit", each((4, 3), (2, 1), (2, 0)), lambda f, x: f(x, 2))
numpy("dsplit", each((2, 3, 4), (1, 1, 2), (0, 1, 2)), lambda f, x: f(x, 2))
numpy("unstack", each((3, 4), (1,), (2, 0)))
numpy("delete", MATRIX, lambda f, x: f(x, 0, axis=1))
numpy("insert", MATRIX, lambda f, x: f(x, 1, x[:, 0] * 2.0, axis=1))

# --- indexing ------------------------------------------------------------------------------------

numpy(
    "take",
    [((3, 4), (2,)), ((2, 1), (1,)), ((2, 3), (0,))],
    lambda f, x, i: f(x, i, axis=0),
    domain=(FLOAT, index(2)),
)
numpy("take", [((3, 4), (2,))], domain=(FLOAT, index(2)), variant="flat")
numpy(
    "take_along_axis",
    [((3, 4), (2, 4)), ((2, 1), (1, 1)), ((2, 0), (1, 0))],
    lambda f, x, i: f(x, i, axis=0),
    domain=(FLOAT, index(2)),
)
numpy(
    "put",
    [((3, 4), (2,)), ((2, 1), (1,)), ((2, 3), (0,))],
    lambda f, x, v: f(x, np.arange(len(v)) * 2, v, inplace=False),
)
numpy(
    "put_along_axis",
    [((3, 4), (1, 4)), ((2, 1), (1, 1)), ((2, 0), (1, 0))],
    lambda f, x, v: f(x, np.ones(v.shape, int), v, 0, inplace=False),
)
numpy(
    "place",
    [((3, 4), (2,)), ((1,), (1,)), ((0,), (1,))],
    lambda f, x, v: f(x, np.arange(x.size).reshape(x.shape) % 2 == 0, v, inplace=False),
)
numpy("compress", MATRIX, lambda f, x: f(jnp.sum(x, 0) >= jnp.sum(x[:, :1]), x, axis=1, size=1))
numpy(
    "extract", each((3, 4), (1,)), lambda f, x: f(x > -2, x, size=x.size // 2 + 1), lacks=NO_EMPTY
)

# --- sorting and sets ----------------------------------------------------------------------------

numpy("sort", each((3, 4), (1,), (2, 0)))
numpy("sort", each((3, 4)), lambda f, x: f(x, axis=0, descending=True), variant="descending")
numpy("sort_complex", each((3, 4), (1,), (2, 0)), lambda f, x: f(x).real)
numpy("partition", each((3, 4), (1,), (0, 2)), lambda f, x: f(x, 0))
numpy("top_k", each((3, 4), (1,), (0, 3)), lambda f, x: f(x, 1)[0])
numpy(
    "unique unique_values",
    each((4,), (1,), (0,)),
    lambda f, x: f(x, size=4, fill_value=0.0),
    lacks=NO_UNEQUAL,
)
numpy(
    "unique_all unique_counts unique_inverse",
    each((4,), (1,), (0,)),
    lambda f, x: f(x, size=4, fill_value=0.0)[0],
    lacks=NO_UNEQUAL,
)
numpy("union1d setxor1d setdiff1d", [((3,), (2,)), ((1,), (0,))], lambda f, x, y: f(x, y, size=5))
numpy(
    "intersect1d", [((3,), (2,)), ((1,), (0,))], lambda f, x, y: f(x, jnp.append(y, x[:1]), size=2)
)
