"""Functions as values: closures, functions passed and returned, recursion, and their derivatives.

None of this is left in the program that is differentiated, so the Jacobian of a function that was
put together from others is the program that one writes by hand: equation for equation.
"""

import functools
import math
import operator

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jax import lax

import jax_cce
from benchmarks.tasks import TASKS
from cases.agreement import assert_agree
from jax_cce import jax_internals

X = jnp.array([0.3, -0.7, 1.2])
A = np.arange(12.0).reshape(3, 4) / 7


# --- closures and functions as values -------------------------------------------------------------


def _closed_over(x):
    scale = jnp.sin(x[0])

    def inner(y):
        return y * scale + x  # over values that are differentiated

    return inner(inner(x))


def _returned(x):
    def power(n):
        return lambda y: y**n * x

    return sum(power(n)(jnp.cos(x)) for n in range(4))


def _passed(x):
    def twice(f, y):
        return f(f(y))

    return twice(functools.partial(twice, lambda y: jnp.sin(y) * x[1]), x)


def _composed(x):
    def compose(*functions):
        return functools.reduce(lambda f, g: lambda y: g(f(y)), functions)

    return compose(jnp.sin, lambda y: y * x, operator.neg, jnp.exp)(x)


def _stored(x):
    table = {"square": lambda y: y * y, "shift": lambda y: y + x[::-1]}
    for name in ("square", "shift", "square"):
        x = table[name](x)
    return x


def _rebound(x):
    total = jnp.zeros(())

    def add(y):
        nonlocal total
        total = total * y + y**2

    for y in x:
        add(y)
    return total


class _Layer:
    def __init__(self, weights):
        self.weights = weights

    def __call__(self, x):
        return jnp.tanh(x @ self.weights)


def _object(x):
    return _Layer(jnp.outer(x, x) + A[:, :3])(x)


def _generated(x):
    def powers(y):
        while True:
            yield y
            y = y * x

    return sum(p for p, _ in zip(powers(jnp.sin(x)), range(4), strict=False))


def _through_loops(x):
    body = functools.partial(lambda by, c, _: (c * jnp.sin(by), c.sum()), x)
    last, sums = lax.scan(body, x, None, length=4)
    return lax.cond(x[0] > 0, lambda: last * x, lambda: last) + sums[-1]


def _jitted(x):
    inner = jax.jit(lambda y: jnp.sin(y) * x[0])
    return jax.vmap(lambda y: inner(y) * x)(x).sum(0)


# --- recursion ------------------------------------------------------------------------------------


def _power(x, n):
    if n == 0:
        return jnp.ones_like(x)
    half = _power(x, n // 2)
    return half * half * (x if n % 2 else 1)


def _fibonacci(x, n):
    return jnp.sin(x) + n if n < 2 else _fibonacci(x, n - 1) * _fibonacci(x, n - 2)


def _even(x, n):
    return x if n == 0 else jnp.sin(_odd(x, n - 1))


def _odd(x, n):
    return x if n == 0 else jnp.cos(_even(x, n - 1))


def _tree(node, x):
    """A tree of pairs, whose leaves are positions in x."""
    if isinstance(node, int):
        return x[node]
    left, right = (_tree(each, x) for each in node)
    return jnp.tanh(left * right + left)


def _y_combinator(x):
    fix = lambda f: (lambda g: g(g))(lambda g: f(lambda *args: g(g)(*args)))  # noqa: E731
    product = fix(lambda again: lambda n, y: y if n == 0 else again(n - 1, y * jnp.sin(x)))
    return product(4, x)


def _ackermann_like(x, m, n):
    if m == 0:
        return jnp.sin(x) + n * x
    if n == 0:
        return _ackermann_like(x, m - 1, 1)
    return _ackermann_like(_ackermann_like(x, m, n - 1) / 4, m - 1, 1)


_CASES = {
    "closed over": _closed_over,
    "returned": _returned,
    "passed": _passed,
    "composed": _composed,
    "stored in a table": _stored,
    "rebound": _rebound,
    "object": _object,
    "generator": _generated,
    "through loops": _through_loops,
    "inside jit": _jitted,
    "power": lambda x: _power(x, 13),
    "fibonacci": lambda x: _fibonacci(x, 5),
    "mutual recursion": lambda x: _even(x, 5),
    "recursion over a tree": lambda x: _tree((((0, 1), (2, 0)), ((1, (2, 2)), 0)), x),
    "fixed-point combinator": _y_combinator,
    "nested recursion": lambda x: _ackermann_like(x, 2, 2),
}


@pytest.mark.parametrize("name", _CASES)
def test_jacobians_of_functions_made_of_functions(name):
    f = _CASES[name]
    assert_agree(jax_cce.jacobian(f)(X), jax.jacrev(f)(X))
    assert_agree(jax_cce.jacobian(f, format="bcoo")(X).todense(), jax.jacrev(f)(X))


def test_a_changed_closure_is_seen():
    scale = [2.0]
    jacobian = jax_cce.jacobian(lambda x: x * scale[0])
    for scale[0] in (2.0, 3.0):
        assert_agree(jacobian(X), scale[0] * jnp.eye(3))


def test_jacobians_of_functions_that_close_over_what_is_differentiated_outside():
    def outer(transform, x):
        # The inner Jacobian closes over x; so does the function that it is of.
        inner = transform(lambda y: jnp.sin(y) * x + y**2 * jnp.sum(x))
        return inner(x * 2) @ x

    ours, theirs = (functools.partial(outer, t) for t in (jax_cce.jacobian, jax.jacrev))
    assert_agree(jax_cce.jacobian(ours)(X), jax.jacrev(theirs)(X))
    assert_agree(jax_cce.jacobian(theirs)(X), jax.jacrev(theirs)(X))
    assert_agree(jax.jacrev(ours)(X), jax.jacrev(theirs)(X))


def test_perturbations_are_not_confused():
    # d/dx (x d/dy (x + y)) = 1, and 2 where the two are taken for one.
    def f(transform, x):
        return x * transform(lambda y: x + y)(1.0)

    for outer in (jax_cce.jacobian, jax.jacfwd):
        for inner in (jax_cce.jacobian, jax.jacfwd):
            assert outer(functools.partial(f, inner))(1.0) == 1.0


_trees = st.recursive(
    st.integers(0, 2), lambda children: st.tuples(children, children), max_leaves=8
)


@given(_trees)
def test_random_trees(node):
    f = functools.partial(_tree, node)
    assert_agree(jax_cce.jacobian(f)(X), jax.jacrev(f)(X))


# --- derivatives of higher order ------------------------------------------------------------------


def _derivative(transform, f, order):
    for _ in range(order):
        f = transform(f)
    return f


@pytest.mark.parametrize("order", range(1, 7))
def test_derivatives_of_powers_and_of_exponentials(order):
    x = jnp.asarray(np.float64(1.5))
    power = _derivative(jax_cce.jacobian, lambda x: x**6, order)(x)
    np.testing.assert_allclose(power, math.perm(6, order) * 1.5 ** (6 - order), rtol=1e-12)
    growing = _derivative(jax_cce.jacobian, lambda x: jnp.exp(2 * x), order)(x)
    np.testing.assert_allclose(growing, 2**order * np.exp(3.0), rtol=1e-12)
    recursive = _derivative(jax_cce.jacobian, lambda x: _power(x, 5), order)(x)
    np.testing.assert_allclose(recursive, math.perm(5, order) * 1.5 ** (5 - order), atol=1e-12)


@pytest.mark.parametrize("order", [2, 3, 4])
def test_derivatives_of_vectors(order):
    def f(x):
        return jnp.sin(x[0] * x[1]) * x

    expected = _derivative(jax.jacfwd, f, order)(X[:2])
    assert_agree(_derivative(jax_cce.jacobian, f, order)(X[:2]), expected)
    mixed = jax_cce.jacobian(_derivative(jax.jacfwd, f, order - 1))
    assert_agree(mixed(X[:2]), expected)


# --- as one writes it by hand ---------------------------------------------------------------------


def _jaxpr(function, *args):
    """The operations of a function; what is bound as one equation stands for its body."""
    closed = jax.make_jaxpr(function)(*args)
    for equation in closed.eqns:
        if equation.primitive.name == jax_internals.PLANNED_JACOBIAN:
            return jax_internals.opened(equation.params["body"])[0]
    return jax_internals.opened(closed)[0]


def _operations(jaxpr):
    """The operations of a jaxpr with its variables numbered: what they are, read and write."""
    names = {}
    lines = []
    for each in jaxpr.eqns:
        operands = [
            str(x.val) if isinstance(x, jax_internals.Literal) else names.setdefault(x, len(names))
            for x in each.invars
        ]
        params = {k: str(v) for k, v in each.params.items() if k not in ("sharding", "accuracy")}
        results = [names.setdefault(x, len(names)) for x in each.outvars]
        lines.append((each.primitive.name, operands, params, results))
    return lines, [names.get(x) for x in jaxpr.outvars]


SCALAR = np.float64(1.5)


@pytest.mark.parametrize(
    "function, by_hand, args",
    [
        (lambda x: x**3, lambda x: 3.0 * x**2, (SCALAR,)),
        (lambda x: (lambda f: f(x) * x)(lambda y: y * y), lambda x: x * x + x * (x + x), (SCALAR,)),
        (
            lambda x: jnp.exp(jnp.sin(x) * 2.0),
            lambda x: jnp.exp(jnp.sin(x) * 2.0) * jnp.cos(x) * 2.0,
            (SCALAR,),
        ),
        (lambda x: jnp.asarray(A) @ x, lambda x: jnp.asarray(A), (np.ones(4),)),
        (lambda x: x @ A, lambda x: jnp.asarray(A).T, (np.ones(3),)),
        (lambda x, w: w @ x, lambda x, w: w, (np.ones(3), np.ones((4, 3)))),
    ],
    ids=["cube", "product", "chain", "matrix", "transposed matrix", "matrix that is an argument"],
)
def test_programs_are_those_that_one_writes_by_hand(function, by_hand, args):
    jacobian = jax_cce.jacobian(function)
    assert _operations(_jaxpr(jacobian, *args)) == _operations(_jaxpr(by_hand, *args))
    np.testing.assert_array_equal(jacobian(*args), by_hand(*args))


@pytest.mark.parametrize("name", TASKS)
def test_no_program_computes_what_nobody_reads(name):
    task = TASKS[name]
    jaxpr = _jaxpr(jax_cce.jacobian(task.fun, task.argnums), *task.args)
    read = {x for each in jaxpr.eqns for x in each.invars if not hasattr(x, "val")}
    read.update(x for x in jaxpr.outvars if not hasattr(x, "val"))
    assert [each for each in jaxpr.eqns if read.isdisjoint(each.outvars)] == []
