"""Timing of ways to compute one Jacobian against each other on the present device.

The contenders take turns, so that a slow spell of the machine hits all of them, and those that are
clearly behind drop out. Figures are medians of seconds for one call.
"""

import functools
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

__all__ = [
    "compiled",
    "race",
]

# A contender whose median is this many times the least after the first round is out.
_HOPELESS = 1.25
_FIRST_TURNS, _MORE_TURNS = 5, 16
_TURN_SECONDS = 0.01


def compiled(
    jacobians: Mapping[str, Callable[..., Any]],
    args: Sequence[Any],
    batched: Sequence[bool],
) -> tuple[dict[str, Callable[[], Any]], dict[str, str]]:
    """Compiles each Jacobian for the arguments.

    Args:
        jacobians: the contenders by name.
        args: their arguments, arrays.
        batched: which of them have a leading axis for `jax.vmap` to map over.

    Returns:
        The contenders as functions of nothing, and why others could not be compiled or run.
    """
    calls: dict[str, Callable[[], Any]] = {}
    failures: dict[str, str] = {}
    for name, jacobian in jacobians.items():
        if any(batched):
            jacobian = jax.vmap(jacobian, in_axes=[0 if mapped else None for mapped in batched])
        try:
            run = jax.jit(jacobian).lower(*args).compile()
            jax.block_until_ready(run(*args))
        except Exception as error:  # such as jacfwd of a custom_vjp: this one cannot be had
            failures[name] = f"{type(error).__name__}: {error}"
            continue
        calls[name] = functools.partial(run, *args)
    return calls, failures


def race(
    calls: Mapping[str, Callable[[], Any]], *, seconds: float | None = None
) -> dict[str, float]:
    """Times contenders in turns.

    Args:
        calls: the contenders, compiled and warm.
        seconds: after that long no new turn begins, once each has had some.

    Returns:
        For each the median of its turns, in seconds for one call.
    """
    begin = time.perf_counter()
    repeats = {
        name: max(1, int(_TURN_SECONDS / max(_timed(f, 1), 1e-7))) for name, f in calls.items()
    }
    turns: dict[str, list[float]] = {name: [] for name in calls}
    left = list(calls)
    for turn in range(_FIRST_TURNS + _MORE_TURNS):
        if turn >= _FIRST_TURNS:
            if seconds is not None and time.perf_counter() - begin > seconds:
                break
            medians = {name: float(np.median(turns[name])) for name in left}
            best = min(medians.values())
            left = [name for name in left if medians[name] <= _HOPELESS * best]
            if len(left) == 1:
                break
        first = turn % len(left)
        for name in left[first:] + left[:first]:
            turns[name].append(_timed(calls[name], repeats[name]))
    return {name: float(np.median(of_name)) for name, of_name in turns.items()}


def _timed(call: Callable[[], Any], repeats: int) -> float:
    begin = time.perf_counter()
    for _ in range(repeats):
        jax.block_until_ready(call())
    return (time.perf_counter() - begin) / repeats
