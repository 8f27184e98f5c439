"""What a solver calls on collections of test problems: `python -m benchmarks.nonlinear_programs`.

Objective, constraints, gradient, the Jacobian of the constraints and the lower triangle of the
Hessian of the Lagrangian, the last two as structured results and as the numbers of the sparse
matrix alone. The programs of a row take turns. All are checked: derivatives times a vector against
JAX's own of that product. With --rivals, asdex takes part, and JAX's dense results where there are
few variables.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import re
import signal
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jax_cce
from benchmarks import report, suite, timing
from benchmarks.tasks import cops, luksan_vlcek
from benchmarks.tasks.nonlinear import Family, Problem

COLLECTIONS = {"luksan_vlcek": luksan_vlcek.FAMILIES, "cops": cops.FAMILIES}

Program = Callable[[jax.Array, jax.Array], Any]

_TOLERANCE = 1e-10
_MOST_FOR_DENSE = 400
_MOST_SECONDS = 60
# What counts as set-up, of ours and of others.
_OURS = ("its values", "values of it")
_RIVALS = {"asdex": ("asdex: Jacobian", "asdex: Hessian"), "JAX": ("JAX: Jacobian", "JAX: Hessian")}


def programs(problem: Problem) -> dict[str, Program]:
    """What is timed, as functions of the variables and the multipliers."""
    constraints, lagrangian = problem.constraints, problem.lagrangian

    def jacobian(format: Any) -> Program:
        of_constraints = jax_cce.jacobian(constraints, format=format)
        return lambda x, multipliers: of_constraints(x)

    def hessian(format: Any) -> Program:
        return jax_cce.hessian(lagrangian, format=format, triangle="lower")

    gradient = jax_cce.jacobian(problem.objective)
    return {
        "objective": lambda x, multipliers: problem.objective(x),
        "constraints": lambda x, multipliers: constraints(x),
        "gradient": lambda x, multipliers: gradient(x),
        "Jacobian": jacobian("structured"),
        "its values": jacobian("values"),
        "Hessian": hessian("structured"),
        "values of it": hessian("values"),
    }


def _by_asdex(problem: Problem, *args: jax.Array) -> dict[str, Callable[[], Program]]:
    import asdex

    def jacobian() -> Program:
        coloring = asdex.jacobian_coloring(problem.constraints, args[0])
        of_constraints = asdex.jacobian_from_coloring(problem.constraints, coloring)
        return lambda x, multipliers: of_constraints(x)

    def hessian() -> Program:
        coloring = asdex.hessian_coloring(problem.lagrangian, *args)
        return asdex.hessian_from_coloring(problem.lagrangian, coloring)

    return dict(zip(_RIVALS["asdex"], (jacobian, hessian), strict=True))


def _by_jax(problem: Problem, x: jax.Array, y: jax.Array) -> dict[str, Callable[[], Program]]:
    def jacobian() -> Program:
        mode = jax.jacrev if len(y) < len(x) else jax.jacfwd
        of_constraints = mode(problem.constraints)
        return lambda x, multipliers: of_constraints(x)

    each = jacobian, lambda: jax.hessian(problem.lagrangian)
    return dict(zip(_RIVALS["JAX"], each, strict=True))


@contextlib.contextmanager
def _within(seconds: int) -> Iterator[None]:
    def stop(*_: Any) -> None:
        raise TimeoutError

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def point(problem: Problem) -> tuple[jax.Array, jax.Array]:
    """A place near the start, where nothing is zero by chance, and multipliers."""
    rng = np.random.default_rng(0)
    x = jnp.asarray(problem.start + 0.1 * rng.normal(size=len(problem.start)))
    count = jax.eval_shape(problem.constraints, x).shape
    return x, jnp.asarray(rng.normal(size=count))


def difference(problem: Problem, results: dict[str, Any], x: jax.Array, y: jax.Array) -> float:
    """The largest difference from JAX's products with a vector, relative to their largest entry."""
    v = jnp.cos(jnp.arange(len(x)))
    jacobian, lower = results["Jacobian"], results["Hessian"]
    seen = {"gradient": results["gradient"] @ v, "Jacobian": jacobian @ v}
    seen["Hessian"] = lower @ v + v @ lower - lower.diagonal() * v
    rows, columns = jacobian.pattern.T
    seen["its values"] = np.bincount(rows, results["its values"] * v[columns], len(y))
    rows, columns = lower.pattern.T
    above = np.where(rows > columns, results["values of it"] * v[rows], 0.0)
    seen["values of it"] = np.bincount(rows, results["values of it"] * v[columns], len(x))
    seen["values of it"] += np.bincount(columns, above, len(x))
    slope = jax.grad(problem.lagrangian)

    @jax.jit
    def by_jax(x: jax.Array, y: jax.Array) -> tuple[jax.Array, ...]:
        along_objective = jax.jvp(problem.objective, (x,), (v,))[1]
        along_constraints = jax.jvp(problem.constraints, (x,), (v,))[1]
        return along_objective, along_constraints, jax.jvp(lambda x: slope(x, y), (x,), (v,))[1]

    objective, constraints, lagrangian = by_jax(x, y)
    expected = {"gradient": objective, "Jacobian": constraints, "its values": constraints}
    expected |= {"Hessian": lagrangian, "values of it": lagrangian}
    return max(
        float(jnp.abs(seen[name] - wanted).max() / (jnp.abs(wanted).max() or 1.0))
        for name, wanted in expected.items()
    )


def _built(
    programs: Mapping[str, Callable[[], Program]], *arguments: jax.Array
) -> tuple[dict[str, Any], dict[str, float]]:
    """Compiled programs, and the CPU seconds from nothing to each; without those that take long."""
    compiled, seconds = {}, {}
    for name, make in programs.items():
        start = time.process_time()
        with contextlib.suppress(TimeoutError), _within(_MOST_SECONDS):
            compiled[name] = jax.jit(make()).lower(*arguments).compile()
            seconds[name] = time.process_time() - start
    return compiled, seconds


def _ours(problem: Problem) -> dict[str, Callable[[], Program]]:
    def as_it_is(program: Program) -> Callable[[], Program]:
        return lambda: program

    return {name: as_it_is(program) for name, program in programs(problem).items()}


def row(family: Family, n: int, turns: int, rivals: bool = False) -> dict[str, str]:
    """What a line of the table says: times in nanoseconds for a variable, set-up in CPU seconds."""
    tenth = family.about(n // 10)
    _, at_a_tenth = _built(_ours(tenth), *point(tenth))
    problem = family.about(n)
    x, multipliers = arguments = point(problem)
    compiled, seconds = _built(_ours(problem), *arguments)
    results = {name: each(*arguments) for name, each in compiled.items()}
    off = difference(problem, results, *arguments)
    if not off < _TOLERANCE:
        raise AssertionError(f"{family.name}: derivatives are off by {off:.1e}")
    names = list(compiled)
    if rivals:
        makes = _by_asdex(problem, *arguments)
        if len(x) <= _MOST_FOR_DENSE:
            makes |= _by_jax(problem, *arguments)
        theirs, seconds_of_theirs = _built(makes, *arguments)
        compiled, seconds = compiled | theirs, seconds | seconds_of_theirs
        names += [name for of_one in _RIVALS.values() for name in of_one]
    calls = {name: functools.partial(each, *arguments) for name, each in compiled.items()}
    times = timing.take_turns(calls, turns=turns, turn_seconds=0.005)

    def set_up(seconds: Mapping[str, float], names: tuple[str, ...]) -> str:
        return f"{sum(seconds[k] for k in names):.2f}" if set(names) <= seconds.keys() else "-"

    cells = {
        "problem": family.name,
        "n": f"{len(x):,}",
        "m": f"{len(multipliers):,}",
        **{
            name: f"{times[name].median / len(x) * 1e9:.2f}" if name in times else "-"
            for name in names
        },
        "set-up": set_up(seconds, _OURS),
        "at n / 10": set_up(at_a_tenth, _OURS),
    }
    if rivals:
        cells["asdex: set-up"] = set_up(seconds, _RIVALS["asdex"])
    return cells | {"difference": f"{off:.0e}"}


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.nonlinear_programs", description=__doc__
    )
    parser.add_argument("collection", choices=COLLECTIONS)
    parser.add_argument("--size", type=int, default=10_000, help="about how many variables")
    parser.add_argument("--problems", default="", help="a regular expression on their names")
    parser.add_argument("--turns", type=int, default=9, help="how often each program is timed")
    parser.add_argument("--rivals", action="store_true", help="time asdex and dense results, too")
    arguments = parser.parse_args()
    suite.keep_to(1)
    jax.config.update("jax_enable_x64", True)
    warnings.filterwarnings("ignore", module="asdex")
    families = [
        each
        for each in COLLECTIONS[arguments.collection]
        if re.search(arguments.problems, each.name)
    ]
    rows = []
    for each in families:
        rows.append(row(each, arguments.size, arguments.turns, arguments.rivals))
        print(*rows[-1].values(), sep="  ", file=sys.stderr, flush=True)
    print(
        f"Nanoseconds for a variable, set-up in CPU seconds, float64, one core, medians. "
        f"{report.provenance()}\n"
    )
    print(report.markdown_table(list(rows[0]), [list(each.values()) for each in rows]))


if __name__ == "__main__":
    main()
