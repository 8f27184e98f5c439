"""What the suite measured, for people: a table, a picture, and what became slower.

Pages are written from the results that are kept in `benchmarks/results`.
"""

from __future__ import annotations

import dataclasses
import json
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from benchmarks import report
from benchmarks.suite import BASELINES, CONTROL, OURS, Executable, Row, Spread

_ROOT = pathlib.Path(__file__).parents[1]
KEPT = _ROOT / "benchmarks" / "results" / "programs-cpu.json"
PAGE = _ROOT / "docs" / "explanation" / "programs.md"
PICTURE = _ROOT / "docs" / "pictures" / "programs.svg"
README = _ROOT / "README.md"
_MARKS = "<!-- programs: written by make generated -->", "<!-- end of programs -->"

_HEAD = f"""\
# Programs as users write them

![Speed-ups over JAX's better mode, sorted](../pictures/{PICTURE.name})

`python -m benchmarks run --json benchmarks/results/{KEPT.name}` measures, and `make generated`
writes this page.

Every program is in the form in which its users write it (`benchmarks/programs` names where),
jitted, with `jax.vmap` outside where it is batched, with default settings and without a registry. A
tenth of them is drawn by a seed. *Better mode* is the faster of `jax.jacfwd` and `jax.jacrev`, for
Hessians of `jax.hessian` and reverse over reverse. *Speed-up* is its CPU time over ours, within a
turn, and *control* the same for a second executable of the better mode (the middle half). *Build*
is what tracing, planning and compiling take, over the same of the mode that is built faster, and
*plan* the part of it that planning takes. *Temporaries* are the bytes that a call needs besides
arguments and results, over the smaller of the modes'. *Fusions* are ours and the better mode's. The
process keeps to one core. A program is a loss where its speed-up is below 0.95 by more than the
control's noise; losses come first.

"""

# Slower than this, beyond the control's noise, counts as a loss; and so much less as a regression.
_LOSS = 0.95
_REGRESSION = 0.9
_BUILD_REGRESSION = 1.15


@dataclasses.dataclass(frozen=True)
class Results:
    """One run of the suite.

    Attributes:
      provenance: Hardware, versions and date.
      seed: What the drawn programs were drawn by.
      rows: The programs that were measured.
      left_out: The programs whose packages were not installed.
    """

    provenance: str
    seed: int
    rows: tuple[Row, ...]
    left_out: tuple[str, ...]


# Read by docs/assets/filter.js.
_FILTER = """\
<input class="table-filter" type="search" aria-label="Filter"
 placeholder="Filter: loss, hessian, robots, f32, drawn ...">"""


def loaded(path: pathlib.Path) -> Results:
    """Reads what `python -m benchmarks run --json` has written."""
    data = json.loads(path.read_text())
    return Results(
        data["provenance"], data["seed"], tuple(map(_row, data["rows"])), tuple(data["left_out"])
    )


def _row(data: dict[str, Any]) -> Row:
    spreads = {name: Spread(**spread) for name, spread in data["speed_ups"].items()}
    peers = {
        name: Executable(**{**peer, "run": Spread(**peer["run"]), "wall": Spread(**peer["wall"])})
        for name, peer in data["peers"].items()
    }
    return Row(**{**data, "peers": peers, "speed_ups": spreads})


def building(row: Row, peer: str = OURS) -> float:
    """Trace + plan + compile of a peer over that of the mode that is built faster."""
    total = {name: costs.trace + costs.compile for name, costs in row.peers.items()}
    return total[peer] / min(total[name] for name in BASELINES if name in total)


def is_loss(row: Row, peer: str = OURS) -> bool:
    """Whether a peer is slower than the better mode by more than 5 % and the control's noise."""
    control, ours = row.speed_ups[CONTROL], row.speed_ups[peer]
    noise = max(0.0, 1 - control.lower, 1 - 1 / control.upper)
    return ours.median < _LOSS - noise


def _measured(results: Results) -> list[Row]:
    """The rows with figures, the greatest loss first."""
    rows = [row for row in results.rows if not row.failure]
    return sorted(rows, key=lambda row: row.speed_ups[OURS].median)


def _geometric_mean(values: Sequence[float]) -> float:
    return float(np.exp(np.mean(np.log(values)))) if values else float("nan")


def summary(results: Results) -> str:
    """The figures that decide, one a line."""
    rows = _measured(results)
    ups = [row.speed_ups[OURS].median for row in rows]
    builds = sorted(map(building, rows))
    losses = [row for row in rows if is_loss(row)]
    return "\n".join(
        [
            f"- programs: {len(rows)}, of which {sum(row.drawn for row in rows)} drawn by seed "
            f"{results.seed}; failed: {len(results.rows) - len(rows)}; left out, as packages are "
            f"not installed: {len(results.left_out)}",
            f"- speed-up over the better mode, geometric mean: {_geometric_mean(ups):.2f}; "
            f"median {np.median(ups):.2f}, worst {min(ups):.2f}, best {max(ups):.1f}",
            f"- below {_LOSS} beyond the control's noise: {len(losses)}; "
            f"faster than 1.05: {sum(up > 1.05 for up in ups)}",
            "- trace + plan + compile over the faster-built mode's: median "
            f"{np.median(builds):.2f}, 90 % {np.quantile(builds, 0.9):.2f}, worst {builds[-1]:.1f}",
        ]
    )


def page(results: Results) -> str:
    """The summary and the table, in Markdown; losses first."""
    header = (
        "program",
        "better mode",
        "its CPU time",
        "ours",
        "speed-up",
        "control",
        "build",
        "plan",
        "temporaries",
        "fusions",
    )
    rows = []
    for row in _measured(results):
        ours, theirs = row.peers[OURS], row.peers[row.better]
        control = row.speed_ups[CONTROL]
        least = min(row.peers[name].temporaries for name in BASELINES if name in row.peers)
        rows.append(
            (
                f"{row.family}: {row.label}{' (drawn)' if row.drawn else ''}",
                row.better,
                report.duration(theirs.run.median),
                report.duration(ours.run.median),
                f"{row.speed_ups[OURS].median:.2f}{' loss' if is_loss(row) else ''}",
                f"{control.lower:.2f}-{control.upper:.2f}",
                f"{building(row):.2f}",
                report.duration(ours.plan),
                f"{(ours.temporaries + 1) / (least + 1):.2f}",
                f"{ours.fusions}/{theirs.fusions}",
            )
        )
    text = [
        f"CPU time of the process, medians. {results.provenance}",
        summary(results),
        report.markdown_table(header, rows),
    ]
    failures = [f"- {row.label}: {row.failure}" for row in results.rows if row.failure]
    if failures:
        text.append("Failed:\n\n" + "\n".join(failures))
    if results.left_out:
        text.append(f"Not installed: {', '.join(results.left_out)}")
    return "\n\n".join(text)


def documentation(results: Results) -> str:
    """The page of the documentation, whose table can be filtered in a browser."""
    start, table = page(results).split("\n\n| program", 1)
    return f"{_HEAD}{start}\n\n{_FILTER}\n\n| program{table}\n"


def readme(text: str, results: Results) -> str:
    """The README with the summary of these results."""
    before, rest = text.split(_MARKS[0])
    _, after = rest.split(_MARKS[1])
    lines = [_MARKS[0], summary(results), "", f"Measured: {results.provenance}.", _MARKS[1]]
    return before + "\n".join(lines) + after


def write(results: Results) -> None:
    """Writes the page, the picture and the README's summary."""
    PAGE.write_text(documentation(results), encoding="utf-8")
    README.write_text(readme(README.read_text(encoding="utf-8"), results), encoding="utf-8")
    draw(results, PICTURE)


def line(row: Row) -> str:
    """One row in short, while the suite runs."""
    if row.failure:
        return f"{row.label}: {row.failure}"
    ours = row.speed_ups[OURS].median
    return f"{ours:6.2f} run {building(row):6.2f} build  {row.family}: {row.label}"


def comparison(before: Results, after: Results) -> tuple[str, list[str]]:
    """What changed between two runs: a Markdown table, and the programs that became slower.

    Speed-ups over JAX's better mode are compared, as times of two runs are not comparable.
    """
    earlier = {row.label: row for row in _measured(before)}
    rows, regressions = [], []
    for row in _measured(after):
        if row.label not in earlier:
            continue
        old = earlier[row.label]
        run = row.speed_ups[OURS].median / old.speed_ups[OURS].median
        build = building(row) / building(old)
        noise = sum(
            each.speed_ups[CONTROL].upper - each.speed_ups[CONTROL].lower for each in (old, row)
        )
        slower = run < _REGRESSION - noise / 2 or build > _BUILD_REGRESSION
        if slower:
            regressions.append(row.label)
        rows.append(
            (
                f"{row.family}: {row.label}",
                f"{old.speed_ups[OURS].median:.2f}",
                f"{row.speed_ups[OURS].median:.2f}",
                f"{run:.2f}",
                f"{building(old):.2f}",
                f"{building(row):.2f}",
                "regression" if slower else "",
            )
        )
    rows.sort(key=lambda cells: float(cells[3]))
    header = ("program", "before", "after", "ratio", "build before", "build after", "")
    now_failed = [row.label for row in after.rows if row.failure and row.label in earlier]
    regressions += now_failed
    text = [
        f"Before: {before.provenance}\n\n{summary(before)}",
        f"After: {after.provenance}\n\n{summary(after)}",
        report.markdown_table(header, rows),
    ]
    if now_failed:
        text.append(f"Failed now: {', '.join(now_failed)}")
    return "\n\n".join(text), regressions


def draw(results: Results, path: pathlib.Path) -> None:
    """The speed-ups from the smallest to the largest, over the band of the control."""
    from matplotlib.figure import Figure

    rows = _measured(results)
    places = range(len(rows))
    figure = Figure(figsize=(9, 4), layout="constrained")
    axes = figure.subplots()
    controls = [row.speed_ups[CONTROL] for row in rows]
    axes.fill_between(
        places,
        [each.lower for each in controls],
        [each.upper for each in controls],
        color="0.8",
        step="mid",
        label="control: the better mode against itself",
    )
    axes.plot(
        places, [row.speed_ups[OURS].median for row in rows], ".", markersize=4, label="jax_cce"
    )
    axes.axhline(1.0, color="0.4", linewidth=0.8)
    axes.set_yscale("log", base=2)
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.set_xlabel("programs, by speed-up")
    axes.set_ylabel("speed-up over JAX's better mode")
    axes.legend(loc="upper left", frameon=False)
    report.save_picture(figure, path)
