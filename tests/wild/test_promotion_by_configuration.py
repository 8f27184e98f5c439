"""What the project computes states its broadcasts and dtypes, whatever JAX promotes by itself."""

import itertools
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import jax_cce
from cases.agreement import assert_agree
from cases.blocks import dense
from jax_cce.algebra.dtypes import promoted

X = jnp.arange(1.0, 6.0)
AT = jnp.array([0, 3])
FORMATS = ["dense", "bcoo", "structured"]


def _roll(x, k):
    return lax.dynamic_update_slice(x**2, x[:2], (k,)) * lax.dynamic_slice(x, (k,), (5,))[::-1]


RANKS = {
    "scatter-add": lambda x: x.at[AT].add(x[:2] ** 2),
    "scatter": lambda x: x.at[AT].set(x[:2] ** 2),
    "filling gather": lambda x: jnp.take(x, AT, mode="fill"),
    "filling gather of rows": lambda x: jnp.take(jnp.outer(x, x), AT, axis=1, mode="fill"),
    "dropping scatter of rows": lambda x: jnp.outer(x, x).at[:, AT].add(1.0, mode="drop"),
    "two index arrays": lambda x: (
        jnp.outer(x, x).at[AT, AT + 1].multiply(x[:2], unique_indices=True)
    ),
    "sort": lambda x: jnp.sort(jnp.outer(jnp.sin(x), x), axis=0),
    "top_k": lambda x: lax.top_k(jnp.sin(x), 2)[0],
    "dynamic slices": lambda x: _roll(x, jnp.asarray(x[0], int)),
    "scan": lambda x: lax.scan(lambda c, a: (c * a, c[:2] * a), x, x[:3])[1],
    "cond": lambda x: lax.cond(x[0] > 0, lambda x: x[::-1] * x, lambda x: x, x),
    "window": lambda x: jnp.convolve(x, x[:3], mode="same"),
    "cumsum": lambda x: jnp.cumsum(x**2)[:, None] * x[None],
    "max": lambda x: jnp.max(jnp.outer(x, x[::-1]), axis=1),
    "matrix": lambda x: jnp.linalg.solve(jnp.outer(x, x) + jnp.eye(5), x),
}


@pytest.mark.parametrize("name", RANKS)
@pytest.mark.parametrize("form", FORMATS)
def test_ranks_are_not_promoted(name, form):
    f = RANKS[name]
    with jax.numpy_rank_promotion("raise"):
        # The index arrays are known in one call, and arguments of a program in the other.
        expected = jax.jit(jax.jacrev(f))(X)
        assert_agree(dense(jax_cce.jacobian(f, format=form)(X)), expected)
        inside = jax.jit(lambda x: dense(jax_cce.jacobian(f, format=form)(x)))
        assert_agree(inside(X), expected)


@pytest.mark.parametrize("order", ["forward", "reverse", "markowitz"])
def test_ranks_are_not_promoted_with_traced_indices(order):
    def f(x, at):
        rows = jnp.take(jnp.outer(x, x), at, axis=0, mode="fill")
        return rows.at[at - 2, at].add(x[:2], mode="drop")

    with jax.numpy_rank_promotion("raise"):
        expected = jax.jit(jax.jacrev(f))(X, AT)
        assert_agree(jax.jit(jax_cce.jacobian(f, order=order))(X, AT), expected)


@pytest.mark.parametrize("form", FORMATS)
def test_ranks_are_not_promoted_in_hessians(form):
    def f(x):
        return jnp.sum(jnp.take(x, AT, mode="fill") ** 3) * jnp.sum(x.at[AT].add(x[:2]) ** 2)

    with jax.numpy_rank_promotion("raise"):
        expected = jax.hessian(f)(X)
        assert_agree(dense(jax_cce.hessian(f, format=form)(X)), expected)


def test_no_promotion_is_warned_of():
    with jax.numpy_rank_promotion("warn"), warnings.catch_warnings():
        warnings.simplefilter("error")
        for f in RANKS.values():
            jax.eval_shape(jax_cce.jacobian(f, format="structured"), X)


def test_products_with_structured_jacobians_state_their_ranks():
    f = RANKS["scatter-add"]
    with jax.numpy_rank_promotion("raise"), jax.numpy_dtype_promotion("strict"):
        block = jax_cce.jacobian(f, format="structured")(X)
        full = block.todense()
        assert_agree(block @ X, full @ X)
        assert_agree(X @ block.T, full @ X)
        assert_agree(block.diagonal(), jnp.diag(full))


DTYPES = ["float16", "bfloat16", "float32", "float64", "complex64", "complex128", "int32"]


def _joined(x, y):
    """A real number that depends on both, by conversions that the function states."""

    def real(z):
        return jnp.square(jnp.abs(z)) if jnp.iscomplexobj(z) else z

    x, y = real(x), real(y)
    return x * jnp.sin(x) * lax.convert_element_type(y, x.dtype)


@pytest.mark.parametrize("one, other", list(itertools.product(DTYPES[:-1], DTYPES))[::2])
def test_dtypes_are_not_promoted(one, other):
    args = jnp.asarray(2.0, one), jnp.asarray(3.0, other)
    options = {"argnums": (0, 1), "allow_int": True}
    with jax.numpy_dtype_promotion("strict"):
        expected = [b for b in jax.jacrev(_joined, **options)(*args) if b.dtype != jax.float0]
        for form in FORMATS:
            ours = dense(jax_cce.jacobian(_joined, format=form, **options)(*args))
            ours = [block for block in ours if block.dtype != jax.float0]
            if form == "dense" or other != "int32":
                assert_agree(ours[: len(expected)], expected)


def _mixed(tree):
    low = jnp.cumsum(tree["low"])
    high = jnp.where(tree["high"] > 0, tree["high"] ** 2, 0)
    return high * lax.convert_element_type(low, high.dtype), low[::-1]


def _gathered(tree):
    low, high = tree["low"], tree["high"]
    wide = high[AT % 3] * lax.convert_element_type(low[AT % 3], high.dtype)
    return jnp.sort(high), low.at[AT % 3].add(lax.convert_element_type(wide, low.dtype))


def _looped(tree):
    def step(carry, low):
        carry = carry * lax.convert_element_type(low, carry.dtype)
        return carry, lax.convert_element_type(carry, low.dtype)

    return lax.scan(step, tree["high"], tree["low"])


@pytest.mark.parametrize("fun", [_mixed, _gathered, _looped])
@pytest.mark.parametrize("form", FORMATS)
def test_dtypes_of_trees_are_not_promoted(fun, form):
    tree = {"low": jnp.array([1.0, 2.0, 0.5], jnp.float16), "high": jnp.array([1.0, -2.0, 3.0])}
    # Outputs of two dtypes are too much for JAX under "strict".
    expected = jax.jacrev(fun)(tree)
    with jax.numpy_dtype_promotion("strict"):
        assert_agree(dense(jax_cce.jacobian(fun, format=form)(tree)), expected, tolerance=1e-2)


@pytest.mark.parametrize("form", FORMATS)
def test_dtypes_are_not_promoted_in_hessians(form):
    def f(x, y):
        return jnp.sum(x**2 * jnp.sin(lax.convert_element_type(y, x.dtype)))

    args = jnp.array([1.0, 2.0], jnp.float32), jnp.array([3.0, 0.5], jnp.float16)
    expected = jax.hessian(f, (0, 1))(*args)
    with jax.numpy_dtype_promotion("strict"):
        ours = dense(jax_cce.hessian(f, (0, 1), format=form)(*args))
        assert_agree(ours, expected, tolerance=1e-2)


def test_the_common_dtype_is_that_of_jax_by_default():
    for one, other in itertools.product([*DTYPES, "bool", "int64"], repeat=2):
        assert promoted(one, other) == jnp.promote_types(one, other)


def test_numbers_of_eight_bits_have_a_common_dtype():
    assert promoted(jnp.float8_e5m2, jnp.float8_e4m3fn) == jnp.bfloat16
    assert promoted(jnp.float8_e5m2, np.float32) == np.float32
    x = jnp.asarray([1.0, 2.0])

    def f(x):
        return lax.convert_element_type(x, jnp.float8_e5m2).astype(x.dtype) * x

    assert_agree(jax_cce.jacobian(f)(x), jax.jacrev(f)(x))
