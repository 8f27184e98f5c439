"""What is no array says so, and complex results of real arguments have a Jacobian."""

import operator
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import jax_cce
from cases.agreement import assert_agree
from cases.blocks import dense

X = jnp.array([0.3, 0.7, 1.1])
FORMATS = ["dense", "bcoo", "structured"]
ORDERS = ["auto", "forward", "reverse", "markowitz"]


CONVERSIONS = {
    "np.asarray": np.asarray,
    "np.array": np.array,
    "np.asarray of a dtype": lambda block: np.asarray(block, np.float32),
    "jnp.asarray": jnp.asarray,
    "jnp.array": jnp.array,
    "float": float,
    "int": int,
    "complex": complex,
    "bool": bool,
    "not": operator.not_,
    "len": len,
    "list": list,
    "unpacking": lambda block: [*block],
    "index": operator.index,
    "contains": lambda block: 1.0 in block,
    "==": lambda block: block == block,
    "!=": lambda block: block != 0,
    "<": lambda block: block < 1,
    ">=": lambda block: block >= block,
    "array ==": lambda block: block == X,
    "abs": abs,
    "round": round,
    "+": lambda block: block + 1,
    "array *": lambda block: X * block,
    "NumPy array *": lambda block: np.ones(3) * block,
    "/": lambda block: 2 / block,
    "assert_allclose": lambda block: np.testing.assert_allclose(block, np.eye(3)),
}


@pytest.mark.parametrize("name", CONVERSIONS)
def test_conversions_name_what_to_call(name):
    for x in (X, 2.0):
        block = jax_cce.jacobian(jnp.sin, format="structured")(x)
        with pytest.raises(TypeError, match=r"todense\(\)"):
            CONVERSIONS[name](block)


def test_what_is_no_conversion_works():
    block = jax_cce.jacobian(jnp.sin, format="structured")(X)
    full = block.todense()
    for vector in (X, np.asarray(X)):
        assert_agree(block @ vector, full @ X)
        assert_agree(vector @ block, X @ full)
    assert np.shape(block) == (3, 3)
    assert {block: 1}[block] == 1
    assert block is not None
    assert_agree(jax.jit(lambda b: jax.tree.map(lambda x: x, b).todense())(block), full)
    assert jax.tree.structure([block]) == jax.tree.structure([block])
    assert "StructuredJacobian" in repr(block)
    assert_agree(pickle.loads(pickle.dumps(jax.tree.leaves(block)))[0], jnp.cos(X))


COMPLEX = {
    "product": lambda x: x**2 * (1 + 1j),
    "exponential": lambda x: jnp.exp(1j * x) * x[::-1],
    "inner product": lambda x: jnp.exp(1j * x) @ x,
    "fft": lambda x: jnp.fft.rfft(jnp.sin(x)) * jnp.fft.fft(x)[:2],
    "conjugate": lambda x: jnp.conj(jnp.exp(1j * x)) * x,
    "absolute value": lambda x: jnp.abs(jnp.exp(1j * x) + x) * (2 + 1j),
    "real and imaginary": lambda x: jnp.sin(x) * 1j + jnp.exp(1j * x).real,
    "lax.complex": lambda x: lax.complex(x**2, jnp.sin(x[::-1])),
    "both": lambda x: (x * 1j, jnp.sin(x), {"n": x.astype(jnp.complex64)}),
    "narrow": lambda x: x.astype(jnp.float32) * np.complex64(1j),
    "constant": lambda x: np.complex128(3j),
    "part constant": lambda x: (x, jnp.ones(2) * 1j),
    "solve": lambda x: jnp.linalg.solve(jnp.eye(3) + 1j * jnp.diag(x), x),
    "scan": lambda x: lax.scan(lambda c, a: (c * a * 1j, c + a), x[0] * 1j, x),
    "while": lambda x: lax.fori_loop(0, 2, lambda i, z: z * x * 1j, x * 1j),
    "cond": lambda x: lax.cond(x[0] > 0, lambda x: x * 1j, lambda x: x + 0j, x),
    "where": lambda x: jnp.where(x > 0.5, x * 1j, x**2 + 0j),
    "custom": jax.custom_jvp(lambda x: x * 1j),
    "indices": lambda x: (x * 1j)[jnp.array([2, 2, 0])],
    "eigenvalues": lambda x: jnp.linalg.eigvals(jnp.diag(x) + jnp.eye(3)[::-1] * 0.1),
    "by value": lambda x: x * 1j if x[0] > 0 else x + 0j,
    "by value, conjugate": lambda x: jnp.conj(jnp.exp(1j * x)) * x if x[0] > 0 else x + 0j,
}
COMPLEX["custom"].defjvp(lambda p, t: (p[0] * 1j, t[0] * 1j))


@pytest.mark.parametrize("name", COMPLEX)
@pytest.mark.parametrize("form", FORMATS)
def test_complex_results_of_real_arguments(name, form):
    expected = jax.jacfwd(COMPLEX[name])(X)
    assert_agree(dense(jax_cce.jacobian(COMPLEX[name], format=form)(X)), expected)


@pytest.mark.parametrize("name", ["product", "fft", "conjugate", "both", "scan", "solve"])
@pytest.mark.parametrize("order", ORDERS)
def test_complex_results_in_every_order(name, order):
    f = COMPLEX[name]
    expected = jax.jacfwd(f)(X)
    ours = jax.jit(jax_cce.jacobian(f, order=order))(X)
    assert_agree(ours, expected)


def test_complex_results_of_several_arguments():
    def f(x, tree):
        return {"z": x * jnp.exp(1j * tree["a"]), "r": tree["b"] * x[0]}

    args = X.astype(jnp.float32), {"a": 0.5, "b": jnp.asarray(2.0, jnp.float16)}
    expected = jax.jacfwd(f, (0, 1))(*args)
    for form in ("dense", "structured"):
        ours = dense(jax_cce.jacobian(f, (0, 1), format=form)(*args))
        assert_agree(ours, expected, tolerance=1e-2)
    (value, aux), ours = jax_cce.value_and_jacobian(
        lambda x: (COMPLEX["conjugate"](x), {"x": x}), has_aux=True
    )(X)
    assert_agree(value, COMPLEX["conjugate"](X))
    assert_agree(aux, {"x": X})
    assert_agree(ours, jax.jacfwd(COMPLEX["conjugate"])(X))


def test_complex_results_under_transformations():
    f = COMPLEX["conjugate"]
    expected = jax.jacfwd(f)(X)
    assert_agree(jax.vmap(jax_cce.jacobian(f))(X[None])[0], expected)
    assert_agree(jax.jit(jax.vmap(jax_cce.jacobian(f)))(X[None])[0], expected)
    loss = [lambda x, J=J: jnp.sum(jnp.abs(J(f)(x)) ** 2) for J in (jax.jacfwd, jax_cce.jacobian)]
    assert_agree(jax.grad(loss[1])(X), jax.grad(loss[0])(X))


def test_complex_results_stay_sparse():
    block = jax_cce.jacobian(COMPLEX["product"], format="structured")(X)
    assert block.nnz == 3
    assert block.dtype == np.complex128
    assert jax_cce.jacobian(COMPLEX["exponential"], format="bcoo")(X).nse == 5


@pytest.mark.parametrize("form", FORMATS)
def test_second_derivatives_of_complex_results(form):
    def f(x):
        return jnp.sum(jnp.exp(1j * x) * x[::-1])

    expected = jax.jacfwd(jax.jacfwd(f))(X)
    assert_agree(dense(jax_cce.hessian(f, format=form)(X)), expected)


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize(
    "fun, args, options",
    [
        (lambda z: z * 2, (X + 1j,), {}),
        (lambda x, z: x * z, (X, X + 1j), {"argnums": (0, 1)}),
        (lambda n, x: x * n * 1j, (2, X), {"argnums": (0, 1), "allow_int": True}),
        (lambda x: (x * 1j, x.astype(int)), (X,), {}),
        (lambda x: x * 1j, (X,), {"holomorphic": True}),
    ],
)
def test_what_no_mode_of_jax_answers_is_refused(form, fun, args, options):
    with pytest.raises(TypeError):
        jax.jacrev(fun, **options)(*args)
    with pytest.raises(TypeError):
        jax_cce.jacobian(fun, format=form, **options)(*args)


@pytest.mark.parametrize("form", FORMATS)
def test_complex_arguments_of_real_results(form):
    def f(z, x):
        return jnp.abs(z) ** 2 * x + z.imag, x

    args = X + 1j, X
    expected = jax.jacrev(f, (0, 1))(*args)
    assert_agree(dense(jax_cce.jacobian(f, (0, 1), format=form)(*args)), expected)
    # One of the two is differentiated, and the other a constant.
    expected = jax.jacfwd(lambda x: args[0] * x)(X)
    assert_agree(dense(jax_cce.jacobian(lambda z, x: z * x, 1, format=form)(*args)), expected)


def test_plans_of_complex_results():
    plan = jax_cce.plan(COMPLEX["conjugate"])(jax.ShapeDtypeStruct((3,), jnp.float64))
    order = plan.order
    assert_agree(
        jax_cce.jacobian(COMPLEX["conjugate"], order=order)(X), jax.jacfwd(COMPLEX["conjugate"])(X)
    )
