"""Whether code is native, and whether what it gives is JAX's."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp

import jax_cce
from cases.agreement import assert_agree
from jax_cce.native.edges import IN_VECTORS, ORDERS, Edges

__all__ = ["IN_VECTORS", "assert_agrees_natively", "is_native", "only"]


def is_native(fun: Callable[..., Any], *args: Any) -> bool:
    """Whether a function, compiled for the arguments, calls native code."""
    return "jax_cce_" in jax.jit(fun).lower(*args).as_text()


@contextlib.contextmanager
def only(order: str) -> Iterator[None]:
    """Has the Jacobians of single points made by one order, outside loops, whatever it costs."""
    found = []

    def cheapest(edges: Edges, orders: Any = ORDERS) -> Any:
        is_outside = edges.graph.together > 1
        rows, name = edges._cheapest_of((order,) if is_outside else tuple(orders))
        found.append(is_outside)
        return rows, name

    with mock.patch.object(Edges, "cheapest", cheapest):
        yield
    assert any(found)


def assert_agrees_natively(
    fun: Callable[[jax.Array], Any], x: jax.Array, batch: int | None, spread: float
) -> None:
    """Asserts that value and Jacobian are native and those of `jax.jacfwd`.

    Args:
      fun: A function of a vector.
      x: The vector, of the first of many points.
      batch: How many points; None for a single one.
      spread: How far each entry of the last point is from the first's.
    """
    ours, theirs = jax_cce.value_and_jacobian(fun), lambda x: (fun(x), jax.jacfwd(fun)(x))
    if batch is not None:
        x = x + jnp.linspace(0.0, spread, batch)[:, None]
        ours, theirs = jax.vmap(ours), jax.vmap(theirs)
    assert is_native(ours, x)
    assert_agree(jax.jit(ours)(x), jax.jit(theirs)(x))
