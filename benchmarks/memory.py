"""Peak memory of a Jacobian with a million rows, against the bytes of its nonzeros.

Run it with `python -m benchmarks.memory`. Each line is a fresh process: it imports, compiles and
runs a trivial Jacobian, then the one of Burgers' equation, and asks the operating system by how
much its resident set grew at most. XLA's own account of the compiled program is beside it.
"""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import resource
import subprocess
import sys
from typing import Any

import jax
import numpy as np

import jax_cce
from benchmarks import report
from benchmarks.tasks.sparse import PROBLEMS

_PROBLEM = "Burgers"
_TARGET = 20
_FORMATS = ("bcoo", "structured")
# Without jit, the static indices of a BCOO matrix are made in NumPy.
_WAYS = ("jit", "call")


def resident() -> int:
    """Bytes that this process holds now; where that cannot be told, the most it ever held."""
    statm = pathlib.Path("/proc/self/statm")
    if statm.exists():
        return int(statm.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return peak()


def peak() -> int:
    """Bytes that this process held at most."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # In bytes on macOS, in kilobytes elsewhere.
    return peak if sys.platform == "darwin" else peak * 1024


def _measure_here(format: Any, way: str, n: int) -> dict[str, int]:
    """Evaluates one Jacobian, in this process, and returns bytes by name."""
    problem = PROBLEMS[_PROBLEM]
    transformed = jax_cce.jacobian(problem.fun, format=format)
    compiled = jax.jit(transformed)
    jacobian = compiled if way == "jit" else transformed
    (trivial,) = map(jax.device_put, problem.make(problem.small, np.float64))
    jax.block_until_ready(jacobian(trivial))
    (x,) = map(jax.device_put, problem.make(n, np.float64))
    jax.block_until_ready(x)
    before = resident()
    result = jax.block_until_ready(jacobian(x))
    found = {"growth": peak() - before, "nonzeros": problem.nonzeros(n) * x.dtype.itemsize}
    assert result.shape == (n, n)
    if way == "jit":
        analysis = compiled.lower(x).compile().memory_analysis()
        for kind in ("argument", "output", "temp", "generated_code"):
            found[kind] = getattr(analysis, f"{kind}_size_in_bytes")
    return found


def _measure(format: str, way: str, n: int) -> dict[str, int]:
    """Does the same in a fresh process."""
    command = [sys.executable, "-m", "benchmarks.memory", "--only", format, way, "--size", str(n)]
    child = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(child.stdout)


def main() -> None:
    """Prints the table, or, as a child process, one measurement as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=10**6, help="the number of unknowns")
    parser.add_argument("--only", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    if arguments.only is not None:
        format, way = arguments.only
        print(json.dumps(_measure_here(format, way, arguments.size)))
        return
    rows = []
    for way in _WAYS:
        for format in _FORMATS:
            found = _measure(format, way, arguments.size)
            times = found["growth"] / found["nonzeros"]
            sizes = (
                f"{found[kind] / 1e6:.1f}" if kind in found else "-"
                for kind in ("growth", "argument", "output", "temp", "generated_code")
            )
            verdict = "yes" if times < _TARGET else "NO"
            rows.append((f"{format}, {way}", *sizes, f"{times:.1f}", verdict))
    nonzeros = found["nonzeros"] / 1e6
    print(
        f"{_PROBLEM}, n = {arguments.size:,}, float64, megabytes; the data of the nonzeros are "
        f"{nonzeros:.1f}. Growth is of the resident set, from before the first call at this size, "
        f"so it includes tracing and compiling. {report.provenance()}\n"
    )
    header = ("program", "growth", "XLA: arguments", "outputs", "temporaries", "code")
    print(report.markdown_table((*header, "growth / nonzeros", f"< {_TARGET}"), rows))


if __name__ == "__main__":
    main()
