"""Signals, images and sequences: Fourier and cosine transforms, sorts, sums and normalisation."""

from __future__ import annotations

import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from benchmarks.programs.program import Family, Made, Program, one_of


def _equaliser(n: int, bands: int) -> Program:
    """A signal filtered by a frequency response that is interpolated between bands."""

    def fun(gains: jax.Array, signal: jax.Array) -> jax.Array:
        at = jnp.linspace(0.0, bands - 1, n // 2 + 1)
        response = jnp.exp(jnp.interp(at, jnp.arange(bands), gains))
        return jnp.fft.irfft(response * jnp.fft.rfft(signal), n)

    return Program(
        f"equaliser of {bands} bands, {n} samples",
        "Differentiable audio processing, as in DDSP, by jnp.fft.rfft and irfft",
        lambda draw: (fun, 0.3 * draw.normal(size=bands), draw.normal(size=n)),
    )


def _spectrogram(frames: int, length: int) -> Program:
    """The logarithmic power spectrum of overlapping windows of a signal."""

    def fun(signal: jax.Array) -> jax.Array:
        starts = jnp.arange(frames) * (length // 2)
        windows = signal[starts[:, None] + jnp.arange(length)] * jnp.hanning(length)
        return jnp.log(jnp.abs(jnp.fft.rfft(windows)) ** 2 + 1e-3)

    return Program(
        f"log spectrogram, {frames} frames of {length}",
        "Features of speech by a gather of frames, a window and rfft",
        lambda draw: (fun, draw.normal(size=(frames + 1) * (length // 2))),
    )


def _echo(n: int, taps: int) -> Program:
    """The error of a filter's output against a recording."""

    def fun(kernel: jax.Array, signal: jax.Array, heard: jax.Array) -> jax.Array:
        return jnp.tanh(jnp.convolve(signal, kernel, mode="same")) - heard

    return Program(
        f"convolution with {taps} taps, {n} samples",
        "Identifying a channel with saturation by Gauss-Newton and jnp.convolve",
        lambda draw: (fun, draw.normal(size=taps) / taps, draw.normal(size=n), np.zeros(n)),
    )


def _features(n: int, channels: int) -> Program:
    """Pooled features of an image after two convolutions."""

    def make(draw: np.random.Generator) -> Made:
        def fun(image: jax.Array, kernels: Any) -> jax.Array:
            x = image[None, None]
            for kernel in kernels:
                x = jax.nn.gelu(lax.conv(x, kernel, (1, 1), "SAME"))
            return jnp.mean(x, axis=(0, 2, 3))

        shapes = ((channels, 1, 3, 3), (channels, channels, 3, 3))
        kernels = [draw.normal(size=s) / np.sqrt(np.prod(s[1:])) for s in shapes]
        return fun, draw.normal(size=(n, n)), kernels

    return Program(
        f"image of {n} x {n} to {channels} features",
        "Saliency of a small convolutional network by lax.conv",
        make,
    )


def _cosines(n: int) -> np.ndarray:
    """The orthonormal matrix of the discrete cosine transform."""
    at = np.arange(n)
    basis = np.cos(np.pi * (at[None] + 0.5) * at[:, None] / n) * np.sqrt(2 / n)
    basis[0] /= np.sqrt(2)
    return basis


def _compressed(n: int) -> Program:
    """A block of an image after softly rounded transform coding."""

    def fun(block: jax.Array, basis: jax.Array, steps: jax.Array) -> jax.Array:
        scaled = basis @ block @ basis.T / steps
        rounded = scaled - jnp.sin(2 * jnp.pi * scaled) / (2 * jnp.pi)
        return basis.T @ (rounded * steps) @ basis

    at = np.arange(n)
    return Program(
        f"DCT coding of a block of {n} x {n}",
        "Differentiable JPEG (after Shin and Song 2017): D @ X @ D.T, a sine for the rounding",
        lambda draw: (fun, draw.normal(size=(n, n)), _cosines(n), 0.2 + 0.05 * (at + at[:, None])),
    )


def _shortfall(scenarios: int, assets: int) -> Program:
    """The mean of the largest twentieth of losses."""

    def fun(weights: jax.Array, returns: jax.Array) -> jax.Array:
        losses = jnp.sort(-returns @ jax.nn.softmax(weights))
        return jnp.mean(losses[-(scenarios // 20) :])

    return Program(
        f"expected shortfall, {scenarios} scenarios of {assets} assets",
        "Portfolio risk by jnp.sort over simulated losses",
        lambda draw: (
            fun,
            0.3 * draw.normal(size=assets),
            0.02 * draw.normal(size=(scenarios, assets)),
        ),
    )


def _quantiles(n: int) -> Program:
    """Sorted samples against the quantiles of a target, on several directions."""

    def fun(points: jax.Array, directions: jax.Array, quantiles: jax.Array) -> jax.Array:
        return jnp.mean((jnp.sort(points @ directions, axis=0) - quantiles) ** 2, axis=0)

    return Program(
        f"sliced Wasserstein distances, {n} points",
        "Sorted projections, one distance a direction (Bonneel et al. 2015)",
        lambda draw: (
            fun,
            draw.normal(size=(n, 3)),
            draw.normal(size=(3, 8)),
            np.sort(draw.normal(size=(n, 8)), axis=0),
        ),
    )


def _stick_breaking(n: int) -> Program:
    """The simplex by breaking a stick, jnp.cumprod of what remains."""

    def fun(x: jax.Array) -> jax.Array:
        z = jax.nn.sigmoid(x - jnp.log(jnp.arange(n, 0, -1)))
        rest = jnp.cumprod(1 - z)
        return jnp.concatenate([z, jnp.ones(1)]) * jnp.concatenate([jnp.ones(1), rest])

    return Program(
        f"stick breaking to {n + 1} shares",
        "The simplex bijector of probabilistic programming (numpyro, TensorFlow Probability)",
        lambda draw: (fun, draw.normal(size=n)),
    )


def _survival(periods: int, covariates: int) -> Program:
    """The expected lifetime of everybody under a discrete hazard."""

    def fun(x: dict[str, jax.Array], rows: jax.Array) -> jax.Array:
        hazards = jax.nn.sigmoid(x["baseline"] + (rows @ x["effects"])[:, None])
        return jnp.sum(jnp.cumprod(1 - hazards, axis=1), axis=1)

    return Program(
        f"lifetimes over {periods} periods, {covariates} covariates",
        "Discrete survival models by jnp.cumprod, for the delta method",
        lambda draw: (
            fun,
            {
                "baseline": np.linspace(-3, -1, periods),
                "effects": 0.3 * draw.normal(size=covariates),
            },
            draw.normal(size=(20, covariates)),
        ),
    )


def _partial_likelihood(people: int, covariates: int) -> Program:
    """Cox's partial likelihood, people sorted by falling time."""

    def fun(effects: jax.Array, rows: jax.Array, died: jax.Array) -> jax.Array:
        risk = rows @ effects
        return jnp.sum(died * (risk - lax.cumlogsumexp(risk)))

    return Program(
        f"Cox partial likelihood, {people} people and {covariates} covariates",
        "Survival regression by Newton's method with lax.cumlogsumexp",
        lambda draw: (
            fun,
            0.3 * draw.normal(size=covariates),
            draw.normal(size=(people, covariates)),
            (draw.random(people) < 0.6).astype(float),
        ),
        derivative="hessian",
    )


def _cross_entropy(n: int) -> Program:
    def fun(logits: jax.Array, labels: jax.Array) -> jax.Array:
        return -jnp.sum(labels * jax.nn.log_softmax(logits))

    return Program(
        f"softmax cross-entropy of {n} classes",
        "The curvature of the last layer in Gauss-Newton and Laplace approximations",
        lambda draw: (fun, draw.normal(size=n), draw.dirichlet(np.ones(n))),
        derivative="hessian",
    )


def _layer_norm(n: int) -> Program:
    """A normalised layer before a softmax."""

    def fun(x: jax.Array, scale: jax.Array, shift: jax.Array) -> jax.Array:
        mean = jnp.mean(x, axis=-1, keepdims=True)
        variance = jnp.var(x, axis=-1, keepdims=True)
        return jax.nn.softmax((x - mean) * lax.rsqrt(variance + 1e-5) * scale + shift)

    return Program(
        f"layer norm and softmax of {n}",
        "Written out as in Flax and Haiku; Lipschitz bounds of transformer layers",
        lambda draw: (fun, draw.normal(size=n), draw.normal(1, 0.1, size=n), np.zeros(n)),
    )


def _positional(frequencies: int, hidden: int) -> Program:
    """A scalar field of space by a sinusoidal encoding and a network."""

    def make(draw: np.random.Generator) -> Made:
        def fun(point: jax.Array, layers: Any) -> jax.Array:
            angles = point[:, None] * 2.0 ** jnp.arange(frequencies)
            x = jnp.concatenate([point, jnp.sin(angles).ravel(), jnp.cos(angles).ravel()])
            for w in layers[:-1]:
                x = jax.nn.softplus(w @ x)
            return (layers[-1] @ x)[0]

        widths = (3 + 6 * frequencies, hidden, hidden, 1)
        layers = [draw.normal(size=(m, n)) / np.sqrt(n) for n, m in itertools.pairwise(widths)]
        return fun, np.array([0.3, -0.2, 0.5]), layers

    return Program(
        f"neural field, {frequencies} frequencies and {hidden} hidden",
        "Normals and curvature of signed distances with NeRF's positional encoding",
        make,
    )


def _warped(n: int) -> Program:
    """An image resampled bilinearly under an affine map, minus a template."""

    def fun(p: jax.Array, image: jax.Array, template: jax.Array) -> jax.Array:
        at = jnp.stack(jnp.meshgrid(jnp.arange(n), jnp.arange(n), indexing="ij")) - n / 2
        matrix = jnp.eye(2) + p[:4].reshape(2, 2)
        moved = jnp.tensordot(matrix, at, 1) + p[4:, None, None] + n / 2
        warped = jax.scipy.ndimage.map_coordinates(image, list(moved), order=1, mode="nearest")
        return (warped - template).ravel()

    return Program(
        f"affine registration, {n} x {n} pixels",
        "Lucas-Kanade alignment through jax.scipy.ndimage.map_coordinates",
        lambda draw: (
            fun,
            np.array([0.05, -0.03, 0.04, 0.02, 0.3, -0.4]),
            draw.normal(size=(n, n)),
            np.zeros((n, n)),
        ),
    )


def _calibration(knots: int, n: int) -> Program:
    """Residuals of a curve that is interpolated between knots whose heights add up."""

    def fun(steps: jax.Array, at: jax.Array, heights: jax.Array) -> jax.Array:
        curve = jnp.cumsum(jax.nn.softplus(steps))
        return jnp.interp(at, jnp.linspace(0.0, 1.0, knots), curve) - heights

    return Program(
        f"monotone calibration, {knots} knots and {n} readings",
        "A rising curve by jnp.cumsum and jnp.interp under least squares",
        lambda draw: (fun, draw.normal(size=knots), draw.random(n), 3 * draw.random(n)),
    )


def _draw(draw: np.random.Generator) -> Program:
    def size(low: int, high: int) -> int:
        return int(draw.integers(low, high + 1))

    # A program of a size, and the largest batch that is usual for it.
    programs = (
        lambda: (_equaliser(2 * size(16, 128), size(4, 16)), 16),
        lambda: (_spectrogram(size(3, 12), 2 * size(4, 16)), 16),
        lambda: (_echo(size(32, 200), size(3, 20)), 16),
        lambda: (_features(size(6, 16), size(2, 8)), 8),
        lambda: (_compressed(size(4, 10)), 64),
        lambda: (_shortfall(20 * size(5, 50), size(3, 20)), 16),
        lambda: (_quantiles(size(10, 100)), 16),
        lambda: (_stick_breaking(size(3, 60)), 256),
        lambda: (_survival(size(5, 40), size(2, 6)), 32),
        lambda: (_partial_likelihood(size(20, 200), size(2, 8)), 32),
        lambda: (_cross_entropy(size(3, 100)), 128),
        lambda: (_layer_norm(size(8, 128)), 32),
        lambda: (_positional(size(2, 8), size(8, 64)), 64),
        lambda: (_warped(size(6, 24)), 32),
        lambda: (_calibration(size(4, 30), size(20, 200)), 32),
    )
    return one_of(programs, draw)


FAMILY = Family(
    "transforms",
    (
        _equaliser(128, 8),
        _spectrogram(6, 16).settings(dtype="float32"),
        _echo(100, 9),
        _features(12, 4).settings(dtype="float32"),
        _compressed(8),
        _compressed(8).settings(batch=32, dtype="float32"),
        _shortfall(500, 10),
        _quantiles(50),
        _stick_breaking(20),
        _stick_breaking(5).settings(batch=1024, dtype="float32"),
        _survival(24, 4),
        _survival(12, 3).settings(batch=64),
        _partial_likelihood(100, 5),
        _partial_likelihood(50, 3).settings(batch=64),
        _cross_entropy(50),
        _cross_entropy(10).settings(batch=512, dtype="float32"),
        _layer_norm(64),
        _layer_norm(32).settings(batch=64, dtype="float32"),
        _positional(6, 32),
        _positional(6, 32).settings(derivative="hessian", dtype="float32"),
        _positional(4, 16).settings(derivative="hessian", batch=128),
        _warped(16),
        _warped(8).settings(batch=64),
        _calibration(12, 100),
    ),
    _draw,
)
