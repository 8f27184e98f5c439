"""Machine code on disk, so that no process compiles what an earlier one has compiled.

A file holds the code of one kernel, or what was decided of a function. Its name is a digest of all
that it depends on; its contents begin with a digest of the rest, so that what is damaged or cut off
is made again, as is everything where the directory cannot be read. The files that were written
first go when there are too many.
"""

import contextlib
import hashlib
import os
import pathlib
import secrets
from collections.abc import Callable

from jax_cce.registry import defaults

__all__ = ["are_kept", "compiled_once", "keep", "read"]

_CODE = "o"
_MOST_BYTES = 256 << 20
_DIGEST_BYTES = 32


def compiled_once(name: str, make: Callable[[], bytes]) -> bytes:
    """The code of a kernel, from the disk, or made and kept there.

    Args:
        name: identifies the code.
        make: compiles it.
    """
    code = read(name)
    if code is None:
        code = make()
        keep(name, code)
    return code


def are_kept() -> bool:
    """Whether there is a directory."""
    return defaults.directory_beside("native") is not None


def read(name: str, kind: str = _CODE) -> bytes | None:
    """What was kept under a name, if it is still there as it was written."""
    directory = defaults.directory_beside("native")
    if directory is None:
        return None
    try:
        content = (directory / f"{name}.{kind}").read_bytes()
    except OSError:
        return None
    digest, code = content[:_DIGEST_BYTES], content[_DIGEST_BYTES:]
    return code if digest == _digest(code) else None


def keep(name: str, content: bytes, kind: str = _CODE) -> None:
    """Keeps something; where nothing can be kept, it is as if there were no directory."""
    directory = defaults.directory_beside("native")
    if directory is not None:
        with contextlib.suppress(OSError):
            _write(directory / f"{name}.{kind}", content)


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
