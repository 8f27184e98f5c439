"""Where orders are kept: what is damaged or fails is reported once and ignored."""

import errno
import json
import os
import sys
import uuid

import pytest
import registry_stress

from cases.stored_orders import ENTRY, KEY, OTHER, entry, only_file, warns_once, written
from jax_cce.registry import Registry, RegistryWarning, stored_order, stores

pytestmark = pytest.mark.one_version

# URLs.


@pytest.fixture
def url():
    pytest.importorskip("fsspec")
    return f"memory://{uuid.uuid4()}"


def test_a_url_of_an_object_store(url):
    one = Registry(url)
    assert one.get(KEY) is None
    assert one.entries() == one.verify() == []
    one.put(entry(5))
    one.put(entry(3))
    assert Registry(url).found(KEY, "flops", vertices=range(3)) == (entry(3), "user")
    assert Registry(None, [url]).found(KEY) == (entry(3), "shared")
    assert Registry(url).entries() == [entry(3)]
    assert Registry(url).prune(older_than_days=0) != []
    assert Registry(url).entries() == []


def test_a_url_of_a_file_system(tmp_path):
    pytest.importorskip("fsspec")
    url = f"file://{tmp_path}/registry"
    Registry(url).put(entry(5))
    Registry(url).put(entry(3))
    assert Registry(tmp_path / "registry").entries() == Registry(url).entries() == [entry(3)]
    assert [*tmp_path.glob("*/*/.tmp-*")] == []
    stale = tmp_path / "registry" / "ab" / ".tmp-1-a"
    stale.touch()
    assert Registry(url).prune() == []
    os.utime(stale, (0, 0))
    assert len(Registry(url).prune()) == 1
    assert not stale.exists()


@pytest.mark.parametrize("location", ["memory://a", "nosuch://a/b"])
def test_a_url_that_cannot_be_used(location, monkeypatch):
    location += str(uuid.uuid4())
    if location.startswith("memory"):
        monkeypatch.setitem(sys.modules, "fsspec", None)
        match = "needs the package fsspec"
    else:
        match = "nosuch"
    one = Registry(location)
    warns_once(lambda: one.get(KEY), match)
    assert warns_once(lambda: one.put(ENTRY), match) == ENTRY
    assert one.found(KEY) == (ENTRY, "memory")
    assert len(one.verify()) == 1


# Damage.


def _truncated(path):
    path.write_bytes(path.read_bytes()[:-40])


def _corrupted(path):
    path.write_bytes(path.read_bytes().replace(b"34.0", b"33.0"))


def _empty(path):
    path.write_bytes(b"")


def _garbage(path):
    path.write_bytes(bytes(range(256)))


def _list_instead(path):
    path.write_text("[1, 2]")


def _deeply_nested(path):
    path.write_text("[" * 100_000)


def _not_finite(path):
    path.write_bytes(path.read_bytes().replace(b"34.0", b"NaN"))


def _other_function(path):
    content = json.loads(path.read_text()) | {"key": OTHER}
    written(path.parents[1], content, f"ab/{path.name}")


def _other_cost(path):
    content = json.loads(path.read_text()) | {"cost": "bytes"}
    written(path.parents[1], content, f"ab/{path.name}")


def _renamed(path):
    path.rename(path.with_name(f"{KEY}.flops.00000000.json"))


def _without_an_order(path):
    content = json.loads(path.read_text())
    del content["order"]
    path.unlink()
    written(path.parents[1], content)


def _old_schema(path):
    content = json.loads(path.read_text()) | {"schema": "one"}
    path.unlink()
    written(path.parents[1], content)


def _dangling(path):
    path.unlink()
    path.symlink_to("nowhere")


_DAMAGE = {
    _truncated: "not JSON",
    _corrupted: "checksum",
    _empty: "empty",
    _garbage: "not JSON",
    _list_instead: "not a JSON object",
    _deeply_nested: "not JSON",
    _not_finite: "",
    _other_function: "belongs to the file",
    _other_cost: "belongs to the file",
    _renamed: "belongs to the file",
    _without_an_order: "order",
    _old_schema: "schema is 'one'",
    _dangling: "symbolic link",
}


@pytest.mark.parametrize("damage", _DAMAGE, ids=lambda damage: damage.__name__[1:])
@pytest.mark.parametrize("another", [False, True], ids=["alone", "another"])
def test_a_damaged_file_is_reported_once_and_ignored(damage, another, tmp_path):
    Registry(tmp_path).put(entry(34))
    damage(only_file(tmp_path))
    damaged = only_file(tmp_path)
    if another:
        written(tmp_path, stored_order.content_of(entry(50)))
    match = f"{damaged.name}.*{_DAMAGE[damage]}.*jax-cce registry prune"
    found = warns_once(lambda: Registry(tmp_path).get(KEY, "flops"), match)
    assert found == (entry(50) if another else None)
    (line,) = Registry(tmp_path).verify()
    assert str(damaged) in line
    one = Registry(tmp_path)
    if damage is not _dangling:
        assert one.prune(damaged=False) == []
        assert one.prune(dry_run=True) == one.prune() == [str(damaged)]
        assert one.verify() == []
    assert one.put(entry(20)) == entry(20)
    assert one.get(KEY, "flops") == entry(20)


def test_an_order_of_another_function(tmp_path):
    Registry(tmp_path).put(ENTRY)
    one = Registry(tmp_path)
    assert warns_once(lambda: one.get(KEY, "flops", vertices=(0, 1)), "no permutation") is None
    assert one.get(KEY, "flops", vertices=(0, 1, 3)) is None
    assert one.get(KEY, "flops", vertices=()) is None
    assert one.get(KEY, "flops", vertices=[0, 1, 2]) == ENTRY
    # The answer from memory is checked too.
    assert one.get(KEY, "flops", vertices=[0, 1]) is None


def test_a_file_of_a_newer_version_is_left_alone(tmp_path):
    Registry(tmp_path).put(ENTRY)
    path = only_file(tmp_path)
    path.write_text(path.read_text().replace('"schema": 1', '"schema": 3'))
    match = r"newer version of jax_cce wrote it \(schema 3"
    assert warns_once(lambda: Registry(tmp_path).get(KEY), match) is None
    assert len(Registry(tmp_path).verify()) == 1
    assert Registry(tmp_path).prune() == []
    assert path.exists()


def test_files_that_are_no_entries_are_left_alone(tmp_path):
    Registry(tmp_path).put(ENTRY)
    for name in ("README", "ab/notes.txt", "ab/.nfs0001", "ab/ab.flops.json"):
        (tmp_path / name).write_text("?")
    assert Registry(tmp_path).get(KEY) == ENTRY
    assert len(Registry(tmp_path).verify()) == 2
    assert Registry(tmp_path).prune() == []


def test_a_file_that_goes_between_listing_and_reading(tmp_path, monkeypatch):
    Registry(tmp_path).put(entry(5))
    worse = only_file(tmp_path)
    read = stores.Directory.read

    def replaced(store, name):
        if worse.exists():
            written(tmp_path, stored_order.content_of(entry(3)))
            worse.unlink()
        return read(store, name)

    monkeypatch.setattr(stores.Directory, "read", replaced)
    assert Registry(tmp_path).get(KEY) == entry(3)


# Locations that fail.


@pytest.mark.parametrize("code", ["ENOSPC", "EROFS", "EACCES", "EPERM", "EDQUOT", "ENOTDIR", "EIO"])
@pytest.mark.parametrize("call", ["makedirs", "open", "write", "fsync", "replace"])
def test_a_write_that_fails(call, code, tmp_path, monkeypatch):
    Registry(tmp_path).put(entry(5))
    committed = only_file(tmp_path)
    original, reason = getattr(os, call), os.strerror(getattr(errno, code))

    def failing(*arguments, **keywords):
        if call == "write":
            # The disk is full midway.
            original(arguments[0], arguments[1][:100])
        raise OSError(getattr(errno, code), reason)

    monkeypatch.setattr(os, call, failing)
    one = Registry(tmp_path)
    with pytest.warns(RegistryWarning, match=f"{reason}.*JAX_CCE_REGISTRY") as caught:
        stored = [one.put(entry(3)), one.put(entry(2))]
    assert stored == [entry(3), entry(2)]
    assert len(caught) == 1
    assert one.found(KEY, "flops") == (entry(2), "memory")
    assert one.entries() == [entry(2)]
    assert [*tmp_path.rglob("*.*")] == [committed]
    assert Registry(tmp_path).get(KEY) == entry(5)
    monkeypatch.undo()
    # The next one finds room again, and what could not be stored is stored then.
    assert one.put(entry(4)) == entry(2)
    assert one.found(KEY, "flops") == (entry(2), "user")
    assert one.put(entry(1)) == entry(1)
    assert one.found(KEY, "flops") == (entry(1), "user")
    assert only_file(tmp_path)


@pytest.mark.skipif(not hasattr(os, "getuid") or os.getuid() == 0, reason="root may write anywhere")
def test_a_directory_without_permission(tmp_path):
    Registry(tmp_path).put(entry(5))
    (tmp_path / "ab").chmod(0o500)
    one = Registry(tmp_path)
    assert warns_once(lambda: one.put(entry(3)), "Permission denied") == entry(3)
    only_file(tmp_path).chmod(0)
    assert warns_once(lambda: Registry(tmp_path).get(KEY), "Permission denied") is None
    (tmp_path / "ab").chmod(0)
    assert warns_once(lambda: Registry(tmp_path).get(KEY), "Permission denied") is None
    (tmp_path / "ab").chmod(0o700)


def test_a_file_that_may_not_be_read(tmp_path, monkeypatch):
    Registry(tmp_path).put(ENTRY)

    def forbidden(store, name):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(stores.Directory, "read", forbidden)
    assert warns_once(lambda: Registry(tmp_path).get(KEY), "Permission denied") is None
    assert len(Registry(tmp_path).verify()) == 1
    assert Registry(tmp_path).prune() == []
    assert only_file(tmp_path)


def test_a_location_that_is_a_file(tmp_path):
    location = tmp_path / "file"
    location.write_text("?")
    one = Registry(location)
    assert warns_once(lambda: one.get(KEY), "Not a directory") is None
    assert warns_once(lambda: one.put(ENTRY), "could not be stored") == ENTRY
    assert one.found(KEY) == (ENTRY, "memory")
    assert len(one.verify()) == 1
    assert one.prune() == []


def test_a_location_that_is_a_dangling_link(tmp_path):
    location = tmp_path / "link"
    location.symlink_to(tmp_path / "nowhere")
    one = Registry(location)
    assert one.get(KEY) is None
    assert warns_once(lambda: one.put(ENTRY), "could not be stored") == ENTRY
    assert one.get(KEY) == ENTRY


# Many processes.


def test_many_processes_and_a_killer(tmp_path):
    counts = registry_stress.stress(tmp_path, seconds=5, processes=4, keys=50)
    assert min(counts.puts, counts.gets, counts.kills) > 0
