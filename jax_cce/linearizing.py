"""Functions whose linearisation multiplies by a Jacobian that has been computed once.

`jax.linearize` keeps what the tangent of a function needs, and goes through all of its operations
at each application. Where there are many applications to one linearisation, and the Jacobian has
few entries beside these operations, its products are cheaper: in the Krylov methods of a
Newton step, say, whose residual integrates an equation.
"""

import functools
import operator
from collections.abc import Callable, Sequence
from typing import Any, Literal, Unpack, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.custom_derivatives import SymbolicZero

from jax_cce import jax_internals
from jax_cce.api import How, value_and_jacobian
from jax_cce.custom import product
from jax_cce.program import calls

__all__ = ["LinearFormat", "linearizing"]

LinearFormat = Literal["dense", "bcoo", "structured"]

# Of more inputs than this the Jacobian is not multiplied as a dense matrix.
_MOST_DENSE = 32


def linearizing(
    fun: Callable[..., Any], *, format: LinearFormat | None = None, **how: Unpack[How]
) -> Callable[..., Any]:
    """The same function, whose `jax.linearize` computes the Jacobian, and applies that.

    For code of others that linearises a function itself and then applies the linear function many
    times. All modes of JAX go by way of the Jacobian: one product with it costs all of it, so leave
    gradients and single products to `fun`. Where a solver only builds the matrix of the linear
    function, `jax_cce.lineax.Eliminated` does so without these products.

    Args:
        fun: a function of pytrees; what is closed over is differentiated, too.
        format: in which form the Jacobian is kept: "dense", "bcoo" or "structured", as for
            `jacobian`. None: dense for few inputs, else structured.
        **how: as for `jacobian`: order, search, search_budget, backend, max_bytes, chunk_size.

    Returns:
        A function with the arguments and the results of `fun`.

    Raises:
        ValueError: for another format, and as for `jacobian`.
        TypeError: where the function is differentiated by complex arguments, and where `jacobian`
            raises it.

    Examples:
        >>> import jax, jax.numpy as jnp, jax_cce
        >>> step = lambda x: x + 0.01 * jnp.sin(x[::-1])
        >>> f = lambda x: jax.lax.fori_loop(0, 100, lambda _, x: step(x), x)
        >>> _, apply = jax.linearize(jax_cce.linearizing(f), jnp.array([1.0, 2.0]))
        >>> print(apply(jnp.array([1.0, 0.0])))  # a product of 2 x 2, and no loop
        [0.87766826 0.20285182]
    """
    calls.check_callable(fun)
    if format not in (None, *get_args(LinearFormat)):
        raise ValueError(f"format must be None or one of {get_args(LinearFormat)}, got {format!r}.")
    # So that wrong options are refused at once.
    value_and_jacobian(fun, **how)

    @functools.wraps(fun)
    def linearizing_fun(*args: Any, **kwargs: Any) -> Any:
        leaves, tree = jax.tree.flatten((args, kwargs))
        arrays = [k for k, leaf in enumerate(leaves) if _is_array(leaf)]

        def of_arrays(values: Sequence[Any]) -> Any:
            full = list(leaves)
            for k, value in zip(arrays, values, strict=True):
                full[k] = value
            own, named = jax.tree.unflatten(tree, full)
            return fun(*own, **named)

        inputs = [leaves[k] for k in arrays]
        closed, outer = jax.closure_convert(of_arrays, inputs)
        return _with_rule(closed, format, how)(inputs, *outer)

    return linearizing_fun


def _is_array(leaf: Any) -> bool:
    return isinstance(leaf, jax.Array | np.ndarray | np.generic | float | complex)


def _with_rule(
    fun: Callable[..., Any], format: LinearFormat | None, how: How
) -> Callable[..., Any]:
    """A function of pytrees of arrays, with its Jacobian as its rule."""
    function = jax.custom_jvp(fun)

    def pushed(primals: Any, tangents: Any) -> tuple[Any, Any]:
        values, tree = jax.tree.flatten(primals)
        seeds = jax.tree.leaves(tangents, is_leaf=lambda x: isinstance(x, SymbolicZero))
        moving = [k for k, seed in enumerate(seeds) if not isinstance(seed, SymbolicZero)]

        inputs = [values[k] for k in moving]
        if any(jnp.iscomplexobj(x) for x in inputs):
            raise TypeError(
                "linearizing requires real-valued inputs where it is differentiated, but got "
                f"{[str(jnp.asarray(x).dtype) for x in inputs]}; linearise the function itself."
            )

        def of_moving(part: Sequence[Any]) -> tuple[list[Any], Any]:
            full = list(values)
            for k, value in zip(moving, part, strict=True):
                full[k] = value
            result = fun(*jax.tree.unflatten(tree, full))
            return list(filter(_varies, jax.tree.leaves(result))), result

        if not moving:
            result = function(*primals)
            return result, jax.tree.map(_no_tangent, result)
        few = sum(map(jnp.size, inputs)) <= _MOST_DENSE
        form = format or ("dense" if few else "structured")
        (outs, result), rows = value_and_jacobian(of_moving, has_aux=True, format=form, **how)(
            inputs
        )
        own = [seeds[k] for k in moving]
        moved = iter([_moved(out, row, own) for out, row in zip(outs, rows, strict=True)])
        return result, jax.tree.map(lambda x: next(moved) if _varies(x) else _no_tangent(x), result)

    function.defjvp(pushed, symbolic_zeros=True)
    return function


def _moved(out: Any, row: Sequence[Any], seeds: Sequence[Any]) -> Any:
    """The tangent of one array of the result."""
    products = (
        product(block, lax.convert_element_type(seed, out.dtype), out.shape)
        for block, seed in zip(row, seeds, strict=True)
    )
    return functools.reduce(operator.add, products)


def _varies(out: Any) -> bool:
    return jax_internals.is_differentiable(jax.typeof(out))


def _no_tangent(out: Any) -> Any:
    return jnp.zeros_like(out) if _varies(out) else np.zeros(jnp.shape(out), jax.dtypes.float0)
