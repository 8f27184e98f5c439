"""The values of options: arguments of a function, orders, budgets."""

import argparse
import ast
import math
import re
from typing import Any

import jax
import jax.export
import jax.numpy as jnp

from jax_cce.eliminations import Item, items_of
from jax_cce.orders import named

__all__ = [
    "ARGS_HELP",
    "arguments",
    "arguments_option",
    "budget_option",
    "integers_option",
    "order_option",
]

ARGS_HELP = """\
arguments of the function, given by --args:
  Numbers, lists, tuples and dictionaries as in Python or JSON, and arrays by their type and shape:
  f32[3,4], f64[], i32[5]. Several are separated by spaces, or by repeating --args. What is only
  planned or counted needs no values, so shapes are enough. An argument of 64 bits switches on JAX's
  64-bit types. For `compile` a size may be a name, as in f32[n,3], and is then any.

examples:
  jax-cce optimize model:residual --args "f64[3] f64[3,4]" --argnums 0,1 --cost flops
  jax-cce explain path/to/model.py:Arm.forward --args "f32[6]" --args "{'mass': 2.0}" --draw arm.svg
  jax-cce compile model:residual --args "f32[n,3]" --platforms cpu,cuda -o residual.cce
"""

_DTYPES = {
    "f16": "float16",
    "bf16": "bfloat16",
    "f32": "float32",
    "f64": "float64",
    "c64": "complex64",
    "c128": "complex128",
    **{f"i{bits}": f"int{bits}" for bits in (8, 16, 32, 64)},
    **{f"u{bits}": f"uint{bits}" for bits in (8, 16, 32, 64)},
    "bool": "bool",
}
# What JSON has for constants, and what Python's repr has for floats.
_NAMES = {"true": True, "false": False, "null": None, "nan": math.nan, "inf": math.inf}

# An item of an order: a vertex, or an edge by itself.
_ITEM = re.compile(r"\s*(?:(\d+)|(front|back)\(\s*(-?\d+)\s*,\s*(-?\d+)\s*\))\s*")


def integers_option(text: str) -> int | tuple[int, ...]:
    """An integer, or several with commas between: "0", "0,1"."""
    try:
        numbers = tuple(int(each) for each in text.split(",") if each.strip())
    except ValueError:
        numbers = ()
    if not numbers:
        raise argparse.ArgumentTypeError(f"expected integers such as 0 or 0,1, but got {text!r}")
    return numbers if "," in text else numbers[0]


def order_option(text: str) -> str | tuple[Item, ...]:
    """The name of an order, or its vertices with commas between, and edges as they are shown."""
    if text in named.ORDERS:
        return text
    items = re.split(r",(?![^(]*\))", text)
    found = [_ITEM.fullmatch(item) for item in items if item.strip()]
    if not found or not all(found):
        names = ", ".join(named.ORDERS)
        raise argparse.ArgumentTypeError(
            f"expected {names}, or vertices such as 2,0,1, or with edges front(0,1),2,0,1, but got "
            f"{text!r}"
        )
    triples = [match.groups() for match in found if match]
    return items_of(
        int(vertex) if vertex else (side, int(source), int(target))
        for vertex, side, source, target in triples
    )


def budget_option(text: str) -> float | None:
    """Seconds, or "none" for no limit."""
    if text.lower() == "none":
        return None
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"expected seconds such as 30, or none, but got {text!r}"
        ) from None


def arguments_option(text: str, scope: jax.export.SymbolicScope | None = None) -> list[Any]:
    """Arguments of a function, see `arguments`."""
    try:
        return arguments(text, scope)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def arguments(text: str, scope: jax.export.SymbolicScope | None = None) -> list[Any]:
    """The arguments of a function as the command line has them.

    Args:
        text: literals of Python or JSON, and arrays by type and shape such as "f32[3,4]",
            separated by spaces or commas. Nothing in it is executed.
        scope: where sizes that are names, such as n in "f32[n,3]", are symbols; None where they
            have to be numbers.

    Returns:
        The values, with a `jax.ShapeDtypeStruct` for each array.

    Raises:
        ValueError: for anything else.

    Examples:
        >>> arguments("f32[2,3] {'rate': 0.5, 'at': [1, i32[]]}")
        [ShapeDtypeStruct(shape=(2, 3), dtype=float32),
         {'rate': 0.5, 'at': [1, ShapeDtypeStruct(shape=(), dtype=int32)]}]
    """
    values = []
    for item in _items(text):
        # An empty pair of brackets is no Python; quoted text is left as it is.
        python = re.sub(
            r"(\"[^\"]*\"|'[^']*')|(?<=\w)\[\s*\]", lambda match: match[1] or "[()]", item
        )
        try:
            node = ast.parse(python, mode="eval").body
        except (SyntaxError, ValueError):
            raise ValueError(
                f"{item!r} is neither a literal such as 2.0 or [1, 2] nor an array such as f32[3,4]"
            ) from None
        values.append(_value(node, item, scope))
    return values


def _items(text: str) -> list[str]:
    """The parts of a text that spaces or commas outside of brackets and quotes separate."""
    items, depth, quote = [""], 0, ""
    for sign in text:
        if quote:
            quote = "" if sign == quote else quote
        elif sign in "\"'":
            quote = sign
        elif sign in "[({":
            depth += 1
        elif sign in "])}":
            depth -= 1
        elif depth <= 0 and (sign.isspace() or sign == ","):
            items.append("")
            continue
        items[-1] += sign
    return [item for item in items if item]


def _value(node: ast.AST, item: str, scope: jax.export.SymbolicScope | None) -> Any:
    def value_of(node: ast.AST) -> Any:
        return _value(node, item, scope)

    match node:
        case ast.Constant(value=bool() | int() | float() | complex() | str() | None as value):
            return value
        case ast.List(elts=elements):
            return [value_of(each) for each in elements]
        case ast.Tuple(elts=elements):
            return tuple(value_of(each) for each in elements)
        case ast.Dict(keys=keys, values=values) if None not in keys:
            pairs = zip(keys, values, strict=True)
            return {value_of(key): value_of(each) for key, each in pairs if key}
        case ast.UnaryOp(op=ast.USub() | ast.UAdd() as sign, operand=operand):
            value = value_of(operand)
            if isinstance(value, int | float | complex):
                return -value if isinstance(sign, ast.USub) else value
        case ast.BinOp(left=left, op=ast.Add() | ast.Sub() as sign, right=right):
            # How Python writes a complex number.
            real, imaginary = value_of(left), value_of(right)
            if isinstance(real, int | float) and isinstance(imaginary, complex):
                return real - imaginary if isinstance(sign, ast.Sub) else real + imaginary
        case ast.Name(id=name) if name in _NAMES:
            return _NAMES[name]
        case ast.Subscript(value=ast.Name(id=name), slice=shape):
            return _array(name, shape, item, scope)
    written = ast.unparse(node)
    raise ValueError(
        f"{written!r} in {item!r} is neither a literal such as 2.0 or [1, 2] nor an array such as "
        "f32[3,4]"
    )


def _array(
    name: str, shape: ast.AST, item: str, scope: jax.export.SymbolicScope | None
) -> jax.ShapeDtypeStruct:
    dtype = name if name in _DTYPES.values() else _DTYPES.get(name)
    if dtype is None:
        raise ValueError(
            f"{name!r} in {item!r} is no type of array; there are {', '.join(_DTYPES)}"
        )
    extents = shape.elts if isinstance(shape, ast.Tuple) else [shape]
    sizes = [each.value if isinstance(each, ast.Constant) else None for each in extents]
    if scope is not None and None in sizes:
        written = ", ".join(map(ast.unparse, extents))
        try:
            symbolic = jax.export.symbolic_shape(written, scope=scope)
        except ValueError as error:
            raise ValueError(f"the shape in {item!r} is none: {error}") from error
        return jax.ShapeDtypeStruct(symbolic, jnp.dtype(dtype))
    if not all(type(size) is int for size in sizes):
        raise ValueError(f"the shape in {item!r} must be of whole numbers, as in {name}[3,4]")
    return jax.ShapeDtypeStruct(tuple(sizes), jnp.dtype(dtype))
