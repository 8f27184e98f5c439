"""The registry of orders: what is put is found, what is damaged is reported once and ignored."""

import concurrent.futures
import dataclasses
import datetime
import errno
import json
import os
import pathlib
import random
import sys
import tempfile
import uuid
import warnings

import hypothesis
import pytest
import registry_stress
from hypothesis import strategies as st

from jax_cce import registry
from jax_cce.registry import Registry, RegistryWarning, StoredOrder, defaults, stored_order, stores

pytestmark = pytest.mark.one_version

_KEY = "ab" + "0" * 62
_OTHER = "ab" + "1" * 62
_ENTRY = StoredOrder(_KEY, "flops", (2, 0, 1), 34.0, created="2026-01-01T00:00:00+00:00", name="f")


def entry(value=34.0, cost="flops", **changes):
    return dataclasses.replace(_ENTRY, value=float(value), cost=cost, **changes)


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


_seconds = st.floats(0, 1e300, allow_nan=False)
_entries = st.builds(
    StoredOrder,
    key=st.text("0123456789abcdef", min_size=64, max_size=64),
    cost=st.sampled_from(["flops", "runtime", "multiplications", "my-cost_2"]),
    order=st.sets(st.integers(0, 10**6), max_size=20).flatmap(
        lambda vertices: st.permutations(sorted(vertices)).map(tuple)
    ),
    value=_seconds,
    method=st.sampled_from(["elimination", "jacfwd", "jacrev"]),
    entries=st.booleans(),
    bound=st.none() | _seconds,
    strategy=st.text(),
    seed=st.none() | st.integers(),
    device=st.none() | st.text(),
    batch=st.none() | st.integers(1, 10**9),
    times=st.dictionaries(st.text(), _seconds, max_size=3),
    versions=st.dictionaries(st.text(), st.text(), max_size=3),
    created=st.datetimes(timezones=st.just(datetime.UTC)).map(datetime.datetime.isoformat),
    name=st.text(),
)


@hypothesis.given(_entries)
@hypothesis.settings(max_examples=40)
def test_an_entry_comes_back_as_it_was_put(each):
    with tempfile.TemporaryDirectory() as root:
        assert Registry(root).put(each) == each
        look_up = {"device": each.device, "batch": each.batch, "vertices": set(each.order)}
        assert Registry(root).found(each.key, each.cost, **look_up) == (each, "user")
        assert Registry(root).get(each.key, **look_up) == each
        assert Registry(root).entries() == [each]
        assert Registry(root).verify() == []


@hypothesis.given(st.lists(_entries, max_size=6, unique_by=lambda each: each.key))
@hypothesis.settings(max_examples=15)
def test_what_is_exported_is_imported(entries):
    with tempfile.TemporaryDirectory() as root:
        path = pathlib.Path(root, "orders.json")
        before, after = Registry(pathlib.Path(root, "a")), Registry(pathlib.Path(root, "b"))
        for each in entries:
            before.put(each)
        assert before.export(path) == len(entries)
        assert after.import_(path) == len(entries)
        assert after.entries() == before.entries()
        assert after.import_(path) == 0


@hypothesis.given(st.data())
@hypothesis.settings(max_examples=60)
def test_one_changed_byte_is_found(data):
    with tempfile.TemporaryDirectory() as root:
        Registry(root).put(_ENTRY)
        path = only_file(root)
        content = bytearray(path.read_bytes())
        at = data.draw(st.integers(0, len(content) - 1))
        content[at] = data.draw(st.integers(0, 255).filter(lambda byte: byte != content[at]))
        path.write_bytes(bytes(content))
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            found = Registry(root).get(_KEY, "flops")
        # Space around the content may change without harm.
        assert (found, len(caught)) in [(None, 1), (_ENTRY, 0)]


def test_the_file_is_json_that_people_can_read(tmp_path):
    Registry(tmp_path).put(_ENTRY)
    path = only_file(tmp_path)
    content = json.loads(path.read_text())
    assert path.parent.name == "ab"
    assert path.name == f"{_KEY}.flops.{content['checksum'][:8]}.json"
    assert content["schema"] == stored_order.SCHEMA
    assert path.read_text().endswith("}\n")
    assert [*content] == sorted(content)


def test_put_fills_in_the_time():
    stored = Registry().put(dataclasses.replace(_ENTRY, created=""))
    assert datetime.datetime.fromisoformat(stored.created).tzinfo is not None


@pytest.mark.parametrize(
    "change",
    [
        {"key": "AB" + "0" * 62},
        {"key": "ab"},
        {"cost": "../flops"},
        {"cost": ""},
        {"order": (0, 0)},
        {"order": (-1,)},
        {"order": (True, False)},
        {"order": (0.0,)},
        {"order": "01"},
        {"order": None},
        {"value": float("nan")},
        {"value": float("inf")},
        {"value": -1.0},
        {"value": True},
        {"value": "3"},
        {"value": 10**400},
        {"bound": -1.0},
        {"method": "jvp"},
        {"entries": 1},
        {"seed": 0.5},
        {"batch": 0},
        {"device": 1},
        {"times": {"jacrev": float("inf")}},
        {"times": [1.0]},
        {"versions": {"jax": 1}},
        {"created": "yesterday"},
        {"name": None},
    ],
    ids=str,
)
def test_an_entry_that_cannot_be_is_refused(change, tmp_path):
    with pytest.raises((TypeError, ValueError), match=next(iter(change))):
        dataclasses.replace(_ENTRY, **change)
    # The same in a file, with a true checksum; NaN and infinity have none.
    if change.keys() & {"key", "cost"} or "nan" in str(change) or "inf" in str(change):
        return
    content = json.loads(json.dumps({**stored_order.content_of(_ENTRY), **change}))
    written(tmp_path, content)
    assert warns_once(lambda: Registry(tmp_path).get(_KEY), next(iter(change))) is None


# Which entry is found.


def test_the_better_of_two_is_kept(tmp_path):
    one = Registry(tmp_path)
    one.put(entry(5))
    assert one.put(entry(7)).value == 5
    assert one.put(entry(3)) == entry(3)
    assert only_file(tmp_path)
    assert Registry(tmp_path).get(_KEY, "flops").value == 3
    # The same value with a proof is better than without.
    proven = entry(3, bound=3.0)
    assert one.put(proven) == proven
    assert one.put(entry(3)) == proven
    assert only_file(tmp_path)


def test_two_writers_that_did_not_see_each_other(tmp_path):
    for value in (5, 3, 7):
        written(tmp_path, stored_order.content_of(entry(value)))
    assert Registry(tmp_path).get(_KEY, "flops").value == 3
    assert Registry(tmp_path).entries() == [entry(3)]
    assert len(Registry(tmp_path).prune(dry_run=True)) == 2
    assert len(Registry(tmp_path).prune()) == 2
    assert Registry(tmp_path).entries() == [entry(3)]


def test_an_entry_with_other_vertices_is_no_rival(tmp_path):
    one = Registry(tmp_path)
    foreign = entry(1, order=(7, 8))
    one.put(foreign)
    assert one.put(entry(3)) == entry(3)
    found = warns_once(lambda: one.get(_KEY, "flops", vertices=range(3)), "no permutation")
    assert found == entry(3)
    assert len([*tmp_path.glob("*/*.json")]) == 2
    assert one.prune() == []


def test_the_first_layer_wins_except_over_a_cheaper_order(tmp_path):
    roots = [tmp_path / name for name in ("user", "shared1", "shared2", "shipped")]

    def found(*values):
        for root, value in zip(roots, values, strict=True):
            if value is not None:
                Registry(root / str(values)).put(entry(value, name=root.name))
        user, *shared, shipped = [root / str(values) for root in roots]
        answer = Registry(user, shared, shipped).found(_KEY, "flops")
        return answer and (answer[0].value, answer[0].name, answer[1])

    assert found(None, None, None, None) is None
    assert found(None, None, None, 5) == (5, "shipped", "shipped")
    assert found(5, 5, 5, 5) == (5, "user", "user")
    assert found(7, 5, 5, 5) == (5, "shared1", "shared")
    assert found(7, 6, 5, 5) == (5, "shared2", "shared")
    assert found(4, 6, 5, 5) == (4, "user", "user")


def test_what_is_shared_is_kept_and_not_written(tmp_path):
    Registry(tmp_path / "shared").put(entry(3))
    one = Registry(tmp_path / "user", [tmp_path / "shared"])
    assert one.put(entry(5)) == entry(3)
    assert one.put(entry(2)) == entry(2)
    assert Registry(tmp_path / "shared").entries() == [entry(3)]
    assert one.entries() == [entry(2)]


def test_without_a_cost_the_most_telling_one_is_taken(tmp_path):
    one = Registry(tmp_path)
    expected = []
    for cost in ("z", "a", "multiplications", "bytes", "flops"):
        one.put(entry(cost=cost))
        expected.append(one.get(_KEY).cost)
    one.put(entry(cost="runtime", device="A"))
    expected.append(one.get(_KEY, device="A").cost)
    expected.append(one.get(_KEY, device="B").cost)
    assert expected == ["z", "a", "multiplications", "bytes", "flops", "runtime", "flops"]


def test_measured_entries(tmp_path):
    one = Registry(tmp_path)

    def measured(value, day, device="A", batch=None):
        created = f"2026-01-{day:02}T00:00:00+00:00"
        return entry(value, "runtime", device=device, batch=batch, created=created)

    def value(**question):
        found = Registry(tmp_path).get(_KEY, "runtime", **question)
        return found and found.value

    one.put(measured(1, 2))
    # A newer measurement counts, although it is slower.
    assert one.put(measured(2, 3)).value == 2
    assert one.put(measured(0, 1)).value == 2
    one.put(measured(3, 1, batch=64))
    one.put(measured(4, 1, device="B", batch=64))
    assert [value(device=device) for device in ("A", "B", "C", None)] == [2, 4, None, None]
    # Between 1 and 64, the middle is 8.
    assert [value(device="A", batch=batch) for batch in (1, 7, 9, 64, 10**6)] == [2, 2, 3, 3, 3]
    assert len(one.entries()) == 3
    # An own measurement is not replaced by another's that is newer, or faster.
    Registry(tmp_path / "shared").put(measured(0, 9))
    both = Registry(tmp_path, [tmp_path / "shared"])
    assert both.found(_KEY, "runtime", device="A") == (measured(2, 3), "user")


def test_an_answer_is_remembered_until_the_registry_changes(tmp_path):
    one = Registry(tmp_path)
    one.put(entry(5))
    assert one.get(_KEY, "flops").value == 5
    Registry(tmp_path).put(entry(3))
    assert one.get(_KEY, "flops").value == 5
    generation = one.generation
    one.put(entry(9, cost="bytes"))
    assert one.generation > generation
    assert one.get(_KEY, "flops").value == 3


def test_a_look_up_lists_one_directory_of_each_layer(tmp_path, monkeypatch):
    for number in range(30):
        Registry(tmp_path).put(entry(key=registry_stress.key_of(number)))
    listed = []
    scandir = os.scandir
    monkeypatch.setattr(os, "scandir", lambda path: listed.append(path) or scandir(path))
    one = Registry(tmp_path, [tmp_path / "shared"], tmp_path / "shipped")
    assert one.get(registry_stress.key_of(3), "flops")
    assert len(listed) == 3
    assert one.get(registry_stress.key_of(3), "flops")
    assert len(listed) == 3


def test_memory_alone():
    one = Registry()
    assert one.get(_KEY) is None
    one.put(entry(5))
    one.put(entry(3))
    assert one.found(_KEY) == (entry(3), "memory")
    assert one.entries() == [entry(3)]
    assert one.prune() == one.verify() == []


def test_many_threads(tmp_path):
    one = Registry(tmp_path)
    values = random.Random(0).sample(range(1000), 60)
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        stored = [*pool.map(lambda value: one.put(entry(value)), values)]
    assert all(each.value <= value for each, value in zip(stored, values, strict=True))
    assert one.generation == len(values)
    assert Registry(tmp_path).get(_KEY).value == min(values)


# URLs.


@pytest.fixture
def url():
    pytest.importorskip("fsspec")
    return f"memory://{uuid.uuid4()}"


def test_a_url_of_an_object_store(url):
    one = Registry(url)
    assert one.get(_KEY) is None
    assert one.entries() == one.verify() == []
    one.put(entry(5))
    one.put(entry(3))
    assert Registry(url).found(_KEY, "flops", vertices=range(3)) == (entry(3), "user")
    assert Registry(None, [url]).found(_KEY) == (entry(3), "shared")
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
    warns_once(lambda: one.get(_KEY), match)
    assert warns_once(lambda: one.put(_ENTRY), match) == _ENTRY
    assert one.found(_KEY) == (_ENTRY, "memory")
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
    content = json.loads(path.read_text()) | {"key": _OTHER}
    written(path.parents[1], content, f"ab/{path.name}")


def _other_cost(path):
    content = json.loads(path.read_text()) | {"cost": "bytes"}
    written(path.parents[1], content, f"ab/{path.name}")


def _renamed(path):
    path.rename(path.with_name(f"{_KEY}.flops.00000000.json"))


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
    found = warns_once(lambda: Registry(tmp_path).get(_KEY, "flops"), match)
    assert found == (entry(50) if another else None)
    (line,) = Registry(tmp_path).verify()
    assert str(damaged) in line
    one = Registry(tmp_path)
    if damage is not _dangling:
        assert one.prune(damaged=False) == []
        assert one.prune(dry_run=True) == one.prune() == [str(damaged)]
        assert one.verify() == []
    assert one.put(entry(20)) == entry(20)
    assert one.get(_KEY, "flops") == entry(20)


def test_an_order_of_another_function(tmp_path):
    Registry(tmp_path).put(_ENTRY)
    one = Registry(tmp_path)
    assert warns_once(lambda: one.get(_KEY, "flops", vertices=(0, 1)), "no permutation") is None
    assert one.get(_KEY, "flops", vertices=(0, 1, 3)) is None
    assert one.get(_KEY, "flops", vertices=()) is None
    assert one.get(_KEY, "flops", vertices=[0, 1, 2]) == _ENTRY
    # The answer from memory is checked too.
    assert one.get(_KEY, "flops", vertices=[0, 1]) is None


def test_a_file_of_a_newer_version_is_left_alone(tmp_path):
    Registry(tmp_path).put(_ENTRY)
    path = only_file(tmp_path)
    path.write_text(path.read_text().replace('"schema": 1', '"schema": 2'))
    match = r"newer version of jax_cce wrote it \(schema 2"
    assert warns_once(lambda: Registry(tmp_path).get(_KEY), match) is None
    assert len(Registry(tmp_path).verify()) == 1
    assert Registry(tmp_path).prune() == []
    assert path.exists()


def test_files_that_are_no_entries_are_left_alone(tmp_path):
    Registry(tmp_path).put(_ENTRY)
    for name in ("README", "ab/notes.txt", "ab/.nfs0001", "ab/ab.flops.json"):
        (tmp_path / name).write_text("?")
    assert Registry(tmp_path).get(_KEY) == _ENTRY
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
    assert Registry(tmp_path).get(_KEY) == entry(3)


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
    assert one.found(_KEY, "flops") == (entry(2), "memory")
    assert one.entries() == [entry(2)]
    assert [*tmp_path.rglob("*.*")] == [committed]
    assert Registry(tmp_path).get(_KEY) == entry(5)
    monkeypatch.undo()
    # The next one finds room again, and what could not be stored is stored then.
    assert one.put(entry(4)) == entry(2)
    assert one.found(_KEY, "flops") == (entry(2), "user")
    assert one.put(entry(1)) == entry(1)
    assert one.found(_KEY, "flops") == (entry(1), "user")
    assert only_file(tmp_path)


@pytest.mark.skipif(not hasattr(os, "getuid") or os.getuid() == 0, reason="root may write anywhere")
def test_a_directory_without_permission(tmp_path):
    Registry(tmp_path).put(entry(5))
    (tmp_path / "ab").chmod(0o500)
    one = Registry(tmp_path)
    assert warns_once(lambda: one.put(entry(3)), "Permission denied") == entry(3)
    only_file(tmp_path).chmod(0)
    assert warns_once(lambda: Registry(tmp_path).get(_KEY), "Permission denied") is None
    (tmp_path / "ab").chmod(0)
    assert warns_once(lambda: Registry(tmp_path).get(_KEY), "Permission denied") is None
    (tmp_path / "ab").chmod(0o700)


def test_a_file_that_may_not_be_read(tmp_path, monkeypatch):
    Registry(tmp_path).put(_ENTRY)

    def forbidden(store, name):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(stores.Directory, "read", forbidden)
    assert warns_once(lambda: Registry(tmp_path).get(_KEY), "Permission denied") is None
    assert len(Registry(tmp_path).verify()) == 1
    assert Registry(tmp_path).prune() == []
    assert only_file(tmp_path)


def test_a_location_that_is_a_file(tmp_path):
    location = tmp_path / "file"
    location.write_text("?")
    one = Registry(location)
    assert warns_once(lambda: one.get(_KEY), "Not a directory") is None
    assert warns_once(lambda: one.put(_ENTRY), "could not be stored") == _ENTRY
    assert one.found(_KEY) == (_ENTRY, "memory")
    assert len(one.verify()) == 1
    assert one.prune() == []


def test_a_location_that_is_a_dangling_link(tmp_path):
    location = tmp_path / "link"
    location.symlink_to(tmp_path / "nowhere")
    one = Registry(location)
    assert one.get(_KEY) is None
    assert warns_once(lambda: one.put(_ENTRY), "could not be stored") == _ENTRY
    assert one.get(_KEY) == _ENTRY


# Export, import, prune.


def test_export_keeps_the_old_file_when_it_fails(tmp_path, monkeypatch):
    one, path = Registry(), tmp_path / "orders.json"
    one.put(_ENTRY)
    assert one.export(path) == 1
    before = path.read_bytes()

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space"):
            one.export(path)
    assert path.read_bytes() == before
    assert [*tmp_path.iterdir()] == [path]
    assert one.export(path, cost="bytes") == 0


def test_import_merges_and_leaves_out_what_is_damaged(tmp_path):
    path = tmp_path / "orders.json"
    source = Registry()
    for each in (entry(5), entry(5, cost="bytes"), entry(5, key=_OTHER)):
        source.put(each)
    source.export(path)
    content = json.loads(path.read_text())
    content["entries"] += [{**content["entries"][0], "value": 1.0}, "?"]
    path.write_text(json.dumps(content))
    one = Registry(tmp_path / "registry")
    one.put(entry(3))
    one.put(entry(7, cost="bytes"))
    with pytest.warns(RegistryWarning, match=r"entry [34] was left out") as caught:
        assert one.import_(path) == 2
    assert len(caught) == 2
    assert [each.value for each in one.entries()] == [5, 3, 5]


@pytest.mark.parametrize("text", ["", "?", "[]", '{"entries": 1}'])
def test_import_of_something_else(text, tmp_path):
    path = tmp_path / "orders.json"
    with pytest.raises(FileNotFoundError):
        Registry().import_(path)
    path.write_text(text)
    with pytest.raises(ValueError, match="no export of a registry"):
        Registry().import_(path)


def test_prune_removes_what_killed_writers_left(tmp_path):
    one = Registry(tmp_path)
    one.put(_ENTRY)
    new, old = tmp_path / "ab" / ".tmp-1-new", tmp_path / "ab" / ".tmp-1-old"
    for path in (new, old):
        path.write_text("{")
    os.utime(old, (0, 0))
    assert one.get(_KEY) == _ENTRY
    assert one.verify() == [f"{old}: a killed writer left it"]
    assert one.prune() == [str(old)]
    assert new.exists()


def test_prune_by_age(tmp_path):
    one = Registry(tmp_path)
    now = datetime.datetime.now(datetime.UTC)
    for days in (1, 10):
        created = (now - datetime.timedelta(days=days)).isoformat()
        one.put(entry(cost=f"cost{days}", created=created))
    (removed,) = one.prune(older_than_days=5)
    assert "cost10" in removed
    assert [each.cost for each in one.entries()] == ["cost1"]


# The registry of the process.


def test_the_environment_describes_the_registry(tmp_path, monkeypatch):
    monkeypatch.setattr("jax_cce.registry.defaults._shipped", lambda: None)
    monkeypatch.setenv("JAX_CCE_REGISTRY", str(tmp_path / "user"))
    monkeypatch.setenv("JAX_CCE_REGISTRY_SHARED", "")
    one = registry.default()
    assert registry.default() is one
    registry.put(entry(5))
    assert registry.get(_KEY, "flops") == entry(5)
    assert registry.entries() == [entry(5)]
    assert registry.export(tmp_path / "orders.json") == 1
    assert registry.import_(tmp_path / "orders.json") == 0
    assert registry.verify() == registry.prune() == []

    monkeypatch.setenv("JAX_CCE_REGISTRY_SHARED", str(tmp_path / "user"))
    monkeypatch.setenv("JAX_CCE_REGISTRY", str(tmp_path / "empty"))
    assert registry.default().found(_KEY) == (entry(5), "shared")
    for off in ("", "off"):
        monkeypatch.setenv("JAX_CCE_REGISTRY", off)
        assert registry.default() is not one
        assert registry.default().found(_KEY) is None
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


def test_many_processes_and_a_killer(tmp_path):
    counts = registry_stress.stress(tmp_path, seconds=5, processes=4, keys=50)
    assert min(counts.puts, counts.gets, counts.kills) > 0
