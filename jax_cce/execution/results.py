"""From the blocks of a Jacobian to the arrays and trees that a caller gets."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
from jax import lax
from jax.tree_util import tree_unflatten

from jax_cce import jax_internals
from jax_cce.execution.emit import emit, emit_by_mode
from jax_cce.planning.plans import Plan
from jax_cce.program import calls
from jax_cce.program.calls import Call, Contract, Traced
from jax_cce.sparse.formats import Format
from jax_cce.sparse.structured import StructuredJacobian

__all__ = [
    "Wanted",
    "as_tree",
    "leaves_of",
    "outputs_and_blocks",
    "rows_of",
    "types_of",
    "values_of",
    "zero_block",
]


@dataclass(frozen=True)
class Wanted:
    """What is wanted of a task beside its order.

    Attributes:
        format: what each block is.
        value: whether the function's value is returned, too.
        symmetric: whether the Jacobian is known to be symmetric, as that of a gradient.
        values: the abstract value of each leaf of the function's value where blocks have its dtype
            and weak type, as `jax.jacfwd` has them; None where they have those of the inputs.
        lower: whether the Jacobian is that of a gradient, and only its lower triangle is wanted, in
            a sparse format.
    """

    format: Format
    value: bool
    symmetric: bool = False
    values: tuple[Any, ...] | None = None
    lower: bool = False


def values_of(values: tuple[Any, ...], contract: Contract) -> tuple[Any, ...] | None:
    """The abstract values whose dtypes blocks have; None where they have those of the inputs."""
    is_complex = any(map(jax_internals.is_complex, values))
    return values if contract.forward or (is_complex and not contract.holomorphic) else None


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
    if not plan.is_symbolic or plan.remark:
        return _computed(plan, num_values, avals, wanted, constants, leaves)
    # No rule promises to write what is right for all sizes, but a mode of JAX may.
    failure: Exception | None = None
    for method in dict.fromkeys((plan.method, "jacrev", "jacfwd")):
        try:
            return _computed(plan.of(method=method), num_values, avals, wanted, constants, leaves)
        except Exception as error:
            failure = error if method != "jacfwd" else failure or error
    assert failure is not None
    raise failure


def _computed(
    plan: Plan,
    num_values: int,
    avals: Sequence[Any],
    wanted: Wanted,
    constants: Sequence[Any],
    leaves: Any,
) -> tuple[list[Any], list[list[Any]]]:
    run = emit if plan.method == "elimination" else emit_by_mode
    outputs, nonzero = run(plan, constants, leaves)
    position = {name: index for index, name in enumerate(plan.graph.inputs)}
    blocks: Blocks = {
        (at, name): nonzero.get((at, k)) for at in range(num_values) for name, k in position.items()
    }
    if wanted.symmetric and wanted.values is not None and len(wanted.values) == num_values:
        with jax_internals.in_automatic_axes(jax_internals.explicit_mesh(avals)):
            blocks = symmetrical(blocks)
    if plan.is_symbolic and plan.method == "elimination":
        for block in blocks.values():
            if block is not None:
                jax.eval_shape(block.todense)  # that whoever gets terms can read them
    program = plan.graph.program
    shapes = [program.aval(atom) for atom in program.outputs[:num_values]]
    rows = rows_of(shapes, blocks, avals, wanted)
    return [*leaves_of(outputs[:num_values], shapes, wanted), *outputs[num_values:]], rows


Blocks = Mapping[tuple[int, int], StructuredJacobian | None]


def types_of(traced: Traced, avals: Sequence[Any], wanted: Wanted) -> Any:
    """The types of the outputs and blocks of any plan of a function, in their tree.

    Args:
        traced: the function.
        avals: the abstract value of each input leaf.
        wanted: what is wanted, in a dense format.
    """
    program, first = traced.program, traced.num_values
    shapes = [program.aval(atom) for atom in program.outputs]

    def typed(*outputs: Any) -> Any:
        rows = rows_of(shapes[:first], {}, avals, wanted)
        leaves = leaves_of(outputs[:first], shapes[:first], wanted) if wanted.value else []
        return [*leaves, *outputs[first:]], rows

    closed, tree = jax.make_jaxpr(typed, return_shape=True)(*map(jax_internals.abstract, shapes))
    return jax.tree.unflatten(jax.tree.structure(tree), closed.out_avals)


def _places(types: Sequence[Any], wanted: Wanted) -> list[tuple[Any, tuple[int, ...]]]:
    """For each leaf of a function's value its type and the outputs that it is made of.

    A complex one may be taken apart into its real and its imaginary part.
    """
    if wanted.values is None:
        return [(aval, (at,)) for at, aval in enumerate(types)]
    places: list[tuple[Any, tuple[int, ...]]] = []
    at = 0
    for leaf in wanted.values:
        is_apart = jax_internals.is_complex(leaf) and not jax_internals.is_complex(types[at])
        places.append((leaf, (at, at + 1) if is_apart else (at,)))
        at += 1 + is_apart
    return places


def leaves_of(outputs: Sequence[Any], types: Sequence[Any], wanted: Wanted) -> list[Any]:
    """The leaves of a function's value, from the differentiated outputs and their types."""
    return [
        outputs[parts[0]] if len(parts) == 1 else lax.complex(*(outputs[k] for k in parts))
        for _, parts in _places(types, wanted)
    ]


def rows_of(
    types: Sequence[Any], blocks: Blocks, avals: Sequence[Any], wanted: Wanted
) -> list[list[Any]]:
    """For each leaf of a function's value the blocks over input leaves.

    Args:
        types: the abstract values of the differentiated outputs.
        blocks: the blocks of each with respect to each input; a missing one is zero.
        avals: the abstract value of each input leaf.
        wanted: what is wanted.
    """
    rows: list[list[Any]] = []
    mesh = jax_internals.explicit_mesh([*avals, *types])
    for at, (leaf, parts) in enumerate(_places(types, wanted)):
        row = []
        for name, aval in enumerate(avals):
            own = aval if wanted.values is None else leaf
            found = [blocks.get((k, name)) for k in parts]
            # Of several scalars there is a gradient for each.
            above = name - at % len(avals) if wanted.lower else -1
            if above > 0 or all(block is None for block in found):
                block = zero_block(leaf.shape, aval, own)
            else:
                each = [zero_block(leaf.shape, aval, aval) if b is None else b for b in found]
                block = each[0] if len(each) == 1 else StructuredJacobian.of_parts(*each)
                with jax_internals.in_automatic_axes(mesh):
                    block = block.astype(own.dtype, own.weak_type)
            if above == 0:
                with jax_internals.in_automatic_axes(mesh):
                    block = block.lower_triangle()
            row.append(wanted.format.made(block, leaf, aval, mesh))
        rows.append(row)
    return rows


def symmetrical(blocks: Blocks) -> Blocks:
    """Blocks of a gradient: what is below the diagonal repeats what is above."""
    below = {
        (name, at): None if block is None else block.T
        for (at, name), block in blocks.items()
        if at < name
    }
    own = {
        (at, name): None if block is None else block.symmetric_part()
        for (at, name), block in blocks.items()
        if at == name
    }
    return {**blocks, **below, **own}


def zero_block(out_shape: Sequence[int], aval: Any, own: Any) -> StructuredJacobian:
    """The Jacobian of an output that does not depend on an input, of the type of `own`."""
    return StructuredJacobian(out_shape, aval.shape, own.dtype, (), (), own.weak_type)


def as_tree(blocks: Sequence[Sequence[Any]], call: Call, value_tree: Any) -> Any:
    """The blocks in the tree of the output, each leaf replaced by the tree of the input."""
    single = calls.is_index(call.contract.argnums)
    rows = []
    for row in blocks:
        tree = tree_unflatten(call.tree, row)
        rows.append(tree[0] if single else tree)
    return tree_unflatten(value_tree, rows)
