"""Fits the runtime model to measured times, and says how well it ranks orders.

Run it with `python -m benchmarks.runtime_model`. Jacobians of the reference tasks in several orders
are jitted and timed in turns, batched where a single point is too short to time. Each task has a
constant of its own, for the function itself and the call; the picoseconds for an operation and for
a moved byte are fitted together by non-negative least squares on relative errors. They are
`_PER_FLOP` and `_PER_BYTE` in `jax_cce.algebra.costs`.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import scipy.optimize
import scipy.stats

import jax_cce
from benchmarks import report, timing
from benchmarks.tasks import TASKS, Task

_BATCH = 4096
_BYTES = 8
# Large enough to be timed alone.
_ALONE = ("Bottleneck",)


def _orders(task: Task) -> dict[str, Any]:
    """Named orders, and some that lie between them."""
    rng = np.random.default_rng(0)
    vertices = jax_cce.plan(task.fun, task.argnums, order="reverse")(*task.args).order
    orders: dict[str, Any] = {name: name for name in ("forward", "reverse", "markowitz", "auto")}
    for swaps in (len(vertices) // 4, len(vertices)):
        mixed = list(vertices)
        for _ in range(swaps):
            i, j = rng.integers(len(mixed), size=2)
            mixed.insert(int(j), mixed.pop(int(i)))
        orders[f"reverse, {swaps} moves"] = tuple(mixed)
    return orders


def measure(task: Task) -> tuple[np.ndarray, np.ndarray]:
    """Returns flops and bytes [orders, 2], and seconds for a point [orders]."""
    facts, calls = [], {}
    size = 1 if task.name in _ALONE else _BATCH
    args = [jnp.asarray(x) for x in task.args]
    if size > 1:
        args = [jnp.stack([x] * size) for x in args]
    for name, order in _orders(task).items():
        plan = jax_cce.plan(task.fun, task.argnums, order=order)(*task.args)
        facts.append((plan.cost("flops"), plan.cost("bytes")))
        jacobian = jax_cce.jacobian(task.fun, task.argnums, order=order)
        compiled = jax.jit(jax.vmap(jacobian) if size > 1 else jacobian)
        calls[name] = partial(compiled, *args)
    measured = timing.take_turns(calls, turns=9)
    return np.array(facts, float), np.array([measured[name].median / size for name in calls])


def main() -> None:
    """Prints the fit."""
    jax.config.update("jax_enable_x64", True)
    names = [name for name in TASKS if name != "Encoder"]
    measured = {name: measure(TASKS[name]) for name in names}
    rows, targets = [], []
    for index, name in enumerate(names):
        facts, seconds = measured[name]
        own = np.zeros((len(seconds), len(names)))
        own[:, index] = seconds.mean()
        rows.append(np.column_stack([facts, own]) / seconds[:, None])
        targets.append(np.ones(len(seconds)))
    design = np.concatenate(rows)
    scale = design.max(axis=0)
    fit, _ = scipy.optimize.nnls(design / scale, np.concatenate(targets))
    per_flop, per_byte = 1e12 * (fit / scale)[:2]
    print(f"Batch {_BATCH}, float64. {report.provenance()}\n")
    print(f"per flop {per_flop:.0f} ps, per byte {per_byte:.1f} ps\n")
    table = []
    for name in names:
        facts, seconds = measured[name]
        model = facts @ (per_flop, per_byte)
        by_model, by_flops = (seconds[np.argmin(x)] for x in (model, facts[:, 0]))
        table.append(
            (
                name,
                f"{scipy.stats.spearmanr(model, seconds).statistic:.2f}",
                f"{scipy.stats.spearmanr(facts[:, 0], seconds).statistic:.2f}",
                f"{by_model / seconds.min():.2f}",
                f"{by_flops / seconds.min():.2f}",
            )
        )
    header = ("task", "rank correlation of the model", "of flops", "its choice / best", "of flops")
    print(report.markdown_table(header, table))


if __name__ == "__main__":
    main()
