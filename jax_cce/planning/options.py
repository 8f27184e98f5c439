"""What a caller asks: of the function, of the order, and of the form of the result."""

import contextlib
import contextvars
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, get_args

import numpy as np

from jax_cce.eliminations import Item, has_edges
from jax_cce.orders import named
from jax_cce.planning.searches import search_package
from jax_cce.program.calls import Contract
from jax_cce.sparse import formats
from jax_cce.sparse.formats import DENSE, Format

__all__ = [
    "Backend",
    "Method",
    "Options",
    "Order",
    "OrderName",
    "OrderRequest",
    "backend_inside",
    "options_of",
    "order_request",
    "under",
]

OrderName = Literal["auto", "forward", "markowitz", "reverse", "tuned"]
Order = OrderName | Sequence[Item]
TUNED = "tuned"
assert (*named.ORDERS, TUNED) == get_args(OrderName)
# The order that "auto" stands for: "auto" or "tuned".
_VARIABLE = "JAX_CCE_ORDER"
Method = Literal["elimination", "jacfwd", "jacrev"]
Backend = Literal["auto", "native", "xla"]


@dataclass(frozen=True)
class OrderRequest:
    """What a caller asks of the order.

    Attributes:
        order: a name, or vertices and edges.
        search: the strategy to search with where nothing is stored; None for greedy orders.
        budget: seconds to search; None for the default.
        scalarised: whether small arrays are taken apart; None for whichever is cheaper.
        method: "elimination", or JAX's own "jacfwd" or "jacrev".
        again: whether the Jacobian is differentiated again, as that in a Hessian.
        tuned: whether candidates are timed where the registry holds no measured order.
        backend: "auto", "native" or "xla".
        max_bytes: how many bytes the temporary arrays may take; None for any number.
        chunk: how many columns or rows a mode of JAX computes at a time; None for elimination.
    """

    order: str | tuple[Item, ...] = "auto"
    search: str | None = None
    budget: float | None = None
    scalarised: bool | None = None
    method: str = "elimination"
    again: bool = False
    tuned: bool = False
    backend: str = "auto"
    max_bytes: int | None = None
    chunk: int | None = None

    @property
    def asks_registry(self) -> bool:
        """Whether a stored order answers it."""
        return self.order == "auto" and self.scalarised is None and self.chunk is None

    @property
    def of_arrays(self) -> "OrderRequest":
        """The same where XLA computes it: vertices for native code are none of its graph."""
        is_for_native = self.backend == "native" and not isinstance(self.order, str)
        return replace(self, order="auto") if is_for_native else self

    @property
    def is_default(self) -> bool:
        """Whether nothing is asked of the order."""
        facts: dict[str, Any] = {"again": False, "tuned": False, "backend": "auto"}
        return replace(self, **facts, max_bytes=None) == OrderRequest()


def order_request(
    order: Any = "auto",
    search: str | None = None,
    search_budget: float | None = None,
    backend: Any = "auto",
    max_bytes: Any = None,
    chunk_size: Any = None,
) -> OrderRequest:
    """What a caller asks of the order, checked.

    Raises:
        ValueError: for unknown names, in JAX_CCE_ORDER too, negative budgets, native code in an
            order that is to be searched or has edges by themselves, a limit of memory that is no
            number of bytes or stands beside an order, and a size of chunks that is none or stands
            beside what it excludes.
        TypeError: for an order that is neither a name nor a sequence of integers and edges.
    """
    is_name = isinstance(order, str)
    if max_bytes is not None:
        _check_limit(max_bytes, order, backend)
    if chunk_size is not None:
        _check_chunks(chunk_size, order, backend, search, max_bytes)
    if is_name and order == "auto" and chunk_size is None:
        order = os.environ.get(_VARIABLE, "auto")
        if order not in ("auto", TUNED):
            raise ValueError(f'{_VARIABLE} must be "auto" or "tuned", but is {order!r}.')
    tuned = is_name and order == TUNED
    checked = named.check("auto" if tuned else order)
    if search is not None:
        search_package().strategies.named(search)
    if search_budget is not None and not search_budget >= 0:
        raise ValueError(f"search_budget must be at least 0 seconds, but got {search_budget!r}.")
    if backend not in get_args(Backend):
        raise ValueError(f"backend must be one of {get_args(Backend)}, but got {backend!r}.")
    if max_bytes is not None:
        # By memory and not by time.
        tuned, max_bytes = False, int(max_bytes)
    chunk = None if chunk_size is None else int(chunk_size)
    request = OrderRequest(
        checked,
        search,
        search_budget,
        tuned=tuned,
        backend=backend,
        max_bytes=max_bytes,
        chunk=chunk,
    )
    if backend == "native" and search is not None:
        raise ValueError(
            'backend="native" searches for no order; jax_cce.optimize(..., cost="native") does, '
            "and stores it."
        )
    if backend == "native" and not isinstance(checked, str) and has_edges(checked):
        raise ValueError(
            'backend="native" takes an order of vertices, those of the graph of scalars, and no '
            'edges by themselves; these are left to XLA. Leave backend="auto".'
        )
    return request


def _is_integer(number: Any) -> bool:
    return isinstance(number, (int, np.integer)) and not isinstance(number, bool)


def _check_limit(max_bytes: Any, order: Any, backend: Any) -> None:
    if not _is_integer(max_bytes) or max_bytes < 0:
        raise ValueError(f"max_bytes must be a number of bytes, 0 or more, but got {max_bytes!r}.")
    if not isinstance(order, str) or order != "auto":
        raise ValueError(
            f'max_bytes chooses the order itself, but got order={order!r}. Leave order="auto", or '
            "leave max_bytes out."
        )
    if backend == "native":
        raise ValueError(
            "max_bytes limits the arrays that XLA allocates; it knows nothing of those of native "
            'code. Leave backend="auto", or leave max_bytes out.'
        )


def _check_chunks(chunk_size: Any, order: Any, backend: Any, search: Any, max_bytes: Any) -> None:
    if not _is_integer(chunk_size) or chunk_size < 1:
        raise ValueError(
            f"chunk_size must be a number of columns or rows, 1 or more, but got {chunk_size!r}."
        )
    if not isinstance(order, str) or order not in ("auto", "forward", "reverse"):
        raise ValueError(
            'chunk_size takes order="forward" (chunks of columns), order="reverse" (chunks of '
            f'rows), or order="auto" for the cheaper of the two, but got order={order!r}.'
        )
    if search is not None:
        raise ValueError("In chunks no order is searched. Leave out search, or chunk_size.")
    if max_bytes is not None:
        raise ValueError(
            "max_bytes finds the size of chunks itself. Leave out chunk_size, or max_bytes."
        )
    if backend == "native":
        raise ValueError(
            'In chunks XLA computes a Jacobian. Leave backend="auto", or leave out chunk_size.'
        )


@dataclass(frozen=True)
class Options:
    """All that a caller asks of a Jacobian but the function and its arguments.

    Attributes:
        contract: what `jax.jacrev` is asked, too.
        request: what is asked of the order.
        format: what each block of the result is.
    """

    contract: Contract = field(default_factory=Contract)
    request: OrderRequest = field(default_factory=OrderRequest)
    format: Format = DENSE


def options_of(
    argnums: int | Sequence[int] = 0,
    has_aux: bool = False,
    holomorphic: bool = False,
    allow_int: bool = False,
    *,
    order: Any = "auto",
    format: Any = "dense",
    search: str | None = None,
    search_budget: float | None = None,
    backend: Any = "auto",
    max_bytes: Any = None,
    chunk_size: Any = None,
) -> Options:
    """The arguments of the public transformations, checked.

    Raises:
        ValueError: for unknown names, negative budgets, what is no number of bytes, and chunks
            of a sparse Jacobian.
        TypeError: for an order that is neither a name nor a sequence of integers.
    """
    request = order_request(order, search, search_budget, backend, max_bytes, chunk_size)
    contract = Contract(argnums, has_aux, holomorphic, allow_int)
    form = formats.named(format)
    if chunk_size is not None and form.sparse:
        raise ValueError(
            f"chunk_size is for dense Jacobians, but got format={format!r}, which has no columns "
            "or rows in memory to begin with. Leave chunk_size out."
        )
    return Options(contract, request, form)


_backend: contextvars.ContextVar[Backend] = contextvars.ContextVar("backend", default="auto")


@contextlib.contextmanager
def under(request: OrderRequest) -> Iterator[None]:
    """A context of computing a Jacobian, which may be made from others."""
    token = _backend.set("xla" if request.backend == "xla" else "auto")
    try:
        yield
    finally:
        _backend.reset(token)


def backend_inside() -> Backend:
    """The backend of the Jacobians that the surrounding one is made from."""
    return _backend.get()
