"""Symbolic, numerical and automatic derivatives: what the page says of each is what is computed."""

import fractions
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import jax_cce
from benchmarks import swell
from cases.agreement import assert_agree

pytestmark = pytest.mark.one_version


def test_our_operations_grow_linearly_with_the_iterates():
    counts = [swell.operations(n) for n in range(2, 40)]
    assert set(np.diff(counts)) == {6}
    for order in ("forward", "reverse"):
        assert len(set(np.diff([swell.operations(n, order) for n in range(3, 20)]))) == 1


def test_expressions_grow_exponentially():
    counts = [swell.logistic(n, swell.X).derivative.operations for n in range(2, 14)]
    assert all(later > 2 * before for before, later in itertools.pairwise(counts))


def _value(expression, x):
    if expression.op == "x":
        return x
    if expression.op == "number":
        return expression.args[0]
    left, right = (_value(each, x) for each in expression.args)
    return {"+": left + right, "-": left - right, "*": left * right}[expression.op]


@given(st.integers(2, 6), st.floats(0.01, 0.99))
def test_all_of_them_are_the_derivative(n, x):
    exact, at = swell.truth(n, x), fractions.Fraction(x)
    assert _value(swell.logistic(n, swell.X).derivative, at) == exact
    # In floating-point numbers this one would lose all digits.
    assert sum(c * at**k for k, c in enumerate(swell.expanded(n))) == exact
    found = jax_cce.jacobian(functools.partial(swell.logistic, n))(np.float64(x))
    assert abs(found - float(exact)) < 1e-9 * 8**n


def test_differences_have_a_best_step_and_never_reach_ours():
    rows, ours = swell.errors(4, 0.2)
    steps, forward, central = map(np.array, zip(*rows, strict=True))
    for errors in (forward, central):
        best = int(np.argmin(errors))
        assert 0 < best < len(steps) - 1
        # Truncation before it, rounding behind it.
        assert errors[0] > 1e3 * errors[best]
        assert errors[-1] > 1e3 * errors[best]
        assert ours < errors[best] / 1e3
    assert central.min() < forward.min() / 100
    assert ours < 1e-14


def test_the_net_is_differentiated_alike_forwards_and_in_reverse():
    (first, rest), image = swell.shapes(layers=3, channels=2, size=4)
    draw = np.random.default_rng(0)
    arrays = jax.tree.map(lambda x: jnp.array(draw.normal(size=x.shape)), ((first, rest), image))
    gradient = jax_cce.jacobian(swell.net)(*arrays)
    assert_agree(gradient, jax.grad(swell.net)(*arrays))
    tangents = jax.tree.map(jnp.ones_like, arrays[0])
    expected = sum(jnp.sum(x) for x in jax.tree.leaves(gradient))
    np.testing.assert_allclose(swell.pushed(*arrays, tangents), expected, rtol=1e-12)
    small, large = (swell.shapes(layers=n, channels=8, size=16) for n in (4, 12))
    temporaries = [
        [
            swell.temporaries(function, *shapes)
            for function in (swell.net, jax_cce.jacobian(swell.net))
        ]
        for shapes in (small, large)
    ]
    activations = 8 * 8 * 16 * 16 * 4
    # Reverse mode keeps what each layer gave.
    assert temporaries[1][1] - temporaries[0][1] > activations
    assert temporaries[1][1] > temporaries[1][0]
