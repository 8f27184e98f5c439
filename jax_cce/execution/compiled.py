"""Compiled Jacobian programs, kept in memory by canonical jaxpr.

A call outside `jax.jit` traces the function, so that a changed closure is seen, and then finds the
compiled program of any earlier call with the same jaxpr. Constants are not part of the key: they
are arguments of the program.
"""

import collections
import threading
from collections.abc import Callable, Hashable
from typing import Any, NamedTuple

from jax_cce.program import flat, identity
from jax_cce.rules import derivatives

__all__ = [
    "CacheInfo",
    "cache_clear",
    "cache_info",
    "compiled",
    "key",
]

_MOST_PROGRAMS = 512


class CacheInfo(NamedTuple):
    """Use of the in-memory cache of compiled Jacobian programs."""

    hits: int
    misses: int
    size: int


_lock = threading.Lock()
_programs: collections.OrderedDict[Hashable, Callable[..., Any]] = collections.OrderedDict()
_counts = {"hits": 0, "misses": 0}


def key(program: flat.Program) -> Hashable:
    """Identifies a program up to the values of its constants."""
    return identity.program_key(program, derivatives.custom_derivative_key)


def compiled(name: Hashable, build: Callable[[], Callable[..., Any]]) -> Callable[..., Any]:
    """The program of this key, built on first use; the least recently used one goes first."""
    with _lock:
        if name in _programs:
            _counts["hits"] += 1
            _programs.move_to_end(name)
            return _programs[name]
    program = build()
    with _lock:
        _counts["misses"] += 1
        _programs[name] = program
        while len(_programs) > _MOST_PROGRAMS:
            _programs.popitem(last=False)
    return program


def cache_info() -> CacheInfo:
    """How often a call outside `jax.jit` found its compiled program, since the last clear.

    Examples:
        >>> import jax_cce
        >>> jax_cce.cache_clear()
        >>> f = jax_cce.jacobian(lambda x: x * x)
        >>> _ = f(1.0), f(2.0)
        >>> jax_cce.cache_info()
        CacheInfo(hits=1, misses=1, size=1)
    """
    with _lock:
        return CacheInfo(_counts["hits"], _counts["misses"], len(_programs))


def cache_clear() -> None:
    """Forgets all compiled programs and resets the counts."""
    with _lock:
        _programs.clear()
        _counts.update(hits=0, misses=0)
