"""The strategies by name; each is a function of a `jax_cce_search.searching.Search`."""

from typing import Literal, get_args

from jax_cce_search.searching import Strategy
from jax_cce_search.strategies import (
    alphazero,
    annealing,
    beam,
    branch_and_bound,
    edges,
    forward,
    greedy,
    portfolio,
    reverse,
    windows,
)

__all__ = [
    "NEED_MATRIX",
    "SECONDS",
    "STRATEGIES",
    "Name",
    "named",
]

Name = Literal[
    "forward",
    "reverse",
    "markowitz",
    "relative_markowitz",
    "minimum_fill",
    "beam",
    "annealing",
    "windows",
    "branch_and_bound",
    "edges",
    "alphazero",
    "portfolio",
]

STRATEGIES: dict[str, Strategy] = {
    "forward": forward.search,
    "reverse": reverse.search,
    "markowitz": greedy.markowitz,
    "relative_markowitz": greedy.relative_markowitz,
    "minimum_fill": greedy.minimum_fill,
    "beam": beam.search,
    "annealing": annealing.search,
    "windows": windows.search,
    "branch_and_bound": branch_and_bound.search,
    "edges": edges.search,
    "alphazero": alphazero.search,
    "portfolio": portfolio.search,
}
assert tuple(STRATEGIES) == get_args(Name)

# What a search on the fly takes where it is not told: a learned policy has to be compiled first,
# for each of the two forms of a graph.
SECONDS = {"alphazero": 30.0}

# These hold the graph as a matrix, which has a largest size.
NEED_MATRIX = frozenset({"annealing", "beam", "branch_and_bound", "edges", "windows"})


def named(name: str) -> Strategy:
    """The strategy of a name.

    Raises:
        ValueError: for an unknown name.
    """
    if name not in STRATEGIES:
        names = ", ".join(map(repr, STRATEGIES))
        raise ValueError(f"strategy must be one of {names}, but got {name!r}.")
    return STRATEGIES[name]
