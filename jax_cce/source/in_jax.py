"""Operations as expressions of `jax.numpy`, or else of `jax.lax`.

For each operation there are several ways to write it, the most readable one first. Which of them is
exact is not known beforehand: `jax.numpy` promotes, broadcasts and converts, otherwise in one
version of JAX than in the next. So each is traced, and the first one is taken that traces to just
that operation.
"""

import enum
import inspect
import math
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jax_cce import jax_internals
from jax_cce.source import code
from jax_cce.source.code import Block, Number, Operation, Variable
from jax_cce.source.expressions import (
    AND,
    ATOM,
    COMPARE,
    OR,
    POWER,
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

__all__ = [
    "NAMESPACE",
    "Form",
    "Place",
    "bounds",
    "dtype_name",
    "form_of",
    "form_of_two",
    "typed_number",
]

NAMESPACE = {"jax": jax, "jnp": jnp, "lax": lax}

# A text with a place for each operand, and how tightly its outermost form binds.
Form = tuple[str, int]


def _call(name: str, count: int = 1) -> Form:
    return f"{name}({', '.join(f'{{{k}}}' for k in range(count))})", ATOM


# What has one name in `jax.lax`, `jax.numpy` and NumPy.
SAME_NAMES = (
    "abs cbrt ceil conj copy cos cosh exp exp2 expm1 floor imag log log1p real sign sin sinh sqrt "
    "tan tanh"
)
_UNARY = {
    **{name: _call(f"jnp.{name}") for name in SAME_NAMES.split()},
    **{
        short: _call(f"jnp.{name}")
        for short, name in {
            "acos": "arccos",
            "acosh": "arccosh",
            "asin": "arcsin",
            "asinh": "arcsinh",
            "atan": "arctan",
            "atanh": "arctanh",
            "is_finite": "isfinite",
        }.items()
    },
    "logistic": _call("jax.nn.sigmoid"),
    "neg": (f"-{{0:{UNARY}}}", UNARY),
    "not": (f"~{{0:{UNARY}}}", UNARY),
    "square": power("2"),
}
_COMPARISONS = {"eq": "==", "ne": "!=", "lt": "<", "le": "<=", "gt": ">", "ge": ">="}
_BINARY = {
    "add": binary("+", SUM),
    "sub": binary("-", SUM),
    "mul": binary("*", PRODUCT),
    "div": binary("/", PRODUCT),
    "rem": binary("%", PRODUCT),
    "and": binary("&", AND),
    "or": binary("|", OR),
    "xor": binary("^", XOR),
    **{name: (f"{{0:{OR}}} {sign} {{1:{OR}}}", COMPARE) for name, sign in _COMPARISONS.items()},
    "pow": (f"{{0:{ATOM}}} ** {{1:{UNARY}}}", POWER),
    "max": _call("jnp.maximum", 2),
    "min": _call("jnp.minimum", 2),
    "atan2": _call("jnp.arctan2", 2),
    "nextafter": _call("jnp.nextafter", 2),
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

_Writer = Callable[[Operation], Iterator[Form | str]]
_WRITERS: dict[str, _Writer] = {}


def _writes(*names: str) -> Callable[[_Writer], _Writer]:
    def define(writer: _Writer) -> _Writer:
        _WRITERS.update(dict.fromkeys(names, writer))
        return writer

    return define


def dtype_name(dtype: Any, *, as_call: bool = False) -> str:
    """How a dtype is written."""
    name = np.dtype(dtype).name
    if name == "bool":
        return "jnp.bool_" if as_call else "bool"
    return f"jnp.{name}"


@_writes("integer_pow")
def _integer_power(op: Operation) -> Iterator[Form | str]:
    y = op.params["y"]
    yield power(str(y))
    if y == -1:
        yield f"1 / {{0:{UNARY}}}", PRODUCT


@_writes("select_n")
def _select(op: Operation) -> Iterator[Form | str]:
    if len(op.inputs) == 3:
        yield "jnp.where({0}, {2}, {1})"
        yield "lax.select({0}, {2}, {1})"


@_writes("broadcast_in_dim")
def _broadcast(op: Operation) -> Iterator[Form | str]:
    (x,) = op.inputs[:1]
    shape, at = op.params["shape"], op.params["broadcast_dimensions"]
    text = repr(tuple(shape)) if len(shape) != 1 else str(shape[0])
    if isinstance(x, Number):
        dtype = dtype_name(x.dtype)
        if x.value == 0 and not math.copysign(1, complex(x.value).real) < 0:
            yield f"jnp.zeros({text}, {dtype})"
        if x.value == 1:
            yield f"jnp.ones({text}, {dtype})"
        yield f"jnp.full({text}, {{0}}, {dtype})"
        yield f"lax.full({text if len(shape) != 1 else f'({shape[0]},)'}, {{0}}, {dtype})"
    kept = [shape[k] for k in at] == list(x.shape)
    if kept and math.prod(shape) == math.prod(x.shape):
        yield f"{{0:{ATOM}}}[{_new_axes(len(shape), at)}]"
    if tuple(at) == tuple(range(len(shape) - len(at), len(shape))):
        yield f"jnp.broadcast_to({{0}}, {tuple(shape)!r})"


def _new_axes(rank: int, at: Sequence[int]) -> str:
    parts = [":" if k in at else "None" for k in range(rank)]
    while len(parts) > 1 and parts[-1] == ":":
        parts.pop()
    return ", ".join(parts)


@_writes("reshape")
def _reshape(op: Operation) -> Iterator[Form | str]:
    (x,) = op.inputs[:1]
    sizes = op.params["new_sizes"]
    if len(sizes) == len(x.shape) + 1:
        for k in range(len(sizes)):
            if sizes[k] == 1 and tuple(np.delete(sizes, k)) == x.shape:
                at = [j for j in range(len(sizes)) if j != k]
                yield f"{{0:{ATOM}}}[{_new_axes(len(sizes), at)}]"
    if len(sizes) == 1 and len(x.shape) != 1:
        yield f"{{0:{ATOM}}}.ravel()"
    if isinstance(x, Variable):
        yield f"{{0:{ATOM}}}.reshape({', '.join(map(str, sizes)) or '()'})"
    yield f"jnp.reshape({{0}}, {tuple(sizes)!r})"


@_writes("squeeze")
def _squeeze(op: Operation) -> Iterator[Form | str]:
    axes = op.params["dimensions"]
    yield f"{{0:{ATOM}}}.squeeze({axes[0] if len(axes) == 1 else tuple(axes)!r})"


@_writes("expand_dims")
def _expand(op: Operation) -> Iterator[Form | str]:
    axes = op.params["dimensions"]
    yield f"jnp.expand_dims({{0}}, {axes[0] if len(axes) == 1 else tuple(axes)!r})"


@_writes("transpose")
def _transpose(op: Operation) -> Iterator[Form | str]:
    axes = op.params["permutation"]
    if tuple(axes) == tuple(range(len(axes)))[::-1]:
        yield f"{{0:{ATOM}}}.T"
    yield f"{{0:{ATOM}}}.transpose({', '.join(map(str, axes))})"


@_writes("rev")
def _reverse(op: Operation) -> Iterator[Form | str]:
    rank, axes = len(op.inputs[0].shape), op.params["dimensions"]
    parts = ["::-1" if k in axes else ":" for k in range(rank)]
    while parts[-1] == ":":
        parts.pop()
    yield f"{{0:{ATOM}}}[{', '.join(parts)}]"


def bounds(op: Operation) -> list[str]:
    """What a slice takes along each axis, as it is written between brackets."""
    params = op.params
    rank = len(op.inputs[0].shape)
    steps = params["strides"] or (1,) * rank
    parts = []
    for first, last, step, size in zip(
        params["start_indices"], params["limit_indices"], steps, op.inputs[0].shape, strict=True
    ):
        text = f"{first or ''}:{'' if last == size else last}"
        parts.append(text if step == 1 else f"{text}:{step}")
    return parts


@_writes("slice")
def _slice(op: Operation) -> Iterator[Form | str]:
    parts = bounds(op)
    while len(parts) > 1 and parts[-1] == ":":
        parts.pop()
    yield f"{{0:{ATOM}}}[{', '.join(parts)}]"
    steps = op.params["strides"]
    last = "" if steps is None else f", {tuple(steps)!r}"
    ends = f"{tuple(op.params['start_indices'])!r}, {tuple(op.params['limit_indices'])!r}"
    yield f"lax.slice({{0}}, {ends}{last})"


@_writes("concatenate")
def _concatenate(op: Operation) -> Iterator[Form | str]:
    axis = op.params["dimension"]
    parts = ", ".join(f"{{{k}}}" for k in range(len(op.inputs)))
    yield f"jnp.concatenate([{parts}]{f', axis={axis}' if axis else ''})"
    yield f"lax.concatenate([{parts}], {axis})"


@_writes("stack")
def _stack(op: Operation) -> Iterator[Form | str]:
    axis = op.params["axis"]
    parts = ", ".join(f"{{{k}}}" for k in range(len(op.inputs)))
    if not axis and all(isinstance(k, Variable) and not k.shape for k in op.inputs):
        yield f"jnp.array([{parts}])"
    yield f"jnp.stack([{parts}]{f', axis={axis}' if axis else ''})"


@_writes("pad")
def _pad(op: Operation) -> Iterator[Form | str]:
    config = [tuple(map(int, each)) for each in op.params["padding_config"]]
    if all(low >= 0 and high >= 0 and inner == 0 for low, high, inner in config):
        widths = [(low, high) for low, high, _ in config]
        of_one = f"({widths[0][0]}, {widths[0][1]})" if len(widths) == 1 else None
        if isinstance(op.inputs[1], Number) and op.inputs[1].value == 0:
            yield f"jnp.pad({{0}}, {of_one or widths})"
    yield f"lax.pad({{0}}, {{1}}, {config})"


@_writes("iota")
def _iota(op: Operation) -> Iterator[Form | str]:
    shape, axis, dtype = op.params["shape"], op.params["dimension"], op.params["dtype"]
    if len(shape) == 1:
        yield f"jnp.arange({shape[0]})"
        yield f"jnp.arange({shape[0]}, dtype={dtype_name(dtype)})"
    yield f"lax.broadcasted_iota({dtype_name(dtype)}, {tuple(shape)!r}, {axis})"


@_writes(*_REDUCTIONS)
def _reduction(op: Operation) -> Iterator[Form | str]:
    axes, name = op.params["axes"], _REDUCTIONS[op.name]
    text = str(axes[0]) if len(axes) == 1 else repr(tuple(axes))
    if tuple(axes) == tuple(range(len(op.inputs[0].shape))):
        yield f"{{0:{ATOM}}}.{name}()"
    yield f"{{0:{ATOM}}}.{name}({text})"
    if op.name in ("argmax", "argmin"):
        yield f"lax.{name}({{0}}, {axes[0]}, {dtype_name(op.params['index_dtype'])})"
    yield f"lax.{op.name}({{0}}, axes={tuple(axes)!r})"


@_writes("convert_element_type")
def _convert(op: Operation) -> Iterator[Form | str]:
    dtype = dtype_name(op.params["new_dtype"])
    if isinstance(op.inputs[0], Variable):
        yield f"{{0:{ATOM}}}.astype({dtype})"
    yield f"lax.convert_element_type({{0}}, {dtype})"


@_writes("dot_general")
def _dot(op: Operation) -> Iterator[Form | str]:
    (left, right), (ranks) = op.inputs, [len(x.shape) for x in op.inputs]
    (one, other), (batch, batches) = op.params["dimension_numbers"]
    if not batch and len(one) == 1 and max(ranks) <= 2:
        if (one[0], other[0]) == (ranks[0] - 1, 0):
            yield binary("@", PRODUCT)
            yield "jnp.dot({0}, {1})"
        if max(ranks) == 1:
            yield "jnp.dot({0}, {1})"
        if not one and not other:
            yield "jnp.outer({0}, {1})"
    letters = iter("ijklmnopqrstuvw")
    a, b = [""] * ranks[0], [""] * ranks[1]
    for k, j in (*zip(batch, batches, strict=True), *zip(one, other, strict=True)):
        a[k] = b[j] = next(letters)
    a = [letter or next(letters) for letter in a]
    b = [letter or next(letters) for letter in b]
    shared = [a[k] for k in batch]
    out = [*shared, *(x for k, x in enumerate(a) if k not in (*batch, *one))]
    out += [x for k, x in enumerate(b) if k not in (*batches, *other)]
    order = dict(zip(dict.fromkeys([*a, *b]), "ijklmnopqrstuvw", strict=False))
    spelled = ["".join(order[x] for x in part) for part in (a, b, out)]
    yield f'jnp.einsum("{spelled[0]},{spelled[1]}->{spelled[2]}", {{0}}, {{1}})'
    del left, right


@_writes("dynamic_slice")
def _dynamic_slice(op: Operation) -> Iterator[Form | str]:
    at = tuple_of(f"{{{k}}}" for k in range(1, len(op.inputs)))
    yield f"lax.dynamic_slice({{0}}, {at}, {tuple(op.params['slice_sizes'])!r})"


@_writes("dynamic_update_slice")
def _dynamic_update_slice(op: Operation) -> Iterator[Form | str]:
    at = tuple_of(f"{{{k}}}" for k in range(2, len(op.inputs)))
    yield f"lax.dynamic_update_slice({{0}}, {{1}}, {at})"


@_writes("gather")
def _gather(op: Operation) -> Iterator[Form | str]:
    mode, is_sorted = op.params["mode"], op.params["indices_are_sorted"]
    facts = f'mode="{_MODES[mode]}"' if mode in _MODES else ""
    facts += ", indices_are_sorted=True" if is_sorted else ""
    facts += ", unique_indices=True" if op.params["unique_indices"] else ""
    fill = op.params["fill_value"]
    facts += "" if fill is None else f", fill_value={_written(fill)}"
    indices = op.inputs[1]
    if isinstance(indices, Variable) and indices.shape[-1:] == (1,):
        yield f"{{0:{ATOM}}}.at[{{1:{ATOM}}}.squeeze(-1)].get({facts})"
    yield (
        f"lax.gather({{0}}, {{1}}, {_written(op.params['dimension_numbers'])}, "
        f"{tuple(op.params['slice_sizes'])!r}, {facts})"
    )


@_writes("scatter", "scatter-add", "scatter-mul", "scatter-min", "scatter-max", "scatter_sub")
def _scatter(op: Operation) -> Iterator[Form | str]:
    name = op.name.replace("-", "_")
    facts = f'mode="{_MODES[op.params["mode"]]}"'
    facts += ", indices_are_sorted=True" if op.params["indices_are_sorted"] else ""
    facts += ", unique_indices=True" if op.params["unique_indices"] else ""
    numbers = _written(op.params["dimension_numbers"])
    yield f"lax.{name}({{0}}, {{1}}, {{2}}, {numbers}, {facts})"


_MODES = {
    lax.GatherScatterMode.CLIP: "clip",
    lax.GatherScatterMode.FILL_OR_DROP: "fill",
    lax.GatherScatterMode.PROMISE_IN_BOUNDS: "promise_in_bounds",
}


@_writes("clamp")
def _clamp(op: Operation) -> Iterator[Form | str]:
    yield "lax.clamp({0}, {1}, {2})"


@_writes("sort")
def _sort(op: Operation) -> Iterator[Form | str]:
    params = op.params
    parts = ", ".join(f"{{{k}}}" for k in range(len(op.inputs)))
    operands = f"({parts})" if len(op.inputs) > 1 else parts
    facts = f"{params['dimension']}, {params['is_stable']}, {params['num_keys']}"
    if len(op.inputs) == 1:
        yield f"(lax.sort({operands}, {facts}),)"
    yield f"lax.sort({operands}, {facts})"


@_writes("optimization_barrier")
def _barrier(op: Operation) -> Iterator[Form | str]:
    if len(op.inputs) == 1:
        yield "(lax.optimization_barrier({0}),)"
    yield f"lax.optimization_barrier({tuple_of(f'{{{k}}}' for k in range(len(op.inputs)))})"


@_writes("split")
def _split(op: Operation) -> Iterator[Form | str]:
    yield f"lax.split({{0}}, {tuple(op.params['sizes'])!r}, {op.params['axis']})"


@_writes("fft")
def _fft(op: Operation) -> Iterator[Form | str]:
    kind, lengths = op.params["fft_type"], op.params["fft_lengths"]
    yield f"lax.fft({{0}}, lax.FftType.{kind.name}, {tuple(lengths)!r})"


@_writes("triangular_solve", "cholesky", "lu", "qr", "eigh", "svd", "schur", "householder_product")
def _linear_algebra(op: Operation) -> Iterator[Form | str]:
    yield from _by_signature(op, getattr(lax.linalg, op.name, None), f"lax.linalg.{op.name}")


def _forms(op: Operation) -> Iterator[Form | str]:
    if op.name in _UNARY:
        yield _UNARY[op.name]
    if op.name in _COMPARISONS and op.inputs[0] is op.inputs[1]:
        # A linter takes the sign for a mistake.
        if op.name == "ne":
            yield "jnp.isnan({0})"
        yield f"lax.{op.name}({{0}}, {{1}})"
    if op.name in _BINARY:
        yield _BINARY[op.name]
    if op.name in _WRITERS:
        yield from _WRITERS[op.name](op)
    yield from _by_signature(op, getattr(lax, op.name, None), f"lax.{op.name}")
    for module, written in ((lax, "lax"), (lax.linalg, "lax.linalg")):
        name = f"{op.name.replace('-', '_')}_p"
        if getattr(module, name, None) is op.primitive:
            facts = "".join(f", {key}={_written(value)}" for key, value in op.params.items())
            parts = ", ".join(f"{{{k}}}" for k in range(len(op.inputs)))
            yield f"{written}.{name}.bind({parts}{facts})"


def _by_signature(op: Operation, function: Any, name: str) -> Iterator[Form | str]:
    """A call of a function of the primitive's parameters, by their names."""
    if function is None:
        return
    try:
        known = inspect.signature(function).parameters
    except (TypeError, ValueError):
        return
    facts = [
        f"{key}={_written(value)}"
        for key, value in op.params.items()
        if key in known and _written(known[key].default) != _written(value)
    ]
    parts = [f"{{{k}}}" for k in range(len(op.inputs))]
    yield f"{name}({', '.join([*parts, *facts])})"
    if len(op.outputs) == 1 and op.primitive.multiple_results:
        yield f"({name}({', '.join([*parts, *facts])}),)"


def _written(value: Any) -> str:
    """A parameter as code; what cannot be written raises `_Unwritten`."""
    if isinstance(value, enum.Enum):
        kind = type(value).__name__
        return f"lax.{kind}.{value.name}" if hasattr(lax, kind) else repr(str(value.name))
    if jax_internals.is_dtype(value) and isinstance(value, np.dtype):
        return dtype_name(value)
    if isinstance(value, type) and issubclass(value, np.generic):
        return dtype_name(value)
    if value is None or isinstance(value, (bool, str)):
        return repr(value).replace("'", '"')
    if isinstance(value, (int, np.integer)):
        return repr(int(value))
    if isinstance(value, float | np.floating):
        return str(number(np.float64(value), "jnp"))
    kind = type(value).__name__
    fields = getattr(value, "_fields", None) or getattr(value, "__dataclass_fields__", None)
    if fields and hasattr(lax, kind):
        inside = ", ".join(f"{each}={_written(getattr(value, each))}" for each in fields)
        return f"lax.{kind}({inside})"
    if isinstance(value, (tuple, list)):
        parts = list(map(_written, value))
        return tuple_of(parts) if isinstance(value, tuple) else f"[{', '.join(parts)}]"
    return "..."  # which no operation takes


_found: dict[Any, Form | None] = {}


def form_of(op: Operation) -> Form | None:
    """The most readable form that is exact; None where there is none.

    Operations on some types are looked up once in a process.
    """
    key = _key(op)
    if key not in _found:
        if len(_found) > 4096:
            _found.clear()
        _found[key] = _first_exact([op], _forms(op))
    return _found[key]


def form_of_two(first: Operation, second: Operation) -> Form | None:
    """The form of two operations of which the second alone reads the first; None if none."""
    key = _key(first), _key(second)
    if key not in _found:
        _found[key] = _first_exact([first, second], _forms_of_two(first, second))
    return _found[key]


def _forms_of_two(first: Operation, second: Operation) -> Iterator[Form | str]:
    if (first.name, second.name) == ("slice", "squeeze"):
        axes = second.params["dimensions"]
        parts = bounds(first)
        starts = first.params["start_indices"]
        for axis in axes:
            parts[axis] = str(starts[axis])
        while len(parts) > 1 and parts[-1] == ":":
            parts.pop()
        yield f"{{0:{ATOM}}}[{', '.join(parts)}]"
    if (first.name, second.name) == ("transpose", "dot_general"):
        is_last = isinstance(second.inputs[1], Variable) and second.inputs[1] is first.outputs[0]
        if is_last and len(second.inputs[0].shape) == 2:
            yield f"{{0:{PRODUCT}}} @ {{1:{ATOM}}}.T", PRODUCT


def _key(op: Operation) -> Any:
    params = tuple(sorted((name, repr(value)) for name, value in op.params.items()))
    types = [
        (x.value.item() if x.value == x.value else "nan", repr(x.value), x.dtype)
        if isinstance(x, Number)
        else (x.shape, x.dtype)
        for x in op.inputs
    ]
    same = tuple(op.inputs.index(x) if isinstance(x, Variable) else -1 for x in op.inputs)
    used = tuple(out is None for out in op.outputs)
    x64 = jax.config.jax_enable_x64  # type: ignore[attr-defined]
    return op.primitive, params, tuple(types), same, used, x64


def _first_exact(ops: Sequence[Operation], forms: Iterator[Form | str]) -> Form | None:
    last = ops[-1]
    inner = {out for op in ops[:-1] for out in op.outputs}

    def is_given(x: Any) -> bool:
        return not isinstance(x, Variable) or x not in inner

    operands = [x for op in reversed(ops) for x in op.inputs if is_given(x)]
    given = list(dict.fromkeys(x for x in operands if isinstance(x, Variable)))
    wanted = Block(given, ops, [out for out in last.outputs if out is not None])
    for form in forms:
        text, tightness = form if isinstance(form, tuple) else (form, ATOM)
        if "..." in text:
            continue
        for typed in (False, True):
            if typed and all(isinstance(x, Variable) for x in operands):
                continue
            if not typed and any(isinstance(operands[int(k)], Number) for k in _OPENED(text)):
                continue
            filled = _filled(text, operands, typed)
            if _is_exact(filled, operands, given, wanted, last):
                return filled, tightness
    return None


# The places in a form behind which an attribute or a subscript stands, which numbers lack.
_OPENED = re.compile(rf"\{{(\d+):{ATOM}\}}[.\[]").findall


class Place:
    """A place in a form that stays one."""

    def __init__(self, k: int) -> None:
        self._k = k

    def __format__(self, spec: str) -> str:
        return f"{{{self._k}:{spec or 0}}}"


def _filled(text: str, operands: Sequence[Any], typed: bool) -> str:
    """A form in which numbers stand, and only variables have places."""
    parts: list[Any] = []
    for k, x in enumerate(operands):
        if isinstance(x, Variable):
            parts.append(Place(k))
        else:
            parts.append(typed_number(x) if typed else number(x.value, "jnp"))
    return text.format(*parts)


def typed_number(x: Number) -> Expression:
    """A number that has its dtype."""
    return Expression(f"{dtype_name(x.dtype, as_call=True)}({number(x.value, 'jnp')})")


def _is_exact(
    text: str,
    operands: Sequence[Any],
    given: Sequence[Variable],
    wanted: Block,
    last: Operation,
) -> bool:
    """Whether a form traces to just some operations."""
    names = {x: Expression(f"a{k}") for k, x in enumerate(given)}
    parameters = ", ".join(each.text for each in names.values())
    expression = text.format(*(names.get(x, "") for x in operands))
    try:
        function = eval(f"lambda {parameters}: {expression}", dict(NAMESPACE))
        several = last.primitive.multiple_results

        def listed(*values: Any) -> list[Any]:
            results = function(*values)
            results = list(results) if several else [results]
            pairs = zip(results, last.outputs, strict=True)
            return [x for x, out in pairs if out is not None]

        avals = [jax_internals.abstract(x.aval) for x in given]
        block, _ = code.traced(listed, avals)
    except Exception:  # it is not a way to write it
        return False
    return not code.difference(wanted, block)
