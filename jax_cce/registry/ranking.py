"""Which of two stored orders is better, within a layer of the registry and between layers."""

import math
from collections.abc import Collection, Iterable, Mapping
from typing import NamedTuple

from jax_cce.eliminations import vertices_of
from jax_cce.registry import stores
from jax_cce.registry.stored_order import StoredOrder, content_of, instant

__all__ = [
    "ASKED_FOR",
    "MEASURED",
    "MEMORY",
    "NATIVE",
    "PREFERENCE",
    "Located",
    "Vertices",
    "best_of_layers",
    "best_over_layers",
    "fits",
    "purpose_of",
    "rank_of",
]

Vertices = Collection[int] | Mapping[bool, Collection[int]]

# The bytes of temporary arrays, as XLA plans them. It has to be asked for: few bytes say nothing of
# the time.
MEMORY = "memory"
# Measured on one device: a newer value replaces an older one, and values are not compared.
MEASURED = frozenset({"runtime", MEMORY})
# The cost of native code. Its orders are of the graph of scalars: they have to be asked for.
NATIVE = "native"
ASKED_FOR = frozenset({NATIVE, MEMORY})
PREFERENCE = (
    "runtime",
    "flops",
    "runtime_model",
    "bytes",
    "nonunit_multiplications",
    "multiplications",
)


# Which of two entries is better. Ranks are compared within a layer; the lowest is the best. The
# digest makes the order strict: of equal results, no two writers remove each other's.


def purpose_of(entry: StoredOrder) -> tuple[object, ...]:
    """What two orders share if one may replace the other."""
    return entry.key, entry.cost, entry.device, entry.batch


def rank_of(entry: StoredOrder) -> tuple[float | str, ...]:
    """Orders for one purpose by quality, the lowest first."""
    created = instant(entry.created)
    if entry.cost in MEASURED:
        return -created, entry.value, str(content_of(entry)["checksum"])
    return entry.value, -(entry.bound or 0.0), created, str(content_of(entry)["checksum"])


class Located(NamedTuple):
    """An entry and the file that it is in; no store and no file name for memory."""

    entry: StoredOrder
    layer: str
    store: stores.Store | None = None
    file: str = ""

    @property
    def path(self) -> str:
        """Where the order lies, for people."""
        return self.store.path(self.file) if self.store else f"an entry for {self.entry.key}"


def best_over_layers(bests: Iterable[Located]) -> Located | None:
    """What a look-up takes of the layers' best entries, which come in the order of the layers."""
    chosen = None
    for best in bests:
        if chosen is None or (
            best.entry.cost not in MEASURED and best.entry.value < chosen.entry.value
        ):
            chosen = best
    return chosen


def fits(entry: StoredOrder, vertices: Vertices | None) -> bool:
    """Whether the vertices of an order are a permutation of these."""
    if isinstance(vertices, Mapping):
        vertices = vertices.get(entry.entries, ())
    if vertices is None:
        return True
    own = vertices_of(entry.order)
    return len(own) == len(vertices) and set(own) == set(vertices)


def best_of_layers(candidates: Iterable[Located], batch: int | None) -> list[Located]:
    """The best entry of each layer, in the order of the layers."""

    def rank(stored: Located) -> tuple[float | str, ...]:
        distance = 0.0
        if stored.entry.cost in MEASURED:
            distance = abs(math.log(stored.entry.batch or 1) - math.log(max(batch or 1, 1)))
        return distance, *rank_of(stored.entry)

    layers: dict[object, Located] = {}
    for stored in candidates:
        layer = stored.store
        if layer not in layers or rank(stored) < rank(layers[layer]):
            layers[layer] = stored
    return [*layers.values()]
