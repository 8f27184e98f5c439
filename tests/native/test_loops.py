"""Loops that stay loops in native code, with tangents of their state, or adjoints."""

import functools

import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from jax import lax

import jax_cce
from cases.agreement import assert_agree
from cases.natively import assert_agrees_natively, is_native
from jax_cce import kalman
from jax_cce.native import jacobians, lifting

X = jnp.asarray(np.array([0.3, 0.9, 0.6, 0.45]))
TABLE = np.cos(np.arange(24.0)).reshape(12, 2)


@pytest.fixture(autouse=True)
def never_unrolled(monkeypatch):
    monkeypatch.setattr(lifting, "MOST_UNROLLED", 0)


@pytest.fixture(params=["tangents", "adjoints"])
def carried(request, monkeypatch):
    """What loops of known length carry, where they can."""
    monkeypatch.setattr(jacobians, "_FEWER", 0 if request.param == "adjoints" else 1 << 30)


def pendulum(x, steps=40):
    def step(state, torque):
        angle, speed = state
        speed = speed + 0.05 * (torque - x[0] * jnp.sin(angle) - x[1] * speed)
        angle = angle + 0.05 * speed
        return (angle, speed), jnp.stack([angle, speed * angle])

    return lax.scan(step, (x[2], x[3]), jnp.sin(jnp.arange(steps) * 0.3))


def kept(x):
    """Carries that stay, that swap, that are not read and that are zero at first."""

    def step(state, _):
        a, b, c, d, e = state
        return (b, a, c, jnp.sin(c) * d + a, e + x[1] * d), e

    return lax.scan(step, (*x[:3], *jnp.zeros(2)), None, length=7)


def counted(x):
    def step(k, c):
        return jnp.where(k % 4 == 0, c * x[0], c + x[1] * (k > 3)) + 0.01 * k

    return lax.fori_loop(2, 9, step, x)


def downwards(x):
    def step(state, k):
        n, y = state
        return (n - 1, jnp.where(n > 2, y * x[0], y + k)), y

    (_, end), every = lax.scan(step, (5, x), np.arange(6))
    return end, every


def stopped(x):
    """A flag is carried, which ends what the steps do."""

    def step(state, _):
        done, y = state
        new = y - 0.5 * (y * y - x)
        return (done | jnp.all(jnp.abs(new - y) < 1e-4), jnp.where(done, y, new)), done

    (done, y), every = lax.scan(step, (False, x * 0 + 1.0), None, length=30)
    return y * jnp.where(done, 2.0, 3.0), jnp.sum(every) * x


def nested(x):
    def outer(state, row):
        def inner(state, entry):
            return jnp.sin(state * x[1]) + entry, state * x[2]

        end, every = lax.scan(inner, state, jnp.stack([row[0], row[1] * state, state * x[0]]))
        return end, every

    return lax.scan(outer, x[3], jnp.asarray(TABLE) * x[0])


def after_another(x):
    def back(c, row):
        return c * row[0] + row[1], c

    (_, end), rows = pendulum(x, 12)
    return lax.scan(back, end, rows, reverse=True), lax.scan(back, x[0], jnp.asarray(TABLE))[0]


def timed(x):
    """A time is carried, and places are computed of a counter and read from a table."""

    def step(k, state):
        time, y = state
        slope = x[k % 4] * jnp.asarray(TABLE)[k, 1] - jnp.sin(time) * y
        return time + 0.1, y + 0.1 * slope + x[-1] * 0.01

    return lax.fori_loop(0, 11, step, (0.0, x[1]))[1]


def at_places(x):
    places = np.array([3, 0, 2, 2, 1, 3, 0])

    def step(c, at):
        rows = jnp.outer(x, jnp.arange(3.0))[jnp.array([at, 1])]
        read = lax.dynamic_slice(x, (at - 1,), (2,))
        return c * x[at] + jnp.sum(rows), (jnp.where(at > 1, c, read[0] * read[1]), at)

    end, (rows, same) = lax.scan(step, x[0], places)
    return end, rows * same


LOOPS = {
    "of known values": lambda x: lax.scan(
        lambda c, a: (jax.nn.relu(c) + a, x * jnp.sum(jax.nn.softplus(c) * a)), 0.4, TABLE[:, 0]
    ),
    "of times": timed,
    "at places": at_places,
    "of states": pendulum,
    "of carries": kept,
    "of rows": lambda x: lax.scan(lambda c, a: (c * a + x[0], c + a), x[1], x),
    "of a table": lambda x: lax.scan(lambda c, a: (c * a[0] + x[0], a * c), x[1], TABLE),
    "of rows in any order": lambda x: lax.scan(
        lambda c, a: (jnp.cos(c) * a, c + a), x[0], x[np.array([3, 0, 2, 2, 1])]
    ),
    "backwards": lambda x: lax.scan(lambda c, a: (c * a, (c + a, a)), x[0], x, reverse=True),
    "of counters": counted,
    "down": downwards,
    "of flags": stopped,
    "of loops": nested,
    "after loops": after_another,
    "of matrices": lambda x: lax.scan(
        lambda p, a: (p @ jnp.linalg.inv(p + jnp.eye(2)) + a * jnp.eye(2), jnp.trace(p)),
        jnp.outer(x[:2], x[2:]) + jnp.eye(2),
        x,
    ),
    "of solutions": lambda x: lax.scan(
        lambda c, a: (jnp.linalg.solve(jnp.eye(2) + jnp.outer(c, c), c + a), None), x[:2], x[1:]
    )[0],
    "of rules": lambda x: lax.scan(
        lambda c, a: (jax.nn.softplus(c * a) + jax.nn.relu(c - a), jax.nn.logsumexp(c)), x, x
    ),
    "of nothing new": lambda x: lax.scan(lambda c, a: (c, x[0] * x[1]), x, None, length=3),
    "of operators": lambda x: lax.map(lambda a: jnp.exp(a) * x[0], x),
    "of products": lambda x: jnp.sum(lax.scan(lambda c, a: (c * x[0], jnp.dot(c, x) + a), x, x)[1]),
}


@pytest.mark.parametrize("batch", [None, 3, 21])
@pytest.mark.parametrize("name", LOOPS)
def test_loops(name, batch, carried, quiet):
    assert_agrees_natively(LOOPS[name], X, batch, 0.3)


@pytest.mark.parametrize("name", LOOPS)
def test_hessians_of_loops(name, carried, quiet):
    def fun(x):
        leaves = jax.tree.leaves(LOOPS[name](x))
        floats = [leaf for leaf in leaves if leaf.dtype == x.dtype]
        return sum(jnp.sum(jnp.sin(leaf)) for leaf in floats)

    assert_agree(jax.jit(jax_cce.hessian(fun))(X), jax.jit(jax.hessian(fun))(X))


UNARY = [jnp.sin, jnp.tanh, jnp.exp, jnp.square, jnp.abs, lambda x: 1 / (2 + x * x), jax.nn.relu]
BINARY = [
    jnp.add,
    jnp.multiply,
    jnp.subtract,
    jnp.maximum,
    lambda x, y: jnp.where(x > y, x, 0.3),
    lambda x, y: jnp.where(y > 0.2, jnp.sqrt(jnp.where(y > 0.2, y, 1.0)), x),
]


@st.composite
def random_loops(draw):
    """A scan over statements on what is carried, read and entering, and a second one after it."""
    length, reverse = draw(st.integers(1, 5)), draw(st.booleans())
    carries, rows = draw(st.integers(1, 3)), draw(st.integers(0, 2))
    known_rows, known_first = draw(st.booleans()), draw(st.booleans())
    statements = draw(
        st.lists(
            st.tuples(st.integers(0, 12), st.integers(0, 30), st.integers(0, 30)),
            min_size=1,
            max_size=7,
        )
    )
    ends = draw(st.lists(st.integers(0, 30), min_size=carries + 1, max_size=carries + 1))
    again = draw(st.booleans())

    def body(x, state, read):
        values = [*state, *read, x[0], x[1], 0.5 * x[2] * x[3]]
        for kind, one, other in statements:
            a, b = values[one % len(values)], values[other % len(values)]
            values.append(
                UNARY[kind](a) if kind < len(UNARY) else BINARY[(kind - 7) % len(BINARY)](a, b)
            )
        # Bounded, so that nothing overflows.
        new = [jnp.sin(values[k % len(values)]) for k in ends]
        return tuple(new[:carries]), new[-1]

    def fun(x):
        first = [jnp.float64(0.2 * k) if known_first else x[k] * 0.7 for k in range(carries)]
        read = [jnp.cos(jnp.arange(length) + k + 0.5) for k in range(rows)]
        if not known_rows:
            read = [row * x[3 - k] for k, row in enumerate(read)]
        end, stacked = lax.scan(
            lambda state, row: body(x, state, row), tuple(first), tuple(read), length, reverse
        )
        if again:
            _, stacked = lax.scan(lambda c, y: (c * y + x[0], c), end[0], stacked, reverse=True)
        return end, stacked

    return fun


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(fun=random_loops(), batch=st.sampled_from([None, 2, 9]), data=st.data())
def test_random_loops(fun, batch, data, carried):
    entry = st.sampled_from([-1.5, -0.25, 0.0, 0.2, 0.3, 0.9, 2.0])
    count = 4 * (batch or 1)
    x = jnp.asarray(data.draw(st.lists(entry, min_size=count, max_size=count))).reshape(
        (4,) if batch is None else (batch, 4)
    )
    ours, theirs = jax_cce.jacobian(fun), jax.jacrev(fun)
    if batch is not None:
        ours, theirs = jax.vmap(ours), jax.vmap(theirs)
    assert is_native(ours, x)
    assert_agree(jax.jit(ours)(x), theirs(x))


def newton(x):
    """Square roots until they are exact, or for fifty steps."""

    def improved(state):
        k, y, _ = state
        new = y - (y * y - x) / (2 * y)
        return k + 1, new, jnp.max(jnp.abs(new - y))

    start = 0, jnp.ones_like(x), jnp.ones(())
    return lax.while_loop(lambda s: (s[2] > 1e-10) & (s[0] < 50), improved, start)[1]


def halved(x):
    """Steps until a flag is set, within steps of a scan."""

    def until(y):
        return lax.while_loop(
            lambda s: ~s[1], lambda s: (s[0] * x[1] * 0.5, s[0] < 1.0), (y, False)
        )

    return lax.scan(lambda c, t: (until(c + t * x[0])[0], c), x[2], jnp.linspace(0.0, 3.0, 9))


WHILES = {
    "until it is exact": newton,
    "until a bound": lambda x: lax.while_loop(
        lambda s: s[0] < 10.0,
        lambda s: (s[0] * 1.7 + x[1], s[1] * jnp.sin(s[0]) + x[2]),
        (x[0], x[3]),
    ),
    "no step": lambda x: lax.while_loop(lambda y: y[0] > 100.0, lambda y: y * x, x),
    "within a scan": halved,
}


@pytest.mark.parametrize("batch", [None, 3, 21])
@pytest.mark.parametrize("name", WHILES)
def test_loops_of_unknown_length(name, batch, quiet):
    """Each point, and each lane that none of three points needs, ends by itself."""
    assert_agrees_natively(WHILES[name], X, batch, 0.9)


def test_a_loop_that_vmap_has_made_of_several(quiet):
    """Its condition has an entry for each point."""

    def each(x):
        return jax.vmap(lambda a: WHILES["until a bound"](a + x))(jnp.eye(4)[:3])

    assert_agree(jax_cce.jacobian(each)(X), jax.jit(jax.jacfwd(each))(X))
    assert "a loop ends at other steps" in str(jax_cce.explain(each)(X))


def controlled(u, start=(0.1, 0.4)):
    """What a pendulum costs that is driven by many torques."""

    def step(state, torque):
        angle, speed = state
        speed = speed + 0.05 * (torque - jnp.sin(angle))
        return (angle + 0.05 * speed, speed), angle * angle + 0.1 * torque * torque

    (angle, speed), costs = lax.scan(step, start, u)
    return jnp.sum(costs) + speed * speed, angle


MANY = {
    "of controls": controlled,
    "of parameters": lambda p: jnp.sum(
        lax.fori_loop(
            0,
            80,
            lambda _, y: y + 0.01 * jnp.tanh(p[:36].reshape(6, 6) @ y) * p[36:42],
            jnp.ones(6),
        )
    ),
    "one after another": lambda u: controlled(u[::-1] * u[0], controlled(u)),
    "within another": lambda u: jnp.sum(
        lax.scan(
            lambda c, a: (lax.fori_loop(0, 70, lambda _, c: c + 0.01 * jnp.sin(c * a), c), c * a),
            0.4,
            u,
        )[1]
    ),
    "beside another": lambda u: (
        jnp.sum(lax.scan(lambda c, a: (c * a, c + a), 1.0, u)[1])
        * lax.scan(lambda c, a: (jnp.cos(c + a), None), u[0], u, reverse=True)[0]
    ),
    "after operations": lambda u: lax.scan(
        lambda c, a: (c * a[0] + a[1], None), u[0] * u[1], jnp.outer(jnp.sin(u), u[:2])
    )[0],
    "of nothing that varies": lambda u: jnp.sum(
        u * lax.fori_loop(0, 80, lambda _, y: y * 0.9, 2.0)
    ),
    "not differentiated": lambda u: lax.scan(
        lambda c, a: (c + a * lax.stop_gradient(c), lax.stop_gradient(a)), 1.0, u
    ),
}


@pytest.mark.parametrize("batch", [None, 3, 21])
@pytest.mark.parametrize("name", MANY)
def test_loops_of_many_inputs(name, batch, quiet):
    """There are fewer outputs, whose adjoints are carried back."""
    u = jnp.asarray(0.9 + 0.3 * np.sin(np.arange(60.0)))
    assert_agrees_natively(MANY[name], u, batch, 0.1)


def test_what_is_carried_back():
    """The operations for many inputs are not many times those of the function."""
    u = jnp.ones(100)
    forth = jax_cce.explain(lambda a: controlled(a * jnp.ones(100)), backend="native")(1.0)
    back = jax_cce.explain(controlled, backend="native")(u)
    one, other = (int(e.backend_reason.split()[3].replace(",", "")) for e in (forth, back))
    assert other < 3 * one


def test_no_points():
    x = jnp.ones((0, 4))
    assert jax.jit(jax.vmap(jax_cce.jacobian(newton)))(x).shape == (0, 4, 4)


def linear_filter(x, missing=()):
    readings = np.sin(np.arange(30.0)).reshape(15, 2)
    for place in missing:
        readings[place] = np.nan
    move = jnp.eye(2).at[0, 1].set(x[0])
    return kalman.filter(
        kalman.Linear(move, jnp.diag(x[:2] ** 2), x[3]),
        kalman.Linear(jnp.eye(2).at[1, 0].set(x[2]), jnp.diag(x[2:] ** 2)),
        readings,
        (x[:2], jnp.eye(2)),
    ).log_likelihoods


def extended_filter(x):
    return kalman.filter(
        kalman.Nonlinear(lambda y, u: jnp.sin(y) * x[0] + u, jnp.diag(x[:2] ** 2), TABLE[1:]),
        kalman.Nonlinear(lambda y: y[:1] * y[1:], x[3:, None] ** 2),
        np.cos(np.arange(12.0))[:, None],
        (x[:2], jnp.eye(2)),
    ).log_likelihoods


@pytest.mark.parametrize("batch", [None, 3])
@pytest.mark.parametrize(
    "fun",
    [linear_filter, functools.partial(linear_filter, missing=[3, (5, 1)]), extended_filter],
    ids=["linear", "missing", "extended"],
)
def test_likelihoods_of_kalman_filters(fun, batch):
    assert_agrees_natively(fun, X, batch, 0.1)
