"""What a randomised derivative will store, how much work it is, and how large its error."""

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from jax_cce import reports
from jax_cce.randomized.draws import Method, count_of

__all__ = ["Cut", "RandomizedPlan", "SiteRow"]


@dataclass(frozen=True)
class SiteRow:
    """A site, or a product of an elimination, that is kept in part.

    Attributes:
        label: the primitive and the line that it is from.
        times: how often it is evaluated: more than once in a loop.
        elements: how many elements the coefficient has, such as those of a batch.
        features: how many numbers each of them has.
        kept: how many of them are kept.
        saved_bytes: what is stored.
        whole_bytes: what is stored of all of it.
        variance: the expected squared error of the derivative at this edge, summed over its
            entries: exact but for covariances, at the arguments given; None for shapes.
        method: "sample" or "project".
    """

    label: str
    times: int
    elements: int
    features: int
    kept: int
    saved_bytes: int
    whole_bytes: int
    variance: float | None = None
    method: Method = "sample"

    def factor(self, kept: int) -> float:
        """The variance of an entry that is kept so, over its mean square."""
        if self.method == "project":
            return (self.features - 1) / kept
        lengths = np.diff(np.arange(kept + 1) * self.features // kept)
        return float(np.sum(lengths**2)) / self.features - 1

    def of(self, kept: int) -> "SiteRow":
        """The same with another number of features kept."""
        if kept == self.kept or not self.kept:
            return self
        saved = self.saved_bytes // self.kept * kept
        variance = self.variance
        if variance is not None:
            before = self.factor(self.kept)
            variance *= self.factor(kept) / before if before and kept < self.features else 0.0
        return dataclasses.replace(self, kept=kept, saved_bytes=saved, variance=variance)


@dataclass(frozen=True)
class Cut:
    """A vertex that all paths lead through.

    Attributes:
        vertex: its number, as in `jax_cce.plan`.
        label: the primitive and the line that computes it.
        entries: how many entries it has.
        kept: how many would be drawn.
        saved_bytes: of the two factors, what is read after the draw.
        variance: the expected squared error of the Jacobian; None for shapes.
        relative: its root relative to the norm of the Jacobian; None for shapes.
    """

    vertex: int
    label: str
    entries: int
    kept: int
    saved_bytes: int
    variance: float | None = None
    relative: float | None = None

    @property
    def price(self) -> float:
        """Variance times bytes, which do not depend on how many are drawn; bytes for shapes."""
        return self.saved_bytes * (1.0 if self.variance is None else self.variance)


@dataclass(frozen=True)
class RandomizedPlan:
    """How a randomised derivative will be computed.

    Attributes:
        sites: what is kept in part.
        saved_bytes: all that the way back reads, beside arguments and constants.
        exact_bytes: the same where nothing is sampled.
        work: operations, those that draw random numbers included.
        exact_work: operations where nothing is sampled.
        variance: the expected squared error of the derivative, to first order: that of the sites
            together; None for shapes.
        relative: its root relative to the norm of the derivative; None for shapes.
        cuts: for sites="cut" all candidates, the best first.
    """

    sites: tuple[SiteRow, ...]
    saved_bytes: int
    exact_bytes: int
    work: float
    exact_work: float
    variance: float | None = None
    relative: float | None = None
    cuts: tuple[Cut, ...] = ()

    @property
    def keeps(self) -> tuple[float, ...]:
        """The part that each site keeps, to be passed as `keep`."""
        return tuple(row.kept / row.features if row.features else 1.0 for row in self.sites)

    def allocated(self, keep: float) -> "RandomizedPlan":
        """The same bytes as for one `keep`, where they lower the variance most.

        A site with n features of which k are kept has a variance of (n/k - 1) V and b k bytes. The
        sum of variances for a given sum of bytes is least for k in proportion to the root of
        n V / b.

        Args:
            keep: the part that all sites keep together.

        Raises:
            ValueError: where the plan was made for shapes, so that no variance is known.
        """
        if any(row.variance is None for row in self.sites):
            raise ValueError(
                "allocated() needs predicted variances: make the plan for arrays, not for shapes."
            )
        total = sum(row.whole_bytes * keep for row in self.sites)
        units = [row.whole_bytes / max(row.features, 1) for row in self.sites]
        slopes = []
        for row, unit in zip(self.sites, units, strict=True):
            factor = row.factor(row.kept) if row.kept else 0.0
            spread = (row.variance or 0.0) / factor if factor else 0.0
            slopes.append(math.sqrt(row.features * spread / unit) if unit else 0.0)
        counts = _within(total, units, slopes, [row.features for row in self.sites])
        rows = tuple(row.of(count) for row, count in zip(self.sites, counts, strict=True))
        change = sum(row.saved_bytes for row in rows) - sum(row.saved_bytes for row in self.sites)
        variance = sum(row.variance or 0.0 for row in rows)
        relative = self.relative
        if relative is not None and self.variance:
            relative *= math.sqrt(variance / self.variance)
        return dataclasses.replace(
            self,
            sites=rows,
            saved_bytes=self.saved_bytes + change,
            variance=variance,
            relative=relative,
        )

    def __str__(self) -> str:
        """A summary and a table of the sites."""
        share = self.saved_bytes / self.exact_bytes if self.exact_bytes else 1.0
        lines = [
            f"saved: {self.saved_bytes:,} bytes, exact {self.exact_bytes:,} ({share:.0%})",
            f"work: {self.work:,.0f} operations, exact {self.exact_work:,.0f}",
        ]
        if self.relative is not None:
            lines.append(f"relative standard deviation: {self.relative:.3g}")
        header: tuple[str, ...] = ("site", "times", "elements", "kept", "bytes", "variance")
        rows = tuple(
            (
                row.label,
                f"{row.times:,}",
                f"{row.elements:,}",
                f"{row.kept:,} of {row.features:,}",
                f"{row.saved_bytes:,}",
                _shown(row.variance),
            )
            for row in self.sites
        )
        text = [reports.Section("Randomised derivative", tuple(lines), header, rows).text()]
        if self.cuts:
            header = ("cut", "at", "kept", "bytes", "relative deviation")
            of_cuts = tuple(
                (
                    str(cut.vertex),
                    cut.label,
                    f"{cut.kept:,} of {cut.entries:,}",
                    f"{cut.saved_bytes:,}",
                    _shown(cut.relative),
                )
                for cut in self.cuts
            )
            text.append(reports.Section("Cuts, the best first", (), header, of_cuts).text())
        return "\n".join(text)


def _shown(number: float | None) -> str:
    return "" if number is None else f"{number:.3g}"


def _within(
    total: float, units: Sequence[float], slopes: Sequence[float], sizes: Sequence[int]
) -> list[int]:
    """Counts in proportion to some slopes, from 1 to their sizes, of at most a total price."""
    low, high = (
        0.0,
        max(
            (size / slope for size, slope in zip(sizes, slopes, strict=True) if slope), default=1.0
        ),
    )

    def at(scale: float) -> list[int]:
        return [
            min(size, max(1, math.floor(scale * slope)))
            for slope, size in zip(slopes, sizes, strict=True)
        ]

    def price(counts: Sequence[int]) -> float:
        return sum(unit * count for unit, count in zip(units, counts, strict=True))

    # What one keeps for all, rounded up, may be more than asked for: that is the bound then.
    total = max(total, price([count_of(0.0, size) for size in sizes]))
    for _ in range(60):
        middle = (low + high) / 2
        if price(at(middle)) <= total:
            low = middle
        else:
            high = middle
    return at(low)
