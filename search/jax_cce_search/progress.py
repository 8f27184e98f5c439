"""Progress of what takes a while: a bar on a terminal or in a notebook, elsewhere a few lines."""

import contextlib
import html
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from jax_cce.algebra.costs import with_unit
from jax_cce_search.searching import Search

__all__ = [
    "announced",
    "line",
    "shown",
]

# Shorter searches are over before a line could be read.
_WORTH_SHOWING = 2.0
# Seconds between two plain lines, and between two updates in a notebook.
_PERIOD, _REFRESH = 10.0, 0.3

Show = Callable[[float, str], None]


@contextlib.contextmanager
def shown(searches: Sequence[Search], seconds: float | None, wanted: bool | None) -> Iterator[None]:
    """Shows the progress of searches while the context is entered.

    Args:
        searches: the searches, one after the other.
        seconds: how long they may take together; None if that is not known.
        wanted: whether to show it, however short; None for above two seconds.
    """
    with line("jax_cce", seconds, _worth(seconds, wanted), transient=True) as show:
        if show is not None:

            def tick(search: Search) -> None:
                spent = sum(each.seconds_spent for each in searches)
                show(spent, _described(search, searches))

            for each in searches:
                each.on_tick = tick
            # Some are compiled before the first tick.
            if searches:
                tick(searches[0])
        yield


@contextlib.contextmanager
def announced(what: str, seconds: float | None, wanted: bool | None) -> Iterator[None]:
    """Says what is done while the context is entered; the arguments are those of `shown`."""
    with line("jax_cce", None, _worth(seconds, wanted), transient=True) as show:
        if show is not None:
            show(0.0, what)
        yield


def _worth(seconds: float | None, wanted: bool | None) -> bool | None:
    """Whether to show what may take so long."""
    is_short = seconds is not None and seconds <= _WORTH_SHOWING
    return False if wanted is None and is_short else wanted


def _described(search: Search, searches: Sequence[Search]) -> str:
    """Which search it is, and what its best order costs in its measure."""
    number = next(k for k, each in enumerate(searches, 1) if each is search)
    place = f"search {number} of {len(searches)}, " if len(searches) > 1 else ""
    best = "no order yet"
    if search.best is not None:
        best = f"best {with_unit(search.problem.measure, search.cost)}"
    return f"{place}{search.strategy}: {best}"


@contextlib.contextmanager
def line(
    title: str, total: float | None, wanted: bool | None, *, transient: bool
) -> Iterator[Show | None]:
    """Progress while the context is entered.

    A bar on stderr where that is a terminal, or one that is updated in place in a notebook; else
    plain lines on stderr, at least ten seconds apart.

    Args:
        title: what it is about.
        total: what is complete; None if that is not known.
        wanted: False for nothing at all.
        transient: whether a bar vanishes at the end.

    Returns:
        What updates it, by how much is complete and a text; None where nothing is to be shown.
    """
    if wanted is False:
        yield None
    elif (display := _notebook()) is not None:
        with _in_notebook(display, title, total, transient) as show:
            yield show
    elif sys.stderr.isatty():
        with _on_terminal(title, total, transient) as show:
            yield show
    else:
        yield _in_lines(title)


def _notebook() -> Callable[..., Any] | None:
    """What displays in the notebook in which this runs; None where it runs in none."""
    interactive = sys.modules.get("IPython")
    shell = interactive.get_ipython() if interactive is not None else None
    if getattr(shell, "kernel", None) is None:
        return None
    from IPython.display import display

    return display


@contextlib.contextmanager
def _on_terminal(title: str, total: float | None, transient: bool) -> Iterator[Show]:
    from rich.console import Console
    from rich.markup import escape
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (
        TextColumn(escape(title)),
        BarColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[what]}", markup=False),
    )
    with Progress(*columns, console=Console(file=sys.stderr), transient=transient) as progress:
        task = progress.add_task("", total=total, what="")
        yield lambda completed, what: progress.update(task, completed=completed, what=what)


class _Bar:
    """A bar as a notebook shows it."""

    def __init__(self, title: str, completed: float, total: float | None, what: str) -> None:
        self._text = f"{title}: {what}" if what else title
        self._share = None if not total else min(completed / total, 1.0)

    def __repr__(self) -> str:
        return self._text

    def _repr_html_(self) -> str:
        value = "" if self._share is None else f' value="{self._share:.3f}"'
        return f"<progress{value}></progress> {html.escape(self._text)}"


@contextlib.contextmanager
def _in_notebook(
    display: Callable[..., Any], title: str, total: float | None, transient: bool
) -> Iterator[Show]:
    handle = display(_Bar(title, 0.0, total, ""), display_id=True)
    last: tuple[float, str] = 0.0, ""
    updated = 0.0

    def show(completed: float, what: str) -> None:
        nonlocal last, updated
        last = completed, what
        now = time.perf_counter()
        if now - updated >= _REFRESH:
            updated = now
            handle.update(_Bar(title, completed, total, what))

    try:
        yield show
    finally:
        # An output cannot be taken back, but it can be empty.
        if transient:
            handle.update({"text/plain": ""}, raw=True)
        else:
            handle.update(_Bar(title, last[0], total, last[1]))


def _in_lines(title: str) -> Show:
    begin = time.perf_counter()
    due = begin

    def show(completed: float, what: str) -> None:
        nonlocal due
        now = time.perf_counter()
        if now >= due:
            due = now + _PERIOD
            print(f"{title}, {now - begin:.0f} s: {what}", file=sys.stderr, flush=True)

    return show
