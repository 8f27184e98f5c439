"""Plans of programs with symbolic dimensions, as `jax.export` traces them.

No cost can be compared where a size is a symbol, so that nothing is searched. Where the registry
holds an order for a size of the same function, that one is taken, or the mode of JAX that was found
to be the fastest there. Else a dense Jacobian is computed by one of JAX's own modes, and a sparse
one is eliminated in a named order, reverse unless the caller names another. Where elimination asks
a question about sizes that has no answer for all of them, a mode runs, and blocks are dense.
"""

import contextlib
from typing import Any

from jax_cce.planning import plans
from jax_cce.planning.options import OrderRequest
from jax_cce.planning.plans import Plan
from jax_cce.planning.task import Task
from jax_cce.program import tracing

__all__ = ["planned"]

_NAMED = {"auto": "reverse", "markowitz": "reverse"}


def planned(task: Task, request: OrderRequest, stored: Any = None) -> Plan:
    """The plan of a task whose program has symbolic dimensions.

    Args:
        task: the task.
        request: what the caller asks of the order.
        stored: what the registry holds for a size of it, an order of its graph; None for nothing.

    Raises:
        ValueError: where a given order is no permutation of the vertices.
    """
    if stored is not None:
        entry = stored.entry
        if entry.method in ("jacfwd", "jacrev"):
            by_mode = plans.by_mode(task.traced, task.differentiated, entry.method)
            return by_mode.of(source=plans.SYMBOLIC_STORED)
        with contextlib.suppress(Exception):  # no rule promises an answer for all sizes
            made = plans.make(task.graphs[False], entry.order)
            return made.of(source=plans.SYMBOLIC_STORED)
    order = request.order
    if isinstance(order, str):
        order = _NAMED.get(order, order)
    if task.sparse or not isinstance(order, str):
        try:
            return plans.make(task.graphs[False], order).of(source=plans.SYMBOLIC)
        except Exception:
            # No rule promises an answer for all sizes, but JAX's own modes do.
            if not isinstance(order, str):
                raise
    # A loop of unknown length can be differentiated forward only.
    names = tracing.primitive_names(task.traced.program.equations)
    forward = order == "forward" or ("while" in names and "custom_vjp_call" not in names)
    method = "jacfwd" if forward else "jacrev"
    return plans.by_mode(task.traced, task.differentiated, method).of(source=plans.SYMBOLIC)
