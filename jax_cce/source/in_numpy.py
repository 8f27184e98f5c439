"""Operations as expressions of NumPy, for modules that import nothing else.

What they give is that of JAX within rounding. Loops are loops of Python.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from jax import lax

from jax_cce.source import in_jax
from jax_cce.source.code import Block, Number, Operation, Variable
from jax_cce.source.control import carried
from jax_cce.source.expressions import (
    AND,
    ATOM,
    OR,
    PRODUCT,
    SUM,
    UNARY,
    XOR,
    Expression,
    binary,
    number,
    power,
    tuple_of,
)
from jax_cce.source.writing import Writer

__all__ = ["InNumPy"]

_Form = tuple[str, int]


def _call(name: str, count: int = 1) -> _Form:
    return f"np.{name}({', '.join(f'{{{k}}}' for k in range(count))})", ATOM


_SIMPLE: dict[str, _Form] = {
    **{name: _call(name) for name in (*in_jax.SAME_NAMES.split(), "square")},
    **{
        short: _call(name)
        for short, name in {
            "acos": "arccos",
            "acosh": "arccosh",
            "asin": "arcsin",
            "asinh": "arcsinh",
            "atan": "arctan",
            "atanh": "arctanh",
            "is_finite": "isfinite",
            "not": "invert",
        }.items()
    },
    **{
        short: _call(name, 2)
        for short, name in {
            "atan2": "arctan2",
            "max": "maximum",
            "min": "minimum",
            "nextafter": "nextafter",
            "rem": "fmod",
            "pow": "power",
        }.items()
    },
    "add": binary("+", SUM),
    "sub": binary("-", SUM),
    "mul": binary("*", PRODUCT),
    "and": binary("&", AND),
    "or": binary("|", OR),
    "xor": binary("^", XOR),
    "neg": (f"-{{0:{UNARY}}}", UNARY),
    "rsqrt": ("1 / np.sqrt({0})", PRODUCT),
    "logistic": (f"1 / (1 + np.exp(-{{0:{UNARY}}}))", PRODUCT),
    "select_n": ("np.where({0}, {2}, {1})", ATOM),
    "clamp": ("np.clip({1}, {0}, {2})", ATOM),
    "complex": (f"{{0:{SUM}}} + 1j * {{1:{UNARY}}}", SUM),
    **{
        name: (f"{{0:{OR}}} {sign} {{1:{OR}}}", 1)
        for name, sign in {
            "eq": "==",
            "ne": "!=",
            "lt": "<",
            "le": "<=",
            "gt": ">",
            "ge": ">=",
        }.items()
    },
}
_REDUCTIONS = {
    "reduce_sum": "sum",
    "reduce_max": "max",
    "reduce_min": "min",
    "reduce_prod": "prod",
    "reduce_and": "all",
    "reduce_or": "any",
    "argmax": "argmax",
    "argmin": "argmin",
}
# Forms that mean the same in both languages, once the module's name is another.
_SHARED = {"rev", "concatenate", "stack", "dot_general", "squeeze", "transpose", "expand_dims"}
_NAMED: dict[str, Callable[[Operation], _Form | None]] = {}


def _writes(*names: str) -> Callable[[Callable[[Operation], _Form | None]], Any]:
    def define(writer: Callable[[Operation], _Form | None]) -> Any:
        _NAMED.update(dict.fromkeys(names, writer))
        return writer

    return define


def _dtype(dtype: Any) -> str:
    return in_jax.dtype_name(dtype).replace("jnp.", "np.")


def _plain(text: str) -> _Form:
    return text, ATOM


@_writes("div")
def _divide(op: Operation) -> _Form | None:
    return binary("/", PRODUCT) if np.dtype(op.inputs[0].dtype).kind in "fc" else None


@_writes("integer_pow")
def _integer_power(op: Operation) -> _Form | None:
    y = op.params["y"]
    return power(str(y)) if y >= 0 else (f"1 / {{0:{ATOM}}} ** {-y}", PRODUCT)


@_writes("broadcast_in_dim")
def _broadcast(op: Operation) -> _Form | None:
    (x,) = op.inputs
    shape, at = tuple(op.params["shape"]), op.params["broadcast_dimensions"]
    if isinstance(x, Number):
        if x.value == 0:
            return _plain(f"np.zeros({shape!r}, {_dtype(x.dtype)})")
        return _plain(f"np.full({shape!r}, {number(x.value, 'np')}, {_dtype(x.dtype)})")
    parts = ", ".join(":" if k in at else "None" for k in range(len(shape)))
    # A scalar may be a number of NumPy, which has axes to add, too.
    inner = f"{{0:{ATOM}}}[{parts}]" if at and len(at) != len(shape) else "{0}"
    if not at or math.prod(shape) != math.prod(x.shape) or len(at) == len(shape):
        return _plain(f"np.broadcast_to({inner}, {shape!r})")
    return _plain(inner)


@_writes("reshape")
def _reshape(op: Operation) -> _Form | None:
    return _plain(f"np.reshape({{0}}, {tuple(op.params['new_sizes'])!r})")


@_writes("slice")
def _slice(op: Operation) -> _Form | None:
    return _plain(f"{{0:{ATOM}}}[{', '.join(in_jax.bounds(op))}]") if op.inputs[0].shape else None


@_writes("pad")
def _pad(op: Operation) -> _Form | None:
    config, (x, value) = op.params["padding_config"], op.inputs
    if any(low < 0 or high < 0 or inner for low, high, inner in config):
        return None
    widths = [(int(low), int(high)) for low, high, _ in config]
    is_zero = isinstance(value, Number) and value.value == 0
    last = "" if is_zero else ", constant_values={1}"
    return _plain(f"np.pad({{0}}, {widths!r}{last})") if x.shape else _plain("{0}")


@_writes("iota")
def _iota(op: Operation) -> _Form | None:
    shape, axis, dtype = op.params["shape"], op.params["dimension"], op.params["dtype"]
    text = f"np.arange({shape[axis]}, dtype={_dtype(dtype)})"
    if len(shape) == 1:
        return _plain(text)
    after = ", ".join([":", *["None"] * (len(shape) - axis - 1)])
    return _plain(f"np.broadcast_to({text}[{after}], {tuple(shape)!r})")


@_writes(*_REDUCTIONS)
def _reduction(op: Operation) -> _Form | None:
    axes, name = tuple(op.params["axes"]), _REDUCTIONS[op.name]
    if axes == tuple(range(len(op.inputs[0].shape))):
        return _plain(f"{{0:{ATOM}}}.{name}()")
    return _plain(f"{{0:{ATOM}}}.{name}({axes[0] if len(axes) == 1 else axes!r})")


@_writes("cumsum", "cumprod", "cummax", "cummin")
def _cumulative(op: Operation) -> _Form | None:
    axis = op.params["axis"]
    name = {
        "cumsum": "cumsum",
        "cumprod": "cumprod",
        "cummax": "maximum.accumulate",
        "cummin": "minimum.accumulate",
    }[op.name]
    if not op.params["reverse"]:
        return _plain(f"np.{name}({{0}}, {axis})")
    return _plain(f"np.flip(np.{name}(np.flip({{0}}, {axis}), {axis}), {axis})")


@_writes("convert_element_type")
def _convert(op: Operation) -> _Form | None:
    return _plain(f"np.asarray({{0}}, {_dtype(op.params['new_dtype'])})")


@_writes("split")
def _split(op: Operation) -> _Form | None:
    at = np.cumsum(op.params["sizes"])[:-1].tolist()
    return _plain(f"np.split({{0}}, {at!r}, {op.params['axis']})")


@_writes("optimization_barrier")
def _barrier(op: Operation) -> _Form | None:
    return _plain(tuple_of(f"{{{k}}}" for k in range(len(op.inputs))))


@_writes("dynamic_slice")
def _dynamic_slice(op: Operation) -> _Form | None:
    parts = [
        f"np.clip({{{k + 1}}}, 0, {whole - size}) + np.arange({size})"
        for k, (size, whole) in enumerate(
            zip(op.params["slice_sizes"], op.inputs[0].shape, strict=True)
        )
    ]
    return _plain(f"{{0:{ATOM}}}[np.ix_({', '.join(parts)})]")


@_writes("gather")
def _gather(op: Operation) -> _Form | None:
    """Rows, entries and the like, at positions that are sure to be there or are clipped."""
    numbers, sizes = op.params["dimension_numbers"], op.params["slice_sizes"]
    x, indices = op.inputs
    fill = op.params["mode"] is lax.GatherScatterMode.FILL_OR_DROP
    collapsed = tuple(numbers.collapsed_slice_dims)
    whole = all(
        size == (1 if axis in collapsed else x.shape[axis]) for axis, size in enumerate(sizes)
    )
    rank = len(indices.shape) - 1
    rows = len(op.outputs[0].shape) if op.outputs[0] is not None else 0
    batch = tuple(k for k in range(rows) if k not in numbers.offset_dims)
    together = collapsed == tuple(range(len(collapsed)))
    usual = collapsed == tuple(numbers.start_index_map) and batch == tuple(range(rank))
    if fill or numbers.operand_batching_dims or not (whole and together and usual):
        return None
    if collapsed != (0,):
        return None
    return _plain(f"{{0:{ATOM}}}[np.clip({{1:{ATOM}}}[..., 0], 0, {x.shape[0] - 1})]")


@_writes("cholesky")
def _cholesky(op: Operation) -> _Form | None:
    return _plain("np.linalg.cholesky({0})")


class InNumPy:
    """Operations of JAX in code that imports NumPy."""

    def form_of(self, operation: Operation) -> _Form | None:
        """The form of an operation; None where NumPy has none."""
        name = operation.name
        if name == "select_n" and len(operation.inputs) != 3:
            return None
        form: _Form | None = None
        if name in _COMPARED and operation.inputs[0] is operation.inputs[1]:
            form = _call("isnan") if name == "ne" else _call(_COMPARED[name], 2)
        elif name in _SIMPLE:
            form = _SIMPLE[name]
        elif name in _NAMED:
            form = _NAMED[name](operation)
        elif name in _SHARED:
            form = in_jax.form_of(operation)
            return None if form is None else _in_numpy(form)
        if form is None:
            return None
        parts = [
            in_jax.Place(k) if isinstance(x, Variable) else number(x.value, "np")
            for k, x in enumerate(operation.inputs)
        ]
        return form[0].format(*parts), form[1]

    def form_of_two(self, first: Operation, second: Operation) -> _Form | None:
        """The form of two operations, of which the second alone reads the first."""
        form = in_jax.form_of_two(first, second)
        return None if form is None else _in_numpy(form)

    def number(self, x: Number) -> Expression:
        """A number that has its dtype."""
        return Expression(f"np.{np.dtype(x.dtype).name}({number(x.value, 'np')})")

    def control(
        self, writer: Writer, operation: Operation, results: Sequence[str], indent: int
    ) -> bool:
        """Writes a scan, a while loop or a choice."""
        write = {"scan": _scan, "while": _while, "cond": _cond}.get(operation.name)
        if write is not None:
            write(writer, operation, results, indent)
        return write is not None


_COMPARED = {
    "eq": "equal",
    "ne": "not_equal",
    "lt": "less",
    "le": "less_equal",
    "gt": "greater",
    "ge": "greater_equal",
}


def _in_numpy(form: _Form) -> _Form | None:
    text = form[0].replace("jnp.array(", "np.array(").replace("jnp.", "np.")
    return None if "lax." in text or "jax." in text else (text, form[1])


def _function(writer: Writer, wanted: str, block: Block, indent: int) -> str:
    """A nested function of all inputs of a block, which returns the tuple of its results."""
    read = {x for op in block.operations for x in op.read} | set(block.outputs)
    names = [
        writer.name(x, x.hint or "x") if x in read else writer.names.new("_x") for x in block.inputs
    ]
    return writer.function(wanted, names, block, indent, returns=tuple_of)


def _scan(writer: Writer, operation: Operation, results: Sequence[str], indent: int) -> None:
    (block,) = operation.bodies["jaxpr"]
    count, length = carried(operation), operation.params["length"]
    name = _function(writer, "step", block, indent)
    operands = [writer.text(x) for x in operation.inputs]
    carry = writer.names.new("carry")
    place = writer.names.new("k")
    rows = [f"{text}[{place}]" for text in operands[count:]]
    writer.add(f"{carry} = {tuple_of(operands[:count]) if count else '()'}", indent)
    stacked = len(block.outputs) > count and any(each != "_" for each in results[count:])
    found = writer.names.new("found") if stacked else ""
    if stacked:
        writer.add(f"{found} = []", indent)
    order = f"reversed(range({length}))" if operation.params["reverse"] else f"range({length})"
    writer.add(f"for {place if rows else '_'} in {order}:", indent)
    each = writer.names.new("results")
    writer.add(f"{each} = {name}({', '.join([f'*{carry}', *rows])})", indent + 4)
    writer.add(f"{carry} = {each}[:{count}]", indent + 4)
    if stacked:
        writer.add(f"{found}.append({each}[{count}:])", indent + 4)
    if any(each != "_" for each in results[:count]):
        writer.add(f"{_left(results[:count])} = {carry}", indent)
    if not stacked:
        return
    back = "[::-1]" if operation.params["reverse"] else ""
    for k, result in enumerate(results[count:]):
        if result == "_":
            continue
        out = operation.outputs[count + k]
        assert out is not None
        text = f"np.stack([rest[{k}] for rest in {found}{back}])"
        if not length:
            text = f"np.zeros({out.shape!r}, {_dtype(out.dtype)})"
        writer.add(f"{result} = {text}", indent)


def _left(results: Sequence[str]) -> str:
    return f"({results[0]},)" if len(results) == 1 else ", ".join(results)


def _while(writer: Writer, operation: Operation, results: Sequence[str], indent: int) -> None:
    (test,), (block,) = operation.bodies["cond_jaxpr"], operation.bodies["body_jaxpr"]
    goes_on = _function(writer, "goes_on", test, indent)
    step = _function(writer, "step", block, indent)
    state = writer.names.new("state")
    writer.add(f"{state} = {tuple_of([writer.text(x) for x in operation.inputs])}", indent)
    writer.add(f"while {goes_on}(*{state})[0]:", indent)
    writer.add(f"{state} = {step}(*{state})", indent + 4)
    if set(results) != {"_"}:
        writer.add(f"{_left(results)} = {state}", indent)


def _cond(writer: Writer, operation: Operation, results: Sequence[str], indent: int) -> None:
    branches = operation.bodies["branches"]
    (chosen,) = operation.inputs
    names = [_function(writer, "case", block, indent) for block in branches]
    index = writer.text(chosen)
    if chosen.dtype == bool:
        call = f"({names[1]} if {index} else {names[0]})()"
    else:
        call = f"({', '.join(names)})[int(np.clip({index}, 0, {len(names) - 1}))]()"
    writer.add(f"{_left(results)} = {call}", indent)
