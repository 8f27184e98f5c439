"""Constant sparse matrices inside a function: time and memory against the matrix itself.

Run it with `python -m benchmarks.sparse_matrices`. A has random columns, sorted rows and a million
of these; D is a diagonal matrix. Each line is a fresh process: it plans the Jacobian as BCOO, calls
it once, which plans and compiles it, and calls it again. Seconds are those of the process on all
cores, growth is of its resident set, from before planning on.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import sparse as jsp

import jax_cce
from benchmarks import report
from benchmarks.memory import peak, resident

_REPETITIONS = 5
_FUNCTIONS: dict[str, Callable[[Any, Any, Any], Any]] = {
    "A @ x": lambda A, d, x: A @ x,
    "A @ x, BCSR": lambda A, d, x: A @ x,
    "x**2 * (A @ x)": lambda A, d, x: x**2 * (A @ x),
    "A @ x + x**3": lambda A, d, x: A @ x + x**3,
    "A(v) @ d, by v": lambda A, d, v: jsp.BCOO((v, A.indices), shape=A.shape) @ d,
    "A.T @ D @ A @ x": lambda A, d, x: A.T @ (d * (A @ x)),
}


def _matrix(rows: int, per_row: int) -> Any:
    """A matrix with random columns, sorted by row and column."""
    rng = np.random.default_rng(0)
    at = np.sort(rng.integers(0, rows, (rows, per_row)), axis=1)
    indices = np.stack([np.repeat(np.arange(rows), per_row), at.reshape(-1)], 1).astype(np.int32)
    data = jnp.asarray(rng.normal(size=len(indices)))
    return jsp.BCOO((data, jnp.asarray(indices)), shape=(rows, rows), indices_sorted=True)


def _measure_here(name: str, rows: int, per_row: int) -> dict[str, float]:
    """Plans and evaluates one Jacobian, in this process."""
    A, d = _matrix(rows, per_row), jnp.linspace(1.0, 2.0, rows)
    x = A.data if name.endswith("by v") else jnp.cos(d)
    matrix = jsp.BCSR.from_bcoo(A) if name.endswith("BCSR") else A

    def function(x: Any) -> Any:
        return _FUNCTIONS[name](matrix, d, x)

    jax.block_until_ready(jax_cce.jacobian(lambda x: x**2, format="bcoo")(x))
    found = {"matrix": float(A.data.nbytes + A.indices.nbytes)}
    before, start = resident(), time.process_time()
    jax_cce.plan(function, format="bcoo")(x)
    found["plan"], found["plan_growth"] = time.process_time() - start, float(peak() - before)
    jax_cce.cache_clear()
    jacobian = jax_cce.jacobian(function, format="bcoo")
    start = time.process_time()
    result = jax.block_until_ready(jacobian(x))
    found["first"] = time.process_time() - start
    times = []
    for _ in range(_REPETITIONS):
        start = time.process_time()
        jax.block_until_ready(jacobian(x))
        times.append(time.process_time() - start)
    found["run"], found["growth"] = statistics.median(times), float(peak() - before)
    found["nonzeros"] = float(result.nse)
    return found


def _measure(name: str, rows: int, per_row: int) -> dict[str, float]:
    """Does the same in a fresh process."""
    command = [sys.executable, "-m", "benchmarks.sparse_matrices", "--only", name]
    command += ["--rows", str(rows), "--per-row", str(per_row)]
    child = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(child.stdout)


def main() -> None:
    """Prints the table, or, as a child process, one measurement as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=10**6, help="rows of the matrix")
    parser.add_argument("--per-row", type=int, default=5, help="nonzeros of a row")
    parser.add_argument("--only", choices=_FUNCTIONS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    sizes = arguments.rows, arguments.per_row
    if arguments.only is not None:
        print(json.dumps(_measure_here(arguments.only, *sizes)))
        return
    rows = []
    for name in _FUNCTIONS:
        found = _measure(name, *sizes)
        rows.append(
            (
                name,
                f"{found['nonzeros']:,.0f}",
                *(report.duration(found[kind]) for kind in ("plan", "first", "run")),
                *(f"{found[kind] / found['matrix']:.1f}" for kind in ("plan_growth", "growth")),
            )
        )
    print(
        f"{arguments.rows:,} rows of {arguments.per_row} nonzeros, float64; data and indices of "
        f"the matrix are {found['matrix'] / 1e6:.0f} MB, the unit of growth. "
        f"{report.provenance()}\n"
    )
    header = ("function", "nonzeros", "plan", "first call", "call")
    print(report.markdown_table((*header, "growth: plan", "all"), rows))


if __name__ == "__main__":
    main()
