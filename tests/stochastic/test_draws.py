"""Draws: the samples of jax.random, in every transformation, and no derivative by themselves."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jax_cce
from jax_cce import stochastic

KEY = jax.random.key(3)
KEYS = jax.random.split(KEY, 4)
P = jnp.array([0.2, 0.5, 0.7])
LOGITS = jnp.arange(12.0).reshape(3, 4) / 5

# The sampler, and its parameters and further arguments.
CALLS = {
    "bernoulli": ("bernoulli", (P,), {}),
    "bernoulli, shaped": ("bernoulli", (0.3,), {"shape": (2, 3)}),
    "bernoulli, many bits": ("bernoulli", (P,), {"mode": "high"}),
    "bernoulli in float32": ("bernoulli", (P.astype(jnp.float32),), {"shape": (2, 3)}),
    "binomial": ("binomial", (jnp.array([3.0, 10.0, 40.0]), P), {}),
    "binomial, shaped": ("binomial", (5, 0.3), {"shape": (4,), "dtype": jnp.float32}),
    "poisson": ("poisson", (10 * P,), {}),
    "poisson, shaped": ("poisson", (3.0,), {"shape": (2, 0), "dtype": jnp.int32}),
    "geometric": ("geometric", (P,), {"shape": (2, 3)}),
    "categorical": ("categorical", (LOGITS,), {}),
    "categorical, first axis": ("categorical", (LOGITS,), {"axis": 0, "shape": (5, 4)}),
}
calls = pytest.mark.parametrize("name, parameters, facts", CALLS.values(), ids=CALLS)


def same(ours, theirs):
    assert ours.dtype == theirs.dtype
    np.testing.assert_array_equal(ours, theirs)


@calls
def test_samples_are_those_of_jax(name, parameters, facts):
    ours, theirs = getattr(stochastic, name), getattr(jax.random, name)
    same(ours(KEY, *parameters, **facts), theirs(KEY, *parameters, **facts))

    def mapped(sampler):
        def draw(key, *parameters):
            return sampler(key, *parameters, **facts)

        return jax.jit(jax.vmap(jax.vmap(draw), (None, *[0] * len(parameters))))

    stacked = [
        jnp.multiply.outer(jnp.linspace(0.8, 1, 4), x).reshape(2, 2, *np.shape(x))
        for x in parameters
    ]
    same(mapped(ours)(KEYS[:2], *stacked), mapped(theirs)(KEYS[:2], *stacked))


def test_old_keys_and_other_axes():
    old = jax.random.PRNGKey(1)
    same(stochastic.bernoulli(old, P), jax.random.bernoulli(old, P))
    columns = jnp.stack([P, P / 2, P / 3, P / 4], axis=1)
    ours, theirs = (
        jax.vmap(draw, (0, 1), 1) for draw in (stochastic.geometric, jax.random.geometric)
    )
    same(ours(KEYS, columns), theirs(KEYS, columns))


def test_what_jax_refuses_is_refused():
    with pytest.raises(TypeError, match="floating"):
        stochastic.bernoulli(KEY, 1)
    with pytest.raises(ValueError, match="shape"):
        stochastic.bernoulli(KEY, P, (2,))
    with pytest.raises(NotImplementedError, match="with replacement only"):
        stochastic.categorical(KEY, LOGITS, replace=False)
    with pytest.raises(ValueError, match="axis 2 is out of range"):
        stochastic.categorical(KEY, LOGITS, axis=2)


@pytest.mark.parametrize(
    "differentiate", [jax.grad, jax.jacfwd, jax_cce.jacobian], ids=lambda f: f.__name__
)
def test_a_draw_has_no_derivative_but_where_it_is_held(differentiate):
    def fun(p):
        return jnp.sum(stochastic.bernoulli(KEY, p) * p)

    with pytest.raises(TypeError, match=r"stochastic\.jacobian"):
        differentiate(fun)(P)

    def held(p):
        return jnp.sum(stochastic.bernoulli(KEY, jax.lax.stop_gradient(p)) * p)

    same(differentiate(held)(P), jax.random.bernoulli(KEY, P) * 1.0)


# --- JAX's own draws -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["bernoulli", "geometric", "poisson"])
def test_those_of_jax_are_found_where_they_are(name):
    def estimates(sampler):
        def fun(key, p):
            one, other = jax.random.split(key)
            many = jax.vmap(jax.jit(sampler), (0, None))(jax.random.split(one, 2), p)

            def step(x, key):
                return x + sampler(key, p[1:]).sum(), None

            x, _ = jax.lax.scan(step, 0.0, jax.random.split(other, 2))
            return x * many.sum()

        return jax.jit(jax.vmap(stochastic.jacobian(fun, 1), (0, 0, None)))(KEYS, KEYS[::-1], P)

    found = estimates(getattr(jax.random, name))
    np.testing.assert_allclose(found, estimates(getattr(stochastic, name)))
    assert np.abs(found).max() > 0


@pytest.mark.parametrize("draw", [jax.random.bernoulli, stochastic.bernoulli])
def test_points_that_share_a_key_are_refused(draw):
    def fun(key, p):
        return jnp.sum(jax.vmap(draw, (None, 0))(key, p) * 1.0)

    with pytest.raises(NotImplementedError, match="share"):
        stochastic.jacobian(fun, 1)(KEY, KEY, P)


def test_a_function_of_that_name_is_none_of_them():
    @jax.jit
    def _bernoulli(key, p):
        return p**2

    found = stochastic.jacobian(lambda p: _bernoulli(KEY, p))(KEY, P)
    np.testing.assert_allclose(found, np.diag(2 * P))


def test_draws_by_hand_are_told():
    def compared(key, p):
        return jnp.sum(jax.random.uniform(key, (3,)) < p) * 1.0

    with pytest.warns(UserWarning, match="lt at .*test_draws.py.* makes a discrete value"):
        stochastic.jacobian(compared, 1)(KEY, KEY, P)
    with pytest.warns(UserWarning, match=r"jax\.random\.binomial"):
        stochastic.derivative(lambda p: jax.random.binomial(KEY, 5, p).sum())(KEY, P, P)
    with pytest.raises(NotImplementedError, match=r"stochastic\.categorical"):
        stochastic.jacobian(lambda x: x[jax.random.categorical(KEY, x)])(KEY, P)
    with pytest.raises(TypeError, match="number of trials"):
        stochastic.jacobian(lambda n: stochastic.binomial(KEY, n, 0.5))(KEY, 5.0)


def test_what_is_not_drawn_is_not_told():
    def fun(key, p):
        noise = p * jax.random.normal(key, (3,))
        held = jax.lax.stop_gradient(noise)
        return jnp.where(held > 0, noise, 2 * noise) + jax.nn.relu(noise)

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = stochastic.jacobian(fun, 1)(KEY, KEY, P)
    np.testing.assert_allclose(found, jax.jacrev(fun, 1)(KEY, P))
