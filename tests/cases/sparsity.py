"""The checks that the tests of the sparse formats share."""

from typing import Any

import chex
import jax.numpy as jnp
import numpy as np
from jax.experimental.sparse import BCOO

import jax_cce
from cases.agreement import assert_agree

# Entries that are zero in exact arithmetic come out as a few roundings at most.
_ROUNDING = 1e-12


def in_bounds(matrix: BCOO) -> np.ndarray:
    """The positions that a BCOO matrix stores, without padding, shape (entries, ndim)."""
    indices = np.asarray(matrix.indices)
    return indices[np.all((indices >= 0) & (indices < np.array(matrix.shape)), axis=1)]


def nonzeros(dense: Any) -> np.ndarray:
    """A mask of where a dense Jacobian is not zero, up to rounding."""
    dense = np.abs(np.asarray(dense))
    return dense > _ROUNDING * dense.max(initial=0.0)


def assert_values(found: Any, expected: Any) -> None:
    """Asserts that two arrays agree in shape, dtype and values, whatever their weak types."""
    assert_agree(jnp.asarray(np.asarray(found)), jnp.asarray(np.asarray(expected)))


def assert_bcoo(found: Any, expected: Any) -> None:
    """Asserts that `found` holds the dense array `expected` as `format="bcoo"` promises.

    Sorted, unique positions come first; padding, if any, is out of bounds and holds zeros.
    """
    assert isinstance(found, BCOO), type(found)
    assert (found.n_batch, found.n_dense) == (0, 0)
    assert found.shape == expected.shape
    chex.assert_shape(found.indices, (found.nse, len(found.shape)))
    assert found.indices_sorted
    assert found.unique_indices
    positions = in_bounds(found)
    stored = len(positions)
    np.testing.assert_array_equal(np.asarray(found.indices)[:stored], positions)
    flat = (
        np.ravel_multi_index(tuple(positions.T), found.shape) if found.shape else np.arange(stored)
    )
    assert np.all(np.diff(flat) > 0), "the positions are not sorted or not unique"
    data = np.asarray(found.data)
    np.testing.assert_array_equal(data[stored:], 0)
    dense = np.zeros(expected.size, data.dtype)
    dense[flat] = data[:stored]
    assert_values(dense.reshape(expected.shape), expected)


def assert_structured(found: Any, expected: Any) -> None:
    """Asserts that `found` is a StructuredJacobian of the dense array `expected`."""
    assert isinstance(found, jax_cce.StructuredJacobian), type(found)
    assert found.shape == found.out_shape + found.in_shape == expected.shape
    assert found.ndim == len(expected.shape)
    assert found.dtype == expected.dtype
    assert_values(found.todense(), expected)
    entries = found.to_bcoo()
    assert_bcoo(entries, expected)
    assert found.nnz == entries.nse
