"""Tangents, or adjoints, of several directions together in vectors."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jax_cce
from cases.agreement import assert_agree
from cases.natively import IN_VECTORS, assert_agrees_natively, is_native, only
from jax_cce.execution.calling import scalars
from jax_cce.native.edges import ORDERS
from jax_cce.planning.task import task_of

X = jnp.linspace(0.4, 1.3, 5)

both = pytest.mark.parametrize("order", IN_VECTORS)


@jax.custom_jvp
def halved(x):
    return jnp.sin(x)


@halved.defjvp
def _(primals, tangents):
    return halved(*primals), 0.5 * jnp.cos(primals[0]) * tangents[0]


def chain(x):
    """More outputs and inputs than a vector has."""
    y = jnp.concatenate([x, jnp.cos(x) * x[0], jnp.exp(-x), x**2 + x[::-1]])
    z = jnp.tanh(y[1:] * y[:-1] + y[0])
    return jnp.cumsum(z * jnp.sum(z))


def loop(x):
    def step(carry, k):
        carry = jnp.sin(carry) * k + carry[::-1]
        return carry, carry[0] * carry[1]

    last, every = jax.lax.scan(step, x[:3] * x[3], jnp.arange(1.0, 30.0, dtype=x.dtype))
    return jnp.concatenate([last * x[4], jnp.array([every.sum(), every[3]])]) * jnp.sum(x)


PROGRAMS = {
    "chain": chain,
    "rule": lambda x: halved(x * x[0]) * jnp.sum(halved(x)),
    "loop": loop,
    "mask": lambda x: jnp.where(x > x[2], jnp.sqrt(x - x[2]), x[0] * x) * jnp.where(x > 1, x, 0.0),
    "quotient": lambda x: (x[:, None] / (1 + x[::-1] * x)).sum(0) / jnp.linalg.norm(x),
    "outputs that are vertices, inputs, numbers and the same": lambda x: jnp.stack(
        [x[1], (y := jnp.sin(x[0] * x[1])), y, y * y * x[4], 3.0 + 0 * x[0], y]
    ),
    "two outputs": lambda x: jnp.stack([jnp.prod(jnp.sin(x)), jnp.sum(x) * x[2]]),
    "solve": lambda x: jnp.linalg.solve(
        jnp.outer(x, x) + 3 * jnp.eye(5, dtype=x.dtype), jnp.cos(x)
    ),
}


@both
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("program", PROGRAMS)
def test_they_agree(program, order, dtype, quiet):
    with only(order):
        assert_agrees_natively(PROGRAMS[program], X.astype(dtype), None, 0.0)


@both
def test_arguments_and_results_of_any_structure(order, quiet):
    def fun(tree, s):
        a, b = tree["a"], tree["b"]
        return {"product": a * s + b[0], "table": jnp.outer(jnp.sin(b), a) / s}

    args = {"a": jnp.array([0.3, 0.7]), "b": jnp.array([1.1, 0.2, 0.5])}, jnp.array(1.7)
    with only(order):
        ours = jax_cce.jacobian(fun, (0, 1))
        assert is_native(ours, *args)
        assert_agree(jax.jit(ours)(*args), jax.jacrev(fun, (0, 1))(*args))


@both
def test_structural_zeros_stay_zero(order, quiet):
    """Nothing that is zero in some directions is multiplied there by an infinity."""

    def fun(x):
        root = jnp.sqrt(x[0])
        return jnp.stack([root * x[1], x[1] * x[2], root * x[2] + jnp.log(x[1]) * x[0]])

    with only(order):
        ours = jax_cce.jacobian(fun)
        x = jnp.array([0.0, 1.0, 2.0])
        assert is_native(ours, x)
        np.testing.assert_array_equal(
            jax.jit(ours)(x), [[np.inf, 0.0, 0.0], [0.0, 2.0, 1.0], [np.inf, 0.0, 0.0]]
        )


@both
@pytest.mark.parametrize("fun", [lambda x: x[2] * jnp.sin(x[0]), lambda x: jnp.exp(x[:1] * x[0])])
def test_a_direction_alone(fun, order, quiet):
    x = X[:1] if fun(X).shape else X
    with only(order):
        assert_agrees_natively(fun, x, None, 0.0)


def test_they_are_taken_where_they_compute_less(quiet):
    weights = jnp.sin(jnp.arange(64.0).reshape(8, 8))

    def network(x):
        for _ in range(3):
            x = jnp.tanh(weights @ x)
        return x

    x = jnp.linspace(0.1, 0.9, 8)
    edges = scalars(task_of(network)(x))
    rows, order = edges.cheapest()
    assert order in IN_VECTORS
    nodes = edges.graph.needed([*edges.outputs, *(node for row in rows for node in row)])
    made = sum(edges.graph.ops[node] in ("add", "mul", "sub") for node in nodes)
    assert made < min(edges.price(each) for each in ORDERS) / 2
    assert_agrees_natively(network, x, None, 0.0)


@both
def test_they_are_no_orders_of_vertices(order):
    with pytest.raises(ValueError, match="order"):
        jax_cce.jacobian(chain, order=order)(X)
