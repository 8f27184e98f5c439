"""Lower bounds of the reference tasks by vertices and by groups, and how soon they are found.

Run it with `python -m benchmarks.proofs`. What is bounded is the number of multiplications of every
vertex order in the published convention. Seconds are of processor time, with everything compiled.
The best known cost is that of docs/data/searches.json.

    python -m benchmarks.proofs --seconds 30
    python -m benchmarks.proofs --tasks RoeFlux_1d --groups     # the groups, as JSON
"""

from __future__ import annotations

import argparse
import json
import pathlib
import time
from typing import Any

import jax
import numpy as np
from jax_cce_search.game.certificates import certified
from jax_cce_search.game.partitions import improved, near
from jax_cce_search.game.problem import Problem

from benchmarks import report
from benchmarks.searches import gap, graph_of, kept_runs
from benchmarks.tasks import TASKS

_TASKS = [name for name, task in TASKS.items() if task.published is not None]


def best_known() -> dict[str, int]:
    """The least multiplications that any kept run found, by task."""
    results = [result for run in kept_runs() for result in run["results"]]
    return {
        name: min(result["cost"] for result in results if result["task"] == name)
        for name in {result["task"] for result in results}
    }


def proof(name: str, seconds: float, seed: int, least: int | None) -> dict[str, Any]:
    """The highest bound of a task that is found in some seconds of processor time.

    Args:
        name: the task.
        seconds: how long to look; less where the bound meets the least known cost.
        seed: seeds the random numbers.
        least: the least known cost.
    """
    graph = graph_of(name)
    problem = Problem.of(graph, "multiplications")
    assert problem.paths is not None
    assert problem.groups is not None
    random = np.random.default_rng(seed)
    begin = time.process_time()
    best, groups, after = problem.bound, list[tuple[int, ...]](), 0.0
    for bound, found in improved(problem.groups, near(problem.paths, problem.vertices), random):
        spent = time.process_time() - begin
        if problem.prefix_cost + bound > best:
            best, groups, after = problem.prefix_cost + bound, found, spent
        if spent > seconds or best == least:
            break
    fresh = Problem.of(graph, "multiplications")
    begin = time.process_time()
    assert certified(fresh, groups) == best
    first = graph.program.first_computed
    return {
        "task": name,
        "vertices": len(problem.vertices),
        "least": least,
        "by vertices": problem.bound,
        "bound": best,
        "seconds": after,
        "check": time.process_time() - begin,
        "groups": [[vertex - first for vertex in group] for group in groups],
    }


def table(results: list[dict[str, Any]]) -> str:
    """The bounds, in Markdown."""
    rows = []
    for result in results:
        least, bound = result["least"], result["bound"]
        rows.append(
            (
                result["task"],
                result["vertices"],
                "-" if least is None else f"{least:,}",
                f"{result['by vertices']:,}",
                f"{bound:,}",
                "-" if least is None else gap(least, bound),
                f"{result['seconds']:.1f} s",
                max(map(len, result["groups"]), default=1),
                f"{1e3 * result['check']:.0f} ms",
            )
        )
    header = (
        *("task", "vertices left", "best known", "bound by vertices", "by groups", "gap"),
        *("found after", "largest group", "checked in"),
    )
    return report.markdown_table(header, rows)


def main() -> None:
    """Prints the table, or the groups."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--tasks", nargs="*", default=_TASKS)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--groups", action="store_true", help="print the groups instead")
    parser.add_argument("--json", type=pathlib.Path, help="where to put the results")
    options = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    known = best_known()
    # Compiles.
    proof("PropaneCombustion", 0.5, 0, None)
    results = [
        proof(name, options.seconds, options.seed, known.get(name)) for name in options.tasks
    ]
    if options.json:
        options.json.write_text(json.dumps(results) + "\n")
    if options.groups:
        print(json.dumps({result["task"]: result["groups"] for result in results}))
        return
    print(
        f"`python -m benchmarks.proofs --seconds {options.seconds:g}`, one core. "
        f"{report.provenance()}\n\n{table(results)}"
    )


if __name__ == "__main__":
    main()
