"""Blocks have the dtype and weak type that JAX gives them, and keep their values' precision."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import lax

import jax_cce
from cases.agreement import assert_agree
from cases.blocks import dense, types

FORMATS = ["dense", "bcoo", "structured"]


def _assert_values_agree(ours, expected):
    for our, their in zip(jax.tree.leaves(dense(ours)), jax.tree.leaves(expected), strict=True):
        # JAX's BCOO.todense() drops the weak type.
        assert_agree(our.astype(our.dtype), their.astype(their.dtype), tolerance=5e-2)


LEAVES = {
    "python": 2.0,
    "weak array": jnp.asarray(1.5),
    "float64": jnp.asarray([0.5, 2.0]),
    "float32": jnp.asarray([1.0, 3.0], jnp.float32),
    "bfloat16": jnp.asarray(3.0, jnp.bfloat16),
    "float16": jnp.asarray([[1.5]], jnp.float16),
    "numpy": np.float32(0.75),
    "empty": jnp.zeros((0,), jnp.float32),
}


def _energy(leaves):
    terms = [jnp.sum(jnp.sin(jnp.asarray(leaf))) for leaf in jax.tree.leaves(leaves)]
    return sum(terms[1:], terms[0]) ** 2 + terms[0]


def _vector(leaves):
    return {"a": _energy(leaves), "b": jax.tree.map(lambda x: jnp.asarray(x) ** 2, leaves)}


_pairs = list(itertools.combinations(LEAVES, 2))


@pytest.mark.parametrize("names", _pairs[::4], ids=str)
@pytest.mark.parametrize("form", FORMATS)
def test_a_block_of_the_hessian_has_the_type_of_its_row(names, form):
    tree = {name: LEAVES[name] for name in names}
    expected = jax.jit(jax.hessian(_energy))(tree)
    ours = jax_cce.hessian(_energy, format=form)(tree)
    assert types(ours) == types(expected)
    _assert_values_agree(ours, expected)


@pytest.mark.parametrize("form", FORMATS)
def test_a_block_of_an_arrays_hessian_has_the_type_of_its_row(form):
    args = jnp.float32(2.0), jnp.asarray([1.0, 2.0], jnp.bfloat16), 3.0

    def f(x, y, z):
        return (x * y**2 + z, y * z)

    expected = jax.jit(jax.hessian(f, (0, 1, 2)))(*args)
    ours = jax_cce.hessian(f, (0, 1, 2), format=form)(*args)
    assert types(ours) == types(expected)
    _assert_values_agree(ours, expected)


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("transform", [lambda f: f, jax.jit], ids=["eager", "jit"])
def test_hessians_of_python_numbers(form, transform):
    def f(a, b):
        return a**2 * jnp.sum(b)

    args = 2.0, jnp.ones(2)
    expected = transform(jax.hessian(f, (0, 1)))(*args)
    assert types(transform(jax_cce.hessian(f, (0, 1), format=form))(*args)) == types(expected)


@pytest.mark.parametrize("names", _pairs[1::4], ids=str)
@pytest.mark.parametrize("form", FORMATS)
def test_a_block_of_the_jacobian_has_the_type_of_its_column(names, form):
    tree = {name: LEAVES[name] for name in names}
    expected = jax.jit(jax.jacrev(_vector))(tree)
    ours = jax_cce.jacobian(_vector, format=form)(tree)
    assert types(ours) == types(expected)
    _assert_values_agree(ours, expected)


_WEAK = {
    "constant": lambda x: 1.0,
    "strong constant": lambda x: jnp.float64(1.0),
    "zero derivative": lambda x: jnp.floor(x),
    "strong output": lambda x: x * jnp.float64(2.0),
    "weak output": lambda x: x * 2.0,
    "through integers": lambda x: x * jnp.asarray(x, int),
    "branches": lambda x: lax.cond(x > 0, lambda y: y * 2.0, lambda y: y, x),
    "by value": lambda x: x * 2.0 if x > 0 else x,
    "itself": lambda x: x,
}


@pytest.mark.parametrize("name", _WEAK)
@pytest.mark.parametrize("form", FORMATS)
def test_weak_types_of_jacobians(name, form):
    for x in (2.0, jnp.asarray(2.0), jnp.float32(2.0)):
        expected = jax.jacrev(_WEAK[name])(x)
        assert types(jax_cce.jacobian(_WEAK[name], format=form)(x)) == types(expected)


def test_methods_keep_the_weak_type():
    block = jax_cce.jacobian(lambda x: x * jnp.ones(3), format="structured")(2.0)
    assert block.weak_type
    assert block.todense().aval.weak_type
    assert block.T.weak_type == block.weak_type
    assert jax.tree.map(lambda x: x, block).weak_type
    assert not block.astype(jnp.float32).weak_type


# --- 64-bit types in a part of a function ---------------------------------------------------------


def _wide(f):
    def wider(*args):
        with jax.enable_x64(True):
            return f(*(lax.convert_element_type(x, jnp.float64) for x in args))

    return wider


_NARROW = np.array([0.3, 0.7, 1.1], np.float32)
_BODIES = {
    "sum": lambda x: jnp.sum(jnp.sin(x * jnp.arange(3.0))),
    "constants": lambda x: x * np.array([1.5, 2.5, 3.5]) + np.float64(0.1) * x[::-1],
    "gather": lambda x: x[jnp.array([2, 0])] * jnp.sort(x)[:2],
    "scan": lambda x: lax.scan(lambda c, a: (c * a, c + a), x[0], x)[1],
    "small matrix": lambda x: jnp.array([[x[0], 0.0], [0.0, 1.0]]) @ x[:2],
    "masks": lambda x: jnp.where(x > 0.5, x, 2 * x) + jnp.max(x),
    "solve": lambda x: jnp.linalg.solve(jnp.diag(x) + jnp.ones((3, 3)), x),
    "custom rule": lambda x: jax.nn.silu(x) + jax.scipy.special.i0(x),
    "random numbers": lambda x: x * jax.random.normal(jax.random.key(0), (3,)),
    "narrow output": lambda x: jnp.sin(x).astype(jnp.float32),
    "complex": lambda x: jnp.abs(jnp.exp(1j * x) + x),
}


@pytest.mark.parametrize("name", _BODIES)
@pytest.mark.parametrize("form", FORMATS)
def test_64_bits_inside_the_function(name, form):
    f = _wide(_BODIES[name])
    # JAX's own transposed gather fails where they are off.
    expected = jax.jit(jax.jacrev(f))(_NARROW)
    with jax.enable_x64(False):
        assert_agree(dense(jax_cce.jacobian(f, format=form)(_NARROW)), expected)


@pytest.mark.parametrize("name", ["sum", "gather", "constants", "masks"])
@pytest.mark.parametrize("order", ["forward", "reverse", "markowitz"])
def test_64_bits_inside_the_function_in_every_order(name, order):
    f = _wide(_BODIES[name])
    expected = jax.jit(jax.jacrev(f))(_NARROW)
    with jax.enable_x64(False):
        jacobian = jax_cce.jacobian(f, order=order)
        assert_agree(jacobian(_NARROW), expected)
        assert_agree(jax.jit(jacobian)(_NARROW), expected)
        assert_agree(jax.vmap(jacobian)(_NARROW[None])[0], expected)


def test_64_bits_inside_hessians_and_values():
    f = _wide(lambda x: jnp.sum(jnp.sin(x * jnp.arange(3.0)) ** 2))
    with jax.enable_x64(False):
        for form in FORMATS:
            ours = dense(jax_cce.hessian(f, format=form)(_NARROW))
            assert_agree(ours, jax.jit(jax.hessian(f))(_NARROW))
        value, jacobian = jax_cce.value_and_jacobian(f)(_NARROW)
        assert_agree(value, f(_NARROW))
        assert_agree(jacobian, jax.jit(jax.jacrev(f))(_NARROW))
        assert_agree(jax_cce.jacobian(f)(0.5), jax.jit(jax.jacrev(f))(0.5))


def test_what_is_wide_keeps_its_digits():
    """The difference of neighbours is lost in 32 bits."""

    def f(x):
        big = 2.0**26
        return (big * x + x**2) - big * x

    with jax.enable_x64(False):
        for form in FORMATS:
            ours = dense(jax_cce.jacobian(_wide(f), format=form)(_NARROW))
            np.testing.assert_allclose(np.diag(ours), 2 * _NARROW, rtol=1e-6)


def test_an_array_of_64_bits_where_they_are_off():
    x = jnp.array([0.3, 0.7])
    with jax.enable_x64(False):
        for form in ("dense", "structured"):
            block = dense(jax_cce.jacobian(lambda x: jnp.sin(x) * x[::-1], format=form)(x))
            assert block.dtype == np.float64
    np.testing.assert_allclose(
        block, jax.jit(jax.jacrev(lambda x: jnp.sin(x) * x[::-1]))(x), rtol=1e-12
    )


@settings(max_examples=5)
@given(st.sampled_from(sorted(_BODIES)), st.sampled_from(FORMATS))
def test_32_bits_inside_the_function(name, form):
    def f(x):
        with jax.enable_x64(False):
            return _BODIES[name](lax.convert_element_type(x, jnp.float32))

    x = _NARROW.astype(np.float64)
    assert_agree(
        dense(jax_cce.jacobian(f, format=form)(x)), jax.jit(jax.jacrev(f))(x), tolerance=2e-5
    )
