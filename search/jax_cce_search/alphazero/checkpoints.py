"""Networks and training runs on disk.

A file is a line of JSON, which says what it holds, followed by the arrays as Equinox serialises
them. The line has a digest of the rest, so that a damaged file is known by it, and everything that
decides the shapes of the arrays. Files are written aside and renamed.
"""

import dataclasses
import gzip
import hashlib
import importlib.resources
import io
import json
import os
import pathlib
import zlib
from collections.abc import Mapping
from typing import Any

import equinox as eqx
import jax
import numpy as np

from jax_cce.registry import stores
from jax_cce_search.alphazero.network import FEATURES, Architecture, PolicyValue

__all__ = [
    "CheckpointError",
    "load_policy",
    "pretrained",
    "read",
    "restored",
    "save_policy",
    "write",
]

_FORMAT = "jax_cce policy"
_SCHEMA = 1


class CheckpointError(ValueError):
    """A file that does not hold what is asked of it."""


def save_policy(path: str | os.PathLike[str], network: PolicyValue, **about: Any) -> None:
    """Writes a network to a file.

    Args:
        path: the file.
        network: the network.
        about: what else the file shall say, such as how the network was trained; as in JSON.
    """
    header = {
        "architecture": dataclasses.asdict(network.architecture),
        "features": FEATURES,
        "about": about,
    }
    write(path, header, network)


def load_policy(path: str | os.PathLike[str]) -> PolicyValue:
    """Reads a network from a file.

    Raises:
        FileNotFoundError: where there is no such file.
        CheckpointError: for a file that is damaged, or that another version wrote.
    """
    header, body = read(path)
    return _network(path, header, body)


def pretrained() -> PolicyValue:
    """The policy that comes with the package."""
    file = importlib.resources.files("jax_cce_search.alphazero") / "pretrained.policy"
    with importlib.resources.as_file(file) as path:
        return load_policy(path)


def _network(path: str | os.PathLike[str], header: Mapping[str, Any], body: bytes) -> PolicyValue:
    if header.get("features") != FEATURES:
        raise CheckpointError(
            f"{path} holds a policy that sees graphs by version {header.get('features')!r} of the "
            f"features, and this version of jax_cce shows them by version {FEATURES}. Train it "
            "anew: jax-cce train-policy --config ..."
        )
    try:
        architecture = Architecture(**header["architecture"])
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"{path} has no usable description of its network: {error}."
        ) from error
    like = jax.eval_shape(lambda key: PolicyValue(architecture, key), jax.random.key(0))
    return restored(path, body, like)


def restored(path: str | os.PathLike[str], body: bytes, like: Any) -> Any:
    """The arrays of a file, in the form of a tree of arrays or shapes.

    Raises:
        CheckpointError: where they do not fit.
    """
    stream = io.BytesIO(body)
    try:
        tree = eqx.tree_deserialise_leaves(stream, like)
    except (RuntimeError, ValueError, EOFError, TypeError) as error:
        message = str(error).splitlines()[0]
        raise CheckpointError(f"The arrays in {path} do not fit: {message}") from error
    if stream.read(1):
        raise CheckpointError(f"{path} holds more arrays than its description says.")
    return tree


def write(path: str | os.PathLike[str], header: Mapping[str, Any], tree: Any) -> None:
    """Writes a description and a tree of arrays, all at once or not at all."""
    stream = io.BytesIO()
    eqx.tree_serialise_leaves(stream, jax.tree.map(np.asarray, tree))
    body = gzip.compress(stream.getvalue(), 1, mtime=0)
    first = {"format": _FORMAT, "schema": _SCHEMA, "digest": hashlib.sha256(body).hexdigest()}
    line = json.dumps(first | dict(header)).encode() + b"\n"
    target = pathlib.Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    stores.write_whole(str(target), line + body)


def read(path: str | os.PathLike[str]) -> tuple[dict[str, Any], bytes]:
    """The description in a file, and its arrays as bytes for `restored`.

    Raises:
        FileNotFoundError: where there is no such file.
        CheckpointError: for a file that is damaged, or that another version wrote.
    """
    line, _, body = pathlib.Path(path).read_bytes().partition(b"\n")
    try:
        header = json.loads(line)
    except ValueError:
        header = None
    if not isinstance(header, dict) or header.get("format") != _FORMAT:
        raise CheckpointError(f"{path} is not a file of jax-cce train-policy.")
    if header.get("schema") != _SCHEMA:
        raise CheckpointError(
            f"{path} is of schema {header.get('schema')!r}; this version of jax_cce reads "
            f"{_SCHEMA}. Use the version that wrote it, or train anew."
        )
    if hashlib.sha256(body).hexdigest() != header.get("digest"):
        raise CheckpointError(
            f"{path} is damaged: its {len(body):,} bytes of arrays do not have the digest that its "
            "first line gives. Copy or train it anew."
        )
    try:
        return header, gzip.decompress(body)
    except (OSError, EOFError, zlib.error) as error:
        raise CheckpointError(
            f"The arrays in {path} are not packed as they should be: {error}"
        ) from error
