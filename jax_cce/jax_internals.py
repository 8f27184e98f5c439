"""The one module that touches JAX's internals: what only JAX knows about an equation or an array.

Every private name of JAX is imported here, and `tests/contracts` states what is assumed of it.
Besides, here are the facts about JAX's own primitives that are not about derivatives: which of
them name mesh axes, and which are calls that can be inlined.
"""

import contextlib
import contextvars
import importlib.metadata
import inspect
import math
import pathlib
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax import lax
from jax._src import checkify, core, source_info_util
from jax._src.core import (
    InconclusiveDimensionOperation,
    InternalMutableArrayEffect,
    max_dim,
    min_dim,
)
from jax._src.dtypes import ExtendedDType
from jax._src.frozen_dict import FrozenDict
from jax._src.interpreters.batching import BatchTracer
from jax._src.interpreters.partial_eval import (
    DynamicJaxprTrace,
    DynamicJaxprTracer,
    RecomputeType,
    ensure_enum,
)
from jax._src.lax.lax import _convert_element_type
from jax._src.literals import TypedNdArray
from jax._src.state.discharge import discharge_state
from jax._src.state.types import AbstractRef, RefEffect
from jax.extend import core as jex_core
from jax.interpreters import ad, mlir, partial_eval
from jax.sharding import AxisType, NamedSharding, PartitionSpec

__all__ = [
    "CHECKPOINTS",
    "COLLECTIVES",
    "INLINED",
    "JAXPRS",
    "NEED_AXES",
    "PLANNED_JACOBIAN",
    "SIZE",
    "InconclusiveDimensionOperation",
    "Kernel",
    "LazyJaxpr",
    "Literal",
    "StagingTrace",
    "abstract",
    "allowing",
    "argument_names",
    "batch_size",
    "behind_a_barrier",
    "bind",
    "check_errors_inside",
    "check_within_its_trace",
    "context_of",
    "convert",
    "cotangent",
    "current_trace",
    "device_kind",
    "discharged",
    "exceeds",
    "exclude_from_user_frames",
    "explicit_mesh",
    "exporting_for_here",
    "full",
    "greatest",
    "has_derivative",
    "has_mesh",
    "has_own_rules",
    "implementation",
    "in_automatic_axes",
    "is_complex",
    "is_differentiable",
    "is_dtype",
    "is_for_one_device",
    "is_jaxpr",
    "is_leak",
    "is_mapped",
    "is_number",
    "is_of_jax",
    "is_operand_structure",
    "is_plain",
    "is_reference",
    "is_saved",
    "is_shared_out",
    "is_staged",
    "is_symbolic",
    "is_traced_in_loop",
    "is_tracer",
    "is_transposable",
    "is_without_gradient",
    "is_zero",
    "jax_version",
    "jaxlib_version",
    "kernel_of",
    "least",
    "lowered",
    "lowered_as_call",
    "magnitude",
    "mapped_with",
    "number_like",
    "opened",
    "other_effects",
    "partitioned",
    "partitions",
    "prune_dead_code",
    "pruned",
    "real_parts",
    "rule_names",
    "scan_counts",
    "sharded_like",
    "shares",
    "size",
    "source_line",
    "sparse_implementation",
    "surrounding_constants",
    "typed",
    "untyped",
    "user_frames",
    "uses_references",
    "varying_like",
    "with_equations",
    "with_metadata",
    "zeros",
]


def device_kind() -> str:
    """The kind of device that a computation runs on unless it is told otherwise."""
    device = jax.config.values.get("jax_default_device") or jax.local_devices()[0]
    return getattr(device, "device_kind", str(device))


Literal = jex_core.Literal

JAXPRS = (jex_core.Jaxpr, jex_core.ClosedJaxpr)


class LazyJaxpr:
    """A closed jaxpr that is made when it is asked for."""

    @property
    def made(self) -> Any:
        """The closed jaxpr."""
        raise NotImplementedError

    def __repr__(self) -> str:
        return str(self.made)


_REFERENCE_EFFECTS = (InternalMutableArrayEffect, RefEffect)

# Inside shard_map, what a pullback of these returns depends on all devices' cotangents.
COLLECTIVES = {
    "all_gather",
    "all_gather_invariant",
    "all_to_all",
    "pbroadcast",
    "ppermute",
    "psum",
    "psum_invariant",
    "pvary",
    "reduce_scatter",
}

# Equations that have a meaning under a named axis only.
NEED_AXES = COLLECTIVES | {"axis_index", "pmax", "pmin", "pcast"}

# The value of a size that is a symbol, which is known when an exported program is called.
SIZE = "dim_as_value"

# The primitive of `execution.primitive`.
PLANNED_JACOBIAN = "planned_jacobian"

# Calls that mean their body, and the parameter that holds it.
INLINED = {
    PLANNED_JACOBIAN: "body",
    "jit": "jaxpr",
    "pjit": "jaxpr",
    "closed_call": "call_jaxpr",
    "core_call": "call_jaxpr",
    "core_closed_call": "call_jaxpr",
    "eval_jaxpr": "call_jaxpr",
    "checkpoint": "jaxpr",
    "remat": "jaxpr",
    "remat2": "jaxpr",
}

# Those of them whose values are to be computed again where a derivative needs them.
CHECKPOINTS = {"checkpoint", "remat", "remat2"}

# Primitives on sparse matrices that are right by their implementation, and the module of
# `jax.experimental.sparse` that holds both. Those that make a sparse matrix from a dense one are
# not among them: JAX defines the derivative of padding otherwise than it computes the padding.
SPARSE_MATRICES = {
    f"{module}_{name}".removeprefix("api_"): module
    for module, names in {
        "api": "todense",
        "bcoo": "todense extract transpose dot_general dot_general_sampled spdot_general "
        "sort_indices sum_duplicates",
        "bcsr": "todense extract dot_general",
        "coo": "todense matvec matmat",
        "csr": "todense matvec matmat",
    }.items()
    for name in names.split()
}


def jax_version() -> str:
    """The version of JAX, for records of what was found with it."""
    return jax.__version__


def jaxlib_version() -> str:
    """The version of XLA's package."""
    return importlib.metadata.version("jaxlib")


def is_differentiable(aval: Any) -> bool:
    """Whether a variable of this abstract value has a tangent space."""
    return jax.numpy.issubdtype(aval.dtype, np.inexact)


def is_number(aval: Any) -> bool:
    """Whether the entries of this abstract value are numbers or truth values."""
    return not jax.numpy.issubdtype(aval.dtype, jax.dtypes.extended)


def has_mesh() -> bool:
    """Whether a mesh of devices is set around us, by `jax.set_mesh` or `jax.shard_map`."""
    return not jax.sharding.get_abstract_mesh().empty


def is_shared_out() -> bool:
    """Whether arrays may be shared out over a mesh around us, each of which is seen as a whole."""
    mesh = jax.sharding.get_abstract_mesh()
    return bool(mesh.auto_axes or mesh.explicit_axes)


def rule_names(params: Mapping[str, Any]) -> tuple[str, str]:
    """The names of the function and of the rule of a custom_jvp_call, by its parameters."""
    rule = getattr(params["jvp_jaxpr_fun"], "debug_info", None)
    name = params["call_jaxpr"].jaxpr.debug_info.func_name
    return name, "" if rule is None else rule.func_name


def is_transposable(primitive: Any) -> bool:
    """Whether JAX has a rule that transposes a primitive."""
    return primitive in ad.primitive_transposes


def is_complex(aval: Any) -> bool:
    """Whether values of this abstract value are complex numbers."""
    return jax.numpy.issubdtype(aval.dtype, np.complexfloating)


def real_parts(x: Any) -> list[Any]:
    """The real and the imaginary part of a complex array, any other array alone."""
    return [lax.real(x), lax.imag(x)] if is_complex(jax.typeof(x)) else [x]


def is_tracer(x: Any) -> bool:
    """Whether a value is abstract in some way."""
    return isinstance(x, jax.core.Tracer)


def is_staged(x: Any) -> bool:
    """Whether a value only stands for one in a program under construction, as under jit.

    So do those that `jax.vmap` maps over inside of one.
    """
    while isinstance(x, BatchTracer):
        x = x.val
    return isinstance(x, DynamicJaxprTracer)


def is_mapped(x: Any) -> bool:
    """Whether a value is that of one point of `jax.vmap`."""
    return isinstance(x, BatchTracer)


def check_within_its_trace(x: Any) -> None:
    """Refuses a tracer whose trace is finished; JAX itself may take it for a constant.

    Raises:
        jax.errors.UnexpectedTracerError: where `x` belongs to no trace around us.
    """
    if not is_tracer(x):
        return
    trace = core.trace_ctx.trace
    # Where JAX has cut the chain of traces, as while it traces a custom rule, nobody can tell.
    while trace is not None and trace is not x._trace:
        if isinstance(trace, core.EvalTrace):
            raise core.escaped_tracer_error(x)
        trace = getattr(trace, "parent_trace", None)


# What collects the equations of a program under construction.
StagingTrace = DynamicJaxprTrace


def current_trace() -> Any:
    """The trace that what is computed now belongs to."""
    return core.trace_ctx.trace


def exclude_from_user_frames(file: str) -> None:
    """Declares that no line of a file is one that the user wrote."""
    source_info_util.register_exclusion(file)


@contextlib.contextmanager
def _as_jax_traces() -> Iterator[None]:
    """Takes from the trace around us what a class of our own adds to it."""
    trace = current_trace()
    own = type(trace)
    if own is DynamicJaxprTrace or not isinstance(trace, DynamicJaxprTrace):
        yield
        return
    trace.__class__ = DynamicJaxprTrace
    try:
        yield
    finally:
        trace.__class__ = own


def has_derivative(primitive: Any) -> bool:
    """Whether JAX knows a derivative of a primitive that is not always zero."""
    jvp = getattr(ad.primitive_jvps.get(primitive), "func", None)
    return primitive.name != "stop_gradient" and getattr(jvp, "__name__", "") != "zero_jvp"


def surrounding_constants() -> list[Any]:
    """The constants so far of the program that is under construction around us, if there is one."""
    frame = getattr(core.trace_ctx.trace, "frame", None)
    return [] if frame is None else list(frame.constvar_to_val.values())


def is_leak(error: Exception) -> bool:
    """Whether an error is that of `jax.checking_leaks`, which has no type of its own."""
    return type(error) is Exception and str(error).startswith("Leaked ")


def is_plain(x: Any) -> bool:
    """Whether a value has neither an explicit sharding nor manual axes that it varies over."""
    aval = jax.typeof(x)
    is_sharded = any(part is not None for part in aval.sharding.spec)
    return not is_sharded and not aval.manual_axis_type.varying


def batch_size(leaves: Iterable[Any]) -> int | None:
    """The number of points that `jax.vmap` stacks, over all its levels; None if unknown."""
    sizes: dict[Any, int] = {}
    for x in leaves:
        while isinstance(x, BatchTracer):
            if isinstance(x.batch_dim, int):
                sizes[x._trace.tag] = np.shape(x.val)[x.batch_dim]
            x = x.val
    total = math.prod(sizes.values())
    return total if sizes and isinstance(total, int) else None


def abstract(aval: Any) -> jax.ShapeDtypeStruct:
    """An argument to trace with that has this abstract value, sharding and manual axes included."""
    sharding = aval.sharding
    return jax.ShapeDtypeStruct(
        aval.shape,
        aval.dtype,
        weak_type=aval.weak_type,
        sharding=None if sharding.mesh.empty else sharding,
        manual_axis_type=aval.manual_axis_type,
    )


def zeros(aval: Any) -> Any:
    """Zeros of an abstract value, manual axes included."""
    result = full(aval.shape, 0, aval.dtype)
    return varying_like(sharded_like(result, aval), aval)


def number_like(x: Any, value: complex) -> Any:
    """A number of the dtype of `x`, varying over the same manual axes."""
    # `lax.full_like` gives a number the sharding of an array in JAX 0.12.
    aval = jax.typeof(x)
    return varying_like(full((), value, aval.dtype), aval)


def varying_like(x: Any, aval: Any) -> Any:
    """`x` varying over the manual axes of `aval`, as shard_map's type check asks for."""
    missing = tuple(aval.manual_axis_type.varying - jax.typeof(x).manual_axis_type.varying)
    return lax.pcast(x, missing, to="varying") if missing else x


def behind_a_barrier(arrays: Mapping[Any, Any]) -> dict[Any, Any]:
    """Arrays that the compiler has none of before it has all.

    Inside shard_map that is said of those alone that vary over the same axes.
    """
    groups: dict[Any, dict[Any, Any]] = {}
    for name, x in arrays.items():
        aval = jax.typeof(x)
        if not jax.numpy.issubdtype(aval.dtype, jax.dtypes.extended):
            groups.setdefault(aval.manual_axis_type, {})[name] = x
    results = dict(arrays)
    for group in groups.values():
        results.update(zip(group, lax.optimization_barrier(list(group.values())), strict=True))
    return results


def explicit_mesh(avals: Iterable[Any]) -> Any:
    """The mesh of the context, else of some abstract values; None where no axis is explicit."""
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty:
        mesh = next((m for aval in avals if not (m := aval.sharding.mesh).empty), mesh)
    return mesh if mesh.explicit_axes else None


def in_automatic_axes(mesh: Any) -> Any:
    """A context in which the compiler says how arrays are shared out over a mesh.

    The algebra on coefficients pairs axes of different variables, for which JAX's typing of
    explicit shardings has no rule.

    Args:
        mesh: from `explicit_mesh`.
    """
    if mesh is None:
        return contextlib.nullcontext()
    automatic = dict.fromkeys(mesh.explicit_axes, AxisType.Auto)
    return jax.sharding.use_abstract_mesh(mesh.update_axis_types(automatic))


def partitioned(x: Any, partitions: Sequence[Any], mesh: Any) -> Any:
    """`x` with an explicit sharding of its last axes, of a mesh from `explicit_mesh`."""
    whole = (None,) * (x.ndim - len(partitions))
    return x if mesh is None else _resharded(x, PartitionSpec(*whole, *partitions), mesh)


def partitions(aval: Any, mesh: Any) -> tuple[Any, ...]:
    """The names of the axes of a mesh over which each axis of an abstract value is shared out."""
    sharding = aval.sharding
    own = sharding.spec.partitions if sharding.mesh == mesh else ()
    return own + (None,) * (len(aval.shape) - len(own))


def shares(names: Any, mesh: Any) -> int:
    """The number of parts of an axis that is shared out over these axes of a mesh."""
    return math.prod(mesh.shape[name] for name in (names if isinstance(names, tuple) else (names,)))


def untyped(x: Any) -> Any:
    """`x` without the explicit sharding that its type may carry, on the mesh of the context.

    Under `in_automatic_axes` that moves nothing; elsewhere `x` is replicated.
    """
    return _resharded(x, PartitionSpec(*(None,) * x.ndim), jax.sharding.get_abstract_mesh())


def sharded_like(x: Any, aval: Any) -> Any:
    """`x`, whose last axes are those of `aval`, with the explicit sharding of `aval` on them."""
    spec, mesh = aval.sharding.spec, aval.sharding.mesh
    own = spec.partitions
    whole = (None,) * (x.ndim - len(own)) + own
    mesh = jax.sharding.get_abstract_mesh() if mesh.empty else mesh
    return _resharded(x, spec.update(partitions=whole), mesh)


def _resharded(x: Any, spec: PartitionSpec, mesh: Any) -> Any:
    """`x` in the mesh of a type or a context, which need not be the one it comes from."""
    current = jax.typeof(x).sharding
    if mesh.empty:
        mesh = current.mesh
    if current.spec == spec and (current.mesh.empty or current.mesh == mesh):
        return x
    if current.mesh != mesh:
        # What is reduced or not is a matter of explicit axes.
        if current.spec.unreduced or current.spec.reduced:
            x = _resharded(x, PartitionSpec(*current.spec.partitions), current.mesh)
        if spec.unreduced or spec.reduced:
            x = _resharded(x, PartitionSpec(*spec.partitions), mesh)
    return jax.sharding.reshard(x, NamedSharding(mesh, spec))


def mapped_with(x: Any, values: Iterable[Any]) -> Any:
    """`x` unchanged, but mapped by whatever `jax.vmap` maps some values, under explicit axes.

    A gather whose positions are mapped over a sharded axis has no type in JAX where the array that
    it reads is not mapped.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if not mesh.explicit_axes:
        return x
    for value in filter(is_tracer, values):
        aval = jax.typeof(value)
        spec = aval.sharding.spec
        plain = aval.sharding.mesh == mesh and not spec.unreduced and not spec.reduced
        if plain and is_differentiable(aval):
            same = lax.reduce_and(lax.eq(value, value), tuple(range(value.ndim)))
            x = lax.select(same, x, x)
    return x


def cotangent(aval: Any) -> Any:
    """The abstract value of a cotangent: what is reduced becomes unreduced, and the reverse."""
    return aval.to_ct_aval()


def context_of(equation: Any) -> Any:
    """The context in which an equation was traced, its mesh above all, to work in."""
    return equation.origin.ctx.manager


def source_line(equation: Any) -> str:
    """Where the user wrote the equation, flat or not: "file:line (function)", or "" if unknown."""
    try:
        return source_info_util.summarize(getattr(equation, "origin", equation).source_info)
    except (AttributeError, ValueError):
        return ""


def user_frames(equation: Any) -> list[Any]:
    """The frames of the user's code in which a jaxpr equation was traced, the innermost first.

    Each has the attributes file_name, function_name, start_line, start_column, end_line and
    end_column.
    """
    traceback = equation.source_info.traceback
    return [] if traceback is None else list(source_info_util.user_frames(traceback))


def argument_names(jaxpr: Any) -> list[str]:
    """What the function that a jaxpr was traced from calls its arguments, "" where that is unknown.

    Parts of a pytree have names like "x[0]".
    """
    names = getattr(jaxpr.debug_info, "arg_names", None) or ()
    if len(names) != len(jaxpr.invars):
        return [""] * len(jaxpr.invars)
    return [name or "" for name in names]


def convert(x: Any, dtype: Any, weak_type: bool = False) -> Any:
    """`x` in a dtype and weak type, also one that the surrounding configuration does not allow."""
    return _convert_element_type(x, np.dtype(dtype), weak_type)


def full(shape: Sequence[int], value: Any, dtype: Any) -> Any:
    """An array of one number, in any dtype."""
    with allowing(dtype):
        return lax.full(tuple(shape), value, dtype)


def typed(value: Any, aval: Any) -> Any:
    """A number or NumPy array that has its abstract value in any configuration; else the value."""
    if isinstance(value, np.ndarray | np.generic | bool | int | float | complex):
        return TypedNdArray(np.asarray(value, aval.dtype), aval)
    return value


def allowing(*dtypes: Any) -> Any:
    """A context in which JAX keeps some dtypes, which 64-bit types may need.

    A function may enable them for a part of its values.
    """
    allowed = jax.config.jax_enable_x64 or _WIDE.isdisjoint(dtypes)  # type: ignore[attr-defined]
    return _anything if allowed else _widened()


@contextlib.contextmanager
def _widened() -> Iterator[bool]:
    with jax.enable_x64(True):
        yield True


_WIDE = set(map(np.dtype, (np.int64, np.uint64, np.float64, np.complex128)))
_anything = contextlib.nullcontext()


def bind(equation: Any, operands: Sequence[Any]) -> Sequence[Any]:
    """Applies the equation's primitive under the context in which it was traced."""
    origin = equation.origin
    params = equation.primitive.get_bind_params(equation.params)
    stack = source_info_util.current_name_stack() + origin.source_info.name_stack
    with (
        source_info_util.user_context(origin.source_info.traceback, name_stack=stack),
        context_of(equation),
        _as_jax_traces(),
    ):
        results = equation.primitive.bind(*operands, **params)
    return results if equation.primitive.multiple_results else (results,)


def pruned(closed: Any, used: Sequence[bool]) -> Any:
    """A closed jaxpr of all inputs and some outputs, without the equations that these leave out."""
    jaxpr, _ = opened(closed)
    live, _ = partial_eval.dce_jaxpr(jaxpr, list(used), instantiate=True)
    return closed.replace(jaxpr=live) if hasattr(closed, "jaxpr") else live


def prune_dead_code(primitive: Any, rule: Callable[[Any, Sequence[bool]], Any]) -> None:
    """Has JAX ask for an equation of a primitive by its used outputs, where some are not used."""

    # JAX 0.12 says between the two which inputs are live.
    def used_and_equation(used: list[bool], *between: Any) -> tuple[list[bool], Any]:
        *_, equation = between
        if any(used) and not all(used):
            equation = rule(equation, used)
        return [any(used)] * len(equation.invars), equation if any(used) else None

    partial_eval.dce_rules[primitive] = used_and_equation


def lowered_as_call(ctx: Any, *operands: Any, body: LazyJaxpr) -> Any:
    """Lowers an equation that means the call of a closed jaxpr, which it holds."""
    return mlir.core_call_lowering(ctx, *operands, name=PLANNED_JACOBIAN, call_jaxpr=body.made)


# Whether exported programs may contain what only a process of the same kind runs.
_exports_for_here: contextvars.ContextVar[bool] = contextvars.ContextVar(
    "exports_for_here", default=False
)


@contextlib.contextmanager
def exporting_for_here() -> Iterator[None]:
    """A context of exporting programs that only run where this process could."""
    token = _exports_for_here.set(True)
    try:
        yield
    finally:
        _exports_for_here.reset(token)


def is_for_one_device(ctx: Any) -> bool:
    """Whether what is lowered runs on one device here, and is neither shared out nor exported."""
    module = ctx.module_context
    devices = getattr(module.axis_context, "num_devices", None)
    is_for_here = not module.lowering_parameters.for_export or _exports_for_here.get()
    return devices == 1 and is_for_here


# What traces the steps of loops; `lax.fori_loop` and `lax.map` call these.
_TRACE_LOOPS = {inspect.unwrap(loop).__code__ for loop in (lax.scan, lax.while_loop)}


def is_traced_in_loop() -> bool:
    """Whether we are called by the step of a loop that JAX is tracing, which no trace says."""
    frame = inspect.currentframe()
    while frame is not None and frame.f_code not in _TRACE_LOOPS:
        frame = frame.f_back
    return frame is not None


def has_own_rules(equation: Any) -> bool:
    """Whether an equation is of JAX's newer kind of primitives, and has derivatives."""
    is_high = equation.primitive.is_high(*equation.in_avals, **equation.params)
    return is_high and any(map(is_differentiable, equation.out_avals))


def lowered(closed: Any) -> Any:
    """A closed jaxpr without equations that JAX has to lower to plain ones first."""
    jaxpr, _ = opened(closed)
    # In JAX 0.10 there are none.
    lower = getattr(partial_eval, "lower_jaxpr2", None)
    return lower(closed) if lower is not None and jaxpr.is_high else closed


def implementation(equation: Any) -> Any:
    """The closed jaxpr of what JAX lowers an equation to."""
    avals = list(map(abstract, equation.in_avals))
    return lowered(jax.make_jaxpr(lambda *operands: bind(equation, list(operands)))(*avals))


def check_errors_inside(primitive: Any) -> None:
    """Has `checkify` look for errors inside of the parameter `body` of a primitive."""

    def checked(*args: Any, body: LazyJaxpr) -> Any:
        # JAX 0.12 passes a context before the error, the kinds of errors and the operands.
        at = next(k for k, each in enumerate(args) if isinstance(each, checkify.Error))
        error, kinds, *operands = args[at:]
        return checkify.checkify_jaxpr(*args[:at], body.made, kinds, error, *operands)

    checkify.error_checks[primitive] = checked


def is_reference(aval: Any) -> bool:
    """Whether a variable of this abstract value is a mutable reference."""
    return isinstance(aval, AbstractRef)


def uses_references(program: Any) -> bool:
    """Whether a jaxpr or one of its equations makes, reads or writes references, at any depth."""
    return any(isinstance(each, _REFERENCE_EFFECTS) for each in program.effects)


def is_saved(policy: Any, equation: Any) -> bool:
    """Whether a policy of `jax.checkpoint` keeps the results of an equation of a jaxpr."""
    if equation.effects:
        return True
    if policy is None:
        return False
    avals = [atom.aval for atom in equation.invars]
    return not isinstance(
        ensure_enum(policy(equation.primitive, *avals, **equation.params)), RecomputeType
    )


def is_without_gradient(aval: Any) -> bool:
    """Whether what is read from a reference counts as a constant."""
    return getattr(aval, "kind", None) == "no_grad_no_remat"


def other_effects(equation: Any) -> set[Any]:
    """The effects of an equation that have nothing to do with references."""
    return {each for each in equation.effects if not isinstance(each, _REFERENCE_EFFECTS)}


def discharged(closed: Any) -> Any:
    """A closed jaxpr whose references are values; those among its inputs are also its last outputs.

    References that it closes over stay. A custom rule on a reference is lost.
    """
    return discharge_state(closed)


class Kernel(NamedTuple):
    """A call of a Pallas kernel.

    Attributes:
        grid: its grid.
        blocks: for each operand, and then each result, its shape, for each axis of a block the kind
            and the size, and the map from a point of the grid to the block's index.
        out_avals: the abstract values of the results.
        scratch: those of what its references beside these hold.
        aliases: pairs of an operand and a result that share memory.
        asked: what the body asks of the grid, "program_id" or "num_programs", and of which axis.
        body: a closed jaxpr of the answers and of what all references hold, which returns what they
            hold in the end.
    """

    grid: tuple[int, ...]
    blocks: list[tuple[tuple[int, ...], list[tuple[str, int]], Any]]
    out_avals: tuple[Any, ...]
    scratch: tuple[Any, ...]
    aliases: tuple[tuple[int, int], ...]
    asked: list[tuple[str, int]]
    body: Any


_ASKED = ("program_id", "num_programs")
_BLOCK_SIZES = {"Blocked", "Element", "Squeezed"}


def kernel_of(eqn: Any) -> Kernel | None:
    """What an equation of `pallas_call` says; None where its blocks depend on data."""
    params, mapping = eqn.params, eqn.params["grid_mapping"]
    grid = mapping.grid
    if mapping.num_index_operands or not all(isinstance(size, int) for size in grid):
        return None
    blocks = []
    for each in mapping.block_mappings:
        dims = [(type(size).__name__, getattr(size, "block_size", 1)) for size in each.block_shape]
        padding = [getattr(size, "padding", (0, 0)) for size in each.block_shape]
        index_map, _ = opened(each.index_map_jaxpr)
        if not {kind for kind, _ in dims} <= _BLOCK_SIZES or set(padding) - {(0, 0)}:
            return None
        if len(index_map.invars) != len(grid) or index_map.effects:
            return None
        function = core.jaxpr_as_fun(each.index_map_jaxpr)
        blocks.append((tuple(each.array_aval.shape), dims, function))
    jaxpr = params["jaxpr"]
    asking = [each for each in jaxpr.eqns if each.primitive.name in _ASKED]
    rest = [each for each in jaxpr.eqns if each.primitive.name not in _ASKED]
    inner = [sub for each in rest for sub in core.jaxprs_in_params(each.params)]
    if other_effects(jaxpr) or any(map(_asks, inner)):
        return None
    body = jaxpr.replace(
        invars=[*(each.outvars[0] for each in asking), *jaxpr.invars],
        eqns=rest,
        debug_info=jaxpr.debug_info.with_unknown_names(),
    )
    asked = [(each.primitive.name, each.params["axis"]) for each in asking]
    avals = [var.aval for var in jaxpr.invars]
    first = len(avals) - mapping.num_scratch_operands
    return Kernel(
        tuple(grid),
        blocks,
        tuple(params["out_avals"]),
        tuple(abstract(aval.inner_aval) for aval in avals[first:]),
        tuple(params["input_output_aliases"]),
        asked,
        discharged(jex_core.ClosedJaxpr(body, ())),
    )


def _asks(jaxpr: Any) -> bool:
    """Whether a jaxpr asks where in the grid it is."""
    return any(
        each.primitive.name in _ASKED or any(map(_asks, core.jaxprs_in_params(each.params)))
        for each in opened(jaxpr)[0].eqns
    )


def with_metadata(eqn: Any, metadata: dict[str, str]) -> dict[str, Any]:
    """The parameters of a call of a Pallas kernel, marked."""
    return {**eqn.params, "metadata": FrozenDict(metadata)}


def opened(jaxpr: Any) -> tuple[Any, Sequence[Any]]:
    """A jaxpr and its constants, from a closed or an open one; JAX 0.12 has one type for both."""
    if isinstance(jaxpr, LazyJaxpr):
        jaxpr = jaxpr.made
    if isinstance(jaxpr, jex_core.ClosedJaxpr):
        return jaxpr.jaxpr, jaxpr.consts
    return jaxpr, ()


def with_equations(jaxpr: Any, equations: Sequence[Any]) -> Any:
    """A jaxpr, open or closed, with other equations."""
    if isinstance(jaxpr, jex_core.Jaxpr):
        return jaxpr.replace(eqns=list(equations))
    return jaxpr.replace(jaxpr=jaxpr.jaxpr.replace(eqns=list(equations)))


def sparse_implementation(primitive: Any) -> Callable[..., Any] | None:
    """What JAX computes for a primitive of `jax.experimental.sparse`; None for any other."""
    name = primitive.name
    if name not in SPARSE_MATRICES:
        return None
    # Whoever holds such a primitive has imported the module, which takes a while.
    module = sys.modules.get(f"jax.experimental.sparse.{SPARSE_MATRICES[name]}")
    if getattr(module, f"{name}_p", None) is not primitive:
        return None
    return getattr(module, f"_{name}_impl")


def scan_counts(equation: Any) -> tuple[int, int]:
    """The number of constants and of carried values among a scan's operands."""
    params = equation.params
    if "num_carry" in params:
        return params["num_consts"], params["num_carry"]
    # JAX 0.12 keeps the structure of the operands instead.
    consts, carry, _ = params["ft_in"].unpack()
    return len(consts), len(carry)


def size(aval: Any) -> int:
    """The number of elements of an abstract value, which may be symbolic."""
    return math.prod(aval.shape)


def is_symbolic(avals: Iterable[Any]) -> bool:
    """Whether a dimension of some abstract values is a symbol, as `jax.export` makes them."""
    return not all(isinstance(k, int) for aval in avals for k in getattr(aval, "shape", ()))


def is_zero(number: Any) -> bool:
    """Whether an integer that may be symbolic is 0, whatever its symbols are.

    Raises:
        InconclusiveDimensionOperation: where it is 0 for some sizes; `==` says no there.
    """
    return bool(number == 0) or not (isinstance(number, int) or number > 0 or number < 0)


def magnitude(number: Any) -> Any:
    """The absolute value of an integer that may be symbolic."""
    return -number if number < 0 else number


def greatest(one: Any, other: Any) -> Any:
    """The greater of two integers, which may be symbolic, and the result then too."""
    # JAX's own take a while to find out that they are not.
    both_known = isinstance(one, int) and isinstance(other, int)
    return max(one, other) if both_known else max_dim(one, other)


def least(one: Any, other: Any) -> Any:
    """The lesser of two integers, which may be symbolic, and the result then too."""
    both_known = isinstance(one, int) and isinstance(other, int)
    return min(one, other) if both_known else min_dim(one, other)


def exceeds(one: Any, other: Any, *, unknown: bool = False) -> bool:
    """Whether one > other; where that depends on the value of a symbolic dimension, `unknown`."""
    try:
        return bool(one > other)
    except InconclusiveDimensionOperation:
        return unknown


def is_jaxpr(value: Any) -> bool:
    """Whether a value is a jaxpr, open or closed."""
    return isinstance(value, JAXPRS)


def is_of_jax(jaxpr: Any) -> bool:
    """Whether a jaxpr is that of a function of JAX's own."""
    info = opened(jaxpr)[0].debug_info
    file = getattr(info, "func_filename", None) or ""
    return pathlib.Path(jax.__file__).parent in pathlib.Path(file).parents


def is_operand_structure(value: Any) -> bool:
    """Whether a value says which operands belong together, as in scans from JAX 0.12 on."""
    return type(value).__module__ == "jax._src.flattree"


def is_dtype(value: Any) -> bool:
    """Whether a value is a dtype, NumPy's or one that JAX adds, as for random keys."""
    return isinstance(value, (np.dtype, ExtendedDType))
