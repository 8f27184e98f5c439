"""What `jax_cce.jax_internals` takes from JAX's private modules is there and does what we use.

Each test imports for itself, so that what is gone is reported by name.
"""

import ast
import importlib
import pathlib
import tomllib

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.extend import core as jex_core
from jax.sharding import AxisType, PartitionSpec
from packaging.specifiers import SpecifierSet

from jax_cce import jax_internals

_ROOT = pathlib.Path(__file__).parents[2]
_MODULE = _ROOT / "jax_cce" / "jax_internals.py"

X = np.arange(3.0)


def private_names(source: str) -> list[tuple[str, str]]:
    """The (module, name) of everything that a source imports from `jax._src`."""
    return [
        (node.module, alias.name)
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.ImportFrom) and str(node.module).startswith("jax._src")
        for alias in node.names
    ]


_NAMES = private_names(_MODULE.read_text(encoding="utf-8"))

# The tests below that say what each name is used for.
_TESTED = {
    "AbstractRef",
    "BatchTracer",
    "DynamicJaxprTrace",
    "DynamicJaxprTracer",
    "ExtendedDType",
    "FrozenDict",
    "InconclusiveDimensionOperation",
    "InternalMutableArrayEffect",
    "RecomputeType",
    "RefEffect",
    "TypedNdArray",
    "_convert_element_type",
    "checkify",
    "core",
    "discharge_state",
    "ensure_enum",
    "max_dim",
    "min_dim",
    "source_info_util",
}


@pytest.mark.parametrize("module, name", _NAMES, ids=lambda part: part)
def test_private_names_exist(module: str, name: str):
    # A name is an attribute, or a module of its own.
    if not hasattr(importlib.import_module(module), name):
        importlib.import_module(f"{module}.{name}")


def test_the_use_of_each_private_name_is_tested():
    assert {name for _, name in _NAMES} == _TESTED


def test_the_version_of_jax_is_a_supported_one():
    project = tomllib.loads((_ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    (wanted,) = (line for line in project["dependencies"] if line.startswith("jax>"))
    assert jax.__version__ in SpecifierSet(wanted.removeprefix("jax"))


def test_symbolic_dimensions_compare_only_where_all_sizes_agree():
    from jax._src.core import InconclusiveDimensionOperation, max_dim, min_dim

    (n,) = jax.export.symbolic_shape("n")
    assert n > 0
    assert max_dim(n, 1) == n
    assert min_dim(n, 1) == 1
    with pytest.raises(InconclusiveDimensionOperation):
        bool(n > 1)


class _Body(jax_internals.LazyJaxpr):
    def __init__(self, fun):
        self.made = jax.make_jaxpr(fun)(X)

    made = None


def _call_of_a_body():
    """A primitive that means the call of its parameter `body`, as the planned Jacobian does."""
    call = jex_core.Primitive("call_of_a_body")
    call.multiple_results = True
    call.def_abstract_eval(lambda *_, body: list(body.made.out_avals))
    return call


def test_a_kernel_is_marked_by_its_metadata():
    from jax.experimental import pallas as pl

    def kernel(x, out):
        out[...] = x[...] + pl.program_id(0)

    call = pl.pallas_call(kernel, out_shape=jax.ShapeDtypeStruct((3,), X.dtype), grid=(1,))
    (eqn,) = jax.make_jaxpr(call)(X).eqns
    assert eqn.params["metadata"] is None
    marked = jax_internals.with_metadata(eqn, {"a": "b"})
    assert dict(marked["metadata"]) == {"a": "b"}
    hash(marked["metadata"])
    found = jax_internals.kernel_of(eqn)
    assert (found.grid, found.asked, found.scratch) == ((1,), [("program_id", 0)], ())
    ((shape, dims, index_map), _) = found.blocks
    assert (shape, dims, list(map(int, index_map(0)))) == ((3,), [("Blocked", 3)], [0])


def test_a_call_is_lowered_as_a_function_of_its_name():
    from jax.interpreters import mlir

    call = _call_of_a_body()
    mlir.register_lowering(call, jax_internals.lowered_as_call)
    body = _Body(lambda x: jnp.sin(x) * X)
    lowered = jax.jit(lambda x: call.bind(x, body=body)).lower(X)
    assert f"call @{jax_internals.PLANNED_JACOBIAN}" in lowered.as_text()
    np.testing.assert_allclose(lowered.compile()(X)[0], jnp.sin(X) * X)


def test_dead_code_of_a_body_is_pruned():
    def fun(x, y):
        return jnp.sin(x) * X, jnp.cos(y), jnp.tan(x)

    pruned = jax_internals.pruned(jax.make_jaxpr(fun)(X, X), [True, False, False])
    assert len(pruned.in_avals) == 2
    assert [eqn.primitive.name for eqn in jax_internals.opened(pruned)[0].eqns] == ["sin", "mul"]
    np.testing.assert_allclose(jex_core.jaxpr_as_fun(pruned)(X, X)[0], jnp.sin(X) * X)


def test_an_equation_is_asked_for_by_its_used_outputs():
    call, asked = _call_of_a_body(), []

    def rule(equation, used):
        asked.append(used)
        return equation

    jax_internals.prune_dead_code(call, rule)
    body = _Body(lambda x: (jnp.sin(x), jnp.cos(x)))
    program = jax.make_jaxpr(lambda x: (call.bind(x, body=body), x))(X)
    jax_internals.pruned(program, [True, False, False])
    jax_internals.pruned(program, [True, True, False])
    assert asked == [[True, False]]
    nothing = jax_internals.pruned(program, [False, False, True])
    assert not jax_internals.opened(nothing)[0].eqns


def test_checkify_looks_into_bodies():
    from jax._src import checkify

    call = _call_of_a_body()
    call.def_impl(lambda *xs, body: jex_core.jaxpr_as_fun(body.made)(*xs))
    jax_internals.check_errors_inside(call)
    assert call in checkify.error_checks
    body = _Body(jnp.log)
    checked = checkify.checkify(lambda x: call.bind(x, body=body), errors=checkify.float_checks)
    assert checked(X + 1)[0].get() is None
    assert "nan generated by primitive: log" in checked(-X - 1)[0].get()


def test_values_under_jit_are_dynamic_jaxpr_tracers():
    from jax._src.interpreters.partial_eval import DynamicJaxprTracer

    seen = []
    jax.make_jaxpr(lambda x: seen.append(x) or x)(X)
    assert isinstance(seen[0], DynamicJaxprTracer)


def test_a_value_under_jit_outlives_its_trace_unnoticed():
    from jax._src import core

    seen = []
    jax.make_jaxpr(lambda x: seen.append((x, core.trace_ctx.trace)) or x)(X)
    ((x, trace),) = seen
    assert x._trace is trace
    # It counts as a constant, also before the trace is finished.
    kept = []

    def f(y):
        total = y + x
        kept.extend(core.trace_ctx.trace.frame.constvar_to_val.values())
        return total

    assert jax.make_jaxpr(f)(X).consts == [x]
    assert kept == [x]
    jax.make_jaxpr(lambda y: jax.jit(lambda z: seen.append((y, core.trace_ctx.trace)) or z)(y))(X)
    assert seen[1][1].parent_trace is seen[1][0]._trace
    assert type(core.escaped_tracer_error(x)) is jax.errors.UnexpectedTracerError


def test_a_trace_may_change_its_class_and_knows_what_came_before():
    from jax._src import core, source_info_util
    from jax._src.interpreters.partial_eval import DynamicJaxprTrace

    seen = []

    class Seeing(DynamicJaxprTrace):
        __slots__ = ()

        def process_custom_jvp_call(self, prim, fun, jvp, tracers, /, **params):
            (result,) = super().process_custom_jvp_call(prim, fun, jvp, tracers, **params)
            seen.append((prim, jvp, result, tracers))
            return [result]

        def process_custom_vjp_call(self, prim, fun, fwd, bwd, tracers, /, **params):
            (result,) = super().process_custom_vjp_call(prim, fun, fwd, bwd, tracers, **params)
            seen.append((prim, fwd, result, tracers))
            return [result]

    g, h = jax.custom_jvp(jnp.sin), jax.custom_vjp(jnp.sin)
    g.defjvp(lambda p, t: (jnp.sin(p[0]), t[0]))
    h.defvjp(lambda x: (jnp.sin(x), None), lambda _, ct: (ct,))

    def f(x):
        trace = core.trace_ctx.trace
        assert type(trace) is DynamicJaxprTrace
        trace.__class__ = Seeing
        return g(x) + h(x)

    jax.make_jaxpr(f)(X)
    for prim, rule, result, operands in seen:
        eqn = result.parent
        assert eqn.primitive is prim
        assert [x.val for x in eqn.in_tracers] == [x.val for x in operands]
        assert eqn.outvars == [result.val]
        assert eqn.params["num_consts"] == 0
        assert all(hasattr(store, "reset") for store in rule.stores if store is not None)
    assert len(seen) == 2
    assert callable(source_info_util.register_exclusion)


@pytest.mark.parametrize("f", [jnp.floor, lax.stop_gradient, jnp.sin])
def test_which_primitives_have_a_derivative(f):
    from jax_cce.jax_internals import has_derivative

    equation = jax.make_jaxpr(f)(X).eqns[-1]
    while "jaxpr" in equation.params:
        equation = equation.params["jaxpr"].eqns[-1]
    assert has_derivative(equation.primitive) is (f is jnp.sin)


def test_values_under_grad_are_no_dynamic_jaxpr_tracers():
    from jax._src.interpreters.partial_eval import DynamicJaxprTracer

    seen = []
    jax.grad(lambda x: seen.append(x) or x)(1.0)
    assert not isinstance(seen[0], DynamicJaxprTracer)
    assert isinstance(seen[0], jax.core.Tracer)


def test_batch_tracers_know_their_value_their_batch_axis_and_their_level():
    from jax._src.interpreters.batching import BatchTracer

    seen = []

    def f(x, y):
        seen.append((x, y))
        return x * y

    jax.vmap(lambda x: jax.vmap(lambda y: f(x, y))(np.ones((2, 3))))(np.ones((5, 4))[:, :3])
    ((x, y),) = seen
    assert isinstance(x, BatchTracer)
    assert isinstance(y, BatchTracer)
    assert (x.batch_dim, x.val.shape) == (0, (5, 3))
    assert (y.batch_dim, y.val.shape) == (0, (2, 3))
    assert x._trace.tag is not y._trace.tag


def test_convert_element_type_sets_dtype_and_weak_type():
    from jax._src.lax.lax import _convert_element_type

    for weak in (True, False):
        converted = _convert_element_type(jnp.float32(2), np.dtype("float64"), weak)
        chex.assert_type(converted, np.float64)
        assert converted.aval.weak_type is weak


def test_convert_element_type_can_leave_all_as_it_is():
    from jax._src.lax.lax import _convert_element_type

    x = jnp.asarray(X)
    assert jax.make_jaxpr(lambda x: _convert_element_type(x, x.dtype, False))(x).eqns == []


def test_typed_arrays_are_not_narrowed():
    from jax._src.literals import TypedNdArray

    for weak in (True, False):
        aval = jax.core.ShapedArray((), np.dtype("float64"), weak_type=weak)
        number = TypedNdArray(np.asarray(0.1), aval)
        with jax.enable_x64(False):
            result = jax.jit(lambda x: x)(number)
        chex.assert_type(result, np.float64)
        assert result.aval.weak_type is weak


def test_random_keys_have_an_extended_dtype():
    from jax._src.dtypes import ExtendedDType

    assert isinstance(jax.random.key(0).dtype, ExtendedDType)
    assert not isinstance(np.dtype("float64"), ExtendedDType)


def _with_a_reference(x):
    reference = jax.new_ref(x)
    reference[...] = reference[...] * 2
    return reference[...] + 1


def test_discharging_turns_references_into_values():
    from jax._src.state.discharge import discharge_state

    closed = jax.make_jaxpr(_with_a_reference)(X)
    assert "new_ref" in {eqn.primitive.name for eqn in closed.eqns}
    discharged = discharge_state(closed)
    names = {eqn.primitive.name for eqn in discharged.eqns}
    assert names.isdisjoint({"new_ref", "get", "swap", "addupdate", "freeze"})
    (result,) = jex_core.jaxpr_as_fun(discharged)(X)
    np.testing.assert_array_equal(result, 2 * X + 1)


@pytest.mark.parametrize("wrap", [lambda f: f, jax.jit, jax.checkpoint, jax.vmap])
def test_the_use_of_references_is_seen_from_outside(wrap):
    from jax._src.core import InternalMutableArrayEffect

    closed = jax.make_jaxpr(wrap(_with_a_reference))(X)
    (effect,) = closed.effects
    assert isinstance(effect, InternalMutableArrayEffect)
    assert any(effect in eqn.effects for eqn in closed.eqns)


def test_reading_and_writing_are_effects_of_references():
    from jax._src.state.types import AbstractRef, RefEffect

    closed = jax.make_jaxpr(_with_a_reference)(X)
    (made,) = [eqn.outvars[0] for eqn in closed.eqns if eqn.primitive.name == "new_ref"]
    assert isinstance(made.aval, AbstractRef)
    assert not isinstance(closed.jaxpr.invars[0].aval, AbstractRef)
    using = [eqn for eqn in closed.eqns if eqn.primitive.name in ("get", "swap")]
    assert len(using) == 3
    assert all(isinstance(effect, RefEffect) for eqn in using for effect in eqn.effects)


def test_discharging_loses_custom_rules_but_no_other_equation():
    from jax._src.state.discharge import discharge_state

    def function(x):
        return jax.nn.relu(_with_a_reference(x)), jax.jit(jnp.sin)(x)

    names = {eqn.primitive.name for eqn in discharge_state(jax.make_jaxpr(function)(X)).eqns}
    assert "jit" in names
    # The reason why equations are hidden from it.
    assert "custom_jvp_call" not in names


def test_policies_answer_with_a_truth_value_or_a_case():
    from jax._src.interpreters.partial_eval import RecomputeType, ensure_enum

    assert isinstance(ensure_enum(False), RecomputeType)
    assert not isinstance(ensure_enum(True), RecomputeType)
    (eqn,) = jax.make_jaxpr(jax.checkpoint(_sine))(X).eqns
    assert {"policy", "prevent_cse"} <= eqn.params.keys()


def _sine(x):
    return jnp.sin(x)


def test_equations_know_the_line_of_the_user():
    from jax._src import source_info_util

    (eqn,) = jax.make_jaxpr(_sine)(X).eqns
    line = _sine.__code__.co_firstlineno + 1
    assert source_info_util.summarize(eqn.source_info).startswith(f"{__file__}:{line}")


def test_an_equation_can_be_bound_again_in_its_own_context():
    from jax._src import source_info_util

    (eqn,) = jax.make_jaxpr(_sine)(X).eqns

    def again(x):
        stack = source_info_util.current_name_stack() + eqn.source_info.name_stack
        traceback = eqn.source_info.traceback
        with source_info_util.user_context(traceback, name_stack=stack), eqn.ctx.manager:
            return eqn.primitive.bind(x, **eqn.primitive.get_bind_params(eqn.params))

    (copy,) = jax.make_jaxpr(again)(X).eqns
    assert (copy.primitive, copy.params) == (eqn.primitive, eqn.params)
    assert source_info_util.summarize(copy.source_info) == source_info_util.summarize(
        eqn.source_info
    )


def test_equations_keep_the_precision_under_which_they_were_traced():
    with jax.default_matmul_precision("float32"):
        (eqn,) = jax.make_jaxpr(lambda a, b: lax.dot(a, b))(np.ones((2, 3)), np.ones((3, 2))).eqns
    with eqn.ctx.manager:
        assert eqn.params["precision"] is not None


def test_custom_derivatives_are_bound_by_functions_and_not_by_jaxprs():
    doubled = jax.custom_jvp(lambda x: 2 * x)
    doubled.defjvps(lambda tangent, _, x: 3 * tangent)
    (eqn,) = jax.make_jaxpr(doubled)(X).eqns

    def again(x):
        (result,) = eqn.primitive.bind(x, **eqn.primitive.get_bind_params(eqn.params))
        return result

    np.testing.assert_array_equal(again(X), 2 * X)
    _, tangent = jax.jvp(again, (X,), (np.ones(3),))
    np.testing.assert_array_equal(tangent, np.full(3, 3.0))


# Attributes of types that are public in use, but documented nowhere.


def test_types_say_whether_they_are_weak_and_how_they_are_sharded():
    aval = jax.make_jaxpr(lambda x: x * 2)(2.0).jaxpr.invars[0].aval
    assert aval.weak_type is True
    assert aval.sharding.mesh.empty
    assert tuple(aval.sharding.spec) == ()
    assert aval.manual_axis_type.varying == frozenset()


def test_arguments_can_be_traced_by_their_abstract_value():
    aval = jax.make_jaxpr(jnp.sin)(2.0).jaxpr.invars[0].aval
    abstract = jax.ShapeDtypeStruct(
        aval.shape,
        aval.dtype,
        weak_type=aval.weak_type,
        sharding=None,
        manual_axis_type=aval.manual_axis_type,
    )
    assert jax.make_jaxpr(jnp.sin)(abstract).jaxpr.invars[0].aval == aval


def test_explicitly_sharded_values_show_their_axes_and_can_be_replicated():
    mesh = jax.make_mesh((2,), ("i",), (AxisType.Explicit,))
    with jax.set_mesh(mesh):
        x = jax.device_put(np.ones((4, 3)), PartitionSpec("i", None))
        assert tuple(jax.typeof(x).sharding.spec) == ("i", None)
        replicated = jax.sharding.reshard(x, PartitionSpec(None, None))
        assert tuple(jax.typeof(replicated).sharding.spec) == (None, None)


def test_values_inside_shard_map_show_the_axes_over_which_they_vary():
    mesh = jax.make_mesh((2,), ("i",), (AxisType.Auto,))
    seen = []

    def f(x):
        seen.append(jax.typeof(x).manual_axis_type.varying)
        constant = jnp.ones(2)
        seen.append(jax.typeof(constant).manual_axis_type.varying)
        seen.append(jax.typeof(lax.pcast(constant, ("i",), to="varying")).manual_axis_type.varying)
        return x

    jax.shard_map(f, mesh=mesh, in_specs=PartitionSpec("i"), out_specs=PartitionSpec("i"))(X[:2])
    assert seen[:3] == [{"i"}, frozenset(), {"i"}]


def test_the_default_device_is_an_option():
    assert "jax_default_device" in jax.config.values
    assert isinstance(jax.local_devices()[0].device_kind, str)
