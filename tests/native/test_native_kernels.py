"""Kernels compute what JAX does, at points and in batches of any size."""

import threading

import jax
import jax.numpy as jnp
import jax.scipy as jsp
import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from jax import lax

import jax_cce
from cases.agreement import assert_agree
from cases.differences import differences, perturbed
from cases.natively import is_native
from cases.programs import Program, programs
from cases.uses import FUNCTIONS as USED
from cases.uses import USES
from cases.uses import X as POINT

pytestmark = pytest.mark.usefixtures("quiet")

A = np.linspace(-1.0, 2.0, 12).reshape(4, 3)


def rotation(angle):
    c, s = jnp.cos(angle), jnp.sin(angle)
    return jnp.array([[c, -s, 0.0], [s, c, 0.0], [0.0, 0.0, 1.0]])


def square(x):
    return jnp.outer(x, x[::-1]) + jnp.diag(2 + x)


@jax.custom_jvp
def own_rule(x):
    return jnp.sin(x)


@own_rule.defjvp
def _(primals, tangents):
    # Not its derivative, so that it is seen whether the rule is followed.
    return own_rule(*primals), 3 * own_rule(primals[0]) * primals[0] * tangents[0]


FUNCTIONS = {
    "sums and products": lambda x: jnp.array([x[0] * x[1] - x[2], x[3] / (1 + x[0] ** 2)]),
    "transcendental": lambda x: jnp.sin(x) * jnp.exp(-x) + jnp.log1p(x**2) * jnp.tanh(x[::-1]),
    "powers": lambda x: x**3 - x**-2 + (x + 1) ** 2.5 + jnp.sqrt(x + 2) * lax.rsqrt(x + 3),
    "rotations": lambda x: rotation(x[0]) @ rotation(x[1]).T @ x[1:],
    "matrix": lambda x: jnp.tanh(A.astype(x.dtype) @ x[:3]) * x[3],
    "outer": lambda x: jnp.outer(x, jnp.cos(x)),
    "einsum": lambda x: jnp.einsum("i,jk,k->ij", x, A.astype(x.dtype), x[:3]),
    "gather": lambda x: x[jnp.array([3, 0, 0, 2])] * x,
    "update": lambda x: x.at[1].set(x[2] * x[0]).at[3].add(x[1]) ** 2,
    "pad and roll": lambda x: jnp.roll(x, 1) * jnp.pad(x[:2], (1, 1), constant_values=0.5),
    "cumulative": lambda x: jnp.cumsum(x) * jnp.cumprod(x[::-1]),
    "reductions": lambda x: jnp.stack([jnp.sum(x**2), jnp.prod(x), jnp.mean(x), jnp.max(x)]),
    "choices": lambda x: jnp.maximum(x, 0.5) * jnp.minimum(x[::-1], 0.7) + jnp.clip(x, 0.2, 0.8),
    "where": lambda x: jnp.where(x > 0.5, x**2, jnp.sin(x)) * jnp.abs(x - 0.4),
    "logic": lambda x: jnp.where((x > 0.2) & ~(x[::-1] > 0.9) | (x == 0), x, -2 * x),
    "signs": lambda x: jnp.sign(x - 0.5) * x + jnp.floor(3 * x) * x[0] + lax.stop_gradient(x) * x,
    "scan": lambda x: lax.scan(lambda c, a: (jnp.sin(c * x[0]) + a, c * a), x[1], x)[1],
    "reverse scan": lambda x: lax.scan(lambda c, a: (c * a, c + a), x[0], x, reverse=True),
    "fori": lambda x: lax.fori_loop(0, 4, lambda k, c: c * x + k, x),
    "logistic": lambda x: jax.nn.sigmoid(x) * lax.erf(x) - lax.erfc(x) * jnp.exp2(x),
    "softmax": lambda x: jax.nn.softmax(x * 2),
    "angles": lambda x: (
        jnp.arctan2(x, x[::-1]) + jnp.arcsin(x / 2) + jnp.arccos(x / 2) + jnp.tan(x)
    ),
    "hyperbolic": lambda x: jnp.sinh(x) * jnp.cosh(x) + jnp.arcsinh(x) - jnp.arctan(x),
    "tree": lambda x: {"a": x[:2] ** 2, "b": [jnp.sum(x), x.reshape(2, 2) @ x.reshape(2, 2)]},
    "constant": lambda x: jnp.stack([x[0], 1.0 + 0 * x[1], 3.0]),
    "identity": lambda x: x,
    "multiplied in place": lambda x: x.at[jnp.array([2, 0])].multiply(x[:2], unique_indices=True),
    "update of constants": lambda x: x * jnp.zeros(4, x.dtype).at[jnp.array([1, 1, 3])].add(2.0),
    "cholesky": lambda x: jnp.linalg.cholesky(jnp.outer(x, x) + jnp.diag(1 + x**2)),
    "solve": lambda x: jnp.linalg.solve(square(x), x**2),
    "solve of several": lambda x: jnp.linalg.solve(square(x)[::-1][:3, :3], square(x)[:3, 1:3]),
    "gradient of a solve": jax.grad(lambda x: jnp.sum(jnp.linalg.solve(square(x)[::-1], x) ** 2)),
    "inverse": lambda x: jnp.linalg.inv(square(x)[:3, :3]),
    "determinants": lambda x: (jnp.linalg.det(square(x)), jnp.linalg.slogdet(square(x[::-1]))),
    "triangular solves": lambda x: [
        jsp.linalg.solve_triangular(square(x), y, lower=lower, trans=trans, unit_diagonal=unit)
        for y, lower, trans, unit in [(x, True, 0, False), (A.astype(x.dtype), False, 1, True)]
    ],
    "solve by cholesky": lambda x: jsp.linalg.cho_solve(
        jsp.linalg.cho_factor(jnp.outer(x, x) + jnp.diag(1 + x**2)), x[::-1]
    ),
    "rules of JAX": lambda x: jax.nn.relu(x - 0.5) + jax.nn.softplus(x) * jax.nn.gelu(x),
    "logsumexp": lambda x: jsp.special.logsumexp(x) * jnp.linalg.norm(x),
    "a rule of one's own": lambda x: own_rule(own_rule(x) * x[0]),
    "its gradient": jax.grad(lambda x: jnp.sum(own_rule(x) * x[0])),
    "cond": lambda x: lax.cond(x[0] > x[1], lambda x: x**2, lambda x: jnp.sin(x) * x[0], x),
    "switch": lambda x: lax.switch(jnp.sum(x > 0.4), [jnp.sin, jnp.cos, jnp.exp], x),
    "a branch for each platform": lambda x: (
        jnp.diagonal(jnp.outer(jnp.sin(x), x))
        + lax.platform_dependent(x, cpu=jnp.sin, default=lambda x: x)
    ),
    "pads by less than nothing": lambda x: lax.pad(jnp.outer(x, x), x[0], ((-1, 3, 1), (1, -2, 0))),
    "counts": lambda x: jnp.sum(x > 0.5) * x + jnp.where(jnp.sum(x > 0.1) == 4, x, 2 * x),
    "computed places": lambda x: jnp.sin(x)[jnp.array([0, 1]) + (x[0] < 0.5)] * x[2],
    "a computed slice": lambda x: lax.dynamic_slice(
        jnp.outer(x, x), (jnp.sum(x > 0.5), jnp.sum(x > 0.8) + 1), (2, 3)
    ),
    "a computed update": lambda x: lax.dynamic_update_slice(
        x**3, x[jnp.sum(x > 0.8)][None] * x[:2], (jnp.sum(x > 0.5),)
    ),
    "log-gamma": lambda x: jsp.special.gammaln(x) * jsp.special.betaln(x, 2 * x[0]),
    "digamma": lambda x: jsp.special.digamma(lax.stop_gradient(x) - 0.387) * x,
    "remainders": lambda x: jnp.fmod(5 * x, 0.7) * x + jnp.mod(-x, x[0] + 0.013),
    "more of angles": lambda x: jnp.arccosh(x + 1.5) + jnp.arctanh(x / 2) * jnp.cbrt(x),
}
X = np.array([0.3, 0.9, 0.6, 0.45])


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_at_a_point(name, dtype):
    fun, x = FUNCTIONS[name], jnp.asarray(X, dtype)
    jacobian = jax_cce.jacobian(fun)
    assert is_native(jacobian, x)
    value, expected = jax.jit(lambda x: (fun(x), jax.jacrev(fun)(x)))(x)
    assert_agree(jax.jit(jacobian)(x), expected)
    assert_agree(jax_cce.value_and_jacobian(fun)(x), (value, expected))


@pytest.mark.parametrize("name", FUNCTIONS)
def test_in_batches(name):
    fun = FUNCTIONS[name]
    mapped = jax.vmap(jax_cce.jacobian(fun))
    # Any first few of them lie on both sides of X.
    shifts = 0.2 * (0.3 + np.arange(100) * 0.618 % 1) - 0.16
    for dtype, sizes in {"float32": (3, 100), "float64": (1, 8, 13)}.items():
        points = np.asarray(X + shifts[: max(sizes), None], dtype)
        expected = jax.jit(jax.vmap(jax.jacrev(fun)))(points)
        for size in sizes:
            assert is_native(mapped, points[:size])
            ours = jax.jit(mapped)(points[:size])
            assert_agree(ours, jax.tree.map(lambda x, size=size: x[:size], expected))


@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize("f", USED, ids=lambda f: f.__name__)
@pytest.mark.filterwarnings("ignore:Some donated buffers")
def test_under(use, f):
    ours = USES[use](jax.jit(jax_cce.jacobian(f)), POINT)
    assert_agree(ours, USES[use](jax.jit(jax.jacfwd(f)), POINT), tolerance=1e-9)


def test_points_of_a_batch_do_not_depend_on_its_size():
    fun = FUNCTIONS["transcendental"]
    points = jnp.asarray(X + np.linspace(-0.2, 0.2, 29)[:, None])
    jacobian = jax.jit(jax.vmap(jax_cce.jacobian(fun)))
    whole = jacobian(points)
    for size in (1, 5, 8, 16, 21):
        np.testing.assert_array_equal(jacobian(points[:size]), whole[:size])


def test_arguments_that_are_the_same_for_all_points():
    def fun(x, scale, offset):
        return jnp.sin(x * scale) + offset["a"] * x[0]

    arguments = jnp.asarray(X + np.zeros((20, 1))), jnp.asarray(X * 2), {"a": jnp.float64(0.3)}
    axes = (0, None, None)

    def both(jacobian):
        return jax.jit(jax.vmap(jacobian(fun, argnums=(0, 1, 2)), axes))

    assert is_native(both(jax_cce.jacobian), *arguments)
    assert_agree(both(jax_cce.jacobian)(*arguments), both(jax.jacrev)(*arguments))
    nested = jax.vmap(jax.vmap(jax_cce.jacobian(fun), axes), (None, 0, None))
    scales = arguments[1] + jnp.arange(3.0)[:, None]
    expected = jax.vmap(jax.vmap(jax.jacrev(fun), axes), (None, 0, None))
    assert_agree(
        jax.jit(nested)(arguments[0], scales, arguments[2]),
        jax.jit(expected)(arguments[0], scales, arguments[2]),
    )


def test_auxiliary_data_and_hessians():
    def fun(x):
        y = jnp.sin(x) * x[0]
        return jnp.sum(y**2), {"y": y}

    jac, aux = jax.jit(jax_cce.jacobian(fun, has_aux=True))(jnp.asarray(X))
    assert_agree((jac, aux), jax.jacrev(fun, has_aux=True)(jnp.asarray(X)))
    hessian = jax_cce.hessian(lambda x: fun(x)[0])
    assert is_native(hessian, jnp.asarray(X))
    assert_agree(hessian(jnp.asarray(X)), jax.hessian(lambda x: fun(x)[0])(jnp.asarray(X)))


EMPTY = {
    "max": lambda x: jnp.max(x, initial=0.5),
    "min of rows": lambda x: jnp.min(jnp.outer(x, jnp.ones(2)), axis=1, initial=0.5),
    "max of columns": lambda x: jnp.max(jnp.outer(x, jnp.ones(2)), axis=0, initial=0.5),
    "sums": lambda x: (jnp.sum(x), jnp.prod(x), jnp.cumsum(x), jnp.cumprod(x), lax.cummax(x)),
    "order": lambda x: (jnp.sort(x), jnp.any(x > 0) * 2.0, jnp.all(x > 0) * 2.0, x[::-1]),
    "products": lambda x: (x @ x, jnp.outer(x, x), jnp.zeros((2, 0)) @ x),
    "loops": lambda x: lax.scan(lambda c, a: (c * a, c), 2.0, x),
    "map": lambda x: lax.map(jnp.sin, x),
    "joined": lambda x: jnp.concatenate([x, jnp.sin(x)]),
}


@pytest.mark.parametrize("name", EMPTY)
def test_empty_arrays(name, quiet):
    def fun(x):
        leaves = jax.tree.leaves(EMPTY[name](x[:0]))
        return [jnp.sin(x), *(jnp.sum(leaf) * x for leaf in leaves)]

    x = jnp.array([0.3, 0.8])
    assert_agree(jax_cce.jacobian(fun, backend="native")(x), jax.jacrev(fun)(x))


def test_the_largest_of_nothing_in_a_loop(quiet):
    def fun(x):
        start = jnp.zeros(2), jnp.zeros(0)
        return jax_cce.fixed_point(lambda y, x: (0.5 * y[0] + x, 0.5 * y[1]), start, x)

    x = jnp.array([0.3, 0.8])
    assert_agree(jax_cce.jacobian(fun)(x), jax.jacrev(fun)(x))
    points = jnp.stack([x, 2 * x])
    by_point = jax.jit(jax.vmap(jax_cce.jacobian(fun)))
    assert_agree(by_point(points), jax.vmap(jax.jacrev(fun))(points))


def test_auxiliary_results_of_a_solver():
    """JAX's forward mode fails there, in 0.10 and 0.12."""

    def fun(x):
        def by_matrix(matrix, y):
            return jnp.linalg.solve(matrix, y), (jnp.sum(y * x), jnp.int32(3))

        solution, (total, count) = lax.custom_linear_solve(
            lambda y: square(x) @ y,
            x**2,
            lambda _, y: by_matrix(square(x), y),
            transpose_solve=lambda _, y: by_matrix(square(x).T, y),
            has_aux=True,
        )
        return solution * count, total * x

    x = jnp.array([0.3, 0.8, 0.5, 0.9])
    expected = jax.jacrev(fun)(x)
    for options in ({"backend": "native"}, {"backend": "xla"}, {}):
        assert_agree(jax_cce.jacobian(fun, **options)(x), expected)
    points = jnp.stack([x, 2 * x])
    by_point = jax.vmap(jax_cce.jacobian(fun, backend="native"))
    assert_agree(by_point(points), jax.vmap(jax.jacrev(fun))(points))


def test_a_factorisation_fails_as_a_whole():
    def factor(x):
        return jnp.linalg.cholesky(jnp.outer(x, x) + jnp.diag(jnp.array([x[0], 1.0])))

    points = jnp.array([[0.3, 0.4], [-1.2, 0.5], [-0.5, 0.5]])
    mapped = jax.jit(jax.vmap(jax_cce.value_and_jacobian(factor)))
    assert is_native(mapped, points)
    (value, jac), expected = mapped(points), jax.vmap(factor)(points)
    assert_agree(value, expected)
    assert jnp.isnan(value[2, 0, 0])
    theirs = jax.vmap(jax.jacfwd(factor))(points)
    assert_agree(jac[:1], theirs[:1])
    # What does not depend on an input stays zero.
    assert jnp.isnan(jac[1:, 1, 1]).all()
    assert jnp.isnan(jac[1:, 0, 0, 0]).all()


def test_pivots_are_the_largest_and_the_first():
    def factor(x):
        return lax.linalg.lu(x)[0]

    points = jnp.array(
        [
            [[1.0, 2.0, 3.0], [-4.0, 5.0, 6.0], [4.0, 8.0, 7.0]],
            [[0.0, 1.0, 2.0], [0.0, 1.0, 3.0], [2.0, 1.0, 0.0]],
            # Singular: a pivot is zero, and all below it.
            [[1.0, 2.0, 3.0], [2.0, 4.0, 6.0], [1.0, 2.0, 5.0]],
            [[0.0, 2.0, 3.0], [0.0, 4.0, 6.0], [0.0, 2.0, 5.0]],
        ]
    )
    mapped = jax.jit(jax.vmap(jax_cce.value_and_jacobian(factor)))
    assert is_native(mapped, points)
    value, jac = mapped(points)
    assert_agree(value, jnp.stack([factor(x) for x in points]))
    assert_agree(jac[:2], jnp.stack([jax.jacfwd(factor)(x) for x in points[:2]]))
    solve = jax.vmap(jax_cce.value_and_jacobian(lambda x: jnp.linalg.solve(x, jnp.ones(3))))
    assert_agree(solve(points)[0], jnp.stack([jnp.linalg.solve(x, jnp.ones(3)) for x in points]))


def test_places_beyond_the_end():
    def taken(x):
        place = 3 * jnp.sum(x > 0)
        return [
            x.at[place].get(mode="fill", fill_value=7.0) * x[0],
            x.at[place].get(mode="clip") * x[0],
            x[place - 2],
        ]

    points = jnp.asarray(X) * jnp.sign(
        jnp.array([[1, 1, 1, 1], [1, -1, -1, -1], [-1, -1, -1, -1.0]])
    )
    ours = jax.vmap(jax_cce.value_and_jacobian(taken))
    assert is_native(ours, points)
    assert_agree(ours(points), jax.vmap(lambda x: (taken(x), jax.jacfwd(taken)(x)))(points))


def test_branches_that_are_not_taken_hide_what_is_not_finite():
    def guarded(x):
        root = lax.cond(x[0] > 0.5, jnp.sqrt, jnp.zeros_like, x[0] - 0.5)
        return root * x[1] + lax.cond(x[1] > 0, jnp.log, lambda y: y**2, x[1])

    points = jnp.array([[0.2, 0.0], [0.9, 0.5], [0.5, -1.0]])
    ours = jax.vmap(jax_cce.jacobian(guarded))
    assert is_native(ours, points)
    assert_agree(ours(points), jnp.stack([jax.jacrev(guarded)(x) for x in points]))


def test_zeros_are_cleared_in_large_results():
    def fun(x):
        return x[1:] * x[:-1]

    x = jnp.linspace(0.1, 1.0, 60)
    assert is_native(jax_cce.jacobian(fun), x)
    assert_agree(jax.jit(jax_cce.jacobian(fun))(x), jax.jacrev(fun)(x))
    points = x[:20] + jnp.arange(30.0)[:, None]
    assert is_native(jax.vmap(jax_cce.jacobian(fun)), points)
    assert_agree(jax.vmap(jax_cce.jacobian(fun))(points), jax.vmap(jax.jacrev(fun))(points))


def test_threads_compile_and_run_at_once():
    points = jnp.asarray(X + np.linspace(0, 0.1, 50)[:, None])
    results = {}

    def work(k):
        fun = lambda x: jnp.sin(k * x) * x[k % 4]  # noqa: E731
        results[k] = jax.jit(jax.vmap(jax_cce.jacobian(fun)))(points), fun

    threads = [threading.Thread(target=work, args=(k,)) for k in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for found, fun in results.values():
        assert_agree(found, jax.vmap(jax.jacrev(fun))(points))
    assert len(results) == 8


UNARY = {
    name: getattr(lax, name)
    for names in (
        "abs acos acosh asin asinh atan atanh cbrt ceil cos cosh erf erfc exp exp2 expm1 floor",
        "lgamma log log1p logistic neg",
        "rsqrt sign sin sinh sqrt square tan tanh",
    )
    for name in names.split()
}
UNARY |= {f"power {n}": lambda x, n=n: lax.integer_pow(x, n) for n in (-3, -1, 0, 1, 2, 3, 5, 8)}
BINARY = {
    name: getattr(lax, name)
    for name in ["add", "atan2", "div", "max", "min", "mul", "pow", "rem", "sub"]
}
SPECIAL = np.array(
    [0.0, -0.0, 0.5, -0.5, 1.0, -1.0, 2.0, -3.7, 20.0, 1e-8, 1e5, -1e5, np.inf, -np.inf, np.nan]
)


def _same(ours, theirs, tolerance, name):
    # Near its zeros log-gamma is a difference.
    limits = {"rtol": tolerance, "atol": tolerance * (1 if name == "lgamma" else 1e-2)}
    (value, derivative), (their_value, their_derivative) = ours, theirs
    np.testing.assert_allclose(value, their_value, **limits)
    # Where acosh is not defined, its derivative is by one version of JAX, and not by another.
    there = ~np.isnan(value)
    np.testing.assert_allclose(
        np.asarray(derivative)[there], np.asarray(their_derivative)[there], **limits
    )


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", UNARY)
def test_special_values_of_one_operand(name, dtype):
    fun, x = UNARY[name], jnp.asarray(SPECIAL, dtype)
    ours = jax.jit(jax.vmap(jax_cce.value_and_jacobian(fun)))
    assert is_native(ours, x)
    theirs = jax.jit(jax.vmap(lambda x: jax.jvp(fun, (x,), (jnp.ones_like(x),))))(x)
    tolerance = 2e-5 if dtype == "float32" else 1e-12
    _same(ours(x), theirs, tolerance, name)
    single = jax.jit(jax_cce.value_and_jacobian(fun))
    singles = [single(number) for number in np.asarray(x)]
    _same([np.stack(each) for each in zip(*singles, strict=True)], theirs, tolerance, name)


@pytest.mark.parametrize("name", BINARY)
def test_special_values_of_two_operands(name):
    fun = BINARY[name]
    x, y = (jnp.ravel(x) for x in jnp.meshgrid(SPECIAL, SPECIAL))
    ours = jax.jit(jax.vmap(jax_cce.jacobian(fun, argnums=(0, 1))))
    assert is_native(ours, x, y)
    one, zero = jnp.ones_like(x), jnp.zeros_like(x)
    derivative = jax.jit(lambda *tangents: jax.jvp(fun, (x, y), tangents))
    value, by_x = derivative(one, zero)
    _, by_y = derivative(zero, one)
    found = ours(x, y)
    # Of a product with the tangent zero JAX may make NaN.
    for our, their in zip(found, (by_x, by_y), strict=True):
        both = ~np.isnan(their)
        np.testing.assert_allclose(our[both], their[both], rtol=1e-12, atol=1e-15)
    values, _ = jax.jit(jax.vmap(jax_cce.value_and_jacobian(fun)))(x, y)
    np.testing.assert_allclose(values, value, rtol=1e-12)


def test_masks_hide_what_is_not_finite_as_in_jax():
    def after(x):
        return jnp.where(x > 0, jnp.sqrt(x), 0.0) * jnp.array([1.0, 2.0])

    def before(x):
        return jnp.sqrt(jnp.where(x > 0, x, 0.0))

    def on_both_sides(x):
        return jnp.where(x > 0, jnp.sqrt(jnp.where(x > 0, x, 0.0)), 0.0) * x[0]

    def of_sums(x):
        root = jnp.sqrt(x)
        return jnp.where(x > 0, root, 0.0) + jnp.where(x > 1, 2 * root, 0.0) - x

    def after_a_choice(x):
        root = jnp.sqrt(x)
        chosen = jnp.where(x[::-1] > 1, x[1] * root, jnp.sin(root))
        return jnp.where(x > 0, chosen * x[0], 0.0)

    def of_two_choices(x):
        root = jnp.sqrt(x)
        one = jnp.where(x[::-1] > 1, jnp.where(x > 0, x[1] * root, 0.0), 0.0)
        return one - jnp.where(x[::-1] > 2, jnp.where(x > 3, jnp.sin(root), 0.0), 0.0)

    x = jnp.array([0.0, 4.0])
    for fun, mode in (
        (after, jax.jacfwd),
        (after_a_choice, jax.jacfwd),
        (of_two_choices, jax.jacfwd),
        (before, jax.jacrev),
        (lambda x: on_both_sides(jnp.where(x > 0, x, 1.0)), jax.jacrev),
        (of_sums, jax.jacfwd),
    ):
        assert is_native(jax_cce.jacobian(fun), x)
        for points in (x, jnp.stack([x, x[::-1]])):
            ours = jax_cce.jacobian(fun)
            expected = mode(fun)
            if points.ndim > 1:
                ours, expected = jax.vmap(ours), jax.vmap(expected)
            assert_agree(jax.jit(ours)(points), jax.jit(expected)(points))


@settings(
    max_examples=60,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
@given(program=programs(), seed=st.integers(0, 100))
def test_random_programs(program: Program, seed: int):
    """Whatever is native of a random program, at a point and in a batch, agrees with JAX."""
    options = {"argnums": program.argnums, "has_aux": program.has_aux}
    points = 3 + seed % 9

    def both(*args):
        ours = jax_cce.jacobian(program.function, **options)(*args)
        stacked = jax.tree.map(lambda x: jnp.broadcast_to(x, (points, *jnp.shape(x))), args)
        mapped = jax.vmap(jax_cce.jacobian(program.function, **options))(*stacked)
        theirs = jax.jacrev(program.function, **options)(*args)
        return ours, jax.tree.map(lambda x: x[seed % points], mapped), theirs

    compiled = jax.jit(both, compiler_options={"xla_backend_optimization_level": 0})
    single, of_batch, theirs = compiled(*program.args)
    found = differences(single, theirs, program.rtol)
    found += differences(of_batch, theirs, program.rtol, types=False)
    if found:
        nearby = compiled(*perturbed(program))[2]
        assume(not differences(nearby, theirs, program.rtol))
    assert not found, "\n".join(found)


# What is infinite, NaN or a zero of either sign on the way to a value, and where it is asked for.
EXACT = {
    "a comparison": (lambda x: jnp.where(0 * (1 / x) == 0, x, 7 + 2 * x), 0.0),
    "a test": (lambda x: jnp.where(jnp.isnan(0 * jnp.log(x)), x, x * x), -2.0),
    "a masked factor": (lambda x: jnp.where(x > 0, x, 0.0) * (1 / x), 0.0),
    "a masked factor of a loop": (
        lambda x: lax.fori_loop(0, 600, lambda _, y: y + jnp.where(x > 0, x, 0.0) * (1 / x), x),
        0.0,
    ),
    "a negated mask": (lambda x: 1 / (-jnp.where(x > 0, x, 0.0)), -1.0),
    "a negated mask's factor": (lambda x: -jnp.where(x > 0, x, 0.0) * (1 / x) + x, 0.0),
    "a factor of a difference": (lambda x: (2.0 - jnp.where(x > 0, x, 2.0)) * jnp.log(x), 0.0),
    "zero by zero": (lambda x: 0 / x + x, 0.0),
    "an entry that is zero": (
        lambda x: (jnp.array([[1.0, 0.0], [0.0, 2.0]]) @ jnp.stack([x, 1 / x]))[0],
        0.0,
    ),
    "a rule": (lambda x: jax.nn.relu(x * 0.0 * jnp.log(x)), 0.0),
}


@pytest.mark.parametrize("batch", [None, 9])
@pytest.mark.parametrize("name", EXACT)
def test_values_are_exactly_those_of_jax(name, batch):
    f, point = EXACT[name]
    ours, theirs = jax_cce.value_and_jacobian(f), f
    x = jnp.asarray(point) if batch is None else jnp.full(batch, point)
    if batch is not None:
        ours, theirs = jax.vmap(ours), jax.vmap(f)
    assert is_native(ours, x)
    value, _ = jax.jit(ours)(x)
    assert_agree(value, theirs(x))
    forward = jax.jacfwd(f)(jnp.asarray(point))
    if jnp.isfinite(forward):
        assert_agree(jax_cce.jacobian(f)(jnp.asarray(point)), forward)


def test_zeros_of_values_cost_derivatives_nothing():
    """Entries that are zero are left out of derivatives, whatever they are multiplied by."""

    scales = jnp.array([2.0, 1.0, 3.0])
    matrix = jnp.diag(scales)

    def additions(f):
        reason = jax_cce.explain(f, backend="native")(jnp.ones(3)).backend_reason
        return int(reason.split()[3].replace(",", ""))

    by_matrix = additions(lambda x: matrix @ jnp.log(matrix @ jnp.exp(x)))
    assert by_matrix == additions(lambda x: scales * jnp.log(scales * jnp.exp(x)))


def test_nothing_to_compute_and_nothing_to_return(quiet):
    jacobian = jax_cce.jacobian(lambda x: x * 0.0 + 3, format="bcoo")
    assert jacobian(jnp.asarray(X)).nse == 0


@pytest.mark.parametrize(
    "fun",
    {
        "dot": lambda x: jnp.dot(x > 0, x) * x,
        "dot, the other way": lambda x: jnp.dot(x, x > 0) * x,
        "matrix": lambda x: jnp.outer(x, x) @ (x > 0),
        "einsum": lambda x: jnp.einsum("i,ij,j->i", x > 0, jnp.outer(x, x), x),
        "known": lambda x: jnp.array([True, False, True, True]) @ x * x,
        "of truths": lambda x: jnp.where(jnp.dot(x > 0, x > 1), x, x**2),
    }.items(),
    ids=lambda item: item[0],
)
@pytest.mark.parametrize("points", [None, 9])
def test_products_with_truth_values(fun, points, caplog):
    # JAX multiplies them by numbers as they are.
    _, fun = fun
    x = np.array([0.3, -0.2, 1.5, 0.1])
    jacobian, expected = jax_cce.jacobian(fun), jax.jacfwd(fun)
    if points:
        x = np.linspace(0.5, 1.5, points)[:, None] * x
        jacobian, expected = jax.vmap(jacobian), jax.vmap(expected)
    np.testing.assert_allclose(jax.jit(jacobian)(x), expected(x), rtol=1e-13, atol=1e-14)
    # Nothing failed on the way to machine code.
    assert not [record for record in caplog.records if record.name == "jax_cce"]
