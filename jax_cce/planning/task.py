"""A task: one traced function whose Jacobian is wanted, with its graphs and its key."""

import copy
import functools
import logging
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from jax_cce import jax_internals
from jax_cce.graph import building, scalarising
from jax_cce.graph.building import Graph
from jax_cce.graph.complex_regions import with_real_outputs
from jax_cce.planning import loops, running
from jax_cce.planning.loops import Setting
from jax_cce.planning.options import Options, options_of
from jax_cce.planning.running import Ran
from jax_cce.planning.topology import topology_of
from jax_cce.program import calls, known_values
from jax_cce.program.calls import Call, Traced
from jax_cce.program.flat import Program
from jax_cce.registry import keys

__all__ = [
    "Task",
    "task_of",
    "task_of_run",
    "task_of_trace",
    "traced_task",
]

_log = logging.getLogger("jax_cce")


# From so many points of `jax.vmap` on, a loop over them for each entry of a small block is worth
# the kernels that it takes.
_MANY_POINTS = 64


class Task:
    """One traced function whose Jacobian is wanted.

    What is known of its constants, its graphs and its key are made when they are asked for, once.

    Attributes:
        traced: the function; complex outputs of real inputs may be taken apart.
        holomorphic: as for `jacobian`.
        sparse: whether the Jacobian is wanted as terms.
        name: the function's name, for people only.
        batch: the number of points under `jax.vmap`; None outside of it.
        transposed: whether the Jacobian is that of the function's pullback.
        method: as for `OrderRequest`.
        remark: why it is not the function itself whose Jacobian is wanted; "" where it is.
    """

    def __init__(
        self,
        traced: Traced,
        options: Options,
        name: str = "",
        batch: int | None = None,
        *,
        transposed: bool = False,
        method: str = "elimination",
        remark: str = "",
    ) -> None:
        self.transposed, self.method, self.remark = transposed, method, remark
        self.holomorphic = options.contract.holomorphic
        if not self.holomorphic:
            program, num_values = with_real_outputs(traced.program, traced.num_values)
            traced = traced._replace(program=program, num_values=num_values)
        self.traced, self.batch = traced, batch
        self.sparse = options.format.sparse
        self.name = name
        # The graphs, shared by the tasks for other numbers of points.
        self._made: dict[Any, dict[bool, Graph]] = {}

    @property
    def apart(self) -> bool:
        """Whether there are so many points that small dense blocks are kept as single entries."""
        return not self.sparse and (self.batch or 1) >= _MANY_POINTS

    @functools.cached_property
    def known(self) -> dict[int, np.ndarray]:
        """What is known of the program's constants, by variable number."""
        traced = self.traced
        return known_values.known_constants(traced.program, traced.constants, sparse=self.sparse)

    def without_values(self) -> "Task":
        """This task, which keeps alive neither constants of the function nor auxiliary data."""
        _ = self.known
        task = copy.copy(self)
        task.traced = self.traced._replace(constants=[], aux=calls.no_aux)
        return task

    def of(self, points: int | None) -> "Task":
        """This task for so many points of `jax.vmap`; None outside of it."""
        if points == self.batch:
            return self
        task = copy.copy(self)
        task.batch = points
        task.__dict__.pop("by_steps", None)
        return task

    @functools.cached_property
    def is_symbolic(self) -> bool:
        """Whether sizes depend on symbols, as in `jax.export` with symbolic shapes."""
        return jax_internals.is_symbolic(self.traced.program.avals)

    @property
    def differentiated(self) -> list[int]:
        """The inputs that have a tangent space."""
        program = self.traced.program
        avals = program.avals[: program.num_inputs]
        return [k for k, aval in enumerate(avals) if jax_internals.is_differentiable(aval)]

    @functools.cached_property
    def setting(self) -> Setting | None:
        """What the cost of each mode of JAX depends on; None where none is asked for."""
        if self.sparse or self.is_symbolic or self.transposed or self.method != "elimination":
            return None
        program, num_values = self.traced.program, self.traced.num_values
        return loops.setting_of(program, program.outputs[:num_values], self.differentiated)

    @functools.cached_property
    def by_steps(self) -> bool:
        """Whether loops are differentiated by the Jacobians of their steps."""
        program, setting = self.traced.program, self.setting
        if setting is None or jax_internals.has_mesh() or not loops.has_loops(program):
            return False
        return loops.are_by_steps(program, setting, self.batch or 1)

    @property
    def graphs(self) -> dict[bool, Graph]:
        """The graph, and under True that with its small arrays scalarised."""
        form = self.apart, self.by_steps
        if form not in self._made:
            with self.context():
                self._made[form] = self._graphs()
        return self._made[form]

    def _graphs(self) -> dict[bool, Graph]:
        traced, holomorphic, sparse = self.traced, self.holomorphic, self.sparse
        program = known_values.fold(traced.program, self.known, sparse=sparse)
        names = self.differentiated

        def build(program: Program) -> Graph:
            outputs = program.outputs[: traced.num_values]
            return building.build(
                program,
                names,
                outputs,
                holomorphic=holomorphic,
                sparse=sparse,
                apart=self.apart,
                by_steps=self.by_steps,
            )

        graphs = {False: build(program)}
        whole = holomorphic or self.is_symbolic or graphs[False].reverse_only
        if not whole:
            expanded = scalarising.expand(program)
            if expanded is not None:
                graphs[True] = build(expanded)
        return graphs

    def context(self) -> Any:
        """A context in which JAX keeps the dtypes of all values of the program."""
        return jax_internals.allowing(*(aval.dtype for aval in self.traced.program.avals))

    @functools.cached_property
    def key(self) -> str:
        """The name of the Jacobian in the registry."""
        return keys.digest(
            self.traced.program,
            num_values=self.traced.num_values,
            known=self.known,
            sparse=self.sparse,
            holomorphic=self.holomorphic,
        )

    def topology(self, *, scalarised: bool = False) -> str:
        """Identifies the graph up to sizes; "" where small arrays are taken apart."""
        return "" if scalarised else topology_of(self.graphs[False])

    @property
    def reverse_only(self) -> bool:
        """Whether the Jacobian is what `jax.jacrev` gives, and has no order of elimination."""
        return any(graph.reverse_only for graph in self.graphs.values())

    @property
    def vertices(self) -> dict[bool, tuple[int, ...]]:
        """The vertices of each graph, numbered from the first computed variable on."""
        return {
            scalarised: tuple(v - graph.program.first_computed for v in graph.vertices)
            for scalarised, graph in self.graphs.items()
        }


def task_of_trace(call: Call, options: Options, traced: Traced) -> Task:
    """The task of a function that was traced."""
    return Task(traced, options, call.name, jax_internals.batch_size(call.leaves))


def task_of_run(call: Call, options: Options, ran: Ran, reason: str) -> Task:
    """The task of a function that ran: its linear map there.

    Args:
        call: the call of the function.
        options: what is asked of its Jacobian.
        ran: the function's linear map.
        reason: why no trace of the function would do.
    """
    linear, method = ran.linear, "elimination"
    if ran.rows_only:
        # JAX runs it; the plan is empty.
        nothing = Program(ran.seeds, len(ran.seeds), 0, [], ())
        linear, method = Traced(nothing, [], 0, None, calls.no_aux), "jacrev"
    remark = f"differentiated while the function runs, by the graph of its {ran.kind} ({reason})"
    _log.info("Jacobian of %s: %s", call.name, remark)
    batch = jax_internals.batch_size(call.leaves)
    transposed = ran.transposed
    return Task(
        linear, options, call.name, batch, transposed=transposed, method=method, remark=remark
    )


def traced_task(
    fun: Callable[..., Any], options: Options, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Task:
    """The task of a function, traced at arguments any of which may be abstract."""
    call = Call(fun, options.contract, args, kwargs)
    try:
        task = task_of_trace(call, options, calls.trace_call(call, hoist=False))
        if not task.is_symbolic:  # where it may have no graph
            _ = task.graphs
        return task
    except Exception as error:
        reason = running.why_left_to_jax(error)
        if not reason:
            raise
    return task_of_run(call, options, running.run(call), reason)


def task_of(
    fun: Callable[..., Any],
    argnums: int | Sequence[int] = 0,
    has_aux: bool = False,
    holomorphic: bool = False,
    allow_int: bool = False,
    *,
    format: str = "dense",
) -> Callable[..., Task]:
    """What order searches work on; takes the arguments of `jax_cce.plan`."""
    calls.check_callable(fun)
    options = options_of(argnums, has_aux, holomorphic, allow_int, format=format)

    def prepared(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Task:
        task = traced_task(fun, options, args, kwargs)
        # While the arguments are what they were traced at.
        _ = task.graphs, task.key
        return task

    return calls.from_shapes(prepared)
