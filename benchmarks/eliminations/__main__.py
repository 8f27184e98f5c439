"""The fewest multiplications by vertices, by edges and by faces, and what integer programs prove.

Run it with `python -m benchmarks.eliminations`; it takes about a quarter of an hour. Every graph is
one of scalars, whose products all cost one: reference tasks, and programs as native code takes them
apart.

    python -m benchmarks.eliminations --only Greeks --moves 10000000
    python -m benchmarks.eliminations --runs 30     # how often a run of the strategy gets how far
"""

from __future__ import annotations

import argparse
import collections
from collections.abc import Iterator

import jax
import numpy as np
from jax_cce_search.game.problem import Problem
from jax_cce_search.searching import Budget, Search
from jax_cce_search.strategies import annealing, edges, portfolio

import jax_cce
from benchmarks import report
from benchmarks.eliminations import faces, integer_program
from benchmarks.programs import FAMILIES
from benchmarks.searches import graph_of
from benchmarks.tasks import TASKS
from jax_cce.eliminations import Item, moved, vertices_of
from jax_cce.execution.calling import scalars
from jax_cce.native.skeletons import skeleton
from jax_cce.planning.task import task_of

_TASKS = ("RoeFlux_1d", "RobotArm_6DOF", "HumanHeartDipole", "PropaneCombustion", "Greeks", "g")
_PROGRAMS = (
    "planar arm, 3 joints",
    "kinematic bicycle step",
    "planar arm, 7 joints",
    "Brown-Conrady projection of a point",
    "damped pendulum, 10 unrolled steps",
    "reprojection, one observation",
    "pendulum of 2 links from its Lagrangian",
    "double pendulum RK4 step",
    "chain of 5 quaternions",
)
# The largest graph, after its reduction, that is left to the integer program.
_MOST_VERTICES = 16
# How long that may take.
_SECONDS = 60.0
# Orders of vertices are looked at by the hundred thousand, line graphs by the thousand.
_MOVES_FOR_ONE = 250
# First and last temperature of annealing that goes on, as fractions of the cost.
_WARM, _COLD = 0.005, 0.0005
_HEADER = (
    *("graph", "vertices", "left", "bound", "vertex best", "edge best", "edges", "face best"),
    *("integer program", "replay"),
)


def _problems(only: str | None) -> Iterator[tuple[str, Problem]]:
    for name in _TASKS:
        if only in (None, name):
            yield name, Problem.of(graph_of(name), "multiplications")
    programs = {p.name: p for family in FAMILIES for p in family.programs}
    for name in _PROGRAMS:
        if only in (None, name):
            fun, args = programs[name].settings(batch=None).build()
            found = scalars(task_of(fun)(*args))
            assert not isinstance(found, str), found
            yield name, Problem(skeleton(found, "multiplications"))


def _searched(problem: Problem, moves: int, seed: int) -> tuple[Search, Search]:
    """The best order of vertices, and what edges make of it."""
    by_vertices = Search(problem, Budget(evaluations=moves), seed, strategy="portfolio")
    portfolio.by_vertices(by_vertices)
    by_edges = Search(problem, Budget(evaluations=2 * moves), seed, strategy="edges")
    assert by_vertices.best is not None
    by_edges.offer(by_vertices.best, by_vertices.cost)
    edges.beyond(by_edges)
    # What was gained may be a better order of vertices in disguise.
    assert by_edges.best is not None
    again = Search(problem, Budget(evaluations=moves), seed, strategy="annealing")
    start = vertices_of(by_edges.best)
    annealing.anneal(again, start, moves, _WARM, _COLD)
    if again.best is not None and again.cost < by_vertices.cost:
        by_vertices.offer(again.best, again.cost)
    return by_vertices, by_edges


def _by_faces(problem: Problem, start: tuple[Item, ...], moves: int, seed: int) -> str:
    """The products of the best sequence with faces that annealing finds, and what is in it."""
    found, cost = faces.anneal(problem.reduced, start, moves, seed)
    used = sum(isinstance(item, faces.Face) for item in found)
    cost += problem.prefix_cost
    return f"{cost} ({used} faces)" if cost < problem.evaluate(start) else f"{cost}"


def _by_program(problem: Problem, seconds: float) -> str:
    """What the integer program proves of orders of vertices."""
    if len(problem.vertices) > _MOST_VERTICES:
        return "-"
    found = integer_program.solve(problem.reduced, seconds)
    if found.is_optimal and found.cost is not None:
        return f"{problem.prefix_cost + found.cost} (optimal over vertex orders)"
    return f"at least {problem.prefix_cost + found.bound}"


def _replayed(name: str, problem: Problem, search: Search) -> str:
    """Whether the plan counts what the search does, and its Jacobian is that of `jax.jacrev`."""
    assert search.best is not None
    if problem.graph.evaluate(problem.full(search.best)) != search.cost:
        return "another count"
    if name not in TASKS:
        return "count"
    task, graph = TASKS[name], graph_of(name)
    order = tuple(moved(problem.full(search.best), graph.program.first_computed, inwards=False))
    plan = jax_cce.plan(task.fun, task.argnums, order=order)(*task.args)
    if plan.cost("multiplications") != search.cost:
        return "another count"
    ours = jax_cce.jacobian(task.fun, task.argnums, order=order)(*task.args)
    theirs = jax.jacrev(task.fun, task.argnums)(*task.args)
    for our, their in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_allclose(our, their, rtol=1e-9, atol=1e-12)
    return "count, Jacobian"


def _row(name: str, problem: Problem, moves: int, seed: int) -> list[object]:
    by_vertices, by_edges = _searched(problem, moves, seed)
    assert by_edges.best is not None
    singles = len(by_edges.best) - len(vertices_of(by_edges.best))
    return [
        name,
        len(problem.graph.vertices),
        len(problem.vertices),
        problem.bound,
        by_vertices.cost,
        by_edges.cost if by_edges.cost < by_vertices.cost else "none below",
        singles if by_edges.cost < by_vertices.cost else "-",
        _by_faces(problem, by_edges.best, moves // _MOVES_FOR_ONE, seed),
        _by_program(problem, _SECONDS),
        _replayed(name, problem, by_edges),
    ]


def _runs(name: str, runs: int) -> str:
    """What single runs from random orders end at."""
    problem = Problem.of(graph_of(name), "multiplications")
    found: collections.Counter[int] = collections.Counter()
    for seed in range(runs):
        search = Search(problem, Budget(), seed, strategy="edges")
        start = search.random.permutation(problem.vertices).tolist()
        edges.anneal(search, start, edges.MOVES * len(start), edges.HOT, edges.COLD)
        found[search.cost] += 1
    return ", ".join(f"{cost} in {often}" for cost, often in sorted(found.items()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", help="one graph")
    parser.add_argument("--moves", type=int, default=500_000, help="of the search by vertices")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--runs", type=int, default=0, help="only so many runs of the strategy")
    options = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    print(report.provenance())
    if options.runs:
        for name in _TASKS:
            if options.only in (None, name):
                print(f"{name}, {options.runs} runs: {_runs(name, options.runs)}", flush=True)
        return
    rows = []
    for name, problem in _problems(options.only):
        rows.append(_row(name, problem, options.moves, options.seed))
        print(*rows[-1], flush=True)
    print()
    print(report.markdown_table(_HEADER, rows))


if __name__ == "__main__":
    main()
