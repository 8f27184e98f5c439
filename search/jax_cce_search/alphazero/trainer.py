"""A training run: iterations of playing and learning, its checkpoints, metrics and progress.

What an iteration does is decided by the seed, its number, and the state that the one before left,
all of which a checkpoint holds; a run that was interrupted goes on as if it had not been. Several
processes (`jax.distributed`) run the same code: each plays games of its own and keeps them, and
they learn together.
"""

import dataclasses
import json
import pathlib
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from jax_cce import jax_internals
from jax_cce_search.alphazero import checkpoints, graphs, playing
from jax_cce_search.alphazero.checkpoints import CheckpointError
from jax_cce_search.alphazero.configuration import Configuration, from_document
from jax_cce_search.alphazero.learning import Learner, local
from jax_cce_search.alphazero.network import PolicyValue
from jax_cce_search.alphazero.ppo import ProximalPolicy
from jax_cce_search.alphazero.replay import PlayedGame, Replay
from jax_cce_search.alphazero.self_play import AlphaZero
from jax_cce_search.alphazero.trials import costs_by, grouped
from jax_cce_search.progress import line

__all__ = [
    "Metrics",
    "Run",
    "train",
]

Metrics = dict[str, Any]
_LEARNERS: dict[str, type[Learner[Any]]] = {"alphazero": AlphaZero, "ppo": ProximalPolicy}
# Streams of random numbers; those below are the graphs'.
_SHARED, _OWN = 2, 3
# What a checkpoint says of its run.
_HEADER = {"configuration", "iteration", "seconds", "steps", "processes", "played", "replay"}


class Run:
    """A training run.

    Attributes:
        configuration: its settings.
        directory: where its files are: `policy` (the network by itself), `checkpoint-N` of each
            process, and `metrics.jsonl`.
        learner: the network, and what it learns from.
        iteration: how many iterations are done.
    """

    def __init__(self, configuration: Configuration, directory: str | pathlib.Path) -> None:
        self.configuration, self.directory = configuration, pathlib.Path(directory)
        self.iteration = 0
        self._earlier, self._begin = 0.0, time.perf_counter()
        training, self._validation = graphs.drawn(configuration.graphs, configuration.seed)
        network = PolicyValue(configuration.architecture, jax.random.key(configuration.seed))
        self.learner = _LEARNERS[configuration.algorithm](network, configuration, training)
        self._groups = grouped(training, configuration)
        if not self._groups:
            raise ValueError("There is nothing to learn from: no graph fits the padded sizes.")
        # The paddings played so far, the last one last; the same in all processes.
        self._played: list[tuple[int, int]] = []

    @property
    def seconds(self) -> float:
        """How long the run has taken, over all its interruptions."""
        return self._earlier + time.perf_counter() - self._begin

    def iterate(self) -> Metrics:
        """Plays a batch of games and learns from those that are kept."""
        seed, process = self.configuration.seed, jax.process_index()
        shared = np.random.default_rng([seed, _SHARED, self.iteration])
        own = np.random.default_rng([seed, _OWN, self.iteration, process])
        weights = np.array([len(group) for group in self._groups.values()], float)
        padding = list(self._groups)[shared.choice(len(weights), p=weights / weights.sum())]
        # Graphs of about the same number of vertices, so that their games end together.
        group, count = self._groups[padding], self.configuration.self_play.games
        first = int(own.integers(max(len(group) - count, 0) + 1))
        chosen = [group[(first + k) % len(group)] for k in range(count)]
        key = jax.random.fold_in(jax.random.key(seed), self.iteration)
        begin = time.perf_counter()
        played = self.learner.play(chosen, padding, jax.random.fold_in(key, process))
        middle = time.perf_counter()
        self._played = [*(each for each in self._played if each != padding), padding]
        # Each padding is learnt from as often as there are graphs of it.
        shares = {each: len(self._groups[each]) for each in self._played}
        measures = self.learner.study(shares, shared)
        self.iteration += 1
        ratios = [
            cost / max(self.learner.graphs[graph].markowitz, 1)
            for graph, (_, cost) in zip(chosen, played, strict=True)
        ]
        return {
            "iteration": self.iteration,
            "seconds": round(self.seconds, 1),
            "padding": list(padding),
            "to_markowitz": round(float(np.mean(ratios)), 4),
            **{name: round(value, 5) for name, value in measures.items()},
            "steps": self.learner.steps,
            "moves_per_second": round(sum(len(game) for game, _ in played) / (middle - begin), 1),
            "learning_seconds": round(time.perf_counter() - middle, 2),
        }

    def validate(self) -> Metrics:
        """How the policy alone does on graphs that it does not learn from, if there are any."""
        if not self._validation:
            return {}
        network = local(self.learner.network)
        costs = costs_by(network, self._validation, playing.Greedy(), self.configuration)
        pairs = zip(self._validation, costs, strict=True)
        ratios = np.array([cost / max(encoding.markowitz, 1) for encoding, cost in pairs])
        return {
            "validation_to_markowitz": round(float(ratios.mean()), 4),
            "validation_better": round(float((ratios < 1).mean()), 4),
        }

    def save(self) -> None:
        """Writes a checkpoint, and the network by itself."""
        kept = list(self.learner.replay)
        header = {
            "configuration": dataclasses.asdict(self.configuration),
            "iteration": self.iteration,
            "seconds": self.seconds,
            "steps": self.learner.steps,
            "processes": jax.process_count(),
            "played": self._played,
            "replay": [
                [padding, game.graph, len(game), str(game.kind.dtype)] for padding, game in kept
            ],
        }
        network = local(self.learner.network)
        state = jax.tree.map(np.asarray, local(self.learner.optimiser_state))
        tree = network, state, [_arrays(game) for _, game in kept]
        checkpoints.write(self._checkpoint, header, tree)
        if jax.process_index() == 0:
            checkpoints.save_policy(
                self.directory / "policy",
                network,
                configuration=dataclasses.asdict(self.configuration),
                iterations=self.iteration,
                seconds=round(self.seconds),
                jax=jax_internals.jax_version(),
                device=jax.devices()[0].device_kind,
                devices=jax.device_count(),
            )

    def resume(self) -> None:
        """Goes on from the checkpoint in the directory.

        Raises:
            FileNotFoundError: where there is none.
            CheckpointError: where it is damaged, or one of a run with other settings.
        """
        header, body = checkpoints.read(self._checkpoint)
        missing = _HEADER - header.keys()
        if missing:
            raise CheckpointError(
                f"{self._checkpoint} is no checkpoint of a run: it does not say "
                f"{', '.join(sorted(missing))}."
            )
        try:
            theirs = from_document(header["configuration"], "its configuration")
        except ValueError as error:
            raise CheckpointError(
                f"{self._checkpoint} is of another version of jax_cce: {error}"
            ) from error
        # A run may be prolonged, which changes how fast the learning rate falls, and nothing else.
        if dataclasses.replace(theirs, iterations=1) != dataclasses.replace(
            self.configuration, iterations=1
        ):
            raise CheckpointError(
                f"{self._checkpoint} is of a run with other settings than those given. Resume it "
                "with its own configuration, or start in another directory."
            )
        if header["processes"] != jax.process_count():
            raise CheckpointError(
                f"{self._checkpoint} is of a run on {header['processes']} processes, and this one "
                f"has {jax.process_count()}."
            )
        kept = [(tuple(padding), *rest) for padding, *rest in header["replay"]]
        games = [_shapes(padding[0], length, kind) for padding, _, length, kind in kept]
        like = jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype),
            (self.learner.network, self.learner.optimiser_state),
        )
        network, state, arrays = checkpoints.restored(self._checkpoint, body, (*like, games))
        self.learner.put(network, state)
        self.learner.steps = header["steps"]
        self.learner.replay = Replay(self.configuration.learning.replay)
        for (padding, graph, *_), of in zip(kept, arrays, strict=True):
            self.learner.replay.add(padding, PlayedGame(graph, *map(np.asarray, of)))
        self._played = [(nodes, kinds) for nodes, kinds in header["played"]]
        self.iteration = header["iteration"]
        self._earlier, self._begin = header["seconds"], time.perf_counter()

    @property
    def _checkpoint(self) -> pathlib.Path:
        return self.directory / f"checkpoint-{jax.process_index()}"


def train(
    configuration: Configuration,
    directory: str | pathlib.Path,
    *,
    resume: bool = False,
    seconds: float | None = None,
    progress: bool | None = None,
    callback: Callable[[Metrics], Any] | None = None,
) -> Run:
    """Trains a policy; a line of metrics goes to a file after each iteration.

    An interrupt from the keyboard ends the run, which goes on from its last checkpoint.

    Args:
        configuration: the settings.
        directory: where the files go.
        resume: whether to go on from the checkpoint there.
        seconds: when to stop, at the end of an iteration; None for after the last one.
        progress: whether to show a line of progress; None for where it takes a while.
        callback: called with the metrics of each iteration.

    Returns:
        The run, at its end.

    Raises:
        FileExistsError: where there is a run in the directory and `resume` is not given.
        FileNotFoundError, CheckpointError: see `Run.resume`.
    """
    metrics_file = pathlib.Path(directory) / "metrics.jsonl"
    if metrics_file.exists() and not resume:
        raise FileExistsError(
            f"{directory} holds a training run: resume it (--resume), or name another directory."
        )
    run = Run(configuration, directory)
    if resume:
        run.resume()
        if jax.process_index() == 0:
            _drop_after(metrics_file, run.iteration)
    else:
        # So that it can go on wherever it is interrupted.
        run.save()
    begin = time.perf_counter()
    if jax.process_index() != 0:
        progress = False
    total = configuration.iterations
    with line("training", total, progress, transient=False) as show:
        if show is not None:
            show(run.iteration, f"iteration {run.iteration} of {total}")
        try:
            while run.iteration < configuration.iterations:
                metrics = run.iterate()
                is_last = run.iteration == configuration.iterations
                over = seconds is not None and _agreed(time.perf_counter() - begin >= seconds)
                if is_last or over or run.iteration % configuration.validate_every == 0:
                    metrics |= run.validate()
                if jax.process_index() == 0:
                    with metrics_file.open("a") as file:
                        file.write(json.dumps(metrics) + "\n")
                if show is not None:
                    ratio = metrics.get("to_markowitz")
                    cost = "" if ratio is None else f": {ratio:.3f} of Markowitz"
                    show(run.iteration, f"iteration {run.iteration} of {total}{cost}")
                if callback is not None:
                    callback(metrics)
                if is_last or over or run.iteration % configuration.save_every == 0:
                    run.save()
                if over:
                    break
        except KeyboardInterrupt:
            # The others wait for this process, which must not go on alone.
            if jax.process_count() > 1:
                raise
    return run


def _agreed(over: bool) -> bool:
    """What the first process says, so that all of them end after the same iteration."""
    if jax.process_count() == 1:
        return over
    return bool(multihost_utils.broadcast_one_to_all(np.array(over)))


def _arrays(game: PlayedGame) -> tuple[np.ndarray, ...]:
    return game.moves, game.kind, game.alive, game.policy, game.costs


def _shapes(nodes: int, length: int, kind: str) -> tuple[jax.ShapeDtypeStruct, ...]:
    """What `_arrays` returns of a game of so many moves."""
    return (
        jax.ShapeDtypeStruct((length,), np.int32),
        jax.ShapeDtypeStruct((length, nodes, nodes), np.dtype(kind)),
        jax.ShapeDtypeStruct((length, nodes), np.bool_),
        jax.ShapeDtypeStruct((length, nodes), np.float32),
        jax.ShapeDtypeStruct((nodes,), np.float32),
    )


def _drop_after(path: pathlib.Path, iteration: int) -> None:
    """Takes back the metrics of iterations that are going to be repeated."""
    lines = path.read_text().splitlines() if path.exists() else []
    kept = [line for line in lines if json.loads(line)["iteration"] <= iteration]
    path.write_text("".join(f"{line}\n" for line in kept))
