"""Plans: made from shapes alone, inspectable, executable, and the same every time."""

import itertools
import os
import subprocess
import sys
import textwrap

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import jax_cce
from cases.agreement import assert_agree

NAMED = ["forward", "reverse", "markowitz", "auto"]
X = jnp.array([0.5, -1.5, 2.0])


def scalar(*shape: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, jnp.float64)


def lighthouse(a, b):
    """Two vertices: a b, of which the sine is multiplied with a. By hand, 3 or 4 products."""
    return jnp.sin(a * b) * a


def branched(x, y):
    """Four vertices of scalars with several paths between them."""
    a = x * y
    b = jnp.sin(a)
    c = jnp.exp(a) + b
    return {"first": b * c * x, "second": c / y}


def bottleneck(x):
    """Wide, narrow, wide: neither forward nor reverse is the cheapest order."""
    w = jnp.ones((2, x.shape[0]))
    narrow = jnp.tanh(w @ jnp.sin(w.T @ jnp.tanh(w @ x)))
    return jnp.sin(w.T @ jnp.tanh(narrow))


# Counts that follow from the definition with pencil and paper: the function, its argument shapes,
# (vertices, edges), and the multiplications in forward and in reverse order.
HAND_COUNTS = {
    "nothing to eliminate": (lambda x: jnp.sin(x), [()], (0, 1), 0, 0),
    "identity": (lambda x: x, [()], (0, 0), 0, 0),
    "constant": (lambda x: jnp.ones(()), [()], (0, 0), 0, 0),
    "chain": (lambda x: jnp.cos(jnp.sin(jnp.exp(x))), [()], (2, 3), 2, 2),
    "lighthouse": (lighthouse, [(), ()], (2, 5), 4, 3),
    "one edge for a repeated operand": (lambda x: jnp.sin(x * x), [()], (1, 2), 1, 1),
    "fan-in": (lambda a, b, c: jnp.exp(jnp.sin(a * b * c)), [(), (), ()], (3, 6), 8, 5),
    "fan-out": (
        lambda x: (lambda y: [jnp.cos(y), jnp.tan(y)])(jnp.sin(jnp.exp(x))),
        [()],
        (2, 4),
        3,
        4,
    ),
    "output that feeds another vertex": (
        lambda x: (lambda y: (y, jnp.exp(y)))(jnp.sin(x)),
        [()],
        (1, 2),
        1,
        1,
    ),
    "no vertex without a derivative": (
        lambda x: jnp.sin(x * jnp.sign(x)) * (x > 0),
        [()],
        (2, 3),
        2,
        2,
    ),
    "dead code": (lambda x: [jnp.sin(x), jnp.exp(jnp.cos(x))][0], [()], (0, 1), 0, 0),
    "calls are inlined": (jax.jit(lambda x: jax.jit(jnp.sin)(jnp.exp(x))), [()], (1, 2), 1, 1),
    "elementwise": (lambda x: jnp.cos(jnp.sin(x)), [(7,)], (1, 2), 7, 7),
}


@pytest.mark.parametrize("case", HAND_COUNTS.values(), ids=HAND_COUNTS)
def test_counts_by_hand(case):
    f, shapes, (num_vertices, num_edges), forward, reverse = case
    argnums = tuple(range(len(shapes)))
    for order, expected in [("forward", forward), ("reverse", reverse)]:
        plan = jax_cce.plan(f, argnums=argnums, order=order)(*(scalar(*s) for s in shapes))
        assert plan.num_vertices == len(plan.vertices) == num_vertices
        assert plan.num_edges == num_edges
        assert plan.cost("multiplications") == expected


@pytest.mark.parametrize(
    "f, flops",
    [
        (lambda x: jnp.exp(-x), 0),
        (lambda x: -jnp.exp(x + 1.0), 0),
        (lambda x: jnp.exp(jnp.sin(x)), 1),
        (lambda x: jnp.sin(x) * jnp.cos(x), 3),
    ],
    ids=["negation is free", "addition of a constant is free", "one product", "sum of products"],
)
def test_flops_by_hand(f, flops):
    for order in ["forward", "reverse"]:
        assert jax_cce.plan(f, order=order)(scalar()).cost("flops") == flops


def test_numbers_run_over_all_outputs_of_equations():
    def f(x):
        even = jnp.sin(x)
        flag = x > 0  # An integer value: numbered, but not eliminable.
        odd = jnp.exp(even)
        last = lax.select(flag, odd, even)
        return jnp.cos(last), even + 1.0

    plan = jax_cce.plan(f)(scalar())
    # 0 sin, 1 >, 2 exp, 3 select, 4 cos (output), 5 add (output).
    assert plan.vertices == (0, 2, 3)


@pytest.mark.parametrize("order", NAMED)
@pytest.mark.parametrize("f, shapes", [(branched, [(), ()]), (bottleneck, [(6,)])])
def test_order_is_a_permutation_of_the_vertices(f, shapes, order):
    plan = jax_cce.plan(f, argnums=tuple(range(len(shapes))), order=order)(
        *(scalar(*shape) for shape in shapes)
    )
    assert isinstance(plan, jax_cce.Plan)
    assert plan.vertices == tuple(sorted(plan.order))
    assert len(set(plan.order)) == plan.num_vertices > 2
    assert all(type(vertex) is int for vertex in plan.order)
    if order == "forward":
        assert plan.order == plan.vertices
    if order == "reverse":
        assert plan.order == plan.vertices[::-1]


@pytest.mark.parametrize("f, shapes", [(branched, [(), ()]), (bottleneck, [(6,)])])
def test_auto_is_as_good_as_the_named_orders(f, shapes):
    plans = {
        order: jax_cce.plan(f, order=order)(*(scalar(*shape) for shape in shapes))
        for order in NAMED
    }
    assert plans["auto"].cost("flops") <= min(plan.cost("flops") for plan in plans.values())


def test_bottleneck_has_a_better_order_than_the_two_modes():
    costs = {name: jax_cce.plan(bottleneck, order=name)(scalar(100)).cost() for name in NAMED}
    assert costs["auto"] < costs["forward"] / 2
    assert costs["auto"] < costs["reverse"] / 2


def _summary(plan: jax_cce.Plan) -> tuple[object, ...]:
    costs = [plan.cost(name) for name in ["multiplications", "flops"]]
    return plan.order, plan.vertices, plan.num_edges, costs, plan.operators, plan.listing()


def _loss(t, x, *, scale):
    return {"y": jnp.tanh(t["w"] @ x) * scale, "n": None}


@pytest.mark.parametrize("order", NAMED)
def test_shapes_say_what_arrays_say(order):
    args = ({"w": jnp.ones((4, 3)), "b": None}, X)
    plan = jax_cce.plan(_loss, argnums=(1, 0), order=order)
    concrete = plan(*args, scale=jnp.float64(2.0))
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), args)
    assert _summary(plan(*shapes, scale=scalar())) == _summary(concrete)


def test_no_memory_is_needed():
    # The Jacobian itself would take 8 TB, and each argument 8 MB.
    n = 10**6
    plan = jax_cce.plan(lambda x: jnp.cos(jnp.sin(x) * 2.0))(scalar(n))
    assert plan.num_vertices == 2
    assert plan.cost("multiplications") == 2 * n


@pytest.mark.parametrize(
    "other", ["sin", jnp.sin, 2.0, jnp.float64(2.0)], ids=["string", "function", "number", "scalar"]
)
def test_other_arguments_may_be_anything(other):
    def f(x, y):
        if isinstance(y, str):
            return getattr(jnp, y)(jnp.exp(x))
        return y(jnp.exp(x)) if callable(y) else jnp.exp(x) * y

    assert jax_cce.plan(f)(scalar(3), other).num_vertices == 1


@pytest.mark.parametrize("kind", [tuple, list, np.array], ids=["tuple", "list", "numpy"])
def test_every_order_gives_the_jacobian(kind):
    args = (jnp.float64(0.7), jnp.float64(1.3))
    plan = jax_cce.plan(branched, argnums=(0, 1))(*args)
    expected = jax.jit(jax.jacrev(branched, argnums=(0, 1)))(*args)
    permutations = list(itertools.permutations(plan.vertices))
    for order in permutations[:: max(1, len(permutations) // 12)]:
        given = jax_cce.plan(branched, argnums=(0, 1), order=kind(order))(*args)
        assert given.order == order
        ours = jax_cce.jacobian(branched, argnums=(0, 1), order=kind(order))(*args)
        assert_agree(ours, expected)


@pytest.mark.parametrize("order", NAMED)
@pytest.mark.parametrize("jit", [False, True], ids=["unjitted", "jit"])
def test_execution_of_a_plans_order(order, jit):
    x = jnp.linspace(-1.0, 1.0, 6)
    chosen = jax_cce.plan(bottleneck, order=order)(x).order
    jacobian = jax_cce.jacobian(bottleneck, order=chosen)
    assert_agree((jax.jit(jacobian) if jit else jacobian)(x), jax.jit(jax.jacrev(bottleneck))(x))
    replanned = jax_cce.plan(bottleneck, order=chosen)(x)
    assert replanned.cost() == jax_cce.plan(bottleneck, order=order)(x).cost()


def test_empty_order_where_nothing_is_eliminated():
    assert_agree(jax_cce.jacobian(jnp.sin, order=())(X), jax.jit(jax.jacrev(jnp.sin))(X))


def test_plan_under_jit_of_the_caller():
    orders = []

    @jax.jit
    def f(x):
        orders.append(jax_cce.plan(bottleneck)(x).order)
        return x

    f(jnp.ones(6))
    assert orders == [jax_cce.plan(bottleneck)(scalar(6)).order]


def test_steps_and_text():
    plan = jax_cce.plan(branched, argnums=(0, 1))(scalar(), scalar())
    text = str(plan)
    assert len(plan.steps) >= plan.num_vertices
    assert f"{plan.num_vertices} vertices" in text
    assert f"{plan.num_edges} edges" in text
    assert str(plan.cost("multiplications")) in text
    assert all(str(step) in plan.listing() for step in plan.steps)
    assert f"order (searched): {' '.join(map(str, plan.order))}" in text


@pytest.mark.parametrize(
    "f, operators",
    [
        (lambda x: jnp.sin(x) * x[::-1], set()),
        (lambda x: jnp.sum(jnp.exp(x).reshape(3, 1) * x, axis=0), set()),
        (lambda x: jnp.linalg.solve(jnp.outer(x, x) + jnp.eye(3), x), {"custom_linear_solve"}),
        (lambda x: lax.scan(lambda c, a: (jnp.sin(c * a), c), x[0], x)[1], {"scan"}),
    ],
    ids=["elementwise", "layout", "solve", "scan"],
)
def test_operators_are_named(f, operators):
    plan = jax_cce.plan(f)(scalar(3))
    assert set(plan.operators) == operators
    assert all(name in str(plan) for name in operators)


@pytest.mark.parametrize("order", NAMED)
def test_plans_are_equal_every_time(order):
    first, second = (jax_cce.plan(bottleneck, order=order)(scalar(6)) for _ in range(2))
    assert _summary(first) == _summary(second)


def test_plans_are_equal_in_every_process():
    # Hash randomisation must not decide between vertices of equal degree.
    program = textwrap.dedent(
        """
        import jax, jax.numpy as jnp, jax_cce

        def f(t):
            y = jnp.tanh(t["w"] @ jnp.sin(t["x"]) + t["b"])
            return {"a": y * t["b"], "b": jnp.outer(y, y / (1 + y @ y)), "c": jnp.cumsum(y)}

        shapes = {"w": (4, 3), "x": (3,), "b": (4,)}
        args = {k: jax.ShapeDtypeStruct(s, jnp.float32) for k, s in shapes.items()}
        for order in ["auto", "markowitz"]:
            print(jax_cce.plan(f, order=order)(args))
        """
    )
    texts = [
        subprocess.run(
            [sys.executable, "-c", program],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ["1", "2"]
    ]
    assert texts[0] == texts[1]
    assert texts[0].count("Plan:") == 2


def test_unknown_cost():
    plan = jax_cce.plan(lighthouse)(scalar(), scalar())
    with pytest.raises(ValueError, match=r"multiplications.*flops"):
        plan.cost("watts")


def test_plan_is_immutable():
    plan = jax_cce.plan(lighthouse)(scalar(), scalar())
    with pytest.raises(AttributeError):
        plan.order = ()
