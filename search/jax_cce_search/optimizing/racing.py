"""The measured race: which orders take part, and the call by which they are timed."""

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jax_cce.execution.calling import transformed
from jax_cce.graph.building import Graph
from jax_cce.native.compiling import machine
from jax_cce.native.edges import ORDERS
from jax_cce.planning.options import OrderRequest, options_of
from jax_cce.planning.plans import Plan
from jax_cce.program import known_values
from jax_cce.program.calls import positions
from jax_cce_search.optimizing.parts import ArraysPart, ScalarsPart
from jax_cce_search.optimizing.request import Request

__all__ = [
    "JAX_MODES",
    "NATIVE",
    "SEARCHED_NATIVELY",
    "TimedCall",
    "candidates",
    "contenders",
    "natively",
]

# JAX's own transformations, which take part too.
JAX_MODES = ("jacfwd", "jacrev")
# What runs by default, which is native code where there can be any.
NATIVE = "native"
# Native code in the order that computes the least, where that is not what runs by default.
SEARCHED_NATIVELY = "native, searched"
_MOST_CANDIDATES = 6


def candidates(searched: Mapping[ArraysPart, Plan]) -> dict[str, Plan]:
    """The plans that may be the fastest, by name, those of the least modelled time.

    Args:
        searched: for each part the plan of its best order.
    """
    flops = [part for part in searched if part.measure == "flops"]
    by_name = {f"default{part.form}": part.plan("auto") for part in flops}
    for part, plan in searched.items():
        by_name[f"{part.search.strategy}, {part.measure}{part.form}"] = plan
    for part in flops:
        for name in ("forward", "reverse"):
            by_name[f"{name}{part.form}"] = part.plan(name)
    distinct: dict[Any, str] = {}
    for name, plan in by_name.items():
        distinct.setdefault((plan.scalarised, plan.order), name)
    names = sorted(distinct.values(), key=lambda name: by_name[name].cost("runtime_model"))
    return {name: by_name[name] for name in names[:_MOST_CANDIDATES]}


def contenders(
    plans: Mapping[str, Plan], graph: Graph, request: Request
) -> dict[str, OrderRequest]:
    """How each contender computes the Jacobian, JAX's modes included where they give the same.

    Args:
        plans: the candidates.
        graph: the function's graph.
        request: what is asked.
    """
    requests = {
        name: OrderRequest(plan.order, scalarised=plan.scalarised) for name, plan in plans.items()
    }
    if _is_complex(graph):
        return requests
    if request.format == "dense":
        for mode in JAX_MODES:
            requests[mode] = OrderRequest("reverse", scalarised=False, method=mode)
    if request.is_native and not machine().obstacle:
        requests[NATIVE] = OrderRequest()
    return requests


def natively(parts: Iterable[ScalarsPart]) -> dict[str, OrderRequest]:
    """Native code in the order that was found, where that computes less than the classical ones."""
    found = {}
    for part in parts:
        order = part.search.best
        if order and part.search.cost < min(map(part.edges.price, ORDERS)):
            found[SEARCHED_NATIVELY] = OrderRequest(order, backend="native")
    return found


class TimedCall:
    """A call of a function, as a function of its arrays; all other arguments stay as they are.

    Args:
        fun: the function.
        args: its arguments.
        kwargs: its keyword arguments.
        request: how it is differentiated, and whether under `jax.vmap`.
    """

    def __init__(
        self,
        fun: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        request: Request,
    ) -> None:
        self._fun, self._args, self._kwargs, self._request = fun, args, kwargs, request
        self._varied = positions(request.argnums, len(args))

    def operands(self) -> tuple[list[Any], list[bool]]:
        """The arrays to time with, and which of them have a leading axis to map over."""
        size = self._request.batch_size
        arrays, batched = [], []
        for k, arg in enumerate((*self._args, self._kwargs)):
            for leaf in jax.tree.leaves(arg):
                if isinstance(leaf, jax.ShapeDtypeStruct):
                    leaf = jnp.full(leaf.shape, 0.5, leaf.dtype)
                elif not self._is_operand(k, leaf):
                    continue
                leaf = jnp.asarray(leaf)
                batched.append(size is not None and k in self._varied)
                arrays.append(jnp.stack([leaf] * (size or 1)) if batched[-1] else leaf)
        return arrays, batched

    def jacobian(self, order: OrderRequest) -> Callable[..., Any]:
        """The Jacobian by an order or a method, as a function of the arrays of `operands`."""
        options = dataclasses.replace(options_of(**self._request.options), request=order)
        compute = transformed(self._fun, options)

        def of_arrays(*arrays: Any) -> Any:
            fresh = iter(arrays)

            def filled(k: int, arg: Any) -> Any:
                return jax.tree.map(
                    lambda leaf: next(fresh) if self._is_operand(k, leaf) else leaf, arg
                )

            args = [filled(k, arg) for k, arg in enumerate(self._args)]
            return compute(tuple(args), filled(len(args), self._kwargs))[1]

        return of_arrays

    def _is_operand(self, k: int, leaf: Any) -> bool:
        """Whether a leaf of argument k is an array to time with.

        An array that is not differentiated and whose values may decide structure has to be seen
        while planning, as it was when the order was searched.
        """
        if k in self._varied or isinstance(leaf, jax.ShapeDtypeStruct):
            return True
        if isinstance(leaf, jax.Array | np.ndarray):
            return self._request.format == "dense" and leaf.size > known_values.SMALL
        return False


def _is_complex(graph: Graph) -> bool:
    avals = graph.program.avals
    return any(jnp.issubdtype(avals[name].dtype, np.complexfloating) for name in graph.inputs)
