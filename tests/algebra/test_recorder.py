"""The recorder against NumPy: sums of terms are composed and added as matrices are."""

import itertools
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cases.structures import (
    KINDS,
    NumericBlock,
    Shape,
    any_between,
    block_from,
    dense_between,
    matmul,
    pairs,
    shapes,
    with_coefficient,
)
from jax_cce.algebra import blocks, steps
from jax_cce.algebra.index_arrays import Table
from jax_cce.algebra.recorder import Recorder
from jax_cce.algebra.terms import Affine, Term

pytestmark = pytest.mark.one_version


class _Recorder:
    """A recorder with the coefficients that its slots will read."""

    def __init__(self, *, sparse: bool = False, run_time: bool = False) -> None:
        self.recorder = Recorder(sparse=sparse)
        self._run_time = run_time
        self._coefficients: list[Any] = []

    def _term(self, term: Term) -> Term:
        """The term, with its index arrays known at run time only where that is wanted."""
        if not self._run_time:
            return term
        known = [self.recorder.lookup(lookup, lookup.table, None) for lookup in term.lookups]
        return term._replace(lookups=tuple(known))

    def record(self, parts: Sequence[tuple[float, NumericBlock]]) -> blocks.Block:
        """The sum of scaled blocks, as the recorder holds it."""
        result: blocks.Block = ()
        for scale, block in parts:
            if block.term is None:
                continue
            term = self._term(block.term)
            if term.axes is None:
                piece = blocks.Piece(term, scale, None)
            else:
                piece = self.recorder.local(term, scale, len(self._coefficients), None)
                self._coefficients.append(jnp.asarray(block.coefficient))
            result = self.recorder.add(result, (piece,), block.out_shape, block.in_shape)
        return result

    def coefficient(self, site: int, key: Any, term: Term) -> Any:
        return self._coefficients[site]

    def index_array(self, site: Table, key: Any, number: int) -> Any:
        return jnp.asarray(site.values)

    def primals(self, site: Any) -> Any:
        raise AssertionError("no operator is applied")

    def run(self, block: blocks.Block, out_shape: Shape, in_shape: Shape) -> np.ndarray:
        shape = out_shape + in_shape
        if not block:
            return np.zeros(shape)
        (piece,) = self.recorder.densify(block, out_shape, in_shape)
        if piece.slot is None:
            return np.full(shape, piece.scale)
        slots = steps.run(
            steps.needed(self.recorder.steps, [piece.slot])[0],
            np.float64,
            sites=self,
        )
        return piece.scale * np.asarray(slots[piece.slot]).reshape(shape)


_SCALES = st.sampled_from([1.0, -1.0, 2.5])


def _sum(
    parts: Sequence[tuple[float, NumericBlock]], out_shape: Shape, in_shape: Shape
) -> np.ndarray:
    return sum((scale * b.matrix for scale, b in parts), np.zeros(out_shape + in_shape))


@st.composite
def _sums(draw: Any, out_shape: Shape, in_shape: Shape) -> list[tuple[float, NumericBlock]]:
    """Draws one to three scaled terms between two shapes, some of them on the same maps."""
    parts = []
    for _ in range(draw(st.integers(1, 3))):
        if parts and parts[-1][1].term is not None and draw(st.booleans()):
            block = with_coefficient(draw, parts[-1][1].term, out_shape, in_shape)
        else:
            between = draw(st.sampled_from((any_between, any_between, dense_between)))
            block = between(draw, out_shape, in_shape)
        parts.append((draw(_SCALES), block))
    return parts


@given(st.data(), shapes(2), shapes(2))
def test_the_recorder_adds(data, out_shape: Shape, in_shape: Shape):
    one, other = data.draw(_sums(out_shape, in_shape)), data.draw(_sums(out_shape, in_shape))
    recorder = _Recorder()
    total = recorder.recorder.add(recorder.record(one), recorder.record(other), out_shape, in_shape)
    expected = _sum(one + other, out_shape, in_shape)
    np.testing.assert_array_equal(recorder.run(total, out_shape, in_shape), expected)


@given(st.data(), shapes(2), shapes(2), shapes(2))
def test_the_recorder_composes_sums(data, out_shape: Shape, middle: Shape, in_shape: Shape):
    later, earlier = data.draw(_sums(out_shape, middle)), data.draw(_sums(middle, in_shape))
    recorder = _Recorder()
    product = recorder.recorder.compose(
        recorder.record(later), recorder.record(earlier), (out_shape, middle, in_shape)
    )
    expected = np.tensordot(
        _sum(later, out_shape, middle), _sum(earlier, middle, in_shape), axes=len(middle)
    )
    np.testing.assert_array_equal(recorder.run(product, out_shape, in_shape), expected)


def _reaching(block: NumericBlock, out_shape: Shape) -> NumericBlock:
    """The block with zeros below its rows and with leading axes for its output."""
    if block.term is None:
        return block._replace(out_shape=out_shape)
    leading = (Affine(0, ()),) * (len(out_shape) - len(block.out_shape))
    term = block.term._replace(out_map=leading + block.term.out_map)
    return block._replace(term=term, out_shape=out_shape)


def _check_product(later_kind: str, earlier_kind: str) -> None:
    @settings(max_examples=2)
    @given(st.data(), _SCALES, st.booleans(), st.booleans())
    def check(data, scale, sparse, run_time):
        later, earlier = data.draw(pairs(later_kind, earlier_kind))
        recorder = _Recorder(sparse=sparse, run_time=run_time)
        ends = later.out_shape, later.in_shape, earlier.in_shape
        product = recorder.recorder.compose(
            recorder.record([(scale, later)]), recorder.record([(1.0, earlier)]), ends
        )
        found = recorder.run(product, later.out_shape, earlier.in_shape)
        np.testing.assert_array_equal(found, scale * matmul(later, earlier))

    check()


def _check_sum(one_kind: str, other_kind: str) -> None:
    @settings(max_examples=2)
    @given(st.data(), _SCALES, st.booleans(), st.booleans(), shapes(2))
    def check(data, scale, sparse, run_time, in_shape):
        one = block_from(data.draw, one_kind, in_shape)
        other = block_from(data.draw, other_kind, in_shape)
        extents = itertools.zip_longest(one.out_shape[::-1], other.out_shape[::-1], fillvalue=1)
        out_shape = tuple(map(max, extents))[::-1]
        parts = [(scale, _reaching(one, out_shape)), (1.0, _reaching(other, out_shape))]
        recorder = _Recorder(sparse=sparse, run_time=run_time)
        found = recorder.run(recorder.record(parts), out_shape, in_shape)
        np.testing.assert_array_equal(found, _sum(parts, out_shape, in_shape))

    check()


@pytest.mark.parametrize("later_kind", KINDS)
def test_the_recorder_composes_and_adds_every_pair_of_kinds(later_kind: str):
    for earlier_kind in KINDS:
        _check_product(later_kind, earlier_kind)
        _check_sum(later_kind, earlier_kind)
