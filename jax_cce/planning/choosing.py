"""Which order a Jacobian is computed in: the given one, else a stored one, else a searched one.

With `order="auto"` the registry is asked first; what it holds is validated against the graph and
decides. Else greedy orders are tried for a fixed amount of work, or the strategy that the caller
names searches for as long as the caller allows.
"""

import collections
import importlib.metadata
import logging
import threading
from collections.abc import Hashable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from jax_cce import registry
from jax_cce.graph.building import Graph
from jax_cce.jax_internals import device_kind
from jax_cce.orders import named
from jax_cce.planning import plans, searches
from jax_cce.planning.plans import Plan
from jax_cce.planning.searches import search_package
from jax_cce.planning.task import graphs, key, numbered_vertices
from jax_cce.program.calls import Traced
from jax_cce.registry import StoredOrder

__all__ = [
    "Order",
    "OrderRequest",
    "Stored",
    "look_up",
    "order_request",
    "plan",
]

Order = str | Sequence[int]


_log = logging.getLogger("jax_cce")

# Products of blocks that are looked at in a second; nominal, so that searches end alike everywhere.
_WORK_PER_SECOND = 200_000
_DEFAULT_SECONDS = 0.5
_MOST_ANSWERS = 1024


class OrderRequest(NamedTuple):
    """What a caller asks of the order.

    Attributes:
        order: a name or vertices.
        search: the strategy to search with where nothing is stored; None for greedy orders.
        budget: seconds to search; None for the default.
        entries: whether small arrays are taken apart; None for whichever is cheaper.
        method: "elimination", or JAX's own "jacfwd" or "jacrev".
    """

    order: str | tuple[int, ...] = "auto"
    search: str | None = None
    budget: float | None = None
    entries: bool | None = None
    method: str = "elimination"


def order_request(order: Order, search: str | None, search_budget: float | None) -> OrderRequest:
    """What a caller asks of the order, checked."""
    checked = named.check(order)
    if search is not None:
        searches.search_package().strategies.named(search)
    if search_budget is not None and not search_budget >= 0:
        raise ValueError(f"search_budget must be at least 0 seconds, but got {search_budget!r}.")
    return OrderRequest(checked, search, search_budget)


class Stored(NamedTuple):
    """An answer of the registry."""

    entry: StoredOrder
    layer: str


_lock = threading.Lock()
_answers: collections.OrderedDict[Hashable, Stored | None] = collections.OrderedDict()


def look_up(
    name: Hashable,
    traced: Traced,
    known: Mapping[int, np.ndarray],
    *,
    holomorphic: bool,
    sparse: bool,
    batch: int | None,
) -> Stored | None:
    """What the registry holds for a function, asked once as long as the registry stays the same.

    Args:
        name: identifies the traced function in this process; None to ask anew.
        traced: the function.
        known: what is known of its constants.
        holomorphic: as for `jacobian`.
        sparse: whether the Jacobian is wanted as terms.
        batch: the batch size under vmap.
    """
    store = registry.default()
    question = name, store, store.generation, device_kind(), batch
    if name is not None:
        with _lock:
            if question in _answers:
                _answers.move_to_end(question)
                return _answers[question]
    digest = key(traced, known, holomorphic=holomorphic, sparse=sparse)
    answer = None
    if store.get(digest, device=device_kind(), batch=batch):
        built = graphs(traced, known, holomorphic=holomorphic, sparse=sparse)
        # What is defined in reverse order only must not be computed in another.
        if not any(each.reverse_only for each in built.values()):
            vertices = {apart: numbered_vertices(each) for apart, each in built.items()}
            found = store.found(digest, device=device_kind(), batch=batch, vertices=vertices)
            answer = found and Stored(*found)
    if name is not None:
        with _lock:
            _answers[question] = answer
            while len(_answers) > _MOST_ANSWERS:
                _answers.popitem(last=False)
    return answer


def plan(
    traced: Traced,
    known: Mapping[int, np.ndarray],
    wish: OrderRequest,
    found: Stored | None,
    *,
    holomorphic: bool,
    sparse: bool,
) -> Plan:
    """The plan of a traced function.

    Args:
        traced: the function.
        known: what is known of its constants.
        wish: what the caller asks.
        found: what the registry holds, where it was asked.
        holomorphic: as for `jacobian`.
        sparse: whether the Jacobian is wanted as terms.

    Raises:
        ValueError: where a given order is no permutation of the vertices.
    """
    built = graphs(traced, known, holomorphic=holomorphic, sparse=sparse)
    if found is not None:
        entry = found.entry
        made = plans.make(built[entry.entries], entry.order)
        made = made.of(method=entry.method, source=found.layer, entries=entry.entries)
    elif wish.entries is not None:
        if wish.entries not in built:
            raise ValueError("This function has no small arrays to take apart.")
        made = plans.make(built[wish.entries], wish.order)
        made = made.of(method=wish.method, entries=wish.entries)
    elif wish.order == "auto" and wish.search is not None:
        made = _searched(built, traced, known, wish, holomorphic=holomorphic, sparse=sparse)
    else:
        work = named.DEFAULT_WORK
        if wish.budget is not None:
            work = int(wish.budget * _WORK_PER_SECOND)
        automatic = {
            apart: plans.make(each, "auto", work).of(source="searched", entries=apart)
            for apart, each in built.items()
            if wish.order == "auto" or len(built) > 1
        }
        if automatic:
            made = min(automatic.values(), key=lambda each: each.cost("flops"))
            if wish.order != "auto":
                made = plans.make(made.graph, wish.order).of(entries=made.entries)
        else:
            made = plans.make(built[False], wish.order)
    _log.info(
        "Jacobian of %d equations, %d vertices: %s, order %s, %d flops",
        len(made.graph.program.equations),
        made.num_vertices,
        made.method,
        f"from the registry ({made.source})" if found else made.source,
        made.cost("flops"),
    )
    return made


def _searched(
    built: Mapping[bool, Graph],
    traced: Traced,
    known: Mapping[int, np.ndarray],
    wish: OrderRequest,
    *,
    holomorphic: bool,
    sparse: bool,
) -> Plan:
    """The best order that a named strategy finds in time; it goes to the registry."""
    default = search_package().strategies.SECONDS.get(wish.search, _DEFAULT_SECONDS)
    seconds = default if wish.budget is None else wish.budget
    made = []
    for apart, each in built.items():
        if each.reverse_only:
            made.append(plans.make(each, "auto").of(source="reverse only", entries=apart))
            continue
        order = search_package().find_order(each, "flops", wish.search, seconds / len(built))
        made.append(plans.make(each, order).of(source=f"{wish.search} search", entries=apart))
    best = min(made, key=lambda each: each.cost("flops"))
    if not best.graph.reverse_only:
        registry.put(
            StoredOrder(
                key(traced, known, holomorphic=holomorphic, sparse=sparse),
                "flops",
                best.order,
                best.cost("flops"),
                entries=best.entries,
                strategy=str(wish.search),
                versions={"jax_cce": importlib.metadata.version("jax-cross-country")},
            )
        )
    return best
