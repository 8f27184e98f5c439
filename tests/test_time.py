"""Programs through time: their Jacobians are JAX's, and what is said of a row is what was seen."""

import dataclasses
import json

import jax
import numpy as np
import pytest
from jax.experimental.sparse import BCOO

import jax_cce
from benchmarks import time
from benchmarks.programs import through_time
from benchmarks.time import Build, Row

pytestmark = pytest.mark.one_version


def _case(name):
    return next(case for case in through_time.CASES if case.label.startswith(name))


def _short(case):
    return dataclasses.replace(case, steps=min(case.steps, 50))


def _is_matrix(node):
    return isinstance(node, BCOO)


def test_programs_are_named_once():
    labels = [case.label for case in through_time.CASES]
    assert len(labels) == len(set(labels))
    assert {*through_time.LONG, *through_time.LENGTHS} <= {*through_time.CASES}


@pytest.mark.parametrize("case", through_time.CASES, ids=lambda case: case.label)
def test_each_program_agrees_with_jax(case):
    with jax.enable_x64(True):
        fun, (x, *data) = _short(case).make(_short(case).steps).build()
        draw = np.random.default_rng(3)
        direction = jax.tree.map(lambda leaf: jax.numpy.asarray(draw.normal(size=leaf.shape)), x)

        @jax.jit
        def both(x, direction, *data):
            jacobian = jax_cce.jacobian(fun, format=case.format)(x, *data)
            expected = jax.jvp(lambda x: fun(x, *data), (x,), (direction,))[1]
            return jacobian, expected

        jacobian, expected = both(x, direction, *data)
        blocks = [
            block.todense() if _is_matrix(block) else block
            for block in jax.tree.leaves(jacobian, is_leaf=_is_matrix)
        ]
        seen = sum(
            np.tensordot(block, leaf, axes=leaf.ndim)
            for block, leaf in zip(blocks, jax.tree.leaves(direction), strict=True)
        )
    np.testing.assert_allclose(seen, expected, rtol=1e-8, atol=1e-10 * np.abs(expected).max())


def test_a_row_says_which_mode_is_missing():
    with jax.enable_x64(True):
        row = time.measure(_short(_case("van der Pol")), 3, seconds=0.05, most_bytes=1e9)
    assert set(row.run) == set(row.builds) == {"ours", "ours by XLA", "jacfwd"}
    assert set(row.speed_ups) == {"ours", "ours by XLA"}
    assert row.difference < 1e-10
    assert not row.builds["ours by XLA"].native
    (note,) = row.notes
    assert note.startswith("jacrev: ValueError: Reverse-mode differentiation does not work")
    assert note in time.table([row])
    assert json.loads(json.dumps(dataclasses.asdict(row)))["speed_ups"] == row.speed_ups


def test_what_is_too_large_is_said_and_not_run():
    with jax.enable_x64(True):
        row = time.measure(_case("quadrotor states"), 64, seconds=0.05, most_bytes=1e9)
    assert not row.run
    assert row.notes == ("the dense Jacobians would take 1.1 GB",)
    assert "would take 1.1 GB" in time.table([row])


def _row(program, ours, by_xla, build):
    def seconds(trace):
        return Build(trace, trace, 0, 0, True)

    return Row(
        program,
        1,
        {"ours": seconds(build), "ours by XLA": seconds(3.0), "jacfwd": seconds(1.0)},
        {"ours": 1.0, "ours by XLA": 1.0, "jacfwd": 1.0},
        {"ours": ours, "ours by XLA": by_xla},
    )


def test_the_summary_names_the_worst():
    text = time.summary([_row("a", 8.0, 1.0, 0.5), _row("b", 0.5, 1.0, 2.0)])
    ours, by_xla = ([cell.strip() for cell in line.split("|")] for line in text.splitlines()[2:])
    expected = ["ours", "2", "2.00", "0.50 (b, 1)", "1", "1", "1.25", "2.00 (b, 1)"]
    assert ours[1:-1] == expected
    assert by_xla[1:-1] == [
        "ours by XLA",
        "2",
        "1.00",
        "1.00 (a, 1)",
        "0",
        "0",
        "3.00",
        "3.00 (a, 1)",
    ]


def test_a_checkpoint_around_a_step_saves_memory():
    with jax.enable_x64(True):
        text = time.memory([through_time.LONG[0]], 300)
    cells = [cell.strip().replace(",", "") for cell in text.splitlines()[2].split("|")][1:-1]
    assert cells[0] == "Lotka-Volterra 300 steps"
    jacrev, checkpointed = map(float, cells[-2:])
    assert 0 < checkpointed < jacrev


def test_building_is_timed_at_each_length():
    with jax.enable_x64(True):
        text = time.lengths([through_time.LENGTHS[1]], (3, 4))
    names = [line.split("|")[1].strip() for line in text.splitlines()[2:]]
    assert names == ["SIR epidemic, 3 steps", "SIR epidemic, 4 steps"]
