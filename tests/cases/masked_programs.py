"""A hypothesis strategy for programs with masks over singularities, and with custom rules.

A program is Python source of a function `f` of one or two vectors, as in `cases.programs`. Some of
its arguments lie on singularities: zeros, ones, numbers that overflow under `exp`, missing data.
Masks before, after or around singular operations hide them, or do not: what matters is that a
Jacobian which one of JAX's modes finds finite is found finite in every order.
"""

import dataclasses
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import strategies as st
from jax import lax

from cases.program_scope import Choices

SIZE = 3

_MASKS = (
    "{x} > 0",
    "{x} != 0",
    "jnp.abs({x}) < 1",
    "{x} < 300",
    "{y} > {x}",
    "KEEP",
    "jnp.isfinite({x})",
    "~jnp.isnan(DATA)",
)
_BEFORE = (
    "jnp.where({m}, {x}, 0.0)",
    "jnp.where({m}, {x}, 1.0)",
    "jnp.where({m}, {x}, {y})",
    "jnp.where({m}, 0.0, {x})",
    "jnp.where({m}, {x}, -jnp.inf)",
    "lax.select({m}, {x}, 0.5 * {x})",
)
_SINGULAR = (
    "jnp.sqrt({x})",
    "jnp.log({x})",
    "1 / {x}",
    "{y} / {x}",
    "{x} ** -1.5",
    "{x} ** 0.5",
    "{x} ** -2",
    "lax.rsqrt({x})",
    "jnp.cbrt({x})",
    "jnp.arccos({x})",
    "jnp.arctanh({x})",
    "jnp.arctan2({x}, {y})",
    "jnp.log1p(-{x})",
    "jnp.power({x}, {y})",
    "jnp.linalg.norm({x}) * {y}",
    "jnp.sqrt({x} @ {x}) + {x}",
    "jnp.sqrt(jnp.sum(({x}[:, None] - {x}) ** 2, -1))",
    "{x} / jnp.sum({x} ** 2)",
    "jnp.exp(200 * {x})",
    "jnp.exp({x} - jnp.max({x}))",
    "{x} / jnp.sum(jnp.exp({x}))",
    "jax.nn.logsumexp({x}) * {y}",
    "jnp.where(jnp.isnan(DATA), 0.0, DATA * {x})",
    "jnp.sum(jnp.where(jnp.eye(SIZE, dtype=bool), 0.0, 1 / jnp.abs({x}[:, None] - {x})), 0)",
    "jnp.sum(jnp.where(KEEP, jnp.sqrt(jnp.abs({x}[:, None] * {y})), 0.0), 1)",
)
_SMOOTH = (
    "2.0 * {x}",
    "{x} * {y}",
    "{x} + {y}",
    "{x} - {y}",
    "jnp.sin({x})",
    "jnp.tanh({x}) * 3.0",
    "{x} ** 2",
    "{x} ** 3",
    "jnp.maximum({x}, {y})",
    "jnp.minimum({x}, 5.0)",
    "jnp.clip({x}, -1.0, 1.0)",
    "jnp.abs({x})",
    "jax.nn.relu({x})",
    "jax.nn.softplus({x})",
    "{x}[::-1]",
    "jnp.roll({x}, 1)",
    "{x}[jnp.array([2, 0, 1])]",
    "jnp.concatenate([{x}[:1], {y}[1:]])",
    "{x}.at[1].set(0.5)",
    # What masks hide behind a product with given weights is not promised.
    "(MATRIX + jnp.outer({y}, {x})) @ {x}",
    "jnp.cumsum({x})",
    "jnp.sum({x}) * {y}",
    "jnp.stack([{x}, {y}]).sum(0)",
    "jnp.zeros(SIZE).at[jnp.array([0, 0, 2])].add({x})",
)
_RULES = (
    "safe_root({x})",
    "safe_quotient({y}, {x})",
    "to_the({x}, 3)",
    "scaled(2.5, {x})",
    "straight_through({x})",
    "masked_rule({x})",
    "of_a_constant({x})",
    "of_a_tuple(({x}, {y}))[0]",
)
# The derivative does not depend on the cotangent as a linear function does.
_OF_ROWS = ("clipped({x})", "ignored({x})", "branched({x})")

# Bodies of a lambda in a vector `a`, or in a scalar under vmap, cond or scan.
_BODIES = (
    "jnp.sqrt(a) * 2.0",
    "jnp.log(a) / a",
    "jnp.where(a > 0, jnp.log(a), 0.0) * a",
    "jnp.sqrt(jnp.where(a > 0, a, 0.0)) * 3.0",
    "jnp.where(a > 0, jnp.sqrt(jnp.where(a > 0, a, 1.0)), a)",
    "1 / (a * a)",
    "jnp.sin(a)",
    "a",
    "0.0 * a",
    "safe_root(a) + a",
)


def _safe_root() -> Any:
    @jax.custom_jvp
    def safe_root(x: jax.Array) -> jax.Array:
        return jnp.sqrt(jnp.maximum(x, 0.0))

    @safe_root.defjvp
    def _(primals: Any, tangents: Any) -> Any:
        y = safe_root(*primals)
        return y, jnp.where(primals[0] > 0, 0.5 * tangents[0] / y, 0.0)

    return safe_root


def _safe_quotient() -> Any:
    @jax.custom_jvp
    def safe_quotient(x: jax.Array, y: jax.Array) -> jax.Array:
        return jnp.where(y == 0, 0.0, x / jnp.where(y == 0, 1.0, y))

    @safe_quotient.defjvp
    def _(primals: Any, tangents: Any) -> Any:
        (x, y), (a, b) = primals, tangents
        return safe_quotient(x, y), jnp.where(y == 0, 0.0, (a * y - x * b) / y / y)

    return safe_quotient


@jax.custom_jvp
def masked_rule(x: jax.Array) -> jax.Array:
    """Its rule masks the tangent before what is singular."""
    return jnp.sqrt(jnp.maximum(x, 0.0))


@masked_rule.defjvp
def _masked_rule(primals: Any, tangents: Any) -> Any:
    (x,), (t,) = primals, tangents
    y = masked_rule(x)
    t = jnp.where(x > 0, t, 0.0)
    return y, t * x * 0.5 / (y * y * y)


def _to_the(x: jax.Array, n: int) -> jax.Array:
    return x**n


to_the = jax.custom_jvp(_to_the, nondiff_argnums=(1,))
to_the.defjvp(lambda n, p, t: (_to_the(p[0], n), 2 * n * p[0] ** (n - 1) * t[0]))

scaled = jax.custom_vjp(lambda k, x: x, nondiff_argnums=(0,))
scaled.defvjp(lambda k, x: (x, None), lambda k, _, g: (k * g,))

straight_through = jax.custom_vjp(lambda x: jnp.round(x))
straight_through.defvjp(lambda x: (jnp.round(x), None), lambda _, g: (g,))

clipped = jax.custom_vjp(lambda x: jnp.sin(x))
clipped.defvjp(lambda x: (jnp.sin(x), x), lambda x, g: (jnp.clip(g * jnp.cos(x), -0.5, 0.5),))


ignored = jax.custom_vjp(lambda x: jnp.cos(x))
ignored.defvjp(lambda x: (jnp.cos(x), x), lambda x, g: (jnp.sin(x),))

branched = jax.custom_vjp(lambda x: x * x)
branched.defvjp(lambda x: (x * x, x), lambda x, g: (jnp.where(g > 0, g * x, 3.0 * g * g),))


def of_a_constant(x: jax.Array) -> jax.Array:
    """A rule that closes over constants."""
    weights, limit = np.array([1.0, 0.0, 2.0]), np.array(0.0)

    @jax.custom_jvp
    def inner(x: jax.Array) -> jax.Array:
        return jnp.where(x > limit, weights * x, 0.0)

    @inner.defjvp
    def _(primals: Any, tangents: Any) -> Any:
        return inner(*primals), jnp.where(primals[0] > limit, weights * tangents[0], 0.0)

    return inner(x)


of_a_tuple = jax.custom_vjp(lambda pair: (pair[0] * pair[1], pair[0]))
of_a_tuple.defvjp(
    lambda pair: ((pair[0] * pair[1], pair[0]), pair),
    lambda pair, g: ((g[0] * pair[1] + g[1], jnp.where(pair[0] > 0, g[0] * pair[0], 0.0)),),
)

NAMESPACE = {
    "jax": jax,
    "jnp": jnp,
    "lax": lax,
    "SIZE": SIZE,
    "KEEP": np.array([True, False, True]),
    "DATA": np.array([1.0, np.nan, -0.5]),
    "MATRIX": np.array([[1.0, 0.0, 2.0], [0.0, 0.0, 1.0], [0.5, -1.0, 0.0]]),
    "safe_root": _safe_root(),
    "safe_quotient": _safe_quotient(),
    **{rule.__name__: rule for rule in (masked_rule, of_a_constant)},
    "to_the": to_the,
    "scaled": scaled,
    "straight_through": straight_through,
    "clipped": clipped,
    "ignored": ignored,
    "branched": branched,
    "of_a_tuple": of_a_tuple,
}


@dataclasses.dataclass(frozen=True, repr=False)
class MaskedProgram:
    """A function of vectors; `repr` is its source.

    Attributes:
        source: the lines that define `f`.
        args: its arguments, all of which are differentiated.
    """

    source: str
    args: tuple[jax.Array, ...]

    @property
    def function(self) -> Any:
        namespace = dict(NAMESPACE)
        exec(compile(self.source, "<program>", "exec"), namespace)
        return namespace["f"]

    @property
    def of_rows(self) -> bool:
        """Whether the Jacobian is defined in reverse order only."""
        return any(rule.split("(")[0] + "(" in self.source for rule in _OF_ROWS)

    @property
    def has_forward_mode(self) -> bool:
        """Whether `jax.jacfwd` can differentiate it."""
        reverse = ("scaled(", "straight_through(", "of_a_tuple(")
        return not self.of_rows and not any(name in self.source for name in reverse)

    @property
    def has_operator(self) -> bool:
        """Whether a part is applied as an operator, in one direction only."""
        return bool(re.search(r"lax\.(scan|map|fori_loop|cond\(\w+\[0\])|cumsum", self.source))

    def __repr__(self) -> str:
        return f"\n{self.source}args = {[x.tolist() for x in self.args]}\n"

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        printer.text(repr(self))


def _statement(choices: Choices, names: list[str], masks: list[str], rules: tuple[str, ...]) -> str:
    """The right side of a line."""
    select = choices.select
    x, y = select([*names[-2:], *names, names[-1]]), select(names)
    kinds = ("singular", "before", "smooth", "singular", "after", "control")
    kind = select((*kinds, "rule", "rule") if rules else kinds)
    m = select([*masks, select(_MASKS)]) if masks else select(_MASKS)
    m = m.format(x=x, y=y)
    if kind == "before":
        return select(_BEFORE).format(m=m, x=x, y=y)
    if kind == "after":
        return f"jnp.where({m}, {select(_SINGULAR).format(x=x, y=y)}, {select(('0.0', y, x))})"
    if kind == "rule":
        return select(rules).format(x=x, y=y)
    if kind == "control":
        one, two = select(_BODIES), select(_BODIES)
        form = select(
            (
                "jax.vmap(lambda a: lax.cond(a > 0, lambda a: {one}, lambda a: {two}, a))({x})",
                "lax.scan(lambda c, a: (jnp.where(a > 0, c + {one}, c), c * a), {y}[0], {x})[1]",
                "lax.scan(lambda c, s: (jnp.where(s[1], c + (lambda a: {one})(s[0]), c), c), "
                "1.0, ({x}, {m}))[1]",
                "lax.cond({x}[0] > 0, lambda a: {one}, lambda a: {two}, {x})",
                "lax.map(lambda a: {one}, {x})",
                "lax.fori_loop(0, 2, lambda i, a: jnp.where({m}, {one}, a), {x})",
                "jax.jit(lambda a: {one})({x})",
                "jax.checkpoint(lambda a: jnp.where({m}, {one}, {two}))({x})",
            )
        )
        return form.format(one=one, two=two, x=x, y=y, m=m)
    return select(_SINGULAR if kind == "singular" else _SMOOTH).format(x=x, y=y)


@st.composite
def masked_programs(draw: Any, with_rules: bool = True) -> MaskedProgram:
    """Draws a program of two to seven statements, perhaps with custom rules."""
    choices = Choices(draw(st.binary(min_size=12, max_size=12)))
    numbers = (0.0, 0.25, 1.5, -2.0, 1.0, 0.0, 3.0, 1e5)
    names = ["x", "y"][: choices.select((1, 2))]
    args = tuple(jnp.array([choices.select(numbers) for _ in range(SIZE)]) for _ in names)
    parameters = ", ".join(names)
    rules = _RULES + choices.select(((), (), (), _OF_ROWS)) if with_rules else ()
    lines: list[str] = []
    masks: list[str] = []
    for entropy in draw(st.lists(st.binary(min_size=8, max_size=8), min_size=2, max_size=7)):
        choices = Choices(entropy)
        if choices.select((False, False, False, True)):
            mask = choices.select(_MASKS).format(x=choices.select(names), y=choices.select(names))
            lines.append(f"m{len(lines)} = {mask}")
            masks.append(lines[-1].split()[0])
        lines.append(f"v{len(lines)} = {_statement(choices, names, masks, rules)}")
        names.append(lines[-1].split()[0])
    last = names[-1]
    mask = choices.select(masks) if masks else f"{names[0]} > 0"
    result = choices.select((last, f"jnp.where({mask}, {last}, 0.0)", f"jnp.sum({last})"))
    body = "".join(f"    {line}\n" for line in [*lines, f"return {result}"])
    return MaskedProgram(f"def f({parameters}):\n{body}", args)
