"""Entries of a registry, right and damaged, and how it warns."""

import dataclasses
import pathlib

import pytest

from jax_cce.registry import RegistryWarning, StoredOrder, stored_order

KEY = "ab" + "0" * 62
OTHER = "ab" + "1" * 62
ENTRY = StoredOrder(KEY, "flops", (2, 0, 1), 34.0, created="2026-01-01T00:00:00+00:00", name="f")


def entry(value=34.0, cost="flops", **changes):
    return dataclasses.replace(ENTRY, value=float(value), cost=cost, **changes)


def only_file(root):
    (path,) = pathlib.Path(root).glob("*/*.json")
    return path


def written(root, content, name=None):
    """Writes a content with a true checksum under its own name or another."""
    content = {name: value for name, value in content.items() if name != "checksum"}
    content["checksum"] = stored_order._checksum(content)
    path = pathlib.Path(root) / (name or stored_order.file_name(content))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(stored_order.serialised(content))
    return path


def warns_once(look_up, match):
    with pytest.warns(RegistryWarning, match=match) as caught:
        first, second = look_up(), look_up()
    assert len(caught) == 1, [str(each.message) for each in caught]
    assert first == second
    return first
