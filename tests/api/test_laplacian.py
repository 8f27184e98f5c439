"""Laplacians and curvatures against the trace of jax.hessian, by every method."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cases.agreement import assert_agree
from jax_cce import curvature, forward_laplacian, laplacian

RNG = np.random.default_rng(0)
W = RNG.normal(size=(8, 5)) / 2
EDGES = np.array([[0, 1, 2, 3, 0], [1, 2, 3, 4, 4]])
X = jnp.asarray(RNG.normal(size=5))
POINTS = jnp.asarray(RNG.normal(size=(3, 3)))
NUCLEI = RNG.normal(size=(3, 3))
MIX = RNG.normal(size=(3, 3))


def network(x):
    return jnp.sum(jnp.tanh(W.T @ jnp.sin(W @ x)) ** 2)


def determinant(x):
    r = jnp.linalg.norm(x[:, None] - NUCLEI, axis=-1)
    return jnp.linalg.slogdet(jnp.exp(-r) * (1 + MIX * r))[1]


def simulated(x):
    def step(state, force):
        moved = jnp.tanh(jnp.roll(state[0], 1) * force + x)
        return (moved, state[1] + 1, state[2] * state[0][0]), state[0] * force

    forces = jnp.arange(1.0, 4.0) * x[0]
    (state, count, product), path = jax.lax.scan(step, (x, 0, 1.0), forces, reverse=True)
    return {"state": state * count, "path": path, "product": product}


def branched(x):
    return jax.lax.cond(x[0] > 0, lambda x: x**2 * x[1], lambda x: jnp.sin(x) * x[1], x)


def sorted_and_counted(x):
    return jnp.sort(x) ** 2 * jnp.argmax(x) + jnp.cumsum(x**3)


CASES = {
    "network": (network, X),
    "determinant": (determinant, POINTS),
    "simulated": (simulated, X),
    "edges": (lambda x: jnp.sum(jnp.cos(x[EDGES[0]] - x[EDGES[1]])), X),
    "cubes": (lambda x: x**3, POINTS),
    "products": (lambda x: jnp.sin(x @ x.T)[:2], POINTS),
    "neighbours": (lambda x: x[1:] * x[:-1] ** 2 + x[0] ** 2, X),
    "distances": (lambda x: jnp.linalg.norm(x[:2] - x[1:], axis=1), POINTS),
    "branch": (branched, X),
    "sort": (sorted_and_counted, X),
    "constant and linear": (lambda x: (jnp.ones(3), 2 * x), X),
    "activations": (lambda x: jnp.sum(jax.nn.silu(x @ W.T) ** 2 + jax.nn.relu(x[0])), X),
    "number": (lambda x: x**4, jnp.float64(0.3)),
    "empty": (lambda x: jnp.sum(x**2) + 1, jnp.zeros(0)),
    "complex": (lambda x: jnp.exp(1j * x) * x[0], X),
    "through complex": (lambda x: jnp.abs(jnp.fft.fft(x)) ** 2 * x[0], X),
}
cases = pytest.mark.parametrize("fun, x", CASES.values(), ids=CASES)
METHODS = ["auto", "forward", "hessian"]


def traced(fun, x):
    """Traces of the Hessians of all outputs."""
    size, rank = np.size(x), np.ndim(x)

    def trace(hess, value):
        square = hess.reshape(*hess.shape[: hess.ndim - 2 * rank], size, size)
        return jnp.einsum("...ii->...", square).astype(jnp.result_type(value))

    return jax.tree.map(trace, jax.jit(jax.jacfwd(jax.jacfwd(fun)))(x), fun(x))


def strong(tree):
    """The same without weak types."""
    return jax.tree.map(lambda k: jnp.asarray(k, jnp.result_type(k)), tree)


@cases
def test_laplacians(fun, x):
    expected = traced(fun, x)
    for method in METHODS:
        assert_agree(strong(jax.jit(laplacian(fun, method=method))(x)), strong(expected))
    value, jacobian, result = jax.jit(forward_laplacian(fun))(x)
    assert_agree(strong(result), strong(expected))
    assert_agree(strong(value), strong(fun(x)))
    assert_agree(strong(jacobian), strong(jax.jacfwd(fun)(x)))


def test_without_jit():
    for method in METHODS:
        assert_agree(laplacian(network, method=method)(X), traced(network, X))
    assert_agree(forward_laplacian(network)(X)[2], traced(network, X))


def test_in_single_precision():
    x = X.astype(jnp.float32)

    def fun(x):
        return jnp.sum(jnp.tanh(jnp.asarray(W, x.dtype) @ x) ** 2)

    for method in METHODS:
        assert_agree(laplacian(fun, method=method)(x), traced(fun, x))


def test_trees_argnums_and_aux():
    def fun(p, n, y):
        value = {"a": jnp.sum(p["u"] ** 3) * y[0] ** n, "b": y * p["v"] ** 2}
        return value, {"n": n, "y": 2 * y}

    p, y = {"u": X, "v": jnp.array(2.0)}, jnp.array([1.0, 3.0])
    a = 6 * X.sum() * y[0] ** 3 + 6 * y[0] * (X**3).sum()
    expected = {"a": a, "b": 2 * y}
    for method in METHODS:
        found, aux = laplacian(fun, (0, 2), has_aux=True, method=method)(p, 3, y)
        assert_agree(found, expected)
        assert aux["n"] == 3
        assert_agree(aux["y"], 2 * y)
    (value, aux), jacobian, found = forward_laplacian(fun, (0, -1), has_aux=True)(p, 3, y)
    assert_agree(found, expected)
    assert_agree(value, fun(p, 3, y)[0])
    assert aux["n"] == 3
    reference = jax.jacfwd(lambda p, y: fun(p, 3, y)[0], (0, 1))(p, y)
    assert_agree(jacobian, reference)
    only = laplacian(lambda *at: fun(*at)[0], 2)(p, 3, y)
    assert_agree(only, {"a": 6 * y[0] * (X**3).sum(), "b": jnp.zeros(2)})


def test_mapped_and_differentiated():
    points = jnp.stack([X, X**2, 1 - X])
    for method in ("forward", "hessian"):
        own = laplacian(network, method=method)
        reference = jax.vmap(lambda x: traced(network, x))(points)
        assert_agree(jax.vmap(own)(points), reference)
        assert_agree(jax.grad(own)(X), jax.grad(lambda x: traced(network, x))(X))


def on_links(n):
    links = np.random.default_rng(1).integers(0, n, (2, 2 * n))
    return lambda x: jnp.sum(jnp.cos(x[links[0]] - x[links[1]]))


SEPARABLE = {
    "chain": lambda n: lambda x: jnp.sum(x[1:] * x[:-1] ** 2),
    "groups": lambda n: lambda x: jnp.sum(jnp.linalg.norm(x.reshape(-1, 5), axis=1) ** 3),
    "array": lambda n: lambda x: x**3 + jnp.roll(x, 1) ** 2 * x,
    "graph": on_links,
}


@pytest.mark.parametrize("of_size", SEPARABLE.values(), ids=SEPARABLE)
def test_sums_of_functions_of_few_inputs_form_no_hessian(of_size):
    n = 10_000
    compiled = jax.jit(laplacian(of_size(n))).lower(jnp.ones(n)).compile()
    # A hundred vectors, where a Hessian or a Jacobian would be ten thousand.
    assert compiled.memory_analysis().temp_size_in_bytes < 100 * 8 * n
    x = jnp.linspace(0.5, 1.5, 20)
    assert_agree(jax.jit(laplacian(of_size(20)))(x), traced(of_size(20), x))


def test_the_cheaper_way_is_taken(caplog):
    n = 40
    weights = RNG.normal(size=(200, n)) / 10, RNG.normal(size=(200, 200)) / 10

    def dense(x):
        return jnp.sum(jnp.tanh(weights[1] @ jnp.tanh(weights[0] @ x)))

    with caplog.at_level("INFO", "jax_cce"):
        laplacian(dense)(jnp.ones(n))
        laplacian(lambda x: jnp.sum(x[1:] * x[:-1] ** 2))(jnp.ones(n))
    ways = [k.split(": ")[1].split()[0] for k in caplog.messages if k.startswith("Laplacian of")]
    assert ways == ["forward", "hessian"]


@jax.custom_vjp
def halved(x):
    return x**2


halved.defvjp(lambda x: (x**2, x), lambda x, g: (x * g,))


def test_what_has_no_forward_mode_goes_by_its_hessian():
    def fun(x):
        return jnp.sum(halved(x) * x)

    expected = jnp.trace(jax.jacrev(jax.jacrev(fun))(X))
    for method in ("auto", "hessian"):
        assert_agree(laplacian(fun, method=method)(X), expected)
    with pytest.raises(TypeError, match="custom_vjp"):
        laplacian(fun, method="forward")(X)
    with pytest.raises(TypeError, match="custom_vjp"):
        forward_laplacian(fun)(X)


def test_control_flow_on_values():
    def fun(x):
        return x**3 if x[0] > 0 else jnp.sum(x**2), {"sign": x[0] > 0}

    for x, expected in ((-jnp.abs(X), jnp.float64(10.0)), (jnp.abs(X), 6 * jnp.abs(X))):
        found, aux = laplacian(fun, has_aux=True)(x)
        assert_agree(found, expected)
        assert bool(aux["sign"]) == bool(x[0] > 0)
        (value, _), jacobian, found = forward_laplacian(fun, has_aux=True)(x)
        reference = jax.jacfwd(lambda x: fun(x)[0])(x)
        assert_agree((value, jacobian, found), (fun(x)[0], reference, expected))


def test_what_is_refused():
    with pytest.raises(ValueError, match="method must be one of"):
        laplacian(network, method="colouring")
    for transform in (laplacian, forward_laplacian):
        with pytest.raises(TypeError, match="requires inputs of real dtypes, but got complex128"):
            transform(lambda z: jnp.sum(jnp.abs(z)))(X + 0j)
        with pytest.raises(TypeError, match="int"):
            transform(lambda x: x * 1.0)(3)
        with pytest.raises(ValueError, match="argnums"):
            transform(network, 1)(X)
        with pytest.raises(TypeError, match="callable"):
            transform(3)


@pytest.mark.parametrize("name", ["network", "simulated", "products"])
def test_curvature(name):
    fun, x = CASES[name]
    v = jnp.asarray(RNG.normal(size=x.shape))
    value, slope, second = curvature(fun, (x,), (v,))
    assert_agree(value, fun(x))
    assert_agree(slope, jax.jvp(fun, (x,), (v,))[1])
    hess = jax.jit(jax.jacfwd(jax.jacfwd(fun)))(x)
    form = {1: "...ij,i,j->...", 2: "...ijkl,ij,kl->..."}[x.ndim]
    assert_agree(second, jax.tree.map(lambda h: jnp.einsum(form, h, v, v), hess))


def test_curvatures_along_many_directions_of_several_arguments():
    def fun(x, y):
        return network(x) * jnp.sum(y**3)

    y = jnp.array([1.0, 2.0])
    v, w = jnp.asarray(RNG.normal(size=(4, 5))), jnp.asarray(RNG.normal(size=(4, 2)))
    found = jax.vmap(lambda v, w: curvature(fun, (X, y), (v, w))[2])(v, w)
    joint = jax.hessian(lambda z: fun(z[:5], z[5:]))(jnp.concatenate([X, y]))
    both = jnp.concatenate([v, w], 1)
    assert_agree(found, jnp.einsum("ki,ij,kj->k", both, joint, both))
    with pytest.raises(TypeError):
        curvature(network, (X,), (X, X))
