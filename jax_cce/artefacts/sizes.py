"""Sizes that may be symbols, as text and back to numbers.

`jax.export` writes a size as an expression such as "2*n - 1". A loaded program knows its symbols
only when it is called: from the shapes of its arguments, each of which has to be linear in one
symbol that no other says, as JAX demands, too.
"""

import ast
import operator
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

__all__ = ["as_text", "symbols_of", "value_of"]

Size = int | str

_FUNCTIONS: dict[str, Callable[..., int]] = {
    "floordiv": operator.floordiv,
    "max": max,
    "min": min,
    "mod": operator.mod,
    "non_negative": lambda number: max(number, 0),
}
_OPERATORS: dict[type, Callable[[int, int], int]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Pow: operator.pow,
}


def as_text(size: Any) -> Size:
    """A size as JSON has it: a number, or the text of an expression."""
    return int(size) if isinstance(size, int | np.integer) else str(size)


def value_of(size: Size, symbols: Mapping[str, int]) -> int:
    """The value of a size.

    Args:
        size: a number, or an expression as JAX writes it.
        symbols: the value of each symbol.

    Raises:
        KeyError: for a symbol without a value.
        ValueError: for what is no such expression.

    Examples:
        >>> value_of("2*n - 1", {"n": 3}), value_of("floordiv(n^2, 2)", {"n": 3})
        (5, 4)
    """
    if isinstance(size, int):
        return size
    return _value(ast.parse(size.replace("^", "**"), mode="eval").body, symbols)


def _value(node: ast.AST, symbols: Mapping[str, int]) -> int:
    match node:
        case ast.Constant(value=int(number)):
            return number
        case ast.Name(id=name):
            return symbols[name]
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return -_value(operand, symbols)
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _OPERATORS:
            return _OPERATORS[type(op)](_value(left, symbols), _value(right, symbols))
        case ast.Call(func=ast.Name(id=name), args=args, keywords=[]) if name in _FUNCTIONS:
            return _FUNCTIONS[name](*(_value(each, symbols) for each in args))
    raise ValueError(f"{ast.unparse(node)!r} is no size")


def symbols_of(sizes: Iterable[tuple[Size, int]]) -> dict[str, int]:
    """The value of each symbol that some sizes say.

    Args:
        sizes: pairs of a size and its value.

    Examples:
        >>> symbols_of([("n*m", 6), ("2*n - 1", 3), ("m", 3)])
        {'n': 2, 'm': 3}
    """
    symbols: dict[str, int] = {}
    waiting = [(size, number) for size, number in sizes if isinstance(size, str)]
    while waiting:
        rest = []
        for size, number in waiting:
            unknown = sorted(_names(size).difference(symbols))
            if len(unknown) == 1:
                (name,) = unknown
                at_0, at_1 = (value_of(size, {**symbols, name: each}) for each in (0, 1))
                if at_1 != at_0:
                    symbols[name] = (number - at_0) // (at_1 - at_0)
            elif unknown:
                rest.append((size, number))
        if len(rest) == len(waiting):
            break
        waiting = rest
    return symbols


def _names(size: str) -> set[str]:
    tree = ast.parse(size.replace("^", "**"), mode="eval")
    names = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    return names - _FUNCTIONS.keys()
