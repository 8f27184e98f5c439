"""Orders by executed operations, and what they are worth. `python -m benchmarks.executed`

For each program the operations that the Jacobian takes in native code, once they are folded and
equal ones are one, in forward, reverse and greedy order, in the order that annealing finds for the
fewest multiplications, and in the one it finds for the fewest operations. Then the additions that
function and Jacobian are estimated to take, and the measured time of the orders for many points,
over that of the best classical order. Searches take as many seconds of CPU time as are asked for.

`--times` compares what runs after `jax_cce.optimize` with the fastest classical order.
`--predictors` says which count of an order's code goes with its time: multiplications, operations,
additions, instructions, or numbers that registers do not hold.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import functools
import os
import re
import tempfile
import time
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jax_cce_search import strategies
from jax_cce_search.game.problem import Problem
from jax_cce_search.optimizing import natively
from jax_cce_search.optimizing.natively import NativeProblem
from jax_cce_search.searching import Budget, Search

import jax_cce
from benchmarks import machine_code, orders, programs, report, suite, timing
from benchmarks.orders import Called, Order
from benchmarks.tasks import TASKS
from benchmarks.tasks.task import Task
from jax_cce.eliminations import vertices_of
from jax_cce.execution.calling import scalars
from jax_cce.native.edges import ORDERS, Edges
from jax_cce.native.skeletons import skeleton
from jax_cce.planning.task import task_of

_TASKS = (
    *("RobotArm_6DOF", "RoeFlux_1d", "Greeks", "RoeFlux_3d", "HumanHeartDipole"),
    "PropaneCombustion",
)
_PROGRAMS = (
    *("chain of 5 quaternions", "reprojection, one observation", "inverse dynamics, 7 joints"),
    *("RobotArm_6DOF of matrices, vector", "cart-pole RK4 step", "pose graph SE(3), one edge"),
    *("pendulum of 2 links from its Lagrangian", "resistor network, solve of 4"),
    *("logistic map, 20 steps", "leapfrog in 3 dimensions, 10 steps"),
    "Nelson-Siegel-Svensson fit, 20 yields",
)
_POINTS, _TURNS = 1024, 25
# Of glibc's `mallopt`: how much freed memory goes back to the system, and what is mapped.
_THRESHOLDS = (-1, -3)
# Graphs of more vertices take too long to be made in so many orders.
_MOST_VERTICES = 700
_COUNTED, _OPERATIONS, _PRICE = "fewest multiplications", "fewest operations", "least computed"


def functions() -> dict[str, Callable[[], Called]]:
    """The functions by name, each of one array and with many points."""
    found: dict[str, Callable[[], Called]] = {
        name: functools.partial(_of_vector, TASKS[name]) for name in _TASKS
    }
    for _, program, _ in programs.chosen(0):
        if program.name in _PROGRAMS:
            many = program.settings(batch=_POINTS)
            found.setdefault(program.name, functools.partial(orders.of_program, many))
    return found


def _of_vector(task: Task) -> Called:
    """A task from one vector to one: many small arrays would take JAX longer than they compute."""
    sizes = [int(np.size(x)) for x in task.args]
    places = np.cumsum(sizes)[:-1]

    def fun(x: jax.Array) -> jax.Array:
        pieces = zip(jnp.split(x, places), task.args, strict=True)
        outputs = task.fun(*(piece.reshape(np.shape(like)) for piece, like in pieces))
        return jnp.concatenate([jnp.ravel(output) for output in jax.tree.leaves(outputs)])

    point = np.concatenate([np.ravel(x) for x in task.args])
    around = np.random.default_rng(0).uniform(-0.05, 0.05, (_POINTS, len(point)))
    return Called(fun, 0, (point,), (jnp.asarray(point * (1 + around)),), [0])


def searched(edges: Edges, seconds: float) -> dict[str, Order]:
    """The classical orders, and what is found in so many seconds for each objective."""
    found: dict[str, Order] = {str(name): edges.numbered(name) for name in ORDERS}
    number = {node: k for k, node in enumerate(edges.vertices)}
    problem = Problem(skeleton(edges, "multiplications"))
    search = Search(problem, Budget(seconds), clock=time.process_time)
    strategies.named("annealing")(search)
    found[_COUNTED] = tuple(number[node] for node in vertices_of(problem.full(search.best or ())))
    for name, objective in ((_OPERATIONS, "operations"), (_PRICE, "native")):
        search = Search(
            NativeProblem(edges, objective),  # type: ignore[arg-type]
            Budget(seconds),
            clock=time.process_time,
        )
        natively.search(search, "annealing")
        found[name] = search.best or ()
    return found


def _calls(called: Called, of_name: Mapping[str, Order]) -> dict[str, Callable[[], object]] | None:
    """The Jacobian of many points in each order; None where there is no native code."""
    fun, argnums, _, batch, axes = called
    calls: dict[str, Callable[[], object]] = {}
    for name, order in of_name.items():
        jacobian = jax_cce.jacobian(fun, argnums, order=order, backend="native")
        run = jax.jit(jax.vmap(jacobian, axes))
        if not suite.is_native(run, batch):
            return None
        calls[name] = functools.partial(run, *batch)
    return calls


def _times(calls: dict[str, Callable[[], object]]) -> dict[str, timing.Measured]:
    return timing.take_turns(calls, turns=_TURNS, turn_seconds=0.005, clock=timing.cpu_seconds)


def timed(called: Called, of_name: Mapping[str, Order]) -> dict[str, float] | None:
    """The time of each order over that of the best classical one; None where there is no code."""
    calls = _calls(called, of_name)
    if calls is None:
        return None
    measured = _times(calls)
    best = min(map(str, ORDERS), key=lambda name: measured[name].median)
    return {name: (measured[name] / measured[best]).median for name in of_name}


def measure(name: str, called: Called, seconds: float, *, is_timed: bool) -> list[object] | str:
    """A row of the table, or why there is none."""
    edges = scalars(task_of(called.fun, called.argnums)(*called.point))
    if isinstance(edges, str):
        return edges
    found = searched(edges, seconds)
    times = timed(called, found) if is_timed else None
    count = {label: f"{edges.operations(order):,}" for label, order in found.items()}
    price = {label: edges.price(order) for label, order in found.items()}
    least = min(price[str(label)] for label in ORDERS)
    return [
        name,
        len(edges.vertices),
        " / ".join(count[label] for label in ("forward", "reverse", "markowitz")),
        count[_COUNTED],
        count[_OPERATIONS],
        f"{least:,}",
        f"{price[_PRICE]:,}",
        *(
            "-" if times is None else f"{times[label]:.2f}"
            for label in (_COUNTED, _OPERATIONS, _PRICE)
        ),
    ]


def optimized(name: str, called: Called, seconds: float) -> list[object] | str:
    """What runs after `jax_cce.optimize` against the classical orders, or why that is not known."""
    fun, argnums, point, batch, axes = called
    edges = scalars(task_of(fun, argnums)(*point))
    if isinstance(edges, str):
        return edges
    found = jax_cce.optimize(fun, argnums, budget=seconds, batch_size=_POINTS, progress=False)(
        *point
    )
    calls = _calls(called, {str(order): edges.numbered(order) for order in ORDERS})
    if calls is None:
        return "there is no native code"
    run = jax.jit(jax.vmap(jax_cce.jacobian(fun, argnums), axes))
    calls["optimized"] = lambda: run(*batch)
    measured = _times(calls)
    classical = sorted(map(str, ORDERS), key=lambda each: measured[each].median)
    ratio = measured["optimized"] / measured[classical[0]]
    return [
        name,
        *(f"{1e9 * measured[each].median / _POINTS:.0f}" for each in ("forward", "reverse")),
        f"{1e9 * measured['markowitz'].median / _POINTS:.0f}",
        f"{1e9 * measured['optimized'].median / _POINTS:.0f}",
        min(found.times, key=found.times.__getitem__),
        report.ratio(ratio),
    ]


def predicted(name: str, called: Called, seconds: float) -> list[object] | str:
    """How well each count of an order's code predicts its time, or why that is not known."""
    edges = scalars(task_of(called.fun, called.argnums)(*called.point))
    if isinstance(edges, str):
        return edges
    if len(edges.vertices) > _MOST_VERTICES:
        return f"{len(edges.vertices)} vertices"
    of_name = orders.twenty(edges, seconds)
    calls = _calls(called, of_name)
    codes = [machine_code.code_of(called, order) for order in of_name.values()]
    if calls is None or any(isinstance(code, str) for code in codes):
        return "there is no native code"
    measured = _times(calls)
    times = [measured[label].median for label in of_name]
    multiplications = skeleton(edges, "multiplications")
    counts: dict[str, list[float]] = {label: [] for label in machine_code.COUNTS}
    for code, order in zip(codes, of_name.values(), strict=True):
        assert not isinstance(code, str)
        row = (
            multiplications.evaluate([edges.vertices[k] for k in order]),
            edges.operations(order),
            edges.price(order),
            code.instructions,
            code.stores + code.loads,
            sum(machine_code.predicted(edges, order)),
        )
        for label, value in zip(machine_code.COUNTS, row, strict=True):
            counts[label].append(value)
    return [
        name,
        f"{1e9 * min(times) / _POINTS:.0f} - {1e9 * max(times) / _POINTS:.0f}",
        *(f"{machine_code.correlation(each, times):.2f}" for each in counts.values()),
        *(f"{share:.2f}" for share in machine_code.shares(counts, times)),
    ]


def _keep_memory() -> None:
    """Lets the C library keep what is freed, so that the system makes no pages at each call."""
    with contextlib.suppress(AttributeError, OSError):
        library = ctypes.CDLL(None)
        for parameter in _THRESHOLDS:
            library.mallopt(parameter, 1 << 28)


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("functions", nargs="?", default="", help="a regular expression")
    parser.add_argument("--seconds", type=float, default=10.0, help="of each search")
    parser.add_argument("--untimed", action="store_true", help="only count")
    parser.add_argument("--times", action="store_true", help="of what `optimize` finds")
    parser.add_argument("--predictors", action="store_true", help="of the time of an order")
    options = parser.parse_args()
    suite.keep_to(1)
    _keep_memory()
    header: tuple[str, ...] = _HEADER
    row_of: Callable[..., list[object] | str]
    row_of = functools.partial(measure, is_timed=not options.untimed)
    if options.times:
        header, row_of = _TIMES, optimized
    elif options.predictors:
        header, row_of = _PREDICTORS, predicted
    rows = []
    # Orders of others, and those that come with the package, play no part.
    with tempfile.TemporaryDirectory() as registry, jax.enable_x64(True):
        os.environ["JAX_CCE_REGISTRY"] = registry
        for name, make in functions().items():
            if re.search(options.functions, name):
                row = row_of(name, make(), options.seconds)
                print(name, row, flush=True)
                if not isinstance(row, str):
                    rows.append(row)
    if options.predictors:
        columns = list(zip(*(row[2:] for row in rows), strict=True))
        medians = (np.nanmedian([float(str(cell)) for cell in column]) for column in columns)
        rows.append(["median", "", *(f"{value:.2f}" for value in medians)])
    print(f"\nfloat64, {_POINTS} points. {report.provenance()}\n")
    print(report.markdown_table(header, rows))


_HEADER = (
    "program",
    "vertices",
    "operations: forward / reverse / greedy",
    _COUNTED,
    _OPERATIONS,
    "additions, best classical",
    _PRICE,
    f"time of {_COUNTED}",
    f"of {_OPERATIONS}",
    f"of {_PRICE}",
)
_TIMES = (
    *("program", "forward, ns a point", "reverse", "greedy", "after `optimize`"),
    *("the fastest there", "over the best classical [quartiles]"),
)
_PREDICTORS = (
    *("program", "ns a point", *machine_code.COUNTS),
    *("explained by additions", "and spills", "and predicted spills"),
)

if __name__ == "__main__":
    main()
