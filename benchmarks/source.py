"""Jacobians as readable modules: how long, how exact and how fast they are.

Run it with `python -m benchmarks.source`; `--random 200` checks random programs, for which
hypothesis and the folder `tests` have to be there.

For each reference task: the lines of the module, the scalar operations in it, whether it gives bit
for bit what `jax.jit(jax_cce.jacobian(...))` gives where XLA compiles both, in a process that
cannot import jax_cce; whether ruff accepts it; lines that nobody reads; how long it takes to write,
and what a call takes beside jax_cce and `jax.jacrev`. All times are CPU times.
"""

from __future__ import annotations

import argparse
import ast
import dataclasses
import functools
import importlib
import pathlib
import pickle
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

import jax_cce
from benchmarks import report, timing
from benchmarks.tasks import TASKS

_ROOT = pathlib.Path(__file__).parents[1]


@dataclasses.dataclass(frozen=True, eq=False)
class Case:
    """A Jacobian to be written.

    Attributes:
      name: What it is called.
      fun: The function.
      args: Its arguments.
      options: Those of `jax_cce.jacobian`.
    """

    name: str
    fun: Callable[..., Any]
    args: tuple[Any, ...]
    options: Mapping[str, Any]


def of_tasks(**options: Any) -> list[Case]:
    """The reference tasks."""
    return [
        Case(task.name, task.fun, task.args, {"argnums": task.argnums, **options})
        for task in TASKS.values()
    ]


def of_programs(count: int, **options: Any) -> list[Case]:
    """Random programs, the same each time: those of the tests, with loops, choices and masks."""
    if str(_ROOT / "tests") not in sys.path:
        sys.path.insert(0, str(_ROOT / "tests"))
    from hypothesis import HealthCheck, Phase, given, settings

    programs = importlib.import_module("cases.programs").programs
    found: list[Any] = []

    @settings(
        max_examples=count,
        derandomize=True,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(program=programs())
    def draw(program: Any) -> None:
        found.append(program)

    draw()
    return [
        Case(
            f"program {k}",
            program.function,
            program.args,
            {"argnums": program.argnums, "has_aux": program.has_aux, **options},
        )
        for k, program in enumerate(found[:count])
    ]


# What runs in the other process: every module in a folder, on its arguments.
_RUNNER = """
import importlib.util, pathlib, pickle, sys
sys.modules["jax_cce"] = sys.modules["jax_cce_search"] = None
import jax, numpy as np
jax.config.update("jax_enable_x64", sys.argv[2] == "1")
for path in sorted(pathlib.Path(sys.argv[1]).glob("*.py")):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        args, kwargs = pickle.loads(path.with_suffix(".args").read_bytes())
        function = jax.jit(module.jacobian) if sys.argv[3] == "jax" else module.jacobian
        result = jax.tree.map(np.asarray, jax.tree.leaves(function(*args, **kwargs)))
    except Exception as error:
        result = f"{type(error).__name__}: {error}"
    path.with_suffix(".result").write_bytes(pickle.dumps(result))
"""


def run_apart(
    written: Mapping[str, tuple[jax_cce.Source, tuple[Any, ...]]], backend: str = "jax"
) -> dict[str, Any]:
    """What modules give in one process in which `import jax_cce` fails.

    Args:
      written: Modules and their arguments, by name.
      backend: What they are written for.

    Returns:
      The leaves of each result, or what was raised.
    """
    with tempfile.TemporaryDirectory() as folder:
        paths = {}
        for k, (name, (source, args)) in enumerate(written.items()):
            paths[name] = source.save(pathlib.Path(folder) / f"module_{k}.py")
            plain = jax.tree.map(lambda x: x if isinstance(x, float | int) else np.asarray(x), args)
            paths[name].with_suffix(".args").write_bytes(pickle.dumps((plain, {})))
        x64 = "1" if jax.config.jax_enable_x64 else "0"  # type: ignore[attr-defined]
        subprocess.run([sys.executable, "-c", _RUNNER, folder, x64, backend], check=True)
        return {
            name: pickle.loads(path.with_suffix(".result").read_bytes())
            for name, path in paths.items()
        }


def expected(case: Case) -> list[np.ndarray]:
    """What jax_cce gives where XLA compiles it."""
    function = jax.jit(jax_cce.jacobian(case.fun, **case.options, backend="xla"))
    return list(map(np.asarray, jax.tree.leaves(function(*case.args))))


def difference(found: Any, wanted: Sequence[np.ndarray]) -> str:
    """How a result differs from what is wanted, bit for bit; "" where it does not."""
    if isinstance(found, str):
        return found
    if len(found) != len(wanted):
        return f"{len(found)} arrays and not {len(wanted)}"
    for k, (one, other) in enumerate(zip(found, wanted, strict=True)):
        if (one.shape, one.dtype) != (other.shape, other.dtype):
            return f"array {k} is {one.dtype}{one.shape} and not {other.dtype}{other.shape}"
        if one.tobytes() != other.tobytes():
            error = np.max(np.abs(one - other), initial=0)
            return f"array {k} is off by {error:.1e}"
    return ""


def dead_names(text: str) -> list[str]:
    """The names that a module assigns and nobody reads, in any of its functions."""
    tree = ast.parse(text)
    stored = {
        node.id: None
        for node in ast.walk(tree)
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)
    }
    functions = {
        node.name: None
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef) and node.name != "jacobian"
    }
    read = {
        node.id
        for node in ast.walk(tree)
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)
    }
    names = (*stored, *functions)
    return [name for name in names if name not in read and not name.startswith("_")]


def ruff() -> str | None:
    """The path of ruff; None where it is not installed."""
    beside = pathlib.Path(sys.executable).with_name("ruff")
    return str(beside) if beside.exists() else shutil.which("ruff")


def complaints(texts: Iterable[str]) -> str:
    """What ruff has to say of modules: its default rules, and its formatter at 100 columns."""
    tool = ruff()
    assert tool is not None
    with tempfile.TemporaryDirectory() as folder:
        for k, text in enumerate(texts):
            (pathlib.Path(folder) / f"module_{k}.py").write_text(text)
        says = []
        for arguments in (["check"], ["format", "--diff"]):
            done = subprocess.run(
                [tool, *arguments, "--isolated", "--no-cache", "--line-length=100", folder],
                capture_output=True,
                text=True,
            )
            if done.returncode:
                says.append(done.stdout + done.stderr)
        return "\n".join(says)


@dataclasses.dataclass(frozen=True)
class Row:
    """What was found of one case."""

    name: str
    source: jax_cce.Source
    seconds: float
    differs: str
    clean: bool
    dead: int


def rows(cases: Sequence[Case]) -> list[Row]:
    """Writes modules and runs them apart."""
    written, seconds = {}, {}
    for case in cases:
        start = time.process_time()
        source = jax_cce.source(case.fun, **case.options)(*case.args)
        seconds[case.name] = time.process_time() - start
        written[case.name] = source, case.args
    found = run_apart(written)
    results = []
    for case in cases:
        source, _ = written[case.name]
        text = str(source)
        results.append(
            Row(
                case.name,
                source,
                seconds[case.name],
                difference(found[case.name], expected(case)),
                ruff() is None or not complaints([text]),
                len(dead_names(text)),
            )
        )
    return results


def table(found: Sequence[Row], cases: Sequence[Case]) -> str:
    """The table of the tasks."""
    lines = [
        "| task | lines | multiplications | additions | bit-equal | ruff | dead | written in | "
        "run time | over jax_cce | over jax.jacrev |",
        "|---|--:|--:|--:|---|---|--:|--:|--:|--:|--:|",
    ]
    for row, case in zip(found, cases, strict=True):
        options = {k: v for k, v in case.options.items() if k != "format"}
        argnums = options["argnums"]
        contenders = {
            "module": jax.jit(row.source.function()),
            "jax_cce": jax.jit(jax_cce.jacobian(case.fun, **case.options, backend="xla")),
            "jacrev": jax.jit(jax.jacrev(case.fun, argnums)),
        }
        arguments = jax.device_put(case.args)
        times = timing.take_turns(
            {name: functools.partial(f, *arguments) for name, f in contenders.items()},
            clock=timing.cpu_seconds,
        )
        ratios = [(times["module"] / times[name]).median for name in ("jax_cce", "jacrev")]
        counts = row.source.counts
        lines.append(
            f"| {row.name} | {len(str(row.source).splitlines())} "
            f"| {counts.get('multiplications', 0):,} | {counts.get('additions', 0):,} "
            f"| {'yes' if not row.differs else row.differs} | {'clean' if row.clean else 'no'} "
            f"| {row.dead} | {row.seconds:.2f} s | {1e6 * times['module'].median:.1f} us "
            f"| {ratios[0]:.2f} | {ratios[1]:.2f} |"
        )
    return "\n".join(lines)


def summary(found: Sequence[Row]) -> str:
    """What was found of many cases, in a few lines."""
    wrong = [row for row in found if row.differs]
    lines = sorted(len(str(row.source).splitlines()) for row in found)
    says = [
        f"- modules: {len(found)}; lines: median {lines[len(lines) // 2]}, most {lines[-1]}",
        f"- bit-equal: {len(found) - len(wrong)}",
        f"- ruff-clean: {sum(row.clean for row in found)}; dead lines: "
        f"{sum(row.dead for row in found)}",
        f"- written in: {sum(row.seconds for row in found) / len(found):.2f} s in the mean",
    ]
    says += [f"- {row.name}: {row.differs}" for row in wrong]
    return "\n".join([*says, *(f"- {row.name}: not clean" for row in found if not row.clean)])


def main() -> None:
    """Prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--random", type=int, default=0, help="check so many random programs")
    parser.add_argument("--format", default="dense", help="the format of the Jacobians")
    parser.add_argument("--order", default="auto", help="the order of the eliminations")
    parser.add_argument("--show", metavar="TASK", help="print the module of a task")
    options = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    how = {"format": options.format, "order": options.order}
    if options.show:
        task = TASKS[options.show]
        print(jax_cce.source(task.fun, task.argnums, **how)(*task.args), end="")
        return
    print(f"float64, {options.format}, order {options.order}. {report.provenance()}\n")
    if options.random:
        print(summary(rows(of_programs(options.random, **how))))
        return
    cases = of_tasks(**how)
    print(table(rows(cases), cases))


if __name__ == "__main__":
    main()
