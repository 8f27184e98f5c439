"""Draws the measured speed-ups of docs/explanation/benchmarks.md, wins and losses alike.

    python docs/speed_ups.py                # prints what is drawn
    python docs/speed_ups.py --svg PATH     # writes the picture
    python docs/speed_ups.py --check PATH   # exits with 1 where the picture at PATH is another

The numbers are read from the tables on that page, which are the output of ``python -m
benchmarks.dense`` and ``python -m benchmarks.bottleneck``. So a new measurement goes into the page,
and ``make generated`` draws it.
"""

from __future__ import annotations

import argparse
import math
import re
import sys
from pathlib import Path
from typing import NamedTuple
from xml.sax.saxutils import escape

PAGE = Path(__file__).parent / "explanation" / "benchmarks.md"
# A median, then the quartiles in brackets.
_MEASURED = re.compile(r"([\d.]+) \[([\d.]+), ([\d.]+)\]")


class SpeedUp(NamedTuple):
    """How many times as fast as the better of jax.jacfwd and jax.jacrev: median and quartiles."""

    program: str
    median: float
    lower: float
    upper: float


def _rows(page: str, heading: str) -> list[list[str]]:
    """The cells of the first table in a section, header included."""
    section = page.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    lines = section[section.index("\n|") + 1 :].split("\n\n")[0].splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return [row for row in rows if set(row[0]) != {"-"}]


def _measured(program: str, cell: str) -> SpeedUp:
    median, lower, upper = map(float, _MEASURED.fullmatch(cell).groups())
    return SpeedUp(program, median, lower, upper)


def read(page: str) -> tuple[list[SpeedUp], str]:
    """The speed-ups on the page, the greatest first, and where they were measured."""
    header, *rows = _rows(page, "Dense Jacobians: wins and losses")
    found = [_measured(row[0], row[header.index("speed-up")]) for row in rows]
    header, auto, *_ = _rows(page, "The bottleneck chain")
    # Of JAX's two modes the forward one is the faster there.
    chain = auto[header.index("speed-up over jax.jacfwd")]
    found.append(_measured("bottleneck network, 784 -> 16 -> 784", chain))
    where = re.search(r"^Dense Jacobians, float32, jitted\. (.*)$", page, re.MULTILINE)[1]
    return sorted(found, key=lambda each: -each.median), where


# --- the picture ---------------------------------------------------------------------------------

_ROW = 26
_LEFT = 262
_WIDTH = 760
_TOP = 58
_DECADE = 150
# Where a ratio of 1 lies.
_ONE = _LEFT + 92
_STYLE = """\
text { font: 13px system-ui, sans-serif; fill: #24292f; }
.title { font-size: 15px; font-weight: 600; }
.note { font-size: 12px; fill: #57606a; }
.grid { stroke: #d8dee4; stroke-width: 1; }
.one { stroke: #24292f; stroke-width: 1.5; }
.win { fill: #0b7a75; }
.tie { fill: #9aa4b2; }
.loss { fill: #c8553d; }
.spread { stroke: #24292f; stroke-width: 1.2; }"""


def _x(ratio: float) -> float:
    return round(_ONE + _DECADE * math.log10(ratio), 1)


def _kind(each: SpeedUp) -> str:
    if each.lower <= 1.05 and each.upper >= 0.95:
        return "tie"
    return "win" if each.median > 1 else "loss"


def picture(found: list[SpeedUp], where: str) -> str:
    """The picture, as SVG: a bar for each program on a logarithmic axis."""
    bottom = _TOP + _ROW * len(found)
    height = bottom + 62
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" '
        f'width="{_WIDTH}" height="{height}" role="img" aria-labelledby="title">',
        '<title id="title">Speed-up of jax_cce.jacobian over the better of jax.jacfwd and '
        "jax.jacrev</title>",
        f"<style>{_STYLE}</style>",
        f'<rect width="{_WIDTH}" height="{height}" rx="8" fill="#ffffff"/>',
        '<text class="title" x="16" y="26">Times as fast as the better of jit(jax.jacfwd) and '
        "jit(jax.jacrev)</text>",
    ]
    for mark in (0.3, 1, 3, 10, 30, 100):
        kind = "one" if mark == 1 else "grid"
        x = _x(mark)
        parts.append(f'<line class="{kind}" x1="{x}" x2="{x}" y1="{_TOP - 6}" y2="{bottom}"/>')
        parts.append(
            f'<text class="note" x="{x}" y="{bottom + 16}" text-anchor="middle">{mark:g}</text>'
        )
    for k, each in enumerate(found):
        y = _TOP + k * _ROW
        start, end = sorted((_x(1), _x(each.median)))
        parts.append(
            f'<text x="{_LEFT - 8}" y="{y + 16}" text-anchor="end">{escape(each.program)}</text>'
        )
        parts.append(
            f'<rect class="{_kind(each)}" x="{start}" y="{y + 4}" '
            f'width="{max(round(end - start, 1), 1.5)}" height="{_ROW - 8}"/>'
        )
        parts.append(
            f'<line class="spread" x1="{_x(each.lower)}" x2="{_x(each.upper)}" '
            f'y1="{y + _ROW / 2}" y2="{y + _ROW / 2}"/>'
        )
        at = max(_x(each.upper), _x(1)) + 6
        parts.append(f'<text class="note" x="{at}" y="{y + 17}">{each.median:.2f}</text>')
    parts += [
        f'<text class="note" x="16" y="{bottom + 38}">Red: slower; grey: as fast within 5 %. Lines '
        "are quartiles. Dense Jacobians, float32, jitted.</text>",
        f'<text class="note" x="16" y="{bottom + 54}">{escape(where)}</text>',
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def main() -> int:
    """Prints, writes or checks."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--svg", type=Path, help="where to write the picture")
    parser.add_argument("--check", type=Path, help="a picture that has to be the current one")
    options = parser.parse_args()
    found, where = read(PAGE.read_text(encoding="utf-8"))
    if options.svg:
        options.svg.write_text(picture(found, where), encoding="utf-8")
    elif options.check:
        if options.check.read_text(encoding="utf-8") != picture(found, where):
            print(f"{options.check} is out of date: run make generated", file=sys.stderr)
            return 1
    else:
        for each in found:
            print(f"{each.median:7.2f} [{each.lower:.2f}, {each.upper:.2f}]  {each.program}")
        print(where)
    return 0


if __name__ == "__main__":
    sys.exit(main())
