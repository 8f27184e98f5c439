"""What checkpointing saves: bytes of temporary arrays and CPU time of one gradient.

Run it with `python -m benchmarks.checkpointing`. Bytes are `temp_size_in_bytes` of the compiled
program. All ways of a program give the same gradient; they take turns in one process.
"""

from __future__ import annotations

import argparse
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jax_cce
from benchmarks import report, timing

Body = Callable[[Any, Any], Any]
Gradient = Callable[[Any], Any]

_GRID = 33


def _diffusion(steps: int, wrap: Callable[[Body], Body]) -> Callable[[Any], Any]:
    """How much is left of a reaction and diffusion on a grid, by six amplitudes of its control."""
    around = jnp.linspace(0.0, 1.0, _GRID)
    waves = jnp.stack(
        [jnp.sin(jnp.pi * k * around)[:, None] * jnp.sin(jnp.pi * around) for k in range(1, 7)]
    )
    dt, rate, growth = 1 / 4096, 0.25, 4.932

    def field(u: Any, control: Any) -> Any:
        p = jnp.pad(u, 1)
        spread = p[2:, 1:-1] + p[:-2, 1:-1] + p[1:-1, 2:] + p[1:-1, :-2] - 4 * u
        return u + dt * (rate * (_GRID - 1) ** 2 / 4 * spread + growth * u * (1 - u) + control)

    def loss(amplitudes: Any) -> Any:
        def step(u: Any, time: Any) -> Any:
            swing = amplitudes * jnp.sin(2 * jnp.pi * time)
            return field(u, jnp.tensordot(swing, waves, 1))

        body = wrap(step)
        times = jnp.arange(steps) * dt
        u, _ = jax.lax.scan(lambda u, t: (body(u, t), None), waves[0] / 10, times)
        return jnp.mean((u - waves[1] / 10) ** 2)

    return loss


def _layers(depth: int, wrap: Callable[[Body], Body]) -> Callable[[Any], Any]:
    """The loss of a network whose layers are written one after the other, for 256 inputs."""
    width = 64
    weights = np.random.default_rng(0).normal(size=(depth, width, width)) / width**0.5
    x = np.random.default_rng(1).normal(size=(256, width))

    def loss(scale: Any) -> Any:
        h = jnp.asarray(x) * scale
        for weight in weights:
            h = wrap(lambda h, w: jnp.sin(jnp.exp(-(jnp.tanh(h @ w) ** 2))))(h, weight)
        return jnp.mean(h**2)

    return loss


def _plain(body: Body) -> Body:
    return body


PROGRAMS: dict[str, tuple[Callable[[Callable[[Body], Body]], Callable[[Any], Any]], Any]] = {
    "scan of 4,096 steps on 33 x 33": (lambda wrap: _diffusion(4096, wrap), np.full(6, 0.1)),
    "30 layers of 64, 256 rows": (lambda wrap: _layers(30, wrap), np.ones(64)),
}


def _ways(make: Callable[..., Any], at: Any, parts: tuple[int, ...]) -> dict[str, Gradient]:
    plain, checkpointed = make(_plain), make(jax.checkpoint)
    whole = _temporaries(jax.jit(jax_cce.jacobian(plain)), at)
    ways: dict[str, Gradient] = {
        "jax.jacrev": jax.jit(jax.jacrev(plain)),
        "jax.jacrev, jax.checkpoint": jax.jit(jax.jacrev(checkpointed)),
        "jax_cce": jax.jit(jax_cce.jacobian(plain)),
        "jax_cce, jax.checkpoint": jax.jit(jax_cce.jacobian(checkpointed)),
    }
    for part in parts:
        try:
            limited = jax_cce.jacobian(plain, max_bytes=whole // part)
            jax.jit(limited).lower(at)
        except MemoryError:
            continue
        ways[f"jax_cce, max_bytes a {part}th"] = jax.jit(limited)
    return ways


def _temporaries(program: Any, at: Any) -> int:
    return int(program.lower(at).compile().memory_analysis().temp_size_in_bytes)


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--turns", type=int, default=7)
    parser.add_argument("--parts", type=int, nargs="*", default=(10, 100, 1000))
    arguments = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    rows = []
    for name, (make, at) in PROGRAMS.items():
        ways = _ways(make, at, tuple(arguments.parts))
        results = {way: np.asarray(program(at)) for way, program in ways.items()}
        for result in results.values():
            np.testing.assert_allclose(result, results["jax.jacrev"], rtol=1e-9, atol=1e-14)
        runs = timing.take_turns(
            {way: functools.partial(program, at) for way, program in ways.items()},
            turns=arguments.turns,
            turn_seconds=0.05,
            clock=timing.cpu_seconds,
        )
        for way, program in ways.items():
            ratio = report.ratio(runs[way] / runs["jax.jacrev"])
            bytes_ = _temporaries(program, at)
            rows.append((name, way, f"{bytes_ / 2**20:,.2f}", report.durations(runs[way]), ratio))
    print(f"Float64, medians [quartiles] of CPU time. {report.provenance()}\n")
    header = ("program", "way", "temporaries, MiB", "time", "over jax.jacrev")
    print(report.markdown_table(header, rows))


if __name__ == "__main__":
    main()
