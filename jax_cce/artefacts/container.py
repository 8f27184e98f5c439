"""The file of an artefact: a ZIP archive, at whose end stands a digest of all that is before.

Any program that reads ZIP archives reads it. The digest is the archive's comment, the last bytes of
the file, so that a file that was cut off, or in which a byte has changed anywhere, is noticed.
"""

import contextlib
import hashlib
import io
import json
import os
import pathlib
import secrets
import zipfile
from collections.abc import Iterator, Mapping
from typing import Any

__all__ = ["ArtefactError", "content_of", "packed", "read", "write"]

_MANIFEST = "manifest.json"
_KIND = "jax_cce artefact"
# Counted up when a reader of the former version would misunderstand a file.
VERSION = 1
_PREFIX, _DIGITS = b"sha256:", 64
_ZIP = b"PK\x03\x04"
# The time of every member, the earliest that ZIP knows: equal contents are equal files.
_TIME = (1980, 1, 1, 0, 0, 0)


class ArtefactError(ValueError):
    """An artefact that is damaged, or that does not fit where it is used."""


def packed(manifest: Mapping[str, Any], members: Mapping[str, bytes]) -> bytes:
    """The bytes of a file.

    Args:
        manifest: what there is to say of it, of what JSON has.
        members: the contents of the other files in the archive, by name.
    """
    told = {"kind": _KIND, "version": VERSION, **manifest}
    text = json.dumps(told, indent=1, ensure_ascii=False, allow_nan=False)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in {_MANIFEST: text.encode(), **members}.items():
            archive.writestr(zipfile.ZipInfo(name, _TIME), content, zipfile.ZIP_DEFLATED)
        archive.comment = _PREFIX + b"0" * _DIGITS
    content = buffer.getvalue()[:-_DIGITS]
    return content + hashlib.sha256(content).hexdigest().encode()


def content_of(content: bytes, name: str) -> tuple[dict[str, Any], dict[str, bytes]]:
    """The manifest of a file and its other members.

    Args:
        content: the bytes of the file.
        name: what the file is called, for people.

    Raises:
        ArtefactError: where it is damaged, no artefact, or of a newer kind.
    """
    if not content.startswith(_ZIP):
        raise ArtefactError(
            f"{name} is no artefact of jax_cce: it does not begin as one. "
            "`jax_cce.compile(...)(...).save(path)` writes such a file."
        )
    body, digest = content[:-_DIGITS], content[-_DIGITS:]
    if hashlib.sha256(body).hexdigest().encode() != digest:
        at = body[-len(_PREFIX) :] == _PREFIX
        how = "bytes of it have changed" if at else "it was cut off, or is another archive"
        raise ArtefactError(
            f"{name} is damaged: {how} (its {len(content):,} bytes do not have the digest at its "
            "end). Copy it again, or compile it anew."
        )
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            members = {each: archive.read(each) for each in archive.namelist()}
        manifest = json.loads(members.pop(_MANIFEST))
        kind, version = manifest["kind"], manifest["version"]
    except (KeyError, TypeError, ValueError, zipfile.BadZipFile) as error:
        raise ArtefactError(f"{name} is no artefact of jax_cce: {error!r}.") from error
    if kind != _KIND:
        raise ArtefactError(f"{name} is no artefact of jax_cce but of kind {kind!r}.")
    if version > VERSION:
        raise ArtefactError(
            f"{name} is of version {version}, but this jax_cce reads versions up to {VERSION}: "
            f"it was written by jax_cce {manifest.get('versions', {}).get('jax_cce', '?')}. "
            "Install that or a newer one."
        )
    return manifest, members


def read(path: str | os.PathLike[str]) -> bytes:
    """The bytes of a file."""
    return pathlib.Path(path).read_bytes()


def write(path: str | os.PathLike[str], content: bytes) -> None:
    """Writes a file as a whole: nobody finds half of it."""
    with _in_place_of(pathlib.Path(path)) as temporary:
        temporary.write_bytes(content)


@contextlib.contextmanager
def _in_place_of(path: pathlib.Path) -> Iterator[pathlib.Path]:
    temporary = path.with_name(f"{path.name}.{os.getpid()}-{secrets.token_hex(4)}")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
