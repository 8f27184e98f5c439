"""The suite of programs as users write them: `python -m benchmarks run` and `... compare`.

`run` measures programs one after the other and keeps what it found as JSON; `report` prints it as
a table, or writes the documentation's; `compare` says what became slower from one file to another.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import pathlib
import re
import sys

from benchmarks import programs, report, suite, suite_report
from benchmarks.suite_report import Results


def _run(arguments: argparse.Namespace) -> int:
    suite.keep_to(arguments.cores)
    chosen = [
        each
        for each in programs.chosen(arguments.seed)
        if re.search(arguments.programs, f"{each[0].name}: {each[1].label}")
    ]
    left_out = [program.label for _, program, _ in chosen if not program.is_installed]
    rows = []
    for family, program, drawn in chosen:
        if not program.is_installed:
            continue
        row = suite.measure(
            program, family.name, peers=arguments.peers, drawn=drawn, seconds=arguments.seconds
        )
        print(suite_report.line(row), file=sys.stderr, flush=True)
        rows.append(row)
    results = Results(report.provenance(), arguments.seed, tuple(rows), tuple(left_out))
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(dataclasses.asdict(results), indent=1) + "\n")
    print(suite_report.page(results))
    return any(row.failure for row in rows)


def _report(arguments: argparse.Namespace) -> int:
    results = suite_report.loaded(arguments.json)
    if arguments.write:
        suite_report.write(results)
    else:
        print(suite_report.page(results))
    return 0


def _compare(arguments: argparse.Namespace) -> int:
    before, after = map(suite_report.loaded, (arguments.before, arguments.after))
    text, regressions = suite_report.comparison(before, after)
    print(text)
    return bool(regressions)


def main() -> int:
    """Runs the command that the arguments name."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    commands = parser.add_subparsers(required=True)
    run = commands.add_parser("run", help="measure programs")
    run.add_argument("--programs", default="", help="a regular expression on 'family: label'")
    run.add_argument("--peers", nargs="*", default=[], help="further ones, jax_cce:ORDER")
    run.add_argument("--json", type=pathlib.Path, help="where to keep the results")
    run.add_argument("--seed", type=int, default=0, help="which further programs are drawn")
    run.add_argument("--cores", type=int, default=1, help="how many cores the process keeps to")
    run.add_argument("--seconds", type=float, default=2.0, help="how long a program's turns last")
    run.set_defaults(command=_run)
    shown = commands.add_parser("report", help="print and draw what was measured")
    shown.add_argument("json", type=pathlib.Path, nargs="?", default=suite_report.KEPT)
    shown.add_argument("--write", action="store_true", help="write page, picture and README")
    shown.set_defaults(command=_report)
    compare = commands.add_parser("compare", help="what became slower between two runs")
    compare.add_argument("before", type=pathlib.Path)
    compare.add_argument("after", type=pathlib.Path)
    compare.set_defaults(command=_compare)
    arguments = parser.parse_args()
    return arguments.command(arguments)


if __name__ == "__main__":
    sys.exit(main())
