"""Solvers, potentials and densities of packages: the Jacobian through them is JAX's."""

import jax
import pytest

import jax_cce
from benchmarks.packages import PROGRAMS
from cases.agreement import assert_agree

pytestmark = pytest.mark.one_version


@pytest.mark.parametrize("name", PROGRAMS)
def test_the_jacobian_through_a_program(name):
    program = PROGRAMS[name]
    if not program.is_installed:
        pytest.skip(f"{program.package} is not installed")
    f, x = program.build()
    expected = jax.jit(program.mode(f))(x)
    assert_agree(jax.jit(jax_cce.jacobian(f))(x), expected)


@pytest.mark.parametrize("order", ["forward", "reverse"])
def test_forces_in_a_named_order(order):
    program = PROGRAMS["jax-md Lennard-Jones forces"]
    if not program.is_installed:
        pytest.skip(f"{program.package} is not installed")
    f, x = program.build()
    expected = jax.jit(program.mode(f))(x)
    assert_agree(jax.jit(jax_cce.jacobian(f, order=order))(x), expected)


@pytest.mark.parametrize(
    "name",
    [
        "optimistix Newton",
        "diffrax Tsit5",
        "jaxopt LevenbergMarquardt",
        "distrax mixture",
        "numpyro regression",
    ],
)
def test_other_ways_to_call_it(name):
    program = PROGRAMS[name]
    if not program.is_installed:
        pytest.skip(f"{program.package} is not installed")
    f, x = program.build()
    expected = program.mode(f)(x)
    jacobian = jax_cce.jacobian(f)
    assert_agree(jacobian(x), expected)
    assert_agree(jax.jit(jacobian).lower(x).compile()(x), expected)
    assert_agree(jax_cce.jacobian(f, format="bcoo")(x).todense(), expected)
    # What JAX does of the same function afterwards is what it did before.
    assert_agree(program.mode(f)(x), expected)
