"""A stored order, and the JSON that a file holds of it."""

import contextlib
import dataclasses
import datetime
import hashlib
import json
import math
import numbers
import operator
import re
import reprlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from jax_cce import reports
from jax_cce.algebra.costs import compared, with_unit
from jax_cce.eliminations import Item, has_edges, items_of, vertices_of

__all__ = [
    "FILE_NAME",
    "SCHEMA",
    "SHORT_KEY",
    "DamagedError",
    "NewerError",
    "StoredOrder",
    "content_of",
    "file_name",
    "instant",
    "parsed",
    "serialised",
    "stored_order_of",
]

# The second has orders with edges; all others are written as in the first, which every version
# reads.
SCHEMA = 2
_OF_VERTICES = 1

# Digits of a key that are shown; `jax-cce registry show` takes any unique beginning of one.
SHORT_KEY = 12

_METHODS = ("elimination", "jacfwd", "jacrev", "native")
_KEY = re.compile("[0-9a-f]{64}")
_COST = re.compile("[A-Za-z0-9_-]{1,64}")

# An entry's file; the groups are the key and the cost.
FILE_NAME = re.compile(rf"[0-9a-f]{{2}}/({_KEY.pattern})\.({_COST.pattern})\.[0-9a-f]{{8}}\.json")


@dataclass(frozen=True)
class StoredOrder:
    """An elimination order, what it was found for, and how good it is.

    Attributes:
        key: 64 hexadecimal digits that identify the function.
        cost: name of the cost that the order minimises, such as "flops"; letters, digits, "_", "-".
        order: the vertices in the order of their elimination, and edges by themselves between them,
            each a `jax_cce.EdgeElimination`.
        value: the cost of the order; seconds where it was measured.
        method: what runs: "elimination", "jacfwd", "jacrev", or "native" code.
        entries: whether small arrays are taken apart entry by entry.
        bound: a proven lower bound of the cost.
        groups: the groups of vertices that prove it, which readers check; empty where the bounds of
            single vertices do, or where all orders were searched.
        strategy: how the order was found.
        seed: the seed of that strategy.
        device: kind of the device that it was measured on, such as "NVIDIA H200".
        batch: the batch size under `jax.vmap` that it was measured with.
        times: measured seconds of each contender.
        versions: version of each package that matters.
        created: time of the result, ISO 8601, in UTC where it names no zone.
        name: the function's name, for people only.
        topology: identifies the function up to sizes; "" where small arrays are taken apart.

    Raises:
        TypeError: for an attribute of the wrong type.
        ValueError: for one that cannot be, such as an order that names a vertex twice.
    """

    key: str
    cost: str
    order: tuple[Item, ...]
    value: float
    method: str = "elimination"
    entries: bool = False
    bound: float | None = None
    strategy: str = ""
    seed: int | None = None
    device: str | None = None
    batch: int | None = None
    times: Mapping[str, float] = field(default_factory=dict, hash=False)
    versions: Mapping[str, str] = field(default_factory=dict, hash=False)
    created: str = ""
    name: str = ""
    topology: str = ""
    groups: tuple[tuple[int, ...], ...] = ()

    def __post_init__(self) -> None:
        for name in ("key", "cost", "method", "strategy", "created", "name", "topology"):
            _text(name, getattr(self, name))
        if not _KEY.fullmatch(self.key):
            raise ValueError(f"key must be 64 hexadecimal digits in lower case, got {self.key!r}.")
        if not _COST.fullmatch(self.cost):
            raise ValueError(
                f'cost must be 1 to 64 letters, digits, "_" or "-", but got {self.cost!r}.'
            )
        if self.method not in _METHODS:
            raise ValueError(f"method must be one of {_METHODS}, but got {self.method!r}.")
        if not isinstance(self.entries, bool):
            raise TypeError(f"entries must be True or False, but got {self.entries!r}.")
        if self.device is not None:
            _text("device", self.device)
        if isinstance(self.order, str | Mapping) or not isinstance(self.order, Iterable):
            raise TypeError(
                f"order must be a sequence of vertices, but got {reprlib.repr(self.order)}."
            )
        order = tuple(map(_item, self.order))
        vertices = vertices_of(order)
        if len(set(vertices)) < len(vertices) or min(vertices, default=0) < 0:
            raise ValueError(
                f"order must name each vertex once, and none below 0, got {reprlib.repr(order)}."
            )
        groups = _groups(self.groups, vertices)
        for name in ("times", "versions"):
            if not isinstance(getattr(self, name), Mapping):
                raise TypeError(f"{name} must be a mapping, but got {getattr(self, name)!r}.")
        normal: dict[str, Any] = {
            "order": order,
            "groups": groups,
            "value": _number("value", self.value),
            "bound": None if self.bound is None else _number("bound", self.bound),
            "seed": None if self.seed is None else _integer("seed", self.seed),
            "batch": None if self.batch is None else _integer("batch", self.batch),
            "times": {_text("times", k): _number("times", v) for k, v in self.times.items()},
            "versions": {
                _text("versions", k): _text("versions", v) for k, v in self.versions.items()
            },
        }
        for name, value in normal.items():
            object.__setattr__(self, name, value)
        if self.batch is not None and self.batch < 1:
            raise ValueError(f"batch must be at least 1, but got {self.batch}.")
        instant(self.created)

    @property
    def amount(self) -> str:
        """Its cost with the unit, for people."""
        return with_unit(self.cost, self.value)

    def __repr__(self) -> str:
        """One line; `print` shows more, and `order` has the vertices."""
        by = f", found by {self.strategy}" if self.strategy else ""
        return f"<StoredOrder {self._title}{by}, {len(vertices_of(self.order)):,} vertices>"

    def __str__(self) -> str:
        """A few lines."""
        return self._section().text()

    def _repr_html_(self) -> str:
        return self._section().html()

    @property
    def _title(self) -> str:
        return f"{self.name or self.key[:SHORT_KEY]}: {self.amount}"

    def _section(self) -> reports.Section:
        facts = {
            "runs": self.method,
            "vertices": f"{len(vertices_of(self.order)):,} (see .order)",
            "small arrays": "taken apart" if self.entries else "",
            "lower bound": "" if self.bound is None else with_unit(self.cost, self.bound),
            "found by": self.strategy,
            "measured on": self.device,
            "points under jax.vmap": self.batch and f"{self.batch:,}",
            "created": self.created[:19].replace("T", " "),
            "key": self.key,
        }
        lines = tuple(f"{name}: {fact}" for name, fact in facts.items() if fact)
        header = ("contender", "time", "multiple of the best")
        return reports.Section(self._title, lines, header, compared("runtime", self.times))


def _groups(groups: Any, order: Sequence[int]) -> tuple[tuple[int, ...], ...]:
    """Disjoint groups of the vertices of an order."""
    if isinstance(groups, str | Mapping) or not isinstance(groups, Iterable):
        raise TypeError(f"groups must be sequences of vertices, but got {reprlib.repr(groups)}.")
    read = tuple(tuple(_integer("a vertex in groups", v) for v in group) for group in groups)
    members = [vertex for group in read for vertex in group]
    if len(set(members)) < len(members) or not set(members) <= set(order):
        raise ValueError(
            f"groups must be disjoint and of vertices in order, got {reprlib.repr(read)}."
        )
    return read


def _text(what: str, value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{what} must be text, but got {value!r}.")
    return value


def _integer(what: str, value: Any) -> int:
    if isinstance(value, bool):
        raise TypeError(f"{what} must be an integer, but got {value!r}.")
    try:
        return operator.index(value)
    except TypeError:
        raise TypeError(f"{what} must be an integer, but got {value!r}.") from None


def _item(item: Any) -> Item:
    """A vertex, or an edge, of which JSON has a list."""
    if not isinstance(item, tuple | list):
        return _integer("a vertex in order", item)
    (edge,) = items_of([item])
    return edge


def _number(what: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError(f"{what} must be a number, but got {value!r}.")
    # An integer may be too large for a float.
    with contextlib.suppress(OverflowError):
        number = float(value)
        if math.isfinite(number) and number >= 0:
            return number
    raise ValueError(f"{what} must be finite and not negative, but got {value!r}.")


def instant(created: str) -> float:
    """Seconds since 1970 of an ISO 8601 time; an empty text is of old."""
    if not created:
        return 0.0
    try:
        moment = datetime.datetime.fromisoformat(created)
    except ValueError:
        raise ValueError(f"created must be an ISO 8601 time, but got {created!r}.") from None
    return (moment if moment.tzinfo else moment.replace(tzinfo=datetime.UTC)).timestamp()


# The content of a file.


class DamagedError(ValueError):
    """The content is not what a writer of this schema wrote."""


class NewerError(ValueError):
    """A newer version of jax_cce wrote the content."""


def _checksum(content: Mapping[str, object]) -> str:
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(canonical.encode()).hexdigest()


def content_of(entry: StoredOrder) -> dict[str, object]:
    """What the file of an entry holds."""
    schema = SCHEMA if has_edges(entry.order) else _OF_VERTICES
    content = {"schema": schema, **dataclasses.asdict(entry)}
    if not entry.groups:
        # As earlier versions wrote it.
        del content["groups"]
    return {**content, "checksum": _checksum(content)}


def serialised(content: object) -> bytes:
    """JSON that people can read, and that does not depend on the order of the attributes."""
    return (json.dumps(content, indent=1, sort_keys=True, allow_nan=False) + "\n").encode()


def file_name(content: Mapping[str, object]) -> str:
    """The name of the file with this content."""
    key, cost, checksum = (str(content[name]) for name in ("key", "cost", "checksum"))
    return f"{key[:2]}/{key}.{cost}.{checksum[:8]}.json"


def parsed(data: bytes) -> object:
    """Reads JSON.

    Raises:
        DamagedError: where it is none.
    """
    try:
        return json.loads(data.decode())
    # A deeply nested text exhausts the parser's stack.
    except (ValueError, RecursionError) as error:
        text = "empty" if not data else f"not JSON ({error})"
        raise DamagedError(f"the file is {text}") from error


def stored_order_of(content: object) -> StoredOrder:
    """The entry in a file's content.

    Raises:
        DamagedError: where it is not exactly what a writer of this schema wrote.
        NewerError: where its schema is a later one.
    """
    if not isinstance(content, dict):
        raise DamagedError("the content is not a JSON object")
    schema = content.get("schema")
    if isinstance(schema, int) and schema > SCHEMA:
        raise NewerError(
            f"a newer version of jax_cce wrote it (schema {schema}; this version reads {SCHEMA} "
            "and can be upgraded)"
        )
    if schema not in (_OF_VERTICES, SCHEMA) or isinstance(schema, bool):
        raise DamagedError(f"the schema is {schema!r}, not {_OF_VERTICES} or {SCHEMA}")
    stated = content.get("checksum")
    names = {attribute.name for attribute in dataclasses.fields(StoredOrder)}
    try:
        if stated != _checksum({k: v for k, v in content.items() if k != "checksum"}):
            raise ValueError("the checksum does not match the content")
        return StoredOrder(**{name: value for name, value in content.items() if name in names})
    # JSON that is nested, or has numbers that are not finite, has no checksum.
    except (TypeError, ValueError, RecursionError) as error:
        raise DamagedError(str(error)) from error
