"""The registry's files: what an entry's file holds, and the places where the files lie.

A store is a directory or a URL. It holds files in subdirectories that are named by two hexadecimal
digits; the name of a file is "ab/rest". Nobody ever sees half of a file. Every failure of a store,
that of a network too, is an `OSError`.
"""

import abc
import contextlib
import datetime
import errno
import importlib
import os
import re
import secrets
import time
from collections.abc import Iterator
from typing import Any

from jax_cce.registry.stored_order import (
    DamagedError,
    StoredOrder,
    file_name,
    parsed,
    stored_order_of,
)

__all__ = [
    "Directory",
    "Location",
    "Remote",
    "Store",
    "is_temporary",
    "load",
    "opened",
    "write_whole",
]

Location = str | os.PathLike[str]

_TEMPORARY = ".tmp-"
_PREFIX = re.compile("[0-9a-f]{2}")

# A PUT shows the whole object or none; elsewhere a reader could see the beginning of a file.
_WHOLE_WRITES = frozenset({"s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "oss", "memory"})


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


def load(store: "Store", name: str) -> StoredOrder:
    """The entry in a file.

    Raises:
        DamagedError: where the content is damaged, or that of another file.
        NewerError: where a newer version wrote it.
        OSError: where it cannot be read.
    """
    content = parsed(store.read(name))
    entry = stored_order_of(content)
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
