"""Scans in the sparse formats: exact patterns at every length, whatever the state remembers."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import jax_cce
from cases.sparsity import assert_bcoo, assert_structured

pytestmark = pytest.mark.one_version

Fun = Callable[[jax.Array], Any]


def _last(x: jax.Array) -> jax.Array:
    return lax.scan(lambda c, a: (a, jnp.tanh(0.5 * a + 0.3 * c * a)), 0.0, x)[1]


def _last_backwards(x: jax.Array) -> Any:
    return lax.scan(lambda c, a: (a, jnp.tanh(0.5 * a + 0.3 * c * a)), 0.0, x, reverse=True)


def _window(x: jax.Array) -> jax.Array:
    def step(c: jax.Array, a: jax.Array) -> tuple[jax.Array, jax.Array]:
        c = jnp.concatenate([c[1:], a[None]])
        return c, jnp.sum(jnp.sin(c) * jnp.arange(1.0, 4.0))

    return lax.scan(step, jnp.zeros(3), x)[1]


def _differences(x: jax.Array) -> Any:
    """Second differences, by two states."""

    def step(c: Any, a: jax.Array) -> tuple[Any, jax.Array]:
        before, slope = c
        return (a, a - before), a - before - slope

    return lax.scan(step, (1.0, 0.5), x)


def _weighted(x: jax.Array) -> Any:
    """What is read at every step beside what passes."""
    w = x[:2]
    return lax.scan(lambda c, a: (w * a, c * w + a), jnp.ones(2), x)


def _numbered(x: jax.Array) -> jax.Array:
    """A state that counts, and is not differentiated."""

    def step(c: Any, a: jax.Array) -> tuple[Any, jax.Array]:
        k, s = c
        return (k + 1, a * k), jnp.sin(a) * s

    return lax.scan(step, (1, 1.0), x)[1]


def _rows(x: jax.Array) -> jax.Array:
    """A stencil along both time and space."""

    def step(c: jax.Array, a: jax.Array) -> tuple[jax.Array, jax.Array]:
        return jnp.sin(a), a[1:-1] * c[:-2] + c[2:]

    return lax.scan(step, jnp.ones(5), x[:, None] * jnp.arange(1.0, 6.0))[1]


def _nested(x: jax.Array) -> Any:
    def step(c: jax.Array, a: jax.Array) -> tuple[jax.Array, jax.Array]:
        inner = lax.scan(lambda d, b: (b, d * b * a), c, jnp.stack([a, a * 2, c]))[1]
        return a, inner

    return lax.scan(step, 1.0, x)


FORGET: dict[str, Fun] = {
    "last": _last,
    "last, backwards": _last_backwards,
    "window": _window,
    "differences": _differences,
    "weighted": _weighted,
    "numbered": _numbered,
    "rows": _rows,
    "nested": _nested,
}


def _recurrence(x: jax.Array) -> Any:
    return lax.scan(lambda c, a: (jnp.sin(c) * a,) * 2, 1.0, x)


def _recurrence_backwards(x: jax.Array) -> Any:
    return lax.scan(lambda c, a: (jnp.sin(c) * a,) * 2, 1.0, x, reverse=True)


def _two_states(x: jax.Array) -> Any:
    def step(c: Any, a: jax.Array) -> tuple[Any, jax.Array]:
        p, q = c
        return (p * a, p + q * 0.5), q * jnp.stack([a, p])

    return lax.scan(step, (x[0], x[1] * x[2]), x)


def _apart(x: jax.Array) -> Any:
    """States that never mix."""
    step = lambda c, a: (jnp.cos(c) * a, c * a)  # noqa: E731
    return lax.scan(step, x[:3], x[:, None] * jnp.ones(3))


def _shared(x: jax.Array) -> Any:
    w = x[:2]
    return lax.scan(lambda c, a: (w * c[::-1] * a, c * w), jnp.ones(2), x)


def _stencil(x: jax.Array) -> jax.Array:
    return lax.fori_loop(0, 7, lambda _, x: x + 0.01 * jnp.sin(jnp.roll(x, 1)) * x, x)


REMEMBER: dict[str, Fun] = {
    "recurrence": _recurrence,
    "recurrence, backwards": _recurrence_backwards,
    "two states": _two_states,
    "apart": _apart,
    "shared": _shared,
    "stencil": _stencil,
}


def _reset_by_counter(x: jax.Array) -> Any:
    """A state that starts anew at every fifth step, by a counter that is carried."""

    def step(state: Any, a: jax.Array) -> tuple[Any, jax.Array]:
        k, c = state
        c = jnp.where(k % 5 == 0, 0.5, c)
        return (k + 1, jnp.sin(c) * a + a), jnp.cos(c + a)

    (_, last), found = lax.scan(step, (0, x[0]), x)
    return last, found


def _reset_by_number(x: jax.Array) -> jax.Array:
    """The same by a cond on the number of the step, and backwards."""

    def step(c: jax.Array, slices: Any) -> tuple[jax.Array, jax.Array]:
        a, k = slices
        c = lax.cond(k % 5 == 2, lambda c: a * 2.0, lambda c: jnp.sin(c) * a, c)
        return c, c * a

    return lax.scan(step, 0.3, (x, jnp.arange(len(x))), reverse=True)[1]


def _reset_by_mask(x: jax.Array) -> Any:
    """Two states, of which one is reset to a parameter at steps without a period."""
    starts = np.isin(np.arange(len(x)), (0, 1, 4, 11, 12, 30))

    def step(state: Any, slices: Any) -> tuple[Any, Any]:
        p, q = state
        a, start = slices
        p = jnp.where(start, x[0] * 0.5, p)
        p, q = jnp.sin(p) * a, jnp.where(start, q, p * a)
        return (p, q), jnp.stack([p, q + a])

    return lax.scan(step, (x[1], 0.7), (x, starts))


def _reset_in_parts(x: jax.Array) -> jax.Array:
    """A vector of which another entry starts anew at each step; all are summed."""
    which = jnp.arange(len(x)) % 3

    def step(c: jax.Array, slices: Any) -> tuple[jax.Array, jax.Array]:
        a, k = slices
        c = jnp.where(jnp.arange(3) == k, a, jnp.sin(c))
        return c, jnp.sum(c * jnp.arange(1.0, 4.0))

    return lax.scan(step, jnp.ones(3), (x, which))[1]


RESET: dict[str, Fun] = {
    "by a counter": _reset_by_counter,
    "by number, backwards": _reset_by_number,
    "by a mask": _reset_by_mask,
    "in parts": _reset_in_parts,
}


def _check(fun: Fun, length: int) -> None:
    x = jnp.asarray(np.random.default_rng(length).uniform(0.5, 1.5, length))
    expected = jax.tree.leaves(jax.jit(jax.jacrev(fun))(x))
    checks = {"bcoo": assert_bcoo} | ({"structured": assert_structured} if length < 10 else {})
    for form, check in checks.items():
        found = jax.jit(jax_cce.jacobian(fun, format=form))(x)
        is_leaf = lambda leaf: hasattr(leaf, "todense")  # noqa: E731
        for one, other in zip(jax.tree.leaves(found, is_leaf=is_leaf), expected, strict=True):
            check(one, other)
            # Some are tiny, none cancels.
            assert (one.nse if form == "bcoo" else one.nnz) == np.count_nonzero(other)


@pytest.mark.parametrize("length", [3, 40])
@pytest.mark.parametrize("name", FORGET | REMEMBER | RESET)
def test_values_and_patterns(name: str, length: int):
    _check((FORGET | REMEMBER | RESET)[name], length)


@pytest.mark.parametrize("name", ["by a counter", "by number, backwards"])
def test_resets_at_known_steps_keep_the_entries_few(name: str):
    found = jax.eval_shape(jax_cce.jacobian(RESET[name], format="bcoo"), jnp.ones(100_000))
    is_leaf = lambda leaf: hasattr(leaf, "nse")  # noqa: E731
    for leaf in jax.tree.leaves(found, is_leaf=is_leaf):
        assert leaf.nse <= 5 * 100_000


@pytest.mark.parametrize("name", FORGET)
def test_plans_do_not_depend_on_the_length(name: str):
    fun = FORGET[name]
    plans = [jax_cce.plan(fun, format="bcoo")(jnp.ones(n)) for n in (100, 10**6)]
    short, long = (
        (len(plan.steps), {key: len(block) for key, block in plan.results.items()})
        for plan in plans
    )
    assert short == long
    assert not plans[1].operators


def test_a_long_delay_has_two_entries_a_row():
    found = jax_cce.jacobian(_last, format="structured")(jnp.ones(1000))
    assert found.nnz == 1999


def test_no_step():
    fun = lambda x: lax.scan(lambda c, a: (c * a, c), x, jnp.zeros((0,)))  # noqa: E731
    found = jax_cce.jacobian(fun, format="bcoo")(jnp.arange(3.0))
    assert found[0].todense().tolist() == np.eye(3).tolist()
    assert found[1].shape == (0, 3, 3)
