"""The table of jumps: to which outcome a draw may jump, with which weight, and how it is replayed.

For a draw X with probabilities that move by ∂p, the derivative of E f(X) is E[w (f(Y) - f(X))] for
an outcome Y and a weight w = c ∂p. Either side will do, and any mixture of the two:

    draw                    right: jump, c               left: jump, c
    Bernoulli(p)            X = 0: +1, 1/(1-p)           X = 1: -1, -1/p
    Binomial(n, p)          +1, (n-X)/(1-p)              -1, -X/p
    Poisson(λ)              +1, 1                        -1, -X/λ
    Geometric(p), F = X-1   -1, F/(p(1-p))               +1, -(F+1)/p

A Bernoulli draw that mixes them by 1-p and p always flips, with c = ±1. For a categorical draw the
rows of ∂p are those of all outcomes: from X to each other outcome y with c = 1, so that the flow
from x to y is π_x ∂π_y, which adds up to ∂π as Σ ∂π = 0. For two outcomes this is the flip. By
inversion an outcome goes to its neighbour instead, with c = -1/π_X (right) or 1/π_X (left) of the
rows of cumulative sums. All these are linear in ∂p, and so serve all parameters together. For one
direction there is also the flow from losers to winners, which moves as little as possible: with
probability -dπ_X/π_X from an outcome that becomes rarer, to y in proportion to the gains dπ_y⁺.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jax_cce.stochastic.draws import Draw

__all__ = ["Jumps", "Side", "Sides", "by_direction", "jumps", "replayed", "rows", "side_of"]

Side = Literal["auto", "right", "left", "winners"]
Sides = Side | Mapping[str, Side]


class Jumps(NamedTuple):
    """Where each sample may jump.

    Attributes:
        outcomes: Y, of the shape of `rows`, in the dtype of the samples.
        coefficients: c, by which a row of ∂p is multiplied; 0 where there is no such jump.
    """

    outcomes: Any
    coefficients: Any


def side_of(draw: Draw, sides: Sides) -> Side:
    """The side on which a draw jumps."""
    side = sides if isinstance(sides, str) else sides.get(draw.kind, "auto")
    return "auto" if side == "winners" and draw.kind != "categorical" else side


def rows(draw: Draw, parameters: Sequence[Any], side: Side) -> Any:
    """The numbers whose derivatives weigh jumps, one for each possible jump.

    Of the shape of the samples; for a categorical draw with another axis, of outcomes.
    """
    if draw.kind == "categorical":
        probabilities = _probabilities(draw, parameters)
        is_inverted = side in ("right", "left")
        return jnp.cumsum(probabilities, axis=-1) if is_inverted else probabilities
    return _broadcast(draw, parameters)[-1]


def _broadcast(draw: Draw, parameters: Sequence[Any]) -> list[Any]:
    """Parameters in the shape of the samples."""

    def of_point(*parameters: Any) -> list[Any]:
        dtype = jnp.promote_types(jnp.result_type(parameters[-1]), jnp.float32)
        return [jnp.broadcast_to(jnp.asarray(x, dtype), draw.shape) for x in parameters]

    return draw.over_points(of_point, key=False)(*parameters)


def _probabilities(draw: Draw, parameters: Sequence[Any]) -> Any:
    """Of all outcomes of categorical draws, along the last axis."""

    def of_point(logits: Any) -> Any:
        logits = jnp.moveaxis(logits, draw.axis, -1)
        logits = jnp.asarray(logits, jnp.promote_types(logits.dtype, jnp.float32))
        return jnp.broadcast_to(jax.nn.softmax(logits), (*draw.shape, logits.shape[-1]))

    return draw.over_points(of_point, key=False)(*parameters)


def jumps(draw: Draw, parameters: Sequence[Any], samples: Any, side: Side) -> Jumps:
    """The jumps of samples, with coefficients of `rows`."""
    if draw.kind == "categorical":
        return _categorical(_probabilities(draw, parameters), samples, side)
    *_, p = parameters = _broadcast(draw, parameters)
    x = samples.astype(p.dtype)
    if draw.kind == "bernoulli":
        # A side that is never drawn from says nothing.
        right = jnp.where(samples, jnp.where(p < 1, 0, np.nan), 1 / (1 - p))
        left = jnp.where(samples, -1 / p, jnp.where(p > 0, 0, np.nan))
        both = jnp.where(samples, -1, 1).astype(p.dtype)
        return Jumps(~samples, {"right": right, "left": left, "auto": both}[side])
    if draw.kind == "binomial":
        # At either end of its range a draw is sure, and one of the sides says nothing.
        right, left, best = (parameters[0] - x) / (1 - p), -x / p, p <= 0.5
    elif draw.kind == "poisson":
        right, left, best = jnp.ones_like(x), -x / p, True
    else:
        right, left, best = (x - 1) / (p * (1 - p)), -x / p, False
    is_right = jnp.broadcast_to(best if side == "auto" else side == "right", p.shape)
    goes_up = ~is_right if draw.kind == "geometric" else is_right
    outcomes = samples + jnp.where(goes_up, 1, -1).astype(samples.dtype)
    return Jumps(outcomes, jnp.where(is_right, right, left))


def _categorical(probabilities: Any, samples: Any, side: Side) -> Jumps:
    count = probabilities.shape[-1]
    numbers = jnp.arange(count, dtype=samples.dtype)
    x = samples[..., None]
    at = jnp.broadcast_to(numbers, probabilities.shape)
    if side in ("auto", "winners"):
        return Jumps(at, (at != x).astype(probabilities.dtype))
    # What lies up to k moves by ∂C_k, and leaves k for the next outcome that there is.
    is_there = probabilities > 0
    own = jnp.take_along_axis(probabilities, x, axis=-1)
    axis = at.ndim - 1
    if side == "right":
        follow = lax.cummin(jnp.where(is_there, at, count), axis, reverse=True)
        follow = jnp.concatenate([follow[..., 1:], jnp.full_like(x, count)], axis=-1)
        return Jumps(follow, jnp.where((at == x) & (follow < count), -1 / own, 0))
    before = lax.cummax(jnp.where(is_there, at, -1), axis)
    return Jumps(before, jnp.where((at + 1 == x) & (before >= 0), 1 / own, 0))


def by_direction(draw: Draw, found: Jumps, samples: Any, at: Any, change: Any, side: Side) -> Any:
    """The weights of jumps along one direction.

    Args:
        draw: the draw.
        found: its jumps.
        samples: the samples.
        at: the rows.
        change: their tangents.
        side: the side.
    """
    if side != "winners":
        return found.coefficients * change
    x = samples[..., None]
    own, own_change = (jnp.take_along_axis(each, x, axis=-1) for each in (at, change))
    gains = jnp.maximum(change, 0)
    total = jnp.sum(gains, axis=-1, keepdims=True)
    share = gains / jnp.where(total > 0, total, 1)
    return jnp.where(own_change < 0, -own_change / own, 0) * share


def replayed(
    draw: Draw, key: Any, own: Any, samples: Any, parameters: Sequence[Any], others: Sequence[Any]
) -> Any:
    """What the samples become with other parameters, by a draw that has their law.

    Samplers that invert or compare with noise are coupled by their key. The others are replayed
    monotonely: further events or successes are drawn for more, some are taken away for less.

    Args:
        draw: the draw.
        key: for what is drawn here.
        own: samples from the other parameters, of the key of the draw.
        samples: the samples.
        parameters: what they were drawn from.
        others: the other parameters.
    """
    if draw.kind not in ("binomial", "poisson"):
        return own
    *n, p = _broadcast(draw, parameters)
    *m, q = _broadcast(draw, others)
    more, less, x = q > p, q < p, samples.astype(p.dtype)
    taken, given = jax.random.split(key)
    keep = jnp.where(less, q, 0) / jnp.where(less, p, 1)
    kept = _thinned(taken, x, keep, less, draw)
    if draw.kind == "poisson":
        rates = jnp.where(more, q - p, 0)
        added = jax.random.poisson(given, rates, draw.samples_shape).astype(x.dtype)
    else:
        gain = jnp.where(more, q - p, 0) / jnp.where(more, 1 - p, 1)
        added = _thinned(given, n[0] - x, gain, more, draw)
    result = jnp.where(less, kept, jnp.where(more, x + added, x)).astype(samples.dtype)
    # Trials that there are not in both worlds have nothing to be coupled with.
    return jnp.where(n[0] == m[0], result, own) if n else result


def _thinned(key: Any, counts: Any, p: Any, where: Any, draw: Draw) -> Any:
    """How many remain where each remains with probability p."""
    counts, p = jnp.where(where, counts, 1), jnp.where(where, p, 0.5)
    return jax.random.binomial(key, counts, p, draw.samples_shape, dtype=counts.dtype)
