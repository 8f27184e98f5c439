"""What the transformation itself costs: tracing, compiling, and calls without jit.

Run it with `python -m benchmarks.overhead`. Tracing and compiling are timed in fresh processes, one
for each repetition, because a second run in one process would find caches filled: JAX's and ours.
Each ratio is taken within one process, whose two sides take turns at going first.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import numpy as np

import jax_cce
from benchmarks import report, timing
from benchmarks.tasks import TASKS, Task
from benchmarks.timing import Measured

_LENGTHS = (100, 300, 1000, 3000, 10_000)
_TRANSFORMS: dict[str, Callable[..., Any]] = {"jacobian": jax_cce.jacobian, "jacrev": jax.jacrev}


def recurrence(length: int) -> Callable[[jax.Array, jax.Array], tuple[jax.Array, jax.Array]]:
    """Returns a program of two scalars with `length` equations, each of which feeds two others."""

    def fun(a: jax.Array, b: jax.Array) -> tuple[jax.Array, jax.Array]:
        for k in range(length):
            a, b = b, jax.lax.sin(a) if k % 2 else jax.lax.mul(a, b)
        return a, b

    return fun


def _anew(fun: Callable[..., Any]) -> Callable[..., Any]:
    # JAX's caches are keyed by function objects, too.
    return lambda *args: fun(*args)


def _seconds_to_compile(transform: Callable[..., Any], task: Task) -> float:
    jax.clear_caches()
    jacobian = transform(_anew(task.fun), task.argnums)
    return timing.seconds(lambda: jax.jit(jacobian).lower(*task.args).compile())


def _seconds_to_trace(transform: Callable[..., Any], length: int) -> float:
    jax.clear_caches()
    jacobian = transform(recurrence(length), (0, 1))
    return timing.seconds(lambda: jax.make_jaxpr(jacobian)(0.5, 0.25))


def _measure_here(what: str, first: str) -> dict[str, list[float]]:
    """Measures once, in this process: one task's compilation, or tracing at every length."""
    order = sorted(_TRANSFORMS, key=lambda name: name != first)
    for name in order:
        # The first use of a transformation imports and initialises much besides.
        jax.jit(_TRANSFORMS[name](lambda x: x * jax.numpy.sin(x))).lower(1.0).compile()
    if what == "tracing":
        return {
            name: [_seconds_to_trace(_TRANSFORMS[name], length) for length in _LENGTHS]
            for name in order
        }
    return {name: [_seconds_to_compile(_TRANSFORMS[name], TASKS[what])] for name in order}


def _measure(what: str, repetitions: int) -> dict[str, list[Measured]]:
    """Measures in as many fresh processes, and returns what each position in their lists took."""
    runs = []
    for repetition in range(repetitions):
        first = list(_TRANSFORMS)[repetition % len(_TRANSFORMS)]
        child = subprocess.run(
            [sys.executable, "-m", "benchmarks.overhead", "--only", what, "--first", first],
            check=True,
            stdout=subprocess.PIPE,
            text=True,
        )
        runs.append(json.loads(child.stdout))
    return {
        name: [Measured(values) for values in zip(*(run[name] for run in runs), strict=True)]
        for name in _TRANSFORMS
    }


def compilation(repetitions: int) -> str:
    """Tabulates trace + compile times of jit(jacobian(f)) beside those of jit(jacrev(f))."""
    rows = []
    for name in TASKS:
        measured = _measure(name, repetitions)
        ours, theirs = measured["jacobian"][0], measured["jacrev"][0]
        rows.append(
            (name, report.durations(ours), report.durations(theirs), report.ratio(ours / theirs))
        )
    return report.markdown_table(
        ("trace + compile", "jit(jax_cce.jacobian)", "jit(jax.jacrev)", "ratio"), rows
    )


def unjitted_calls(turns: int) -> str:
    """Tabulates repeated calls without jit beside those of jacrev."""
    rows = []
    for name, task in TASKS.items():
        jacobians = {key: of(task.fun, task.argnums) for key, of in _TRANSFORMS.items()}
        args = jax.device_put(task.args)
        measured = timing.take_turns(
            {key: partial(f, *args) for key, f in jacobians.items()}, turns=turns
        )
        ours, theirs = measured["jacobian"], measured["jacrev"]
        rows.append(
            (name, report.durations(ours), report.durations(theirs), report.ratio(theirs / ours))
        )
    return report.markdown_table(
        ("a call without jit", "jax_cce.jacobian", "jax.jacrev", "speed-up"), rows
    )


def tracing(repetitions: int) -> str:
    """Tabulates tracing times by length, and fits the exponent with which they grow."""
    measured = _measure("tracing", repetitions)
    rows = [
        (
            f"{length:,}",
            report.durations(ours),
            report.durations(theirs),
            report.ratio(ours / theirs),
        )
        for length, ours, theirs in zip(
            _LENGTHS, measured["jacobian"], measured["jacrev"], strict=True
        )
    ]
    exponents = [
        f"{np.polyfit(np.log(_LENGTHS), np.log([m.median for m in measured[name]]), 1)[0]:.2f}"
        for name in _TRANSFORMS
    ]
    return report.markdown_table(
        ("equations traced", "jax_cce.jacobian", "jax.jacrev", "ratio"),
        [*rows, ("time ~ equations ** p, p =", *exponents, "")],
    )


def main() -> None:
    """Prints the tables, or, as a child process, one measurement as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repetitions", type=int, default=5, help="fresh processes for each row")
    parser.add_argument("--only", help=argparse.SUPPRESS)
    parser.add_argument("--first", default="jacobian", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    if arguments.only is not None:
        print(json.dumps(_measure_here(arguments.only, arguments.first)))
        return
    print(f"Medians [quartiles], float64. {report.provenance()}\n")
    print(compilation(arguments.repetitions), end="\n\n", flush=True)
    print(unjitted_calls(turns=15), end="\n\n", flush=True)
    print(tracing(arguments.repetitions))


if __name__ == "__main__":
    main()
