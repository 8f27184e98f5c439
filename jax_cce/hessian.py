"""`hessian`: the Jacobian of a Jacobian; takes the place of `jax.hessian`.

With the value, and with the gradient, it is one program: what the Hessian is made from is returned
as well.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Concatenate, Literal, ParamSpec, Unpack, overload

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jax_cce.api import How, OfArrays, jacobian
from jax_cce.execution.calling import transformed
from jax_cce.planning.options import Backend, Options, Order, OrderRequest, options_of
from jax_cce.program import calls
from jax_cce.rules.derivatives import has_custom
from jax_cce.sparse.formats import DENSE, STRUCTURED, FormatName
from jax_cce.sparse.structured import StructuredJacobian

if TYPE_CHECKING:
    from jax.experimental.sparse import BCOO

__all__ = ["Triangle", "hessian", "hessian_by", "value_and_hessian", "value_grad_and_hessian"]

P = ParamSpec("P")
Triangle = Literal["lower"]
# From the arguments to the Hessian, the gradient and the auxiliary data.
_Computed = Callable[[tuple[Any, ...], dict[str, Any]], tuple[Any, Any, Any]]


@overload
def hessian(
    fun: OfArrays[P],
    argnums: Literal[0] = ...,
    has_aux: Literal[False] = ...,
    holomorphic: bool = ...,
    *,
    format: Literal["dense"] = ...,
    triangle: Triangle | None = ...,
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
    triangle: Triangle | None = ...,
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
    triangle: Triangle | None = ...,
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
    triangle: Triangle | None = ...,
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
    triangle: Triangle | None = None,
    search: str | None = None,
    search_budget: float | None = None,
    backend: Backend = "auto",
    max_bytes: int | None = None,
    chunk_size: int | None = None,
) -> Callable[..., Any]:
    """Hessian of `fun`: the Jacobian of its Jacobian; takes the place of `jax.hessian`.

    Args:
        fun: as for `jacobian`.
        argnums: as for `jacobian`.
        has_aux: as for `jacobian`.
        holomorphic: as for `jacobian`.
        order: the elimination order of the outer Jacobian, on the graph of the inner one.
        format: as for `jacobian`.
        triangle: "lower" for the entries on and below the diagonal only, of functions that return
            scalars. The sparse formats store no others; a dense result is zero above. Of several
            inputs the rows and columns are those of their flattened leaves, one leaf after the
            other, so that the blocks above the diagonal ones are zero. None for all entries.
        search: as for `jacobian`, for the outer one.
        search_budget: as for `jacobian`, for the outer one.
        backend: as for `jacobian`.
        max_bytes: as for `jacobian`, for the program of the whole Hessian.
        chunk_size: as for `jacobian`: columns or rows of the Hessian.

    Raises:
        TypeError: as `jacobian`; and for a triangle of a function that does not return scalars.
        ValueError: as `jacobian`; for another triangle, and for the triangle of a sparse Hessian
            whose pattern depends on data.
        MemoryError: as `jacobian`.

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
        chunk_size=chunk_size,
    )
    compute = hessian_by(fun, options, triangle)

    @functools.wraps(fun)
    def hessian_fun(*args: Any, **kwargs: Any) -> Any:
        result, _, aux = compute(args, kwargs)
        return (result, aux) if has_aux else result

    return hessian_fun


def value_and_hessian(
    fun: Callable[..., Any],
    argnums: int | Sequence[int] = 0,
    has_aux: bool = False,
    holomorphic: bool = False,
    *,
    order: Order = "auto",
    format: FormatName = "dense",
    triangle: Triangle | None = None,
    search: str | None = None,
    search_budget: float | None = None,
    backend: Backend = "auto",
    max_bytes: int | None = None,
    chunk_size: int | None = None,
) -> Callable[..., Any]:
    """Value and Hessian of `fun` together, by one program.

    Takes the arguments of `hessian`, and raises what it raises.

    Returns:
        A function that returns (value, Hessian), or with `has_aux` ((value, auxiliary data),
        Hessian), as `jax.value_and_grad` does.

    Examples:
        >>> import jax, jax.numpy as jnp, jax_cce
        >>> f = lambda x: x[0] ** 3 * x[1]
        >>> value, hess = jax_cce.value_and_hessian(f)(jnp.array([1.0, 2.0]))
        >>> print(value, hess)
        2.0 [[12.  3.]
         [ 3.  0.]]
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
        chunk_size=chunk_size,
    )
    compute = hessian_by(*_with_value(fun, options), triangle)

    @functools.wraps(fun)
    def value_and_hessian_fun(*args: Any, **kwargs: Any) -> Any:
        result, _, (value, aux) = compute(args, kwargs)
        return ((value, aux), result) if has_aux else (value, result)

    return value_and_hessian_fun


def value_grad_and_hessian(
    fun: Callable[..., Any],
    argnums: int | Sequence[int] = 0,
    has_aux: bool = False,
    holomorphic: bool = False,
    *,
    order: Order = "auto",
    format: FormatName = "dense",
    triangle: Triangle | None = None,
    search: str | None = None,
    search_budget: float | None = None,
    backend: Backend = "auto",
    max_bytes: int | None = None,
    chunk_size: int | None = None,
) -> Callable[..., Any]:
    """Value, gradient and Hessian of a scalar `fun` together, by one program.

    The Hessian is made from the gradient's program and that from the function's, so that the
    three share whatever they compute. Takes the arguments of `hessian`.

    Returns:
        A function that returns (value, gradient, Hessian), or with `has_aux` ((value, auxiliary
        data), gradient, Hessian). The gradient is that of `jax.grad`, dense in every format.

    Raises:
        TypeError: as `hessian`, and where `fun` does not return a scalar, as `jax.grad`.
        ValueError: as `hessian`.
        MemoryError: as `hessian`.

    Examples:
        >>> import jax, jax.numpy as jnp, jax_cce
        >>> f = lambda x: x[0] ** 3 * x[1]
        >>> value, grad, hess = jax_cce.value_grad_and_hessian(f)(jnp.array([1.0, 2.0]))
        >>> print(value, grad, hess)
        2.0 [6. 1.] [[12.  3.]
         [ 3.  0.]]
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
        chunk_size=chunk_size,
    )
    compute = hessian_by(*_with_value(fun, options, scalar=True), triangle, gradient=True)

    @functools.wraps(fun)
    def value_grad_and_hessian_fun(*args: Any, **kwargs: Any) -> Any:
        result, gradient, (value, aux) = compute(args, kwargs)
        return ((value, aux), gradient, result) if has_aux else (value, gradient, result)

    return value_grad_and_hessian_fun


def _with_value(
    fun: Callable[..., Any], options: Options, *, scalar: bool = False
) -> tuple[Callable[..., Any], Options]:
    """A function that returns its value among its auxiliary data, too, and how it is called.

    Args:
        fun: the function.
        options: how `fun` is called.
        scalar: whether any other value is refused.
    """
    calls.check_callable(fun)
    has_aux = options.contract.has_aux

    @functools.wraps(fun)
    def with_value(*args: Any, **kwargs: Any) -> Any:
        result = fun(*args, **kwargs)
        value, aux = calls.parts(result) if has_aux else (result, None)
        if scalar:
            _check_scalar(value)
        return value, (value, aux)

    contract = dataclasses.replace(options.contract, has_aux=True)
    return with_value, dataclasses.replace(options, contract=contract)


def _check_scalar(value: Any) -> None:
    """Refuses what `jax.grad` refuses, beside dtypes."""
    single = jax.tree_util.all_leaves([value])
    if not single or np.shape(value) != ():
        got = f"had shape {np.shape(value)}" if single else f"was {value!r}"
        raise TypeError(
            f"A gradient is defined for scalar-output functions only; the output {got}."
        )


def hessian_by(
    fun: Callable[..., Any],
    options: Options,
    triangle: Triangle | None = None,
    *,
    gradient: bool = False,
) -> _Computed:
    """What `hessian` computes, with checked options.

    Args:
        fun: the function.
        options: how it is differentiated.
        triangle: as for `hessian`.
        gradient: whether the first derivative of a scalar function is wanted, too; else None.
    """
    if triangle not in (None, "lower"):
        raise ValueError(f'triangle must be "lower" or None, but got {triangle!r}.')
    contract, request, lower = options.contract, options.request, triangle is not None
    has_aux, sparse = contract.has_aux, options.format is not DENSE
    again = OrderRequest(again=True, backend=request.backend)
    first = transformed(fun, Options(contract, again))

    @functools.wraps(fun)
    def inner(*args: Any, **kwargs: Any) -> Any:
        _, result, aux = first(args, kwargs)
        return result, (result if gradient else None, aux)

    # `jax.hessian` is jacfwd of jacrev: a block has the dtype of its row.
    outer = dataclasses.replace(
        options, contract=dataclasses.replace(contract, has_aux=True, forward=True)
    )
    seconds = {
        known: transformed(inner, outer, symmetric=known, lower=lower and sparse)
        for known in (True, False)
    }
    by_terms = _hessian_by_terms(fun, options)

    def compute(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any, Any]:
        def value(*args: Any, **kwargs: Any) -> Any:
            result = fun(*args, **kwargs)
            return result[0] if has_aux else result

        symmetric = False
        if sparse:
            is_scalar, symmetric = _looked_at(value, args, kwargs)
            if not is_scalar:
                if lower:
                    raise TypeError(_NO_TRIANGLE)
                result, aux = by_terms(*args, **kwargs)
                return result, None, aux
        _, result, (derivative, aux) = seconds[symmetric](args, kwargs)
        if lower and not sparse:
            result = _lower_triangle(result, contract.argnums, args)
        return result, derivative, aux

    return compute


_NO_TRIANGLE = "hessian with a triangle requires a function that returns scalars."


def _lower_triangle(hessian: Any, argnums: Any, args: tuple[Any, ...]) -> Any:
    """A dense Hessian with zeros above the diagonal, of scalar functions."""
    inputs = jax.tree.leaves([args[k] for k in calls.positions(argnums, len(args))])
    shapes = list(map(np.shape, inputs))
    blocks, tree = jax.tree.flatten(hessian)
    lower = []
    for k, block in enumerate(blocks):
        row, column = k // len(shapes) % len(shapes), k % len(shapes)
        if block.shape != (*shapes[row], *shapes[column]):
            raise TypeError(_NO_TRIANGLE)
        if row == column:
            size = math.prod(shapes[row])
            matrix = jnp.tril(lax.reshape(block, (size, size)))
            block = lax.reshape(matrix, block.shape)
        lower.append(jnp.zeros_like(block) if row < column else block)
    return jax.tree.unflatten(tree, lower)


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
    """Hessian and auxiliary data of a function of arrays, from the coefficients of its Jacobian.

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
        return jax.tree.unflatten(tree, rows), aux

    return hessian_fun
