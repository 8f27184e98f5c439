"""A tool for GradBench: `python -m benchmarks.gradbench` answers messages, one a line.

In a checkout of GradBench: `gradbench run --eval "gradbench eval gmm" --tool "python -m
benchmarks.gradbench"`. With `--table` drawn inputs are measured instead, beside JAX's own methods;
with `--manual CHECKOUT` beside GradBench's derivatives by hand, which `make -C tools/manual`
compiles there.
"""

from __future__ import annotations

import argparse
import re
import sys

import jax

from benchmarks import suite
from benchmarks.gradbench import EVALUATIONS, manual, protocol, table


def main() -> None:
    """Answers messages until there are no more, or prints the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gradbench", description=__doc__)
    parser.add_argument("--multithreaded", action="store_true", help="keep to no single core")
    parser.add_argument("--table", action="store_true", help="measure drawn inputs")
    parser.add_argument(
        "--manual", metavar="CHECKOUT", help="measure drawn inputs beside those by hand, in C++"
    )
    parser.add_argument(
        "--evaluations", default="", help="those of the table, a regular expression"
    )
    parser.add_argument("--turns", type=int, default=15, help="how often the table's are timed")
    arguments = parser.parse_args()
    if not arguments.multithreaded:
        suite.keep_to(1)
    jax.config.update("jax_enable_x64", True)
    chosen = [name for name in EVALUATIONS if re.search(arguments.evaluations, name)]
    if arguments.manual:
        print(manual.measured(chosen, arguments.manual, turns=arguments.turns))
        return
    if arguments.table:
        print(table.measured(chosen, turns=arguments.turns))
        return
    for answer in protocol.answers(sys.stdin):
        print(answer, flush=True)


if __name__ == "__main__":
    main()
