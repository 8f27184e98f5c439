"""The learned policy: what its network may depend on, its files, its settings, and how it plays."""

import dataclasses
import functools
import hashlib
import json
import math
import os
import zipfile

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import Mesh
from jax_cce_search.alphazero import checkpoints, configuration, families, graphs, playing
from jax_cce_search.alphazero.checkpoints import CheckpointError, load_policy, save_policy
from jax_cce_search.alphazero.configuration import Configuration, Graphs
from jax_cce_search.alphazero.encoding import Encoding
from jax_cce_search.alphazero.graphs import random_program
from jax_cce_search.alphazero.learning import cost_deviance
from jax_cce_search.alphazero.network import FEATURES, Architecture, PolicyValue
from jax_cce_search.alphazero.ppo import advantages
from jax_cce_search.alphazero.replay import PlayedGame, Replay
from jax_cce_search.alphazero.vertex_game import Position
from jax_cce_search.game.problem import Problem

TINY = Architecture(width=4, layers=1)
PADDING = (16, 0)


@functools.cache
def network():
    """A network none of whose weights is zero."""
    made = PolicyValue(TINY, jax.random.key(0))
    leaves, form = jax.tree.flatten(made)
    noisy = [
        leaf + 0.3 * jax.random.normal(jax.random.key(k), leaf.shape, leaf.dtype)
        for k, leaf in enumerate(leaves)
    ]
    return jax.tree.unflatten(form, noisy)


@functools.cache
def encoding_of(kind):
    if kind == "scalars":
        return Encoding(Problem(random_program(30, np.random.default_rng(0))))
    return Encoding(Problem(families.traced(kind, np.random.default_rng(0), "flops")))


@functools.cache
def small_encodings():
    """Eight graphs of scalars that fit the same small padding."""
    return [Encoding(Problem(random_program(10, np.random.default_rng(k)))) for k in range(8)]


def on_device(game):
    return jax.tree.map(jnp.asarray, game)


judged = jax.jit(lambda network, game, position: network(game, position))
moved = jax.jit(lambda game, position, vertex: game.step(position, vertex)[0])


def middle(encoding, game):
    """A position in the middle of a game."""
    position, order = game.start, encoding.problem.vertices
    for vertex in encoding.moves(order[: len(order) // 3]):
        position = moved(game, position, vertex)
    return position


def assert_alike(one, other):
    assert np.allclose(one.costs, other.costs, rtol=1e-4, atol=1e-6)
    assert np.array_equal(np.isfinite(one.logits), np.isfinite(other.logits))
    alive = np.isfinite(one.logits)
    assert np.allclose(one.logits[alive], other.logits[alive], rtol=1e-3, atol=1e-4)


GRAPHS = ("scalars", "layers")


def renumbered(game, position, permutation):
    """A game and a position of it whose nodes have other numbers."""
    p = permutation

    def at(position):
        return Position(position.kind[p][:, p], position.alive[p])

    names = ("is_input", "is_output", "size", "sides", "least")
    changed = {name: getattr(game, name)[p] for name in names}
    return dataclasses.replace(game, start=at(game.start), **changed), at(position)


@pytest.mark.one_version
@pytest.mark.parametrize("graph", GRAPHS)
def test_judgements_do_not_depend_on_the_numbers_of_nodes(graph):
    encoding = encoding_of(graph)
    game = on_device(encoding.game())
    position = middle(encoding, game)
    expected = judged(network(), game, position)
    p = np.random.default_rng(0).permutation(len(game.size))
    found = judged(network(), *renumbered(game, position, p))
    assert_alike(found, expected._replace(logits=expected.logits[p], costs=expected.costs[p]))
    # Not because all vertices look alike.
    assert len(np.unique(np.round(expected.logits[position.alive], 3))) > 5


@pytest.mark.one_version
@pytest.mark.parametrize("graph", GRAPHS)
def test_judgements_do_not_depend_on_the_padding(graph):
    encoding = encoding_of(graph)
    nodes, kinds = encoding.padding
    game = on_device(encoding.game())
    larger = on_device(encoding.game((nodes + 32, kinds + 16 if kinds else 0)))
    expected = judged(network(), game, middle(encoding, game))
    found = judged(network(), larger, middle(encoding, larger))
    assert not np.any(np.isfinite(found.logits[nodes:]))
    assert not np.any(found.costs[nodes:])
    assert_alike(type(found)(found.logits[:nodes], found.costs[:nodes]), expected)


@pytest.mark.one_version
@pytest.mark.parametrize("graph", GRAPHS)
def test_judgements_do_not_depend_on_the_direction_of_the_edges(graph):
    encoding = encoding_of(graph)
    game = on_device(encoding.game())
    assert not np.any(game.is_output & game.start.alive)
    position = middle(encoding, game)
    transposed = dataclasses.replace(
        game,
        start=Position(game.start.kind.T, game.start.alive),
        is_input=game.is_output,
        is_output=game.is_input,
        sides=game.sides[:, ::-1],
    )
    expected = judged(network(), game, position)
    assert_alike(judged(network(), transposed, Position(position.kind.T, position.alive)), expected)


@pytest.mark.one_version
@pytest.mark.parametrize("graph", GRAPHS)
def test_the_sides_of_a_transposed_graph_are_the_other_way_round(graph):
    """What is encoded beforehand has the symmetry that the network keeps."""
    encoding = encoding_of(graph)
    game = on_device(encoding.game())
    inputs, outputs = (np.flatnonzero(marks) for marks in (game.is_input, game.is_output))
    reached = np.expm1(game.sides[..., 0])
    joined = np.eye(len(game.size), dtype=bool) | (np.asarray(game.start.kind) > 0)
    for _ in range(6):  # paths of up to 64 edges
        joined = joined @ joined
    assert np.allclose(reached[:, 0], joined[inputs].sum(axis=0))
    assert np.allclose(reached[:, 1], joined[:, outputs].sum(axis=1))


@pytest.mark.one_version
@pytest.mark.parametrize("graph", GRAPHS)
def test_eliminated_vertices_are_neither_scored_nor_priced(graph):
    encoding = encoding_of(graph)
    game = on_device(encoding.game())
    position = middle(encoding, game)
    found = judged(network(), game, position)
    alive = np.asarray(position.alive)
    assert np.all(np.isneginf(found.logits[~alive]))
    assert not np.any(found.costs[~alive])
    assert np.all(np.isfinite(found.logits[alive]))
    assert np.all(found.costs[alive] > 0)
    over = judged(network(), game, Position(jnp.zeros_like(position.kind), ~position.alive & False))
    assert found.value == -np.sum(found.costs)
    assert over.value == 0
    assert np.all(np.isneginf(over.logits))


@pytest.mark.one_version
def test_an_untrained_network_expects_the_degrees_and_prefers_no_vertex():
    encoding = encoding_of("scalars")
    game = on_device(encoding.game())
    position = middle(encoding, game)
    edges = np.asarray(position.kind) > 0
    degree = edges.sum(axis=0) * edges.sum(axis=1)
    alive = np.asarray(position.alive)
    assert np.all(degree[alive] >= game.least[alive])
    found = judged(PolicyValue(TINY, jax.random.key(1)), game, position)
    assert np.allclose(found.costs, np.where(alive, degree, 0) / game.scale, rtol=1e-5)
    assert np.ptp(found.logits[alive]) == 0


@pytest.mark.one_version
@pytest.mark.parametrize("logarithmic", [False, True])
def test_rewards_of_a_cheap_order_of_equal_moves_add_up_to_minus_one(logarithmic):
    game = encoding_of("scalars").game(logarithmic=logarithmic)
    moves = game.start.alive.sum()
    each = game.reward(jnp.float32(game.scale / moves))
    assert each * moves == pytest.approx(-1, rel=1e-5)
    costs = jnp.array([0.0, 1.0, 10.0, 1e5], jnp.float32)
    rewards = np.asarray(game.reward(costs))
    assert rewards[0] == 0
    assert np.all(np.diff(rewards) < 0)
    # Far dearer moves count for no more than a few times as much, or in proportion.
    assert (rewards[3] / rewards[2] < 5) == logarithmic


@pytest.mark.one_version
@pytest.mark.parametrize("graph", GRAPHS)
def test_a_transformer_sees_slices_and_serves_one_padding(graph):
    encoding = encoding_of(graph)
    nodes, kinds = encoding.padding
    transformer = PolicyValue(Architecture(4, 1, slices=nodes), jax.random.key(0))
    transformer = jax.tree.map(lambda leaf: leaf + 0.1, transformer)
    game = on_device(encoding.game())
    position = middle(encoding, game)
    found = judged(transformer, game, position)
    alive = np.asarray(position.alive)
    assert np.array_equal(np.isfinite(found.logits), alive)
    assert np.all(found.costs[alive] > 0)
    assert not np.any(found.costs[~alive])
    assert len(np.unique(np.round(found.logits[alive], 3))) > 5
    larger = on_device(encoding.game((nodes + 32, kinds)))
    with pytest.raises(ValueError, match=f"padded to {nodes + 32} nodes"):
        judged(transformer, larger, larger.start)


@pytest.mark.one_version
@pytest.mark.parametrize("graph", GRAPHS)
def test_gradients_are_finite_to_the_last_move(graph):
    encoding = encoding_of(graph)
    game = on_device(encoding.game())
    position = game.start

    @jax.jit
    def gradient(network, position):
        def judged(network):
            found = network(game, position)
            return found.value + jnp.sum(jnp.where(position.alive, found.logits, 0.0))

        return jax.grad(judged)(network)

    moves = encoding.moves(encoding.problem.vertices)
    for vertex in moves[:-1]:
        position = moved(game, position, vertex)
    for last in (game.start, position, moved(game, position, moves[-1])):
        chex.assert_tree_all_finite(gradient(network(), last))


@pytest.mark.one_version
@pytest.mark.parametrize(
    "wrong", [{"width": 3}, {"width": 0}, {"layers": 0}, {"layers": 1.5}, {"slices": -1}]
)
def test_architectures_that_cannot_be(wrong):
    name, value = next(iter(wrong.items()))
    with pytest.raises(ValueError, match=rf"{name} must be .* but got {value}"):
        Architecture(**wrong)


# Files.


def assert_same(one, other):
    assert one.architecture == other.architecture
    chex.assert_tree_all_finite(one)
    chex.assert_trees_all_equal(one, other, strict=True)


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "policy"
    save_policy(path, network(), note="for a test")
    return path


def with_header(file, **changes):
    """Changes the first line of a file."""
    line, _, body = file.read_bytes().partition(b"\n")
    header = json.loads(line) | changes
    file.write_bytes(json.dumps(header).encode() + b"\n" + body)


def test_a_policy_is_read_as_it_was_written(file):
    assert_same(load_policy(file), network())
    header, _ = checkpoints.read(file)
    assert header["about"] == {"note": "for a test"}
    assert header["features"] == FEATURES


@pytest.mark.parametrize("wide", [True, False])
def test_a_policy_is_the_same_with_and_without_64_bit_types(wide, tmp_path):
    path = tmp_path / "policy"
    with jax.enable_x64(wide):
        written = PolicyValue(TINY, jax.random.key(0))
        save_policy(path, written)
    with jax.enable_x64(not wide):
        assert_same(load_policy(path), written)


def test_the_policy_that_comes_with_the_package():
    path = os.path.join(os.path.dirname(checkpoints.__file__), "pretrained.policy")
    assert os.path.getsize(path) < 3e6
    policy = checkpoints.pretrained()
    assert_same(policy, load_policy(path))
    game = on_device(encoding_of("scalars").game())
    assert np.isfinite(judged(policy, game, game.start).value)


@pytest.mark.one_version
@settings(max_examples=50)
@given(at=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_a_file_with_a_flipped_bit_is_refused_or_holds_the_same_policy(at, bit, tmp_path_factory):
    path = tmp_path_factory.mktemp("flipped") / "policy"
    save_policy(path, network(), note="x")
    content = bytearray(path.read_bytes())
    content[int(at * len(content))] ^= 1 << bit
    path.write_bytes(content)
    try:
        found = load_policy(path)
    except CheckpointError as error:
        message = str(error)
    else:  # what is said about the policy
        assert_same(found, network())
        return
    assert str(path) in message


@pytest.mark.one_version
def test_a_flipped_bit_among_the_arrays_is_found(file):
    content = bytearray(file.read_bytes())
    for at in (content.index(b"\n") + 1, len(content) - 40, len(content) - 1):
        damaged = content.copy()
        damaged[at] ^= 1
        file.write_bytes(damaged)
        with pytest.raises(CheckpointError, match=rf"{file} is damaged"):
            load_policy(file)


@pytest.mark.one_version
@settings(max_examples=30)
@given(share=st.floats(0, 1, exclude_max=True))
def test_a_truncated_file_is_refused(share, tmp_path_factory):
    path = tmp_path_factory.mktemp("truncated") / "policy"
    save_policy(path, network())
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(CheckpointError) as caught:
        load_policy(path)
    assert str(path) in str(caught.value)


@pytest.mark.one_version
@pytest.mark.parametrize(
    "content", [b"", b"\n", b"a policy\n", b'"jax_cce policy"\n', b"[]", b"{}\n"]
)
def test_a_file_that_is_none_of_ours_is_refused(content, tmp_path):
    path = tmp_path / "policy"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=rf"{path} is not a file of jax-cce train-policy"):
        load_policy(path)


@pytest.mark.one_version
def test_an_archive_is_refused(tmp_path):
    path = tmp_path / "policy.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("weights", "1 2 3")
    with pytest.raises(CheckpointError, match=rf"{path} is not a file of jax-cce"):
        load_policy(path)


@pytest.mark.one_version
@pytest.mark.parametrize(
    "changes, message",
    [
        ({"schema": 99}, "is of schema 99; .* reads 1"),
        ({"schema": None}, "is of schema None"),
        ({"features": FEATURES + 1}, rf"version {FEATURES + 1} of the features"),
        ({"features": None}, "version None of the features"),
        ({"architecture": {"width": 8, "layers": 1}}, "arrays in .* do not fit"),
        ({"architecture": {"width": 4, "layers": 2}}, "arrays in .* do not fit"),
        ({"architecture": {"width": 3, "layers": 1}}, "no usable description.*must be even"),
        ({"architecture": {"depth": 3}}, "no usable description"),
        ({"architecture": None}, "no usable description"),
        ({"architecture": [4, 1]}, "no usable description"),
        ({"digest": None}, "is damaged"),
    ],
)
def test_a_file_of_another_version_is_refused(changes, message, file):
    with_header(file, **changes)
    with pytest.raises(CheckpointError, match=message) as caught:
        load_policy(file)
    assert str(file) in str(caught.value)


@pytest.mark.one_version
def test_a_file_with_more_arrays_than_its_network_has_is_refused(tmp_path):
    path = tmp_path / "policy"
    header = {"architecture": dataclasses.asdict(TINY), "features": FEATURES}
    checkpoints.write(path, header, (network(), np.ones(3)))
    with pytest.raises(CheckpointError, match=rf"{path} holds more arrays"):
        load_policy(path)


@pytest.mark.one_version
def test_arrays_that_are_not_packed_are_refused(file):
    line, _, _ = file.read_bytes().partition(b"\n")
    header = json.loads(line) | {"digest": hashlib.sha256(b"nothing").hexdigest()}
    file.write_bytes(json.dumps(header).encode() + b"\nnothing")
    with pytest.raises(CheckpointError, match=str(file)):
        load_policy(file)


@pytest.mark.one_version
def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        load_policy(tmp_path / "nowhere")


@pytest.mark.one_version
@pytest.mark.parametrize("step", ["write", "fsync", "replace"])
def test_a_write_that_fails_leaves_the_old_file(step, file, monkeypatch):
    def fails(*_):
        raise OSError("no space left")

    monkeypatch.setattr(os, step, fails)
    with pytest.raises(OSError, match="no space left"):
        save_policy(file, PolicyValue(TINY, jax.random.key(7)))
    monkeypatch.undo()
    assert_same(load_policy(file), network())
    assert os.listdir(file.parent) == [file.name]


@pytest.mark.one_version
def test_what_cannot_be_said_in_json_leaves_the_old_file(file):
    with pytest.raises(TypeError):
        save_policy(file, network(), note=object())
    assert_same(load_policy(file), network())
    assert os.listdir(file.parent) == [file.name]


# Settings.


@pytest.mark.one_version
@pytest.mark.parametrize("name", configuration.shipped())
def test_shipped_configurations_are_what_their_documents_say(name):
    found = configuration.load(name)
    document = json.loads(json.dumps(dataclasses.asdict(found)))
    assert configuration.from_document(document, name) == found
    assert hash(found) == hash(configuration.load(name))


@pytest.mark.one_version
def test_what_a_configuration_leaves_out_has_its_default(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text('algorithm = "ppo"\n[learning]\nrate = 1\n')
    found = configuration.load(path)
    expected = Configuration(algorithm="ppo")
    assert found == dataclasses.replace(
        expected, learning=dataclasses.replace(expected.learning, rate=1.0)
    )
    assert isinstance(found.learning.rate, float)


@pytest.mark.one_version
@pytest.mark.parametrize(
    "text, message",
    [
        ("iteration = 3", "unknown setting 'iteration'. Did you mean 'iterations'"),
        ("[learning]\nrates = 1.0", "learning has an unknown setting 'rates'. Did you mean 'rate'"),
        ("[graphs]\nzzz = 1", "unknown setting 'zzz'. The settings there are random, vertices"),
        ("iterations = 1.5", "iterations must be of type int, but is 1.5"),
        ("iterations = true", "iterations must be of type int, but is True"),
        ('seed = "1"', "seed must be of type int, but is '1'"),
        ("[learning]\nrate = true", "rate must be of type float, but is True"),
        ("learning = 3", "learning must be a table of settings, but is 3"),
        ("[graphs]\nvertices = [1, 2, 3]", "vertices must be a list of 2 values"),
        ("[graphs]\nnodes = 32", "nodes must be a list of values, but is 32"),
        ("[graphs]\nnodes = [32.0]", "nodes must be of type int"),
        ("[graphs]\nvertices = [9, 8]", "vertices must be two ascending numbers"),
        ("[graphs]\nvertices = [1, 8]", "vertices must be two ascending numbers"),
        ('[graphs]\ncosts = ["watts"]', "cost must be one of .* but got 'watts'"),
        ('algorithm = "dqn"', "algorithm must be 'alphazero' or 'ppo', but got 'dqn'"),
        ("[architecture]\nwidth = 7", "width must be even, but got 7"),
        ("[architecture]\nlayers = 0", "layers must be a positive integer, but got 0"),
        ("iterations = 0", "iterations must be at least 1, but got 0"),
        ("save_every = 0", "save_every must be at least 1"),
        ("iterations = ", "is not a TOML file"),
    ],
)
def test_settings_that_are_refused(text, message, tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text(text)
    with pytest.raises(ValueError, match=message) as caught:
        configuration.load(path)
    assert str(path) in str(caught.value)


@pytest.mark.one_version
def test_a_configuration_that_is_not_there():
    with pytest.raises(FileNotFoundError, match=r"'nope'.*'pretrained', 'tiny'"):
        configuration.load("nope")


@pytest.mark.one_version
def test_a_directory_does_not_hide_a_shipped_configuration(tmp_path, monkeypatch):
    """As --config tiny --out tiny makes one."""
    expected = configuration.load("tiny")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny").mkdir()
    assert configuration.load("tiny") == expected


# Playing.

WAYS = (
    playing.Greedy(),
    playing.Sampled(),
    playing.Searched(simulations=3, considered=4, noise=1.0),
)


@functools.cache
def batch(way):
    games = [encoding.game(PADDING) for encoding in small_encodings()]
    return playing.play(network(), games, way, jax.random.key(3))


@pytest.mark.parametrize("way", WAYS, ids=lambda way: type(way).__name__)
def test_games_are_played_to_the_end_by_legal_moves(way):
    played = batch(way)
    for row, encoding in enumerate(small_encodings()):
        count = len(encoding.problem.vertices)
        moves = played.vertex[:count, row]
        order = encoding.order(moves)
        assert sorted(order) == list(encoding.problem.vertices)
        assert played.cost[:count, row].tolist() == encoding.priced(order)[0].tolist()
        assert not played.guessed[:, row].any()
        assert played.alive[np.arange(count), row, moves].all()
        assert not played.cost[count:, row].any()


@pytest.mark.parametrize("way", WAYS, ids=lambda way: type(way).__name__)
def test_policies_are_distributions_over_legal_moves(way):
    played = batch(way)
    for row, encoding in enumerate(small_encodings()):
        count = len(encoding.problem.vertices)
        policy, alive = played.policy[:count, row], played.alive[:count, row]
        assert np.all(policy >= 0)
        assert not np.any(policy[~alive])
        assert np.allclose(policy.sum(axis=-1), 1, atol=1e-5)


@pytest.mark.one_version
@pytest.mark.parametrize("way", WAYS, ids=lambda way: type(way).__name__)
def test_a_game_is_played_alone_as_it_is_among_others(way):
    encoding = small_encodings()[0]
    together, count = batch(way), len(encoding.problem.vertices)
    for others in ([], small_encodings()[5:7]):
        games = [one.game(PADDING) for one in (encoding, *others)]
        alone = playing.play(network(), games, way, jax.random.key(3))
        assert alone.vertex[:count, 0].tolist() == together.vertex[:count, 0].tolist()
        assert np.array_equal(alone.policy[:count, 0], together.policy[:count, 0])


@pytest.mark.one_version
def test_the_same_graph_is_played_differently_in_one_batch():
    encoding, way = small_encodings()[0], WAYS[-1]
    played = playing.play(network(), [encoding.game(PADDING)] * 8, way, jax.random.key(3))
    assert len({tuple(moves) for moves in played.vertex.T.tolist()}) > 1


@pytest.mark.one_version
def test_greedy_moves_are_the_most_probable():
    played = batch(playing.Greedy())
    for row, encoding in enumerate(small_encodings()):
        for turn in range(len(encoding.problem.vertices)):
            assert played.vertex[turn, row] == np.argmax(played.policy[turn, row])


@pytest.mark.one_version
@pytest.mark.parametrize("most", [0, 3])
def test_games_are_broken_off_when_they_are_asked_to(most):
    asked = []

    def over():
        asked.append(None)
        return len(asked) > most

    games = [encoding.game(PADDING) for encoding in small_encodings()]
    assert playing.play(network(), games, playing.Greedy(), jax.random.key(0), over) is None
    assert len(asked) == most + 1


@pytest.mark.one_version
def test_a_game_does_not_depend_on_the_number_of_devices(monkeypatch):
    together = batch(WAYS[-1])
    mesh = Mesh(np.array(jax.devices()[:2]), "games")
    monkeypatch.setattr(playing, "_mesh", lambda games: mesh)
    games = [encoding.game(PADDING) for encoding in small_encodings()]
    found = playing.play(network(), games, WAYS[-1], jax.random.key(3))
    for row, encoding in enumerate(small_encodings()):
        count = len(encoding.problem.vertices)
        assert found.vertex[:count, row].tolist() == together.vertex[:count, row].tolist()


# Learning.

moderate = st.floats(-100, 100)


@pytest.mark.one_version
@given(st.lists(st.tuples(moderate, moderate), min_size=1, max_size=12), st.floats(0, 1))
def test_advantages_are_decaying_sums_of_surprises(moves, trace):
    rewards, values = np.array(moves).T
    later = np.append(values[1:], 0.0)
    expected = [
        sum(
            trace ** (k - at) * (rewards[k] + later[k] - values[k]) for k in range(at, len(rewards))
        )
        for at in range(len(rewards))
    ]
    assert np.allclose(advantages(rewards, values, trace), expected, atol=1e-6)


@pytest.mark.one_version
@given(st.lists(st.tuples(moderate, moderate), min_size=1, max_size=12))
def test_advantages_that_do_not_decay_are_returns_above_the_value(moves):
    rewards, values = np.array(moves).T
    returns = np.cumsum(rewards[::-1])[::-1]
    assert np.allclose(advantages(rewards, values, 1.0), returns - values, atol=1e-6)


costs = st.lists(st.floats(0.015625, 1e3), min_size=1, max_size=8)


@pytest.mark.one_version
@settings(max_examples=40)
@given(costs, st.floats(1.1, 10), st.booleans())
def test_the_deviance_is_zero_where_predictions_are_right_and_positive_elsewhere(
    seen, ratio, above
):
    # Of one shape, which is one compilation.
    seen = jnp.array(seen + [1.0] * (8 - len(seen)))
    alive = jnp.ones(8, bool)
    assert np.isclose(cost_deviance(seen, seen, alive), 0, atol=1e-5 * float(seen.sum()))
    wrong = seen * (ratio if above else 1 / ratio)
    assert cost_deviance(wrong, seen, alive) > 0
    assert cost_deviance(wrong, seen, ~alive) == 0


@pytest.mark.one_version
def test_the_deviance_from_a_cost_of_zero_is_finite():
    alive = jnp.array([True, True, False])
    predicted, seen = jnp.array([0.5, 2.0, 0.0]), jnp.array([0.0, 2.0, 7.0])
    deviance, slope = jax.value_and_grad(cost_deviance)(predicted, seen, alive)
    assert np.isclose(deviance, 0.5)
    assert np.allclose(slope, [1.0, 0.0, 0.0])


@pytest.mark.one_version
def test_the_deviance_is_least_at_the_mean():
    seen = jnp.array([0.0, 1.0, 5.0])
    total = jax.jit(lambda rate: cost_deviance(jnp.full(3, rate), seen, jnp.ones(3, bool)))
    assert min(map(total, (1.8, 2.0, 2.2))) == total(2.0)
    assert np.isclose(jax.grad(total)(2.0), 0, atol=1e-6)


def a_game(number, length):
    of_nodes = np.zeros((length, 1), np.float32)
    kind = np.zeros((length, 1, 1), np.int16)
    moves, costs = np.zeros(length, np.int32), np.zeros(1, np.float32)
    return PlayedGame(number, moves, kind, of_nodes > 0, of_nodes, costs)


@pytest.mark.one_version
@given(st.lists(st.integers(1, 9), min_size=1, max_size=20), st.integers(1, 30))
def test_a_full_replay_drops_its_oldest_games(lengths, capacity):
    replay = Replay(capacity)
    for number, length in enumerate(lengths):
        replay.add(PADDING, a_game(number, length))
    kept = [game.graph for _, game in replay]
    assert kept == list(range(len(lengths)))[-len(kept) :]
    assert replay.positions(PADDING) <= max(capacity, lengths[-1])
    # None is dropped without need.
    assert len(kept) == len(lengths) or sum(lengths[-len(kept) - 1 :]) > capacity
    assert replay.positions((32, 0)) == 0


@pytest.mark.one_version
def test_paddings_are_kept_apart():
    replay = Replay(10)
    for number in range(10):
        replay.add((16 * (1 + number % 2), 0), a_game(number, 4))
    assert [(padding[0], game.graph) for padding, game in replay] == [
        (16, 6),
        (16, 8),
        (32, 7),
        (32, 9),
    ]


@pytest.mark.one_version
@given(st.lists(st.integers(1, 5), min_size=1, max_size=8), st.integers(0, 99))
def test_samples_are_positions_that_exist(lengths, seed):
    replay = Replay(1000)
    for number, length in enumerate(lengths):
        replay.add(PADDING, a_game(number, length))
    for game, at in replay.sample(PADDING, 50, np.random.default_rng(seed)):
        assert 0 <= at < len(game) == lengths[game.graph]


@pytest.mark.one_version
def test_samples_are_uniform():
    lengths, count = (1, 7, 2), 10_000
    replay = Replay(1000)
    for number, length in enumerate(lengths):
        replay.add(PADDING, a_game(number, length))
    drawn = replay.sample(PADDING, count, np.random.default_rng(0))
    seen = {(g, at): 0 for g, length in enumerate(lengths) for at in range(length)}
    for game, at in drawn:
        seen[game.graph, at] += 1
    expected = count / sum(lengths)
    assert all(abs(many - expected) < 6 * math.sqrt(expected) for many in seen.values())


@pytest.mark.one_version
def test_graphs_are_drawn_as_the_settings_say():
    wanted = Graphs(
        random=12, vertices=(6, 14), functions=2, windows=1, nodes=(16, 32), validation=7
    )
    training, validation = graphs.drawn(wanted, seed=4)
    again, _ = graphs.drawn(wanted, seed=4)
    other, _ = graphs.drawn(wanted, seed=5)
    assert [one.nodes for one in training] == [one.nodes for one in again]
    assert [one.nodes for one in training] != [one.nodes for one in other]
    assert 0 < len(validation) < len(training)
    for encoding in (*training, *validation):
        nodes, kinds = graphs.fitting(encoding, wanted)
        assert nodes in wanted.nodes
        assert nodes >= len(encoding.nodes)
        assert kinds >= encoding.kinds
    seen = {(one.nodes, one.problem.bound) for one in training}
    assert not any((one.nodes, one.problem.bound) in seen for one in validation if one.kinds)


@pytest.mark.one_version
@given(st.integers(3, 60), st.integers(0, 2**32))
def test_random_programs_have_the_vertices_that_are_asked_for(count, seed):
    graph = random_program(count, np.random.default_rng(seed))
    assert len(graph.vertices) <= count
    assert graph.outputs.isdisjoint(graph.vertices)
    assert all(graph.predecessors[v] and graph.successors[v] for v in graph.vertices)
    assert all(graph.predecessors[v] for v in graph.outputs)


@pytest.mark.one_version
@settings(max_examples=10)
@given(st.integers(0, 2**32), st.integers(2, 40))
def test_windows_are_parts_of_their_graph(seed, count):
    random = np.random.default_rng(seed)
    graph = random_program(30, random)
    part = families.window(graph, count, random)
    assert len(part.vertices) == min(count, len(graph.vertices))
    assert set(part.vertices) <= set(graph.vertices)
    for source, to in part.successors.items():
        for target, kind in to.items():
            assert graph.successors[source][target] == kind
    assert all(not part.predecessors[node] for node in part.inputs)
    assert Problem(part).evaluate(Problem(part).vertices) >= 0


@pytest.mark.one_version
@pytest.mark.parametrize("name", families.FAMILIES)
def test_families_draw_graphs_that_can_be_played(name):
    graph = families.traced(name, np.random.default_rng(1), "multiplications")
    assert len(graph.vertices) >= 8
    again = families.traced(name, np.random.default_rng(1), "multiplications")
    assert again.successors == graph.successors
    encoding = Encoding(Problem(graph))
    assert encoding.problem.bound <= encoding.reference <= encoding.markowitz
