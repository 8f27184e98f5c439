"""What an evaluation of GradBench is: functions of a message's input, and inputs like theirs."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

Json = Any


@dataclasses.dataclass(frozen=True)
class Function:
    """A function that an evaluation asks for.

    Attributes:
        program: what is timed, a function of what `Evaluation.read` returns.
        write: what is sent of its result.
        peers: the same by JAX's own transformations, by name; none for what is not a derivative.
    """

    program: Callable[..., Any]
    write: Callable[[Any], Json]
    peers: Mapping[str, Callable[..., Any]] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """An evaluation.

    Attributes:
        functions: its functions, by the names that messages use.
        read: the arguments of its programs from the input of a message.
        draw: an input of a given size.
        sizes: small and medium sizes, as further arguments of `draw`, by what tables call them.
    """

    functions: Mapping[str, Function]
    read: Callable[[Json], tuple[Any, ...]]
    draw: Callable[..., Json]
    sizes: Mapping[str, tuple[int, ...]]

    def drawn(self, size: tuple[int, ...], seed: int = 0) -> Json:
        """Returns a drawn input, the same for the same seed."""
        return self.draw(np.random.default_rng(seed), *size)


def lists(array: Any) -> Json:
    """An array as JSON has it: nested lists."""
    return np.asarray(array).tolist()
