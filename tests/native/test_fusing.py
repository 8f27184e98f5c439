"""Sums over the steps of a scan, and what it reads, computed in its steps."""

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
from jax_cce.native import compiling, fusing
from jax_cce.program import passes, tracing

X = jnp.asarray(np.array([0.3, 0.9, 0.6]))


def readings(steps):
    return np.sin(np.arange(2.0 * steps)).reshape(steps, 2)


def trajectory(x, steps, *, reverse=False):
    """States of three numbers, and a term, of scaled noise."""

    def step(state, shock):
        state = jnp.sin(state * x[0]) + shock
        return state, (state, state.sum())

    return lax.scan(step, x, x[1] * readings(steps)[:, 0] + 0.1, reverse=reverse)


def likelihood(x, steps=80):
    return trajectory(x, steps)[1][1].sum()


def squares(x, steps=80):
    _, (states, terms) = trajectory(x, steps, reverse=True)
    observed = states @ jnp.array([[1.0, 0.0], [0.5, -1.0], [0.0, 2.0]])
    return jnp.mean((observed - readings(steps)) ** 2), terms @ terms


def masked(x, steps=80):
    _, (states, terms) = trajectory(x, steps)
    seen = readings(steps)[:, 1] > 0
    return jnp.where(seen, jnp.log1p(terms**2), 0.0).sum(), jnp.where(seen[:, None], states, x).sum(
        0
    )


def also_returned(x, steps=80):
    last, (states, terms) = trajectory(x, steps)
    scaled = terms * x[2]
    return last, states[:3], scaled.sum(), scaled[5], states[:, 1].sum()


def standardised(x, steps=80):
    """The sum of squares needs the mean, which needs all terms."""
    terms = trajectory(x, steps)[1][1]
    return ((terms - terms.mean()) ** 2).mean(), jnp.var(terms, ddof=1)


def in_turns(x, steps=80):
    """One scan reads what another one stacks, and both are summed."""
    terms = trajectory(x, steps)[1][1]
    smooth = lax.scan(lambda s, t: (0.9 * s + t, s * t), x[0], terms * x[2], reverse=True)[1]
    return smooth.sum() + terms.sum(), (smooth * terms).sum()


def as_many_as_states(x):
    """The steps are as many as the states are wide."""
    states = lax.scan(lambda s, _: (jnp.cos(s) * x, s), x, None, length=3)[1]
    return (states * x).sum(), states @ x, x @ states, (states + x[:, None]).sum(0)


def counted(x, steps=80):
    _, (hits, late) = lax.scan(
        lambda s, k: (jnp.sin(s * x[0]) + x[1], (s > x[2], s * (k > 7))), x[0], jnp.arange(steps)
    )
    return hits.sum() * x, (late * jnp.arange(steps)).sum()


def handed_on(x, steps=80):
    """What the scan returns is what it was given, or the same twice."""

    def step(state, shock):
        moved = jnp.cos(state[0]) * shock
        return (moved, state[1]), (moved, shock, moved, state[1])

    read = x[1] * readings(steps)[:, 0]
    last, (one, same, other, kept) = lax.scan(step, (x[0], x[2]), read)
    return last, (one * same).sum(), other @ other, kept.sum(), same[3] + kept[2]


FUNCTIONS = [
    handed_on,
    likelihood,
    squares,
    masked,
    also_returned,
    standardised,
    in_turns,
    as_many_as_states,
    counted,
]


def traced(fun, *args):
    return tracing.trace(lambda *leaves: jax.tree.leaves(fun(*leaves)), args)


@pytest.mark.parametrize("fun", FUNCTIONS, ids=lambda f: f.__name__)
def test_computes_the_same(fun):
    program, constants = traced(fun, X)
    found = fusing.fused(program)
    assert found is not program
    expected = passes.evaluate(program, constants, [X])
    assert_agree(passes.evaluate(found, constants, [X]), expected)


@pytest.mark.parametrize("batch", [None, 9], ids=["single", "points"])
@pytest.mark.parametrize("fun", FUNCTIONS, ids=lambda f: f.__name__)
def test_jacobians_agree(fun, batch):
    assert_agrees_natively(fun, X, batch, 0.2)


def test_nothing_moves_without_sums():
    program, _ = traced(lambda x: lax.scan(lambda s, _: (s * x, s), x, None, length=9), X)
    assert fusing.fused(program) is program


def test_regions_of_checkpoints_stay():
    program, _ = traced(jax.checkpoint(likelihood), X)
    assert fusing.fused(program) is program


def test_a_maximum_stays_outside():
    program, _ = traced(lambda x: trajectory(x, 9)[1][1].max(), X)
    names = [equation.name for equation in fusing.fused(program).equations]
    assert names[-1] == "reduce_max"


@pytest.mark.parametrize("fun", [likelihood, squares, masked], ids=lambda f: f.__name__)
def test_the_code_does_not_grow_with_the_steps(fun, monkeypatch):
    texts = []

    def registered(text, *, quickly):
        texts.append(text)
        return compiled(text, quickly=quickly)

    compiled = compiling.registered
    monkeypatch.setattr(compiling, "registered", registered)
    for steps in (100, 5000):
        jax.jit(jax_cce.jacobian(lambda x, steps=steps: fun(x, steps))).lower(X)
    few, many = (text.count("\n") for text in texts)
    assert few == many


@pytest.mark.parametrize("operand", [False, True], ids=["known", "operand"])
def test_many_readings_are_read_in_place(operand):
    """More numbers than a graph has nodes."""
    steps = 20_000

    def loss(x, data):
        def step(state, reading):
            state = 0.9 * state + x[0] * reading[0] + x[1]
            return state, (state - reading[1]) ** 2

        return lax.scan(step, x[2], data)[1].mean()

    data = jnp.asarray(readings(steps))
    fun = loss if operand else lambda x: loss(x, data)
    args = (X, data) if operand else (X,)
    jacobian = jax_cce.jacobian(fun)
    assert is_native(jacobian, *args)
    assert_agree(jax.jit(jacobian)(*args), jax.jit(jax.jacfwd(fun))(*args))


def test_readings_of_each_point():
    def loss(x, data):
        return ((trajectory(x, 80)[1][0][:, :2] - data) ** 2).sum()

    points = jnp.stack([X, X + 0.1, X - 0.1])
    data = jnp.stack([readings(80), 2 * readings(80), readings(80) - 1])
    found = jax.jit(jax.vmap(jax_cce.jacobian(loss, argnums=(0, 1))))(points, data)
    assert_agree(found, jax.jit(jax.vmap(jax.jacrev(loss, argnums=(0, 1))))(points, data))


def test_numbers_that_are_not_finite_are_read():
    data = np.array([1.0, np.inf, -0.0, np.nan, 0.0, -np.inf] * 15)

    def fun(x):
        def step(state, value):
            state = jnp.where(
                jnp.isfinite(value), state * x[0] + x[1] * jnp.arctan2(value, -1.0), state
            )
            return state, state

        return lax.scan(step, x[2], data)[1].sum()

    assert_agrees_natively(fun, X, None, 0.0)


OPERATIONS = [
    lambda y, x, d: y * x[2],
    lambda y, x, d: jnp.tanh(y) + d,
    lambda y, x, d: jnp.where(d > 0, y, x[0] * d),
    lambda y, x, d: y**2 - x[1],
    lambda y, x, d: jnp.stack([y, d], axis=1) @ x[:2],
    lambda y, x, d: jnp.clip(y, -0.7, 0.8),
    lambda y, x, d: y * y[::-1],
    lambda y, x, d: jnp.broadcast_to(y[:, None], (len(y), 2)).sum(1),
    lambda y, x, d: y / (1 + jnp.abs(y.sum())),
]
chains = st.lists(st.sampled_from(range(len(OPERATIONS))), max_size=4)


@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(chains, chains, st.sampled_from([2, 3, 40, 90]), st.booleans())
def test_random_programs(before, after, steps, reverse):
    data = readings(steps)[:, 0]

    def fun(x):
        def chained(y, which):
            for k in which:
                y = OPERATIONS[k](y, x, data)
            return y

        read = chained(jnp.asarray(readings(steps)[:, 1]), before)
        last, states = lax.scan(
            lambda s, v: (jnp.sin(s) * x[0] + v, s + v), x[1], read, reverse=reverse
        )
        return last, chained(states, after).sum(), states[0]

    program, constants = traced(fun, X)
    expected = passes.evaluate(program, constants, [X])
    assert_agree(passes.evaluate(fusing.fused(program), constants, [X]), expected)
    assert_agree(jax.jit(jax_cce.jacobian(fun))(X), jax.jit(jax.jacrev(fun))(X))


def test_orders_are_those_of_the_graph_that_is_made():
    def fun(x):
        return jnp.stack([likelihood(x) * jnp.exp(x[0]), x[1] * x[2]])

    found = jax_cce.optimize(fun, cost="native", budget=None, evaluations=20)(X)
    jacobian = jax_cce.jacobian(fun, order=found.order, backend="native")
    assert is_native(jacobian, X)
    assert_agree(jax.jit(jacobian)(X), jax.jit(jax.jacrev(fun))(X))
