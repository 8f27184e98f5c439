"""Proposals of annealing, by hand and learned. `python -m benchmarks.proposals`

What annealing reaches in the same processor time with moves to any position, with moves to a
neighbour in the graph, and with weights of these that are learned; and with a part of the time
spent on windows of the best order, in sequence and as a learned score ranks them.

    python -m benchmarks.proposals --train --minutes 15   # learns, keeps docs/data/proposals.json
    python -m benchmarks.proposals --seconds 1 5          # held-out programs of 400 vertices
    python -m benchmarks.proposals --ways half learned    # by the first of these
    python -m benchmarks.proposals --larger 1000 4000 --programs 2 --seconds 5
    python -m benchmarks.proposals --corpus --seconds 1   # larger graphs of the corpus
    python -m benchmarks.proposals --windows --seconds 5  # windows instead of moves

Weights are learned by an evolution strategy with antithetic pairs (Salimans et al., "Evolution
strategies as a scalable alternative to reinforcement learning", 2017), in the place of the policy
gradient of neural simulated annealing (Correia, Worrall & Bondesan 2022). Nothing that is learned
from is evaluated on.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import itertools
import json
import pathlib
import time
from collections.abc import Iterator, Mapping, Sequence

import jax
import numpy as np
from jax_cce_search.alphazero.graphs import random_program
from jax_cce_search.game import kernels
from jax_cce_search.game.chains import chain
from jax_cce_search.game.moves import MIXED, NEIGHBOURS, PLAIN, Proposals
from jax_cce_search.game.problem import Problem
from jax_cce_search.searching import Budget, Search
from jax_cce_search.strategies import annealing, windows
from jax_cce_search.strategies.greedy import markowitz

from benchmarks import report
from benchmarks.corpus import files
from benchmarks.policies import held_out
from jax_cce.orders.skeleton import Skeleton

LEARNED = pathlib.Path(__file__).parents[1] / "docs" / "data" / "proposals.json"
# No other stream of random programs has this seed.
_TRAINING = 770_000
# Vertices and seconds of the runs that are learned from, and graphs of each.
_LESSONS = ((300, 0.3), (400, 0.6), (600, 0.5), (1000, 1.0), (1500, 0.7), (2500, 1.5))
_GRAPHS = 6
# The strategy: parameters, pairs in a step, spread of the parameters, rate, and the largest
# difference of logarithmic costs that counts, so that one graph does not outweigh all others.
_PARAMETERS, _PAIRS, _SPREAD, _RATE, _LARGEST = 9, 6, 0.3, 0.2, 0.05


# Ways to propose moves.
NAMES = ("anywhere", "neighbours", "half", "learned")


def proposals_of(parameters: np.ndarray) -> Proposals:
    """Proposals from what is learned; zeros are those by hand."""
    second, third, fourth, forwards, backwards, cooling, vertices, moves, odds = map(
        float, parameters
    )
    return Proposals(
        anywhere=round(float(1 / (1 + np.exp(-2 * odds))), 3),
        kinds=(0.0, second, third, fourth),
        forwards=round(MIXED.forwards + forwards, 3),
        backwards=round(MIXED.backwards + backwards, 3),
        cooling=cooling,
        vertices=vertices,
        moves=moves,
    )


def learned() -> Proposals:
    """Those that `--train` has kept."""
    return Proposals(**json.loads(LEARNED.read_text())["proposals"])


@dataclasses.dataclass
class Lesson:
    """A graph, an order to start from, and a time."""

    problem: Problem
    start: Sequence[int]
    seconds: float

    def cost(self, proposals: Proposals, seed: int) -> int:
        """What one run of annealing reaches."""
        search = Search(self.problem, Budget(self.seconds), seed, clock=time.process_time)
        search.offer(self.start)
        search.begin()
        runs = annealing.Runs(search, functools.partial(chain, self.problem, proposals=proposals))
        runs.run(self.start, 1 << 26, 0.003, 0.0001)
        return search.cost


def lessons() -> Iterator[Lesson]:
    """The graphs to learn from, in turns, for ever; each is made once."""
    known: dict[tuple[int, int], Lesson] = {}
    for turn in range(1 << 62):
        vertices, seconds = _LESSONS[turn % len(_LESSONS)]
        index = turn // len(_LESSONS) % _GRAPHS
        if (vertices, index) not in known:
            random = np.random.default_rng([_TRAINING, vertices, index])
            problem = Problem(random_program(vertices, random))
            search = Search(problem, Budget(evaluations=1))
            markowitz(search)
            assert search.best is not None
            problem.compiled.evaluate([search.best])
            known[vertices, index] = Lesson(problem, search.best, seconds)
        yield known[vertices, index]


def train(minutes: float, seed: int) -> None:
    """Learns for so much processor time, and keeps the mean over the second half."""
    random = np.random.default_rng(seed)
    begin = time.process_time()
    parameters, velocity = np.zeros(_PARAMETERS), np.zeros(_PARAMETERS)
    path: list[np.ndarray] = []
    curve: list[list[float]] = []
    source = lessons()
    next(source).cost(MIXED, 0)  # compiles
    while time.process_time() < begin + 60 * minutes:
        gradient, gains = np.zeros_like(parameters), []
        for _ in range(_PAIRS):
            lesson, step = next(source), random.standard_normal(len(parameters))
            one, other = (
                lesson.cost(proposals_of(parameters + sign * _SPREAD * step), len(curve))
                for sign in (1, -1)
            )
            difference = np.clip(np.log(one / other), -_LARGEST, _LARGEST)
            gradient += difference * step / (2 * _SPREAD * _PAIRS)
            gains.append(difference)
        # Costs differ by a hundredth where parameters differ by their spread, say.
        velocity = 0.7 * velocity - _RATE * gradient / 0.03 * _SPREAD
        parameters = parameters + velocity
        path.append(parameters)
        curve.append([round(time.process_time() - begin, 1), *parameters.round(4).tolist()])
        print(curve[-1], f"{np.abs(gains).mean():.4f}", flush=True)
    if not path:
        return
    mean = np.mean(path[len(path) // 2 :], 0)
    document = {
        "command": f"python -m benchmarks.proposals --train --minutes {minutes:g} --seed {seed}",
        "provenance": report.provenance(),
        "proposals": dataclasses.asdict(proposals_of(mean.round(3))),
        "curve": curve,
    }
    LEARNED.write_text(json.dumps(document) + "\n")
    print(document["proposals"])


def plain(problem: Problem, proposals: Proposals, seconds: float, seed: int) -> int:
    """What a whole search by annealing reaches in so much processor time."""
    search = Search(problem, Budget(seconds), seed, strategy="annealing", clock=time.process_time)
    annealing.search(search, proposals)
    return search.cost


def _compile(problem: Problem) -> None:
    # The second search takes compiled loops where the first one finds none.
    for _ in range(2):
        annealing.search(Search(problem, Budget(evaluations=1000)))


def ways(names: Sequence[str]) -> dict[str, Proposals]:
    """Proposals by name; others are measured by the first ones."""
    known = {"anywhere": PLAIN, "neighbours": NEIGHBOURS, "half": MIXED}
    return {name: known[name] if name in known else learned() for name in names}


def compared(
    graphs: Mapping[str, Skeleton],
    seconds: Sequence[float],
    seeds: int,
    names: Sequence[str] = NAMES,
) -> str:
    """The table of all graphs, in proportion to the first way with the same seed."""
    rows: list[list[object]] = []
    for limit in seconds:
        logarithms: dict[str, list[np.ndarray]] = {name: [] for name in names}
        for label, graph in graphs.items():
            problem = Problem(graph)
            _compile(problem)
            costs = {
                name: np.array([plain(problem, way, limit, seed) for seed in range(seeds)])
                for name, way in ways(names).items()
            }
            first, *others = costs.values()
            about = [label, len(problem.vertices), f"{limit:g} s", f"{first.mean():,.0f}"]
            rows.append([*about, *(f"{_mean(other / first):.3f}" for other in others)])
            for name, of_way in costs.items():
                logarithms[name].append(np.log(of_way / first).mean())
            print(rows[-1], flush=True)
        shares = [np.array(logarithms[name]) for name in names[1:]]
        means = [f"{np.exp(s.mean()):.3f} ± {s.std() / len(s) ** 0.5:.3f}" for s in shares]
        rows.append(["geometric mean, standard error", "", f"{limit:g} s", "", *means])
    header = ("graph", "vertices searched", "time", f"{names[0]}, mean cost", *names[1:])
    return report.markdown_table(header, rows)


def _mean(ratios: np.ndarray) -> float:
    return float(np.exp(np.log(ratios).mean()))


def larger(sizes: Sequence[int], count: int) -> dict[str, Skeleton]:
    """Random programs of some sizes that nothing is learned from."""
    return {
        f"random program of {size:,}, {index + 1}": graph
        for size in sizes
        for index, graph in enumerate(held_out(size, count))
    }


def of_corpus(least: int) -> dict[str, Skeleton]:
    """The graphs of scalars in the corpus that have so many vertices at least."""
    entries = [files.read(path) for path in files.paths()]
    return {
        entry.name: Skeleton.from_edges(entry.edges, entry.inputs, entry.outputs)
        for entry in entries
        if entry.is_scalar and len(entry.vertices) >= least and entry.best.cost > entry.bound
    }


_SIZE = 12  # of windows that are scored
_FEATURES = ("cost", "cost over the bound", "edges", "place")


def described(problem: Problem, order: Sequence[int]) -> np.ndarray:
    """What is known of each window of an order before it is searched: [windows, features].

    Shares of what its vertices cost, and cost over their bounds, the edges between them in the
    graph before the window, and where it is.
    """
    compiled = problem.compiled
    current = compiled.numbered(order)
    least = dict(zip(compiled.numbered(problem.vertices).tolist(), problem.least, strict=True))
    compiled.reset()
    paid, adjacent = np.zeros(len(current)), np.zeros((len(current), _SIZE))
    for at, vertex in enumerate(current):
        rows = compiled.state.before[vertex] | compiled.state.after[vertex]
        for k, other in enumerate(current[at + 1 : at + _SIZE]):
            adjacent[at, k] = int(rows[other >> 6]) >> int(other & 63) & 1
        paid[at] = compiled.run(kernels.replay, current[at : at + 1])
    compiled.reset()
    over = paid - [least[vertex] for vertex in current.tolist()]
    features = []
    for start in starts_of(len(current)):
        inside = range(start, min(start + _SIZE, len(current)))
        edges = sum(adjacent[at, : inside.stop - at - 1].sum() for at in inside)
        shares = paid[inside].sum() / paid.sum(), over[inside].sum() / max(over.sum(), 1)
        windows = len(current) / _SIZE
        features.append((*(windows * x for x in shares), edges / _SIZE, start / len(current)))
    return np.array(features)


def starts_of(count: int) -> range:
    """Where windows begin that overlap by half."""
    return range(0, max(1, count - _SIZE + 1), _SIZE // 2)


def learn_windows(seconds: float) -> np.ndarray:
    """Weights of features, and a constant, that predict by how much a window makes orders cheaper.

    Least squares over all windows of the orders that annealing finds on the graphs learned from.
    """
    features, gains = [], []
    for lesson in itertools.islice(lessons(), 2 * len(_LESSONS)):
        problem = lesson.problem
        search = Search(problem, Budget(seconds), clock=time.process_time)
        search.offer(lesson.start)
        annealing.search(search)
        search.budget = Budget()
        order, cost = search.best, search.cost
        assert order is not None
        for start, row in zip(starts_of(len(order)), described(problem, order), strict=True):
            trial = Search(problem)
            trial.offer(order, cost)
            windows.improve(trial, order, _SIZE, [start])
            features.append([*row, 1.0])
            gains.append((cost - trial.cost) / cost * len(order))
    return np.linalg.lstsq(np.array(features), np.array(gains), rcond=None)[0]


def with_windows(
    problem: Problem, seconds: float, seed: int, weights: np.ndarray | None, share: float = 0.7
) -> int:
    """Annealing for a share of the time, then windows: in sequence, or by a score."""
    search = Search(problem, Budget(seconds), seed, strategy="annealing", clock=time.process_time)
    with search.part("annealing", seconds=share * seconds):
        annealing.search(search)
    while not search.over():
        order = search.best
        assert order is not None
        starts = np.array(starts_of(len(order)))
        if weights is not None:
            score = described(problem, order) @ weights[:-1]
            # What is found first may be what is best, and windows overlap.
            starts = starts[np.argsort(-score, kind="stable")]
        if not windows.improve(search, order, _SIZE, starts.tolist()):
            break
    if not search.over():
        annealing.search(search)
    return search.cost


def windows_table(graphs: Mapping[str, Skeleton], seconds: Sequence[float], seeds: int) -> str:
    """Annealing alone, and with windows."""
    weights = learn_windows(0.3)
    rows = []
    for limit in seconds:
        shares = []
        for graph in graphs.values():
            problem = Problem(graph)
            _compile(problem)
            of_graph = []
            for seed in range(seeds):
                alone = plain(problem, MIXED, limit, seed)
                found = [with_windows(problem, limit, seed, way) for way in (None, weights)]
                of_graph.append([np.log(cost / alone) for cost in found])
            shares.append(np.mean(of_graph, 0))
            print(shares[-1], flush=True)
        mean, error = np.mean(shares, 0), np.std(shares, 0) / len(shares) ** 0.5
        ratios = [f"{np.exp(m):.4f} ± {e:.4f}" for m, e in zip(mean, error, strict=True)]
        rows.append([f"{limit:g} s", *ratios])
    table = report.markdown_table(("time", "windows in sequence", "windows by their score"), rows)
    said = ", ".join(f"{n} {w:.3g}" for n, w in zip((*_FEATURES, "1"), weights, strict=True))
    return f"{table}\n\nLearned weights: {said}."


def main() -> None:
    """Learns, or prints a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--train", action="store_true")
    parser.add_argument("--minutes", type=float, default=6.0, help="processor time to learn for")
    parser.add_argument("--seed", type=int, default=0, help="of learning")
    parser.add_argument("--seconds", type=float, nargs="*", default=[1.0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--programs", type=int, default=10, help="graphs of each size")
    parser.add_argument("--larger", type=int, nargs="*", default=[400], help="vertices")
    parser.add_argument("--ways", nargs="+", default=NAMES, choices=NAMES)
    parser.add_argument("--corpus", action="store_true", help="graphs of the corpus instead")
    parser.add_argument("--windows", action="store_true", help="windows instead of moves")
    options = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    if options.train:
        train(options.minutes, options.seed)
        return
    graphs = of_corpus(300) if options.corpus else larger(options.larger, options.programs)
    if options.windows:
        table = windows_table(graphs, options.seconds, options.seeds)
    else:
        table = compared(graphs, options.seconds, options.seeds, options.ways)
    print(f"{report.provenance()}\n\n{table}")


if __name__ == "__main__":
    main()
