"""Points that write to many arrays, a few numbers to each."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jax_cce
from cases.natively import is_native
from jax_cce.native import points

pytestmark = pytest.mark.usefixtures("quiet")

NAMES = "abcd"


def rates(a, b, c, d):
    return {
        "products": a * b * c,
        "pair": jnp.stack([jnp.sin(a) * d, b / d]),
        "quotient": (a + c**2) / (b + d),
        "differences": [a - b, c * d - a],
    }


def dear(a, b, c, d):
    """The same after work that takes longer than to write it."""
    for _ in range(8):
        a, b, c, d = jnp.sin(b) * c, jnp.exp(-(a**2)), jnp.tanh(c + d), jnp.cos(d * a)
    return rates(a, 2 + b, c, 3 + d)


def columns(count, dtype=np.float64):
    drawn = np.random.default_rng(count).uniform(0.5, 1.5, (4, count))
    return [jnp.asarray(column, dtype) for column in drawn]


def every(function):
    return jax_cce.jacobian(function, (0, 1, 2, 3), backend="native")


def expected(function):
    return jax.jacrev(function, (0, 1, 2, 3))


def assert_same(ours, theirs, tolerance=1e-12):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, tolerance, tolerance), ours, theirs)


# Tiles of two to sixteen points; results leave after as many as a multiple of them.
@pytest.mark.parametrize("count", [1, 3, 8, 127, 131, 1003])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_any_number_of_points(count, dtype):
    args = columns(count, dtype)
    tolerance = 1e-5 if dtype == np.float32 else 1e-12
    ours = jax.jit(jax.vmap(every(rates)))(*args)
    assert_same(ours, jax.vmap(expected(rates))(*args), tolerance)


@pytest.mark.parametrize("count", [6_144, 40_003])
def test_more_than_the_caches_hold(count):
    args, ours = columns(count), jax.vmap(every(rates))
    assert is_native(ours, *args)
    assert_same(jax.jit(ours)(*args), jax.jit(jax.vmap(expected(rates)))(*args))


def test_two_maps_one_of_which_shares_an_argument():
    rows = [x.reshape(30, 700) for x in columns(21_000)]
    rows[2] = rows[2][:, 0]
    axes = (0, 0, None, 0)

    def twice(jacobian):
        return jax.jit(jax.vmap(jax.vmap(jacobian, axes)))(*rows)

    assert_same(twice(every(rates)), twice(expected(rates)))


@pytest.mark.parametrize(
    "function, count, native",
    [(rates, 1_000, True), (rates, 100_000, False), (dear, 100_000, True)],
)
def test_what_mostly_writes_much_is_left_to_xla(function, count, native):
    args = columns(count)
    jacobian = jax.vmap(jax_cce.jacobian(function, (0, 1, 2, 3)))
    assert is_native(jacobian, *args) == native


def test_results_leave_whole_lines_at_a_time():
    for num_bytes in (16, 32, 64):
        assert points.gathered([1] * 9, num_bytes) == list(range(9))
        assert points.gathered([1] * 8, num_bytes) == []
        assert points.gathered([1] * 9 + [64, 0], num_bytes) == list(range(9))
