"""Reverse mode: the vertices against the order of the program."""

from jax_cce_search.searching import Search

__all__ = [
    "search",
]


def search(state: Search) -> None:
    """Offers the one order."""
    state.offer(state.problem.vertices[::-1])
