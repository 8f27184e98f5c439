"""What NumPy evaluates while planning is what JAX would."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jax import lax

import jax_cce
from jax_cce.program import in_numpy, tracing

FLOATS = {
    "arithmetic": lambda x, y: (x + y, x - y, x * y, x / y, -x, jnp.square(x), x**3, x**-2),
    "comparisons": lambda x, y: (x < y, x <= y, x > y, x >= y, x == y, x != y),
    "choices": lambda x, y: (lax.max(x, y), lax.min(x, y), lax.select(x > y, x, y)),
    "rounding": lambda x, y: (jnp.floor(x), jnp.ceil(x), jnp.sign(x), jnp.abs(x), lax.rem(x, y)),
    "functions": lambda x, y: (
        *(f(x) for f in (jnp.sin, jnp.cos, jnp.tan, jnp.tanh, jnp.exp, jnp.expm1)),
        *(f(jnp.abs(x)) for f in (jnp.sqrt, jnp.log, jnp.log1p)),
        lax.atan2(x, y),
        lax.pow(jnp.abs(x), y),
    ),
    "layout": lambda x, y: (
        *(x.T, x[::-1], x[:, 1:], x[0], x.reshape(-1), jnp.stack([x, y]), x[None]),
        *(
            jnp.pad(x, 1),
            lax.pad(x, x[0, 0], [(0, 1, 2), (2, 0, 0)]),
            lax.pad(x, x[0, 0], [(-1, 0, 0)] * 2),
        ),
    ),
    "sums": lambda x, y: (
        *(x.sum(0), x.max(), x.min(1), x.prod(), jnp.cumsum(x, 1)),
        lax.cumsum(y, 0, reverse=True),
    ),
    "masks": lambda x, y: (
        *((x > 0) & (y > 0), (x > 0) | (y > 0), (x > 0) ^ (y > 0), ~(x > 0)),
        *(jnp.any(x > y), jnp.all(x > y, axis=0)),
    ),
    "types": lambda x, y: (x.astype(jnp.int32), x.astype(bool), (x > 0).astype(x.dtype)),
    "iota": lambda x, y: (lax.broadcasted_iota(x.dtype, (2, 3), 1) + x, jnp.arange(3)[::2]),
}
INTEGERS = {
    "arithmetic": lambda i, j: (i + j, i - j, i * j, lax.div(i, j), lax.rem(i, j), i**2, -i),
    "division by zero": lambda i, j: (lax.div(i, 0 * j), lax.rem(i, 0 * j)),
    "bits": lambda i, j: (i & j, i | j, i ^ j, ~i),
    "choices": lambda i, j: (lax.select_n(jnp.clip(i, 0, 2), i, j, i + j), jnp.abs(i)),
    "types": lambda i, j: (i.astype(jnp.float32), i.astype(jnp.int8), (i > j).astype(jnp.int32)),
    "sums": lambda i, j: (i.sum(0), i.max(), jnp.cumsum(j, 1)),
}


def agreement(fun, operands) -> set[str]:
    """Compares equation by equation; the names of those that NumPy evaluated."""
    program, constants = tracing.trace(lambda *xs: list(fun(*xs)), operands)
    values = [*operands, *constants]
    seen = set()
    for equation in program.equations:
        ins = [k.val if hasattr(k, "val") else values[k] for k in equation.inputs]
        theirs = equation.primitive.bind(
            *ins, **equation.primitive.get_bind_params(equation.params)
        )
        theirs = theirs if equation.primitive.multiple_results else [theirs]
        ours = in_numpy.evaluated(equation, [np.asarray(x) for x in ins])
        if ours is not None:
            seen.add(equation.name)
            for found, expected in zip(ours, theirs, strict=True):
                assert found.dtype == expected.dtype
                tolerance = 1e-5 if found.dtype == np.float32 else 1e-13
                np.testing.assert_allclose(found, expected, rtol=tolerance, atol=tolerance)
        values += theirs
    return seen


numbers = st.lists(st.sampled_from([-2.5, -1.0, -0.0, 0.5, 1.0, 3.25]), min_size=12, max_size=12)


@pytest.mark.parametrize("name", FLOATS)
@given(numbers, st.sampled_from([np.float32, np.float64]))
def test_floats(name, values, dtype):
    x, y = jnp.asarray(np.array(values, dtype).reshape(2, 2, 3))
    assert agreement(FLOATS[name], [x, y])


@pytest.mark.parametrize("name", INTEGERS)
@given(numbers, st.sampled_from([np.int32, np.uint8, np.int64]))
def test_integers(name, values, dtype):
    i, j = jnp.asarray(np.abs(np.array(values)).astype(dtype).reshape(2, 2, 3))
    if np.issubdtype(dtype, np.signedinteger):
        i = i - 2
    assert agreement(INTEGERS[name], [i, jnp.maximum(j, 1)])


def test_what_numpy_has_not_is_left_to_jax():
    def fun(x):
        return [lax.erf(x), jnp.sort(x), x.astype(jnp.bfloat16) + 1, x + 1j]

    assert agreement(fun, [jnp.array([0.5, -0.5])]) <= {"broadcast_in_dim"}


@pytest.mark.parametrize("dtype", [np.float64, np.int32, bool])
def test_of_nothing(dtype):
    def fun(x):
        ends = [lax.reduce_max_p, lax.reduce_min_p] if dtype is not bool else []
        return [
            *(end.bind(x, axes=(1,), out_sharding=None) for end in ends),
            *(x.any(1), x.all(1), x.sum(1), x.prod(1), jnp.stack([x, x]), jnp.flip(x, 0)),
        ]

    agreement(fun, [jnp.zeros((2, 0), dtype)])


def test_the_largest_of_nothing_in_a_program():
    def fun(x):
        return x * jnp.max(jnp.zeros(0), initial=3.0)

    np.testing.assert_array_equal(jax_cce.jacobian(fun)(jnp.ones(2)), 3 * np.eye(2))


def test_many_cases():
    def fun(which, x):
        return [lax.select_n(which, *(x + k for k in range(80)))]

    assert "select_n" in agreement(fun, [jnp.array([[79, 1]]), jnp.ones((1, 2))])


def test_planning_compiles_nothing():
    weights = jnp.array([0.0, 1.0, 0.0, -1.0])

    def fun(x):
        mask = jnp.arange(4) % 2 == 0
        scale = jnp.where(mask, jnp.tan(weights) * 3.0, jnp.pad(weights[1:], (0, 1)))
        return jnp.stack([jnp.cumsum(scale)[k] * x[k] for k in range(4)])

    jax.clear_caches()
    jax_cce.cache_clear()
    compiled: list[str] = []
    jax.monitoring.register_event_duration_secs_listener(
        lambda event, *_, **__: compiled.append(event) if "backend_compile" in event else None
    )
    jax_cce.plan(fun)(jax.ShapeDtypeStruct((4,), np.float64))
    assert not compiled
    jax.monitoring.clear_event_listeners()
