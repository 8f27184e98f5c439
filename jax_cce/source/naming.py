"""Names: what the user calls a value, and what a partial derivative is called after two of them."""

import ast
import functools
import keyword
import linecache
import os
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

from jax_cce import jax_internals
from jax_cce.algebra.blocks import Block as Edge
from jax_cce.algebra.steps import Local
from jax_cce.eliminations import moved
from jax_cce.graph.building import Graph
from jax_cce.graph.elimination import Elimination
from jax_cce.planning.plans import Plan
from jax_cce.source.code import Block, Operation

__all__ = ["Line", "Names", "identifier", "line_of", "name_values", "slot_names", "variable_names"]

# The folder of the package, of which no line is one that the user wrote.
_OWN = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "")

# What formatters and linters do not like to see as a name, or the module has another use for.
_TAKEN = {"jax", "jnp", "lax", "np", "l", "O", "I", "BCOO", "BCSR", "CSC", "jacobian", "pathlib"}
_TAKEN |= {"bool", "complex", "f", "_check", "_arrays", "print"}


class Names:
    """Names that are given once each."""

    def __init__(self) -> None:
        self._used: set[str] = set()

    def new(self, wanted: str) -> str:
        """The wanted name, or one like it."""
        wanted = identifier(wanted) or "value"
        name, count = wanted, 1
        while name in self._used:
            count += 1
            name = f"{wanted}_{count}"
        self._used.add(name)
        return name


def identifier(text: str) -> str:
    """A text as a name: "x[0]['w']" is x_0_w; "" where nothing is left."""
    name = re.sub(r"\W+", "_", text).strip("_")
    if name and name[0].isdigit():
        name = f"n{name}"
    if keyword.iskeyword(name) or name in _TAKEN:
        name += "_"
    return name if name.isascii() and name.isidentifier() else ""


class Line(NamedTuple):
    """Where the user wrote an operation.

    Attributes:
        place: the file's name and the line.
        text: what is written there.
        target: what it is assigned to; "" where to nothing.
    """

    place: str
    text: str
    target: str


class _Place(NamedTuple):
    file: str
    span: tuple[int, int, int, int]


def _places(equation: Any) -> tuple[_Place, ...]:
    """Where an operation is written and what calls that, the innermost first."""
    return tuple(
        _Place(
            frame.file_name,
            (frame.start_line, frame.start_column, frame.end_line, frame.end_column),
        )
        for frame in jax_internals.user_frames(equation)
        if not frame.file_name.startswith(_OWN)
    )


def line_of(equation: Any) -> Line | None:
    """Where the user wrote an operation; None where that is unknown."""
    places = _places(equation)
    if not places:
        return None
    place, target = places[0], ""
    for each in places:
        named = _written(each.file).get(each.span)
        if named is None:
            break
        target = named.target
        if target:
            place = each if each.file == place.file else place
            break
    named = _written(place.file).get(place.span)
    text = named.text if named is not None else _segment(place)
    # What is typed into a session lies in no file.
    session = place.file.startswith("<")
    where = f"{'line ' if session else os.path.basename(place.file) + ':'}{place.span[0]}"
    return Line(where, text, target)


def _segment(place: _Place) -> str:
    first, start, last, end = place.span
    lines = linecache.getlines(place.file)[first - 1 : last]
    if not lines:
        return ""
    # Columns count bytes.
    encoded = [line.encode() for line in lines]
    encoded[-1] = encoded[-1][:end]
    encoded[0] = encoded[0][start:]
    return " ".join(b"".join(encoded).decode(errors="replace").split())


class _Named(NamedTuple):
    """An expression that is the whole of a statement.

    Attributes:
        target: what it is assigned to; "" where it is returned.
        text: its text.
    """

    target: str
    text: str


def _written(file: str) -> dict[tuple[int, int, int, int], _Named]:
    """The expressions in a file that are assigned to names or returned, by their spans."""
    return _parsed(file, "".join(linecache.getlines(file)))


@functools.lru_cache(maxsize=64)
def _parsed(file: str, text: str) -> dict[tuple[int, int, int, int], _Named]:
    try:
        tree = ast.parse(text)
    except (SyntaxError, ValueError):
        return {}
    found: dict[tuple[int, int, int, int], _Named] = {}

    def note(node: ast.expr | ast.stmt, target: str) -> None:
        assert node.end_lineno is not None
        assert node.end_col_offset is not None
        span = node.lineno, node.col_offset, node.end_lineno, node.end_col_offset
        found[span] = _Named(target, _segment(_Place(file, span)))

    def assign(target: ast.expr, value: ast.expr) -> None:
        if isinstance(target, ast.Name):
            note(value, target.id)
        elif isinstance(target, (ast.Tuple, ast.List)) and isinstance(value, (ast.Tuple, ast.List)):
            for one, other in zip(target.elts, value.elts, strict=False):
                assign(one, other)
        elif isinstance(target, ast.Attribute):
            note(value, target.attr)

    for node in ast.walk(tree):
        if isinstance(node, ast.Assign):
            assign(node.targets[0], node.value)
        elif isinstance(node, (ast.AnnAssign, ast.NamedExpr)) and node.value is not None:
            assign(node.target, node.value)
        elif isinstance(node, ast.AugAssign):
            if isinstance(node.target, ast.Name):
                note(node, node.target.id)
        elif isinstance(node, ast.Return) and node.value is not None:
            note(node.value, "")
    return found


def name_values(operations: Sequence[Operation]) -> None:
    """Gives results the names that the user assigns them to.

    Of several operations that one expression stands for the last one has the result.
    """
    last: Operation | None = None
    before: tuple[_Place, ...] = ()
    for operation in operations:
        for blocks in operation.bodies.values():
            for block in blocks:
                name_values(block.operations)
        if operation.label is not None and operation.label.kind != "value":
            continue
        places = _places(operation.equation)
        line = line_of(operation.equation)
        if line is None or not line.target or len(operation.outputs) != 1:
            continue
        if last is not None and places == before and last.outputs[0] is not None:
            last.outputs[0].hint = ""
        if operation.outputs[0] is not None:
            operation.outputs[0].hint = line.target
        last, before = operation, places


def variable_names(plan: Plan, number: int, block: Block, inputs: Sequence[str]) -> dict[int, str]:
    """What the variables of a plan's program are called.

    Args:
        plan: the plan.
        number: its number among the labels.
        block: the block that it was emitted in.
        inputs: what the inputs of the program are called.
    """
    program = plan.graph.program
    names = dict(enumerate(inputs))
    for name in range(program.first_computed, len(program.avals)):
        names[name] = f"v{name - program.first_computed}"
    for operation in block.operations:
        label = operation.label
        if label is None or (label.plan, label.kind) != (number, "value"):
            continue
        outputs = program.equations[label.place].outputs
        if len(outputs) != len(operation.outputs):
            continue
        for name, variable in zip(outputs, operation.outputs, strict=True):
            if variable is None:
                continue
            if variable.hint:
                names[name] = identifier(variable.hint) or names[name]
            else:
                variable.hint = names[name]
    count = len(plan.graph.outputs)
    for k, name in enumerate(plan.graph.outputs):
        if isinstance(name, int) and re.fullmatch(r"v\d+", names.get(name, "")):
            names[name] = "out" if count == 1 else f"out{k}"
    return names


class _Ends(Elimination):
    """An elimination that keeps in mind between which vertices each array is an edge.

    Attributes:
        ends: for a slot the end and the start of its edge.
    """

    def __init__(self, graph: Graph) -> None:
        super().__init__(graph)
        self.ends: dict[int, tuple[Any, Any]] = {}
        for step in self.recorder.steps:
            if isinstance(step, Local) and isinstance(step.site, int):
                operand, output, _ = step.key
                equation = graph.program.equations[step.site]
                self.ends[step.slots[0]] = equation.outputs[output], equation.inputs[operand]

    def joined(
        self, old: Edge | None, later: Edge, earlier: Edge, ends: tuple[int, int, int]
    ) -> Edge:
        before = len(self.recorder.steps)
        edge = super().joined(old, later, earlier, ends)
        for step in self.recorder.steps[before:]:
            self.ends |= dict.fromkeys(step.slots, (ends[0], ends[2]))
        return edge


def slot_names(plan: Plan, names: dict[int, str]) -> dict[int, str]:
    """What the arrays of a plan's steps are called: "dy_dx" for a derivative of y by x."""
    graph = plan.graph
    elimination = _Ends(graph)
    for item in moved(plan.order, graph.program.first_computed, inwards=True):
        elimination.eliminate(item)
    ends = elimination.ends
    for (output, name), pieces in plan.results.items():
        for piece in pieces:
            if piece.slot is not None:
                ends.setdefault(piece.slot, (graph.outputs[output], graph.inputs[name]))
    found = {}
    for slot, both in ends.items():
        parts = [names.get(x, "") if isinstance(x, int) else "" for x in both]
        if all(parts):
            found[slot] = "_".join(f"d{part}" for part in parts)
    return found
