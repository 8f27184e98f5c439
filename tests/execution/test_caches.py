"""Caches: bounded, safe among threads, forgotten together, and out of date with the rule book."""

import threading

import jax.numpy as jnp
import pytest

import jax_cce
from jax_cce import caches
from jax_cce.algebra import composition
from jax_cce.caches import Cache, CacheInfo

pytestmark = pytest.mark.one_version


def test_a_value_is_made_once():
    cache: Cache[int] = Cache(4)
    made = []
    assert [cache.get("a", lambda: made.append(0) or 7) for _ in range(3)] == [7, 7, 7]
    assert len(made) == 1
    assert cache.info() == CacheInfo(hits=2, misses=1, size=1)


def test_the_least_recently_used_value_goes_first():
    cache: Cache[str] = Cache(2)
    for key in ("a", "b", "a", "c"):
        cache.get(key, lambda key=key: key)
    assert cache.info().size == 2
    again = []
    for key in ("a", "c", "b"):
        cache.get(key, lambda key=key: again.append(key) or key)
    assert again == ["b"]


def test_a_value_that_may_not_be_kept_is_made_again():
    cache: Cache[int] = Cache(2)
    values = iter(range(5))
    assert [cache.get("a", lambda: next(values), keep=lambda x: x > 1) for _ in range(4)] == [
        0,
        1,
        2,
        2,
    ]


def test_an_error_is_not_remembered():
    cache: Cache[int] = Cache(2)

    def fail() -> int:
        raise KeyError("a")

    with pytest.raises(KeyError):
        cache.get("a", fail)
    assert cache.get("a", lambda: 1) == 1


def test_a_change_of_the_rule_book_makes_values_out_of_date():
    cache: Cache[int] = Cache(4)
    values = iter(range(5))
    assert cache.get("a", lambda: next(values)) == 0
    caches.next_generation()
    assert cache.get("a", lambda: next(values)) == 1


def test_all_caches_are_cleared_together():
    x = jnp.ones(3)
    jax_cce.jacobian(lambda x: jnp.sin(x) * x)(x)
    assert jax_cce.cache_info().size
    assert composition.compose.cache_info().currsize  # type: ignore[attr-defined]
    jax_cce.cache_clear()
    assert jax_cce.cache_info() == CacheInfo(hits=0, misses=0, size=0)
    assert not composition.compose.cache_info().currsize  # type: ignore[attr-defined]


def test_many_threads_may_ask_at_once():
    cache: Cache[int] = Cache(8)
    wrong = []

    def ask(seed: int) -> None:
        for k in range(300):
            key = (seed + k) % 16
            if cache.get(key, lambda key=key: 3 * key) != 3 * key:
                wrong.append(key)

    threads = [threading.Thread(target=ask, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    info = cache.info()
    assert not wrong
    assert info.size <= 8
    assert info.hits + info.misses == 8 * 300
