"""Blocks as lines of Python.

Statements stand in the order of the operations, and what one of them alone reads is written where
it is read, as far as that leaves the order of the operations as it is: what runs is then the very
program that was traced, and a compiler makes the same of it.
"""

import re
from collections import Counter
from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

from jax_cce.source.code import Atom, Block, Number, Operation, Variable
from jax_cce.source.expressions import Expression, folded, tuple_of
from jax_cce.source.naming import Line, Names, line_of

__all__ = ["Language", "Unwritten", "Writer"]

# What is written inside of another expression is no longer than that, and makes none longer.
_SHORT, _LONG = 50, 76


class Unwritten(Exception):
    """An operation that cannot be written; the operation is its argument."""


class Language(Protocol):
    """How operations are written."""

    def form_of(self, operation: Operation) -> tuple[str, int] | None:
        """The form of an operation."""

    def form_of_two(self, first: Operation, second: Operation) -> tuple[str, int] | None:
        """The form of two operations, of which the second alone reads the first."""

    def number(self, x: Number) -> Expression:
        """A number that has its dtype."""

    def control(
        self, writer: "Writer", operation: Operation, results: Sequence[str], indent: int
    ) -> bool:
        """Writes an operation that has bodies."""


class _Pending(NamedTuple):
    variable: Variable
    expression: Expression
    operation: Operation


class Writer:
    """Writes the body of a function.

    Args:
        language: how operations are written.
        names: the names of the module.
        section_of: the heading of an operation.
        constant: the name of an array that is known.
    """

    def __init__(
        self,
        language: Language,
        names: Names,
        section_of: Callable[[Operation], str],
        constant: Callable[[Variable], str],
    ) -> None:
        self.language, self.names = language, names
        self._section_of, self._constant = section_of, constant
        self.lines: list[str] = []
        self._written: dict[Variable, str] = {}
        self._section, self._place = "", ""
        self._depth = 0

    def name(self, variable: Variable, wanted: str = "") -> str:
        """Gives a variable its name."""
        self._written[variable] = self.names.new(wanted or variable.hint or "t")
        return self._written[variable]

    def call(self, variable: Variable, text: str) -> None:
        """Says how a variable is written that has a name already."""
        self._written[variable] = text

    def text(self, atom: Atom) -> str:
        """How an operand is written where its dtype has to be its own."""
        if isinstance(atom, Number):
            return str(self.language.number(atom))
        if atom not in self._written:
            if atom.value is None:
                raise KeyError(atom)
            self._written[atom] = self._constant(atom)
        return self._written[atom]

    def add(self, line: str, indent: int) -> None:
        """Adds a statement."""
        self.lines += folded(line, indent) if line else [""]

    def body(self, block: Block, indent: int) -> None:
        """Writes the operations of a block."""
        uses = Counter(variable for op in block.operations for variable in op.read)
        kept = {atom for atom in block.outputs if isinstance(atom, Variable)}
        pending: list[_Pending] = []
        operations = block.operations
        k = 0
        self._depth += 1
        while k < len(operations):
            operation = operations[k]
            k += 1
            if operation.bodies:
                self._flush(pending, indent)
                self._head(operation, indent)
                self._control(operation, indent)
                continue
            inputs, form = list(operation.inputs), None
            one = operation.outputs[0] if len(operation.outputs) == 1 else None
            if k < len(operations) and one is not None and uses[one] == 1 and one not in kept:
                after = operations[k]
                if any(x is one for x in after.inputs) and not after.bodies:
                    form = self.language.form_of_two(operation, after)
                    if form is not None:
                        given = [x for x in after.inputs if x is not one]
                        inputs, operation = [*given, *operation.inputs], after
                        k += 1
                        one = operation.outputs[0] if len(operation.outputs) == 1 else None
            if form is None:
                form = self.language.form_of(operation)
            if form is None:
                raise Unwritten(operation)
            expression = self._filled(form, inputs, pending, operation, indent)
            is_inside = (
                one is not None
                and uses[one] == 1
                and one not in kept
                and not self._is_named(one)
                and len(expression.text) <= _SHORT
                and not operation.primitive.multiple_results
            )
            if is_inside:
                assert one is not None
                pending.append(_Pending(one, expression, operation))
                continue
            self._flush(pending, indent)
            is_returned = k == len(operations) and block.outputs == [one]
            is_single = one is not None and not uses[one]
            if is_returned and is_single and not operation.primitive.multiple_results:
                assert one is not None
                self._head(operation, indent)
                self.call(one, expression.text)
                break
            self._assign(operation, expression.text, indent)
        self._flush(pending, indent)
        self._depth -= 1

    @staticmethod
    def _is_named(variable: Variable) -> bool:
        """Whether the user has a name for it."""
        return bool(variable.hint) and re.fullmatch(r"v\d+|d\w+_d\w+|c\d+", variable.hint) is None

    def _filled(
        self,
        form: tuple[str, int],
        inputs: Sequence[Atom],
        pending: list[_Pending],
        operation: Operation,
        indent: int,
    ) -> Expression:
        """An expression of which the operands are filled in, what is pending among them."""
        text, tightness = form
        order = [int(k) for k in re.findall(r"\{(\d+)", text)]
        inside: dict[int, Expression] = {}
        length, section = len(text), self._section_of(operation)
        waiting = {each.variable for each in pending}
        rest = list(pending)
        for at in reversed(order):
            x = inputs[at]
            if x not in waiting:
                continue
            last = rest[-1] if rest else None
            fits = (
                last is not None
                and last.variable is x
                and length + len(last.expression.text) <= _LONG
                and self._section_of(last.operation) == section
            )
            if not fits or last is None:
                # What is not read in the order in which it was computed gets a name.
                self._flush(pending, indent)
                inside, rest = {}, []
                break
            rest.pop()
            inside[at] = last.expression
            length += len(last.expression.text)
        pending[:] = rest
        parts = [
            inside.get(k) or (Expression(self.text(x)) if isinstance(x, Variable) else "")
            for k, x in enumerate(inputs)
        ]
        return Expression(text.format(*parts), tightness)

    def _flush(self, pending: list[_Pending], indent: int) -> None:
        for each in pending:
            self._assign(each.operation, each.expression.text, indent)
        pending.clear()

    def _assign(self, operation: Operation, text: str, indent: int) -> None:
        self._head(operation, indent)
        names = ["_" if out is None else self.name(out) for out in operation.outputs]
        if not names:
            self._commented(operation, text, indent)
        elif len(names) == 1 and operation.primitive.multiple_results:
            inner = re.fullmatch(r"\((.*),\)", text)
            line = f"{names[0]} = {inner[1]}" if inner else f"({names[0]},) = {text}"
            self._commented(operation, line, indent)
        else:
            self._commented(operation, f"{', '.join(names)} = {text}", indent)

    def _control(self, operation: Operation, indent: int) -> None:
        names = ["_" if out is None else self.name(out) for out in operation.outputs]
        if not self.language.control(self, operation, names, indent):
            raise Unwritten(operation)

    def _commented(self, operation: Operation, line: str, indent: int) -> None:
        """Adds a statement with the line of the user's that it is from, where that is another."""
        lines = folded(line, indent)
        label = operation.label
        if label is None or label.kind == "value":
            written: Line | None = line_of(operation.equation)
            if written is not None and written.place != self._place:
                comment = f"  # {written.place}"
                if len(lines) == 1 and len(lines[0]) + len(comment) <= 100:
                    lines[0] += comment
                    self._place = written.place
        self.lines += lines

    def _head(self, operation: Operation, indent: int) -> None:
        """Adds the heading of a section where one begins."""
        if self._depth > 1:
            return
        section = self._section_of(operation)
        if section and section != self._section:
            self._section = section
            if self.lines and self.lines[-1]:
                self.lines.append("")
            self.lines.append(f"{' ' * indent}# {section}")

    def function(
        self,
        wanted: str,
        parameters: Sequence[str],
        block: Block,
        indent: int,
        before: Sequence[str] = (),
        returns: Callable[[list[str]], str] | None = None,
    ) -> str:
        """Writes a nested function, and returns its name.

        Args:
            wanted: the name.
            parameters: the parameters.
            block: what it computes; its inputs have names already.
            indent: the column at which it stands.
            before: statements that come first.
            returns: what is returned, from the results.
        """
        name = self.names.new(wanted)
        if not self.lines or self.lines[-1]:
            self.lines.append("")
        self.add(f"def {name}({', '.join(parameters)}):", indent)
        for line in before:
            self.add(line, indent + 4)
        self.body(block, indent + 4)
        results = [self.text(atom) for atom in block.outputs]
        returned = returns(results) if returns is not None else _several(results)
        self.add(f"return {returned}", indent + 4)
        self.lines.append("")
        return name


def _several(texts: Sequence[str]) -> str:
    """One value, or a tuple of them."""
    return texts[0] if len(texts) == 1 else ", ".join(texts) if texts else "()"


def packed(texts: Sequence[str]) -> str:
    """One value as it is, several as a tuple."""
    return texts[0] if len(texts) == 1 else tuple_of(texts) if texts else "()"
