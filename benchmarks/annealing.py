"""Simulated annealing over time. `python -m benchmarks.annealing`

The best cost of searches of so many seconds on held-out random programs of 400 vertices, and of one
search after so many on reference tasks. Seconds are CPU time of one core, compiled loops being
there. `--speed` prints insertion moves a second.

    python -m benchmarks.annealing --seconds 0.1 1 5
    python -m benchmarks.annealing --vertices 1000 --seconds 5   # larger programs
    python -m benchmarks.annealing --tasks RoeFlux_1d Greeks RobotArm_6DOF RoeFlux_3d --seeds 5
    python -m benchmarks.annealing --speed
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence

import jax
import numpy as np
from jax_cce_search import strategies
from jax_cce_search.game.chains import chain
from jax_cce_search.game.problem import Problem
from jax_cce_search.searching import Budget, Search

from benchmarks import report
from benchmarks.policies import held_out
from benchmarks.searches import graph_of
from benchmarks.tasks import TASKS

_VERTICES, _PROGRAMS, _LARGER = 400, 10, 3
# What restarts of growing length, from random orders and with more heat, found on these programs in
# 60 s of CPU time: the annealing of revision d46a48b, on an AMD EPYC, seed 0, 2026-11-30.
_BEFORE = (5628, 3487, 3998, 6060, 4248, 4322, 4905, 2176, 1291, 1458)
_SPEED_MOVES = 200_000


def annealed(problem: Problem, seconds: float, seed: int) -> Search:
    """One search of so many seconds of CPU time."""
    search = Search(problem, Budget(seconds), seed, strategy="annealing", clock=time.process_time)
    strategies.named("annealing")(search)
    return search


def _compile(problem: Problem) -> None:
    # The second search finds loops compiled, and takes them for its first orders.
    for _ in range(2):
        strategies.named("annealing")(Search(problem, Budget(evaluations=3000)))


def after(search: Search, seconds: float) -> int:
    """The best cost after so many seconds."""
    return min(found.cost for found in search.improvements if found.seconds <= seconds)


def on_programs(seconds: Sequence[float]) -> str:
    """The table of held-out programs: searches of each length, beside 60 s of restarts."""
    rows: list[list[object]] = []
    ratios = []
    for before, graph in zip(_BEFORE, held_out(_VERTICES, _PROGRAMS), strict=True):
        problem = Problem(graph)
        _compile(problem)
        costs = [annealed(problem, limit, 0).cost for limit in seconds]
        ratios.append([cost / before for cost in costs])
        rows.append([len(problem.vertices), f"{before:,}", *(f"{cost:,}" for cost in costs)])
    means, worst = np.mean(ratios, 0), np.max(ratios, 0)
    rows.append(["mean ratio", "1", *(f"{ratio:.3f}" for ratio in means)])
    rows.append(["worst ratio", "1", *(f"{ratio:.3f}" for ratio in worst)])
    header = ("vertices searched", "restarts, 60 s", *(f"{limit:g} s" for limit in seconds))
    return report.markdown_table(header, rows)


def on_larger(vertices: int, seconds: Sequence[float]) -> str:
    """The table of larger held-out programs, seed 0."""
    rows: list[list[object]] = []
    for graph in held_out(vertices, _LARGER):
        problem = Problem(graph)
        _compile(problem)
        costs = [annealed(problem, limit, 0).cost for limit in seconds]
        rows.append([len(problem.vertices), *(f"{cost:,}" for cost in costs)])
    header = ("vertices searched", *(f"{limit:g} s" for limit in seconds))
    return report.markdown_table(header, rows)


def on_tasks(names: Sequence[str], seconds: float, seeds: int) -> str:
    """The table of reference tasks: the worst of some seeds after so long."""
    marks = [mark for mark in (0.1, 1.0, 5.0, 10.0) if mark <= seconds]
    rows = []
    for name in names:
        problem = Problem.of(graph_of(name), "multiplications")
        _compile(problem)
        searches = [annealed(problem, seconds, seed) for seed in range(seeds)]
        row = [name]
        for mark in marks:
            costs = [after(search, mark) for search in searches]
            row.append(
                f"{max(costs):,}" if len(set(costs)) == 1 else f"{min(costs):,} - {max(costs):,}"
            )
        rows.append(row)
    return report.markdown_table(("task", *(f"{mark:g} s" for mark in marks)), rows)


def speed(names: Sequence[str]) -> str:
    """The table of insertion moves a second, from a good order, the best of five runs."""
    problems = {name: Problem.of(graph_of(name), "multiplications") for name in names}
    problems["random program"] = Problem(held_out(_VERTICES, 1)[0])
    rows = []
    for name, problem in problems.items():
        search = Search(problem, Budget(evaluations=_SPEED_MOVES // 4), strategy="annealing")
        strategies.named("annealing")(search)
        rates = []
        for seed in range(5):
            run = chain(problem, search.best or (), _SPEED_MOVES, 0.003, 0.0001)
            random = np.random.default_rng(seed)
            begin = time.process_time()
            while run.left:
                run.advance(min(2000, run.left), random)
            rates.append(_SPEED_MOVES / (time.process_time() - begin))
        rows.append((name, len(problem.vertices), f"{max(rates):,.0f}"))
    return report.markdown_table(("graph", "vertices searched", "moves a second"), rows)


def main() -> None:
    """Prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, nargs="*", default=[0.1, 1.0, 5.0])
    parser.add_argument("--tasks", nargs="*", default=[], choices=list(TASKS))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--vertices", type=int, default=_VERTICES)
    parser.add_argument("--speed", action="store_true", help="moves a second instead")
    options = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    if options.speed:
        table = speed(options.tasks or ("RoeFlux_1d", "Greeks", "RoeFlux_3d", "Encoder"))
    elif options.tasks:
        table = on_tasks(options.tasks, max(options.seconds), options.seeds)
    elif options.vertices != _VERTICES:
        table = on_larger(options.vertices, options.seconds)
    else:
        table = on_programs(options.seconds)
    print(f"CPU time of one core. {report.provenance()}\n\n{table}")


if __name__ == "__main__":
    main()
