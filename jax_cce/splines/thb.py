"""Truncated hierarchical B-splines: functions on a grid that is fine only where it has to be."""

import functools
import math
import operator
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jax_cce import jax_internals
from jax_cce.splines.hierarchy import Hierarchy, halves_of
from jax_cce.splines.knots import Axis, local_values

if TYPE_CHECKING:
    from jax.experimental.sparse import BCOO

__all__ = ["THB", "Cells", "open_knots"]


class Cells(NamedTuple):
    """The cells of a spline that are not refined.

    Attributes:
        level: the level of each, shape (cells,).
        lower: its lower corner, shape (cells, axes).
        upper: its upper corner, shape (cells, axes).
    """

    level: np.ndarray
    lower: np.ndarray
    upper: np.ndarray


def open_knots(cells: int, degree: int, lower: float = 0.0, upper: float = 1.0) -> np.ndarray:
    """Knots of equal cells with the ends repeated, so that the splines end there.

    Args:
        cells: how many cells there are.
        degree: of the splines.
        lower: where the domain begins.
        upper: where it ends.

    Returns:
        The knots, shape (cells + 2 * degree + 1,), for cells + degree splines.

    Examples:
        >>> from jax_cce import splines
        >>> print(splines.open_knots(2, 1))
        [0.  0.  0.5 1.  1. ]
    """
    return np.pad(np.linspace(lower, upper, cells + 1), degree, mode="edge")


class THB:
    """A basis of truncated hierarchical B-splines, for curves, surfaces and volumes.

    Level 0 is a tensor product of B-splines. Each further level halves the cells in a region, and
    has its own splines there. The splines of coarser levels are truncated by those of finer ones:
    they form a partition of unity, are linearly independent, and fewer of them overlap than without
    truncation. With one level they are plain B-splines.

    An instance has no arrays of JAX: it describes the grid, and is closed over. A function is a sum
    of the basis with coefficients c, numbers or vectors. It can be differentiated with respect to
    c, the places u and the knots in both modes; at a knot where a derivative jumps the value from
    the right is given, and at the right end that from the left. Its Jacobian with respect to c is
    sparse: `jax_cce.jacobian(spline.evaluate, format="bcoo")` stores what is not zero.

    Attributes:
        degree: along each axis.
        size: how many coefficients there are: level by level, and in each in the order of C.
        cells: the cells that are not refined.

    Args:
        levels: the knots, and the regions: first an array of knots, or a sequence of such arrays,
            one for each axis; then for each level but the last an array of booleans, which of its
            cells are halved for the next level, of the shape of its cells along the axes. Knots do
            not decrease; where k of them are equal the splines have degree - k continuous
            derivatives, so that degree + 1 is the most. The domain of n + degree + 1 knots lies
            between knots `degree` and n. New knots are the middles of cells.
        degree: of the splines, 0 or more: one for all axes, or one for each.

    Raises:
        TypeError: for regions that are not boolean and for knots that are not real.
        ValueError: for knots that decrease, repeat too often or are too few, and for regions of
            another shape or outside of the region before.

    References:
        Giannelli, Jüttler & Speleers, THB-splines: the truncated basis for hierarchical splines,
        Computer Aided Geometric Design 29, 2012.

    Examples:
        >>> import jax.numpy as jnp, jax_cce
        >>> from jax_cce import splines
        >>> curve = splines.THB([splines.open_knots(4, 2), [True, True, False, False]], 2)
        >>> curve.size
        8
        >>> print(curve.evaluate(jnp.ones(curve.size), jnp.array([0.0, 0.3, 1.0])))
        [1. 1. 1.]
        >>> u = jnp.array([0.1, 0.9])
        >>> jax_cce.jacobian(curve.evaluate, format="bcoo")(jnp.ones(curve.size), u).nse
        6
    """

    degree: tuple[int, ...]

    def __init__(self, levels: Sequence[Any], degree: int | Sequence[int]) -> None:
        if len(levels) == 0:
            raise ValueError("levels must begin with knots, but is empty.")
        first, *regions = levels
        vectors = [first] if np.ndim(first[0]) == 0 else list(first)
        degrees: list[Any] = np.broadcast_to(degree, np.shape(degree) or len(vectors)).tolist()
        if len(degrees) != len(vectors):
            raise ValueError(f"There are {len(degrees)} degrees, but {len(vectors)} knot vectors.")
        self.degree = tuple(map(operator.index, degrees))
        axes = tuple(map(_axis, vectors, self.degree))
        inside = np.ones([axis.cells for axis in axes], bool)
        levels_of_axes, refined = [axes], []
        for number, region in enumerate(regions):
            refined.append(_region(region, inside, number))
            inside = halves_of(refined[-1])
            axes = tuple(axis.halved for axis in axes)
            levels_of_axes.append(axes)
        refined.append(np.zeros(inside.shape, bool))
        self._hierarchy = Hierarchy(tuple(levels_of_axes), tuple(refined))
        self.size = self._hierarchy.size

    def __repr__(self) -> str:
        """What the basis is, in a line."""
        number = len(self._hierarchy.axes)
        return (
            f"THB(degree={self.degree}, levels={number}, cells={len(self.cells.level)}, "
            f"size={self.size})"
        )

    @property
    def levels(self) -> tuple[Any, ...]:
        """What the basis was made from: the knots of all axes, and the regions."""
        hierarchy = self._hierarchy
        return tuple(axis.knots for axis in hierarchy.axes[0]), *hierarchy.refined[:-1]

    @functools.cached_property
    def cells(self) -> Cells:
        """The cells that are not refined."""
        level: list[np.ndarray] = []
        lower: list[np.ndarray] = []
        upper: list[np.ndarray] = []
        for number, (axes, leaves) in enumerate(
            zip(self._hierarchy.axes, self._hierarchy.leaves, strict=True)
        ):
            level.append(np.full(len(leaves), number))
            for corners, shift in (lower, 0), (upper, 1):
                along = [
                    axis.knots[axis.breaks[leaves[:, k] + shift]] for k, axis in enumerate(axes)
                ]
                corners.append(np.stack(along, -1))
        return Cells(*map(np.concatenate, (level, lower, upper)))

    def evaluate(self, c: Any, u: Any, knots: Any = None) -> jax.Array:
        """The function with coefficients c at places u.

        Args:
            c: the coefficients, shape (size, ...): numbers, or vectors such as points of a surface.
            u: the places, shape (..., axes); for one axis that axis is left out. Where they are not
                traced the Jacobian with respect to c has entries in the cell's splines only.
            knots: other values for the knots of level 0, to be differentiated: an array for one
                axis, a sequence of arrays for more. The same ones must be equal; finer knots
                follow. None for those that the basis was made with.

        Returns:
            The values, of u's shape without its last axis, and then c's without its first. NaN
            outside of the domain where u or knots are traced.

        Raises:
            TypeError: for complex numbers.
            ValueError: for shapes that do not fit, and for places outside of the domain.
        """
        c = jnp.asarray(c)
        if c.ndim == 0 or c.shape[0] != self.size:
            raise ValueError(
                f"c must have {self.size} coefficients along its first axis, but has shape "
                f"{c.shape}."
            )
        columns, values, batch = self._values(u, knots)
        dtype = jnp.result_type(c, *_typed(u), *_typed(knots), 0.0)
        if jnp.issubdtype(dtype, np.complexfloating):
            raise TypeError(f"evaluate takes real numbers, but got {dtype}.")
        near = c.at[columns].get(mode="fill", fill_value=0)
        weights = jnp.asarray(values, dtype)
        found = jnp.einsum("pk,pk...->p...", weights, near.astype(dtype))
        return found.reshape(batch + c.shape[1:])

    def collocation(self, u: Any, knots: Any = None) -> "BCOO":
        """The matrix of the values of all splines at places: what multiplies coefficients.

        Args:
            u: as for `evaluate`; batch axes are flattened.
            knots: as for `evaluate`.

        Returns:
            A matrix of shape (places, size), its entries sorted by rows and then columns. Where u
            is traced, rows with fewer entries than others are filled up with entries behind the
            last column, as is the custom of BCOO.

        Raises:
            TypeError: as for `evaluate`.
            ValueError: as for `evaluate`.
        """
        from jax.experimental.sparse import BCOO

        columns, values, _ = self._values(u, knots)
        places, most = columns.shape
        xp = _namespace(columns)
        rows = xp.broadcast_to(xp.arange(places)[:, None], columns.shape)
        indices = xp.stack([rows, columns], -1).reshape(places * most, 2)
        values = values.reshape(-1)
        if xp is np:
            present = np.flatnonzero(columns.reshape(-1) < self.size)
            indices, values = indices[present], values[present]
        return BCOO(
            (jnp.asarray(values), jnp.asarray(indices, jnp.int32)),
            shape=(places, self.size),
            indices_sorted=True,
            unique_indices=True,
        )

    def locate(self, u: Any, knots: Any = None) -> Any:
        """The cell in which each place lies: its number in `cells`.

        Args:
            u: as for `evaluate`.
            knots: as for `evaluate`.

        Returns:
            Numbers, of u's shape without its last axis. A place between two cells counts to that
            on the right, one outside of the domain to the nearest.
        """
        xp = _namespace(u, knots)
        at, batch = self._places(u, xp)
        return self._leaves(at, self._all_knots(knots, xp)[-1], xp).reshape(batch)

    def refine(self, marked: Any, around: int = 0) -> "THB":
        """The basis with some cells cut in half along all axes.

        A spline of the new level is active where all its support is refined: a lone cell has none
        of degree 2 or more. With `around` at half of the degree or more a marked cell always has.

        Args:
            marked: which of `cells` are refined, booleans of shape (cells,).
            around: how many cells of the same level on each side are refined as well.

        Returns:
            A basis in which every function of this one is contained; `prolongation` has its
            coefficients.

        Raises:
            ValueError: for another shape or dtype of `marked`.
        """
        marked, hierarchy = np.asarray(marked), self._hierarchy
        count = len(self.cells.level)
        if marked.shape != (count,) or marked.dtype != bool:
            raise ValueError(
                f"marked must be {count} booleans, but is {marked.dtype} of shape {marked.shape}."
            )
        around = operator.index(around)
        refined, first = [], 0
        for leaves, old, inside in zip(
            hierarchy.leaves, hierarchy.refined, hierarchy.inside, strict=True
        ):
            new = np.zeros(old.shape, bool)
            new[tuple(leaves[marked[first : first + len(leaves)]].T)] = True
            refined.append(old | (_dilated(new, around) & inside))
            first += len(leaves)
        while refined and not refined[-1].any():
            refined.pop()
        return THB([self.levels[0], *refined], self.degree)

    def prolongation(self, finer: "THB") -> "BCOO":
        """The matrix that takes coefficients to those of the same function in a finer basis.

        Truncation keeps coefficients: that of an active spline is the coefficient that it has in
        the function written in the splines of its own level, on a leaf of that level.

        Args:
            finer: a basis from `refine`, or from several such steps.

        Returns:
            A matrix of shape (finer.size, size).

        Raises:
            ValueError: where `finer` has other knots or degrees, or less refined cells.
        """
        from jax.experimental.sparse import BCOO

        old, new = self._hierarchy, finer._hierarchy
        self._check_contained(finer)
        knots = [axis.knots for axis in new.axes[0]]
        scales, extraction = new.two_scales(knots, np), old.extraction(knots, np)
        level_of = self.cells.level
        found: dict[int, tuple[np.ndarray, np.ndarray]] = {}
        for level, leaves in enumerate(new.leaves):
            numbers = new.numbers[level][new.local_splines(level, leaves)]
            # The old leaf is that of the first of the smallest cells.
            scale = 2 ** max(0, len(old.axes) - 1 - level)
            shrink = 2 ** max(0, level - len(old.axes) + 1)
            above = old.leaf_of[tuple((leaves * scale // shrink).T)]
            for cell, names, leaf in zip(leaves, numbers, above, strict=True):
                missing = [k for k, name in enumerate(names) if name >= 0 and name not in found]
                if not missing:
                    continue
                # Coefficients of the local splines of the old leaf, and then of the halves.
                rows = extraction[leaf].T
                for k in range(int(level_of[leaf]), level):
                    rows = _finer(scales[k], cell // 2 ** (level - 1 - k), rows)
                columns = old.table.columns[leaf]
                for k in missing:
                    chosen = (rows[k] != 0) & (columns < self.size)
                    found[int(names[k])] = columns[chosen], rows[k, chosen]
        rows = np.repeat(np.arange(finer.size), [len(found[k][0]) for k in range(finer.size)])
        columns, entries = (
            np.concatenate([found[k][part] for k in range(finer.size)]) for part in (0, 1)
        )
        return BCOO(
            (jnp.asarray(entries), jnp.asarray(np.stack([rows, columns], -1), jnp.int32)),
            shape=(finer.size, self.size),
            indices_sorted=True,
            unique_indices=True,
        )

    def _check_contained(self, finer: "THB") -> None:
        old, new = self._hierarchy, finer._hierarchy
        same = len(old.axes[0]) == len(new.axes[0]) and all(
            a.degree == b.degree and np.array_equal(a.knots, b.knots)
            for a, b in zip(old.axes[0], new.axes[0], strict=True)
        )
        if not same:
            raise ValueError("The finer basis must have the same knots of level 0 and degrees.")
        kept = len(old.refined) <= len(new.refined) and not any(
            (a & ~b).any() for a, b in zip(old.refined, new.refined, strict=False)
        )
        if not kept:
            raise ValueError("The finer basis must refine all cells that this one refines.")

    def _values(self, u: Any, knots: Any) -> tuple[Any, Any, tuple[int, ...]]:
        """Numbers and values of the splines at flat places, and the shape of the places."""
        xp = _namespace(u, knots)
        at, batch = self._places(u, xp)
        hierarchy, table = self._hierarchy, self._hierarchy.table
        all_knots = self._all_knots(knots, xp)
        leaf = self._leaves(at, all_knots[-1], xp)
        spans = self._spans
        locals_: Any = None
        inside: Any = True
        for k, degree in enumerate(self.degree):
            together = xp.concatenate([level[k] for level in all_knots])
            along = local_values(together, xp.asarray(spans[:, k])[leaf], at[:, k], degree, xp)
            locals_ = along if locals_ is None else locals_[..., None] * along[:, None]
            locals_ = locals_.reshape(len(at), -1)
            # In the places' own precision the ends belong to the domain.
            ends = xp.asarray(all_knots[0][k][hierarchy.axes[0][k].breaks[[0, -1]]], at.dtype)
            inside = inside & (ends[0] <= at[:, k]) & (at[:, k] <= ends[1])
        columns, values = xp.asarray(table.columns)[leaf], locals_
        if not table.only:
            weights = self._extraction if knots is None else self._extraction_at(knots, xp)
            values = (xp.asarray(weights, values.dtype)[leaf] * values[:, None]).sum(-1)
        if xp is jnp:
            values = jnp.where(inside[:, None], values, np.nan)
        elif not np.all(inside):
            where = at[np.flatnonzero(~inside)[0]]
            raise ValueError(
                f"{np.sum(~inside)} of {len(at)} places lie outside of the domain, such as {where}."
            )
        return columns, values, batch

    def _places(self, u: Any, xp: Any) -> tuple[Any, tuple[int, ...]]:
        """Places as (number, axes), and the shape that they have."""
        u = xp.asarray(u)
        if not jnp.issubdtype(u.dtype, np.floating):
            if jnp.issubdtype(u.dtype, np.complexfloating):
                raise TypeError(f"Places must be real, but got {u.dtype}.")
            u = u.astype(float)
        axes = len(self.degree)
        if axes == 1:
            return u.reshape(-1, 1), u.shape
        if u.ndim == 0 or u.shape[-1] != axes:
            raise ValueError(f"u must have shape (..., {axes}), but has shape {u.shape}.")
        return u.reshape(math.prod(u.shape[:-1]), axes), u.shape[:-1]

    def _all_knots(self, knots: Any, xp: Any) -> list[list[Any]]:
        """Those of each level and axis."""
        if knots is None:
            return [[axis.knots for axis in axes] for axes in self._hierarchy.axes]
        found = [self._knots(knots, xp)]
        for axes in self._hierarchy.axes[:-1]:
            found.append([axis.halves(t, xp) for axis, t in zip(axes, found[-1], strict=True)])
        return found

    def _knots(self, knots: Any, xp: Any) -> list[Any]:
        """Those of level 0, one array for each axis."""
        axes = self._hierarchy.axes[0]
        vectors = [knots] if len(axes) == 1 and np.ndim(knots) == 1 else list(knots)
        shapes, expected = [np.shape(t) for t in vectors], [axis.knots.shape for axis in axes]
        if shapes != expected:
            raise ValueError(f"knots must have the shapes {expected}, but have {shapes}.")
        return list(map(xp.asarray, vectors))

    def _leaves(self, at: Any, knots: Sequence[Any], xp: Any) -> Any:
        """The leaf in which each place lies."""
        axes = self._hierarchy.axes[-1]
        cells = [
            axis.cell(xp.asarray(t, at.dtype), at[:, k], xp)
            for k, (axis, t) in enumerate(zip(axes, knots, strict=True))
        ]
        return xp.asarray(self._hierarchy.leaf_of)[tuple(cells)]

    @functools.cached_property
    def _spans(self) -> np.ndarray:
        """For each leaf and axis its span, among the knots of all levels one after the other."""
        found, first = [], np.zeros(len(self.degree), int)
        for axes, leaves in zip(self._hierarchy.axes, self._hierarchy.leaves, strict=True):
            spans = [axis.spans[leaves[:, k]] for k, axis in enumerate(axes)]
            found.append(np.stack(spans, -1) + first)
            first = first + [len(axis.knots) for axis in axes]
        return np.concatenate(found)

    @functools.cached_property
    def _extraction(self) -> np.ndarray:
        return self._hierarchy.extraction([axis.knots for axis in self._hierarchy.axes[0]], np)

    def _extraction_at(self, knots: Any, xp: Any) -> Any:
        return self._hierarchy.extraction(self._knots(knots, xp), xp)


def _namespace(*values: Any) -> Any:
    """NumPy where all values are known, so that positions are, too."""
    traced = any(jax_internals.is_tracer(leaf) for leaf in jax.tree.leaves(values))
    return jnp if traced else np


def _typed(values: Any) -> list[Any]:
    return [leaf if hasattr(leaf, "dtype") else float(0) for leaf in jax.tree.leaves(values)]


def _axis(knots: Any, degree: int) -> Axis:
    knots = np.asarray(knots)
    if knots.dtype.kind not in "fiu":
        raise TypeError(f"Knots must be real numbers, but have dtype {knots.dtype}.")
    if degree < 0:
        raise ValueError(f"degree must not be negative, but got {degree}.")
    knots = knots.astype(float)
    if knots.ndim != 1 or len(knots) < 2 * degree + 2:
        raise ValueError(
            f"Degree {degree} takes a vector of at least {2 * degree + 2} knots, but got shape "
            f"{knots.shape}."
        )
    if not np.isfinite(knots).all() or (np.diff(knots) < 0).any():
        raise ValueError("Knots must be finite and not decrease.")
    if (knots[degree + 1 :] == knots[: -degree - 1]).any():
        at = knots[np.flatnonzero(knots[degree + 1 :] == knots[: -degree - 1])[0]]
        raise ValueError(
            f"A knot of degree {degree} may repeat {degree + 1} times, but {at} does more often."
        )
    count = len(knots) - degree - 1
    if knots[degree] == knots[degree + 1] or knots[count - 1] == knots[count]:
        raise ValueError(
            "The first and the last spline must not vanish in the domain, which begins at knot "
            f"{degree} and ends at knot {count}: {knots[degree]} and {knots[count]}."
        )
    return Axis(knots, degree)


def _region(region: Any, inside: np.ndarray, level: int) -> np.ndarray:
    region = np.asarray(region)
    if region.dtype != bool:
        raise TypeError(f"The region of level {level} must be boolean, but is {region.dtype}.")
    if region.shape != inside.shape:
        raise ValueError(
            f"The region of level {level} must have the shape of its cells, {inside.shape}, but "
            f"has {region.shape}."
        )
    if (region & ~inside).any():
        raise ValueError(f"Level {level} is refined outside of its region.")
    return region


def _dilated(cells: np.ndarray, around: int) -> np.ndarray:
    """Cells with so many on each side of them."""
    for axis, size in enumerate(cells.shape):
        turned = np.moveaxis(cells, axis, 0)
        grown = np.zeros_like(turned)
        for shift in range(-min(around, size - 1), min(around, size - 1) + 1):
            grown[max(0, shift) : size + min(0, shift)] |= turned[
                max(0, -shift) : size + min(0, -shift)
            ]
        cells = np.moveaxis(grown, 0, axis)
    return cells


def _finer(scales: Sequence[np.ndarray], cell: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Coefficients of the local splines of a cell's half, from those of the cell.

    Args:
        scales: for each axis what `Axis.two_scale` gives.
        cell: the half.
        rows: shape (local splines, any).
    """
    shape = rows.shape
    rows = rows.reshape(*(scale.shape[1] for scale in scales), shape[1])
    for k, scale in enumerate(scales):
        rows = np.moveaxis(np.tensordot(scale[cell[k]], rows, (1, k)), 0, k)
    return rows.reshape(shape)
