"""Every search strategy on reference tasks and families: the best cost over time, and bounds.

Run it with `python -m benchmarks.searches`. Each search runs in a fresh process on one core; its
seconds are the processor's, from when the graph is there and, but for the portfolio, what is
compiled is loaded. The page docs/explanation/searches.md and its picture are written from the
--json of such runs, which docs/data/searches.json keeps; of two runs of a search the longer one
counts.

    python -m benchmarks.searches --seconds 10 --json a.json
    python -m benchmarks.searches --seconds 60 --strategies annealing portfolio --json b.json
    python -m benchmarks.searches --load a.json b.json      # keeps these runs, writes the page
    python -m benchmarks.searches --load                    # writes the page from the kept runs
    python -m benchmarks.searches --speed                   # evaluations a second; large graphs
"""

from __future__ import annotations

import argparse
import concurrent.futures
import json
import os
import pathlib
import random
import subprocess
import sys
import tempfile
import time
from typing import Any

import jax
import numpy as np
from jax_cce_search import strategies
from jax_cce_search.alphazero import families
from jax_cce_search.alphazero.graphs import random_program
from jax_cce_search.game.problem import Problem
from jax_cce_search.pictures import curves
from jax_cce_search.searching import Budget, Improvement, Search

import jax_cce
from benchmarks import report
from benchmarks.overhead import recurrence
from benchmarks.tasks import TASKS
from jax_cce.graph.building import Graph
from jax_cce.orders.greedy import greedy
from jax_cce.orders.skeleton import Skeleton, skeleton
from jax_cce.planning.task import task_of

_DOCS = pathlib.Path(__file__).parents[1] / "docs"
# Graphs that are drawn: of the families that the learned policy is trained on, but with draws that
# it has not seen, and a random program of many vertices.
_FAMILIES = ("kinematics", "flux", "reactions", "option", "orbit", "filter", "camera", "circuit")
_DRAWN = (*(f"family {name}" for name in _FAMILIES), "random program")
_OF_RANDOM = 400
RUNS = _DOCS / "data" / "searches.json"
PROOFS = _DOCS / "data" / "proofs.json"
PAGE = _DOCS / "explanation" / "searches.md"
PICTURE = _DOCS / "pictures" / "searches.svg"
# A picture of costs that differ more than that has a logarithmic axis.
_WIDE = 4
# Okabe & Ito's colours, which people who see few colours tell apart; grey is for levels.
_COLORS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#f0e442", "black")
_COLUMNS = 2
_MARKS = (0.1, 1.0, 10.0, 60.0, 600.0)


def graph_of(name: str) -> Graph:
    """The graph of a reference task, its small arrays whole, as the literature counts them."""
    task = TASKS[name]
    return task_of(task.fun, task.argnums)(*task.args).graphs[False]


def problem_of(name: str, cost: str) -> Problem:
    """A reference task, or a graph that is drawn, always the same."""
    if name in TASKS:
        return Problem.of(graph_of(name), cost)
    draw = np.random.default_rng([0, 7])
    if name == "random program":
        return Problem(random_program(_OF_RANDOM, draw))
    return Problem(families.traced(name.removeprefix("family "), draw, cost))


def search_here(name: str, cost: str, strategy: str, seconds: float, seed: int) -> dict[str, Any]:
    """Runs one search and returns its curve."""
    problem = problem_of(name, cost)
    if strategy != "portfolio":
        strategies.named(strategy)(Search(problem, Budget(evaluations=1), strategy=strategy))
    search = Search(problem, Budget(seconds), seed, strategy=strategy, clock=time.process_time)
    strategies.named(strategy)(search)
    return {
        "task": name,
        "strategy": strategy,
        "cost": search.cost,
        "bound": search.bound,
        "evaluations": search.evaluations,
        "seconds": search.seconds,
        "curve": [
            [round(i.seconds, 3), i.evaluations, i.cost, i.strategy] for i in search.improvements
        ],
    }


def _search(name: str, cost: str, strategy: str, seconds: float, seed: int) -> dict[str, Any]:
    """The same in a fresh process."""
    arguments = ["--only", name, strategy, "--cost", cost]
    arguments += ["--seconds", str(seconds), "--seed", str(seed)]
    with tempfile.TemporaryDirectory() as empty:
        # The others share what is compiled; the portfolio shows what a first use takes.
        environment = {"NUMBA_CACHE_DIR": empty} if strategy == "portfolio" else {}
        child = subprocess.run(
            [sys.executable, "-m", "benchmarks.searches", *arguments],
            check=True,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | environment,
        )
    return json.loads(child.stdout)


def _at(curve: list[list[Any]], seconds: float) -> int | None:
    costs = [cost for at, _, cost, _ in curve if at <= seconds]
    return min(costs) if costs else None


def final_table(results: list[dict[str, Any]]) -> str:
    """The best cost of each strategy, with the seconds after which it was found."""
    names = list(dict.fromkeys(result["strategy"] for result in results))
    proven = proven_bounds()
    rows = []
    for task in dict.fromkeys(result["task"] for result in results):
        published = _published(task)
        of_task = {r["strategy"]: r for r in results if r["task"] == task}
        best = min(r["cost"] for r in of_task.values())
        bound = max(r["bound"] for r in of_task.values())
        # What was proven later holds for earlier runs, too.
        bound = max(bound, proven.get(task, 0))
        row: list[object] = [task, published or "-", bound or "-"]
        row.append(gap(best, bound))
        for name in names:
            if name not in of_task:
                row.append("-")
                continue
            result = of_task[name]
            mark = "**" if result["cost"] == best else ""
            row.append(f"{mark}{result['cost']:,}{mark} ({result['curve'][-1][0]:.2g} s)")
        rows.append(row)
    return report.markdown_table(("task", "AlphaGrad", "bound", "gap", *names), rows)


def _published(task: str) -> int | None:
    """The best cost of Lohoff & Neftci (2024)."""
    published = TASKS[task].published if task in TASKS else None
    return None if published is None else published.best


def proven_bounds() -> dict[str, int]:
    """What every vertex order of a task costs at least, as `python -m benchmarks.proofs` proved."""
    return {each["task"]: each["bound"] for each in json.loads(PROOFS.read_text())}


def gap(cost: int, bound: int) -> str:
    """By how much a cost may exceed the least one, in words."""
    if not bound:
        return "-"
    return f"{100 * (cost / bound - 1):.1f} %" if cost > bound else "optimal over vertex orders"


def curve_table(results: list[dict[str, Any]]) -> str:
    """The best cost after given times, for every strategy."""
    longest = max(result["seconds"] for result in results)
    marks = [mark for mark in _MARKS if mark <= max(longest * 1.02, _MARKS[0])]
    proven = proven_bounds()
    bounds = {result["task"]: proven.get(result["task"], 0) for result in results}
    for result in results:
        bounds[result["task"]] = max(bounds[result["task"]], result["bound"])
    rows = []
    for result in results:
        over, bound = result["seconds"] * 1.02, bounds[result["task"]]
        # What is proved to be optimal, or has nothing more to try, stays.
        has_ended = result["cost"] <= bound or result["seconds"] < 0.98 * longest
        at = [
            None if mark > over and not has_ended else _at(result["curve"], mark) for mark in marks
        ]
        rows.append(
            (
                result["task"],
                result["strategy"],
                *("-" if cost is None else f"{cost:,}" for cost in at),
                f"{bound:,}" if bound else "-",
                f"{result['evaluations']:,}",
                _published(result["task"]) or "-",
            )
        )
    header = (
        "task",
        "strategy",
        *(f"{mark:g} s" for mark in marks),
        "bound",
        "orders",
        "AlphaGrad",
    )
    return report.markdown_table(header, rows)


def draw(results: list[dict[str, Any]], path: pathlib.Path) -> None:
    """Draws the curves of every task into one picture."""
    import matplotlib
    from cycler import cycler

    with matplotlib.rc_context({"axes.prop_cycle": cycler(color=_COLORS)}):
        report.save_picture(_figure(results), path)


def _figure(results: list[dict[str, Any]]) -> Any:
    from matplotlib.figure import Figure

    tasks = list(dict.fromkeys(result["task"] for result in results))
    proven = proven_bounds()
    rows = -(-len(tasks) // _COLUMNS)
    figure = Figure(figsize=(10, 3.4 * rows), layout="constrained")
    axes = figure.subplots(rows, _COLUMNS, squeeze=False).ravel()
    for ax, task in zip(axes, tasks, strict=False):
        of_task = [result for result in results if result["task"] == task]
        levels = {
            "AlphaGrad": _published(task),
            "lower bound": max(proven.get(task, 0), *(r["bound"] for r in of_task)) or None,
        }
        if levels["AlphaGrad"] == levels["lower bound"]:
            levels = {"AlphaGrad, lower bound": levels["lower bound"]}
        curves.draw_curves(
            ax,
            {
                result["strategy"]: [
                    Improvement(cost, (), at, evaluations, strategy)
                    for at, evaluations, cost, strategy in result["curve"]
                ]
                for result in of_task
            },
            until=max(result["seconds"] for result in of_task),
            lines=levels,
        )
        ax.set_title(task)
        costs = [cost for result in of_task for _, _, cost, _ in result["curve"]]
        if max(costs) > _WIDE * min(costs):
            ax.set_yscale("log")
        ax.minorticks_off()
        handles = dict(zip(*reversed(ax.get_legend_handles_labels()), strict=True))
        ax.get_legend().remove()
    for ax in axes[len(tasks) :]:
        ax.set_axis_off()
    # One legend for all, away from the curves: every task has every strategy.
    figure.legend(handles.values(), handles.keys(), loc="outside upper center", ncols=4)
    return figure


def speed() -> str:
    """Full evaluations a second, and minimal Markowitz on large graphs."""
    rows: list[tuple[object, ...]] = []
    for name, task in TASKS.items():
        if task.published is None or task.published.vertices is None:
            continue
        problem = Problem.of(graph_of(name), "multiplications")
        rng = np.random.default_rng(0)
        # What is evaluated is all that the reduction leaves, in orders drawn at random.
        orders = [rng.permutation(problem.vertices) for _ in range(5000)]
        rows_of = np.array([problem.compiled.numbered(order) for order in orders])
        problem.compiled.evaluate_numbered(rows_of[:10])
        rates = []
        for _ in range(7):
            begin = time.perf_counter()
            problem.compiled.evaluate_numbered(rows_of)
            rates.append(len(rows_of) / (time.perf_counter() - begin))
        rows.append((name, len(problem.vertices), f"{np.median(rates):,.0f}"))
    table = report.markdown_table(("task", "vertices searched", "evaluations a second"), rows)
    return f"{table}\n\n{_large()}"


def _large() -> str:
    rows = []
    for count in (10_000, 100_000):
        graphs = {"random, window 50": _random_graph(count, 50)}
        if count == 10_000:
            plan = jax_cce.plan(recurrence(count), (0, 1), order="reverse")(0.5, 0.25)
            graphs["recurrence, traced"] = skeleton(plan.graph, "multiplications")
        for kind, graph in graphs.items():
            begin = time.perf_counter()
            order, cost = greedy(graph)
            seconds = time.perf_counter() - begin
            rows.append((kind, f"{len(order):,}", f"{cost:,}", f"{seconds:.2f} s"))
    return report.markdown_table(
        ("minimal Markowitz on", "vertices", "multiplications", "time"), rows
    )


def _random_graph(count: int, window: int) -> Skeleton:
    """Binary operations on operands drawn from the last so many values."""
    rng = random.Random(0)
    inputs, outputs = 20, 10
    edges = {
        (rng.randrange(max(0, node - window), node), node)
        for node in range(inputs, inputs + count + outputs)
        for _ in range(2)
    }
    last = inputs + count + outputs
    return Skeleton.from_edges(edges, range(inputs), range(last - outputs, last))


def main() -> None:
    """Prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--cost", default="multiplications")
    parser.add_argument("--tasks", nargs="*", default=[*TASKS, *_DRAWN])
    parser.add_argument("--strategies", nargs="*", default=list(strategies.STRATEGIES))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=1, help="searches side by side, a core each")
    parser.add_argument("--json", type=pathlib.Path, help="where to put the curves")
    parser.add_argument(
        "--load", nargs="*", help="--json files to keep and write from, or the kept ones"
    )
    parser.add_argument("--speed", action="store_true", help="evaluations a second instead")
    parser.add_argument("--only", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    if options.only:
        task, strategy = options.only
        found = search_here(task, options.cost, strategy, options.seconds, options.seed)
        print(json.dumps(found))
        return
    if options.speed:
        print(f"One core. {report.provenance()}\n\n{speed()}")
        return
    if options.load is not None:
        write(options.load)
        return
    with concurrent.futures.ThreadPoolExecutor(options.jobs) as pool:
        futures = [
            pool.submit(_search, task, options.cost, strategy, options.seconds, options.seed)
            for task in options.tasks
            for strategy in options.strategies
        ]
        results = [future.result() for future in futures]
    heading = (
        f"`python -m benchmarks.searches {' '.join(sys.argv[1:])}`: {options.seconds:g} s of "
        f"processor time for each search, seed {options.seed}. {report.provenance()}"
    )
    print(f"{heading}\n\n{final_table(results)}\n\n{curve_table(results)}")
    if options.json:
        options.json.write_text(json.dumps({"heading": heading, "results": results}) + "\n")


def results_of(runs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The searches of all runs by graph and strategy, the longest of each."""
    longest: dict[tuple[str, str], dict[str, Any]] = {}
    for result in (result for run in runs for result in run["results"]):
        known = longest.setdefault((result["task"], result["strategy"]), result)
        if result["seconds"] > known["seconds"]:
            longest[result["task"], result["strategy"]] = result
    tasks = list(dict.fromkeys(task for task, _ in longest))
    return sorted(longest.values(), key=lambda result: tasks.index(result["task"]))


def kept_runs() -> list[dict[str, Any]]:
    """The runs that the page is written from."""
    return json.loads(RUNS.read_text())["runs"]


def write(paths: list[str]) -> None:
    """Keeps the curves of earlier runs, if any are given, and writes the page and its picture."""
    if paths:
        runs = [json.loads(pathlib.Path(path).read_text()) for path in paths]
        RUNS.write_text(json.dumps({"runs": runs}) + "\n")
    runs = kept_runs()
    draw(results_of(runs), PICTURE)
    PAGE.write_text(page(runs))


def page(runs: list[dict[str, Any]]) -> str:
    """The text of docs/explanation/searches.md."""
    results = results_of(runs)
    headings = "\n".join(f"- {run['heading']}" for run in runs)
    return (
        f"# Search strategies compared\n\nMultiplications in the published convention.\n\n"
        f"{headings}\n\n"
        "The best cost that each strategy finds, and the seconds after which it has it; the best "
        "of each row is bold. AlphaGrad is the best that Lohoff & Neftci (2024) publish, on a "
        "graph that is the same for the first four tasks and similar for the others. Drawn graphs "
        "are of families that the learned policy is trained on (other draws), and a random program "
        f"of {_OF_RANDOM} vertices. The portfolio's clock includes compiling the search itself, "
        "and that of AlphaZero its network. Costs with single edges (edges, portfolio) may be less "
        "than the bound, which is of orders of vertices.\n\n"
        f"{final_table(results)}\n\n![Best cost over time](../pictures/searches.svg)\n\n"
        f"## Over time\n\n{curve_table(results)}\n"
    )


if __name__ == "__main__":
    main()
