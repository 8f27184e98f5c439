"""How measurements are printed: as Markdown tables under a line that says where they come from."""

from __future__ import annotations

import datetime
import os
import pathlib
import platform
from collections.abc import Sequence
from typing import Any

import jax

from benchmarks.timing import Measured

_UNITS = ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs"), (1e-9, "ns"))


def provenance() -> str:
    """Returns one line with the hardware, the versions and the date of this run."""
    device = jax.devices()[0]
    processor = f"{_processor()} ({os.cpu_count()} cores)"
    hardware = processor if device.platform == "cpu" else f"{device.device_kind}, {processor}"
    return (
        f"{hardware}; JAX {jax.__version__}, Python {platform.python_version()}; "
        f"{datetime.date.today().isoformat()}"
    )


def _processor() -> str:
    # platform.processor() is empty or just the architecture on most Linux systems.
    cpuinfo = pathlib.Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "model name":
                return value.strip()
    return platform.processor() or platform.machine()


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Lays out a Markdown table that also reads well as plain text: first column left."""
    cells = [[str(cell) for cell in row] for row in (header, *rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    return "\n".join(
        "| "
        + " | ".join(
            cell.rjust(width) if column else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        + " |"
        for row in (cells[0], rule, *cells[1:])
    )


def save_picture(figure: Any, path: pathlib.Path) -> None:
    """Saves a matplotlib figure as SVG that is the same whenever the same version draws it."""
    import matplotlib

    # Letters stay letters: a fifth of the size, and the reader's own fonts.
    with matplotlib.rc_context({"svg.hashsalt": "jax_cce", "svg.fonttype": "none"}):
        figure.savefig(path, format="svg", metadata={"Date": None})


def duration(seconds: float) -> str:
    """Formats a duration to three significant digits in the unit that suits it."""
    size, unit = next((u for u in _UNITS if seconds >= u[0]), _UNITS[-1])
    return f"{_three_digits(seconds / size)} {unit}"


def durations(measured: Measured) -> str:
    """Formats a measured duration: the median, then the quartiles in brackets."""
    lower, upper = measured.quartiles
    return f"{duration(measured.median)} [{duration(lower)}, {duration(upper)}]"


def ratio(measured: Measured) -> str:
    """Formats a measured ratio: the median, then the quartiles in brackets."""
    lower, upper = measured.quartiles
    return f"{measured.median:.2f} [{lower:.2f}, {upper:.2f}]"


def _three_digits(number: float) -> str:
    decimals = 2 if number < 10 else 1 if number < 100 else 0
    return f"{number:.{decimals}f}"
