"""The derivatives of the evaluations beside JAX's own, on drawn inputs."""

from __future__ import annotations

import functools
import sys
import time
from collections.abc import Callable, Iterable
from typing import Any

import jax
import numpy as np

from benchmarks import report, timing
from benchmarks.gradbench import EVALUATIONS
from benchmarks.gradbench.evaluation import Evaluation, Function

_OURS = "jax_cce"
_HEADER = ("evaluation", "size", "ours", "JAX", "by", "times as fast", "build ratio", "difference")


def measured(names: Iterable[str], *, turns: int = 15) -> str:
    """The table of these evaluations: compiled programs, which take turns."""
    hello = EVALUATIONS["hello"]
    _row(hello, hello.functions["double"], (), 1)  # What only the first build of a process does.
    rows = []
    for name in names:
        evaluation = EVALUATIONS[name]
        for label, size in evaluation.sizes.items():
            for of_function, function in evaluation.functions.items():
                if function.peers:
                    row = _row(evaluation, function, size, turns)
                    rows.append((f"{name}, {of_function}", label, *row))
                    print("  ".join(map(str, rows[-1])), file=sys.stderr, flush=True)
    return (
        f"Derivatives of GradBench's evaluations on drawn inputs, float64, one core. "
        f"{report.provenance()}\n\n{report.markdown_table(_HEADER, rows)}"
    )


def _row(
    evaluation: Evaluation, function: Function, size: tuple[int, ...], turns: int
) -> tuple[str, ...]:
    arguments = jax.device_put(evaluation.read(evaluation.drawn(size)))
    programs = {_OURS: function.program, **function.peers}
    built = {name: _built(program, arguments) for name, program in programs.items()}
    calls = {name: functools.partial(compiled, *arguments) for name, (compiled, _) in built.items()}
    times = timing.take_turns(calls, turns=turns)
    best = timing.fastest({name: times[name] for name in function.peers})
    soonest = min(built[name][1] for name in function.peers)
    return (
        report.duration(times[_OURS].median),
        report.duration(times[best].median),
        best,
        report.ratio(times[best] / times[_OURS]),
        f"{built[_OURS][1] / soonest:.2f}",
        f"{difference(calls[_OURS](), calls[best]()):.0e}",
    )


def _built(program: Callable[..., Any], arguments: tuple[Any, ...]) -> tuple[Any, float]:
    """The compiled program, and the CPU seconds that tracing, planning and compiling took."""
    jax.clear_caches()
    start = time.process_time()
    compiled = jax.jit(program).lower(*arguments).compile()
    return compiled, time.process_time() - start


def difference(result: Any, expected: Any) -> float:
    """The largest difference of two trees of arrays, over the largest number of the second."""
    ours, theirs = (
        np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(each)])
        for each in (result, expected)
    )
    return float(np.abs(ours - theirs).max() / (np.abs(theirs).max() or 1.0))
