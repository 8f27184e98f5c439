"""Functions whose local Jacobian their author gives, dense, sparse or structured.

JAX differentiates such a function by a rule that multiplies a tangent by the given Jacobian with
operations on arrays. All of JAX's transformations follow from that, and so does the structure of
the edge in `jax_cce.jacobian`: the default rule reads it off the product.
"""

import contextlib
import functools
import inspect
import itertools
import math
import operator
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Generic, ParamSpec, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.custom_derivatives import SymbolicZero

from jax_cce import jax_internals
from jax_cce.rules.checking import place
from jax_cce.sparse.bands_and_blocks import Bands
from jax_cce.sparse.structured import StructuredJacobian

__all__ = ["custom_jacobian", "product"]

P = ParamSpec("P")
Result = TypeVar("Result")
Rule = TypeVar("Rule", bound=Callable[..., Any])

# What a plan calls the line of an equation is where the function is called.
jax_internals.exclude_from_user_frames(__file__)

_OF_MANY = inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD
_NUMBERS = bool | int | float | complex | np.ndarray | np.generic


class custom_jacobian(Generic[P, Result]):
    """A function with a local Jacobian of your own, in whatever form that has few numbers.

    A decorator like `jax.custom_jvp`: `def_jacobian` says what the Jacobian is. All modes use it:
    `jax.jvp`, `jax.vjp`, `jax.grad`, `jax.jacfwd`, `jax.jacrev`, `jax.hessian`, and
    `jax_cce.jacobian`, where it becomes an edge of the graph with just the entries that were
    given. What the function is made of is then never differentiated. The Jacobian function is, for
    second derivatives.

    Arguments and results are pytrees. Those of floating-point numbers are differentiated; complex
    arguments need a function that is holomorphic in them.

    Args:
        fun: the function.
        nondiff_argnums: positions of arguments that are no arrays, or not to be differentiated, as
            for `jax.custom_jvp`.
        nondiff_argnames: names of such arguments.

    Raises:
        AttributeError: where the function is called before `def_jacobian`.

    Examples:
        >>> import jax, jax.numpy as jnp, jax_cce
        >>> from jax.experimental.sparse import BCOO
        >>> @jax_cce.custom_jacobian
        ... def look_up(table, at):  # linear between the entries of a table
        ...     cell = jnp.floor(at).astype(int)
        ...     return table[cell] + (at - cell) * (table[cell + 1] - table[cell])
        >>> @look_up.def_jacobian
        ... def _(result, table, at):
        ...     cell, row = jnp.floor(at).astype(int), jnp.arange(at.size)
        ...     weights = jnp.concatenate([cell + 1 - at, at - cell])
        ...     columns = jnp.concatenate([cell, cell + 1])
        ...     positions = jnp.stack([jnp.tile(row, 2), columns], axis=1)
        ...     by_table = BCOO((weights, positions), shape=(at.size, table.size))
        ...     slopes = table[cell + 1] - table[cell]
        ...     return by_table, jax_cce.Bands((0,), slopes[None])
        >>> table, at = jnp.arange(1000.0) ** 2, jnp.array([0.5, 30.25])
        >>> jax_cce.jacobian(look_up, format="bcoo")(table, at).nse
        4
        >>> print(jax.grad(lambda at: look_up(table, at).sum())(at))
        [ 1. 61.]
    """

    def __init__(
        self,
        fun: Callable[P, Result],
        nondiff_argnums: Sequence[int] = (),
        nondiff_argnames: Sequence[str] = (),
    ) -> None:
        functools.update_wrapper(self, fun)
        self._function = jax.custom_jvp(fun, nondiff_argnums, nondiff_argnames)
        self._function.defjvp(self._pushed, symbolic_zeros=True)
        self._jacobian: Callable[..., Any] | None = None

    def def_jacobian(self, jacobian: Rule) -> Rule:
        """Says what the Jacobian is; a decorator that returns its function.

        Args:
            jacobian: called with the result of the function and then with all of its arguments, by
                position. It returns a tuple with what each argument has, in their order, those of
                `nondiff_argnums` left out; where the result is a pytree, a pytree like it of such
                tuples. An argument that is a pytree has a pytree like it. Each block, that is of
                one array of the result by one array of an argument, is one of

                - None where there is no dependence, as always for arguments of integers. None also
                  stands for a whole argument.
                - A dense array of shape out.shape + in.shape.
                - A `jax.experimental.sparse.BCOO` of that shape. Its indices may depend on the
                  arguments. Entries at equal indices are added up, and those at indices out of
                  bounds, with which JAX pads, are none.
                - A `jax_cce.StructuredJacobian` of that shape.
                - `jax_cce.Bands`: the diagonals of the block as a matrix of out.size rows and
                  in.size columns.

                Its dtype is that of the result or of the argument. Blocks that are not needed are
                dropped under `jax.jit`.

        Returns:
            The function `jacobian`.

        Raises:
            TypeError: where the function is differentiated and a block has another shape or dtype.
        """
        self._jacobian = jacobian
        return jacobian

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Result:
        """Calls the function."""
        if self._jacobian is None:
            raise AttributeError(
                f"No Jacobian defined for custom_jacobian function {self._name} using def_jacobian."
            )
        return self._function(*args, **kwargs)

    @property
    def _name(self) -> str:
        return getattr(self, "__name__", repr(self._function.fun))

    def _pushed(self, *args: Any) -> tuple[Any, Any]:
        """The rule of `jax.custom_jvp`: the Jacobian times a tangent."""
        *static, primals, tangents = args
        arguments = list(primals)
        for number, value in zip(self._function.nondiff_argnums, static, strict=True):
            arguments.insert(number, value)
        result = self._function(*arguments)
        assert self._jacobian is not None
        given = self._jacobian(result, *arguments)
        outs, tree = jax.tree.flatten(result)
        rows = self._like(tree, given, "a pytree like the result")
        kinds = map(jax.typeof, outs)
        pushed = [
            self._row(out, row, primals, tangents) for out, row in zip(kinds, rows, strict=True)
        ]
        return result, jax.tree.unflatten(tree, pushed)

    def _row(self, out: Any, row: Any, primals: Sequence[Any], tangents: Sequence[Any]) -> Any:
        """The tangent of one array of the result, given its type."""
        is_moving = jax_internals.is_differentiable(out)
        if row is None and not is_moving:
            row = (None,) * len(primals)
        # Bands are a tuple, too.
        if not isinstance(row, tuple | list) or isinstance(row, Bands) or len(row) != len(primals):
            wanted = f"a tuple with what each of the {len(primals)} arguments has"
            length = f" of length {len(row)}" if type(row) in (tuple, list) else ""
            raise self._refusal(wanted, f"a {type(row).__name__}{length}")
        products = []
        for name, primal, tangent, given in zip(
            self._names(), primals, tangents, row, strict=False
        ):
            paths, tree = jax.tree_util.tree_flatten_with_path(primal)
            blocks: list[Any] = [None] * len(paths)
            if given is not None:
                blocks = self._like(tree, given, f"a pytree like argument {name}")
            seeds = self._like(tree, tangent, "")
            for (path, x), seed, block in zip(paths, seeds, blocks, strict=True):
                if block is None:
                    continue
                if problem := _problem(block, out, jax.typeof(x)):
                    wanted, instead = problem
                    at = f"argument {name}{jax.tree_util.keystr(path)}"
                    raise self._refusal(f"{wanted} for {at}", instead)
                if not isinstance(seed, SymbolicZero):
                    seed = lax.convert_element_type(seed, out.dtype)
                    products.append(product(block, seed, out.shape))
        if not is_moving:
            return np.zeros(out.shape, jax.dtypes.float0)
        return functools.reduce(operator.add, products) if products else jax_internals.zeros(out)

    def _names(self) -> Iterator[str]:
        """What errors call the arguments that are differentiated."""
        names: list[str] = []
        with contextlib.suppress(ValueError):  # of a function in C
            parameters = inspect.signature(self._function.fun).parameters.values()
            names = [each.name for each in parameters if each.kind not in _OF_MANY]
        for number in itertools.count():
            if number not in self._function.nondiff_argnums:
                yield repr(names[number]) if number < len(names) else f"number {number}"

    def _like(self, tree: Any, given: Any, wanted: str) -> list[Any]:
        """The leaves of what was given, where those of `tree` are; blocks are pytrees, too."""
        try:
            return tree.flatten_up_to(given)
        except ValueError as error:
            raise self._refusal(f"{wanted}, {tree}", f"{given!r}: {error}") from None

    def _refusal(self, wanted: str, instead: str) -> TypeError:
        at = place(self._jacobian)
        return TypeError(
            f"The Jacobian of {self._name} ({at}) must return {wanted}, but returned {instead}."
        )


def _problem(block: Any, out: Any, x: Any) -> tuple[str, str] | None:
    """What is wanted of a block and what was returned instead; None if nothing is wrong."""
    if not (jax_internals.is_differentiable(out) and jax_internals.is_differentiable(x)):
        return "None, as integers have no derivative,", repr(block)
    if jax_internals.is_complex(x) and not jax_internals.is_complex(out):
        return "None, as a real result is not holomorphic,", repr(block)
    shape, what = (*out.shape, *x.shape), "a block"
    if isinstance(block, Bands):
        offsets, block = block
        if not all(isinstance(offset, int | np.integer) for offset in offsets):
            return "Bands with integers as offsets", repr(offsets)
        shape, what = (len(offsets), math.prod(x.shape)), "Bands with data"
    if isinstance(block, _NUMBERS):
        block = jnp.asarray(block)
    if not (isinstance(block, jax.Array | StructuredJacobian) or _is_bcoo(block)):
        wanted = "None, an array, a BCOO, a StructuredJacobian or Bands"
        return wanted, f"a {type(block).__name__}"
    if tuple(block.shape) != shape:
        return f"{what} of shape {shape}", f"one of shape {tuple(block.shape)}"
    if isinstance(block, StructuredJacobian) and block.is_stacked:
        return f"{what} of shape {shape}", "one to which jax.vmap has given more axes"
    if block.dtype not in (out.dtype, x.dtype) and not getattr(block, "weak_type", False):
        return f"{what} of dtype {out.dtype}", f"one of dtype {block.dtype}"
    return None


def _is_bcoo(block: Any) -> bool:
    # Whoever has one has imported the module, which takes a while.
    module = sys.modules.get("jax.experimental.sparse")
    return module is not None and isinstance(block, module.BCOO)


def product(block: Any, tangent: Any, shape: Sequence[int]) -> Any:
    """A block times a tangent, which has the dtype of the result; `shape` is the result's."""
    dtype = tangent.dtype
    if isinstance(block, StructuredJacobian):
        return block.astype(dtype) @ tangent
    if isinstance(block, Bands):
        data = lax.convert_element_type(block.data, dtype)
        return _bands_product(block.offsets, data, tangent, shape)
    if _is_bcoo(block):
        return _bcoo_product(block.astype(dtype), tangent, shape)
    return jnp.tensordot(lax.convert_element_type(block, dtype), tangent, tangent.ndim)


def _bands_product(offsets: Sequence[int], data: Any, tangent: Any, shape: Sequence[int]) -> Any:
    rows, columns = math.prod(shape), tangent.size
    result = jnp.zeros(rows, tangent.dtype)
    products = data * tangent.reshape(1, columns)
    for offset, product in zip(map(int, offsets), products, strict=True):
        first, last = max(offset, 0), min(columns, rows + offset)
        if first < last:
            around = first - offset, rows - (last - offset), 0
            result += lax.pad(product[first:last], np.array(0, tangent.dtype), [around])
    return result.reshape(shape)


def _bcoo_product(block: Any, tangent: Any, shape: Sequence[int]) -> Any:
    from jax.experimental import sparse

    block = sparse.bcoo_update_layout(block, n_batch=0, n_dense=0, on_inefficient=None)
    at = tuple(block.indices.T)
    rows, columns = at[: len(shape)], at[len(shape) :]
    # What lies out of bounds is padding.
    products = block.data * tangent.at[columns].get(mode="fill", fill_value=0)
    if not rows:
        return jnp.sum(products)
    return jnp.zeros(shape, tangent.dtype).at[rows].add(products, mode="drop")
