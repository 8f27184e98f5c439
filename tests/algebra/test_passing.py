"""What passes a term, against its dense pattern."""

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from jax import numpy as jnp

from cases import structures
from jax_cce.algebra import passing
from jax_cce.algebra.coefficients import align

_KINDS = ("permuted", "dense", "gathered", "enumerated", "reshaped", "shared", "convolved")


def _symbols(term):
    return {-1 - k: (at.axes, jnp.asarray(at.table.values)) for k, at in enumerate(term.lookups)}


@st.composite
def _blocks(draw, kind):
    block = structures.block_from(draw, kind, draw(structures.shapes()))
    assume(block.term is not None)
    return block


def _entries(data, shape):
    size = int(np.prod(shape))
    bits = data.draw(st.lists(st.booleans(), min_size=size, max_size=size))
    return np.array(bits, bool).reshape(shape)


@pytest.mark.parametrize("kind", _KINDS)
@given(data=st.data())
def test_what_meets_a_set_of_entries(kind, data):
    block = data.draw(_blocks(kind))
    term, masked = block.term, block.term.axes is not None and data.draw(st.booleans())
    shape = term.coefficient_shape
    mask = _entries(data, shape) if masked else np.ones(shape, bool)
    coefficient = mask.astype(float)
    pattern = block._replace(coefficient=coefficient).matrix != 0
    rank, given_mask = len(block.out_shape), jnp.asarray(mask) if masked else None
    symbols = _symbols(term)

    source = _entries(data, block.in_shape)
    axes = tuple(range(rank, pattern.ndim))
    for entries, held in ((jnp.asarray(source), source), (None, np.ones_like(source))):
        found = passing.image(term, entries, block.out_shape, given_mask, symbols)
        np.testing.assert_array_equal(found, (pattern & held).any(axes))

    later = _entries(data, block.out_shape)
    spread = later.reshape(later.shape + (1,) * len(block.in_shape))
    found = passing.image(
        term, jnp.asarray(later), block.in_shape, given_mask, symbols, transposed=True
    )
    np.testing.assert_array_equal(found, (pattern & spread).any(tuple(range(rank))))


@pytest.mark.parametrize("kind", _KINDS)
@given(data=st.data())
def test_coefficients_off_two_sets_have_no_part(kind, data):
    block = data.draw(_blocks(kind))
    term = block.term
    out, inn = _entries(data, block.out_shape), _entries(data, block.in_shape)
    ends = [(jnp.asarray(out), term.out_map), (jnp.asarray(inn), term.in_map)]
    points = passing.passing(term, ends, term.axes or (), symbols=_symbols(term))
    assert points is not None
    keep = np.asarray(align(*points, term.axes or (), term.sizes))
    keep = np.broadcast_to(keep, term.coefficient_shape)
    kept = block._replace(coefficient=np.where(keep, block.coefficient, 0)).matrix
    held = out.reshape(out.shape + (1,) * inn.ndim) & inn
    np.testing.assert_array_equal(np.where(held, kept, 0), np.where(held, block.matrix, 0))
    # None is kept without need.
    alone = np.zeros_like(block.coefficient)
    for at in np.argwhere(keep):
        one = alone.copy()
        one[tuple(at)] = 1
        assert (block._replace(coefficient=one).matrix * held).any()


@pytest.mark.parametrize("kind", ["permuted", "dense", "reshaped", "shared"])
@given(data=st.data())
def test_what_is_not_mixed_meets_one_entry(kind, data):
    block = data.draw(_blocks(kind))
    pattern = block._replace(coefficient=np.ones_like(block.coefficient)).matrix != 0
    rank = len(block.out_shape)
    later, earlier = tuple(range(rank)), tuple(range(rank, pattern.ndim))
    if not passing.mixes(block.term):
        assert (pattern.sum(earlier) <= 1).all()
    if not passing.mixes(block.term, transposed=True):
        assert (pattern.sum(later) <= 1).all()
