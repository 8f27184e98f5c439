"""Pictures of a graph, and of how searches came to their orders; they need matplotlib.

Figures are drawn on a canvas in memory, so that neither a display nor pyplot's state is touched.
"""

import collections
import importlib
import itertools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np

from jax_cce.graph import Graph
from jax_cce_search.explanation import Explanation, computed_by, label, structure_name
from jax_cce_search.optimization import Optimized
from jax_cce_search.search import Improvement

__all__ = ["MOST_VERTICES", "draw", "draw_curves", "plot_search"]

MOST_VERTICES = 2000

# Beyond that, names would cover the nodes; and bends along so many layers would not be seen.
_MOST_NAMED = 160
_MOST_BENDS = 20_000
_SWEEPS = 12
# Room across a layer, in units of a node's, for an edge that passes through.
_PASSING = 0.25
_INCHES_ALONG, _INCHES_ACROSS, _MOST_INCHES = 0.62, 0.45, 40.0

_STYLES: dict[str, tuple[str, str]] = {
    "scalar": ("#1f4e8c", "solid"),
    "diagonal": ("#2a9d8f", "solid"),
    "block diagonal": ("#e9a23b", "solid"),
    "vector": ("#7b4fa3", "solid"),
    "dense": ("#c1121f", "solid"),
    "operator": ("#000000", "dashed"),
    "gather": ("#a0522d", "dashed"),
    "weighted reduction": ("#d16ba5", "solid"),
    "weighted broadcast": ("#d16ba5", "dashed"),
    "sum of terms": ("#6b8e23", "dashed"),
    "one": ("#b0b0b0", "solid"),
    "identity": ("#8fb8d8", "solid"),
    "layout": ("#b0b0b0", "dotted"),
    "constant": ("#7a7a7a", "solid"),
    "reduction": ("#7a7a7a", "dashed"),
    "broadcast": ("#7a7a7a", "dotted"),
}


def draw(explanation: Explanation, path: Any = None) -> Any:
    """Draws the graph from the inputs on the left to the outputs on the right.

    Every node is as many layers from the left as the longest path to it has edges. Vertices are
    coloured by their place in the elimination order, edges by the structure of their local
    Jacobian.

    Args:
        explanation: what `jax_cce.explain` returned.
        path: where to save it; the suffix decides the format, such as ".png", ".svg" or ".pdf".

    Returns:
        The `matplotlib.figure.Figure`.

    Raises:
        ValueError: for a graph of more than 2000 vertices, and for a suffix unknown to matplotlib.
        ImportError: where matplotlib is not installed.
    """
    graph, order = explanation.plan.graph, explanation.plan.order
    if len(order) > MOST_VERTICES:
        raise ValueError(
            f"The graph of {explanation.name} has {len(order):,} vertices; a picture of more than "
            f"{MOST_VERTICES:,} shows nothing. Draw a part of the function, or the function at "
            "smaller shapes; str(explanation) reports on graphs of any size."
        )
    places, bends = _layout(graph)
    points = [*places.values(), *itertools.chain.from_iterable(bends.values())]
    along = max((x for x, _ in points), default=0.0)
    across = np.ptp([y for _, y in points]) if points else 0.0
    width = min(_MOST_INCHES, max(6.5, _INCHES_ALONG * (along + 1) + 3))
    height = min(_MOST_INCHES, max(3.6, _INCHES_ACROSS * across + 2))
    figure = _figure((width, height))
    axes = figure.add_subplot()
    handles = _draw_edges(axes, graph, places, bends)
    shown = _draw_nodes(axes, graph, places, order)
    if shown is not None and len(order) > 1:
        figure.colorbar(
            shown, ax=axes, label="place in the elimination order", shrink=0.7, pad=0.01, aspect=30
        )
    if len(places) <= _MOST_NAMED:
        _name_nodes(axes, graph, places)
    axes.set_title(
        f"{explanation.name}: {explanation.num_vertices:,} vertices, "
        f"{explanation.num_edges:,} edges"
    )
    axes.set_axis_off()
    axes.margins(0.04, 0.12)
    handles += axes.get_legend_handles_labels()[0]
    if handles:
        axes.legend(
            handles=handles,
            loc="upper center",
            bbox_to_anchor=(0.5, 0.0),
            ncols=max(1, min(len(handles), int(width / 1.7))),
            frameon=False,
            fontsize="small",
        )
    return _saved(figure, path)


def _draw_edges(axes: Any, graph: Graph, places: Any, bends: Any) -> list[Any]:
    """Draws the edges, those of a structure at once; returns what the legend shows of them."""
    collections_ = importlib.import_module("matplotlib.collections")
    lines = importlib.import_module("matplotlib.lines")
    curves: dict[str, list[np.ndarray]] = {}
    for source, to in graph.successors.items():
        for target, block in to.items():
            name = structure_name(block, graph.shapes[target], graph.shapes[source])
            through = [places[source], *bends.get((source, target), ()), places[target]]
            curves.setdefault(name, []).append(_smooth(through))
    handles = []
    for name, (color, style) in _STYLES.items():
        if name in curves:
            drawn = collections_.LineCollection(
                curves[name], colors=color, linestyles=style, linewidths=1.1, alpha=0.75, zorder=1
            )
            axes.add_collection(drawn)
            handles.append(lines.Line2D([], [], color=color, linestyle=style, label=name))
    return handles


def _smooth(points: Sequence[tuple[float, float]]) -> np.ndarray:
    """A curve through points that leaves and enters each of them horizontally: float [n, 2]."""
    parts = []
    for (x, y), (to_x, to_y) in itertools.pairwise(points):
        t = np.linspace(0, 1, 2 if y == to_y else 12)
        parts.append(np.stack([x + (to_x - x) * t, y + (to_y - y) * t * t * (3 - 2 * t)], -1))
    return np.concatenate(parts)


def _draw_nodes(axes: Any, graph: Graph, places: Any, order: Sequence[int]) -> Any:
    """Draws the nodes; returns the coloured ones for the colour bar, or None without any."""
    first = graph.program.first_computed
    position = {vertex + first: k for k, vertex in enumerate(order, 1)}
    outputs = {name for name in graph.outputs if isinstance(name, int)}
    size = 60.0 if len(places) <= _MOST_NAMED else 25.0
    # An output that is eliminated too has the colour of a vertex and the form of an output.
    groups = {
        "input": ([n for n in places if n < first], "s"),
        "vertex": ([n for n in position if n not in outputs], "o"),
        "vertex and output": ([n for n in position if n in outputs], "D"),
        "output": ([n for n in outputs if n in places and n >= first and n not in position], "D"),
    }
    shown = None
    for name, (nodes, marker) in groups.items():
        if not nodes:
            continue
        at = np.array([places[node] for node in nodes])
        common = {"marker": marker, "s": size, "edgecolors": "black", "linewidths": 0.7}
        if nodes[0] in position:
            values = [position[node] for node in nodes]
            shown = axes.scatter(
                *at.T, c=values, cmap="viridis", vmin=1, vmax=len(order), zorder=3, **common
            )
        else:
            axes.scatter(*at.T, c="white", zorder=3, **common)
        axes.scatter(
            [], [], c="lightgray" if nodes[0] in position else "white", label=name, **common
        )
    return shown


def _name_nodes(axes: Any, graph: Graph, places: Any) -> None:
    equations = computed_by(graph)
    for node, place in places.items():
        text = label(graph, node)
        if node in equations:
            text += f"\n{equations[node].name[:14]}"
        axes.annotate(
            text,
            place,
            (0, -5),
            textcoords="offset points",
            ha="center",
            va="top",
            fontsize=5.5,
            linespacing=0.9,
            color="#333333",
            zorder=4,
        )


Places = dict[int, tuple[float, float]]


def _layout(graph: Graph) -> tuple[Places, dict[tuple[int, int], list[tuple[float, float]]]]:
    """Where the nodes lie, and where long edges pass through the layers between their ends.

    Source: Sugiyama, Tagawa & Toda, "Methods for visual understanding of hierarchical system
    structures" (1981): layers by longest path, then neighbours are brought together by barycentres.
    """
    layer = _layers(graph)
    edges = [(source, target) for source, to in graph.successors.items() for target in to]
    spans = sum(layer[target] - layer[source] - 1 for source, target in edges)
    routed = edges if spans <= _MOST_BENDS else []
    # Where an edge passes a layer there is a node of its own, named by the edge and the layer.
    chains: dict[tuple[int, int], list[Any]] = {
        (source, target): [
            (source, target, between) for between in range(layer[source] + 1, layer[target])
        ]
        for source, target in routed
    }
    before: dict[Any, list[Any]] = collections.defaultdict(list)
    after: dict[Any, list[Any]] = collections.defaultdict(list)
    rows: list[list[Any]] = [[] for _ in range(max(layer.values(), default=-1) + 1)]
    for node in layer:
        rows[layer[node]].append(node)
    for source, target in edges:
        chain = chains.get((source, target), [])
        for bend in chain:
            rows[bend[2]].append(bend)
        for one, other in itertools.pairwise([source, *chain, target]):
            after[one].append(other)
            before[other].append(one)
    height: dict[Any, float] = {}
    for row in rows:
        height.update(_spread(row))
    for sweep in range(_SWEEPS):
        neighbours, order = (before, rows) if sweep % 2 == 0 else (after, rows[::-1])
        for row in order:
            middle = {
                node: sum(height[each] for each in neighbours[node]) / len(neighbours[node])
                if neighbours[node]
                else height[node]
                for node in row
            }
            row.sort(key=middle.__getitem__)
            height.update(_spread(row, middle))
    places = {node: (float(layer[node]), height[node]) for node in layer}
    bends = {
        edge: [(float(bend[2]), height[bend]) for bend in chain] for edge, chain in chains.items()
    }
    if not routed:
        for source, target in edges:
            bends[source, target] = list(_arc(places[source], places[target]))
    return places, bends


def _layers(graph: Graph) -> dict[int, int]:
    """For each node the number of edges on the longest path to it."""
    missing = collections.Counter(target for to in graph.successors.values() for target in to)
    layer = {node: 0 for node in graph.successors if not missing[node]}
    pending = list(layer)
    for node in pending:
        for target in graph.successors[node]:
            layer[target] = max(layer.get(target, 0), layer[node] + 1)
            missing[target] -= 1
            if not missing[target]:
                pending.append(target)
    return layer


def _spread(row: Sequence[Any], wanted: Mapping[Any, float] | None = None) -> dict[Any, float]:
    """Heights in the order of a row, at a distance from each other, near those that are wanted."""
    rooms = [_PASSING if isinstance(node, tuple) else 1.0 for node in row]
    heights: list[float] = []
    for k, node in enumerate(row):
        lowest = -math.inf if not k else heights[-1] + (rooms[k - 1] + rooms[k]) / 2
        heights.append(max(lowest, wanted[node]) if wanted else max(lowest, 0.0))
    if heights:
        # Pushing goes one way only; on the whole the row must not drift with it.
        ideal = sum(wanted[node] for node in row) / len(row) if wanted else 0.0
        shift = ideal - sum(heights) / len(heights)
        heights = [height + shift for height in heights]
    return dict(zip(row, heights, strict=True))


def _arc(one: tuple[float, float], other: tuple[float, float]) -> Iterator[tuple[float, float]]:
    """A point beside the line between the ends of a long edge, so that it passes the nodes by."""
    span = other[0] - one[0]
    if span > 1:
        yield (one[0] + other[0]) / 2, (one[1] + other[1]) / 2 + 0.3 * math.sqrt(span)


def plot_search(
    found: Optimized | Mapping[str, Optimized | Iterable[Improvement]], path: Any = None
) -> Any:
    """Draws the best cost over the time of a search.

    Args:
        found: what `jax_cce.optimize` returned, drawn in one colour for each strategy that
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
    results = [found] if isinstance(found, Optimized) else [*found.values()]
    results = [run for run in results if isinstance(run, Optimized)]
    runs = {found.name: found} if isinstance(found, Optimized) else dict(found)
    if not any(_best_so_far(run) for run in runs.values()):
        raise ValueError("There is nothing to draw: no search found an order.")
    lines: dict[str, float | None] = {}
    for run in results:
        lines.update(run.reference)
    bounds = [run.bound for run in results if run.bound is not None]
    lines["lower bound"] = max(bounds, default=None)
    figure = _figure((7.5, 4.5))
    axes = figure.add_subplot()
    until = max((run.seconds for run in results), default=0.0)
    if isinstance(found, Optimized):
        axes.set_title(found.name)
        _draw_strategies(axes, _best_so_far(found), until)
        _finish(axes, lines)
    else:
        axes.set_title("Best cost over time")
        draw_curves(axes, runs, until=until, lines=lines)
    # A measured race starts from orders that were searched for by operations.
    costs = {"flops" if run.entry.cost == "runtime" else run.entry.cost for run in results}
    measure = costs.pop().replace("_", " ") if len(costs) == 1 else "cost"
    axes.set_ylabel(f"{measure} of the best order so far")
    return _saved(figure, path)


def draw_curves(
    axes: Any,
    runs: Mapping[str, Optimized | Iterable[Improvement]],
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


def _best_so_far(run: Optimized | Iterable[Improvement]) -> list[Improvement]:
    """Improvements in the order of time; those of searches side by side come unsorted."""
    given = run.improvements if isinstance(run, Optimized) else run
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


def _figure(size: tuple[float, float]) -> Any:
    try:
        figure = importlib.import_module("matplotlib.figure")
        agg = importlib.import_module("matplotlib.backends.backend_agg")
    except ImportError as error:
        raise ImportError(
            "Pictures need matplotlib, which was not found. Install it: "
            "pip install jax-cross-country[plot]"
        ) from error
    made = figure.Figure(figsize=size, layout="constrained")
    agg.FigureCanvasAgg(made)
    return made


def _saved(figure: Any, path: Any) -> Any:
    if path is not None:
        figure.savefig(path, dpi=150)
    return figure
