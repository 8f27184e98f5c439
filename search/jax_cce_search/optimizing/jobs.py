"""The search for one function: its forms and measures, what is chosen, and what is stored."""

import importlib.metadata
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Executor, Future
from typing import Any

import jax

from jax_cce import jax_internals
from jax_cce.algebra.costs import CostName
from jax_cce.eliminations import Item, has_edges
from jax_cce.execution import limits, measuring
from jax_cce.execution.calling import scalars
from jax_cce.native.compiling import machine
from jax_cce.native.edges import ORDERS, Edges
from jax_cce.planning import plans
from jax_cce.planning.plans import Plan
from jax_cce.planning.task import task_of
from jax_cce.registry import Registry, StoredOrder, default
from jax_cce.registry.ranking import MEASURED, NATIVE
from jax_cce_search.optimizing import racing
from jax_cce_search.optimizing.optimized import Optimized
from jax_cce_search.optimizing.parts import ArraysPart, Outcome, Part, ScalarsPart
from jax_cce_search.optimizing.request import Request
from jax_cce_search.progress import announced, shown
from jax_cce_search.searching import Search

__all__ = [
    "Job",
    "run",
]

_log = logging.getLogger("jax_cce")

# What an executor that does not tell its size is given to do.
_TASKS = 8
_REFERENCES = ("forward", "reverse", "markowitz")


def run(request: Request, calls: Iterable[tuple[Any, ...]]) -> list[Optimized]:
    """Does what is asked for each call: a function, its arguments, and perhaps its keywords."""
    jobs = [Job(request, *call) for call in calls]
    if request.executor is None:
        for job in jobs:
            job.search()
    else:
        # All begin before the first is waited for.
        pending = [(job, job.submit(request.executor)) for job in jobs]
        with announced("searching on the executor", request.budget, request.progress):
            for job, futures in pending:
                job.gather(futures)
    return [job.finish() for job in jobs]


class Job:
    """The search for one function.

    Args:
        request: what is asked.
        fun: the function.
        args: its arguments.
        kwargs: its keyword arguments.

    Raises:
        ValueError: for a function defined in reverse order only, and where there are no small
            arrays although they are to be taken apart.
    """

    def __init__(
        self,
        request: Request,
        fun: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any] | None = None,
    ) -> None:
        self._request, self._fun = request, fun
        self._args, self._kwargs = tuple(args), dict(kwargs or {})
        self._task = task_of(fun, **request.options)(*self._args, **self._kwargs)
        graphs = self._task.graphs
        if self._task.reverse_only:
            raise ValueError(
                f"{self._task.name} has a custom_vjp whose pullback is not known to be linear "
                "in the cotangent, or a collective inside shard_map, so its Jacobian is defined "
                "by reverse mode only, and jax.jacrev runs: there is no order to search for."
            )
        if request.entries is not None:
            if request.entries not in graphs:
                raise ValueError(
                    f"entries=True, but {self._task.name} has no small arrays to take apart."
                )
            graphs = {request.entries: graphs[request.entries]}
        self._arrays = [
            ArraysPart.of(graph, scalarised, measure)
            for scalarised, graph in graphs.items()
            for measure in request.measures
        ]
        self._scalars = [ScalarsPart.of(edges) for edges in self._edges()]
        self._parts: list[Part] = [*self._arrays, *self._scalars]
        self._budget = request.share(len(self._parts))
        self._interrupted = False

    def _edges(self) -> list[Edges]:
        """The graph of scalars, where native code takes part.

        Raises:
            ValueError: where there is no native code, and its cost is asked for.
        """
        request = self._request
        if not request.is_native or (request.is_timed and machine().obstacle):
            return []
        edges = scalars(self._task)
        if not isinstance(edges, str):
            return [edges]
        if request.is_timed:
            return []
        raise ValueError(f'cost="native", but {self._task.name} has no native code: {edges}.')

    def search(self) -> None:
        """Runs the strategy on every part, one after the other."""
        request = self._request
        for part in self._parts:
            part.search = Search(
                part.problem, self._budget, request.seed, request.callback, request.strategy
            )
        searches = [part.search for part in self._parts]
        with shown(searches, request.budget, request.progress):
            for part in self._arrays:
                part.recall(self._registry.get(self._task.key, part.measure))
            for part in self._parts:
                part.search.begin()
                try:
                    part.run(request.strategy)
                except KeyboardInterrupt:
                    self._interrupted = True
                    break
        for search in searches:
            if search.best is None:
                search.offer(search.problem.vertices[::-1])

    def submit(self, executor: Executor) -> list[tuple[Part, "Future[Outcome]"]]:
        """Starts searches with different seeds on an executor."""
        count = _workers(executor)
        seed, strategy = self._request.seed, self._request.strategy
        return [
            (part, part.submit(executor, self._budget, seed + k, strategy))
            for part in self._parts
            for k in range(count)
        ]

    def gather(self, futures: Sequence[tuple[Part, "Future[Outcome]"]]) -> None:
        """Takes the results of `submit`, the best of each part."""
        for part, future in futures:
            part.take(future.result(), self._request.callback)

    def finish(self) -> Optimized:
        """Chooses, stores and reports."""
        if self._request.cost == "native":
            (part,) = self._scalars
            entry = self._stored_natively(part)
            reference = {str(name): part.edges.price(name) for name in ORDERS}
            plan = self._natively.of(source="searched")
            bound = int(entry.value) if entry.bound == entry.value else None
            return self._report(
                entry, plan, entry.value, part.search, bound=bound, reference=reference
            )
        searched = {part: part.searched_plan() for part in self._arrays}
        cost = self._request.cost
        if cost == "runtime" or cost == "memory":
            return self._race(searched)
        return self._least(searched, cost)

    def _stored_natively(self, part: ScalarsPart) -> StoredOrder:
        """Puts the order in which native code computes the least into the registry."""
        search = part.search
        bound = search.cost if search.is_optimal else None
        return self._stored(
            NATIVE, self._natively, search.cost, search, bound=bound, order=search.best
        )

    @property
    def _natively(self) -> Plan:
        """A plan that stands for native code."""
        return plans.make(self._task.graphs[False], "reverse").of(method="native")

    def _least(self, searched: Mapping[ArraysPart, Plan], measure: CostName) -> Optimized:
        """Takes the order of least cost."""
        part = min(searched, key=lambda part: searched[part].cost(measure))
        plan = searched[part]
        bound, groups = part.proven
        entry = self._stored(
            measure, plan, plan.cost(measure), part.search, bound=bound, groups=groups
        )
        if entry.order != plan.order:
            # A better one was known already.
            graph = self._task.graphs[entry.entries]
            plan = plans.make(graph, entry.order).of(source="registry", scalarised=entry.entries)
        reference = {name: plans.make(part.graph, name).cost(measure) for name in _REFERENCES}
        return self._report(
            entry, plan, plan.cost(measure), part.search, bound=bound, reference=reference
        )

    def _race(self, searched: Mapping[ArraysPart, Plan]) -> Optimized:
        """Compiles the candidates and JAX's modes, and takes the fastest or the smallest."""
        flops = [part for part in searched if part.measure == "flops"]
        part = min(flops, key=lambda part: searched[part].cost("flops"))
        fewest = searched[part]
        request, whole = self._request, self._task.graphs[False]
        if request.is_timed:
            # Of use on other devices, too.
            self._stored("flops", fewest, fewest.cost("flops"), part.search)
        candidates = racing.candidates(searched)
        call = racing.TimedCall(self._fun, self._args, self._kwargs, request)
        requests = racing.contenders(candidates, whole, request)
        if racing.NATIVE in requests:
            requests |= racing.natively(self._scalars)
        jacobians = {name: call.jacobian(order) for name, order in requests.items()}
        failures: dict[str, str] = {}
        with announced(f"compiling {len(jacobians)} Jacobians", request.budget, request.progress):
            if request.is_timed:
                calls, failures = measuring.compiled(jacobians, *call.operands())
            else:
                values = _temporaries(jacobians, *call.operands(), failures)
        if request.is_timed:
            limit = None if request.budget is None else request.budget / 2
            with announced(f"timing {len(calls)} Jacobians", limit, request.progress):
                values = measuring.race(calls, seconds=limit) if calls else {}
        if not values:
            raise RuntimeError(
                f"No Jacobian of {self._task.name} could be compiled and run: {failures}"
            )
        winner = min(values, key=values.__getitem__)
        if request.is_timed and _is_worth_it(values):
            for scalar in self._scalars:
                self._stored_natively(scalar)
        if winner in (*racing.JAX_MODES, racing.NATIVE, racing.SEARCHED_NATIVELY):
            method = winner if winner in racing.JAX_MODES else racing.NATIVE
            plan = plans.make(whole, "reverse").of(method=method)
        else:
            plan = candidates[winner]
        times = values if request.is_timed else {}
        sizes = {} if times else {name: int(size) for name, size in values.items()}
        entry = self._stored(request.cost, plan, values[winner], part.search, winner, times)
        return self._report(
            entry,
            plan,
            values[winner],
            part.search,
            reference=sizes,
            times=times,
            failures=failures,
        )

    def _stored(
        self,
        cost: str,
        plan: Plan,
        value: float,
        search: Search,
        strategy: str | None = None,
        times: Mapping[str, float] | None = None,
        *,
        bound: int | None = None,
        groups: Sequence[Sequence[int]] = (),
        order: Sequence[Item] | None = None,
    ) -> StoredOrder:
        """Puts an order into the registry; returns what that then holds, which may be better."""
        if strategy is None:
            last = search.improvements[-1:]
            strategy = last[0].strategy if last else search.strategy
        entry = StoredOrder(
            self._task.key,
            cost,
            plan.order if order is None else tuple(order),
            value,
            method=plan.method,
            entries=plan.scalarised,
            bound=bound,
            groups=tuple(map(tuple, groups)),
            strategy=strategy,
            seed=self._request.seed,
            device=jax_internals.device_kind() if cost in MEASURED else None,
            batch=self._request.batch_size if cost in MEASURED else None,
            times=dict(times or {}),
            versions={
                "jax": jax_internals.jax_version(),
                "jax-cross-country": importlib.metadata.version("jax-cross-country"),
            },
            name=self._task.name,
            # An order with edges is for this graph only.
            topology=self._task.topology(
                scalarised=plan.scalarised or cost == NATIVE or has_edges(plan.order)
            ),
        )
        return self._registry.put(entry)

    @property
    def _registry(self) -> Registry:
        return self._request.registry or default()

    def _report(
        self,
        entry: StoredOrder,
        plan: Plan,
        value: float,
        search: Search,
        *,
        bound: int | None = None,
        reference: Mapping[str, int] | None = None,
        times: Mapping[str, float] | None = None,
        failures: Mapping[str, str] | None = None,
    ) -> Optimized:
        optimized = Optimized(
            self._task.name,
            entry,
            plan,
            value,
            bound,
            reference or {},
            times or {},
            failures or {},
            tuple(search.improvements),
            sum(part.search.seconds_spent for part in self._parts),
            sum(part.search.evaluations for part in self._parts),
            self._interrupted,
            self._registry.layer_of(entry) or "memory",
        )
        _log.info("%s", optimized)
        return optimized


def _is_worth_it(times: Mapping[str, float]) -> bool:
    """Whether the order that computes the least is no slower in native code than the default one.

    What computes less may keep more numbers waiting.
    """
    searched = times.get(racing.SEARCHED_NATIVELY)
    return searched is None or searched <= times.get(racing.NATIVE, searched)


def _workers(executor: Executor) -> int:
    """How many searches an executor runs side by side: more would take longer than the budget."""
    workers = getattr(executor, "_max_workers", None)
    if isinstance(workers, int):
        return workers
    client: Any = getattr(executor, "_client", None)  # that of Dask
    return sum(client.nthreads().values()) if hasattr(client, "nthreads") else _TASKS


def _temporaries(
    jacobians: Mapping[str, Callable[..., Any]],
    arrays: Sequence[Any],
    batched: Sequence[bool],
    failures: dict[str, str],
) -> dict[str, float]:
    """The bytes of the temporary arrays of each contender; why others could not be compiled."""
    sizes: dict[str, float] = {}
    for name, jacobian in jacobians.items():
        if any(batched):
            jacobian = jax.vmap(jacobian, [0 if mapped else None for mapped in batched])
        try:
            sizes[name] = limits.temporaries_of(jacobian, arrays)
        except Exception as error:  # such as jacfwd of a custom_vjp: this one cannot be had
            failures[name] = f"{type(error).__name__}: {error}"
    return sizes
