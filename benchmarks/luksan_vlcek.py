"""What a solver calls on the problems of Luksan & Vlcek: `python -m benchmarks.luksan_vlcek`.

Objective, constraints, gradient, the Jacobian of the constraints and the Hessian of the Lagrangian,
the last two as structured results and as the numbers of the sparse matrix alone. The programs of a
row take turns. All are checked: derivatives times a vector against JAX's own of that product.
"""

from __future__ import annotations

import argparse
import functools
import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jax_cce
from benchmarks import report, suite, timing
from benchmarks.tasks.luksan_vlcek import MODELS, Model

_TOLERANCE = 1e-10


def programs(model: Model) -> dict[str, Callable[[jax.Array, jax.Array], Any]]:
    """What is timed, as functions of the variables and the multipliers."""
    constraints, lagrangian = model.constraints, model.lagrangian

    def jacobian(format: Any) -> Callable[[jax.Array, jax.Array], Any]:
        of_constraints = jax_cce.jacobian(constraints, format=format)
        return lambda x, multipliers: of_constraints(x)

    gradient = jax_cce.jacobian(model.objective)
    return {
        "objective": lambda x, multipliers: model.objective(x),
        "constraints": lambda x, multipliers: constraints(x),
        "gradient": lambda x, multipliers: gradient(x),
        "Jacobian": jacobian("structured"),
        "its values": jacobian("values"),
        "Hessian": jax_cce.hessian(lagrangian, format="structured"),
        "values of it": jax_cce.hessian(lagrangian, format="values"),
    }


def point(model: Model, n: int) -> tuple[jax.Array, jax.Array]:
    """A place near the start, where nothing is zero by chance, and multipliers."""
    rng = np.random.default_rng(0)
    x = jnp.asarray(model.point(n) + 0.1 * rng.normal(size=n))
    count = jax.eval_shape(model.constraints, x).shape
    return x, jnp.asarray(rng.normal(size=count))


def difference(model: Model, results: dict[str, Any], x: jax.Array, y: jax.Array) -> float:
    """The largest difference from JAX's products with a vector, relative to their largest entry."""
    v = jnp.cos(jnp.arange(len(x)))
    patterns = {
        "its values": jax_cce.pattern(model.constraints)(x),
        "values of it": jax_cce.pattern(model.lagrangian, of="hessian")(x, y),
    }
    seen = {name: pattern.to_bcoo(results[name]) @ v for name, pattern in patterns.items()}
    seen |= {name: results[name] @ v for name in ("gradient", "Jacobian", "Hessian")}
    slope = jax.grad(model.lagrangian)

    @jax.jit
    def by_jax(x: jax.Array, y: jax.Array) -> tuple[jax.Array, ...]:
        along_objective = jax.jvp(model.objective, (x,), (v,))[1]
        along_constraints = jax.jvp(model.constraints, (x,), (v,))[1]
        return along_objective, along_constraints, jax.jvp(lambda x: slope(x, y), (x,), (v,))[1]

    objective, constraints, lagrangian = by_jax(x, y)
    expected = {"gradient": objective, "Jacobian": constraints, "its values": constraints}
    expected |= {"Hessian": lagrangian, "values of it": lagrangian}
    return max(
        float(jnp.abs(seen[name] - wanted).max() / jnp.abs(wanted).max())
        for name, wanted in expected.items()
    )


def row(model: Model, n: int, turns: int) -> tuple[str, ...]:
    """A model's times in nanoseconds for a variable, and the largest difference."""
    arguments = point(model, n)
    compiled = {
        name: jax.jit(program).lower(*arguments).compile()
        for name, program in programs(model).items()
    }
    calls = {name: functools.partial(each, *arguments) for name, each in compiled.items()}
    off = difference(model, {name: call() for name, call in calls.items()}, *arguments)
    if not off < _TOLERANCE:
        raise AssertionError(f"{model.name}: derivatives are off by {off:.1e}")
    times = timing.take_turns(calls, turns=turns, turn_seconds=0.005)
    figures = (f"{times[name].median / n * 1e9:.2f}" for name in calls)
    return (model.name, *figures, f"{off:.0e}")


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.luksan_vlcek", description=__doc__)
    parser.add_argument("--size", type=int, default=10_000, help="how many variables")
    parser.add_argument("--models", default="", help="a regular expression on their names")
    parser.add_argument("--turns", type=int, default=9, help="how often each program is timed")
    arguments = parser.parse_args()
    suite.keep_to(1)
    jax.config.update("jax_enable_x64", True)
    chosen = [model for model in MODELS if re.search(arguments.models, model.name)]
    rows = [row(model, arguments.size, arguments.turns) for model in chosen]
    print(
        f"Nanoseconds for each of {arguments.size:,} variables, float64, one core, medians. "
        f"{report.provenance()}\n"
    )
    print(report.markdown_table(("problem", *programs(MODELS[0]), "difference"), rows))


if __name__ == "__main__":
    main()
