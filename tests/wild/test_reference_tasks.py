"""The reference tasks: right values, published counts, and the same Jacobian in every order."""

import math
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jax_cce
from benchmarks.tasks import TASKS, Task
from cases.references import once

REPRODUCED = [task for task in TASKS.values() if task.published and task.published.exact]
NAMED_ORDERS = ("forward", "reverse", "markowitz")
# Elimination in a random order fills in most edges, which makes large programs of the neural
# tasks; their point is that vertices with structure come in an order that no heuristic chooses.
RANDOM_ORDERS = {"Encoder": 1, "RoeFlux_3d": 1}
ORDERS = [
    # An order that nobody would choose says nothing about JAX.
    pytest.param(task, order, marks=[pytest.mark.one_version] * isinstance(order, int))
    for task in TASKS.values()
    for order in (*NAMED_ORDERS, "auto", *range(RANDOM_ORDERS.get(task.name, 2)))
]


def _name(value: object) -> str | None:
    if isinstance(value, Task):
        return value.name
    return f"random{value}" if isinstance(value, int) else None


def _order(task: Task, order: str | int) -> str | tuple[int, ...]:
    """Returns a named order as it is, and the permutation that a seed stands for."""
    if isinstance(order, str):
        return order
    vertices = jax_cce.plan(task.fun, argnums=task.argnums)(*task.args).vertices
    return tuple(np.random.default_rng(order).permutation(vertices).tolist())


def _cost(task: Task, order: str | tuple[int, ...]) -> int:
    plan = jax_cce.plan(task.fun, argnums=task.argnums, order=order)(*task.args)
    return plan.cost("multiplications")


@pytest.mark.parametrize("order", NAMED_ORDERS)
@pytest.mark.parametrize("task", REPRODUCED, ids=_name)
def test_counts_equal_the_published_ones(task, order):
    assert _cost(task, order) == getattr(task.published, order)


@pytest.mark.parametrize("task", REPRODUCED, ids=_name)
def test_vertices_are_as_many_as_published(task):
    plan = jax_cce.plan(task.fun, argnums=task.argnums)(*task.args)
    assert plan.num_vertices == len(plan.vertices) == task.published.vertices


@pytest.mark.parametrize("task", REPRODUCED, ids=_name)
def test_counts_depend_on_shapes_only(task):
    """A plan from abstract single-precision arguments is that of the double-precision point."""
    shapes = [jax.ShapeDtypeStruct((), np.float32)] * len(task.args)
    plan = jax_cce.plan(task.fun, argnums=task.argnums, order="markowitz")(*shapes)
    assert plan.cost("multiplications") == task.published.markowitz


@pytest.mark.parametrize("order", [*NAMED_ORDERS, "auto", *range(3)], ids=str)
@pytest.mark.parametrize("task", REPRODUCED, ids=_name)
def test_no_order_is_below_the_lower_bound(task, order):
    assert _cost(task, _order(task, order)) >= task.published.lower_bound


@once
def _expected(task: Task) -> Any:
    return jax.jit(jax.jacrev(task.fun, argnums=task.argnums))(*task.args)


@pytest.mark.parametrize("task, order", ORDERS, ids=_name)
def test_jacobian_equals_jacrev(task, order):
    expected = _expected(task)
    jacobian = jax_cce.jacobian(task.fun, argnums=task.argnums, order=_order(task, order))
    actual = jacobian(*task.args)
    # An entry that is a small difference of large terms is only as good as the terms.
    scale = max(float(jnp.max(jnp.abs(leaf))) for leaf in jax.tree.leaves(expected))
    chex.assert_type(jax.tree.leaves((actual, expected)), np.float64)
    chex.assert_trees_all_close(actual, expected, rtol=1e-9, atol=1e-12 * scale)


QUARTER = math.pi / 2

# By hand from the problems' definitions, at points where each sum is short.
VALUES = [
    (
        "RobotArm_6DOF",
        (QUARTER, 0, 0, 0, QUARTER, QUARTER),
        (0, 185 + 175 + 890 + 50, 575 - 1035, QUARTER, QUARTER, -QUARTER),
    ),
    (
        "RobotArm_6DOF",
        (QUARTER, 0, QUARTER, QUARTER, QUARTER, QUARTER),
        (185, 175 + 890 + 1035, 575 + 50, 0, QUARTER, 0),
    ),
    (
        "RobotArm_6DOF",
        (0, QUARTER, 0, 0, 0, QUARTER),
        (185 + 175 + 1035, 0, 890 + 575 + 50, 0, QUARTER, -QUARTER),
    ),
    ("HumanHeartDipole", (1,) * 8, (1, 1, -1, 3, -5, -5, -9, -1)),
    (
        "PropaneCombustion",
        (1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 10),
        (-1, -1, -2, -37, 0, -1, -1, -3, -1, -3, 0),
    ),
]


@pytest.mark.parametrize("name, point, expected", VALUES)
def test_values_by_hand(name, point, expected):
    actual = TASKS[name].fun(*map(float, point))
    np.testing.assert_allclose(actual, expected, rtol=1e-12, atol=1e-9)


@pytest.mark.parametrize("name", ["RoeFlux_1d", "RoeFlux_3d"])
def test_roe_flux_between_equal_states_is_the_flux_of_the_state(name):
    # The right state of the test point: the speed of sound of the left one may be zero.
    density, momentum, energy = state = TASKS[name].args[3:]
    velocity = momentum / density
    pressure = (0.5 - 1) * (energy - 0.5 * np.sum(momentum**2) / density)
    normal = np.ravel(velocity)[0]
    along = np.eye(np.size(momentum))[0].reshape(np.shape(momentum))
    expected = (
        density * normal,
        momentum * normal + pressure * along,
        normal * (energy + pressure),
    )
    for ours, theirs in zip(TASKS[name].fun(*state, *state), expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-12)


def test_first_order_greeks_have_their_closed_forms():
    s, k, r, sigma, t = map(float, TASKS["Greeks"].args)
    d1 = (math.log(s / k) + (r + sigma**2 / 2) * t) / (sigma * math.sqrt(t))
    d2 = d1 - sigma * math.sqrt(t)
    cdf1, cdf2 = (math.erfc(-d / math.sqrt(2)) / 2 for d in (d1, d2))
    density = math.exp(-(d1**2) / 2) / math.sqrt(2 * math.pi)
    discount = math.exp(-r * t)
    expected = (
        cdf1,
        -discount * cdf2,
        k * t * discount * cdf2,
        s * density * math.sqrt(t),
        s * density * sigma / (2 * math.sqrt(t)) + r * k * discount * cdf2,
    )
    np.testing.assert_allclose(TASKS["Greeks"].fun(*TASKS["Greeks"].args), expected, rtol=1e-12)


def _cross_entropy(logits: jax.Array, labels: jax.Array, axis: int) -> jax.Array:
    return -jnp.sum(labels * jax.nn.log_softmax(logits, axis=axis))


def _norm(x: jax.Array, scale: jax.Array, shift: jax.Array) -> jax.Array:
    return jax.nn.standardize(x, axis=-1, epsilon=1e-6) * scale + shift


def _perceptron(x, y, w1, b1, w2, b2, scale, shift):
    hidden = _norm(jnp.tanh(w1 @ x + b1), scale, shift)
    return _cross_entropy(jnp.tanh(w2 @ hidden + b2), y, axis=0)


def _encoder(x, y, wq1, wk1, wv1, wq2, wk2, wv2, w1, w2, b1, b2, *norms):
    blocks = ((wq1, wk1, wv1, w1, b1, norms[:2]), (wq2, wk2, wv2, w2, b2, norms[2:]))
    for wq, wk, wv, w, b, norm in blocks:
        attention = jax.nn.softmax(jnp.einsum("ci,cj->ij", wq @ x, wk @ x), axis=1)
        x = jax.nn.silu(w @ _norm(x + attention @ (wv @ x), *norm) + b)
    return _cross_entropy(x, y, axis=0)


@pytest.mark.parametrize("name, reference", [("Perceptron", _perceptron), ("Encoder", _encoder)])
def test_neural_tasks_equal_the_same_network_in_jax_nn(name, reference):
    task = TASKS[name]
    np.testing.assert_allclose(task.fun(*task.args), reference(*task.args), rtol=1e-12)
