"""Convolutions and window sums by terms: one for each tap of the kernel or window."""

import functools
import itertools
import math
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from jax_cce.algebra.solving import solve
from jax_cce.algebra.terms import Affine, Term, Unrepresentable
from jax_cce.program.flat import Equation
from jax_cce.rules.definers import sparse
from jax_cce.rules.local import LocalJacobian, LocalTerm, Primals, along, local_term

__all__ = [
    "convolution",
    "window_sum",
]

# Convolutions with larger kernels, and longer cumulative operations, stay linear operators.
_MOST_TAPS = 128


def _taps(
    size: int, window: int, out: int, stride: int, low: int, dilation: int, base: int
) -> list[tuple[int, Affine, Affine, int]]:
    """Along one axis: for each tap the outputs and inputs that it joins, over one loop.

    Returns:
        (tap, output position, input position, number of positions) of the taps that meet at all.
    """
    joined = []
    for tap in range(window):
        # output * stride + tap * dilation - low = input * base
        if not out or not size:
            continue
        box = Term((out, size), (), (), None)
        solution = solve(box, tap * dilation - low, {0: stride, 1: -base})
        if solution is not None:
            (output, source), count = solution
            joined.append((tap, output, source, count))
    return joined


def convolution(equation: Equation, active: tuple[bool, ...]) -> LocalJacobian:
    """A convolution: one term for each tap of the kernel."""
    params = equation.params
    numbers = params["dimension_numbers"]
    groups = params["feature_group_count"]
    if params["batch_group_count"] != 1 or any(
        jnp.issubdtype(aval.dtype, np.complexfloating) for aval in equation.in_avals
    ):
        raise Unrepresentable("a convolution with batch groups")
    image, kernel = (aval.shape for aval in equation.in_avals)
    result = equation.out_avals[0].shape
    lhs, rhs, out = numbers.lhs_spec, numbers.rhs_spec, numbers.out_spec
    rank = len(image) - 2
    if math.prod(kernel[axis] for axis in rhs[2:]) > _MOST_TAPS:
        raise Unrepresentable("a large kernel")
    each = [
        _taps(
            image[lhs[2 + k]],
            kernel[rhs[2 + k]],
            result[out[2 + k]],
            params["window_strides"][k],
            params["padding"][k][0],
            params["rhs_dilation"][k],
            params["lhs_dilation"][k],
        )
        for k in range(rank)
    ]
    # Loops: batch, group, output feature in it, input feature in it, then space.
    features, inputs = kernel[rhs[0]] // groups, kernel[rhs[1]]
    edges: dict[tuple[int, int], tuple[LocalTerm, ...]] = {}
    for taps in itertools.product(*each):
        sizes = (image[lhs[0]], groups, features, inputs, *(count for *_, count in taps))
        space = [
            (_moved(output, 4 + k), _moved(source, 4 + k))
            for k, (_, output, source, _) in enumerate(taps)
        ]
        at_out: list[Affine] = [Affine(0, ())] * (rank + 2)
        at_image, at_kernel = list(at_out), list(at_out)
        at_out[out[0]], at_image[lhs[0]] = along(0), along(0)
        at_out[out[1]] = Affine(0, ((1, features), (2, 1)))
        at_image[lhs[1]] = Affine(0, ((1, inputs), (3, 1)))
        at_kernel[rhs[0]], at_kernel[rhs[1]] = at_out[out[1]], along(3)
        for k, (output, source) in enumerate(space):
            at_out[out[2 + k]], at_image[lhs[2 + k]] = output, source
            at_kernel[rhs[2 + k]] = Affine(taps[k][0], ())
        if active[0]:
            value = functools.partial(_at, 1, tuple(at_kernel), sizes, (1, 2, 3))
            term = Term(sizes, tuple(at_out), tuple(at_image), (1, 2, 3))
            edges[0, 0] = edges.get((0, 0), ()) + local_term(term, 1, value)
        if active[1]:
            axes = (0, 1, 3, *range(4, 4 + rank))
            value = functools.partial(_at, 0, tuple(at_image), sizes, axes)
            term = Term(sizes, tuple(at_out), tuple(at_kernel), axes)
            edges[1, 0] = edges.get((1, 0), ()) + local_term(term, 1, value)
    return LocalJacobian({key: block for key, block in edges.items() if block})


def _moved(affine: Affine, loop: int) -> Affine:
    return Affine(affine.offset, tuple((loop, stride) for _, stride in affine.strides))


def _at(
    operand: int,
    maps: Sequence[Affine],
    sizes: Sequence[int],
    axes: Sequence[int],
    primals: Primals,
) -> Any:
    """An operand at affine positions, as an array over some loops."""
    x = primals.ins[operand]
    at = []
    for affine in maps:
        position: Any = np.full((1,) * len(axes), affine.offset)
        for loop, stride in affine.strides:
            shape = [sizes[k] if k == loop else 1 for k in axes]
            position = position + stride * np.arange(sizes[loop]).reshape(shape)
        at.append(position)
    return jnp.broadcast_to(x[tuple(at)], tuple(sizes[k] for k in axes))


def window_sum(equation: Equation, active: tuple[bool, ...]) -> LocalJacobian:
    """A sum over windows: one static term for each place in the window."""
    params = equation.params
    shape, result = equation.in_avals[0].shape, equation.out_avals[0].shape
    if math.prod(params["window_dimensions"]) > _MOST_TAPS:
        raise Unrepresentable("a large window")
    each = [
        _taps(size, window, out, stride, padding[0], dilation, base)
        for size, window, out, stride, padding, dilation, base in zip(
            shape,
            params["window_dimensions"],
            result,
            params["window_strides"],
            params["padding"],
            params["window_dilation"],
            params["base_dilation"],
            strict=True,
        )
    ]
    block: tuple[LocalTerm, ...] = ()
    for taps in itertools.product(*each):
        sizes = tuple(count for *_, count in taps)
        out = tuple(_moved(output, k) for k, (_, output, _, _) in enumerate(taps))
        inn = tuple(_moved(source, k) for k, (_, _, source, _) in enumerate(taps))
        block += local_term(Term(sizes, out, inn, None))
    return LocalJacobian({(0, 0): block} if block else {})


sparse("conv_general_dilated", convolution)
sparse("reduce_window_sum", window_sum)
