"""Jacobians of models: some leaves are differentiated, the others are anything."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jax_cce
from cases.agreement import assert_agree
from jax_cce import filter_jacobian

X = jnp.linspace(-1.0, 1.0, 3)
MODEL = {
    "layers": [
        {"w": jnp.linspace(0.1, 1.2, 12).reshape(4, 3), "b": np.linspace(0.0, 0.3, 4)},
        {"w": jnp.linspace(1.0, -1.0, 8).reshape(2, 4), "b": None},
    ],
    "activation": jnp.tanh,
    "name": "small",
    "steps": jnp.array(2),
    "scale": 0.5,
}


def run(model, x):
    first, second = model["layers"]
    hidden = model["activation"](first["w"] @ x + first["b"]) * model["scale"]
    for _ in range(int(model["steps"]) if not isinstance(model["steps"], jax.core.Tracer) else 2):
        hidden = hidden**2 + 1
    return {"out": second["w"] @ hidden}


def reference(model, x, keep):
    """By jax.jacrev of the leaves that `keep` picks."""
    leaves, tree = jax.tree.flatten(model)
    moves = [keep(leaf) for leaf in leaves]

    def of_moving(moving):
        fresh = iter(moving)
        own = [next(fresh) if m else leaf for m, leaf in zip(moves, leaves, strict=True)]
        return run(jax.tree.unflatten(tree, own), x)

    blocks = jax.jacrev(of_moving)([leaf for m, leaf in zip(moves, leaves, strict=True) if m])
    fresh = iter(blocks["out"])
    return {"out": jax.tree.unflatten(tree, [next(fresh) if m else None for m in moves])}


def is_array(leaf):
    return isinstance(leaf, jax.Array | np.ndarray) and jnp.issubdtype(leaf.dtype, np.inexact)


def test_arrays_of_floats_by_default():
    found = filter_jacobian(run)(MODEL, X)
    assert_agree(found, reference(MODEL, X, is_array))
    assert found["out"]["activation"] is found["out"]["steps"] is found["out"]["scale"] is None
    jitted = jax.jit(lambda layers, x: filter_jacobian(run)({**MODEL, "layers": layers}, x))
    assert_agree(jitted(MODEL["layers"], X), found)


def test_filters():
    def is_matrix(leaf):
        return is_array(leaf) and leaf.ndim == 2

    assert_agree(filter_jacobian(run, is_matrix)(MODEL, X), reference(MODEL, X, is_matrix))
    everything = filter_jacobian(run, lambda leaf: is_array(leaf) or isinstance(leaf, float))
    expected = reference(MODEL, X, lambda leaf: is_array(leaf) or isinstance(leaf, float))
    assert_agree(everything(MODEL, X), expected)
    rest = dict.fromkeys(MODEL, False)
    second = MODEL["layers"][1]["w"]
    prefix = {**rest, "layers": [False, is_array]}
    found = filter_jacobian(run, prefix)(MODEL, X)
    assert_agree(found, reference(MODEL, X, lambda leaf: leaf is second))


def test_several_arguments():
    def fun(scale, model, x):
        return run(model, x)["out"] * scale["by"]

    scale = {"by": jnp.float64(2.0), "of": "it"}
    found = filter_jacobian(fun, argnums=(0, 1))(scale, MODEL, X)
    assert_agree(found[0]["by"], run(MODEL, X)["out"])
    assert found[0]["of"] is None
    expected = jax.tree.map(lambda k: 2 * k, reference(MODEL, X, is_array)["out"])
    assert_agree(found[1], expected)
    only = filter_jacobian(fun, ({"by": True, "of": False}, False), argnums=(0, 1))
    assert jax.tree.leaves(only(scale, MODEL, X)[1]) == []
    assert_agree(only(scale, MODEL, X)[0], found[0])


@pytest.mark.parametrize("form", ["bcoo", "structured"])
def test_formats_aux_and_options(form):
    def fun(model, x):
        return model["w"] * x, {"name": model["name"]}

    model = {"w": X, "name": "diagonal"}
    jac, aux = filter_jacobian(fun, has_aux=True, format=form, order="reverse")(model, X)
    assert aux == {"name": "diagonal"}
    assert_agree(jac["w"].todense(), jnp.diag(X))
    assert jac["name"] is None
    chunked = filter_jacobian(run, chunk_size=2)(MODEL, X)
    assert_agree(chunked, reference(MODEL, X, is_array))


def test_nothing_to_differentiate():
    assert filter_jacobian(lambda m: m["n"] * jnp.ones(2))({"n": 3}) == {"n": None}


def test_what_is_refused():
    with pytest.raises(TypeError, match="Booleans and of functions that return one, but got 3"):
        filter_jacobian(run, lambda leaf: 3)(MODEL, X)
    with pytest.raises(ValueError, match=r"structure|[Ee]xpected"):
        filter_jacobian(run, {"layers": True})(MODEL, X)
    with pytest.raises(TypeError, match="allow_int"):
        filter_jacobian(lambda m: m["n"] * 1.0, True)({"n": 3})
    with pytest.raises(TypeError, match="not a valid JAX type"):
        filter_jacobian(lambda m: m["x"], True)({"x": X, "name": "text"})
    with pytest.raises(ValueError, match="format must be one of"):
        filter_jacobian(run, format="lil")
    with pytest.raises(ValueError, match="argnums"):
        filter_jacobian(run, argnums=2)(MODEL, X)
    with pytest.raises(TypeError, match="callable"):
        filter_jacobian(MODEL)


def test_models_of_equinox():
    equinox = pytest.importorskip("equinox")
    model = equinox.nn.MLP(3, 2, 4, 2, key=jax.random.key(0))

    def fun(model, x):
        return {"y": model(x)}, x

    found, expected = (
        transform(fun, has_aux=True)(model, X)
        for transform in (filter_jacobian, equinox.filter_jacrev)
    )
    assert_agree(found, expected)
    spec = jax.tree.map(lambda _: False, model)
    spec = equinox.tree_at(lambda m: m.layers[1].bias, spec, replace=True)
    found, _ = filter_jacobian(fun, spec, has_aux=True)(model, X)
    (only,) = jax.tree.leaves(found)
    assert_agree(only, expected[0]["y"].layers[1].bias)
    jitted = equinox.filter_jit(filter_jacobian(fun, has_aux=True))(model, X)
    assert_agree(jitted, expected)
    assert jax_cce.filter_jacobian is filter_jacobian
