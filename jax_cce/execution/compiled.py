"""Compiled Jacobian programs, kept in memory by canonical jaxpr.

A call outside `jax.jit` traces the function, so that a changed closure is seen, and then finds the
compiled program of any earlier call with the same jaxpr. Constants are not part of the key: they
are arguments of the program.
"""

from collections.abc import Callable, Hashable
from typing import Any

from jax_cce import caches, jax_internals
from jax_cce.caches import Cache, CacheInfo
from jax_cce.native.compiling import machine
from jax_cce.planning.task import Task
from jax_cce.program import known_values
from jax_cce.rules import derivatives

__all__ = ["PROGRAMS", "CacheInfo", "cache_clear", "cache_info", "key_of"]

PROGRAMS: Cache[Callable[..., Any]] = Cache(512)


def key_of(task: Task) -> Hashable:
    """Identifies a task up to the values of its constants."""
    traced = task.traced
    program = derivatives.key(traced.program)
    known = known_values.key(task.known)
    natively = not machine().obstacle
    facts = task.holomorphic, task.sparse, task.apart, jax_internals.has_mesh(), natively
    return program, known, traced.num_values, facts


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
    return PROGRAMS.info()


def cache_clear() -> None:
    """Forgets all compiled programs, plans and memoised structures, and resets the counts."""
    caches.clear_all()
