"""Bad input: JAX's own exception types, with the argument or primitive and the line of the user."""

import inspect
import re
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import jax_cce

X = jnp.array([0.5, 1.5, 2.5])
S = jnp.array([[2.0, 0.3, -0.5], [0.1, 3.0, 0.7], [0.4, -0.2, 1.5]])


def _raised(call: Callable[[], Any]) -> Exception:
    try:
        call()
    except Exception as error:
        return error
    pytest.fail("nothing raised")


def _chain(x):
    """Three vertices in a row before the output: exp, sin and tanh."""
    return jnp.cos(jnp.tanh(jnp.sin(jnp.exp(x))))


TRANSFORMS = {"jacobian": jax.jacrev, "value_and_jacobian": jax.jacrev, "hessian": jax.hessian}


def _scaled(scale, counts, options):
    return scale * counts * options["offset"]


@pytest.mark.parametrize("transform", TRANSFORMS)
@pytest.mark.parametrize(
    "argnums, args, argument, dtype",
    [
        (0, (3, X, {"offset": X}), "argument 0", "int64"),
        (0, (True, X, {"offset": X}), "argument 0", "bool"),
        (1, (2.0, np.arange(3), {"offset": X}), "argument 1", "int64"),
        ((0, 1), (2.0, jnp.arange(3) > 1, {"offset": X}), "argument 1", "bool"),
        (
            (2, 0),
            (2.0, X, {"offset": jnp.arange(3, dtype=jnp.int32)}),
            "argument 2['offset']",
            "int32",
        ),
        (0, (jax.random.key(0), X, {"offset": X}), "argument 0", "key<fry>"),
    ],
    ids=["int", "bool", "int array", "bool array", "int leaf", "key"],
)
def test_input_without_derivative(transform, argnums, args, argument, dtype):
    theirs = _raised(lambda: TRANSFORMS[transform](_scaled, argnums=argnums)(*args))
    ours = _raised(lambda: getattr(jax_cce, transform)(_scaled, argnums=argnums)(*args))
    assert type(ours) is type(theirs) is TypeError
    assert dtype in str(ours)
    assert argument in str(ours)


@pytest.mark.parametrize(
    "fun, args, options, words",
    [
        (lambda x: x.astype(int), (X,), {}, ["int64", "output"]),
        (lambda x: x > 0, (X,), {}, ["bool", "output"]),
        (lambda x, z: x * z, (X, X + 1j), {"argnums": (0, 1)}, ["complex128", "holomorphic=True"]),
        (lambda z: z * 2, (X + 1j,), {}, ["complex128", "holomorphic=True"]),
        (lambda z: z * 2, (X,), {"holomorphic": True}, ["float64", "holomorphic=True", "input"]),
        (lambda z: z.real, (X + 1j,), {"holomorphic": True}, ["float64", "output"]),
        (lambda x: x * 2, (X,), {"has_aux": True}, ["aux"]),
        (lambda x: (x, x, x), (X,), {"has_aux": True}, ["aux"]),
        (lambda x: "no array", (X,), {}, ["str"]),
        (lambda x: x, ("no array",), {}, ["no array"]),
        (lambda x: x, ({"a": X, "b": "no array"},), {}, ["no array"]),
        (lambda x: x, (X,), {"argnums": 1}, ["1"]),
        (lambda x: x, (X,), {"argnums": -2}, ["-2"]),
        (lambda x, y: x, (X, X), {"argnums": (0, 2)}, ["2"]),
        (lambda x: x, (X,), {"argnums": "0"}, []),
        (lambda x: x, (X,), {"argnums": ("x",)}, []),
        (lambda x: x, (X,), {"argnums": 0.0}, []),
        (lambda x: x, (X,), {"argnums": None}, []),
        (3.0, (X,), {}, ["callable"]),
    ],
)
def test_the_checks_that_jax_has(fun, args, options, words):
    theirs = _raised(lambda: jax.jacrev(fun, **options)(*args))
    ours = _raised(lambda: jax_cce.jacobian(fun, **options)(*args))
    assert type(ours) is type(theirs)
    for word in words:
        assert word in str(ours)


@pytest.mark.parametrize("transform", TRANSFORMS)
@pytest.mark.parametrize("argnums", [(0, 0), (1, 0, 1), (0, -2), [-1, 1]], ids=str)
def test_repeated_argnums(transform, argnums):
    # JAX passes None to the function, which fails there with whatever None meets.
    with pytest.raises(ValueError, match="argnums") as raised:
        getattr(jax_cce, transform)(lambda x, y: x * y, argnums=argnums)(X, X)
    assert str(argnums[0]) in str(raised.value)


def _vertices() -> tuple[int, ...]:
    vertices = jax_cce.plan(_chain)(X).vertices
    assert len(vertices) == 3
    return vertices


def _order_error(order: Any) -> Exception:
    return _raised(lambda: jax_cce.jacobian(_chain, order=order)(X))


def _names(message: str, vertices: Sequence[int]) -> bool:
    return all(re.search(rf"(?<!\d){vertex}(?!\d)", message) for vertex in vertices)


@pytest.mark.parametrize("left_out", [[0], [1], [0, 2], [0, 1, 2]], ids=str)
def test_order_with_missing_vertices(left_out):
    vertices = _vertices()
    missing = [vertices[i] for i in left_out]
    error = _order_error([v for v in vertices if v not in missing])
    assert type(error) is ValueError
    assert "missing" in str(error)
    assert _names(str(error), missing)


@pytest.mark.parametrize("foreign", [[17], [17, 23], [-1]], ids=str)
def test_order_with_foreign_vertices(foreign):
    error = _order_error([*_vertices(), *foreign])
    assert type(error) is ValueError
    assert _names(str(error), [abs(v) for v in foreign])
    assert re.search(r"missing:? none", str(error))


def test_order_with_missing_and_foreign_vertices():
    first, *rest = _vertices()
    error = _order_error([41, *rest])
    assert type(error) is ValueError
    assert _names(str(error), [first, 41])


def test_order_with_a_repeated_vertex():
    first, second, third = _vertices()
    error = _order_error([first, second, third, second])
    assert type(error) is ValueError
    assert _names(str(error), [second])


@pytest.mark.parametrize(
    "order", [7, 1.5, [0.5, 1.0, 2.0], [[0], [1], [2]], None, ["sin"]], ids=str
)
def test_order_of_another_type(order):
    error = _order_error(order)
    assert isinstance(error, TypeError | ValueError)
    assert "order" in str(error)


@pytest.mark.parametrize("order", ["backward", "", "Reverse"])
def test_unknown_name_of_an_order(order):
    error = _order_error(order)
    assert type(error) is ValueError
    for word in [repr(order), "auto", "forward", "reverse", "markowitz"]:
        assert word in str(error)


def test_an_order_of_another_function():
    order = jax_cce.plan(_chain)(X).order
    with pytest.raises(ValueError, match="permutation"):
        jax_cce.jacobian(lambda x: jnp.sin(jnp.exp(x)), order=order)(X)


# Each function applies one primitive without a derivative, on the line of its `return`.
def calls_back(x):
    y = x * x
    shape = jax.ShapeDtypeStruct(y.shape, y.dtype)
    return jnp.sin(y) + jax.pure_callback(np.sin, shape, y, vmap_method="expand_dims")


def calls_back_with_effects(x):
    y = x * x
    return jax.experimental.io_callback(np.sin, jax.ShapeDtypeStruct(y.shape, y.dtype), y)


def decomposes(x):
    y = x * S
    return lax.linalg.hessenberg(y)[0]


def tridiagonalises(x):
    y = x * (S + S.T)
    return lax.linalg.tridiagonal(y)[1]


def scatters(x):
    y = x * x
    return y.at[0].apply(jnp.sin)


WITHOUT_DERIVATIVE = {
    calls_back: "pure_callback",
    calls_back_with_effects: "io_callback",
    decomposes: "hessenberg",
    tridiagonalises: "tridiagonal",
    scatters: "scatter",
}


@pytest.mark.parametrize("order", ["auto", "forward", "reverse"])
@pytest.mark.parametrize("f", WITHOUT_DERIVATIVE, ids=lambda f: f.__name__)
def test_primitive_without_derivative(f, order):
    theirs = _raised(lambda: jax.jacrev(f)(X))
    ours = _raised(lambda: jax_cce.jacobian(f, order=order)(X))
    assert type(ours) is type(theirs)
    assert WITHOUT_DERIVATIVE[f] in str(ours)
    lines, start = inspect.getsourcelines(f)
    line = start + len(lines) - 1
    assert re.search(rf"test_errors\.py\D{{1,12}}{line}\b", str(ours)), ours


@pytest.mark.parametrize("wrap", [jax.jit, jax.checkpoint, jax.vmap], ids=lambda w: w.__name__)
def test_primitive_without_derivative_in_a_call(wrap):
    def f(x):
        return wrap(calls_back)(x[None])

    error = _raised(lambda: jax_cce.jacobian(f)(X))
    assert type(error) is ValueError
    assert "test_errors.py" in str(error)


_SCALAR = jax.ShapeDtypeStruct((), jnp.float64)


@pytest.mark.parametrize(
    "f",
    [
        lambda x: x * jax.pure_callback(np.sin, _SCALAR, 2.0),
        lambda x: x * jax.pure_callback(np.sin, _SCALAR, lax.stop_gradient(x[0])),
        lambda x: x * jax.pure_callback(lambda i: np.float64(i), _SCALAR, jnp.argmax(x)),
        lambda x: x * jax.jit(lambda y: jax.pure_callback(np.sin, _SCALAR, y))(2.0),
    ],
    ids=["of a constant", "behind stop_gradient", "of an integer", "in a call"],
)
def test_primitive_that_needs_no_derivative(f):
    np.testing.assert_allclose(jax_cce.jacobian(f)(X), jax.jacrev(f)(X), rtol=1e-9)


def test_exceptions_of_the_function_pass_through():
    class OwnError(Exception):
        pass

    own = OwnError("raised by the function")

    def f(x):
        raise own

    assert _raised(lambda: jax_cce.jacobian(f)(X)) is own


@pytest.mark.parametrize(
    "f",
    [
        lambda x: x if x[0] > 0 else -x,
        lambda x: x * int(x[0]),
        lambda x: x * np.asarray(x),
        lambda x: x[x > 1],
    ],
    ids=["bool", "int", "numpy", "mask"],
)
def test_values_under_jit(f):
    theirs = _raised(lambda: jax.jit(jax.jacrev(f))(X))
    ours = _raised(lambda: jax.jit(jax_cce.jacobian(f))(X))
    assert type(ours) is type(theirs)


def test_a_value_that_leaves_the_trace():
    kept = []

    def f(x):
        kept.append(x * 2)
        return x

    jax_cce.jacobian(f)(X)
    with pytest.raises(jax.errors.UnexpectedTracerError):
        kept[0] + 1.0


@pytest.mark.parametrize("name", ["", "Flops", "memory of the plan"])
def test_unknown_cost(name):
    error = _raised(lambda: jax_cce.plan(_chain)(X).cost(name))
    assert type(error) is ValueError
    for word in [repr(name), "multiplications", "flops"]:
        assert word in str(error)


def test_plan_has_the_same_checks():
    assert type(_raised(lambda: jax_cce.plan(_chain)(3))) is TypeError
    assert type(_raised(lambda: jax_cce.plan(_chain, argnums=2)(X))) is ValueError
    assert type(_raised(lambda: jax_cce.plan(_chain, order="backward")(X))) is ValueError
    assert type(_raised(lambda: jax_cce.plan(calls_back)(X))) is ValueError
    abstract = jax.ShapeDtypeStruct((3,), jnp.int32)
    assert type(_raised(lambda: jax_cce.plan(_chain)(abstract))) is TypeError
