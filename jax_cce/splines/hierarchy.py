"""Levels of splines on nested regions: which are active, and what they are on each cell.

Level k has the splines of k times halved cells, and is used in the region Ω_k. A spline of level k
is active where its support lies in Ω_k but not in Ω_(k+1) (Kraft 1997). Truncation takes from a
coarse spline, written in the splines of the next level, those whose support lies in the next region
(Giannelli, Jüttler & Speleers 2012). On a cell that is not refined all active splines are then sums
of the cell's local splines, with weights that this module tabulates.
"""

import dataclasses
import functools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from jax_cce.splines.knots import Axis

__all__ = ["Hierarchy", "Table", "halves_of"]


class Table(NamedTuple):
    """The active splines on the cells that are not refined, the leaves.

    Attributes:
        columns: numbers of the splines that are not zero there, shape (leaves, most of them);
            behind the last of a leaf stands how many splines there are in all.
        places: where they stand among all splines that are looked at, of the same shape.
        only: whether the splines of a leaf are its local ones, in their order.
    """

    columns: np.ndarray
    places: np.ndarray
    only: bool


@dataclasses.dataclass(frozen=True, eq=False)
class Hierarchy:
    """Nested regions of one or more axes.

    Attributes:
        axes: the axes of each level.
        refined: for each level which of its cells are in the next region; nowhere on the last.
    """

    axes: tuple[tuple[Axis, ...], ...]
    refined: tuple[np.ndarray, ...]

    @functools.cached_property
    def inside(self) -> tuple[np.ndarray, ...]:
        """For each level which of its cells are in its region."""
        first = np.ones(self.refined[0].shape, bool)
        return first, *map(halves_of, self.refined[:-1])

    @functools.cached_property
    def covered(self) -> tuple[np.ndarray, ...]:
        """For each level which of its splines have all their support in its region."""
        return tuple(map(_supported, self.axes, self.inside))

    @functools.cached_property
    def numbers(self) -> tuple[np.ndarray, ...]:
        """For each level the numbers of its active splines, and -1 for others."""
        found, count = [], 0
        for axes, covered, refined in zip(self.axes, self.covered, self.refined, strict=True):
            active = covered & ~_supported(axes, refined)
            number = np.full(active.shape, -1)
            number[active] = count + np.arange(active.sum())
            count += int(active.sum())
            found.append(number)
        return tuple(found)

    @property
    def size(self) -> int:
        """How many splines are active."""
        return sum(int((number >= 0).sum()) for number in self.numbers)

    @functools.cached_property
    def leaves(self) -> tuple[np.ndarray, ...]:
        """For each level its leaves, as indices of shape (leaves, axes)."""
        return tuple(
            np.argwhere(inside & ~refined)
            for inside, refined in zip(self.inside, self.refined, strict=True)
        )

    @functools.cached_property
    def leaf_of(self) -> np.ndarray:
        """For each cell of the last level the leaf that it is in."""
        last, first = len(self.axes) - 1, 0
        found = np.zeros([axis.cells for axis in self.axes[0]], np.int32)
        for level, leaves in enumerate(self.leaves):
            found[tuple(leaves.T)] = first + np.arange(len(leaves))
            first += len(leaves)
            if level < last:
                found = halves_of(found)
        return found

    @functools.cached_property
    def local_count(self) -> int:
        """How many local splines a cell has."""
        return math.prod(axis.degree + 1 for axis in self.axes[0])

    def local_splines(self, level: int, cells: np.ndarray) -> tuple[np.ndarray, ...]:
        """Indices along each axis of the local splines of cells, each (cells, local splines)."""
        axes = self.axes[level]
        along = [
            axis.spans[cells[:, k]][:, None] - axis.degree + np.arange(axis.degree + 1)
            for k, axis in enumerate(axes)
        ]
        shape = [len(cells), *(axis.degree + 1 for axis in axes)]
        found = []
        for k, each in enumerate(along):
            turned = np.expand_dims(each, [j + 1 for j in range(len(axes)) if j != k])
            found.append(np.broadcast_to(turned, shape).reshape(len(cells), self.local_count))
        return tuple(found)

    def weights(self, knots: Sequence[Any], xp: Any) -> list[Any]:
        """All splines of its own and coarser levels on each leaf, in its local splines.

        Args:
            knots: values for the knots of the first level's axes.
            xp: `numpy` or `jax.numpy`.

        Returns:
            For each level an array of shape (leaves, splines, local splines), the local splines of
            the leaf's level first, those of level 0 last. Rows of splines that are not active mean
            nothing.
        """
        scales = self.two_scales(knots, xp)
        size, found = self.local_count, []
        for level, leaves in enumerate(self.leaves):
            rows = xp.broadcast_to(xp.eye(size), (len(leaves), size, size))
            cells, levels = leaves, [rows]
            for k in range(level, 0, -1):
                kept = ~self.covered[k][self.local_splines(k, cells)]
                rows = self.coarser(scales[k - 1], cells, rows * kept[..., None], xp)
                cells = cells // 2
                levels.append(rows)
            found.append(xp.concatenate(levels, axis=1))
        return found

    def two_scales(self, knots: Sequence[Any], xp: Any) -> list[list[Any]]:
        """For each level but the last, and each axis, what `Axis.two_scale` gives."""
        found = []
        for axes in self.axes[:-1]:
            found.append([axis.two_scale(t, xp) for axis, t in zip(axes, knots, strict=True)])
            knots = [axis.halves(t, xp) for axis, t in zip(axes, knots, strict=True)]
        return found

    def coarser(self, scales: Sequence[Any], cells: np.ndarray, rows: Any, xp: Any) -> Any:
        """From what belongs to the local splines of cells to those of the cells they halve.

        Args:
            scales: for each axis what `Axis.two_scale` gives for the coarser level.
            cells: the cells, shape (cells, axes).
            rows: shape (cells, local splines, any).
            xp: `numpy` or `jax.numpy`.
        """
        shape = rows.shape
        orders = [scale.shape[1] for scale in scales]
        rows = rows.reshape(shape[0], *orders, shape[2])
        for k, scale in enumerate(scales):
            turned = xp.moveaxis(rows, k + 1, 1)
            moved = xp.einsum("cab,ca...->cb...", scale[cells[:, k]], turned)
            rows = xp.moveaxis(moved, 1, k + 1)
        return rows.reshape(shape)

    @functools.cached_property
    def table(self) -> Table:
        """The active splines on the leaves."""
        knots = [axis.knots for axis in self.axes[0]]
        columns, places = [], []
        for level, weights in enumerate(self.weights(knots, np)):
            cells, names = self.leaves[level], []
            for k in range(level, -1, -1):
                names.append(self.numbers[k][self.local_splines(k, cells)])
                cells = cells // 2
            number = np.concatenate(names, axis=1)
            present = (number >= 0) & (weights != 0).any(2)
            number = np.where(present, number, self.size)
            order = np.argsort(number, axis=1, kind="stable")
            columns.append(np.take_along_axis(number, order, 1))
            places.append(order)
        most = max(int((each < self.size).sum(1).max(initial=0)) for each in columns)

        def cut(arrays: list[np.ndarray], fill: int) -> np.ndarray:
            return np.concatenate(
                [
                    np.pad(
                        each[:, :most],
                        ((0, 0), (0, max(0, most - each.shape[1]))),
                        constant_values=fill,
                    )
                    for each in arrays
                ]
            ).astype(np.int32)

        return Table(cut(columns, self.size), cut(places, 0), len(self.axes) == 1)

    def extraction(self, knots: Sequence[Any], xp: Any) -> Any:
        """The active splines on each leaf in its local splines, in the order of the table.

        Returns:
            Shape (leaves, most splines, local splines); zero behind the last of a leaf.
        """
        found, first = [], 0
        for weights in self.weights(knots, xp):
            rows = slice(first, first + len(weights))
            chosen = xp.take_along_axis(weights, self.table.places[rows][..., None], axis=1)
            present = (self.table.columns[rows] < self.size)[..., None]
            found.append(xp.where(present, chosen, 0))
            first = rows.stop
        return xp.concatenate(found)


def halves_of(cells: np.ndarray) -> np.ndarray:
    """What holds for cells, for their halves along all axes."""
    for axis in range(cells.ndim):
        cells = np.repeat(cells, 2, axis)
    return cells


def _supported(axes: Sequence[Axis], region: np.ndarray) -> np.ndarray:
    """Which splines have all their support in a region of cells."""
    outside = (~region).astype(int)
    for k, axis in enumerate(axes):
        first, behind = axis.support
        sums = np.insert(np.cumsum(outside, axis=k), 0, 0, axis=k)
        outside = np.take(sums, behind, axis=k) - np.take(sums, first, axis=k)
    return outside == 0
