"""Flat programs: calls are inlined, dead equations dropped, and variables numbered in order."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_cce.jax_internals import Literal
from jax_cce.program import passes, tracing

X = jnp.array([0.5, -1.5, 2.0])


def names(program):
    return [equation.name for equation in program.equations]


@pytest.mark.parametrize(
    "call",
    [jax.jit, jax.checkpoint, lambda f: jax.jit(jax.checkpoint(jax.jit(f)))],
    ids=["jit", "checkpoint", "nested"],
)
def test_calls_that_mean_their_body_are_inlined(call):
    program, _ = tracing.trace(lambda x: [call(lambda y: jnp.sin(y) * y)(x)], [X])
    assert names(program) == ["sin", "mul"]


def test_custom_derivatives_and_control_flow_stay_single_equations():
    doubled = jax.custom_jvp(lambda x: 2 * x)
    doubled.defjvps(lambda tangent, _, x: 2 * tangent)
    program, _ = tracing.trace(
        lambda x: [jax.lax.cond(x[0] > 0, jnp.sin, jnp.cos, doubled(x))], [X]
    )
    assert names(program).count("custom_jvp_call") == names(program).count("cond") == 1
    assert not {"sin", "cos"} & set(names(program))
    assert {"sin", "cos"} <= tracing.primitive_names(program.equations)


def test_equations_that_nothing_needs_are_dropped():
    program, constants = tracing.trace(lambda x: [(jnp.exp(x) + np.ones(3), jnp.sin(x))[1]], [X])
    assert names(program) == ["sin"]
    assert constants == []


def test_loops_are_without_results_that_nothing_needs():
    def fun(x):
        def step(carry, _):
            y, unread = carry
            return (jnp.sin(y), unread * y), (y, jnp.exp(y), unread)

        return [jax.lax.scan(step, (x, x), None, length=5)[1][0]]

    program, constants = tracing.trace(fun, [X])
    (loop,) = (equation for equation in program.equations if equation.name == "scan")
    assert [aval.shape for aval in loop.out_avals] == [(3,), (5, 3)]
    (value,) = passes.evaluate(program, constants, [X])
    np.testing.assert_array_equal(value, fun(X)[0])


def test_effects_are_needed():
    def f(x):
        jax.debug.callback(lambda _: None, x)
        return [x]

    program, _ = tracing.trace(f, [X])
    assert names(program) == ["debug_callback"]


def test_variables_are_inputs_then_constants_then_results_in_order():
    matrix = np.arange(6.0).reshape(2, 3)
    program, (constant,) = tracing.trace(lambda x, y: [jnp.sin(matrix @ x), x], [X, 1.0])
    assert (program.num_inputs, program.num_constants, program.first_computed) == (2, 1, 3)
    np.testing.assert_array_equal(constant, matrix)
    computed = [name for equation in program.equations for name in equation.outputs]
    assert computed == list(range(3, len(program.avals)))
    assert program.outputs == (computed[-1], 0)
    assert [aval.shape for aval in program.avals[:4]] == [(3,), (), (2, 3), (2,)]


def test_an_output_may_be_a_literal():
    program, _ = tracing.trace(lambda x: [x, 2.0], [X])
    assert isinstance(program.outputs[1], Literal)


def test_hoisting_makes_constants_of_all_numbers_but_0_and_1():
    def f(x):
        return [2.5 * x + 1.0]

    literal, hoisted = (tracing.trace(f, [X], hoist=hoist) for hoist in (False, True))
    assert literal[1] == []
    assert list(map(float, hoisted[1])) == [2.5]
    assert names(literal[0]) == names(hoisted[0]) == ["mul", "add"]


def test_a_program_evaluates_to_what_the_function_returns():
    def f(x, y):
        return [jax.jit(jnp.sin)(x) * np.arange(3.0), x @ x + y, x]

    program, constants = tracing.trace(f, [X, 2.0])
    for found, expected in zip(
        passes.evaluate(program, constants, [2 * X, 3.0]), f(2 * X, 3.0), strict=True
    ):
        np.testing.assert_allclose(found, expected, rtol=1e-15)


def test_tracing_sees_a_closure_that_has_changed():
    factor = [2.0]

    def f(x):
        return [x * factor[0]]

    before = tracing.trace(lambda x: f(x), [X])[0]
    factor[0] = 3.0
    after = tracing.trace(lambda x: f(x), [X])[0]
    values = [program.equations[0].inputs[1].val for program in (before, after)]
    assert values == [2.0, 3.0]
