"""Gradient surgery: values that stay what they are, with derivatives that are edited on the way.

Each function returns its argument unchanged and edits what is propagated through that place. So an
edit works under any derivative of JAX, and in `jax_cce.jacobian`:

- `scale` is linear in the derivative: an edge of the graph with a factor of its own. It has both
  modes, and leaves the order of elimination free.
- `clip` and `watch` are about cotangents, which only reverse mode has. `jax.jvp` and `jax.jacfwd`
  refuse them, and `jax_cce.jacobian` goes in reverse order, each row on its own, as with any
  `jax.custom_vjp` that is not linear.

A second derivative is that of the edited first one: it passes through the same place unedited.

Source: the idea of editing derivatives where a value passes is that of van Merriënboer, Moldovan &
Wiltschko, "Tangent: Automatic differentiation using source-code transformation for dynamically
typed array programming", NeurIPS 2018.
"""

import functools
from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from jax_cce import jax_internals

__all__ = ["clip", "scale", "watch"]

Tree = TypeVar("Tree")

# What a plan calls the line of an edit is where the user asks for it.
jax_internals.exclude_from_user_frames(__file__)


def scale(x: Tree, factor: Any) -> Tree:
    """`x`, whose derivative is multiplied by a factor: -1 turns a gradient round, 0 stops it.

    Args:
        x: an array or a pytree of arrays. Integers in it stay what they are.
        factor: a real number, or an array that broadcasts to the shape of each array. What it
            depends on gets no derivative by it.

    Returns:
        `x`.

    Raises:
        ValueError: where the factor does not broadcast to the shape of an array.

    Examples:
        >>> import jax, jax_cce
        >>> f = lambda x: jax_cce.surgery.scale(x, 0.1) * x
        >>> print(jax.grad(f)(2.0), jax_cce.jacobian(f)(2.0))  # x + 0.1 x
        2.2 2.2
    """
    return _edited(functools.partial(_scaled_leaf, factor=factor), x)


def _scaled_leaf(x: Any, factor: Any) -> Any:
    shape = jnp.broadcast_shapes(np.shape(factor), x.shape)
    if shape != x.shape:
        raise ValueError(
            f"factor must broadcast to the shape {x.shape} of what it scales, but has shape "
            f"{np.shape(factor)}."
        )
    return _scaled(x, jnp.asarray(factor, x.dtype))


@jax.custom_jvp
def _scaled(x: Any, factor: Any) -> Any:
    return x


@functools.partial(_scaled.defjvp, symbolic_zeros=True)
def _scaled_jvp(primals: Any, tangents: Any) -> Any:
    x, factor = primals
    tangent, _ = tangents
    if isinstance(tangent, jax.custom_derivatives.SymbolicZero):
        return x, tangent
    return x, tangent * factor


def clip(x: Tree, low: Any = None, high: Any = None, *, norm: Any = None) -> Tree:
    """`x`, whose cotangent is clipped where it passes.

    Args:
        x: an array or a pytree of arrays. Integers in it stay what they are.
        low: no entry of the cotangent is less; None for no bound.
        high: no entry of the cotangent is greater; None for no bound.
        norm: the Euclidean norm that the cotangent of all of `x` together has at most: a longer one
            is scaled down to it. None for no bound.

    Returns:
        `x`.

    Raises:
        TypeError: where neither bounds nor a norm are given, or both; and for complex arrays with
            bounds, which have no order.

    Examples:
        >>> import jax, jax.numpy as jnp, jax_cce
        >>> f = lambda x: jnp.sum(jax_cce.surgery.clip(x, -1.0, 1.0) ** 2)
        >>> print(jax.grad(f)(jnp.array([0.25, 3.0, -3.0])))
        [ 0.5  1.  -1. ]
        >>> f = lambda x: jnp.sum(jax_cce.surgery.clip(x, norm=1.0) ** 2)
        >>> print(jax.grad(f)(jnp.array([3.0, 4.0])))
        [0.6 0.8]
    """
    by_entries = low is not None or high is not None
    if by_entries == (norm is not None):
        raise TypeError("clip takes bounds, low or high or both, or a norm, and not both of these.")
    if by_entries:
        for leaf in map(jnp.asarray, jax.tree.leaves(x)):
            if jnp.issubdtype(leaf.dtype, np.complexfloating):
                raise TypeError(f"Bounds need real arrays, but got {leaf.dtype}. Clip by norm.")

        def clipped(bounds: Any, cotangent: Any) -> Any:
            return jax.tree.map(lambda each: jnp.clip(each, *bounds), cotangent)

        return _pulled_back(clipped, x, (low, high))

    def shortened(bound: Any, cotangent: Any) -> Any:
        squares = [jnp.sum(jnp.abs(each) ** 2) for each in jax.tree.leaves(cotangent)]
        length = jnp.sqrt(sum(squares))
        factor = jnp.where(length > bound, bound / jnp.where(length > 0, length, 1), 1)
        return jax.tree.map(lambda each: each * factor.astype(each.dtype), cotangent)

    return _pulled_back(shortened, x, norm)


def watch(x: Tree, callback: Callable[[Tree], None]) -> Tree:
    """`x`, of whose cotangent a function is told whenever one passes.

    Args:
        x: an array or a pytree of arrays.
        callback: called with the cotangent of `x` as NumPy arrays, with None for integers: once
            for each row of a Jacobian, in no promised order. `jax.effects_barrier` waits for it.

    Returns:
        `x`.

    Examples:
        >>> import jax, jax.numpy as jnp, jax_cce
        >>> f = lambda x: jnp.sin(jax_cce.surgery.watch(x**2, print))
        >>> _ = jax.grad(f)(0.0); jax.effects_barrier()
        1.0
    """

    def told(_: Any, cotangent: Any) -> Any:
        jax.debug.callback(lambda each: callback(each), cotangent)
        return cotangent

    return _pulled_back(told, x, None)


def _edited(edit: Callable[[Any], Any], x: Any) -> Any:
    """A tree whose differentiable leaves are edited."""

    def leaf(each: Any) -> Any:
        array = jnp.asarray(each)
        return edit(array) if jax_internals.is_differentiable(jax.typeof(array)) else each

    return jax.tree.map(leaf, x)


def _pulled_back(edit: Callable[[Any, Any], Any], x: Any, facts: Any) -> Any:
    """A tree whose cotangent is edited as a whole.

    Args:
        edit: from the facts and the cotangents of the differentiable leaves to such.
        x: the tree.
        facts: arrays, or None.
    """
    leaves, tree = jax.tree.flatten(x)
    arrays = list(map(jnp.asarray, leaves))
    chosen = [k for k, each in enumerate(arrays) if _moves(each)]

    def in_tree(cotangents: Any) -> Any:
        every: list[Any] = [None] * len(leaves)
        for k, each in zip(chosen, cotangents, strict=True):
            every[k] = each
        return jax.tree.unflatten(tree, every)

    @jax.custom_vjp
    def passed(values: Any, facts: Any) -> Any:
        return values

    def forward(values: Any, facts: Any) -> Any:
        return values, facts

    def backward(facts: Any, cotangents: Any) -> Any:
        found = edit(facts, in_tree(cotangents))
        kept = [each for each in jax.tree.leaves(found) if each is not None]
        return kept, None

    passed.defvjp(forward, backward)
    for k, each in zip(chosen, passed([arrays[k] for k in chosen], facts), strict=True):
        leaves[k] = each
    return jax.tree.unflatten(tree, leaves)


def _moves(array: Any) -> bool:
    return jax_internals.is_differentiable(jax.typeof(array))
