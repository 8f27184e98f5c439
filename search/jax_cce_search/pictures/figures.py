"""Figures on a canvas in memory, and files of them."""

import importlib
from typing import Any

__all__ = [
    "new_figure",
    "saved",
]


def new_figure(size: tuple[float, float]) -> Any:
    """An empty figure of so many inches, which needs no display.

    Raises:
        ImportError: where matplotlib is not installed.
    """
    try:
        figure = importlib.import_module("matplotlib.figure")
        agg = importlib.import_module("matplotlib.backends.backend_agg")
    except ImportError as error:
        raise ImportError(
            "Pictures need matplotlib, which was not found. Install it: pip install matplotlib"
        ) from error
    empty = figure.Figure(figsize=size, layout="constrained")
    agg.FigureCanvasAgg(empty)
    return empty


def saved(figure: Any, path: Any) -> Any:
    """A figure, saved where there is a path."""
    if path is not None:
        figure.savefig(path, dpi=150)
    return figure
