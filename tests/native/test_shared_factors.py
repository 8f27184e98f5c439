"""What derivatives share in native code: reciprocals, and factors that two products have."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import jax_cce
from cases.natively import assert_agrees_natively
from jax_cce.execution.calling import scalars
from jax_cce.native.scalars import Scalars
from jax_cce.planning.task import task_of

_OPERATIONS = {
    "add": np.add,
    "div": np.divide,
    "mul": np.multiply,
    "neg": np.negative,
    "sub": np.subtract,
}


def value_of(graph, node, inputs):
    if graph.ops[node] == "number":
        return graph.values[node]
    if graph.ops[node] == "input":
        return inputs[graph.args[node][0]]
    return _OPERATIONS[graph.ops[node]](*(value_of(graph, k, inputs) for k in graph.args[node]))


def count(graph, node, op):
    return sum(graph.ops[k] == op for k in graph.needed([node]))


@pytest.mark.one_version
@given(
    factors=st.lists(st.integers(0, 3), min_size=4, max_size=4),
    signs=st.lists(st.booleans(), min_size=6, max_size=6),
)
def test_a_sum_is_that_of_its_terms(factors, signs):
    """Of products of any inputs, negated or not."""
    graph, inputs = Scalars(np.float64), [0.7, -1.3, 2.1, 0.4]
    signed = [
        graph.make("neg", graph.input(k)) if sign else graph.input(k)
        for k, sign in zip(factors, signs, strict=False)
    ]
    terms = [graph.make("mul", *signed[:2]), graph.make("mul", *signed[2:])]
    terms = [graph.make("neg", k) if sign else k for k, sign in zip(terms, signs[4:], strict=True)]
    total = graph.total(*terms)
    expected = sum(value_of(graph, k, inputs) for k in terms)
    np.testing.assert_allclose(value_of(graph, total, inputs), expected, rtol=1e-14, atol=1e-15)
    if not set(factors[:2]).isdisjoint(factors[2:]):
        assert count(graph, total, "mul") <= 1


@pytest.mark.one_version
def test_a_reciprocal_that_is_there_is_multiplied_by():
    graph = Scalars(np.float64)
    x, y = graph.input(0), graph.input(1)
    assert graph.ops[graph.quotient(x, y)] == "div"
    z = graph.input(2)
    reciprocal = graph.make("div", graph.one, y)
    assert graph.quotient(z, y) == graph.make("mul", z, reciprocal)
    # What is there is not made again in another way.
    assert graph.ops[graph.quotient(x, y)] == "div"
    assert graph.quotient(graph.one, y) == reciprocal


@pytest.mark.one_version
def test_quotients_cost_one_reciprocal():
    """The value divides as it is written; of its two derivatives one divides and one multiplies."""
    edges = scalars(task_of(lambda x, y: x / y, (0, 1))(0.3, 0.7))
    rows, _ = edges.cheapest(["forward"])
    (output,) = edges.outputs
    assert edges.graph.ops[output] == "div"
    divided = [k for k in edges.graph.needed(rows[0]) if edges.graph.ops[k] == "div"]
    assert len(divided) == 2
    assert {edges.graph.args[k] for k in divided} == {
        (edges.graph.one, edges.graph.args[output][1]),
        edges.graph.args[output],
    }


def normalised(x):
    direction = x / jnp.linalg.norm(x)
    return jnp.cross(direction, x[::-1]) / (1.0 + x[0] * x[1]) + direction * x[2]


@pytest.mark.parametrize("batch", [None, 9])
def test_derivatives_agree(batch, quiet):
    assert_agrees_natively(normalised, jnp.array([0.7, -0.4, 1.2]), batch, 0.1)


@pytest.mark.parametrize("order", ["forward", "reverse", "markowitz"])
def test_signs_of_sums(order, quiet):
    """Sums and differences of products with a common factor, in every combination of signs."""

    def f(x):
        one, other = x[0] * x[1], x[0] * x[2]
        terms = [
            a * one * x[1] + b * other * x[2] + c * one * other
            for a, b, c in itertools.product((1.0, -1.0), repeat=3)
        ]
        return jnp.stack(terms)

    x = jnp.array([0.7, -0.4, 1.2])
    got = jax_cce.jacobian(f, order=order, backend="native")(x)
    np.testing.assert_allclose(got, jax.jacrev(f)(x), rtol=1e-12)
