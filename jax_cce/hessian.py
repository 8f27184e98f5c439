"""`hessian`: the Jacobian of a Jacobian; takes the place of `jax.hessian`."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from jax_cce.api import jacobian
from jax_cce.execution.calling import transformed
from jax_cce.planning.choosing import Order, order_request
from jax_cce.program import calls
from jax_cce.program.calls import Format
from jax_cce.sparse.structured import StructuredJacobian

__all__ = [
    "hessian",
]


def hessian(
    fun: Callable[..., Any],
    argnums: int | Sequence[int] = 0,
    has_aux: bool = False,
    holomorphic: bool = False,
    *,
    order: Order = "auto",
    format: Format = "dense",
    search: str | None = None,
    search_budget: float | None = None,
) -> Callable[..., Any]:
    """Hessian of `fun`: the Jacobian of its Jacobian; takes the place of `jax.hessian`.

    Args:
        fun: as for `jacobian`.
        argnums: as for `jacobian`.
        has_aux: as for `jacobian`.
        holomorphic: as for `jacobian`.
        order: the elimination order of the outer Jacobian, on the graph of the inner one.
        format: as for `jacobian`.
        search: as for `jacobian`, for the outer one.
        search_budget: as for `jacobian`, for the outer one.

    Examples:
        >>> import jax, jax.numpy as jnp, jax_cce
        >>> jax_cce.hessian(lambda x: x[0] ** 3 * x[1])(jnp.array([1.0, 2.0]))
        Array([[12.,  3.],
               [ 3.,  0.]], dtype=float32)
    """
    inner = jacobian(fun, argnums, has_aux, holomorphic)
    wish = order_request(order, search, search_budget)
    dense = jacobian(
        inner,
        argnums,
        has_aux,
        holomorphic,
        order=order,
        search=search,
        search_budget=search_budget,
    )
    if calls.check_format(format) == "dense":
        return dense
    gradient = transformed(
        inner, argnums, has_aux, holomorphic, False, wish, format, value=False, symmetric=True
    )

    @functools.wraps(fun)
    def hessian_fun(*args: Any, **kwargs: Any) -> Any:
        def value(*args: Any, **kwargs: Any) -> Any:
            result = fun(*args, **kwargs)
            return result[0] if has_aux else result

        try:
            outputs = jax.eval_shape(value, *args, **kwargs)
        except (jax.errors.ConcretizationTypeError, jax.errors.NonConcreteBooleanIndexError):
            outputs = value(*args, **kwargs)
        if all(np.shape(leaf) == () for leaf in jax.tree.leaves(outputs)):
            _, result, aux = gradient(args, kwargs)
            return (result, aux) if has_aux else result
        return _hessian_by_terms(fun, argnums, has_aux, holomorphic, order, format)(*args, **kwargs)

    return hessian_fun


def _hessian_by_terms(
    fun: Callable[..., Any],
    argnums: int | Sequence[int],
    has_aux: bool,
    holomorphic: bool,
    order: Order,
    format: Format,
) -> Callable[..., Any]:
    """The Hessian of an array-valued function: every coefficient of its Jacobian differentiated.

    The dense Jacobian is never formed; the coefficients' Jacobians are placed by the terms that
    the coefficients belong to.
    """
    inner = jacobian(fun, argnums, has_aux, holomorphic, format="structured")

    def is_block(node: Any) -> bool:
        return isinstance(node, StructuredJacobian)

    def coefficients(*args: Any, **kwargs: Any) -> tuple[Any, Any]:
        jac, aux = inner(*args, **kwargs) if has_aux else (inner(*args, **kwargs), None)
        blocks, tree = jax.tree.flatten(jac, is_leaf=is_block)
        made[:] = [tree, blocks]
        varied = [block.coefficients(differentiable=True) for block in blocks]
        return varied, ([block.coefficients(differentiable=False) for block in blocks], aux)

    made: list[Any] = []
    outer = jacobian(coefficients, argnums, True, holomorphic, order=order, format="structured")

    @functools.wraps(fun)
    def hessian_fun(*args: Any, **kwargs: Any) -> Any:
        found, (fixed, aux) = outer(*args, **kwargs)
        tree, blocks = made
        rows = []
        for block, second, rest in zip(blocks, found, fixed, strict=True):
            if second:
                columns = [jax.tree.flatten(part, is_leaf=is_block) for part in second]
                trees = columns[0][1]
                leaves = [
                    block.placed_over(parts, rest)
                    for parts in zip(*(column[0] for column in columns), strict=True)
                ]
            else:
                # A constant Jacobian.
                varied = [args[k] for k in calls.positions(argnums, len(args))]
                leaves, trees = jax.tree.flatten(varied[0] if calls.is_index(argnums) else varied)
                leaves = [
                    StructuredJacobian(block.shape, np.shape(leaf), block.dtype, (), ())
                    for leaf in leaves
                ]
            if format == "bcoo":
                leaves = [leaf.to_bcoo() for leaf in leaves]
            rows.append(jax.tree.unflatten(trees, leaves))
        result = jax.tree.unflatten(tree, rows)
        return (result, aux) if has_aux else result

    return hessian_fun
