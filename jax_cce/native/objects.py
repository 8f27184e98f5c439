"""Machine code on disk, so that no process compiles what an earlier one has compiled.

A file holds the code of one kernel. Its name is a digest of all that the code depends on; its
contents begin with a digest of the rest, so that what is damaged or cut off is compiled again, as
is everything where the directory cannot be read. The files that were written first go when there
are too many.
"""

import contextlib
import hashlib
import os
import pathlib
import secrets
from collections.abc import Callable

from jax_cce.registry import defaults

__all__ = ["compiled_once"]

_MOST_BYTES = 256 << 20
_DIGEST_BYTES = 32


def compiled_once(name: str, make: Callable[[], bytes]) -> bytes:
    """The code of a kernel, from the disk, or made and kept there.

    Args:
        name: identifies the code.
        make: compiles it.
    """
    directory = defaults.directory_beside("native")
    if directory is None:
        return make()
    path = directory / f"{name}.o"
    code = _read(path)
    if code is None:
        code = make()
        # Where nothing can be kept, it is as if there were no directory.
        with contextlib.suppress(OSError):
            _write(path, code)
    return code


def _read(path: pathlib.Path) -> bytes | None:
    try:
        content = path.read_bytes()
    except OSError:
        return None
    digest, code = content[:_DIGEST_BYTES], content[_DIGEST_BYTES:]
    return code if digest == _digest(code) else None


def _write(path: pathlib.Path, code: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    _make_room(path.parent, len(code))
    temporary = path.with_name(f"{path.name}.{os.getpid()}-{secrets.token_hex(8)}")
    try:
        temporary.write_bytes(_digest(code) + code)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _make_room(directory: pathlib.Path, size: int) -> None:
    """Removes the oldest files until as much fits in."""
    files = []
    for path in directory.iterdir():
        # Another process may do the same.
        with contextlib.suppress(FileNotFoundError):
            status = path.stat()
            files.append((status.st_mtime_ns, status.st_size, path))
    total = size + sum(each for _, each, _ in files)
    for _, each, path in sorted(files):
        if total <= _MOST_BYTES:
            break
        path.unlink(missing_ok=True)
        total -= each


def _digest(code: bytes) -> bytes:
    return hashlib.blake2b(code, digest_size=_DIGEST_BYTES).digest()
