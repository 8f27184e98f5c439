"""From the arguments of a call to the value and the Jacobian of a function."""

import dataclasses
import functools
import logging
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import jax
import numpy as np
from jax.tree_util import tree_unflatten

from jax_cce import jax_internals
from jax_cce.eliminations import vertices_of
from jax_cce.execution import chunks, compiled, limits, primitive, tuning
from jax_cce.execution.memory import check_memory, check_plan
from jax_cce.execution.results import (
    Wanted,
    as_tree,
    leaves_of,
    outputs_and_blocks,
    rows_of,
    types_of,
    values_of,
    zero_block,
)
from jax_cce.native.edges import GIVEN, ORDERS, Edges, Order
from jax_cce.native.kernels import Function, Kernel, Signature, edges_of, kernel_of, obstacle_to
from jax_cce.planning import choosing, running
from jax_cce.planning.options import Options, OrderRequest, under
from jax_cce.planning.plans import Plan
from jax_cce.planning.running import Ran
from jax_cce.planning.task import Task, task_of_run, task_of_trace
from jax_cce.program import calls
from jax_cce.program.calls import Call
from jax_cce.rules.derivatives import has_custom
from jax_cce.sparse.formats import STRUCTURED, Format
from jax_cce.sparse.structured import StructuredJacobian

__all__ = ["native", "plan_within", "scalars", "transformed"]

_log = logging.getLogger("jax_cce")

# Where a plan might form an array of more entries than this, its size is checked at once.
_LARGE = 1 << 22
# A call of machine code in a step of a loop takes as long as so many additions there, where XLA
# makes one kernel of the loop. (Measured on the CPU: 110 to 130 ns a call; steps of 2 additions 122
# ns instead of 15, of 168 147 instead of 97, of 336 338 instead of 371.)
_SMALL_STEP = 200

# From the constants and the inputs to the outputs, and the blocks of the Jacobian.
_Program = Callable[[Sequence[Any]], tuple[list[Any], list[list[Any]]]]


def transformed(
    fun: Callable[..., Any],
    options: Options,
    *,
    value: bool = False,
    symmetric: bool = False,
    lower: bool = False,
) -> Callable[[tuple[Any, ...], dict[str, Any]], tuple[Any, Any, Any]]:
    """The common part of the transformations: (args, kwargs) -> (value, Jacobian, aux).

    Args:
        fun: the function.
        options: what the caller asks.
        value: whether the value is wanted; else it is None.
        symmetric: whether the Jacobian is known to be symmetric.
        lower: as for `Wanted`.
    """
    calls.check_callable(fun)
    contract = options.contract

    def compute(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any, Any]:
        call = Call(fun, options.contract, args, kwargs)
        staged = any(map(jax_internals.is_staged, call.leaves))
        try:
            traced = calls.trace_call(call, hoist=not staged)
            task = task_of_trace(call, options, traced)
            types = values_of(traced.values, contract)
            wanted = Wanted(options.format, value, symmetric, types, lower)
            outputs, blocks = _execute(task, options.request, call.avals, call.leaves, wanted)
        except Exception as error:
            reason = running.why_left_to_jax(error)
            if not reason:
                raise
        else:
            leaves = outputs[: len(traced.values)] if value else []
            return (
                tree_unflatten(traced.value_tree, leaves) if value else None,
                as_tree(blocks, call, traced.value_tree),
                traced.aux(outputs[len(leaves) :]),
            )
        if options.request.max_bytes is not None:
            limits.refuse(call.name, "it is differentiated while it runs")
        ran = running.run(call)
        wanted = Wanted(options.format, value, symmetric, values_of(ran.types, contract), lower)
        rows = _at_run(call, options, wanted, ran, reason)
        leaves = leaves_of(ran.values, list(map(jax.typeof, ran.values)), wanted)
        values = tree_unflatten(ran.value_tree, leaves) if value else None
        return values, as_tree(rows, call, ran.value_tree), ran.aux

    return compute


def native(task: Task, request: OrderRequest, avals: Sequence[Any], form: Format) -> Kernel | str:
    """Machine code for the Jacobian at a single point, or why XLA computes it.

    Args:
        task: the task.
        request: what is asked of the order and the backend.
        avals: the abstract value of each input.
        form: the format of the Jacobian.
    """
    if form is STRUCTURED:
        return "its format is structured"
    if not primitive.can_hold(task.traced.program):
        return "it does more than to return values"
    programs = _Programs(task, request, avals, Wanted(form, value=False))
    if form.sparse and not programs.has_places:
        return obstacle_to(_function(task)) or "where its entries are depends on data"
    return programs.kernel_or_reason(_of_one_point(task), None)


def plan_within(task: Task, options: Options) -> Plan:
    """The plan of a task whose temporary arrays stay within the limit that is asked for.

    Raises:
        MemoryError: where no such plan is found.
        ValueError: where that cannot be measured.
    """
    program = task.traced.program
    wanted = Wanted(options.format, False, values=values_of(task.traced.values, options.contract))
    own, avals = task.without_values(), program.avals[: program.num_inputs]
    return _Programs(own, options.request, avals, wanted).plan()


def scalars(task: Task) -> Edges | str:
    """The graph of scalars of a task, as native code computes it, or why there is none."""
    if reason := _differentiated_otherwise(task):
        return reason
    if not primitive.can_hold(task.traced.program):
        return "it does more than to return values"
    return edges_of(_function(task), _of_one_point(task))


def _differentiated_otherwise(task: Task) -> str:
    """Why a task is not eliminated in native code; "" where it is."""
    if task.remark or task.holomorphic or task.method != "elimination":
        return task.remark or "it is differentiated otherwise"
    return ""


def _function(
    task: Task,
    *,
    value: bool = False,
    orders: Sequence[Order] = ORDERS,
    places: Sequence[Any] | None = None,
) -> Function:
    """What native code has to know of a task."""
    program, first = task.traced.program, task.traced.program.num_inputs
    known = [task.known.get(name) for name in range(first, program.first_computed)]
    num_values, inputs = task.traced.num_values, task.differentiated
    return Function(program, num_values, inputs, known, value, orders, places)


def _of_one_point(task: Task) -> Signature:
    """A call with a single point, of all blocks, and of outputs the auxiliary ones."""
    traced = task.traced
    count = traced.program.first_computed
    results = len(traced.program.outputs) - traced.num_values
    results += traced.num_values * len(task.differentiated)
    return Signature([None] * count, [False] * count, 0, range(results))


def _execute(
    task: Task, request: OrderRequest, avals: Sequence[Any], leaves: Sequence[Any], wanted: Wanted
) -> tuple[list[Any], list[list[Any]]]:
    """The program's outputs (without the value, the auxiliary ones only) and its blocks.

    Under jit the operations go into the surrounding trace. Elsewhere the compiled program for this
    canonical jaxpr runs; the first call compiles it.
    """
    traced = task.traced
    if not wanted.format.sparse:
        check_memory(traced, avals)
    arguments = [*traced.constants, *leaves]
    staged = any(map(jax_internals.is_staged, arguments))
    # What is kept of it holds neither the constants of this call nor its other data.
    programs = _Programs(task.without_values(), request, avals, wanted)
    holds = programs.holds
    with task.context() as widened:
        if widened is not None:
            # Numbers and NumPy arrays are what they are in the caller's configuration.
            first = traced.program.num_inputs
            types = [*traced.program.avals[first:][: len(traced.constants)], *avals]
            arguments = list(map(jax_internals.typed, arguments, types))
        as_one = functools.partial(programs.as_one_equation, staged=staged)
        if not staged:
            name = compiled.key_of(task)
            stored, scalars = programs.answer(task, arguments, name)
            entry = stored and stored.entry
            chosen = scalars, entry and (entry.order, entry.entries, entry.method)
            program = compiled.PROGRAMS.get(
                (name, request, wanted, chosen),
                lambda: jax.jit(as_one if holds else programs.as_operations()),
            )
        else:
            program = as_one if holds else programs.as_operations()
        outputs, blocks = program(arguments)
    return outputs, [[wanted.format.outside(block) for block in row] for row in blocks]


class _Programs:
    """The programs of one Jacobian: functions of the constants and the inputs of the function.

    Args:
        task: the task, without the values of constants.
        request: what is asked of the order.
        avals: the abstract value of each input.
        wanted: what the programs return.
    """

    def __init__(
        self, task: Task, request: OrderRequest, avals: Sequence[Any], wanted: Wanted
    ) -> None:
        self._task, self._request, self._avals, self._wanted = task, request, avals, wanted
        # The arguments that are constants of the compiled program, None for each other.
        self._fixed: list[Any] = [None] * task.traced.program.first_computed
        # Of a sparse Jacobian the entries of each block (see `native.kernels.Function`).
        self._places: list[Any] | None = None

    @property
    def holds(self) -> bool:
        """Whether the program may be one equation."""
        form, program = self._wanted.format, self._task.traced.program
        return form is not STRUCTURED and primitive.can_hold(program)

    def as_operations(self) -> _Program:
        """The program for the task's own number of points."""
        return self._of(self.plan())

    def plan(self) -> Plan:
        """The plan for the task's own number of points."""
        task = self._task
        if self._request.max_bytes is None:
            return self._plan_of(task)
        return self._plan_within(task, [task.batch is not None] * len(self._argument_types))

    def _types(self) -> Any:
        """The tree of the types of the results; None where they are best left to XLA at once.

        Which entries a sparse Jacobian has only a plan says.
        """
        task, wanted = self._task, self._wanted
        if not wanted.format.sparse:
            return types_of(task.traced, self._avals, wanted)
        if self._not_asked or obstacle_to(_function(task, value=wanted.value)):
            return None
        one = self._of(self._plans(1))
        closed, shapes = jax.make_jaxpr(one, return_shape=True)(self._argument_types)
        types = jax.tree.unflatten(jax.tree.structure(shapes), closed.out_avals)
        places = [wanted.format.places(block) for row in types[1] for block in row]
        if any(each is None for each in places):
            return None
        self._places = places
        return types

    def as_one_equation(self, arguments: Sequence[Any], *, staged: bool) -> Any:
        """The same, by an equation that waits for the number of points.

        Args:
            arguments: the constants and inputs.
            staged: whether the caller only traces, and compiles later.
        """
        types = self._types()
        if types is None:
            return self.as_operations()(arguments)
        if staged:
            self._fixed = [None if jax_internals.is_tracer(x) else x for x in arguments]
        at_once = self._has_rules or (staged and self._is_to_be_heard)
        return primitive.staged(self, arguments, types, at_once=at_once)

    def __call__(self, points: int, over: Sequence[bool]) -> _Program:
        """The program for each of so many points, which differ in some arguments."""
        if self._request.max_bytes is not None:
            return self._of(self._plan_within(self._task.of(points if any(over) else None), over))
        return self._of(self._plans(points))

    @property
    def _argument_types(self) -> list[Any]:
        program = self._task.traced.program
        avals = [*program.avals[program.num_inputs : program.first_computed], *self._avals]
        return list(map(jax_internals.abstract, avals))

    @property
    def has_places(self) -> bool:
        """Whether it is known where the entries of the sparse Jacobian are."""
        return self._types() is not None

    def kernel(
        self, signature: Signature, points: int | None, *, in_loop: bool = False
    ) -> Kernel | None:
        """Machine code for it; None where XLA compiles it (see `primitive.ByPoints`)."""
        try:
            found = self.kernel_or_reason(signature, points, in_loop=in_loop)
        except Exception:  # XLA computes the same
            if self._request.backend == "native" and not self._request.is_default:
                raise
            _log.warning("Jacobian of %s: no native code", self._task.name, exc_info=True)
            return None
        _log.info("Jacobian of %s: native: %s", self._task.name, found)
        return found if isinstance(found, Kernel) else None

    def kernel_or_reason(
        self, signature: Signature, points: int | None, *, in_loop: bool = False
    ) -> Kernel | str:
        """Machine code for it, or why there is none."""
        task, request = self._task, self._request
        if reason := self._not_asked or _differentiated_otherwise(task):
            return reason
        stored, scalars = self._answer_for(task.of(points))
        # What was measured for another number of points says nothing of this one.
        is_measured = tuning.is_tuned(stored, task.of(points)) and not stored.is_native
        if is_measured and request.backend != "native":
            return "it was measured to be slower"
        order = request.order
        orders: Sequence[Order] = [order if isinstance(order, str) else vertices_of(order)]
        if order == "auto":
            orders = ORDERS if scalars is None else [scalars, *ORDERS]
        value, places = self._wanted.value, self._places
        function = _function(task, value=value, orders=orders, places=places)
        found = kernel_of(function, signature, limited=request.backend == "auto")
        if isinstance(found, str):
            return found
        is_limited = request.backend == "auto"
        if is_limited and in_loop and points is None and found.cost <= _SMALL_STEP:
            return f"{found.cost} operations in a step take less than a call"
        if is_limited and found.mostly_writes(points or 1):
            return f"{found.gathered} bytes of each point go to arrays of their own"
        if request.order == "auto" and found.order == GIVEN:
            return dataclasses.replace(found, order="stored")
        return found

    @property
    def _not_asked(self) -> str:
        """Why native code is not asked for; "" where it is."""
        request = self._request
        if request.backend == "xla":
            return "XLA is asked for"
        if request.max_bytes is not None:
            return "a limit of memory is asked for, and only XLA says what it takes"
        if request.chunk is not None:
            return "chunks are asked for, which XLA computes"
        if request.backend != "native" and not request.is_default:
            return "an order is asked for"
        return ""

    def answer(
        self, task: Task, arguments: Sequence[Any], name: Hashable = None
    ) -> choosing.Answer:
        """What the registry holds, after the candidates were timed where that is asked for.

        Args:
            task: the task, for some number of points.
            arguments: the constants and inputs, to time candidates with.
            name: identifies the task in this process; None to ask anew.
        """
        if not self._request.asks_registry:
            return choosing.NOTHING
        answer = choosing.look_up(task, name)
        if self._request.tuned and not tuning.is_tuned(answer.stored, task):
            request = dataclasses.replace(self._request, tuned=False)
            natively = _Programs(self._task, request, self._avals, self._wanted)
            as_default = functools.partial(natively.as_one_equation, staged=False)
            default = as_default if self.holds else None
            tuning.tune(task, request, self._of, default, arguments, self._fixed)
            answer = choosing.look_up(task, name)
        return answer

    @property
    def _is_to_be_heard(self) -> bool:
        """Whether planning may have something to say that the caller has to hear at once."""
        program = self._task.traced.program
        sizes = map(jax_internals.size, program.avals)
        largest = max(sizes, default=0) * max(map(jax_internals.size, self._avals), default=0)
        return not self._request.is_default or self._request.tuned or largest > _LARGE

    @property
    def _has_rules(self) -> bool:
        """Whether somebody's own rules are part of it, which may close over anything."""
        return has_custom(self._task.traced.program.equations)

    def _plans(self, points: int) -> Plan:
        one = self._task.of(None)
        if points == 1:
            return self._plan_of_one
        task = self._task.of(points)
        if self._wanted.format.sparse or (
            choosing.is_same_for(one, task)
            and not self._request.tuned
            and self._answer_for(one).stored == self._answer_for(task).stored
        ):
            return self._plan_of_one
        return self._plan_of(task)

    @functools.cached_property
    def _plan_of_one(self) -> Plan:
        return self._plan_of(self._task.of(None))

    def _plan_of(self, task: Task) -> Plan:
        return choosing.plan(task, self._request.of_arrays, self._answer_for(task).stored)

    def _plan_within(self, task: Task, over: Sequence[bool]) -> Plan:
        """The plan for a task whose temporary arrays stay within the limit."""
        limit, types, points = self._request.max_bytes, self._argument_types, task.batch or 1
        assert limit is not None
        limits.check_measurable(task)

        def measured(plan: Plan) -> int:
            return limits.temporaries(self._of(plan), types, over, points)

        asked = dataclasses.replace(self._request, max_bytes=None)
        name = compiled.key_of(task), asked, self._wanted, points, tuple(over)
        with task.context():
            return limits.within(task, self._plan_of(task), limit, measured, name)

    def _answer_for(self, task: Task) -> choosing.Answer:
        types = self._argument_types
        known = [x if own is None else own for x, own in zip(types, self._fixed, strict=True)]
        return self.answer(task, known)

    def _of(self, plan: Plan) -> _Program:
        """The program of a plan."""
        traced, avals, wanted = self._task.traced, self._avals, self._wanted
        if plan.graph.reverse_only:
            check_memory(traced, avals, by_rows=True)
        check_plan(plan, self._task, wanted.format)
        num_values, context, request = traced.num_values, self._task.context, self._request

        def jacobian_program(arguments: Sequence[Any]) -> tuple[list[Any], list[list[Any]]]:
            first = len(arguments) - len(avals)
            constants, leaves = arguments[:first], arguments[first:]
            with context(), under(request):
                outputs, blocks = outputs_and_blocks(
                    plan, num_values, avals, wanted, constants, leaves
                )
            return outputs if wanted.value else outputs[len(blocks) :], blocks

        return jacobian_program


def _at_run(call: Call, options: Options, wanted: Wanted, ran: Ran, reason: str) -> list[list[Any]]:
    """The blocks of a function that JAX differentiated while it ran.

    Args:
        call: the call of the function.
        options: what the caller asks.
        wanted: what is wanted.
        ran: the function's linear map.
        reason: why no trace of the function would do.
    """
    form, request = wanted.format, options.request
    if not form.sparse and not ran.rows_only:
        check_memory(ran.linear, ran.seeds)
    zeros = list(map(jax_internals.zeros, ran.seeds))
    if not ran.rows_only and not ran.transposed:
        task = task_of_run(call, options, ran, reason)
        symmetric = wanted.symmetric and len(ran.chosen) == len(call.avals)
        own = dataclasses.replace(wanted, value=False, symmetric=symmetric)
        _, rows = _execute(task, request, ran.seeds, zeros, own)
        return [_with_zeros(row, at, call, ran, wanted) for at, row in enumerate(rows)]
    blocks: dict[tuple[int, int], Any]
    if ran.rows_only:
        task_of_run(call, options, ran, reason)
        points = [call.leaves[k] for k in ran.chosen]
        if request.chunk is None:
            every = tuple(range(len(points)))
            jacobian = jax.jacrev(lambda *at: ran.function(*at)[0], every)(*points)
        else:
            jacobian, _ = chunks.by_rows(ran.function, points, request.chunk)
        blocks = {
            (at, k): StructuredJacobian.fromdense(array, np.shape(value))
            for at, (row, value) in enumerate(zip(jacobian, ran.values, strict=True))
            for k, array in zip(ran.chosen, row, strict=True)
        }
    else:
        task = task_of_run(call, dataclasses.replace(options, format=STRUCTURED), ran, reason)
        types = tuple(call.avals[k] for k in ran.chosen)
        own = Wanted(STRUCTURED, value=False, values=types)
        _, rows = _execute(task, request, ran.seeds, zeros, own)
        blocks = {
            (at, k): block.T
            for k, row in zip(ran.chosen, rows, strict=True)
            for at, block in enumerate(row)
        }
    rows = rows_of(list(map(jax.typeof, ran.values)), blocks, call.avals, wanted)
    return [[form.outside(block) for block in row] for row in rows]


def _with_zeros(row: Sequence[Any], at: int, call: Call, ran: Ran, wanted: Wanted) -> list[Any]:
    """The blocks of a leaf of the value over all input leaves, from those over the moving ones."""
    form, blocks = wanted.format, dict(zip(ran.chosen, row, strict=True))
    out = ran.types[at]
    own = None if wanted.values is None else out
    mesh = jax_internals.explicit_mesh([*call.avals, *ran.types])
    return [
        blocks[k]
        if k in blocks
        else form.outside(form.made(zero_block(out.shape, aval, own or aval), out, aval, mesh))
        for k, aval in enumerate(call.avals)
    ]
