"""Jacobians compiled ahead of time: what the files take, and what they save.

Run it with `python -m benchmarks.artefacts`. For each reference task it writes an artefact, and
then starts processes, one after the other, each of which computes one Jacobian:

- by plain JAX from the file, with no jax_cce to import;
- by `jax_cce.load` from a file with what XLA compiled, and from one with machine code, where there
  is such;
- by `jax_cce.jacobian` under `jax.jit`, with its order searched, by XLA and as by default;
- by `jax.jacrev` under `jax.jit`.

A time is that from the function, or the file, to the first result, with tracing, planning, lowering
and compiling, but without imports; what these take is printed below the table. Nothing is kept from
one process to the next. The program from the file has to give the bits that the compiled function
gives.
"""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import subprocess
import sys
import tempfile
from collections.abc import Sequence

import jax
import numpy as np

import jax_cce
from benchmarks import report
from benchmarks.tasks import TASKS
from benchmarks.timing import Measured

# Those that a test of all this takes.
_SMALL = ("RobotArm_6DOF", "Perceptron")

_HEAD = """
import json, sys, time
start = time.perf_counter()
"""
_TAIL = """
import hashlib
digest = hashlib.sha256(b"".join(np.asarray(x).tobytes() for x in jax.tree.leaves(result)))
print(json.dumps({"import": imported - start, "first": end - imported, "bits": digest.hexdigest()}))
"""
_FROM_FILE = """
sys.modules["jax_cce"] = None  # importing it fails
import zipfile, jax, jax.export, numpy as np
jax.config.update("jax_enable_x64", True)
with np.load(sys.argv[2]) as given:
    args = [given[name] for name in given.files]
jax.devices()
imported = time.perf_counter()
with zipfile.ZipFile(sys.argv[1]) as file:
    exported = jax.export.deserialize(bytearray(file.read("program.bin")))
result = jax.block_until_ready(jax.jit(exported.call)(*args))
end = time.perf_counter()
"""
_LOADED = """
import jax, numpy as np, jax_cce
jax.config.update("jax_enable_x64", True)
with np.load(sys.argv[2]) as given:
    args = [given[name] for name in given.files]
jax.devices()
imported = time.perf_counter()
result = jax.block_until_ready(jax_cce.load(sys.argv[1])(*args))
end = time.perf_counter()
"""
_TRACED = """
import jax, numpy as np
{imports}
from benchmarks.tasks import TASKS
jax.config.update("jax_enable_x64", True)
task = TASKS[sys.argv[1]]
jax.devices()
imported = time.perf_counter()
result = jax.block_until_ready(jax.jit({jacobian})(*task.args))
end = time.perf_counter()
"""
_WAYS = {
    "file, plain JAX": _FROM_FILE,
    "file, executable": _LOADED,
    "file, machine code": _LOADED,
    "jax_cce, XLA": _TRACED.format(
        imports="import jax_cce",
        jacobian='jax_cce.jacobian(task.fun, task.argnums, backend="xla")',
    ),
    "jax_cce": _TRACED.format(
        imports="import jax_cce", jacobian="jax_cce.jacobian(task.fun, task.argnums)"
    ),
    "jax.jacrev": _TRACED.format(imports="", jacobian="jax.jacrev(task.fun, task.argnums)"),
}


def _run(script: str, *arguments: str) -> dict[str, object]:
    """What a process measures."""
    kept = {"JAX_CCE_REGISTRY": "off", "JAX_ENABLE_COMPILATION_CACHE": "false"}
    done = subprocess.run(
        [sys.executable, "-c", _HEAD + script + _TAIL, *arguments],
        env=os.environ | kept,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(done.stderr)
    return dict(json.loads(done.stdout.splitlines()[-1]))


def measured(
    name: str, directory: pathlib.Path, repeats: int
) -> tuple[int, dict[str, Measured], dict[str, Measured], bool]:
    """The bytes of a task's file, seconds by way, those of imports, and whether bits agree."""
    task = TASKS[name]
    artefact = jax_cce.compile(task.fun, task.argnums)(*task.args)
    compiled = jax_cce.compile(task.fun, task.argnums, executable=True)(*task.args)
    native = jax_cce.compile(task.fun, task.argnums, native=True)(*task.args)
    files = {
        "file, plain JAX": artefact,
        "file, executable": compiled,
        "file, machine code": native,
    }
    arguments = directory / "arguments.npz"
    np.savez(arguments, *task.args)
    for way, each in files.items():
        each.save(directory / way)
    ways = [way for way in _WAYS if way != "file, machine code" or native.native]
    found: dict[str, list[dict[str, object]]] = {way: [] for way in ways}
    for _ in range(repeats):
        for way in ways:
            told = (str(directory / way), str(arguments)) if way in files else (name,)
            found[way].append(_run(_WAYS[way], *told))
    alike = "file, plain JAX", "file, executable", "jax_cce, XLA"
    same = {run["bits"] for way in alike for run in found[way]}
    first, imports = (
        {way: Measured(tuple(float(str(r[what])) for r in runs)) for way, runs in found.items()}
        for what in ("first", "import")
    )
    return (directory / "file, plain JAX").stat().st_size, first, imports, len(same) == 1


def table(names: Sequence[str], repeats: int) -> str:
    """The figures of some tasks in Markdown.

    Raises:
        AssertionError: where a file does not give the bits that the compiled function gives.
    """
    header = ["task", "file, KB", *(f"{way}, ms" for way in _WAYS), "XLA / executable", "same bits"]
    rows = []
    imports: dict[str, list[float]] = {}
    for name in names:
        with tempfile.TemporaryDirectory() as directory:
            size, first, own, same = measured(name, pathlib.Path(directory), repeats)
        if not same:
            raise AssertionError(f"{name}: the file gives other bits than the compiled function")
        for way, each in own.items():
            imports.setdefault(way, []).append(each.median)
        cells = [f"{1e3 * first[way].median:.0f}" if way in first else "" for way in _WAYS]
        saved = (first["jax_cce, XLA"] / first["file, executable"]).median
        rows.append([name, f"{size / 1e3:.1f}", *cells, f"{saved:.1f}", "yes"])
        print(name, file=sys.stderr)
    told = ", ".join(f"{way} {np.median(each):.2f} s" for way, each in imports.items())
    return f"{report.markdown_table(header, rows)}\n\nImports take: {told}."


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tasks", nargs="*", default=[*TASKS], choices=[*TASKS])
    parser.add_argument("--repeats", type=int, default=5, help="processes for each way")
    parser.add_argument("--small", action="store_true", help="two tasks, once")
    options = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    print(report.provenance())
    print()
    small = options.small
    print(table(_SMALL if small else options.tasks, 1 if small else options.repeats))


if __name__ == "__main__":
    main()
