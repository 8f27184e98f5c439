"""Scans by the Jacobians of their steps, whatever is expected to be faster."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jax import lax

import jax_cce
from cases.agreement import assert_agree
from jax_cce.algebra.terms import Unrepresentable
from jax_cce.execution.compiled import cache_clear
from jax_cce.jax_internals import is_differentiable
from jax_cce.loops import accumulation
from jax_cce.planning import loops
from jax_cce.rules.steps import steps_of

RNG = np.random.default_rng(0)


@pytest.fixture(autouse=True, scope="module")
def always_by_steps():
    """Loops go by their steps wherever these have Jacobians of one structure."""

    def can_be(program, setting, points):
        def representable(equation):
            active = [
                isinstance(k, int) and k in setting.varied and is_differentiable(program.avals[k])
                for k in equation.inputs
            ]
            try:
                return steps_of(equation, active)
            except Unrepresentable:
                return None

        return all(representable(e) for e in setting.between if e.name in ("scan", "while"))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loops, "are_by_steps", can_be)
        cache_clear()
        yield
    cache_clear()


def check(fun, *args, operators=()):
    """The Jacobian by all arguments, outside and under jit, and that no operator is left."""
    argnums = tuple(range(len(args)))
    expected = jax.jit(jax.jacrev(fun, argnums))(*args)
    by_steps = jax_cce.jacobian(fun, argnums)
    assert_agree(by_steps(*args), expected)
    assert_agree(jax.jit(by_steps)(*args), expected)
    assert jax_cce.plan(fun, argnums)(*args).operators == operators


def two_states(weights, start, drive):
    """States of two shapes and a counter; what is stacked is a state, the input's, or neither."""

    def step(state, inputs):
        x, y, count = state
        x = jnp.tanh(weights @ x + inputs) + 0.1 * count
        y = y * jnp.sum(x) + weights[0, 0]
        return (x, y, count + 1), (x, jnp.sin(inputs), y * count, count)

    return lax.scan(step, (start, jnp.float64(0.5), 0), drive)


ARGS = (
    RNG.normal(size=(3, 3)) / 2,
    RNG.normal(size=3),
    RNG.normal(size=(5, 3)),
)


@pytest.mark.parametrize("argnums", [(0,), (1,), (2,), (0, 1, 2)])
@pytest.mark.parametrize("wanted", ["last", "stacked", "both"])
def test_every_operand_and_result(argnums, wanted):
    def fun(*chosen):
        args = list(ARGS)
        for k, value in zip(argnums, chosen, strict=True):
            args[k] = value
        (x, y, _), (xs, sines, ys, _) = two_states(*args)
        last, stacked = (x, y), (xs, sines, ys)
        return {"last": last, "stacked": stacked, "both": (last, stacked)}[wanted]

    check(fun, *(ARGS[k] for k in argnums))


@pytest.mark.parametrize("length", [0, 1, 2, 7])
@pytest.mark.parametrize("reverse", [False, True])
def test_lengths_and_directions(length, reverse):
    def fun(p, start, drive):
        def step(state, u):
            state = state * p + u * state[::-1]
            return state, jnp.sum(state) * u

        return lax.scan(step, start, drive, reverse=reverse)

    args = jnp.array([0.3, 0.7]), jnp.ones(2), RNG.normal(size=(length, 2))
    check(fun, *args, operators=() if length else ("scan",))


def test_steps_that_do_not_depend_on_each_other_stay_apart():
    x = jnp.asarray(RNG.normal(size=(6, 4)))

    def fun(x, p):
        return lax.map(lambda row: jnp.outer(row, row[:2]) * jnp.exp(p), x)

    check(fun, x, jnp.float64(0.2))
    graph = jax_cce.plan(fun)(x, 0.2).graph
    ((block,),) = graph.successors[graph.inputs[0]].values()
    assert np.prod(block.term.coefficient_shape) == 6 * 4 * 2 * 4


def test_solves_in_a_map_are_blocks_in_the_sparse_formats():
    x = jnp.asarray(RNG.normal(size=(6, 3)))

    def fun(x):
        return lax.map(lambda r: jnp.linalg.solve(jnp.outer(r, r) + jnp.eye(3), jnp.sin(r)), x)

    block = jax_cce.jacobian(fun, format="bcoo")(x)
    assert block.nse == 6 * 3 * 3
    assert_agree(block.todense(), jax.jit(jax.jacfwd(fun))(x))


def test_around_the_loop_and_twice():
    def fun(u):
        first = two_states(ARGS[0], ARGS[1], jnp.sin(u))[1][0]
        (x, y, _), _ = two_states(ARGS[0].T, jnp.cos(first[-1]), first**2)
        return x * y, jnp.sum(first, 1)

    check(fun, ARGS[2])


def test_a_loop_in_a_loop():
    def fun(p, drive):
        def outer(state, u):
            def inner(z, w):
                z = jnp.sin(z * p) + w
                return z, z[0]

            state, kept = lax.scan(inner, state, jnp.outer(jnp.arange(3.0), u))
            return state, jnp.sum(kept) * state

        return lax.scan(outer, jnp.ones(2), drive)

    check(fun, jnp.array([0.5, 0.8]), RNG.normal(size=(4, 2)))


def test_swapped_constant_and_forgotten_states():
    def fun(u, start):
        def step(state, x):
            a, b, c, d = state
            return (b, a * x, jnp.zeros(2), d), (a, c)

        return lax.scan(step, (start, start, start, start), u)

    check(fun, RNG.normal(size=(4, 2)), jnp.array([1.0, 2.0]))


def test_under_vmap_and_differentiated_again():
    def fun(u):
        return two_states(ARGS[0], ARGS[1], u)[1][0]

    points = jnp.asarray(RNG.normal(size=(3, 5, 3)))
    jacobian = jax_cce.jacobian(fun)
    assert_agree(jax.vmap(jacobian)(points), jax.vmap(jax.jacrev(fun))(points))
    total = lambda transform: lambda u: jnp.sum(jnp.sin(transform(fun)(u)))  # noqa: E731
    expected = jax.grad(total(jax.jacfwd))(points[0])
    assert_agree(jax.grad(total(jax_cce.jacobian))(points[0]), expected)
    assert_agree(jax.jacfwd(total(jax_cce.jacobian))(points[0]), expected)


def test_custom_rules_are_applied():
    @jax.custom_jvp
    def rounded(x):
        return jnp.round(x)

    rounded.defjvps(lambda t, _, x: 2 * t * x)

    @jax.custom_vjp
    def clipped(x):
        return jnp.clip(x, -1, 1)

    clipped.defvjp(lambda x: (clipped(x), x), lambda x, ct: (ct * 3 * x,))

    def fun(u):
        def step(state, x):
            state = rounded(state) * 0.1 + clipped(x * state)
            return state, state

        return lax.scan(step, jnp.ones(2), u)

    u = jnp.asarray(RNG.normal(size=(4, 2)))
    assert_agree(jax_cce.jacobian(fun)(u), jax.jit(jax.jacrev(fun))(u))


def test_keys_among_the_states():
    def fun(u):
        def step(state, x):
            key, z = state
            key, own = jax.random.split(key)
            z = z * x + jax.random.normal(own)
            return (key, z), z

        return lax.scan(step, (jax.random.key(0), jnp.float64(1.0)), u)[1]

    check(fun, jnp.asarray(RNG.normal(size=5)))


def test_what_a_mask_hides_in_a_later_step_is_left_to_jax():
    def fun(u):
        def step(state, x):
            root = jnp.sqrt(state)
            return jnp.where(x > 0, root * x, 1.0), state

        return lax.scan(step, jnp.float64(1.0), u)[0]

    u = jnp.array([0.0, -1.0, 2.0])
    assert jax_cce.plan(fun)(u).operators == ("scan",)
    assert_agree(jax_cce.jacobian(fun)(u), jax.jit(jax.jacfwd(fun))(u))


@pytest.mark.parametrize("wanted", [0, 1])
def test_steps_of_many_numbers_are_differentiated_one_after_the_other(wanted, monkeypatch):
    monkeypatch.setattr(accumulation, "_MOST_STORED", 0)
    check(lambda *args: jax.tree.leaves(two_states(*args))[3 * wanted], *ARGS)


def test_numbers_of_python_among_the_states():
    def fun(u):
        return lax.scan(lambda c, x: (c * x + 1.0, c), 0.5, u)

    u = jnp.asarray(RNG.normal(size=4))
    value, jacobian = jax_cce.value_and_jacobian(fun)(u)
    assert_agree((value, jacobian), (fun(u), jax.jit(jax.jacrev(fun))(u)))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_other_precisions(dtype):
    args = [jnp.asarray(x, dtype) for x in ARGS]

    def fun(weights, start, drive):
        def step(x, u):
            x = jnp.tanh(weights @ x + u)
            return x, x

        return lax.scan(step, start, drive)

    with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
        found = jax_cce.jacobian(fun, (0, 1, 2))(*args)
    assert_agree(found, jax.jit(jax.jacfwd(fun, (0, 1, 2)))(*args))


def test_checkpoints_are_honoured():
    body = jax.checkpoint(lambda c, x: (jnp.sin(jnp.sin(c) * x), c))
    u = jnp.asarray(RNG.normal(size=(4, 2)))
    fun = lambda u: lax.scan(body, jnp.ones(2), u)  # noqa: E731
    assert jax_cce.plan(fun)(u).operators == ("scan",)
    assert_agree(jax_cce.jacobian(fun)(u), jax.jit(jax.jacrev(fun))(u))


@st.composite
def bodies(draw):
    """A step of two states, two constants and a slice, from a few operations."""
    operations = [
        lambda x, y: x * y,
        lambda x, y: x + jnp.sin(y),
        lambda x, y: x - y[::-1],
        lambda x, y: jnp.tanh(x) * jnp.sum(y),
        lambda x, y: jnp.concatenate([x[1:], y[:1]]),
        lambda x, y: x @ jnp.outer(y, y),
    ]
    tape = draw(
        st.lists(
            st.tuples(st.sampled_from(operations), st.integers(0, 8), st.integers(0, 8)),
            min_size=1,
            max_size=6,
        )
    )
    results = draw(st.lists(st.integers(0, 10), min_size=4, max_size=4))

    def step(constants, state, slices):
        values = [*constants, *state, slices]
        for operation, a, b in tape:
            values.append(operation(values[a % len(values)], values[b % len(values)]))
        first, second, *stacked = (values[k % len(values)] for k in results)
        return (first, second), stacked

    return step


@given(
    bodies(),
    st.integers(1, 4),
    st.booleans(),
    st.sets(st.integers(0, 4), min_size=1),
    st.sampled_from(["dense", "bcoo", "structured"]),
)
def test_random_steps(step, length, reverse, chosen, form):
    args = [
        jnp.asarray(RNG.normal(size=shape)) / 2 for shape in [(3,), (3,), (3,), (3,), (length, 3)]
    ]

    def fun(*varied):
        values = list(args)
        for k, value in zip(sorted(chosen), varied, strict=True):
            values[k] = value
        c, d, x, y, slices = values
        return lax.scan(lambda s, u: step((c, d), s, u), (x, y), slices, reverse=reverse)

    varied = [args[k] for k in sorted(chosen)]
    argnums = tuple(range(len(varied)))
    expected = jax.jit(jax.jacfwd(fun, argnums))(*varied)
    found = jax.jit(jax_cce.jacobian(fun, argnums, format=form))(*varied)
    is_block = lambda x: hasattr(x, "todense")  # noqa: E731
    dense = jax.tree.map(lambda x: x.todense() if is_block(x) else x, found, is_leaf=is_block)
    assert_agree(dense, expected)
