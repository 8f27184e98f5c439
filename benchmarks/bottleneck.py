"""The bottleneck chain: a Jacobian for which forward and reverse mode are both the wrong order.

Run it with `python -m benchmarks.bottleneck`. The chain of tanh layers is 784-256-16-256-784, so
its Jacobian has rank 16, and either mode multiplies by whole 784-wide layers 784 times.
"""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

import jax_cce
from benchmarks import report, timing
from benchmarks.tasks import TASKS
from jax_cce.planning.options import OrderName

_ORDERS: tuple[OrderName, ...] = ("auto", "markowitz", "forward", "reverse")


def main() -> None:
    """Prints the table."""
    task = TASKS["Bottleneck"]
    args = tuple(jnp.asarray(x, jnp.float32) for x in task.args)
    rivals = {
        "jax.jacfwd": jax.jit(jax.jacfwd(task.fun, task.argnums)),
        "jax.jacrev": jax.jit(jax.jacrev(task.fun, task.argnums)),
    }
    ours = {
        f"jax_cce.jacobian, {order}": jax.jit(jax_cce.jacobian(task.fun, task.argnums, order=order))
        for order in _ORDERS
    }
    multiplications = {
        f"jax_cce.jacobian, {order}": jax_cce.plan(task.fun, task.argnums, order=order)(*args).cost(
            "multiplications"
        )
        for order in _ORDERS
    }
    programs = {**ours, **rivals}
    measured = timing.take_turns({n: partial(f, *args) for n, f in programs.items()})
    rival = timing.fastest({name: measured[name] for name in rivals})
    reference = np.asarray(jax.tree.leaves(rivals[rival](*args))[0])
    rows = []
    for name, program in programs.items():
        jacobian = np.asarray(jax.tree.leaves(program(*args))[0])
        difference = np.max(np.abs(jacobian - reference)) / np.max(np.abs(reference))
        count = f"{multiplications[name]:,}" if name in multiplications else ""
        rows.append(
            (
                name,
                count,
                report.durations(measured[name]),
                report.ratio(measured[rival] / measured[name]),
                f"{difference:.0e}",
            )
        )
    print(f"Bottleneck chain 784-256-16-256-784, tanh, float32, jitted. {report.provenance()}\n")
    print(
        report.markdown_table(
            (
                "program",
                "multiplications",
                "time [quartiles]",
                f"speed-up over {rival}",
                "difference",
            ),
            rows,
        )
    )


if __name__ == "__main__":
    main()
