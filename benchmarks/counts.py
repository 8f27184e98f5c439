"""Multiplications of every reference task, beside the published figures.

Run it with `python -m benchmarks.counts`. Counts follow the convention of the published tables (see
`jax_cce.Plan.cost`): for the scalar tasks they are equal, for the tensor tasks they depend on how
structure is represented.
"""

from __future__ import annotations

import jax

import jax_cce
from benchmarks import report
from benchmarks.tasks import TASKS
from jax_cce.planning.options import OrderName

_ORDERS: tuple[OrderName, ...] = ("forward", "reverse", "markowitz")


def main() -> None:
    """Prints the table."""
    jax.config.update("jax_enable_x64", True)
    rows = []
    for name, task in TASKS.items():
        row: list[object] = [name]
        for order in _ORDERS:
            plan = jax_cce.plan(task.fun, task.argnums, order=order)(*task.args)
            published = "-" if task.published is None else getattr(task.published, order)
            row.append(f"{plan.cost('multiplications'):,} / {published}")
        row.append("-" if task.published is None else task.published.best)
        rows.append(row)
    print(f"Multiplications, ours / published. {report.provenance()}\n")
    print(report.markdown_table(("task", *_ORDERS, "published best"), rows))


if __name__ == "__main__":
    main()
