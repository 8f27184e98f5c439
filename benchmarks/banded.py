"""Dense Jacobians with few bands beside JAX's modes: run and compilation, batched and not.

Run it with `python -m benchmarks.banded`. The three compiled programs of a row take turns; a time
is the median CPU time of a call.
"""

from __future__ import annotations

import functools
import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jax_cce
from benchmarks import report, timing

_BATCHES = (None, 32, 1024)
_TURNS, _CALLS = 15, 20
# Larger results measure memory only.
_MOST_ENTRIES = 5_000_000


def _lorenz(x: jax.Array) -> jax.Array:
    """Lorenz 96, as in Lorenz & Emanuel (1998)."""
    return (jnp.roll(x, -1) - jnp.roll(x, 2)) * jnp.roll(x, 1) - x + 8


def _midpoint(x: jax.Array) -> jax.Array:
    return x + 0.05 * _lorenz(x + 0.025 * _lorenz(x))


def _burgers(u: jax.Array) -> jax.Array:
    right, left = jnp.roll(u, -1), jnp.roll(u, 1)
    return u - 0.1 * u * (right - left) + 0.01 * (right - 2 * u + left)


def _broyden(x: jax.Array) -> jax.Array:
    y = jnp.pad(x, 1)
    return (3 - 2 * x) * x - y[:-2] - 2 * y[2:] + 1


def _rosenbrock(x: jax.Array) -> jax.Array:
    return jnp.sum(100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2)


# Name, function, unknowns.
_PROGRAMS: list[tuple[str, Callable[..., Any], int]] = [
    ("Lorenz 96", _lorenz, 8),
    ("Lorenz 96", _lorenz, 40),
    ("a step of Lorenz 96", _midpoint, 40),
    ("Burgers", _burgers, 64),
    ("Broyden", _broyden, 30),
    ("Broyden", _broyden, 300),
    ("Hessian of Rosenbrock", jax.grad(_rosenbrock), 10),
    ("Hessian of Rosenbrock", jax.grad(_rosenbrock), 64),
]


def _compiled(fun: Callable[..., Any], x: jax.Array) -> tuple[Any, float]:
    start = time.process_time()
    compiled = jax.jit(fun).lower(x).compile()
    return compiled, time.process_time() - start


def _seconds(programs: list[Any], x: jax.Array) -> list[float]:
    turns = [
        [timing.cpu_seconds(functools.partial(program, x), _CALLS) for program in programs]
        for _ in range(_TURNS)
    ]
    return list(map(statistics.median, zip(*turns, strict=True)))


def main() -> None:
    """Prints the table."""
    jax.config.update("jax_enable_x64", True)
    print(f"CPU time, float64. {report.provenance()}\n")
    names = ("jax_cce", "jacfwd", "jacrev")
    rows = []
    for name, fun, size in _PROGRAMS:
        for batch in _BATCHES:
            if size * size * (batch or 1) > _MOST_ENTRIES:
                continue
            points = jnp.linspace(0.1, 1.0, size * (batch or 1))
            x = points if batch is None else points.reshape(batch, size)
            modes = [jax_cce.jacobian(fun), jax.jacfwd(fun), jax.jacrev(fun)]
            made = [_compiled(mode if batch is None else jax.vmap(mode), x) for mode in modes]
            ours, theirs, _ = (np.asarray(program(x)) for program, _ in made)
            np.testing.assert_allclose(ours, theirs, rtol=1e-10, atol=1e-10)
            runs = _seconds([program for program, _ in made], x)
            cells = map(report.duration, (*runs, *(seconds for _, seconds in made)))
            rows.append((f"{name}, {size}", "-" if batch is None else f"{batch:,}", *cells))
    header = ("function, unknowns", "batch", *names, *(f"compile {name}" for name in names))
    print(report.markdown_table(header, rows))


if __name__ == "__main__":
    main()
