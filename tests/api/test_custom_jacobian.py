"""`custom_jacobian`: every form of a Jacobian in every mode, against the plain function's."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.experimental.sparse import BCOO

import jax_cce
from cases.agreement import assert_agree
from cases.sparsity import assert_bcoo, assert_structured
from cases.uses import USES

MODES = [jax.jacfwd, jax.jacrev, jax_cce.jacobian]
SIZE = 12
TABLE = jnp.array(np.random.default_rng(0).normal(size=SIZE))
AT = jnp.array([0.5, 3.25, 3.75, 10.0, 6.1])


def plain_look_up(table, at):
    """A cubic through four entries; positions depend on data."""
    cell = jnp.clip(jnp.floor(at).astype(int), 0, SIZE - 4)
    return jnp.sum(table[cell[:, None] + np.arange(4)] * _weights(at - cell), 1)


def _weights(t):
    t = t[:, None]
    nodes = np.arange(4.0)
    factors = [[t - m for m in nodes if m != k] for k in nodes]
    scales = [np.prod([k - m for m in nodes if m != k]) for k in nodes]
    return jnp.concatenate(
        [functools.reduce(jnp.multiply, f) / s for f, s in zip(factors, scales, strict=True)], 1
    )


@jax_cce.custom_jacobian
def look_up(table, at):
    # None of this is ever differentiated.
    return lax.stop_gradient(plain_look_up(table, at))


@look_up.def_jacobian
def _(result, table, at):
    cell = jnp.clip(jnp.floor(at).astype(int), 0, SIZE - 4)
    positions = jnp.stack(
        jnp.broadcast_arrays(jnp.arange(at.size)[:, None], cell[:, None] + np.arange(4)), -1
    )
    weights, slopes = jax.jvp(_weights, (at - cell,), (jnp.ones_like(at),))
    by_table = BCOO((weights.ravel(), positions.reshape(-1, 2)), shape=(at.size, table.size))
    slope = jnp.sum(table[cell[:, None] + np.arange(4)] * slopes, 1)
    return by_table, jax_cce.Bands((0,), slope[None])


def around(function):
    """A program around it, through which the sparsity stays."""
    return lambda table, at: function(jnp.sin(table), at**2 / 12) ** 2 * at


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("jit", [False, True])
def test_positions_that_depend_on_data(mode, jit):
    for program in (lambda f: f), around:
        found = mode(program(look_up), argnums=(0, 1))
        found = (jax.jit(found) if jit else found)(TABLE, AT)
        assert_agree(found, jax.jacrev(program(plain_look_up), argnums=(0, 1))(TABLE, AT))


def _is_block(node):
    return isinstance(node, BCOO | jax_cce.StructuredJacobian)


@pytest.mark.parametrize("jit", [False, True])
def test_the_edge_has_the_entries_that_were_given(jit):
    for program in (lambda f: f), around:
        expected = jax.jacrev(program(plain_look_up), argnums=(0, 1))(TABLE, AT)
        for format, check in ("bcoo", assert_bcoo), ("structured", assert_structured):
            found = jax_cce.jacobian(program(look_up), argnums=(0, 1), format=format)
            blocks = (jax.jit(found) if jit else found)(TABLE, AT)
            jax.tree.map(check, blocks, expected, is_leaf=_is_block)
            sizes = [b.nse if format == "bcoo" else b.nnz for b in blocks]
            assert sizes == [4 * AT.size, AT.size]


@pytest.mark.parametrize("order", ["forward", "reverse", "markowitz"])
def test_orders(order):
    found = jax_cce.jacobian(around(look_up), argnums=(0, 1), order=order)(TABLE, AT)
    assert_agree(found, jax.jacrev(around(plain_look_up), argnums=(0, 1))(TABLE, AT))


X = jnp.array([0.7, -1.2, 2.3, 0.4])


def quadratic(x):
    return (x[:, None] * jnp.roll(x, 1)[:, None] * jnp.array([1.0, 2.0])).T


def _dense(x):
    return jax.jacrev(quadratic)(x)


def _bands_of(matrix, offsets):
    """Diagonals of a matrix as `Bands` has them."""
    rows, columns = matrix.shape
    at = jnp.arange(columns)
    picked = [
        jnp.where((at - k >= 0) & (at - k < rows), matrix[jnp.clip(at - k, 0, rows - 1), at], 0)
        for k in offsets
    ]
    return jax_cce.Bands(offsets, jnp.stack(picked))


PATTERN = np.argwhere(np.asarray(_dense(X)))
FORMS = {
    "dense": _dense,
    "bcoo": lambda x: BCOO((_dense(x)[tuple(PATTERN.T)], jnp.array(PATTERN)), shape=(2, 4, 4)),
    "bcoo, traced": lambda x: BCOO.fromdense(_dense(x), nse=20),
    "bcoo, batch": lambda x: BCOO.fromdense(_dense(x), nse=8, n_batch=1),
    "bcoo, dense": lambda x: BCOO.fromdense(_dense(x), nse=8, n_dense=1),
    "structured": lambda x: jax_cce.jacobian(quadratic, format="structured")(x),
    "computed bcoo": lambda x: jax_cce.jacobian(quadratic, format="bcoo")(x),
    "bands": lambda x: _bands_of(_dense(x).reshape(8, 4), (-7, -5, -4, -1, 0, 3)),
}
# How many entries are stored: what there is more than 16 is padding or given.
STORED = {"dense": 32, "bcoo, traced": 20, "bcoo, dense": 32, "bands": 17}


def in_form(form):
    function = jax_cce.custom_jacobian(lambda x: lax.stop_gradient(quadratic(x)))
    function.def_jacobian(lambda result, x: (FORMS[form](x),))
    return function


@pytest.mark.parametrize("form", FORMS)
def test_forms(form):
    function = in_form(form)
    for mode in MODES:
        assert_agree(jax.jit(mode(function))(X), jax.jacrev(quadratic)(X))
    tangent, cotangent = jnp.cos(X), jnp.sin(quadratic(X))
    assert_agree(
        jax.jvp(function, (X,), (tangent,)), jax.jvp(quadratic, (X,), (tangent,)), tolerance=1e-12
    )
    assert_agree(jax.vjp(function, X)[1](cotangent), jax.vjp(quadratic, X)[1](cotangent))
    found = jax.jit(jax_cce.jacobian(function, format="bcoo"))(X)
    assert_bcoo(found, jax.jacrev(quadratic)(X))
    assert found.nse == STORED.get(form, 16)


@pytest.mark.parametrize("form", ["dense", "bcoo", "structured", "bands"])
def test_second_derivatives(form):
    function = in_form(form)
    expected = jax.hessian(quadratic)(X)
    assert_agree(jax.jit(jax.hessian(function))(X), expected)
    assert_agree(jax.jit(jax.jacrev(jax_cce.jacobian(function)))(X), expected)
    total = [lambda x, f=f: jnp.sum(jnp.sin(f(x))) for f in (function, quadratic)]
    for format in "dense", "bcoo":
        found = jax.jit(jax_cce.hessian(total[0], format=format))(X)
        dense = found.todense() if format == "bcoo" else found
        assert_agree(dense, jax.hessian(total[1])(X))


def in_all_forms(x):
    every = [in_form(form)(jnp.sin(x)) for form in ("dense", "bcoo, traced", "structured", "bands")]
    return jnp.sum(sum(every) ** 2, 0)


def in_no_form(x):
    return jnp.sum((4 * quadratic(jnp.sin(x))) ** 2, 0)


@pytest.mark.parametrize("use", USES)
def test_under_transformations(use):
    def outcome(jacobian, x):
        return USES[use](jacobian, x)

    if use not in {"donated", "ahead of time", "exported", "explicit mesh"}:
        outcome = jax.jit(outcome, static_argnums=0)
    found = outcome(jax_cce.jacobian(in_all_forms), X)
    assert_agree(found, outcome(jax.jacrev(in_no_form), X))


@pytest.mark.parametrize("inside", ["scan", "while", "cond", "vmap", "checkpoint", "shard_map"])
@pytest.mark.parametrize("mode", MODES)
def test_inside_other_programs(inside, mode):
    def program(function):
        def step(x):
            return jnp.cos(jnp.sum(function(x), 0))

        match inside:
            case "scan":
                return lambda x: lax.scan(lambda c, _: (step(c), c[0]), x, None, 3)
            case "while":
                return lambda x: lax.fori_loop(0, 3, lambda _, c: step(c), x)
            case "cond":
                return lambda x: lax.cond(x[0] > 0, step, jnp.sin, x)
            case "vmap":
                return lambda x: jax.vmap(step, 1, 1)(jnp.outer(x, jnp.arange(3.0)))
            case "checkpoint":
                return jax.checkpoint(lambda x: step(step(x)))
            case "shard_map":
                mesh = jax.make_mesh((2,), ("i",), axis_types=(jax.sharding.AxisType.Auto,))
                each = jax.shard_map(
                    jax.vmap(step), mesh=mesh, in_specs=jax.P("i"), out_specs=jax.P("i")
                )
                return lambda x: each(jnp.stack([x, 2 * x]))
        return None

    found = jax.jit(mode(program(in_all_forms_rows)))(X)
    assert_agree(found, jax.jit(mode(program(lambda x: 4 * quadratic(x))))(X))


def in_all_forms_rows(x):
    return sum(in_form(form)(x) for form in ("dense", "bcoo, traced", "structured", "bands"))
