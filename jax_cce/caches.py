"""Caches: bounded, safe among threads, and forgotten together.

What is remembered by a key is remembered together with the *generation* of the rule book, which
rises with every rule that is registered, so that a new rule takes effect at once.
"""

import collections
import functools
import hashlib
import threading
import weakref
from collections.abc import Callable, Hashable
from typing import Any, Generic, NamedTuple, ParamSpec, TypeVar

import numpy as np

__all__ = ["Cache", "CacheInfo", "Companions", "clear_all", "digest", "memoised", "next_generation"]

P = ParamSpec("P")
R = TypeVar("R")
Value = TypeVar("Value")

_generation = 0
_caches: "weakref.WeakSet[Cache]" = weakref.WeakSet()
_memoised: list[Callable[[], None]] = []


class CacheInfo(NamedTuple):
    """Use of the in-memory cache of compiled Jacobian programs."""

    hits: int
    misses: int
    size: int


class Cache(Generic[Value]):
    """Values by key; the least recently used one goes first."""

    def __init__(self, most: int) -> None:
        """An empty cache.

        Args:
            most: how many values it holds.
        """
        self._most = most
        self._lock = threading.Lock()
        self._values: collections.OrderedDict[Hashable, Value] = collections.OrderedDict()
        self._hits = self._misses = 0
        _caches.add(self)

    def get(
        self,
        key: Hashable,
        make: Callable[[], Value],
        keep: Callable[[Value], bool] = lambda _: True,
    ) -> Value:
        """The value of a key, made at its first use.

        Two threads that ask at once may both make it; the later one is kept.

        Args:
            key: the key.
            make: makes the value.
            keep: whether a value may be kept.
        """
        key = _generation, key
        with self._lock:
            if key in self._values:
                self._hits += 1
                self._values.move_to_end(key)
                return self._values[key]
        value = make()
        if not keep(value):
            return value
        with self._lock:
            self._misses += 1
            self._values[key] = value
            while len(self._values) > self._most:
                self._values.popitem(last=False)
        return value

    def info(self) -> CacheInfo:
        """Use since the last clear."""
        with self._lock:
            return CacheInfo(self._hits, self._misses, len(self._values))

    def clear(self) -> None:
        """Forgets all values and resets the counts."""
        with self._lock:
            self._values.clear()
            self._hits = self._misses = 0


def memoised(most: int) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Remembers the results of a function of static facts, which no rule changes.

    Args:
        most: how many results are remembered.
    """

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        cached = functools.lru_cache(maxsize=most)(function)
        _memoised.append(cached.cache_clear)
        return cached  # type: ignore[return-value]

    return decorate


class Companions(Generic[Value]):
    """What was computed of objects that never change, as long as these live."""

    def __init__(self) -> None:
        self._values: dict[int, tuple[weakref.ref[Any], Value]] = {}

    def get(self, of: Any, make: Callable[[], Value]) -> Value:
        """The companion of an object, which need not be hashable; made at its first use."""
        found = self._values.get(id(of))
        if found is None or found[0]() is not of:
            name = id(of)
            gone = weakref.ref(of, lambda _: self._values.pop(name, None))
            found = self._values[name] = gone, make()
        return found[1]


def digest(values: np.ndarray) -> bytes:
    """Identifies the content of an array, apart from its shape and dtype."""
    content = np.ascontiguousarray(values)
    return hashlib.blake2b(content.view(np.uint8).data, digest_size=16).digest()


def next_generation() -> None:
    """Declares what was remembered under the rules so far to be out of date."""
    global _generation
    _generation += 1


def clear_all() -> None:
    """Empties every cache."""
    for cache in list(_caches):
        cache.clear()
    for clear in _memoised:
        clear()
