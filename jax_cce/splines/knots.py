"""B-splines of one degree on one knot vector: values, supports, and what halving the cells does.

A cell is an interval between neighbouring distinct knots in the domain [t_p, t_n]. In the cell
[t_μ, t_(μ+1)) the splines μ-p, ..., μ are not zero; they are its local splines. The last cell is
closed.
"""

import dataclasses
import functools
from typing import Any

import numpy as np

__all__ = ["Axis", "local_values"]


@dataclasses.dataclass(frozen=True, eq=False)
class Axis:
    """The static facts of a knot vector t; values of knots are passed to the methods.

    Attributes:
        knots: t, shape (n + p + 1,), not decreasing.
        degree: p.
    """

    knots: np.ndarray
    degree: int

    @property
    def count(self) -> int:
        """n, how many splines there are."""
        return len(self.knots) - self.degree - 1

    @functools.cached_property
    def spans(self) -> np.ndarray:
        """μ for each cell."""
        inner = np.arange(self.degree, self.count)
        return inner[self.knots[inner] < self.knots[inner + 1]]

    @property
    def cells(self) -> int:
        """How many cells there are."""
        return len(self.spans)

    @functools.cached_property
    def breaks(self) -> np.ndarray:
        """Positions in t of the ends of the cells, one more than cells."""
        return np.append(self.spans, self.spans[-1] + 1)

    @functools.cached_property
    def support(self) -> tuple[np.ndarray, np.ndarray]:
        """For each spline its first cell, and that behind its last."""
        each = np.arange(self.count)
        first = np.searchsorted(self.spans, each, side="left")
        return first, np.searchsorted(self.spans, each + self.degree, side="right")

    @functools.cached_property
    def halved(self) -> "Axis":
        """The axis with each cell cut in half."""
        return Axis(self.halves(self.knots, np), self.degree)

    @functools.cached_property
    def _order(self) -> np.ndarray:
        """Where each knot comes from when cells are halved: knots, and then midpoints."""
        size = len(self.knots)
        return np.insert(np.arange(size), self.spans + 1, size + np.arange(self.cells))

    def halves(self, knots: Any, xp: Any) -> Any:
        """The knots of the halved cells, from those of the cells.

        Args:
            knots: values for t.
            xp: `numpy` or `jax.numpy`.
        """
        middles = (knots[self.spans] + knots[self.spans + 1]) / 2
        return xp.concatenate([knots, middles])[self._order]

    def two_scale(self, knots: Any, xp: Any) -> Any:
        """How the local splines of a cell are made from those of its halves (knot insertion).

        On each half, coarse spline b is Σ_a A[a, b] (fine spline a). The coefficient A[a, b] is the
        polar form of the coarse spline at the p inner knots of the fine one (Ramshaw 1989), by de
        Boor's recursion; it vanishes where the fine one reaches out of the coarse one.

        Args:
            knots: values for t.
            xp: `numpy` or `jax.numpy`.

        Returns:
            A for each half in turn, shape (2 * cells, p + 1, p + 1).
        """
        p, fine = self.degree, self.halved
        coarse_span, local = np.repeat(self.spans, 2)[:, None], np.arange(p + 1)
        fine_knots = self.halves(knots, xp)
        # [half, fine spline, entry of the recursion, coarse spline]
        entries = xp.broadcast_to(xp.eye(p + 1), (2 * self.cells, p + 1, p + 1, p + 1))
        for r in range(1, p + 1):
            at = fine_knots[(fine.spans - p)[:, None] + local + r][:, :, None]
            left = knots[coarse_span - p + np.arange(r, p + 1)][:, None]
            right = knots[coarse_span + 1 + np.arange(p + 1 - r)][:, None]
            share = ((at - left) / (right - left))[..., None]
            entries = (1 - share) * entries[:, :, :-1] + share * entries[:, :, 1:]
        # Positions of the coarse knots among the fine ones.
        old = np.arange(len(self.knots))
        place = old + np.searchsorted(self.spans + 1, old, side="right")
        coarse = coarse_span[:, None] - p + local
        finer = fine.spans[:, None, None] - p + local[:, None]
        within = (place[coarse] <= finer) & (finer + p + 1 <= place[coarse + p + 1])
        return xp.where(within, entries[:, :, 0], 0)

    def cell(self, knots: Any, at: Any, xp: Any) -> Any:
        """Which cell each place is in; those outside count to the cell at that end."""
        ends = knots[self.breaks]
        return xp.clip(xp.searchsorted(ends, at, side="right") - 1, 0, self.cells - 1)


def local_values(knots: Any, span: Any, at: Any, degree: int, xp: Any) -> Any:
    """The local splines, by the recursion of Cox and de Boor (1972).

    Args:
        knots: t.
        span: μ of each place, shape (k,).
        at: places, shape (k,).
        degree: p.
        xp: `numpy` or `jax.numpy`.

    Returns:
        The values, shape (k, p + 1). No difference of knots in it is zero.
    """
    # Of knots μ - p + 1, ..., μ + p.
    near = knots[span[:, None] + np.arange(1 - degree, degree + 1)]
    middle = degree - 1
    values = [xp.ones_like(at)]
    for k in range(1, degree + 1):
        rising = [
            values[j] / (near[:, middle + j + 1] - near[:, middle + j + 1 - k]) for j in range(k)
        ]
        values = [
            (at - near[:, middle + j - k]) * rising[j - 1]
            if j == k
            else (near[:, middle + j + 1] - at) * rising[j]
            if j == 0
            else (at - near[:, middle + j - k]) * rising[j - 1]
            + (near[:, middle + j + 1] - at) * rising[j]
            for j in range(k + 1)
        ]
    return xp.stack(values, -1)
