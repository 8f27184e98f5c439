"""Training runs, on one process and on several, and the strategy that uses what they learn."""

import dataclasses
import io
import json
import os
import pathlib
import re
import shutil
import socket
import subprocess
import sys

import chex
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax_cce_search import strategies
from jax_cce_search.alphazero import checkpoints, single, trainer
from jax_cce_search.alphazero.checkpoints import CheckpointError
from jax_cce_search.alphazero.configuration import (
    Configuration,
    Graphs,
    Learning,
    SelfPlay,
    from_document,
)
from jax_cce_search.alphazero.encoding import Encoding
from jax_cce_search.alphazero.graphs import random_program
from jax_cce_search.alphazero.network import Architecture, PolicyValue
from jax_cce_search.alphazero.ppo import ProximalPolicy
from jax_cce_search.cli import answers, main
from jax_cce_search.game.problem import Problem
from jax_cce_search.searching import Budget, Search
from jax_cce_search.strategies import alphazero

import jax_cce
from benchmarks.tasks import TASKS
from cases.agreement import assert_agree
from jax_cce import registry
from jax_cce.orders.greedy import greedy

TINY = Configuration(
    iterations=4,
    validate_every=2,
    save_every=2,
    architecture=Architecture(width=4, layers=1),
    graphs=Graphs(random=12, functions=0, vertices=(6, 10), nodes=(16,), validation=3),
    self_play=SelfPlay(games=8, simulations=3, considered=4),
    # The oldest games are dropped in the last iterations.
    learning=Learning(batch=16, updates=2, replay=150, warmup=2),
)
ALGORITHMS = ("alphazero", "ppo")
TIMES = {"seconds", "moves_per_second", "learning_seconds"}


def settings(algorithm, **changes):
    return dataclasses.replace(TINY, algorithm=algorithm, **changes)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run of each algorithm that nothing interrupted, when it is asked for: its directory."""
    made = {}

    def run(algorithm):
        if algorithm not in made:
            made[algorithm] = tmp_path_factory.mktemp(algorithm)
            trainer.train(settings(algorithm), made[algorithm])
        return made[algorithm]

    return run


def metrics_of(directory):
    def refused(name):
        raise AssertionError(f"{name} is not JSON")

    lines = (directory / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line, parse_constant=refused) for line in lines]


def without_times(metrics):
    return [{name: value for name, value in one.items() if name not in TIMES} for one in metrics]


def saved(directory, configuration, process=0):
    """The network, the state of the optimiser and the games in a checkpoint."""
    header, body = checkpoints.read(directory / f"checkpoint-{process}")
    learner = trainer.Run(configuration, directory).learner
    stream = io.BytesIO(body)
    network, state = eqx.tree_deserialise_leaves(stream, (learner.network, learner.optimiser_state))
    names = "moves", "kind", "alive", "policy", "costs"
    games = [
        {"graph": graph} | {name: np.load(stream) for name in names}
        for _, graph, *_ in header["replay"]
    ]
    assert not stream.read(1)
    return network, state, games


def assert_same(one, other):
    chex.assert_tree_all_finite(one)
    chex.assert_trees_all_equal(one, other)


@pytest.mark.one_version
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_run_leaves_its_metrics_its_checkpoint_and_its_policy(algorithm, whole):
    directory = whole(algorithm)
    assert {file.name for file in directory.iterdir()} == {
        "policy",
        "checkpoint-0",
        "metrics.jsonl",
    }
    metrics = metrics_of(directory)
    assert [line["iteration"] for line in metrics] == [1, 2, 3, 4]
    assert [line["steps"] for line in metrics] == [2, 4, 6, 8]
    assert [("validation_to_markowitz" in line) for line in metrics] == [False, True, False, True]
    assert all(line["to_markowitz"] > 0.3 and line["padding"] == [16, 0] for line in metrics)
    header, _ = checkpoints.read(directory / "policy")
    assert from_document(header["about"]["configuration"], "it") == settings(algorithm)
    network, _, games = saved(directory, settings(algorithm))
    assert_same(network, checkpoints.load_policy(directory / "policy"))
    untrained = PolicyValue(TINY.architecture, jax.random.key(TINY.seed))
    changed = [
        not np.array_equal(*pair)
        for pair in zip(jax.tree.leaves(network), jax.tree.leaves(untrained), strict=True)
    ]
    assert sum(changed) > len(changed) / 2
    positions = sum(len(game["moves"]) for game in games)
    assert positions <= TINY.learning.replay


@pytest.mark.one_version
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_games_are_kept_with_what_their_moves_cost(algorithm, whole):
    directory = whole(algorithm)
    graphs = trainer.Run(settings(algorithm), directory).learner.graphs
    for game in saved(directory, settings(algorithm))[2]:
        encoding = graphs[game["graph"]]
        order = encoding.order(game["moves"])
        paid, cost = encoding.priced(order)
        scale = float(encoding.game((16, 0)).scale)
        assert np.allclose(game["costs"][game["moves"]] * scale, paid)
        assert round(game["costs"].sum() * scale) + encoding.problem.prefix_cost == cost
        assert game["policy"].sum(axis=-1) == pytest.approx(1, abs=1e-5)


@pytest.mark.one_version
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_transformers_learn_from_logarithmic_rewards(algorithm, tmp_path):
    tried = settings(
        algorithm,
        iterations=2,
        architecture=Architecture(width=4, layers=1, slices=16),
        learning=dataclasses.replace(TINY.learning, logarithmic=True),
    )
    trainer.train(tried, tmp_path)
    network, _, games = saved(tmp_path, tried)
    graphs = trainer.Run(tried, tmp_path).learner.graphs
    for game in games:
        encoding = graphs[game["graph"]]
        paid, _ = encoding.priced(encoding.order(game["moves"]))
        rewards = encoding.game((16, 0), logarithmic=True).reward(paid)
        assert np.allclose(game["costs"][game["moves"]], -rewards, rtol=1e-5)
    begun = PolicyValue(tried.architecture, jax.random.key(tried.seed))
    assert not np.allclose(network.slices.weight, begun.slices.weight)


@pytest.mark.one_version
@pytest.mark.parametrize("algorithm", ["alphazero"])
def test_a_run_that_was_interrupted_goes_on_as_if_it_had_not_been(algorithm, whole, tmp_path):
    def interrupt(metrics):
        if metrics["iteration"] == 3:
            raise KeyboardInterrupt

    assert trainer.train(settings(algorithm), tmp_path, callback=interrupt).iteration < 4
    assert len(metrics_of(tmp_path)) == 3
    assert trainer.train(settings(algorithm), tmp_path, resume=True).iteration == 4
    metrics = metrics_of(tmp_path)
    assert without_times(metrics) == without_times(metrics_of(whole(algorithm)))
    times = [line["seconds"] for line in metrics]
    assert times == sorted(times)
    ours, theirs = (saved(d, settings(algorithm)) for d in (tmp_path, whole(algorithm)))
    assert_same(ours, theirs)


@pytest.mark.one_version
def test_a_run_that_was_interrupted_at_its_beginning_can_go_on(tmp_path, monkeypatch):
    def iterate(run):
        run.iteration += 1
        return {"iteration": run.iteration}

    def interrupt(_):
        raise KeyboardInterrupt

    monkeypatch.setattr(trainer.Run, "iterate", iterate)
    trainer.train(settings("ppo"), tmp_path, callback=interrupt)
    assert len(metrics_of(tmp_path)) == 1
    trainer.train(settings("ppo"), tmp_path, resume=True, callback=interrupt)


@pytest.mark.one_version
def test_a_run_stops_after_the_iteration_in_which_its_time_is_over(tmp_path):
    run = trainer.train(settings("ppo"), tmp_path, seconds=0)
    assert run.iteration == 1
    (line,) = metrics_of(tmp_path)
    assert "validation_to_markowitz" in line
    assert checkpoints.read(tmp_path / "checkpoint-0")[0]["iteration"] == 1


@pytest.fixture
def copied(whole, tmp_path):
    return pathlib.Path(shutil.copytree(whole("ppo"), tmp_path / "copy"))


@pytest.mark.one_version
def test_a_finished_run_that_is_resumed_does_nothing(copied):
    before = {file.name: file.read_bytes() for file in copied.iterdir()}
    assert trainer.train(settings("ppo"), copied, resume=True).iteration == 4
    assert {file.name: file.read_bytes() for file in copied.iterdir()} == before


@pytest.mark.one_version
def test_a_finished_run_can_be_prolonged(copied):
    run = trainer.Run(settings("ppo", iterations=5), copied)
    run.resume()
    assert (run.iteration, run.learner.steps) == (4, 8)
    assert run.seconds > metrics_of(copied)[-1]["seconds"] - 0.1


@pytest.mark.one_version
def test_a_directory_that_holds_a_run_is_not_written_into(copied):
    before = {file.name: file.read_bytes() for file in copied.iterdir()}
    with pytest.raises(FileExistsError, match=rf"{copied} holds a training run: resume it"):
        trainer.train(settings("ppo"), copied)
    assert {file.name: file.read_bytes() for file in copied.iterdir()} == before


@pytest.mark.one_version
def test_a_run_without_a_checkpoint_is_not_resumed(tmp_path):
    with pytest.raises(FileNotFoundError, match="checkpoint-0"):
        trainer.train(settings("ppo"), tmp_path, resume=True)


@pytest.mark.one_version
@pytest.mark.parametrize(
    "changes",
    [
        {"seed": 1},
        {"algorithm": "alphazero"},
        {"architecture": Architecture(8, 1)},
        {"learning": dataclasses.replace(TINY.learning, rate=0.1)},
    ],
)
def test_a_run_with_other_settings_is_not_resumed(changes, copied):
    with pytest.raises(CheckpointError, match="checkpoint-0 is of a run with other settings"):
        trainer.train(dataclasses.replace(settings("ppo"), **changes), copied, resume=True)


@pytest.mark.one_version
@pytest.mark.parametrize("damage", ["flipped", "truncated", "policy", "text"])
def test_a_checkpoint_that_is_damaged_is_not_resumed(damage, copied):
    file = copied / "checkpoint-0"
    content = bytearray(file.read_bytes())
    if damage == "flipped":
        content[-100] ^= 1
    elif damage == "truncated":
        del content[len(content) // 2 :]
    elif damage == "policy":
        content = (copied / "policy").read_bytes()
    else:
        content = b"a checkpoint"
    file.write_bytes(content)
    with pytest.raises(CheckpointError, match="checkpoint-0"):
        trainer.train(settings("ppo"), copied, resume=True)


@pytest.mark.one_version
def test_there_must_be_graphs_that_fit(tmp_path):
    none = settings("ppo", graphs=dataclasses.replace(TINY.graphs, vertices=(60, 80)))
    with pytest.raises(ValueError, match="nothing to learn from: no graph fits"):
        trainer.train(none, tmp_path / "run")


@pytest.mark.one_version
def test_a_run_without_validation_graphs_reports_numbers(tmp_path):
    none = settings("ppo", graphs=dataclasses.replace(TINY.graphs, validation=0))
    assert all(np.isfinite(value) for value in trainer.Run(none, tmp_path).validate().values())


# Several devices, and several processes.

ALONE = """
import os, pathlib, sys
import jax
jax.config.update("jax_num_cpu_devices", 1)
jax.config.update("jax_enable_x64", True)
from jax_cce_search.alphazero import configuration, trainer
assert jax.device_count() == 1
trainer.train(configuration.load(sys.argv[1]), sys.argv[2])
"""


def toml(value):
    """A configuration as a TOML file."""
    plain = {n: v for n, v in dataclasses.asdict(value).items() if not isinstance(v, dict)}
    tables = {n: v for n, v in dataclasses.asdict(value).items() if isinstance(v, dict)}
    lines = [f"{name} = {json.dumps(one)}" for name, one in plain.items()]
    for title, table in tables.items():
        lines += [f"[{title}]", *(f"{name} = {json.dumps(one)}" for name, one in table.items())]
    return "\n".join(lines) + "\n"


@pytest.fixture
def surroundings():
    """The environment of a process of its own, with the devices that it asks for itself."""
    return {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}


@pytest.mark.one_version
def test_one_device_plays_and_learns_what_eight_do(whole, surroundings, tmp_path):
    assert jax.device_count() == 8
    (tmp_path / "tiny.toml").write_text(toml(settings("ppo")))
    command = [sys.executable, "-c", ALONE, tmp_path / "tiny.toml", tmp_path / "run"]
    done = subprocess.run(command, env=surroundings, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    ours, _, our_games = saved(tmp_path / "run", settings("ppo"))
    theirs, _, their_games = saved(whole("ppo"), settings("ppo"))
    for one, other in zip(our_games, their_games, strict=True):
        assert one["graph"] == other["graph"]
        assert one["moves"].tolist() == other["moves"].tolist()
    # Where a gradient is all rounding, so is Adam's step: single weights may differ.
    one, other = (np.concatenate([w.ravel() for w in jax.tree.leaves(n)]) for n in (ours, theirs))
    assert np.linalg.norm(one - other) < 1e-3 * np.linalg.norm(other)
    for line, expected in zip(
        *(without_times(metrics_of(d)) for d in (tmp_path / "run", whole("ppo"))), strict=True
    ):
        assert line.pop("padding") == expected.pop("padding")
        assert line == pytest.approx(expected, rel=1e-3, abs=1e-4)


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def test_two_processes_play_games_of_their_own_and_learn_together(surroundings, tmp_path):
    both = settings("ppo", iterations=2, validate_every=2)
    (tmp_path / "tiny.toml").write_text(toml(both))
    command = [sys.executable, "-m", "jax_cce_search.cli", "train-policy"]
    command += ["--config", tmp_path / "tiny.toml", "--out", tmp_path / "run"]
    command += ["--coordinator", f"127.0.0.1:{free_port()}", "--processes", "2", "--process"]
    running = [
        subprocess.Popen(
            [*command, str(process)],
            env=surroundings,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for process in range(2)
    ]
    try:
        said = [process.communicate(timeout=240) for process in running]
    finally:
        for process in running:
            process.kill()
    assert [process.returncode for process in running] == [0, 0], said
    assert all(f"JAX_CCE_POLICY={tmp_path / 'run' / 'policy'}" in out for out, _ in said)
    shown = [json.loads(line) for line in said[0][1].splitlines() if line.startswith("{")]
    assert shown == metrics_of(tmp_path / "run")
    assert [line["iteration"] for line in shown] == [1, 2]
    (ours, our_state, our_games), (theirs, their_state, their_games) = (
        saved(tmp_path / "run", both, process) for process in range(2)
    )
    assert_same((ours, our_state), (theirs, their_state))
    assert_same(ours, checkpoints.load_policy(tmp_path / "run" / "policy"))
    assert len(our_games) == len(their_games) == 16
    played = [
        {(g["graph"], *g["moves"].tolist()) for g in games} for games in (our_games, their_games)
    ]
    assert len(played[0] & played[1]) < 8
    with pytest.raises(CheckpointError, match="of a run on 2 processes, and this one has 1"):
        trainer.train(both, tmp_path / "run", resume=True)


@pytest.mark.one_version
@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--config", "nope"], r"no file 'nope'.*'pretrained', 'tiny'"),
        (["--config", "tiny", "--coordinator", "localhost:1"], "belong together: give all three"),
        (["--config", "tiny", "--processes", "2"], "belong together: give all three"),
        (["--config", "tiny", "--process", "0", "--processes", "2"], "belong together"),
        (["--config", "wrong.toml"], "wrong.toml has an unknown setting 'iteration'. Did you mean"),
    ],
)
def test_wrong_usage(arguments, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    pathlib.Path("wrong.toml").write_text("iteration = 3\n")
    assert main.main(["train-policy", *arguments, "--out", "run"]) == answers.WRONG_USAGE == 2
    assert re.search(message, capsys.readouterr().err)
    assert not pathlib.Path("run").exists()


# The strategy.


@pytest.fixture(scope="module")
def tiny_policy(tmp_path_factory):
    path = tmp_path_factory.mktemp("policy") / "tiny"
    checkpoints.save_policy(path, PolicyValue(TINY.architecture, jax.random.key(0)))
    return path


@pytest.fixture
def small(tiny_policy, monkeypatch):
    """Few and small games, by a small policy."""
    learning = dataclasses.replace(TINY.learning, updates=1)
    # Without noise games are played as the search alone plays, which is one compilation.
    quiet = dataclasses.replace(TINY.self_play, noise=0.0)
    monkeypatch.setenv(alphazero.POLICY, str(tiny_policy))
    monkeypatch.setattr(
        single.Player,
        "settings",
        dataclasses.replace(TINY, iterations=1 << 20, learning=learning, self_play=quiet),
    )
    monkeypatch.setattr(alphazero, "SIMULATIONS", TINY.self_play.simulations)
    monkeypatch.setattr(alphazero, "CONSIDERED", TINY.self_play.considered)


def problem_of(vertices, seed=0):
    return Problem(random_program(vertices, np.random.default_rng(seed)))


def markowitz(problem):
    left = set(problem.vertices)
    return problem.evaluate([v for v in greedy(problem.reduced.copy())[0] if v in left])


def searched(problem, seed=0, **budget):
    search = Search(problem, Budget(**budget), seed, strategy="alphazero")
    strategies.named("alphazero")(search)
    assert sorted(search.best) == list(problem.vertices)
    assert search.cost == problem.prefix_cost + problem.reduced.evaluate(search.best)
    for found in search.improvements:
        assert problem.graph.evaluate(found.order) == found.cost
    return search


@pytest.fixture
def no_policy(monkeypatch):
    def forbidden():
        raise AssertionError("the policy was read")

    monkeypatch.setattr(alphazero, "policy", forbidden)


@pytest.mark.one_version
@pytest.mark.parametrize("budget", [{"seconds": 0.0}, {"seconds": 0.01}, {"evaluations": 1}])
def test_without_time_the_answer_is_minimal_markowitz(budget, no_policy):
    problem = problem_of(40)
    search = searched(problem, **budget)
    assert search.cost == markowitz(problem)
    assert search.evaluations == 1


@pytest.mark.one_version
def test_graphs_that_are_too_large_are_left_to_minimal_markowitz(no_policy, monkeypatch):
    monkeypatch.setattr(alphazero, "_MOST_NODES", 20)
    problem = problem_of(60)
    assert searched(problem, evaluations=50).cost == markowitz(problem)


@pytest.mark.one_version
def test_graphs_with_nothing_to_choose_are_not_played(no_policy):
    for seed in range(3):
        problem = problem_of(1, seed)
        assert len(problem.vertices) < 2
        assert searched(problem, evaluations=50).cost == problem.evaluate(problem.vertices)


def harder():
    """A small graph that minimal Markowitz does not eliminate at its bound."""
    for seed in range(1000):
        problem = problem_of(11, seed)
        if len(Encoding(problem).nodes) <= 16 and markowitz(problem) > problem.bound + 2:
            return problem
    raise AssertionError("there is none")


@pytest.mark.one_version
def test_the_strategy_plays_searches_and_learns(small):
    problem = harder()
    search = searched(problem, evaluations=24)
    assert search.evaluations == 24 or search.is_optimal
    assert search.cost <= markowitz(problem)
    assert search.improvements[0].strategy == "alphazero"
    # The first batch of games is played again as it was.
    again = searched(problem, evaluations=11)
    assert [found[:2] for found in again.improvements] == [
        found[:2] for found in search.improvements if found.evaluations <= 11
    ]


@pytest.mark.one_version
def test_a_batch_need_not_be_a_multiple_of_the_devices(small, monkeypatch):
    learning = dataclasses.replace(TINY.learning, updates=1, batch=jax.device_count() + 4)
    monkeypatch.setattr(
        single.Player, "settings", dataclasses.replace(single.Player.settings, learning=learning)
    )
    assert searched(harder(), evaluations=14).evaluations <= 14


@pytest.mark.one_version
def test_a_callback_ends_the_strategy(small):
    seen = []

    def stop(found):
        seen.append(found)
        return True

    search = Search(harder(), Budget(seconds=300), on_improvement=stop, strategy="alphazero")
    strategies.named("alphazero")(search)
    assert len(seen) == 1


@pytest.mark.one_version
def test_a_graph_of_more_nodes_than_any_that_was_learnt_from(small, monkeypatch):
    monkeypatch.setattr(alphazero, "_MOST_SEARCHED", 80)
    problem = problem_of(120)
    assert len(problem.vertices) > 80
    with jax.enable_x64(False):
        search = searched(problem, evaluations=10)
    assert search.evaluations == 2
    assert search.cost <= markowitz(problem)


@pytest.mark.one_version
def test_a_policy_that_is_named_is_used(small, tiny_policy, monkeypatch):
    monkeypatch.setenv(alphazero.POLICY, str(tiny_policy))
    assert_same(alphazero.policy(), checkpoints.load_policy(tiny_policy))
    monkeypatch.delenv(alphazero.POLICY)
    assert_same(alphazero.policy(), checkpoints.pretrained())
    assert alphazero.policy().architecture != TINY.architecture


@pytest.mark.one_version
@pytest.mark.parametrize("content", [b"", b"a policy", None])
def test_a_policy_that_is_damaged_is_named(content, tiny_policy, tmp_path, monkeypatch):
    path = tmp_path / "damaged"
    path.write_bytes(tiny_policy.read_bytes()[:-9] if content is None else content)
    monkeypatch.setenv(alphazero.POLICY, str(path))
    with pytest.raises(CheckpointError, match=str(path)):
        searched(harder(), evaluations=4)
    monkeypatch.setenv(alphazero.POLICY, str(tmp_path / "nowhere"))
    with pytest.raises(FileNotFoundError, match="nowhere"):
        searched(harder(), evaluations=4)


@pytest.fixture
def store(tmp_path, monkeypatch):
    """A registry of this test's own."""
    monkeypatch.setattr("jax_cce.registry.defaults._shipped", lambda: None)
    monkeypatch.setenv("JAX_CCE_REGISTRY", str(tmp_path / "registry"))
    return registry.default()


def f(x, y):
    a = jnp.sin(x * y)
    b = a * jnp.exp(x) + y
    c = jnp.tanh(a * b) + x
    return {"first": b * y * c, "second": (a + b) / x, "third": c * a * jnp.sqrt(y)}


POINT = 0.7, 1.3


def assert_right(jacobian):
    assert_agree(jacobian(*POINT), jax.jacrev(f, (0, 1))(*POINT))


@pytest.mark.one_version
@pytest.mark.parametrize("budget", [0.0, 0.01])
def test_jacobians_by_the_strategy_are_right_and_their_orders_are_stored(budget, store, no_policy):
    assert_right(jax_cce.jacobian(f, (0, 1), search="alphazero", search_budget=budget))
    assert jax_cce.plan(f, (0, 1))(*POINT).source == "user"


def test_a_function_is_searched_within_a_trace(small, store, monkeypatch):
    over = Search.over
    monkeypatch.setattr(Search, "over", lambda self: over(self) or self.evaluations >= 2)
    jacobian = jax_cce.jacobian(f, (0, 1), search="alphazero", search_budget=1000)
    assert_right(jax.jit(jacobian))
    assert jax_cce.plan(f, (0, 1))(*POINT).source == "user"


@pytest.mark.one_version
def test_costs_that_float32_cannot_hold_are_reported_exactly(tiny_policy):
    def g(x, v, w):
        h = jnp.tanh(w @ x)
        k = jnp.tanh(v @ h * h)
        return (w @ (k * h)).sum(), k + h

    shapes = jnp.ones(400), jnp.ones((400, 400)), jnp.ones((400, 400))
    graph = jax_cce.plan(g, (0, 1, 2), order="reverse")(*shapes).graph
    encoding = Encoding(Problem.of(graph, "runtime_model"))
    learner = ProximalPolicy(checkpoints.load_policy(tiny_policy), settings("ppo"), [encoding])
    for game, cost in learner.play([0] * 8, encoding.padding, jax.random.key(0)):
        assert cost == encoding.problem.evaluate(encoding.order(game.moves))


@pytest.mark.one_version
def test_the_portfolio_of_a_reference_task_is_not_changed_by_the_policy(no_policy):
    task = TASKS["PropaneCombustion"]
    graph = jax_cce.plan(task.fun, task.argnums, order="reverse")(*task.args).graph
    search = Search(Problem.of(graph, "multiplications"), Budget(evaluations=50))
    strategies.named("portfolio")(search)
    assert search.best is not None
