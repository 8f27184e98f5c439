"""The registry: elimination orders that were found once, kept on disk for every later process.

An entry is one small JSON file, `<key[:2]>/<key>.<cost>.<digest>.json`. The digest is of the
content, so two writers never overwrite each other's result: a reader takes the best of what is
there, and a writer removes only what is worse than a result that is safely on the disk. Nothing in
a file is trusted: what is damaged or foreign is reported once, ignored, and never fatal.
"""

import contextlib
import dataclasses
import datetime
import os
import pathlib
import threading
from collections.abc import Iterable, Iterator

from jax_cce.eliminations import vertices_of
from jax_cce.registry import stores
from jax_cce.registry.listing import StoredOrders
from jax_cce.registry.ranking import (
    ASKED_FOR,
    MEASURED,
    PREFERENCE,
    Located,
    Vertices,
    best_of_layers,
    best_over_layers,
    fits,
    purpose_of,
    rank_of,
)
from jax_cce.registry.reading import readable, surveyed
from jax_cce.registry.reports import reason, warn_file, warn_once, warn_unreadable
from jax_cce.registry.stored_order import (
    SCHEMA,
    DamagedError,
    NewerError,
    StoredOrder,
    content_of,
    file_name,
    instant,
    parsed,
    serialised,
    stored_order_of,
)

__all__ = [
    "SCHEMA",
    "Registry",
    "StoredOrder",
]


def _now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)


class Registry:
    """Orders in memory and in layers of directories or URLs.

    Layers are looked up in turn: memory, user, shared, shipped. The first one wins, but an order
    that is truly cheaper wins wherever it is. Only the user's location is written; where that
    fails, the entry stays in memory. An answer is remembered: this process keeps to it until it
    changes the registry itself.

    Args:
        user: directory, or URL for fsspec, to read and write; None for memory alone.
        shared: locations to read.
        shipped: location of the entries that come with a package.

    Attributes:
        generation: rises with each `put`, `import_` and `prune`, so that look-ups can be cached.

    Examples:
        >>> from jax_cce.registry import Registry, StoredOrder
        >>> registry = Registry()
        >>> _ = registry.put(StoredOrder("0" * 64, "flops", (2, 0, 1), 34))
        >>> registry.get("0" * 64, "flops").order
        (2, 0, 1)
    """

    def __init__(
        self,
        user: stores.Location | None = None,
        shared: Iterable[stores.Location] = (),
        shipped: stores.Location | None = None,
    ) -> None:
        if isinstance(shared, str | os.PathLike):
            raise TypeError(f"shared must be a sequence of locations: ({shared!r},).")
        self.generation = 0
        self._user = None if user is None else stores.opened(user)
        self._layers = [("user", self._user)] if self._user else []
        self._layers += [("shared", stores.opened(each)) for each in shared]
        self._layers += [] if shipped is None else [("shipped", stores.opened(shipped))]
        self._lock = threading.Lock()
        self._memory: dict[str, list[StoredOrder]] = {}
        self._answers: dict[tuple[object, ...], tuple[StoredOrder, str]] = {}

    def __repr__(self) -> str:
        layers = [f"{name} {store.location!r}" for name, store in self._layers]
        return f"Registry({', '.join(['memory', *layers])})"

    def get(
        self,
        key: str,
        cost: str | None = None,
        *,
        device: str | None = None,
        batch: int | None = None,
        vertices: Vertices | None = None,
    ) -> StoredOrder | None:
        """The best entry for a function, or None.

        Args:
            key: identifies the function.
            cost: name of the cost; None takes the first that there is of "runtime" (on this
                device), "flops", "runtime_model", "bytes", the counts of multiplications, and
                others by name; "native", whose orders are of the graph of scalars, and "memory" are
                none of them.
            device: kind of the device; "runtime" and "memory" must have been measured on the same.
            batch: batch size; of measured entries, that of the nearest size is taken, as a ratio.
            vertices: the function's vertices, or by `StoredOrder.entries` those of its graph with
                small arrays whole and taken apart; an entry whose order is no permutation of them
                is reported and ignored.
        """
        answer = self.found(key, cost, device=device, batch=batch, vertices=vertices)
        return answer and answer[0]

    def found(
        self,
        key: str,
        cost: str | None = None,
        *,
        device: str | None = None,
        batch: int | None = None,
        vertices: Vertices | None = None,
    ) -> tuple[StoredOrder, str] | None:
        """Like `get`, with the name of the layer: "memory", "user", "shared" or "shipped"."""
        question = (key, cost, device, batch)
        with self._lock:
            answer = self._answers.get(question)
            generation = self.generation
        if answer and fits(answer[0], vertices):
            return answer
        by_cost: dict[str, list[Located]] = {}
        for stored in self._stored(key, cost):
            if stored.entry.cost in MEASURED and stored.entry.device != device:
                continue
            if stored.entry.cost in ASKED_FOR and cost is None:
                continue
            if fits(stored.entry, vertices):
                by_cost.setdefault(stored.entry.cost, []).append(stored)
            else:
                warn_once(
                    ("file", stored.path),
                    f"{stored.path}: its order is no permutation of this function's vertices, so "
                    "it was found for another one. It is ignored; remove it.",
                )
        if not by_cost:
            return None
        preferred = [each for each in PREFERENCE if each in by_cost] or sorted(by_cost)
        chosen = best_over_layers(best_of_layers(by_cost[preferred[0]], batch))
        assert chosen is not None
        answer = chosen.entry, chosen.layer
        with self._lock:
            if generation == self.generation:
                self._answers[question] = answer
        return answer

    def of_topology(
        self, topology: str, *, device: str | None = None
    ) -> tuple[StoredOrder, str] | None:
        """The newest entry for any size of a function, with the name of its layer; or None.

        Costs of several sizes do not compare, so that of the preferred cost (see `get`) the newest
        is taken. All files are read.

        Args:
            topology: identifies the function up to sizes (see `StoredOrder`).
            device: as for `get`.
        """
        found: dict[str, list[Located]] = {}
        for stored in self._stored(None, None):
            entry = stored.entry
            measured_here = entry.cost not in MEASURED or entry.device == device
            is_of_arrays = entry.method != "native" and not entry.entries
            if entry.topology == topology and measured_here and is_of_arrays:
                found.setdefault(entry.cost, []).append(stored)
        for cost in PREFERENCE:
            if cost in found:
                newest = max(found[cost], key=lambda each: instant(each.entry.created))
                return newest.entry, newest.layer
        return None

    def put(self, entry: StoredOrder) -> StoredOrder:
        """Stores an entry, unless one for the same purpose is as good.

        Where writing fails it warns, once for a location, and keeps the entry in memory.

        Args:
            entry: the entry; an empty `created` becomes the present time.

        Returns:
            The entry that is stored now: this one or the better one. A measured entry is better
            than an older one; another one where its value is lower or, at the same value, its
            bound higher.
        """
        return self._put(entry)[0]

    def _put(self, entry: StoredOrder) -> tuple[StoredOrder, bool]:
        if not entry.created:
            entry = dataclasses.replace(entry, created=_now().isoformat())
        rivals = [
            stored
            for stored in self._stored(entry.key, entry.cost)
            # One with other vertices is for another function, whatever its key says, and a
            # measurement of somebody else's does not stand in for one that was made here.
            if purpose_of(stored.entry) == purpose_of(entry)
            and fits(stored.entry, vertices_of(entry.order))
            and (entry.cost not in MEASURED or stored.layer in ("memory", "user"))
        ]
        best = min(rivals, key=lambda stored: rank_of(stored.entry), default=None)
        is_better = best is None or rank_of(entry) < rank_of(best.entry)
        if best and not is_better:
            entry = best.entry
            # One that could not be written when it was found is tried again.
            if best.layer != "memory" or self._user is None:
                self._changed()
                return entry, False
        written = self._write(entry)
        worse = [each for each in rivals if rank_of(each.entry) > rank_of(entry)]
        with self._lock:
            held = self._memory.setdefault(entry.key, [])
            dropped = [entry, *(each.entry for each in worse)]
            held[:] = [each for each in held if all(each is not other for other in dropped)]
            if not written:
                held.append(entry)
        if written and self._user:
            for each in worse:
                if each.layer == "user":
                    # Another writer may be removing it too, and it does no harm.
                    with contextlib.suppress(OSError):
                        self._user.remove(each.file)
        self._changed()
        return entry, is_better

    def entries(self, *, key: str | None = None, cost: str | None = None) -> StoredOrders:
        """The entries that look-ups find, one for each key, cost, device and batch.

        The list shows itself as a table, one's own orders before those of the package.

        Args:
            key: only entries of this function.
            cost: only entries for this cost.
        """
        groups: dict[tuple[object, ...], list[Located]] = {}
        for stored in self._stored(key, cost):
            groups.setdefault(purpose_of(stored.entry), []).append(stored)
        chosen = (best_over_layers(best_of_layers(group, None)) for group in groups.values())
        entries = [(each.entry, each.layer) for each in chosen if each]
        entries.sort(key=lambda e: (e[0].key, e[0].cost, e[0].device or "", e[0].batch or 0))
        return StoredOrders(entries)

    def layer_of(self, entry: StoredOrder) -> str:
        """Which layer holds an entry: "memory", "user", "shared", "shipped"; "" where none does."""
        stored = self._stored(entry.key, entry.cost)
        return next((each.layer for each in stored if each.entry == entry), "")

    def export(
        self, path: stores.Location, *, key: str | None = None, cost: str | None = None
    ) -> int:
        """Writes the orders of `entries` into one JSON file, for `import_`; returns their number.

        Args:
            path: the file to write; an older one is replaced as a whole.
            key: only entries of this function.
            cost: only entries for this cost.

        Raises:
            OSError: where the file cannot be written.
        """
        entries = [content_of(entry) for entry in self.entries(key=key, cost=cost)]
        stores.write_whole(os.fspath(path), serialised({"schema": SCHEMA, "entries": entries}))
        return len(entries)

    def import_(self, path: stores.Location) -> int:
        """Puts each entry of an exported file; returns how many were new or better.

        A damaged entry is reported by a warning and left out.

        Args:
            path: a file that `export` wrote.

        Raises:
            OSError: where the file cannot be read.
            ValueError: where it is no exported file.
        """
        try:
            content = parsed(pathlib.Path(path).read_bytes())
        except DamagedError as error:
            raise ValueError(f"{os.fspath(path)} is no export of a registry: {error}.") from error
        if not isinstance(content, dict) or not isinstance(content.get("entries"), list):
            raise ValueError(
                f"{os.fspath(path)} is no export of a registry: it must be a JSON object with a "
                f'list "entries". Write one with `jax-cce registry export`.'
            )
        stored = 0
        for number, each in enumerate(content["entries"]):
            try:
                stored += self._put(stored_order_of(each))[1]
            except (DamagedError, NewerError) as error:
                warn_once(
                    ("import", os.fspath(path), number),
                    f"{os.fspath(path)}: entry {number} was left out: {error}. Export it again.",
                )
        self._changed()
        return stored

    def prune(
        self,
        *,
        older_than_days: float | None = None,
        superseded: bool = True,
        damaged: bool = True,
        dry_run: bool = False,
    ) -> list[str]:
        """Removes files from the user's location, and temporary ones of killed writers.

        Files that cannot be read, that a newer version of jax_cce wrote, or whose name is not that
        of an entry stay.

        Args:
            older_than_days: removes entries whose `created` is longer ago, or empty.
            superseded: removes entries that a better one has replaced.
            damaged: removes entries that are damaged.
            dry_run: only returns what it would remove.

        Returns:
            The paths of the files.
        """
        if self._user is None:
            return []
        try:
            stale, files = surveyed(self._user)
        except OSError as error:
            warn_unreadable(self._user, error)
            return []
        names = set(stale)
        groups: dict[tuple[object, ...], list[tuple[StoredOrder, str]]] = {}
        for name, entry in files:
            if isinstance(entry, StoredOrder):
                age = _now().timestamp() - instant(entry.created)
                if older_than_days is not None and age > older_than_days * 86400:
                    names.add(name)
                    continue
                group = (*purpose_of(entry), frozenset(vertices_of(entry.order)))
                groups.setdefault(group, []).append((entry, name))
            elif damaged and isinstance(entry, DamagedError):
                names.add(name)
        if superseded:
            for group_entries in groups.values():
                group_entries.sort(key=lambda each: rank_of(each[0]))
                names.update(name for _, name in group_entries[1:])
        removed = []
        for name in sorted(names):
            try:
                if not dry_run:
                    self._user.remove(name)
                removed.append(self._user.path(name))
            except OSError as error:
                warn_file(self._user.path(name), f"it could not be removed ({reason(error)})")
        if not dry_run:
            self._changed()
        return removed

    def verify(self) -> list[str]:
        """Reads every file of every layer and returns the problems, one line each."""
        lines = []
        for _, store in self._layers:
            try:
                stale, files = surveyed(store)
            except OSError as error:
                lines.append(f"{store.location}: it could not be read ({reason(error)})")
                continue
            lines += [f"{store.path(name)}: a killed writer left it" for name in stale]
            for name, entry in files:
                if isinstance(entry, OSError):
                    lines.append(f"{store.path(name)}: it could not be read ({reason(entry)})")
                elif isinstance(entry, Exception):
                    lines.append(f"{store.path(name)}: {entry}")
        return [line.replace("\n", " ") for line in lines]

    def _changed(self) -> None:
        with self._lock:
            self.generation += 1
            self._answers.clear()

    def _write(self, entry: StoredOrder) -> bool:
        """Whether the entry is on the disk now."""
        if self._user is None:
            return False
        content = content_of(entry)
        try:
            self._user.write(file_name(content), serialised(content))
        except OSError as error:
            warn_once(
                ("write", self._user.location),
                f"{self._user.location}: an order could not be stored ({reason(error)}). What "
                "this process finds stays in its memory only. Make room or the directory "
                "writable, or set JAX_CCE_REGISTRY to another one.",
            )
            return False
        return True

    def _stored(self, key: str | None, cost: str | None) -> Iterator[Located]:
        """The valid entries, layer by layer, of one key and cost or of all."""
        with self._lock:
            held = [entry for entries in self._memory.values() for entry in entries]
        for entry in held:
            if key in (None, entry.key) and cost in (None, entry.cost):
                yield Located(entry, "memory")
        for layer, store in self._layers:
            try:
                for prefix in store.prefixes() if key is None else [key[:2]]:
                    for name, entry in readable(store, prefix, key, cost):
                        yield Located(entry, layer, store, name)
            except OSError as error:
                warn_unreadable(store, error)


# By its former name.
Registry.list = Registry.entries  # type: ignore[attr-defined]
