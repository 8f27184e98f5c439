"""Sampled products of eliminations: unbiased in any order, with the error of the formula."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cases.sampling import check_unbiased, normal, samples
from jax_cce import randomized

pytestmark = pytest.mark.one_version

N = 9
MATRICES = [normal(N, N) for _ in range(3)]
X = normal(N) * 2


def layers(x):
    for matrix in MATRICES:
        x = jnp.tanh(matrix @ x)
    return x[:5]


def banded(x):
    """Blocks of which none is dense."""
    y = jnp.sin(x[1:] * x[:-1])
    z = jnp.convolve(y, jnp.array([1.0, -2.0, 0.5]), mode="same") ** 2
    return jnp.cos(z[::2])


def matrices(x):
    """Vertices with two axes."""
    y = jnp.sin(x.reshape(3, 3) @ MATRICES[0][:3, :4])
    return jnp.tanh(y.T @ MATRICES[1][:3, :2])


FUNCTIONS = {"layers": layers, "banded": banded, "matrices": matrices}


@pytest.mark.parametrize("method", ["sample", "project"])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_cut_is_unbiased_and_has_the_predicted_error(name, method):
    fun = FUNCTIONS[name]
    options = {"sites": "cut", "keep": 0.5, "method": method}
    plan = randomized.plan(fun, **options)(X)
    best = plan.cuts[0]
    assert best.price == min(cut.price for cut in plan.cuts)
    assert all(cut.kept == -(-cut.entries // 2) for cut in plan.cuts)
    options["sites"] = best.vertex
    plan = randomized.plan(fun, **options)(X)
    exact = jax.jacrev(fun)(X)
    draws = int(min(60_000, max(20_000, (110 * plan.relative) ** 2)))
    found = samples(fun, (X,), draws, randomized.jacobian, **options)
    variance = check_unbiased(found, exact)
    np.testing.assert_allclose(variance, plan.variance, rtol=0.1)
    np.testing.assert_allclose(plan.relative, best.relative, rtol=1e-6)


@pytest.mark.parametrize("order", ["reverse", "forward", "markowitz"])
def test_products_at_all_vertices_are_unbiased_in_any_order(order):
    options = {"sites": "vertices", "keep": 0.8, "order": order}
    found = samples(layers, (X,), 75_000, randomized.jacobian, **options)
    check_unbiased(found, jax.jacrev(layers)(X))


def test_probabilities_are_optimal_for_the_formula():
    """Against uniform ones, on a product with columns of very different norms."""
    scales = 10.0 ** -jnp.arange(N)
    left, right = MATRICES[0] * scales, MATRICES[1]

    def product(x):
        return left @ (right @ x)

    plan = randomized.plan(product, sites="cut", keep=0.34)(X)
    cut = plan.cuts[0]
    norms = np.linalg.norm(left, axis=0) * np.linalg.norm(right, axis=1)
    square = np.linalg.norm(left @ right) ** 2
    assert cut.kept == 4
    np.testing.assert_allclose(cut.variance, (norms.sum() ** 2 - square) / 4)
    uniform = (N * (norms**2).sum() - square) / 4
    assert cut.variance < uniform / 5


def test_sampled_products_save_work():
    n = 64
    matrices = [normal(n, n) for _ in range(4)]

    def chain(x):
        for matrix in matrices:
            x = matrix @ x
        return x

    shape = jax.ShapeDtypeStruct((n,), jnp.float64)
    plan = randomized.plan(chain, sites="vertices", keep=0.125)(shape)
    assert plan.work < 0.25 * plan.exact_work
    assert plan.saved_bytes < 0.2 * plan.exact_bytes
    # The largest product of matrices that is left has 8 of the 64 entries to sum over.
    estimate = randomized.jacobian(chain, sites="vertices", keep=0.125)
    program = jax.make_jaxpr(estimate)(jax.random.key(0), jnp.ones(n))
    products = [eqn for eqn in jax.tree.leaves(_equations(program.jaxpr)) if _sums(eqn) > 1]
    assert {_sums(eqn) for eqn in products} == {8, n}
    assert sum(_sums(eqn) == n and eqn.outvars[0].aval.size > n for eqn in products) == 0


def _equations(jaxpr):
    return list(jaxpr.eqns)


def _sums(eqn):
    if eqn.primitive.name != "dot_general":
        return 0
    (axes, _), _ = eqn.params["dimension_numbers"]
    return math.prod(eqn.invars[0].aval.shape[axis] for axis in axes)


def test_gradients_trees_and_single_precision():
    def fun(p, y):
        x = jnp.tanh(MATRICES[0].astype(y.dtype) @ p["u"]) * y
        return jnp.sum(jnp.sin(x)), {"n": 3, "x": x}

    p = {"u": X.astype(jnp.float32), "v": jnp.float32(2)}
    y = jnp.float32(0.7)
    keys = jax.random.split(jax.random.key(0), 4000)
    estimate = randomized.value_and_grad(fun, (0, 1), True, sites="cut", keep=0.5)
    (value, aux), found = estimate(keys[0], p, y)
    assert aux["n"] == 3
    np.testing.assert_allclose(value, fun(p, y)[0], rtol=1e-6)
    found = jax.jit(jax.vmap(lambda key: estimate(key, p, y)[1]))(keys)
    exact = jax.grad(fun, (0, 1), True)(p, y)[0]
    assert jax.tree.structure(found) == jax.tree.structure(exact)
    for ours, theirs in zip(jax.tree.leaves(found), jax.tree.leaves(exact), strict=True):
        assert ours.dtype == theirs.dtype
        error = 5 * ours.std(0) / 60 + 1e-5
        assert (np.abs(ours.mean(0) - theirs) < error).all()


def test_where_there_is_nothing_to_cut():
    key = jax.random.key(0)
    with pytest.raises(ValueError, match="no vertex that all paths"):
        randomized.jacobian(lambda x: (jnp.sin(x) * 2, jnp.cos(x) * 3), sites="cut")(key, X)
    with pytest.raises(ValueError, match="no vertex 99 to sample at; it has 0"):
        randomized.jacobian(lambda x: jnp.sin(jnp.cos(x)), sites=99)(key, X)
    zero = randomized.jacobian(lambda x: jnp.sin(0 * jnp.cos(x)), sites="cut")(key, X)
    np.testing.assert_array_equal(zero, np.zeros((N, N)))
