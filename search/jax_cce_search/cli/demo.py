"""The demonstration: an order that is found once and used by a second process."""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from typing import Any

import jax
import jax.numpy as jnp

import jax_cce
from jax_cce_search.cli.answers import OK, PROBLEMS, Answer, CommandError
from jax_cce_search.cli.commands import document_of
from jax_cce_search.optimizing.optimize import optimize

__all__ = [
    "run_demo",
]


def _flow(a: Any, b: Any, c: Any) -> Any:
    """What the demonstration differentiates."""
    u = jnp.sin(a * b)
    v = jnp.exp(u) * c
    w = jnp.tanh(u * v)
    p = w * u + v
    q = jnp.cos(p) * w
    return p * q, q / v, jnp.log(p * p + 1) * w, p - q


def run_demo(options: argparse.Namespace) -> Answer:
    """`demo`: searches for an order here, and asks a second process for it."""
    shapes = [jax.ShapeDtypeStruct((), jnp.float32)] * 3
    old = os.environ.get("JAX_CCE_REGISTRY")
    with tempfile.TemporaryDirectory() as directory:
        os.environ["JAX_CCE_REGISTRY"] = directory
        try:
            before = jax_cce.plan(_flow, (0, 1, 2))(*shapes)
            begin = time.perf_counter()
            optimized = optimize(
                _flow, (0, 1, 2), cost="multiplications", budget=2, progress=False
            )(*shapes)
            seconds = time.perf_counter() - begin
            second = _second_run()
        finally:
            if old is None:
                del os.environ["JAX_CCE_REGISTRY"]
            else:
                os.environ["JAX_CCE_REGISTRY"] = old
    count = second["costs"]["in use"]["multiplications"]
    is_same = second["source"] == "user" and second["order"] == list(optimized.order)
    text = "\n".join(
        [
            f"A function of 3 inputs and 4 outputs, {before.num_vertices} vertices. "
            "Multiplications for its Jacobian:",
            *(f"  {name:<10} {cost:>4}" for name, cost in optimized.reference.items()),
            f"  {'auto':<10} {before.cost('multiplications'):>4}, before anything is stored",
            f"First run, this process: optimize finds {optimized.value:.0f} "
            f"({optimized.status}) in {seconds:.1f} s and stores the order.",
            f"Second run, a new process: the order comes from the registry ({second['source']}), "
            f"{count} multiplications, without a search."
            if is_same
            else f"Second run, a new process: not answered by the registry ({second['source']}).",
        ]
    )
    document = {
        "reference": dict(optimized.reference),
        "first": document_of(optimized),
        "second": {"source": second["source"], "order": second["order"], "multiplications": count},
    }
    return Answer(document, text, OK if is_same else PROBLEMS)


def _second_run() -> dict[str, Any]:
    """What another process does with the same function."""
    target = f"{_flow.__module__}:_flow"
    command = ["explain", target, "--args", "f32[] f32[] f32[]", "--argnums", "0,1,2", "--json"]
    done = subprocess.run(
        [sys.executable, "-m", "jax_cce_search.cli", *command], capture_output=True, text=True
    )
    if done.returncode:
        raise CommandError(PROBLEMS, f"the second process failed: {done.stderr.strip()}")
    return json.loads(done.stdout)
