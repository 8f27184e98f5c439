"""The lines of a random program while it is drawn, and the variables that they can use."""

import dataclasses
import math
import re
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

LARGEST = 8.0  # a bound above this is scaled down
_MAX_ENTRIES = 48
_MAX_RANK = 4


@jax.custom_jvp
def steep_tanh(x: jax.Array) -> jax.Array:
    """tanh with twice its derivative: who bypasses the custom rule gets other numbers."""
    return jnp.tanh(x)


@steep_tanh.defjvp
def _steep_tanh_jvp(primals, tangents):
    y = jnp.tanh(primals[0])
    return y, 2 * (1 - y * y) * tangents[0]


@jax.custom_jvp
def leaky_relu(x: jax.Array) -> jax.Array:
    """relu that pretends to leak."""
    return jnp.maximum(x, 0)


@leaky_relu.defjvp
def _leaky_relu_jvp(primals, tangents):
    return leaky_relu(primals[0]), jnp.where(primals[0] > 0, 1, 0.25) * tangents[0]


@jax.custom_vjp
def straight_through(x: jax.Array) -> jax.Array:
    """Round, with the derivative of the identity."""
    return jnp.round(x)


straight_through.defvjp(lambda x: (jnp.round(x), None), lambda _, cotangent: (cotangent,))

NAMESPACE = {
    "jax": jax,
    "jnp": jnp,
    "lax": lax,
    "np": np,
    "steep_tanh": steep_tanh,
    "leaky_relu": leaky_relu,
    "straight_through": straight_through,
}


@dataclasses.dataclass(frozen=True)
class Value:
    """A variable of a program.

    Attributes:
        code: the expression by which lines refer to it.
        shape: its shape.
        dtype: its dtype.
        bound: no entry is larger in absolute value.
        sources: the arguments that it depends on.
    """

    code: str
    shape: tuple[int, ...]
    dtype: np.dtype
    bound: float
    sources: frozenset[str]

    @property
    def rank(self) -> int:
        return len(self.shape)


class Choices:
    """Draws from given options, as given bytes say; zero bytes choose the first of everything.

    hypothesis likes to repeat what it has drawn before, which makes programs of few different
    operations. It sees the choices that make a statement as one string of bytes. The string is
    read as a fraction, so that its last bytes change the last choices only.
    """

    def __init__(self, entropy: bytes):
        self._fraction = int.from_bytes(entropy)
        self._whole = 256 ** len(entropy)

    def select(self, options: Sequence[Any]) -> Any:
        index, self._fraction = divmod(self._fraction * len(options), self._whole)
        return options[index]


class Scope:
    """The lines of one function while they are drawn, and the variables that they can use."""

    def __init__(self, choices: Choices, parameters: dict[str, Any], prefix: str = "v"):
        self.choices = choices
        self.prefix = prefix
        self.lines: list[str] = []
        self.values: list[Value] = []
        self._unread: set[str] = set()
        self._abstract = dict(parameters)
        self._functions = dict(NAMESPACE)

    def select(self, options: Sequence[Any]) -> Any:
        return self.choices.select(options)

    def floats(self, condition: Callable[[Value], bool] = lambda _: True) -> list[Value]:
        return [v for v in self.values if v.dtype.kind == "f" and condition(v)]

    def operand(self, condition: Callable[[Value], bool] = lambda _: True) -> Value | None:
        """Draws a floating-point variable, more often one that no line has read yet."""
        candidates = self.floats(condition)
        return self.select(candidates + 2 * self.unread(candidates)) if candidates else None

    def unread(self, values: Sequence[Value]) -> list[Value]:
        """Those of the values that no line reads, so that little of a program is dead code."""
        return [v for v in values if v.code in self._unread]

    def alike(self, x: Value, condition: Callable[[Value], bool]) -> Value:
        """Draws an operand to go with `x`, in one of four cases `x` itself."""
        others = self.floats(lambda v: v.dtype == x.dtype and v != x and condition(v))
        others += self.unread(others)
        return self.select(others + [x] * (1 + len(others) // 3))

    def integers(self, condition: Callable[[Value], bool] = lambda _: True) -> list[Value]:
        return [v for v in self.values if v.dtype.kind == "i" and condition(v)]

    def assign(self, expression: str, *bounds: float) -> None:
        """Adds `v0, ... = expression`, with one bound for each target; drops what is too large."""
        if len(bounds) == 1 and bounds[0] > LARGEST:
            exponent = math.ceil(math.log2(bounds[0] / LARGEST))
            if exponent > 10:
                return
            expression, bounds = f"{0.5**exponent} * ({expression})", (LARGEST,)
        if max(bounds) > LARGEST:
            return
        results = jax.eval_shape(
            lambda abstract: eval(expression, {**self._functions, **abstract}), self._abstract
        )
        results = results if isinstance(results, tuple) else (results,)
        if any(r.size > _MAX_ENTRIES or r.ndim > _MAX_RANK for r in results):
            return
        names = [f"{self.prefix}{len(self.lines)}{s}" for s in ("", "b", "c")[: len(results)]]
        self.lines.append(f"{', '.join(names)} = {expression}")
        read = [v for v in self.values if re.search(rf"\b{re.escape(v.code)}(?!\w)", expression)]
        sources = frozenset[str]().union(*(v.sources for v in read))
        self._unread = (self._unread - {v.code for v in read}) | set(names)
        for name, result, bound in zip(names, results, bounds, strict=True):
            self._abstract[name] = result
            self.values.append(Value(name, result.shape, result.dtype, bound, sources))

    def define(self, inner: "Scope", parameters: Sequence[str], results: str) -> str:
        """Adds a nested function made of the lines of another scope; returns its name."""
        name = f"{self.prefix}{len(self.lines)}_inner"
        source = f"def {name}({', '.join(parameters)}):\n"
        source += "".join(f"    {line}\n" for line in (*inner.lines, f"return {results}"))
        exec(source, self._functions)
        self.lines.extend(source.splitlines())
        return name
