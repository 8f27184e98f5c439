"""Labels of what is emitted: which equation or step of which plan an operation belongs to.

Whoever reads the emitted program asks for them; a program that runs has none.
"""

import contextlib
import contextvars
import re
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax

from jax_cce.algebra.steps import Step
from jax_cce.planning.plans import Plan

__all__ = ["Label", "Labels", "current", "label_of", "labelled"]


class Label(NamedTuple):
    """What an operation belongs to.

    Attributes:
        plan: the number of the plan among those that were emitted.
        kind: "value", the equations of the function; or "step", those of the plan.
        place: which equation or step.
    """

    plan: int
    kind: str
    place: int


class Labels:
    """The plans that were emitted under these labels.

    Attributes:
        plans: the plans, in the order of their emission.
    """

    def __init__(self) -> None:
        self.plans: list[Plan] = []

    def of(self, plan: Plan) -> tuple[Callable[[int], Any], Callable[[Step], Any]]:
        """Contexts of the equations, and of the steps, of a plan."""
        number = len(self.plans)
        self.plans.append(plan)
        places = {id(step): k for k, step in enumerate(plan.steps)}

        def of_equation(site: int) -> Any:
            return jax.named_scope(f"cce.{number}.value.{site}")

        def of_step(step: Step) -> Any:
            place = places.get(id(step))
            if place is None:  # computed again, for a region of `jax.checkpoint`
                return contextlib.nullcontext()
            return jax.named_scope(f"cce.{number}.step.{place}")

        return of_equation, of_step


_labels: contextvars.ContextVar[Labels | None] = contextvars.ContextVar("labels", default=None)
_LABEL = re.compile(r"cce\.(\d+)\.(value|step)\.(\d+)")


def current() -> Labels | None:
    """The labels that are asked for around us."""
    return _labels.get()


@contextlib.contextmanager
def labelled() -> Iterator[Labels]:
    """A context in which all that is emitted gets labels."""
    token = _labels.set(labels := Labels())
    try:
        yield labels
    finally:
        _labels.reset(token)


def label_of(names: str) -> Label | None:
    """The outermost label in the stack of an operation's names; None where there is none."""
    found = _LABEL.search(names)
    return found and Label(int(found[1]), found[2], int(found[3]))
