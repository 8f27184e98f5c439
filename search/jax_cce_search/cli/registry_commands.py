"""The commands that look after the registry."""

import argparse
import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

from jax_cce import registry
from jax_cce.registry import StoredOrder
from jax_cce.registry.stored_order import SHORT_KEY
from jax_cce.reports import aligned
from jax_cce_search.cli.answers import OK, PROBLEMS, Answer, CommandError, counted, few

__all__ = [
    "export_orders",
    "import_orders",
    "list_orders",
    "prune_registry",
    "show_orders",
    "verify_registry",
]


def list_orders(options: argparse.Namespace) -> Answer:
    """`registry list`: a line for each stored order; one's own first, the newest at the top."""
    entries = registry.entries(cost=options.cost)
    listed = [e for shipped in (False, True) for e in entries.newest_first(shipped=shipped)]
    header = ("key", "name", "cost", "value", "bound", "strategy", "device", "origin", "created")
    rows = [
        (
            entry.key[:SHORT_KEY],
            entry.name,
            entry.cost,
            _amount(entry, entry.value),
            "" if entry.bound is None else _amount(entry, entry.bound),
            entry.strategy,
            entry.device or "",
            entries.layer(entry),
            entry.created[:19].replace("T", " "),
        )
        for entry in listed
    ]
    text = "\n".join(aligned(header, rows)) if rows else _none(options.cost)
    document = {"entries": [dataclasses.asdict(entry) for entry in entries]}
    return Answer(document, text, OK, functools.partial(_table, header, rows) if rows else None)


def _none(cost: str | None) -> str:
    """What an empty list says."""
    others = sorted({entry.cost for entry in registry.entries()}) if cost is not None else []
    if not others:
        return "The registry holds no orders."
    return f"The registry holds no orders for cost {cost!r}. It has some for {', '.join(others)}."


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> Any:
    """The list as rich shows it, without columns that are empty."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    columns = zip(header, zip(*rows, strict=True), strict=True)
    shown = {name: cells for name, cells in columns if any(cells)}
    if "created" in shown:
        shown["created"] = tuple(cell[: len("2026-01-01")] for cell in shown["created"])
    for name in shown:
        # On a narrow terminal the rest is shortened; half a key or cost would be of no use.
        whole = name in ("key", "value", "bound", "created")
        justify: Any = "right" if name in ("value", "bound") else "left"
        table.add_column(name, no_wrap=whole, overflow="ellipsis", justify=justify)
    for row in zip(*shown.values(), strict=True):
        table.add_row(*map(Text, row))
    return table


def _amount(entry: StoredOrder, amount: float) -> str:
    return f"{amount:.3g} s" if entry.cost == "runtime" else f"{amount:,.0f}"


def show_orders(options: argparse.Namespace) -> Answer:
    """`registry show`: all that is stored for one function."""
    entries = [entry for entry in registry.entries() if entry.key.startswith(options.key.lower())]
    keys = sorted({entry.key for entry in entries})
    if not keys:
        raise CommandError(
            PROBLEMS,
            f"no key in the registry begins with {options.key!r}. "
            "`jax-cce registry list` shows what there is.",
        )
    if len(keys) > 1:
        raise CommandError(
            PROBLEMS,
            f"{len(keys)} keys begin with {options.key!r}: "
            f"{few([key[:SHORT_KEY] for key in keys])}. Give more digits.",
        )
    parts = []
    for entry in entries:
        facts = dataclasses.asdict(entry)
        facts["order"] = " ".join(map(str, entry.order)) or "(nothing to eliminate)"
        for name in ("times", "versions"):
            facts[name] = ", ".join(f"{key} {value}" for key, value in facts[name].items())
        lines = [f"{name}: {value}" for name, value in facts.items() if value not in (None, "")]
        parts.append("\n".join(lines))
    document = {"entries": [dataclasses.asdict(entry) for entry in entries]}
    return Answer(document, "\n\n".join(parts))


def verify_registry(options: argparse.Namespace) -> Answer:
    """`registry verify`: what is wrong with which file."""
    problems = registry.verify()
    summary = f"{counted(len(problems), 'problem')} found." if problems else "All files are sound."
    text = "\n".join([*problems, summary])
    return Answer({"problems": problems}, text, PROBLEMS if problems else OK)


def export_orders(options: argparse.Namespace) -> Answer:
    """`registry export`: writes stored orders into one file."""
    count = registry.export(options.path, key=options.key, cost=options.cost)
    return Answer(
        {"path": options.path, "exported": count},
        f"{counted(count, 'entry', 'entries')} written to {options.path}.",
    )


def import_orders(options: argparse.Namespace) -> Answer:
    """`registry import`: stores the orders of such a file."""
    try:
        count = registry.import_(options.path)
    except OSError as error:
        raise CommandError(
            PROBLEMS,
            f"{options.path} cannot be read ({error.strerror or error}). "
            "`jax-cce registry export` writes such a file.",
        ) from error
    document = {"path": options.path, "stored": count}
    return Answer(document, f"{counted(count, 'entry', 'entries')} stored, new or better.")


def prune_registry(options: argparse.Namespace) -> Answer:
    """`registry prune`: removes files that are of no more use."""
    removed = registry.prune(
        older_than_days=options.older_than_days,
        superseded=not options.keep_superseded,
        damaged=not options.keep_damaged,
        dry_run=options.dry_run,
    )
    done = "would be removed" if options.dry_run else "removed"
    document = {"removed": removed, "dry_run": options.dry_run}
    return Answer(document, "\n".join([*removed, f"{counted(len(removed), 'file')} {done}."]))
