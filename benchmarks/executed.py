"""Orders by executed operations, and what they are worth. `python -m benchmarks.executed`

For each program the operations that the Jacobian takes in native code, once they are folded and
equal ones are one, in forward, reverse and greedy order, in the order that annealing finds for the
fewest multiplications, and in the one it finds for the fewest operations. Then the additions that
function and Jacobian are estimated to take, and the measured time of the orders for many points,
over that of the best classical order. Searches take as many seconds of CPU time as are asked for.
"""

from __future__ import annotations

import argparse
import re
import time

import jax
from jax_cce_search import strategies
from jax_cce_search.game.problem import Problem
from jax_cce_search.optimizing import natively
from jax_cce_search.optimizing.natively import NativeProblem
from jax_cce_search.searching import Budget, Search

import jax_cce
from benchmarks import orders, programs, report, suite, timing
from benchmarks.orders import Called, Order
from benchmarks.tasks import TASKS
from jax_cce.eliminations import vertices_of
from jax_cce.execution.calling import scalars
from jax_cce.native.edges import ORDERS, Edges
from jax_cce.native.skeletons import skeleton
from jax_cce.planning.task import task_of

_TASKS = ("RobotArm_6DOF", "RoeFlux_1d", "Greeks", "RoeFlux_3d")
_PROGRAMS = r"^(chain of \d+ quaternions|reprojection, one observation|inverse dynamics, 7 joints)$"
_POINTS, _TURNS = 4096, 9
_COUNTED, _OPERATIONS, _PRICE = "fewest multiplications", "fewest operations", "least computed"


def functions() -> dict[str, Called]:
    """The functions by name, with many points."""
    found = {name: orders.of_task(TASKS[name]) for name in _TASKS}
    for _, program, _ in programs.chosen(0):
        if re.search(_PROGRAMS, program.name) and program.name not in found:
            found[program.name] = orders.of_program(program.settings(batch=_POINTS))
    return found


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


def timed(called: Called, of_name: dict[str, Order]) -> dict[str, float] | None:
    """The time of each order over that of the best classical one; None where there is no code."""
    fun, argnums, _, batch, axes = called
    calls = {}
    for name, order in of_name.items():
        jacobian = jax_cce.jacobian(fun, argnums, order=order, backend="native")
        run = jax.jit(jax.vmap(jacobian, axes))
        if not suite.is_native(run, batch):
            return None
        calls[name] = lambda run=run: run(*batch)
    measured = timing.take_turns(calls, turns=_TURNS, turn_seconds=0.02, clock=timing.cpu_seconds)
    best = min((str(name) for name in ORDERS), key=lambda name: measured[name].median)
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


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("functions", nargs="?", default="", help="a regular expression")
    parser.add_argument("--seconds", type=float, default=10.0, help="of each search")
    parser.add_argument("--untimed", action="store_true", help="only count")
    options = parser.parse_args()
    suite.keep_to(1)
    header = (
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
    rows = []
    with jax.enable_x64(True):
        for name, called in functions().items():
            if re.search(options.functions, name):
                row = measure(name, called, options.seconds, is_timed=not options.untimed)
                print(name, row, flush=True)
                if not isinstance(row, str):
                    rows.append(row)
    print(f"\nfloat64, {_POINTS} points. {report.provenance()}\n")
    print(report.markdown_table(header, rows))


if __name__ == "__main__":
    main()
