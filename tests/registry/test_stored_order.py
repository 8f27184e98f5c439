"""A stored order: what is put comes back, and what cannot be is refused."""

import dataclasses
import datetime
import json
import pathlib
import tempfile
import warnings

import hypothesis
import pytest
from hypothesis import strategies as st

from cases.stored_orders import ENTRY, KEY, only_file, warns_once, written
from jax_cce.registry import Registry, StoredOrder, stored_order

pytestmark = pytest.mark.one_version

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
        Registry(root).put(ENTRY)
        path = only_file(root)
        content = bytearray(path.read_bytes())
        at = data.draw(st.integers(0, len(content) - 1))
        content[at] = data.draw(st.integers(0, 255).filter(lambda byte: byte != content[at]))
        path.write_bytes(bytes(content))
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            found = Registry(root).get(KEY, "flops")
        # Space around the content may change without harm.
        assert (found, len(caught)) in [(None, 1), (ENTRY, 0)]


def test_the_file_is_json_that_people_can_read(tmp_path):
    Registry(tmp_path).put(ENTRY)
    path = only_file(tmp_path)
    content = json.loads(path.read_text())
    assert path.parent.name == "ab"
    assert path.name == f"{KEY}.flops.{content['checksum'][:8]}.json"
    assert content["schema"] == 1
    assert path.read_text().endswith("}\n")
    assert [*content] == sorted(content)


def test_put_fills_in_the_time():
    stored = Registry().put(dataclasses.replace(ENTRY, created=""))
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
        dataclasses.replace(ENTRY, **change)
    # The same in a file, with a true checksum; NaN and infinity have none.
    if change.keys() & {"key", "cost"} or "nan" in str(change) or "inf" in str(change):
        return
    content = json.loads(json.dumps({**stored_order.content_of(ENTRY), **change}))
    written(tmp_path, content)
    assert warns_once(lambda: Registry(tmp_path).get(KEY), next(iter(change))) is None
