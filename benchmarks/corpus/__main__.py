"""Verifies, builds and improves the corpus: see `python -m benchmarks.corpus --help`."""

from __future__ import annotations

import argparse
import datetime
import pathlib
import sys

from benchmarks import report
from benchmarks.corpus import files

PAGE = pathlib.Path(__file__).parents[2] / "docs" / "explanation" / "corpus.md"
_HEAD = """\
# A corpus of elimination orders

Graphs to compare searches on, in `benchmarks/corpus/graphs`: the reference tasks of the field with
AlphaGrad's f and g, programs of the benchmark suite, draws of the families that the learned policy
is trained on, and random programs. Each file is in the node-link form of networkx, with the best
order that is known, who found it and by what, and a lower bound; `benchmarks/corpus/README.md`
says what costs mean. `python -m benchmarks.corpus verify` replays all orders with nothing but the
files, `improve` searches on, and an order from elsewhere that is better is welcome in the file.
"""


def verify(page: bool) -> int:
    """Replays every order and prints a table; the number of files that do not hold.

    Args:
        page: whether to write the table into the documentation.
    """
    rows, wrong = [], 0
    for path in files.paths():
        try:
            entry = files.read(path)
            entry.check()
        except files.CorpusError as error:
            print(error, file=sys.stderr)
            wrong += 1
            continue
        best, gap = entry.best, entry.best.cost - entry.bound
        counts = len(entry.vertices), len(entry.edges), best.cost, entry.bound
        proved = "0, optimal" if gap == 0 else f"{gap / best.cost:.1%}"
        rows.append((entry.name, *(f"{n:,}" for n in counts), proved, best.by, best.who))
    header = ("graph", "vertices", "edges", "best", "bound", "gap", "found by", "who")
    table = report.markdown_table(header, rows)
    optimal = sum(row[5].endswith("optimal") for row in rows)
    holds = f"{len(rows)} graphs hold, {optimal} of them with an order that is proved to be optimal"
    if page and not wrong:
        PAGE.write_text(f"{_HEAD}\n{holds} over vertex orders.\n\n{table}\n")
    print(f"{table}\n\n{holds}; {wrong} do not hold.")
    return wrong


def build(only: str) -> None:
    """Makes the graphs anew; what is known of a graph that has not changed is kept."""
    from benchmarks.corpus import graphs

    today = datetime.date.today().isoformat()
    for name, source, graph in graphs.everything():
        if only not in name:
            continue
        entry = graphs.entry(name, source, graph, today)
        path = files.FOLDER / f"{name}.json"
        if path.is_file():
            old = files.read(path)
            if old.edges == entry.edges and old.best.cost <= entry.best.cost:
                continue
        files.write(entry)
        print(name, len(entry.vertices), entry.best.cost, entry.bound, flush=True)


def improve(only: str, seconds: float, seed: int) -> None:
    """Searches on every graph, and writes what is better."""
    from benchmarks.corpus import graphs

    today = datetime.date.today().isoformat()
    for name, _, graph in graphs.everything():
        path = files.FOLDER / f"{name}.json"
        if only not in name or not path.is_file():
            continue
        old = files.read(path)
        if old.best.cost == old.bound:
            continue
        new = graphs.improved(old, graph, seconds, seed, today)
        if new != old:
            files.write(new)
            print(f"{name}: {old.best.cost} -> {new.best.cost}, {new.best.by}", flush=True)


def main() -> int:
    """Runs one of the commands."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.corpus", description=__doc__)
    parser.add_argument("command", choices=["verify", "build", "improve"])
    parser.add_argument("--page", action="store_true", help="write the table into docs")
    parser.add_argument("--only", default="", help="a part of the names")
    parser.add_argument("--seconds", type=float, default=5.0, help="of a search")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    if options.command == "verify":
        return min(verify(options.page), 1)
    if options.command == "build":
        build(options.only)
    else:
        improve(options.only, options.seconds, options.seed)
    return 0


if __name__ == "__main__":
    sys.exit(main())
