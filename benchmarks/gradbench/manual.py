"""The derivatives of the evaluations beside GradBench's own by hand, which are programs in C++."""

from __future__ import annotations

import json
import pathlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from typing import Any

import jax
import numpy as np

from benchmarks import report
from benchmarks.gradbench import EVALUATIONS
from benchmarks.gradbench.evaluation import Evaluation, Function

_HEADER = ("evaluation", "size", "ours", "by hand, C++", "ours over theirs")
# Of each program in a turn; the first ones of it find cold caches.
_RUNS, _COLD = 30, 5


def measured(names: Iterable[str], checkout: str, *, turns: int = 15) -> str:
    """The table of the evaluations that are differentiated by hand in a checkout of GradBench.

    Args:
        names: of the evaluations.
        checkout: where `make -C tools/manual` has been run.
        turns: how often both programs of a row run, one after the other.

    Raises:
        FileNotFoundError: where no program of these evaluations was compiled there.
    """
    programs = pathlib.Path(checkout, "tools", "manual", "bin")
    # A number, as hello's input is, does not say how often to run.
    present = [name for name in names if name != "hello" and (programs / name).exists()]
    if not present:
        raise FileNotFoundError(f"no program in {programs}: run make -C tools/manual there")
    rows = []
    for name in present:
        evaluation = EVALUATIONS[name]
        for label, size in evaluation.sizes.items():
            for of_function, function in evaluation.functions.items():
                if function.peers:
                    command = [str(programs / name), of_function]
                    row = _row(evaluation, function, size, command, turns)
                    rows.append((f"{name}, {of_function}", label, *row))
                    print("  ".join(rows[-1]), file=sys.stderr, flush=True)
    return (
        f"Derivatives of GradBench's evaluations beside those by hand, float64, one core, medians. "
        f"{report.provenance()}\n\n{report.markdown_table(_HEADER, rows)}"
    )


def _row(
    evaluation: Evaluation,
    function: Function,
    size: tuple[int, ...],
    command: list[str],
    turns: int,
) -> tuple[str, str, str]:
    data = evaluation.drawn(size)
    arguments = jax.device_put(evaluation.read(data))
    compiled = jax.jit(function.program).lower(*arguments).compile()
    ours, theirs = [], []
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        json.dump(data | {"min_runs": _RUNS}, file)
        file.flush()
        for _ in range(turns):
            ours.append(_seconds(compiled, arguments))
            theirs.append(_seconds_by_hand([command[0], file.name, *command[1:]]))
    ratio = np.divide(ours, theirs)
    low, high = np.percentile(ratio, (25, 75))
    return (
        report.duration(float(np.median(ours))),
        report.duration(float(np.median(theirs))),
        f"{np.median(ratio):.2f} [{low:.2f}, {high:.2f}]",
    )


def _seconds(compiled: Callable[..., Any], arguments: tuple[Any, ...]) -> float:
    taken = []
    for _ in range(_RUNS):
        start = time.perf_counter()
        jax.block_until_ready(compiled(*arguments))
        taken.append(time.perf_counter() - start)
    return float(np.median(taken[_COLD:]))


def _seconds_by_hand(command: list[str]) -> float:
    """The median of the times that one of GradBench's programs prints behind its result."""
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    timings = [json.loads(line) for line in printed.splitlines()[1:]]
    taken = [each["nanoseconds"] for each in timings if each["name"] == "evaluate"]
    return float(np.median(taken[_COLD:])) / 1e9
