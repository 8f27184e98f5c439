"""The game of vertex elimination: it costs what the plan counts, and leaves the same graph."""

import dataclasses
import functools
import random

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax_cce_search.alphazero import families
from jax_cce_search.alphazero.encoding import Encoding, bucket, stacked
from jax_cce_search.alphazero.graphs import random_program
from jax_cce_search.alphazero.vertex_game import UNIT, Position
from jax_cce_search.game.problem import Problem

import jax_cce
from benchmarks.tasks import TASKS
from jax_cce.algebra.costs import COSTS
from jax_cce.orders.skeleton import Skeleton

# Few different ones are few compilations.
SMALL, SCALARS, BLOCKS, LARGE = (32, 0), (96, 0), (128, 160), (160, 512)


@jax.jit
def played(game, moves):
    """Plays the moves: what each costs, whether that is a guess, and the positions after them."""

    def move(position, vertex):
        after, cost, guessed = game.step(position, vertex)
        return after, (cost, guessed, after)

    return jax.lax.scan(move, game.start, moves)[1]


def filled(encoding, order, padding):
    """The moves of an order, and then moves that are not legal: one for each node."""
    game = encoding.game(padding)
    rest = np.full(padding[0] - len(order), np.argmin(game.start.alive), np.int32)
    return game, np.concatenate([encoding.moves(order), rest])


def costs_of(encoding, order, padding):
    """What the moves of an order cost, and whether any of that is a guess."""
    game, moves = filled(encoding, order, padding)
    cost, guessed, _ = played(game, moves)
    assert not np.any(cost[len(order) :])
    return np.asarray(cost[: len(order)], np.float64), bool(np.any(guessed))


def assert_exact(encoding, order, padding):
    problem = encoding.problem
    expected = problem.evaluate(order)
    paid, total = encoding.priced(order)
    cost, guessed = costs_of(encoding, order, padding)
    assert not guessed
    assert cost.tolist() == paid.tolist()
    assert problem.prefix_cost + cost.sum() == total == expected


def shuffled(problem, seed):
    return np.random.default_rng(seed).permutation(problem.vertices).tolist()


@st.composite
def with_outputs_inside(draw):
    """Random graphs of scalars, some of whose vertices are outputs too."""
    rng = random.Random(draw(st.integers(0, 2**32)))
    inputs, last = 3, 20
    edges = {
        (s, t) for t in range(inputs, last + 2) for s in range(min(t, last)) if rng.random() < 0.3
    }
    outputs = {last, last + 1} | {v for v in range(inputs, last) if rng.random() < 0.3}
    return Skeleton.from_edges(edges, range(inputs), outputs)


def programs():
    seeds = st.integers(0, 2**32)
    return st.builds(lambda n, s: random_program(n, np.random.default_rng(s)), vertices, seeds)


vertices = st.integers(3, 20)


@functools.cache
def task_encoding(name, measure):
    task = TASKS[name]
    plan = jax_cce.plan(task.fun, task.argnums, order="reverse")(*task.args)
    return Encoding(Problem.of(plan.graph, measure))


@functools.cache
def array_encodings():
    """For each family of array programs a whole graph and a part of another one."""
    found = []
    for number, (name, cost) in enumerate(zip(families.ARRAYS, COSTS, strict=True)):
        rng = np.random.default_rng(number)
        whole = families.traced(name, rng, cost)
        part = families.window(families.traced(name, rng, cost), 7, rng)
        found += [Encoding(Problem(whole)), Encoding(Problem(part))]
    return found


@pytest.mark.one_version
@pytest.mark.parametrize("measure", ["multiplications", "flops"])
@pytest.mark.parametrize("name", TASKS)
def test_orders_of_the_reference_tasks_cost_what_they_cost_in_the_problem(name, measure):
    encoding = task_encoding(name, measure)
    problem = encoding.problem
    for order in (shuffled(problem, 5), problem.vertices[::-1]):
        problem.evaluate(order)  # tabulates what is new
        paddings = (BLOCKS, LARGE) if encoding.kinds else (SCALARS, (160, 0))
        needed = len(encoding.nodes), encoding.kinds
        assert_exact(encoding, order, next(p for p in paddings if np.all(np.less_equal(needed, p))))


@settings(max_examples=25)
@given(st.one_of(programs(), with_outputs_inside()), st.integers(0, 99))
def test_orders_of_random_graphs_of_scalars_cost_what_they_cost_in_the_problem(graph, seed):
    problem = Problem(graph)
    if problem.vertices:
        assert_exact(Encoding(problem), shuffled(problem, seed), SMALL)


def test_array_programs_played_side_by_side_cost_what_they_cost_in_the_problem():
    encodings = array_encodings()
    orders = [shuffled(encoding.problem, 3) for encoding in encodings]
    expected = [e.problem.evaluate(order) for e, order in zip(encodings, orders, strict=True)]
    # The largest, in which all are exact: rare kinds are not left out.
    padding = max(e.padding[0] for e in encodings), bucket(max(e.kinds for e in encodings))
    games, moves = zip(
        *(filled(e, order, padding) for e, order in zip(encodings, orders, strict=True)),
        strict=True,
    )
    cost, guessed, _ = jax.vmap(played)(stacked(games), np.stack(moves))
    assert not np.any(guessed)
    for encoding, order, row, exact in zip(encodings, orders, cost, expected, strict=True):
        paid, total = encoding.priced(order)
        assert row[: len(order)].tolist() == paid.tolist()
        assert encoding.problem.prefix_cost + np.sum(row, dtype=np.float64) == total == exact


def edges_of(encoding, state):
    """The edges of a skeleton as the game numbers nodes and kinds."""
    number = encoding.number
    return {
        (number[source], number[target]): kind + 1 if encoding.kinds else UNIT
        for source, to in state.successors.items()
        for target, kind in to.items()
    }


def assert_same_positions(encoding, order, padding):
    game, moves = filled(encoding, order, padding)
    positions = jax.tree.map(np.asarray, played(game, moves)[2])
    state, left = encoding.problem.reduced.copy(), set(encoding.moves(order).tolist())
    for turn, vertex in enumerate(order):
        state.eliminate(vertex)
        left.remove(encoding.number[vertex])
        kind = positions.kind[turn]
        found = {(int(u), int(v)): int(kind[u, v]) for u, v in zip(*np.nonzero(kind), strict=True)}
        assert found == edges_of(encoding, state)
        assert set(np.flatnonzero(positions.alive[turn]).tolist()) == left
    # What is not legal leaves the position as it is.
    assert np.all(positions.kind[len(order) :] == positions.kind[len(order) - 1])


@pytest.mark.one_version
@settings(max_examples=15)
@given(st.one_of(programs(), with_outputs_inside()), st.integers(0, 99))
def test_positions_are_those_of_the_skeleton(graph, seed):
    problem = Problem(graph)
    if problem.vertices:
        assert_same_positions(Encoding(problem), shuffled(problem, seed), SMALL)


@pytest.mark.one_version
def test_positions_of_array_programs_have_the_kinds_of_the_skeleton():
    encoding = task_encoding("Perceptron", "flops")
    order = shuffled(encoding.problem, 5)
    encoding.problem.evaluate(order)
    assert_same_positions(encoding, order, BLOCKS)


@pytest.mark.one_version
def test_an_output_that_is_a_vertex_keeps_its_incoming_edges():
    # 2 is an output, and has too many neighbours to be eliminated beforehand.
    edges = [(0, 2), (1, 2), (2, 3), (2, 4), (3, 5), (4, 5), (3, 6), (4, 6), (0, 3), (1, 4)]
    encoding = Encoding(Problem(Skeleton.from_edges(edges, (0, 1), (2, 5, 6))))
    game = jax.tree.map(jnp.asarray, encoding.game(SMALL))
    at = encoding.number
    after, cost, _ = game.step(game.start, at[2])
    assert cost == 4
    assert not after.alive[at[2]]
    assert np.flatnonzero(after.kind[:, at[2]]).tolist() == sorted((at[0], at[1]))
    assert not np.any(after.kind[at[2]])
    gone, _, _ = game.step(after, at[3])
    assert not np.any(gone.kind[:, at[3]])


@pytest.mark.one_version
@pytest.mark.parametrize("name, padding", [("Perceptron", BLOCKS), ("RobotArm_6DOF", SCALARS)])
def test_a_move_that_is_not_legal_changes_nothing_and_costs_nothing(name, padding):
    encoding = task_encoding(name, "multiplications")
    game = jax.tree.map(jnp.asarray, encoding.game(padding))
    step = jax.jit(lambda game, position, vertex: game.step(position, vertex))
    eliminated = encoding.number[encoding.problem.vertices[0]]
    position, _, _ = step(game, game.start, eliminated)
    illegal = {
        "eliminated": eliminated,
        "input": int(np.argmax(game.is_input)),
        "output": int(np.argmax(game.is_output & ~game.start.alive)),
        "padding": padding[0] - 1,
    }
    over = Position(position.kind, jnp.zeros_like(position.alive))
    for vertex in illegal.values():
        for before in (position, over):
            after, cost, guessed = step(game, before, vertex)
            assert np.array_equal(after.kind, before.kind)
            assert np.array_equal(after.alive, before.alive)
            assert cost == 0
            assert not guessed


def forgotten(encoding):
    """Forgets all products and sums."""
    algebra = encoding.problem.reduced.algebra
    algebra.products.clear()
    algebra.totals.clear()


@pytest.mark.one_version
def test_what_is_not_tabulated_is_flagged_until_it_is_worked_out():
    encoding = Encoding(task_encoding("Perceptron", "flops").problem)
    order = shuffled(encoding.problem, 8)
    forgotten(encoding)
    assert costs_of(encoding, order, BLOCKS)[1]
    encoding.problem.evaluate(order)
    assert_exact(encoding, order, BLOCKS)


@pytest.mark.one_version
@pytest.mark.parametrize("seed", range(6))
def test_what_is_not_flagged_is_right(seed):
    encoding = Encoding(task_encoding("Perceptron", "flops").problem)
    order = shuffled(encoding.problem, seed)
    forgotten(encoding)
    for known in range(3):
        encoding.problem.evaluate(shuffled(encoding.problem, 100 + known))
    game, moves = filled(encoding, order, BLOCKS)
    cost, guessed, _ = played(game, moves)
    sure = int(np.argmax(guessed)) if np.any(guessed) else len(order)
    assert cost[:sure].tolist() == encoding.priced(order)[0][:sure].tolist()


@pytest.mark.one_version
def test_only_the_last_move_pays_for_the_final_form():
    encoding = task_encoding("Perceptron", "flops")
    order = shuffled(encoding.problem, 5)
    encoding.problem.evaluate(order)
    game, moves = filled(encoding, order, BLOCKS)
    unknown = np.where(np.arange(BLOCKS[1]) > 0, -1, 0).astype(np.float32)
    tables = dataclasses.replace(game.tables, final_cost=unknown)
    cost, guessed, _ = played(dataclasses.replace(game, tables=tables), moves)
    last = len(order) - 1
    assert np.flatnonzero(guessed).tolist() == [last]
    assert cost[:last].tolist() == encoding.priced(order)[0][:last].tolist()


@pytest.mark.one_version
def test_kinds_that_do_not_fit_are_guessed():
    encoding = task_encoding("Perceptron", "flops")
    order = encoding.problem.vertices
    cost, guessed = costs_of(encoding, order, (BLOCKS[0], 4))
    assert guessed
    assert np.all(np.isfinite(cost))
    assert np.all(cost >= 0)


@pytest.mark.one_version
def test_a_graph_that_does_not_fit_its_padding_is_refused():
    encoding = task_encoding("RobotArm_6DOF", "multiplications")
    count = len(encoding.nodes)
    with pytest.raises(ValueError, match=rf"{count} nodes .* padded to {count - 1}\b"):
        encoding.game((count - 1, 0))
    assert len(encoding.game((count, 0)).size) == count


@pytest.mark.one_version
def test_moves_and_orders_are_each_others_inverse():
    encoding = task_encoding("Greeks", "flops")
    order = tuple(shuffled(encoding.problem, 1))
    moves = encoding.moves(order)
    assert encoding.order(moves) == order
    padded = [*moves, *(encoding.number[node] for node in encoding.problem.reduced.inputs[:2])]
    assert encoding.order(padded) == order


@pytest.mark.one_version
@given(st.integers(0, 5000), st.integers(0, 5000))
def test_buckets_are_monotone_and_large_enough(one, other):
    assert bucket(one) >= one
    assert bucket(min(one, other)) <= bucket(max(one, other))
    assert bucket(bucket(one)) == bucket(one)
    assert bucket(one) <= max(16, 4 * one / 3 + 16)


@pytest.mark.one_version
def test_buckets_are_few():
    assert len({bucket(count) for count in range(1, 3001)}) <= 32
