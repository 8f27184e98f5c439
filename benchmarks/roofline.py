"""What a call and its results take by themselves: `python -m benchmarks.roofline`.

For the programs of the suite that native code computes for 512 points and more: the Jacobian, the
better mode of JAX, the function alone, compiled by XLA, and a call of JAX that writes arrays of the
same shapes and computes nothing. No code that JAX calls takes less than the last, so that the
better mode's time over it bounds how many times as fast any could be.
"""

from __future__ import annotations

import argparse
import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from benchmarks import programs, report, suite, timing
from benchmarks.programs.program import Program

_LEAST_POINTS = 512


def measure(program: Program) -> tuple[list[object], float, float] | None:
    """Times a program.

    Args:
      program: One for many points.

    Returns:
      A row of the table, how many times as fast ours is, and how many times the empty call is; None
      where no native code is called.
    """
    with jax.enable_x64(program.dtype == "float64"):
        fun, arguments = program.build()
        axes = (0, *(None for _ in arguments[1:]))

        def mapped(function: Callable[..., Any]) -> Any:
            return jax.jit(jax.vmap(function, in_axes=axes))

        ours = mapped(suite.derivative("jax_cce", program, fun))
        if not suite.is_native(ours, arguments):
            return None
        empty = suite.empty_call(ours(*arguments))
        modes = {name: suite.derivative(name, program, fun) for name in ("jacfwd", "jacrev")}
        compiled = {"ours": ours, "empty": empty, "value": mapped(fun)}
        compiled |= {name: mapped(mode) for name, mode in modes.items()}
        calls = {name: functools.partial(run, *arguments) for name, run in compiled.items()}
        measured = timing.take_turns(calls, turns=7, turn_seconds=0.01)
    times = {name: spread.median for name, spread in measured.items()}
    better = min(times["jacfwd"], times["jacrev"])
    faster, bound = better / times["ours"], better / times["empty"]
    columns = (
        f"{time * 1e6:.1f}" for time in (times["ours"], better, times["value"], times["empty"])
    )
    return [program.label, *columns, f"{faster:.1f}", f"{bound:.1f}"], faster, bound


def main() -> None:
    """Prints the table and the geometric means."""
    argparse.ArgumentParser(description=__doc__).parse_args()
    suite.keep_to(1)
    found = [
        measured
        for _, program, _ in programs.chosen(0)
        if program.is_installed
        and (program.batch or 1) >= _LEAST_POINTS
        and (measured := measure(program)) is not None
    ]
    rows, *factors = zip(*found, strict=True)
    header = ["program", "ours, us", "better mode, us", "function, us", "empty call, us"]
    print(report.provenance())
    print(report.markdown_table([*header, "times as fast", "at most"], list(rows)))
    means = (float(np.exp(np.mean(np.log(each)))) for each in factors)
    print("geometric mean of {}: {:.1f}, at most {:.1f}".format(len(rows), *means))


if __name__ == "__main__":
    main()
