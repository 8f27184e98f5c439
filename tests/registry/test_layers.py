"""A registry in layers: the best order is found, merged, exported, imported and pruned."""

import concurrent.futures
import datetime
import errno
import json
import os
import random

import pytest
import registry_stress

from cases.stored_orders import ENTRY, KEY, OTHER, entry, only_file, warns_once, written
from jax_cce.registry import Registry, RegistryWarning, stored_order

pytestmark = pytest.mark.one_version


def test_the_better_of_two_is_kept(tmp_path):
    one = Registry(tmp_path)
    one.put(entry(5))
    assert one.put(entry(7)).value == 5
    assert one.put(entry(3)) == entry(3)
    assert only_file(tmp_path)
    assert Registry(tmp_path).get(KEY, "flops").value == 3
    # The same value with a proof is better than without.
    proven = entry(3, bound=3.0)
    assert one.put(proven) == proven
    assert one.put(entry(3)) == proven
    assert only_file(tmp_path)


def test_two_writers_that_did_not_see_each_other(tmp_path):
    for value in (5, 3, 7):
        written(tmp_path, stored_order.content_of(entry(value)))
    assert Registry(tmp_path).get(KEY, "flops").value == 3
    assert Registry(tmp_path).entries() == [entry(3)]
    assert len(Registry(tmp_path).prune(dry_run=True)) == 2
    assert len(Registry(tmp_path).prune()) == 2
    assert Registry(tmp_path).entries() == [entry(3)]


def test_an_entry_with_other_vertices_is_no_rival(tmp_path):
    one = Registry(tmp_path)
    foreign = entry(1, order=(7, 8))
    one.put(foreign)
    assert one.put(entry(3)) == entry(3)
    found = warns_once(lambda: one.get(KEY, "flops", vertices=range(3)), "no permutation")
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
        answer = Registry(user, shared, shipped).found(KEY, "flops")
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
        expected.append(one.get(KEY).cost)
    one.put(entry(cost="runtime", device="A"))
    expected.append(one.get(KEY, device="A").cost)
    expected.append(one.get(KEY, device="B").cost)
    assert expected == ["z", "a", "multiplications", "bytes", "flops", "runtime", "flops"]


def test_measured_entries(tmp_path):
    one = Registry(tmp_path)

    def measured(value, day, device="A", batch=None):
        created = f"2026-01-{day:02}T00:00:00+00:00"
        return entry(value, "runtime", device=device, batch=batch, created=created)

    def value(**question):
        found = Registry(tmp_path).get(KEY, "runtime", **question)
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
    assert both.found(KEY, "runtime", device="A") == (measured(2, 3), "user")


def test_an_answer_is_remembered_until_the_registry_changes(tmp_path):
    one = Registry(tmp_path)
    one.put(entry(5))
    assert one.get(KEY, "flops").value == 5
    Registry(tmp_path).put(entry(3))
    assert one.get(KEY, "flops").value == 5
    generation = one.generation
    one.put(entry(9, cost="bytes"))
    assert one.generation > generation
    assert one.get(KEY, "flops").value == 3


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
    assert one.get(KEY) is None
    one.put(entry(5))
    one.put(entry(3))
    assert one.found(KEY) == (entry(3), "memory")
    assert one.entries() == [entry(3)]
    assert one.prune() == one.verify() == []


def test_many_threads(tmp_path):
    one = Registry(tmp_path)
    values = random.Random(0).sample(range(1000), 60)
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        stored = [*pool.map(lambda value: one.put(entry(value)), values)]
    assert all(each.value <= value for each, value in zip(stored, values, strict=True))
    assert one.generation == len(values)
    assert Registry(tmp_path).get(KEY).value == min(values)


# Export, import, prune.


def test_export_keeps_the_old_file_when_it_fails(tmp_path, monkeypatch):
    one, path = Registry(), tmp_path / "orders.json"
    one.put(ENTRY)
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
    for each in (entry(5), entry(5, cost="bytes"), entry(5, key=OTHER)):
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
    one.put(ENTRY)
    new, old = tmp_path / "ab" / ".tmp-1-new", tmp_path / "ab" / ".tmp-1-old"
    for path in (new, old):
        path.write_text("{")
    os.utime(old, (0, 0))
    assert one.get(KEY) == ENTRY
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
