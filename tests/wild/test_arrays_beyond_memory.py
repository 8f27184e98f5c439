"""No format and no order forms an array that the device cannot hold: the plan is refused before."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.sparse import BCOO

import jax_cce
from cases.agreement import assert_agree

N = 200_000
X = jax.ShapeDtypeStruct((N,), jnp.float64)


def total_of_sums(x):
    return jnp.sum(jnp.cumsum(jnp.sin(x)) ** 2)


def spectrum(x):
    return jnp.sum(jnp.abs(jnp.fft.rfft(x)) ** 2)


def solved(x):
    return jnp.sum(jnp.linalg.solve(jnp.eye(400) * 2.0, x.reshape(400, -1)) ** 2)


FORMS = ["dense", "bcoo", "structured"]


def spread(x):
    return jnp.sum(x) * jnp.ones(N)


# In the sparse formats the columns of a solve stay apart, so that it forms no such array.
@pytest.mark.parametrize(
    "function, form",
    [
        *((total_of_sums, form) for form in FORMS),
        *((spectrum, form) for form in FORMS),
        (solved, "dense"),
    ],
)
def test_an_intermediate_array_is_refused_with_its_equation(function: Any, form: Any):
    assert jax_cce.plan(function, order="forward", format=form)(X).largest[0] >= N * N // 2
    with pytest.raises(MemoryError) as raised:
        jax.eval_shape(jax_cce.jacobian(function, order="forward", format=form), X)
    message = str(raised.value)
    assert "GiB" in message
    assert f"With format={form!r} and order='auto' there is none." in message
    if function is total_of_sums:
        assert "test_arrays_beyond_memory.py" in message
    # The advice holds.
    found = jax.eval_shape(jax_cce.jacobian(function, format=form), X)
    assert found.shape == (N,)


@pytest.mark.parametrize("wrap", [lambda f: f, jax.jit], ids=["call", "jit"])
@pytest.mark.parametrize("transform", [jax_cce.jacobian, jax_cce.value_and_jacobian])
def test_nothing_is_allocated_before(transform: Any, wrap: Any):
    with pytest.raises(MemoryError, match=r"for (cumsum|sin)"):
        wrap(transform(total_of_sums, order="forward"))(np.ones(N))


def test_coordinates_are_counted_where_the_structure_has_none():
    plan = jax_cce.plan(spread, format="structured")(X)
    assert plan.largest[0] <= N
    with pytest.raises(MemoryError, match=r"indices of the entries.*format='structured'"):
        jax.eval_shape(jax_cce.jacobian(spread, format="bcoo"), X)
    block = jax_cce.jacobian(spread, format="structured")(np.ones(N))
    np.testing.assert_array_equal((block @ jnp.ones(N))[:2], [N, N])


def test_where_no_format_helps_the_products_are_named():
    with pytest.raises(MemoryError, match=r"for cumsum.*jax\.jvp and jax\.vjp"):
        jax.eval_shape(jax_cce.jacobian(lambda x: jnp.cumsum(x), format="structured"), X)


@pytest.mark.parametrize("form", ["dense", "bcoo", "structured"])
def test_the_bound_holds_for_every_array_of_the_program(form: Any):
    def function(x):
        y = jnp.sin(x) * x
        return jnp.sum(jnp.cumsum(y.reshape(3, 4) @ y.reshape(4, 3), axis=1)) * x[:5]

    x = jnp.arange(1.0, 13.0)
    plan = jax_cce.plan(function, format=form)(x)
    assert 0 < plan.largest[0] <= 12 * 12
    ours = jax_cce.jacobian(function, format=form)(x)
    ours = ours.todense() if form != "dense" else ours
    assert_agree(ours, jax.jacrev(function)(x))


def test_small_and_empty_plans_have_a_bound():
    assert jax_cce.plan(lambda x: x)(X).largest == (N * N, "the assembly of the result")
    assert jax_cce.plan(lambda x: jnp.zeros(3))(X).largest == (0, "")
    assert isinstance(jax_cce.jacobian(jnp.sin, format="bcoo")(np.ones(N)), BCOO)
