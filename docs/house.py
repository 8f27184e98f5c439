"""The house: which rooms the packages have, how large they are, and which room imports which.

    python docs/house.py                    # rooms, imports between them, cycles
    python docs/house.py --svg PATH         # writes the picture
    python docs/house.py --check PATH       # exits with 1 where the picture at PATH is another
    python docs/house.py --root DIR         # the same for another checkout

A room is a folder of a package, or a module that lies in the package itself. An import is counted
once for each pair of modules, wherever in a module it stands; imports by name at run time, such as
those of entry points, are not seen. Rooms are listed so that each stands above all that it imports,
except where rooms import each other.
"""

from __future__ import annotations

import argparse
import ast
import collections
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from xml.sax.saxutils import escape

_ROOT = Path(__file__).resolve().parents[1]
# Folders, relative to a checkout, of the packages; the ones above first.
_PACKAGES = ("search/jax_cce_search", "jax_cce")
# The room of a package's own __init__.
_FRONT = "(public names)"
# A wider matrix is printed as a list.
_WIDEST_MATRIX = 30

Graph = Mapping[str, set[str]]


@dataclass(frozen=True)
class Module:
    """A module: its dotted name, the room it is in, its lines, what it says of itself, its tree."""

    name: str
    room: str
    lines: int
    summary: str
    tree: ast.Module
    is_package: bool


def modules_of(root: Path) -> dict[str, Module]:
    """All modules of the packages of a checkout, by name."""
    found = {}
    for folder in _PACKAGES:
        base = root / folder
        for path in sorted(base.rglob("*.py")):
            parts = path.relative_to(base).with_suffix("").parts
            inside = parts[:-1] if parts[-1] == "__init__" else parts
            text = path.read_text(encoding="utf-8")
            tree = ast.parse(text)
            summary = (ast.get_docstring(tree) or "").split("\n\n")[0].replace("\n", " ")
            name = ".".join((base.name, *inside))
            room = f"{base.name}.{inside[0] if inside else _FRONT}"
            is_package = parts[-1] == "__init__"
            found[name] = Module(name, room, len(text.splitlines()), summary, tree, is_package)
    return found


def _imported(module: Module, modules: Mapping[str, Module]) -> Iterable[str]:
    """The modules of the house that a module imports."""
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in modules)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parts = module.name.split(".")
                up = parts[: len(parts) - node.level + module.is_package]
                base = ".".join([*up, base]).rstrip(".")
            for alias in node.names:
                inner = f"{base}.{alias.name}"
                if inner in modules:
                    yield inner
                elif base in modules:
                    yield base


def imports_of(modules: Mapping[str, Module]) -> dict[str, set[str]]:
    """For each module the other modules that it imports."""
    return {name: {*_imported(module, modules)} - {name} for name, module in modules.items()}


def between_rooms(modules: Mapping[str, Module], imports: Graph) -> collections.Counter:
    """How many imports each pair of different rooms has."""
    pairs = ((modules[a].room, modules[b].room) for a in imports for b in imports[a])
    return collections.Counter(pair for pair in pairs if pair[0] != pair[1])


def components(graph: Graph) -> list[list[str]]:
    """Strongly connected components, imported ones first (Tarjan, 1972)."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(node: str) -> None:
        index[node] = low[node] = len(index)
        stack.append(node)
        for other in sorted(graph[node]):
            if other not in index:
                visit(other)
                low[node] = min(low[node], low[other])
            elif other in stack:
                low[node] = min(low[node], index[other])
        if low[node] == index[node]:
            at = stack.index(node)
            found.append(sorted(stack[at:]))
            del stack[at:]

    for node in sorted(graph):
        if node not in index:
            visit(node)
    return found


def floors(graph: Graph) -> list[str]:
    """The rooms from top to bottom: each above what it imports, packages kept together."""
    level: dict[str, int] = {}
    for component in components(graph):
        below = {other for room in component for other in graph[room]} - {*component}
        height = 1 + max((level[other] for other in below), default=-1)
        level.update(dict.fromkeys(component, height))
    order = [Path(folder).name for folder in _PACKAGES]
    return sorted(graph, key=lambda room: (order.index(room.split(".")[0]), -level[room], room))


@dataclass(frozen=True)
class House:
    """What the report and the picture are made from."""

    modules: Mapping[str, Module]
    imports: Graph
    rooms: list[str]
    between: collections.Counter

    @classmethod
    def of(cls, root: Path) -> House:
        """Reads a checkout."""
        modules = modules_of(root)
        imports = imports_of(modules)
        between = between_rooms(modules, imports)
        graph = {
            module.room: {b for a, b in between if a == module.room} for module in modules.values()
        }
        return cls(modules, imports, floors(graph), between)

    def of_room(self, room: str) -> list[Module]:
        """The modules in a room."""
        return [module for module in self.modules.values() if module.room == room]

    def upward(self) -> list[tuple[str, str]]:
        """Pairs of rooms whose imports point up: there are some where rooms form a cycle."""
        place = {room: at for at, room in enumerate(self.rooms)}
        return sorted(pair for pair in self.between if place[pair[0]] > place[pair[1]])

    def cycles(self) -> list[list[str]]:
        """Groups of modules that import each other, directly or around a corner."""
        return [names for names in components(self.imports) if len(names) > 1]


def _table(header: list[str], rows: list[list[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _rooms_table(house: House) -> str:
    rows = []
    for room in house.rooms:
        inside = house.of_room(room)
        front = min(inside, key=lambda module: len(module.name))
        files = ", ".join(
            f"{module.name.removeprefix(front.name).lstrip('.') or '__init__'} {module.lines}"
            for module in inside
            if len(inside) > 1
        )
        lines = f"{sum(module.lines for module in inside):,}"
        rows.append([f"`{room}`", front.summary, str(len(inside)), lines, files or "-"])
    return _table(["room", "what it says of itself", "files", "lines", "lines of each file"], rows)


def _matrix(house: House) -> str:
    rows = [
        [f"{at} `{room}`", *(str(house.between[room, other] or "") for other in house.rooms)]
        for at, room in enumerate(house.rooms)
    ]
    return _table(["imports from / to", *map(str, range(len(house.rooms)))], rows)


def _list(house: House) -> str:
    rows = []
    for room in house.rooms:
        others = [(other, house.between[room, other]) for other in house.rooms]
        to = ", ".join(f"{other} {count}" for other, count in others if count)
        rows.append([f"`{room}`", to or "-"])
    return _table(["room", "imports from"], rows)


def report(house: House) -> str:
    """The rooms, the imports between them, and the cycles, in Markdown."""
    longest = max(house.modules.values(), key=lambda module: module.lines)
    total = sum(map(len, house.imports.values()))
    lines = sum(module.lines for module in house.modules.values())
    summary = (
        f"{len(house.rooms)} rooms, {len(house.modules)} modules, {lines:,} lines; "
        f"the longest module is {longest.name} with {longest.lines}.\n"
        f"{total} imports, {total - house.between.total()} of them inside a room."
    )
    cycles = house.cycles()
    said = "\n".join(f"Modules that import each other: {', '.join(names)}." for names in cycles)
    upward = [f"{a} imports {b}, which stands above it." for a, b in house.upward()]
    matrix = _matrix(house) if len(house.rooms) <= _WIDEST_MATRIX else _list(house)
    parts = [
        summary,
        _rooms_table(house),
        matrix,
        said or "No cycle between modules.",
        "\n".join(upward) or "No cycle between rooms: all imports point down.",
    ]
    return "\n\n".join(parts) + "\n"


# --- the picture ---------------------------------------------------------------------------------

_CELL = 22
_LEFT = 148
_TOP = 122
_GAP = 10
_STYLE = """\
text { font: 13px system-ui, sans-serif; fill: #24292f; }
.package { font-weight: 600; fill: #57606a; }
.note { font-size: 12px; fill: #57606a; }
.band { fill: #f3f5f8; }
.self { fill: #9aa4b2; }
.import { fill: #0b7a75; }
.upward { fill: #c62828; }"""


def picture(house: House) -> str:
    """The picture, as SVG: a dot where the room of the row imports from the room of the column.

    It shows rooms and whether they import each other, and no counts, so that it changes only where
    the house does.
    """
    rooms, at, gaps = house.rooms, [], 0
    for k, room in enumerate(rooms):
        gaps += k > 0 and room.split(".")[0] != rooms[k - 1].split(".")[0]
        at.append(k * _CELL + gaps * _GAP)
    size = at[-1] + _CELL
    width, height = _LEFT + size + 70, _TOP + size + 34
    place = dict(zip(rooms, at, strict=True))
    upward = {*house.upward()}
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
        f'width="{width}" height="{height}" role="img" aria-labelledby="title">',
        '<title id="title">Which room imports from which</title>',
        f"<style>{_STYLE}</style>",
        f'<rect width="{width}" height="{height}" rx="8" fill="#ffffff"/>',
    ]
    for k, room in enumerate(rooms):
        package, name = room.split(".")
        y, x = _TOP + place[room], _LEFT + place[room]
        if k % 2 == 0:
            parts.append(
                f'<rect class="band" x="{8}" y="{y}" width="{_LEFT + size - 8}" height="{_CELL}"/>'
            )
        middle = x + _CELL // 2
        label = escape(name)
        parts.append(f'<text x="{_LEFT - 8}" y="{y + 15}" text-anchor="end">{label}</text>')
        parts.append(
            f'<text transform="translate({middle + 4} {_TOP - 8}) rotate(-55)">{label}</text>'
        )
        parts.append(
            f'<rect class="self" x="{x + 8}" y="{y + 8}" width="6" height="6">'
            f"<title>{escape(package)}.{label}</title></rect>"
        )
    for a, b in sorted(house.between):
        kind = "upward" if (a, b) in upward else "import"
        x, y = _LEFT + place[b] + _CELL // 2, _TOP + place[a] + _CELL // 2
        parts.append(
            f'<circle class="{kind}" cx="{x}" cy="{y}" r="5">'
            f"<title>{escape(a)} imports from {escape(b)}</title></circle>"
        )
    for package in dict.fromkeys(room.split(".")[0] for room in rooms):
        top = min(place[room] for room in rooms if room.startswith(f"{package}."))
        parts.append(
            f'<text class="package" transform="translate({_LEFT + size + 12} {_TOP + top + 2}) '
            f'rotate(90)">{escape(package)}</text>'
        )
    note = "A dot: the room of the row imports from the room of the column."
    rule = "No dot lies below the diagonal: imports only point down."
    if upward:
        rule = "Red: an import that points up, in a cycle of rooms."
    parts.append(f'<text class="note" x="12" y="{height - 12}">{note} {rule}</text>')
    return "\n".join([*parts, "</svg>"]) + "\n"


def main() -> int:
    """Prints the report, or writes or checks the picture."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--root", type=Path, default=_ROOT, help="a checkout; this one by default")
    parser.add_argument("--svg", type=Path, help="where to write the picture")
    parser.add_argument("--check", type=Path, help="a picture that has to be the current one")
    options = parser.parse_args()
    house = House.of(options.root)
    if options.svg:
        options.svg.write_text(picture(house), encoding="utf-8")
    if options.check:
        if options.check.read_text(encoding="utf-8") != picture(house):
            print(f"{options.check} is out of date: run make house", file=sys.stderr)
            return 1
        return 0
    if not options.svg:
        print(report(house), end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
