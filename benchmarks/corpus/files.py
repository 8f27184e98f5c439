"""The files of the corpus: graphs in node-link form, and what is known of each.

Nothing here needs more than Python, so that a replay shows what the file alone says.
"""

from __future__ import annotations

import dataclasses
import json
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

FOLDER = pathlib.Path(__file__).parent / "graphs"

# Of kinds: (later, earlier) -> (kind of the product, cost).
Table = dict[tuple[int, int], tuple[int, int]]


class CorpusError(ValueError):
    """A file that does not say what it should, or says what is not so."""


@dataclasses.dataclass(frozen=True)
class Best:
    """The best order that is known.

    Attributes:
      cost: What it costs.
      order: All vertices.
      by: What found it: the name of a search or of a classical order.
      who: The program that ran it, with its version.
      date: When.
    """

    cost: int
    order: tuple[int, ...]
    by: str
    who: str
    date: str


@dataclasses.dataclass(frozen=True)
class Entry:
    """A graph, and what is known of its orders.

    Attributes:
      name: The name, which is that of the file.
      source: Where the graph comes from.
      inputs: Nodes that are differentiated with respect to.
      vertices: Nodes that are eliminated, ascending.
      outputs: Nodes that are differentiated; one that is a vertex keeps its incoming edges.
      entries: The number of entries of each node; 1 throughout in a graph of scalars.
      edges: For each edge (source, target) the kind of its block; 1 throughout for scalars.
      products: What a product of two kinds is and costs; empty for scalars, where each costs one.
        Products that occur in the best order and in some others are there, not all that may occur.
      sums: The same for sums.
      final: What it costs to bring a block of each kind into its final form.
      best: The best order that is known.
      bound: What every order costs at least.
      bound_by: How that is proved.
      groups: The groups of vertices that prove it, if it is they.
    """

    name: str
    source: str
    inputs: tuple[int, ...]
    vertices: tuple[int, ...]
    outputs: tuple[int, ...]
    entries: Mapping[int, int]
    edges: Mapping[tuple[int, int], int]
    products: Table
    sums: Table
    final: Mapping[int, int]
    best: Best
    bound: int
    bound_by: str
    groups: tuple[tuple[int, ...], ...] = ()

    @property
    def is_scalar(self) -> bool:
        """Whether every product costs one and every sum nothing."""
        return not self.products

    def replay(self, order: Iterable[int]) -> int:
        """What an order costs, by the rules in README.md.

        Raises:
          CorpusError: If it is no order of the vertices, or meets a product that the file lacks.
        """
        order = tuple(order)
        if sorted(order) != list(self.vertices):
            raise CorpusError(f"{self.name}: the order does not name every vertex once.")
        before: dict[int, dict[int, int]] = {node: {} for node in self.entries}
        after: dict[int, dict[int, int]] = {node: {} for node in self.entries}
        for (source, target), kind in self.edges.items():
            before[target][source] = after[source][target] = kind
        outputs, cost = set(self.outputs), 0
        for vertex in order:
            for source, earlier in before[vertex].items():
                for target, later in after[vertex].items():
                    kind, paid = self._product(later, earlier)
                    cost += paid
                    known = after[source].get(target, 0)
                    if kind and known:
                        kind, paid = self._sum(known, kind)
                        cost += paid
                    elif not kind:
                        kind = known
                    after[source].pop(target, None)
                    before[target].pop(source, None)
                    if kind:
                        after[source][target] = before[target][source] = kind
            for target in after[vertex]:
                del before[target][vertex]
            after[vertex] = {}
            if vertex not in outputs:
                for source in before[vertex]:
                    del after[source][vertex]
                before[vertex] = {}
        return cost + sum(
            self.final.get(kind, 0)
            for source in self.inputs
            for target, kind in after[source].items()
            if target in outputs
        )

    def _product(self, later: int, earlier: int) -> tuple[int, int]:
        if self.is_scalar:
            return 1, 1
        return self._looked_up(self.products, later, earlier, "product")

    def _sum(self, one: int, other: int) -> tuple[int, int]:
        if self.is_scalar:
            return 1, 0
        return self._looked_up(self.sums, one, other, "sum")

    def _looked_up(self, table: Table, one: int, other: int, what: str) -> tuple[int, int]:
        try:
            return table[one, other]
        except KeyError:
            raise CorpusError(
                f"{self.name}: the {what} of the kinds {one} and {other} is not in the file."
            ) from None

    def check(self) -> None:
        """Checks all that can be checked without the program that the graph is from.

        Raises:
          CorpusError: If an edge leads back, a node has no role, the best order costs something
            else than the file says, or the bound is above it.
        """
        roles = {*self.inputs, *self.vertices, *self.outputs}
        if roles != set(self.entries) or set(self.inputs) & set(self.vertices):
            raise CorpusError(f"{self.name}: every node must be an input, a vertex or an output.")
        for source, target in self.edges:
            if not source < target:
                raise CorpusError(f"{self.name}: the edge from {source} to {target} leads back.")
            if source not in self.entries or target not in self.entries:
                raise CorpusError(f"{self.name}: the edge {source}, {target} has no such node.")
        cost = self.replay(self.best.order)
        if cost != self.best.cost:
            raise CorpusError(
                f"{self.name}: the best order costs {cost}, and not {self.best.cost}."
            )
        if self.bound > cost:
            raise CorpusError(f"{self.name}: the bound {self.bound} is above the cost {cost}.")

    def document(self) -> dict[str, Any]:
        """The node-link form."""
        outputs = set(self.outputs)

        def node(number: int) -> dict[str, Any]:
            role = "input" if number in self.inputs else "vertex"
            if number not in self.inputs and number not in self.vertices:
                role = "output"
            attributes: dict[str, Any] = {"id": number, "role": role}
            if role != "output" and number in outputs:
                attributes["is_output"] = True
            if self.entries[number] != 1:
                attributes["entries"] = self.entries[number]
            return attributes

        about: dict[str, Any] = {
            "name": self.name,
            "source": self.source,
            "best": dataclasses.asdict(self.best),
            "bound": {"cost": self.bound, "by": self.bound_by}
            | ({"groups": self.groups} if self.groups else {}),
        }
        if not self.is_scalar:
            about["products"] = [[*pair, *result] for pair, result in sorted(self.products.items())]
            about["sums"] = [[*pair, *result] for pair, result in sorted(self.sums.items())]
            about["final"] = [[kind, cost] for kind, cost in sorted(self.final.items())]
        edges = [
            {"source": source, "target": target} | ({} if self.is_scalar else {"kind": kind})
            for (source, target), kind in sorted(self.edges.items())
        ]
        return {
            "directed": True,
            "multigraph": False,
            "graph": about,
            "nodes": [node(number) for number in sorted(self.entries)],
            "edges": edges,
        }


def entry_of(document: Mapping[str, Any]) -> Entry:
    """The entry that a document in node-link form says."""
    about, nodes = document["graph"], document["nodes"]
    by_role: dict[str, list[int]] = {"input": [], "vertex": [], "output": []}
    for node in nodes:
        by_role[node["role"]].append(node["id"])
    outputs = by_role["output"] + [node["id"] for node in nodes if node.get("is_output")]

    def table(rows: Sequence[Sequence[int]]) -> Table:
        return {(one, other): (kind, cost) for one, other, kind, cost in rows}

    best = dict(about["best"])
    return Entry(
        name=about["name"],
        source=about["source"],
        inputs=tuple(by_role["input"]),
        vertices=tuple(sorted(by_role["vertex"])),
        outputs=tuple(sorted(outputs)),
        entries={node["id"]: node.get("entries", 1) for node in nodes},
        edges={(e["source"], e["target"]): e.get("kind", 1) for e in document["edges"]},
        products=table(about.get("products", ())),
        sums=table(about.get("sums", ())),
        final=dict(about.get("final", ())),
        best=Best(**(best | {"order": tuple(best["order"])})),
        bound=about["bound"]["cost"],
        bound_by=about["bound"]["by"],
        groups=tuple(tuple(group) for group in about["bound"].get("groups", ())),
    )


def paths() -> list[pathlib.Path]:
    """The files, by name."""
    return sorted(FOLDER.glob("*.json"))


def read(path: pathlib.Path) -> Entry:
    """Reads a file.

    Raises:
      CorpusError: If it is none of ours.
    """
    try:
        entry = entry_of(json.loads(path.read_text()))
    except (KeyError, TypeError, ValueError) as error:
        raise CorpusError(f"{path.name} is no file of the corpus: {error!r}.") from error
    if entry.name != path.stem:
        raise CorpusError(f"{path.name} is of a graph named {entry.name!r}.")
    return entry


def write(entry: Entry, folder: pathlib.Path = FOLDER) -> None:
    """Writes a file, a line for each node, edge and row of a table."""
    document = entry.document()
    lines = json.dumps(document, separators=(",", ":"))
    for begin in ('{"id"', '{"source"', '"nodes"', '"edges"', '"best"', '"bound"', '"products"'):
        lines = lines.replace(begin, f"\n{begin}")
    (folder / f"{entry.name}.json").write_text(lines + "\n")
