"""A picture of a graph and of the order in which it is eliminated; needs matplotlib."""

import importlib
import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np

from jax_cce.eliminations import vertices_of
from jax_cce.graph.building import Graph
from jax_cce.planning.plans import Plan
from jax_cce_search.naming import computed_by, label, structure_name
from jax_cce_search.pictures.figures import new_figure, saved
from jax_cce_search.pictures.layered_layout import Bends, Places, layered_layout

__all__ = [
    "MOST_VERTICES",
    "draw",
]

MOST_VERTICES = 2000

# Beyond that, names would cover the nodes.
_MOST_NAMED = 160
_INCHES_ALONG, _INCHES_ACROSS, _MOST_INCHES = 0.62, 0.45, 40.0

# For each structure of local Jacobians (see `structure_name`) the colour and style of its edges,
# in the order of the legend: what costs most first.
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


def draw(name: str, plan: Plan, path: Any = None) -> Any:
    """Draws the graph from the inputs on the left to the outputs on the right.

    Every node is as many layers from the left as the longest path to it has edges. Vertices are
    coloured by their place in the elimination order, edges by the structure of their local
    Jacobian.

    Args:
        name: the function's name.
        plan: the plan of its Jacobian, from `jax_cce.plan`.
        path: where to save it; the suffix decides the format, such as ".png", ".svg" or ".pdf".

    Returns:
        The `matplotlib.figure.Figure`.

    Raises:
        ValueError: for a graph of more than 2000 vertices, and for a suffix unknown to matplotlib.
        ImportError: where matplotlib is not installed.
    """
    graph, order = plan.graph, vertices_of(plan.order)
    if len(order) > MOST_VERTICES:
        raise ValueError(
            f"The graph of {name} has {len(order):,} vertices; a picture of more than "
            f"{MOST_VERTICES:,} shows nothing. Draw a part of the function, or the function at "
            "smaller shapes; str(explanation) reports on graphs of any size."
        )
    places, bends = layered_layout(graph)
    points = [*places.values(), *itertools.chain.from_iterable(bends.values())]
    along = max((x for x, _ in points), default=0.0)
    across = np.ptp([y for _, y in points]) if points else 0.0
    width = min(_MOST_INCHES, max(6.5, _INCHES_ALONG * (along + 1) + 3))
    height = min(_MOST_INCHES, max(3.6, _INCHES_ACROSS * across + 2))
    figure = new_figure((width, height))
    axes = figure.add_subplot()
    handles = _draw_edges(axes, graph, places, bends)
    shown = _draw_nodes(axes, graph, places, order)
    if shown is not None and len(order) > 1:
        figure.colorbar(
            shown, ax=axes, label="place in the elimination order", shrink=0.7, pad=0.01, aspect=30
        )
    if len(places) <= _MOST_NAMED:
        _name_nodes(axes, graph, places)
    axes.set_title(f"{name}: {plan.num_vertices:,} vertices, {plan.num_edges:,} edges")
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
    return saved(figure, path)


def _draw_edges(axes: Any, graph: Graph, places: Places, bends: Bends) -> list[Any]:
    """Draws the edges, those of a structure at once; returns what the legend shows of them."""
    collections = importlib.import_module("matplotlib.collections")
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
            drawn = collections.LineCollection(
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


def _draw_nodes(axes: Any, graph: Graph, places: Places, order: Sequence[int]) -> Any:
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


def _name_nodes(axes: Any, graph: Graph, places: Places) -> None:
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
