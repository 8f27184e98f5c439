"""Hypothesis strategies for terms of every kind of structure, with their meaning in NumPy.

Coefficients are small integers, so every comparison can be exact.
"""

import functools
import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from hypothesis import assume
from hypothesis import strategies as st

from jax_cce.algebra import terms
from jax_cce.algebra.index_arrays import Table
from jax_cce.algebra.reshaping import reshape
from jax_cce.algebra.terms import Affine, Lookup, Term, Unrepresentable

_SIZES = (3, 2, 4, 6, 1, 0)
_MAX_SIZE = 36
Shape = tuple[int, ...]


class NumericBlock(NamedTuple):
    """A term with a coefficient between two shapes; an empty sum where the term is None."""

    term: Term | None
    coefficient: np.ndarray
    out_shape: Shape
    in_shape: Shape

    @property
    def matrix(self) -> np.ndarray:
        """What the block means: an array of shape [*out_shape, *in_shape]."""
        return place(self.term, self.coefficient, self.out_shape + self.in_shape)

    @property
    def transposed(self) -> "NumericBlock":
        if self.term is None:
            return self._replace(out_shape=self.in_shape, in_shape=self.out_shape)
        term, order = terms.transpose(self.term)
        coefficient = self.coefficient.transpose(order)
        return NumericBlock(term, coefficient, self.in_shape, self.out_shape)


def positions_of(
    maps: Sequence[Affine], sizes: Shape, lookups: Sequence[Lookup] = ()
) -> list[np.ndarray]:
    loops = np.indices(sizes)

    def value(variable: int) -> np.ndarray:
        if variable >= 0:
            return loops[variable]
        lookup = lookups[-1 - variable]
        values = lookup.table.values.reshape([sizes[axis] for axis in lookup.axes])
        return values[tuple(loops[axis] for axis in lookup.axes)]

    return [
        np.broadcast_to(a.offset + sum(s * value(k) for k, s in a.strides), sizes) for a in maps
    ]


def place(term: Term | None, coefficient: np.ndarray, shape: Shape) -> np.ndarray:
    """Carries out the definition of a term, one addition for each point of its loops."""
    result = np.zeros(math.prod(shape))
    if term is not None:
        flat = np.zeros(term.sizes, int)
        for extent, position in zip(
            shape, positions_of(term.out_map + term.in_map, term.sizes, term.lookups), strict=True
        ):
            assert ((position >= 0) & (position < extent)).all()
            flat = flat * extent + position
        axes = term.axes or ()
        box = [size if loop in axes else 1 for loop, size in enumerate(term.sizes)]
        values = np.broadcast_to(coefficient.reshape(box), term.sizes)
        np.add.at(result, flat.ravel(), values.ravel())
    return result.reshape(shape)


def matmul(later: NumericBlock, earlier: NumericBlock) -> np.ndarray:
    return np.tensordot(later.matrix, earlier.matrix, axes=len(later.in_shape))


# The kinds of structure. Each takes the drawing function, the size of an axis of the earlier
# variable and the sizes of the loops so far (to which it appends); it returns the position along
# that axis, and the positions along the axes of the later variable that it makes, with their sizes.

_Axis = tuple[Affine, list[tuple[Affine, int]]]


def _loop(loops: list[int], size: int, stride: int = 1, offset: int = 0) -> Affine:
    loops.append(size)
    return Affine(offset, ((len(loops) - 1, stride),))


def _kept(draw: Any, size: int, loops: list[int]) -> _Axis:
    along = _loop(loops, size)
    return along, [(along, size)]


def _sliced(draw: Any, size: int, loops: list[int]) -> _Axis:
    positions = range(size)[draw(st.slices(size))]
    along = _loop(loops, len(positions))
    start = positions.start if len(positions) else 0
    return Affine(start, ((len(loops) - 1, positions.step),)), [(along, len(positions))]


def _reversed(draw: Any, size: int, loops: list[int]) -> _Axis:
    along = _loop(loops, size)
    return Affine(size - 1 if size else 0, ((len(loops) - 1, -1),)), [(along, size)]


def _padded(draw: Any, size: int, loops: list[int]) -> _Axis:
    low, high, step = draw(st.tuples(st.integers(0, 2), st.integers(0, 2), st.integers(1, 3)))
    along = _loop(loops, size)
    extent = low + (step * (size - 1) + 1 if size else 0) + high
    return along, [(Affine(low, ((len(loops) - 1, step),)), extent)]


def _concatenated(draw: Any, size: int, loops: list[int]) -> _Axis:
    low, high = draw(st.tuples(st.integers(0, 3), st.integers(0, 3)))
    along = _loop(loops, size)
    return along, [(Affine(low, ((len(loops) - 1, 1),)), low + size + high)]


def _contracted(draw: Any, size: int, loops: list[int]) -> _Axis:
    return _loop(loops, size), []


def _matrix(draw: Any, size: int, loops: list[int]) -> _Axis:
    rows = draw(st.sampled_from(_SIZES))
    return _loop(loops, size), [(_loop(loops, rows), rows)]


def _replicated(draw: Any, size: int, loops: list[int]) -> _Axis:
    copies = draw(st.sampled_from(_SIZES))
    along = _loop(loops, size)
    new = (_loop(loops, copies), copies)
    return along, [new, (along, size)] if draw(st.booleans()) else [(along, size), new]


def _one_hot(draw: Any, size: int, loops: list[int]) -> _Axis:
    if not size:
        return _kept(draw, size, loops)
    position = Affine(draw(st.integers(0, size - 1)), ())
    extent = draw(st.integers(1, 3))
    rows = [(Affine(draw(st.integers(0, extent - 1)), ()), extent)]
    return position, rows if draw(st.booleans()) else []


def _split(draw: Any, size: int, loops: list[int]) -> _Axis:
    """An axis reshaped into two digits."""
    low = draw(st.sampled_from([d for d in range(1, size + 1) if size % d == 0] or [1]))
    slow, fast = _loop(loops, size // low), _loop(loops, low)
    digits = ((len(loops) - 2, low), (len(loops) - 1, 1))
    return Affine(0, digits), [(slow, size // low), (fast, low)]


def _convolved(draw: Any, size: int, loops: list[int]) -> _Axis:
    """A window that moves with a stride and has holes."""
    stride, dilation = draw(st.tuples(st.integers(1, 2), st.integers(1, 2)))
    width = draw(st.integers(1, max(1, min(3, (size - 1) // dilation + 1))))
    count = (size - dilation * (width - 1) - 1) // stride + 1 if size else 0
    row = _loop(loops, count)
    loops.append(width)
    return Affine(0, ((len(loops) - 2, stride), (len(loops) - 1, dilation))), [(row, count)]


def _looked_up(draw: Any, loops: list[int], axes: Sequence[int], size: int) -> Lookup:
    """A static index array with values below `size`, of which some may be equal."""
    shape = tuple(loops[axis] for axis in axes)
    numbers = np.random.default_rng(draw(st.integers(0, 999)))
    if math.prod(shape) <= size and draw(st.booleans()):
        values = numbers.permutation(size)[: math.prod(shape)].reshape(shape)
    else:
        values = numbers.integers(0, size, shape)
    return Lookup(tuple(axes), size, Table(values))


def _gathered(draw: Any, in_shape: Shape) -> NumericBlock:
    """Some axes read at index arrays over one or two new axes, the others kept."""
    loops: list[int] = []
    new = [_loop(loops, draw(st.sampled_from(_SIZES))) for _ in range(draw(st.integers(0, 2)))]
    over = range(len(new))
    out, inn, lookups = [(along, loops[axis]) for axis, along in enumerate(new)], [], []
    for axis, size in enumerate(in_shape):
        if size and (axis == 0 or draw(st.booleans())):
            axes = draw(st.sets(st.sampled_from(over))) if over else ()
            lookups.append(_looked_up(draw, loops, sorted(axes), size))
            stride = draw(st.sampled_from([1, -1]))
            inn.append(Affine(0 if stride == 1 else size - 1, ((-len(lookups), stride),)))
        else:
            inn.append(_loop(loops, size))
            out.append((inn[-1], size))
    out_shape = tuple(extent for _, extent in out)
    maps = tuple(affine for affine, _ in out), tuple(inn)
    raw = Term(tuple(loops), *maps, None, lookups=tuple(lookups))
    return with_coefficient(draw, raw, out_shape, in_shape)


def _enumerated(draw: Any, in_shape: Shape) -> NumericBlock:
    """The nonzeros of a mask between two arrays, as a table of positions for each axis."""
    out_shape = draw(shapes(2))
    numbers = np.random.default_rng(draw(st.integers(0, 999)))
    rows = np.argwhere(numbers.random(out_shape + in_shape) < draw(st.sampled_from([0.2, 0.7])))
    lookups = [
        Lookup((0,), extent, Table(rows[:, axis]))
        for axis, extent in enumerate(out_shape + in_shape)
    ]
    maps = [Affine(0, ((-1 - axis, 1),)) for axis in range(len(lookups))]
    if not maps or not len(rows):
        return dense_between(draw, out_shape, in_shape)
    split = len(out_shape)
    sizes, ends = (len(rows),), (tuple(maps[:split]), tuple(maps[split:]))
    raw = Term(sizes, *ends, None, lookups=tuple(lookups))
    return with_coefficient(draw, raw, out_shape, in_shape)


_AXIS_KINDS: dict[str, Callable[[Any, int, list[int]], _Axis]] = {
    "identity": _kept,
    "diagonal": _kept,
    "permuted": _kept,
    "sliced": _sliced,
    "reversed": _reversed,
    "padded": _padded,
    "concatenated": _concatenated,
    "contracted": _contracted,
    "replicated": _replicated,
    "matrix": _matrix,
    "one-hot": _one_hot,
    "split": _split,
    "convolved": _convolved,
}
AFFINE_KINDS = (*_AXIS_KINDS, "dense", "reshaped", "shared", "any")
KINDS = (*AFFINE_KINDS, "gathered", "enumerated")


def shapes(max_rank: int = 3) -> st.SearchStrategy[Shape]:
    sizes = st.lists(st.sampled_from(_SIZES), max_size=max_rank).map(tuple)
    return sizes.filter(lambda shape: math.prod(shape) <= _MAX_SIZE)


def with_coefficient(
    draw: Any, raw: Term, out_shape: Shape, in_shape: Shape, axes: Any = "any"
) -> NumericBlock:
    """A raw term in canonical form, with a coefficient over some of its loops."""
    if axes == "any":
        axes = draw(st.none() | st.sets(st.sampled_from(range(len(raw.sizes) or 1))))
    if axes is not None:
        axes = tuple(axis for axis in axes if axis < len(raw.sizes))
    raw = raw._replace(axes=axes)
    numbers = np.random.default_rng(draw(st.integers(0, 999)))
    coefficient = numbers.choice([-3.0, -2, -1, 1, 2, 3], raw.coefficient_shape)
    if axes is None:
        coefficient = np.ones(())
    placed = terms.canonical(raw)
    if placed is None:
        return NumericBlock(None, np.zeros(()), out_shape, in_shape)
    term, order = placed
    return NumericBlock(term, coefficient.squeeze().transpose(order), out_shape, in_shape)


def block_from(draw: Any, kind: str, in_shape: Shape) -> NumericBlock:
    """Draws a block of the given kind from a variable of the given shape."""
    if kind in ("dense", "any"):
        out_shape = draw(shapes(2))
        between = dense_between if kind == "dense" else any_between
        return between(draw, out_shape, in_shape)
    whole = {"reshaped": _reshaped, "gathered": _gathered, "enumerated": _enumerated}
    if kind in whole:
        return whole[kind](draw, in_shape)
    loops: list[int] = []
    if kind == "shared":  # the diagonal of a matrix
        along = _loop(loops, min(in_shape, default=1))
        inn, out = tuple(along for _ in in_shape), [(along, loops[0])]
    else:
        # Every axis by this kind for rank one, else a mixture with axes that are kept.
        kinds = [_AXIS_KINDS[kind] if draw(st.integers(0, 3)) else _kept for _ in in_shape]
        made = [f(draw, size, loops) for f, size in zip(kinds, in_shape, strict=True)]
        inn = tuple(position for position, _ in made)
        out = [new for _, new_axes in made for new in new_axes]
        if kind == "permuted":
            out = draw(st.permutations(out))
    axes = {"identity": None, "diagonal": tuple(range(len(loops)))}.get(kind, "any")
    out_shape = tuple(extent for _, extent in out)
    raw = Term(tuple(loops), tuple(affine for affine, _ in out), inn, None)
    return with_coefficient(draw, raw, out_shape, in_shape, axes)


def dense_between(draw: Any, out_shape: Shape, in_shape: Shape) -> NumericBlock:
    term = terms.dense(out_shape, in_shape)
    if term is None:
        return NumericBlock(None, np.zeros(()), out_shape, in_shape)
    return with_coefficient(draw, term, out_shape, in_shape, axes=term.axes)


@functools.cache
def factorisations(size: int) -> list[Shape]:
    """All shapes of the given size with up to three axes of at most 12 entries."""
    return [
        shape
        for rank in range(4)
        for shape in itertools.product(range(min(13, max(size, 2) + 1)), repeat=rank)
        if math.prod(shape) == size
    ]


def _reshaped(draw: Any, in_shape: Shape) -> NumericBlock:
    out_shape = draw(st.sampled_from(factorisations(math.prod(in_shape))))
    try:
        term = reshape(out_shape, in_shape)
    except Unrepresentable:
        assume(False)
    if term is None:
        return NumericBlock(None, np.zeros(()), out_shape, in_shape)
    return with_coefficient(draw, term, out_shape, in_shape)


def any_between(draw: Any, out_shape: Shape, in_shape: Shape) -> NumericBlock:
    """Draws a term with any affine maps of one or two loops an axis between two given shapes."""
    loops: list[int] = []
    maps = []
    for extent in out_shape + in_shape:
        if not extent:
            maps.append(_loop(loops, 0))
            continue
        strides: dict[int, int] = {}
        room = extent - 1
        for _ in range(draw(st.integers(0, 2))):
            old = [k for k, size in enumerate(loops) if k not in strides and 1 < size <= room + 1]
            loop = draw(st.sampled_from([*old, len(loops)]))
            if loop == len(loops):
                loops.append(draw(st.integers(1, min(room + 1, 4))))
            steps = room // (loops[loop] - 1) if loops[loop] > 1 else 1
            strides[loop] = draw(st.sampled_from([s for s in (1, 2, 3, -1, -2) if abs(s) <= steps]))
            room -= abs(strides[loop]) * (loops[loop] - 1)
        below = -sum(stride * (loops[loop] - 1) for loop, stride in strides.items() if stride < 0)
        offset = below + draw(st.integers(0, room))
        maps.append(Affine(offset, tuple(sorted(strides.items()))))
    split = len(out_shape)
    raw = Term(tuple(loops), tuple(maps[:split]), tuple(maps[split:]), None)
    return with_coefficient(draw, raw, out_shape, in_shape)


@st.composite
def pairs(draw: Any, later_kind: str, earlier_kind: str) -> tuple[NumericBlock, NumericBlock]:
    """Two blocks that meet in a variable: the earlier one is a transposed block from it."""
    middle = draw(shapes())
    return block_from(draw, later_kind, middle), block_from(draw, earlier_kind, middle).transposed
