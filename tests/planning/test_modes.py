"""Functions whose time goes into loops run by one of JAX's modes, where all ways agree."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import jax_cce
from cases.agreement import assert_agree
from jax_cce import extend
from jax_cce.planning.modes import mode_of_loops
from jax_cce.planning.task import task_of

X = jnp.array([0.5, 0.3, 0.2])


def orbit(x):
    """Two populations after fifty steps, by three rates."""

    def step(state, _):
        prey, predators = state[0], state[1]
        change = jnp.array(
            [x[0] * prey - x[1] * prey * predators, x[1] * prey * predators - x[2] * predators]
        )
        return state + 0.01 * change, prey

    return lax.scan(step, jnp.ones(2), None, length=50)


def recurrent(x):
    """The last state of a network that reads forty inputs of three numbers."""
    weights = jnp.asarray(np.random.default_rng(0).normal(size=(16, 19)) / 8)

    def step(state, inputs):
        return jnp.tanh(weights @ jnp.concatenate([state, inputs])), None

    return lax.scan(step, jnp.zeros(16), jnp.outer(jnp.arange(40.0) / 40, x).reshape(40, 3))[0]


def many_inputs(x):
    """One number from a hundred, through the same network."""
    weights = jnp.asarray(np.random.default_rng(0).normal(size=(16, 18)) / 8)

    def step(state, inputs):
        return jnp.tanh(weights @ jnp.concatenate([state, inputs])), None

    return jnp.sum(lax.scan(step, jnp.zeros(16), x.reshape(50, 2))[0])


def swing_up(torques):
    """The cost of a pendulum's motion: steps of a few numbers, of which XLA makes one kernel."""

    def step(state, torque):
        angle, speed = state
        speed = speed + 0.05 * (torque - jnp.sin(angle) - 0.1 * speed)
        return (angle + 0.05 * speed, speed), torque * torque + speed * speed

    (angle, speed), costs = lax.scan(step, (0.0, 0.0), torques)
    return angle * angle + speed * speed + jnp.sum(costs)


def newton(x):
    return lax.while_loop(lambda r: jnp.sum(r) < 3.0, lambda r: r + 0.1 * jnp.sin(x * r), x)


def loops(jacobian, x):
    return jax.jit(jacobian).lower(x).compile().as_text().count(" while(")


@pytest.mark.parametrize(
    "fun, x, mode",
    [
        (orbit, X, "jacfwd"),
        (recurrent, X, "jacfwd"),
        (many_inputs, jnp.linspace(0.0, 1.0, 100), "jacrev"),
        (swing_up, jnp.linspace(0.0, 1.0, 150), "jacrev"),
        (newton, X, "jacfwd"),
    ],
)
def test_a_function_of_loops_runs_by_one_mode(fun, x, mode):
    reference = getattr(jax, mode)(fun)
    assert jax_cce.plan(fun)(x).method == mode
    assert f"jax.{mode}, as elimination is not likely" in str(jax_cce.plan(fun)(x))
    assert_agree(jax_cce.jacobian(fun)(x), reference(x))
    assert_agree(jax_cce.value_and_jacobian(fun)(x)[1], reference(x))
    assert loops(jax_cce.jacobian(fun), x) == loops(reference, x)


def test_the_plan_shows_an_elimination_that_can_be_asked_for():
    def fun(x):
        return jnp.sin(orbit(jnp.exp(x))[0])

    plan = jax_cce.plan(fun)(X)
    assert plan.method == "jacfwd"
    assert plan.num_vertices
    assert jax_cce.plan(fun, order=plan.order)(X).method == "elimination"
    assert_agree(jax_cce.jacobian(fun, order=plan.order)(X), jax.jacfwd(fun)(X))


def test_a_hessian_through_a_loop():
    def loss(x):
        return jnp.sum(orbit(x)[0] ** 2)

    assert_agree(jax_cce.hessian(loss)(X), jax.hessian(loss)(X))
    assert loops(jax_cce.hessian(loss), X) <= loops(jax.hessian(loss), X)


def test_a_hessian_through_a_loop_that_has_no_reverse_mode():
    def loss(x):
        return jnp.sum(newton(x) ** 2)

    assert_agree(jax_cce.hessian(loss)(X), jax.jacfwd(jax.jacfwd(loss))(X))


def narrow(x):
    """Fifty inputs and results meet in one number, which a loop computes on."""
    start = jnp.sum(jnp.sin(x))
    end = lax.fori_loop(0, 20, lambda _, s: jnp.sin(s) + 0.1 * s, start)
    return end * jnp.cos(x)


def large_beside(x):
    """A loop of four steps on one number beside products with a matrix."""
    end = lax.fori_loop(0, 4, lambda _, s: jnp.sin(s), x[0])
    weights = jnp.ones((300, 300))
    return end + jnp.tanh(weights @ jnp.tanh(weights @ jnp.tanh(weights @ x)))


def only_for_values(x):
    """A loop whose result is taken as a constant."""
    return x * recurrent(lax.stop_gradient(x))[:3]


@jax.custom_vjp
def doubled(x):
    return 2.0 * x


doubled.defvjp(lambda x: (2.0 * x, None), lambda _, ct: (2.0 * ct,))


def with_pullback(x):
    return lax.scan(lambda c, _: (jnp.sin(doubled(c)), None), x, None, length=20)[0]


def masked(x):
    start = jnp.where(x > 0, jnp.sqrt(jnp.where(x > 0, x, 0.0)), 0.0)
    return lax.scan(lambda c, _: (jnp.sin(c) * x, None), start, None, length=20)[0]


def with_masked_steps(x):
    def step(c, _):
        return jnp.where(c > 0, jnp.sqrt(jnp.where(c > 0, c, 1.0)), 0.0) * x, None

    return lax.scan(step, x, None, length=20)[0]


def remembering(x):
    body = jax.checkpoint(lambda c: jnp.sin(jnp.sin(c) * x))
    return lax.scan(lambda c, _: (body(c), None), x, None, length=20)[0]


@pytest.mark.parametrize(
    "fun, x",
    [
        (narrow, jnp.linspace(0.1, 1.0, 50)),
        (large_beside, jnp.linspace(0.1, 1.0, 300)),
        (only_for_values, X),
        (with_pullback, X),
        (masked, X),
        (remembering, X),
    ],
)
def test_elimination_where_it_is_cheaper_or_the_modes_may_differ(fun, x):
    assert jax_cce.plan(fun)(x).method == "elimination"
    assert_agree(jax_cce.jacobian(fun)(x), jax.jacrev(fun)(x))


def test_what_only_the_steps_hide_no_order_would_either():
    x = X.at[1].set(-1.0)
    assert jax_cce.plan(with_masked_steps)(x).method == "jacfwd"
    assert_agree(jax_cce.jacobian(with_masked_steps)(x), jax.jacfwd(with_masked_steps)(x))


def test_a_rule_of_the_users_own_is_followed():
    square = jax.extend.core.Primitive("square_of_modes")
    square.def_impl(lambda x: x * x)
    square.def_abstract_eval(lambda x: x)
    jax.interpreters.ad.defjvp(square, lambda tangent, x: 2 * tangent * x)
    jax.interpreters.mlir.register_lowering(
        square, jax.interpreters.mlir.lower_fun(lambda x: x * x, multiple_results=False)
    )
    extend.define_elementwise(square, lambda x: 3 * x)

    def fun(x):
        return lax.scan(lambda c, _: (square.bind(c), None), x, None, length=20)[0]

    assert jax_cce.plan(fun)(X).method == "elimination"


@pytest.mark.parametrize("how", [{"order": "forward"}, {"order": "reverse"}, {"format": "bcoo"}])
def test_what_is_asked_for_is_done(how):
    assert jax_cce.plan(orbit, **how)(X).method == "elimination"


def rolled(x):
    """Four stages of a method on a ring of unknowns, each a roll."""

    def field(x):
        return (jnp.roll(x, -1) - jnp.roll(x, 2)) * jnp.roll(x, 1) - x + 8.0

    k1 = field(x)
    k2 = field(x + 0.02 * k1)
    k3 = field(x + 0.02 * k2)
    return x + 0.01 * (k1 + 2 * k2 + 2 * k3 + field(x + 0.05 * k3))


def network(x):
    """The gradient of a small network by few inputs, in which nothing is saved."""
    draw = np.random.default_rng(0)
    first, second = jnp.asarray(draw.normal(size=(64, 3))), jnp.asarray(draw.normal(size=(64, 64)))
    return jax.grad(lambda x: jnp.sum(jnp.tanh(second @ jnp.tanh(second @ jnp.tanh(first @ x)))))(x)


def skinned(x):
    """Where fifty points are that follow ten bones, which turn about others by two angles."""

    def turned(angles):
        (c, d), (s, t), o = jnp.cos(angles), jnp.sin(angles), 0.0
        first = jnp.array([[1, o, o, o], [o, c, -s, o], [o, s, c, o], [o, o, o, 1]])
        return first @ jnp.array([[d, -t, o, 0.3], [t, d, o, 0.1], [o, o, 1, 0.2], [o, o, o, 1]])

    bones = []
    for parent, own in zip((0, 0, 1, 2, 0, 4, 5, 0, 7, 8), jax.vmap(turned)(x), strict=True):
        bones.append(bones[parent] @ own if bones else own)
    weights, points = np.cos(np.arange(500.0)).reshape(50, 10), np.sin(np.arange(200.0))
    moved = jnp.einsum("bij,vj,vb->vi", jnp.stack(bones)[:, :3], points.reshape(50, 4), weights)
    squared = x[-1, 0] ** 2
    length = jnp.sqrt(jnp.where(squared > 0, squared, 1.0))
    return moved * jnp.where(squared > 0, jnp.sin(length) / length, 1.0)


@pytest.mark.parametrize(
    "fun, x",
    [
        (skinned, jnp.linspace(-0.4, 0.5, 20).reshape(10, 2)),
        (skinned, jnp.linspace(-0.5, 0.4, 20).reshape(10, 2).at[-1].set(0.0)),
        (rolled, jnp.linspace(0.1, 2.0, 40)),
        (network, X),
        (lambda x: jnp.linalg.solve(jnp.diag(3 + x) + jnp.ones((20, 20)), x), jnp.ones(20)),
    ],
)
def test_a_mode_where_elimination_is_not_likely_to_be_faster(fun, x):
    plan = jax_cce.plan(fun)(x)
    assert plan.method in ("jacfwd", "jacrev")
    assert jax_cce.plan(fun, order=plan.order)(x).method == "elimination"
    assert_agree(jax_cce.jacobian(fun)(x), jax.jacrev(fun)(x))
    assert_agree(jax.vmap(jax_cce.jacobian(fun))(x[None]), jax.jacrev(fun)(x)[None])


def bands(x):
    return x[1:-1] * (x[2:] - x[:-2]) - 0.1 * x[1:-1]


@pytest.mark.parametrize(
    "fun, x",
    [(bands, jnp.linspace(0.0, 1.0, 50)), (lambda x: jnp.sin(x) * jnp.sum(x), jnp.ones(30))],
)
def test_elimination_where_it_saves(fun, x):
    assert jax_cce.plan(fun)(x).method == "elimination"


def test_a_linear_loop_is_pulled_back():
    def spread(x):
        return lax.scan(lambda c, _: (c + 0.1 * (c[::-1] - c), None), x, None, 50)[0]

    def reacting(x):
        return lax.scan(lambda c, _: (c + 0.1 * jnp.sin(c[::-1]), None), x, None, 50)[0]

    x = jnp.linspace(0.0, 1.0, 40)
    assert mode_of_loops(task_of(spread)(x)) == "jacrev"
    assert mode_of_loops(task_of(reacting)(x)) == "jacfwd"
