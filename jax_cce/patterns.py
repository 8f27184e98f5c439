"""Where Jacobians and Hessians may have nonzeros, known before any of them is computed."""

import functools
from collections.abc import Callable, Sequence
from typing import Any, Literal

import jax

from jax_cce.api import jacobian
from jax_cce.hessian import hessian
from jax_cce.planning.options import Order
from jax_cce.sparse.structured import StructuredJacobian

__all__ = ["pattern"]


def pattern(
    fun: Callable[..., Any],
    argnums: int | Sequence[int] = 0,
    *,
    has_aux: bool = False,
    holomorphic: bool = False,
    allow_int: bool = False,
    order: Order = "auto",
    of: Literal["jacobian", "hessian"] = "jacobian",
) -> Callable[..., Any]:
    """Where the Jacobian or Hessian of `fun` may have nonzeros, from shapes alone.

    The pattern says which number of format="values" lies where, for solvers that take structure
    once and values at every step.

    Args:
        fun: as for `jacobian`.
        argnums: as for `jacobian`.
        has_aux: as for `jacobian`; auxiliary data are left out.
        holomorphic: as for `jacobian`.
        allow_int: as for `jacobian`.
        order: as for `jacobian`, and the same as there.
        of: "jacobian", or "hessian" for what `hessian` gives.

    Returns:
        A function with the arguments of `fun`, any array of which may be a
        `jax.ShapeDtypeStruct`, that returns the tree of the Jacobian with a `Pattern` for each
        block.

    Raises:
        ValueError: where positions depend on data, as those of a function that sorts do, and where
            `of` is neither.

    Examples:
        >>> import jax, jax.numpy as jnp, jax_cce
        >>> f = lambda x: x[1:] * x[:-1]
        >>> pattern = jax_cce.pattern(f)(jax.ShapeDtypeStruct((4,), jnp.float32))
        >>> pattern
        Pattern([3] x [4]: 2 diagonals (0, 1), 6 of 12 entries)
        >>> values = jax_cce.jacobian(f, format="values")(jnp.arange(4.0))
        >>> pattern.to_bcoo(values).todense()
        Array([[1., 0., 0., 0.],
               [0., 2., 1., 0.],
               [0., 0., 3., 2.]], dtype=float32)
    """
    facts: dict[str, Any] = {"has_aux": has_aux, "holomorphic": holomorphic}
    if of == "jacobian":
        facts["allow_int"] = allow_int
    elif of != "hessian":
        raise ValueError(f"of must be 'jacobian' or 'hessian', but got {of!r}.")
    transform: Callable[..., Any] = jacobian if of == "jacobian" else hessian
    structured = transform(fun, argnums, order=order, format="structured", **facts)

    @functools.wraps(fun)
    def pattern_fun(*args: Any, **kwargs: Any) -> Any:
        def block_tree(*args: Any, **kwargs: Any) -> Any:
            found = structured(*args, **kwargs)
            return found[0] if has_aux else found

        return jax.tree.map(
            lambda block: block.matrix_pattern,
            jax.eval_shape(block_tree, *args, **kwargs),
            is_leaf=lambda node: isinstance(node, StructuredJacobian),
        )

    return pattern_fun
