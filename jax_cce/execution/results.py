"""From the blocks of a Jacobian to the arrays and trees that a caller gets."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jax.tree_util import tree_unflatten

from jax_cce import jax_internals
from jax_cce.execution.emit import emit, emit_by_mode
from jax_cce.planning.plans import Plan
from jax_cce.program import calls
from jax_cce.program.calls import Call, Traced
from jax_cce.sparse.formats import Format
from jax_cce.sparse.structured import StructuredJacobian

__all__ = ["Wanted", "as_tree", "check_memory", "outputs_and_blocks", "zero_block"]


@dataclass(frozen=True)
class Wanted:
    """What is wanted of a task beside its order.

    Attributes:
        format: what each block is.
        value: whether the function's value is returned, too.
        symmetric: whether the Jacobian is known to be symmetric, as that of a gradient.
    """

    format: Format
    value: bool
    symmetric: bool = False


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
    if wanted > _SMALLEST_CHECKED and (limit := _device_memory() // 2) and wanted > limit:
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


def outputs_and_blocks(
    plan: Plan,
    num_values: int,
    avals: Sequence[Any],
    wanted: Wanted,
    constants: Sequence[Any],
    leaves: Any,
) -> tuple[list[Any], list[list[Any]]]:
    """The outputs, and for each value leaf the list of blocks over input leaves.

    Args:
        plan: the plan.
        num_values: how many outputs, from the first on, are differentiated.
        avals: the abstract value of each input leaf.
        wanted: what is wanted.
        constants: values of the program's constants.
        leaves: values of its inputs.
    """
    run = emit if plan.method == "elimination" else emit_by_mode
    outputs, nonzero = run(plan, constants, leaves)
    position = {name: index for index, name in enumerate(plan.graph.inputs)}
    rows = []
    for at, value in enumerate(outputs[:num_values]):
        row = []
        for name, aval in enumerate(avals):
            block = nonzero.get((at, position.get(name, -1)))
            if wanted.symmetric and at > name:
                # The derivatives of one gradient: what is below the diagonal repeats what is above.
                block = nonzero.get((name, position.get(at, -1)))
                block = block and block.T
            elif wanted.symmetric and at == name and block is not None:
                block = block.symmetric_part()
            if block is None:
                block = zero_block(np.shape(value), aval)
            row.append(wanted.format.inside(block.astype(aval.dtype), aval))
        rows.append(row)
    return outputs, rows


def zero_block(out_shape: Sequence[int], aval: Any) -> StructuredJacobian:
    """The Jacobian of an output that does not depend on an input."""
    return StructuredJacobian(out_shape, aval.shape, aval.dtype, (), ())


def as_tree(blocks: Sequence[Sequence[Any]], call: Call, value_tree: Any) -> Any:
    """The blocks in the tree of the output, each leaf replaced by the tree of the input."""
    single = calls.is_index(call.contract.argnums)
    rows = []
    for row in blocks:
        tree = tree_unflatten(call.tree, row)
        rows.append(tree[0] if single else tree)
    return tree_unflatten(value_tree, rows)
