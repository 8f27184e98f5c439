"""A line of progress for searches that take a while, where somebody is there to see it."""

import contextlib
import sys
from collections.abc import Iterator

from jax_cce_search.search import Search

__all__ = ["shown"]

# Shorter searches are over before a line could be read.
_WORTH_SHOWING = 2.0


@contextlib.contextmanager
def shown(searches: list[Search], seconds: float | None, wanted: bool | None) -> Iterator[None]:
    """Shows the progress of searches while the context is entered.

    Args:
        searches: the searches, one after the other, as they are begun.
        seconds: how long they may take together; None if that is not known.
        wanted: whether to show it, even if that is no terminal; None for on a terminal, and above
            two seconds.
    """
    forced = wanted
    if wanted is None:
        wanted = sys.stderr.isatty() and (seconds is None or seconds > _WORTH_SHOWING)
    if not wanted:
        yield
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (
        TextColumn("jax_cce"),
        BarColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[what]}"),
    )
    console = Console(file=sys.stderr, force_terminal=forced)
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("search", total=seconds, what="")

        def tick(search: Search) -> None:
            spent = sum(each.seconds_spent for each in searches)
            cost = f"{search.cost:,}" if search.best is not None else "-"
            progress.update(task, completed=spent, what=f"{search.strategy}: best {cost}")

        for each in searches:
            each.on_tick = tick
        yield
