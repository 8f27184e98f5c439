"""The static structure of local Jacobians: terms over named loops, and their composition.

A Jacobian block dv/du is kept as a sum of *terms*. One term is

    J[o, i] = sum over k of  c[k] * [o = out_map(k)] * [i = in_map(k)]

where k runs over a box of loop axes, `out_map` and `in_map` give for each axis of v and u an affine
function of k, and the coefficient c depends on some of the loop axes (on none of them when it is
a static number). Identity, diagonal, replicated, dense, permuted, sliced, padded, concatenated,
reshaped and contracted maps are all of this form; only the numbers in c are known at run time.
Where positions come from an index array, as in `x[indices]` or a sort, an affine function also
has *lookups* in that array, which is a static table or one that is known at run time.

Everything in this module is Python on integers, so it can run before any array exists and its
results are memoised.

Source: the chain rule on face-free computational graphs (Griewank & Walther, "Evaluating
Derivatives", 2nd ed., section 10.2), with the edge values generalised to structured blocks.
"""

import math
from collections.abc import Hashable, Sequence
from typing import Any, NamedTuple

import numpy as np

from jax_cce.algebra.index_arrays import Table
from jax_cce.caches import memoised

__all__ = [
    "Affine",
    "Lookup",
    "Term",
    "Unrepresentable",
    "along",
    "canonical",
    "dense",
    "flat_strides",
    "identity",
    "linear",
    "loops_of",
    "placing",
    "plain",
    "points",
    "renamed",
    "split_loop",
    "transpose",
]


class Unrepresentable(Exception):
    """The composition has no description by affine maps; a dense side always has one."""


class Affine(NamedTuple):
    """The position `offset + sum(stride * variable)` along one array axis.

    A variable is a loop axis, numbered from 0, or a lookup, numbered -1, -2, ... in the order of
    the term's lookups.
    """

    offset: int
    strides: tuple[tuple[int, int], ...]


class Lookup(NamedTuple):
    """An index array, read at some of the loops.

    Attributes:
        axes: the loop of each of its axes.
        size: its values lie in [0, size).
        table: a static `index_arrays.Table`, or the slot of an array that is known at run time.
    """

    axes: tuple[int, ...]
    size: int
    table: Hashable


class Term(NamedTuple):
    """One term of a Jacobian block.

    Attributes:
        sizes: the size of each loop axis; all are at least 2 in canonical form.
        out_map: for each axis of the later variable its position as a function of the loops.
        in_map: the same for the earlier variable.
        axes: the loop axes that the coefficient array has, ascending; None where the coefficient
            is a static number kept beside the term.
        layout: whether the term comes from layout equations only (reshape, slice, convert ...),
            which the published multiplication counts take as free.
        lookups: the index arrays that the maps read.
    """

    sizes: tuple[int, ...]
    out_map: tuple[Affine, ...]
    in_map: tuple[Affine, ...]
    axes: tuple[int, ...] | None
    layout: bool = False
    lookups: tuple[Lookup, ...] = ()

    @property
    def support(self) -> tuple:
        """What two terms must share for their coefficients to be added."""
        return self.sizes, self.out_map, self.in_map, self.lookups

    @property
    def coefficient_shape(self) -> tuple[int, ...]:
        """The shape of the coefficient array, () for a static number."""
        # Planning asks for it all the time, mostly of scalars.
        if not self.axes:
            return ()
        sizes = self.sizes
        return tuple([sizes[axis] for axis in self.axes])

    @property
    def coefficient_size(self) -> int:
        """The number of entries of the coefficient array."""
        return math.prod(self.coefficient_shape) if self.axes else 1


def loops_of(maps: Sequence[Affine], lookups: Sequence[Any] = ()) -> list[int]:
    """The loops that some maps depend on, in order of appearance, with repetitions.

    Args:
        maps: the maps.
        lookups: what their lookups read, each with its `axes`.
    """
    return [
        loop
        for affine in maps
        for variable, _ in affine.strides
        for loop in ((variable,) if variable >= 0 else lookups[-1 - variable].axes)
    ]


def points(term: Term, maps: Sequence[Affine]) -> int:
    """How many points the loops have that some maps of a term depend on."""
    return math.prod(term.sizes[loop] for loop in set(loops_of(maps, term.lookups)))


def along(loop: int, offset: int = 0, stride: int = 1) -> Affine:
    """The position offset + stride * loop."""
    return Affine(offset, ((loop, stride),))


def canonical(term: Term) -> tuple[Term, tuple[int, ...]] | None:
    """Renames loops by first appearance in (out_map, in_map) and drops those of size 1.

    Every loop must appear in a map. Terms with equal support are then equal as tuples.

    Args:
        term: any term whose `axes` may be in any order.

    Returns:
        The canonical term and the order in which the axes of the given coefficient (size-1 axes
        squeezed out) must be taken to match it; None if the term is an empty sum.
    """
    if 0 in term.sizes:
        return None
    result, names = renamed(term)
    axes = [names[axis] for axis in term.axes or () if axis in names]
    return result, tuple(sorted(range(len(axes)), key=axes.__getitem__))


def plain(number: Any) -> Any:
    """A number without NumPy's type, which wraps around and has no modular inverse."""
    return number.item() if isinstance(number, (np.generic, np.ndarray)) else number


def renamed(term: Term) -> tuple[Term, dict[int, int]]:
    """The canonical term and the new name of each of its loops.

    Parameters of equations may hold NumPy's integers; a canonical term holds Python's only.
    """
    names: dict[int, int] = {}
    lookups: dict[Lookup, int] = {}
    for affine in term.out_map + term.in_map:
        for variable, _ in affine.strides:
            axes = (variable,) if variable >= 0 else term.lookups[-1 - variable].axes
            for axis in axes:
                if term.sizes[axis] != 1:
                    names.setdefault(axis, len(names))
            if variable < 0 and not (
                isinstance(term.lookups[-1 - variable].table, Table)
                and all(term.sizes[axis] == 1 for axis in axes)
            ):
                lookups.setdefault(term.lookups[-1 - variable], -1 - len(lookups))

    def rename(affine: Affine) -> Affine:
        offset, strides = plain(affine.offset), dict[int, int]()
        for variable, stride in affine.strides:
            if variable >= 0:
                name = names.get(variable)
            else:
                lookup = term.lookups[-1 - variable]
                name = lookups.get(lookup)
                if name is None:
                    offset += stride * int(lookup.table.values.item())  # type: ignore[attr-defined]
            if name is not None:
                strides[name] = strides.get(name, 0) + plain(stride)
        return Affine(offset, tuple(sorted(strides.items())))

    kept = None if term.axes is None else sorted(names[k] for k in term.axes if k in names)
    return (
        Term(
            tuple(plain(term.sizes[axis]) for axis in names),
            tuple(map(rename, term.out_map)),
            tuple(map(rename, term.in_map)),
            None if kept is None else tuple(kept),
            term.layout,
            tuple(
                lookup._replace(
                    axes=tuple(names[axis] for axis in lookup.axes if axis in names),
                    size=plain(lookup.size),
                )
                for lookup in lookups
            ),
        ),
        names,
    )


@memoised(4096)
def identity(shape: tuple[int, ...]) -> Term | None:
    """The identity on an array of the given shape; None for size zero."""
    maps = tuple(map(along, range(len(shape))))
    result = canonical(Term(tuple(shape), maps, maps, None, layout=True))
    return result and result[0]


@memoised(4096)
def dense(out_shape: tuple[int, ...], in_shape: tuple[int, ...]) -> Term | None:
    """The term that stores every entry, coefficient shape out_shape + in_shape less the ones."""
    sizes = (*out_shape, *in_shape)
    maps = tuple(map(along, range(len(sizes))))
    split = len(out_shape)
    result = canonical(Term(sizes, maps[:split], maps[split:], tuple(range(len(sizes)))))
    return result and result[0]


def flat_strides(shape: Sequence[int]) -> list[int]:
    """The stride of each axis of an array of a shape, in the flat array."""
    return [math.prod(shape[axis + 1 :]) for axis in range(len(shape))]


def linear(maps: Sequence[Affine], shape: Sequence[int]) -> tuple[int, dict[int, int]]:
    """The row-major position in `shape`: its offset, and the stride of each loop."""
    offset, strides = 0, {variable: 0 for affine in maps for variable, _ in affine.strides}
    for affine, unit in zip(maps, flat_strides(shape), strict=True):
        offset += unit * affine.offset
        for loop, stride in affine.strides:
            strides[loop] += unit * stride
    return offset, strides


def placing(term: Term) -> Term:
    """The linear map from a term's coefficient to the entries of its block, out_map + in_map."""
    inn = tuple(map(along, term.axes or ()))
    result = canonical(term._replace(out_map=term.out_map + term.in_map, in_map=inn, axes=None))
    assert result is not None
    return result[0]


def split_loop(term: Term, loop: int, digits: int) -> Term:
    """The same term with a loop taken as two, of which the faster one has `digits` steps.

    The coefficient's axis is split likewise. The result is not canonical.
    """

    def shifted(affine: Affine) -> Affine:
        strides = []
        for axis, stride in affine.strides:
            if axis == loop:
                strides += [(axis, stride * digits), (axis + 1, stride)]
            else:
                strides.append((axis + (axis > loop), stride))
        return Affine(affine.offset, tuple(strides))

    axes = term.axes
    if axes is not None:
        axes = tuple(
            k
            for axis in axes
            for k in ((axis, axis + 1) if axis == loop else (axis + (axis > loop),))
        )
    sizes = (*term.sizes[:loop], term.sizes[loop] // digits, digits, *term.sizes[loop + 1 :])
    return Term(
        sizes,
        tuple(map(shifted, term.out_map)),
        tuple(map(shifted, term.in_map)),
        axes,
        term.layout,
    )


def transpose(term: Term) -> tuple[Term, tuple[int, ...]]:
    """The term of the transposed block and the new order of its coefficient's axes."""
    result = canonical(term._replace(out_map=term.in_map, in_map=term.out_map))
    assert result is not None
    return result
