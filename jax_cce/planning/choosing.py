"""Which order a Jacobian is computed in: the given one, else a stored one, else a searched one.

With `order="auto"` the registry is asked first; what it holds is validated against the graph and
decides. Else greedy orders are tried for a fixed amount of work, or the strategy that the caller
names searches for as long as the caller allows.
"""

import dataclasses
import importlib.metadata
import logging
from collections.abc import Hashable
from typing import NamedTuple

from jax_cce import registry
from jax_cce.caches import Cache
from jax_cce.eliminations import has_edges, vertices_of
from jax_cce.jax_internals import device_kind
from jax_cce.orders import named
from jax_cce.planning import modes, plans, symbolic
from jax_cce.planning.options import OrderRequest
from jax_cce.planning.plans import CHUNKS, Plan
from jax_cce.planning.searches import search_package
from jax_cce.planning.task import Task
from jax_cce.planning.topology import order_in
from jax_cce.registry import StoredOrder
from jax_cce.registry.ranking import NATIVE

__all__ = ["NOTHING", "Answer", "Stored", "is_same_for", "look_up", "plan", "planned"]

_log = logging.getLogger("jax_cce")

# Products of blocks that are looked at in a second; nominal, so that searches end alike everywhere.
_WORK_PER_SECOND = 200_000
_DEFAULT_SECONDS = 0.5


class Stored(NamedTuple):
    """An answer of the registry."""

    entry: StoredOrder
    layer: str

    @property
    def is_native(self) -> bool:
        """Whether it says that native code was the fastest."""
        return self.entry.method == "native"


class Answer(NamedTuple):
    """What the registry holds for a task.

    Attributes:
        stored: the order of its graph, or what runs in its place.
        scalars: the order of its graph of scalars, for native code.
    """

    stored: Stored | None = None
    scalars: tuple[int, ...] | None = None


NOTHING = Answer()
_answers: Cache[Answer] = Cache(1024)


def look_up(task: Task, name: Hashable = None) -> Answer:
    """What the registry holds for a task, asked once as long as the registry stays the same.

    Args:
        task: the task.
        name: identifies the task in this process; None to ask anew.
    """
    if name is None:
        return _answer(task)
    store = registry.default()
    question = name, store, store.generation, device_kind(), task.batch
    return _answers.get(question, lambda: _answer(task))


def _answer(task: Task) -> Answer:
    if task.is_symbolic:
        return _answer_for_other_sizes(task)
    store, device = registry.default(), device_kind()
    of_scalars = store.get(task.key, NATIVE)
    scalars = None if of_scalars is None else vertices_of(of_scalars.order)
    if not store.get(task.key, device=device, batch=task.batch):
        return Answer(None, scalars)
    # What is defined in reverse order only must not be computed in another.
    if task.reverse_only:
        return NOTHING
    answer = store.found(task.key, device=device, batch=task.batch, vertices=task.vertices)
    if answer is not None and not _has_edges_of(task, answer[0]):
        return Answer(None, scalars)
    return Answer(answer and Stored(*answer), scalars)


def _has_edges_of(task: Task, entry: StoredOrder) -> bool:
    """Whether the graph has the edges that an order eliminates by themselves, if any."""
    if not has_edges(entry.order):
        return True
    try:
        named.eliminate(task.graphs[entry.entries], entry.order)
    except ValueError:  # it was found by a version with other rules
        return False
    return True


def _answer_for_other_sizes(task: Task) -> Answer:
    """What the registry holds for a size of a task whose sizes are symbols."""
    try:
        topology = task.topology()
    except Exception:  # no rule promises a graph for all sizes
        return NOTHING
    if not task.vertices[False] or task.reverse_only:
        return NOTHING
    found = registry.default().of_topology(topology, device=device_kind())
    if found is None:
        return NOTHING
    entry, layer = found
    order = order_in(task.graphs[False], entry.order)
    if order is None:
        return NOTHING
    return Answer(Stored(dataclasses.replace(entry, order=order), layer))


def planned(task: Task, request: OrderRequest) -> Plan:
    """The plan of a task, the registry asked anew where it may answer, to be looked at."""
    answer = look_up(task) if request.asks_registry else NOTHING
    return plan(task, request, answer.stored, shown=True)


def plan(
    task: Task, request: OrderRequest, stored: Stored | None = None, *, shown: bool = False
) -> Plan:
    """The plan of a task.

    Args:
        task: the task.
        request: what the caller asks of the order.
        stored: what the registry holds, where it was asked.
        shown: whether an elimination is planned also where a mode of JAX runs instead.

    Raises:
        ValueError: where a given order is no permutation of the vertices.
    """
    _log.info(
        "Jacobian of %s: planning %d equations, order %s. %s",
        task.name,
        len(task.traced.program.equations),
        _asked(request),
        _IF_TOO_LONG,
    )
    if stored is not None and stored.is_native:
        # Where XLA computes it after all, nothing is known of the order.
        stored = None
    mode = None
    if request.chunk is not None:
        order = request.order
        assert isinstance(order, str)
        if task.transposed:
            order = _TRANSPOSED.get(order, order)
        mode = modes.in_chunks(task, order, request.chunk)
        chosen = plans.by_mode(task.traced, task.differentiated, mode)
        return chosen.of(source=CHUNKS, chunk=request.chunk, remark=task.remark)
    if stored is None and request.is_default:
        mode = modes.mode_of_loops(task, again=request.again)
    if task.is_symbolic:
        chosen = symbolic.planned(task, request, stored)
    elif mode is not None and not shown:
        chosen = plans.by_mode(task.traced, task.differentiated, mode)
    else:
        _log_graphs(task)
        chosen = _chosen(task, request, stored)
        if mode is None and stored is None and request.is_default:
            mode = modes.mode_over_devices(task, chosen) or modes.mode_instead(
                task, chosen, again=request.again
            )
    chosen = chosen.of(remark=task.remark)
    if mode is not None and chosen.method == "elimination":
        chosen = chosen.of(method=mode)
    if task.method != "elimination":
        chosen = chosen.of(method=task.method)
    _log.info(
        "Jacobian of %s: %d equations, %d vertices: %s, order %s, %s flops",
        task.name,
        len(chosen.graph.program.equations),
        chosen.num_vertices,
        chosen.method,
        f"from the registry ({chosen.source})" if stored else chosen.source,
        chosen.cost("flops"),
    )
    return chosen


def is_same_for(task: Task, other: Task) -> bool:
    """Whether the plan of a task is that of another, which differs in the number of points."""
    return task.apart == other.apart and not modes.has_loops(task)


_IF_TOO_LONG = (
    "If this takes too long: search_budget=0 leaves out the search, order='reverse' or another "
    "named order plans just that, and what jax_cce.optimize finds once is looked up afterwards."
)


def _asked(request: OrderRequest) -> str:
    """What is asked of the order, for people."""
    return request.order if isinstance(request.order, str) else "given"


def _log_graphs(task: Task) -> None:
    """Builds the graphs, which may take long itself, and says how large they are."""
    sizes = (
        f"{len(graph.vertices)} vertices and {graph.num_edges} edges"
        for graph in task.graphs.values()
    )
    _log.info("Jacobian of %s: eliminating %s", task.name, ", or scalarised ".join(sizes))


# What a named order of a function is on the graph of its pullback.
_TRANSPOSED = {"forward": "reverse", "reverse": "forward"}


def _chosen(task: Task, request: OrderRequest, stored: Stored | None) -> Plan:
    graphs, order = task.graphs, request.order
    if task.transposed and isinstance(order, str):
        order = _TRANSPOSED.get(order, order)
    if stored is not None:
        entry = stored.entry
        facts = {"method": entry.method, "source": stored.layer, "scalarised": entry.entries}
        return plans.make(graphs[entry.entries], entry.order).of(**facts)
    if request.scalarised is not None:
        if request.scalarised not in graphs:
            raise ValueError("This function has no small arrays to take apart.")
        given = plans.make(graphs[request.scalarised], order)
        return given.of(method=request.method, scalarised=request.scalarised)
    if order == "auto" and request.search is not None:
        return _searched(task, request.search, request.budget)
    work = named.DEFAULT_WORK
    if request.budget is not None:
        work = int(request.budget * _WORK_PER_SECOND)
    if not isinstance(order, str):
        # The graphs that it is an order of; of none, the error says what it lacks.
        ordered = tuple(sorted(vertices_of(order)))
        fitting = {k: graphs[k] for k, vertices in task.vertices.items() if vertices == ordered}
        graphs = fitting or {False: graphs[False]}
    source = "searched" if order == "auto" else "given"
    candidates = [
        plans.make(graph, order, work).of(source=source, scalarised=scalarised)
        for scalarised, graph in graphs.items()
    ]
    cheapest = min(candidates, key=lambda each: each.cost("flops"))
    if order == "auto" and cheapest.checkpoints:
        # What is marked to be computed again is so where the elimination costs no more for it.
        backwards = plans.make(cheapest.graph, "reverse").of(
            source=source, scalarised=cheapest.scalarised
        )
        cheapest = min(backwards, cheapest, key=lambda each: each.cost("flops"))
    return cheapest


def _searched(task: Task, strategy: str, budget: float | None) -> Plan:
    """The best order that a named strategy finds in time; it goes to the registry."""
    searches = search_package()
    seconds = searches.strategies.SECONDS.get(strategy, _DEFAULT_SECONDS)
    seconds = (seconds if budget is None else budget) / len(task.graphs)
    candidates = []
    for scalarised, graph in task.graphs.items():
        if graph.reverse_only:
            source, order = "reverse only", "auto"
        else:
            source = f"{strategy} search"
            order = searches.find_order(graph, "flops", strategy, seconds)
        candidates.append(plans.make(graph, order).of(source=source, scalarised=scalarised))
    best = min(candidates, key=lambda each: each.cost("flops"))
    if not best.graph.reverse_only:
        registry.put(
            StoredOrder(
                task.key,
                "flops",
                best.order,
                best.cost("flops"),
                entries=best.scalarised,
                topology=task.topology(scalarised=best.scalarised),
                strategy=strategy,
                versions={"jax_cce": importlib.metadata.version("jax-cross-country")},
            )
        )
    return best
