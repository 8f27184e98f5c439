"""The suite of programs: what it measures, and what its reports say."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from benchmarks import programs, suite, suite_report
from benchmarks.suite import Executable, Row, Spread
from benchmarks.suite_report import Results

pytestmark = pytest.mark.one_version


def test_programs_are_named_once_and_a_tenth_is_drawn_by_the_seed():
    chosen = programs.chosen(0)
    labels = [program.label for _, program, _ in chosen]
    assert len(labels) == len(set(labels))
    drawn = [label for label, (*_, is_drawn) in zip(labels, chosen, strict=True) if is_drawn]
    assert len(drawn) == round(len(chosen) / 11)
    assert len(labels) - len(drawn) >= 100
    assert [program.label for _, program, _ in programs.chosen(0)] == labels
    other = {program.label for _, program, is_drawn in programs.chosen(1) if is_drawn}
    assert other != set(drawn)
    assert all(program.source for _, program, _ in chosen)


@pytest.mark.parametrize("family", programs.FAMILIES, ids=lambda family: family.name)
def test_programs_have_the_dtype_and_the_points_that_they_name(family):
    for program in (family.programs[0], family.programs[-1]):
        if not program.is_installed:
            continue
        with jax.enable_x64(program.dtype == "float64"):
            fun, (x, *data) = program.build()
            leaves = jax.tree.leaves(x)
            assert {leaf.dtype.name for leaf in leaves} == {program.dtype}
            if program.batch is not None:
                assert {leaf.shape[0] for leaf in leaves} == {program.batch}
                x = jax.tree.map(lambda leaf: leaf[0], x)
            shapes = jax.eval_shape(fun, x, *data)
            assert program.derivative == "jacobian" or shapes.shape == ()


def test_one_program_is_measured():
    program = programs.FAMILIES[1].programs[-1]
    row = suite.measure(program, "dynamics", peers=["jax_cce", "jax_cce:reverse"], seconds=0.05)
    assert not row.failure
    assert set(row.peers) == {"jacfwd", "jacrev", "control", "jax_cce", "jax_cce:reverse"}
    assert row.better in suite.BASELINES
    assert row.difference < 1e-6
    ours = row.peers["jax_cce"]
    assert min(ours.trace, ours.plan, ours.compile, ours.run.median, ours.instructions) > 0
    restored = suite_report._row(json.loads(json.dumps(dataclasses.asdict(row))))
    assert restored == row


def test_a_failure_is_a_result():
    def make(_):
        raise ZeroDivisionError("no such point")

    broken = dataclasses.replace(programs.FAMILIES[1].programs[0], make=make)
    row = suite.measure(broken, "dynamics", peers=["jax_cce"])
    assert row.failure == "ZeroDivisionError: no such point"
    assert "no such point" in suite_report.page(_results(row, _row("fine", 1.0)))


def _row(label: str, speed_up: float, build: float = 1.0, noise: float = 0.01) -> Row:
    def costs(trace: float) -> Executable:
        spread = Spread(1e-5, 1e-5, 1e-5)
        return Executable(trace, 0.1, trace, spread, spread, 0, 10, 2, 0, 5.0)

    peers = {name: costs(1.0) for name in ("jacfwd", "jacrev", "control")}
    return Row(
        label,
        "family",
        "a book",
        False,
        {**peers, "jax_cce": costs(build)},
        "jacfwd",
        {
            "jax_cce": Spread(speed_up, speed_up, speed_up),
            "control": Spread(1.0, 1 - noise, 1 + noise),
        },
        0.0,
    )


def _results(*rows: Row) -> Results:
    return Results("a machine", 0, rows, ())


def test_losses_come_first_and_count_beyond_the_noise():
    rows = _row("win", 2.0), _row("loss", 0.5), _row("noise", 0.9, noise=0.1)
    assert [suite_report.is_loss(row) for row in rows] == [False, True, False]
    page = suite_report.page(_results(*rows))
    assert page.index("family: loss") < page.index("family: noise") < page.index("family: win")
    assert f"geometric mean: {np.cbrt(2.0 * 0.5 * 0.9):.2f}" in page


def test_a_comparison_names_what_became_slower():
    before = _results(_row("a", 2.0), _row("b", 1.0), _row("c", 1.0), _row("d", 1.0, noise=0.2))
    after = _results(_row("a", 1.0), _row("b", 1.0, build=1.5), _row("c", 1.05), _row("d", 0.8))
    text, regressions = suite_report.comparison(before, after)
    assert regressions == ["a", "b"]
    assert text.count("| regression |") == 2
