"""Sparse matrices in words, and as pictures of where their entries lie (spy plots).

A picture is a piece of SVG of a few kilobytes, whatever the matrix's size: bins of entries, or
lines where the entries lie on diagonals. It is drawn in the colour of the text around it.
"""

import html
import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

__all__ = [
    "MOST_BINS",
    "MOST_LINES",
    "Diagonal",
    "counted",
    "divisors",
    "in_html",
    "in_words",
    "of_blocks",
    "of_diagonals",
    "of_entries",
    "structured",
]

# Bins along an axis, lines and blocks in a picture; the longer side of one in pixels.
MOST_BINS, MOST_LINES, _PIXELS = 40, 64, 240
# A picture of bins with shades that takes more characters is drawn without them.
_MOST_CHARACTERS = 5000
# Offsets of diagonals in a text.
_MOST_OFFSETS = 7
_SHADES = (0.35, 0.65, 1.0)

Shape = tuple[int, int]


class Diagonal(NamedTuple):
    """A stretch of a diagonal.

    Attributes:
        offset: column minus row.
        low: its first column.
        high: its last column.
    """

    offset: int
    low: int
    high: int


def in_words(
    out_shape: Sequence[object], in_shape: Sequence[object], dtype: str, facts: Iterable[str]
) -> str:
    """A matrix in words, such as "[99] x [100], float64: 2 diagonals (0, 1)"."""
    shapes = " x ".join(f"[{', '.join(map(str, shape))}]" for shape in (out_shape, in_shape))
    return f"{', '.join(filter(None, (shapes, dtype)))}: {', '.join(facts)}"


def counted(nnz: int, full: int, *, at_most: bool = False) -> str:
    """How many entries there are of those of the dense matrix."""
    if nnz == 0:
        return "no entries"
    if full == 1:
        return "1 entry"
    if at_most:
        return f"at most {min(nnz, full):,} of {full:,} entries"
    return f"all {full:,} entries" if nnz == full else f"{nnz:,} of {full:,} entries"


def structured(
    offsets: Sequence[int] | None, blocks: tuple[int, int, int] | None, shape: Shape
) -> list[str]:
    """The tighter of two structures in words, where there is one.

    Args:
        offsets: of diagonals that hold all entries, ascending; None where there are none.
        blocks: number, rows and columns of equal blocks along the diagonal that do; None likewise.
        shape: the shape of the matrix.
    """
    room = None if offsets is None else sum(_length(offset, shape) for offset in offsets)
    if blocks is not None and (room is None or math.prod(blocks) < room):
        count, rows, columns = blocks
        return [f"{count:,} blocks of {rows:,} x {columns:,}"]
    if not offsets:
        return []
    if len(offsets) == 1:
        return ["the diagonal" if offsets[0] == 0 else f"1 diagonal ({offsets[0]})"]
    shown = [*map(str, offsets)]
    if len(shown) > _MOST_OFFSETS:
        shown[3:-1] = ["..."]
    return [f"{len(offsets):,} diagonals ({', '.join(shown)})"]


def _length(offset: int, shape: Shape) -> int:
    """How many places a diagonal has."""
    return max(0, min(shape[0], shape[1] - offset) - max(0, -offset))


def divisors(number: int) -> list[int]:
    """The divisors of a number from the greatest down; none of 0."""
    small = [k for k in range(1, math.isqrt(number) + 1) if number % k == 0]
    return sorted({*small, *(number // k for k in small)}, reverse=True)


def of_entries(rows: np.ndarray, columns: np.ndarray, shape: Shape) -> str:
    """A picture of entries at some places, in bins where the matrix is large."""
    if 0 in shape:
        return ""
    high, wide = (min(size, MOST_BINS) for size in shape)
    bins = rows.astype(np.int64) * high // shape[0] * wide
    bins += columns.astype(np.int64) * wide // shape[1]
    counts = np.bincount(bins, minlength=high * wide).reshape(high, wide)
    # Where a few bins hold most of the entries, the others are to be seen, too.
    share = (counts / max(counts.max(), 1)) ** 0.25
    shades = np.ceil(share * len(_SHADES)).astype(int)
    paths = _runs(shades)
    if len(paths) > _MOST_CHARACTERS:
        paths = _runs(np.where(shades, len(_SHADES), 0))
    return _svg(shape, (high, wide), f'<g transform="translate(0 .5)">{paths}</g>')


def _runs(shades: np.ndarray) -> str:
    """Bins of a shade that stand side by side as lines as broad as a bin, a path for each shade."""
    paths = []
    for shade, opacity in enumerate(_SHADES, 1):
        moves = []
        for row, cells in enumerate(shades == shade):
            edges = np.flatnonzero(np.diff(cells.astype(np.int8), prepend=0, append=0))
            moves += [f"M{a} {row}h{b - a}" for a, b in edges.reshape(-1, 2).tolist()]
        if moves:
            paths.append(f'<path stroke-opacity="{opacity}" d="{"".join(moves)}"/>')
    return "".join(paths)


def of_diagonals(diagonals: Iterable[Diagonal], shape: Shape) -> str:
    """A picture of diagonals as lines."""
    lines = sorted(
        f"M{low} {low - offset}L{high + 1} {high + 1 - offset}" for offset, low, high in diagonals
    )
    path = f'<path vector-effect="non-scaling-stroke" d="{"".join(lines)}"/>'
    return _svg(shape, shape, path)


def of_blocks(count: int, shape: Shape) -> str:
    """A picture of equal blocks along the diagonal; of one block for a full matrix."""
    if count > MOST_LINES:
        line = '<path vector-effect="non-scaling-stroke" stroke-width="2" d="M0 0L1 1"/>'
        return _svg(shape, (1, 1), line)
    lines = "".join(f"M{k} {k}.5h1" for k in range(count))
    return _svg(shape, (count, count), f'<path d="{lines}"/>')


def _svg(shape: Shape, box: Shape, content: str) -> str:
    """A picture whose coordinates are (column, row) in a box of so many rows and columns."""
    longest = max(shape)
    high, wide = (max(12, round(_PIXELS * size / longest)) for size in shape)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" role="img" width="{wide}" height="{high}" '
        f'viewBox="0 0 {box[1]} {box[0]}" preserveAspectRatio="none" fill="none" '
        'stroke="currentColor" stroke-width="1" shape-rendering="crispEdges">'
        f"<title>{shape[0]} x {shape[1]}</title>{content}"
        f'<rect width="{box[1]}" height="{box[0]}" stroke-opacity=".5" '
        'vector-effect="non-scaling-stroke"/></svg>'
    )


def in_html(name: str, text: str, picture: str) -> str:
    """A matrix in words with its picture below, as notebooks show it."""
    return f"<div><p>{html.escape(name)}: {html.escape(text)}</p>{picture}</div>"
