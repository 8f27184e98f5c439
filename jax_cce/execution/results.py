"""From the blocks of a Jacobian to the arrays and trees that a caller gets."""

import os
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.tree_util import tree_unflatten

from jax_cce import jax_internals
from jax_cce.execution.emit import emit, emit_by_mode
from jax_cce.planning.choosing import OrderRequest
from jax_cce.planning.plans import Plan
from jax_cce.program import calls
from jax_cce.program.calls import Call, Format, Traced
from jax_cce.sparse.structured import StructuredJacobian

__all__ = [
    "Options",
    "as_tree",
    "check_memory",
    "formatted",
    "outputs_and_blocks",
]


class Options(NamedTuple):
    """What is asked of a traced function."""

    wish: OrderRequest
    holomorphic: bool
    format: Format
    value: bool
    symmetric: bool = False


def check_memory(traced: Traced, avals: Sequence[Any]) -> None:
    """Refuses a dense Jacobian that cannot reasonably be held, before anything is allocated."""
    outputs = [traced.program.aval(atom) for atom in traced.program.outputs[: traced.num_values]]
    rows = sum(map(jax_internals.size, outputs))
    wanted = rows * sum(jax_internals.size(aval) * aval.dtype.itemsize for aval in avals)
    if wanted > _SMALLEST_CHECKED and (limit := _device_memory() // 2) and wanted > limit:
        shapes = ", ".join(str(aval.shape) for aval in outputs)
        wrt = ", ".join(str(aval.shape) for aval in avals)
        raise MemoryError(
            f"The dense Jacobian of outputs of shape {shapes} with respect to inputs of shape "
            f"{wrt} would take {wanted / 2**30:.3g} GiB, more than half of the device's memory "
            f"({2 * limit / 2**30:.3g} GiB). Pass format='bcoo' or format='structured' to get "
            "only its nonzeros."
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


def outputs_and_blocks(
    traced: Traced,
    avals: Sequence[Any],
    made: Plan,
    how: Options,
    constants: Sequence[Any],
    leaves: Any,
) -> tuple[list[Any], list[list[Any]]]:
    """The outputs, and for each value leaf the list of blocks over input leaves."""
    run = emit if made.method == "elimination" else emit_by_mode
    outputs, found = run(made, constants, leaves)
    position = {name: index for index, name in enumerate(made.graph.inputs)}
    rows = []
    for at, value in enumerate(outputs[: traced.num_values]):
        row = []
        for name, aval in enumerate(avals):
            block = found.get((at, position.get(name, -1)))
            if how.symmetric and at > name:
                # The derivatives of one gradient: what is below the diagonal repeats what is above.
                block = found.get((name, position.get(at, -1)))
                block = block and block.T
            elif how.symmetric and at == name and block is not None:
                block = block.symmetric_part()
            if block is None:
                block = StructuredJacobian(np.shape(value), aval.shape, aval.dtype, (), ())
            row.append(formatted(block.astype(aval.dtype), aval, how.format))
        rows.append(row)
    return outputs, rows


def formatted(block: StructuredJacobian, aval: Any, format: Format) -> Any:
    """A block as an array, as sorted coordinates, or as it is."""
    if format == "structured":
        return block
    if format == "bcoo":
        return block.coordinates()
    array = jax_internals.sharded_like(block.todense(), aval)
    return jax_internals.convert(array, aval.dtype, bool(getattr(aval, "weak_type", False)))


def as_tree(blocks: Sequence[Sequence[Any]], call: Call, value_tree: Any) -> Any:
    """The blocks in the tree of the output, each leaf replaced by the tree of the input."""
    single = calls.is_index(call.argnums)
    rows = []
    for row in blocks:
        tree = tree_unflatten(call.tree, row)
        rows.append(tree[0] if single else tree)
    return tree_unflatten(value_tree, rows)
