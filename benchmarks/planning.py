"""How planning grows with a program: CPU seconds and exponents, by family and format.

Run it with `python -m benchmarks.planning`. Each family of programs is planned at growing
sizes in a process of its own, from tracing to the finished plan, until a size takes longer than
`--limit` seconds of CPU time, so that it always ends. The exponent p of seconds ~ size ** p is
fitted to the sizes from 100 on that were planned in time; the process's start is not counted.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

import jax_cce
from benchmarks import report

_SIZES = (10, 30, 100, 300, 1000, 3000, 10_000)
_FORMATS = ("dense", "bcoo", "structured")
# Smaller programs are planned in a time that hardly depends on them.
_LEAST_FITTED = 100
_UNKNOWNS = 20

Made = tuple[Callable[..., Any], jax.Array]


def _scan(steps: int) -> Made:
    """A recurrence whose state remembers every input."""
    return lambda x: lax.scan(lambda c, a: (jnp.sin(c) * a,) * 2, 1.0, x)[1], jnp.ones(steps)


def _delay(steps: int) -> Made:
    """A recurrence whose state is the last input."""
    step = lambda c, a: (a, jnp.tanh(0.5 * a + 0.3 * c * a))  # noqa: E731
    return lambda x: lax.scan(step, 0.0, x)[1], jnp.ones(steps)


def _loop(equations: int) -> Made:
    """The recurrence y[k] = x[k] + y[k - 1] * x[k], unrolled by Python."""

    def fun(x: jax.Array) -> jax.Array:
        parts = list(x)
        results = [parts[0]]
        for part in parts[1:]:
            results.append(part + results[-1] * part)
        return jnp.stack(results)

    return fun, jnp.ones(max(2, equations // 5))


def _steps(x: jax.Array) -> jax.Array:
    return x + 0.01 * jnp.sin(jnp.roll(x, 1)) * x


def _stencil(equations: int) -> Made:
    """Steps of a stencil on a ring of 20 unknowns, unrolled by Python."""

    def fun(x: jax.Array) -> jax.Array:
        for _ in range(max(1, equations // 7)):
            x = _steps(x)
        return x

    return fun, jnp.linspace(0.1, 1.0, _UNKNOWNS)


def _fori(steps: int) -> Made:
    """The same steps in a loop."""
    return lambda x: lax.fori_loop(0, steps, lambda _, x: _steps(x), x), jnp.ones(_UNKNOWNS)


def _associative_scan(length: int) -> Made:
    """Prefixes of affine maps, in logarithmically many array operations."""

    def join(a: Any, b: Any) -> Any:
        return b[0] * a[0], b[0] * a[1] + b[1]

    def fun(w: jax.Array) -> jax.Array:
        return lax.associative_scan(join, (jnp.repeat(w[None], length, 0), jnp.ones((length, 4))))[
            1
        ]

    return fun, jnp.ones(4)


def multiplied(p: jax.Array, q: jax.Array) -> jax.Array:
    """The product of two quaternions (w, x, y, z)."""
    scalar = p[:1] * q[:1] - jnp.sum(p[1:] * q[1:], keepdims=True)
    return jnp.concatenate([scalar, p[:1] * q[1:] + q[:1] * p[1:] + jnp.cross(p[1:], q[1:])])


def relative(a: jax.Array, b: jax.Array) -> jax.Array:
    """The motion between two poses (quaternion, position), 6 numbers."""
    back = a[:4] * jnp.array([1.0, -1.0, -1.0, -1.0])
    turn = multiplied(back, b[:4])
    moved = multiplied(multiplied(back, jnp.concatenate([jnp.zeros(1), b[4:] - a[4:]])), a[:4])
    return jnp.concatenate([2.0 * turn[1:] / turn[0], moved[1:]])


def pose_graph(poses: int) -> Made:
    """Residuals of a chain of poses with a loop closure for every tenth, by `jax.vmap`."""
    chain = np.arange(poses - 1)
    closures = np.arange(0, poses - 5, 10)
    one = np.concatenate([chain, closures])
    other = np.concatenate([chain + 1, (closures * 7 + 5) % poses])
    x = np.random.default_rng(0).normal(size=(poses, 7))
    return lambda x: jax.vmap(relative)(x[one], x[other]), jnp.asarray(x)


def _sum(equations: int) -> Made:
    """A sum of many terms, one after the other."""

    def fun(x: jax.Array) -> jax.Array:
        total = x[0]
        for k in range(equations // 5):
            total = total + jnp.sin(x[k % _UNKNOWNS]) * x[(3 * k) % _UNKNOWNS]
        return total

    return fun, jnp.ones(_UNKNOWNS)


def _concatenation(operands: int) -> Made:
    """One concatenation of many operands."""
    return lambda x: jnp.concatenate(
        [jnp.sin(x[k : k + 2]) for k in range(operands // 3)]
    ), jnp.ones(operands // 3 + 1)


def _switch(branches: int) -> Made:
    """One of many branches, by a value."""
    several = [lambda x, k=k: jnp.sin(x) * k for k in range(branches)]
    return lambda x: lax.switch(jnp.int32(x[0]), several, x), jnp.ones(_UNKNOWNS)


def _gathers(equations: int) -> Made:
    """Reads at irregular positions, one after the other."""
    draw = np.random.default_rng(0)
    at = [draw.permutation(_UNKNOWNS) for _ in range(max(1, equations // 4))]

    def fun(x: jax.Array) -> jax.Array:
        for places in at:
            x = jnp.sin(x[places]) + x
        return x

    return fun, jnp.ones(_UNKNOWNS)


FAMILIES: dict[str, Callable[[int], Made]] = {
    "scan, recurrence": _scan,
    "scan, delay": _delay,
    "unrolled recurrence": _loop,
    "unrolled stencil": _stencil,
    "fori_loop, stencil": _fori,
    "associative_scan": _associative_scan,
    "pose graph": pose_graph,
    "long sum": _sum,
    "wide concatenation": _concatenation,
    "many branches": _switch,
    "chain of gathers": _gathers,
}


def _measure_here(family: str, form: Any, sizes: list[int], limit: float) -> None:
    """Plans at growing sizes, printing CPU seconds as JSON, until the system ends the process."""
    jax_cce.plan(lambda x: x * jnp.sin(x), format=form)(jnp.ones(3))
    for size in sizes:
        fun, x = FAMILIES[family](size)
        start = time.process_time()
        _, hard = resource.getrlimit(resource.RLIMIT_CPU)
        resource.setrlimit(resource.RLIMIT_CPU, (int(start + limit) + 1, hard))
        plan = jax_cce.plan(fun, format=form)(x)
        seconds = time.process_time() - start
        print(json.dumps([size, seconds, len(plan.steps)]), flush=True)


def measured(family: str, form: str, sizes: list[int], limit: float) -> dict[int, float]:
    """CPU seconds to plan a family at each size, as far as the limit allows."""
    command = [sys.executable, "-m", "benchmarks.planning", "--limit", str(limit)]
    command += ["--sizes", *map(str, sizes), "--only", family, form]
    child = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    return {size: seconds for size, seconds, _ in map(json.loads, child.stdout.splitlines())}


def exponent(seconds: dict[int, float]) -> str:
    """The slope of the line through log(seconds) over log(size)."""
    fitted = {size: value for size, value in seconds.items() if size >= _LEAST_FITTED}
    if len(fitted) < 2:
        return "-"
    return f"{np.polyfit(np.log(list(fitted)), np.log(list(fitted.values())), 1)[0]:.2f}"


def main() -> None:
    """Prints the table, or, as a child process, one family's seconds as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--limit", type=float, default=60.0, help="CPU seconds for one plan")
    parser.add_argument("--sizes", type=int, nargs="+", default=list(_SIZES))
    parser.add_argument("--families", nargs="+", default=list(FAMILIES), choices=list(FAMILIES))
    parser.add_argument("--formats", nargs="+", default=list(_FORMATS), choices=_FORMATS)
    parser.add_argument("--only", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    if arguments.only is not None:
        family, form = arguments.only
        _measure_here(family, form, arguments.sizes, arguments.limit)
        return
    print(f"CPU seconds to plan, float64. {report.provenance()}\n")
    header = ("family", "format", *(f"{size:,}" for size in arguments.sizes), "exponent")
    rows = []
    for family in arguments.families:
        for form in arguments.formats:
            seconds = measured(family, form, arguments.sizes, arguments.limit)
            late = f"> {arguments.limit:.0f} s"
            cells = [report.duration(seconds[n]) if n in seconds else late for n in arguments.sizes]
            rows.append((family, form, *cells, exponent(seconds)))
            print(*rows[-1], sep="  ", file=sys.stderr, flush=True)
    print(report.markdown_table(header, rows))


if __name__ == "__main__":
    main()
