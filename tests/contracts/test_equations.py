"""The layout of JAX's equations: the operands and parameters that the rules read.

One test for each assumption. Where one fails, the rules that read the parameter that it names stop,
or give wrong numbers.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from jax_cce.jax_internals import INLINED, JAXPRS, is_jaxpr, opened, scan_counts

X, A, B = np.arange(3.0), np.ones((3, 4)), np.ones((4, 2))
IMAGE = np.ones((2, 3, 8))
INDEX = np.array([2, 0])
STEP = np.int64(1)


def equations(fun: Callable[..., Any], *args: Any) -> list[Any]:
    """The equations of a function, calls inlined as far as one level."""
    found = []
    for equation in jax.make_jaxpr(fun)(*args).eqns:
        body = equation.params.get(INLINED.get(equation.primitive.name, ""))
        found += [equation] if body is None else opened(body)[0].eqns
    return found


def equation(name: str, fun: Callable[..., Any], *args: Any) -> Any:
    """The one equation of a function that applies a primitive of this name."""
    found = [eqn for eqn in equations(fun, *args) if eqn.primitive.name == name]
    assert len(found) == 1, [eqn.primitive.name for eqn in equations(fun, *args)]
    return found[0]


class Row(NamedTuple):
    """A call that makes one equation of a primitive, and parameters that this has to have.

    Attributes:
        says: what is assumed, in words.
        exact: whether there may be no other parameters: some rules take all by name.
    """

    primitive: str
    says: str
    fun: Callable[..., Any]
    args: tuple[Any, ...]
    params: dict[str, Any]
    exact: bool = False


PARAMETERS = [
    Row(
        "dot_general",
        "contracted axes of both, then batch axes of both",
        lambda a, b: lax.dot_general(a, b, (((2,), (1,)), ((0,), (0,)))),
        (np.ones((5, 3, 4)), np.ones((5, 4, 2))),
        {"dimension_numbers": (((2,), (1,)), ((0,), (0,)))},
    ),
    Row(
        "broadcast_in_dim",
        "an axis of the result for each of the operand",
        lambda x: lax.broadcast_in_dim(x, (2, 3, 4), (1,)),
        (X,),
        {"shape": (2, 3, 4), "broadcast_dimensions": (1,)},
    ),
    Row(
        "transpose",
        "the operand's axes in the order of the result",
        lambda x: lax.transpose(x, (2, 0, 1)),
        (IMAGE,),
        {"permutation": (2, 0, 1)},
        exact=True,
    ),
    Row(
        "squeeze",
        "axes without sign",
        lambda x: lax.squeeze(x, (-1,)),
        (np.ones((3, 1)),),
        {"dimensions": (1,)},
        exact=True,
    ),
    Row(
        "slice",
        "strides are None where they are one",
        lambda x: lax.slice(x, (1,), (3,)),
        (X,),
        {"start_indices": (1,), "limit_indices": (3,), "strides": None},
    ),
    Row(
        "slice",
        "strides",
        lambda x: lax.slice(x, (0,), (3,), (2,)),
        (X,),
        {"start_indices": (0,), "limit_indices": (3,), "strides": (2,)},
    ),
    Row("rev", "axes", lambda a: lax.rev(a, (1,)), (A,), {"dimensions": (1,)}, exact=True),
    Row(
        "concatenate",
        "one axis",
        lambda a: lax.concatenate([a, 2 * a], 1),
        (A,),
        {"dimension": 1},
        exact=True,
    ),
    Row("stack", "the new axis", lambda x: jnp.stack([x, x], 1), (X,), {"axis": 1}, exact=True),
    Row(
        "tile",
        "copies along each axis",
        lambda a: jnp.tile(a, (2, 1)),
        (A,),
        {"reps": (2, 1)},
        exact=True,
    ),
    Row(
        "split",
        "sizes of the parts",
        lambda x: lax.split(x, (1, 2), 0),
        (X,),
        {"sizes": (1, 2), "axis": 0},
        exact=True,
    ),
    Row(
        "reshape",
        "no permutation",
        lambda a: lax.reshape(a, (4, 3)),
        (A,),
        {"new_sizes": (4, 3), "dimensions": None},
    ),
    Row(
        "reshape",
        "a permutation",
        lambda a: lax.reshape(a, (4, 3), (1, 0)),
        (A,),
        {"new_sizes": (4, 3), "dimensions": (1, 0)},
    ),
    Row(
        "pad",
        "low, high and interior for each axis",
        lambda x: lax.pad(x, 0.0, [(1, -1, 2)]),
        (X,),
        {"padding_config": ((1, -1, 2),)},
    ),
    Row("reduce_sum", "axes", lambda a: jnp.sum(a, 1), (A,), {"axes": (1,)}),
    Row("reduce_sum", "axes without sign", lambda a: jnp.sum(a, -1), (A,), {"axes": (1,)}),
    Row("reduce_max", "axes", lambda a: jnp.max(a, 1), (A,), {"axes": (1,)}),
    Row("reduce_min", "axes", lambda a: jnp.min(a, 1), (A,), {"axes": (1,)}),
    Row("reduce_prod", "axes", lambda a: jnp.prod(a, 1), (A,), {"axes": (1,)}),
    Row(
        "cumsum",
        "one axis and a direction",
        lambda a: lax.cumsum(a, 1, reverse=True),
        (A,),
        {"axis": 1, "reverse": True},
    ),
    Row(
        "cumlogsumexp",
        "one axis and a direction",
        lambda a: lax.cumlogsumexp(a, 1),
        (A,),
        {"axis": 1, "reverse": False},
    ),
    Row("cumprod", "one axis and a direction", lambda a: lax.cumprod(a, 1), (A,), {"axis": 1}),
    Row(
        "sort",
        "the axis without sign, the number of keys",
        lambda a: lax.sort((a, 2 * a), dimension=-1, num_keys=1),
        (A,),
        {"dimension": 1, "num_keys": 1},
    ),
    Row("top_k", "the axis", lambda a: lax.top_k(a, 2), (A,), {"k": 2, "axis": 1}),
    Row("integer_pow", "the exponent", lambda x: x**3, (X,), {"y": 3}),
    Row("tanh", "an accuracy", lambda x: lax.tanh(x), (X,), {"accuracy": None}),
    Row(
        "tanh",
        "the highest accuracy",
        lambda x: lax.tanh(x, accuracy=lax.AccuracyMode.HIGHEST),
        (X,),
        {"accuracy": lax.AccuracyMode.HIGHEST},
    ),
    Row(
        "dynamic_slice",
        "the window",
        lambda x, i: lax.dynamic_slice(x, (i,), (2,)),
        (X, STEP),
        {"slice_sizes": (2,)},
    ),
    Row(
        "reduce_window_sum",
        "one number, or one pair of paddings, for each axis",
        lambda x: lax.reduce_window(x, 0.0, lax.add, (2,), (3,), ((1, 0),), (2,), (4,)),
        (X,),
        {
            "window_dimensions": (2,),
            "window_strides": (3,),
            "padding": ((1, 0),),
            "base_dilation": (2,),
            "window_dilation": (4,),
        },
    ),
    Row(
        "conv_general_dilated",
        "one number, or one pair of paddings, for each spatial axis",
        lambda x, k: lax.conv_general_dilated(x, k, (2,), ((1, 0),), (3,), (2,), None, 1),
        (IMAGE, np.ones((4, 3, 2))),
        {
            "window_strides": (2,),
            "padding": ((1, 0),),
            "lhs_dilation": (3,),
            "rhs_dilation": (2,),
            "feature_group_count": 1,
            "batch_group_count": 1,
        },
    ),
]


@pytest.mark.parametrize(
    "row", PARAMETERS, ids=lambda row: f"{row.primitive} has {row.says} ({', '.join(row.params)})"
)
def test_parameters(row: Row):
    params = equation(row.primitive, row.fun, *row.args).params
    for name, value in row.params.items():
        assert name in params
        assert params[name] == value
        assert type(params[name]) is type(value)
    if row.exact:
        assert set(params) == set(row.params)


@pytest.mark.parametrize(
    "name",
    ["clamp", "dynamic_update_slice", "optimization_barrier"],
)
def test_primitives_without_parameters(name: str):
    fun, args = {
        "clamp": (lambda a: lax.clamp(0.0, a, 1.0), (A,)),
        "dynamic_update_slice": (lambda x, i: lax.dynamic_update_slice(x, x[:2], (i,)), (X, STEP)),
        "optimization_barrier": (lambda x: lax.optimization_barrier((x, 2 * x)), (X,)),
    }[name]
    assert equation(name, fun, *args).params == {}


# Operands.


def shapes(eqn: Any) -> list[tuple[int, ...]]:
    return [atom.aval.shape for atom in eqn.invars]


def test_operands_of_select_n_are_the_selector_and_then_the_cases():
    eqn = equation("select_n", lambda a: lax.select_n(a > 0, a, 2 * a), A)
    assert eqn.invars[0].aval.dtype == bool
    assert shapes(eqn) == [(3, 4)] * 3
    assert lax.select_n(np.array(False), 1.0, 2.0) == 1.0


def test_the_selector_of_select_n_may_be_a_scalar():
    eqn = equation("select_n", lambda a: lax.select_n(a[0, 0] > 0, a, 2 * a), A)
    assert shapes(eqn) == [(), (3, 4), (3, 4)]


def test_operands_of_clamp_are_the_lower_bound_the_operand_and_the_upper_bound():
    eqn = equation("clamp", lambda a: lax.clamp(-1.0, a, 2.0), A)
    assert [getattr(atom, "val", None) for atom in eqn.invars] == [-1.0, None, 2.0]
    assert shapes(eqn) == [(), (3, 4), ()]


def test_operands_of_pad_are_the_array_and_the_value():
    assert shapes(equation("pad", lambda x: lax.pad(x, 0.0, [(1, 1, 0)]), X)) == [(3,), ()]


def test_operands_of_dynamic_slice_are_the_array_and_a_scalar_for_each_axis():
    eqn = equation("dynamic_slice", lambda a, i: lax.dynamic_slice(a, (i, i), (2, 2)), A, STEP)
    assert shapes(eqn) == [(3, 4), (), ()]


def test_operands_of_dynamic_update_slice_are_the_array_the_update_and_a_scalar_for_each_axis():
    eqn = equation(
        "dynamic_update_slice", lambda a, i: lax.dynamic_update_slice(a, a[:2], (i, 0)), A, STEP
    )
    assert shapes(eqn) == [(3, 4), (2, 4), (), ()]


def test_dynamic_slices_are_clamped_to_the_operand():
    np.testing.assert_array_equal(lax.dynamic_slice(X, (5,), (2,)), X[1:])
    np.testing.assert_array_equal(lax.dynamic_update_slice(X, X[:2], (5,)), [0, 0, 1])


def test_sort_sorts_all_operands_by_the_first_ones_and_returns_as_many():
    keys, places = lax.sort((np.array([2.0, 0.0, 1.0]), np.arange(3)), num_keys=1)
    np.testing.assert_array_equal(keys, [0, 1, 2])
    np.testing.assert_array_equal(places, [1, 2, 0])


def test_sort_can_be_bound_with_one_more_operand():
    eqn = equation("sort", lambda x: lax.sort((x,), num_keys=1), X)
    results = eqn.primitive.bind(-X, np.arange(3), **eqn.params)
    np.testing.assert_array_equal(results[1], [2, 1, 0])


def test_the_second_result_of_top_k_are_places():
    _, places = lax.top_k(np.array([0.0, 2.0, 1.0]), 2)
    np.testing.assert_array_equal(places, [1, 2])


def test_the_parts_of_split_follow_each_other():
    np.testing.assert_array_equal(lax.split(X, (1, 2), 0)[1], X[1:])


def test_negative_padding_drops_entries():
    np.testing.assert_array_equal(lax.pad(X, 9.0, [(-1, 1, 1)]), [9, 1, 9, 2, 9])


# Gather and scatter.


def test_dimension_numbers_of_gather():
    numbers = equation("gather", lambda a, i: a[i], A, INDEX).params["dimension_numbers"]
    assert tuple(numbers.offset_dims) == (1,)
    assert tuple(numbers.collapsed_slice_dims) == (0,)
    assert tuple(numbers.start_index_map) == (0,)
    assert tuple(numbers.operand_batching_dims) == ()
    assert tuple(numbers.start_indices_batching_dims) == ()


def test_dimension_numbers_of_a_gather_under_vmap_name_batch_axes():
    fun = jax.vmap(lambda a, i: a[i])
    numbers = equation("gather", fun, A, np.array([[0], [1], [2]])).params["dimension_numbers"]
    assert tuple(numbers.operand_batching_dims) == (0,)
    assert tuple(numbers.start_indices_batching_dims) == (0,)


def test_a_gather_has_the_sizes_of_its_slices_and_a_mode():
    params = equation("gather", lambda a, i: a.at[i].get(mode="fill"), A, INDEX).params
    assert params["slice_sizes"] == (1, 4)
    assert params["mode"] is lax.GatherScatterMode.FILL_OR_DROP


def test_operands_of_gather_are_the_array_and_the_indices_with_components_last():
    assert shapes(equation("gather", lambda a, i: a[i], A, INDEX)) == [(3, 4), (2, 1)]


@pytest.mark.parametrize(
    "mode, constant",
    [("fill", "FILL_OR_DROP"), ("clip", "CLIP"), ("promise_in_bounds", "PROMISE_IN_BOUNDS")],
)
def test_modes_of_gather(mode: str, constant: str):
    eqn = equation("gather", lambda a, i: a.at[i].get(mode=mode), A, INDEX)
    assert eqn.params["mode"] is getattr(lax.GatherScatterMode, constant)


@pytest.mark.parametrize("name", ["scatter", "scatter-add"])
def test_dimension_numbers_of_scatter(name: str):
    verb = {"scatter": "set", "scatter-add": "add"}[name]
    eqn = equation(name, lambda a, i: getattr(a.at[i], verb)(1.0), A, INDEX)
    numbers = eqn.params["dimension_numbers"]
    assert tuple(numbers.update_window_dims) == (1,)
    assert tuple(numbers.inserted_window_dims) == (0,)
    assert tuple(numbers.scatter_dims_to_operand_dims) == (0,)
    assert tuple(numbers.operand_batching_dims) == ()
    assert tuple(numbers.scatter_indices_batching_dims) == ()


@pytest.mark.parametrize("name", ["scatter", "scatter-add"])
def test_operands_of_scatter_are_the_array_the_indices_and_the_updates(name: str):
    verb = {"scatter": "set", "scatter-add": "add"}[name]
    eqn = equation(name, lambda a, i: getattr(a.at[i], verb)(1.0), A, INDEX)
    assert shapes(eqn) == [(3, 4), (2, 1), (2, 4)]


def test_a_scatter_that_overwrites_has_no_function():
    assert equation("scatter", lambda x: x.at[0].set(1.0), X).params["update_jaxpr"] is None


def test_a_scatter_that_applies_a_function_has_it_as_a_jaxpr():
    eqn = equation("scatter", lambda x: x.at[0].apply(jnp.sin), X)
    assert is_jaxpr(eqn.params["update_jaxpr"])


def test_the_specs_of_a_convolution_are_batch_feature_and_then_space():
    eqn = equation(
        "conv_general_dilated",
        lambda x, k: lax.conv_general_dilated(
            x, k, (1,), "SAME", dimension_numbers=("NWC", "WIO", "CNW")
        ),
        IMAGE,
        np.ones((2, 8, 5)),
    )
    numbers = eqn.params["dimension_numbers"]
    assert numbers.lhs_spec == (0, 2, 1)
    assert numbers.rhs_spec == (2, 1, 0)
    assert numbers.out_spec == (1, 0, 2)


# Control flow and calls.


def _scan(x: Any) -> Any:
    return lax.scan(lambda c, y: ((c[0] + y * x[0], 2 * c[1]), c[0]), (0.0, x), x, reverse=True)


def test_a_scan_has_its_length_its_direction_and_a_closed_body():
    params = equation("scan", _scan, X).params
    assert (params["length"], params["reverse"]) == (3, True)
    assert is_jaxpr(params["jaxpr"])


def test_operands_of_a_scan_are_constants_carried_values_and_slices():
    eqn = equation("scan", _scan, X)
    assert scan_counts(eqn) == (1, 2)
    assert shapes(eqn) == [(3,), (), (3,), (3,)]
    body, constants = opened(eqn.params["jaxpr"])
    assert [var.aval.shape for var in body.invars] == [(3,), (), (3,), ()]
    assert len(constants) == 0


def test_results_of_a_scan_are_carried_values_and_stacked_ones():
    eqn = equation("scan", _scan, X)
    assert [var.aval.shape for var in eqn.outvars] == [(), (3,), (3,)]


def test_the_branches_of_a_cond_are_false_and_true_and_take_all_but_the_index():
    eqn = equation("cond", lambda x: lax.cond(x[0] > 0, jnp.sin, jnp.cos, x), X)
    names = [opened(branch)[0].eqns[0].primitive.name for branch in eqn.params["branches"]]
    assert names == ["cos", "sin"]
    assert shapes(eqn) == [(), (3,)]
    assert eqn.invars[0].aval.dtype == np.int32


def test_the_branches_of_a_switch_are_in_order_and_its_index_is_clamped():
    fun = lambda i, x: lax.switch(i, [jnp.sin, jnp.cos, jnp.tanh], x)  # noqa: E731
    eqn = equation("cond", fun, STEP, X)
    names = [opened(branch)[0].eqns[0].primitive.name for branch in eqn.params["branches"]]
    assert names == ["sin", "cos", "tanh"]
    np.testing.assert_array_equal(fun(7, X), jnp.tanh(X))


def test_a_while_loop_is_named_while():
    assert equation("while", lambda x: lax.while_loop(lambda y: y[0] < 3, lambda y: y + 1, x), X)


def _doubled_by_jvp(x: Any) -> Any:
    doubled = jax.custom_jvp(lambda x: 2 * x)
    doubled.defjvps(lambda tangent, _, x: 2 * tangent)
    return doubled(x)


def _doubled_by_vjp(x: Any) -> Any:
    doubled = jax.custom_vjp(lambda x: 2 * x)
    doubled.defvjp(lambda x: (2 * x, None), lambda _, cotangent: (2 * cotangent,))
    return doubled(x)


def test_a_custom_jvp_call_has_its_body_and_its_rule():
    params = equation("custom_jvp_call", _doubled_by_jvp, X).params
    assert is_jaxpr(params["call_jaxpr"])
    assert "jvp_jaxpr_fun" in params


def test_a_custom_vjp_call_has_its_body_and_its_rule():
    params = equation("custom_vjp_call", _doubled_by_vjp, X).params
    assert is_jaxpr(params["call_jaxpr"])
    assert "fwd_jaxpr_thunk" in params


def test_the_pushforward_of_a_custom_vjp_has_a_primitive_named_custom_lin():
    def both(x: Any, tangent: Any) -> Any:
        return jax.linearize(_doubled_by_vjp, x)[1](tangent)

    assert equation("custom_lin", both, X, X)


def test_relu_keeps_its_rule_from_call_to_call():
    rules = [equation("custom_jvp_call", jax.nn.relu, X).params["jvp_jaxpr_fun"] for _ in range(2)]
    assert rules[0] is rules[1]


CALLS = {
    "jit": (jax.jit(jnp.sin), {"jit", "pjit"}),
    "checkpoint": (jax.checkpoint(jnp.sin), {"checkpoint", "remat", "remat2"}),
}


@pytest.mark.parametrize("call", CALLS)
def test_calls_that_mean_their_body_are_known_by_name(call: str):
    fun, names = CALLS[call]
    (eqn,) = jax.make_jaxpr(fun)(X).eqns
    assert eqn.primitive.name in names & INLINED.keys()
    body = eqn.params[INLINED[eqn.primitive.name]]
    assert is_jaxpr(body)
    assert [inner.primitive.name for inner in opened(body)[0].eqns] == ["sin"]


def test_a_closed_jaxpr_has_constants_and_an_open_one_has_variables_for_them():
    closed = jax.make_jaxpr(lambda x: x + jnp.asarray(X) * 2)(X)
    assert isinstance(closed, JAXPRS)
    jaxpr, constants = opened(closed)
    assert len(jaxpr.constvars) == len(constants)
    assert isinstance(jaxpr, JAXPRS)


def test_numbers_in_a_program_are_literals_with_a_value_and_a_type():
    eqn = equation("mul", lambda x: x * 2.5, X)
    literal = eqn.invars[1]
    assert isinstance(literal, jax.extend.core.Literal)
    assert (literal.val, literal.aval.shape, literal.aval.dtype) == (2.5, (), np.float64)


def test_equations_without_a_used_result_say_whether_they_have_effects():
    closed = jax.make_jaxpr(lambda x: (jax.debug.print("{}", x), jnp.sin(x), x)[2])(X)
    effects = {eqn.primitive.name: bool(eqn.effects) for eqn in closed.eqns}
    assert effects["debug_callback" if "debug_callback" in effects else "debug_print"] is True
    assert effects["sin"] is False


def test_linearising_scan_and_cond_gives_a_linear_scan_and_cond():
    def scanned(x: Any, tangent: Any) -> Any:
        return jax.linearize(lambda x: lax.scan(lambda c, y: (c * y, c), 1.0, x), x)[1](tangent)

    def branched(x: Any, tangent: Any) -> Any:
        f = lambda x: lax.cond(x[0] > 0, jnp.sin, jnp.cos, x)  # noqa: E731
        return jax.linearize(f, x)[1](tangent)

    assert [e.primitive.name for e in equations(scanned, X, X)].count("scan") == 2
    assert [e.primitive.name for e in equations(branched, X, X)].count("cond") == 2


def test_each_primitive_on_sparse_matrices_has_an_implementation():
    from jax.experimental.sparse import api, bcoo, bcsr, coo, csr

    from jax_cce import jax_internals

    modules = {"api": api, "bcoo": bcoo, "bcsr": bcsr, "coo": coo, "csr": csr}
    for name, module in jax_internals.SPARSE_MATRICES.items():
        primitive = getattr(modules[module], f"{name}_p")
        assert primitive.name == name
        assert callable(jax_internals.sparse_implementation(primitive))
