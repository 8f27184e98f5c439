"""Do operations predict time? `python -m benchmarks.orders`: twenty orders of each program, timed.

Every order is made into native code for 4096 points (programs of the suite: for as many as they
have) and timed on one core. The orders are forward, reverse, minimal Markowitz, those that
annealing finds for the fewest multiplications (AlphaGrad's objective), for the fewest products and
sums, and for the least that native code computes, these with some or many vertices moved, and
random ones. Spearman's rank correlation says how well each count predicts the time.
"""

from __future__ import annotations

import argparse
import functools
import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
import scipy.stats
from jax_cce_search import strategies
from jax_cce_search.game.problem import Problem
from jax_cce_search.optimizing import natively
from jax_cce_search.optimizing.natively import NativeProblem
from jax_cce_search.searching import Budget, Search

import jax_cce
from benchmarks import programs, report, suite, timing
from benchmarks.programs.program import Program
from benchmarks.tasks import TASKS
from benchmarks.tasks.task import Task
from jax_cce.eliminations import vertices_of
from jax_cce.execution.calling import scalars
from jax_cce.native.edges import ORDERS, Edges
from jax_cce.native.skeletons import skeleton
from jax_cce.planning.task import task_of

Order = tuple[int, ...]

_POINTS, _TURNS = 4096, 9
# Of twenty orders those that are drawn at random.
_RANDOM = 5
# Graphs between these sizes have orders that differ, and are compiled in time.
_FEWEST, _MOST = 20, 400
_MULTIPLICATIONS, _PRICE = "fewest multiplications", "least computed"


def searched(edges: Edges, seconds: float) -> dict[str, Order]:
    """The named orders, and those that are found in so many seconds for each objective."""
    found = {str(name): edges.numbered(name) for name in ORDERS}
    number = {node: k for k, node in enumerate(edges.vertices)}
    for name, measure in (
        (_MULTIPLICATIONS, "multiplications"),
        ("fewest products and sums", "flops"),
    ):
        problem = Problem(skeleton(edges, measure))
        search = Search(problem, Budget(seconds))
        strategies.named("annealing")(search)
        found[name] = tuple(number[node] for node in vertices_of(problem.full(search.best or ())))
    search = Search(NativeProblem(edges), Budget(seconds))
    natively.search(search, "annealing")
    found[_PRICE] = search.best or ()
    return found


def moved(start: Order, count: int, draw: np.random.Generator) -> Order:
    """An order of which so many vertices are moved to any other place."""
    order = list(start)
    for _ in range(count):
        old, new = draw.integers(len(order), size=2)
        order.insert(new, order.pop(old))
    return tuple(order)


def twenty(edges: Edges, seconds: float, count: int = 20) -> dict[str, Order]:
    """So many orders of a graph, good and bad."""
    draw = np.random.default_rng(0)
    found = searched(edges, seconds)
    good = list(found.values())
    vertices = len(edges.vertices)
    for k in range(len(found), count - _RANDOM):
        moves = int(np.ceil(vertices ** (k / count)))
        found[f"{k}: {moves} moved"] = moved(good[k % len(good)], moves, draw)
    for k in range(_RANDOM):
        found[f"random {k}"] = tuple(map(int, draw.permutation(vertices)))
    return found


class Called(NamedTuple):
    """A function and how it is called.

    Attributes:
      fun: The function.
      argnums: What is differentiated.
      point: Its arguments for a single point.
      batch: The same for all points.
      axes: The axis of points of each argument.
    """

    fun: Callable[..., Any]
    argnums: Any
    point: Sequence[Any]
    batch: Sequence[Any]
    axes: Sequence[Any]


def measure(name: str, called: Called, seconds: float) -> list[object] | str:
    """Times the orders of one function.

    Args:
      name: What it is called.
      called: The function.
      seconds: How long each objective is searched.

    Returns:
      A row of the table, or why there is none.
    """
    fun, argnums, point, batch, axes = called
    edges = scalars(task_of(fun, argnums)(*point))
    if isinstance(edges, str):
        return edges
    if not _FEWEST <= len(edges.vertices) <= _MOST:
        return f"{len(edges.vertices)} vertices"
    orders = twenty(edges, seconds)
    calls = {}
    for label, order in orders.items():
        jacobian = jax_cce.jacobian(fun, argnums, order=order, backend="native")
        run = jax.jit(jax.vmap(jacobian, axes))
        if not suite.is_native(run, batch):
            return "too large"
        calls[label] = lambda run=run: run(*batch)
    measured = timing.take_turns(calls, turns=_TURNS, turn_seconds=0.01)
    times = [measured[label].median for label in orders]
    multiplications = skeleton(edges, "multiplications")
    counts = [
        multiplications.evaluate([edges.vertices[k] for k in order]) for order in orders.values()
    ]
    prices = [edges.price(order) for order in orders.values()]
    default = min((str(each) for each in ORDERS), key=lambda each: edges.price(orders[each]))
    labels = list(orders)

    def against(one: str, other: str) -> str:
        return f"{(measured[one] / measured[other]).median:.2f}"

    def found(label: str) -> tuple[int, int]:
        return counts[labels.index(label)], prices[labels.index(label)]

    return [
        name,
        len(edges.vertices),
        f"{_correlation(counts, times):.2f}",
        f"{_correlation(prices, times):.2f}",
        f"{max(times) / min(times):.1f}",
        *(f"{c} / {p}" for c, p in map(found, (default, _MULTIPLICATIONS, _PRICE))),
        against(_MULTIPLICATIONS, _PRICE),
        against(default, _PRICE),
    ]


def _correlation(one: Sequence[float], other: Sequence[float]) -> float:
    return float(scipy.stats.spearmanr(one, other).statistic)


def of_task(task: Task) -> Called:
    draw = np.random.default_rng(0)
    batch = [
        np.asarray(x) * (1 + draw.uniform(-0.05, 0.05, size=(_POINTS, *np.shape(x))))
        for x in task.args
    ]
    return Called(task.fun, task.argnums, task.args, batch, [0] * len(batch))


def of_program(program: Program) -> Called:
    fun, arguments = program.build()
    point = [jax.tree.map(lambda leaf: leaf[0], arguments[0]), *arguments[1:]]
    return Called(fun, 0, point, arguments, [0, *[None] * (len(arguments) - 1)])


def _functions() -> dict[str, Callable[[], Called]]:
    """The reference tasks of scalars, and the programs of the suite for many points."""
    found: dict[str, Callable[[], Called]] = {
        name: functools.partial(of_task, task)
        for name, task in TASKS.items()
        if all(np.ndim(x) < 2 for x in task.args)
    }
    for family, program, _ in programs.chosen(0):
        is_alike = program.dtype == "float64" and program.derivative == "jacobian"
        if is_alike and program.is_installed and (program.batch or 0) >= 512:
            found[f"{family.name}: {program.label}"] = functools.partial(of_program, program)
    return found


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("functions", nargs="?", default="", help="a regular expression")
    parser.add_argument("--seconds", type=float, default=3.0, help="of search for each objective")
    arguments = parser.parse_args()
    suite.keep_to(1)
    header = [
        "program",
        "vertices",
        "multiplications and time",
        "computed and time",
        "slowest / fastest",
        "default, multiplications / computed",
        _MULTIPLICATIONS,
        _PRICE,
        "time of the former / of the latter",
        "of the default / of the latter",
    ]
    rows = []
    with jax.enable_x64(True):
        for name, make in _functions().items():
            if not re.search(arguments.functions, name):
                continue
            row = measure(name, make(), arguments.seconds)
            if isinstance(row, str):
                print(f"{name}: {row}", flush=True)
            else:
                rows.append(row)
                print(row, flush=True)
    print(f"\nOrders of elimination in native code, float64. {report.provenance()}\n")
    print(report.markdown_table(header, rows))


if __name__ == "__main__":
    main()
