"""Which way to compute a Jacobian is the fastest here, found by timing the candidates, once.

How long a program takes is not predicted well enough by any count to choose between good ones, so
with `order="tuned"` native code, the classical orders, the greedy ones on either graph and JAX's
own two modes are compiled and timed against each other on the present device, for the number of
points that `jax.vmap` stacks. The fastest is stored in the registry, where every later look-up
finds it, in this process and in others.
"""

import importlib.metadata
import itertools
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeGuard

import jax
import numpy as np

from jax_cce import jax_internals, registry
from jax_cce.execution import measuring
from jax_cce.native.compiling import machine
from jax_cce.planning import choosing, plans
from jax_cce.planning.options import OrderRequest
from jax_cce.planning.plans import Plan
from jax_cce.planning.task import Task
from jax_cce.program import tracing
from jax_cce.registry import StoredOrder

__all__ = ["JAX_MODES", "NATIVE", "is_tuned", "leave_out_deviating", "tune"]

_log = logging.getLogger("jax_cce")

JAX_MODES = ("jacfwd", "jacrev")
NATIVE = "native"
_ORDERS = ("forward", "reverse", "markowitz", "auto")
# Candidates that need so many times the operations of the cheapest are not compiled.
_HOPELESS = 8
# What is so little faster than the default may be so by chance.
_BY_CHANCE = 1.02

# A plan's program: from constants and inputs to what the plan computes.
Programs = Callable[[Plan], Callable[[Sequence[Any]], Any]]


def is_tuned(stored: choosing.Stored | None, task: Task) -> TypeGuard[choosing.Stored]:
    """Whether an answer of the registry was timed for this task's number of points."""
    return (
        stored is not None and stored.entry.cost == "runtime" and stored.entry.batch == task.batch
    )


def tune(
    task: Task,
    request: OrderRequest,
    programs: Programs,
    native: Callable[[Sequence[Any]], Any] | None,
    arguments: Sequence[Any],
    fixed: Sequence[Any],
) -> None:
    """Times the candidates and stores the fastest, where there is a choice that can be timed.

    Args:
        task: the task.
        request: what is asked of the order.
        programs: what each plan computes.
        native: what is computed natively where it can be; None where it never is.
        arguments: the function's constants and inputs; in place of tracers and types numbers are
            made up.
        fixed: those that will be constants of the compiled program, None for each other.
    """
    values = _values(task, arguments)
    if values is None:
        return
    candidates, default = _candidates(task, request)
    functions = {name: programs(plan) for name, plan in candidates.items()}
    if native is not None and not machine().obstacle:
        functions[NATIVE] = native
    # Everything here is computed at once, also where a program is under construction around us.
    with jax.ensure_compile_time_eval(), task.context():
        calls, failures = measuring.compiled(
            {name: _of_arrays(function, fixed) for name, function in functions.items()},
            values,
            _mapped(task, arguments),
        )
        if default in calls and not _is_finite(calls[default]()):
            # Of what is not finite it cannot be seen who is right.
            _log.info("Jacobian of %s is not tuned: it is not finite at %s", task.name, values)
            return
        leave_out_deviating(calls, failures, default)
        times = measuring.race(calls) if calls else {}
    for name, failure in failures.items():
        _log.info("Jacobian of %s: %s takes no part in tuning: %s", task.name, name, failure)
    if not times:
        return
    winner = min(times, key=times.__getitem__)
    if times.get(default, np.inf) <= _BY_CHANCE * times[winner]:
        winner = default
    _store(task, candidates.get(winner), winner, times)
    _log.info("Jacobian of %s: tuned to %s of %s", task.name, winner, times)


def _values(task: Task, arguments: Sequence[Any]) -> list[Any] | None:
    """Arguments to time with; None where there can be none."""
    if task.is_symbolic or task.method != "elimination" or jax_internals.has_mesh():
        return None
    program = task.traced.program
    if any(equation.origin.effects for equation in program.equations):
        return None
    names = tracing.primitive_names(program.equations)
    if not jax_internals.NEED_AXES.isdisjoint(names) or task.reverse_only:
        return None
    inputs, constants = program.num_inputs, len(arguments) - program.num_inputs
    avals = [*program.avals[inputs : inputs + constants], *program.avals[:inputs]]
    made_up = [jax_internals.is_tracer(x) or _is_type(x) for x in arguments]
    # A loop that waits for convergence may wait forever on numbers that mean nothing.
    if any(made_up) and "while" in names:
        return None
    if not all(map(jax_internals.is_number, itertools.compress(avals, made_up))):
        return None
    known = [task.known.get(inputs + k) for k in range(constants)] + [None] * inputs
    values = [
        _made_up(aval, entries) if made else x
        for x, aval, made, entries in zip(arguments, avals, made_up, known, strict=True)
    ]
    return [
        np.stack([np.asarray(x)] * task.batch) if is_mapped and task.batch else x
        for x, is_mapped in zip(values, _mapped(task, arguments), strict=True)
    ]


def _mapped(task: Task, arguments: Sequence[Any]) -> list[bool]:
    """Which arguments are taken to have an axis of points: all inputs, where there are points."""
    constants = len(arguments) - task.traced.program.num_inputs
    return [task.batch is not None and k >= constants for k in range(len(arguments))]


def _is_type(x: Any) -> bool:
    return isinstance(x, jax.ShapeDtypeStruct)


def _made_up(aval: Any, known: Any) -> np.ndarray:
    """Numbers without meaning, but for those that are known and that programs rely on.

    They are distinct ones below 1, of which no three points are on a line, or zeros, which are
    right for any index.
    """
    if not jax_internals.is_differentiable(aval):
        return np.zeros(aval.shape, aval.dtype) if known is None else known
    numbers = np.random.default_rng(0).uniform(0.4, 0.6, aval.shape).astype(aval.dtype)
    return numbers if known is None else np.where(np.isnan(known), numbers, known)


def _candidates(task: Task, request: OrderRequest) -> tuple[dict[str, Plan], str]:
    """The plans that may be the fastest, by name, each once; and which is the default's."""
    every: dict[str, Plan] = {}
    graphs = task.graphs
    for scalarised, graph in graphs.items():
        form = ", small arrays taken apart" if scalarised else ""
        for name in _ORDERS:
            every[name + form] = plans.make(graph, name).of(scalarised=scalarised)
    least = max(min(plan.cost("flops") for plan in every.values()), 1)
    kept = {k: plan for k, plan in every.items() if plan.cost("flops") <= _HOPELESS * least}
    avals = task.traced.program.avals
    is_complex = any(jax_internals.is_complex(avals[name]) for name in graphs[False].inputs)
    if not task.sparse and not is_complex:
        for mode in JAX_MODES:
            kept[mode] = plans.make(graphs[False], "reverse").of(method=mode)
    kept["default"] = choosing.plan(task, request)
    names: dict[Any, str] = {}
    for name, plan in kept.items():
        way = (plan.scalarised, plan.order) if plan.method == "elimination" else plan.method
        default = names.setdefault(way, name)
    return {name: kept[name] for name in names.values()}, default


def _of_arrays(program: Callable[[Sequence[Any]], Any], fixed: Sequence[Any]) -> Callable[..., Any]:
    def of_arrays(*arguments: Any) -> Any:
        pairs = zip(arguments, fixed, strict=True)
        return program([x if own is None else own for x, own in pairs])

    return of_arrays


def leave_out_deviating(
    calls: dict[str, Callable[[], Any]], failures: dict[str, str], default: str
) -> None:
    """Leaves out what does not give what the default gives, at the values that are timed."""
    if default not in calls:
        return
    expected = jax.tree.leaves(calls[default]())
    for name in [name for name in calls if name != default]:
        pairs = zip(expected, jax.tree.leaves(calls[name]()), strict=True)
        if not all(map(_agree, *zip(*pairs, strict=True))):
            del calls[name]
            failures[name] = "its result is another one"


def _is_finite(results: Any) -> bool:
    floats = filter(
        lambda x: jax_internals.is_differentiable(jax.typeof(x)), jax.tree.leaves(results)
    )
    return all(bool(np.all(np.isfinite(x))) for x in floats)


def _agree(one: Any, other: Any) -> bool:
    if not jax_internals.is_differentiable(jax.typeof(one)):
        return True
    precision = np.sqrt(jax.numpy.finfo(one.dtype).eps)
    scale = np.max(np.abs(one), initial=0, where=np.isfinite(one))
    return np.allclose(one, other, precision, precision * scale, equal_nan=True)


def _store(task: Task, plan: Plan | None, name: str, times: Mapping[str, float]) -> None:
    method = NATIVE if plan is None else plan.method
    if plan is None or method != "elimination":
        # Whatever elimination it was planned beside: an order of the graph's vertices.
        plan = plans.make(task.graphs[False], "reverse").of(method=method)
    registry.put(
        StoredOrder(
            task.key,
            "runtime",
            plan.order,
            times[name],
            method=plan.method,
            entries=plan.scalarised,
            topology=task.topology(scalarised=plan.scalarised),
            strategy="tuned",
            device=jax_internals.device_kind(),
            batch=task.batch,
            times=dict(times),
            versions={
                "jax": jax_internals.jax_version(),
                "jax-cross-country": importlib.metadata.version("jax-cross-country"),
            },
            name=task.name,
        )
    )
