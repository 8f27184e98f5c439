"""Pictures of how searches came to their orders; they need matplotlib."""

import itertools
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Protocol, runtime_checkable

from jax_cce.registry import StoredOrder
from jax_cce_search.pictures.figures import new_figure, saved
from jax_cce_search.searching import Improvement

__all__ = [
    "Run",
    "draw_curves",
    "plot_search",
]


@runtime_checkable
class Run(Protocol):
    """A search that has ended, as far as it is drawn: what `jax_cce.optimize` returns.

    Attributes:
        name: the function's name.
        entry: what is stored for it, whose cost is drawn.
        bound: what every order costs at least, where that is known.
        reference: costs to compare with.
        improvements: the best order so far over the time of the search.
        seconds: how long it took.
    """

    @property
    def name(self) -> str: ...
    @property
    def entry(self) -> StoredOrder: ...
    @property
    def bound(self) -> int | None: ...
    @property
    def reference(self) -> Mapping[str, int]: ...
    @property
    def improvements(self) -> tuple[Improvement, ...]: ...
    @property
    def seconds(self) -> float: ...


def plot_search(searched: Run | Mapping[str, Run | Iterable[Improvement]], path: Any = None) -> Any:
    """Draws the best cost over the time of a search.

    Args:
        searched: what `jax_cce.optimize` returned, drawn in one colour for each strategy that
            contributed; or several results or lists of improvements by name, drawn in one colour
            each, to compare strategies on one function.
        path: where to save it; the suffix decides the format, such as ".png", ".svg" or ".pdf".

    Returns:
        The `matplotlib.figure.Figure`, with the lower bound and the costs of forward, reverse and
        minimal Markowitz as horizontal lines where they are known.

    Raises:
        ValueError: where there is nothing to draw, and for a suffix unknown to matplotlib.
        ImportError: where matplotlib is not installed.
    """
    results = [searched] if isinstance(searched, Run) else [*searched.values()]
    results = [run for run in results if isinstance(run, Run)]
    runs = {searched.name: searched} if isinstance(searched, Run) else dict(searched)
    if not any(_best_so_far(run) for run in runs.values()):
        raise ValueError("There is nothing to draw: no search found an order.")
    lines: dict[str, float | None] = {}
    for run in results:
        lines.update(run.reference)
    bounds = [run.bound for run in results if run.bound is not None]
    lines["lower bound"] = max(bounds, default=None)
    figure = new_figure((7.5, 4.5))
    axes = figure.add_subplot()
    until = max((run.seconds for run in results), default=0.0)
    if isinstance(searched, Run):
        axes.set_title(searched.name)
        _draw_strategies(axes, _best_so_far(searched), until)
        _finish(axes, lines)
    else:
        axes.set_title("Best cost over time")
        draw_curves(axes, runs, until=until, lines=lines)
    # A measured race starts from orders that were searched for by operations.
    costs = {"flops" if run.entry.cost == "runtime" else run.entry.cost for run in results}
    measure = costs.pop().replace("_", " ") if len(costs) == 1 else "cost"
    axes.set_ylabel(f"{measure} of the best order so far")
    return saved(figure, path)


def draw_curves(
    axes: Any,
    runs: Mapping[str, Run | Iterable[Improvement]],
    *,
    until: float = 0.0,
    lines: Mapping[str, float | None] = MappingProxyType({}),
) -> None:
    """Draws the best cost over the time of several searches into given axes.

    Args:
        axes: the `matplotlib.axes.Axes`.
        runs: results or lists of improvements by name; empty ones are left out.
        until: seconds to which the curves are drawn, at least to the last improvement.
        lines: costs by name that are drawn as horizontal lines; None is left out.
    """
    steps = {name: _best_so_far(run) for name, run in runs.items()}
    last = max((run[-1].seconds for run in steps.values() if run), default=0.0)
    for k, (name, run) in enumerate(steps.items()):
        if run:
            _draw_steps(axes, run, _seconds(max(until, last)), name, f"C{k % 10}")
    _finish(axes, lines)


def _finish(axes: Any, lines: Mapping[str, float | None]) -> None:
    for name, cost in lines.items():
        if cost is not None:
            color, style = ("black", "dashed") if name == "lower bound" else ("gray", "dotted")
            _draw_level(axes, cost, f"{name} {cost:,}", color, style)
    axes.set_xscale("log")
    axes.set_xlabel("seconds of search")
    axes.legend(fontsize="small")
    axes.grid(visible=True, alpha=0.25)


def _best_so_far(run: Run | Iterable[Improvement]) -> list[Improvement]:
    """Improvements in the order of time; those of searches side by side come unsorted."""
    given = run.improvements if isinstance(run, Run) else run
    best: list[Improvement] = []
    for each in sorted(given, key=lambda improvement: improvement.seconds):
        if not best or each.cost < best[-1].cost:
            best.append(each)
    return best


def _draw_strategies(axes: Any, run: Sequence[Improvement], end: float) -> None:
    """One line in steps, each strategy's share of it in a colour of its own."""
    colors: dict[str, str] = {}
    shares = [list(share) for _, share in itertools.groupby(run, lambda each: each.strategy)]
    for k, share in enumerate(shares):
        name = share[0].strategy or "search"
        shown = f"_{name}" if name in colors else name
        color = colors.setdefault(name, f"C{len(colors) % 10}")
        following = shares[k + 1][0] if k + 1 < len(shares) else None
        until = max(end, run[-1].seconds) if following is None else following.seconds
        until = _seconds(until)
        _draw_steps(axes, share, until, shown, color)
        if following is not None:
            axes.vlines(until, following.cost, share[-1].cost, color=color, linewidth=1)


def _draw_steps(axes: Any, run: Sequence[Improvement], until: float, name: str, color: str) -> None:
    times = [*(_seconds(each.seconds) for each in run), until]
    costs = [*(each.cost for each in run), run[-1].cost]
    axes.step(times, costs, where="post", color=color, label=name)
    axes.plot(times[:-1], costs[:-1], ".", color=color)


def _draw_level(axes: Any, cost: float, name: str, color: str, style: str) -> None:
    axes.axhline(cost, color=color, linestyle=style, linewidth=1)
    axes.annotate(
        name,
        (1, cost),
        (-3, 2),
        xycoords=("axes fraction", "data"),
        textcoords="offset points",
        ha="right",
        fontsize="small",
        color=color,
    )


def _seconds(seconds: float) -> float:
    # An axis of powers of ten has no zero.
    return max(seconds, 1e-4)
