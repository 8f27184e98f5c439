"""On random programs every elimination order gives the Jacobian of jax.jacrev."""

import collections
import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import HealthCheck, Phase, assume, given, settings
from hypothesis import strategies as st

import jax_cce
from cases.differences import differences as differences_of
from cases.differences import perturbed
from cases.edge_orders import with_edges
from cases.programs import Program, programs


def _orders(program: Program, seed: int) -> dict[str, Any]:
    """The named orders and two random ones, these from a plan that sees shapes alone.

    One of these eliminates some edges by themselves.
    """
    options = {"argnums": program.argnums, "has_aux": program.has_aux}
    structs = jax.eval_shape(lambda *args: args, *program.args)
    plan = jax_cce.plan(program.function, **options)(*structs)
    orders: dict[str, Any] = {name: name for name in ("forward", "reverse", "markowitz")}
    orders["random"] = tuple(np.random.default_rng(seed).permutation(plan.vertices).tolist())
    if not plan.graph.reverse_only:
        orders["with edges"] = with_edges(plan.graph, seed)
    return orders


def _compile(program: Program, orders: dict[str, Any]) -> Callable[..., Any]:
    """A function of the program's arguments that gives what is expected, and what we compute.

    Everything is compiled together, since one compilation costs much less than seven.
    """
    f = program.function
    options = {"argnums": program.argnums, "has_aux": program.has_aux}

    def evaluate(*args):
        ours = {
            name: jax_cce.jacobian(f, **options, order=order)(*args)
            for name, order in orders.items()
        }
        value, jacobian = jax_cce.value_and_jacobian(f, **options)(*args)
        ours["auto"] = (jacobian, value[1]) if program.has_aux else jacobian
        return (jax.jacrev(f, **options)(*args), f(*args)), (ours, value)

    # Most of the time goes into LLVM's optimisations, which are not what is tested.
    return jax.jit(evaluate, compiler_options={"xla_backend_optimization_level": 0})


@settings(
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    phases=[Phase.explicit, Phase.reuse, Phase.generate, Phase.shrink],
)
@given(program=programs(), seed=st.integers(0, 2**16))
def test_every_order_gives_the_jacobian_of_jacrev(program: Program, seed: int):
    orders = _orders(program, seed)
    compiled = _compile(program, orders)
    (reference, expected), (ours, value) = compiled(*program.args)
    differences = {name: differences_of(ours[name], reference, program.rtol) for name in ours}
    differences["value"] = differences_of(value, expected, program.rtol)
    differences = {name: lines for name, lines in differences.items() if lines}
    if differences:
        # A Jacobian that jumps or swings within rounding (a kink, a near tie) is no reference.
        (nearby, _), _ = compiled(*perturbed(program))
        assume(not differences_of(nearby, reference, program.rtol))
    report = "\n".join(
        f"{name}: {orders.get(name)}\n" + "\n".join(lines) for name, lines in differences.items()
    )
    assert not differences, report


@settings(max_examples=25, suppress_health_check=[HealthCheck.too_slow])
@given(program=programs())
def test_many_points_of_vmap_have_the_jacobian_of_one(program: Program):
    """The plan and the assembly of many points are others than those of one."""
    options = {"argnums": program.argnums, "has_aux": program.has_aux}

    def both(*args: Any) -> tuple[Any, Any]:
        points = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (64, *jnp.shape(leaf))), args)
        ours = jax.vmap(jax_cce.jacobian(program.function, **options))(*points)
        theirs = jax.jacrev(program.function, **options)(*args)
        first, last = (jax.tree.map(lambda leaf, k=k: leaf[k], ours) for k in (0, 63))
        return (first, last), theirs

    compiled = jax.jit(both, compiler_options={"xla_backend_optimization_level": 0})
    (first, last), theirs = compiled(*program.args)
    differences = [
        line
        for each in (first, last)
        for line in differences_of(each, theirs, program.rtol, types=False)
    ]
    if differences:
        _, nearby = compiled(*perturbed(program))
        assume(not differences_of(nearby, theirs, program.rtol))
    assert not differences, "\n".join(differences)


def test_the_programs_are_diverse():
    """The property above is worth as much as what it is tried on."""
    seen = collections.Counter[str]()

    @settings(max_examples=100, derandomize=True, suppress_health_check=list(HealthCheck))
    @given(program=programs())
    def trace(program: Program):
        jaxpr = str(jax.make_jaxpr(program.function)(*program.args))
        seen.update(set(re.findall(r" = (\w+)[\[ ]", jaxpr)))

    trace()
    expected = {
        *("mul", "add", "sub", "div", "sin", "cos", "tanh", "max", "abs", "exp", "integer_pow"),
        *("reduce_sum", "reduce_max", "dot_general", "broadcast_in_dim", "reshape", "transpose"),
        *("slice", "pad", "concatenate", "rev", "gather", "scatter", "sort", "cumsum"),
        *("select_n", "convert_element_type", "jit", "scan", "cond", "custom_jvp_call", "fft"),
    }
    assert expected <= set(seen), sorted(expected.difference(seen))
