"""Kernels of Pallas, differentiated by what they compute on blocks.

JAX has no derivative of most calls of `pallas_call`. What one computes is written here as a program
on arrays: the kernel's body, without references, on the blocks of its operands. Along an axis of
the grid on which every result has blocks of its own, the body is mapped: it is planned once, and
blocks stay blocks in the Jacobian. Along the other axes, where results are accumulated, it is the
step of a scan. The kernel still computes the values; the program gives the derivative.

An axis of an operand that goes along one axis of the grid, block by block, is cut and mapped. Any
other block lies where its index map says, at positions that are known before anything runs.
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jax_cce import jax_internals

__all__ = ["differentiable"]

_MARK = {"jax_cce": "differentiated by blocks"}
# At so many points of a grid its index maps are tabulated.
_MOST_POINTS = 1 << 20


class _Blocks(NamedTuple):
    """The blocks of an operand or a result.

    Attributes:
        sizes: of a block along each axis of the array.
        squeezed: the axes that the kernel does not see.
        starts: where blocks begin, shape (*grid, axes).
        shape: of the array.
        along: for each axis of the array the axis of the grid that cuts it into blocks, or None.
    """

    sizes: tuple[int, ...]
    squeezed: tuple[int, ...]
    starts: np.ndarray
    shape: tuple[int, ...]
    along: tuple[int | None, ...]

    @property
    def padded(self) -> tuple[int, ...]:
        """The shape of an array that holds all blocks."""
        points = self.starts.reshape(-1, len(self.shape))
        ends = points.max(axis=0, initial=0) + self.sizes
        return tuple(int(max(pair)) for pair in zip(self.shape, ends, strict=True))


def differentiable(eqn: Any) -> Any:
    """The closed jaxpr of a call that JAX can differentiate and that computes what a kernel does.

    Args:
        eqn: an equation of a jaxpr.

    Returns:
        The jaxpr of a `jax.custom_jvp` of the kernel; None of other equations, of kernels whose
        blocks depend on data, and of what cannot be written on arrays: with JAX 0.12 any kernel, as
        what its references hold has a memory space there that no operation on arrays takes.
    """
    if eqn.primitive.name != "pallas_call" or dict(eqn.params["metadata"] or {}) == _MARK:
        return None
    kernel = jax_internals.kernel_of(eqn)
    if kernel is None or math.prod(kernel.grid) > _MOST_POINTS:
        return None
    blocks = [_blocks_of(kernel.grid, *each) for each in kernel.blocks]
    by_blocks = functools.partial(_by_blocks, kernel, blocks)
    params = jax_internals.with_metadata(eqn, _MARK)
    avals = [jax_internals.abstract(var.aval) for var in eqn.invars]
    try:
        jax.eval_shape(by_blocks, *avals)
    except Exception:  # whatever a kernel does that arrays do not
        return None

    @jax.custom_jvp
    def call(*operands: Any) -> list[Any]:
        return eqn.primitive.bind(*operands, **params)

    @call.defjvp
    def pushed(primals: Any, tangents: Any) -> tuple[list[Any], list[Any]]:
        _, images = jax.jvp(by_blocks, primals, tangents)
        return call(*primals), images

    return jax.make_jaxpr(call)(*avals)


def _blocks_of(
    grid: tuple[int, ...],
    shape: tuple[int, ...],
    dims: Sequence[tuple[str, int]],
    index_map: Callable[..., Sequence[Any]],
) -> _Blocks:
    """The blocks of an array.

    Args:
        grid: the grid.
        shape: of the array.
        dims: for each axis of a block its kind and its size.
        index_map: from a point of the grid to the block's index along each axis.
    """
    sizes = tuple(size for _, size in dims)
    squeezed = tuple(k for k, (kind, _) in enumerate(dims) if kind == "Squeezed")
    points = _points(grid)
    # Whatever is being traced around us, this is evaluated now.
    with jax.core.eval_context():
        if grid:
            found = jax.vmap(index_map)(*map(jnp.asarray, points.T))
        else:
            found = [jnp.asarray(x)[None] for x in index_map()]
    scales = [size if kind == "Blocked" else 1 for kind, size in dims]
    starts = (
        np.stack(
            [np.asarray(x, np.int64) * scale for x, scale in zip(found, scales, strict=True)], -1
        )
        if shape
        else np.zeros((math.prod(grid), 0), np.int64)
    )
    starts = starts.reshape(*grid, len(shape))
    along = [_cut_by(starts[..., k], size) for k, size in enumerate(sizes)]
    # One axis of the grid cuts one axis of the array.
    own = tuple(None if g is None or along.count(g) > 1 else g for g in along)
    return _Blocks(sizes, squeezed, starts, shape, own)


def _points(grid: Sequence[int]) -> np.ndarray:
    """The points of a grid in the order in which a kernel runs, shape (points, axes)."""
    return np.indices(grid, np.int32).reshape(len(grid), math.prod(grid)).T


def _cut_by(starts: np.ndarray, size: int) -> int | None:
    """The axis of the grid along which blocks lie one after the other, if they move on no other."""
    for axis, count in enumerate(starts.shape):
        expected = np.arange(count) * size
        shape = [count if k == axis else 1 for k in range(starts.ndim)]
        if count > 1 and (starts == expected.reshape(shape)).all():
            return axis
    return None


def _by_blocks(kernel: Any, blocks: Sequence[_Blocks], *operands: Any) -> list[Any]:
    """What a kernel computes, on arrays."""
    count, axes = len(operands), range(len(kernel.grid))
    results = blocks[count:]
    mapped = [
        axis
        for axis in axes
        if not kernel.scratch
        and kernel.grid[axis] > 1
        and all(axis in each.along and _only_along(each, axis) for each in results)
    ]
    rest = [axis for axis in axes if axis not in mapped]
    cut = [[*mapped, *rest]] * count + [mapped] * len(results)
    starting = [
        jnp.zeros(each.shape, aval.dtype)
        for each, aval in zip(results, kernel.out_avals, strict=True)
    ]
    for source, target in kernel.aliases:
        starting[target] = operands[source]
    arrays = [
        _cut(_padded(x, each), each, by)
        for x, each, by in zip([*operands, *starting], blocks, cut, strict=True)
    ]
    order = [*mapped, *rest]
    tables = [np.moveaxis(each.starts, order, axes).astype(np.int32) for each in blocks]
    walk = _Walk(kernel, blocks, cut)

    def run(index: Any, tables: Any, arrays: Any) -> Any:
        point = dict(zip(mapped, index if mapped else (), strict=True))
        scratch = [jnp.zeros(aval.shape, aval.dtype) for aval in kernel.scratch]
        state = arrays[count:], scratch
        return walk.through(rest, point, tables, arrays[:count], state)[0]

    # From the innermost axis of the grid outwards.
    for axis in reversed(mapped):
        places = [0 if axis in each.along else None for each in blocks]
        run = jax.vmap(run, in_axes=(0, 0, places), out_axes=0)
    index = np.moveaxis(np.indices([kernel.grid[k] for k in mapped], np.int32), 0, -1)
    found = run(index, tables, arrays)
    return [_joined(x, each, mapped) for x, each in zip(found, results, strict=True)]


def _only_along(blocks: _Blocks, axis: int) -> bool:
    """Whether an axis of the grid moves blocks along the axis of the array that it cuts alone."""
    return all(
        along == axis or not _moves(blocks.starts[..., k], axis)
        for k, along in enumerate(blocks.along)
    )


def _moves(starts: np.ndarray, axis: int) -> bool:
    return bool((starts != np.take(starts, [0], axis=axis)).any())


def _padded(x: Any, blocks: _Blocks) -> Any:
    amounts = [(0, p - n, 0) for p, n in zip(blocks.padded, np.shape(x), strict=True)]
    return lax.pad(x, np.zeros((), x.dtype), amounts) if any(a[1] for a in amounts) else x


def _cut(x: Any, blocks: _Blocks, mapped: Sequence[int]) -> Any:
    """An array whose cut axes of the grid come first."""
    shape: list[int] = []
    places: dict[int | None, int] = {}
    for along, size, n in zip(blocks.along, blocks.sizes, np.shape(x), strict=True):
        if along in mapped:
            places[along] = len(shape)
            shape += [n // size, size]
        else:
            shape.append(n)
    front = [places[axis] for axis in mapped if axis in places]
    order = [*front, *(k for k in range(len(shape)) if k not in front)]
    return lax.transpose(lax.reshape(x, shape), order)


def _joined(x: Any, blocks: _Blocks, mapped: Sequence[int]) -> Any:
    """The array of what `_cut` made."""
    front = [axis for axis in mapped if axis in blocks.along]
    order, at = [], len(front)
    for along in blocks.along:
        if along in front:
            order.append(front.index(along))
        order.append(at)
        at += 1
    joined = lax.reshape(lax.transpose(x, order), blocks.padded)
    return lax.slice(joined, [0] * len(blocks.shape), blocks.shape)


class _Walk:
    """The points of a grid, one after the other along the axes that are not mapped.

    Args:
        kernel: the kernel.
        blocks: of its operands and results.
        cut: for each of these the axes of the grid that it has been cut along, if it goes along
            them.
    """

    def __init__(
        self, kernel: Any, blocks: Sequence[_Blocks], cut: Sequence[Sequence[int]]
    ) -> None:
        self._kernel, self._blocks = kernel, blocks
        self._is_cut = [
            [along in by for along in each.along] for each, by in zip(blocks, cut, strict=True)
        ]

    def through(
        self,
        axes: Sequence[int],
        point: dict[int, Any],
        tables: Sequence[Any],
        operands: Sequence[Any],
        state: Any,
    ) -> Any:
        """Runs the body at all points that differ along some axes of the grid.

        Args:
            axes: the axes.
            point: the point on all other axes.
            tables: where the blocks of each array begin, by the axes.
            operands: the operands; of an axis that cuts one its blocks come first.
            state: what the results and the scratch memory hold, and in the end will hold.
        """
        if not axes:
            return self._step(point, tables, operands, state)
        axis, *later = axes
        goes = [axis in each.along for each in self._blocks[: len(operands)]]

        def step(state: Any, at: Any) -> tuple[Any, None]:
            here, starts, own = at
            blocks = [a if b is None else b for a, b in zip(operands, own, strict=True)]
            return self.through(later, {**point, axis: here}, starts, blocks, state), None

        own = [x if moves else None for x, moves in zip(operands, goes, strict=True)]
        length = self._kernel.grid[axis]
        if length == 1:
            return step(state, (np.int32(0), [t[0] for t in tables], own))[0]
        places = np.arange(length, dtype=np.int32)
        return lax.scan(step, state, (places, list(tables), own), length=length)[0]

    def _step(
        self, point: dict[int, Any], starts: Sequence[Any], operands: Sequence[Any], state: Any
    ) -> Any:
        """Runs the body at a point."""
        outs, scratch = state
        arrays = [*operands, *outs]
        places = [
            [np.int32(0) if own else start[k] for k, own in enumerate(is_cut)]
            for start, is_cut in zip(starts, self._is_cut, strict=True)
        ]
        read = []
        for x, at, each in zip(arrays, places, self._blocks, strict=True):
            block = x if np.shape(x) == each.sizes else lax.dynamic_slice(x, at, each.sizes)
            read.append(lax.squeeze(block, each.squeezed))
        written = _body(self._kernel, point, [*read, *scratch])
        count = len(operands)
        new = []
        for x, at, each, block in zip(
            outs, places[count:], self._blocks[count:], written[count:], strict=False
        ):
            block = lax.expand_dims(block, each.squeezed)
            whole = np.shape(x) == each.sizes
            new.append(block if whole else lax.dynamic_update_slice(x, block, at))
        return new, list(written[len(arrays) :])


def _body(kernel: Any, point: dict[int, Any], operands: Sequence[Any]) -> list[Any]:
    """The kernel's body at a point of the grid: what its references hold in the end."""
    asked = [
        point[axis] if name == "program_id" else kernel.grid[axis] for name, axis in kernel.asked
    ]
    asked = [jnp.asarray(x, np.int32) for x in asked]
    body, constants = jax_internals.opened(kernel.body)
    return jax.core.eval_jaxpr(body, constants, *asked, *operands)
