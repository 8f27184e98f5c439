"""The demonstration: what jax_cce does for the Jacobians of the Roe flux and of a robot arm.

Run it with `make demo`. For both it prints how many multiplications each elimination order needs,
beside the published figures, how well the Jacobians agree with jax.jacrev's, and how long they
take. Then two processes one after the other ask for the Jacobian of the same arm, written with
matrices: the first searches for an order and stores it, the second finds it.
"""

from __future__ import annotations

import argparse
import logging
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import numpy as np

import jax_cce
from benchmarks import report, timing
from benchmarks.tasks import TASKS, Task, robot_arm_matrices
from jax_cce.planning.options import OrderName

_TASKS = ("RoeFlux_1d", "RobotArm_6DOF")
_ORDERS: tuple[OrderName, ...] = ("forward", "reverse", "markowitz", "auto")
_BATCH = 16384
_SEARCH_SECONDS = 20.0
# Points this close to the reference point stay where both functions are smooth.
_RELATIVE_SPREAD = 0.01

_LEGEND = f"""\
jax_cce computes the Jacobian of f by eliminating the vertices of f's computational graph. The order
of elimination decides how many multiplications that takes; the Jacobian is the same in all of them.

- auto: the order that comes with the package for these two functions, found by jax_cce.optimize for
  the fewest operations executed, which are not the fewest multiplications.
- multiplications: counted on the plan for one Jacobian, by the convention of the published figures
  (Lohoff & Neftci, NeurIPS 2024).
- disagreement: the largest |ours - jax.jacrev's| over the entries of {_BATCH} Jacobians in float64,
  each relative to the largest entry of its Jacobian with respect to that input.
- times: medians over turns that the contenders take, and their quartiles in brackets.
"""


def batch(task: Task, size: int, seed: int = 0) -> tuple[jax.Array, ...]:
    """Draws points near the task's own, every argument [size]."""
    rng = np.random.default_rng(seed)
    return tuple(
        jax.device_put(x * (1 + _RELATIVE_SPREAD * rng.standard_normal(size))) for x in task.args
    )


def disagreement(ours: Any, reference: Any) -> float:
    """Returns the largest difference of two batches of Jacobians, relative as the legend says.

    Args:
      ours: For each output, for each input, the partial derivatives [batch].
      reference: The same, from JAX.
    """
    a = np.asarray(ours)  # [outputs, inputs, batch]
    b = np.asarray(reference)
    scale = np.max(np.abs(b), axis=0, keepdims=True)
    return float(np.max(np.abs(a - b) / scale))


def counts(task: Task, points: tuple[jax.Array, ...]) -> str:
    """Tabulates multiplications and disagreement, by order."""
    assert task.published is not None
    reference = jax.jit(jax.vmap(jax.jacrev(task.fun, task.argnums)))(*points)
    rows: list[tuple[object, ...]] = []
    for order in _ORDERS:
        plan = jax_cce.plan(task.fun, task.argnums, order=order)(*task.args)
        jacobian = jax.jit(jax.vmap(jax_cce.jacobian(task.fun, task.argnums, order=order)))
        rows.append(
            (
                order,
                plan.cost("multiplications"),
                getattr(task.published, order, ""),
                f"{disagreement(jacobian(*points), reference):.1e}",
            )
        )
    rows.append(("best known to the source", "", task.published.best, ""))
    return report.markdown_table(
        ("order", "multiplications", "published", "disagreement with jacrev"), rows
    )


def timings(task: Task, points: tuple[jax.Array, ...]) -> str:
    """Tabulates the time of a jitted batch and of an unjitted call beside JAX's own modes."""
    transforms: dict[str, Callable[..., Any]] = {
        "jax_cce.jacobian": jax_cce.jacobian,
        "jax.jacfwd": jax.jacfwd,
        "jax.jacrev": jax.jacrev,
    }
    jacobians = {name: of(task.fun, task.argnums) for name, of in transforms.items()}
    compiled = {name: jax.jit(jax.vmap(jacobian)) for name, jacobian in jacobians.items()}
    point = jax.device_put(task.args)
    batched = timing.take_turns({n: partial(f, *points) for n, f in compiled.items()})
    single = timing.take_turns({n: partial(f, *point) for n, f in jacobians.items()})

    ours = "jax_cce.jacobian"
    rival = timing.fastest({name: batched[name] for name in ("jax.jacfwd", "jax.jacrev")})
    table = report.markdown_table(
        ("Jacobian", f"jit(vmap), a point of {_BATCH}", "one call without jit"),
        [
            (name, report.durations(batched[name] / _BATCH), report.durations(single[name]))
            for name in transforms
        ],
    )
    return (
        f"{table}\n\n"
        f"Speed-up of jax_cce.jacobian, jitted, over {rival}, the faster of JAX's two: "
        f"{report.ratio(batched[rival] / batched[ours])}\n"
        f"Speed-up of one call without jit over jax.jacrev: "
        f"{report.ratio(single['jax.jacrev'] / single[ours])}"
    )


def one_process() -> None:
    """Plans a Jacobian, and searches for a better order where none is stored."""
    logging.basicConfig(format="    log: %(message)s", stream=sys.stdout)
    logging.getLogger("jax_cce").setLevel(logging.INFO)
    task = robot_arm_matrices.TASK
    begin = time.perf_counter()
    plan = jax_cce.plan(task.fun, task.argnums)(*task.args)
    seconds = time.perf_counter() - begin
    print(f"  planned in {seconds:.2f} s: {plan.cost('flops')} flops, order {plan.source}")
    if plan.source == "searched":
        logging.getLogger("jax_cce").setLevel(logging.WARNING)
        optimize = jax_cce.optimize(task.fun, task.argnums, cost="flops", budget=_SEARCH_SECONDS)
        print(f"  jax_cce.optimize: {optimize(*task.args)}")


def stored_order() -> None:
    """Runs two processes that share a registry."""
    print("## A stored order\n")
    with tempfile.TemporaryDirectory() as directory:
        for run in ("first", "second"):
            print(f"The {run} process:", flush=True)
            subprocess.run(
                [sys.executable, "-m", "benchmarks.demo", "--one-process"],
                check=True,
                env={**os.environ, "JAX_CCE_REGISTRY": directory},
            )


def main() -> None:
    """Prints the demonstration."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--one-process", action="store_true", help=argparse.SUPPRESS)
    jax.config.update("jax_enable_x64", True)
    if parser.parse_args().one_process:
        one_process()
        return
    print(f"{report.provenance()}; float64\n\n{_LEGEND}")
    for name in _TASKS:
        task = TASKS[name]
        plan = jax_cce.plan(task.fun, task.argnums)(*task.args)
        outputs = jax.tree.leaves(jax.eval_shape(task.fun, *task.args))
        print(
            f"## {name}: {len(task.argnums)} inputs -> {len(outputs)} outputs, "
            f"{plan.num_vertices} vertices, {plan.num_edges} edges\n"
        )
        points = batch(task, _BATCH)
        print(counts(task, points), end="\n\n", flush=True)
        print(timings(task, points), end="\n\n", flush=True)
    stored_order()


if __name__ == "__main__":
    main()
