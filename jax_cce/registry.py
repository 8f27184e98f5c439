"""The registry: elimination orders that were found once, kept on disk for every later process.

An entry is one small JSON file, `<key[:2]>/<key>.<cost>.<digest>.json`. The digest is of the
content, so two writers never overwrite each other's result: a reader takes the best of what is
there, and a writer removes only what is worse than a result that is safely on the disk. Nothing in
a file is trusted: what is damaged or foreign is reported once, ignored, and never fatal.
"""

import builtins
import contextlib
import dataclasses
import datetime
import importlib.resources
import math
import os
import pathlib
import re
import threading
import warnings
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import NamedTuple

from jax_cce import stores
from jax_cce.stores import (
    FILE_NAME,
    SCHEMA,
    DamagedError,
    Entry,
    NewerError,
    content_of,
    entry_of,
    file_name,
    instant,
    load,
    parsed,
    serialised,
)

__all__ = [
    "SCHEMA",
    "Entry",
    "Registry",
    "RegistryWarning",
    "default",
    "export",
    "get",
    "import_",
    "list",
    "prune",
    "put",
    "verify",
]

Vertices = Collection[int] | Mapping[bool, Collection[int]]

# Measured on one device: a newer value replaces an older one, and values are not compared.
_MEASURED = frozenset({"runtime"})
_PREFERENCE = (
    "runtime",
    "flops",
    "runtime_model",
    "bytes",
    "nonunit_multiplications",
    "multiplications",
)

# A writer may remove a file between a reader's listing and its opening; then the reader lists anew.
_MOST_LISTINGS = 8
_STALE_SECONDS = 3600.0

_ADVICE = (
    "It is ignored. `jax-cce registry verify` lists all such files, `jax-cce registry prune` "
    "removes the damaged ones from your own registry."
)


class RegistryWarning(UserWarning):
    """Something in the registry could not be read, trusted or written, and was left out."""


def _now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)


# Which of two entries is better. Ranks are compared within a layer; the lowest is the best. The
# digest makes the order strict: of equal results, no two writers remove each other's.


def _group(entry: Entry) -> tuple[object, ...]:
    return entry.key, entry.cost, entry.device, entry.batch


def _rank(entry: Entry) -> tuple[float | str, ...]:
    created = instant(entry.created)
    if entry.cost in _MEASURED:
        return -created, entry.value, str(content_of(entry)["checksum"])
    return entry.value, -(entry.bound or 0.0), created, str(content_of(entry)["checksum"])


class _Stored(NamedTuple):
    """An entry and the file that it is in; no store and no file name for memory."""

    entry: Entry
    layer: str
    store: stores.Store | None = None
    file: str = ""

    @property
    def path(self) -> str:
        return self.store.path(self.file) if self.store else f"an entry for {self.entry.key}"


def _over_layers(bests: Iterable[_Stored]) -> _Stored | None:
    """What a look-up takes of the layers' best entries, which come in the order of the layers."""
    chosen = None
    for best in bests:
        if chosen is None or (
            best.entry.cost not in _MEASURED and best.entry.value < chosen.entry.value
        ):
            chosen = best
    return chosen


# Warnings, each once in a process: a look-up runs for every function that is differentiated.

_warned: set[object] = set()
_warned_lock = threading.Lock()


def _warn_once(about: object, message: str) -> None:
    with _warned_lock:
        if about in _warned:
            return
        _warned.add(about)
    warnings.warn(message, RegistryWarning, stacklevel=3)


def _warn_file(path: str, problem: object) -> None:
    _warn_once(("file", path), f"{path}: {str(problem).rstrip('.')}. {_ADVICE}")


def _warn_unreadable(store: stores.Store, error: OSError) -> None:
    _warn_once(
        ("read", store.location),
        f"{store.location}: this registry could not be read ({_reason(error)}), so its entries are "
        "not used. Mend it, or change JAX_CCE_REGISTRY or JAX_CCE_REGISTRY_SHARED.",
    )


def _reason(error: OSError) -> str:
    return error.strerror or str(error)


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

    Example:
        >>> registry = Registry()
        >>> _ = registry.put(Entry("0" * 64, "flops", (2, 0, 1), 34))
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
        self._memory: dict[str, builtins.list[Entry]] = {}
        self._answers: dict[tuple[object, ...], tuple[Entry, str]] = {}

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
    ) -> Entry | None:
        """The best entry for a function, or None.

        Args:
            key: identifies the function.
            cost: name of the cost; None takes the first that there is of "runtime" (on this
                device), "flops", "runtime_model", "bytes", the counts of multiplications, and
                others by name.
            device: kind of the device; "runtime" must have been measured on the same.
            batch: batch size; of measured entries, that of the nearest size is taken, as a ratio.
            vertices: the function's vertices, or by `Entry.entries` those of its graph with small
                arrays whole and taken apart; an entry whose order is no permutation of them is
                reported and ignored.
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
    ) -> tuple[Entry, str] | None:
        """Like `get`, with the name of the layer: "memory", "user", "shared" or "shipped"."""
        question = (key, cost, device, batch)
        with self._lock:
            answer = self._answers.get(question)
            generation = self.generation
        if answer and _fits(answer[0], vertices):
            return answer
        by_cost: dict[str, builtins.list[_Stored]] = {}
        for stored in self._stored(key, cost):
            if stored.entry.cost in _MEASURED and stored.entry.device != device:
                continue
            if _fits(stored.entry, vertices):
                by_cost.setdefault(stored.entry.cost, []).append(stored)
            else:
                _warn_once(
                    ("file", stored.path),
                    f"{stored.path}: its order is no permutation of this function's vertices, so "
                    "it was found for another one. It is ignored; remove it.",
                )
        if not by_cost:
            return None
        preferred = [each for each in _PREFERENCE if each in by_cost] or sorted(by_cost)
        chosen = _over_layers(_best_of_layers(by_cost[preferred[0]], batch))
        assert chosen is not None
        answer = chosen.entry, chosen.layer
        with self._lock:
            if generation == self.generation:
                self._answers[question] = answer
        return answer

    def put(self, entry: Entry) -> Entry:
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

    def _put(self, entry: Entry) -> tuple[Entry, bool]:
        if not entry.created:
            entry = dataclasses.replace(entry, created=_now().isoformat())
        rivals = [
            stored
            for stored in self._stored(entry.key, entry.cost)
            # One with other vertices is for another function, whatever its key says, and a
            # measurement of somebody else's does not stand in for one that was made here.
            if _group(stored.entry) == _group(entry)
            and _fits(stored.entry, entry.order)
            and (entry.cost not in _MEASURED or stored.layer in ("memory", "user"))
        ]
        best = min(rivals, key=lambda stored: _rank(stored.entry), default=None)
        is_better = best is None or _rank(entry) < _rank(best.entry)
        if best and not is_better:
            entry = best.entry
            # One that could not be written when it was found is tried again.
            if best.layer != "memory" or self._user is None:
                self._changed()
                return entry, False
        written = self._write(entry)
        worse = [each for each in rivals if _rank(each.entry) > _rank(entry)]
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

    def list(self, *, key: str | None = None, cost: str | None = None) -> builtins.list[Entry]:
        """The entries that look-ups find, one for each key, cost, device and batch.

        Args:
            key: only entries of this function.
            cost: only entries for this cost.
        """
        groups: dict[tuple[object, ...], builtins.list[_Stored]] = {}
        for stored in self._stored(key, cost):
            groups.setdefault(_group(stored.entry), []).append(stored)
        chosen = (_over_layers(_best_of_layers(group, None)) for group in groups.values())
        entries = [each.entry for each in chosen if each]
        return sorted(entries, key=lambda e: (e.key, e.cost, e.device or "", e.batch or 0))

    def export(
        self, path: stores.Location, *, key: str | None = None, cost: str | None = None
    ) -> int:
        """Writes the entries of `list` into one JSON file, for `import_`; returns their number.

        Args:
            path: the file to write; an older one is replaced as a whole.
            key: only entries of this function.
            cost: only entries for this cost.

        Raises:
            OSError: where the file cannot be written.
        """
        entries = [content_of(entry) for entry in self.list(key=key, cost=cost)]
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
        if not isinstance(content, dict) or not isinstance(content.get("entries"), builtins.list):
            raise ValueError(
                f"{os.fspath(path)} is no export of a registry: it must be a JSON object with a "
                f'list "entries". Write one with `jax-cce registry export`.'
            )
        stored = 0
        for number, each in enumerate(content["entries"]):
            try:
                stored += self._put(entry_of(each))[1]
            except (DamagedError, NewerError) as error:
                _warn_once(
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
    ) -> builtins.list[str]:
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
            stale, files = self._survey(self._user)
        except OSError as error:
            _warn_unreadable(self._user, error)
            return []
        names = set(stale)
        groups: dict[tuple[object, ...], builtins.list[tuple[Entry, str]]] = {}
        for name, entry in files:
            if isinstance(entry, Entry):
                age = _now().timestamp() - instant(entry.created)
                if older_than_days is not None and age > older_than_days * 86400:
                    names.add(name)
                    continue
                group = (*_group(entry), frozenset(entry.order))
                groups.setdefault(group, []).append((entry, name))
            elif damaged and isinstance(entry, DamagedError):
                names.add(name)
        if superseded:
            for group_entries in groups.values():
                group_entries.sort(key=lambda each: _rank(each[0]))
                names.update(name for _, name in group_entries[1:])
        removed = []
        for name in sorted(names):
            try:
                if not dry_run:
                    self._user.remove(name)
                removed.append(self._user.path(name))
            except OSError as error:
                _warn_file(self._user.path(name), f"it could not be removed ({_reason(error)})")
        if not dry_run:
            self._changed()
        return removed

    def verify(self) -> builtins.list[str]:
        """Reads every file of every layer and returns the problems, one line each."""
        lines = []
        for _, store in self._layers:
            try:
                stale, files = self._survey(store)
            except OSError as error:
                lines.append(f"{store.location}: it could not be read ({_reason(error)})")
                continue
            lines += [f"{store.path(name)}: a killed writer left it" for name in stale]
            for name, entry in files:
                if isinstance(entry, OSError):
                    lines.append(f"{store.path(name)}: it could not be read ({_reason(entry)})")
                elif isinstance(entry, Exception):
                    lines.append(f"{store.path(name)}: {entry}")
        return [line.replace("\n", " ") for line in lines]

    def _changed(self) -> None:
        with self._lock:
            self.generation += 1
            self._answers.clear()

    def _write(self, entry: Entry) -> bool:
        """Whether the entry is on the disk now."""
        if self._user is None:
            return False
        content = content_of(entry)
        try:
            self._user.write(file_name(content), serialised(content))
        except OSError as error:
            _warn_once(
                ("write", self._user.location),
                f"{self._user.location}: an order could not be stored ({_reason(error)}). What "
                "this process finds stays in its memory only. Make room or the directory "
                "writable, or set JAX_CCE_REGISTRY to another one.",
            )
            return False
        return True

    def _stored(self, key: str | None, cost: str | None) -> Iterator[_Stored]:
        """The valid entries, layer by layer, of one key and cost or of all."""
        with self._lock:
            held = [entry for entries in self._memory.values() for entry in entries]
        for entry in held:
            if key in (None, entry.key) and cost in (None, entry.cost):
                yield _Stored(entry, "memory")
        for layer, store in self._layers:
            try:
                for prefix in store.prefixes() if key is None else [key[:2]]:
                    for name, entry in _readable(store, prefix, key, cost):
                        yield _Stored(entry, layer, store, name)
            except OSError as error:
                _warn_unreadable(store, error)

    def _survey(
        self, store: stores.Store
    ) -> tuple[builtins.list[str], builtins.list[tuple[str, Entry | Exception]]]:
        """Stale temporary files, and every other file with its entry or what is wrong with it."""
        stale: builtins.list[str] = []
        files: builtins.list[tuple[str, Entry | Exception]] = []
        names = [name for prefix in store.prefixes() for name in store.names(prefix)]
        for name in names:
            try:
                if stores.is_temporary(name):
                    stale += [name] if store.age(name) > _STALE_SECONDS else []
                elif FILE_NAME.fullmatch(name):
                    files.append((name, load(store, name)))
                # Network file systems and desktops leave hidden files about.
                elif "/." not in name:
                    files.append((name, ValueError("its name is not that of an entry")))
            except FileNotFoundError:
                # Another process removed it meanwhile.
                continue
            except (OSError, DamagedError, NewerError) as error:
                files.append((name, error))
        return stale, files


def _fits(entry: Entry, vertices: Vertices | None) -> bool:
    if isinstance(vertices, Mapping):
        vertices = vertices.get(entry.entries, ())
    if vertices is None:
        return True
    return len(entry.order) == len(vertices) and set(entry.order) == set(vertices)


def _best_of_layers(candidates: Iterable[_Stored], batch: int | None) -> builtins.list[_Stored]:
    """The best entry of each layer, in the order of the layers."""

    def rank(stored: _Stored) -> tuple[float | str, ...]:
        distance = 0.0
        if stored.entry.cost in _MEASURED:
            distance = abs(math.log(stored.entry.batch or 1) - math.log(max(batch or 1, 1)))
        return distance, *_rank(stored.entry)

    layers: dict[object, _Stored] = {}
    for stored in candidates:
        layer = stored.store
        if layer not in layers or rank(stored) < rank(layers[layer]):
            layers[layer] = stored
    return [*layers.values()]


def _readable(
    store: stores.Store, prefix: str, key: str | None, cost: str | None
) -> builtins.list[tuple[str, Entry]]:
    """The valid entries in a subdirectory; files that are none are reported and left out."""
    entries: builtins.list[tuple[str, Entry]] = []
    for _ in range(_MOST_LISTINGS):
        entries.clear()
        gone = False
        for name in store.names(prefix):
            match = FILE_NAME.fullmatch(name)
            if not match or key not in (None, match[1]) or cost not in (None, match[2]):
                continue
            try:
                entries.append((name, load(store, name)))
            except FileNotFoundError:
                # A better one has replaced it, which this listing may not show.
                gone = True
            except OSError as error:
                _warn_file(store.path(name), f"it could not be read ({_reason(error)})")
            except (DamagedError, NewerError) as error:
                _warn_file(store.path(name), error)
        if not gone:
            break
    return entries


# The registry of this process.

_default: tuple[tuple[str | None, ...], Registry] | None = None
_default_lock = threading.Lock()


def default() -> Registry:
    """The registry that the environment describes, made at first use and when that changes.

    `JAX_CCE_REGISTRY` is the user's directory or URL; by default it lies in the platform's cache
    directory. `JAX_CCE_REGISTRY_SHARED` lists locations to read, separated like those in PATH.
    Entries that come with the package are the last layer. With `JAX_CCE_REGISTRY` empty or "off"
    there is none of all this, and orders are kept in memory alone.
    """
    global _default
    variables = tuple(map(os.environ.get, ("JAX_CCE_REGISTRY", "JAX_CCE_REGISTRY_SHARED")))
    with _default_lock:
        if _default is None or _default[0] != variables:
            user, shared = variables
            if user in ("", "off"):
                _default = variables, Registry()
            else:
                location = user or _user_location()
                _default = variables, Registry(location, _split(shared or ""), _shipped())
        return _default[1]


def _user_location() -> pathlib.Path:
    import platformdirs

    return platformdirs.user_cache_path("jax_cce") / "registry"


def _split(variable: str) -> builtins.list[str]:
    # The separator may be the colon of a URL's "://".
    return [each for each in re.split(rf"{re.escape(os.pathsep)}(?!//)", variable) if each]


def _shipped() -> pathlib.Path | None:
    directory = importlib.resources.files("jax_cce").joinpath("data", "registry")
    # In a zip archive it would be no path.
    return directory if isinstance(directory, pathlib.Path) else None


def get(
    key: str,
    cost: str | None = None,
    *,
    device: str | None = None,
    batch: int | None = None,
    vertices: Vertices | None = None,
) -> Entry | None:
    """`Registry.get` of the default registry."""
    return default().get(key, cost, device=device, batch=batch, vertices=vertices)


def put(entry: Entry) -> Entry:
    """`Registry.put` of the default registry."""
    return default().put(entry)


def list(*, key: str | None = None, cost: str | None = None) -> builtins.list[Entry]:
    """`Registry.list` of the default registry."""
    return default().list(key=key, cost=cost)


def export(path: stores.Location, *, key: str | None = None, cost: str | None = None) -> int:
    """`Registry.export` of the default registry."""
    return default().export(path, key=key, cost=cost)


def import_(path: stores.Location) -> int:
    """`Registry.import_` of the default registry."""
    return default().import_(path)


def prune(
    *,
    older_than_days: float | None = None,
    superseded: bool = True,
    damaged: bool = True,
    dry_run: bool = False,
) -> builtins.list[str]:
    """`Registry.prune` of the default registry."""
    return default().prune(
        older_than_days=older_than_days, superseded=superseded, damaged=damaged, dry_run=dry_run
    )


def verify() -> builtins.list[str]:
    """`Registry.verify` of the default registry."""
    return default().verify()
