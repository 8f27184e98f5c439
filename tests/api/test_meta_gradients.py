"""Meta-gradients against unrolled optimisers, closed forms and differences."""

import functools
import operator

import jax
import jax.extend
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.scipy import optimize as jsp_optimize

import jax_cce
from cases.agreement import assert_agree
from jax_cce import MetaGradient, meta_gradient

pytestmark = pytest.mark.one_version

SOLVERS = ["cg", "direct"]
solvers = pytest.mark.parametrize("solver", SOLVERS)


def data(seed, samples=12, features=4):
    draw = np.random.default_rng(seed)
    inputs = draw.normal(size=(samples, features))
    return jnp.array(inputs), jnp.array(draw.normal(size=samples))


def squares(params, task):
    inputs, targets = task
    return jnp.mean((inputs @ params - targets) ** 2) / 2


def classified(params, task):
    """A convex loss that is not quadratic, of a pytree of parameters."""
    inputs, targets = task
    margins = inputs @ params["weights"][0] + params["weights"][1]
    return jnp.mean(jnp.logaddexp(0, -jnp.sign(targets) * margins)) + 0.1 * jnp.sum(
        params["scale"] ** 4
    )


START = {"weights": (jnp.linspace(-0.3, 0.4, 4), jnp.array(0.2)), "scale": jnp.ones((2, 1))}


def unrolled(inner, outer, lam, params, train, validation):
    """The loss after many small steps of gradient descent."""

    def objective(phi):
        pulls = jax.tree.map(lambda a, b: jnp.sum(lam * (a - b) ** 2) / 2, phi, params)
        return inner(phi, train) + sum(jax.tree.leaves(pulls))

    def step(phi, _):
        return jax.tree.map(lambda p, g: p - 0.3 * g, phi, jax.grad(objective)(phi)), None

    phi, _ = jax.lax.scan(step, params, length=150)
    return outer(phi, validation)


@solvers
def test_it_is_the_limit_of_the_unrolled_one(solver):
    slow = functools.partial(unrolled, classified, classified, 1.3)
    value, expected = jax.jit(jax.value_and_grad(slow))(START, data(1), data(2))
    found = jax.jit(meta_gradient(classified, classified, 1.3, solver))(START, data(1), data(2))
    assert isinstance(found, MetaGradient)
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-8), found.gradient, expected)
    np.testing.assert_allclose(found.value, value, rtol=1e-10)
    assert found.stationarity < 1e-10
    assert found.residual < 1e-10
    np.testing.assert_allclose(classified(found.adapted, data(2)), value, rtol=1e-10)


def closed_form(lam, params, train, validation):
    inputs, targets = train
    matrix = inputs.T @ inputs / len(targets)
    lam = jnp.broadcast_to(lam, params.shape)
    phi = jnp.linalg.solve(matrix + jnp.diag(lam), lam * params + inputs.T @ targets / len(targets))
    return squares(phi, validation)


@solvers
@pytest.mark.parametrize("lam", [0.7, np.array([0.5, 1.0, 2.0, 4.0])], ids=["one", "each"])
def test_closed_form(solver, lam):
    params, tasks = jnp.linspace(0.0, 1.0, 4), (data(3), data(4))
    expected = jax.grad(closed_form, 1)(lam, params, *tasks)
    found = meta_gradient(squares, squares, lam, solver)(params, *tasks)
    np.testing.assert_allclose(found.gradient, expected, rtol=1e-9)


@solvers
def test_it_is_differentiated_again(solver):
    params, (train, validation) = jnp.linspace(0.0, 1.0, 4), (data(3), data(4))

    def found(lam, params, targets):
        task = train[0], targets
        return meta_gradient(squares, squares, lam, solver)(params, task, validation)

    def truth(lam, params, targets):
        return closed_form(lam, params, (train[0], targets), validation)

    at = 0.7, params, train[1]
    for mode in (jax.jacfwd, jax.jacrev, jax_cce.jacobian):
        ours = jax.jit(mode(lambda *args: found(*args).gradient, (0, 1, 2)))(*at)
        theirs = jax.jit(jax.jacfwd(jax.grad(truth, 1), (0, 1, 2)))(*at)
        for one, other in zip(ours, theirs, strict=True):
            np.testing.assert_allclose(one, other, atol=1e-9)
    ours = jax.grad(lambda *args: found(*args).value, (0, 1, 2))(*at)
    for one, other in zip(ours, jax.grad(truth, (0, 1, 2))(*at), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-9)


def lbfgs(objective, start):
    flat, unravel = jax.flatten_util.ravel_pytree(start)
    result = jsp_optimize.minimize(
        lambda x: objective(unravel(x)), flat, method="BFGS", options={"gtol": 1e-11}
    )
    return unravel(result.x)


@solvers
@pytest.mark.parametrize(
    "optimizer, steps",
    [
        (optax.sgd(0.3), 150),
        (optax.adam(0.05), 1200),
        (optax.sgd(0.2, momentum=0.8, nesterov=True), 150),
        (lbfgs, None),
    ],
    ids=["descent", "adam", "nesterov", "bfgs"],
)
def test_any_optimiser_gives_the_same(solver, optimizer, steps):
    newton = meta_gradient(classified, classified, 1.3, solver)
    other = meta_gradient(classified, classified, 1.3, solver, optimizer=optimizer, steps=steps)
    expected = newton(START, data(1), data(2))
    found = jax.jit(other)(START, data(1), data(2))
    assert_agree(found.gradient, expected.gradient, tolerance=1e-6)


@solvers
def test_batches_of_tasks(solver):
    find = meta_gradient(classified, classified, 1.3, solver)
    tasks, others = (
        jax.tree.map(lambda *leaves: jnp.stack(leaves), *map(data, seeds))
        for seeds in ((1, 5, 6), (2, 7, 8))
    )
    found = jax.jit(jax.vmap(find, (None, 0, 0)))(START, tasks, others)
    for k, (one, other) in enumerate([(1, 2), (5, 7), (6, 8)]):
        expected = find(START, data(one), data(other))
        assert_agree(jax.tree.map(operator.itemgetter(k), found.gradient), expected.gradient)


@pytest.mark.parametrize("iterations", [1, 2, 3])
def test_the_number_of_conjugate_gradients(iterations):
    """Their iterates minimise the energy over Krylov spaces."""
    params, train, validation = jnp.linspace(0.0, 1.0, 4), data(3), data(4)
    exact = meta_gradient(squares, squares, 0.7, "direct")(params, train, validation)
    optimizer = {"optimizer": lambda objective, start: exact.adapted}
    found = meta_gradient(squares, squares, 0.7, iterations=iterations, **optimizer)(
        params, train, validation
    )
    matrix = train[0].T @ train[0] / len(train[1]) + 0.7 * jnp.eye(4)
    pull = jax.grad(squares)(exact.adapted, validation)
    space = jnp.stack([jnp.linalg.matrix_power(matrix, k) @ pull for k in range(iterations)], 1)
    best = space @ jnp.linalg.solve(space.T @ matrix @ space, space.T @ pull)
    np.testing.assert_allclose(found.gradient, 0.7 * best, rtol=1e-8)
    missed = jnp.linalg.norm(pull - matrix @ best) / jnp.linalg.norm(pull)
    np.testing.assert_allclose(found.residual, missed, rtol=1e-8)
    assert missed > 1e-3


def test_memory_does_not_grow_with_the_steps():
    """Neither here nor where the loss is differentiated from outside."""
    params, train, validation = jnp.linspace(0.0, 1.0, 4), data(3), data(4)

    def temporaries(function):
        return jax.jit(function).lower(params).compile().memory_analysis().temp_size_in_bytes

    def sizes(make):
        return [temporaries(make(steps)) for steps in (10, 1000)]

    def implicit(steps):
        find = meta_gradient(squares, squares, 0.7, optimizer=optax.sgd(0.1), steps=steps)
        return lambda params: find(params, train, validation).gradient

    def from_outside(steps):
        find = meta_gradient(squares, squares, 0.7, optimizer=optax.sgd(0.1), steps=steps)
        return jax.grad(lambda params: find(params, train, validation).value)

    def stored(steps):
        def loss(params):
            def step(phi, _):
                slope = jax.grad(lambda x: squares(x, train) + 0.35 * jnp.sum((x - params) ** 2))
                return phi - 0.1 * jnp.sin(slope(phi)), None

            return squares(jax.lax.scan(step, params, length=steps)[0], validation)

        return jax.grad(loss)

    for make in (implicit, from_outside):
        few, many = sizes(make)
        assert few == many
    few, many = sizes(stored)
    assert many > 20 * few


HEADS, WIDTH = 60, 3


def heads(params, task):
    """Heads that share the features, and no parameter."""
    features, targets = task
    return jnp.mean(jnp.sum((features @ params["head"].T + params["bias"] - targets) ** 2, 1))


def test_heads_are_solved_one_by_one():
    draw = np.random.default_rng(2)
    train, validation = (
        (jnp.array(draw.normal(size=(9, WIDTH))), jnp.array(draw.normal(size=(9, HEADS))))
        for _ in range(2)
    )
    params = {"head": jnp.zeros((HEADS, WIDTH)), "bias": jnp.ones(HEADS)}
    direct = meta_gradient(heads, heads, 0.5, "direct")
    by_cg = meta_gradient(heads, heads, 0.5, "cg", iterations=100)
    expected = by_cg(params, train, validation)
    assert_agree(direct(params, train, validation).gradient, expected.gradient, tolerance=1e-8)
    unknowns = HEADS * (WIDTH + 1)
    assert largest(direct, params, train, validation) < unknowns**2 / 5
    # Of parameters that are shared it would be one matrix.

    def mixed(params, task):
        return (
            heads(params, task)
            + jnp.sum(jnp.sin(params["head"])) ** 2 * jnp.sum(params["bias"]) ** 2
        )

    dense = meta_gradient(mixed, heads, 500.0, "direct")
    assert largest(dense, params, train, validation) >= (HEADS * (WIDTH + 1)) ** 2


def largest(function, *args):
    """The size of the largest array in a program."""
    sizes = []

    def visit(jaxpr):
        for equation in jaxpr.eqns:
            sizes.extend(int(np.prod(v.aval.shape)) for v in equation.outvars)
            for inner in jax.extend.core.jaxprs_in_params(equation.params):
                visit(inner)

    visit(jax.make_jaxpr(function)(*args).jaxpr)
    return max(sizes)


@solvers
def test_float32(solver):
    low = functools.partial(jax.tree.map, lambda leaf: leaf.astype(jnp.float32))
    args = START, data(1), data(2)
    expected = meta_gradient(classified, classified, 1.3, solver)(*args)
    found = meta_gradient(classified, classified, 1.3, solver)(*map(low, args))
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(found))
    assert_agree(found.gradient, low(expected.gradient), tolerance=1e-4)


def test_no_convergence_is_nan():
    found = meta_gradient(lambda x, _: jnp.sum(x**2) / x[0], squares, 1e-3)(
        jnp.zeros(4), None, data(1)
    )
    assert np.isnan(found.value)
    assert np.isnan(found.gradient).all()


def test_no_gradient_of_the_outer_loss_is_none():
    found = meta_gradient(squares, lambda x, _: 0.0 * jnp.sum(x), 1.0)(jnp.zeros(4), data(1), None)
    np.testing.assert_array_equal(found.gradient, 0)
    assert found.residual == 0


@pytest.mark.parametrize(
    "kwargs, error, message",
    [
        ({"solver": "lu"}, ValueError, "solver must be 'cg' or 'direct', but got 'lu'"),
        ({"lam": 0.0}, ValueError, "lam must be positive, but got 0.0"),
        ({"lam": {"a": 1.0}}, ValueError, "lam must be a number, or a pytree like the"),
        ({"lam": np.ones(3)}, ValueError, r"has shape \(3,\) where they have \(4,\)"),
        ({"iterations": 0}, ValueError, "iterations must be a positive integer, but got 0"),
        ({"tol": 0.0}, ValueError, "tol must be positive, but got 0.0"),
        ({"steps": 3}, ValueError, "steps is for an optimizer with init and update"),
        ({"optimizer": optax.sgd(0.1)}, ValueError, "takes as many steps as steps= says"),
        ({"optimizer": optax.sgd(0.1), "steps": 0}, ValueError, "steps must be a positive"),
        ({"optimizer": 3}, TypeError, "optimizer must be None, have init and update, or be"),
        ({"optimizer": lambda f, x: (x,)}, TypeError, "must return a pytree like the parameters"),
        ({"optimizer": lambda f, x: x[:2]}, TypeError, r"returned float64\[2\] where"),
    ],
)
def test_errors(kwargs, error, message):
    with pytest.raises(error, match=message):
        meta_gradient(squares, squares, **{"lam": 1.0, **kwargs})(jnp.zeros(4), data(1), data(2))


def test_errors_of_arguments():
    find = meta_gradient(squares, squares, 1.0)
    with pytest.raises(TypeError, match="real floating-point arrays, but x0 has dtype int64"):
        find(jnp.zeros(4, int), data(1), data(2))
    with pytest.raises(TypeError, match="scalar-output functions"):
        meta_gradient(lambda x, _: x, squares, 1.0)(jnp.zeros(4), data(1), data(2))
