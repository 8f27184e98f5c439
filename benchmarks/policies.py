"""The learned policy beside minimal Markowitz, annealing, and itself untrained.

    python -m benchmarks.policies --random --json a.json        # held-out programs
    python -m benchmarks.policies --tasks --json b.json         # the reference tasks
    python -m benchmarks.policies --start --graphs 20           # as a start of annealing
    python -m benchmarks.policies --speed                       # steps and moves a second
    python -m benchmarks.policies --curves [metrics.jsonl ...]  # draws the curves of training runs
    python -m benchmarks.policies --load a.json b.json          # keeps these runs, writes the page
    python -m benchmarks.policies --load                        # writes the page from the kept runs

The page is docs/explanation/policies.md; runs, metrics and pictures are kept in docs/data and
docs/pictures.

Every tree search plays one game a graph. Times leave compiling out, except in fine-tuning, whose
budget is that of the whole search. The random programs are drawn from other seeds than those that
the policy has learnt from.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import json
import os
import pathlib
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax_cce_search import strategies
from jax_cce_search.alphazero import playing
from jax_cce_search.alphazero.encoding import Encoding, stacked
from jax_cce_search.alphazero.graphs import random_program
from jax_cce_search.alphazero.network import PolicyValue
from jax_cce_search.alphazero.playing import Greedy, Searched
from jax_cce_search.alphazero.trials import costs_by, grouped
from jax_cce_search.alphazero.vertex_game import VertexGame
from jax_cce_search.game.problem import Problem
from jax_cce_search.searching import Budget, Search
from jax_cce_search.strategies import alphazero

from benchmarks import report
from benchmarks.searches import graph_of
from benchmarks.tasks import TASKS
from jax_cce.orders.greedy import greedy
from jax_cce.orders.skeleton import Skeleton

_DOCS = pathlib.Path(__file__).parents[1] / "docs"
RUNS = _DOCS / "data" / "policies.json"
PAGE = _DOCS / "explanation" / "policies.md"
PICTURE = _DOCS / "pictures" / "training.svg"
CURVES = _DOCS / "data" / "training"
_SIZES = (30, 60, 100)
_GRAPHS = 100
# No stream of the training has this seed.
_HELD_OUT = 990_000
_INTRODUCTION = """\
# The learned policy compared

Multiplications in the published convention. "Markowitz" is minimal Markowitz with the first
vertex at a tie. "Policy alone" plays the most probable move, one evaluation of the network a
move; the searches play one game with so many simulations a move, and annealing has the time that
the search with the trained network takes. "Untrained" is a network of the same shape with its
first weights, whose value is the sum of the Markowitz degrees. AlphaGrad is the best that Lohoff
& Neftci (2024) publish: of a network trained on that one task, but for Greeks, whose 307 is of one
trained on all tasks together (see [AlphaGrad's protocol](alphagrad.md)). Compiling is left out
of all times but that of fine-tuning, which is the time of the whole search until its best order; a
search ends where its order is proven optimal. Where the policy's order is the start of annealing,
the policy's time is part of the given processor time: some 4.5 s for a program of 400 vertices.
"""
_SEARCH = Searched(alphazero.SIMULATIONS, alphazero.CONSIDERED)


def held_out(vertices: int, count: int = _GRAPHS) -> list[Skeleton]:
    """Random programs that nothing has been learnt from."""
    return [
        random_program(vertices, np.random.default_rng([_HELD_OUT, vertices, index]))
        for index in range(count)
    ]


def on_random(vertices: int, count: int) -> dict[str, Any]:
    """What each way costs on the random programs of a size, and what it takes a graph."""
    graphs = held_out(vertices, count)
    encodings = [Encoding(Problem(graph)) for graph in graphs]
    trained = alphazero.policy()
    untrained = PolicyValue(trained.architecture, jax.random.key(0))
    ways: dict[str, tuple[PolicyValue, playing.Way]] = {
        "policy alone": (trained, Greedy()),
        "policy, 50 simulations": (trained, _SEARCH),
        "untrained, 50 simulations": (untrained, _SEARCH),
    }
    costs = {"Markowitz": [greedy(graph.copy())[1] for graph in graphs]}
    seconds = {}
    for name, (network, way) in ways.items():
        _compile(network, encodings, way)
        begin = time.perf_counter()
        costs[name] = costs_by(network, encodings, way)
        seconds[name] = (time.perf_counter() - begin) / count
    share = seconds["policy, 50 simulations"]
    compiled = Search(encodings[0].problem, Budget(evaluations=1000), strategy="annealing")
    strategies.named("annealing")(compiled)
    costs["annealing"] = []
    for encoding in encodings:
        search = Search(encoding.problem, Budget(share), strategy="annealing")
        strategies.named("annealing")(search)
        costs["annealing"].append(search.cost)
    return {"vertices": vertices, "costs": costs, "seconds": seconds | {"annealing": share}}


def _compile(network: PolicyValue, encodings: list[Encoding], way: playing.Way) -> None:
    """Plays a move in batches of the shapes that are going to be timed."""
    for padding, members in grouped(encodings).items():
        games = [encodings[at].game(padding) for at in members]
        # Broken off before the second move.
        playing.play(network, games, way, jax.random.key(0), iter((False, True)).__next__)


def random_table(results: list[dict[str, Any]]) -> str:
    """Costs in proportion to minimal Markowitz, and how often they are below it."""
    rows = []
    for result in results:
        markowitz = np.array(result["costs"]["Markowitz"])
        annealed = np.array(result["costs"]["annealing"])
        for name, found in result["costs"].items():
            if name == "Markowitz":
                continue
            ratio = np.array(found) / markowitz
            rows.append(
                (
                    result["vertices"],
                    name,
                    f"{ratio.mean():.3f}",
                    f"{ratio.min():.2f} - {ratio.max():.2f}",
                    f"{100 * np.mean(ratio < 1):.0f} %",
                    f"{100 * np.mean(ratio > 1):.0f} %",
                    "-" if name == "annealing" else f"{100 * np.mean(found < annealed):.0f} %",
                    f"{result['seconds'][name]:.2g} s",
                )
            )
    header = (
        "vertices",
        "way",
        "cost to Markowitz, mean",
        "range",
        "better",
        "worse",
        "better than annealing",
        "time a graph",
    )
    return report.markdown_table(header, rows)


def on_task(name: str, cost: str, seconds: float, seed: int) -> dict[str, Any]:
    """What each way costs on a reference task."""
    problem = Problem.of(graph_of(name), cost)
    encoding = Encoding(problem)
    trained = alphazero.policy()
    untrained = PolicyValue(trained.architecture, jax.random.key(0))
    graph = problem.graph
    found: dict[str, Any] = {"Markowitz": graph.evaluate(greedy(graph.copy())[0])}
    for way_name, network, way in (
        ("policy alone", trained, Greedy()),
        ("policy, 50 simulations", trained, _SEARCH),
        ("untrained, 50 simulations", untrained, _SEARCH),
    ):
        _compile(network, [encoding], way)
        begin = time.perf_counter()
        (found[way_name],) = costs_by(network, [encoding], way)
        if way is _SEARCH and network is trained:
            share = time.perf_counter() - begin
    annealing = Search(problem, Budget(evaluations=1000), strategy="annealing")
    strategies.named("annealing")(annealing)
    annealing = Search(problem, Budget(share), seed, strategy="annealing")
    strategies.named("annealing")(annealing)
    tuned = Search(Problem.of(graph_of(name), cost), Budget(seconds), seed, strategy="alphazero")
    strategies.named("alphazero")(tuned)
    return {
        "task": name,
        "cost": cost,
        "found": found | {"annealing, as long as 50 simulations": annealing.cost},
        "share": share,
        "fine-tuned": tuned.cost,
        "bound": tuned.bound,
        "games": tuned.evaluations,
        "seconds": tuned.seconds,
        "curve": [[round(i.seconds, 1), i.evaluations, i.cost] for i in tuned.improvements],
    }


def task_table(results: list[dict[str, Any]]) -> str:
    """The reference tasks, each way in a column."""
    rows = []
    for result in results:
        published = TASKS[result["task"]].published
        tuned = f"{result['fine-tuned']:,} ({result['curve'][-1][0]:.0f} s)"
        row = [result["task"], *(f"{cost:,}" for cost in result["found"].values()), tuned]
        rows.append([*row, _annealed(result["task"]), published.best if published else "-"])
    header = ("task", *results[0]["found"], "fine-tuned (after)", "annealing, 60 s", "AlphaGrad")
    return report.markdown_table(header, rows)


def _annealed(task: str) -> str:
    """What annealing finds, as measured by `benchmarks.searches`."""
    runs = json.loads((_DOCS / "data" / "searches.json").read_text())["runs"]
    costs = [
        result["cost"]
        for run in runs
        for result in run["results"]
        if (result["task"], result["strategy"]) == (task, "annealing")
    ]
    return f"{min(costs):,}" if costs else "-"


def as_start(vertices: int, count: int, seconds: float) -> dict[str, Any]:
    """Annealing for so many seconds of processor time, by itself and from the policy's order.

    What the policy takes is part of the time.
    """
    problems = [Problem(graph) for graph in held_out(vertices, count)]
    network = alphazero.policy()
    alone, started = [], []
    for problem in problems:
        _compile(network, [Encoding(problem)], Greedy())
        for _ in range(2):
            strategies.named("annealing")(Search(problem, Budget(evaluations=10)))
        search = Search(problem, Budget(seconds), strategy="annealing", clock=time.process_time)
        strategies.named("annealing")(search)
        alone.append(search.cost)
        search = Search(problem, Budget(seconds), strategy="annealing", clock=time.process_time)
        encoding = Encoding(problem)
        played = playing.play(
            network, [encoding.game(encoding.padding)], Greedy(), jax.random.key(0)
        )
        assert played is not None
        search.offer(encoding.order(played.vertex[:, 0]))
        strategies.named("annealing")(search)
        started.append(search.cost)
    return {"vertices": vertices, "seconds": seconds, "alone": alone, "started": started}


def start_table(results: list[dict[str, Any]]) -> str:
    """What a start from the policy's order does to annealing."""
    rows = []
    for result in results:
        alone, started = np.array(result["alone"]), np.array(result["started"])
        rows.append(
            (
                result["vertices"],
                f"{result['seconds']:g} s",
                f"{np.mean(started / alone):.3f}",
                f"{100 * np.mean(started < alone):.0f} %",
                f"{100 * np.mean(started > alone):.0f} %",
            )
        )
    header = ("vertices", "time", "from the policy to alone, mean", "better", "worse")
    return report.markdown_table(header, rows)


def speed() -> str:
    """Steps of the game, evaluations of the network, and moves by the search, a second."""
    rows = []
    network = alphazero.policy()
    games: dict[str, tuple[Any, int]] = {
        "random program, 60 vertices": (held_out(60, 1)[0], 256),
        "random program, 100 vertices": (held_out(100, 1)[0], 256),
    }
    for name in ("RoeFlux_1d", "Encoder"):
        if name in TASKS:
            games[name] = Problem.of(graph_of(name), "multiplications").graph, 64
    for name, (graph, batch) in games.items():
        encoding = Encoding(Problem(graph))
        game = jax.tree.map(jnp.asarray, encoding.game())
        count = len(encoding.problem.vertices)
        random = np.random.default_rng(0)
        vertices = encoding.moves(encoding.problem.vertices)
        orders = np.stack([random.permutation(vertices) for _ in range(batch)])
        steps = _rate(_steps, game, jnp.asarray(orders)) * batch * count
        positions = jax.tree.map(functools.partial(_repeated, batch), game.start)
        judged = _rate(_judged, network, game, positions) * batch
        moved = stacked([encoding.game()] * 16)
        keys = jax.random.split(jax.random.key(0), 16)
        moves = _rate(_searched, network, moved, moved.start, keys) * 16
        padding = " x ".join(map(str, encoding.padding))
        rows.append((name, padding, f"{steps:,.0f}", f"{judged:,.0f}", f"{moves:,.1f}"))
    header = (
        "graph",
        "padded nodes x kinds",
        "game steps a second",
        "network evaluations a second",
        "moves of 50 simulations a second",
    )
    return report.markdown_table(header, rows)


def _repeated(count: int, leaf: jax.Array) -> jax.Array:
    return jnp.stack([leaf] * count)


@jax.jit
def _steps(game: VertexGame, orders: jax.Array) -> jax.Array:
    def one(order: jax.Array) -> jax.Array:
        return jax.lax.scan(lambda at, move: game.step(at, move)[:2], game.start, order)[1].sum()

    return jax.vmap(one)(orders)


@jax.jit
def _judged(network: PolicyValue, game: VertexGame, positions: Any) -> Any:
    return jax.vmap(lambda at: network(game, at))(positions)


@jax.jit
def _searched(network: PolicyValue, games: VertexGame, positions: Any, keys: jax.Array) -> Any:
    return jax.vmap(lambda *one: _SEARCH(network, *one))(games, positions, keys).vertex


def _rate(call: Any, *args: Any) -> float:
    """Calls a second, the median of some."""
    jax.block_until_ready(call(*args))
    taken = []
    for _ in range(7):
        begin = time.perf_counter()
        jax.block_until_ready(call(*args))
        taken.append(time.perf_counter() - begin)
    return 1 / float(np.median(taken))


def draw(paths: Sequence[str | pathlib.Path], path: pathlib.Path) -> None:
    """Draws the validation costs of training runs over time."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    for name in paths:
        lines = [json.loads(line) for line in pathlib.Path(name).read_text().splitlines()]
        label = pathlib.Path(name).stem
        tried = [line for line in lines if "validation_to_markowitz" in line]
        minutes = [line["seconds"] / 60 for line in tried]
        left.plot(minutes, [t["validation_to_markowitz"] for t in tried], ".-", label=label)
        minutes = [line["seconds"] / 60 for line in lines]
        right.plot(minutes, [line["to_markowitz"] for line in lines], lw=1, label=label)
    left.set(xlabel="minutes", ylabel="cost to Markowitz", title="policy alone, validation graphs")
    right.set(xlabel="minutes", title="games learnt from")
    for ax in (left, right):
        ax.axhline(1, color="grey", lw=0.5)
        ax.legend()
    report.save_picture(figure, path)


def main() -> None:
    """Prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--random", action="store_true", help="held-out random programs")
    parser.add_argument("--tasks", nargs="*", help="reference tasks; all where none is named")
    parser.add_argument("--start", action="store_true", help="the policy's order as a start")
    parser.add_argument("--speed", action="store_true")
    parser.add_argument("--curves", nargs="*", help="metrics of runs to draw, or of the kept ones")
    parser.add_argument(
        "--load", nargs="*", help="--json files to keep and write from, or the kept ones"
    )
    parser.add_argument("--json", type=pathlib.Path, help="where to put the results")
    parser.add_argument("--graphs", type=int, default=_GRAPHS, help="random programs of each size")
    parser.add_argument("--seconds", type=float, default=600.0, help="of fine-tuning")
    parser.add_argument("--cost", default="multiplications")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", help=argparse.SUPPRESS)
    options = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    jax.config.update("jax_num_cpu_devices", os.cpu_count())
    if options.only:
        found = on_task(options.only, options.cost, options.seconds, options.seed)
        print(json.dumps(found))
        return
    heading = f"`python -m benchmarks.policies {' '.join(sys.argv[1:])}`. {report.provenance()}"
    if options.speed:
        print(f"{heading}\n\n{speed()}")
    if options.curves is not None:
        draw(options.curves or sorted(CURVES.glob("*.jsonl")), PICTURE)
    if options.load is not None:
        write(options.load)
    if options.random:
        random = [on_random(size, options.graphs) for size in _SIZES]
        print(f"{heading}\n\n{random_table(random)}")
        _keep(options.json, {"heading": heading, "random": random})
    if options.start:
        settings = itertools.product((100, 200, 400), (1.0, 5.0))
        starts = [as_start(size, options.graphs, seconds) for size, seconds in settings]
        print(f"{heading}\n\n{start_table(starts)}")
        _keep(options.json, {"heading": heading, "start": starts})
    if options.tasks is not None:
        tasks = []
        for name in options.tasks or list(TASKS):
            arguments = ["--only", name, "--cost", options.cost, "--seed", str(options.seed)]
            arguments += ["--seconds", str(options.seconds)]
            # Each in a fresh process, so that the budget of fine-tuning includes compiling.
            child = subprocess.run(
                [sys.executable, "-m", "benchmarks.policies", *arguments],
                check=True,
                stdout=subprocess.PIPE,
                text=True,
            )
            tasks.append(json.loads(child.stdout))
            print(tasks[-1], file=sys.stderr)
        print(f"{heading}\n\n{task_table(tasks)}")
        _keep(options.json, {"heading": heading, "tasks": tasks})


def _keep(path: pathlib.Path | None, document: dict[str, Any]) -> None:
    if path is not None:
        path.write_text(json.dumps(document) + "\n")


def kept_runs() -> list[dict[str, Any]]:
    """The runs that the page is written from."""
    return json.loads(RUNS.read_text())["runs"]


def write(paths: list[str]) -> None:
    """Keeps the results of earlier runs, if any are given, and writes the page."""
    if paths:
        runs = [json.loads(pathlib.Path(path).read_text()) for path in paths]
        RUNS.write_text(json.dumps({"runs": runs}) + "\n")
    PAGE.write_text(page(kept_runs()))


def page(runs: list[dict[str, Any]]) -> str:
    """The text of docs/explanation/policies.md."""
    parts = [_INTRODUCTION]
    for run in runs:
        for kind, table in (
            ("random", random_table),
            ("tasks", task_table),
            ("start", start_table),
        ):
            if kind in run:
                parts.append(f"{run['heading']}\n\n{table(run[kind])}\n")
    return "\n".join(parts)


if __name__ == "__main__":
    main()
