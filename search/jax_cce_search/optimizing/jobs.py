"""The search for one function: its graphs and measures, the race on the device, what is stored."""

import concurrent.futures
import importlib.metadata
import logging
import pickle
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jax_cce import jax_internals
from jax_cce.execution import calling
from jax_cce.graph.building import Graph
from jax_cce.planning import plans
from jax_cce.planning.choosing import OrderRequest
from jax_cce.planning.plans import Plan
from jax_cce.planning.task import subject
from jax_cce.program import known_values
from jax_cce.program.calls import positions
from jax_cce.registry import Registry, StoredOrder, default
from jax_cce_search.game.problem import Problem
from jax_cce_search.optimizing import measuring
from jax_cce_search.optimizing.optimized import Optimized
from jax_cce_search.progress import shown
from jax_cce_search.searching import Budget, Improvement, Search
from jax_cce_search.strategies import named

__all__ = [
    "Job",
    "Request",
]

_log = logging.getLogger("jax_cce")

# Measures by which candidates for a measured race are searched, and the share of the budget.
_RACE_COSTS = ("flops", "runtime_model")
_SEARCH_SHARE = 0.5
_MOST_CANDIDATES = 6
_JAX_MODES = ("jacfwd", "jacrev")
# What a cluster, whose size an executor does not tell, is given to do.
_TASKS = 8


@dataclass
class _Part:
    """The search of one form of the graph in one measure."""

    cost: str
    entries: bool
    graph: Graph
    problem: Problem
    search: Search


@dataclass(frozen=True)
class Request:
    """What is asked for every function."""

    options: dict[str, Any]
    cost: str
    strategy: str
    budget: Budget
    seed: int
    batch_size: int | None
    entries: bool | None
    registry: Registry | None
    callback: Callable[[Improvement], Any] | None
    progress: bool | None


class Job:
    """The search for one function."""

    def __init__(
        self,
        task: Request,
        fun: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any] | None = None,
    ) -> None:
        self._task, self._fun = task, fun
        self._args, self._kwargs = tuple(args), dict(kwargs or {})
        self._subject = subject(fun, **task.options)(*self._args, **self._kwargs)
        graphs = self._subject.graphs
        if any(graph.reverse_only for graph in graphs.values()):
            raise ValueError(
                f"{self._subject.name} has a custom_vjp whose pullback is not known to be linear "
                "in the cotangent, or a collective inside shard_map, so its Jacobian is defined "
                "by reverse mode only: there is no order to search for."
            )
        if task.entries is not None:
            if task.entries not in graphs:
                raise ValueError(
                    f"entries=True, but {self._subject.name} has no small arrays to take apart."
                )
            graphs = {task.entries: graphs[task.entries]}
        measures = _RACE_COSTS if task.cost == "runtime" else (task.cost,)
        self._parts = [
            _Part(cost, apart, graph, problem, Search(problem))
            for apart, graph in graphs.items()
            for cost in measures
            for problem in [Problem.of(graph, cost)]
        ]
        self._interrupted = False
        share = 1 / len(self._parts)
        seconds = task.budget.seconds
        if seconds is not None:
            seconds *= share * (_SEARCH_SHARE if task.cost == "runtime" else 1)
        many = task.budget.evaluations
        self._budget = Budget(seconds, None if many is None else max(1, int(many * share)))

    def search(self) -> None:
        """Runs the strategy on every part, one after the other."""
        strategy = named(self._task.strategy)
        for part in self._parts:
            part.search = Search(
                part.problem,
                self._budget,
                self._task.seed,
                self._task.callback,
                self._task.strategy,
            )
        limit = self._task.budget.seconds
        with shown([part.search for part in self._parts], limit, self._task.progress):
            for part in self._parts:
                part.search.begin()
                try:
                    strategy(part.search)
                except KeyboardInterrupt:
                    self._interrupted = True
                if self._interrupted:
                    break
        for part in self._parts:
            if part.search.best is None:
                part.search.offer(part.problem.vertices[::-1])

    def submit(self, executor: concurrent.futures.Executor) -> list[tuple[_Part, Any]]:
        """Starts searches with different seeds on an executor."""
        workers = getattr(executor, "_max_workers", None)
        count = workers if isinstance(workers, int) else _TASKS
        return [
            (
                part,
                executor.submit(
                    _searched, part.problem, self._budget, self._task.seed + k, self._task.strategy
                ),
            )
            for part in self._parts
            for k in range(count)
        ]

    def gather(self, futures: Sequence[tuple[_Part, Any]]) -> None:
        """Takes the results of `submit`, the best of each part."""
        for part, future in futures:
            improvements, bound, evaluations = future.result()
            part.search.evaluations += evaluations
            part.search.prove(bound)
            for found in improvements:
                if found.cost < part.search.cost:
                    left = set(part.problem.vertices)
                    part.search.best = tuple(v for v in found.order if v in left)
                    part.search.cost = found.cost
                    part.search.improvements.append(found)
                    if self._task.callback is not None:
                        self._task.callback(found)

    def finish(self) -> Optimized:
        """Chooses, stores and reports."""
        task = self._task
        plans_of = {id(part): self._plan(part, part.search.best or ()) for part in self._parts}
        if task.cost == "runtime":
            return self._race(plans_of)
        best = min(self._parts, key=lambda part: plans_of[id(part)].cost(part.cost))
        plan = plans_of[id(best)]
        value = plan.cost(task.cost)
        problem = best.problem
        bound = (best.search.bound if problem.is_exact else problem.bound) or None
        entry = self._stored(task.cost, plan, value, bound, best.search)
        if entry.order != plan.order:
            # A better one was known already.
            graph = self._subject.graphs[entry.entries]
            plan = plans.make(graph, entry.order).of(source="registry", entries=entry.entries)
            value = plan.cost(task.cost)
        reference = {
            name: plans.make(best.graph, name).cost(task.cost)
            for name in ("forward", "reverse", "markowitz")
        }
        return self._report(entry, plan, value, bound, reference, {}, {}, best.search)

    def _race(self, searched: Mapping[int, Plan]) -> Optimized:
        """Times the candidates and JAX's modes against each other."""
        task = self._task
        flops = [part for part in self._parts if part.cost == "flops"]
        best = min(flops, key=lambda part: searched[id(part)].cost("flops"))
        fewest = searched[id(best)]
        # Of use on other devices, too.
        self._stored("flops", fewest, fewest.cost("flops"), None, best.search)
        candidates: dict[str, Plan] = {}
        for part in flops:
            form = ", small arrays apart" if part.entries else ""
            candidates[f"default{form}"] = plans.make(part.graph, "auto").of(entries=part.entries)
        for part in self._parts:
            form = ", small arrays apart" if part.entries else ""
            candidates[f"{part.search.strategy}, {part.cost}{form}"] = searched[id(part)]
        for part in flops:
            form = ", small arrays apart" if part.entries else ""
            for name in ("forward", "reverse"):
                candidates[f"{name}{form}"] = plans.make(part.graph, name).of(entries=part.entries)
        distinct: dict[Any, str] = {}
        for name, plan in candidates.items():
            distinct.setdefault((plan.entries, plan.order), name)
        names = sorted(distinct.values(), key=lambda n: candidates[n].cost("runtime_model"))
        names = names[:_MOST_CANDIDATES]
        wishes = {
            name: OrderRequest(candidates[name].order, entries=candidates[name].entries)
            for name in names
        }
        if task.options["format"] == "dense" and not _is_complex(self._subject.graphs[False]):
            for mode in _JAX_MODES:
                wishes[mode] = OrderRequest("reverse", entries=False, method=mode)
        calls, failures = measuring.compiled(
            {
                name: self._timed(calling.jacobian_by(wish, self._fun, **task.options))
                for name, wish in wishes.items()
            },
            *self._operands(),
        )
        if not calls:
            raise RuntimeError(
                f"No Jacobian of {self._subject.name} could be compiled and run: {failures}"
            )
        limit = None if task.budget.seconds is None else task.budget.seconds / 2
        times = measuring.race(calls, seconds=limit)
        winner = min(times, key=times.__getitem__)
        if winner in _JAX_MODES:
            plan = plans.make(self._subject.graphs[False], "reverse").of(method=winner)
        else:
            plan = candidates[winner]
        entry = self._stored("runtime", plan, times[winner], None, best.search, times, winner)
        return self._report(entry, plan, times[winner], None, {}, times, failures, best.search)

    @property
    def _varied(self) -> tuple[int, ...]:
        return positions(self._task.options["argnums"], len(self._args))

    def _operands(self) -> tuple[list[Any], list[bool]]:
        """The arrays to time with, and which of them have a leading axis to map over."""
        size, varied = self._task.batch_size, self._varied
        arrays, batched = [], []
        for k, arg in enumerate((*self._args, self._kwargs)):
            for leaf in jax.tree.leaves(arg):
                if isinstance(leaf, jax.ShapeDtypeStruct):
                    leaf = jnp.full(leaf.shape, 0.5, leaf.dtype)
                elif k not in varied and not self._is_passed(leaf):
                    continue
                leaf = jnp.asarray(leaf)
                batched.append(size is not None and k in varied)
                arrays.append(jnp.stack([leaf] * (size or 1)) if batched[-1] else leaf)
        return arrays, batched

    def _is_passed(self, leaf: Any) -> bool:
        """Whether what is not differentiated is an argument to time with.

        An array whose values may decide structure has to be seen while planning, as it was when
        the order was searched.
        """
        if isinstance(leaf, jax.Array | np.ndarray):
            return self._task.options["format"] == "dense" and leaf.size > known_values.SMALL
        return isinstance(leaf, jax.ShapeDtypeStruct)

    def _timed(self, jacobian: Callable[..., Any]) -> Callable[..., Any]:
        """The Jacobian as a function of the arrays of `_operands`; all else stays as it is."""
        varied = self._varied

        def of_arrays(*arrays: Any) -> Any:
            fresh = iter(arrays)

            def filled(k: int, arg: Any) -> Any:
                def one(leaf: Any) -> Any:
                    return next(fresh) if k in varied or self._is_passed(leaf) else leaf

                return jax.tree.map(one, arg)

            args = [filled(k, arg) for k, arg in enumerate(self._args)]
            return jacobian(*args, **filled(len(args), self._kwargs))

        return of_arrays

    def _plan(self, part: _Part, order: Sequence[int]) -> Plan:
        first = part.graph.program.first_computed
        full = tuple(vertex - first for vertex in part.problem.full(order))
        return plans.make(part.graph, full).of(source="searched", entries=part.entries)

    def _stored(
        self,
        cost: str,
        plan: Plan,
        value: float,
        bound: int | None,
        search: Search,
        times: Mapping[str, float] | None = None,
        winner: str | None = None,
    ) -> StoredOrder:
        improvements = search.improvements
        entry = StoredOrder(
            self._subject.key,
            cost,
            plan.order,
            value,
            method=plan.method,
            entries=plan.entries,
            bound=bound,
            strategy=winner or (improvements[-1].strategy if improvements else search.strategy),
            seed=self._task.seed,
            device=jax_internals.device_kind() if times else None,
            batch=self._task.batch_size if times else None,
            times=dict(times or {}),
            versions={
                "jax": jax_internals.jax_version(),
                "jax-cross-country": importlib.metadata.version("jax-cross-country"),
            },
            name=self._subject.name,
        )
        store = self._task.registry or default()
        return store.put(entry)

    def _report(
        self,
        entry: StoredOrder,
        plan: Plan,
        value: float,
        bound: int | None,
        reference: Mapping[str, int],
        times: Mapping[str, float],
        failures: Mapping[str, str],
        search: Search,
    ) -> Optimized:
        found = Optimized(
            self._subject.name,
            entry,
            plan,
            value,
            bound,
            reference,
            times,
            failures,
            tuple(search.improvements),
            sum(part.search.seconds_spent for part in self._parts),
            sum(part.search.evaluations for part in self._parts),
            self._interrupted,
        )
        _log.info("%s", found)
        return found


def _searched(
    problem: Problem, budget: Budget, seed: int, strategy: str
) -> tuple[list[Improvement], int, int]:
    """One search on an executor."""
    # Where that runs threads, each needs tables of its own to fill.
    problem = pickle.loads(pickle.dumps(problem))
    search = Search(problem, budget, seed, strategy=strategy)
    named(strategy)(search)
    return search.improvements, search.bound, search.evaluations


def _is_complex(graph: Graph) -> bool:
    avals = graph.program.avals
    return any(jnp.issubdtype(avals[name].dtype, np.complexfloating) for name in graph.inputs)
