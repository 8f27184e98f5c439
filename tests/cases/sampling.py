"""Random estimates against what they estimate, with fixed keys."""

import math

import jax
import jax.numpy as jnp
import numpy as np

from jax_cce import randomized

_RANDOM = np.random.default_rng(0)


def normal(*shape):
    """Random numbers, of variance one over the first size."""
    return jnp.asarray(_RANDOM.normal(size=shape) / math.sqrt(shape[0]))


def samples(fun, args, draws, transform=randomized.grad, **options):
    """Flattened estimates, shape (draws, numbers)."""
    estimate = transform(fun, **options)
    keys = jax.random.split(jax.random.key(7), draws)
    found = jax.jit(jax.vmap(lambda key: estimate(key, *args)))(keys)
    return np.concatenate([np.reshape(x, (draws, -1)) for x in jax.tree.leaves(found)], 1)


def check_unbiased(found, exact):
    """|z| < 4.5 for each entry, and Hotelling's T² within five of its standard deviations.

    Three standard errors of the whole have to be below 3 % of its norm. Returns the variance.
    """
    exact = np.concatenate([np.ravel(x) for x in jax.tree.leaves(exact)])
    draws, error = len(found), found.mean(0) - exact
    deviations = found.std(0, ddof=1) / math.sqrt(draws)
    scatters = deviations > 1e-12 * np.abs(exact).max()
    np.testing.assert_allclose(error[~scatters], 0, atol=1e-9 * np.abs(exact).max())
    assert scatters.any()
    assert 3 * np.linalg.norm(deviations) < 0.03 * np.linalg.norm(exact)
    z = error[scatters] / deviations[scatters]
    assert np.abs(z).max() < 4.5
    # Where entries depend on each other, in the directions that scatter.
    values, vectors = np.linalg.eigh(np.corrcoef(found[:, scatters].T).reshape(len(z), len(z)))
    kept = values > 1e-9 * values.max()
    size = int(kept.sum())
    square = float(np.sum((vectors.T @ z)[kept] ** 2 / values[kept]))
    assert abs(square - size) < 5 * math.sqrt(2 * size)
    return float(found.var(0, ddof=1).sum())
