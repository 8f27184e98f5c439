"""The registry's files: what an entry's file holds, and the places where the files lie.

A store is a directory or a URL. It holds files in subdirectories that are named by two hexadecimal
digits; the name of a file is "ab/rest". Nobody ever sees half of a file. Every failure of a store,
that of a network too, is an `OSError`.
"""

import abc
import contextlib
import dataclasses
import datetime
import errno
import hashlib
import importlib
import json
import math
import numbers
import operator
import os
import re
import reprlib
import secrets
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

__all__ = [
    "FILE_NAME",
    "SCHEMA",
    "DamagedError",
    "Directory",
    "Entry",
    "Location",
    "NewerError",
    "Remote",
    "Store",
    "content_of",
    "entry_of",
    "file_name",
    "instant",
    "is_temporary",
    "load",
    "opened",
    "parsed",
    "serialised",
    "write_whole",
]

SCHEMA = 1

Location = str | os.PathLike[str]

_METHODS = ("elimination", "jacfwd", "jacrev")
_KEY = re.compile("[0-9a-f]{64}")
_COST = re.compile("[A-Za-z0-9_-]{1,64}")

# An entry's file; the groups are the key and the cost.
FILE_NAME = re.compile(rf"[0-9a-f]{{2}}/({_KEY.pattern})\.({_COST.pattern})\.[0-9a-f]{{8}}\.json")

_TEMPORARY = ".tmp-"
_PREFIX = re.compile("[0-9a-f]{2}")

# A PUT shows the whole object or none; elsewhere a reader could see the beginning of a file.
_WHOLE_WRITES = frozenset({"s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "oss", "memory"})


@dataclass(frozen=True)
class Entry:
    """An elimination order, what it was found for, and how good it is.

    Attributes:
        key: 64 hexadecimal digits that identify the function.
        cost: name of the cost that the order minimises, such as "flops"; letters, digits, "_", "-".
        order: the vertices in the order of their elimination.
        value: the cost of the order; seconds where it was measured.
        method: what runs: "elimination", "jacfwd" or "jacrev".
        entries: whether small arrays are taken apart entry by entry.
        bound: a proven lower bound of the cost.
        strategy: how the order was found.
        seed: the seed of that strategy.
        device: kind of the device that it was measured on, such as "NVIDIA H200".
        batch: the batch size under `jax.vmap` that it was measured with.
        times: measured seconds of each contender.
        versions: version of each package that matters.
        created: time of the result, ISO 8601, in UTC where it names no zone.
        name: the function's name, for people only.

    Raises:
        TypeError: for an attribute of the wrong type.
        ValueError: for one that cannot be, such as an order that names a vertex twice.
    """

    key: str
    cost: str
    order: tuple[int, ...]
    value: float
    method: str = "elimination"
    entries: bool = False
    bound: float | None = None
    strategy: str = ""
    seed: int | None = None
    device: str | None = None
    batch: int | None = None
    times: Mapping[str, float] = field(default_factory=dict, hash=False)
    versions: Mapping[str, str] = field(default_factory=dict, hash=False)
    created: str = ""
    name: str = ""

    def __post_init__(self) -> None:
        for name in ("key", "cost", "method", "strategy", "created", "name"):
            _text(name, getattr(self, name))
        if not _KEY.fullmatch(self.key):
            raise ValueError(f"key must be 64 hexadecimal digits in lower case, got {self.key!r}.")
        if not _COST.fullmatch(self.cost):
            raise ValueError(
                f'cost must be 1 to 64 letters, digits, "_" or "-", but got {self.cost!r}.'
            )
        if self.method not in _METHODS:
            raise ValueError(f"method must be one of {_METHODS}, but got {self.method!r}.")
        if not isinstance(self.entries, bool):
            raise TypeError(f"entries must be True or False, but got {self.entries!r}.")
        if self.device is not None:
            _text("device", self.device)
        if isinstance(self.order, str | Mapping) or not isinstance(self.order, Iterable):
            raise TypeError(
                f"order must be a sequence of vertices, but got {reprlib.repr(self.order)}."
            )
        order = tuple(_integer("a vertex in order", vertex) for vertex in self.order)
        if len(set(order)) < len(order) or min(order, default=0) < 0:
            raise ValueError(
                f"order must name each vertex once, and none below 0, got {reprlib.repr(order)}."
            )
        for name in ("times", "versions"):
            if not isinstance(getattr(self, name), Mapping):
                raise TypeError(f"{name} must be a mapping, but got {getattr(self, name)!r}.")
        normal: dict[str, Any] = {
            "order": order,
            "value": _number("value", self.value),
            "bound": None if self.bound is None else _number("bound", self.bound),
            "seed": None if self.seed is None else _integer("seed", self.seed),
            "batch": None if self.batch is None else _integer("batch", self.batch),
            "times": {_text("times", k): _number("times", v) for k, v in self.times.items()},
            "versions": {
                _text("versions", k): _text("versions", v) for k, v in self.versions.items()
            },
        }
        for name, value in normal.items():
            object.__setattr__(self, name, value)
        if self.batch is not None and self.batch < 1:
            raise ValueError(f"batch must be at least 1, but got {self.batch}.")
        instant(self.created)


def _text(what: str, value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{what} must be text, but got {value!r}.")
    return value


def _integer(what: str, value: Any) -> int:
    if isinstance(value, bool):
        raise TypeError(f"{what} must be an integer, but got {value!r}.")
    try:
        return operator.index(value)
    except TypeError:
        raise TypeError(f"{what} must be an integer, but got {value!r}.") from None


def _number(what: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError(f"{what} must be a number, but got {value!r}.")
    # An integer may be too large for a float.
    with contextlib.suppress(OverflowError):
        number = float(value)
        if math.isfinite(number) and number >= 0:
            return number
    raise ValueError(f"{what} must be finite and not negative, but got {value!r}.")


def instant(created: str) -> float:
    """Seconds since 1970 of an ISO 8601 time; an empty text is of old."""
    if not created:
        return 0.0
    try:
        moment = datetime.datetime.fromisoformat(created)
    except ValueError:
        raise ValueError(f"created must be an ISO 8601 time, but got {created!r}.") from None
    return (moment if moment.tzinfo else moment.replace(tzinfo=datetime.UTC)).timestamp()


# The content of a file.


class DamagedError(ValueError):
    """The content is not what a writer of this schema wrote."""


class NewerError(ValueError):
    """A newer version of jax_cce wrote the content."""


def _checksum(content: Mapping[str, object]) -> str:
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(canonical.encode()).hexdigest()


def content_of(entry: Entry) -> dict[str, object]:
    """What the file of an entry holds."""
    content = {"schema": SCHEMA, **dataclasses.asdict(entry)}
    return {**content, "checksum": _checksum(content)}


def serialised(content: object) -> bytes:
    """JSON that people can read, and that does not depend on the order of the attributes."""
    return (json.dumps(content, indent=1, sort_keys=True, allow_nan=False) + "\n").encode()


def file_name(content: Mapping[str, object]) -> str:
    """The name of the file with this content."""
    key, cost, checksum = (str(content[name]) for name in ("key", "cost", "checksum"))
    return f"{key[:2]}/{key}.{cost}.{checksum[:8]}.json"


def parsed(data: bytes) -> object:
    """Reads JSON.

    Raises:
        DamagedError: where it is none.
    """
    try:
        return json.loads(data.decode())
    # A deeply nested text exhausts the parser's stack.
    except (ValueError, RecursionError) as error:
        text = "empty" if not data else f"not JSON ({error})"
        raise DamagedError(f"the file is {text}") from error


def entry_of(content: object) -> Entry:
    """The entry in a file's content.

    Raises:
        DamagedError: where it is not exactly what a writer of this schema wrote.
        NewerError: where its schema is a later one.
    """
    if not isinstance(content, dict):
        raise DamagedError("the content is not a JSON object")
    schema = content.get("schema")
    if isinstance(schema, int) and schema > SCHEMA:
        raise NewerError(
            f"a newer version of jax_cce wrote it (schema {schema}; this version reads {SCHEMA} "
            "and can be upgraded)"
        )
    if schema != SCHEMA or isinstance(schema, bool):
        raise DamagedError(f"the schema is {schema!r}, not {SCHEMA}")
    stated = content.get("checksum")
    names = {attribute.name for attribute in dataclasses.fields(Entry)}
    try:
        if stated != _checksum({k: v for k, v in content.items() if k != "checksum"}):
            raise ValueError("the checksum does not match the content")
        return Entry(**{name: value for name, value in content.items() if name in names})
    # JSON that is nested, or has numbers that are not finite, has no checksum.
    except (TypeError, ValueError, RecursionError) as error:
        raise DamagedError(str(error)) from error


# Where the files lie.


class Store(abc.ABC):
    """Files in one location.

    Attributes:
        location: the directory or URL.
    """

    def __init__(self, location: str) -> None:
        self.location = location

    def prefixes(self) -> list[str]:
        """The subdirectories; none where the location does not exist."""
        return sorted(name for name in self._listing("") if _PREFIX.fullmatch(name))

    def names(self, prefix: str) -> list[str]:
        """The names of all files in one subdirectory, from a single listing."""
        return sorted(f"{prefix}/{name}" for name in self._listing(prefix))

    def path(self, name: str) -> str:
        """Where a file is, for people."""
        return f"{self.location.rstrip('/')}/{name}"

    @abc.abstractmethod
    def _listing(self, prefix: str) -> list[str]:
        """What is in a subdirectory, or in the location for ""; nothing where it is missing."""

    @abc.abstractmethod
    def read(self, name: str) -> bytes:
        """The content of a file.

        Raises:
            FileNotFoundError: where the file has gone since it was listed.
            OSError: where it is there and cannot be read.
        """

    @abc.abstractmethod
    def write(self, name: str, content: bytes) -> None:
        """Writes a file; readers see all of it or nothing, whatever happens meanwhile."""

    @abc.abstractmethod
    def remove(self, name: str) -> None:
        """Removes a file; one that has gone is no error."""

    @abc.abstractmethod
    def age(self, name: str) -> float:
        """Seconds since the file was last written."""


class Directory(Store):
    """Files in a directory, on a local or a network file system."""

    def path(self, name: str) -> str:
        """Where a file is."""
        return os.path.join(self.location, *name.split("/"))

    def _listing(self, prefix: str) -> list[str]:
        try:
            with os.scandir(self.path(prefix) if prefix else self.location) as listing:
                return [item.name for item in listing]
        except FileNotFoundError:
            return []

    def read(self, name: str) -> bytes:
        """See `Store.read`."""
        path = self.path(name)
        try:
            with open(path, "rb") as file:
                return file.read()
        except FileNotFoundError:
            if os.path.islink(path):
                raise OSError("it is a symbolic link to a file that does not exist") from None
            raise
        except OSError as error:
            # NFS says so of a file that another client removed.
            if error.errno == errno.ESTALE:
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path) from error
            raise

    def write(self, name: str, content: bytes) -> None:
        """See `Store.write`."""
        path = self.path(name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        write_whole(path, content)

    def remove(self, name: str) -> None:
        """See `Store.remove`."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.path(name))

    def age(self, name: str) -> float:
        """See `Store.age`."""
        return time.time() - os.lstat(self.path(name)).st_mtime


class Remote(Store):
    """Files at a URL, by fsspec, which is imported when the first one is used."""

    def _listing(self, prefix: str) -> list[str]:
        with self._system() as (system, root):
            path = f"{root}/{prefix}" if prefix else root
            # Listings are remembered by fsspec; another process may have written since.
            system.invalidate_cache(path)
            try:
                paths = system.ls(path, detail=False)
            except FileNotFoundError:
                return []
            return [str(each).rstrip("/").rsplit("/", 1)[-1] for each in paths]

    def read(self, name: str) -> bytes:
        """See `Store.read`."""
        with self._system() as (system, root):
            return bytes(system.cat_file(f"{root}/{name}"))

    def write(self, name: str, content: bytes) -> None:
        """See `Store.write`."""
        with self._system() as (system, root):
            path = f"{root}/{name}"
            protocols = system.protocol
            if _WHOLE_WRITES.intersection([protocols] if isinstance(protocols, str) else protocols):
                system.pipe_file(path, content)
                return
            directory = path.rsplit("/", 1)[0]
            system.makedirs(directory, exist_ok=True)
            temporary = f"{directory}/{_temporary_name()}"
            try:
                system.pipe_file(temporary, content)
                system.mv(temporary, path)
            except BaseException:
                with contextlib.suppress(Exception):
                    system.rm_file(temporary)
                raise

    def remove(self, name: str) -> None:
        """See `Store.remove`."""
        with self._system() as (system, root), contextlib.suppress(FileNotFoundError):
            system.rm_file(f"{root}/{name}")

    def age(self, name: str) -> float:
        """See `Store.age`."""
        with self._system() as (system, root):
            written = system.modified(f"{root}/{name}")
            if written.tzinfo is None:
                written = written.replace(tzinfo=datetime.UTC)
            return time.time() - float(written.timestamp())

    @contextlib.contextmanager
    def _system(self) -> Iterator[tuple[Any, str]]:
        """The file system and the path in it; every driver's own errors become an OSError."""
        try:
            fsspec = importlib.import_module("fsspec")
            system, root = fsspec.core.url_to_fs(self.location)
            yield system, root.rstrip("/")
        except ImportError as error:
            raise OSError(
                f"a URL needs the package fsspec and, for most, a driver such as gcsfs or s3fs, "
                f"and this import failed: {error}"
            ) from error
        except OSError:
            raise
        except Exception as error:
            raise OSError(f"{type(error).__name__}: {error}") from error


def opened(location: Location) -> Store:
    """The store at a path or, where the location has "://", at a URL. Touches nothing yet."""
    text = os.fspath(location)
    return Remote(text) if "://" in text else Directory(os.path.abspath(os.path.expanduser(text)))


def load(store: "Store", name: str) -> Entry:
    """The entry in a file.

    Raises:
        DamagedError: where the content is damaged, or that of another file.
        NewerError: where a newer version wrote it.
        OSError: where it cannot be read.
    """
    content = parsed(store.read(name))
    entry = entry_of(content)
    assert isinstance(content, dict)
    if file_name(content) != name:
        raise DamagedError(f"the content belongs to the file {file_name(content)}")
    return entry


def is_temporary(name: str) -> bool:
    """Whether this is a file that a writer has not finished, or was killed in."""
    return name.rsplit("/", 1)[-1].startswith(_TEMPORARY)


def write_whole(path: str, content: bytes) -> None:
    """Writes a file under a temporary name, flushes it to the disk and gives it its name.

    Raises:
        OSError: where that fails; then no temporary file stays and an older file keeps its content.
    """
    directory = os.path.dirname(os.path.abspath(path))
    temporary = os.path.join(directory, _temporary_name())
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
    descriptor = os.open(temporary, flags, 0o666)
    try:
        try:
            rest = memoryview(content)
            while rest:
                rest = rest[os.write(descriptor, rest) :]
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise
    # The new name too must be on the disk before anybody removes what it supersedes. Windows has
    # no such flush, some network file systems refuse it.
    with contextlib.suppress(OSError):
        descriptor = os.open(directory, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _temporary_name() -> str:
    return f"{_TEMPORARY}{os.getpid()}-{secrets.token_hex(8)}"
