"""Functions on which other Jacobian libraries for JAX were found wrong or stopping.

Graphax (on JAX 0.5.3) and asdex 0.5.1 were run on small functions; each row here is one that gave a
wrong number, a wrong type, a wrong tree, or an exception there.
"""

import functools
import operator
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import jax_cce
from cases.agreement import assert_agree
from cases.references import jitted_jacrev

ORDERS = ["auto", "forward", "reverse"]

X = jnp.array([0.3, -1.2, 2.1])
A = jnp.linspace(-1.0, 2.0, 12).reshape(3, 4)
S = jnp.array([[2.0, 0.3, -0.5], [0.1, 3.0, 0.7], [0.4, -0.2, 1.5]])  # Well conditioned.
SPD = S @ S.T + jnp.eye(3)


class Case(NamedTuple):
    """One call, ``jacobian(fun, **options)(*args)``, and the mode that JAX has for it."""

    name: str
    fun: Callable[..., Any]
    args: tuple[Any, ...]
    options: Mapping[str, Any] = MappingProxyType({})
    truth: Callable[..., Any] = jax.jacrev


@jax.custom_jvp
def _softplus(x):
    return jnp.logaddexp(x, 0.0)


_softplus.defjvps(lambda tangent, answer, x: 2.0 * tangent * (1 - jnp.exp(-answer)))


def _sine_with_gradient(rule):
    """The sine, whose cotangent `rule` maps, given the input."""

    @jax.custom_vjp
    def sine(x):
        return jnp.sin(x)

    sine.defvjp(lambda x: (jnp.sin(x), x), lambda x, cotangent: (rule(x, cotangent),))
    return sine


_scaled_gradient = _sine_with_gradient(lambda x, cotangent: 2.0 * x * cotangent)


@jax.custom_jvp
def round_straight_through_jvp(x):
    """Rounds; its tangent passes as if it were the identity."""
    return jnp.round(x)


round_straight_through_jvp.defjvp(
    lambda primals, tangents: (round_straight_through_jvp(*primals), *tangents)
)


@jax.custom_vjp
def round_straight_through_vjp(x):
    """Rounds; its cotangent passes as if it were the identity."""
    return jnp.round(x)


round_straight_through_vjp.defvjp(lambda x: (jnp.round(x), None), lambda _, cotangent: (cotangent,))


def _scan(x):
    return lax.scan(lambda c, a: (jnp.sin(c) * a + c, c @ c), x, A.T[:, :3])


def _while(x):
    return lax.while_loop(lambda y: jnp.sum(y**2) < 50, lambda y: 1.5 * y + x, x)


def _loss(x):
    return jnp.sum(jnp.tanh(A.T @ x) ** 2)


REPEATED_OPERANDS = [
    Case("x * x", lambda x: x * x, (X,)),
    Case("scalar x * x", lambda x: x * x, (jnp.float64(1.7),)),
    Case("x + x", lambda x: x + x, (X,)),
    Case("x - x", lambda x: x - x, (X,)),
    Case("x / x", lambda x: x / x + x, (X,)),
    Case("A @ A", lambda a: a @ a, (S,)),
    Case("x @ x", lambda x: x @ x, (X,)),
    Case("atan2(x, x)", lambda x: jnp.arctan2(x, x) * x, (X,)),
    Case("max(x, x)", lambda x: jnp.maximum(x, x), (X,)),
    Case("select(p, x, x)", lambda x: jnp.where(x > 0, x, x), (X,)),
    Case("intermediate squared", lambda x: (lambda y: y * y)(jnp.sin(x)), (X,)),
    Case("concatenate(x, x)", lambda x: jnp.concatenate([x, x]) ** 2, (X,)),
    Case("A + A.T", lambda a: a + a.T, (S,)),
    Case("outer(x, sin x)", lambda x: jnp.outer(x, jnp.sin(x)), (X,)),
    Case("sin of an outer sum", lambda x: jnp.sin(x[:, None] + x[None, :]), (X,)),
]

INPUTS = [
    Case("python float", lambda x: jnp.sin(x) * x, (0.7,)),
    Case("numpy array", lambda x: jnp.sin(x) * x, (np.array([0.3, -1.2]),)),
    Case("numpy scalar", lambda x: jnp.sin(x) * x, (np.float32(0.7),)),
    Case("float16 to float16", lambda x: jnp.tanh(x) * x, (X.astype(jnp.float16),)),
    Case("float16 matmul", lambda x: A.T.astype(x.dtype) @ x, (X.astype(jnp.float16),)),
    Case("float32 to float64", lambda x: x.astype(jnp.float64) ** 2, (X.astype(jnp.float32),)),
    Case("max is a float", jnp.max, (X,)),
    Case("max of float32", lambda x: jnp.max(x, axis=0), (A.astype(jnp.float32),)),
    Case("argnums 1", lambda x, a: a.T @ x, (X, A), {"argnums": 1}),
    Case("argnums (1, 0)", lambda x, a: a.T @ x, (X, A), {"argnums": (1, 0)}),
    Case("argnums [0]", lambda x, a: a.T @ x, (X, A), {"argnums": [0]}),
    Case("tree argument", lambda t: {"y": t["a"].T @ t["x"]}, ({"x": X, "a": A},)),
    Case("tree and argnums", lambda t, y: t[0] * y, ((X, A), X), {"argnums": (1, 0)}),
    Case("has_aux", lambda x: (jnp.sin(x), {"aux": x * 2}), (X,), {"has_aux": True}),
    Case("has_aux strings", lambda x: (jnp.sin(x), "a string"), (X,), {"has_aux": True}),
]

OUTPUTS = [
    Case("identity", lambda x: x, (X,)),
    Case("output is an input", lambda x, y: (x, x * y), (X, 2 * X), {"argnums": (0, 1)}),
    Case("output is a constant", lambda x: (jnp.arange(2.0), x * 2), (X,)),
    Case("only constants", lambda x: jnp.ones((2, 2)), (X,)),
    Case("(x, sin x)", lambda x: (x, jnp.sin(x)), (X,)),
    Case("(sin x, exp sin x)", lambda x: (lambda y: (y, jnp.exp(y), y))(jnp.sin(x)), (X,)),
]

VALUES = [
    Case("arcsinh", jnp.arcsinh, (X,)),
    Case("abs at 0", jnp.abs, (jnp.array([-1.0, 0.0, -0.0, 2.0]),)),
    Case("sqrt abs", lambda x: jnp.sqrt(jnp.abs(x)), (X,)),
    Case("lax.select", lambda x: lax.select(x > 0, x * 2, x**2), (X,)),
    Case("select of constants", lambda x: lax.select(x > 0, x, jnp.zeros(3)), (X,)),
    Case("full * broadcast", lambda a: jnp.full((3,), 1.0) * jnp.broadcast_to(a, (3,)), (0.4,)),
    Case("broadcast of a size-1 axis", lambda x: jnp.broadcast_to(x, (3, 4)), (A[:, :1],)),
    Case("product with a size-1 axis", lambda a: a * jnp.sin(a[:, :1]) * a[:1], (A,)),
    Case("size-1 axes only", lambda a: jnp.sin(a) * a.sum(0), (A[:1, :1],)),
    Case("batched einsum, b=1", lambda a: jnp.einsum("bij,bjk->bik", a, 2 * a), (S[None],)),
    Case("batched einsum, b=2", lambda a: jnp.einsum("bij,bjk->ikb", a, a), (jnp.stack([S, S]),)),
    Case("concatenate 2-D", lambda a: jnp.concatenate([a, jnp.sin(a)], axis=1), (A,)),
    Case("concatenate 2-D rows", lambda a: jnp.concatenate([a[:1], a, 2 * a]), (A,)),
    Case("min over an axis", lambda a: jnp.min(a, axis=1), (A,)),
    Case("min with ties", lambda a: jnp.min(jnp.round(a), axis=1), (A,)),
    Case("max over an axis", lambda a: jnp.max(a * a, axis=0), (A,)),
    Case("max with ties", jnp.max, (jnp.array([2.0, 1.0, 2.0]),)),
    Case("tile", lambda x: jnp.tile(jnp.sin(x), (2, 2)), (X,)),
    Case("stack of products", lambda x: jnp.stack([x[0] * x[1], x[1] * x[2], x[2]]), (X,)),
    Case("relu", jax.nn.relu, (X,)),
    Case("relu at 0", jax.nn.relu, (jnp.zeros(2),)),
    Case("logaddexp", lambda x: jnp.logaddexp(x, x[::-1]), (X,)),
    Case("where", lambda x: jnp.where(x > 0, jnp.sin(x), x**3), (X,)),
    Case("clip", lambda x: jnp.clip(x, -1.0, 1.0) * x, (X,)),
    Case("silu", jax.nn.silu, (X,)),
    Case("var", lambda a: jnp.var(a, axis=1), (A,)),
    Case("norm", jnp.linalg.norm, (A,)),
    Case("flip", lambda a: jnp.flip(a, 1) * a, (A,)),
    Case("roll", lambda x: jnp.roll(x, 1) * x, (X,)),
    Case("pad", lambda a: jnp.pad(a, ((1, 0), (0, 2))) ** 2, (A,)),
    Case("negative and interior pad", lambda x: lax.pad(x * x, 0.0, [(-1, 2, 1)]), (X,)),
    Case("sort", lambda a: jnp.sort(a * a, axis=1), (A,)),
    Case("cumsum", lambda a: jnp.cumsum(jnp.sin(a), axis=1), (A,)),
    Case("negative indices", lambda x: x[-1] * x[-2:], (X,)),
    Case(".at[].set", lambda x: x.at[1].set(jnp.sin(x[0])), (X,)),
    Case(".at[].set, negative", lambda x: jnp.zeros(4).at[-3:].set(x * x), (X,)),
    Case("conv", lambda x: jnp.convolve(x, jnp.sin(x)), (X,)),
    Case("conv 2-D", lambda a: lax.conv(a[None, None], S[None, None, :2], (1, 1), "SAME"), (A,)),
    Case("prod", lambda x: jnp.prod(x) * x, (X,)),
    Case("prod with a zero", jnp.prod, (jnp.array([0.0, 2.0, 3.0]),)),
    Case("argmax", lambda x: x[jnp.argmax(x)] * x, (X,)),
]

CALLS = [
    Case("custom_jvp", lambda x: _softplus(x) * x, (X,)),
    Case("custom_vjp", lambda x: _scaled_gradient(x * x) * x, (X,)),
    Case("cond", lambda x: lax.cond(x[0] > 0, jnp.sin, jnp.cos, x) * x, (X,)),
    Case("cond, other side", lambda x: lax.cond(x[1] > 0, jnp.sin, lambda y: y**2, x), (X,)),
    Case("switch", lambda x: lax.switch(2, [jnp.sin, jnp.cos, jnp.tan], x), (X,)),
    Case("scan", _scan, (X,)),
    Case("fori", lambda x: lax.fori_loop(0, 3, lambda i, y: jnp.sin(y) * x + i, x), (X,)),
    Case("while", _while, (X,), {}, jax.jacfwd),
    Case("remat", jax.checkpoint(lambda x: jnp.sin(jnp.sin(x)) * x), (X,)),
    Case("nested jit", jax.jit(lambda x: jax.jit(jnp.sin)(x) * jax.jit(jnp.sum)(x)), (X,)),
    Case("Jacobian of a grad", jax.grad(_loss), (X,)),
    Case("Jacobian of jacfwd", jax.jacfwd(lambda x: jnp.sin(A.T @ x)), (X,)),
]

LINALG = [
    Case("det", jnp.linalg.det, (S,)),
    Case("slogdet", lambda a: jnp.linalg.slogdet(a)[1], (S,)),
    Case("inv", jnp.linalg.inv, (S,)),
    Case("solve", jnp.linalg.solve, (S, X), {"argnums": (0, 1)}),
    Case("solve, many right sides", lambda a: jnp.linalg.solve(a, A), (S,)),
    Case("triangular solve", lambda a: lax.linalg.triangular_solve(a, S, lower=True), (S,)),
    Case("cholesky", jnp.linalg.cholesky, (SPD,)),
    Case("eigh", lambda a: jnp.linalg.eigh(a @ a.T)[0], (S,)),
    Case("qr", lambda a: jnp.linalg.qr(a)[1], (S,)),
    Case("svd", lambda a: jnp.linalg.svd(a, compute_uv=False), (A,)),
]

# What asdex raises on, and its forward mode's result type.
ASDEX = [
    Case("fft", lambda x: jnp.abs(jnp.fft.fft(x)), (X,)),
    Case("rfft", lambda x: jnp.fft.irfft(jnp.fft.rfft(x) ** 2, 4), (A[0],)),
    Case(
        "linear solve",
        lambda b: lax.custom_linear_solve(
            lambda v: S @ v,
            b,
            lambda _, r: jnp.linalg.solve(S, r),
            lambda _, r: jnp.linalg.solve(S.T, r),
        ),
        (X,),
    ),
    Case(
        "conjugate gradients", lambda b: jax.scipy.sparse.linalg.cg(lambda v: SPD @ v, b)[0], (X,)
    ),
    Case("igamma", lambda x: jax.scipy.special.gammainc(2.0, jnp.abs(x)), (X,)),
    Case("igamma, first argument", lambda a: jax.scipy.special.gammainc(jnp.abs(a), 1.5), (X,)),
    Case("cumlogsumexp", lax.cumlogsumexp, (X,)),
    Case(
        "forward-mode dtype",
        lambda x: jnp.sin(x.astype(jnp.float64)),
        (X.astype(jnp.float32),),
    ),
]

STRAIGHT_THROUGH = [
    Case(f"{kind}, {name}", functools.partial(f, ste), (X,))
    for kind, ste in [
        ("custom_jvp", round_straight_through_jvp),
        ("custom_vjp", round_straight_through_vjp),
    ]
    for name, f in [
        ("alone", lambda ste, x: ste(x)),
        ("between", lambda ste, x: jnp.sin(ste(x * x)) * x),
        ("quantised layer", lambda ste, x: ste(A.T @ ste(3 * x)) / 3),
        ("under jit", lambda ste, x: jax.jit(lambda y: ste(y) ** 2)(x)),
        ("under vmap", lambda ste, x: jax.vmap(lambda y: ste(y) * y)(x)),
        ("under scan", lambda ste, x: lax.scan(lambda c, _: (ste(c * x), c), x, None, 3)[0]),
        ("under cond", lambda ste, x: lax.cond(x[0] > 0, ste, jnp.sin, x)),
        ("under remat", lambda ste, x: jax.checkpoint(lambda y: ste(y) * y)(x)),
    ]
]

CASES = functools.reduce(
    operator.add,
    [REPEATED_OPERANDS, INPUTS, OUTPUTS, VALUES, CALLS, LINALG, ASDEX, STRAIGHT_THROUGH],
)


@functools.cache
def _truth(name: str) -> Any:
    case = next(case for case in CASES if case.name == name)
    jacobian = case.truth(case.fun, **case.options)
    if case.options.get("has_aux"):
        return jacobian(*case.args)
    # One compiled program; unjitted, JAX compiles each of its operations by itself.
    return jax.jit(lambda: jacobian(*case.args))()


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_agrees_with_jax(case, order):
    jacobian = jax_cce.jacobian(case.fun, order=order, **case.options)
    assert_agree(jacobian(*case.args), _truth(case.name))


def test_case_names_are_unique():
    assert len({case.name for case in CASES}) == len(CASES)


@pytest.mark.parametrize("ste", [round_straight_through_jvp, round_straight_through_vjp])
def test_straight_through_is_not_zero(ste):
    # asdex answers zeros: it differentiates the rounding itself.
    np.testing.assert_array_equal(jax_cce.jacobian(ste)(X), np.eye(3))


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("accuracy", [None, lax.AccuracyMode.HIGHEST], ids=str)
def test_logistic_near_saturation(accuracy, order):
    # out * (1 - out) cancels for large inputs, so ours may never be worse than JAX's own rule,
    # which is exact to rounding where the caller asks for the highest accuracy.
    def f(x):
        return lax.logistic(2 * x, accuracy=accuracy) * 2

    x = np.array([-30.0, -16.0, -9.0, 9.0, 14.0, 15.5, 16.5], np.float32)
    decay = np.exp(-np.abs(x.astype(np.float64)))
    exact = 4 * decay / (1 + decay) ** 2

    def error(jacobian):
        return np.abs(np.diag(jacobian) / exact - 1)

    bound = np.maximum(1e-6, 1.01 * error(jax.jacrev(f)(x / 2)))
    assert (error(jax_cce.jacobian(f, order=order)(x / 2)) <= bound).all()


# Rules that are no linear maps of the cotangent. JAX calls them with the cotangent of each output,
# so no local Jacobian can stand for them.
NONLINEAR_RULES = {
    "clip": lambda x, cotangent: jnp.clip(cotangent, -0.5, 0.5),
    "clip of a product": lambda x, cotangent: jnp.clip(cotangent * x, -0.5, 0.5),
    "select": lambda x, cotangent: jnp.where(cotangent > 0.5, 0.5, cotangent),
    "sign": lambda x, cotangent: jnp.sign(cotangent),
    "norm": lambda x, cotangent: cotangent / (1 + jnp.linalg.norm(cotangent)),
    "tanh": lambda x, cotangent: jnp.tanh(cotangent),
}


@pytest.mark.parametrize("order", ["auto", "forward"])
@pytest.mark.parametrize(
    "wrap",
    [
        lambda g, x: g(x),
        lambda g, x: 3 * g(x),
        lambda g, x: -g(2 * x) * x,
        lambda g, x: A.T @ g(jnp.cos(x)),
    ],
    ids=["alone", "before a factor", "between", "before a matrix"],
)
@pytest.mark.parametrize("rule", NONLINEAR_RULES.values(), ids=NONLINEAR_RULES)
def test_custom_vjp_that_is_nonlinear_in_the_cotangent(rule, wrap, order):
    f = functools.partial(wrap, _sine_with_gradient(rule))
    assert_agree(jax_cce.jacobian(f, order=order)(X), jax.jit(jax.jacrev(f))(X))


def test_no_sample_input():
    # One transformed function serves every shape and dtype.
    jacobian = jax_cce.jacobian(lambda x: jnp.sin(x) * jnp.sum(x))
    for x in [X, A, jnp.float32(2.0), A.astype(jnp.float32)]:
        assert_agree(jacobian(x), jax.jacrev(lambda x: jnp.sin(x) * jnp.sum(x))(x))


def _scan_both_results(x):
    carry, ys = lax.scan(lambda c, row: (jnp.sin(c) * row, c + row), x[0], x)
    return ys, carry


# Programs that random generation meets seldom, and that once took the planner into a circle or
# came out wrong.
@pytest.mark.parametrize(
    "f, shape",
    [
        (lambda x: jnp.linalg.qr(x), (3, 2)),
        (_scan_both_results, (4, 2)),
        (lambda x: x.at[0].add(0.75), (3,)),
        (jax.grad(lambda x: jnp.sum((jnp.sin(x) * x.sum()) ** 2)), (3,)),
    ],
    ids=["qr", "scan with both results", "at.add", "integer power one"],
)
@pytest.mark.parametrize("order", ["auto", "forward", "reverse", "markowitz"])
def test_planner_regressions(f, shape, order):
    x = np.random.default_rng(0).normal(size=shape)
    assert_agree(jax_cce.jacobian(f, order=order)(x), jitted_jacrev(f)(x))


def test_clipped_pullback_under_value_dependent_control_flow():
    clipped = jax.custom_vjp(jnp.sin)
    clipped.defvjp(lambda x: (jnp.sin(x), x), lambda x, c: (jnp.clip(c * jnp.cos(x), -0.5, 0.5),))

    def f(x):
        return 3 * clipped(x) * x if x[0] > 0 else x

    x = jnp.array([0.3, 0.2, 1.0])
    assert_agree(jax_cce.jacobian(f)(x), jax.jacrev(f)(x))
