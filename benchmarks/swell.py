"""Symbolic, numerical and automatic derivatives: how large, how exact, and how much memory.

Run it with `python -m benchmarks.swell`. It prints three tables:

- *Expression swell*: the operations of the derivative of the n-th iterate of the logistic map,
  l(1) = x, l(k + 1) = 4 l(k) (1 - l(k)): of our program, and of expressions by the rules of
  differentiation, as written and with everything multiplied out.
- *Step sizes*: the error of forward and central differences of the same map, from coarse steps to
  fine ones, beside that of our derivative; the truth is computed in rational numbers.
- *Memory*: what XLA plans for temporary arrays where a net of 30 convolutional layers is
  differentiated forwards and in reverse, beside the count that circulates.

The map is that of Baydin, Pearlmutter, Radul and Siskind, "Automatic differentiation in machine
learning: a survey", JMLR 18 (2018), table 1 and figure 3. The expander below is a small one: what
grows is the expressions, and not what an implementation makes of them.
"""

from __future__ import annotations

import argparse
import dataclasses
import fractions
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

import jax_cce
from benchmarks import report

_X = 0.2
_STEPS = tuple(10.0**-k for k in range(1, 15))
_MOST_ITERATES, _MOST_EXPANDED = 10, 8


def logistic(n: int, x: Any) -> Any:
    """The n-th iterate of the logistic map, as it is written."""
    for _ in range(n - 1):
        x = 4 * x * (1 - x)
    return x


# --- expression swell -----------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Expression:
    """A node of an expression: a number, the variable, or an operation on two others.

    Attributes:
      op: "number", "x", "+", "-" or "*".
      args: The operands, or the number.
    """

    op: str
    args: tuple[Any, ...] = ()

    def __add__(self, other: Any) -> Expression:
        return _simplified("+", self, _as_expression(other))

    def __mul__(self, other: Any) -> Expression:
        return _simplified("*", self, _as_expression(other))

    __radd__, __rmul__ = __add__, __mul__

    def __sub__(self, other: Any) -> Expression:
        return _simplified("-", self, _as_expression(other))

    def __rsub__(self, other: Any) -> Expression:
        return _simplified("-", _as_expression(other), self)

    @functools.cached_property
    def operations(self) -> int:
        """The operations of the expression as it is written: what is written twice counts twice."""
        if self.op in ("number", "x"):
            return 0
        return 1 + sum(each.operations for each in self.args)

    @functools.cached_property
    def derivative(self) -> Expression:
        """The derivative by the rules for sums and products."""
        if self.op in ("number", "x"):
            return _as_expression(int(self.op == "x"))
        left, right = self.args
        if self.op == "*":
            return left.derivative * right + left * right.derivative
        return _simplified(self.op, left.derivative, right.derivative)


X = Expression("x")


def _as_expression(value: Any) -> Expression:
    return value if isinstance(value, Expression) else Expression("number", (value,))


def _simplified(op: str, left: Expression, right: Expression) -> Expression:
    """The expression of an operation, without zeros and ones, with numbers evaluated."""
    a, b = (each.args[0] if each.op == "number" else None for each in (left, right))
    if a is not None and b is not None:
        return _as_expression({"+": a + b, "-": a - b, "*": a * b}[op])
    if op == "*" and 0 in (a, b):
        return _as_expression(0)
    if op == "*" and 1 in (a, b):
        return right if a == 1 else left
    if op in "+-" and b == 0:
        return left
    if op == "+" and a == 0:
        return right
    return Expression(op, (left, right))


def expanded(n: int) -> list[int]:
    """The coefficients of the derivative of the n-th iterate with everything multiplied out."""
    polynomial = [0, 1]
    for _ in range(n - 1):
        rest = [1 - polynomial[0], *(-c for c in polynomial[1:])]
        polynomial = [4 * c for c in _product(polynomial, rest)]
    return [k * c for k, c in enumerate(polynomial)][1:]


def _product(left: list[int], right: list[int]) -> list[int]:
    result = [0] * (len(left) + len(right) - 1)
    for i, a in enumerate(left):
        for k, b in enumerate(right):
            result[i + k] += a * b
    return result


def _sum_of_powers(coefficients: list[int]) -> int:
    """The operations of a polynomial that is written as a sum of products: 4 - 8*x + 3*x*x."""
    terms = [(k, c) for k, c in enumerate(coefficients) if c]
    return sum(k - (abs(c) == 1 and k > 0) for k, c in terms) + len(terms) - 1


def operations(n: int, order: Any = "auto") -> int:
    """The equations of the program of our derivative, with those of the function that it needs."""
    jaxpr = _program(jax_cce.jacobian(functools.partial(logistic, n), order=order))
    return len(jaxpr.eqns)


def _program(function: Callable[..., Any]) -> Any:
    from jax_cce import jax_internals

    closed = jax.make_jaxpr(function)(np.float64(_X))
    for equation in closed.eqns:
        if equation.primitive.name == jax_internals.PLANNED_JACOBIAN:
            return jax_internals.opened(equation.params["body"])[0]
    return jax_internals.opened(closed)[0]


def swell() -> str:
    rows = []
    for n in range(2, _MOST_ITERATES + 1):
        written = logistic(n, X).derivative.operations
        multiplied = _sum_of_powers(expanded(n)) if n <= _MOST_EXPANDED else ""
        rows.append([n, operations(n), f"{written:,}", multiplied and f"{multiplied:,}"])
    header = ["n", "our operations", "expression, as written", "multiplied out"]
    return report.markdown_table(header, rows)


# --- step sizes -----------------------------------------------------------------------------------


def truth(n: int, x: float) -> fractions.Fraction:
    """The derivative of the n-th iterate in rational numbers."""
    value, slope = fractions.Fraction(x), fractions.Fraction(1)
    for _ in range(n - 1):
        value, slope = 4 * value * (1 - value), 4 * slope * (1 - 2 * value)
    return slope


def errors(n: int, x: float) -> tuple[list[tuple[float, float, float]], float]:
    """The relative errors of differences, by step: forward and central; and that of ours."""
    exact = truth(n, x)
    f = functools.partial(logistic, n)

    def error(found: float) -> float:
        return float(abs(fractions.Fraction(found) - exact) / abs(exact))

    rows = []
    for h in _STEPS:
        forward, central = (f(x + h) - f(x)) / h, (f(x + h) - f(x - h)) / (2 * h)
        rows.append((h, error(forward), error(central)))
    return rows, error(float(jax_cce.jacobian(f)(np.float64(x))))


def steps() -> str:
    rows, ours = errors(4, _X)
    cells = [[f"{h:.0e}", f"{a:.1e}", f"{b:.1e}"] for h, a, b in rows]
    table = report.markdown_table(["step", "forward difference", "central difference"], cells)
    return f"{table}\n\nOur derivative: {ours:.1e}."


# --- forward against reverse memory ---------------------------------------------------------------

LAYERS, CHANNELS, SIZE = 30, 64, 32


def net(kernels: Any, image: Any) -> Any:
    """The mean square of what 30 convolutions of 3 x 3 with 64 channels give of an image."""
    first, rest = kernels

    def layer(x: Any, kernel: Any) -> Any:
        own = lax.conv_general_dilated(x[None], kernel, (1, 1), "SAME")[0]
        return jax.nn.relu(own)

    x = layer(image, first)
    for kernel in rest:
        x = layer(x, kernel)
    return jnp.mean(x**2)


def shapes(layers: int = LAYERS, channels: int = CHANNELS, size: int = SIZE) -> Any:
    """The types of the kernels and of the image."""
    of = functools.partial(jax.ShapeDtypeStruct, dtype=np.float32)
    first = of((channels, 3, 3, 3))
    rest = [of((channels, channels, 3, 3)) for _ in range(layers - 1)]
    return (first, rest), of((3, size, size))


def temporaries(function: Callable[..., Any], *args: Any) -> int:
    """The bytes that XLA plans for temporary arrays."""
    analysis = jax.jit(function).lower(*args).compile().memory_analysis()
    assert analysis is not None
    return int(analysis.temp_size_in_bytes)


def pushed(kernels: Any, image: Any, tangents: Any) -> Any:
    """The derivative in one direction, forwards."""
    return jax.jvp(functools.partial(net, image=image), (kernels,), (tangents,))[1]


def memory() -> str:
    rows = []
    for layers in (5, 10, 20, LAYERS):
        kernels, image = shapes(layers)
        own = layers * CHANNELS * SIZE * SIZE * 4
        forward = temporaries(pushed, kernels, image, kernels)
        gradients = [
            temporaries(gradient, kernels, image)
            for gradient in (jax_cce.jacobian(net), jax.grad(net))
        ]
        value = temporaries(net, kernels, image)
        rows.append([layers, *(f"{x / 2**20:.1f}" for x in (own, value, forward, *gradients))])
    header = ["layers", "activations", "value", "forward, one direction"]
    header += ["reverse, jax_cce", "reverse, jax.grad"]
    table = report.markdown_table(header, rows)
    count = SIZE * SIZE * 3 * LAYERS * 3 * 3 * 3 * CHANNELS
    return (
        f"{table}\n\n(MiB.) A count that circulates: {SIZE} * {SIZE} * 3 * {LAYERS} * 3 * 3 * 3 * "
        f"{CHANNELS} = {count:.3g} numbers; stated as 1.6e9."
    )


def main() -> None:
    parts = {"swell": swell, "steps": steps, "memory": memory}
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("parts", nargs="*", choices=[*parts, []], help="by default all")
    chosen = parser.parse_args().parts or list(parts)
    jax.config.update("jax_enable_x64", True)
    print(report.provenance())
    for name in chosen:
        print(f"\n## {name}\n\n{parts[name]()}")


if __name__ == "__main__":
    main()
