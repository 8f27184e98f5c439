"""Certificates: groups of vertices that prove a bound, checked before anyone believes it."""

from collections.abc import Iterable, Sequence

from jax_cce.registry import StoredOrder
from jax_cce.registry.reports import warn_once
from jax_cce_search.game.groups import MOST_MEMBERS
from jax_cce_search.game.problem import Problem

__all__ = [
    "certified",
    "stored_bound",
]


def certified(problem: Problem, groups: Iterable[Sequence[int]]) -> int:
    """What every order costs at least, as some groups prove; all else is computed anew.

    Args:
        problem: the problem, whose reduced graph they are groups of.
        groups: disjoint groups of its vertices. Every other vertex is alone.

    Raises:
        ValueError: for groups that are none.
    """
    groups = [tuple(group) for group in groups]
    members = [vertex for group in groups for vertex in group]
    if problem.groups is None:
        raise ValueError(f"There are no bounds of groups in {problem.measure!r}.")
    if len(set(members)) < len(members) or not set(members) <= set(problem.vertices):
        raise ValueError("The groups are not disjoint, or name what is no vertex of the graph.")
    if any(len(group) > MOST_MEMBERS for group in groups):
        raise ValueError(f"A group has more than {MOST_MEMBERS} vertices.")
    bounds = problem.groups
    return problem.bound + sum(bounds.gain(group) for group in groups if group)


def stored_bound(problem: Problem, entry: StoredOrder, first: int) -> int | None:
    """The bound that a stored order states, if it can be believed.

    A bound that groups prove is computed anew, which takes some milliseconds; one that they do not
    prove is reported once, and refused.

    Args:
        problem: the problem of the graph that the order is of.
        entry: the order.
        first: the node that the registry calls vertex 0.
    """
    if entry.bound is None or not entry.groups:
        return None if entry.bound is None else int(entry.bound)
    groups = [[vertex + first for vertex in group] for group in entry.groups]
    try:
        proven, why = certified(problem, groups), ""
    except ValueError as error:
        proven, why = 0, f" ({error})"
    if proven >= entry.bound:
        return int(entry.bound)
    warn_once(
        ("bound", entry.key, entry.cost),
        f"The registry has the lower bound {entry.bound:,.0f} of {entry.cost} for "
        f"{entry.name or entry.key}, which its groups of vertices do not prove{why}. It is "
        "ignored; search again.",
    )
    return None
