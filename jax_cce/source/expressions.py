"""Expressions of Python: parentheses, numbers, and where lines break."""

import math
import re
from typing import Any, NamedTuple

import numpy as np

__all__ = ["ATOM", "WIDTH", "Expression", "binary", "folded", "number", "power", "tuple_of"]

# How tightly a form binds.
ANY, COMPARE, OR, XOR, AND, SUM, PRODUCT, UNARY, POWER, ATOM = range(10)
WIDTH = 100


class Expression(NamedTuple):
    """An expression.

    In a format, `{:9}` puts parentheses around what binds less tightly than that.

    Attributes:
        text: how it is written.
        tightness: how tightly its outermost form binds.
    """

    text: str
    tightness: int = ATOM

    def __format__(self, spec: str) -> str:
        return self.text if self.tightness >= int(spec or 0) else f"({self.text})"

    def __str__(self) -> str:
        return self.text


def binary(sign: str, tightness: int) -> tuple[str, int]:
    """The form of an operator that associates to the left."""
    return f"{{0:{tightness}}} {sign} {{1:{tightness + 1}}}", tightness


def power(exponent: str) -> tuple[str, int]:
    """The form of a power."""
    return f"{{0:{ATOM}}} ** {exponent}", POWER


_SIMPLE_POWER = re.compile(r"(?<![\w.)\]])(-?[\w.]+) \*\* (-?[\w.]+)(?![\w.(\[])")


def tightened(line: str) -> str:
    """A line in which powers of names and numbers are written as formatters write them."""
    return _SIMPLE_POWER.sub(r"\1**\2", line)


def tuple_of(parts: Any) -> str:
    """A tuple of texts."""
    parts = list(parts)
    return f"({parts[0]},)" if len(parts) == 1 else f"({', '.join(parts)})"


_NAMED = {"inf": "{}.inf", "-inf": "-{}.inf", "nan": "{}.nan"}


def number(value: Any, module: str) -> Expression:
    """A NumPy scalar as a number of Python, the shortest that gives it back.

    Args:
        value: the scalar.
        module: what infinity and NaN are called in.
    """
    kind = value.dtype.kind
    if kind == "b":
        return Expression(repr(bool(value)))
    if kind in "iu":
        return Expression(repr(int(value)), UNARY if value < 0 else ATOM)
    if kind == "c":
        real, imag = (number(part, module).text for part in (value.real, value.imag))
        return Expression(f"complex({real}, {imag})")
    text = str(value) if value.dtype in (np.float32, np.float64) else repr(float(value))
    if text in _NAMED:
        text = _NAMED[text].format(module)
    elif "." not in text and "e" in text:
        text = text.replace("e+", "e")
    negative = math.copysign(1.0, float(value)) < 0 and text != f"{module}.nan"
    return Expression(text, UNARY if negative else ATOM)


_OPEN, _CLOSED = "([{", ")]}"


def folded(line: str, indent: int) -> list[str]:
    """A statement as lines that are short enough, as formatters lay it out.

    Args:
        line: the statement, on one line.
        indent: by how many columns it is indented.
    """
    line = tightened(line)
    pad = " " * indent
    if indent + len(line) <= WIDTH:
        return [pad + line]
    found = _outermost(line)
    if found is None:
        return [pad + line]
    start, end = found
    lines = [pad + line[: start + 1]]
    parts = _parts(line[start + 1 : end])
    for part in parts:
        lines += folded(part + ",", indent + 4)
    lines.append(pad + line[end:])
    return lines


def _outermost(line: str) -> tuple[int, int] | None:
    """The last pair of brackets at the outermost level that holds something; None if none."""
    depth, start, found, quoted = 0, 0, None, ""
    for k, char in enumerate(line):
        if quoted:
            quoted = "" if char == quoted else quoted
        elif char in "\"'":
            quoted = char
        elif char in _OPEN:
            start = k if depth == 0 else start
            depth += 1
        elif char in _CLOSED:
            depth -= 1
            if depth == 0 and k > start + 1:
                found = start, k
    return found


def _parts(inside: str) -> list[str]:
    """What commas divide at the outermost level."""
    parts, depth, begin, quoted = [], 0, 0, ""
    for k, char in enumerate(inside):
        if quoted:
            quoted = "" if char == quoted else quoted
        elif char in "\"'":
            quoted = char
        elif char in _OPEN:
            depth += 1
        elif char in _CLOSED:
            depth -= 1
        elif char == "," and depth == 0:
            parts.append(inside[begin:k].strip())
            begin = k + 1
    parts.append(inside[begin:].strip())
    return [part for part in parts if part]
