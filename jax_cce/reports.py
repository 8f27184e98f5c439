"""Sections of reports, as plain text, Markdown and HTML for notebooks.

The HTML has no colours of its own, so that it can be read on light and on dark pages.
"""

import html
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

__all__ = [
    "Section",
    "aligned",
    "grouped",
    "page",
    "shortened",
]


@dataclass(frozen=True)
class Section:
    """A part of a report: lines of text under a heading, then perhaps a table.

    Attributes:
        title: the heading.
        lines: the text, one point each.
        header: names of the table's columns.
        rows: the table's cells.
        folded: whether HTML shows the heading alone, until somebody asks for the rest.
    """

    title: str
    lines: tuple[str, ...] = ()
    header: tuple[str, ...] = ()
    rows: tuple[tuple[str, ...], ...] = ()
    folded: bool = False

    def text(self) -> str:
        """The section as plain text."""
        lines = [self.title, *(f"  {line}" for line in self.lines)]
        if self.rows:
            lines += [f"  {line}" for line in aligned(self.header, self.rows)]
        return "\n".join(lines)

    def markdown(self) -> str:
        """The section in Markdown."""
        lines = [f"### {_in_markdown(self.title)}"]
        if self.lines:
            lines += ["", *(f"- {_in_markdown(line)}" for line in self.lines)]
        if self.rows:
            right = _is_numeric(self.rows)
            lines += ["", _row(self.header), _row("--:" if each else "---" for each in right)]
            lines += [_row(map(_in_markdown, row)) for row in self.rows]
        return "\n".join(lines)

    def html(self) -> str:
        """The section in HTML."""
        title = html.escape(self.title)
        parts = [] if self.folded else [f"<h4>{title}</h4>"]
        if self.lines:
            items = "".join(f"<li>{html.escape(line)}</li>" for line in self.lines)
            parts.append(f"<ul>{items}</ul>")
        if self.rows:
            head = "".join(f"<th>{html.escape(each)}</th>" for each in self.header)
            right = [
                ' style="text-align: right"' if each else "" for each in _is_numeric(self.rows)
            ]
            body = "".join(
                "<tr>"
                + "".join(
                    f"<td{style}>{html.escape(each)}</td>"
                    for style, each in zip(right, row, strict=True)
                )
                + "</tr>"
                for row in self.rows
            )
            parts.append(f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>")
        if self.folded:
            parts = [f"<details><summary>{title}</summary>", *parts, "</details>"]
        return "".join(parts)


def page(sections: Iterable[Section]) -> str:
    """Sections in HTML, as notebooks ask for it by `_repr_html_`."""
    return "\n".join(section.html() for section in sections)


def shortened(
    items: Sequence[Any],
    first: int,
    last: int,
    *,
    see: str = "",
    text: Callable[[Any], str] = str,
) -> list[str]:
    """The first and the last items as text, and between them how many there are more.

    Args:
        items: the items.
        first: how many of the first are shown.
        last: how many of the last.
        see: how to see all of them.
        text: makes a text of an item; called for those that are shown only.
    """
    left = len(items) - first - last
    if left <= 1:
        return [text(item) for item in items]
    more = f"... {left:,} more{f' ({see})' if see else ''}"
    return [*map(text, items[:first]), more, *map(text, items[len(items) - last :])]


def grouped(number: Any) -> str:
    """A whole number with commas; one that depends on symbolic sizes is an expression."""
    return f"{number:,.0f}" if isinstance(number, int | float) else str(number)


def aligned(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """A table as lines of plain text, its columns of numbers flush right."""
    table = [tuple(header), *rows]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    right = _is_numeric(rows)
    return [
        "  ".join(
            cell.rjust(width) if flush else cell.ljust(width)
            for cell, width, flush in zip(row, widths, right, strict=True)
        ).rstrip()
        for row in table
    ]


def _is_numeric(rows: Sequence[Sequence[str]]) -> list[bool]:
    """For each column whether all its cells are numbers."""
    return [
        all(not cell or (cell[0].isdigit() and cell[-1] in "0123456789%s") for cell in column)
        for column in zip(*rows, strict=True)
    ]


def _row(cells: Any) -> str:
    return f"| {' | '.join(cells)} |"


def _in_markdown(text: str) -> str:
    # What a function or a file is called must not turn into markup.
    for sign in "\\`*_{}[]<>|#":
        text = text.replace(sign, f"\\{sign}")
    return text
