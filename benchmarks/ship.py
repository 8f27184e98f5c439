"""Searches orders for the reference tasks and puts them into the package, as its shipped registry.

    python -m benchmarks.ship --seconds 60

An order that is there already is replaced only by a better one.
"""

from __future__ import annotations

import argparse
import pathlib

import jax
import numpy as np

import jax_cce
from benchmarks.tasks import TASKS
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
        for dtype in (np.float64, np.float32):
            args = [jax.ShapeDtypeStruct(np.shape(arg), dtype) for arg in task.args]
            for cost, entries in (("multiplications", False), ("flops", None)):
                found = jax_cce.optimize(
                    task.fun,
                    task.argnums,
                    cost=cost,
                    entries=entries,
                    budget=options.seconds,
                    registry=shipped,
                )(*args)
                print(f"{name}, {np.dtype(dtype)}: {found}", flush=True)


if __name__ == "__main__":
    main()
