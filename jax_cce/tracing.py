"""From a Python function to a flat program; the one module that touches JAX's internals.

`trace` runs the function abstractly, inlines every call whose derivative is that of its body
(jit, checkpoint, closed_call ...), drops dead equations, and numbers variables: inputs first, then
constants, then the outputs of the equations in order. custom_jvp, custom_vjp and control flow stay
single equations, because their derivative is not that of a body run once.

`program_key` identifies a program up to the names of variables and the values of constants.
"""

import math
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
import numpy as np
from jax import lax
from jax._src import source_info_util
from jax._src.dtypes import ExtendedDType
from jax._src.interpreters.batching import BatchTracer
from jax._src.interpreters.partial_eval import DynamicJaxprTracer
from jax._src.lax.lax import _convert_element_type
from jax._src.state.discharge import discharge_state
from jax.extend import core as jex_core
from jax.sharding import NamedSharding, PartitionSpec

__all__ = [
    "COLLECTIVES",
    "NEED_AXES",
    "Equation",
    "Literal",
    "Program",
    "Same",
    "abstract",
    "batch_size",
    "bind",
    "constant_key",
    "convert",
    "evaluate",
    "flatten",
    "flatten_closed",
    "inner_equations",
    "is_differentiable",
    "is_dtype",
    "is_hoistable",
    "is_jaxpr",
    "is_staged",
    "is_tracer",
    "jax_version",
    "jaxpr_key",
    "mathematical_params",
    "primitive_names",
    "program_key",
    "read",
    "replicated",
    "scan_counts",
    "sharded_like",
    "size",
    "source_line",
    "trace",
    "varying_like",
    "zeros",
]

Literal = jex_core.Literal

_JAXPRS = (jex_core.Jaxpr, jex_core.ClosedJaxpr)

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

# Calls that mean their body, and the parameter that holds it.
_INLINED = {
    "jit": "jaxpr",
    "pjit": "jaxpr",
    "closed_call": "call_jaxpr",
    "core_call": "call_jaxpr",
    "core_closed_call": "call_jaxpr",
    "checkpoint": "jaxpr",
    "remat": "jaxpr",
    "remat2": "jaxpr",
}


@dataclass(frozen=True, slots=True)
class Equation:
    """One equation of a flat program.

    Attributes:
        primitive: the JAX primitive.
        params: its parameters.
        inputs: a variable number or a `Literal` for each operand.
        outputs: the variable number of each result.
        in_avals: the abstract value of each operand.
        out_avals: the abstract value of each result.
        origin: the jaxpr equation, for its source line and its tracing context.
        known: what is known before the program runs of some operands, by position; NaN where an
            entry is not.
    """

    primitive: Any
    params: dict[str, Any]
    inputs: tuple[Any, ...]
    outputs: tuple[int, ...]
    in_avals: tuple[Any, ...]
    out_avals: tuple[Any, ...]
    origin: Any = field(repr=False)
    known: Mapping[int, np.ndarray] = field(default_factory=dict, repr=False)

    @property
    def name(self) -> str:
        """The primitive's name."""
        return self.primitive.name


@dataclass(frozen=True, slots=True)
class Program:
    """A flat, dead-code-free program.

    Variables 0 .. num_inputs-1 are the inputs, the next num_constants the constants, and then
    come the outputs of the equations, in order.
    """

    avals: list[Any]
    num_inputs: int
    num_constants: int
    equations: list[Equation]
    outputs: tuple[Any, ...]

    @property
    def first_computed(self) -> int:
        """The number of the first variable that an equation computes."""
        return self.num_inputs + self.num_constants

    def aval(self, atom: Any) -> Any:
        """The abstract value of a variable number or a literal."""
        return atom.aval if isinstance(atom, Literal) else self.avals[atom]


def jax_version() -> str:
    """The version of JAX, for records of what was found with it."""
    return jax.__version__


def is_differentiable(aval: Any) -> bool:
    """Whether a variable of this abstract value has a tangent space."""
    return jax.numpy.issubdtype(aval.dtype, np.inexact)


def is_tracer(x: Any) -> bool:
    """Whether a value is abstract in some way."""
    return isinstance(x, jax.core.Tracer)


def is_staged(x: Any) -> bool:
    """Whether a value only stands for one in a program under construction, as under jit."""
    return isinstance(x, DynamicJaxprTracer)


def batch_size(leaves: Iterable[Any]) -> int | None:
    """The number of points that `jax.vmap` stacks, over all its levels; None outside of it."""
    sizes: dict[Any, int] = {}
    for x in leaves:
        while isinstance(x, BatchTracer):
            if isinstance(x.batch_dim, int):
                sizes[x._trace.tag] = np.shape(x.val)[x.batch_dim]
            x = x.val
    return math.prod(sizes.values()) if sizes else None


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
    result = lax.full(aval.shape, 0, aval.dtype)
    return varying_like(sharded_like(result, aval), aval)


def varying_like(x: Any, aval: Any) -> Any:
    """`x` varying over the manual axes of `aval`, as shard_map's type check asks for."""
    missing = tuple(aval.manual_axis_type.varying - jax.typeof(x).manual_axis_type.varying)
    return lax.pcast(x, missing, to="varying") if missing else x


def replicated(x: Any) -> Any:
    """`x` without the explicit sharding that its type may carry.

    The algebra on coefficients pairs axes of different variables, for which JAX's typing of
    explicit shardings has no rule; automatic sharding is left to the compiler as it is.
    """
    return _resharded(x, (None,) * x.ndim)


def sharded_like(x: Any, aval: Any) -> Any:
    """`x`, whose last axes are those of `aval`, with the explicit sharding of `aval` on them."""
    spec = tuple(aval.sharding.spec)
    return _resharded(x, (None,) * (x.ndim - len(spec)) + spec, aval.sharding.mesh)


def _resharded(x: Any, spec: tuple[Any, ...], mesh: Any = None) -> Any:
    current = jax.typeof(x).sharding
    if tuple(current.spec) == spec:
        return x
    return jax.sharding.reshard(x, NamedSharding(mesh or current.mesh, PartitionSpec(*spec)))


def source_line(equation: Equation) -> str:
    """Where the user wrote the equation: "file:line (function)", or "" if unknown."""
    try:
        return source_info_util.summarize(equation.origin.source_info)
    except (AttributeError, ValueError):
        return ""


def convert(x: Any, dtype: Any, weak_type: bool) -> Any:
    """`x` as an array of the given dtype and weak type."""
    return _convert_element_type(x, dtype, weak_type)


def trace(
    fun: Callable[..., Iterable[Any]], leaves: Sequence[Any], *, hoist: bool = False
) -> tuple[Program, list[Any]]:
    """Traces `fun(*leaves)`, which returns a list of arrays.

    The function is traced anew each time, so a changed closure is seen.

    Args:
        fun: a function of arrays; it must be a fresh object, since JAX caches by identity.
        leaves: arrays, tracers, numbers or `jax.ShapeDtypeStruct`.
        hoist: whether floating-point literals other than 0, 1 and -1 become constants, so that
            one compiled program serves all their values.

    Returns:
        The program and the values of its constants.
    """
    closed = jax.make_jaxpr(fun)(*leaves)
    if any(eqn.primitive.name == "new_ref" for eqn in closed.eqns):
        closed = discharge_state(closed)  # reads and writes of references become values
    return flatten(closed.jaxpr, closed.consts, hoist=hoist)


def flatten_closed(closed: Any) -> tuple[Program, list[Any]]:
    """`flatten` for the closed jaxpr that is a parameter of an equation."""
    return flatten(*_opened(closed))


def flatten(jaxpr: Any, consts: Sequence[Any], *, hoist: bool = False) -> tuple[Program, list[Any]]:
    """Inlines calls, drops dead equations and numbers the variables of a jaxpr."""
    flat: list[tuple[Any, tuple[Any, ...], list[object]]] = []
    # Before numbering, a variable is a unique object: the jaxpr's own, or one of these.
    constants: dict[object, Any] = {}
    avals: dict[object, Any] = {}

    def constant(value: Any, aval: Any) -> object:
        name = object()
        constants[name], avals[name] = value, aval
        return name

    def walk(jaxpr: Any, consts: Sequence[Any], args: Sequence[Any]) -> list[Any]:
        names: dict[Any, Any] = dict(zip(jaxpr.invars, args, strict=True))
        for var, value in zip(jaxpr.constvars, consts, strict=True):
            names[var] = constant(value, var.aval)

        def read(atom: Any) -> Any:
            if not isinstance(atom, Literal):
                return names[atom]
            if hoist and _is_hoistable(atom):
                return constant(atom.val, atom.aval)
            return atom

        for eqn in jaxpr.eqns:
            operands = tuple(map(read, eqn.invars))
            body = eqn.params.get(_INLINED.get(eqn.primitive.name, ""))
            if body is None:
                results: list[Any] = []
                for var in eqn.outvars:
                    name = object()
                    avals[name] = var.aval
                    results.append(name)
                flat.append((eqn, operands, results))
            else:
                results = walk(*_opened(body), operands)
            names.update(zip(eqn.outvars, results, strict=True))
        return [read(atom) for atom in jaxpr.outvars]

    inputs = []
    for var in jaxpr.invars:
        name = object()
        avals[name] = var.aval
        inputs.append(name)
    outputs = walk(jaxpr, consts, inputs)

    live = {id(name) for name in outputs}
    kept = []
    for eqn, operands, results in reversed(flat):
        if eqn.effects or any(id(name) in live for name in results):
            live.update(map(id, operands))
            kept.append((eqn, operands, results))
    kept.reverse()
    used = [name for name in constants if id(name) in live]

    order = [*inputs, *used, *(name for _, _, results in kept for name in results)]
    number = {id(name): index for index, name in enumerate(order)}

    def resolve(name: Any) -> Any:
        return name if isinstance(name, Literal) else number[id(name)]

    def aval_of(name: Any) -> Any:
        return name.aval if isinstance(name, Literal) else avals[name]

    program = Program(
        [avals[name] for name in order],
        len(inputs),
        len(used),
        [
            Equation(
                eqn.primitive,
                eqn.params,
                tuple(map(resolve, operands)),
                tuple(map(resolve, results)),
                tuple(map(aval_of, operands)),
                tuple(var.aval for var in eqn.outvars),
                eqn,
            )
            for eqn, operands, results in kept
        ],
        tuple(map(resolve, outputs)),
    )
    return program, [constants[name] for name in used]


def _is_hoistable(literal: Any) -> bool:
    return (
        is_differentiable(literal.aval)
        and not np.shape(literal.val)
        and literal.val not in (0, 1, -1)
    )


def bind(equation: Equation, operands: Sequence[Any]) -> Sequence[Any]:
    """Applies the equation's primitive under the context in which it was traced."""
    origin = equation.origin
    params = equation.primitive.get_bind_params(equation.params)
    stack = source_info_util.current_name_stack() + origin.source_info.name_stack
    with (
        source_info_util.user_context(origin.source_info.traceback, name_stack=stack),
        origin.ctx.manager,
    ):
        results = equation.primitive.bind(*operands, **params)
    return results if equation.primitive.multiple_results else (results,)


def evaluate(program: Program, constants: Sequence[Any], inputs: Sequence[Any]) -> list[Any]:
    """Runs a program on arrays or tracers and returns its outputs."""
    values: list[Any] = [*inputs, *constants, *[None] * len(program.avals)]
    for equation in program.equations:
        results = bind(equation, [read(values, atom) for atom in equation.inputs])
        for name, result in zip(equation.outputs, results, strict=True):
            values[name] = result
    return [read(values, atom) for atom in program.outputs]


def read(values: Sequence[Any], atom: Any) -> Any:
    """The value of a variable number or a literal."""
    return atom.val if isinstance(atom, Literal) else values[atom]


def primitive_names(equations: Iterable[Equation]) -> set[str]:
    """The names of all primitives in some equations, those inside control flow included."""
    equations = list(equations)
    names = {equation.name for equation in equations}
    pending: list[Any] = [equation.params for equation in equations]
    seen: set[int] = set()
    while pending:
        value = pending.pop()
        if type(value) is dict:
            pending.extend(value.values())
        elif type(value) in (tuple, list):
            pending.extend(value)
        elif isinstance(value, _JAXPRS) and id(value) not in seen:
            seen.add(id(value))
            names.update(eqn.primitive.name for eqn in value.eqns)
            pending.extend(eqn.params for eqn in value.eqns)
    return names


def program_key(program: Program, custom: Callable[[Equation], Hashable]) -> Hashable:
    """Identifies a program by everything but the values of its constants.

    Args:
        program: the program.
        custom: the key of an equation whose derivative is user code (custom_jvp, custom_vjp),
            which no parameter identifies; None for any other equation.
    """
    return (
        program.num_inputs,
        tuple(program.avals[: program.first_computed]),
        tuple(_equation_key(equation, custom) for equation in program.equations),
        tuple(map(_atom_key, program.outputs)),
    )


def _equation_key(equation: Equation, custom: Callable[[Equation], Hashable]) -> Hashable:
    derivative = custom(equation)
    params = (
        tuple(_param_key(value, custom) for value in equation.params.values())
        if derivative is None
        else derivative
    )
    return (
        equation.primitive,
        tuple(map(_atom_key, equation.inputs)),
        params,
        equation.out_avals,
    )


def _atom_key(atom: Any) -> Hashable:
    if isinstance(atom, Literal):
        return np.asarray(atom.val).tobytes(), atom.aval
    return atom


def _opened(jaxpr: Any) -> tuple[Any, Sequence[Any]]:
    """A jaxpr and its constants, from a closed or an open one; JAX 0.12 has one type for both."""
    if isinstance(jaxpr, jex_core.ClosedJaxpr):
        return jaxpr.jaxpr, jaxpr.consts
    return jaxpr, ()


def scan_counts(equation: Equation) -> tuple[int, int]:
    """The number of constants and of carried values among a scan's operands."""
    params = equation.params
    if "num_carry" in params:
        return params["num_consts"], params["num_carry"]
    # JAX 0.12 keeps the structure of the operands instead.
    consts, carry, _ = params["ft_in"].unpack()
    return len(consts), len(carry)


def inner_equations(equation: Equation) -> list[Equation]:
    """The equations of the jaxprs among an equation's parameters, such as a scan's body."""
    found = []
    for value in equation.params.values():
        for item in value if type(value) is tuple else (value,):
            if isinstance(item, _JAXPRS):
                found += flatten(*_opened(item))[0].equations
    return found


def jaxpr_key(closed: Any, custom: Callable[[Equation], Hashable]) -> Hashable:
    """`program_key` of a closed jaxpr, together with the values of its constants."""
    program, constants = flatten(*_opened(closed))
    return program_key(program, custom), tuple(map(constant_key, constants))


def constant_key(value: Any) -> Hashable:
    """Identifies an array by its entries where they are at hand, else by the object."""
    if isinstance(value, (np.ndarray, np.generic, bool, int, float, complex)):
        array = np.asarray(value)
        return array.shape, array.dtype, array.tobytes()
    return Same(value)


def _param_key(value: Any, custom: Callable[[Equation], Hashable]) -> Hashable:
    if isinstance(value, _JAXPRS):
        return jaxpr_key(value, custom)
    if type(value) in (tuple, list):
        return tuple(_param_key(item, custom) for item in value)
    if isinstance(value, np.ndarray):
        return constant_key(value)
    try:
        hash(value)
    except TypeError:
        # An unhashable parameter is identified by the object, which the key keeps alive.
        return Same(value)
    return value


class Same:
    """A key equal to itself only, by the identity of what it holds."""

    def __init__(self, value: Any) -> None:
        self.value = value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Same) and self.value is other.value

    def __hash__(self) -> int:
        return id(self.value)


def size(aval: Any) -> int:
    """The number of elements of an abstract value."""
    return math.prod(aval.shape)


def is_jaxpr(value: Any) -> bool:
    """Whether a value is a jaxpr, open or closed."""
    return isinstance(value, _JAXPRS)


def is_dtype(value: Any) -> bool:
    """Whether a value is a dtype, NumPy's or one that JAX adds, as for random keys."""
    return isinstance(value, (np.dtype, ExtendedDType))


def is_hoistable(literal: Any) -> bool:
    """Whether `trace(hoist=True)` makes a constant of a literal."""
    return _is_hoistable(literal)


# How a result is named, computed, rounded or placed, rather than what it is. Element types are
# those of the results; what breaks ties between equal entries has no derivative.
_NOT_MATHEMATICS = {
    "accuracy",
    "algorithm",
    "context_mesh",
    "copy_semantics",
    "devices",
    "implementation",
    "is_stable",
    "layout",
    "mesh",
    "name",
    "out_dtype",
    "out_sharding",
    "precision",
    "preferred_element_type",
    "sharding",
    "srcs",
    "unconstrained_dims",
    "unroll",
    "use_magma",
    "weak_type",
    # The structure of a scan's operands, which JAX 0.12 has in place of counts.
    "ft_in",
    "ft_out",
}

# Parameters that JAX 0.12 calls otherwise than 0.10.
_RENAMED = {"call_jaxpr": "jaxpr"}


def mathematical_params(equation: Equation) -> list[tuple[str, Any]]:
    """The parameters that a derivative may depend on, sorted by name, alike in all JAX versions."""
    params = equation.params
    if not params or not equation.outputs:  # what has no results is there for its effect
        return []
    kept = {
        _RENAMED.get(name, name): value
        for name, value in params.items()
        if name not in _NOT_MATHEMATICS
    }
    if equation.name == "scan":
        kept["num_consts"], kept["num_carry"] = scan_counts(equation)
    return [(name, kept[name]) for name in sorted(kept)]
