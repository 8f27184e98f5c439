"""Searches orders for the reference tasks and puts them into the package, as its shipped registry.

    python -m benchmarks.ship --seconds 60

An order that is there already is replaced only by a better one.
"""

from __future__ import annotations

import argparse
import dataclasses
import pathlib

import jax
import numpy as np

import jax_cce
from benchmarks.tasks import TASKS
from jax_cce.algebra.costs import CostName
from jax_cce.planning import plans
from jax_cce.planning.task import task_of
from jax_cce.registry import Registry

_SHIPPED = pathlib.Path(jax_cce.__file__).parent / "data" / "registry"


def main() -> None:
    """Searches, stores and prints what is stored."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=60.0, help="for each search")
    parser.add_argument("--tasks", nargs="*", default=list(TASKS))
    options = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    shipped = Registry(_SHIPPED)
    for name in options.tasks:
        task = TASKS[name]
        double, single = (
            [jax.ShapeDtypeStruct(np.shape(arg), dtype) for arg in task.args]
            for dtype in (np.float64, np.float32)
        )
        passes: tuple[tuple[CostName, bool | None], ...]
        passes = ("multiplications", False), ("flops", None)
        for cost, entries in passes:
            found = jax_cce.optimize(
                task.fun,
                task.argnums,
                cost=cost,
                entries=entries,
                budget=options.seconds,
                registry=shipped,
            )(*double)
            print(found, flush=True)
            # The graph is the same in single precision, and so is the order.
            other = task_of(task.fun, task.argnums)(*single)
            same = plans.make(other.graphs[found.entry.entries], found.order)
            if same.cost(cost) == found.value:
                shipped.put(dataclasses.replace(found.entry, key=other.key))


if __name__ == "__main__":
    main()
