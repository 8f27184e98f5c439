"""A line of progress for searches that take a while, where somebody is there to see it."""

import contextlib
import sys
from collections.abc import Callable, Iterator

from jax_cce_search.searching import Search

__all__ = [
    "line",
    "shown",
]

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
    if wanted is None and seconds is not None and seconds <= _WORTH_SHOWING:
        wanted = False
    with line("jax_cce", seconds, wanted, transient=True) as show:
        if show is not None:

            def tick(search: Search) -> None:
                spent = sum(each.seconds_spent for each in searches)
                cost = f"{search.cost:,}" if search.best is not None else "-"
                show(spent, f"{search.strategy}: best {cost}")

            for each in searches:
                each.on_tick = tick
        yield


@contextlib.contextmanager
def line(
    title: str, total: float | None, wanted: bool | None, *, transient: bool
) -> Iterator[Callable[[float, str], None] | None]:
    """A line of progress on stderr while the context is entered.

    Args:
        title: what comes before the bar; may use the fields of a `rich.progress.Task`.
        total: what is complete; None if that is not known.
        wanted: whether to show it, even if that is no terminal; None for on a terminal.
        transient: whether it vanishes at the end.

    Returns:
        What updates it, by how much is complete and a text behind the bar; None where it is not
        shown.
    """
    if not (sys.stderr.isatty() if wanted is None else wanted):
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (
        TextColumn(title),
        BarColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[what]}"),
    )
    console = Console(file=sys.stderr, force_terminal=wanted)
    with Progress(*columns, console=console, transient=transient) as progress:
        task = progress.add_task("", total=total, what="")

        def show(completed: float, what: str) -> None:
            progress.update(task, completed=completed, what=what)

        yield show
