"""JAX's own modes with fewer arrays at a time: columns or rows in chunks, and scans run again.

Forward mode needs arrays for each column that it pushes forward; reverse mode keeps what the
function computes until all rows are pulled back. In chunks, a loop fills the Jacobian in place, a
few columns or rows in each round. Where a scan keeps much for the way back, only states at the
bounds of segments are kept, and each segment is run again when the way back comes to it: with
segments of segments, `levels` deep, about `levels * steps**(1 / levels)` states are alive at a
time, for `levels` further evaluations.

Source: A. Griewank, "Achieving logarithmic growth of temporal and spatial complexity in reverse
automatic differentiation", Optimization Methods and Software 1 (1992).
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax import lax
from jax import numpy as jnp
from jax.extend import core as jex_core

from jax_cce import jax_internals
from jax_cce.program import flat, passes
from jax_cce.program.flat import Equation, Program

__all__ = ["by_columns", "by_rows", "evaluate", "runs_again"]

# From the differentiated inputs to the outputs whose Jacobian is wanted, and to all outputs.
_Function = Callable[..., tuple[Any, Any]]


def by_columns(function: _Function, primals: Sequence[Any], chunk: int) -> tuple[list[Any], Any]:
    """What `jax.jacfwd(function, has_aux=True)` gives for all of its arguments.

    Args:
        function: the function.
        primals: where it is differentiated.
        chunk: how many columns are pushed forward at a time.
    """
    chosen, outputs = function(*primals)
    columns = []
    for k, primal in enumerate(primals):

        def push(seed: Any, k: int = k) -> Any:
            def along(x: Any) -> Any:
                return function(*primals[:k], x, *primals[k + 1 :])[0]

            return jax.jvp(along, (primals[k],), (seed,))[1]

        columns.append(_filled(push, primal, chosen, chunk, last=True))
    return [list(row) for row in zip(*columns, strict=True)], outputs


def by_rows(function: _Function, primals: Sequence[Any], chunk: int) -> tuple[Any, Any]:
    """What `jax.jacrev(function, has_aux=True)` gives for all of its arguments.

    Args:
        function: the function.
        primals: where it is differentiated.
        chunk: how many rows are pulled back at a time.
    """
    chosen, pullback, outputs = jax.vjp(function, *primals, has_aux=True)
    leaves, tree = jax.tree.flatten(chosen)
    zeros = list(map(jnp.zeros_like, leaves))
    rows = []
    for k, leaf in enumerate(leaves):

        def pull(seed: Any, k: int = k) -> list[Any]:
            seeds = [*zeros[:k], seed, *zeros[k + 1 :]]
            return list(pullback(jax.tree.unflatten(tree, seeds)))

        rows.append(_filled(pull, leaf, primals, chunk, last=False))
    return jax.tree.unflatten(tree, rows), outputs


def _filled(
    linear: Callable[[Any], Any], near: Any, far: Sequence[Any], chunk: int, *, last: bool
) -> list[Any]:
    """A linear map applied to all unit vectors, a few at a time: an array for each result.

    Args:
        linear: from an array like `near` to arrays like those of `far`.
        near: an array.
        far: arrays.
        chunk: how many unit vectors are alive at a time.
        last: whether unit vectors count along the last axes of the results.
    """
    shape, size = np.shape(near), np.size(near)
    width = max(min(chunk, size), 1)

    def images(start: Any) -> Any:
        own = lax.broadcasted_iota(np.int32, (width, size), 0) + start
        at = lax.broadcasted_iota(np.int32, (width, size), 1)
        seeds = lax.convert_element_type(own == at, jnp.result_type(near))
        return jax.vmap(linear, out_axes=-1 if last else 0)(lax.reshape(seeds, (width, *shape)))

    def round_of(k: Any, blocks: list[Any]) -> list[Any]:
        # The last round begins sooner, where it would not be full, and repeats some.
        start = lax.min(lax.convert_element_type(k, np.int32) * width, np.int32(size - width))
        return [
            lax.dynamic_update_slice_in_dim(block, image, start, image.ndim - 1 if last else 0)
            for block, image in zip(blocks, images(start), strict=True)
        ]

    shapes = [(*x.shape, size) if last else (size, *x.shape) for x in far]
    if not size:
        types = jax.eval_shape(lambda: linear(lax.full_like(near, 0)))
    else:
        types = jax.eval_shape(images, 0)
    blocks = [lax.full(full, 0, each.dtype) for full, each in zip(shapes, types, strict=True)]
    if size:
        blocks = lax.fori_loop(0, -(-size // width), round_of, blocks)
    return [
        lax.reshape(block, (*x.shape, *shape) if last else (*shape, *x.shape))
        for block, x in zip(blocks, far, strict=True)
    ]


def runs_again(program: Program) -> bool:
    """Whether there are scans of which segments can be run again."""
    return any(map(_is_scan, program.equations))


def _is_scan(equation: Equation) -> bool:
    if equation.name != "scan" or equation.origin.effects:
        return False
    length = equation.params["length"]
    return isinstance(length, int) and length > 1


def evaluate(
    program: Program, constants: Sequence[Any], inputs: Sequence[Any], levels: int
) -> list[Any]:
    """Runs a program whose scans are run again, segment by segment, where they are pulled back.

    Args:
        program: the program.
        constants: values of its constants.
        inputs: values of its inputs.
        levels: how deep segments are nested; 0 for scans as they are.
    """
    if not levels:
        return passes.evaluate(program, constants, inputs)

    def applied(_: int, equation: Equation, operands: list[Any]) -> Sequence[Any]:
        if not _is_scan(equation):
            return jax_internals.bind(equation, operands)
        with jax_internals.context_of(equation):
            return _scanned(equation, operands, levels)

    values = passes.values(program, constants, inputs)
    passes.fill(values, program.equations, applied)
    return [flat.read(values, atom) for atom in program.outputs]


def _scanned(equation: Equation, operands: Sequence[Any], levels: int) -> Sequence[Any]:
    """The results of a scan."""
    consts, carry = jax_internals.scan_counts(equation)
    body = jex_core.jaxpr_as_fun(equation.params["jaxpr"])
    fixed, start, slices = operands[:consts], operands[consts:][:carry], operands[consts + carry :]

    def step(state: Any, each: Any) -> tuple[list[Any], list[Any]]:
        results = body(*fixed, *state, *each)
        return results[:carry], results[carry:]

    length, reverse = equation.params["length"], equation.params["reverse"]
    state, stacks = _by_segments(step, list(start), list(slices), length, reverse, levels)
    return [*state, *stacks]


def _by_segments(
    step: Callable[[Any, Any], Any],
    state: Any,
    slices: Any,
    length: int,
    reverse: bool,
    levels: int,
) -> tuple[Any, Any]:
    """`lax.scan` that keeps for the way back the states at which segments begin."""
    width = _width(length, levels)
    if width == 1:
        return lax.scan(_kept_at_start(step), state, slices, length, reverse)

    def segment(state: Any, each: Any, steps: int = width) -> tuple[Any, Any]:
        return _by_segments(step, state, each, steps, reverse, levels - 1)

    count, rest = divmod(length, width)
    # The rest comes last as time goes.
    parts = (
        [slice(rest, length), slice(0, rest)]
        if reverse
        else [slice(length - rest), slice(length - rest, length)]
    )
    whole, left = ([x[part] for x in slices] for part in parts)
    whole = [lax.reshape(x, (count, width, *x.shape[1:])) for x in whole]
    state, stacks = lax.scan(_kept_at_start(segment), state, whole, count, reverse)
    stacks = [lax.reshape(x, (count * width, *x.shape[2:])) for x in stacks]
    if rest:
        state, ends = segment(state, left, rest)
        pairs = [(e, s) if reverse else (s, e) for s, e in zip(stacks, ends, strict=True)]
        stacks = [lax.concatenate(pair, 0) for pair in pairs]
    return state, stacks


def _kept_at_start(step: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    """A step of a scan of which only its operands are kept for the way back."""
    # The loops of a scan and of its way back are apart as it is: no barrier is needed.
    return jax.checkpoint(step, prevent_cse=False)


def _width(length: int, levels: int) -> int:
    """How many steps a segment has: one that leaves no rest, if there is any of about that size."""
    wanted = round(length ** ((levels - 1) / levels))
    near = [k for k in range(max(wanted // 2, 2), 2 * wanted + 1) if length % k == 0]
    return min(near, key=lambda k: abs(k - wanted), default=wanted) if wanted > 1 else 1
