"""Neural networks: Jacobians by inputs and by parameters, energies and physics-informed losses."""

from __future__ import annotations

import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from benchmarks.programs.program import Family, Made, Program

Parameters = list[dict[str, Any]]


def _layers(draw: np.random.Generator, *widths: int) -> Parameters:
    """Weights and biases of dense layers, at the scale of an initialised network."""
    return [
        {"w": draw.normal(size=(m, n)) / np.sqrt(m), "b": 0.1 * draw.normal(size=n)}
        for m, n in itertools.pairwise(widths)
    ]


def _mlp(parameters: Parameters, x: jax.Array) -> jax.Array:
    *hidden, last = parameters
    for layer in hidden:
        x = jnp.tanh(jnp.dot(x, layer["w"]) + layer["b"])
    return jnp.dot(x, last["w"]) + last["b"]


def _of_input(*widths: int) -> Program:
    """A network's outputs by its input."""
    return Program(
        f"MLP by its input, {'-'.join(map(str, widths))}",
        "sensitivities of a dense network (JAX's tutorials; Jacobian regularisation)",
        lambda draw: (
            lambda x, parameters: _mlp(parameters, x),
            draw.normal(size=widths[0]),
            _layers(draw, *widths),
        ),
    )


def _of_parameters(rows: int, *widths: int) -> Program:
    """A network's outputs for several inputs by its parameters."""
    return Program(
        f"MLP by its parameters, {'-'.join(map(str, widths))}, {rows} inputs",
        "empirical neural tangent kernels (neural-tangents; NTK tutorials of functorch)",
        lambda draw: (
            lambda parameters, x: jax.vmap(_mlp, in_axes=(None, 0))(parameters, x),
            _layers(draw, *widths),
            draw.normal(size=(rows, widths[0])),
        ),
    )


def _energy(*widths: int) -> Program:
    """The scalar energy of a network by its input."""
    return Program(
        f"energy of an MLP, {'-'.join(map(str, widths))}",
        "energy-based models, potentials of machine-learned force fields, input-convex networks",
        lambda draw: (
            lambda x, parameters: jnp.sum(jax.nn.softplus(_mlp(parameters, x))),
            draw.normal(size=widths[0]),
            _layers(draw, *widths),
        ),
        derivative="hessian",
    )


def _softmax_regression(rows: int, features: int, classes: int) -> Program:
    """Losses by example: their Jacobian holds the gradient of each."""

    def losses(parameters: dict[str, jax.Array], x: jax.Array, y: jax.Array) -> jax.Array:
        logits = x @ parameters["w"] + parameters["b"]
        return -jnp.sum(jax.nn.one_hot(y, classes) * jax.nn.log_softmax(logits), axis=-1)

    def make(draw: np.random.Generator) -> Made:
        (parameters,) = _layers(draw, features, classes)
        return (
            losses,
            parameters,
            draw.normal(size=(rows, features)),
            draw.integers(classes, size=rows),
        )

    return Program(
        f"softmax regression, {rows} examples, {features} features, {classes} classes",
        "gradients of every example, as in differentially private learning (Opacus, optax.dpsgd)",
        make,
    )


def _convolutional(side: int, channels: int) -> Program:
    """Logits of a small convolutional network by its image."""

    def make(draw: np.random.Generator) -> Made:
        first = draw.normal(size=(channels, 1, 3, 3)) / 3
        second = draw.normal(size=(channels, channels, 3, 3)) / np.sqrt(9 * channels)
        dense = draw.normal(size=(channels, 4)) / np.sqrt(channels)

        def logits(image: jax.Array, kernels: tuple[jax.Array, ...]) -> jax.Array:
            first, second, dense = kernels
            x = image[None, None]
            x = jax.nn.gelu(lax.conv(x, first, (1, 1), "SAME"))
            x = lax.reduce_window(x, 0.0, lax.add, (1, 1, 2, 2), (1, 1, 2, 2), "VALID") / 4.0
            x = jax.nn.gelu(lax.conv(x, second, (2, 2), "SAME"))
            return x.mean(axis=(0, 2, 3)) @ dense

        return logits, draw.normal(size=(side, side)), (first, second, dense)

    return Program(
        f"convolutional network, {side} x {side} pixels, {channels} channels",
        "saliency maps of all classes at once (Simonyan et al. 2013)",
        make,
    )


def _attention(tokens: int, width: int, heads: int) -> Program:
    """A block of multi-head attention with a residual, by its tokens."""

    def attention(x: jax.Array, weights: dict[str, jax.Array]) -> jax.Array:
        query, key, value = (
            jnp.einsum("tw,whd->htd", x, weights[name]) for name in ("query", "key", "value")
        )
        scores = jnp.einsum("htd,hsd->hts", query, key) / np.sqrt(width // heads)
        scores = jnp.where(jnp.tril(jnp.ones((tokens, tokens), bool)), scores, -1e9)
        mixed = jnp.einsum("hts,hsd->thd", jax.nn.softmax(scores), value)
        return x + jnp.einsum("thd,hdw->tw", mixed, weights["out"])

    def make(draw: np.random.Generator) -> Made:
        shape = (width, heads, width // heads)
        weights = {n: draw.normal(size=shape) / np.sqrt(width) for n in ("query", "key", "value")}
        weights["out"] = draw.normal(size=(*shape[1:], width)) / np.sqrt(width)
        return attention, draw.normal(size=(tokens, width)), weights

    return Program(
        f"causal attention, {tokens} tokens of {width}, {heads} heads",
        "the einsum form of Flax's and Haiku's MultiHeadAttention",
        make,
    )


def _normed(width: int, hidden: int) -> Program:
    """A transformer's feed-forward block with layer normalisation."""

    def block(x: jax.Array, p: dict[str, jax.Array]) -> jax.Array:
        mean, variance = x.mean(), x.var()
        y = p["scale"] * (x - mean) * lax.rsqrt(variance + 1e-5) + p["shift"]
        return x + jax.nn.gelu(y @ p["up"]) @ p["down"]

    def make(draw: np.random.Generator) -> Made:
        parameters = {
            "scale": 1 + 0.1 * draw.normal(size=width),
            "shift": 0.1 * draw.normal(size=width),
            "up": draw.normal(size=(width, hidden)) / np.sqrt(width),
            "down": draw.normal(size=(hidden, width)) / np.sqrt(hidden),
        }
        return block, draw.normal(size=width), parameters

    return Program(
        f"layer norm and feed-forward, {width}-{hidden}",
        "the pre-norm block of GPT-2 and its kin",
        make,
    )


def _gru(width: int, inputs: int) -> Program:
    """A gated recurrent unit's next state by its state."""

    def cell(h: jax.Array, x: jax.Array, p: dict[str, jax.Array]) -> jax.Array:
        gates = x @ p["wi"] + p["b"]
        r, z, n = jnp.split(gates, 3)
        hr, hz, hn = jnp.split(h @ p["wh"], 3)
        reset, update = jax.nn.sigmoid(r + hr), jax.nn.sigmoid(z + hz)
        return (1 - update) * jnp.tanh(n + reset * hn) + update * h

    def make(draw: np.random.Generator) -> Made:
        parameters = {
            "wi": draw.normal(size=(inputs, 3 * width)) / np.sqrt(inputs),
            "wh": draw.normal(size=(width, 3 * width)) / np.sqrt(width),
            "b": 0.1 * draw.normal(size=3 * width),
        }
        return cell, np.tanh(draw.normal(size=width)), draw.normal(size=inputs), parameters

    return Program(
        f"GRU cell, {width} units",
        "Lyapunov exponents and fixed points of recurrent networks (Sussillo & Barak 2013)",
        make,
    )


def _recurrent(steps: int, width: int) -> Program:
    """Outputs of a recurrent network over a sequence by the sequence."""

    def make(draw: np.random.Generator) -> Made:
        wx, wh = draw.normal(size=(2, width, width)) / np.sqrt(width)

        def outputs(sequence: jax.Array) -> jax.Array:
            def step(h: jax.Array, x: jax.Array) -> tuple[jax.Array, jax.Array]:
                h = jnp.tanh(x @ jnp.asarray(wx) + h @ jnp.asarray(wh))
                return h, h[0]

            return lax.scan(step, jnp.zeros(width, sequence.dtype), sequence)[1]

        return outputs, draw.normal(size=(steps, width))

    return Program(
        f"recurrent network, {steps} steps of {width}",
        "temporal saliency of recurrent networks, by scan",
        make,
    )


def _residual(width: int, points: int) -> Program:
    """Burgers' residuals of a physics-informed network at many points by its parameters."""

    def solution(p: Parameters, t: jax.Array, x: jax.Array) -> jax.Array:
        return _mlp(p, jnp.stack([t, x]))[0]

    def residual(p: Parameters, t: jax.Array, x: jax.Array) -> jax.Array:
        u = solution(p, t, x)
        u_t, u_x = jax.grad(solution, argnums=(1, 2))(p, t, x)
        u_xx = jax.grad(jax.grad(solution, argnums=2), argnums=2)(p, t, x)
        return u_t + u * u_x - 0.01 / jnp.pi * u_xx

    def make(draw: np.random.Generator) -> Made:
        t, x = draw.uniform(0, 1, points), draw.uniform(-1, 1, points)
        return jax.vmap(residual, in_axes=(None, 0, 0)), _layers(draw, 2, width, width, 1), t, x

    return Program(
        f"Burgers PINN, width {width}, {points} points",
        "Gauss-Newton training of physics-informed networks (Raissi et al. 2019; jinns)",
        make,
    )


def _field(width: int) -> Program:
    """A network of space whose Hessian gives the Laplacian of a physics-informed loss."""
    return Program(
        f"Laplacian of a PINN, width {width}",
        "the trace of jax.hessian of the network in tutorials on physics-informed networks",
        lambda draw: (
            lambda x, parameters: _mlp(parameters, x)[0],
            draw.uniform(0.1, 1, size=3),
            _layers(draw, 3, width, width, 1),
        ),
        derivative="hessian",
    )


def _hamiltonian(pairs: int, width: int) -> Program:
    """The flow of a Hamiltonian network: its Jacobian holds the network's Hessian."""

    def flow(z: jax.Array, parameters: Parameters) -> jax.Array:
        dz = jax.grad(lambda z: _mlp(parameters, z)[0])(z)
        return jnp.concatenate([dz[pairs:], -dz[:pairs]])

    return Program(
        f"Hamiltonian network, {2 * pairs} unknowns, width {width}",
        "Greydanus et al. 2019",
        lambda draw: (flow, draw.normal(size=2 * pairs), _layers(draw, 2 * pairs, width, width, 1)),
    )


def _lagrangian(joints: int, width: int) -> Program:
    """The Lagrangian of a network by positions and velocities, with a positive kinetic part."""

    def lagrangian(state: tuple[jax.Array, jax.Array], parameters: Parameters) -> jax.Array:
        q, v = state
        features = jnp.concatenate([jnp.cos(q), jnp.sin(q), v])
        return _mlp(parameters, features)[0] + 0.5 * jnp.sum(v**2)

    return Program(
        f"Lagrangian network, {joints} joints, width {width}",
        "Cranmer et al. 2020: mass matrix and Coriolis terms from jax.hessian",
        lambda draw: (
            lagrangian,
            (draw.normal(size=joints), draw.normal(size=joints)),
            _layers(draw, 3 * joints, width, width, 1),
        ),
        derivative="hessian",
    )


def _deep_sets(elements: int, width: int) -> Program:
    """A permutation-invariant network by all elements of its set."""

    def make(draw: np.random.Generator) -> Made:
        inner, outer = _layers(draw, 3, width, width), _layers(draw, width, width, 4)

        def pooled(x: jax.Array, inner: Parameters, outer: Parameters) -> jax.Array:
            return _mlp(outer, jnp.mean(jax.vmap(lambda e: _mlp(inner, e))(x), axis=0))

        return pooled, draw.normal(size=(elements, 3)), inner, outer

    return Program(
        f"deep sets, {elements} elements, width {width}",
        "Zaheer et al. 2017",
        make,
    )


def _drawn(draw: np.random.Generator) -> Program:
    """One of them, of another size, for one or several inputs."""
    width = int(draw.integers(4, 65))
    programs = (
        _of_input(int(draw.integers(2, 64)), width, width, int(draw.integers(1, 32))),
        _of_parameters(int(draw.integers(1, 9)), int(draw.integers(2, 8)), width // 2, 3),
        _energy(int(draw.integers(2, 33)), width, width, 1),
        _softmax_regression(int(draw.integers(4, 65)), int(draw.integers(4, 33)), 5),
        _convolutional(2 * int(draw.integers(4, 11)), int(draw.integers(2, 9))),
        _attention(int(draw.integers(3, 13)), 4 * int(draw.integers(1, 9)), 2),
        _normed(width, 4 * width),
        _gru(width, int(draw.integers(2, 33))),
        _recurrent(int(draw.integers(3, 20)), int(draw.integers(4, 20))),
        _residual(int(draw.integers(4, 25)), int(draw.integers(4, 33))),
        _field(width),
        _hamiltonian(int(draw.integers(1, 7)), width),
        _lagrangian(int(draw.integers(1, 7)), width),
        _deep_sets(int(draw.integers(3, 33)), width // 2),
    )
    which = int(draw.integers(0, len(programs)))
    dtype = str(draw.choice(["float64", "float32"], p=[0.4, 0.6]))
    batch = int(2 ** draw.uniform(2, 5)) if draw.random() < 0.35 else None
    return programs[which].settings(batch=batch, dtype=dtype)


FAMILY = Family(
    "networks",
    (
        _of_input(64, 64, 64, 10),
        _of_input(8, 32, 32, 3).settings(batch=256, dtype="float32"),
        _of_parameters(4, 4, 32, 3),
        _of_parameters(1, 2, 16, 16, 1).settings(batch=32, dtype="float32"),
        _energy(16, 64, 64, 1),
        _energy(6, 32, 32, 1).settings(batch=128, dtype="float32"),
        _softmax_regression(32, 16, 5),
        _convolutional(14, 4),
        _attention(8, 16, 2),
        _attention(6, 8, 2).settings(batch=32, dtype="float32"),
        _normed(32, 128),
        _gru(32, 8),
        _gru(16, 4).settings(batch=128, dtype="float32"),
        _recurrent(12, 8),
        _residual(16, 16),
        _field(32),
        _field(20).settings(batch=512, dtype="float32"),
        _hamiltonian(2, 64),
        _hamiltonian(2, 32).settings(batch=256),
        _lagrangian(3, 32),
        _deep_sets(16, 24),
    ),
    _drawn,
)
