"""What is asked of a function and what it gives: the contract of `jax.jacrev`.

A `Call` holds the checked and flattened arguments of one call of a transformed function; `trace`
turns it into a program and what puts the results back into trees.
"""

import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import numpy as np
from jax import numpy as jnp
from jax.tree_util import keystr, tree_flatten, tree_flatten_with_path, tree_unflatten

from jax_cce import jax_internals
from jax_cce.program.flat import Program
from jax_cce.program.tracing import trace

__all__ = [
    "Call",
    "Contract",
    "Traced",
    "check_callable",
    "from_shapes",
    "is_index",
    "no_aux",
    "parts",
    "positions",
    "trace_call",
]


def from_shapes(
    function: Callable[[tuple[Any, ...], dict[str, Any]], Any],
) -> Callable[..., Any]:
    """Lets any array among the arguments be a `jax.ShapeDtypeStruct`."""

    def from_shapes(*args: Any, **kwargs: Any) -> Any:
        leaves, tree = tree_flatten((args, kwargs))
        shapes = [k for k, leaf in enumerate(leaves) if isinstance(leaf, jax.ShapeDtypeStruct)]
        if not shapes:
            return function(args, kwargs)
        results: list[Any] = []

        def abstractly(*tracers: Any) -> None:
            for k, tracer in zip(shapes, tracers, strict=True):
                leaves[k] = tracer
            results.append(function(*tree_unflatten(tree, leaves)))

        jax.eval_shape(abstractly, *(leaves[k] for k in shapes))
        return results[0]

    return from_shapes


@dataclass(frozen=True)
class Contract:
    """What `jax.jacrev` is asked of a function.

    Attributes:
        argnums: which positional argument or arguments are differentiated.
        has_aux: whether the function returns auxiliary data beside its value.
        holomorphic: whether it is promised to be holomorphic.
        allow_int: whether integer inputs are allowed.
        forward: whether blocks have the dtype and weak type of the output, as `jax.jacfwd` has
            them, and not of the input.
    """

    argnums: Any = 0
    has_aux: bool = False
    holomorphic: bool = False
    allow_int: bool = False
    forward: bool = False


class Traced(NamedTuple):
    """A traced function: its program and what puts the results back into trees.

    Attributes:
        program: its inputs are the leaves; its outputs the values' leaves, then traced aux leaves.
        constants: values of its constants.
        num_values: how many outputs are to be differentiated.
        value_tree: tree structure of the value.
        aux: puts the traced leaves of the auxiliary data back among the static ones.
    """

    program: Program
    constants: list[Any]
    num_values: int
    value_tree: Any
    aux: Callable[[Sequence[Any]], Any]

    @property
    def values(self) -> tuple[Any, ...]:
        """The abstract value of each output that is to be differentiated."""
        return tuple(map(self.program.aval, self.program.outputs[: self.num_values]))


class Call:
    """One call of a transformed function: the checked and flattened arguments."""

    def __init__(
        self,
        fun: Callable[..., Any],
        contract: Contract,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> None:
        """Checks and flattens the arguments.

        Raises:
            TypeError, ValueError: for what `jax.jacrev` refuses.
        """
        self.fun, self.contract, self.args, self.kwargs = fun, contract, args, kwargs
        self.positions = positions(contract.argnums, len(args))
        varied = tuple(args[position] for position in self.positions)
        self.leaves, self.tree = tree_flatten(varied)
        self.avals = []
        for index, leaf in enumerate(self.leaves):
            aval = _typeof(leaf)
            if jax_internals.is_reference(aval):
                raise TypeError(
                    f"jacobian cannot differentiate with respect to a reference, but got {aval}. "
                    "Pass the value that it holds."
                )
            problem = _input_problem(aval, contract.holomorphic, contract.allow_int)
            if problem:
                path, _ = tree_flatten_with_path(varied)[0][index]
                at = f"argument {self.positions[path[0].idx]}{keystr(path[1:])}"
                raise TypeError(f"{problem} (at {at}).")
            self.avals.append(aval)
        self.is_real = bool(self.avals) and all(
            jnp.issubdtype(aval.dtype, np.floating) for aval in self.avals
        )

    @property
    def name(self) -> str:
        """The function's name, for people only."""
        return getattr(self.fun, "__name__", type(self.fun).__name__)

    def run(self, leaves: Sequence[Any]) -> tuple[list[Any], Any, list[Any], Any]:
        """Runs the user's function: leaves and tree of the value, leaves and tree of the aux."""
        full = list(self.args)
        varied = tree_unflatten(self.tree, leaves)
        for position, value in zip(self.positions, varied, strict=True):
            full[position] = value
        value = self.fun(*full, **self.kwargs)
        aux = None
        if self.contract.has_aux:
            value, aux = parts(value)
        value_leaves, value_tree = tree_flatten(value)
        for leaf in value_leaves:
            problem = _output_problem(_typeof(leaf), self.contract.holomorphic, self.is_real)
            if problem:
                raise TypeError(problem)
        return value_leaves, value_tree, *tree_flatten(aux)


def trace_call(call: Call, *, hoist: bool, rewrite: Callable[[Any], Any] | None = None) -> Traced:
    """Traces the function of a call.

    Args:
        call: the call.
        hoist: whether numbers in the program become constants (see `tracing.trace`).
        rewrite: see there, too.
    """
    value_tree, aux_tree, num_values = None, None, 0
    static_aux: list[Any] = []

    def flat(*leaves: Any) -> list[Any]:
        nonlocal value_tree, aux_tree, num_values, static_aux
        values, value_tree, aux, aux_tree = call.run(leaves)
        num_values = len(values)
        static_aux = [None if jax_internals.is_tracer(leaf) else leaf for leaf in aux]
        traced_aux = [leaf for leaf in aux if jax_internals.is_tracer(leaf)]
        moving[:] = [jax_internals.is_tracer(leaf) for leaf in aux]
        return [*values, *traced_aux]

    moving: list[bool] = []
    program, constants = trace(flat, call.leaves, hoist=hoist, differentiated=True, rewrite=rewrite)

    def aux_of(traced_leaves: Sequence[Any]) -> Any:
        fresh = iter(traced_leaves)
        return tree_unflatten(
            aux_tree,
            [next(fresh) if m else leaf for m, leaf in zip(moving, static_aux, strict=True)],
        )

    return Traced(program, constants, num_values, value_tree, aux_of)


def no_aux(leaves: Sequence[Any]) -> None:
    """The auxiliary data of a function that has none."""
    return None


def is_index(argnums: Any) -> bool:
    """Whether `argnums` is one position and not a sequence of them."""
    try:
        operator.index(argnums)
    except TypeError:
        return False
    return True


def parts(result: Any) -> tuple[Any, Any]:
    """The value and the auxiliary data that a function with has_aux=True returns.

    Raises:
        TypeError: where it returns no pair.
    """
    if not isinstance(result, (tuple, list)) or len(result) != 2:
        raise TypeError(
            "jacobian with has_aux=True expects fun to return a pair (output, auxiliary "
            f"data), but it returned {type(result).__name__}: {result!r}."
        )
    value, aux = result
    return value, aux


def check_callable(fun: Any) -> None:
    """Refuses what cannot be called, as JAX does."""
    if not callable(fun):
        raise TypeError(f"Expected a callable value, got {fun!r}.")


def positions(argnums: Any, num_args: int) -> tuple[int, ...]:
    """The differentiated positional arguments, as nonnegative positions.

    Raises:
        TypeError: if `argnums` is neither an integer nor a sequence of integers.
        ValueError: if one is out of range or repeated.
    """
    try:
        received = (
            (operator.index(argnums),)
            if is_index(argnums)
            else tuple(operator.index(k) for k in argnums)
        )
    except TypeError as error:
        raise TypeError(
            f"argnums must be an integer or a sequence of integers, but got {argnums!r}."
        ) from error
    for position in received:
        if not -num_args <= position < num_args:
            raise ValueError(
                "argnums must be greater than or equal to -len(args) and less than len(args), "
                f"but got value {position} for len(args) == {num_args}."
            )
    positions = tuple(position % num_args for position in received)
    if len(set(positions)) != len(positions):
        raise ValueError(
            f"argnums must name each argument once, but got {argnums!r} for {num_args} arguments."
        )
    return positions


def _typeof(leaf: Any) -> Any:
    try:
        return jax.typeof(leaf)
    except TypeError:
        raise TypeError(
            f"Argument '{leaf}' of type {type(leaf)} is not a valid JAX type."
        ) from None


def _input_problem(aval: Any, holomorphic: bool, allow_int: bool) -> str | None:
    """What `jax.jacrev` would object to in an input; None if nothing."""
    dtype = aval.dtype
    if holomorphic and not jnp.issubdtype(dtype, np.complexfloating):
        return (
            "jacobian with holomorphic=True requires inputs with complex dtype, but got "
            f"{dtype.name}"
        )
    if (
        jnp.issubdtype(dtype, jax.dtypes.extended)
        or jnp.issubdtype(dtype, np.integer)
        or jnp.issubdtype(dtype, np.bool_)
    ):
        if not allow_int:
            return (
                "jacobian requires real- or complex-valued inputs (input dtype that is a "
                f"sub-dtype of np.inexact), but got {dtype.name}. If you want to use Boolean- or "
                "integer-valued inputs, set allow_int to True"
            )
    elif jnp.issubdtype(dtype, np.complexfloating) and not holomorphic:
        return None  # the output decides, as for jax.jacrev
    return None


def _output_problem(aval: Any, holomorphic: bool, is_real: bool) -> str | None:
    """What JAX's modes would object to in an output; None if one of them does not.

    Of real inputs, complex outputs have one derivative only, that of `jax.jacfwd`.
    """
    dtype = aval.dtype
    if jnp.issubdtype(dtype, jax.dtypes.extended):
        return f"jacobian with output element type {dtype.name}."
    if holomorphic:
        if jnp.issubdtype(dtype, np.complexfloating):
            return None
        return (
            "jacobian with holomorphic=True requires outputs with complex dtype, but got "
            f"{dtype.name}."
        )
    requires = (
        "jacobian requires real-valued outputs (output dtype that is a sub-dtype of np.floating), "
        f"but got {dtype.name}. "
    )
    if jnp.issubdtype(dtype, np.complexfloating):
        return (
            None
            if is_real
            else requires + "For holomorphic differentiation, pass holomorphic=True."
        )
    if not jnp.issubdtype(dtype, np.floating):
        return requires + "For functions with integer outputs, return them with has_aux=True."
    return None
