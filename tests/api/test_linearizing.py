"""Functions whose linearisation multiplies by their Jacobian."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import jax_cce
from cases.agreement import assert_agree
from jax_cce import linearizing


def _integrated(x: jax.Array, rate: float = 0.1) -> jax.Array:
    return lax.fori_loop(0, 20, lambda _, x: x + rate * jnp.sin(x[::-1]) * x, x)


def _stencil(x: jax.Array) -> jax.Array:
    return x[1:-1] ** 2 * x[2:] + jnp.sin(x[:-2])


def _tree(params: dict, x: jax.Array, power: int) -> dict:
    return {
        "y": params["w"] @ jnp.tanh(x) ** power,
        "z": [jnp.sum(params["b"] * x), jnp.arange(3)],
    }


X = jnp.linspace(0.5, 1.5, 6)
TREE = ({"w": jnp.linspace(0.1, 0.9, 12).reshape(2, 6), "b": X[::-1]}, X, 3)


@pytest.mark.parametrize("form", [None, "dense", "bcoo", "structured"])
@pytest.mark.parametrize("fun", [_integrated, _stencil])
def test_both_modes_and_second_derivatives(fun, form):
    changed = linearizing(fun, format=form)
    assert_agree(changed(X), fun(X))
    for mode in (jax.jacfwd, jax.jacrev, jax_cce.jacobian, jax.hessian):
        assert_agree(jax.jit(mode(changed))(X), mode(fun)(X))


def test_many_inputs_stay_structured():
    x = jnp.linspace(0.0, 1.0, 5000)
    value, apply = jax.linearize(linearizing(_stencil), x)
    assert_agree(value, _stencil(x))
    assert_agree(apply(x), jax.jvp(_stencil, (x,), (x,))[1])
    largest = max(np.size(c) for c in jax.tree.leaves(apply.args))
    assert largest <= x.size


def test_an_application_has_no_loop():
    _, apply = jax.linearize(linearizing(_integrated), X)
    program = str(jax.make_jaxpr(apply)(X))
    assert "scan" not in program
    assert "sin" not in program
    assert "scan" in str(jax.make_jaxpr(jax.linearize(_integrated, X)[1])(X))


def test_pytrees_integers_and_names():
    def of_two(fun):
        return jax.jit(jax.jacrev(lambda params, x: fun(params, x, power=3)["y"], argnums=(0, 1)))(
            *TREE[:2]
        )

    changed = linearizing(_tree)
    assert_agree(of_two(changed), of_two(_tree))
    assert_agree(changed(*TREE), _tree(*TREE))
    tangents = (jax.tree.map(jnp.ones_like, TREE[0]), X)

    def pushed(fun):
        return jax.jvp(lambda params, x: fun(params, x, 3), TREE[:2], tangents)[1]

    found, expected = pushed(changed), pushed(_tree)
    assert_agree(found["y"], expected["y"])
    assert_agree(found["z"][0], expected["z"][0])
    assert found["z"][1].dtype == jax.dtypes.float0


def test_what_is_closed_over_is_differentiated():
    def outer(transform):
        return lambda a: jnp.sum(transform(lambda x: jnp.sin(a * x) * a)(X) ** 2)

    for of in (jax.grad, jax.hessian, lambda f: jax.vmap(jax.grad(f))):
        at = jnp.array([0.3, 0.4]) if of not in (jax.grad, jax.hessian) else jnp.array(0.3)
        assert_agree(of(outer(linearizing))(at), of(outer(lambda f: f))(at))


def test_under_vmap_of_points_and_of_tangents():
    points = jnp.stack([X, X[::-1]])
    assert_agree(
        jax.vmap(jax.jacfwd(linearizing(_integrated)))(points),
        jax.vmap(jax.jacfwd(_integrated))(points),
    )


def test_where_nothing_is_differentiated_nothing_moves():
    found = jax.jvp(
        lambda n, x: linearizing(_tree)(TREE[0], x, n)["y"],
        (3, X),
        (np.zeros((), jax.dtypes.float0), jnp.zeros_like(X)),
    )
    assert_agree(found[0], _tree(*TREE)["y"])
    assert_agree(found[1], jnp.zeros(2))


def test_errors():
    with pytest.raises(ValueError, match="format must be None or one of"):
        linearizing(_stencil, format="csr")
    with pytest.raises(ValueError, match="order"):
        jax.jvp(linearizing(_stencil, order="sideways"), (X,), (X,))
    with pytest.raises(TypeError, match="real-valued inputs"):
        jax.jvp(linearizing(lambda x: x * x), (X + 0j,), (X + 0j,))
    with pytest.raises(TypeError, match="callable"):
        linearizing(3)
