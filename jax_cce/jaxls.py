"""Jacobians for jaxls (https://github.com/brentyi/jaxls), nonlinear least squares on manifolds.

A cost of jaxls has a residual of some variables, and its Jacobian is that by their tangents, by
which a retraction moves each of them on its manifold. What `jacobian` makes of a residual is what
a cost takes as `jac_custom_fn`. The package called jaxls on PyPI is another one.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from jax_cce.api import jacobian as by_elimination

try:
    from jaxls import Var, VarValues
except ImportError as error:
    raise ModuleNotFoundError(
        "jax_cce.jaxls needs the package jaxls of https://github.com/brentyi/jaxls, which was not "
        "found: the one of that name on PyPI is another. Install it: pip install "
        "git+https://github.com/brentyi/jaxls.git",
        name="jaxls",
    ) from error

__all__ = ["jacobian"]


def jacobian(residual: Callable[..., Any]) -> Callable[..., Any]:
    """The Jacobian of a residual by the tangents of its variables, for `jaxls.Cost`.

    As jaxls computes it: at the tangent zero, a block of columns for each variable, those of a type
    together, types sorted by name and variables by id. A variable that is given twice has its
    columns at the first, and zeros at the other.

    Args:
        residual: a function of (vals, *args), as `jaxls.Cost` takes it, without a cache. All
            variables that it depends on are among the arguments, at whatever depth.

    Returns:
        A function of (vals, *args) that returns the matrix of shape (size of the residual, sum of
        tangent dimensions), to be passed as `jac_custom_fn` with the same residual.

    Raises:
        TypeError: when called, where the residual returns anything but an array.
        ValueError: when called, where no argument holds a variable, or one that stands for several:
            `jax.vmap` maps over these; and for types of variables with equal names.

    Examples:
        >>> import jax_cce.jaxls, jaxls  # doctest: +SKIP
        >>> cost = jaxls.Cost(  # doctest: +SKIP
        ...     residual, (jaxls.SE3Var(0),), jac_custom_fn=jax_cce.jaxls.jacobian(residual))
    """

    def matrix(vals: VarValues, *args: Any, **kwargs: Any) -> Any:
        leaves = jax.tree.leaves((args, kwargs), is_leaf=lambda leaf: isinstance(leaf, Var))
        variables = [leaf for leaf in leaves if isinstance(leaf, Var)]
        _check(variables)
        before = [vals.get_value(variable) for variable in variables]

        def moved(tangents: Sequence[Any]) -> Any:
            after = [
                type(variable).retract_fn(value, tangent)
                for variable, value, tangent in zip(variables, before, tangents, strict=True)
            ]
            result = residual(_Moved(vals, variables, after), *args, **kwargs)
            if not isinstance(result, jax.Array):
                raise TypeError(
                    "The residual of jax_cce.jaxls.jacobian must return an array, but returned "
                    f"{type(result).__name__}. One with a cache needs a Jacobian of its own."
                )
            return result.reshape(-1)

        blocks = by_elimination(moved)([jnp.zeros(type(each).tangent_dim) for each in variables])
        columns = []
        for kind in sorted({type(variable) for variable in variables}, key=str):
            own = [k for k, variable in enumerate(variables) if type(variable) is kind]
            columns += _sorted([variables[k].id for k in own], [blocks[k] for k in own])
        return jnp.concatenate(columns, axis=1)

    return matrix


def _check(variables: Sequence[Var]) -> None:
    if not variables:
        raise ValueError("The arguments of a residual must hold a jaxls.Var, but there is none.")
    kinds = {type(variable) for variable in variables}
    if len(set(map(str, kinds))) < len(kinds):
        raise ValueError(
            "Types of variables are sorted by their names, but some are equal in "
            f"{sorted(map(str, kinds))}. Rename one."
        )
    for variable in variables:
        if jnp.ndim(variable.id):
            raise ValueError(
                "A variable must have one id, but got ids of shape "
                f"{jnp.shape(variable.id)}. Use jax.vmap for several."
            )


def _sorted(ids: Sequence[Any], blocks: Sequence[Any]) -> list[Any]:
    """Blocks of columns by ascending id, which is known at run time only; equal ones are added."""
    if len(blocks) == 1:
        return list(blocks)
    before = [sum(jnp.where(other < own, 1, 0) for other in ids) for own in ids]
    return [
        sum(jnp.where(place == at, block, 0.0) for place, block in zip(before, blocks, strict=True))
        for at in range(len(blocks))
    ]


class _Moved(VarValues):
    """Values of which some have moved.

    Those variables are told by their ids, as objects: which row of the stacked values is theirs is
    known at run time only. The stacked ones serve for whatever else a residual does with them.
    """

    def __init__(self, vals: VarValues, variables: Sequence[Var], after: Sequence[Any]) -> None:
        stacked = dict(vals.vals_from_type)
        for variable, value in zip(variables, after, strict=True):
            kind = type(variable)
            at = jnp.searchsorted(vals.ids_from_type[kind], variable.id)
            stacked[kind] = jax.tree.map(
                lambda rows, row, at=at: rows.astype(row.dtype).at[at].set(row),
                stacked[kind],
                value,
            )
        super().__init__(stacked, vals.ids_from_type)
        object.__setattr__(self, "known", list(zip(variables, after, strict=True)))

    def get_value(self, var: Any) -> Any:
        for variable, value in self.known:
            if type(variable) is type(var) and variable.id is var.id:
                return value
        return super().get_value(var)


# Within other transformations it is the stacked values.
jax.tree_util.register_pytree_node(
    _Moved,
    lambda moved: ((moved.vals_from_type, moved.ids_from_type), None),
    lambda _, children: VarValues(*children),
)
