"""Functions of arrays: networks, attention, matrices, stencils."""

import functools
import itertools
from typing import Any

import jax.numpy as jnp
import numpy as np

from jax_cce_search.alphazero.families.draws import ACTIVATIONS, Drawn, between, coins, pick

__all__ = [
    "attention_small",
    "layers",
    "matrices",
    "stencil",
]


def _array(random: np.random.Generator, *shape: int) -> np.ndarray:
    return random.uniform(0.2, 1.0, shape) / shape[-1] ** 0.5


def _normalised(x: Any, centred: bool) -> Any:
    x = x - jnp.mean(x, axis=-1, keepdims=True) if centred else x
    return x / jnp.sqrt(jnp.mean(x**2, axis=-1, keepdims=True) + 0.01)


def _softmax(x: Any) -> Any:
    weights = jnp.exp(x)
    return weights / jnp.sum(weights, axis=-1, keepdims=True)


def layers(random: np.random.Generator) -> Drawn:
    """A small perceptron, for one example or a batch, perhaps with its loss."""
    depth, width = between(random, 1, 3), between(random, 2, 8)
    residual, biased, batched = coins(random, 3)
    widths = [width if residual else between(random, 2, 8) for _ in range(depth + 1)]
    batch = (between(random, 2, 6),) if batched else ()
    activation, norm = pick(random, ACTIVATIONS), pick(random, ("none", "centred", "scaled"))
    loss = pick(random, ("none", "square", "entropy"))
    target = _array(random, *batch, widths[-1])

    def network(x: Any, *weights: Any) -> Any:
        for w, b in zip(weights[::2], weights[1::2], strict=True):
            y = activation(x @ w + b if biased else x @ (w * b))
            y = x + y if residual else y
            x = _normalised(y, norm == "centred") if norm != "none" else y
        if loss == "none":
            return x
        if loss == "entropy":
            return -jnp.sum(target * jnp.log(_softmax(x)))
        return jnp.mean((x - target) ** 2)

    weights = ((_array(random, m, n), _array(random, n)) for m, n in itertools.pairwise(widths))
    return network, (_array(random, *batch, widths[0]), *itertools.chain(*weights))


def attention_small(random: np.random.Generator) -> Drawn:
    """One head of attention over a few tokens, perhaps masked, gated or with a residual."""
    tokens, width, inner = (between(random, 2, 6) for _ in range(3))
    masked, residual, gated, loss, linear = coins(random, 5)
    mask = np.where(np.tri(tokens, dtype=bool), 0.0, -5.0)

    def attention(x: Any, wq: Any, wk: Any, wv: Any, wo: Any, scale: Any) -> Any:
        y = _normalised(x, not gated) * scale if residual else x * scale
        queries, keys, values = y @ wq, y @ wk, y @ wv
        if linear:
            queries, keys = jnp.exp(queries), jnp.exp(keys)
            y = queries @ (keys.T @ values) / (queries @ jnp.sum(keys, axis=0))[:, None]
        else:
            scores = queries @ keys.T / inner**0.5
            y = _softmax(scores + mask if masked else scores) @ values
        y = (y * jnp.tanh(queries) if gated else y) @ wo
        y = x + y if residual else y
        return jnp.sum(y**2) if loss else y

    weights = (_array(random, width, inner) for _ in range(3))
    last = _array(random, inner, width), _array(random, width)
    return attention, (_array(random, tokens, width), *weights, *last)


def matrices(random: np.random.Generator) -> Drawn:
    """Products of small matrices: chains, covariances, iterations for inverses, quotients."""
    form, n = pick(random, ("chain", "covariance", "inverse", "quotient")), between(random, 2, 6)
    steps = between(random, 2, 4)
    outcome = pick(random, ("trace", "norm", "itself"))

    def finished(x: Any) -> Any:
        if outcome == "itself":
            return x
        return jnp.sum(x * jnp.eye(*x.shape)) if outcome == "trace" else jnp.sum(x**2)

    def chain(*factors: Any) -> Any:
        left = functools.reduce(lambda a, b: jnp.tanh(a @ b), factors)
        return finished(left), finished(factors[0] @ (factors[1] @ factors[1].T))

    def covariance(p: Any, f: Any, h: Any, q: Any) -> Any:
        for _ in range(steps):
            p = f @ p @ f.T + q
            cross = p @ h
            p = p - jnp.outer(cross, cross) / (h @ cross + 1)
        return finished(p)

    def inverse(a: Any, x: Any, b: Any) -> Any:
        for _ in range(steps):
            x = x @ (2 * jnp.eye(n) - a @ x)
        return x @ b, finished(x)

    def quotient(a: Any, b: Any, x: Any) -> Any:
        out = []
        for _ in range(steps):
            y, z = a @ x, b @ x
            out.append((x @ y) / (x @ z))
            x = y - out[-1] * z
        return *out, x

    def square() -> np.ndarray:
        return _array(random, n, n) / n

    if form == "chain":
        widths = [between(random, 2, 8) for _ in range(steps + 2)]
        return chain, tuple(_array(random, *pair) for pair in itertools.pairwise(widths))
    if form == "covariance":
        return covariance, (square(), square(), _array(random, n), square())
    if form == "inverse":
        return inverse, (np.eye(n) + square(), np.eye(n), _array(random, n))
    return quotient, (np.eye(n) + square(), np.eye(n) + square(), _array(random, n))


def stencil(random: np.random.Generator) -> Drawn:
    """Explicit steps of a partial differential equation on a short grid."""
    steps, points = between(random, 1, 3), between(random, 4, 8)
    law = pick(random, ("growth", "burgers", "wave", "patterns", "upwind"))
    closed, reduced = coins(random, 2)

    def moved(u: Any, by: int) -> Any:
        if closed:
            return jnp.roll(u, by)
        return jnp.concatenate([u[:1], u[:-1]] if by == 1 else [u[1:], u[-1:]])

    def step(u: Any, v: Any, a: Any, b: Any) -> tuple[Any, Any]:
        bend = moved(u, 1) - 2 * u + moved(u, -1)
        if law == "growth":
            return u + a * bend + b * v * u * (1 - u), v
        if law == "burgers":
            square = u**2
            return u + a * bend - b * (moved(square, -1) - moved(square, 1)), v
        if law == "wave":
            return u + a * v, v + b * (bend - jnp.sin(u))
        if law == "patterns":
            mixed = u * v**2
            curve = moved(v, 1) - 2 * v + moved(v, -1)
            return u + a * bend - mixed + b * (1 - u), v + a * curve / 2 + mixed - b * v
        speed = a * jnp.tanh(u)
        back, on = u - moved(u, 1), moved(u, -1) - u
        return u - jnp.maximum(speed, 0.0) * back - jnp.minimum(speed, 0.0) * on - b * v, v

    def evolved(u: Any, v: Any, a: Any, b: Any) -> Any:
        for _ in range(steps):
            u, v = step(u, v, a, b)
        return jnp.sum(u**2) if reduced else u

    return evolved, (_array(random, points), _array(random, points), 0.1, 0.05)
