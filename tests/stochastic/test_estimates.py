"""Estimates: unbiased against closed forms, enumeration, dynamic programming; with fixed keys."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jax_cce
from benchmarks.stochastic import (
    THETA,
    coupled,
    draws,
    exact_coupled,
    exact_draws,
    exact_walk,
    walk,
)
from cases.agreement import assert_agree
from jax_cce import stochastic

pytestmark = pytest.mark.one_version

KEY = jax.random.key(0)


def run(estimate, count, *args, seed=0):
    """Many estimates of a function of two keys and further arguments."""
    keys = jax.random.split(jax.random.key(seed), (2, count))
    return np.asarray(jax.jit(jax.vmap(lambda key, own: estimate(key, own, *args)))(*keys))


def assert_unbiased(samples, exact, *, together=False):
    """That every entry is within 4.5 standard errors, and with `together` all by Hotelling's T²."""
    flat, exact = samples.reshape(len(samples), -1), np.ravel(exact)
    off = flat.mean(0) - exact
    # What has no variance has rounding.
    errors = flat.std(0, ddof=1) / np.sqrt(len(flat)) + 1e-9 * np.abs(exact) + 1e-12
    assert np.abs(off / errors).max() < 4.5, off / errors
    assert np.linalg.norm(errors) < 0.1 * np.linalg.norm(exact)
    if together:
        moves = flat.std(0) > 0
        off, count = off[moves], np.sum(moves)
        squared = len(flat) * off @ np.linalg.solve(np.cov(flat[:, moves].T), off)
        assert squared < count + 4.5 * np.sqrt(2 * count)


@pytest.mark.parametrize("side", ["auto", "right", "left"])
def test_every_draw_on_every_side(side):
    estimate = stochastic.jacobian(draws, 1, side=side, alternatives=4)
    assert_unbiased(run(estimate, 3000, jnp.array(THETA)), np.diag(exact_draws()))


def test_from_losers_to_winners():
    estimate = stochastic.derivative(draws, 1, side={"categorical": "winners", "poisson": "left"})
    along = jax.vmap(estimate, (None, 0, None, None), -1)
    samples = run(lambda key, own, at: along(key, jnp.eye(5), own, at), 3000, jnp.array(THETA))
    assert_unbiased(samples, np.diag(exact_draws()))


def test_many_parameters_from_one_alternative():
    theta = jnp.linspace(-1.0, 1.0, 6)
    one = run(stochastic.jacobian(coupled, 1), 8000, theta)
    assert_unbiased(one, exact_coupled(theta), together=True)
    four = run(stochastic.jacobian(coupled, 1, alternatives=4), 2000, theta, seed=1)
    assert_unbiased(four, exact_coupled(theta))
    assert four.var(0).sum() < 0.6 * one.var(0).sum()


def test_the_random_walk():
    np.testing.assert_allclose(exact_walk(50, 100), 30.295, atol=1e-3)
    short, exact = functools.partial(walk, steps=20), exact_walk(10, 20)
    backwards = run(stochastic.jacobian(short, 1), 4000, 10.0)
    estimate = stochastic.derivative(short, 1)
    forwards = run(lambda key, own, p: estimate(key, 2.0, own, p), 4000, 10.0)
    assert_unbiased(backwards, exact)
    assert_unbiased(forwards / 2, exact)


# --- control flow --------------------------------------------------------------------------------


def branching(key, theta):
    """Loops in loops, with branches that draw, by samples; stacked results depend on both."""
    p, q = theta

    def step(x, key):
        one, other = jax.random.split(key)
        big = stochastic.bernoulli(one, p)
        y = jax.lax.cond(big, lambda: stochastic.poisson(other, q) * p, lambda: 0.9 * p)
        return x + y, y

    def several(x, keys):
        return jax.lax.scan(step, x, keys, reverse=True)

    total, each = jax.lax.scan(several, 0.0, jax.random.split(key, (2, 2)))
    return jnp.stack([total**2, jnp.sum(each) ** 2 + jnp.sum(each[:, 0] * each[:, 1])])


def expected_branching(theta):
    p, q = theta
    mean = p * q * p + (1 - p) * 0.9 * p
    square = p * (q + q**2) * p**2 + (1 - p) * (0.9 * p) ** 2
    total = 4 * square + 12 * mean**2
    return jnp.stack([total, total + 2 * mean**2])


def test_through_scans_and_branches():
    theta = jnp.array([0.4, 1.5])
    exact = jax.jacfwd(expected_branching)(theta)
    assert_unbiased(run(stochastic.jacobian(branching, 1), 3000, theta), exact)
    estimate = stochastic.derivative(branching, 1)
    forwards = run(lambda *keys: estimate(keys[0], jnp.ones(2), keys[1], theta), 2000)
    assert_unbiased(forwards, exact @ np.ones(2))


def waiting(key, theta):
    """What is found until the third success: worlds differ in how long they run."""

    def step(state):
        count, found, key = state
        key, one, other = jax.random.split(key, 3)
        found += theta[1] * stochastic.bernoulli(other, theta[1])
        return count + stochastic.bernoulli(one, theta[0]), found, key

    return jax.lax.while_loop(lambda state: state[0] < 3, step, (0, 0 * theta[0], key))[1]


def test_through_loops_of_random_length():
    theta = jnp.array([0.4, 0.5])
    exact = jax.grad(lambda theta: 3 * theta[1] ** 2 / theta[0])(theta)
    assert_unbiased(run(stochastic.jacobian(waiting, 1), 3000, theta), exact)


def poured(key, theta):
    """Draws whose parameters are other ones in the alternative, by samplers that do not invert."""
    keys = jax.random.split(key, 3)
    x = stochastic.poisson(keys[0], theta)
    y = stochastic.binomial(keys[1], x + 2, 1 / (2.0 + x))
    return stochastic.poisson(keys[2], 1.0 + y + stochastic.binomial(keys[2], 8, 1 / (2.0 + x)))


def test_replayed_draws_have_their_law():
    def fun(key, theta):
        return poured(key, theta) * 1.0

    # E y = 1, whatever x is; what is left is 8 E 1 / (2 + x).
    x = np.arange(60)
    masses = np.exp(-2 + x * np.log(2) - np.cumsum(np.log(np.maximum(x, 1))))
    exact = 8 * np.sum(masses * (x / 2 - 1) / (2.0 + x))
    samples = run(stochastic.jacobian(fun, 1), 2000, 2.0)
    assert abs(samples.mean() - exact) < 4.5 * samples.std() / np.sqrt(len(samples))
    # Replays are near: independent ones would have the spread of both results.
    assert samples.std() < 2.5


def test_sure_draws_have_derivatives_at_the_ends():
    def fun(key, theta):
        keys = jax.random.split(key, 6)
        coins = [stochastic.bernoulli(keys[k], theta[k]) * 3.0 for k in range(2)]
        counts = [stochastic.binomial(keys[2 + k], 4, theta[2 + k]) ** 2 for k in range(2)]
        rest = stochastic.poisson(keys[4], theta[4]), stochastic.geometric(keys[5], theta[5])
        return jnp.stack([*coins, *counts, *(x * 1.0 for x in rest)])

    ends = jnp.array([0.0, 1.0, 0.0, 1.0, 0.0, 1.0])
    exact = np.diag([3.0, 3.0, 4.0, 28.0, 1.0, -1.0])
    assert_unbiased(run(stochastic.jacobian(fun, 1, alternatives=4), 800, ends), exact)
    wrong = stochastic.derivative(fun, 1, side="left")(KEY, jnp.ones(6), KEY, ends)
    assert np.isnan(wrong).any()


def test_outcomes_that_do_not_occur_are_passed_over():
    # The one in the middle has probability 0: neighbours are the two beside it.
    def fun(key, t):
        logits = jnp.array([0.0, -jnp.inf, 1.0]) + jnp.array([t, 0.0, 0.0])
        return jnp.array([1.0, 100.0, 4.0])[stochastic.categorical(key, logits)]

    chance = jax.nn.sigmoid(-0.7)
    for side in ("right", "left", "auto"):
        samples = run(stochastic.jacobian(fun, 1, side=side), 2000, 0.3)
        assert_unbiased(samples, -3 * chance * (1 - chance))


def test_many_draws_with_parameters_of_their_own_keep_their_structure():
    worth = jnp.arange(600.0)

    def fun(key, p):
        return jnp.sum(stochastic.bernoulli(key, p) * worth)

    found = np.asarray(stochastic.jacobian(fun, 1)(KEY, KEY, jnp.full(600, 0.3)))
    (at,) = np.nonzero(found)
    assert len(at) == 1
    np.testing.assert_allclose(found[at], 600 * worth[at])


# --- the contract --------------------------------------------------------------------------------


def test_without_draws_all_is_exact():
    def fun(p, n, key):
        value = {"a": jnp.sin(p["u"]) * p["v"], "b": p["v"] ** n * jax.random.normal(key, (2,))}
        coin = stochastic.bernoulli(key, 0.5)
        return value, {"n": n, "coin": coin}

    p = {"u": jnp.arange(3.0), "v": jnp.array(2.0)}
    found, aux = stochastic.jacobian(fun, has_aux=True)(KEY, p, 3, KEY)
    expected, _ = jax.jacrev(fun, has_aux=True)(p, 3, KEY)
    assert_agree(found, expected)
    assert aux["n"] == 3
    assert aux["coin"] == jax.random.bernoulli(KEY, 0.5)
    (value, _), again = stochastic.value_and_jacobian(fun, (0,), has_aux=True)(KEY, p, 3, KEY)
    assert_agree(again, jax.tree.map(lambda x, _: (x,), found, {"a": 0, "b": 0}, is_leaf=is_dict))
    assert_agree(value, fun(p, 3, KEY)[0])
    direction = {"u": jnp.ones(3), "v": jnp.array(1.0)}
    along = stochastic.derivative(lambda *at: fun(*at)[0])(KEY, direction, p, 3, KEY)
    assert_agree(along, jax.jvp(lambda p: fun(p, 3, KEY)[0], (p,), (direction,))[1])


def is_dict(node):
    return isinstance(node, dict) and set(node) == {"u", "v"}


def test_jit_and_vmap_change_nothing():
    theta = jnp.linspace(-1.0, 1.0, 6)
    keys = jax.random.split(KEY, (2, 2))
    jacobian = stochastic.jacobian(coupled, 1, alternatives=2)
    directional = stochastic.value_and_derivative(coupled, 1, alternatives=2)

    def derivative(key, own, at):
        return directional(key, jnp.ones(6), own, at)[1]

    for estimate in (jacobian, derivative):
        single = [estimate(key, own, theta) for key, own in zip(*keys, strict=True)]
        mapped = jax.jit(jax.vmap(estimate, (0, 0, None)))(*keys, theta)
        np.testing.assert_allclose(mapped, jnp.stack(single), rtol=1e-9)
    value, _ = directional(keys[0, 0], jnp.ones(6), keys[1, 0], theta)
    np.testing.assert_allclose(value, coupled(keys[1, 0], theta))


def test_single_precision():
    def fun(key, p):
        return jnp.sum(stochastic.poisson(key, p, (4,)).astype(jnp.float32)) ** 2

    samples = run(stochastic.jacobian(fun, 1), 2000, jnp.float32(2.0))
    assert samples.dtype == np.float32
    assert_unbiased(samples.astype(float), 4 * (1 + 2 * 4 * 2.0))


@pytest.mark.parametrize("draw", [stochastic.bernoulli, jax.random.bernoulli])
def test_second_derivatives_are_refused(draw):
    def fun(key, p):
        return (draw(key, p) * p) ** 2

    for inner in (
        lambda p: stochastic.jacobian(fun, 1)(KEY, KEY, p),
        lambda p: stochastic.derivative(fun, 1)(KEY, 1.0, KEY, p),
    ):
        for outer in (jax.grad, jax.hessian, jax_cce.jacobian):
            with pytest.raises(TypeError, match="the first one only"):
                outer(inner)(0.3)
        with pytest.raises(TypeError, match="the first one only"):
            stochastic.jacobian(inner)(KEY, 0.3)
    for last in (
        lambda p: stochastic.jacobian(fun, 1, mode="smoothed")(KEY, KEY, p),
        lambda p: stochastic.derivative(fun, 1, mode="smoothed")(KEY, 1.0, KEY, p),
        lambda p: stochastic.value_and_jacobian(fun, 1)(KEY, KEY, p)[0],
        lambda p: stochastic.value_and_derivative(fun, 1)(KEY, 1.0, KEY, p)[0],
    ):
        with pytest.raises(TypeError, match="the first one only"):
            jax.grad(last)(0.3)


def test_errors():
    def fun(key, p):
        return stochastic.bernoulli(key, p) * 1.0

    with pytest.raises(ValueError, match="mode must be one of"):
        stochastic.jacobian(fun, 1, mode="exact")
    with pytest.raises(ValueError, match="positive integer"):
        stochastic.derivative(fun, 1, alternatives=0)
    with pytest.raises(ValueError, match="side must be one of"):
        stochastic.jacobian(fun, 1, side="up")
    with pytest.raises(ValueError, match="winners"):
        stochastic.jacobian(fun, 1, side="winners")
    with pytest.raises(ValueError, match="knows the draws"):
        stochastic.jacobian(fun, 1, side={"normal": "right"})
    with pytest.raises(TypeError, match="a key for the choice of alternatives"):
        stochastic.jacobian(fun, 1)(0.3, KEY, 0.3)
    with pytest.raises(TypeError, match="real dtypes"):
        stochastic.jacobian(fun, 1)(KEY, KEY, 0.3 + 1j)
    with pytest.raises(TypeError, match="shapes"):
        stochastic.derivative(fun, 1)(KEY, jnp.ones(2), KEY, 0.3)
    with pytest.raises(TypeError, match="pytree like the arguments"):
        stochastic.derivative(fun, 1)(KEY, (1.0, 2.0), KEY, 0.3)
    with pytest.raises(TypeError, match=r"jax\.lax\.cond"):
        stochastic.jacobian(lambda key, p: p if p > 0 else -p, 1)(KEY, KEY, 0.3)

    @jax.custom_jvp
    def own(key, p):
        return stochastic.bernoulli(key, p) * 1.0

    own.defjvp(lambda primals, tangents: (own(*primals), tangents[1]))
    with pytest.raises(NotImplementedError, match="draw inside of custom_jvp_call"):
        stochastic.derivative(own, 1)(KEY, 1.0, KEY, 0.3)


# --- smoothed ------------------------------------------------------------------------------------


def test_smoothed_is_exact_where_all_is_linear():
    def fun(key, p):
        keys = jax.random.split(key, 3)
        coins = stochastic.bernoulli(keys[0], p, (4,))
        worth = jnp.where(coins, 2.0 * p, jnp.arange(4.0)).sum()
        both = (coins[0] & ~coins[1]) | coins[2]
        events = stochastic.poisson(keys[1], 3 * p)

        def step(total, coin):
            return total + 2 * coin, total

        count, _ = jax.lax.scan(step, 0, coins)
        again = stochastic.poisson(keys[2], 2.0 * events)
        return jnp.stack([worth, both * 1.0, again * 5.0, jnp.float64(count) - events])

    def expected(p):
        both = 1 - (1 - p * (1 - p)) * (1 - p)
        return jnp.stack([8 * p * p + 6 * (1 - p), both, 30 * p, 5 * p])

    exact = jax.jacfwd(expected)(0.3)
    estimate = stochastic.jacobian(fun, 1, mode="smoothed")
    samples = run(estimate, 2000, 0.3)
    assert_unbiased(samples, exact)
    assert samples[:, 2].std() < 1e-9
    along = stochastic.derivative(fun, 1, mode="smoothed")
    np.testing.assert_allclose(along(KEY, 1.0, KEY, 0.3), estimate(KEY, KEY, 0.3))


def test_smoothed_is_biased_elsewhere_and_refuses_jumps():
    def squared(key, p):
        return jnp.sum(stochastic.bernoulli(key, p, (10,)) * 1.0) ** 2

    samples = run(stochastic.jacobian(squared, 1, mode="smoothed"), 2000, 0.4)
    # 2 n E X instead of n + 2 n (n - 1) p.
    assert_unbiased(samples, 80.0)
    for fun in (
        lambda key, p: (stochastic.poisson(key, p) > 2) * 1.0,
        lambda key, p: (stochastic.binomial(key, 5, p) > 2) * 1.0,
        lambda key, p: stochastic.binomial(key, stochastic.poisson(key, p), 0.5),
        lambda key, p: jnp.arange(3.0)[stochastic.categorical(key, jnp.ones(3) * p)],
        lambda key, p: jax.lax.cond(stochastic.bernoulli(key, p), jnp.sin, jnp.cos, p),
    ):
        with pytest.raises(NotImplementedError, match='mode="smoothed"'):
            stochastic.jacobian(fun, 1, mode="smoothed")(KEY, KEY, 0.4)
