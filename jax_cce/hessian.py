"""`hessian`: the Jacobian of a Jacobian; takes the place of `jax.hessian`."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Concatenate, Literal, ParamSpec, Unpack, overload

import jax
import numpy as np

from jax_cce.api import How, OfArrays, jacobian, jacobian_by
from jax_cce.execution.calling import transformed
from jax_cce.planning.options import Backend, Options, Order, options_of
from jax_cce.program import calls
from jax_cce.rules.derivatives import has_custom
from jax_cce.sparse.formats import DENSE, STRUCTURED, FormatName
from jax_cce.sparse.structured import StructuredJacobian

if TYPE_CHECKING:
    from jax.experimental.sparse import BCOO

__all__ = ["hessian"]

P = ParamSpec("P")


@overload
def hessian(
    fun: OfArrays[P],
    argnums: Literal[0] = ...,
    has_aux: Literal[False] = ...,
    holomorphic: bool = ...,
    *,
    format: Literal["dense"] = ...,
    **how: Unpack[How],
) -> Callable[Concatenate[jax.Array, P], jax.Array]: ...
@overload
def hessian(
    fun: OfArrays[P],
    argnums: Literal[0] = ...,
    has_aux: Literal[False] = ...,
    holomorphic: bool = ...,
    *,
    format: Literal["bcoo"],
    **how: Unpack[How],
) -> Callable[Concatenate[jax.Array, P], "BCOO"]: ...
@overload
def hessian(
    fun: OfArrays[P],
    argnums: Literal[0] = ...,
    has_aux: Literal[False] = ...,
    holomorphic: bool = ...,
    *,
    format: Literal["structured"],
    **how: Unpack[How],
) -> Callable[Concatenate[jax.Array, P], StructuredJacobian]: ...
@overload
def hessian(
    fun: Callable[P, Any],
    argnums: int | Sequence[int] = ...,
    has_aux: bool = ...,
    holomorphic: bool = ...,
    *,
    format: FormatName = ...,
    **how: Unpack[How],
) -> Callable[P, Any]: ...
def hessian(
    fun: Callable[..., Any],
    argnums: int | Sequence[int] = 0,
    has_aux: bool = False,
    holomorphic: bool = False,
    *,
    order: Order = "auto",
    format: FormatName = "dense",
    search: str | None = None,
    search_budget: float | None = None,
    backend: Backend = "auto",
    max_bytes: int | None = None,
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
        backend: as for `jacobian`.
        max_bytes: as for `jacobian`, for the program of the whole Hessian.

    Examples:
        >>> import jax, jax.numpy as jnp, jax_cce
        >>> jax_cce.hessian(lambda x: x[0] ** 3 * x[1])(jnp.array([1.0, 2.0]))
        Array([[12.,  3.],
               [ 3.,  0.]], dtype=float32)
    """
    options = options_of(
        argnums,
        has_aux,
        holomorphic,
        order=order,
        format=format,
        search=search,
        search_budget=search_budget,
        backend=backend,
        max_bytes=max_bytes,
    )
    asked = options_of(argnums, has_aux, holomorphic, backend=backend)
    again = dataclasses.replace(asked.request, again=True)
    inner = jacobian_by(fun, dataclasses.replace(asked, request=again))
    # `jax.hessian` is jacfwd of jacrev: a block has the dtype of its row.
    forward = dataclasses.replace(options.contract, forward=True)
    options = dataclasses.replace(options, contract=forward)
    seconds = {known: transformed(inner, options, symmetric=known) for known in (True, False)}
    by_terms = _hessian_by_terms(fun, options)

    @functools.wraps(fun)
    def hessian_fun(*args: Any, **kwargs: Any) -> Any:
        def value(*args: Any, **kwargs: Any) -> Any:
            result = fun(*args, **kwargs)
            return result[0] if has_aux else result

        symmetric = False
        if options.format is not DENSE:
            is_scalar, symmetric = _looked_at(value, args, kwargs)
            if not is_scalar:
                return by_terms(*args, **kwargs)
        _, result, aux = seconds[symmetric](args, kwargs)
        return (result, aux) if has_aux else result

    return hessian_fun


def _looked_at(value: Callable[..., Any], args: Any, kwargs: Any) -> tuple[bool, bool]:
    """Whether a function returns scalars only, and whether their Hessians are known symmetric."""
    try:
        closed, outputs = jax.make_jaxpr(value, return_shape=True)(*args, **kwargs)
        # What a custom rule gives need not be the gradient of anything.
        symmetric = not has_custom(closed.eqns)
    except (jax.errors.ConcretizationTypeError, jax.errors.NonConcreteBooleanIndexError):
        outputs, symmetric = value(*args, **kwargs), False
    return all(np.shape(leaf) == () for leaf in jax.tree.leaves(outputs)), symmetric


def _hessian_by_terms(fun: Callable[..., Any], options: Options) -> Callable[..., Any]:
    """The Hessian of an array-valued function: every coefficient of its Jacobian differentiated.

    The dense Jacobian is never formed; the coefficients' Jacobians are placed by the terms that
    the coefficients belong to.
    """
    contract, form = options.contract, options.format
    argnums, has_aux, holomorphic = contract.argnums, contract.has_aux, contract.holomorphic
    inner = jacobian(fun, argnums, has_aux, holomorphic, format="structured")

    def is_block(node: Any) -> bool:
        return isinstance(node, StructuredJacobian)

    def coefficients(*args: Any, **kwargs: Any) -> tuple[Any, Any]:
        jac, aux = inner(*args, **kwargs) if has_aux else (inner(*args, **kwargs), None)
        blocks, tree = jax.tree.flatten(jac, is_leaf=is_block)
        structure[:] = [tree, blocks]
        varied = [block.coefficients(differentiable=True) for block in blocks]
        return varied, ([block.coefficients(differentiable=False) for block in blocks], aux)

    structure: list[Any] = []
    asked = dataclasses.replace(contract, has_aux=True)
    outer = transformed(coefficients, Options(asked, options.request, STRUCTURED))

    @functools.wraps(fun)
    def hessian_fun(*args: Any, **kwargs: Any) -> Any:
        _, seconds, (fixed, aux) = outer(args, kwargs)
        tree, blocks = structure
        rows = []
        for block, second, rest in zip(blocks, seconds, fixed, strict=True):
            if second:
                columns = [jax.tree.flatten(part, is_leaf=is_block) for part in second]
                trees = columns[0][1]
                leaves = [
                    block.placed_over(parts, rest)
                    for parts in zip(*(column[0] for column in columns), strict=True)
                ]
            else:
                # A constant Jacobian.
                varied = tuple(args[k] for k in calls.positions(argnums, len(args)))
                leaves, trees = jax.tree.flatten(varied[0] if calls.is_index(argnums) else varied)
                leaves = [
                    StructuredJacobian(block.shape, np.shape(leaf), block.dtype, (), ())
                    for leaf in leaves
                ]
            typed = (leaf.astype(block.dtype, block.weak_type) for leaf in leaves)
            leaves = [form.outside(form.inside(leaf)) for leaf in typed]
            rows.append(jax.tree.unflatten(trees, leaves))
        result = jax.tree.unflatten(tree, rows)
        return (result, aux) if has_aux else result

    return hessian_fun
