"""A hypothesis strategy for random JAX programs.

A program is Python source of a function `f` of a few small arrays. What runs is what is printed:
a failing example can be pasted into a session that imports `cases.program_scope.NAMESPACE`.

Values stay well scaled, so that two ways of computing one Jacobian differ by little more than
rounding: every value carries a bound on its absolute entries, operations with a restricted domain
are only drawn composed with a map into it (`log(x * x + 1.5)`), and what could exceed the largest
allowed value is scaled down by a power of two.
"""

import dataclasses
import itertools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import strategies as st

from cases.program_scope import Choices, Scope, Value
from cases.program_source import Source
from cases.program_statements import STATEMENTS, convert, promote, unary

_RESULTS = {
    1: ("{0}", "({0},)", '{{"u": {0}, "v": None}}'),
    2: ("({0}, {1})", '{{"u": {0}, "v": [{1}]}}', "[({0}, None), {1}]"),
    3: ("({0}, {1}, {2})", '{{"v": ({0}, {1}), "u": {2}}}'),
}


@dataclasses.dataclass(frozen=True, repr=False)
class Program(Source):
    """A function with arguments; `repr` is its source.

    Attributes:
        args: positional arguments, pytrees of arrays and Python floats.
        argnums: the differentiated ones.
        has_aux: whether `f` returns a pair of its result and auxiliary integers.
        rtol: the relative accuracy that its narrowest dtype allows.
    """

    args: tuple[Any, ...]
    argnums: int | tuple[int, ...]
    has_aux: bool
    rtol: float

    def __repr__(self) -> str:
        with np.printoptions(threshold=10_000, linewidth=10_000):
            args = ",\n    ".join(_literal(arg) for arg in self.args)
        options = f"argnums={self.argnums}, has_aux={self.has_aux}"
        return f"\n{self.source}\nargs = (\n    {args},\n)\n# {options}, rtol={self.rtol}\n"


def _literal(tree: Any) -> str:
    if isinstance(tree, dict):
        return "{" + ", ".join(f"{k!r}: {_literal(v)}" for k, v in tree.items()) + "}"
    if isinstance(tree, tuple):
        return "(" + " ".join(f"{_literal(v)}," for v in tree) + ")"
    if isinstance(tree, jax.Array):
        array = f"jnp.array({np.asarray(tree).tolist()}, {str(tree.dtype)!r})"
        return array if tree.size else f"jnp.zeros({tree.shape}, {str(tree.dtype)!r})"
    return repr(tree)


def _arguments(choices: Choices, dtypes: Sequence[str]) -> tuple[dict[str, Any], list[Value]]:
    """Draws one to six floating-point leaves in pytrees, and up to two integers, as arguments."""
    numbers = np.random.default_rng(choices.select(range(1000)))
    sizes = [choices.select((2, 3, 4, 1, 2, 3, 4, 1, 2, 3, 4, 0)) for _ in range(3)]
    args: dict[str, Any] = {}
    values = []

    def leaf(code: str) -> Any:
        shape = tuple(choices.select(sizes) for _ in range(choices.select((1, 2, 0, 3, 2))))
        dtype = choices.select(dtypes)
        # Away from zero, where abs, sign and relu have a kink.
        array = numbers.uniform(0.3, 1.5, shape) * numbers.choice((-1, 1), shape)
        values.append(Value(code, shape, np.dtype(dtype), 1.5, frozenset({code[:2]})))
        if not shape and dtype == "float64" and choices.select((False, True)):
            return round(float(array), 4)  # weakly typed
        return jnp.asarray(np.round(array, 4), dtype)

    for position in range(choices.select((1, 2, 3))):
        name = f"x{position}"
        kind = choices.select(("array", "array", "dict", "tuple"))
        if kind == "array":
            args[name] = leaf(name)
        elif kind == "dict":
            args[name] = {"w": leaf(f'{name}["w"]'), "b": (leaf(f'{name}["b"][0]'), None)}
        else:
            args[name] = (leaf(f"{name}[0]"), leaf(f"{name}[1]"))
    for position in range(choices.select((0, 1, 2))):
        shape = choices.select(((), (2,)))
        args[f"n{position}"] = jnp.asarray(numbers.integers(0, 4, shape), jnp.int32)
        values.append(Value(f"n{position}", shape, np.dtype("int32"), 4, frozenset()))
    return args, values


def _result(scope: Scope) -> tuple[str, frozenset[str]]:
    """Draws what a program returns, and the arguments that its first part depends on."""
    outputs = scope.floats()[::-1]
    varying = [v for v in outputs if v.sources]
    last = scope.unread(varying) or varying
    parts = [last[0]] + [scope.select(last + outputs) for _ in range(scope.select((0, 1, 2)))]
    form = scope.select(_RESULTS[len(parts)])
    return form.format(*(v.code for v in parts)), parts[0].sources


@st.composite
def programs(draw: Any) -> Program:
    """Draws a program of 3 to 15 statements, one in five of them with float32 values."""
    choices = Choices(draw(st.binary(min_size=16, max_size=16)))
    mixed = choices.select((False, False, False, False, True))
    args, values = _arguments(choices, ("float64", "float32") if mixed else ("float64",))
    scope = Scope(choices, args)
    scope.values = values
    statements = (*STATEMENTS, convert, convert, promote) if mixed else STATEMENTS
    entropy = st.binary(min_size=8, max_size=8)
    for statement in draw(st.lists(entropy, min_size=3, max_size=15)):
        scope.choices = Choices(statement)
        before = len(scope.lines)
        scope.select(statements)(scope, scope.operand())
        if len(scope.lines) == before:  # the statement does not apply to its operand
            unary(scope, scope.operand())

    scope.choices = choices
    result, sources = _result(scope)
    integers = [v.code for v in scope.values if v.dtype.kind in "ib"]
    has_aux = bool(integers) and scope.select((False, True))
    if has_aux:
        result = f"{result}, {scope.select(integers)}"
    lines = [f"def f({', '.join(args)}):", *(f"    {line}" for line in scope.lines)]
    source = "\n".join([*lines, f"    return {result}", ""])

    differentiable = [k for k, name in enumerate(args) if name.startswith("x")]
    subsets = [
        subset
        for size in range(1, len(differentiable) + 1)
        for subset in itertools.permutations(differentiable, size)
    ]
    read = [k for k, name in enumerate(args) if name in sources]
    argnums = scope.select((scope.select(read), scope.select(subsets)))
    return Program(source, tuple(args.values()), argnums, has_aux, 1e-4 if mixed else 1e-9)
