"""JAX's own discrete draws, where a jaxpr shows them.

`jax.random.bernoulli`, `poisson` and `geometric` are calls of a jitted function, by whose name
they are found. Whether the call is the draw of which it has the name, and for how many points it is
mapped, is decided by comparing its program with what the sampler gives for the same types.
`binomial` and `categorical` leave no such trace.
"""

import itertools
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

from jax_cce import jax_internals
from jax_cce.caches import memoised
from jax_cce.stochastic.draws import PRIMITIVES, Draw

__all__ = ["with_draws"]

_NAMES = {f"_{kind}": kind for kind in ("bernoulli", "geometric", "poisson")}


def with_draws(jaxpr: Any) -> Any:
    """A jaxpr, open or closed, whose calls of JAX's samplers are draws, at any depth.

    Raises:
        NotImplementedError: for a call whose maps cannot be told.
    """
    body, _ = jax_internals.opened(jaxpr)
    equations = [_replaced(equation) for equation in body.eqns]
    if all(new is old for new, old in zip(equations, body.eqns, strict=True)):
        return jaxpr
    return jax_internals.with_equations(jaxpr, equations)


def _replaced(equation: Any) -> Any:
    kind = _NAMES.get(equation.params.get("name", ""))
    if kind is not None and jax_internals.INLINED.get(equation.primitive.name) == "jaxpr":
        draw = _draw_of_call(kind, equation)
        if draw is not None:
            return equation.replace(primitive=PRIMITIVES[kind], params={"draw": draw})
    params = {name: _with_draws_inside(value) for name, value in equation.params.items()}
    if all(params[name] is value for name, value in equation.params.items()):
        return equation
    return equation.replace(params=params)


def _with_draws_inside(value: Any) -> Any:
    if jax_internals.is_jaxpr(value):
        return with_draws(value)
    if type(value) is tuple and any(map(jax_internals.is_jaxpr, value)):
        found = tuple(map(_with_draws_inside, value))
        return value if all(a is b for a, b in zip(found, value, strict=True)) else found
    return value


def _draw_of_call(kind: str, equation: Any) -> Draw | None:
    """The draw that a call is; None where a user's function has the same name."""
    avals = [atom.aval for atom in equation.invars]
    (out,) = [var.aval for var in equation.outvars] if len(equation.outvars) == 1 else (None,)
    if out is None or len(avals) != 2 or not jax_internals.is_of_jax(equation.params["jaxpr"]):
        return None
    wanted = str(equation.params["jaxpr"])
    for draw in _candidates(kind, avals, out):
        if wanted == _program(draw, *map(jax_internals.abstract, avals)):
            return draw
    raise NotImplementedError(
        f"jax.random.{kind}{_place(equation)} is mapped in a way that "
        "cannot be told from its program, as where the points of jax.vmap share one key. Use "
        f"jax_cce.stochastic.{kind}, with a key for each point."
    )


def _place(equation: Any) -> str:
    line = jax_internals.source_line(equation)
    return f" at {line}" if line else ""


def _candidates(kind: str, avals: list[Any], out: Any) -> Iterator[Draw]:
    key, parameter = avals
    maps = len(key.shape)
    sizes, shape = out.shape[:maps], out.shape[maps:]
    if sizes != key.shape:
        return
    modes: list[tuple[Any, ...]] = [()]
    if kind == "bernoulli":
        modes = [(("mode", mode),) for mode in ("low", "high")]
    for options, over in itertools.product(modes, itertools.product((True, False), repeat=maps)):
        have = [size for size, is_over in zip(sizes, over, strict=True) if is_over]
        if list(parameter.shape[: len(have)]) == have:
            mapped = tuple((True, is_over) for is_over in over)
            yield Draw(kind, shape, np.dtype(out.dtype), options, sizes, mapped)


@memoised(256)
def _program(draw: Draw, key: Any, parameter: Any) -> str:
    """The program of JAX's sampler for a draw, or "" where it takes no such types."""

    def call(key: Any, parameter: Any) -> Any:
        return draw.sample(key, parameter)

    try:
        closed = jax.make_jaxpr(call)(key, parameter)
    except (TypeError, ValueError):
        return ""
    pruned = jax_internals.pruned(closed, [True])
    body, _ = jax_internals.opened(pruned)
    found = [e for e in body.eqns if e.params.get("name") == f"_{draw.kind}"]
    return str(found[0].params["jaxpr"]) if len(found) == 1 else ""
