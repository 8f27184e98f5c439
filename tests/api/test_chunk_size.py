"""chunk_size: a dense Jacobian a few columns or rows at a time is the Jacobian."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jax_cce
from cases.agreement import assert_agree

W = np.random.default_rng(0).normal(size=(3, 9)) / 3
X = jnp.linspace(-1.0, 1.0, 9)
Z = X + 0.5j * X[::-1]


def wide(x):
    return jnp.tanh(W @ jnp.sin(x))


def tall(x):
    return jnp.outer(x[:4], x) * x[0]


def tree(a, b):
    return {"product": a["x"] @ b, "sum": jnp.sum(b) * a["scale"], "fixed": jnp.ones(2)}


A = {"x": jnp.linspace(0.1, 1.0, 12).reshape(3, 4), "scale": 0.3}
B = jnp.linspace(-1.0, 1.0, 20).reshape(4, 5)


@pytest.mark.parametrize("chunk", [1, 4, 100])
@pytest.mark.parametrize(
    "order, mode", [("forward", "jacfwd"), ("reverse", "jacrev")], ids=["columns", "rows"]
)
def test_columns_and_rows(chunk, order, mode):
    for fun in (wide, tall):
        jacobian = jax_cce.jacobian(fun, order=order, chunk_size=chunk)
        assert_agree(jacobian(X), jax.jacrev(fun)(X))
        plan = jax_cce.plan(fun, order=order, chunk_size=chunk)(X)
        assert (plan.method, plan.chunk, plan.source) == (mode, chunk, "chunk_size")
        assert "as chunk_size asks for" in str(plan)


@pytest.mark.parametrize("fun, mode", [(wide, "jacrev"), (tall, "jacfwd")])
def test_auto_takes_the_shorter_side(fun, mode):
    assert jax_cce.plan(fun, chunk_size=3)(X).method == mode
    assert_agree(jax_cce.jacobian(fun, chunk_size=3)(X), jax.jacrev(fun)(X))


def test_trees_argnums_aux_and_values():
    how = {"argnums": (0, 1), "chunk_size": 2}
    assert_agree(jax_cce.jacobian(tree, **how)(A, B), jax.jacrev(tree, (0, 1))(A, B))
    value, jacobian = jax_cce.value_and_jacobian(tree, **how)(A, B)
    assert_agree(value, tree(A, B))
    assert_agree(jacobian, jax.jacrev(tree, (0, 1))(A, B))
    found = jax_cce.jacobian(lambda x: (wide(x), x), has_aux=True, chunk_size=4)(X)
    assert_agree(found, (jax.jacrev(wide)(X), X))


def test_under_transformations():
    def jacobian(x):
        return jax_cce.jacobian(wide, chunk_size=4)(x)

    points = jnp.stack([X, 2 * X, X**2])
    assert_agree(jax.jit(jacobian)(X), jax.jacrev(wide)(X))
    assert_agree(jax.vmap(jacobian)(points), jax.vmap(jax.jacrev(wide))(points))
    sums = [lambda x, j=j: jnp.sum(j(x) ** 2) for j in (jacobian, jax.jacrev(wide))]
    assert_agree(jax.jacfwd(sums[0])(X), jax.jacfwd(sums[1])(X))


def test_a_hessian_by_columns():
    def fun(x):
        return jnp.sum(wide(x) ** 2) * x[0]

    for chunk in (1, 4):
        assert_agree(jax_cce.hessian(fun, chunk_size=chunk)(X), jax.hessian(fun)(X))


@pytest.mark.parametrize("chunk", [1, 4])
def test_complex_numbers(chunk):
    how = {"chunk_size": chunk}

    def to_real(z):
        return jnp.abs(z) ** 2 * z.imag[0]

    def to_complex(x):
        return jnp.exp(1j * x) * x[0]

    def holomorphic(z):
        return jnp.sin(z) * z[0]

    assert_agree(jax_cce.jacobian(to_real, **how)(Z), jax.jacrev(to_real)(Z))
    for order in ("auto", "forward", "reverse"):
        found = jax_cce.jacobian(to_complex, order=order, **how)(X)
        assert_agree(found, jax.jacfwd(to_complex)(X))
        found = jax_cce.jacobian(holomorphic, holomorphic=True, order=order, **how)(Z)
        assert_agree(found, jax.jacrev(holomorphic, holomorphic=True)(Z))
    with pytest.raises(ValueError, match="forward mode does not define it"):
        jax_cce.jacobian(to_real, order="forward", **how)(Z)


@jax.custom_vjp
def clipped(x):
    return x**2


clipped.defvjp(lambda x: (x**2, x), lambda x, g: (jnp.clip(2 * x * g, -1, 1),))


@jax.custom_vjp
def halved(x):
    return x**2


halved.defvjp(lambda x: (x**2, x), lambda x, g: (x * g,))


@pytest.mark.parametrize("rule", [clipped, halved])
def test_what_has_a_pullback_only_goes_by_rows(rule):
    def fun(x):
        return 5 * rule(wide(x))

    assert jax_cce.plan(fun, chunk_size=4)(X).method == "jacrev"
    assert_agree(jax_cce.jacobian(fun, chunk_size=4)(X), jax.jacrev(fun)(X))
    with pytest.raises(ValueError, match="forward mode does not define it"):
        jax_cce.jacobian(fun, order="forward", chunk_size=4)(X)


@pytest.mark.parametrize("order", ["auto", "forward", "reverse"])
def test_control_flow_on_values(order):
    def fun(x):
        return tall(x) if x[0] < 0 else wide(x)

    assert_agree(jax_cce.jacobian(fun, order=order, chunk_size=4)(X), jax.jacrev(fun)(X))


@pytest.mark.parametrize("rule", [clipped, halved])
def test_control_flow_on_values_before_a_pullback(rule):
    def fun(x):
        return rule(tall(x)) if x[0] < 0 else wide(x)

    assert_agree(jax_cce.jacobian(fun, chunk_size=4)(X), jax.jacrev(fun)(X))


def test_what_only_one_mode_keeps_finite():
    def fun(x):
        return jnp.where(x > 0, jnp.sqrt(x), 0.0) * jnp.sum(x)

    x = jnp.array([0.0, 1.0, 4.0])
    assert jax_cce.plan(fun, chunk_size=2)(x).method == "jacfwd"
    assert_agree(jax_cce.jacobian(fun, chunk_size=2)(x), jax.jacfwd(fun)(x))


def test_less_memory():
    def fun(x):
        for _ in range(4):
            x = jnp.sin(mixing @ x)
        return x

    mixing = np.random.default_rng(1).normal(size=(200, 200)) / 20
    x = jnp.linspace(0.0, 1.0, 200)

    def temporaries(**how):
        compiled = jax.jit(jax_cce.jacobian(fun, **how)).lower(x).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    assert 3 * temporaries(chunk_size=10) < temporaries(order="reverse")


@pytest.mark.parametrize("chunk", [0, -1, 2.0, "all", True])
def test_no_number_of_columns(chunk):
    with pytest.raises(ValueError, match="chunk_size must be a number of columns or rows"):
        jax_cce.jacobian(wide, chunk_size=chunk)


@pytest.mark.parametrize(
    "how, message",
    [
        ({"order": "markowitz"}, "order='markowitz'"),
        ({"order": (0, 1)}, r"order=\(0, 1\)"),
        ({"search": "annealing"}, "Leave out search"),
        ({"max_bytes": 10**6}, "max_bytes finds the size of chunks itself"),
        ({"backend": "native"}, "XLA computes"),
        ({"format": "bcoo"}, "dense Jacobians, but got format='bcoo'"),
        ({"format": "structured"}, "format='structured'"),
    ],
)
@pytest.mark.parametrize("transform", [jax_cce.jacobian, jax_cce.value_and_jacobian])
def test_what_chunks_exclude(how, message, transform):
    with pytest.raises(ValueError, match=message):
        transform(wide, chunk_size=2, **how)


def test_effects_need_an_order():
    def fun(x):
        jax.debug.callback(lambda _: None, x[0])
        return wide(x)

    with pytest.raises(ValueError, match="no mode of JAX is sure"):
        jax_cce.jacobian(fun, chunk_size=2)(X)
    found = jax_cce.jacobian(fun, chunk_size=2, order="reverse")(X)
    assert_agree(found, jax.jacrev(wide)(X))
