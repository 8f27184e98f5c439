"""Jacobians with respect to some leaves of a pytree, such as the arrays of a model."""

import functools
from collections.abc import Callable, Sequence
from typing import Any, Unpack

import jax
import jax.numpy as jnp
import numpy as np

from jax_cce.api import How, jacobian
from jax_cce.program import calls
from jax_cce.sparse.formats import FormatName

__all__ = ["filter_jacobian"]


def filter_jacobian(
    fun: Callable[..., Any],
    filter: Any = None,
    argnums: int | Sequence[int] = 0,
    has_aux: bool = False,
    holomorphic: bool = False,
    *,
    format: FormatName = "dense",
    **how: Unpack[How],
) -> Callable[..., Any]:
    """Jacobian of `fun` with respect to some leaves of its arguments.

    All other leaves may be anything, such as activation functions, names and integers, as in the
    models of equinox: with the default filter it is `equinox.filter_jacrev`, by vertex elimination.

    Args:
        fun: a function of arguments of which some may be pytrees of arrays and other things.
        filter: which leaves are differentiated. None: all arrays of floating-point or complex
            numbers, of JAX or NumPy. A function of a leaf that returns a Boolean. Or a pytree of
            Booleans and such functions with the structure of the argument or of a part of it that
            begins at the root, where one stands for all leaves below; of a sequence of `argnums` a
            tuple with one for each.
        argnums: as for `jacobian`.
        has_aux: as for `jacobian`.
        holomorphic: as for `jacobian`.
        format: as for `jacobian`.
        **how: as for `jacobian`: order, search, search_budget, backend, max_bytes, chunk_size.

    Returns:
        A function with the arguments of `fun` that returns the Jacobian, or the pair (Jacobian,
        auxiliary data): the tree of the output, each leaf replaced by the tree of the argument,
        with None in place of the leaves that are not differentiated.

    Raises:
        TypeError: for a filter that gives other than Booleans, and where `jacobian` raises it, also
            for leaves that the filter picks and that are no numbers.
        ValueError: as for `jacobian`, and for a filter of another structure than the argument.

    Examples:
        >>> import jax, jax.numpy as jnp, jax_cce
        >>> model = {"weight": jnp.array([2.0, 3.0]), "activation": jnp.tanh, "power": 2}
        >>> f = lambda m, x: m["activation"](m["weight"] @ x) ** m["power"]
        >>> jac = jax_cce.filter_jacobian(f)(model, jnp.array([0.0, 0.1]))
        >>> print(jac["weight"], jac["activation"], jac["power"])
        [0.         0.05331...] None None
    """
    calls.check_callable(fun)
    # So that wrong options are refused at once.
    jacobian(fun, argnums, has_aux, holomorphic, format=format, **how)

    @functools.wraps(fun)
    def filter_jacobian_fun(*args: Any, **kwargs: Any) -> Any:
        positions = calls.positions(argnums, len(args))
        chosen = tuple(args[k] for k in positions)
        single = calls.is_index(argnums)
        leaves, tree = jax.tree.flatten(chosen)
        moves = _selected(filter, chosen[0] if single else chosen)
        structure: list[Any] = []

        @functools.wraps(fun)
        def of_moving(moving: list[Any], *args: Any, **kwargs: Any) -> Any:
            fresh, full = iter(moving), list(args)
            own = [next(fresh) if m else leaf for m, leaf in zip(moves, leaves, strict=True)]
            for k, argument in zip(positions, jax.tree.unflatten(tree, own), strict=True):
                full[k] = argument
            result = fun(*full, **kwargs)
            value = calls.parts(result)[0] if has_aux else result
            structure[:] = [jax.tree.structure(value)]
            return result

        own = jacobian(of_moving, 0, has_aux, holomorphic, format=format, **how)
        moving = [leaf for m, leaf in zip(moves, leaves, strict=True) if m]
        result = own(moving, *args, **kwargs)
        blocks, aux = result if has_aux else (result, None)
        rows = []
        for row in structure[0].flatten_up_to(blocks):
            fresh = iter(row)
            whole = jax.tree.unflatten(tree, [next(fresh) if m else None for m in moves])
            rows.append(whole[0] if single else whole)
        jac = jax.tree.unflatten(structure[0], rows)
        return (jac, aux) if has_aux else jac

    return filter_jacobian_fun


def _selected(filter: Any, tree: Any) -> list[bool]:
    """Whether each leaf of a tree is picked.

    Args:
        filter: as for `filter_jacobian`.
        tree: an argument, or a tuple of them.
    """
    if filter is None:
        filter = _is_inexact_array
    picked: list[bool] = []

    def note(own: Any, part: Any) -> None:
        for leaf in jax.tree.leaves(part):
            answer = own(leaf) if callable(own) else own
            if not isinstance(answer, bool | np.bool_):
                raise TypeError(
                    "filter must be made of Booleans and of functions that return one, but got "
                    f"{answer!r}."
                )
            picked.append(bool(answer))

    jax.tree.map(note, filter, tree)
    return picked


def _is_inexact_array(leaf: Any) -> bool:
    is_array = isinstance(leaf, jax.Array | np.ndarray | np.generic)
    return is_array and jnp.issubdtype(leaf.dtype, np.inexact)
