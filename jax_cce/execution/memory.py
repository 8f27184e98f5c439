"""What is refused because no device could hold it, before anything is allocated."""

import math
import os
from collections.abc import Sequence
from typing import Any

import jax

from jax_cce import jax_internals
from jax_cce.planning import choosing
from jax_cce.planning.options import Options, OrderRequest
from jax_cce.planning.plans import Plan
from jax_cce.planning.task import Task
from jax_cce.program.calls import Contract, Traced
from jax_cce.sparse.formats import BCOO, FORMATS, Format

__all__ = ["check_memory", "check_plan"]


def check_memory(traced: Traced, avals: Sequence[Any], *, by_rows: bool = False) -> None:
    """Refuses a dense Jacobian that cannot reasonably be held, before anything is allocated.

    Args:
        traced: the function.
        avals: the abstract value of each input leaf.
        by_rows: whether `jax.jacrev` computes it in any format.
    """
    outputs = [traced.program.aval(atom) for atom in traced.program.outputs[: traced.num_values]]
    rows = sum(map(jax_internals.size, outputs))
    wanted = rows * sum(jax_internals.size(aval) * aval.dtype.itemsize for aval in avals)
    # A symbolic size is known to nobody yet.
    is_large = jax_internals.exceeds(wanted, _SMALLEST_CHECKED)
    if is_large and (limit := _device_memory() // 2) and jax_internals.exceeds(wanted, limit):
        shapes = ", ".join(str(aval.shape) for aval in outputs)
        wrt = ", ".join(str(aval.shape) for aval in avals)
        raise MemoryError(
            f"The dense Jacobian of outputs of shape {shapes} with respect to inputs of shape "
            f"{wrt} would take {wanted / 2**30:.3g} GiB, more than half of the device's memory "
            f"({2 * limit / 2**30:.3g} GiB). "
            + (
                "A custom_vjp whose pullback is not known to be linear in the cotangent has dense "
                "rows in every format."
                if by_rows
                else "Pass format='bcoo' or format='structured' to get only its nonzeros."
            )
        )


# Below this many bytes the device is not even asked.
_SMALLEST_CHECKED = 1 << 28


def _device_memory() -> int:
    """Bytes of memory of the default device; 0 where that is unknown."""
    device = jax.config.values.get("jax_default_device") or jax.local_devices()[0]
    stats = getattr(device, "memory_stats", lambda: None)() or {}
    if "bytes_limit" in stats:
        return stats["bytes_limit"]
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return 0


def check_plan(plan: Plan, task: Task, form: Format) -> None:
    """Refuses a plan that forms an array which cannot reasonably be held.

    Args:
        plan: the plan.
        task: what it is a plan of.
        form: the format of the result.

    Raises:
        MemoryError: it names the equation, and what would do without such an array.
    """
    size, origin = _largest(plan, form)
    if plan.method != "elimination" or not _is_too_large(size):
        return
    raise MemoryError(
        f"The Jacobian's program would form an array of {size / 2**30:.3g} GiB, more than half of "
        f"the device's memory ({_device_memory() / 2**30:.3g} GiB), for {origin}. "
        + _way_out(task, form)
    )


def _largest(plan: Plan, form: Format) -> tuple[Any, str]:
    """Bytes of the largest array that a plan forms, and what it is formed for."""
    graph = plan.graph
    avals = [graph.program.avals[name] for name in graph.inputs]
    numbers, origin = plan.largest
    size = numbers * max((aval.dtype.itemsize for aval in avals), default=4)
    if form is not BCOO:
        return size, origin
    for (output, name), block in plan.results.items():
        rank = len(graph.shapes[graph.outputs[output]]) + len(graph.shapes[graph.inputs[name]])
        indices = sum(math.prod(piece.term.sizes) for piece in block) * rank * _INDEX_BYTES
        if isinstance(indices, int) and indices > size:
            size, origin = indices, f"the indices of the entries of output {output}"
    return size, origin


_INDEX_BYTES = 4


def _is_too_large(size: Any) -> bool:
    # What a symbolic size will be is not known.
    if not isinstance(size, int) or size <= _SMALLEST_CHECKED:
        return False
    return 0 < _device_memory() // 2 < size


def _way_out(task: Task, asked: Format) -> str:
    """What to pass instead, found by planning it."""
    contract = Contract(holomorphic=task.holomorphic)
    for form in dict.fromkeys((asked, *FORMATS.values())):
        if asked.sparse and not form.sparse:
            continue
        other = Task(task.traced, Options(contract, OrderRequest(), form), task.name, task.batch)
        for order in ("auto",) if other.reverse_only else ("auto", "reverse", "forward"):
            plan = choosing.plan(other, OrderRequest(order))
            if not _is_too_large(_largest(plan, form)[0]):
                return f"With format={form.name!r} and order={order!r} there is none."
    return "No format and no order does without; jax.jvp and jax.vjp form no Jacobian."
