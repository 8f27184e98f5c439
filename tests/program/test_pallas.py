"""Kernels of Pallas, interpreted: Jacobians of what they compute, with blocks along the grid."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import pallas as pl

import jax_cce
from cases.agreement import assert_agree

# With JAX 0.12 kernels are left to JAX.
pytestmark = pytest.mark.one_version

RANDOM = np.random.default_rng(0)
spec = pl.BlockSpec


def _drawn(*shape):
    return jnp.asarray(RANDOM.uniform(0.2, 1.0, shape))


def _called(kernel, shape, grid, ins, outs, **options):
    out = jax.ShapeDtypeStruct(shape, jnp.float64)
    return pl.pallas_call(
        kernel, out_shape=out, grid=grid, in_specs=ins, out_specs=outs, interpret=True, **options
    )


def _scaled(x, y, out):
    out[...] = jnp.sin(x[...]) * y[...] + pl.program_id(0) * pl.num_programs(0)


def _product(a, b, out):
    @pl.when(pl.program_id(2) == 0)
    def _():
        out[...] = jnp.zeros_like(out)

    out[...] += a[...] @ b[...]


def _stencil(x, out):
    near = x[pl.ds(pl.program_id(0) * 4, 6)]
    out[...] = near[1:-1] ** 2 * near[:-2] + near[2:]


def _windows(x, out):
    out[...] = x[1:-1] * x[:-2] + jnp.exp(x[2:])


def _total(x, out):
    @pl.when(pl.program_id(0) == 0)
    def _():
        out[...] = jnp.zeros_like(out)

    out[...] += jnp.sum(x[...] ** 2, axis=0, keepdims=True)


def _ragged(x, out):
    out[...] = jnp.cos(x[...]) * x[...]


def _flipped(x, out):
    out[...] = jnp.exp(x[...][::-1])


def _rows(x, w, out):
    out[...] = jnp.tanh(w[...] @ x[...])


def _looped(x, out):
    def step(k, _):
        out[k] = jnp.sin(x[k]) * x[0]

    jax.lax.fori_loop(0, 3, step, None)


def _in_place(x, y, out):
    out[...] = y[...] * x[...] ** 2


# Each with what it computes, and its arguments.
KERNELS = {
    "blocks": (
        _called(
            _scaled,
            (16,),
            (4,),
            [spec((4,), lambda i: (i,)), spec((4,), lambda i: (0,))],
            spec((4,), lambda i: (i,)),
        ),
        lambda x, y: (jnp.sin(x.reshape(4, 4)) * y + 4 * jnp.arange(4.0)[:, None]).ravel(),
        (_drawn(16), _drawn(4)),
    ),
    "accumulated": (
        _called(
            _product,
            (8, 6),
            (2, 3, 5),
            [spec((4, 2), lambda i, j, k: (i, k)), spec((2, 2), lambda i, j, k: (k, j))],
            spec((4, 2), lambda i, j, k: (i, j)),
        ),
        jnp.matmul,
        (_drawn(8, 10), _drawn(10, 6)),
    ),
    "stencil": (
        _called(_stencil, (16,), (4,), [spec((18,), lambda i: (0,))], spec((4,), lambda i: (i,))),
        lambda x: x[1:-1] ** 2 * x[:-2] + x[2:],
        (_drawn(18),),
    ),
    "windows that overlap": (
        _called(
            _windows,
            (12,),
            (3,),
            [spec((pl.Element(6),), lambda i: (i * 4,))],
            spec((4,), lambda i: (i,)),
        ),
        lambda x: x[1:-1] * x[:-2] + jnp.exp(x[2:]),
        (_drawn(14),),
    ),
    "total": (
        _called(
            _total, (1, 3), (4,), [spec((2, 3), lambda i: (i, 0))], spec((1, 3), lambda i: (0, 0))
        ),
        lambda x: jnp.sum(x**2, axis=0, keepdims=True),
        (_drawn(8, 3),),
    ),
    "ragged": (
        _called(_ragged, (10,), (3,), [spec((4,), lambda i: (i,))], spec((4,), lambda i: (i,))),
        lambda x: jnp.cos(x) * x,
        (_drawn(10),),
    ),
    "no grid": (
        _called(_ragged, (10,), (), [spec((10,), lambda: (0,))], spec((10,), lambda: (0,))),
        lambda x: jnp.cos(x) * x,
        (_drawn(10),),
    ),
    "flipped": (
        _called(_flipped, (8,), (4,), [spec((2,), lambda i: (3 - i,))], spec((2,), lambda i: (i,))),
        lambda x: jnp.exp(x[::-1]),
        (_drawn(8),),
    ),
    "squeezed": (
        _called(
            _rows,
            (5, 3),
            (5,),
            [spec((None, 4), lambda i: (i, 0)), spec((3, 4), lambda i: (0, 0))],
            spec((None, 3), lambda i: (i, 0)),
        ),
        lambda x, w: jnp.tanh(x @ w.T),
        (_drawn(5, 4), _drawn(3, 4)),
    ),
    "a loop inside": (
        _called(_looped, (6,), (2,), [spec((3,), lambda i: (i,))], spec((3,), lambda i: (i,))),
        lambda x: (jnp.sin(x.reshape(2, 3)) * x.reshape(2, 3)[:, :1]).ravel(),
        (_drawn(6),),
    ),
    "in place": (
        _called(
            _in_place,
            (6,),
            (3,),
            [spec((2,), lambda i: (i,))] * 2,
            spec((2,), lambda i: (i,)),
            input_output_aliases={1: 0},
        ),
        lambda x, y: y * x**2,
        (_drawn(6), _drawn(6)),
    ),
}
# Their sparse Jacobians have no entry that is zero.
EXACT = {
    "blocks",
    "stencil",
    "windows that overlap",
    "ragged",
    "no grid",
    "flipped",
    "squeezed",
    "in place",
}


@pytest.mark.parametrize("form", ["dense", "bcoo", "structured"])
@pytest.mark.parametrize("name", KERNELS)
def test_jacobians(name, form):
    kernel, program, args = KERNELS[name]
    argnums = tuple(range(len(args)))
    expected = jax.jacrev(program, argnums)(*args)
    value, found = jax.jit(jax_cce.value_and_jacobian(kernel, argnums, format=form))(*args)
    assert_agree(value, program(*args))
    dense = found if form == "dense" else tuple(block.todense() for block in found)
    assert_agree(dense, expected)
    if form != "dense" and name in EXACT:
        stored = [block.nse if form == "bcoo" else block.nnz for block in found]
        assert stored == [np.count_nonzero(block) for block in expected]


@pytest.mark.parametrize("name", ["blocks", "accumulated", "windows that overlap", "total"])
def test_second_derivatives_and_maps(name):
    kernel, program, args = KERNELS[name]

    def loss(fun):
        return lambda *args: jnp.sum(fun(*args) ** 2)

    assert_agree(jax_cce.hessian(loss(kernel))(*args), jax.hessian(loss(program))(*args))
    several = tuple(jnp.stack([x, 2 * x]) for x in args)
    mapped = jax.vmap(jax_cce.jacobian(kernel))
    assert_agree(mapped(*several), jax.vmap(jax.jacrev(program))(*several))


@pytest.mark.parametrize("order", ["forward", "reverse"])
def test_the_kernel_computes_the_values(order):
    kernel, _, args = KERNELS["blocks"]
    program = jax.make_jaxpr(jax_cce.value_and_jacobian(kernel, order=order))(*args)
    assert str(program).count("pallas_call") == 1


def test_a_kernel_of_many_blocks_is_planned_once():
    def planned(count):
        kernel = _called(
            _windows,
            (4 * count,),
            (count,),
            [spec((pl.Element(6),), lambda i: (i * 4,))],
            spec((4,), lambda i: (i,)),
        )
        return jax_cce.plan(kernel, format="bcoo")(jnp.zeros(4 * count + 2))

    few, many = planned(3), planned(3000)
    assert len(few.steps) == len(many.steps)
    assert not many.operators


def test_blocks_that_depend_on_data_are_as_in_jax():
    def kernel(x, out):
        out[...] = x[...] * 2.0

    shape = jax.ShapeDtypeStruct((4,), jnp.float64)
    whole = functools.partial(pl.pallas_call, kernel, out_shape=shape, interpret=True)
    assert_agree(jax_cce.jacobian(lambda x: whole()(x))(_drawn(4)), 2 * jnp.eye(4))
