"""Custom rules that read values of the function around them, at any place where one may stand.

What the values do not owe to the variable is a constant; where they do, the rule does not define
the derivative, and what JAX says of it holds.
"""

import functools
import logging

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.experimental import checkify

import jax_cce
from cases.agreement import assert_agree, assert_same_outcome

X = jnp.array([0.3, 0.2, 1.0])


def _weights():
    return jnp.sqrt(jnp.arange(3.0) + 1)


# --- closures over what does not depend on the variable ------------------------------------------


def _vjp(x):
    k = _weights()

    @jax.custom_vjp
    def g(x):
        return x * k

    g.defvjp(lambda x: (x * k, k), lambda k, ct: (2 * ct * k,))
    return g(x)


def _backward_alone(x):
    k = _weights()

    @jax.custom_vjp
    def g(x):
        return jnp.sin(x)

    g.defvjp(lambda x: (jnp.sin(x), x), lambda x, ct: (ct * jnp.cos(x) * k,))
    return g(x) * x


def _times(k):
    @jax.custom_jvp
    def g(x):
        return x * k

    g.defjvp(lambda p, t: (p[0] * k, t[0] * k * p[0]))
    return g


def _jvp(x):
    return _times(_weights())(jnp.sin(x)) * x


def _gradient(x):
    k = _weights()

    @jax.custom_gradient
    def g(x):
        return x * k, lambda ct: 2 * ct * k

    return g(x) ** 2


def _function_as_argument(x):
    k = _weights()

    @functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
    def apply(f, x):
        return f(x)

    apply.defjvp(lambda f, p, t: (f(p[0]), 3 * t[0] * k))
    return apply(lambda x: x * k, x)


def _converted(x):
    k = _weights()
    h, consts = jax.closure_convert(lambda y: jnp.sin(y) * k, x)

    @jax.custom_vjp
    def g(x, *consts):
        return h(x, *consts)

    def backward(residuals, ct):
        x, consts = residuals
        return (3 * ct * k * jnp.cos(x), *map(jnp.zeros_like, consts))

    g.defvjp(lambda x, *consts: (h(x, *consts), (x, consts)), backward)
    return g(x, *consts)


def _nested(x):
    inner = _times(_weights())

    @jax.custom_vjp
    def g(x):
        return inner(x) * x

    g.defvjp(lambda x: jax.vjp(lambda x: inner(x) * x, x), lambda pullback, ct: pullback(ct))
    return g(x)


def _clipped(x):
    k = _weights()

    @jax.custom_vjp
    def g(x):
        return x * k

    g.defvjp(lambda x: (x * k, None), lambda _, ct: (jnp.clip(ct * k, -0.5, 0.5),))
    return jnp.sin(g(x) * x)


def _mapped(x):
    return jax.vmap(_times(_weights().sum()))(x)


def _rematerialised(x):
    g = _times(_weights())
    return jax.checkpoint(lambda x: g(jnp.sin(x)) * x)(x)


def _in_a_scan(x):
    g = _times(_weights())
    return lax.scan(lambda c, a: (g(c) * a, c.sum()), x, jnp.arange(1.0, 4.0))[0]


def _in_a_branch(x):
    return lax.cond(x[0] > 0, _times(_weights()), jnp.sin, x)


def _before_a_while_loop(x):
    y = _times(_weights())(x)
    return lax.while_loop(lambda c: c[0] < 3, lambda c: (c[0] + 1, c[1] * jnp.sin(y)), (0, y))[1]


CONSTANT = [
    _vjp,
    _backward_alone,
    _jvp,
    _gradient,
    _function_as_argument,
    _converted,
    _nested,
    _clipped,
    _mapped,
    _rematerialised,
    _in_a_scan,
    _in_a_branch,
    _before_a_while_loop,
]


def _ahead_of_time(transformed):
    return lambda x: jax.jit(transformed).lower(x).compile()(x)


@pytest.mark.parametrize("f", CONSTANT)
def test_a_constant_of_the_function(f):
    mode = jax.jacfwd if f is _before_a_while_loop else jax.jacrev
    expected = mode(f)(X)
    assert_agree(jax_cce.jacobian(f)(X), expected)
    if f is _in_a_branch:  # which JAX itself cannot do under jit
        return
    assert_agree(jax.jit(jax_cce.jacobian(f))(X), expected)
    assert_agree(_ahead_of_time(jax_cce.jacobian(f))(X), expected)
    points = jnp.stack([X, 2 * X])
    assert_agree(jax.vmap(jax_cce.jacobian(f))(points), jax.vmap(mode(f))(points))


@pytest.mark.parametrize("format", ["bcoo", "structured"])
@pytest.mark.parametrize("f", [_vjp, _jvp, _clipped, _in_a_scan])
def test_in_a_sparse_format(f, format):
    jac = jax_cce.jacobian(f, format=format)
    for call in (jac, jax.jit(jac)):
        assert_agree(call(X).todense(), jax.jit(jax.jacrev(f))(X))


@pytest.mark.parametrize("order", ["forward", "reverse", "markowitz"])
@pytest.mark.parametrize("f", [_vjp, _jvp])
def test_in_a_named_order(f, order):
    assert_agree(jax_cce.jacobian(f, order=order)(X), jax.jit(jax.jacrev(f))(X))


@pytest.mark.parametrize("f", [_vjp, _jvp, _gradient, _nested, _in_a_branch])
def test_second_derivatives(f):
    scalar = lambda x: jnp.sum(jnp.sin(f(x)))  # noqa: E731
    assert_agree(jax_cce.hessian(scalar)(X), jax.jacrev(jax.jacrev(scalar))(X))
    assert_agree(jax_cce.jacobian(jax.grad(scalar))(X), jax.jacrev(jax.grad(scalar))(X))
    assert_agree(jax.grad(lambda x: jax_cce.jacobian(f)(x).sum())(X), _gradient_of_sum(f)(X))


def _gradient_of_sum(f):
    return jax.grad(lambda x: jax.jacrev(f)(x).sum())


@pytest.mark.parametrize("f", [_vjp, _jvp])
def test_value_and_auxiliary_data(f):
    def with_aux(p):
        return {"y": f(p["x"])}, (p["n"], p["x"] * 2)

    p = {"x": X, "n": 3}
    (value, aux), jac = jax_cce.value_and_jacobian(with_aux, has_aux=True, allow_int=True)(p)
    assert_agree(value, {"y": f(X)})
    assert_agree(aux[1], X * 2)
    assert_agree(jac["y"]["x"], jax.jit(jax.jacrev(f))(X))
    assert aux[0] == 3
    assert_agree(jax_cce.value_and_jacobian(f)(X), (f(X), jax.jit(jax.jacrev(f))(X)))


def test_two_arguments_of_which_one_is_no_variable():
    def f(x, y):
        k = jnp.exp(y)
        return _times(k)(x)

    y = X + 1
    expected = jax.jit(jax.jacrev(f))(X, y)
    assert_agree(jax_cce.jacobian(f)(X, y), expected)
    assert_agree(jax.jit(jax_cce.jacobian(f))(X, y), expected)
    # Of the other one it is the variable that the rule reads.
    assert_same_outcome(jax_cce.jacobian(f, 1), jax.jacrev(f, 1), X, y)


def test_the_plan_and_the_log_say_so(caplog):
    with caplog.at_level(logging.INFO, logger="jax_cce"):
        plan = jax_cce.plan(_jvp)(jax.ShapeDtypeStruct(X.shape, X.dtype))
    assert "custom_jvp_call" in plan.remark
    assert plan.remark in str(plan)
    assert any(plan.remark in record.getMessage() for record in caplog.records)
    assert jax_cce.plan(_clipped)(X).method == "jacrev"
    assert jax_cce.plan(jnp.sin)(X).remark == ""
    explanation = jax_cce.explain(_jvp)(X)
    assert plan.remark.split(" (")[0] in str(explanation)


# --- closures over the variable ------------------------------------------------------------------


def _over_the_variable(kind, argument):
    """A rule that stands in a function and reads its variable."""

    def f(x):
        if kind == "jvp":
            g = jax.custom_jvp(lambda y: x * y)
            g.defjvp(lambda p, t: (x * p[0], x * t[0]))
        elif kind == "jvp whose rule does not read it":
            g = jax.custom_jvp(lambda y: x * y)
            g.defjvp(lambda p, t: (p[0], t[0]))
        elif kind == "vjp":
            g = jax.custom_vjp(lambda y: x * y)
            g.defvjp(lambda y: (x * y, None), lambda _, ct: (x * ct,))
        elif kind == "vjp whose rule does not read it":
            g = jax.custom_vjp(lambda y: x * y)
            g.defvjp(lambda y: (y, None), lambda _, ct: (ct,))
        elif kind == "backward alone":
            g = jax.custom_vjp(lambda y: 2 * y)
            g.defvjp(lambda y: (y, None), lambda _, ct: (ct * x,))
        else:
            g = jax.custom_jvp(lambda y: 2 * y)
            g.defjvp(lambda p, t: (p[0], x * t[0]))
        return g(2.0 if argument == "constant" else jnp.sin(x))

    return f


PLACES = {
    "alone": lambda transform, f: transform(f),
    "under jit": lambda transform, f: jax.jit(transform(f)),
    "in jit": lambda transform, f: transform(jax.jit(f)),
    "under vmap": lambda transform, f: lambda x: jax.vmap(transform(f))(jnp.stack([x, x + 1])),
    "in vmap": lambda transform, f: lambda x: transform(jax.vmap(f))(jnp.stack([x, x + 1])),
    "in a scan": lambda transform, f: transform(
        lambda x: lax.scan(lambda c, a: (c + f(a * x), c), 0.0, jnp.arange(3.0))[0]
    ),
    "in a branch": lambda transform, f: transform(lambda x: lax.cond(x > 0, f, jnp.sin, x)),
    "in checkpoint": lambda transform, f: transform(jax.checkpoint(f)),
}
RULES = [
    "jvp",
    "jvp whose rule does not read it",
    "vjp",
    "vjp whose rule does not read it",
    "backward alone",
    "jvp alone",
]


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("argument", ["constant", "active"])
@pytest.mark.parametrize("kind", RULES)
def test_the_variable_itself(kind, argument, place):
    f, at = _over_the_variable(kind, argument), PLACES[place]
    assert_same_outcome(at(jax_cce.jacobian, f), at(jax.jacrev, f), jnp.float64(3.0))


@pytest.mark.parametrize("format", ["bcoo", "structured"])
def test_the_variable_itself_in_a_sparse_format(format):
    f = _over_the_variable("jvp", "constant")
    with pytest.raises(jax.errors.UnexpectedTracerError):
        jax_cce.jacobian(f, format=format)(3.0)
    with pytest.raises(jax.errors.UnexpectedTracerError):
        jax_cce.plan(f, format=format)(3.0)
    with pytest.raises(jax.errors.UnexpectedTracerError):
        jax_cce.hessian(f, format=format)(3.0)
    with pytest.raises(jax.errors.UnexpectedTracerError):
        jax.jit(jax_cce.hessian(f))(3.0)


# --- rules that another transformation has rewritten ---------------------------------------------


def _sine(kind):
    if kind == "jvp":
        s = jax.custom_jvp(jnp.sin)
        s.defjvp(lambda p, t: (s(p[0]), 2 * jnp.cos(p[0]) * t[0]))
    else:
        s = jax.custom_vjp(jnp.sin)
        s.defvjp(lambda x: (s(x), x), lambda x, ct: (2 * jnp.cos(x) * ct,))
    return s


@pytest.mark.parametrize("errors", [checkify.float_checks, checkify.all_checks])
@pytest.mark.parametrize("kind", ["jvp", "vjp"])
def test_checked_functions(kind, errors):
    s = _sine(kind)
    checked = checkify.checkify(lambda x: s(x) * x, errors=errors)

    def f(x):
        return checked(x)[1]

    expected = jax.jit(jax.jacrev(f))(X)
    assert_agree(jax_cce.jacobian(f)(X), expected)
    assert_agree(jax.jit(jax_cce.jacobian(f))(X), expected)
    assert_agree(jax_cce.jacobian(f, format="bcoo")(X).todense(), expected)
    assert_agree(jax.vmap(jax_cce.jacobian(f))(X[None]), expected[None])


def test_a_check_around_the_jacobian():
    f = _sine("jvp")
    error, jac = checkify.checkify(jax_cce.jacobian(f))(X)
    assert error.get() is None
    assert_agree(jac, jax.jit(jax.jacrev(f))(X))


# --- what is left behind -------------------------------------------------------------------------


def test_no_tracer_is_kept():
    x = jnp.float64(2.0)

    def f(x):
        scale = jnp.sqrt(jnp.float64(3.0))
        g = jax.custom_jvp(lambda y: y * scale)
        g.defjvp(lambda p, t: (p[0] * scale, 3 * t[0] * scale))
        return g(x)

    expected = jax.jit(jax.jacrev(f))(x)
    with jax.checking_leaks():
        assert_agree(jax_cce.jacobian(f)(x), expected)


def test_a_loop_variable_is_read_when_jax_reads_it():
    def f(x):
        for scale in range(1, 4):
            g = jax.custom_jvp(jnp.sin)
            g.defjvp(lambda p, t: (jnp.sin(p[0]), scale * t[0]))  # noqa: B023
            x = g(x)
        return x

    expected = jax.jit(jax.jacrev(f))(X)
    assert_agree(jax_cce.jacobian(f)(X), expected)
    assert_agree(jax.jit(jax_cce.jacobian(f))(X), expected)
    np.testing.assert_array_equal(np.diag(expected), 6.0)
