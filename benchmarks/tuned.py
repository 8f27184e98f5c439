"""What tuning by measured time is worth: jacobian before and after optimize, beside JAX's modes.

Run it with `python -m benchmarks.tuned`. Each function is optimised with cost="runtime" into a
registry of its own, and then timed anew: a Jacobian as a new user gets it, the tuned one, jacfwd
and jacrev take turns, all jitted, scalar functions over a batch.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

import jax_cce
from benchmarks import report, timing
from benchmarks.tasks import TASKS, Task

_BATCH = 4096
# Large enough to be timed alone.
_ALONE = ("Bottleneck",)


def measure(task: Task, seconds: float) -> tuple[object, ...]:
    """Returns a row of the table."""
    size = None if task.name in _ALONE else _BATCH
    args = [jnp.asarray(x) for x in task.args]
    points = args if size is None else [jnp.stack([x] * size) for x in args]

    def compiled(transform: Callable[..., Any], registry: str) -> Callable[[], Any]:
        os.environ["JAX_CCE_REGISTRY"] = registry
        jacobian = transform(task.fun, task.argnums)
        run = jax.jit(jacobian if size is None else jax.vmap(jacobian)).lower(*points).compile()
        return partial(run, *points)

    with tempfile.TemporaryDirectory() as directory:
        os.environ["JAX_CCE_REGISTRY"] = directory
        optimize = jax_cce.optimize(task.fun, task.argnums, budget=seconds, batch_size=size)
        found = optimize(*args)
        calls = {
            "tuned": compiled(jax_cce.jacobian, directory),
            "new": compiled(jax_cce.jacobian, "off"),
            "jacfwd": compiled(jax.jacfwd, "off"),
            "jacrev": compiled(jax.jacrev, "off"),
        }
    times = timing.take_turns(calls)
    rival = timing.fastest({name: times[name] for name in ("jacfwd", "jacrev")})
    return (
        task.name,
        found.entry.strategy,
        *(report.durations(times[name] / (size or 1)) for name in calls),
        report.ratio(times["new"] / times["tuned"]),
        report.ratio(times[rival] / times["tuned"]),
    )


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=20.0, help="for each search")
    parser.add_argument("--tasks", nargs="*", default=list(TASKS))
    options = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    header = ("task", "winner", "tuned", "untuned", "jacfwd", "jacrev", "untuned / tuned")
    rows = [measure(TASKS[name], options.seconds) for name in options.tasks]
    print(f"Time for a point, batches of {_BATCH}, float64, jitted. {report.provenance()}\n")
    print(report.markdown_table((*header, "better of JAX's / tuned"), rows))


if __name__ == "__main__":
    main()
