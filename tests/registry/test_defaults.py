"""The registry of the process."""

import os

import pytest

from cases.stored_orders import KEY, entry
from jax_cce import registry
from jax_cce.registry import Registry, defaults

pytestmark = pytest.mark.one_version


def test_the_environment_describes_the_registry(tmp_path, monkeypatch):
    monkeypatch.setattr("jax_cce.registry.defaults._shipped", lambda: None)
    monkeypatch.setenv("JAX_CCE_REGISTRY", str(tmp_path / "user"))
    monkeypatch.setenv("JAX_CCE_REGISTRY_SHARED", "")
    one = registry.default()
    assert registry.default() is one
    registry.put(entry(5))
    assert registry.get(KEY, "flops") == entry(5)
    assert registry.entries() == [entry(5)]
    assert registry.export(tmp_path / "orders.json") == 1
    assert registry.import_(tmp_path / "orders.json") == 0
    assert registry.verify() == registry.prune() == []

    monkeypatch.setenv("JAX_CCE_REGISTRY_SHARED", str(tmp_path / "user"))
    monkeypatch.setenv("JAX_CCE_REGISTRY", str(tmp_path / "empty"))
    assert registry.default().found(KEY) == (entry(5), "shared")
    for off in ("", "off"):
        monkeypatch.setenv("JAX_CCE_REGISTRY", off)
        assert registry.default() is not one
        assert registry.default().found(KEY) is None
    monkeypatch.delenv("JAX_CCE_REGISTRY")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert "jax_cce" in repr(registry.default())
    assert not (tmp_path / "cache").exists()


def test_the_list_of_shared_locations_may_have_urls(monkeypatch):
    locations = ["/a/b", "gs://bucket/x", "s3://bucket", "c"]
    assert defaults._split(os.pathsep.join(locations)) == locations
    assert defaults._split("") == []
    with pytest.raises(TypeError, match="sequence of locations"):
        Registry(shared="/a")
