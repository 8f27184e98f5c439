"""The run-time half of the structure algebra: coefficient arrays, in plain `jax.lax`.

Static structure says *which* entries meet (`jax_cce.algebra.terms`); the functions here carry that
out on arrays. No index array or identity matrix is ever baked in as a constant: positions come
from slices, pads, reshapes and iota.

A coefficient of boolean dtype is a mask: multiplying by it selects, so that a masked infinite or
NaN partial contributes zero, as the branch that was not taken should.
"""

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax

from jax_cce import jax_internals
from jax_cce.algebra import index_arrays
from jax_cce.algebra.composition import Product
from jax_cce.algebra.dtypes import promoted
from jax_cce.algebra.index_arrays import Table
from jax_cce.algebra.symbols import Read, Symbol, sourced
from jax_cce.algebra.terms import Affine, linear

__all__ = [
    "NO_SYMBOLS",
    "Symbols",
    "align",
    "array_of",
    "digits",
    "flat_index",
    "loops_read",
    "multiply",
    "number",
    "promote",
    "scaled",
    "symbol_values",
    "take",
]


def array_of(table: Any, slots: Mapping[int, Any], xp: Any) -> Any:
    """The values of an index array: a static one's, or those in its slot."""
    return xp.asarray(table.values) if isinstance(table, Table) else slots[table]


# For each symbol of some maps the loops of its axes, ascending, and its values.
Symbols = Mapping[int, tuple[tuple[int, ...], Any]]

NO_SYMBOLS: Symbols = {}


def promote(*arrays: Any) -> list[Any]:
    """Arrays in their common dtype; a mask takes the dtype of the others."""
    if len({array.dtype for array in arrays}) == 1:
        return list(arrays)
    dtype = promoted(*(array.dtype for array in arrays))
    return [jax_internals.convert(array, dtype) for array in arrays]


def number(scale: complex, dtype: Any) -> Any:
    """A static coefficient as an array, of the given dtype where that holds it."""
    held = promoted(dtype, np.complex64) if isinstance(scale, complex) else dtype
    return jax_internals.full((), scale, held)


def scaled(x: Any, scale: complex, dtype: Any) -> Any:
    """The product scale * x, where a mask first becomes numbers of the given dtype."""
    if x.dtype == np.bool_:
        x = jax_internals.convert(x, dtype)
    if scale == 1:
        return x
    if scale == -1:
        return lax.neg(x)
    if isinstance(scale, complex) and not jnp.issubdtype(x.dtype, np.complexfloating):
        x = jax_internals.convert(x, promoted(x.dtype, np.complex64))
    return lax.mul(x, jax_internals.number_like(x, scale))


def align(x: Any, axes: Sequence[int], target: Sequence[int], sizes: Sequence[int]) -> Any:
    """`x`, whose axes are the given loops, broadcast to the target loops (a superset)."""
    if tuple(axes) == tuple(target):
        return x
    shape = tuple(sizes[loop] for loop in target)
    if not shape:
        return x
    order = sorted(range(len(axes)), key=lambda position: target.index(axes[position]))
    if order != list(range(len(order))):
        x = lax.transpose(x, order)
    return lax.broadcast_in_dim(x, shape, [target.index(axes[position]) for position in order])


def digits(strides: Sequence[tuple[int, int]], sizes: Sequence[int]) -> list[int] | None:
    """The loops of an affine map from slow to fast if they are the digits of one range."""
    if any(variable < 0 for variable, _ in strides):
        return None
    ordered = sorted(strides, key=lambda item: -abs(item[1]))
    for (_, slow), (fast_loop, fast) in itertools.pairwise(ordered):
        if slow != fast * sizes[fast_loop]:
            return None
    return [loop for loop, _ in ordered]


def take(
    x: Any, maps: Sequence[Affine], sizes: Sequence[int], symbols: Symbols
) -> tuple[Any, list[int]]:
    """Re-indexes each axis of `x` by an affine map of joint loops.

    Returns:
        The array and the loop of each of its axes, all different.
    """
    labels: list[int] = []
    starts, limits, steps, reversed_axes, shape, squeezed = [], [], [], [], [], []
    for axis, affine in enumerate(maps):
        loops = digits(affine.strides, sizes)
        if loops is None or any(loop in labels or loop < 0 for loop in loops):
            return _gather(x, maps, sizes, symbols)
        labels += loops
        count = math.prod(sizes[loop] for loop in loops)
        step = min((stride for _, stride in affine.strides), key=abs, default=1)
        first = affine.offset if step > 0 else affine.offset + step * (count - 1)
        starts.append(first)
        limits.append(first + abs(step) * (count - 1) + 1)
        steps.append(abs(step))
        if step < 0:
            reversed_axes.append(axis)
        if not loops:
            squeezed.append(axis)
        shape += [sizes[loop] for loop in loops]
    if any(starts) or tuple(limits) != x.shape or any(step != 1 for step in steps):
        x = lax.slice(x, starts, limits, steps)
    if reversed_axes:
        x = lax.rev(x, reversed_axes)
    if squeezed:
        x = lax.squeeze(x, squeezed)
    if x.shape != tuple(shape):
        x = lax.reshape(x, shape)
    return x, labels


def _gather(
    x: Any, maps: Sequence[Affine], sizes: Sequence[int], symbols: Symbols
) -> tuple[Any, list[int]]:
    """`take` for maps that overlap or share loops, such as a diagonal, or that have lookups."""
    apart = _apart(maps, sizes, symbols) if jax_internals.is_shared_out() else []
    if apart:
        return _gather_along(x, maps, sizes, symbols, apart)
    labels = sorted(loops_read(maps, symbols))
    flat = flat_index(maps, x.shape, labels, sizes, symbols)
    values = (
        lax.reshape(x, (x.size,)).at[lax.reshape(flat, (flat.size,))].get(mode="promise_in_bounds")
    )
    return lax.reshape(values, flat.shape), labels


def _apart(maps: Sequence[Affine], sizes: Sequence[int], symbols: Symbols) -> list[int]:
    """The axes whose maps run along loops that no other map reads."""
    found = []
    for axis, affine in enumerate(maps):
        others = loops_read([*maps[:axis], *maps[axis + 1 :]], symbols)
        loops = digits(affine.strides, sizes)
        if loops and others.isdisjoint(loops):
            found.append(axis)
    return found


def _gather_along(
    x: Any, maps: Sequence[Affine], sizes: Sequence[int], symbols: Symbols, apart: Sequence[int]
) -> tuple[Any, list[int]]:
    """`_gather` along the other axes than some, which devices may share and keep to themselves."""
    rest = [axis for axis in range(x.ndim) if axis not in apart]
    shape = [x.shape[axis] for axis in rest]
    x = lax.transpose(x, (*apart, *rest))
    x = lax.reshape(x, (*x.shape[: len(apart)], math.prod(shape)))
    kept = Affine(0, ((len(sizes), 1),))
    x, labels = take(x, [*(maps[k] for k in apart), kept], [*sizes, math.prod(shape)], symbols)
    others = [maps[axis] for axis in rest]
    read = sorted(loops_read(others, symbols))
    flat = flat_index(others, shape, read, sizes, symbols)
    values = x.at[..., lax.reshape(flat, (flat.size,))].get(mode="promise_in_bounds")
    return lax.reshape(values, (*x.shape[:-1], *flat.shape)), [*labels[:-1], *read]


def loops_read(maps: Sequence[Affine], symbols: Symbols) -> set[int]:
    """The loops that some maps depend on, through symbols too."""
    variables = {variable for affine in maps for variable, _ in affine.strides}
    return {
        loop
        for variable in variables
        for loop in ((variable,) if variable >= 0 else symbols[variable][0])
    }


def flat_index(
    maps: Sequence[Affine],
    shape: Sequence[int],
    loops: Sequence[int],
    sizes: Sequence[int],
    symbols: Symbols,
    xp: Any = jnp,
) -> Any:
    """The row-major position in an array of `shape`, for every point of the loops.

    `xp` is NumPy where all symbols are static.
    """
    offset, strides = linear(maps, shape)
    extents = {**dict(enumerate(sizes)), **dict.fromkeys(symbols, math.prod(shape))}
    return index_arrays.evaluate(offset, list(strides.items()), loops, extents, symbols, xp)


def symbol_values(
    symbol: Symbol,
    sizes: Sequence[int],
    symbols: Sequence[Symbol],
    tables: Iterable[tuple[int, Any]],
    slots: Mapping[int, Any],
    xp: Any = jnp,
) -> Any:
    """The values of a symbol at all points of the loops that it depends on.

    Args:
        symbol: the symbol.
        sizes: sizes of the joint loops.
        symbols: all symbols of the product.
        tables: for each variable that the symbol reads its values: a static table, or a slot.
        slots: the arrays in slots.
        xp: NumPy where all of these are static.
    """
    known = {
        variable: (symbols[-1 - variable].axes, array_of(table, slots, xp))
        for variable, table in tables
    }
    source = symbol.source
    extents = {**dict(enumerate(sizes)), **dict.fromkeys(known, 1)}
    positions = [
        index_arrays.evaluate(m.offset, m.strides, symbol.axes, extents, known, xp)
        for m in source.maps
    ]
    table = array_of(source.table, slots, xp) if isinstance(source, Read) else None
    return sourced(source, positions, table, xp)


def _guarded(product: Product, symbols: Symbols) -> tuple[Any, list[int]]:
    """Where the entries of a product exist: a mask, and the loop of each of its axes."""
    sizes = dict(enumerate(product.sizes)) | {-1 - k: s.size for k, s in enumerate(product.symbols)}
    maps = [guard.position for guard in product.guards]
    labels = sorted(loops_read(maps, symbols))
    mask = None
    for guard, position in zip(product.guards, maps, strict=True):
        values = index_arrays.evaluate(
            position.offset, position.strides, labels, sizes, symbols, jnp
        )
        here = jnp.logical_and(values >= guard.low, values <= guard.high)
        mask = here if mask is None else lax.bitwise_and(mask, here)
    return mask, labels


def _reduce(x: Any, labels: list[int], drop: set[int]) -> tuple[Any, list[int]]:
    axes = tuple(axis for axis, loop in enumerate(labels) if loop in drop)
    if not axes:
        return x, labels
    return lax.reduce_sum(x, axes), [loop for loop in labels if loop not in drop]


def multiply(
    product: Product, later: Any, earlier: Any, dtype: Any, symbols: Symbols = NO_SYMBOLS
) -> Any:
    """The coefficient of a composed term from its factors' coefficients.

    Args:
        product: what `composition.compose` returned.
        later: the later factor's coefficient array, or None where it is static.
        earlier: the earlier factor's.
        dtype: what a mask becomes where it is summed.
        symbols: values of the product's symbols.

    Returns:
        The array over `product.term.axes`. Static factors and `product.multiplicity` are not
        included; they belong to the term's scale.
    """
    own = len(product.term.sizes)
    sizes, target = product.sizes, product.term.axes or ()
    factors = []
    for array, maps in ((later, product.later), (earlier, product.earlier)):
        if maps is not None:
            if maps:
                factors.append(take(array, maps, sizes, symbols))
            else:
                factors.append((array, []))
    if product.guards:
        factors = _masked(factors, *_guarded(product, symbols), sizes)
    contracted = {loop for _, labels in factors for loop in labels if loop >= own}
    if contracted:
        factors = [
            (jax_internals.convert(x, dtype) if x.dtype == np.bool_ else x, labels)
            for x, labels in factors
        ]
    if len(factors) == 1:
        x, labels = _reduce(*factors[0], contracted)
        return align(x, labels, target, sizes)
    (x, x_labels), (y, y_labels) = factors
    x, x_labels = _reduce(x, x_labels, contracted - set(y_labels))
    y, y_labels = _reduce(y, y_labels, contracted - set(x_labels))
    is_outer = not (set(x_labels) <= set(y_labels) or set(y_labels) <= set(x_labels))
    is_outer &= np.bool_ not in (x.dtype, y.dtype)
    # Of a contraction devices exchange the factors, of a product of broadcasts all of these.
    if contracted & set(x_labels) or (is_outer and jax_internals.is_shared_out()):
        return _contract(x, x_labels, y, y_labels, contracted, target)
    if y.dtype == np.bool_ and x.dtype != np.bool_:
        x, x_labels, y, y_labels = y, y_labels, x, x_labels
    y = align(y, y_labels, target, sizes)
    x = align(x, x_labels, target, sizes)
    if x.dtype == np.bool_:
        return (
            lax.bitwise_and(x, y) if y.dtype == np.bool_ else lax.select(x, y, lax.full_like(y, 0))
        )
    return lax.mul(*promote(x, y))


def _masked(
    factors: list[tuple[Any, list[int]]], mask: Any, labels: list[int], sizes: Sequence[int]
) -> list[tuple[Any, list[int]]]:
    """Factors of which the first is zero wherever the mask is false."""
    if not factors:
        return [(mask, labels)]
    (x, x_labels), *rest = factors
    joint = sorted({*x_labels, *labels})
    x, mask = align(x, x_labels, joint, sizes), align(mask, labels, joint, sizes)
    return [(lax.select(mask, x, lax.full_like(x, 0)), joint), *rest]


def _contract(
    x: Any,
    x_labels: list[int],
    y: Any,
    y_labels: list[int],
    contracted: set[int],
    target: tuple[int, ...],
) -> Any:
    summed = [loop for loop in x_labels if loop in contracted]
    batch = [loop for loop in x_labels if loop in y_labels and loop not in contracted]
    x, y = promote(x, y)
    result = lax.dot_general(
        x,
        y,
        dimension_numbers=(
            ([x_labels.index(k) for k in summed], [y_labels.index(k) for k in summed]),
            ([x_labels.index(k) for k in batch], [y_labels.index(k) for k in batch]),
        ),
        precision=None if summed else lax.Precision.HIGHEST,
    )
    labels = batch + [
        loop
        for side in (x_labels, y_labels)
        for loop in side
        if loop not in summed and loop not in batch
    ]
    order = [labels.index(loop) for loop in target]
    return result if order == sorted(order) else lax.transpose(result, order)
