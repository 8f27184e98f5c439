"""Passes over flat programs, each against its meaning on small programs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_cce.program import passes, tracing
from jax_cce.program.flat import read

pytestmark = pytest.mark.one_version

X, Y = jnp.array([0.5, -1.5, 2.0]), jnp.array([1.0, 2.0, 3.0])


def traced(fun, *args):
    return tracing.trace(lambda *xs: jax.tree.leaves(fun(*xs)), args)


def flagged(program, flags):
    return [e.name for e, flag in zip(program.equations, flags, strict=True) if flag]


def fun(x, y):
    a = jnp.sin(x)
    b = jnp.cos(y)
    return a * b, jnp.exp(b)


def test_what_depends_on_variables():
    program, _ = traced(fun, X, Y)
    flags, reached = passes.dependent(program.equations, [0])
    assert flagged(program, flags) == ["sin", "mul"]
    assert reached == {0, *(k for e in program.equations for k in e.outputs if e.name != "cos")} - {
        k for e in program.equations if e.name == "exp" for k in e.outputs
    }


def test_what_is_selected_counts_as_dependent():
    program, _ = traced(fun, X, Y)
    selected = [equation.name == "cos" for equation in program.equations]
    flags, _ = passes.dependent(program.equations, (), selected=selected)
    assert flagged(program, flags) == ["cos", "mul", "exp"]


def test_what_is_needed():
    program, _ = traced(fun, X, Y)
    flags, live = passes.needed(program.equations, program.outputs[1:])
    assert flagged(program, flags) == ["cos", "exp"]
    assert 1 in live
    assert 0 not in live


def test_literals_need_nothing():
    program, _ = traced(lambda x: (jnp.sin(x), 1.0), X)
    flags, live = passes.needed(program.equations, program.outputs[1:])
    assert flagged(program, flags) == []
    assert live == set()


def test_a_part_of_a_program_renumbered_computes_the_same():
    program, _ = traced(fun, X, Y)
    flags, _ = passes.needed(program.equations, program.outputs[1:])
    kept = [e for e, wanted in zip(program.equations, flags, strict=True) if wanted]
    order = [1, *(name for equation in kept for name in equation.outputs)]
    part = passes.renumbered(program.avals, order, 1, 0, kept, program.outputs[1:])
    assert [name for e in part.equations for name in e.outputs] == [1, 2]
    (value,) = passes.evaluate(part, (), (Y,))
    np.testing.assert_array_equal(value, fun(X, Y)[1])


def test_equations_may_be_replaced_in_an_evaluation():
    program, constants = traced(fun, X, Y)
    seen = []

    def apply(index, equation, operands):
        seen.append((index, equation.name))
        assert len(operands) == len(equation.inputs)
        return [jnp.ones(3)]

    values = passes.values(program, constants, (X, Y))
    passes.fill(values, program.equations, apply)
    assert seen == [(k, e.name) for k, e in enumerate(program.equations)]
    for atom in program.outputs:
        np.testing.assert_array_equal(read(values, atom), np.ones(3))


@pytest.mark.parametrize("wrap", [lambda f: f, jax.jit], ids=["arrays", "tracers"])
def test_a_program_evaluates_with_its_constants(wrap):
    matrix = np.arange(6.0).reshape(2, 3)
    program, constants = traced(lambda x: matrix @ x, X)
    (value,) = wrap(lambda x: passes.evaluate(program, constants, (x,)))(X)
    np.testing.assert_allclose(value, matrix @ X)
