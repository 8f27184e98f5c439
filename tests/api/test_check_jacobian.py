"""`check_jacobian`: silent where the Jacobian is right; where it is not, it finds the equation."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.extend.core import Primitive
from jax.interpreters import ad, mlir

import jax_cce
from jax_cce import extend
from jax_cce.algebra.recorder import Recorder

X = jnp.array([1.0, -0.5, 2.0])


@jax.custom_vjp
def _clipped(x):
    return jnp.sin(x)


_clipped.defvjp(lambda x: (jnp.sin(x), jnp.cos(x)), lambda r, g: (jnp.clip(g, -0.5, 0.5) * r,))


@jax.custom_vjp
def _scaled(x):
    return jnp.sin(x)


_scaled.defvjp(lambda x: (jnp.sin(x), jnp.cos(x)), lambda r, g: (3 * g * r,))


def _loop(x):
    return lax.while_loop(lambda c: c[0] < 3, lambda c: (c[0] + 1, jnp.sin(c[1])), (0, x))[1]


RIGHT = {
    "stencil": (lambda x: jnp.sin(x) * x[::-1], X),
    "scalar": (lambda x: x**2, jnp.array(3.0)),
    "matrix": (lambda a: a @ a.T, jnp.arange(6.0).reshape(2, 3)),
    "no reverse mode": (_loop, X),
    "no forward mode": (_scaled, X),
    "rows only": (lambda x: _clipped(x) * x, X),
    "path by value": (lambda x: x[0] * x[2] if x[1] < 0 else x[1], X),
    "complex inside": (lambda x: jnp.abs(jnp.fft.fft(x)) ** 2, X),
    "complex input": (lambda z: jnp.abs(z) ** 2, X + 1j),
    "scan": (lambda x: lax.scan(lambda c, a: (c * a, c + a), 1.0, x)[1], X),
    "single precision": (lambda x: jnp.exp(x) / x, X.astype(jnp.float32)),
    "half precision": (lambda x: jnp.exp(x) * x, X.astype(jnp.bfloat16)),
    "not differentiable here": (lambda x: jnp.sqrt(jnp.sum(x**2)), jnp.zeros(3)),
    "empty": (lambda x: x[:0], X),
    "no dependence": (lambda x: jnp.ones(2), X),
}


@pytest.mark.parametrize("name", RIGHT)
def test_silent_where_right(name):
    fun, x = RIGHT[name]
    jax_cce.check_jacobian(fun, x)


def test_options_of_jacobian():
    tree = {"a": X, "b": (X[0], jnp.arange(3))}
    jax_cce.check_jacobian(
        lambda scale, p: ({"out": scale * p["a"] * p["b"][0]}, "aux"),
        2.0,
        tree,
        argnums=(1, 0),
        has_aux=True,
        allow_int=True,
    )
    jax_cce.check_jacobian(lambda z: z**2 + z[0], X + 1j, holomorphic=True)


def test_large_functions_in_sparse_formats():
    x = jnp.linspace(0.0, 1.0, 200_000)
    step = lambda x: jnp.sin(x) + jnp.roll(x, 1) * x  # noqa: E731
    jax_cce.check_jacobian(step, x, formats=("bcoo", "structured"), orders=("auto",), directions=1)


@pytest.fixture
def wrong_primitive():
    """x^3 whose rule forgot a factor."""
    cube = Primitive("cube")
    cube.def_impl(lambda x: x**3)
    cube.def_abstract_eval(lambda x: x)
    mlir.register_lowering(cube, mlir.lower_fun(lambda x: x**3, multiple_results=False))
    ad.defjvp(cube, lambda t, x: 3 * x**2 * t)
    extend.define_elementwise(cube, lambda x: 2 * x**2)
    return cube


@pytest.mark.parametrize("dtype", [jnp.float64, jnp.float32])
def test_a_primitive_that_jax_cannot_differentiate(dtype):
    cube = Primitive("cube_of_ours")
    cube.def_impl(lambda x: x**3)
    cube.def_abstract_eval(lambda x: x)
    mlir.register_lowering(cube, mlir.lower_fun(lambda x: x**3, multiple_results=False))
    x = X.astype(dtype)
    fun = lambda x: cube.bind(jnp.sin(x)) * x[::-1]  # noqa: E731
    extend.define_elementwise(cube, lambda x: 3 * x**2)
    jax_cce.check_jacobian(fun, x)
    extend.define_elementwise(cube, lambda x: 2 * x**2)
    with pytest.raises(AssertionError, match="'cube_of_ours' at") as info:
        jax_cce.check_jacobian(fun, x)
    assert "a central difference" in str(info.value)


@pytest.mark.parametrize("format", ["dense", "bcoo", "structured"])
@pytest.mark.parametrize("order", ["auto", "forward", "reverse", "markowitz"])
def test_a_wrong_rule_is_found(wrong_primitive, format, order):
    def fun(x):
        y = jnp.cumsum(jnp.sin(x))
        return wrong_primitive.bind(y) * x

    with pytest.raises(AssertionError) as info:
        jax_cce.check_jacobian(fun, X, formats=[format], orders=[order])
    text = str(info.value)
    assert f"format='{format}'" in text
    assert f"order='{order}'" in text
    assert "of fun" in text
    assert "'cube' at" in text
    assert "test_check_jacobian.py" in text


def test_a_wrong_rule_is_found_under_complex_equations(wrong_primitive):
    def fun(x):
        z = jnp.fft.rfft(x)
        return wrong_primitive.bind(jnp.real(z) + jnp.imag(z))

    with pytest.raises(AssertionError, match="'cube' at"):
        jax_cce.check_jacobian(fun, X)


def test_a_fault_of_the_elimination_is_told_from_one_of_a_rule(monkeypatch):
    compose = Recorder.compose

    def negated(self, *args):
        return tuple(piece._replace(scale=-piece.scale) for piece in compose(self, *args))

    monkeypatch.setattr(Recorder, "compose", negated)
    with pytest.raises(AssertionError, match="elimination, not of a rule") as info:
        jax_cce.check_jacobian(lambda x: jnp.exp(jnp.sin(x)), X[:2] + 0.125)
    assert "'exp' at" in str(info.value)


def test_paths_by_value_say_that_equations_were_not_checked(monkeypatch):
    compose = Recorder.compose

    def negated(self, *args):
        return tuple(piece._replace(scale=-piece.scale) for piece in compose(self, *args))

    monkeypatch.setattr(Recorder, "compose", negated)
    with pytest.raises(AssertionError, match="control flow depends on values"):
        jax_cce.check_jacobian(lambda x: jnp.exp(jnp.sin(x + 0.25)) if x[0] > 0 else x, X)


def test_nonfinite_entries_of_ours_are_faults(monkeypatch, wrong_primitive):
    extend.define_elementwise(wrong_primitive, lambda x: x * np.nan)
    with pytest.raises(AssertionError, match="nan"):
        jax_cce.check_jacobian(wrong_primitive.bind, X)


def test_tolerance_and_seed():
    check = functools.partial(jax_cce.check_jacobian, lambda x: jnp.exp(x), X.astype(jnp.float32))
    check(rtol=1e-4, seed=3)
    with pytest.raises(AssertionError):
        jax_cce.check_jacobian(lambda x: x[0] * x.sum() / 3.0, X.astype(jnp.float32), rtol=-1.0)


def test_refuses_what_it_cannot_check():
    with pytest.raises(TypeError, match="compares values"):
        jax.jit(lambda x: jax_cce.check_jacobian(jnp.sin, x))(X)
    with pytest.raises(ValueError, match="format"):
        jax_cce.check_jacobian(jnp.sin, X, formats=("sparse",))
    with pytest.raises(ValueError, match="order"):
        jax_cce.check_jacobian(jnp.sin, X, orders=("best",))
    with pytest.raises(TypeError, match="argnums"):
        jax_cce.check_jacobian(jnp.sin, X, argnums="x")
