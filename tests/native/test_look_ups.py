"""Searches, and entries at what they find: the places are chosen, not computed."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jax import lax

import jax_cce
from cases.agreement import assert_agree
from cases.natively import is_native
from jax_cce.native.integers import applied, chosen, possible
from jax_cce.native.nodes import Unsupported
from jax_cce.native.scalars import Scalars

KNOTS = np.array([0.0, 0.3, 0.35, 1.0, 1.7, 2.0, 2.5, 3.1, 4.0, 4.2, 5.0])
HEIGHTS = np.sin(KNOTS) + KNOTS
PLACES = np.array([0.0, 0.35, 0.36, 1.7, 2.2, 4.999, 5.0])


def bisected(x):
    """The number of knots that are not above, found by hand."""

    def halve(_, bounds):
        low, high = bounds
        middle = (low + high) // 2
        above = jnp.asarray(KNOTS)[jnp.minimum(middle, 10)] > x
        return jnp.where(above, low, middle + 1), jnp.where(above, middle, high)

    return lax.fori_loop(0, 4, halve, (jnp.int32(0), jnp.int32(11)))[0]


def spline(x):
    k = jnp.clip(bisected(x) - 1, 0, 9)
    knots, heights = jnp.asarray(KNOTS), jnp.asarray(HEIGHTS)
    share = (x - knots[k]) / (knots[k + 1] - knots[k])
    return heights[k] * (1 - share) + heights[k + 1] * share


LOOK_UPS = {
    "interpolation": lambda x: jnp.interp(x, jnp.asarray(KNOTS), jnp.asarray(HEIGHTS)) * x,
    "of heights": lambda x: jnp.interp(
        jnp.asarray(PLACES), jnp.asarray(KNOTS[:7]), x * jnp.asarray(HEIGHTS[:7])
    ),
    "at knots that vary": lambda x: jnp.interp(PLACES[::2], jnp.sort(jnp.cumsum(x[:5])), x[2:]),
    "bins": lambda x: jnp.digitize(x, jnp.asarray(KNOTS)) * x,
    "a table": lambda x: (
        jnp.asarray(HEIGHTS)[jnp.searchsorted(jnp.asarray(KNOTS), x, side="right") - 1] * x
    ),
    "found by hand": jax.vmap(spline),
    "beyond the end": lambda x: (
        jnp.asarray(HEIGHTS).at[bisected(x[3]) + 6].get(mode="fill", fill_value=2.0) * x
    ),
}


@pytest.mark.parametrize("name", LOOK_UPS)
@pytest.mark.parametrize("batch", [None, 21])
def test_look_ups(name, batch, quiet):
    fun = LOOK_UPS[name]
    x = jnp.asarray(PLACES)
    ours, theirs = jax_cce.value_and_jacobian(fun), lambda x: (fun(x), jax.jit(jax.jacfwd(fun))(x))
    if batch is not None:
        x = x + jnp.linspace(0.0, 0.3, batch)[:, None]
        ours, theirs = jax.vmap(ours), jax.vmap(theirs)
    sorts = name == "at knots that vary"
    assert is_native(ours, x) or sorts
    assert_agree(jax.jit(ours)(x), theirs(x))


def _weighted(found, x):
    return found(x) * jnp.ones_like(x)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_special_values_are_found_where_JAX_finds_them(dtype, quiet):
    special = [0.0, -0.0, np.nan, -np.nan, np.inf, -np.inf, 1.0, 0.9, 5.0, 7.0, 1e-45, -1e-45]
    x = jnp.asarray(special, dtype)
    for side in ("left", "right"):
        knots = jnp.asarray([-np.inf, -1.0, -0.0, 1.0, 5.0, np.inf, np.nan], dtype)
        found = functools.partial(jnp.searchsorted, knots, side=side)
        fun = functools.partial(_weighted, found)
        value, jacobian = jax.jit(jax_cce.value_and_jacobian(fun))(x)
        np.testing.assert_array_equal(value, fun(x))
        assert not np.any(jacobian)


def test_many_places_are_left_to_the_library(quiet):
    fun = lambda x: jnp.asarray(HEIGHTS)[jnp.digitize(x, jnp.asarray(KNOTS)) - 1] * x  # noqa: E731
    x = jnp.linspace(0.1, 4.9, 40)
    assert not is_native(jax_cce.jacobian(fun), x)
    assert_agree(jax_cce.jacobian(fun)(x), jax.jit(jax.jacfwd(fun))(x))


OPERATIONS = {
    "add": lambda x, y: x + y,
    "sub": lambda x, y: x - y,
    "mul": lambda x, y: x * y,
    "div": lambda x, y: int(x / y),
    "rem": lambda x, y: int(np.fmod(x, y)),
    "max": max,
    "min": min,
    "lt": lambda x, y: x < y,
    "ge": lambda x, y: x >= y,
    "eq": lambda x, y: x == y,
}


@given(
    st.recursive(
        st.integers(-20, 20),
        lambda parts: st.tuples(st.integers(0, 3), parts, parts),
        max_leaves=6,
    ),
    st.recursive(
        st.integers(1, 20),
        lambda parts: st.tuples(st.integers(0, 3), parts, parts),
        max_leaves=6,
    ),
    st.sampled_from(sorted(OPERATIONS)),
    st.integers(0, 15),
)
def test_operations_on_what_is_chosen(one, other, op, conditions):
    graph = Scalars(np.float64)

    def node(tree):
        if isinstance(tree, int):
            return graph.number(tree)
        which, *cases = tree
        return graph.make(
            "select_n", graph.make("gt", graph.input(which), graph.zero), *map(node, cases)
        )

    def value(tree):
        return tree if isinstance(tree, int) else value(tree[1 + (conditions >> tree[0] & 1)])

    def evaluated(node):
        if graph.values[node] is not None:
            return graph.values[node]
        args = graph.args[node]
        match graph.ops[node]:
            case "input":
                return conditions >> args[0] & 1
            case "not":
                return not evaluated(args[0])
            case "and":
                return evaluated(args[0]) and evaluated(args[1])
            case "or":
                return evaluated(args[0]) or evaluated(args[1])
            case "gt":
                return evaluated(args[0]) > evaluated(args[1])
            case "select_n":
                return evaluated(args[1 + bool(evaluated(args[0]))])
        return OPERATIONS[graph.ops[node]](*map(evaluated, args))

    nodes = node(one), node(other)
    assert value(one) in possible(graph, nodes[0])
    try:
        result = applied(graph, op, *nodes)
    except Unsupported:
        # By two conditions at once, of which no quotient is made.
        assert op == "div"
        return
    expected = OPERATIONS[op](value(one), value(other))
    assert evaluated(result) == expected
    if possible(graph, result) is not None and op not in ("lt", "ge", "eq"):
        assert expected in possible(graph, result)
        squared = chosen(graph, result, lambda k: graph.number(k * k))
        assert evaluated(squared) == expected**2
