"""`optimize`: the search for the best known order of a function, and what it found."""

import concurrent.futures
import importlib.metadata
import logging
import pickle
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jax_cce import api, choosing, contract, costs, folding, plans, registry, tracing
from jax_cce.choosing import Wish
from jax_cce.graph import Graph
from jax_cce.plans import Plan
from jax_cce.registry import Entry, Registry
from jax_cce_search import measuring, progress
from jax_cce_search.problem import Problem
from jax_cce_search.search import Budget, Improvement, Search
from jax_cce_search.strategies import named

__all__ = ["Optimized", "find_order", "optimize", "optimize_many"]

_log = logging.getLogger("jax_cce")

# Measures by which candidates for a measured race are searched, and the share of the budget.
_RACE_COSTS = ("flops", "runtime_model")
_SEARCH_SHARE = 0.5
_MOST_CANDIDATES = 6
_JAX_MODES = ("jacfwd", "jacrev")
# What a cluster, whose size an executor does not tell, is given to do.
_TASKS = 8


@dataclass(frozen=True)
class Optimized:
    """What a search found.

    Attributes:
        name: the function's name.
        entry: what is stored in the registry for this function and cost.
        plan: the plan of the order found.
        value: its cost: a count, or measured seconds for cost "runtime".
        bound: what every order costs at least, where that is known.
        reference: the cost of forward, reverse and minimal Markowitz, and of the order that was in
            use before; empty for a measured cost, for which see `times`.
        times: measured seconds of each contender, for cost "runtime".
        failures: why a contender could not be measured.
        improvements: the best order so far over the time of the search, whose seconds and
            evaluations count through all its parts.
        seconds: how long the search took.
        evaluations: how many orders it looked at.
        interrupted: whether it was ended from the keyboard.
    """

    name: str
    entry: Entry
    plan: Plan = field(repr=False)
    value: float
    bound: int | None
    reference: Mapping[str, int]
    times: Mapping[str, float]
    failures: Mapping[str, str]
    improvements: tuple[Improvement, ...] = field(repr=False)
    seconds: float
    evaluations: int
    interrupted: bool = False

    @property
    def order(self) -> tuple[int, ...]:
        """The order, for `jax_cce.jacobian(..., order=...)`."""
        return self.entry.order

    @property
    def is_optimal(self) -> bool:
        """Whether no order costs less, by proof."""
        return self.bound is not None and self.value <= self.bound

    @property
    def gap(self) -> float | None:
        """By which fraction the order may exceed the best one; None where no bound is known."""
        if self.bound is None or self.bound <= 0:
            return 0.0 if self.is_optimal else None
        return self.value / self.bound - 1

    @property
    def status(self) -> str:
        """How far from the best the order can be, in words."""
        if self.entry.cost == "runtime":
            return f"measured on {self.entry.device}"
        if self.is_optimal:
            return "optimal"
        if self.gap is None:
            return "no lower bound known"
        return f"at most {100 * self.gap:.1f} % above the lower bound {self.bound:,}"

    def __str__(self) -> str:
        """A summary in a few lines."""
        if self.entry.cost == "runtime":
            best = min(self.times.values())
            lines = [f"{self.name}: {self.entry.strategy}, {self.value:.3g} s, {self.status}"]
            lines += [
                f"  {name}: {seconds:.3g} s ({seconds / best:.2f})"
                for name, seconds in sorted(self.times.items(), key=lambda item: item[1])
            ]
            lines += [f"  {name}: {why}" for name, why in self.failures.items()]
        else:
            lines = [f"{self.name}: {self.value:,.0f} {self.entry.cost}, {self.status}"]
            lines += [f"  {name}: {cost:,}" for name, cost in self.reference.items()]
        found = f"found by {self.entry.strategy}" if not self.times else "searched"
        lines.append(f"  {found} in {self.seconds:.1f} s, {self.evaluations:,} orders looked at")
        return "\n".join(lines)

    def plot_search(self, path: Any = None) -> Any:
        """Draws the best cost over time, by strategy; see `jax_cce_search.pictures`."""
        from jax_cce_search import pictures

        return pictures.plot_search(self, path)


@dataclass
class _Part:
    """The search of one form of the graph in one measure."""

    cost: str
    entries: bool
    graph: Graph
    problem: Problem
    search: Search


def optimize(
    fun: Callable[..., Any],
    argnums: int | Sequence[int] = 0,
    has_aux: bool = False,
    holomorphic: bool = False,
    allow_int: bool = False,
    *,
    format: str = "dense",
    cost: str = "runtime",
    strategy: str = "portfolio",
    budget: float | None = 30.0,
    evaluations: int | None = None,
    seed: int = 0,
    batch_size: int | None = None,
    entries: bool | None = None,
    executor: concurrent.futures.Executor | None = None,
    registry: Registry | None = None,
    callback: Callable[[Improvement], Any] | None = None,
    progress: bool | None = None,
) -> Callable[..., Optimized]:
    """Searches for the best elimination order of a function and stores it.

    From then on `jax_cce.jacobian(fun)` uses it, in this process and in later ones, for arguments
    of the same shapes and dtypes.

    Args:
        fun: as for `jax_cce.jacobian`, and so are the next four and `format`.
        argnums: see there.
        has_aux: see there.
        holomorphic: see there.
        allow_int: see there.
        format: see there.
        cost: "runtime": the best orders by count are compiled and timed on the present device
            together with `jax.jacfwd` and `jax.jacrev`, and the fastest is stored for this kind of
            device; if that is one of JAX's modes, it is what runs. Or a measure of
            `jax_cce.Plan.cost`, which needs shapes only.
        strategy: "portfolio", or one of "forward", "reverse", "markowitz",
            "relative_markowitz", "minimum_fill", "beam", "annealing", "windows",
            "branch_and_bound", "alphazero". The last one plays with a learned policy and then
            trains it on this function for as long as the budget lasts; the environment variable
            `JAX_CCE_POLICY` names the file of another policy than the one that comes with the
            package.
        budget: seconds to search; None for as long as it takes, where the strategy ends by itself.
            For "runtime" half of it goes into the search and the other half bounds the timing.
        evaluations: number of orders to look at, for the same result on every machine.
        seed: seeds the random numbers.
        batch_size: time under `jax.vmap` over so many points, for "runtime": the differentiated
            arguments are repeated along a new leading axis.
        entries: whether small arrays are taken apart; None for whichever is cheaper.
        executor: where searches with different seeds run side by side: any
            `concurrent.futures.Executor` of processes, or that of `dask.distributed` or Ray.
        registry: where the result is stored; `jax_cce.registry.default()` unless given.
        callback: called with each `Improvement`; ends the search where it returns True. With an
            executor it is called when a search comes back.
        progress: whether to show a line of progress; None for on a terminal, above two seconds.

    Returns:
        A function with the arguments of `fun` that returns an `Optimized`. An interrupt from the
        keyboard ends the search, not the function.

    Raises:
        ValueError: for unknown names, a function defined in reverse order only, and budgets that
            are negative or without any end.

    Example:
        >>> import jax, jax.numpy as jnp, jax_cce
        >>> f = lambda x, y: (jnp.sin(x * y) * x, jnp.exp(x * y) / y)
        >>> found = jax_cce.optimize(f, (0, 1), cost="multiplications")(1.0, 2.0)
        >>> found.value, found.status
        (6, 'optimal')
    """

    def optimize_fun(*args: Any, **kwargs: Any) -> Optimized:
        (found,) = optimize_many(
            [(fun, args, kwargs)],
            argnums,
            has_aux,
            holomorphic,
            allow_int,
            format=format,
            cost=cost,
            strategy=strategy,
            budget=budget,
            evaluations=evaluations,
            seed=seed,
            batch_size=batch_size,
            entries=entries,
            executor=executor,
            registry=registry,
            callback=callback,
            progress=progress,
        )
        return found

    return optimize_fun


def optimize_many(
    calls: Iterable[tuple[Any, ...]],
    argnums: int | Sequence[int] = 0,
    has_aux: bool = False,
    holomorphic: bool = False,
    allow_int: bool = False,
    *,
    format: str = "dense",
    cost: str = "runtime",
    strategy: str = "portfolio",
    budget: float | None = 30.0,
    evaluations: int | None = None,
    seed: int = 0,
    batch_size: int | None = None,
    entries: bool | None = None,
    executor: concurrent.futures.Executor | None = None,
    registry: Registry | None = None,
    callback: Callable[[Improvement], Any] | None = None,
    progress: bool | None = None,
) -> list[Optimized]:
    """`optimize` for a list of functions; with an executor all of them are searched side by side.

    Args:
        calls: tuples of a function and its positional arguments, (fun, args), or with keyword
            arguments too, (fun, args, kwargs).
        argnums: as for `optimize`, and so is all else; `budget` is that of each function.
        has_aux: see there.
        holomorphic: see there.
        allow_int: see there.
        format: see there.
        cost: see there.
        strategy: see there.
        budget: see there.
        evaluations: see there.
        seed: see there.
        batch_size: see there.
        entries: see there.
        executor: see there.
        registry: see there.
        callback: see there.
        progress: see there.
    """
    if cost != "runtime":
        costs.check(cost)
    named(strategy)
    if batch_size is not None and not (isinstance(batch_size, int) and batch_size > 0):
        raise ValueError(f"batch_size must be a positive integer, but got {batch_size!r}.")
    limits = Budget(budget, evaluations)
    task = _Task(
        {
            "argnums": argnums,
            "has_aux": has_aux,
            "holomorphic": holomorphic,
            "allow_int": allow_int,
            "format": format,
        },
        cost,
        strategy,
        limits,
        seed,
        batch_size,
        entries,
        registry,
        callback,
        progress,
    )
    prepared = [_Job(task, *call) for call in calls]
    if executor is None:
        for job in prepared:
            job.search()
    else:
        pending = [(job, job.submit(executor)) for job in prepared]
        for job, futures in pending:
            job.gather(futures)
    return [job.finish() for job in prepared]


@dataclass(frozen=True)
class _Task:
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


class _Job:
    """The search for one function."""

    def __init__(
        self,
        task: _Task,
        fun: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any] | None = None,
    ) -> None:
        self._task, self._fun = task, fun
        self._args, self._kwargs = tuple(args), dict(kwargs or {})
        self._subject = api.subject(fun, **task.options)(*self._args, **self._kwargs)
        graphs = self._subject.graphs
        if any(graph.only_rows for graph in graphs.values()):
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
        with progress.shown([part.search for part in self._parts], limit, self._task.progress):
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
            name: Wish(candidates[name].order, entries=candidates[name].entries) for name in names
        }
        if task.options["format"] == "dense" and not _is_complex(self._subject.graphs[False]):
            for mode in _JAX_MODES:
                wishes[mode] = Wish("reverse", entries=False, method=mode)
        calls, failures = measuring.compiled(
            {
                name: self._timed(api.jacobian_by(wish, self._fun, **task.options))
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
        return contract.positions(self._task.options["argnums"], len(self._args))

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
            return self._task.options["format"] == "dense" and leaf.size > folding.SMALL
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
    ) -> Entry:
        improvements = search.improvements
        entry = Entry(
            self._subject.key,
            cost,
            plan.order,
            value,
            method=plan.method,
            entries=plan.entries,
            bound=bound,
            strategy=winner or (improvements[-1].strategy if improvements else search.strategy),
            seed=self._task.seed,
            device=choosing.device_kind() if times else None,
            batch=self._task.batch_size if times else None,
            times=dict(times or {}),
            versions={
                "jax": tracing.jax_version(),
                "jax-cross-country": importlib.metadata.version("jax-cross-country"),
            },
            name=self._subject.name,
        )
        store = self._task.registry or registry.default()
        return store.put(entry)

    def _report(
        self,
        entry: Entry,
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


def find_order(graph: Graph, cost: str, strategy: str, seconds: float) -> tuple[int, ...]:
    """The best order of a graph that a strategy finds in so many seconds.

    Args:
        graph: the graph.
        cost: a measure (see `jax_cce.Plan.cost`).
        strategy: the name of a strategy.
        seconds: the budget; the strategy's first order is returned even if it takes longer.

    Returns:
        Vertices numbered as in `Plan.order`.
    """
    problem = Problem.of(graph, cost)
    search = Search(problem, Budget(seconds), strategy=strategy)
    with progress.shown([search], seconds, None):
        named(strategy)(search)
    if search.best is None:
        search.offer(problem.vertices[::-1])
    assert search.best is not None
    first = graph.program.first_computed
    return tuple(vertex - first for vertex in problem.full(search.best))


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
