"""Hessians with values and gradients, their triangles, and those of Lagrangians."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jax_cce
from cases.agreement import assert_agree
from cases.sparsity import assert_bcoo, assert_structured
from jax_cce import value_and_hessian, value_grad_and_hessian

X = jnp.linspace(0.2, 1.4, 7)
W = np.random.default_rng(0).normal(size=(4, 7))
EDGES = np.array([[0, 1, 2, 3, 4, 0, 2], [1, 2, 3, 4, 5, 6, 4]])
FORMATS = ["dense", "bcoo", "structured"]


def chained(x):
    return jnp.sum(100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2)


def network(x):
    return jnp.sum(jnp.tanh(W @ x) ** 2)


def on_edges(x):
    return jnp.sum(jnp.cos(x[EDGES[0]] - x[EDGES[1]]) * x[0])


def of_matrix(x):
    return jnp.sum(jnp.sin(x @ x.T))


def of_tree(p, y):
    return jnp.sum(jnp.exp(p["a"] @ p["b"]) * y) + p["c"] * jnp.sum(p["a"]) + jnp.sum(y**3)


TREE = {
    "a": jnp.linspace(0.1, 1.0, 6).reshape(3, 2),
    "b": jnp.array([0.3, -0.2]),
    "c": jnp.float64(0.7),
}
Y = jnp.array([1.0, 2.0, -1.0])
SCALAR = {
    "chained": (chained, X),
    "network": (network, X),
    "edges": (on_edges, X),
    "matrix": (of_matrix, X[:6].reshape(2, 3)),
    "number": (lambda x: jnp.sin(x) * x, jnp.float64(0.7)),
}
scalars = pytest.mark.parametrize("fun, x", SCALAR.values(), ids=SCALAR)
formats = pytest.mark.parametrize("form", FORMATS)


def dense(result):
    """All blocks as arrays, of the dtypes that they have, whatever their weak types."""

    def is_block(leaf):
        return hasattr(leaf, "todense")

    def array(leaf):
        return jnp.asarray(leaf.todense(), leaf.dtype) if is_block(leaf) else leaf

    return jax.tree.map(array, result, is_leaf=is_block)


@scalars
@formats
def test_value_gradient_and_hessian(fun, x, form):
    expected = *jax.value_and_grad(fun)(x), jax.hessian(fun)(x)
    assert_agree(dense(value_grad_and_hessian(fun, format=form)(x)), expected)
    found = jax.jit(value_and_hessian(fun, format=form))(x)
    assert_agree(dense(found), (expected[0], expected[2]))


@formats
def test_trees_and_aux(form):
    def with_aux(p, y):
        return of_tree(p, y), {"twice": 2 * y, "name": "of_tree"}

    how = {"argnums": (0, 1)}
    expected = jax.hessian(of_tree, **how)(TREE, Y)
    value, gradient = jax.value_and_grad(of_tree, **how)(TREE, Y)
    found = value_grad_and_hessian(of_tree, format=form, **how)(TREE, Y)
    assert_agree(dense(found), (value, gradient, expected))
    (value, aux), gradient, hess = value_grad_and_hessian(
        with_aux, has_aux=True, format=form, **how
    )(TREE, Y)
    assert_agree((value, gradient, dense(hess)), dense(found))
    assert_agree(aux["twice"], 2 * Y)
    assert aux["name"] == "of_tree"
    (value, aux), hess = value_and_hessian(with_aux, has_aux=True, format=form, **how)(TREE, Y)
    assert_agree((value, dense(hess)), (of_tree(TREE, Y), expected))
    assert aux["name"] == "of_tree"


@formats
def test_value_and_hessian_of_arrays(form):
    def fun(x):
        return {"cubes": x**3 * x[0], "sum": jnp.sum(x**2)}

    value, hess = value_and_hessian(fun, format=form)(X)
    assert_agree(value, fun(X))
    assert_agree(dense(hess), jax.hessian(fun)(X))


def test_of_floats_and_holomorphic_functions():
    x = X.astype(jnp.float32)
    expected = *jax.value_and_grad(network)(x), jax.hessian(network)(x)
    assert_agree(value_grad_and_hessian(network)(x), expected)
    z = X + 0.3j

    def holomorphic(z):
        return jnp.sum(z[1:] * z[:-1] ** 2)

    value, gradient, hess = value_grad_and_hessian(holomorphic, holomorphic=True)(z)
    assert_agree(value, holomorphic(z))
    assert_agree(gradient, jax.grad(holomorphic, holomorphic=True)(z))
    assert_agree(hess, jax.hessian(holomorphic, holomorphic=True)(z))


def test_mapped_and_differentiated_again():
    points = jnp.stack([X, X**2, 1 - X])
    found = jax.vmap(value_grad_and_hessian(chained))(points)
    expected = jax.vmap(lambda x: (*jax.value_and_grad(chained)(x), jax.hessian(chained)(x)))
    assert_agree(found, expected(points))
    norms = [
        lambda x, h=h: jnp.sum(h(x) ** 2)
        for h in (lambda x: value_grad_and_hessian(network)(x)[2], jax.hessian(network))
    ]
    assert_agree(jax.grad(norms[0])(X), jax.grad(norms[1])(X))


def test_the_function_is_evaluated_once():
    sines = {}
    for name, transform in {"hessian": jax_cce.hessian, "all": value_grad_and_hessian}.items():
        jaxpr = str(
            jax.make_jaxpr(transform(lambda x: jnp.sum(jnp.sin(x) ** 3), order="reverse"))(X)
        )
        sines[name] = jaxpr.count(" sin "), jaxpr.count(" cos ")
    assert sines["all"] == sines["hessian"]


@pytest.mark.parametrize("fun", [lambda x: x, lambda x: (jnp.sum(x), 1.0), lambda x: {}])
def test_a_gradient_needs_a_scalar(fun):
    with pytest.raises(TypeError, match="scalar-output functions only"):
        value_grad_and_hessian(fun)(X)


def test_control_flow_on_values():
    def fun(x):
        return chained(x) if x[0] > 0 else network(x)

    expected = *jax.value_and_grad(fun)(X), jax.hessian(fun)(X)
    assert_agree(value_grad_and_hessian(fun)(X), expected)


@scalars
@formats
def test_lower_triangle(fun, x, form):
    whole = jax.hessian(fun)(x)
    size = np.size(x)
    expected = jnp.tril(whole.reshape(size, size)).reshape(whole.shape)
    found = jax_cce.hessian(fun, format=form, triangle="lower")(x)
    if form == "dense":
        assert_agree(found, expected)
        return
    (assert_bcoo if form == "bcoo" else assert_structured)(found, expected)
    full = jax_cce.hessian(fun, format="bcoo")(x).indices
    rank = np.ndim(x)
    rows, columns = (
        np.ravel_multi_index(tuple(part.T), np.shape(x)) if rank else np.zeros(1, int)
        for part in (full[:, :rank], full[:, rank:])
    )
    stored = found.nse if form == "bcoo" else found.nnz
    assert stored == np.count_nonzero(rows >= columns)


@formats
def test_lower_triangle_of_a_tree(form):
    """The blocks below and above the diagonal ones belong to the triangles as a whole."""
    found = dense(jax_cce.hessian(of_tree, (0, 1), format=form, triangle="lower")(TREE, Y))
    leaves = jax.tree.leaves((TREE, Y))
    sizes, count = [np.size(k) for k in leaves], len(leaves)

    def matrix(hess):
        blocks = jax.tree.leaves(hess)
        rows = [
            [blocks[i * count + j].reshape(sizes[i], sizes[j]) for j in range(count)]
            for i in range(count)
        ]
        return np.block(rows)

    whole = jax.hessian(of_tree, (0, 1))(TREE, Y)
    np.testing.assert_allclose(matrix(found), np.tril(matrix(whole)), rtol=1e-9, atol=1e-12)
    assert jax.tree.structure(found) == jax.tree.structure(whole)
    several = jax_cce.hessian(
        lambda *at: {"one": of_tree(*at), "two": of_tree(*at) ** 2},
        (0, 1),
        format=form,
        triangle="lower",
    )(TREE, Y)
    np.testing.assert_allclose(matrix(dense(several["one"])), matrix(found), atol=1e-12)


def test_the_triangle_computes_and_stores_less():
    n = 400
    x = jnp.linspace(0.0, 1.0, n)
    lower = jax_cce.hessian(chained, format="structured", triangle="lower")(x)
    assert len(jax.tree.leaves(lower)) == 2  # two diagonals of three
    assert lower.nnz == 2 * n - 1
    assert jax_cce.hessian(chained, format="bcoo", triangle="lower")(x).nse == 2 * n - 1


@pytest.mark.parametrize("form", FORMATS)
def test_triangles_under_transformations(form):
    def lower(x):
        return dense(jax_cce.hessian(on_edges, format=form, triangle="lower")(x))

    def expected(x):
        return jnp.tril(jax.hessian(on_edges)(x))

    points = jnp.stack([X, X**2])
    assert_agree(jax.jit(jax.vmap(lower))(points), jax.vmap(expected)(points))
    sums = [lambda x, h=h: jnp.sum(h(x) ** 2) for h in (lower, expected)]
    assert_agree(jax.grad(sums[0])(X), jax.grad(sums[1])(X))


@pytest.mark.parametrize("seed", range(4))
def test_lower_triangle_of_any_structured_jacobian(seed):
    rng = np.random.default_rng(seed)
    n, m = rng.integers(3, 8, 2)
    picks = rng.integers(0, n, size=(2, m))

    def fun(x):
        y = x[picks[0]] * jnp.roll(x[picks[1]], 1)
        return jnp.concatenate([jnp.cumsum(y), jnp.flip(x) ** 2, x[::2]])

    x = jnp.asarray(rng.normal(size=n))
    jac = jax_cce.jacobian(fun, format="structured")(x)
    lower = jac.lower_triangle()
    assert_structured(lower, jnp.tril(jax.jacrev(fun)(x)))
    assert lower.nnz == sum(row >= column for row, column in jac.pattern)


def test_lower_triangle_with_a_single_entry_of_a_term():
    x = jnp.asarray([1.0, 2.0])
    fun = lambda x: jnp.sin(jnp.flip(x))  # noqa: E731
    lower = jax_cce.jacobian(fun, format="structured")(x).lower_triangle()
    assert_structured(lower, jnp.tril(jax.jacrev(fun)(x)))


def test_triangles_that_there_are_not():
    with pytest.raises(ValueError, match="triangle must be"):
        jax_cce.hessian(chained, triangle="upper")
    for form in FORMATS:
        with pytest.raises(TypeError, match="requires a function that returns scalars"):
            jax_cce.hessian(lambda x: x**3, format=form, triangle="lower")(X)
    with pytest.raises(ValueError, match="depends on data"):
        jax_cce.hessian(
            lambda x: jnp.sum(jnp.sort(x)[1:] * jnp.sort(x)[:-1]), format="bcoo", triangle="lower"
        )(X)


def constraints(x):
    """Each of neighbours, but the last."""
    return jnp.concatenate([x[1:] * x[:-1] ** 2, jnp.sin(x[:1] * x[-1])])


def lagrangian(x, w):
    return jnp.sum(w * constraints(x))


MULTIPLIERS = [jnp.zeros(7), jnp.ones(7), jnp.arange(7.0) - 2, jnp.eye(7)[3]]


@formats
def test_one_plan_for_all_multipliers_of_a_lagrangian(form, caplog):
    hess = jax.jit(jax_cce.hessian(lagrangian, format=form))
    union = np.any(jax.hessian(constraints)(X) != 0, axis=0)
    with caplog.at_level("INFO", "jax_cce"):
        for w in MULTIPLIERS:
            found = hess(X, w)
            assert_agree(dense(found), jax.hessian(lagrangian)(X, w))
            if form != "dense":
                pattern = found.indices if form == "bcoo" else found.pattern
                np.testing.assert_array_equal(pattern, np.argwhere(union))
    planned = [k for k in caplog.messages if k.startswith("Jacobian of lagrangian: planning")]
    # The gradient and its Jacobian.
    assert len(planned) == 2


@formats
def test_zeros_among_multipliers_that_are_known(form):
    """Outside jit they are data, as indices are, and a sparse Hessian has fewer entries."""
    hess = jax_cce.hessian(lagrangian, format=form)
    for w in MULTIPLIERS:
        assert_agree(dense(hess(X, w)), jax.hessian(lagrangian)(X, w))
    jax_cce.cache_clear()
    for scale in (0.5, 2.0, -3.0):
        hess(X, scale * jnp.ones(7))
    assert jax_cce.cache_info().misses == 1
