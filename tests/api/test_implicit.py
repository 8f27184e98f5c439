"""Fixed points, roots and minima: values, derivatives of three kinds, structure, and errors."""

import collections
import functools

import jax
import jax.extend
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import jax_cce
from jax_cce import fixed_point, minimum, one_step_error, root

MODES = [jax.jacfwd, jax.jacrev, jax_cce.jacobian]
modes = pytest.mark.parametrize("mode", MODES, ids=["jacfwd", "jacrev", "jax_cce"])

_MIXING = jnp.array(np.random.default_rng(0).normal(size=(5, 5)) * 0.15)


def scalar(x, a):
    return jnp.cos(a[0] * x) * a[1]


def vector(x, a):
    return jnp.tanh(_MIXING @ x * a[0]) + a


def pytree(x, a):
    return {
        "p": 0.3 * jnp.sin(x["q"][0]) + a,
        "q": (0.4 * jnp.cos(x["p"]) * a, 0.2 * x["q"][1] + jnp.sum(x["p"])),
    }


def matrix(x, a):
    return 0.1 * x @ x.T[:2, :2] + jnp.outer(a[:3], a[:2]) * 0.2


PROBLEMS = {
    "scalar": (scalar, jnp.array(0.1), jnp.array([0.8, 0.7])),
    "vector": (vector, jnp.zeros(5), jnp.linspace(0.2, 1.0, 5)),
    "pytree": (
        pytree,
        {"p": jnp.zeros(4), "q": (jnp.ones(4), jnp.array(1.0))},
        jnp.linspace(0.2, 1.0, 4),
    ),
    "matrix": (matrix, jnp.zeros((3, 2)), jnp.linspace(0.2, 1.0, 3)),
}
problems = pytest.mark.parametrize("problem", PROBLEMS.values(), ids=PROBLEMS)


def flat(tree):
    return jax.flatten_util.ravel_pytree(tree)[0]


def solutions(problem):
    """The fixed point as a function of the parameters, and the limit of the unrolled iteration."""
    step, x0, _ = problem
    return (
        lambda a: flat(fixed_point(step, x0, a)),
        lambda a: flat(fixed_point(step, x0, a, derivative="unrolled", steps=150)),
    )


def close(one, other, atol=1e-9):
    jax.tree.map(functools.partial(np.testing.assert_allclose, atol=atol, rtol=0), one, other)


@problems
def test_the_implicit_derivative_is_the_limit_of_the_unrolled_one(problem):
    step, x0, a = problem
    implicit, unrolled = solutions(problem)
    x = fixed_point(step, x0, a)
    assert jax.tree.structure(x) == jax.tree.structure(x0)
    close(step(x, a), x, atol=1e-11)
    expected = jax.jit(jax.jacfwd(unrolled))(a)
    assert abs(expected).max() > 1e-2
    for mode in MODES:
        close(jax.jit(mode(implicit))(a), expected)
    close(jax_cce.jacobian(implicit)(a), expected)
    many = jnp.stack([a, 0.9 * a])
    found, expected = (
        jax.jit(jax.vmap(jax.jacrev(implicit)))(many),
        jax.jit(jax.vmap(jax.jacfwd(unrolled)))(many),
    )
    close(found, expected)


@problems
def test_second_derivatives(problem):
    _, _, a = problem
    implicit, unrolled = solutions(problem)
    expected = jax.jit(jax.hessian(lambda a: jnp.sum(unrolled(a) ** 3)))(a)
    assert abs(expected).max() > 1e-2

    def total(a):
        return jnp.sum(implicit(a) ** 3)

    for nested in (
        jax.hessian(total),
        jax.jacrev(jax.jacrev(total)),
        jax.jacrev(jax.jacfwd(total)),
        jax_cce.hessian(total),
    ):
        close(jax.jit(nested)(a), expected)


def test_products_with_the_jacobian():
    a = PROBLEMS["vector"][-1]
    implicit, unrolled = solutions(PROBLEMS["vector"])
    expected = jax.jacfwd(unrolled)(a)
    along = jnp.linspace(-1.0, 1.0, 5)
    close(jax.jvp(implicit, (a,), (along,))[1], expected @ along)
    close(jax.vjp(implicit, a)[1](along)[0], along @ expected)
    close(jax.grad(lambda a: implicit(a) @ along)(a), along @ expected)


SIZE = 12
FORCE = jnp.linspace(1.0, 2.0, SIZE)


def elementwise(x, a):
    return (x + a / x) / 2


def in_pairs(x, a):
    return (0.3 * jnp.sin(x.reshape(-1, 2) @ _MIXING[:2, :2]) + a.reshape(-1, 2)).ravel()


def in_leaves(x, a):
    return {"p": 0.3 * jnp.sin(x["q"]) + a, "q": 0.4 * jnp.cos(x["p"]) * a}


def in_cycles(x, a):
    """Cycles of three, two and one unknowns, in an order that hides them."""
    return 0.5 * jnp.sin(x)[jnp.array([6, 5, 9, 3, 0, 1, 4, 11, 8, 2, 10, 7])] + a


def on_a_line(x, a):
    padded = jnp.pad(x, 1)
    return (padded[2:] + padded[:-2] - x**3 / 3) / 4 + 0.3 * a


@pytest.mark.parametrize(
    "step, x0, nse",
    [
        (elementwise, jnp.ones(SIZE), SIZE),
        (in_pairs, jnp.ones(SIZE), 2 * SIZE),
        (in_leaves, {"p": jnp.zeros(SIZE), "q": jnp.zeros(SIZE)}, 2 * SIZE),
        (in_cycles, jnp.zeros(SIZE), 9 + 3 * 4 + 3),
        (on_a_line, jnp.zeros(SIZE), SIZE * SIZE),
    ],
    ids=["elementwise", "pairs", "leaves", "cycles", "line"],
)
def test_structure_survives(step, x0, nse):
    def solution(a):
        return flat(fixed_point(step, x0, a))

    def by_newton(a):
        def residual(x, a):
            return jax.tree.map(jnp.subtract, x, step(x, a))

        return flat(root(residual, x0, a))

    expected = jax.jit(jax.jacrev(solution))(FORCE)
    close(jax.jit(by_newton)(FORCE), jax.jit(solution)(FORCE))
    for function in (solution, by_newton):
        close(jax.jit(jax.jacfwd(function))(FORCE), expected)
        sparse = jax_cce.jacobian(function, format="bcoo")(FORCE)
        assert sparse.nse == nse
        close(sparse.todense(), expected)
        structured = jax_cce.jacobian(function, format="structured")(FORCE)
        close(structured.todense(), expected)


def test_a_sparse_hessian():
    def total(a):
        return jnp.sum(fixed_point(elementwise, jnp.ones(SIZE), a) ** 3)

    sparse = jax_cce.hessian(total, format="bcoo")(FORCE)
    assert sparse.nse == SIZE
    close(sparse.todense(), jnp.diag(0.75 / jnp.sqrt(FORCE)))


def test_what_a_line_costs():
    """Of n unknowns in a line no matrix of n x n is formed."""
    size = 20_000

    def solution(a):
        return root(lambda x, a: x - on_a_line(x, a), jnp.zeros(size), a)

    a = jnp.linspace(0.0, 1.0, size)
    x, slope = jax.value_and_grad(lambda a: jnp.sum(solution(a)))(a)
    assert np.isfinite(x)
    assert slope.shape == (size,)
    close(solution(a), on_a_line(solution(a), a), atol=1e-12)


def factorisations(closed):
    """The LU factorisations in a program, by the shape of the matrix."""
    found = collections.Counter()

    def look(jaxpr):
        for equation in jaxpr.eqns:
            if equation.primitive.name == "lu":
                found[equation.invars[0].aval.shape] += 1
            for inner in jax.extend.core.jaxprs_in_params(equation.params):
                look(inner)

    look(closed.jaxpr)
    return found


@pytest.mark.parametrize("mode", MODES[:2], ids=["jacfwd", "jacrev"])
def test_one_factorisation_for_all_directions(mode):
    step, x0, a = PROBLEMS["vector"]
    program = jax.make_jaxpr(mode(lambda a: fixed_point(step, x0, a)))(a)
    assert factorisations(program) == {(5, 5): 1}


@modes
def test_what_a_step_closes_over(mode):
    def solution(a):
        scale, index = a[0], jnp.argmax(a)

        def inner(b):
            return fixed_point(lambda x: jnp.tanh(_MIXING @ x * scale) + b[index] + b, jnp.zeros(5))

        return jax.jit(inner)(a * 2)

    def unrolled(a):
        def step(_, x):
            return jnp.tanh(_MIXING @ x * a[0]) + 2 * a[jnp.argmax(a)] + 2 * a

        return jax.lax.fori_loop(0, 100, step, jnp.zeros(5))

    a = jnp.linspace(0.2, 1.0, 5)
    many = jnp.stack([a, a[::-1]])
    expected = jax.jit(jax.vmap(jax.jacrev(unrolled)))(many)
    close(jax.jit(mode(solution))(a), expected[0])
    close(jax.jit(jax.vmap(mode(solution)))(many), expected)


@modes
def test_points_of_a_batch_inside(mode):
    def solution(a):
        return jax.vmap(lambda a: fixed_point(vector, jnp.zeros(5), a))(a)

    a = jnp.linspace(0.1, 1.0, 15).reshape(3, 5)
    expected = jax.vmap(jax.jacrev(solutions(PROBLEMS["vector"])[1]))(a)
    found = jax.jit(mode(solution))(a)
    close(jnp.stack([found[k, :, k] for k in range(3)]), expected)
    # A batch of parameters on which the point does not depend.
    found = mode(lambda a: jax.vmap(lambda a: a * fixed_point(lambda x, _: jnp.cos(x), 0.5, a))(a))
    close(found(jnp.ones(3)), 0.7390851332151607 * jnp.eye(3))


def test_a_pullback_of_the_users_own_and_complex_parameters():
    @jax.custom_vjp
    def sine(x):
        return jnp.sin(x)

    sine.defvjp(lambda x: (jnp.sin(x), x), lambda x, cotangent: (cotangent * jnp.cos(x),))

    def solution(a, function):
        return fixed_point(lambda x, a: jnp.abs(a * function(_MIXING @ x) + 1j), a.real * 0, a)

    a = jnp.linspace(0.2, 1.0, 5)
    expected = jax.jacrev(solution)(a, jnp.sin)
    assert abs(expected).max() > 1e-2
    close(jax.jacrev(solution)(a, sine), expected)
    close(jax_cce.jacobian(lambda a: solution(a, sine))(a), expected)

    def at_angle(t):
        return solution(a * jnp.exp(1j * t), jnp.sin)

    slope = (at_angle(0.3 + 1e-6) - at_angle(0.3 - 1e-6)) / 2e-6
    close(jax.jacrev(at_angle)(0.3), slope, atol=1e-8)
    close(jax.jacfwd(at_angle)(0.3), slope, atol=1e-8)


def test_integers_keys_and_numbers_among_the_arguments():
    def solution(s, n, key):
        noise = jax.random.uniform(key)
        return fixed_point(lambda x, n, s, key: 0.5 * s * x + n + 0 * noise, 0.0, n, s, key)

    key = jax.random.key(0)
    slope = jax.grad(solution)(0.2, 3, key)
    assert abs(slope - 1.5 / 0.9**2) < 1e-11
    with jax.numpy_dtype_promotion("standard"):
        found = fixed_point(lambda x, a: 0.5 * x + a, 0.0, jnp.ones(3, "float32").sum())
    assert found.dtype == jnp.float32
    assert not found.weak_type


@pytest.mark.parametrize("dtype, accuracy", [("float32", 1e-5), ("float16", 2e-2)])
def test_lower_precision(dtype, accuracy):
    a = jnp.linspace(0.2, 1.0, 5).astype(dtype)
    mixing = _MIXING.astype(dtype)

    def solution(a):
        return fixed_point(lambda x, a: jnp.tanh(mixing @ x) + a, jnp.zeros(5, dtype), a)

    found = jax.jacrev(solution)(a)
    assert found.dtype == solution(a).dtype == dtype

    def precise(a):
        return fixed_point(lambda x, a: jnp.tanh(_MIXING @ x) + a, jnp.zeros(5), a)

    close(found.astype(float), jax.jacrev(precise)(a.astype(float)), atol=accuracy)


@pytest.mark.parametrize("kind", ["implicit", "one_step"])
@pytest.mark.parametrize("solver", [fixed_point, root, minimum])
def test_the_start_has_no_derivative(solver, kind):
    def function(x, a):
        return jnp.sum((x - a) ** 2) if solver is minimum else 0.3 * x + a

    slopes = jax.grad(lambda x, a: jnp.sum(solver(function, x, a, derivative=kind)), (0, 1))
    of_start, of_parameters = slopes(jnp.ones(3), jnp.ones(3))
    assert not of_start.any()
    assert of_parameters.all()


def test_unrolled_steps_are_those_of_a_loop():
    step, x0, a = PROBLEMS["vector"]

    def solution(x, a):
        return fixed_point(step, x, a, derivative="unrolled", steps=3)

    def loop(x, a):
        for _ in range(3):
            x = step(x, a)
        return x

    close(solution(x0, a), loop(x0, a), atol=1e-14)
    for mode in MODES:
        close(mode(solution, argnums=(0, 1))(x0, a), jax.jacrev(loop, (0, 1))(x0, a), atol=1e-14)


@pytest.mark.parametrize("contraction", [0.2, 0.6, 0.9])
def test_one_step_is_off_by_less_than_the_bound(contraction):
    draw = np.random.default_rng(1)
    rotation, _ = np.linalg.qr(draw.normal(size=(6, 6)))
    linear = jnp.array(rotation) @ jnp.diag(jnp.linspace(0.1, contraction, 6)) @ rotation.T
    inputs = jnp.array(draw.normal(size=(6, 4)))

    def step(x, a):
        return linear @ x + inputs @ a

    a = jnp.ones(4)
    exact = jax.jacrev(lambda a: fixed_point(step, jnp.zeros(6), a))(a)
    x = fixed_point(step, jnp.zeros(6), a)
    errors = []
    for steps in (1, 2, 4, 8):
        one_step = functools.partial(fixed_point, step, x, derivative="one_step", steps=steps)
        found = jax.jit(jax.jacrev(one_step))(a)
        bound = jax.jit(functools.partial(one_step_error, step, steps=steps))(x, a)
        np.testing.assert_allclose(bound.contraction, contraction, rtol=0.02)
        np.testing.assert_allclose(bound.sensitivity, jnp.linalg.norm(inputs, 2), rtol=0.02)
        errors.append(float(jnp.linalg.norm(found - exact, 2)))
        assert 0 < errors[-1] <= 1.05 * bound.bound
        np.testing.assert_allclose(
            errors[-1],
            jnp.linalg.norm(jnp.linalg.matrix_power(linear, steps) @ exact, 2),
            rtol=1e-8,
        )
    # As ρ^k.
    for less, more, ratio in zip(errors[1:], errors[:-1], (1, 2, 4), strict=True):
        assert less <= more * contraction**ratio * 1.001


def test_the_bound_where_steps_do_not_contract():
    error = one_step_error(lambda x, a: 2 * x + a, jnp.zeros(2), jnp.ones(2))
    assert error.contraction == pytest.approx(2)
    assert error.bound == np.inf
    free = one_step_error(lambda x, k: 0.5 * x + k, jnp.zeros(2), 3)
    assert (free.sensitivity, free.bound) == (0, 0)
    newton = one_step_error(lambda x, a: (x + a / x) / 2, jnp.array(2.0), 4.0)
    assert abs(newton.bound) < 1e-12


def test_one_step_of_newtons_method():
    """The error is in proportion to the distance before the last step, and is squared by each."""

    def residual(x, a):
        return x**3 + x - a

    a = jnp.array(5.0)
    exact = jax.grad(lambda a: root(residual, 2.0, a))(a)
    x = root(residual, 2.0, a)
    close(exact, 1 / (3 * x**2 + 1), atol=1e-14)

    def off(steps):
        unrolled = functools.partial(root, residual, derivative="unrolled", steps=steps)
        before = unrolled(2.0, a)

        def last_step(a):
            return root(residual, before, a, derivative="unrolled", steps=1)

        return abs(jax.grad(last_step)(a) - exact), abs(before - x)

    errors, distances = zip(*map(off, (1, 2, 3)), strict=True)
    for error, distance in zip(errors, distances, strict=True):
        assert error < distance
    assert errors[1] < 10 * errors[0] ** 2 < 1e-2
    assert errors[2] < 10 * errors[1] ** 2 < 1e-5
    converged = jax.grad(lambda a: root(residual, 2.0, a, derivative="one_step"))(a)
    close(converged, exact, atol=1e-11)


@modes
def test_minima(mode):
    data = jnp.array(np.random.default_rng(3).normal(size=(8, 3)))

    def objective(w, lam, y):
        w = jnp.append(w["w"], w["b"])
        return jnp.sum(jnp.logaddexp(0, -y * (data @ w))) + lam * w @ w

    def solution(lam, y):
        return flat(minimum(objective, {"w": jnp.zeros(2), "b": jnp.array(0.0)}, lam, y))

    def by_descent(lam, y):
        def step(w):
            return jax.tree.map(lambda w, g: w - 0.1 * g, w, jax.grad(objective)(w, lam, y))

        return flat(fixed_point(step, {"w": jnp.zeros(2), "b": jnp.array(0.0)}))

    args = jnp.array(0.5), jnp.linspace(-1.0, 1.0, 8)
    close(jax.jit(solution)(*args), jax.jit(by_descent)(*args))
    expected = jax.jit(jax.jacrev(by_descent, (0, 1)))(*args)
    close(jax.jit(mode(solution, argnums=(0, 1)))(*args), expected)


def test_what_does_not_converge_is_nan():
    def solution(a):
        return fixed_point(lambda x, a: a * x + 1, 1.0, a, maxiter=50)

    found = jax.jit(jax.vmap(solution))(jnp.array([0.3, 1.5, -1.0, 0.99, jnp.nan]))
    np.testing.assert_allclose(found[0], 1 / 0.7)
    assert jnp.isnan(found[1:]).all()
    overflown = fixed_point(lambda x: x**3, 2.0)
    assert jnp.isnan(overflown)
    assert jnp.isnan(root(lambda x: x**2 + 1, 0.5))
    singular = root(lambda x: x**2 + 1, 0.0)
    assert jnp.isnan(singular)
    # Before it has converged a looser tolerance is met.
    loose = fixed_point(lambda x: 0.99 * x + 1, 1.0, tol=5e-2, maxiter=50)
    assert jnp.isfinite(loose)


def test_nan_can_be_stopped_at():
    with jax.debug_nans(True):
        assert abs(fixed_point(jnp.cos, 1.0) - 0.7390851332151607) < 1e-11
        with pytest.raises(FloatingPointError):
            fixed_point(lambda x: x + 1, 1.0, maxiter=5)


def test_fixed_points_of_any_scale():
    for scale in (1e-200, 1.0, 1e200):
        found = fixed_point(lambda x, a: 0.5 * x + a, 0.0, scale)
        np.testing.assert_allclose(found, 2 * scale, rtol=1e-11)
    # The fixed point is 0.
    assert abs(fixed_point(lambda x: 0.9 * x, 1.0)) < 1e-10


@given(
    st.integers(0, 2**31),
    st.floats(0.0, 0.9),
    st.sampled_from(["diagonal", "tridiagonal", "blocks", "dense"]),
)
def test_random_contractions(seed, contraction, structure):
    size = 6
    draw = np.random.default_rng(seed)
    mask = {
        "diagonal": np.eye(size),
        "tridiagonal": np.tri(size, k=1) * np.tri(size, k=1).T,
        "blocks": np.kron(np.eye(3), np.ones((2, 2))),
        "dense": np.ones((size, size)),
    }[structure]
    linear = draw.normal(size=(size, size)) * mask
    linear *= contraction / max(np.linalg.norm(linear, 2), 1e-3)
    inputs = draw.normal(size=(size, 2))
    expected = np.linalg.solve(np.eye(size) - linear, inputs)
    for mode in compiled[structure]:
        close(mode(jnp.ones(2), jnp.array(linear), jnp.array(inputs)), expected, atol=1e-8)


def _steps():
    def dense(x, linear):
        return linear @ x

    def diagonal(x, linear):
        return jnp.diagonal(linear) * x

    def tridiagonal(x, linear):
        padded = jnp.pad(x, 1)
        lower = jnp.pad(jnp.diagonal(linear, -1), (1, 0))
        upper = jnp.pad(jnp.diagonal(linear, 1), (0, 1))
        return lower * padded[:-2] + jnp.diagonal(linear) * x + upper * padded[2:]

    def blocks(x, linear):
        parts = jnp.stack([linear[k : k + 2, k : k + 2] for k in (0, 2, 4)])
        return jnp.einsum("bij,bj->bi", parts, x.reshape(3, 2)).ravel()

    return [dense, diagonal, tridiagonal, blocks]


def _solution(product):
    def solution(a, linear, inputs):
        return fixed_point(lambda x, a: product(x, linear) + inputs @ a, jnp.zeros(6), a)

    return [jax.jit(mode(solution)) for mode in MODES]


compiled = {product.__name__: _solution(product) for product in _steps()}


def test_wrong_starts_and_steps():
    with pytest.raises(TypeError, match=r"fixed_point takes real .* x0\['a'\] has dtype int"):
        fixed_point(lambda x: x, {"a": 1})
    with pytest.raises(TypeError, match=r"root takes real .*, but x0 has dtype complex128"):
        root(lambda x: x, 1j)
    with pytest.raises(TypeError, match=r"minimum takes real .* dtype bool"):
        minimum(lambda x: x, True)
    with pytest.raises(
        TypeError, match=r"step must return .* float64\[3\] where x0\[1\] is float64\[2\]"
    ):
        fixed_point(lambda x: (x[0], jnp.ones(3)), (1.0, jnp.ones(2)))
    with pytest.raises(TypeError, match=r"residual must .* float32\[2\] where x0 is float64\[2\]"):
        root(lambda x: x.astype("float32"), jnp.ones(2))
    with pytest.raises(TypeError, match=r"step must return a pytree like x0, .* returned"):
        fixed_point(lambda x: [x], jnp.ones(2))
    with pytest.raises(TypeError, match="one_step_error takes real arguments"):
        one_step_error(lambda x, a: x * jnp.abs(a), 1.0, 1j)
    with pytest.raises(TypeError, match="scalar"):
        minimum(lambda x: x, jnp.ones(2))


def test_wrong_options():
    def step(x):
        return x / 2

    with pytest.raises(
        ValueError, match="one of 'implicit', 'one_step', 'unrolled', but got 'onestep'"
    ):
        fixed_point(step, 1.0, derivative="onestep")
    with pytest.raises(ValueError, match="takes no steps"):
        fixed_point(step, 1.0, steps=2)
    with pytest.raises(ValueError, match="as many steps as steps= says"):
        root(step, 1.0, derivative="unrolled")
    with pytest.raises(ValueError, match="steps must be a positive integer, but got 0"):
        fixed_point(step, 1.0, derivative="one_step", steps=0)
    with pytest.raises(TypeError, match="float"):
        fixed_point(step, 1.0, derivative="one_step", steps=1.5)
    with pytest.raises(ValueError, match="maxiter must be a positive integer, but got -1"):
        minimum(step, 1.0, maxiter=-1)
    with pytest.raises(ValueError, match="tol must be positive, but got 0"):
        fixed_point(step, 1.0, tol=0.0)
    with pytest.raises(ValueError, match="steps must be a positive integer"):
        one_step_error(step, 1.0, steps=-2)
