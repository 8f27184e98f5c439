"""`optimize`: the search for the best known order of a function, and what it found."""

import concurrent.futures
from collections.abc import Callable, Iterable, Sequence
from typing import Any, ParamSpec

from jax_cce.algebra.costs import CostName
from jax_cce.eliminations import Item, moved
from jax_cce.graph.building import Graph
from jax_cce.registry import Registry
from jax_cce.sparse.formats import FormatName
from jax_cce_search import strategies
from jax_cce_search.game.problem import Problem
from jax_cce_search.optimizing.jobs import run
from jax_cce_search.optimizing.optimized import Optimized
from jax_cce_search.optimizing.request import Cost, Request
from jax_cce_search.progress import shown
from jax_cce_search.searching import Budget, Improvement, Search

__all__ = [
    "find_order",
    "optimize",
    "optimize_many",
]

P = ParamSpec("P")


def optimize(
    fun: Callable[P, Any],
    argnums: int | Sequence[int] = 0,
    has_aux: bool = False,
    holomorphic: bool = False,
    allow_int: bool = False,
    *,
    format: FormatName = "dense",
    cost: Cost = "runtime",
    strategy: strategies.Name = "portfolio",
    budget: float | None = 30.0,
    evaluations: int | None = None,
    seed: int = 0,
    batch_size: int | None = None,
    entries: bool | None = None,
    executor: concurrent.futures.Executor | None = None,
    registry: Registry | None = None,
    callback: Callable[[Improvement], Any] | None = None,
    progress: bool | None = None,
) -> Callable[P, Optimized]:
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
            device; if that is one of JAX's modes, it is what runs. "native": the vertices of the
            graph of scalars are ordered by what native code on the CPU computes, in additions;
            it takes that order from then on. "memory": the best orders by count and JAX's modes
            are compiled, and the one whose temporary arrays are the fewest bytes is stored for
            this kind of device; `jax_cce.jacobian(fun, max_bytes=...)` alone asks for it. Or a
            measure of `jax_cce.Plan.cost`. All but "runtime" need shapes only.
        strategy: "portfolio", or one of "forward", "reverse", "markowitz",
            "relative_markowitz", "minimum_fill", "beam", "annealing", "windows",
            "branch_and_bound", "edges", "alphazero". "edges" eliminates single edges of graphs of
            scalars, too, where cost is "multiplications". "alphazero" plays with a learned policy
            and then trains it on this function for as long as the budget lasts; the environment
            variable `JAX_CCE_POLICY` names the file of another policy than the one that comes with
            the package.
        budget: seconds to search; None for as long as it takes, where the strategy ends by itself.
            For "runtime" half of it goes into the search and the other half bounds the timing. The
            first search in a fresh installation takes some seconds more, in which it is compiled.
        evaluations: number of orders to look at, for the same result on every machine.
        seed: seeds the random numbers.
        batch_size: for "runtime" and "memory", measure under `jax.vmap` over so many points: the
            differentiated arguments are repeated along a new leading axis.
        entries: whether small arrays are taken apart; None for whichever is cheaper.
        executor: where searches with different seeds run side by side: any
            `concurrent.futures.Executor`, best one of processes, or that of a client of
            `dask.distributed`. There are as many searches as workers.
        registry: where the result is stored; `jax_cce.registry.default()` unless given.
        callback: called with each `Improvement`; ends the search where it returns True. With an
            executor it is called when a search comes back.
        progress: whether to show progress; None for above two seconds. It is a bar on a terminal
            and in a notebook, and elsewhere a line on stderr every ten seconds.

    Returns:
        A function with the arguments of `fun` that returns an `Optimized`. An interrupt from the
        keyboard ends the search, not the function.

    Raises:
        TypeError: for an `executor` that is none.
        ValueError: for unknown names, a function defined in reverse order only, budgets that
            are negative or without any end, and cost "native" where there is no native code.

    Examples:
        >>> import jax, jax.numpy as jnp, jax_cce
        >>> f = lambda x, y: (jnp.sin(x * y) * x, jnp.exp(x * y) / y)
        >>> best = jax_cce.optimize(f, (0, 1), cost="multiplications")(1.0, 2.0)
        >>> best.value, best.status
        (6, 'optimal over vertex orders')
    """

    request = Request(
        argnums,
        has_aux,
        holomorphic,
        allow_int,
        format,
        cost,
        strategy,
        budget,
        evaluations,
        seed,
        batch_size,
        entries,
        executor,
        registry,
        callback,
        progress,
    )

    def optimize_fun(*args: P.args, **kwargs: P.kwargs) -> Optimized:
        (optimized,) = run(request, [(fun, args, kwargs)])
        return optimized

    return optimize_fun


def optimize_many(
    calls: Iterable[tuple[Any, ...]],
    argnums: int | Sequence[int] = 0,
    has_aux: bool = False,
    holomorphic: bool = False,
    allow_int: bool = False,
    *,
    format: FormatName = "dense",
    cost: Cost = "runtime",
    strategy: strategies.Name = "portfolio",
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
    request = Request(
        argnums,
        has_aux,
        holomorphic,
        allow_int,
        format,
        cost,
        strategy,
        budget,
        evaluations,
        seed,
        batch_size,
        entries,
        executor,
        registry,
        callback,
        progress,
    )
    return run(request, calls)


def find_order(
    graph: Graph, cost: CostName, strategy: strategies.Name, seconds: float
) -> tuple[Item, ...]:
    """The best order of a graph that a strategy finds in so many seconds.

    Args:
        graph: the graph.
        cost: a measure (see `jax_cce.Plan.cost`).
        strategy: the name of a strategy.
        seconds: the budget; the strategy's first order is returned even if it takes longer.

    Returns:
        Vertices, and edges by themselves, numbered as in `Plan.order`.
    """
    problem = Problem.of(graph, cost)
    search = Search(problem, Budget(seconds), strategy=strategy)
    with shown([search], seconds, None):
        strategies.named(strategy)(search)
    if search.best is None:
        search.offer(problem.vertices[::-1])
    assert search.best is not None
    first = graph.program.first_computed
    return tuple(moved(problem.full(search.best), first, inwards=False))
