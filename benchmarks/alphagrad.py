"""AlphaGrad's own protocol: ten tasks, learnt jointly and one by one, beside all other searches.

    python -m benchmarks.alphagrad --way classical annealing zero-shot --json a.json
    python -m benchmarks.alphagrad --way single ppo --seconds 12 --seeds 6 --json b.json
    python -m benchmarks.alphagrad --way single-250 single-log ppo-log transformer --json d.json
    python -m benchmarks.alphagrad --way joint --seconds 900 --seeds 3 --json c.json
    python -m benchmarks.alphagrad --load a.json b.json c.json  # keeps these runs, writes the page
    python -m benchmarks.alphagrad --load                       # writes it from the kept runs

The page is docs/explanation/alphagrad.md, and the runs are kept in docs/data/alphagrad.json. All
networks of "single", "joint" and "ppo" begin with random weights. The budget of those that learn is
processor time for each seed, of a task, or jointly of all ten: the batch of games under way when it
is used up is played to the end. What is compiled serves all seeds, and counts for the first.
"""

from __future__ import annotations

import argparse
import itertools
import json
import pathlib
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax_cce_search import strategies
from jax_cce_search.alphazero.configuration import Configuration, Learning, SelfPlay
from jax_cce_search.alphazero.encoding import Encoding
from jax_cce_search.alphazero.learning import Learner
from jax_cce_search.alphazero.network import Architecture, PolicyValue
from jax_cce_search.alphazero.playing import Greedy
from jax_cce_search.alphazero.ppo import ProximalPolicy
from jax_cce_search.alphazero.self_play import AlphaZero
from jax_cce_search.alphazero.trials import costs_by, grouped
from jax_cce_search.game.problem import Problem
from jax_cce_search.searching import Budget, Search
from jax_cce_search.strategies import alphazero

import jax_cce
from benchmarks import proofs, report
from benchmarks.searches import graph_of
from benchmarks.tasks import TASKS
from jax_cce.algebra.costs import CostName
from jax_cce.planning.options import OrderName

_DOCS = pathlib.Path(__file__).parents[1] / "docs"
RUNS = _DOCS / "data" / "alphagrad.json"
PAGE = _DOCS / "explanation" / "alphagrad.md"
_MEASURE: CostName = "multiplications"
_CLASSICAL: tuple[OrderName, ...] = ("forward", "reverse", "markowitz")
# Processor time for a lower bound.
_PROOF_SECONDS = 10.0
# Positions in all trees take so many bytes at most.
_MOST_BYTES = 1 << 29


class Logged(NamedTuple):
    """What the runs of Lohoff & Neftci found, by seed, as the logs in their repository say.

    Attributes:
        single: AlphaZero on the task alone.
        joint: AlphaZero on all tasks together.
        ppo: proximal policy optimisation on the task alone, without runs of other rewards.
    """

    single: tuple[int, ...]
    joint: tuple[int, ...]
    ppo: tuple[int, ...]


LOGGED = {
    "RoeFlux_1d": Logged((320, 323, 328, 330, 332, 342), (332, 337, 340), (326, 332, 333)),
    "RobotArm_6DOF": Logged((231, 236, 239, 242, 243, 251), (248, 249, 252), (247,) * 4),
    "HumanHeartDipole": Logged(
        (148, 148, 151, 151, 151, 156), (158, 162, 166), (161, 163, 165, 165, 167, 167)
    ),
    "PropaneCombustion": Logged((88,) * 5 + (91,), (90, 90, 93), (92, 92, 93, 93, 93, 93)),
    "Greeks": Logged((311, 311, 312, 321, 321), (307, 316, 320), (308, 309, 310, 311, 314)),
    "RoeFlux_3d": Logged(
        (784, 808, 811, 816, 819, 873), (907, 915, 950), (877, 885, 918, 927, 933, 935)
    ),
    "Perceptron": Logged(
        (389, 392, 397, 398, 405, 421), (455, 484, 593), (422, 430, 470, 477, 497, 608)
    ),
    "Encoder": Logged(
        (4656, 4713, 4729, 4751, 4802, 4901),
        (6295, 6296, 7096),
        (5741, 7078, 7348, 7393, 7791, 9302),
    ),
    "f": Logged(
        (7156, 7234, 7260, 7682, 7729, 7946),
        (5884, 5980, 7805),
        (6313, 6497, 7646, 7754, 7754, 7785),
    ),
    "g": Logged((416, 420, 423, 423, 436, 437), (426, 434, 434), (422, 425, 426, 426, 429, 434)),
}


class Variant(NamedTuple):
    """How a network learns.

    Attributes:
        algorithm: "alphazero" or "ppo".
        simulations: moves tried in the tree for each move played.
        logarithmic: whether rewards are logarithms of costs.
        slices: whether the network is a transformer on slices of the adjacency matrix.
    """

    algorithm: str = "alphazero"
    simulations: int = 50
    logarithmic: bool = False
    slices: bool = False


def _settings(variant: Variant, seed: int, nodes: int) -> Configuration:
    algorithm, simulations, logarithmic, slices = variant
    trees = 2 * nodes**2 * (simulations + 1)
    games = 16 if algorithm == "ppo" else max(1, min(16, _MOST_BYTES // trees))
    return Configuration(
        algorithm=algorithm,
        seed=seed,
        iterations=1 << 20,
        architecture=Architecture(slices=nodes if slices else 0),
        self_play=SelfPlay(games=games, simulations=simulations, considered=16),
        learning=Learning(
            rate=1e-3, warmup=20, batch=128, updates=16, replay=8_000, logarithmic=logarithmic
        ),
    )


def learnt(
    names: Sequence[str], variant: Variant, seconds: float, seed: int
) -> dict[str, tuple[int, float]]:
    """Learns on some tasks from random weights.

    Args:
        names: the tasks.
        variant: how it learns.
        seconds: processor time.
        seed: of weights and games.

    Returns:
        For each task the best cost that a game had, and after how many seconds.
    """
    begin = time.process_time()
    encodings = [Encoding(Problem.of(graph_of(name), _MEASURE)) for name in names]
    groups = grouped(encodings)
    settings = _settings(variant, seed, max(nodes for nodes, _ in groups))
    network = PolicyValue(settings.architecture, jax.random.key(seed))
    kind: type[Learner[Any]] = ProximalPolicy if variant.algorithm == "ppo" else AlphaZero
    learner = kind(network, settings, encodings, jax.local_devices())
    random = np.random.default_rng([seed, 1])
    best: dict[str, tuple[int, float]] = {}
    games, seen = settings.self_play.games, {}
    # Each batch is of graphs of one size, all sizes in turns.
    for turn, padding in zip(itertools.count(), itertools.cycle(groups), strict=False):
        members = groups[padding]
        chosen = [members[(turn + k) % len(members)] for k in range(games)]
        key = jax.random.fold_in(jax.random.key(seed), turn)
        played = learner.play(chosen, padding, key)
        passed = time.process_time() - begin
        for graph, (_, cost) in zip(chosen, played, strict=True):
            name = names[graph]
            if name not in best or cost < best[name][0]:
                best[name] = cost, round(passed, 1)
        if passed >= seconds and len(best) == len(names):
            return best
        seen[padding] = len(members)
        # The last one played comes last.
        seen = {k: v for k, v in seen.items() if k != padding} | {padding: len(members)}
        learner.study(seen, random)
    raise AssertionError


def _classical(name: str, _: argparse.Namespace) -> dict[str, Any]:
    task = TASKS[name]
    found = {
        order: jax_cce.plan(task.fun, task.argnums, order=order)(*task.args).cost(_MEASURE)
        for order in _CLASSICAL
    }
    return found | {"bound": proofs.proof(name, _PROOF_SECONDS, 0, min(found.values()))["bound"]}


def _annealing(name: str, options: argparse.Namespace) -> dict[str, Any]:
    search = Search(
        Problem.of(graph_of(name), _MEASURE), Budget(options.seconds), strategy="annealing"
    )
    strategies.named("annealing")(search)
    return {"annealing": search.cost, "after": round(search.improvements[-1].seconds, 1)}


def _zero_shot(name: str, _: argparse.Namespace) -> dict[str, Any]:
    encoding = Encoding(Problem.of(graph_of(name), _MEASURE))
    (cost,) = costs_by(alphazero.policy(), [encoding], Greedy())
    return {"zero-shot": cost}


def _alone(variant: Variant) -> Callable[..., dict[str, Any]]:
    def run(name: str, options: argparse.Namespace) -> dict[str, Any]:
        runs = [
            learnt([name], variant, options.seconds, seed)[name] for seed in range(options.seeds)
        ]
        return {"costs": [cost for cost, _ in runs], "after": [after for _, after in runs]}

    return run


_OF_ONE: dict[str, Callable[[str, argparse.Namespace], dict[str, Any]]] = {
    "classical": _classical,
    "annealing": _annealing,
    "zero-shot": _zero_shot,
    "single": _alone(Variant()),
    "single-250": _alone(Variant(simulations=250)),
    "single-log": _alone(Variant(logarithmic=True)),
    "transformer": _alone(Variant(slices=True)),
    "ppo": _alone(Variant("ppo", 1)),
    "ppo-log": _alone(Variant("ppo", 1, logarithmic=True)),
}
_LEARNT = ("joint", "single", "single-250", "single-log", "transformer", "ppo", "ppo-log")


def _measured(way: str, options: argparse.Namespace) -> Iterator[tuple[str, dict[str, Any]]]:
    """What one way finds on every task, and after each seed of all tasks together."""
    if way != "joint":
        for name in options.tasks:
            yield name, _OF_ONE[way](name, options)
        return
    found: dict[str, dict[str, list[Any]]] = {}
    for seed in range(options.seeds):
        variant = Variant(simulations=options.simulations)
        for name, (cost, after) in learnt(options.tasks, variant, options.seconds, seed).items():
            of_task = found.setdefault(name, {"costs": [], "after": []})
            of_task["costs"].append(cost)
            of_task["after"].append(after)
        yield from found.items()


def page(runs: list[dict[str, Any]]) -> str:
    """The text of docs/explanation/alphagrad.md."""
    found: dict[str, dict[str, Any]] = {}
    for run in runs:
        for way, tasks in run["found"].items():
            found.setdefault(way, {}).update(tasks)
    names = [name for name in LOGGED if name in found["classical"]]
    headings = "\n".join(f"- {run['heading']}" for run in runs)
    return (
        f"{_HEAD}\n{headings}\n\n## At a glance\n\n{_headline(names, found)}\n\n"
        f"## All ways\n\n{_all_ways(names, found)}\n\n"
        f"## Seeds\n\n{_SEEDS}\n\n{_seeds(names, found)}\n"
    )


_HEAD = """\
# AlphaGrad's protocol

The ten tasks of Lohoff & Neftci (2024), counted in multiplications as they count, by every way to
find an order that they or we have. Five of the graphs are theirs, and their counts are met
exactly; those of Greeks and of the tasks of arrays (RoeFlux_3d, Perceptron, Encoder, f) are
similar, and structure is represented in another way, so that our figures have to be compared with
our own classical orders. Networks of "single", "joint" and "PPO" begin with random weights and
see the tasks; "zero-shot" is the policy that comes with the package, which has seen none of them.
Times of learning are the processor's, on one or two CPU cores, a small part of what the authors
spent on GPUs; those of annealing are wall time. "Logarithmic" are rewards that are logarithms of
costs; "transformer" is a network on slices of the adjacency matrix instead of messages along
edges. "Logged" are the best of the runs in the authors' repository. The best 307 of Greeks is of
their joint run (alone 311, PPO 308), and so is 5,884 of f. A dash is a way that has not been run.
Bounds are of orders of vertices, proved by [groups of them](how-it-works.md#lower-bounds). All
costs are of orders of vertices; with single edges Greeks takes 283 and g 403
([Edges and faces](eliminations.md)).
"""

_SEEDS = """\
All seeds of a way, the best first: ours, then those logged. Logged runs of PPO with rewards on a
logarithmic scale, whose costs are not given, are left out."""


def _best_known(name: str, found: dict[str, dict[str, Any]]) -> int:
    costs = []
    for tasks in found.values():
        result = tasks.get(name, {})
        costs += [result[k] for k in (*_CLASSICAL, "annealing", "zero-shot") if k in result]
        costs += result.get("costs", [])
    return min(costs)


def _headline(names: Sequence[str], found: dict[str, dict[str, Any]]) -> str:
    rows = []
    for name in names:
        ours = min(found["classical"][name][order] for order in _CLASSICAL)
        published = TASKS[name].published
        assert published is not None
        theirs = min(published.forward, published.reverse, published.markowitz)
        best = _best_known(name, found)
        rows.append(
            (
                name,
                f"{theirs:,}",
                f"{published.best:,}",
                f"{100 * (1 - published.best / theirs):.1f} %",
                f"{ours:,}",
                f"{best:,}",
                f"{100 * (1 - best / ours):.1f} %",
            )
        )
    header = (
        "task",
        "classical, theirs",
        "AlphaGrad",
        "saving, AlphaGrad",
        "classical, ours",
        "best known",
        "saving, ours",
    )
    return report.markdown_table(header, rows)


def _all_ways(names: Sequence[str], found: dict[str, dict[str, Any]]) -> str:
    rows = []
    for name in names:
        classical, logged = found["classical"][name], LOGGED[name]
        row: list[Any] = [name, *(f"{classical[order]:,}" for order in _CLASSICAL)]
        for way in _LEARNT:
            costs = found.get(way, {}).get(name, {}).get("costs", [])
            theirs = min(getattr(logged, way, ()), default=0)
            ours = f"{min(costs):,}" if costs else "-"
            row.append(f"{ours} / {theirs:,}" if theirs else ours)
        for way in ("zero-shot", "annealing"):
            cost = found.get(way, {}).get(name, {}).get(way)
            row.append("-" if cost is None else f"{cost:,}")
        bound = classical["bound"]
        rows.append([*row, f"{_best_known(name, found):,}", f"{bound:,}" if bound else "-"])
    header = (
        *("task", *_CLASSICAL, "joint / logged", "single / logged", "single, 250 simulations"),
        *("single, logarithmic", "transformer", "PPO / logged", "PPO, logarithmic"),
        *("zero-shot", "annealing", "best known", "bound"),
    )
    return report.markdown_table(header, rows)


def _seeds(names: Sequence[str], found: dict[str, dict[str, Any]]) -> str:
    def listed(costs: Sequence[int]) -> str:
        return " ".join(f"{cost:,}" for cost in sorted(costs)) or "-"

    rows = []
    for name in names:
        for way in _LEARNT:
            costs = found.get(way, {}).get(name, {}).get("costs", [])
            logged = getattr(LOGGED[name], way, ())
            if costs or logged:
                rows.append((name, way, listed(costs), listed(logged)))
    return report.markdown_table(("task", "way", "ours", "logged"), rows)


def _write(paths: Sequence[str]) -> None:
    """Keeps the given runs, and writes the page from all that are kept."""
    if paths:
        runs = [json.loads(pathlib.Path(path).read_text()) for path in paths]
        RUNS.write_text(json.dumps({"runs": runs}) + "\n")
    PAGE.write_text(page(json.loads(RUNS.read_text())["runs"]))


def main() -> None:
    """Runs some of the ways, or writes the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--way", nargs="+", choices=[*_OF_ONE, "joint"], default=["classical"])
    parser.add_argument("--tasks", nargs="+", choices=[*LOGGED], default=[*LOGGED])
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--simulations", type=int, default=50, help="of the joint run")
    parser.add_argument("--json", type=pathlib.Path)
    parser.add_argument("--load", nargs="*")
    options = parser.parse_args()
    if options.load is not None:
        _write(options.load)
        return
    jax.config.update("jax_enable_x64", True)
    what = f"{options.seconds:g} s of processor time for each seed, {options.seeds} seeds"
    if "joint" in options.way:
        what += f", {options.simulations} simulations"
    heading = f"{', '.join(options.way)}: {what}. {report.provenance()}"
    found: dict[str, dict[str, Any]] = {}
    for way in options.way:
        for name, result in _measured(way, options):
            print(way, name, result, flush=True)
            found.setdefault(way, {})[name] = result
            if options.json:
                options.json.write_text(json.dumps({"heading": heading, "found": found}) + "\n")


if __name__ == "__main__":
    main()
