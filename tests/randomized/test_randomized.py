"""Randomised derivatives: unbiased, of the predicted variance, and exact where all is kept."""

import math

import chex
import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import strategies as st
from jax import lax
from jax.ad_checkpoint import checkpoint_name

from cases.agreement import assert_agree
from cases.sampling import check_unbiased, normal, samples
from jax_cce import randomized
from jax_cce.randomized.draws import Draw

X = normal(6, 8) * 2
ROWS = jnp.arange(6)


def network(weights, rows):
    """Data that are looked up, so that they are stored as well."""
    x = X[rows]
    for w in weights[:-1]:
        x = jax.nn.relu(x @ w)
    return jnp.sum(jax.nn.logsumexp(x @ weights[-1], axis=1))


def convolution(weights, rows):
    kernel, w = weights
    x = lax.conv_general_dilated(
        jnp.sin(X[rows]).reshape(-1, 8, 1),
        kernel,
        (1,),
        "SAME",
        dimension_numbers=("NWC", "WIO", "NWC"),
    )
    return jnp.sum(jnp.sin(jnp.tanh(x).reshape(x.shape[0], -1) @ w))


def recurrence(weights, rows):
    """States, a counter, what is stacked, and coefficients that need not be kept."""
    inner, outer, start = weights

    def step(carry, slices):
        count, state = carry
        forced = state @ inner + slices[:, None] * outer * jnp.cos(0.1 * count)
        state = jnp.maximum(forced, 0) + 0.5 * state
        return (count + 1, state), jnp.sum(state**2)

    (_, state), sums = lax.scan(step, (0, start), X[:3, :5], reverse=True)
    return jnp.sum(state**2) + sums @ rows[:3]


def nested(weights):
    """A loop in a loop, and a custom rule in a step."""

    def outer(state, _):
        def inner(state, _):
            return jax.nn.silu(state @ weights), None

        return lax.scan(inner, state, length=2)[0], None

    return jnp.sum(lax.scan(outer, X[:3, :6], length=2)[0] ** 2)


def attention(weights, rows):
    """Three weights that multiply one activation, which is stored once."""
    x = jnp.sin(X[rows])
    q, k, v = (x @ w for w in weights)
    return jnp.sum(jax.nn.softmax(q @ k.T) @ v)


CASES = {
    "network": (network, ([normal(8, 7), normal(7, 6), normal(6, 3)], ROWS)),
    "convolution": (convolution, ([normal(3, 1, 2), normal(16, 2)], ROWS)),
    "recurrence": (recurrence, ([normal(6, 6), normal(6), normal(5, 6)], ROWS)),
    "nested": (nested, (normal(6, 6),)),
    "attention": (attention, ([normal(8, 4), normal(8, 4), normal(8, 2)], ROWS)),
}
OPTIONS = {
    "per element": {},
    "shared": {"share": True},
    "projected": {"method": "project"},
    "projected, shared": {"method": "project", "share": True},
}


EVERY = [
    *(("network", name) for name in ("per element", "shared", "projected")),
    ("convolution", "per element"),
    *(("recurrence", name) for name in ("per element", "projected, shared")),
    ("nested", "per element"),
    ("attention", "shared"),
]


@pytest.mark.parametrize("name, how", EVERY)
def test_gradients_are_unbiased_and_scatter_as_predicted(name, how):
    fun, args = CASES[name]
    options = {"keep": 0.75, **OPTIONS[how]}
    exact = jax.grad(fun)(*args)
    variance = check_unbiased(samples(fun, args, 15_000, **options), exact)
    plan = randomized.plan(fun, **options)(*args)
    assert plan.sites
    assert plan.saved_bytes < plan.exact_bytes
    # A kernel's entries, and states of a loop, are sums over what is drawn together.
    exactly = name in ("network", "attention")
    np.testing.assert_allclose(plan.variance, variance, rtol=0.06 if exactly else 0.5)
    norm = math.sqrt(sum(float(jnp.sum(x**2)) for x in jax.tree.leaves(exact)))
    np.testing.assert_allclose(plan.relative, math.sqrt(plan.variance) / norm, rtol=1e-6)


def test_values_are_exact_and_what_is_not_sampled_is_jax():
    for fun, args in CASES.values():
        key = jax.random.key(0)
        # No site at all: our own way back, with nothing drawn.
        value, found = jax.jit(randomized.value_and_grad(fun, sites=()))(key, *args)
        expected = jax.jit(jax.value_and_grad(fun))(*args)
        assert_agree((value, found), expected)
    sampled, _ = jax.jit(randomized.value_and_grad(fun))(key, *args)
    chex.assert_trees_all_equal(sampled, value)
    whole = randomized.jacobian(fun, keep=1)(key, *args)
    chex.assert_trees_all_equal(whole, jax.jacrev(fun)(*args))


def vector(weights, rows):
    x = jax.nn.relu(X[rows] @ weights[0])
    return {"a": x @ weights[1], "b": jnp.sum(x[:2] @ weights[1] ** 2)}, rows


def test_jacobians_of_trees_with_aux():
    weights = [normal(8, 5), normal(5, 2)]
    for options in ({"keep": 0.5}, {"keep": 0.75, "share": True}):
        estimate = randomized.jacobian(vector, has_aux=True, **options)
        keys = jax.random.split(jax.random.key(1), 8000)
        found, aux = jax.jit(jax.vmap(estimate, (0, None, None)))(keys, weights, ROWS)
        exact, _ = jax.jacrev(vector, has_aux=True)(weights, ROWS)
        assert jax.tree.structure(found) == jax.tree.structure(exact)
        chex.assert_trees_all_equal(aux[0], ROWS)
        for ours, theirs in zip(jax.tree.leaves(found), jax.tree.leaves(exact), strict=True):
            assert ours.shape[1:] == theirs.shape
            np.testing.assert_allclose(ours.mean(0), theirs, atol=0.1)
    gradient = randomized.grad(lambda y, w, r: (network(w, r) * y, r), (2 - 1, 0), True)
    found, aux = gradient(jax.random.key(0), 2.0, CASES["network"][1][0], ROWS)
    assert len(found) == 2
    assert found[1].shape == ()
    chex.assert_trees_all_equal(aux, ROWS)


def test_names_draw_for_themselves_where_they_meet():
    def deep(weights):
        x = jnp.sin(X)
        for k, w in enumerate(weights):
            x = checkpoint_name(x @ w, f"h{k}")
            x = jnp.tanh(x) * x
        return jnp.sum(x)

    weights = [normal(8, 5), normal(5, 4), normal(4, 3)]
    names = "h0", "h1", "h2"
    found = samples(deep, (weights,), 40_000, sites=names, keep=0.9)
    check_unbiased(found, jax.grad(deep)(weights))
    plan = randomized.plan(deep, sites=names, keep=0.5)(weights)
    assert len(plan.sites) == 6  # a slope, and a coefficient, of each
    with pytest.raises(ValueError, match=r"no checkpoint_name 'h7'; it has 'h0', 'h1', 'h2'"):
        randomized.plan(deep, sites=("h7",))(weights)


def test_keys():
    fun, args = CASES["network"]
    estimate = jax.jit(randomized.grad(fun))
    one, same = (estimate(jax.random.key(3), *args) for _ in range(2))
    other = estimate(jax.random.key(4), *args)
    chex.assert_trees_all_equal(one, same)
    assert not np.allclose(one[1], other[1])
    raw = estimate(jax.random.PRNGKey(3), *args)
    chex.assert_trees_all_close(one, raw)


def test_second_derivatives_are_unbiased():
    w = normal(8, 3)

    def fun(w):
        return jnp.sum(jnp.tanh(jnp.sin(X) @ w) ** 2)

    def product(key):
        return jax.jvp(lambda w: randomized.grad(fun, keep=0.75)(key, w), (w,), (w,))[1]

    found = jax.jit(jax.vmap(product))(jax.random.split(jax.random.key(0), 8000))
    exact = jax.jvp(jax.grad(fun), (w,), (w,))[1]
    check_unbiased(np.reshape(found, (8000, -1)), exact)


def test_memory_is_saved_in_what_is_compiled():
    weights = [normal(256, 256) for _ in range(6)]
    images = normal(512, 256)

    def deep(weights, rows):
        x = images[rows]
        for w in weights:
            x = jax.nn.relu(x @ w)
        return jnp.sum(x**2)

    def temporaries(gradient, *args):
        return jax.jit(gradient).lower(*args).compile().memory_analysis().temp_size_in_bytes

    args = weights, jnp.arange(512)
    exact = temporaries(jax.grad(deep), *args)
    key = jax.random.key(0)
    for options in ({}, {"share": True}):
        sampled = temporaries(randomized.grad(deep, keep=1 / 16, **options), key, *args)
        # Some activations are there at any time, in both.
        assert sampled < 0.7 * exact

    def scanned(w):
        state, _ = lax.scan(lambda s, _: (jnp.sin(s * w), None), jnp.ones(1000), length=500)
        return jnp.sum(state)

    def linear(w):
        state, _ = lax.scan(lambda s, _: (s + 0.01 * s * w, None), jnp.ones(1000), length=500)
        return jnp.sum(state)

    w = jnp.ones(1000)
    assert temporaries(jax.grad(linear), w) > 500 * 1000 * 8
    assert temporaries(randomized.grad(linear, keep=0.01), key, w) < 500 * 1000 * 8 / 10
    # The slopes of the sines are needed whole.
    plan = randomized.plan(scanned, keep=0.01)(jax.ShapeDtypeStruct((1000,), jnp.float64))
    assert plan.saved_bytes == 500 * (1000 + 10) * 8
    assert plan.exact_bytes == 500 * 2000 * 8


def test_plans_say_what_is_stored():
    fun, (weights, rows) = CASES["network"]
    plan = randomized.plan(fun, keep=0.5)(weights, rows)
    # 4 of 8, 4 of 7 and 3 of 6 numbers, and a bit for each rectified unit; the softmax has more.
    assert [row.kept for row in plan.sites] == [4, 4, 3]
    assert [row.saved_bytes for row in plan.sites] == [6 * 4 * 8, 6 * 4 * 8, 6 * 3 * 8]
    saved = sum(row.whole_bytes - row.saved_bytes for row in plan.sites)
    assert plan.exact_bytes - plan.saved_bytes == saved
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), (weights, rows))
    abstract = randomized.plan(fun, keep=0.5)(*shapes)
    assert abstract.variance is None
    assert abstract.saved_bytes == plan.saved_bytes
    assert "relative standard deviation" in str(plan)
    with pytest.raises(ValueError, match="needs predicted variances"):
        abstract.allocated(0.5)


def test_bytes_go_where_they_lower_the_variance():
    fun, (weights, rows) = CASES["network"]
    weights = [weights[0], weights[1], 30 * weights[2]]
    plan = randomized.plan(fun, keep=0.5)(weights, rows)
    better = plan.allocated(0.5)
    assert better.variance < 0.95 * plan.variance
    assert better.saved_bytes <= plan.saved_bytes
    again = randomized.plan(fun, keep=better.keeps)(weights, rows)
    assert [row.kept for row in again.sites] == [row.kept for row in better.sites]
    np.testing.assert_allclose(again.variance, better.variance, rtol=0.15)
    found = samples(fun, (weights, rows), 4000, keep=better.keeps)
    np.testing.assert_allclose(found.var(0).sum(), again.variance, rtol=0.1)


@hypothesis.given(
    st.integers(1, 4), st.integers(1, 9), st.floats(0.01, 1), st.sampled_from(list(OPTIONS))
)
@hypothesis.settings(max_examples=8)
def test_draws_restore_their_array_in_the_mean(elements, features, keep, how):
    options = {"method": "sample", "share": False, **OPTIONS[how]}
    draw = Draw(elements, features, max(1, round(keep * features)), **options)
    array = jnp.asarray(np.random.default_rng(1).normal(size=(elements, features)))
    count = 3000

    def one(key):
        stored = draw.keep(key, array)
        assert stored.shape == (elements, draw.kept)
        return draw.restore(key, stored)

    found = np.asarray(jax.vmap(one)(jax.random.split(jax.random.key(0), count)))
    deviations = np.sqrt(np.asarray(draw.variances(array)))
    error = np.abs(found.mean(0) - array)
    assert (error <= 4.5 * deviations / math.sqrt(count) + 1e-9).all()
    np.testing.assert_allclose(found.std(0), deviations, rtol=0.2, atol=1e-6)


def test_what_is_refused():
    fun, args = CASES["network"]
    key = jax.random.key(0)
    for wrong in (0, 1.5, -0.1, [0.5, 2]):
        with pytest.raises(ValueError, match="above 0 and at most 1"):
            randomized.grad(fun, keep=wrong)
    with pytest.raises(ValueError, match="method must be one of"):
        randomized.grad(fun, method="sketch")
    with pytest.raises(ValueError, match=r"A single name is a tuple of one: \('h',\)"):
        randomized.jacobian(fun, sites="h")
    with pytest.raises(ValueError, match="An order is one of elimination"):
        randomized.jacobian(fun, order="reverse")
    with pytest.raises(ValueError, match="one keep for all"):
        randomized.jacobian(fun, sites="cut", keep=(0.1, 0.2))
    with pytest.raises(TypeError, match="only defined for scalar-output functions"):
        randomized.grad(lambda x: x**2)(key, X)
    with pytest.raises(TypeError, match="inputs of real dtypes, but got complex128"):
        randomized.grad(lambda x: jnp.abs(x[0, 0]))(key, X + 0j)
    with pytest.raises(TypeError, match="real outputs"):
        randomized.jacobian(lambda x: x * 1j)(key, X)
    with pytest.raises(TypeError, match="int"):
        randomized.grad(lambda x: x * 1.0)(key, 3)
    with pytest.raises(ValueError, match="argnums"):
        randomized.grad(fun, 2)(key, *args)
    with pytest.raises(TypeError, match="callable"):
        randomized.grad(3)
    with pytest.raises(jax.errors.TracerBoolConversionError) as caught:
        randomized.grad(lambda x: x if x > 0 else -x)(key, 1.0)
    assert "jax.lax" in "".join(caught.value.__notes__)
    with pytest.raises(ValueError, match=r"[Rr]everse-mode"):
        randomized.grad(lambda x: lax.while_loop(lambda s: s < 3, lambda s: s * x, 1.0))(key, 2.0)
