"""jax_cce.jacobian keeps jax.jacrev's contract at its edges: trees, types, values, exceptions."""

import inspect
import itertools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import jax_cce
from cases.agreement import assert_agree, assert_outcome, assert_same_outcome
from cases.calls import (
    ARGUMENTS,
    AUX,
    AUXILIARY,
    CONCRETE,
    DTYPES,
    SHAPES_AND_TREES,
    A,
    Case,
    X,
    Z,
    branch,
    outcome_of_jacrev,
)


def _by_name(cases: list[Case]) -> Any:
    return pytest.mark.parametrize("case", cases, ids=[case.name for case in cases])


def _check(case: Case) -> None:
    jacobian = jax_cce.jacobian(case.fun, **case.options)
    assert_outcome(jacobian, outcome_of_jacrev(case), *case.args, **case.kwargs)


@_by_name(DTYPES)
def test_dtypes(case):
    _check(case)


@_by_name(SHAPES_AND_TREES)
def test_shapes_and_trees(case):
    _check(case)


@_by_name(
    [
        Case("no output", lambda x: (), (X,)),
        Case("no input", lambda t: (), ((),)),
        Case("no argument chosen", lambda x: (), (X,), {"argnums": ()}),
        Case("no input, one output", lambda t: X, ((),)),
        Case("no argument chosen, one output", lambda x: X, (X,), {"argnums": ()}),
    ]
)
def test_empty_trees(case):
    # jax.jacrev stops inside at each of these; the contract has only one answer, the empty tree.
    assert jax_cce.jacobian(case.fun, **case.options)(*case.args) == ()


def test_aux_with_python_scalars_is_equal():
    # JAX hands a Python number that it has seen back as its own subclass of float.
    _, aux = jax_cce.jacobian(lambda x: (x * 2, [x, 1, 2.5, "s"]), has_aux=True)(3.0)
    assert aux == [3.0, 1, 2.5, "s"]


@_by_name(ARGUMENTS)
def test_arguments(case):
    _check(case)


@_by_name(AUXILIARY)
def test_auxiliary_output(case):
    _check(case)


@_by_name(CONCRETE)
def test_values_steer_python_outside_jit(case):
    _check(case)


_FLOATS = ["float16", "bfloat16", "float32", "float64"]


@pytest.mark.parametrize("order", ["forward", "reverse"])
@pytest.mark.parametrize("inner, outer", list(itertools.product(_FLOATS, _FLOATS)))
def test_mixed_precision_gives_the_inputs_dtype(inner, outer, order):
    def f(x):
        y = jnp.sin(x).astype(outer)
        return {"y": y * y, "x": y.astype(inner) * x}

    x = X.astype(inner)
    assert_agree(jax_cce.jacobian(f, order=order)(x), jax.jacrev(f)(x))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "complex64"])
def test_low_precision_stays_low(dtype):
    def f(x, a):
        return jnp.exp(jnp.tanh(a @ x)) / (1 + x[0] * x[0])

    options = {"argnums": (0, 1), "holomorphic": dtype == "complex64"}
    args = (X.astype(dtype), A.T.astype(dtype))
    assert_agree(jax_cce.jacobian(f, **options)(*args), jax.jacrev(f, **options)(*args))


@_by_name(
    [
        Case("python float", lambda x: jnp.sin(x) * x, (2.0,)),
        Case("numpy float64", lambda x: jnp.sin(x) * x, (np.arange(3.0),)),
        Case("python complex", lambda z: z**2, (1.0 + 2.0j,), {"holomorphic": True}),
        Case("tree", lambda t: t["a"] @ t["b"], ({"a": np.eye(3), "b": np.arange(3.0)},)),
        Case("int", jnp.sin, (1,)),
        Case("wider constant", lambda x: x * np.float64(2.0), (np.arange(3.0),)),
    ]
)
def test_without_x64(case):
    # The same call with x64 on comes first: a program cached for it must not be used again.
    for enabled in (True, False):
        with jax.enable_x64(enabled):
            assert_same_outcome(
                jax_cce.jacobian(case.fun, **case.options),
                jax.jacrev(case.fun, **case.options),
                *case.args,
            )


@pytest.mark.parametrize("options", [{}, {"argnums": 1}, {"argnums": (1, 0)}], ids=str)
def test_value_and_jacobian(options):
    def f(x, a):
        return {"y": jnp.sin(a @ x), "n": None, "s": x[0] * 2}

    args = (A[0], A)
    value, jacobian = jax_cce.value_and_jacobian(f, **options)(*args)
    assert_agree(value, f(*args))
    assert_agree(jacobian, jax.jacrev(f, **options)(*args))


def test_value_and_jacobian_of_weak_scalars():
    f = branch
    assert_agree(jax_cce.value_and_jacobian(f)(2.0), (jnp.sin(2.0), jax.jacrev(f)(2.0)))


def test_value_and_jacobian_with_aux():
    def f(x):
        return jnp.sin(x), {"name": "a string", "x": x}

    (value, aux), jacobian = jax_cce.value_and_jacobian(f, has_aux=True)(X)
    assert_agree((value, aux), f(X))
    assert_agree(jacobian, jax.jacrev(jnp.sin)(X))


@_by_name(
    [
        Case("scalar", lambda x: jnp.sum(jnp.sin(x) ** 2) * x[0], (X,)),
        Case("vector", lambda x: x**2 * x[::-1], (X,)),
        Case("argnums", lambda x, y: jnp.dot(x, y) ** 2, (X, 2 * X), {"argnums": (1, 0)}),
        Case("tree", lambda t: t["a"] * jnp.sum(t["b"] ** 3), ({"a": jnp.float64(2.0), "b": X},)),
        Case("aux", lambda x: (jnp.sum(x**3), {"twice": x * 2, "x": x}), (X,), AUX),
        Case("holomorphic", lambda z: jnp.sum(z**3), (Z,), {"holomorphic": True}),
        Case("weak", lambda x: x**3, (2.0,)),
        Case("float32", lambda x: jnp.sum(x**3), (X.astype(jnp.float32),)),
        Case("int", lambda x: x * 2.0, (3,)),
        Case("if", branch, (2.0,)),
    ]
)
def test_hessian(case):
    assert_same_outcome(
        jax_cce.hessian(case.fun, **case.options),
        jax.hessian(case.fun, **case.options),
        *case.args,
    )


@pytest.mark.parametrize("transform", ["jacobian", "value_and_jacobian", "hessian"])
def test_result_is_named_after_the_function(transform):
    def force(x):
        """Docstring of the function itself."""
        return x

    wrapped = getattr(jax_cce, transform)(force)
    assert wrapped.__name__ == "force"
    assert inspect.signature(wrapped) == inspect.signature(force)


@pytest.mark.parametrize("transform", ["jacobian", "value_and_jacobian", "hessian"])
def test_only_callables(transform):
    with pytest.raises(TypeError):
        getattr(jax_cce, transform)(3.0)


def test_side_effects_happen_as_often_as_under_jacrev():
    def count(jacobian: Callable[..., Any]) -> list[Any]:
        seen: list[Any] = []

        def f(x):
            jax.debug.callback(lambda v: seen.append(np.asarray(v).tolist()), x)
            return x**2

        jacobian(f)(X)
        jax.effects_barrier()
        return seen

    assert count(jax_cce.jacobian) == count(jax.jacrev) == [X.tolist()]


def test_loops_without_static_length():
    def f(x):
        return lax.while_loop(lambda y: jnp.max(y) < 10, lambda y: y * x + 1, x)

    with pytest.raises(ValueError):
        jax.jacrev(f)(X)
    assert_agree(jax_cce.jacobian(f)(X), jax.jacfwd(f)(X))
