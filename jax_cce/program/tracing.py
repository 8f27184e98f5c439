"""Tracing: from a Python function to a flat program.

`trace` runs a function abstractly, inlines every call whose derivative is that of its body (jit,
checkpoint, closed_call ...), drops dead equations, and numbers variables: inputs first, then
constants, then the outputs of the equations in order. Equations keep in mind which checkpoint
regions they come from. custom_jvp, custom_vjp and control flow stay
single equations, because their derivative is not that of a body run once. An operation on a sparse
matrix is inlined, too, as the gathers, products and scatters that it stands for, from which the
pattern of its derivative follows.
"""

import itertools
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
import numpy as np

from jax_cce.caches import memoised
from jax_cce.jax_internals import (
    CHECKPOINTS,
    INLINED,
    JAXPRS,
    LazyJaxpr,
    Literal,
    abstract,
    check_within_its_trace,
    convert,
    is_differentiable,
    is_saved,
    opened,
    pruned,
    sparse_implementation,
)
from jax_cce.program import passes
from jax_cce.program.early_rules import early_rules
from jax_cce.program.flat import Equation, Program, Region
from jax_cce.program.kernels import differentiable
from jax_cce.program.references import without_references

__all__ = [
    "check_constants",
    "check_where_differentiated",
    "flatten",
    "flatten_closed",
    "inner_equations",
    "is_hoistable",
    "jaxprs",
    "primitive_names",
    "primitives",
    "trace",
]

# What looks at programs with certain primitives before they are differentiated.
_checks: dict[Any, Callable[[Program], None]] = {}

# The number and the policy of a checkpoint region.
_Around = tuple[int, Any]


def trace(
    fun: Callable[..., Iterable[Any]],
    leaves: Sequence[Any],
    *,
    hoist: bool = False,
    differentiated: bool = False,
    rewrite: Callable[[Any], Any] | None = None,
) -> tuple[Program, list[Any]]:
    """Traces `fun(*leaves)`, which returns a list of arrays.

    The function is traced anew each time, so a changed closure is seen.

    Args:
        fun: a function of arrays; it must be a fresh object, since JAX caches by identity.
        leaves: arrays, tracers, numbers or `jax.ShapeDtypeStruct`.
        hoist: whether floating-point literals other than 0, 1 and -1 become constants, so that
            one compiled program serves all their values.
        differentiated: whether it will be differentiated in all leaves, so that custom rules run
            when the trace reaches them.
        rewrite: makes another jaxpr of the closed one, before calls are inlined.

    Returns:
        The program and the values of its constants.

    Raises:
        jax.errors.UnexpectedTracerError: where a constant belongs to a trace that is finished.
    """
    finished: list[Callable[[], None]] = []
    if differentiated:
        fun = early_rules(fun, finished)
    closed = without_references(jax.make_jaxpr(fun)(*leaves))
    for restore in finished:
        restore()
    check_constants((), closed.consts)
    # So loops, too, are without what nobody reads of their results.
    closed = pruned(closed, [True] * len(closed.jaxpr.outvars))
    if rewrite is not None:
        closed = rewrite(closed)
    program, constants = flatten(closed.jaxpr, closed.consts, hoist=hoist)
    if differentiated and rewrite is None:
        for primitive in _checks.keys() & primitives(program.equations):
            _checks[primitive](program)
    return program, constants


def check_where_differentiated(primitive: Any, check: Callable[[Program], None]) -> None:
    """Has a function look at each program with a primitive that will be differentiated.

    Args:
        primitive: the primitive, at any depth.
        check: raises where the derivative would not be what it seems.
    """
    _checks[primitive] = check


def flatten_closed(closed: Any) -> tuple[Program, list[Any]]:
    """`flatten` for the closed jaxpr that is a parameter of an equation."""
    return flatten(*opened(closed))


def flatten(jaxpr: Any, consts: Sequence[Any], *, hoist: bool = False) -> tuple[Program, list[Any]]:
    """Inlines calls, drops dead equations and numbers the variables of a jaxpr.

    An open jaxpr comes without the values of its constvars, which are then its first inputs.
    """
    # Inputs and results are numbered as they come, constants down from -1.
    avals: dict[int, Any] = {}
    constants: list[Any] = []
    equations: list[Equation] = []
    count = itertools.count()
    count_regions = itertools.count()

    def numbered(var: Any) -> int:
        name = next(count)
        avals[name] = var.aval
        return name

    def constant(value: Any, aval: Any) -> int:
        constants.append(value)
        avals[-len(constants)] = aval
        return -len(constants)

    def walk(
        jaxpr: Any,
        consts: Sequence[Any],
        args: Sequence[Any],
        source: Any = None,
        around: tuple[_Around, ...] = (),
    ) -> list[Any]:
        free = jaxpr.constvars[len(consts) :]
        names: dict[Any, Any] = dict(zip([*free, *jaxpr.invars], args, strict=True))
        for var, value in zip(jaxpr.constvars, consts, strict=False):
            names[var] = constant(value, var.aval)

        def read(atom: Any) -> Any:
            if not isinstance(atom, Literal):
                return names[atom]
            # Under some configurations whole arrays are literals.
            if np.shape(atom.val) or (hoist and is_hoistable(atom)):
                return constant(atom.val, atom.aval)
            return atom

        for eqn in jaxpr.eqns:
            operands = tuple(map(read, eqn.invars))
            if source is not None:
                eqn = eqn.replace(source_info=source)
            body, within = eqn.params.get(INLINED.get(eqn.primitive.name, "")), source
            if body is None and sparse_implementation(eqn.primitive) is not None:
                # The user wrote this equation and not what it stands for.
                body, within = _implemented(eqn), eqn.source_info
            if body is None and (body := differentiable(eqn)) is not None:
                within = eqn.source_info
            if body is None:
                results = list(map(numbered, eqn.outvars))
                equations.append(
                    Equation(
                        eqn.primitive,
                        eqn.params,
                        operands,
                        tuple(results),
                        tuple([k.aval if isinstance(k, Literal) else avals[k] for k in operands]),
                        tuple([var.aval for var in eqn.outvars]),
                        eqn,
                        regions=tuple(
                            [Region(number, is_saved(policy, eqn)) for number, policy in around]
                        ),
                    )
                )
            else:
                inside = around
                # Without `prevent_cse` the compiler may keep the values, as for jax.jacrev.
                if eqn.primitive.name in CHECKPOINTS and eqn.params["prevent_cse"]:
                    inside = (*around, (next(count_regions), eqn.params["policy"]))
                results = walk(*opened(body), operands, within, inside)
            names.update(zip(eqn.outvars, results, strict=True))
        return [read(atom) for atom in jaxpr.outvars]

    inputs = list(map(numbered, [*jaxpr.constvars[len(consts) :], *jaxpr.invars]))
    outputs = walk(jaxpr, consts, inputs)
    effects = [bool(equation.origin.effects) for equation in equations]
    live, read = passes.needed(equations, outputs, selected=effects)
    used = [name for name in range(-1, -1 - len(constants), -1) if name in read]
    if not constants and all(live):
        every = [avals[name] for name in range(len(avals))]
        return Program(every, len(inputs), 0, equations, tuple(outputs)), []
    kept = [equation for equation, wanted in zip(equations, live, strict=True) if wanted]
    order = [*inputs, *used, *(name for equation in kept for name in equation.outputs)]
    program = passes.renumbered(avals, order, len(inputs), len(used), kept, outputs)
    return program, [constants[-1 - name] for name in used]


def _implemented(eqn: Any) -> Any:
    """The jaxpr of what JAX computes for an equation on sparse matrices."""
    types = tuple((var.aval.dtype, var.aval.weak_type) for var in eqn.outvars)
    implementation = _implementation(eqn.primitive, tuple(eqn.params.items()), types)
    avals = [abstract(var.aval) for var in eqn.invars]
    with eqn.ctx.manager:
        return implementation.trace(*avals).jaxpr


@memoised(256)
def _implementation(primitive: Any, params: tuple[tuple[str, Any], ...], types: Any) -> Any:
    """The implementation of a primitive on sparse matrices, as a function that JAX has compiled.

    It is kept, because JAX remembers by its identity what it has traced.
    """
    implementation = sparse_implementation(primitive)
    assert implementation is not None

    def typed(*operands: Any) -> list[Any]:
        results = implementation(*operands, **dict(params))
        results = results if primitive.multiple_results else [results]
        return [
            convert(result, dtype, weak)
            for result, (dtype, weak) in zip(results, types, strict=True)
        ]

    return jax.jit(typed)


def is_hoistable(literal: Any) -> bool:
    """Whether `trace(hoist=True)` makes a constant of a literal."""
    return (
        is_differentiable(literal.aval)
        and not np.shape(literal.val)
        and literal.val not in (0, 1, -1)
        and np.isfinite(literal.val)
    )


def primitives(equations: Iterable[Equation]) -> set[Any]:
    """All primitives in some equations, those inside control flow included."""
    equations = list(equations)
    seen = {equation.primitive for equation in equations}
    for body in jaxprs(equations):
        seen.update(eqn.primitive for eqn in body.eqns)
    return seen


def jaxprs(equations: Iterable[Equation]) -> list[Any]:
    """All jaxprs among the parameters of some equations, and in these, each once."""
    pending: list[Any] = [equation.params for equation in equations]
    bodies: dict[int, Any] = {}
    while pending:
        value = pending.pop()
        if type(value) is dict:
            pending.extend(value.values())
        elif isinstance(value, (tuple, list)):
            pending.extend(value)
        elif isinstance(value, LazyJaxpr):
            pending.append(value.made)
        elif isinstance(value, JAXPRS) and id(value) not in bodies:
            bodies[id(value)] = value
            pending.extend(eqn.params for eqn in value.eqns)
    return list(bodies.values())


def primitive_names(equations: Iterable[Any]) -> set[str]:
    """The names of all primitives in some equations, those inside control flow included."""
    return {primitive.name for primitive in primitives(equations)}


def check_constants(equations: Iterable[Equation], constants: Iterable[Any] = ()) -> None:
    """Refuses constants that a rule took from a program that is finished.

    Args:
        equations: equations, the jaxprs in which have constants, too.
        constants: constants beside these.

    Raises:
        jax.errors.UnexpectedTracerError: where one belongs to no program under construction.
    """
    for body in jaxprs(equations):
        constants = itertools.chain(constants, opened(body)[1])
    for constant in constants:
        check_within_its_trace(constant)


def inner_equations(equation: Equation, *, of_solvers: bool = False) -> list[Equation]:
    """The equations of the jaxprs among an equation's parameters, such as a scan's body.

    Args:
        equation: the equation.
        of_solvers: whether those of a custom_linear_solve count, of which one run applies a few.
    """
    equations = []
    for value in equation.params.values():
        is_several = isinstance(value, tuple) if of_solvers else type(value) is tuple
        for item in value if is_several else (value,):
            if isinstance(item, JAXPRS):
                equations += flatten(*opened(item))[0].equations
    return equations
