"""Jacobians through time against the better of JAX's modes: `python -m benchmarks.time`.

Filters, smoothers, integrators, recurrent networks and iterations in float64 on one core, for one
point and, by `jax.vmap` outside, for many; ours with its native kernels and through XLA alone. The
executables of a row take turns. Every build starts from empty caches with a function that JAX has
not seen, and counts in CPU seconds: tracing, planning, lowering and compiling.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import gc
import json
import math
import pathlib
import re
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental.sparse import BCOO

import jax_cce
from benchmarks import report, suite, timing
from benchmarks.programs import through_time
from benchmarks.programs.program import Program
from benchmarks.programs.through_time import Case
from benchmarks.timing import Measured

OURS = ("ours", "ours by XLA")
_POINTS = (1, 64, 1024)
_LENGTHS = (10, 100, 1000, 10_000)
_LONG = 10_000
_FAR_SLOWER = 5


@dataclasses.dataclass(frozen=True)
class Build:
    """What making an executable took.

    Attributes:
      trace: CPU seconds to trace, plan and lower.
      compile: CPU seconds in the compiler.
      temporaries: Bytes that a call needs besides arguments and results, as XLA counts them.
      results: Bytes of the results.
      native: Whether it calls a native kernel.
    """

    trace: float
    compile: float
    temporaries: int
    results: int
    native: bool

    @property
    def seconds(self) -> float:
        """CPU seconds of both."""
        return self.trace + self.compile


@dataclasses.dataclass(frozen=True)
class Row:
    """One program at a number of points.

    Attributes:
      program: Its name.
      points: At how many points.
      builds: What making each peer's executable took.
      run: Seconds for a call of each peer, in the middle turn.
      speed_ups: The faster mode's time over that of each of ours, in the middle turn.
      difference: The largest difference of ours from the faster mode, relative to the largest
        entry of the block that it lies in.
      notes: What could not be measured, and why.
    """

    program: str
    points: int
    builds: Mapping[str, Build] = dataclasses.field(default_factory=dict)
    run: Mapping[str, float] = dataclasses.field(default_factory=dict)
    speed_ups: Mapping[str, float] = dataclasses.field(default_factory=dict)
    difference: float = 0.0
    notes: tuple[str, ...] = ()

    @property
    def build_ratios(self) -> dict[str, float]:
        """The seconds of our builds over those of the mode that is built faster."""
        least = min(self.builds[mode].seconds for mode in suite.BASELINES if mode in self.builds)
        return {peer: self.builds[peer].seconds / least for peer in OURS if peer in self.builds}


def derivatives(case: Case, fun: Callable[..., Any]) -> dict[str, Callable[..., Any]]:
    """The Jacobian as each peer computes it: for one point, not compiled."""
    return {
        "ours": jax_cce.jacobian(fun, format=case.format),
        "ours by XLA": jax_cce.jacobian(fun, format=case.format, backend="xla"),
        "jacfwd": jax.jacfwd(fun),
        "jacrev": jax.jacrev(fun),
    }


def build(
    peer: str, case: Case, program: Program, fun: Callable[..., Any], arguments: tuple[Any, ...]
) -> tuple[Any, Build]:
    """Compiles a peer's Jacobian from empty caches, and says what that took."""
    transformed = derivatives(case, lambda *inputs: fun(*inputs))[peer]
    if program.batch is not None:
        transformed = jax.vmap(transformed, in_axes=(0, *(None for _ in arguments[1:])))
    suite.forget()
    gc.collect()
    with suite.empty_registry():
        start = time.process_time()
        lowered = jax.jit(transformed).lower(*arguments)
        traced = time.process_time()
        compiled = lowered.compile()
        done = time.process_time()
    analysis = compiled.memory_analysis()
    return compiled, Build(
        trace=traced - start,
        compile=done - traced,
        temporaries=int(getattr(analysis, "temp_size_in_bytes", 0)),
        results=int(getattr(analysis, "output_size_in_bytes", 0)),
        native="jax_cce_" in lowered.as_text(),
    )


def _made(case: Case, points: int) -> tuple[Program, Callable[..., Any], tuple[Any, ...]]:
    program = case.make(case.steps).settings(batch=None if points == 1 else points)
    return program, *program.build()


def dense_bytes(program: Program, fun: Callable[..., Any], arguments: tuple[Any, ...]) -> int:
    """Bytes of the dense Jacobians at all points."""
    x, *data = arguments
    if program.batch is not None:
        x = jax.tree.map(lambda leaf: leaf[0], x)
    outputs = sum(leaf.size for leaf in jax.tree.leaves(jax.eval_shape(fun, x, *data)))
    inputs = sum(leaf.size for leaf in jax.tree.leaves(x))
    return 8 * (program.batch or 1) * outputs * inputs


def measure(
    case: Case, points: int, *, seconds: float, most_bytes: float, before: Row | None = None
) -> Row:
    """Builds every peer's executable of one program, and lets them take turns.

    Args:
      case: The program and our format.
      points: At how many points.
      seconds: How long the turns go on, all peers together; a peer that takes longer for a single
        call is called once.
      most_bytes: Where the dense Jacobians would take more, nothing is run; nor are executables
        that need four times as much.
      before: The same at fewer points: a mode that was far slower than the other there is not run
        where it would take longer than `seconds`.
    """
    row = Row(case.label, points)
    program, fun, arguments = _made(case, points)
    if (dense := dense_bytes(program, fun, arguments)) > most_bytes:
        note = f"the dense Jacobians would take {dense / 1e9:.1f} GB"
        return dataclasses.replace(row, notes=(note,))
    compiled, builds, notes = {}, {}, []
    for peer in (*OURS, *suite.BASELINES):
        try:
            executable, builds[peer] = build(peer, case, program, fun, arguments)
        except Exception as error:  # of any type: not every function has both modes
            message, *_ = str(error).splitlines() or [""]
            notes.append(f"{peer}: {type(error).__name__}: {message}")
            continue
        if (needed := builds[peer].temporaries + builds[peer].results) > 4 * most_bytes:
            notes.append(f"{peer} would take {needed / 1e9:.1f} GB")
            continue
        if peer in suite.BASELINES and _is_hopeless(peer, before, points, seconds):
            notes.append(f"{peer} was far slower at fewer points, and is not run")
            continue
        compiled[peer] = executable
    row = dataclasses.replace(row, builds=builds, notes=tuple(notes))
    modes = [mode for mode in suite.BASELINES if mode in compiled]
    if not modes:
        return row
    calls = {peer: functools.partial(call, *arguments) for peer, call in compiled.items()}
    measured = _take_turns(calls, seconds)
    better = timing.fastest({mode: measured[mode] for mode in modes})
    ours = [peer for peer in OURS if peer in compiled]
    expected = calls[better]()
    return dataclasses.replace(
        row,
        run={peer: values.median for peer, values in measured.items()},
        speed_ups={peer: _ratio(measured[better], measured[peer]) for peer in ours},
        difference=max((_difference(calls[peer](), expected) for peer in ours), default=0.0),
    )


def _is_hopeless(mode: str, before: Row | None, points: int, seconds: float) -> bool:
    if before is None or not before.run:
        return False
    if mode not in before.run:
        return True
    least = min(before.run[other] for other in suite.BASELINES if other in before.run)
    taken = before.run[mode]
    return taken > _FAR_SLOWER * least and taken * points / before.points > seconds


def _take_turns(calls: Mapping[str, Callable[[], object]], seconds: float) -> dict[str, Measured]:
    """Seconds for a call of each; what takes longer than all turns should is called once."""
    once = {name: Measured((timing.seconds(call),)) for name, call in calls.items()}
    quick = {name: calls[name] for name, values in once.items() if values.median <= seconds}
    if not quick:
        return once
    turn_seconds = 0.02
    turn = sum(max(turn_seconds, once[name].median) for name in quick)
    turns = int(np.clip(seconds / max(turn, turn_seconds), 3, 15))
    return once | timing.take_turns(quick, turns=turns, turn_seconds=turn_seconds)


def _ratio(one: Measured, other: Measured) -> float:
    if len(one.values) == len(other.values):
        return (one / other).median
    return one.median / other.median


def _difference(ours: Any, theirs: Any) -> float:
    def dense(block: Any) -> Any:
        return block.todense() if isinstance(block, BCOO) else block

    largest = 0.0
    ours = jax.tree.map(dense, ours, is_leaf=lambda node: isinstance(node, BCOO))
    for one, other in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        scale = jnp.maximum(jnp.abs(other).max(), np.finfo(other.dtype).tiny)
        # What is not a number differs without bound.
        difference = jnp.nan_to_num(jnp.abs(one - other) / scale, nan=np.inf, posinf=np.inf)
        largest = max(largest, float(difference.max()))
    return largest


def table(rows: Sequence[Row]) -> str:
    """The rows that were measured, and a line for each thing that was not."""
    header = ["program", "points", "kernel", *OURS, *suite.BASELINES, "times as fast", "by XLA"]
    header += ["build ratio", "by XLA", "difference"]
    cells: list[list[object]] = []
    for row in rows:
        if not row.run:
            continue
        ratios = row.build_ratios
        cells.append(
            [
                row.program,
                row.points,
                "yes" if "ours" in row.builds and row.builds["ours"].native else "no",
                *(
                    report.duration(row.run[peer]) if peer in row.run else "-"
                    for peer in (*OURS, *suite.BASELINES)
                ),
                *(f"{row.speed_ups[peer]:.2f}" if peer in row.speed_ups else "-" for peer in OURS),
                *(f"{ratios[peer]:.2f}" if peer in ratios else "-" for peer in OURS),
                f"{row.difference:.0e}",
            ]
        )
    notes = [f"- {row.program}, {row.points} points: {note}" for row in rows for note in row.notes]
    return "\n".join([report.markdown_table(header, cells), "", *notes])


def summary(rows: Sequence[Row]) -> str:
    """How ours compare with the faster mode over all rows."""
    cells = []
    for peer in OURS:
        measured = [row for row in rows if peer in row.speed_ups]
        if not measured:
            continue
        factors = np.array([row.speed_ups[peer] for row in measured])
        ratios = np.array([row.build_ratios[peer] for row in measured])
        worst, slowest = measured[int(factors.argmin())], measured[int(ratios.argmax())]
        cells.append(
            [
                peer,
                len(measured),
                f"{math.exp(np.log(factors).mean()):.2f}",
                f"{factors.min():.2f} ({worst.program}, {worst.points})",
                int((factors >= 2).sum()),
                int((factors < 1).sum()),
                f"{np.median(ratios):.2f}",
                f"{ratios.max():.2f} ({slowest.program}, {slowest.points})",
            ]
        )
    header = ["", "rows", "geometric mean", "worst", "at least 2", "below 1"]
    return report.markdown_table([*header, "build, median", "build, worst"], cells)


def memory(cases: Sequence[Case], steps: int) -> str:
    """What a call needs besides arguments and results, after as many steps."""
    rows = []
    for case in cases:
        program = case.make(steps)
        fun, arguments = program.build()
        needed = {
            peer: build(peer, case, program, fun, arguments)[1].temporaries
            for peer in (*OURS, *suite.BASELINES)
        }
        checkpointed = case.make(steps, functools.partial(jax.checkpoint, prevent_cse=False))
        fun, arguments = checkpointed.build()
        needed["of steps"] = build("jacrev", case, checkpointed, fun, arguments)[1].temporaries
        rows.append([program.name, *(_kilobytes(size) for size in needed.values())])
    header = ["program, kilobytes", *OURS, *suite.BASELINES, "jacrev, each step checkpointed"]
    return report.markdown_table(header, rows)


def _kilobytes(size: int) -> str:
    return f"{size / 1000:,.1f}"


def lengths(cases: Sequence[Case], steps: Sequence[int]) -> str:
    """How long tracing and compiling take at some numbers of steps."""
    rows = []
    for case in cases:
        for number in steps:
            program = case.make(number)
            fun, arguments = program.build()
            row: list[object] = [program.name]
            for peer in (*OURS, *suite.BASELINES):
                took = build(peer, case, program, fun, arguments)[1]
                row.append(f"{report.duration(took.trace)} + {report.duration(took.compile)}")
            rows.append(row)
    return report.markdown_table(["trace + compile", *OURS, *suite.BASELINES], rows)


def _warm_up() -> None:
    """The first use of a transformation and of the compilers initialises much besides."""
    x = np.ones(3)
    for derivative in derivatives(through_time.LENGTHS[0], jnp.sin).values():
        jax.block_until_ready(jax.jit(derivative)(x))


def main() -> None:
    """Prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", metavar="REGEX", help="programs whose names match")
    parser.add_argument("--points", type=int, nargs="+", default=_POINTS)
    parser.add_argument("--seconds", type=float, default=2.0, help="of turns for each row")
    parser.add_argument(
        "--most-gigabytes", type=float, default=1.0, help="of dense Jacobians that are run"
    )
    parser.add_argument("--json", type=pathlib.Path, metavar="PATH", help="write the rows there")
    parser.add_argument(
        "--memory", action="store_true", help=f"instead: the memory of {_LONG:,} steps"
    )
    parser.add_argument(
        "--lengths", action="store_true", help="instead: building for 10 to 10,000 steps"
    )
    asked = parser.parse_args()

    def chosen(cases: Sequence[Case]) -> list[Case]:
        return [case for case in cases if re.search(asked.only, case.label)]

    suite.keep_to(1)
    with jax.enable_x64(True):
        print(f"Jacobians through time, float64, one core. {report.provenance()}\n")
        _warm_up()
        if asked.memory:
            print(memory(chosen(through_time.LONG), _LONG))
        if asked.lengths:
            print(lengths(chosen(through_time.LENGTHS), _LENGTHS))
        if asked.memory or asked.lengths:
            return
        rows = []
        for case in chosen(through_time.CASES):
            row = None
            for points in sorted(asked.points):
                bound = 1e9 * asked.most_gigabytes
                row = measure(case, points, seconds=asked.seconds, most_bytes=bound, before=row)
                rows.append(row)
                factors = ", ".join(f"{peer} {row.speed_ups[peer]:.2f}" for peer in row.speed_ups)
                print(f"{case.label}, {points} points: {factors}", file=sys.stderr, flush=True)
                if asked.json is not None:
                    _save(rows, asked.json)
    print(table(rows), end="\n\n")
    print(summary(rows))


def _save(rows: Sequence[Row], path: pathlib.Path) -> None:
    content = {"provenance": report.provenance(), "rows": [*map(dataclasses.asdict, rows)]}
    path.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
