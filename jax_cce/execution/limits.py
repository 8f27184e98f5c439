"""Which way to compute a Jacobian keeps its temporary arrays within a limit.

What a program takes is known when XLA has compiled it, and not before: it fuses, shares and moves
arrays as it likes. So with `max_bytes` candidates are compiled for the shapes at hand, without
being run, and the first within the limit is taken: the default, a stored order of little memory
(`optimize(f, cost="memory")`), the named orders, and JAX's own
modes, whole, in chunks of columns or rows, and with scans run again (see `chunks`). Of these the
one is taken that is expected to evaluate the function the fewest times.
"""

import logging
from collections.abc import Callable, Hashable, Sequence
from typing import Any, NamedTuple, NoReturn

import jax

from jax_cce import jax_internals, registry
from jax_cce.caches import Cache
from jax_cce.eliminations import Item
from jax_cce.execution import chunks
from jax_cce.planning import modes, plans
from jax_cce.planning.plans import LIMITED, Plan
from jax_cce.planning.task import Task
from jax_cce.program import tracing
from jax_cce.registry.ranking import MEMORY, fits

__all__ = ["check_measurable", "refuse", "temporaries", "temporaries_of", "within"]

_log = logging.getLogger("jax_cce")

_ORDERS = ("forward", "reverse")
# Orders that need so many times the operations of the cheapest are not compiled.
_HOPELESS = 2
_MOST_LEVELS = 3


class _Way(NamedTuple):
    """How a Jacobian is computed, in place of a plan, which is large.

    Attributes:
        method: as for `Plan`; "" for the default's.
        order: the name of an order, or vertices and edges.
        scalarised: as for `Plan`, and so are the next two.
        chunk: see there.
        levels: see there.
    """

    method: str = ""
    order: str | tuple[Item, ...] = ""
    scalarised: bool = False
    chunk: int | None = None
    levels: int = 0


class _Choice(NamedTuple):
    """What was found for a program.

    Attributes:
        way: the way within the limit; None where there is none.
        least: the fewest bytes that any way was found to take.
        least_way: that way, for people.
    """

    way: _Way | None
    least: int | None
    least_way: str


# By the program, what is asked and the points; and the same for every limit: the bytes that each
# way takes, None where it cannot be compiled.
_choices: Cache[_Choice] = Cache(512)
_sizes: Cache[dict[Hashable, int | None]] = Cache(512)


def within(
    task: Task, default: Plan, limit: int, measured: Callable[[Plan], int], name: Hashable
) -> Plan:
    """The plan whose temporary arrays stay within a limit.

    Args:
        task: the task.
        default: what runs where there is no limit.
        limit: bytes.
        measured: what a plan's program takes, in bytes.
        name: identifies the program and its points in this process.

    Raises:
        MemoryError: where none is found.
    """
    own = default.method, default.order, default.scalarised
    name = name, own, jax_internals.device_kind()
    stored = _stored(task)

    def choose() -> _Choice:
        return _Trial(task, default, limit, measured, _sizes.get(name, dict)).choice(stored)

    choice = _choices.get((name, limit, stored), choose)
    if choice.way is not None:
        return _plan_of(choice.way, task, default)
    least = "none could be compiled"
    if choice.least is not None:
        least = f"the least found is {choice.least:,} bytes, {choice.least_way}"
    raise MemoryError(
        f"No way was found to compute the Jacobian of {task.name} with temporary arrays of at most "
        f"max_bytes={limit:,}; {least}. Pass a larger max_bytes, fewer points, or a function of "
        "fewer inputs or outputs at a time; jax.jvp and jax.vjp form no Jacobian."
    )


def _stored(task: Task) -> tuple[_Way, ...]:
    """The order that was found to take the least memory on this kind of device, where any was."""
    device = jax_internals.device_kind()
    entry = registry.default().get(task.key, MEMORY, device=device, batch=task.batch)
    if entry is None or task.reverse_only or not fits(entry, task.vertices):
        return ()
    return (_Way(entry.method, entry.order, entry.entries),)


def check_measurable(task: Task) -> None:
    """Refuses what cannot be compiled by itself before it runs.

    Raises:
        ValueError: for such a function.
    """
    equations = task.traced.program.equations
    names = tracing.primitive_names(equations)
    if task.remark:
        refuse(task.name, "it is differentiated while it runs")
    if task.is_symbolic:
        refuse(task.name, "its shapes are symbolic")
    if jax_internals.has_mesh() or not jax_internals.NEED_AXES.isdisjoint(names):
        refuse(task.name, "it is shared out over devices, or reads axes around it")
    if any(equation.origin.effects for equation in equations):
        refuse(task.name, "it has effects")


def refuse(name: str, reason: str) -> NoReturn:
    """Says why what a function's Jacobian takes cannot be measured.

    Raises:
        ValueError: always.
    """
    raise ValueError(
        f"max_bytes is given, but what the Jacobian of {name} takes cannot be measured, as "
        f"{reason}. Leave max_bytes out."
    )


def temporaries(
    program: Callable[[Sequence[Any]], Any], types: Sequence[Any], over: Sequence[bool], points: int
) -> int:
    """The bytes of the temporary arrays of a compiled program, as XLA plans them.

    Args:
        program: a function of the list of its arguments.
        types: their types, for one point.
        over: which of them differ between points.
        points: how many points there are.
    """

    def run(*arguments: Any) -> Any:
        return program(arguments)

    if any(over):
        run = jax.vmap(run, [0 if moves else None for moves in over], axis_size=points)
        types = [
            jax.ShapeDtypeStruct((points, *x.shape), x.dtype, weak_type=x.weak_type) if moves else x
            for x, moves in zip(types, over, strict=True)
        ]
    return temporaries_of(run, types)


def temporaries_of(function: Callable[..., Any], arguments: Sequence[Any]) -> int:
    """The bytes of the temporary arrays of a compiled function, as XLA plans them.

    Args:
        function: the function.
        arguments: arrays, or their types.
    """
    analysis = jax.jit(function).lower(*arguments).compile().memory_analysis()
    if analysis is None:
        raise NotImplementedError("This device does not say how much memory a program takes.")
    return analysis.temp_size_in_bytes


def _plan_of(way: _Way, task: Task, default: Plan) -> Plan:
    if not way.method:
        return default
    if way.method == "elimination":
        plan = plans.make(task.graphs[way.scalarised], way.order).of(scalarised=way.scalarised)
    else:
        plan = plans.by_mode(task.traced, task.differentiated, way.method)
    return plan.of(source=LIMITED, chunk=way.chunk, levels=way.levels)


class _Family(NamedTuple):
    """A mode of JAX with some treatment of scans, in chunks of any size.

    Attributes:
        method: "jacfwd" or "jacrev".
        size: the number of columns or rows.
        levels: as for `Plan`.
    """

    method: str
    size: int
    levels: int

    @property
    def chunks(self) -> list[int | None]:
        """The sizes of chunks, the largest first, halved down to 1; None for all at once."""
        sizes: list[int | None] = [None]
        half = self.size
        while half > 1:
            half = -(-half // 2)
            sizes.append(half)
        return sizes

    def work(self, chunk: int | None) -> int:
        """See `modes.evaluations`."""
        return modes.evaluations(self.method, self.size, chunk, self.levels)

    def way(self, chunk: int | None) -> _Way:
        """This mode in such chunks."""
        return _Way(self.method, chunk=chunk, levels=self.levels)


class _Trial:
    """Compiles candidates, no more of them than needed."""

    def __init__(
        self,
        task: Task,
        default: Plan,
        limit: int,
        measured: Callable[[Plan], int],
        sizes: dict[Hashable, int | None],
    ) -> None:
        self._task, self._default, self._limit, self._measured = task, default, limit, measured
        self._sizes = sizes
        self._least: tuple[int, str] | None = None

    def choice(self, stored: Sequence[_Way]) -> _Choice:
        """The way within the limit, and the least that was found.

        Args:
            stored: what the registry holds.
        """
        way = next(filter(self._fits, [_Way(), *stored]), None)
        if way is None:
            way = next(filter(self._fits, self._orders()), None) or self._by_mode()
        return _Choice(way, *(self._least or (None, "")))

    def _orders(self) -> list[_Way]:
        """The named orders, the cheapest first, without those that take far longer."""
        task, costs = self._task, {}
        if task.reverse_only:
            return []
        for scalarised, graph in task.graphs.items():
            for order in _ORDERS:
                way = _Way("elimination", order, scalarised)
                costs[way] = plans.make(graph, order).cost("flops")
        known = [*costs.values()]
        if self._default.method == "elimination":
            known.append(self._default.cost("flops"))
        most = _HOPELESS * min(known)
        return sorted((way for way in costs if costs[way] <= most), key=costs.__getitem__)

    def _by_mode(self) -> _Way | None:
        """The mode in chunks that takes the least work."""
        task, best, least = self._task, None, None
        if task.setting is None:
            return None
        sizes = {"jacfwd": task.setting.columns, "jacrev": task.setting.rows}
        again = chunks.runs_again(task.traced.program)
        families = [
            _Family(mode, sizes[mode], levels)
            for mode in modes.same_results(task)
            for levels in range(_MOST_LEVELS + 1 if again and mode == "jacrev" else 1)
        ]
        for family in sorted(families, key=lambda each: each.work(None)):
            if least is not None and family.work(None) >= least:
                break
            found = self._largest_chunk(family)
            if found and (least is None or family.work(found.chunk) < least):
                best, least = found, family.work(found.chunk)
        return best

    def _largest_chunk(self, family: _Family) -> _Way | None:
        """The largest chunks of a family within the limit, taken to need the more the larger."""
        ways = [family.way(chunk) for chunk in family.chunks]
        if self._fits(ways[0]):
            return ways[0]
        if not self._fits(ways[-1]):
            return None
        below, first = 0, len(ways) - 1
        while first - below > 1:
            middle = (below + first) // 2
            if self._fits(ways[middle]):
                first = middle
            else:
                below = middle
        return ways[first]

    def _fits(self, way: _Way) -> bool:
        plan = _plan_of(way, self._task, self._default)
        own: Hashable = plan.method, plan.chunk, plan.levels
        if plan.method == "elimination":
            own = plan.method, plan.order, plan.scalarised
        if own not in self._sizes:
            self._sizes[own] = self._size(plan, is_default=not way.method)
        size = self._sizes[own]
        if size is None:
            return False
        if self._least is None or size < self._least[0]:
            self._least = size, _described(plan)
        return size <= self._limit

    def _size(self, plan: Plan, *, is_default: bool) -> int | None:
        name, how = self._task.name, _described(plan)
        try:
            size = self._measured(plan)
        except Exception as error:  # such as jacrev of a while loop, or more than the device has
            if is_default and not isinstance(error, MemoryError):
                raise
            _log.info("Jacobian of %s: no %s: %s", name, how, error)
            return None
        _log.info("Jacobian of %s: %s: %d bytes of temporary arrays", name, how, size)
        return size


def _described(plan: Plan) -> str:
    return plan.how_mode or f"by elimination of {plan.num_vertices} vertices, {plan.source}"
