"""Lists of stored orders, as people read them."""

from collections.abc import Iterable

from jax_cce import reports
from jax_cce.eliminations import vertices_of
from jax_cce.registry.stored_order import SHORT_KEY, StoredOrder, instant

__all__ = ["StoredOrders"]

# Rows of each table.
_MOST_ROWS = 60


class StoredOrders(list[StoredOrder]):
    """A list of stored orders that shows itself as a table.

    One's own orders stand before those that come with the package, the newest first.

    Args:
        located: the orders, each with the name of the registry's layer that holds it.
    """

    def __init__(self, located: Iterable[tuple[StoredOrder, str]] = ()) -> None:
        located = list(located)
        super().__init__(entry for entry, _ in located)
        self._layers = dict(located)

    def layer(self, entry: StoredOrder) -> str:
        """Where an order lies: "memory", "user", "shared", "shipped"; "" where that is unknown."""
        return self._layers.get(entry, "")

    def newest_first(self, *, shipped: bool) -> list[StoredOrder]:
        """One's own orders, or those that come with the package, the newest first."""
        chosen = [entry for entry in self if (self.layer(entry) == "shipped") == shipped]
        return sorted(chosen, key=lambda entry: -instant(entry.created))

    def __repr__(self) -> str:
        return "\n\n".join(section.text() for section in self._sections())

    def _repr_html_(self) -> str:
        return reports.page(self._sections())

    def _sections(self) -> list[reports.Section]:
        own, shipped = (self.newest_first(shipped=each) for each in (False, True))
        if not self:
            return [reports.Section("The registry holds no such orders.")]
        sections = [self._section("Your orders", own)] if own else []
        if shipped:
            sections.append(self._section("Orders that come with the package", shipped))
        return sections

    def _section(self, title: str, entries: list[StoredOrder]) -> reports.Section:
        left = len(entries) - _MOST_ROWS
        header = ("name", "cost", "method", "vertices", "found by", "origin", "created", "key")
        rows = (
            (
                entry.name,
                entry.amount,
                entry.method,
                f"{len(vertices_of(entry.order)):,}",
                entry.strategy,
                ", ".join(filter(None, (self.layer(entry), entry.device))),
                entry.created[:10],
                entry.key[:SHORT_KEY],
            )
            for entry in entries[:_MOST_ROWS]
        )
        more = (f"the newest {_MOST_ROWS} of them",) if left > 0 else ()
        return reports.Section(f"{title}: {len(entries):,}", more, header, tuple(rows))
